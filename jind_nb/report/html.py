"""HTML tables that a screen reader can read and report.js can sort."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from ..core.resources import templates

NONE = "–"


def table_html(table: pd.DataFrame, caption: str | None = None) -> Markup:
    """Return a data frame as an HTML table, with a named index as the first columns.

    A table with only the column `note` becomes a paragraph for each note; one without rows, a sentence.

    >>> import pandas as pd
    >>> print(table_html(pd.DataFrame({"cells": [1200]}, index=pd.Index(["<b>"], name="cell type"))))
    <table class="dataframe">
    <thead><tr><th scope="col" style="text-align: left">cell type</th><th scope="col" class="number">cells</th></tr></thead>
    <tbody>
    <tr><th scope="row" style="text-align: left">&lt;b&gt;</th><td class="number">1,200</td></tr>
    </tbody>
    </table>
    """
    if list(table.columns) == ["note"]:
        return Markup("").join(Markup('<p class="note">{}</p>\n').format(note) for note in table["note"])
    if table.empty:
        return Markup('<p class="note">{}</p>').format(f"{caption or 'Rows'}: none.")
    has_names = any(name is not None for name in table.index.names)
    frame = table.reset_index() if has_names else table
    rows = list(frame.itertuples(index=False, name=None))
    return rows_html(list(frame.columns), rows, caption, has_names=has_names)


def rows_html(
    heads: Sequence[str], rows: Sequence[Sequence[Any]], caption: str | None = None, *, has_names: bool = True
) -> Markup:
    """Return rows as an HTML table: names as text, missing values as a dash, numbers to three digits and aligned right.

    Parameters
    ----------
    has_names
        Whether the first value of a row is its heading; a row named like the one before it has the class `again`.
    """
    template = templates().get_template("table.html.j2")
    numeric = [_are_numbers([row[j] for row in rows]) for j in range(len(heads))]
    values = {"heads": heads, "rows": rows, "caption": caption, "has_names": has_names, "numeric": numeric}
    return Markup(template.render(values, text=value_text))


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, Real) and value != value)


def _are_numbers(values: Sequence[Any]) -> bool:
    """Return whether all values that are not missing are numbers; True and False count as words."""
    some = [value for value in values if not _is_missing(value)]
    return bool(some) and all(isinstance(value, Real) and not isinstance(value, bool) for value in some)


def value_text(value: Any) -> str | Markup:
    """Return a value as people read it.

    >>> value_text(1200), value_text(0.12345), value_text(None), value_text(float("nan")), value_text(True)
    ('1,200', '0.123', '–', '–', 'yes')
    """
    if _is_missing(value):
        return NONE
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return f"{value:,}"
    if isinstance(value, Real):
        return f"{float(value):,.0f}" if abs(float(value)) >= 1000 else f"{float(value):.3g}"
    return value if isinstance(value, Markup) else str(value)
