"""What is done with each cell's stored values, one cell after the other: the time of large files goes here.

Cells are rows of CSR matrices. A cell's result depends on its own values alone: neither on the other cells of a block nor on the
order of its values in the file.
"""

import numpy as np
from scipy import sparse

from .compiled import compiled

SMALL = 2**20  # stored values: with no more, what numpy takes longer is less than the second that numba takes to start

ROWS_AT_ONCE = 200  # of a product's second matrix: with 200 columns 160 kB, which a core keeps at hand

LINE, COLUMNS_AT_ONCE = 64, 32  # bytes that a core loads at once, and columns that it multiplies in one go


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
    for values in (data, indices):  # nobody else has them
        values.resize(int(pointers[-1]), refcheck=False)
    return sparse.csr_matrix((data, indices, pointers), (matrix.shape[0], n))


def _select_of_few(matrix: sparse.csr_matrix, columns: np.ndarray) -> sparse.csr_matrix:
    n = matrix.shape[1]
    padded = sparse.csr_matrix((matrix.data, matrix.indices, matrix.indptr), (matrix.shape[0], n + 1))
    selected = padded[:, np.where(columns < 0, n, columns)]
    selected.sort_indices()
    selected.eliminate_zeros()
    return selected


def _stored(matrix: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return indptr, indices and data in the types that are compiled for: indices without a sign need no look for negative ones."""
    indices = matrix.indices.astype(np.int32, copy=False).view(np.uint32)
    return matrix.indptr.astype(np.int64, copy=False), indices, matrix.data


@compiled
def _select(indptr, indices, data, place, row, pointers, to_indices, to_data):
    """Spread each cell's values over `row`, (k + 1,) zeros, and gather from there, in order, those of the first k.

    Every place is written, and only those with a value are kept: a question for each would take twice as long.
    """
    n = np.uint64(0)
    for i in range(len(indptr) - 1):
        for j in range(indptr[i], indptr[i + 1]):
            row[place[indices[j]]] = data[j]
        first = n
        for at in range(len(row) - 1):
            to_indices[n] = at
            n += np.uint64(row[at] != 0)
        for j in range(first, n):
            to_data[j] = row[to_indices[j]]
        row[:] = 0
        pointers[i + 1] = n


def product(matrix: sparse.csr_matrix, dense: np.ndarray) -> np.ndarray:
    """Return the product of cells (n, p), their values ordered by column, and a matrix float32 (p, d): float32 (n, d).

    It takes less time if `dense` is from `for_products`, and then has the columns of zeros too.
    """
    indptr, indices, data = _stored(matrix)
    laid_out = dense if _is_for_products(dense) else for_products(dense)
    result = _at_lines(matrix.shape[0], laid_out.shape[1])
    _multiply(indptr, indices, data.astype(np.float32, copy=False), laid_out, indptr[:-1].copy(), result)
    return result if laid_out is dense else result[:, : dense.shape[1]].copy()


def for_products(dense: np.ndarray) -> np.ndarray:
    """Return a matrix (p, d) as float32 (p, D), D the next multiple of 32: columns of zeros are added, so that no row begins in the
    middle of what a core loads at once.

    >>> for_products(np.ones((2, 15))).shape
    (2, 32)
    """
    p, d = dense.shape
    laid_out = _at_lines(p, -(-d // COLUMNS_AT_ONCE) * COLUMNS_AT_ONCE)
    laid_out[:, :d] = dense
    return laid_out


def _at_lines(n: int, d: int) -> np.ndarray:
    """Return zeros, float32 (n, d), from the beginning of a line of memory on."""
    raw = np.zeros(n * d + LINE // 4, dtype=np.float32)
    first = -raw.ctypes.data % LINE // 4
    return raw[first : first + n * d].reshape(n, d)


def _is_for_products(dense: np.ndarray) -> bool:
    is_laid_out = dense.ctypes.data % LINE == 0 and dense.shape[1] % COLUMNS_AT_ONCE == 0
    return is_laid_out and dense.flags.c_contiguous and dense.dtype == np.float32


@compiled
def _multiply(indptr, indices, data, dense, at, result):
    """Add up four rows of `dense` at a time, so that a sum is read and written once for all four.

    All cells come as far as the same ROWS_AT_ONCE rows before any goes on: `at` is where each is, int64 (n,).
    """
    for last_row in range(ROWS_AT_ONCE, dense.shape[0] + ROWS_AT_ONCE, ROWS_AT_ONCE):
        for i in range(len(indptr) - 1):
            of_cell, j = result[i], at[i]
            fours = indptr[i + 1] - (indptr[i + 1] - indptr[i]) % 4
            while j < fours and indices[j] < last_row:
                a, b, c, d = indices[j], indices[j + 1], indices[j + 2], indices[j + 3]
                of_a, of_b, of_c, of_d = data[j], data[j + 1], data[j + 2], data[j + 3]
                for k in range(len(of_cell)):
                    of_cell[k] += of_a * dense[a, k] + of_b * dense[b, k] + of_c * dense[c, k] + of_d * dense[d, k]
                j += 4
            at[i] = j
    for i in range(len(indptr) - 1):
        of_cell = result[i]
        for j in range(at[i], indptr[i + 1]):
            for k in range(len(of_cell)):
                of_cell[k] += data[j] * dense[indices[j], k]


def seen_columns(matrix: sparse.csr_matrix) -> np.ndarray:
    """Return in which columns some cell has a stored value, bool (p,).

    >>> seen_columns(sparse.csr_matrix([[1.0, 0.0, 3.0]]))
    array([ True, False,  True])
    """
    seen = np.zeros(matrix.shape[1], dtype=bool)
    _see(_stored(matrix)[1], seen)
    return seen


@compiled
def _see(indices, seen):
    for j in range(len(indices)):
        seen[indices[j]] = True


def sums_and_squares(matrix: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum of each cell's values, and that of their squares: float64 (n,) each."""
    sums, squares = np.zeros(matrix.shape[0]), np.zeros(matrix.shape[0])
    indptr, _, data = _stored(matrix)
    _add(indptr, data, sums, squares)
    return sums, squares


@compiled
def _add(indptr, data, sums, squares):
    for i in range(len(indptr) - 1):
        total = of_squares = 0.0
        for j in range(indptr[i], indptr[i + 1]):
            value = np.float64(data[j])
            total += value
            of_squares += value * value
        sums[i], squares[i] = total, of_squares


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
