"""One stage after the other: papermill runs the four notebooks, then the reports are made and everything is counted."""

from __future__ import annotations

import hashlib
import logging
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import yaml
from jupyter_client.manager import KernelManager
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from .artifacts import Run, check_output, log_to, read_model_json, shipped, whole_file, write_json
from .errors import InputError
from .parameters import Parameters

log = logging.getLogger(__name__)

# What manifest.json tells the versions of.
PACKAGES = (
    "jind-nb",
    "anndata",
    "numpy",
    "pandas",
    "papermill",
    "scanpy",
    "scikit-learn",
    "scipy",
    "torch",
    "umap-learn",
)
KERNEL = "python3"
IMPORTED_AHEAD = {
    "1_preprocess": "jind_nb.data, jind_nb.plots",
    "2_train": "jind_nb.saved_model, jind_nb.plots",
    "3_align": "jind_nb.saved_model, jind_nb.results, jind_nb.plots",
    "4_evaluate": "jind_nb.results, jind_nb.plots",
}
STAGE_WORDS = {
    "1_preprocess": "reading and preparing",
    "2_train": "learning from the annotated batches",
    "3_align": "aligning the target",
    "4_evaluate": "writing predictions",
    "report": "writing the report",
}


class StageError(RuntimeError):
    """A notebook failed for a reason that is not the user's input; the message names the notebook that was kept."""


@dataclass
class Usage:
    """Wall seconds and peak memory (bytes, this process and its kernels) of each stage."""

    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Measures what happens inside: memory is looked at five times a second."""
        done = threading.Event()
        self.peak_memory[stage] = 0

        def watch() -> None:
            while True:
                self.peak_memory[stage] = max(self.peak_memory[stage], _memory_of_tree())
                if done.wait(0.2):
                    return

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = round(time.monotonic() - start, 2)
            done.set()
            watcher.join()


def _memory_of_tree() -> int:
    total = 0
    here = psutil.Process()
    for process in [here, *here.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


def check(parameters: Parameters) -> None:
    """Everything that can be wrong and is cheap to see; values are checked by the first notebook.

    Raises
    ------
    InputError
        For the user's mistakes.
    """
    from .data import make_plan, read_cells

    make_plan(parameters, read_cells(parameters))
    check_folder_and_model(parameters)


def check_folder_and_model(parameters: Parameters) -> None:
    """Whether a saved model can be read and the results written.

    Raises
    ------
    InputError
        If not.
    """
    from .data import input_files

    if parameters.PRETRAINED_MODEL_PATH is not None:
        read_model_json(Path(parameters.PRETRAINED_MODEL_PATH))
    Run(parameters).earlier()
    # Prepared cells, the annotated target, predictions and models: seen to stay below twice the input plus this.
    check_output(parameters, needed=2 * sum(file.stat().st_size for file in input_files(parameters)) + 200_000_000)


def run(parameters: Parameters, console: Console | None = None) -> Run:
    """The whole way, from a checked set of parameters to the predictions and the report.

    Results of an earlier run in the same folder are moved to `previous/`.

    Raises
    ------
    InputError
        If the user's input is wrong; nothing has been trained then.
    StageError
        If a notebook failed, was killed, or left out a promised file.
    """
    check(parameters)
    this = Run(parameters)
    this.set_aside_earlier()
    this.folder.mkdir(parents=True, exist_ok=True)
    log_to(this.log)
    with whole_file(this.parameters_yaml) as temporary:
        temporary.write_text(yaml.safe_dump(parameters.model_dump(), sort_keys=False, allow_unicode=True), "utf-8")
    usage = Usage()
    tell = (console or Console(stderr=True)).print
    with (
        _progress(this, console) as stage_begins,
        tempfile.TemporaryDirectory(prefix="jind-nb-", ignore_cleanup_errors=True) as sockets,
        closing(_kernels_ahead(this, sockets)) as kernels,
    ):
        for stage, kernel in kernels:
            stage_begins(stage)
            with usage.of(stage):
                _execute(this, stage, kernel)
        stage_begins("report")
        with usage.of("report"):
            pdf_missing = _report(this)
    if pdf_missing:
        tell(f"No report.pdf: {pdf_missing}")
    write_json(this.manifest, _manifest(this, usage, pdf_missing))
    missing = [str(path) for path in this.promised(this.load_training()) if not path.exists()]
    if missing:
        raise StageError(f"The notebooks ran, but these files are missing: {', '.join(missing)}")
    return this


def _kernels_ahead(this: Run, sockets: str) -> Generator[tuple[str, KernelManager]]:
    """Each stage with its kernel, which was started while the stage before it ran.

    A kernel takes two seconds to start and up to four to import what its notebook needs; a notebook mostly uses one
    core, so the next one's wait costs nothing.

    Parameters
    ----------
    sockets
        A folder for the kernels' sockets. Files, not TCP: a port that is free when it is chosen may be somebody
        else's by the time the kernel binds it.
    """
    KernelManager.transport_encryption = "auto"  # type: ignore[assignment]  # a trait; else jupyter_client warns at every start

    def start(stage: str) -> KernelManager:
        kernel = KernelManager(kernel_name=KERNEL, transport="ipc", connection_file=f"{sockets}/{stage}.json")
        kernel.start_kernel(
            cwd=str(this.folder), extra_arguments=[f"--IPKernelApp.exec_lines=import {IMPORTED_AHEAD[stage]}"]
        )
        return kernel

    following: KernelManager | None = start(this.stages[0])
    for stage, later in zip(this.stages, (*this.stages[1:], None), strict=True):
        kernel, following = following, start(later) if later else None
        assert kernel is not None  # only the last stage has no following kernel
        try:
            yield stage, kernel
        except GeneratorExit:
            if following is not None:
                following.shutdown_kernel(now=True)
            raise
        finally:
            kernel.shutdown_kernel(now=True)


def _execute(this: Run, stage: str, kernel: KernelManager) -> None:
    """Runs one template; the executed notebook is kept in `notebooks/`, also when it fails."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    this.notebooks.mkdir(exist_ok=True)
    running = this.notebooks / f".{stage}.running.ipynb"
    log.info("%s: %s", stage, STAGE_WORDS[stage])
    try:
        papermill.execute_notebook(
            shipped("notebooks") / f"{stage}.ipynb",
            running,
            parameters=this.parameters.model_dump(),
            kernel_name=KERNEL,
            km=kernel,
            progress_bar=False,
            cwd=str(this.folder),
        )
    except PapermillExecutionError as error:
        if error.ename == InputError.__name__:
            raise InputError(error.evalue) from None
        raise StageError(
            f"{stage} failed: {error.ename}: {error.evalue}\nThe notebook with the error: {this.notebook(stage)}"
        ) from None
    except DeadKernelError:
        raise StageError(
            f"{stage}: the process was killed from outside, most often because memory ran out.\n"
            f"The notebook so far: {this.notebook(stage)}"
        ) from None
    finally:
        if running.exists():
            running.replace(this.notebook(stage))


