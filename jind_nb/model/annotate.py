"""The one sequence that notebooks, Python API, comparison, left-out batches and tests follow, whatever the METHOD.

settings = settings_of(parameters)
reference = train(prepared, plan, settings)           # learn from the annotated batches
calibrations = calibrate(reference)                   # leave them out in turn: what are probabilities worth in a new batch?
known = known_with_rules(reference, calibrations)     # what annotating a target needs of them
annotated = annotate(reference.model, x, known, settings)
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import anndata as ad
import torch
from scipy import sparse

from ..core.parameters import Parameters
from ..core.progress import bar
from ..data.plan import Plan
from . import default, reference
from .calibration import Calibration, alignment_in_words, calibrate_modes, suspect_labels, tells_a_limit
from .fit import learn_intermediates, start
from .leave_one_out import LeftOut, folds, left_out_batch, subsample_left_out, train_without
from .networks import Annotator
from .new_types import Profiles
from .state import AlignmentMode, Annotated, KnownLatents, Method, Reference, Settings
from .target import align, annotate_before_alignment, annotate_latent, in_own_order, known_latents, look_for_doublets

log = logging.getLogger(__name__)


# The only place that asks which METHOD.
METHODS: dict[str, Method] = {method.NAME: method for method in (default, reference)}


def settings_of(parameters: Parameters) -> Settings:
    """Return what METHOD and the other parameters fix for every step; a GPU if USE_GPU and there is one."""
    method, device = METHODS[parameters.METHOD], device_of(parameters)
    log.info("computing on %s%s", device.type, " (no GPU found)" if parameters.USE_GPU and device.type == "cpu" else "")
    return Settings(
        method=method,
        seed=parameters.SEED,
        epochs=parameters.EPOCHS,
        theta=parameters.REJECTION,
        align=parameters.aligns,
        always_align=method.ALWAYS_ALIGNS or parameters.ALIGN is True,
        calibrate=method.ALWAYS_CALIBRATES or parameters.TARGET_ERROR is not None,
        target_error=parameters.TARGET_ERROR,
        doublets=parameters.DOUBLETS,
        device=device,
    )


def device_of(parameters: Parameters) -> torch.device:
    """Return what this process computes on: a GPU if USE_GPU and there is one, else the CPU."""
    if not parameters.USE_GPU:
        return torch.device("cpu")
    return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")


def train(
    prepared: ad.AnnData,
    plan: Plan,
    settings: Settings,
    checkpoint_file: Path | None = None,
    *,
    keep_history: bool = True,
) -> Reference:
    """Learn from all annotated batches: the source first, then the intermediates.

    Parameters
    ----------
    prepared, plan
        From `data.prepare` and `data.roles`.
    checkpoint_file
        Where a METHOD that takes long keeps what it has learned after each batch, and goes on from if it was interrupted.
    keep_history
        Whether to evaluate every stage on every batch.
    """
    reference = start(prepared, plan, settings, checkpoint_file, keep_history=keep_history)
    learn_intermediates(reference)
    return reference


def calibrate(reference: Reference) -> dict[str, Calibration]:
    """Return, for each alignment mode, what left-out annotated batches taught; nothing where the METHOD leaves none out."""
    if not reference.settings.calibrate:
        return {}
    left_out = leave_batches_out(reference)
    calibrations = calibrate_modes(left_out, reference.settings, len(reference.batches))
    reference.suspects = suspect_labels(left_out, calibrations)
    if not calibrations:
        return {}
    rule = next(iter(calibrations.values())).rule  # of either mode: novelty does not depend on it
    settings = reference.settings
    noticed = settings.method.hide_types(reference.model, known_latents(reference), rule, settings)
    return {mode: replace(of_mode, noticed=noticed) for mode, of_mode in calibrations.items()}


def known_with_rules(reference: Reference, calibrations: Mapping[str, Calibration]) -> KnownLatents:
    """Return the latents of annotated cells with the rules that left-out batches taught: `calibrate` hands them over here."""
    known = known_latents(reference)
    if reference.settings.method.NOVELTY.by_profiles:
        known.profiles = Profiles.of([(cells.x, cells.y) for cells in reference.batches.values()])
    known.rules = {mode: calibration.rule for mode, calibration in calibrations.items()}
    known.mode = AlignmentMode.ALIGNED if AlignmentMode.ALIGNED in calibrations else AlignmentMode.UNALIGNED
    known.why = alignment_in_words(calibrations)
    return known


def annotate(model: Annotator, x: sparse.csr_matrix, known: KnownLatents, settings: Settings) -> Annotated:
    """Annotate a batch without labels, float32 (n, p): by the annotated batches' model, then after alignment."""

    def in_this_order(x: sparse.csr_matrix) -> Annotated:
        annotated = annotate_before_alignment(model, x, known, settings)
        align(annotated, x, known, settings)
        look_for_doublets(annotated, x, settings)
        return annotated

    return in_own_order(x, in_this_order)


