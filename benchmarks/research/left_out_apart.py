"""Ask how often page one of a report names left-out batches that did far worse than the others, on the problems of the twenty sets.

python -m benchmarks.research.left_out_apart          # prints the tables of results/left_out_apart.csv
python -m benchmarks.research.left_out_apart --run    # measures what is missing there first; goes on where it stopped
"""

from __future__ import annotations

import pandas as pd

from benchmarks.common import RESULTS, print_table
from benchmarks.problems import PROBLEM, Problem, measure_or_report
from jind_nb.model import annotate
from jind_nb.results.summary import COMPARED, FEWEST_LEFT_OUT, far_below

OUTPUT = RESULTS / "left_out_apart.csv"
LIMITS = (0.1, 0.15, 0.2, 0.25)
COLUMNS = ["batch", "cells", "checked", "raw_accuracy", "assigned", "unlike_reference", "error_among_assigned"]


def measured(problem: Problem) -> list[dict[str, object]]:
    """Return a row for each left-out batch of a problem, in the alignment mode of its target; none of a single annotated batch."""
    if len(problem.plan.annotated) < 2:
        return []
    settings = annotate.settings_of(problem.parameters)
    calibrations = annotate.calibrate(annotate.train(problem.prepared, problem.plan, settings, keep_history=False))
    rows = list(calibrations.values())[-1].batches
    of = {"set": problem.set, "target": problem.target, "role": problem.role}
    return [of | {name: row[name] for name in COLUMNS} for row in rows]


def report(rows: pd.DataFrame) -> None:
    """Print for each role how many problems have such batches, and which these are where all other batches are annotated."""
    counts, named = [], []
    for (name, target, role), batches in rows.groupby(PROBLEM, sort=False):
        found = far_below(batches.to_dict("records"))
        counts.append({"set": name, "role": role, "said": bool(found)})
        some = batches[batches["cells"] >= FEWEST_LEFT_OUT].set_index("batch")[list(COMPARED)]
        for batch in found if role == "all" else ():
            others = some.drop(index=batch).median().add_prefix("others' median ")
            named.append({"set": name, "target": target, "batch": batch} | some.loc[batch].to_dict() | others.to_dict())
    table = pd.DataFrame(counts)
    everywhere = [batches.to_dict("records") for _, batches in rows[rows["role"] == "all"].groupby(PROBLEM)]
    limits = {least: sum(bool(far_below(batches, least)) for batches in everywhere) for least in LIMITS}
    print_table("Said where all other batches are annotated, by limit", pd.Series(limits).to_frame("problems"))
    by_role = table.groupby("role")["said"].agg(problems="size", said="sum")
    by_role["sets"] = table.groupby("role")["set"].nunique()
    by_role["sets with one"] = table[table["said"]].groupby("role")["set"].nunique()
    print_table("Problems with a left-out batch far below the others", by_role.fillna(0).astype(int))
    print_table("Where all other batches are annotated", pd.DataFrame(named).set_index(["set", "target", "batch"]))


if __name__ == "__main__":
    measure_or_report(__doc__, OUTPUT, measured, report)
