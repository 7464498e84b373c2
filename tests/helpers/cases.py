"""Annotate files as a run does, without notebooks: what tests of odd but honest files measure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jind_nb.api import _all_stages
from jind_nb.core.parameters import make_parameters
from jind_nb.data.cells import read_target_labels
from jind_nb.data.plan import Plan
from jind_nb.results.tables import predictions_table
from jind_nb.results.write import write_annotated_target
from jind_nb.runs.folder import Run


@dataclass
class Annotated:
    """What a run said about the target, and what its labels say."""

    run: Run
    plan: Plan
    table: pd.DataFrame  # `predictions_table`
    labels: np.ndarray | None

    @property
    def accuracy(self) -> float:
        """Share of the labelled target cells whose most probable type is right."""
        assert self.labels is not None
        known = pd.notna(self.labels)
        return float((self.table["raw_predictions"].to_numpy(dtype=object)[known] == self.labels[known]).mean())

    @property
    def assigned(self) -> float:
        return float((self.table["predictions"] != "Unassigned").mean())

    @property
    def said(self) -> str:
        """All warnings and notes."""
        return "\n".join([*self.plan.warnings, *self.plan.notes])


def annotate(paths: Path | list[Path], folder: Path, **values: Any) -> Annotated:
    """Annotate the batch `5p` of files, and write the annotated target, as stages 1 to 4 do."""
    given = {
        "PATH": [str(path) for path in paths] if isinstance(paths, list) else str(paths),
        "BATCH_COL": "batch", "LABELS_COL": "celltype", "TARGET_DATASET_NAME": "5p", "OUTPUT_PATH": str(folder / "out"),
        "MIN_CELL_TYPE_POPULATION": 10, "USE_GPU": False,
    }  # fmt: skip
    run = Run(make_parameters(given | values))
    run.folder.mkdir(parents=True, exist_ok=True)
    (one,) = _all_stages(run)
    write_annotated_target(one.result, run)
    return Annotated(run, one.plan, predictions_table(one.result), read_target_labels(run.parameters))
