"""One method measured on a target whose labels are known: ours, the usual tools (`methods`), or a control.

    row = measure(parameters, "logistic regression")     # a dictionary, or UnavailableError

Each method but the controls runs in a process of its own, so that seconds and peak memory are its own. It gets the
parameters and never the target's labels.
"""

import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from ... import metrics
from ...core.limits import why_killed
from ...core.parameters import Parameters
from ...core.processes import python_module
from ...data import cells as data_cells
from ...data import prepare
from ...data import roles as data_roles
from ...data.plan import Plan
from ...data.scale import COUNTS_PER_CELL
from ...errors import InputError
from ...model import annotate as model_annotate
from ...model import history
from ...model.annotate import calibrate, known_with_rules, settings_of, train
from ...model.predictions import Predictions
from .methods import BASELINES, BaselineInput, celltypist_python

TRUE_LABELS = "true labels"

CONTROLS = (TRUE_LABELS, "random labels", "majority")

# Method -> METHOD, and how it uses the annotated batches.
JIND = {
    "default": ("default", "multi"),
    "default not aligned": ("default", "not aligned"),
    "reference": ("reference", "multi"),
    "reference combined": ("reference", "combined"),
    "reference single source": ("reference", "single"),
}

METHODS = (*JIND, *(name for name in BASELINES if name not in CONTROLS), *CONTROLS)

# Methods whose answer depends on a seed; all others give the same one each time.
SEEDED = (*JIND, "pooled network", "scANVI", "random labels")

# Below this a baseline's label counts as rejected, as in CellTypist; coverages compare without a threshold.
BASELINE_THRESHOLD = 0.5

COVERAGES = (0.8, 0.9, 0.95)

ENOUGH_CELLS = 10  # of a type in the target, for `macro_F1_10`


class UnavailableError(Exception):
    """A method cannot run here; the message says why."""


# What a method used after the cells were prepared: `peak_GB` is of its whole process, `way` is ours' `AlignmentMode`.
Cost = dict[str, Any]

NO_COST = {"seconds": 0.0, "peak_GB": 0.0, "cpu_seconds": 0.0, "way": ""}


# --- one method ------------------------------------------------------------------------------------------------------


def measure(parameters: Parameters, method: str) -> dict[str, Any]:
    """Run a method on the target with the seed SEED, and measure it by the target's labels.

    Returns
    -------
    `method`, `seed`, the numbers of `scores`, `seconds`, `peak_GB` and `cpu_seconds` (which a busy machine does not
    change).

    Raises
    ------
    UnavailableError
        If a package of the method is missing, or it cannot work with these values.
    InputError
        If the target has no labels, or the parameters or values are wrong.
    """
    truth = target_labels(parameters)
    if method == TRUE_LABELS:
        predictions, cost = _true_predictions(truth), NO_COST
    elif method in CONTROLS:
        predictions, cost = annotate(parameters, method)[0], NO_COST
    else:
        predictions, cost = _annotate_in_process(parameters, method)
    known = pd.notna(truth)
    return {"method": method, "seed": parameters.SEED, **scores(truth[known], predictions.subset(known)), **cost}


def target_labels(parameters: Parameters) -> np.ndarray:
    """Return the target's labels, objects (n_target,), None where unknown.

    Raises
    ------
    InputError
        If no cell has one.
    """
    truth = data_cells.read_target_labels(parameters)
    if truth is None:
        raise InputError(
            f"LABELS_COL: no cell of the target {parameters.target!r} has a label, so nothing can be "
            "compared; name a target whose labels are known."
        )
    return truth


def scores(truth: np.ndarray, predictions: Predictions) -> dict[str, Any]:
    """Return the numbers of the comparison for all labelled cells of a target, including cells of unknown types.

    Parameters
    ----------
    truth
        True types, objects (n_cells,).
    """
    found, table = history.evaluate(truth, predictions)
    right, confidence = predictions.raw == truth, predictions.confidence
    f1_of_larger_types = [row["f1"] for row in table.values() if row["cells"] >= ENOUGH_CELLS]
    return {
        **{name: found[name] for name in ("cells", "unknown_type", "raw_accuracy", "macro_F1")},
        f"macro_F1_{ENOUGH_CELLS}": float(np.mean(f1_of_larger_types)) if f1_of_larger_types else None,
        "balanced_accuracy": metrics.balanced_accuracy(truth, predictions.raw),
        **{name: found[name] for name in ("effective_accuracy", "rejection", "mAP", "AURC")},
        **{f"accuracy_at_{share:.0%}": metrics.accuracy_at_coverage(confidence, right, share) for share in COVERAGES},
        "calibration_error": found["calibration_error"],
    }


