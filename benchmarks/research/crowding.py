"""Would cells of new types be found more often, if it counted how much farther annotated cells are than the batch's own?

    python -m benchmarks.research.crowding          # prints the tables of results/crowding.csv
    python -m benchmarks.research.crowding --run    # measures what is missing there first; goes on where it stopped

Crowding: the logarithm of a cell's mean distance to its five nearest annotated cells, minus that to its five nearest cells of the
batch (by cosine, where alignment puts them), less the batch's median, from -0.5 to 0.5, averaged over the 15 nearest cells. It is
added to the novelty of `jind_nb.model.new_types` with some weight. Types are hidden as in new_types.py; in the roles `pair`, `single` and
`condition` nothing is hidden, and every cell that is flagged is a known one that would be lost. The limit is the floor alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.metrics import roc_auc_score

from benchmarks.common import RESULTS, append_rows, measured_already, print_table, read_rows, run_sets_or_report
from benchmarks.problems import NOT_COUNTED, SETS, Problem, problems
from benchmarks.research.new_types import MOST_KNOWN, RECALLED, recalls, without
from jind_nb.model import annotate
from jind_nb.model.default import near_columns
from jind_nb.model.neighbours import nearest
from jind_nb.model.new_types import AnnotatedSpace, Compared

OUTPUT = RESULTS / "crowding.csv"
CLOSEST, MOST = 5, 0.5
WEIGHTS = (0.0, 0.5, 1.0, 2.0)
FLOORS = (0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1)
HIDDEN, NOTHING = "hidden", "nothing"


def scores(problem: Problem) -> dict[float, np.ndarray]:
    """Return how unlike everything annotated each of the target's cells is, weight -> float (n,)."""
    settings = annotate.settings_of(problem.parameters)
    reference = annotate.train(problem.prepared, problem.plan, settings, keep_history=False)
    known = annotate.known_with_rules(reference, {})
    x = sparse.csr_matrix(problem.prepared.X[problem.is_target])
    plain = AnnotatedSpace.novelty
    found: dict[float, np.ndarray] = {}
    for weight in WEIGHTS:

        def novelty(
            space: AnnotatedSpace, latent: np.ndarray, offset: np.ndarray, empty: np.ndarray, weight: float = weight
        ) -> np.ndarray:
            distance = plain(space, latent, offset, empty)
            near = near_columns(latent.shape[1])
            moved = (latent + offset)[:, near]
            farther = log_distance(nearest(moved, known.latent[:, near], CLOSEST)[1])
            farther -= log_distance(nearest(moved, moved, CLOSEST + 1)[1][:, 1:])
            crowding = np.clip(farther - np.median(farther), -MOST, MOST)
            of_neighbours = nearest(latent[:, near], latent[:, near], Compared.of(latent, near).k)[0]
            whole: np.ndarray = distance + weight * crowding[of_neighbours].mean(axis=1)
            return whole - np.quantile(whole, 0.25)

        with mock.patch.object(AnnotatedSpace, "novelty", novelty):
            of_target = annotate.annotate(reference.model, x, known, settings).novelty
        assert of_target is not None
        found[weight] = of_target
    return found


def log_distance(cosines: np.ndarray) -> np.ndarray:
    """Return the logarithm of the mean distance on the unit sphere, float (n,), of cosines (n, k)."""
    found: np.ndarray = np.log(np.sqrt(np.maximum(2 - 2 * cosines.astype(float), 0)).mean(axis=1) + 1e-9)
    return found


def cases(name: str) -> Iterator[tuple[str, str, Problem]]:
    """Yield role, what is hidden, and the problem."""
    for position, problem in enumerate(problems(name)):
        if position == 0:
            for hidden, (recall, _) in recalls(problem).items():
                if recall >= RECALLED:
                    yield HIDDEN, hidden, without(problem, hidden)
        if problem.role in ("pair", "single", "condition"):
            yield problem.role, NOTHING, problem


def run(names: list[str]) -> None:
    """Measure what is missing; each row is kept as soon as it is done."""
    done = measured_already(OUTPUT, ["set", "target", "role", "hidden"])
    for name in names:
        for role, hidden, problem in cases(name):
            if (name, problem.target, role, hidden) in done:
                continue
            new, others = problem.truth == hidden, np.isin(problem.truth, problem.plan.classes)
            row: dict[str, object] = {"set": name, "target": problem.target, "role": role, "hidden": hidden}
            for weight, novelty in scores(problem).items():
                some = new | others
                row[f"AUROC_{weight}"] = float(roc_auc_score(new[some], novelty[some])) if new.any() else None
                for floor in FLOORS:
                    row[f"new_{weight}_{floor}"] = float((novelty[new] > floor).mean()) if new.any() else None
                    row[f"known_{weight}_{floor}"] = float((novelty[others] > floor).mean())
            append_rows(OUTPUT, [row])


def report(rows: pd.DataFrame) -> None:
    """Print for each weight what is found at the floor that leaves two in a hundred known cells above it, and what it costs."""
    hidden = rows[rows["role"] == HIDDEN]
    lines = {}
    for weight in WEIGHTS:
        known = {floor: hidden[f"known_{weight}_{floor}"] for floor in FLOORS}
        floor = next((of for of, shares in known.items() if shares.mean() <= MOST_KNOWN), FLOORS[-1])
        line = {
            "AUROC": hidden[f"AUROC_{weight}"].mean(), "floor": floor, "new": hidden[f"new_{weight}_{floor}"].mean(),
            "known": known[floor].mean(), "worst": known[floor].max(),
        }  # fmt: skip
        for role in ("pair", "single", "condition"):
            of_role = rows[(rows["role"] == role) & ~rows["set"].isin(NOT_COUNTED)]
            line[f"known, {role}"] = of_role.groupby("set")[f"known_{weight}_{floor}"].mean().mean()
        lines[weight] = line
    print_table(f"{len(hidden)} hidden types, and known cells that are flagged", pd.DataFrame(lines).T)


if __name__ == "__main__":
    run_sets_or_report(__doc__, SETS, run, lambda: report(read_rows(OUTPUT)))
