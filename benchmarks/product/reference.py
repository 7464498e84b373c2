"""Compare METHOD `reference` with the JIND-Multi program itself, on four of the shared sets.

    OMP_NUM_THREADS=2 python -m benchmarks.product.reference     # three seeds each, about 20 minutes on two cores

Each row is a whole `jind-nb run`, notebooks and reports included, in a process of its own. `mathematics` are the
seconds of the notebook cells that train and align; `overhead` is the rest of the wall time. The other program's
numbers were measured by the project's founders on this kind of machine (2 cores, MIN_CELL_TYPE_POPULATION 5, its
defaults); it predicts only the cells it keeps, so both of its accuracies are given.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import nbformat
import pandas as pd
import yaml

from benchmarks.common import RESULTS, SHARED_DATA, jind_nb, parser_of

# Source, target and intermediates of each set.
ROLES: dict[str, tuple[str, str, list[str]]] = {
    "pbmc_10x_symphony": ("3pv2", "3pv1", ["5p"]),
    "scatac_granja_bmmc_2donors": ("BMMC_D6T1", "BMMC_D5T1", []),
    "pancreas_3studies_small": ("Baron", "Lawlor", ["Segerstolpe"]),
    "cellbench_6batches": ("10x_5cl", "CELseq2_5cl_p3", ["CELseq2", "Dropseq", "CELseq2_5cl_p1", "CELseq2_5cl_p2"]),
}
# The cells of the notebooks that train and align make one of these calls.
MATHEMATICS = ("train(prepared", "annotate_with_model(")
# Over the cells it kept / over all target cells; rejection, effective accuracy, mAP; seconds.
PROGRAM = {
    "pbmc_10x_symphony": "0.912 / 0.890; 5.7 %; 0.933; mAP 0.988; 44 s, 0.77 GB",
    "scatac_granja_bmmc_2donors": "0.546; 4.6 %; 0.563; 27 s",
    "pancreas_3studies_small": "0.877; 0 %; 0.877; 22 s",
    "cellbench_6batches": "1.000 / 0.345 (87 of 252 cells)",
}


def one_run(name: str, seed: int, folder: Path) -> dict[str, object]:
    """Run one set with one seed and return its numbers."""
    source, target, intermediates = ROLES[name]
    parameters, run = folder / "parameters.yaml", folder / "run"
    values = {
        "PATH": str(SHARED_DATA / f"{name}.h5ad"), "BATCH_COL": "batch", "LABELS_COL": "celltype", "METHOD": "reference",
        "SOURCE_DATASET_NAME": source, "TARGET_DATASET_NAME": target, "INTER_DATASETS_NAMES": intermediates,
        "MIN_CELL_TYPE_POPULATION": 5, "SEED": seed, "OUTPUT_PATH": str(run),
    }  # fmt: skip
    parameters.write_text(yaml.safe_dump(values))
    start = time.monotonic()
    subprocess.run(
        jind_nb("run", parameters),
        check=True,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
        capture_output=True,
    )
    wall = time.monotonic() - start
    metrics = json.loads((run / "metrics.json").read_text())["target"]
    manifest = json.loads((run / "manifest.json").read_text())
    known = metrics["labelled_known_types"]
    mathematics = seconds_of_mathematics(run / "notebooks")
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


def seconds_of_mathematics(notebooks: Path) -> float:
    """Return the seconds of the cells that train and align.

    Raises
    ------
    SystemExit
        If a call of MATHEMATICS is in no cell: the notebooks were changed, and the list must be too.
    """
    seconds, missing = 0.0, set(MATHEMATICS)
    for stage in ("2_train", "3_align"):
        for cell in nbformat.read(notebooks / f"{stage}.ipynb", 4).cells:
            calls = {call for call in MATHEMATICS if cell.cell_type == "code" and call in cell.source}
            missing -= calls
            seconds += cell.metadata.papermill.duration if calls else 0.0
    if missing:
        raise SystemExit(f"No notebook calls {', '.join(sorted(missing))}: change MATHEMATICS in {__file__}.")
    return seconds


def main() -> None:
    """Print every run and the medians; results/reference.csv gets the runs."""
    arguments = parser_of(__doc__)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--sets", nargs="*", default=list(ROLES), choices=list(ROLES))
    options = arguments.parse_args()
    rows = []
    for name in options.sets:
        for seed in range(options.seeds):
            with tempfile.TemporaryDirectory() as folder:
                rows.append(one_run(name, seed, Path(folder)))
            print({k: round(v, 3) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
    table = pd.DataFrame(rows)
    medians = table.drop(columns="seed").groupby("set", sort=False).agg(statistics.median).round(3).reset_index()
    medians["the JIND-Multi program"] = medians["set"].map(PROGRAM)
    print(f"\nMedians of {options.seeds} seeds:\n")
    print(medians.set_index("set").T.to_string())
    table.round(4).to_csv(RESULTS / "reference.csv", index=False)


if __name__ == "__main__":
    main()
