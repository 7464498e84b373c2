"""A saved model on a new file: what annotates it best without training, and how many of its features it can miss.

    .venv/bin/python benchmarks/new_file.py

For each set one model is trained without the target batch; the target then plays the new file, as `jind-nb predict` would
have it. Missing features are drawn at random, three times over, and filled with zero or with the mean over the annotated
cells. Labels of the target are read to count what is right, and for nothing else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from learned import RESULTS, labels_of_target, learn, parameters_of
from scipy import sparse

from jind_nb.metrics import area_under_risk_coverage
from jind_nb.model import alignment, leave_one_out, training
from jind_nb.model.calibration import of_all_ways
from jind_nb.model.predictions import Predictions, Rule

OUTPUT = RESULTS / "new_file.csv"
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
    in_run = learn(parameters_of(name, target, ALIGN=False))
    learned = learn(in_run.parameters, unseen=True)
    reference, known, settings, classes = learned.reference, learned.known, learned.settings, learned.plan.classes
    evidence = leave_one_out.leave_batches_out(reference)
    rule = of_all_ways(evidence, settings, len(reference.batches))[alignment.SHARED].rule
    x, means = learned.x, learned.means
    labels = labels_of_target(learned.parameters)
    could_be_known = np.isin(labels.astype(str), classes)

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
    mean = Predictions.by(Rule(), classes, probabilities, held_out, settings.theta)
    rows.append(row("mean over the annotated batches' adapters", 0.0, "", mean))
    of_run = in_run.known.predict(in_run.reference.model, in_run.x, settings)
    rows.append(row("in a run of its own, not aligned", 0.0, "", of_run))
    random = np.random.default_rng(0)
    for share in MISSING:
        for _ in range(DRAWS if share else 1):
            missing = random.random(x.shape[1]) < share
            for fill, values in (("zero", None), ("mean", means)):
                codes = training.encode(reference.model, filled(x, missing, values), settings.device)
                judged = known.judge(
                    reference.model,
                    codes,
                    settings,
                    rule,
                    known.novelty(codes + alignment.translate(reference.model.head, codes, known, settings)[0]),
                )
                rows.append(row("shared encoder and head", share, fill, judged))
    return rows


def main() -> None:
    torch.set_num_threads(1)
    table = pd.DataFrame([row for name, target in SETS.items() for row in one_set(name, target)])
    table.round(4).to_csv(OUTPUT, index=False)
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
    print("\nRaw accuracy by set, filled with zero:")
    by_zero = shared[shared["filled with"] == "zero"]
    print(by_zero.pivot_table(index="set", columns="missing", values="raw accuracy", sort=False).round(3).to_string())


if __name__ == "__main__":
    main()
