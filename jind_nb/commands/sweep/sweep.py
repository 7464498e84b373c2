"""`jind-nb sweep`: many runs, here or on a cluster, each a process of its own; the finished ones are not repeated.

    sweep = of_files(files, values, folder)      # or each_target(file, values, folder)
    check(sweep)                                 # everything that is wrong with any of them, in one message
    rows = run(sweep, cluster, console)

Runs that share a trained model stand in one group: its first run trains it, the others follow with it.
"""

from __future__ import annotations

import functools
import re
import signal
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from ...core import locks
from ...core.files import file_names, sha256, whole_file
from ...core.parameters import Parameters, load_parameters
from ...data.cells import read_cells
from ...data.h5ad import input_files
from ...errors import InputError
from ...runs import cache
from ...runs.folder import Run
from .. import run as commands_run
from .slurm import SlurmSettings, write_array
from .summary import (
    FAILED,
    FINISHED,
    FINISHED_BEFORE,
    NOT_FINISHED,
    RUNNING,
    WAITING,
    SweepFolder,
    row_of,
    write_summary,
)
from .workers import NOT_DONE, TASK, Cluster, client_of, do_run

if TYPE_CHECKING:
    from distributed import Client, Future

# Loaded with it, no batch is the target yet; a line break keeps it from being the name of one.
EACH = "each\ntarget"

SECONDS_BETWEEN_LOOKS = 0.5

SECONDS_TO_STOP = 20

MOST_STOPS = 3  # as Dask's allowed-failures

STAGE_LINE = re.compile(r"^\d\d:\d\d:\d\d (\d+/\d+ .*)$", re.M)

LAST_WORDS = re.compile(r"^(?:Wrong input|Failed): (.*)\Z", re.M | re.S)

# What one run is reckoned to need beside its input files: three kernels with torch, of which two are at work.
BYTES_OF_A_RUN = 2_000_000_000

TIMES_THE_INPUT = 5


@dataclass(frozen=True)
class Task:
    """One run of a sweep: what it is called, its file's name, and its parameters if it trains its own model."""

    name: str
    file: str
    parameters: Parameters

    def with_model_of(self, trainer: Task) -> Parameters:
        """Its parameters with the model that another run trained; aligned, if it would have been."""
        p = self.parameters
        return p.model_copy(
            update={
                "PRETRAINED_MODEL_PATH": str(Run(trainer.parameters).models),
                "ALIGN": p.aligns,
                # A column of the annotated cells: the model has what it says.
                "PARENTS": None if isinstance(p.PARENTS, str) else p.PARENTS,
            }
        )


@dataclass(frozen=True)
class Sweep:
    """Runs in groups that share a trained model, and the sweep's own folder."""

    title: str
    groups: list[list[Task]]
    files: SweepFolder
    notes: list[str] = field(default_factory=list)

    @property
    def tasks(self) -> list[Task]:
        return [task for group in self.groups for task in group]


# --- what is to be run -----------------------------------------------------------------------------------------------


def of_files(files: Sequence[Path], values: Mapping[str, Any], folder: Path | None) -> Sweep:
    """A run for each parameter file; `values` overrides parameters of all.

    Raises
    ------
    InputError
        With everything that is wrong in any of the files, and where two would write into the same folder.
    """
    loaded: dict[Path, Parameters] = {}
    wrong: list[str] = []
    for file in dict.fromkeys(files):
        try:
            loaded[file] = load_parameters(file, values)
        except InputError as error:
            wrong.append(f"{file}: {error}")
    own = SweepFolder((folder or Path("runs") / "sweep").absolute())
    taken: dict[Path, str] = {own.folder.resolve(): "the sweep itself (--output-path)"}
    for file, parameters in loaded.items():
        output = Path(parameters.OUTPUT_PATH).resolve()
        if output in taken:
            wrong.append(f"{file}: OUTPUT_PATH {output} is also that of {taken[output]}; give each run its own.")
        taken.setdefault(output, str(file))
    if wrong:
        raise InputError("\n".join(wrong))
    names = file_names(str(file) if _ambiguous(file, files) else file.stem for file in loaded)
    tasks = [
        Task(name, names[name], parameters)
        for file, parameters in loaded.items()
        for name in [str(file) if _ambiguous(file, files) else file.stem]
    ]
    return Sweep(f"{len(tasks)} parameter file{'' if len(tasks) == 1 else 's'}", [[task] for task in tasks], own)


