"""METHOD `default` as models of format 4 were made by it, to annotate with them: nothing is trained here.

The classifier is the mean of five softmax regressions. Half of each cell's answer is its own, half that of its nearest cells in
the target. Alignment is for all of the answer or for none, as left-out batches were annotated better when the model was made.
"""

import math
from collections.abc import Collection

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from ..core.subsample import subsample
from . import default
from .default import Offset, Projection, target_offset
from .mixture import Weights
from .neighbours import Neighbours, nearest
from .networks import Annotator, classify
from .state import AlignmentMode, Annotated, KnownLatents, Settings
from .target import by_nearest

NAME = default.NAME
ALIGNS_LATENTS = True

N_VIEWS = 5
NEIGHBOURS, FEWEST_NEIGHBOURS = 16, 5
CELLS_A_NEIGHBOUR = 16
NEIGHBOURS_SHARE = 0.5
MOST_NEIGHBOURS = 10_000


class SoftmaxViews(nn.Module):
    """Five softmax regressions, their probabilities averaged: latents (n, d) to log probabilities (n, K), which
    are logits too."""

    weight: Tensor
    bias: Tensor

    def __init__(self, n_latent: int, n_classes: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(N_VIEWS, n_latent, n_classes))  # zero where a view does not look
        self.register_buffer("bias", torch.zeros(N_VIEWS, n_classes))

    def forward(self, latent: Tensor) -> Tensor:
        logits = torch.einsum("nc,vck->vnk", latent, self.weight) + self.bias[:, None]
        return torch.logsumexp(torch.log_softmax(logits, dim=2), dim=0) - math.log(N_VIEWS)


def prior_weights() -> Weights:
    """Return the weight of the only member."""
    return (1.0,)


def members(model: Annotator, latent: np.ndarray, settings: Settings) -> np.ndarray:
    """Return the only member's probabilities, float32 (n, 1, K)."""
    return predict_proba(model, latent, (1.0,), settings)[:, None]


def neighbours(latent: np.ndarray, settings: Settings) -> None:
    """Return nothing: they are looked for in another way than today's."""


def predict_proba(
    model: Annotator, latent: np.ndarray, weights: Weights, settings: Settings, near: Neighbours | None = None
) -> np.ndarray:
    """Return probabilities float32 (n, K): half of each cell's answer is its own, half that of its nearest cells here."""
    own = classify(model.classifier, latent, settings.device)
    return _with_neighbours(own, own, _neighbours(latent, latent, settings.seed))


def members_of_held_out(model: Annotator, known: KnownLatents, settings: Settings) -> np.ndarray:
    """Return probabilities float32 (m, 1, K) of the held-out cells: half from the nearest training cells."""
    near = _neighbours(known.held_out, known.latent, settings.seed)
    own = classify(model.classifier, known.held_out, settings.device)
    return _with_neighbours(own, classify(model.classifier, known.latent, settings.device), near)[:, None]


def _neighbours(latent: np.ndarray, others: np.ndarray, seed: int) -> np.ndarray:
    """Find for each cell the 16 most alike of other cells, fewer in a subsample or a small batch: positions, int64 (n, k)."""
    some = subsample(len(others), MOST_NEIGHBOURS, seed)
    k = max(FEWEST_NEIGHBOURS, round(NEIGHBOURS * len(some) / max(1, len(others))))
    k = min(k, max(1, len(others) // CELLS_A_NEIGHBOUR))
    near: np.ndarray = some[nearest(latent, others[some], k)[0]]
    return near


def _with_neighbours(own: np.ndarray, theirs: np.ndarray, near: np.ndarray) -> np.ndarray:
    of_neighbours = theirs[near].mean(axis=1) if len(own) else own
    return (1 - NEIGHBOURS_SHARE) * own + NEIGHBOURS_SHARE * of_neighbours


def novelty(
    model: Annotator, latent: np.ndarray, known: KnownLatents, settings: Settings, near: Neighbours | None = None
) -> np.ndarray:
    """Return the distance to the nearest annotated cells, of the cells as alignment would move them."""
    moved = latent + target_offset(model.classifier, latent, known, settings)[0]
    return by_nearest(moved, known.latent, known.y)


def align(annotated: Annotated, x: sparse.csr_matrix, known: KnownLatents, settings: Settings) -> None:
    """Move all target cells alike, unless the model's own left-out batches were annotated no better for it."""
    if not settings.always_align and known.mode != AlignmentMode.ALIGNED:
        annotated.notes.append(f"{known.why}.")
        return
    default.align(annotated, x, known, settings)


def empty_annotator(n_features: int, n_classes: int, n_latent: int, has_adapter: bool) -> Annotator:
    """Return an annotator of zeros, to load weights into."""
    adapter = Offset(n_latent) if has_adapter else None
    return Annotator(Projection(n_features, n_latent), SoftmaxViews(n_latent, n_classes), adapter)


def describe(n_latent: int, epochs: int | None, n_annotated: int) -> str:
    """Return the sentences on learning for the methods paragraph."""
    return (
        f"All cells were scaled to the same length and projected onto {n_latent} principal components. "
        f"{N_VIEWS} softmax regressions on different numbers of components were trained on all annotated batches and averaged. "
        "A cell's probabilities were the mean of its own and of the average over the cell and its "
        f"{NEIGHBOURS - 1} nearest cells of the target."
    )


def describe_alignment(stages: Collection[str]) -> str:
    """Return the sentence on alignment for the methods paragraph."""
    return default.describe_alignment(stages).split(";")[0] + "."
