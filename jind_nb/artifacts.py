"""Every file name and format of a run's folder, written whole or not at all.

`Run` is what the notebooks work with: the parameters, the folder, and one property or pair of functions for each
file. Model files are in `saved_model`, tables and metrics in `results`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import InputError
from .folder import OURS, refuse_if_in_use
from .parameters import Parameters, from_notebook
from .progress import OnScreen

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd

    from .data import Plan

log = logging.getLogger(__name__)

MODEL_FORMAT = 4
FULL = 65_536  # bytes free; torch and h5py do not always say that it was the disk
LONGEST_NAME = 80  # two fit into a file name
STAGES = ("1_preprocess", "2_train", "3_align", "4_evaluate")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name to write to, beside `path`; it becomes `path` only if all went well.

    Raises
    ------
    OSError
        With the file's name, if the disk is full; whatever the library that wrote made of that.
    """
    # A run's kernels do not make its folder: removed meanwhile, it must not come back in part.
    path.parent.mkdir(parents=OURS not in os.environ, exist_ok=True)
    temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}.part")
    try:
        yield temporary
        temporary.replace(path)
    except Exception as error:
        if is_disk_full(error) or (path.parent.exists() and shutil.disk_usage(path.parent).free < FULL):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def is_disk_full(error: BaseException) -> bool:
    """Whether the disk, or the user's share of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def write_json(path: Path, value: Any) -> None:
    """Strict JSON (no NaN), indented, UTF-8."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def file_name(batch: str, safe: str = "") -> str:
    """A batch's name as part of a file name: percent-encoded, so that any name is a safe one; a long one is cut and
    ends in a hash.

    >>> file_name("donor 1/2")
    'donor%201%2F2'
    """
    name = quote(batch, safe=safe)
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}~{hashlib.sha256(batch.encode()).hexdigest()[:12]}"


def file_names(batches: Iterable[str]) -> dict[str, str]:
    """A name for each batch's file or folder, apart even on a disk that takes `A` and `a` for the same."""
    names: dict[str, str] = {}
    for batch in batches:
        taken = {name.casefold() for name in names.values()}
        name = file_name(batch)
        while name.casefold() in taken:
            name += "~"
        names[batch] = name
    return names


def shipped(folder: str) -> Path:
    """`notebooks` or `parameters`: in the installed package, or in the checkout it was installed from."""
    packaged = Path(str(files("jind_nb"))) / folder
    return packaged if packaged.is_dir() else Path(__file__).resolve().parent.parent / folder


def read_model_json(folder: Path) -> dict[str, Any]:
    """The description of a saved model.

    Raises
    ------
    InputError
        If the folder holds no model of ours, or one of a newer format.
    """
    file = folder / "model.json"
    if not folder.is_dir():
        raise InputError(f"PRETRAINED_MODEL_PATH: there is no folder {folder}; give a run's trained_models folder.")
    if not file.exists():
        hint = " (a model of the JIND-Multi program lacks its gene list and cannot be used)"
        raise InputError(
            f"PRETRAINED_MODEL_PATH: {folder} has no model.json{hint if any(folder.glob('*.pt')) else ''}; "
            "give a run's trained_models folder."
        )
    try:
        model = read_json(file)
        made_by_format = model["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"PRETRAINED_MODEL_PATH: {file} is damaged ({error}); copy the folder again.") from None
    if made_by_format != MODEL_FORMAT:
        newer = isinstance(made_by_format, int) and made_by_format > MODEL_FORMAT
        raise InputError(
            f"PRETRAINED_MODEL_PATH: {file} has format {made_by_format!r}, this program reads format {MODEL_FORMAT}; "
            + ("update jind-nb." if newer else "train the model again.")
        )
    if model.get("sha256") != _digest(model):
        raise InputError(
            f"PRETRAINED_MODEL_PATH: {file} is not as it was written (its content does not match its own hash); copy "
            "the folder again, and do not edit it."
        )
    try:
        _Model.model_validate(model)
    except ValidationError as error:
        what = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])
        raise InputError(f"PRETRAINED_MODEL_PATH: {file} is damaged ({what}); copy the folder again.") from None
    return model


class _Scale(BaseModel):
    """What `Plan.preprocessing` must hold."""

    model_config = ConfigDict(strict=True)

    layer: str | None
    gene_col: str | None
    totals_over: list[str] | None
    scale: str
    values: Literal["log1p", "as they are"]
    total: float | None = Field(gt=0, allow_inf_nan=False)
    rescaled: bool
    normalisation: Literal["auto", "counts", "log1p", "as_is"]
    kinds: list[str] = Field(min_length=1)
    mean: float
    sd: float
    unclear: Literal["log1p", "log2", "log10"]

    @model_validator(mode="after")
    def _fits_together(self) -> _Scale:
        if self.rescaled and self.total is None:
            raise ValueError("values brought to a total need one")
        return self


class _Target(BaseModel):
    """What of the model's own target must be there to know its cells again."""

    model_config = ConfigDict(strict=True)

    has_adapter: bool
    thresholds: dict[str, float]
    hashes: dict[str, str]


