"""The report's pictures, page and PDF, and the one line that stands for them in a terminal.

The functions that commands call are imported when they are first used: their imports take three seconds, and a run
starts with other work.
"""

from importlib import import_module
from typing import Any

PARTS = {
    "write_html": ".cohort", "write_failed_html": ".page", "write_pdf": ".pdf", "write_prediction_html": ".prediction",
    "one_line": "..results.summary",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in PARTS:
        return getattr(import_module(PARTS[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
