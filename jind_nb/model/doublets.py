"""Which cells of the target may be two cells that were read as one (DOUBLETS): scanpy's Scrublet.

Scrublet (Wolock et al. 2019, doi 10.1016/j.cels.2018.11.005) adds up random pairs of the target's cells, and asks how many such
pairs are among the nearest neighbours of each cell. It needs no labels and no model. Its settings here (logarithms, ten components)
and the share below are those that found most added-up pairs (benchmarks/research/doublets.py); its own way to a threshold found none
in small samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import anndata as ad
import numpy as np
from scipy import sparse

FEWEST_CELLS = 100  # of fewer, pairs say nothing
COMPONENTS = 10
PAIRS_A_CELL = 2.0
TOTAL = 1e4  # that cells and pairs are brought to
PAIRS_BELOW = 0.4  # a cell is called a doublet if its score is at least that of such a share of the added-up pairs


@dataclass(frozen=True)
class Doublets:
    """What Scrublet says of the cells of a batch."""

    score: np.ndarray  # float32 (n,): 0 to 1
    called: np.ndarray  # bool (n,): the score is at least those of two fifths of the added-up pairs

    def subset(self, cells: np.ndarray) -> Doublets:
        """Return only some cells, bool or index (n_chosen,)."""
        return Doublets(self.score[cells], self.called[cells])


def find_doublets(x: sparse.csr_matrix, seed: int) -> tuple[Doublets, str]:
    """Score the cells of one batch, and say in a sentence what was found.

    Parameters
    ----------
    x
        Logarithms log(1 + value) of the cells' values, float32 (n, p).
    seed
        For the random pairs.

    Returns
    -------
    Of fewer than 100 cells, or of no more than ten features, scores are zero and no cell is called.
    """
    n, p = x.shape
    filled = np.flatnonzero(np.diff(x.indptr))
    if len(filled) < FEWEST_CELLS or p <= COMPONENTS:
        few = (
            f"DOUBLETS: {len(filled):,} cells with {p:,} features are too few to look for doublets; none is called one."
        )
        return Doublets(np.zeros(n, dtype=np.float32), np.zeros(n, dtype=bool)), few
    import scanpy as sc  # takes seconds to import

    cells = ad.AnnData(x[filled].expm1())
    pairs = sc.pp.scrublet_simulate_doublets(cells, sim_doublet_ratio=PAIRS_A_CELL, random_seed=seed)
    for either in (cells, pairs):
        sc.pp.normalize_total(either, target_sum=TOTAL)
        sc.pp.log1p(either)
    with np.errstate(invalid="ignore"):  # of its own threshold, which is not used
        sc.pp.scrublet(
            cells, adata_sim=pairs, n_prin_comps=COMPONENTS, normalize_variance=False, threshold=1.0, random_state=seed,
            verbose=False,
        )  # fmt: skip
    score = np.zeros(n, dtype=np.float32)
    score[filled] = cells.obs["doublet_score"]
    called = score >= np.float32(np.quantile(cells.uns["scrublet"]["doublet_scores_sim"], PAIRS_BELOW))
    return Doublets(
        score, called
    ), f"DOUBLETS: {int(called.sum()):,} of {n:,} cells are called doublets, and Unassigned."
