"""METHOD `reference` beside the JIND-Multi program itself, on four of the shared sets.

    .venv/bin/python benchmarks/reference.py            # three seeds each, about 20 minutes on two cores

Each row is a whole `jind-nb run`, notebooks and reports included, in a process of its own. `mathematics` are the
seconds of the notebook cells that train and align; `overhead` is the rest of the wall time. The other program's
numbers were measured by the project's founders on this kind of machine (2 cores, MIN_CELL_TYPE_POPULATION 5, its
defaults); it predicts only the cells it keeps, so both of its accuracies are given.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import pandas as pd

HERE = Path(__file__).resolve().parent
MATHEMATICS = ("training.start(", "training.adapt(", "training.retrain(", "alignment.align(", "alignment.annotate(")
# Over the cells it kept / over all target cells; rejection, effective accuracy, mAP; seconds.
PROGRAM = {
    "pbmc_10x_symphony": "0.912 / 0.890; 5.7 %; 0.933; mAP 0.988; 44 s, 0.77 GB",
    "scatac_granja_bmmc_2donors": "0.546; 4.6 %; 0.563; 27 s",
    "pancreas_3studies_small": "0.877; 0 %; 0.877; 22 s",
    "cellbench_6batches": "1.000 / 0.345 (87 of 252 cells)",
}


def one_run(name: str, seed: int, folder: Path) -> dict[str, object]:
    """Runs one set with one seed; its numbers."""
    start = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "jind_nb.cli", "run", HERE / "parameters" / f"{name}.yaml", "-s", f"SEED={seed}",
         "--output-path", folder],
        check=True, env=os.environ | {"PYTHONWARNINGS": "ignore"}, capture_output=True,
    )  # fmt: skip
    wall = time.monotonic() - start
    metrics = json.loads((folder / "metrics.json").read_text())["target"]
    manifest = json.loads((folder / "manifest.json").read_text())
    known = metrics["labelled_known_types"]
    mathematics = sum(
        cell.metadata.papermill.duration
        for stage in ("2_train", "3_align")
        for cell in nbformat.read(folder / "notebooks" / f"{stage}.ipynb", 4).cells
        if cell.cell_type == "code" and any(call in cell.source for call in MATHEMATICS)
    )
    return {
        "set": name,
        "seed": seed,
        "predicted": metrics["cells"],
        "raw accuracy, all cells": metrics["labelled"]["raw_accuracy"],
        "raw, known types": known["raw_accuracy"],
        "macro-F1": metrics["labelled"]["macro_F1"],
        "rejection": metrics["rejection"],
        "effective": metrics["labelled"]["effective_accuracy"],
        "mAP, known types": known["mAP"],
        "wall s": wall,
        "mathematics s": mathematics,
        "overhead s": wall - mathematics,
        "peak GB": max(manifest["peak_memory_bytes"].values()) / 1e9,
    }


def main() -> None:
    """Prints every run and the medians, and writes both to benchmarks/results/reference.csv."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--sets", nargs="*", default=list(PROGRAM))
    asked = arguments.parse_args()
    rows = []
    for name in asked.sets:
        for seed in range(asked.seeds):
            with tempfile.TemporaryDirectory() as folder:
                rows.append(one_run(name, seed, Path(folder)))
            print({k: round(v, 3) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
    table = pd.DataFrame(rows)
    medians = table.drop(columns="seed").groupby("set", sort=False).agg(statistics.median).round(3).reset_index()
    medians["the JIND-Multi program"] = medians["set"].map(PROGRAM)
    print(f"\nMedians of {asked.seeds} seeds:\n")
    print(medians.set_index("set").T.to_string())
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    table.round(4).to_csv(results / "reference.csv", index=False)


if __name__ == "__main__":
    main()
