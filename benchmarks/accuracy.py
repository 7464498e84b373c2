"""How right our methods are beside the tools a user would otherwise pick, on all shared sets.

    .venv/bin/python benchmarks/accuracy.py                 # the tables of what results/accuracy.csv holds
    .venv/bin/python benchmarks/accuracy.py --run           # runs what is missing there first (at most three targets a set)
    .venv/bin/python benchmarks/accuracy.py --run --full    # every annotated batch of every set as target

Every batch is a target in turn, the issue's cases first; the others are annotated. Methods whose answer depends on no
seed run once, scANVI with one seed, METHOD `reference` with three, `default` with five. A row is written as soon as it is
known, and rows that are there are not run again.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from typing import Any

# Two threads that wait for each other actively make a busy machine several times slower; must be set before numpy.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import anndata as ad
import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from learned import RESULTS, SHARED_DATA, parameters_of

from jind_nb.commands.compare import measure
from jind_nb.commands.compare import table as compare_table
from jind_nb.core.parameters import Parameters
from jind_nb.report.plots import compare as plots_compare
from jind_nb.report.plots import style
from jind_nb.results.write import write_sheets

OUTPUT = RESULTS / "accuracy.csv"
DESIGN = (
    "pbmc_10x_symphony",
    "pancreas_wang_xin_baron",
    "scatac_granja_bmmc_2donors",
    "pbmc_adt_cite_asap_4batches",
    "pancreas_baron_human_mouse_6donors",
)
CHECK = (
    "cellbench_6batches",
    "pancreas_3studies_small",
    "pbmc_onek1k_40donors",
    "scatac_hematopoiesis_3batches",
)
FIRST = {
    "pbmc_10x_symphony": "3pv1",
    "cellbench_6batches": "CELseq2_5cl_p3",
    "pancreas_3studies_small": "Lawlor",
    "pancreas_wang_xin_baron": "Wang",
    "scatac_granja_bmmc_2donors": "BMMC_D5T1",
    "scatac_hematopoiesis_3batches": "BM0828",
    "pbmc_onek1k_40donors": "SAMP3",
    "pbmc_adt_cite_asap_4batches": "C4_ASAPseq",
}
# Of the 40 donors a target has eight others to learn from; the issue names those of its case.
DONORS = {"SOURCE_DATASET_NAME": "SAMP2", "INTER_DATASETS_NAMES": ["SAMP15", "SAMP11", "SAMP20", "SAMP32", "SAMP6"]}
MANY_BATCHES, OTHERS_OF_MANY, EVERY_OF_MANY = 10, 8, 10
SEEDS = {"default": 5, "default not aligned": 5, "random labels": 5, "scANVI": 1, "pooled network": 1} | {
    m: 3 for m in measure.JIND if not m.startswith("default")
}


# What adapters and alignment are measured against: no tools one could pick, and no competitors.
YARDSTICKS = ("default not aligned", "pooled network")
# METHOD `reference` otherwise than it is meant: competitors in the second reading of the goals only.
OTHER_WAYS = ("reference single source", "reference combined")


def targets(name: str) -> list[tuple[str, dict[str, Any]]]:
    """Each target of a set, the issue's case first, with the parameters that say who is annotated."""
    batches = list(dict.fromkeys(ad.read_h5ad(SHARED_DATA / f"{name}.h5ad", backed="r").obs["batch"].astype(str)))
    first = FIRST.get(name)
    if len(batches) > MANY_BATCHES:
        drawn = range(0, len(batches), EVERY_OF_MANY)
        others = [batches[i + 1 : i + 1 + OTHERS_OF_MANY] for i in drawn]
        every = [(batches[i], {"INTER_DATASETS_NAMES": of}) for i, of in zip(drawn, others, strict=True)]
        return [(first, DONORS), *every] if first else every
    return [(batch, {}) for batch in sorted(batches, key=lambda batch: (batch != first, batches.index(batch)))]


Job = tuple[str, str, str, Parameters]  # set, target, method, parameters


def jobs(asked: argparse.Namespace) -> list[Job]:
    """Everything to run: method by method, then one target of each set first."""
    of_sets = {name: targets(name)[: None if asked.full else asked.targets_per_set] for name in asked.sets}
    most = max(map(len, of_sets.values()))
    return [
        (name, of_set[i][0], method, parameters_of(name, of_set[i][0], SEED=seed, **of_set[i][1]))
        for method in asked.methods
        for i in range(most)
        for name, of_set in of_sets.items()
        if i < len(of_set)
        for seed in range(min(SEEDS.get(method, 1), asked.seeds))
    ]


