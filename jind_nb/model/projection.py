"""METHOD `default`: principal components as codes, translations as adapters, softmax regressions as heads.

JIND's encoder is linear in the features. Here it is not trained but computed, from all cells of a run without their labels:
a target that is in the projection from the start is described as well as the annotated batches are. What is learned from
labels is small, quick and has one optimum, so that a seed changes next to nothing. benchmarks/README.md has what each part
brings, and what was tried instead.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from scipy.linalg import blas
from scipy.sparse import linalg

from ..core.subsample import subsample
from .networks import VIEWS, LinearHeads, Projection, Translation, columns

COMPONENTS = 50

MOST_CELLS = 20_000  # that components and heads are computed from

DENSE_CELLS = 2_000  # at once; memory only

FEWEST_OF_A_TYPE = 100  # of these, where a type has so many

NEVER = -30.0  # log odds of a type no cell taught

SHRINKAGE = 20.0  # cells of no shift that a translation is averaged with

ROUNDS = 5  # of predicting and moving the target

UNMOVED = 0.1  # weight of a cell's code before its batch's translation; the rest is after it

NEIGHBOURS, FEWEST_NEIGHBOURS = 16, 5  # a cell itself and its 15 nearest; where they are looked for among a sample

CELLS_A_NEIGHBOUR = 16  # of fewer than 256 cells accordingly fewer are asked

OF_NEIGHBOURS = 0.5  # their part in a cell's answer

MOST_NEIGHBOURS = 10_000  # cells that neighbours are looked for among

CELLS_AT_ONCE = 512  # that look for neighbours; memory only

TINY = 1e-12


# --- the encoder ---------------------------------------------------------------------------------------------------------


def fit(x: sparse.csr_matrix, seed: int) -> Projection:
    """Principal components of cells scaled to a common length, twice: of features divided by their standard deviation
    plus its median over the features, and of features as they are.

    Scaling cells to one length takes out how deep they were read. Dividing by the standard deviation lets features of
    small variance speak, the median keeps those of next to none quiet.

    Parameters
    ----------
    x
        All cells of the run, annotated ones and the target's, float32 (n, p). At most 20,000, chosen at random, are used.

    Returns
    -------
    An encoder with codes of 100 numbers; fewer if there are fewer cells or features than components.
    """
    x = x[subsample(x.shape[0], MOST_CELLS, seed)].astype(np.float64)
    lengths = linalg.norm(x, axis=1)
    length = float(lengths[lengths > 0].mean()) if (lengths > 0).any() else 1.0
    x = sparse.diags_array(length / np.maximum(lengths, 1e-6)) @ x
    mean = np.asarray(x.mean(axis=0)).ravel()
    deviation = np.sqrt(np.maximum(np.asarray(x.multiply(x).mean(axis=0)).ravel() - mean**2, 0))
    deviation[deviation < 1e-6 * length] = 0  # what rounding leaves of a feature that is the same in all cells
    softened = deviation + (np.median(deviation) or deviation.mean() or 1.0)
    n_components = min(COMPONENTS, *(max(1, size - 1) for size in x.shape))
    weights = []
    covariance = _covariance(x, mean) if _is_cheaper_by_covariance(x, n_components) else None
    for scale in (1 / softened, np.ones(x.shape[1])):
        if not deviation.any():  # all cells are alike: there are no axes to look for
            components = np.zeros((n_components, x.shape[1]))
        elif covariance is not None:
            components = _axes_of(scale[:, None] * covariance * scale, n_components, seed)
        else:
            components = _components(sparse.csr_matrix(x.multiply(scale)), n_components, seed)
        weights.append(scale[:, None] * components.T)
    encoder = Projection(x.shape[1], 2 * n_components)
    weight = np.concatenate(weights, axis=1)
    encoder.length.fill_(length)
    encoder.weight.copy_(torch.from_numpy(weight))
    encoder.offset.copy_(torch.from_numpy(mean @ weight))
    return encoder


def coordinates(x: sparse.csr_matrix, n: int, seed: int) -> np.ndarray:
    """Cells (m, p) on their first n principal axes, float64 (m, n); zeros where all cells are alike."""
    x = x.astype(np.float64)
    mean = np.asarray(x.mean(axis=0)).ravel()
    variance = np.asarray(x.multiply(x).mean(axis=0)).ravel() - mean**2
    if (variance <= 1e-12 * np.maximum(1, mean**2)).all():
        return np.zeros((x.shape[0], n))
    cheaper = _is_cheaper_by_covariance(x, n)
    axes = _axes_of(_covariance(x, mean), n, seed) if cheaper else _components(x, n, seed)
    return x @ axes.T - mean @ axes.T


def _is_cheaper_by_covariance(x: sparse.csr_matrix, n: int) -> bool:
    """Whether each step towards the axes costs less by the covariance, which does not grow with the cells."""
    return x.shape[1] ** 2 < 2 * x.nnz and n < x.shape[1] - 1


def _covariance(x: sparse.csr_matrix, mean: np.ndarray) -> np.ndarray:
    """Of the features, float64 (p, p); cells are made dense a few at a time."""
    products = np.zeros((x.shape[1], x.shape[1]))
    for start in range(0, x.shape[0], DENSE_CELLS):
        block = x[start : start + DENSE_CELLS].toarray()
        # Half the work of block.T @ block: only the upper triangle is computed.
        products = blas.dsyrk(1.0, block.T, beta=1.0, c=products, overwrite_c=1)
    upper = np.triu(products) / x.shape[0]
    return upper + np.triu(upper, 1).T - np.outer(mean, mean)


def _axes_of(covariance: np.ndarray, n: int, seed: int) -> np.ndarray:
    """The first n principal axes, float64 (n, p), the largest first."""
    start = np.random.default_rng(seed).uniform(-1, 1, len(covariance))
    return linalg.eigsh(covariance, k=n, v0=start)[1].T[::-1]


def _components(x: sparse.csr_matrix, n: int, seed: int) -> np.ndarray:
    """The first n principal axes, float64 (n, p)."""
    from sklearn.decomposition import PCA

    if min(x.shape) <= COMPONENTS:
        return PCA(n, svd_solver="full").fit(x.toarray()).components_
    return PCA(n, svd_solver="arpack", random_state=seed).fit(x).components_


# --- the heads -----------------------------------------------------------------------------------------------------------


def fit_heads(codes: np.ndarray, y: np.ndarray, weights: np.ndarray, n_classes: int) -> LinearHeads:
    """A softmax regression for each view of the codes (scikit-learn's, C = 1).

    Parameters
    ----------
    codes, y, weights
        Cells' codes float32 (n, size), types int64 (n,) as indices into the classes, weights float (n,).
    n_classes
        K; a type that no cell has gets next to no probability.
    """
    heads = LinearHeads(codes.shape[1], n_classes)
    heads.bias.fill_(NEVER)
    taught = np.unique(y)
    for i, view in enumerate(VIEWS):
        seen = columns(view, codes.shape[1])
        weight, bias = _softmax_regression(codes[:, seen].astype(np.float64), y, weights)
        heads.weight[i, seen, taught] = torch.from_numpy(weight.T.astype(np.float32))
        heads.bias[i, taught] = torch.from_numpy(bias.astype(np.float32))
    return heads


def _softmax_regression(codes: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (k, size) and intercepts (k,) for the k types in `y`."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(y)) == 1:
        return np.zeros((1, codes.shape[1])), np.zeros(1)
    with warnings.catch_warnings():
        # Types that can be told apart without error are told ever more surely; the last digits of that do not matter.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=1.0, max_iter=300).fit(codes, y, weights)
    if len(model.classes_) == 2:
        return np.concatenate([-model.coef_, model.coef_]) / 2, np.concatenate(
            [-model.intercept_, model.intercept_]
        ) / 2
    return model.coef_, model.intercept_


# --- the adapters --------------------------------------------------------------------------------------------------------


def type_means(codes: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean code of each type and how many cells it rests on.

    Parameters
    ----------
    codes, shares
        Float (n, size), and how much each cell is of each type, float (n, K).

    Returns
    -------
    Float64 (K, size), zero for a type of no cell, and float64 (K,).

    >>> type_means(np.array([[1.0], [3.0]]), np.array([[1.0, 0.0], [1.0, 0.0]]))
    (array([[2.],
           [0.]]), array([2., 0.]))
    """
    cells = shares.sum(axis=0, dtype=np.float64)
    return (shares.T.astype(np.float64) @ codes) / np.maximum(cells, 1e-9)[:, None], cells


def translation(own: tuple[np.ndarray, np.ndarray], others: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """By how much to move a batch so that its types lie where others' cells of the same types do, float64 (size,).

    The mean over the batch's cells of the way from their type's mean to the others'. Types are compared with their own
    kind, so a batch is not moved because it has more of one type and less of another. Shrunk towards no move by 20 cells.

    Parameters
    ----------
    own, others
        `type_means` of the batch and of the others.
    """
    (means, cells), (there, cells_there) = own, others
    cells = np.where(cells_there > 0, cells, 0.0)
    return cells @ (there - means) / (cells.sum() + SHRINKAGE)


def as_adapter(b: np.ndarray) -> Translation:
    """A batch's translation as the adapter in front of the shared head."""
    adapter = Translation(len(b))
    adapter.b.copy_(torch.from_numpy(b))
    return adapter


# --- the target's own neighbourhoods -------------------------------------------------------------------------------------


def nearest(codes: np.ndarray, others: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """For each cell the k other cells whose codes are most alike by cosine, or all if there are fewer.

    Exact, and several times faster than scikit-learn's, which partitions float64 distances.

    Parameters
    ----------
    codes, others
        Float (n, size) and (m, size).

    Returns
    -------
    Their positions int64 (n, k), the most alike first, and their cosines float32 (n, k).

    >>> nearest(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0], [2.0, 0.0]]), k=1)
    (array([[1]]), array([[1.]], dtype=float32))
    """
    k = min(k, len(others))
    theirs = F.normalize(torch.from_numpy(others.astype(np.float32)), eps=TINY).T
    positions, cosines = np.empty((len(codes), k), dtype=np.int64), np.empty((len(codes), k), dtype=np.float32)
    for start in range(0, len(codes), CELLS_AT_ONCE):
        rows = slice(start, start + CELLS_AT_ONCE)
        own = F.normalize(torch.from_numpy(codes[rows].astype(np.float32)), eps=TINY)
        found = torch.topk(own @ theirs, k, dim=1)
        positions[rows], cosines[rows] = found.indices.numpy(), found.values.numpy()
    return positions, cosines


def neighbours(codes: np.ndarray, others: np.ndarray, seed: int) -> np.ndarray:
    """For each cell the 16 most alike of other cells (`nearest`), or of the same, itself among them: positions in `others`,
    int64 (n, k). A rare type's cells would be given others' answers if more were asked than there are of the type. So of
    more than 10,000 cells a sample is asked, and accordingly fewer neighbours, at least five; and of fewer than 256 cells a
    sixteenth (benchmarks/small_targets.py), at least the cell itself.
    """
    some = subsample(len(others), MOST_NEIGHBOURS, seed)
    k = max(FEWEST_NEIGHBOURS, round(NEIGHBOURS * len(some) / max(1, len(others))))
    k = min(k, max(1, len(others) // CELLS_A_NEIGHBOUR))
    return some[nearest(codes, others[some], k)[0]]


def with_neighbours(own: np.ndarray, theirs: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Half of each cell's answer is its own, half the mean over its nearest cells: cells of one type lie together in a batch
    also where the annotated ones' do not.

    Parameters
    ----------
    own, theirs
        Probabilities float (n, K) and (m, K), of the cells and of those that neighbours were looked for among.
    near
        `neighbours`, int (n, k).

    Returns
    -------
    Float (n, K), rows still of sum 1.

    >>> own = np.array([[1.0, 0.0], [0.5, 0.5]])
    >>> with_neighbours(own, own, np.array([[0, 1], [1, 0]]))
    array([[0.875, 0.125],
           [0.625, 0.375]])
    """
    of_neighbours = theirs[near].mean(axis=1) if len(own) else own
    return (1 - OF_NEIGHBOURS) * own + OF_NEIGHBOURS * of_neighbours
