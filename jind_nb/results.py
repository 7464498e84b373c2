"""What a run says about the target: the predictions table, the annotated file, the metrics, the summary in words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from xlsxwriter import Workbook

from . import levels
from .alignment import ADAPTED, SHARED
from .artifacts import Run, whole_file, write_json
from .calibration import Calibration, best_way
from .data import Plan, read_cells, read_target, read_target_labels
from .fetch import name_of
from .metrics import HELD_OUT, UNSEEN, StageResult, stage_result
from .rejection import AMBIGUOUS, CONFIDENT, NO_EVIDENCE, UNASSIGNED, UNLIKE, Predictions

if TYPE_CHECKING:
    import anndata as ad
    from xlsxwriter.worksheet import Worksheet

    from .alignment import Annotated
    from .clusters import Clusters

# Why a cell was given its type, its parent or nothing.
PARENT_ONLY = "parent only"
REASONS = (CONFIDENT, PARENT_ONLY, AMBIGUOUS, UNLIKE)
# The level of a cell's answer.
TYPE, PARENT = "cell type", "parent"
LEVELS = (TYPE, PARENT, UNASSIGNED)
# The columns of the predictions table before the probabilities; those of options only where they are asked for.
BEFORE_PROBABILITIES = (
    "raw_predictions", "predictions", "level", "reason", "cluster", "cluster_majority", "cluster_share",
)  # fmt: skip
SHEET_ROWS, CELL_CHARACTERS = 1_048_576, 32_767  # the most that a workbook holds
NOT_IN_A_WORKBOOK = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
FEW_CELLS = 30  # a type learned from fewer is named as something to distrust
MUCH_REJECTED = 0.3
MUCH_LOST = 0.02  # of accuracy, by alignment, on left-out batches
WAY_WORDS = {SHARED: "without alignment", ADAPTED: "after alignment"}


@dataclass
class TargetResult:
    """The target after the last stage."""

    stages: dict[str, Predictions]  # in order; the last is the answer
    cells: np.ndarray  # names (n_target,), as in the file
    codes: np.ndarray  # (n_target, size), of the last stage
    labels: np.ndarray | None  # objects (n_target,), None where unknown; None without any
    way: str = SHARED  # in which the last stage was annotated
    without_evidence: list[str] = field(default_factory=list)  # types with too few held-out cells for a threshold
    parents: levels.Parents = field(default_factory=dict)  # cell type -> parent; empty: no cell falls back
    parent_thresholds: Mapping[str, float] = field(default_factory=dict)
    clusters: Clusters | None = None

    @property
    def final(self) -> Predictions:
        return list(self.stages.values())[-1]

    @cached_property
    def fallback(self) -> np.ndarray:
        """The parent that a cell falls back to, objects (n_target,): None where it does not."""
        if not self.parents:
            return np.full(len(self.cells), None, dtype=object)
        return levels.fall_back(self.final, self.parents, self.parent_thresholds)

    @property
    def fell_back(self) -> np.ndarray:
        """Bool (n_target,)."""
        return pd.notna(self.fallback)

    @property
    def names(self) -> np.ndarray:
        """The answer, objects (n_target,): the type, else the parent, else `Unassigned`."""
        return np.where(self.fell_back, self.fallback, self.final.names)

    @property
    def level(self) -> np.ndarray:
        """What kind of answer that is, objects (n_target,) of LEVELS."""
        return np.select([self.fell_back, self.final.rejected], [PARENT, UNASSIGNED], TYPE).astype(object)

    @property
    def reasons(self) -> np.ndarray:
        """Why, objects (n_target,) of REASONS."""
        return np.where(self.fell_back, PARENT_ONLY, self.final.reasons)

    @property
    def answers(self) -> list[str]:
        """Every answer there could be, in the order to show them: types, parents, `Unassigned`."""
        parents = set(levels.of_types(self.final.classes, self.parents))
        return [*self.final.classes, *sorted(parents - set(self.final.classes)), UNASSIGNED]


def with_parents(result: TargetResult, parents: levels.Parents) -> TargetResult:
    """The same, ambiguous cells falling back to their type's parent; as it is where there are no parents."""
    if not parents:
        return result
    return replace(result, parents=parents, parent_thresholds=levels.thresholds(result.final, parents))


