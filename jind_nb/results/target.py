"""The target after the last stage, and what is computed from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from ..core.labels import AMBIGUOUS, CONFIDENT, DOUBLET, NO_VALUES, OUTSIDE, PARENT_ONLY, UNASSIGNED, UNLIKE
from ..data import parents as data_parents
from ..data.allowed_types import allowed_types
from ..model import hierarchy
from ..model.calibration import Calibration
from ..model.history import HELD_OUT, UNSEEN, StageResult, evaluate, stage_result
from ..model.predictions import Predictions
from ..model.state import AlignmentMode
from .clusters import Clusters

# Why a cell was given its type, its parent or nothing.
REASONS = (CONFIDENT, PARENT_ONLY, AMBIGUOUS, UNLIKE, OUTSIDE, DOUBLET, NO_VALUES)
MANY_UNLIKE = 0.05  # of the cells, that the first sentence names


class Level(StrEnum):
    """What kind of answer a cell got."""

    TYPE = "cell type"
    PARENT = "parent"
    UNASSIGNED = UNASSIGNED


@dataclass
class TargetResult:
    """The target after the last stage."""

    stages: dict[str, Predictions]  # in order; the last is the answer
    cells: np.ndarray  # names (n_target,), as in the file
    latent: np.ndarray  # (n_target, d), of the last stage
    labels: np.ndarray | None  # objects (n_target,), None where unknown; None without any
    mode: str = AlignmentMode.UNALIGNED  # in which the last stage was annotated
    without_evidence: list[str] = field(default_factory=list)  # types with too few held-out cells for a threshold
    parents: data_parents.Parents = field(default_factory=dict)  # cell type -> parent; empty: no cell falls back
    parent_thresholds: Mapping[str, float] = field(default_factory=dict)
    # Further levels, the nearest first: cell type -> parent, and the thresholds of these.
    coarser: Sequence[data_parents.Parents] = ()
    coarser_thresholds: Sequence[Mapping[str, float]] = ()
    ontology: Mapping[str, str] = field(default_factory=dict)  # cell type or parent -> term of the Cell Ontology
    clusters: Clusters | None = None
    types: list[str] = field(default_factory=list)  # TYPES: the only ones that may be given; empty: all
    groups: pd.DataFrame | None = None  # `new_groups.Groups.table`, where groups were looked for and found
    doublet_scores: np.ndarray | None = None  # float32 (n_target,); None: DOUBLETS did not ask
    of_all_types: Predictions | None = None  # the answer without TYPES, where they are given

    @property
    def final(self) -> Predictions:
        return list(self.stages.values())[-1]

    @cached_property
    def fallback(self) -> np.ndarray:
        """The parent that a cell falls back to, the nearest that is confident, objects (n_target,); None where it does not."""
        fallen = np.full(len(self.cells), None, dtype=object)
        for parents, thresholds in self.levels:
            here = hierarchy.fall_back(self.final, parents, thresholds)
            fallen = np.where(pd.isna(fallen), here, fallen)
        return fallen

    @property
    def levels(self) -> list[tuple[data_parents.Parents, Mapping[str, float]]]:
        """Each level of parents and their thresholds, the nearest first; none without parents."""
        nearest = [(self.parents, self.parent_thresholds)] if self.parents else []
        return [*nearest, *zip(self.coarser, self.coarser_thresholds, strict=True)]

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
        """What kind of answer that is, `Level` as text, objects (n_target,)."""
        return np.select([self.fell_back, self.final.rejected], [Level.PARENT, UNASSIGNED], Level.TYPE).astype(object)

    @property
    def reasons(self) -> np.ndarray:
        """Why, objects (n_target,), of REASONS."""
        return np.where(self.fell_back, PARENT_ONLY, self.final.reasons)

    @property
    def answers(self) -> list[str]:
        """All possible answers, in the order to show them: types, parents, `Unassigned`."""
        parents = {name for level, _ in self.levels for name in data_parents.parents_of(self.final.classes, level)}
        return [*self.final.classes, *sorted(parents - set(self.final.classes)), UNASSIGNED]


def counts_in_words(levels: Mapping[Level, int], n_unlike: int) -> str:
    """Return how many cells got each kind of answer, and how many are unlike all annotated ones, in words.

    >>> counts_in_words({Level.TYPE: 90, Level.UNASSIGNED: 10}, 8)
    '90 of 100 cells assigned, 10 left Unassigned (8 of them unlike all annotated cells)'
    """
    n = sum(levels.values())
    parents = f"{levels[Level.PARENT]:,} given a parent type only, " if Level.PARENT in levels else ""
    of_them = "all" if n_unlike == levels[Level.UNASSIGNED] else f"{n_unlike:,}"
    unlike = f" ({of_them} of them unlike all annotated cells)" if n_unlike > MANY_UNLIKE * n else ""
    return (
        f"{levels[Level.TYPE]:,} of {n:,} cells assigned, {parents}{levels[Level.UNASSIGNED]:,} left Unassigned{unlike}"
    )


def with_types(result: TargetResult, types: Sequence[str]) -> TargetResult:
    """Return the result with TYPES as the only types that may be given, at every stage; unchanged without any.

    Raises
    ------
    InputError
        As `allowed_types` does.
    """
    if not types:
        return result
    allowed = allowed_types(types, result.final.classes)
    stages = {stage: predictions.among(allowed) for stage, predictions in result.stages.items()}
    return replace(result, stages=stages, types=list(types), of_all_types=result.final)


def with_parents(
    result: TargetResult, parents: data_parents.Parents, coarser: Sequence[data_parents.Parents] = ()
) -> TargetResult:
    """Return the result with ambiguous cells falling back to their type's parent, or to one of a further level; unchanged
    without parents."""
    if not parents:
        return result
    nearest, *others = (hierarchy.parent_thresholds(result.final, level) for level in (parents, *coarser))
    return replace(result, parents=parents, parent_thresholds=nearest, coarser=coarser, coarser_thresholds=others)


def target_rows(prepared: ad.AnnData, target: str) -> np.ndarray:
    """Return the target's rows of the prepared cells, int (n_target,)."""
    return np.flatnonzero((prepared.obs["batch"] == target).to_numpy())


