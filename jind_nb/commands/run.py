"""`jind-nb run`: one notebook after the other, then the reports, and a record of every stage."""

from __future__ import annotations

import errno
import importlib
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from .. import report
from ..core import code_hash, locks
from ..core.address import is_remote, shown_address
from ..core.files import is_disk_full, why_not_written, write_json, write_yaml
from ..core.limits import is_out_of_memory, memory_limit
from ..core.logs import log_to
from ..core.model_json import read_model_json
from ..core.parameters import BUNDLED, Parameters
from ..core.stage_words import OF_A_TARGET, STAGE_WORDS, UNCHANGED
from ..data.cells import read_cells
from ..data.h5ad import input_files, n_bytes
from ..data.roles import make_plan, with_targets
from ..errors import InputError
from ..runs import cache, previous
from ..runs.folder import Run, check_output
from ..runs.stages import load_training
from .crate import write_crate
from .kernel_process import WaitingKernel
from .kernels import OUT_OF_MEMORY, StageError, execute, one_kernel, own_kernels
from .progress import stage_progress
from .usage import measured_usage

log = logging.getLogger(__name__)


def check(parameters: Parameters) -> Parameters:
    """Check all that is quick to check before a run; the values are checked by the first notebook.

    Returns
    -------
    The parameters with their targets named.

    Raises
    ------
    InputError
        If something is wrong.
    """
    parameters = with_targets(parameters)
    make_plan(parameters, read_cells(parameters))
    check_folder_and_model(parameters)
    return parameters


def check_folder_and_model(parameters: Parameters) -> None:
    """Check that a saved model can be read and that the results can be written.

    Raises
    ------
    InputError
        If not.
    """
    if parameters.PRETRAINED_MODEL_PATH is not None:
        training = read_model_json(Path(parameters.PRETRAINED_MODEL_PATH))["training"]
        if parameters.TARGET_ERROR not in (None, training.get("TARGET_ERROR")):
            raise InputError(
                f"TARGET_ERROR: the saved model learned its threshold for {training.get('TARGET_ERROR') or 'REJECTION'}, "
                f"not for {parameters.TARGET_ERROR}; leave TARGET_ERROR out, or train with it."
            )
    this = Run(parameters)
    previous.refuse_foreign_files(this)
    # Prepared cells, the annotated target, predictions and models: seen to stay below twice the input plus this. Each of several
    # targets has prepared cells of its own.
    times = 2 if len(parameters.targets) < 2 else 2 + len(parameters.targets)
    needed = times * sum(n_bytes(file) for file in input_files(parameters)) + 200_000_000
    if not this.manifest.exists():  # an interrupted run's files are there already, and are used or deleted
        needed -= sum(size for _, _, size in previous.snapshot(this).values())
    check_output(parameters, needed)


def run(parameters: Parameters, waiting: WaitingKernel, console: Console | None = None, *, force: bool = False) -> Run:
    """Run all stages, from a set of parameters to the predictions and the report.

    Stages that an earlier run in the same folder finished, with the same input, parameters and code, are reused. A
    finished run of which not all stages are reused is moved to `previous/`.

    Parameters
    ----------
    waiting
        The process that runs the notebooks, if any is to be run.
    force
        Reuse nothing.

    Raises
    ------
    InputError
        If the user's input is wrong, or another run is at work in the folder; nothing has been trained then.
    StageError
        If a notebook failed, was killed, or did not write a promised file; if the disk is full; if the folder or the
        input was changed meanwhile. The same run again continues after the last finished stage.
    """
    this = Run(check(parameters))
    with locks.held(this.folder) as hold:
        previous.refuse_foreign_files(this)
        previous.recover(this)
        active = ActiveRun(this, hold, force=force)
        try:
            _run_stages(active, waiting, console or Console(stderr=True))
        except Exception as error:
            cause = active.cause_of(error)
            active.write_failure_page(cause)
            raise cause from None
    return this


