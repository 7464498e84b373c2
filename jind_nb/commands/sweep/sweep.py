"""`jind-nb sweep`: many runs, here or on a cluster, each a process of its own; the finished ones are not repeated.

    sweep = of_files(files, values, folder)      # or each_target(file, values, folder)
    check(sweep)                                 # all mistakes of all runs, in one message
    rows = run(sweep, cluster, console)

Runs that share a trained model form a group: its first run trains the model, and the others use it.
"""

import functools
import re
import signal
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import dask.system
import distributed
import psutil
from rich.console import Console

from ...core import locks
from ...core.files import file_names, read_end, sha256, write_yaml
from ...core.limits import lowest_memory_limit
from ...core.methods import DATA_RULES
from ...core.parameters import Parameters, load_parameters
from ...core.text import plural
from ...data.cells import read_cells
from ...data.h5ad import input_files, n_bytes
from ...data.roles import with_targets
from ...errors import InputError
from ...runs import cache
from ...runs.folder import Run
from .. import run as commands_run
from ..run_output import current_stage, failure_message
from ..terminal import ENDING
from . import summary, workers
from .progress import SweepProgress
from .slurm import SlurmSettings, write_array

# TARGET_DATASET_NAME while no batch is the target yet; with a line break, so that no batch has this name.
EACH = "each\ntarget"

MANY_LABELLED = 8  # targets with labels, from which on a sweep of them is worth a thought

SECONDS_BETWEEN_CHECKS = 0.5

SECONDS_TO_STOP = 20

MAX_STOPS = 3  # as Dask's allowed-failures

# Estimated memory of one run without its input: three kernels with torch, two of them at work.
BYTES_OF_A_RUN = 2_000_000_000

TIMES_THE_INPUT = 5


@dataclass(frozen=True)
class SweepTask:
    """One run of a sweep: its name, the name of its files, and its parameters if it trains its own model."""

    name: str
    file: str
    parameters: Parameters

    def with_model_of(self, trainer: Self) -> Parameters:
        """Return its parameters with the model that another run trained; it is aligned as it would have been."""
        own = self.parameters
        # A column name is for the annotated cells; the model contains what it says.
        parents = None if isinstance(own.PARENTS, str) else own.PARENTS
        model = str(Run(trainer.parameters).models)
        return own.model_copy(update={"PRETRAINED_MODEL_PATH": model, "ALIGN": own.aligns, "PARENTS": parents})


@dataclass(frozen=True)
class Sweep:
    """The runs, in groups that share a trained model, and the sweep's own folder."""

    title: str
    groups: list[list[SweepTask]]
    files: summary.SweepFolder
    notes: list[str] = field(default_factory=list)

    @property
    def tasks(self) -> list[SweepTask]:
        return [task for group in self.groups for task in group]


# --- what is to be run -----------------------------------------------------------------------------------------------


def of_files(files: Sequence[Path], values: Mapping[str, Any], folder: Path | None) -> Sweep:
    """Return a sweep with a run for each parameter file; `values` overrides parameters of all.

    Raises
    ------
    InputError
        With all mistakes of all files; also if two runs would write into the same folder.
    """
    loaded: dict[Path, Parameters] = {}
    wrong: list[str] = []
    for file in dict.fromkeys(files):
        try:
            loaded[file] = with_targets(load_parameters(file, values))
        except InputError as error:
            wrong.append(f"{file}: {error}")
    own = summary.SweepFolder((folder or Path("runs") / "sweep").absolute())
    taken: dict[Path, str] = {own.folder.resolve(): "the sweep itself (--output-path)"}
    for file, parameters in loaded.items():
        output = Path(parameters.OUTPUT_PATH).resolve()
        if output in taken:
            wrong.append(f"{file}: OUTPUT_PATH {output} is also that of {taken[output]}; give each run its own.")
        taken.setdefault(output, str(file))
    if wrong:
        raise InputError("\n".join(wrong))
    stems = Counter(file.stem for file in loaded)
    names = {file: file.stem if stems[file.stem] == 1 else str(file) for file in loaded}
    safe = file_names(names.values())
    groups = [[SweepTask(names[file], safe[names[file]], parameters)] for file, parameters in loaded.items()]
    return Sweep(plural(len(groups), "parameter file"), groups, own)


