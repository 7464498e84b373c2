"""By which criterion left-out batches should say whether the target is aligned (METHOD `default`).

    .venv/bin/python benchmarks/choice.py          # the table of what results/choice.csv holds
    .venv/bin/python benchmarks/choice.py --run    # computes it anew

The targets of benchmarks/accuracy.py, three seeds. Each is annotated both ways, and so are the annotated batches left out
for it. A criterion sees left-out batches alone; how right the target is for it is read from its labels afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import torch
from accuracy import CHECK, DESIGN, targets
from learned import RESULTS, command, labels_of_target, learn, parameters_of
from sklearn.metrics import f1_score

from jind_nb import metrics
from jind_nb.commands.compare import measure
from jind_nb.model import alignment, leave_one_out
from jind_nb.model.calibration import of_all_ways

OUTPUT = RESULTS / "choice.csv"
SEEDS = 3
OF_TARGET = ["macro_F1", "AURC", "raw_accuracy"]
OF_LEFT_OUT = ["right", "left-out AURC", "left-out macro-F1", "log loss"]


def one_target(name: str, target: str, roles: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """A row for each way: what left-out batches say of it, means over them, and how right the target is."""
    learned = learn(parameters_of(name, target, SEED=seed, **roles))
    evidence = leave_one_out.leave_batches_out(learned.reference)
    n_annotated = len(learned.plan.annotated)
    lessons = of_all_ways(evidence, learned.settings, n_annotated)
    learned.known.rules = {way: lesson.rule for way, lesson in lessons.items()}
    annotated, truth, rows = learned.annotate(), labels_of_target(learned.parameters), []
    for way, stage in ((alignment.SHARED, alignment.BEFORE), (alignment.ADAPTED, alignment.ALIGNED)):
        found = measure.scores(truth, annotated.stages[stage])
        said = pd.DataFrame([of_batch(batch, way) for batch in evidence if batch.could_be_known.any()])
        row = {"set": name, "target": target, "seed": seed, "way": way, "annotated": n_annotated}
        row |= {"assigned": lessons[way].mean("assigned")} | said.mean().to_dict()
        rows.append(row | {number: found[number] for number in OF_TARGET})
    return rows


def of_batch(batch: leave_one_out.LeftOut, way: str) -> dict[str, float]:
    """The cells of a left-out batch whose type could be known."""
    probabilities, y = batch.probabilities[way][batch.could_be_known], batch.y[batch.could_be_known]
    called = probabilities.argmax(axis=1)
    f1 = f1_score(y, called, average="macro", labels=np.unique(y), zero_division=0)
    of_truth = np.maximum(1e-6, probabilities[np.arange(len(y)), y])
    aurc = metrics.area_under_risk_coverage(probabilities.max(axis=1), called == y)
    return dict(zip(OF_LEFT_OUT, (float((called == y).mean()), aurc, f1, float(-np.log(of_truth).mean())), strict=True))


Criterion = Callable[
    [pd.Series, pd.Series], bool
]  # what left-out batches say of aligning, and of not: whether to align
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
    for name in (*DESIGN, *CHECK):
        for target, roles in targets(name)[:3]:
            for seed in range(SEEDS):
                rows += one_target(name, target, roles, seed)
            print(f"{name}, {target}", flush=True)
    pd.DataFrame(rows).round(6).to_csv(OUTPUT, index=False)


def report() -> None:
    """Medians over seeds, then means over targets, then over sets. A single annotated batch leaves none to leave out: no
    criterion aligns then."""
    rows = pd.read_csv(OUTPUT, dtype={"target": str})
    table = {}
    for words, criterion in CRITERIA.items():
        chosen = []
        for _, both in rows.groupby(["set", "target", "seed"], sort=False):
            of = both.set_index("way")
            aligned, not_aligned = of.loc[alignment.ADAPTED], of.loc[alignment.SHARED]
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
    command(__doc__, run, report)
