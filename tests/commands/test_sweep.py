"""Many runs: here, on a real Slurm, on a running Dask scheduler; killed, stopped, one failing; the table and the page."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import psutil
import pytest
import yaml

from jind_nb.commands.sweep import sweep as sweep_sweep
from jind_nb.commands.sweep import workers
from jind_nb.commands.sweep.slurm import SlurmSettings, read_slurm, write_array
from jind_nb.commands.sweep.summary import (
    COLUMNS,
    FAILED,
    FINISHED,
    FINISHED_BEFORE,
    NOT_FINISHED,
    SweepFolder,
    in_words,
    write_summary,
)
from jind_nb.core.files import read_json
from jind_nb.core.locks import LOCK
from jind_nb.core.stage_words import STAGES
from jind_nb.errors import InputError
from tests.conftest import ROOT, Answer, Whole, run_command, skip
from tests.helpers import slurm as slurms
from tests.helpers.simulated import THREE_BATCHES, simulated

COMMON = {"PATH": "input.h5ad", "BATCH_COL": "batch", "LABELS_COL": "celltype", "MIN_CELL_TYPE_POPULATION": 5}
SLURM_YAML = "memory: 1 GB\nwalltime: 12:00:00\ncores: 1\nworkers: 2\n"


def write(file: Path, **values: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump({**COMMON, "TARGET_DATASET_NAME": "c", **values}), "utf-8")
    return file


def without_labels(adata: ad.AnnData, *batches: str) -> ad.AnnData:
    adata.obs["celltype"] = adata.obs["celltype"].mask(adata.obs["batch"].isin(batches))
    return adata


@contextmanager
def at_work(folder: Path, *arguments: object, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """`jind-nb sweep` in a session of its own, as in a terminal."""
    process = subprocess.Popen(
        [sys.executable, "-m", "jind_nb.cli", "sweep", *map(str, arguments)],
        cwd=folder,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Tests that run in the background inherit that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()


def until(process: subprocess.Popen[str], words: str) -> str:
    """What it said, up to the line with these words."""
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if words in line:
            return said
    raise AssertionError(f"ended without {words!r}: {said}")


def of_sweep(folder: Path) -> list[psutil.Process]:
    """The processes of runs in this folder, and their kernels, wherever they were started from: they hold the runs' locks."""
    found = []
    for process in psutil.process_iter():
        try:
            locks = [Path(file.path) for file in process.open_files() if file.path.endswith(LOCK)]
            if any(lock.is_relative_to(folder) for lock in locks):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return [process for process in found if process.pid != os.getpid()]


def until_dead(processes: list[psutil.Process]) -> None:
    """Waits for the end of processes; one that is dead but not yet asked for by its parent, a zombie, is at its end."""
    deadline = time.monotonic() + 10
    while alive := [of for of in psutil.wait_procs(processes, timeout=0.2)[1] if not is_zombie(of)]:
        assert time.monotonic() < deadline, alive


def is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def summary_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "summary.csv", dtype={"run": str, "target": str}).set_index("run")


