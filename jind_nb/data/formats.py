"""Files that are no h5ad: Cell Ranger's .h5 and mtx folders, .h5mu and .loom are rewritten as one, block by block, once.

The rewritten file is in the user's cache, under a hash of the original's path, size and time: all that reads, checks and
hashes h5ad files then reads it. What no Python package in use reads is refused with the command that converts it.

    JIND_NB_CACHE (default: the user's cache folder)/converted/<hash>/<name>.h5ad
"""

import gzip
import hashlib
import re
import shlex
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from filelock import FileLock
from scipy import io, sparse

from ..core.files import whole_file
from ..core.text import listing
from ..errors import InputError
from .download import cache_folder
from .integrity import check_structure, is_array, is_group, reading, rehearse

# Names of files and folders that Cell Ranger gives to every sample; the sample is named by a folder above.
GENERIC = re.compile(
    r"(filtered|raw|sample_filtered|sample_raw)_(feature|gene)_bc_matri(x|ces)(_h5)?|outs|count|matrix|mtx|per_sample_outs|"
    r"GRCh3[78].*|GRCm3[89].*|hg19|hg38|mm10|mm39",
    re.IGNORECASE,
)

VALUES_AT_ONCE = 2**22

CELLS_AT_ONCE = 2_000  # of a loom file, which is dense

# What the names of features and cells are called in loom files, the likeliest first, without what is no letter.
LOOM_FEATURES = (
    "gene", "genename", "genenames", "genes", "varnames", "symbol", "genesymbol", "name", "featurename", "accession", "geneid",
    "geneids", "ensembl", "ensemblid", "ensgene",
)  # fmt: skip
LOOM_CELLS = ("cellid", "cellids", "obsnames", "cellname", "cellnames", "cell", "barcode", "barcodes", "index", "name")

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
    ".bz2": "bunzip2 --keep {path}",
    ".xz": "unxz --keep {path}",
    ".zip": "unzip {path}",
    ".tar": "tar -xf {path}",
    ".fcs": "in Python, with the package pytometry: pytometry.io.read_fcs({path}).write_h5ad({h5ad})",
}
H5AD_ADVICE |= {
    **dict.fromkeys((".rda", ".robj"), H5AD_ADVICE[".rdata"]),
    **dict.fromkeys((".tgz", ".tar.gz", ".tar.bz2", ".tar.xz"), H5AD_ADVICE[".tar"]),
    # These readers unpack gzip themselves.
    **{f"{suffix}.gz": H5AD_ADVICE[suffix] for suffix in (".csv", ".tsv", ".txt")},
}

SPATIALDATA = "in Python: import spatialdata; spatialdata.read_zarr({path}).tables[{table!r}].write_h5ad({h5ad})"


def as_h5ad(path: Path) -> Path:
    """Return the file itself, or the h5ad file that it was rewritten to if it is of another form that can be read.

    Raises
    ------
    InputError
        If it is damaged, or of a form that must be converted first, with the command.
    """
    convert = _converter(path)
    if convert is None:
        _check_mtx(path)
        if (advice := _advice(path)) is not None:
            raise InputError(f"PATH: {path} is no h5ad file; convert it {advice}")
        return path
    file = cache_folder() / "converted" / _signature(path) / f"{sample_names(path)[0]}.h5ad"
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        if not file.exists():
            with reading(path), whole_file(file) as temporary, h5py.File(temporary, "w") as h5:
                h5.attrs["encoding-type"], h5.attrs["encoding-version"] = "anndata", "0.1.0"
                convert(path, h5)
    return file


def _converter(path: Path) -> Callable[[Path, h5py.File], None] | None:
    """Return what rewrites a file or folder; None if it is an h5ad file, zarr, missing or of no form known here."""
    whole, part = _whole_and_part(path)
    if whole is not None:
        convert = _convert_h5mu if whole.suffix.lower() == ".h5mu" else _convert_cell_ranger
        return lambda _, h5: convert(whole, part, h5)
    if path.is_dir() or path.name.removesuffix(".gz").endswith(".mtx"):
        if _mtx_files(path):
            return _convert_mtx
        inner = _cell_ranger_file(path)
        return None if inner is None else lambda _, h5: _convert_cell_ranger(inner, None, h5)
    if not path.is_file() or path.stat().st_size == 0 or not h5py.is_hdf5(path):
        return None
    return _convert_loom if path.suffix.lower() == ".loom" else None


