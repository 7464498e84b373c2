"""What passes between the steps of a METHOD, and what a METHOD must be able to do.

A METHOD is a module (`default`, `reference`) with the functions of `Method`. The steps themselves are in `fit` (learning from
annotated batches), `target` (annotating a batch) and `annotate` (the whole sequence); they never ask which METHOD it is.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from math import sqrt
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from scipy import sparse

from ..core.subsample import subsample
from .doublets import Doublets
from .history import StageResult
from .mixture import Weights
from .neighbours import Neighbours
from .networks import Annotator
from .new_types import AnnotatedSpace, Profiles
from .predictions import Predictions, Rule

# Of left-out batches that tell the limit of novelty: how far they are usually apart, for one that has no other beside it, and how many
# make it as sure as it gets (with more it was not measured).
USUALLY_APART, ENOUGH_BATCHES = 0.4, 8


@dataclass(frozen=True)
class Exceeded:
    """The novelty that a share of left-out cells of known types exceed."""

    value: float  # of all batches together, each counted alike
    batches: int = 2  # that tell it
    apart: float = USUALLY_APART  # the standard deviation between what the share of each batch exceeds


@dataclass(frozen=True)
class NoveltyLimit:
    """Where a METHOD puts the limit above which a cell is unlike anything annotated."""

    share: float  # of left-out cells of known types: what it exceeds tells the limit
    floor: float  # it is never lower
    start: float = 0.0  # added to
    slope: float = 1.0  # times what is exceeded
    unsure: float = 0.0  # and this, divided by the root of the number of batches that tell it
    apart: float = 0.0  # and this times the standard deviation between them
    alone: float | None = None  # what it is where no batch could be left out; None: by the held-out cells
    by_profiles: bool = False  # whether cells that resemble no type are unlike anything, too
    beside_novel: float = 0.0  # `Rule.beside_novel`

    def from_exceeded(self, exceeded: Exceeded) -> float:
        """Return the limit by what left-out cells exceed: higher where few batches tell it, or batches that differ, since then it may
        well be another in the target."""
        doubt = self.unsure / sqrt(min(exceeded.batches, ENOUGH_BATCHES)) + self.apart * exceeded.apart
        return max(self.floor, self.start + self.slope * exceeded.value + doubt)


class AlignmentMode(StrEnum):
    """How a batch without labels is annotated. The values are those of saved models."""

    UNALIGNED = "shared"  # by the annotated batches' model as it is
    ALIGNED = "aligned"  # after alignment of the batch (METHOD `reference`: and self-training)


class TrainingStage(StrEnum):
    """The stages of an annotated batch."""

    INITIAL = "initial"  # as the model was before the batch was learned; for the source: after its own training
    ADAPT = "adapt"  # with the batch's own adapter
    FINETUNED = "finetuned"  # after encoder and classifier were trained on all batches so far
    RETRAIN = "retrain"  # after they were trained on all batches once more


class TargetStage(StrEnum):
    """The stages of the target."""

    BEFORE = "before alignment"
    ALIGNED = "after alignment"
    SELF_TRAINED = "after self-training"
    AS_IN_ITS_RUN = "as in the model's own run"


@dataclass(frozen=True)
class Settings:
    """What METHOD and the user's parameters fix for every step."""

    method: Method
    seed: int
    epochs: int
    theta: float  # REJECTION
    align: bool
    always_align: bool  # a model of format 4 too, also where left-out batches were annotated no better for it
    calibrate: bool  # whether annotated batches are left out in turn to learn what probabilities are worth
    target_error: float | None
    device: torch.device
    doublets: bool = False  # DOUBLETS
    held_out: float = 0.1  # share of each annotated batch's cells that no stage trains on; of the source see `Method`


