"""Whether TARGET_ERROR holds, and what probabilities and novelty are worth, batch left out by batch left out.

    .venv/bin/python benchmarks/target_error.py            # the table of what results/target_error.csv holds
    .venv/bin/python benchmarks/target_error.py --run      # runs what is missing there, then prints it

Every batch of every shared set (of the 40 donors three, each with eight others) is a target once: METHOD `default` learns
from the other batches, leaves some of those out to learn thresholds from, and annotates the target; only then are the
target's labels read. Everything is done after alignment and without; `as chosen`
is what a run does, which asks the left-out batches.
"""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import torch
from learned import RESULTS, SHARED_DATA, command, labels_of_target, learn, parameters_of
from scipy.stats import binomtest

from jind_nb import metrics
from jind_nb.model import alignment, calibration, leave_one_out
from jind_nb.model.predictions import Predictions, Rule

OUTPUT = RESULTS / "target_error.csv"
ALPHAS = (0.05, 0.1)
NUM_FEATURES = 2000  # for time; only two of the sets have more
MANY_BATCHES, TARGETS_OF_MANY, OTHERS_OF_MANY = 10, 3, 8


def targets(file: Path) -> list[tuple[str, list[str]]]:
    """Each target of a set with the batches to learn from (empty: all others)."""
    batches = list(dict.fromkeys(ad.read_h5ad(file, backed="r").obs["batch"].astype(str)))
    if len(batches) <= MANY_BATCHES:
        return [(batch, []) for batch in batches]
    return [(batches[i], batches[i + 1 : i + 1 + OTHERS_OF_MANY]) for i in range(0, 30, 10)][:TARGETS_OF_MANY]


def one_target(file: Path, target: str, others: list[str]) -> list[dict[str, Any]]:
    """Learns, calibrates, annotates and only then looks at the labels: a row for each way and rule."""
    learned = learn(
        parameters_of(file.stem, target, INTER_DATASETS_NAMES=others, NUM_FEATURES=NUM_FEATURES, TARGET_ERROR=ALPHAS[0])
    )
    evidence = leave_one_out.leave_batches_out(learned.reference)
    annotated = learned.annotate()
    plan, known, settings = learned.plan, learned.known, learned.settings
    truth = labels_of_target(learned.parameters)
    lessons = calibration.of_all_ways(evidence, settings, len(plan.annotated))
    chosen, rows = calibration.best_way(lessons)[0], []
    for way, stage, model in (
        (alignment.SHARED, alignment.BEFORE, learned.reference.model),
        (alignment.ADAPTED, alignment.ALIGNED, annotated.model),
    ):
        for alpha in (None, *ALPHAS):
            lesson = calibration.calibrate(evidence, way, settings.theta, alpha, len(plan.annotated))
            judged = known.judge(model, annotated.codes[stage], settings, lesson.rule, annotated.novelty)
            plain = known.judge(model, annotated.codes[stage], settings, Rule())
            rows.append(
                {"set": file.stem, "target": target, "annotated": len(plan.annotated), "way": way}
                | {"chosen": way == chosen}
                | {"rule": "REJECTION 0.05" if alpha is None else f"TARGET_ERROR {alpha}"}
                | what_happened(truth, judged, plain, plan.classes)
                | {
                    "expected error": lesson.mean("error_among_assigned"),
                    "highest left-out error": (lesson.range("error_among_assigned") or (None, None))[1],
                    "left out": len(lesson.batches),
                    "temperature": lesson.temperature,
                    "threshold": lesson.threshold,
                }
            )
    return rows


