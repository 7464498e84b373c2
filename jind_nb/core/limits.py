"""Limits that the system or the user's shell sets to a process: checked before work begins, and named when one is reached."""

import os
import re
import resource
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from ..errors import InputError

# A run has three kernels with six sockets each, log files and data open.
OPEN_FILES, ENOUGH_OPEN_FILES = 200, 4096

# Bytes: below, Python with PyTorch and its threads does not even start; and no model or table fits into a file.
ADDRESS_SPACE, FILE_SIZE = 2_000_000_000, 20_000_000

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")

NO_TEXTS = 2  # of Python's optimisation: texts that describe functions are left out

CGROUPS = Path("/sys/fs/cgroup")


def check_limits() -> None:
    """Check that this process may do what a run does; the limit of open files is raised as far as allowed.

    Raises
    ------
    InputError
        If the working directory is gone, a number of threads is none, Python leaves out what libraries need, or a limit of the
        shell is too low.
    """
    try:
        Path.cwd()
    except FileNotFoundError:
        raise InputError("The working directory was removed or made again: go to a folder that exists (cd).") from None
    if sys.flags.optimize >= NO_TEXTS:
        raise InputError("PYTHONOPTIMIZE: found 2 (python -OO), with which libraries in use do not start; unset it.")
    for name in THREADS:
        value = os.environ.get(name, "1")
        if not re.fullmatch(r"\s*0*[1-9]\d*\s*(,\s*0*[1-9]\d*\s*)*", value):
            raise InputError(f"{name}: found {value!r}; it must be a whole number from 1 on. Set it so, or unset it.")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < ENOUGH_OPEN_FILES:
        most = ENOUGH_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, ENOUGH_OPEN_FILES)
        if most < OPEN_FILES:
            raise InputError(
                f"ulimit -n: a process may open {most} files at once here; jind-nb needs {OPEN_FILES}. Raise it "
                f"(ulimit -n {ENOUGH_OPEN_FILES}, or ask who runs the machine)."
            )
        with suppress(OSError, ValueError):  # some systems have a lower limit of their own
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    address_space = _limit(resource.RLIMIT_AS)
    if address_space is not None and address_space < ADDRESS_SPACE:
        raise InputError(
            f"ulimit -v: a process may have {address_space / 1e9:,.1f} GB of memory here; jind-nb needs at least "
            f"{ADDRESS_SPACE / 1e9:.0f} GB, mostly more. Raise it (ulimit -v unlimited, or ask who runs the machine)."
        )


def file_size_limit() -> int | None:
    """Return how many bytes a file may have (`ulimit -f`), None if there is no limit."""
    return _limit(resource.RLIMIT_FSIZE)


def _limit(kind: int) -> int | None:
    soft, _ = resource.getrlimit(kind)
    return None if soft == resource.RLIM_INFINITY else soft


def memory_limit() -> str:
    """Return the lowest limit of this process's memory in words: of the shell, of its control group, or of the machine."""
    words, _ = min(_memory_limits().items(), key=lambda limit: limit[1])
    return words


def lowest_memory_limit() -> int:
    """Return how many bytes of memory this process may have at most."""
    return min(_memory_limits().values())


def why_killed() -> str:
    """Return why this process, or one that it started, was killed from outside, as far as one can know, and what to do."""
    return f"most often because memory ran out: {memory_limit()}. Give it more, or use less data"


def _memory_limits() -> dict[str, int]:
    machine = psutil.virtual_memory().total
    limits = {f"this machine has {machine / 1e9:,.1f} GB": machine}
    if (address_space := _limit(resource.RLIMIT_AS)) is not None:
        limits[f"ulimit -v allows {address_space / 1e9:,.1f} GB"] = address_space
    if (group := _limit_of_group()) is not None:
        limits[f"the control group of this process (a container or a job) allows {group / 1e9:,.1f} GB"] = group
    return limits


def _limit_of_group() -> int | None:
    """Return the memory limit of this process's control group, version 2 or 1, and of those above it."""
    found = []
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text("utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            home, name = (CGROUPS, "memory.max") if not controllers else (CGROUPS / "memory", "memory.limit_in_bytes")
            if controllers and "memory" not in controllers.split(","):
                continue
            here = home / path.lstrip("/")
            for folder in (here, *here.parents):
                with suppress(OSError, ValueError):
                    found.append(int((folder / name).read_text("utf-8")))
                if folder == home:
                    break
    return min(found, default=None)


def is_out_of_memory(kind: str, message: str) -> bool:
    """Return whether an error, by its class's name and its message, means that there was no memory left.

    >>> is_out_of_memory("RuntimeError", "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ...")
    True
    """
    return kind in ("MemoryError", "_ArrayMemoryError") or bool(
        re.search(r"can't allocate memory|Cannot allocate memory|\[Errno 12\]|std::bad_alloc", message)
    )
