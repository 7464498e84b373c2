"""What the files of PATH hold, h5ad (HDF5) or zarr: their tables, and where their layers (X, `.raw`, layers by name) are."""

import ast
import re
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import zarr

from ..core.address import is_remote
from ..core.parameters import BUNDLED, Parameters
from ..core.text import as_text, did_you_mean
from ..errors import InputError
from .datasets import bundled_file
from .download import fetch
from .formats import as_h5ad
from .integrity import (
    Store,
    check_codecs,
    check_links,
    check_structure,
    decoded,
    is_array,
    is_group,
    path_of,
    reading,
    rehearse,
)

EMBEDDING = "obsm:"  # LAYER names a matrix of obsm so

R_MISSING = (-(2**31), "-2147483648")  # NA_integer_, which some converters write as a number

UNKNOWN_ENCODING = "IORegistryError"  # anndata's error, which has no public name

# What str() makes of bytes.
BYTES_IN_WORDS = re.compile(r"b(['\"])(?:\\(?:x[0-9a-f]{2}|[\\'\"ntr])|(?!\1)[^\\\n])*\1")


def input_files(parameters: Parameters) -> list[Path]:
    """Return the files of PATH; bundled and remote ones are put into the user's cache first."""
    return [local_file(path) for path in parameters.paths]


def local_file(path: str) -> Path:
    """Return one of PATH as an h5ad file or zarr folder on this machine; other forms are rewritten as h5ad first.

    Raises
    ------
    InputError
        If no such data are bundled, the file cannot be fetched, or must be converted first.
    """
    if path.startswith(BUNDLED):
        return bundled_file(path)
    return fetch(path) if is_remote(path) else as_h5ad(Path(path))


@contextmanager
def open_file(file: Path) -> Iterator[Store]:
    """Open a file for reading after it was checked.

    Raises
    ------
    InputError
        If it is missing, unreadable, or neither an h5ad file nor anndata's zarr folder.
    """
    try:
        there = file.exists()
    except (OSError, ValueError) as error:
        raise InputError(f"PATH: {file} cannot be a file: {error}.") from None
    if not there:
        names = [other.name for kind in ("*.h5ad", "*.zarr") for other in file.parent.glob(kind)]
        raise InputError(f"PATH: there is no file {file}.{did_you_mean(file.name, names)}")
    if file.is_dir():
        if not is_zarr(file):
            raise InputError(
                f"PATH: {file} is a folder and neither a zarr nor an mtx folder; give the .h5ad file or .zarr folder in it."
            )
        check_links(file)
        check_codecs(file)
    else:
        if file.stat().st_size == 0:
            raise InputError(f"PATH: {file} is empty (0 bytes); copy or download it again.")
        rehearse(file)
    try:
        opened = open_checked(file)
    except Exception as error:  # OSError of HDF5; zarr fails in many ways
        if file.is_file() and not h5py.is_hdf5(file):
            raise InputError(f"PATH: {file} is not an h5ad (HDF5) file; write one with adata.write_h5ad().") from None
        raise InputError(f"PATH: {file} cannot be read ({error}); it may be cut short: copy it again.") from None
    with opened as store:
        with reading(file, "read (it is damaged: copy it again)"):
            names = sorted(map(decoded, store))
            if {"obs", "var"} <= set(names):
                check_structure(store, n_bytes(file))
        if not {"obs", "var"} <= set(names):
            kind, form = ("zarr but not anndata", "zarr") if file.is_dir() else ("HDF5 but not h5ad", "h5ad")
            has = f"it has {', '.join(names) or 'nothing'}, and not obs and var"
            raise InputError(f"PATH: {file} is {kind}: {has}; write it with adata.write_{form}().")
        yield store


def open_checked(file: Path) -> AbstractContextManager[Store]:
    """Return a file that `open_file` has checked before, to be opened and closed by `with`."""
    return nullcontext(zarr.open_group(file, mode="r")) if file.is_dir() else h5py.File(file, "r")


