"""Killed, stopped, disk full, folder removed, two at once: a rerun goes on, and nothing is half-written or mixed."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from jind_nb.commands import kernels
from jind_nb.commands import run as commands_run
from jind_nb.core import code_hash, locks
from jind_nb.core.files import whole_file, write_json
from jind_nb.core.parameters import Parameters, load_parameters
from jind_nb.core.stage_words import STAGES
from jind_nb.errors import InputError
from jind_nb.runs import cache, previous
from jind_nb.runs.folder import Run
from tests.conftest import Answer, Whole, skip
from tests.helpers.one_process import run_forked
from tests.helpers.simulated import THREE_BATCHES, simulated
from tests.helpers.whole import differences, digest, files_in, place_of, predictions_of, problems

ALL = [*STAGES, "report"]


def start(parameters: Path, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """`jind-nb run` in a process of its own, not waited for."""
    return subprocess.Popen(
        [sys.executable, "-m", "jind_nb.cli", "run", str(parameters), *map(str, arguments)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process: subprocess.Popen[str], words: str) -> None:
    """Until the run says so."""
    assert process.stderr is not None
    assert any(words in line for line in process.stderr), f"ended without {words!r}"


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    me = psutil.Process(process.pid)
    return [me, *me.children(recursive=True)]


def killed(process: subprocess.Popen[str], processes: list[psutil.Process]) -> None:
    """Kills these and waits for the command alone: the next run must cope with what its kernels still do."""
    for one in processes:
        one.kill()
    process.wait()
    for stream in (process.stdout, process.stderr):
        assert stream is not None
        stream.close()


def gone(processes: list[psutil.Process]) -> bool:
    """Soon, that is; a busy machine takes its time."""
    return not psutil.wait_procs(processes, timeout=120)[1]


def reused_of(run: Path) -> list[str]:
    return list(json.loads((run / "manifest.json").read_text())["reused"])


# --- whole runs -------------------------------------------------------------------------------------------------------


@pytest.fixture
def again(whole: Whole, tmp_path: Path) -> Path:
    """A copy of the undisturbed run, to rerun in."""
    return Path(shutil.copytree(whole.run, tmp_path / "again"))


@pytest.mark.slow
def test_killed_three_times_ends_like_an_undisturbed_run(whole: Whole, demo_run: Path, tmp_path: Path) -> None:
    """Days of training are not lost to a power cut, and what is there afterwards is the result of one run.

    The folder holds an earlier run of other data. Killed are the command alone, then all its processes; of the command's
    kernel none is left at work, which would write into the folder of the next run. And the undisturbed run had another
    hash seed: a result that changes between two identical runs cannot be published.
    """
    run = Path(shutil.copytree(demo_run, tmp_path / "run"))
    earlier, rng = digest(run), random.Random(0)
    for kill, stage in (("alone", "1_preprocess"), ("all", "2_train"), ("alone again", "4_evaluate")):
        process = start(whole.parameters, "--output-path", run, PYTHONHASHSEED="2")
        wait_for(process, stage)
        time.sleep(rng.uniform(0, 2))
        everyone = family(process)
        if kill == "alone":
            for one in everyone[1:]:
                one.suspend()  # as a busy machine does; else the kernel may end before it is looked for
        killed(process, everyone if kill == "all" else everyone[:1])
        if kill == "alone":
            with pytest.raises(InputError, match="at work"):  # its kernel still holds the folder
                locks.refuse_if_in_use(run)
            for one in everyone[1:]:
                one.resume()
            assert gone(everyone)
            locks.refuse_if_in_use(run)
        assert problems(run, earlier, digest(whole.run)) == []
        finished = list(json.loads((run / "work" / "stages.json").read_text()))
    process = start(whole.parameters, "--output-path", run, PYTHONHASHSEED="2")
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert differences(run, whole.run) == []
    assert predictions_of(run)["raw_predictions"].nunique() > 1
    assert place_of(run, earlier) == "previous"
    assert reused_of(run) == finished
    assert len(finished) >= 1
    assert all(f"{stage}: unchanged, reused" in err for stage in finished)
    assert "cells assigned" in out


@pytest.mark.slow
def test_a_finished_run_is_not_repeated(whole: Whole, again: Path) -> None:
    """The same command twice costs seconds and changes no result, also when the folder was moved.

    The report names the folder, and so is the one thing made anew in another one.
    """
    before = digest(again)
    assert run_forked("run", whole.parameters, "--output-path", again, cwd=again.parent, pdf=True).returncode == 0
    assert reused_of(again) == list(STAGES)
    done = run_forked("run", whole.parameters, "--output-path", again, cwd=again.parent, pdf=True)
    assert done.returncode == 0, done.stderr
    assert "cells assigned" in done.stdout
    assert str(again / "report.html") in done.stdout
    assert reused_of(again) == ALL
    changed = {name for name, value in digest(again).items() if before[name] != value}
    assert changed <= {
        "run.log", "manifest.json", "ro-crate-metadata.json", "parameters.yaml", "work/stages.json", "report.html",
        "report.pdf",
    }  # fmt: skip
    assert not (again / "previous").exists()
    manifest = json.loads((again / "manifest.json").read_text())
    assert list(manifest["seconds"]) == ALL


# The next two go on from one another: each begins in the same folder, where the notebook before training is reused.
TRAINS = ("-s", "METHOD=reference", "-s", "ALIGN=false")


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory, whole: Whole) -> Path:
    """The folder of a run whose networks take minutes to train: a copy of a finished one, so that nothing is new there."""
    return Path(shutil.copytree(whole.run, tmp_path_factory.mktemp("training") / "run"))


@pytest.mark.slow
def test_a_second_run_in_the_same_folder_is_refused(whole: Whole, training: Path) -> None:
    """Two runs in one folder would leave one's model with the other's predictions; stopped, nothing works on."""
    process = start(whole.parameters, "--output-path", training, *TRAINS, "-s", "EPOCHS=1000")
    wait_for(process, "2_train")
    second = run_forked("run", whole.parameters, "--output-path", training, "-s", "SEED=3", cwd=training.parent)
    assert second.returncode == 2
    assert str(training) in second.stderr
    assert f"process {process.pid} on" in second.stderr
    values = load_parameters(whole.parameters, {"OUTPUT_PATH": str(training)})
    by_hand = f"from jind_nb.runs.notebook import open_run; open_run({values.model_dump()!r})"
    refused = subprocess.run([sys.executable, "-c", by_hand], capture_output=True, text=True, check=False)
    assert "another run of jind-nb is at work" in refused.stderr
    everyone = family(process)
    assert len(everyone) > 1
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=300)[1]
    assert process.returncode == 130
    assert "Stopped." in err
    assert "Traceback" not in err
    assert gone(everyone)
    assert list(json.loads((training / "work" / "stages.json").read_text())) == ["1_preprocess"]


@pytest.mark.slow
def test_killed_while_networks_train_goes_on_after_the_last_batch(whole: Whole, training: Path) -> None:
    """METHOD `reference` trains for hours on an atlas: a queue's time limit must not cost them."""
    arguments, unfinished = (
        ("--output-path", training, *TRAINS, "-s", "EPOCHS=40"),
        training / "work" / "unfinished training.pt",
    )
    unfinished.unlink(missing_ok=True)  # of the run above
    process = start(whole.parameters, *arguments)
    while not unfinished.exists():
        assert process.poll() is None
        time.sleep(0.05)
    everyone = family(process)
    killed(process, everyone)
    assert gone(everyone)
    assert "2_train" not in json.loads((training / "work" / "stages.json").read_text())
    done = run_forked("run", whole.parameters, *arguments, cwd=training.parent)
    assert done.returncode == 0, done.stderr
    assert "going on after a, which an interrupted training had learned" in (training / "run.log").read_text()
    assert not unfinished.exists()


