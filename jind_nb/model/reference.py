"""METHOD `reference`: JIND-Multi as published, all of it in this file (docs/method_reference.md, whose sections are cited).

1. Source (section 2). An encoder and a classifier are trained on the source's cells: `fit_source`.
2. Intermediates (section 4). Each gets an adapter in front of encoder and classifier, which stay as they are: `fit_adapter`.
   Then encoder and classifier are trained on all batches so far, the adapters as they are; and, after the last batch, once
   more: `fit_jointly`.
3. Target (section 5). It gets an adapter whose latents a discriminator cannot tell from annotated cells': `align`. Then
   encoder and classifier are trained on the target's own confident predictions.

Thresholds (section 3) are in `predictions`, the choice of the source (section 6) in `fit`, the training loop in `loop`.

References: Goyal et al. 2022 (JIND), doi 10.1093/bioinformatics/btac140; Sancho-Zamora et al. 2025 (JIND-Multi), doi
10.1016/j.csbj.2025.06.043.
"""

import copy
import logging
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor, nn

from ..core.progress import bar
from .loop import MINIBATCH, Loss, accuracy, class_weights, hold_out, minibatches, plateau, set_seeds, train_epoch
from .mixture import Weights
from .neighbours import Neighbours
from .networks import Annotator, classify, encode, no_subnormal_numbers
from .predictions import Predictions, Rule, class_thresholds
from .state import Annotated, Cells, KnownLatents, NoveltyLimit, Reference, Settings, TargetStage, TrainingStage
from .target import add_stage, by_nearest, predict

log = logging.getLogger(__name__)

NAME = "reference"
ALIGNS_LATENTS = False
SOURCE_HELD_OUT = 0.2
TARGET_IN_ENCODER = False
SOURCE_BY_TRIAL = True
ALWAYS_ALIGNS = True
ALWAYS_CALIBRATES = False
MOST_TRAININGS = 3  # one takes long
NOVELTY = NoveltyLimit(0.01, 0.0)
KEEPS_CHECKPOINTS = True

LATENT = 256
ADAPTER_HIDDEN = 512
SOURCE_RATE = 1e-3
LATER_RATE = 1e-4
PSEUDO_LABEL_THETA = 0.1
FEWEST_PSEUDO_LABELS = 10
SELF_TRAINING_MINIBATCH = 32
STEPS = 40  # of an epoch of alignment, unless the target has many minibatches
MANY_MINIBATCHES = 50
BALANCED_LOSS = (0.5, 0.78)  # around ln 2, where neither side wins
PATIENCE = 7


# --- the networks --------------------------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """Linear(p -> 256), dropout 0.2, then multiplicative Gaussian noise; the last two in training mode only.

    Maps float32 (n, p) to latents float32 (n, 256).
    """

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_features, LATENT)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        latent: Tensor = self.dropout(self.linear(x))
        if self.training:
            latent = latent + 0.2 * latent.detach() * torch.randn_like(latent)
        return latent


class Classifier(nn.Sequential):
    """ReLU, Linear(256 -> 256), ReLU, Linear(256 -> K): latents (n, 256) to logits (n, K); the softmax is the caller's."""

    def __init__(self, n_classes: int) -> None:
        super().__init__(nn.ReLU(), nn.Linear(LATENT, LATENT), nn.ReLU(), nn.Linear(LATENT, n_classes))


class Adapter(nn.Module):
    """A batch's own way into the common latent space: with x' = x + b and r = encoder(x'), f(x') + r * (1 + g(x')).

    Maps (n, p) to (n, 256). A fresh adapter is not the identity: f and g start from torch's defaults, b from zero.
    """

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.f = _perceptron(n_features)
        self.g = _perceptron(n_features)
        self.b = nn.Parameter(torch.zeros(n_features))

    def forward(self, x: Tensor, encoder: nn.Module) -> Tensor:
        x = x + self.b
        latent: Tensor = self.f(x) + encoder(x) * (1 + self.g(x))
        return latent

    def restart(self) -> None:
        """Draw f and g anew, in place; b stays."""
        for layer in [*self.f, *self.g]:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()


def _perceptron(n_features: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(n_features, ADAPTER_HIDDEN),
        nn.ReLU(),
        nn.Linear(ADAPTER_HIDDEN, ADAPTER_HIDDEN),
        nn.ReLU(),
        nn.Linear(ADAPTER_HIDDEN, LATENT),
    )


