"""Leave-one-batch-out: which annotated batches are left out of training together, and what is kept of each.

A batch left out whole tells what held-out cells of known batches cannot: how far probabilities can be believed, and how many
errors to expect, in a NEW batch. `annotate.leave_batches_out` annotates them; `calibration` draws the conclusions.
"""

from dataclasses import dataclass, field

import numpy as np

from ..core.subsample import subsample
from .fit import learn_intermediates, learn_source, richest
from .mixture import Weights
from .networks import Annotator
from .state import AlignmentMode, Annotated, Cells, KnownLatents, NoveltyLimit, Reference

MOST_LEFT_OUT = 9  # batches; nine promise nine in ten (calibration.py)
CELLS_OF_A_TRAINING = 20_000
CELLS_OF_A_BATCH = 2_500  # of a left-out one


@dataclass
class LeftOut:
    """The labelled cells of one annotated batch, annotated by a model that never saw the batch."""

    batch: str
    classes: list[str]
    y: np.ndarray  # int64 (n,), index into classes
    could_be_known: np.ndarray  # bool (n,): the model was trained on cells of the type
    members: dict[str, np.ndarray]  # alignment mode -> (n, M, K), each member's probabilities
    held_out: dict[str, np.ndarray]  # alignment mode -> (m, M, K), of cells held out of the batches it was trained on
    novelty: np.ndarray  # (n,), how unlike the training cells (`Method.novelty`)
    prior: Weights  # of the members, before any batch was left out
    is_new: bool = True  # False: cells held out of the only annotated batch stand in
    limit: NoveltyLimit = field(default_factory=lambda: NoveltyLimit(0.01, 0.0))
    rows: np.ndarray | None = None  # int (n,), where the cells are among the prepared ones
    dropped: float = (
        0.0  # share of the batch's labelled cells whose type no batch trains: they are not among the cells here
    )
    untrained: float = 0.0  # share of its labelled cells that are not among the cells here, those included

    @property
    def checked(self) -> float:
        """The share of the batch's labelled cells whose answers could be checked."""
        return (1 - self.untrained) * float(self.could_be_known.mean()) if len(self.y) else 0.0


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
        source = richest(kept)
    model = learn_source(kept, source, reference.classes, settings, reference.model.encoder)
    model.keeps_history = False
    learn_intermediates(model)
    return model


def subsample_left_out(cells: Cells, seed: int) -> Cells:
    """Return at most 2,500 of a left-out batch's cells, at random."""
    return cells.subset(subsample(len(cells.y), CELLS_OF_A_BATCH, seed))


def left_out_batch(name: str, cells: Cells, model: Reference, known: KnownLatents, annotated: Annotated) -> LeftOut:
    """Return what is kept of a left-out batch: its labels, and what each member said before and, where it was aligned, after
    that."""
    learned = np.concatenate([of_batch.y for of_batch in model.batches.values()])
    settings, method = model.settings, model.settings.method
    by_mode: dict[str, tuple[Annotator, np.ndarray]] = {
        AlignmentMode.UNALIGNED: (model.model, next(iter(annotated.latent.values())))
    }
    if len(annotated.stages) > 1:
        by_mode[annotated.mode] = (annotated.model, annotated.final_latent)
    return LeftOut(
        name,
        model.classes,
        cells.y,
        np.isin(cells.y, learned),
        {mode: method.members(by, latent, settings) for mode, (by, latent) in by_mode.items()},
        {mode: method.members_of_held_out(by, known, settings) for mode, (by, _) in by_mode.items()},
        annotated.novelty,
        method.prior_weights(),
        limit=method.NOVELTY,
        rows=cells.rows,
    )
