"""Functions of plain loops, compiled by numba when they are first called."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def compiled(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let numba compile a function at its first call, keep the result on disk, and release the interpreter while it runs.

    Its additions are in the order in which they are written, so that a cell's numbers do not depend on the cells beside it.

    >>> @compiled
    ... def total(values):
    ...     total = 0.0
    ...     for value in values:
    ...         total += value
    ...     return total
    """

    @cache
    def machine_code() -> Callable[Arguments, Result]:
        from numba import njit  # 0.3 s, for which commands that read no values need not wait

        try:
            of_function: Callable[Arguments, Result] = njit(function, cache=True, nogil=True)
        except RuntimeError:  # no folder where it could be kept
            of_function = njit(function, nogil=True)
        return of_function

    @wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        return machine_code()(*args, **kwargs)

    return call
