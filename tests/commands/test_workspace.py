"""The web page's folders: nobody's files are another's, nothing outside is reached, and no process is left."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jind_nb.commands.app.process import describe_file
from jind_nb.commands.app.workspace import EXAMPLE, AppSettings, RunOfVisitor, Workspace, clean_name, place_held
from jind_nb.errors import InputError
from tests.helpers.simulated import THREE_BATCHES, simulated

VALUES = {
    "PATH": EXAMPLE,
    "BATCH_COL": "well",
    "LABELS_COL": "bulk_labels",
    "TARGET_DATASET_NAME": "well 1",
    "MIN_CELL_TYPE_POPULATION": 5,
}


@pytest.fixture
def settings(tmp_path: Path) -> AppSettings:
    (tmp_path / "data").mkdir()
    return AppSettings(tmp_path / "root", (tmp_path / "data",), most_upload_bytes=1_000_000)


@pytest.fixture
def workspace(settings: AppSettings) -> Workspace:
    return Workspace.new(settings)


def until(true: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def processes_in(folder: Path) -> list[psutil.Process]:
    """Processes whose working folder is in a folder."""
    found = []
    for process in psutil.process_iter(["cwd", "status"]):
        cwd = process.info["cwd"]
        if cwd and folder in (Path(cwd), *Path(cwd).parents) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


@given(st.text(), st.sampled_from([".h5ad", ".H5AD"]))
def test_any_name_of_an_upload_becomes_one_safe_part_of_a_path(name: str, ending: str) -> None:
    """Lost otherwise: a file elsewhere on the server, overwritten by an upload called ../../.bashrc.h5ad."""
    cleaned = clean_name(name + ending)
    assert Path(cleaned).name == cleaned
    assert cleaned.endswith(".h5ad")
    assert not cleaned.startswith(".")
    assert cleaned.isprintable()
    assert len(cleaned.encode()) < 200


def test_a_visitor_is_found_by_the_whole_name_only(settings: AppSettings, workspace: Workspace) -> None:
    """Lost otherwise: other people's patients, by a guess or a path in the link."""
    assert Workspace.find(settings, workspace.visitor) == workspace
    for name in ("", ".", "..", "places", workspace.visitor[:-1], f"../root/{workspace.visitor}", "x" * 32, "*" * 32):
        assert Workspace.find(settings, name) is None
    assert workspace.folder.stat().st_mode & 0o077 == 0


def test_paths_are_ones_own_uploads_or_in_a_data_folder(
    settings: AppSettings, workspace: Workspace, tmp_path: Path
) -> None:
    """Lost otherwise: any file the server's user can read."""
    data, secret = tmp_path / "data", tmp_path / "secret.h5ad"
    secret.touch()
    (data / "deep").mkdir()
    (data / "deep" / "atlas.h5ad").touch()
    (data / "link.h5ad").symlink_to(secret)
    (data / "inner.h5ad").symlink_to(data / "deep" / "atlas.h5ad")
    other = Workspace.new(settings)
    for this in (workspace, other):
        (this.uploads / "mine.h5ad").touch()
    assert workspace.resolve_path(str(workspace.uploads / "mine.h5ad")) == str(workspace.uploads / "mine.h5ad")
    assert workspace.resolve_path(str(data / "inner.h5ad")) == str(data / "deep" / "atlas.h5ad")
    assert workspace.resolve_path(EXAMPLE) == EXAMPLE
    refused = [
        secret, data / "link.h5ad", data / ".." / "secret.h5ad", data, data / "missing.h5ad", "deep/atlas.h5ad", "/etc/passwd",
        other.uploads / "mine.h5ad", workspace.uploads / ".." / "uploads" / "mine.h5ad", "scanpy:other", "a\0b", "",
    ]  # fmt: skip
    for path in refused:
        with pytest.raises(InputError, match="is no file of yours"):
            workspace.resolve_path(str(path))
        with pytest.raises(InputError):
            workspace.start_run(VALUES | {"PATH": str(path)})
    above = Workspace(replace(settings, data=(tmp_path,)), workspace.visitor)  # a data folder around all sessions
    with pytest.raises(InputError, match="is no file of yours"):
        above.resolve_path(str(other.uploads / "mine.h5ad"))
    assert other.uploads / "mine.h5ad" not in above.server_files()
    assert workspace.all_runs() == []
    assert {path.name for path in workspace.server_files()} == {"atlas.h5ad", "inner.h5ad"}


