"""Files that are no h5ad: Cell Ranger's .h5 and mtx folders, .h5mu and .loom are rewritten as one, block by block, once.

The rewritten file is in the user's cache, under a hash of the original's path, size and time: all that reads, checks and
hashes h5ad files then reads it. What no Python package in use reads is refused with the command that converts it.

    JIND_NB_CACHE (default: the user's cache folder)/converted/<hash>/<name>.h5ad
"""

import gzip
import hashlib
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from filelock import FileLock
from scipy import sparse

from ..core.files import whole_file
from ..core.text import listing
from ..errors import InputError
from .download import cache_folder
from .integrity import check_structure, is_group, reading, rehearse

# Names of files and folders that Cell Ranger gives to every sample; the sample is named by a folder above.
GENERIC = re.compile(
    r"(filtered|raw|sample_filtered|sample_raw)_(feature|gene)_bc_matri(x|ces)(_h5)?|outs|count|matrix|mtx|per_sample_outs|"
    r"GRCh3[78].*|GRCm3[89].*|hg19|hg38|mm10|mm39",
    re.IGNORECASE,
)

VALUES_AT_ONCE = 2**22

CELLS_AT_ONCE = 2_000  # of a loom file, which is dense

H5AD_ADVICE = {
    ".rds": "in R: library(anndataR); write_h5ad(readRDS({path}), {h5ad})",
    ".qs": "in R: library(anndataR); write_h5ad(qs::qread({path}), {h5ad})",
    ".h5seurat": "in R: library(SeuratDisk); Convert({path}, dest = 'h5ad')",
    ".rdata": "in R: load({path}); library(anndataR); write_h5ad(NAME_OF_THE_OBJECT, {h5ad})",
    ".csv": "in Python: import anndata; anndata.io.read_csv({path}).write_h5ad({h5ad})  # .T before .write_h5ad if rows are genes",
    ".tsv": "in Python: import anndata; anndata.io.read_text({path}, delimiter='\\t').write_h5ad({h5ad})  # .T if rows are genes",
    ".txt": "in Python: import anndata; anndata.io.read_text({path}).write_h5ad({h5ad})  # .T if rows are genes",
    ".xlsx": "in Python: import anndata; anndata.io.read_excel({path}, sheet=0).write_h5ad({h5ad})",
    ".gz": "gunzip --keep {path}",
    ".zip": "unzip {path}",
    ".tar": "tar -xf {path}",
    ".fcs": "in Python, with the package pytometry: pytometry.io.read_fcs({path}).write_h5ad({h5ad})",
}
H5AD_ADVICE[".rda"], H5AD_ADVICE[".tgz"] = H5AD_ADVICE[".rdata"], H5AD_ADVICE[".tar"]

SPATIALDATA = "in Python: import spatialdata; spatialdata.read_zarr({path}).tables['table'].write_h5ad({h5ad})"


def as_h5ad(path: Path) -> Path:
    """Return the file itself, or the h5ad file that it was rewritten to if it is of another form that can be read.

    Raises
    ------
    InputError
        If it is damaged, or of a form that must be converted first, with the command.
    """
    convert = _converter(path)
    if convert is None:
        if (advice := _advice(path)) is not None:
            raise InputError(f"PATH: {path} is no h5ad file; convert it {advice}")
        return path
    file = cache_folder() / "converted" / _signature(path) / f"{_sample(path)}.h5ad"
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        if not file.exists():
            with reading(path), whole_file(file) as temporary, h5py.File(temporary, "w") as h5:
                h5.attrs["encoding-type"], h5.attrs["encoding-version"] = "anndata", "0.1.0"
                convert(path, h5)
    return file


def _converter(path: Path) -> Callable[[Path, h5py.File], None] | None:
    """Return what rewrites a file or folder; None if it is an h5ad file, zarr, missing or of no form known here."""
    whole, modality = _modality(path)
    if whole is not None:
        return lambda _, h5: _convert_h5mu(whole, modality, h5)
    suffix = path.suffix.lower()
    if path.is_dir() or path.name.removesuffix(".gz").endswith(".mtx"):
        return _convert_mtx if _mtx_files(path) else None
    if not path.is_file() or path.stat().st_size == 0 or not h5py.is_hdf5(path):
        return None
    if suffix == ".loom":
        return _convert_loom
    if suffix in (".h5", ".hdf5"):
        rehearse(path)
        with h5py.File(path, "r") as h5:
            return _convert_cell_ranger if _cell_ranger_groups(h5) else None
    return None