def _run_stages(active: ActiveRun, waiting: WaitingKernel, console: Console) -> None:
    """Run the stages that are not reused; the manifest is the last file, by which a finished run is recognised."""
    this, to_do = active.run, active.to_do
    if to_do:
        active.clear_folder()
    log_to(this.log)
    write_yaml(this.parameters_yaml, this.parameters.model_dump())
    notebooks = [stage for stage in to_do if stage != cache.REPORT]
    with (
        stage_progress(console, this.log, len(this.stages) + 1) as show_stage,
        own_kernels(this.folder, active.hold.descriptor) as own,
        one_kernel(notebooks, own, waiting) as kernels,
    ):
        for stage in active.reused:
            log.info("%s: %s", stage, UNCHANGED)
            show_stage(stage, UNCHANGED)
        for stage, kernel in kernels:
            show_stage(stage, STAGE_WORDS[stage])
            if [stage, cache.REPORT] == to_do[-2:]:
                threading.Thread(target=_import_for_the_report, name="imports").start()
            with active.recorded_stage(stage):
                for one in _runs_of(stage, this):
                    words = STAGE_WORDS[stage] if one is this else f"{STAGE_WORDS[stage]}, {one.parameters.target}"
                    log.info("%s: %s", stage, words)
                    one.notebook(stage).parent.mkdir(parents=True, exist_ok=True)
                    execute(stage, one.notebook(stage), this.parameters.model_dump(), this.folder, kernel)
        if cache.REPORT in to_do:
            show_stage(cache.REPORT, STAGE_WORDS[cache.REPORT])
            with active.recorded_stage(cache.REPORT) as record:
                record["pdf_missing"] = report.write_pdf(this, report.write_html(this, _provenance(active)))
            if reason := active.records[cache.REPORT]["pdf_missing"]:
                console.print(f"No report.pdf: {reason}")
    missing = [str(path) for path in this.promised(load_training(this)) if not path.exists()]
    if missing:
        raise StageError(f"The notebooks ran, but these files are missing: {', '.join(missing)}")
    manifest = _manifest(active)
    write_crate(this, manifest, {stage: active.records[stage] for stage in active.keys})
    write_json(this.manifest, manifest)


def _runs_of(stage: str, this: Run) -> list[Run]:
    """Return what a stage is done for: the run, or each of its targets in turn, in the kernel of the first."""
    return this.each_target if stage in OF_A_TARGET else [this]


def _import_for_the_report() -> None:
    """Import what the reports need, which takes some seconds, while the last notebook runs in its kernel."""
    for name in ("jind_nb.report.page", "jind_nb.report.plots.target", "nbconvert", "weasyprint"):
        with suppress(Exception):  # the report's own import will raise it again
            importlib.import_module(name)


