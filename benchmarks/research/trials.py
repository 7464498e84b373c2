"""Compare what was tried for METHOD `default`, each trial on the same targets as benchmarks/product/accuracy.py.

    python -m benchmarks.research.trials                     # prints the table of results/trials.csv
    python -m benchmarks.research.trials --run [TRIAL ...]   # measures what is missing there first, or only some trials

Designs were chosen on the five design sets; each candidate was measured once on the four check sets. All annotated cells are
used for training, none is held out. "Used" is what METHOD `default` was at commit 5512574. The target's labels serve to count what is right, and for nothing else.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from scipy.stats import rankdata
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors

from benchmarks.common import (
    CHECK,
    DESIGN,
    RESULTS,
    SETS,
    TARGETS_OF_A_SET,
    append_rows,
    labels_of_target,
    measured_already,
    parameters_of,
    parser_of,
    read_prepared,
    read_rows,
    scores,
    targets,
)
from jind_nb.commands.compare.measure import baseline_input
from jind_nb.commands.compare.methods import BaselineInput, knn_after_harmony, pooled_network
from jind_nb.model import default
from jind_nb.model.neighbours import nearest

OUTPUT = RESULTS / "trials.csv"
VIEWS = ((True, 10), (True, 20), (True, 50), (False, 20), (False, 50))  # features softened, components
NUMBERS = ["macro_F1", "AURC", "accuracy_at_90%"]
ATAC = ("scatac_granja_bmmc_2donors", "scatac_hematopoiesis_3batches")


@dataclass
class Problem:
    """A target, and annotated batches to annotate it with."""

    task: BaselineInput
    name: str  # of the set

    @property
    def n(self) -> int:
        """Annotated cells; they come first in every array of all cells."""
        return len(self.task.y)

    @cached_property
    def values(self) -> np.ndarray:
        """log1p values of all cells, float32 (n + m, p)."""
        return self.task.all_cells.toarray()

    @cached_property
    def known(self) -> np.ndarray:
        """How much each annotated cell is of each type: 0 or 1, (n, K)."""
        return np.eye(len(self.task.classes))[self.task.y]

    @cached_property
    def views(self) -> list[np.ndarray]:
        """The five views."""
        return [components(of_one_length(self.values), n, softened=softened) for softened, n in VIEWS]

    @property
    def target_codes(self) -> np.ndarray:
        """50 components either way, of the target's cells."""
        return np.concatenate([self.views[2], self.views[4]], axis=1)[self.n :]


Head = Callable[[np.ndarray], np.ndarray]  # codes -> probabilities


def softmax_regression(p: Problem, z: np.ndarray, c: float = 1.0, weights: np.ndarray | None = None) -> Head:
    """Learned from the annotated cells' codes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=c, max_iter=300).fit(z[: p.n].astype(np.float64), p.task.y, weights)
    return lambda codes: p.task.columns(model.predict_proba(codes.astype(np.float64)), model.classes_)


def plain(p: Problem, z: np.ndarray, c: float = 1.0) -> np.ndarray:
    return softmax_regression(p, z, c)(z[p.n :])


def over_views(p: Problem, one: Callable[[Problem, np.ndarray], np.ndarray]) -> np.ndarray:
    return np.mean([one(p, z) for z in p.views], axis=0)


# --- values and components -------------------------------------------------------------------------------------------


def of_one_length(x: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.maximum(lengths, 1e-6) * lengths.mean()


def components(x: np.ndarray, n: int, *, softened: bool = False, rows: slice = slice(None)) -> np.ndarray:
    """Principal components, of all cells or some, with features divided by standard deviation plus median."""
    if softened:
        deviation = x.std(axis=0)
        x = x / (deviation + np.median(deviation) + 1e-6)
    return PCA(min(n, min(x[rows].shape) - 1), random_state=0).fit(x[rows]).transform(x)


def standardised(p: Problem) -> np.ndarray:
    deviation = p.values[: p.n].std(axis=0)
    return np.clip((p.values - p.values[: p.n].mean(axis=0)) / np.where(deviation > 0, deviation, 1), -10, 10)


def batch_centred(p: Problem) -> np.ndarray:
    x, batch = p.values.copy(), p.task.all_batches
    for name in np.unique(batch):
        x[batch == name] -= x[batch == name].mean(axis=0)
    return x


def ranks(p: Problem) -> np.ndarray:
    x = rankdata(p.values, axis=1).astype(np.float32)
    return (x - x.mean(axis=1, keepdims=True)) / (x.std(axis=1, keepdims=True) + 1e-6)


def tf_idf(p: Problem) -> np.ndarray:
    there = (p.values > 0).astype(np.float32)
    frequency = there / np.maximum(1, there.sum(axis=1, keepdims=True))
    return np.log1p(frequency * len(there) / np.maximum(1, there.sum(axis=0)) * 1e4)


def binarised(p: Problem) -> np.ndarray:
    return (p.values > 0).astype(np.float32)


def neighbours_averaged(p: Problem, k: int) -> np.ndarray:
    """Each cell the mean of itself and its k nearest cells of the same batch, by 30 components."""
    x, batch = p.values.copy(), p.task.all_batches
    for name in np.unique(batch):
        rows = np.flatnonzero(batch == name)
        z = components(p.values[rows], 30)
        near = NearestNeighbors(n_neighbors=min(k + 1, len(rows))).fit(z).kneighbors(z, return_distance=False)
        x[rows] = p.values[rows][near].mean(axis=1)
    return x


# --- heads -----------------------------------------------------------------------------------------------------------


def network(p: Problem, z: np.ndarray) -> np.ndarray:
    """JIND's own encoder and head on a view, 400 steps or 15 epochs, three seeds averaged."""
    z = (z / z.std()).astype(np.float32)
    halves = sparse.csr_matrix(z[: p.n]), sparse.csr_matrix(z[p.n :])
    task = BaselineInput(halves[0], p.task.y, p.task.batch, halves[1], p.task.target_batch, p.task.classes)
    return pooled_network(task)


