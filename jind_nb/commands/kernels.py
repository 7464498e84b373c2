"""The kernels that run the notebooks: started ahead, executed with papermill, killed when a run is stopped."""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import locks
from ..core._compat import kernel_manager, kill_kernel
from ..core.files import disk_full, is_disk_full
from ..core.progress import NO_BARS
from ..core.resources import shipped
from ..errors import InputError

if TYPE_CHECKING:
    from jupyter_client.manager import KernelManager

log = logging.getLogger(__name__)

KERNEL = "python3"

IMPORTED_AHEAD = {
    "1_preprocess": "jind_nb.data.prepare, jind_nb.report.plots.confusion, jind_nb.report.plots.target",
    "2_train": "jind_nb.model.store, jind_nb.report.plots.confusion, jind_nb.report.plots.target",
    "3_align": "jind_nb.model.store, jind_nb.results.load, jind_nb.report.plots.confusion, jind_nb.report.plots.target",
    "4_evaluate": "jind_nb.model.store, jind_nb.results.load, jind_nb.report.plots.confusion, jind_nb.report.plots.target, captum.attr",
}


class StageError(RuntimeError):
    """A run failed for a reason that is not the user's input; the message names the notebook that was kept, if any."""


@contextmanager
def kernels_ahead(
    stages: Sequence[str], folder: Path, lock_descriptor: int
) -> Iterator[Iterator[tuple[str, KernelManager]]]:
    """Start a kernel for each stage while the stage before it runs, and end all of them with the block.

    Parameters
    ----------
    folder
        The run's folder, where the kernels work.
    lock_descriptor
        The open lock file of the folder: a kernel that outlives a killed run for a second keeps the folder locked.

    Yields
    ------
    An iterator over the stages and their kernels.

    Notes
    -----
    A kernel takes two seconds to start and up to four to import what its notebook needs. A notebook mostly uses one
    core, so the next kernel starts on another one.
    """
    alive: list[KernelManager] = []

    def start(stage: str) -> None:
        # Files, not TCP: a port that is free when it is chosen may be taken when the kernel binds it.
        kernel = kernel_manager(kernel_name=KERNEL, transport="ipc", connection_file=f"{sockets}/{stage}.json")
        alive.append(kernel)
        kernel.start_kernel(
            cwd=str(folder),
            env=os.environ | {locks.OURS: str(folder), NO_BARS: "1"},
            pass_fds=[lock_descriptor],
            extra_arguments=[f"--IPKernelApp.exec_lines=import {IMPORTED_AHEAD[stage]}"],
        )

    def stages_with_kernels() -> Iterator[tuple[str, KernelManager]]:
        for stage in stages[:1]:
            start(stage)
        for i, stage in enumerate(stages):
            for following in stages[i + 1 : i + 2]:
                start(following)
            yield stage, alive[0]
            alive[0].shutdown_kernel(now=True)
            del alive[0]

    with tempfile.TemporaryDirectory(prefix="jind-nb-", ignore_cleanup_errors=True) as sockets:
        try:
            yield stages_with_kernels()
        finally:
            for kernel in alive:
                kill_kernel(kernel)


def execute(
    template: str, executed: Path, parameters: Mapping[str, Any], folder: Path, kernel: KernelManager | None = None
) -> None:
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
        A kernel to run it in; a new one by default.

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
            progress_bar=False,
            cwd=str(folder),
            km=kernel,
        )
    except PapermillExecutionError as error:
        if error.ename == InputError.__name__:
            raise InputError(error.evalue) from None
        if full := re.fullmatch(r"\[Errno (?:28|122)\] .*: '(.+)'", error.evalue):
            raise disk_full(full[1]) from None
        raise StageError(
            f"{template} failed: {error.ename}: {error.evalue}\nThe notebook with the error: {executed}"
        ) from None
    except OSError as error:
        if is_disk_full(error) and error.filename is None:
            raise disk_full(executed) from None
        raise
    except DeadKernelError:
        raise StageError(
            f"{template}: the process was killed from outside, most often because memory ran out.\n"
            f"The notebook so far: {executed}"
        ) from None
    finally:
        _keep_if_complete(running, executed)


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