@dataclass
class Cells:
    """The labelled cells of one annotated batch."""

    x: sparse.csr_matrix  # float32 (n, p)
    y: np.ndarray  # int64 (n,), index into the classes
    held_out: np.ndarray  # bool (n,), never trained on
    latent: np.ndarray | None = None  # float32 (n, d) without an adapter; stored where the encoder never changes
    rows: np.ndarray | None = None  # int (n,), where they are among the prepared cells

    def subset(self, rows: np.ndarray) -> Cells:
        """Return only some of the cells, bool or index."""
        latent = None if self.latent is None else self.latent[rows]
        return Cells(
            self.x[rows], self.y[rows], self.held_out[rows], latent, None if self.rows is None else self.rows[rows]
        )


@dataclass
class TypeSums:
    """Sums over the training cells of the batches learned so far, by cell type: what METHOD `default` moves the next batch to."""

    latent: np.ndarray  # float64 (K, d), of latents where their batches' offsets put them
    cells: np.ndarray  # float64 (K,), how many cells
    batches: set[str] = field(default_factory=set)


@dataclass
class Reference:
    """The annotated batches, what has been learned from them so far, and how it went."""

    classes: list[str]
    settings: Settings
    batches: dict[str, Cells]  # in training order, the source first
    model: Annotator  # the shared encoder and classifier, without an adapter: the source's own annotator
    features: list[str] = field(default_factory=list)
    # For each batch, the shares of its labelled cells whose type no batch trains, and whose type it does not train itself.
    dropped: dict[str, float] = field(default_factory=dict)
    untrained: dict[str, float] = field(default_factory=dict)
    adapters: dict[str, torch.nn.Module | None] = field(default_factory=dict)  # of the batches learned so far
    sums: TypeSums | None = None  # over these, where the METHOD wants them
    candidates: list[dict[str, Any]] = field(default_factory=list)  # how the source was chosen
    keeps_history: bool = True  # False where only the model is wanted
    history: list[StageResult] = field(default_factory=list)
    suspects: list[dict[str, Any]] = field(default_factory=list)  # `label_errors.suspects`, once batches were left out
    curves: list[dict[str, Any]] = field(default_factory=list)  # stage, batch, epoch, loss, [held_out_accuracy]
    learned: list[str] = field(default_factory=list)  # intermediates that are done with
    checkpoint: tuple[Path, str] | None = None  # where what has been learned is kept, and a hash of what it depends on

    @property
    def source(self) -> str:
        """The batch that training started from."""
        return next(iter(self.batches))

    @property
    def intermediates(self) -> list[str]:
        """All annotated batches but the source, in training order."""
        return list(self.batches)[1:]

    def annotator(self, batch: str) -> Annotator:
        """Return the batch's own annotator: its adapter (if it has one) and the shared encoder and classifier."""
        return Annotator(self.model.encoder, self.model.classifier, self.adapters.get(batch))

    def latent(self, batch: str, rows: np.ndarray) -> np.ndarray:
        """Return the latents, float32 (m, d), of some of a batch's cells (bool or index), by its own annotator."""
        return self.settings.method.latent(self, batch, rows)

    def held_out_latent(self, most: int | None = None) -> np.ndarray:
        """Return the latents (m, d) of the held-out cells of every batch learned so far, each by its own annotator.

        Parameters
        ----------
        most
            If there are more, so many are drawn at random.
        """
        rows = [np.flatnonzero(self.batches[name].held_out) for name in self.adapters]
        if most is not None:
            ends = np.cumsum([len(of_batch) for of_batch in rows])
            chosen = subsample(ends[-1], most, self.settings.seed)
            parts = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
            rows = [of_batch[part - end + len(of_batch)] for of_batch, part, end in zip(rows, parts, ends, strict=True)]
        return np.concatenate([self.latent(name, some) for name, some in zip(self.adapters, rows, strict=True)])

    def record(self) -> dict[str, Any]:
        """Return what the later stages and the report tell about the training, as plain values."""
        return {
            "source": self.source,
            "intermediates": self.intermediates,
            "candidates": self.candidates,
            "history": [asdict(result) for result in self.history],
            "curves": self.curves,
            "suspects": self.suspects,
        }


