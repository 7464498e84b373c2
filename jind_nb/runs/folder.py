"""A run's folder: the path of every file in it.

`runs.stages` reads and writes what one stage leaves for the next, `model.store` the models, `results.write` the tables.
"""

from __future__ import annotations

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


@dataclass(frozen=True)
class Run:
    """One run: its parameters and the files of its folder (the table in README.md)."""

    parameters: Parameters
    input_matters: bool = True  # False: read the folder as it is, also where the input was changed or deleted

    @property
    def folder(self) -> Path:
        return Path(self.parameters.OUTPUT_PATH)

    @property
    def stages(self) -> tuple[str, ...]:
        """The notebooks of this run, in order; a run with a saved model does not train."""
        return STAGES if self.parameters.PRETRAINED_MODEL_PATH is None else tuple(s for s in STAGES if s != "2_train")

    # Files for users.
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
        """The command that continues this run, from any folder, also where its own was moved."""
        return shlex.join(["jind-nb", "run", str(self.parameters_yaml), "--output-path", str(self.folder)])

    def history_pdf(self, source: str, n_intermediates: int, target: str) -> Path:
        name = f"train[{file_name(source, safe=' ')}, {n_intermediates}]-test[{file_name(target, safe=' ')}].pdf"
        return self.folder / name

    # Files that one stage leaves for the next.
    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def stages_json(self) -> Path:
        return self.work / "stages.json"

    @property
    def failure_json(self) -> Path:
        """Where and why the run failed, for the page that says so."""
        return self.work / "failure.json"

    @property
    def unfinished(self) -> Path:
        """The checkpoint of an unfinished training; deleted when it has finished."""
        return self.work / "unfinished training.pt"

    def stage_parameters_json(self, stage: str) -> Path:
        """The parameters that a finished stage's files were made with; missing while the stage is not finished."""
        return self.work / f"{stage}.json"

    def promised(self, training: Mapping[str, Any]) -> list[Path]:
        """Return the files that every finished run has, whatever its parameters."""
        history = self.history_pdf(
            training["source"], len(training["intermediates"]), self.parameters.TARGET_DATASET_NAME
        )
        return [
            self.predictions_xlsx, self.predictions_parquet, self.annotated_target, self.models / "model.json",
            self.models / "target.pth", self.models / "MODEL_CARD.md", history, self.metrics, self.report_html, self.parameters_yaml, self.log,
            *(self.notebook(stage) for stage in self.stages),
        ]  # fmt: skip

    def possible_files(self) -> list[Path]:
        """Return every file and folder that a run may write, whether it exists or not."""
        return [
            self.predictions_xlsx, self.predictions_parquet, self.annotated_target, self.models, self.metrics,
            self.report_html, self.report_pdf, self.parameters_yaml, self.manifest, self.log, self.notebooks, self.work,
            *self.folder.glob("train[[]*]-test[[]*].pdf"),
        ]  # fmt: skip


def check_output(parameters: Parameters, needed: int) -> None:
    """Check that the output folder can be written and has room; nothing is left there.

    Parameters
    ----------
    needed
        Bytes the run is expected to write.

    Raises
    ------
    InputError
        If it cannot be made or written, or `needed` bytes are not free.
    """
    folder = Path(parameters.OUTPUT_PATH)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise InputError(f"OUTPUT_PATH: {folder} cannot be written: {error.strerror or error} ({existing}).") from None
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise InputError(
            f"OUTPUT_PATH: {folder} has {free / 1e6:,.0f} MB free; this run needs about {needed / 1e6:,.0f} MB. "
            "Make room or choose another folder."
        )
