"""Small simulated cells, their batches, and the least that a saved model's description holds."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from jind_nb.core.model_json import MODEL_FORMAT

THREE_BATCHES = {
    "a": {"B": 40, "T": 40, "NK": 30},
    "b": {"B": 40, "T": 40, "NK": 30},
    "c": {"B": 30, "T": 30, "NK": 20},
}


def simulated(cells: dict[str, dict[str, int]], n_genes: int = 60, seed: int = 0, *, shift: float = 0.3) -> ad.AnnData:
    """Counts of cells whose type is plain to see: each type has its own genes, each batch a small shift.

    Parameters
    ----------
    cells
        batch -> cell type -> number of cells. Rows are shuffled, so that batches interleave.
    """
    random = np.random.default_rng(seed)
    types = sorted({name for of_batch in cells.values() for name in of_batch})
    means = np.full((len(types), n_genes), 0.5)
    for i in range(len(types)):
        means[i, i :: len(types)] = 6.0
    rows, batch, celltype = [], [], []
    for name, of_batch in cells.items():
        factor = np.exp(random.normal(0, shift, n_genes))
        for cell_type, n in of_batch.items():
            rows.append(random.poisson(means[types.index(cell_type)] * factor, (n, n_genes)))
            batch += [name] * n
            celltype += [cell_type] * n
    order = random.permutation(len(batch))
    obs = pd.DataFrame({"batch": batch, "celltype": celltype}).iloc[order]
    obs.index = [f"cell{i}" for i in range(len(obs))]
    var = pd.DataFrame(index=[f"gene{i:03d}" for i in range(n_genes)])
    return ad.AnnData(sparse.csr_matrix(np.vstack(rows)[order].astype(np.float32)), obs=obs, var=var)


# What a saved model's model.json holds at the least, for `artifacts.write_model_json`.
MODEL: dict[str, Any] = {
    "format": MODEL_FORMAT,
    "classes": ["B", "T"],
    "features": ["gene000", "gene001"],
    "preprocessing": {
        "scale": "log1p of counts per 10,000", "values": "log1p", "total": 1e4, "rescaled": True, "mean": 1.0, "sd": 2.0,
        "normalisation": "auto", "kinds": ["counts"], "unclear": "log1p", "layer": None, "gene_col": None,
        "totals_over": None,
    },
    "source": "a",
    "files": {"a": "a.pt"},
    "thresholds": {"B": 0.5, "T": 0.5},
    "calibration": {},
    "target": None,
    "training": {"METHOD": "default"},
    "alignment": {"way": "shared", "why": "No annotated batch was left out"},
    "code size": 4,
    "hashes": {},
}  # fmt: skip