def _advice(path: Path) -> str | None:
    """Return how to convert a file that cannot be read here; None if its name says nothing."""
    if path.is_dir():
        return _advice_for_folder(path)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    known = ("".join(suffixes[-2:]), *suffixes[-1:])
    form = next((suffix for suffix in known if suffix in H5AD_ADVICE), None)
    if form is None or not path.is_file():
        return None
    if form == ".zip":
        return f"with: {_unzip(path)}"
    plain = path.with_name(path.name[: -len(form)])
    h5ad = plain if plain.suffix.lower() == ".h5ad" else plain.with_name(f"{plain.name}.h5ad")
    text = H5AD_ADVICE[form]
    if text.startswith("in "):
        return text.format(path=repr(str(path)), h5ad=repr(str(h5ad)))
    return f"with: {text.format(path=shlex.quote(str(path)))}"


def _unzip(path: Path) -> str:
    """Return the command that unpacks an archive; anndata's of a zarr folder holds what is in the folder, without it."""
    names = []
    with suppress(zipfile.BadZipFile, OSError):
        names = zipfile.ZipFile(path).namelist()
    bare = any(name in ("zarr.json", ".zgroup") for name in names) or (not names and ".zarr" in path.suffixes)
    into = f" -d {shlex.quote(str(path.with_suffix('')))}" if bare else ""
    return f"unzip {shlex.quote(str(path))}{into}"


def _advice_for_folder(path: Path) -> str | None:
    if (path / "obs").is_dir():
        return None
    if any((path / kind).is_dir() for kind in ("tables", "table", "points", "shapes", "images", "labels")):
        tables = sorted(table.parent for table in path.glob("table*/*/obs"))
        text = SPATIALDATA.format(
            path=repr(str(path)),
            table=tables[0].name if tables else "table",
            h5ad=repr(str(path.with_name(f"{path.stem}.h5ad"))),
        )
        return text + (f"; or give the table in it: {tables[0]}" if tables else "")
    return None


def _signature(path: Path) -> str:
    whole, part = _whole_and_part(path)
    files = [whole] if whole is not None else _mtx_files(path) or [_cell_ranger_file(path) or path]
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr((stats, part, CONVERTED_BY)).encode()).hexdigest()[:16]


CONVERTED_BY = 2  # to be raised when files must be rewritten because the rewriting changed


def sample_names(path: str | Path) -> list[str]:
    """Return what a sample may be called, the likeliest first: its file's name, then the folders above it.

    Names that Cell Ranger gives to every sample are none; nor are endings.

    >>> sample_names("/data/s1/outs/filtered_feature_bc_matrix.h5"), sample_names("/data/GSM1_s2_matrix.mtx.gz")
    (['s1', 'data'], ['GSM1_s2', 'data'])
    """
    path = Path(path)
    whole, _ = _whole_and_part(path)
    path = path.absolute() if whole is None else whole.absolute()
    if path.suffix.lower() in (".h5ad", ".zarr"):
        return [path.stem, *_folders(path)]
    name = re.sub(r"(\.(h5|hdf5|loom|h5mu|mtx|gz))+$", "", path.name, flags=re.IGNORECASE)
    if not GENERIC.fullmatch(name):
        ends = r"[._-]?(matrix|(filtered|raw)_(feature|gene)_bc_matri(x|ces)(_h5)?)$"
        name = re.sub(ends, "", name, flags=re.IGNORECASE)
    names = [name, *_folders(path)] if name and not GENERIC.fullmatch(name) else _folders(path)
    return names or ["sample"]


def _folders(path: Path) -> list[str]:
    return [folder.name for folder in path.parents if folder.name and not GENERIC.fullmatch(folder.name)]