class Discriminator(nn.Sequential):
    """Tells reference latents from target latents: (n, 256) to the logit (n, 1) of being a reference cell's."""

    def __init__(self) -> None:
        super().__init__(
            nn.Linear(LATENT, 512),
            nn.LeakyReLU(0.2),
            nn.Linear(512, 256),
            nn.LeakyReLU(0.2),
            nn.Linear(256, 256),
            nn.LeakyReLU(0.2),
            nn.Linear(256, 1),
        )


def empty_annotator(n_features: int, n_classes: int, n_latent: int, has_adapter: bool) -> Annotator:
    """Return an annotator of untrained networks, to load weights into."""
    adapter = Adapter(n_features) if has_adapter else None
    return Annotator(Encoder(n_features), Classifier(n_classes), adapter)


# --- 1. the source ---------------------------------------------------------------------------------------------------------


def fit_encoder(x: sparse.csr_matrix, batches: dict[str, Cells], settings: Settings) -> None:
    """Return nothing: here the encoder is trained with the labels of the source."""


def fit_source(
    cells: Cells, n_classes: int, settings: Settings, encoder: nn.Module | None = None
) -> tuple[Annotator, list[dict[str, Any]]]:
    """Train encoder and classifier on the source (section 2); keep the epoch of best held-out accuracy, the earliest on ties.

    Where no type is large enough to hold cells out, keep the epoch of lowest training loss.
    """
    loss = Loss(class_weights(cells.y, n_classes), settings.device)
    set_seeds(settings.seed)
    model = Annotator(Encoder(cells.x.shape[1]), Classifier(n_classes)).to(settings.device)
    optimiser = torch.optim.Adam(model.parameters(), lr=SOURCE_RATE)
    rate = plateau(optimiser)
    x, y = cells.x[~cells.held_out], cells.y[~cells.held_out]
    curve: list[dict[str, Any]] = []
    best, kept = -np.inf, copy.deepcopy(model.state_dict())
    for epoch in bar(range(settings.epochs), "source classifier", "epoch"):
        mean_loss = train_epoch(model, x, y, optimiser, loss)
        rate.step(mean_loss)
        held_out_accuracy = accuracy(model, cells.x[cells.held_out], cells.y[cells.held_out], settings.device)
        score = -mean_loss if held_out_accuracy is None else held_out_accuracy
        if score > best:
            best, kept = score, copy.deepcopy(model.state_dict())
        curve.append({"epoch": epoch + 1, "loss": mean_loss, "held_out_accuracy": held_out_accuracy})
    model.load_state_dict(kept)
    return model, curve


# --- 2. the intermediates ----------------------------------------------------------------------------------------------------


def fit_adapter(reference: Reference, batch: str) -> Adapter:
    """Train a batch's adapter (section 4, `adapt`), encoder and classifier frozen but in training mode.

    Used are the batch's cells of the types that the classifier has been trained on, held-out ones left out; kept is the epoch
    of lowest mean loss, the latest on ties.
    """
    settings, cells = reference.settings, reference.batches[batch]
    weights = _pooled_weights(reference)
    usable = ~cells.held_out & (weights[cells.y] > 0)
    set_seeds(settings.seed)
    adapter = Adapter(cells.x.shape[1]).to(settings.device)
    model = Annotator(reference.model.encoder, reference.model.classifier, adapter)
    optimiser = torch.optim.Adam(model.train_only(adapter), lr=LATER_RATE)
    rate, loss = plateau(optimiser), Loss(weights, settings.device)
    x, y = cells.x[usable], cells.y[usable]
    if not len(y):
        log.info("%s has only cell types not learned yet: its adapter stays as it was drawn", batch)
    lowest, kept = np.inf, copy.deepcopy(adapter.state_dict())
    for epoch in bar(range(settings.epochs if len(y) else 0), f"adapt {batch}", "epoch"):
        mean_loss = train_epoch(model, x, y, optimiser, loss)
        rate.step(mean_loss)
        if mean_loss <= lowest:
            lowest, kept = mean_loss, copy.deepcopy(adapter.state_dict())
        reference.curves.append({"stage": TrainingStage.ADAPT, "batch": batch, "epoch": epoch + 1, "loss": mean_loss})
    adapter.load_state_dict(kept)
    return adapter


