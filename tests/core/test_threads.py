"""Threads that let others go first."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from jind_nb.core.threads import LOWER, lower_priority


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a priority is a process's")
def test_only_the_thread_that_asks_for_it_has_a_lower_priority() -> None:
    """A process that copies a file would otherwise compute more slowly from then on: a priority cannot be raised again."""

    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = niceness()
    with ThreadPoolExecutor(1, initializer=lower_priority) as aside, ThreadPoolExecutor(1) as other:
        assert aside.submit(niceness).result() == min(19, before + LOWER)
        assert other.submit(niceness).result() == before
    assert niceness() == before
