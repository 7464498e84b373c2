"""Progress bars of long work, in a terminal or a notebook; none where the output goes to a file."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

from ._compat import in_notebook

Thing = TypeVar("Thing")

# tqdm shows no bar where this variable is set: an executed notebook would keep every state of the bar.
NO_BARS = "TQDM_DISABLE"


def bar(things: Iterable[Thing], what: str, unit: str, total: int | None = None) -> tqdm[Thing]:
    """Return an iterator over things with a progress bar: it appears after a second and disappears at the end."""
    # Plain text also in notebooks: widgets need an extension, and stay empty in an executed notebook.
    looks: dict[str, Any] = (
        {"file": sys.stdout} if in_notebook() else {"disable": None}
    )  # not on the red of errors; only in a terminal
    looks |= {"delay": 1, "mininterval": 1, "leave": False, "ascii": " ▏▎▍▌▋▊▉█"}
    return tqdm(things, desc=what, unit=f" {unit}s", total=total, **looks)


class OnScreen(logging.Handler):
    """Print log lines above a progress bar, if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
