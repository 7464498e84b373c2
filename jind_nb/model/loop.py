"""One pass of gradient descent over minibatches, and what it needs: weights of types, cells to hold out, rates."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from .networks import Annotator, classify, encode

MINIBATCH = 128
SMALLEST_HELD_OUT_TYPE = 5


def set_seeds(seed: int) -> None:
    """Seed torch; called anew at the start of each stage, so that equal stages start from equal weights."""
    torch.manual_seed(seed)


def hold_out(y: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Choose cells to keep out of training, stratified by type.

    Of each type a share, rounded, at least one cell; none of a type with fewer than five cells.

    Parameters
    ----------
    y
        Types, int (n,).
    share
        0 to 1.

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
    """Return the weight of each type in the loss, w_k = 2 / (0.01 + f_k) / K with f_k the share of type k in `y`; 0 for a
    type not in it. Float64 (K,).

    >>> class_weights(np.array([0, 0, 1]), 3).round(3)
    array([0.985, 1.942, 0.   ])
    """
    share = np.bincount(y, minlength=n_classes) / len(y)
    return np.where(share > 0, 2 / (0.01 + share) / n_classes, 0.0)


class Loss:
    """The class-weighted negative log likelihood of logits: sum of w_k * nll / sum of w_k over a minibatch's cells."""

    def __init__(self, weights: np.ndarray, device: torch.device, minibatch: int = MINIBATCH) -> None:
        self.weights = torch.from_numpy(weights.astype(np.float32)).to(device)
        self.minibatch = minibatch

    def __call__(self, logits: Tensor, y: np.ndarray) -> Tensor:
        return F.cross_entropy(logits, torch.from_numpy(y).to(logits.device), weight=self.weights)


def plateau(optimiser: torch.optim.Optimizer) -> ReduceLROnPlateau:
    """Return the rate rule: halve at the third epoch in a row whose mean training loss is not below 0.95 x the best so far."""
    return ReduceLROnPlateau(optimiser, factor=0.5, patience=2, threshold=0.05)


def train_epoch(
    model: Annotator, x: sparse.csr_matrix, y: np.ndarray, optimiser: torch.optim.Optimizer, loss: Loss
) -> float:
    """Train on shuffled minibatches once, in training mode; return the mean loss, weighted by cells."""
    model.train()
    total, take = 0.0, minibatches(x, loss.weights.device)
    for minibatch in torch.randperm(len(y)).split(loss.minibatch):
        rows = minibatch.numpy()
        value = loss(model(take(rows)), y[rows])
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        total += value.item() * len(rows)
    return total / len(y)


def minibatches(x: sparse.csr_matrix, device: torch.device) -> Callable[[np.ndarray], Tensor]:
    """Return a function that gives rows of a sparse matrix as dense float32 tensors on the device.

    Rows are made dense when they are asked for; on a GPU all at once, if they fit into half of its free memory.
    """
    if 4 * x.shape[0] * x.shape[1] > _free_memory(device) / 2:
        return lambda rows: torch.from_numpy(x[rows].toarray()).to(device)
    dense = torch.from_numpy(x.toarray()).to(device)
    return lambda rows: dense[torch.from_numpy(rows).to(device)]


def _free_memory(device: torch.device) -> int:
    """Return the bytes free on a GPU; 0 for anything else, whose memory is to hold sparse values only."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return 0


def accuracy(model: Annotator, x: sparse.csr_matrix, y: np.ndarray, device: torch.device) -> float | None:
    """Return the share of cells whose most probable type is right; None without cells."""
    if not len(y):
        return None
    return float((classify(model.classifier, encode(model, x, device), device).argmax(axis=1) == y).mean())
