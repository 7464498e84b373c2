"""Attribution: which features of its cells speak for each cell type in the network.

Integrated gradients (Sundararajan, Taly & Yan 2017, "Axiomatic attribution for deep networks", ICML, arXiv:1703.01365)
split the difference in the network's output between a cell and a baseline into one share for each feature. They need only
the network's gradients. Here

- the output is the type's logit minus the mean of the other types' logits: what speaks for this type rather than for any
  other. A probability hardly changes any more where the network is sure;
- the baseline is the mean of the types' mean cells: the question is what makes a cell this type, not what makes it a cell.
  benchmarks/explained.py compares it with the empty cell, and both with known markers.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor, nn

from ..core.subsample import subsample
from ..data.h5ad import embedding_key, layer_name
from ..data.plan import Plan
from .expression import COLUMNS, means_and_shares

with warnings.catch_warnings():
    # captum imports tqdm.auto, which asks for ipywidgets; its bars are not used here.
    warnings.filterwarnings("ignore", message="IProgress not found")
    from captum.attr import IntegratedGradients

import anndata as ad

from .target import TargetResult

CELLS_OF_A_TYPE, MOST_CELLS = 50, 1_500

STEPS = 20  # of the integral: the shares' sum is within one in a hundred of the whole difference

NOT_OF_EMBEDDINGS = (
    "The features are the columns of {}, which mean nothing by themselves: it cannot be said which genes speak for a cell "
    "type. Look at marker genes in the annotated file."
)

ROWS = 40  # about as many in the table of features


def attributions(
    model: nn.Module, x: sparse.csr_matrix, y: np.ndarray, n_types: int, baseline: np.ndarray | None = None
) -> np.ndarray:
    """Compute how much each feature speaks for each type, averaged over cells of the type.

    At most 50 cells of a type and 1,500 in all are used, always the same.

    Parameters
    ----------
    model
        Maps float32 (n, p) to logits (n, K); it computes on the device of its weights.
    x
        Prepared values, float32 (n, p).
    y
        Each cell's type, int (n,), index into the K types.
    baseline
        The values to start from, (p,); default: `mean_cell`.

    Returns
    -------
    float64 (K, p), in units of the logit; NaN for a type without cells. A type's sum is the mean difference between its
    cells and the baseline.
    """
    model.eval()
    device = next(iter(model.state_dict().values())).device
    most = max(1, min(CELLS_OF_A_TYPE, MOST_CELLS // max(1, n_types)))
    cells = {k: rows[subsample(len(rows), most, 0)] for k in range(n_types) if len(rows := np.flatnonzero(y == k))}
    result = np.full((n_types, x.shape[1]), np.nan)
    if not cells:
        return result
    baseline = mean_cell(x, y) if baseline is None else baseline
    start = torch.tensor(baseline[None], dtype=torch.float32, device=device)

    def margin(values: Tensor) -> Tensor:
        logits = model(values)
        return (logits - logits.mean(dim=1, keepdim=True)) * (n_types / max(1, n_types - 1))

    gradients = IntegratedGradients(margin)
    for k, rows in cells.items():
        values = torch.from_numpy(x[rows].toarray()).to(device)
        of_cells = gradients.attribute(values, start.expand_as(values), target=k, n_steps=STEPS)
        result[k] = of_cells.detach().double().mean(dim=0).cpu().numpy()
    return result


def mean_cell(x: sparse.csr_matrix, y: np.ndarray) -> np.ndarray:
    """Return the mean of the types' mean cells, float64 (p,); cells (n, p) of a negative type (n,) do not count."""
    return means_and_shares(x, y, np.unique(y[y >= 0]).tolist())[0].mean(axis=0)


@dataclass(frozen=True)
class Attribution:
    """The features that speak for each type, named as in the prepared cells."""

    features: pd.DataFrame  # `top_features`
    cells: str  # which cells were used, in words
    sections: dict[str, list[str]]  # type -> its first few features, for dot plots
    note: str = ""  # why nothing can be said


