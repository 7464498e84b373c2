"""One answer from several members: a weighted mean of their probabilities, the weights learned from left-out batches."""

from collections.abc import Sequence

import numpy as np

Weights = tuple[float, ...]  # one for each member, of sum 1

PRIOR_CELLS = 20.0  # left-out cells that the prior counts as
MOST_CELLS = 400.0  # that all left-out cells together count as: cells of one batch are not independent
LEAST = 1e-3  # probability of a cell's type, however sure a member was of another
ROUNDS = 100


def mixed(members: np.ndarray, weights: Weights) -> np.ndarray:
    """Return the weighted mean of the members' probabilities: (n, M, K) to float32 (n, K).

    >>> mixed(np.array([[[1.0, 0.0], [0.0, 1.0]]]), (0.75, 0.25))
    array([[0.75, 0.25]], dtype=float32)
    """
    mean: np.ndarray = np.einsum("nmk,m->nk", members, np.array(weights)).astype(np.float32)
    return mean


def learned_weights(batches: Sequence[tuple[np.ndarray, np.ndarray]], prior: Weights) -> Weights:
    """Return the weights under which the types of left-out cells are likeliest, near the prior where there are few cells.

    Parameters
    ----------
    batches
        For each left-out batch the members' probabilities of its cells' own types, float (n, M), and how much each cell
        counts, float (n,), of sum 1: every batch counts alike.
    prior
        The weights without any left-out cell.

    Notes
    -----
    The maximum a posteriori of a mixture with known components, by expectation and maximisation (Dempster, Laird & Rubin
    1977, doi 10.1111/j.2517-6161.1977.tb01600.x), under a Dirichlet prior of 20 cells. All left-out cells together count as
    at most 400: cells of a batch share what is odd about it.

    >>> sure, unsure = np.full((50, 1), 0.9), np.full((50, 1), 0.5)
    >>> weights = learned_weights([(np.hstack([sure, unsure]), np.full(50, 1 / 50))], (0.5, 0.5))
    >>> weights[0] > 0.7
    True
    """
    batches = [(own, counts) for own, counts in batches if len(own)]
    if not batches or len(prior) == 1:
        return prior
    own = np.maximum(np.concatenate([of_batch for of_batch, _ in batches]), LEAST)
    counts = np.concatenate([of_batch for _, of_batch in batches]) / len(batches) * min(MOST_CELLS, len(own))
    start = np.array(prior)
    weights = start
    for _ in range(ROUNDS):
        shares = own * weights
        shares /= shares.sum(axis=1, keepdims=True)
        weights = counts @ shares + PRIOR_CELLS * start
        weights /= weights.sum()
    return tuple(float(weight) for weight in weights)
