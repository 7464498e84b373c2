"""One run at a time in a folder: a lock that the system releases when its last holder dies."""

import errno
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from ..errors import InputError

log = logging.getLogger(__name__)

LOCK = ".jind-nb.lock"

# Set for the kernels of a run: the locked folder that they may write into.
OURS = "JIND_NB_RUN"

# The kernels of a run hold its lock too. They end about a second after the run was killed, later while they compute.
SECONDS_FOR_ORPHANS = 60


@dataclass(frozen=True)
class Hold:
    """A locked folder: its lock file, and that file's open descriptor, which kernels inherit."""

    file: Path
    descriptor: int

    def is_valid(self) -> bool:
        """Return whether the folder is still the one that was locked: not removed, not made again."""
        with suppress(OSError):
            return os.path.samestat(self.file.stat(), os.fstat(self.descriptor))
        return False


@contextmanager
def locks_may_be_missing(warning: str | None = None) -> Iterator[None]:
    """Let a lock be taken without effect, and log a warning, on a disk that has no locks, as some clusters have."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            raise
        if warning:
            log.warning(warning)


@contextmanager
def held(folder: Path) -> Iterator[Hold]:
    """Make a folder and lock it for this run.

    Raises
    ------
    InputError
        If another run is at work there.

    Notes
    -----
    The system releases the lock when the last process that holds it dies. On a network disk the lock is as good as the
    disk's own: NFS carries locks between hosts, some cluster file systems only within one host.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptors: list[int] = []
    lock = FileLock(folder / LOCK, on_acquired=descriptors.append)
    with locks_may_be_missing(f"The disk of {folder} has no locks: make sure that no other run is started there."):
        _wait_for_orphans(lock, folder)
    try:
        hold = Hold(folder / LOCK, descriptors[0] if descriptors else os.open(folder / LOCK, os.O_RDWR | os.O_CREAT))
        with suppress(OSError):  # a full disk has no room for it; the lock holds without
            who = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
            os.ftruncate(hold.descriptor, 0)
            os.pwrite(hold.descriptor, json.dumps(who).encode(), 0)
        yield hold
        if hold.is_valid():
            hold.file.unlink()
    finally:
        lock.release()


def _wait_for_orphans(lock: FileLock, folder: Path) -> None:
    """Take the lock, which the kernels of a killed run may still hold for some seconds."""
    end = time.monotonic() + SECONDS_FOR_ORPHANS
    while True:
        try:
            lock.acquire(timeout=1)
            return
        except Timeout:
            who = _holder(folder)
            orphans = who.get("host") == socket.gethostname() and not _alive(who["pid"])
            if not orphans or time.monotonic() > end:
                raise _in_use(folder) from None


def _alive(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


def _holder(folder: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, TypeError):
        return dict(json.loads((folder / LOCK).read_text("utf-8")))
    return {}


def _in_use(folder: Path) -> InputError:
    who = _holder(folder)
    by = f" (process {who['pid']} on {who['host']}, since {who['since']})" if who else ""
    advice = "wait for its end, stop it, or choose another"
    if who and who["host"] != socket.gethostname():
        advice += f"; if {who['host']} is down and nothing is at work there, delete {folder / LOCK}"
    return InputError(f"OUTPUT_PATH: another run of jind-nb is at work in {folder}{by}; {advice}.")


def refuse_if_in_use(folder: Path) -> None:
    """Raise if another run is at work in the folder.

    Raises
    ------
    InputError
        If a run that this process does not belong to is at work in the folder.

    Notes
    -----
    Notebooks run by hand call this and take no lock: a kernel in JupyterLab stays open for days after its last cell.
    """
    if os.environ.get(OURS) == str(folder) or not (folder / LOCK).exists():
        return
    lock = FileLock(folder / LOCK, fallback_to_soft=False)
    try:
        with locks_may_be_missing():
            lock.acquire(timeout=0)
    except Timeout:
        raise _in_use(folder) from None
    lock.release()
