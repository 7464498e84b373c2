"""Several targets in one run: the answers of single runs, a folder for each, and what is for all of them together."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml

import jind_nb as jn
from jind_nb.commands.sweep import summary
from jind_nb.core.parameters import load_parameters
from jind_nb.data.roles import with_targets
from jind_nb.errors import InputError
from jind_nb.runs import previous
from jind_nb.runs.folder import Run
from jind_nb.runs.notebook import open_target
from jind_nb.runs.stages import finish_stage
from tests.conftest import run_command
from tests.helpers.one_process import run_forked
from tests.helpers.simulated import simulated
from tests.helpers.whole import strict_json

pytestmark = pytest.mark.slow

BATCHES = {
    "a": {"B": 40, "T": 40, "NK": 30},
    "b": {"B": 40, "T": 40, "NK": 30},
    "donor 1": {"B": 30, "T": 30, "NK": 20},
    "donor/2": {"B": 5, "T": 40, "NK": 5},
}
TARGETS = ["donor 1", "donor/2"]
FOLDERS = {"donor 1": "donor%201", "donor/2": "donor%2F2"}
ASKED: dict[str, Any] = {"batch_key": "batch", "labels_key": "celltype", "min_cell_type_population": 5, "epochs": 1}
KEYS = ["jind_prediction", "jind_raw_prediction", "jind_confidence", "jind_reason"]


def cells() -> ad.AnnData:
    """Two annotated batches and two without labels."""
    adata = simulated(BATCHES, shift=0.8)
    adata.obs.loc[adata.obs["batch"].isin(TARGETS), "celltype"] = None
    return adata


def of_target(adata: ad.AnnData, target: str) -> pd.DataFrame:
    """Return the answers for one target's cells."""
    return adata.obs.loc[adata.obs["batch"] == target, KEYS].astype(
        {key: str for key in KEYS if key != "jind_confidence"}
    )


