"""Hide cell types from the annotated batches in turn, and count how many of their cells are found in the target.

python -m benchmarks.research.new_types          # prints the table of results/new_types.csv
python -m benchmarks.research.new_types --run    # measures what is missing there first; goes on where it stopped

A set's largest types are hidden, one at a time; of the target so many cells are taken that the hidden type makes up 5 to 50 %
of them. At most 1,500 cells of the target and 4,000 annotated ones. The file has the shares of new and of known cells above each
limit, and what left-out batches tell of the limit: so that rules for it can be compared, each chosen by the other sets.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.metrics import roc_auc_score

from benchmarks.common import RESULTS, append_rows, measured_already, print_table, read_rows, run_sets_or_report
from benchmarks.problems import SETS, Problem, of_rows, problems
from jind_nb.core.subsample import subsample
from jind_nb.model import annotate
from jind_nb.model.calibration import HIGHEST_LIMIT, exceeded_by
from jind_nb.model.new_types import APART, BESIDE_NOVEL, FLOOR, SLOPE, START, UNSURE
from jind_nb.model.predictions import SHARE_ABOVE
from jind_nb.model.state import USUALLY_APART, Exceeded, NoveltyLimit

OUTPUT = RESULTS / "new_types.csv"
MOST_OF_TARGET, MOST_ANNOTATED, MOST_TYPES = 1_500, 4_000, 7
FEWEST_CELLS = 10  # of a type that is hidden
RARE, COMMON = 0.05, 0.5  # shares of the target that a hidden type has
RECALLED = 0.8  # a type that is recalled less often by the model that knows it is a near relative of another
LIMITS = tuple(round(0.02 * step, 2) for step in range(151))  # of novelty
MOST_KNOWN, WORST_KNOWN = (
    0.02,
    0.1,
)  # of known cells that may be flagged, on average and at worst, by which a rule is chosen
# Rules of the limit that are compared: all of these for UNSURE and APART, each with starts from low to high. A start is that of a
# limit that two batches tell, which are as far apart as usual.
UNSURES, APARTS = (0.0, 0.4, UNSURE, 1.2), (0.0, APART, 0.4)
STARTS = tuple(round(0.01 * step, 2) for step in range(30, 71, 2))


def without(problem: Problem, hidden: str | None) -> Problem:
    """Return the problem with at most so many cells, and without a type in the annotated batches."""
    rng, is_target = np.random.default_rng(0), problem.is_target
    kept, labels = np.arange(len(problem.truth)), problem.prepared.obs["cell_type"].astype(object).to_numpy()
    annotated = np.flatnonzero(~is_target)
    if hidden is not None:
        annotated = annotated[labels[annotated] != hidden]
        new, others = np.flatnonzero(problem.truth == hidden), np.flatnonzero(problem.truth != hidden)
        if len(new) > COMMON * len(kept):
            new = rng.choice(new, len(others), replace=False)
        elif len(new) < RARE * len(kept):
            others = rng.choice(others, round(len(new) / RARE) - len(new), replace=False)
        kept = np.sort(np.concatenate([new, others]))
    kept = kept[subsample(len(kept), MOST_OF_TARGET, 0)]
    annotated = annotated[subsample(len(annotated), MOST_ANNOTATED, 0)]
    sizes = pd.Series(labels[annotated]).value_counts()
    annotated = annotated[np.isin(labels[annotated], sizes.index[sizes >= 2])]
    rows = np.sort(np.concatenate([annotated, np.flatnonzero(is_target)[kept]]))
    return of_rows(problem, "hidden", rows, problem.truth[kept])


def recalls(problem: Problem) -> dict[str, tuple[float, float | None]]:
    """Return how many of each type's target cells the model that knows it names right, and how many it says would be noticed if
    the type were new; largest types first."""
    problem = without(problem, None)
    settings = annotate.settings_of(problem.parameters)
    reference = annotate.train(problem.prepared, problem.plan, settings, keep_history=False)
    noticed = next(iter(annotate.calibrate(reference).values())).noticed
    known = annotate.known_with_rules(reference, {})
    x = sparse.csr_matrix(problem.prepared.X[problem.is_target])
    raw = annotate.annotate(reference.model, x, known, settings).final.raw
    sizes = pd.Series(problem.truth).value_counts()
    types = [name for name in sizes.index if sizes[name] >= FEWEST_CELLS and name in problem.plan.classes][:MOST_TYPES]
    return {name: (float((raw == name)[problem.truth == name].mean()), noticed.get(name)) for name in types}


def measured(problem: Problem, hidden: str, recall: float, said: float | None) -> dict[str, object]:
    """Return a row for a hidden type, of which the report said which share would be noticed."""
    problem = without(problem, hidden)
    settings = annotate.settings_of(problem.parameters)
    reference = annotate.train(problem.prepared, problem.plan, settings, keep_history=False)
    left_out = annotate.leave_batches_out(reference)
    known = annotate.known_with_rules(reference, {})
    x = sparse.csr_matrix(problem.prepared.X[problem.is_target])
    novelty = annotate.annotate(reference.model, x, known, settings).novelty
    new = problem.truth == hidden
    others = np.isin(problem.truth, problem.plan.classes)
    exceeded, alone = exceeded_by(left_out), left_out[0].limit.alone
    row = {
        "set": problem.set,
        "target": problem.target,
        "hidden": hidden,
        "recall": recall,
        "said": said,
        "share": float(new.mean()),
        "annotated_batches": len(reference.batches),
        "AUROC": float(roc_auc_score(new[new | others], novelty[new | others])),
        "exceeded": None if exceeded is None else exceeded.value,
        "telling_batches": 0 if exceeded is None else exceeded.batches,
        "apart": None if exceeded is None else exceeded.apart,
        "alone": alone,
        "high": float(np.quantile(novelty, 1 - SHARE_ABOVE)),
    }
    for limit in LIMITS:
        row[f"new_{limit}"] = round(float((novelty[new] > limit).mean()), 4)
        row[f"known_{limit}"] = round(float((novelty[others] > limit).mean()), 4)
    return row


def flagged(rows: pd.DataFrame, unsure: float, apart: float, start: float) -> pd.DataFrame:
    """Return the shares of `new` and `known` cells that a rule of the limit flags in each row."""
    of_start = start - unsure / np.sqrt(2) - apart * USUALLY_APART
    rule = NoveltyLimit(SHARE_ABOVE, FLOOR, of_start, SLOPE, unsure, apart)
    by_shipped = NoveltyLimit(SHARE_ABOVE, FLOOR, START, SLOPE, UNSURE, APART)
    moved = rule.by(Exceeded(1.0)) - by_shipped.by(Exceeded(1.0))  # of a limit that no left-out batch tells
    found = []
    for row in rows.to_dict("records"):
        n = row["telling_batches"]
        limit = rule.by(Exceeded(row["exceeded"], n, row["apart"])) if n else row["alone"] + moved
        limit = max(min(limit, HIGHEST_LIMIT), BESIDE_NOVEL * row["high"])
        nearest = LIMITS[min(round(limit / LIMITS[1]), len(LIMITS) - 1)]
        found.append((row[f"new_{nearest}"], row[f"known_{nearest}"]))
    return pd.DataFrame(found, index=rows.index, columns=["new", "known"])


def run(names: list[str]) -> None:
    """Measure what is missing; each row is kept as soon as it is done."""
    done = measured_already(OUTPUT, ["set", "hidden"])
    for name in names:
        problem = next(iter(problems(name, hard=False)))
        for hidden, (recall, said) in recalls(problem).items():
            if (name, hidden) not in done:
                append_rows(OUTPUT, [measured(problem, hidden, recall, said)])


def report(rows: pd.DataFrame) -> None:
    """Print shares of new and of known cells flagged: by the rule that the other sets choose, and by some rules."""
    is_far = rows["recall"] >= RECALLED
    rules = [(unsure, apart, start) for unsure in UNSURES for apart in APARTS for start in STARTS]
    by_rule = {rule: flagged(rows, *rule) for rule in rules}
    far = rows[is_far]
    chosen = {name: _chosen(by_rule, far.index[far["set"] != name]) for name in rows["set"].unique()}
    for what in ("new", "known"):
        rows[what] = [by_rule[chosen[name]].loc[i, what] for i, name in rows["set"].items()]
    far = rows[is_far]
    of_sets = far.groupby("set")[["AUROC", "new", "known"]].mean()
    names = ["UNSURE", "APART", "start"]
    of_sets[names] = [chosen[name] for name in of_sets.index]
    print_table("Types hidden in turn, the rule of the limit chosen by the other sets", of_sets)
    for title, some in {"recalled types": far, "near relatives": rows[~is_far]}.items():
        if len(some):
            print(
                f"\n{title} ({len(some)}): AUROC {some['AUROC'].mean():.3f} (worst {some['AUROC'].min():.3f}), "
                f"new cells flagged {some['new'].mean():.3f}, known {some['known'].mean():.3f} (worst {some['known'].max():.3f})"
            )
    shipped_start = round(START + UNSURE / np.sqrt(2) + APART * USUALLY_APART, 2)
    shipped = flagged(rows, UNSURE, APART, shipped_start)
    both = rows["said"].notna()
    said, really = rows.loc[both, "said"], shipped.loc[both, "new"]
    print(
        f"\nWhat the report says would be noticed ({both.sum()} types): mean {said.mean():.3f}, really flagged "
        f"{really.mean():.3f}, mean distance {(said - really).abs().mean():.3f}, correlation {said.corr(really):.2f}"
    )
    shown = {
        "as shipped": shipped,
        **{
            f"UNSURE {unsure}, APART {apart}, start {start}": flagged(rows, unsure, apart, start)
            for unsure, apart in ((0.0, 0.0), (0.0, APART), (UNSURE, 0.0), (UNSURE, APART))
            for start in (0.44, 0.48, shipped_start, 0.56)
        },
    }
    table = {
        name: [some["new"].mean(), some["known"].mean(), some["known"].max()]
        for name, of_all in shown.items()
        if len(some := of_all[is_far])
    }
    print_table("By rule", pd.DataFrame(table, index=["new cells", "known cells", "worst"]).T)


def _chosen(by_rule: dict[tuple[float, float, float], pd.DataFrame], others: pd.Index) -> tuple[float, float, float]:
    """Return the rule by which most new cells of some rows are flagged, of those that flag few enough known ones."""
    best, most = None, -1.0
    for rule, shares in by_rule.items():
        of_others = shares.loc[others]
        if (
            of_others["known"].mean() <= MOST_KNOWN
            and of_others["known"].max() <= WORST_KNOWN
            and of_others["new"].mean() > most
        ):
            best, most = rule, of_others["new"].mean()
    assert best is not None
    return best


if __name__ == "__main__":
    run_sets_or_report(__doc__, SETS, run, lambda: report(read_rows(OUTPUT)))
