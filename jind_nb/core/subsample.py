"""Subsamples of cells."""

import numpy as np


def subsample(n: int, most: int, seed: int) -> np.ndarray:
    """Return at most `most` of the rows 0 to n - 1, chosen at random: int, ascending."""
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, most, replace=False))