def save_annotated(annotated: Annotated, run: Run) -> None:
    """Stage 3's result for stage 4: every stage's probabilities, thresholds and codes, which cells are unlike the
    reference, and the thresholds of parents."""
    arrays = {f"codes {stage}": codes for stage, codes in annotated.codes.items()}
    for stage, predictions in annotated.stages.items():
        arrays[f"probabilities {stage}"] = predictions.probabilities
        arrays[f"thresholds {stage}"] = predictions.thresholds
        if predictions.unlike is not None:
            arrays[f"unlike {stage}"] = predictions.unlike
    last, parents = list(annotated.stages.values())[-1], run.load_plan().parents
    story = {
        "stages": list(annotated.stages),
        "way": annotated.way,
        "without evidence": last.without_evidence,
        "parent thresholds": levels.thresholds(last, parents) if parents else {},
    }
    run.save_target(arrays, story | {"curves": annotated.curves, "notes": annotated.notes})


def target_rows(prepared: ad.AnnData, target: str) -> np.ndarray:
    """The target's rows of the prepared cells, int (n_target,)."""
    return np.flatnonzero((prepared.obs["batch"] == target).to_numpy())


def points_of_target(points: pd.DataFrame, prepared: ad.AnnData, target: str) -> pd.DataFrame:
    """Of an embedding's points (column `row`) the target's, with the column `cell`: which of the target's cells it is."""
    rows = target_rows(prepared, target)
    here = points[points["row"].isin(rows)]
    return here.assign(cell=np.searchsorted(rows, here["row"]))


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
    """The points of `embedding.code_points`, with what is known of each: `label` (in the file, None where there is none) and,
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


def load_result(run: Run) -> TargetResult:
    """What stage 3 left, with the target's own labels, which are read here for the first time."""
    return _load(run, read_target_labels(run.parameters))


def finished_result(run: Run) -> TargetResult:
    """The same of a finished run, from its own folder alone: labels and clusters as its predictions have them."""
    table = pd.read_parquet(run.predictions_parquet)
    result = _load(run, table["labels"].to_numpy(dtype=object) if "labels" in table else None)
    if "cluster" in table.columns[: _n_before(table)]:
        from .clusters import Clusters

        columns = (table[name].to_numpy() for name in ("cluster", "cluster_majority", "cluster_share"))
        result.clusters = Clusters(*columns)
    return result


def _load(run: Run, labels: np.ndarray | None) -> TargetResult:
    arrays, story = run.load_target()
    plan = run.load_plan()
    classes = plan.classes
    stages = {
        stage: Predictions(
            classes, arrays[f"probabilities {stage}"], arrays[f"thresholds {stage}"], arrays.get(f"unlike {stage}")
        )
        for stage in story["stages"]
    }
    obs = run.load_prepared_obs()
    cells = obs.loc[obs["batch"] == run.parameters.TARGET_DATASET_NAME, "cell"].astype(str).to_numpy()
    last = story["stages"][-1]
    thresholds = story.get("parent thresholds", {})
    parents = plan.parents if thresholds else {}
    codes, unsupported = arrays[f"codes {last}"], story.get("without evidence", [])
    return TargetResult(stages, cells, codes, labels, story["way"], unsupported, parents, thresholds)


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


def write_predictions(table: pd.DataFrame, run: Run) -> None:
    """Writes the table as parquet, and as xlsx as far as a sheet's rows go; text stays text (no formulas)."""
    run.begins("4_evaluate")
    with whole_file(run.predictions_parquet) as temporary:
        table.to_parquet(temporary)
    with whole_file(run.predictions_xlsx) as temporary, TemporaryDirectory(prefix="jind-nb-") as rows:
        book = Workbook(str(temporary), {"constant_memory": True, "tmpdir": rows, "use_zip64": True})
        sheet = book.add_worksheet("predictions")
        for column, name in enumerate((table.index.name, *table.columns)):
            _write_text(sheet, 0, column, str(name))
        whole = table if len(table) < SHEET_ROWS else table.iloc[: SHEET_ROWS - 2]
        for row, values in enumerate(whole.itertuples(name=None), start=1):
            for column, value in enumerate(values):
                if isinstance(value, str):
                    _write_text(sheet, row, column, value)
                elif value is not None and value == value:
                    sheet.write_number(row, column, value)
        if len(whole) < len(table):
            more = f"{len(table) - len(whole):,} more rows: see {run.predictions_parquet.name}"
            _write_text(sheet, len(whole) + 1, 0, more)
        book.close()


