"""What a run shows while it is at work: a live bar in a terminal; elsewhere a line for each stage, and one every half a minute."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from ..core.files import read_end
from ..core.stage_words import UNCHANGED

LONGEST_SILENCE = 25  # seconds without a line where there is no terminal


class _StagesAndLog(Progress):
    """A line with the stage and how long it has taken, and below it the last line of the log: both fit 80 columns."""

    def __init__(self, log_file: Path, console: Console) -> None:
        self.log_file = log_file
        super().__init__(
            TextColumn("{task.description}"), BarColumn(bar_width=20), TimeElapsedColumn(), console=console
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield Text(last_log_line(self.log_file), style="dim", overflow="ellipsis", no_wrap=True)


def last_log_line(file: Path) -> str:
    """Return the last line of a log file without its date and time, an empty text if there is none."""
    lines = read_end(file, 300).splitlines()
    return lines[-1].split(" ", 2)[-1] if lines else ""


@contextmanager
def stage_progress(console: Console, log_file: Path, n_stages: int) -> Iterator[Callable[[str, str], None]]:
    """Show the progress of a run.

    Yields
    ------
    A function to call when a stage begins, with the stage and what it does.
    """
    completed = iter(range(n_stages))
    if not console.is_terminal:
        stage_now, since = "starting", time.monotonic()

        def print_stage(stage: str, words: str) -> None:
            nonlocal stage_now, since
            stage_now, since = f"{next(completed) + 1}/{n_stages} {stage}", time.monotonic()
            _print_line(console, f"{stage_now}: {words}")

        def print_log_line() -> None:
            _print_line(console, f"{stage_now}, {time.monotonic() - since:.0f} s: {last_log_line(log_file)}")

        with repeated(print_log_line):
            yield print_stage
        return
    with _StagesAndLog(log_file, console) as progress:
        task = progress.add_task("starting", total=n_stages)

        def show_stage(stage: str, words: str) -> None:
            n = next(completed)
            progress.update(task, description=f"stage {n + 1}/{n_stages}: {words}", completed=n)
            if words == UNCHANGED:
                progress.console.print(f"{stage}: {words}", highlight=False)

        yield show_stage
        progress.update(task, description="done", completed=n_stages)


def _print_line(console: Console, text: str) -> None:
    console.print(f"{time.strftime('%H:%M:%S')} {text}", highlight=False, markup=False, soft_wrap=True)


@contextmanager
def repeated(tell: Callable[[], None], seconds: float = LONGEST_SILENCE) -> Iterator[None]:
    """Call a function every so many seconds while the `with` block is at work."""
    done = threading.Event()

    def repeat() -> None:
        while not done.wait(seconds):
            tell()

    thread = threading.Thread(target=repeat, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class _LastMessage(logging.Handler):
    """Keep what was logged last."""

    message = "starting"

    def emit(self, record: logging.LogRecord) -> None:
        self.message = record.getMessage()


@contextmanager
def last_messages_shown(console: Console) -> Iterator[None]:
    """Print, where there is no terminal, every half a minute what the package logged last during the `with` block."""
    if console.is_terminal:  # where there are bars
        yield
        return
    last, logger, began = _LastMessage(), logging.getLogger("jind_nb"), time.monotonic()
    level = logger.level
    logger.addHandler(last)
    logger.setLevel(logging.INFO)
    try:
        with repeated(lambda: _print_line(console, f"{time.monotonic() - began:.0f} s: {last.message}")):
            yield
    finally:
        logger.removeHandler(last)
        logger.setLevel(level)
