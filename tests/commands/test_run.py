"""Whole runs: what a run's folder holds, on the demo, on real data, and where something goes wrong."""

from __future__ import annotations

import hashlib
import html
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml

from jind_nb.commands import run as commands_run
from jind_nb.core import locks
from jind_nb.core.labels import UNASSIGNED
from jind_nb.core.parameters import load_parameters
from jind_nb.core.resources import shipped
from jind_nb.core.stage_words import STAGES
from jind_nb.data.datasets import bundled_file
from jind_nb.runs.folder import Run
from tests.conftest import Answer, Whole
from tests.helpers.one_process import run_forked
from tests.helpers.simulated import THREE_BATCHES, simulated
from tests.helpers.whole import (
    annotated_without_labels,
    differences,
    predictions_of,
    probabilities_of,
    same_annotated,
    shown_in,
    strict_json,
)

pytestmark = pytest.mark.slow

DEMO_FILES = [
    "predicted_label_test_data.xlsx", "predictions.parquet", "predictions.csv", "annotated_target.h5ad", "metrics.json", "manifest.json",
    "parameters.yaml", "report.html", "report.pdf", "run.log", "train[well 7, 6]-test[well 1].pdf",
    "trained_models/model.json", "trained_models/target.pth", "trained_models/val_stats_trained_model.json",
    *(f"trained_models/well%20{i}.pt" for i in range(2, 9)), *(f"notebooks/{stage}.ipynb" for stage in STAGES),
]  # fmt: skip


