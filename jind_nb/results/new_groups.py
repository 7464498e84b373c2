"""The target's cells that are unlike everything annotated, as groups: how many, next to which type, and by which features apart.

A cell type that the annotated batches lack is a group of cells; single damaged cells are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from ..core.labels import UNLIKE
from ..core.sparse_rows import mean_and_variance
from ..core.subsample import subsample
from ..core.text import listing, plural
from ..model.in_blocks import in_blocks
from .clusters import leiden
from .target import TargetResult, target_rows

RESOLUTION = 0.5  # coarse: a few groups, not many
FEWEST_CELLS = 10  # of a group that is shown, and of those that it is compared with
MOST_GROUPS, MARKERS = 10, 8
CLEARLY = 0.5  # standard deviations, that a feature is higher at least than in all types: less is chance
# Of a group's cells, nearest to one type: if it is fewer, so many types are named; if it is not even half, none is clearly the nearest.
NEARLY_ALL, MOST_NEAREST, CLEAR = 0.9, 3, 0.5
# Of how two groups differ from all other cells, the correlation above which they are much alike. Groups of one type had 0.80 to 0.95,
# of two types up to 0.69, in five sets with a type hidden.
LIKE = 0.75
MOST_GROUPED = 3_000  # of a file's cells that are unlike all annotated ones
MOST_COMPARED, MOST_OF_ALL_TYPES = 200, 6_000  # of a file's cells: of one type, and of all together, beside them
CELLS_AT_ONCE = 5_120  # that are copied; memory only
ALL_OTHERS = "all other cells"
# Columns of the table.
FEATURES, FEATURES_OF_OTHERS = "median features", "median features of others"
HIGHER, LOWER, HIGHER_THAN_ALL, MUCH_LIKE = "higher", "lower", "higher than in all types", "much like"
NO_GROUPS = f"No group of {FEWEST_CELLS} or more of the target's cells is unlike all annotated cells."


@dataclass(frozen=True)
class Groups:
    """The target's cells that are unlike everything annotated, as groups."""

    table: pd.DataFrame  # a row for each, the largest first: `find_groups`
    of_cells: np.ndarray  # objects (n_target,): each cell's group, as the table calls it; None for a cell in none
    asked: int  # cells unlike everything annotated that were grouped: of a large file some


