"""What several benchmarks share: the shared sets and their targets, METHOD on one target, files of results, command lines.

Of `jind_nb.model` the benchmarks use what is imported here and, in research/trials.py and small_targets.py, its smallest functions.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from jind_nb.commands.compare import measure
from jind_nb.core.parameters import Parameters, make_parameters
from jind_nb.data import cells as data_cells
from jind_nb.data import prepare, roles
from jind_nb.data.plan import Plan
from jind_nb.model import annotate, calibration, leave_one_out, target
from jind_nb.model.predictions import Predictions
from jind_nb.model.state import AlignmentMode, Reference, Settings, TargetStage

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SHARED_DATA = Path(os.environ.get("JIND_NB_SHARED", ROOT.parent / "shared" / "data"))

# --- the shared sets and their targets -------------------------------------------------------------------------------

# Designs were chosen on these sets,
DESIGN = (
    "pbmc_10x_symphony",
    "pancreas_wang_xin_baron",
    "scatac_granja_bmmc_2donors",
    "pbmc_adt_cite_asap_4batches",
    "pancreas_baron_human_mouse_6donors",
)
# and checked on these.
CHECK = (
    "cellbench_6batches",
    "pancreas_3studies_small",
    "pbmc_onek1k_40donors",
    "scatac_hematopoiesis_3batches",
)
SETS = (*DESIGN, *CHECK)
FIRST_TARGET = {
    "pbmc_10x_symphony": "3pv1",
    "cellbench_6batches": "CELseq2_5cl_p3",
    "pancreas_3studies_small": "Lawlor",
    "pancreas_wang_xin_baron": "Wang",
    "scatac_granja_bmmc_2donors": "BMMC_D5T1",
    "scatac_hematopoiesis_3batches": "BM0828",
    "pbmc_onek1k_40donors": "SAMP3",
    "pbmc_adt_cite_asap_4batches": "C4_ASAPseq",
}
FIRST_ROLES = {
    "SOURCE_DATASET_NAME": "SAMP2",
    "INTER_DATASETS_NAMES": ["SAMP15", "SAMP11", "SAMP20", "SAMP32", "SAMP6"],
}
TARGETS_OF_A_SET = 3
# Of the 40 donors every tenth is a target, and the eight after it are its annotated batches.
MANY_BATCHES, OTHERS_OF_MANY, EVERY_OF_MANY = 10, 8, 10

Target = tuple[str, dict[str, Any]]  # the batch, and the parameters that say which batches are annotated


def batches_of(name: str) -> list[str]:
    """Return the batches of a shared set, in the file's order."""
    return list(dict.fromkeys(ad.read_h5ad(SHARED_DATA / f"{name}.h5ad", backed="r").obs["batch"].astype(str)))


def targets_in_order(name: str) -> list[Target]:
    """Return every batch of a shared set as a target, in the file's order; of many batches only some."""
    batches = batches_of(name)
    if len(batches) <= MANY_BATCHES:
        return [(batch, {}) for batch in batches]
    return [
        (batches[i], {"INTER_DATASETS_NAMES": batches[i + 1 : i + 1 + OTHERS_OF_MANY]})
        for i in range(0, len(batches), EVERY_OF_MANY)
    ]


def targets(name: str) -> list[Target]:
    """Return `targets_in_order`, but first the target that was fixed beforehand."""
    first, in_order = FIRST_TARGET.get(name), targets_in_order(name)
    if name == "pbmc_onek1k_40donors":  # its first target has annotated batches of its own
        return [(first, FIRST_ROLES), *in_order]
    return sorted(in_order, key=lambda target: target[0] != first)


def parameters_of(name: str, target: str, **also: Any) -> Parameters:
    """Return the parameters for a shared set with one of its batches as target."""
    return make_parameters(
        {
            "PATH": str(SHARED_DATA / f"{name}.h5ad"), "BATCH_COL": "batch", "LABELS_COL": "celltype",
            "TARGET_DATASET_NAME": target, "OUTPUT_PATH": "unused", "MIN_CELL_TYPE_POPULATION": 5, "USE_GPU": False,
        }
        | also
    )  # fmt: skip


def labels_of_target(parameters: Parameters) -> np.ndarray:
    """Return the target's own labels, objects (n_target,). They serve to count what is right, and for nothing else."""
    labels = data_cells.read_target_labels(parameters)
    assert labels is not None  # every shared set is labelled
    return labels


# --- METHOD on one target --------------------------------------------------------------------------------------------


def read_prepared(parameters: Parameters) -> tuple[ad.AnnData, Plan]:
    """Return the prepared cells and who is annotated."""
    cells = data_cells.read_cells(parameters)
    plan = roles.make_plan(parameters, cells)
    return prepare.prepare(parameters, cells, plan), plan


def annotate_prepared(prepared: ad.AnnData, plan: Plan, parameters: Parameters) -> Predictions:
    """Return the predictions for the target, by all that a run's notebooks compute."""
    return measure.jind(prepared, plan, parameters)[0]


@dataclass
class Trained:
    """A model trained on the annotated batches, and what it was trained for."""

    prepared: ad.AnnData
    plan: Plan
    settings: Settings
    reference: Reference


