"""Every file name and format of a run's folder, written whole or not at all.

`Run` is what the notebooks work with: the parameters, the folder, and one property or pair of functions for each
file. Model files are in `saved_model`, tables and metrics in `results`.
"""

from __future__ import annotations

import logging
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.files import file_name
from ..core.parameters import Parameters
from ..core.stage_words import STAGES
from ..errors import InputError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """One run: its parameters and the files of its folder (the table in README.md)."""

    parameters: Parameters
    input_matters: bool = True  # false: the folder is read as it is, also where the input has changed or is gone

    @property
    def folder(self) -> Path:
        return Path(self.parameters.OUTPUT_PATH)

    @property
    def stages(self) -> tuple[str, ...]:
        """The notebooks of this run, in order; with a saved model there is nothing to train."""
        return STAGES if self.parameters.PRETRAINED_MODEL_PATH is None else tuple(s for s in STAGES if s != "2_train")

    # What users get.
    @property
    def predictions_xlsx(self) -> Path:
        return self.folder / "predicted_label_test_data.xlsx"

    @property
    def predictions_parquet(self) -> Path:
        return self.folder / "predictions.parquet"

    @property
    def annotated_target(self) -> Path:
        return self.folder / "annotated_target.h5ad"

    @property
    def models(self) -> Path:
        return self.folder / "trained_models"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.json"

    @property
    def report_html(self) -> Path:
        return self.folder / "report.html"

    @property
    def report_pdf(self) -> Path:
        return self.folder / "report.pdf"

    @property
    def parameters_yaml(self) -> Path:
        return self.folder / "parameters.yaml"

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.json"

    @property
    def log(self) -> Path:
        return self.folder / "run.log"

    @property
    def notebooks(self) -> Path:
        return self.folder / "notebooks"

    def notebook(self, stage: str) -> Path:
        return self.notebooks / f"{stage}.ipynb"

    @property
    def goes_on(self) -> str:
        """The command that goes on with this run, from any folder, also where its own was moved."""
        return shlex.join(["jind-nb", "run", str(self.parameters_yaml), "--output-path", str(self.folder)])

    def history_pdf(self, source: str, n_intermediates: int, target: str) -> Path:
        name = f"train[{file_name(source, safe=' ')}, {n_intermediates}]-test[{file_name(target, safe=' ')}].pdf"
        return self.folder / name

    # What one stage leaves for the next.
    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def stages_json(self) -> Path:
        return self.work / "stages.json"

    @property
    def failure_json(self) -> Path:
        """At what the run failed, if it did, for the page that says so."""
        return self.work / "failure.json"

    @property
    def unfinished(self) -> Path:
        """What an unfinished training has learned; gone when it is finished."""
        return self.work / "unfinished training.pt"

    def settled(self, stage: str) -> Path:
        """What a finished stage's files depend on: every parameter that matters to it or to a stage before."""
        return self.work / f"{stage}.json"

    def promised(self, training: Mapping[str, Any]) -> list[Path]:
        """The files every finished run has, whatever its parameters."""
        history = self.history_pdf(
            training["source"], len(training["intermediates"]), self.parameters.TARGET_DATASET_NAME
        )
        return [
            self.predictions_xlsx, self.predictions_parquet, self.annotated_target, self.models / "model.json",
            self.models / "target.pth", self.models / "MODEL_CARD.md", history, self.metrics, self.report_html, self.parameters_yaml, self.log,
            *(self.notebook(stage) for stage in self.stages),
        ]  # fmt: skip

    def ours(self) -> list[Path]:
        """Every file and folder that a run writes, there or not."""
        return [
            self.predictions_xlsx, self.predictions_parquet, self.annotated_target, self.models, self.metrics,
            self.report_html, self.report_pdf, self.parameters_yaml, self.manifest, self.log, self.notebooks, self.work,
            *self.folder.glob("train[[]*]-test[[]*].pdf"),
        ]  # fmt: skip


def check_output(parameters: Parameters, needed: int) -> None:
    """Sees that the output folder can be written and has room, without leaving a trace.

    Parameters
    ----------
    needed
        Bytes the run is expected to write.

    Raises
    ------
    InputError
        If it cannot be made or written, or `needed` bytes are not free.
    """
    previous = Path(parameters.OUTPUT_PATH)
    existing = next(path for path in (previous, *previous.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise InputError(
            f"OUTPUT_PATH: {previous} cannot be written: {error.strerror or error} ({existing})."
        ) from None
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise InputError(
            f"OUTPUT_PATH: {previous} has {free / 1e6:,.0f} MB free; this run needs about {needed / 1e6:,.0f} MB. "
            "Make room or choose another folder."
        )
