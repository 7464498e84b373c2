"""How right predictions are: pure formulas (docs/method_reference.md section 7)."""

import math
from typing import Any

import numpy as np
import pandas as pd

BINS = 15  # of confidence, in reliability diagrams


def highest_error_of_none(n: int) -> float:
    """Return the share of wrong cells that n cells without any wrong one leave possible: 1, where there are none.

    It is the upper end of the exact one-sided 95 % interval of Clopper & Pearson 1934 (Biometrika, doi 10.1093/biomet/26.4.404),
    nearly 3 / n (the rule of three). It takes the cells to be independent, which cells of few batches are not.

    >>> round(highest_error_of_none(175), 4)
    0.017
    """
    return float(1 - 0.05 ** (1 / n)) if n else 1.0


def average_precision(is_type: np.ndarray, score: np.ndarray) -> float:
    """Return the area under the all-point interpolated precision-recall curve of one type.

    Cells are ranked by score, highest first; cells of equal score with the wrong ones first, so that ties never
    help. Precision is made monotone from the right (the best precision at this recall or a higher one). This is
    PASCAL VOC's all-point average precision (Everingham et al. 2010, doi 10.1007/s11263-009-0275-4).

    Parameters
    ----------
    is_type
        Bool (n_cells,): the cell is of the type.
    score
        Float (n_cells,): its predicted probability.

    Returns
    -------
    0 to 1; NaN if no cell is of the type.

    >>> average_precision(np.array([True, False, True]), np.array([0.9, 0.5, 0.4]))
    0.8333333333333333
    """
    n = int(is_type.sum())
    if n == 0:
        return float("nan")
    order = np.lexsort((is_type, -score))
    hits = is_type[order]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best_from_here[hits].sum() / n)


def risk_coverage(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the error among the assigned cells when only the most confident ones are assigned, one more at a time.

    Cells of equal confidence share their errors evenly, so that their order does not matter (Geifman & El-Yaniv 2017,
    arXiv:1705.08500).

    Parameters
    ----------
    confidence, right
        Float and bool (n_cells,).

    Returns
    -------
    Coverage (share of cells assigned, ascending to 1) and risk (share of those that are wrong), (n_cells,) each.

    >>> [v.round(2).tolist() for v in risk_coverage(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]))]
    [[0.33, 0.67, 1.0], [0.0, 0.5, 0.33]]
    """
    n = len(right)
    _, group = np.unique(-confidence, return_inverse=True)
    errors_per_cell = np.bincount(group, weights=~right) / np.maximum(np.bincount(group), 1)
    cells = np.arange(1, n + 1)
    return cells / max(n, 1), np.cumsum(errors_per_cell[np.sort(group)]) / cells


def area_under_risk_coverage(confidence: np.ndarray, right: np.ndarray) -> float:
    """Return AURC, the mean risk of `risk_coverage`; 0 is best, NaN without cells."""
    risk = risk_coverage(confidence, right)[1]
    return float(risk.mean()) if len(risk) else float("nan")


def accuracy_at_coverage(confidence: np.ndarray, right: np.ndarray, coverage: float) -> float:
    """Return the effective accuracy when just this share of the cells, the most confident, is assigned (rounded up to a cell).

    By it methods are compared whose own thresholds reject different shares. Cells of equal confidence share their errors
    evenly; NaN without cells.

    >>> accuracy_at_coverage(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, True, False, True]), 0.5)
    1.0
    """
    risk = risk_coverage(confidence, right)[1]
    # A share is never an exact binary number: 0.95 of 20 cells are 19.
    return float(1 - risk[math.ceil(coverage * len(risk) - 1e-9) - 1]) if len(risk) else float("nan")


def balanced_accuracy(truth: np.ndarray, raw: np.ndarray) -> float:
    """Return the mean, over the types among the true labels, of the share of a type's cells called right; NaN without cells.

    >>> balanced_accuracy(np.array(["B", "B", "B", "T"]), np.array(["B", "B", "B", "B"]))
    0.5
    """
    from sklearn.metrics import recall_score  # takes 0.7 s to import, and `predict` measures nothing

    return float(recall_score(truth, raw, labels=sorted(set(truth)), average="macro")) if len(truth) else float("nan")


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> pd.DataFrame:
    """Return how often cells of a confidence are right: one row for each of `bins` equally wide ranges of confidence that
    holds cells, with `cells`, `confidence` (mean) and `right` (share).

    Parameters
    ----------
    confidence, right
        Float in 0 to 1 and bool (n_cells,).
    """
    table = pd.DataFrame({"bin": _bin(confidence, bins), "c": confidence, "r": right})
    return table.groupby("bin").agg(cells=("c", "size"), confidence=("c", "mean"), right=("r", "mean"))


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """Return the expected calibration error: mean difference between confidence and share right over the rows of `reliability`,
    weighted by their cells (Guo et al. 2017, arXiv:1706.04599); NaN without cells.

    >>> round(calibration_error(np.array([0.8, 0.8]), np.array([True, False])), 2)
    0.3
    """
    if not len(right):
        return float("nan")
    apart = np.bincount(_bin(confidence, bins), weights=confidence - right)
    return float(np.abs(apart).sum() / len(right))


def _bin(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Return which of `bins` equally wide ranges each confidence is in, int (n_cells,)."""
    ranges: np.ndarray = np.minimum((confidence * bins).astype(int), bins - 1)
    return ranges


def per_type_table(truth: np.ndarray, raw: np.ndarray, kept: np.ndarray, types: list[str]) -> dict[str, dict[str, Any]]:
    """Return counts and precision, recall, F1 of each type, before rejection.

    Parameters
    ----------
    truth, raw
        Names (n_cells,): true and most probable type.
    kept
        Bool (n_cells,): not rejected.
    types
        The types to tell about.

    Returns
    -------
    For each type `cells`, `rejected`, `right` (kept and right), `misclassified` (kept and wrong), `precision` (None
    where it was never predicted), `recall`, `f1`.
    """
    table: dict[str, dict[str, Any]] = {}
    right = raw == truth
    for name in types:
        true, called = truth == name, raw == name
        n_true, n_called, n_right = int(true.sum()), int(called.sum()), int((true & right).sum())
        table[name] = {
            "cells": n_true,
            "rejected": int((true & ~kept).sum()),
            "right": int((true & kept & right).sum()),
            "misclassified": int((true & kept & ~right).sum()),
            "precision": n_right / n_called if n_called else None,
            "recall": n_right / n_true if n_true else None,
            "f1": 2 * n_right / (n_true + n_called) if n_true or n_called else None,
        }
    return table


def confusion(truth: np.ndarray, predictions: np.ndarray, rows: list[str], columns: list[str]) -> np.ndarray:
    """Return counts int64 (len(rows), len(columns)): cells of true type (row) that were called (column), names given once each."""
    counts = np.zeros((len(rows), len(columns)), dtype=np.int64)
    row, column = pd.Index(rows).get_indexer(truth), pd.Index(columns).get_indexer(predictions)
    named = (row >= 0) & (column >= 0)
    np.add.at(counts, (row[named], column[named]), 1)
    return counts
