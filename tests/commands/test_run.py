"""Whole runs: what a run's folder holds, on the demo, on real data, on odd names, and where something goes wrong."""

from __future__ import annotations

import hashlib
import html
import json
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import anndata as ad
import nbformat
import numpy as np
import openpyxl
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
from tests.conftest import Answer, run_command
from tests.helpers.simulated import THREE_BATCHES, simulated

pytestmark = pytest.mark.slow

DEMO_FILES = [
    "predicted_label_test_data.xlsx", "predictions.parquet", "annotated_target.h5ad", "metrics.json", "manifest.json",
    "parameters.yaml", "report.html", "report.pdf", "run.log", "train[well 7, 6]-test[well 1].pdf",
    "trained_models/model.json", "trained_models/target.pth", "trained_models/val_stats_trained_model.json",
    *(f"trained_models/well%20{i}.pt" for i in range(2, 9)), *(f"notebooks/{stage}.ipynb" for stage in STAGES),
]  # fmt: skip


def run_of(folder: Path, parameters: dict[str, Any], **environment: str) -> Path:
    """A whole run in a process of its own, in `folder`, with results in its `run`; fails if the run does."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "p.yaml").write_text(yaml.safe_dump({"OUTPUT_PATH": "run"} | parameters, allow_unicode=True), "utf-8")
    done = run_command("run", folder / "p.yaml", cwd=folder, **environment)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def predictions_of(run: Path) -> pd.DataFrame:
    return pd.read_parquet(run / "predictions.parquet")


def probabilities_of(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns=["raw_predictions", "predictions", "reason", "labels"], errors="ignore")


def raw_accuracy(run: Path) -> float:
    """Over all cells of the target, whatever was rejected or could not be known."""
    table = predictions_of(run)
    return float((table["raw_predictions"] == table["labels"]).mean())


def strict_json(file: Path) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in {file}")

    return json.loads(file.read_text("utf-8"), parse_constant=refuse)


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


def same_annotated(annotated: ad.AnnData, given: ad.AnnData) -> None:
    """Everything of the input is as it was, plus what jind-nb adds and nothing else."""
    added = ["jind_prediction", "jind_raw_prediction", "jind_confidence", "jind_reason"]
    pd.testing.assert_frame_equal(annotated.obs[given.obs.columns].astype(str), given.obs.astype(str))
    assert list(annotated.obs.columns) == [*given.obs.columns, *added]
    pd.testing.assert_frame_equal(annotated.var, given.var)
    assert (annotated.X != given.X).sum() == 0
    assert annotated.X.dtype == given.X.dtype
    assert set(annotated.layers) == set(given.layers)
    assert all((annotated.layers[name] != given.layers[name]).sum() == 0 for name in given.layers)
    assert set(annotated.obsm) == {*given.obsm, "X_jind"}
    for name in given.obsm:
        np.testing.assert_array_equal(annotated.obsm[name], given.obsm[name])
    assert (annotated.raw is None) == (given.raw is None)
    if given.raw is not None:
        assert list(annotated.raw.var_names) == list(given.raw.var_names)
        assert (annotated.raw.X != given.raw.X).sum() == 0
    assert annotated.obsm["X_jind"].shape == (given.n_obs, 100)
    assert np.isfinite(annotated.obsm["X_jind"]).all()


def test_annotated_target_is_the_input_and_the_answer(demo_run: Path, demo_target: ad.AnnData) -> None:
    """The file a user goes on with in scanpy must not have lost or changed anything of theirs."""
    annotated = ad.read_h5ad(demo_run / "annotated_target.h5ad")
    same_annotated(annotated, demo_target)
    table = predictions_of(demo_run)
    assert list(annotated.obs["jind_prediction"]) == list(table["predictions"])
    assert list(annotated.obs["jind_raw_prediction"]) == list(table["raw_predictions"])
    np.testing.assert_allclose(annotated.obs["jind_confidence"], probabilities_of(table).max(axis=1), atol=1e-6)
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
    assert target["labelled_known_types"]["cells"] == could_be_known.sum() < len(table)


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
    aligned = ["after alignment"] if alignment["way"] == "aligned" else []
    assert found["well 1"] == ["before alignment", *aligned]
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
    assert "8 cell types can be predicted" in answer.out


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
    assert sentence.startswith(f"well 1: {kept} of 95 cells annotated, {95 - kept} left Unassigned")
    assert report.split() == ["report:", str(demo_run / "report.html")]
    assert pdf.split() == [str(demo_run / "report.pdf")]
    assert predictions.split() == ["predictions:", str(demo_run / "predicted_label_test_data.xlsx")]


# --- real data --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def symphony(shared_file: Callable[[str], Path]) -> dict[str, Any]:
    return {
        "PATH": str(shared_file("pbmc_10x_symphony")), "BATCH_COL": "batch", "LABELS_COL": "celltype",
        "MIN_CELL_TYPE_POPULATION": 5, "METHOD": "reference",
    }  # fmt: skip


@pytest.fixture(scope="module")
def trained_run(symphony: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run with all epochs: 3pv1 annotated from 3pv2 (source) and 5p."""
    roles = {"SOURCE_DATASET_NAME": "3pv2", "INTER_DATASETS_NAMES": ["5p"], "TARGET_DATASET_NAME": "3pv1"}
    return run_of(tmp_path_factory.mktemp("symphony"), symphony | roles)


