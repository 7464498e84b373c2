"""What every command says in a terminal, and the exit status it ends with.

Exit status: 0 done, 2 the user's input is wrong (one message, no traceback), 1 the program failed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

from ..errors import InputError, shown

out = Console()
err = Console(stderr=True)


def plain(text: str) -> str:
    """Return text for the terminal: no markup, no control characters, and no more than a few screens."""
    return escape(shown(text))


@contextmanager
def exit_status() -> Iterator[None]:
    """Turn what went wrong inside into a message and an exit status."""
    try:
        yield
    except InputError as error:
        err.print(f"[bold red]Wrong input:[/bold red] {plain(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("Stopped.")
        sys.exit(130)
    except Exception as error:
        if os.environ.get("JIND_NB_TRACEBACK"):
            raise
        message = plain(str(error) or type(error).__name__)
        err.print(f"[bold red]Failed:[/bold red] {message}", highlight=False, soft_wrap=True)
        sys.exit(1)
