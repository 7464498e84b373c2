"""What tests share: the shared data, one demo run, and the command line in-process. Helpers are in `tests/helpers`."""

from __future__ import annotations

import os

# Two threads that wait for each other actively make a busy machine several times slower; must be set before torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
import logging
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import hypothesis
import pytest
from filelock import FileLock
from xdist.scheduler import LoadScopeScheduling

from jind_nb.core import _compat
from tests.helpers.one_process import run_forked
from tests.helpers.simulated import THREE_BATCHES, simulated

_compat.this_process_is_ours()

# A shell starts what it puts in the background with Ctrl-C ignored, nohup with a closed terminal ignored, and so would all that
# tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# A property holds or it does not; how long an example takes on a busy machine is no test.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("quick", hypothesis.settings.get_profile("untimed"), max_examples=20)
hypothesis.settings.load_profile("untimed")

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("JIND_NB_SHARED", ROOT.parent / "shared" / "data"))


def skip(reason: str) -> None:
    """Skips the test; under JIND_NB_STRICT=1 (set by .ci/run) a skip for want of something is a failure."""
    if os.environ.get("JIND_NB_STRICT") == "1":
        pytest.fail(f"JIND_NB_STRICT: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def shared_file() -> Callable[[str], Path]:
    """The path of one of the shared real data sets, by name; skips without it."""

    def find(name: str) -> Path:
        file = SHARED / f"{name}.h5ad"
        if not file.exists():
            skip(f"the shared data set {name} is not in {SHARED}")
        return file

    return find


# For tests as root, without a screen, that ask nothing of the network.
CHROMIUM_ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's path; skips without one."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        skip("no Chromium (Debian: apt-get install chromium)")
    return str(found)


@pytest.fixture(scope="module")
def short_game() -> Iterator[None]:
    """Let METHOD `reference` align with four steps an epoch instead of forty, where the game itself is not tested."""
    from jind_nb.model import reference

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "STEPS", 4)
        yield


@pytest.fixture(autouse=True)
def process_as_before() -> Iterator[None]:
    """Undo what a command or a notebook leaves in its process: a later test in this one would draw and log as that did."""
    environment = dict(os.environ)
    yield
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
    logger = logging.getLogger("jind_nb")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


@dataclass
class Answer:
    """What a command did."""

    status: int
    out: str
    err: str


