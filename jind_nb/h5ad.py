"""What an h5ad file holds: its tables, its matrices (X, `.raw`, layers), read sparse and in float32."""

from __future__ import annotations

import difflib
import faulthandler
import math
import os
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from .demo import bundled_file
from .errors import InputError
from .parameters import BUNDLED, Parameters, as_text

DENSE_ROWS_AT_ONCE = 4096
# Deflate shrinks at most a thousandfold: a file that declares more than this was damaged, or made to fill the memory.
DECLARED_PER_BYTE, SMALL = 2000, 2**28
MOST_NESTED = 100
# What the rehearsal may take: seconds, and bytes it reads in a second.
SECONDS, BYTES_PER_SECOND = 20, 5e6
SMALL_ENOUGH_TO_READ = 2**20
_rehearsed: set[tuple[int, int, int]] = set()


def input_files(parameters: Parameters) -> list[Path]:
    """The files of PATH; one bundled with a package is written to the user's cache first."""
    return [bundled_file(path) if path.startswith(BUNDLED) else Path(path) for path in parameters.paths]


@contextmanager
def open_h5ad(file: Path) -> Iterator[h5py.File]:
    """The file, open for reading.

    Raises
    ------
    InputError
        If it is missing, unreadable, or not an h5ad file.
    """
    try:
        there = file.exists()
    except (OSError, ValueError) as error:
        raise InputError(f"PATH: {file} cannot be a file: {error}.") from None
    if not there:
        near = difflib.get_close_matches(file.name, [f.name for f in file.parent.glob("*.h5ad")], n=1)
        raise InputError(f"PATH: there is no file {file}." + (f" Did you mean {near[0]}?" if near else ""))
    if not file.is_file():
        raise InputError(f"PATH: {file} is a folder; give the .h5ad file in it.")
    if file.stat().st_size == 0:
        raise InputError(f"PATH: {file} is empty (0 bytes); copy or download it again.")
    _rehearse(file)
    try:
        h5 = h5py.File(file, "r")
    except OSError as error:
        if not h5py.is_hdf5(file):
            raise InputError(f"PATH: {file} is not an h5ad (HDF5) file; write one with adata.write_h5ad().") from None
        raise InputError(f"PATH: {file} cannot be read ({error}); it may be cut short: copy it again.") from None
    with h5:
        try:
            names = sorted(h5)
            if {"obs", "var"} <= set(names):
                _check_structure(h5, file.stat().st_size)
        except InputError:
            raise
        except Exception as error:  # damage anywhere fails inside h5py in many ways
            raise InputError(f"PATH: {file} cannot be read ({error}); it is damaged: copy it again.") from None
        if not {"obs", "var"} <= set(names):
            raise InputError(
                f"PATH: {file} is HDF5 but not h5ad: it has {', '.join(names) or 'nothing'}, and not obs and var; "
                "write it with adata.write_h5ad()."
            )
        yield h5


def _rehearse(file: Path) -> None:
    """Reads the file's structure and tables in a process of its own, once: of some damaged files the HDF5 library never
    finishes reading, or dies.

    Raises
    ------
    InputError
        If it does either.
    """
    stat = file.stat()
    signature = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if signature in _rehearsed or not hasattr(os, "fork"):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which the child does not touch
        child = os.fork()
    if child == 0:
        with suppress(BaseException):
            faulthandler.disable()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where a dying library complains
            _read_once(file)
        os._exit(0)
    end, pause = time.monotonic() + SECONDS + stat.st_size / BYTES_PER_SECOND, 0.001
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise InputError(
                f"PATH: {file} cannot be read (the HDF5 library does not finish); it is damaged: copy it again."
            )
        time.sleep(pause)
        pause = min(0.05, 1.5 * pause)
    if os.WIFSIGNALED(ended[1]):
        raise InputError(f"PATH: {file} cannot be read (the HDF5 library fails on it); it is damaged: copy it again.")
    _rehearsed.add(signature)