def _write_text(sheet: Worksheet, row: int, column: int, text: str) -> None:
    """A cell of text as it is, but for what a workbook cannot hold: control characters, and more than 32,767 of any."""
    text = NOT_IN_A_WORKBOOK.sub("\ufffd", text)[:CELL_CHARACTERS]
    if text.startswith("<r>"):  # XlsxWriter would take it for text it has formatted before, and not escape it
        sheet.write_rich_string(row, column, text[0], text[1], text[2:])
    else:
        sheet.write_string(row, column, text)


def write_annotated_target(result: TargetResult, run: Run) -> None:
    """Writes the target batch as it was, with the annotation of `annotate_obs`."""
    adata = read_target(run.parameters, read_cells(run.parameters))
    annotate_obs(adata, predictions_table(result), result.final.classes, result.codes)
    with whole_file(run.annotated_target) as temporary:
        adata.write_h5ad(temporary, compression="gzip")


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


def evaluate_target(result: TargetResult, target: str) -> list[StageResult]:
    """Every stage on the target cells that have a label; empty if none has."""
    if result.labels is None:
        return []
    known = pd.notna(result.labels)
    return [
        stage_result(target, stage, UNSEEN, result.labels[known], predictions.of(known))
        for stage, predictions in result.stages.items()
    ]


def checked(result: TargetResult) -> tuple[np.ndarray, np.ndarray] | None:
    """Of the target's labelled cells, the final confidence and whether the most probable type is right, float and bool
    (n_labelled,); None without labels."""
    if result.labels is None:
        return None
    known = pd.notna(result.labels)
    return result.final.confidence[known], (result.final.raw == result.labels)[known]


def known_types_metrics(result: TargetResult) -> dict[str, Any] | None:
    """The last stage's numbers over the cells whose true type an annotated batch has; None without any."""
    from .metrics import evaluate

    if result.labels is None:
        return None
    could_be_known = np.isin(result.labels.astype(str), result.final.classes) & pd.notna(result.labels)
    if not could_be_known.any():
        return None
    return evaluate(result.labels[could_be_known], result.final.of(could_be_known))[0]


def fallback_metrics(result: TargetResult) -> dict[str, Any] | None:
    """Of the cells that fell back to a parent: `cells`, `labelled` (those whose type is known), `right` (it is the true
    type's parent; None without labels); None where no parents are given.

    They count as `rejected` in all numbers of types.
    """
    if not result.parents:
        return None
    return _fallback_numbers(result, result.fell_back)


def _fallback_numbers(result: TargetResult, here: np.ndarray) -> dict[str, Any]:
    """`fallback_metrics` over some of the cells that fell back, bool (n_target,)."""
    if result.labels is None:
        return {"cells": int(here.sum()), "labelled": 0, "right": None}
    known = here & pd.notna(result.labels)
    truth = np.array(levels.of_types(list(result.labels[known]), result.parents), dtype=object)
    right = int((truth == result.fallback[known]).sum())
    return {"cells": int(here.sum()), "labelled": int(known.sum()), "right": right}


def fallback_table(result: TargetResult) -> pd.DataFrame:
    """One row for each parent of several types: its types, the probability asked for, and `cells` that fell back to it,
    how many of them are `labelled` and how many `right`."""
    if not result.parents:
        return pd.DataFrame({"note": ["PARENTS is not set: no cell falls back to a coarser type."]})
    parent = levels.of_types(result.final.classes, result.parents)
    rows = {}
    for name in sorted({name for name in parent if parent.count(name) > 1}):
        numbers = _fallback_numbers(result, result.fallback == name)
        types = [cell_type for cell_type, of in zip(result.final.classes, parent, strict=True) if of == name]
        rows[name] = {"cell types": ", ".join(types), "probability asked for": result.parent_thresholds[name]} | numbers
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("parent").round(3)


