"""Ask what is stated of a target whose cells lost most of their counts, and whether poor cells are warned of: the twenty sets.

python -m benchmarks.research.poor_cells          # prints the tables of results/poor_cells.csv
python -m benchmarks.research.poor_cells --run    # measures what is missing there first; goes on where it stopped

A model annotates its own target first. Then each of that target's counts is kept with a chance (1: as it is), and the model is asked for the
cells again, as a new file. Where the values are no counts, only the first is done.
"""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

import jind_nb as jn
from benchmarks.common import RESULTS, print_table
from benchmarks.problems import NOT_COUNTED, PROBLEM, Problem, measure_or_report
from jind_nb.core.labels import UNASSIGNED

OUTPUT = RESULTS / "poor_cells.csv"
KEPT = (1.0, 0.5, 0.3, 0.1, 0.05)  # chance of each count


def measured(problem: Problem) -> list[dict[str, object]]:
    """Return a row for each chance: features of the median cell, how many cells were assigned and wrong, and what was stated."""
    p = problem.parameters
    seen = np.diff(sparse.csr_matrix(problem.prepared.X).indptr)
    batch = problem.prepared.obs["batch"].astype(str).to_numpy()
    fewest = min(float(np.median(seen[batch == name])) for name in problem.plan.annotated)
    common = {name: getattr(problem, name) for name in PROBLEM} | {"annotated": fewest}
    adata = ad.read_h5ad(str(p.PATH))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = jn.annotate(
            adata,
            batch_key="batch",
            labels_key="celltype",
            target=problem.target,
            intermediates=p.INTER_DATASETS_NAMES,
            use_gpu=False,
        )
    target, rows = adata[(adata.obs["batch"].astype(str) == problem.target).to_numpy()], []
    counts = sparse.csr_matrix(target.X)
    is_counts = problem.plan.values[0]["value type"] == "counts" and (counts.data == np.round(counts.data)).all()
    is_used = target.var_names.isin(problem.prepared.var_names)
    for kept in KEPT if is_counts else KEPT[:1]:
        thinned = counts.copy()
        if kept < 1:
            thinned.data = np.random.default_rng(0).binomial(counts.data.astype(int), kept).astype(np.float32)
            thinned.eliminate_zeros()
        new = ad.AnnData(thinned, obs=pd.DataFrame(index=target.obs_names), var=pd.DataFrame(index=target.var_names))
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            stated = model.predict(new)
        answers = new.obs["jind_prediction"].astype(str).to_numpy()
        assigned = answers != UNASSIGNED
        low, high = stated.range or (np.nan, np.nan)
        rows.append(
            common
            | {
                "kept": kept,
                "features": float(np.median(np.diff(thinned[:, is_used].indptr))),
                "assigned": float(assigned.mean()),
                "wrong": float((answers != problem.truth)[assigned].mean()) if assigned.any() else np.nan,
                "stated": stated.value,
                "low": low,
                "high": high,
                "warned": any("are poor" in str(warning.message) for warning in told),
            }
        )
    return rows


def report(rows: pd.DataFrame) -> None:
    """Print the means over sets for each chance, and the targets whose cells are poorest as they are."""
    rows = rows[~rows["set"].isin(NOT_COUNTED)].copy()
    rows["of annotated"] = rows["features"] / rows["annotated"]
    rows["distance"] = (rows["stated"] - rows["wrong"]).abs()
    within = (rows["wrong"] >= rows["low"]) & (rows["wrong"] <= rows["high"])
    # Of a single annotated batch nothing is stated.
    rows["in the interval"] = within.astype(float).where(rows["low"].notna())
    counted = rows[rows["set"].isin(rows.loc[rows["kept"] < 1, "set"])]
    columns = ["of annotated", "assigned", "wrong", "stated", "distance", "in the interval", "warned"]
    print_table(
        "Sets with counts, means over sets", counted.groupby(["kept", "set"])[columns].mean().groupby("kept").mean()
    )
    as_they_are = rows[rows["kept"] == 1].sort_values("of annotated")
    print_table(
        f"The poorest of {len(as_they_are)} targets as they are",
        as_they_are[[*PROBLEM, "of annotated", "warned"]].head(8).set_index("set"),
    )


if __name__ == "__main__":
    measure_or_report(__doc__, OUTPUT, measured, report, ("all",))
