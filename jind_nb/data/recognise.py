"""The value type of stored values: counts, another linear scale, logarithms, z-scores.

The type is told by what the values must be like: counts are whole numbers, and so are inverted logarithms of counts;
the normalised values of every cell add up to the same total.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy import sparse

# Cells of a batch that are compared with each other; more would tell nothing new.
CELLS_COMPARED = 1_000

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

# Value type -> natural logarithm of its base.
LOGARITHMS = {"log1p": 1.0, "log2": float(np.log(2)), "log10": float(np.log(10))}

FORMULAS = {"linear": "x", "log1p": "exp(x) - 1", "log2": "2^x - 1", "log10": "10^x - 1"}

# Of the stored values of one cell: their number, how many are whole, their sum and sum of squares, and their range.
CELL_STATISTICS = np.dtype(
    [("stored", "i8"), ("whole", "i8"), ("total", "f8"), ("squares", "f8"), ("smallest", "f4"), ("largest", "f4")]
)

NEGATIVE = ("z-scored", "centred", "negative counts")


@dataclass(frozen=True)
class Evidence:
    """Hold what one batch's values look like, and why.

    `value_type` is `counts`, `linear` (TPM, RPKM, counts per 10,000, expected counts), `log1p`, `log2` or `log10` (the
    logarithm of 1 + x to that base), `z-scored`, `centred`, `negative counts` or `unknown`.
    """

    value_type: str
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
    medians: Mapping[str, float] = field(default_factory=dict)  # then: the median total for each base it could have

    @property
    def is_linear(self) -> bool:
        return self.value_type in ("counts", "linear")

    @property
    def is_logarithm(self) -> bool:
        return self.value_type in LOGARITHMS


def recognise(matrix: sparse.csr_matrix) -> Evidence:
    """Return what one batch's values look like.

    Parameters
    ----------
    matrix
        Floats (n_cells x n_features), all features of the file, no stored zeros.

    Notes
    -----
    Up to 1,000 cells their order does not matter; the order of features never does.

    >>> recognise(sparse.csr_matrix([[1.0, 7.0], [0.0, 3.0]])).value_type
    'counts'
    >>> recognise(sparse.csr_matrix([[0.7, 900.0]])).value_type
    'linear'
    """
    return recognise_blocks(cell_statistics(matrix), matrix[evenly_spaced(matrix.shape[0])])


def evenly_spaced(n: int, most: int = CELLS_COMPARED) -> np.ndarray:
    """Return at most `most` of the positions 0 to n - 1, int, ascending, evenly spaced."""
    return np.arange(n) if n <= most else np.linspace(0, n - 1, most).astype(int)


def cell_statistics(matrix: sparse.csr_matrix) -> np.ndarray:
    """Return the statistics of each cell, CELL_STATISTICS (n_cells,).

    Notes
    -----
    They are kept by cell so that it does not matter in which blocks the cells were read. The `total` of a cell with NaN
    or infinite values is itself NaN or infinite.
    """
    statistics = np.zeros(matrix.shape[0], dtype=CELL_STATISTICS)
    statistics["stored"] = np.diff(matrix.indptr)
    full = statistics["stored"] > 0
    values, starts = matrix.data, matrix.indptr[:-1][full]
    statistics["whole"][full] = np.add.reduceat((values == np.floor(values)).astype(np.int32), starts, dtype=np.int64)
    statistics["smallest"][full] = np.minimum.reduceat(values, starts)
    statistics["largest"][full] = np.maximum.reduceat(values, starts)
    values = values.astype(np.float64)
    with np.errstate(invalid="ignore"):
        statistics["total"][full] = np.add.reduceat(values, starts)
    statistics["squares"][full] = np.add.reduceat(np.square(values, out=values), starts)
    return statistics


def recognise_blocks(statistics: np.ndarray, compared: sparse.csr_matrix) -> Evidence:
    """Return what the values of a batch that was read in blocks look like.

    Parameters
    ----------
    statistics
        `cell_statistics` of all its cells.
    compared
        Its cells at `evenly_spaced`, float32, all features.
    """
    n_stored = int(statistics["stored"].sum())
    if not n_stored:
        return Evidence("counts", "every value is zero", 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
    n, n_whole = len(statistics) * compared.shape[1], int(statistics["whole"].sum())
    mean = math.fsum(statistics["total"]) / n
    full = statistics[statistics["stored"] > 0]
    smallest, largest = float(full["smallest"].min()), float(full["largest"].max())
    compared = compared.astype(np.float64)
    value_type, because, common, clear = _value_type(compared, n_stored, n_stored - n_whole, smallest, largest)
    totals = _totals(compared, value_type if value_type in FORMULAS else "linear")
    unclear = value_type in LOGARITHMS and not clear
    return Evidence(
        value_type=value_type,
        because=because,
        smallest=smallest,
        largest=largest,
        whole=n_whole / n_stored,
        stored=n_stored / n,
        mean=mean,
        sd=float(np.sqrt(max(0.0, math.fsum(statistics["squares"]) / n - mean**2))),
        total=common,
        median_total=float(np.median(totals)),
        clear=clear,
        medians={other: float(np.median(_totals(compared, other))) for other in LOGARITHMS} if unclear else {},
    )


def _value_type(
    compared: sparse.csr_matrix, n_stored: int, fractions: int, smallest: float, largest: float
) -> tuple[str, str, float | None, bool]:
    """Return value type, the evidence in words, the total of every cell, and whether a logarithm's base is clear."""
    whole = 1 - fractions / n_stored
    percent = f"{100 * whole:.3g} % of the stored values are whole"
    if smallest < 0:
        if whole > WHOLE_IN_COUNTS:
            return "negative counts", f"{percent}, and some are negative", None, True
        sd = float(np.median(_feature_sd(compared)))
        shift = float(np.median(abs(np.asarray(compared.mean(axis=0)).ravel())))
        value_type = "z-scored" if 0.75 < sd < 1.33 and shift < 0.35 else "centred"
        return value_type, f"partly negative; a feature's standard deviation is {sd:.2g} in the middle", None, True
    if not fractions:
        return "counts", "all values are whole", None, True
    small = largest <= LARGEST_LOG_VALUE
    if small and (of_counts := _logarithm_of_counts(compared)) is not None:
        return of_counts, f"{FORMULAS[of_counts]} is a whole number for every value", None, True
    if whole > WHOLE_IN_COUNTS:
        return "counts", f"{percent}; {fractions:,} {'is' if fractions == 1 else 'are'} not", None, True
    if small and whole > WHOLE_IN_LOGARITHMS and (rounded := _rounded_logarithm(compared)) is not None:
        return rounded
    if not small or whole > WHOLE_IN_LOGARITHMS:
        total, variation = _common_total(compared, "linear")
        reason = f"{percent}, as in no logarithm" if small else f"up to {largest:,.6g}, too large for a logarithm"
        if variation < NEARLY_EQUAL_TOTALS:
            return "linear", f"{reason}; every cell comes to {total:,.6g}", total, True
        return "linear", reason, None, True
    return _small_fractions(compared, largest)


