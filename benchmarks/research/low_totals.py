"""To which total cells are best brought: 10,000, the median of the annotated batches, or between; on all features and on few.

    python -m benchmarks.research.low_totals          # prints the table of results/low_totals.csv
    python -m benchmarks.research.low_totals --run    # measures it, in a quarter of an hour

Few features are drawn at random (numpy's `default_rng(0)` and `(1)`), the same for all batches. Sets whose values are no counts
are left out: nothing is brought to a total there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from benchmarks.common import (
    RESULTS,
    SHARED_DATA,
    append_rows,
    labels_of_target,
    parser_of,
    print_table,
    read_prepared,
    scores,
)
from benchmarks.problems import NOT_COUNTED, SETS, Problem, problems, targets_of
from benchmarks.product.twenty_sets import OURS, answer
from jind_nb.core.model_json import CommonScale
from jind_nb.core.parameters import make_parameters
from jind_nb.data import prepare, scale

OUTPUT = RESULTS / "low_totals.csv"
FEATURES, DRAWS, TARGETS_OF_FEW = (200,), 2, 2
TOTALS = ("10,000", "between", "median")
EVERY = "all"
LIMITS = (0, 300, 500, 700, 1_000, 2_000, scale.COUNTS_PER_CELL, 1e9)  # the last: everywhere

_median: list[float] = []  # of the last problem


def rule(name: str) -> Callable[[CommonScale, Mapping[str, np.ndarray]], CommonScale]:
    """Return what takes the place of `scale_of_counts`."""

    def chosen(common: CommonScale, counts: Mapping[str, np.ndarray]) -> CommonScale:
        if common.total != scale.COUNTS_PER_CELL or not common.rescaled:
            return common
        _median[:] = [scale.scale_of_counts(common, counts).total or np.nan]
        totals = {"10,000": 1e4, "median": _median[0], "between": float(np.sqrt(1e4 * _median[0]))}
        return replace(common, total=totals[name])

    return chosen


def few(name: str, n: int) -> Iterator[Problem]:
    """Yield problems of a set with n of its features."""
    adata = ad.read_h5ad(SHARED_DATA / f"{name}.h5ad")
    for target in targets_of(name)[:TARGETS_OF_FEW]:
        for draw in range(DRAWS):
            kept = np.sort(np.random.default_rng(draw).choice(adata.n_vars, n, replace=False))
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "few.h5ad"
                adata[:, kept].copy().write_h5ad(file)
                parameters = make_parameters(
                    {
                        "PATH": str(file), "BATCH_COL": "batch", "LABELS_COL": "celltype",
                        "TARGET_DATASET_NAME": target, "OUTPUT_PATH": "unused", "USE_GPU": False,
                    }
                )  # fmt: skip
                prepared, plan = read_prepared(parameters)
                yield Problem(name, target, f"draw {draw}", parameters, prepared, plan, labels_of_target(parameters))


def measure(name: str) -> None:
    """Append a row for each problem and total of a set; nothing of a set without counts."""
    n_features = ad.read_h5ad(SHARED_DATA / f"{name}.h5ad", backed="r").n_vars
    for n in (EVERY, *(n for n in FEATURES if n < 0.8 * n_features)):
        for total in TOTALS:
            prepare.scale_of_counts = rule(total)
            _median.clear()
            for problem in problems(name, hard=False) if n == EVERY else few(name, int(n)):
                if not _median:
                    return
                found = scores(problem.truth, problem.plan.classes, answer(problem, OURS)[0])
                row = {"set": name, "features": n, "target": problem.target, "role": problem.role, "total": total}
                numbers = {"median": round(_median[0], 1), "macro_F1": found["macro_F1"], "AURC": found["AURC"]}
                append_rows(OUTPUT, [row | numbers])


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--run", action="store_true", help="measure everything again first")
    if parser.parse_args().run:
        OUTPUT.unlink(missing_ok=True)
        for name in SETS:
            try:
                measure(name)
            except Exception as error:  # too few types or features are left in some draws
                print(f"{name}: {error}")
    rows = pd.read_csv(OUTPUT)
    rows = rows[~rows["set"].isin(NOT_COUNTED)]
    of_sets = rows.pivot_table(index=["features", "set"], columns="total", values="macro_F1")[list(TOTALS)]
    median = rows.groupby(["features", "set"])["median"].median()  # counts of a cell
    print_table("Macro-F1 of METHOD default by the total that cells are brought to", of_sets.assign(counts=median))
    by_limit = pd.DataFrame({of: of_sets["median"].where(median < of, of_sets["10,000"]) for of in LIMITS})
    print_table("The median where it is below a limit: means over sets", by_limit.groupby("features").mean())
    both = by_limit.groupby("set").mean()  # all features, and few
    chosen = {name: both.drop(index=name).mean().idxmax() for name in both.index}
    others = by_limit.apply(lambda row: row[chosen[row.name[1]]], axis=1)
    print("\nThe limit that the other sets choose:", {name: f"{limit:g}" for name, limit in chosen.items()})
    print("Means over sets, each with that limit:", others.groupby("features").mean().round(4).to_dict())


if __name__ == "__main__":
    main()
