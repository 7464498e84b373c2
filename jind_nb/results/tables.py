"""Tables of the target: predictions, cell types, reasons, points of pictures, left-out batches."""

from collections.abc import Collection, Mapping, Sequence
from re import fullmatch
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from markupsafe import Markup
from scipy import sparse

from ..core.colours import colours_of
from ..core.labels import DOUBLET, NO_VALUES, OUTSIDE, PARENT_ONLY, UNASSIGNED, UNLIKE
from ..core.text import listing, plural
from ..data import parents as data_parents
from ..data.plan import Plan
from ..model import hierarchy
from ..model.calibration import Calibration
from ..model.expected_error import ExpectedError
from ..model.history import StageResult
from ..model.state import AlignmentMode
from .target import REASONS, Level, TargetResult, count_fallbacks

# The columns of the predictions table before the probabilities; those of options only where an option is set.
CLUSTER_COLUMNS = "cluster", "cluster_majority", "cluster_share"
DOUBLET_SCORE = "doublet_score"
BATCH = "batch"  # of `jind-nb predict --batch-col`, where a table has several
TERM_COLUMN, OBS_TERM = "ontology_term_id", "jind_prediction_ontology_term_id"
LEVEL_COLUMN = r"level_\d+(_probability)?"
BEFORE_PROBABILITIES = (
    BATCH,
    TERM_COLUMN,
    "raw_predictions",
    "predictions",
    "level",
    "confidence",
    "reason",
    DOUBLET_SCORE,
    *CLUSTER_COLUMNS,
)

COMPOSITION_LABELS = {
    "parent_only": "parent only", "rejected": UNASSIGNED, "median_confidence": "median confidence",
    "training_cells": "training cells",
}  # fmt: skip

# What the schema of CELLxGENE wants where no term is right.
UNKNOWN_TERM = "unknown"

TERM_PAGE = "http://purl.obolibrary.org/obo/"

MOST_SUSPECTS = 12  # rows of a page's table; suspect_labels.csv has every cell

MODE_WORDS = {AlignmentMode.UNALIGNED: "without alignment", AlignmentMode.ALIGNED: "after alignment"}


def reasons_table(result: TargetResult) -> pd.DataFrame:
    """Return how many cells were kept or rejected, and why."""
    reasons = pd.Series(result.reasons)
    scored = {DOUBLET} if result.doublet_scores is not None else set()
    outside = {OUTSIDE} if result.types else set()
    shown = _reasons(bool(result.parents), set(reasons) | scored | outside)
    counts = reasons.value_counts().reindex(shown, fill_value=0)
    return counts.rename_axis("reason").to_frame("cells")


def _reasons(has_parents: bool, found: Collection[str]) -> list[str]:
    """Return the reasons to show: those of options and of rare cells only where there are some."""
    shown = {PARENT_ONLY: has_parents} | {name: name in found for name in (OUTSIDE, DOUBLET, NO_VALUES)}
    return [reason for reason in REASONS if shown.get(reason, True)]


def outside_table(result: TargetResult) -> pd.DataFrame:
    """Return a row for each type that TYPES leaves out: of the target's cells that are most like it, how many there are, how
    many would be assigned it if it might be given, and how many now get a type, a parent or nothing."""
    if result.of_all_types is None:
        return pd.DataFrame({"note": ["TYPES is not set: every type may be given."]})
    left_out = [name for name in result.final.classes if name not in result.types]
    without = result.of_all_types
    numbers = pd.DataFrame({"cell type": without.raw, "assigned": without.names == without.raw, "now": result.level})
    now = pd.crosstab(numbers["cell type"], numbers["now"]).reindex(left_out, columns=map(str, Level), fill_value=0)
    now.columns = pd.Index(["now one of TYPES", "now a parent type only", f"now {UNASSIGNED}"])
    would_be = numbers.groupby("cell type")["assigned"].agg(["size", "sum"]).reindex(left_out, fill_value=0)
    would_be.columns = pd.Index(["cells most like it", "assigned without TYPES"])
    table = would_be.join(now.drop(columns=[] if result.parents else "now a parent type only"))
    return table.sort_values("cells most like it", ascending=False, kind="stable").rename_axis("left out by TYPES")


