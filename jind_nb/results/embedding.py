"""Two dimensions for pictures: a UMAP of the prepared cells, and one of the latent space before and after alignment."""

import warnings
from collections.abc import Mapping

import anndata as ad
import numpy as np
import pandas as pd

from ..core._compat import import_umap
from ..core.subsample import subsample
from ..model.pca import coordinates
from ..model.state import Annotated, KnownLatents

MOST_CELLS = 5_000

MOST_POINTS = 5_000

FEWEST_FOR_UMAP = 16

COMPONENTS = 50

NEIGHBOURS = 15

EPOCHS = 100  # umap's own default is 500 below 10,000 cells: the groups are the same, in a fifth of the time


def umap_of(prepared: ad.AnnData, seed: int) -> pd.DataFrame:
    """Compute a UMAP of at most 5,000 prepared cells, on their first 50 principal components (of fewer than 16 cells the
    first two components themselves).

    Returns
    -------
    Columns `row` (int, row of `prepared`), `x`, `y` (float).
    """
    rows = subsample(prepared.n_obs, MOST_CELLS, seed)
    x = prepared.X[rows]
    n_components = min(COMPONENTS, min(x.shape) - 1)
    if n_components < 2:
        return pd.DataFrame({"row": rows, "x": np.asarray(x.sum(axis=1)).ravel(), "y": np.zeros(len(rows))})
    points = umap_of_latents(coordinates(x, n_components, seed), seed)
    return pd.DataFrame({"row": rows, "x": points[:, 0], "y": points[:, 1]})


def umap_of_latents(components: np.ndarray, seed: int) -> np.ndarray:
    """Compute a UMAP of cells (n, d), float (n, 2); of fewer than 16 cells return their first two coordinates.

    Notes
    -----
    Neighbours are found exactly, by scikit-learn: pynndescent 0.7.0 fails with scipy 1.17 on larger data.
    """
    from sklearn.neighbors import NearestNeighbors  # takes a second to import

    n = len(components)
    if n < FEWEST_FOR_UMAP:
        return components[:, :2]
    umap = import_umap()
    distances, indices = NearestNeighbors(n_neighbors=min(NEIGHBOURS, n - 1)).fit(components).kneighbors()
    # umap counts a cell as its own first neighbour.
    indices = np.column_stack([np.arange(n), indices[:, :-1]])
    distances = np.column_stack([np.zeros(n), distances[:, :-1]])
    with warnings.catch_warnings():
        # No new cells are placed into this picture, so it needs no search index.
        warnings.filterwarnings("ignore", message=".*(knn_search_index|n_jobs value|not fully connected).*")
        known = indices, distances, None
        reducer = umap.UMAP(indices.shape[1], n_epochs=EPOCHS, random_state=seed, n_jobs=1, precomputed_knn=known)
        return reducer.fit_transform(components)


def latent_points(annotated: Annotated, known: KnownLatents, target: str, seed: int) -> pd.DataFrame:
    """Compute one UMAP of annotated cells and of the target's in the latent space, before and, where the target was
    aligned, after alignment: the same axes for both. At most 5,000 points, half of them of annotated cells.

    Returns
    -------
    Columns `stage` (the first and the last), `x`, `y`, `batch`, `cell type` (label or prediction), `cell` (int, which of the
    target's cells; -1 for annotated ones). Annotated cells have a row for each stage.
    """
    stages = list(annotated.stages)
    shown = {stage: (annotated.latent[stage], annotated.stages[stage].names) for stage in (stages[0], stages[-1])}
    return points_of(shown, known, target, seed)


def points_of(
    stages: Mapping[str, tuple[np.ndarray, np.ndarray]], known: KnownLatents, target: str, seed: int
) -> pd.DataFrame:
    """Return `latent_points` of a target's latents (n, d) and answers (n,) at each stage."""
    most = MOST_POINTS // (2 * len(stages))
    chosen = subsample(len(known.latent), most, seed)
    drawn = subsample(len(next(iter(stages.values()))[0]), most, seed)
    latents = [known.latent[chosen], *(latent[drawn] for latent, _ in stages.values())]
    places = np.split(umap_of_latents(np.concatenate(latents), seed), np.cumsum([len(part) for part in latents])[:-1])

    def frame(stage: str, place: np.ndarray, batch: object, cell_type: np.ndarray, cell: object) -> pd.DataFrame:
        x, y = place[:, 0], place[:, 1]
        return pd.DataFrame({"stage": stage, "x": x, "y": y, "batch": batch, "cell type": cell_type, "cell": cell})

    batches = np.array(known.batches, dtype=object)[known.batch[chosen]]
    types = np.array(known.classes, dtype=object)[known.y[chosen]]
    frames = []
    for (stage, (_, names)), place in zip(stages.items(), places[1:], strict=True):
        frames.append(frame(stage, places[0], batches, types, -1))
        frames.append(frame(stage, place, target, names[drawn], drawn))
    return pd.concat(frames, ignore_index=True)
