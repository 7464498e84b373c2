"""How long a stage takes, and how much memory."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil


@contextmanager
def measured_usage() -> Iterator[dict[str, Any]]:
    """Measure the wall seconds and the peak memory (bytes) of this process and its kernels in a `with` block.

    Yields
    ------
    A dictionary that holds `seconds` and `peak_memory_bytes` once the block has ended. Memory is sampled five times a
    second.
    """
    usage: dict[str, Any] = {"peak_memory_bytes": _memory_of_tree()}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            usage["peak_memory_bytes"] = max(usage["peak_memory_bytes"], _memory_of_tree())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start = time.monotonic()
    try:
        yield usage
    finally:
        usage["seconds"] = round(time.monotonic() - start, 2)
        ended.set()
        watcher.join()


def _memory_of_tree() -> int:
    """Return the resident memory, in bytes, of this process and all it has started."""
    total = 0
    this_process = psutil.Process()
    for process in [this_process, *this_process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total
