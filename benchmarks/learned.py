"""What the benchmarks of trust start from: a model of METHOD `default` that has learned all but one batch of a shared set."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jind_nb.model.alignment import Annotated, KnownCodes
from jind_nb.model.training import Reference, Settings
from scipy import sparse

from jind_nb.core.parameters import Parameters, make_parameters
from jind_nb.data import cells as data_cells
from jind_nb.data import prepare, roles
from jind_nb.data.plan import Plan
from jind_nb.model import alignment, training

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
SHARED_DATA = Path(os.environ.get("JIND_NB_SHARED", HERE.parent.parent / "shared" / "data"))


def parameters_of(name: str, target: str, **also: Any) -> Parameters:
    """Parameters for a shared set with one of its batches as target."""
    return make_parameters(
        {
            "PATH": str(SHARED_DATA / f"{name}.h5ad"), "BATCH_COL": "batch", "LABELS_COL": "celltype",
            "TARGET_DATASET_NAME": target, "OUTPUT_PATH": "unused", "MIN_CELL_TYPE_POPULATION": 5, "USE_GPU": False,
        }
        | also
    )  # fmt: skip


@dataclass
class Learned:
    """A model that has not seen the target, and the target's cells."""

    parameters: Parameters
    plan: Plan
    settings: Settings
    reference: Reference
    known: KnownCodes
    x: sparse.csr_matrix  # the target, float32 (n_target, p)
    means: np.ndarray  # of each feature over the annotated cells, float32 (p,)

    def annotate(self) -> Annotated:
        """The target before and after alignment, whether left-out batches recommend it or not."""
        annotated = alignment.annotate(self.reference.model, self.x, self.known, self.settings)
        alignment.align(annotated, self.x, self.known, replace(self.settings, always_aligns=True))
        return annotated


def learn(parameters: Parameters, *, unseen: bool = False) -> Learned:
    """Learns from all annotated batches.

    Parameters
    ----------
    unseen
        Whether the target takes no part in the projection either, like the cells of a new file.
    """
    cells = data_cells.read_cells(parameters)
    plan = roles.make_plan(parameters, cells)
    prepared = prepare.prepare(parameters, cells, plan)
    settings = Settings.of(parameters)
    is_target = (prepared.obs["batch"] == plan.target).to_numpy()
    reference = training.start(prepared[~is_target] if unseen else prepared, plan, settings)
    training.learn_intermediates(reference)
    means = np.asarray(prepared[~is_target].X.mean(axis=0), dtype=np.float32).ravel()
    known = alignment.known_codes(reference)
    return Learned(parameters, plan, settings, reference, known, sparse.csr_matrix(prepared[is_target].X), means)


def command(about: str, run: Callable[[], None], report: Callable[[], None]) -> None:
    """A benchmark's command line: the table of its results, with `--run` of results that are completed or computed anew."""
    parser = argparse.ArgumentParser(description=about.split("\n")[0])
    parser.add_argument("--run", action="store_true", help="run what is missing in the results, or all anew, first")
    if parser.parse_args().run:
        run()
    report()


def labels_of_target(parameters: Parameters) -> np.ndarray:
    """The target's own labels, objects (n_target,): to count what is right, and for nothing else."""
    labels = data_cells.read_target_labels(parameters)
    assert labels is not None  # every shared set is labelled
    return labels