def _ambiguous(file: Path, files: Sequence[Path]) -> bool:
    return len({other for other in files if other.stem == file.stem}) > 1


def each_target(file: Path, values: Mapping[str, Any], folder: Path | None) -> Sweep:
    """A run for each batch of the input as the target, all else as in the one parameter file.

    A named source that becomes the target is chosen automatically, and a target is no intermediate. Batches in
    EXCLUDE_DATASETS_NAMES stay out. With METHOD `reference` the batches without any label, whose annotated batches are
    the same, form one group.

    The only annotated batch is no target, since nothing else could annotate it.

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
        notes.append(f"{annotated[0]!r} is the only annotated batch, and so no target.")
    if not targets:
        raise InputError(f"BATCH_COL: no batch of column {base.BATCH_COL!r} is left to be a target.")
    own = SweepFolder((folder or Path(base.OUTPUT_PATH) / "sweep").absolute())
    tasks = []
    for batch, name in file_names(targets).items():
        file_name = re.sub(r"^\.", "%2E", name)  # not hidden, and no .. out of the folder
        tasks.append(Task(batch, file_name, _as_target(base, batch, batches, own.targets / file_name)))
    groups, shared = _groups(base, tasks, annotated)
    title = "One batch as the target" if len(tasks) == 1 else f"Each of {len(tasks)} batches as the target"
    return Sweep(title, groups, own, notes + shared)


def _groups(base: Parameters, tasks: list[Task], annotated: list[str]) -> tuple[list[list[Task]], list[str]]:
    """Those with the same annotated batches together where one can train for all, and a note on it."""
    alike, single = [task for task in tasks if task.name not in annotated], [[task] for task in tasks]
    if len(alike) < 2 or base.PRETRAINED_MODEL_PATH is not None:
        return single, []
    what = f"{len(alike)} targets have no label and so the same annotated batches"
    if base.METHOD != "reference":
        # The saved model would do for them without training, and measurably worse: its components lack their cells.
        return single, [
            f"{what}. In METHOD default each run learns from them anew, in seconds: the target's own cells, without "
            "labels, make its answers better."
        ]
    groups = [alike, *([task] for task in tasks if task not in alike)]
    return groups, [
        f"{what}, which are trained once, with the first of these targets; it decides on the features, and on the source "
        "where none is named."
    ]


def _as_target(base: Parameters, batch: str, batches: list[str], output: Path) -> Parameters:
    source = None if batch == base.SOURCE_DATASET_NAME else base.SOURCE_DATASET_NAME
    intermediates = [name for name in base.INTER_DATASETS_NAMES if name != batch]
    excluded = base.EXCLUDE_DATASETS_NAMES
    if base.INTER_DATASETS_NAMES and not intermediates:  # where an empty list would mean all
        excluded = [*excluded, *(name for name in batches if name not in (batch, source))]
    return base.model_copy(
        update={
            "TARGET_DATASET_NAME": batch,
            "SOURCE_DATASET_NAME": source,
            "INTER_DATASETS_NAMES": intermediates,
            "EXCLUDE_DATASETS_NAMES": excluded,
            "OUTPUT_PATH": str(output),
        }
    )


def check(sweep: Sweep) -> None:
    """Everything that can be wrong with any run and is cheap to see.

    Raises
    ------
    InputError
        With a line or more for each run that cannot start, or if the sweep's folder holds somebody else's files.
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
    """Many runs read one file, of gigabytes: it is hashed once."""
    status = file.stat()
    return _hash_of_version(file, status.st_size, status.st_mtime_ns)