@pytest.mark.usefixtures("short_game")
@pytest.mark.parametrize("method", ["default", "reference"])
def test_several_targets_get_the_answers_of_a_call_for_each(method: str) -> None:
    """A sample's cell types must not depend on which other samples happen to be annotated with it.

    In METHOD `reference` all targets choose features and source together; with all features and a named source nothing is left
    to differ.
    """
    together = cells()
    asked = ASKED | {"method": method, "source": "a"}
    model = jn.annotate(together, **asked)
    for target in TARGETS:
        alone = cells()
        single = jn.annotate(alone, **asked, target=target)
        pd.testing.assert_frame_equal(of_target(together, target), of_target(alone, target))
        rows = (alone.obs["batch"] == target).to_numpy()
        np.testing.assert_array_equal(together.obsm["X_jind"][rows], alone.obsm["X_jind"][rows])
        assert isinstance(model.expected_error, dict)
        assert model.expected_error[target] == single.expected_error
    assert together.obs.loc[~together.obs["batch"].isin(TARGETS), KEYS].isna().all(axis=None)
    assert model.classes == ["B", "NK", "T"]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that names no target, and so annotates both batches without labels."""
    folder = tmp_path_factory.mktemp("cohort")
    cells().write_h5ad(folder / "input.h5ad")
    values = {"PATH": "input.h5ad", "BATCH_COL": "batch", "LABELS_COL": "celltype", "MIN_CELL_TYPE_POPULATION": 5}
    (folder / "p.yaml").write_text(yaml.safe_dump(values | {"OUTPUT_PATH": "run", "SOURCE_DATASET_NAME": "a"}))
    done = run_command("run", folder / "p.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"2 samples \(donor 1, donor/2\): \d+ of 130 cells assigned \(\S+ %\); \D+\S+ % of the assigned cells are probably wrong",
        done.stdout,
    )
    return folder / "run"


def test_a_run_gives_each_target_the_files_and_answers_of_its_own(cohort: Path) -> None:
    """Whoever sends a donor's folder on sends what a run for this donor would have given, and no other donor's cells."""
    together = cells()
    jn.annotate(together, **ASKED, source="a")
    for target, name in FOLDERS.items():
        folder = cohort / "targets" / name
        table = pd.read_parquet(folder / "predictions.parquet")
        expected = of_target(together, target)
        assert list(table.index) == list(expected.index)
        assert list(table["predictions"]) == list(expected["jind_prediction"])
        np.testing.assert_array_equal(table["confidence"], expected["jind_confidence"])
        annotated = ad.read_h5ad(folder / "annotated_target.h5ad")
        assert set(annotated.obs["batch"]) == {target}
        assert strict_json(folder / "metrics.json")["target"]["batch"] == target
        there = {file.name for file in folder.iterdir()}
        assert {"predicted_label_test_data.xlsx", "predictions.csv", "target.pth"} <= there
        assert len(list(folder.glob("train[[]a, 1]-test*.pdf"))) == 1


def test_a_run_joins_all_targets_in_its_folder(cohort: Path) -> None:
    """A cohort is analysed as one table and one AnnData, and nothing of a second donor may replace the first one's."""
    joint = pd.read_parquet(cohort / "predictions.parquet")
    assert joint["target"].value_counts().to_dict() == {"donor 1": 80, "donor/2": 50}
    assert list(pd.read_csv(cohort / "predictions.csv")["target"]) == list(joint["target"])
    assert pd.read_excel(cohort / "predicted_label_test_data.xlsx").shape[0] == 130
    adata = ad.read_h5ad(cohort / "annotated_targets.h5ad")
    answers = adata.obs["jind_prediction"].astype(str)
    for target in TARGETS:
        of_table = joint.loc[joint["target"] == target, "predictions"]
        assert list(answers[adata.obs["batch"] == target]) == list(of_table)
    metrics = strict_json(cohort / "metrics.json")
    assert list(metrics["targets"]) == TARGETS
    assert {stage["batch"] for stage in metrics["stages"]} == {"a", "b"}
    assert 0 <= metrics["targets"]["donor 1"]["expected_error"] <= 1
    models = cohort / "trained_models"
    assert (models / "MODEL_CARD.md").exists()
    assert not (models / "target.pth").exists()
    notebooks = {str(file.relative_to(cohort / "notebooks")) for file in (cohort / "notebooks").rglob("*.ipynb")}
    of_each = {f"{name}/{stage}.ipynb" for name in FOLDERS.values() for stage in ("3_align", "4_evaluate")}
    assert notebooks == {"1_preprocess.ipynb", "2_train.ipynb"} | of_each


def test_the_report_compares_the_samples_then_tells_of_each(cohort: Path) -> None:
    """A reader with forty samples first asks which of them is odd."""
    html = (cohort / "report.html").read_text("utf-8")
    first = html[: html.index('id="sample-1"')]
    (heading,) = re.findall("<h1>(.*)</h1>", first)
    assert heading.startswith("2 samples: ")
    assert "of the assigned cells are probably wrong" in heading
    assert "What stands out" in first
    assert "donor/2: " in first
    assert "% of the cells are most like T, " in first
    assert "in the annotated batches" in first
    assert html.count("What each picture shows is explained in the section of") == 1
    assert html.index('id="sample-1"') < html.index('id="sample-2"') < html.index('id="methods"')


