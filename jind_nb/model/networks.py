"""The networks of JIND-Multi, and nothing else (method.md; Goyal et al. 2022, doi 10.1093/bioinformatics/btac140).

A cell is a vector of p features. An encoder turns it into a code, an adapter in front brings a batch's codes to where the
others' are, and a head names the type. METHOD `reference` has codes of 256 numbers and layers that start from torch's
defaults (`Encoder`, `Adapter`, `Head`); METHOD `default` has principal components as codes, translations as adapters and
linear heads (`Projection`, `Translation`, `LinearHeads`).
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

CODE = 256

ADAPTER_HIDDEN = 512


class Encoder(nn.Module):
    """Linear(p -> 256), dropout 0.2, then multiplicative Gaussian noise; the last two in training mode only.

    Maps float32 (n, p) to codes float32 (n, 256).
    """

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_features, CODE)
        self.dropout = nn.Dropout(0.2)

    @property
    def size(self) -> int:
        """Numbers in a code."""
        return self.linear.out_features

    def forward(self, x: Tensor) -> Tensor:
        code = self.dropout(self.linear(x))
        if self.training:
            code = code + 0.2 * code.detach() * torch.randn_like(code)
        return code


class Head(nn.Sequential):
    """ReLU, Linear(256 -> 256), ReLU, Linear(256 -> K): codes (n, 256) to logits (n, K); the softmax is the caller's."""

    def __init__(self, n_classes: int) -> None:
        super().__init__(nn.ReLU(), nn.Linear(CODE, CODE), nn.ReLU(), nn.Linear(CODE, n_classes))


def _perceptron(n_features: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(n_features, ADAPTER_HIDDEN),
        nn.ReLU(),
        nn.Linear(ADAPTER_HIDDEN, ADAPTER_HIDDEN),
        nn.ReLU(),
        nn.Linear(ADAPTER_HIDDEN, CODE),
    )


class Adapter(nn.Module):
    """A batch's own way into the common code space: with x' = x + b and r = encoder(x'), f(x') + r * (1 + g(x')).

    Maps (n, p) to (n, 256). A fresh adapter is not the identity: f and g start from torch's defaults, b from zero.
    """

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.f = _perceptron(n_features)
        self.g = _perceptron(n_features)
        self.b = nn.Parameter(torch.zeros(n_features))

    def forward(self, x: Tensor, encoder: Encoder) -> Tensor:
        x = x + self.b
        return self.f(x) + encoder(x) * (1 + self.g(x))

    def restart(self) -> None:
        """Draws f and g anew, in place; b stays."""
        for layer in [*self.f, *self.g]:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()


class Projection(nn.Module):
    """A cell, scaled to the length all cells share, on two sets of principal components: (n, p) to codes (n, 2 * c).

    The first c components are of features scaled by their standard deviations, the others of the features as they are.
    Nothing in it is trained: `projection.fit` computes it.
    """

    length: Tensor
    weight: Tensor
    offset: Tensor

    def __init__(self, n_features: int, size: int) -> None:
        super().__init__()
        self.register_buffer("length", torch.ones(()))
        self.register_buffer("weight", torch.zeros(n_features, size))
        self.register_buffer("offset", torch.zeros(size))

    @property
    def size(self) -> int:
        """Numbers in a code."""
        return len(self.offset)

    def forward(self, x: Tensor) -> Tensor:
        lengths = x.norm(dim=1, keepdim=True).clamp_min(1e-6)
        return (x * (self.length / lengths)) @ self.weight - self.offset


class Translation(nn.Module):
    """A batch's own way into the common code space: encoder(x) + b, with (n, p) to (n, size)."""

    b: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("b", torch.zeros(size))

    def forward(self, x: Tensor, encoder: Projection) -> Tensor:
        return encoder(x) + self.b


# Which codes each of the linear heads sees: the block of `Projection`, and how many of its first components.
VIEWS = ((0, 10), (0, 20), (0, 50), (1, 20), (1, 50))


def columns(view: tuple[int, int], size: int) -> slice:
    """Where a view's components are in a code of `size` numbers, of which each block has half.

    >>> columns((1, 20), 100)
    slice(50, 70, None)
    """
    block, components = view
    start = block * (size // 2)
    return slice(start, start + min(components, size // 2))


class LinearHeads(nn.Module):
    """One softmax regression for each of VIEWS, their probabilities averaged: codes (n, size) to log probabilities (n, K),
    which are logits too. `projection.fit_heads` computes them."""

    weight: Tensor
    bias: Tensor

    def __init__(self, size: int, n_classes: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(len(VIEWS), size, n_classes))  # zero where a view does not look
        self.register_buffer("bias", torch.zeros(len(VIEWS), n_classes))

    def forward(self, codes: Tensor) -> Tensor:
        logits = torch.einsum("nc,vck->vnk", codes, self.weight) + self.bias[:, None]
        return torch.logsumexp(torch.log_softmax(logits, dim=2), dim=0) - math.log(len(VIEWS))


class Annotator(nn.Module):
    """An encoder and a head, and for every batch but the source an adapter in front: (n, p) to logits (n, K).

    The encoder and head may be shared with other batches' annotators.
    """

    def __init__(
        self,
        encoder: Encoder | Projection,
        head: Head | LinearHeads,
        adapter: Adapter | Translation | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.adapter = adapter

    def code(self, x: Tensor) -> Tensor:
        """The cells' codes, (n, 256)."""
        return self.encoder(x) if self.adapter is None else self.adapter(x, self.encoder)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.code(x))

    def copy_with(self, adapter: Adapter | Translation) -> Annotator:
        """A copy of encoder and head, behind another adapter."""
        return Annotator(copy.deepcopy(self.encoder), copy.deepcopy(self.head), adapter)

    def train_only(self, *parts: nn.Module) -> list[nn.Parameter]:
        """Freezes everything but `parts`; returns their parameters. The mode (train, eval) stays as it is."""
        self.requires_grad_(False)
        for part in parts:
            part.requires_grad_(True)
        return [parameter for part in parts for parameter in part.parameters()]


class Discriminator(nn.Sequential):
    """Tells reference codes from target codes: (n, 256) to the logit (n, 1) of being a reference cell's."""

    def __init__(self) -> None:
        super().__init__(
            nn.Linear(CODE, 512),
            nn.LeakyReLU(0.2),
            nn.Linear(512, 256),
            nn.LeakyReLU(0.2),
            nn.Linear(256, 256),
            nn.LeakyReLU(0.2),
            nn.Linear(256, 1),
        )
