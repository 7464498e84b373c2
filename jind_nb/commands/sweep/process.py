"""The process of one run of a sweep: `jind-nb run`, which ends when the worker that started it ends.

    python -m jind_nb.commands.sweep.process PARAMETERS        # standard input: a pipe that the worker keeps open

A worker may be killed at any moment and then cannot end the run; but the system closes its pipe.
"""

import os
import signal
import sys
import threading
import time
from contextlib import suppress

import psutil

from ...core.parameters import load_parameters
from ..run_process import run_in_terminal
from ..terminal import exit_status

SECONDS_TO_END = 5


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
    pipe = os.dup(0)
    # The processes that this one starts must not read the pipe.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    threading.Thread(target=_end_with, args=(pipe,), daemon=True).start()

    with exit_status():
        run_in_terminal(load_parameters(sys.argv[1]))