def to_read(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of groups with its lists as text."""
    lists = {name: [", ".join(of or ()) for of in table[name]] for name in (HIGHER, LOWER, HIGHER_THAN_ALL, MUCH_LIKE)}
    return table.assign(**lists)


def to_json(table: pd.DataFrame | None) -> list[dict[str, object]]:
    """Return the rows of a table of groups, as metrics.json has them; none without a table."""
    if table is None:
        return []
    return table.reset_index().rename(columns=lambda name: name.replace(" ", "_")).to_dict("records")


def from_json(rows: list[dict[str, object]]) -> pd.DataFrame | None:
    """Return the table whose rows `to_json` gave.

    >>> table = pd.DataFrame({"nearest type": ["B"], "higher": [["g1", "g2"]]}, index=pd.Index(["group 1"], name="group"))
    >>> from_json(to_json(table)).equals(table), from_json([])
    (True, None)
    """
    table = pd.DataFrame(rows).rename(columns=lambda name: name.replace("_", " "))
    return table.set_index("group") if rows else None


@dataclass(frozen=True)
class _Moments:
    """The mean and the variance of each feature of some cells, float64 (p,) each."""

    mean: np.ndarray
    variance: np.ndarray

    @classmethod
    def of(cls, x: sparse.csr_matrix, rows: np.ndarray) -> _Moments:
        """Compute them for some rows of cells (n, p), one at least; some are copied at a time."""
        parts = in_blocks(lambda block: mean_and_variance(x[rows[block]]), len(rows), CELLS_AT_ONCE)
        means, variances = (np.stack(of_parts) for of_parts in zip(*parts, strict=True))
        n = [min(CELLS_AT_ONCE, len(rows) - start) for start in range(0, len(rows), CELLS_AT_ONCE)]
        mean = np.average(means, axis=0, weights=n)
        return cls(mean, np.average(variances + (means - mean) ** 2, axis=0, weights=n))


@dataclass(frozen=True)
class _Beside:
    """The cells that groups are compared with."""

    features: pd.Index
    own: Mapping[str, _Moments]  # the target's cells of each type that has ten or more
    annotated: Mapping[str, _Moments]  # annotated cells of each other type that has ten or more
    others: _Moments | None  # all the target's cells that are not unlike the reference; None without any
    n_features: int  # that these have above zero, the median

    def of_type(self, types: pd.Index) -> tuple[str, _Moments | None]:
        """Return what a group is compared with, in words too, given its most probable types, the most frequent first."""
        nearest = types[0]
        if nearest not in self.own and nearest in self.annotated:
            return f"annotated {nearest}", self.annotated[nearest]
        of_target = [name for name in types if name in self.own]
        return (of_target[0], self.own[of_target[0]]) if of_target else (ALL_OTHERS, self.others)


def find_groups(prepared: ad.AnnData, target: str, result: TargetResult, seed: int) -> Groups | None:
    """Group the target's cells that are `unlike reference`; None if there is no group.

    Columns of the table, the ten largest groups: `cells`; `median features` above zero, and those of the target's other cells (a group with far
    fewer may be damaged cells); `nearest type` (the most frequent among the group's most probable types, and others with it unless nearly all
    are of that type); `compared with`, and `higher` and `lower` than in these: the features that set the group apart most, in standard
    deviations. Compared are the target's own cells of that type; the annotated ones where it has fewer than ten (which differ from all of
    the target's, by the protocol too); the target's of the next type; or all its others. `higher than in all types`: the features
    that are higher, by half a standard deviation at least, than in the cells of each type, the target's or, where these are fewer than ten,
    the annotated ones; None where there is no type to ask. `much like`: other groups that differ from the target's other cells in the
    same way, often of the same type. The last four are lists of text.

    Parameters
    ----------
    prepared
        The run's prepared cells, annotated ones and the target's.
    """
    flagged, rows = np.flatnonzero(result.reasons == UNLIKE), target_rows(prepared, target)
    if len(flagged) < FEWEST_CELLS:
        return None
    x, types = sparse.csr_matrix(prepared.X), prepared.obs["cell_type"].astype(object).to_numpy()
    own, annotated = (
        {name: cells for name in result.final.classes if len(cells := find(name)) >= FEWEST_CELLS}
        for find in (
            lambda name: rows[(result.names == name) & (result.final.raw == name)],
            lambda name: np.flatnonzero(types == name),
        )
    )
    others = rows[result.reasons != UNLIKE]
    beside = _Beside(
        prepared.var_names,
        {name: _Moments.of(x, cells) for name, cells in own.items()},
        {name: _Moments.of(x, cells) for name, cells in annotated.items() if name not in own},
        _Moments.of(x, others) if len(others) else None,
        _n_features(x, others),
    )
    found = _groups(x[rows[flagged]], result.final.raw[flagged], beside, seed)
    return _among(found, flagged, len(rows))


def find_groups_of_file(
    table: pd.DataFrame,
    order: np.ndarray,
    read: Callable[[np.ndarray], sparse.csr_matrix],
    features: pd.Index,
    seed: int,
) -> Groups | None:
    """Group the cells of a file as `find_groups` does. It may be too large to hold, and has no annotated cells: so at most 3,000 of the cells
    that are unlike all annotated ones are grouped, beside at most 200 of each type.

    Where the file has no others, nothing is higher or lower. Types of which the file has fewer than ten cells are not asked.

    Parameters
    ----------
    table
        A `tables.predictions_table`.
    order
        The rows in an order that does not depend on the file's, int (n,): cells are drawn in it.
    read
        Returns the values of some rows, ascending.
    """
    reason, raw, names = (table[of].to_numpy(dtype=object) for of in ("reason", "raw_predictions", "predictions"))

    def drawn(are_wanted: np.ndarray, most: int) -> np.ndarray:
        rows = order[are_wanted[order]]
        return rows[subsample(len(rows), most, seed)]

    flagged = drawn(reason == UNLIKE, MOST_GROUPED)
    if len(flagged) < FEWEST_CELLS:
        return None
    types = [name for name, n in pd.Series(names[names == raw]).value_counts().items() if n >= FEWEST_CELLS]
    most = min(MOST_COMPARED, max(FEWEST_CELLS, MOST_OF_ALL_TYPES // max(1, len(types))))
    compared = {name: drawn((names == name) & (raw == name), most) for name in types} | {
        ALL_OTHERS: drawn(reason != UNLIKE, most)
    }
    rows = np.unique(np.concatenate([flagged, *compared.values()]))
    x = read(rows)
    places = {name: np.flatnonzero(np.isin(rows, cells)) for name, cells in compared.items() if len(cells)}
    moments = {name: _Moments.of(x, cells) for name, cells in places.items()}
    of_others, others = moments.pop(ALL_OTHERS, None), places.get(ALL_OTHERS, rows[:0])
    beside = _Beside(features, moments, {}, of_others, _n_features(x, others))
    found = _groups(x[np.searchsorted(rows, flagged)], raw[flagged], beside, seed)
    return _among(found, flagged, len(table))


def title(groups: Groups, reasons: Sequence[str]) -> str:
    """Return the title of a table of groups, with how many of the cells unlike all annotated ones are in none, by all cells' reasons.

    >>> groups = Groups(pd.DataFrame({"cells": [20]}), np.array([]), asked=27)
    >>> title(groups, [UNLIKE] * 27)
    'Groups of 10 or more cells that are unlike all annotated ones, the largest first; 7 such cells are in none of them. unlike_groups.csv lists the cells.'
    """
    n_unlike = int((np.asarray(reasons) == UNLIKE).sum())
    drawn = f" ({groups.asked:,} of the {n_unlike:,}, drawn at random)" if groups.asked < n_unlike else ""
    alone = groups.asked - int(groups.table["cells"].sum())
    apart = f"; {plural(alone, 'such cell is', 'such cells are')} in none of them" if alone else ""
    return f"Groups of {FEWEST_CELLS} or more cells that are unlike all annotated ones{drawn}, the largest first{apart}. unlike_groups.csv lists the cells."


def _groups(x: sparse.csr_matrix, raw: np.ndarray, beside: _Beside, seed: int) -> Groups | None:
    """Group cells unlike all annotated ones by their values (n, p), given their most probable types, objects (n,)."""
    group = leiden(x, RESOLUTION, seed)
    rows: dict[str, dict[str, object]] = {}
    apart = []
    of_cells = np.full(len(group), None, dtype=object)
    for number in sorted(set(group), key=int):
        here = group == number
        if here.sum() >= FEWEST_CELLS and len(rows) < MOST_GROUPS:
            name = f"group {len(rows) + 1}"
            moments, n_features = _Moments.of(x, np.flatnonzero(here)), _n_features(x, np.flatnonzero(here))
            rows[name], of_cells[here] = _row(moments, n_features, raw[here], beside), name
            apart.append(standardised_difference(moments, beside.others))
    if not rows:
        return None
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("group")
    table[MUCH_LIKE] = _much_like(table.index, np.stack(apart))
    return Groups(table, of_cells, len(raw))


def _much_like(names: pd.Index, apart: np.ndarray) -> list[list[str]]:
    """Return for each group which others differ from all other cells of the target as it does, by how they do, (groups, p)."""
    varies = apart.std(axis=1) > 0
    alike = np.zeros((len(names), len(names)), dtype=bool)
    alike[np.ix_(varies, varies)] = np.corrcoef(apart[varies]) > LIKE
    np.fill_diagonal(alike, val=False)
    return [list(names[row]) for row in alike]


def _row(here: _Moments, n_features: int, raw: np.ndarray, beside: _Beside) -> dict[str, object]:
    """Return the row of a group's cells, given the features of the median one and their most probable types, objects (n,)."""
    types = pd.Series(raw).value_counts().sort_index().sort_values(ascending=False, kind="stable")
    share = types.iloc[0] / len(raw)
    which, others = beside.of_type(types.index)
    apart = standardised_difference(here, others)
    of_all = [standardised_difference(here, of) for of in (*beside.own.values(), *beside.annotated.values())]

    def first(score: np.ndarray, above: float = 0.0) -> list[str]:
        order = np.argsort(-score, kind="stable")[:MARKERS]
        return list(map(str, beside.features[order[score[order] > above]]))

    nearest = types.index[0]
    if share < NEARLY_ALL:
        several = listing((f"{of} ({n})" for of, n in types.items()), MOST_NEAREST, quoted=False)
        nearest = several if share > CLEAR else f"none clearly: {several}"
    return {
        "cells": len(raw),
        FEATURES: n_features,
        FEATURES_OF_OTHERS: beside.n_features,
        "nearest type": nearest,
        "compared with": which if others is not None else "",
        HIGHER: first(apart),
        LOWER: first(-apart),
        HIGHER_THAN_ALL: first(np.min(of_all, axis=0), CLEARLY) if of_all else None,
    }


