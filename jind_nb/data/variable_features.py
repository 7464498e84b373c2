"""The features that vary most, and their values: passes over all files' blocks, each brought to the one scale on the way.

Only the kept features of the cells that are used are ever held.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import sparse

from ..core.progress import bar
from .chunks import Block
from .layers import Loaded, per_block
from .recognise import Evidence
from .scale import bring


@dataclass(frozen=True)
class Pass:
    """What is done with each block of a file."""

    scale: Mapping[str, Any]
    evidence: list[Evidence]  # one of each kind of values that the file's batches are
    totals_over: np.ndarray | None  # columns that a cell's total is over, as `with_features`; None: all of the file
    wanted: tuple[np.ndarray, ...] = ()  # columns of these to keep, in several matrices; -1: a column of zeros


@dataclass(frozen=True)
class Part:
    """What is done with one block."""

    of: Pass
    kind: np.ndarray  # int8 (n,): which of the evidence each cell's values are
    batch: np.ndarray  # objects (n,), names
    used: np.ndarray  # bool (n,): cells to keep


@dataclass
class Moments:
    """What is known of each feature, over cells of any number of blocks."""

    cells: int
    mean: np.ndarray  # float64 (n_features,)
    variance: np.ndarray  # float64 (n_features,), of the population
    seen: dict[str, np.ndarray] = field(default_factory=dict)  # batch -> cells with a value that is not zero, int64

    def add(self, more: Moments) -> None:
        """Takes in other cells (Chan, Golub & LeVeque 1983: sums of squares would lose the digits that matter)."""
        n, apart = self.cells + more.cells, more.mean - self.mean
        if more.cells and n:
            spread = self.cells * self.variance + more.cells * more.variance
            self.variance = (spread + apart**2 * (self.cells * more.cells / n)) / n
            self.mean = self.mean + apart * (more.cells / n)
        for batch, cells in more.seen.items():
            self.seen[batch] = self.seen[batch] + cells if batch in self.seen else cells
        self.cells = n


def most_variable(variances: np.ndarray, n: int) -> np.ndarray:
    """Features of largest variance: indices (min(n, n_features),), largest first, the earlier feature on ties.

    In float32, so that it makes no difference in which blocks the cells were read.
    """
    return np.argsort(-variances.astype(np.float32), kind="stable")[:n]


def moments(
    loaded: list[Loaded], scale: Mapping[str, Any], batches: list[np.ndarray], totals_over: list[np.ndarray | None]
) -> Moments:
    """Mean and variance of each feature over all cells, on the one scale.

    Parameters
    ----------
    batches
        For each file, the batch of each cell, objects (n,).
    totals_over
        For each file, where the features are among its own (-1: nowhere); None: all of its features, as they come.
    """
    whole: Moments | None = None
    for one, batch, columns in zip(loaded, batches, totals_over, strict=True):
        for part in _each(one, _moments, Pass(scale, _kinds(one), columns), batch, np.ones(len(batch), dtype=bool)):
            if whole is None:
                whole = part
            else:
                whole.add(part)
    assert whole is not None  # a plan has cells
    return whole


def kept(
    loaded: list[Loaded],
    scale: Mapping[str, Any],
    used: list[np.ndarray],
    totals_over: list[np.ndarray | None],
    wanted: list[tuple[np.ndarray, ...]],
) -> list[sparse.csr_matrix]:
    """Some features of the cells that are used, on the one scale: float32, a matrix for each of `wanted`.

    Parameters
    ----------
    used
        For each file, which of its cells, bool (n,).
    totals_over
        As for `moments`.
    wanted
        For each file, the columns of each matrix among those that totals are over; -1: a column of zeros.
    """
    found: list[list[sparse.csr_matrix]] = [[] for _ in wanted[0]]
    for part in kept_in_blocks(loaded, scale, used, totals_over, wanted):
        for parts, matrix in zip(found, part, strict=True):
            parts.append(matrix)
    return [stacked(parts, len(columns)) for parts, columns in zip(found, wanted[0], strict=True)]


def kept_in_blocks(
    loaded: list[Loaded],
    scale: Mapping[str, Any],
    used: list[np.ndarray],
    totals_over: list[np.ndarray | None],
    wanted: list[tuple[np.ndarray, ...]],
) -> Iterator[list[sparse.csr_matrix]]:
    """`kept`, some rows after the others."""
    for one, cells, columns, here in zip(loaded, used, totals_over, wanted, strict=True):
        yield from _each(one, _kept, Pass(scale, _kinds(one), columns, here), cells, cells)


def _kinds(one: Loaded) -> list[Evidence]:
    """`bring` asks nothing of a batch but its kind, so batches of a kind are brought together."""
    return list({found.kind: found for found in one.evidence.values()}.values())


def _each(one: Loaded, function: Any, work: Pass, batch: np.ndarray, used: np.ndarray) -> Iterator[Any]:
    kinds = [found.kind for found in work.evidence]
    kind = np.zeros(len(one.cells), dtype=np.int8)
    for name, rows in one.rows.items():
        kind[rows] = kinds.index(one.evidence[name].kind)
    parts = [
        Part(work, *of_block) if of_block[2].any() else None
        for of_block in zip(per_block(one, kind), per_block(one, batch), per_block(one, used), strict=True)
    ]
    n = sum(part is not None for part in parts)
    yield from bar(one.blocks.each(function, parts), f"reading {one.file.name}", "block", n)


# --- one block -------------------------------------------------------------------------------------------------------


def _brought(matrix: sparse.csr_matrix, part: Part) -> sparse.csr_matrix:
    """The used cells on the one scale."""
    kind = part.kind
    if not part.used.all():
        matrix, kind = matrix[part.used], kind[part.used]
    if part.of.totals_over is not None:
        matrix = with_features(matrix, part.of.totals_over)
        matrix.sort_indices()  # so that a total does not depend on the file's order
    present = np.unique(kind)
    if len(present) == 1:
        return bring(matrix, part.of.evidence[present[0]], part.of.scale)
    rows = [np.flatnonzero(kind == k) for k in present]
    brought = [bring(matrix[of], part.of.evidence[k], part.of.scale) for k, of in zip(present, rows, strict=True)]
    return sparse.vstack(brought, format="csr")[np.argsort(np.concatenate(rows), kind="stable")]


def _moments(block: Block, part: Part) -> Moments:
    from sklearn.utils.sparsefuncs import mean_variance_axis

    matrix = _brought(block.matrix(), part)
    seen = {}
    for name in dict.fromkeys(part.batch):
        of_batch = matrix if (part.batch == name).all() else matrix[part.batch == name]
        seen[name] = np.bincount(of_batch.indices[of_batch.data != 0], minlength=matrix.shape[1])
    values = sparse.csr_matrix((matrix.data.astype(np.float64), matrix.indices, matrix.indptr), matrix.shape)
    mean, variance = mean_variance_axis(values, axis=0)
    return Moments(matrix.shape[0], mean, variance, seen)


def _kept(block: Block, part: Part) -> list[sparse.csr_matrix]:
    matrix = _brought(block.matrix(), part)
    return [with_features(matrix, columns) for columns in part.of.wanted]


def with_features(matrix: sparse.csr_matrix, columns: np.ndarray) -> sparse.csr_matrix:
    """The columns at the given positions, in that order; those at -1 are zero."""
    n = matrix.shape[1]
    padded = sparse.csr_matrix((matrix.data, matrix.indices, matrix.indptr), (matrix.shape[0], n + 1))
    return padded[:, np.where(columns < 0, n, columns)]


def stacked(parts: list[sparse.csr_matrix], n_columns: int) -> sparse.csr_matrix:
    """Matrices below each other; empties the list on the way, as two whole copies would double the memory."""
    lengths = np.concatenate([[0], *(np.diff(part.indptr) for part in parts)])
    indptr = np.cumsum(lengths, dtype=np.int64)
    data = np.concatenate([np.empty(0, dtype=np.float32), *(part.data for part in parts)])
    for part in parts:
        part.data = np.empty(0, dtype=np.float32)
    indices = np.concatenate([np.empty(0, dtype=np.int32), *(part.indices for part in parts)])
    parts.clear()
    return sparse.csr_matrix((data, indices, indptr), (len(lengths) - 1, n_columns))