@dataclass(frozen=True)
class WholeSequence:
    """What the whole sequence gives for one target."""

    reference: Reference
    calibrations: dict[str, Calibration]
    known: KnownLatents
    annotated: Annotated


def learn_and_annotate(
    prepared: ad.AnnData, plan: Plan, settings: Settings, *, keep_history: bool = True
) -> WholeSequence:
    """Follow the whole sequence for one target.

    Parameters
    ----------
    prepared, plan
        From `data.prepare` and `data.roles`, of this target alone.
    keep_history
        Whether to evaluate every stage on every batch.
    """
    reference = train(prepared, plan, settings, keep_history=keep_history)
    calibrations = calibrate(reference)
    known = known_with_rules(reference, calibrations)
    x = sparse.csr_matrix(prepared[prepared.obs["batch"].isin(plan.targets).to_numpy()].X)
    return WholeSequence(reference, calibrations, known, annotate(reference.model, x, known, settings))


def leave_batches_out(reference: Reference) -> list[LeftOut]:
    """Annotate annotated batches by models trained without them, as the target is annotated, without alignment and with it.

    Up to nine batches are left out, in as many trainings as the METHOD can afford. With a single annotated batch its held-out
    cells stand in for a left-out batch.
    """
    return _with_limit(_leave_batches_out(reference), reference)


def _leave_batches_out(reference: Reference) -> list[LeftOut]:
    names, seed = list(reference.batches), reference.settings.seed
    groups = folds(names, reference.settings.method.MOST_TRAININGS, seed)
    if not groups:
        return [_held_out_cells(reference)]
    settings, left_out = replace(reference.settings, always_align=True, doublets=False), []
    for i, group in enumerate(bar(groups, "annotated batches left out", "training")):
        log.info("left out, training %d of %d: %s", i + 1, len(groups), ", ".join(group))
        model = train_without(reference, group)
        known = known_latents(model)
        for name in group:
            cells = subsample_left_out(reference.batches[name], seed)
            annotated = annotate(model.model, cells.x, known, settings)
            left_out.append(left_out_batch(name, cells, model, known, annotated))
    by_name = {batch.batch: _with_unchecked(batch, reference) for batch in left_out}
    return [by_name[name] for name in names if name in by_name]


def _with_limit(left_out: list[LeftOut], reference: Reference) -> list[LeftOut]:
    """Return left-out batches that know the limit of novelty for where no batch can tell it; so one that can needs it, too: it is
    judged by the others."""
    if sum(tells_a_limit(batch) for batch in left_out) > 1:
        return left_out
    limit = reference.settings.method.limit_alone(reference.model, known_latents(reference), reference.settings)
    return [replace(batch, limit=limit) for batch in left_out]


def _with_unchecked(batch: LeftOut, reference: Reference) -> LeftOut:
    """Return a left-out batch that knows how many of its labelled cells no model could have been right about."""
    name = batch.batch
    return replace(batch, dropped=reference.dropped.get(name, 0.0), untrained=reference.untrained.get(name, 0.0))


def _held_out_cells(reference: Reference) -> LeftOut:
    """Return the held-out cells of a single annotated batch, in place of a left-out one: the same batch, so an easier test.

    They lie where the annotated cells are, so alignment would change nothing: they say the same of both modes.
    """
    name, cells = next(iter(reference.batches.items()))
    known, settings = known_latents(reference), reference.settings
    held_out = annotate_latent(reference.model, known.held_out, known, settings)
    alone = left_out_batch(name, cells.subset(cells.held_out), reference, known, held_out)
    modes = list(AlignmentMode) if settings.align else [AlignmentMode.UNALIGNED]
    (members,), (of_held_out,) = alone.members.values(), alone.held_out.values()
    return replace(
        _with_unchecked(alone, reference),
        members=dict.fromkeys(modes, members),
        held_out=dict.fromkeys(modes, of_held_out),
        is_new=False,
    )
