"""The search for the nearest cells is exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from jind_nb.model import neighbours

quick = hypothesis_settings(deadline=None, max_examples=40)


@quick
@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_the_nearest_cells_are_those_of_scikit_learn(n: int, m: int, k: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    latents, others = random.normal(size=(n, 5)), random.normal(size=(m, 5))
    distances, _ = (
        NearestNeighbors(n_neighbors=min(k, m), metric="cosine", algorithm="brute").fit(others).kneighbors(latents)
    )
    positions, cosines = neighbours.nearest(latents, others, k)
    np.testing.assert_allclose(1 - cosines, distances, atol=1e-5)
    lengths = np.linalg.norm(latents, axis=1, keepdims=True) * np.linalg.norm(others[positions], axis=2)
    np.testing.assert_allclose((latents[:, None] * others[positions]).sum(axis=2) / lengths, cosines, atol=1e-5)


def test_a_cell_of_zeros_is_like_no_other() -> None:
    """An empty cell has no direction."""
    assert neighbours.nearest(np.zeros((1, 3)), np.eye(3), 2)[1].tolist() == [[0, 0]]


def test_neighbours_in_blocks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    latents = np.random.default_rng(0).normal(size=(50, 4))
    whole = neighbours.nearest(latents, latents, 7)
    monkeypatch.setattr(neighbours, "CELLS_AT_ONCE", 3)
    np.testing.assert_array_equal(neighbours.nearest(latents, latents, 7)[0], whole[0])
