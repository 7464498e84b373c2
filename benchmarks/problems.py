"""The twenty shared sets as problems: every batch a target (at most five a set, spread over sizes), and in hard roles.

Roles of the annotated batches and of the target:

    all         all other batches are annotated
    pair        only the two annotated batches most alike
    single      only the largest annotated batch
    reference   200 annotated cells, drawn at random
    one type    only the target's cells of its most common known type
    condition   another condition: annotated controls, a stimulated target (pbmc_kang_ifnb_4samples)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from benchmarks.common import (
    SHARED_DATA,
    append_rows,
    batches_of,
    labels_of_target,
    measured_already,
    read_prepared,
    read_rows,
    run_sets_or_report,
)
from jind_nb.commands.compare.measure import baseline_input, per_10_000
from jind_nb.commands.compare.methods import BaselineInput
from jind_nb.core.parameters import Parameters, make_parameters
from jind_nb.data.plan import Plan
from jind_nb.data.scale import COUNTS_PER_CELL

SETS = sorted(file.stem for file in SHARED_DATA.glob("*.h5ad"))
NOT_COUNTED = ("scatac_hematopoiesis_3batches",)  # its own page warns of its labels; reported, not counted
HARD = ("pair", "single", "reference", "one type", "condition")
ROLES = ("all", *HARD)
SEVERAL_TYPES = tuple(role for role in ROLES if role != "one type")
PROBLEM = ["set", "target", "role"]  # what tells a problem from others
TARGETS_OF_A_SET, HARD_TARGETS_OF_A_SET = 5, 3
MANY_BATCHES, OTHERS_OF_MANY = 10, 8  # of more batches only the eight after the target are annotated
SMALL_REFERENCE = 200  # cells
FEATURES_OF_A_PANEL = 250  # proteins and in situ panels of the shared sets have up to 224


@dataclass
class Problem:
    """A target, the annotated batches to annotate it with, and its labels, which serve to count and for nothing else."""

    set: str
    target: str
    role: str
    parameters: Parameters
    prepared: ad.AnnData
    plan: Plan
    truth: np.ndarray  # objects (n_target,)

    @property
    def is_target(self) -> np.ndarray:
        """Which prepared cells are the target's, bool (n,)."""
        return (self.prepared.obs["batch"] == self.plan.target).to_numpy()

    @property
    def given(self) -> BaselineInput:
        """What a competitor gets: the same cells, without the target's labels."""
        return baseline_input(self.prepared, self.plan, self.parameters)

    @property
    def is_panel(self) -> bool:
        """Whether there are so few features that competitors may prefer the file's values as they are."""
        return self.prepared.n_vars <= FEATURES_OF_A_PANEL

    @property
    def has_other_total(self) -> bool:
        """Whether METHOD `default` brings cells to another total than 10,000, which competitors may prefer."""
        scale = self.plan.preprocessing
        return scale is not None and scale.rescaled and scale.total != COUNTS_PER_CELL

    @property
    def given_as_is(self) -> BaselineInput:
        """The same cells with the file's values as they are."""
        as_is = self.parameters.model_copy(update={"NORMALISATION": "as_is"})
        alike = read_prepared(as_is)[0][self.prepared.obs_names].copy()
        alike.obs = self.prepared.obs.copy()
        return baseline_input(alike, self.plan, self.parameters)

    @property
    def given_per_10_000(self) -> BaselineInput:
        """The same cells with values per 10,000."""
        return baseline_input(per_10_000(self.prepared, self.plan), self.plan, self.parameters)


def targets_of(name: str) -> list[str]:
    """Return the targets of a set: all batches, or five spread over their sizes, the largest first."""
    sizes = ad.read_h5ad(SHARED_DATA / f"{name}.h5ad", backed="r").obs["batch"].astype(str).value_counts()
    chosen = np.unique(np.linspace(0, len(sizes) - 1, min(TARGETS_OF_A_SET, len(sizes))).round().astype(int))
    return [str(sizes.index[i]) for i in chosen]


