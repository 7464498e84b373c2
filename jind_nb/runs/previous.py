"""One run at a time in a folder, and nothing of an earlier run beside the new one's: lock, set aside, recover.

Everything here may be killed at any moment; `recover` puts right what a killed one left.
"""

from __future__ import annotations

import logging
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.locks import LOCK
from ..errors import InputError

if TYPE_CHECKING:
    from .folder import Run

log = logging.getLogger(__name__)

PREVIOUS, MOVING, OUTDATED = "previous", ".previous.part", ".previous.old"


# --- nothing mixed ---------------------------------------------------------------------------------------------------


def refuse_if_not_ours(run: Run) -> None:
    """Sees that this run replaces only what a run wrote, and not its own input.

    Raises
    ------
    InputError
        If files of a run's names are there that no run wrote, or the run's own input is among them.
    """
    there, previous = [path for path in run.ours() if path.exists()], run.folder / PREVIOUS
    inputs = {"PATH": run.parameters.paths}
    if run.parameters.PRETRAINED_MODEL_PATH is not None:
        inputs["PRETRAINED_MODEL_PATH"] = [run.parameters.PRETRAINED_MODEL_PATH]
    for name, paths in inputs.items():
        for path in map(Path, paths):
            if path.exists() and any(path == mine or mine in path.parents for mine in [*there, previous]):
                raise InputError(f"{name}: {path} is among the results this run would replace; change OUTPUT_PATH.")
    if not there:
        return
    # A killed run may have moved its log, or not begun it.
    signed = any(sign.exists() for sign in (run.log, run.stages_json, run.folder / LOCK, run.folder / MOVING))
    if not signed or (previous.exists() and not (previous / run.log.name).exists()):
        found = previous.name if signed else there[0].name
        raise InputError(
            f"OUTPUT_PATH: {run.folder} holds {found!r}, which no run of jind-nb wrote there; "
            "choose another folder, so that nothing of yours is moved."
        )


def recover(run: Run) -> None:
    """Undoes a half-done `set_aside`, and removes temporary files that a killed run left."""
    moving, previous, outdated = run.folder / MOVING, run.folder / PREVIOUS, run.folder / OUTDATED
    if moving.exists():
        for file in _manifest_last(_files_in(moving), run):
            back = run.folder / file.relative_to(moving)
            back.parent.mkdir(parents=True, exist_ok=True)
            if back.exists():  # was kept, and put into both
                file.unlink()
            else:
                file.rename(back)
        shutil.rmtree(moving)
        if outdated.exists() and not previous.exists():
            outdated.rename(previous)
    shutil.rmtree(outdated, ignore_errors=True)
    for place in (run.folder, run.work, run.models, run.notebooks):
        for left in [*place.glob(".*.part"), *place.glob(".*.running.ipynb")]:
            left.unlink()


def set_aside(run: Run, keep: set[Path]) -> None:
    """Moves a run's files into `previous/`; what an even earlier run left there is deleted.

    Parameters
    ----------
    keep
        Files that stay as well: `previous/` gets a second name for them, or a copy.
    """
    moving, previous, outdated = run.folder / MOVING, run.folder / PREVIOUS, run.folder / OUTDATED
    moving.mkdir()
    # The manifest is the sign of a finished run: it goes first and, in `recover`, comes back last.
    for file in reversed(_manifest_last(_files_of(run), run)):
        put = moving / file.relative_to(run.folder)
        put.parent.mkdir(parents=True, exist_ok=True)
        if file in keep:
            _second_name(file, put)
        else:
            file.rename(put)
    _remove_empty(run)
    (moving / run.log.name).touch()  # by which `refuse_if_not_ours` knows it
    if previous.exists():
        previous.rename(outdated)
    moving.rename(previous)
    shutil.rmtree(outdated, ignore_errors=True)


def discard(run: Run, keep: set[Path]) -> None:
    """Deletes what an unfinished run left, but for `keep`."""
    for file in _files_of(run):
        if file not in keep:
            file.unlink()
    _remove_empty(run)


def snapshot(run: Run) -> dict[Path, tuple[int, int, int]]:
    """What tells whether a file of the run was written since."""
    return {file: (s.st_ino, s.st_mtime_ns, s.st_size) for file in _files_of(run) for s in [file.stat()]}


def _files_of(run: Run) -> list[Path]:
    return [file for path in run.ours() for file in ([path] if path.is_file() else _files_in(path))]


def _files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]


def _manifest_last(files: list[Path], run: Run) -> list[Path]:
    return sorted(files, key=lambda file: file.name == run.manifest.name)


def _second_name(file: Path, other: Path) -> None:
    try:
        other.hardlink_to(file)
    except OSError:  # some disks have no second names
        shutil.copy2(file, other)


def _remove_empty(run: Run) -> None:
    for folder in (run.work, run.models, run.notebooks):
        with suppress(OSError):  # not there, or something is kept in it
            folder.rmdir()
