"""Leiden clusters of the target, and the majority of each: a second opinion beside the answer for each cell.

Clusters are found in the target's own prepared values, not in the model's codes, so that they know nothing of the model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from ..core.labels import UNASSIGNED
from ..core.subsample import subsample
from .embedding import ready_umap

MOST_CELLS = 20_000  # that are clustered; the others join the cluster of their neighbours

COMPONENTS = 50

NEIGHBOURS = 15


@dataclass(frozen=True)
class Clusters:
    """Each cell's cluster, and what most of the cluster's cells are."""

    cluster: np.ndarray  # objects (n,): "0" is the largest
    majority: np.ndarray  # objects (n,): the most frequent answer in the cell's cluster
    share: np.ndarray  # float64 (n,): of the cluster's cells with that answer


def of_target(x: sparse.csr_matrix, answers: np.ndarray, resolution: float | None, seed: int) -> Clusters | None:
    """Clusters of the target's cells and their majorities; None without a resolution.

    Parameters
    ----------
    x
        The target's prepared values, float32 (n, p).
    answers
        What each cell was called, objects (n,); `Unassigned` is an answer like any other, so that a cluster of cells
        that nothing fits is not named after the few that something does.
    resolution
        CLUSTER_RESOLUTION.
    """
    if resolution is None:
        return None
    cluster = leiden(x, resolution, seed)
    majority, share = majorities(cluster, answers)
    return Clusters(cluster, majority, share)


def leiden(x: sparse.csr_matrix, resolution: float, seed: int) -> np.ndarray:
    """Leiden clusters (Traag, Waltman & van Eck 2019, doi 10.1038/s41598-019-41695-z) of the graph of 15 nearest
    neighbours on 50 principal components, as scanpy makes it; at most 20,000 cells are clustered, and each other cell
    joins the cluster that most of its 15 nearest clustered cells are in.

    Parameters
    ----------
    x
        Floats (n, p).

    Returns
    -------
    Objects (n,): numbers as text, the largest cluster first.
    """
    n = x.shape[0]
    rows = subsample(n, MOST_CELLS, seed)
    n_components = min(COMPONENTS, len(rows) - 1, x.shape[1] - 1)
    if len(rows) < 3 or n_components < 1 or not _varies(x[rows]):
        return np.full(n, "0", dtype=object)
    from sklearn.decomposition import PCA
    from sklearn.neighbors import KNeighborsClassifier

    pca = PCA(n_components, svd_solver="arpack", random_state=seed).fit(x[rows])
    points = pca.transform(x)
    found = _leiden(points[rows], resolution, seed)
    if len(rows) < n:
        neighbours = KNeighborsClassifier(min(NEIGHBOURS, len(rows))).fit(points[rows], found)
        others = np.setdiff1d(np.arange(n), rows)
        found = _joined(n, rows, found, others, neighbours.predict(points[others]))
    sizes = pd.Series(found).value_counts()
    order = sorted(sizes.index, key=lambda name: (-sizes[name], int(name)))
    return np.array([str(order.index(name)) for name in found], dtype=object)


def _varies(x: sparse.csr_matrix) -> bool:
    """Whether there are two cells that differ."""
    return bool((x.max(axis=0) != x.min(axis=0)).nnz)


def _joined(n: int, rows: np.ndarray, of_rows: np.ndarray, others: np.ndarray, of_others: np.ndarray) -> np.ndarray:
    whole = np.empty(n, dtype=object)
    whole[rows], whole[others] = of_rows, of_others
    return whole


def _leiden(points: np.ndarray, resolution: float, seed: int) -> np.ndarray:
    """Clusters of points (n, d), objects (n,)."""
    import anndata as ad

    ready_umap()  # whose weights of neighbours scanpy takes
    import scanpy as sc

    cells = ad.AnnData(obs=pd.DataFrame(index=[str(i) for i in range(len(points))]), obsm={"points": points})
    # Neighbours are found exactly, by scikit-learn: pynndescent 0.7.0 fails with scipy 1.17 on larger data.
    sc.pp.neighbors(cells, min(NEIGHBOURS, len(points) - 1), use_rep="points", transformer="sklearn", random_state=seed)
    sc.tl.leiden(
        cells, resolution, flavor="igraph", n_iterations=2, directed=False, random_state=seed, key_added="cluster"
    )
    return cells.obs["cluster"].astype(object).to_numpy()


def majorities(cluster: np.ndarray, answers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The most frequent answer in each cell's cluster, and its share of the cluster's cells.

    Of equally frequent answers the first by name, a type before `Unassigned`.

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


def table(clusters: Clusters | None, answers: np.ndarray, labels: np.ndarray | None) -> pd.DataFrame:
    """One row for each cluster: `cells`, `majority`, `share`, the `second` most frequent answer with its share,
    `Unassigned` (share) and, where labels are known, `right` (the share of labelled cells whose label is the majority).

    Parameters
    ----------
    answers
        What each cell was called, objects (n,).
    labels
        Objects (n,), None where unknown; None without any.
    """
    if clusters is None:
        return pd.DataFrame({"note": ["CLUSTER_RESOLUTION is not set: the cells were not clustered."]})
    rows = {}
    for name in sorted(set(clusters.cluster), key=int):
        here = clusters.cluster == name
        first = int(np.argmax(here))
        others = pd.Series(answers[here][answers[here] != clusters.majority[first]]).value_counts().sort_index()
        others = others.sort_values(ascending=False, kind="stable")
        rows[name] = {
            "cells": int(here.sum()),
            "majority": clusters.majority[first],
            "share %": round(100 * clusters.share[first], 1),
            "second": others.index[0] if len(others) else None,
            "second's share %": round(100 * others.iloc[0] / here.sum(), 1) if len(others) else None,
            "Unassigned %": round(100 * float((answers[here] == UNASSIGNED).mean()), 1),
        }
        if labels is not None:
            known = here & pd.notna(labels)
            right = float((labels[known] == clusters.majority[first]).mean()) if known.any() else None
            rows[name]["majority is the label %"] = None if right is None else round(100 * right, 1)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("cluster")