@dataclass
class KnownLatents:
    """The latents of annotated cells, each by its own batch's annotator, and the rules that left-out batches taught: all that
    annotating a target needs of the reference besides its model."""

    method: Annotating
    classes: list[str]
    batches: list[str]  # the source first
    latent: np.ndarray  # float32 (n, d), training cells
    batch: np.ndarray  # int64 (n,), index into batches
    y: np.ndarray  # int64 (n,), index into classes
    held_out: np.ndarray  # float32 (m, d), held-out cells: thresholds come from these
    counts: np.ndarray  # int64 (K,), annotated cells of each type, for the class weights
    rules: dict[str, Rule] = field(default_factory=dict)  # alignment mode -> what left-out batches taught
    mode: str = (
        AlignmentMode.UNALIGNED
    )  # in which the model's own run annotates; of format 4: in which left-out batches were annotated best
    why: str = "No annotated batch was left out to see how much alignment helps"
    near_held_out: np.ndarray | None = None  # training cells nearest each held-out one, once they were asked for
    novelty_limit: NoveltyLimit | None = None  # None: of a model that judges novelty as versions before it did
    space: AnnotatedSpace | None = None  # what the latents span, once it was asked for
    profiles: Profiles | None = None  # None: a model that keeps none
    fingerprints: np.ndarray | None = None  # uint64, of a saved model: of all cells that it learned from

    def pooled(self, seed: int) -> np.ndarray:
        """Return latents of annotated cells as alignment draws them: held-out cells in their share, also where only some of
        the training cells' latents were kept."""
        share = len(self.latent) / max(1, int(self.counts.sum()) - len(self.held_out))
        held_out = self.held_out[subsample(len(self.held_out), round(share * len(self.held_out)), seed)]
        return np.concatenate([self.latent, held_out])


@dataclass
class Annotated:
    """An annotated batch: the model that does it, every stage's predictions, and how it went."""

    model: Annotator
    stages: dict[str, Predictions]  # in order; the last is the answer
    latent: dict[str, np.ndarray]  # stage -> float32 (n, d)
    novelty: np.ndarray  # float (n,): `Method.novelty`
    mode: str = AlignmentMode.UNALIGNED  # in which the last stage was annotated
    curves: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    doublets: Doublets | None = None  # None: not asked

    def subset(self, cells: np.ndarray) -> Annotated:
        """Return the same of some cells only, or in another order: index (n_chosen,)."""
        return replace(
            self,
            stages={stage: predictions.subset(cells) for stage, predictions in self.stages.items()},
            latent={stage: latent[cells] for stage, latent in self.latent.items()},
            novelty=self.novelty[cells],
            doublets=None if self.doublets is None else self.doublets.subset(cells),
        )

    @property
    def final(self) -> Predictions:
        """The predictions of the last stage."""
        return list(self.stages.values())[-1]

    @property
    def final_latent(self) -> np.ndarray:
        """The latents of the last stage, float32 (n, d)."""
        return list(self.latent.values())[-1]


