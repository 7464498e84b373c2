"""Tables as an Excel workbook: a sheet for each, to open, filter and sort."""

import re
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from xlsxwriter import Workbook
from xlsxwriter.format import Format
from xlsxwriter.worksheet import Worksheet

from ..core.files import whole_file

SHEET_ROWS, SHEET_COLUMNS, CELL_CHARACTERS = 1_048_576, 16_384, 32_767  # the most that a workbook holds

NOT_IN_A_WORKBOOK = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")

# A probability that is nearly 1 is not shown as certain.
NUMBER_FORMATS = {"share": '[=1]0.000;[>=0.9995]">0.999";0.000', "whole": "#,##0", "other": "#,##0.00"}

NARROW, WIDE = 9, 44  # width of a column, in letters

ROWS_MEASURED = 200


def write_sheets(path: Path, tables: Mapping[str, pd.DataFrame], rest: str = "") -> None:
    """Write a workbook with a sheet for each table, named indexes as first columns; text stays text (no formulas).

    Every sheet has a frozen header with a filter, columns as wide as their content, and numbers with fixed decimals.

    Parameters
    ----------
    rest
        The file with all rows, which the last row names where a table has more than a sheet can hold.
    """
    options = {"constant_memory": True, "use_zip64": True, "nan_inf_to_errors": True}
    with (
        whole_file(path) as temporary,
        # Beside the workbook: a run that is killed leaves it where the next one finds it.
        TemporaryDirectory(prefix=".rows-", suffix=".part", dir=path.parent) as rows,
        Workbook(str(temporary), options | {"tmpdir": rows}) as book,
    ):
        formats = {kind: book.add_format({"num_format": words}) for kind, words in NUMBER_FORMATS.items()}
        header = book.add_format({"bold": True, "bottom": 1})
        for name, table in tables.items():
            _write_sheet(book.add_worksheet(name), table, rest, formats, header)


def _write_sheet(
    sheet: Worksheet, table: pd.DataFrame, rest: str, formats: Mapping[str, Format], header: Format
) -> None:
    fitting = table if len(table) < SHEET_ROWS else table.iloc[: SHEET_ROWS - 2]
    columns = fitting.reset_index() if any(table.index.names) else fitting
    heads = [str(name) for name in columns]
    sheet.freeze_panes(1, 1)
    for i, head in enumerate(heads):
        sheet.set_column(i, i, _width(head, columns.iloc[:, i]), formats.get(_kind(columns.iloc[:, i])))
    for row, values in enumerate(chain([heads], columns.itertuples(index=False, name=None))):
        for column, value in enumerate(values):
            if isinstance(value, str):
                _write_text(sheet, row, column, value, None if row else header)
            elif pd.notna(value):
                sheet.write_number(row, column, value)
    if heads:
        sheet.autofilter(0, 0, len(columns), len(heads) - 1)
    if len(fitting) < len(table):
        _write_text(sheet, len(fitting) + 1, 0, f"{len(table) - len(fitting):,} more rows: see {rest}")


def _kind(column: pd.Series) -> str:
    """Return which of NUMBER_FORMATS a column has: `share` where all its fractions lie from 0 to 1; empty for words."""
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return ""
    if pd.api.types.is_integer_dtype(column):
        return "whole"
    numbers = column.to_numpy(dtype=float)
    return "share" if ((np.abs(numbers) <= 1.001) | np.isnan(numbers)).all() else "other"


def _width(head: str, column: pd.Series) -> int:
    """Return a column's width in letters, from its head (with room for the filter's arrow) and its first rows."""
    text = (value for value in column.iloc[:ROWS_MEASURED] if isinstance(value, str))
    return int(np.clip(max(len(head) + 3, *(len(value) + 1 for value in chain(text, [""]))), NARROW, WIDE))


def _write_text(sheet: Worksheet, row: int, column: int, text: str, style: Any = None) -> None:
    """Write text as it is, without what a workbook cannot hold: control characters, and more than 32,767 of any."""
    text = NOT_IN_A_WORKBOOK.sub("\ufffd", text)[:CELL_CHARACTERS]
    if text.startswith("<r>"):  # XlsxWriter would take it for text it has formatted before, and not escape it
        sheet.write_rich_string(row, column, text[0], text[1], text[2:])
    else:
        sheet.write_string(row, column, text, style)