def test_real_cells_are_all_annotated_and_mostly_right(trained_run: Path) -> None:
    """A loose floor, no benchmark: below it something is broken, not merely worse."""
    assert len(predictions_of(trained_run)) == 290
    assert raw_accuracy(trained_run) >= 0.80


@pytest.mark.parametrize("align", [None, True])
def test_saved_model_annotates_another_batch_without_training(
    align: bool | None, symphony: dict[str, Any], trained_run: Path, tmp_path: Path
) -> None:
    """The published program gave 18 % here, since it stored no gene list."""
    model = {"PRETRAINED_MODEL_PATH": str(trained_run / "trained_models"), "TARGET_DATASET_NAME": "5p"}
    run = run_of(tmp_path, symphony | model | {"ALIGN": align, "EPOCHS": 2})
    assert sorted(path.stem for path in (run / "notebooks").iterdir()) == ["1_preprocess", "3_align", "4_evaluate"]
    assert len(predictions_of(run)) == 430
    assert raw_accuracy(run) >= 0.80
    description = strict_json(run / "trained_models" / "model.json")
    assert description["target"]["has_adapter"] is bool(align)
    before = strict_json(trained_run / "trained_models" / "model.json")
    assert description["features"] == before["features"]
    assert description["files"] == before["files"]
    assert (run / "trained_models" / "3pv2.pt").read_bytes() == (
        trained_run / "trained_models" / "3pv2.pt"
    ).read_bytes()


# --- targets without labels -------------------------------------------------------------------------------------------


def all_missing(folder: Path) -> dict[str, Any]:
    adata = simulated(THREE_BATCHES)
    adata.obs.loc[adata.obs["batch"] == "c", "celltype"] = np.nan
    adata.write_h5ad(folder / "input.h5ad")
    return {"PATH": "input.h5ad", "TARGET_DATASET_NAME": "c"}


def no_columns(folder: Path) -> dict[str, Any]:
    adata = simulated(THREE_BATCHES)
    is_query = (adata.obs["batch"] == "c").to_numpy()
    adata[~is_query].copy().write_h5ad(folder / "reference.h5ad")
    query = adata[is_query].copy()[:, adata.var_names[::-1]].copy()
    del query.obs["celltype"], query.obs["batch"]
    query.write_h5ad(folder / "query.h5ad")
    return {"PATH": ["reference.h5ad", "query.h5ad"], "TARGET_DATASET_NAME": "query"}