class Annotating(Protocol):
    """What annotates a batch with a model that is trained: half of a METHOD. Of models of an older format there is only this."""

    NAME: str
    ALIGNS_LATENTS: bool  # whether alignment asks for a batch's latents alone, and trains nothing

    def prior_weights(self) -> Weights:
        """Return the weights of the members before any batch was left out; a METHOD may have a single member."""

    def members(self, model: Annotator, latent: np.ndarray, settings: Settings) -> np.ndarray:
        """Return each member's probabilities, float32 (n, M, K), of the cells of one batch without labels."""

    def members_of_held_out(self, model: Annotator, known: KnownLatents, settings: Settings) -> np.ndarray:
        """Return each member's probabilities, float32 (m, M, K), of the held-out cells, as a batch's are given."""

    def neighbours(self, latent: np.ndarray, settings: Settings) -> Neighbours | None:
        """Find the nearest cells of each cell of a batch; None if neither `predict_proba` nor `novelty` asks for them."""

    def predict_proba(
        self,
        model: Annotator,
        latent: np.ndarray,
        weights: Weights,
        settings: Settings,
        near: Neighbours | None = None,
    ) -> np.ndarray:
        """Return the weighted mean of `members`, float32 (n, K), without holding them all; `near`: the cells' `neighbours`, if they
        are known."""

    def novelty(
        self,
        model: Annotator,
        latent: np.ndarray,
        known: KnownLatents,
        settings: Settings,
        near: Neighbours | None = None,
    ) -> np.ndarray:
        """Return how unlike the annotated cells each cell of a batch is, float (n,), from the batch's latents (n, d) before
        alignment; `near`: the cells' `neighbours`, if they are known."""

    def align(self, annotated: Annotated, x: sparse.csr_matrix, known: KnownLatents, settings: Settings) -> None:
        """Give a batch without labels an adapter of its own, and annotate it anew."""

    def empty_annotator(self, n_features: int, n_classes: int, n_latent: int, has_adapter: bool) -> Annotator:
        """Return an annotator to load weights into."""

    def describe(self, n_latent: int, epochs: int | None, n_annotated: int) -> str:
        """Return the sentence on learning for the methods paragraph; `epochs` None for a saved model."""

    def describe_alignment(self, stages: Collection[str]) -> str:
        """Return the sentence on alignment for the methods paragraph; `stages` are the target's."""


class Method(Annotating, Protocol):
    """What a METHOD must be able to do: the functions and constants of its module."""

    SOURCE_HELD_OUT: float  # share of the source's cells that no stage trains on
    TARGET_IN_ENCODER: bool  # whether the encoder is computed from the target's cells too: each target learns anew
    SOURCE_BY_TRIAL: (
        bool  # whether every batch is tried as the source; else it is the one of most types, then of most cells
    )
    ALWAYS_ALIGNS: bool  # whether alignment is part of the method, and not asked of left-out batches
    ALWAYS_CALIBRATES: bool  # whether annotated batches are left out also where no TARGET_ERROR asks for it
    MOST_TRAININGS: int  # on left-out batches; where there are more batches, several are left out together
    NOVELTY: NoveltyLimit
    KEEPS_CHECKPOINTS: bool  # whether training takes long enough to keep what has been learned

    def fit_encoder(
        self, x: sparse.csr_matrix, batches: dict[str, Cells], settings: Settings
    ) -> torch.nn.Module | None:
        """Return the encoder that all batches share, if it is computed without labels; stores the batches' latents."""

    def fit_source(
        self, cells: Cells, n_classes: int, settings: Settings, encoder: torch.nn.Module | None
    ) -> tuple[Annotator, list[dict[str, Any]]]:
        """Return the source's annotator, and for each epoch `epoch`, `loss`, `held_out_accuracy`."""

    def fit_adapter(self, reference: Reference, batch: str) -> torch.nn.Module:
        """Return a batch's adapter, encoder and classifier as they are."""

    def fit_jointly(self, reference: Reference, stage: TrainingStage, batch: str) -> list[str]:
        """Train what batches share on all batches learned so far; return the intermediates to evaluate anew."""

    def latent(self, reference: Reference, batch: str, rows: np.ndarray) -> np.ndarray:
        """Return the latents float32 (m, d) of some of a batch's cells."""

    def limit_alone(self, model: Annotator, known: KnownLatents, settings: Settings) -> NoveltyLimit:
        """Return NOVELTY with the limit for annotated batches of which none could be left out."""

    def hide_types(self, model: Annotator, known: KnownLatents, rule: Rule, settings: Settings) -> dict[str, float]:
        """Return which share of each type's cells would be flagged, by a rule, if the type were new; by name. A METHOD may not
        ask."""
