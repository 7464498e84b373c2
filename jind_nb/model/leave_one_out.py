"""How the method does on a batch it never saw: annotated batches are left out of training and annotated as targets.

A batch held out whole tells what held-out cells of known batches cannot: how far probabilities can be believed, and
how many errors to expect, in a NEW batch. `calibration` draws the conclusions.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np

from ..core.progress import bar
from ..core.subsample import subsample
from .alignment import (
    ADAPTED,
    BEFORE,
    SHARED,
    WAYS,
    KnownCodes,
    align,
    annotate,
    known_codes,
    self_train,  # fmt: skip
)
from .networks import Projection
from .training import Cells, Reference, learn_intermediates, learn_source

log = logging.getLogger(__name__)

MOST_LEFT_OUT = 9  # batches; nine promise nine in ten (calibration.py)

FOLDS = 3  # trainings at most in METHOD `reference`, where one takes long

CELLS_OF_A_FOLD = 20_000

CELLS_OF_A_BATCH = 5_000  # of a left-out one


@dataclass
class LeftOut:
    """The labelled cells of one annotated batch, annotated by a model that never saw the batch."""

    batch: str
    classes: list[str]
    y: np.ndarray  # int64 (n,), index into classes
    could_be_known: np.ndarray  # bool (n,): the model was trained on cells of the type
    probabilities: dict[str, np.ndarray]  # way -> (n, K), as the network gives them
    held_out: dict[str, np.ndarray]  # way -> (m, K), of cells held out of the batches it was trained on
    novelty: np.ndarray  # (n,), how unlike the training cells (`KnownCodes.novelty`)


def folds(batches: list[str], most: int, seed: int) -> list[list[str]]:
    """Which batches are left out together: all, or nine drawn at random, in at most so many groups.

    >>> folds(["a", "b", "c"], 2, seed=0)
    [['a', 'c'], ['b']]
    """
    if len(batches) < 2:
        return []
    drawn = [batches[i] for i in subsample(len(batches), MOST_LEFT_OUT, seed)]
    return [drawn[i::most] for i in range(min(most, len(drawn)))]


def leave_batches_out(reference: Reference) -> list[LeftOut]:
    """Annotates annotated batches by models trained without them.

    METHOD `default` leaves up to nine batches out, one at a time. METHOD `reference` trains at most three times, without
    one to three batches each. A training is on at most 20,000 cells; a left-out batch (at most 5,000 of its cells) is then
    treated just as the target is. The encoder of METHOD `default` stays: it has never seen a label. With a single
    annotated batch its held-out cells stand in for a left-out batch.
    """
    names = list(reference.batches)
    groups = folds(names, FOLDS if reference.settings.is_reference else MOST_LEFT_OUT, reference.settings.seed)
    if not groups:
        return [_within(reference)]
    done = []
    for i, group in enumerate(bar(groups, "annotated batches left out", "training")):
        log.info("left out, training %d of %d: %s", i + 1, len(groups), ", ".join(group))
        model = learn_without(reference, group)
        known = known_codes(model)
        done += [_annotate(model, known, name, reference.batches[name]) for name in group]
    return sorted(done, key=lambda left_out: names.index(left_out.batch))


def learn_without(reference: Reference, group: list[str]) -> Reference:
    """The method's training on all annotated batches but those of the group."""
    kept = {name: cells for name, cells in reference.batches.items() if name not in group}
    batch = np.repeat(np.arange(len(kept)), [len(cells.y) for cells in kept.values()])
    chosen = subsample(len(batch), CELLS_OF_A_FOLD, reference.settings.seed)
    if len(chosen) < len(batch):
        first = np.searchsorted(batch, np.arange(len(kept)))
        kept = {name: cells.of(chosen[batch[chosen] == i] - first[i]) for i, (name, cells) in enumerate(kept.items())}
        # A batch of a handful of cells may have lost all it could teach with.
        kept = {name: cells for name, cells in kept.items() if not cells.held_out.all()}
    # The run's own source, or where it is left out the batch that covers most types, with most cells on ties.
    source = reference.source
    if source not in kept:
        source = max(kept, key=lambda name: (len(np.unique(kept[name].y)), len(kept[name].y)))
    encoder = reference.model.encoder if isinstance(reference.model.encoder, Projection) else None
    model = learn_source(kept, source, reference.classes, reference.settings, encoder)
    model.keeps_history = False
    learn_intermediates(model)
    return model


def _annotate(model: Reference, known: KnownCodes, name: str, cells: Cells) -> LeftOut:
    """Annotates a left-out batch as the target is, its labels unread; without alignment and with it."""
    settings = replace(model.settings, always_aligns=True)
    cells = cells.of(subsample(len(cells.y), CELLS_OF_A_BATCH, settings.seed))
    annotated = annotate(model.model, cells.x, known, settings)
    said = {SHARED: annotated.stages[BEFORE]}
    if settings.align:
        align(annotated, cells.x, known, settings)
        self_train(annotated, cells.x, known, settings)
        said[ADAPTED] = list(annotated.stages.values())[-1]
    learned = np.concatenate([learned.y for learned in model.batches.values()])
    return LeftOut(
        name,
        model.classes,
        cells.y,
        np.isin(cells.y, learned),
        {way: predictions.probabilities for way, predictions in said.items()},
        {way: predictions.held_out for way, predictions in said.items() if predictions.held_out is not None},
        annotated.novelty,
    )


def _within(reference: Reference) -> LeftOut:
    """The held-out cells of a single annotated batch, in place of a left-out one: the same batch, so an easier test."""
    name, cells = next(iter(reference.batches.items()))
    known = known_codes(reference)
    settings, ways = reference.settings, WAYS if reference.settings.align else (SHARED,)
    of_held_out = known.of_held_out(reference.model, settings)
    y = cells.y[cells.held_out]
    could_be_known = np.ones(len(y), dtype=bool)
    novelty = known.novelty(known.held_out)
    return LeftOut(
        name,
        reference.classes,
        y,
        could_be_known,
        dict.fromkeys(ways, of_held_out),
        dict.fromkeys(ways, of_held_out),
        novelty,
    )
