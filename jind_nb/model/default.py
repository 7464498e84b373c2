"""METHOD `default`, all of it in this file: JIND-Multi with parts that are computed, not trained (docs/method.md).

1. Encoder. All cells of the run, the target's too, are scaled to one length and put on principal components, without labels:
   `fit_encoder`. So the target is described as well as the annotated batches are.
2. Classifier. Four members look at different components in different ways: `fit_classifier`. The source's own is the simplest of
   them: `fit_source`.
3. Intermediates. Each batch gets an offset to where the batches before it have the same types: `fit_adapter`. Then all members
   are learned from all batches together: `fit_jointly`.
4. Alignment. The target is predicted and moved in turns, to where the annotated cells of its predicted types lie: `align`. Each
   member answers twice, for the target as it is and as it was moved: `members`.
5. Answer. It is a weighted mean of the members' answers. The weights are those that annotate left-out batches best; without any
   they are the `PRIOR`. Part of a cell's answer is that of its mutual nearest neighbours in the target: `predict_proba`.

What is learned from labels is small, quick and has one optimum, so that a seed changes next to nothing. benchmarks/README.md
has what each part brings, and what was tried instead. Sources: Goyal et al. 2022 (JIND), doi 10.1093/bioinformatics/btac140;
Sancho-Zamora et al. 2025 (JIND-Multi), doi 10.1016/j.csbj.2025.06.043.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy import sparse
from scipy.sparse import linalg
from torch import Tensor, nn

from ..core.sparse_rows import product, sums_and_squares
from ..core.subsample import subsample
from ..core.text import percent
from ..core.threads import one_blas_thread
from ..data.fingerprints import own_order
from .in_blocks import in_blocks
from .mixture import Weights, mixed
from .neighbours import Neighbours
from .networks import Annotator, classify, encode
from .new_types import (
    ALONE,
    APART,
    BESIDE_NOVEL,
    EASIER,
    FLOOR,
    SLOPE,
    START,
    UNSURE,
    AnnotatedSpace,
    Compared,
    hide_in_turn,
    novelty_of_annotated,
)
from .pca import principal_axes
from .predictions import SHARE_ABOVE, Rule
from .state import (
    Annotated,
    Cells,
    Exceeded,
    KnownLatents,
    NoveltyLimit,
    Reference,
    Settings,
    TargetStage,
    TrainingStage,
    TypeSums,
)
from .target import add_stage, by_nearest

NAME = "default"
ALIGNS_LATENTS = True
SOURCE_HELD_OUT = 0.1
TARGET_IN_ENCODER = True
SOURCE_BY_TRIAL = False
ALWAYS_ALIGNS = False
ALWAYS_CALIBRATES = True
MOST_TRAININGS = 9  # one for each left-out batch (`leave_one_out.MOST_LEFT_OUT`)
NOVELTY = NoveltyLimit(
    SHARE_ABOVE, FLOOR, START, SLOPE, UNSURE, APART, ALONE, by_profiles=True, beside_novel=BESIDE_NOVEL
)
KEEPS_CHECKPOINTS = False  # all it would save are seconds

COMPONENTS = 100  # or one for each cell type, if there are more
EVERY = 1_000_000  # more than a latent ever has: a head that sees a whole block
NEAR = 50  # first components of each block by which cells are compared with each other
# The members, and which latents their heads see: the block of `Projection`, and how many of its first components.
MEMBERS = {
    "views": ((0, 10), (0, 20), (0, 50), (1, 20), (1, 50)),
    "many unscaled components": ((1, EVERY),),
    "many scaled components": ((0, EVERY),),
    "discriminant": ((0, NEAR), (1, NEAR)),  # one head that sees both
}
# How many heads each has: a regression for each view, or the one discriminant.
HEADS = {member: 1 if member == "discriminant" else len(views) for member, views in MEMBERS.items()}
N_HEADS = sum(HEADS.values())
# Weights of the members, for the target as it is and as it was moved, before left-out batches say better (benchmarks/README.md).
PRIOR = ((0.3, 0.05, 0.05, 0.15), (0.2, 0.15, 0.05, 0.05))
MOST_CELLS = 20_000  # that components and classifier are computed from
FEWEST_OF_A_TYPE = 100  # of these, where a type has so many
NEVER = -30.0  # log odds of a type that no cell is labelled with
COVARIANCE_SHRINKAGE = 0.5  # of the discriminant, towards a sphere
COOLED = 3.0  # what the discriminant's log odds are divided by: it is too sure
TOLERANCE, MOST_STEPS = 2e-3, 200  # of the regressions
SHRINKAGE = 20.0  # cells without an offset that an offset is averaged with
UNMOVED = 0.1  # weight of a cell's latent before its batch's offset in learning the classifier; the rest is after it
ROUNDS = 5  # of predicting the target and moving it
NEIGHBOURS_SHARE = 0.4  # their part in a cell's answer
MOST_MOVED = 20_000  # cells of a batch that its offset is computed from
ROUNDING = 1e-6  # by which the same cosine may differ, computed from either side
CELLS_AT_ONCE = 5_000  # that all members answer for; memory only


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

    def of_sparse(self, x: sparse.csr_matrix) -> Tensor:
        """Return what `forward` does, to rounding, of cells of which only the values that are not zero are given, on the CPU."""
        return self.of_product(product(x, self.weight.numpy()), sums_and_squares(x)[1])

    def of_product(self, products: np.ndarray, squares: np.ndarray) -> Tensor:
        """Return what `of_sparse` does, given the product of the cells and the weight, float32 (n, d), and the sums of the cells'
        squares, float64 (n,)."""
        lengths = torch.from_numpy(np.sqrt(squares).astype(np.float32)).clamp_min(1e-6)[:, None]
        return torch.from_numpy(products).mul(self.length / lengths).sub_(self.offset)


def fit_encoder(x: sparse.csr_matrix, batches: dict[str, Cells], settings: Settings) -> Projection:
    """Compute the projection from all cells of the run, annotated ones and the target's, float32 (n, p), and store the latents
    of the batches' cells, which never change."""
    n_types = len(np.unique(np.concatenate([cells.y for cells in batches.values()])))
    encoder = fit_projection(x, settings.seed, max(COMPONENTS, n_types)).to(settings.device)
    bare = Annotator(encoder, nn.Identity())
    for cells in batches.values():
        cells.latent = encode(bare, cells.x, settings.device)
    return encoder