def fit_jointly(reference: Reference, stage: TrainingStage, batch: str) -> list[str]:
    """Train encoder and classifier on all batches learned so far (section 4, `finetuned` and `retrain`), adapters frozen.

    Each epoch passes over the batches one after the other, each with its own optimiser and rate rule. Kept is the epoch of
    lowest mean training loss summed over the batches, the latest on ties.
    """
    if not reference.intermediates:
        return []
    settings, names = reference.settings, list(reference.adapters)
    loss = Loss(_pooled_weights(reference), settings.device)
    set_seeds(settings.seed)
    shared = nn.ModuleList([reference.model.encoder, reference.model.classifier])
    models = {name: reference.annotator(name) for name in names}
    for model in models.values():
        model.train_only(*shared)
    optimisers = {name: torch.optim.Adam(shared.parameters(), lr=LATER_RATE) for name in names}
    rates = {name: plateau(optimiser) for name, optimiser in optimisers.items()}
    lowest, kept = np.inf, copy.deepcopy(shared.state_dict())
    for epoch in bar(range(settings.epochs), f"{stage}: {batch}", "epoch"):
        total = 0.0
        for name in names:
            cells = reference.batches[name]
            rows = ~cells.held_out
            mean_loss = train_epoch(models[name], cells.x[rows], cells.y[rows], optimisers[name], loss)
            rates[name].step(mean_loss)
            total += mean_loss
        if total <= lowest:
            lowest, kept = total, copy.deepcopy(shared.state_dict())
        reference.curves.append({"stage": stage, "batch": batch, "epoch": epoch + 1, "loss": total / len(names)})
    shared.load_state_dict(kept)
    return [batch]


def _pooled_weights(reference: Reference) -> np.ndarray:
    """Return class weights by the pooled shares over all labelled cells of the batches learned so far."""
    y = np.concatenate([reference.batches[name].y for name in reference.adapters])
    return class_weights(y, len(reference.classes))


def latent(reference: Reference, batch: str, rows: np.ndarray) -> np.ndarray:
    """Return the latents float32 (m, 256) of some of a batch's cells (bool or index), by its own annotator."""
    return encode(reference.annotator(batch), reference.batches[batch].x[rows], reference.settings.device)


# --- 3. the target -----------------------------------------------------------------------------------------------------------


def prior_weights() -> Weights:
    """Return the weight of the only member."""
    return (1.0,)


def members(model: Annotator, latent: np.ndarray, settings: Settings) -> np.ndarray:
    """Return what the classifier says, cell by cell: float32 (n, 1, K)."""
    return classify(model.classifier, latent, settings.device)[:, None]


def members_of_held_out(model: Annotator, known: KnownLatents, settings: Settings) -> np.ndarray:
    """Return what the classifier says of the held-out cells: float32 (m, 1, K)."""
    return members(model, known.held_out, settings)


def neighbours(latent: np.ndarray, settings: Settings) -> None:
    """Return nothing: each cell is annotated alone."""


def predict_proba(
    model: Annotator, latent: np.ndarray, weights: Weights, settings: Settings, near: Neighbours | None = None
) -> np.ndarray:
    """Return what the classifier says, cell by cell: float32 (n, K)."""
    return classify(model.classifier, latent, settings.device)


def novelty(
    model: Annotator, latent: np.ndarray, known: KnownLatents, settings: Settings, near: Neighbours | None = None
) -> np.ndarray:
    """Return the distance to the nearest annotated cells, of the latents as they are: those after alignment would have new
    cell types on known ones."""
    return by_nearest(latent, known.latent, known.y)


def limit_alone(model: Annotator, known: KnownLatents, settings: Settings) -> NoveltyLimit:
    """Return NOVELTY: the held-out cells are asked."""
    return NOVELTY


def hide_types(model: Annotator, known: KnownLatents, rule: Rule, settings: Settings) -> dict[str, float]:
    """Return nothing: how many cells of a new type would be flagged is not asked."""
    return {}


def align(annotated: Annotated, x: sparse.csr_matrix, known: KnownLatents, settings: Settings) -> None:
    """Align the target against a discriminator, then train on its own confident predictions (section 5)."""
    with no_subnormal_numbers():
        train_adversarially(annotated, x, known, settings)
    self_train(annotated, x, known, settings)