def write_metrics(history: list[StageResult], result: TargetResult, calibration: Calibration | None, run: Run) -> None:
    """metrics.json: the target in short, what to expect of a new batch, then every stage on every batch."""
    rejected = result.final.rejected
    target = [stage for stage in history if stage.batch == run.parameters.TARGET_DATASET_NAME]
    write_json(
        run.metrics,
        {
            "target": {
                "batch": run.parameters.TARGET_DATASET_NAME,
                "cells": len(result.cells),
                "annotated": int((~rejected).sum()),
                "rejected": int(rejected.sum()),
                "rejection": float(rejected.mean()),
                "median_confidence": float(np.median(result.final.confidence)),
                "fallback": fallback_metrics(result),
                "labelled": target[-1].metrics if target else None,
                "labelled_known_types": known_types_metrics(result),
            },
            "new_batch": None
            if calibration is None
            else {
                "error_among_assigned": calibration.mean("error_among_assigned"),
                "assigned": calibration.mean("assigned"),
                "AURC": calibration.mean("AURC"),
                "calibration_error": calibration.mean("calibration_error"),
                "is_guarantee": calibration.target_error is not None and calibration.is_guarantee,
                "left_out": calibration.batches,
            },
            "stages": [
                {"batch": s.batch, "stage": s.stage, "of": s.cells, **s.metrics, "per_class": s.per_class}
                for s in history
            ],
        },
    )


def held_out_accuracy(history: list[StageResult]) -> dict[str, float] | None:
    """The final annotated model on the cells it never saw: `cells`, `raw_accuracy`, `effective_accuracy`, pooled."""
    held_out = [s for s in history if s.cells == HELD_OUT]
    final = {s.batch: s for s in held_out}  # the last stage of each batch
    cells = sum(s.metrics["cells"] for s in final.values())
    if not cells:
        return None
    kept = sum(s.metrics["cells"] - s.metrics["rejected"] for s in final.values())
    wrong = sum(s.metrics["misclassified"] for s in final.values())
    right = sum(s.metrics["raw_accuracy"] * s.metrics["cells"] for s in final.values())
    return {"cells": cells, "raw_accuracy": right / cells, "effective_accuracy": 1 - wrong / kept if kept else 0.0}


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


@dataclass(frozen=True)
class Number:
    """One number of the first page: its name, its value as text, and what it says in half a sentence."""

    name: str
    value: str
    words: str


@dataclass
class Summary:
    """The first page of the report, in words and a few numbers."""

    sentence: str
    numbers: list[Number]
    facts: dict[str, str]
    distrust: list[str]  # the most important first


def percent(share: float) -> str:
    """A share as people read it.

    >>> percent(0.1234)
    '12.3 %'
    """
    return f"{100 * share:.1f} %"


def summarise(result: TargetResult, plan: Plan, training: Mapping[str, Any], run: Run) -> Summary:
    """What was done, how sure it is and what to distrust, for a reader who never saw the project."""
    target, final = plan.target, result.final
    n, n_parent = len(result.cells), int(result.fell_back.sum())
    n_rejected = int(final.rejected.sum()) - n_parent  # Unassigned
    n_types = n - n_rejected - n_parent
    history = [StageResult(**stage) for stage in training["history"]]
    held_out = held_out_accuracy(history)
    labelled = evaluate_target(result, target)
    sentence = f"{target}: {n_types:,} of {n:,} cells annotated, "
    sentence += f"{n_parent:,} with a parent type only, " if result.parents else ""
    sentence += f"{n_rejected:,} left Unassigned"
    if labelled and labelled[-1].metrics["effective_accuracy"] is not None:
        n_labelled = labelled[-1].metrics["cells"]
        which = "they" if n_labelled == n else f"the {n_labelled:,} labelled cells"
        agrees = labelled[-1].metrics["effective_accuracy"]
        sentence += f"; where {which} could be checked, {percent(agrees)} of the annotated agree with the file's labels"
    calibration = target_calibration(training, result)
    expected = calibration.mean("error_among_assigned") if calibration else None
    if not labelled and calibration and calibration.n_annotated > 1 and expected is not None and n_types:
        sentence += (
            f"; expect about {percent(expected)} of the annotated to be wrong"
            if expected
            else "; of annotated batches hidden in turn and annotated like this one, no annotated cell was wrong"
        )
    facts = {
        "Data": ", ".join(map(name_of, run.parameters.paths)),
        "Target (annotated here)": f"{target}, {n:,} cells",
        "Learned from": _learned_from(training, plan),
        "Cell types it can name": f"{len(plan.classes)}: {', '.join(plan.classes[:15])}"
        + (f" and {len(plan.classes) - 15} more" if len(plan.classes) > 15 else ""),
        "Alignment": f"{_alignment(training, result, run)}.",
        **({"Parent only": _fallback_in_words(result)} if result.parents else {}),
        "Confidence": f"half of the cells above {_rounded_down(np.median(final.confidence))}, nine tenths above "
        f"{_rounded_down(np.quantile(final.confidence, 0.1))} (1 is certain)",
    }
    if held_out:
        facts["Check on annotated batches"] = (
            f"{percent(held_out['effective_accuracy'])} of the cells it annotated right, on {held_out['cells']:,} "
            "cells kept out of training; a new batch is usually harder"
        )
    if calibration is not None:
        facts["Errors to expect in a new batch"] = expected_error(calibration)
    if labelled:
        facts["Check on the target's own labels"] = _checked_against_labels(labelled[-1].metrics, result)
    distrust = [*_alignment_hurts(training, result), *_distrust(result, plan, labelled)]
    return Summary(sentence + ".", _numbers(result, calibration, held_out, labelled), facts, distrust)


