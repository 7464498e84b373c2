"""A coarser level: a cell whose type is ambiguous gets the type's parent, where that is confident.

One level: every type has one parent, itself where none is given. A parent's probability is the sum of its types'.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ..core.labels import AMBIGUOUS
from ..data.parents import Parents, parents_of
from .predictions import Predictions


def parent_probabilities(
    type_probabilities: np.ndarray, classes: Sequence[str], parents: Parents
) -> tuple[list[str], np.ndarray]:
    """Return each parent's probability: the sum over its types.

    Parameters
    ----------
    type_probabilities
        Float (n_cells, K).

    Returns
    -------
    The J parents, by name, and float64 (n_cells, J).
    """
    parent = parents_of(classes, parents)
    names = sorted(set(parent))
    member = np.zeros((len(classes), len(names)))
    member[np.arange(len(classes)), [names.index(name) for name in parent]] = 1.0
    return names, type_probabilities.astype(np.float64) @ member


def parent_thresholds(predictions: Predictions, parents: Parents) -> dict[str, float]:
    """Return the probability below which a cell does not fall back to a parent, by the rule that rejects types: class-wise from
    the held-out cells' summed probabilities; TARGET_ERROR's own where there is one threshold for all."""
    names, _ = parent_probabilities(predictions.probabilities[:0], predictions.classes, parents)
    if predictions.held_out is not None:
        held_out = parent_probabilities(predictions.held_out, predictions.classes, parents)[1]
        thresholds = predictions.thresholds_by(held_out)
        return dict(zip(names, thresholds.tolist(), strict=True))
    parent = np.array(parents_of(predictions.classes, parents))
    return {name: float(predictions.thresholds[parent == name].max()) for name in names}


def fall_back(predictions: Predictions, parents: Parents, least: Mapping[str, float]) -> np.ndarray:
    """Return the parent that each cell falls back to, objects (n_cells,): None where it does not.

    A cell falls back if its type is ambiguous (never if it is unlike the reference), its most probable parent has at
    least two types (another would say no more than the type), and that parent's probability is at least its threshold.

    >>> p = Predictions(["B", "CD4 T", "CD8 T"], np.array([[0.1, 0.5, 0.4]]), np.full(3, 0.8))
    >>> fall_back(p, {"CD4 T": "T", "CD8 T": "T"}, {"B": 0.8, "T": 0.8}).tolist()
    ['T']
    """
    names, summed = parent_probabilities(predictions.probabilities, predictions.classes, parents)
    parent = parents_of(predictions.classes, parents)
    best = summed.argmax(axis=1)
    confident = summed.max(axis=1, initial=0.0) >= np.array([least[name] for name in names])[best]
    shared = np.array([parent.count(name) > 1 for name in names])[best]
    falls = (predictions.reasons == AMBIGUOUS) & confident & shared
    fallen = np.full(len(best), None, dtype=object)
    fallen[falls] = np.array(names, dtype=object)[best[falls]]
    return fallen
