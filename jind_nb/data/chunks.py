"""A stored matrix as blocks of rows, each small enough for any memory, read one after the other or by Dask's workers.

    with open_file(file) as store:
        blocks = Blocks.from_store(store, path, what, rows)     # where the values are; reads none
    for result in blocks.each(function, arguments):             # function(block, argument), in the rows' order

Why not anndata's lazy elements (`experimental.read_elem_lazy`)? The indices of a damaged file must be checked before
scipy follows them out of its memory; blocks must hold equally many stored values, so that peaks take no more memory than
genes; and the values of a CSC matrix must be sorted by rows first.
"""

import logging
import os
import sys
import tempfile
import warnings
import weakref
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Self, TypeVar

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from ..errors import InputError
from .h5ad import form_of, frame, has_part, open_checked, open_file, other_layers, shape_of, unread_columns
from .integrity import Store, decoded, is_array, is_group, path_of, reading

log = logging.getLogger(__name__)

# Stored values of a block: with what normalising takes beside them, about a sixth of a gigabyte.
VALUES_AT_ONCE = 2**21

# Blocks at once, so that a core reads while another computes.
BLOCKS_AT_ONCE = 2

# Stored values of all files together up to which they are kept in memory after the first reading.
KEPT_VALUES = 5 * 10**7

# A dense matrix is read by whole chunks as long as that is at most so many times a block.
LARGEST_CHUNKS = 4

ROWS_TO_ESTIMATE_BY = 20

# Of a block's rows, that are read one by one in less time than all.
FEW_ROWS = 0.02

CUT_SHORT = "its indices and data are cut short"

PIECE = 2**25  # bytes

UNKNOWN = "a column of an encoding that anndata does not know"

PATIENCE = "30s"  # with a scheduler that does not answer

# What is sorted by rows on disk: 12 bytes a value.
ENTRY = np.dtype([("row", "<i4"), ("column", "<i4"), ("value", "<f4")])

Argument = TypeVar("Argument")

Result = TypeVar("Result")


@dataclass
class Block:
    """Hold some rows of a stored matrix, and where their values are."""

    what: str  # the matrix, in messages
    file: Path
    path: str  # of the matrix in the file
    form: str  # csr, csc, dense; sorted: entries of the temporary file `file`
    n_columns: int
    rows: np.ndarray  # int64, ascending: rows of the stored matrix
    span: np.ndarray  # csr: indptr of the rows from the first to the last; sorted: first and last entry; others: unused
    keeps: bool = False
    kept: sparse.csr_matrix | None = None
    columns: np.ndarray | None = None  # positions of the features that `matrix` returns; None: all

    def matrix(self) -> sparse.csr_matrix:
        """Return the rows' values, float32 without stored zeros.

        Raises
        ------
        InputError
            If they are damaged.
        """
        if self.kept is not None:
            return self.kept
        with reading(self.what):
            matrix = as_float32(self.stored_matrix())
        if self.columns is not None:
            matrix = matrix[:, self.columns]
        if self.keeps:
            self.kept = matrix
        return matrix

    def values_and_some(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, sparse.csr_matrix]:
        """Return `indptr` and `data` of `matrix`, and its rows that are chosen, bool (n,).

        Of a large CSR matrix, in which columns the values are is read of a few chosen rows alone: it is half of a file, and three
        quarters of the time where it is compressed. Whether the rest of it is damaged, `matrix` tells later.
        """
        alone = self.form == "csr" and not self.keeps and self.columns is None and len(self.span) == len(self.rows) + 1
        if alone and chosen.mean() <= FEW_ROWS:
            with reading(self.what), open_checked(self.file) as store:
                stored: Any = store[self.path]
                data = _data(stored, int(self.span[0]), int(self.span[-1])).astype(np.float32, copy=False)
                if np.count_nonzero(data) == len(data):
                    pointers, rows = self.span - self.span[0], np.flatnonzero(chosen)
                    ends = [(int(self.span[i]), int(self.span[i + 1])) for i in rows]
                    indices = [np.empty(0, np.int32), *(_indices(stored, *of_row, self.n_columns) for of_row in ends)]
                    within = np.repeat(chosen, np.diff(pointers))
                    lengths = np.cumsum([0, *np.diff(pointers)[rows]])
                    some = (data[within], np.concatenate(indices), lengths)
                    return pointers, data, sparse.csr_matrix(some, (len(rows), self.n_columns))
        matrix = self.matrix()
        return matrix.indptr, matrix.data, matrix[chosen]

    def stored_matrix(self) -> sparse.csr_matrix:
        """Return the rows' values in the type they are stored in; of a dense matrix, or a sorted one, in float32."""
        if self.form == "sorted":
            return _sorted_rows(self)
        read = {"csr": _csr_rows, "csc": _csc_rows, "dense": _dense_rows}[self.form]
        with open_checked(self.file) as store:
            return read(store[self.path], self)


