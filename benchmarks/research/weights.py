"""Try other ways to weigh the members of METHOD `default` than the shipped one (`jind_nb/model/mixture.py`).

    python -m benchmarks.research.weights                      # prints the table of results/weights.csv
    python -m benchmarks.research.weights --cache DIR --run    # what each member says first, ten minutes on one core; goes on where it stopped

For every problem (benchmarks/problems.py) each member's probabilities are kept, those of the target's cells and those of left-out
batches' cells, with the batches' likeness to the target. A trial weighs the members anew and sees no label of the target.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
from scipy import sparse

from benchmarks.common import RESULTS, parser_of, print_table, read_rows, scores
from benchmarks.problems import NOT_COUNTED, SETS, Problem, problems
from jind_nb.model import annotate, default, mixture, target
from jind_nb.model.mixture import LEAST, learned_weights, mixed

OUTPUT = RESULTS / "weights.csv"
PRIOR = default.prior_weights()
CHANGED = 0.001  # of a set's macro-F1, that counts as better or worse


@dataclass
class LeftOutBatch:
    """What the members said of the cells of a left-out batch whose types other batches have."""

    y: np.ndarray  # int (n,)
    members: np.ndarray  # float16 (n, M, K)
    likeness: float  # correlation of its mean cell with the target's

    @property
    def own(self) -> np.ndarray:
        """The members' probabilities of the cells' own types, float (n, M)."""
        return self.members[np.arange(len(self.y)), :, self.y].astype(np.float64)


@dataclass
class Said:
    """What the members said of a problem."""

    set: str
    target: str
    role: str
    classes: list[str]
    truth: np.ndarray  # objects (n,)
    members: np.ndarray  # float16 (n, M, K)
    left_out: list[LeftOutBatch]


def say(problem: Problem) -> Said:
    """Train, and let each member speak."""
    settings = annotate.settings_of(problem.parameters)
    reference = annotate.train(problem.prepared, problem.plan, settings, keep_history=False)
    x = sparse.csr_matrix(problem.prepared.X[problem.is_target])
    annotated = annotate.annotate(reference.model, x, target.known_latents(reference), settings)
    members = default.members(annotated.model, annotated.final_latent, settings).astype(np.float16)
    mean, left_out = np.asarray(x.mean(axis=0)).ravel(), []
    for batch in annotate.leave_batches_out(reference) if len(reference.batches) > 1 else []:
        rows = np.flatnonzero(batch.could_be_known)
        theirs = np.asarray(reference.batches[batch.batch].x.mean(axis=0)).ravel()
        likeness = float(np.corrcoef(mean, theirs)[0, 1])
        left_out.append(LeftOutBatch(batch.y[rows], batch.members["aligned"][rows].astype(np.float16), likeness))
    left_out = [batch for batch in left_out if len(batch.y)]
    return Said(problem.set, problem.target, problem.role, list(problem.plan.classes), problem.truth, members, left_out)


def shipped(said: Said) -> np.ndarray:
    """Every left-out batch counts alike."""
    return mixed(said.members, tuple(_by_likeness(said, 0.0)))


def prior_only(said: Said) -> np.ndarray:
    """Nothing is learned."""
    return mixed(said.members, PRIOR)


def moved_or_not(*, moved: bool) -> Callable[[Said], np.ndarray]:
    """Only the members' answers for the cells as alignment moved them, or only those for the cells as they are."""

    def answer(said: Said) -> np.ndarray:
        weights = _by_likeness(said, 0.0)
        weights[: len(weights) // 2] *= not moved
        weights[len(weights) // 2 :] *= moved
        return mixed(said.members, tuple(weights / weights.sum()))

    return answer


def by_likeness(power: float) -> Callable[[Said], np.ndarray]:
    """A left-out batch counts the more the more it is like the target."""
    return lambda said: mixed(said.members, tuple(_by_likeness(said, power)))


def _by_likeness(said: Said, power: float) -> np.ndarray:
    importance = np.exp(power * np.array([batch.likeness for batch in said.left_out]))
    importance /= importance.mean() if len(importance) else 1.0
    pairs = zip(said.left_out, importance, strict=True)
    return np.array(learned_weights([(b.own, np.full(len(b.y), share / len(b.y))) for b, share in pairs], PRIOR))


def types_alike(said: Said) -> np.ndarray:
    """Every type of a left-out batch counts alike."""
    batches = [(b.own, 1 / np.bincount(b.y)[b.y] / len(np.unique(b.y))) for b in said.left_out]
    return mixed(said.members, learned_weights(batches, PRIOR))


def by_type(prior_cells: float) -> Callable[[Said], np.ndarray]:
    """Each type has weights of its own, shrunk to the common ones as if these were so many cells."""

    def answer(said: Said) -> np.ndarray:
        common = _by_likeness(said, 0.0)
        weights = np.tile(common, (len(said.classes), 1))
        for k in range(len(said.classes)):
            own = [batch.own[batch.y == k] for batch in said.left_out]
            with mock.patch.object(mixture, "PRIOR_CELLS", prior_cells):
                weights[k] = learned_weights([(o, np.full(len(o), 1 / max(1, len(o)))) for o in own], tuple(common))
        together = np.einsum("nmk,km->nk", said.members.astype(np.float32), weights.astype(np.float32))
        return together / together.sum(axis=1, keepdims=True)

    return answer


def geometric(said: Said) -> np.ndarray:
    """The shipped weights, of the members' logarithms."""
    logs = np.log(np.maximum(said.members.astype(np.float32), LEAST))
    together = np.exp(np.einsum("nmk,m->nk", logs, _by_likeness(said, 0.0).astype(np.float32)))
    return together / together.sum(axis=1, keepdims=True)


TRIALS: dict[str, Callable[[Said], np.ndarray]] = {
    "shipped": shipped,
    "the prior alone": prior_only,
    "cells as they are alone": moved_or_not(moved=False),
    "cells as moved alone": moved_or_not(moved=True),
    "by likeness of the batch (power 3)": by_likeness(3),
    "by likeness of the batch (power 10)": by_likeness(10),
    "by likeness of the batch (power 30)": by_likeness(30),
    "types alike": types_alike,
    "by type, shrunk by 20 cells": by_type(20),
    "by type, shrunk by 80 cells": by_type(80),
    "geometric mean": geometric,
}


def run(folder: Path, names: Sequence[str]) -> None:
    """Keep what the members say of every problem that is not in the folder yet, and write a row for each trial."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in names:
        for problem in problems(name):
            file = folder / f"{name} {problem.target} {problem.role}.weights".replace("/", "_")
            if not file.exists():
                file.write_bytes(pickle.dumps(say(problem)))
                print(file.stem, flush=True)
            said: Said = pickle.loads(file.read_bytes())  # our own, just made
            for trial, answer in TRIALS.items():
                found = scores(said.truth, said.classes, answer(said))
                numbers = {key: round(found[key], 5) for key in ("macro_F1", "AURC")}
                rows.append({"set": said.set, "target": said.target, "role": said.role, "trial": trial} | numbers)
    pd.DataFrame(rows).to_csv(OUTPUT, index=False)


def report(rows: pd.DataFrame) -> None:
    """Print each trial's means over sets of means over problems, and on how many sets it is better and worse than the shipped."""
    rows = rows[~rows["set"].isin(NOT_COUNTED)]
    for title, some in (("All annotated batches", rows["role"] == "all"), ("Hard roles", rows["role"] != "all")):
        of_sets = rows[some].groupby(["trial", "set"], sort=False)[["macro_F1", "AURC"]].mean()
        apart = of_sets["macro_F1"].unstack("trial")
        apart = apart.sub(apart["shipped"], axis=0)
        table = of_sets.groupby("trial", sort=False).mean()
        table["sets better"], table["sets worse"] = (apart > CHANGED).sum(), (apart < -CHANGED).sum()
        table["most"], table["least"] = apart.max(), apart.min()
        print_table(title, table)
        print_table(f"{title}: macro-F1 minus that of the shipped weights, each set", apart)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--cache", type=Path, help="folder for what the members say")
    parser.add_argument("--run", action="store_true", help="let the members speak of what is missing there first")
    parser.add_argument("--sets", nargs="*", default=SETS)
    options = parser.parse_args()
    if options.run:
        run(options.cache, options.sets)
    report(read_rows(OUTPUT))


if __name__ == "__main__":
    main()
