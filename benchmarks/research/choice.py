"""Measure by which criterion left-out batches should decide whether the target is aligned (METHOD `default`).

    python -m benchmarks.research.choice          # prints the table of results/choice.csv
    python -m benchmarks.research.choice --run    # measures it anew

The targets of benchmarks/product/accuracy.py, three seeds. Each is annotated in both alignment modes, and so are the
annotated batches that are left out for it. A criterion sees left-out batches alone. The target's labels are read afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import f1_score

from benchmarks.common import (
    ALIGNED,
    CHECK,
    DESIGN,
    MODES,
    NOT_ALIGNED,
    RESULTS,
    SETS,
    TARGETS_OF_A_SET,
    BothModes,
    LeftOut,
    labels_of_target,
    measure,
    parameters_of,
    read_rows,
    run_or_report,
    targets,
)
from jind_nb import metrics

OUTPUT = RESULTS / "choice.csv"
SEEDS = 3
OF_TARGET = ["macro_F1", "AURC", "raw_accuracy"]
OF_LEFT_OUT = ["right", "left-out AURC", "left-out macro-F1", "log loss"]


def one_target(name: str, target: str, roles: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """Return a row for each mode: means over the left-out batches, and numbers of the target."""
    parameters = parameters_of(name, target, SEED=seed, **roles)
    annotated = BothModes(parameters)
    truth, rows = labels_of_target(parameters), []
    for mode in MODES:
        calibrated = annotated.calibrate(mode)
        of_target = measure.scores(truth, annotated.predict(mode, calibrated))
        of_left_out = [of_batch(batch, mode) for batch in annotated.left_out if batch.could_be_known.any()]
        row = {"set": name, "target": target, "seed": seed, "way": mode, "annotated": len(annotated.plan.annotated)}
        row |= {"assigned": calibrated.mean("assigned")} | pd.DataFrame(of_left_out).mean().to_dict()
        rows.append(row | {number: of_target[number] for number in OF_TARGET})
    return rows


def of_batch(batch: LeftOut, mode: str) -> dict[str, float]:
    """Return numbers of the cells of a left-out batch whose type its model was trained on."""
    probabilities, y = batch.probabilities[mode][batch.could_be_known], batch.y[batch.could_be_known]
    called = probabilities.argmax(axis=1)
    f1 = f1_score(y, called, average="macro", labels=np.unique(y), zero_division=0)
    of_truth = np.maximum(1e-6, probabilities[np.arange(len(y)), y])
    aurc = metrics.area_under_risk_coverage(probabilities.max(axis=1), called == y)
    return dict(zip(OF_LEFT_OUT, (float((called == y).mean()), aurc, f1, float(-np.log(of_truth).mean())), strict=True))


# From the numbers of the left-out batches, aligned and not aligned, to whether the target is aligned.
Criterion = Callable[[pd.Series, pd.Series], bool]
CRITERIA: dict[str, Criterion] = {
    "never": lambda aligned, not_aligned: False,
    "always": lambda aligned, not_aligned: True,
    "mean AURC before calibration; on ties more assigned": lambda aligned, not_aligned: (
        (-aligned["left-out AURC"], aligned["assigned"]) > (-not_aligned["left-out AURC"], not_aligned["assigned"])
    ),
    "right cells; on ties more assigned (used)": lambda aligned, not_aligned: (
        (aligned["right"], aligned["assigned"]) > (not_aligned["right"], not_aligned["assigned"])
    ),
    "right cells; on ties never": lambda aligned, not_aligned: aligned["right"] > not_aligned["right"],
    "macro-F1": lambda aligned, not_aligned: aligned["left-out macro-F1"] > not_aligned["left-out macro-F1"],
    "log loss": lambda aligned, not_aligned: aligned["log loss"] < not_aligned["log loss"],
    "the target's own labels (cannot be had)": lambda aligned, not_aligned: (
        aligned["macro_F1"] > not_aligned["macro_F1"]
    ),
}


def run() -> None:
    torch.set_num_threads(1)
    rows = []
    for name in SETS:
        for target, roles in targets(name)[:TARGETS_OF_A_SET]:
            for seed in range(SEEDS):
                rows += one_target(name, target, roles, seed)
            print(f"{name}, {target}", flush=True)
    pd.DataFrame(rows).round(6).to_csv(OUTPUT, index=False)


def report() -> None:
    """Print medians over seeds, then means over targets, then over sets.

    With a single annotated batch nothing can be left out, and no criterion aligns.
    """
    rows = read_rows(OUTPUT)
    table = {}
    for words, criterion in CRITERIA.items():
        chosen = []
        for _, both in rows.groupby(["set", "target", "seed"], sort=False):
            of = both.set_index("way")
            aligned, not_aligned = of.loc[ALIGNED], of.loc[NOT_ALIGNED]
            aligns = criterion(aligned, not_aligned) and (aligned["annotated"] > 1 or words == "always")
            chosen.append((aligned if aligns else not_aligned).to_dict() | {"aligned": float(aligns)})
        of_targets = pd.DataFrame(chosen).groupby(["set", "target"])[[*OF_TARGET, "aligned"]].median()
        of_sets = of_targets.groupby("set").mean()
        table[words] = {
            f"{number}, {group}": of_sets.loc[list(sets), number].mean()
            for group, sets in (("design", DESIGN), ("check", CHECK))
            for number in (*OF_TARGET, "aligned")
        }
    print(pd.DataFrame(table).T.to_string(float_format="{:.4f}".format))


if __name__ == "__main__":
    run_or_report(__doc__, run, report)
