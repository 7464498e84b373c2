"""Compare our methods with the tools a user would otherwise pick, on nine shared sets.

    python -m benchmarks.product.accuracy                 # prints the tables of results/accuracy.csv
    python -m benchmarks.product.accuracy --run           # measures what is missing first (at most three targets a set)
    python -m benchmarks.product.accuracy --run --full    # the same with every batch of every set as target

Every batch is a target in turn, and the others are annotated. Methods whose answer depends on no seed run once, scANVI with
one seed, METHOD `reference` with three, `default` with five. Each row is written at once, and no row is measured twice.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from benchmarks.common import (
    CHECK,
    DESIGN,
    RESULTS,
    SETS,
    TARGETS_OF_A_SET,
    append_rows,
    measured_already,
    parameters_of,
    parser_of,
    print_table,
    read_rows,
    targets,
)
from jind_nb.commands.compare import measure
from jind_nb.commands.compare import table as compare_table
from jind_nb.core.parameters import Parameters
from jind_nb.report.plots import compare as plots_compare
from jind_nb.report.plots import style
from jind_nb.results.write import write_sheets

OUTPUT = RESULTS / "accuracy.csv"
SEEDS = {"default": 5, "default not aligned": 5, "random labels": 5, "scANVI": 1, "pooled network": 1} | {
    m: 3 for m in measure.JIND if not m.startswith("default")
}

# Adapters and alignment are measured against these. Nobody would pick them, so they are no competitors.
YARDSTICKS = ("default not aligned", "pooled network")
# METHOD `reference` used in other ways than it is meant. They are competitors in the second reading of the goals only.
OTHER_WAYS = ("reference single source", "reference combined")


Job = tuple[str, str, str, Parameters]  # set, target, method, parameters


def jobs(options: argparse.Namespace) -> list[Job]:
    """Return everything to measure: method by method, and in each one target of every set before a second of any."""
    of_sets = {name: targets(name)[: None if options.full else options.targets_per_set] for name in options.sets}
    most = max(map(len, of_sets.values()))
    return [
        (name, of_set[i][0], method, parameters_of(name, of_set[i][0], SEED=seed, **of_set[i][1]))
        for method in options.methods
        for i in range(most)
        for name, of_set in of_sets.items()
        if i < len(of_set)
        for seed in range(min(SEEDS.get(method, 1), options.seeds))
    ]


def run(options: argparse.Namespace) -> None:
    """Append the rows that are not in the results yet; `--jobs` methods work at a time, each on one thread."""
    already = measured_already(OUTPUT, ["set", "target", "method", "seed"])
    to_do = [job for job in jobs(options) if (*job[:3], job[3].SEED) not in already]
    began = time.monotonic()

    def measured(job: Job) -> tuple[Job, dict[str, Any] | measure.UnavailableError]:
        name, target, method, parameters = job
        try:
            return job, {"set": name, "target": target, **measure.measure(parameters, method)}
        except measure.UnavailableError as reason:
            return job, reason

    at_work = Parallel(options.jobs, prefer="threads", return_as="generator_unordered")
    for i, (job, row) in enumerate(at_work(delayed(measured)(job) for job in to_do)):
        name, target, method, parameters = job
        what = (
            f"{i + 1} of {len(to_do)}, {time.monotonic() - began:.0f} s: {name}, {target}, {method}, {parameters.SEED}"
        )
        if isinstance(row, measure.UnavailableError):
            print(f"{what}: left out: {row}", flush=True)
            continue
        append_rows(OUTPUT, [row])
        print(f"{what}: macro-F1 {row['macro_F1']:.3f}, {row['seconds']:.0f} s, {row['peak_GB']:.2f} GB", flush=True)


# --- what the results say --------------------------------------------------------------------------------------------


def report(rows: pd.DataFrame, ours: str) -> None:
    """Print the tables, and write them as a workbook and a picture beside the results."""
    median = compare_table.by_target(rows)
    f1 = compare_table.wide_by_target(rows, "macro_F1")
    of_sets = f1.groupby("set", sort=False).mean()
    groups = {"all sets": list(SETS), "design sets": list(DESIGN), "check sets": list(CHECK)}
    means = pd.DataFrame({name: of_sets[of_sets.index.isin(sets)].mean() for name, sets in groups.items()})
    summary = compare_table.summary(rows)
    tables = {"summary": summary, "macro-F1 of sets": of_sets, "design and check sets": means.loc[summary.index]}
    shown = ["targets", "macro_F1", *[name for name in summary if name not in ("targets", "macro_F1")]]
    print_table("Means over sets; macro-F1 of the worst target; differences in macro-F1 over targets", summary[shown].T)
    print_table("Macro-F1 of each set (mean over its targets)", of_sets[summary.index].T)
    print_table("Macro-F1, means over sets", tables["design and check sets"])
    if ours in f1:
        tables["goals"] = goals(median, ours)
        print_table(f"{ours} beside the best competitor", tables["goals"])
        tables["goals, ways of reference"] = goals(median, ours, OTHER_WAYS)
        print_table(f"The same, {' and '.join(OTHER_WAYS)} among the competitors", tables["goals, ways of reference"])
        tables["targets"] = each_target(median, ours)
        f1_only = [name for name in tables["targets"] if "macro_F1" in name]
        print_table(f"{ours} minus the best competitor, each target", tables["targets"][f1_only])
    write_sheets(OUTPUT.with_suffix(".xlsx"), tables | {"rows": rows})
    several = median["target"].groupby(median["set"]).nunique()
    title = (
        f"{len(several)} sets, {several.sum()} targets; a mark a target (median over seeds), a line the mean over sets"
    )
    OUTPUT.with_suffix(".png").write_bytes(style.png(plots_compare.comparison(median, title)))


def competitors(median: pd.DataFrame, ours: str, also: tuple[str, ...] = ()) -> list[str]:
    """Return the usual tools and METHOD `reference`, as far as they have every target of ours."""
    left_aside = {ours, *measure.CONTROLS, *YARDSTICKS, *OTHER_WAYS}.difference(also)
    of_methods = {
        name: set(zip(of["set"], of["target"], strict=True)) for name, of in median.groupby("method", sort=False)
    }
    return [name for name, targets in of_methods.items() if name not in left_aside and targets >= of_methods[ours]]


def goals(median: pd.DataFrame, ours: str, also: tuple[str, ...] = ()) -> pd.DataFrame:
    """Return ours beside the best competitor for each number and group of sets; `also` are further competitors.

    "Best" has two readings: the one method with the best mean over all sets, and in each set the method that is best there.
    """
    others, lines = competitors(median, ours, also), []
    of_sets = median[median["method"].isin([ours, *others])].groupby(["method", "set"])[compare_table.NUMBERS].mean()
    for number in (
        "macro_F1",
        "macro_F1_10",
        *compare_table.AT_COVERAGES,
        "AURC",
        "mAP",
        "balanced_accuracy",
        "calibration_error",
    ):
        less_is_better = number in ("AURC", "calibration_error")
        wide = of_sets[number].unstack("method").dropna()
        mean = wide[others].mean()
        best = mean.idxmin() if less_is_better else mean.idxmax()
        best_of_set = wide[others].min(axis=1) if less_is_better else wide[others].max(axis=1)
        for group, sets in {"all": list(SETS), "design": DESIGN, "check": CHECK}.items():
            some = wide[wide.index.isin(sets)]
            if some.empty:
                continue
            line = {"number": number, "sets": group, "ours": some[ours].mean(), "best competitor": best}
            line |= {"its mean": some[best].mean(), "difference": (some[ours] - some[best]).mean()}
            apart = some[ours] - best_of_set[some.index]
            worst = apart.idxmax() if less_is_better else apart.idxmin()
            line |= {"difference from each set's best": apart.mean(), "worst set": worst, "there": apart[worst]}
            if number == "AURC":  # errors are ratios; 0.005 keeps sets without any from deciding alone
                for name, other in (("ratio", some[best]), ("ratio to each set's best", best_of_set[some.index])):
                    line[name] = float(np.exp(np.log((some[ours] + 0.005) / (other + 0.005)).mean()))
            lines.append(line)
    return pd.DataFrame(lines).set_index(["number", "sets"])


def each_target(median: pd.DataFrame, ours: str) -> pd.DataFrame:
    """Return, for each target, ours minus the competitor of best mean macro-F1, and minus the one that is best there."""
    others, columns = competitors(median, ours), {}
    mean = compare_table.over_targets
    best = max(others, key=lambda name: mean(median[median["method"] == name])["macro_F1"])
    for number in ("macro_F1", "macro_F1_10", "accuracy_at_90%"):
        wide = median.pivot(index=["set", "target"], columns="method", values=number)
        wide = wide[wide[ours].notna()]
        columns[f"{number}, ours"] = wide[ours]
        columns[f"minus {best}, {number}"] = wide[ours] - wide[best]
        columns[f"minus the best there, {number}"] = wide[ours] - wide[others].max(axis=1)
    return pd.DataFrame(columns)


# --- the command -----------------------------------------------------------------------------------------------------


def names_in(text: str) -> list[str]:
    """Return the names of methods or sets in a list with commas."""
    known = (*measure.METHODS, *SETS)
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}; known are {', '.join(known)}")
    return names


def parse() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--run", action="store_true", help="run what is missing in the results first")
    parser.add_argument("--methods", type=names_in, default=list(measure.METHODS), help="names, commas between")
    parser.add_argument("--sets", type=names_in, default=list(SETS), help="names, commas between")
    parser.add_argument("--targets-per-set", type=int, default=TARGETS_OF_A_SET)
    parser.add_argument("--seeds", type=int, default=5, help="at most so many of each method")
    parser.add_argument("--jobs", type=int, default=2, help="methods that work at once, each on one core")
    parser.add_argument("--ours", default="default", help="the method to set beside the best competitor")
    parser.add_argument("--full", action="store_true", help="every target")
    return parser.parse_args()


if __name__ == "__main__":
    options = parse()
    if options.run:
        run(options)
    report(read_rows(OUTPUT), options.ours)