def _true_predictions(truth: np.ndarray) -> Predictions:
    """Return the predictions of the control that is always right."""
    types = sorted(set(truth[pd.notna(truth)]))
    right = truth[:, None] == np.array(types, dtype=object)
    return Predictions(types, right.astype(np.float64), np.zeros(len(types)))


def _annotate_in_process(parameters: Parameters, method: str) -> tuple[Predictions, Cost]:
    """Call `annotate` in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="jind-nb-") as folder:
        job, answer = Path(folder) / "job", Path(folder) / "answer"
        job.write_bytes(pickle.dumps((parameters, method)))
        command = python_module("jind_nb.commands.compare.measure", job, answer)
        environment = os.environ | {"TQDM_DISABLE": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if not answer.exists():
            if done.returncode < 0:
                raise UnavailableError(f"{method} was killed (signal {-done.returncode}), {why_killed()}.")
            raise UnavailableError(f"{method} failed: {(done.stderr.strip() or 'without a word').splitlines()[-1]}")
        problem, answered = pickle.loads(answer.read_bytes())
    if problem:
        raise UnavailableError(problem)
    return answered


def annotate(parameters: Parameters, method: str) -> tuple[Predictions, Cost]:
    """Return a method's predictions for the target, and their cost."""
    name, way = JIND.get(method, (parameters.METHOD, "multi"))
    align = False if way == "not aligned" else parameters.ALIGN
    parameters = parameters.model_copy(update={"METHOD": name, "ALIGN": align})
    if way == "single":
        parameters = single_source(parameters)
    cells = data_cells.read_cells(parameters)
    plan = data_roles.make_plan(parameters, cells)
    prepared = prepare.prepare(parameters, cells, plan)
    if method not in JIND:
        prepared = per_10_000(prepared, plan)
    given = None if method in JIND else baseline_input(prepared, plan, parameters)
    if given is not None and method == "scANVI":
        given = replace(given, counts=counts_of_features(parameters, prepared))
    if method == "CellTypist":
        celltypist_python()  # its installation, done once, does not count
    began, cpu_before, alignment_mode = time.monotonic(), _cpu_seconds(), ""
    if given is None:
        if way == "combined":
            prepared, plan = combined(prepared, plan)
        predictions, alignment_mode = jind(prepared, plan, parameters)
    else:
        probabilities = BASELINES[method](given)
        predictions = Predictions(plan.classes, probabilities, np.full(len(plan.classes), BASELINE_THRESHOLD))
    return predictions, {
        "seconds": round(time.monotonic() - began, 2),
        "peak_GB": round(_peak() / 1e9, 3),
        "cpu_seconds": round(_cpu_seconds() - cpu_before, 2),
        "way": str(alignment_mode),
    }


def jind(prepared: ad.AnnData, plan: Plan, parameters: Parameters) -> tuple[Predictions, str]:
    """Return the target's predictions by METHOD, and its alignment mode: the notebooks' sequence without files."""
    settings = settings_of(parameters)
    reference = train(prepared, plan, settings, keep_history=False)
    known = known_with_rules(reference, calibrate(reference))
    x = sparse.csr_matrix(prepared[(prepared.obs["batch"] == plan.target).to_numpy()].X)
    annotated = model_annotate.annotate(reference.model, x, known, settings)
    return annotated.final, annotated.mode


def single_source(parameters: Parameters) -> Parameters:
    """Return the parameters with a single annotated batch: the source, or the batch with the most cell types, then cells."""
    plan = data_roles.make_plan(parameters, cells := data_cells.read_cells(parameters))
    source = plan.source or max(
        plan.annotated, key=lambda name: (len(plan.cells[name]), sum(plan.cells[name].values()))
    )
    others = [name for name in dict.fromkeys(cells["batch"].dropna()) if name not in (source, plan.target)]
    roles = {
        "SOURCE_DATASET_NAME": source,
        "INTER_DATASETS_NAMES": [],
        "EXCLUDE_DATASETS_NAMES": others,
        "TARGET_ERROR": None,
    }
    return parameters.model_copy(update=roles)


