"""What the web page tells its visitors when something goes wrong, what it limits, and whom it lets in."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from jind_nb.commands.app import new_run
from jind_nb.commands.app import workspace as workspaces
from jind_nb.commands.app.process import describe_file
from jind_nb.commands.app.run_view import RunView
from jind_nb.commands.app.workspace import EXAMPLE, AppSettings, RunOfVisitor, Workspace, ask_process, remove_old
from jind_nb.core.processes import python_module
from jind_nb.errors import InputError

DAY = 86_400


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.new(AppSettings(tmp_path / "root", most_upload_bytes=1_000_000_000, keep_days=7))


def ended_run(workspace: Workspace, name: str = "20260101-000000-01234567") -> RunOfVisitor:
    run = RunOfVisitor(workspace, name)
    run.results.mkdir(parents=True)
    values = {"PATH": EXAMPLE, "BATCH_COL": "well", "LABELS_COL": "bulk_labels", "TARGET_DATASET_NAME": "well 1"}
    run.parameters_yaml.write_text(json.dumps(values | {"OUTPUT_PATH": str(run.results)}))
    return run


# --- what went wrong is told -----------------------------------------------------------------------------------------


def test_a_run_that_cannot_be_read_is_listed_as_such(workspace: Workspace) -> None:
    """Lost otherwise: the visitor's list of runs, all of it, to one file."""
    good, bad = ended_run(workspace), ended_run(workspace, "20260102-000000-01234567")
    bad.parameters_yaml.write_text("half a fi")
    assert [run.title() for run in workspace.all_runs()] == ["2026-01-02 00:00, unreadable", "2026-01-01 00:00, well 1"]
    assert "cannot be read" in bad.problem()
    assert (good.problem(), bad.paths()) == ("", [])
    bad.delete()
    assert [run.name for run in workspace.all_runs()] == [good.name]


def test_a_page_with_an_unreadable_run_opens_and_lets_delete_it(workspace: Workspace) -> None:
    """Lost otherwise: the page, which ended with an error; or the way to be rid of the run."""
    run = ended_run(workspace)
    run.parameters_yaml.write_text("half a fi")
    view = RunView(start_task=lambda work: work.close(), changed=lambda: None)
    view.show(run)
    view.refresh()
    assert "cannot be read" in view.description.value
    assert view.delete.layout.display == ""
    assert view.again.layout.display == "none"


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "process.json")


@pytest.mark.parametrize("button", ["_start", "_check"])
def test_a_full_disk_is_told_where_the_button_is(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, button: str
) -> None:
    """Lost otherwise: an hour of waiting for a run that a click did not start; and a button that no longer answers."""
    form = new_run.NewRunForm(workspace, start_task=lambda work: work.close(), started=lambda _: None)
    values = {"PATH": EXAMPLE, "BATCH_COL": "well", "LABELS_COL": "bulk_labels", "TARGET_DATASET_NAME": "well 1"}
    monkeypatch.setattr(form, "_values", lambda: values)
    monkeypatch.setattr(workspaces, "write_json", full)
    monkeypatch.setattr(new_run, "ask_process", full)
    done = getattr(form, button)()
    if done is not None:
        asyncio.run(done)
    assert "disk is full" in form.found.value
    assert not form.check.disabled
    assert list(workspace.runs.iterdir()) == []


