"""METHOD `default`, all of it in this file: JIND-Multi with parts that are computed, not trained (docs/method.md).

1. Encoder. All cells of the run, the target's too, are scaled to one length and put on principal components, without labels:
   `fit_encoder`. So the target is described as well as the annotated batches are.
2. Source. The classifier is the mean of five softmax regressions, each on some of the components: `fit_source`.
3. Intermediates. Each batch gets an offset to where the batches before it have the same types: `fit_adapter`. With the last
   one the classifier is learned from all batches together: `fit_jointly`.
4. Target. Half of each cell's answer is its own, half that of its nearest cells in the target: `predict_proba`.
5. Alignment. Where left-out batches were annotated better for it, all target cells are moved alike, to where the annotated
   cells of their predicted types lie: `align`.

What is learned from labels is small, quick and has one optimum, so that a seed changes next to nothing. benchmarks/README.md
has what each part brings, and what was tried instead. Sources: Goyal et al. 2022 (JIND), doi 10.1093/bioinformatics/btac140;
Sancho-Zamora et al. 2025 (JIND-Multi), doi 10.1016/j.csbj.2025.06.043.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from scipy import sparse
from scipy.sparse import linalg
from torch import Tensor, nn

from ..core.subsample import subsample
from .neighbours import nearest
from .networks import Annotator, classify, encode
from .pca import principal_axes
from .state import AlignmentMode, Annotated, Cells, KnownLatents, Reference, Settings, TargetStage, TrainingStage
from .target import add_stage

NAME = "default"
SOURCE_HELD_OUT = 0.1
SOURCE_COVERAGE = 0.9
ALWAYS_ALIGNS = False
ALWAYS_CALIBRATES = True
MOST_TRAININGS = 9  # one for each left-out batch (`leave_one_out.MOST_LEFT_OUT`)
KEEPS_CHECKPOINTS = False  # all it would save are seconds

COMPONENTS = 50
# Which latents each softmax regression sees: the block of `Projection`, and how many of its first components.
VIEWS = ((0, 10), (0, 20), (0, 50), (1, 20), (1, 50))
MOST_CELLS = 20_000  # that components and classifier are computed from
FEWEST_OF_A_TYPE = 100  # of these, where a type has so many
NEVER = -30.0  # log odds of a type that no cell is labelled with
SHRINKAGE = 20.0  # cells without an offset that an offset is averaged with
UNMOVED = 0.1  # weight of a cell's latent before its batch's offset in learning the classifier; the rest is after it
ROUNDS = 5  # of predicting the target and moving it
NEIGHBOURS, FEWEST_NEIGHBOURS = 16, 5  # a cell itself and its 15 nearest; where they are looked for in a subsample
CELLS_A_NEIGHBOUR = 16  # of fewer than 256 cells accordingly fewer are asked
NEIGHBOURS_SHARE = 0.5  # their part in a cell's answer
MOST_NEIGHBOURS = 10_000  # cells that neighbours are looked for among


# --- 1. the encoder ----------------------------------------------------------------------------------------------------------


class Projection(nn.Module):
    """A cell, scaled to the length all cells share, on two sets of principal components: (n, p) to latents (n, 2 * c).

    The first c components are of features scaled by their standard deviations, the others of the features as they are.
    Nothing in it is trained: `fit_projection` computes it.
    """

    length: Tensor
    weight: Tensor
    offset: Tensor

    def __init__(self, n_features: int, n_latent: int) -> None:
        super().__init__()
        self.register_buffer("length", torch.ones(()))
        self.register_buffer("weight", torch.zeros(n_features, n_latent))
        self.register_buffer("offset", torch.zeros(n_latent))

    def forward(self, x: Tensor) -> Tensor:
        lengths = x.norm(dim=1, keepdim=True).clamp_min(1e-6)
        latent: Tensor = (x * (self.length / lengths)) @ self.weight - self.offset
        return latent


def fit_encoder(x: sparse.csr_matrix, batches: dict[str, Cells], settings: Settings) -> Projection:
    """Compute the projection from all cells of the run, annotated ones and the target's, float32 (n, p), and store the latents
    of the batches' cells, which never change."""
    encoder = fit_projection(x, settings.seed).to(settings.device)
    bare = Annotator(encoder, nn.Identity())
    for cells in batches.values():
        cells.latent = encode(bare, cells.x, settings.device)
    return encoder