@pytest.mark.slow
def test_folder_removed_meanwhile_is_said(whole: Whole, again: Path) -> None:
    """Neither a traceback, nor part of a folder that looks like a result."""
    process = start(whole.parameters, "--output-path", again, "-s", "ALIGN=false")
    wait_for(process, "3_align")
    time.sleep(2)
    shutil.rmtree(again)
    err = process.communicate(timeout=300)[1]
    assert process.returncode == 1
    assert f"The folder {again} was removed or replaced" in " ".join(err.split())
    assert "Traceback" not in err
    assert not again.exists()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 250 MB; skips where none can be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=250m", "none", disk], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        skip(f"no disk can be mounted: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.slow
def test_full_disk_is_said_and_the_rerun_goes_on(whole: Whole, tiny_disk: Path) -> None:
    """A disk fills up while hours of training run; they must not be in vain. Also: what ALIGN changes and what not."""
    run, full = Path(shutil.copytree(whole.run, tiny_disk / "run")), tiny_disk / "full"
    earlier = digest(run)
    process = start(whole.parameters, "--output-path", run, "-s", "ALIGN=false")
    wait_for(process, "3_align")
    with full.open("wb", buffering=0) as fill, suppress(OSError):
        while True:
            fill.write(b"0" * 4096)
    err = process.communicate(timeout=300)[1]
    assert process.returncode == 1
    assert f"The disk is full: {run}" in " ".join(err.split())
    assert "Traceback" not in err
    assert place_of(run, earlier) == "previous"
    assert not (run / "predictions.parquet").exists()
    full.unlink()
    done = run_forked("run", whole.parameters, "--output-path", run, "-s", "ALIGN=false", cwd=tiny_disk)
    assert done.returncode == 0, done.stderr
    assert reused_of(run) in (ALL[:2], ALL[:3])  # on a busy machine the disk is full a stage later
    assert place_of(run, earlier) == "previous"  # not displaced by the unfinished one
    assert not differences(run, run)
    model = json.loads((run / "trained_models" / "model.json").read_text())
    assert model["target"]["has_adapter"] is False


