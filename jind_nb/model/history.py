"""How one stage's model did on labelled cells of one batch: the record that training, evaluation and report share."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from ..core.labels import UNASSIGNED
from ..metrics import area_under_risk_coverage, average_precision, calibration_error, confusion, per_type_table
from .predictions import Predictions


@dataclass(frozen=True)
class StageResult:
    """How one stage's model did on labelled cells of one batch. Plain values only: it is saved as JSON.

    `confusion` has a row for each of `truth` and a column for each of `predicted`, whose last is `Unassigned`.
    """

    batch: str
    stage: str
    cells: str
    truth: list[str]
    predicted: list[str]
    confusion: list[list[int]]
    metrics: dict[str, Any]
    per_class: dict[str, dict[str, Any]]


class EvaluatedCells(StrEnum):
    """Which cells of a batch are evaluated."""

    TRAINED_ON = "training cells"
    HELD_OUT = "held-out cells"
    UNSEEN = "cells never trained on"


TRAINED_ON, HELD_OUT, UNSEEN = EvaluatedCells


def without_training_cells(history: Sequence[StageResult]) -> list[StageResult]:
    """Return the results but those on training cells, which flatter; a stage of a batch that has no others keeps them."""
    has_others = {(result.batch, result.stage) for result in history if result.cells != TRAINED_ON}
    return [
        result for result in history if result.cells != TRAINED_ON or (result.batch, result.stage) not in has_others
    ]


def stages_to_compare(history: Sequence[StageResult]) -> list[StageResult]:
    """Return the results on cells that the stage was not trained on; none where there is a single one, beside nothing."""
    untrained = [result for result in history if result.cells != TRAINED_ON]
    return untrained if len(untrained) > 1 else []


def evaluate(truth: np.ndarray, predictions: Predictions) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return all numbers of docs/method_reference.md section 7 for labelled cells.

    Parameters
    ----------
    truth
        True types, objects (n_cells,); a cell of a type the model does not know is right only when it is rejected.

    Returns
    -------
    `cells`, `unknown_type` (cells of a type the model does not know), `rejected`, `misclassified` (assigned and wrong);
    `raw_accuracy` (before rejection), `effective_accuracy` (among cells not rejected, None if there is none),
    `accuracy` (share that is assigned and right, or rightly rejected: of an unknown type), `rejection` (share), `mAP`
    and `macro_F1` (means over the types present, before rejection; a type the model does not know counts 0), `AURC`
    and `calibration_error` of the confidence. And a table for each type present.
    """
    classes, raw, kept = predictions.classes, predictions.raw, ~predictions.rejected
    right, unknown = raw == truth, ~np.isin(truth.astype(str), classes)
    present = sorted(set(truth))
    table = per_type_table(truth, raw, kept, present)
    for name, row in table.items():
        row["average_precision"] = (
            average_precision(truth == name, predictions.probabilities[:, classes.index(name)])
            if name in classes
            else 0.0
        )
    n = len(truth)
    metrics = {
        "cells": n,
        "unknown_type": int(unknown.sum()),
        "rejected": int((~kept).sum()),
        "misclassified": int((kept & ~right).sum()),
        "raw_accuracy": float(right.mean()) if n else None,
        "effective_accuracy": float(right[kept].mean()) if kept.any() else None,
        "accuracy": float(np.where(unknown, ~kept, kept & right).mean()) if n else None,
        "rejection": float((~kept).mean()) if n else None,
        "mAP": float(np.mean([row["average_precision"] for row in table.values()])) if n else None,
        "macro_F1": float(np.mean([row["f1"] for row in table.values()])) if n else None,
        "AURC": area_under_risk_coverage(predictions.confidence, right) if n else None,
        "calibration_error": calibration_error(predictions.confidence, right) if n else None,
    }
    return metrics, table


def stage_result(batch: str, stage: str, cells: str, truth: np.ndarray, predictions: Predictions) -> StageResult:
    """Evaluate one stage on one batch, with the confusion matrix after rejection."""
    metrics, table = evaluate(truth, predictions)
    rows = sorted(set(truth) | set(predictions.classes))
    columns = [*predictions.classes, UNASSIGNED]
    counts = confusion(truth, predictions.names, rows, columns)
    return StageResult(batch, stage, cells, rows, columns, counts.tolist(), metrics, table)