def target_points(points: pd.DataFrame, prepared: ad.AnnData, target: str) -> pd.DataFrame:
    """Return the target's points of an embedding (column `row`), with the column `cell`, int: which of its cells it is."""
    rows = target_rows(prepared, target)
    here = points[points["row"].isin(rows)]
    return here.assign(cell=np.searchsorted(rows, here["row"]))


def evaluate_target(result: TargetResult, target: str) -> list[StageResult]:
    """Return the results of every stage on the target's labelled cells; empty without labels."""
    if result.labels is None:
        return []
    known = pd.notna(result.labels)
    return [
        stage_result(target, stage, UNSEEN, result.labels[known], predictions.subset(known))
        for stage, predictions in result.stages.items()
    ]


@dataclass(frozen=True)
class LabelledCells:
    """What the confidence of the target's labelled cells is worth."""

    confidence: np.ndarray  # float (n_labelled,), final
    right: np.ndarray  # bool (n_labelled,): the most probable type is the label
    lowered: (
        np.ndarray
    )  # bool (n_labelled,): the confidence is less than the probability of the type (METHOD `default`)


def labelled_confidence(result: TargetResult) -> LabelledCells | None:
    """Return the final confidence of the target's labelled cells, and whether it is right; None without any."""
    if result.labels is None or not (known := pd.notna(result.labels)).any():
        return None
    final = result.final.subset(known)
    lowered = final.confidence < final.probabilities.max(axis=1)
    return LabelledCells(final.confidence, final.raw == result.labels[known], lowered)


def known_types_metrics(result: TargetResult) -> dict[str, Any] | None:
    """Return the last stage's numbers over the cells whose true type an annotated batch has; None without any."""
    could_be_known = pd.Series(result.labels, dtype=object).isin(result.final.classes).to_numpy()
    if result.labels is None or not could_be_known.any():
        return None
    return evaluate(result.labels[could_be_known], result.final.subset(could_be_known))[0]


def fallback_metrics(result: TargetResult) -> dict[str, Any] | None:
    """Return `count_fallbacks` over all cells that fell back to a parent; None where no parents are given.

    These cells count as `rejected` in all numbers of types.
    """
    return count_fallbacks(result, result.fell_back) if result.parents else None


def count_fallbacks(result: TargetResult, here: np.ndarray) -> dict[str, Any]:
    """Count some of the cells that fell back, bool (n_target,): `cells`, `labelled`, and `right` (the parent is that of the
    true type; None without labels)."""
    numbers: dict[str, Any] = {"cells": int(here.sum()), "labelled": 0, "right": None}
    if result.labels is not None:
        known = here & pd.notna(result.labels)
        truths = [data_parents.parents_of(list(result.labels[known]), level) for level, _ in result.levels]
        right = (np.array(truths, dtype=object) == result.fallback[known]).any(axis=0)
        numbers |= {"labelled": int(known.sum()), "right": int(right.sum())}
    return numbers


def held_out_accuracy(history: list[StageResult]) -> dict[str, float] | None:
    """Return how the final model did on held-out cells of all annotated batches together: `cells`, `assigned`,
    `raw_accuracy`, `effective_accuracy`; None without any."""
    final = {s.batch: s for s in history if s.cells == HELD_OUT}  # the last stage of each batch
    cells = sum(s.metrics["cells"] for s in final.values())
    if not cells:
        return None
    kept = sum(s.metrics["cells"] - s.metrics["rejected"] for s in final.values())
    wrong = sum(s.metrics["misclassified"] for s in final.values())
    right = sum(s.metrics["raw_accuracy"] * s.metrics["cells"] for s in final.values())
    effective = 1 - wrong / kept if kept else 0.0
    return {"cells": cells, "assigned": kept, "raw_accuracy": right / cells, "effective_accuracy": effective}


def target_calibration(training: Mapping[str, Any], result: TargetResult) -> Calibration | None:
    """Return the calibration on left-out batches that were annotated in the target's way; None without any."""
    calibrations = training["calibration"]
    values = calibrations.get(result.mode) or calibrations.get(AlignmentMode.UNALIGNED)
    return Calibration.from_json(values) if values else None
