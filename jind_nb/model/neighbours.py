"""The one search for the nearest cells: exact, by cosine of their latents.

1. Latents of length one are rounded to whole numbers from -127 to 127, which most processors multiply four times as fast. How
   much each of them changes is measured, and so how far a cosine of whole numbers can be from the true one: by about 0.03.
2. Cells that could be among the nearest by that, some twenty of 10,000, are compared by all their digits.
So the answer is that of comparing all cells, with whatever numbers the first step was done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core._compat import multiplies_whole_numbers, product_of_whole_numbers
from ..core.compiled import compiled
from ..core.subsample import subsample
from .in_blocks import in_blocks

MOST_CELLS = 10_000  # of a batch, that its cells' neighbours are looked for among
NEIGHBOURS, FEWEST_NEIGHBOURS = 16, 5  # a cell itself and its 15 nearest; where they are looked for in a subsample
CELLS_A_NEIGHBOUR = 4  # of fewer than 64 cells accordingly fewer are asked

CELLS_AT_ONCE = 512  # that a thread looks for neighbours of
PRODUCTS_AT_ONCE = 128  # of these: with 10,000 cells they take 5 MB
TOGETHER = 16  # products of which only the largest is looked at, at first
TINY = 1e-12
LARGEST = 127  # of whole numbers of eight bits
ROUNDING = 1e-5  # more than a cosine of float32 changes by rounding


@dataclass(frozen=True)
class Neighbours:
    """The cells of a batch that are nearest to each of its cells, by cosine of their latents."""

    among: np.ndarray  # int (m,), ascending: the cells that they were looked for among, all or a subsample
    positions: np.ndarray  # int64 (n, k), in `among`: the most alike first, a cell itself among them
    cosines: np.ndarray  # float32 (n, k)

    @classmethod
    def of(cls, latent: np.ndarray, columns: np.ndarray, seed: int) -> Neighbours:
        """Look for each cell's 16 nearest, itself among them, by some columns, int (c,), of latents float (n, d). Of more than 10,000
        cells a subsample is asked, and accordingly fewer neighbours, at least five; of fewer than 64 cells a fourth."""
        n = len(latent)
        if not n:  # there may be no held-out cells
            return cls(np.zeros(0, np.int64), np.zeros((0, 1), np.int64), np.zeros((0, 1), np.float32))
        among = subsample(n, MOST_CELLS, seed)
        k = max(FEWEST_NEIGHBOURS, round(NEIGHBOURS * len(among) / n))
        others = latent[among][:, columns]
        return cls(among, *nearest(latent, others, min(k, max(1, n // CELLS_A_NEIGHBOUR)), columns))


def nearest(
    latent: np.ndarray, others: np.ndarray, k: int, columns: np.ndarray | slice = slice(None)
) -> tuple[np.ndarray, np.ndarray]:
    """Find for each cell the k other cells whose latents are most alike by cosine, or all if there are fewer.

    Parameters
    ----------
    latent, others
        Float (n, d) and (m, c).
    columns
        Those of `latent` that `others` has; by default all.

    Returns
    -------
    Their positions int64 (n, k), the most alike first, the first of equals first, and their cosines float32 (n, k).

    Notes
    -----
    Several times faster than scikit-learn's exact search, which partitions float64 distances.

    >>> nearest(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0], [2.0, 0.0]]), k=1)
    (array([[1]]), array([[1.]], dtype=float32))
    """
    k = min(k, len(others))
    theirs = _of_length_one(others)
    products_with = _products_of_whole_numbers(theirs) if multiplies_whole_numbers() else _products(theirs)

    def of_rows(rows: slice) -> tuple[np.ndarray, np.ndarray]:
        own = _of_length_one(latent[rows][:, columns])
        products_of, step, error = products_with(own)
        positions, cosines = np.zeros((len(own), k), dtype=np.int64), np.empty((len(own), k), dtype=np.float32)
        for start in range(0, len(own), PRODUCTS_AT_ONCE):
            some = slice(start, start + PRODUCTS_AT_ONCE)
            of_cells = step[some].numpy(), error[some].numpy(), own[some].numpy()
            _choose(products_of(some).numpy(), *of_cells, theirs.numpy(), positions[some], cosines[some])
        return positions, cosines

    blocks = in_blocks(of_rows, len(latent), CELLS_AT_ONCE)
    positions, cosines = (np.concatenate(of_blocks) for of_blocks in zip(*blocks, strict=True))
    return positions, cosines


def _of_length_one(latent: np.ndarray) -> Tensor:
    of_length_one = F.normalize(torch.from_numpy(latent.astype(np.float32)), eps=TINY)
    # numpy leaves chosen columns one after the other in memory, where the numbers of a cell lie far from each other.
    return of_length_one.contiguous()


# What gives, for latents of length one (n, d): what gives for some of these cells their cosines with all others in steps, int32 or
# float32 (s, m); the size of each cell's step, and how far from the true ones its cosines may be, float32 (n,) each.
ProductsWith = Callable[[Tensor], tuple[Callable[[slice], Tensor], Tensor, Tensor]]


def _products_of_whole_numbers(theirs: Tensor) -> ProductsWith:
    """Multiply whole numbers, in the smallest steps that suffice for a cell, and for the others."""
    their_step = theirs.abs().max().clamp_min(TINY) / LARGEST
    their_numbers, their_change = _as_whole_numbers(theirs, their_step)

    def products_with(own: Tensor) -> tuple[Callable[[slice], Tensor], Tensor, Tensor]:
        step = own.abs().amax(dim=1, keepdim=True).clamp_min(TINY) / LARGEST
        numbers, change = _as_whole_numbers(own, step)
        # The inequality of Cauchy and Schwarz, for the change of either side.
        error = change + (1 + change) * their_change.max() + ROUNDING
        return (
            lambda some: product_of_whole_numbers(numbers[some], their_numbers.T),
            step[:, 0] * their_step,
            error,
        )

    return products_with


def _as_whole_numbers(latent: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Return latents (n, d) in steps, int8, and the length of what is lost by it, float32 (n,)."""
    numbers = (latent / step).round()
    return numbers.to(torch.int8), (latent - numbers * step).norm(dim=1)


