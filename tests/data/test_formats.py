"""Files that are no h5ad: read directly where that can be, or refused with the command that converts them.

People have what Cell Ranger, muon and velocyto leave; who must convert first gives up, or converts it wrongly.
"""

from __future__ import annotations

import gzip
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import io, sparse

from jind_nb.data import formats
from jind_nb.data.cells import names_of
from jind_nb.data.formats import as_h5ad
from jind_nb.data.h5ad import frame, local_file, open_file
from jind_nb.errors import InputError
from tests.conftest import SHARED, Answer, skip
from tests.helpers.cases import annotate
from tests.helpers.simulated import THREE_BATCHES, simulated


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JIND_NB_CACHE", str(tmp_path / "cache"))


def cells() -> ad.AnnData:
    adata = simulated(THREE_BATCHES)
    adata.var["gene_ids"] = [f"ENSG{i:011d}" for i in range(adata.n_vars)]
    return adata


def write_cell_ranger(adata: ad.AnnData, path: Path, version: int = 3) -> Path:
    """As `cellranger count` writes filtered_feature_bc_matrix.h5."""
    path.parent.mkdir(parents=True, exist_ok=True)
    by_cell = sparse.csr_matrix(adata.X)
    with h5py.File(path, "w") as h5:
        group = h5.create_group("matrix" if version == 3 else "GRCh38")
        group["barcodes"] = np.array(list(adata.obs_names), dtype="S")
        group["data"], group["indices"] = by_cell.data.astype(np.int32), by_cell.indices.astype(np.int64)
        group["indptr"], group["shape"] = by_cell.indptr.astype(np.int64), np.array(by_cell.shape[::-1])
        names = {
            "id": adata.var["gene_ids"],
            "name": adata.var_names,
            "feature_type": ["Gene Expression"] * adata.n_vars,
        }
        if version == 3:
            for name, values in names.items():
                group[f"features/{name}"] = np.array(list(values), dtype="S")
        else:
            group["genes"], group["gene_names"] = (np.array(list(names[n]), dtype="S") for n in ("id", "name"))
    return path