def _rounded_logarithm(compared: sparse.csr_matrix) -> tuple[str, str, float | None, bool] | None:
    """Recognise logarithms that were rounded to one decimal: inverted, their cells still have nearly equal totals."""
    steadiest, total, variation = _steadiest(compared)
    if steadiest not in LOGARITHMS or variation > NEARLY_EQUAL_TOTALS or compared.shape[0] < ENOUGH_CELLS:
        return None
    return steadiest, f"{FORMULAS[steadiest]} adds up to about {total:,.6g} in every cell", total, True


def _steadiest(compared: sparse.csr_matrix) -> tuple[str, float, float]:
    """Return the value type by which the cells' totals differ least, their mean, and their coefficient of variation."""
    totals = {value_type: _common_total(compared, value_type) for value_type in FORMULAS}
    steadiest = min(totals, key=lambda value_type: totals[value_type][1])
    return steadiest, *totals[steadiest]


def _small_fractions(compared: sparse.csr_matrix, largest: float) -> tuple[str, str, float | None, bool]:
    """Tell logarithms of different base and linear scales of small values apart, by inverting each."""
    steadiest, total, variation = _steadiest(compared)
    equal = f"{FORMULAS[steadiest]} adds up to {total:,.6g} in every cell"
    if variation < EQUAL_TOTALS:
        return steadiest, equal, total, True
    steps = {value_type: _share_of_whole_steps(compared, value_type) for value_type in FORMULAS}
    stepping = max(steps, key=lambda value_type: steps[value_type])
    if steps[stepping] > 0.5:
        reason = f"{FORMULAS[stepping]} comes in whole multiples of a cell's smallest value"
        return stepping, f"{reason} ({100 * steps[stepping]:.0f} %)", None, True
    if variation < NEARLY_EQUAL_TOTALS and compared.shape[0] >= ENOUGH_CELLS:
        return steadiest, equal, total, True
    stored = compared.nnz / (compared.shape[0] * compared.shape[1])
    sd = _feature_sd(compared)
    sd = sd[sd > 0]
    if largest < 1.5 or (stored > 0.99 and compared.shape[1] > 50) or (len(sd) and np.mean(abs(sd - 1) < 0.1) > 0.5):
        return "unknown", f"fractions up to {largest:.3g} that fit no scale we know", None, False
    if _common_total(compared, "log2")[0] > LARGEST_TOTAL:
        return "unknown", f"fractions up to {largest:.3g}; as logarithms a cell would come to too much", None, False
    natural = _common_total(compared, "log1p")[0]
    if natural > LARGEST_TOTAL:
        reason = f"as natural logarithms a cell would come to {natural:.2g}"
        return "log2", f"fractions up to {largest:.3g}; {reason}", None, True
    return "log1p", f"fractions up to {largest:.3g}, like logarithms; nothing tells their base", None, False


