"""Values are read in blocks: whatever the format, the size of a block or who reads it, the same cells give the same
numbers, and only the features that are kept are ever held.

A user with a million cells on a laptop otherwise gets a dead process, or another answer than on a large machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from jind_nb.core.files import sha256
from jind_nb.core.parameters import Parameters, make_parameters
from jind_nb.data import cells as data_cells
from jind_nb.data import chunks, h5ad, layers, roles, variable_features
from jind_nb.data import plan as data_plan
from jind_nb.data import prepare as data_prepare
from jind_nb.errors import InputError
from jind_nb.runs import cache
from jind_nb.runs.folder import Run
from tests.conftest import ROOT, Answer
from tests.helpers.one_process import run_forked
from tests.helpers.simulated import THREE_BATCHES, simulated
from tests.helpers.whole import annotated_without_labels

GENES = 60
FORMS: dict[str, Callable[[Any], Any]] = {
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "dense": lambda x: x.toarray(),
}


def parameters_of(file: Path, **values: Any) -> Parameters:
    return make_parameters(
        {
            "PATH": str(file),
            "BATCH_COL": "batch",
            "LABELS_COL": "celltype",
            "TARGET_DATASET_NAME": "c",
            "OUTPUT_PATH": str(file.parent / "out"),
            "MIN_CELL_TYPE_POPULATION": 5,
            "NUM_FEATURES": 25,
        }
        | values
    )


def prepare(file: Path, **values: Any) -> tuple[ad.AnnData, data_plan.Plan]:
    parameters = parameters_of(file, **values)
    cells = data_cells.read_cells(parameters)
    plan = roles.make_plan(parameters, cells)
    return data_prepare.prepare(parameters, cells, plan), plan


def same(one: tuple[ad.AnnData, data_plan.Plan], other: tuple[ad.AnnData, data_plan.Plan]) -> None:
    """Cells, features, values and what was said of them."""
    np.testing.assert_array_equal(one[0].X.toarray(), other[0].X.toarray())
    pd.testing.assert_frame_equal(one[0].obs, other[0].obs)
    pd.testing.assert_frame_equal(one[0].var, other[0].var)
    plans = [asdict(plan) for _, plan in (one, other)]
    for plan in plans:
        del plan["matrices"], plan["preprocessing"]["layer"]
    assert plans[0] == plans[1]


def mixed() -> ad.AnnData:
    """Batches of counts and of logarithms, so that a block holds values of two kinds."""
    adata = simulated(THREE_BATCHES)
    values = adata.X.toarray()
    logs = (adata.obs["batch"] == "b").to_numpy()
    values[logs] = np.log1p(1e4 * values[logs] / values[logs].sum(axis=1, keepdims=True))
    adata.X = sparse.csr_matrix(values)
    return adata


def write(adata: ad.AnnData, file: Path, how: str = "h5ad") -> Path:
    if how == "h5ad":
        adata.write_h5ad(file.with_suffix(".h5ad"))
        return file.with_suffix(".h5ad")
    if how in ("gzip", "lzf"):
        adata.write_h5ad(file.with_suffix(".h5ad"), compression=how)
        return file.with_suffix(".h5ad")
    with ad.settings.override(zarr_write_format=int(how[-1])), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata announces other defaults
        adata.write_zarr(file.with_suffix(".zarr"))
    return file.with_suffix(".zarr")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the same cells give when they are read at once, from one CSR matrix."""
    file = write(mixed(), tmp_path_factory.mktemp("whole") / "in")
    return {"file": file, "prepared": prepare(file), "markers": prepare(file, MARKERS={"B": ["gene001", "gene059"]})}