class Links(HTMLParser):
    """The addresses a page points to, what it would load by itself, and its text."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.text = ""
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src"):
                (self.links if tag == "a" else self.loads).append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


# --- what is to be run ------------------------------------------------------------------------------------------------


def every_target(folder: Path, adata: ad.AnnData | None = None, **values: object) -> sweep_sweep.Sweep:
    (simulated(THREE_BATCHES) if adata is None else adata).write_h5ad(folder / "input.h5ad")
    return sweep_sweep.each_target(write(folder / "p.yaml", OUTPUT_PATH="results", **values), {}, None)


def by_name(sweep: sweep_sweep.Sweep) -> dict[str, Any]:
    return {task.name: task.parameters for task in sweep.tasks}


def models_of(task: sweep_sweep.SweepTask) -> Path:
    return Path(task.parameters.OUTPUT_PATH) / "trained_models"


def test_each_batch_is_the_target_once_and_never_teaches_itself(tmp_path: Path) -> None:
    """A target left among the batches it is learned from would look perfect."""
    sweep = every_target(tmp_path, SOURCE_DATASET_NAME="a", INTER_DATASETS_NAMES=["b", "a"])
    found = by_name(sweep)
    assert set(found) == {"a", "b", "c"}
    assert {name: p.TARGET_DATASET_NAME for name, p in found.items()} == {name: name for name in found}
    assert {name: p.SOURCE_DATASET_NAME for name, p in found.items()} == {"a": None, "b": "a", "c": "a"}
    assert {name: p.INTER_DATASETS_NAMES for name, p in found.items()} == {"a": ["b"], "b": ["a"], "c": ["b", "a"]}
    assert len({p.OUTPUT_PATH for p in found.values()}) == 3
    assert all(Path(p.OUTPUT_PATH).is_relative_to(tmp_path / "results") for p in found.values())
    sweep_sweep.check(sweep)


def test_the_last_intermediate_as_target_brings_no_other_batch_in(tmp_path: Path) -> None:
    """An empty INTER_DATASETS_NAMES means all batches; a user who named one did not ask for the others."""
    found = by_name(every_target(tmp_path, SOURCE_DATASET_NAME="a", INTER_DATASETS_NAMES=["b"]))
    assert found["b"].INTER_DATASETS_NAMES == []
    assert found["b"].EXCLUDE_DATASETS_NAMES == ["c"]


def test_excluded_batches_are_no_targets(tmp_path: Path) -> None:
    assert set(by_name(every_target(tmp_path, EXCLUDE_DATASETS_NAMES=["b"]))) == {"a", "c"}


@pytest.mark.parametrize("method", ["reference", "default"])
def test_targets_without_labels_share_their_training_in_method_reference_only(method: str, tmp_path: Path) -> None:
    """Days of training are not repeated; METHOD default, whose codes rest on the target, is not made worse in silence."""
    adata = without_labels(simulated({**THREE_BATCHES, "d": {"B": 9, "T": 9}}), "c", "d")
    sweep = every_target(tmp_path, adata, METHOD=method, ALIGN=None)
    together = [sorted(task.name for task in group) for group in sweep.groups if len(group) > 1]
    assert together == ([["c", "d"]] if method == "reference" else [])
    assert len(sweep.tasks) == 4
    (note,) = sweep.notes
    assert ("trained once" in note) == (method == "reference")
    for group in sweep.groups:
        for task in group[1:]:
            follows = task.with_model_of(group[0])
            assert Path(str(follows.PRETRAINED_MODEL_PATH)) == models_of(group[0])
            assert follows.aligns  # as a run of METHOD reference is, and one with a saved model is not by default


def test_the_only_annotated_batch_is_no_target(tmp_path: Path) -> None:
    """Nothing could annotate it; and it must not keep the others from being annotated."""
    sweep = every_target(tmp_path, without_labels(simulated(THREE_BATCHES), "b", "c"))
    assert set(by_name(sweep)) == {"b", "c"}
    assert "'a' is the only annotated batch" in sweep.notes[0]
    sweep_sweep.check(sweep)


def test_odd_batch_names_stay_inside_the_folder(tmp_path: Path) -> None:
    """A batch called .. must not write beside the results, nor A over a."""
    batches = ["..", ".", "../x", "A", "a", "summary.csv", "é%2E"]
    sweep = every_target(tmp_path, simulated({name: {"B": 9, "T": 9} for name in batches}))
    folders = [Path(task.parameters.OUTPUT_PATH) for task in sweep.tasks]
    assert {folder.resolve().parent for folder in folders} == {tmp_path / "results" / "sweep" / "targets"}
    assert len({str(folder).casefold() for folder in folders}) == len(batches)


def test_where_the_trainer_fails_the_next_one_trains(tmp_path: Path) -> None:
    """One failing run must not stop the others, also where they wait for its model."""
    adata = without_labels(simulated({**THREE_BATCHES, "d": {"B": 9, "T": 9}}), "b", "c", "d")
    (tasks,) = every_target(tmp_path, adata, METHOD="reference").groups
    group = sweep_sweep._ActiveGroup(tasks)
    assert group.pop_ready() == [tasks[0]]
    assert group.pop_ready() == []
    group.note_end(tasks[0], succeeded=False)
    assert group.pop_ready() == [tasks[1]]
    assert group.parameters(tasks[1]).PRETRAINED_MODEL_PATH is None
    group.note_end(tasks[1], succeeded=True)
    assert group.pop_ready() == [tasks[2]]
    assert Path(str(group.parameters(tasks[2]).PRETRAINED_MODEL_PATH)) == models_of(tasks[1])


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data")
def test_a_zarr_folders_bytes_count_for_how_many_runs_fit_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder's own size is a few kilobytes: eight runs with 100 GB of input each would be killed for memory."""
    monkeypatch.setattr("dask.system.CPU_COUNT", 8)
    monkeypatch.setattr(
        "psutil.virtual_memory", lambda: SimpleNamespace(available=64_000_000_000, total=64_000_000_000)
    )
    group: list[int] = []
    monkeypatch.setattr("jind_nb.core.limits._limit_of_group", lambda: group[0] if group else None)
    simulated(THREE_BATCHES).write_zarr(tmp_path / "input.zarr")
    sweep = sweep_sweep.each_target(write(tmp_path / "p.yaml", PATH="input.zarr", OUTPUT_PATH="results"), {}, None)
    assert sweep_sweep.default_workers(sweep) == 3
    group.append(2_000_000_000)  # of a job on a larger machine
    assert sweep_sweep.default_workers(sweep) == 1
    group.clear()
    with (tmp_path / "input.zarr" / "large").open("wb") as chunk:
        chunk.truncate(100_000_000_000)
    assert sweep_sweep.default_workers(sweep) == 1