def fit_projection(x: sparse.csr_matrix, seed: int) -> Projection:
    """Compute principal components of cells scaled to a common length, twice: of features divided by their standard deviation
    plus its median over the features, and of features as they are.

    Parameters
    ----------
    x
        Float32 (n, p). At most 20,000 cells, chosen at random, are used.

    Returns
    -------
    An encoder with latents of 100 numbers; fewer if there are fewer cells or features than components.

    Notes
    -----
    Scaling cells to one length takes out how deep they were read. Dividing by the standard deviation lets features of small
    variance speak, the median keeps those of next to none quiet.
    """
    x = x[subsample(x.shape[0], MOST_CELLS, seed)].astype(np.float64)
    lengths = linalg.norm(x, axis=1)
    length = float(lengths[lengths > 0].mean()) if (lengths > 0).any() else 1.0
    x = sparse.diags_array(length / np.maximum(lengths, 1e-6)) @ x
    mean = np.asarray(x.mean(axis=0)).ravel()
    deviation = np.sqrt(np.maximum(np.asarray(x.multiply(x).mean(axis=0)).ravel() - mean**2, 0))
    deviation[deviation < 1e-6 * length] = 0  # what rounding leaves of a feature that is the same in all cells
    softened = deviation + (np.median(deviation) or deviation.mean() or 1.0)
    n_components = min(COMPONENTS, *(max(1, size - 1) for size in x.shape))
    scales = [1 / softened, np.ones(x.shape[1])]
    if deviation.any():
        axes = principal_axes(x, mean, scales, n_components, seed)
    else:  # all cells are alike: there are no axes to look for
        axes = [np.zeros((n_components, x.shape[1]))] * 2
    weight = np.concatenate([scale[:, None] * of.T for scale, of in zip(scales, axes, strict=True)], axis=1)
    encoder = Projection(x.shape[1], 2 * n_components)
    encoder.length.fill_(length)
    encoder.weight.copy_(torch.from_numpy(weight))
    encoder.offset.copy_(torch.from_numpy(mean @ weight))
    return encoder


# --- 2. the source, and the classifier of all batches --------------------------------------------------------------------------


class SoftmaxViews(nn.Module):
    """One softmax regression for each of VIEWS, their probabilities averaged: latents (n, d) to log probabilities (n, K), which
    are logits too. `fit_classifier` computes them."""

    weight: Tensor
    bias: Tensor

    def __init__(self, n_latent: int, n_classes: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(len(VIEWS), n_latent, n_classes))  # zero where a view does not look
        self.register_buffer("bias", torch.zeros(len(VIEWS), n_classes))

    def forward(self, latent: Tensor) -> Tensor:
        logits = torch.einsum("nc,vck->vnk", latent, self.weight) + self.bias[:, None]
        return torch.logsumexp(torch.log_softmax(logits, dim=2), dim=0) - math.log(len(VIEWS))


