"""The lock of a run's folder, where another machine holds it."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from filelock import FileLock

from jind_nb.core.locks import LOCK, held
from jind_nb.errors import InputError


@pytest.mark.parametrize("host", ["node7", ""])
def test_a_lock_of_another_machine_says_what_to_do_if_that_is_down(tmp_path: Path, host: str) -> None:
    """Lost otherwise: the folder, for good, on a network disk that keeps the lock of a machine that crashed."""
    lock = FileLock(tmp_path / LOCK)
    with lock:
        who = {"pid": 1, "host": host or socket.gethostname(), "since": "2026-01-01 00:00:00"}
        (tmp_path / LOCK).write_text(json.dumps(who))
        with pytest.raises(InputError, match="at work in") as error, held(tmp_path):
            pass
        assert (f"delete {tmp_path / LOCK}" in str(error.value)) == bool(host)
        if host:
            (tmp_path / LOCK).unlink()
            with held(tmp_path) as hold:
                assert hold.is_valid()