def test_an_upload_can_be_run_where_the_folder_is_behind_a_link(tmp_path: Path) -> None:
    """Lost otherwise: every upload, on a server whose home folders are links to another disk."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "home").symlink_to(tmp_path / "disk")
    workspace = Workspace.new(AppSettings(tmp_path / "home" / "root", most_upload_bytes=1000))
    upload = workspace.end_upload(workspace.begin_upload("cells.h5ad", 10), "cells.h5ad")
    chosen = workspace.resolve_path(str(upload))
    assert workspace.resolve_path(chosen) == chosen
    assert workspace.without_folder(f"PATH: {chosen} is empty") == "PATH: cells.h5ad is empty"


def test_uploads_keep_within_the_limit_and_replace_nothing(workspace: Workspace) -> None:
    """Lost otherwise: the disk, or an upload in use, to a second file of its name."""
    for number in range(3):
        part = workspace.begin_upload("cells.h5ad", 300_000)
        part.write_bytes(bytes(300_000))
        assert [file.name for file in workspace.uploaded()].count(part.name) == 0  # not to be chosen while half there
        workspace.end_upload(part, "cells.h5ad")
        assert len(workspace.uploaded()) == number + 1
    assert {file.name for file in workspace.uploaded()} == {"cells.h5ad", "cells (2).h5ad", "cells (3).h5ad"}
    under_way = workspace.begin_upload("cells.h5ad", 50_000)  # of which nothing has come yet
    with pytest.raises(InputError, match=r"0\.1 MB; there is room for 0\.1 MB"):
        workspace.begin_upload("cells.h5ad", 60_000)
    under_way.unlink()
    with pytest.raises(InputError, match=r"0\.3 MB; there is room for 0\.1 MB"):
        workspace.begin_upload("cells.h5ad", 300_000)
    with pytest.raises(InputError, match=r"not an \.h5ad file"):
        workspace.begin_upload("cells.loom", 1)
    assert len(list(workspace.uploads.iterdir())) == 3


@pytest.mark.slow
def test_no_more_runs_than_places(tmp_path: Path) -> None:
    """Lost otherwise: the machine's memory, to ten visitors at once."""
    inside, go = threading.Event(), threading.Event()

    def second() -> None:
        with place_held(tmp_path / "places", 2):
            inside.set()
            go.wait(30)

    with place_held(tmp_path / "places", 2):
        thread = threading.Thread(target=second)
        thread.start()
        assert inside.wait(30)
        third = subprocess.Popen(
            [
                sys.executable, "-c",
                "import sys; from pathlib import Path; from jind_nb.commands.app.workspace import place_held\n"
                "with place_held(Path(sys.argv[1]), 2): print('in', flush=True)",
                str(tmp_path / "places"),
            ],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        time.sleep(4)
        assert third.poll() is None
    assert third.communicate(timeout=60)[0] == b"in\n"
    go.set()
    thread.join(30)


def test_another_process_of_the_same_number_is_not_taken_for_the_run(workspace: Workspace) -> None:
    """Lost otherwise: somebody else's process, to Cancel, after a reboot."""
    run = RunOfVisitor(workspace, "20260101-000000-01234567")
    run.folder.mkdir()
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    try:
        (run.folder / "process.json").write_text(json.dumps({"pid": stranger.pid, "created": 1.0}))
        assert run.state() == "failed"
        run.cancel()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.slow
def test_a_run_waits_for_a_place_and_can_be_cancelled_meanwhile(workspace: Workspace) -> None:
    """Lost otherwise: a second visitor's run, or the way to take it back."""
    with place_held(workspace.settings.root / "places", 1):
        run = workspace.start_run(VALUES)
        assert run.state() == "waiting"
        time.sleep(3)
        assert run.state() == "waiting"
        run.cancel()
    assert run.state() == "cancelled"
    assert processes_in(run.folder) == []
    assert [r.name for r in workspace.all_runs()] == [run.name]
    run.delete()
    assert workspace.all_runs() == []


@pytest.mark.slow
def test_cancel_leaves_nothing_at_work_and_run_again_goes_on(workspace: Workspace) -> None:
    """Lost otherwise: the machine, to kernels nobody knows of; or the stages that were finished."""
    run = workspace.start_run(VALUES)
    until(lambda: run.progress()[0] >= 2, 400)
    stages = len(processes_in(run.folder))
    assert stages >= 2  # the run and a kernel
    run.cancel()
    assert run.state() == "cancelled"
    assert processes_in(run.folder) == []
    run.start()
    until(lambda: "reused" in (run.folder / "said.txt").read_text() or run.progress()[0] >= 2, 400)
    assert "1_preprocess: unchanged, reused" in (run.folder / "said.txt").read_text()
    run.delete()
    assert not run.folder.exists()


@pytest.mark.slow
def test_why_a_run_failed_is_told_in_the_runs_own_words(workspace: Workspace) -> None:
    """Lost otherwise: what to do about it."""
    run = workspace.start_run(VALUES | {"BATCH_COL": "wel"})
    until(lambda: run.state() == "failed")
    assert "has no column 'wel'" in run.why_failed()
    assert "Did you mean 'well'?" in run.why_failed()


def test_a_look_at_a_file_tells_batches_cell_types_and_who_has_labels(tmp_path: Path) -> None:
    """Lost otherwise: what to pick from; and a column of a million different values in the page."""
    adata = simulated(THREE_BATCHES)
    adata.obs["barcode"] = [f"b{i}" for i in range(adata.n_obs)]
    adata.obs["score"] = [i / 7 for i in range(adata.n_obs)]
    adata.obs["leiden"] = [i % 3 for i in range(adata.n_obs)]
    adata.obs.loc[adata.obs["batch"] == "c", "celltype"] = "unknown"
    adata.obs["<b>x"] = "</script>"
    adata.write_h5ad(tmp_path / "cells.h5ad")
    seen = describe_file(str(tmp_path / "cells.h5ad"))
    assert (seen["cells"], seen["features"]) == (300, 60)
    assert set(seen["columns"]) == {"batch", "celltype", "leiden", "<b>x"}
    assert seen["columns"]["batch"] == {"a": 110, "b": 110, "c": 80}
    assert seen["labelled"]["batch"]["celltype"] == {"a": 110, "b": 110, "c": 0}


def test_settings_reach_a_page_whole(settings: AppSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost otherwise: the limits the server was told."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    assert AppSettings.from_environment() is None
    told = replace(settings, runs_at_once=3)
    told.to_environment()
    assert AppSettings.from_environment() == told


def test_without_the_extra_the_command_says_how_to_install_it(
    jind_nb: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Lost otherwise: the way to the web page, in a traceback."""
    monkeypatch.setitem(sys.modules, "voila", None)
    answer = jind_nb("app", "--folder", tmp_path / "root")
    assert answer.status == 2
    assert "pip install 'jind-nb[web]'" in answer.err
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("option", [("--data", "missing"), ("--folder", "a file/root")])
def test_folders_that_cannot_be_are_told_before_anything_is_served(
    jind_nb: Callable[..., Any], tmp_path: Path, option: tuple[str, str]
) -> None:
    """Lost otherwise: an hour of looking for the files in the page."""
    (tmp_path / "a file").touch()
    answer = jind_nb("app", "--folder", tmp_path / "root", option[0], tmp_path / option[1])
    assert answer.status == 2
    assert option[0] in answer.err


@pytest.mark.parametrize(("mode", "warned"), [(0o755, True), (0o700, False)])
def test_a_folder_that_others_may_list_is_warned_of(
    jind_nb: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: int, warned: bool
) -> None:
    """Lost otherwise: a visitor's files, to a colleague with the token and a shell on the same machine."""
    root = tmp_path / "it's"
    root.mkdir()
    root.chmod(mode)
    monkeypatch.setattr("jind_nb.commands.app.server.serve", lambda *_, **__: None)
    answer = jind_nb("app", "--folder", root)
    assert answer.status == 0
    assert (f"chmod 700 {shlex.quote(str(root))}" in answer.err) == warned
