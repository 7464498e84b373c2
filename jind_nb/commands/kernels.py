"""TODO."""

from __future__ import annotations

import json
import logging
import re
from contextlib import suppress
from pathlib import Path

from jupyter_client.manager import KernelManager

from ..core.files import is_disk_full
from ..core.resources import shipped
from ..core.stage_words import STAGE_WORDS
from ..errors import InputError
from ..runs.folder import Run

log = logging.getLogger(__name__)

KERNEL = "python3"

IMPORTED_AHEAD = {
    "1_preprocess": "jind_nb.data.prepare, jind_nb.report.plots",
    "2_train": "jind_nb.model.store, jind_nb.report.plots",
    "3_align": "jind_nb.model.store, jind_nb.results.load, jind_nb.report.plots",
    "4_evaluate": "jind_nb.model.store, jind_nb.results.load, jind_nb.report.plots, captum.attr",
}


class StageError(RuntimeError):
    """A run failed for a reason that is not the user's input; the message names the notebook that was kept, if any."""


class DiskFullError(StageError):
    """A notebook found the disk full; the message is the file."""


def kill(kernel: KernelManager) -> None:
    process = getattr(kernel.provisioner, "process", None)
    if process is not None:
        process.kill()
        process.wait()


def execute(this: Run, stage: str, kernel: KernelManager) -> None:
    """Runs one template; the executed notebook is kept in `notebooks/`, also when it fails."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    this.notebooks.mkdir(exist_ok=True)
    running = this.notebooks / f".{stage}.running.ipynb"
    log.info("%s: %s", stage, STAGE_WORDS[stage])
    try:
        papermill.execute_notebook(
            shipped("notebooks") / f"{stage}.ipynb",
            running,
            parameters=this.parameters.model_dump(),
            kernel_name=KERNEL,
            km=kernel,
            progress_bar=False,
            cwd=str(this.folder),
        )
    except PapermillExecutionError as error:
        if error.ename == InputError.__name__:
            raise InputError(error.evalue) from None
        if full := re.fullmatch(r"\[Errno (?:28|122)\] .*: '(.+)'", error.evalue):
            raise DiskFullError(full[1]) from None
        raise StageError(
            f"{stage} failed: {error.ename}: {error.evalue}\nThe notebook with the error: {this.notebook(stage)}"
        ) from None
    except OSError as error:
        if is_disk_full(error) and error.filename is None:
            raise DiskFullError(str(this.notebook(stage))) from None
        raise
    except DeadKernelError:
        raise StageError(
            f"{stage}: the process was killed from outside, most often because memory ran out.\n"
            f"The notebook so far: {this.notebook(stage)}"
        ) from None
    finally:
        _keep_whole(running, this.notebook(stage))


def _keep_whole(running: Path, notebook: Path) -> None:
    """Papermill writes in place: on a full disk what it leaves may be half a notebook."""
    with suppress(FileNotFoundError):
        try:
            json.loads(running.read_text("utf-8"))
        except ValueError:
            running.unlink()
        else:
            running.replace(notebook)
