"""Measure whether TARGET_ERROR holds, and what probabilities and novelty are worth, one batch after the other as target.

    python -m benchmarks.product.target_error            # prints the table of results/target_error.csv
    python -m benchmarks.product.target_error --run      # measures what is missing there first

Every batch of nine shared sets (of the 40 donors three, each with eight others) is a target once. METHOD `default` trains on
the other batches, leaves some of those out to choose thresholds, and annotates the target; only then are the target's labels
read. All numbers are given with alignment and without. `as chosen` is what a run
answers; in rows measured at commit 5512574 or before, left-out batches chose one of the two.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest

from benchmarks.common import (
    ALIGNED,
    MODES,
    RESULTS,
    SETS,
    SHARED_DATA,
    BothModes,
    Predictions,
    append_rows,
    labels_of_target,
    measured_already,
    parameters_of,
    read_rows,
    run_or_report,
    targets_in_order,
)
from jind_nb import metrics

OUTPUT = RESULTS / "target_error.csv"
ALPHAS = (0.05, 0.1)
NUM_FEATURES = 2000  # for time; only two of the sets have more
TARGETS_OF_MANY = 3


def all_targets() -> list[tuple[str, str, dict[str, Any]]]:
    """Return set, target and roles of each target: one target of every set before a second of any, small sets first."""
    jobs = []
    for name in sorted(SETS, key=lambda name: (SHARED_DATA / f"{name}.h5ad").stat().st_size):
        in_order = targets_in_order(name)
        has_roles = bool(in_order[0][1])  # a set of many batches
        in_order = in_order[:TARGETS_OF_MANY] if has_roles else in_order
        jobs += [(i, name, target, roles) for i, (target, roles) in enumerate(in_order)]
    return [job for _, *job in sorted(jobs, key=lambda job: job[0])]


def one_target(name: str, target: str, roles: dict[str, Any]) -> list[dict[str, Any]]:
    """Train, calibrate, annotate and only then look at the labels; return a row for each alignment mode and rule."""
    parameters = parameters_of(name, target, NUM_FEATURES=NUM_FEATURES, TARGET_ERROR=ALPHAS[0], **roles)
    annotated = BothModes(parameters)
    truth, rows = labels_of_target(parameters), []
    for mode in MODES:
        plain = annotated.predict(mode)
        for alpha in (None, *ALPHAS):
            calibrated = annotated.calibrate(mode, alpha)
            judged = annotated.predict(mode, calibrated)
            rows.append(
                {"set": name, "target": target, "annotated": len(annotated.plan.annotated), "way": mode}
                | {"chosen": mode == ALIGNED}  # what a run answers with
                | {"rule": "REJECTION 0.05" if alpha is None else f"TARGET_ERROR {alpha}"}
                | numbers_of(truth, judged, plain)
                | {
                    "expected error": calibrated.mean("error_among_assigned"),
                    "highest left-out error": (calibrated.range("error_among_assigned") or (None, None))[1],
                    "left out": len(calibrated.batches),
                    "temperature": calibrated.temperature,
                    "threshold": calibrated.threshold,
                }
            )
    return rows


def numbers_of(truth: np.ndarray, judged: Predictions, plain: Predictions) -> dict[str, Any]:
    """Return the numbers of a target by its own labels; `known` are cells of types that an annotated batch has."""
    known, kept, right = np.isin(truth.astype(str), judged.classes), ~judged.rejected, judged.raw == truth
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
    """Append the rows of every target that is not in the results yet."""
    torch.set_num_threads(1)
    already = measured_already(OUTPUT, ["set", "target"])
    for name, target, roles in all_targets():
        if (name, target) in already:
            continue
        began = time.monotonic()
        rows = one_target(name, target, roles)
        seconds = round(time.monotonic() - began)
        append_rows(OUTPUT, [row | {"seconds": seconds} for row in rows])
        print(f"{name}, {target}: {seconds} s", flush=True)


def share_held(held: pd.Series) -> str:
    """Return a share of batches with its 95 % binomial interval (Clopper-Pearson)."""
    interval = binomtest(int(held.sum()), len(held)).proportion_ci()
    return f"{held.sum()} of {len(held)} ({interval.low:.2f} to {interval.high:.2f})"


def report() -> None:
    """Print what the results say."""
    both = read_rows(OUTPUT)
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
    run_or_report(__doc__, run, report)