@dataclass
class Blocks:
    """Hold some rows of a stored matrix as blocks."""

    what: str  # the matrix, in messages
    path: str  # of the matrix in the file
    blocks: list[Block]
    shape: tuple[int, int]  # of the whole matrix
    n_values: int  # stored in the whole matrix; of a dense one an estimate of those that are not zero
    keeps: bool = False  # whether values read once are kept

    @classmethod
    def from_store(
        cls, store: Store, path: str, what: str, rows: np.ndarray, columns: np.ndarray | None = None
    ) -> Self:
        """Return where the rows' values are; the rows of a CSC matrix stay in one block until `ready`.

        Parameters
        ----------
        store
            From `h5ad.open_file`.
        path, what
            Of the matrix, from `h5ad.matrix_of`.
        rows
            int (n,), ascending.
        columns
            Positions of the features whose values are used; None: all.

        Raises
        ------
        InputError
            If the matrix is damaged.
        """
        what = f"{what} of {path_of(store)}"
        with reading(what):
            stored = store[path]
            form, (n_rows, n_columns) = form_of(stored), shape_of(stored)
            rows = rows.astype(np.int64)
            if len(rows) and rows[-1] >= n_rows:
                raise ValueError(f"it has {n_rows} rows, and obs has more")
            pointers = np.empty(0)
            if form == "dense":
                _check_numbers(stored)
                some = rows[np.linspace(0, len(rows) - 1, min(len(rows), ROWS_TO_ESTIMATE_BY)).astype(int)]
                n_values = read_rows(store, path, some).nnz * n_rows // max(1, len(some)) if len(some) else 0
                cuts = _cut_dense(stored, rows)
            else:
                pointers = _pointers(stored, n_rows if form == "csr" else n_columns)
                n_values = int(pointers[-1])
                cuts = _cut(pointers[rows], pointers[rows + 1]) if form == "csr" else np.array([0, len(rows)])
            blocks = [
                Block(what, Path(path_of(store)), path, form, n_columns, rows[a:b], pointers[rows[a] : rows[b - 1] + 2])
                for a, b in pairwise(cuts)
                if b > a
            ]
            for block in blocks:
                block.columns = columns
        return cls(what, path, blocks, (n_rows, n_columns), n_values)

    def ready(self, folder: Path, *, keep: bool) -> None:
        """Set whether values are kept in memory; if not, sort a CSC matrix by rows into a temporary file.

        The file is in `folder`, takes 12 bytes a value, and is removed together with these blocks.

        Raises
        ------
        InputError
            If the matrix is damaged.
        OSError
            If the disk is full.
        """
        self.keeps = keep
        for block in self.blocks:
            block.keeps = keep
        if keep or not any(block.form == "csc" for block in self.blocks):
            return
        descriptor, name = tempfile.mkstemp(prefix=".rows-", suffix=".part", dir=folder)
        weakref.finalize(self, Path(name).unlink, missing_ok=True)
        (block,) = self.blocks
        with os.fdopen(descriptor, "wb") as written, reading(self.what), open_checked(block.file) as store:
            self.blocks = _sort_by_rows(store[block.path], block, Path(name), written)

    def release(self) -> None:
        """Let go of values that are kept in memory; they are read again where they are asked for."""
        self.keeps = False
        for block in self.blocks:
            block.keeps, block.kept = False, None

    def each(
        self, function: Callable[[Block, Argument], Result], arguments: Iterable[Argument | None]
    ) -> Iterator[Result]:
        """Yield `function(block, argument)` for each block in order; skip a block whose argument is None.

        The workers of a Dask client compute it, if there is one; otherwise two threads, at most two blocks ahead.

        Raises
        ------
        InputError
            If the matrix is damaged.
        """
        client = None if self.keeps else current_client()
        ahead = deque[Any]()  # futures
        with ThreadPoolExecutor(BLOCKS_AT_ONCE) as threads:
            for block, argument in zip(self.blocks, arguments, strict=True):
                if argument is not None and client is not None:
                    ahead.append(client.submit(function, block, argument, pure=False))
                elif argument is not None:
                    ahead.append(threads.submit(function, block, argument))
                if client is None and len(ahead) > BLOCKS_AT_ONCE:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()


