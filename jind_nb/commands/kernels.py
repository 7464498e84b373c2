"""The kernel that runs the notebooks: started once for all stages, given to papermill, killed when a run is stopped."""

from __future__ import annotations

import errno
import json
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any

from ..core import locks
from ..core._compat import kernel_manager, kill_kernel
from ..core.files import disk_full, is_disk_full
from ..core.limits import is_out_of_memory, memory_limit, why_killed
from ..core.processes import own_folder, own_settings, short_places
from ..core.progress import NO_BARS
from ..core.resources import shipped
from ..errors import InputError

if TYPE_CHECKING:
    from jupyter_client.manager import KernelManager

    from .kernel_process import WaitingKernel

AGAIN = "run again continues after the last finished stage"

OUT_OF_MEMORY = f"Memory ran out: {{}}. Give it more, or use less data; {AGAIN}."

log = logging.getLogger(__name__)

# What it logs of a kernel that ends is told in our own words.
logging.getLogger("papermill").addHandler(logging.NullHandler())

KERNEL = "python3"

EMPTY = "get_ipython().reset(); import gc; gc.collect(); del gc"

SECONDS_BETWEEN_SAVES = 10

KERNEL_SECONDS = 60  # for a kernel that is at work on nothing to answer


class StageError(RuntimeError):
    """A run failed for a reason that is not the user's input; the message names the notebook that was kept, if any."""


@dataclass(frozen=True)
class OwnKernels:
    """Where kernels are started that see nothing of the user's settings."""

    folder: Path  # the run's folder, where they work
    sockets: Path
    environment: Mapping[str, str]
    descriptors: Sequence[int] = ()  # that they inherit

    def start(self, name: str, waiting: WaitingKernel) -> KernelManager:
        """Let a process that waits be a kernel."""
        # Files, not TCP: a port that is free when it is chosen may be taken when the kernel binds it.
        kernel = kernel_manager(kernel_name=KERNEL, transport="ipc", connection_file=f"{self.sockets}/{name}.json")
        kernel.start_kernel(
            cwd=str(self.folder),
            env=dict(self.environment),
            pass_fds=list(self.descriptors),
            extra_arguments=["--HistoryManager.hist_file=:memory:"],
            waiting=waiting,
        )
        return kernel


@contextmanager
def own_kernels(folder: Path, lock_descriptor: int | None = None) -> Iterator[OwnKernels]:
    """Prepare a place for kernels that work in a run's folder; it is deleted with the `with` block.

    Parameters
    ----------
    folder
        The run's folder.
    lock_descriptor
        The open lock file of the folder: a kernel that outlives a killed run for a second keeps the folder locked.

    Raises
    ------
    InputError
        If there is no room for temporary files.
    """
    with own_folder(short_places()) as sockets:
        environment = own_settings(sockets / "settings") | {locks.OURS: str(folder), NO_BARS: "1"}
        yield OwnKernels(folder, sockets, environment, () if lock_descriptor is None else (lock_descriptor,))


@contextmanager
def one_kernel(
    stages: Sequence[str], own: OwnKernels, waiting: WaitingKernel
) -> Iterator[Iterator[tuple[str, KernelManager]]]:
    """Start one kernel for all stages, empty it before each stage but the first, and end it with the block.

    Yields
    ------
    An iterator over the stages, each with the kernel.

    Notes
    -----
    To start a kernel and to import what the notebooks need takes six CPU seconds, more than a stage of a small run.
    """
    if not stages:
        yield iter(())
        return
    kernel = own.start(stages[0], waiting)

    def emptied() -> Iterator[tuple[str, KernelManager]]:
        for stage in stages:
            if stage != stages[0]:
                _empty(kernel)
            yield stage, kernel

    try:
        yield emptied()
        kernel.shutdown_kernel(now=True)
    finally:
        kill_kernel(kernel)


def _empty(kernel: KernelManager) -> None:
    """Delete all that a notebook has left in its kernel, so that the next one finds what it would find in a new one.

    Raises
    ------
    StageError
        If the kernel was killed after its notebook had ended.
    """
    client = kernel.blocking_client()
    # Not `wait_for_ready`, which listens for a fifth of a second to what nobody says: this kernel has just answered.
    client.start_channels(iopub=False, stdin=False, hb=False, control=False)
    try:
        asked = client.execute(EMPTY, store_history=False)
        end = time.monotonic() + KERNEL_SECONDS
        while kernel.is_alive() and time.monotonic() < end:
            with suppress(Empty):
                if client.get_shell_msg(timeout=1)["parent_header"].get("msg_id") == asked:
                    return
    finally:
        client.stop_channels()
    raise StageError(f"The process of the notebooks was killed from outside, {why_killed()}; {AGAIN}.")