def problems(name: str, *, hard: bool = True) -> Iterator[Problem]:
    """Yield the problems of a set, one target after the other."""
    batches = batches_of(name)
    for position, target in enumerate(targets_of(name)):
        others: dict[str, Any] = {}
        if len(batches) > MANY_BATCHES:
            first = batches.index(target) + 1
            others = {"INTER_DATASETS_NAMES": (batches[first:] + batches[:first])[:OTHERS_OF_MANY]}
        everything = _problem(name, target, "all", others)
        yield everything
        if not hard or position >= HARD_TARGETS_OF_A_SET:
            continue
        x, batch = everything.prepared.X, everything.prepared.obs["batch"].astype(str).to_numpy()
        annotated = everything.plan.annotated
        if len(annotated) > 2:
            yield _problem(name, target, "pair", {"INTER_DATASETS_NAMES": _most_alike(x, batch, annotated)})
        if len(annotated) > 1:
            largest = max(annotated, key=lambda one: int((batch == one).sum()))
            if len(everything.plan.cells[largest]) > 1:
                yield _problem(name, target, "single", {"INTER_DATASETS_NAMES": [largest]})
        if (batch != target).sum() > 1.3 * SMALL_REFERENCE:
            yield _small_reference(everything)
        if position == 0:
            yield _one_type(everything)
    if name == "pbmc_kang_ifnb_4samples":
        for target in ("stim101", "stim107"):
            yield _problem(name, target, "condition", {"INTER_DATASETS_NAMES": ["ctrl101", "ctrl107"]})


def _problem(name: str, target: str, role: str, roles: dict[str, Any]) -> Problem:
    parameters = make_parameters(
        {
            "PATH": str(SHARED_DATA / f"{name}.h5ad"), "BATCH_COL": "batch", "LABELS_COL": "celltype",
            "TARGET_DATASET_NAME": target, "OUTPUT_PATH": "unused", "USE_GPU": False,
        }
        | roles
    )  # fmt: skip
    prepared, plan = read_prepared(parameters)
    return Problem(name, target, role, parameters, prepared, plan, labels_of_target(parameters))


def _most_alike(x: sparse.csr_matrix, batch: np.ndarray, annotated: list[str]) -> list[str]:
    """Return the two annotated batches whose mean cells are nearest."""
    means = {name: np.asarray(x[batch == name].mean(axis=0)).ravel() for name in annotated}
    pairs: list[tuple[str, str]] = list(itertools.combinations(annotated, 2))
    one, other = min(pairs, key=lambda pair: float(np.linalg.norm(means[pair[0]] - means[pair[1]])))
    return [one, other]


def _small_reference(problem: Problem) -> Problem:
    """Return the problem with 200 of its annotated cells, without types that then have a single cell."""
    is_target = problem.is_target
    drawn = np.random.default_rng(0).choice(np.flatnonzero(~is_target), SMALL_REFERENCE, replace=False)
    types = problem.prepared.obs["cell_type"].iloc[drawn].value_counts()
    kept = problem.prepared.obs["cell_type"].isin(types.index[types >= 2]).to_numpy()
    rows = np.sort(np.concatenate([drawn[kept[drawn]], np.flatnonzero(is_target)]))
    return of_rows(problem, "reference", rows, problem.truth)


def _one_type(problem: Problem) -> Problem:
    """Return the problem with the target's cells of its most common known type only."""
    known = pd.Series(problem.truth)[np.isin(problem.truth, problem.plan.classes)]
    chosen = problem.truth == known.mode().iloc[0]
    is_target = problem.is_target
    rows = np.sort(np.concatenate([np.flatnonzero(~is_target), np.flatnonzero(is_target)[chosen]]))
    return of_rows(problem, "one type", rows, problem.truth[chosen])


def of_rows(problem: Problem, role: str, rows: np.ndarray, truth: np.ndarray) -> Problem:
    """Return a problem with some of the prepared cells, and the plan that they leave."""
    prepared = problem.prepared[rows].copy()
    batch = prepared.obs["batch"].astype(str)
    counts = pd.crosstab(batch, prepared.obs["cell_type"].astype(object))
    annotated = [name for name in problem.plan.annotated if name in counts.index]
    classes = [name for name in problem.plan.classes if name in counts.columns]
    cells = {name: {str(t): int(n) for t, n in counts.loc[name].items() if n} for name in annotated}
    prepared.obs["cell_type"] = prepared.obs["cell_type"].cat.set_categories(classes)
    prepared.obs["batch"] = prepared.obs["batch"].cat.set_categories([*annotated, problem.plan.target])
    plan = replace(problem.plan, source=None, annotated=annotated, classes=classes, cells=cells)
    return replace(problem, role=role, prepared=prepared, plan=plan, truth=truth)


def measure_or_report(
    doc: str | None,
    output: Path,
    measured: Callable[[Problem], list[dict[str, Any]]],
    report: Callable[[pd.DataFrame], None],
    roles: Sequence[str] = SEVERAL_TYPES,
) -> None:
    """With `--run` measure the problems in some roles that a table of results lacks; report the table. A problem's rows are kept as soon
    as they are there."""

    def run(names: Sequence[str]) -> None:
        done = measured_already(output, PROBLEM)
        for name in names:
            for problem in problems(name):
                if problem.role in roles and (name, problem.target, problem.role) not in done:
                    append_rows(output, measured(problem))

    run_sets_or_report(doc, SETS, run, lambda: report(read_rows(output)))