# --- Cell Ranger -----------------------------------------------------------------------------------------------------


def _cell_ranger_groups(h5: h5py.File) -> list[str]:
    """Return the groups that hold a matrix: `matrix` (version 3 on), or one for each genome (version 2)."""
    wanted = {"barcodes", "data", "indices", "indptr", "shape"}
    return [name for name in h5 if is_group(h5[name]) and wanted <= set(h5[name])]


def _cell_ranger_file(path: Path) -> Path | None:
    """Return the .h5 file of a sample's folder, if there is one of cells."""
    if not path.is_dir():
        return None
    kinds = ("filtered_feature_bc_matrix.h5", "sample_filtered_feature_bc_matrix.h5", "filtered_gene_bc_matrices_h5.h5")
    inner = [path / above / kind for above in ("", "outs", "count") for kind in kinds]
    return next((file for file in inner if file.is_file()), None)


def _convert_cell_ranger(path: Path, genome: str | None, h5: h5py.File) -> None:
    rehearse(path)
    with h5py.File(path, "r") as stored:
        check_structure(stored, path.stat().st_size)
        groups = _cell_ranger_groups(stored)
        group = stored[_chosen("genome", genome, groups, groups, path)]
        n_features, n_cells = map(int, group["shape"][:])
        if group["indptr"].shape != (n_cells + 1,):
            raise ValueError("its indptr does not fit its shape")
        _write_tables(h5, _text(group["barcodes"]), _without_genomes(_cell_ranger_features(group)))
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


def _without_genomes(var: pd.DataFrame) -> pd.DataFrame:
    """Return a table of features without the genome that Cell Ranger puts before their names where it aligned to several.

    >>> var = pd.DataFrame({"gene_ids": ["GRCh38_ENSG01", "mm10___ENSMUSG02"]}, index=["GRCh38_CD4", "mm10___Cd4"])
    >>> _without_genomes(var).reset_index().to_numpy().tolist()
    [['CD4', 'ENSG01', 'GRCh38'], ['Cd4', 'ENSMUSG02', 'mm10']]
    """
    found = var["gene_ids"].str.extract(r"^(?P<genome>\w+?)_+(?P<id>ENS[A-Z]*G?\d+.*)$")
    known = found["genome"].notna().to_numpy()
    if known.mean() <= 0.5 if len(known) else True:
        return var
    prefixes = found["genome"].fillna("")
    names = [
        re.sub(rf"^{re.escape(genome)}_+", "", name) if genome else name
        for name, genome in zip(map(str, var.index), prefixes, strict=True)
    ]
    ids = found["id"].where(known, var["gene_ids"].to_numpy())
    return var.assign(gene_ids=ids.to_numpy(), genome=prefixes.to_numpy()).set_axis(names)


def _matrices(folder: Path) -> list[Path]:
    return [file for name in ("*matrix.mtx", "*matrix.mtx.gz") for file in sorted(folder.glob(name))]


def _mtx_files(path: Path) -> list[Path]:
    """Return matrix, features and barcodes of an mtx folder, or of one named by its matrix; empty if there is none."""
    if path.is_dir():
        found = _matrices(path)
        if len(found) != 1:
            kinds = ("filtered_feature_bc_matrix", "sample_filtered_feature_bc_matrix", "filtered_gene_bc_matrices/*")
            inner = [
                folder for above in ("", "outs/", "count/") for kind in kinds for folder in path.glob(above + kind)
            ]
            there = [files for folder in inner if folder.is_dir() and (files := _mtx_files(folder))]
            return there[0] if not found and len(there) == 1 else []
        path = found[0]
    if not path.is_file() or not re.search(r"matrix\.mtx(\.gz)?$", path.name):
        return []
    prefix = re.sub(r"matrix\.mtx(\.gz)?$", "", path.name)
    of_cells = [path.with_name(f"{prefix}barcodes.tsv{gz}") for gz in ("", ".gz")]
    of_features = [path.with_name(f"{prefix}{name}.tsv{gz}") for name in ("features", "genes") for gz in ("", ".gz")]
    named = [next((file for file in files if file.is_file()), None) for files in (of_features, of_cells)]
    return [path, *(file for file in named if file is not None)] if all(named) else []


