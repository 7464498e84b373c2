"""Tables as people and screen readers read them: names as text, numbers as numbers, gaps as dashes."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jind_nb.report import html as report_html


class Cells(HTMLParser):
    """The text of every cell, and every tag."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells and data != "\n":
            self.cells[-1] += data


@given(st.lists(st.text(st.characters(exclude_characters="\r\x00", exclude_categories=["Cs"])), min_size=1, max_size=5))
def test_any_name_is_text(names: list[str]) -> None:
    """Names come from other people's files, and a report is opened anywhere."""
    frame = pd.DataFrame({"value": names}, index=pd.Index(names, name="name", dtype=object))
    found = Cells(report_html.table_html(frame, names[0]))
    assert {tag for tag, _ in found.tags} <= {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert len(found.cells) == 2 + 2 * len(names)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (1200, "1,200"), (np.int64(7), "7"), (0.12345, "0.123"), (np.float32(0.5), "0.5"), (26.0, "26"),
        (123456.7, "123,457"), (None, "–"), (np.nan, "–"), (True, "yes"), (np.bool_(False), "no"), ("1200", "1200"),
    ],
)  # fmt: skip
def test_values_are_said_as_people_read_them(value: object, said: str) -> None:
    assert report_html.value_text(value) == said


def test_numbers_are_aligned_and_words_are_not() -> None:
    """Digits under digits: a column of counts can be compared at a glance. Words must say in their cells that they are not,
    as JupyterLab aligns every cell to the right."""
    frame = pd.DataFrame(
        {"n": [1, None], "word": ["a", None], "yes": [True, False]}, index=pd.Index(["x", "y"], name="t")
    )
    found = Cells(report_html.table_html(frame))
    kinds = [attributes.get("class") for tag, attributes in found.tags if tag == "td"]
    assert kinds == ["number", "word", None, "number", None, None]
    left = [attributes.get("style") for tag, attributes in found.tags if tag in ("td", "th")]
    assert left == ["text-align: left", None, "text-align: left", "text-align: left"] * 3
    scopes = [attributes["scope"] for tag, attributes in found.tags if tag == "th"]
    assert scopes == ["col"] * 4 + ["row"] * 2
    assert found.cells[4:] == ["x", "1", "a", "yes", "y", "–", "–", "no"]


def test_a_table_of_notes_is_sentences() -> None:
    html = report_html.table_html(pd.DataFrame({"note": ["one <b>", "two"]}))
    assert html == '<p class="note">one &lt;b&gt;</p>\n<p class="note">two</p>\n'


def test_a_table_without_rows_says_so() -> None:
    """Heads over nothing look like something that was lost."""
    assert report_html.table_html(pd.DataFrame({"cells": []}), "Left out") == '<p class="note">Left out: none.</p>'
