"""The first call of every notebook: its parameters become a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core._compat import replace_traceback
from ..core.locks import refuse_if_in_use
from ..core.logs import log_to
from ..core.parameters import from_notebook
from ..core.progress import OnScreen
from ..core.resources import checkout
from .folder import Run, check_output


def open_run(namespace: Mapping[str, Any]) -> Run:
    """Return the run of a notebook's parameters: `run = open_run(globals())`.

    Relative paths are relative to the repository's root, or to the working directory for an installed package. From
    here on the package logs to the screen and to `run.log`, and the stop button shows a sentence and no traceback.

    Raises
    ------
    InputError
        If a parameter is wrong, the folder cannot be written, or a `jind-nb run` is at work there.
    """
    from IPython import get_ipython

    run = Run(from_notebook(namespace, checkout() or Path.cwd()))
    check_output(run.parameters, needed=0)
    refuse_if_in_use(run.folder)
    run.folder.mkdir(parents=True, exist_ok=True)
    log_to(run.log, OnScreen())
    if (shell := get_ipython()) is not None:
        shell.set_custom_exc((KeyboardInterrupt,), _show_stopped)
    return run


def _show_stopped(shell: Any, kind: type, error: BaseException, traceback: Any, tb_offset: int | None = None) -> Any:
    """Show a sentence in place of a traceback; the arguments are those of `set_custom_exc`."""
    lines = ["\x1b[0;31mStopped.\x1b[0m Nothing is left half done; run this cell again to go on."]
    replace_traceback(shell, error, lines)
    return lines
