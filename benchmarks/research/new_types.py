"""Hide cell types from the annotated batches in turn, and count how many of their cells are found in the target.

python -m benchmarks.research.new_types          # prints the table of results/new_types.csv
python -m benchmarks.research.new_types --run    # measures what is missing there first; goes on where it stopped

A set's largest types are hidden, one at a time; of the target so many cells are taken that the hidden type makes up 5 to 50 %
of them. At most 1,500 cells of the target and 4,000 annotated ones.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.metrics import roc_auc_score

from benchmarks.common import RESULTS, append_rows, measured_already, print_table, read_rows, run_sets_or_report
from benchmarks.problems import SETS, Problem, of_rows, problems
from jind_nb.core.subsample import subsample
from jind_nb.model import annotate
from jind_nb.model.calibration import novelty_threshold
from jind_nb.model.leave_one_out import LeftOut
from jind_nb.model.new_types import START
from jind_nb.model.predictions import Rule

OUTPUT = RESULTS / "new_types.csv"
MOST_OF_TARGET, MOST_ANNOTATED, MOST_TYPES = 1_500, 4_000, 7
FEWEST_CELLS = 10  # of a type that is hidden
RARE, COMMON = 0.05, 0.5  # shares of the target that a hidden type has
RECALLED = 0.8  # a type that is recalled less often by the model that knows it is a near relative of another
STARTS = tuple(
    round(START + 0.01 * step, 2) for step in range(-14, 21, 2)
)  # of the limit; without left-out batches, as much higher or lower
MOST_KNOWN = 0.02  # of known cells that may be flagged, by which the start is chosen


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
    row = {
        "set": problem.set,
        "target": problem.target,
        "hidden": hidden,
        "recall": recall,
        "said": said,
        "share": float(new.mean()),
        "annotated_batches": len(reference.batches),
        "AUROC": float(roc_auc_score(new[new | others], novelty[new | others])),
    }
    for start in STARTS:
        limit = rule_by(left_out, start).limit_of(novelty)
        row[f"new_{start}"] = float((novelty[new] > limit).mean())
        row[f"known_{start}"] = float((novelty[others] > limit).mean())
    return row


def rule_by(left_out: list[LeftOut], start: float) -> Rule:
    """Return a rule with another start of the limit; without left-out batches the limit is as much higher or lower."""
    limit = left_out[0].limit
    assert limit.alone is not None
    moved = replace(limit, start=start, alone=limit.alone + start - START)
    found = novelty_threshold([replace(batch, limit=moved) for batch in left_out])
    return Rule(novelty_threshold=found, beside_novel=limit.beside_novel)


def run(names: list[str]) -> None:
    """Measure what is missing; each row is kept as soon as it is done."""
    done = measured_already(OUTPUT, ["set", "hidden"])
    for name in names:
        problem = next(iter(problems(name, hard=False)))
        for hidden, (recall, said) in recalls(problem).items():
            if (name, hidden) not in done:
                append_rows(OUTPUT, [measured(problem, hidden, recall, said)])


def report(rows: pd.DataFrame) -> None:
    """Print shares of new and of known cells flagged: by the start that the other sets choose, and by each start."""
    rows["near_relative"] = rows["recall"] < RECALLED
    far = rows[~rows["near_relative"]]
    chosen = {}
    for name in far["set"].unique():
        others = far[far["set"] != name]
        fitting = [start for start in STARTS if others[f"known_{start}"].mean() <= MOST_KNOWN]
        chosen[name] = fitting[0] if fitting else STARTS[-1]
    starts = rows["set"].map(chosen).fillna(STARTS[-1])
    for what in ("new", "known"):
        rows[what] = [rows.loc[i, f"{what}_{start}"] for i, start in starts.items()]
    far = rows[~rows["near_relative"]]
    of_sets = far.groupby("set")[["AUROC", "new", "known"]].mean().assign(start=pd.Series(chosen))
    print_table("Types hidden in turn, the start chosen by the other sets", of_sets)
    for title, some in {"recalled types": far, "near relatives": rows[rows["near_relative"]]}.items():
        if len(some):
            print(
                f"\n{title} ({len(some)}): AUROC {some['AUROC'].mean():.3f} (worst {some['AUROC'].min():.3f}), "
                f"new cells flagged {some['new'].mean():.3f}, known {some['known'].mean():.3f} (worst {some['known'].max():.3f})"
            )
    by_start = {
        start: [far[f"new_{start}"].mean(), far[f"known_{start}"].mean(), far[f"known_{start}"].max()]
        for start in STARTS
    }
    both = rows[rows["said"].notna()]
    apart = both["said"] - both[f"new_{START}"]
    print(
        f"\nWhat the report says would be noticed ({len(both)} types): mean {both['said'].mean():.3f}, really flagged "
        f"{both[f'new_{START}'].mean():.3f}, mean distance {apart.abs().mean():.3f}, correlation "
        f"{both['said'].corr(both[f'new_{START}']):.2f}"
    )
    print_table("By start", pd.DataFrame(by_start, index=["new cells", "known cells", "worst"]).T)


if __name__ == "__main__":
    run_sets_or_report(__doc__, SETS, run, lambda: report(read_rows(OUTPUT)))
