"""What is done with each cell's stored values, one cell after the other: the time of large files goes here.

Cells are rows of CSR matrices. A cell's result depends on its own values alone: neither on the other cells of a block nor on the
order of its values in the file.
"""

import numpy as np
from scipy import sparse

from .compiled import compiled

SMALL = 2**20  # stored values: with no more, what numpy takes longer is less than the second that numba takes to start

COLUMNS_AT_ONCE = 100  # of a product: of 5,000 features these are 2 MB, which a core keeps at hand


def select_columns(matrix: sparse.csr_matrix, columns: np.ndarray) -> sparse.csr_matrix:
    """Return the columns at the given positions, int (k,), in that order; those at -1 are zero.

    Values of a cell are then ordered by column, and zeros are not stored.

    >>> select_columns(sparse.csr_matrix([[1.0, 0.0, 3.0]]), np.array([2, -1, 0])).toarray()
    array([[3., 0., 1.]])
    """
    n, there = len(columns), columns >= 0
    if matrix.nnz <= SMALL or len(np.unique(columns[there])) < there.sum():  # what is wanted twice has two places
        return _select_of_few(matrix, columns)
    place = np.full(matrix.shape[1], n, dtype=np.int32)  # what is not wanted has a place behind the others
    place[columns[there]] = np.flatnonzero(there)
    most = min(matrix.nnz, matrix.shape[0] * n) + 1
    data, indices = np.empty(most, dtype=matrix.dtype), np.empty(most, dtype=np.int32)
    pointers, row = np.zeros(matrix.shape[0] + 1, dtype=np.int64), np.zeros(n + 1, dtype=matrix.dtype)
    _select(*_stored(matrix), place, row, pointers, indices, data)
    end = int(pointers[-1])
    return sparse.csr_matrix((data[:end].copy(), indices[:end].copy(), pointers), (matrix.shape[0], n))


def _select_of_few(matrix: sparse.csr_matrix, columns: np.ndarray) -> sparse.csr_matrix:
    n = matrix.shape[1]
    padded = sparse.csr_matrix((matrix.data, matrix.indices, matrix.indptr), (matrix.shape[0], n + 1))
    selected = padded[:, np.where(columns < 0, n, columns)]
    selected.sort_indices()
    selected.eliminate_zeros()
    return selected


def _stored(matrix: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return indptr, indices and data in the types that are compiled for."""
    return matrix.indptr.astype(np.int64, copy=False), matrix.indices.astype(np.int32, copy=False), matrix.data


@compiled
def _select(indptr, indices, data, place, row, pointers, to_indices, to_data):
    """Spread each cell's values over `row`, (k + 1,) zeros, and gather from there, in order, those of the first k.

    Every place is written, and only those with a value are kept: a question for each would take twice as long.
    """
    n = 0
    for i in range(len(indptr) - 1):
        for j in range(indptr[i], indptr[i + 1]):
            row[place[indices[j]]] = data[j]
        for at in range(len(row) - 1):
            to_indices[n] = at
            to_data[n] = row[at]
            n += row[at] != 0
            row[at] = 0
        pointers[i + 1] = n


def product(matrix: sparse.csr_matrix, dense: np.ndarray) -> np.ndarray:
    """Return the product of cells (n, p), their values ordered by column, and a matrix float32 (p, d): float32 (n, d)."""
    indptr, indices, data = _stored(matrix)
    data, results = data.astype(np.float32, copy=False), [np.zeros((matrix.shape[0], 0), dtype=np.float32)]
    for start in range(0, dense.shape[1], COLUMNS_AT_ONCE):
        some = np.ascontiguousarray(dense[:, start : start + COLUMNS_AT_ONCE])
        results.append(np.zeros((matrix.shape[0], some.shape[1]), dtype=np.float32))
        _multiply(indptr, indices, data, some, results[-1])
    return np.concatenate(results, axis=1)


@compiled
def _multiply(indptr, indices, data, dense, result):
    """Add up four rows of `dense` at a time, so that a sum is read and written once for all four."""
    for i in range(len(indptr) - 1):
        of_cell, last = result[i], indptr[i + 1]
        fours = last - (last - indptr[i]) % 4
        for j in range(indptr[i], fours, 4):
            a, b, c, d = dense[indices[j]], dense[indices[j + 1]], dense[indices[j + 2]], dense[indices[j + 3]]
            for k in range(len(of_cell)):
                of_cell[k] += data[j] * a[k] + data[j + 1] * b[k] + data[j + 2] * c[k] + data[j + 3] * d[k]
        for j in range(fours, last):
            a = dense[indices[j]]
            for k in range(len(of_cell)):
                of_cell[k] += data[j] * a[k]


def sums_and_squares(matrix: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum of each cell's values, and that of their squares: float64 (n,) each."""
    sums, squares = np.zeros(matrix.shape[0]), np.zeros(matrix.shape[0])
    indptr, _, data = _stored(matrix)
    _add(indptr, data, sums, squares)
    return sums, squares


@compiled
def _add(indptr, data, sums, squares):
    for i in range(len(indptr) - 1):
        for j in range(indptr[i], indptr[i + 1]):
            value = np.float64(data[j])
            sums[i] += value
            squares[i] += value * value


def mean_and_variance(matrix: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance (of the population) of each column of finite values, float64 (p,) each.

    Squares are added up of what is left after the mean is taken off, or the digits that matter would be lost. scikit-learn's
    `mean_variance_axis` does the same, and takes a second to import.

    >>> mean_and_variance(sparse.csr_matrix([[1.0, 0.0], [3.0, 2.0]]))
    (array([2., 1.]), array([1., 1.]))
    """
    n, n_columns = matrix.shape
    of_cells = np.ones(n)

    def totals(values: np.ndarray) -> np.ndarray:
        return sparse.csr_matrix((values, matrix.indices, matrix.indptr), matrix.shape).T @ of_cells

    data = matrix.data.astype(np.float64)
    mean = totals(data) / max(1, n)
    data -= mean[matrix.indices]
    zeros = n - np.bincount(matrix.indices, minlength=n_columns)
    return mean, (totals(data * data) + zeros * mean**2) / max(1, n)