def _rounded_down(confidence: float) -> str:
    """Two digits, and never the 1.00 that no cell reaches."""
    return f"{min(0.99, np.floor(100 * confidence) / 100):.2f}"


def _numbers(
    result: TargetResult,
    calibration: Calibration | None,
    held_out: Mapping[str, float] | None,
    labelled: list[StageResult],
) -> list[Number]:
    """The few numbers that most readers want."""
    n, n_parent = len(result.cells), int(result.fell_back.sum())
    n_rejected = int(result.final.rejected.sum()) - n_parent
    n_unlike = int((result.final.reasons == UNLIKE).sum())
    numbers = [
        Number("Annotated", percent((n - n_rejected - n_parent) / n), f"{n - n_rejected - n_parent:,} of {n:,} cells"),
        Number(
            UNASSIGNED,
            percent(n_rejected / n),
            f"{n_rejected:,} cells: {n_rejected - n_unlike:,} ambiguous, {n_unlike:,} unlike all annotated cells",
        ),
    ]
    if result.parents:
        numbers.insert(1, Number("Parent type only", percent(n_parent / n), f"{n_parent:,} cells of ambiguous type"))
    numbers.append(_expected_number(calibration, held_out))
    agrees = labelled[-1].metrics["effective_accuracy"] if labelled else None
    if agrees is not None:
        n_labelled = labelled[-1].metrics["cells"]
        words = f"of the annotated cells agree with the file's labels ({n_labelled:,} cells have one)"
        numbers.append(Number("Checked here", percent(agrees), words))
    return numbers


def _expected_number(calibration: Calibration | None, held_out: Mapping[str, float] | None) -> Number:
    name = "Expected error"
    expected = calibration.mean("error_among_assigned") if calibration is not None else None
    if calibration is not None and expected is not None:
        if calibration.n_annotated == 1:
            words = (
                "of the annotated cells, as seen on cells held out of the only annotated batch; a new batch is harder"
            )
            return Number(name, f"> {percent(expected)}", words)
        lowest, highest = calibration.range("error_among_assigned") or (expected, expected)
        words = (
            "of the annotated cells are wrong, as seen when annotated batches were hidden in turn and annotated like this "
            f"one ({100 * lowest:.1f} to {percent(highest)})"
        )
        if not highest:
            words = "no annotated cell was wrong when annotated batches were hidden in turn and annotated like this one"
        return Number(name, f"about {percent(expected)}" if highest else "none seen", words)
    if held_out is None:
        return Number(name, "not known", "nothing could be checked on cells of known type")
    wrong = 1 - held_out["effective_accuracy"]
    return Number(
        name, f"> {percent(wrong)}", "wrong on held-out cells of the annotated batches; a new batch is harder"
    )


def _fallback_in_words(result: TargetResult) -> str:
    """How many ambiguous cells were given their type's parent, and how many of them rightly."""
    numbers = fallback_metrics(result) or {}
    n = len(result.cells)
    text = (
        f"{numbers['cells']:,} cells ({percent(numbers['cells'] / n)}) whose type is ambiguous and whose parent is not"
    )
    if numbers["labelled"]:
        share = percent(numbers["right"] / numbers["labelled"])
        text += f"; by the file's labels {numbers['right']:,} of {numbers['labelled']:,} are right ({share})"
    return text


