"""Files are written whole or not at all."""

import hashlib
from pathlib import Path

import pytest

from jind_nb.core import files
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


def test_a_file_that_is_hashed_ahead_and_changed_is_hashed_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else manifest.json would name a file that nobody annotated."""
    monkeypatch.setattr(files, "PIECE", 1000)
    file, large = tmp_path / "a.h5ad", b"x" * 2500
    file.write_bytes(large)
    files.hash_ahead(file)
    assert files.sha256(file) == hashlib.sha256(large).hexdigest()
    file.write_bytes(large + b"y")
    assert files.sha256(file) == hashlib.sha256(large + b"y").hexdigest()
    files.hash_ahead(tmp_path / "missing.h5ad")
