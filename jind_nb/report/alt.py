"""What pictures show, in words and numbers, for readers who cannot see them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from .. import metrics
from ..model.calibration import Calibration
from ..model.history import StageResult
from ..model.predictions import Predictions
from ..results.summary import percent

MOST_NAMED = 5


def composition(table: pd.DataFrame, target: str) -> str:
    """Of `plots.composition_bars`; `table` as `results.composition` makes it.

    >>> composition(pd.DataFrame({"annotated": [8, 2], "rejected": [1, 0]}, index=["B", "T"]), "donor 4")
    'Bar chart of the cells of donor 4 by cell type: B 8, T 2; 1 more are left Unassigned.'
    """
    largest = table[table["annotated"] > 0].head(MOST_NAMED)
    named = ", ".join(f"{name} {n:,}" for name, n in largest["annotated"].items()) or "none annotated"
    others = int((table["annotated"] > 0).sum()) - len(largest)
    named += f" and {others} smaller types" if others else ""
    return f"Bar chart of the cells of {target} by cell type: {named}; {table['rejected'].sum():,} more are left Unassigned."


def cells(seen: pd.DataFrame, by: str, target: str) -> str:
    """Of `plots.before_after`; `seen` as `results.cells_to_see` makes it."""
    last = seen[seen["stage"] == seen["stage"].iloc[-1]]
    of_target = last["cell"] >= 0
    n = seen["stage"].nunique()
    text = (
        f"{'Two pictures' if n > 1 else 'Picture'} of {int(of_target.sum()):,} cells of {target} among "
        f"{int((~of_target).sum()):,} annotated cells{', before and after alignment' if n > 1 else ''}, each cell a point, "
        f"coloured by {by}"
    )
    if by == "confidence":
        confidence = last["confidence"][of_target]
        return f"{text}: half of the target's cells have at least {confidence.median():.2f}."
    groups = last[by][of_target if by != "batch" else slice(None)].value_counts()
    return f"{text}: {_counted(groups)}."


def _counted(groups: pd.Series) -> str:
    named = ", ".join(f"{name} {n:,}" for name, n in groups.head(MOST_NAMED).items())
    return named + (f" and {len(groups) - MOST_NAMED} more" if len(groups) > MOST_NAMED else "")


def confusion(result: StageResult) -> str:
    """Of `plots.confusions` of one stage: how many are right, and what is mistaken for what most often."""
    m, counts = result.metrics, np.array(result.confusion)
    mistakes = [
        (int(counts[row, column]), truth, called)
        for row, truth in enumerate(result.truth)
        for column, called in enumerate(result.predicted[:-1])
        if truth != called and counts[row, column]
    ]
    most = sorted(mistakes, key=lambda mistake: -mistake[0])[:3]
    words = "; ".join(f"{n:,} of {truth} called {called}" for n, truth, called in most) or "nothing was mistaken"
    n_right = m["cells"] - m["rejected"] - m["misclassified"]
    return (
        f"Confusion matrix of {result.batch}, {result.stage}, {m['cells']:,} {result.cells}: {n_right:,} right, "
        f"{m['misclassified']:,} mistaken, {m['rejected']:,} Unassigned. Most often: {words}."
    )


def confidence(final: Predictions, target: str) -> str:
    """Of `plots.confidence_by_type`."""
    low, middle, high = np.quantile(final.confidence, [0.1, 0.5, 0.9])
    return (
        f"Confidence of each cell of {target} by its most probable type, with the type's threshold: a tenth of the cells "
        f"are below {low:.2f}, half below {middle:.2f}, a tenth above {high:.2f}."
    )


def trust(calibration: Calibration | None, checked: tuple[np.ndarray, np.ndarray] | None) -> str:
    """Of `plots.trust`."""
    said = []
    if calibration is not None and calibration.mean("AURC") is not None:
        said.append(
            f"on left-out batches the calibration error is {calibration.mean('calibration_error'):.3f} and the area under "
            f"the risk-coverage curve {calibration.mean('AURC'):.3f}"
        )
    if checked is not None and len(checked[1]):
        said.append(
            f"on the target's labelled cells they are {metrics.calibration_error(*checked):.3f} and "
            f"{metrics.area_under_risk_coverage(*checked):.3f}"
        )
    return f"Reliability diagram and risk-coverage curve: {'; '.join(said) or 'nothing could be checked'} (0 is best)."


def accuracy(results: Sequence[StageResult]) -> str:
    """Of `plots.accuracy_by_stage`."""
    raw = [r.metrics["raw_accuracy"] for r in results if r.metrics["raw_accuracy"] is not None]
    rejected = [r.metrics["rejection"] for r in results if r.metrics["rejection"] is not None]
    if not raw:
        return "Accuracy and rejection by stage."
    return (
        f"Raw and effective accuracy and rejection of {len(results)} stages: raw accuracy from {percent(min(raw))} to "
        f"{percent(max(raw))}, rejected from {percent(min(rejected))} to {percent(max(rejected))}."
    )
