"""Compare the error that page one states for a target with the actual one, on the problems of the twenty sets.

python -m benchmarks.research.stated_error          # prints the table of results/stated_error.csv
python -m benchmarks.research.stated_error --run    # measures what is missing there first; goes on where it stopped
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import sparse

from benchmarks.common import RESULTS, append_rows, measured_already, print_table, read_rows, run_sets_or_report
from benchmarks.problems import NOT_COUNTED, SETS, Problem, problems
from jind_nb.model import annotate
from jind_nb.model.expected_error import expected_error

OUTPUT = RESULTS / "stated_error.csv"
MUCH = 0.1  # by which a stated error is far too low


def measured(problem: Problem) -> dict[str, object]:
    """Return a row: what is stated of a problem, and what is true."""
    settings = annotate.settings_of(problem.parameters)
    reference = annotate.train(problem.prepared, problem.plan, settings, keep_history=False)
    calibrations = annotate.calibrate(reference)
    known = annotate.known_with_rules(reference, calibrations)
    x = sparse.csr_matrix(problem.prepared.X[problem.is_target])
    annotated = annotate.annotate(reference.model, x, known, settings)
    predictions, calibration = annotated.final, calibrations[annotated.mode]
    kept = ~predictions.rejected
    stated = expected_error(predictions, calibration)
    low, high = stated.range or (None, None)
    return {
        "set": problem.set,
        "target": problem.target,
        "role": problem.role,
        "annotated_batches": len(reference.batches),
        "unknown_types": float(1 - np.isin(problem.truth, problem.plan.classes).mean()),
        "assigned": float(kept.mean()),
        "wrong_among_assigned": float((predictions.raw[kept] != problem.truth[kept]).mean()) if kept.any() else None,
        "stated": stated.value,
        "low": low,
        "high": high,
        "mean_of_left_out": calibration.mean("error_among_assigned"),
    }


def run(names: list[str]) -> None:
    """Measure what is missing; each row is kept as soon as it is done."""
    done = measured_already(OUTPUT, ["set", "target", "role"])
    for name in names:
        for problem in problems(name):
            if (name, problem.target, problem.role) not in done:
                append_rows(OUTPUT, [measured(problem)])


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
    single = rows[rows["annotated_batches"] == 1]
    print(
        f"\nSingle annotated batch: nothing is stated; {single['wrong_among_assigned'].mean():.3f} were wrong ({len(single)} problems)."
    )


if __name__ == "__main__":
    run_sets_or_report(__doc__, SETS, run, lambda: report(read_rows(OUTPUT)))
