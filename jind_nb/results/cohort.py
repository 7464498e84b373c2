"""Several targets in one run: what each is prepared and annotated with, and what is written for all of them together.

In METHOD `default` the features, the scale and the encoder are computed from the target's cells too, so each target learns
anew, in seconds, what it would learn in a run of its own. In METHOD `reference` and with a saved model all targets are
annotated by one model. A run with a single target passes through the same functions.
"""

from collections.abc import Sequence
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scipy import sparse

from ..core.files import read_json, whole_file, write_json
from ..data import prepare, roles
from ..data.cells import read_cells, read_target
from ..data.plan import Plan
from ..model import store
from ..model.annotate import METHODS, learn_and_annotate
from ..model.history import HELD_OUT, StageResult, without_training_cells
from ..model.networks import Annotator
from ..model.state import Annotated, KnownLatents, Settings
from ..runs.folder import Run
from ..runs.stages import finish_stage, is_done, load_training, model_folder, save_prepared, save_training
from .load import load_finished
from .tables import annotate_obs, joint_latent, joint_table
from .target import TargetResult
from .write import stage_rows, write_cells, write_predictions

MOST_ROWS_DRAWN = 500  # of confusion matrices: some seconds


def learns_alone(one: Run) -> bool:
    """Return whether this is one of several targets, with a model of its own."""
    p = one.parameters
    is_trained = p.PRETRAINED_MODEL_PATH is None
    return one.cohort is not None and is_trained and METHODS[p.METHOD].TARGET_IN_ENCODER


def prepare_target(one: Run, cells: pd.DataFrame, plan: Plan, prepared: ad.AnnData) -> tuple[Plan, ad.AnnData]:
    """Return the plan and the prepared cells of one of several targets.

    Parameters
    ----------
    cells
        As `read_cells` returns them for all targets.
    plan, prepared
        Of all targets together.
    """
    target = one.parameters.target
    if not learns_alone(one):
        others = [name for name in plan.targets if name != target]
        kept = prepared[~prepared.obs["batch"].isin(others).to_numpy()].copy()
        kept.obs.index = pd.RangeIndex(kept.n_obs).astype(str)
        return replace(plan, target=target, targets=[target]), kept
    own_cells = cells.copy()
    own = roles.make_plan(one.parameters, own_cells)
    return own, prepare.prepare(one.parameters, own_cells, own)


def save_prepared_targets(
    run: Run, cells: pd.DataFrame, plan: Plan, prepared: ad.AnnData, points: pd.DataFrame
) -> None:
    """Prepare each of several targets and write the result of stage 1 for it; do nothing for a single one.

    Parameters
    ----------
    points
        Of the picture of all targets together (`embedding.umap_of`).
    """
    drawn = pd.MultiIndex.from_frame(prepared.obs.iloc[points["row"]][["file", "row"]])
    for one in run.each_target if len(plan.targets) > 1 else []:
        one.folder.mkdir(parents=True, exist_ok=True)
        own, values = prepare_target(one, cells, plan, prepared)
        rows = pd.MultiIndex.from_frame(values.obs[["file", "row"]]).get_indexer(drawn)
        save_prepared(one, values, own, points.assign(row=rows)[rows >= 0])


def annotate_target(run: Run, prepared: ad.AnnData, plan: Plan, settings: Settings) -> tuple[Annotated, KnownLatents]:
    """Annotate a run's target with the model of stage 2, or one of several targets with a model of its own.

    Returns
    -------
    The annotated target, and the latents of annotated cells. What a model of its own learned is written for stage 4.
    """
    if learns_alone(run):
        alone = learn_and_annotate(prepared, plan, settings)
        of_modes = {mode: of_mode.to_json() for mode, of_mode in alone.calibrations.items()}
        save_training(run, alone.reference.record() | {"calibration": of_modes})
        return alone.annotated, alone.known
    model = model_folder(run)
    own = (run.cohort or run).models
    x = sparse.csr_matrix(prepared[(prepared.obs["batch"] == plan.target).to_numpy()].X)
    return store.annotate_with_model(model, x, settings, recall_own=model != own)


