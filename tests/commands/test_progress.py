"""What a run shows while it is at work: it fits a terminal, and elsewhere it is never silent for long."""

from __future__ import annotations

import io
import logging
import time
from pathlib import Path

import pytest
from rich.console import Console

from jind_nb.commands import progress
from jind_nb.commands.sweep.progress import SweepProgress
from jind_nb.core.stage_words import STAGE_WORDS


def test_a_terminal_of_80_columns_shows_stage_and_batch(tmp_path: Path) -> None:
    """Cut words tell nobody whether it is worth waiting."""
    (tmp_path / "log").write_text("2026-01-01 12:00:00 left out, training 14 of 38: donor14\n")
    console = Console(file=io.StringIO(), force_terminal=True, width=80, _environ={})
    with progress.stage_progress(console, tmp_path / "log", 5) as show_stage:
        for stage, words in STAGE_WORDS.items():
            show_stage(stage, words)
            time.sleep(0.25)
    shown = console.file.getvalue()
    for n, words in enumerate(STAGE_WORDS.values(), start=1):
        assert f"stage {n}/5: {words}" in shown
    assert "left out, training 14 of 38: donor14" in shown


def test_without_a_terminal_there_is_a_line_every_half_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """183 seconds of silence in a cluster's log look like a program that hangs."""
    assert progress.LONGEST_SILENCE <= 30
    (tmp_path / "log").write_text("2026-01-01 12:00:00 reading x: block 14 of 38\n")
    console, repeated = Console(file=io.StringIO(), width=80), progress.repeated
    monkeypatch.setattr(progress, "repeated", lambda tell: repeated(tell, 0.05))
    with progress.stage_progress(console, tmp_path / "log", 5) as show_stage:
        show_stage("1_preprocess", "reading and preparing")
        time.sleep(0.3)
    lines = console.file.getvalue().splitlines()
    assert lines[0].endswith("1/5 1_preprocess: reading and preparing")
    assert lines[-1].endswith("1/5 1_preprocess, 0 s: reading x: block 14 of 38")
    console = Console(file=io.StringIO(), width=80)
    with progress.last_messages_shown(console):
        logging.getLogger("jind_nb.test").info("annotating 300,000 cells")
        time.sleep(0.3)
    assert console.file.getvalue().splitlines()[-1].endswith("0 s: annotating 300,000 cells")


def test_a_sweep_without_a_terminal_is_never_silent_for_half_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty runs of minutes each: whoever looks into the log wants to know which are at work."""
    console, now = Console(file=io.StringIO(), width=80), 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with SweepProgress(console, 3) as shown:
        for now, ended in ((0.0, None), (24.0, None), (26.0, None), (40.0, "a"), (64.0, None), (66.0, None)):
            if now == 0.0:
                for run in ("a", "b"):
                    shown.show_stage(run, (2, 5, "training"))
            if ended:
                shown.show_end(ended, "finished")
            shown.break_silence()
    lines = [line.split(" ", 1)[1] for line in console.file.getvalue().splitlines()]
    assert lines == [
        "a: 2/5 training", "b: 2/5 training", "0 of 3 ended; at work: a (2/5), b (2/5)", "a: finished (1 of 3)",
        "1 of 3 ended; at work: b (2/5)",
    ]  # fmt: skip
