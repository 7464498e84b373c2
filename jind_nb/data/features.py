"""Names of genes and peaks: one spelling for each, which of two files' features are the same, and which are missing.

Names keep the spelling they have in the file; only their keys are compared.
"""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, wraps
from typing import TypeVar

import numpy as np
import pandas as pd
from anndata.utils import make_index_unique

from ..core.text import listing
from ..errors import InputError

ENSEMBL = re.compile(r"(ENS[A-Z]*[0-9]{6,})(\.[0-9]+)?(_PAR_Y)?", re.IGNORECASE)

PEAK = re.compile(r"(?:chr)?([A-Za-z0-9.]+(?:_[A-Za-z]\w*)?)[:_-]([0-9]+)[-_]([0-9]+)", re.IGNORECASE)

NUMBERED = re.compile(r"(.+)[.-]([0-9]{1,3})")  # A-1 as anndata, A.1 as R makes a repeated name unique

# A number of a row, after nothing or what R and pandas put before it.
POSITION = re.compile(r"(|[VX]|Var|var)[._-]?([0-9]{1,9})(?:\.0)?")

NUMBERED_FEATURE = re.compile(r"(gene|feature|row|col|column|g|f|x)[._ -]?[0-9]{1,9}", re.IGNORECASE)

MOST_POSITIONS = 70_000  # or three times as many as there are names

# Columns of var that hold names, the likeliest first.
NAME_COLUMNS = (
    "feature_name", "gene_name", "gene_names", "gene_symbol", "gene_symbols", "symbol", "symbols", "gene_short_name",
    "features", "gene", "genes", "_index", "gene_ids", "gene_id", "ensembl_id",
)  # fmt: skip

WARN_BELOW, REFUSE_BELOW = 0.8, 0.2

# A model was trained on all its features: with half of them zero it assigns very few cells (benchmarks/new_file.py).
MODEL_REFUSES_BELOW = 0.5

PEAKS_ADVICE = (
    "Peaks are matched by position, not overlapped: re-quantify all batches on one common peak set, for instance the peaks "
    "of the annotated batches."
)

GENES_ADVICE = (
    "Use the same kind of names (symbols or Ensembl ids) and the same genes in all batches; GENE_COL names another column "
    "of var. If one batch was measured on a small panel on purpose, cut the others to that panel."
)

MODEL_ADVICE = (
    "A saved model needs half of its features. GENE_COL names another column of var. If the file has no more of them, train a model "
    "on the features that both have: jind-nb run, with the file as the target."
)

NAMES_SHOWN = 10

REMEMBERED = 8  # lists of names

Result = TypeVar("Result")


def same_kind_advice(names: pd.Index) -> str:
    """Return what to look at if two sides have the same kind of gene names and yet none in common; empty for peaks."""
    words = {"Ensembl ids": "Ensembl ids", "names": "gene symbols"}.get(names_type(names))
    return "" if words is None else f" Both seem to have {words}: is it the same species, and the same kind of data?"


# A feature is missing in a batch if no cell has it, and so many should have it at the rate of the other batches.
EXPECTED_CELLS = 10
CELLS_OF_A_TYPE = 20  # from which on a cell type's rate is one
MOSTLY = 0.5  # of the features that can be judged

# So many informative features are a panel, from which cell types can be learned however many the other batches have.
ENOUGH_FEATURES = 50


def _remembered(of_names: Callable[[Sequence[str]], Result]) -> Callable[[pd.Index], Result]:
    """Let a function of names remember what it gave for the last lists: each is asked of several times."""
    of_texts = lru_cache(REMEMBERED)(of_names)

    @wraps(of_names)
    def of_index(names: pd.Index) -> Result:
        return of_texts(tuple(map(str, names)))

    return of_index


def names_type(names: pd.Index | Sequence[str]) -> str:
    """Return what most of the names are: `peaks`, `Ensembl ids` or other `names`.

    >>> names_type(pd.Index(["ENSG00000139618.2", "ENSG00000141510"])), names_type(pd.Index(["chr1:10-20", "chrX-5-9"]))
    ('Ensembl ids', 'peaks')
    """
    some = [str(name).strip() for name in names[:2000]]
    for described, pattern in (("Ensembl ids", ENSEMBL), ("peaks", PEAK)):
        if some and sum(pattern.fullmatch(name) is not None for name in some) > len(some) / 2:
            return described
    return "names"


