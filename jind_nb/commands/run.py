"""One stage after the other: papermill runs the four notebooks, then the reports are made and everything is counted."""

from __future__ import annotations

import importlib
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jupyter_client.manager import KernelManager
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from .. import report
from ..core import code_hash, locks
from ..core.address import is_remote, shown_address
from ..core.files import is_disk_full, read_json, whole_file, write_json
from ..core.logs import log_to
from ..core.model_json import read_model_json
from ..core.parameters import Parameters, load_parameters
from ..core.progress import NO_BARS
from ..core.stage_words import STAGE_WORDS, UNCHANGED
from ..data.cells import read_cells
from ..data.h5ad import input_files, n_bytes
from ..data.roles import make_plan
from ..errors import InputError
from ..runs import cache, previous
from ..runs.folder import Run, check_output
from ..runs.stages import load_training
from .kernels import IMPORTED_AHEAD, KERNEL, DiskFullError, StageError, execute, kill
from .usage import Usage

log = logging.getLogger(__name__)


def check(parameters: Parameters) -> None:
    """Everything that can be wrong and is cheap to see; values are checked by the first notebook.

    Raises
    ------
    InputError
        For the user's mistakes.
    """

    make_plan(parameters, read_cells(parameters))
    check_folder_and_model(parameters)


