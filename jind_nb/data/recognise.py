"""The value type of stored values: counts, another linear scale, logarithms, z-scores, panels of proteins.

The type is told by what the values must be like: counts are whole numbers, and so are inverted logarithms of counts;
the normalised values of every cell add up to the same total. A panel has few features and few zeros: cytometry, where no
logarithm and no total fits, and counts of antibodies, which only their names tell from counts of genes.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from scipy import sparse

from ..core.compiled import compiled
from ..core.sparse_rows import SMALL, mean_and_variance

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

# A panel of proteins has at most so many features, and at least this share of its values is not zero (ASAP-seq: 0.67).
MOST_IN_A_PANEL, STORED_IN_A_PANEL = 500, 0.5

# The same where names say what it is, and where neither names nor negative values do.
STORED_IN_A_NAMED_PANEL, STORED_WITHOUT_NAMES = 0.25, 0.95

# arcsinh(x / 5) of the brightest channels stays below 13, and of compensated ones above -10.
SMALLEST_IN_CYTOMETRY, LARGEST_IN_CYTOMETRY = -12.0, 16.0

# The usual cofactors of arcsinh(x / cofactor).
COFACTORS = (5.0, 150.0, 1.0)

# Centred values are as far below zero as above, and zero in the mean; background of cytometry is only a little below.
NEGATIVE_SUM_IN_CYTOMETRY, BELOW_IN_CYTOMETRY, CENTRED_BELOW = 0.5, 0.5, 0.15

# Where RNA was shifted or scaled, its many zeros became one and the same other value.
ONE_VALUE_IN_CYTOMETRY = 0.2

# Background of a channel: values up to this share of the largest, and how many of all values are such.
NEAR_ZERO, SHARE_NEAR_ZERO = 0.03, 0.2

# In situ panels have at most so many genes, and find at most so many molecules in a cell.
MOST_IN_SITU, COUNTS_IN_SITU = 1_000, 5_000

# One count of a cell is its smallest value, or that divided by a small number.
MOST_SMALLEST_COUNT = 12

# How antibodies are named: by clusters of differentiation, and a few others no gene is named like.
ANTIBODY = re.compile(
    r"(?:\b|_|(?<=hu)|(?<=ms)|(?<=adt)|(?<=anti))cd\d+|\big[adegm]\b|hla[-_. ]?(?:dr|dq|dp|abc)\b|\btcr|totalseq|isotype|antibody|"
    r"(?:\b|_)adt(?:\b|_)",
    re.IGNORECASE,
)

# In three real panels 67 to 100 % of the names are such, in lists of a few hundred immune genes up to 15 %.
NAMED_LIKE_ANTIBODIES = 0.25

# Of the stored values of one cell: their number, how many are whole, their sum and sum of squares, and their range.
CELL_STATISTICS = np.dtype(
    [("stored", "i8"), ("whole", "i8"), ("total", "f8"), ("squares", "f8"), ("smallest", "f4"), ("largest", "f4")]
)

NEGATIVE = ("z-scored", "centred", "negative counts")


@dataclass(frozen=True)
class Evidence:
    """Hold what one batch's values look like, and why.

    `value_type` is `counts`, `antibody counts`, `counts per volume` (in situ), `linear` (TPM, RPKM, counts per 10,000, expected counts), `log1p`, `log2` or
    `log10` (the logarithm of 1 + x to that base), `panel` (cytometry), `z-scored`, `centred`, `negative counts` or `unknown`.
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
    has_volume: bool = False  # whether the file says the volume of every cell
    n_features: int = 0

    @property
    def is_linear(self) -> bool:
        return self.value_type in ("counts", "antibody counts", "counts per volume", "linear")

    @property
    def is_logarithm(self) -> bool:
        return self.value_type in LOGARITHMS


def recognise(matrix: sparse.csr_matrix, antibodies: str = "") -> Evidence:
    """Return what one batch's values look like.

    Parameters
    ----------
    matrix
        Floats (n_cells x n_features), all features of the file, no stored zeros.
    antibodies
        Why the features are known to be antibodies; empty if they are not.

    Notes
    -----
    Up to 1,000 cells their order does not matter; the order of features never does.

    >>> recognise(sparse.csr_matrix([[1.0, 7.0], [0.0, 3.0]])).value_type
    'counts'
    >>> recognise(sparse.csr_matrix([[0.7, 900.0]])).value_type
    'linear'
    """
    return recognise_blocks(
        cell_statistics(matrix.indptr, matrix.data), matrix[evenly_spaced(matrix.shape[0])], antibodies
    )


