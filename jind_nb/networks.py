"""The networks of JIND-Multi, and nothing else (method.md; Goyal et al. 2022, doi 10.1093/bioinformatics/btac140).

A cell is a vector of p features, its code has 256 numbers. Layers start from torch's defaults.
"""

from __future__ import annotations

import copy

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


class Annotator(nn.Module):
    """An encoder and a head, and for every batch but the source an adapter in front: (n, p) to logits (n, K).

    The encoder and head may be shared with other batches' annotators.
    """

    def __init__(self, encoder: Encoder, head: Head, adapter: Adapter | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.adapter = adapter

    def code(self, x: Tensor) -> Tensor:
        """The cells' codes, (n, 256)."""
        return self.encoder(x) if self.adapter is None else self.adapter(x, self.encoder)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.code(x))

    def copy_with(self, adapter: Adapter) -> Annotator:
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
