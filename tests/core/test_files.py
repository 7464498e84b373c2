"""Files are written whole or not at all."""

import errno
import hashlib
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from jind_nb.core import files
from jind_nb.core.files import copy_until, whole_file


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


@pytest.mark.parametrize("disk", ["that shares", "that stops sharing", "without"])
def test_a_copy_is_whole_on_any_disk_and_ends_when_nobody_wants_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: str
) -> None:
    """Half an annotated file would look like a damaged one; and Ctrl-C must not wait for a hundred gigabytes."""
    monkeypatch.setattr(files, "PIECE", 1000)
    file, to, sharing = tmp_path / "file", tmp_path / "to", getattr(os, "copy_file_range", None)
    file.write_bytes(np.random.default_rng(0).bytes(2500))
    calls = []

    def not_twice(*args: int) -> int:
        calls.append(args)
        if len(calls) > 1 or sharing is None:
            raise OSError(errno.EXDEV, "other disk")
        return int(sharing(*args))

    if disk == "that stops sharing":
        monkeypatch.setattr(os, "copy_file_range", not_twice, raising=False)
    if disk == "without":
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    stop = threading.Event()
    copy_until(stop, file, to)
    assert to.read_bytes() == file.read_bytes()
    stop.set()
    copy_until(stop, file, to)
    assert to.read_bytes() == b""
