"""Progress bars of long work, in a terminal or a notebook; none where the output goes to a file."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar

from tqdm import tqdm

from ._compat import in_notebook

Thing = TypeVar("Thing")

# tqdm shows no bar where this variable is set: an executed notebook would keep every state of the bar.
NO_BARS = "TQDM_DISABLE"

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10  # of the log, on one bar

ONLY_FILE = "only_file"  # attribute of a log record that is not for the screen


def bar(things: Iterable[Thing], what: str, unit: str, total: int | None = None) -> tqdm[Thing]:
    """Return an iterator over things with a progress bar: it appears after a second and disappears at the end."""
    if total is None and isinstance(things, Sized):
        total = len(things)
    # Plain text also in notebooks: widgets need an extension, and stay empty in an executed notebook.
    looks: dict[str, Any] = (
        {"file": sys.stdout} if in_notebook() else {"disable": None}
    )  # not on the red of errors; only in a terminal
    looks |= {"delay": 1, "mininterval": 1, "leave": False, "ascii": " ▏▎▍▌▋▊▉█"}
    things = _logged(things, what, unit, total)
    return tqdm(things, desc=what, unit=f" {unit}s", total=total, **looks)


def _logged(things: Iterable[Thing], what: str, unit: str, total: int | None) -> Iterator[Thing]:
    """Yield the things, and tell the log's file from time to time how many there were."""
    of = f" of {total:,}" if total is not None else ""
    told = time.monotonic()
    for i, thing in enumerate(things, start=1):
        yield thing
        if time.monotonic() - told >= SECONDS_BETWEEN_LINES:
            log.info("%s: %s %d%s", what, unit, i, of, extra={ONLY_FILE: True})
            told = time.monotonic()


class OnScreen(logging.Handler):
    """Print log lines above a progress bar, if there is one, but for those that say what the bar shows."""

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, ONLY_FILE):
            return
        tqdm.write(self.format(record), file=sys.stdout)
