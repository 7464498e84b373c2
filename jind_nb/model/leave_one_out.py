"""Leave-one-batch-out: which annotated batches are left out of training together, and what is kept of each.

A batch left out whole tells what held-out cells of known batches cannot: how far probabilities can be believed, and how many
errors to expect, in a NEW batch. `annotate.leave_batches_out` annotates them; `calibration` draws the conclusions.
"""

from dataclasses import dataclass

import numpy as np

from ..core.subsample import subsample
from .fit import learn_intermediates, learn_source
from .predictions import Predictions
from .state import AlignmentMode, Annotated, Cells, Reference

MOST_LEFT_OUT = 9  # batches; nine promise nine in ten (calibration.py)
CELLS_OF_A_TRAINING = 20_000
CELLS_OF_A_BATCH = 5_000  # of a left-out one


@dataclass
class LeftOut:
    """The labelled cells of one annotated batch, annotated by a model that never saw the batch."""

    batch: str
    classes: list[str]
    y: np.ndarray  # int64 (n,), index into classes
    could_be_known: np.ndarray  # bool (n,): the model was trained on cells of the type
    probabilities: dict[str, np.ndarray]  # alignment mode -> (n, K), before calibration
    held_out: dict[str, np.ndarray]  # alignment mode -> (m, K), of cells held out of the batches it was trained on
    novelty: np.ndarray  # (n,), how unlike the training cells (`target.novelty`)


def folds(batches: list[str], most: int, seed: int) -> list[list[str]]:
    """Choose which batches are left out together: all, or nine drawn at random, in at most so many groups.

    >>> folds(["a", "b", "c"], 2, seed=0)
    [['a', 'c'], ['b']]
    """
    if len(batches) < 2:
        return []
    drawn = [batches[i] for i in subsample(len(batches), MOST_LEFT_OUT, seed)]
    return [drawn[i::most] for i in range(min(most, len(drawn)))]


def train_without(reference: Reference, group: list[str]) -> Reference:
    """Train on all annotated batches but those of the group, on at most 20,000 cells.

    An encoder that was computed without labels stays as it is. The source is the run's own or, where it is left out, the batch
    that covers most types, with most cells on ties.
    """
    settings = reference.settings
    kept = {name: cells for name, cells in reference.batches.items() if name not in group}
    batch = np.repeat(np.arange(len(kept)), [len(cells.y) for cells in kept.values()])
    chosen = subsample(len(batch), CELLS_OF_A_TRAINING, settings.seed)
    if len(chosen) < len(batch):
        first = np.searchsorted(batch, np.arange(len(kept)))
        kept = {
            name: cells.subset(chosen[batch[chosen] == i] - first[i]) for i, (name, cells) in enumerate(kept.items())
        }
        # A batch of a handful of cells may have lost all that it could be learned from.
        kept = {name: cells for name, cells in kept.items() if not cells.held_out.all()}
    source = reference.source
    if source not in kept:
        source = max(kept, key=lambda name: (len(np.unique(kept[name].y)), len(kept[name].y)))
    model = learn_source(kept, source, reference.classes, settings, reference.model.encoder)
    model.keeps_history = False
    learn_intermediates(model)
    return model


def subsample_left_out(cells: Cells, seed: int) -> Cells:
    """Return at most 5,000 of a left-out batch's cells, at random."""
    return cells.subset(subsample(len(cells.y), CELLS_OF_A_BATCH, seed))


def left_out_batch(name: str, cells: Cells, model: Reference, annotated: Annotated) -> LeftOut:
    """Return what is kept of a left-out batch: its labels, and its annotation before and, where it was aligned, after that."""
    learned = np.concatenate([of_batch.y for of_batch in model.batches.values()])
    stages = list(annotated.stages.values())
    by_mode: dict[str, Predictions] = {AlignmentMode.UNALIGNED: stages[0]} | (
        {annotated.mode: stages[-1]} if len(stages) > 1 else {}
    )
    return LeftOut(
        name,
        model.classes,
        cells.y,
        np.isin(cells.y, learned),
        {mode: predictions.probabilities for mode, predictions in by_mode.items()},
        {mode: predictions.held_out for mode, predictions in by_mode.items() if predictions.held_out is not None},
        annotated.novelty,
    )
