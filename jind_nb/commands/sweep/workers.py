"""Dask's workers, which do the runs of a sweep: how they are started, and what a worker does for a run.

with client_of(cluster) as client:
    future = client.submit(do_run, parameters_yaml, folder, log, threads, key=(TASK, "1"))
"""

import logging
import re
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.system
from distributed import Client, LocalCluster

from ...core._compat import ignore_dask_logs, is_task_wanted
from ...core.limits import why_killed
from ...core.locks import SECONDS_FOR_ORPHANS, refuse_if_in_use
from ...core.processes import no_settings, own_folder, short_places
from ...core.progress import NO_BARS
from ...errors import InputError
from .process import RunsProcess
from .slurm import THREADS, SlurmSettings

LOCAL, SLURM = "local", "slurm"

ADDRESS = re.compile(r"^(?:(?:tcp|tls|ucx|ws|wss)://)?[^/\s]+:\d+$")

SECONDS_TO_CONNECT = 15

# The first part of a run's Dask key, by which Dask estimates how long a task takes.
TASK = "jind-nb run"

NOT_DONE = -1000

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def check_where(where: str, *, needs_slurm: bool, has_slurm: bool) -> None:
    """Raise InputError if --cluster is none of its values, or if the settings for Slurm are missing."""
    if where not in (LOCAL, SLURM) and not ADDRESS.match(where):
        raise InputError(
            f"--cluster: found {where!r}; it must be {LOCAL}, {SLURM} or an address such as tcp://node17:8786."
        )
    if not has_slurm and (where == SLURM or needs_slurm):
        raise InputError("--slurm is missing: a YAML file with memory and walltime of a job, and queue if needed.")