def _check_mtx(path: Path) -> None:
    """Check that an mtx matrix is whole, and the only one of its folder.

    Raises
    ------
    InputError
        If not.
    """
    if path.is_dir() and len(found := _matrices(path)) > 1:
        each = listing(map(str, found), 3, quoted=False)
        raise InputError(f"PATH: {path} has {len(found)} matrices; name each of them, as in PATH: [{each}].")
    matrix = next(iter(_matrices(path)), None) if path.is_dir() else path
    if matrix is not None and matrix.is_file() and matrix.name.removesuffix(".gz").endswith(".mtx"):
        raise InputError(
            f"PATH: {matrix} must be called …matrix.mtx (or .gz), and beside it must be …features.tsv (or genes.tsv) and "
            "…barcodes.tsv (or .gz) with the same beginning."
        )


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
        n_rows, n_columns, _, _ = _read_header(opened, file)
    n_features, n_cells = len(var), len(cells)
    if (n_rows, n_columns) not in ((n_features, n_cells), (n_cells, n_features)):
        raise ValueError(
            f"its matrix is {n_rows} x {n_columns}, and there are {n_features} features and {n_cells} barcodes"
        )
    _write_tables(h5, cells.to_numpy(), _without_genomes(var))
    by_cells = (n_rows, n_columns) != (n_features, n_cells)
    if by_cells or not _write_sorted_entries(file, h5, n_features, n_cells):
        _write_any_entries(file, h5, by_cells=by_cells)


def _write_sorted_entries(file: Path, h5: h5py.File, n_features: int, n_cells: int) -> bool:
    """Write the matrix, some million entries at a time; return False if they are not sorted by cells, as Cell Ranger's are."""
    matrix, counts, last = _new_csr(h5, n_cells, n_features), np.zeros(n_cells, dtype=np.int64), 0
    for rows, columns, values in _mtx_entries(file):
        if rows.min(initial=1) < 1 or rows.max(initial=1) > n_features or columns.max(initial=1) > n_cells:
            raise ValueError("it has entries outside of its shape")
        if columns.min(initial=last) < last or (np.diff(columns) < 0).any():
            del h5["X"]
            return False
        last = int(columns[-1]) if len(columns) else last
        counts += np.bincount(columns - 1, minlength=n_cells)
        _append(matrix, values, rows - 1)
    with _open_text(file) as opened:
        n_entries = _read_header(opened, file)[2]
    if counts.sum() != n_entries:
        raise ValueError(f"{file.name} is cut short: it has {counts.sum():,} of {n_entries:,} entries; copy it again")
    matrix["indptr"][:] = np.concatenate([[0], np.cumsum(counts)])
    return True


def _write_any_entries(file: Path, h5: h5py.File, *, by_cells: bool) -> None:
    """Write a matrix whose entries stand in any order, or whose rows are the cells; all of it is held in memory."""
    stored = sparse.csr_matrix(io.mmread(file) if by_cells else io.mmread(file).T)
    matrix = _new_csr(h5, *stored.shape)
    _append(matrix, stored.data, stored.indices)
    matrix["indptr"][:] = stored.indptr


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


def _whole_and_part(path: Path) -> tuple[Path | None, str | None]:
    """Return the .h5mu or Cell Ranger file that a path names, and the modality or genome behind it (`cells.h5mu/rna`); None,
    None for others.

    >>> _whole_and_part(Path("a.h5ad"))
    (None, None)
    """
    for whole in (path, *path.parents):
        suffix = whole.suffix.lower()
        if suffix in (".h5mu", ".h5", ".hdf5") and whole.is_file():
            inside = path.relative_to(whole).parts
            if suffix == ".h5mu" or _is_cell_ranger(whole):
                return whole, inside[-1] if inside else None
    return None, None


