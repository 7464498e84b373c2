"""Choose the constants of METHOD `default`'s mixture, each set's by the OTHER sets: leave one set out.

    python -m benchmarks.research.members --cache DIR --run    # what each member says: an hour on one core; goes on where it stopped
    python -m benchmarks.research.members --cache DIR          # prints the table, and writes results/leave_one_set_out.csv

For every problem (benchmarks/problems.py) each member's probabilities of the target's cells are kept, and those of left-out
batches' own types. A configuration (the prior, its weight, the neighbours' share) is judged by macro-F1 minus half of the AURC, the mean over sets of the mean over problems. The number of a set is
that of the configuration which the other sets choose; inside it the members' weights come from left-out batches as always.
"""

from __future__ import annotations

import itertools
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
from scipy import sparse

from benchmarks.common import RESULTS, parser_of, print_table
from benchmarks.problems import NOT_COUNTED, SETS, Problem, problems
from jind_nb import metrics
from jind_nb.model import annotate, default, mixture, target

OUTPUT = RESULTS / "leave_one_set_out.csv"
NONE, ALL = 0.0, 1.0
SHARES = (0.0, 0.2, 0.4, 0.6)  # of the neighbours
# Weights of the members (views, many unscaled, many scaled components, discriminant) as they are, then as moved.
PRIORS = {
    "alike": (0.125,) * 8,
    "unmoved": (0.5, 0.15, 0.15, 0.2, 0, 0, 0, 0),
    "views": (0.4, 0, 0, 0, 0.6, 0, 0, 0),
    "mostly moved": (0.2, 0.025, 0.05, 0.15, 0.35, 0.15, 0.05, 0.025),
    "half moved": (0.3, 0.05, 0.05, 0.15, 0.2, 0.15, 0.05, 0.05),
}
# The shipped one: of those that differ by less than 0.003 it is the one whose worst set is best. The others are trials.
CANDIDATES = ("half moved",)
PRIOR_CELLS = (5.0, 20.0, 80.0, 1e9)  # the last: nothing is learned from left-out batches


@dataclass
class Said:
    """What each member says of one problem."""

    set: str
    target: str
    role: str
    classes: list[str]
    truth: np.ndarray
    members: dict[float, np.ndarray]  # neighbours' share, none or all -> (n, M, K)
    left_out: dict[float, list[tuple[np.ndarray, np.ndarray]]]  # the same -> as `mixture.learned_weights` takes them
    n_annotated: int

    def with_share(self, share: float) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
        """Return the members' and the left-out probabilities with a neighbours' share in between."""
        own, theirs = (self.members[of].astype(np.float32) for of in (NONE, ALL))
        pairs = zip(self.left_out[NONE], self.left_out[ALL], strict=True)
        left_out = [((1 - share) * one + share * other, counts) for (one, counts), (other, _) in pairs]
        return (1 - share) * own + share * theirs, left_out


def say(problem: Problem) -> Said:
    """Train, and let each member speak."""
    settings = annotate.settings_of(problem.parameters)
    reference = annotate.train(problem.prepared, problem.plan, settings, keep_history=False)
    known = target.known_latents(reference)
    x = sparse.csr_matrix(problem.prepared.X[problem.is_target])
    annotated = annotate.annotate(reference.model, x, known, settings)
    members: dict[float, np.ndarray] = {}
    left_out: dict[float, list[tuple[np.ndarray, np.ndarray]]] = {}
    for share in (NONE, ALL):  # what lies between is a weighted mean of both
        with mock.patch.object(default, "NEIGHBOURS_SHARE", share):
            members[share] = default.members(annotated.model, annotated.final_latent, settings).astype(np.float16)
            left_out[share] = []
            for batch in annotate.leave_batches_out(reference) if len(reference.batches) > 1 else []:
                rows = np.flatnonzero(batch.could_be_known)
                if len(rows):
                    own = batch.members["aligned"][rows, :, batch.y[rows]]
                    left_out[share].append((own, np.full(len(rows), 1 / len(rows))))
    classes = list(problem.plan.classes)
    return Said(
        problem.set, problem.target, problem.role, classes, problem.truth, members, left_out, len(reference.batches)
    )