@dataclass(frozen=True)
class Cluster:
    """Where the runs are done: `local`, `slurm` (with settings) or the address of a Dask scheduler; how many at once."""

    where: str
    workers: int
    slurm: SlurmSettings | None = None
    logs: Path | None = None  # of Slurm's jobs

    @property
    def threads(self) -> int | None:
        """The threads of a run; None leaves them to the worker's environment."""
        if self.where == LOCAL:
            return max(1, dask.system.CPU_COUNT // self.workers)
        return self.slurm.cores if self.slurm else None


# --- on a worker -----------------------------------------------------------------------------------------------------


# Processes of this worker that are not at work; one for each of its threads at most.
_idle: list[RunsProcess] = []


def do_run(parameters: str, folder: str, log: str, threads: int | None) -> int:
    """Do one run in a process of its own, on the worker's machine, and append its output to `log`.

    Returns
    -------
    Its exit status; NOT_DONE if the run was cancelled.
    """
    is_wanted = is_task_wanted()
    # A run whose worker died may still hold the folder for some seconds.
    wait_until_free(Path(folder), SECONDS_FOR_ORPHANS)
    environment = no_settings() | {NO_BARS: "1", "PYTHONUNBUFFERED": "1", "MPLBACKEND": "agg"}
    # Otherwise a run would wait for workers to read its file, and all of them may be busy with runs.
    environment.pop("DASK_SCHEDULER_ADDRESS", None)
    if threads is not None:
        environment |= dict.fromkeys(THREADS, str(threads))
    process = _process_for(environment)
    status = process.run(parameters, Path(log), is_wanted)
    if process.is_alive():
        _idle.append(process)
    else:
        process.end()
    return NOT_DONE if status is None else status


def _process_for(environment: Mapping[str, str]) -> RunsProcess:
    """Return a process that does runs with this environment: an idle one, or a new one in its place."""
    with suppress(IndexError):
        process = _idle.pop()
        if process.is_alive() and process.environment == environment:
            return process
        process.end()
    return RunsProcess(environment)


def dask_setup(_: object) -> None:
    """Ignore Ctrl-C in a worker on this machine, where a terminal sends it too; Dask calls this. The sweep ends the runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def wait_until_free(folder: Path, seconds: float) -> None:
    """Wait until no run is at work in a folder, but no longer than some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            return refuse_if_in_use(folder)
        except InputError:
            time.sleep(0.2)


# --- the clusters ----------------------------------------------------------------------------------------------------


@contextmanager
def client_of(cluster: Cluster) -> Iterator[Client]:
    """Yield a Dask client of workers, which may start later; what was started ends with the `with` block.

    Raises
    ------
    InputError
        If the scheduler does not answer, or Slurm or dask-jobqueue is not there.
    """
    ignore_dask_logs()  # the sweep itself says what becomes of a run when a worker ends
    quiet = {
        "logging": {"distributed": "critical"},
        # Otherwise Dask takes the runs for short and asks for one job for many of them.
        "distributed.scheduler.default-task-durations": {TASK: "1h"},
        # What Dask measures of itself, up to a hundred times a second, takes cores from the runs.
        "distributed.worker.profile.enabled": False,
        "distributed.admin.tick.interval": "1s",
        "distributed.admin.system-monitor.interval": "5s",
    }
    with dask.config.set(quiet), ExitStack() as started:
        if cluster.where == LOCAL:
            own = started.enter_context(own_folder(short_places()))  # Dask would leave its own in TMPDIR
            started.enter_context(dask.config.set({"temporary-directory": str(own)}))
            address: Any = _local(cluster)
        elif cluster.where == SLURM:
            address = _slurm(cluster)
        else:
            address = cluster.where
        if cluster.where in (LOCAL, SLURM):
            started.callback(address.close)
        try:
            client = started.enter_context(Client(address, timeout=SECONDS_TO_CONNECT, set_as_default=False))
        except (OSError, ValueError) as error:
            raise InputError(
                f"--cluster: no Dask scheduler answers at {cluster.where} ({error}); give {LOCAL}, {SLURM} or the "
                "address that `dask scheduler` printed."
            ) from None
        started.push(ignore_signals)
        yield client


def _local(cluster: Cluster) -> LocalCluster:
    try:
        return LocalCluster(
            n_workers=cluster.workers,
            threads_per_worker=1,
            memory_limit=0,  # a worker does not see the memory that its runs use
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
            preload=[__name__],
        )
    except RuntimeError:  # Dask's own words speak of its nanny
        raise RuntimeError(
            f"A worker was killed at its start, {why_killed()}. The same sweep again continues with the runs that are not "
            "finished."
        ) from None


def ignore_signals(*_: object) -> None:
    """Ignore further Ctrl-C, so that the sweep can end what it started."""
    for name in STOP_SIGNALS:
        signal.signal(name, signal.SIG_IGN)


@contextmanager
def restored_signals() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM do after a `with` block what they did before it."""
    handlers = {name: signal.getsignal(name) for name in STOP_SIGNALS}
    try:
        yield
    finally:
        for name, handler in handlers.items():
            signal.signal(name, handler)


def _slurm(cluster: Cluster) -> Any:
    try:
        with restored_signals():  # this import replaces them
            from dask_jobqueue import SLURMCluster
    except ModuleNotFoundError:
        raise InputError("--cluster slurm needs pip install 'jind-nb[cluster]'.") from None
    if shutil.which("sbatch") is None:
        raise InputError(
            "--cluster slurm: there is no sbatch on this machine; start the sweep on a machine that submits jobs."
        )
    settings = cluster.slurm
    assert settings is not None
    jobs = SLURMCluster(
        **settings.model_dump(exclude={"cores", "workers"}),
        cores=1,
        processes=1,
        job_cpu=settings.cores,
        job_mem=settings.megabytes,
        job_name="jind-nb",
        worker_extra_args=["--memory-limit", "0", "--no-dashboard"],
        log_directory=str(cluster.logs),
        scheduler_options={"dashboard_address": ":0"},
    )
    # As many jobs as runs wait, fewer towards the end; a job that ended early is replaced.
    jobs.adapt(minimum=0, maximum=cluster.workers, target_duration="1s")
    return jobs
