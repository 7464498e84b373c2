"""A data frame as an HTML table that a screen reader can read and a script can sort."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

NONE = "–"


def html(table: pd.DataFrame, caption: str | None = None) -> Markup:
    """The table with its index as the first column, a heading for each row; names are shown as text, missing values as a
    dash, numbers to three digits and aligned right; a row named like the one before it has the class `again`. A table of
    nothing but the column `note` is a list of sentences.

    >>> print(html(pd.DataFrame({"cells": [1200]}, index=pd.Index(["<b>"], name="cell type"))))
    <table class="dataframe">
    <thead><tr><th scope="col">cell type</th><th scope="col" class="number">cells</th></tr></thead>
    <tbody>
    <tr><th scope="row">&lt;b&gt;</th><td class="number">1,200</td></tr>
    </tbody>
    </table>
    """
    if list(table.columns) == ["note"]:
        return Markup("").join(Markup('<p class="note">{}</p>\n').format(note) for note in table["note"])
    has_names = any(name is not None for name in table.index.names)
    frame = table.reset_index() if has_names else table
    columns = [frame.iloc[:, j] for j in range(frame.shape[1])]
    kinds = [Markup(' class="number"') if _is_number(column) else Markup("") for column in columns]
    lines = [Markup('<table class="dataframe">')]
    if caption:
        lines.append(Markup("<caption>{}</caption>").format(caption))
    heads = [Markup('<th scope="col"{}>{}</th>').format(k, name) for k, name in zip(kinds, frame.columns, strict=True)]
    lines += [Markup("<thead><tr>") + Markup("").join(heads) + Markup("</tr></thead>"), Markup("<tbody>")]
    before = None
    for values in zip(*columns, strict=True):
        row = Markup('<tr class="again">') if has_names and values[0] == before else Markup("<tr>")
        lines.append(row + Markup("").join(_cells(values, kinds, has_names)) + Markup("</tr>"))
        before = values[0]
    return Markup("\n").join([*lines, Markup("</tbody>"), Markup("</table>")])


def _cells(values: tuple[Any, ...], kinds: list[Markup], has_names: bool) -> Iterator[Markup]:
    for j, (value, kind) in enumerate(zip(values, kinds, strict=True)):
        if j == 0 and has_names:
            yield Markup('<th scope="row"{}>{}</th>').format(kind, text(value))
        else:
            yield Markup("<td{}>{}</td>").format(kind, text(value))


def _is_number(column: pd.Series) -> bool:
    """Numbers, or numbers with gaps; what is true or false is words."""
    some = list(column.dropna())
    return bool(some) and all(isinstance(v, int | float | np.number) and not isinstance(v, bool) for v in some)


def text(value: Any) -> str:
    """One value as people read it.

    >>> text(1200), text(0.12345), text(None), text(float("nan")), text("B"), text(True)
    ('1,200', '0.123', '–', '–', 'B', 'yes')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NONE
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float | np.floating):
        return f"{value:,.0f}" if abs(float(value)) >= 1000 else f"{value:.3g}"
    return str(value)
