"""The target, without its labels (method.md section 5): METHOD `reference` aligns it against a discriminator and trains on
its own confident predictions; METHOD `default` moves it, where left-out batches were annotated better for that."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor, nn

from ..core.progress import bar
from ..core.subsample import subsample
from . import projection
from .networks import Adapter, Annotator, Discriminator, Encoder, Head, LinearHeads, Projection
from .predictions import Predictions, Rule, class_thresholds
from .training import (
    LATER_RATE,
    MINIBATCH,
    Loss,
    Reference,
    Settings,
    accuracy_of,
    class_weights,
    codes_of,
    decode,
    encode,
    held_out_codes,
    hold_out,
    minibatches,
    plateau,
    set_seeds,
    train_epoch,  # fmt: skip
)

log = logging.getLogger(__name__)

# The ways to annotate a batch without labels.
SHARED = "shared"  # the shared encoder and head

ADAPTED = "aligned"  # after alignment (METHOD `reference`: and self-training) on the batch itself

WAYS = (SHARED, ADAPTED)

BEFORE, ALIGNED, SELF_TRAINED = ("before alignment", "after alignment", "after self-training")

PSEUDO_LABEL_THETA = 0.1

FEWEST_PSEUDO_LABELS = 10

SELF_TRAINING_MINIBATCH = 32

STEPS = 40  # of an epoch, unless the target has many minibatches

MANY_MINIBATCHES = 50

GOOD_LOSS = (0.5, 0.78)  # around ln 2, where neither side wins

PATIENCE = 7

MOST_CODES = 20_000  # of training cells, 1 kB each

MOST_COMPARED = 5_000  # training cells that a cell is compared with, all types together

FEWEST_OF_A_TYPE = 50


@dataclass
class KnownCodes:
    """Codes of annotated cells, each through its own batch's annotator: what alignment needs of the reference."""

    classes: list[str]
    batches: list[str]  # the source first
    codes: np.ndarray  # float32 (n, size), training cells
    batch: np.ndarray  # int64 (n,), index into batches
    y: np.ndarray  # int64 (n,), index into classes
    held_out: np.ndarray  # float32 (m, size), held-out cells: thresholds come from these
    counts: np.ndarray  # int64 (K,), annotated cells of each type, for the class weights
    rules: dict[str, Rule] = field(default_factory=dict)  # way to annotate -> what left-out batches taught
    way: str = SHARED  # that annotated left-out batches best
    why: str = "No annotated batch was left out to see whether alignment helps"
    near_held_out: np.ndarray | None = None  # training cells nearest each held-out one, once they were asked for

    def pooled(self, seed: int) -> np.ndarray:
        """Codes of annotated cells as alignment draws them: held-out cells in their share, also where only some of
        the training cells' codes were kept."""
        share = len(self.codes) / max(1, int(self.counts.sum()) - len(self.held_out))
        held_out = self.held_out[subsample(len(self.held_out), round(share * len(self.held_out)), seed)]
        return np.concatenate([self.codes, held_out])

    def of_held_out(self, model: Annotator, settings: Settings) -> np.ndarray:
        """The model's probabilities for the held-out cells, (m, K), as a batch's are given: METHOD `default` asks the nearest
        training cells too."""
        probabilities = decode(model.head, self.held_out, settings.device)
        if not isinstance(model.encoder, Projection):
            return probabilities
        if self.near_held_out is None:
            self.near_held_out = projection.neighbours(self.held_out, self.codes, settings.seed)
        training = decode(model.head, self.codes, settings.device)
        return projection.with_neighbours(probabilities, training, self.near_held_out)

    def novelty(self, codes: np.ndarray) -> np.ndarray:
        """How unlike the annotated cells each cell is: the cosine distance from its code to the fifth nearest training
        cell's, float (n,) in 0 to 2.

        METHOD `default` asks for moved codes (`move`), also where the target is not aligned: all cells are moved alike,
        so what is new stays apart, and a batch is not new as a whole. METHOD `reference` asks for codes before alignment,
        which there moves new cell types onto known ones. benchmarks/novelty.py compares scores. Of each type an equal
        number of training cells stands for it, so that a common type does not crowd out a rare one.
        """
        most = max(FEWEST_OF_A_TYPE, MOST_COMPARED // len(self.classes))
        rows = [np.flatnonzero(self.y == k) for k in np.unique(self.y)]
        chosen = np.concatenate([of_type[subsample(len(of_type), most, 0)] for of_type in rows])
        return np.maximum(0, 1 - projection.nearest(codes, self.codes[chosen], 5)[1][:, -1])

    def predict(self, model: Annotator, x: sparse.csr_matrix, settings: Settings) -> Predictions:
        """What the model says of cells (n, p), as the network gives it, with class-wise thresholds."""
        return self.judge(model, encode(model, x, settings.device), settings, Rule())

    def judge(
        self, model: Annotator, codes: np.ndarray, settings: Settings, rule: Rule, novelty: np.ndarray | None = None
    ) -> Predictions:
        """What the model's head and a rule make of the codes (n, size) of a batch's cells; METHOD `default` asks their
        neighbours too (`projection.with_neighbours`)."""
        probabilities = decode(model.head, codes, settings.device)
        if isinstance(model.encoder, Projection):
            near = projection.neighbours(codes, codes, settings.seed)
            probabilities = projection.with_neighbours(probabilities, probabilities, near)
        held_out = self.of_held_out(model, settings)
        return Predictions.by(rule, self.classes, probabilities, held_out, settings.theta, novelty)


def known_codes(reference: Reference) -> KnownCodes:
    """Codes of the annotated cells through their own batches' annotators; at most 20,000 training cells, at random."""
    names, n_classes = list(reference.batches), len(reference.classes)
    training = {name: np.flatnonzero(~cells.held_out) for name, cells in reference.batches.items()}
    batch = np.repeat(np.arange(len(names)), [len(training[name]) for name in names])
    rows = np.concatenate(list(training.values()))
    chosen = subsample(len(rows), MOST_CODES, reference.settings.seed)
    batch, rows = batch[chosen], rows[chosen]
    codes, y = [], []
    for i, (name, cells) in enumerate(reference.batches.items()):
        of_batch = rows[batch == i]
        codes.append(codes_of(reference, name, of_batch))
        y.append(cells.y[of_batch])
    counts = np.bincount(np.concatenate([cells.y for cells in reference.batches.values()]), minlength=n_classes)
    return KnownCodes(
        classes=reference.classes,
        batches=names,
        codes=np.concatenate(codes),
        batch=batch,
        y=np.concatenate(y),
        held_out=held_out_codes(reference),
        counts=counts,
    )


@dataclass
class Annotated:
    """The annotated target: the model that does it, every stage's predictions, and how it went."""

    model: Annotator
    stages: dict[str, Predictions]  # in order; the last is the answer
    codes: dict[str, np.ndarray]  # stage -> (n_target, size)
    novelty: np.ndarray  # (n_target,): `KnownCodes.novelty`
    way: str = SHARED  # in which the last stage was annotated
    curves: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@contextmanager
def _no_subnormal_numbers() -> Iterator[None]:
    """Weight decay shrinks idle weights below 1e-38, where x86 arithmetic is several times slower: taken as zero here.

    torch's threads take the setting over when they start, so the first step on the target is inside too.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@_no_subnormal_numbers()
def annotate(shared: Annotator, x: sparse.csr_matrix, known: KnownCodes, settings: Settings) -> Annotated:
    """The target as the annotated batches' model sees it, before any alignment.

    Parameters
    ----------
    shared
        The shared encoder and head, without an adapter.
    x
        The target's cells, float32 (n_target, p).
    """
    return annotate_codes(shared, encode(shared, x, settings.device), known, settings)


def annotate_codes(shared: Annotator, codes: np.ndarray, known: KnownCodes, settings: Settings) -> Annotated:
    """`annotate` for cells whose codes, float32 (n_target, size), are known already."""
    has_translation = isinstance(shared.encoder, Projection)
    moved = codes + translate(shared.head, codes, known, settings)[0] if has_translation else codes
    novelty = known.novelty(moved)
    first = known.judge(shared, codes, settings, known.rules.get(SHARED, Rule()), novelty)
    return Annotated(shared, {BEFORE: first}, {BEFORE: codes}, novelty)


def _steps(n_target: int, minibatch: int) -> int:
    minibatches = -(-n_target // minibatch)
    return minibatches if minibatches >= MANY_MINIBATCHES else STEPS


class _RunningLoss:
    """The mean loss since the epoch began; 0.7 before the first."""

    def __init__(self) -> None:
        self.total, self.n = 0.0, 0

    def add(self, loss: Tensor) -> None:
        self.total, self.n = self.total + loss.item(), self.n + 1

    @property
    def mean(self) -> float:
        return self.total / self.n if self.n else 0.7


class _Game:
    """The two players of adversarial alignment, their optimisers and one epoch of play."""

    def __init__(self, model: Annotator, adapter: Adapter, x: sparse.csr_matrix, codes: np.ndarray) -> None:
        self.model, self.adapter, self.codes = model, adapter, codes
        self.device, self.n_target = adapter.b.device, x.shape[0]
        self.target = minibatches(x, self.device)
        self.discriminator = Discriminator().to(self.device)
        self.minibatch = min(MINIBATCH, x.shape[0], len(codes))
        self.moves = torch.optim.RMSprop(model.train_only(adapter), lr=1e-4, alpha=0.99, weight_decay=1e-2)
        self.answers = torch.optim.RMSprop(self.discriminator.parameters(), lr=1e-4, alpha=0.99, weight_decay=1e-3)

    def _draw(self, n: int) -> np.ndarray:
        return torch.randint(n, (self.minibatch,)).numpy()

    def _target_codes(self) -> Tensor:
        return self.model.code(self.target(self._draw(self.n_target)))

    def _against(self, codes: Tensor, label: float) -> Tensor:
        logits = self.discriminator(codes)
        # Not the numerically safer loss of logits: a player that has lost for good is told by a loss of exactly 0.
        return F.binary_cross_entropy(torch.sigmoid(logits), torch.full_like(logits, label))

    def epoch(self) -> tuple[float, float]:
        """Plays one epoch; the mean losses of adapter and discriminator."""
        self.model.eval()
        adapter_loss, discriminator_loss = _RunningLoss(), _RunningLoss()
        for _ in range(_steps(self.n_target, self.minibatch)):
            codes = self._target_codes()
            loss = self._against(codes, 1.0)
            _step(self.moves, loss, adapter_loss.mean > 0.4)
            adapter_loss.add(loss)
            for again in (False, True):
                with torch.no_grad():
                    target = self._target_codes() if again else codes.detach()
                reference = torch.from_numpy(self.codes[self._draw(len(self.codes))]).to(self.device)
                loss = (self._against(reference, 1.0) + self._against(target, 0.0)) / 2
                _step(self.answers, loss, adapter_loss.mean < 0.8 or discriminator_loss.mean > 1.0)
                discriminator_loss.add(loss)
        return adapter_loss.mean, discriminator_loss.mean


def _step(optimiser: torch.optim.Optimizer, loss: Tensor, wanted: bool) -> None:
    if wanted:
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def align(annotated: Annotated, x: sparse.csr_matrix, known: KnownCodes, settings: Settings) -> None:
    """Gives the target its own adapter: adversarial in METHOD `reference`; in `default` a translation, unless annotated
    batches, left out and annotated both ways, were annotated no better for it. The method is the model's own, which for a
    saved model need not be the run's METHOD."""
    if not settings.align:
        annotated.notes.append("ALIGN is false: the target was not aligned.")
    elif isinstance(annotated.model.encoder, Encoder):
        play(annotated, x, known, settings)
    elif settings.always_aligns:
        move(annotated, x, known, settings)
    else:
        annotated.notes.append(f"{known.why}.")
        if known.way == ADAPTED:
            move(annotated, x, known, settings)


def move(annotated: Annotated, x: sparse.csr_matrix, known: KnownCodes, settings: Settings) -> None:
    """Moves all target codes alike, to where the annotated cells of the types that it is predicted to have lie."""
    b, curve = translate(annotated.model.head, annotated.codes[BEFORE], known, settings)
    annotated.curves += curve
    annotated.model = annotated.model.copy_with(projection.as_adapter(b).to(settings.device))
    spread = float(np.sqrt(known.codes.var(axis=0).sum()))
    how_far = float(np.linalg.norm(b)) / spread if spread > 0 else 0.0
    annotated.notes.append(f"The target was moved by {how_far:.2f} of the annotated cells' standard deviation.")
    _now(annotated, ALIGNED, x, known, settings)


def translate(
    head: Head | LinearHeads, codes: np.ndarray, known: KnownCodes, settings: Settings
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """By how much a batch's codes (n, size) are moved, float32 (size,), and by how much more in each round.

    Predicting and moving take turns, five times. Each type is compared with its own kind (`projection.translation`), so
    that a batch of another composition is not moved for it.
    """
    there = projection.type_means(known.codes, np.eye(len(known.classes))[known.y])
    b, curve = np.zeros(codes.shape[1]), []
    for i in range(projection.ROUNDS):
        shares = decode(head, (codes + b).astype(np.float32), settings.device)
        before, b = b, projection.translation(projection.type_means(codes, shares), there)
        curve.append({"stage": ALIGNED, "epoch": i + 1, "moved": float(np.linalg.norm(b - before))})
    return b.astype(np.float32), curve


@_no_subnormal_numbers()
def play(annotated: Annotated, x: sparse.csr_matrix, known: KnownCodes, settings: Settings) -> None:
    """Adversarial alignment: a fresh adapter learns to make target codes look like reference codes.

    Encoder and head are a frozen copy, all in evaluation mode. After an epoch in which neither side won, the target
    is predicted; kept are the weights with strictly the fewest Unassigned so far, the fresh adapter's to begin with.
    """
    set_seeds(settings.seed)
    adapter = Adapter(x.shape[1]).to(settings.device)
    model = annotated.model.copy_with(adapter)
    game = _Game(model, adapter, x, known.pooled(settings.seed))
    fewest = int(known.predict(model, x, settings).rejected.sum())
    kept, kept_epoch = copy.deepcopy(adapter.state_dict()), 0
    good = others_in_a_row = 0
    for epoch in bar(range(settings.epochs), "align the target", "epoch"):
        losses = game.epoch()
        point = {"stage": ALIGNED, "epoch": epoch + 1, "loss": losses[0], "discriminator_loss": losses[1]}
        if 0.0 in losses:
            adapter.restart()
            good = others_in_a_row = 0
        elif all(GOOD_LOSS[0] < loss < GOOD_LOSS[1] for loss in losses):
            good, others_in_a_row = good + 1, 0
            unassigned = int(known.predict(model, x, settings).rejected.sum())
            point["unassigned"] = unassigned
            if unassigned < fewest:
                fewest, kept, kept_epoch = (unassigned, copy.deepcopy(adapter.state_dict()), epoch + 1)
        else:
            others_in_a_row += 1
        annotated.curves.append(point)
        if good == PATIENCE or others_in_a_row == PATIENCE:
            break
    adapter.load_state_dict(kept)
    annotated.notes.append(
        f"Alignment kept epoch {kept_epoch} of {len(annotated.curves)}"
        + ("" if kept_epoch else " (the adapter before training)")
        + f": {fewest} of {x.shape[0]} cells Unassigned."
    )
    annotated.model = model
    _now(annotated, ALIGNED, x, known, settings)


def self_train(annotated: Annotated, x: sparse.csr_matrix, known: KnownCodes, settings: Settings) -> None:
    """Trains the copy's encoder and head on the target's own confident predictions, the adapter frozen.

    Confident is what passes theta 0.1. Kept: the epoch of best accuracy on a tenth of these cells, the latest on
    ties. Skipped with fewer than ten such cells, without alignment, and in METHOD `default`, where it brings nothing
    (benchmarks/README.md).
    """
    if not settings.align or not isinstance(annotated.model.encoder, Encoder):
        return
    model = annotated.model
    before = known.predict(model, x, settings)
    thresholds = class_thresholds(known.of_held_out(model, settings), PSEUDO_LABEL_THETA)
    sure = Predictions(known.classes, before.probabilities, thresholds)
    chosen = np.flatnonzero(~sure.rejected)
    if len(chosen) < FEWEST_PSEUDO_LABELS:
        annotated.notes.append(f"Self-training was skipped: only {len(chosen)} cells are confident enough.")
        return
    y = before.probabilities.argmax(axis=1)[chosen]
    aside = hold_out(y, 0.1, settings.seed)
    train, check = chosen[~aside], chosen[aside]
    weights = class_weights(np.repeat(np.arange(len(known.counts)), known.counts), len(known.classes))
    loss = Loss(weights, settings.device, SELF_TRAINING_MINIBATCH)
    set_seeds(settings.seed)
    shared = nn.ModuleList([model.encoder, model.head])
    optimiser = torch.optim.Adam(model.train_only(*shared), lr=LATER_RATE)
    rate = plateau(optimiser)
    best, kept = -np.inf, copy.deepcopy(shared.state_dict())
    for epoch in bar(range(settings.epochs), "self-training", "epoch"):
        mean_loss = train_epoch(model, x[train], y[~aside], optimiser, loss)
        rate.step(mean_loss)
        agreement = accuracy_of(model, x[check], y[aside], settings.device)
        if (agreement or 0.0) >= best:
            best, kept = agreement or 0.0, copy.deepcopy(shared.state_dict())
        annotated.curves.append(
            {"stage": SELF_TRAINED, "epoch": epoch + 1, "loss": mean_loss, "held_out_agreement": agreement}
        )
    shared.load_state_dict(kept)
    annotated.notes.append(f"Self-training used {len(chosen)} of {x.shape[0]} target cells.")
    _now(annotated, SELF_TRAINED, x, known, settings)


def notes_table(annotated: Annotated) -> pd.DataFrame:
    """What was done to align the target and why, in words."""
    return pd.DataFrame({"note": annotated.notes})


def _now(annotated: Annotated, stage: str, x: sparse.csr_matrix, known: KnownCodes, settings: Settings) -> None:
    """Enters what the model says now as a stage."""
    codes = annotated.codes[stage] = encode(annotated.model, x, settings.device)
    annotated.way = ADAPTED
    rule = known.rules.get(ADAPTED)
    if rule is None and SHARED in known.rules:
        rule = known.rules[SHARED]
        note = "The model's calibration was never measured after alignment; that without alignment is used."
        annotated.notes += [note] if note not in annotated.notes else []
    annotated.stages[stage] = known.judge(annotated.model, codes, settings, rule or Rule(), annotated.novelty)
    log.info("%s: %d of %d cells Unassigned", stage, annotated.stages[stage].rejected.sum(), x.shape[0])
