"""Files are written whole or not at all."""

from pathlib import Path

import pytest

from jind_nb.core.files import whole_file


def test_half_a_file_never_has_its_name(tmp_path: Path) -> None:
    """A table cut in the middle reads like a whole one; and what was there before is still good."""
    file = tmp_path / "predictions.csv"
    file.write_text("whole")
    with pytest.raises(ZeroDivisionError), whole_file(file) as temporary:  # noqa: PT012 - where it breaks off is the case
        temporary.write_text("ha")
        raise ZeroDivisionError
    assert file.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [file]
    with whole_file(file) as temporary:
        temporary.write_text("new")
    assert file.read_text() == "new"
