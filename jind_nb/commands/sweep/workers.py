"""Where the runs of a sweep are done: the Dask workers, and what one of them does for a run.

with workers(where, settings, n) as client:
    future = client.submit(do_run, parameters_yaml, folder, log, threads, key=(client_key, 3))
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.locks import SECONDS_FOR_ORPHANS, refuse_if_in_use
from ...errors import InputError
from .process import SECONDS_TO_END
from .slurm import THREADS, SlurmSettings

if TYPE_CHECKING:
    from distributed import Client

LOCAL, SLURM = "local", "slurm"

ADDRESS = re.compile(r"^(?:(?:tcp|tls|ucx|ws|wss)://)?[^/\s]+:\d+$")

SECONDS_TO_CONNECT = 15

# Of a Dask task: its workers start processes, and memory and time are those processes'.
TASK = "jind-nb run"

NOT_DONE = -1000


@dataclass(frozen=True)
class Cluster:
    """Where: `local`, `slurm` (with its settings) or the address of a Dask scheduler; how many workers."""

    where: str
    workers: int
    slurm: SlurmSettings | None = None
    logs: Path | None = None  # of Slurm's jobs

    @property
    def threads(self) -> int | None:
        """Threads of a run; None: as the worker's environment says."""
        from dask.system import CPU_COUNT

        if self.where == LOCAL:
            return max(1, CPU_COUNT // self.workers)
        return self.slurm.cores if self.slurm else None


# --- on a worker -----------------------------------------------------------------------------------------------------


def do_run(parameters: str, folder: str, log: str, threads: int | None) -> int:
    """One run in a process of its own, on whichever machine a worker is; its words are appended to `log`.

    Returns
    -------
    Its exit status; NOT_DONE if the sweep wanted it no more.
    """
    wanted = _wanted()
    _wait_for_an_earlier_attempt(Path(folder))
    environment = os.environ | {"TQDM_DISABLE": "1", "PYTHONUNBUFFERED": "1"}
    # A run would wait for workers to read its file's blocks, which all may be busy with runs.
    environment.pop("DASK_SCHEDULER_ADDRESS", None)
    if threads is not None:
        environment |= dict.fromkeys(THREADS, str(threads))
    with Path(log).open("ab") as words:
        process = subprocess.Popen(
            [sys.executable, "-m", "jind_nb.commands.sweep.process", parameters],
            stdin=subprocess.PIPE,
            stdout=words,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # a terminal's Ctrl-C is for the sweep alone
        )
    assert process.stdin is not None
    try:
        while process.poll() is None:
            if not wanted():
                return NOT_DONE
            time.sleep(0.2)
        return process.returncode
    finally:
        process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(2 * SECONDS_TO_END)


def dask_setup(_: object) -> None:
    """Dask calls this in a worker on this machine: a terminal's Ctrl-C reaches it too, and is for the sweep to act on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _wait_for_an_earlier_attempt(folder: Path) -> None:
    """A run whose worker died may take seconds to end, and holds its folder until then."""
    end = time.monotonic() + SECONDS_FOR_ORPHANS
    while time.monotonic() < end:
        try:
            return refuse_if_in_use(folder)
        except InputError:
            time.sleep(0.5)


def _wanted() -> Any:
    """A function that says whether the sweep still wants the task that calls this.

    Dask forgets a cancelled task, and one whose client is gone, but cannot stop what it is doing.
    """
    from distributed import Status, get_worker
    from distributed.worker import thread_state

    worker, key = get_worker(), thread_state.key

    def still() -> bool:
        task = worker.state.tasks.get(key)
        return worker.status in (Status.running, Status.paused) and task is not None and task.state != "cancelled"

    return still


# --- the clusters ----------------------------------------------------------------------------------------------------


@contextmanager
def client_of(cluster: Cluster) -> Iterator[Client]:
    """A Dask client with workers, or with the promise of some; what was started is gone afterwards.

    Raises
    ------
    InputError
        If the scheduler does not answer, or Slurm or dask-jobqueue is not there.
    """
    import dask
    from distributed import Client

    # What Dask says when a worker or a scheduler ends is no news to the user: what becomes of a run is told.
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    quiet = {
        "logging": {"distributed": "critical"},
        # Else Dask asks for one job for many runs it thinks short.
        "distributed.scheduler.default-task-durations": {TASK: "1h"},
    }
    with dask.config.set(quiet), ExitStack() as started:
        if cluster.where == LOCAL:
            from distributed import LocalCluster

            # A worker sees little of what its runs use, so its own limit would mean nothing.
            address: Any = LocalCluster(
                n_workers=cluster.workers,
                threads_per_worker=1,
                processes=True,
                memory_limit=0,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
                preload=[__name__],
            )
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
        started.push(_undisturbed)
        yield client


def _undisturbed(*_: object) -> None:
    """From here on, another Ctrl-C does not keep the sweep from ending what it started."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)


def _slurm(cluster: Cluster) -> Any:
    handlers = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        from dask_jobqueue import SLURMCluster
    except ModuleNotFoundError:
        raise InputError("--cluster slurm needs pip install 'jind-nb[cluster]'.") from None
    finally:
        for name, handler in handlers.items():  # its import takes Ctrl-C for a plain end
            signal.signal(name, handler)
    if shutil.which("sbatch") is None:
        raise InputError(
            "--cluster slurm: there is no sbatch on this machine; start the sweep where jobs are submitted."
        )
    settings = cluster.slurm
    assert settings is not None
    jobs = SLURMCluster(
        queue=settings.queue,
        account=settings.account,
        walltime=settings.walltime,
        cores=1,
        processes=1,
        memory=settings.memory,
        job_cpu=settings.cores,
        job_mem=settings.megabytes,
        job_name="jind-nb",
        interface=settings.interface,
        job_extra_directives=list(settings.job_extra_directives),
        job_script_prologue=list(settings.job_script_prologue),
        worker_extra_args=["--memory-limit", "0", "--no-dashboard"],
        log_directory=str(cluster.logs),
        scheduler_options={"dashboard_address": ":0"},
    )
    # As many jobs as runs wait, fewer towards the end; one that ended early is replaced.
    jobs.adapt(minimum=0, maximum=cluster.workers, target_duration="1s")
    return jobs
