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
from jind_nb.model.calibration import HIGHEST_LIMIT, exceeded_novelty
from jind_nb.model.new_types import APART, BESIDE_NOVEL, FLOOR, SLOPE, START, UNSURE
from jind_nb.model.predictions import SHARE_ABOVE
from jind_nb.model.state import USUALLY_APART, Exceeded, NoveltyLimit

OUTPUT = RESULTS / "new_types.csv"
MOST_OF_TARGET, MOST_ANNOTATED, MOST_TYPES = 1_500, 4_000, 7
FEWEST_CELLS = 10  # of a type that is hidden
RARE, COMMON = 0.05, 0.5  # shares of the target that a hidden type has
RECALLED = 0.8  # a type that is recalled less often by the model that knows it is a near relative of another
LIMITS = tuple(round(0.02 * step, 2) for step in range(151))  # of novelty
# Of known cells, that may be flagged on average and at worst: by these a rule is chosen.
MOST_KNOWN, WORST_KNOWN = 0.02, 0.1
# Rules of the limit that are compared: all of these for UNSURE and APART, each with starts from low to high. A start is that of a
# limit that two batches tell, which are as far apart as usual.
UNSURES, APARTS = (0.0, 0.4, UNSURE, 1.2), (0.0, APART, 0.4)
Limit = tuple[float, float, float]  # UNSURE, APART and the start
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
    exceeded, alone = exceeded_novelty(left_out), left_out[0].limit.alone
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
    # What a limit that no left-out batch tells is moved by.
    moved = rule.from_exceeded(Exceeded(1.0)) - by_shipped.from_exceeded(Exceeded(1.0))
    found = []
    for row in rows.to_dict("records"):
        n = row["telling_batches"]
        limit = rule.from_exceeded(Exceeded(row["exceeded"], n, row["apart"])) if n else row["alone"] + moved
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
    by_rule = {
        (unsure, apart, start): flagged(rows, unsure, apart, start)
        for unsure in UNSURES
        for apart in APARTS
        for start in STARTS
    }
    of_shipped = [rule for rule in by_rule if rule[:2] == (UNSURE, APART)]
    by_others = _by_others(rows[is_far], rows["set"], {rule: by_rule[rule] for rule in of_shipped})
    print_table(
        "Types hidden in turn, the start of the limit chosen by the other sets",
        rows[["set", "AUROC"]].join(by_others)[is_far].groupby("set").mean(),
    )
    for title, some in {"recalled types": is_far, "near relatives": ~is_far}.items():
        auroc = rows.loc[some, "AUROC"]
        print(
            f"\n{title} ({some.sum()}): AUROC {auroc.mean():.3f} (worst {auroc.min():.3f}), {_in_words(by_others[some])}"
        )
    for bounds, room in {"the same bounds": 1.0, "a tenth less for both bounds": 0.9}.items():
        every = _by_others(rows[is_far], rows["set"], by_rule, room)
        print(f"UNSURE and APART chosen by the other sets, too, by {bounds}: {_in_words(every[is_far])}")
    shipped_start = round(START + UNSURE / np.sqrt(2) + APART * USUALLY_APART, 2)
    hidden, said = rows["said"].notna(), rows["said"].dropna()
    really = by_rule[UNSURE, APART, shipped_start].loc[hidden, "new"]
    print(
        f"\nWhat the report says would be noticed ({len(said)} types): mean {said.mean():.3f}, really flagged "
        f"{really.mean():.3f}, mean distance {(said - really).abs().mean():.3f}, correlation {said.corr(really):.2f}"
    )
    shown = [(unsure, apart) for unsure in (0.0, UNSURE) for apart in (0.0, APART)]
    shares = {
        f"UNSURE {unsure}, APART {apart}, start {start}": by_rule[unsure, apart, start][is_far]
        for unsure, apart in shown
        for start in (round(shipped_start + step, 2) for step in (-0.06, 0.0, 0.06))
    }
    table = {name: [of["new"].mean(), of["known"].mean(), of["known"].max()] for name, of in shares.items()}
    title = f"By rule (shipped: UNSURE {UNSURE}, APART {APART}, start {shipped_start})"
    print_table(title, pd.DataFrame(table, index=["new cells", "known cells", "worst"]).T)


def _by_others(
    far: pd.DataFrame, sets: pd.Series, by_rule: dict[Limit, pd.DataFrame], room: float = 1.0
) -> pd.DataFrame:
    """Return the shares of `new` and `known` cells flagged in the rows of some sets by the rule that the other sets choose: of those
    that flag few enough of their known cells (times `room`) the one that finds most new ones."""
    found = []
    for name, of_set in sets.groupby(sets):
        others = far.index[far["set"] != name]
        fitting = {
            rule: shares.loc[others, "new"].mean()
            for rule, shares in by_rule.items()
            if shares.loc[others, "known"].mean() <= room * MOST_KNOWN
            and shares.loc[others, "known"].max() <= room * WORST_KNOWN
        }
        chosen = max(fitting, key=lambda rule: fitting[rule])
        found.append(by_rule[chosen].loc[of_set.index].assign(start=chosen[2]))
    return pd.concat(found).sort_index()


def _in_words(shares: pd.DataFrame) -> str:
    known = shares["known"]
    return f"new cells flagged {shares['new'].mean():.3f}, known {known.mean():.4f} (worst {known.max():.3f})"


if __name__ == "__main__":
    run_sets_or_report(__doc__, SETS, run, lambda: report(read_rows(OUTPUT)))
