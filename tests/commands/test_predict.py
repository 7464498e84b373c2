"""`jind-nb predict`: a new file annotated with a saved model, in seconds and without training."""

from __future__ import annotations

import errno
import html
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import openpyxl
import pandas as pd
import pytest
import torch
from rocrate.rocrate import ROCrate
from scipy import sparse
from sklearn.metrics import roc_auc_score

import jind_nb as jn
from jind_nb.commands import predict
from jind_nb.core.files import sha256
from jind_nb.core.labels import UNASSIGNED
from jind_nb.core.locks import LOCK
from jind_nb.data import chunks, layers
from jind_nb.model import default, fit, loop, neighbours, reference
from tests.conftest import Answer, Whole
from tests.helpers.simulated import simulated

Command = Callable[..., Answer]


@pytest.fixture
def run_folder(whole: Whole) -> Path:
    """A finished run on the three simulated batches; its input beside it."""
    return whole.run


@pytest.fixture
def nothing_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    def trains(*_: object) -> None:
        raise AssertionError("something was trained")

    monkeypatch.setattr(loop, "train_epoch", trains)
    monkeypatch.setattr(reference, "train_epoch", trains)
    monkeypatch.setattr(fit, "learn_source", trains)
    monkeypatch.setattr(torch.optim.Optimizer, "step", trains, raising=False)


def annotate(jind_nb: Command, run_folder: Path, adata: ad.AnnData, folder: Path, *also: object) -> Path:
    """Runs the command on a file; the folder of its results."""
    adata.write_h5ad(folder / "new.h5ad")
    done = jind_nb(
        "predict", run_folder / "trained_models", folder / "new.h5ad", "--output-path", folder / "out", *also
    )
    assert done.status == 0, done.err
    return folder / "out"


