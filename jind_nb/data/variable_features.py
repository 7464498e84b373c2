"""The highly variable features and their values: passes over the blocks of all files, each on the common scale.

Only the selected features of the cells that are used are ever held in memory.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Self, TypeVar

import numpy as np
from scipy import sparse

from ..core.model_json import CommonScale
from ..core.progress import bar
from ..core.sparse_rows import mean_and_variance, select_columns
from .chunks import Block
from .layers import InputFile
from .recognise import Evidence
from .scale import Wanted, counts_in_cells, to_common_scale

Result = TypeVar("Result")


@dataclass
class NormalisedFiles:
    """Hold what turns the stored values of all files into values on the common scale."""

    files: list[InputFile]
    scale: CommonScale
    # For each file, where the features are among its own (-1: nowhere); None: all of its features, in its order.
    columns: list[np.ndarray | None]
    # Of a single file, which of its features count in a cell's total, bool (n_features,); None: all of `columns`.
    counted: np.ndarray | None = None


@dataclass(frozen=True)
class Part:
    """Hold how one block is read; a worker needs nothing else."""

    scale: CommonScale
    evidence: list[Evidence]  # one for each value type of the file's batches
    columns: np.ndarray | None  # of `NormalisedFiles`, for the block's file
    value_type: np.ndarray  # int8 (n,): position in `evidence` for each cell
    batch: np.ndarray  # objects (n,), names
    used: np.ndarray  # bool (n,): cells to read
    wanted: tuple[np.ndarray, ...]  # positions of the features of each matrix to return; -1: a column of zeros
    volumes: np.ndarray | None = None  # float64 (n,), of the cells; None where the file has none
    types: np.ndarray | None = None  # objects (n,), names; None where nobody asks
    counted: np.ndarray | None = None  # of `NormalisedFiles`


@dataclass
class MeanVariance:
    """Hold mean and variance of each feature over any number of cells."""

    cells: int
    mean: np.ndarray  # float64 (n_features,)
    variance: np.ndarray  # float64 (n_features,), of the population
    seen: dict[str, np.ndarray] = field(default_factory=dict)  # batch -> cells with a value that is not zero, int64
    seen_of_types: dict[str, np.ndarray] = field(default_factory=dict)  # the same of cell types
    counts: dict[str, np.ndarray] = field(default_factory=dict)  # batch -> `counts_in_cells`, in no order

    def add(self, more: Self) -> None:
        """Add other cells (Chan, Golub & LeVeque 1983: sums of squares would lose the digits that matter)."""
        n, apart = self.cells + more.cells, more.mean - self.mean
        if more.cells and n:
            spread = self.cells * self.variance + more.cells * more.variance
            self.variance = (spread + apart**2 * (self.cells * more.cells / n)) / n
            self.mean = self.mean + apart * (more.cells / n)
        for own, theirs in ((self.seen, more.seen), (self.seen_of_types, more.seen_of_types)):
            for name, cells in theirs.items():
                own[name] = own[name] + cells if name in own else cells
        for name, counts in more.counts.items():
            self.counts[name] = np.concatenate([self.counts[name], counts]) if name in self.counts else counts
        self.cells = n


def highly_variable(variances: np.ndarray, n: int) -> np.ndarray:
    """Return the features of largest variance: indices (min(n, n_features),), largest first, the earlier one on ties.

    Notes
    -----
    Compared in float32, so that it makes no difference in which blocks the cells were read.
    """
    return np.argsort(-variances.astype(np.float32), kind="stable")[:n]


def mean_variance(values: NormalisedFiles, batch: np.ndarray, types: np.ndarray | None = None) -> MeanVariance:
    """Return mean and variance of each feature over all cells, on the common scale.

    Parameters
    ----------
    batch, types
        The batch and the cell type of each cell of all files, objects (n,); `""` for a cell whose type does not count.
    """
    parts = _each_block(values, _block_mean_variance, batch, np.ones(len(batch), dtype=bool), types=types)
    whole = next(parts)
    for part in parts:
        whole.add(part)
    return whole


def read_features(values: NormalisedFiles, used: np.ndarray, wanted: tuple[np.ndarray, ...]) -> list[sparse.csr_matrix]:
    """Return some features of some cells on the common scale: float32, a matrix for each of `wanted`.

    Parameters
    ----------
    used
        Which cells of all files, bool (n,).
    wanted
        Positions of the features of each matrix; -1: a column of zeros.
    """
    found: list[list[sparse.csr_matrix]] = [[] for _ in wanted]
    for block in read_features_in_blocks(values, used, wanted):
        for parts, matrix in zip(found, block, strict=True):
            parts.append(matrix)
    return [stack_rows(parts, len(columns)) for parts, columns in zip(found, wanted, strict=True)]


def read_features_in_blocks(
    values: NormalisedFiles, used: np.ndarray, wanted: tuple[np.ndarray, ...]
) -> Iterator[list[sparse.csr_matrix]]:
    """Yield what `read_features` returns, block by block."""
    return _each_block(values, _block_features, used, used, wanted)


def _each_block(
    values: NormalisedFiles,
    function: Callable[[Block, Part], Result],
    batch: np.ndarray,
    used: np.ndarray,
    wanted: tuple[np.ndarray, ...] = (),
    types: np.ndarray | None = None,
) -> Iterator[Result]:
    ends = np.cumsum([len(file.cells) for file in values.files])
    for file, columns, end in zip(values.files, values.columns, ends, strict=True):
        here = slice(end - len(file.cells), end)
        of_file = replace(values, files=[file], columns=[columns])
        parts = parts_of(of_file, batch[here], used[here], wanted, None if types is None else types[here])
        n = sum(part is not None for part in parts)
        yield from bar(file.blocks.each(function, parts), f"reading {file.path.name}", "block", n)


def parts_of(
    values: NormalisedFiles,
    batch: np.ndarray,
    used: np.ndarray,
    wanted: tuple[np.ndarray, ...],
    types: np.ndarray | None = None,
) -> list[Part | None]:
    """Return how each block of the only file is read; None for one without used cells."""
    (file,), (columns,) = values.files, values.columns
    # Batches of one value type are brought to the common scale in the same way.
    evidence = {of_batch.value_type: of_batch for of_batch in file.evidence.values()}
    value_type = np.zeros(len(file.cells), dtype=np.int8)
    for name, rows in file.rows.items():
        value_type[rows] = list(evidence).index(file.evidence[name].value_type)
    volumes = [None] * len(file.blocks.blocks) if file.volumes is None else file.by_block(file.volumes)
    of_types = [None] * len(file.blocks.blocks) if types is None else file.by_block(types)
    of_cells = map(file.by_block, (value_type, batch, used))
    return [
        Part(
            values.scale,
            list(evidence.values()),
            columns,
            kinds,
            batches,
            cells,
            wanted,
            volume,
            of_block,
            values.counted,
        )
        if cells.any()
        else None
        for kinds, batches, cells, volume, of_block in zip(*of_cells, volumes, of_types, strict=True)
    ]


# --- one block -------------------------------------------------------------------------------------------------------


def _used_values(matrix: sparse.csr_matrix, part: Part) -> tuple[sparse.csr_matrix, Part]:
    """Return a block's stored values of the used cells, in the features of `part.columns` that the file has, and the same part of
    these cells alone."""
    if not part.used.all():
        volumes = None if part.volumes is None else part.volumes[part.used]
        matrix, part = matrix[part.used], replace(part, value_type=part.value_type[part.used], volumes=volumes)
    if part.columns is not None:
        matrix = select_columns(matrix, part.columns[part.columns >= 0])  # in one order, so that totals are alike
    return matrix, part


def _on_common_scale(matrix: sparse.csr_matrix, part: Part, wanted: np.ndarray | None = None) -> sparse.csr_matrix:
    """Return features, all or those at the positions `wanted`, of `_used_values` on the common scale."""
    columns = wanted
    if part.columns is not None and (part.columns < 0).any():
        # A feature that the file lacks is zero, on whatever scale: it has no part in a cell's mean.
        there = np.where(part.columns < 0, -1, np.cumsum(part.columns >= 0) - 1)
        columns = there if wanted is None else np.where(wanted < 0, -1, there[wanted])
    present = np.unique(part.value_type)
    rows = [np.flatnonzero(part.value_type == i) for i in present]
    parts = [
        to_common_scale(
            matrix if len(present) == 1 else matrix[r],
            part.evidence[i],
            part.scale,
            None if part.volumes is None else part.volumes[r],
            Wanted(columns, part.counted),
        )
        for i, r in zip(present, rows, strict=True)
    ]
    if len(parts) > 1:
        return sparse.vstack(parts, format="csr")[np.argsort(np.concatenate(rows), kind="stable")]
    return parts[0] if parts else matrix if columns is None else select_columns(matrix, columns)


def _block_mean_variance(block: Block, part: Part) -> MeanVariance:
    stored, part_of_used = _used_values(block.matrix(), part)
    matrix = as_stored = _on_common_scale(stored, part_of_used)
    if part.scale.values == "clr":  # where zero is a value like any other
        as_they_are = replace(part.scale, values="as they are")
        as_stored = _on_common_scale(stored, replace(part_of_used, scale=as_they_are))
    seen = _seen(as_stored, part.batch)
    of_types = {} if part.types is None else _seen(as_stored, part.types)
    return MeanVariance(matrix.shape[0], *mean_and_variance(matrix), seen, of_types, _counts(stored, part_of_used))


def _counts(stored: sparse.csr_matrix, part: Part) -> dict[str, np.ndarray]:
    """Return how many counts the cells of each batch hold; nothing where no logarithms are taken."""
    if part.scale.values != "log1p":
        return {}
    counts = np.empty(stored.shape[0])
    for i in np.unique(part.value_type):
        of_type = part.value_type == i
        rows = stored if of_type.all() else stored[of_type]
        counts[of_type] = counts_in_cells(rows, part.evidence[i], part.scale)
    return {name: counts[part.batch == name] for name in dict.fromkeys(part.batch)}


def _seen(matrix: sparse.csr_matrix, names: np.ndarray) -> dict[str, np.ndarray]:
    """Return how many of the cells of each name, objects (n,), have a value of each feature that is not zero."""
    seen = {}
    for name in dict.fromkeys(names):
        of_name = matrix[names == name]
        seen[name] = np.bincount(of_name.indices[of_name.data != 0], minlength=matrix.shape[1])
    return seen


def _block_features(block: Block, part: Part) -> list[sparse.csr_matrix]:
    return block_features(block.matrix(), part)


def block_features(matrix: sparse.csr_matrix, part: Part) -> list[sparse.csr_matrix]:
    """Return the wanted features of a block's used cells on the common scale, given `Block.matrix`."""
    stored, part = _used_values(matrix, part)
    return [_on_common_scale(stored, part, columns) for columns in part.wanted]


def stack_rows(parts: list[sparse.csr_matrix], n_columns: int) -> sparse.csr_matrix:
    """Return the matrices below each other; empty the list meanwhile, since two whole copies would double the memory."""
    lengths = np.concatenate([[0], *(np.diff(part.indptr) for part in parts)])
    indptr = np.cumsum(lengths, dtype=np.int64)
    data = np.concatenate([np.empty(0, dtype=np.float32), *(part.data for part in parts)])
    for part in parts:
        part.data = np.empty(0, dtype=np.float32)
    indices = np.concatenate([np.empty(0, dtype=np.int32), *(part.indices for part in parts)])
    parts.clear()
    return sparse.csr_matrix((data, indices, indptr), (len(lengths) - 1, n_columns))
