"""Learning from the annotated batches (method.md sections 2 to 4 and 6), readable from top to bottom.

reference = start(prepared, plan, settings)     # the source, named or chosen, and its classifier
for batch in reference.intermediates:           # learn_intermediates does these two, and what follows
    adapt(reference, batch)                     # the batch's adapter, encoder and head frozen
    finetune(reference, batch)                  # encoder and head, over all batches so far
retrain(reference)                              # the same over all batches once more

METHOD `reference` trains networks in all of these. METHOD `default` computes its encoder once and its head from all batches
together, once each has its adapter (`projection`).
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import anndata as ad
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ..core.parameters import Parameters
from ..core.progress import bar
from ..core.subsample import subsample
from ..data.plan import Plan
from ..errors import InputError
from . import checkpoint, projection
from .history import HELD_OUT, TRAINED_ON, UNSEEN, StageResult, stage_result
from .networks import Adapter, Annotator, Encoder, Head, LinearHeads, Projection, Translation
from .predictions import Predictions, class_thresholds

log = logging.getLogger(__name__)

MINIBATCH = 128

SOURCE_RATE = 1e-3

LATER_RATE = 1e-4

SMALLEST_HELD_OUT_TYPE = 5

CELLS_AT_ONCE = 1024  # when predicting; memory only


@dataclass(frozen=True)
class Settings:
    """What a METHOD and the user's parameters fix for every stage."""

    is_reference: bool  # METHOD: networks trained by gradient descent, or what `projection` computes
    source_held_out: float  # share of the source's cells never trained on
    source_coverage: float  # automatic source: share of the most types any candidate has that a candidate must have
    seed: int
    epochs: int
    theta: float
    align: bool
    always_aligns: bool  # without asking whether left-out batches are annotated better for it
    calibrates: bool  # whether annotated batches are left out in turn to learn what probabilities are worth
    target_error: float | None
    device: torch.device
    held_out: float = 0.1  # the same for every other annotated batch

    @classmethod
    def of(cls, parameters: Parameters) -> Settings:
        """The settings for METHOD and the other parameters; a GPU if USE_GPU and there is one."""
        is_reference = parameters.METHOD == "reference"
        return cls(
            is_reference=is_reference,
            source_held_out=0.2 if is_reference else 0.1,
            source_coverage=0.0 if is_reference else 0.9,
            seed=parameters.SEED,
            epochs=parameters.EPOCHS,
            theta=parameters.REJECTION,
            align=parameters.aligns,
            always_aligns=is_reference or parameters.ALIGN is True,
            calibrates=not is_reference or parameters.TARGET_ERROR is not None,
            target_error=parameters.TARGET_ERROR,
            device=_device(parameters.USE_GPU),
        )


def _device(use_gpu: bool) -> torch.device:
    name = "cpu"
    if use_gpu:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    log.info("computing on %s", name if name != "cpu" or not use_gpu else "cpu (no GPU found)")
    return torch.device(name)


@dataclass
class Cells:
    """The labelled cells of one annotated batch."""

    x: sparse.csr_matrix  # float32 (n, p)
    y: np.ndarray  # int64 (n,), index into the classes
    held_out: np.ndarray  # bool (n,), never trained on
    codes: np.ndarray | None = None  # float32 (n, size) without an adapter; kept where the encoder never changes

    def of(self, rows: np.ndarray) -> Cells:
        """Only some of the cells, bool or index."""
        return Cells(self.x[rows], self.y[rows], self.held_out[rows], None if self.codes is None else self.codes[rows])


@dataclass
class Reference:
    """The annotated batches, what has been learned from them so far, and how it went."""

    classes: list[str]
    settings: Settings
    batches: dict[str, Cells]  # in training order, the source first
    model: Annotator  # the shared encoder and head, without an adapter: the source's own annotator
    features: list[str] = field(default_factory=list)
    adapters: dict[str, Adapter | Translation | None] = field(default_factory=dict)  # of the batches learned so far
    candidates: list[dict[str, Any]] = field(default_factory=list)  # how the source was chosen
    keeps_history: bool = True  # False where only the model is wanted
    history: list[StageResult] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)  # stage, batch, epoch, loss, [held_out_accuracy]
    learned: list[str] = field(default_factory=list)  # intermediates that are done with
    unfinished: tuple[Path, str] | None = None  # where what has been learned is kept, and a hash of what it depends on

    @property
    def source(self) -> str:
        return next(iter(self.batches))

    @property
    def intermediates(self) -> list[str]:
        return list(self.batches)[1:]

    @property
    def left_to_learn(self) -> list[str]:
        """The intermediates that `finetune` is not done with."""
        return [name for name in self.intermediates if name not in self.learned]

    def story(self) -> dict[str, Any]:
        """What the later stages and the report tell about the training, as plain values."""
        return {
            "source": self.source,
            "intermediates": self.intermediates,
            "candidates": self.candidates,
            "history": [result.to_json() for result in self.history],
            "curves": self.curves,
        }

    def annotator(self, batch: str) -> Annotator:
        """The batch's own annotator: its adapter (if it has one) before the shared encoder and head."""
        return Annotator(self.model.encoder, self.model.head, self.adapters.get(batch))