@pytest.mark.parametrize("write", [all_missing, no_columns])
def test_target_without_labels_is_annotated(write: Callable[[Path], dict[str, Any]], tmp_path: Path) -> None:
    """The case the program is for; the published one stops with an error there."""
    columns = {"BATCH_COL": "batch", "LABELS_COL": "celltype", "MIN_CELL_TYPE_POPULATION": 5, "EPOCHS": 10}
    run = run_of(tmp_path, columns | write(tmp_path))
    table, true = predictions_of(run), simulated(THREE_BATCHES).obs.query("batch == 'c'")
    assert list(table.index) == list(true.index)
    assert "labels" not in table
    assert (table["raw_predictions"] == true["celltype"]).mean() > 0.9
    assert strict_json(run / "metrics.json")["target"]["labelled"] is None
    report = (run / "report.html").read_text("utf-8")
    assert "The target has no labels for a check" in report
    assert "Check on the target" not in report


# --- the same again ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs of the same parameters in processes with different hash seeds."""
    folder = tmp_path_factory.mktemp("twice")
    simulated(THREE_BATCHES).write_h5ad(folder / "input.h5ad")
    parameters = {
        "PATH": str(folder / "input.h5ad"), "BATCH_COL": "batch", "LABELS_COL": "celltype", "EPOCHS": 2,
        "TARGET_DATASET_NAME": "c", "MIN_CELL_TYPE_POPULATION": 5, "SEED": 7,
    }  # fmt: skip
    one, two = (run_of(folder / seed, parameters, PYTHONHASHSEED=seed) for seed in ("1", "2"))
    return one, two


def test_same_seed_gives_the_same_predictions_bit_for_bit(twice: tuple[Path, Path]) -> None:
    """A result that changes between two identical runs cannot be published."""
    one, two = map(predictions_of, twice)
    assert one["raw_predictions"].nunique() > 1
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    first, second = (ad.read_h5ad(run / "annotated_target.h5ad").obsm["X_jind"] for run in twice)
    np.testing.assert_array_equal(first, second)
    assert strict_json(twice[0] / "metrics.json") == strict_json(twice[1] / "metrics.json")