def _is_cell_ranger(path: Path) -> bool:
    if path.stat().st_size == 0 or not h5py.is_hdf5(path):
        return False
    rehearse(path)
    with h5py.File(path, "r") as h5:
        return bool(_cell_ranger_groups(h5))


def _chosen(what: str, asked: str | None, there: list[str], usual: list[str], path: Path) -> str:
    """Return the modality or genome that is asked for; without one the usual one.

    Raises
    ------
    InputError
        If there is none, or several could be meant.
    """
    name = asked or (usual[0] if len(usual) == 1 else None)
    if name not in there:
        wanted = f"no {what} {asked!r}" if asked else f"several {WORDS_OF_PARTS[what]}"
        raise InputError(f"PATH: {path} has {wanted} ({listing(there)}); name one of them: {path}/{there[0]}.")
    return name


WORDS_OF_PARTS = {"modality": "modalities", "genome": "genomes"}


def _convert_h5mu(path: Path, modality: str | None, h5: h5py.File) -> None:
    rehearse(path)
    with h5py.File(path, "r") as stored:
        check_structure(stored, path.stat().st_size)
        there = list(stored["mod"])
        name = _chosen("modality", modality, there, ["rna"] if "rna" in there else there, path)
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
        for table, names in ((var, LOOM_FEATURES), (obs, LOOM_CELLS)):
            if (name := _loom_index(table, names)) is not None:
                table.index = pd.Index(table.pop(name).astype(str), name=None)
        _write_frame(h5, "obs", obs)
        _write_frame(h5, "var", var)
        _write_by_cells(values, _new_csr(h5, n_cells, n_features))
        layers = stored.get("layers")
        for name in layers if is_group(layers) else ():
            if is_array(layers[name]) and layers[name].shape == values.shape and layers[name].dtype.kind in "fiub":
                _write_by_cells(layers[name], _new_csr(_new_dict(h5, "layers"), n_cells, n_features, name))


def _loom_index(table: pd.DataFrame, names: Sequence[str]) -> str | None:
    """Return the column with the names of features or cells: the first of `names` that there is, in any spelling."""
    different = [str(column) for column in table if table[column].nunique() > 0.8 * len(table)]
    there = {re.sub(r"[^a-z]", "", column.lower()): column for column in reversed(different)}
    return next((there[name] for name in names if name in there), None)


def _write_by_cells(values: Any, matrix: h5py.Group) -> None:
    """Write a dense matrix of features by cells as CSR, some cells at a time."""
    counts = []
    for start in range(0, values.shape[1], CELLS_AT_ONCE):
        block = sparse.csr_matrix(values[:, start : start + CELLS_AT_ONCE].T.astype(np.float32))
        counts.append(np.diff(block.indptr))
        _append(matrix, block.data, block.indices)
    matrix["indptr"][:] = np.cumsum(np.concatenate([[0], *counts]))


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


def _new_csr(h5: h5py.Group, n_rows: int, n_columns: int, name: str = "X") -> h5py.Group:
    matrix = h5.create_group(name)
    matrix.attrs["encoding-type"], matrix.attrs["encoding-version"] = "csr_matrix", "0.1.0"
    matrix.attrs["shape"] = (n_rows, n_columns)
    matrix.create_dataset("indptr", shape=(n_rows + 1,), dtype="i8")
    for part, dtype in (("data", "f4"), ("indices", "i4")):
        matrix.create_dataset(part, shape=(0,), maxshape=(None,), dtype=dtype, chunks=(2**16,), compression="lzf")
    return matrix


def _new_dict(h5: h5py.File, name: str) -> h5py.Group:
    group = h5.require_group(name)
    group.attrs["encoding-type"], group.attrs["encoding-version"] = "dict", "0.1.0"
    return group


def _append(matrix: h5py.Group, values: np.ndarray, columns: np.ndarray) -> None:
    n = len(matrix["data"])
    for name, array in (("data", values), ("indices", columns)):
        matrix[name].resize((n + len(array),))
        matrix[name][n:] = array
