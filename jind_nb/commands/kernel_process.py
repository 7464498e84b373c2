"""The process of a kernel: it imports what the notebooks need before it is told where they run.

    with waiting_kernel(FOR_A_RUN) as waiting:         # begins to import
        ...                                            # the parameters are read and checked meanwhile
        manager.start_kernel(..., waiting=waiting)     # `kernel_provisioner`: an IPython kernel from now on

    python -m jind_nb.commands.kernel_process SOCKET MODULE ...

It ends without a word if it is never told, if who tells it has ended, or if the folder to work in is gone.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from ..core._compat import importing, this_process_is_ours
from ..core.processes import no_settings, python_module
from ..core.progress import NO_BARS

FOR_A_RUN = (
    "jind_nb.data.prepare", "jind_nb.model.store", "jind_nb.results.load", "jind_nb.report.plots.confusion",
    "jind_nb.report.plots.target", "captum.attr",
)  # fmt: skip

FOR_A_COMPARISON = ("jind_nb.commands.compare.table",)

INLINE = "module://matplotlib_inline.backend_inline"

MOST_BYTES, MOST_DESCRIPTORS = 65_536, 8  # of one reading of a socket


class ForkedProcess(psutil.Process):
    """A fork of this process, with what else a `subprocess.Popen` has."""

    stdin = stdout = stderr = None

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except psutil.TimeoutExpired:
            return None


@dataclass(frozen=True)
class WaitingKernel:
    """A process that becomes a kernel when it is told to, and our end of the socket on which it waits for that."""

    process: subprocess.Popen[bytes] | ForkedProcess
    told_by: socket.socket = field(repr=False)

    @classmethod
    def new(cls, modules: Sequence[str]) -> WaitingKernel:
        """Start one, in a session of its own: a terminal's Ctrl-C is for the command."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                python_module(__name__, theirs.fileno(), *modules),
                env=no_settings() | {NO_BARS: "1"},  # tqdm looks at it when it is imported
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        return cls(process, ours)

    @classmethod
    def forked(cls) -> WaitingKernel:
        """Fork one of this process, which has imported everything, and has no other thread yet."""
        ours, theirs = socket.socketpair()
        child = os.fork()
        if child == 0:
            ours.close()
            os.setsid()
            _end_first_without_memory()
            with suppress(SystemExit):
                become_kernel(theirs)
            os._exit(0)
        theirs.close()
        return cls(ForkedProcess(child), ours)

    def begin(
        self, arguments: Sequence[str], folder: str, environment: Mapping[str, str], descriptors: Sequence[int]
    ) -> None:
        """Let it become a kernel.

        Parameters
        ----------
        arguments
            Those of `ipykernel_launcher`.
        folder
            Where it works.
        environment
            All of its environment.
        descriptors
            Files that it keeps open.
        """
        told = {"arguments": list(arguments), "folder": folder, "environment": dict(environment), "parent": os.getpid()}
        with self.told_by, suppress(BrokenPipeError):  # it was killed, which its manager will notice
            socket.send_fds(self.told_by, [b" "], list(descriptors))
            self.told_by.sendall(json.dumps(told).encode())

    def end(self) -> None:
        """Kill it."""
        self.told_by.close()
        with suppress(psutil.NoSuchProcess):
            self.process.kill()
        self.process.wait()


@contextmanager
def waiting_kernel(modules: Sequence[str]) -> Iterator[WaitingKernel]:
    """Start a kernel's process, which begins to import; it is killed at the end of the `with` block."""
    kernel = WaitingKernel.new(modules)
    try:
        yield kernel
    finally:
        kernel.end()


def import_all(modules: Sequence[str]) -> None:
    """Import modules for good; what cannot be imported is for those to tell who need it."""
    this_process_is_ours()
    with importing():
        for name in modules:
            with suppress(Exception):
                importlib.import_module(name)


def become_kernel(socket_: socket.socket) -> None:
    """Wait for what `WaitingKernel.begin` says, then be a kernel until it is shut down or its parent, who said it, ends."""
    with socket_:
        said, *_ = socket.recv_fds(socket_, 1, MOST_DESCRIPTORS)
        while part := socket_.recv(MOST_BYTES):
            said += part
    if not said.strip():
        return
    told = json.loads(said)
    os.environ.clear()
    # ipykernel ends with its parent, if it is told which that is.
    os.environ.update(told["environment"] | {"MPLBACKEND": INLINE, "JPY_PARENT_PID": str(told["parent"])})
    sys.modules["matplotlib"].rcParams["backend"] = INLINE  # it was imported before
    sys.argv = ["ipykernel_launcher", *told["arguments"]]

    from ipykernel.kernelapp import IPKernelApp

    try:
        os.chdir(told["folder"])
        if os.getppid() == told["parent"]:  # else ipykernel would not notice that its parent has ended
            IPKernelApp.launch_instance()
    except FileNotFoundError:
        if _is_there(told["folder"]):
            raise  # else the folder was removed meanwhile, which the command says


def _is_there(folder: str) -> bool:
    """Return whether a folder is there, and this process, if it works in it, in one that still is."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return False
    return Path(folder).is_dir()


def _end_first_without_memory() -> None:
    """Let the system, when memory runs out, kill this process before the command that started it, which can say so."""
    with suppress(OSError):  # no Linux
        Path("/proc/self/oom_score_adj").write_text("500")


if __name__ == "__main__":
    _end_first_without_memory()
    import_all(sys.argv[2:])
    become_kernel(socket.socket(fileno=int(sys.argv[1])))