def _read_once(file: Path) -> None:
    """Everything of a file but large values; errors are left to be found again and told of."""

    def see(name: str, item: Any) -> None:
        with suppress(Exception):
            dict(item.attrs)
        with suppress(Exception):
            if isinstance(item, h5py.Dataset) and not item.external and not item.is_virtual and item.shape is not None:
                small = math.prod(item.shape) * item.dtype.itemsize <= SMALL_ENOUGH_TO_READ
                if small or math.prod(item.shape) * item.dtype.itemsize <= file.stat().st_size * DECLARED_PER_BYTE:
                    item[() if small else slice(0, 1)]
                if item.chunks:
                    item.id.get_num_chunks()

    with h5py.File(file, "r") as h5:
        _check_structure(h5, file.stat().st_size)
        h5.visititems(see)
        for table in ("obs", "var", "raw/var"):
            with suppress(Exception):
                ad.io.read_elem(h5[table])


def _check_structure(h5: h5py.File, n_bytes: int) -> None:
    """Sees that the file is whole, keeps its values in itself, and is not made to fill the memory.

    Raises
    ------
    InputError
        If a part is in another file, which could be any file of the reader's, or declares values it cannot hold.
    """

    groups, seen = [(h5["/"], "", 0)], set()
    while groups:
        group, above, depth = groups.pop()
        for key in group:
            name = f"{above}{_name(key)}"
            what = f"{name} of {h5.filename}"
            link = group.id.links.get_info(key if isinstance(key, bytes) else key.encode()).type
            if link == h5py.h5l.TYPE_EXTERNAL:
                raise InputError(
                    f"PATH: {what} is a link to another file; links out of a file are not followed: write the file again "
                    "with everything in it."
                )
            if link != h5py.h5l.TYPE_HARD:  # a second name within this file
                continue
            item = group[key]
            address = h5py.h5o.get_info(item.id).addr
            if isinstance(item, h5py.Dataset) and item.shape is not None:
                _check_dataset(item, what, n_bytes)
            elif isinstance(item, h5py.Group) and address not in seen:
                if depth == MOST_NESTED:
                    raise InputError(
                        f"PATH: {above[:50]}… of {h5.filename} is nested more than {depth} deep; write it flatter."
                    )
                groups.append((item, f"{name}/", depth + 1))
            seen.add(address)


def _check_dataset(stored: h5py.Dataset, what: str, n_bytes: int) -> None:
    if stored.external or stored.is_virtual:
        raise InputError(
            f"PATH: {what} is kept in another file, which is not read: write the file again with everything in it."
        )
    declared = math.prod(stored.shape) * stored.dtype.itemsize
    if declared > max(SMALL, DECLARED_PER_BYTE * n_bytes):
        raise InputError(
            f"PATH: {what} declares {' x '.join(map(str, stored.shape))} values, which a file of {n_bytes:,} bytes cannot "
            "hold; it is damaged: copy or write it again."
        )


def _name(stored: str | bytes) -> str:
    return stored if isinstance(stored, str) else stored.decode("utf-8", "replace")


