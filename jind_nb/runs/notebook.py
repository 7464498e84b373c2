"""TODO."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.locks import refuse_if_in_use
from ..core.logs import log_to
from ..core.parameters import from_notebook
from ..core.progress import OnScreen
from ..core.resources import checkout
from .folder import Run, check_output


def open_run(namespace: Mapping[str, Any]) -> Run:
    """A notebook's first call: `run = open_run(globals())`.

    Reads the parameters from the notebook's variables (relative paths are relative to the repository's root, or to
    the working directory for an installed package), logs to the screen and to the run's `run.log`, and has the stop
    button answered by a sentence.

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
        shell.set_custom_exc((KeyboardInterrupt,), _tell_of_a_stop)
    return run


def _tell_of_a_stop(shell: Any, kind: type, error: BaseException, traceback: Any, tb_offset: int | None = None) -> Any:
    """What the stop button shows in a notebook, in place of a traceback."""
    told = ["\x1b[0;31mStopped.\x1b[0m Nothing is left half done; run this cell again to go on."]
    shell._showtraceback(kind, error, told)
    return told
