"""What each part of novelty brings: how many cells of new types are found, and how many known ones are lost, without it or with
other constants.

    python -m benchmarks.research.claims          # prints the tables of results/claims.csv
    python -m benchmarks.research.claims --run    # measures what is missing there first; goes on where it stopped

Claims, and groups, are those of `jind_nb.model.new_types`. Types are hidden as in new_types.py. In the other roles nothing is hidden, and every
known cell above the limit is one that would lose its label: those of problems.py, and

    rare         of the target's most common type only a twentieth of the annotated cells is kept, but at least ten
    hidden too   another condition, and a type is hidden as well (pbmc_kang_ifnb_4samples)

The limit is the floor alone: the least at which 2 % of the known cells are above it where types are hidden. It is chosen anew for
each row, and in the second table by the other sets, as the row is.
"""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.metrics import roc_auc_score

from benchmarks.common import RESULTS, append_rows, measured_already, print_table, read_rows, run_sets_or_report
from benchmarks.problems import NOT_COUNTED, SETS, Problem, of_rows, problems
from benchmarks.research.new_types import FEWEST_CELLS, MOST_KNOWN, MOST_TYPES, RECALLED, recalls, without
from jind_nb.core.subsample import subsample
from jind_nb.model import annotate, new_types
from jind_nb.model.networks import encode

OUTPUT = RESULTS / "claims.csv"
HIDDEN, HIDDEN_TOO, RARE, NOTHING = "hidden", "hidden too", "rare", "nothing"
LOST = ("all", "pair", "single", "condition", RARE)
SHIPPED = "as it is"
CHANGED = {
    "CLAIM_WEIGHT": (0.0, 0.15, 0.45), "GROUP_WEIGHT": (0.0, 0.15, 0.45), "DRAWS": (1,), "MORE_GROUPS": (3, 12), "OTHER_SHARE": (0.0, np.inf),
    "CLAIMED": (5, 20), "SHARED": (1, 6), "SURPRISE_WEIGHT": (0.0, 0.3), "OWN_WAY": (0.0,), "MOST_CLAIMS": (1e-6,),
}  # fmt: skip
AS_IT_IS = {name: getattr(new_types, name) for name in CHANGED}
VARIANTS: dict[str, dict[str, float]] = {SHIPPED: {}} | {
    f"{name} {value:g}": {name: value} for name, values in CHANGED.items() for value in values
}
FLOORS = np.arange(0.8, 1.401, 0.05).round(2)
MOST_RARE = 0.05  # known cells of a type that is rare among the annotated ones, that a choice may lose


def cases(name: str) -> Iterator[tuple[str, str, Problem]]:
    """Yield role, what is hidden, and the problem."""
    for position, problem in enumerate(problems(name)):
        if position == 0:
            for hidden, (recall, _) in recalls(problem).items():
                if recall >= RECALLED:
                    yield HIDDEN, hidden, without(problem, hidden)
        if problem.role in LOST:
            yield problem.role, NOTHING, problem
        if problem.role == "all":
            yield RARE, NOTHING, rare(problem)
        if problem.role == "condition":
            sizes = pd.Series(problem.truth).value_counts()
            for hidden in [of for of in sizes.index[sizes >= FEWEST_CELLS] if of in problem.plan.classes][:MOST_TYPES]:
                yield HIDDEN_TOO, hidden, without(problem, hidden)


