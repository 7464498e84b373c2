"""HTML tables that a screen reader can read and report.js can sort."""

import base64
import re
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from ..core.csv_files import csv_text
from ..core.resources import templates

NONE = "–"


def table_html(
    table: pd.DataFrame, caption: str | None = None, *, has_download: bool = False, bold: pd.DataFrame | None = None
) -> Markup:
    """Return a data frame as an HTML table, with a named index as the first columns.

    A table with only the column `note` becomes a paragraph for each note; one without rows, a sentence. `bold`, bool and shaped
    like the table, says which values stand out.

    >>> import pandas as pd
    >>> print(table_html(pd.DataFrame({"cells": [1200]}, index=pd.Index(["<b>"], name="cell type"))))
    <table class="dataframe">
    <thead><tr><th scope="col" style="text-align: left">cell type</th><th scope="col" class="number">cells</th></tr></thead>
    <tbody>
    <tr><th scope="row" class="word" style="text-align: left">&lt;b&gt;</th><td class="number">1,200</td></tr>
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
    marked = (
        None if bold is None else [[False] * (frame.shape[1] - bold.shape[1]) + list(row) for row in bold.to_numpy()]
    )
    return rows_html(list(frame.columns), rows, caption, has_names=has_names, has_download=has_download, bold=marked)


def rows_html(
    heads: Sequence[str],
    rows: Sequence[Sequence[Any]],
    caption: str | None = None,
    *,
    has_names: bool = True,
    has_download: bool = False,
    bold: Sequence[Sequence[bool]] | None = None,
) -> Markup:
    """Return rows as an HTML table: names as text, missing values as a dash, numbers aligned right, those of a column with
    the same number of decimals.

    Parameters
    ----------
    has_names
        Whether the first value of a row is its heading; a row named like the one before it has the class `again`.
    has_download
        Whether a link after the table holds it as CSV, with all digits.
    bold
        Which values of each row stand out.
    """
    template = templates().get_template("table.html.j2")
    columns = [[row[j] for row in rows] for j in range(len(heads))]
    numeric = [_are_numbers(column) and not (j == 0 and has_names) for j, column in enumerate(columns)]
    decimals = [_decimals(str(head), column) for head, column in zip(heads, columns, strict=True)]
    values = {"heads": heads, "rows": rows, "caption": caption, "has_names": has_names, "numeric": numeric}
    table = Markup(template.render(values, decimals=decimals, text=value_text, bold=bold))
    return table + csv_link(heads, rows, caption) if has_download else table


def csv_link(heads: Sequence[str], rows: Sequence[Sequence[Any]], caption: str | None = None) -> Markup:
    """Return a link that holds rows as a CSV file."""
    plain = [[value.striptags() if isinstance(value, Markup) else value for value in row] for row in rows]
    name = f"{caption or 'table'}.csv"
    return data_link(csv_text(pd.DataFrame(plain, columns=list(heads), dtype=object), name), name)


def data_link(csv: str, name: str) -> Markup:
    """Return a link that holds a CSV file of a name."""
    data = base64.b64encode(csv.encode("utf-8", "replace")).decode()
    file = re.sub(r"[^\w.]+", "_", name.lower())[:60]
    link = '<p class="csv"><a download="{}" href="data:text/csv;base64,{}">Download as CSV</a></p>\n'
    return Markup(link).format(file, data)


def _decimals(head: str, values: Sequence[Any]) -> int:
    """Return how many decimals the numbers of a column have: one for percent, three for shares, none for large numbers."""
    some = [abs(float(value)) for value in values if isinstance(value, Real) and not _is_missing(value)]
    if head.endswith("%"):
        return 1
    are_shares = all(
        isinstance(value, Real) and not isinstance(value, Integral) and 0 <= float(value) <= 1 for value in values
    )
    if some and not are_shares and all(value.is_integer() for value in some):
        return 0
    if max(some, default=0.0) <= 1:
        return 3
    return 0 if max(some) >= 1000 else 2


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, Real) and value != value)


# What a column of numbers may hold as text.
NUMBER = re.compile(r"[<>]?-?[\d,.]+( %)?( to [\d,.]+( %)?)?")
NO_NUMBER = ("", "not counted", "not known")


def _are_numbers(values: Sequence[Any]) -> bool:
    """Return whether all values that are not missing are numbers, or text that stands for one; True and False count as words."""
    some = [value for value in values if not _is_missing(value) and value not in NO_NUMBER]
    return bool(some) and all(
        bool(NUMBER.fullmatch(value))
        if isinstance(value, str)
        else isinstance(value, Real) and not isinstance(value, bool)
        for value in some
    )


def value_text(value: Any, decimals: int | None = None) -> str | Markup:
    """Return a value as people read it, a number alone with three digits; a share that is nearly 1 is not shown as certain.

    >>> value_text(1200), value_text(0.12345), value_text(None), value_text(0.99996, 3), value_text(True)
    ('1,200', '0.123', '–', '>0.999', 'yes')
    >>> value_text(12.345, 1), value_text(0.00001, 3)
    ('12.3', '<0.001')
    """
    if _is_missing(value):
        return NONE
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return f"{value:,}"
    if isinstance(value, Real):
        number = float(value)
        if decimals is None:
            return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"
        if decimals == 3 and 0.9995 <= number < 1:
            return ">0.999"
        if decimals == 3 and 0 < number < 0.0005:
            return "<0.001"
        return f"{number:,.{decimals}f}"
    return value if isinstance(value, Markup) else str(value)
