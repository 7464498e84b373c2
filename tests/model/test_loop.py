"""One pass of gradient descent: which cells it sees, how much each counts, and at which rate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from jind_nb.model import default, loop
from jind_nb.model import reference as method_reference
from jind_nb.model.loop import Loss
from tests.helpers.learn import CPU, cells_of, equal, settings_with, weights

quick = hypothesis_settings(deadline=None, max_examples=50)


@quick
@given(hnp.arrays(np.int64, st.integers(0, 80), elements=st.integers(0, 5)), st.floats(0.01, 0.5), st.integers(0, 99))
def test_a_share_of_every_type_is_held_out_and_none_of_a_tiny_one(y: np.ndarray, share: float, seed: int) -> None:
    held_out = loop.hold_out(y, share, seed)
    assert held_out.dtype == bool
    assert len(held_out) == len(y)
    for k in range(6):
        n, out = int((y == k).sum()), int(held_out[y == k].sum())
        assert out == (0 if n < 5 else max(1, round(share * n)))
        assert out < n or n == 0
    np.testing.assert_array_equal(held_out, loop.hold_out(y, share, seed))


def test_another_seed_holds_out_other_cells() -> None:
    y = np.repeat([0, 1], 50)
    assert not np.array_equal(loop.hold_out(y, 0.1, 0), loop.hold_out(y, 0.1, 1))


def test_class_weights_are_those_worked_out_by_hand() -> None:
    found = loop.class_weights(np.array([0, 0, 0, 2]), 3)
    assert found == pytest.approx([2 / 0.76 / 3, 0.0, 2 / 0.26 / 3])


def test_the_loss_is_the_weighted_mean_over_a_minibatch() -> None:
    logits, y = torch.tensor([[1.0, 0.0, -1.0], [0.0, 2.0, 0.0], [0.5, 0.5, 0.0]]), np.array([0, 2, 2])
    w = np.array([0.5, 1.0, 3.0])
    nll = -F.log_softmax(logits, dim=1).numpy()[np.arange(3), y]
    assert Loss(w, CPU)(logits, y).item() == pytest.approx((w[y] * nll).sum() / w[y].sum(), rel=1e-6)


def test_an_epoch_sees_every_cell_once_and_weighs_its_loss_by_cells() -> None:
    """Seven cells in minibatches of three: the last one is partial and kept."""
    torch.manual_seed(0)
    cells, model = cells_of([0, 1, 2, 0, 1, 2, 0]), nn.Linear(20, 3)
    loss = Loss(np.ones(3), CPU, minibatch=3)
    sizes: list[int] = []
    model.register_forward_hook(lambda _, __, out: sizes.append(len(out)))
    mean = loop.train_epoch(model, cells.x, cells.y, torch.optim.SGD(model.parameters(), lr=0.0), loss)  # type: ignore[arg-type]
    assert sizes == [3, 3, 1]
    every = F.cross_entropy(model(torch.from_numpy(cells.x.toarray())), torch.from_numpy(cells.y))
    assert mean == pytest.approx(every.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("losses", "halved_at"),
    [
        # not below 0.95 of the best is bad; the third bad epoch in a row halves
        ([1.0, 0.95, 0.96, 0.955], [4]),
        ([1.0, 0.96, 0.96], []),
        # a good epoch in between begins the count again
        ([1.0, 0.96, 0.96, 0.94, 0.94, 0.94, 0.94], [7]),
        # and so does halving
        ([1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6], [4, 7]),
        ([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4], []),
        # small steps down are measured against the best that counted, not against the epoch before
        ([1.0, 0.97, 0.96, 0.94, 0.93, 0.92, 0.91], [7]),
    ],
)
def test_the_rate_halves_at_the_third_epoch_in_a_row_that_is_hardly_better(
    losses: list[float], halved_at: list[int]
) -> None:
    optimiser = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=1.0)
    rate, rates = loop.plateau(optimiser), [1.0]
    for loss in losses:
        rate.step(loss)
        rates.append(optimiser.param_groups[0]["lr"])
    assert [epoch for epoch in range(1, len(rates)) if rates[epoch] != rates[epoch - 1]] == halved_at
    assert rates[-1] == 0.5 ** len(halved_at)


def test_cells_held_whole_on_a_gpu_train_the_same_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they fit into a GPU's memory they are made dense once; that may change speed, and nothing else."""
    cells = cells_of([0, 1] * 30)
    by_minibatch, _ = method_reference.fit_source(cells, 2, settings_with())
    monkeypatch.setattr(loop, "_free_memory", lambda device: 10**9)
    assert loop.minibatches(cells.x, CPU)(np.array([2, 0])).tolist() == cells.x[[2, 0]].toarray().tolist()
    whole, _ = method_reference.fit_source(cells, 2, settings_with())
    assert equal(weights(by_minibatch), weights(whole))


@pytest.mark.parametrize("free", [0, 10**9])
def test_nothing_is_computed_beside_the_device(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's `meta` device has no numbers, but refuses to mix with another device, as a GPU does."""
    monkeypatch.setattr(loop, "_free_memory", lambda device: free)
    meta, cells = torch.device("meta"), cells_of([0, 1] * 30)
    for network in (
        method_reference.empty_annotator(20, 2, 256, has_adapter=True),
        default.empty_annotator(20, 2, 8, has_adapter=True),
    ):
        taken = loop.minibatches(cells.x, meta)(np.arange(6))
        loss = Loss(np.ones(2), meta)(network.to(meta)(taken), cells.y[:6])
        assert loss.device == meta
