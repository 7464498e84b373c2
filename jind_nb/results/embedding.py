"""Two dimensions for pictures: one UMAP of the cells before any alignment, and one of the latents before and after it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd

from ..core._compat import import_umap
from ..core.subsample import sample
from ..model.pca import coordinates

if TYPE_CHECKING:
    from ..model.state import Annotated, KnownLatents

MOST_CELLS = 5_000

MOST_POINTS = 5_000

FEWEST_FOR_UMAP = 16

COMPONENTS = 50

NEIGHBOURS = 15

# umap takes 500 epochs below 10,000 cells and 200 above, which place them as well and need less than half of the time.
MANY_CELLS, EPOCHS = 2_000, 200


def umap_of(prepared: ad.AnnData, seed: int) -> pd.DataFrame:
    """UMAP of at most 5,000 prepared cells, on their first 50 principal components (fewer than 16 cells: the first
    two components themselves).

    Returns
    -------
    Columns `row` (int, row of `prepared`), `x`, `y` (float).
    """
    rows = sample(prepared.n_obs, MOST_CELLS, seed)
    x = prepared.X[rows]
    n_components = min(COMPONENTS, min(x.shape) - 1)
    if n_components < 2:
        return pd.DataFrame({"row": rows, "x": np.asarray(x.sum(axis=1)).ravel(), "y": np.zeros(len(rows))})
    points = _umap(coordinates(x, n_components, seed), seed)
    return pd.DataFrame({"row": rows, "x": points[:, 0], "y": points[:, 1]})


def _umap(components: np.ndarray, seed: int) -> np.ndarray:
    """UMAP of cells (n, d), float (n, 2); of fewer than 16 their first two numbers.

    Neighbours are found exactly, by scikit-learn: pynndescent 0.7.0 fails with scipy 1.17 on larger data.
    """
    from sklearn.neighbors import NearestNeighbors

    n = len(components)
    if n < FEWEST_FOR_UMAP:
        return components[:, :2]
    umap = import_umap()
    distances, indices = NearestNeighbors(n_neighbors=min(NEIGHBOURS, n - 1)).fit(components).kneighbors()
    # umap counts a cell as its own first neighbour.
    indices = np.column_stack([np.arange(n), indices[:, :-1]])
    distances = np.column_stack([np.zeros(n), distances[:, :-1]])
    with warnings.catch_warnings():
        # No new cells are ever placed into this picture, so the missing search index does not matter.
        warnings.filterwarnings("ignore", message=".*knn_search_index.*")
        warnings.filterwarnings("ignore", message=".*n_jobs value.*")
        return umap.UMAP(
            n_neighbors=indices.shape[1],
            n_epochs=EPOCHS if n > MANY_CELLS else None,
            random_state=seed,
            n_jobs=1,
            precomputed_knn=(indices, distances, None),
        ).fit_transform(components)


def latent_points(annotated: Annotated, known: KnownLatents, target: str, seed: int) -> pd.DataFrame:
    """One UMAP of the annotated cells' latents and of the target's before and, where it was aligned, after that: the same
    axes for both. At most 5,000 points, as many of annotated cells as of the target's.

    Returns
    -------
    Columns `stage` (the first and the last), `x`, `y`, `batch`, `cell type` (label or prediction), `cell` (int, which of the
    target's cells; -1 for annotated ones); annotated cells stand once for each stage.
    """
    every = list(annotated.stages)
    stages = list(dict.fromkeys([every[0], every[-1]]))
    most = MOST_POINTS // (2 * len(stages))
    chosen = sample(len(known.latent), most, seed)
    drawn = sample(len(annotated.latent[stages[0]]), most, seed)
    latents = [known.latent[chosen], *(annotated.latent[stage][drawn] for stage in stages)]
    places = np.split(_umap(np.concatenate(latents), seed), np.cumsum([len(part) for part in latents])[:-1])

    def frame(stage: str, place: np.ndarray, batch: object, cell_type: np.ndarray, cell: object) -> pd.DataFrame:
        x, y = place[:, 0], place[:, 1]
        return pd.DataFrame({"stage": stage, "x": x, "y": y, "batch": batch, "cell type": cell_type, "cell": cell})

    batches = np.array(known.batches, dtype=object)[known.batch[chosen]]
    types = np.array(known.classes, dtype=object)[known.y[chosen]]
    frames = []
    for stage, place in zip(stages, places[1:], strict=True):
        frames.append(frame(stage, places[0], batches, types, -1))
        frames.append(frame(stage, place, target, annotated.stages[stage].names[drawn], drawn))
    return pd.concat(frames, ignore_index=True)
