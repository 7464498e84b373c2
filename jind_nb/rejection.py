"""When a prediction is too doubtful to keep: class-wise thresholds, and why a cell was rejected."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

UNASSIGNED = "Unassigned"
NO_EVIDENCE = 0.9
REASONS = ("confident", "ambiguous", "unlike reference")


def class_thresholds(probabilities: np.ndarray, theta: float) -> np.ndarray:
    """The confidence below which a prediction of each type is rejected (method.md section 3).

    For type k: the top probabilities of the held-out cells whose most probable type is k, ascending, n of them; the
    threshold is the one at 0-based index floor(theta * n) + 1, and 0.9 where there is none.

    Parameters
    ----------
    probabilities
        Of the held-out cells, (n_cells, K).
    theta
        Share of a type's held-out cells to reject, 0 to 1.

    Returns
    -------
    Thresholds float64 (K,).

    >>> class_thresholds(np.array([[0.6, 0.4], [0.7, 0.3], [0.8, 0.2]]), 0.05)
    array([0.7, 0.9])
    """
    top = probabilities.max(axis=1, initial=0.0)
    winner = probabilities.argmax(axis=1)
    thresholds = np.full(probabilities.shape[1], NO_EVIDENCE)
    for k in range(probabilities.shape[1]):
        of_k = np.sort(top[winner == k])
        index = math.floor(theta * len(of_k)) + 1
        if index < len(of_k):
            thresholds[k] = of_k[index]
    return thresholds


@dataclass(frozen=True)
class Predictions:
    """What a model says of some cells, and what its thresholds make of it.

    >>> p = Predictions(["B", "T"], np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([0.8, 0.8]))
    >>> list(p.raw), list(p.names)
    (['B', 'T'], ['B', 'Unassigned'])
    """

    classes: list[str]  # the K types of the model
    probabilities: np.ndarray  # float (n_cells, K)
    thresholds: np.ndarray  # float (K,)

    @property
    def raw(self) -> np.ndarray:
        """The most probable type of each cell, objects (n_cells,); the first of equals."""
        return np.array(self.classes, dtype=object)[self.probabilities.argmax(axis=1)]

    @property
    def confidence(self) -> np.ndarray:
        """The probability of the most probable type, (n_cells,)."""
        return self.probabilities.max(axis=1)

    @property
    def rejected(self) -> np.ndarray:
        """Bool (n_cells,): the confidence is strictly below the threshold of its type."""
        return self.confidence < self.thresholds[self.probabilities.argmax(axis=1)]

    @property
    def names(self) -> np.ndarray:
        """`raw`, with `Unassigned` for the rejected: objects (n_cells,)."""
        return np.where(self.rejected, UNASSIGNED, self.raw)

    def of(self, cells: np.ndarray) -> Predictions:
        """Only some cells, bool or index (n_chosen,)."""
        return Predictions(self.classes, self.probabilities[cells], self.thresholds)


def reasons(is_rejected: np.ndarray, codes: np.ndarray, reference: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Why each cell was kept or rejected: `confident`, `ambiguous` or `unlike reference`.

    A rejected cell is `unlike reference` if its fifth nearest reference cell is farther in code space than it is for
    99 % of the held-out cells, which no training has seen; else it is `ambiguous`.

    Parameters
    ----------
    is_rejected
        Bool (n_cells,).
    codes, reference, held_out
        Codes of the cells, of training cells of the annotated batches, and of their held-out cells: (n, 256) each.

    Returns
    -------
    Objects (n_cells,).
    """
    answer = np.where(is_rejected, "ambiguous", "confident").astype(object)
    if is_rejected.any() and len(held_out) and len(reference):
        from sklearn.neighbors import NearestNeighbors

        neighbours = NearestNeighbors(n_neighbors=min(5, len(reference))).fit(reference)
        limit = np.quantile(neighbours.kneighbors(held_out)[0][:, -1], 0.99)
        doubtful = np.flatnonzero(is_rejected)
        answer[doubtful[neighbours.kneighbors(codes[doubtful])[0][:, -1] > limit]] = "unlike reference"
    return answer
