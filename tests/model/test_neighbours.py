"""The search for the nearest cells is exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from jind_nb.core import _compat
from jind_nb.model import neighbours

quick = hypothesis_settings(deadline=None, max_examples=40)

# The search must give the same on any processor.
either_way = pytest.mark.parametrize("whole_numbers", [False, True])


@quick
@either_way
@given(st.integers(1, 40), st.integers(1, 200), st.integers(1, 20), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_the_nearest_cells_are_those_of_scikit_learn(
    whole_numbers: bool, n: int, m: int, k: int, d: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    latents, others = random.normal(size=(n, d)), random.normal(size=(m, d))
    distances, _ = (
        NearestNeighbors(n_neighbors=min(k, m), metric="cosine", algorithm="brute").fit(others).kneighbors(latents)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "multiplies_whole_numbers", lambda: whole_numbers)
        positions, cosines = neighbours.nearest(latents, others, k)
    np.testing.assert_allclose(1 - cosines, distances, atol=1e-5)
    lengths = np.linalg.norm(latents, axis=1, keepdims=True) * np.linalg.norm(others[positions], axis=2)
    np.testing.assert_allclose((latents[:, None] * others[positions]).sum(axis=2) / lengths, cosines, atol=1e-5)


def test_a_cell_of_zeros_is_like_no_other() -> None:
    """An empty cell has no direction."""
    assert neighbours.nearest(np.zeros((1, 3)), np.eye(3), 2)[1].tolist() == [[0, 0]]


@either_way
@pytest.mark.parametrize("spread", [1e-1, 1e-3, 0.0])
def test_cells_that_differ_by_less_than_a_step_are_told_apart(
    spread: float, whole_numbers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else many cells of one type would have neighbours by chance, and of equal ones another in a file sorted otherwise."""
    random = np.random.default_rng(0)
    middle = random.normal(size=20)
    others = (middle + spread * random.normal(size=(3_000, 20))).astype(np.float32)
    latents = (middle + spread * random.normal(size=(30, 20))).astype(np.float32)
    monkeypatch.setattr(neighbours, "multiplies_whole_numbers", lambda: whole_numbers)
    positions, cosines = neighbours.nearest(latents, others, 4)
    lengths = np.linalg.norm(latents, axis=1)[:, None] * np.linalg.norm(others, axis=1)
    true = latents.astype(np.float64) @ others.T.astype(np.float64) / lengths
    np.testing.assert_allclose(cosines, -np.sort(-true)[:, :4], atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(true, positions, axis=1), cosines, atol=1e-6)
    if not spread:
        assert positions.tolist() == [[0, 1, 2, 3]] * 30


@pytest.mark.skipif(not _compat.multiplies_whole_numbers(), reason="this processor multiplies all digits")
def test_the_way_of_comparing_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a colleague with another processor would find other neighbours."""
    random = np.random.default_rng(0)
    latents, others = random.normal(size=(300, 30)), random.normal(size=(2_000, 30))
    whole = neighbours.nearest(latents, others, 6)
    monkeypatch.setattr(neighbours, "multiplies_whole_numbers", lambda: False)
    for of_whole, of_all_digits in zip(whole, neighbours.nearest(latents, others, 6), strict=True):
        np.testing.assert_array_equal(of_all_digits, of_whole)


@pytest.mark.parametrize("columns", [1, 2, 400])
def test_whole_numbers_are_multiplied_exactly(columns: int) -> None:
    """The largest sums too: a nearest cell could be missed where they overflow."""
    a, b = np.full((3, columns), 127, dtype=np.int8), np.full((columns, 5), -127, dtype=np.int8)
    product = _compat.product_of_whole_numbers(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_array_equal(product.numpy(), -127 * 127 * columns)


def test_neighbours_in_blocks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    latents = np.random.default_rng(0).normal(size=(50, 4))
    whole = neighbours.nearest(latents, latents, 7)
    monkeypatch.setattr(neighbours, "CELLS_AT_ONCE", 3)
    np.testing.assert_array_equal(neighbours.nearest(latents, latents, 7)[0], whole[0])