@_remembered
def keys_of(names: Sequence[str]) -> pd.Index:
    """Return one spelling of each name: Ensembl ids without version, peaks as `1:10-20`, numbered repeats as `A-1`.

    Returns
    -------
    Texts (len(names),), unique: a repeated key is numbered.

    >>> list(keys_of(pd.Index(["chr1:10-20", "chrX_5_9", "2-7-8"])))
    ['1:10-20', 'X:5-9', '2:7-8']
    >>> list(keys_of(pd.Index(["TBCE", "TBCE.1", "NKX2-1"])))
    ['TBCE', 'TBCE-1', 'NKX2-1']
    """
    stripped = [name.strip() for name in names]
    known = set(stripped)
    pattern, respelt = {
        "Ensembl ids": (ENSEMBL, lambda found: (found[1] + (found[3] or "")).upper()),
        "peaks": (PEAK, lambda found: f"{found[1]}:{found[2]}-{found[3]}"),
        "names": (NUMBERED, lambda found: f"{found[1]}-{found[2]}" if found[1] in known else found[0]),
    }[names_type(names)]
    keys = [respelt(found) if (found := pattern.fullmatch(name)) else name for name in stripped]
    return unique_names(pd.Index(keys, dtype=object))


def unique_names(names: pd.Index) -> pd.Index:
    """Return the names with repeated ones numbered as anndata does it: A, A-1, …"""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names such as A-1 that were there before
        return make_index_unique(names)


def match(wanted: pd.Index, names: pd.Index) -> tuple[np.ndarray, str]:
    """Return the position of each wanted feature among the names.

    Returns
    -------
    Positions int (len(wanted),), -1 where it is missing, not to be changed; and in words which difference was disregarded, empty if
    none: one is only if that finds over a tenth more.
    """
    return _match(tuple(map(str, wanted)), tuple(map(str, names)))


@lru_cache(REMEMBERED)  # spellings of some ten thousand names take a sixth of a second, and are asked for several times
def _match(of_wanted: tuple[str, ...], of_names: tuple[str, ...]) -> tuple[np.ndarray, str]:
    wanted, names = pd.Index(of_wanted, dtype=object), pd.Index(of_names, dtype=object)
    best, how = _best_match(wanted, names)
    best.flags.writeable = False
    return best, how


def _best_match(wanted: pd.Index, names: pd.Index) -> tuple[np.ndarray, str]:
    wanted_keys, keys = keys_of(wanted), keys_of(names)
    exact = keys.get_indexer(wanted_keys)
    if (exact >= 0).all():
        return exact, ""
    best, how = exact, ""
    peaks = names_type(wanted) == names_type(names) == "peaks"
    for words, respelt, respelt_wanted in LOOSER_PEAKS if peaks else LOOSER_NAMES:
        found = _match_loosely(exact, [respelt(key) for key in keys], [respelt_wanted(key) for key in wanted_keys])
        if (found >= 0).sum() > 1.1 * (best >= 0).sum():
            best, how = found, words
    return best, how


def _match_loosely(exact: np.ndarray, keys: list[str], wanted: list[str]) -> np.ndarray:
    """Return the positions of `exact`, and for what is missing there those of an equal key that is nobody else's."""
    loose_keys, loose_wanted = pd.Index(keys, dtype=object), pd.Index(wanted, dtype=object)
    first = ~loose_keys.duplicated()
    found = loose_keys[first].get_indexer(loose_wanted)
    found = np.where(found < 0, -1, np.flatnonzero(first)[found])
    found = np.where(loose_wanted.duplicated(), -1, found)
    return np.where(exact >= 0, exact, np.where(np.isin(found, exact), -1, found))


def _joined(key: str) -> str:
    return re.sub("[._ ]", "-", key)


def _moved(start: int, end: int) -> Callable[[str], str]:
    """Return what moves the start and the end of a peak by some bases."""

    def moved(key: str) -> str:
        found = PEAK.fullmatch(key)
        return f"{found[1]}:{int(found[2]) + start}-{int(found[3]) + end}" if found else key

    return moved


def _same(key: str) -> str:
    return key