def run_of(folder: Path, parameters: dict[str, Any]) -> Path:
    """A whole run in `folder`, with results in its `run`, without a PDF; fails if the run does."""
    (folder / "p.yaml").write_text(yaml.safe_dump({"OUTPUT_PATH": "run"} | parameters), "utf-8")
    done = run_forked("run", folder / "p.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def raw_accuracy(run: Path) -> float:
    """Over all cells of the target, whatever was rejected or could not be known."""
    table = predictions_of(run)
    return float((table["raw_predictions"] == table["labels"]).mean())


def same_saved_model(run: Path, trained: Path) -> None:
    """A run with a saved model passes it on as it is."""
    ours, theirs = (strict_json(folder / "trained_models" / "model.json") for folder in (run, trained))
    assert ours["features"] == theirs["features"]
    assert ours["files"] == theirs["files"]
    source = theirs["files"][theirs["source"]]
    assert (run / "trained_models" / source).read_bytes() == (trained / "trained_models" / source).read_bytes()


# --- the demo ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo_target() -> ad.AnnData:
    """The rows of the demo's input that the run annotates."""
    adata = ad.read_h5ad(bundled_file("scanpy:pbmc68k_reduced"))
    return adata[adata.obs["well"] == "well 1"].copy()


@pytest.mark.parametrize("name", DEMO_FILES)
def test_demo_has_every_promised_file(name: str, demo_run: Path) -> None:
    """The table of a run's folder in docs/output.md is a promise."""
    assert (demo_run / name).stat().st_size > 0


def test_nothing_half_written_is_left(demo_run: Path) -> None:
    """A leftover would be taken for a result, or fill the disk run by run."""
    left = [path for path in demo_run.rglob("*") if path.name.endswith(".part") or ".running" in path.name]
    assert left == []
    assert not (demo_run / "previous").exists()


def test_xlsx_and_parquet_hold_the_same_table(demo_run: Path) -> None:
    """Two files that differ would give two papers."""
    table = predictions_of(demo_run)
    sheet = pd.read_excel(demo_run / "predicted_label_test_data.xlsx", index_col="cellname")
    assert table.index.name == "cellname"
    pd.testing.assert_frame_equal(sheet, table, check_exact=False, rtol=1e-12, check_dtype=False)


def test_every_target_cell_is_there_in_order_under_its_name(demo_run: Path, demo_target: ad.AnnData) -> None:
    """Predictions are joined to the user's data by row or by name; both must hold."""
    table = predictions_of(demo_run)
    assert list(table.index) == list(demo_target.obs_names)
    assert list(table["labels"]) == list(demo_target.obs["bulk_labels"].astype(str))


def test_predictions_follow_from_the_probabilities(demo_run: Path) -> None:
    """The table must be consistent in itself, whoever reads only one of its columns."""
    table = predictions_of(demo_run)
    probabilities = probabilities_of(table)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (probabilities.to_numpy() >= 0).all()
    assert list(probabilities.idxmax(axis=1)) == list(table["raw_predictions"])
    rejected = table["predictions"] == UNASSIGNED
    assert rejected.any()
    assert not rejected.all()
    assert (table["predictions"] == table["raw_predictions"])[~rejected].all()


def test_annotated_target_is_the_input_and_the_answer(demo_run: Path, demo_target: ad.AnnData) -> None:
    """The file a user goes on with in scanpy must not have lost or changed anything of theirs."""
    annotated = ad.read_h5ad(demo_run / "annotated_target.h5ad")
    same_annotated(annotated, demo_target)
    table = predictions_of(demo_run)
    assert list(annotated.obs["jind_prediction"]) == list(table["predictions"])
    assert list(annotated.obs["jind_raw_prediction"]) == list(table["raw_predictions"])
    strange = (table["reason"] == "unlike reference").to_numpy()  # perhaps of no type that is annotated
    right = probabilities_of(table).max(axis=1) * np.where(strange, 0.5, 1)
    np.testing.assert_allclose(annotated.obs["jind_confidence"], right, atol=1e-6)
    confident = annotated.obs["jind_reason"] == "confident"
    assert list(confident) == list(annotated.obs["jind_prediction"] != UNASSIGNED)


def test_metrics_are_strict_json_and_agree_with_the_predictions(demo_run: Path) -> None:
    """Numbers quoted from metrics.json must be those one computes from the table."""
    target = strict_json(demo_run / "metrics.json")["target"]
    table = predictions_of(demo_run)
    kept, right = table["predictions"] != UNASSIGNED, table["raw_predictions"] == table["labels"]
    assert (target["cells"], target["annotated"], target["rejected"]) == (len(table), kept.sum(), (~kept).sum())
    labelled = target["labelled"]
    assert labelled["cells"] == len(table)
    assert labelled["raw_accuracy"] == pytest.approx(right.mean())
    assert labelled["effective_accuracy"] == pytest.approx(right[kept].mean())
    assert labelled["misclassified"] == (kept & ~right).sum()
    could_be_known = table["labels"].isin(list(probabilities_of(table)))
    assert target["labelled_known_types"]["cells"] == could_be_known.sum() == len(table)


def test_metrics_tell_every_stage_of_every_batch(demo_run: Path) -> None:
    """The history is what shows where a run went wrong."""
    found: dict[str, list[str]] = {}
    for stage in strict_json(demo_run / "metrics.json")["stages"]:
        stages = found.setdefault(stage["batch"], [])
        stages += [stage["stage"]] if stage["stage"] not in stages else []
        assert sum(row["cells"] for row in stage["per_class"].values()) == stage["cells"]
    assert found["well 7"] == ["initial", "finetuned", "retrain"] or found["well 7"] == ["initial", "retrain"]
    for well in ("2", "3", "4", "5", "6", "8"):
        assert [s for s in found[f"well {well}"] if s != "retrain"] == ["initial", "adapt", "finetuned"]
    alignment = strict_json(demo_run / "trained_models" / "model.json")["alignment"]
    assert found["well 1"] == ["before alignment", "after alignment"]
    assert alignment["why"] in " ".join((demo_run / "report.html").read_text("utf-8").split())


def test_parameters_of_a_run_work_again_from_anywhere(
    demo_run: Path, jind_nb: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is repeated from its parameters.yaml, also months later in another folder."""
    values = yaml.safe_load((demo_run / "parameters.yaml").read_text())
    assert values["OUTPUT_PATH"] == str(demo_run)
    assert Path(values["OUTPUT_PATH"]).is_absolute()
    assert values["EPOCHS"] == 2
    monkeypatch.chdir(tmp_path)
    answer = jind_nb("validate", demo_run / "parameters.yaml", "--output-path", tmp_path / "elsewhere")
    assert answer.status == 0, answer.err
    assert "10 cell types can be predicted" in answer.out


def test_manifest_says_what_made_the_run(demo_run: Path) -> None:
    """Without versions, seed and input hash nobody can tell why two runs differ."""
    manifest = strict_json(demo_run / "manifest.json")
    assert {"python", "jind-nb", "torch", "numpy", "anndata"} <= set(manifest["versions"])
    assert manifest["seed"] == 0
    (given,) = manifest["input"]
    assert given["sha256"] == hashlib.sha256(Path(given["path"]).read_bytes()).hexdigest()
    for measured in ("seconds", "peak_memory_bytes"):
        assert list(manifest[measured]) == [*STAGES, "report"]
        assert min(manifest[measured].values()) > 0
    assert manifest["report_pdf"] == "written"
    assert manifest["reused"] == []


def test_run_ends_with_one_line_and_where_things_are(demo_run: Path) -> None:
    """The last lines of the terminal are all that many users read."""
    sentence, report, pdf, predictions = [
        line for line in (demo_run.parent / "stdout.txt").read_text().splitlines() if line.strip()
    ]
    kept = (predictions_of(demo_run)["predictions"] != UNASSIGNED).sum()
    assert sentence.startswith(f"well 1: {kept} of 95 cells assigned, {95 - kept} left Unassigned")
    assert report.split() == ["report:", str(demo_run / "report.html")]
    assert pdf.split() == [str(demo_run / "report.pdf")]
    assert predictions.split() == ["predictions:", str(demo_run / "predicted_label_test_data.xlsx")]


# --- real data --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def symphony(shared_file: Callable[[str], Path]) -> dict[str, Any]:
    return {
        "PATH": str(shared_file("pbmc_10x_symphony")), "BATCH_COL": "batch", "LABELS_COL": "celltype",
        "MIN_CELL_TYPE_POPULATION": 5, "METHOD": "reference", "EPOCHS": 6, "NUM_FEATURES": 500,
    }  # fmt: skip


@pytest.fixture(scope="module")
def trained_run(symphony: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run with METHOD `reference`, few epochs: 3pv1 annotated from 3pv2 (source) and 5p."""
    roles = {"SOURCE_DATASET_NAME": "3pv2", "INTER_DATASETS_NAMES": ["5p"], "TARGET_DATASET_NAME": "3pv1"}
    return run_of(tmp_path_factory.mktemp("symphony"), symphony | roles)


def test_real_cells_are_all_annotated_and_mostly_right(trained_run: Path) -> None:
    """A loose floor, no benchmark: below it something is broken, not merely worse."""
    assert len(predictions_of(trained_run)) == 290
    assert raw_accuracy(trained_run) >= 0.80


def test_saved_model_annotates_another_batch_without_training(
    symphony: dict[str, Any], trained_run: Path, tmp_path: Path
) -> None:
    """The published program gave 18 % here, since it stored no gene list."""
    model = {"PRETRAINED_MODEL_PATH": str(trained_run / "trained_models"), "TARGET_DATASET_NAME": "5p"}
    run = run_of(tmp_path, symphony | model | {"ALIGN": True})
    assert sorted(path.stem for path in (run / "notebooks").iterdir()) == ["1_preprocess", "3_align", "4_evaluate"]
    assert len(predictions_of(run)) == 430
    assert raw_accuracy(run) >= 0.80
    stages = {stage["stage"]: stage for stage in strict_json(run / "metrics.json")["stages"] if stage["batch"] == "5p"}
    assert stages["before alignment"]["cells"] == 430  # what the run gives if ALIGN is not set
    assert stages["before alignment"]["raw_accuracy"] >= 0.80
    assert strict_json(run / "trained_models" / "model.json")["target"]["has_adapter"] is True
    same_saved_model(run, trained_run)


# --- targets without labels -------------------------------------------------------------------------------------------


def test_target_from_a_file_of_its_own_without_labels_is_annotated(tmp_path: Path) -> None:
    """The case the program is for; the published one stops with an error there."""
    adata = simulated(THREE_BATCHES)
    is_query = (adata.obs["batch"] == "c").to_numpy()
    adata[~is_query].copy().write_h5ad(tmp_path / "reference.h5ad")
    query = adata[is_query].copy()[:, adata.var_names[::-1]].copy()
    del query.obs["celltype"], query.obs["batch"]
    query.write_h5ad(tmp_path / "query.h5ad")
    files = {"PATH": ["reference.h5ad", "query.h5ad"], "TARGET_DATASET_NAME": "query"}
    columns = {"BATCH_COL": "batch", "LABELS_COL": "celltype", "MIN_CELL_TYPE_POPULATION": 5}
    annotated_without_labels(run_of(tmp_path, files | columns))


# --- the same again ---------------------------------------------------------------------------------------------------


def test_a_run_without_kernels_leaves_what_one_with_kernels_leaves(whole: Whole, tmp_path: Path) -> None:
    """What other tests see in a folder of `run_forked` would be nothing that a user gets."""
    done = run_forked("run", whole.parameters, "--output-path", tmp_path / "run", cwd=tmp_path, pdf=True)
    assert done.returncode == 0, done.stderr
    assert differences(tmp_path / "run", whole.run) == []
    for stage in STAGES:
        ours, theirs = (shown_in(folder / "notebooks" / f"{stage}.ipynb") for folder in (tmp_path / "run", whole.run))
        assert ours == theirs, stage


def test_second_run_moves_the_first_aside_and_mixes_nothing(whole: Whole, tmp_path: Path) -> None:
    """A folder with one run's model and another's predictions is worse than none.

    The second run here has another target, no training, and so fewer files than the first.
    """
    run = Path(shutil.copytree(whole.run, tmp_path / "run"))
    earlier = sorted(path.name for path in run.iterdir() if path.name != "work")
    stamp = (run / "predictions.parquet").read_bytes()
    values = yaml.safe_load((run / "parameters.yaml").read_text())
    changed = {
        "PRETRAINED_MODEL_PATH": str(whole.run / "trained_models"),
        "TARGET_DATASET_NAME": "a",
        "OUTPUT_PATH": str(run),
    }
    assert run_of(run.parent, values | changed) == run
    assert sorted(path.name for path in (run / "previous").iterdir() if path.name != "work") == earlier
    assert (run / "previous" / "predictions.parquet").read_bytes() == stamp
    assert (run / "previous" / "notebooks" / "2_train.ipynb").exists()
    assert sorted(path.stem for path in (run / "notebooks").iterdir()) == ["1_preprocess", "3_align", "4_evaluate"]
    assert [path.name for path in run.glob("train*.pdf")] != [
        path.name for path in (run / "previous").glob("train*.pdf")
    ]
    assert len(list(run.glob("train*.pdf"))) == 1
    assert not (run / "work" / "training.json").exists()
    assert len(predictions_of(run)) == 110
    assert strict_json(run / "trained_models" / "model.json")["target"]["has_adapter"] is False  # ALIGN is not set
    same_saved_model(run, whole.run)
    assert "Errors to expect in a new batch" in (run / "report.html").read_text("utf-8")


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_program_error_keeps_the_notebook_and_says_where(write_parameters: Callable[..., Path], tmp_path: Path) -> None:
    """Without the executed notebook nobody can find out what happened."""
    for stage in STAGES:
        template = nbformat.read(shipped("notebooks") / f"{stage}.ipynb", as_version=4)
        template.cells.insert(3, nbformat.v4.new_code_cell("raise ZeroDivisionError('broken on purpose')"))
        nbformat.write(template, tmp_path / f"{stage}.ipynb")
    # Not in this process: what nbclient leaves open after an error would be blamed on the tests that follow.
    script = "import sys, pathlib; from jind_nb import cli; from jind_nb.commands import kernels; kernels.shipped = lambda _: pathlib.Path.cwd(); cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "run", write_parameters()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    kept = tmp_path / "results" / "notebooks" / "1_preprocess.ipynb"
    assert done.returncode == 1
    assert str(kept) in done.stderr
    assert "ZeroDivisionError: broken on purpose" in done.stderr
    assert "Traceback" not in done.stderr
    outputs = [o for cell in nbformat.read(kept, as_version=4).cells for o in cell.get("outputs", [])]
    assert [o.ename for o in outputs if o.output_type == "error"] == ["ZeroDivisionError"]
    assert [path.name for path in kept.parent.iterdir()] == ["1_preprocess.ipynb"]
    page = (tmp_path / "results" / "report.html").read_text("utf-8")
    assert "<title>FAILED" in page
    assert "This run failed: there are no results for c" in page
    assert "ZeroDivisionError: broken on purpose" in html.unescape(page)
    assert 'href="notebooks/1_preprocess.ipynb"' in page
    assert not (tmp_path / "results" / "manifest.json").exists()


def test_failed_run_says_so_again_and_is_gone_after_a_good_one(
    write_parameters: Callable[..., Path], jind_nb: Callable[..., Answer], tmp_path: Path
) -> None:
    """Its page must never pass for results, and never outlive them."""
    this = Run(load_parameters(write_parameters(), {"OUTPUT_PATH": str(tmp_path / "run")}))
    with locks.held(this.folder) as hold:
        work = commands_run.ActiveRun(this, hold, force=False)
        work.write_failure_page(RuntimeError("before the first stage"))
        assert not this.work.exists()  # an earlier run's results may still be here
        work.clear_folder()
        this.parameters_yaml.write_text(yaml.safe_dump(this.parameters.model_dump()), "utf-8")
        work.current_stage = "2_train"
        half = this.folder / ".predictions.csv.1.part"  # of a kernel that was killed
        half.touch()
        work.write_failure_page(RuntimeError("<b>no</b> memory"))
        assert not half.exists()
        assert "&lt;b&gt;no&lt;/b&gt; memory" in this.report_html.read_text("utf-8")
    this.report_html.unlink()
    done = jind_nb("report", this.folder)
    assert done.status == 0
    assert "the run failed" in done.err
    assert "FAILED" in this.report_html.read_text("utf-8")
    moved = Path(shutil.copytree(this.folder, tmp_path / "it's moved"))
    assert jind_nb("report", moved).status == 0
    told = re.search("<code>(jind-nb run .*)</code>", html.unescape((moved / "report.html").read_text("utf-8")))
    assert told, "how to go on"
    # Without it the results would go to the folder that the run was moved from.
    assert shlex.split(told[1])[2:] == [str(moved / "parameters.yaml"), "--output-path", str(moved)]
    with locks.held(this.folder) as hold:
        folder_now = commands_run.ActiveRun(this, hold, force=False)
        assert folder_now.to_do == [*STAGES, "report"]
        folder_now.clear_folder()
    assert not this.report_html.exists()
    assert not this.failure_json.exists()
    assert not (this.folder / "previous").exists()


def test_a_run_that_was_made_before_its_groups_were_kept_is_reported_again(
    demo_run: Path, tmp_path: Path, jind_nb: Callable[..., Answer]
) -> None:
    """Reports are rendered again after an update; metrics.json of then has no groups of cells unlike the reference."""
    folder = Path(shutil.copytree(demo_run, tmp_path / "older"))
    metrics = strict_json(folder / "metrics.json")
    del metrics["target"]["unlike_groups"]
    (folder / "metrics.json").write_text(json.dumps(metrics), "utf-8")
    assert jind_nb("report", folder).status == 0


def test_wrong_values_found_by_the_first_notebook_are_the_users_input(
    write_parameters: Callable[..., Path], tmp_path: Path
) -> None:
    """A NaN in the data is no failure of the program: one message, no traceback, exit status 2."""
    adata = simulated(THREE_BATCHES)
    adata.X.data[5] = np.nan
    done = run_forked("run", write_parameters(adata), cwd=tmp_path)
    assert done.returncode == 2
    assert "NaN" in done.stderr
    assert "cell0" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert not (tmp_path / "results" / "predictions.parquet").exists()
    assert "Something in the input or the parameters is wrong" in (tmp_path / "results" / "report.html").read_text()


# --- target error -----------------------------------------------------------------------------------------------------


def test_where_no_threshold_keeps_the_target_error_every_cell_is_unassigned_and_the_report_says_so(
    tmp_path: Path,
) -> None:
    """Annotated batches that contradict each other: a tool that names cells all the same cannot be trusted."""
    adata = simulated(THREE_BATCHES)
    wrong = adata.obs["celltype"].map({"B": "T", "T": "NK", "NK": "B"})  # what `a` teaches is wrong in `b`
    adata.obs["celltype"] = adata.obs["celltype"].mask(adata.obs["batch"] == "b", wrong)
    adata.write_h5ad(tmp_path / "input.h5ad")
    columns = {"BATCH_COL": "batch", "LABELS_COL": "celltype", "MIN_CELL_TYPE_POPULATION": 5}
    run = run_of(tmp_path, columns | {"PATH": "input.h5ad", "TARGET_DATASET_NAME": "c", "TARGET_ERROR": 0.05})
    assert set(predictions_of(run)["predictions"]) == {UNASSIGNED}
    assert "confident" not in set(predictions_of(run)["reason"])
    assert "no confidence keeps them below 5.0 %" in (run / "report.html").read_text("utf-8")
    metrics = strict_json(run / "metrics.json")
    assert metrics["target"]["annotated"] == 0
    assert metrics["new_batch"]["is_guarantee"] is False
