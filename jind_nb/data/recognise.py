"""What stored values are (counts, a linear scale, logarithms, z-scores), and bringing them to one scale.

evidence = {batch: recognise(block) for batch, block in blocks.items()}
scale = agree(evidence, "auto")                             # one scale for all, or InputError
matrix = bring(block, evidence[batch], scale)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy import sparse

# Cells looked at where cells are compared with each other; more would tell nothing new.
CELLS_LOOKED_AT = 1_000

# Logarithms of expression stay below this (log2 of the largest 32-bit count is 32); linear scales exceed it.
LARGEST_LOG_VALUE = 40.0

# No usual linear scale gives a cell more than a million (TPM, CPM); reads can, and those are whole numbers.
LARGEST_TOTAL = 1.5e6

# A logarithm of a normalised value is a whole number by chance only; expected counts often are.
WHOLE_IN_LOGARITHMS = 0.05

WHOLE_IN_COUNTS = 0.99

# Totals of a normalised cell differ by rounding, or a little where rare features were dropped afterwards.
EQUAL_TOTALS, NEARLY_EQUAL_TOTALS = 0.002, 0.03

ENOUGH_CELLS = 20  # for nearly equal totals to be no chance

LOGARITHMS = {"log1p": 1.0, "log2": float(np.log(2)), "log10": float(np.log(10))}  # kind -> natural log of its base

FORMULAS = {"linear": "x", "log1p": "exp(x) - 1", "log2": "2^x - 1", "log10": "10^x - 1"}

# What is known of each cell's stored values once a block has been read.
FACTS = np.dtype(
    [("stored", "i8"), ("whole", "i8"), ("total", "f8"), ("squares", "f8"), ("smallest", "f4"), ("largest", "f4")]
)

NEGATIVE = ("z-scored", "centred", "negative counts")

LINEAR = ("counts", "linear")


@dataclass(frozen=True)
class Evidence:
    """What one batch's values look like, and why.

    `kind` is `counts`, `linear` (TPM, RPKM, counts per 10,000, expected counts), `log1p`, `log2` or `log10` (the
    logarithm of 1 + x to that base), `z-scored`, `centred`, `negative counts` or `unknown`.
    """

    kind: str
    because: str
    smallest: float  # of the stored (non-zero) values
    largest: float
    whole: float  # share of the stored values that are whole numbers
    stored: float  # share of all values that are not zero
    mean: float  # over all values, zeros too
    sd: float
    total: float | None = None  # what every cell comes to on the linear scale; None where cells differ
    median_total: float = 0.0  # of a cell, on the linear scale
    clear: bool = True  # False: a logarithm whose base nothing tells
    medians: Mapping[str, float] = field(default_factory=dict)  # then, of a cell's total by kind of logarithm

    @property
    def linear(self) -> bool:
        return self.kind in LINEAR

    @property
    def logarithm(self) -> bool:
        return self.kind in LOGARITHMS


def recognise(matrix: sparse.csr_matrix) -> Evidence:
    """What one batch's values look like; the order of cells and features does not matter up to 1,000 cells.

    Parameters
    ----------
    matrix
        Floats (n_cells x n_features), all features of the file, no stored zeros.

    >>> recognise(sparse.csr_matrix([[1.0, 7.0], [0.0, 3.0]])).kind, recognise(sparse.csr_matrix([[0.7, 900.0]])).kind
    ('counts', 'linear')
    """
    return recognise_cells(facts_of(matrix), matrix[cells_looked_at(matrix.shape[0])])


def cells_looked_at(n: int, most: int = CELLS_LOOKED_AT) -> np.ndarray:
    """Which of a batch's n cells are compared with each other: int, ascending, evenly over the batch."""
    return np.arange(n) if n <= most else np.linspace(0, n - 1, most).astype(int)


def facts_of(matrix: sparse.csr_matrix) -> np.ndarray:
    """What is to be known of all stored values, for each cell: FACTS (n_cells,), so that it does not matter in which
    blocks they were read. A cell with NaN or infinite values has such a total."""
    facts = np.zeros(matrix.shape[0], dtype=FACTS)
    facts["stored"] = np.diff(matrix.indptr)
    full = facts["stored"] > 0
    values, starts = matrix.data, matrix.indptr[:-1][full]
    facts["whole"][full] = np.add.reduceat((values == np.floor(values)).astype(np.int32), starts, dtype=np.int64)
    facts["smallest"][full] = np.minimum.reduceat(values, starts)
    facts["largest"][full] = np.maximum.reduceat(values, starts)
    values = values.astype(np.float64)
    with np.errstate(invalid="ignore"):
        facts["total"][full] = np.add.reduceat(values, starts)
    facts["squares"][full] = np.add.reduceat(np.square(values, out=values), starts)
    return facts


