"""Threads: how many linear algebra uses where that changes the last digits of a result, and work on one thing after the other."""

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache, wraps
from typing import ParamSpec, TypeVar

from threadpoolctl import ThreadpoolController

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Thing = TypeVar("Thing")

LOWER = 10  # niceness: a tenth of the weight of other threads

AT_ONCE = 2  # things at work, so that memory holds no more than these and as many more


@cache  # looking for the libraries takes milliseconds; numpy's and scipy's are there before the first call
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def one_blas_thread(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let a function's products of numpy and scipy use one thread: how they are shared among threads changes how they are
    rounded, and on a busy machine threads that wait for each other take several times longer.

    torch is not meant: `jind_nb.__init__` asks its library to round alike on any number of threads.
    """

    @wraps(function)
    def limited(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with _libraries().limit(limits=1, user_api="blas"):
            return function(*args, **kwargs)

    return limited


def lower_priority() -> None:
    """Let all other threads go before this one, those of other processes too, where the system allows it: it then works where a core
    has nothing else to do, or a tenth of the time of one that has."""
    if sys.platform == "linux":  # elsewhere a priority is a process's
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + LOWER)


def map_ahead(function: Callable[[Thing], Result], things: Iterable[Thing]) -> Iterator[Result]:
    """Yield what a function gives for each thing, in order; two are at work at a time, in threads.

    >>> list(map_ahead(abs, [-1, -2, -3]))
    [1, 2, 3]
    """
    ahead = deque[Future[Result]]()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for thing in things:
            ahead.append(threads.submit(function, thing))
            if len(ahead) > AT_ONCE:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