def each_target(file: Path, values: Mapping[str, Any], folder: Path | None) -> Sweep:
    """Return a sweep with a run for each batch of the input as the target, otherwise with the same parameters.

    Where a named source is the target, another source is chosen automatically; a target is never an intermediate.
    Batches in EXCLUDE_DATASETS_NAMES are left out. A batch that alone is annotated is not a target, because no other
    could annotate it. With METHOD `reference` the batches without any label share their annotated batches and form one
    group.

    Raises
    ------
    InputError
        If the parameters are wrong or the input cannot be read.
    """
    base = load_parameters(file, dict(values) | {"TARGET_DATASET_NAME": EACH})
    cells = read_cells(base)
    batches = [name for name in dict.fromkeys(cells["batch"].dropna()) if name not in base.EXCLUDE_DATASETS_NAMES]
    has_label = cells.groupby("batch", sort=False)["cell_type"].count() > 0
    annotated = [batch for batch in batches if has_label[batch]]
    targets, notes = batches, []
    if len(annotated) == 1 and len(batches) > 1 and base.PRETRAINED_MODEL_PATH is None:
        targets = [batch for batch in batches if batch not in annotated]
        notes.append(f"{annotated[0]!r} is the only annotated batch, so it is not a target.")
    if not targets:
        raise InputError(f"BATCH_COL: no batch of column {base.BATCH_COL!r} can be a target.")
    own = summary.SweepFolder((folder or Path(base.OUTPUT_PATH) / "sweep").absolute())
    tasks = []
    for batch, name in file_names(targets).items():
        file_name = re.sub(r"^\.", "%2E", name)  # not hidden, and no .. out of the folder
        tasks.append(SweepTask(batch, file_name, _as_target(base, batch, batches, own.targets / file_name)))
    groups, shared = _groups(base, tasks, annotated)
    title = "One batch as the target" if len(tasks) == 1 else f"Each of {len(tasks)} batches as the target"
    return Sweep(title, groups, own, notes + shared)


def _groups(base: Parameters, tasks: list[SweepTask], annotated: list[str]) -> tuple[list[list[SweepTask]], list[str]]:
    """Group the runs for which one can train the model of all, and say so in a note."""
    alike, single = [task for task in tasks if task.name not in annotated], [[task] for task in tasks]
    if base.PRETRAINED_MODEL_PATH is not None:
        return single, []
    if len(alike) < 2:
        n_labelled = len(tasks) - len(alike)
        return single, [] if n_labelled < MANY_LABELLED else [
            f"{n_labelled} targets have labels, so each is annotated by another set of batches, in a run of its own. Where some targets "
            "are enough, and need not annotate each other, one run of them (TARGET_DATASET_NAME: [A, B, C]) takes half the time."
        ]
    what = f"{len(alike)} targets have no labels, so they have the same annotated batches"
    if not DATA_RULES[base.METHOD].shares_training:
        return single, [
            f"{what}. In METHOD {base.METHOD} each run trains again, which takes seconds: the target's own cells improve its "
            "predictions. One run without TARGET_DATASET_NAME annotates them faster, with the same answers."
        ]
    groups = [alike, *([task] for task in tasks if task not in alike)]
    return groups, [
        f"{what}. The model is trained once, with the first of these targets, which also decides on the features, and on "
        "the source if none is named."
    ]


