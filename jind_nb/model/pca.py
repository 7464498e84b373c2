"""Principal components of sparse cells, by whichever way costs less."""

from collections.abc import Sequence

import numpy as np
from scipy import sparse
from scipy.linalg import blas
from scipy.sparse import linalg

from ..core.threads import one_blas_thread

DENSE_CELLS = 2_000  # at once; memory only
SMALL = 50  # cells or features, up to which all components are computed exactly


def coordinates(x: sparse.csr_matrix, n: int, seed: int) -> np.ndarray:
    """Return the cells (m, p) on their first n principal axes, float64 (m, n); zeros where all cells are alike."""
    x = x.astype(np.float64)
    mean = np.asarray(x.mean(axis=0)).ravel()
    variance = np.asarray(x.multiply(x).mean(axis=0)).ravel() - mean**2
    if (variance <= 1e-12 * np.maximum(1, mean**2)).all():
        return np.zeros((x.shape[0], n))
    (axes,) = principal_axes(x, mean, [np.ones(x.shape[1])], n, seed)
    found: np.ndarray = x @ axes.T - mean @ axes.T
    return found


def principal_axes(
    x: sparse.csr_matrix, mean: np.ndarray, scales: Sequence[np.ndarray], n: int, seed: int
) -> list[np.ndarray]:
    """Return the first n principal axes of the cells, float64 (n, p), once for each way to scale the features.

    Where there are many more cells than features, the axes come from the covariance, whose cost does not grow with the cells;
    elsewhere scikit-learn's PCA never makes the cells dense.

    Parameters
    ----------
    x, mean
        Float64 (m, p), and its mean over the cells (p,).
    scales
        What the features are multiplied by, float64 (p,) each.
    """
    if x.shape[1] ** 2 < 2 * x.nnz and n < x.shape[1] - 1:
        covariance = _covariance(x, mean)
        return [_by_covariance(s[:, None] * covariance * s, n, seed) for s in scales]
    return [_by_pca(sparse.csr_matrix(x.multiply(s)), n, seed) for s in scales]


def _covariance(x: sparse.csr_matrix, mean: np.ndarray) -> np.ndarray:
    """Return the features' covariance, float64 (p, p); cells are made dense a few at a time."""
    products = np.zeros((x.shape[1], x.shape[1]))
    for start in range(0, x.shape[0], DENSE_CELLS):
        block = x[start : start + DENSE_CELLS].toarray()
        # Half the work of block.T @ block: only the upper triangle is computed.
        products = blas.dsyrk(1.0, block.T, beta=1.0, c=products, overwrite_c=1)
    upper = np.triu(products) / x.shape[0]
    covariance: np.ndarray = upper + np.triu(upper, 1).T - np.outer(mean, mean)
    return covariance


@one_blas_thread
def _by_covariance(covariance: np.ndarray, n: int, seed: int) -> np.ndarray:
    start = np.random.default_rng(seed).uniform(-1, 1, len(covariance))
    axes: np.ndarray = linalg.eigsh(covariance, k=n, v0=start)[1].T[::-1]
    return axes


@one_blas_thread
def _by_pca(x: sparse.csr_matrix, n: int, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA  # takes 0.5 s to import, which most commands need not wait for

    if min(x.shape) <= SMALL:
        axes: np.ndarray = PCA(n, svd_solver="full").fit(x.toarray()).components_
    else:
        axes = PCA(n, svd_solver="arpack", random_state=seed).fit(x).components_
    return axes
