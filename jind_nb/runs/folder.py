"""A run's folder: the path of every file in it.

`runs.stages` reads and writes what one stage leaves for the next, `model.store` the models, `results.write` the tables.
"""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.files import InFolder, file_name, file_names
from ..core.limits import FILE_SIZE, file_size_limit
from ..core.parameters import Parameters
from ..core.stage_words import OF_A_TARGET, STAGES
from ..errors import InputError


@dataclass(frozen=True)
class Run:
    """One run: its parameters and the files of its folder (the table in docs/output.md)."""

    parameters: Parameters
    input_matters: bool = True  # False: read the folder as it is, also where the input was changed or deleted
    cohort: Run | None = None  # the run of several targets that this is one of

    @property
    def each_target(self) -> list[Run]:
        """A run for each target: this one, or of several targets one for each, in a folder of its own."""
        p = self.parameters
        if len(p.targets) == 1:
            return [self]
        names = {name: re.sub(r"^\.", "%2E", of) for name, of in file_names(p.targets).items()}
        roles = {name: [*p.EXCLUDE_DATASETS_NAMES, *(other for other in names if other != name)] for name in names}
        return [
            Run(
                p.model_copy(
                    update={
                        "TARGET_DATASET_NAME": name,
                        "EXCLUDE_DATASETS_NAMES": roles[name],
                        "OUTPUT_PATH": str(self.targets / of),
                    }
                ),
                self.input_matters,
                self,
            )
            for name, of in names.items()
        ]

    @property
    def folder(self) -> Path:
        return Path(self.parameters.OUTPUT_PATH)

    @property
    def stages(self) -> tuple[str, ...]:
        """The notebooks of this run, in order; a run with a saved model does not train."""
        return STAGES if self.parameters.PRETRAINED_MODEL_PATH is None else tuple(s for s in STAGES if s != "2_train")

    # Files for users.
    predictions_xlsx = InFolder("predicted_label_test_data.xlsx")
    predictions_parquet = InFolder("predictions.parquet")
    predictions_csv = InFolder("predictions.csv")
    suspect_labels = InFolder("suspect_labels.csv")
    unlike_groups = InFolder("unlike_groups.csv")
    annotated_target = InFolder("annotated_target.h5ad")
    annotated_targets = InFolder("annotated_targets.h5ad")  # of several targets, beside their own folders:
    targets = InFolder("targets")
    target_pth = InFolder("target.pth")  # in the folder of one of several targets
    models = InFolder("trained_models")
    metrics = InFolder("metrics.json")
    report_html = InFolder("report.html")
    report_pdf = InFolder("report.pdf")
    parameters_yaml = InFolder("parameters.yaml")
    manifest = InFolder("manifest.json")
    crate = InFolder("ro-crate-metadata.json")
    log = InFolder("run.log")
    notebooks = InFolder("notebooks")

    # Files that one stage leaves for the next.
    work = InFolder("work")
    stages_json = InFolder("work/stages.json")
    failure_json = InFolder("work/failure.json")  # where and why the run failed, for the page that says so
    unfinished = InFolder("work/unfinished training.pt")  # the checkpoint of a training, deleted when it has finished

    def stage_parameters_json(self, stage: str) -> Path:
        """Return the file with the parameters of a finished stage; it is missing while the stage is not finished."""
        return self.work / f"{stage}.json"

    def notebook(self, stage: str) -> Path:
        notebooks = self.notebooks if self.cohort is None else self.cohort.notebooks / self.folder.name
        return notebooks / f"{stage}.ipynb"

    def history_pdf(self, source: str, n_intermediates: int, target: str) -> Path:
        name = f"train[{file_name(source, safe=' ')}, {n_intermediates}]-test[{file_name(target, safe=' ')}].pdf"
        return self.folder / name

    @property
    def goes_on(self) -> str:
        """The command that continues this run, from any folder, also where its own was moved."""
        return shlex.join(["jind-nb", "run", str(self.parameters_yaml), "--output-path", str(self.folder)])

    def promised(self, training: Mapping[str, Any]) -> list[Path]:
        """Return the files that every finished run has, whatever its parameters."""
        of_targets = [] if self.each_target == [self] else [self.annotated_targets]
        for one in self.each_target:
            of_targets += [
                one.predictions_xlsx, one.predictions_parquet, one.predictions_csv, one.annotated_target, one.metrics,
                one.history_pdf(training["source"], len(training["intermediates"]), one.parameters.target),
                one.models / "target.pth" if one is self else one.target_pth, *map(one.notebook, OF_A_TARGET),
            ]  # fmt: skip
        return [
            self.predictions_xlsx, self.predictions_parquet, self.predictions_csv, self.metrics, self.report_html,
            self.parameters_yaml, self.log, *(self.models / name for name in ("model.json", "MODEL_CARD.md")),
            *(self.notebook(stage) for stage in self.stages if stage not in OF_A_TARGET), *of_targets,
        ]  # fmt: skip

    def possible_files(self) -> list[Path]:
        """Return every file and folder that a run may write, whether it exists or not."""
        return [
            self.predictions_xlsx, self.predictions_parquet, self.predictions_csv, self.annotated_target,
            self.annotated_targets, self.targets, self.models, self.metrics, self.report_html,
            self.report_pdf, self.parameters_yaml, self.manifest, self.crate, self.log, self.notebooks, self.work,
            self.suspect_labels, self.unlike_groups,
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
    limit = file_size_limit()
    if needed and limit is not None and limit < FILE_SIZE:
        raise InputError(
            f"ulimit -f: a file may have {limit / 1e6:,.1f} MB here; a run needs {FILE_SIZE / 1e6:,.0f} MB and more. Raise it "
            "(ulimit -f unlimited, or ask who runs the machine)."
        )
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise InputError(
            f"OUTPUT_PATH: {folder} has {free / 1e6:,.0f} MB free; this run needs about {needed / 1e6:,.0f} MB. "
            "Make room or choose another folder."
        )
