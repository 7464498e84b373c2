"""What commands print: read in a narrow terminal, as it is."""

from __future__ import annotations

import pandas as pd
import pytest
from rich.console import Console

from jind_nb.commands import terminal

LONGEST = "ENSG00000258227_CLEC5A"


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Console:
    console = Console(width=80, record=True, force_terminal=False)
    monkeypatch.setattr(terminal, "out", console)
    return console


def _values(n_columns: int) -> pd.DataFrame:
    row = {f"normalisation {i}": f"counts per 1,206, log1p, {LONGEST}" for i in range(n_columns)}
    return pd.DataFrame([row, row], index=pd.Index(["[bold]donor 1", "donor 2"], name="batch"))


@pytest.mark.parametrize("n_columns", [1, 2, 3, 8])
def test_no_word_of_a_table_is_broken(narrow: Console, n_columns: int) -> None:
    """Lost otherwise: the name of a gene or a heading, which nobody can copy or search for in two halves. A table that is too wide for
    its words is a list, which says the same."""
    terminal.print_table("Values", _values(n_columns))
    said = narrow.export_text()
    assert max(map(len, said.splitlines())) <= 80
    words = said.replace("┃", " ").replace("│", " ").split()
    assert words.count(LONGEST) == 2 * n_columns
    assert words.count("normalisation") in (n_columns, 2 * n_columns)
    assert "[bold]donor" in words
    assert ("│" in said) == (n_columns <= 2)


def test_a_word_longer_than_the_terminal_is_whole_across_its_lines(narrow: Console) -> None:
    """Lost otherwise: the end of a long name."""
    name = "x" * 200
    terminal.print_table("Values", pd.DataFrame({"features": [name]}, index=pd.Index(["a"], name="batch")))
    assert narrow.export_text().count("x") == 200
