"""Print where the CPU seconds of `jind-nb predict` go: of all threads, by function of ours, what it calls included.

OMP_NUM_THREADS=1 python -m benchmarks.research.predict_parts MODEL_DIR H5AD
"""

from __future__ import annotations

import cProfile
import pstats
import sys
import tempfile
import threading
import time
from pathlib import Path

from jind_nb.commands.predict import Options, predict

MOST = 40  # functions


def profiled(model: Path, h5ad: Path) -> pstats.Stats:
    """Return the profile of one prediction; the profiler itself makes small functions slower."""
    profiles = [cProfile.Profile(time.thread_time)]
    run_plainly = threading.Thread.run

    def run(thread: threading.Thread) -> None:
        profiles.append(cProfile.Profile(time.thread_time))
        profiles[-1].runcall(run_plainly, thread)

    threading.Thread.run = run  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        profiles[0].runcall(predict, model, h5ad, Path(folder) / "out", Options())
    return pstats.Stats(*profiles)


if __name__ == "__main__":
    began = time.process_time()
    print(f"imports: {began:.1f} CPU s")
    stats = profiled(*map(Path, sys.argv[1:3]))
    print(f"all else: {time.process_time() - began:.1f} CPU s")
    stats.sort_stats("cumulative").print_stats("jind_nb", MOST)