def evenly_spaced(n: int, most: int = CELLS_COMPARED) -> np.ndarray:
    """Return at most `most` of the positions 0 to n - 1, int, ascending, evenly spaced."""
    return np.arange(n) if n <= most else np.linspace(0, n - 1, most).astype(int)


def cell_statistics(indptr: np.ndarray, data: np.ndarray) -> np.ndarray:
    """Return the statistics of each cell, CELL_STATISTICS (n_cells,), of a CSR matrix without stored zeros.

    Notes
    -----
    They are kept by cell so that it does not matter in which blocks the cells were read. The `total` of a cell with NaN
    or infinite values is itself NaN or infinite.
    """
    statistics = np.zeros(len(indptr) - 1, dtype=CELL_STATISTICS)
    statistics["stored"] = np.diff(indptr)
    names = ("whole", "total", "squares", "smallest", "largest")
    columns = [np.zeros(len(statistics), dtype=CELL_STATISTICS[name]) for name in names]
    add = _add_statistics if len(data) > SMALL else _add_statistics_of_few
    add(indptr.astype(np.int64, copy=False), data, *columns)
    for name, column in zip(names, columns, strict=True):
        statistics[name] = column
    return statistics


def _add_statistics_of_few(
    indptr: np.ndarray,
    data: np.ndarray,
    whole: np.ndarray,
    total: np.ndarray,
    squares: np.ndarray,
    smallest: np.ndarray,
    largest: np.ndarray,
) -> None:
    """Do what `_add_statistics` does, bit for bit."""
    stored, n = np.diff(indptr), len(whole)
    full, cell = stored > 0, np.repeat(np.arange(n), stored)
    whole[:] = np.bincount(cell[data == np.floor(data)], minlength=n)
    values = data.astype(np.float64)
    total[:] = np.bincount(cell, weights=values, minlength=n)
    squares[:] = np.bincount(cell, weights=values * values, minlength=n)
    smallest[full] = np.minimum.reduceat(data, indptr[:-1][full])
    largest[full] = np.maximum.reduceat(data, indptr[:-1][full])


@compiled
def _add_statistics(indptr, data, whole, total, squares, smallest, largest):
    for i in range(len(indptr) - 1):
        if indptr[i] == indptr[i + 1]:
            continue
        n_whole, least, most = 0, data[indptr[i]], data[indptr[i]]
        of_values = of_squares = 0.0
        for j in range(indptr[i], indptr[i + 1]):
            value = np.float64(data[j])
            n_whole += value == np.floor(value)
            of_values += value
            of_squares += value * value
            least, most = min(least, data[j]), max(most, data[j])
        whole[i], total[i], squares[i], smallest[i], largest[i] = n_whole, of_values, of_squares, least, most


def recognise_blocks(statistics: np.ndarray, compared: sparse.csr_matrix, antibodies: str = "") -> Evidence:
    """Return what the values of a batch that was read in blocks look like.

    Parameters
    ----------
    statistics
        `cell_statistics` of all its cells.
    compared
        Its cells at `evenly_spaced`, float32, all features.
    antibodies
        As `recognise` takes it.
    """
    n_stored = int(statistics["stored"].sum())
    if not n_stored:
        return Evidence("counts", "every value is zero", 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
    n, n_whole = len(statistics) * compared.shape[1], int(statistics["whole"].sum())
    mean = math.fsum(statistics["total"]) / n
    full = statistics[statistics["stored"] > 0]
    smallest, largest = float(full["smallest"].min()), float(full["largest"].max())
    compared = compared.astype(np.float64)
    value_type, because, common, clear = _value_type(
        compared, n_stored, n_stored - n_whole, smallest, largest, antibodies
    )
    if value_type == "counts" and antibodies and n_stored >= STORED_IN_A_NAMED_PANEL * n:
        value_type, because = "antibody counts", f"{because}; {antibodies}"
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
        n_features=compared.shape[1],
        medians={other: float(np.median(_totals(compared, other))) for other in LOGARITHMS} if unclear else {},
    )