def test_samples_beside_a_single_annotated_batch_get_a_report(tmp_path: Path) -> None:
    """`init` proposes all batches without labels; of no sample is it known how many errors to expect."""
    adata = cells()
    adata[(adata.obs["batch"] != "b").to_numpy()].copy().write_h5ad(tmp_path / "input.h5ad")
    values = {"PATH": "input.h5ad", "BATCH_COL": "batch", "LABELS_COL": "celltype", "OUTPUT_PATH": "run"}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(values))
    done = run_forked("run", tmp_path / "p.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    html = (tmp_path / "run" / "report.html").read_text("utf-8")
    (heading,) = re.findall("<h1>(.*)</h1>", html)
    assert re.fullmatch(
        r"2 samples: \d+ of 130 cells assigned \(\S+\s%\); how many of them are wrong is not known\.", heading
    )
    assert "donor/2: " in html[html.index("What stands out") : html.index('id="sample-1"')]


def test_the_same_cohort_again_repeats_nothing(cohort: Path) -> None:
    """A finished cohort is opened again with one word of the command, not with minutes of work."""
    before = {file: file.stat().st_mtime_ns for file in cohort.rglob("*.parquet")}
    done = run_forked("run", cohort.parent / "p.yaml", cwd=cohort.parent, pdf=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("unchanged, reused") == 5
    assert {file: file.stat().st_mtime_ns for file in cohort.rglob("*.parquet")} == before


def test_the_model_of_a_cohort_annotates_new_cells(cohort: Path) -> None:
    """The next donor comes after the cohort is published."""
    new = simulated({"new": {"B": 20, "T": 20, "NK": 20}}, seed=3)
    jn.load_model(cohort / "trained_models").predict(new)
    assert (new.obs["jind_raw_prediction"].astype(str) == new.obs["celltype"]).mean() > 0.8


def test_a_finished_cohort_is_set_aside_whole_and_brought_back_whole(cohort: Path, tmp_path: Path) -> None:
    """Another run in the folder moves days of somebody's results; none of a donor's files may stay behind or be lost."""
    folder = Path(shutil.copytree(cohort, tmp_path / "run"))
    run = Run(with_targets(load_parameters(cohort.parent / "p.yaml", {"OUTPUT_PATH": str(folder)})))
    before = {file.relative_to(folder) for file in folder.rglob("*") if file.is_file()}
    previous.set_aside(run, set())
    there = {file.relative_to(folder / "previous") for file in (folder / "previous").rglob("*") if file.is_file()}
    assert there >= {file for file in before if not file.name.startswith(".")}
    assert not run.targets.exists()
    assert not run.notebooks.exists()
    (folder / "previous").rename(folder / previous.MOVING)  # as a kill in the middle leaves it
    previous.recover(run)
    assert {file.relative_to(folder) for file in folder.rglob("*") if file.is_file()} == before


def test_notebooks_by_hand_take_one_target_after_the_other(cohort: Path, tmp_path: Path) -> None:
    """Whoever opens notebook 3 in JupyterLab annotates every donor by running it again, and can name the one to see."""
    folder = Path(shutil.copytree(cohort, tmp_path / "run"))
    values = {"PATH": str(cohort.parent / "input.h5ad"), "BATCH_COL": "batch", "LABELS_COL": "celltype"}
    values |= {"OUTPUT_PATH": str(folder), "SOURCE_DATASET_NAME": "a", "MIN_CELL_TYPE_POPULATION": 5}
    first, second = Run(with_targets(load_parameters(cohort.parent / "p.yaml", values))).each_target
    for one in (first, second):
        one.stage_parameters_json("3_align").unlink()
    assert open_target(values, "3_align").parameters.target == "donor 1"
    finish_stage(first, "3_align")
    assert open_target(values, "3_align").parameters.target == "donor/2"
    assert open_target(values, "3_align", "donor 1").parameters.target == "donor 1"
    with pytest.raises(InputError, match="'donor 3' is none of the targets"):
        open_target(values, "3_align", "donor 3")


def test_a_sweep_counts_the_cells_of_all_targets_of_a_run(cohort: Path) -> None:
    """A cohort among the runs of a sweep is one row, not a sweep that ends without a table."""
    parameters = with_targets(load_parameters(cohort.parent / "p.yaml", {"OUTPUT_PATH": str(cohort)}))
    row = summary.row_of(summary.SweepFolder(cohort.parent), "all", "all", parameters, summary.FINISHED, "")
    assert row["cells"] == 130
    assert 0.5 < row["assigned"] <= 1
    assert 0 <= row["expected_error"] <= 1
    assert row["accuracy"] is None
