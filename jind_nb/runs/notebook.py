"""The first call of every notebook: its parameters become a run."""

import ast
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core._compat import replace_traceback
from ..core.locks import refuse_if_in_use
from ..core.logs import log_to
from ..core.parameters import Parameters, from_notebook
from ..core.progress import OnScreen
from ..core.resources import checkout
from ..core.text import listing
from ..data.roles import with_targets
from ..errors import InputError
from .folder import Run, check_output
from .stages import is_done

log = logging.getLogger(__name__)


def open_run(namespace: Mapping[str, Any]) -> Run:
    """Return the run of a notebook's parameters: `run = open_run(globals())`.

    Relative paths are relative to the notebook's folder, those of the repository's own notebooks to its root. From here on the
    package logs to the screen and to `run.log`, and the stop button shows a sentence and no traceback.

    Raises
    ------
    InputError
        If a parameter is wrong, the folder cannot be written, or a `jind-nb run` is at work there.
    """
    from IPython import get_ipython

    run = Run(with_targets(parameters_of(namespace)))
    check_output(run.parameters, needed=0)
    refuse_if_in_use(run.folder)
    run.folder.mkdir(parents=True, exist_ok=True)
    log_to(run.log, OnScreen())
    if (shell := get_ipython()) is not None:
        shell.set_custom_exc((KeyboardInterrupt,), _show_stopped)
    return run


def parameters_of(namespace: Mapping[str, Any]) -> Parameters:
    """Return the parameters of a notebook's variables: the cell's, then those of the file PARAMETERS, then papermill's."""
    return from_notebook(namespace, _folder(), _injected_names(namespace.get("In", ())))


def _folder() -> Path:
    """Return what relative paths are relative to. A kernel works in its notebook's folder."""
    here, root = Path.cwd(), checkout()
    return root if root is not None and here in (root, root / "notebooks") else here


def _injected_names(cells: Sequence[str]) -> list[str]:
    """Return the names in the last cell that papermill put after the parameters cell; `cells` are the executed ones' text."""
    added = [cell for cell in cells if cell.startswith("# Parameters\n")]
    if not added:
        return []
    statements = [part for part in ast.parse(added[-1]).body if isinstance(part, ast.Assign)]
    return [name.id for part in statements for name in part.targets if isinstance(name, ast.Name)]


def open_target(namespace: Mapping[str, Any], stage: str, target: str | None = None) -> Run:
    """Return the run of the target that a notebook is about: `run = open_target(globals(), "3_align")`.

    Of several targets it is the first that the stage has not been done for: run the notebook once for each.

    Parameters
    ----------
    target
        One of several targets, in place of the next.

    Raises
    ------
    InputError
        As `open_run`; if there is no such target.
    """
    run = open_run(namespace)
    each = {one.parameters.target: one for one in run.each_target}
    if target is not None and target not in each:
        raise InputError(f"target: {target!r} is none of the targets; they are {listing(each)}.")
    waiting = [name for name, one in each.items() if not is_done(one, stage)]
    chosen = target or next(iter(waiting), run.parameters.targets[0])
    if len(each) > 1:
        log.info("target %d of %d: %s", list(each).index(chosen) + 1, len(each), chosen)
    return each[chosen]


def _show_stopped(shell: Any, kind: type, error: BaseException, traceback: Any, tb_offset: int | None = None) -> Any:
    """Show a sentence in place of a traceback; the arguments are those of `set_custom_exc`."""
    lines = ["\x1b[0;31mStopped.\x1b[0m Nothing is left half done; run this cell again to go on."]
    replace_traceback(shell, error, lines)
    return lines