def test_a_sweep_of_many_labelled_batches_names_the_quicker_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty donors take an hour; who needs four of them should know before."""
    monkeypatch.chdir(tmp_path)
    simulated(THREE_BATCHES).write_h5ad(tmp_path / "input.h5ad")
    file = write(tmp_path / "p.yaml", OUTPUT_PATH="results")
    assert sweep_sweep.each_target(file, {}, None).notes == []
    monkeypatch.setattr(sweep_sweep, "MANY_LABELLED", 2)
    (note,) = sweep_sweep.each_target(file, {}, None).notes
    assert "TARGET_DATASET_NAME: [A, B, C]" in note


# --- what is wrong is told before anything starts ---------------------------------------------------------------------


def test_all_mistakes_of_all_files_are_told_at_once(tmp_path: Path, jind_nb: Callable[..., Answer]) -> None:
    """Forty files are not corrected one message at a time, and no run of them has begun."""
    simulated(THREE_BATCHES).write_h5ad(tmp_path / "input.h5ad")
    one = write(tmp_path / "one.yaml", OUTPUT_PATH="one", TARGET_DATASET_NAME="nobody")
    two = write(tmp_path / "two.yaml", OUTPUT_PATH="two", LABELS_COL="nothing")
    good = write(tmp_path / "good.yaml", OUTPUT_PATH="good")
    answer = jind_nb("sweep", one, two, good, "--output-path", tmp_path / "sweep")
    assert answer.status == 2
    assert re.search("one: TARGET_DATASET_NAME: there is no batch 'nobody'", answer.err)
    assert "two: LABELS_COL" in answer.err
    assert {path.name for path in tmp_path.iterdir()} == {"input.h5ad", "one.yaml", "two.yaml", "good.yaml"}
    typo = tmp_path / "typo.yaml"
    typo.write_text("NUM_FEATURE: 3\n")
    answer = jind_nb("sweep", typo, tmp_path / "nowhere.yaml", good)
    assert answer.status == 2
    assert "typo.yaml: There is no parameter NUM_FEATURE" in answer.err
    assert "nowhere.yaml: There is no parameter file" in answer.err


def test_two_runs_in_one_folder_are_refused(tmp_path: Path, jind_nb: Callable[..., Answer]) -> None:
    """The second would move the first one's results aside."""
    simulated(THREE_BATCHES).write_h5ad(tmp_path / "input.h5ad")
    files = [write(tmp_path / name, OUTPUT_PATH="same") for name in ("one.yaml", "two.yaml")]
    answer = jind_nb("sweep", *files, "--output-path", tmp_path / "sweep")
    assert answer.status == 2
    assert f"two.yaml: OUTPUT_PATH {tmp_path / 'same'} is also that of {files[0]}" in answer.err
    answer = jind_nb("sweep", files[0], "--output-path", tmp_path / "same")
    assert answer.status == 2
    assert "the sweep itself" in answer.err


