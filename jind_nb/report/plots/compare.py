"""Methods side by side."""

import textwrap

import pandas as pd
from matplotlib.figure import Figure

from .style import COLOURS, MARKERS, TITLE, legend_below, short, short_names, subplots


def comparison(rows: pd.DataFrame, title: str) -> Figure:
    """Draw macro-F1, accuracy at 90 % coverage and AURC of methods, best macro-F1 first: a mark for each target, and a
    line at the mean where there are several (each set of targets counts alike).

    Parameters
    ----------
    rows
        A row for each `method` and `target` (of a `set`), as `commands.compare.table.by_target` returns them.
    """
    numbers = {
        "macro_F1": "macro-F1",
        "accuracy_at_90%": "accuracy of the 90 % most\nconfident cells",
        "AURC": "AURC (lower is better)",
    }
    sets = list(dict.fromkeys(rows["set"])) if "set" in rows else [None]
    group = ["method", "set"] if "set" in rows else ["method"]
    means = rows.groupby(group, sort=False)[list(numbers)].mean().groupby("method", sort=False).mean()
    means = means.sort_values("macro_F1", ascending=False, kind="stable")
    position = {method: i for i, method in enumerate(means.index)}
    size = 10, 1.9 + 0.3 * len(means) + 0.22 * (len(sets) // 3)
    figure, panels = subplots(1, 3, sharey=True, figsize=size)
    for axes, (number, label) in zip(panels, numbers.items(), strict=True):
        for i, name in enumerate(sets):
            some = rows if name is None else rows[rows["set"] == name]
            # Sets beside one another, so that equal numbers do not hide each other.
            y = some["method"].map(position) + (0 if len(sets) == 1 else 0.5 * (i / (len(sets) - 1) - 0.5))
            colour, label_of_set = COLOURS[(i + i // 8) % 8], name and short(name)
            axes.plot(some[number], y, MARKERS[i % 8], ms=4, alpha=0.75, label=label_of_set, color=colour)
        if len(rows) > len(means):
            axes.plot(means[number], list(position.values()), "|", ms=15, mew=2.5, color="#000000")
        axes.set(xlabel=label, xlim=(-0.03, 1.03))
        axes.grid(alpha=0.3)
    panels[0].set_yticks(list(position.values()), short_names(list(position)), fontsize=8)
    panels[0].invert_yaxis()
    figure.suptitle("\n".join(textwrap.wrap(short(title, 200), 90)), fontsize=TITLE)
    if sets != [None]:
        legend_below(figure, *panels[0].get_legend_handles_labels(), ncols=3)
    return figure