def rare(problem: Problem) -> Problem:
    """Return the problem with a twentieth of the annotated cells of the target's most common known type."""
    common = pd.Series(problem.truth)[np.isin(problem.truth, problem.plan.classes)].mode().iloc[0]
    of_common = np.flatnonzero(~problem.is_target & (problem.prepared.obs["cell_type"] == common).to_numpy())
    kept = of_common[subsample(len(of_common), max(FEWEST_CELLS, len(of_common) // 20), 0)]
    return of_rows(
        problem, RARE, np.setdiff1d(np.arange(problem.prepared.n_obs), np.setdiff1d(of_common, kept)), problem.truth
    )


def novelties(problem: Problem) -> dict[str, np.ndarray]:
    """Return by each variant how unlike everything annotated each of the target's cells is, float (n,)."""
    settings = annotate.settings_of(problem.parameters)
    reference = annotate.train(problem.prepared, problem.plan, settings, keep_history=False)
    known = annotate.known_with_rules(reference, {})
    latent = encode(reference.model, sparse.csr_matrix(problem.prepared.X[problem.is_target]), settings.device)
    found = {}
    for variant, constants in VARIANTS.items():
        with mock.patch.multiple(new_types, **(AS_IT_IS | constants)):
            found[variant] = settings.method.novelty(reference.model, latent, known, settings)
    return found


def run(names: list[str]) -> None:
    """Measure what is missing; the rows of a problem are kept as soon as it is done."""
    done = measured_already(OUTPUT, ["set", "target", "role", "hidden"])
    for name in names:
        for role, hidden, problem in cases(name):
            if (name, problem.target, role, hidden) in done:
                continue
            new, others = problem.truth == hidden, np.isin(problem.truth, problem.plan.classes)
            rows = []
            for variant, novelty in novelties(problem).items():
                row: dict[str, object] = {
                    "set": name, "target": problem.target, "role": role, "hidden": hidden, "variant": variant,
                    "AUROC": round(float(roc_auc_score(new[new | others], novelty[new | others])), 4) if new.any() else None,
                }  # fmt: skip
                for floor in FLOORS:
                    row[f"new_{floor}"] = round(float((novelty[new] > floor).mean()), 3) if new.any() else None
                    row[f"known_{floor}"] = round(float((novelty[others] > floor).mean()), 3)
                rows.append(row)
            append_rows(OUTPUT, rows)


def measured(rows: pd.DataFrame, chosen_by: pd.DataFrame | None = None) -> dict[str, float]:
    """Return what the rows of a variant say at the floor that these or other rows of it choose."""
    hidden, chooses = rows[rows["role"] == HIDDEN], rows if chosen_by is None else chosen_by
    known = {floor: chooses.loc[chooses["role"] == HIDDEN, f"known_{floor}"].mean() for floor in FLOORS}
    floor = next((of for of, share in known.items() if share <= MOST_KNOWN), FLOORS[-1])
    line = {
        "AUROC": hidden["AUROC"].mean(), "floor": floor, "new": hidden[f"new_{floor}"].mean(),
        "known": hidden[f"known_{floor}"].mean(), "worst": hidden[f"known_{floor}"].max(),
    }  # fmt: skip
    for role in LOST:
        of_role = rows[(rows["role"] == role) & ~rows["set"].isin(NOT_COUNTED)]
        line[role] = of_role.groupby("set")[f"known_{floor}"].mean().mean()
    too = rows[rows["role"] == HIDDEN_TOO]
    return line | {f"AUROC, {HIDDEN_TOO}": too["AUROC"].mean(), f"new, {HIDDEN_TOO}": too[f"new_{floor}"].mean()}


def report(rows: pd.DataFrame) -> None:
    """Print what each variant finds and loses; then for each set the variant that the other sets choose: that which finds most new
    cells, of those that lose at most 5 % of the known ones where a type is rare among the annotated cells."""
    lines = {variant: measured(rows[rows["variant"] == variant]) for variant in VARIANTS}
    hidden = rows[(rows["role"] == HIDDEN) & (rows["variant"] == SHIPPED)]
    print_table(f"{len(hidden)} hidden types, and known cells that are lost", pd.DataFrame(lines).T)
    chosen = []
    for name in hidden["set"].unique():
        others = rows[rows["set"] != name]
        of_others = pd.DataFrame({of: measured(others[others["variant"] == of]) for of in VARIANTS}).T
        best = str(of_others.loc[of_others[RARE] <= MOST_RARE, "new"].idxmax())
        own = rows[(rows["set"] == name) & (rows["variant"] == best)]
        line = measured(own, others[others["variant"] == best])
        types = int((own["role"] == HIDDEN).sum())
        chosen.append(
            {"set": name, "types": types, "variant": best, **{of: line[of] for of in ("AUROC", "new", "known")}}
        )
    by_others = pd.DataFrame(chosen)
    print_table("Chosen by the other sets", by_others.set_index("set"))
    mean = {of: float(np.average(by_others[of], weights=by_others["types"])) for of in ("AUROC", "new", "known")}
    print("\nmean over types: " + ", ".join(f"{of} {value:.3f}" for of, value in mean.items()))


if __name__ == "__main__":
    run_sets_or_report(__doc__, SETS, run, lambda: report(read_rows(OUTPUT)))