def is_zarr(folder: Path) -> bool:
    """Return whether a folder is a zarr store."""
    # What marks one in versions 3 and 2 of the format.
    return any((folder / name).is_file() for name in ("zarr.json", ".zgroup"))


def parts(file: Path) -> list[Path]:
    """Return the file itself, or all files of a zarr folder, by name."""
    return sorted(path for path in file.rglob("*") if path.is_file()) if file.is_dir() else [file]


def n_bytes(file: Path) -> int:
    """Return the bytes of a file or zarr folder on disk."""
    return sum(part.stat().st_size for part in parts(file))


def frame(store: Store, name: str) -> pd.DataFrame:
    """Return one of the file's tables: `obs`, `var` or `raw/var`.

    Raises
    ------
    InputError
        If it is missing, damaged or no table, names a column twice, or holds text that is not UTF-8.
    """
    what = f"{name} of {path_of(store)}"
    with reading(what), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of formats that are refused, or read all the same
        frame = _read_table(store[name])
    if not isinstance(frame, pd.DataFrame):
        raise InputError(
            f"PATH: {what} is no table of anndata 0.7 or later; read the file with scanpy and write it again."
        )
    frame = _decoded(frame)
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise InputError(f"PATH: {what} has two columns {twice!r}; rename one and write it again.")
    names = {"its index": frame.index, "a column's name": pd.Series(frame.columns, dtype=object)}
    for column, values in (names | {repr(c): frame[c] for c in frame}).items():
        _check_text(pd.Series(values), f"{column} in {what}")
    return frame


def _read_table(stored: Any) -> Any:
    """Return a stored table without columns of an encoding that anndata does not know."""
    try:
        return ad.io.read_elem(stored)
    except Exception as error:
        if type(error).__name__ != UNKNOWN_ENCODING:
            raise
    columns: dict[str, Any] = {}
    for column in map(decoded, stored.attrs["column-order"]):
        try:
            columns[column] = ad.io.read_elem(stored[column])
        except Exception as error:
            if type(error).__name__ != UNKNOWN_ENCODING:
                raise
    return pd.DataFrame(columns, index=ad.io.read_elem(stored[stored.attrs["_index"]]))


def unread_columns(store: Store, name: str) -> list[str]:
    """Return the columns of a table that `frame` leaves out, since nobody here knows how they are written."""
    stored: Any = store.get(name)
    said = stored.attrs.get("column-order", ()) if is_group(stored) else ()
    return [column for column in map(decoded, said) if column not in frame(store, name)]


