"""How accurate a target is annotated that has few of the features: 200 of the 1,767 genes of pbmc_10x_symphony, target 5p.

    python -m benchmarks.research.few_features    # five random draws, as absent features and as zeros; two minutes

Draws are of numpy's `default_rng(0)` to `default_rng(4)`. Competitors get the cells and features that METHOD `default` gets.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from benchmarks.common import SHARED_DATA, labels_of_target, parser_of, print_table, read_prepared, scores
from benchmarks.problems import Problem
from benchmarks.product.twenty_sets import OURS, answer
from jind_nb.core.parameters import make_parameters

SET, TARGET = "pbmc_10x_symphony", "5p"
GENES, DRAWS = 200, 5
METHODS = (OURS, "logistic regression, C = 1", "components + softmax", "Harmony + softmax", "LightGBM")


def problem_of(adata: ad.AnnData, kept: np.ndarray, way: str, folder: Path) -> Problem:
    """Return the problem whose target has only the `kept` features, bool (p,): the others `absent` from its file, or `zeros`."""
    is_target = (adata.obs["batch"].astype(str) == TARGET).to_numpy()
    if way == "absent":
        paths = [folder / "annotated.h5ad", folder / "target.h5ad"]
        adata[~is_target].copy().write_h5ad(paths[0])
        adata[is_target, kept].copy().write_h5ad(paths[1])
    else:
        paths = [folder / "both.h5ad"]
        zeros = adata.copy()
        x = sparse.lil_matrix(zeros.X)
        x[np.ix_(is_target, ~kept)] = 0
        zeros.X = sparse.csr_matrix(x)
        zeros.write_h5ad(paths[0])
    parameters = make_parameters(
        {
            "PATH": [str(path) for path in paths], "BATCH_COL": "batch", "LABELS_COL": "celltype",
            "TARGET_DATASET_NAME": TARGET, "OUTPUT_PATH": "unused", "USE_GPU": False,
        }
    )  # fmt: skip
    prepared, plan = read_prepared(parameters)
    return Problem(SET, TARGET, way, parameters, prepared, plan, labels_of_target(parameters))


def main() -> None:
    parser_of(__doc__).parse_args()
    adata = ad.read_h5ad(SHARED_DATA / f"{SET}.h5ad")
    rows = []
    for draw in range(DRAWS):
        kept = np.zeros(adata.n_vars, dtype=bool)
        kept[np.random.default_rng(draw).choice(adata.n_vars, GENES, replace=False)] = True
        for way in ("absent", "zeros"):
            with tempfile.TemporaryDirectory() as folder:
                problem = problem_of(adata, kept, way, Path(folder))
                for method in METHODS:
                    try:
                        found = scores(problem.truth, problem.plan.classes, answer(problem, method)[0])
                    except ModuleNotFoundError as error:
                        print(f"{method}: {error}")
                        continue
                    rows.append(
                        {"way": way, "draw": draw, "features": problem.prepared.n_vars, "method": method} | found
                    )
    table = pd.DataFrame(rows)
    print_table(
        "Raw accuracy of each draw",
        table.pivot(index=["way", "draw", "features"], columns="method", values="raw_accuracy"),
    )
    print_table("Means", table.groupby("method", sort=False)[["raw_accuracy", "macro_F1", "AURC"]].mean())


if __name__ == "__main__":
    main()