def test_foreign_page_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "results" / "sweep").mkdir(parents=True)
    (tmp_path / "results" / "sweep" / "index.html").write_text("mine")
    with pytest.raises(InputError, match=r"index\.html is there, and no sweep"):
        sweep_sweep.check(every_target(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cluster", "sge"], "--cluster: found 'sge'"),
        (["--cluster", "slurm"], "--slurm is missing"),
        (["--write-slurm-array", "x.sbatch"], "--slurm is missing"),
        (["--slurm", "nowhere.yaml"], "--slurm: there is no file nowhere.yaml"),
        (["--each-target", "other.yaml"], "takes one parameter file; 2 are given"),
    ],
)
def test_wrong_options_are_told(
    arguments: list[str], message: str, write_parameters: Callable[..., Path], jind_nb: Callable[..., Answer]
) -> None:
    answer = jind_nb("sweep", write_parameters(), *arguments)
    assert (answer.status, answer.out) == (2, "")
    assert message in answer.err


@pytest.mark.slow
def test_scheduler_that_does_not_answer_is_told(write_parameters: Callable[..., Path], tmp_path: Path) -> None:
    """A typing mistake in the address, or a scheduler that has ended: a message, not a hang."""
    done = run_command("sweep", write_parameters(), "--cluster", "tcp://127.0.0.1:9", cwd=tmp_path)
    assert done.returncode == 2
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_killed_at_its_start_is_told_in_our_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost otherwise: an hour of looking up what a nanny is, and that the same command goes on."""

    def killed(**_: object) -> None:
        raise RuntimeError("Nanny failed to start.")

    monkeypatch.setattr(workers, "LocalCluster", killed)
    here = workers.Cluster(workers.LOCAL, 1)
    with pytest.raises(RuntimeError, match=r"memory ran out: .*The same sweep again"), workers.client_of(here):
        pass


def test_a_killed_runs_own_words_are_told(tmp_path: Path) -> None:
    """Lost otherwise: which limit of memory the killed run had met, on a machine that may be another."""
    done = SimpleNamespace(status="finished", result=lambda: -9)
    log = tmp_path / "log"
    log.write_text("12:00:01 1/5 1_preprocess: reading\nFailed: memory: 1.0 GB.\n")
    assert sweep_sweep._failure(done, log) == "memory: 1.0 GB."  # type: ignore[arg-type]
    log.write_text("12:00:01 1/5 1_preprocess: reading\n")
    assert "killed (signal 9)" in sweep_sweep._failure(done, log)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("memory: 1 GB\nwalltime: 1:00:00\nmemroy: 2 GB", "there is no setting memroy; known are memory"),
        ("walltime: 1:00:00", "memory is missing: memory of a job"),
        ("memory: lots\nwalltime: 1:00:00", "memory: found 'lots'; must be an amount such as 8 GB"),
        ("memory: 1 GB\nwalltime: tomorrow", "walltime: found 'tomorrow'; must be a time such as"),
        ("memory: 1 GB\nwalltime: 1:00:00\ncores: 0", "cores: found '0'"),
        ("- memory", "must hold names and values"),
        ("memory: [", "cannot be read"),
    ],
)
def test_wrong_slurm_settings_are_told(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "slurm.yaml").write_text(text)
    with pytest.raises(InputError, match=re.escape(message)):
        read_slurm(tmp_path / "slurm.yaml")


def test_slurm_settings_are_taken_as_they_are_written(tmp_path: Path) -> None:
    """YAML takes 12:00:00 for a number; a job of 43,200 minutes waits in the queue for ever."""
    (tmp_path / "slurm.yaml").write_text("memory: 1.5 GB\nwalltime: 12:00:00\nqueue:\ncores: 4\n")
    settings = read_slurm(tmp_path / "slurm.yaml")
    assert (settings.walltime, settings.queue, settings.cores) == ("12:00:00", None, 4)
    assert settings.megabytes == "1431M"
    assert read_slurm(ROOT / "examples" / "slurm.yaml").workers == 10


# --- the table and the page -------------------------------------------------------------------------------------------


def test_page_links_every_report_and_shows_why_runs_failed(tmp_path: Path, jind_nb: Callable[..., Answer]) -> None:
    """Forty runs are looked through on one page, offline; names with tags in them are text."""
    rows = []
    for i in range(40):
        row: dict[str, Any] = dict.fromkeys(COLUMNS) | {"run": f"donor <b>{i}</b> 100%", "target": f"donor {i}"}
        done = {
            "status": FINISHED, "cells": 12345, "assigned": 0.9, "expected_error": 0.021,
            "expected_error_low": 0.004, "expected_error_high": 0.08, "seconds": 61.2, "peak_GB": 1.5,
            "report": f"targets/donor%20{i}/report.html", "message": "", "log": f"logs/donor%20{i}.log",
        }  # fmt: skip
        failed = {"status": FAILED, "message": "X holds a NaN.\nReplace <it>.", "log": f"logs/donor%20{i}.log"}
        rows.append(row | (failed if i % 13 == 12 else done))
    write_summary(SweepFolder(tmp_path), "Each of 40 batches as the target", ["A note."], rows)
    page = Links(tmp_path / "index.html")
    assert [link for link in page.links if link.endswith("report.html")] == [
        f"targets/donor%2520{i}/report.html" for i in range(40) if i % 13 != 12
    ]
    assert page.loads == ["data:,"]
    assert "37 of 40 runs finished, 3 failed" in page.text
    assert page.text.count("X holds a NaN.\nReplace <it>.") == 3
    assert "donor <b>3</b> 100%" in page.text
    assert page.text.count("0.4 to 8.0") == 37  # the middle alone would reassure where little is known
    assert "macro-F1" not in page.text  # no target has labels
    assert list(pd.read_csv(tmp_path / "summary.csv").columns) == COLUMNS
    assert in_words([{"status": NOT_FINISHED}]) == "0 of 1 run finished, 1 not finished"


# --- here -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, whole: Whole) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A sweep of a good file, whose run lacks the report alone, and one that fails in its first notebook."""
    folder = tmp_path_factory.mktemp("sweep")
    adata = simulated(THREE_BATCHES)
    adata.X.data[5] = np.nan
    adata.write_h5ad(folder / "nan.h5ad")
    bad, good = write(folder / "bad.yaml", PATH="nan.h5ad", OUTPUT_PATH="bad"), all_but_report(whole, folder, "good")
    (folder / "tmp").mkdir()
    return folder, run_command("sweep", bad, good, "--workers", 1, cwd=folder, TMPDIR=str(folder / "tmp"))