def _value_type(
    compared: sparse.csr_matrix, n_stored: int, fractions: int, smallest: float, largest: float, antibodies: str
) -> tuple[str, str, float | None, bool]:
    """Return value type, the evidence in words, the total of every cell, and whether a logarithm's base is clear."""
    whole = 1 - fractions / n_stored
    percent = f"{100 * whole:.3g} % of the stored values are whole"
    if smallest < 0:
        if whole > WHOLE_IN_COUNTS:
            return "negative counts", f"{percent}, and some are negative", None, True
        if (panel := _whole_arcsinh(compared) or _negative_panel(compared, smallest, largest)) is not None:
            return "panel", panel, None, True
        sd = float(np.median(_feature_sd(compared)))
        shift = float(np.median(abs(np.asarray(compared.mean(axis=0)).ravel())))
        value_type = "z-scored" if 0.75 < sd < 1.33 and shift < 0.35 else "centred"
        return value_type, f"partly negative; a feature's standard deviation is {sd:.2g} in the middle", None, True
    if not fractions:
        return "counts", "all values are whole", None, True
    small = largest <= LARGEST_LOG_VALUE
    if small and (of_counts := _logarithm_of_counts(compared)) is not None:
        return of_counts, f"{FORMULAS[of_counts]} is a whole number for every value", None, True
    if small and (of_counts := _whole_arcsinh(compared)) is not None:
        return "panel", of_counts, None, True
    if whole > WHOLE_IN_COUNTS:
        return "counts", f"{percent}; {fractions:,} {'is' if fractions == 1 else 'are'} not", None, True
    if small and whole > WHOLE_IN_LOGARITHMS and (rounded := _rounded_logarithm(compared)) is not None:
        return rounded
    if not small or whole > WHOLE_IN_LOGARITHMS:
        total, variation = _common_total(compared, "linear")
        up_to = f"{largest:,.6g}" if largest < 1e6 else f"{largest:,.0f}"
        reason = f"{percent}, as in no logarithm" if small else f"up to {up_to}, too large for a logarithm"
        if variation < NEARLY_EQUAL_TOTALS:
            return "linear", f"{reason}; every cell comes to {total:,.7g}", total, True
        if (of_size := _counts_per_volume(compared, whole)) is not None:
            return "counts per volume", of_size, None, True
        return "linear", reason, None, True
    return _small_fractions(compared, largest, antibodies)


def _rounded_logarithm(compared: sparse.csr_matrix) -> tuple[str, str, float | None, bool] | None:
    """Recognise logarithms that were rounded to one decimal: inverted, their cells still have nearly equal totals."""
    steadiest, total, variation = _steadiest(compared)
    if steadiest not in LOGARITHMS or variation > NEARLY_EQUAL_TOTALS or compared.shape[0] < ENOUGH_CELLS:
        return None
    return steadiest, f"{FORMULAS[steadiest]} adds up to about {total:,.7g} in every cell", total, True


def _steadiest(compared: sparse.csr_matrix) -> tuple[str, float, float]:
    """Return the value type by which the cells' totals differ least, their mean, and their coefficient of variation."""
    totals = {value_type: _common_total(compared, value_type) for value_type in FORMULAS}
    steadiest = min(totals, key=lambda value_type: totals[value_type][1])
    return steadiest, *totals[steadiest]


def _small_fractions(
    compared: sparse.csr_matrix, largest: float, antibodies: str
) -> tuple[str, str, float | None, bool]:
    """Tell logarithms of different base and linear scales of small values apart, by inverting each."""
    steadiest, total, variation = _steadiest(compared)
    equal = f"{FORMULAS[steadiest]} adds up to {total:,.7g} in every cell"
    if variation < EQUAL_TOTALS:
        return steadiest, equal, total, True
    steps = {value_type: _share_of_whole_steps(compared, value_type) for value_type in FORMULAS}
    stepping = max(steps, key=lambda value_type: steps[value_type])
    if steps[stepping] > 0.5:
        reason = f"{FORMULAS[stepping]} comes in whole multiples of a cell's smallest value"
        return stepping, f"{reason} ({100 * steps[stepping]:.0f} %)", None, True
    if variation < NEARLY_EQUAL_TOTALS and compared.shape[0] >= ENOUGH_CELLS:
        return steadiest, equal, total, True
    if (panel := _panel_without_negatives(compared, largest, antibodies)) is not None:
        return "panel", panel, None, True
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
    return np.sqrt(mean_and_variance(matrix)[1])


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


