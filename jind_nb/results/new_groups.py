"""The target's cells that are unlike everything annotated, as groups: how many, next to which type, and by which features apart.

A cell type that the annotated batches lack is a group of cells; single damaged cells are not.
"""

from collections.abc import Callable, Sequence

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from ..core.labels import UNLIKE
from ..core.subsample import subsample
from ..core.text import listing, plural
from .clusters import leiden
from .target import TargetResult, target_rows

RESOLUTION = 0.5  # coarse: a few groups, not many
FEWEST_CELLS = 10  # of a group that is shown
MOST_GROUPS, MARKERS = 10, 8
NEARLY_ALL, MOST_NEAREST = 0.9, 3  # of a group's cells, nearest to one type; else so many types are named
MOST_GROUPED, MOST_COMPARED = 3_000, 200  # cells of a file that are held: with those beside ten types 5,000
ALL_OTHERS = "all other cells"
NO_GROUPS = f"No group of {FEWEST_CELLS} or more of the target's cells is unlike all annotated cells."


def group_table(prepared: ad.AnnData, target: str, result: TargetResult, seed: int) -> pd.DataFrame | None:
    """Return a row for each group of the target's cells that are `unlike reference`, the largest first; None if there is none.

    Columns: `cells`, `nearest type` (the most frequent among the group's most probable types, and others with it unless nearly all
    are of that type), `compared with`, and `higher` and
    `lower` than in these: the features that set the group apart most, in standard deviations. Compared are the target's own cells of
    that type; the annotated ones where it has fewer than ten (which differ from all of the target's, by the protocol too); and
    all other cells of the target where these are fewer too.

    Parameters
    ----------
    prepared
        The run's prepared cells, annotated ones and the target's.
    """
    flagged, rows = np.flatnonzero(result.reasons == UNLIKE), target_rows(prepared, target)
    x, types = sparse.csr_matrix(prepared.X), prepared.obs["cell_type"].astype(object).to_numpy()

    def others(name: str) -> tuple[str, sparse.csr_matrix]:
        own, annotated = rows[result.names == name], np.flatnonzero(types == name)
        if len(own) >= FEWEST_CELLS:
            return name, x[own]
        if len(annotated) >= FEWEST_CELLS:
            return f"annotated {name}", x[annotated]
        return ALL_OTHERS, x[rows[result.reasons != UNLIKE]]

    return _table(x[rows[flagged]], result.final.raw[flagged], others, prepared.var_names, seed)


def group_table_of_file(
    table: pd.DataFrame,
    order: np.ndarray,
    read: Callable[[np.ndarray], sparse.csr_matrix],
    features: pd.Index,
    seed: int,
) -> pd.DataFrame | None:
    """Return `group_table` of a file that is too large to hold, and has no annotated cells: of at most 3,000 of its cells that are
    unlike all annotated ones, beside at most 200 of each nearest type, and of all others where the file has fewer than ten of it.

    Where the file has no others, `higher` and `lower` are empty.

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
    nearest = pd.Series(raw[flagged]).value_counts().index[:MOST_GROUPS]
    of_types = {name: drawn(names == name, MOST_COMPARED) for name in nearest}
    compared = {name: of_type for name, of_type in of_types.items() if len(of_type) >= FEWEST_CELLS}
    if len(compared) < len(of_types):
        compared[ALL_OTHERS] = drawn(reason != UNLIKE, MOST_COMPARED)
    rows = np.unique(np.concatenate([flagged, *compared.values()]))
    x = read(rows)

    def others(name: str) -> tuple[str, sparse.csr_matrix]:
        which = name if name in compared else ALL_OTHERS
        return which, x[np.searchsorted(rows, compared.get(which, rows[:0]))]

    return _table(x[np.searchsorted(rows, flagged)], raw[flagged], others, features, seed)


def _table(
    x: sparse.csr_matrix,
    raw: np.ndarray,
    others: Callable[[str], tuple[str, sparse.csr_matrix]],
    features: pd.Index,
    seed: int,
) -> pd.DataFrame | None:
    """Return the table of `group_table`.

    Parameters
    ----------
    x, raw
        Values (n, p) and most probable types, objects (n,), of the cells unlike all annotated ones.
    others
        Returns what a group whose nearest type is the given one is compared with, in words and their values (m, p).
    """
    if x.shape[0] < FEWEST_CELLS:
        return None
    group = leiden(x, RESOLUTION, seed)
    rows: dict[str, dict[str, object]] = {}
    for name in sorted(set(group), key=int):
        here = group == name
        if here.sum() < FEWEST_CELLS or len(rows) == MOST_GROUPS:
            continue
        types = pd.Series(raw[here]).value_counts().sort_index().sort_values(ascending=False, kind="stable")
        nearest = types.index[0]
        which, beside = others(nearest)
        apart = standardised_difference(x[here], beside) if beside.shape[0] else np.zeros(x.shape[1])
        order = np.argsort(-apart, kind="stable")
        best, last = order[:MARKERS], order[::-1][:MARKERS]
        rows[f"group {len(rows) + 1}"] = {
            "cells": int(here.sum()),
            "nearest type": nearest
            if types.iloc[0] >= NEARLY_ALL * here.sum()
            else listing((f"{of} ({n})" for of, n in types.items()), MOST_NEAREST, quoted=False),
            "compared with": which if beside.shape[0] else "",
            "higher": listing(features[best[apart[best] > 0]], MARKERS, quoted=False),
            "lower": listing(features[last[apart[last] < 0]], MARKERS, quoted=False),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("group") if rows else None


def title(groups: pd.DataFrame, reasons: Sequence[str]) -> str:
    """Return the title of `group_table`, with how many of the cells unlike all annotated ones are in no group, by all cells' reasons.

    >>> title(pd.DataFrame({"cells": [20]}), [UNLIKE] * 27)
    'Groups of 10 or more cells that are unlike all annotated ones, the largest first; 7 such cells are in no group'
    """
    n_unlike = int((np.asarray(reasons) == UNLIKE).sum())
    drawn = f" ({MOST_GROUPED:,} of the {n_unlike:,}, drawn at random)" if n_unlike > MOST_GROUPED else ""
    alone = min(n_unlike, MOST_GROUPED) - int(groups["cells"].sum())
    apart = f"; {plural(alone, 'such cell is', 'such cells are')} in no group" if alone else ""
    return f"Groups of {FEWEST_CELLS} or more cells that are unlike all annotated ones{drawn}, the largest first{apart}"


def standardised_difference(cells: sparse.csr_matrix, others: sparse.csr_matrix) -> np.ndarray:
    """Return how much higher each feature is in some cells (n, p) than in others (m, p), float64 (p,): the difference of means
    divided by the root of the mean variance plus its median, which keeps features of next to no variance quiet.

    >>> a, b = sparse.csr_matrix([[2.0, 0.0], [4.0, 0.0]]), sparse.csr_matrix([[0.0, 0.0], [2.0, 0.0]])
    >>> standardised_difference(a, b).round(2).tolist()
    [1.33, 0.0]
    """
    from sklearn.utils.sparsefuncs import mean_variance_axis  # takes 0.7 s to import, and few `predict` make a report

    means, variances = zip(*(mean_variance_axis(of.astype(np.float64), axis=0) for of in (cells, others)), strict=True)
    spread = np.sqrt((variances[0] + variances[1]) / 2)
    softened = spread + (np.median(spread) or spread.mean() or 1.0)
    difference: np.ndarray = (means[0] - means[1]) / softened
    return difference