def view_columns(view: tuple[int, int], n_latent: int) -> slice:
    """Return where a view's components are in a latent of `n_latent` numbers, of which each block has half.

    >>> view_columns((1, 20), 100)
    slice(50, 70, None)
    """
    block, components = view
    start = block * (n_latent // 2)
    return slice(start, start + min(components, n_latent // 2))


def fit_source(
    cells: Cells, n_classes: int, settings: Settings, encoder: nn.Module | None = None
) -> tuple[Annotator, list[dict[str, Any]]]:
    """Compute the classifier of the source's cells; there are no epochs to tell of."""
    assert encoder is not None
    return Annotator(encoder, _classifier({"source": cells}, {"source": None}, n_classes, settings)), []


def _classifier(
    batches: dict[str, Cells], adapters: dict[str, nn.Module | None], n_classes: int, settings: Settings
) -> SoftmaxViews:
    """Learn the classifier from all batches' training cells: by their batch's offset, with nine tenths of a cell's weight, and as
    they are, with the rest. So it also knows latents that nothing has moved, as a target's are before alignment."""
    latents, y, weights = [], [], []
    for name, cells in batches.items():
        assert cells.latent is not None
        adapter = adapters[name]
        training, of_training, unmoved = cells.latent[~cells.held_out], cells.y[~cells.held_out], 1.0
        if isinstance(adapter, Offset):
            latents.append(training + adapter.numpy())
            y.append(of_training)
            weights.append(np.full(len(training), 1 - UNMOVED))
            unmoved = UNMOVED
        latents.append(training)
        y.append(of_training)
        weights.append(np.full(len(training), unmoved))
    all_latents, all_y, all_weights = np.concatenate(latents), np.concatenate(y), np.concatenate(weights)
    chosen = subsample(len(all_y), MOST_CELLS, settings.seed)
    for k in np.unique(all_y):  # a rare type is not lost among many cells
        of_type = np.flatnonzero(all_y == k)
        if np.sum(all_y[chosen] == k) < min(FEWEST_OF_A_TYPE, len(of_type)):
            chosen = np.union1d(chosen, of_type[subsample(len(of_type), FEWEST_OF_A_TYPE, settings.seed)])
    classifier = fit_classifier(all_latents[chosen], all_y[chosen], all_weights[chosen], n_classes)
    return classifier.to(settings.device)


def fit_classifier(latent: np.ndarray, y: np.ndarray, weights: np.ndarray, n_classes: int) -> SoftmaxViews:
    """Fit a softmax regression for each view of the latents (scikit-learn's, C = 1).

    Parameters
    ----------
    latent, y, weights
        Cells' latents float32 (n, d), types int64 (n,) as indices into the classes, weights float (n,).
    n_classes
        K; a type that no cell has gets next to no probability.
    """
    classifier = SoftmaxViews(latent.shape[1], n_classes)
    classifier.bias.fill_(NEVER)
    learned = np.unique(y)
    for i, view in enumerate(VIEWS):
        columns = view_columns(view, latent.shape[1])
        weight, bias = _softmax_regression(latent[:, columns].astype(np.float64), y, weights)
        classifier.weight[i, columns, learned] = torch.from_numpy(weight.T.astype(np.float32))
        classifier.bias[i, learned] = torch.from_numpy(bias.astype(np.float32))
    return classifier


def _softmax_regression(latent: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients (k, d) and intercepts (k,) for the k types in `y`."""
    from sklearn.exceptions import (
        ConvergenceWarning,  # scikit-learn takes 0.5 s to import, for which most commands need not wait
    )
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(y)) == 1:
        return np.zeros((1, latent.shape[1])), np.zeros(1)
    with warnings.catch_warnings():
        # Types that can be told apart without error are told ever more surely; the last digits of that do not matter.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=1.0, max_iter=300).fit(latent, y, weights)
    coefficients, intercepts = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn keeps one row for both
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    return coefficients, intercepts


# --- 3. the intermediates ------------------------------------------------------------------------------------------------------


class Offset(nn.Module):
    """A batch's own way into the common latent space: encoder(x) + b, with (n, p) to (n, d)."""

    b: Tensor

    def __init__(self, n_latent: int) -> None:
        super().__init__()
        self.register_buffer("b", torch.zeros(n_latent))

    @classmethod
    def of(cls, b: np.ndarray) -> Offset:
        """Return the offset b, (d,)."""
        offset = cls(len(b))
        offset.b.copy_(torch.from_numpy(b))
        return offset

    def numpy(self) -> np.ndarray:
        """Return b, float32 (d,)."""
        b: np.ndarray = self.b.cpu().numpy()
        return b

    def forward(self, x: Tensor, encoder: nn.Module) -> Tensor:
        latent: Tensor = encoder(x) + self.b
        return latent


def fit_adapter(reference: Reference, batch: str) -> Offset:
    """Compute a batch's offset: to where the training cells of the batches learned so far have the same types."""
    n_classes = len(reference.classes)

    def means(names: list[str]) -> tuple[np.ndarray, np.ndarray]:
        latents = [latent(reference, name, ~reference.batches[name].held_out) for name in names]
        y = np.concatenate([cells.y[~cells.held_out] for cells in map(reference.batches.__getitem__, names)])
        return type_means(np.concatenate(latents), np.eye(n_classes)[y])

    b = offset_between(means([batch]), means(list(reference.adapters)))
    return Offset.of(b).to(reference.settings.device)


def type_means(latent: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean latent of each type and how many cells it rests on.

    Parameters
    ----------
    latent, shares
        Float (n, d), and how much each cell is of each type, float (n, K).

    Returns
    -------
    Float64 (K, d), zero for a type of no cell, and float64 (K,).

    >>> type_means(np.array([[1.0], [3.0]]), np.array([[1.0, 0.0], [1.0, 0.0]]))
    (array([[2.],
           [0.]]), array([2., 0.]))
    """
    cells = shares.sum(axis=0, dtype=np.float64)
    return (shares.T.astype(np.float64) @ latent) / np.maximum(cells, 1e-9)[:, None], cells


def offset_between(own: tuple[np.ndarray, np.ndarray], others: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return by how much to move a batch so that its types lie where others' cells of the same types do, float64 (d,).

    It is the mean, over the batch's cells, of the way from their type's mean to the others'. Types are compared with their own
    kind, so a batch is not moved because it has more of one type and less of another. It is shrunk towards no move by 20 cells.

    Parameters
    ----------
    own, others
        `type_means` of the batch and of the others.
    """
    (means, cells), (there, cells_there) = own, others
    cells = np.where(cells_there > 0, cells, 0.0)
    offset: np.ndarray = cells @ (there - means) / (cells.sum() + SHRINKAGE)
    return offset


def fit_jointly(reference: Reference, stage: TrainingStage, batch: str) -> list[str]:
    """Learn the classifier from all batches, once: with the last intermediate."""
    if stage != TrainingStage.FINETUNED or batch != reference.intermediates[-1]:
        return []
    adapters, n_classes = reference.adapters, len(reference.classes)
    reference.model.classifier = _classifier(reference.batches, adapters, n_classes, reference.settings)
    return reference.intermediates


def latent(reference: Reference, batch: str, rows: np.ndarray) -> np.ndarray:
    """Return the latents float32 (m, d) of some of a batch's cells (bool or index), by its offset if it has one yet."""
    stored, adapter = reference.batches[batch].latent, reference.adapters.get(batch)
    assert stored is not None
    of_rows: np.ndarray = stored[rows]
    return of_rows + adapter.numpy() if isinstance(adapter, Offset) else of_rows


# --- 4. the target ---------------------------------------------------------------------------------------------------------------


def predict_proba(model: Annotator, latent: np.ndarray, settings: Settings) -> np.ndarray:
    """Return probabilities float32 (n, K): half of each cell's answer is its own, half that of its nearest cells here."""
    own = classify(model.classifier, latent, settings.device)
    return with_neighbours(own, own, neighbours(latent, latent, settings.seed))


def predict_held_out(model: Annotator, known: KnownLatents, settings: Settings) -> np.ndarray:
    """Return probabilities float32 (m, K) of the held-out cells: half from the nearest training cells."""
    if known.near_held_out is None:
        known.near_held_out = neighbours(known.held_out, known.latent, settings.seed)
    own = classify(model.classifier, known.held_out, settings.device)
    return with_neighbours(own, classify(model.classifier, known.latent, settings.device), known.near_held_out)


def neighbours(latent: np.ndarray, others: np.ndarray, seed: int) -> np.ndarray:
    """Find for each cell the 16 most alike of other cells, or of the same, itself among them: positions in `others`, int64 (n, k).

    Notes
    -----
    A rare type's cells would be given others' answers if more were asked than there are of the type. So of more than 10,000
    cells a subsample is asked, and accordingly fewer neighbours, at least five; and of fewer than 256 cells a sixteenth
    (benchmarks/README.md), at least the cell itself.
    """
    some = subsample(len(others), MOST_NEIGHBOURS, seed)
    k = max(FEWEST_NEIGHBOURS, round(NEIGHBOURS * len(some) / max(1, len(others))))
    k = min(k, max(1, len(others) // CELLS_A_NEIGHBOUR))
    near: np.ndarray = some[nearest(latent, others[some], k)[0]]
    return near


def with_neighbours(own: np.ndarray, theirs: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Mix each cell's own answer, half, with the mean over its nearest cells, the other half: cells of one type lie together in
    a batch also where the annotated ones' do not.

    Parameters
    ----------
    own, theirs
        Probabilities float (n, K) and (m, K), of the cells and of those that neighbours were looked for among.
    near
        `neighbours`, int (n, k).

    Returns
    -------
    Float (n, K), rows still of sum 1.

    >>> own = np.array([[1.0, 0.0], [0.5, 0.5]])
    >>> with_neighbours(own, own, np.array([[0, 1], [1, 0]]))
    array([[0.875, 0.125],
           [0.625, 0.375]])
    """
    of_neighbours = theirs[near].mean(axis=1) if len(own) else own
    return (1 - NEIGHBOURS_SHARE) * own + NEIGHBOURS_SHARE * of_neighbours


def latent_for_novelty(model: Annotator, latent: np.ndarray, known: KnownLatents, settings: Settings) -> np.ndarray:
    """Return the latents as alignment would move them, also where the batch is not aligned: all cells are moved alike, so what is
    new stays apart, and a batch is not new as a whole."""
    moved: np.ndarray = latent + target_offset(model.classifier, latent, known, settings)[0]
    return moved


# --- 5. alignment ----------------------------------------------------------------------------------------------------------------


def align(annotated: Annotated, x: sparse.csr_matrix, known: KnownLatents, settings: Settings) -> None:
    """Move all target cells alike, unless annotated batches, left out and annotated both ways, were annotated no better for it."""
    if not settings.always_align:
        annotated.notes.append(f"{known.why}.")
        if known.mode != AlignmentMode.ALIGNED:
            return
    b, curve = target_offset(annotated.model.classifier, annotated.latent[TargetStage.BEFORE], known, settings)
    annotated.curves += curve
    annotated.model = annotated.model.copy_with(Offset.of(b).to(settings.device))
    spread = float(np.sqrt(known.latent.var(axis=0).sum()))
    distance = float(np.linalg.norm(b)) / spread if spread > 0 else 0.0
    annotated.notes.append(f"The target was moved by {distance:.2f} of the annotated cells' standard deviation.")
    add_stage(annotated, TargetStage.ALIGNED, x, known, settings)


def target_offset(
    classifier: nn.Module, latent: np.ndarray, known: KnownLatents, settings: Settings
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Return by how much a batch's latents (n, d) are moved, float32 (d,), and by how much more in each round.

    Predicting and moving take turns, five times. Each type is compared with its own kind (`offset_between`), so that a batch of
    another composition is not moved for it.
    """
    there = type_means(known.latent, np.eye(len(known.classes))[known.y])
    b, curve = np.zeros(latent.shape[1]), []
    for i in range(ROUNDS):
        shares = classify(classifier, (latent + b).astype(np.float32), settings.device)
        before, b = b, offset_between(type_means(latent, shares), there)
        curve.append({"stage": TargetStage.ALIGNED, "epoch": i + 1, "moved": float(np.linalg.norm(b - before))})
    return b.astype(np.float32), curve


# --- in saved models and in words --------------------------------------------------------------------------------------------------


def empty_annotator(n_features: int, n_classes: int, n_latent: int, has_adapter: bool) -> Annotator:
    """Return an annotator of zeros, to load weights into."""
    adapter = Offset(n_latent) if has_adapter else None
    return Annotator(Projection(n_features, n_latent), SoftmaxViews(n_latent, n_classes), adapter)


def describe(n_latent: int, epochs: int | None) -> str:
    """Return the sentences on learning for the methods paragraph."""
    return (
        f"All cells, those of the target too, were scaled to the same length and projected onto {n_latent} principal components "
        f"(up to {COMPONENTS} of features divided by their standard deviation, and as many of unscaled features). Each further "
        "annotated batch was moved onto the batches before it, cell type by cell type. "
        f"{len(VIEWS)} softmax regressions on different numbers of components were trained on all annotated batches and "
        "averaged. A cell's probabilities were the mean of its own and of the average over the cell and its "
        f"{NEIGHBOURS - 1} nearest cells of the target."
    )


def describe_alignment(stages: Collection[str]) -> str:
    """Return the sentence on alignment for the methods paragraph."""
    return (
        "The target was aligned without its labels: all its cells were moved by one vector towards the annotated cells of the "
        f"predicted types, {ROUNDS} times."
    )
