"""The four notebooks without their pictures: the functions that they call, in their order, in this process."""

from __future__ import annotations

from typing import Any

import pandas as pd

from jind_nb.core.parameters import make_parameters
from jind_nb.data import cells as data_cells
from jind_nb.data import prepare, roles
from jind_nb.model import annotate, store
from jind_nb.model.history import StageResult
from jind_nb.results import load, tables, target, write
from jind_nb.runs.folder import Run
from jind_nb.runs.stages import (
    begin_stage,
    load_plan,
    load_prepared,
    load_training,
    model_folder,
    save_prepared,
    save_training,
)


def preprocess(values: dict[str, Any]) -> None:
    """Prepare the cells; `values` are the variables of a parameters cell."""
    run = Run(make_parameters(values))
    cells = data_cells.read_cells(run.parameters)
    plan = roles.make_plan(run.parameters, cells)
    save_prepared(
        run, prepare.prepare(run.parameters, cells, plan), plan, pd.DataFrame({"row": [0], "x": [0.0], "y": [0.0]})
    )


def train(values: dict[str, Any]) -> None:
    """Learn from the annotated batches."""
    run = Run(make_parameters(values))
    plan, prepared = load_plan(run), load_prepared(run)
    reference = annotate.train(prepared, plan, annotate.settings_of(run.parameters))
    calibrations = annotate.calibrate(reference)
    begin_stage(run, "2_train")
    store.save_model(run.models, reference, calibrations, plan, run.parameters)
    write.write_suspects(reference.suspects, prepared.obs, run)
    save_training(run, reference.record() | {"calibration": {mode: c.to_json() for mode, c in calibrations.items()}})


def align(values: dict[str, Any]) -> None:
    """Annotate the target."""
    run = Run(make_parameters(values))
    plan, prepared, settings = load_plan(run), load_prepared(run), annotate.settings_of(run.parameters)
    model = model_folder(run)
    x = prepared[target.target_rows(prepared, plan.target)].X
    annotated, _ = store.annotate_with_model(model, x, settings, recall_own=False)
    begin_stage(run, "3_align")
    store.save_target(run.models, annotated, plan.target, x, model)
    write.save_annotated(annotated, run)


def evaluate(values: dict[str, Any]) -> None:
    """Write the predictions and their numbers."""
    run = Run(make_parameters(values))
    result, training, plan = load.load_result(run), load_training(run), load_plan(run)
    write.write_predictions(tables.predictions_table(result), run)
    history = [StageResult(**stage) for stage in training["history"]] + target.evaluate_target(result, plan.target)
    write.write_metrics(history, result, target.target_calibration(training, result), run)
