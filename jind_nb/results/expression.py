"""What cells of each type express, as dot plots of annotated cells beside the target's."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from ..core.parameters import Parameters
from ..data.features import names_type
from ..data.plan import Plan
from .target import TargetResult

COLUMNS = 30  # features in one dot plot, which on paper is as wide as a page

MOST_PLOTS = 6  # of one kind


@dataclass(frozen=True)
class Dots:
    """One dot plot: groups of cells by features."""

    title: str
    sections: dict[str, list[str]]  # heading -> features below it
    mean: pd.DataFrame  # groups x features
    share: pd.DataFrame  # groups x features: of the group's cells, those with a value above zero
    cells: pd.Series  # of each group
    color_range: tuple[float, float]  # the colour scale's ends, the same for dot plots to compare
    unit: str  # of the values
    what: str  # `features` or `peaks`


def means_and_shares(
    x: sparse.csr_matrix, groups: np.ndarray, order: Sequence[Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each group's mean values and its shares of cells with a value above zero.

    Parameters
    ----------
    x
        Floats (n, m).
    groups
        Each cell's group, (n,); a cell of no group in `order` does not count.

    Returns
    -------
    Means and shares, float64 (G, m), NaN for a group without cells, and the number of cells, int (G,).
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
    """Yield dot plots of the same features on the same scales: annotated cells by label, then the target's by prediction,
    or only those where there are no annotated cells. Of types on several pages each page has rows for its own types only.

    Parameters
    ----------
    values
        Floats (n_obs, m), rows as in `prepared`, and the names of the m features.
    sections
        Heading -> features; those that are not among the names are left out.
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
    parts = [
        ("Annotated cells, by label", ~is_target, labels[~is_target], result.final.classes),
        (f"{plan.target}, by prediction", is_target, result.names, result.answers),
    ]
    computed = [
        (title, order, *means_and_shares(x[rows], groups, order)) for title, rows, groups, order in parts if rows.any()
    ]
    all_means = np.concatenate([mean.ravel() for _, _, mean, _, _ in computed])
    ends = (min(0.0, float(np.nanmin(all_means))), max(float(np.nanmax(all_means)), 1e-9))
    pages = list(_pages(known))
    what = "peaks" if names_type(pd.Index(used)) == "peaks" else "features"
    for i, page in enumerate(pages[:MOST_PLOTS]):
        here = list(dict.fromkeys(name for of_heading in page.values() for name in of_heading))
        for title, order, mean, share, cells in computed:
            # A type without cells keeps its row, so that the rows of both plots match; a parent does not.
            present = [k for k, name in enumerate(order) if cells[k] or name in result.final.classes]
            if len(pages) > 1 and set(known) <= set(result.final.classes):
                elsewhere = set(known) - set(page)
                present = [k for k in present if order[k] not in elsewhere]
            rows = [order[k] for k in present]
            numbered = f"{title} ({i + 1} of {len(pages)})" if len(pages) > 1 else title
            means, shares = (pd.DataFrame(part[present], rows, used)[here] for part in (mean, share))
            yield Dots(numbered, page, means, shares, pd.Series(cells[present], rows), ends, plan.scale, what)


def _pages(sections: Mapping[str, Sequence[str]]) -> Iterator[dict[str, list[str]]]:
    """Yield the sections of each plot: as many as fit; a longer one continues in the next."""
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
    """Return the values of those MARKERS that the file has, (n_obs, m), and their names, also where no model uses them."""
    if "markers" not in prepared.obsm:
        return sparse.csr_matrix((prepared.n_obs, 0), dtype=np.float32), []
    return sparse.csr_matrix(prepared.obsm["markers"]), [str(name) for name in prepared.uns["markers"]]


def no_markers(parameters: Parameters) -> str:
    """Return why there is no dot plot of markers."""
    return "None of MARKERS is in the data." if parameters.MARKERS else "MARKERS is not set."