def fit_projection(x: sparse.csr_matrix, seed: int, n_components: int = COMPONENTS) -> Projection:
    """Compute principal components of cells scaled to a common length, twice: of features divided by their standard deviation
    plus its median over the features, and of features as they are.

    Parameters
    ----------
    x
        Float32 (n, p). At most 20,000 cells, chosen at random, are used.

    Returns
    -------
    An encoder with latents of twice `n_components` numbers; fewer if there are fewer cells or features than components.

    Notes
    -----
    Scaling cells to one length takes out how deep they were read. Dividing by the standard deviation lets features of small
    variance speak, the median keeps those of next to none quiet.
    """
    x = x[own_order(x)[subsample(x.shape[0], MOST_CELLS, seed)]].astype(np.float64)
    lengths = linalg.norm(x, axis=1)
    length = float(lengths[lengths > 0].mean()) if (lengths > 0).any() else 1.0
    x = sparse.diags_array(length / np.maximum(lengths, 1e-6)) @ x
    mean = np.asarray(x.mean(axis=0)).ravel()
    deviation = np.sqrt(np.maximum(np.asarray(x.multiply(x).mean(axis=0)).ravel() - mean**2, 0))
    deviation[deviation < 1e-6 * length] = 0  # what rounding leaves of a feature that is the same in all cells
    softened = deviation + (np.median(deviation) or deviation.mean() or 1.0)
    n_components = min(n_components, *(max(1, size - 1) for size in x.shape))
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


# --- 2. the classifier -----------------------------------------------------------------------------------------------------------