def train_adversarially(annotated: Annotated, x: sparse.csr_matrix, known: KnownLatents, settings: Settings) -> None:
    """Train a fresh adapter to make target latents look like reference latents.

    Encoder and classifier are a frozen copy, all in evaluation mode. After an epoch in which neither side won, the target is
    predicted; kept are the weights with strictly the fewest Unassigned so far, the fresh adapter's to begin with.
    """
    set_seeds(settings.seed)
    adapter = Adapter(x.shape[1]).to(settings.device)
    model = annotated.model.copy_with(adapter)
    players = _Players(model, adapter, x, known.pooled(settings.seed))
    fewest = _n_unassigned(model, x, known, settings)
    kept, kept_epoch = copy.deepcopy(adapter.state_dict()), 0
    balanced = others_in_a_row = 0
    for epoch in bar(range(settings.epochs), "align the target", "epoch"):
        losses = players.train_epoch()
        point = {"stage": TargetStage.ALIGNED, "epoch": epoch + 1, "loss": losses[0], "discriminator_loss": losses[1]}
        if 0.0 in losses:
            adapter.restart()
            balanced = others_in_a_row = 0
        elif all(BALANCED_LOSS[0] < loss < BALANCED_LOSS[1] for loss in losses):
            balanced, others_in_a_row = balanced + 1, 0
            unassigned = _n_unassigned(model, x, known, settings)
            point["unassigned"] = unassigned
            if unassigned < fewest:
                fewest, kept, kept_epoch = unassigned, copy.deepcopy(adapter.state_dict()), epoch + 1
        else:
            others_in_a_row += 1
        annotated.curves.append(point)
        if balanced == PATIENCE or others_in_a_row == PATIENCE:
            break
    adapter.load_state_dict(kept)
    annotated.notes.append(
        f"Alignment kept epoch {kept_epoch} of {len(annotated.curves)}"
        + ("" if kept_epoch else " (the adapter before training)")
        + f": {fewest} of {x.shape[0]} cells Unassigned."
    )
    annotated.model = model
    add_stage(annotated, TargetStage.ALIGNED, encode(annotated.model, x, settings.device), known, settings)


def _n_unassigned(model: Annotator, x: sparse.csr_matrix, known: KnownLatents, settings: Settings) -> int:
    return int(predict(model, encode(model, x, settings.device), known, settings).rejected.sum())


class _RunningLoss:
    """The mean loss since the epoch began; 0.7 before the first."""

    def __init__(self) -> None:
        self.total, self.n = 0.0, 0

    def add(self, loss: Tensor) -> None:
        self.total, self.n = self.total + loss.item(), self.n + 1

    @property
    def mean(self) -> float:
        return self.total / self.n if self.n else 0.7


class _Players:
    """The two players of adversarial alignment, the adapter and the discriminator, and their optimisers."""

    def __init__(self, model: Annotator, adapter: Adapter, x: sparse.csr_matrix, reference: np.ndarray) -> None:
        self.model, self.adapter, self.reference = model, adapter, reference
        self.device, self.n_target = adapter.b.device, x.shape[0]
        self.take_target = minibatches(x, self.device)
        self.discriminator = Discriminator().to(self.device)
        self.minibatch = min(MINIBATCH, x.shape[0], len(reference))
        self.of_adapter = torch.optim.RMSprop(model.train_only(adapter), lr=1e-4, alpha=0.99, weight_decay=1e-2)
        self.of_discriminator = torch.optim.RMSprop(
            self.discriminator.parameters(), lr=1e-4, alpha=0.99, weight_decay=1e-3
        )

    def _draw(self, n: int) -> np.ndarray:
        drawn: np.ndarray = torch.randint(n, (self.minibatch,)).numpy()
        return drawn

    def _target_latent(self) -> Tensor:
        return self.model.latent(self.take_target(self._draw(self.n_target)))

    def _loss(self, latent: Tensor, label: float) -> Tensor:
        logits = self.discriminator(latent)
        # Not the numerically safer loss of logits: a player that has lost for good is known by a loss of exactly 0.
        return F.binary_cross_entropy(torch.sigmoid(logits), torch.full_like(logits, label))

    def train_epoch(self) -> tuple[float, float]:
        """Train both for one epoch; return the mean losses of adapter and discriminator."""
        self.model.eval()
        adapter_loss, discriminator_loss = _RunningLoss(), _RunningLoss()
        for _ in range(_steps(self.n_target, self.minibatch)):
            latent = self._target_latent()
            loss = self._loss(latent, 1.0)
            _step(self.of_adapter, loss, adapter_loss.mean > 0.4)
            adapter_loss.add(loss)
            for again in (False, True):
                with torch.no_grad():
                    target = self._target_latent() if again else latent.detach()
                reference = torch.from_numpy(self.reference[self._draw(len(self.reference))]).to(self.device)
                loss = (self._loss(reference, 1.0) + self._loss(target, 0.0)) / 2
                _step(self.of_discriminator, loss, adapter_loss.mean < 0.8 or discriminator_loss.mean > 1.0)
                discriminator_loss.add(loss)
        return adapter_loss.mean, discriminator_loss.mean