def _products(theirs: Tensor) -> ProductsWith:
    """Multiply all digits, where the processor is no faster with whole numbers."""

    def products_with(own: Tensor) -> tuple[Callable[[slice], Tensor], Tensor, Tensor]:
        return lambda some: own[some] @ theirs.T, torch.ones(len(own)), torch.full((len(own),), ROUNDING)

    return products_with


@compiled
def _choose(products, steps, errors, own, theirs, positions, largest):  # type: ignore[no-untyped-def]
    """Find the k largest cosines of each cell, the first of equals first, and their positions: both (n, k), written to.

    Of each 16 products the largest is found first. Products above the k-th of these are compared by all digits, and then those that
    could still be of a larger cosine than the k-th so far.
    """
    k, m = largest.shape[1], products.shape[1]
    n = (m + TOGETHER - 1) // TOGETHER
    most, top, kept = np.empty(n, products.dtype), np.empty(k, products.dtype), np.empty(n, np.int64)
    close = np.empty(m + 1, np.int64)
    for i in range(products.shape[0]):
        row, mine, of_row, at = products[i], own[i], largest[i], positions[i]
        most[:] = row[:n]
        for start in range(n, m, n):  # products that are n apart are together, so that n of them are compared at once
            some = row[start : start + n]
            for j in range(len(some)):
                most[j] = max(most[j], some[j])
        top[:] = most.min()
        for j in range(n):
            if most[j] > top[k - 1]:
                place = k - 1
                while place > 0 and most[j] > top[place - 1]:
                    top[place] = top[place - 1]
                    place -= 1
                top[place] = most[j]
        of_row[:] = -np.inf
        least, done = np.float64(top[k - 1]), np.inf
        for _ in range(2):
            n_kept = 0
            for j in range(n):
                kept[n_kept] = j
                n_kept += most[j] >= least
            n_close = 0  # they are written down first, since the processor cannot foresee which they are
            for start in range(0, m, n):
                for at_kept in range(n_kept):
                    j = start + kept[at_kept]
                    if j >= m:
                        break
                    close[n_close] = j
                    n_close += (row[j] >= least) & (row[j] < done)
            for at_close in range(n_close):
                j = close[at_close]
                other, fours = theirs[j], len(mine) - len(mine) % 4
                a = b = c = d = np.float32(0)  # four sums, none of which waits for another
                for f in range(0, fours, 4):
                    a += mine[f] * other[f]
                    b += mine[f + 1] * other[f + 1]
                    c += mine[f + 2] * other[f + 2]
                    d += mine[f + 3] * other[f + 3]
                for f in range(fours, len(mine)):
                    a += mine[f] * other[f]
                cosine, place = (a + b) + (c + d), k
                while place > 0 and (cosine > of_row[place - 1] or (cosine == of_row[place - 1] and j < at[place - 1])):
                    place -= 1
                    if place < k - 1:
                        of_row[place + 1], at[place + 1] = of_row[place], at[place]
                if place < k:
                    of_row[place], at[place] = cosine, j
            least, done = (np.float64(of_row[k - 1]) - errors[i]) / steps[i], least