# --- panels of proteins ----------------------------------------------------------------------------------------------


def antibodies(names: pd.Index, kinds: pd.Series | None = None) -> str:
    """Return why the features are antibodies; an empty text if they are not, or are too many for a panel.

    Parameters
    ----------
    names
        Of the features, as the file gives them.
    kinds
        `var.feature_types`, if the file has it.

    >>> antibodies(pd.Index(["CD3", "CD8a", "HLA-DR", "IgM"]))
    '4 of 4 features are named like antibodies'
    >>> antibodies(pd.Index(["CD3E", "LYZ", "NKG7", "HLA-DRA", "IGHM"]))
    ''
    """
    if not 0 < len(names) <= MOST_IN_A_PANEL:
        return ""
    kind = str(kinds.iloc[0]) if kinds is not None and kinds.nunique(dropna=False) == 1 else ""
    if kind in ("Antibody Capture", "Gene Expression"):
        return "feature_types says Antibody Capture" if kind == "Antibody Capture" else ""
    named = sum(ANTIBODY.search(str(name)) is not None for name in names)
    enough = named >= NAMED_LIKE_ANTIBODIES * len(names)
    return f"{named} of {len(names)} features are named like antibodies" if enough else ""


def _stored(matrix: sparse.csr_matrix) -> float:
    return float(matrix.nnz / max(1, matrix.shape[0] * matrix.shape[1]))


def _may_be_panel(compared: sparse.csr_matrix, smallest: float, largest: float, stored: float) -> bool:
    """Return whether a batch has few features, few zeros and the range of arcsinh values."""
    in_range = smallest >= SMALLEST_IN_CYTOMETRY and 1.5 < largest <= LARGEST_IN_CYTOMETRY
    return in_range and compared.shape[1] <= MOST_IN_A_PANEL and _stored(compared) >= stored


def _few_zeros(compared: sparse.csr_matrix) -> str:
    return f"{compared.shape[1]} features, {100 * _stored(compared):.3g} % of their values not zero"


def _whole_arcsinh(matrix: sparse.csr_matrix) -> str | None:
    """Return with which cofactor all values of a panel are arcsinh of whole numbers; None if there is none."""
    if not _may_be_panel(matrix, float(matrix.data.min()), float(matrix.data.max()), STORED_IN_A_PANEL):
        return None
    values = np.unique(matrix.data)
    for cofactor in COFACTORS:
        counts = cofactor * np.sinh(values)
        counts = counts[abs(counts) < 2000]
        if len(counts) >= ENOUGH_CELLS and np.mean(abs(counts - np.round(counts)) < 0.005) > 0.99:
            return f"{cofactor:g} x sinh(x) is a whole number for every value"
    return None


def _negative_panel(compared: sparse.csr_matrix, smallest: float, largest: float) -> str | None:
    """Return why partly negative values are those of cytometry and not centred or scaled ones; None if they are not."""
    if not _may_be_panel(compared, smallest, largest, STORED_IN_A_PANEL) or compared.shape[0] < ENOUGH_CELLS:
        return None
    values = compared.toarray()
    low, high = np.quantile(values, [0.01, 0.99], axis=0)
    below, above = -values[values < 0].sum(), values[values > 0].sum()
    if below > NEGATIVE_SUM_IN_CYTOMETRY * above or np.median(-low / np.maximum(high, 1e-9)) > BELOW_IN_CYTOMETRY:
        return None
    if _share_of_one_value(values) > ONE_VALUE_IN_CYTOMETRY:
        return None
    return f"{_few_zeros(compared)}; from {smallest:.3g} to {largest:.3g} and mostly positive, as after arcsinh"


def _share_of_one_value(values: np.ndarray) -> float:
    """Return which share of a feature's values, in the middle, is one and the same."""
    ordered = np.sort(values, axis=0)
    share = [np.diff(np.flatnonzero(np.diff(column, prepend=-np.inf, append=np.inf))).max() for column in ordered.T]
    return float(np.median(share)) / len(ordered)


