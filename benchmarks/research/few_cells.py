"""Ask how often a cell type is wrong that was given to only a few of a target's cells, on the problems of the twenty sets.

python -m benchmarks.research.few_cells          # prints the tables of results/few_cells.csv
python -m benchmarks.research.few_cells --run    # measures what is missing there first; goes on where it stopped
"""

from __future__ import annotations

import pandas as pd

from benchmarks.common import (
    RESULTS,
    annotate_prepared,
    print_table,
)
from benchmarks.problems import NOT_COUNTED, PROBLEM, Problem, measure_or_report
from jind_nb.results.summary import FEW_ASSIGNED, SMALL_SHARE

OUTPUT = RESULTS / "few_cells.csv"
CELLS = [0, 1, 2, FEW_ASSIGNED - 1, 9, 29, 10**9]
SHARES = [0, 0.002, 0.005, SMALL_SHARE, 0.02, 0.05, 1]


def measured(problem: Problem) -> list[dict[str, object]]:
    """Return a row for each type that a problem's target was given: its assigned cells, and how many of them have it as their label."""
    answers = annotate_prepared(problem.prepared, problem.plan, problem.parameters).names
    of = {"set": problem.set, "target": problem.target, "role": problem.role, "target_cells": len(answers)}
    training = pd.DataFrame(problem.plan.cells).sum(axis=1)
    rows = []
    for name in problem.plan.classes:
        here = answers == name
        if here.any():
            right = int((problem.truth[here] == name).sum())
            numbers = {"type": name, "assigned": int(here.sum()), "right": right, "training": int(training[name])}
            rows.append(of | numbers)
    return rows


def report(rows: pd.DataFrame) -> None:
    """Print how often types are wrong by the cells that got them, and what page one names."""
    rows = rows[~rows["set"].isin(NOT_COUNTED)]
    share = rows["assigned"] / rows["target_cells"]
    few = rows["assigned"] < FEW_ASSIGNED
    print_table("By the number of cells that got a type", wrong(rows, pd.cut(rows["assigned"], CELLS)), 1)
    by_share = wrong(rows[few], pd.cut(share[few], SHARES))
    print_table(f"Fewer than {FEW_ASSIGNED} cells, by their share of the target", by_share, 1)
    is_named = few & (share < SMALL_SHARE)
    print_table("Types that page one names, and others", wrong(rows, is_named.map({True: "named", False: "others"})), 1)
    of_problems = rows.assign(named=is_named).groupby(PROBLEM)["named"].sum()
    by_role = of_problems.groupby("role").agg(problems="size", named=lambda of: int((of > 0).sum()), most_types="max")
    print_table("Problems where page one names some", by_role)


def wrong(rows: pd.DataFrame, by: pd.Series) -> pd.DataFrame:
    """Return for each group of types how many these are, their assigned cells, how many of the cells are wrong, and of the types
    all cells."""
    groups = rows.assign(none_right=rows["right"] == 0).groupby(by, observed=True)
    table = groups.agg(types=("assigned", "size"), cells=("assigned", "sum"), right=("right", "sum"))
    table["cells wrong %"] = 100 * (1 - table["right"] / table["cells"])
    table["types all wrong %"] = 100 * groups["none_right"].mean()
    return table.drop(columns="right")


if __name__ == "__main__":
    measure_or_report(__doc__, OUTPUT, measured, report)
