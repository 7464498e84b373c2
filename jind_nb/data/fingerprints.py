"""Fingerprints of cells: by its values alone, a cell is known again in another file, and has its place among others."""

import numpy as np
import pandas as pd
from scipy import sparse

from ..core.compiled import compiled


def fingerprints(x: sparse.csr_matrix) -> np.ndarray:
    """Return a number for each cell that depends on its values alone: uint64 (n,).

    Notes
    -----
    It is the sum, modulo 2 to the 64, of the hash of each stored value times the hash of its column. It does not protect
    against forgery.
    """
    of_columns = pd.util.hash_array(np.arange(x.shape[1], dtype=x.indices.dtype)) | np.uint64(1)
    found, bits = np.zeros(x.shape[0], dtype=np.uint64), x.data.view(f"u{x.data.itemsize}")
    _add_hashes(x.indptr.astype(np.int64, copy=False), x.indices, x.data, bits, of_columns, found)
    return found


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


@compiled
def _add_hashes(indptr, indices, data, bits, of_columns, found):
    """Add up the hashes of each cell's values, as `pd.util.hash_array` has them (Stafford's mix 13 of a number's bits)."""
    for i in range(len(indptr) - 1):
        # Without slices each index would be asked whether it is negative, and a value would take three times as long.
        of_cell = slice(indptr[i], indptr[i + 1])
        values, bits_of_values, columns, total = data[of_cell], bits[of_cell], indices[of_cell], np.uint64(0)
        for j in range(len(values)):
            mixed = np.uint64(bits_of_values[j])
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            total += (mixed ^ (mixed >> np.uint64(31))) * of_columns[columns[j]] * np.uint64(values[j] != 0)
        found[i] = total