class _Training(BaseModel):
    """What must be known of how the model learned, to build it again."""

    model_config = ConfigDict(strict=True)

    METHOD: Literal["default", "reference"]


class _Alignment(BaseModel):
    """The way that annotated left-out batches best, and why."""

    model_config = ConfigDict(strict=True)

    way: Literal["shared", "aligned"]  # `alignment.WAYS`
    why: str


class _Model(BaseModel):
    """What model.json must hold to be used."""

    model_config = ConfigDict(strict=True, populate_by_name=True)

    classes: list[str] = Field(min_length=2)
    features: list[str] = Field(min_length=1)
    preprocessing: _Scale
    thresholds: dict[str, float]
    calibration: dict[str, dict[str, Any]]
    source: str
    files: dict[str, str]
    target: _Target | None
    training: _Training
    alignment: _Alignment
    code_size: int = Field(alias="code size", ge=1, le=256)
    hashes: dict[str, str]
    parents: dict[str, str] = {}

    @model_validator(mode="after")
    def _fits_together(self) -> _Model:
        if self.source not in self.files:
            raise ValueError(f"the source {self.source!r} has no file")
        targets = [self.target.thresholds] if self.target else []
        if any(set(thresholds) != set(self.classes) for thresholds in (self.thresholds, *targets)):
            raise ValueError("the thresholds are not those of the classes")
        if len(set(self.features)) < len(self.features) or len(set(self.classes)) < len(self.classes):
            raise ValueError("features and classes must each be named once")
        return self


def write_model_json(folder: Path, model: Mapping[str, Any]) -> None:
    """Writes the description of a saved model with the hash of its own content, `sha256`."""
    write_json(folder / "model.json", {**model, "sha256": _digest(model)})


