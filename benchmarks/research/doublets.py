"""Add up pairs of target cells of different types, and count how many of them are annotated, without and with DOUBLETS.

    python -m benchmarks.research.doublets

Of each set with counts the first target gets a tenth of its cells more, each the sum of two of its cells of different types.
Printed: the share of these that get a type, with DOUBLETS false and true, the AUROC of Scrublet's score, and the share of single
cells that DOUBLETS takes for pairs.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.metrics import roc_auc_score

from benchmarks.common import SHARED_DATA, print_table, read_prepared
from benchmarks.problems import targets_of
from jind_nb.core.parameters import make_parameters
from jind_nb.model import annotate

CHOSEN_ON = (
    "pbmc_10x_symphony",
    "pbmc_kang_ifnb_4samples",
    "pancreas_baron_human_mouse_6donors",
    "lymphoid_human_3studies",
)
CHECKED_ON = (
    "cellbench_6batches", "larry_hematopoiesis_days246", "pbmc_citeseq_rna500_3donors", "pbmc_onek1k_40donors",
    "worm_embryo_amphid_7batches",
)  # fmt: skip
SHARE = 0.1  # of doublets
SEEDS = range(3)


def with_pairs(counts: sparse.csr_matrix, types: np.ndarray, seed: int) -> sparse.csr_matrix:
    """Return sums of random pairs of cells of different types, a tenth as many as there are cells."""
    generator = np.random.default_rng(seed)
    one, other = generator.integers(len(types), size=(2, 10 * len(types)))
    chosen = np.flatnonzero(types[one] != types[other])[: round(SHARE * len(types))]
    return sparse.csr_matrix(counts[one[chosen]] + counts[other[chosen]])


def measured(name: str, seed: int) -> dict[str, float | str]:
    """Return a row for one set."""
    target = targets_of(name)[0]
    adata = ad.read_h5ad(SHARED_DATA / f"{name}.h5ad")
    own = adata[(adata.obs["batch"].astype(str) == target).to_numpy()]
    pairs = ad.AnnData(with_pairs(sparse.csr_matrix(own.X), own.obs["celltype"].astype(str).to_numpy(), seed))
    pairs.var_names = adata.var_names
    pairs.obs_names = [f"pair {i}" for i in range(pairs.n_obs)]
    pairs.obs["batch"], pairs.obs["celltype"] = target, "unknown"
    with tempfile.TemporaryDirectory() as folder:
        ad.concat([adata, pairs]).write_h5ad(f"{folder}/cells.h5ad")
        parameters = make_parameters(
            {
                "PATH": f"{folder}/cells.h5ad", "BATCH_COL": "batch", "LABELS_COL": "celltype", "TARGET_DATASET_NAME": target,
                "OUTPUT_PATH": "unused", "USE_GPU": False, "DOUBLETS": True,
            }
        )  # fmt: skip
        prepared, plan = read_prepared(parameters)
    found = annotate.learn_and_annotate(prepared, plan, annotate.settings_of(parameters), keep_history=False).annotated
    assert found.doublets is not None
    is_pair = (
        prepared.obs["cell"]
        .astype(str)[(prepared.obs["batch"] == target).to_numpy()]
        .str.startswith("pair ")
        .to_numpy()
    )
    called, without = found.doublets.called, replace(found.final, doublet=None)
    return {
        "set": name,
        "pairs": int(is_pair.sum()),
        "with a type, DOUBLETS false": float((~without.rejected)[is_pair].mean()),
        "with a type, DOUBLETS true": float((~found.final.rejected)[is_pair].mean()),
        "AUROC of the score": float(roc_auc_score(is_pair, found.doublets.score)),
        "called of single cells": float(called[~is_pair].mean()),
    }


def main() -> None:
    """Print the table."""
    for title, names in {"that the settings were chosen on": CHOSEN_ON, "that chose nothing": CHECKED_ON}.items():
        rows = pd.DataFrame([measured(name, seed) for name in names for seed in SEEDS])
        of_sets = rows.groupby("set").mean(numeric_only=True)
        of_sets.loc["MEAN"] = of_sets.mean()
        print_table(f"Pairs of cells of different types, mean over seeds: sets {title}", of_sets)


if __name__ == "__main__":
    main()