def _advice(path: Path) -> str | None:
    """Return how to convert a file that cannot be read here; None if its name says nothing."""
    if path.is_dir():
        kinds = ("tables", "table", "points", "shapes", "images")
        found = SPATIALDATA if any((path / kind).is_dir() for kind in kinds) and not (path / "obs").is_dir() else None
    else:
        found = H5AD_ADVICE.get(path.suffix.lower()) if path.is_file() else None
    plain = path.with_name(path.name.removesuffix(".gz").removesuffix(".zip"))
    if found is None:
        return None
    text = found.format(
        path=shlex.quote(str(path)) if " --" in found or "zip" in found or "tar" in found else repr(str(path)),
        h5ad=repr(str(plain.with_suffix(".h5ad"))),
    )
    return f"with: {text}" if not text.startswith("in ") else text


def _signature(path: Path) -> str:
    whole, modality = _modality(path)
    files = [whole] if whole is not None else _mtx_files(path) or [path]
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr((stats, modality, CONVERTED_BY)).encode()).hexdigest()[:16]


CONVERTED_BY = 1  # to be raised when files must be rewritten because the rewriting changed


def _sample(path: Path) -> str:
    """Return what a sample is called: the first of the name and the folders above it that Cell Ranger does not give to all.

    >>> _sample(Path("/data/s1/outs/filtered_feature_bc_matrix.h5")), _sample(Path("/data/GSM1_s2_matrix.mtx.gz"))
    ('s1', 'GSM1_s2')
    """
    whole, _ = _modality(path)
    parts = [(whole or path).absolute().name, *[folder.name for folder in (whole or path).absolute().parents]]
    for part in parts:
        name = re.sub(r"(\.(h5|hdf5|loom|h5mu|mtx|gz))+$", "", part, flags=re.IGNORECASE)
        name = re.sub(
            r"[._-]?(matrix|(filtered|raw)_(feature|gene)_bc_matri(x|ces)(_h5)?)$", "", name, flags=re.IGNORECASE
        )
        if name and not GENERIC.fullmatch(name):
            return name
    return "sample"


# --- Cell Ranger -----------------------------------------------------------------------------------------------------


def _cell_ranger_groups(h5: h5py.File) -> list[str]:
    """Return the groups that hold a matrix: `matrix` (version 3 on), or one for each genome (version 2)."""
    wanted = {"barcodes", "data", "indices", "indptr", "shape"}
    return [name for name in h5 if is_group(h5[name]) and wanted <= set(h5[name])]


def _convert_cell_ranger(path: Path, h5: h5py.File) -> None:
    rehearse(path)
    with h5py.File(path, "r") as stored:
        check_structure(stored, path.stat().st_size)
        groups = _cell_ranger_groups(stored)
        if len(groups) > 1:
            raise ValueError(f"it has matrices of several genomes ({', '.join(groups)}); write one of them as h5ad")
        group = stored[groups[0]]
        n_features, n_cells = map(int, group["shape"][:])
        if group["indptr"].shape != (n_cells + 1,):
            raise ValueError("its indptr does not fit its shape")
        _write_tables(h5, _text(group["barcodes"]), _cell_ranger_features(group))
        # Features are its rows and each column is a cell, stored by columns: as CSR it is cells by features.
        matrix = _new_csr(h5, n_cells, n_features)
        matrix["indptr"][:] = group["indptr"][:]
        for name in ("data", "indices"):
            matrix[name].resize(group[name].shape)
            for start in range(0, len(group[name]), VALUES_AT_ONCE):
                matrix[name][start : start + VALUES_AT_ONCE] = group[name][start : start + VALUES_AT_ONCE]


def _cell_ranger_features(group: Any) -> pd.DataFrame:
    if "features" in group:
        features = group["features"]
        table = {"gene_ids": _text(features["id"]), "feature_types": _text(features["feature_type"])}
        return pd.DataFrame(table, index=_text(features["name"]))
    return pd.DataFrame({"gene_ids": _text(group["genes"])}, index=_text(group["gene_names"]))