# How spellings are made alike, the least change first: in words, for the names there are, and for those wanted.
Looser = tuple[str, Callable[[str], str], Callable[[str], str]]

CASE, JOINTS = "upper and lower case", "points, hyphens and underscores (HLA.DRA, HLA-DRA)"

LOOSER_NAMES: tuple[Looser, ...] = (
    (CASE, str.casefold, str.casefold),
    (JOINTS, _joined, _joined),
    (f"{CASE}, {JOINTS}", lambda key: _joined(key).casefold(), lambda key: _joined(key).casefold()),
)

LOOSER_PEAKS: tuple[Looser, ...] = (
    (CASE, str.casefold, str.casefold),
    *(
        (f"one base: {where} differ by one (counted from 0 or from 1)", _same, _moved(start, end))
        for start, end, where in (
            (1, 0, "starts"), (-1, 0, "starts"), (1, 1, "peaks"), (-1, -1, "peaks"),
        )
    ),
)  # fmt: skip


NameColumns = Mapping[str, pd.Index]  # "" is the index of var; text columns by their name


@_remembered
def are_positions(names: Sequence[str]) -> bool:
    """Return whether names are mere numbers of rows (0, 1, 2, …; also V1, V2, …), which say nothing about a feature.

    Entrez ids are numbers too, but some of them are far above the number of genes.

    >>> are_positions(pd.Index(["0", "1", "12"])), are_positions(pd.Index(["V1", "V2", "V3"])), are_positions(pd.Index(["CD4"]))
    (True, True, False)
    """
    found = [POSITION.fullmatch(name.strip()) for name in names]
    if not found or not all(found):
        return False
    numbers = [int(one[2]) for one in found if one]
    return len({one[1] for one in found if one}) == 1 and max(numbers) < max(MOST_POSITIONS, 3 * len(names))


@_remembered
def _are_numbered(names: Sequence[str]) -> bool:
    """Return whether names only number the features (gene_0, gene_1, …): they may be names, if there are no others.

    >>> _are_numbered(pd.Index(["gene_0", "gene_1"])), _are_numbered(pd.Index(["CD4", "CD8A"]))
    (True, False)
    """
    found = [NUMBERED_FEATURE.fullmatch(name.strip()) for name in names]
    return bool(found) and all(found) and len({one[1] for one in found if one}) == 1


def name_columns(var: pd.DataFrame) -> dict[str, pd.Index]:
    """Return the index of `var` (as "") and its text columns that could be names: few repeats, few gaps.

    An index of mere numbers is left out where there is such a column; then usual names of columns come first.
    """
    columns = {"": var.index.astype(str)}
    for name in var.columns:
        column = var[name]
        if isinstance(column.dtype, pd.CategoricalDtype):
            column = column.astype(column.cat.categories.dtype)
        if not (pd.api.types.is_string_dtype(column.dtype) or column.dtype == object):
            continue
        texts = column.dropna().astype(str)
        if len(texts) > 0.5 * len(var) and texts.nunique() > 0.8 * len(texts):
            columns[str(name)] = pd.Index(column.astype(object).where(column.notna(), "").astype(str))
    positions = are_positions(columns[""])
    if not positions and not _are_numbered(columns[""]):
        return columns
    usual = {name: place for place, name in enumerate(NAME_COLUMNS)}
    by_name = sorted(columns, key=lambda name: usual.get(name, len(usual)))
    named = {name: columns[name] for name in by_name if name and not are_positions(columns[name])}
    if positions:
        return named or {"": columns[""]}
    return {name: column for name, column in named.items() if name in usual} or columns


def choose_name_columns(files: list[NameColumns], *, given: bool = False) -> list[str]:
    """Return for each file the column whose names fit the other files best.

    Parameters
    ----------
    files
        `name_columns` of each file, or the one column that GENE_COL names.
    given
        Whether the first of `files` is a saved model's features, all of which are wanted.

    Notes
    -----
    The first column, the index, is chosen unless another fits clearly better.
    """
    best = [next(iter(columns)) for columns in files]
    best_score = _score(files, best, given=given)
    if best_score >= WARN_BELOW:
        return best
    for first in files[0]:
        chosen = [first]
        for other in files[1:]:
            chosen.append(max(other, key=lambda name: _shared(files[0][first], other[name], given=given)))
        score = _score(files, chosen, given=given)
        if score > best_score + 0.1:
            best, best_score = chosen, score
    return best


