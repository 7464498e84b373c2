"""Where the seconds of `jind-nb predict` go: wall and CPU seconds (of all threads) from each step to the next.

OMP_NUM_THREADS=1 .venv/bin/python benchmarks/predict_parts.py MODEL_DIR H5AD
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from jind_nb.commands import predict
from jind_nb.data import layers
from jind_nb.model import alignment, projection

# What is done when each of these returns, in the order they are called.
STEPS = {
    (layers, "_input_file"): "the file checked, its tables read",
    (layers, "_recognise_files"): "values read, to see what they are",
    (predict, "_encode"): "values read again, scaled, features chosen, encoded; fingerprints",
    (alignment, "translate"): "types compared, for novelty",
    (alignment.KnownCodes, "novelty"): "distance to the annotated cells",
    (projection, "neighbours"): "neighbours among the file's own cells",
    (predict, "_annotate"): "answers, table",
    (predict, "read_obs_of_whole"): "everything in the file read, to see that it is whole",
    (predict, "write_predictions"): "parquet and xlsx written; the file copied and hashed meanwhile",
}


class Clock:
    """Wall and CPU seconds spent in each step."""

    def __init__(self) -> None:
        self.spent: dict[str, tuple[float, float]] = {}
        self.last = time.monotonic(), time.process_time()

    def enter(self, step: str) -> None:
        now, (wall, cpu) = (time.monotonic(), time.process_time()), self.spent.get(step, (0.0, 0.0))
        self.spent[step] = wall + now[0] - self.last[0], cpu + now[1] - self.last[1]
        self.last = now

    def watch(self, where: Any, name: str, step: str) -> None:
        """Makes a function enter what went by since the last one returned."""
        function = getattr(where, name)

        def watched(*arguments: Any, **named: Any) -> Any:
            result = function(*arguments, **named)
            self.enter(step)
            return result

        setattr(where, name, watched)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("h5ad", type=Path)
    asked = parser.parse_args()
    clock = Clock()
    for (where, name), step in STEPS.items():
        clock.watch(where, name, step)
    with tempfile.TemporaryDirectory(dir=asked.h5ad.parent) as folder:
        predict.predict(asked.model, asked.h5ad, Path(folder) / "predicted")
    clock.enter("the rest")
    for step, (wall, cpu) in clock.spent.items():
        print(f"{step:66s} wall {wall:6.1f} s, CPU {cpu:5.1f} s")
