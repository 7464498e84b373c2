"""One name for one thing, in all that a reader sees."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGES = [
    *sorted((ROOT / "jind_nb").rglob("*.py")),
    *sorted((ROOT / "jind_nb" / "templates").iterdir()),
    *sorted((ROOT / "notebooks").glob("*.ipynb")),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "README.md",
]

# The target's cells that got a type are *assigned*; annotated batches and cells are those that came with labels.
OF_THE_TARGET = re.compile(
    r"cells annotated(,| \(| and )|cells were annotated or not|annotated cells (of this batch|agree|are (probably )?wrong)"
    r"|number: annotated|share annotated|annotated %|none annotated|annotated and (`?Unassigned)"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_cells_of_the_target_are_assigned_and_those_of_the_reference_annotated(page: Path) -> None:
    """A reader of "annotated cells" would else have to guess whose: those that were learned from, or those that got a type."""
    text = page.read_text("utf-8")
    assert [found[0] for found in OF_THE_TARGET.finditer(" ".join(text.split()))] == []
