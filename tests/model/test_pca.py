"""Principal components are scikit-learn's, whichever way they are computed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.decomposition import PCA

from jind_nb.model import pca


@pytest.mark.parametrize("p", [30, 80, 400])
def test_coordinates_are_those_of_scikit_learn(p: int) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(300, p)) * np.linspace(3, 0.5, p) * (random.random((300, p)) < 0.7)
    found, expected = (
        pca.coordinates(sparse.csr_matrix(x), 10, seed=0),
        PCA(10, svd_solver="full").fit_transform(x),
    )
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-6)


def test_cells_that_are_all_alike_are_one_point() -> None:
    """A picture of them is dull, and no error."""
    assert not pca.coordinates(sparse.csr_matrix(np.tile([1.0, 0.0, 2.5], (70, 30))), 10, seed=0).any()