def _is_finished(parameters: Parameters) -> bool:
    this = Run(parameters)
    return this.manifest.exists() and cache.is_finished(this, cache.input_hashes(this, _hash_of))


@dataclass
class _Group:
    """A group under way: who trains, and who is still to run."""

    tasks: list[Task]
    left: list[Task]
    trainer: Task
    trained: bool

    @classmethod
    def of(cls, tasks: list[Task]) -> _Group:
        """The trainer is whoever has finished as one, so that the next call finds the same."""
        trainer = next((task for task in tasks if _is_finished(task.parameters)), None)
        return cls(tasks, list(tasks), trainer or tasks[0], trainer is not None)

    def parameters(self, task: Task) -> Parameters:
        return task.parameters if task is self.trainer else task.with_model_of(self.trainer)

    def ready(self) -> list[Task]:
        """Who can start now; each is named once."""
        ready = [task for task in self.left if self.trained or task is self.trainer]
        self.left = [task for task in self.left if task not in ready]
        return ready

    def ended(self, task: Task, well: bool) -> None:
        """Where the trainer failed, the next one trains."""
        if task is self.trainer and well:
            self.trained = True
        elif task is self.trainer and self.left:
            self.trainer = self.left[0]


@dataclass
class _State:
    """What is known of every run, and the files that tell."""

    sweep: Sweep
    rows: dict[str, dict[str, Any]]

    def set(self, task: Task, parameters: Parameters, status: str, message: str = "") -> None:
        self.rows[task.name] = row_of(self.sweep.files, task.name, task.file, parameters, status, message)

    def write(self) -> None:
        write_summary(self.sweep.files, self.sweep.title, self.sweep.notes, list(self.rows.values()))