def frame(h5: h5py.File, name: str) -> pd.DataFrame:
    """One of the file's tables: `obs`, `var` or `raw/var`.

    Raises
    ------
    InputError
        If it is missing, damaged or no table, names a column twice, or holds text that is not UTF-8.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of formats that are refused, or read all the same
            frame = ad.io.read_elem(h5[name])
    except Exception as error:  # a damaged or foreign table fails inside anndata in many ways
        raise InputError(f"PATH: {name} of {h5.filename} cannot be read: {error}") from None
    if not isinstance(frame, pd.DataFrame):
        raise InputError(
            f"PATH: {name} of {h5.filename} is not a table as anndata 0.7 and later write it; "
            "open the file with scanpy and write it again."
        )
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise InputError(f"PATH: {name} of {h5.filename} has two columns {twice!r}; rename one and write it again.")
    for column, values in {"its index": frame.index, **{repr(c): frame[c] for c in frame}}.items():
        _check_text(pd.Series(values), f"{column} in {name} of {h5.filename}")
    _check_text(pd.Series(frame.columns, dtype=object), f"a column's name in {name} of {h5.filename}")
    return frame


def _check_text(values: pd.Series, what: str) -> None:
    """h5py reads bytes that are no UTF-8 as half characters, which no file of results could hold."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = pd.Series(values.cat.categories)
    if values.dtype != object and not pd.api.types.is_string_dtype(values.dtype):
        return
    for value in values:
        if isinstance(value, str):
            if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
                raise InputError(f"PATH: {what} holds {value[:100]!r}, which is not UTF-8 text; write it as UTF-8.")
        elif not pd.api.types.is_scalar(value):
            raise InputError(
                f"PATH: {what} holds {type(value).__name__} values, not text or numbers; convert or drop it."
            )


def texts(column: pd.Series) -> pd.Series:
    """The column as text, missing values as None; numbers as `as_text` writes them."""
    column = column.astype(object)
    texts = {value: as_text(value) for value in column.dropna().unique()}
    return column.map(texts).astype(object).where(column.notna(), None)