def write_mtx(adata: ad.AnnData, folder: Path, version: int = 3, prefix: str = "", *, zipped: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    io.mmwrite(folder / "m.mtx", sparse.coo_matrix(sparse.csc_matrix(adata.X.T)), field="integer")
    features = pd.DataFrame({0: adata.var["gene_ids"].to_numpy(), 1: adata.var_names})
    if version == 3:
        features[2] = "Gene Expression"
    texts = {
        "matrix.mtx": (folder / "m.mtx").read_text(),
        "barcodes.tsv": "\n".join(adata.obs_names) + "\n",
        f"{'features' if version == 3 else 'genes'}.tsv": features.to_csv(sep="\t", header=False, index=False),
    }
    (folder / "m.mtx").unlink()
    for name, text in texts.items():
        if zipped:
            (folder / f"{prefix}{name}.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (folder / f"{prefix}{name}").write_text(text)
    return folder


def write_loom(adata: ad.AnnData, path: Path) -> Path:
    with h5py.File(path, "w") as h5:
        h5["matrix"] = adata.X.toarray().T
        h5["row_attrs/Gene"], h5["row_attrs/Accession"] = (
            np.array(list(n), dtype="S") for n in (adata.var_names, adata.var["gene_ids"])
        )
        h5["col_attrs/CellID"] = np.array(list(adata.obs_names), dtype="S")
        for name in adata.obs:
            h5[f"col_attrs/{name}"] = np.array(list(adata.obs[name]), dtype="S")
        h5["layers/spliced"] = adata.X.toarray().T / 2
        h5["layers/notes"] = np.array(["of", "no", "cell"], dtype="S")
    return path


def write_other_loom(adata: ad.AnnData, path: Path) -> Path:
    """Names under other attributes, as other tools write them."""
    write_loom(adata, path)
    with h5py.File(path, "r+") as h5:
        h5.move("row_attrs/Gene", "row_attrs/gene_names")
        h5.move("col_attrs/CellID", "col_attrs/cell_names")
        h5["row_attrs/Name"] = np.array(["same"] * adata.n_vars, dtype="S")
        h5["col_attrs/pca"] = np.ones((adata.n_obs, 2))
    return path


def write_barnyard(adata: ad.AnnData, path: Path) -> Path:
    """Aligned to two genomes, whose names Cell Ranger puts before ids and names."""
    both = adata.copy()
    ids = [f"ENSG{i:011d}" for i in range(both.n_vars)]
    both.var["gene_ids"] = [f"GRCh38_{one}" if i % 2 else f"mm10___{one}" for i, one in enumerate(ids)]
    both.var_names = [f"GRCh38_{one}" if i % 2 else f"mm10___{one}" for i, one in enumerate(both.var_names)]
    return write_cell_ranger(both, path)


def write_unsorted_mtx(adata: ad.AnnData, folder: Path, *, by_cells: bool = False) -> Path:
    """As scipy writes the transpose of a CSR matrix: sorted by features; or with cells for rows."""
    write_mtx(adata, folder)
    (folder / "matrix.mtx.gz").unlink()
    matrix = sparse.coo_matrix(adata.X if by_cells else adata.X.T)
    order = np.lexsort((matrix.col, matrix.row))
    io.mmwrite(
        folder / "matrix.mtx",
        sparse.coo_matrix((matrix.data[order], (matrix.row[order], matrix.col[order])), matrix.shape),
        field="integer",
    )
    return folder


def write_h5mu(adata: ad.AnnData, path: Path, modalities: tuple[str, ...] = ("rna", "prot")) -> Path:
    """As mudata writes it: the labels belong to the whole, the batches to the modality."""
    with h5py.File(path, "w") as h5:
        for i, name in enumerate(modalities):
            part = ad.AnnData(
                adata.X if i == 0 else adata.X[:, :5], obs=adata.obs[["batch"]], var=adata.var[: 60 if i == 0 else 5]
            )
            h5.create_group(f"mod/{name}")
            for key, value in {"X": part.X, "obs": part.obs, "var": part.var, "uns": {}}.items():
                ad.io.write_elem(h5[f"mod/{name}"], key, value)
        whole = adata.obs[["celltype"]].assign(**{"rna:batch": adata.obs["batch"]})
        ad.io.write_elem(h5, "obs", whole)
        ad.io.write_elem(h5, "var", adata.var[[]])
    return path


FORMS: dict[str, Callable[[ad.AnnData, Path], Path]] = {
    "Cell Ranger 3": lambda adata, folder: write_cell_ranger(adata, folder / "s1" / "outs" / "filtered_feature_bc_matrix.h5"),
    "Cell Ranger 2": lambda adata, folder: write_cell_ranger(adata, folder / "s1.h5", 2),
    "mtx 3": lambda adata, folder: write_mtx(adata, folder / "s1" / "outs" / "filtered_feature_bc_matrix"),
    "mtx 2": lambda adata, folder: write_mtx(adata, folder / "s1" / "filtered_gene_bc_matrices" / "GRCh38", 2, zipped=False),
    "mtx of GEO": lambda adata, folder: write_mtx(adata, folder / "x", prefix="s1_") / "s1_matrix.mtx.gz",
    "a sample's folder": lambda adata, folder: write_mtx(adata, folder / "s1" / "outs" / "filtered_feature_bc_matrix").parents[1],
    "mtx sorted by features": lambda adata, folder: write_unsorted_mtx(adata, folder / "s1"),
    "mtx of cells": lambda adata, folder: write_unsorted_mtx(adata, folder / "s1", by_cells=True),
    "mtx 2, a sample's folder": lambda adata, folder: write_mtx(
        adata, folder / "s1" / "outs" / "filtered_gene_bc_matrices" / "hg19", 2, zipped=False
    ).parents[2],
    "Cell Ranger 3, a sample's folder": lambda adata, folder: write_cell_ranger(
        adata, folder / "s1" / "outs" / "filtered_feature_bc_matrix.h5"
    ).parents[1],
    "Cell Ranger 3, two genomes": lambda adata, folder: write_barnyard(adata, folder / "s1.h5"),
    "Cell Ranger 2, a genome": lambda adata, folder: write_cell_ranger(adata, folder / "s1.h5", 2) / "GRCh38",
    "loom of other names": lambda adata, folder: write_other_loom(adata, folder / "s1.loom"),
    "loom": lambda adata, folder: write_loom(adata, folder / "s1.loom"),
    "h5mu": lambda adata, folder: write_h5mu(adata, folder / "s1.h5mu"),
    "h5mu and modality": lambda adata, folder: write_h5mu(adata, folder / "s1.h5mu", ("gex", "adt")) / "gex",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_forms_that_tools_leave_are_read_as_they_are(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "VALUES_AT_ONCE", 1000)
    monkeypatch.setattr(formats, "CELLS_AT_ONCE", 70)
    adata = cells()
    file = local_file(str(FORMS[form](adata, tmp_path)))
    found = ad.read_h5ad(file)
    assert file.name == "s1.h5ad"
    assert list(found.obs_names) == list(adata.obs_names)
    assert list(found.var_names) == list(adata.var_names)
    np.testing.assert_array_equal(found.X.toarray(), adata.X.toarray())
    if "loom" in form or "h5mu" in form:
        assert found.obs["celltype"].astype(str).tolist() == adata.obs["celltype"].tolist()
        assert found.obs["batch"].astype(str).tolist() == adata.obs["batch"].tolist()
    elif "2" not in form:
        assert set(found.var["feature_types"]) == {"Gene Expression"}
    if "loom" in form:
        np.testing.assert_array_equal(found.layers["spliced"].toarray(), adata.X.toarray() / 2)
        assert list(found.layers) == ["spliced"]
    written = file.stat().st_mtime_ns
    (tmp_path / "again").mkdir()
    assert local_file(str(FORMS[form](adata, tmp_path / "again"))) != file
    assert file.stat().st_mtime_ns == written


def test_a_folder_for_each_sample_is_a_batch_for_each_folder(tmp_path: Path) -> None:
    """The usual case: a labelled reference, and new samples as Cell Ranger left them."""
    adata = cells()
    of_c = (adata.obs["batch"] == "c").to_numpy()
    adata[~of_c].copy().write_h5ad(tmp_path / "reference.h5ad")
    new = [
        write_mtx(adata[of_c].copy(), tmp_path / name / "outs" / "filtered_feature_bc_matrix") for name in ("s1", "s2")
    ]
    found = annotate([tmp_path / "reference.h5ad", *new], tmp_path, TARGET_DATASET_NAME="s2")
    assert found.plan.left_out == {"s1": "none of its cells has a label in 'celltype'"}
    right = adata.obs["celltype"][found.table.index].to_numpy()
    assert (found.table["raw_predictions"].to_numpy(object) == right).mean() > 0.95


def test_a_modality_is_asked_for_or_named(tmp_path: Path) -> None:
    file = write_h5mu(cells(), tmp_path / "x.h5mu", ("gex", "adt"))
    with pytest.raises(
        InputError, match=r"x\.h5mu has several modalities \('adt', 'gex'\); name one of them: .*x\.h5mu/adt"
    ):
        as_h5ad(file)
    with pytest.raises(InputError, match="has no modality 'rna'"):
        as_h5ad(file / "rna")
    assert ad.read_h5ad(as_h5ad(file / "mod" / "adt")).n_vars == 5


def test_one_of_several_genomes_is_asked_for(tmp_path: Path) -> None:
    """Version 2 has a matrix for each; a mixture of human and mouse cells is annotated as one of them."""
    file = write_cell_ranger(cells(), tmp_path / "x.h5", 2)
    with h5py.File(file, "r+") as h5:
        h5.copy("GRCh38", "mm10")
    with pytest.raises(InputError, match=r"several genomes \('GRCh38', 'mm10'\); name one of them: .*x\.h5/GRCh38"):
        as_h5ad(file)
    assert ad.read_h5ad(as_h5ad(file / "mm10")).shape == cells().shape
    with pytest.raises(InputError, match="has no genome 'hg19'"):
        as_h5ad(file / "hg19")


def test_several_matrices_in_a_folder_are_named(tmp_path: Path) -> None:
    """What GEO packs into one archive: a folder of samples, told apart by the beginning of their names."""
    for prefix in ("GSM1_s1_", "GSM2_s2_"):
        write_mtx(cells(), tmp_path / "x", prefix=prefix)
    with pytest.raises(
        InputError, match=r"has 2 matrices; name each of them, as in PATH: \[.*GSM1_s1_matrix.mtx.gz, .*"
    ):
        local_file(str(tmp_path / "x"))
    (tmp_path / "x" / "GSM1_s1_barcodes.tsv.gz").unlink()
    with pytest.raises(InputError, match=r"beside it must be …features.tsv \(or genes.tsv\) and …barcodes.tsv"):
        local_file(str(tmp_path / "x" / "GSM1_s1_matrix.mtx.gz"))


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/s1/outs/filtered_feature_bc_matrix.h5", "b/s1/outs/filtered_feature_bc_matrix.h5"], ["a", "b"]),
        (["s1/outs/x.h5ad", "s2/outs/x.h5ad"], ["s1", "s2"]),
        (["GSM1_s1_matrix.mtx.gz", "GSM2_s2_matrix.mtx.gz", "new.h5ad"], ["GSM1_s1", "GSM2_s2", "new"]),
        (["https://a.org/one/x.h5ad?token=1", "https://a.org/two/x.h5ad"], ["one", "two"]),
        (
            ["run/per_sample_outs/s1/count/sample_filtered_feature_bc_matrix", "run/per_sample_outs/s2/count"],
            ["s1", "s2"],
        ),
    ],
)
def test_a_sample_is_called_by_what_tells_it_from_the_others(paths: list[str], names: list[str]) -> None:
    """Two samples of one name would be one batch, and nobody would be told."""
    assert names_of(paths) == names


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("a.rds", r"in R: library\(anndataR\); write_h5ad\(readRDS\('.*a\.rds'\), '.*a\.h5ad'\)"),
        ("a.h5Seurat", r"in R: library\(SeuratDisk\); Convert\('.*a\.h5Seurat', dest = 'h5ad'\)"),
        ("a.csv", r"anndata\.io\.read_csv\('.*a\.csv'\)\.write_h5ad\('.*a\.h5ad'\)"),
        ("a.tsv", r"read_text\('.*a\.tsv'"),
        ("a.h5ad.gz", r"with: gunzip --keep .*a\.h5ad\.gz"),
        ("a.zarr.zip", r"with: unzip .*a\.zarr\.zip -d .*a\.zarr$"),
        ("a.csv.gz", r"anndata\.io\.read_csv\('.*a\.csv\.gz'\)\.write_h5ad\('.*/a\.h5ad'\)"),
        ("a.tar.gz", r"with: tar -xf .*a\.tar\.gz"),
        ("a.Robj", r"in R: load\('.*a\.Robj'\)"),
    ],
)
def test_other_forms_are_refused_with_the_command(name: str, command: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x" * 100)
    with pytest.raises(InputError, match=rf"PATH: .*{re.escape(name)} is no h5ad file; convert it .*{command}"):
        as_h5ad(tmp_path / name)


@pytest.mark.filterwarnings("ignore:Writing zarr v2:UserWarning")
def test_spatialdata_is_refused_with_the_command(tmp_path: Path) -> None:
    """Its tables are AnnData in zarr, and can be named as they are."""
    (tmp_path / "x.zarr" / "shapes").mkdir(parents=True)
    (tmp_path / "x.zarr" / "zarr.json").write_text("{}")
    cells().write_zarr(tmp_path / "x.zarr" / "tables" / "cells")
    with pytest.raises(
        InputError, match=r"spatialdata\.read_zarr\('.*x\.zarr'\)\.tables\['cells'\].*give the table in it"
    ):
        as_h5ad(tmp_path / "x.zarr")
    with open_file(local_file(str(tmp_path / "x.zarr" / "tables" / "cells"))) as store:
        assert len(frame(store, "obs")) == cells().n_obs


def test_an_archive_is_unpacked_into_a_folder_of_its_own_name(tmp_path: Path) -> None:
    """anndata's zip of a zarr folder has no folder in it: its parts would lie about where the command was typed."""
    for name, inside in (("bare", "zarr.json"), ("whole", "whole.zarr/zarr.json")):
        with zipfile.ZipFile(tmp_path / f"{name}.zarr.zip", "w") as archive:
            archive.writestr(inside, "{}")
    with pytest.raises(InputError, match=r"unzip .*bare\.zarr\.zip -d .*bare\.zarr$"):
        as_h5ad(tmp_path / "bare.zarr.zip")
    with pytest.raises(InputError, match=r"unzip .*whole\.zarr\.zip$"):
        as_h5ad(tmp_path / "whole.zarr.zip")


def _cut(file: Path) -> Path:
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes())[:3000]))
    return file.parent


