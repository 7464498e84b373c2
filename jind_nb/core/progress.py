"""Progress of long work: a bar in a terminal or a notebook, nothing in a file. What a log should say is logged."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Thing = TypeVar("Thing")

# Where a notebook's kernel sets it, there is no bar: the executed notebook would keep every state of it.
NO_BARS = "TQDM_DISABLE"


def bar(things: Iterable[Thing], what: str, unit: str, total: int | None = None) -> tqdm[Thing]:
    """The things as they are gone through, shown from the first second on, at most once a second, and gone when done."""
    # Plain text also in notebooks: widgets need an extension, and stay empty in an executed notebook.
    looks = {"file": sys.stdout} if _in_notebook() else {"disable": None}  # on the red of errors; only in a terminal
    return tqdm(
        things,
        desc=what,
        unit=f" {unit}s",
        total=total,
        delay=1,
        mininterval=1,
        leave=False,
        ascii=" ▏▎▍▌▋▊▉█",
        **looks,
    )


def _in_notebook() -> bool:
    """Whether this is a notebook's kernel, not only a program that has imported what kernels are made of."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None


class OnScreen(logging.Handler):
    """Log lines above a bar that may be there."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
