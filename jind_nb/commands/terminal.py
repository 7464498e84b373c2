"""How every command prints in a terminal, and the exit status it ends with.

Exit status: 0 done, 2 the user's input is wrong (one message, no traceback), 1 the program failed.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..errors import InputError, shown

if TYPE_CHECKING:
    import pandas as pd

out = Console()
err = Console(stderr=True)


def plain(text: str) -> str:
    """Return text for the terminal: no markup, no control characters, and no more than a few screens."""
    return escape(shown(text))


def print_line(text: str, console: Console = out) -> None:
    """Print text with markup, its lines as long as they are."""
    console.print(text, highlight=False, soft_wrap=True)


def print_table(title: str, frame: pd.DataFrame) -> None:
    """Print a table under its title, of an empty one only the title."""
    if frame.empty:
        return print_line(title)
    table = Table(title=title, title_justify="left")
    for name in (frame.index.name, *frame.columns):
        table.add_column(str(name), overflow="fold")
    for row in frame.itertuples(name=None):
        table.add_row(*(plain(str(value)) for value in row))
    out.print(table)


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
    """End the program with status 130 and a sentence on how to go on if Ctrl-C stops the `with` block."""
    try:
        yield
    except KeyboardInterrupt:  # typer would end without a message
        print_line(f"Stopped. {sentence}", err)
        sys.exit(130)


@contextmanager
def exit_status() -> Iterator[None]:
    """Turn an exception of the `with` block into a message and an exit status."""
    try:
        yield
    except InputError as error:
        print_line(f"[bold red]Wrong input:[/bold red] {plain(str(error))}", err)
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("Stopped.")
        sys.exit(130)
    except Exception as error:
        if os.environ.get("JIND_NB_TRACEBACK"):
            raise
        message = plain(str(error) or type(error).__name__)
        print_line(f"[bold red]Failed:[/bold red] {message}", err)
        sys.exit(1)
