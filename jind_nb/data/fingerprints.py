"""Fingerprints of cells: by its values alone, a cell is known again in another file, and has its place among others."""

import numpy as np
import pandas as pd
from scipy import sparse

CELLS_HASHED_AT_ONCE = 2_000  # bounds the memory; the result does not depend on it


def fingerprints(x: sparse.csr_matrix) -> np.ndarray:
    """Return a number for each cell that depends on its values alone: uint64 (n,).

    Notes
    -----
    It is the sum, modulo 2 to the 64, of the hash of each stored value times the hash of its column. It does not protect
    against forgery.
    """
    of_blocks = [_fingerprints(x[i : i + CELLS_HASHED_AT_ONCE]) for i in range(0, x.shape[0], CELLS_HASHED_AT_ONCE)]
    return np.concatenate([np.empty(0, dtype=np.uint64), *of_blocks])


def own_order(x: sparse.csr_matrix, y: np.ndarray | None = None) -> np.ndarray:
    """Return an order of the cells that depends on their values alone, not on the rows they stand in: int (n,), positions.

    Whatever is drawn from cells in this order, or added up over them, is the same however a file is sorted.

    Parameters
    ----------
    y
        Types, int (n,); of cells with the same values the lower type comes first.

    >>> own_order(sparse.csr_matrix([[1.0], [2.0], [3.0]]))
    array([1, 0, 2])
    >>> own_order(sparse.csr_matrix([[3.0], [1.0], [2.0]]))
    array([2, 1, 0])
    """
    types = np.zeros(x.shape[0], dtype=np.int64) if y is None else y
    return np.lexsort((types, fingerprints(x)))


def _fingerprints(x: sparse.csr_matrix) -> np.ndarray:
    of_values = pd.util.hash_array(x.data)
    of_values[x.data == 0] = 0
    of_columns = pd.util.hash_array(np.arange(x.shape[1], dtype=x.indices.dtype)) | np.uint64(1)
    return sparse.csr_matrix((of_values, x.indices, x.indptr), x.shape) @ of_columns