def _foreign(file: Path) -> Path:
    file.write_bytes(gzip.compress(b"%%MatrixMarket matrix array real general\n1 1\n1\n"))
    return file.parent


@pytest.mark.parametrize(("damage", "says"), [(_foreign, "no sparse Matrix Market"), (_cut, "cannot be read")])
def test_damaged_ones_are_refused_in_one_sentence(damage: Callable[[Path], Path], says: str, tmp_path: Path) -> None:
    folder = write_mtx(cells(), tmp_path / "s1")
    with pytest.raises(InputError, match=f"PATH: .*{says}"):
        as_h5ad(damage(folder / "matrix.mtx.gz"))
    assert not list(tmp_path.rglob("s1.h5ad"))


def test_a_saved_model_annotates_what_cell_ranger_left(tmp_path: Path, jind_nb: Callable[..., Answer]) -> None:
    adata = cells()
    adata.write_h5ad(tmp_path / "in.h5ad")
    model = annotate(tmp_path / "in.h5ad", tmp_path, TARGET_DATASET_NAME="c").run.models
    new = write_cell_ranger(adata[:50].copy(), tmp_path / "s9" / "outs" / "filtered_feature_bc_matrix.h5")
    done = jind_nb("predict", model, new, "--output-path", tmp_path / "new")
    assert done.status == 0, done.err
    found = ad.read_h5ad(tmp_path / "new" / "annotated_target.h5ad").obs["jind_raw_prediction"].astype(str)
    assert (found.to_numpy() == adata.obs["celltype"][:50].to_numpy()).mean() > 0.95


def test_compression_of_hdf5plugin_is_read_or_named(tmp_path: Path) -> None:
    file = SHARED.parent / "cases" / "zstd.h5ad"
    if not file.exists():
        skip(f"the shared case zstd is not in {file.parent}")
    try:
        import hdf5plugin  # noqa: F401
    except ImportError:
        with pytest.raises(
            InputError, match=r"compressed with Zstandard \(HDF5 filter 32015\).*pip install hdf5plugin"
        ):
            annotate(file, tmp_path)
    else:
        found: Any = annotate(file, tmp_path)
        assert found.accuracy > 0.92
        assert found.assigned > 0.9