def _mtx_files(path: Path) -> list[Path]:
    """Return matrix, features and barcodes of an mtx folder, or of one named by its matrix; empty if there is none."""
    if path.is_dir():
        found = [file for name in ("*matrix.mtx", "*matrix.mtx.gz") for file in sorted(path.glob(name))]
        if len(found) != 1:
            inner = [path / name for name in ("filtered_feature_bc_matrix", "outs/filtered_feature_bc_matrix")]
            there = [files for folder in inner if folder.is_dir() and (files := _mtx_files(folder))]
            return there[0] if not found and there else []
        path = found[0]
    if not path.is_file() or not re.search(r"matrix\.mtx(\.gz)?$", path.name):
        return []
    prefix = re.sub(r"matrix\.mtx(\.gz)?$", "", path.name)
    of_cells = [path.with_name(f"{prefix}barcodes.tsv{gz}") for gz in ("", ".gz")]
    of_features = [path.with_name(f"{prefix}{name}.tsv{gz}") for name in ("features", "genes") for gz in ("", ".gz")]
    named = [next((file for file in files if file.is_file()), None) for files in (of_features, of_cells)]
    return [path, *(file for file in named if file is not None)] if all(named) else []


def _convert_mtx(path: Path, h5: h5py.File) -> None:
    """Rewrite a Matrix Market file, features by cells, some million entries at a time."""
    file, of_features, of_cells = _mtx_files(path)
    features = pd.read_csv(of_features, sep="\t", header=None, dtype=str, keep_default_na=False)
    cells = pd.read_csv(of_cells, sep="\t", header=None, dtype=str, keep_default_na=False)[0]
    names = features[1 if features.shape[1] > 1 else 0]
    var = pd.DataFrame({"gene_ids": features[0].to_numpy()}, index=names.to_numpy())
    if features.shape[1] > 2:
        var["feature_types"] = features[2].to_numpy()
    with _open_text(file) as opened:
        n_features, n_cells, n_entries, _ = _read_header(opened, file)
    if (n_features, n_cells) != (len(var), len(cells)):
        raise ValueError(
            f"its matrix is {n_features} x {n_cells}, and there are {len(var)} features and {len(cells)} barcodes"
        )
    _write_tables(h5, cells.to_numpy(), var)
    matrix, counts, last = _new_csr(h5, n_cells, n_features), np.zeros(n_cells, dtype=np.int64), 0
    for rows, columns, values in _mtx_entries(file):
        if rows.min(initial=1) < 1 or rows.max(initial=1) > n_features or columns.max(initial=1) > n_cells:
            raise ValueError("it has entries outside of its shape")
        if columns.min(initial=last) < last or (np.diff(columns) < 0).any():
            raise ValueError(
                "its entries are not sorted by cells, as Cell Ranger writes them; write it with scanpy.read_10x_mtx"
            )
        last = int(columns[-1]) if len(columns) else last
        counts += np.bincount(columns - 1, minlength=n_cells)
        _append(matrix, values, rows - 1)
    if counts.sum() != n_entries:
        raise ValueError(f"{file.name} is cut short: it has {counts.sum():,} of {n_entries:,} entries; copy it again")
    matrix["indptr"][:] = np.concatenate([[0], np.cumsum(counts)])


def _open_text(file: Path) -> TextIO:
    return gzip.open(file, "rt") if file.suffix == ".gz" else file.open("rt")


def _read_header(opened: TextIO, file: Path) -> tuple[int, int, int, bool]:
    """Return the rows, columns and entries of a Matrix Market file, and whether they have values; read on to them."""
    header = opened.readline()
    if not header.startswith("%%MatrixMarket matrix coordinate") or "general" not in header:
        raise ValueError(f"{file.name} is no sparse Matrix Market file")
    line = opened.readline()
    while line.startswith("%"):
        line = opened.readline()
    n_rows, n_columns, n_entries = map(int, line.split())
    return n_rows, n_columns, n_entries, "pattern" not in header


