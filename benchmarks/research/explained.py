"""Rank known markers among the features that drive a cell type.

    python -m benchmarks.research.explained          # prints the table of results/explained.csv
    python -m benchmarks.research.explained --run    # measures it anew

Integrated gradients from the mean annotated cell, as in the report, and from the empty cell, beside the plain difference of
means.
"""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
from scipy import sparse

from benchmarks.common import RESULTS, parameters_of, run_or_report, train
from jind_nb.results import attribution

OUTPUT = RESULTS / "explained.csv"
# A target of each set, and the markers from the literature that the set has.
SETS = {
    "pbmc_10x_symphony": (
        "3pv1",
        {
            "B": ["MS4A1", "CD79A"], "NK": ["GNLY", "NKG7"], "Mono_CD14": ["CD14", "LYZ"],
            "Mono_CD16": ["FCGR3A", "MS4A7"], "T_CD4": ["CD3D", "CD3E", "IL7R"], "T_CD8": ["CD3D", "CD8A"],
            "DC": ["FCER1A"],
        },
    ),
    "pbmc_onek1k_40donors": (
        "SAMP1", {"bmem": ["MS4A1"], "cd4nc": ["CD3D", "IL7R"], "monoc": ["LYZ"], "mononc": ["FCGR3A"]},
    ),
    "pancreas_3studies_small": ("Lawlor", {"alpha": ["GCG", "TTR"], "beta": ["INS"], "ductal": ["KRT19"]}),
    "pancreas_baron_human_mouse_6donors": (
        "human1",
        {
            "alpha": ["GCG", "TTR"], "beta": ["IAPP"], "delta": ["SST"], "activated_stellate": ["COL1A1"],
            "macrophage": ["CD14"],
        },
    ),
    "pancreas_wang_xin_baron": ("Wang", {"beta": ["IAPP"], "delta": ["SST"], "gamma": ["PPY"]}),
}  # fmt: skip
DONORS = 8  # of the 40 of OneK1K


def ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each feature in its row, 1 for the largest."""
    return (-values).argsort(axis=1, kind="stable").argsort(axis=1, kind="stable") + 1


def table_of(name: str) -> pd.DataFrame:
    """Return one row for each marker: its ranks among the features of its type."""
    target, markers = SETS[name]
    also = {"EXCLUDE_DATASETS_NAMES": [f"SAMP{i}" for i in range(DONORS + 1, 41)]} if "onek1k" in name else {}
    trained = train(parameters_of(name, target, **also))
    prepared, plan = trained.prepared, trained.plan
    x, y = sparse.csr_matrix(prepared.X), prepared.obs["cell_type"].cat.codes.to_numpy()
    model, n = trained.reference.model, len(plan.classes)
    start = time.monotonic()
    from_mean = attribution.attributions(model, x, y, n)
    seconds = time.monotonic() - start
    mean = attribution.mean_cell(x, y)
    ways = {
        "from the mean cell": ranks(from_mean),
        "from the empty cell": ranks(attribution.attributions(model, x, y, n, np.zeros(x.shape[1]))),
        "difference of means": ranks(np.array([np.asarray(x[y == k].mean(axis=0)).ravel() - mean for k in range(n)])),
    }
    rows = [
        {
            "set": name,
            "cell type": cell_type,
            "marker": marker,
            **{
                way: int(rank[plan.classes.index(cell_type), prepared.var_names.get_loc(marker)])
                for way, rank in ways.items()
            },
            "of": x.shape[1],
            "seconds": round(seconds, 2),
        }
        for cell_type, of_type in markers.items()
        for marker in of_type
    ]
    return pd.DataFrame(rows)


def run() -> None:
    pd.concat([table_of(name) for name in SETS], ignore_index=True).to_csv(OUTPUT, index=False)


def report() -> None:
    table = pd.read_csv(OUTPUT)
    print(table.to_string())
    ways = [column for column in table if column.startswith(("from", "difference"))]
    print(pd.DataFrame({"median rank": table[ways].median(), "among the first ten": (table[ways] <= 10).sum()}))
    print(f"{len(table)} markers")


if __name__ == "__main__":
    run_or_report(__doc__, run, report)
