"""How many threads linear algebra uses where that changes the last digits of a result."""

from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, TypeVar

from threadpoolctl import ThreadpoolController

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


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
