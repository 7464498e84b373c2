"""Why this label: which features drive each cell type in the network, and what cells of each type express.

Integrated gradients (Sundararajan, Taly & Yan 2017, "Axiomatic attribution for deep networks", ICML, arXiv:1703.01365)
split a difference in the network's output between a cell and a baseline into one share for each feature; they need
nothing of the network but its gradients. Here

- the output is the type's logit minus the mean of the other types' logits: what speaks for this type rather than for any.
  A probability would not do: where the network is sure it hardly changes any more;
- the baseline is the mean cell, every type counted alike: what is asked is what makes a cell this type, not what makes it
  a cell. benchmarks/explained.py compares it with the empty cell, and both with known markers.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor, nn

from ..core.subsample import subsample
from ..data.plan import Plan
from .expression import COLUMNS

if TYPE_CHECKING:
    import anndata as ad

    from .target import TargetResult

CELLS_OF_A_TYPE, MOST_CELLS = 50, 1_500

STEPS = 20  # of the integral: sums differ from the whole by less than one in a hundred

ROWS = 40  # about as many in the table of what drives the types


# --- what drives the network -----------------------------------------------------------------------------------------


def attributions(
    model: nn.Module, x: sparse.csr_matrix, y: np.ndarray, n_types: int, baseline: np.ndarray | None = None
) -> np.ndarray:
    """How much each feature speaks for each type, averaged over cells of the type.

    At most 50 cells of a type and 1,500 in all are looked at, always the same.

    Parameters
    ----------
    model
        Maps float32 (n, p) to logits (n, K); its weights say where it computes.
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
    with warnings.catch_warnings():
        # captum imports tqdm.auto, which asks for ipywidgets; its bars are not used here.
        warnings.filterwarnings("ignore", message="IProgress not found")
        from captum.attr import IntegratedGradients

    model.eval()
    device = next(iter(model.state_dict().values())).device
    most = max(1, min(CELLS_OF_A_TYPE, MOST_CELLS // max(1, n_types)))
    cells = {k: rows[subsample(len(rows), most, 0)] for k in range(n_types) if len(rows := np.flatnonzero(y == k))}
    found = np.full((n_types, x.shape[1]), np.nan)
    if not cells:
        return found
    baseline = mean_cell(x, y) if baseline is None else baseline
    start = torch.tensor(baseline[None], dtype=torch.float32, device=device)

    def margin(values: Tensor) -> Tensor:
        logits = model(values)
        return (logits - logits.mean(dim=1, keepdim=True)) * (n_types / max(1, n_types - 1))

    explainer = IntegratedGradients(margin)
    for k, rows in cells.items():
        values = torch.from_numpy(x[rows].toarray()).to(device)
        of_cells = explainer.attribute(values, start.expand_as(values), target=k, n_steps=STEPS)
        found[k] = of_cells.detach().double().mean(dim=0).cpu().numpy()
    return found


def mean_cell(x: sparse.csr_matrix, y: np.ndarray) -> np.ndarray:
    """The mean of the types' mean cells, float64 (p,); cells (n, p) of a negative type (n,) do not count."""
    return np.mean([np.asarray(x[y == k].mean(axis=0)).ravel() for k in np.unique(y[y >= 0])], axis=0)


@dataclass(frozen=True)
class Explanation:
    """What drives each type. Features are named as in the prepared cells."""

    drivers: pd.DataFrame  # `drivers`
    of_cells: str  # which cells were looked at, in words
    sections: dict[str, list[str]]  # type -> its first few features, for dot plots


def explain(model: nn.Module, prepared: ad.AnnData, result: TargetResult, plan: Plan) -> Explanation:
    """The features that drive each type in a model, by the annotated cells; where no batch trains (a saved model), by
    the target's own cells as they were annotated.

    Parameters
    ----------
    model
        Maps prepared cells, float32 (n, p), to logits (n, K).
    """
    classes = result.final.classes
    is_target = (prepared.obs["batch"] == plan.target).to_numpy()
    types = prepared.obs["cell_type"].astype(object).to_numpy()
    of_cells = "annotated cells, by their labels"
    if is_target.all():
        types, of_cells = result.final.names, f"cells of {plan.target}, by prediction (a saved model brings no cells)"
    y = pd.Categorical(types, categories=classes).codes
    x = sparse.csr_matrix(prepared.X)
    n_shown = int(np.clip(COLUMNS // max(1, len(classes)), 2, 8))
    table = drivers(attributions(model, x, y, len(classes)), (x, y), classes, prepared.var_names, n_shown)
    present = table[~table["by absence"].astype(bool)].groupby("cell type", sort=False)["feature"]
    sections = {str(name): list(features[:n_shown]) for name, features in present}
    return Explanation(table, of_cells, sections)


def drivers(
    found: np.ndarray,
    cells: tuple[sparse.csr_matrix, np.ndarray],
    classes: Sequence[str],
    features: pd.Index,
    n_present: int,
) -> pd.DataFrame:
    """The first features of each type (10, fewer where there are many types), as a table.

    Parameters
    ----------
    found
        `attributions`, (K, p).
    cells
        Their values (n, p) and types (n,).
    n_present
        Of features that speak for a type by their presence, at least so many are there.

    Returns
    -------
    Columns `cell type`, `feature`, `share` (of all that speaks for the type), `mean` and `cells with it` (of the type's
    cells), `mean in others` (the mean of the other types' means), `by absence` (the type's mean is below theirs).
    """
    x, y = cells
    n_rows = int(np.clip(ROWS // max(1, len(classes)), 2, 10))
    present = [k for k in range(len(classes)) if np.isfinite(found[k]).all()]
    means = {k: np.asarray(x[y == k].mean(axis=0)).ravel() for k in present}
    tables = []
    for k in present:
        others = [means[other] for other in present if other != k]
        elsewhere = np.mean(others, axis=0) if others else np.zeros(x.shape[1])
        speaks_for = found[k].clip(min=0)
        order = np.argsort(-speaks_for, kind="stable")
        order = order[speaks_for[order] > 0]
        there = means[k][order] > elsewhere[order]
        first = order[(np.arange(len(order)) < n_rows) | (there & (np.cumsum(there) <= n_present))]
        tables.append(
            pd.DataFrame(
                {
                    "cell type": classes[k],
                    "feature": features[first].astype(str),
                    "share": speaks_for[first] / speaks_for.sum(),
                    "mean": means[k][first],
                    "cells with it": np.asarray((x[y == k][:, first] > 0).mean(axis=0)).ravel(),
                    "mean in others": elsewhere[first],
                    "by absence": means[k][first] <= elsewhere[first],
                }
            )
        )
    columns = ["cell type", "feature", "share", "mean", "cells with it", "mean in others", "by absence"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def table(explanation: Explanation) -> pd.DataFrame:
    """The drivers to read, shares as percent."""
    shown = explanation.drivers.round({"mean": 2, "mean in others": 2})
    if shown.empty:
        return pd.DataFrame({"note": ["No cell has a type, so there is nothing to explain."]})
    for column, words in (("share", "share of what speaks for it %"), ("cells with it", "cells of the type with it %")):
        shown[column] = (100 * shown[column]).round(1)
        shown = shown.rename(columns={column: words})
    shown["speaks by"] = np.where(shown.pop("by absence").astype(bool), "absence", "presence")
    shown = shown.rename(columns={"mean": "mean in the type", "mean in others": "mean in other types"})
    return shown.set_index("cell type").rename_axis(f"cell type ({explanation.of_cells})")
