"""A batch's annotator: what a stage may train of it, what a copy shares, and what it says of any number of cells."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from jind_nb.model import networks
from jind_nb.model.networks import Annotator, classify, encode
from jind_nb.model.reference import Adapter, Classifier, Encoder
from tests.helpers.learn import CPU, cells_of, equal, weights

P, K, N = 12, 4, 7


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def cells(n: int = N) -> Tensor:
    return torch.rand(n, P)


def annotator(adapter: bool = True) -> Annotator:
    return Annotator(Encoder(P), Classifier(K), Adapter(P) if adapter else None)


def test_predicting_in_blocks_gives_every_cell_its_own_latent(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Annotator(Encoder(20), Classifier(2))
    x = cells_of([0, 1] * 10).x
    whole = encode(model, x, CPU)
    monkeypatch.setattr(networks, "CELLS_AT_ONCE", 7)
    np.testing.assert_allclose(encode(model, x, CPU), whole, rtol=1e-5, atol=1e-6)
    assert encode(model, x[:0], CPU).shape == (0, 256)
    probabilities = classify(model.classifier, whole, CPU)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_cells_are_annotated_in_evaluation_mode() -> None:
    """Dropout and noise are for training: a cell has one answer."""
    model, x = Annotator(Encoder(20), Classifier(2)).train(), cells_of([0, 1] * 10).x
    assert np.array_equal(encode(model, x, CPU), encode(model, x, CPU))
    classify(model.classifier.train(), encode(model, x, CPU), CPU)
    assert not any(part.training for part in model.modules())


@pytest.mark.parametrize(
    "parts",
    [("adapter",), ("encoder", "classifier"), ("classifier",), ()],
    ids=lambda parts: "+".join(parts) or "nothing",
)
def test_train_only_freezes_exactly_the_rest(parts: tuple[str, ...]) -> None:
    model = annotator()
    returned = model.train_only(*(getattr(model, part) for part in parts))
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name, _ in model.named_parameters() if name.split(".")[0] in parts}
    assert {id(parameter) for parameter in returned} == {id(p) for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize("training", [True, False])
def test_train_only_leaves_the_mode_as_it_is(training: bool) -> None:
    """A frozen encoder must keep its dropout and noise while an adapter learns."""
    model = annotator().train(training)
    model.train_only(model.adapter)
    assert all(part.training is training for part in model.modules())


def test_a_frozen_part_is_not_moved_by_a_step() -> None:
    model, x = annotator().train(), cells()
    before = weights(model)
    optimiser = torch.optim.Adam(model.train_only(model.adapter), lr=0.1)
    model(x).sum().backward()
    optimiser.step()
    changed = {
        name.split(".")[0] for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)
    }
    assert changed == {"adapter"}


def test_changing_a_copy_leaves_the_annotated_batches_model_as_it_was() -> None:
    model = annotator(adapter=False)
    before, adapter = weights(model), Adapter(P)
    copied = model.copy_with(adapter)
    assert copied.adapter is adapter
    assert model.adapter is None
    assert equal(weights(copied.encoder), weights(model.encoder))
    assert equal(weights(copied.classifier), weights(model.classifier))
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(1)
    assert equal(weights(model), before)