def all_but_report(whole: Whole, folder: Path, name: str) -> Path:
    """Makes the parameter file of a run that lacks its report alone, which takes seconds."""
    run = Path(shutil.copytree(whole.run, folder / name))
    (run / "report.html").unlink()
    (run / "manifest.json").unlink()
    input_file = str(whole.parameters.parent / "input.h5ad")
    return write(folder / f"{name}.yaml", PATH=input_file, OUTPUT_PATH=name, EPOCHS=1)


@pytest.fixture
def finished(whole: Whole, tmp_path: Path) -> Callable[[str], Path]:
    """Makes the parameter file of a run that lacks its report alone."""
    return lambda name: all_but_report(whole, tmp_path, name)


@pytest.mark.slow
def test_one_failing_run_does_not_stop_the_others(swept: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """With one worker the failing one comes first; the table says which, why, and where to look."""
    folder, done = swept
    assert done.returncode == 1, done.stderr
    assert "bad: failed" in done.stderr
    assert "good: 5/5 report: writing the report" in done.stderr
    assert "(2 of 2)" in done.stderr
    assert "Traceback" not in done.stderr
    assert "1 of 2 runs finished, 1 failed" in done.stdout
    assert list((folder / "tmp").iterdir()) == []
    table = summary_of(folder / "runs" / "sweep")
    assert list(table["status"]) == [FAILED, FINISHED]
    assert "NaN or infinite values in 1 cell" in table.loc["bad", "message"]
    assert "Wrong input: " in (folder / "runs" / "sweep" / table.loc["bad", "log"]).read_text()
    good, metrics = table.loc["good"], read_json(folder / "good" / "metrics.json")
    assert good["cells"] == 80
    assert good["assigned"] == pytest.approx(metrics["target"]["annotated"] / 80)
    assert good["accuracy"] == pytest.approx(metrics["target"]["labelled"]["accuracy"])
    assert good["peak_GB"] > 0.1
    page = Links(folder / "runs" / "sweep" / "index.html")
    assert len(page.links) >= 2
    for link in page.links:
        assert (folder / "runs" / "sweep" / link).is_file(), link


@pytest.mark.slow
def test_finished_runs_are_skipped_and_changed_ones_are_not(swept: tuple[Path, Any], tmp_path: Path) -> None:
    """The same command after a fault costs what is left to do; what depends on a changed parameter is not skipped."""
    folder = swept[0]
    before = {file: file.stat().st_mtime_ns for file in (folder / "good").rglob("*")}
    done = run_command("sweep", folder / "good.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "good: finished before (1 of 1)" in done.stderr
    assert {file: file.stat().st_mtime_ns for file in (folder / "good").rglob("*")} == before
    assert summary_of(folder / "runs" / "sweep").loc["good", "status"] == FINISHED_BEFORE
    changed = sweep_sweep.of_files([folder / "good.yaml"], {"SEED": 1}, None).tasks[0].parameters
    assert not sweep_sweep._is_finished(changed)


def stopped(folder: Path, *arguments: object, **environment: str) -> None:
    """Starts a sweep, presses Ctrl-C in the middle, and sees that nothing of it is left."""
    with at_work(folder, *arguments, **environment) as process:
        until(process, "1/5 1_preprocess")
        assert of_sweep(folder)
        started = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Stopped. The same sweep again continues" in err
    assert "Traceback" not in out + err
    until_dead(started + of_sweep(folder))


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_at_work_here(tmp_path: Path) -> None:
    """Forty runs that go on in the background keep a laptop hot and a folder locked."""
    simulated(THREE_BATCHES).write_h5ad(tmp_path / "input.h5ad")
    stopped(tmp_path, "--each-target", write(tmp_path / "p.yaml", OUTPUT_PATH="results"), "--workers", 2)
    assert set(summary_of(tmp_path / "results" / "sweep")["status"]) == {NOT_FINISHED}


# --- on Slurm ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a real Slurm of one node; skips where none can be started."""
    if problem := slurms.lacking():
        skip(problem)
    with slurms.started(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


def no_job_is_left(slurm: dict[str, str]) -> None:
    """After a moment: Slurm shows a job that has ended or was cancelled a little longer."""
    end = time.monotonic() + 30
    while slurms.jobs(slurm) and time.monotonic() < end:
        time.sleep(0.2)
    assert slurms.jobs(slurm) == []


@pytest.mark.slow
def test_on_slurm_a_killed_worker_costs_one_stage_and_shared_training_is_done_once(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    """A node dies in the night: the run goes on elsewhere after its last finished stage, and all results are there."""
    truth = simulated(THREE_BATCHES).obs
    without_labels(simulated(THREE_BATCHES), "b", "c").write_h5ad(tmp_path / "input.h5ad")
    (tmp_path / "slurm.yaml").write_text(SLURM_YAML)
    file = write(tmp_path / "p.yaml", OUTPUT_PATH="results", METHOD="reference", EPOCHS=2)
    options = ("--each-target", file, "--cluster", "slurm", "--slurm", "slurm.yaml")
    with at_work(tmp_path, *options, **slurm) as process:
        until(process, "2/5 2_train")
        assert all(job.split()[1:] == ["jind-nb", "RUNNING"] for job in slurms.jobs(slurm))
        holders = of_sweep(tmp_path)
        (run,) = [one for one in holders if one.parent() not in holders and one.pid != process.pid]
        forks_runs = run.parent()
        assert forks_runs is not None
        worker = forks_runs.parent()
        assert worker is not None
        worker.kill()
        out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert "2 of 2 runs finished" in out
    no_job_is_left(slurm)
    table = summary_of(tmp_path / "results" / "sweep")
    (first,) = table.index[table["model"].isna()]
    (other,) = set(table.index) - {first}
    folders = {name: tmp_path / "results" / "sweep" / "targets" / name for name in (first, other)}
    assert "1_preprocess" in read_json(folders[first] / "manifest.json")["reused"]
    assert (folders[first] / "notebooks" / "2_train.ipynb").exists()
    assert not (folders[other] / "notebooks" / "2_train.ipynb").exists()
    for name, folder in folders.items():
        found = pd.read_parquet(folder / "predictions.parquet")["raw_predictions"]
        assert (found == truth.loc[truth["batch"] == name, "celltype"]).mean() > 0.9


@pytest.mark.slow
def test_ctrl_c_leaves_no_job_on_slurm(slurm: dict[str, str], tmp_path: Path) -> None:
    """Jobs that nobody waits for are paid for until their time limit."""
    simulated(THREE_BATCHES).write_h5ad(tmp_path / "input.h5ad")
    (tmp_path / "slurm.yaml").write_text(SLURM_YAML)
    file = write(tmp_path / "p.yaml", OUTPUT_PATH="results")
    stopped(tmp_path, "--each-target", file, "--cluster", "slurm", "--slurm", "slurm.yaml", **slurm)
    no_job_is_left(slurm)


@pytest.mark.slow
def test_written_array_does_the_runs_in_slurm(
    slurm: dict[str, str], finished: Callable[[str], Path], tmp_path: Path
) -> None:
    """Where no client may stay resident: the script is submitted, and the same sweep later finds everything done."""
    (tmp_path / "slurm.yaml").write_text(SLURM_YAML)
    files = [finished("it's one"), finished("two")]
    options = ("sweep", *files, "--slurm", "slurm.yaml", "--output-path", tmp_path / "the sweep")
    written = run_command(*options, "--write-slurm-array", "array.sbatch", cwd=tmp_path, **slurm)
    assert written.returncode == 0, written.stderr
    assert "2 runs: sbatch array.sbatch" in written.stdout
    assert not (tmp_path / "two" / "manifest.json").exists()
    submitted = subprocess.run(
        ["sbatch", "--wait", "array.sbatch"],
        cwd=tmp_path,
        env=os.environ | slurm,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    logs = [log.read_text() for log in (tmp_path / "the sweep" / "logs").glob("slurm-*.log")]
    assert submitted.returncode == 0, (submitted.stderr, logs)
    assert len(logs) == 2
    for name in ("it's one", "two"):
        assert read_json(tmp_path / name / "manifest.json")["reused"] == list(STAGES)
    done = run_command(*options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(summary_of(tmp_path / "the sweep")["status"]) == [FINISHED_BEFORE] * 2
    nothing = run_command(*options, "--write-slurm-array", "more.sbatch", cwd=tmp_path)
    assert "All runs are finished" in nothing.stdout
    assert not (tmp_path / "more.sbatch").exists()


def test_array_script_says_what_the_settings_say(tmp_path: Path) -> None:
    settings = SlurmSettings(
        memory="2 GB", walltime="1-00:00:00", queue="long", account="lab", cores=3, workers=7,
        job_extra_directives=["--gres=gpu:1"], job_script_prologue=["module load x"],
    )  # fmt: skip
    write_array(tmp_path / "a.sbatch", [[Path("/p 1.yaml"), Path("/p2.yaml")], [Path("/$x.yaml")]], settings, tmp_path)
    script = (tmp_path / "a.sbatch").read_text()
    for line in (
        "#SBATCH --array=0-1%7", "#SBATCH --mem=1908M", "#SBATCH --time=1-00:00:00", "#SBATCH --partition=long",
        "#SBATCH --account=lab", "#SBATCH --cpus-per-task=3", "#SBATCH --gres=gpu:1", "module load x",
        "  0) runs=('/p 1.yaml' /p2.yaml) ;;", "  1) runs=('/$x.yaml') ;;", "export OMP_NUM_THREADS=3",
    ):  # fmt: skip
        assert line in script.splitlines(), line
    assert subprocess.run(["bash", "-n", tmp_path / "a.sbatch"], check=False).returncode == 0


# --- on a running scheduler -------------------------------------------------------------------------------------------


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The address of a Dask scheduler with one worker, and the worker."""
    with ExitStack() as started:

        def start(*arguments: str) -> subprocess.Popen[bytes]:
            log = started.enter_context((tmp_path / f"{arguments[0]}.log").open("wb"))
            process = subprocess.Popen([sys.executable, "-m", "dask", *arguments], stdout=log, stderr=log, cwd=tmp_path)
            started.callback(process.wait, 30)
            started.callback(process.terminate)
            return process

        start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", "s.json")
        end = time.monotonic() + 60
        while not (tmp_path / "s.json").exists():
            assert time.monotonic() < end, (tmp_path / "scheduler.log").read_text()
            time.sleep(0.2)
        address = read_json(tmp_path / "s.json")["address"]
        worker = start("worker", address, "--nthreads", "1", "--memory-limit", "0", "--no-dashboard")
        yield address, psutil.Process(worker.pid)


@pytest.mark.slow
def test_a_running_scheduler_does_the_runs_and_stays(
    scheduler: tuple[str, psutil.Process], finished: Callable[[str], Path], tmp_path: Path
) -> None:
    """Others use it too: Ctrl-C ends our runs on its workers, and nothing else."""
    address, worker = scheduler
    there = tmp_path / "there"
    there.mkdir()
    simulated(THREE_BATCHES).write_h5ad(there / "input.h5ad")
    stopped(there, write(there / "p.yaml", OUTPUT_PATH="p"), "--cluster", address)
    assert worker.is_running()
    done = run_command("sweep", finished("one"), "--cluster", address, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "one: finished (1 of 1)" in done.stderr
    assert read_json(tmp_path / "one" / "manifest.json")["reused"] == list(STAGES)
    assert worker.is_running()