def what_happened(truth: np.ndarray, judged: Predictions, plain: Predictions, classes: list[str]) -> dict[str, Any]:
    """The target by its own labels; `known` are cells of types that could be known."""
    known, kept, right = np.isin(truth.astype(str), classes), ~judged.rejected, judged.raw == truth
    unlike = judged.unlike if judged.unlike is not None else np.zeros(len(truth), dtype=bool)

    def error(rows: np.ndarray) -> float | None:
        return float(1 - right[rows].mean()) if rows.any() else None

    return {
        "cells": len(truth),
        "unknown type": int((~known).sum()),
        "raw accuracy": float(right[known].mean()),
        "assigned": float(kept[known].mean()),
        "error": error(kept & known),
        "error, all types": error(kept),
        "network calibration error": metrics.calibration_error(plain.confidence[known], right[known]),
        "calibration error": metrics.calibration_error(judged.confidence[known], right[known]),
        "AURC": metrics.area_under_risk_coverage(judged.confidence[known], right[known]),
        "unlike, known types": float(unlike[known].mean()),
        "unlike, unknown types": float(unlike[~known].mean()) if (~known).any() else None,
        "rejected, unknown types": float((~kept)[~known].mean()) if (~known).any() else None,
    }


def run() -> None:
    """Appends the rows of every target not in the results yet."""
    torch.set_num_threads(1)
    done = set()
    if OUTPUT.exists():
        done = set(pd.read_csv(OUTPUT, dtype={"target": str})[["set", "target"]].itertuples(index=False, name=None))
    files = sorted(SHARED_DATA.glob("*.h5ad"), key=lambda file: file.stat().st_size)
    jobs = [(i, file, target, others) for file in files for i, (target, others) in enumerate(targets(file))]
    # One target of each set before a second of any, so that a run that is stopped has seen all sets.
    for _, file, target, others in sorted(jobs, key=lambda job: job[0]):
        if (file.stem, target) in done:
            continue
        began = time.monotonic()
        rows = one_target(file, target, others)
        new = not OUTPUT.exists()
        with OUTPUT.open("a", newline="") as stream:
            writer = csv.DictWriter(stream, [*rows[0], "seconds"])
            if new:
                writer.writeheader()
            writer.writerows(row | {"seconds": round(time.monotonic() - began)} for row in rows)
        print(f"{file.stem}, {target}: {time.monotonic() - began:.0f} s", flush=True)


def share_held(held: pd.Series) -> str:
    """A share of batches with its 95 % binomial interval (Clopper-Pearson)."""
    interval = binomtest(int(held.sum()), len(held)).proportion_ci()
    return f"{held.sum()} of {len(held)} ({interval.low:.2f} to {interval.high:.2f})"


def report() -> None:
    """Prints what the results say."""
    both = pd.read_csv(OUTPUT, dtype={"target": str})
    table, lines = pd.concat([both, both[both["chosen"]].assign(way="as chosen")]), []
    for (way, rule), rows in table.groupby(["way", "rule"], sort=False):
        line: dict[str, Any] = {"annotated": way, "rule": rule, "targets": len(rows)}
        for words, some in (("four or more annotated", rows["annotated"] >= 4), ("fewer", rows["annotated"] < 4)):
            if rule.startswith("TARGET_ERROR"):
                alpha = float(rule.split()[1])
                # No cell assigned is no error.
                line[f"held, {words}"] = share_held((rows["error"].fillna(0) <= alpha)[some])
        line |= {
            "mean assigned": rows["assigned"].mean(),
            "none assigned": int((rows["assigned"] == 0).sum()),
            "mean error": rows["error"].mean(),
            "mean expected error": rows["expected error"].mean(),
            "within 0.05 of expected": f"{((rows['error'] - rows['expected error']).abs() <= 0.05).sum()}",
            "raw accuracy": rows["raw accuracy"].mean(),
            "AURC": rows["AURC"].mean(),
            "calibration error: network, calibrated": f"{rows['network calibration error'].mean():.3f}, "
            f"{rows['calibration error'].mean():.3f}",
        }
        lines.append(line)
    print(pd.DataFrame(lines).round(3).fillna("").set_index(["annotated", "rule"]).T.to_string())
    novel = table[(table["rule"] == "REJECTION 0.05") & (table["way"] == "as chosen")]
    print(
        f"\nCalled unlike the reference: {100 * novel['unlike, known types'].mean():.1f} % of the cells of known types "
        f"(mean over targets; highest {100 * novel['unlike, known types'].max():.1f} %), "
        f"{100 * novel['unlike, unknown types'].mean():.1f} % of those of types only the target has "
        f"({novel['unlike, unknown types'].notna().sum()} targets)."
    )


if __name__ == "__main__":
    command(__doc__, run, report)
