"""TODO."""

from __future__ import annotations

import logging
from pathlib import Path


class _LogFile(logging.FileHandler):
    """A log that cannot be written is no reason to fail, nor for a traceback a line."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass


def log_to(file: Path, *also: logging.Handler) -> None:
    """Sends what the package logs to a file and other handlers, instead of wherever it went before."""
    logger = logging.getLogger("jind_nb")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        if isinstance(handler, logging.FileHandler):
            handler.close()
    to_file = _LogFile(file, encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"))
    for handler in (to_file, *also):
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