def run(asked: argparse.Namespace) -> None:
    """Appends the rows of everything asked that is not in the results yet; `--jobs` at a time, each on one thread."""
    done = set()
    if OUTPUT.exists():
        keys = ["set", "target", "method", "seed"]
        done = set(read()[keys].itertuples(index=False, name=None))
    to_do = [job for job in jobs(asked) if (*job[:3], job[3].SEED) not in done]
    began = time.monotonic()

    def measured(job: Job) -> tuple[Job, dict[str, Any] | measure.UnavailableError]:
        name, target, method, parameters = job
        try:
            return job, {"set": name, "target": target, **measure.measure(parameters, method)}
        except measure.UnavailableError as reason:
            return job, reason

    at_work = Parallel(asked.jobs, prefer="threads", return_as="generator_unordered")
    for i, (job, row) in enumerate(at_work(delayed(measured)(job) for job in to_do)):
        name, target, method, parameters = job
        what = (
            f"{i + 1} of {len(to_do)}, {time.monotonic() - began:.0f} s: {name}, {target}, {method}, {parameters.SEED}"
        )
        if isinstance(row, measure.UnavailableError):
            print(f"{what}: left out: {row}", flush=True)
            continue
        append(row)
        print(f"{what}: macro-F1 {row['macro_F1']:.3f}, {row['seconds']:.0f} s, {row['peak_GB']:.2f} GB", flush=True)


def append(row: dict[str, Any]) -> None:
    """One more row, whole, in the results."""
    new = not OUTPUT.exists()
    with OUTPUT.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, list(row))
        if new:
            writer.writeheader()
        writer.writerow({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()})


def read() -> pd.DataFrame:
    return pd.read_csv(OUTPUT, dtype={"target": str})


# --- what the results say --------------------------------------------------------------------------------------------


def report(rows: pd.DataFrame, ours: str) -> None:
    """Prints the tables, and writes them as a workbook and a picture beside the results."""
    median = compare_table.by_target(rows)
    f1 = compare_table.wide_by_target(rows, "macro_F1")
    of_sets = f1.groupby("set", sort=False).mean()
    groups = {"all sets": [*DESIGN, *CHECK], "design sets": list(DESIGN), "check sets": list(CHECK)}
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
    """The usual tools and METHOD `reference`, as far as they have every target of ours."""
    left_aside = {ours, *measure.CONTROLS, *YARDSTICKS, *OTHER_WAYS}.difference(also)
    of_methods = {
        name: set(zip(of["set"], of["target"], strict=True)) for name, of in median.groupby("method", sort=False)
    }
    return [name for name, targets in of_methods.items() if name not in left_aside and targets >= of_methods[ours]]


def goals(median: pd.DataFrame, ours: str, also: tuple[str, ...] = ()) -> pd.DataFrame:
    """Ours beside the best competitor (`also`: further methods taken for one), for each number and group of sets, in two
    readings of best: the one method of best mean over all sets, and in each set whichever is best there."""
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
        for group, sets in {"all": [*DESIGN, *CHECK], "design": DESIGN, "check": CHECK}.items():
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
    """For each target, ours minus the one competitor of best mean macro-F1, and minus whichever is best there."""
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


def print_table(title: str, table: pd.DataFrame) -> None:
    print(f"\n{title}\n")
    print(table.astype(object).where(table.notna(), "").to_string(float_format="{:.3f}".format))


# --- the command -----------------------------------------------------------------------------------------------------


def listed(text: str) -> list[str]:
    known = (*measure.METHODS, *DESIGN, *CHECK)
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}; known are {', '.join(known)}")
    return names


def asked_for() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", action="store_true", help="run what is missing in the results first")
    parser.add_argument("--methods", type=listed, default=list(measure.METHODS), help="names, commas between")
    parser.add_argument("--sets", type=listed, default=[*DESIGN, *CHECK], help="names, commas between")
    parser.add_argument("--targets-per-set", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=5, help="at most so many of each method")
    parser.add_argument("--jobs", type=int, default=2, help="methods at work at once, each on one core")
    parser.add_argument("--ours", default="default", help="the method to set beside the best competitor")
    parser.add_argument("--full", action="store_true", help="every target")
    return parser.parse_args()


if __name__ == "__main__":
    asked = asked_for()
    if asked.run:
        run(asked)
    report(read(), asked.ours)
