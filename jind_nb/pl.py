"""Pictures of what `annotate` and `Model.predict` wrote: matplotlib figures, to show, change or save.

The report draws the same ones from a run's folder.
"""

import anndata as ad
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .api import Model
from .core.labels import UNASSIGNED, UNLIKE
from .core.model_json import read_model_json
from .data.plan import Plan
from .errors import InputError
from .model.calibration import Calibration
from .report.plots import embedding
from .report.plots import target as of_target
from .results.embedding import umap_of_latents
from .results.tables import composition_shares

__all__ = ["composition", "confidence", "reliability", "umap"]

TITLE = "the target's cells"


def umap(adata: ad.AnnData, *, key: str = "jind", basis: str = "X_umap", seed: int = 0) -> Figure:
    """Draw the target's cells by predicted type, over all others in grey.

    Parameters
    ----------
    adata
        As `annotate` or `predict` left it.
    key
        Their `key_added`.
    basis
        Key of `adata.obsm` with two dimensions, `n_obs` x 2. Without it a UMAP of the target's latents is computed.
    seed
        Of that UMAP.

    Raises
    ------
    InputError
        If the AnnData has not been annotated.
    """
    obs = _answers(adata, key)
    is_target = obs["prediction"].notna().to_numpy()
    if basis in adata.obsm:
        rows, places = np.arange(adata.n_obs), np.asarray(adata.obsm[basis])[:, :2]
    else:
        rows = np.flatnonzero(is_target)
        places = umap_of_latents(np.asarray(adata.obsm[f"X_{key}"])[rows], seed)
    points = pd.DataFrame({"x": places[:, 0], "y": places[:, 1], "cell type": obs["prediction"].to_numpy()[rows]})
    points["cell"] = np.where(is_target[rows], 0, -1)
    names = [str(name) for name in adata.obs[f"{key}_prediction"].cat.categories]
    return embedding.target_umap(points, "cell type", TITLE, names, title="Predicted cell types")


def composition(adata: ad.AnnData, *, batch_key: str, labels_key: str, key: str = "jind") -> Figure:
    """Draw the share of each predicted type beside its share in the annotated batches (mean, lowest and highest).

    Parameters
    ----------
    batch_key, labels_key
        As in `annotate`.
    key
        Its `key_added`.

    Raises
    ------
    InputError
        If the AnnData has not been annotated, or has no such column.
    """
    obs = _answers(adata, key)
    for name, column in (("batch_key", batch_key), ("labels_key", labels_key)):
        if column not in adata.obs:
            raise InputError(f"{name}: obs has no column {column!r}.")
    given = obs[obs["prediction"].notna()]
    classes = [str(name) for name in adata.obs[f"{key}_raw_prediction"].cat.categories]
    answers = [str(name) for name in adata.obs[f"{key}_prediction"].cat.categories]
    rejected = given["prediction"] == UNASSIGNED
    is_parent = ~rejected & (given["prediction"] != given["raw_prediction"])
    unlike = given["reason"] == UNLIKE
    counts = {"assigned": ~rejected & ~is_parent, "parent_only": is_parent, "rejected": rejected, "unlike": unlike}
    table = pd.DataFrame(
        {
            name: given["raw_prediction"][which].value_counts().reindex(classes, fill_value=0)
            for name, which in counts.items()
        }
    )
    others = adata.obs[obs["prediction"].isna().to_numpy()]
    labels = others[labels_key].astype(str)
    known = labels.isin(classes)
    cells = pd.crosstab(labels[known], others.loc[known, batch_key].astype(str)).to_dict()
    shares = composition_shares(table, Plan(TITLE, None, [], classes, cells=cells), of_target.MOST_BARS)
    return of_target.composition_bars(shares, TITLE, answers)


def confidence(adata: ad.AnnData, *, key: str = "jind") -> Figure:
    """Draw how many of the target's cells have which confidence; `Unassigned` ones are grey.

    Raises
    ------
    InputError
        If the AnnData has not been annotated.
    """
    obs = _answers(adata, key)
    given = obs[obs["prediction"].notna()]
    is_unassigned = (given["prediction"] == UNASSIGNED).to_numpy()
    return of_target.confidence_histogram(given["confidence"].to_numpy(dtype=float), is_unassigned, TITLE)


def reliability(model: Model) -> Figure:
    """Draw how often cells of a confidence were right in annotated batches that were left out of training, and how many were wrong
    if only the most confident ones are assigned.

    Raises
    ------
    InputError
        If no batch was left out (METHOD `reference`).
    """
    described = read_model_json(model.folder)
    calibrations = described["calibration"]
    if not calibrations:
        raise InputError("model: no annotated batch was left out of its training, so its reliability is not known.")
    mode = described["alignment"]["way"]
    values = calibrations.get(mode) or next(iter(calibrations.values()))
    figure = of_target.reliability_curves(Calibration.from_json(values), TITLE)
    assert isinstance(figure, Figure)  # a sentence only without a calibration
    return figure


def _answers(adata: ad.AnnData, key: str) -> pd.DataFrame:
    """Return `prediction`, `raw_prediction`, `confidence` and `reason` of all cells, missing where a cell was not annotated."""
    names = ("prediction", "raw_prediction", "confidence", "reason")
    missing = [name for name in names if f"{key}_{name}" not in adata.obs]
    if missing:
        raise InputError(f"key: obs has no {key}_{missing[0]}; annotate the cells first, or name their key_added.")
    return pd.DataFrame({name: adata.obs[f"{key}_{name}"].astype(object) for name in names})
