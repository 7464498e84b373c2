"""TODO."""

from __future__ import annotations

import numpy as np


def sample(n: int, most: int, seed: int) -> np.ndarray:
    """Rows int, ascending: all of n, or `most` of them at random."""
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, most, replace=False))
