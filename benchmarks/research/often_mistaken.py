"""Ask whether a cell type that left-out batches annotate badly is annotated badly in the target too, on the problems of the twenty sets.

python -m benchmarks.research.often_mistaken          # prints the tables of results/often_mistaken.csv
python -m benchmarks.research.often_mistaken --run    # measures what is missing there first; goes on where it stopped
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from benchmarks.common import RESULTS, print_table
from benchmarks.problems import NOT_COUNTED, PROBLEM, Problem, measure_or_report
from jind_nb.core.labels import UNASSIGNED
from jind_nb.model import annotate
from jind_nb.results.summary import ENOUGH_OF_A_TYPE, MOSTLY_RIGHT
from jind_nb.results.tables import left_out_confusion

OUTPUT = RESULTS / "often_mistaken.csv"
RIGHT = [-0.01, 0.2, 0.4, 0.6, 0.8, 0.9, 1]  # shares of left-out cells
FEWEST_IN_TARGET = 5


def measured(problem: Problem) -> list[dict[str, object]]:
    """Return a row for each type: of the left-out cells and of the target's, how many were called so, are so, and are both."""
    settings = annotate.settings_of(problem.parameters)
    whole = annotate.learn_and_annotate(problem.prepared, problem.plan, settings, keep_history=False)
    classes = problem.plan.classes
    found = left_out_confusion(whole.calibrations[whole.annotated.mode], classes)
    if found is None:
        return []
    left_out = found.reindex(index=classes, columns=[*classes, UNASSIGNED], fill_value=0)
    answers = whole.annotated.final.names
    common = {name: getattr(problem, name) for name in PROBLEM} | {"annotated_batches": len(whole.reference.batches)}
    rows = []
    for name in classes:
        called, own = answers == name, problem.truth == name
        in_left_out = {
            "called": left_out[name].sum(),
            "own": left_out.loc[name].sum(),
            "right": left_out.loc[name, name],
        }
        in_target = {"target_called": called.sum(), "target_own": own.sum(), "target_right": (called & own).sum()}
        rows.append(common | {"type": name} | {key: int(n) for key, n in (in_left_out | in_target).items()})
    return rows


def report(rows: pd.DataFrame) -> None:
    """Print how often the target's cells that were called a type are of it, and how often those of it were called so, by how often
    left-out cells were."""
    rows = rows[~rows["set"].isin(NOT_COUNTED)]
    for column, title in (
        ("called", "Cells called a type that are of it"),
        ("own", "Cells of a type that were called so"),
    ):
        some = rows[(rows[column] >= ENOUGH_OF_A_TYPE) & (rows[f"target_{column}"] >= FEWEST_IN_TARGET)]
        left_out = some["right"] / some[column]
        of_target = some["target_right"] / some[f"target_{column}"]
        for number, which in (
            ("several annotated batches", some["annotated_batches"] > 1),
            ("one", some["annotated_batches"] == 1),
        ):
            print_table(f"{title}, {number}", described(of_target[which], pd.cut(left_out[which], RIGHT)))
            is_named = pd.Series(np.where(left_out < MOSTLY_RIGHT, "named", "others"), some.index)
            print_table(
                f"{title}, {number}: named on page one, and others", described(of_target[which], is_named[which])
            )


def described(of_target: pd.Series, by: pd.Series) -> pd.DataFrame:
    """Return for each group of types how many these are, the mean share of the target's cells that is right, and of how many types
    it is below the limit."""
    groups = of_target.groupby(by, observed=True)
    return pd.DataFrame(
        {
            "types": groups.size(),
            "right in the target %": 100 * groups.mean(),
            f"below {100 * MOSTLY_RIGHT:.0f} % there": groups.apply(
                lambda shares: 100 * float((shares < MOSTLY_RIGHT).mean())
            ),
        }
    ).round(1)


if __name__ == "__main__":
    measure_or_report(__doc__, OUTPUT, measured, report)
