"""TODO."""

from __future__ import annotations

import re
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from xlsxwriter import Workbook

from ..core.files import whole_file, write_json
from ..data.cells import read_cells, read_target
from ..model.calibration import Calibration
from ..model.history import StageResult
from ..runs.folder import Run
from ..runs.stages import begin_stage
from .tables import annotate_obs, predictions_table
from .target import TargetResult, fallback_metrics, known_types_metrics

if TYPE_CHECKING:
    from xlsxwriter.worksheet import Worksheet


SHEET_ROWS, CELL_CHARACTERS = 1_048_576, 32_767  # the most that a workbook holds

NOT_IN_A_WORKBOOK = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def write_predictions(table: pd.DataFrame, run: Run) -> None:
    """Writes the table as parquet, and as xlsx as far as a sheet's rows go; text stays text (no formulas)."""
    begin_stage(run, "4_evaluate")
    with whole_file(run.predictions_parquet) as temporary:
        table.to_parquet(temporary)
    with whole_file(run.predictions_xlsx) as temporary, TemporaryDirectory(prefix="jind-nb-") as rows:
        book = Workbook(str(temporary), {"constant_memory": True, "tmpdir": rows, "use_zip64": True})
        sheet = book.add_worksheet("predictions")
        for column, name in enumerate((table.index.name, *table.columns)):
            _write_text(sheet, 0, column, str(name))
        whole = table if len(table) < SHEET_ROWS else table.iloc[: SHEET_ROWS - 2]
        for row, values in enumerate(whole.itertuples(name=None), start=1):
            for column, value in enumerate(values):
                if isinstance(value, str):
                    _write_text(sheet, row, column, value)
                elif value is not None and value == value:
                    sheet.write_number(row, column, value)
        if len(whole) < len(table):
            more = f"{len(table) - len(whole):,} more rows: see {run.predictions_parquet.name}"
            _write_text(sheet, len(whole) + 1, 0, more)
        book.close()


def _write_text(sheet: Worksheet, row: int, column: int, text: str) -> None:
    """A cell of text as it is, but for what a workbook cannot hold: control characters, and more than 32,767 of any."""
    text = NOT_IN_A_WORKBOOK.sub("\ufffd", text)[:CELL_CHARACTERS]
    if text.startswith("<r>"):  # XlsxWriter would take it for text it has formatted before, and not escape it
        sheet.write_rich_string(row, column, text[0], text[1], text[2:])
    else:
        sheet.write_string(row, column, text)


def write_annotated_target(result: TargetResult, run: Run) -> None:
    """Writes the target batch as it was, with the annotation of `annotate_obs`."""
    adata = read_target(run.parameters, read_cells(run.parameters))
    annotate_obs(adata, predictions_table(result), result.final.classes, result.latent)
    with whole_file(run.annotated_target) as temporary:
        adata.write_h5ad(temporary, compression="gzip")


def write_metrics(history: list[StageResult], result: TargetResult, calibration: Calibration | None, run: Run) -> None:
    """metrics.json: the target in short, what to expect of a new batch, then every stage on every batch."""
    rejected = result.final.rejected
    target = [stage for stage in history if stage.batch == run.parameters.TARGET_DATASET_NAME]
    write_json(
        run.metrics,
        {
            "target": {
                "batch": run.parameters.TARGET_DATASET_NAME,
                "cells": len(result.cells),
                "annotated": int((~rejected).sum()),
                "rejected": int(rejected.sum()),
                "rejection": float(rejected.mean()),
                "median_confidence": float(np.median(result.final.confidence)),
                "fallback": fallback_metrics(result),
                "labelled": target[-1].metrics if target else None,
                "labelled_known_types": known_types_metrics(result),
            },
            "new_batch": None
            if calibration is None
            else {
                "error_among_assigned": calibration.mean("error_among_assigned"),
                "assigned": calibration.mean("assigned"),
                "AURC": calibration.mean("AURC"),
                "calibration_error": calibration.mean("calibration_error"),
                "is_guarantee": calibration.target_error is not None and calibration.is_guarantee,
                "left_out": calibration.batches,
            },
            "stages": [
                {"batch": s.batch, "stage": s.stage, "of": s.cells, **s.metrics, "per_class": s.per_class}
                for s in history
            ],
        },
    )