def current_client() -> Any:
    """Return the Dask client (`distributed.Client`) of this process, or one for DASK_SCHEDULER_ADDRESS; None without either.

    Raises
    ------
    InputError
        If no scheduler answers there.
    """
    if "DASK_SCHEDULER_ADDRESS" not in os.environ and "dask" not in sys.modules:
        return None  # dask and distributed take half a second to import, and most runs have no cluster
    import dask.config

    address = dask.config.get("scheduler-address", None)
    if address is None and "distributed" not in sys.modules:  # without which nobody can have made a client
        return None
    from distributed import Client

    with suppress(ValueError):
        return Client.current()
    if address is None:
        return None
    try:
        return Client(address, timeout=PATIENCE, set_as_default=True)
    except (OSError, ValueError, TimeoutError) as error:
        raise InputError(f"DASK_SCHEDULER_ADDRESS: no Dask scheduler answers at {address} ({error}).") from None


# --- where the values are --------------------------------------------------------------------------------------------


def _pointers(stored: Any, n: int) -> np.ndarray:
    """Return the matrix's indptr, int64 (n + 1,), after a check that it fits the values."""
    pointers, data, indices = stored["indptr"][:], stored["data"], stored["indices"]
    for name, dtype in (("indptr", pointers.dtype), ("indices", indices.dtype)):
        if dtype.kind not in "iu":
            raise ValueError(f"its {name} are not whole numbers")
    _check_numbers(data)
    if pointers.shape != (n + 1,) or data.ndim != 1 or indices.shape != data.shape:
        raise ValueError("its indptr, indices and data do not fit together")
    pointers = pointers.astype(np.int64)
    if pointers[0] != 0 or (np.diff(pointers) < 0).any() or pointers[-1] > data.shape[0]:
        raise ValueError("its indptr runs backwards, or past the end")
    return pointers


def _check_numbers(stored: Any) -> None:
    if stored.dtype.kind not in "fiub":
        raise ValueError(f"its values are {stored.dtype}, and not numbers")