def execute(template: str, executed: Path, parameters: Mapping[str, Any], folder: Path, kernel: KernelManager) -> None:
    """Run one of the notebooks that come with the package; the executed one is kept, also when it fails.

    Parameters
    ----------
    template
        The notebook's name without `.ipynb`.
    executed
        The executed notebook.
    parameters
        Values of its `parameters` cell.
    folder
        Where it runs.
    kernel
        The kernel to run it in.

    Raises
    ------
    InputError
        If the notebook raised one.
    OSError
        With a file's name if the disk is full.
    StageError
        If it failed otherwise, or its kernel was killed.
    """
    # papermill takes 1.5 seconds to import: `validate` and `predict` import this module too, and run no notebook.
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    running = executed.with_name(f".{template}.running.ipynb")
    try:
        papermill.execute_notebook(
            _unformatted(shipped("notebooks") / f"{template}.ipynb"),
            _unformatted(running),
            parameters=dict(parameters),
            kernel_name=KERNEL,
            engine_name=_engine_that_saves_rarely(),
            progress_bar=False,
            cwd=str(folder),
            km=kernel,
        )
    except PapermillExecutionError as error:
        if error.ename == InputError.__name__:
            raise InputError(error.evalue) from None
        if full := re.fullmatch(r"\[Errno (28|122|27)\] .*: '(.+)'", error.evalue):
            raise disk_full(full[2], int(full[1])) from None
        if is_out_of_memory(error.ename, error.evalue):
            raise StageError(
                f"{template}: {OUT_OF_MEMORY.format(memory_limit())}\nThe notebook with the error: {executed}"
            ) from None
        if error.ename == "CellExecutionError" and not error.evalue:  # papermill's words where the kernel gave none
            why = f"a cell ended without a word, {why_killed()}; {AGAIN}."
            raise StageError(f"{template}: {why}\nThe notebook so far: {executed}") from None
        raise StageError(
            f"{template} failed: {error.ename}: {error.evalue}\nThe notebook with the error: {executed}"
        ) from None
    except OSError as error:
        if is_disk_full(error) and error.filename is None:
            raise disk_full(executed, error.errno or errno.ENOSPC) from None
        raise
    except DeadKernelError:
        raise StageError(
            f"{template}: the process was killed from outside, {why_killed()}; {AGAIN}.\nThe notebook so far: {executed}"
        ) from None
    except RuntimeError as error:
        if "Kernel died" not in str(error):  # nbclient's words if it ended before it began
            raise
        why = f"the notebook's process ended at its start, {why_killed()}; {AGAIN}"
        raise StageError(f"{template}: {why}.") from None
    finally:
        _keep_if_complete(running, executed)


def _engine_that_saves_rarely() -> str:
    """Return the name by which papermill finds an engine that writes the notebook at its end, and before that now and then.

    Papermill's own writes it before and after each cell, with all pictures so far: 200 times in a run, or three CPU seconds.
    """
    from papermill.engines import NBClientEngine, papermill_engines

    class SavesRarely(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, *arguments: Any, **options: Any) -> None:
            save, last = nb_man.save, time.monotonic()

            def save_rarely(**_: Any) -> None:
                nonlocal last
                if time.monotonic() - last >= SECONDS_BETWEEN_SAVES:
                    save()
                    last = time.monotonic()

            nb_man.save = save_rarely
            try:
                super().execute_managed_notebook(nb_man, *arguments, **options)
            finally:  # papermill saves once more then, whatever happened
                nb_man.save = save

    papermill_engines.register("jind-nb", SavesRarely)
    return "jind-nb"


def _unformatted(path: Path) -> str:
    """Return a path that papermill, which takes braces for names of parameters, leaves as it is."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _keep_if_complete(running: Path, executed: Path) -> None:
    """Give the executed notebook its name; papermill writes in place and leaves half a notebook on a full disk."""
    with suppress(FileNotFoundError):
        try:
            json.loads(running.read_text("utf-8"))
        except ValueError:
            running.unlink()
        else:
            running.replace(executed)
