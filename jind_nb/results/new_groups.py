"""The target's cells that are unlike everything annotated, as groups: how many, next to which type, and by which features apart.

A cell type that the annotated batches lack is a group of cells; single damaged cells are not.
"""

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.utils.sparsefuncs import mean_variance_axis

from ..core.labels import UNLIKE
from ..core.text import listing
from .clusters import leiden
from .target import TargetResult, target_rows

RESOLUTION = 0.5  # coarse: a few groups, not many
FEWEST_CELLS = 10  # of a group that is shown
MOST_GROUPS, MARKERS = 10, 8
NO_GROUPS = f"No group of {FEWEST_CELLS} or more of the target's cells is unlike all annotated cells."


def group_table(prepared: ad.AnnData, target: str, result: TargetResult, seed: int) -> pd.DataFrame | None:
    """Return a row for each group of the target's cells that are `unlike reference`, the largest first; None if there is none.

    Columns: `cells`, `nearest type` (the most frequent among the group's most probable types), and `higher` and `lower` than in
    the target's own cells of that type, or in the annotated ones where it has fewer than ten: the features that set the group apart
    most, in standard deviations. (Annotated cells differ from all of the target's, by the protocol too.)

    Parameters
    ----------
    prepared
        The run's prepared cells, annotated ones and the target's.
    """
    flagged = np.flatnonzero(result.reasons == UNLIKE)
    if len(flagged) < FEWEST_CELLS:
        return None
    x = sparse.csr_matrix(prepared.X)
    of_flagged = x[target_rows(prepared, target)[flagged]]
    group = leiden(of_flagged, RESOLUTION, seed)
    types = prepared.obs["cell_type"].astype(object).to_numpy()
    rows: dict[str, dict[str, object]] = {}
    for name in sorted(set(group), key=int):
        here = group == name
        if here.sum() < FEWEST_CELLS or len(rows) == MOST_GROUPS:
            continue
        nearest = pd.Series(result.final.raw[flagged[here]]).mode().iloc[0]
        others = np.zeros(len(types), dtype=bool)
        others[target_rows(prepared, target)[result.names == nearest]] = True
        if others.sum() < FEWEST_CELLS and (types == nearest).any():
            others = types == nearest
        apart = standardised_difference(of_flagged[here], x[others]) if others.any() else np.zeros(x.shape[1])
        order = np.argsort(-apart, kind="stable")
        best, last = order[:MARKERS], order[::-1][:MARKERS]
        rows[f"group {len(rows) + 1}"] = {
            "cells": int(here.sum()),
            "nearest type": nearest,
            "higher": listing(prepared.var_names[best[apart[best] > 0]], MARKERS, quoted=False),
            "lower": listing(prepared.var_names[last[apart[last] < 0]], MARKERS, quoted=False),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("group") if rows else None


def standardised_difference(cells: sparse.csr_matrix, others: sparse.csr_matrix) -> np.ndarray:
    """Return how much higher each feature is in some cells (n, p) than in others (m, p), float64 (p,): the difference of means
    divided by the root of the mean variance plus its median, which keeps features of next to no variance quiet.

    >>> a, b = sparse.csr_matrix([[2.0, 0.0], [4.0, 0.0]]), sparse.csr_matrix([[0.0, 0.0], [2.0, 0.0]])
    >>> standardised_difference(a, b).round(2).tolist()
    [1.33, 0.0]
    """
    means, variances = zip(*(mean_variance_axis(of.astype(np.float64), axis=0) for of in (cells, others)), strict=True)
    spread = np.sqrt((variances[0] + variances[1]) / 2)
    softened = spread + (np.median(spread) or spread.mean() or 1.0)
    difference: np.ndarray = (means[0] - means[1]) / softened
    return difference
