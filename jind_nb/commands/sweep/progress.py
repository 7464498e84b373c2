"""What a sweep shows: a line for each run at work and a bar for all in a terminal; elsewhere a line for each event, and
one every half a minute."""

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from ...core.text import listing
from ...errors import shown
from ..progress import LONGEST_SILENCE

MOST_NAMED = 5  # runs at work in one line


class SweepProgress:
    """The display of `n` runs, to be used in a `with` block."""

    def __init__(self, console: Console, n: int) -> None:
        self.console, self.n, self.n_ended = console, n, 0
        self.stages: dict[str, tuple[int, int, str]] = {}
        self.lines: dict[str, TaskID] = {}
        self.is_waiting = False
        self.last_line = time.monotonic()
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
        self.last_line = time.monotonic()

    def break_silence(self) -> None:
        """Print how far the runs are, where there are no bars and the last line is half a minute old."""
        if self.bars.disable and time.monotonic() - self.last_line >= LONGEST_SILENCE:
            at_work = [f"{run} ({number}/{n_stages})" for run, (number, n_stages, _) in self.stages.items()]
            self.print(
                f"{self.n_ended} of {self.n} ended; at work: {listing(at_work, MOST_NAMED, quoted=False) or 'none yet'}"
            )

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
        self.stages.pop(run, None)
        if run in self.lines:
            self.bars.remove_task(self.lines.pop(run))
        self.bars.update(self.all, completed=self.n_ended)
        self.print(f"{run}: {status} ({self.n_ended} of {self.n})" + (f": {message}" if message else ""))

    def show_waiting(self, is_waiting: bool) -> None:
        """Say that there is no worker, once each time that happens."""
        if is_waiting and not self.is_waiting:
            self.print("Waiting for a worker …")
        self.is_waiting = is_waiting
