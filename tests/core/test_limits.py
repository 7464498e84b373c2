"""Limits of the shell and the system: one sentence each that names the limit."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path
from types import SimpleNamespace

import pytest

from jind_nb.core import limits
from jind_nb.core.files import whole_file, why_not_written
from jind_nb.core.limits import check_limits, is_out_of_memory, memory_limit
from jind_nb.errors import InputError


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> dict[int, tuple[int, int]]:
    """Limits that the test sets: nothing of this process is limited."""
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    found: dict[int, tuple[int, int]] = {}
    monkeypatch.setattr(limits.resource, "getrlimit", lambda kind: found.get(kind, unlimited))
    monkeypatch.setattr(limits.resource, "setrlimit", found.__setitem__)
    return found


@pytest.mark.parametrize("value", ["0", "-1", "two", "", "1.5", "2,0"])
def test_a_number_of_threads_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Lost otherwise: an hour, to a line of a library in the middle of a traceback."""
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    with pytest.raises(InputError, match=r"^OMP_NUM_THREADS: found"):
        check_limits()


@pytest.mark.parametrize("value", ["1", " 8 ", "4,2", "016"])
def test_a_number_of_threads_is_taken(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    check_limits()


def test_python_without_texts_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost otherwise: an hour, to "'NoneType' object has no attribute 'find'" from a library."""
    monkeypatch.setattr(limits.sys, "flags", SimpleNamespace(optimize=2))
    with pytest.raises(InputError, match=r"^PYTHONOPTIMIZE: found 2"):
        check_limits()


def test_too_few_open_files_are_told_and_more_are_taken(limited: dict[int, tuple[int, int]]) -> None:
    """Lost otherwise: the run, in its middle, to "Too many open files"."""
    limited[resource.RLIMIT_NOFILE] = (64, 64)
    with pytest.raises(InputError, match=r"^ulimit -n: a process may open 64 files"):
        check_limits()
    limited[resource.RLIMIT_NOFILE] = (64, 10_000)
    check_limits()
    assert limited[resource.RLIMIT_NOFILE] == (4096, 10_000)


def test_too_little_address_space_is_told(limited: dict[int, tuple[int, int]]) -> None:
    """Lost otherwise: the reason, to a shared object that "cannot be mapped"."""
    limited[resource.RLIMIT_AS] = (10**9, 10**9)
    with pytest.raises(InputError, match=r"^ulimit -v: a process may have 1\.0 GB"):
        check_limits()


def test_a_removed_working_directory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost otherwise: the reason, to a FileNotFoundError that names no file."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    here.rmdir()
    with pytest.raises(InputError, match="working directory was removed"):
        check_limits()


def test_the_lowest_limit_of_memory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost otherwise: an hour of looking for memory that the machine has and the job may not use."""
    assert memory_limit().startswith("this machine has") or "control group" in memory_limit()
    monkeypatch.setattr(limits, "_limit_of_group", lambda: 2 * 10**9)
    assert memory_limit() == "the control group of this process (a container or a job) allows 2.0 GB"


def test_a_control_groups_limit_is_that_of_the_lowest_above_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost otherwise: the same, where the batch system limits the job and not its steps."""
    process = Path("/proc/self/cgroup").read_text().strip().splitlines()
    if not any(line.startswith("0::") for line in process):
        pytest.skip("no control groups of version 2")
    path = next(line for line in process if line.startswith("0::")).split(":", 2)[2]
    step = tmp_path / path.lstrip("/") / "."
    step.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(limits, "CGROUPS", tmp_path)
    (tmp_path / "memory.max").write_text("5000000\n")
    assert limits._limit_of_group() == 5_000_000
    (step / "memory.max").write_text("max\n" if step.resolve() != tmp_path.resolve() else "5000000\n")
    assert limits._limit_of_group() == 5_000_000


@pytest.mark.parametrize(
    ("kind", "message", "is_memory"),
    [
        ("MemoryError", "", True), ("_ArrayMemoryError", "Unable to allocate 3 GiB", True),
        ("OSError", "[Errno 12] Cannot allocate memory", True), ("ValueError", "memory of elephants", False),
    ],
)  # fmt: skip
def test_errors_that_mean_no_memory(kind: str, message: str, is_memory: bool) -> None:
    assert is_out_of_memory(kind, message) == is_memory


def test_a_file_that_may_not_be_so_large_is_not_called_a_full_disk(
    tmp_path: Path, limited: dict[int, tuple[int, int]]
) -> None:
    """Lost otherwise: an afternoon of deleting files."""
    limited[resource.RLIMIT_FSIZE] = (100_000, 100_000)

    def write() -> None:
        with whole_file(tmp_path / "x.h5ad") as temporary:
            temporary.write_bytes(bytes(100_000))
            raise RuntimeError("a library's own words")

    with pytest.raises(OSError, match="too large") as error:
        write()
    assert (error.value.errno, list(tmp_path.iterdir())) == (errno.EFBIG, [])
    assert why_not_written(error.value) == "The limit of a file's size of 0.1 MB (ulimit -f) is reached"
    assert why_not_written(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) == "The disk is full"
