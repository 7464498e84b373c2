"""A batch's annotator: an encoder, an adapter and a classifier. Each METHOD's own file has the parts.

A cell is a vector of p features. The encoder turns it into a latent of d numbers, the adapter brings a batch's latents to
where the other batches' are, and the classifier names the type (Goyal et al. 2022, doi 10.1093/bioinformatics/btac140).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

CELLS_AT_ONCE = 1024  # that are encoded; memory only


class Annotator(nn.Module):
    """An encoder and a classifier, and for every batch but the source an adapter: float32 (n, p) to logits (n, K).

    The encoder and the classifier may be shared with other batches' annotators. An adapter is called with the features and
    the encoder.
    """

    def __init__(self, encoder: nn.Module, classifier: nn.Module, adapter: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = classifier
        self.adapter = adapter

    def latent(self, x: Tensor) -> Tensor:
        """Return the cells' latents, (n, d)."""
        latent: Tensor = self.encoder(x) if self.adapter is None else self.adapter(x, self.encoder)
        return latent

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.latent(x))
        return logits

    def copy_with(self, adapter: nn.Module) -> Annotator:
        """Return a copy of encoder and classifier with another adapter."""
        return Annotator(copy.deepcopy(self.encoder), copy.deepcopy(self.classifier), adapter)

    def train_only(self, *parts: nn.Module) -> list[nn.Parameter]:
        """Freeze everything but `parts`; return their parameters. The mode (train, eval) stays as it is."""
        self.requires_grad_(False)
        for part in parts:
            part.requires_grad_(True)
        return [parameter for part in parts for parameter in part.parameters()]


@torch.no_grad()
def encode(model: Annotator, x: sparse.csr_matrix, device: torch.device) -> np.ndarray:
    """Return latents float32 (n, d) of cells (n, p), in evaluation mode."""
    model.eval()
    # A linear encoder need not look at zeros, which most values are.
    of_sparse: Callable[[sparse.csr_matrix], Tensor] | None = getattr(model.encoder, "of_sparse", None)
    if of_sparse is not None and device.type == "cpu":
        latent: Tensor = of_sparse(x) if model.adapter is None else model.adapter(x, of_sparse)
        return latent.numpy()
    starts = range(0, max(1, x.shape[0]), CELLS_AT_ONCE)
    blocks = (torch.from_numpy(x[start : start + CELLS_AT_ONCE].toarray()).to(device) for start in starts)
    return np.concatenate([model.latent(block).cpu().numpy() for block in blocks])


@torch.no_grad()
def classify(classifier: nn.Module, latent: np.ndarray, device: torch.device) -> np.ndarray:
    """Return probabilities float32 (n, K) of latents (n, d), cell by cell, in evaluation mode."""
    classifier.eval()
    probabilities: np.ndarray = torch.softmax(classifier(torch.from_numpy(latent).to(device)), dim=1).cpu().numpy()
    return probabilities


@contextmanager
def no_subnormal_numbers() -> Iterator[None]:
    """Take numbers below 1e-38 as zero: weight decay shrinks idle weights to them, and x86 arithmetic is several times slower
    there.

    torch's threads take the setting over when they start, so the first step on a target belongs inside too.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
