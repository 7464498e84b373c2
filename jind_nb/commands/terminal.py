"""How every command prints in a terminal, and the exit status it ends with.

Exit status: 0 done, 2 the user's input is wrong (one message, no traceback), 1 the program failed.
"""

from __future__ import annotations

import gc
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from ..core._compat import this_process_is_ours
from ..core.files import is_disk_full, why_not_written
from ..core.limits import check_limits, is_out_of_memory, memory_limit, why_killed
from ..core.processes import writable_caches
from ..errors import InputError, shown

if TYPE_CHECKING:
    import pandas as pd


FRAME = 3  # characters that each column of a table has beside its text


class _Output(io.TextIOBase):
    """Standard output or error, whichever it is now. What nobody can read any more does not end a run: the terminal or the
    reader of a pipe may be gone, the disk of a file full."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def _stream(self) -> Any:
        stream = getattr(sys, self.name)
        return getattr(stream, "rich_proxied_file", stream)  # while a bar is shown

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError, AttributeError):  # None where it was closed before the start
            self._lose()
        return len(text)

    def _lose(self) -> None:
        """Send what is left, and what comes, to nowhere; Python would try again at its end and fail then."""
        with suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def flush(self) -> None:
        with suppress(OSError, ValueError, AttributeError):
            self._stream.flush()

    def isatty(self) -> bool:
        return self._stream is not None and bool(self._stream.isatty())

    def fileno(self) -> int:
        return int(self._stream.fileno())

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"


out = Console(file=_Output("stdout"))  # type: ignore[arg-type]
err = Console(file=_Output("stderr"), stderr=True)  # type: ignore[arg-type]

# What ends a program from outside, besides Ctrl-C: kill, a batch system; a closed terminal.
ENDING = (signal.SIGTERM, signal.SIGHUP)

# Reads a line; where its input ends without one, prints its argument. A bar of ours hides the terminal's cursor.
WATCH = (
    r"""trap '' INT TERM HUP QUIT; read -r _ && exit; [ -t 2 ] && printf '\n\033[?25h' >&2; printf '%s\n' "$1" >&2"""
)


class Ended(SystemExit):
    """The program was ended by a signal; everything that it started ends on the way out.

    A kind of SystemExit: asyncio, which runs the notebooks, takes any other exception for its own.
    """

    def __init__(self, number: int, *, is_told: bool = False) -> None:
        super().__init__(128 + number)
        self.signal, self.is_told = signal.Signals(number).name, is_told


def plain(text: str) -> str:
    """Return text for the terminal: no markup, no control characters, and no more than a few screens."""
    return escape(shown(text))


def print_line(text: str, console: Console = out) -> None:
    """Print text with markup, its lines as long as they are."""
    console.print(text, highlight=False, soft_wrap=True)


def print_table(title: str, frame: pd.DataFrame) -> None:
    """Print a table under its title, of an empty one only the title.

    No word is broken: where the terminal is too narrow for that, each row is a list.
    """
    if frame.empty:
        return print_line(title)
    heads = [str(name) for name in (frame.index.name, *frame.columns)]
    rows = [[shown(str(value)) for value in row] for row in frame.itertuples(name=None)]
    widths = _widths([heads, *rows], out.width - FRAME * len(heads) - 1)
    if widths is None:
        return _print_list(title, heads, rows)
    table = Table(title=title, title_justify="left")
    for name, width in zip(heads, widths, strict=True):
        table.add_column(Text(name), width=width)
    for row in rows:
        table.add_row(*map(Text, row))
    out.print(table)


def _widths(rows: list[list[str]], room: int) -> list[int] | None:
    """Return a width for each column of a table so that all fit into the room together and no word is broken: what is too much is
    taken from the widest columns. None where the room is too narrow for their longest words."""
    columns = list(zip(*rows, strict=True))
    narrowest = [max(cell_len(word) for text in column for word in text.split() or [""]) for column in columns]
    widths = [max(map(cell_len, column)) for column in columns]
    if sum(narrowest) > room:
        return None
    while sum(widths) > room:
        _, widest = max((width, i) for i, width in enumerate(widths) if width > narrowest[i])
        widths[widest] -= 1
    return widths


def _print_list(title: str, heads: list[str], rows: list[list[str]]) -> None:
    """Print the rows of a table one below the other: its first value, and below that the others, each with its name."""
    print_line(title)
    longest = max(map(cell_len, heads[1:]), default=0)
    for first, *values in rows:
        out.print(Padding(Text(first, "bold"), (0, 0, 0, 2), expand=False))
        of_row = Table.grid(Column(width=longest), Column(overflow="fold"), padding=(0, 2, 0, 0))
        for name, value in zip(heads[1:], values, strict=True):
            if value:
                of_row.add_row(Text(name), Text(value))
        out.print(Padding(of_row, (0, 0, 0, 4), expand=False))


@contextmanager
def arguments_named(names: Mapping[str, str]) -> Iterator[None]:
    """Let the messages of InputError name a command's arguments, not the parameters that they stand for.

    Parameters
    ----------
    names
        Pattern of a parameter's name -> what the command calls it.
    """
    try:
        yield
    except InputError as error:
        message = str(error)
        for pattern, argument in names.items():
            message = re.sub(rf"{pattern}\b", argument, message)
        raise InputError(message) from None


@contextmanager
def stopped_with(sentence: str) -> Iterator[None]:
    """End the program with a sentence on how to go on if Ctrl-C (status 130), SIGTERM or SIGHUP stops the `with` block."""
    try:
        yield
    except KeyboardInterrupt:
        print_line(f"Stopped. {sentence}", err)
        raise Ended(signal.SIGINT, is_told=True) from None
    except Ended as ended:
        print_line(f"Stopped by {ended.signal}. {sentence}", err)
        ended.is_told = True
        raise


@contextmanager
def exit_status() -> Iterator[None]:
    """Turn an exception of the `with` block, or a signal that ends the program, into a message and an exit status."""
    _open_standard_files()
    this_process_is_ours()
    os.environ["MPLBACKEND"] = "agg"  # whatever the user draws with: there may be no screen
    for number in ENDING:
        if signal.getsignal(number) == signal.SIG_DFL:  # `nohup` ignores SIGHUP, and so do we then
            signal.signal(number, _end)
    try:
        check_limits()
        with _told_if_killed(), writable_caches():
            yield
    except InputError as error:
        print_line(f"[bold red]Wrong input:[/bold red] {plain(str(error))}", err)
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("Stopped.")
        sys.exit(130)
    except Ended as ended:
        if not ended.is_told:
            err.print(f"Stopped by {ended.signal}.")
        raise
    except SystemExit as end:
        if end.code == 130:  # typer ends so, without a word, on Ctrl-C while a command's modules are imported
            err.print("Stopped.")
        raise
    except Exception as error:
        if os.environ.get("JIND_NB_TRACEBACK"):
            raise
        message = plain(str(error) or type(error).__name__)
        if isinstance(error, OSError) and is_disk_full(error):
            message = f"{why_not_written(error)}: {plain(str(error.filename or 'a file could not be written'))}"
        if is_out_of_memory(type(error).__name__, str(error)):
            message = f"Memory ran out: {memory_limit()}. Give it more, or use less data. ({message})"
        print_line(f"[bold red]Failed:[/bold red] {message}", err)
        sys.exit(1)
    finally:
        gc.freeze()  # Python looks through all that was ever imported for circles before it ends, which takes two seconds


@contextmanager
def _told_if_killed() -> Iterator[None]:
    """Let a small process print why if this one is killed during the `with` block, as the system does without memory."""
    sentence = (
        f"Failed: the process was killed from outside, {why_killed()}; a run continues after its last finished stage."
    )
    try:
        watch = subprocess.Popen(
            ["/bin/sh", "-c", WATCH, "sh", sentence], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
    except OSError:  # no more processes are allowed
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):
            watch.communicate(b"ended\n")


def _end(number: int, _: Any) -> None:
    for other in ENDING:  # a second one must not end what ends the first one's kernels
        signal.signal(other, signal.SIG_IGN)
    raise Ended(number)


def _open_standard_files() -> None:
    """Open the standard files that are closed, to nowhere: a file of results would get their numbers, and stray words."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # It takes the lowest free number. Kernels inherit it: without, they end at their start.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: PTH123, SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115
