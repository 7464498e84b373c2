"""Where the package's log lines go."""

import logging
from pathlib import Path


class _LogFile(logging.FileHandler):
    """A log file whose own errors (a full disk) are ignored: they should not end a run."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass


def log_to(file: Path, *also: logging.Handler) -> None:
    """Send the package's log lines to a file and to other handlers, and no longer to earlier ones."""
    logger = logging.getLogger("jind_nb")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        if isinstance(handler, logging.FileHandler):
            handler.close()
    log_file = _LogFile(file, encoding="utf-8")
    log_file.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"))
    for handler in (log_file, *also):
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