class ActiveRun:
    """A run at work: the stages it reuses, and the records of its finished stages."""

    def __init__(self, this: Run, hold: locks.Hold, *, force: bool) -> None:
        """Decide which stages are reused; no file is changed."""
        self.run, self.hold = this, hold
        self.input_signature, self.inputs = cache.input_signature(this), cache.input_hashes(this)
        self.keys, records = cache.stage_keys(this, self.inputs), cache.read_records(this) or {}
        self.reused = [] if force else cache.reusable_stages(this, self.keys, records)
        self.records = {stage: records[stage] for stage in self.reused}
        self.current_stage: str | None = None  # None before the first

    @property
    def to_do(self) -> list[str]:
        """The stages to run, in order."""
        return [stage for stage in self.keys if stage not in self.reused]

    def clear_folder(self) -> None:
        """Move or delete the files of all stages that are not reused."""
        this, keep = self.run, cache.recorded_files(self.run, self.records, self.reused)
        keep |= {this.stages_json} if keep else set()
        if this.manifest.exists() and self.to_do == [cache.REPORT]:
            this.manifest.unlink()
        elif this.manifest.exists() or not self._may_delete():
            previous.set_aside(this, keep)
        else:
            previous.discard(this, keep | {this.unfinished} | ({this.log} if keep else set()))
        # The first file of the new run: it marks the folder of a killed run as one to continue or to delete.
        write_json(this.stages_json, self.records)
        if "2_train" in self.reused and "3_align" in self.to_do:
            cache.remove_target_from_model(this)

    def _may_delete(self) -> bool:
        """Return whether an unfinished run's files may be deleted.

        Not files of notebooks run by hand, and not days of training with other parameters; but always if moving them
        would displace a finished run from `previous/`.
        """
        records, earlier = cache.read_records(self.run), self.run.folder / previous.PREVIOUS
        if records is None:
            return not previous.snapshot(self.run)
        return not records or bool(self.reused) or (earlier / self.run.manifest.name).exists()

    @contextmanager
    def recorded_stage(self, stage: str) -> Iterator[dict[str, Any]]:
        """Record a stage at the end of a `with` block: its files, seconds, memory, and what is added to the yielded record.

        Raises
        ------
        StageError
            If the folder or the input is not what it was when the run began.
        """
        if not self.hold.is_valid():  # before the stage makes a folder again
            raise StageError(self._removed())
        self.current_stage, before = stage, previous.snapshot(self.run)
        with measured_usage() as record:
            yield record
        if not self.hold.is_valid():
            raise StageError(self._removed())
        if cache.input_signature(self.run) != self.input_signature:
            raise StageError(f"The input was changed while {stage} was at work with it; run again.")
        not_of_stages = {
            self.run.log,
            self.run.parameters_yaml,
            self.run.manifest,
            self.run.crate,
            self.run.stages_json,
        }
        changed = dict(previous.snapshot(self.run).items() - before.items())
        written = [file for file in changed if file not in not_of_stages and not file.name.startswith(".")]
        record["finished"] = datetime.now().astimezone().isoformat(timespec="seconds")
        self.records[stage] = cache.stage_record(self.run, stage, self.keys[stage], written, **record)
        write_json(self.run.stages_json, self.records)

    def write_failure_page(self, cause: Exception) -> None:
        """Write a page that says that the run failed, and delete what a killed kernel left half-written.

        Before the first stage an earlier run's results stay instead.
        """
        if self.current_stage is None or not self.hold.is_valid():
            return
        states = dict.fromkeys(self.keys, "not begun")
        states |= {stage: "finished before, reused" if stage in self.reused else "finished" for stage in self.records}
        states[self.current_stage] = "failed"
        failure = {
            "stage": self.current_stage,
            "at": STAGE_WORDS[self.current_stage],
            "message": str(cause) or type(cause).__name__,
            "is_input": isinstance(cause, InputError),
            "when": time.strftime("%Y-%m-%d %H:%M"),
            "stages": [{"stage": stage, "what": STAGE_WORDS[stage], "how": states[stage]} for stage in self.keys],
        }
        with suppress(OSError):
            previous.remove_half_written(self.run)
        with suppress(OSError):  # a full disk has no room for it
            write_json(self.run.failure_json, failure)
            report.write_failed_html(self.run)

    def cause_of(self, error: Exception) -> Exception:
        """Return the error, or what caused it: the folder or a file was removed, or the disk is full."""
        if not self.hold.is_valid():
            return StageError(self._removed())
        gone = [str(file) for file in cache.recorded_files(self.run, self.records, self.records) if not file.exists()]
        if gone:
            return StageError(f"Removed while the run was at work: {', '.join(sorted(gone))}. Run again.")
        if isinstance(error, OSError) and is_disk_full(error):
            what = "Make room" if error.errno != errno.EFBIG else "Raise it (ulimit -f unlimited)"
            return StageError(
                f"{why_not_written(error)}: {error.filename or f'a file in {self.run.folder}'} could not be written. {what} "
                "and run again; it continues after the last finished stage."
            )
        if not isinstance(error, StageError) and is_out_of_memory(type(error).__name__, str(error)):
            return StageError(OUT_OF_MEMORY.format(memory_limit()))
        return error

    def _removed(self) -> str:
        return f"The folder {self.run.folder} was removed or replaced while the run was at work in it; run again."


def _provenance(active: ActiveRun) -> dict[str, Any]:
    """Return the versions, the seed and the input files, for manifest.json and the report."""
    parameters = active.run.parameters
    addresses = zip(input_files(parameters), parameters.paths, strict=True)
    fetched = {
        file: {"fetched from": shown_address(path)} if is_remote(path) else {"made from": path}
        for file, path in addresses
        if is_remote(path) or (not path.startswith(BUNDLED) and Path(path) != file)
    }
    files = [{"path": str(file), "sha256": hash_, **fetched.get(file, {})} for file, hash_ in active.inputs.items()]
    return {"versions": code_hash.versions(), "seed": parameters.SEED, "input": files}


def _manifest(active: ActiveRun) -> dict[str, Any]:
    """Return what manifest.json holds; seconds and memory of a reused stage are those of the run it was made in."""
    records = active.records
    return {
        **_provenance(active),
        "reused": active.reused,
        "seconds": {stage: records[stage]["seconds"] for stage in active.keys},
        "peak_memory_bytes": {stage: records[stage]["peak_memory_bytes"] for stage in active.keys},
        "report_pdf": records[cache.REPORT]["pdf_missing"] or "written",
    }
