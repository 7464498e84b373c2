"""What is computed of each cell's stored values: compiled or not, the numbers are those of the plain formula."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from jind_nb.core import sparse_rows
from jind_nb.data import recognise
from jind_nb.data.fingerprints import fingerprints

quick = settings(deadline=None, max_examples=30)


def cells(n: int, p: int, seed: int) -> sparse.csr_matrix:
    random = np.random.default_rng(seed)
    values = random.choice([0, 0, 0, 1, 2.5, -3, 7], (n, p)).astype(np.float32)
    return sparse.csr_matrix(values)


@pytest.mark.parametrize("most", [0, sparse_rows.SMALL])
@quick
@given(st.integers(1, 8), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_columns_are_selected_in_the_order_that_is_asked_for(most: int, n: int, p: int, seed: int) -> None:
    """Else values would stand under another gene's name."""
    x, random = cells(n, p, seed), np.random.default_rng(seed)
    columns = random.permutation(np.concatenate([np.arange(p), [-1, -1]]))[: random.integers(1, p + 3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse_rows, "SMALL", most)
        selected = sparse_rows.select_columns(x, columns)
    dense = np.pad(x.toarray(), ((0, 0), (0, 1)))
    np.testing.assert_array_equal(selected.toarray(), dense[:, columns])
    assert selected.has_sorted_indices
    assert (selected.data != 0).all()


@quick
@given(st.integers(1, 8), st.integers(1, 9), st.integers(1, 230), st.integers(0, 2**32 - 1))
def test_products_sums_means_and_variances_are_those_of_the_dense_matrix(n: int, p: int, d: int, seed: int) -> None:
    x, random = cells(n, p, seed), np.random.default_rng(seed)
    dense = random.normal(size=(p, d)).astype(np.float32)
    np.testing.assert_allclose(sparse_rows.product(x, dense), x.toarray() @ dense, rtol=1e-5, atol=1e-4)
    laid_out = sparse_rows.product(x, sparse_rows.for_products(dense))
    np.testing.assert_array_equal(laid_out[:, :d], sparse_rows.product(x, dense))
    assert not laid_out[:, d:].any()
    np.testing.assert_array_equal(sparse_rows.seen_columns(x), (x.toarray() != 0).any(axis=0))
    sums, squares = sparse_rows.sums_and_squares(x)
    np.testing.assert_allclose(sums, x.toarray().sum(axis=1))
    np.testing.assert_allclose(squares, (x.toarray() ** 2).sum(axis=1))
    mean, variance = sparse_rows.mean_and_variance(x)
    np.testing.assert_allclose(mean, x.toarray().mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(variance, x.toarray().astype(np.float64).var(axis=0), atol=1e-12)


def test_the_variance_of_large_values_keeps_its_digits() -> None:
    """Else TPM of a gene that hardly varies would be chosen as varying most."""
    x = sparse.csr_matrix(np.array([[1e6], [1e6 + 1], [1e6 + 2]]))
    assert sparse_rows.mean_and_variance(x)[1][0] == pytest.approx(2 / 3, rel=1e-9)


def test_statistics_are_the_same_bit_for_bit_in_small_and_large_files(monkeypatch: pytest.MonkeyPatch) -> None:
    x = sparse.vstack(
        [cells(50, 300, 0) * np.float32(0.1), sparse.csr_matrix((1, 300), dtype=np.float32)], format="csr"
    )
    small = recognise.cell_statistics(x.indptr, x.data)
    monkeypatch.setattr(recognise, "SMALL", 0)
    np.testing.assert_array_equal(recognise.cell_statistics(x.indptr, x.data), small)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fingerprints_are_those_of_saved_models(dtype: type) -> None:
    """Models of earlier versions know their own cells by them."""
    x = cells(20, 30, 1).astype(dtype)
    of_columns = pd.util.hash_array(np.arange(30, dtype=x.indices.dtype)) | np.uint64(1)
    expected = sparse.csr_matrix((pd.util.hash_array(x.data), x.indices, x.indptr), x.shape) @ of_columns
    np.testing.assert_array_equal(fingerprints(x), expected)
