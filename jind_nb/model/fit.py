"""Learning from the annotated batches, whatever the METHOD (docs/method_reference.md sections 2, 4 and 6).

reference = start(prepared, plan, settings)     # the source, named or chosen, and its classifier
learn_intermediates(reference)                  # each batch's adapter, and what all batches share
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scipy import sparse

from ..data.fingerprints import own_order
from ..data.plan import Plan
from ..errors import InputError
from . import checkpoint
from .history import HELD_OUT, TRAINED_ON, UNSEEN, stage_result
from .loop import hold_out
from .networks import Annotator, classify, encode
from .predictions import Predictions, class_thresholds
from .state import Cells, Reference, Settings, TrainingStage

log = logging.getLogger(__name__)

MOST_FOR_HISTORY = (
    5_000  # held-out cells that a stage's thresholds rest on: with hundreds of batches all would take minutes
)


def start(
    prepared: ad.AnnData,
    plan: Plan,
    settings: Settings,
    checkpoint_file: Path | None = None,
    *,
    keep_history: bool = True,
) -> Reference:
    """Train the source classifier on the source named in the plan, or on each candidate to choose one.

    Parameters
    ----------
    prepared, plan
        From `data.prepare` and `data.roles`.
    checkpoint_file
        Where a METHOD that takes long keeps what it has learned, and goes on from if it was interrupted.
    keep_history
        Whether to evaluate every stage on every batch.

    Returns
    -------
    A reference that has learned the source, or what an interrupted training had learned.

    Raises
    ------
    InputError
        If no batch is to be learned from.
    """
    if not plan.annotated:
        raise InputError("PRETRAINED_MODEL_PATH is set, so there is nothing to train: go on with 3_align.ipynb.")
    batches = {name: _cells_of(prepared, name, settings) for name in plan.annotated}
    encoder = settings.method.fit_encoder(sparse.csr_matrix(prepared.X), batches, settings)
    kept = None
    if checkpoint_file is not None and settings.method.KEEPS_CHECKPOINTS:
        kept = (checkpoint_file, checkpoint.key(prepared, plan, settings))
    stored = None if kept is None else checkpoint.read(*kept)
    if stored is not None:
        model = settings.method.empty_annotator(prepared.n_vars, len(plan.classes), 0, has_adapter=False)
        reference = _reference(batches, stored["source"], plan.classes, settings, model.to(settings.device))
        checkpoint.restore(reference, stored)
        reference.features, reference.checkpoint = list(prepared.var_names), kept
        reference.dropped, reference.untrained = plan.dropped_shares, plan.untrained_shares
        return reference
    candidates: list[dict[str, Any]] = []
    source = plan.source or richest(batches)
    if plan.source is None and len(batches) > 1 and settings.method.SOURCE_BY_TRIAL:
        target = sparse.csr_matrix(prepared.X[prepared.obs["batch"].isin(plan.targets).to_numpy()])
        source, candidates = choose_source(batches, target[own_order(target)], plan.classes, settings, encoder)
    reference = learn_source(batches, source, plan.classes, settings, encoder)
    reference.features, reference.candidates, reference.checkpoint = list(prepared.var_names), candidates, kept
    reference.dropped, reference.untrained = plan.dropped_shares, plan.untrained_shares
    reference.keeps_history = keep_history
    evaluate_batch(reference, source, TrainingStage.INITIAL)
    checkpoint.keep(reference)
    return reference


def _cells_of(prepared: ad.AnnData, batch: str, settings: Settings) -> Cells:
    """Return a batch's cells in an order of their own, so that nothing depends on how the file is sorted."""
    rows = (prepared.obs["batch"] == batch).to_numpy()
    x, y = sparse.csr_matrix(prepared.X[rows]), prepared.obs["cell_type"].cat.codes.to_numpy()[rows].astype(np.int64)
    order = own_order(x, y)
    held_out = hold_out(y[order], settings.held_out, settings.seed)
    return Cells(x[order], y[order], held_out, rows=np.flatnonzero(rows)[order])


def _as_source(cells: Cells, settings: Settings) -> Cells:
    """Return a batch's cells with as many held out as of a source."""
    return replace(cells, held_out=hold_out(cells.y, settings.method.SOURCE_HELD_OUT, settings.seed))


def _reference(
    batches: dict[str, Cells], source: str, classes: list[str], settings: Settings, model: Annotator
) -> Reference:
    others = {name: cells for name, cells in batches.items() if name != source}
    in_order = {source: _as_source(batches[source], settings)} | others
    return Reference(classes, settings, in_order, model, adapters={source: None})


def richest(batches: dict[str, Cells]) -> str:
    """Return the batch with the most cell types; on ties that with the most cells, then the first."""
    return max(batches, key=lambda name: (len(np.unique(batches[name].y)), len(batches[name].y)))