@pytest.fixture
def in_blocks(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Nothing is kept in memory, and a block holds so many values, or one cell if that is more."""

    def of(n_values: int) -> None:
        monkeypatch.setattr(layers, "KEPT_VALUES", 0)
        monkeypatch.setattr(chunks, "VALUES_AT_ONCE", n_values)

    return of


# --- the same from every format --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("how", "n_values"),
    [
        pytest.param("h5ad", 1, id="cell by cell"),
        pytest.param("h5ad", 10**6, id="one block"),
        *(pytest.param(how, 7 * GENES, id=how) for how in ("h5ad", "gzip", "lzf", "zarr 2", "zarr 3")),
    ],
)
def test_every_format_in_blocks_of_any_size_gives_the_same(
    how: str, form: str, n_values: int, in_blocks: Callable[[int], None], whole: dict[str, Any], tmp_path: Path
) -> None:
    adata = mixed()
    adata.X = FORMS[form](adata.X)
    file = write(adata, tmp_path / "in", how)
    in_blocks(n_values)
    same(prepare(file), whole["prepared"])
    assert not list(tmp_path.glob("**/.rows*")), "a temporary file was left"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["h5ad", "zarr 3"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layer", [".raw", "counts"])
def test_raw_and_layers_in_blocks_give_the_same(
    layer: str, form: str, how: str, in_blocks: Callable[[int], None], whole: dict[str, Any], tmp_path: Path
) -> None:
    adata = mixed()
    values, adata.X = FORMS[form](adata.X), adata.X * -0.5
    if layer == ".raw":
        adata.raw = ad.AnnData(values, obs=adata.obs, var=adata.var)
    else:
        adata.layers[layer] = values
    file = write(adata, tmp_path / "in", how)
    in_blocks(500)
    same(prepare(file, LAYER=layer), whole["prepared"])


@pytest.mark.slow
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n_values=st.integers(1, 30_000), kept=st.sampled_from([0, 10**8]), form=st.sampled_from(sorted(FORMS)))
def test_no_size_of_a_block_changes_anything(
    n_values: int, kept: int, form: str, whole: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / f"{form}.h5ad"
    if not file.exists():
        adata = mixed()
        adata.X = FORMS[form](adata.X)
        write(adata, file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "KEPT_VALUES", kept)
        patch.setattr(chunks, "VALUES_AT_ONCE", n_values)
        same(prepare(file), whole["prepared"])


def test_markers_that_are_not_kept_come_from_every_block(
    in_blocks: Callable[[int], None], whole: dict[str, Any]
) -> None:
    in_blocks(300)
    prepared, _ = prepare(whole["file"], MARKERS={"B": ["gene001", "gene059"]})
    expected = whole["markers"][0].obsm["markers"].toarray()
    np.testing.assert_array_equal(prepared.obsm["markers"].toarray(), expected)


def test_several_files_in_blocks_give_the_same(in_blocks: Callable[[int], None], tmp_path: Path) -> None:
    adata = mixed()
    target = (adata.obs["batch"] == "c").to_numpy()
    paths = [
        write(adata[~target, :57].copy(), tmp_path / "a"),
        write(adata[target, 9:].copy(), tmp_path / "b", "zarr 2"),
    ]
    both = {"PATH": list(map(str, paths))}
    expected = prepare(paths[0], **both)
    in_blocks(400)
    same(prepare(paths[0], **both), expected)


def test_moments_of_parts_are_those_of_the_whole() -> None:
    """Values far from zero, where sums of squares would lose all digits."""
    values = np.random.default_rng(0).normal(1e6, 1, (500, 3))
    parts = [
        variable_features.MeanVariance(len(x), x.mean(axis=0), x.var(axis=0)) for x in np.split(values, [1, 7, 400])
    ]
    merged = parts[0]
    for part in parts[1:]:
        merged.add(part)
    np.testing.assert_allclose(merged.variance, values.var(axis=0), rtol=1e-9)
    np.testing.assert_allclose(merged.mean, values.mean(axis=0), rtol=1e-14)


# --- what is wrong is found in every block ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("how", ["h5ad", "zarr 2"])
def test_nan_in_the_last_block_is_named(how: str, form: str, in_blocks: Callable[[int], None], tmp_path: Path) -> None:
    adata = simulated(THREE_BATCHES)
    values = adata.X.toarray()
    values[-1, 41] = np.nan
    values[-1, 50] = np.inf
    adata.X = FORMS[form](sparse.csr_matrix(values))
    in_blocks(700)
    with pytest.raises(
        InputError, match=r"X of .*in\..* has NaN or infinite values in 1 cell, .* cell 'cell299', feature 'gene041'"
    ):
        prepare(write(adata, tmp_path / "in", how))


@given(
    n=st.integers(1, 300), chunk=st.integers(1, 100), first=st.integers(0, 320), length=st.integers(0, 320),
    dtype=st.sampled_from(["f4", "f8", "i4", "u1", ">i4"]),
    how=st.sampled_from([{"compression": "gzip"}, {"compression": "gzip", "shuffle": True}, {"compression": "lzf"}, {"fletcher32": True}, {}]),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_values_are_those_that_h5py_reads(
    n: int, chunk: int, first: int, length: int, dtype: str, how: dict[str, Any]
) -> None:
    """What gzip compressed, or nothing did, is read past h5py: another value would be another answer."""
    for where in ({"driver": "core", "backing_store": False}, {}, {"userblock_size": 512}):
        with TemporaryDirectory() as folder:
            with h5py.File(f"{folder}/a.h5", "w", **where) as file:
                stored = file.create_dataset("x", (n,), dtype, chunks=(min(chunk, n),), **how)
                stored[: n // 2 + 1] = np.arange(n // 2 + 1) % 200  # chunks that were never written are zero
                file.flush()
                expected = stored[first : first + length]
                np.testing.assert_array_equal(chunks._span(stored, first, first + length), expected)
            if "driver" not in where:
                with h5py.File(f"{folder}/a.h5") as file:
                    np.testing.assert_array_equal(chunks._span(file["x"], first, first + length), expected)


def test_values_that_are_cut_off_are_told(tmp_path: Path) -> None:
    """HDF5 takes what is missing for zeros, and so a cell for one without values."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=np.ones(100_000, np.float32), chunks=(1000,))
        at = file["x"].id.get_chunk_info_by_coord((50_000,)).byte_offset
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(chunks._span(file["x"], 0, 100_000), np.ones(100_000))
        os.truncate(tmp_path / "a.h5", at + 10)
        np.testing.assert_array_equal(chunks._span(file["x"], 0, 50_000), np.ones(50_000))
        with pytest.raises(ValueError, match="cut short"):
            chunks._span(file["x"], 40_000, 60_000)


@pytest.mark.parametrize("byte", [20, -1])
def test_a_changed_byte_of_a_compressed_chunk_is_told(byte: int, tmp_path: Path) -> None:
    """The last bytes are a checksum, without which a changed value is another answer and nobody is told."""
    file = tmp_path / "a.h5ad"
    counts = np.random.default_rng(0).poisson(1, (200, 60)).astype(np.float32)
    ad.AnnData(sparse.csr_matrix(counts)).write_h5ad(file, compression="gzip")
    with h5py.File(file) as store:
        chunk = store["X/data"].id.get_chunk_info(0)
    with file.open("r+b") as raw:
        at = chunk.byte_offset + (byte if byte > 0 else chunk.size + byte)
        raw.seek(at)
        (old,) = raw.read(1)
        raw.seek(at)
        raw.write(bytes([old ^ 255]))
    with h5ad.open_file(file) as store:
        (block,) = chunks.Blocks.from_store(store, "X", "X", np.arange(200)).blocks
    with pytest.raises(InputError, match=r"X of .*a\.h5ad cannot be read"):
        block.matrix()


@pytest.mark.parametrize("how", ["h5ad", "gzip", "zarr 3"])
@pytest.mark.parametrize("zeros", [False, True])
def test_values_that_are_read_without_their_columns_are_the_same(
    zeros: bool, how: str, in_blocks: Callable[[int], None], whole: dict[str, Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Else a large file would be taken for values of another kind. Zeros that are stored are none of its values."""
    adata = mixed()
    if zeros:
        adata.X.data[::7] = 0
    file = write(adata, tmp_path / "in", how)
    expected = prepare(file) if zeros else whole["prepared"]
    in_blocks(700)
    monkeypatch.setattr(chunks, "FEW_ROWS", 1.0)
    same(prepare(file), expected)


@pytest.mark.parametrize("form", ["csr", "csc"])
@pytest.mark.parametrize(("kept", "few"), [(0, chunks.FEW_ROWS), (10**8, chunks.FEW_ROWS), (0, 1.0)])
def test_index_out_of_bounds_in_the_last_block_is_told(form: str, kept: int, few: float, tmp_path: Path) -> None:
    """scipy would write outside of its memory."""
    adata = simulated(THREE_BATCHES)
    adata.X = FORMS[form](adata.X)
    file = write(adata, tmp_path / "in")
    with h5py.File(file, "a") as h5:
        h5["X/indices"][-1] = 10**6
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "KEPT_VALUES", kept)
        patch.setattr(chunks, "VALUES_AT_ONCE", 700)
        patch.setattr(chunks, "FEW_ROWS", few)
        with pytest.raises(InputError, match=r"PATH: X of .*cannot be read: its indices"):
            prepare(file)
    assert not list(tmp_path.glob("**/.rows*"))


# --- zarr ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(simulated(THREE_BATCHES), tmp_path / "in", "zarr 2")


def _cut_chunk(folder: Path) -> None:
    chunk = next(path for path in (folder / "X" / "data").iterdir() if not path.name.startswith("."))
    chunk.write_bytes(chunk.read_bytes()[:20])


def _lose_chunk(folder: Path) -> None:
    for name in (".zmetadata", "X/indices/.zarray"):
        (folder / name).unlink()


def _link_out(folder: Path) -> None:
    (folder / "X" / "data" / "1").symlink_to("/etc/passwd")


def _pickled(folder: Path) -> None:
    (folder / ".zmetadata").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = zarr.open_group(folder, mode="a", zarr_format=2).create_array(
            "obs/x", shape=(300,), dtype="f4", chunks=(300,)
        )
    assert made.shape == (300,)
    described = folder / "obs" / "x" / ".zarray"
    about = json.loads(described.read_text())
    described.write_text(json.dumps(about | {"compressor": {"id": "pickle"}}))


def _filtered_by_pickle(folder: Path) -> None:
    described = folder / "obs" / "x" / ".zarray"
    described.parent.mkdir()
    described.write_text(json.dumps({"zarr_format": 2, "filters": [{"id": "pickle"}], "compressor": None}))


def _declares(folder: Path) -> None:
    (folder / ".zmetadata").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.open_group(folder, mode="a", zarr_format=2).create_array(
            "obsm/x", shape=(300, 10**10), dtype="f4", chunks=(300, 10**6)
        )


def _no_metadata(folder: Path) -> None:
    (folder / ".zgroup").unlink()
    (folder / ".zmetadata").unlink()


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut chunk": (_cut_chunk, r"PATH: X of .*in\.zarr cannot be read"),
    "lost array": (_lose_chunk, r"PATH: .*in\.zarr cannot be read"),
    "link": (_link_out, r"PATH: .*link to another place"),
    "link to itself": (lambda folder: (folder / "loop").symlink_to("loop"), r"PATH: .*loop is neither a file nor a folder"),
    "pipe": (lambda folder: os.mkfifo(folder / "obs" / "pipe"), r"PATH: .*pipe is neither a file nor a folder"),
    "pickle": (_pickled, r"PATH: .*in\.zarr cannot be read \(obs/x has the codec pickle, which executes"),
    "filter of pickle": (_filtered_by_pickle, r"PATH: .*in\.zarr cannot be read \(obs/x has the codec pickle"),
    "declares": (_declares, r"PATH: obsm/x of .*declares"),
    "no zarr": (_no_metadata, r"PATH: .*is a folder and neither a zarr"),
    "no obs": (lambda folder: shutil.rmtree(folder / "obs"), r"PATH: .*in\.zarr"),
    "obs damaged": (lambda folder: (folder / "obs" / "batch" / "codes" / "0").write_bytes(b"x"), r"obs of .*in\.zarr"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_zarr_is_one_message(damage: str, folder: Path, jind_nb: Callable[..., Answer], tmp_path: Path) -> None:
    """And a folder from elsewhere can neither run a program nor carry another file's content home."""
    DAMAGE[damage][0](folder)
    with pytest.raises(InputError, match=DAMAGE[damage][1]):
        prepare(folder)
    lines = ["PATH: in.zarr", "BATCH_COL: batch", "LABELS_COL: celltype", "TARGET_DATASET_NAME: c", "OUTPUT_PATH: out"]
    (tmp_path / "p.yaml").write_text("\n".join([*lines, "MIN_CELL_TYPE_POPULATION: 5"]))
    answer = jind_nb("validate", tmp_path / "p.yaml")
    assert answer.status == 2, answer.out + answer.err
    assert answer.err.startswith("Wrong input: ")
    assert "Traceback" not in answer.err


def test_a_misspelt_zarr_is_answered_with_its_name(folder: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file .*Did you mean 'in\.zarr'\?"):
        prepare(folder.with_name("inn.zarr"))


def test_a_changed_chunk_is_another_input(folder: Path) -> None:
    """Else a rerun would reuse what was computed of other values."""
    run = Run(parameters_of(folder))
    signature, (hash_,) = cache.input_signature(run), cache.input_hashes(run).values()
    assert hash_ == sha256(folder)
    assert h5ad.n_bytes(folder) == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    chunk = folder / "obs" / "_index" / "0"
    chunk.write_bytes(chunk.read_bytes() + b"\0")
    assert cache.input_signature(run) != signature
    assert cache.input_hashes(run)[folder] != hash_


@pytest.mark.slow
@pytest.mark.parametrize("how", ["h5ad", "zarr 2", "zarr 3"])
@pytest.mark.parametrize("form", FORMS)
def test_the_target_comes_back_as_it_is(how: str, form: str, tmp_path: Path) -> None:
    """Its type, its form, its extras: what a user put into the file must be in annotated_target.h5ad again."""
    adata = simulated(THREE_BATCHES)
    adata.raw = ad.AnnData(FORMS[form](adata.X.astype(np.int32)), obs=adata.obs, var=adata.var)
    adata.layers["f8"] = FORMS[form](adata.X.astype(np.float64) / 3)
    adata.X = FORMS[form](adata.X)
    adata.obsm["X_pca"] = np.random.default_rng(0).normal(size=(adata.n_obs, 4))
    adata.obsm["table"] = pd.DataFrame({"a": np.arange(adata.n_obs), "b": "x"}, index=adata.obs_names)
    adata.obsp["near"] = sparse.random(adata.n_obs, adata.n_obs, 0.05, format="csr", random_state=0)
    adata.varm["loadings"] = np.ones((adata.n_vars, 2))
    adata.uns["story"] = {"x": [1, 2]}
    parameters = parameters_of(write(adata, tmp_path / "in", how))
    cells = data_cells.read_cells(parameters)
    target, expected = data_cells.read_target(parameters, cells), adata[adata.obs["batch"] == "c"]
    for one, other in (
        (target.X, expected.X), (target.layers["f8"], expected.layers["f8"]), (target.raw.X, expected.raw.X),
        (target.obsp["near"], expected.obsp["near"]),
    ):  # fmt: skip
        assert one.dtype == other.dtype
        assert getattr(one, "format", "dense") == getattr(other, "format", "dense")
        dense = [x.toarray() if sparse.issparse(x) else np.asarray(x) for x in (one, other)]
        np.testing.assert_array_equal(*dense)
    assert list(target.obs_names) == list(expected.obs_names)
    assert list(target.obsm["table"]["a"]) == list(expected.obsm["table"]["a"])
    np.testing.assert_array_equal(target.obsm["X_pca"], expected.obsm["X_pca"])
    np.testing.assert_array_equal(target.varm["loadings"], expected.varm["loadings"])
    assert list(target.uns["story"]["x"]) == [1, 2]


@pytest.mark.slow
def test_a_whole_run_and_predict_take_a_zarr_folder(tmp_path: Path) -> None:
    """A folder is an input like a file, here with a target whose labels are all missing: what the program is for."""
    adata = simulated(THREE_BATCHES)
    adata.obs.loc[adata.obs["batch"] == "c", "celltype"] = np.nan
    write(adata, tmp_path / "in", "zarr 3")
    values = ("PATH: in.zarr", "BATCH_COL: batch", "LABELS_COL: celltype", "TARGET_DATASET_NAME: c", "OUTPUT_PATH: run")
    (tmp_path / "p.yaml").write_text("\n".join([*values, "MIN_CELL_TYPE_POPULATION: 5"]))
    done = run_forked("run", "p.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert ad.read_h5ad(tmp_path / "run" / "annotated_target.h5ad").n_obs == 80
    annotated_without_labels(tmp_path / "run")
    again = run_forked("run", "p.yaml", cwd=tmp_path)
    assert again.returncode == 0
    assert "reused" in again.stderr
    done = run_forked("predict", "run/trained_models", "in.zarr", "--output-path", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(pd.read_parquet(tmp_path / "out" / "predictions.parquet")) == 300


# --- Dask ------------------------------------------------------------------------------------------------------------


CLUSTER = """
import sys
from distributed import LocalCluster

if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a scheduler with two workers, in processes of their own."""
    script = tmp_path_factory.mktemp("cluster") / "cluster.py"
    script.write_text(CLUSTER)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.communicate("")


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_dasks_workers_give_the_same(
    form: str, cluster: str, in_blocks: Callable[[int], None], whole: dict[str, Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """On a cluster the answer must be that of the laptop; and the workers must have had the work."""
    from distributed import Client

    adata = mixed()
    adata.X = FORMS[form](adata.X)
    file = write(adata, tmp_path / "in")
    in_blocks(700)
    asked = list[str]()
    submit = Client.submit
    monkeypatch.setattr(Client, "submit", lambda self, *a, **k: asked.append(a[0].__name__) or submit(self, *a, **k))
    with Client(cluster):
        same(prepare(file), whole["prepared"])
    assert {"_block_summary", "_block_mean_variance", "_block_features"} <= set(asked)


@pytest.mark.slow
def test_a_schedulers_address_in_the_environment_is_enough(cluster: str, whole: dict[str, Any], tmp_path: Path) -> None:
    """As notebooks' kernels are given it; an address where nobody answers is one message."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "from jind_nb.data import chunks, layers\n"
        "from tests.data.test_chunks import prepare\n"
        "layers.KEPT_VALUES, chunks.VALUES_AT_ONCE = 0, 700\n"
        "print(float(prepare(Path(sys.argv[1]))[0].X.sum()), chunks.current_client().scheduler.address)\n"
    )
    command = [sys.executable, "-c", script, str(whole["file"]), str(ROOT)]
    environment = os.environ | {"DASK_SCHEDULER_ADDRESS": cluster}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(float(whole["prepared"][0].X.sum())), cluster]


def test_a_scheduler_that_does_not_answer_is_named(
    in_blocks: Callable[[int], None], whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import dask

    in_blocks(700)
    monkeypatch.setattr(chunks, "PATIENCE", "1s")
    with (
        dask.config.set({"scheduler-address": "tcp://127.0.0.1:9"}),
        pytest.raises(InputError, match="no Dask scheduler"),
    ):
        prepare(whole["file"])


# --- memory ----------------------------------------------------------------------------------------------------------

MEASURED = """
import re, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
import distributed, sklearn.utils.sparsefuncs
from scipy.sparse import csr_matrix
from jind_nb.data import chunks, layers
from jind_nb.data.fingerprints import fingerprints
from tests.data.test_chunks import prepare

def peak():  # not getrusage's, which begins with that of the process that started this one
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

layers.KEPT_VALUES, chunks.VALUES_AT_ONCE = 0, 2**20
fingerprints(csr_matrix([[1.0]], dtype="f4"))  # compiled code is no part of what values take
before = peak()
prepared, _ = prepare(Path(sys.argv[1]), NUM_FEATURES=100)
print(prepared.X.nnz, peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_memory_follows_the_kept_features(form: str, tmp_path: Path) -> None:
    """15 million stored values are 120 MB as CSR alone, and twice that where they are normalised at once; the hundred
    features kept are 6 MB."""
    n, p, random = 15_000, 2_000, np.random.default_rng(0)
    obs = pd.DataFrame(
        {"batch": np.repeat(["a", "c"], n // 2), "celltype": np.tile(["B", "T"], n // 2)},
        index=np.arange(n).astype(str),
    )
    file = tmp_path / "in.h5ad"
    ad.AnnData(obs=obs, var=pd.DataFrame(index=np.arange(p).astype(str))).write_h5ad(file)
    in_row = (p if form == "csr" else n) // 2  # every other feature, or cell, shifted by one from row to row
    n_rows = n if form == "csr" else p
    with h5py.File(file, "a") as h5:
        if "X" in h5:
            del h5["X"]
        if form == "dense":
            stored = h5.create_dataset("X", (n, p), "f4", chunks=(1000, p))
            stored.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
            for start in range(0, n, 5000):
                stored[start : start + 5000] = random.integers(0, 2, (5000, p)) * random.integers(1, 9, (5000, p))
        else:
            group = h5.create_group("X")
            group.attrs.update({"encoding-type": f"{form}_matrix", "encoding-version": "0.1.0", "shape": (n, p)})
            group["indptr"] = np.arange(n_rows + 1) * in_row
            for name, kind in (("data", "f4"), ("indices", "i4")):
                group.create_dataset(name, (n_rows * in_row,), kind, chunks=(2**18,))
            some = 5000 if form == "csr" else 100
            for start in range(0, n_rows, some):
                here = slice(start * in_row, (start + some) * in_row)
                group["data"][here] = random.integers(1, 9, some * in_row)
                group["indices"][here] = (2 * np.arange(in_row)[None] + np.arange(some)[:, None] % 2).ravel()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(file), str(ROOT)], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    nnz, took = map(int, done.stdout.split())
    assert nnz > 5 * 10**5
    print(f"{form}: {took / 1e6:.0f} MB")
    assert took < 200e6