def _panel_without_negatives(compared: sparse.csr_matrix, largest: float, antibodies: str) -> str | None:
    """Return why fractions of no known scale are those of cytometry; None if they are not.

    Notes
    -----
    Logarithms of a few genes look alike at a glance. But undone, a cell's values are whole multiples of one count, and few
    of them are near zero, where a channel's background is.
    """
    stored = STORED_IN_A_NAMED_PANEL if antibodies else STORED_WITHOUT_NAMES
    if not _may_be_panel(compared, 0.0, largest, stored):
        return None
    if max(_share_of_multiples(compared, value_type) for value_type in FORMULAS) > 0.5:
        return None
    if antibodies:
        return f"{_few_zeros(compared)}; {antibodies}, and no logarithm of counts"
    if compared.shape[0] < ENOUGH_CELLS or np.mean(compared.data < NEAR_ZERO * largest) < SHARE_NEAR_ZERO:
        return None
    return f"{_few_zeros(compared)}; up to {largest:.3g}, many near zero, and no logarithm of counts"


def _counts_per_volume(matrix: sparse.csr_matrix, whole: float) -> str | None:
    """Return why linear values are counts divided by something of the cell's own, its volume; None if they are not.

    Notes
    -----
    Most values of a cell are one count, and most others whole multiples of it; a few genes of a panel are measured otherwise.
    """
    if matrix.shape[1] > MOST_IN_SITU or whole > WHOLE_IN_LOGARITHMS:
        return None
    fits, counts = [], []
    for row in matrix[evenly_spaced(matrix.shape[0], 200)]:
        values, times = np.unique(np.round(row.data, 5), return_counts=True)
        if not len(values) or times.max() < 3:
            continue
        one_count = values[np.argmax(times)]
        multiple = row.data[row.data > 0.5 * one_count] / one_count
        fits.append(np.mean(abs(multiple - np.round(multiple)) < 0.01) > 0.9 and len(multiple) > 0.5 * row.nnz)
        counts.append(row.data.sum() / one_count)
    if len(fits) < 0.5 * min(200, matrix.shape[0]) or np.mean(fits) < 0.5 or np.median(counts) > COUNTS_IN_SITU:
        return None
    return (
        f"whole multiples of one count in {100 * np.mean(fits):.0f} % of the cells, no common total, {matrix.shape[1]} "
        "features: divided by the cell's volume, or by a total over more features"
    )


def _share_of_multiples(matrix: sparse.csr_matrix, value_type: str) -> float:
    """Return the share of cells whose inverted values are whole multiples of the smallest one divided by 1 to 12."""
    fits = []
    for row in matrix[evenly_spaced(matrix.shape[0], 200)]:
        linear = np.sort(invert(row.data, value_type))
        if len(linear) < 5:
            continue
        multiples = linear[:, None] / linear[0] * np.arange(1, MOST_SMALLEST_COUNT + 1)
        small = multiples < 500
        near = (abs(multiples - np.round(multiples)) < 0.01) | ~small
        fits.append(bool((near.mean(axis=0)[small.sum(axis=0) >= 4] > 0.95).any()))
    return float(np.mean(fits)) if fits else 1.0


def alike(evidence: Mapping[str, Evidence], cells: Mapping[str, int]) -> dict[str, Evidence]:
    """Return what the batches of one file look like, judged together where one alone tells too little.

    Parameters
    ----------
    evidence, cells
        Batch -> what its values look like, and how many cells it has.

    Notes
    -----
    Values that were centred over all cells are not so within each batch; and of the batches of one panel some have no
    negative values.
    """
    if not any(batch.value_type == "panel" for batch in evidence.values()):
        return dict(evidence)
    n = sum(cells.values())
    mean = sum(cells[name] * batch.mean for name, batch in evidence.items()) / n
    sd = float(np.median([batch.sd for batch in evidence.values()]))
    negative = any(batch.smallest < 0 for batch in evidence.values())
    if negative and abs(mean) < CENTRED_BELOW * sd:
        centred = "partly negative, and zero in the mean of all batches"
        return {
            name: replace(batch, value_type="centred", because=centred) if batch.value_type == "panel" else batch
            for name, batch in evidence.items()
        }

    def unexplained(batch: Evidence) -> bool:
        in_range = batch.smallest >= SMALLEST_IN_CYTOMETRY and batch.largest <= LARGEST_IN_CYTOMETRY
        unclear = batch.value_type in ("unknown", "centred", "z-scored") or (batch.is_logarithm and batch.total is None)
        return in_range and unclear

    return {
        name: replace(batch, value_type="panel", because="like the file's other batches", clear=True, medians={})
        if unexplained(batch)
        else batch
        for name, batch in evidence.items()
    }