def outside_notes(table: pd.DataFrame) -> list[str]:
    """Return a sentence on the cells of a `predictions_table` that TYPES leaves Unassigned; nothing without any."""
    types = table.loc[table["reason"] == OUTSIDE, "raw_predictions"].value_counts()
    if types.empty:
        return []
    like = listing((f"{name} ({n:,})" for name, n in types.items()), 6, quoted=False)
    which = "more probably of a type that TYPES leaves out than of one that it names"
    return [f"{plural(int(types.sum()), 'cell is', 'cells are')} {which}, and left Unassigned; most like: {like}."]


def type_table(result: TargetResult, plan: Plan, on_target: list[StageResult]) -> pd.DataFrame:
    """Return a row for each cell type, to read: `composition_table` with each type's threshold and, where labels are known,
    `labelled` cells of the type and, over all labelled cells before rejection, precision, recall and AP. The types that
    only labels have come last.
    """
    table = composition_table(result, plan)
    thresholds = pd.Series(result.final.thresholds, index=result.final.classes)
    table.insert(int(table.columns.get_loc("median_confidence")), "threshold", thresholds)
    table = composition_to_read(table, has_parents=bool(result.parents))
    if on_target:
        of_labels = pd.DataFrame.from_dict(on_target[-1].per_class, orient="index")
        names = {"cells": "labelled", "precision": "precision %", "recall": "recall %", "average_precision": "AP"}
        known = of_labels[list(names)].rename(columns=names)
        for column in ("precision %", "recall %"):
            known[column] = (100 * known[column].astype(float)).round(1)
        others = [name for name in known.index if name not in table.index]
        table = table.join(known).reindex([*table.index, *others])
        table.loc[others, list(known.columns)] = known.loc[others]
    return table.rename_axis("cell type")


def composition_to_read(table: pd.DataFrame, *, has_parents: bool) -> pd.DataFrame:
    """Return a `composition_table` with the names of its columns as people read them."""
    return table.drop(columns=["unlike"] if has_parents else ["unlike", "parent_only"]).rename(
        columns=COMPOSITION_LABELS
    )


def describe_points(points: pd.DataFrame, result: TargetResult, group: np.ndarray | None = None) -> pd.DataFrame:
    """Add to the points of `embedding.latent_points` what is known of each: `label` (in the file, None where there is none)
    and, of the target's cells at the stage, `name`, `raw`, `confidence`, `reason` and `group` (None or NaN for annotated cells).

    Parameters
    ----------
    group
        `new_groups.Groups.of_cells`; None without groups.
    """
    labels = result.labels if result.labels is not None else np.full(len(result.cells), None, dtype=object)
    frames = []
    for stage, here in points.groupby("stage", sort=False):
        predictions = result.stages[str(stage)]
        last = result if predictions is result.final else predictions
        cells = pd.DataFrame(
            {
                "name": result.cells, "label": labels, "raw": predictions.raw, "confidence": predictions.confidence,
                "reason": last.reasons, "cell type": last.names, "group": group,
            }
        )  # fmt: skip
        frames.append(describe_stage(here, cells))
    return pd.concat(frames, ignore_index=True)


