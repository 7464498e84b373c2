"""Write what a run says about the target: for the next stage, and the files that users get."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from ..core.csv_files import write_csv
from ..core.files import whole_file, write_json
from ..data.cells import read_cells, read_target
from ..model import hierarchy
from ..model.annotate import device_of
from ..model.calibration import Calibration
from ..model.expected_error import ExpectedError, expected_error
from ..model.history import StageResult
from ..model.label_errors import COLUMNS
from ..model.state import Annotated
from ..runs.folder import Run
from ..runs.stages import begin_stage, load_plan, save_target
from . import new_groups
from .about import about_table
from .tables import annotate_obs, predictions_table
from .target import TargetResult, fallback_metrics, known_types_metrics
from .workbook import write_sheets

MEANS = "error_among_assigned", "assigned", "AURC", "calibration_error"  # of left-out batches, in metrics.json


def save_annotated(annotated: Annotated, run: Run) -> None:
    """Write stage 3's result for stage 4: each stage's probabilities, thresholds, latent coordinates and cells unlike the
    reference, and the thresholds of parents."""
    arrays = {f"codes {stage}": latent for stage, latent in annotated.latent.items()}
    for stage, predictions in annotated.stages.items():
        arrays[f"probabilities {stage}"] = predictions.probabilities
        arrays[f"thresholds {stage}"] = predictions.thresholds
        for mark in ("unlike", "empty", "doublet"):
            if getattr(predictions, mark) is not None:
                arrays[f"{mark} {stage}"] = getattr(predictions, mark)
    if annotated.doublets is not None:
        arrays["doublet scores"] = annotated.doublets.score
    last, plan = list(annotated.stages.values())[-1], load_plan(run)
    record = {
        "stages": list(annotated.stages),
        "way": annotated.mode,
        "without evidence": last.without_evidence,
        "borrows": last.borrows,
        "parent thresholds": hierarchy.parent_thresholds(last, plan.parents) if plan.parents else {},
        "coarser thresholds": [hierarchy.parent_thresholds(last, level) for level in plan.coarser],
        "curves": annotated.curves,
        "notes": annotated.notes,
        "device": device_of(run.parameters).type,
    }
    save_target(run, arrays, record)


def write_predictions(table: pd.DataFrame, run: Run, error: ExpectedError | None = None) -> None:
    """Write the predictions as parquet, as CSV and as a workbook, of which `write_workbook` tells."""
    begin_stage(run, "4_evaluate")
    write_tables(table, run)
    write_workbook(table, run, error)


def write_tables(table: pd.DataFrame, run: Run) -> None:
    """Write the predictions as parquet and as CSV, at once."""
    with ThreadPoolExecutor(1) as aside:
        written = aside.submit(write_csv, run.predictions_csv, table, index=True)
        with whole_file(run.predictions_parquet) as temporary:
            # A dictionary of numbers, most of which are there once, takes longest to write and makes the file larger.
            table.to_parquet(temporary, use_dictionary=list(table.select_dtypes(exclude="number")))
        written.result()


def write_workbook(table: pd.DataFrame, run: Run, error: ExpectedError | None) -> None:
    """Write the predictions as xlsx as far as a sheet's rows go, with a sheet `about` that states the error."""
    sheets = {"predictions": table, "about": about_table(table, run, error)}
    write_sheets(run.predictions_xlsx, sheets, rest=run.predictions_parquet.name)


def write_suspects(suspects: Sequence[Mapping[str, Any]], cells: pd.DataFrame, run: Run) -> None:
    """Write the annotated cells whose labels left-out answers contradict, the clearest first, to suspect_labels.csv.

    Parameters
    ----------
    suspects
        `Reference.suspects`.
    cells
        `obs` of the prepared cells.
    """
    table = pd.DataFrame(suspects, columns=list(COLUMNS))
    table.insert(0, "cellname", cells["cell"].astype(str).to_numpy()[table.pop("row").to_numpy(dtype=int)])
    write_csv(run.suspect_labels, table.round(4))


def write_groups(groups: new_groups.Groups | None, table: pd.DataFrame, run: Run) -> None:
    """Write which group each cell unlike all annotated ones is in, group after group, to unlike_groups.csv; no file without groups.

    Parameters
    ----------
    table
        The `tables.predictions_table` of the cells.
    """
    if groups is None:
        run.unlike_groups.unlink(missing_ok=True)
        return
    of_cells = pd.Categorical(groups.of_cells, categories=groups.table.index)
    cells = table[["raw_predictions", "confidence"]].reset_index()
    cells.insert(1, "group", of_cells)
    cells = cells.dropna(subset="group").sort_values("group", kind="stable")
    write_csv(run.unlike_groups, cells.round(4))


def write_annotated_target(result: TargetResult, run: Run) -> None:
    """Write the target batch as it was, with the annotation of `annotate_obs`."""
    adata = read_target(run.parameters, read_cells(run.parameters))
    annotate_obs(adata, predictions_table(result), result.final.classes, result.latent)
    with whole_file(run.annotated_target) as temporary:
        write_cells(temporary, adata)


def write_cells(path: Path, adata: ad.AnnData) -> None:
    """Write cells to an h5ad file; nullable text stays what it is."""
    with ad.settings.override(allow_write_nullable_strings=True):
        adata.write_h5ad(path, compression="gzip")


def write_metrics(history: list[StageResult], result: TargetResult, calibration: Calibration | None, run: Run) -> None:
    """Write metrics.json: the target in short, what to expect of a new batch, then every stage on every batch."""
    rejected = result.final.rejected
    new_batch: dict[str, Any] | None = None
    if calibration is not None:
        is_guarantee = calibration.target_error is not None and calibration.is_guarantee
        means = {name: calibration.mean(name) for name in MEANS}
        new_batch = {**means, "is_guarantee": is_guarantee, "left_out": calibration.batches}
    error = expected_error(result.final, calibration)
    name = run.parameters.target
    on_target = [stage for stage in history if stage.batch == name]
    target = {
        "batch": name,
        "cells": len(result.cells),
        "annotated": int((~rejected).sum()),
        "rejected": int(rejected.sum()),
        "rejection": float(rejected.mean()),
        "median_confidence": float(np.median(result.final.confidence)),
        "expected_error": error.value,
        "expected_error_range": None if error.range is None else list(error.range),
        "expected_error_basis": error.basis,
        "unlike_groups": new_groups.to_json(result.groups),
        "fallback": fallback_metrics(result),
        "labelled": on_target[-1].metrics if on_target else None,
        "labelled_known_types": known_types_metrics(result),
    }
    write_json(run.metrics, {"target": target, "new_batch": new_batch, "stages": stage_rows(history)})


def stage_rows(history: list[StageResult]) -> list[dict[str, Any]]:
    """Return the numbers of every stage on every batch, as metrics.json has them."""
    return [{"batch": s.batch, "stage": s.stage, "of": s.cells, **s.metrics, "per_class": s.per_class} for s in history]