def _report(this: Run) -> str | None:
    """Makes the reports; the reason why there is no PDF, if there is none."""
    from .report import write_html, write_pdf

    return write_pdf(this, write_html(this))


def _manifest(this: Run, usage: Usage, pdf_missing: str | None) -> dict[str, Any]:
    from .data import input_files

    return {
        "versions": {"python": sys.version.split()[0]} | {name: version(name) for name in PACKAGES},
        "seed": this.parameters.SEED,
        "input": [{"path": str(file), "sha256": _sha256(file)} for file in input_files(this.parameters)],
        "seconds": usage.seconds,
        "peak_memory_bytes": usage.peak_memory,
        "report_pdf": pdf_missing or "written",
    }


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# --- progress --------------------------------------------------------------------------------------------------------


class _LastLogLine(ProgressColumn):
    """What the running notebook said last, from run.log."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    def render(self, task: Task) -> Text:
        try:
            with self.file.open("rb") as log_file:
                log_file.seek(max(0, self.file.stat().st_size - 300))
                lines = log_file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return Text("")
        said = lines[-1].split(" ", 2)[-1] if lines else ""
        return Text(said, style="dim", overflow="ellipsis", no_wrap=True)


@contextmanager
def _progress(this: Run, console: Console | None) -> Iterator[Callable[[str], None]]:
    """A live bar in a terminal, a line for each stage elsewhere; gives the function to call when a stage begins."""
    console = console or Console(stderr=True)
    n = len(this.stages) + 1
    if not console.is_terminal:
        step = iter(range(1, n + 1))
        yield lambda stage: console.print(
            f"{time.strftime('%H:%M:%S')} {next(step)}/{n} {stage}: {STAGE_WORDS[stage]}", highlight=False
        )
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TimeElapsedColumn(), _LastLogLine(this.log))
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting", total=n)
        begun = 0

        def stage_begins(stage: str) -> None:
            nonlocal begun
            progress.update(task, description=f"{stage}: {STAGE_WORDS[stage]}", completed=begun)
            begun += 1

        yield stage_begins
        progress.update(task, description="done", completed=n)
