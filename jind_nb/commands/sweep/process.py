"""The process that does the runs of a worker, each in a fork of itself, so that nothing is imported twice; where forks are not
safe, it does one.

    process = RunsProcess(environment)
    status = process.run(parameters_yaml, log, is_wanted)      # as often as you like; None if the run was cancelled

    python -m jind_nb.commands.sweep.process SOCKET

A worker may be killed at any moment and then cannot end its run; but the system closes the pipe that the run reads.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from ...core._compat import import_umap
from ...core.parameters import load_parameters
from ...core.processes import python_module
from ..kernel_process import FOR_A_RUN, MOST_BYTES, WaitingKernel, import_all
from ..run_process import run_in_terminal
from ..terminal import exit_status

SECONDS_TO_END = 5

SECONDS_BETWEEN_LOOKS = 0.2

CAN_FORK = sys.platform == "linux"  # elsewhere what is imported may not survive it, as macOS's Accelerate

# What a run needs besides its notebooks.
IMPORTED = (*FOR_A_RUN, "jind_nb.report.page", "ipykernel.kernelapp", "nbconvert", "papermill", "weasyprint")


class RunsProcess:
    """A process that does runs, one after the other."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Start it, in a session of its own: a terminal's Ctrl-C is for the sweep."""
        self.environment = environment
        self.socket, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                python_module(__name__, theirs.fileno()),
                env=environment,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def run(self, parameters: str, log: Path, is_wanted: Callable[[], bool]) -> int | None:
        """Do one run, and append its output to `log`.

        Returns
        -------
        Its exit status; None if it was cancelled. -9 if the process itself was killed; then it cannot be used again.
        """
        theirs, pipe = os.pipe()
        try:
            with log.open("ab") as words, suppress(BrokenPipeError):
                socket.send_fds(self.socket, [json.dumps(parameters).encode()], [words.fileno(), theirs])
            os.close(theirs)
            while is_wanted():
                if select.select([self.socket], [], [], SECONDS_BETWEEN_LOOKS)[0]:
                    return self._status()
        finally:
            os.close(pipe)  # a run that is still at work ends
        self._status()
        return None

    def _status(self) -> int:
        with suppress(ConnectionError):
            if answer := self.socket.recv(MOST_BYTES):
                return int(answer)
        return -signal.SIGKILL

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def end(self) -> None:
        """End it; it is at work on no run."""
        self.socket.close()
        self.process.wait(2 * SECONDS_TO_END)


def serve(orders: socket.socket) -> None:
    """Import everything, then do the runs that a worker sends, until it is gone."""
    import_all(IMPORTED)
    with suppress(Exception):
        import_umap()
    while (order := socket.recv_fds(orders, MOST_BYTES, 2))[0]:
        parameters, (words, pipe) = json.loads(order[0]), order[1]
        if not CAN_FORK:
            status = _do(parameters, words, pipe, lambda: WaitingKernel.new(FOR_A_RUN))
            return orders.sendall(str(status).encode())
        child = os.fork()
        if child == 0:
            orders.close()
            os.setsid()
            os._exit(_do(parameters, words, pipe, WaitingKernel.forked))
        for descriptor in (words, pipe):
            os.close(descriptor)
        _, status = os.waitpid(child, 0)
        orders.sendall(str(os.waitstatus_to_exitcode(status)).encode())


def _do(parameters: str, words: int, pipe: int, new_kernel: Callable[[], WaitingKernel]) -> int:
    """Do one run in this process, and return its exit status."""
    for standard in (1, 2):
        os.dup2(words, standard)
    waiting = new_kernel()  # before there are other threads
    threading.Thread(target=_end_with, args=(pipe,), daemon=True).start()
    try:
        with exit_status():
            run_in_terminal(load_parameters(Path(parameters)), waiting)
        return 0
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        waiting.end()
        sys.stdout.flush()
        sys.stderr.flush()


def _end_with(pipe: int) -> None:
    """Wait until the other end of the pipe is closed, then end this process like Ctrl-C, and after that by force."""
    while os.read(pipe, 1024):
        pass
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    time.sleep(SECONDS_TO_END)
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
    serve(socket.socket(fileno=int(sys.argv[1])))