@pytest.fixture
def jind_nb(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    """The command line, run in this process: `jind_nb("validate", file)`."""
    from jind_nb.cli import main

    def call(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["jind-nb", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        return Answer(status, captured.out, captured.err)

    return call


def run_command(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`jind-nb` as a user runs it, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "jind_nb.cli", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@pytest.fixture
def write_parameters(tmp_path: Path) -> Callable[..., Path]:
    """Writes an h5ad and a parameter file that annotates its batch `c`; keywords add or replace parameters.

    `write_parameters(adata, NUM_FEATURES=20)`; a value of `...` leaves the parameter out.
    """
    import yaml

    def write(adata: ad.AnnData | None = None, **parameters: object) -> Path:
        (simulated(THREE_BATCHES) if adata is None else adata).write_h5ad(tmp_path / "input.h5ad")
        values: dict[str, object] = {
            "PATH": "input.h5ad",
            "BATCH_COL": "batch",
            "LABELS_COL": "celltype",
            "TARGET_DATASET_NAME": "c",
            "OUTPUT_PATH": "results",
            "MIN_CELL_TYPE_POPULATION": 5,
        }
        values = {name: value for name, value in (values | parameters).items() if value is not ...}
        file = tmp_path / "parameters.yaml"
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
        return file

    return write


# --- on both cores -----------------------------------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    """Ask hypothesis for fewer examples in `make quick`."""
    if config.option.markexpr == "not slow":
        hypothesis.settings.load_profile("quick")


def pytest_xdist_auto_num_workers() -> int:
    """Return how many workers `-n auto` starts: one more than cores, since some tests wait for a browser or a process."""
    return (os.cpu_count() or 1) + 1


# Files of slow tests by the CPU seconds they take (200 to 20), the slowest first, so that small ones fill up the other
# cores at the end. Those that need `whole` are not all at the beginning, where one worker makes it and the others wait.
SLOWEST = (
    "test_faults", "test_prepare", "test_sweep", "test_annotate", "test_jupyterlab", "test_chunks", "test_app",
    "test_cases", "test_run", "test_plots", "test_api", "test_compare", "test_reference", "test_fit", "test_leave_one_out",
    "test_hostile", "test_default", "test_cohort", "test_why", "test_ends", "test_notebooks", "test_embedding",
    "test_bad_input", "test_attribution", "test_panels", "test_report", "test_guess", "test_app_access", "test_metrics",
    "test_workspace", "test_predict",
)  # fmt: skip


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slowest files, and leave the example that trains to `make test`: a docstring cannot be marked."""
    place = {stem: i for i, stem in enumerate(SLOWEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))
    for item in items:
        if item.name == "jind_nb.api.annotate":
            item.add_marker("slow")


def pytest_collection_finish() -> None:
    """Never look for garbage in all that was imported."""
    gc.freeze()


class ByFile(LoadScopeScheduling):
    """Tests of a file share its costly fixtures and so stay on one worker; those that need Slurm are a group of their own.

    (pytest-xdist's own `--dist loadgroup` finds no groups under pytest 9.2.)
    """

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        return "slurm" if test.startswith(ON_SLURM) else file


ON_SLURM = ("test_on_slurm", "test_ctrl_c_leaves_no_job_on_slurm", "test_written_array_does_the_runs_in_slurm")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """Tell pytest-xdist how to share tests among workers."""
    return ByFile(config, log)


def made_once(name: str, factory: pytest.TempPathFactory, make: Callable[[Path], None]) -> Path:
    """A folder for all workers of the session: the first one to ask fills it, the others wait for it."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        folder = factory.mktemp(name)
        make(folder)
        return folder
    folder = factory.getbasetemp().parent / name
    with FileLock(f"{folder}.lock"):
        if not (folder / ".made").exists():
            shutil.rmtree(folder, ignore_errors=True)  # what a worker left that failed at it
            folder.mkdir()
            make(folder)
            (folder / ".made").touch()
    return folder


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one whole run of the demo with two epochs: many tests look at it, none changes it."""

    def make(folder: Path) -> None:
        demo = ROOT / "parameters" / "demo.yaml"
        done = run_forked("run", demo, "-s", "EPOCHS=2", "--output-path", folder / "run", cwd=folder, pdf=True)
        assert done.returncode == 0, done.stderr
        (folder / "stdout.txt").write_text(done.stdout)

    return made_once("demo", tmp_path_factory, make) / "run"


@dataclass
class Whole:
    """A finished run on the three simulated batches, which nobody disturbed."""

    run: Path
    parameters: Path  # its file, beside input.h5ad


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """One whole run that many tests look at, or go on from in a copy; none changes it."""
    import yaml

    def make(folder: Path) -> None:
        simulated(THREE_BATCHES).write_h5ad(folder / "input.h5ad")
        values = {
            "PATH": "input.h5ad", "BATCH_COL": "batch", "LABELS_COL": "celltype", "TARGET_DATASET_NAME": "c",
            "MIN_CELL_TYPE_POPULATION": 5, "EPOCHS": 1, "OUTPUT_PATH": "whole",
        }  # fmt: skip
        (folder / "p.yaml").write_text(yaml.safe_dump(values))
        done = run_command("run", folder / "p.yaml", cwd=folder, PYTHONHASHSEED="1")
        assert done.returncode == 0, done.stderr

    folder = made_once("whole", tmp_path_factory, make)
    return Whole(folder / "whole", folder / "p.yaml")