def save_target_model(run: Run, annotated: Annotated, prepared: ad.AnnData) -> None:
    """Write the target's weights: of a single target beside the model, of several into the folder of each."""
    model, target = model_folder(run), run.parameters.target
    if run.cohort is None:
        x = sparse.csr_matrix(prepared[(prepared.obs["batch"] == target).to_numpy()].X)
        store.save_target(run.models, annotated, target, x, model)
        return
    models = run.cohort.models
    if model != models and not (models / "model.json").exists():
        store.copy_model(model, models)
    store.write_card(models)
    store.save_target_alone(run.target_pth, annotated)


def shared_model(run: Run, result: TargetResult, n_features: int, device: torch.device) -> Annotator:
    """Return the encoder and the classifier that annotated the run's target, without its adapter."""
    if learns_alone(run):
        method, n_classes = METHODS[run.parameters.METHOD], len(result.final.classes)
        shape = n_features, n_classes, result.latent.shape[1]
        return store.load_target_alone(run.target_pth, method, *shape).to(device)
    return store.load_shared(model_folder(run), device)[0]


def stages_in_detail(run: Run, history: list[StageResult]) -> list[StageResult]:
    """Return the stages whose confusion matrices are drawn: all, on cells that they were not trained on, or only the target's and
    the last one of each annotated batch.

    The latter for one of several targets, which would have most in common, and for so many batches and types that drawing all would
    take longer than learning; where these too are too many, the batches of lowest accuracy are drawn.
    """
    unseen = without_training_cells(history)
    if run.cohort is None and _n_rows(unseen) <= MOST_ROWS_DRAWN:
        return unseen
    of_target = [result for result in history if result.batch == run.parameters.target]
    last = {result.batch: result for result in history if result.cells == HELD_OUT}
    worst = sorted(last.values(), key=lambda result: result.metrics["raw_accuracy"] or 0.0)
    while len(worst) > 1 and _n_rows(worst) > MOST_ROWS_DRAWN:
        worst.pop()
    drawn = {result.batch for result in worst}
    return [*(result for name, result in last.items() if name in drawn), *of_target]


def _n_rows(results: Sequence[StageResult]) -> int:
    return sum(len(result.truth) for result in results)


def finish_target(run: Run) -> None:
    """Note that one of several targets is done; after the last one, write what is for all of them together."""
    if run.cohort is None:
        return
    finish_stage(run, "4_evaluate")
    if all(is_done(one, "4_evaluate") for one in run.cohort.each_target):
        _write_joint(run.cohort)


def _write_joint(run: Run) -> None:
    """Write the tables of all targets below each other, their cells in one file, and their metrics."""
    each = {one.parameters.target: one for one in run.each_target}
    tables = {name: pd.read_parquet(one.predictions_parquet) for name, one in each.items()}
    joint = joint_table(tables)
    write_predictions(joint, run)
    results = {name: load_finished(one) for name, one in each.items()}
    cells = read_cells(run.parameters)
    order = np.argsort(np.concatenate([np.flatnonzero(cells["batch"] == name) for name in each]))
    adata = read_target(run.parameters, cells)
    classes = sorted({name for result in results.values() for name in result.final.classes})
    latent = joint_latent([result.latent for result in results.values()])
    annotate_obs(adata, joint.drop(columns="target").iloc[order], classes, latent[order])
    with whole_file(run.annotated_targets) as temporary:
        write_cells(temporary, adata)
    metrics = {name: read_json(one.metrics) for name, one in each.items()}
    stages = stage_rows([StageResult(**stage) for stage in load_training(run)["history"]])
    write_json(run.metrics, {"targets": {name: of["target"] for name, of in metrics.items()}, "stages": stages})
