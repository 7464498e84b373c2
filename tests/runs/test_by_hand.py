"""Notebooks run by hand: what an earlier one left is used only where it fits, and a finished run is never mixed up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from jind_nb.core.files import read_json, write_json
from jind_nb.core.parameters import make_parameters
from jind_nb.errors import InputError
from jind_nb.runs.folder import Run
from tests.helpers.simulated import THREE_BATCHES, simulated
from tests.helpers.stages import align, evaluate, preprocess, train


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    """The variables of a parameters cell."""
    simulated(THREE_BATCHES).write_h5ad(tmp_path / "input.h5ad")
    return {
        "PATH": str(tmp_path / "input.h5ad"), "BATCH_COL": "batch", "LABELS_COL": "celltype", "TARGET_DATASET_NAME": "c",
        "SOURCE_DATASET_NAME": "a", "MIN_CELL_TYPE_POPULATION": 5, "OUTPUT_PATH": str(tmp_path / "run"),
    }  # fmt: skip


def test_a_notebook_too_early_names_the_one_to_run_first(values: dict[str, Any]) -> None:
    """Else the third notebook opened first speaks of a folder or a parameter that its reader never set."""
    for notebook in (train, align):
        with pytest.raises(InputError, match=r"run notebooks/1_preprocess\.ipynb first"):
            notebook(values)
    preprocess(values)
    with pytest.raises(InputError, match=r"run notebooks/2_train\.ipynb first"):
        align(values)
    train(values)
    with pytest.raises(InputError, match=r"run notebooks/3_align\.ipynb first"):
        evaluate(values)


@pytest.mark.slow
def test_a_parameter_changed_half_way_is_not_half_obeyed(values: dict[str, Any]) -> None:
    """A value changed in one notebook alone would be shown there, and the predictions be those of the old one."""
    preprocess(values)
    with pytest.raises(InputError, match="NUM_FEATURES was 5000, here it is 30") as told:
        train(values | {"NUM_FEATURES": 30})
    assert "notebooks/1_preprocess.ipynb" in str(told.value)
    train(values)
    align(values | {"ALIGN": True})  # matters to this notebook first
    with pytest.raises(InputError, match=r"3_align.*ALIGN was True, here it is None"):
        evaluate(values)
    with pytest.raises(InputError, match=r"2_train.*REJECTION was 0.05, here it is 0.2"):
        align(values | {"REJECTION": 0.2})
    preprocess(values | {"SEED": 1})  # what was learned before is of another seed now
    with pytest.raises(InputError, match=r"2_train.*SEED was 0, here it is 1"):
        align(values | {"SEED": 1})
    for notebook in (train, align, evaluate):
        notebook(values | {"SEED": 1})


def test_another_input_is_noticed(values: dict[str, Any]) -> None:
    """Predictions of yesterday's cells would be given out under the names of today's."""
    preprocess(values)
    smaller = simulated({name: dict(types) for name, types in THREE_BATCHES.items()})[:-1].copy()
    smaller.write_h5ad(values["PATH"])
    with pytest.raises(InputError, match="the file was changed"):
        train(values)


def test_a_stage_that_broke_off_while_writing_does_not_count(
    values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of its files would be the old ones."""
    preprocess(values)
    monkeypatch.setattr("jind_nb.runs.stages.asdict", lambda plan: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        preprocess(values)
    with pytest.raises(InputError, match=r"run notebooks/1_preprocess\.ipynb first"):
        train(values)


def finish(values: dict[str, Any]) -> Run:
    """What `jind-nb run` leaves of a finished run, as far as notebooks by hand can tell."""
    run = Run(make_parameters(values))
    for notebook in (preprocess, train, align, evaluate):
        notebook(values)
    run.parameters_yaml.write_text(yaml.safe_dump(run.parameters.model_dump()))
    run.log.write_text("a run\n")
    of_stage = {
        "1_preprocess": ["work/prepared.h5ad", "work/plan.json", "work/1_preprocess.json"],
        "2_train": [
            "work/training.json", "work/2_train.json",
            *(f"trained_models/{file.name}" for file in run.models.iterdir() if "target" not in file.name),
        ],
    }  # fmt: skip
    write_json(
        run.stages_json, {stage: {"key": "", "files": dict.fromkeys(files)} for stage, files in of_stage.items()}
    )
    write_json(run.manifest, {})
    return run


@pytest.mark.slow
def test_a_finished_run_is_set_aside_before_notebooks_by_hand_change_it(values: dict[str, Any]) -> None:
    """Two runs' files side by side look like one run, whose report tells of other predictions than its table."""
    run = finish(values)
    before = run.predictions_parquet.read_bytes()
    model = read_json(run.models / "model.json")
    for notebook in (align, evaluate):
        notebook(values | {"ALIGN": True})
    assert not run.manifest.exists()
    previous = run.folder / "previous"
    assert (previous / "manifest.json").exists()
    assert (previous / run.predictions_parquet.name).read_bytes() == before
    assert read_json(previous / "trained_models" / "model.json") == model
    pd.read_parquet(run.predictions_parquet)


@pytest.mark.slow
def test_a_finished_run_of_an_earlier_input_is_set_aside(values: dict[str, Any]) -> None:
    """Its report would lie beside predictions of other cells, in a folder that says it is finished."""
    run = finish(values)
    simulated(THREE_BATCHES)[:-1].copy().write_h5ad(values["PATH"])
    preprocess(values)
    assert not run.manifest.exists()
    assert (run.folder / "previous" / "manifest.json").exists()


@pytest.mark.slow
def test_the_same_notebooks_again_leave_a_finished_run_where_it_is(values: dict[str, Any]) -> None:
    """Who looks at a run's pages in JupyterLab would else look for its report in vain."""
    run = finish(values)
    for notebook in (preprocess, train, align, evaluate):
        notebook(values)
    assert run.manifest.exists()
    assert not (run.folder / "previous").exists()