def no_column(parameter: str, column: str, obs: pd.DataFrame, where: str) -> InputError:
    near = difflib.get_close_matches(column, map(str, obs.columns), n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    names = ", ".join(map(str, obs.columns[:30])) or "none"
    return InputError(f"{parameter}: {where} has no column {column!r}; its columns are {names}.{hint}")


def matrix_of(h5: h5py.File, layer: str | None) -> tuple[Any, str, str]:
    """The stored matrix, the name of its `var` table, and what to call it in messages.

    Raises
    ------
    InputError
        If there is none of that name, or it has not a row for each row of obs and a column for each of its var.
    """
    layers = _layers(h5)
    has = [*layers, *([".raw"] if "raw" in h5 else [])]
    if layer is None and "X" in h5:
        return _fitting(h5, "X", "var", "X"), "var", "X"
    if layer is None:
        raise InputError(f"PATH: {h5.filename} has no X; set LAYER to what it has: {', '.join(has) or 'nothing'}.")
    if layer in layers:
        return _fitting(h5, f"layers/{layer}", "var", f"layer {layer!r}"), "var", f"layer {layer!r}"
    if layer == ".raw" and "raw" in h5:
        return _fitting(h5, "raw/X", "raw/var", ".raw"), "raw/var", ".raw"
    raise InputError(f"LAYER: {h5.filename} has no layer {layer!r}; it has X{''.join(', ' + name for name in has)}.")


def read_whole(file: Path) -> ad.AnnData:
    """All of a file, as it is.

    Raises
    ------
    InputError
        If any part of it cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what nothing here looks at, such as names that are not unique
            return ad.read_h5ad(file)
    except Exception as error:  # damage anywhere fails inside anndata in many ways
        raise InputError(f"PATH: {file} cannot be read whole: {error}") from None


def _layers(h5: h5py.File) -> list[str]:
    layers = h5.get("layers")
    return [_name(name) for name in layers] if isinstance(layers, h5py.Group) else []


def _fitting(h5: h5py.File, path: str, table: str, what: str) -> h5py.Group | h5py.Dataset:
    """The matrix, if its declared shape is that of its tables: seen before memory for it is asked for."""
    try:
        stored = h5[path]
        shape = (
            stored.shape
            if isinstance(stored, h5py.Dataset)
            else stored.attrs.get("shape", stored.attrs.get("h5sparse_shape"))
        )
        n_rows, n_columns = (int(n) for n in shape)
        expected = _length(h5["obs"]), _length(h5[table])
    except Exception as error:  # what is no matrix, or no table, fails in many ways
        raise InputError(f"PATH: {what} of {h5.filename} cannot be read: {error}") from None
    if expected[0] is not None and n_rows != expected[0]:
        raise InputError(
            f"PATH: {what} of {h5.filename} cannot be read: it has {n_rows} rows, and obs has {expected[0]}."
        )
    if expected[1] is not None and n_columns != expected[1]:
        raise InputError(
            f"PATH: {what} of {h5.filename} has {n_columns} columns but {table} has {expected[1]} rows; write the file again."
        )
    return stored


def _length(table: Any) -> int | None:
    """The rows of a stored table; None where it is not stored as anndata 0.7 and later do, for `frame` to say so."""
    index = table.get(table.attrs.get("_index", "_index")) if isinstance(table, h5py.Group) else None
    return index.shape[0] if isinstance(index, h5py.Dataset) and index.shape else None


def sparse_rows(stored: h5py.Group | h5py.Dataset, rows: np.ndarray) -> sparse.csr_matrix:
    """The given rows of a stored matrix, float32; a dense one is read a few thousand rows at a time."""
    if isinstance(stored, h5py.Dataset):
        blocks = [
            sparse.csr_matrix(stored[start : start + DENSE_ROWS_AT_ONCE].astype(np.float32, copy=False))
            for start in range(0, stored.shape[0], DENSE_ROWS_AT_ONCE)
        ]
        matrix = sparse.vstack(blocks, format="csr")
    else:
        matrix = sparse.csr_matrix(_checked(ad.io.read_elem(stored)))
    if len(rows) and rows[-1] >= matrix.shape[0]:
        raise ValueError(f"it has {matrix.shape[0]} rows, and obs has more")
    if len(rows) < matrix.shape[0]:
        matrix = matrix[rows]
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is told of as that
        matrix = matrix.astype(np.float32, copy=False)
    matrix.eliminate_zeros()
    return matrix


def _checked(matrix: Any) -> Any:
    """The same matrix: scipy reads and writes wherever a damaged one's indices point to, also outside of its memory."""
    if sparse.issparse(matrix):
        for name in ("indptr", "indices"):
            if getattr(matrix, name).dtype.kind not in "iu":
                raise ValueError(f"its {name} are not whole numbers")
        if matrix.indices.dtype.kind == "u" or matrix.indptr.dtype.kind == "u":
            matrix.indices, matrix.indptr = matrix.indices.astype(np.int64), matrix.indptr.astype(np.int64)
        if matrix.indptr.ndim != 1 or (np.diff(matrix.indptr) < 0).any():  # which scipy checks only of some
            raise ValueError("its indptr runs backwards")
        matrix.check_format(full_check=True)
    return matrix


def other_matrices(h5: h5py.File) -> list[str]:
    """What LAYER could name in this file: `.raw` and the layers, those called counts first."""
    layers = sorted(_layers(h5), key=lambda name: ("count" not in name.lower(), name))
    return [*([".raw"] if "raw" in h5 else []), *layers]


def few_rows(stored: h5py.Group | h5py.Dataset, rows: np.ndarray) -> sparse.csr_matrix:
    """A few rows of a stored matrix, without reading the others where the format allows it."""
    if isinstance(stored, h5py.Dataset):
        return sparse.csr_matrix(np.stack([stored[row] for row in rows]).astype(np.float32))
    if stored.attrs.get("encoding-type") != "csr_matrix":
        return sparse_rows(stored, rows)
    pointers = stored["indptr"][:]
    if (np.diff(pointers) < 0).any() or pointers[0] < 0 or pointers[-1] > len(stored["data"]):
        raise ValueError("its indptr runs backwards, or past the end")
    spans = [slice(pointers[row], pointers[row + 1]) for row in rows]
    data, indices = (np.concatenate([stored[name][span] for span in spans]) for name in ("data", "indices"))
    starts = np.concatenate([[0], np.cumsum([span.stop - span.start for span in spans])])
    matrix = sparse.csr_matrix((data.astype(np.float32), indices, starts), (len(rows), stored.attrs["shape"][1]))
    matrix = _checked(matrix)
    matrix.eliminate_zeros()
    return matrix