# --- shared by all stages ----------------------------------------------------------------------------------------------


def set_seeds(seed: int) -> None:
    """Seeds torch; called anew at the start of each stage, so that equal stages start from equal weights."""
    torch.manual_seed(seed)


def hold_out(y: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Chooses cells to keep out of training, stratified by type.

    Of each type a share, rounded, at least one cell; none of a type with fewer than five cells.

    Returns
    -------
    Bool (n,).
    """
    random = np.random.default_rng(seed)
    held_out = np.zeros(len(y), dtype=bool)
    for k in np.unique(y):
        of_k = random.permutation(np.flatnonzero(y == k))
        if len(of_k) >= SMALLEST_HELD_OUT_TYPE:
            held_out[of_k[: max(1, round(share * len(of_k)))]] = True
    return held_out


def class_weights(y: np.ndarray, n_classes: int) -> np.ndarray:
    """Weights of the loss, w_k = 2 / (0.01 + f_k) / K with f_k the share of type k in `y`; 0 for a type not in it.

    >>> class_weights(np.array([0, 0, 1]), 3).round(3)
    array([0.985, 1.942, 0.   ])
    """
    share = np.bincount(y, minlength=n_classes) / len(y)
    return np.where(share > 0, 2 / (0.01 + share) / n_classes, 0.0)


def dense(x: sparse.csr_matrix, rows: np.ndarray, device: torch.device) -> Tensor:
    """Some rows of a sparse matrix as a dense float32 tensor."""
    return torch.from_numpy(x[rows].toarray()).to(device)


def minibatches(x: sparse.csr_matrix, device: torch.device) -> Callable[[np.ndarray], Tensor]:
    """What gives rows of a sparse matrix as dense float32 tensors on the device: made dense as they are asked for, or on a
    GPU all at once if they fit into half of its free memory."""
    if 4 * x.shape[0] * x.shape[1] > free_memory(device) / 2:
        return lambda rows: dense(x, rows, device)
    whole = torch.from_numpy(x.toarray()).to(device)
    return lambda rows: whole[torch.from_numpy(rows).to(device)]


def free_memory(device: torch.device) -> int:
    """Bytes free on a GPU; 0 for anything else, whose memory is to hold sparse values only."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return 0


@torch.no_grad()
def encode(model: Annotator, x: sparse.csr_matrix, device: torch.device) -> np.ndarray:
    """Codes float32 (n, size), in evaluation mode."""
    model.eval()
    blocks = [
        model.code(torch.from_numpy(x[start : start + CELLS_AT_ONCE].toarray()).to(device)).cpu().numpy()
        for start in range(0, x.shape[0], CELLS_AT_ONCE)
    ]
    return np.concatenate(blocks) if blocks else np.empty((0, model.encoder.size), dtype=np.float32)


@torch.no_grad()
def decode(head: Head | LinearHeads, codes: np.ndarray, device: torch.device) -> np.ndarray:
    """Probabilities float32 (n, K) of codes (n, size)."""
    head.eval()
    return torch.softmax(head(torch.from_numpy(codes).to(device)), dim=1).cpu().numpy()


def plateau(optimiser: torch.optim.Optimizer) -> ReduceLROnPlateau:
    """Halves the rate at the third epoch in a row whose mean training loss is not below 0.95 x the best so far."""
    return ReduceLROnPlateau(optimiser, factor=0.5, patience=2, threshold=0.05)


def train_epoch(
    model: Annotator, x: sparse.csr_matrix, y: np.ndarray, optimiser: torch.optim.Optimizer, loss: Loss
) -> float:
    """One pass over shuffled minibatches in training mode; the mean loss, weighted by cells."""
    model.train()
    total, taken = 0.0, minibatches(x, loss.weights.device)
    for rows in torch.randperm(len(y)).split(loss.minibatch):
        rows = rows.numpy()
        value = loss(model(taken(rows)), y[rows])
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        total += value.item() * len(rows)
    return total / len(y)


class Loss:
    """Class-weighted negative log likelihood of logits: sum of w_k * nll / sum of w_k over a minibatch's cells."""

    def __init__(self, weights: np.ndarray, device: torch.device, minibatch: int = MINIBATCH) -> None:
        self.weights = torch.from_numpy(weights.astype(np.float32)).to(device)
        self.minibatch = minibatch

    def __call__(self, logits: Tensor, y: np.ndarray) -> Tensor:
        return F.cross_entropy(logits, torch.from_numpy(y).to(logits.device), weight=self.weights)


def _weights(reference: Reference, batches: list[str]) -> np.ndarray:
    """Class weights by the pooled shares over all labelled cells of some batches."""
    return class_weights(np.concatenate([reference.batches[name].y for name in batches]), len(reference.classes))


# --- the source ----------------------------------------------------------------------------------------------------------


def start(prepared: ad.AnnData, plan: Plan, settings: Settings, file: Path | None = None) -> Reference:
    """Trains the source classifier on the source named in the plan, or on each candidate to choose one.

    Parameters
    ----------
    prepared, plan
        From `jind_nb.data`.
    file
        Where METHOD `reference` keeps what it has learned, and goes on from if it was interrupted.

    Returns
    -------
    A reference that has learned the source; `model` and `history` hold its classifier and first stage.
    """
    if not plan.annotated:
        raise InputError("PRETRAINED_MODEL_PATH is set, so there is nothing to train: go on with 3_align.ipynb.")
    batches = {name: _cells_of(prepared, name, settings) for name in plan.annotated}
    encoder = None
    if not settings.is_reference:
        encoder = projection.fit(sparse.csr_matrix(prepared.X), settings.seed).to(settings.device)
        bare = Annotator(encoder, LinearHeads(encoder.size, len(plan.classes)).to(settings.device))
        for cells in batches.values():
            cells.codes = encode(bare, cells.x, settings.device)
    kept = (file, checkpoint.key(prepared, plan, settings)) if file is not None and settings.is_reference else None
    stored = None if kept is None else checkpoint.read(*kept)
    if stored is not None:
        source, model = stored["source"], Annotator(Encoder(prepared.n_vars), Head(len(plan.classes)))
        reference = _reference(batches, source, plan.classes, settings, model.to(settings.device))
        checkpoint.restore(reference, stored)
        reference.features, reference.unfinished = list(prepared.var_names), kept
        return reference
    candidates: list[dict[str, Any]] = []
    source = plan.source or plan.annotated[0]
    if plan.source is None and len(batches) > 1:
        target = prepared[(prepared.obs["batch"] == plan.target).to_numpy()].X
        source, candidates = choose_source(batches, target, plan.classes, settings, encoder)
    reference = learn_source(batches, source, plan.classes, settings, encoder)
    reference.features, reference.candidates, reference.unfinished = list(prepared.var_names), candidates, kept
    _record(reference, source, "initial")
    checkpoint.keep(reference)
    return reference


def learn_source(
    batches: dict[str, Cells], source: str, classes: list[str], settings: Settings, encoder: Projection | None = None
) -> Reference:
    """A reference that has learned the source and nothing else yet; METHOD `default` is given its encoder."""
    model, curve = train_source(batches[source], len(classes), settings, encoder)
    reference = _reference(batches, source, classes, settings, model)
    reference.curves = [{"stage": "initial", "batch": source, **point} for point in curve]
    return reference


def _reference(
    batches: dict[str, Cells], source: str, classes: list[str], settings: Settings, model: Annotator
) -> Reference:
    others = {name: cells for name, cells in batches.items() if name != source}
    return Reference(
        classes,
        settings,
        {source: _hold_out_as_source(batches[source], settings)} | others,
        model,
        adapters={source: None},
    )


def candidates_table(reference: Reference) -> pd.DataFrame:
    """How the source was chosen; one row where there was no choice."""
    rows = reference.candidates or [{"batch": reference.source, "why": "named, or the only annotated batch"}]
    return pd.DataFrame(rows).set_index("batch")


def _cells_of(prepared: ad.AnnData, batch: str, settings: Settings) -> Cells:
    rows = (prepared.obs["batch"] == batch).to_numpy()
    y = prepared.obs["cell_type"].cat.codes.to_numpy()[rows].astype(np.int64)
    return Cells(sparse.csr_matrix(prepared.X[rows]), y, hold_out(y, settings.held_out, settings.seed))


def _hold_out_as_source(cells: Cells, settings: Settings) -> Cells:
    return replace(cells, held_out=hold_out(cells.y, settings.source_held_out, settings.seed))


def train_source(
    cells: Cells, n_classes: int, settings: Settings, encoder: Projection | None = None
) -> tuple[Annotator, list[dict[str, Any]]]:
    """The source classifier (method.md section 2): the epoch of best held-out accuracy, the earliest on ties.

    Where no type is large enough to hold cells out, the epoch of lowest training loss. With METHOD `default`'s encoder
    there are no epochs: the head is computed.

    Returns
    -------
    The model, and for each epoch `epoch`, `loss`, `held_out_accuracy`.
    """
    cells = _hold_out_as_source(cells, settings)
    if encoder is not None:
        return Annotator(encoder, _heads([cells], [None], n_classes, settings)), []
    loss = Loss(class_weights(cells.y, n_classes), settings.device)
    set_seeds(settings.seed)
    model = Annotator(Encoder(cells.x.shape[1]), Head(n_classes)).to(settings.device)
    optimiser = torch.optim.Adam(model.parameters(), lr=SOURCE_RATE)
    rate = plateau(optimiser)
    x, y = cells.x[~cells.held_out], cells.y[~cells.held_out]
    curve: list[dict[str, Any]] = []
    best, kept = -np.inf, copy.deepcopy(model.state_dict())
    for epoch in bar(range(settings.epochs), "source classifier", "epoch"):
        mean_loss = train_epoch(model, x, y, optimiser, loss)
        rate.step(mean_loss)
        accuracy = accuracy_of(model, cells.x[cells.held_out], cells.y[cells.held_out], settings.device)
        score = -mean_loss if accuracy is None else accuracy
        if score > best:
            best, kept = score, copy.deepcopy(model.state_dict())
        curve.append({"epoch": epoch + 1, "loss": mean_loss, "held_out_accuracy": accuracy})
    model.load_state_dict(kept)
    return model, curve


def accuracy_of(model: Annotator, x: sparse.csr_matrix, y: np.ndarray, device: torch.device) -> float | None:
    """Share of cells whose most probable type is right; None without cells."""
    if not len(y):
        return None
    return float((decode(model.head, encode(model, x, device), device).argmax(axis=1) == y).mean())


def choose_source(
    batches: dict[str, Cells],
    target: sparse.csr_matrix,
    classes: list[str],
    settings: Settings,
    encoder: Projection | None = None,
) -> tuple[str, list[dict[str, Any]]]:
    """The candidate whose own classifier leaves fewest cells of the bare target Unassigned, the first on ties.

    Only candidates that cover `source_coverage` times the most cell types any candidate has are considered.

    Returns
    -------
    The name, and a row for each candidate: `batch`, `cell types`, `target cells Unassigned` (or that it was not tried).
    """
    n_types = {name: len(np.unique(cells.y)) for name, cells in batches.items()}
    unassigned: dict[str, int] = {}
    for name, cells in batches.items():
        if n_types[name] >= settings.source_coverage * max(n_types.values()):
            model, _ = train_source(cells, len(classes), settings, encoder)
            own = _hold_out_as_source(cells, settings)
            held_out = decode(model.head, encode(model, own.x[own.held_out], settings.device), settings.device)
            probabilities = decode(model.head, encode(model, target, settings.device), settings.device)
            predictions = Predictions(classes, probabilities, class_thresholds(held_out, settings.theta))
            unassigned[name] = int(predictions.rejected.sum())
            log.info("source candidate %s: %d target cells Unassigned", name, unassigned[name])
    rows = [
        {
            "batch": name,
            "cell types": n_types[name],
            "target cells Unassigned": unassigned.get(name, "not tried: too few types"),
        }
        for name in batches
    ]
    return min(unassigned, key=lambda name: unassigned[name]), rows


# --- the intermediates -----------------------------------------------------------------------------------------------------


Stage = TypeVar("Stage", bound=Callable[..., None])


def _whole_or_not_at_all(stage: Stage) -> Stage:
    """An interrupted stage leaves the reference as it was before, so that its notebook cell can be run again."""

    @functools.wraps(stage)
    def guarded(reference: Reference, *batch: str) -> None:
        model, weights = reference.model, copy.deepcopy(reference.model.state_dict())
        head, adapters = model.head, dict(reference.adapters)
        n_results, n_points, n_learned = len(reference.history), len(reference.curves), len(reference.learned)
        try:
            stage(reference, *batch)
        except BaseException:
            model.head, reference.adapters = head, adapters
            model.load_state_dict(weights)
            del reference.history[n_results:], reference.curves[n_points:], reference.learned[n_learned:]
            raise

    return cast(Stage, guarded)


@_whole_or_not_at_all
def adapt(reference: Reference, batch: str) -> None:
    """Gives an intermediate batch its adapter (method.md section 4, `initial` and `adapt`).

    Trains f, g and b with encoder and head frozen but in training mode, on the batch's cells of the types the head
    has been trained on, held-out ones left out; keeps the epoch of lowest mean loss, the latest on ties. METHOD
    `default`: the translation of the batch's cells to where the batches before it have the same types.
    """
    settings, cells = reference.settings, reference.batches[batch]
    reference.adapters.pop(batch, None)  # where a notebook's cell is run again
    _record(reference, batch, "initial")
    if not settings.is_reference:
        reference.adapters[batch] = _translation(reference, batch)
        _record(reference, batch, "adapt")
        return
    weights = _weights(reference, list(reference.adapters))
    usable = ~cells.held_out & (weights[cells.y] > 0)
    set_seeds(settings.seed)
    adapter = Adapter(cells.x.shape[1]).to(settings.device)
    model = Annotator(reference.model.encoder, reference.model.head, adapter)
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
        reference.curves.append({"stage": "adapt", "batch": batch, "epoch": epoch + 1, "loss": mean_loss})
    adapter.load_state_dict(kept)
    reference.adapters[batch] = adapter
    _record(reference, batch, "adapt")


def learn_intermediates(reference: Reference) -> None:
    """All that follows the source: `adapt` and `finetune` for each intermediate, then `retrain`."""
    for batch in reference.left_to_learn:
        adapt(reference, batch)
        finetune(reference, batch)
    retrain(reference)


@_whole_or_not_at_all
def finetune(reference: Reference, batch: str) -> None:
    """Trains encoder and head over the source, the earlier intermediates and this one (`finetuned`).

    METHOD `default` computes the head once, with the last intermediate, for all.
    """
    is_last = batch == reference.intermediates[-1]
    if reference.settings.is_reference:
        _joint(reference, "finetuned", batch)
        _record(reference, batch, "finetuned")
    elif is_last:
        adapters = [reference.adapters[name] for name in reference.batches]
        cells, n_classes = list(reference.batches.values()), len(reference.classes)
        reference.model.head = _heads(cells, adapters, n_classes, reference.settings)
        for name in reference.intermediates:
            _record(reference, name, "finetuned")
    if is_last:
        _record(reference, reference.source, "finetuned")
    reference.learned.append(batch)
    checkpoint.keep(reference)


@_whole_or_not_at_all
def retrain(reference: Reference) -> None:
    """The joint fine-tune over all annotated batches once more (`retrain`); nothing without intermediates.

    METHOD `default`'s head is of all batches already.
    """
    if reference.intermediates:
        if reference.settings.is_reference:
            _joint(reference, "retrain", "all annotated batches")
        for batch in reference.batches:
            _record(reference, batch, "retrain")


def _joint(reference: Reference, stage: str, batch: str) -> None:
    """Encoder and head over all batches learned so far, one after the other in each epoch, adapters frozen.

    Each batch has its own optimiser and rate rule. Kept: the epoch of lowest mean training loss summed over the
    batches, the latest on ties.
    """
    settings, names = reference.settings, list(reference.adapters)
    loss = Loss(_weights(reference, names), settings.device)
    set_seeds(settings.seed)
    shared = nn.ModuleList([reference.model.encoder, reference.model.head])
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


# --- what METHOD `default` computes instead ------------------------------------------------------------------------------------


def _heads(
    batches: list[Cells], adapters: list[Adapter | Translation | None], n_classes: int, settings: Settings
) -> LinearHeads:
    """The head learned from all batches' training cells, each through its adapter, with nine tenths of its weight, and as
    it is, with the rest: so the head also knows codes that nothing has moved, as a target's are before alignment."""
    codes, y, weights = [], [], []
    for cells, adapter in zip(batches, adapters, strict=True):
        assert cells.codes is not None
        training, weight = cells.codes[~cells.held_out], 1.0
        if isinstance(adapter, Translation):
            codes.append(training + adapter.b.cpu().numpy())
            y.append(cells.y[~cells.held_out])
            weights.append(np.full(len(training), 1 - projection.UNMOVED))
            weight = projection.UNMOVED
        codes.append(training)
        y.append(cells.y[~cells.held_out])
        weights.append(np.full(len(training), weight))
    all_codes, all_y, all_weights = np.concatenate(codes), np.concatenate(y), np.concatenate(weights)
    chosen = subsample(len(all_y), projection.MOST_CELLS, settings.seed)
    for k in np.unique(all_y):  # a rare type is not lost among many cells
        of_type = np.flatnonzero(all_y == k)
        if np.sum(all_y[chosen] == k) < min(projection.FEWEST_OF_A_TYPE, len(of_type)):
            chosen = np.union1d(chosen, of_type[subsample(len(of_type), projection.FEWEST_OF_A_TYPE, settings.seed)])
    heads = projection.fit_heads(all_codes[chosen], all_y[chosen], all_weights[chosen], n_classes)
    return heads.to(settings.device)


def _translation(reference: Reference, batch: str) -> Translation:
    """The batch's adapter: to where the training cells of the batches learned so far have the same types."""
    n_classes = len(reference.classes)

    def means(names: list[str]) -> tuple[np.ndarray, np.ndarray]:
        learned = [reference.batches[name] for name in names]
        codes = [codes_of(reference, name, ~reference.batches[name].held_out) for name in names]
        y = np.concatenate([cells.y[~cells.held_out] for cells in learned])
        return projection.type_means(np.concatenate(codes), np.eye(n_classes)[y])

    b = projection.translation(means([batch]), means(list(reference.adapters)))
    return projection.as_adapter(b).to(reference.settings.device)


# --- what has been learned ---------------------------------------------------------------------------------------------------


def held_out_codes(reference: Reference) -> np.ndarray:
    """Codes (n, size) of the held-out cells of every batch learned so far, each through its own adapter."""
    return np.concatenate([codes_of(reference, name, reference.batches[name].held_out) for name in reference.adapters])


def codes_of(reference: Reference, batch: str, rows: np.ndarray) -> np.ndarray:
    """Codes float32 (n, size) of some of a batch's cells (bool or index), through its adapter if it has one yet."""
    cells, adapter = reference.batches[batch], reference.adapters.get(batch)
    if cells.codes is None:
        return encode(reference.annotator(batch), cells.x[rows], reference.settings.device)
    return cells.codes[rows] + adapter.b.cpu().numpy() if isinstance(adapter, Translation) else cells.codes[rows]


def _record(reference: Reference, batch: str, stage: str) -> None:
    """Adds to the history how the batch's annotator does now, training cells and held-out cells apart."""
    if not reference.keeps_history:
        return
    device, cells = reference.settings.device, reference.batches[batch]
    held_out = decode(reference.model.head, held_out_codes(reference), device)
    thresholds = class_thresholds(held_out, reference.settings.theta)
    everything = np.arange(len(cells.y))
    probabilities = decode(reference.model.head, codes_of(reference, batch, everything), device)
    truth = np.array(reference.classes, dtype=object)[cells.y]
    if batch not in reference.adapters:
        groups = {UNSEEN: np.ones(len(truth), dtype=bool)}
    else:
        groups = {HELD_OUT: cells.held_out, TRAINED_ON: ~cells.held_out}
    for kind, rows in groups.items():
        if rows.any():
            predictions = Predictions(reference.classes, probabilities[rows], thresholds)
            result = stage_result(batch, stage, kind, truth[rows], predictions)
            reference.history.append(result)
            log.info(
                "%s, %s: raw accuracy %.3f, rejected %d of %d %s",
                batch, stage, result.metrics["raw_accuracy"], result.metrics["rejected"], rows.sum(), kind,
            )  # fmt: skip