def _as_target(base: Parameters, batch: str, batches: list[str], output: Path) -> Parameters:
    source = None if batch == base.SOURCE_DATASET_NAME else base.SOURCE_DATASET_NAME
    intermediates = [name for name in base.INTER_DATASETS_NAMES if name != batch]
    excluded = base.EXCLUDE_DATASETS_NAMES
    if base.INTER_DATASETS_NAMES and not intermediates:  # an empty list would mean all
        excluded = [*excluded, *(name for name in batches if name not in (batch, source))]
    roles = {"TARGET_DATASET_NAME": batch, "SOURCE_DATASET_NAME": source, "INTER_DATASETS_NAMES": intermediates}
    return base.model_copy(update=roles | {"EXCLUDE_DATASETS_NAMES": excluded, "OUTPUT_PATH": str(output)})


def check(sweep: Sweep) -> None:
    """Check for every run all that is quick to check.

    Raises
    ------
    InputError
        With a line or more for each run that cannot start; also if an index.html of the folder is not a sweep's.
    """
    files, wrong = sweep.files, []
    if files.index_html.exists() and not files.summary_csv.exists():
        raise InputError(
            f"--output-path: {files.index_html} is there, and no sweep of jind-nb wrote it; choose another folder."
        )
    for task in sweep.tasks:
        try:
            commands_run.check(task.parameters)
        except InputError as error:
            wrong.append(f"{task.name}: {error}")
    if wrong:
        raise InputError("\n".join(wrong))


# --- running ---------------------------------------------------------------------------------------------------------


@functools.cache
def _hash_of_version(file: Path, size: int, changed: int) -> str:
    return sha256(file)


def _hash_of(file: Path) -> str:
    """Return a file's hash, computed once for all runs that read the file."""
    status = file.stat()
    return _hash_of_version(file, status.st_size, status.st_mtime_ns)


def _is_finished(parameters: Parameters) -> bool:
    this = Run(parameters)
    return this.manifest.exists() and cache.is_finished(this, cache.input_hashes(this, _hash_of))


class _ActiveGroup:
    """A group of runs at work: which of them trains, and which have not started."""

    def __init__(self, tasks: list[SweepTask]) -> None:
        """Choose as trainer the run that has finished as one, so that the next call chooses the same."""
        self.tasks, self.not_started = tasks, list(tasks)
        finished = next((task for task in tasks if _is_finished(task.parameters)), None)
        self.trainer, self.trained = finished or tasks[0], finished is not None

    def parameters(self, task: SweepTask) -> Parameters:
        """Return the parameters a task runs with: the trainer its own, the others those with its model."""
        return task.parameters if task is self.trainer else task.with_model_of(self.trainer)

    def pop_ready(self) -> list[SweepTask]:
        """Remove and return the tasks that can start now."""
        ready = [task for task in self.not_started if self.trained or task is self.trainer]
        self.not_started = [task for task in self.not_started if task not in ready]
        return ready

    def note_end(self, task: SweepTask, *, succeeded: bool) -> None:
        """Take note that a task has ended; if the trainer failed, the next one trains."""
        if task is self.trainer and succeeded:
            self.trained = True
        elif task is self.trainer and self.not_started:
            self.trainer = self.not_started[0]


@dataclass
class _Rows:
    """The rows of summary.csv: one for each run."""

    sweep: Sweep
    by_task: dict[str, dict[str, Any]]

    def set(self, task: SweepTask, parameters: Parameters, status: str, message: str = "") -> None:
        self.by_task[task.name] = summary.row_of(self.sweep.files, task.name, task.file, parameters, status, message)

    def write(self) -> None:
        summary.write_summary(self.sweep.files, self.sweep.title, self.sweep.notes, list(self.by_task.values()))


def make_cluster(sweep: Sweep, where: str, n_given: int | None, slurm: SlurmSettings | None) -> workers.Cluster:
    """Return where and how many at once the runs are done; `n_given` is None where the user gave no number."""
    if where == workers.LOCAL:
        n_workers = min(n_given or default_workers(sweep), len(sweep.tasks))
    else:
        n_workers = slurm.workers if slurm else 1
    return workers.Cluster(where, n_workers, slurm if where == workers.SLURM else None, sweep.files.logs)


