"""CSV files that a spreadsheet shows as they are: no text in them is taken for a formula."""

import csv
import logging
import re
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from .files import whole_file

log = logging.getLogger(__name__)

# What Excel, LibreOffice or Google Sheets executes, after blanks and other invisible signs too. A sign alone does no harm (`+`,
# `-AAAC-1`, `CD4+`, `-1`); with a call, another file or another program (`cmd|...!A0`) it does.
_CALL = r"\w\(|(?i:HYPERLINK|WEBSERVICE|IMPORT\w*|IMAGE|DDE)\s+\("
_ELSEWHERE = r"\|.*!|['\]]\w*!|!\$?[A-Za-z]{1,3}\$?\d"
FORMULA = re.compile(
    rf"[\s\x00-\x1f\u200b\ufeff']*(?:[=@＝＠]|[-+－＋].*(?:{_CALL}|{_ELSEWHERE}))|'*[\t\r\n]", re.DOTALL
)
# Without one of these a text is no formula, has none within and no new line: so a hundred thousand names are looked through at once.
NEEDED = re.compile("[=@＝＠(!\t\r\n]")
# Where a spreadsheet separates columns by semicolons, or heeds no quotes, another cell begins within a text.
EQUALS = re.compile("[=@＝＠]")
NEXT_CELL = r"((?:(?<=[^\s;])[;\t\r\n]|^;)[;\s]*){}(?='*[=@＝＠])"
WITHIN, MARKED_WITHIN = re.compile(NEXT_CELL.format("")), re.compile(NEXT_CELL.format("'"))

MOST_TOLD = 20  # changed texts that the log names

MANY = 10_000  # rows


def write_csv(path: Path, table: pd.DataFrame, *, index: bool = False) -> None:
    """Write a table as CSV, whole or not at all; text that is a formula gets an apostrophe before it.

    The log says which.

    Parameters
    ----------
    index
        Whether the index is the first columns.
    """
    shown, changed, quoting = _harmless(table.reset_index() if index else table)
    with whole_file(path) as temporary:
        if len(shown) < MANY or quoting != csv.QUOTE_MINIMAL or not _write_many(temporary, shown):
            shown.to_csv(temporary, index=False, quoting=quoting, lineterminator="\n", compression=None)
    _tell_all(path, changed)


def csv_text(table: pd.DataFrame, name: str) -> str:
    """Return a table without its index as the text of a CSV file of that name; text that is a formula gets an apostrophe before
    it, and the log says which."""
    shown, changed, quoting = _harmless(table)
    _tell_all(Path(name), changed)
    return shown.to_csv(index=False, quoting=quoting, lineterminator="\n")


def _as_text(value: str) -> str:
    """Return a text in which a spreadsheet finds no formula: with an apostrophe before each."""
    if EQUALS.search(value):
        value = WITHIN.sub(r"\1'", value)
    return f"'{value}" if FORMULA.match(value) else value


def _harmless(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str], Literal[0, 2]]:
    """Return a table with no formula in it, the texts that got an apostrophe, and the quoting that its texts need."""
    shown = table.copy(deep=False)
    changed: dict[str, None] = {}
    quoting: Literal[0, 2] = csv.QUOTE_MINIMAL

    def harmless(value: Any) -> Any:
        nonlocal quoting
        if isinstance(value, str) and "\r" in value:  # without quotes it would begin a new line
            quoting = csv.QUOTE_NONNUMERIC
        if not isinstance(value, str) or (text := _as_text(value)) == value:
            return value
        changed[value] = None
        return text

    shown.columns = pd.Index([harmless(name) for name in shown.columns])
    for place, dtype in enumerate(shown.dtypes):
        if not (pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_bool_dtype(dtype)):
            column = shown.iloc[:, place].astype(object)
            values = column.unique()
            is_suspect = NEEDED.search("".join(value for value in values if isinstance(value, str)))
            has_formula = is_suspect and any(value is not harmless(value) for value in values)
            shown.isetitem(place, column.map(harmless) if has_formula else column)
    return shown, list(changed), quoting


def _write_many(path: Path, table: pd.DataFrame) -> bool:
    """Write a table as CSV in a tenth of pandas' time; return False, and write nothing of use, where a text needs quotes, or a
    column is neither text nor numbers."""
    import pyarrow as pa  # a tenth of a second, for large tables only
    from pyarrow import csv as arrow_csv

    if any(pd.api.types.is_bool_dtype(dtype) for dtype in table.dtypes):  # which Arrow writes in another way
        return False
    without_header = arrow_csv.WriteOptions(include_header=False, quoting_style="none")
    try:
        as_arrow = pa.Table.from_pandas(table, preserve_index=False)
        with path.open("wb") as file:
            file.write(table.iloc[:0].to_csv(index=False, lineterminator="\n").encode())
            arrow_csv.write_csv(as_arrow, file, without_header)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return False
    return True


def _tell_all(path: Path, changed: list[str]) -> None:
    for value in changed[:MOST_TOLD]:
        _tell(path, value)
    if len(changed) > MOST_TOLD:
        _tell(path, f"… and {len(changed) - MOST_TOLD} more")


@cache  # a table that grows is written again and again
def _tell(path: Path, value: str) -> None:
    log.warning(
        "%s: %r stands there as %r; a spreadsheet would take it for a formula.", path.name, value, _as_text(value)
    )


def as_it_was(value: Any) -> Any:
    """Return a text of a CSV file of `write_csv` as it was before.

    >>> as_it_was("'=A1"), as_it_was("'tis")
    ('=A1', "'tis")
    """
    if not isinstance(value, str):
        return value
    if value.startswith("'") and FORMULA.match(value[1:]):
        value = value[1:]
    return MARKED_WITHIN.sub(r"\1", value)
