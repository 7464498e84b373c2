"""How the method does on a batch it never saw: annotated batches are left out of training and annotated as targets.

A batch held out whole tells what held-out cells of known batches cannot: how far probabilities can be believed, and
how many errors to expect, in a NEW batch. `calibration` draws the conclusions.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from .alignment import (
    ADAPTED,
    BEFORE,
    SHARED,
    WAYS,
    KnownCodes,
    align,
    annotate,
    known_codes,
    self_train,
)  # fmt: skip
from .data import sample
from .training import Cells, Reference, decode, learn_intermediates, learn_source

log = logging.getLogger(__name__)

FOLDS = 3  # trainings at most
BATCHES_OF_A_FOLD = 3  # left out together, annotated one by one; nine batches promise nine in ten (calibration.py)
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


def folds(batches: list[str], seed: int) -> list[list[str]]:
    """Which batches are left out together: each batch in turn where there are up to three, else up to nine drawn at
    random, in three groups.

    >>> folds(["a", "b"], seed=0)
    [['a'], ['b']]
    """
    if len(batches) < 2:
        return []
    drawn = [batches[i] for i in sample(len(batches), FOLDS * BATCHES_OF_A_FOLD, seed)]
    return [drawn[i::FOLDS] for i in range(min(FOLDS, len(drawn)))]


def leave_batches_out(reference: Reference) -> list[LeftOut]:
    """Annotates annotated batches by models trained without them.

    At most three trainings, each on at most 20,000 cells of all annotated batches but the one to three it leaves out.
    A left-out batch (at most 5,000 of its cells) is then treated just as the target is; alignment takes longest, so
    that only the first batch of each training is aligned, unless a TARGET_ERROR asks for all the evidence there is.
    With a single annotated batch its held-out cells stand in for a left-out batch.
    """
    names = list(reference.batches)
    groups = folds(names, reference.settings.seed)
    if not groups:
        return [_within(reference)]
    done = []
    for i, group in enumerate(groups):
        log.info("left out, training %d of %d: %s", i + 1, len(groups), ", ".join(group))
        model = _learn_without(reference, group)
        known = known_codes(model)
        aligned = group if reference.settings.target_error else group[:1]
        done += [_annotate(model, known, name, reference.batches[name], name in aligned) for name in group]
    return sorted(done, key=lambda left_out: names.index(left_out.batch))


def _part(cells: Cells, rows: np.ndarray) -> Cells:
    return Cells(cells.x[rows], cells.y[rows], cells.held_out[rows])


def _learn_without(reference: Reference, group: list[str]) -> Reference:
    """The method's training on all annotated batches but those of the group."""
    kept = {name: cells for name, cells in reference.batches.items() if name not in group}
    batch = np.repeat(np.arange(len(kept)), [len(cells.y) for cells in kept.values()])
    chosen = sample(len(batch), CELLS_OF_A_FOLD, reference.settings.seed)
    if len(chosen) < len(batch):
        first = np.searchsorted(batch, np.arange(len(kept)))
        kept = {
            name: _part(cells, chosen[batch[chosen] == i] - first[i]) for i, (name, cells) in enumerate(kept.items())
        }
        # A batch of a handful of cells may have lost all it could teach with.
        kept = {name: cells for name, cells in kept.items() if not cells.held_out.all()}
    # The run's own source, or where it is left out the batch that covers most types, with most cells on ties.
    source = reference.source
    if source not in kept:
        source = max(kept, key=lambda name: (len(np.unique(kept[name].y)), len(kept[name].y)))
    model = learn_source(kept, source, reference.classes, reference.settings)
    model.keeps_history = False
    learn_intermediates(model)
    return model


def _annotate(model: Reference, known: KnownCodes, name: str, cells: Cells, aligns: bool) -> LeftOut:
    """Annotates a left-out batch as the target is, its labels unread."""
    settings = model.settings
    cells = _part(cells, sample(len(cells.y), CELLS_OF_A_BATCH, settings.seed))
    annotated = annotate(model.model, cells.x, known, settings)
    probabilities = {SHARED: annotated.stages[BEFORE].probabilities}
    held_out = {SHARED: decode(model.model.head, known.held_out, settings.device)}
    if settings.align and aligns:
        align(annotated, cells.x, known, settings)
        self_train(annotated, cells.x, known, settings)
        probabilities[ADAPTED] = list(annotated.stages.values())[-1].probabilities
        held_out[ADAPTED] = decode(annotated.model.head, known.held_out, settings.device)
    learned = np.concatenate([learned.y for learned in model.batches.values()])
    return LeftOut(name, model.classes, cells.y, np.isin(cells.y, learned), probabilities, held_out, annotated.novelty)


def _within(reference: Reference) -> LeftOut:
    """The held-out cells of a single annotated batch, in place of a left-out one: the same batch, so an easier test."""
    name, cells = next(iter(reference.batches.items()))
    known = known_codes(reference)
    probabilities = decode(reference.model.head, known.held_out, reference.settings.device)
    everything = dict.fromkeys(WAYS if reference.settings.align else (SHARED,), probabilities)
    y = cells.y[cells.held_out]
    could_be_known = np.ones(len(y), dtype=bool)
    return LeftOut(name, reference.classes, y, could_be_known, everything, everything, known.novelty(known.held_out))
