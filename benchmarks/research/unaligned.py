"""Ask what is stated of targets that are not aligned, as by `jind-nb predict` without `--align`: the twenty sets, all batches annotated.

python -m benchmarks.research.unaligned          # prints the tables of results/unaligned.csv
python -m benchmarks.research.unaligned --run    # measures what is missing there first; goes on where it stopped
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from benchmarks.common import RESULTS, print_table
from benchmarks.problems import NOT_COUNTED, PROBLEM, Problem, measure_or_report
from jind_nb.commands.predict import MANY_CHANGED
from jind_nb.model import annotate
from jind_nb.model.expected_error import beside_alignment, expected_error
from jind_nb.model.predictions import Predictions
from jind_nb.model.state import AlignmentMode, TargetStage
from jind_nb.model.target import changed_by_alignment, try_alignment

OUTPUT = RESULTS / "unaligned.csv"
FAR_TOO_LOW = 0.1


def measured(problem: Problem) -> list[dict[str, object]]:
    """Return one row: what is stated of the target before alignment, by its confidence and by what alignment would change too, and
    what is wrong before and after it."""
    settings = annotate.settings_of(problem.parameters)
    whole = annotate.learn_and_annotate(problem.prepared, problem.plan, settings, keep_history=False)
    stages, latent = whole.annotated.stages, whole.annotated.latent[TargetStage.BEFORE]
    before = stages[TargetStage.BEFORE]
    tried = try_alignment(whole.reference.model, latent, whole.known, settings)
    by_confidence = expected_error(before, whole.calibrations.get(AlignmentMode.UNALIGNED))
    changed, stated = 0.0, by_confidence
    if tried is not None:
        changed = changed_by_alignment(tried)
        stated = beside_alignment(
            by_confidence, changed, expected_error(tried.final, whole.calibrations.get(AlignmentMode.ALIGNED))
        )
    row = {name: getattr(problem, name) for name in PROBLEM} | {"changed": changed}
    row |= {"wrong": wrong(before, problem), "wrong after alignment": wrong(whole.annotated.final, problem)}
    for name, error in (("by confidence", by_confidence), ("stated", stated)):
        low, high = error.range or (np.nan, np.nan)
        row |= {name: error.value, f"{name}, low": low, f"{name}, high": high}
    return [row]


def wrong(predictions: Predictions, problem: Problem) -> float:
    """Return the share of wrong cells among the assigned ones."""
    assigned = ~predictions.rejected
    return float((predictions.names != problem.truth)[assigned].mean()) if assigned.any() else np.nan


def report(rows: pd.DataFrame) -> None:
    """Print how far both are from the truth, and the targets of which alignment would change most."""
    rows = rows[~rows["set"].isin(NOT_COUNTED) & rows["by confidence"].notna()]
    table = pd.DataFrame(
        {
            name: {
                "mean distance": (rows[name] - rows["wrong"]).abs().mean(),
                "too low by more than 0.1": (rows["wrong"] - rows[name] > FAR_TOO_LOW).mean(),
                "in the interval": rows["wrong"].between(rows[f"{name}, low"], rows[f"{name}, high"]).mean(),
                "width": (rows[f"{name}, high"] - rows[f"{name}, low"]).mean(),
            }
            for name in ("by confidence", "stated")
        }
    )
    print_table(f"{len(rows)} targets that are not aligned", table.T)
    most = rows.sort_values("changed", ascending=False).head(8).set_index("set")
    columns = ["target", "changed", "by confidence", "stated", "wrong", "wrong after alignment"]
    print_table(f"Of which alignment would change most (warned of above {MANY_CHANGED})", most[columns])


if __name__ == "__main__":
    measure_or_report(__doc__, OUTPUT, measured, report, ("all",))
