"""What a run shows while it is at work: a live bar in a terminal, a line for each stage elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from ..core.files import read_end
from ..core.stage_words import UNCHANGED


class _LastLogLine(ProgressColumn):
    """A column with the last line of a log file."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    def render(self, task: Task) -> Text:
        lines = read_end(self.file, 300).splitlines()
        message = lines[-1].split(" ", 2)[-1] if lines else ""  # without date and time
        return Text(message, style="dim", overflow="ellipsis", no_wrap=True)


@contextmanager
def stage_progress(console: Console, log_file: Path, n_stages: int) -> Iterator[Callable[[str, str], None]]:
    """Show the progress of a run.

    Yields
    ------
    A function to call when a stage begins, with the stage and what it does.
    """
    if not console.is_terminal:
        numbers = iter(range(1, n_stages + 1))
        yield lambda stage, words: console.print(
            f"{time.strftime('%H:%M:%S')} {next(numbers)}/{n_stages} {stage}: {words}", highlight=False
        )
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TimeElapsedColumn(), _LastLogLine(log_file))
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting", total=n_stages)
        completed = iter(range(n_stages))

        def show_stage(stage: str, words: str) -> None:
            progress.update(task, description=f"{stage}: {words}", completed=next(completed))
            if words == UNCHANGED:
                progress.console.print(f"{stage}: {words}", highlight=False)

        yield show_stage
        progress.update(task, description="done", completed=n_stages)
