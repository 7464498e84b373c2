"""Files of an earlier run: moved to `previous/` or deleted, so that none of them lie among those of a new run.

The process may be killed at any moment; `recover` then undoes what was half done.
"""

import shutil
from contextlib import suppress
from pathlib import Path

from ..core.locks import LOCK
from ..errors import InputError
from .folder import Run

PREVIOUS, MOVING, OUTDATED = "previous", ".previous.part", ".previous.old"


def refuse_foreign_files(run: Run) -> None:
    """Raise if the run would replace files that no run wrote, or its own input.

    Raises
    ------
    InputError
        If files with a run's names are there that no run wrote, or the run's own input is among them.
    """
    existing, previous = [path for path in run.possible_files() if path.exists()], run.folder / PREVIOUS
    inputs = {"PATH": run.parameters.paths}
    if run.parameters.PRETRAINED_MODEL_PATH is not None:
        inputs["PRETRAINED_MODEL_PATH"] = [run.parameters.PRETRAINED_MODEL_PATH]
    for name, paths in inputs.items():
        for path in map(Path, paths):
            if path.exists() and any(path == file or file in path.parents for file in [*existing, previous]):
                raise InputError(f"{name}: {path} is among the results this run would replace; change OUTPUT_PATH.")
    if not existing:
        return
    # A killed run may have moved its log, or not begun it.
    by_a_run = any(sign.exists() for sign in (run.log, run.stages_json, run.folder / LOCK, run.folder / MOVING))
    if not by_a_run or (previous.exists() and not (previous / run.log.name).exists()):
        found = previous.name if by_a_run else existing[0].name
        raise InputError(
            f"OUTPUT_PATH: {run.folder} holds {found!r}, which was not written by a run of jind-nb; "
            "choose another folder, so that no file of yours is moved."
        )


def recover(run: Run) -> None:
    """Undo a half-done `set_aside`, and delete the temporary files of a killed run."""
    moving, previous, outdated = run.folder / MOVING, run.folder / PREVIOUS, run.folder / OUTDATED
    if moving.exists():
        for file in _manifest_last(_files_in(moving), run):
            back = run.folder / file.relative_to(moving)
            back.parent.mkdir(parents=True, exist_ok=True)
            if back.exists():  # it was kept, and is in both folders
                file.unlink()
            else:
                file.rename(back)
        shutil.rmtree(moving)
        if outdated.exists() and not previous.exists():
            outdated.rename(previous)
    shutil.rmtree(outdated, ignore_errors=True)
    remove_half_written(run)


def remove_half_written(run: Run) -> None:
    """Delete the temporary files that a killed process of the run has left."""
    of_targets = [folder for where in (run.targets, run.notebooks) for folder in where.glob("*/")]
    of_targets += run.targets.glob("*/work/")
    for place in (run.folder, run.work, run.models, run.notebooks, *of_targets):
        for left in [*place.glob(".*.part"), *place.glob(".*.running.ipynb")]:
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink()


def set_aside(run: Run, keep: set[Path]) -> None:
    """Move a run's files into `previous/`; those of an even earlier run there are deleted.

    Parameters
    ----------
    keep
        Files that also stay: `previous/` gets a hard link to them, or a copy.
    """
    moving, previous, outdated = run.folder / MOVING, run.folder / PREVIOUS, run.folder / OUTDATED
    moving.mkdir()
    # The manifest marks a finished run: it is moved first and, in `recover`, moved back last.
    for file in reversed(_manifest_last(_files_of(run), run)):
        moved = moving / file.relative_to(run.folder)
        moved.parent.mkdir(parents=True, exist_ok=True)
        if file not in keep:
            file.rename(moved)
            continue
        try:
            moved.hardlink_to(file)
        except OSError:  # some disks have no hard links
            shutil.copy2(file, moved)
    _remove_empty(run)
    (moving / run.log.name).touch()  # `refuse_foreign_files` recognises `previous/` by it
    if previous.exists():
        previous.rename(outdated)
    moving.rename(previous)
    shutil.rmtree(outdated, ignore_errors=True)


def discard(run: Run, keep: set[Path]) -> None:
    """Delete the files of an unfinished run, except `keep`."""
    for file in _files_of(run):
        if file not in keep:
            file.unlink()
    _remove_empty(run)


def snapshot(run: Run) -> dict[Path, tuple[int, int, int]]:
    """Return inode, time and size of each file of the run, by which a file written since is recognised."""
    return {file: (s.st_ino, s.st_mtime_ns, s.st_size) for file in _files_of(run) for s in [file.stat()]}


def _files_of(run: Run) -> list[Path]:
    return [file for path in run.possible_files() for file in ([path] if path.is_file() else _files_in(path))]


def _files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]


def _manifest_last(files: list[Path], run: Run) -> list[Path]:
    return sorted(files, key=lambda file: file.name == run.manifest.name)


def _remove_empty(run: Run) -> None:
    of_targets = sorted([*run.targets.rglob("*/"), *run.notebooks.glob("*/")], reverse=True)
    for folder in (*of_targets, run.targets, run.work, run.models, run.notebooks):
        with suppress(OSError):  # it does not exist, or a file is kept in it
            folder.rmdir()
