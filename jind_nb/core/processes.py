"""Python processes that are ours alone: this Python, none of the user's settings, and a short place for their sockets."""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import InputError

PREFIX, LOCK = "jind-nb-", "in use"

# The system takes no longer name of a socket, in bytes (macOS; Linux takes 107).
LONGEST_SOCKET = 103

# What jupyter_client and ours add to the folder's name: "/1_preprocess-ipc-5", with some to spare.
NAME_OF_SOCKET = 30

# An own folder without a lock may be one that was made this moment.
SECONDS_UNTIL_LEFT = 60

ROOM = 65_536  # bytes, for settings and connection files

# What changes how Python, IPython or matplotlib starts, and is not replaced by a folder of ours.
OF_THE_USER = (
    "PYTHONSTARTUP", "PYTHONINSPECT", "PYTHONBREAKPOINT", "MPLBACKEND", "JUPYTER_PATH", "JUPYTER_CONFIG_PATH",
    "JUPYTER_DEFAULT_PROVISIONER_NAME",
)  # fmt: skip


def python_module(name: str, *arguments: object) -> list[str]:
    """Return the command that runs a module in this Python, without files of the working directory as modules (`-P`)."""
    return [sys.executable, "-P", "-m", name, *map(str, arguments)]


def no_settings() -> dict[str, str]:
    """Return this process's environment without the user's settings of Python and matplotlib."""
    kept = {name: value for name, value in os.environ.items() if name not in OF_THE_USER}
    return kept | {"MATPLOTLIBRC": os.devnull, "PYTHONSAFEPATH": "1"}


def own_settings(folder: Path) -> dict[str, str]:
    """Return this process's environment with settings of IPython and Jupyter in a folder of ours, and none of matplotlib.

    Parameters
    ----------
    folder
        Where the settings are: none, until the programs write their own. It is made.
    """
    folder.mkdir(exist_ok=True)
    return no_settings() | {
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_CONFIG_DIR": str(folder / "jupyter"),
        "JUPYTER_DATA_DIR": str(folder / "jupyter"),
        "JUPYTER_RUNTIME_DIR": str(folder / "jupyter"),
        "JUPYTER_NO_CONFIG": "1",
    }


@contextmanager
def writable_caches() -> Iterator[None]:
    """Give matplotlib and numba a folder of ours for what they keep during the `with` block, if they cannot write any other.

    numba, by which umap is compiled, else raises an error where neither HOME nor the installation can be written.
    """
    config = Path(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"))  # noqa: PTH111
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # noqa: PTH111
    missing = [] if "MPLCONFIGDIR" in os.environ or _is_writable(config) else ["MPLCONFIGDIR"]
    umap = find_spec("umap")
    compiled = Path(umap.origin).with_name("__pycache__") if umap and umap.origin else cache
    if "NUMBA_CACHE_DIR" not in os.environ and not os.access(compiled, os.W_OK) and not _is_writable(cache):
        missing.append("NUMBA_CACHE_DIR")
    if not missing:
        yield
        return
    with own_folder(short_places()) as folder:
        os.environ.update({name: str(folder / name.lower()) for name in missing})
        try:
            yield
        finally:
            for name in missing:
                os.environ.pop(name, None)


def _is_writable(folder: Path) -> bool:
    """Return whether a folder can be written, or made; none is made, as long as nobody needs it. In /proc none can be made,
    whatever its rights say."""
    if not folder.is_absolute():  # `~` of a user who has no home
        return False
    there = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK) and Path("/proc") not in (there, *there.parents)


def short_places() -> list[Path]:
    """Return folders for sockets, the best first; those whose names are too long for a socket are left out."""
    names = [_temporary_place(), os.environ.get("XDG_RUNTIME_DIR"), "/tmp", "/var/tmp", "/dev/shm"]
    longest = LONGEST_SOCKET - NAME_OF_SOCKET - len(PREFIX)
    return [Path(name) for name in names if name and len(os.fsencode(name)) <= longest]


def _temporary_place() -> str | None:
    with suppress(FileNotFoundError):  # nothing can be written anywhere
        return tempfile.gettempdir()
    return None


@contextmanager
def own_folder(places: Sequence[Path]) -> Iterator[Path]:
    """Make a folder in the first of these places that takes one and has some room; it is deleted with the `with` block.

    Folders of processes that were killed are deleted too.

    Raises
    ------
    InputError
        If none of them does.
    """
    for place in dict.fromkeys(places):
        try:
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
        except OSError:
            continue
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(timeout=0)
            (folder / "room").write_bytes(bytes(ROOM))
            (folder / "room").unlink()
        except OSError:
            lock.release()
            shutil.rmtree(folder, ignore_errors=True)
            continue
        _remove_left(place)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock.release()
        return
    tried = ", ".join(map(str, dict.fromkeys(places))) or "none with a short name"
    raise InputError(
        f"TMPDIR: no folder for temporary files can be written or has room (tried: {tried}); make room in one of them, or "
        "set TMPDIR to a folder on this machine that you may write."
    )


def _remove_left(place: Path) -> None:
    """Delete the folders that killed processes of this user left here: the system has released their locks."""
    for lock_file in place.glob(f"{PREFIX}*/{LOCK}"):
        with suppress(OSError, Timeout):
            status = lock_file.parent.stat()
            if status.st_uid != os.getuid() or time.time() - status.st_mtime < SECONDS_UNTIL_LEFT:
                continue
            with FileLock(lock_file, timeout=0):
                shutil.rmtree(lock_file.parent, ignore_errors=True)