def learn_source(
    batches: dict[str, Cells],
    source: str,
    classes: list[str],
    settings: Settings,
    encoder: torch.nn.Module | None = None,
) -> Reference:
    """Return a reference that has learned the source and nothing else yet.

    Parameters
    ----------
    encoder
        What `Method.fit_encoder` gave.
    """
    cells = _as_source(batches[source], settings)
    model, curve = settings.method.fit_source(cells, len(classes), settings, encoder)
    reference = _reference(batches, source, classes, settings, model)
    reference.curves = [{"stage": TrainingStage.INITIAL, "batch": source, **point} for point in curve]
    return reference


def choose_source(
    batches: dict[str, Cells],
    target: sparse.csr_matrix,
    classes: list[str],
    settings: Settings,
    encoder: torch.nn.Module | None = None,
) -> tuple[str, list[dict[str, Any]]]:
    """Choose the candidate whose own classifier leaves fewest cells of the bare target Unassigned, the first on ties (section 6).

    Returns
    -------
    The name, and a row for each candidate: `batch`, `cell types`, `target cells Unassigned`.
    """
    n_types = {name: len(np.unique(cells.y)) for name, cells in batches.items()}
    unassigned: dict[str, int] = {}
    for name, cells in batches.items():
        own = _as_source(cells, settings)
        model, _ = settings.method.fit_source(own, len(classes), settings, encoder)

        def probabilities(x: sparse.csr_matrix, by: Annotator = model) -> np.ndarray:
            return classify(by.classifier, encode(by, x, settings.device), settings.device)

        thresholds = class_thresholds(probabilities(own.x[own.held_out]), settings.theta)
        unassigned[name] = int(Predictions(classes, probabilities(target), thresholds).rejected.sum())
        log.info("source candidate %s: %d target cells Unassigned", name, unassigned[name])
    rows = [
        {"batch": name, "cell types": n_types[name], "target cells Unassigned": unassigned[name]} for name in batches
    ]
    return min(unassigned, key=lambda name: unassigned[name]), rows


def learn_intermediates(reference: Reference) -> None:
    """Learn all that follows the source: each intermediate's adapter and what batches share, then what they share once more.

    A reference whose training was interrupted goes on with the first batch that it has not learned.
    """
    method = reference.settings.method
    for batch in reference.intermediates:
        if batch in reference.learned:
            continue
        evaluate_batch(reference, batch, TrainingStage.INITIAL)
        reference.adapters[batch] = method.fit_adapter(reference, batch)
        evaluate_batch(reference, batch, TrainingStage.ADAPT)
        for name in method.fit_jointly(reference, TrainingStage.FINETUNED, batch):
            evaluate_batch(reference, name, TrainingStage.FINETUNED)
        if batch == reference.intermediates[-1]:
            evaluate_batch(reference, reference.source, TrainingStage.FINETUNED)
        reference.learned.append(batch)
        checkpoint.keep(reference)
    method.fit_jointly(reference, TrainingStage.RETRAIN, "all annotated batches")
    if reference.intermediates:
        for batch in reference.batches:
            evaluate_batch(reference, batch, TrainingStage.RETRAIN)


def evaluate_batch(reference: Reference, batch: str, stage: TrainingStage) -> None:
    """Add to the history how the batch's annotator does now, training cells and held-out cells apart."""
    if not reference.keeps_history:
        return
    settings, cells, classifier = reference.settings, reference.batches[batch], reference.model.classifier
    held_out = classify(classifier, reference.held_out_latent(MOST_FOR_HISTORY), settings.device)
    thresholds = class_thresholds(held_out, settings.theta)
    probabilities = classify(classifier, reference.latent(batch, np.arange(len(cells.y))), settings.device)
    truth = np.array(reference.classes, dtype=object)[cells.y]
    if batch not in reference.adapters:
        groups = {UNSEEN: np.ones(len(truth), dtype=bool)}
    else:
        groups = {HELD_OUT: cells.held_out, TRAINED_ON: ~cells.held_out}
    for which, rows in groups.items():
        if rows.any():
            predictions = Predictions(reference.classes, probabilities[rows], thresholds)
            result = stage_result(batch, stage, which, truth[rows], predictions)
            reference.history.append(result)
            log.info(
                "%s, %s: raw accuracy %.3f, rejected %d of %d %s",
                batch, stage, result.metrics["raw_accuracy"], result.metrics["rejected"], rows.sum(), which,
            )  # fmt: skip


def candidates_table(reference: Reference, plan: Plan) -> pd.DataFrame:
    """Return how the source was chosen; one row where there was no choice."""
    why = "it has the most cell types, and of batches with as many, the most cells"
    if plan.source:
        why = "named in SOURCE_DATASET_NAME"
    elif len(plan.annotated) == 1:
        why = "the only annotated batch"
    rows = reference.candidates or [{"batch": reference.source, "why": why}]
    return pd.DataFrame(rows).set_index("batch")
