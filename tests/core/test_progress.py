"""Bars: seen where a person waits, silent where only a file listens."""

from __future__ import annotations

import logging
import time

import pytest

from jind_nb.core import progress
from jind_nb.core.progress import OnScreen, bar


def test_nothing_is_drawn_into_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    """A cluster's log would hold a thousand half lines."""
    for _ in bar(range(3), "batches", "batch"):
        time.sleep(0.5)
    assert capsys.readouterr() == ("", "")


def test_what_is_logged_reaches_the_screen_as_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """A line that runs into a bar cannot be read."""
    log = logging.getLogger("jind_nb.test")
    log.addHandler(OnScreen())
    log.propagate = False  # another test of this process may have left its run's handlers on "jind_nb"
    log.setLevel(logging.INFO)
    log.info("one")
    log.info("two")
    assert capsys.readouterr().out == "one\ntwo\n"
    log.handlers.clear()


def test_long_work_tells_the_log_how_far_it_is(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Minutes of silence look like a program that hangs."""
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    monkeypatch.setattr(logging.getLogger("jind_nb"), "propagate", True)
    with caplog.at_level(logging.INFO, logger="jind_nb"):
        list(bar(iter("abc"), "reading x", "block", 3))
    assert [record.getMessage() for record in caplog.records][-1] == "reading x: block 3 of 3"
    OnScreen().emit(caplog.records[-1])  # where a bar shows it
    assert capsys.readouterr() == ("", "")