def train(parameters: Parameters) -> Trained:
    """Train METHOD on the annotated batches."""
    prepared, plan = read_prepared(parameters)
    settings = annotate.settings_of(parameters)
    return Trained(prepared, plan, settings, annotate.train(prepared, plan, settings, keep_history=False))


NOT_ALIGNED, ALIGNED = MODES = (AlignmentMode.UNALIGNED.value, AlignmentMode.ALIGNED.value)
LeftOut = leave_one_out.LeftOut
Calibration = calibration.Calibration


class BothModes:
    """A target of METHOD `default`, annotated without alignment and with it, and so the left-out annotated batches.

    Attributes
    ----------
    plan
        Who was annotated.
    left_out
        The left-out batches, annotated in both modes.
    """

    def __init__(self, parameters: Parameters) -> None:
        trained = train(parameters)
        self.plan, self._settings = trained.plan, trained.settings
        self._known = target.known_latents(trained.reference)
        self.left_out = annotate.leave_batches_out(trained.reference)
        cells = trained.prepared[(trained.prepared.obs["batch"] == self.plan.target).to_numpy()]
        shared = trained.reference.model
        self._annotated = annotate.annotate(shared, sparse.csr_matrix(cells.X), self._known, self._settings)
        latent = self._annotated.latent
        self._of_modes = {
            NOT_ALIGNED: (shared, latent[TargetStage.BEFORE]),
            ALIGNED: (self._annotated.model, latent[TargetStage.ALIGNED]),
        }

    def calibrate(self, mode: str, target_error: float | None = None) -> Calibration:
        """Return what the left-out batches say of a mode, for REJECTION or for a TARGET_ERROR."""
        return calibration.calibrate(self.left_out, mode, self._settings.theta, target_error, len(self.plan.annotated))

    def predict(self, mode: str, calibrated: Calibration | None = None) -> Predictions:
        """Return the predictions for the target, calibrated or as they come from the classifier."""
        model, latent = self._of_modes[mode]
        if calibrated is None:
            return target.predict(model, latent, self._known, self._settings)
        return target.predict(model, latent, self._known, self._settings, calibrated.rule, self._annotated.novelty)


def scores(truth: np.ndarray, classes: list[str], probabilities: np.ndarray) -> dict[str, Any]:
    """Return the numbers of `jind-nb compare` for probabilities (n_target, K) that reject nothing."""
    return measure.scores(truth, Predictions(classes, probabilities, np.zeros(len(classes))))


# --- files of results ------------------------------------------------------------------------------------------------


def read_rows(file: Path) -> pd.DataFrame:
    """Return a table of results; names of batches are text, also where they are numbers."""
    return pd.read_csv(file, dtype={"target": str})


def measured_already(file: Path, columns: list[str]) -> set[tuple[Any, ...]]:
    """Return the values of some columns that a table of results has; nothing where there is no table."""
    return set(read_rows(file)[columns].itertuples(index=False, name=None)) if file.exists() else set()


def append_rows(file: Path, rows: Iterable[dict[str, Any]], columns: Sequence[str] = ()) -> None:
    """Append rows to a table of results, floats rounded to five digits; `columns` are the first row's unless given."""
    rows = list(rows)
    if not rows:
        return
    is_new = not file.exists()
    with file.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, columns or list(rows[0]))
        if is_new:
            writer.writeheader()
        writer.writerows({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def print_table(title: str, table: pd.DataFrame, digits: int = 3) -> None:
    """Print a title and a table, with nothing where a value is missing."""
    print(f"\n{title}\n")
    print(table.astype(object).where(table.notna(), "").to_string(float_format=f"{{:.{digits}f}}".format))


# --- command lines ---------------------------------------------------------------------------------------------------


def parser_of(about: str | None) -> argparse.ArgumentParser:
    """Return the parser of a benchmark whose docstring is given: its first line is the help's."""
    return argparse.ArgumentParser(description=(about or "").split("\n")[0])


def run_or_report(about: str | None, run: Callable[[], None], report: Callable[[], None]) -> None:
    """Print the table of a benchmark's results; with `--run`, measure what is missing in them, or all anew, before."""
    parser = parser_of(about)
    parser.add_argument("--run", action="store_true", help="measure what is missing in the results, or all anew, first")
    if parser.parse_args().run:
        run()
    report()


def run_sets_or_report(
    about: str | None, sets: Sequence[str], run: Callable[[Sequence[str]], None], report: Callable[[], None]
) -> None:
    """Print the table of a benchmark's results; with `--run`, measure what is missing in them of `--sets` before."""
    parser = parser_of(about)
    parser.add_argument("--run", action="store_true", help="measure what is missing in the results first")
    parser.add_argument("--sets", nargs="*", default=sets)
    options = parser.parse_args()
    if options.run:
        run(options.sets)
    report()


def jind_nb(*arguments: object) -> list[str]:
    """Return the command that runs `jind-nb` in a process of its own."""
    return [sys.executable, "-m", "jind_nb.cli", *map(str, arguments)]
