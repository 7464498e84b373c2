"""TODO."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..core.labels import UNASSIGNED
from ..data import parents as data_parents
from ..data.plan import Plan
from ..model.calibration import Calibration
from ..model.history import StageResult
from ..model.state import AlignmentMode
from .target import LEVELS, PARENT_ONLY, REASONS, TargetResult, _fallback_numbers

if TYPE_CHECKING:
    import anndata as ad


# The columns of the predictions table before the probabilities; those of options only where they are asked for.
BEFORE_PROBABILITIES = (
    "raw_predictions", "predictions", "level", "reason", "cluster", "cluster_majority", "cluster_share",
)  # fmt: skip

MODE_WORDS = {AlignmentMode.UNALIGNED: "without alignment", AlignmentMode.ALIGNED: "after alignment"}


def reasons_table(result: TargetResult) -> pd.DataFrame:
    """How many cells were kept or rejected, and why."""
    reasons = [reason for reason in REASONS if reason != PARENT_ONLY or result.parents]
    counts = pd.Series(result.reasons).value_counts().reindex(reasons, fill_value=0)
    return counts.rename_axis("reason").to_frame("cells")


def per_type(result: TargetResult, plan: Plan, on_target: list[StageResult]) -> pd.DataFrame:
    """A row for each cell type, in the order of `composition`: `annotated`, [`parent only`], `Unassigned` (of the cells most
    like it), `threshold`, `median confidence`, `learned from` (cells) and, where labels are known, `labelled` cells of the
    type and over all labelled cells, before rejection, `precision %`, `recall %`, `AP`; then the types that only labels have.
    """
    table = composition(result, plan)
    thresholds = pd.Series(result.final.thresholds, index=result.final.classes)
    table.insert(int(table.columns.get_loc("median confidence")), "threshold", thresholds)
    table = table.rename(columns={"rejected": UNASSIGNED, "training cells": "learned from"})
    if on_target:
        of_labels = pd.DataFrame.from_dict(on_target[-1].per_class, orient="index")
        known = pd.DataFrame(
            {
                "labelled": of_labels["cells"],
                "precision %": (100 * of_labels["precision"].astype(float)).round(1),
                "recall %": (100 * of_labels["recall"].astype(float)).round(1),
                "AP": of_labels["average_precision"].round(3),
            }
        )
        others = [name for name in known.index if name not in table.index]
        table = table.join(known).reindex([*table.index, *others])
        table.loc[others, list(known.columns)] = known.loc[others]
    return table.rename_axis("cell type")


def cells_to_see(points: pd.DataFrame, result: TargetResult) -> pd.DataFrame:
    """The points of `embedding.latent_points`, with what is known of each: `label` (in the file, None where there is none) and,
    of the target's cells at the stage, `raw`, `confidence` and `reason` (None, NaN of annotated ones)."""
    seen = []
    for stage, here in points.groupby("stage", sort=False):
        predictions = result.stages[str(stage)]
        is_last = predictions is result.final
        cell = here["cell"].to_numpy()
        of_target = cell >= 0
        names, reasons = (result.names, result.reasons) if is_last else (predictions.names, predictions.reasons)
        labels = result.labels if result.labels is not None else np.full(len(result.cells), None, dtype=object)

        def told(values: np.ndarray, otherwise: Any, of: np.ndarray = of_target, at: np.ndarray = cell) -> Any:
            return np.where(of, values[np.maximum(at, 0)], otherwise)

        seen.append(
            here.assign(
                name=told(result.cells, None),
                label=told(labels, here["cell type"].to_numpy(dtype=object)),
                raw=told(predictions.raw, None),
                confidence=told(predictions.confidence, np.nan),
                reason=told(reasons, None),
                **{"cell type": told(names, here["cell type"].to_numpy(dtype=object))},
            )
        )
    return pd.concat(seen, ignore_index=True)


