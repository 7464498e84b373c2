"""The answers for many cells, some cells at a time, on as many cores as torch may use."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Result = TypeVar("Result")


def in_blocks(of_rows: Callable[[slice], Result], n: int, cells_at_once: int) -> list[Result]:
    """Return what a function gives for the rows 0 to n - 1, some at a time, in their order; of no rows, for an empty block.

    Each block is computed by one thread: so products are not shared among threads, which do not wait for each other then.

    >>> in_blocks(lambda rows: list(range(10))[rows], 10, 4)
    [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    """
    blocks = [slice(start, min(n, start + cells_at_once)) for start in range(0, max(1, n), cells_at_once)]
    threads = torch.get_num_threads()
    if len(blocks) == 1 or threads == 1:
        return list(map(of_rows, blocks))
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as workers:
            return list(workers.map(of_rows, blocks))
    finally:
        torch.set_num_threads(threads)