def run(folder: Path, names: list[str]) -> None:
    """Keep what each member says of every problem that is not in the folder yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        for problem in problems(name):
            file = folder / f"{name} {problem.target} {problem.role}.pickle".replace("/", "_")
            if not file.exists():
                file.write_bytes(pickle.dumps(say(problem)))
                print(file.stem, flush=True)


def measured(said: Said, prior: tuple[float, ...], cells: float, share: float) -> dict[str, float]:
    """Return the scores of one configuration on one problem."""
    weights, (members, left_out) = prior, said.with_share(share)
    if said.n_annotated > 1:
        with mock.patch.object(mixture, "PRIOR_CELLS", cells):
            weights = mixture.learned_weights(left_out, prior)
    probabilities = mixture.mixed(members, weights)
    raw = np.array(said.classes, dtype=object)[probabilities.argmax(axis=1)]
    right = raw == said.truth
    types = [name for name in dict.fromkeys(said.truth) if pd.notna(name)]
    hits = [
        2 * (right & (said.truth == name)).sum() / ((said.truth == name).sum() + (raw == name).sum()) for name in types
    ]
    aurc = metrics.area_under_risk_coverage(probabilities.max(axis=1), right)
    return {"macro_F1": float(np.mean(hits)), "AURC": aurc, "accuracy": float(right.mean())}


def table_of_all(folder: Path) -> pd.DataFrame:
    """Return a row for each problem and configuration."""
    rows: list[dict[str, Any]] = []
    for file in sorted(folder.glob("*.pickle")):
        said: Said = pickle.loads(file.read_bytes())  # our own, just made
        several = said.n_annotated > 1
        for share in SHARES:
            for name, cells in itertools.product(PRIORS, PRIOR_CELLS if several else [0.0]):
                row = {"set": said.set, "target": said.target, "role": said.role, "several": several, "share": share}
                rows.append(row | {"prior": name, "cells": cells} | measured(said, PRIORS[name], cells, share))
    return pd.DataFrame(rows)


def chosen(table: pd.DataFrame, without: str | None) -> pd.Series:
    """Return the configuration that the sets but one choose: of best macro-F1 minus half of the AURC."""
    rest = table[(table["set"] != without) & ~table["set"].isin(NOT_COUNTED)]
    worth = rest["macro_F1"] - 0.5 * rest["AURC"]
    of_sets = worth.groupby([rest["share"], rest["prior"], rest["cells"], rest["set"]]).mean()
    best = of_sets.groupby(["share", "prior", "cells"]).mean()
    return pd.Series(dict(zip(("share", "prior", "cells"), best.idxmax(), strict=True)))


def leave_one_set_out(table: pd.DataFrame) -> pd.DataFrame:
    """Return, for each problem, the scores of the configuration that the other sets choose."""
    found = []
    for (name, _), of_set in table.groupby(["set", "several"]):
        several = bool(of_set["several"].iloc[0])
        choice = chosen(table[table["several"] == several], name)
        found.append(of_set[(of_set[list(choice.index)] == choice).all(axis=1)])
    return pd.concat(found, ignore_index=True)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder for what the members say; about 2 GB")
    parser.add_argument("--run", action="store_true", help="let the members speak of what is missing there first")
    parser.add_argument("--sets", nargs="*", default=SETS)
    options = parser.parse_args()
    if options.run:
        run(options.cache, options.sets)
    table = table_of_all(options.cache)
    trials = table[~table["set"].isin(NOT_COUNTED)]
    of_sets = trials.groupby(["several", "prior", "cells", "share", "set"])[["macro_F1", "AURC"]].mean()
    print_table("Every prior, for several annotated batches and for one", of_sets.groupby(level=[0, 1, 2, 3]).mean())
    print_table(
        "Leave one set out, if the other sets chose the prior too", _of_sets(leave_one_set_out(table), "all").iloc[-1:]
    )
    table = table[table["prior"].isin(CANDIDATES)]
    for several in (True, False):
        choice = chosen(table[table["several"] == several], None)
        print(
            f"{'several annotated batches' if several else 'one annotated batch'}: all sets together choose {choice.to_dict()}"
        )
    honest = leave_one_set_out(table)
    honest.drop(columns="several").round(5).to_csv(OUTPUT, index=False)
    print_table("Leave one set out, all annotated batches", _of_sets(honest, "all"))
    print_table("Leave one set out, hard roles", _of_sets(honest[honest["role"] != "all"], None))


def _of_sets(rows: pd.DataFrame, role: str | None) -> pd.DataFrame:
    """Return each counted set's means, and their mean."""
    rows = rows[~rows["set"].isin(NOT_COUNTED) & ((rows["role"] == role) | (role is None))]
    of_sets = rows.groupby("set")[["macro_F1", "AURC", "accuracy"]].mean()
    of_sets.loc["MEAN"] = of_sets.mean()
    return of_sets


if __name__ == "__main__":
    main()