def weighted(p: Problem, z: np.ndarray, of: str) -> np.ndarray:
    groups = p.task.y if of == "types" else pd.factorize(p.task.batch)[0]
    weights = 1 / np.bincount(groups)[groups]
    return softmax_regression(p, z, weights=weights / weights.mean())(z[p.n :])


# --- the target ------------------------------------------------------------------------------------------------------


def adapted(p: Problem, z: np.ndarray, *, by_type: bool = False) -> np.ndarray:
    """Annotated batches moved to the types' means: each as one to where those before it are, or type by type."""
    z, names = z.astype(np.float64), list(dict.fromkeys(p.task.batch))
    for i, name in enumerate(names):
        own = np.flatnonzero(p.task.batch == name)
        before = np.flatnonzero(np.isin(p.task.batch, names if by_type else names[:i]))
        here, there = (default.type_means(z[rows], p.known[rows]) for rows in (own, before))
        z[own] += type_by_type(here, there)[p.task.y[own]] if by_type else default.offset_between(here, there)
    return z


Means = tuple[np.ndarray, np.ndarray]


def type_by_type(own: Means, others: Means) -> np.ndarray:
    """A translation for each type, (K, size)."""
    (means, cells), (there, cells_there) = own, others
    return np.where(cells_there > 0, cells / (cells + default.SHRINKAGE), 0)[:, None] * (there - means)


def moved(p: Problem, z: np.ndarray, *, by_type: bool = False) -> np.ndarray:
    """The target predicted and moved in turns, as one or type by type."""
    head, codes = softmax_regression(p, z), z[p.n :].astype(np.float64)
    there = default.type_means(z[: p.n], p.known)
    shares = head(codes)
    for _ in range(default.ROUNDS):
        own = default.type_means(codes, shares)
        b = shares @ type_by_type(own, there) if by_type else default.offset_between(own, there)
        shares = head(codes + b)
    return shares


def adapted_and_moved(p: Problem, z: np.ndarray, *, by_type: bool = False) -> np.ndarray:
    return moved(p, adapted(p, z), by_type=by_type)


def self_trained(p: Problem, z: np.ndarray) -> np.ndarray:
    """Three rounds of learning from the target's own predictions, as confident as they are, beside the labels."""
    shares, k = plain(p, z), len(p.task.classes)
    x = np.concatenate([z[: p.n], np.repeat(z[p.n :], k, axis=0)]).astype(np.float64)
    y = np.concatenate([p.task.y, np.tile(np.arange(k), len(shares))])
    for _ in range(3):
        of_target = shares * (0.5 * p.n / len(shares))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LogisticRegression(max_iter=300).fit(x, y, np.concatenate([np.ones(p.n), of_target.ravel()]))
        shares = p.task.columns(model.predict_proba(z[p.n :].astype(np.float64)), model.classes_)
    return shares


