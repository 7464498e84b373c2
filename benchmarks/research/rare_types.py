"""Count how many cells of rare types are found: types with three to ten cells in the target.

python -m benchmarks.research.rare_types          # prints the table of results/rare_types.csv
python -m benchmarks.research.rare_types --run    # measures what is missing there first; goes on where it stopped

Only types that were right for at least 80 % of the assigned cells of the type in left-out batches (of three or more), in all targets
of the twenty sets with two or more annotated batches.
"""

from __future__ import annotations

import pandas as pd

from benchmarks.common import RESULTS, append_rows, measured_already, print_table, read_rows, run_sets_or_report
from benchmarks.problems import NOT_COUNTED, SETS, Problem, problems
from jind_nb.model import annotate

OUTPUT = RESULTS / "rare_types.csv"
FEWEST, MOST = 3, 10  # cells in the target
RECALLED = 0.8


def measured(problem: Problem) -> list[dict[str, object]]:
    """Return a row for each rare type of a target; one without a type where there is none."""
    settings = annotate.settings_of(problem.parameters)
    whole = annotate.learn_and_annotate(problem.prepared, problem.plan, settings, keep_history=False)
    found, kept = whole.annotated.final, ~whole.annotated.final.rejected
    confusion = whole.calibrations[whole.annotated.mode].confusion
    counts = pd.DataFrame(confusion, columns=["true", "answer", "cells"])
    row = {
        "set": problem.set,
        "target": problem.target,
        "type": None,
        "cells": 0,
        "left_out": None,
        "raw": None,
        "kept": None,
    }
    rows = []
    for k, name in enumerate(problem.plan.classes):
        here = problem.truth == name
        left_out = counts[(counts["true"] == k) & (counts["answer"] < len(problem.plan.classes))]
        n = left_out["cells"].sum()
        recall = left_out.loc[left_out["answer"] == k, "cells"].sum() / max(1, n)
        if FEWEST <= here.sum() <= MOST and n >= FEWEST and recall >= RECALLED:
            right = found.raw[here] == name
            numbers = {"left_out": recall, "raw": float(right.mean()), "kept": float((right & kept[here]).mean())}
            rows.append(row | {"type": name, "cells": int(here.sum())} | numbers)
    return rows or [row]


def run(names: list[str]) -> None:
    """Measure what is missing; each target's rows are kept as soon as they are done."""
    done = measured_already(OUTPUT, ["set", "target"])
    for name in names:
        for problem in problems(name, hard=False):
            if (name, problem.target) not in done and len(problem.plan.annotated) > 1:
                append_rows(OUTPUT, measured(problem))


def report(rows: pd.DataFrame) -> None:
    """Print recall before and after rejection: each set's, the mean over sets and over types."""
    rows = rows[rows["type"].notna() & ~rows["set"].isin(NOT_COUNTED)]
    of_sets = rows.groupby("set").agg(types=("type", "size"), before=("raw", "mean"), after=("kept", "mean"))
    of_sets.loc["MEAN OVER SETS"] = [of_sets["types"].sum(), of_sets["before"].mean(), of_sets["after"].mean()]
    of_sets.loc["MEAN OVER TYPES"] = [len(rows), rows["raw"].mean(), rows["kept"].mean()]
    print_table("Recall of rare types, before and after rejection", of_sets)
    print_table(
        "Of which after rejection less than 0.7 is found", rows[rows["kept"] < 0.7].set_index(["set", "target", "type"])
    )


if __name__ == "__main__":
    run_sets_or_report(__doc__, SETS, run, lambda: report(read_rows(OUTPUT)))
