"""The process of one run of a sweep: `jind-nb run` that ends with the worker that started it.

    python -m jind_nb.in_sweep PARAMETERS        # its standard input is a pipe that the worker keeps open

A worker may be killed at any moment, and then can end nothing itself; the system closes its pipes.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress

SECONDS_TO_END = 5


def _end_with(pipe: int) -> None:
    """Waits until nobody holds the other end of the pipe, then ends this process like Ctrl-C, or by force."""
    while os.read(pipe, 1024):
        pass
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    time.sleep(SECONDS_TO_END)
    import psutil

    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(1)


def _main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
    pipe = os.dup(0)
    # What this process starts must not read the pipe.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    threading.Thread(target=_end_with, args=(pipe,), daemon=True).start()
    from .cli import main

    sys.argv = ["jind-nb", "run", sys.argv[1]]
    main()


if __name__ == "__main__":
    _main()
