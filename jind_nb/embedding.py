"""Two dimensions for pictures: one UMAP of the cells before any alignment, and linear views of the codes."""

from __future__ import annotations

import warnings
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd

from . import projection
from .data import sample

if TYPE_CHECKING:
    from .alignment import Annotated, KnownCodes

MOST_CELLS = 5_000
FEWEST_FOR_UMAP = 16
COMPONENTS = 50
NEIGHBOURS = 15
# umap takes 500 epochs below 10,000 cells and 200 above, which place them as well and need less than half of the time.
MANY_CELLS, EPOCHS = 2_000, 200


def ready_umap() -> ModuleType:
    """The module umap, its slow parts compiled once and for all."""
    with warnings.catch_warnings():
        # umap imports tqdm.auto, which asks for ipywidgets; its bars are not used here.
        warnings.filterwarnings("ignore", message="IProgress not found")
        import umap

    # Compiling these takes six seconds in every new process; numba can keep them on disk instead.
    umap.umap_.smooth_knn_dist.enable_caching()
    umap.umap_.compute_membership_strengths.enable_caching()
    with suppress(AttributeError):  # umap's own, not promised to stay
        umap.layouts._nb_optimize_layout_euclidean_single_epoch.enable_caching()
    return umap


def umap_of(prepared: ad.AnnData, seed: int) -> pd.DataFrame:
    """UMAP of at most 5,000 prepared cells, on their first 50 principal components (fewer than 16 cells: the first
    two components themselves).

    Neighbours are found exactly, by scikit-learn: pynndescent 0.7.0 fails with scipy 1.17 on larger data.

    Returns
    -------
    Columns `row` (int, row of `prepared`), `x`, `y` (float).
    """
    from sklearn.neighbors import NearestNeighbors

    rows = sample(prepared.n_obs, MOST_CELLS, seed)
    x = prepared.X[rows]
    n_components = min(COMPONENTS, min(x.shape) - 1)
    if n_components < 2:
        flat = np.zeros((len(rows), 2))
        flat[:, 0] = np.asarray(x.sum(axis=1)).ravel()
        return pd.DataFrame({"row": rows, "x": flat[:, 0], "y": flat[:, 1]})
    components = projection.coordinates(x, n_components, seed)
    if len(rows) < FEWEST_FOR_UMAP:
        points = components[:, :2]
    else:
        umap = ready_umap()
        distances, indices = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(rows) - 1)).fit(components).kneighbors()
        # umap counts a cell as its own first neighbour.
        indices = np.column_stack([np.arange(len(rows)), indices[:, :-1]])
        distances = np.column_stack([np.zeros(len(rows)), distances[:, :-1]])
        with warnings.catch_warnings():
            # No new cells are ever placed into this picture, so the missing search index does not matter.
            warnings.filterwarnings("ignore", message=".*knn_search_index.*")
            warnings.filterwarnings("ignore", message=".*n_jobs value.*")
            points = umap.UMAP(
                n_neighbors=indices.shape[1],
                n_epochs=EPOCHS if len(rows) > MANY_CELLS else None,
                random_state=seed,
                n_jobs=1,
                precomputed_knn=(indices, distances, None),
            ).fit_transform(components)
    return pd.DataFrame({"row": rows, "x": points[:, 0], "y": points[:, 1]})


def code_points(annotated: Annotated, known: KnownCodes, target: str, seed: int) -> pd.DataFrame:
    """Annotated cells' and the target's codes, every stage on the same axes: the annotated codes' first two
    principal components. At most 5,000 cells of each kind.

    Returns
    -------
    Columns `stage`, `x`, `y`, `batch`, `cell type` (label or prediction); annotated cells stand once for each stage.
    """
    from sklearn.decomposition import PCA

    chosen = sample(len(known.codes), MOST_CELLS, seed)
    pca = PCA(2, svd_solver="covariance_eigh").fit(known.codes[chosen])

    def frame(stage: str, codes: np.ndarray, batch: np.ndarray | str, cell_type: np.ndarray) -> pd.DataFrame:
        x, y = pca.transform(codes).T
        return pd.DataFrame({"stage": stage, "x": x, "y": y, "batch": batch, "cell type": cell_type})

    frames = []
    for stage, predictions in annotated.stages.items():
        names = np.array(known.batches, dtype=object)[known.batch[chosen]]
        types = np.array(known.classes, dtype=object)[known.y[chosen]]
        frames.append(frame(stage, known.codes[chosen], names, types))
        drawn = sample(len(annotated.codes[stage]), MOST_CELLS, seed)
        frames.append(frame(stage, annotated.codes[stage][drawn], target, predictions.names[drawn]))
    return pd.concat(frames, ignore_index=True)