def describe_stage(points: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Add to the points of one stage what is known of the target's cells: the columns of `describe_points` and `cell type`, a row
    for each cell."""
    known = cells.reindex(points["cell"]).set_axis(points.index)
    of_target = points["cell"] >= 0
    for column in ("label", "cell type"):
        known[column] = known[column].where(of_target, points["cell type"])
    return points.assign(**known)


def hover_table(points: pd.DataFrame) -> pd.DataFrame:
    """Return what the report shows about the cell under the pointer, from `describe_points`: `x`, `y` and columns
    by the names that a reader sees."""
    shown = points.assign(
        prediction=points["cell type"].where(points["cell"] >= 0, None),
        probability=points["confidence"].astype(float).round(2),
    )
    columns = ["x", "y", "name", "batch", "prediction", "raw", "probability", "reason", "label"]
    return shown[columns].rename(columns={"name": "cell", "raw": "most probable type", "label": "label in the file"})


def predictions_table(result: TargetResult) -> pd.DataFrame:
    """Return a row for each target cell, in the input's order, index `cellname`.

    Columns `raw_predictions`, `predictions`, [`level` with parents], `confidence`, `reason`, [`doublet_score` with DOUBLETS], [`cluster`, `cluster_majority`,
    `cluster_share` with clusters], one probability per cell type (`p(TYPE)` where a type is named like any of these
    columns), and `labels` where any are known.
    """
    final = result.final
    table = pd.DataFrame(
        {"raw_predictions": final.raw, "predictions": result.names}, index=pd.Index(result.cells, name="cellname")
    )
    if result.parents:
        table["level"] = result.level
    if result.ontology:
        table[TERM_COLUMN] = [result.ontology.get(name, UNKNOWN_TERM) for name in result.names]
    table = table.assign(**_level_columns(result))
    table["confidence"] = final.confidence
    table["reason"] = result.reasons
    if result.doublet_scores is not None:
        table[DOUBLET_SCORE] = result.doublet_scores
    if result.clusters is not None:
        for name, values in zip(CLUSTER_COLUMNS, vars(result.clusters).values(), strict=True):
            table[name] = values
    reserved = {"cellname", *BEFORE_PROBABILITIES, "labels"}
    taken = reserved | set(final.classes)
    for k, name in enumerate(final.classes):
        column = name
        while (
            column in taken - {name} or column in reserved or column in table.columns or fullmatch(LEVEL_COLUMN, column)
        ):
            column = f"p({column})"
        table[column] = final.probabilities[:, k]
    if result.labels is not None:
        table["labels"] = result.labels
    return table


def _level_columns(result: TargetResult) -> dict[str, np.ndarray]:
    """Return, where there are several levels of parents, for each of them from the coarsest on a cell's most probable type
    (`level_1`) and its probability (`level_1_probability`): the sum over its types."""
    columns: dict[str, np.ndarray] = {}
    final, levels = result.final, [level for level, _ in result.levels][::-1]
    for i, level in enumerate(levels if result.coarser else [], start=1):
        names, summed = hierarchy.parent_probabilities(final.probabilities, final.classes, level)
        columns[f"level_{i}"] = np.array(names, dtype=object)[summed.argmax(axis=1)]
        columns[f"level_{i}_probability"] = summed.max(axis=1)
    return columns


def ontology_table(result: TargetResult) -> pd.DataFrame:
    """Return a row for each possible answer: its term of the Cell Ontology, with a link to it, and its cells."""
    if not result.ontology:
        return pd.DataFrame({"note": ["ONTOLOGY is not set: the answers have no terms of the Cell Ontology."]})
    answers = [name for name in result.answers if name != UNASSIGNED]
    counts = pd.Series(result.names).value_counts().reindex(answers, fill_value=0)
    terms = [result.ontology.get(name) for name in answers]
    links = [Markup('<a href="{}">{}</a>').format(TERM_PAGE + t.replace(":", "_"), t) if t else None for t in terms]
    return counts.rename_axis("answer").to_frame("cells").assign(**{"Cell Ontology": links})


def joint_table(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the `predictions_table` of several targets below each other, the column `target` first.

    A cell type that the model of a target lacks has no probability there (0); one named `target` has the column `p(target)`.
    """
    if len({tuple(table.columns) for table in tables.values()}) == 1:
        joint = pd.concat(list(tables.values()))
    else:
        first = list(dict.fromkeys(name for t in tables.values() for name in t.columns[: n_before_probabilities(t)]))
        every = dict.fromkeys(name for table in tables.values() for name in table.columns)
        types = [name for name in every if name not in (*first, "labels")]
        types.sort(key=lambda name: name[2:-1] if name.startswith("p(") else name)
        last = ["labels"] if "labels" in every else []
        joint = pd.concat(list(tables.values())).reindex(columns=[*first, *types, *last])
        joint[types] = joint[types].fillna(0.0)
    joint = joint.rename(columns={"target": "p(target)"})
    joint.insert(0, "target", [name for name, table in tables.items() for _ in range(len(table))])
    return joint


def joint_latent(latents: Sequence[np.ndarray]) -> np.ndarray:
    """Return the latents (n, d) of several targets below each other; where d differs, shorter ones end in zeros."""
    width = max(latent.shape[1] for latent in latents)
    return np.concatenate([np.pad(latent, ((0, 0), (0, width - latent.shape[1]))) for latent in latents])


def preview(result: TargetResult, n: int = 5) -> pd.DataFrame:
    """Return the first cells' predictions in short: the columns before the probabilities, [`labels`]."""
    table = predictions_table(result)
    short = table.iloc[:, : n_before_probabilities(table)]
    return (short.assign(labels=table["labels"]) if result.labels is not None else short).head(n)


def annotate_obs(adata: ad.AnnData, table: pd.DataFrame, classes: list[str], latent: np.ndarray) -> None:
    """Add `obs` `jind_prediction`, `jind_raw_prediction`, `jind_reason`, [`jind_level`], [`jind_cluster`,
    `jind_cluster_majority`] (categories), `jind_confidence`, [`jind_doublet_score`], [`jind_cluster_share`] (float32), `obsm['X_jind']`
    (float32, n x size of the latent space), and `uns['jind_prediction_colors']`, which scanpy's pictures use, from a `predictions_table`, row by row; an earlier annotation is replaced."""
    answers = answers_of(table, classes)
    obs, before = adata.obs, table.columns[: n_before_probabilities(table)]
    obs.drop(
        columns=[f"jind_{name}" for name in ("level", DOUBLET_SCORE, *CLUSTER_COLUMNS)] + [OBS_TERM],
        errors="ignore",
        inplace=True,
    )
    obs["jind_prediction"] = pd.Categorical(table["predictions"], categories=answers)
    obs["jind_raw_prediction"] = pd.Categorical(table["raw_predictions"], categories=classes)
    obs["jind_confidence"] = table["confidence"].to_numpy(dtype=np.float32)
    obs["jind_reason"] = pd.Categorical(table["reason"], categories=_reasons("level" in before, set(table["reason"])))
    if DOUBLET_SCORE in before:
        obs["jind_doublet_score"] = table[DOUBLET_SCORE].to_numpy(dtype=np.float32)
    if TERM_COLUMN in before:
        obs[OBS_TERM] = pd.Categorical(table[TERM_COLUMN])
    if "level" in before:
        obs["jind_level"] = pd.Categorical(table["level"], categories=[str(level) for level in Level])
    if "cluster" in before:
        obs["jind_cluster"] = pd.Categorical(table["cluster"], categories=sorted(set(table["cluster"]), key=int))
        obs["jind_cluster_majority"] = pd.Categorical(table["cluster_majority"], categories=answers)
        obs["jind_cluster_share"] = table["cluster_share"].to_numpy(dtype=np.float32)
    adata.obsm["X_jind"] = latent.astype(np.float32, copy=False)
    adata.uns["jind_prediction_colors"] = list(colours_of(answers).values())


def answers_of(table: pd.DataFrame, classes: Sequence[str]) -> list[str]:
    """Return all answers of a `predictions_table` in the order to show them: types, parents that were given, `Unassigned`."""
    return [*classes, *sorted(set(table["predictions"]) - {*classes, UNASSIGNED}), UNASSIGNED]


def probabilities_of(table: pd.DataFrame, classes: list[str]) -> np.ndarray:
    """Return the probabilities (n_cells, K) of a `predictions_table`."""
    first = n_before_probabilities(table)
    return table.iloc[:, first : first + len(classes)].to_numpy()


def n_before_probabilities(table: pd.DataFrame) -> int:
    """Count the columns of a predictions table before the probabilities; no type's column is named like them."""
    return int((table.columns.isin(BEFORE_PROBABILITIES) | table.columns.str.fullmatch(LEVEL_COLUMN)).sum())


def fallback_table(result: TargetResult) -> pd.DataFrame:
    """Return a row for each parent of several types: its types, the probability it needs, and `cells` that fell back to it,
    how many of them are `labelled` and of how many the `parent is right`."""
    if not result.parents:
        return pd.DataFrame({"note": ["PARENTS is not set: no cell was given a coarser type."]})
    rows: dict[str, dict[str, Any]] = {}
    for level, thresholds in result.levels:
        parent = data_parents.parents_of(result.final.classes, level)
        for name in sorted({name for name in parent if parent.count(name) > 1} - set(rows)):
            numbers = count_fallbacks(result, result.fallback == name)
            types = [cell_type for cell_type, of in zip(result.final.classes, parent, strict=True) if of == name]
            rows[name] = {"cell types": ", ".join(types), "required probability": thresholds[name]} | numbers
    table = pd.DataFrame.from_dict(rows, orient="index").rename(columns={"right": "parent is right"})
    return table.rename_axis("parent").round(3)


def composition_table(result: TargetResult, plan: Plan) -> pd.DataFrame:
    """Return a row for each cell type, most assigned first, with numbers of the cells most like it: `assigned`,
    `parent_only` (given the parent), `rejected` (Unassigned), `unlike` (those of the rejected that are unlike all annotated cells),
    `median_confidence` of the others; and `training_cells` of all annotated batches together (None of a saved model)."""
    final = result.final
    answers = {"raw": final.raw, "level": result.level, "reason": result.reasons, "confidence": final.confidence}
    return count_types(pd.DataFrame(answers), plan).sort_values("assigned", ascending=False, kind="stable")


def count_types(answers: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Return `composition_table` in the order of the model's types.

    Parameters
    ----------
    answers
        A row for each cell: `raw` (most probable type), `level` (`Level` as text), `reason`, `confidence`.
    """
    table = pd.crosstab(answers["raw"].to_numpy(), answers["level"].to_numpy())
    table = table.reindex(index=plan.classes, columns=list(map(str, Level)), fill_value=0)
    table.columns = pd.Index(["assigned", "parent_only", "rejected"])
    unlike = answers["reason"] == UNLIKE
    table["unlike"] = unlike.groupby(answers["raw"]).sum().reindex(table.index, fill_value=0)
    table["median_confidence"] = answers[~unlike].groupby("raw")["confidence"].median()
    table["training_cells"] = None
    if plan.cells:
        table["training_cells"] = pd.DataFrame(plan.cells).sum(axis=1).reindex(table.index, fill_value=0).astype(int)
    return table.rename_axis("cell type")


def composition_shares(composition: pd.DataFrame, plan: Plan, most: int) -> pd.DataFrame:
    """Return a row for each cell type of the target or an annotated batch, shares from 0 to 1, the largest first.

    Parameters
    ----------
    composition
        As `composition_table` returns it.
    most
        Rows; where there are more types, the last row of them is all others together.

    Returns
    -------
    Of the target `assigned`, `parent_only`, `rejected` (of the cells most like the type) and `cells` (int, assigned); of the
    annotated batches' training cells `mean`, `low` and `high` (NaN of a saved model, the latter two of a single batch too). Cells unlike all annotated ones are like no type:
    they are `rejected` in a row of their own, the last, named UNLIKE, if there are any.
    """
    names = ["assigned", "parent_only", "rejected"]
    n_cells, n_unlike = max(1, composition[names].to_numpy().sum()), composition["unlike"].sum()
    table = composition[names].assign(rejected=composition["rejected"] - composition["unlike"]) / n_cells
    table["cells"] = composition["assigned"]
    shares = pd.DataFrame(plan.cells, dtype=float).reindex(table.index).fillna(0.0)
    shares = shares / shares.sum()
    table["total"] = table[names].sum(axis=1) + (shares.mean(axis=1) * 1e-6 if len(shares.columns) else 0)
    order = table["total"].sort_values(ascending=False, kind="stable").index
    if len(order) > most:
        rest = order[most - 1 :]
        other = f"{len(rest)} other types"
        table.loc[other], shares.loc[other] = table.loc[rest].sum(), shares.loc[rest].sum()
        order = [*order[: most - 1], other]
    table, shares = table.loc[order], shares.loc[order]
    several = shares if shares.shape[1] > 1 else shares * np.nan
    spread = {"mean": shares.mean(axis=1), "low": several.min(axis=1), "high": several.max(axis=1)}
    table = table.assign(**spread).drop(columns="total").astype({"cells": int})
    if n_unlike:
        table.loc[UNLIKE] = pd.Series({"assigned": 0.0, "parent_only": 0.0, "rejected": n_unlike / n_cells, "cells": 0})
    return table.astype({"cells": int})


def most_like_shares(composition: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Return a row for each cell type: `here`, its share of the target's cells by what they are most like, those that are unlike all
    annotated cells left out, and `mean`, `low` and `high` of the annotated batches (NaN as in `composition_shares`): 0 to 1.

    `composition` is as `composition_table` returns it.
    """
    shares = composition_shares(composition, plan, len(composition)).drop(index=UNLIKE, errors="ignore")
    here = shares[["assigned", "parent_only", "rejected"]].sum(axis=1)
    return shares[["mean", "low", "high"]].assign(here=here / (here.sum() or 1.0))


def error_columns(error: ExpectedError) -> dict[str, object]:
    """Return the expected error of a sample in percent, and between which shares it probably is, as columns of a table."""
    return {
        "expected error %": None if error.value is None else 100 * error.value,
        "likely range %": "not known"
        if error.range is None
        else " to ".join(f"{100 * end:.1f}" for end in error.range),
    }


def quality_table(x: sparse.csr_matrix, result: TargetResult) -> pd.DataFrame:
    """Return `features` (above zero) and `reason` of each target cell.

    Parameters
    ----------
    x
        The target's values, (n_target, n_features). What a cell's values add up to says nothing of its quality: mostly all cells were
        brought to one total.
    """
    return pd.DataFrame({"features": np.asarray((x > 0).sum(axis=1)).ravel(), "reason": result.reasons})


def confusion_table(result: TargetResult) -> pd.DataFrame | None:
    """Return counts of the target's labelled cells, true types by answers with `Unassigned` last; None without labels."""
    if result.labels is None or not pd.notna(result.labels).any():
        return None
    known = pd.notna(result.labels)
    counts = pd.crosstab(result.labels[known], result.names[known])
    others = sorted(set(counts.index) - set(result.final.classes))
    rows = [name for name in result.final.classes if name in counts.index] + others
    used = [name for name in result.answers if name in counts.columns or name in rows]
    return counts.reindex(
        index=rows, columns=[*(name for name in used if name != UNASSIGNED), UNASSIGNED], fill_value=0
    )


def left_out_confusion(calibration: Calibration | None, classes: list[str]) -> pd.DataFrame | None:
    """Return the counts of `confusion_table` for all left-out batches together; None where they are not known."""
    if calibration is None or not calibration.confusion:
        return None
    counts = np.zeros((len(classes), len(classes) + 1), dtype=int)
    for true, given, n in calibration.confusion:
        if 0 <= true < len(classes) and 0 <= given <= len(classes):  # a model's description comes from others
            counts[true, given] = n
    table = pd.DataFrame(counts, classes, [*classes, UNASSIGNED])
    used = (table.sum(axis=1) > 0) | (table[classes].sum() > 0)
    return table.loc[table.sum(axis=1) > 0, [*used.index[used], UNASSIGNED]]


def left_out_title(calibration: Calibration | None) -> str:
    """Return the title of a picture of `left_out_confusion`."""
    return left_out_caption(calibration, "Left-out annotated batches, all together")


def left_out_caption(calibration: Calibration | None, of_several: str) -> str:
    """Return the caption of a `left_out_table`: `of_several` unless there is a single annotated batch."""
    is_alone = calibration is not None and calibration.n_annotated == 1
    return "Held-out cells of the only annotated batch" if is_alone else of_several


def left_out_tables(calibrations: Mapping[str, Calibration]) -> pd.DataFrame:
    """Return `left_out_table` of each alignment mode, one below the other."""
    if not calibrations:
        return pd.DataFrame({"note": ["METHOD reference leaves no batch out; its probabilities are not calibrated."]})
    if next(iter(calibrations.values())).n_annotated == 1:
        words = {AlignmentMode.UNALIGNED: "with or without"}  # all modes have the same
    else:
        words = MODE_WORDS
    tables = {label: left_out_table(calibrations[mode]) for mode, label in words.items() if mode in calibrations}
    return pd.concat(tables, names=["alignment"])


def left_out_captions(calibrations: Mapping[str, Calibration]) -> tuple[str, str]:
    """Return the captions of `left_out_tables` and `suspects_table`, which fit a single annotated batch too."""
    is_alone = any(of_mode.n_annotated == 1 for of_mode in calibrations.values())
    cells = "held-out cells of the only annotated batch" if is_alone else "left-out cells"
    how = (
        "Held-out cells of the only annotated batch"
        if is_alone
        else "Each left-out batch, without alignment and with it"
    )
    return how, f"Labels that answers for {cells} contradict; suspect_labels.csv has every cell"


def noticed_table(calibration: Calibration | None, classes: Sequence[str]) -> pd.DataFrame:
    """Return a row for each annotated type: the share of its cells that would be noticed, were it new, in %, the least noticed
    first; last the types that could not be hidden."""
    if calibration is None:
        return pd.DataFrame({"note": ["No annotated batch was left out, so no type was hidden."]})
    if not calibration.noticed:
        return pd.DataFrame(
            {
                "note": [
                    "No type could be hidden: that needs ten cells of it in one annotated batch, some in another, and two other types there."
                ]
            }
        )
    shares = pd.Series(calibration.noticed).mul(100).round(1).sort_values(kind="stable").astype(object)
    others = pd.Series("not known", [name for name in classes if name not in shares.index], dtype=object)
    return pd.concat([shares, others]).rename_axis("cell type").to_frame("noticed %")


def suspects_table(suspects: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a row for each batch and label of which left-out answers contradict cells, most cells first: their number, and what
    they are called most often. At most `MOST_SUSPECTS` rows."""
    if not suspects:
        return pd.DataFrame({"note": ["No label is contradicted by these answers."]})
    groups = pd.DataFrame(suspects).groupby(["batch", "label"], sort=False)["answer"]
    table = groups.agg(
        **{"suspect cells": "size", "most often called": lambda answers: answers.value_counts().index[0]}
    )
    return table.sort_values("suspect cells", ascending=False, kind="stable").head(MOST_SUSPECTS)


def left_out_table(calibration: Calibration) -> pd.DataFrame:
    """Return how the method did on each left-out batch (of a single one: on its held-out cells), shares as percent."""
    names = {
        "cells": "cells", "checked": "checked of labelled %", "raw_accuracy": "right before rejection %", "assigned": "assigned %",
        "error_among_assigned": "wrong among assigned %", "unlike_reference": "unlike reference %", "AURC": "AURC",
        "calibration_error": "calibration error %",
    }  # fmt: skip
    table = pd.DataFrame(calibration.batches).set_index("batch").reindex(columns=list(names))
    table = table.rename(columns=names).astype(float).dropna(axis=1, how="all")  # an older model does not have all
    shares = table.columns.str.endswith("%")
    table.loc[:, shares] = (100 * table.loc[:, shares]).round(1)
    return table.round({"AURC": 3}).astype({"cells": int})