def _decoded(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table with text in place of bytes, which older writers left, also as text: `b'T cell'`."""
    names = pd.Series(frame.index)
    if (plain := _without_bytes(names)) is not names:
        frame.index = pd.Index(plain, name=frame.index.name)
    for column in frame:
        values = frame[column]
        if isinstance(values.dtype, pd.CategoricalDtype):
            categories = pd.Series(values.cat.categories)
            if (plain := _without_bytes(categories)) is not categories:
                frame[column] = values.map(dict(zip(categories, plain, strict=True))).astype("category")
        else:
            frame[column] = _without_bytes(values)
    return frame


def _without_bytes(values: pd.Series) -> pd.Series:
    """Return text for bytes; the values themselves if there are none."""
    if values.dtype != object and not isinstance(values.dtype, pd.StringDtype):
        return values
    kind = pd.api.types.infer_dtype(values, skipna=True)
    if kind == "bytes":
        return values.map(lambda value: value.decode("utf-8", "replace") if isinstance(value, bytes) else value)
    if kind != "string":
        return values
    texts = values.dropna().unique() if _like_bytes(values) else []
    if not len(texts) or not all(map(BYTES_IN_WORDS.fullmatch, texts)):
        return values
    plain = {text: ast.literal_eval(text).decode("utf-8", "replace") for text in texts}
    return values.map(plain).astype(object).where(values.notna(), None)


def _like_bytes(values: pd.Series) -> bool:
    """Return whether the first text looks like bytes, as all would: a file may have a million of them."""
    first = values.dropna().iloc[:1]
    return len(first) > 0 and BYTES_IN_WORDS.fullmatch(first.iloc[0]) is not None


def _check_text(values: pd.Series, what: str) -> None:
    """Raise InputError for text that is not UTF-8: h5py reads it as half characters, which cannot be written again."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = pd.Series(values.cat.categories)
    if values.dtype != object and not pd.api.types.is_string_dtype(values.dtype):
        return
    listed = values.tolist()
    with suppress(TypeError):
        if "".join(listed).isascii():  # at once, since a file may have a million names of cells
            return
    for value in listed:
        if isinstance(value, str):
            if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
                raise InputError(f"PATH: {what} holds {value[:100]!r}, which is not UTF-8 text; write it as UTF-8.")
        elif not pd.api.types.is_scalar(value):
            kind = type(value).__name__
            raise InputError(f"PATH: {what} holds {kind} values, not text or numbers; convert or drop it.")


def texts(column: pd.Series) -> pd.Series:
    """Return the column as text, numbers as `as_text` writes them, missing values (R's for whole numbers, too) as None."""
    column = column.astype(object)
    column = column.mask(column.isin(R_MISSING), None)
    texts = {value: as_text(value) for value in column.dropna().unique()}
    return column.map(texts).astype(object).where(column.notna(), None)


def no_column(parameter: str, column: str, obs: pd.DataFrame, where: str) -> InputError:
    """Return the error for a column that a table does not have."""
    columns = list(map(str, obs.columns))
    has = f"its columns are {', '.join(columns[:30]) or 'none'}.{did_you_mean(column, columns)}"
    return InputError(f"{parameter}: {where} has no column {column!r}; {has}")


def matrix_of(store: Store, layer: str | None) -> tuple[str, str, str]:
    """Return the path of a layer's matrix in the file, the name of its `var` table, and what messages call it.

    Raises
    ------
    InputError
        If there is no such layer, or its shape does not fit the tables.
    """
    has, where = other_layers(store), path_of(store)
    if (key := embedding_key(layer)) is not None:
        return _embedding(store, key)
    if layer is None and not has_part(store, "X"):
        raise InputError(f"PATH: {where} has no X; set LAYER to what it has: {', '.join(has) or 'nothing'}.")
    if layer is not None and layer not in has:
        raise InputError(f"LAYER: {where} has no layer {layer!r}; it has {', '.join(['X', *has])}.")
    path, table, what = f"layers/{layer}", "var", layer_name(layer)
    if what in ("X", ".raw"):
        path, table = ("X", "var") if what == "X" else ("raw/X", "raw/var")
    _check_shape(store, path, table, what)
    return path, table, what


def embedding_key(layer: str | None) -> str | None:
    """Return the key of `obsm` that LAYER names, None if it names no embedding.

    >>> embedding_key("obsm:X_scVI"), embedding_key("counts")
    ('X_scVI', None)
    """
    return layer.removeprefix(EMBEDDING) if layer is not None and layer.startswith(EMBEDDING) else None


def _embedding(store: Store, key: str) -> tuple[str, str, str]:
    """Return what `matrix_of` does, for a matrix of `obsm`; in place of a table of `var` there is its path."""
    stored: Any = store.get("obsm")
    has = [decoded(name) for name in stored] if is_group(stored) else []
    if key not in has:
        raise InputError(
            f"LAYER: {path_of(store)} has no matrix {key!r} in obsm; it has {', '.join(has) or 'none'}."
            f"{did_you_mean(key, has)}"
        )
    path, what = f"obsm/{key}", layer_name(EMBEDDING + key)
    if not is_array(stored[key]) and stored[key].attrs.get("encoding-type") == "dataframe":
        raise InputError(
            f"LAYER: {what} of {path_of(store)} is a table; write it as a matrix: adata.obsm[{key!r}] = "
            f"adata.obsm[{key!r}].to_numpy()."
        )
    _check_shape(store, path, path, what)
    return path, path, what


def features_of(store: Store, table: str) -> pd.DataFrame:
    """Return the table of a matrix's features that `matrix_of` names; the columns of an embedding have numbers for names."""
    if not table.startswith("obsm/"):
        return frame(store, table)
    n = shape_of(store[table])[1]
    return pd.DataFrame(index=[f"dimension {i + 1:0{len(str(n))}d}" for i in range(n)])


def layer_name(layer: str | None) -> str:
    """Return what messages call a layer.

    >>> layer_name(None), layer_name(".raw"), layer_name("counts"), layer_name("obsm:X_pca")
    ('X', '.raw', "layer 'counts'", "obsm 'X_pca'")
    """
    if (key := embedding_key(layer)) is not None:
        return f"obsm {key!r}"
    return "X" if layer is None else layer if layer == ".raw" else f"layer {layer!r}"


def has_part(store: Store, name: str) -> bool:
    """Return whether a part is there and is not a stored `None`."""
    stored: Any = store.get(name)  # also None for a link that leads to nothing
    return stored is not None and stored.attrs.get("encoding-type") != "null"


def put_tables(file: Path, adata: ad.AnnData) -> None:
    """Replace `obs`, those parts of `obsm` that `adata` has, and colours in `uns` of an h5ad file."""
    with h5py.File(file, "r+") as h5:
        with ad.settings.override(allow_write_nullable_strings=True):  # what the file has already
            ad.io.write_elem(h5, "obs", adata.obs)
        if "obsm" not in h5:
            ad.io.write_elem(h5, "obsm", {})
        if "uns" not in h5:
            ad.io.write_elem(h5, "uns", {})
        for name, values in adata.obsm.items():
            ad.io.write_elem(h5["obsm"], name, values)
        for name in [name for name in adata.uns if name.endswith("_colors")]:
            ad.io.write_elem(h5["uns"], name, np.array(adata.uns[name], dtype=object))


def _layers(store: Store) -> list[str]:
    layers: Any = store.get("layers")
    return [decoded(name) for name in layers] if is_group(layers) else []


def _check_shape(store: Store, path: str, table: str, what: str) -> None:
    """Check that a matrix declares the shape of its tables, before memory for it is asked for."""
    with reading(f"{what} of {path_of(store)}"):
        n_rows, n_columns = shape_of(store[path])
        expected = _length(store["obs"]), _length(store[table])
        # None: a table of anndata before 0.7, which `frame` refuses.
        if expected[0] not in (None, n_rows):
            raise ValueError(f"it has {n_rows} rows, and obs has {expected[0]}.")
        if expected[1] not in (None, n_columns):
            raise ValueError(f"it has {n_columns} columns but {table} has {expected[1]} rows; write the file again.")


def shape_of(stored: Any) -> tuple[int, int]:
    """Return how many cells and features a stored matrix declares."""
    shape = stored.shape if is_array(stored) else stored.attrs.get("shape", stored.attrs.get("h5sparse_shape"))
    n_rows, n_columns = map(int, shape)
    return n_rows, n_columns


def form_of(stored: Any) -> str:
    """Return the form of a stored matrix: `dense`, `csr` or `csc`.

    Raises
    ------
    ValueError
        If a stored part is no matrix.
    """
    if is_array(stored):
        return "dense"
    encoding = str(stored.attrs.get("encoding-type", stored.attrs.get("h5sparse_format")))
    if (form := encoding.removesuffix("_matrix")) in ("csr", "csc"):
        return form
    raise ValueError(f"it is {encoding!r}, and not a matrix")


def _length(table: Any) -> int | None:
    """Return the rows of a stored table; None for the tables of anndata before 0.7."""
    index: Any = table.get(table.attrs.get("_index", "_index")) if is_group(table) else None
    return index.shape[0] if is_array(index) and index.shape else None


def other_layers(store: Store) -> list[str]:
    """Return what LAYER could name in this file: `.raw` and the layers, those called counts first."""
    layers = sorted(_layers(store), key=lambda name: ("count" not in name.lower(), name))
    return [*([".raw"] if has_part(store, "raw") else []), *layers]
