"""Runs in forks of one process, as a sweep does them: they leave what a run of its own leaves, and end when they must."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from jind_nb.commands.sweep import process as process_module
from jind_nb.commands.sweep.process import RunsProcess
from jind_nb.core.processes import no_settings
from jind_nb.core.progress import NO_BARS
from jind_nb.core.stage_words import STAGES
from tests.conftest import Whole
from tests.helpers.whole import differences, shown_in

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def process() -> Iterator[RunsProcess]:
    process = RunsProcess(no_settings() | {NO_BARS: "1", "PYTHONUNBUFFERED": "1", "MPLBACKEND": "agg"})
    yield process
    process.end()


def parameters_of(whole: Whole, folder: Path) -> str:
    values = yaml.safe_load(whole.parameters.read_text("utf-8"))
    file = folder / "p.yaml"
    paths = {"PATH": str(whole.parameters.parent / values["PATH"]), "OUTPUT_PATH": str(folder / "run")}
    file.write_text(yaml.safe_dump(values | paths), "utf-8")
    return str(file)


def test_a_run_in_a_fork_leaves_what_a_run_of_its_own_leaves(
    whole: Whole, process: RunsProcess, tmp_path: Path
) -> None:
    """Lost otherwise: the answer of a donor, which would depend on whether it was annotated alone or among forty."""
    log = tmp_path / "log"
    assert process.run(str(tmp_path / "missing.yaml"), log, lambda: True) == 2  # a run that fails harms no later one
    assert "missing.yaml" in log.read_text("utf-8")
    assert process.run(parameters_of(whole, tmp_path), log, lambda: True) == 0, log.read_text("utf-8")
    assert differences(tmp_path / "run", whole.run) == []
    for stage in STAGES:
        ours, theirs = (shown_in(folder / "notebooks" / f"{stage}.ipynb") for folder in (tmp_path / "run", whole.run))
        assert ours == theirs, stage
    assert "5/5 report" in log.read_text("utf-8")


def test_a_cancelled_run_ends_with_its_kernel(whole: Whole, process: RunsProcess, tmp_path: Path) -> None:
    """Lost otherwise: two cores, to a run that nobody waits for."""
    begun = time.monotonic()
    log = tmp_path / "log"

    def is_wanted() -> bool:
        return time.monotonic() < begun + 60 and not (log.exists() and "1/5" in log.read_text("utf-8"))

    assert process.run(parameters_of(whole, tmp_path), log, is_wanted) is None
    assert psutil.Process(process.process.pid).children(recursive=True) == []


def test_a_killed_process_is_told(whole: Whole, tmp_path: Path) -> None:
    """Lost otherwise: the night, to a worker that waits for a process that the system ended when memory ran out."""
    process = RunsProcess(no_settings())
    threading.Timer(1, os.kill, (process.process.pid, signal.SIGKILL)).start()
    assert process.run(parameters_of(whole, tmp_path), tmp_path / "log", lambda: True) == -signal.SIGKILL
    process.end()
    assert not process.is_alive()


WITHOUT_FORKS = """
import socket, sys
from jind_nb.commands.sweep import process
process.CAN_FORK = False
process.serve(socket.socket(fileno=int(sys.argv[1])))
"""


def test_where_no_process_may_fork_a_run_has_its_own(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lost otherwise: every sweep on a Mac."""
    command = [sys.executable, "-P", "-c", WITHOUT_FORKS]
    monkeypatch.setattr(process_module, "python_module", lambda _, number: [*command, str(number)])
    process = RunsProcess(no_settings() | {NO_BARS: "1", "MPLBACKEND": "agg"})
    log = tmp_path / "log"
    assert process.run(parameters_of(whole, tmp_path), log, lambda: True) == 0, log.read_text("utf-8")
    assert differences(tmp_path / "run", whole.run) == []
    process.end()
    assert not process.is_alive()