def test_second_run_moves_the_first_aside_and_mixes_nothing(twice: tuple[Path, Path]) -> None:
    """A folder with one run's model and another's predictions is worse than none.

    The second run here has other batches, no training, and so fewer files than the first.
    """
    run, other = twice
    earlier = sorted(path.name for path in run.iterdir() if path.name != "work")
    stamp = (run / "predictions.parquet").read_bytes()
    values = yaml.safe_load((run / "parameters.yaml").read_text())
    changed = {
        "PRETRAINED_MODEL_PATH": str(other / "trained_models"),
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
        work.write_failure_page(RuntimeError("<b>no</b> memory"))
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


def test_wrong_values_found_by_the_first_notebook_are_the_users_input(
    write_parameters: Callable[..., Path], tmp_path: Path
) -> None:
    """A NaN in the data is no failure of the program: one message, no traceback, exit status 2."""
    adata = simulated(THREE_BATCHES)
    adata.X.data[5] = np.nan
    done: subprocess.CompletedProcess[str] = run_command("run", write_parameters(adata), cwd=tmp_path)
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
    columns = {"BATCH_COL": "batch", "LABELS_COL": "celltype", "MIN_CELL_TYPE_POPULATION": 5, "EPOCHS": 2}
    run = run_of(tmp_path, columns | {"PATH": "input.h5ad", "TARGET_DATASET_NAME": "c", "TARGET_ERROR": 0.05})
    assert set(predictions_of(run)["predictions"]) == {UNASSIGNED}
    assert "confident" not in set(predictions_of(run)["reason"])
    assert "no confidence keeps them below 5.0 %" in (run / "report.html").read_text("utf-8")
    metrics = strict_json(run / "metrics.json")
    assert metrics["target"]["annotated"] == 0
    assert metrics["new_batch"]["is_guarantee"] is False


# --- odd names --------------------------------------------------------------------------------------------------------

TYPES = ["=cmd()", "<b>B</b>", "T/NK 'x' \"y\" 🧬"]
BATCHES = ["../a/b", '"><img src=x>', "$1$ {x} \\n", ".."]
ODD_CELLS = {0: "=1+1", 1: "../x", 2: "<i>cell</i>", 3: "🧬 cell"}


@pytest.fixture(scope="module")
def odd_input(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Names that are paths, formulas, tags, mathematics and code; with layers, raw and obsm beside X."""
    adata = simulated({batch: dict.fromkeys(TYPES, 25) for batch in BATCHES})
    names = list(adata.obs_names)
    for i, row in enumerate(np.flatnonzero(adata.obs["batch"] == "..")[: len(ODD_CELLS)]):
        names[row] = ODD_CELLS[i]
    adata.obs_names = names
    adata.layers["doubled"] = adata.X * 2
    adata.obsm["X_mine"] = np.arange(2.0 * adata.n_obs).reshape(-1, 2)
    adata.raw = adata.copy()
    adata = adata[:, 5:].copy()
    file = tmp_path_factory.mktemp("odd") / "input.h5ad"
    adata.write_h5ad(file)
    return file


@pytest.fixture(scope="module")
def odd_run(odd_input: Path) -> Path:
    parameters = {
        "PATH": "input.h5ad", "BATCH_COL": "batch", "LABELS_COL": "celltype", "TARGET_DATASET_NAME": "..",
        "SOURCE_DATASET_NAME": BATCHES[0], "MIN_CELL_TYPE_POPULATION": 5, "EPOCHS": 2, "OUTPUT_PATH": "all/run",
    }  # fmt: skip
    run_of(odd_input.parent, parameters)
    return odd_input.parent / "all" / "run"


def test_odd_names_survive_in_the_predictions(odd_run: Path, odd_input: Path) -> None:
    """Names belong to the user, and none may be changed, cut or executed."""
    table = predictions_of(odd_run)
    assert list(table.index[:4]) == list(ODD_CELLS.values())
    assert set(probabilities_of(table)) == set(TYPES)
    assert set(table["labels"]) == set(TYPES)
    given = ad.read_h5ad(odd_input)
    same_annotated(ad.read_h5ad(odd_run / "annotated_target.h5ad"), given[given.obs["batch"] == ".."].copy())


def test_odd_names_are_text_in_the_workbook(odd_run: Path) -> None:
    """Opened in Excel, a cell type called =cmd() must not run."""
    file = odd_run / "predicted_label_test_data.xlsx"
    sheet = openpyxl.load_workbook(file).active
    assert sheet is not None
    kinds = {cell.data_type for row in sheet.iter_rows() for cell in row if cell.value is not None}
    assert kinds == {"s", "n"}
    assert "=cmd()" in [cell.value for cell in sheet[1]]
    with zipfile.ZipFile(file) as parts:
        assert not any(b"<f>" in parts.read(name) for name in parts.namelist() if "sheet" in name)


def test_odd_names_stay_inside_the_runs_folder(odd_run: Path) -> None:
    """A batch called ../a/b must not write beside the results."""
    assert [path.name for path in odd_run.parent.iterdir()] == ["run"]
    assert {path.name for path in odd_run.parent.parent.iterdir()} == {"input.h5ad", "p.yaml", "all"}
    models = strict_json(odd_run / "trained_models" / "model.json")["files"]
    assert set(models) == set(BATCHES[:3])
    assert all((odd_run / "trained_models" / name).is_file() for name in models.values())
    assert len(list(odd_run.glob("train*.pdf"))) == 1


class Tags(HTMLParser):
    """The tags and image sources of a page, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [value or "" for name, value in attrs if name == "src"]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_odd_names_are_text_in_the_report(odd_run: Path) -> None:
    """A name with a tag must be read, not rendered; a report is mailed around and opened anywhere."""
    page = Tags()
    page.feed((odd_run / "report.html").read_text("utf-8"))
    assert not page.tags & {"b", "i"}
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    for name in [*TYPES, *BATCHES]:
        assert name in page.text, name