def _alignment(training: Mapping[str, Any], result: TargetResult, run: Run) -> str:
    """Whether the target was aligned with the annotated batches, and why."""
    done = "aligned" if result.way == ADAPTED else "not aligned"
    if run.parameters.ALIGN is not None or run.parameters.PRETRAINED_MODEL_PATH is not None:
        return f"{done}: ALIGN is {str(run.parameters.aligns).lower()}"
    if run.parameters.METHOD == "reference":
        return f"{done}, as METHOD reference always does"
    return f"{done}. {why_this_way(training)}"


def why_this_way(training: Mapping[str, Any]) -> str:
    """Why METHOD `default` aligned the target or did not, where ALIGN left it to left-out batches."""
    return best_way({way: Calibration(**values) for way, values in training["calibration"].items()})[1]


def _checked_against_labels(all_cells: dict[str, Any], result: TargetResult) -> str:
    """How right the annotation is by the target's own labels: over all cells, and over the types that could be known."""
    after = all_cells["effective_accuracy"]
    text = (
        f"{percent(all_cells['raw_accuracy'])} right before rejection"
        + (f", {percent(after)} of the annotated after" if after is not None else "")
        + f", macro-F1 {all_cells['macro_F1']:.2f}"
    )
    known = known_types_metrics(result)
    if all_cells["unknown_type"] and known:
        text += (
            f". Cells of types no annotated batch taught ({all_cells['unknown_type']:,}) are right only when Unassigned: "
            f"counted so, {percent(all_cells['accuracy'])} of all cells are right; over the types that could be known "
            f"{percent(known['raw_accuracy'])} before rejection"
            + (f", {percent(known['effective_accuracy'])} after" if known["effective_accuracy"] is not None else "")
        )
    return text + " (read for this check alone, never for training)"


def target_calibration(training: Mapping[str, Any], result: TargetResult) -> Calibration | None:
    """What left-out batches taught about the way the target was annotated; None if none were left out."""
    calibrations = training["calibration"]
    values = calibrations.get(result.way) or calibrations.get(SHARED)
    return Calibration(**values) if values else None


def expected_error(calibration: Calibration) -> str:
    """In words: the errors to expect among the assigned cells of a new batch, and what that rests on."""
    target_error, mean = calibration.target_error, calibration.mean("error_among_assigned")
    n, n_annotated = calibration.n_left_out, calibration.n_annotated
    if target_error is not None and calibration.threshold is not None and calibration.threshold > 1:
        return (
            f"no confidence keeps them below {percent(target_error)} on the left-out batches, so every cell is "
            "Unassigned; ask for a higher TARGET_ERROR, or use REJECTION"
        )
    if mean is None:
        return "cannot be told: no cell of a left-out batch was assigned"
    lowest, highest = calibration.range("error_among_assigned") or (mean, mean)
    if n_annotated == 1:
        text = f"{percent(mean)} on cells held out of the only annotated batch; a new batch is usually harder"
    else:
        text = (
            f"about {percent(mean)} of the assigned cells ({percent(lowest)} to {percent(highest)} in {n} annotated "
            f"batch{'' if n == 1 else 'es'} that {'was' if n == 1 else 'were'} left out of training in turn and annotated "
            "like the target), if its cell types are among the annotated ones"
        )
    if target_error is not None:
        errors = [row["error_among_assigned"] or 0.0 for row in calibration.batches if row["cells"]]
        text += (
            f". TARGET_ERROR asks for at most {percent(target_error)}; in {sum(e <= target_error for e in errors)} of {n} "
            "it held with a threshold from the others: "
        )
        text += (
            f"it should hold in about {n} of {n + 1} further batches like these or better"
            if calibration.is_guarantee
            else f"with {n_annotated} annotated batch{'' if n_annotated == 1 else 'es'} ({n} left out) this is an estimate, no guarantee"
        )
    return text


def left_out_tables(calibrations: Mapping[str, Calibration]) -> pd.DataFrame:
    """`left_out_table` of each way to annotate, one below the other."""
    if not calibrations:
        return pd.DataFrame(
            {"note": ["METHOD reference leaves no batch out; its probabilities are the network's own."]}
        )
    if next(iter(calibrations.values())).n_annotated == 1:
        words = {SHARED: "held-out cells of the only annotated batch"}  # of which all ways say the same
    else:
        words = WAY_WORDS
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