class Heads(nn.Module):
    """Linear heads with a softmax each: latents (n, d) to log probabilities (n, K), which are logits too; `fit_classifier`
    computes them. `of_members` tells the members apart, `forward` gives their mean by `prior`."""

    weight: Tensor
    bias: Tensor
    prior: Tensor

    def __init__(self, n_latent: int, n_classes: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(N_HEADS, n_latent, n_classes))  # zero where a head does not look
        self.register_buffer("bias", torch.full((N_HEADS, n_classes), NEVER))
        self.register_buffer("prior", torch.zeros(len(MEMBERS)))

    def of_members(self, latent: Tensor) -> Tensor:
        """Return the members' probabilities, (n, M, K): the mean of each member's heads."""
        logits = torch.einsum("nc,hck->nhk", latent, self.weight) + self.bias
        # A softmax; torch's own takes five times as long for so few numbers at a time.
        exponentials = torch.exp(logits - logits.amax(dim=2, keepdim=True))
        probabilities = exponentials / exponentials.sum(dim=2, keepdim=True)
        of_members = probabilities.split(list(HEADS.values()), dim=1)
        return torch.stack([of_heads.mean(dim=1) for of_heads in of_members], dim=1)

    def forward(self, latent: Tensor) -> Tensor:
        mean = torch.einsum("nmk,m->nk", self.of_members(latent), self.prior)
        return torch.log(mean.clamp_min(1e-30))


