"""A saved model on a new file: what annotates it best without training, and how many of its features it can miss.

    .venv/bin/python benchmarks/new_file.py

For each set one model is trained without the target batch; the target then plays the new file, as `jind-nb predict` would
have it. Missing features are drawn at random, three times over, and filled with zero or with the mean over the annotated
cells. Labels of the target are read to count what is right, and for nothing else.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from jind_nb import alignment, data, left_out, training
from jind_nb.calibration import of_all_ways
from jind_nb.metrics import area_under_risk_coverage
from jind_nb.parameters import make_parameters
from jind_nb.rejection import Predictions, Rule

HERE = Path(__file__).resolve().parent
SHARED_DATA = Path(os.environ.get("JIND_NB_SHARED", HERE.parent.parent / "shared" / "data"))
RESULTS = HERE / "results" / "new_file.csv"
SETS = {
    "pbmc_10x_symphony": "3pv1",
    "pancreas_3studies_small": "Lawlor",
    "pancreas_baron_human_mouse_6donors": "human3",
    "pancreas_wang_xin_baron": "Wang",
    "cellbench_6batches": "CELseq2_5cl_p3",
    "scatac_granja_bmmc_2donors": "BMMC_D5T1",
}
MISSING = (0.0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.9)
DRAWS = 3


def filled(x: sparse.csr_matrix, missing: np.ndarray, fill: np.ndarray | None) -> sparse.csr_matrix:
    """The cells with some features missing (bool, p): zero, or the given value of each feature."""
    dense = x.toarray()
    dense[:, missing] = 0 if fill is None else fill[missing]
    return sparse.csr_matrix(dense)


def one_set(name: str, target: str) -> list[dict[str, Any]]:
    parameters = make_parameters(
        {
            "PATH": str(SHARED_DATA / f"{name}.h5ad"), "BATCH_COL": "batch", "LABELS_COL": "celltype",
            "TARGET_DATASET_NAME": target, "OUTPUT_PATH": "unused", "MIN_CELL_TYPE_POPULATION": 5, "USE_GPU": False,
            "ALIGN": False,
        }
    )  # fmt: skip
    cells = data.read_cells(parameters)
    plan = data.make_plan(parameters, cells)
    prepared = data.prepare(parameters, cells, plan)
    settings = training.Settings.of(parameters)
    reference = training.start(prepared, plan, settings)
    training.learn_intermediates(reference)
    evidence = left_out.leave_batches_out(reference)
    rule = of_all_ways(evidence, settings, len(plan.annotated))[alignment.SHARED].rule
    known = alignment.known_codes(reference)
    x = sparse.csr_matrix(prepared[(prepared.obs["batch"] == target).to_numpy()].X)
    means = np.asarray(prepared[(prepared.obs["batch"] != target).to_numpy()].X.mean(axis=0), dtype=np.float32).ravel()
    labels = data.read_target_labels(parameters)
    could_be_known = np.isin(labels.astype(str), plan.classes)

    def row(way: str, share: float, fill: str, judged: Predictions) -> dict[str, Any]:
        right, kept = (judged.raw == labels)[could_be_known], ~judged.rejected[could_be_known]
        return {
            "set": name, "annotated by": way, "missing": share, "filled with": fill, "raw accuracy": right.mean(),
            "assigned": kept.mean(), "error among assigned": 1 - right[kept].mean() if kept.any() else np.nan,
            "AURC": area_under_risk_coverage(judged.confidence[could_be_known], right),
        }  # fmt: skip

    rows = []
    annotators = [reference.annotator(batch) for batch in reference.adapters]
    probabilities = np.mean(
        [training.decode(a.head, training.encode(a, x, settings.device), settings.device) for a in annotators], axis=0
    )
    held_out = training.decode(reference.model.head, known.held_out, settings.device)
    mean = Predictions.by(Rule(), plan.classes, probabilities, held_out, settings.theta)
    rows.append(row("mean over the annotated batches' adapters", 0.0, "", mean))
    random = np.random.default_rng(0)
    for share in MISSING:
        for _ in range(DRAWS if share else 1):
            missing = random.random(x.shape[1]) < share
            for fill, values in (("zero", None), ("mean", means)):
                codes = training.encode(reference.model, filled(x, missing, values), settings.device)
                judged = known.judge(reference.model, codes, settings, rule, known.novelty(codes))
                rows.append(row("shared encoder and head", share, fill, judged))
    return rows


def main() -> None:
    torch.set_num_threads(1)
    table = pd.DataFrame([row for name, target in SETS.items() for row in one_set(name, target)])
    table.round(4).to_csv(RESULTS, index=False)
    whole = table[table["missing"] == 0]
    print("Raw accuracy (AURC) with all features:")
    for name, rows in whole.groupby("set", sort=False):
        best = rows.drop_duplicates("annotated by").set_index("annotated by")
        print(
            f"  {name}: " + "; ".join(f"{way} {r['raw accuracy']:.3f} ({r['AURC']:.3f})" for way, r in best.iterrows())
        )
    shared = table[table["annotated by"] == "shared encoder and head"]
    columns = ["raw accuracy", "assigned", "error among assigned"]
    print("\nMeans over sets and draws, by share of features missing:")
    print(shared.groupby(["missing", "filled with"])[columns].mean().round(3).unstack().to_string())
    print("\nRaw accuracy by set, filled with the mean:")
    by_mean = shared[shared["filled with"] == "mean"]
    print(by_mean.pivot_table(index="set", columns="missing", values="raw accuracy", sort=False).round(3).to_string())


if __name__ == "__main__":
    main()