def to_tell(seen: pd.DataFrame) -> pd.DataFrame:
    """What the report tells of the cell under the pointer, from `cells_to_see`: `panel`, `x`, `y` and columns by the names
    that a reader sees."""
    of_target = seen["cell"] >= 0
    return pd.DataFrame(
        {
            "panel": pd.factorize(seen["stage"])[0],
            "x": seen["x"],
            "y": seen["y"],
            "cell": seen["name"],
            "batch": seen["batch"],
            "prediction": seen["cell type"].where(of_target, None),
            "most probable type": seen["raw"],
            "probability": seen["confidence"].astype(float).round(2),
            "reason": seen["reason"],
            "label in the file": seen["label"],
        }
    )


def predictions_table(result: TargetResult) -> pd.DataFrame:
    """One row per target cell, in the input's order, index `cellname`.

    Columns `raw_predictions`, `predictions`, [`level` with parents], `reason`, [`cluster`, `cluster_majority`,
    `cluster_share` with clusters], one probability per cell type (`p(TYPE)` where a type is named like any of these
    columns), and `labels` where any are known.
    """
    final = result.final
    table = pd.DataFrame(
        {"raw_predictions": final.raw, "predictions": result.names}, index=pd.Index(result.cells, name="cellname")
    )
    if result.parents:
        table["level"] = result.level
    table["reason"] = result.reasons
    if result.clusters is not None:
        clusters = result.clusters
        table["cluster"], table["cluster_majority"], table["cluster_share"] = (
            clusters.cluster, clusters.majority, clusters.share,
        )  # fmt: skip
    reserved = {"cellname", *BEFORE_PROBABILITIES, "labels"}
    taken = reserved | set(final.classes)
    for k, name in enumerate(final.classes):
        column = name
        while column in taken - {name} or column in reserved or column in table.columns:
            column = f"p({column})"
        table[column] = final.probabilities[:, k]
    if result.labels is not None:
        table["labels"] = result.labels
    return table


def preview(result: TargetResult, n: int = 5) -> pd.DataFrame:
    """The first cells' predictions in short: the columns before the probabilities, `confidence`, [`labels`]."""
    table = predictions_table(result)
    short = table.iloc[:, : _n_before(table)].assign(confidence=result.final.confidence)
    return (short.assign(labels=table["labels"]) if result.labels is not None else short).head(n)


def annotate_obs(adata: ad.AnnData, table: pd.DataFrame, classes: list[str], codes: np.ndarray) -> None:
    """Adds `obs` `jind_prediction`, `jind_raw_prediction`, `jind_reason`, [`jind_level`], [`jind_cluster`,
    `jind_cluster_majority`] (categories), `jind_confidence`, [`jind_cluster_share`] (float32), and `obsm['X_jind']`
    (float32, n x size of a code), from a table of `predictions_table`, row by row; what an earlier annotation left is replaced."""
    parents = sorted(set(table["predictions"]) - {*classes, UNASSIGNED})
    answers = [*classes, *parents, UNASSIGNED]
    for name in ("level", "cluster", "cluster_majority", "cluster_share"):
        adata.obs.drop(columns=f"jind_{name}", errors="ignore", inplace=True)
    adata.obs["jind_prediction"] = pd.Categorical(table["predictions"], categories=answers)
    adata.obs["jind_raw_prediction"] = pd.Categorical(table["raw_predictions"], categories=classes)
    adata.obs["jind_confidence"] = probabilities_of(table, classes).max(axis=1).astype(np.float32)
    before = table.columns[: _n_before(table)]
    reasons = [reason for reason in REASONS if reason != PARENT_ONLY or "level" in before]
    adata.obs["jind_reason"] = pd.Categorical(table["reason"], categories=reasons)
    if "level" in before:
        adata.obs["jind_level"] = pd.Categorical(table["level"], categories=list(LEVELS))
    if "cluster" in before:
        adata.obs["jind_cluster"] = pd.Categorical(table["cluster"], categories=_by_number(table["cluster"]))
        adata.obs["jind_cluster_majority"] = pd.Categorical(table["cluster_majority"], categories=answers)
        adata.obs["jind_cluster_share"] = table["cluster_share"].to_numpy(dtype=np.float32)
    adata.obsm["X_jind"] = codes.astype(np.float32)