def _feature_sd(matrix: sparse.csr_matrix) -> np.ndarray:
    from sklearn.utils.sparsefuncs import mean_variance_axis  # scikit-learn takes half a second and more

    return np.sqrt(mean_variance_axis(matrix, axis=0)[1])


def invert(values: np.ndarray, value_type: str) -> np.ndarray:
    """Return values on their linear scale, float64: `exp(x) - 1` for log1p, `2^x - 1` for log2, others as they are."""
    values = values.astype(np.float64)
    return np.expm1(values * LOGARITHMS[value_type]) if value_type in LOGARITHMS else values


def _totals(matrix: sparse.csr_matrix, value_type: str) -> np.ndarray:
    linear = sparse.csr_matrix((invert(matrix.data, value_type), matrix.indices, matrix.indptr), shape=matrix.shape)
    return np.asarray(linear.sum(axis=1)).ravel()


def _common_total(matrix: sparse.csr_matrix, value_type: str) -> tuple[float, float]:
    """Return the mean of the cells' totals on the linear scale, and their coefficient of variation, without zeros."""
    totals = _totals(matrix, value_type)
    totals = totals[totals > 0]
    mean = float(totals.mean()) if len(totals) else 0.0
    return mean, float(totals.std() / mean) if len(totals) > 1 else np.inf


def _logarithm_of_counts(matrix: sparse.csr_matrix) -> str | None:
    """Return the logarithm whose inverse makes all fractions whole numbers, if there is one."""
    fractions = np.unique(matrix.data[matrix.data != np.floor(matrix.data)])
    for value_type in LOGARITHMS:
        counts = invert(fractions, value_type)
        counts = counts[counts < 2000]
        near = abs(counts - np.round(counts)) < 0.005
        # Few different values: chance could do it, so all of them, small ones too, must be whole.
        if len(counts) >= 3 and near.mean() > 0.99 and counts.min() > 0.9:
            return value_type
    return None


def _share_of_whole_steps(matrix: sparse.csr_matrix, value_type: str) -> float:
    """Return which share of the inverted values are whole multiples of their cell's smallest, which then is one count."""
    full = np.diff(matrix.indptr) > 0
    linear = invert(matrix.data, value_type)
    smallest = np.minimum.reduceat(linear, matrix.indptr[:-1][full])
    multiple = linear / np.repeat(smallest, np.diff(matrix.indptr)[full])
    multiple = multiple[(multiple > 1.5) & (multiple < 20)]
    return float(np.mean(abs(multiple - np.round(multiple)) < 0.005)) if len(multiple) >= 20 else 0.0
