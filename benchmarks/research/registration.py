"""What alignment would gain and lose, if annotated cells told where their types are in a batch, as they do for new types.

    python -m benchmarks.research.registration          # prints the tables of results/registration.csv
    python -m benchmarks.research.registration --run    # measures what is missing there first

Alignment moves a batch by what its cells' answers say, so cells of a new type take part. Here the last word is had by cells that
annotated cells of the type *claim* too (`jind_nb.model.new_types`), in three rounds. The way of a batch is the mean of its types' ways,
weighed by the root of their cells (`claims`), and by how much of a type's claims are on cells that have its answer (`claims that
agree`). Roles are those of problems.py, and `hidden` of new_types.py. No cell is rejected.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.metrics import f1_score
from torch import nn

from benchmarks.common import RESULTS, append_rows, measured_already, print_table, read_rows, run_sets_or_report
from benchmarks.problems import NOT_COUNTED, SETS, Problem, problems
from benchmarks.research.claims import HIDDEN, NOTHING, cases
from jind_nb.model import annotate, default
from jind_nb.model.networks import classify
from jind_nb.model.new_types import FEWEST_CELLS, MOST_CLAIMS, AnnotatedSpace, Compared
from jind_nb.model.state import KnownLatents, Settings

OUTPUT = RESULTS / "registration.csv"
ROUNDS = 3
ANSWERS, CLAIMS, AGREE = "answers (as it is)", "claims", "claims that agree"
by_answers = default.target_offset


def by_claims(
    classifier: nn.Module, latent: np.ndarray, known: KnownLatents, settings: Settings, *, agree: bool
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Do what `default.target_offset` does, and then follow claims."""
    offset, curve = by_answers(classifier, latent, known, settings)
    b, near = offset.astype(float), default.near_columns(latent.shape[1])
    space = known.space = known.space or AnnotatedSpace.of(known.latent, known.batch, known.y, near)
    compared = Compared.of(latent, near)
    there, _ = default.type_means(known.latent, np.eye(len(known.classes))[known.y][:, space.names])
    for _ in range(ROUNDS):
        shares = classify(classifier, (compared.latent + b).astype(np.float32), settings.device)[:, space.names]
        claims = space.claims((compared.latent + b)[:, near], compared.sharing)
        here, cells = default.type_means(compared.latent, np.minimum(claims, MOST_CLAIMS) * shares)
        weights = np.sqrt(cells) * (cells > FEWEST_CELLS)
        if agree:
            weights = weights * (claims * shares).sum(axis=0) / np.maximum(claims.sum(axis=0), 1e-9)
        if not weights.any():
            break
        b = np.average(there - here, axis=0, weights=weights)
    return b.astype(np.float32), curve


WAYS = {ANSWERS: by_answers, CLAIMS: partial(by_claims, agree=False), AGREE: partial(by_claims, agree=True)}


def measured(problem: Problem) -> dict[str, dict[str, float]]:
    """Return the share of known cells that are right, and the macro-F1 over their types, by each way."""
    settings = annotate.settings_of(problem.parameters)
    reference = annotate.train(problem.prepared, problem.plan, settings, keep_history=False)
    known = annotate.known_with_rules(reference, {})
    x = sparse.csr_matrix(problem.prepared.X[problem.is_target])
    truth = np.asarray(problem.truth)
    judged = np.isin(truth, problem.plan.classes)
    found = {}
    for way, offset in WAYS.items():
        with mock.patch.object(default, "target_offset", offset):
            raw = annotate.annotate(reference.model, x, known, settings).final.raw
        types = np.unique(truth[judged])
        f1 = f1_score(truth, raw, labels=types, average="macro", zero_division=0)
        found[way] = {"right": float((raw == truth)[judged].mean()), "macro-F1": float(f1)}
    return found


def run(names: Sequence[str]) -> None:
    """Measure what is missing; the rows of a problem are kept as soon as it is done."""
    done = measured_already(OUTPUT, ["set", "target", "role", "hidden"])
    for name in names:
        all_cases = [(problem.role, NOTHING, problem) for problem in problems(name)]
        all_cases += [(role, hidden, problem) for role, hidden, problem in cases(name) if role == HIDDEN]
        for role, hidden, problem in all_cases:
            if (name, problem.target, role, hidden) in done or not np.isin(problem.truth, problem.plan.classes).any():
                continue
            key = {"set": name, "target": problem.target, "role": role, "hidden": hidden}
            append_rows(OUTPUT, [key | {"way": way, **numbers} for way, numbers in measured(problem).items()])


def report() -> None:
    """Print the mean over sets of each role, and the sets in which the ways differ by more than two points."""
    rows = read_rows(OUTPUT)
    rows = rows[~rows["set"].isin(NOT_COUNTED)]
    of_sets = rows.groupby(["role", "set", "way"])[["right", "macro-F1"]].mean().unstack("way")
    print_table("Mean over sets", of_sets.groupby("role").mean(), 4)
    gains = {
        of: of_sets[of][[CLAIMS, AGREE]].sub(of_sets[of][ANSWERS], axis=0) for of in of_sets.columns.unique(level=0)
    }
    gain = pd.concat(gains, axis=1)
    print_table("Gains of more than two points, and losses", gain[(gain.abs() > 0.02).any(axis=1)], 3)


if __name__ == "__main__":
    run_sets_or_report(__doc__, SETS, run, report)