def propagated(p: Problem, z: np.ndarray, share: float) -> np.ndarray:
    """Predictions mixed with those of the 15 nearest target cells, 30 times over."""
    first, codes = plain(p, z), z[p.n :]
    near = NearestNeighbors(n_neighbors=min(16, len(codes))).fit(codes).kneighbors(codes, return_distance=False)[:, 1:]
    shares = first
    for _ in range(30):
        shares = share * shares[near].mean(axis=1) + (1 - share) * first
    return shares


def by_neighbours(p: Problem, k: int | None, share: float) -> np.ndarray:
    """The five views' answers, mixed once with those of the nearest target cells by cosine of the whole code: k of them,
    or one for every 16 cells, at most 16."""
    answers, codes = over_views(p, plain), p.target_codes
    k = min(16, max(1, len(codes) // 16)) if k is None else k
    near = nearest(codes, codes, k)[0]
    return mixed(answers, near, share)


def mixed(answers: np.ndarray, near: np.ndarray, share: float) -> np.ndarray:
    """Return each cell's answer, a share of it the mean over the cells at the positions `near`."""
    return share * answers[near].mean(axis=1) + (1 - share) * answers


def harmonised(p: Problem, z: np.ndarray) -> np.ndarray:
    import harmonypy

    obs = pd.DataFrame({"batch": p.task.all_batches.astype(str)})
    harmony = harmonypy.run_harmony(z.astype(np.float64), obs, "batch", random_state=0, ncores=1, verbose=False)
    return plain(p, np.asarray(harmony.Z_corr))


def on_softened(values: Callable[[Problem], np.ndarray], n: int, p: Problem) -> np.ndarray:
    return plain(p, components(values(p), n, softened=True))


TRIALS: dict[str, Callable[[Problem], np.ndarray]] = {
    "kNN after Harmony (scanpy's way)": lambda p: knn_after_harmony(p.task),
    "features: softmax regression": lambda p: plain(p, p.values),
    "features, unit variance, C 0.01": lambda p: plain(p, standardised(p), 0.01),
    "features, each batch centred": lambda p: plain(p, batch_centred(p)),
    "features, ranks in the cell": lambda p: plain(p, ranks(p)),
    "features, cells of one length": lambda p: plain(p, of_one_length(p.values)),
    "features, five neighbours averaged": lambda p: plain(p, neighbours_averaged(p, 5)),
    "20 components of all cells": lambda p: plain(p, components(p.values, 20)),
    "50 components of all cells": lambda p: plain(p, components(p.values, 50)),
    "50 components of the annotated cells": lambda p: plain(p, components(p.values, 50, rows=slice(p.n))),
    "100 components of all cells": lambda p: plain(p, components(p.values, 100)),
    "50 components, cells of one length": lambda p: plain(p, components(of_one_length(p.values), 50)),
    "the same, softened features": lambda p: plain(p, components(of_one_length(p.values), 50, softened=True)),
    "the same, 20 components": lambda p: plain(p, components(of_one_length(p.values), 20, softened=True)),
    "the same, 10 components": lambda p: plain(p, components(of_one_length(p.values), 10, softened=True)),
    "five views": lambda p: over_views(p, plain),
    "five views, C 0.1": lambda p: over_views(p, partial(plain, c=0.1)),
    "five views, C 10": lambda p: over_views(p, partial(plain, c=10.0)),
    "five views, types weighted alike": lambda p: over_views(p, partial(weighted, of="types")),
    "five views, batches weighted alike": lambda p: over_views(p, partial(weighted, of="batches")),
    "five views, JIND's network on each": lambda p: over_views(p, network),
    "five views, Harmony": lambda p: over_views(p, harmonised),
    "five views, self-training with soft labels": lambda p: over_views(p, self_trained),
    "five views, half once from 15 neighbours by cosine, fewer in small targets (used)": partial(
        by_neighbours, k=None, share=0.5
    ),
    "five views, half once from 15 neighbours by cosine": partial(by_neighbours, k=16, share=0.5),
    "five views, half once from 5 neighbours by cosine": partial(by_neighbours, k=6, share=0.5),
    "five views, half once from 30 neighbours by cosine": partial(by_neighbours, k=31, share=0.5),
    "five views, seven tenths once from 15 neighbours by cosine": partial(by_neighbours, k=16, share=0.7),
    "five views, half from target neighbours": lambda p: over_views(p, partial(propagated, share=0.5)),
    "five views, nine tenths from target neighbours": lambda p: over_views(p, partial(propagated, share=0.9)),
    "five views, adapters by type": lambda p: over_views(p, lambda p, z: plain(p, adapted(p, z, by_type=True))),
    "five views, adapters": lambda p: over_views(p, lambda p, z: plain(p, adapted(p, z))),
    "five views, target moved": lambda p: over_views(p, moved),
    "five views, target moved by type": lambda p: over_views(p, partial(moved, by_type=True)),
    "five views, adapters, target moved (used where left-out batches say so)": lambda p: over_views(
        p, adapted_and_moved
    ),
    "five views, adapters, target moved by type": lambda p: over_views(p, partial(adapted_and_moved, by_type=True)),
}
OF_PEAKS: dict[str, Callable[[Problem], np.ndarray]] = {
    f"peaks: {words}, {n} components": partial(on_softened, values, n)
    for n in (10, 20)
    for words, values in {
        "log counts, cells of one length (used)": lambda p: of_one_length(p.values),
        "log counts": lambda p: p.values,
        "binarised": binarised,
        "binarised, cells of one length": lambda p: of_one_length(binarised(p)),
        "TF-IDF": tf_idf,
        "TF-IDF, cells of one length": lambda p: of_one_length(tf_idf(p)),
    }.items()
}


# --- running ---------------------------------------------------------------------------------------------------------


def problem(name: str, target: str, roles: dict[str, Any]) -> tuple[Problem, np.ndarray]:
    """Return a target with its annotated batches, and its labels."""
    parameters = parameters_of(name, target, **roles)
    return Problem(baseline_input(*read_prepared(parameters), parameters), name), labels_of_target(parameters)


def run(wanted: list[str]) -> None:
    """Append what is missing, target by target."""
    torch.set_num_threads(1)
    already = measured_already(OUTPUT, ["trial", "set", "target"])
    for name in SETS:
        for target, roles in targets(name)[:TARGETS_OF_A_SET]:
            trials = TRIALS | (OF_PEAKS if name in ATAC else {})
            to_do = [t for t in trials if (t, name, target) not in already and (not wanted or t in wanted)]
            if not to_do:
                continue
            p, truth = problem(name, target, roles)
            for trial in to_do:
                began = time.process_time()
                probabilities = trials[trial](p)
                seconds = time.process_time() - began
                found = scores(truth, p.task.classes, probabilities)
                numbers = {number: found[number] for number in NUMBERS}
                row = {"trial": trial, "set": name, "target": target} | numbers | {"cpu_seconds": seconds}
                append_rows(OUTPUT, [row])
            print(f"{name}, {target}: {len(to_do)} trials", flush=True)


def report() -> None:
    """Print means over sets, each of them the mean over its targets."""
    rows = read_rows(OUTPUT)
    of_sets = rows.groupby(["trial", "set"], sort=False)[NUMBERS].mean()
    for trials, sets in (
        (TRIALS, {"all": SETS, "design": DESIGN, "check": CHECK}),
        (OF_PEAKS, {"ATAC": ATAC}),
    ):
        table = pd.DataFrame({"targets": rows["trial"].value_counts()}, index=list(trials))
        for words, some in sets.items():
            means = of_sets[of_sets.index.get_level_values("set").isin(some)].groupby("trial").mean()
            table[f"macro-F1, {words}"] = means["macro_F1"]
            table[f"AURC, {words}"] = means["AURC"]
        print(f"\n{table.to_string(float_format='{:.3f}'.format)}")
        print(
            f"\n{of_sets['macro_F1'].unstack('set').reindex(list(trials)).dropna(axis=1, how='all').to_string(float_format='{:.3f}'.format)}"
        )


if __name__ == "__main__":
    parser = parser_of(__doc__)
    parser.add_argument("--run", nargs="*", metavar="TRIAL", help="measure what is missing in the results first")
    options = parser.parse_args()
    if options.run is not None:
        run(options.run)
    report()
