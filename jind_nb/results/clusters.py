"""Leiden clusters of the target, and the majority of each: a second opinion beside the answer for each cell.

Clusters are found in the target's own prepared values, not in the model's latent space, so they do not depend on the model.
"""

from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from ..core._compat import import_umap
from ..core.labels import UNASSIGNED
from ..core.subsample import subsample
from ..data.fingerprints import own_order
from .embedding import COMPONENTS, NEIGHBOURS

MOST_CELLS = 20_000  # that are clustered; the others join the cluster of their neighbours

NOT_CLUSTERED = "CLUSTER_RESOLUTION is not set: the cells were not clustered."


@dataclass(frozen=True)
class Clusters:
    """Each cell's cluster, and the most frequent answer in it."""

    cluster: np.ndarray  # objects (n,): "0" is the largest
    majority: np.ndarray  # objects (n,): the most frequent answer in the cell's cluster
    share: np.ndarray  # float64 (n,): of the cluster's cells with that answer


def cluster_target(x: sparse.csr_matrix, answers: np.ndarray, resolution: float | None, seed: int) -> Clusters | None:
    """Cluster the target's cells and find each cluster's majority; None without a resolution.

    Parameters
    ----------
    x
        The target's prepared values, float32 (n, p).
    answers
        The answer for each cell, objects (n,). `Unassigned` counts like any other, so that a cluster of unknown cells is
        not named after the few that resemble a type.
    resolution
        CLUSTER_RESOLUTION.
    """
    if resolution is None:
        return None
    cluster = leiden(x, resolution, seed)
    return Clusters(cluster, *majorities(cluster, answers))


def leiden(x: sparse.csr_matrix, resolution: float, seed: int) -> np.ndarray:
    """Find Leiden clusters (Traag, Waltman & van Eck 2019, doi 10.1038/s41598-019-41695-z) of scanpy's graph of 15 nearest
    neighbours on 50 principal components.

    At most 20,000 cells are clustered. Each other cell joins the cluster of most of its 15 nearest clustered cells.

    Parameters
    ----------
    x
        Floats (n, p).

    Returns
    -------
    Objects (n,): numbers as text, the largest cluster first.
    """
    order = own_order(x)
    return _leiden_in_this_order(x[order], resolution, seed)[np.argsort(order)]


def _leiden_in_this_order(x: sparse.csr_matrix, resolution: float, seed: int) -> np.ndarray:
    n = x.shape[0]
    rows = subsample(n, MOST_CELLS, seed)
    n_components = min(COMPONENTS, len(rows) - 1, x.shape[1] - 1)
    all_equal = (x[rows].max(axis=0) != x[rows].min(axis=0)).nnz == 0
    if len(rows) < 3 or n_components < 1 or all_equal:
        return np.full(n, "0", dtype=object)
    from sklearn.decomposition import PCA  # takes a second to import
    from sklearn.neighbors import KNeighborsClassifier

    pca = PCA(n_components, svd_solver="arpack", random_state=seed).fit(x[rows])
    points = pca.transform(x)
    cluster = _leiden(points[rows], resolution, seed)
    if len(rows) < n:
        neighbours = KNeighborsClassifier(min(NEIGHBOURS, len(rows))).fit(points[rows], cluster)
        of_rows, cluster = cluster, neighbours.predict(points)
        cluster[rows] = of_rows
    sizes = pd.Series(cluster).value_counts()
    order = sorted(sizes.index, key=lambda name: (-sizes[name], int(name)))
    return pd.Series(cluster).map({name: str(i) for i, name in enumerate(order)}).to_numpy(dtype=object)


def _leiden(points: np.ndarray, resolution: float, seed: int) -> np.ndarray:
    """Find clusters of points (n, d), objects (n,)."""
    import_umap()  # whose weights of neighbours scanpy takes
    import scanpy as sc  # takes a second to import

    cells = ad.AnnData(obs=pd.DataFrame(index=[str(i) for i in range(len(points))]), obsm={"points": points})
    # Neighbours are found exactly, by scikit-learn: pynndescent 0.7.0 fails with scipy 1.17 on larger data.
    sc.pp.neighbors(cells, min(NEIGHBOURS, len(points) - 1), use_rep="points", transformer="sklearn", random_state=seed)
    sc.tl.leiden(cells, resolution, flavor="igraph", n_iterations=2, directed=False, random_state=seed)
    return cells.obs["leiden"].astype(object).to_numpy()


def majorities(cluster: np.ndarray, answers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the most frequent answer in each cell's cluster, and its share of the cluster's cells.

    Of equally frequent answers the first by name is taken, a type before `Unassigned`.

    Parameters
    ----------
    cluster, answers
        Objects (n,).

    Returns
    -------
    Objects (n,) and float64 (n,).

    >>> majority, share = majorities(np.array(["0", "0", "0", "1"]), np.array(["B", "B", "T", "Unassigned"]))
    >>> majority.tolist(), share.round(2).tolist()
    (['B', 'B', 'B', 'Unassigned'], [0.67, 0.67, 0.67, 1.0])
    """
    counts = pd.crosstab(cluster, answers)
    counts = counts[sorted(counts.columns, key=lambda name: (name == UNASSIGNED, name))]
    majority, share = counts.idxmax(axis=1), counts.max(axis=1) / counts.sum(axis=1)
    return majority.loc[cluster].to_numpy(dtype=object), share.loc[cluster].to_numpy(dtype=np.float64)


def cluster_table(clusters: Clusters, answers: np.ndarray, labels: np.ndarray | None) -> pd.DataFrame:
    """Return a row for each cluster: `cells`, `majority`, its share, the `second` most frequent answer with its share, the
    share of `Unassigned` and, where labels are known, the share of labelled cells whose label is the majority.

    Parameters
    ----------
    answers
        The answer for each cell, objects (n,).
    labels
        Objects (n,), None where unknown; None without any.
    """
    rows = {}
    for name in sorted(set(clusters.cluster), key=int):
        here = clusters.cluster == name
        majority = clusters.majority[here][0]
        shares = (100 * pd.Series(answers[here]).value_counts(normalize=True)).sort_index()
        others = shares.drop(majority, errors="ignore").sort_values(ascending=False, kind="stable")
        second, share_of_second = next(others.items(), (None, None))
        rows[name] = {
            "cells": int(here.sum()), "majority": majority, "share %": 100 * clusters.share[here][0],
            "second": second, "second's share %": share_of_second, "Unassigned %": shares.get(UNASSIGNED, 0.0),
        }  # fmt: skip
        if labels is not None:
            known = labels[here & pd.notna(labels)]
            rows[name]["majority is the label %"] = 100 * float((known == majority).mean()) if len(known) else None
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("cluster").round(1)
