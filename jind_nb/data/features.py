"""Names of genes and peaks: one spelling for each, which of two files' features are the same, and which are missing.

Names keep the spelling they have in the file; only their keys are compared.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pandas as pd

from ..errors import InputError

ENSEMBL = re.compile(r"(ENS[A-Z]*[0-9]{6,})(\.[0-9]+)?(_PAR_Y)?", re.IGNORECASE)

PEAK = re.compile(r"(?:chr)?([A-Za-z0-9.]+(?:_[A-Za-z]\w*)?)[:_-]([0-9]+)[-_]([0-9]+)", re.IGNORECASE)

NUMBERED = re.compile(r"(.+)[.-]([0-9]{1,3})")  # A-1 as anndata, A.1 as R makes a repeated name unique

WARN_BELOW, REFUSE_BELOW = 0.8, 0.2

# A model was trained on all its features: with half of them zero it assigns next to nothing (benchmarks/new_file.py).
MODEL_REFUSES_BELOW = 0.5

NAMES_SHOWN = 10

# A feature is missing in a batch if, at the rate of the other batches, so many of its cells should have it and none has.
EXPECTED_CELLS = 10


def kind_of(names: pd.Index) -> str:
    """`peaks`, `Ensembl ids` or `names`: what most of the names are.

    >>> kind_of(pd.Index(["ENSG00000139618.2", "ENSG00000141510"])), kind_of(pd.Index(["chr1:10-20", "chrX-5-9"]))
    ('Ensembl ids', 'peaks')
    """
    some = [str(name).strip() for name in names[:2000]]
    for kind, pattern in (("Ensembl ids", ENSEMBL), ("peaks", PEAK)):
        if some and sum(pattern.fullmatch(name) is not None for name in some) > len(some) / 2:
            return kind
    return "names"


def keys_of(names: pd.Index) -> pd.Index:
    """One spelling of each name: Ensembl ids without version, peaks as `1:10-20`, numbered repeats as `A-1`.

    Returns
    -------
    Texts (len(names),), unique: a key that comes again is numbered.

    >>> list(keys_of(pd.Index(["chr1:10-20", "chrX_5_9", "2-7-8"])))
    ['1:10-20', 'X:5-9', '2:7-8']
    >>> list(keys_of(pd.Index(["TBCE", "TBCE.1", "NKX2-1"])))
    ['TBCE', 'TBCE-1', 'NKX2-1']
    """
    kind = kind_of(names)
    stripped = [str(name).strip() for name in names]
    if kind == "Ensembl ids":
        keys = [
            found[1].upper() + (found[3] or "").upper() if (found := ENSEMBL.fullmatch(name)) else name
            for name in stripped
        ]
    elif kind == "peaks":
        keys = [f"{found[1]}:{found[2]}-{found[3]}" if (found := PEAK.fullmatch(name)) else name for name in stripped]
    else:
        known = set(stripped)
        keys = [
            f"{found[1]}-{found[2]}" if (found := NUMBERED.fullmatch(name)) and found[1] in known else name
            for name in stripped
        ]
    return unique(pd.Index(keys, dtype=object))


def unique(names: pd.Index) -> pd.Index:
    """Repeated names numbered, the first stays as it is: A, A-1, …"""
    if names.is_unique:
        return names
    taken, again = set(names), Counter[str]()
    numbered = []
    for name, repeated in zip(names, names.duplicated(), strict=True):
        new = name
        while repeated and new in taken:
            again[name] += 1
            new = f"{name}-{again[name]}"
        taken.add(new)
        numbered.append(new)
    return pd.Index(numbered, dtype=object)


def match(wanted: pd.Index, names: pd.Index) -> tuple[np.ndarray, bool]:
    """Where each wanted feature is among the names.

    Returns
    -------
    Positions int (len(wanted),), -1 where it is missing; whether upper and lower case had to be taken as alike, which
    is done only where it finds at least a tenth more.
    """
    wanted_keys, keys = keys_of(wanted), keys_of(names)
    exact = keys.get_indexer(wanted_keys)
    if (exact >= 0).all():
        return exact, False
    folded, folded_wanted = (pd.Index([key.casefold() for key in index], dtype=object) for index in (keys, wanted_keys))
    first = ~folded.duplicated()
    loose = np.flatnonzero(first)
    found = folded[first].get_indexer(folded_wanted)
    found = np.where(found < 0, -1, loose[found])
    found = np.where(folded_wanted.duplicated(), -1, found)
    merged = np.where(exact >= 0, exact, np.where(np.isin(found, exact), -1, found))
    n_exact, n_loose = int((exact >= 0).sum()), int((merged >= 0).sum())
    if n_loose > 1.1 * n_exact:
        return merged, True
    return exact, False


Columns = Mapping[str, pd.Index]  # "" is the index of var; text columns by their name


def text_columns(var: pd.DataFrame) -> dict[str, pd.Index]:
    """The index of `var` (as "") and its text columns that could be names: few repeats, no gaps worth mentioning."""
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
    return columns


def choose_columns(files: list[Columns], *, given: bool = False) -> list[str]:
    """For each file the column whose names fit those of the others best; the index unless another fits clearly better.

    Parameters
    ----------
    files
        `text_columns` of each file, or the one column GENE_COL names.
    given
        Whether the first are a saved model's features, all of which are wanted.
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
    """Features in common, as a share of the shorter list, or of the given one."""
    found = int((match(one, other)[0] >= 0).sum())
    return found / max(1, len(one) if given else min(len(one), len(other)))


def _score(files: list[Columns], chosen: list[str], *, given: bool) -> float:
    first = files[0][chosen[0]]
    others = zip(files[1:], chosen[1:], strict=True)
    return min((_shared(first, other[name], given=given) for other, name in others), default=1.0)


# --- what is missing -------------------------------------------------------------------------------------------------


def never_seen(seen: Mapping[str, np.ndarray], cells: Mapping[str, int]) -> dict[str, np.ndarray]:
    """For each batch, which features it seems not to hold at all although the other batches do.

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


def judge(who: str, wanted: pd.Index, missing: np.ndarray, of: str, refuse_below: float = REFUSE_BELOW) -> str | None:
    """A warning if under 80 % of the wanted features are there.

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
        If a smaller share than `refuse_below` is.
    """
    share = int((~missing).sum()) / len(wanted) if len(wanted) else 1.0
    if share >= WARN_BELOW:
        return None
    lacking = [str(name) for name in wanted[missing]]
    more = f" and {len(lacking) - NAMES_SHOWN:,} more" if len(lacking) > NAMES_SHOWN else ""
    told = (
        f"{who} has only {len(wanted) - len(lacking):,} of {len(wanted):,} features ({100 * share:.3g} %) {of}; missing: "
        f"{', '.join(lacking[:NAMES_SHOWN])}{more}."
    )
    if share >= refuse_below:
        return told
    if kind_of(wanted) == "peaks":
        raise InputError(
            f"{told} Peaks are matched by position, not overlapped: re-quantify all batches on one common peak set, for "
            "instance the peaks of the annotated batches."
        )
    raise InputError(
        f"{told} Use the same kind of names (symbols or Ensembl ids) and the same genes in all batches; GENE_COL names "
        "another column of var. If one batch was measured on a small panel on purpose, cut the others to that panel."
    )
