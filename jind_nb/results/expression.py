"""TODO."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from ..core.parameters import Parameters
from ..data.features import names_type
from ..data.plan import Plan

if TYPE_CHECKING:
    import anndata as ad

    from .target import TargetResult

COLUMNS = 30  # features in one dot plot, which on paper is as wide as a page

MOST_PLOTS = 6  # of one kind


# --- what cells express ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dots:
    """One dot plot: groups of cells by features."""

    title: str
    sections: dict[str, list[str]]  # heading -> features below it
    mean: pd.DataFrame  # groups x features
    share: pd.DataFrame  # groups x features: of the group's cells, those with a value above zero
    cells: pd.Series  # of each group
    brightest: tuple[float, float]  # the colour scale's ends, the same for dot plots to compare
    unit: str  # of the values
    what: str  # `features` or `peaks`


def means_and_shares(
    x: sparse.csr_matrix, groups: np.ndarray, order: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each group the mean values and the share of cells with a value above zero.

    Parameters
    ----------
    x
        Floats (n, m).
    groups
        Objects (n,); a cell of none of the groups in `order` does not count.

    Returns
    -------
    float64 (G, m) twice, NaN for a group without cells, and the number of cells int (G,).
    """
    codes = pd.Categorical(groups, categories=list(order)).codes
    rows = np.flatnonzero(codes >= 0)
    member = sparse.csr_matrix((np.ones(len(rows)), (codes[rows], rows)), shape=(len(order), x.shape[0]))
    cells = np.bincount(codes[rows], minlength=len(order))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (member @ x.astype(np.float64)).toarray() / cells[:, None]
        share = (member @ (x > 0).astype(np.float64)).toarray() / cells[:, None]
    return mean, share, cells


def dot_plots(
    values: tuple[sparse.csr_matrix, Sequence[str]],
    sections: Mapping[str, Sequence[str]],
    prepared: ad.AnnData,
    result: TargetResult,
    plan: Plan,
) -> Iterator[Dots]:
    """The same features for annotated cells by label and for the target's by prediction, on the same scales: pairs of
    dot plots, or single ones where there are no annotated cells.

    Parameters
    ----------
    values
        Floats (n_obs, m), rows as in `prepared`, and the names of the m features.
    sections
        Heading -> features; what is not among the names is left out.
    """
    x, names = values
    column = {name: j for j, name in enumerate(names)}
    known = {heading: [name for name in here if name in column] for heading, here in sections.items()}
    known = {heading: here for heading, here in known.items() if here}
    used = list(dict.fromkeys(name for here in known.values() for name in here))
    if not used:
        return
    x = sparse.csr_matrix(x)[:, [column[name] for name in used]]
    is_target = (prepared.obs["batch"] == plan.target).to_numpy()
    labels = prepared.obs["cell_type"].astype(object).to_numpy()
    kinds: list[tuple[str, np.ndarray, np.ndarray, list[str]]] = []
    if not is_target.all():
        kinds.append(("Annotated cells, by label", ~is_target, labels[~is_target], result.final.classes))
    kinds.append((f"{plan.target}, by prediction", is_target, result.names, result.answers))
    found = [(title, order, *means_and_shares(x[rows], groups, order)) for title, rows, groups, order in kinds]
    every = np.concatenate([mean.ravel() for _, _, mean, _, _ in found])
    ends = (min(0.0, float(np.nanmin(every))), max(float(np.nanmax(every)), 1e-9))
    pages = list(_pages(known))
    for i, page in enumerate(pages[:MOST_PLOTS]):
        here = list(dict.fromkeys(name for of_heading in page.values() for name in of_heading))
        for title, order, mean, share, cells in found:
            # A type without cells keeps its row, so that two plots can be laid over each other; a parent does not.
            present = [k for k, name in enumerate(order) if cells[k] or name in result.final.classes]
            rows = [order[k] for k in present]
            yield Dots(
                title=title + (f" ({i + 1} of {len(pages)})" if len(pages) > 1 else ""),
                sections=page,
                mean=pd.DataFrame(mean[present], rows, used)[here],
                share=pd.DataFrame(share[present], rows, used)[here],
                cells=pd.Series(cells[present], rows),
                brightest=ends,
                unit=plan.scale,
                what="peaks" if names_type(pd.Index(used)) == "peaks" else "features",
            )


def _pages(sections: Mapping[str, Sequence[str]]) -> Iterator[dict[str, list[str]]]:
    """Sections together as far as they fit into one plot; a longer one goes on in the next."""
    page: dict[str, list[str]] = {}
    for heading, here in sections.items():
        for start in range(0, len(here), COLUMNS):
            part = list(here[start : start + COLUMNS])
            if page and sum(map(len, page.values())) + len(part) > COLUMNS:
                yield page
                page = {}
            page[heading] = part
    if page:
        yield page


def marker_values(prepared: ad.AnnData) -> tuple[sparse.csr_matrix, list[str]]:
    """The values of MARKERS that the file has, (n_obs, m), and their names; also of those that no model looks at."""
    if "markers" not in prepared.obsm:
        return sparse.csr_matrix((prepared.n_obs, 0), dtype=np.float32), []
    return sparse.csr_matrix(prepared.obsm["markers"]), [str(name) for name in prepared.uns["markers"]]


def no_markers(parameters: Parameters) -> str:
    """Why there is no dot plot of markers."""
    return "None of MARKERS is in the data." if parameters.MARKERS else "MARKERS is not set: there are none to show."