def attribute_types(model: nn.Module, prepared: ad.AnnData, result: TargetResult, plan: Plan) -> Attribution:
    """Find the features that speak for each type in a model.

    The annotated cells are used by their labels; with a saved model, whose run has none, the target's by prediction.

    Parameters
    ----------
    model
        Maps prepared cells, float32 (n, p), to logits (n, K).
    """
    classes = result.final.classes
    if plan.preprocessing is not None and embedding_key(plan.preprocessing.layer) is not None:
        return Attribution(pd.DataFrame(), "", {}, NOT_OF_EMBEDDINGS.format(layer_name(plan.preprocessing.layer)))
    is_target = (prepared.obs["batch"] == plan.target).to_numpy()
    types, cells = prepared.obs["cell_type"].astype(object).to_numpy(), "annotated cells, by label"
    if is_target.all():
        types, cells = result.final.names, f"cells of {plan.target}, by prediction: a saved model comes without cells"
    y = pd.Categorical(types, categories=classes).codes
    x = sparse.csr_matrix(prepared.X)
    n_shown = int(np.clip(COLUMNS // max(1, len(classes)), 1, 8))
    table = top_features(attributions(model, x, y, len(classes)), (x, y), classes, prepared.var_names, n_shown)
    present = table[~table["by absence"].astype(bool)].groupby("cell type", sort=False)["feature"]
    return Attribution(table, cells, {str(name): list(features[:n_shown]) for name, features in present})


def top_features(
    attributed: np.ndarray,
    cells: tuple[sparse.csr_matrix, np.ndarray],
    classes: Sequence[str],
    features: pd.Index,
    n_present: int,
) -> pd.DataFrame:
    """Return the first features of each type (10, fewer where there are many types) as a table.

    Parameters
    ----------
    attributed
        `attributions`, (K, p).
    cells
        Their values (n, p) and types (n,).
    n_present
        List at least so many features that speak for a type by presence.

    Returns
    -------
    Columns `cell type`, `feature`, `share` (of all that speaks for the type), `mean` and `cells with it` (of the type's
    cells), `mean in others` (the mean of the other types' means), `by absence` (the type's mean is below theirs).
    """
    n_rows = int(np.clip(ROWS // max(1, len(classes)), 2, 10))
    means, shares, _ = means_and_shares(*cells, range(len(classes)))
    columns = ["cell type", "feature", "share", "mean", "cells with it", "mean in others", "by absence"]
    tables = [pd.DataFrame(columns=columns)]
    present = [k for k in range(len(classes)) if np.isfinite(attributed[k]).all()]
    for k in present:
        others = means[[other for other in present if other != k]]
        elsewhere = others.mean(axis=0) if len(others) else np.zeros(len(features))
        speaks_for = attributed[k].clip(min=0)
        order = np.argsort(-speaks_for, kind="stable")
        order = order[speaks_for[order] > 0]
        is_present = means[k][order] > elsewhere[order]
        first = order[(np.arange(len(order)) < n_rows) | (is_present & (np.cumsum(is_present) <= n_present))]
        values = (
            classes[k], features[first].astype(str), speaks_for[first] / speaks_for.sum(), means[k][first],
            shares[k][first], elsewhere[first], means[k][first] <= elsewhere[first],
        )  # fmt: skip
        tables.append(pd.DataFrame(dict(zip(columns, values, strict=True))))
    return pd.concat(tables[1:] or tables, ignore_index=True)


def attribution_table(attribution: Attribution) -> pd.DataFrame:
    """Return the features as a table to read, shares as percent."""
    table = attribution.features.round({"mean": 2, "mean in others": 2})
    if table.empty:
        return pd.DataFrame({"note": [attribution.note or "No cell has a type, so there is nothing to explain."]})
    table[["share", "cells with it"]] = (100 * table[["share", "cells with it"]]).round(1)
    table["in this type"] = np.where(table.pop("by absence").astype(bool), "low", "high")
    labels = {
        "share": "importance %", "mean": "mean in the type",
        "cells with it": "cells of the type with it %", "mean in others": "mean in other types",
    }  # fmt: skip
    return table.rename(columns=labels).set_index("cell type").rename_axis(f"cell type ({attribution.cells})")