def default_workers(sweep: Sweep) -> int:
    """As many as there are runs, cores, and shares of the free memory, at least one."""
    from dask.system import CPU_COUNT
    from distributed.system import MEMORY_LIMIT
    from psutil import virtual_memory

    free = min(MEMORY_LIMIT, virtual_memory().available)
    largest = max(sum(file.stat().st_size for file in input_files(task.parameters)) for task in sweep.tasks)
    by_memory = int(free // (BYTES_OF_A_RUN + TIMES_THE_INPUT * largest))
    return max(1, min(len(sweep.tasks), CPU_COUNT, by_memory))


def run(sweep: Sweep, cluster: Cluster, console: Console) -> list[dict[str, Any]]:
    """Does what is not done yet, tells of it meanwhile, and keeps summary.csv and index.html up to date.

    Returns
    -------
    The rows of summary.csv, in the sweep's order.

    Raises
    ------
    InputError
        If another sweep is at work in the folder, or there is no such cluster.
    KeyboardInterrupt
        On Ctrl-C or SIGTERM, once nothing that was started is left.
    """
    with locks.held(sweep.files.folder), _stoppable(), _Told(console, len(sweep.tasks)) as told:
        state = _State(sweep, {task.name: {} for task in sweep.tasks})
        for task in sweep.tasks:
            state.set(task, task.parameters, WAITING)
        groups = [_Group.of(tasks) for tasks in sweep.groups]
        to_do = [(group, task) for group in groups for task in _not_before(group, state, told)]
        state.write()
        if to_do or any(group.left for group in groups):
            try:
                with client_of(cluster) as client:
                    _Loop(client, cluster, state, told).run(groups, to_do)
            finally:
                for task in sweep.tasks:
                    if state.rows[task.name]["status"] in (WAITING, RUNNING):
                        state.set(task, task.parameters, NOT_FINISHED)
                state.write()
    return list(state.rows.values())


def _not_before(group: _Group, state: _State, told: _Told) -> list[Task]:
    """Of those in the group that can start now, the ones not finished; of the others it is told."""
    found = []
    for task in group.ready():
        parameters = group.parameters(task)
        if _is_finished(parameters):
            state.set(task, parameters, FINISHED_BEFORE)
            told.ended(task, FINISHED_BEFORE)
            group.ended(task, well=True)
        else:
            found.append(task)
    return found


def array(sweep: Sweep, settings: SlurmSettings, file: Path) -> int:
    """Writes the sbatch script for what is not done yet, and the parameter files it names.

    Returns
    -------
    How many runs that are; with none, no script is written.

    Raises
    ------
    InputError
        If the script cannot be written.
    """
    jobs: list[list[Path]] = []
    for group in map(_Group.of, sweep.groups):
        first = [group.trainer, *(task for task in group.tasks if task is not group.trainer)]
        to_do = [task for task in first if not _finished_with(group, task)]
        jobs += [[_write_parameters(sweep.files, task, group.parameters(task)) for task in to_do]] if to_do else []
    if jobs:
        sweep.files.logs.mkdir(parents=True, exist_ok=True)
        write_array(file, jobs, settings, sweep.files.logs)
    return sum(map(len, jobs))


def _finished_with(group: _Group, task: Task) -> bool:
    # Without its model there is nothing to look at yet.
    return (group.trained or task is group.trainer) and _is_finished(group.parameters(task))


def _write_parameters(files: SweepFolder, task: Task, parameters: Parameters) -> Path:
    written = files.parameters_yaml(task.file)
    with whole_file(written) as temporary:
        temporary.write_text(yaml.safe_dump(parameters.model_dump(), sort_keys=False, allow_unicode=True), "utf-8")
    return written


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM ends a sweep like Ctrl-C, so that nothing is left at work on other machines."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


@dataclass
class _Loop:
    """Hands runs to Dask and looks after them."""

    client: Client
    cluster: Cluster
    state: _State
    told: _Told
    under_way: dict[Any, tuple[_Group, Task, Parameters]] = field(default_factory=dict)
    # How often a run's worker was stopped in good order; where it dies, Dask itself tries again.
    stopped: Counter[str] = field(default_factory=Counter)

    def run(self, groups: list[_Group], to_do: list[tuple[_Group, Task]]) -> None:
        for group, task in to_do:
            self._submit(group, task)
        try:
            while self.under_way:
                time.sleep(SECONDS_BETWEEN_LOOKS)
                for future in list(self.under_way):
                    self._look_at(future)
                self.told.waiting(self.client if self.under_way else None)
        except BaseException:
            self._stop()
            raise

    def _submit(self, group: _Group, task: Task) -> None:
        files, parameters = self.state.sweep.files, group.parameters(task)
        written, log = _write_parameters(files, task, parameters), files.log(task.file)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
        future = self.client.submit(
            do_run,
            str(written),
            parameters.OUTPUT_PATH,
            str(log),
            self.cluster.threads,
            key=(TASK, uuid.uuid4().hex),  # Dask estimates by the first part
            pure=False,
        )
        self.under_way[future] = group, task, parameters

    def _look_at(self, future: Future) -> None:
        group, task, parameters = self.under_way[future]
        log = self.state.sweep.files.log(task.file)
        if not future.done():
            if stage := _stage(log):
                if self.state.rows[task.name]["status"] != RUNNING:
                    self.state.set(task, parameters, RUNNING)
                    self.state.write()
                self.told.at(task, stage)
            return
        del self.under_way[future]
        if future.status == "finished" and future.result() == NOT_DONE and self.stopped[task.name] < MOST_STOPS:
            self.stopped[task.name] += 1
            self._submit(group, task)
            return
        message = _problem(future, log)
        status = FAILED if message else FINISHED
        self.state.set(task, parameters, status, message)
        self.told.ended(task, status, message)
        group.ended(task, well=not message)
        for following in _not_before(group, self.state, self.told):
            self._submit(group, following)
        self.state.write()

    def _stop(self) -> None:
        """Ends every run, wherever it is; a folder is free again when the last process of its run is gone."""
        self.told.line("Stopping …")
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, signal.SIG_IGN)
        with suppress(OSError):
            self.client.cancel(list(self.under_way), force=True)
        end = time.monotonic() + SECONDS_TO_STOP
        for _, _, parameters in self.under_way.values():
            while time.monotonic() < end and _in_use(Path(parameters.OUTPUT_PATH)):
                time.sleep(0.2)


