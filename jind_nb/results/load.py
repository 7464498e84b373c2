"""Read what stage 3 left in a run's folder about the target."""

import numpy as np
import pandas as pd

from ..core.files import read_json
from ..data.cells import read_target_labels
from ..model.predictions import Predictions
from ..runs.folder import Run
from ..runs.stages import load_plan, load_prepared_obs, load_target
from . import new_groups
from .clusters import Clusters
from .tables import CLUSTER_COLUMNS, n_before_probabilities
from .target import TargetResult, with_types


def load_result(run: Run) -> TargetResult:
    """Read stage 3's result and the target's own labels, which no earlier stage reads."""
    return _load(run, read_target_labels(run.parameters))


def load_finished(run: Run) -> TargetResult:
    """Read a finished run's result from its own folder alone, labels and clusters from its predictions."""
    table = pd.read_parquet(run.predictions_parquet)
    result = _load(run, table["labels"].to_numpy(dtype=object) if "labels" in table else None)
    result.groups = new_groups.from_json(read_json(run.metrics)["target"].get("unlike_groups", []))
    if "cluster" in table.columns[: n_before_probabilities(table)]:
        result.clusters = Clusters(*(table[name].to_numpy() for name in CLUSTER_COLUMNS))
    return result


def _load(run: Run, labels: np.ndarray | None) -> TargetResult:
    (arrays, record), plan, obs = load_target(run), load_plan(run), load_prepared_obs(run)
    stages = {
        stage: Predictions(
            plan.classes,
            arrays[f"probabilities {stage}"],
            arrays[f"thresholds {stage}"],
            arrays.get(f"unlike {stage}"),
            borrows=record.get("borrows", False),
            empty=arrays.get(f"empty {stage}"),
            doublet=arrays.get(f"doublet {stage}"),
        )
        for stage in record["stages"]
    }
    thresholds = record.get("parent thresholds", {})
    result = TargetResult(
        stages,
        cells=obs.loc[obs["batch"] == plan.target, "cell"].astype(str).to_numpy(),
        latent=arrays[f"codes {record['stages'][-1]}"],
        labels=labels,
        mode=record["way"],
        without_evidence=record.get("without evidence", []),
        parents=plan.parents if thresholds else {},
        parent_thresholds=thresholds,
        coarser=plan.coarser if thresholds else (),
        coarser_thresholds=record.get("coarser thresholds", ()),
        ontology=plan.ontology,
        doublet_scores=arrays.get("doublet scores"),
    )
    return with_types(result, run.parameters.TYPES)