def check_folder_and_model(parameters: Parameters) -> None:
    """Whether a saved model can be read and the results written.

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
    previous.refuse_if_not_ours(this)
    # Prepared cells, the annotated target, predictions and models: seen to stay below twice the input plus this.
    needed = 2 * sum(n_bytes(file) for file in input_files(parameters)) + 200_000_000
    if not this.manifest.exists():  # an interrupted run's files are there already, and are used or deleted
        needed -= sum(size for _, _, size in previous.snapshot(this).values())
    check_output(parameters, needed)


def run(parameters: Parameters, console: Console | None = None, *, force: bool = False) -> Run:
    """The whole way, from a checked set of parameters to the predictions and the report.

    Stages that an earlier run in the same folder finished, with the same input, parameters and code, are not run
    again. A finished run that is not reused whole is moved to `previous/`.

    Parameters
    ----------
    force
        Reuse nothing.

    Raises
    ------
    InputError
        If the user's input is wrong, or another run is at work in the folder; nothing has been trained then.
    StageError
        If a notebook failed, was killed, or left out a promised file; if the disk is full; if the folder or the input
        was changed meanwhile. The same run again goes on after the last finished stage.
    """
    check(parameters)
    this = Run(parameters)
    with locks.held(this.folder) as hold:
        previous.refuse_if_not_ours(this)
        previous.recover(this)
        work = Work.begin(this, hold, force=force)
        try:
            _work(work, console)
        except (OSError, StageError, InputError) as error:
            reason = work.reason_for(error)
            work.tell_failed(reason)
            raise reason from None
        except Exception as error:
            work.tell_failed(error)
            raise
    return this


def report_again(folder_of_run: Path) -> tuple[Run, str | None]:
    """Renders the reports of a run again from its folder alone, which may have been moved; no notebook is run, and the
    input is not looked at. Of a run that failed, the page that says so.

    Returns
    -------
    The run, and why there is no PDF, if there is none.

    Raises
    ------
    InputError
        If the folder is not a run's, the run is unfinished or at work, or files of it are gone.
    """
    file = folder_of_run / "parameters.yaml"
    if not file.exists():
        raise InputError(
            f"RUN_DIR: {folder_of_run} is not the folder of a run: it has no parameters.yaml. Give the folder that "
            "jind-nb run wrote its results to; jind-nb predict makes no report (a run with PRETRAINED_MODEL_PATH does)."
        )
    this = Run(load_parameters(file, {"OUTPUT_PATH": str(folder_of_run)}), input_matters=False)
    with locks.held(this.folder):
        if not this.manifest.exists() and this.failure_json.exists():
            report.write_failed_html(this)
            return this, "the run failed"
        if not this.manifest.exists():
            raise InputError(f"RUN_DIR: the run in {folder_of_run} is not finished; {this.goes_on} goes on with it.")
        try:
            return this, _report_again(this)
        except (FileNotFoundError, InputError) as error:
            what = error.filename if isinstance(error, FileNotFoundError) else error
            raise InputError(
                f"RUN_DIR: the report cannot be made without {what}; {this.goes_on} makes all anew."
            ) from None
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"RUN_DIR: what the run in {folder_of_run} left cannot be read by this version of jind-nb ({error}); "
                f"{this.goes_on} makes all anew."
            ) from None


def _report_again(this: Run) -> str | None:
    """The reports of a finished run, and what is noted of them, so that the same run again repeats nothing for it."""

    manifest, records = read_json(this.manifest), cache.read_records(this)
    pdf_missing = report.write_pdf(this, report.write_html(this, manifest))
    if records is not None and cache.REPORT in records:
        before = records[cache.REPORT]
        measured = {name: before[name] for name in ("seconds", "peak_memory_bytes")}
        made = [file for file in (this.report_html, this.report_pdf) if file.exists()]
        records[cache.REPORT] = cache.record(
            this, cache.REPORT, before["key"], made, **measured, pdf_missing=pdf_missing
        )
        write_json(this.stages_json, records)
    write_json(this.manifest, manifest | {"report_pdf": pdf_missing or "written"})
    return pdf_missing


@dataclass
class Work:
    """One run under way: what is reused, and what its finished stages are remembered by."""

    run: Run
    hold: locks.Hold
    inputs: dict[Path, str]
    input_signature: list[tuple[str, int, int]]
    keys: dict[str, str]
    reused: list[str]
    records: cache.Records
    at: str | None = None  # the stage under way, once there is one

    @classmethod
    def begin(cls, this: Run, hold: locks.Hold, *, force: bool) -> Work:
        """Decides what is reused; changes nothing."""
        signature, inputs = cache.input_signature(this), cache.input_hashes(this)
        keys, records = cache.keys(this, inputs), cache.read_records(this) or {}
        reused = [] if force else cache.still_good(this, keys, records)
        return cls(this, hold, inputs, signature, keys, reused, {stage: records[stage] for stage in reused})

    @property
    def to_do(self) -> list[str]:
        return [stage for stage in self.keys if stage not in self.reused]

    def make_room(self) -> None:
        """Clears the way for the stages to do, so that nothing of theirs is there when the first of them begins."""
        this, keep = self.run, cache.files_of(self.run, self.records, self.reused)
        keep |= {this.stages_json} if keep else set()
        if this.manifest.exists() and self.to_do == [cache.REPORT]:
            this.manifest.unlink()
        elif this.manifest.exists() or not self._unfinished_by_a_run():
            previous.set_aside(this, keep)
        else:
            previous.discard(this, keep | {this.unfinished} | ({this.log} if keep else set()))
        # Before anything else: by it a killed run's folder is known as one that may be gone on with or deleted.
        write_json(this.stages_json, self.records)
        if "2_train" in self.reused and "3_align" in self.to_do:
            cache.without_target(this)

    def _unfinished_by_a_run(self) -> bool:
        """Whether what is there may be deleted: not what notebooks run by hand left, nor days of training with other
        parameters, unless a finished run is what it would displace."""
        records, earlier = cache.read_records(self.run), self.run.folder / previous.PREVIOUS
        if records is None:
            return not previous.snapshot(self.run)
        return not records or bool(self.reused) or (earlier / self.run.manifest.name).exists()

    def finished(self, stage: str, before: dict[Path, Any], usage: Usage, **also: Any) -> None:
        """Notes that a stage is done and which files it made.

        Raises
        ------
        StageError
            If the folder or the input is not what it was when the run began.
        """
        if not self.hold.still_there():
            raise StageError(self._removed())
        if cache.input_signature(self.run) != self.input_signature:
            raise StageError(f"The input was changed while {stage} was at work with it; run again.")
        not_of_stages = {self.run.log, self.run.parameters_yaml, self.run.manifest, self.run.stages_json}
        made = [
            file
            for file, signature in previous.snapshot(self.run).items()
            if before.get(file) != signature and file not in not_of_stages and not file.name.startswith(".")
        ]
        measured = {"seconds": usage.seconds[stage], "peak_memory_bytes": usage.peak_memory[stage]}
        self.records[stage] = cache.record(self.run, stage, self.keys[stage], made, **measured, **also)
        write_json(self.run.stages_json, self.records)

    def tell_failed(self, reason: Exception) -> None:
        """Leaves a page that says that the run failed, where there is a place for it: an earlier run's results were moved
        when the first stage began."""
        if self.at is None or not self.hold.still_there():
            return
        done = {stage: "finished before, reused" if stage in self.reused else "finished" for stage in self.records}
        words = {**dict.fromkeys(self.keys, "not begun"), **done, self.at: "failed"}
        failure = {
            "stage": self.at,
            "at": STAGE_WORDS[self.at],
            "message": str(reason) or type(reason).__name__,
            "is_input": isinstance(reason, InputError),
            "when": time.strftime("%Y-%m-%d %H:%M"),
            "stages": [{"stage": stage, "what": STAGE_WORDS[stage], "how": words[stage]} for stage in self.keys],
        }

        with suppress(OSError):  # a full disk has no room for it
            write_json(self.run.failure_json, failure)
            report.write_failed_html(self.run)

    def reason_for(self, error: Exception) -> Exception:
        """The error itself, or what was behind it: the folder removed, or the disk full."""
        if not self.hold.still_there():
            return StageError(self._removed())
        gone = [str(file) for file in cache.files_of(self.run, self.records, self.records) if not file.exists()]
        if gone:
            return StageError(f"Removed while the run was at work: {', '.join(sorted(gone))}. Run again.")
        if is_disk_full(error) or isinstance(error, DiskFullError):
            file = error.filename if isinstance(error, OSError) else str(error)
            return StageError(
                f"The disk is full: {file or f'a file in {self.run.folder}'} could not be written. Make room and run "
                "again; it goes on after the last finished stage."
            )
        return error

    def _removed(self) -> str:
        return f"The folder {self.run.folder} was removed or replaced while the run was at work in it; run again."


def _work(work: Work, console: Console | None) -> None:
    this = work.run
    if work.to_do:
        work.make_room()
    log_to(this.log)
    with whole_file(this.parameters_yaml) as temporary:
        temporary.write_text(yaml.safe_dump(this.parameters.model_dump(), sort_keys=False, allow_unicode=True), "utf-8")
    tell = (console or Console(stderr=True)).print
    with (
        _progress(this, console) as stage_begins,
        tempfile.TemporaryDirectory(prefix="jind-nb-", ignore_cleanup_errors=True) as sockets,
        closing(_kernels_ahead(work, sockets)) as kernels,
    ):
        for stage in work.reused:
            log.info("%s: %s", stage, UNCHANGED)
            stage_begins(stage, UNCHANGED)
        usage = Usage()
        for stage, kernel in kernels:
            stage_begins(stage, STAGE_WORDS[stage])
            work.at, before = stage, previous.snapshot(this)
            with usage.of(stage):
                execute(this, stage, kernel)
            work.finished(stage, before, usage)
        if cache.REPORT in work.to_do:
            stage_begins(cache.REPORT, STAGE_WORDS[cache.REPORT])
            work.at, before = cache.REPORT, previous.snapshot(this)
            with usage.of(cache.REPORT):
                pdf_missing = _report(work)
            work.finished(cache.REPORT, before, usage, pdf_missing=pdf_missing)
            if pdf_missing:
                tell(f"No report.pdf: {pdf_missing}")
    missing = [str(path) for path in this.promised(load_training(this)) if not path.exists()]
    if missing:
        raise StageError(f"The notebooks ran, but these files are missing: {', '.join(missing)}")
    write_json(this.manifest, _manifest(work))  # the last file: by it a finished run is known


def _import_for_the_report() -> None:
    """What the reports need of this process takes some seconds: meanwhile the last notebook runs."""
    for name in ("jind_nb.report.page", "jind_nb.report.plots", "nbconvert"):
        with suppress(Exception):  # the reports will tell of it
            importlib.import_module(name)


def _kernels_ahead(work: Work, sockets: str) -> Generator[tuple[str, KernelManager]]:
    """Each stage with its kernel, which was started while the stage before it ran.

    A kernel takes two seconds to start and up to four to import what its notebook needs; a notebook mostly uses one
    core, so the next one's wait costs nothing.

    Parameters
    ----------
    sockets
        A folder for the kernels' sockets. Files, not TCP: a port that is free when it is chosen may be somebody
        else's by the time the kernel binds it.
    """
    this, stages = work.run, [stage for stage in work.to_do if stage != cache.REPORT]
    KernelManager.transport_encryption = "auto"  # type: ignore[assignment]  # a trait; else jupyter_client warns at every start

    def start(stage: str) -> KernelManager:
        kernel = KernelManager(kernel_name=KERNEL, transport="ipc", connection_file=f"{sockets}/{stage}.json")
        kernel.start_kernel(
            cwd=str(this.folder),
            env=os.environ | {locks.OURS: str(this.folder), NO_BARS: "1"},
            # A kernel that outlives a killed run for a second keeps the folder locked until it is gone.
            pass_fds=[work.hold.descriptor],
            extra_arguments=[f"--IPKernelApp.exec_lines=import {IMPORTED_AHEAD[stage]}"],
        )
        return kernel

    following = start(stages[0]) if stages else None
    for stage, later in zip(stages, (*stages[1:], None), strict=False):
        kernel, following = following, start(later) if later else None
        if later is None and cache.REPORT in work.to_do:
            threading.Thread(target=_import_for_the_report, name="imports").start()
        assert kernel is not None  # only the last stage has no following kernel
        try:
            yield stage, kernel
        except GeneratorExit:
            # Not asked to shut down: after Ctrl-C the event loop still holds the interrupted notebook.
            for left in filter(None, (kernel, following)):
                kill(left)
            raise
        kernel.shutdown_kernel(now=True)


def _report(work: Work) -> str | None:
    """Makes the reports; the reason why there is no PDF, if there is none."""

    return report.write_pdf(work.run, report.write_html(work.run, _facts(work)))


def _facts(work: Work) -> dict[str, Any]:
    """What the results rest on, as manifest.json and the report tell it."""

    paths = work.run.parameters.paths
    addresses = {
        file: shown_address(path)
        for path, file in zip(paths, input_files(work.run.parameters), strict=True)
        if is_remote(path)
    }
    return {
        "versions": code_hash.versions(),
        "seed": work.run.parameters.SEED,
        "input": [
            {"path": str(file), "sha256": hash_} | ({"fetched from": addresses[file]} if file in addresses else {})
            for file, hash_ in work.inputs.items()
        ],
    }


def _manifest(work: Work) -> dict[str, Any]:
    records = work.records
    return {
        **_facts(work),
        "reused": work.reused,
        # Of a reused stage: as measured when it ran.
        "seconds": {stage: records[stage]["seconds"] for stage in work.keys},
        "peak_memory_bytes": {stage: records[stage]["peak_memory_bytes"] for stage in work.keys},
        "report_pdf": records[cache.REPORT]["pdf_missing"] or "written",
    }


# --- progress --------------------------------------------------------------------------------------------------------


class _LastLogLine(ProgressColumn):
    """What the running notebook said last, from run.log."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    def render(self, task: Task) -> Text:
        try:
            with self.file.open("rb") as log_file:
                log_file.seek(max(0, self.file.stat().st_size - 300))
                lines = log_file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return Text("")
        said = lines[-1].split(" ", 2)[-1] if lines else ""
        return Text(said, style="dim", overflow="ellipsis", no_wrap=True)


@contextmanager
def _progress(this: Run, console: Console | None) -> Iterator[Callable[[str, str], None]]:
    """A live bar in a terminal, a line for each stage elsewhere; gives the function to call with a stage and a word on
    what happens to it, when it begins."""
    console = console or Console(stderr=True)
    n = len(this.stages) + 1
    if not console.is_terminal:
        step = iter(range(1, n + 1))
        yield lambda stage, words: console.print(
            f"{time.strftime('%H:%M:%S')} {next(step)}/{n} {stage}: {words}", highlight=False
        )
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TimeElapsedColumn(), _LastLogLine(this.log))
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting", total=n)
        begun = 0

        def stage_begins(stage: str, words: str) -> None:
            nonlocal begun
            progress.update(task, description=f"{stage}: {words}", completed=begun)
            if words == UNCHANGED:
                progress.console.print(f"{stage}: {words}", highlight=False)
            begun += 1

        yield stage_begins
        progress.update(task, description="done", completed=n)