# --- what is reused ---------------------------------------------------------------------------------------------------


def test_every_parameter_matters_somewhere() -> None:
    """A parameter that is forgotten here would be changed by the user and silently have no effect."""
    named = [name for names in cache.MATTERS_FROM.values() for name in names]
    assert set(Parameters.model_fields) <= set(named)
    assert len(named) == len(set(named))
    assert list(cache.MATTERS_FROM) == ALL


@pytest.fixture
def run(write_parameters: Callable[..., Path]) -> Run:
    return Run(load_parameters(write_parameters(), {}))


def keys_with(run: Run, **values: Any) -> dict[str, str]:
    changed = Run(run.parameters.model_copy(update=values))
    return cache.stage_keys(changed, cache.input_hashes(changed))


@pytest.mark.parametrize(
    ("name", "value", "same"),
    [
        ("SEED", 1, []),
        ("METHOD", "reference", []),
        ("EPOCHS", 3, ["1_preprocess"]),
        ("REJECTION", 0.1, ["1_preprocess"]),
        ("USE_GPU", False, ["1_preprocess"]),
        ("ALIGN", False, ["1_preprocess", "2_train"]),
        ("OUTPUT_PATH", "/elsewhere", list(STAGES)),
    ],
)
def test_a_changed_parameter_changes_what_it_matters_to(run: Run, name: str, value: object, same: list[str]) -> None:
    """Too little repeated gives wrong results, too much costs hours."""
    before, after = keys_with(run), keys_with(run, **{name: value})
    assert [stage for stage in ALL if before[stage] == after[stage]] == same


def test_input_counts_by_content(run: Run, tmp_path: Path) -> None:
    """A file that was touched, or lies elsewhere, is the same; one with another value in it is not."""
    before, file = keys_with(run), Path(run.parameters.paths[0])
    file.touch()
    (tmp_path / "there").mkdir()
    moved = Path(shutil.copy(file, tmp_path / "there"))
    assert keys_with(run, PATH=str(moved)) == before
    adata = simulated(THREE_BATCHES)
    adata.X.data[0] += 1
    adata.write_h5ad(file)
    assert not set(before.values()) & set(keys_with(run).values())


