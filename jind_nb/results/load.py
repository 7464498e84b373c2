"""TODO."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..data.cells import read_target_labels
from ..model import hierarchy
from ..model.predictions import Predictions
from ..runs.folder import Run
from ..runs.stages import load_plan, load_prepared_obs, load_target, save_target
from .clusters import Clusters
from .tables import _n_before
from .target import TargetResult

if TYPE_CHECKING:
    from ..model.state import Annotated


def save_annotated(annotated: Annotated, run: Run) -> None:
    """Stage 3's result for stage 4: every stage's probabilities, thresholds and codes, which cells are unlike the
    reference, and the thresholds of parents."""
    arrays = {f"codes {stage}": latent for stage, latent in annotated.latent.items()}
    for stage, predictions in annotated.stages.items():
        arrays[f"probabilities {stage}"] = predictions.probabilities
        arrays[f"thresholds {stage}"] = predictions.thresholds
        if predictions.unlike is not None:
            arrays[f"unlike {stage}"] = predictions.unlike
    last, parents = list(annotated.stages.values())[-1], load_plan(run).parents
    story = {
        "stages": list(annotated.stages),
        "way": annotated.mode,
        "without evidence": last.without_evidence,
        "parent thresholds": hierarchy.parent_thresholds(last, parents) if parents else {},
    }
    save_target(run, arrays, story | {"curves": annotated.curves, "notes": annotated.notes})


def load_result(run: Run) -> TargetResult:
    """What stage 3 left, with the target's own labels, which are read here for the first time."""
    return _load(run, read_target_labels(run.parameters))


def finished_result(run: Run) -> TargetResult:
    """The same of a finished run, from its own folder alone: labels and clusters as its predictions have them."""
    table = pd.read_parquet(run.predictions_parquet)
    result = _load(run, table["labels"].to_numpy(dtype=object) if "labels" in table else None)
    if "cluster" in table.columns[: _n_before(table)]:
        columns = (table[name].to_numpy() for name in ("cluster", "cluster_majority", "cluster_share"))
        result.clusters = Clusters(*columns)
    return result


def _load(run: Run, labels: np.ndarray | None) -> TargetResult:
    arrays, story = load_target(run)
    plan = load_plan(run)
    classes = plan.classes
    stages = {
        stage: Predictions(
            classes, arrays[f"probabilities {stage}"], arrays[f"thresholds {stage}"], arrays.get(f"unlike {stage}")
        )
        for stage in story["stages"]
    }
    obs = load_prepared_obs(run)
    cells = obs.loc[obs["batch"] == run.parameters.TARGET_DATASET_NAME, "cell"].astype(str).to_numpy()
    last = story["stages"][-1]
    thresholds = story.get("parent thresholds", {})
    parents = plan.parents if thresholds else {}
    latent, unsupported = arrays[f"codes {last}"], story.get("without evidence", [])
    return TargetResult(stages, cells, latent, labels, story["way"], unsupported, parents, thresholds)
