"""The networks are the published ones: layers, noise, the adapter's formula, and what a stage may train."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from jind_nb.model.networks import CODE, Adapter, Annotator, Discriminator, Encoder, Head

P, K, N = 12, 4, 7


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def layers(module: nn.Module) -> list[tuple[int, int]]:
    return [(part.in_features, part.out_features) for part in module.modules() if isinstance(part, nn.Linear)]


def n_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def cells(n: int = N) -> Tensor:
    return torch.rand(n, P)


def annotator(adapter: bool = True) -> Annotator:
    return Annotator(Encoder(P), Head(K), Adapter(P) if adapter else None)


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("n", [0, 1, N])
def test_codes_and_logits_have_their_shapes(n: int, adapter: bool) -> None:
    model = annotator(adapter).eval()
    assert model.code(cells(n)).shape == (n, CODE)
    assert model(cells(n)).shape == (n, K)
    assert Discriminator()(torch.zeros(n, CODE)).shape == (n, 1)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (Encoder(P), [(P, 256)]),
        (Head(K), [(256, 256), (256, K)]),
        (Adapter(P), [(P, 512), (512, 512), (512, 256)] * 2),
        (Discriminator(), [(256, 512), (512, 256), (256, 256), (256, 1)]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_layer_sizes_and_parameter_counts_are_the_published_ones(
    module: nn.Module, expected: list[tuple[int, int]]
) -> None:
    assert layers(module) == expected
    extra = P if isinstance(module, Adapter) else 0  # b
    assert n_parameters(module) == sum(a * b + b for a, b in expected) + extra


def test_nothing_squashes_the_head_s_or_the_discriminator_s_output_twice() -> None:
    """The losses take logits: a softmax or sigmoid inside would be applied a second time."""
    assert [type(part) for part in Head(K)] == [nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    kinds = [type(part) for part in Discriminator()]
    assert kinds == [nn.Linear, nn.LeakyReLU] * 3 + [nn.Linear]
    assert {part.negative_slope for part in Discriminator() if isinstance(part, nn.LeakyReLU)} == {0.2}


def test_predictions_do_not_change_from_call_to_call() -> None:
    model, x = annotator().eval(), cells()
    assert torch.equal(model(x), model(x))
    encoder = model.encoder
    assert torch.equal(encoder(x), encoder.linear(x))


def test_training_codes_have_a_fifth_dropped_and_a_fifth_of_noise_on_the_rest() -> None:
    encoder, x = Encoder(P).train(), cells(2000)
    with torch.no_grad():
        plain, code = encoder.linear(x), encoder(x)
    dropped = code == 0
    assert dropped.float().mean().item() == pytest.approx(0.2, abs=0.01)
    factor = (code / plain)[~dropped] * 0.8  # dropout scales what it keeps by 1 / 0.8
    assert factor.mean().item() == pytest.approx(1.0, abs=0.005)
    assert factor.std().item() == pytest.approx(0.2, abs=0.005)
    assert not torch.equal(encoder(x), encoder(x))


def test_noise_is_not_part_of_the_gradient() -> None:
    """z + 0.2 * z_detached * N(0,1): dz is 1, whatever the noise, so the weights' gradient is that without noise."""
    encoder, x = Encoder(P).train(), cells()
    encoder.dropout.p = 0.0
    code = encoder(x)
    assert not torch.allclose(code, encoder.linear(x))
    code.sum().backward()
    assert encoder.linear.weight.grad is not None
    torch.testing.assert_close(encoder.linear.weight.grad, x.sum(dim=0).expand(CODE, P))


def test_the_adapter_computes_the_published_formula() -> None:
    adapter, encoder, x = Adapter(P).eval(), Encoder(P).eval(), cells()
    with torch.no_grad():
        adapter.b.uniform_(-1, 1)
    shifted = x + adapter.b
    expected = adapter.f(shifted) + encoder(shifted) * (1 + adapter.g(shifted))
    torch.testing.assert_close(adapter(x, encoder), expected)
    torch.testing.assert_close(Annotator(encoder, Head(K), adapter).code(x), expected)


def test_the_adapter_s_perceptrons_have_relus_between() -> None:
    adapter, x = Adapter(P), cells()
    for perceptron in (adapter.f, adapter.g):
        first, _, second, _, third = perceptron
        torch.testing.assert_close(perceptron(x), third(second(first(x).clamp(min=0)).clamp(min=0)))
    assert not torch.equal(adapter.f[0].weight, adapter.g[0].weight)


def test_a_fresh_adapter_shifts_nothing_but_is_not_the_identity() -> None:
    model, x = annotator().eval(), cells()
    assert model.adapter is not None
    assert torch.equal(model.adapter.b, torch.zeros(P))
    assert not torch.allclose(model.code(x), model.encoder(x))


def test_restart_draws_f_and_g_anew_and_keeps_b() -> None:
    adapter = Adapter(P)
    with torch.no_grad():
        adapter.b.fill_(0.5)
    before = snapshot(adapter)
    adapter.restart()
    after = adapter.state_dict()
    assert {name for name in before if torch.equal(before[name], after[name])} == {"b"}


@pytest.mark.parametrize(
    "parts", [("adapter",), ("encoder", "head"), ("head",), ()], ids=lambda parts: "+".join(parts) or "nothing"
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
    before = snapshot(model)
    optimiser = torch.optim.Adam(model.train_only(model.adapter), lr=0.1)
    model(x).sum().backward()
    optimiser.step()
    changed = {
        name.split(".")[0] for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)
    }
    assert changed == {"adapter"}


def test_changing_a_copy_leaves_the_annotated_batches_model_as_it_was() -> None:
    model = annotator(adapter=False)
    before, adapter = snapshot(model), Adapter(P)
    copied = model.copy_with(adapter)
    assert copied.adapter is adapter
    assert model.adapter is None
    assert equal(snapshot(copied.encoder), snapshot(model.encoder))
    assert equal(snapshot(copied.head), snapshot(model.head))
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(1)
    assert equal(snapshot(model), before)