def default_workers(sweep: Sweep) -> int:
    """Return how many runs to do at once: as many as runs, cores and free memory allow, at least one."""
    free = min(lowest_memory_limit(), psutil.virtual_memory().available)
    largest = max(sum(map(n_bytes, input_files(task.parameters))) for task in sweep.tasks)
    by_memory = int(free // (BYTES_OF_A_RUN + TIMES_THE_INPUT * largest))
    return max(1, min(len(sweep.tasks), dask.system.CPU_COUNT, by_memory))


def run(sweep: Sweep, cluster: workers.Cluster, console: Console) -> list[dict[str, Any]]:
    """Do the runs that are not finished, show their progress, and keep summary.csv and index.html up to date.

    Returns
    -------
    The rows of summary.csv, in the sweep's order.

    Raises
    ------
    InputError
        If another sweep is at work in the folder, or there is no such cluster.
    KeyboardInterrupt
        On Ctrl-C or SIGTERM, after everything that was started has ended.
    """
    with (
        locks.held(sweep.files.folder),
        workers.restored_signals(),
        SweepProgress(console, len(sweep.tasks)) as progress,
    ):
        # These end the sweep like Ctrl-C, so that no run stays at work on other machines.
        for number in ENDING:
            if signal.getsignal(number) != signal.SIG_IGN:  # `nohup`
                signal.signal(number, signal.default_int_handler)
        rows = _Rows(sweep, {task.name: {} for task in sweep.tasks})
        for task in sweep.tasks:
            rows.set(task, task.parameters, summary.WAITING)
        groups = [_ActiveGroup(tasks) for tasks in sweep.groups]
        to_do = [(group, task) for group in groups for task in _tasks_to_run(group, rows, progress)]
        rows.write()
        if to_do or any(group.not_started for group in groups):
            try:
                with workers.client_of(cluster) as client:
                    _Loop(client, cluster, rows, progress).run(to_do)
            finally:
                for task in sweep.tasks:
                    if rows.by_task[task.name]["status"] in (summary.WAITING, summary.RUNNING):
                        rows.set(task, task.parameters, summary.NOT_FINISHED)
                rows.write()
    return list(rows.by_task.values())


def _tasks_to_run(group: _ActiveGroup, rows: _Rows, progress: SweepProgress) -> list[SweepTask]:
    """Return the tasks of a group that can start now and are not finished; the finished ones are shown as such."""
    found = []
    for task in group.pop_ready():
        parameters = group.parameters(task)
        if _is_finished(parameters):
            rows.set(task, parameters, summary.FINISHED_BEFORE)
            progress.show_end(task.name, summary.FINISHED_BEFORE)
            group.note_end(task, succeeded=True)
        else:
            found.append(task)
    return found


def write_job_array(sweep: Sweep, settings: SlurmSettings, file: Path) -> int:
    """Write the sbatch script of all runs that are not finished, and their parameter files.

    Returns
    -------
    The number of these runs; if it is 0, no script is written.

    Raises
    ------
    InputError
        If the script cannot be written.
    """
    jobs: list[list[Path]] = []
    for group in map(_ActiveGroup, sweep.groups):
        trainers = [] if group.trained else [group.trainer]
        others = [task for task in group.tasks if task is not group.trainer]
        to_do = trainers + [task for task in others if not group.trained or not _is_finished(group.parameters(task))]
        jobs += [[_write_parameters(sweep.files, task, group.parameters(task)) for task in to_do]] if to_do else []
    if jobs:
        sweep.files.logs.mkdir(parents=True, exist_ok=True)
        write_array(file, jobs, settings, sweep.files.logs)
    return sum(map(len, jobs))


def _write_parameters(files: summary.SweepFolder, task: SweepTask, parameters: Parameters) -> Path:
    written = files.parameters_yaml(task.file)
    write_yaml(written, parameters.model_dump())
    return written


@dataclass
class _Loop:
    """Submit the runs to Dask and follow them until all have ended."""

    client: distributed.Client
    cluster: workers.Cluster
    rows: _Rows
    progress: SweepProgress
    under_way: dict[Any, tuple[_ActiveGroup, SweepTask, Parameters]] = field(default_factory=dict)
    # How often a run's worker was stopped properly; if a worker dies, Dask itself tries again.
    stopped: Counter[str] = field(default_factory=Counter)

    def run(self, to_do: list[tuple[_ActiveGroup, SweepTask]]) -> None:
        for group, task in to_do:
            self._submit(group, task)
        try:
            while self.under_way:
                time.sleep(SECONDS_BETWEEN_CHECKS)
                for future in list(self.under_way):
                    self._check_future(future)
                self.progress.break_silence()
                if self.under_way:
                    with suppress(OSError):  # the scheduler has ended, which the futures say too
                        self.progress.show_waiting(self.client.scheduler_info(n_workers=0)["n_workers"] == 0)
        except BaseException:
            self._stop()
            raise

    def _submit(self, group: _ActiveGroup, task: SweepTask) -> None:
        files, parameters = self.rows.sweep.files, group.parameters(task)
        written, log = _write_parameters(files, task, parameters), files.log(task.file)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
        arguments = (str(written), parameters.OUTPUT_PATH, str(log), self.cluster.threads)
        key = (workers.TASK, uuid.uuid4().hex)  # Dask estimates by the first part
        future = self.client.submit(workers.do_run, *arguments, key=key, pure=False)
        self.under_way[future] = group, task, parameters

    def _check_future(self, future: distributed.Future) -> None:
        group, task, parameters = self.under_way[future]
        log = self.rows.sweep.files.log(task.file)
        if not future.done():
            if stage := current_stage(read_end(log, 20_000)):
                if self.rows.by_task[task.name]["status"] != summary.RUNNING:
                    self.rows.set(task, parameters, summary.RUNNING)
                    self.rows.write()
                self.progress.show_stage(task.name, stage)
            return
        del self.under_way[future]
        if future.status == "finished" and future.result() == workers.NOT_DONE and self.stopped[task.name] < MAX_STOPS:
            self.stopped[task.name] += 1
            self._submit(group, task)
            return
        message = _failure(future, log)
        status = summary.FAILED if message else summary.FINISHED
        self.rows.set(task, parameters, status, message)
        self.progress.show_end(task.name, status, message)
        group.note_end(task, succeeded=not message)
        for following in _tasks_to_run(group, self.rows, self.progress):
            self._submit(group, following)
        self.rows.write()

    def _stop(self) -> None:
        """End every run, wherever it is, and wait until their folders are not locked any more."""
        self.progress.print("Stopping …")
        workers.ignore_signals()
        with suppress(OSError):
            self.client.cancel(list(self.under_way), force=True)
        end = time.monotonic() + SECONDS_TO_STOP
        for _, _, parameters in self.under_way.values():
            workers.wait_until_free(Path(parameters.OUTPUT_PATH), end - time.monotonic())


def _failure(future: distributed.Future, log: Path) -> str:
    """Return why a run failed, an empty text if it did not."""
    if future.status == "error":
        error = future.exception()
        if type(error).__name__ == "KilledWorker":
            return "Its worker died several times, most often because memory ran out."
        return f"{type(error).__name__}: {error}"
    if future.status != "finished":
        return "The Dask scheduler has ended, or dropped this run."
    status = future.result()
    if status == 0:
        return ""
    if status == workers.NOT_DONE:
        return "Its worker was stopped several times, most often because its time was up."
    output = read_end(log, 20_000)
    if status < 0:
        unsaid = f"The run was killed (signal {-status}), most often because memory ran out."
        return failure_message(output) or unsaid
    return failure_message(output) or output[-500:].strip() or f"exit status {status}"