def _mtx_entries(file: Path) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield some million entries at a time: rows, columns (from 1) and values."""
    with _open_text(file) as opened:
        *_, has_values = _read_header(opened, file)
        columns = ["row", "column", "value"] if has_values else ["row", "column"]
        for piece in pd.read_csv(opened, sep=r"\s+", header=None, chunksize=VALUES_AT_ONCE, names=columns):
            values = piece["value"].to_numpy(dtype=np.float32) if has_values else np.ones(len(piece), dtype=np.float32)
            yield piece["row"].to_numpy(dtype=np.int64), piece["column"].to_numpy(dtype=np.int64), values


# --- mudata and loom -------------------------------------------------------------------------------------------------


def _modality(path: Path) -> tuple[Path | None, str | None]:
    """Return the .h5mu file that a path names and the modality behind it (`cells.h5mu/rna`); None, None for others.

    >>> _modality(Path("a.h5ad"))
    (None, None)
    """
    for whole in (path, *path.parents):
        if whole.suffix.lower() == ".h5mu" and whole.is_file():
            inside = path.relative_to(whole).parts
            return whole, inside[-1] if inside else None
    return None, None


def _convert_h5mu(path: Path, modality: str | None, h5: h5py.File) -> None:
    rehearse(path)
    with h5py.File(path, "r") as stored:
        check_structure(stored, path.stat().st_size)
        there = list(stored["mod"])
        name = modality or ("rna" if "rna" in there else there[0] if len(there) == 1 else None)
        if name not in there:
            wanted = f"no modality {modality!r}" if modality else "several modalities"
            raise InputError(f"PATH: {path} has {wanted} ({listing(there)}); name one of them: {path}/{there[0]}.")
        for part in stored[f"mod/{name}"]:
            if part != "obs":
                stored.copy(stored[f"mod/{name}/{part}"], h5, name=part)
        obs, of_all = ad.io.read_elem(stored[f"mod/{name}/obs"]), ad.io.read_elem(stored["obs"])
    # Columns of the whole, such as the labels, beside the modality's own; `rna:x` repeats the modality's x.
    others = tuple(f"{other}:" for other in there)
    missing = [column for column in of_all if column not in obs and not str(column).startswith(others)]
    _write_frame(h5, "obs", obs.join(of_all.loc[~of_all.index.duplicated(), missing]) if obs.index.is_unique else obs)


def _convert_loom(path: Path, h5: h5py.File) -> None:
    rehearse(path)
    with h5py.File(path, "r") as stored:
        check_structure(stored, path.stat().st_size)
        values: Any = stored["matrix"]
        n_features, n_cells = map(int, values.shape)
        var, obs = (_loom_table(stored[group], n) for group, n in (("row_attrs", n_features), ("col_attrs", n_cells)))
        for table, names in (
            (var, ("Gene", "gene", "gene_name", "var_names", "Accession")),
            (obs, ("CellID", "obs_names", "cell_id")),
        ):
            if (name := next((name for name in names if name in table), None)) is not None:
                table.index = pd.Index(table.pop(name).astype(str), name=None)
        _write_frame(h5, "obs", obs)
        _write_frame(h5, "var", var)
        matrix, counts = _new_csr(h5, n_cells, n_features), []
        for start in range(0, n_cells, CELLS_AT_ONCE):
            block = sparse.csr_matrix(values[:, start : start + CELLS_AT_ONCE].T.astype(np.float32))
            counts.append(np.diff(block.indptr))
            _append(matrix, block.data, block.indices)
        matrix["indptr"][:] = np.concatenate([[0], np.cumsum(np.concatenate(counts))])


def _loom_table(group: Any, n: int) -> pd.DataFrame:
    columns = {
        name: _text(group[name]) if group[name].dtype.kind in "OS" else group[name][:]
        for name in group
        if getattr(group[name], "shape", None) == (n,)
    }
    return pd.DataFrame(columns, index=pd.RangeIndex(n).astype(str))


# --- writing ---------------------------------------------------------------------------------------------------------


def _text(stored: Any) -> np.ndarray:
    return np.array([v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in stored[:]], dtype=object)


def _write_tables(h5: h5py.File, cells: np.ndarray, var: pd.DataFrame) -> None:
    _write_frame(h5, "obs", pd.DataFrame(index=pd.Index(cells, dtype=object)))
    _write_frame(h5, "var", var)


def _write_frame(h5: h5py.File, name: str, table: pd.DataFrame) -> None:
    with ad.settings.override(allow_write_nullable_strings=True):
        ad.io.write_elem(h5, name, table)


def _new_csr(h5: h5py.File, n_rows: int, n_columns: int) -> h5py.Group:
    matrix = h5.create_group("X")
    matrix.attrs["encoding-type"], matrix.attrs["encoding-version"] = "csr_matrix", "0.1.0"
    matrix.attrs["shape"] = (n_rows, n_columns)
    matrix.create_dataset("indptr", shape=(n_rows + 1,), dtype="i8")
    for name, dtype in (("data", "f4"), ("indices", "i4")):
        matrix.create_dataset(name, shape=(0,), maxshape=(None,), dtype=dtype, chunks=(2**16,), compression="lzf")
    return matrix


def _append(matrix: h5py.Group, values: np.ndarray, columns: np.ndarray) -> None:
    n = len(matrix["data"])
    for name, array in (("data", values), ("indices", columns)):
        matrix[name].resize((n + len(array),))
        matrix[name][n:] = array