def combined(prepared: ad.AnnData, plan: Plan) -> tuple[ad.AnnData, Plan]:
    """Return the prepared cells and their plan with all annotated batches as one batch."""
    name = "all annotated batches"
    is_target = (prepared.obs["batch"] == plan.target).to_numpy()
    prepared = prepared.copy()
    prepared.obs["batch"] = pd.Categorical(np.where(is_target, plan.target, name), categories=[name, plan.target])
    return prepared, replace(plan, annotated=[name], source=name)


def per_10_000(prepared: ad.AnnData, plan: Plan) -> ad.AnnData:
    """Return the prepared cells with the total that other tools are made for, where METHOD `default` has another one."""
    scale = plan.preprocessing
    if scale is None or scale.total is None or not scale.rescaled:
        return prepared
    x = sparse.csr_matrix(prepared.X, copy=True)
    x.data = np.log1p(np.expm1(x.data.astype(np.float64)) * (COUNTS_PER_CELL / scale.total)).astype(np.float32)
    return ad.AnnData(x, prepared.obs, prepared.var)


def baseline_input(prepared: ad.AnnData, plan: Plan, parameters: Parameters) -> BaselineInput:
    """Return what a baseline works with."""
    is_target = (prepared.obs["batch"] == plan.target).to_numpy()
    annotated = prepared.obs[~is_target]
    return BaselineInput(
        x=sparse.csr_matrix(prepared.X[~is_target]),
        y=annotated["cell_type"].cat.codes.to_numpy().astype(np.int64),
        batch=annotated["batch"].astype(object).to_numpy(),
        target=sparse.csr_matrix(prepared.X[is_target]),
        target_batch=plan.target,
        classes=plan.classes,
        seed=parameters.SEED,
    )


def counts_of_features(parameters: Parameters, prepared: ad.AnnData) -> sparse.csr_matrix | None:
    """Return counts of the prepared features for scANVI: annotated cells, then the target's, (n + m, p).

    They are the file's own where a batch's values are counts; else the values per 10,000 and cell, rounded. None if
    the values have no linear scale.
    """
    cells = data_cells.read_cells(parameters)
    plan = data_roles.make_plan(parameters, cells)
    as_they_are = parameters.model_copy(update={"NORMALISATION": "as_is", "NUM_FEATURES": 2**62})
    raw = prepare.prepare(as_they_are, cells, plan)[:, prepared.var_names]
    are_counts = [row["batch"] for row in plan.values if row["value type"] == "counts"]
    if (values := sparse.csr_matrix(prepared.X)).data.min(initial=0) < 0:
        return None
    rounded = values.copy()
    rounded.data = np.rint(np.expm1(rounded.data))
    counted = raw.obs["batch"].isin(are_counts).to_numpy()
    joined = sparse.csr_matrix(raw.X).multiply(counted[:, None]) + rounded.multiply(~counted[:, None])
    is_target = (prepared.obs["batch"] == plan.target).to_numpy()
    return joined.tocsr()[np.argsort(is_target, kind="stable")]


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process so far, and of the processes it started and waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _peak() -> int:
    """Return the peak memory, in bytes, of this process, or of one that it started and waited for."""
    own, of_children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    status = Path("/proc/self/status")
    if status.exists():  # Linux, whose ru_maxrss starts at the memory of the parent process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        own = int(line.split()[1])
    return max(own, of_children) * (1 if sys.platform == "darwin" else 1024)  # a Mac counts bytes


def _main(job: Path, answer: Path) -> None:
    """Run one method in this process: read the job, write its predictions, or why it cannot run."""
    parameters, method = pickle.loads(job.read_bytes())
    problem, answered = "", None
    try:
        answered = annotate(parameters, method)
    except ModuleNotFoundError as error:
        problem = f"{method} needs pip install 'jind-nb[compare]' ({error})"
    except (InputError, ValueError) as error:
        problem = f"{method}: {error}"
    answer.write_bytes(pickle.dumps((problem, answered)))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