def probabilities(table: pd.DataFrame) -> np.ndarray:
    return table[["B", "NK", "T"]].to_numpy()


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_trains")
@pytest.mark.parametrize("stored", ["its cells alone", "shuffled", "dense", "the whole file"])
def test_the_run_s_own_target_gets_the_run_s_labels_and_probabilities(
    run_folder: Path, tmp_path: Path, jind_nb: Command, stored: str
) -> None:
    """A collaborator with the model and the cells must see what the report shows."""
    adata = ad.read_h5ad(run_folder.parent / "input.h5ad")
    then = pd.read_parquet(run_folder / "predictions.parquet")
    new = adata if stored == "the whole file" else adata[adata.obs["batch"] == "c"].copy()
    if stored == "shuffled":
        new = new[np.random.default_rng(0).permutation(new.n_obs)].copy()
    if stored == "dense":
        new.X = new.X.toarray()
    now = pd.read_parquet(annotate(jind_nb, run_folder, new, tmp_path) / "predictions.parquet")
    assert list(now.index) == list(new.obs_names)
    now = now.loc[then.index]
    for column in ("raw_predictions", "predictions", "reason"):
        assert now[column].tolist() == then[column].tolist()
    np.testing.assert_allclose(probabilities(now), probabilities(then), atol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_trains")
def test_new_cells_are_named_and_the_file_comes_back_with_them(
    run_folder: Path, tmp_path: Path, jind_nb: Command
) -> None:
    new = simulated({"e": {"B": 20, "T": 20, "NK": 20}}, seed=0)
    truth = new.obs["celltype"].to_numpy()
    del new.obs["batch"], new.obs["celltype"]
    new.layers["mine"] = new.X * 2
    new.raw = new
    new.uns["mine"] = {"a": np.arange(3)}
    new.obsm["X_mine"] = np.ones((60, 2))
    out = annotate(jind_nb, run_folder, new, tmp_path)
    table = pd.read_parquet(out / "predictions.parquet")
    assert (table["raw_predictions"].to_numpy() == truth).mean() > 0.9
    annotated = ad.read_h5ad(out / "annotated_target.h5ad")
    assert annotated.obs["jind_prediction"].astype(str).tolist() == table["predictions"].tolist()
    of_the_run = ad.read_h5ad(run_folder / "annotated_target.h5ad").obsm["X_jind"]
    assert annotated.obsm["X_jind"].shape == (60, of_the_run.shape[1])
    assert (annotated.layers["mine"] != new.layers["mine"]).nnz == (annotated.raw.X != new.X).nnz == 0
    assert annotated.uns["mine"]["a"].tolist() == [0, 1, 2]
    assert (annotated.obsm["X_mine"] == 1).all()
    rows = list(openpyxl.load_workbook(out / "predicted_label_test_data.xlsx").active.iter_rows(values_only=True))
    assert len(rows) == 61
    none_there = jind_nb("report", out)
    assert none_there.status == 2
    assert "jind-nb predict --report makes the report" in none_there.err
    stated = json.loads((out / "metrics.json").read_text())["target"]
    assert stated["annotated"] == (table["predictions"] != UNASSIGNED).sum()
    assert 0 <= stated["expected_error_range"][0] <= stated["expected_error"] <= stated["expected_error_range"][1]
    assert stated["expected_error_basis"].startswith("Computed from the confidence of")
    manifest = json.loads((out / "manifest.json").read_text())
    model = json.loads((run_folder / "trained_models" / "model.json").read_text())
    assert manifest["model"]["sha256"] == model["sha256"]
    crate = ROCrate(out)
    action = crate.dereference("#predict")
    told = {one["name"]: one for one in action["object"]}
    assert told["model.json"]["sha256"] == sha256(run_folder / "trained_models" / "model.json")
    assert told["new.h5ad"]["sha256"] == manifest["input"][0]["sha256"]
    assert action["instrument"]["softwareVersion"] == manifest["versions"]["jind-nb"]
    written = {one.id: one for one in action["result"]}
    assert written["predictions.parquet"]["sha256"] == sha256(out / "predictions.parquet")
    assert "annotated_target.h5ad" in written
    assert action["startTime"] <= action["endTime"]


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_trains")
def test_a_report_tells_a_colleague_what_was_found_and_how_far_to_trust_it(
    run_folder: Path, tmp_path: Path, jind_nb: Command
) -> None:
    """The tables alone say neither how many labels are wrong nor what the model knows."""
    new = simulated({"day <1>": {"B": 20, "T": 20}, "day 2": {"B": 10, "NK": 4}}, seed=0)
    new.X = new.X.multiply(np.arange(60) > 0).tocsr()
    out = annotate(jind_nb, run_folder, new, tmp_path, "--report", "--batch-col", "batch")
    page = (out / "report.html").read_text()
    stated = json.loads((out / "metrics.json").read_text())["target"]
    assert f"new.h5ad: {stated['annotated']} of 54 cells assigned" in page
    for words in (stated["expected_error_basis"], "Check before you use these labels", "left out and annotated like"):
        assert words in html.unescape(page)
    table = pd.read_parquet(out / "predictions.parquet")
    for name, n in table["raw_predictions"][table["predictions"] != UNASSIGNED].value_counts().items():
        assert re.search(rf"<th scope=.row.[^>]*>{name}</th><td class=.number.>{n}</td>", page)
    assert "day &lt;1&gt;" in page
    assert "60 of the model's 60 are in the file, 1 of them zero in all its cells" in html.unescape(page)
    assert table["batch"].tolist() == pd.read_csv(out / "predictions.csv")["batch"].tolist() == list(new.obs["batch"])
    assert page.count("<img") == 9
    assert 'src="http' not in page


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_trains")
def test_a_report_has_the_groups_of_cells_that_the_model_does_not_know(
    run_folder: Path, tmp_path: Path, jind_nb: Command
) -> None:
    """A new cell type would else be a number on page one; which genes it has, nobody would look for."""
    new = simulated({"e": {"B": 60, "NK": 40, "T": 60}}, seed=0)
    values, is_new = new.X.toarray(), (new.obs["celltype"] == "NK").to_numpy()
    values[is_new] = np.random.default_rng(0).poisson(
        np.repeat([9.0, 0.2], 30), (40, 60)
    )  # the first 30 genes, of every type some
    new.X = sparse.csr_matrix(values)
    out = annotate(jind_nb, run_folder, new, tmp_path, "--report")
    table, page = pd.read_parquet(out / "predictions.parquet"), (out / "report.html").read_text()
    assert "Groups of 10 or more cells that are unlike all annotated ones, the largest first" in page
    n_unlike = int((table["reason"] == "unlike reference").sum())
    sizes = [int(n) for n in re.findall(r"<th scope=.row.[^>]*>group \d+</th><td class=.number.>(\d+)</td>", page)]
    assert 30 < sum(sizes) <= n_unlike
    cells = pd.read_csv(out / "unlike_groups.csv", index_col="cellname")
    assert sorted(cells["group"].value_counts(), reverse=True) == sizes
    assert (table.loc[cells.index, "reason"] == "unlike reference").all()


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_trains")
def test_cells_that_the_model_learned_from_are_not_in_the_stated_error(
    run_folder: Path, tmp_path: Path, jind_nb: Command
) -> None:
    """Of these the model was told the types: among them, hard new cells would look like easy ones. And whoever annotates the training
    file by mistake is told."""
    known = ad.read_h5ad(run_folder.parent / "input.h5ad")
    known = known[known.obs["batch"] == "a"].copy()
    new = simulated({"e": {"B": 20, "T": 20, "NK": 20}}, seed=0)
    new.X = sparse.csr_matrix(np.random.default_rng(0).binomial(new.X.toarray().astype(int), 0.3).astype(np.float32))
    new.obs_names = [f"new {name}" for name in new.obs_names]

    def stated(adata: ad.AnnData, name: str) -> tuple[dict[str, object], int, str]:
        (tmp_path / name).mkdir()
        out = annotate(jind_nb, run_folder, adata, tmp_path / name, "--report", "--batch-col", "batch")
        table = pd.read_parquet(out / "predictions.parquet")
        n_assigned = int((table["predictions"][table["batch"] == "a"] != UNASSIGNED).sum())
        notes = " ".join(json.loads((out / "manifest.json").read_text())["notes"])
        return json.loads((out / "metrics.json").read_text())["target"], n_assigned, notes

    alone, _, notes = stated(new, "alone")
    assert "learned from" not in notes
    mixed, n_assigned, notes = stated(ad.concat([known, new]), "mixed")
    assert n_assigned > 0
    assert mixed["expected_error"] == pytest.approx(alone["expected_error"], abs=1e-6)
    assert f"{n_assigned} assigned cells that the model learned from are not counted." in str(
        mixed["expected_error_basis"]
    )
    page = (tmp_path / "mixed" / "out" / "report.html").read_text()
    assert "of the assigned cells that are new to the model are probably wrong" in page
    assert "of the assigned cells that are new to the model are wrong, probably" in page
    assert f"{known.n_obs} of {known.n_obs + new.n_obs} cells are annotated cells that the model learned from" in notes
    nothing_new, _, _ = stated(known, "known")
    assert nothing_new["expected_error"] is None
    assert "learned from all of these cells" in str(nothing_new["expected_error_basis"])


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_trains")
def test_a_workbook_of_many_cells_is_written_only_if_asked_for(
    run_folder: Path, tmp_path: Path, jind_nb: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits minutes for a file that hardly opens; and nobody looks for it in vain."""
    monkeypatch.setattr(predict, "MOST_IN_A_WORKBOOK", 20)
    new = simulated({"e": {"B": 10, "T": 10, "NK": 10}}, seed=0)
    out = annotate(jind_nb, run_folder, new, tmp_path)
    assert not (out / "predicted_label_test_data.xlsx").exists()
    table = pd.read_parquet(out / "predictions.parquet")
    assert pd.read_csv(out / "predictions.csv")["predictions"].tolist() == table["predictions"].tolist()
    assert any("--xlsx" in note for note in json.loads((out / "manifest.json").read_text())["notes"])
    out = annotate(jind_nb, run_folder, new, tmp_path, "--xlsx")
    book = openpyxl.load_workbook(out / "predicted_label_test_data.xlsx")
    assert book.active.max_row == 31
    assert any(value and "wrong" in str(value) for row in book["about"].iter_rows(values_only=True) for value in row)


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_trains")
def test_neither_the_order_of_rows_nor_the_size_of_blocks_changes_a_bit(
    run_folder: Path, tmp_path: Path, jind_nb: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a file sorted by barcode, or a machine with less memory, gives some cells other types."""
    monkeypatch.setattr(layers, "KEPT_VALUES", 0)
    monkeypatch.setattr(default, "MOST_MOVED", 50)  # so that cells are drawn
    monkeypatch.setattr(neighbours, "MOST_CELLS", 40)
    new = simulated({"e": {"B": 40, "T": 40, "NK": 40}}, seed=0)
    tables, latents = [], []
    for i, values_at_once in enumerate((2**22, 3_000)):
        monkeypatch.setattr(chunks, "VALUES_AT_ONCE", values_at_once)
        rows = np.random.default_rng(i).permutation(new.n_obs) if i else np.arange(new.n_obs)
        (tmp_path / str(i)).mkdir()
        out = annotate(jind_nb, run_folder, new[rows].copy(), tmp_path / str(i))
        tables.append(pd.read_parquet(out / "predictions.parquet").loc[new.obs_names])
        latents.append(ad.read_h5ad(out / "annotated_target.h5ad")[new.obs_names].obsm["X_jind"])
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    np.testing.assert_array_equal(*latents)


@pytest.mark.slow
def test_latents_that_are_too_large_for_memory_are_on_disk_and_the_answers_are_the_same(
    run_folder: Path, tmp_path: Path, jind_nb: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = simulated({"e": {"B": 40, "T": 40, "NK": 40}, "f": {"B": 20, "T": 20}}, seed=0)
    monkeypatch.setattr(chunks, "VALUES_AT_ONCE", 2_000)  # several blocks
    found = []
    for most, name in ((predict.MOST_IN_MEMORY, "memory"), (0, "disk")):
        monkeypatch.setattr(predict, "MOST_IN_MEMORY", most)
        (tmp_path / name).mkdir()
        out = annotate(jind_nb, run_folder, new, tmp_path / name, "--align", "--batch-col", "batch")
        found.append((pd.read_parquet(out / "predictions.parquet"), ad.read_h5ad(out / "annotated_target.h5ad")))
    (of_memory, cells), (of_disk, same_cells) = found
    pd.testing.assert_frame_equal(of_memory, of_disk)
    np.testing.assert_array_equal(cells.obsm["X_jind"], same_cells.obsm["X_jind"])


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_trains")
@pytest.mark.parametrize("part", ["layers/mine/indptr", "obsm/X_mine", "uns/mine/a"])
def test_a_file_damaged_where_nothing_looks_is_refused_before_anything_is_written(
    run_folder: Path, tmp_path: Path, jind_nb: Command, part: str
) -> None:
    """Else the annotated file would come back damaged too, and look like ours."""
    new = simulated({"e": {"B": 20, "T": 20, "NK": 20}}, seed=0)
    new.layers["mine"], new.obsm["X_mine"], new.uns["mine"] = new.X * 2, np.ones((60, 2)), {"a": np.arange(3000)}
    new.write_h5ad(tmp_path / "new.h5ad", compression="gzip")
    model, earlier = run_folder / "trained_models", tmp_path / "earlier"
    assert jind_nb("predict", model, tmp_path / "new.h5ad", "--output-path", earlier).status == 0
    written = _files(earlier)
    with h5py.File(tmp_path / "new.h5ad") as h5:
        where = h5[part].id.get_chunk_info(0)
    with (tmp_path / "new.h5ad").open("r+b") as file:
        file.seek(where.byte_offset)
        file.write(b"\0" * where.size)
    for output in (tmp_path / "no" / "folder", earlier):
        done = jind_nb("predict", model, tmp_path / "new.h5ad", "--output-path", output)
        assert done.status == 2, done.out
        assert "cannot be read whole" in done.err
    assert not (tmp_path / "no").exists()
    assert _files(earlier) == written


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_trains")
def test_a_disk_that_is_full_leaves_earlier_predictions_where_they_are(
    run_folder: Path, tmp_path: Path, jind_nb: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy of the file takes most room: that it failed must be known before anything is moved."""
    simulated({"e": {"B": 20, "T": 20, "NK": 20}}, seed=0).write_h5ad(tmp_path / "new.h5ad")
    model, earlier = run_folder / "trained_models", tmp_path / "earlier"
    assert jind_nb("predict", model, tmp_path / "new.h5ad", "--output-path", earlier).status == 0
    written = _files(earlier)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(predict, "copy_until", full)
    for output in (earlier, tmp_path / "no"):
        done = jind_nb("predict", model, tmp_path / "new.h5ad", "--output-path", output)
        assert done.status == 1, done.out
        assert "The disk is full" in done.err
    assert not (tmp_path / "no").exists()
    assert {path: held for path, held in _files(earlier).items() if path.name != LOCK} == written


def _files(folder: Path) -> dict[Path, bytes]:
    """Return what is in a folder, but for the log: only here do several commands share a process, which goes on with it."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "run.log"}


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_trains")
def test_a_file_of_nothing_is_not_annotated_and_said_to_be(run_folder: Path, tmp_path: Path, jind_nb: Command) -> None:
    """Moved onto the reference as a whole, all of it came back `confident`."""
    new = simulated({"e": {"B": 20, "T": 20, "NK": 20}}, seed=0)
    values = np.random.default_rng(0).permuted(new.X.toarray(), axis=1)
    values[:5] = 0
    new.X = values
    table = pd.read_parquet(annotate(jind_nb, run_folder, new, tmp_path) / "predictions.parquet")
    assert (table["reason"].to_numpy()[:5] == "no values").all()
    assert (table["reason"].to_numpy()[5:] == "unlike reference").mean() > 0.8
    notes = json.loads((tmp_path / "out" / "manifest.json").read_text())["notes"]
    assert sum("are nothing that the model knows" in note for note in notes) == 1


def _with_more(adata: ad.AnnData, more: str) -> ad.AnnData:
    """The same cells in a file of four times the features, most of the counts in the new ones."""
    others = sparse.random(adata.n_obs, 180, density=0.3, format="csr", random_state=0, dtype=np.float32)
    others.data = np.ceil(others.data * 50)
    var = pd.DataFrame(index=[*adata.var_names, *(f"other{i}" for i in range(180))])
    whole = ad.AnnData(sparse.hstack([adata.X, others], format="csr"), obs=adata.obs, var=var)
    order = np.random.default_rng(0).permutation(240) if more == "shuffled" else np.arange(240)
    whole = whole[:, order].copy()
    whole.X = sparse.csc_matrix(whole.X) if more == "csc" else whole.X
    return whole


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_trains")
@pytest.mark.parametrize("more", ["behind", "shuffled", "csc"])
@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
def test_more_features_than_the_training_file_had_change_nothing(
    run_folder: Path, tmp_path: Path, jind_nb: Command, monkeypatch: pytest.MonkeyPatch, more: str, large: bool
) -> None:
    """A file of 20,000 genes and a model of 2,000: cells keep the scale that the model learned, and are known again."""
    new = simulated({"e": {"B": 20, "T": 20, "NK": 20}}, seed=0)
    mixed = ad.concat([ad.read_h5ad(run_folder.parent / "input.h5ad"), new], index_unique="-")
    for name in ("plain", "whole"):
        (tmp_path / name).mkdir()
    plain = pd.read_parquet(annotate(jind_nb, run_folder, mixed, tmp_path / "plain") / "predictions.parquet")
    if large:
        monkeypatch.setattr(layers, "KEPT_VALUES", 0)
        monkeypatch.setattr(chunks, "VALUES_AT_ONCE", 2000)
    whole = _with_more(mixed, more)
    out = annotate(jind_nb, run_folder, whole, tmp_path / "whole")
    pd.testing.assert_frame_equal(pd.read_parquet(out / "predictions.parquet"), plain)
    notes = " ".join(json.loads((out / "manifest.json").read_text())["notes"])
    assert "80 cells were annotated in the run that made the model" in notes
    in_python = whole.copy()
    jn.load_model(run_folder / "trained_models").predict(in_python)
    assert in_python.obs["jind_prediction"].astype(str).tolist() == plain["predictions"].tolist()


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_trains")
def test_missing_features_are_counted_and_too_many_are_refused(
    run_folder: Path, tmp_path: Path, jind_nb: Command
) -> None:
    new = simulated({"e": {"B": 20, "T": 20, "NK": 20}}, seed=0)
    few = new[:, :40].copy()
    few.write_h5ad(tmp_path / "few.h5ad")
    done = jind_nb("predict", run_folder / "trained_models", tmp_path / "few.h5ad", "--output-path", tmp_path / "out")
    assert done.status == 0, done.err
    assert "The file lacks 20 of the model's 60 features" in " ".join(done.out.split())
    new[:, :20].copy().write_h5ad(tmp_path / "fewer.h5ad")
    done = jind_nb("predict", run_folder / "trained_models", tmp_path / "fewer.h5ad", "--output-path", tmp_path / "no")
    assert done.status == 2
    assert "H5AD: 'fewer' has only 20 of 60 features" in done.err  # the file is wrong, and not the model's folder
    assert "gene020" in done.err
    assert not (tmp_path / "no").exists()


@pytest.mark.slow
def test_alignment_adapts_to_each_new_batch_from_the_saved_codes_alone(
    run_folder: Path, tmp_path: Path, jind_nb: Command
) -> None:
    """No annotated cell is needed for it: the input is gone."""
    new = simulated({name: {"B": 20, "T": 20, "NK": 20} for name in "ef"}, seed=0)
    truth = new.obs["celltype"].to_numpy()
    out = annotate(jind_nb, run_folder, new, tmp_path, "--align", "--batch-col", "batch", "--report")
    table, page = pd.read_parquet(out / "predictions.parquet"), (out / "report.html").read_text()
    assert len(table) == 120
    first, rest = page.split('id="where"')  # how a batch was moved is nothing that a reader could check
    assert "The target was moved by" in rest
    assert "moved by" not in first
    assert "expected error %" in page
    assert "Without <code>--align</code>" not in page
    notes = json.loads((out / "manifest.json").read_text())["notes"]
    assert sum("The target was moved by" in note for note in notes) == 2
    assert set(table["predictions"]) <= {"B", "T", "NK", UNASSIGNED}
    assert (table["raw_predictions"].to_numpy() == truth).mean() > 0.5


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_trains")
@pytest.mark.parametrize("kept", [1.0, 0.2])
def test_it_warns_of_poor_cells_whose_labels_are_wrong_more_often_than_it_expects(
    run_folder: Path, tmp_path: Path, jind_nb: Command, kept: float
) -> None:
    """Of a file that was filtered by nobody the expected error is too low, and predict has no picture of the cells' quality."""
    new = simulated({"e": {"B": 20, "T": 20, "NK": 20}}, seed=0)
    new.X.data[np.random.default_rng(0).random(new.X.nnz) > kept] = 0
    new.X.eliminate_zeros()
    out = annotate(jind_nb, run_folder, new, tmp_path)
    notes = json.loads((out / "manifest.json").read_text())["notes"]
    assert sum("The cells of 'new' are poor" in note for note in notes) == (kept < 1)


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_trains")
def test_earlier_predictions_are_set_aside_and_other_people_s_files_are_left_alone(
    run_folder: Path, tmp_path: Path, jind_nb: Command
) -> None:
    new = simulated({"e": {"B": 5, "T": 5}}, seed=0)
    out = annotate(jind_nb, run_folder, new, tmp_path)
    first = (out / "predictions.parquet").read_bytes()
    annotate(jind_nb, run_folder, new[:5].copy(), tmp_path)
    assert (out / "previous" / "predictions.parquet").read_bytes() == first
    assert len(pd.read_parquet(out / "predictions.parquet")) == 5
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "predictions.parquet").write_text("mine")
    done = jind_nb("predict", run_folder / "trained_models", tmp_path / "new.h5ad", "--output-path", theirs)
    assert done.status == 2
    assert (theirs / "predictions.parquet").read_text() == "mine"


BAD: dict[str, tuple[Callable[[Path, Path], tuple[Path, Path]], str]] = {
    "no model there": (lambda model, new: (new.parent / "none", new), "MODEL_DIR: there is no folder"),
    "the run's folder": (lambda model, new: (model.parent, new), "MODEL_DIR: .* has no model.json"),
    "no file there": (lambda model, new: (model, new.parent / "none.h5ad"), "H5AD: there is no file"),
    "not an h5ad": (lambda model, new: (model, model / "model.json"), "is not an h5ad"),
}


@pytest.mark.slow
@pytest.mark.parametrize("bad", BAD)
def test_a_wrong_argument_is_told_of_under_its_own_name(
    run_folder: Path, tmp_path: Path, jind_nb: Command, bad: str
) -> None:
    import re

    arguments, message = BAD[bad]
    simulated({"e": {"B": 5, "T": 5}}).write_h5ad(tmp_path / "new.h5ad")
    done = jind_nb("predict", *arguments(run_folder / "trained_models", tmp_path / "new.h5ad"))
    assert done.status == 2
    assert re.search(message, done.err)
    assert "Traceback" not in done.err


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_told_of_before_anything_is_read(
    run_folder: Path, tmp_path: Path, jind_nb: Command
) -> None:
    """It would else be found out after minutes, as an error of the program."""
    simulated({"e": {"B": 5, "T": 5}}).write_h5ad(tmp_path / "new.h5ad")
    (tmp_path / "file").touch()
    done = jind_nb(
        "predict", run_folder / "trained_models", tmp_path / "new.h5ad", "--output-path", tmp_path / "file" / "results"
    )
    assert done.status == 2, done.err
    assert "--output-path: " in done.err
    assert "cannot be written" in done.err


@pytest.mark.slow
def test_a_batch_column_that_is_not_there_is_told_of(run_folder: Path, tmp_path: Path, jind_nb: Command) -> None:
    simulated({"e": {"B": 5, "T": 5}}).write_h5ad(tmp_path / "new.h5ad")
    done = jind_nb("predict", run_folder / "trained_models", tmp_path / "new.h5ad", "--batch-col", "donor")
    assert done.status == 2
    assert "--batch-col" in done.err
    assert "celltype" in done.err


@pytest.mark.slow
def test_how_to_read_the_file_can_be_said_and_nothing_else(run_folder: Path, tmp_path: Path, jind_nb: Command) -> None:
    new = simulated({"e": {"B": 10, "T": 10, "NK": 10}}, seed=0)
    straight = pd.read_parquet(annotate(jind_nb, run_folder, new, tmp_path) / "predictions.parquet")
    new.layers["raw counts"], new.X = new.X.copy(), new.X * 0.37
    out = annotate(jind_nb, run_folder, new, tmp_path, "-s", "LAYER=raw counts")
    np.testing.assert_allclose(
        probabilities(pd.read_parquet(out / "predictions.parquet")), probabilities(straight), atol=1e-6
    )
    done = jind_nb("predict", run_folder / "trained_models", tmp_path / "new.h5ad", "-s", "EPOCHS=3")
    assert done.status == 2
    assert "EPOCHS" in done.err


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_trains")
def test_a_saved_model_can_be_kept_to_some_types(run_folder: Path, tmp_path: Path, jind_nb: Command) -> None:
    """A tissue's types, without a model of its own; the rest is counted and not forced into them."""
    adata = ad.read_h5ad(run_folder.parent / "input.h5ad")
    all_types = pd.read_parquet(annotate(jind_nb, run_folder, adata, tmp_path) / "predictions.parquet")
    some = annotate(jind_nb, run_folder, adata, tmp_path, "-s", "TYPES=B, T")
    table = pd.read_parquet(some / "predictions.parquet")
    assert set(table["predictions"]) <= {"B", "T", UNASSIGNED}
    assert (table["reason"][all_types["predictions"] == "NK"] == "not in TYPES").all()
    assert "that TYPES leaves out" in " ".join(json.loads((some / "manifest.json").read_text())["notes"])
    done = jind_nb("predict", run_folder / "trained_models", tmp_path / "new.h5ad", "-s", "TYPES=neuron")
    assert done.status == 2
    assert "TYPES" in done.err


def test_doublets_are_looked_for_in_a_new_file_and_nothing_else_changes(
    run_folder: Path, tmp_path: Path, jind_nb: Command
) -> None:
    """A droplet of two cells in a new sample otherwise passes for a cell of one of their types."""
    new = simulated({"d": {"B": 100, "T": 100, "NK": 80}})
    types, x = new.obs["celltype"].to_numpy(), new.X.toarray()
    b, t = np.flatnonzero(types == "B")[:25], np.flatnonzero(types == "T")[:25]
    x[b] += x[t]
    new.X = sparse.csr_matrix(x)
    new.obs["run"] = np.where(np.arange(new.n_obs) % 2, "one", "two")
    plain = pd.read_parquet(annotate(jind_nb, run_folder, new, tmp_path) / "predictions.parquet")
    asked = ("-s", "DOUBLETS=true")
    out = annotate(jind_nb, run_folder, new, tmp_path, *asked)
    table = pd.read_parquet(out / "predictions.parquet")
    is_pair = np.isin(np.arange(new.n_obs), b)
    assert roc_auc_score(is_pair, table["doublet_score"]) > 0.9
    called = (table["reason"] == "doublet").to_numpy()
    assert called[is_pair].mean() > 0.1 > 10 * called[~is_pair].mean()
    assert (table["predictions"][called] == UNASSIGNED).all()
    pd.testing.assert_frame_equal(table.drop(columns="doublet_score")[~called], plain[~called])
    assert any("DOUBLETS: " in note for note in json.loads((out / "manifest.json").read_text())["notes"])
    assert "jind_doublet_score" in ad.read_h5ad(out / "annotated_target.h5ad").obs
    shuffled = new[np.random.default_rng(1).permutation(new.n_obs)].copy()
    again = pd.read_parquet(annotate(jind_nb, run_folder, shuffled, tmp_path, *asked) / "predictions.parquet")
    pd.testing.assert_frame_equal(again.loc[table.index], table)
    annotate(jind_nb, run_folder, new, tmp_path, *asked, "--batch-col", "run")
    notes = json.loads((out / "manifest.json").read_text())["notes"]
    assert [note.split(":")[0] for note in notes if "called doublets" in note] == ["two", "one"]


def test_many_strange_cells_of_one_batch_bring_a_word_on_batches(
    run_folder: Path, tmp_path: Path, jind_nb: Command
) -> None:
    """A file of several batches that are taken for one loses cells of known types, and nothing said why."""
    adata = ad.read_h5ad(run_folder.parent / "input.h5ad")
    x, random = adata.X.toarray(), np.random.default_rng(0)
    for row in range(0, len(x), 10):
        x[row] = random.permutation(x[row])
    adata.X = sparse.csr_matrix(x)
    adata.obs = adata.obs.rename(columns={"batch": "donor"})  # of the model's own column another note tells

    def notes(*options: str) -> str:
        out = annotate(jind_nb, run_folder, adata, tmp_path, *options)
        return " ".join(json.loads((out / "manifest.json").read_text())["notes"])

    assert "If the file's cells are of several batches, name their column (--batch-col" in notes()
    assert "several batches" not in notes("--batch-col", "donor")


@pytest.mark.slow
@pytest.mark.parametrize(("names", "told"), [("ef", True), ("e", False)])
def test_a_file_with_several_batches_in_the_models_own_column_is_said_to_be_taken_for_one(
    run_folder: Path, tmp_path: Path, jind_nb: Command, names: str, told: bool
) -> None:
    """What is unusual is seen beside cells of the same batch, and nothing else says that there are several."""
    new = simulated({name: {"B": 20, "T": 20, "NK": 20} for name in names}, seed=0)
    out = annotate(jind_nb, run_folder, new, tmp_path)
    words = "The column 'batch' of the file, which had the batches of the annotated cells, has 2 values"
    assert any(words in note for note in json.loads((out / "manifest.json").read_text())["notes"]) == told


@pytest.mark.slow
def test_a_file_that_lies_apart_is_said_to_be_wrong_and_aligned_it_is_believed_again(
    shared_file: Callable[[str], Path],
) -> None:
    """Proteins of another study: 9 % was stated of labels of which 64 % were wrong."""
    adata = ad.read_h5ad(shared_file("blood_adt9_7studies"))
    adata.obs["batch"] = adata.obs["batch"].astype(str)
    new = adata[adata.obs["batch"] == "hao_2020"].copy()
    truth = new.obs["celltype"].astype(str)
    del new.obs["batch"], new.obs["celltype"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = jn.annotate(
            adata, batch_key="batch", labels_key="celltype", target="kotliarov_2020", exclude=["hao_2020"]
        )
    stated, wrong = {}, {}
    for align in (False, True):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            stated[align] = model.predict(new, align=align)
        assert any("lie apart from the annotated cells" in str(one.message) for one in told) == (not align)
        answers = new.obs["jind_prediction"].astype(str)
        assigned = answers != UNASSIGNED
        wrong[align] = float((answers != truth)[assigned].mean())
        low, high = stated[align].range
        assert low <= wrong[align] <= high
    assert wrong[False] > 0.5 > 0.2 > wrong[True]
    assert stated[False].value == pytest.approx(wrong[False], abs=0.2)