def _steps(n_target: int, minibatch: int) -> int:
    n_minibatches = -(-n_target // minibatch)
    return n_minibatches if n_minibatches >= MANY_MINIBATCHES else STEPS


def _step(optimiser: torch.optim.Optimizer, loss: Tensor, wanted: bool) -> None:
    if wanted:
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def self_train(annotated: Annotated, x: sparse.csr_matrix, known: KnownLatents, settings: Settings) -> None:
    """Train the copy's encoder and classifier on the target's own confident predictions, the adapter frozen.

    Confident is what passes the thresholds of theta 0.1. Kept is the epoch of best accuracy on a tenth of these cells, the
    latest on ties. Skipped with fewer than ten such cells.
    """
    model = annotated.model
    before = predict(model, encode(model, x, settings.device), known, settings)
    thresholds = class_thresholds(members_of_held_out(model, known, settings)[:, 0], PSEUDO_LABEL_THETA)
    confident = Predictions(known.classes, before.probabilities, thresholds)
    chosen = np.flatnonzero(~confident.rejected)
    if len(chosen) < FEWEST_PSEUDO_LABELS:
        annotated.notes.append(f"Self-training was skipped: only {len(chosen)} cells are confident enough.")
        return
    y = before.probabilities.argmax(axis=1)[chosen]
    held_out = hold_out(y, 0.1, settings.seed)
    train, check = chosen[~held_out], chosen[held_out]
    weights = class_weights(np.repeat(np.arange(len(known.counts)), known.counts), len(known.classes))
    loss = Loss(weights, settings.device, SELF_TRAINING_MINIBATCH)
    set_seeds(settings.seed)
    shared = nn.ModuleList([model.encoder, model.classifier])
    optimiser = torch.optim.Adam(model.train_only(*shared), lr=LATER_RATE)
    rate = plateau(optimiser)
    best, kept = -np.inf, copy.deepcopy(shared.state_dict())
    for epoch in bar(range(settings.epochs), "self-training", "epoch"):
        mean_loss = train_epoch(model, x[train], y[~held_out], optimiser, loss)
        rate.step(mean_loss)
        agreement = accuracy(model, x[check], y[held_out], settings.device)
        if (agreement or 0.0) >= best:
            best, kept = agreement or 0.0, copy.deepcopy(shared.state_dict())
        annotated.curves.append(
            {"stage": TargetStage.SELF_TRAINED, "epoch": epoch + 1, "loss": mean_loss, "held_out_agreement": agreement}
        )
    shared.load_state_dict(kept)
    annotated.notes.append(f"Self-training used {len(chosen)} of {x.shape[0]} target cells.")
    add_stage(annotated, TargetStage.SELF_TRAINED, encode(annotated.model, x, settings.device), known, settings)


def describe(n_latent: int, epochs: int | None, n_annotated: int) -> str:
    """Return the sentences on learning for the methods paragraph; `epochs` None for a saved model."""
    if epochs is None:
        return f"Its neural network has a latent space of {n_latent} dimensions."
    first = (
        f"A neural network (encoder into a latent space of {n_latent} dimensions, and classifier) was trained on the source for "
        f"{epochs} epochs."
    )
    if n_annotated == 1:
        return first
    return (
        f"{first} An adapter was trained for each further annotated batch, after which encoder and classifier were trained on "
        "all annotated batches together."
    )


def describe_alignment(stages: Collection[str]) -> str:
    """Return the sentence on alignment for the methods paragraph."""
    trained = (
        "; then the model was trained on its most confident target cells" if TargetStage.SELF_TRAINED in stages else ""
    )
    return (
        "The target was aligned without its labels: an adapter was trained against a discriminator of target and annotated "
        f"cells{trained}."
    )