def test_other_code_changes_everything(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an update a rerun gives what the new version gives."""
    before = keys_with(run)
    monkeypatch.setattr(code_hash, "versions", lambda: {"torch": "another"})
    assert not set(before.values()) & set(keys_with(run).values())


def finished(run: Run) -> dict[Path, bytes]:
    """A folder as a finished run leaves it, in small: one file a stage."""
    made = {
        "1_preprocess": run.work / "plan.json", "2_train": run.models / "model.json",
        "3_align": run.work / "target.json", "4_evaluate": run.metrics, "report": run.report_html,
    }  # fmt: skip
    keys, records = keys_with(run), {}
    for stage, file in made.items():
        write_json(file, {"target": None, "of": stage})
        records[stage] = cache.stage_record(run, stage, keys[stage], [file], seconds=1.0, peak_memory_bytes=1)
    write_json(run.stages_json, records)
    for file in (run.log, run.manifest, run.parameters_yaml):
        file.write_text("{}")
    return contents(run.folder)


def contents(folder: Path) -> dict[Path, bytes]:
    return {Path(name): file.read_bytes() for name, file in files_in(folder).items()}


def begin(run: Run, *, force: bool = False, **values: Any) -> commands_run.ActiveRun:
    changed = Run(run.parameters.model_copy(update=values))
    with locks.held(changed.folder) as hold:
        previous.recover(changed)
        return commands_run.ActiveRun(changed, hold, force=force)


@pytest.mark.parametrize("stage", range(5))
def test_a_changed_file_repeats_its_stage_and_all_after(run: Run, stage: int) -> None:
    """A notebook run by hand in the folder, or a damaged disk, must not find its way into results unseen."""
    finished(run)
    assert begin(run).reused == ALL
    record = json.loads(run.stages_json.read_text())[ALL[stage]]
    write_json(run.folder / next(iter(record["files"])), {"target": None, "of": "somebody else"})
    assert begin(run).reused == ALL[:stage]


def test_a_missing_file_repeats_its_stage(run: Run) -> None:
    """`work/` may be deleted, and anything else gets lost."""
    finished(run)
    run.metrics.unlink()
    assert begin(run).reused == ALL[:3]
    shutil.rmtree(run.work)
    assert begin(run).reused == []


def test_the_target_in_the_models_file_does_not_repeat_training(run: Run) -> None:
    """Alignment enters the target in the file that training wrote; killed right after, training is still good."""
    finished(run)
    description = json.loads((run.models / "model.json").read_text())
    write_json(run.models / "model.json", description | {"target": {"batch": "c"}})
    work = begin(run, ALIGN=False)
    assert work.reused == ["1_preprocess", "2_train"]
    work.clear_folder()
    assert json.loads((run.models / "model.json").read_text())["target"] is None


def test_another_value_in_as_many_bytes_repeats_its_stage(run: Run) -> None:
    """A flipped bit, or one digit edited by hand, leaves a file as long as it was."""
    finished(run)
    file = run.folder / next(iter(json.loads(run.stages_json.read_text())[ALL[2]]["files"]))
    content = file.read_bytes()
    file.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    assert begin(run).reused == ALL[:2]


def test_force_reuses_nothing(run: Run, jind_nb: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever doubts a result wants it made anew."""
    finished(run)
    assert begin(run, force=True).reused == []
    asked: list[bool] = []

    def stop(*_: object, force: bool) -> None:
        asked.append(force)
        raise InputError("enough")

    monkeypatch.setattr("jind_nb.commands.run_process.run", stop)
    jind_nb("run", Path(run.parameters.paths[0]).parent / "parameters.yaml", "--force")
    jind_nb("run", Path(run.parameters.paths[0]).parent / "parameters.yaml")
    assert asked == [True, False]


def test_a_report_without_its_pdf_is_made_again(run: Run) -> None:
    """The message says what to install; after that the same command must give the PDF."""
    finished(run)
    records = json.loads(run.stages_json.read_text())
    records["report"]["pdf_missing"] = "no pango"
    write_json(run.stages_json, records)
    work = begin(run)
    assert work.to_do == ["report"]
    work.clear_folder()
    assert not run.manifest.exists()
    assert not (run.folder / "previous").exists()


def test_an_unreadable_record_reuses_nothing(run: Run) -> None:
    """A file of somebody else's, or damaged: no reason to fail."""
    finished(run)
    for content in ("", "[]", '{"1_preprocess": 3}', '{"1_preprocess": {"key": 1}}'):
        run.stages_json.write_text(content)
        assert begin(run).reused == []


# --- nothing mixed ----------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Like SIGKILL: nothing of ours may catch it."""


def killed_at(monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    """The nth step that changes the disk is the last: none after it happens."""
    left = nth

    def dying(original: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            return original(*arguments, **named)

        return step

    for name in ("rename", "replace", "unlink", "rmdir", "mkdir", "hardlink_to"):
        monkeypatch.setattr(Path, name, dying(getattr(Path, name)))
    monkeypatch.setattr(shutil, "rmtree", dying(shutil.rmtree))


@pytest.mark.slow
@pytest.mark.parametrize("changed", [{"SEED": 1}, {"ALIGN": False}, {"OUTPUT_PATH": ...}], ids=lambda c: next(iter(c)))
@pytest.mark.parametrize("with_previous", [False, True])
def test_moving_aside_may_be_killed_at_any_step(
    changed: dict[str, Any], with_previous: bool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No kill while results are moved may lose some of them, or leave old ones beside new ones.

    `OUTPUT_PATH: ...` stands for a rerun that finds one of the files changed.
    """
    before = finished(run)
    if with_previous:
        (run.folder / "previous").mkdir()
        (run.folder / "previous" / "run.log").write_text("even earlier")
    if changed == {"OUTPUT_PATH": ...}:
        changed = {}
        run.metrics.write_text('{"of": "somebody else"}')
        before = contents(run.folder)
    original, nth, done = shutil.copytree(run.folder, run.folder.with_name("original")), 0, False
    while not done:
        shutil.rmtree(run.folder)
        shutil.copytree(original, run.folder)
        with monkeypatch.context() as patch:
            work = begin(run, **changed)
            killed_at(patch, nth)
            try:
                work.clear_folder()
                done = True
            except Killed:
                (run.folder / locks.LOCK).touch()  # as a killed run leaves it
                previous.refuse_foreign_files(run)  # or the user could not go on in the folder
        aside = run.folder / "previous"
        was_moved = contents(aside).items() >= before.items() if aside.exists() else False
        work = begin(run, **changed)
        there = contents(run.folder)
        if was_moved:  # all of it; what is still there is good for the new run
            kept = {file.relative_to(run.folder) for file in cache.recorded_files(run, work.records, work.reused)}
            assert set(there) - {Path("work/stages.json")} == kept, nth
        else:  # all of it is where it was
            assert there == before, nth
            if with_previous:
                assert (aside / "run.log").read_text() == "even earlier"
        work.clear_folder()
        assert contents(aside).items() >= before.items(), nth
        assert not run.manifest.exists()
        nth += 1
    assert nth > 10


def test_an_unfinished_run_does_not_displace_a_finished_one(run: Run) -> None:
    """Started, killed, started with other parameters: the last complete results are still there."""
    before = finished(run)
    begin(run, SEED=1).clear_folder()
    run.log.write_text("killed here")
    begin(run, SEED=2).clear_folder()
    assert contents(run.folder / "previous") == before
    assert set(contents(run.folder)) == {Path("work/stages.json")}


def test_notebooks_run_by_hand_are_moved_not_deleted(run: Run) -> None:
    """Their results are a person's work."""
    run.folder.mkdir()
    run.log.write_text("by hand")
    run.metrics.write_text("{}")
    begin(run).clear_folder()
    assert (run.folder / "previous" / "metrics.json").exists()


def test_temporary_files_of_a_killed_run_are_removed(run: Run) -> None:
    """Else each kill leaves another prepared.h5ad."""
    finished(run)
    run.notebooks.mkdir()
    left = [run.work / ".prepared.h5ad.17.part", run.notebooks / ".2_train.running.ipynb"]
    for file in left:
        file.write_text("half")
    assert begin(run).reused == ALL
    assert not any(file.exists() for file in left)


def test_input_among_previous_results_is_refused(run: Run) -> None:
    """`previous/` is deleted by the run that would read it."""
    (run.folder / "previous").mkdir(parents=True)
    (run.folder / "previous" / "run.log").touch()
    file = shutil.copy(run.parameters.paths[0], run.folder / "previous" / "annotated_target.h5ad")
    with pytest.raises(InputError, match="change OUTPUT_PATH"):
        previous.refuse_foreign_files(Run(run.parameters.model_copy(update={"PATH": str(file)})))


# --- the lock and the disk --------------------------------------------------------------------------------------------


def test_lock_is_taken_once_and_leaves_no_trace(tmp_path: Path) -> None:
    """The message must say who, so that a person can decide."""
    with locks.held(tmp_path / "new" / "run") as hold:
        assert hold.is_valid()
        with pytest.raises(InputError, match=r"another run .* is at work .*process \d+ on"):
            locks.refuse_if_in_use(tmp_path / "new" / "run")
    assert list((tmp_path / "new" / "run").iterdir()) == []


def test_lock_sees_that_its_folder_was_replaced(tmp_path: Path) -> None:
    """Removed and made anew by another run: the first must not go on in it."""
    folder = tmp_path / "run"
    with locks.held(folder) as hold:
        shutil.rmtree(folder)
        assert not hold.is_valid()
        with locks.held(folder) as other:
            assert other.is_valid()
            assert not hold.is_valid()


def test_lock_of_the_dead_is_free(tmp_path: Path) -> None:
    """A file with a process number in it, left by a power cut, is no lock."""
    (tmp_path / locks.LOCK).write_text('{"pid": 1, "host": "here", "since": "1970"}')
    locks.refuse_if_in_use(tmp_path)
    with locks.held(tmp_path):
        pass


def test_disk_without_locks_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Lustre is often mounted so; refusing to run there would help nobody, but the user must know."""

    def none(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    monkeypatch.setattr(logging.getLogger("jind_nb"), "propagate", True)
    with locks.held(tmp_path) as hold:
        assert hold.is_valid()
        assert "has no locks" in caplog.text
        locks.refuse_if_in_use(tmp_path)
        os.close(hold.descriptor)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), OSError(122, "Disk quota exceeded")], ids=["full", "quota"]
)
def test_full_disk_names_the_file(error: OSError, tmp_path: Path) -> None:
    """The library's own error names none, or a temporary one."""
    with pytest.raises(OSError, match=r"\[Errno 28\].*results.h5ad") as caught, whole_file(tmp_path / "results.h5ad"):
        raise error
    assert caught.value.filename == str(tmp_path / "results.h5ad")
    assert list(tmp_path.iterdir()) == []


def test_any_error_on_a_full_disk_is_the_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch says only that writing failed."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 100, 0))  # type: ignore[attr-defined]
    with pytest.raises(OSError, match=r"a\.pt"), whole_file(tmp_path / "a.pt"):
        raise RuntimeError("file write failed")


def test_half_a_notebook_is_not_kept(tmp_path: Path) -> None:
    """Papermill writes in place; on a full disk a notebook ends anywhere."""
    running, notebook = tmp_path / ".2_train.running.ipynb", tmp_path / "2_train.ipynb"
    running.write_text('{"cells": [')
    kernels._keep_if_complete(running, notebook)
    assert list(tmp_path.iterdir()) == []
    kernels._keep_if_complete(running, notebook)  # nothing there: the folder was removed
    running.write_text('{"cells": []}')
    kernels._keep_if_complete(running, notebook)
    assert list(tmp_path.iterdir()) == [notebook]
