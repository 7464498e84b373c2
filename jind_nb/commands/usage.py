"""TODO."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psutil


@dataclass
class Usage:
    """Wall seconds and peak memory (bytes, this process and its kernels) of each stage."""

    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Measures what happens inside: memory is looked at five times a second."""
        done = threading.Event()
        self.peak_memory[stage] = 0

        def watch() -> None:
            while True:
                self.peak_memory[stage] = max(self.peak_memory[stage], _memory_of_tree())
                if done.wait(0.2):
                    return

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = round(time.monotonic() - start, 2)
            done.set()
            watcher.join()


def _memory_of_tree() -> int:
    total = 0
    here = psutil.Process()
    for process in [here, *here.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total