def _learned_from(training: Mapping[str, Any], plan: Plan) -> str:
    if not plan.cells:
        return f"a saved model (source {training['source']}, {len(training['intermediates'])} intermediate batches)"
    others = training["intermediates"]
    return (
        f"{training['source']} (source)"
        + (f", {', '.join(others[:10])}" if others else "")
        + (f" and {len(others) - 10} more" if len(others) > 10 else "")
        + f": {sum(sum(counts.values()) for counts in plan.cells.values()):,} labelled cells"
    )


def _alignment_hurts(training: Mapping[str, Any], result: TargetResult) -> list[str]:
    """A warning where left-out batches were annotated better without alignment; nothing where they were not."""
    ways = {way: {row["batch"]: row for row in c["batches"]} for way, c in training["calibration"].items()}
    if result.way != ADAPTED or not {SHARED, ADAPTED} <= set(ways) or not training["intermediates"]:
        return []
    both = [(ways[SHARED][name]["raw_accuracy"], row["raw_accuracy"]) for name, row in ways[ADAPTED].items()]
    both = [pair for pair in both if None not in pair]
    without, aligned = np.mean(both, axis=0) if both else (0.0, 0.0)
    if without - aligned < MUCH_LOST:
        return []
    return [
        f"On the annotated batches left out of training, alignment lowered the share of right cells from "
        f"{percent(without)} to {percent(aligned)}; compare with a run with ALIGN false."
    ]


def _distrust(result: TargetResult, plan: Plan, labelled: list[StageResult]) -> list[str]:
    """What a reader should doubt, and why: a sentence for each kind of doubt, warnings first."""
    table, points = composition(result, plan), list(plan.warnings)
    rejected = table["rejected"] + table.get("parent only", 0)
    called = table["annotated"] + rejected
    if labelled:
        missed = [
            f"{name} ({percent(row['recall'])} of {row['cells']:,} cells)"
            for name, row in labelled[-1].per_class.items()
            if row["cells"] >= 5 and row["recall"] < 0.5 and name in plan.classes
        ]
        if missed:
            points.append(
                f"By the file's own labels, fewer than half of the cells were recognised of {_listed(missed)}."
            )
    else:
        points.append("The target has no labels to check against; look at marker genes before relying on a type.")
    unsure = [
        f"{name} ({rejected[name]:,.0f} of the {called[name]:,.0f} cells most like it)"
        for name in table.index[(called >= 5) & (rejected > MUCH_REJECTED * called)]
    ]
    if unsure:
        points.append(f"The model is unsure of these types, and many of their cells are Unassigned: {_listed(unsure)}.")
    few = table[(table["training cells"] < FEW_CELLS) & (called > 0)] if plan.cells else table[:0]
    if len(few):
        names = [f"{name} ({n:.0f} cells)" for name, n in few["training cells"].items()]
        points.append(f"Learned from few cells, so easily missed or mistaken: {_listed(names)}.")
    odd = int((result.final.reasons == UNLIKE).sum())
    if odd:
        points.append(
            f"{odd:,} Unassigned cell{'s are' if odd > 1 else ' is'} unlike anything in the annotated batches; "
            f"{'they' if odd > 1 else 'it'} may be of a cell type those lack, or damaged."
        )
    if plan.dropped:
        points.append(f"Too rare in the annotated batches to be learned, so never named here: {_listed(plan.dropped)}.")
    never = [str(name) for name in table.index[called == 0]]
    if never:
        points.append(f"No cell looks most like {_listed(never)}; they may be absent, or missed.")
    unsupported = [name for name in result.without_evidence if called[name] > 0]
    if unsupported:
        points.append(
            f"Too few held-out cells to set a threshold for {_listed(unsupported)}: a confidence of {NO_EVIDENCE} is "
            "asked for instead."
        )
    for reason in dict.fromkeys(reason for reason in plan.left_out.values() if "none of" in reason):
        batches = [batch for batch, why in plan.left_out.items() if why == reason]
        points.append(f"{_listed(batches)} took no part: {reason}.")
    return points + plan.notes


def _listed(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def one_line(run: Run) -> str:
    """The run's result in one line, for the terminal."""
    return summarise(finished_result(run), run.load_plan(), run.load_training(), run).sentence
