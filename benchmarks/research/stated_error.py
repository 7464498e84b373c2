"""Compare the error that page one states for a target with the actual one, on the problems of the twenty sets; and ask whether
TARGET_ERROR 0.05 holds there.

python -m benchmarks.research.stated_error          # prints the table of results/stated_error.csv
python -m benchmarks.research.stated_error --run    # measures what is missing there first; goes on where it stopped
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import sparse

from benchmarks.common import RESULTS, print_table
from benchmarks.problems import NOT_COUNTED, ROLES, Problem, measure_or_report
from jind_nb.core.labels import UNLIKE
from jind_nb.model import annotate
from jind_nb.model.expected_error import expected_error
from jind_nb.model.predictions import Predictions

OUTPUT = RESULTS / "stated_error.csv"
MUCH = 0.1  # by which a stated error is far too low
TARGET_ERROR = 0.05


def measured(problem: Problem) -> dict[str, object]:
    """Return a row: what is stated of a problem, and what is true."""
    settings = annotate.settings_of(problem.parameters)
    whole = annotate.learn_and_annotate(problem.prepared, problem.plan, settings, keep_history=False)
    reference, predictions = whole.reference, whole.annotated.final
    calibration = whole.calibrations[whole.annotated.mode]
    assigned, wrong = shares(predictions, problem.truth)
    is_known = np.isin(problem.truth, problem.plan.classes)
    stated = expected_error(predictions, calibration)
    low, high = stated.range or (None, None)
    promised, wrong_as_promised = None, None
    if len(reference.batches) > 1:
        strict = replace(reference, settings=replace(settings, target_error=TARGET_ERROR))
        known = annotate.known_with_rules(strict, annotate.calibrate(strict))
        x = sparse.csr_matrix(problem.prepared.X[problem.is_target])
        by_error = annotate.annotate(reference.model, x, known, strict.settings).final
        promised, wrong_as_promised = shares(by_error, problem.truth)
    return {
        "set": problem.set,
        "target": problem.target,
        "role": problem.role,
        "annotated_batches": len(reference.batches),
        "unknown_types": float(1 - is_known.mean()),
        "known_flagged": float((predictions.reasons[is_known] == UNLIKE).mean()) if is_known.any() else None,
        "assigned": assigned,
        "wrong_among_assigned": wrong,
        "stated": stated.value,
        "low": low,
        "high": high,
        "mean_of_left_out": calibration.mean("error_among_assigned"),
        "assigned_with_target_error": promised,
        "wrong_with_target_error": wrong_as_promised,
    }


def shares(predictions: Predictions, truth: np.ndarray) -> tuple[float, float | None]:
    """Return the share of assigned cells, and of wrong ones among them; None without any."""
    kept = ~predictions.rejected
    return float(kept.mean()), float((predictions.raw[kept] != truth[kept]).mean()) if kept.any() else None


def report(rows: pd.DataFrame) -> None:
    """Print how far stated errors are from actual ones: of targets without unknown types, with some, and of one batch alone."""
    rows = rows[~rows["set"].isin(NOT_COUNTED) & rows["wrong_among_assigned"].notna()]
    stated = rows[rows["stated"].notna()]
    groups = {"known types": stated["unknown_types"] == 0, "unknown types too": stated["unknown_types"] > 0}
    lines = {}
    for title, chosen in groups.items():
        some = stated[chosen]
        apart = some["wrong_among_assigned"] - some["stated"]
        inside = some["wrong_among_assigned"].between(some["low"], some["high"])
        lines[title] = {
            "problems": len(some),
            "distance": apart.abs().groupby(some["set"]).mean().mean(),
            "distance of the left-out mean": (some["wrong_among_assigned"] - some["mean_of_left_out"])
            .abs()
            .groupby(some["set"])
            .mean()
            .mean(),
            "far too low": float((apart > MUCH).mean()),
            "in the interval": float(inside.mean()),
            "its width": float((some["high"] - some["low"]).mean()),
        }
    print_table("The error stated for a target", pd.DataFrame(lines).T)
    report_flagged(rows)
    report_target_error(rows[(rows["annotated_batches"] > 1) & (rows["unknown_types"] == 0)])
    single = rows[rows["annotated_batches"] == 1]
    print(
        f"\nSingle annotated batch: nothing is stated; {single['wrong_among_assigned'].mean():.3f} were wrong ({len(single)} problems)."
    )


def report_flagged(rows: pd.DataFrame) -> None:
    """Print by role how many cells of annotated types are unlike the reference: the mean over sets, and of the worst problem."""
    of_sets = rows.groupby(["role", "set"])["known_flagged"].mean().groupby("role").mean()
    table = pd.DataFrame({"known cells flagged": of_sets, "worst": rows.groupby("role")["known_flagged"].max()})
    print_table("Cells of annotated types that are unlike the reference", table)


def report_target_error(rows: pd.DataFrame) -> None:
    """Print by the number of annotated batches how many targets have at most TARGET_ERROR wrong; n / (n + 1) is promised, as an
    estimate, from four on."""
    groups = {
        "2": rows["annotated_batches"] == 2,
        "3": rows["annotated_batches"] == 3,
        "4 or more": rows["annotated_batches"] > 3,
    }
    lines = {}
    for title, chosen in groups.items():
        some = rows[chosen]
        wrong = some["wrong_with_target_error"].fillna(0.0)
        lines[title] = {
            "problems": len(some),
            "held": float((wrong <= TARGET_ERROR).mean()),
            "n / (n + 1)": float((some["annotated_batches"] / (some["annotated_batches"] + 1)).mean()),
            "mean error": float(wrong.mean()),
            "assigned": float(some["assigned_with_target_error"].mean()),
        }
    print_table("TARGET_ERROR 0.05, targets without unknown types, by annotated batches", pd.DataFrame(lines).T)


if __name__ == "__main__":
    measure_or_report(__doc__, OUTPUT, lambda problem: [measured(problem)], report, ROLES)
