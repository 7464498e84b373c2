"""What an h5ad file holds: its tables, its matrices (X, `.raw`, layers), read sparse and in float32."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
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
    if not file.exists():
        near = difflib.get_close_matches(file.name, [f.name for f in file.parent.glob("*.h5ad")], n=1)
        raise InputError(f"PATH: there is no file {file}." + (f" Did you mean {near[0]}?" if near else ""))
    if not file.is_file():
        raise InputError(f"PATH: {file} is a folder; give the .h5ad file in it.")
    if file.stat().st_size == 0:
        raise InputError(f"PATH: {file} is empty (0 bytes); copy or download it again.")
    try:
        h5 = h5py.File(file, "r")
    except OSError as error:
        if not h5py.is_hdf5(file):
            raise InputError(f"PATH: {file} is not an h5ad (HDF5) file; write one with adata.write_h5ad().") from None
        raise InputError(f"PATH: {file} cannot be read ({error}); it may be cut short: copy it again.") from None
    with h5:
        if not {"obs", "var"} <= set(h5):
            raise InputError(
                f"PATH: {file} is HDF5 but not h5ad: it has {', '.join(sorted(h5)) or 'nothing'}, and not obs and var; "
                "write it with adata.write_h5ad()."
            )
        yield h5


def frame(h5: h5py.File, name: str) -> pd.DataFrame:
    try:
        frame = ad.io.read_elem(h5[name])
    except Exception as error:  # a damaged or foreign table fails inside anndata in many ways
        raise InputError(f"PATH: {name} of {h5.filename} cannot be read: {error}") from None
    if not isinstance(frame, pd.DataFrame):
        raise InputError(
            f"PATH: {name} of {h5.filename} is not a table as anndata 0.7 and later write it; "
            "open the file with scanpy and write it again."
        )
    return frame


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
    """The stored matrix, the name of its `var` table, and what to call it in messages."""
    has = [*h5.get("layers", {}), *([".raw"] if "raw" in h5 else [])]
    if layer is None and "X" in h5:
        return h5["X"], "var", "X"
    if layer is None:
        raise InputError(f"PATH: {h5.filename} has no X; set LAYER to what it has: {', '.join(has) or 'nothing'}.")
    if layer in h5.get("layers", {}):
        return h5["layers"][layer], "var", f"layer {layer!r}"
    if layer == ".raw" and "raw" in h5:
        return h5["raw"]["X"], "raw/var", ".raw"
    raise InputError(f"LAYER: {h5.filename} has no layer {layer!r}; it has X{''.join(', ' + name for name in has)}.")


def sparse_rows(stored: h5py.Group | h5py.Dataset, rows: np.ndarray) -> sparse.csr_matrix:
    """The given rows of a stored matrix, float32; a dense one is read a few thousand rows at a time."""
    if isinstance(stored, h5py.Dataset):
        blocks = [
            sparse.csr_matrix(stored[start : start + DENSE_ROWS_AT_ONCE].astype(np.float32, copy=False))
            for start in range(0, stored.shape[0], DENSE_ROWS_AT_ONCE)
        ]
        matrix = sparse.vstack(blocks, format="csr")
    else:
        matrix = sparse.csr_matrix(ad.io.read_elem(stored))
    if len(rows) and rows[-1] >= matrix.shape[0]:
        raise ValueError(f"it has {matrix.shape[0]} rows, and obs has more")
    if len(rows) < matrix.shape[0]:
        matrix = matrix[rows]
    matrix = matrix.astype(np.float32, copy=False)
    matrix.eliminate_zeros()
    return matrix


def other_matrices(h5: h5py.File) -> list[str]:
    """What LAYER could name in this file: `.raw` and the layers, those called counts first."""
    layers = sorted(h5.get("layers", {}), key=lambda name: ("count" not in name.lower(), name))
    return [*([".raw"] if "raw" in h5 else []), *layers]


def few_rows(stored: h5py.Group | h5py.Dataset, rows: np.ndarray) -> sparse.csr_matrix:
    """A few rows of a stored matrix, without reading the others where the format allows it."""
    if isinstance(stored, h5py.Dataset):
        return sparse.csr_matrix(np.stack([stored[row] for row in rows]).astype(np.float32))
    if stored.attrs.get("encoding-type") != "csr_matrix":
        return sparse_rows(stored, rows)
    pointers = stored["indptr"][:]
    spans = [slice(pointers[row], pointers[row + 1]) for row in rows]
    data, indices = (np.concatenate([stored[name][span] for span in spans]) for name in ("data", "indices"))
    starts = np.concatenate([[0], np.cumsum([span.stop - span.start for span in spans])])
    matrix = sparse.csr_matrix((data.astype(np.float32), indices, starts), (len(rows), stored.attrs["shape"][1]))
    matrix.eliminate_zeros()
    return matrix