def _cut(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return where to cut rows into blocks that span at most VALUES_AT_ONCE stored values, or one row.

    Parameters
    ----------
    first, last
        Position of each row's first value, and of the one after its last, int64 (n,).
    """
    cuts = [0]
    while cuts[-1] < len(last):
        fit = int(np.searchsorted(last, first[cuts[-1]] + VALUES_AT_ONCE, side="right"))
        cuts.append(max(fit, cuts[-1] + 1))
    return np.array(cuts)


def _cut_dense(stored: Any, rows: np.ndarray) -> np.ndarray:
    n = max(1, VALUES_AT_ONCE // max(1, stored.shape[1]))
    chunk = stored.chunks[0] if stored.chunks else 1
    if chunk * stored.shape[1] <= LARGEST_CHUNKS * VALUES_AT_ONCE:
        n = max(chunk, n // chunk * chunk)
    return np.append(np.flatnonzero(np.diff(rows // n, prepend=-1)), len(rows))


# --- reading ---------------------------------------------------------------------------------------------------------


def as_float32(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return the matrix in float32, without stored zeros."""
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is reported as such
        matrix = matrix.astype(np.float32, copy=False)
    if np.count_nonzero(matrix.data) < len(matrix.data):
        matrix.eliminate_zeros()
    return matrix


def _entries(stored: Any, first: int, last: int, n_minor: int) -> tuple[np.ndarray, np.ndarray]:
    return _data(stored, first, last), _indices(stored, first, last, n_minor)


def _span(stored: Any, first: int, last: int) -> np.ndarray:
    """Return the stored values from `first` to before `last`, or as many as there are.

    What gzip alone compressed is inflated here, and what is not compressed is read past h5py, which does either for one thread at a
    time, and the latter several times slower.
    """
    last = min(last, stored.shape[0])
    if first < last and isinstance(stored, h5py.Dataset):
        filters, found = _filters_of_chunks(stored), None
        if filters == [] and (found := _uncompressed(stored, first, last)) is not None:
            return found
        if filters == [h5py.h5z.FILTER_DEFLATE] and (found := _inflated(stored, first, last)) is not None:
            return found
    values: np.ndarray = stored[first:last]
    return values


def _filters_of_chunks(stored: h5py.Dataset) -> list[int] | None:
    """Return HDF5's numbers of the filters of a dataset of small chunks of plain numbers; None if it is another one."""
    is_small = bool(stored.chunks) and stored.chunks[0] * stored.dtype.itemsize <= PIECE
    if not is_small or stored.dtype.kind not in "fiu" or stored.id.get_type() != h5py.h5t.py_create(stored.dtype):
        return None
    properties = stored.id.get_create_plist()
    return [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]


def _uncompressed(stored: h5py.Dataset, first: int, last: int) -> np.ndarray | None:
    """Return the values at some positions of chunks without filters, None if one is not as it should be: h5py knows what to say."""
    file = stored.file
    if file.driver != "sec2" or file.userblock_size or not hasattr(os, "preadv"):  # Windows has none
        return None
    n, size, descriptor = stored.chunks[0], stored.dtype.itemsize, file.id.get_vfd_handle()
    values = np.empty(last - first, stored.dtype)
    for start in range(first - first % n, last, n):
        a, b = max(start, first), min(start + n, last)
        try:
            chunk = stored.id.get_chunk_info_by_coord((start,))
        except (OSError, RuntimeError):
            return None
        if chunk.byte_offset is None or chunk.size != n * size:
            return None
        to: Any = values[a - first : b - first].view(np.uint8)
        if os.preadv(descriptor, [to], chunk.byte_offset + (a - start) * size) < len(to):
            raise ValueError(CUT_SHORT)  # HDF5 takes what is missing for zeros
    return values


def _inflated(stored: h5py.Dataset, first: int, last: int) -> np.ndarray | None:
    """Return the values at some positions of chunks that gzip alone compressed, None if one is not as it should be."""
    starts = range(first - first % stored.chunks[0], last, stored.chunks[0])
    found = [_inflated_chunk(stored, start) for start in starts]
    chunks = [chunk for chunk in found if chunk is not None]
    return np.concatenate(chunks)[first - starts[0] : last - starts[0]] if len(chunks) == len(found) else None


def _inflated_chunk(stored: h5py.Dataset, start: int) -> np.ndarray | None:
    n_bytes, inflating = stored.chunks[0] * stored.dtype.itemsize, zlib.decompressobj()
    try:
        skipped_filters, compressed = stored.id.read_direct_chunk((start,))
        # One byte more than there should be, so that the end is reached and its checksum compared.
        found = inflating.decompress(compressed, n_bytes + 1)
    except (OSError, RuntimeError, ValueError, zlib.error):
        return None
    is_whole = inflating.eof and len(found) == n_bytes and not skipped_filters
    return np.frombuffer(found, stored.dtype) if is_whole else None


def _data(stored: Any, first: int, last: int) -> np.ndarray:
    data = _span(stored["data"], first, last)
    if len(data) != last - first:
        raise ValueError(CUT_SHORT)
    return data


def _indices(stored: Any, first: int, last: int, n_minor: int) -> np.ndarray:
    """Return checked indices of stored values: scipy reads and writes wherever an index points to."""
    indices = _span(stored["indices"], first, last)
    if len(indices) != last - first:
        raise ValueError(CUT_SHORT)
    if len(indices) and (indices.min() < 0 or indices.max() >= n_minor):
        raise ValueError(f"its indices are not all between 0 and {n_minor - 1}")
    return indices.astype(np.int32, copy=False)


def _csr_rows(stored: Any, block: Block) -> sparse.csr_matrix:
    data, indices = _entries(stored, int(block.span[0]), int(block.span[-1]), block.n_columns)
    shape = (len(block.span) - 1, block.n_columns)
    matrix = sparse.csr_matrix((data, indices, block.span - block.span[0]), shape)
    return matrix if shape[0] == len(block.rows) else matrix[block.rows - block.rows[0]]


def _dense_rows(stored: Any, block: Block) -> sparse.csr_matrix:
    values = stored[int(block.rows[0]) : int(block.rows[-1]) + 1]
    if len(values) > len(block.rows):
        values = values[block.rows - block.rows[0]]
    with np.errstate(over="ignore"):
        return sparse.csr_matrix(values.astype(np.float32, copy=False))


def _csc_rows(stored: Any, block: Block) -> sparse.csr_matrix:
    """Return some rows of a CSC matrix, read some columns at a time, so that only these rows' values are held."""
    pieces = list(_columns(stored, block))
    row, data = (np.concatenate([piece[i] for piece in pieces]) for i in (0, 2))
    pointers = np.concatenate([[0], np.cumsum(np.concatenate([piece[1] for piece in pieces]))])
    return sparse.csc_matrix((data, row, pointers), (len(block.rows), block.n_columns)).tocsr()


def _columns(stored: Any, block: Block) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield, some columns at a time: the block's row of each value, the number of values in each column, the values."""
    n_rows, n_columns = shape_of(stored)
    pointers = _pointers(stored, n_columns)
    place = np.full(n_rows, -1, dtype=np.int32)
    place[block.rows] = np.arange(len(block.rows))
    for a, b in pairwise(_cut(pointers[:-1], pointers[1:])):
        data, indices = _entries(stored, int(pointers[a]), int(pointers[b]), n_rows)
        row = place[indices]
        here = np.flatnonzero(row >= 0)
        in_column = np.diff(np.searchsorted(here, pointers[a : b + 1] - pointers[a]))
        yield row[here], in_column, data[here]


def _sort_by_rows(stored: Any, block: Block, file: Path, written: Any) -> list[Block]:
    """Write the values of a CSC matrix sorted by rows, and return the rows as blocks of that file.

    Notes
    -----
    The matrix is read twice: once to count the values of each row, once to append each value to its block's part of the
    file, where the columns come in order.
    """
    counts = np.zeros(len(block.rows), dtype=np.int64)
    for row, _, _ in _columns(stored, block):
        counts += np.bincount(row, minlength=len(counts))
    last = np.cumsum(counts)
    cuts = _cut(last - counts, last)
    begins = np.concatenate([[0], last])[cuts]
    number = np.repeat(np.arange(len(cuts) - 1), np.diff(cuts)).astype(np.uint16 if len(cuts) <= 2**16 else np.int64)
    at, column = begins[:-1].copy(), 0
    for row, in_column, data in _columns(stored, block):
        entries = np.empty(len(row), dtype=ENTRY)
        of_block = number[row]
        entries["row"] = row - cuts[of_block]
        entries["column"] = np.repeat(np.arange(column, column + len(in_column), dtype=np.int32), in_column)
        with np.errstate(over="ignore"):
            entries["value"] = data
        column += len(in_column)
        entries = entries[np.argsort(of_block, kind="stable")]
        n = np.bincount(of_block, minlength=len(at))
        first = np.cumsum(n) - n
        for i in np.flatnonzero(n):
            written.seek(int(at[i]) * ENTRY.itemsize)
            written.write(entries[first[i] : first[i] + n[i]].tobytes())
        at += n
    return [
        replace(block, file=file, form="sorted", rows=block.rows[cuts[i] : cuts[i + 1]], span=begins[i : i + 2])
        for i in range(len(cuts) - 1)
    ]


def _sorted_rows(block: Block) -> sparse.csr_matrix:
    first, last = map(int, block.span)
    entries = np.fromfile(block.file, ENTRY, last - first, offset=first * ENTRY.itemsize)
    pointers = np.concatenate([[0], np.cumsum(np.bincount(entries["column"], minlength=block.n_columns))])
    shape = (len(block.rows), block.n_columns)
    return sparse.csc_matrix((entries["value"].copy(), entries["row"].copy(), pointers), shape).tocsr()


# --- a few rows ------------------------------------------------------------------------------------------------------


def read_rows(store: Store, path: str, rows: np.ndarray) -> sparse.csr_matrix:
    """Return a few rows of a stored matrix, float32, without reading the others if the format allows it.

    Parameters
    ----------
    rows
        int (n,), ascending, of rows that there are.

    Raises
    ------
    ValueError, OSError
        If the matrix is damaged; h5py and zarr raise others too.
    """
    stored: Any = store[path]
    (n_rows, n_columns), form = shape_of(stored), form_of(stored)
    if form == "csc":
        return as_float32(_csc_rows(stored, Block("", Path(), path, form, n_columns, rows, np.empty(0))))
    if form == "dense":
        _check_numbers(stored)
        with np.errstate(over="ignore"):
            return sparse.csr_matrix(np.stack([stored[int(row)] for row in rows]).astype(np.float32))
    pointers = _pointers(stored, n_rows)
    each = [
        Block("", Path(), path, form, n_columns, rows[i : i + 1], pointers[row : row + 2]) for i, row in enumerate(rows)
    ]
    return as_float32(sparse.vstack([_csr_rows(stored, block) for block in each], format="csr"))


# --- whole cells -----------------------------------------------------------------------------------------------------


def read_whole_cells(file: Path, rows: np.ndarray) -> ad.AnnData:
    """Return some cells, unchanged, with all that the file has: X, layers, raw, obs, var, obsm, obsp, varm, varp, uns.

    Parameters
    ----------
    rows
        int (n,), ascending.

    Raises
    ------
    InputError
        If the tables cannot be read. Other parts that cannot be are left out.
    """
    store: Any
    with open_file(file) as store, reading(file, "read whole"), warnings.catch_warnings():
        # Cells with equal names are told apart by position; the plan has a note about them.
        warnings.filterwarnings("ignore", message=".* names are not unique")
        whole = ad.AnnData(**{name: plain_table(frame(store, name)) for name in ("obs", "var")})
        left_out = uncopied_parts(store)
        by_rows = []
        for group, key in _parts(store):
            name = f"{group}/{key}" if group else key
            if group not in ("", "raw/varm") and name not in left_out:
                if group in ("layers", "obsm", "obsp") and _is_matrix(store[name]):
                    by_rows.append((group, key))
                    continue
                with _left_out_if_wrong(name, file):
                    getattr(whole, group)[key] = ad.io.read_elem(store[name])
        cells = whole[rows].copy()
        if has_part(store, "X") and "X" not in left_out:
            with _left_out_if_wrong("X", file):
                cells.X = _read_stored_rows(store, "X", rows)
        for group, key in by_rows:
            with _left_out_if_wrong(f"{group}/{key}", file):
                values = _read_stored_rows(store, f"{group}/{key}", rows)
                getattr(cells, group)[key] = values[:, rows] if group == "obsp" else values
        if ".raw" in other_layers(store) and "raw" not in left_out:
            with _left_out_if_wrong("raw", file):
                cells.raw = ad.AnnData(
                    _read_stored_rows(store, "raw/X", rows), obs=cells.obs[[]], var=plain_table(frame(store, "raw/var"))
                )
                for key in (key for key in _keys(store, "raw/varm") if f"raw/varm/{key}" not in left_out):
                    cells.raw.varm[key] = ad.io.read_elem(store[f"raw/varm/{key}"])
        return cells


@contextmanager
def _left_out_if_wrong(name: str, file: Path) -> Iterator[None]:
    """Go on without a part of a file that turns out to be damaged or of a wrong shape; the log says so."""
    try:
        yield
    except Exception as error:
        log.warning("%s of %s is left out, it cannot be read: %s", name, file, error)


def _parts(store: Store) -> Iterator[tuple[str, str]]:
    """Yield group and name of every part that is copied beside `obs` and `var`; X and raw have no group."""
    for group in ("varm", "varp", "uns", "layers", "obsm", "obsp", "raw/varm"):
        yield from ((group, key) for key in _keys(store, group))
    yield from (("", name) for name in ("X", "raw") if has_part(store, name))


def uncopied_parts(store: Store) -> dict[str, str]:
    """Return the parts of a file that cannot be copied into another one, and why: `obsm/airr` -> the reader's error.

    Everything that is copied later is read once, but for large matrices, of which the form is checked.
    """
    tables = [table for table in ("obs", "var", "raw/var") if table in store]
    found = {f"{table}/{column}": UNKNOWN for table in tables for column in unread_columns(store, table)}
    for group, key in _parts(store):
        name = f"{group}/{key}" if group else key
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of forms that are read all the same
                if name == "raw":
                    frame(store, "raw/var")
                    _check_form(store, "raw/X")
                elif name == "X" or _is_matrix(store[name]):
                    _check_form(store, name)
                else:
                    _copy_in_memory(ad.io.read_elem(store[name]))
        except Exception as error:  # anndata, h5py and zarr fail in many ways
            found[name] = " ".join(str(error).split("\n")[0].split())[:200]
    return found


def _copy_in_memory(value: Any) -> None:
    """Copy and write a part as it will be after the training: what can be read cannot always be written."""
    with (
        h5py.File("nowhere", "w", driver="core", backing_store=False) as h5,
        ad.settings.override(allow_write_nullable_strings=True),
    ):
        ad.io.write_elem(h5, "x", deepcopy(value))


def _check_form(store: Any, name: str) -> None:
    if not is_array(store[name]):
        Blocks.from_store(store, name, name, np.empty(0, dtype=np.int64))
    elif store[name].dtype.kind not in "fiubc":
        raise ValueError(f"its values are {store[name].dtype}, and not numbers")


def uncopied_warnings(file: Path) -> list[str]:
    """Return what to tell about parts of a file that the annotated file will not have."""
    with open_file(file) as store:
        found = uncopied_parts(store)
    if not found:
        return []
    parts = "; ".join(f"{name} ({why})" for name, why in list(found.items())[:5])
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return [f"Some parts of {file.name} cannot be read here and will not be in the annotated file: {parts}{more}."]


def read_obs_of_whole(file: Path, but: str = "") -> ad.AnnData:
    """Return the cells' table of an h5ad file after everything in the file was read once, piece by piece.

    Parameters
    ----------
    but
        Path of a matrix whose values were all read before.

    Raises
    ------
    InputError
        If any part of it is damaged.
    """
    parts = but.split("/")
    with open_file(file) as store:
        with reading(file, "read whole"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what nothing here looks at
            h5: Any = store  # an h5ad file, not zarr
            h5.visititems(
                lambda name, item: None if name.split("/")[: len(parts)] == parts else _read_in_pieces(name, item)
            )
        return ad.AnnData(obs=plain_table(frame(store, "obs")))


def _read_in_pieces(name: str, item: Any) -> None:
    if not is_array(item) or not item.shape or not item.size:
        return
    step = max(1, PIECE * len(item) // item.nbytes)
    if item.chunks:  # whole ones, or each would be decompressed twice
        step = max(item.chunks[0], step // item.chunks[0] * item.chunks[0])
    for start in range(0, len(item), step):
        item[start : start + step]


def read_whole(file: Path) -> ad.AnnData:
    """Return all of a file, as far as it can be copied.

    Raises
    ------
    InputError
        If any part of it is damaged.
    """
    with open_file(file) as store:
        n_cells = len(frame(store, "obs"))
    return read_whole_cells(file, np.arange(n_cells))


def _keys(store: Any, group: str) -> list[str]:
    stored = store.get(group)
    return [decoded(key) for key in stored] if is_group(stored) else []


def _read_parts(store: Any, group: str, left_out: Mapping[str, str]) -> dict[str, Any]:
    """Return the parts of a group that are small enough, or of such a form, that they are read whole."""
    by_rows = group in ("layers", "obsm", "obsp")
    names = [key for key in _keys(store, group) if f"{group}/{key}" not in left_out]
    return {key: ad.io.read_elem(store[group][key]) for key in names if not (by_rows and _is_matrix(store[group][key]))}


def plain_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table that any version of anndata writes: no nullable text, no column of the reserved name `_index`."""
    table = table.copy()
    if pd.api.types.is_string_dtype(table.index.dtype):
        table.index = pd.Index(table.index.astype(object), dtype=object, name=table.index.name)
    for column in table:
        if isinstance(table[column].dtype, pd.StringDtype):
            texts = table[column].astype(object)
            table[column] = texts if texts.notna().all() else pd.Categorical(texts.where(texts.notna(), None))
        elif isinstance(table[column].dtype, pd.CategoricalDtype) and isinstance(
            table[column].cat.categories.dtype, pd.StringDtype
        ):
            table[column] = table[column].cat.rename_categories(table[column].cat.categories.astype(object))
    if "_index" in table:
        table = table.drop(columns="_index") if "index" in table else table.rename(columns={"_index": "index"})
    if table.index.name == "_index":
        table.index.name = None
    return table


def _is_matrix(stored: Any) -> bool:
    """Return whether some rows can be read without the others: sparse matrices, and arrays of numbers."""
    if is_array(stored):
        return stored.ndim > 1 and stored.dtype.kind in "fiubc"
    return stored.attrs.get("encoding-type") in ("csr_matrix", "csc_matrix")


def _read_stored_rows(store: Any, path: str, rows: np.ndarray) -> Any:
    """Return some rows of a matrix, in its own type and form."""
    stored = store[path]
    if not _is_matrix(stored):
        return ad.io.read_elem(stored)[rows]
    if is_array(stored):
        cuts = _cut_dense(stored, rows)
        spans = [stored[int(rows[a]) : int(rows[b - 1]) + 1][rows[a:b] - rows[a]] for a, b in pairwise(cuts)]
        return np.concatenate(spans)
    of_rows = Blocks.from_store(store, path, path, rows)
    matrix = sparse.vstack([block.stored_matrix() for block in of_rows.blocks], format="csr")
    return matrix.tocsc() if form_of(stored) == "csc" else matrix