def recognise_cells(facts: np.ndarray, looked_at: sparse.csr_matrix) -> Evidence:
    """`recognise`, of a batch that was read in blocks.

    Parameters
    ----------
    facts
        `facts_of` all its cells.
    looked_at
        Those of its cells that `cells_looked_at` says, float32, all features.
    """
    n_stored = int(facts["stored"].sum())
    if not n_stored:
        return Evidence("counts", "every value is zero", 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
    n, n_whole = len(facts) * looked_at.shape[1], int(facts["whole"].sum())
    mean = math.fsum(facts["total"]) / n
    full = facts[facts["stored"] > 0]
    smallest, largest = float(full["smallest"].min()), float(full["largest"].max())
    looked_at = looked_at.astype(np.float64)
    kind, because, common, clear = _kind(looked_at, n_stored, n_stored - n_whole, smallest, largest)
    totals = _totals(looked_at, kind if kind in FORMULAS else "linear")
    unclear = kind in LOGARITHMS and not clear
    return Evidence(
        kind=kind,
        because=because,
        smallest=smallest,
        largest=largest,
        whole=n_whole / n_stored,
        stored=n_stored / n,
        mean=mean,
        sd=float(np.sqrt(max(0.0, math.fsum(facts["squares"]) / n - mean**2))),
        total=common,
        median_total=float(np.median(totals)),
        clear=clear,
        medians={other: float(np.median(_totals(looked_at, other))) for other in LOGARITHMS} if unclear else {},
    )


def _kind(
    looked_at: sparse.csr_matrix, n_stored: int, fractions: int, smallest: float, largest: float
) -> tuple[str, str, float | None, bool]:
    """Kind, the evidence in words, the total that every cell comes to, and whether a logarithm's base is clear."""
    whole = 1 - fractions / n_stored
    percent = f"{100 * whole:.3g} % of the stored values are whole"
    if smallest < 0:
        if whole > WHOLE_IN_COUNTS:
            return "negative counts", f"{percent}, and some are negative", None, True
        sd = float(np.median(_feature_sd(looked_at)))
        shift = float(np.median(abs(np.asarray(looked_at.mean(axis=0)).ravel())))
        kind = "z-scored" if 0.75 < sd < 1.33 and shift < 0.35 else "centred"
        return kind, f"partly negative; a feature's standard deviation is {sd:.2g} in the middle", None, True
    if not fractions:
        return "counts", "all values are whole", None, True
    small = largest <= LARGEST_LOG_VALUE
    if small and (of_counts := _logarithm_of_counts(looked_at)) is not None:
        return of_counts, f"{FORMULAS[of_counts]} is a whole number for every value", None, True
    if whole > WHOLE_IN_COUNTS:
        return "counts", f"{percent}; {fractions:,} {'is' if fractions == 1 else 'are'} not", None, True
    if small and whole > WHOLE_IN_LOGARITHMS and (rounded := _rounded_logarithm(looked_at)) is not None:
        return rounded
    if not small or whole > WHOLE_IN_LOGARITHMS:
        total, variation = _common_total(looked_at, "linear")
        reason = f"{percent}, as in no logarithm" if small else f"up to {largest:,.6g}, too large for a logarithm"
        if variation < NEARLY_EQUAL_TOTALS:
            return "linear", f"{reason}; every cell comes to {total:,.6g}", total, True
        return "linear", reason, None, True
    return _small_fractions(looked_at, largest)


def _rounded_logarithm(looked_at: sparse.csr_matrix) -> tuple[str, str, float | None, bool] | None:
    """Logarithms kept to one decimal have whole values too; inverted, they still add up to nearly the same."""
    totals = {kind: _common_total(looked_at, kind) for kind in FORMULAS}
    steadiest = min(totals, key=lambda kind: totals[kind][1])
    total, variation = totals[steadiest]
    if steadiest not in LOGARITHMS or variation > NEARLY_EQUAL_TOTALS or looked_at.shape[0] < ENOUGH_CELLS:
        return None
    return steadiest, f"{FORMULAS[steadiest]} adds up to about {total:,.6g} in every cell", total, True


def _small_fractions(looked_at: sparse.csr_matrix, largest: float) -> tuple[str, str, float | None, bool]:
    """Tells logarithms of different base, and linear scales of small values, apart by inverting each."""
    totals = {kind: _common_total(looked_at, kind) for kind in FORMULAS}
    steadiest = min(totals, key=lambda kind: totals[kind][1])
    total, variation = totals[steadiest]
    equal = f"{FORMULAS[steadiest]} adds up to {total:,.6g} in every cell"
    if variation < EQUAL_TOTALS:
        return steadiest, equal, total, True
    steps = {kind: _share_of_whole_steps(looked_at, kind) for kind in FORMULAS}
    stepping = max(steps, key=lambda kind: steps[kind])
    if steps[stepping] > 0.5:
        reason = f"{FORMULAS[stepping]} comes in whole multiples of a cell's smallest value"
        return stepping, f"{reason} ({100 * steps[stepping]:.0f} %)", None, True
    if variation < NEARLY_EQUAL_TOTALS and looked_at.shape[0] >= ENOUGH_CELLS:
        return steadiest, equal, total, True
    stored = looked_at.nnz / (looked_at.shape[0] * looked_at.shape[1])
    sd = _feature_sd(looked_at)
    sd = sd[sd > 0]
    if largest < 1.5 or (stored > 0.99 and looked_at.shape[1] > 50) or (len(sd) and np.mean(abs(sd - 1) < 0.1) > 0.5):
        return "unknown", f"fractions up to {largest:.3g} that fit no scale we know", None, False
    if totals["log2"][0] > LARGEST_TOTAL:
        return "unknown", f"fractions up to {largest:.3g}; as logarithms a cell would come to too much", None, False
    if totals["log1p"][0] > LARGEST_TOTAL:
        reason = f"as natural logarithms a cell would come to {totals['log1p'][0]:.2g}"
        return "log2", f"fractions up to {largest:.3g}; {reason}", None, True
    return "log1p", f"fractions up to {largest:.3g}, like logarithms; nothing tells their base", None, False


def _feature_sd(matrix: sparse.csr_matrix) -> np.ndarray:
    from sklearn.utils.sparsefuncs import mean_variance_axis

    return np.sqrt(mean_variance_axis(matrix, axis=0)[1])


def invert(values: np.ndarray, kind: str) -> np.ndarray:
    """Values on their linear scale: `exp(x) - 1` for log1p, `2^x - 1` for log2; others as they are. float64."""
    values = values.astype(np.float64)
    return np.expm1(values * LOGARITHMS[kind]) if kind in LOGARITHMS else values


def _totals(matrix: sparse.csr_matrix, kind: str) -> np.ndarray:
    linear = sparse.csr_matrix((invert(matrix.data, kind), matrix.indices, matrix.indptr), shape=matrix.shape)
    return np.asarray(linear.sum(axis=1)).ravel()


def _common_total(matrix: sparse.csr_matrix, kind: str) -> tuple[float, float]:
    """The mean total of a cell on the linear scale, and its coefficient of variation; cells of zeros do not count."""
    totals = _totals(matrix, kind)
    totals = totals[totals > 0]
    mean = float(totals.mean()) if len(totals) else 0.0
    return mean, float(totals.std() / mean) if len(totals) > 1 else np.inf


def _logarithm_of_counts(matrix: sparse.csr_matrix) -> str | None:
    """The logarithm that makes whole numbers of the values that are none, if there is one."""
    fractions = np.unique(matrix.data[matrix.data != np.floor(matrix.data)])
    for kind in LOGARITHMS:
        counts = invert(fractions, kind)
        counts = counts[counts < 2000]
        near = abs(counts - np.round(counts)) < 0.005
        # Few different values: chance could do it, so all of them, small ones too, must be whole.
        if len(counts) >= 3 and near.mean() > 0.99 and counts.min() > 0.9:
            return kind
    return None


def _share_of_whole_steps(matrix: sparse.csr_matrix, kind: str) -> float:
    """How many of the inverted values are whole multiples of their cell's smallest, which then is one count."""
    full = np.diff(matrix.indptr) > 0
    linear = invert(matrix.data, kind)
    if not full.any():
        return 0.0
    smallest = np.minimum.reduceat(linear, matrix.indptr[:-1][full])
    multiple = linear / np.repeat(smallest, np.diff(matrix.indptr)[full])
    multiple = multiple[(multiple > 1.5) & (multiple < 20)]
    return float(np.mean(abs(multiple - np.round(multiple)) < 0.005)) if len(multiple) >= 20 else 0.0