def columns_of(view: tuple[int, int], n_latent: int) -> np.ndarray:
    """Return where a view's components are in a latent of `n_latent` numbers, of which each block has half.

    >>> columns_of((1, 2), 10)
    array([5, 6])
    """
    block, components = view
    start = block * (n_latent // 2)
    return np.arange(start, start + min(components, n_latent // 2))


def near_columns(n_latent: int) -> np.ndarray:
    """Return the columns of a latent by which cells are compared with each other: the first 50 of each block."""
    return np.concatenate([columns_of(view, n_latent) for view in MEMBERS["discriminant"]])


@one_blas_thread
def fit_source(
    cells: Cells, n_classes: int, settings: Settings, encoder: nn.Module | None = None
) -> tuple[Annotator, list[dict[str, Any]]]:
    """Compute the discriminant of the source's cells; there are no epochs to tell of. The other members follow with all
    batches."""
    assert encoder is not None
    assert cells.latent is not None
    classifier = Heads(cells.latent.shape[1], n_classes)
    training = ~cells.held_out
    _fit_discriminant(classifier, cells.latent[training], cells.y[training])
    classifier.prior[-1] = 1.0
    return Annotator(encoder, classifier.to(settings.device)), []


@one_blas_thread
def fit_jointly(reference: Reference, stage: TrainingStage, batch: str) -> list[str]:
    """Learn all members from all batches: once, when the last one has its offset."""
    last = reference.intermediates[-1] if reference.intermediates else None
    if stage != (TrainingStage.RETRAIN if last is None else TrainingStage.FINETUNED) or (last and batch != last):
        return []
    classifier = fit_classifier(*_training_cells(reference), len(reference.classes))
    reference.model.classifier = classifier.to(reference.settings.device)
    return reference.intermediates


def _training_cells(reference: Reference) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return latents, types and weights of the cells that all members are learned from, and which are where their batch's
    offset puts them.

    Cells of a batch with an offset are there twice: moved by it, with nine tenths of a cell's weight, and as they are, with the
    rest. So the members also know latents that nothing has moved, as a target's are before alignment.
    """
    parts, y, weights, moved = [], [], [], []  # a part: latents, which of them, and by how much they are moved
    nowhere = np.zeros(1, dtype=np.float32)
    for name, cells in reference.batches.items():
        assert cells.latent is not None
        adapter, rows = reference.adapters[name], np.flatnonzero(~cells.held_out)
        copies = [(nowhere, 1.0, True)]
        if isinstance(adapter, Offset):
            copies = [(adapter.numpy(), 1 - UNMOVED, True), (nowhere, UNMOVED, False)]
        for offset, weight, at_place in copies:
            parts.append((cells.latent, rows, offset))
            y.append(cells.y[rows])
            weights.append(np.full(len(rows), weight))
            moved.append(np.full(len(rows), at_place))
    all_y, ends = np.concatenate(y), np.cumsum(list(map(len, y)))
    chosen = subsample(len(all_y), MOST_CELLS, reference.settings.seed)
    for k in np.unique(all_y):  # a rare type is not lost among many cells
        of_type = np.flatnonzero(all_y == k)
        if np.sum(all_y[chosen] == k) < min(FEWEST_OF_A_TYPE, len(of_type)):
            chosen = np.union1d(chosen, of_type[subsample(len(of_type), FEWEST_OF_A_TYPE, reference.settings.seed)])
    latents = []  # of the chosen cells alone: all would be twice the memory of the batches' own
    for (latent, rows, offset), end in zip(parts, ends, strict=True):
        of_part = chosen[(chosen >= end - len(rows)) & (chosen < end)] - (end - len(rows))
        latents.append(latent[rows[of_part]] + offset)
    return np.concatenate(latents), all_y[chosen], np.concatenate(weights)[chosen], np.concatenate(moved)[chosen]


def fit_classifier(
    latent: np.ndarray, y: np.ndarray, weights: np.ndarray, at_place: np.ndarray, n_classes: int
) -> Heads:
    """Fit all members.

    Parameters
    ----------
    latent, y, weights, at_place
        Cells' latents float32 (n, d), types int64 (n,) as indices into the classes, weights float (n,), and whether a latent is
        where its batch's offset puts it, bool (n,): the discriminant is computed from these.
    n_classes
        K; a type that no cell has gets next to no probability.

    Notes
    -----
    In the regressions a type counts as much as the square root of its cells: between every cell alike, which drowns rare types,
    and every type alike, which overrates them.
    """
    classifier = Heads(latent.shape[1], n_classes)
    of_types = weights / np.sqrt(np.bincount(y)[y])
    of_types /= of_types.mean() / weights.mean()
    views = [view for member in list(MEMBERS)[:-1] for view in MEMBERS[member]]
    for head, view in enumerate(views):
        columns = columns_of(view, latent.shape[1])
        weight, bias = _softmax_regression(latent[:, columns].astype(np.float64), y, of_types)
        _set_head(classifier, head, columns, np.unique(y), weight, bias)
    _fit_discriminant(classifier, latent[at_place], y[at_place])
    classifier.prior.copy_(torch.tensor(PRIOR).sum(dim=0))
    return classifier


def _set_head(
    classifier: Heads, head: int, columns: np.ndarray, types: np.ndarray, weight: np.ndarray, bias: np.ndarray
) -> None:
    """Enter a head's weights (k, c) and biases (k,) for the k types and c columns that it knows."""
    classifier.weight[head][np.ix_(columns, types)] = torch.from_numpy(weight.T.astype(np.float32))
    classifier.bias[head, types] = torch.from_numpy(bias.astype(np.float32))


def _softmax_regression(latent: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients (k, d) and intercepts (k,) for the k types in `y` (scikit-learn's, C = 1)."""
    from sklearn.exceptions import (
        ConvergenceWarning,  # scikit-learn takes 0.5 s to import, for which most commands need not wait
    )
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(y)) == 1:
        return np.zeros((1, latent.shape[1])), np.zeros(1)
    with warnings.catch_warnings():
        # Types that can be told apart without error are told ever more surely; the last digits of that do not matter.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=1.0, tol=TOLERANCE, max_iter=MOST_STEPS).fit(latent, y, weights)
    coefficients, intercepts = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn keeps one row for both
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    return coefficients, intercepts


def _fit_discriminant(classifier: Heads, latent: np.ndarray, y: np.ndarray) -> None:
    """Compute the last head: a linear discriminant (Fisher 1936) whose covariance, common to all types, is shrunk halfway to a
    sphere, with types' shares to the power of a half. It needs no more than two cells of a type."""
    columns = near_columns(latent.shape[1])
    z, types = latent[:, columns].astype(np.float64), np.unique(y)
    means = np.stack([z[y == k].mean(axis=0) for k in types])
    within = z - means[np.searchsorted(types, y)]
    covariance = within.T @ within / max(1, len(z) - len(types))
    sphere = max(float(np.trace(covariance)) / len(covariance), 1e-6)
    covariance = (1 - COVARIANCE_SHRINKAGE) * covariance + COVARIANCE_SHRINKAGE * sphere * np.eye(len(covariance))
    weight = np.linalg.solve(covariance, means.T).T
    shares = np.bincount(y)[types] / len(y)
    bias = -0.5 * np.einsum("kc,kc->k", weight, means) + 0.5 * np.log(shares)
    _set_head(classifier, N_HEADS - 1, columns, types, weight / COOLED, bias / COOLED)


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


@one_blas_thread
def fit_adapter(reference: Reference, batch: str) -> Offset:
    """Compute a batch's offset: to where the training cells of the batches learned so far have the same types."""
    others = _sums_of_learned(reference)
    b = offset_between(_means(*_sums_of(reference, batch)), _means(others.latent, others.cells))
    return Offset.of(b).to(reference.settings.device)


def _sums_of(reference: Reference, batch: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum of latents of each type in a batch's training cells, float64 (K, d), and their number, float64 (K,)."""
    cells = reference.batches[batch]
    y = cells.y[~cells.held_out]
    of_types = sparse.csr_array((np.ones(len(y)), (y, np.arange(len(y)))), shape=(len(reference.classes), len(y)))
    return of_types @ latent(reference, batch, ~cells.held_out).astype(np.float64), of_types.sum(axis=1)


def _sums_of_learned(reference: Reference) -> TypeSums:
    """Return the sums over all batches learned so far, to which only those are added that are new since the last call.

    So hundreds of batches cost no more than their cells do.
    """
    if reference.sums is None:
        n_latent = latent(reference, reference.source, np.array([], dtype=np.int64)).shape[1]
        n_classes = len(reference.classes)
        reference.sums = TypeSums(np.zeros((n_classes, n_latent)), np.zeros(n_classes))
    for batch in [name for name in reference.adapters if name not in reference.sums.batches]:
        of_batch, n_cells = _sums_of(reference, batch)
        reference.sums.latent += of_batch
        reference.sums.cells += n_cells
        reference.sums.batches.add(batch)
    return reference.sums


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
    return _means(shares.T.astype(np.float64) @ latent, shares.sum(axis=0, dtype=np.float64))


def _means(sums: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the means (K, d) of sums over so many cells (K,), and these numbers."""
    return sums / np.maximum(cells, 1e-9)[:, None], cells


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


def latent(reference: Reference, batch: str, rows: np.ndarray) -> np.ndarray:
    """Return the latents float32 (m, d) of some of a batch's cells (bool or index), by its offset if it has one yet."""
    stored, adapter = reference.batches[batch].latent, reference.adapters.get(batch)
    assert stored is not None
    of_rows: np.ndarray = stored[rows]
    return of_rows + adapter.numpy() if isinstance(adapter, Offset) else of_rows


# --- 4. alignment ----------------------------------------------------------------------------------------------------------------


def align(annotated: Annotated, x: sparse.csr_matrix, known: KnownLatents, settings: Settings) -> None:
    """Move all target cells alike, and let each member answer for the moved cells too."""
    annotated.notes.append(f"{known.why}.")
    latent = annotated.latent[TargetStage.BEFORE]
    b, curve = target_offset(annotated.model.classifier, latent, known, settings)
    annotated.curves += curve
    annotated.model = annotated.model.copy_with(Offset.of(b).to(settings.device))
    spread = float(np.sqrt(known.latent.var(axis=0).sum()))
    distance = float(np.linalg.norm(b)) / spread if spread > 0 else 0.0
    annotated.notes.append(f"The target was moved by {distance:.2f} of the annotated cells' standard deviation.")
    add_stage(annotated, TargetStage.ALIGNED, latent + b, known, settings)


@one_blas_thread
def target_offset(
    classifier: nn.Module, latent: np.ndarray, known: KnownLatents, settings: Settings
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Return by how much a batch's latents (n, d) are moved, float32 (d,), and by how much more in each round.

    Predicting and moving take turns, five times. Each type is compared with its own kind (`offset_between`), so that a batch of
    another composition is not moved for it. At most 20,000 of the cells are asked.
    """
    there = type_means(known.latent, np.eye(len(known.classes))[known.y])
    latent = latent[subsample(len(latent), MOST_MOVED, settings.seed)]
    b, curve = np.zeros(latent.shape[1]), []
    for i in range(ROUNDS):
        shares = classify(classifier, (latent + b).astype(np.float32), settings.device)
        before, b = b, offset_between(type_means(latent, shares), there)
        curve.append({"stage": TargetStage.ALIGNED, "epoch": i + 1, "moved": float(np.linalg.norm(b - before))})
    return b.astype(np.float32), curve


@one_blas_thread
def novelty(
    model: Annotator, latent: np.ndarray, known: KnownLatents, settings: Settings, near: Neighbours | None = None
) -> np.ndarray:
    """Return how unlike the annotated cells each cell is: by groups of cells, before alignment and after it (`new_types`).

    Parameters
    ----------
    near
        The cells' `neighbours`; they are looked for if they are not given.
    """
    columns = near_columns(latent.shape[1])
    offset = target_offset(model.classifier, latent, known, settings)[0]
    if known.novelty_limit is None:
        return by_nearest((latent + offset)[:, columns], known.latent[:, columns], known.y)
    known.space = known.space or AnnotatedSpace.of(known.latent, known.batch, known.y, columns)
    some = np.ones(len(latent), dtype=bool)
    if isinstance(model.encoder, Projection):  # a cell without values is where the encoder puts zero
        zero = -model.encoder.offset.cpu().numpy()
        of_blocks = in_blocks(lambda rows: np.abs(latent[rows] - zero).max(axis=1) > 1e-6, len(latent), CELLS_AT_ONCE)
        some = np.concatenate(of_blocks)
    found = np.zeros(len(latent))  # those without any value are rejected for that
    if near is None or not some.all():
        latent = latent[some]
        near = neighbours(latent, settings)
    compared = Compared.of(latent, columns, near)
    shares = classify(model.classifier, latent[near.among] + offset, settings.device)
    found[some] = known.space.novelty(latent, compared, shares, offset)
    return found


@one_blas_thread
def limit_alone(model: Annotator, known: KnownLatents, settings: Settings) -> NoveltyLimit:
    """Return NOVELTY with the limit for annotated batches of which none could be left out: by their cells where they lie."""
    columns = near_columns(known.latent.shape[1])
    shares = classify(model.classifier, known.latent, settings.device)
    found = novelty_of_annotated(known.latent.astype(np.float64), known.batch, known.y, shares, columns)
    return NOVELTY if found is None else replace(NOVELTY, alone=NOVELTY.from_exceeded(Exceeded(found + EASIER)))


@one_blas_thread
def hide_types(model: Annotator, known: KnownLatents, rule: Rule, settings: Settings) -> dict[str, float]:
    """Return which share of each type's cells would be flagged if no other batch had the type, by name: `new_types`."""
    if rule.novelty_threshold is None:
        return {}
    columns = near_columns(known.latent.shape[1])
    shares = classify(model.classifier, known.latent, settings.device)
    found = hide_in_turn(known.latent.astype(np.float64), known.batch, known.y, shares, columns)
    return {
        known.classes[k]: float(
            np.mean([(novelty[hidden] > rule.limit_of(novelty)).mean() for novelty, hidden in of_batches])
        )
        for k, of_batches in found.items()
    }


# --- 5. the answer -----------------------------------------------------------------------------------------------------------------


def prior_weights() -> Weights:
    """Return the members' weights before any batch was left out: for the cells as they are, then for the cells as moved."""
    return sum(PRIOR, ())


def neighbours(latent: np.ndarray, settings: Settings) -> Neighbours:
    """Find the nearest cells of each cell of a batch, by the columns of latents (n, d) by which cells are compared."""
    return Neighbours.of(latent, near_columns(latent.shape[1]), settings.seed)


def members(model: Annotator, latent: np.ndarray, settings: Settings) -> np.ndarray:
    """Return each member's probabilities, float32 (n, 2 M, K): of the cells as they are, then of the cells as moved.

    Without an adapter both are the same: nothing was moved.
    """
    own, near = _own(model, latent, settings), mutual(neighbours(latent, settings))
    return np.stack([with_neighbours(own[:, m], near) for m in range(own.shape[1])], axis=1)


def members_of_held_out(model: Annotator, known: KnownLatents, settings: Settings) -> np.ndarray:
    """Return each member's probabilities, float32 (m, 2 M, K), of the held-out cells, which lie where their own batches'
    offsets put them: no target's offset moves them."""
    return members(Annotator(model.encoder, model.classifier), known.held_out, settings)


def predict_proba(
    model: Annotator, latent: np.ndarray, weights: Weights, settings: Settings, near: Neighbours | None = None
) -> np.ndarray:
    """Return the weighted mean of the members' answers, two fifths of it that of a cell's mutual nearest neighbours: float32
    (n, K)."""
    answers = in_blocks(lambda rows: mixed(_own(model, latent[rows], settings), weights), len(latent), CELLS_AT_ONCE)
    return with_neighbours(np.concatenate(answers), mutual(near or neighbours(latent, settings)))


@torch.no_grad()
def _own(model: Annotator, latent: np.ndarray, settings: Settings) -> np.ndarray:
    """Return each member's own probabilities of the cells as they are and as moved, float32 (n, 2 M, K)."""
    assert isinstance(model.classifier, Heads)
    here = torch.from_numpy(latent).to(settings.device)
    moved = model.classifier.of_members(here)
    unmoved = moved
    if isinstance(model.adapter, Offset):
        unmoved = model.classifier.of_members(here - model.adapter.b)
    both: np.ndarray = torch.cat([unmoved, moved], dim=1).cpu().numpy()
    return both


def mutual(near: Neighbours) -> tuple[np.ndarray, np.ndarray]:
    """Return positions of each cell's nearest cells, int64 (n, k), and which of these have it among their own nearest too, bool
    (n, k).

    Cells of a rare type are each other's nearest, and have cells of a common type near them for want of more of their own; but
    these have nearer ones. So a rare type is not outvoted.
    """
    farthest = near.cosines[near.among, -1]
    return near.among[near.positions], near.cosines >= farthest[near.positions] - ROUNDING


def with_neighbours(own: np.ndarray, near: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Mix each cell's own answer with the mean over its mutual nearest neighbours: cells of one type lie together in a batch
    also where the annotated ones' do not. A cell without any keeps its own answer.

    Parameters
    ----------
    own
        Probabilities float (n, K).
    near
        `mutual`.

    Returns
    -------
    Float32 (n, K), rows still of sum 1.

    >>> own = np.array([[1.0, 0.0], [0.5, 0.5]])
    >>> with_neighbours(own, (np.array([[0, 1], [1, 0]]), np.array([[True, True], [True, False]]))).round(2).astype(float).round(2).tolist()
    [[0.9, 0.1], [0.5, 0.5]]
    """
    positions, mutual = near
    if not len(own):
        return own.astype(np.float32)

    def mixture(rows: slice) -> np.ndarray:
        shares = mutual[rows] / np.maximum(1, mutual[rows].sum(axis=1, keepdims=True))
        theirs = np.zeros(own[rows].shape)
        # One neighbour at a time: all at once would be 16 times the answer's memory.
        for j in range(positions.shape[1]):
            theirs += own[positions[rows, j]] * shares[:, [j]]
        alone = ~mutual[rows].any(axis=1, keepdims=True)
        mixed_in = (1 - NEIGHBOURS_SHARE) * own[rows] + NEIGHBOURS_SHARE * theirs
        return np.where(alone, own[rows], mixed_in).astype(np.float32)

    return np.concatenate(in_blocks(mixture, len(own), CELLS_AT_ONCE))


# --- in saved models and in words --------------------------------------------------------------------------------------------------


def empty_annotator(n_features: int, n_classes: int, n_latent: int, has_adapter: bool) -> Annotator:
    """Return an annotator of zeros, to load weights into."""
    adapter = Offset(n_latent) if has_adapter else None
    return Annotator(Projection(n_features, n_latent), Heads(n_latent, n_classes), adapter)


def describe(n_latent: int, epochs: int | None, n_annotated: int) -> str:
    """Return the sentences on learning for the methods paragraph."""
    moved = (
        "Each further annotated batch was moved as a whole, to where the batches before it have the same cell types. "
    )
    return (
        f"All cells, those of the target too, were scaled to the same length and projected onto {n_latent} principal components "
        f"(half of them of features divided by their standard deviation, and as many of unscaled features). "
        f"{moved if n_annotated > 1 else ''}Four kinds of linear classifiers "
        "(softmax regressions on few, and on many, components of either kind, and a discriminant) were trained on "
        f"{'all annotated batches' if n_annotated > 1 else 'the annotated batch'}. A cell's probabilities were their weighted mean (the weights are in model.json); "
        f"{percent(NEIGHBOURS_SHARE)} came from the cell's mutual nearest neighbours among the target's cells."
    )


def describe_alignment(stages: Collection[str]) -> str:
    """Return the sentence on alignment for the methods paragraph."""
    return (
        "The target was aligned without its labels: all its cells were moved by one vector towards the annotated cells of the "
        f"predicted types, {ROUNDS} times; each classifier answered for the cells before and after it."
    )