def _shared(one: pd.Index, other: pd.Index, *, given: bool) -> float:
    """Return the share of the shorter list, or of the given one, that both have."""
    found = int((match(one, other)[0] >= 0).sum())
    return found / max(1, len(one) if given else min(len(one), len(other)))


def _score(files: list[NameColumns], chosen: list[str], *, given: bool) -> float:
    first = files[0][chosen[0]]
    others = zip(files[1:], chosen[1:], strict=True)
    return min((_shared(first, other[name], given=given) for other, name in others), default=1.0)


# --- what is missing -------------------------------------------------------------------------------------------------


def never_seen(seen: Mapping[str, np.ndarray], cells: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Return for each batch which features it seems not to have at all, although the other batches have them.

    Parameters
    ----------
    seen
        Batch -> how many of its cells have a value of each feature that is not zero, int (n_features,).
    cells
        Batch -> how many cells it has.

    Returns
    -------
    Batch -> bool (n_features,).
    """
    all_seen, n = sum(of_batch.astype(np.int64) for of_batch in seen.values()), sum(cells.values())
    return {
        name: (of_batch == 0) & (all_seen * cells[name] >= EXPECTED_CELLS * max(1, n - cells[name]))
        for name, of_batch in seen.items()
    }


def not_measured(
    of_types: Mapping[str, np.ndarray], cells: Mapping[str, int], of_target: np.ndarray, n_target: int
) -> np.ndarray:
    """Return which features a target does not have: zero in all its cells, although every annotated cell type has them so often
    that chance cannot explain it. A target of one type only keeps the markers of all others.

    If the target lacks more than half of the features that can be judged so, it lacks the rare ones too that it never has.

    Parameters
    ----------
    of_types
        Cell type -> how many of its annotated cells have a value of each feature that is not zero, int (n_features,).
    cells
        Cell type -> how many annotated cells it has.
    of_target
        How many of the target's cells have a value that is not zero, int (n_features,).
    n_target
        How many cells the target has.

    Returns
    -------
    Bool (n_features,).
    """
    common = [name for name in of_types if cells[name] >= CELLS_OF_A_TYPE]
    if not common or not of_target.any():  # a target without any value is told about elsewhere
        return np.zeros(len(of_target), dtype=bool)
    rates = np.stack([of_types[name] / cells[name] for name in common])
    has = (of_target > 0) & (rates.mean(axis=0) > 0)
    # A target read less deeply has every feature in fewer cells.
    depth = min(1.0, float(np.median(of_target[has] / n_target / rates.mean(axis=0)[has]))) if has.any() else 1.0
    judged = n_target * depth * rates.min(axis=0) >= EXPECTED_CELLS
    lacking: np.ndarray = judged & (of_target == 0)
    return of_target == 0 if lacking.sum() > MOSTLY * judged.sum() else lacking


def missing_features_warnings(who: str, wanted: pd.Index, missing: np.ndarray, of: str) -> list[str]:
    """Return a list with one warning if under 80 % of the wanted features are there, otherwise an empty one.

    Parameters
    ----------
    who
        The batch or file that lacks them.
    wanted, missing
        Names, and bool for each.
    of
        Whose features the wanted ones are.

    Raises
    ------
    InputError
        If under 20 % of the wanted features are there, and fewer than 50 of them.
    """
    message = few_features(who, wanted, missing, of)
    if message is None:
        return []
    if (~missing).mean() >= REFUSE_BELOW or (~missing).sum() >= ENOUGH_FEATURES:
        return [message]
    raise InputError(f"{message} {PEAKS_ADVICE if names_type(wanted) == 'peaks' else GENES_ADVICE}")


def few_features(who: str, wanted: pd.Index, missing: np.ndarray, of: str) -> str | None:
    """Return how many of the wanted features are there if these are under 80 %, otherwise None; the parameters are those of
    `missing_features_warnings`."""
    there = int((~missing).sum())
    if not len(wanted) or there >= WARN_BELOW * len(wanted):
        return None
    return (
        f"{who} has only {there:,} of {len(wanted):,} features ({100 * there / len(wanted):.3g} %) {of}; the others: "
        f"{listing(wanted[missing], NAMES_SHOWN, quoted=False)}."
    )
