"""The composition of several targets side by side."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...core.colours import GREY, colours_of
from ...core.labels import UNASSIGNED
from ...core.text import listing, percent
from .style import FULL, REJECTED, legend_below, row_height, short, short_names, subplots

MOST_TYPES = 24  # with a colour of their own; the others share one

OTHERS = "other types"


def compositions(shares: pd.DataFrame, answers: Sequence[str]) -> Figure:
    """Draw a bar for each target, as long as the others, with the share of each answer.

    Parameters
    ----------
    shares
        As `across.shares_table` returns it.
    answers
        All possible answers in their order, so that each has the same colour in all pictures.
    """
    colours = colours_of(answers) | {OTHERS: "#D9D9D9"}
    shown = _with_others_together(shares)
    figure, axes = subplots(figsize=(FULL, 1.4 + row_height(len(shown), 0.26) * len(shown)))
    y, left = np.arange(len(shown))[::-1], np.zeros(len(shown))
    for name, of_answer in shown.items():
        look: dict[str, Any] = {"color": colours.get(str(name), GREY), "edgecolor": "white"}
        look = REJECTED if name == UNASSIGNED else look
        axes.barh(y, 100 * of_answer, left=100 * left, height=0.8, label=short(str(name)), linewidth=0.3, **look)
        left += of_answer.to_numpy()
    axes.set_yticks(y, short_names([str(name) for name in shown.index]), fontsize=7)
    axes.set_xlim(0, 100)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set_xlabel("cells (%)")
    axes.spines[["top", "right"]].set_visible(False)
    legend_below(figure, *axes.get_legend_handles_labels(), ncols=4)
    return figure


def compositions_alt(shares: pd.DataFrame) -> str:
    """Return the alt text of `compositions`.

    >>> compositions_alt(pd.DataFrame({"B": [0.75, 0.5], "Unassigned": [0.25, 0.5]}, index=["s1", "s2"]))
    'Bars of 2 samples by cell type: s1 (B 75.0 %), s2 (B 50.0 %).'
    """
    types = shares.drop(columns=UNASSIGNED)
    most = [
        f"{name} ({types.columns[row.argmax()]} {percent(row.max())})"
        for name, row in zip(types.index, types.to_numpy(), strict=True)
    ]
    return f"Bars of {len(shares)} samples by cell type: {listing(most, 10, quoted=False)}."


def _with_others_together(shares: pd.DataFrame) -> pd.DataFrame:
    types = shares.columns.drop(UNASSIGNED)
    if len(types) <= MOST_TYPES:
        return shares
    shown = shares[types[:MOST_TYPES]].copy()
    shown[OTHERS] = shares[types[MOST_TYPES:]].sum(axis=1)
    return shown.assign(**{UNASSIGNED: shares[UNASSIGNED]})
