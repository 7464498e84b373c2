"""What a sweep shows: a line for each run at work and a bar for all in a terminal; elsewhere a line for each event."""

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from ...errors import shown


class SweepProgress:
    """The display of `n` runs, to be used in a `with` block."""

    def __init__(self, console: Console, n: int) -> None:
        self.console, self.n, self.n_ended = console, n, 0
        self.stages: dict[str, tuple[int, int, str]] = {}
        self.lines: dict[str, TaskID] = {}
        self.is_waiting = False
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self.bars = Progress(*columns, console=console, disable=not console.is_terminal)
        self.all = self.bars.add_task("all runs", total=n)

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def print(self, text: str) -> None:
        """Print a line, with the time where there are no bars that show it."""
        clock = f"{time.strftime('%H:%M:%S')} " if self.bars.disable else ""
        self.console.print(Text(clock + shown(text)), soft_wrap=True)

    def show_stage(self, run: str, stage: tuple[int, int, str]) -> None:
        """Show the stage a run is at: its number, the number of stages, and what it does."""
        if self.stages.get(run) == stage:
            return
        self.stages[run] = stage
        number, n_stages, words = stage
        if self.bars.disable:
            self.print(f"{run}: {number}/{n_stages} {words}")
            return
        if run not in self.lines:
            self.lines[run] = self.bars.add_task("", total=n_stages)
        self.bars.update(self.lines[run], description=shown(f"{run}: {words}")[:80], completed=number - 1)

    def show_end(self, run: str, status: str, message: str = "") -> None:
        """Show that a run has ended."""
        self.n_ended += 1
        if run in self.lines:
            self.bars.remove_task(self.lines.pop(run))
        self.bars.update(self.all, completed=self.n_ended)
        self.print(f"{run}: {status} ({self.n_ended} of {self.n})" + (f": {message}" if message else ""))

    def show_waiting(self, is_waiting: bool) -> None:
        """Say that there is no worker, once each time that happens."""
        if is_waiting and not self.is_waiting:
            self.print("Waiting for a worker …")
        self.is_waiting = is_waiting