def _digest(model: Mapping[str, Any]) -> str:
    content = {name: value for name, value in model.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sha256(file: Path) -> str:
    """A file's SHA-256, in hexadecimal; a folder's is of the names and hashes of all files in it."""
    if file.is_dir():
        parts = sorted(part for part in file.rglob("*") if part.is_file())
        told = [f"{part.relative_to(file).as_posix()} {sha256(part)}" for part in parts]
        return hashlib.sha256("\n".join(told).encode("utf-8", "surrogateescape")).hexdigest()
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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

    @property
    def model_folder(self) -> Path:
        """Where the annotated batches' model is read from: this run's own folder, or PRETRAINED_MODEL_PATH.

        Raises
        ------
        InputError
            If it is this run's and notebook 2 has not made it, or with other parameters.
        """
        if self.parameters.PRETRAINED_MODEL_PATH is not None:
            return Path(self.parameters.PRETRAINED_MODEL_PATH)
        return self._made_by("2_train", self.models / "model.json").parent

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

    def begins(self, stage: str) -> None:
        """Before a stage's first file is written: those that are there no longer count. A finished run of other parameters
        or input is first moved to `previous/`, when notebooks are run by hand in its folder.

        Raises
        ------
        InputError
            If a `jind-nb run` is at work in the folder.
        """
        from . import folder, reuse

        if self.manifest.exists() and not reuse.is_of(self):
            before = STAGES[: STAGES.index(stage)]
            records = reuse.read_records(self) or {}
            keep = reuse.files_of(self, records, [name for name in before if name in records]) | {self.log}
            with folder.held(self.folder):
                folder.recover(self)
                folder.set_aside(self, keep)
            log.info("the finished run that was here has other parameters or input and is now in %s", folder.PREVIOUS)
        self.settled(stage).unlink(missing_ok=True)

    def _done(self, stage: str) -> None:
        from .reuse import settled

        write_json(self.settled(stage), settled(self, stage))

    def save_prepared(self, prepared: ad.AnnData, plan: Plan) -> None:
        """Stage 1's result: the prepared cells (h5ad) and the plan (JSON)."""
        self.begins("1_preprocess")
        with whole_file(self.work / "prepared.h5ad") as temporary:
            prepared.write_h5ad(temporary)
        write_json(self.work / "plan.json", asdict(plan))
        self._done("1_preprocess")

    def load_plan(self) -> Plan:
        from .data import Plan

        return Plan(**read_json(self._made_by("1_preprocess", self.work / "plan.json")))

    def load_prepared(self) -> ad.AnnData:
        import anndata as ad

        return ad.read_h5ad(self._made_by("1_preprocess", self.work / "prepared.h5ad"))

    def load_prepared_obs(self) -> pd.DataFrame:
        """The prepared cells' table alone, where their values would only fill the memory."""
        import anndata as ad
        import h5py

        with h5py.File(self._made_by("1_preprocess", self.work / "prepared.h5ad"), "r") as stored:
            return ad.io.read_elem(stored["obs"])

    def save_embedding(self, embedding: pd.DataFrame) -> None:
        """Stage 1's picture: columns `row` (of the prepared cells), `x`, `y`."""
        with whole_file(self.work / "embedding.parquet") as temporary:
            embedding.to_parquet(temporary)

    def load_embedding(self) -> pd.DataFrame:
        import pandas as pd

        return pd.read_parquet(self._made_by("1_preprocess", self.work / "embedding.parquet"))

    def save_code_points(self, points: pd.DataFrame) -> None:
        """Stage 3's picture, as `embedding.code_points` makes it."""
        with whole_file(self.work / "codes.parquet") as temporary:
            points.to_parquet(temporary)

    def load_code_points(self) -> pd.DataFrame:
        import pandas as pd

        return pd.read_parquet(self._made_by("3_align", self.work / "codes.parquet"))

    def save_training(self, training: Mapping[str, Any]) -> None:
        """Stage 2's story: `source`, `intermediates`, `candidates`, `history`, `curves`, `calibration`."""
        write_json(self.work / "training.json", dict(training))
        self._done("2_train")

    def load_training(self) -> dict[str, Any]:
        if self.parameters.PRETRAINED_MODEL_PATH is not None:
            # A finished run has its own copy, and may be on another machine.
            model = read_model_json(self.model_folder if self.model_folder.exists() else self.models)
            others = [batch for batch in model["files"] if batch != model["source"]]
            return {
                "source": model["source"], "intermediates": others, "candidates": [], "history": [], "curves": [],
                "calibration": model["calibration"],
            }  # fmt: skip
        return read_json(self._made_by("2_train", self.work / "training.json"))

    def save_target(self, arrays: Mapping[str, np.ndarray], story: Mapping[str, Any]) -> None:
        """Stage 3's result: arrays by name (npz), and `stages`, `curves`, `notes` (JSON)."""
        with whole_file(self.work / "target.npz") as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        write_json(self.work / "target.json", dict(story))
        self._done("3_align")

    def load_target(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        with np.load(self._made_by("3_align", self.work / "target.npz"), allow_pickle=False) as stored:
            arrays = dict(stored)
        return arrays, read_json(self.work / "target.json")

    def _made_by(self, stage: str, path: Path) -> Path:
        """The path of one of a stage's files, if the stage ran to its end with the parameters of now.

        Raises
        ------
        InputError
            Naming the notebook to run first, or the parameters that differ.
        """
        from .reuse import differences

        if not path.exists() or not self.settled(stage).exists():
            raise InputError(f"{path} is missing: run notebooks/{stage}.ipynb first (OUTPUT_PATH {self.folder}).")
        if self.input_matters and (found := differences(self, stage)):
            raise InputError(
                f"notebooks/{stage}.ipynb was last run with other parameters than these (OUTPUT_PATH {self.folder}): "
                f"{'; '.join(found)}. Run it again with the new value, or set the value back here."
            )
        return path

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


@dataclass(frozen=True)
class SweepFolder:
    """The files of a sweep beside those of its runs."""

    folder: Path

    @property
    def summary_csv(self) -> Path:
        return self.folder / "summary.csv"

    @property
    def index_html(self) -> Path:
        return self.folder / "index.html"

    @property
    def parameters(self) -> Path:
        return self.folder / "parameters"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def targets(self) -> Path:
        """The runs of `--each-target`, a folder each."""
        return self.folder / "targets"

    def parameters_yaml(self, name: str) -> Path:
        return self.parameters / f"{name}.yaml"

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"


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


def open_run(namespace: Mapping[str, Any]) -> Run:
    """A notebook's first call: `run = open_run(globals())`.

    Reads the parameters from the notebook's variables (relative paths are relative to the repository's root, or to
    the working directory for an installed package), logs to the screen and to the run's `run.log`, and has the stop
    button answered by a sentence.

    Raises
    ------
    InputError
        If a parameter is wrong, the folder cannot be written, or a `jind-nb run` is at work there.
    """
    from IPython import get_ipython

    root = Path(__file__).resolve().parent.parent
    checkout = (root / "notebooks").is_dir() and (root / "pyproject.toml").exists()
    run = Run(from_notebook(namespace, root if checkout else Path.cwd()))
    check_output(run.parameters, needed=0)
    refuse_if_in_use(run.folder)
    run.folder.mkdir(parents=True, exist_ok=True)
    log_to(run.log, OnScreen())
    if (shell := get_ipython()) is not None:
        shell.set_custom_exc((KeyboardInterrupt,), _tell_of_a_stop)
    return run


def _tell_of_a_stop(shell: Any, kind: type, error: BaseException, traceback: Any, tb_offset: int | None = None) -> Any:
    """What the stop button shows in a notebook, in place of a traceback."""
    told = ["\x1b[0;31mStopped.\x1b[0m Nothing is left half done; run this cell again to go on."]
    shell._showtraceback(kind, error, told)
    return told


class _LogFile(logging.FileHandler):
    """A log that cannot be written is no reason to fail, nor for a traceback a line."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass


def log_to(file: Path, *also: logging.Handler) -> None:
    """Sends what the package logs to a file and other handlers, instead of wherever it went before."""
    logger = logging.getLogger("jind_nb")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        if isinstance(handler, logging.FileHandler):
            handler.close()
    to_file = _LogFile(file, encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"))
    for handler in (to_file, *also):
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