def probabilities_of(table: pd.DataFrame, classes: list[str]) -> np.ndarray:
    """The probability columns (n_cells, K) of a table of `predictions_table`."""
    first = _n_before(table)
    return table.iloc[:, first : first + len(classes)].to_numpy()


def _n_before(table: pd.DataFrame) -> int:
    """How many columns of a predictions table are before the probabilities: no type's column is named like them."""
    return int(table.columns.isin(BEFORE_PROBABILITIES).sum())


def _by_number(names: pd.Series) -> list[str]:
    return sorted(names.unique(), key=int)


def fallback_table(result: TargetResult) -> pd.DataFrame:
    """One row for each parent of several types: its types, the probability asked for, and `cells` that fell back to it,
    how many of them are `labelled` and how many `right`."""
    if not result.parents:
        return pd.DataFrame({"note": ["PARENTS is not set: no cell falls back to a coarser type."]})
    parent = data_parents.of_types(result.final.classes, result.parents)
    rows = {}
    for name in sorted({name for name in parent if parent.count(name) > 1}):
        numbers = _fallback_numbers(result, result.fallback == name)
        types = [cell_type for cell_type, of in zip(result.final.classes, parent, strict=True) if of == name]
        rows[name] = {"cell types": ", ".join(types), "probability asked for": result.parent_thresholds[name]} | numbers
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("parent").round(3)


def composition(result: TargetResult, plan: Plan) -> pd.DataFrame:
    """One row per cell type: `annotated`, [`parent only` with parents], `rejected` (most probable type, but Unassigned),
    `median confidence`, `training cells` (all annotated batches together); most annotated first."""
    final = result.final
    raw, fell_back = pd.Series(final.raw), result.fell_back
    rejected = final.rejected & ~fell_back
    trained = pd.DataFrame(plan.cells).sum(axis=1) if plan.cells else pd.Series(dtype=float)
    rows = {
        name: {
            "annotated": int(((raw == name) & ~final.rejected).sum()),
            **({"parent only": int(((raw == name) & fell_back).sum())} if result.parents else {}),
            "rejected": int(((raw == name) & rejected).sum()),
            "median confidence": float(np.median(final.confidence[raw == name])) if (raw == name).any() else None,
            "training cells": int(trained.get(name, 0)) if plan.cells else None,
        }
        for name in final.classes
    }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("cell type")
    return table.sort_values("annotated", ascending=False, kind="stable")


def left_out_tables(calibrations: Mapping[str, Calibration]) -> pd.DataFrame:
    """`left_out_table` of each way to annotate, one below the other."""
    if not calibrations:
        return pd.DataFrame(
            {"note": ["METHOD reference leaves no batch out; its probabilities are the network's own."]}
        )
    if next(iter(calibrations.values())).n_annotated == 1:
        words = {
            AlignmentMode.UNALIGNED: "held-out cells of the only annotated batch"
        }  # of which all ways say the same
    else:
        words = MODE_WORDS
    tables = [
        left_out_table(calibrations[way]).reset_index().assign(annotated=what)
        for way, what in words.items()
        if way in calibrations
    ]
    return pd.concat(tables).set_index(["annotated", "left-out batch"])


def left_out_table(calibration: Calibration) -> pd.DataFrame:
    """How the method did on each left-out batch, shares as percent."""
    names = {
        "cells": "cells", "raw_accuracy": "right before rejection %", "assigned": "assigned %",
        "error_among_assigned": "wrong among assigned %", "unlike_reference": "unlike reference %", "AURC": "AURC",
        "network_calibration_error": "calibration error, network's %", "calibration_error": "calibration error, calibrated %",
    }  # fmt: skip
    table = pd.DataFrame(calibration.batches).set_index("batch").rename_axis("left-out batch")[list(names)]
    table = table.rename(columns=names).astype(float)
    shares = [name for name in table.columns if name.endswith("%")]
    table[shares] = (100 * table[shares]).round(1)
    table["AURC"] = table["AURC"].round(3)
    table["cells"] = table["cells"].astype(int)
    return table