def _n_features(x: sparse.csr_matrix, rows: np.ndarray) -> int:
    """Return how many features are above zero in the median cell of some rows of cells (n, p); 0 without any."""
    counts = in_blocks(lambda block: np.asarray((x[rows[block]] > 0).sum(axis=1)).ravel(), len(rows), CELLS_AT_ONCE)
    return round(float(np.median(np.concatenate(counts)))) if len(rows) else 0


def _among(found: Groups | None, flagged: np.ndarray, n: int) -> Groups | None:
    """Return groups of some of n cells, given the places of these, int (m,), as groups of all n."""
    if found is None:
        return None
    of_cells = np.full(n, None, dtype=object)
    of_cells[flagged] = found.of_cells
    return replace(found, of_cells=of_cells)


def standardised_difference(here: _Moments, others: _Moments | None) -> np.ndarray:
    """Return how much higher each feature is in some cells than in others, float64 (p,): the difference of means
    divided by the root of the mean variance plus its median, which keeps features of next to no variance quiet. Zero without others.

    >>> x = sparse.csr_matrix([[2.0, 0.0], [4.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
    >>> a, b = (_Moments.of(x, np.array(rows)) for rows in ([0, 1], [2, 3]))
    >>> standardised_difference(a, b).round(2).tolist()
    [1.33, 0.0]
    """
    if others is None:
        return np.zeros(len(here.mean))
    spread = np.sqrt((here.variance + others.variance) / 2)
    softened = spread + (np.median(spread) or spread.mean() or 1.0)
    difference: np.ndarray = (here.mean - others.mean) / softened
    return difference