def _in_use(folder: Path) -> bool:
    try:
        locks.refuse_if_in_use(folder)
    except InputError:
        return True
    return False


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as words:
            words.seek(max(0, log.stat().st_size - 20_000))
            return words.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _stage(log: Path) -> str:
    """Where the run is, in the words of its log; empty before it has begun."""
    return (STAGE_LINE.findall(_tail(log)) or [""])[-1]


def _problem(future: Future, log: Path) -> str:
    """Why the run failed, empty if it did not."""
    if future.status == "error":
        error = future.exception()
        if type(error).__name__ == "KilledWorker":
            return "Its worker died again and again, most often because memory ran out."
        return f"{type(error).__name__}: {error}"
    if future.status != "finished":
        return "The Dask scheduler is gone, or dropped this run."
    status = future.result()
    if status == 0:
        return ""
    if status == NOT_DONE:
        return "Its worker was stopped again and again, most often because its time was up."
    if status < 0:
        return f"The run was killed (signal {-status}), most often because memory ran out."
    said = _tail(log).strip()
    last = said[said.rfind("\nWrong input: ") + 1 :] if "Wrong input: " in said else said[said.rfind("Failed: ") :]
    found = LAST_WORDS.search(last)
    return (found[1] if found else said[-500:] or f"exit status {status}").strip()


# --- progress --------------------------------------------------------------------------------------------------------


class _Told:
    """A line for each running task and a bar over all in a terminal; elsewhere a line for each thing that happens."""

    def __init__(self, console: Console, n: int) -> None:
        self.console, self.n, self.n_ended, self.n_failed = console, n, 0, 0
        self.stages: dict[str, str] = {}
        self.lines: dict[str, TaskID] = {}
        self.told_of_waiting = False
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self.progress = Progress(*columns, console=console) if console.is_terminal else None

    def __enter__(self) -> _Told:
        if self.progress is not None:
            self.progress.start()
            self.all = self.progress.add_task("all runs", total=self.n)
        return self

    def __exit__(self, *_: object) -> None:
        if self.progress is not None:
            self.progress.stop()

    def line(self, text: str) -> None:
        clock = "" if self.progress is not None else f"{time.strftime('%H:%M:%S')} "
        self.console.print(Text(clock + _plain(text)), soft_wrap=True)

    def at(self, task: Task, stage: str) -> None:
        if self.stages.get(task.name) == stage:
            return
        self.stages[task.name] = stage
        if self.progress is None:
            self.line(f"{task.name}: {stage}")
            return
        done, of = stage.split(" ", 1)[0].split("/")
        line = self.lines.get(task.name)
        if line is None:
            line = self.lines[task.name] = self.progress.add_task("", total=int(of))
        words = _plain(f"{task.name}: {stage.split(' ', 1)[1]}")
        self.progress.update(line, description=words[:80], completed=int(done) - 1)

    def ended(self, task: Task, status: str, message: str = "") -> None:
        self.n_ended += 1
        if self.progress is not None:
            if task.name in self.lines:
                self.progress.remove_task(self.lines.pop(task.name))
            self.progress.update(self.all, completed=self.n_ended)
        self.line(f"{task.name}: {status} ({self.n_ended} of {self.n})" + (f": {message}" if message else ""))

    def waiting(self, client: Client | None) -> None:
        """Says once that there is no worker, as often as that happens."""
        none = False
        if client is not None:
            with suppress(OSError):  # the scheduler is gone, which the runs' futures say too
                none = client.scheduler_info(n_workers=0)["n_workers"] == 0
        if none and not self.told_of_waiting:
            self.line("Waiting for a worker …")
        self.told_of_waiting = none


def _plain(text: str) -> str:
    """Names in the data may hold anything, also what moves a terminal's cursor."""
    return re.sub("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]", "\ufffd", text)