def test_a_full_disk_does_not_keep_a_run_from_being_cancelled(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lost otherwise: the way to make room, while the run at work takes what is left."""
    run, sleeping = ended_run(workspace), workspaces.psutil.Popen(["sleep", "100"])
    monkeypatch.setattr(RunOfVisitor, "process", lambda _: sleeping if sleeping.poll() is None else None)
    monkeypatch.setattr(Path, "touch", full)
    try:
        run.cancel()
        assert run.state() == "failed"
    finally:
        if sleeping.poll() is None:
            sleeping.kill()
            sleeping.wait()


@pytest.mark.parametrize("stored", ["[]", "null", "{}", '{"pid": "x"}', '{"pid": 1.5}', '{"pid": -1}', "another's"])
def test_no_other_process_is_taken_for_a_runs_own(workspace: Workspace, stored: str) -> None:
    """Lost otherwise: the list of runs, to a damaged file; or somebody's work, which Cancel would kill."""
    run, other = ended_run(workspace), workspaces.psutil.Popen(["sleep", "100"])
    try:
        if stored == "another's":
            stored = json.dumps({"pid": other.pid, "after_boot": workspaces._after_boot(other)})
        (run.folder / "process.json").write_text(stored)
        assert run.process() is None
        assert [one.state() for one in workspace.all_runs()] == ["failed"]
    finally:
        other.kill()
        other.wait()


def test_a_run_is_known_again_after_the_clock_was_set_back(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lost otherwise: the run at work, which the page calls failed and starts a second time."""
    run = ended_run(workspace)
    sleeping = workspaces.psutil.Popen(["sleep", "100"], cwd=run.folder)
    try:
        monkeypatch.setattr(workspaces.psutil, "Popen", lambda *_, **__: sleeping)
        run.start()
        boot, created = workspaces.psutil.boot_time(), sleeping.create_time()
        monkeypatch.setattr(workspaces.psutil, "boot_time", lambda: boot - 3600)
        monkeypatch.setattr(workspaces.psutil.Process, "create_time", lambda _: created - 3600)
        run.begun.touch()
        os.utime(run.begun, (time.time() + 3600, time.time() + 3600))
        assert (run.state(), run.seconds()) == ("running", 0.0)
    finally:
        sleeping.kill()
        sleeping.wait()


# --- limits ----------------------------------------------------------------------------------------------------------


def test_eight_arrow_keys_read_one_file_at_a_time(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost otherwise: the machine's memory, to a visitor who walks through the list of files."""
    at_once, most, lock = 0, 0, threading.Lock()

    class Slow(workspaces.subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            nonlocal at_once, most
            with lock:
                at_once += 1
                most = max(most, at_once)
            super().__init__(*arguments, **options)

        def communicate(self, *arguments: Any, **options: Any) -> Any:
            nonlocal at_once
            try:
                return super().communicate(*arguments, **options)
            finally:
                if self.returncode is not None:
                    with lock:
                        at_once -= 1

    monkeypatch.setattr(workspaces.subprocess, "Popen", Slow)
    monkeypatch.setattr(
        workspaces, "python_module", lambda *_: ["sh", "-c", "cat > /dev/null; sleep 1; echo '{\"cells\": 1}'"]
    )
    chosen, answers = 0, {}

    def look(number: int) -> None:
        answers[number] = ask_process(workspace, "describe", "x", lambda: chosen == number)

    threads = []
    for number in range(8):
        chosen = number
        threads.append(threading.Thread(target=look, args=(number,)))
        threads[-1].start()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    assert most == 1
    assert answers == {**dict.fromkeys(range(7)), 7: {"cells": 1}}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["many columns", "long names"])
def test_a_look_answers_in_kilobytes_whatever_the_file(tmp_path: Path, kind: str) -> None:
    """Lost otherwise: the server's memory, to an upload of some megabytes."""
    n, columns = 2_000, 200
    obs = pd.DataFrame({"batch": np.arange(n) % 4, "celltype": np.arange(n) % 5}, index=[f"c{i}" for i in range(n)])
    obs = obs.astype(str)
    long = 100 if kind == "many columns" else 20_000
    extra = {
        f"column {k}": pd.Categorical.from_codes(
            np.where(np.arange(n) % 50 == 0, -1, (np.arange(n) + k) % 190), [f"{i} " + "x" * long for i in range(190)]
        )
        for k in range(columns if kind == "many columns" else 5)
    }
    obs = pd.concat([obs, pd.DataFrame(extra, index=obs.index)], axis=1)
    ad.AnnData(np.ones((n, 3), dtype=np.float32), obs=obs).write_h5ad(tmp_path / "cells.h5ad")
    seen = describe_file(str(tmp_path / "cells.h5ad"))
    assert len(json.dumps(seen)) < 600_000
    assert {"batch", "celltype"} <= set(seen["columns"])
    assert seen["proposed"]["BATCH_COL"] == "batch"


def test_room_promised_to_uploads_under_way_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost otherwise: the disk, to five visitors who upload at once."""
    settings = AppSettings(tmp_path / "root", most_upload_bytes=60_000_000)
    usage = workspaces.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(workspaces.shutil, "disk_usage", lambda _: usage._replace(free=60_000_000))
    promised = 0
    for _ in range(5):
        visitor = Workspace.new(settings)
        promised += visitor.room()
        visitor.begin_upload("cells.h5ad", visitor.room())
    assert 40_000_000 < promised < 60_000_000


def test_old_uploads_and_ended_runs_go_and_nothing_else(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost otherwise: the disk, month by month; or the file of a run at work."""
    old, new, used = (workspace.uploads / f"{name}.h5ad" for name in ("old", "new", "used"))
    for file in (old, new, used):
        file.touch()
    runs = [ended_run(workspace, f"2026010{i}-000000-01234567") for i in range(1, 4)]
    runs[2].parameters_yaml.write_text(runs[2].parameters_yaml.read_text().replace(EXAMPLE, str(used)))
    before = time.time() - 8 * DAY
    for path in (old, used, runs[0].parameters_yaml, runs[0].results, runs[0].folder, runs[2].results, runs[2].folder):
        os.utime(path, (before, before))
    os.utime(runs[2].parameters_yaml, (before, before))
    monkeypatch.setattr(RunOfVisitor, "process", lambda run: object() if run.name == runs[2].name else None)
    remove_old(AppSettings(workspace.settings.root))
    assert len(workspace.uploaded()) == 3  # off by default
    remove_old(workspace.settings)
    assert {file.name for file in workspace.uploaded()} == {"new.h5ad", "used.h5ad"}
    assert [run.name for run in workspace.all_runs()] == [runs[2].name, runs[1].name]


def test_processes_of_the_page_take_no_module_from_a_visitors_folder() -> None:
    """Lost otherwise: the server, to an upload that is called like a library."""
    assert "-P" in python_module("jind_nb.commands.app.process", "describe")


# --- several targets ---------------------------------------------------------------------------------------------------


def test_all_batches_without_labels_are_proposed_together(workspace: Workspace) -> None:
    """Lost otherwise: a run for each donor, and a colleague who forgets the third."""
    form = new_run.NewRunForm(workspace, start_task=lambda work: work.close(), started=lambda _: None)
    columns = {"donor": {"a": 50, "b": 40, "c": 30, "d": 20}, "type": {"T": 60, "B": 30}}
    labelled = {"donor": {"type": {"a": 50, "b": 40}}}
    proposed = {"BATCH_COL": "donor", "LABELS_COL": "type", "MIN_CELL_TYPE_POPULATION": None}
    proposed["SOURCE_DATASET_NAME"] = "a"
    form.path = EXAMPLE
    form._show_content({"cells": 140, "features": 9, "proposed": proposed, "columns": columns, "labelled": labelled})
    target = form.fields["TARGET_DATASET_NAME"]
    assert target.options[0][0] == "– every batch without labels (2) –"
    assert target.value == (new_run.EVERY,)
    assert "TARGET_DATASET_NAME" not in form._values()
    target.value = ["d"]
    assert form._values()["TARGET_DATASET_NAME"] == "d"
    target.value = ["b", "d"]
    assert form._values()["TARGET_DATASET_NAME"] == ["b", "d"]
    form._columns_chosen()
    assert target.value == ("b", "d")
    assert form._values()["SOURCE_DATASET_NAME"] == "a"
    target.value = ["a"]
    assert "SOURCE_DATASET_NAME" not in form._values()
    target.value = []
    with pytest.raises(InputError, match="Please choose: Batches to annotate"):
        form._values()
