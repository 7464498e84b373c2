"""METHOD `reference`: the networks are the published ones, and so is what each stage trains, sees and keeps.

What holds for both METHODs is asked in the tests of `fit`, `target`, `annotate` and `leave_one_out`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor, nn

from jind_nb.data.fingerprints import own_order
from jind_nb.model import fit, loop
from jind_nb.model import reference as method_reference
from jind_nb.model.annotate import annotate
from jind_nb.model.loop import Loss, set_seeds
from jind_nb.model.networks import Annotator, encode, no_subnormal_numbers
from jind_nb.model.predictions import Predictions
from jind_nb.model.reference import (
    LATENT,
    Adapter,
    Classifier,
    Discriminator,
    Encoder,
    fit_source,
    self_train,
    train_adversarially,
)
from jind_nb.model.state import Annotated, Reference, TargetStage, TrainingStage
from jind_nb.model.target import annotate_before_alignment, predict
from tests.helpers.learn import (
    CPU,
    Learned,
    Prepared,
    cells_of,
    equal,
    every_weight,
    fit_adapter,
    fit_jointly,
    learn,
    learned,
    prepare_simulated,
    settings_with,
    weights,
    with_other_target,
)
from tests.helpers.simulated import THREE_BATCHES

NEW_TYPE = {"a": {"B": 40, "T": 40}, "b": {"B": 30, "T": 30, "NK": 30}, "c": {"B": 10, "T": 10}}
P, K, N = 12, 4, 7


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Source `a`, intermediate `b`, target `c`."""
    return prepare_simulated(tmp_path_factory.mktemp("three"), THREE_BATCHES, SOURCE_DATASET_NAME="a")


@pytest.fixture(scope="module")
def new_type(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The intermediate `b` has a type that the source `a` lacks."""
    return prepare_simulated(tmp_path_factory.mktemp("new"), NEW_TYPE, SOURCE_DATASET_NAME="a")


@pytest.fixture(scope="module")
def model_of_three(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    shared, x, known, settings = learned(tmp_path_factory.mktemp("three"), EPOCHS=8)
    return shared, x, known, replace(settings, epochs=2)


def cells(n: int = N) -> Tensor:
    return torch.rand(n, P)


def annotator(adapter: bool = True) -> Annotator:
    return Annotator(Encoder(P), Classifier(K), Adapter(P) if adapter else None)


def layers(module: nn.Module) -> list[tuple[int, int]]:
    return [(part.in_features, part.out_features) for part in module.modules() if isinstance(part, nn.Linear)]


def n_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# --- the networks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("n", [0, 1, N])
def test_latents_and_logits_have_their_shapes(n: int, adapter: bool) -> None:
    model = annotator(adapter).eval()
    assert model.latent(cells(n)).shape == (n, LATENT)
    assert model(cells(n)).shape == (n, K)
    assert Discriminator()(torch.zeros(n, LATENT)).shape == (n, 1)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (Encoder(P), [(P, 256)]),
        (Classifier(K), [(256, 256), (256, K)]),
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


def test_nothing_squashes_the_classifier_s_or_the_discriminator_s_output_twice() -> None:
    """The losses take logits: a softmax or sigmoid inside would be applied a second time."""
    assert [type(part) for part in Classifier(K)] == [nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    kinds = [type(part) for part in Discriminator()]
    assert kinds == [nn.Linear, nn.LeakyReLU] * 3 + [nn.Linear]
    assert {part.negative_slope for part in Discriminator() if isinstance(part, nn.LeakyReLU)} == {0.2}


def test_predictions_do_not_change_from_call_to_call() -> None:
    model, x = annotator().eval(), cells()
    assert torch.equal(model(x), model(x))
    encoder = model.encoder
    assert torch.equal(encoder(x), encoder.linear(x))


def test_training_latents_have_a_fifth_dropped_and_a_fifth_of_noise_on_the_rest() -> None:
    torch.manual_seed(0)
    encoder, x = Encoder(P).train(), cells(2000)
    with torch.no_grad():
        plain, latent = encoder.linear(x), encoder(x)
    dropped = latent == 0
    assert dropped.float().mean().item() == pytest.approx(0.2, abs=0.01)
    factor = (latent / plain)[~dropped] * 0.8  # dropout scales what it keeps by 1 / 0.8
    assert factor.mean().item() == pytest.approx(1.0, abs=0.005)
    assert factor.std().item() == pytest.approx(0.2, abs=0.005)
    assert not torch.equal(encoder(x), encoder(x))


def test_noise_is_not_part_of_the_gradient() -> None:
    """z + 0.2 * z_detached * N(0,1): dz is 1, whatever the noise, so the weights' gradient is that without noise."""
    encoder, x = Encoder(P).train(), cells()
    encoder.dropout.p = 0.0
    latent = encoder(x)
    assert not torch.allclose(latent, encoder.linear(x))
    latent.sum().backward()
    assert encoder.linear.weight.grad is not None
    torch.testing.assert_close(encoder.linear.weight.grad, x.sum(dim=0).expand(LATENT, P))


def test_the_adapter_computes_the_published_formula() -> None:
    adapter, encoder, x = Adapter(P).eval(), Encoder(P).eval(), cells()
    with torch.no_grad():
        adapter.b.uniform_(-1, 1)
    shifted = x + adapter.b
    expected = adapter.f(shifted) + encoder(shifted) * (1 + adapter.g(shifted))
    torch.testing.assert_close(adapter(x, encoder), expected)
    torch.testing.assert_close(Annotator(encoder, Classifier(K), adapter).latent(x), expected)


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
    assert not torch.allclose(model.latent(x), model.encoder(x))


def test_restart_draws_f_and_g_anew_and_keeps_b() -> None:
    adapter = Adapter(P)
    with torch.no_grad():
        adapter.b.fill_(0.5)
    before = weights(adapter)
    adapter.restart()
    after = adapter.state_dict()
    assert {name for name in before if torch.equal(before[name], after[name])} == {"b"}


# --- the source --------------------------------------------------------------------------------------------------------


def test_the_source_classifier_learns_cells_it_was_not_trained_on() -> None:
    cells, settings = cells_of([0, 1, 2] * 100), settings_with(epochs=10)
    model, curve = fit_source(cells, 3, settings)
    assert curve[-1]["loss"] < curve[0]["loss"] / 2
    fresh = cells_of([0, 1, 2] * 50, seed=5)
    assert loop.accuracy(model, fresh.x, fresh.y, CPU) > 0.95
    assert [point["epoch"] for point in curve] == list(range(1, 11))


def test_the_source_classifier_is_the_earliest_epoch_of_best_held_out_accuracy() -> None:
    """Trained anew for exactly that many epochs, the weights are the same, bit for bit."""
    cells, settings = cells_of([0, 1, 2] * 40, noise=1.0), settings_with(epochs=12)
    model, curve = fit_source(cells, 3, settings)
    accuracies = [point["held_out_accuracy"] for point in curve]
    best = int(np.argmax(accuracies))
    assert accuracies.count(max(accuracies)) > 1, "the case shows nothing: no ties"
    assert 0 < best < len(curve) - 1, "the case shows nothing: the first or the last epoch is best"
    stopped, _ = fit_source(cells, 3, replace(settings, epochs=best + 1))
    assert equal(weights(model), weights(stopped))
    out = loop.hold_out(cells.y, 0.1, 0)
    assert loop.accuracy(model, cells.x[out], cells.y[out], CPU) == accuracies[best]


@pytest.mark.parametrize("held_out", [True, False])
def test_the_source_s_held_out_cells_never_train(held_out: bool) -> None:
    """After one epoch, which is kept whatever its accuracy, other values there leave every weight as it was."""
    cells, settings = cells_of([0, 1, 2] * 20), settings_with(epochs=1)
    out = cells.held_out
    changed = cells.x.toarray()
    changed[out if held_out else ~out] *= 3
    one, _ = fit_source(cells, 3, settings)
    other, _ = fit_source(replace(cells, x=sparse.csr_matrix(changed)), 3, settings)
    assert equal(weights(one), weights(other)) is held_out


def test_without_held_out_cells_the_source_s_epoch_of_lowest_loss_is_kept() -> None:
    cells, settings = cells_of([0, 0, 1, 1]), settings_with(epochs=6)
    model, curve = fit_source(cells, 2, settings)
    lowest = int(np.argmin([point["loss"] for point in curve]))
    stopped, _ = fit_source(cells, 2, replace(settings, epochs=lowest + 1))
    assert equal(weights(model), weights(stopped))


# --- the intermediates -------------------------------------------------------------------------------------------------


def test_adapt_changes_nothing_that_other_batches_share(three: Prepared) -> None:
    reference = fit.start(*three)
    before = weights(reference.model)
    fit_adapter(reference, "b")
    assert equal(weights(reference.model), before)
    torch.manual_seed(0)
    fresh = weights(Adapter(len(reference.features)))
    learned = weights(reference.adapters["b"])
    assert not any(torch.equal(fresh[name], learned[name]) for name in fresh), "f, g and b all learn"


@pytest.mark.parametrize("stage", [TrainingStage.FINETUNED, TrainingStage.RETRAIN])
def test_joint_training_leaves_every_adapter_as_it_was(three: Prepared, stage: TrainingStage) -> None:
    reference = fit.start(*three)
    fit_adapter(reference, "b")
    adapters, shared = weights(reference.adapters["b"]), weights(reference.model)
    fit_jointly(reference, stage)
    assert equal(weights(reference.adapters["b"]), adapters)
    now = weights(reference.model)
    assert not any(torch.equal(shared[name], now[name]) for name in shared), "encoder and classifier all learn"


def with_other_values(reference: Reference, batch: str, cell_type: str) -> None:
    """Makes the batch's cells of a type look different."""
    cells = reference.batches[batch]
    x = cells.x.toarray()
    x[cells.y == reference.classes.index(cell_type)] += 1
    reference.batches[batch] = replace(cells, x=sparse.csr_matrix(x))


@pytest.mark.parametrize("cell_type", ["NK", "B"])
def test_an_intermediate_s_new_type_enters_with_the_joint_fine_tune_only(new_type: Prepared, cell_type: str) -> None:
    """Its cells, and only its, have no say in the adapter: the classifier does not know them yet."""
    one, other = fit.start(*new_type), fit.start(*new_type)
    with_other_values(other, "b", cell_type)
    for reference in (one, other):
        fit_adapter(reference, "b")
    assert equal(weights(one.adapters["b"]), weights(other.adapters["b"])) is (cell_type == "NK")
    for reference in (one, other):
        fit_jointly(reference, TrainingStage.FINETUNED)
    assert not equal(weights(one.model), weights(other.model))


def scripted(losses: list[float], touch: Callable[[Any], Tensor]) -> Callable[..., float]:
    """An epoch that adds 1 to a weight and tells the next of some losses."""
    script = iter(losses)

    def epoch(model: Any, *_: object) -> float:
        with torch.no_grad():
            touch(model).add_(1)
        return next(script)

    return epoch


def test_adapt_keeps_the_epoch_of_lowest_loss_the_latest_on_ties(
    three: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, plan, settings = three
    reference = fit.start(prepared, plan, replace(settings, epochs=5))
    monkeypatch.setattr(method_reference, "train_epoch", scripted([3, 1, 2, 1, 4], lambda model: model.adapter.b))
    fit_adapter(reference, "b")
    assert reference.adapters["b"] is not None
    assert set(reference.adapters["b"].b.tolist()) == {4.0}


@pytest.mark.parametrize("stage", [TrainingStage.FINETUNED, TrainingStage.RETRAIN])
def test_joint_training_keeps_the_epoch_of_lowest_summed_loss_the_latest_on_ties(
    three: Prepared, stage: TrainingStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the epoch that is best for the last batch, which is the first here."""
    prepared, plan, settings = three
    reference = fit.start(prepared, plan, replace(settings, epochs=4))
    fit_adapter(reference, "b")
    before = reference.model.encoder.linear.bias.clone()
    per_batch = [5, 1, 1, 3, 2, 2, 3, 1.5]  # a, b, a, b, ...: sums 6, 4, 4, 4.5
    monkeypatch.setattr(method_reference, "train_epoch", scripted(per_batch, lambda model: model.encoder.linear.bias))
    fit_jointly(reference, stage)
    kept = reference.model.encoder.linear.bias - before
    torch.testing.assert_close(kept, torch.full_like(kept, 6.0))  # three epochs of two batches


def test_a_joint_epoch_passes_over_the_batches_in_order_each_with_its_own_optimiser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"a": {"B": 9, "T": 9}, "d": {"B": 8, "T": 8}, "b": {"B": 7, "T": 7}, "c": {"B": 3, "T": 3}}
    prepared, plan, settings = prepare_simulated(
        tmp_path, data, SOURCE_DATASET_NAME="a", INTER_DATASETS_NAMES=["d", "b"]
    )
    reference = learn(prepared, plan, settings)
    assert reference.intermediates == ["d", "b"]
    passes: list[tuple[int, int, float]] = []

    def epoch(_: object, x: sparse.csr_matrix, __: object, optimiser: torch.optim.Optimizer, loss: Loss) -> float:
        assert loss.minibatch == 128
        passes.append((x.shape[0], id(optimiser), optimiser.param_groups[0]["lr"]))
        return 1.0

    monkeypatch.setattr(method_reference, "train_epoch", epoch)
    fit_jointly(reference, TrainingStage.RETRAIN)
    n_training = [int((~reference.batches[name].held_out).sum()) for name in ("a", "d", "b")]
    assert [n for n, _, _ in passes] == n_training * 2
    assert len({optimiser for _, optimiser, _ in passes}) == 3
    assert {rate for _, _, rate in passes} == {1e-4}


def test_class_weights_are_pooled_over_the_batches_learned_so_far(
    new_type: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = fit.start(*new_type)
    used: list[np.ndarray] = []
    epoch = loop.train_epoch
    monkeypatch.setattr(
        method_reference, "train_epoch", lambda *args: used.append(args[4].weights.numpy().copy()) or epoch(*args)
    )
    fit_adapter(reference, "b")
    fit_jointly(reference, TrainingStage.FINETUNED)
    # B 40 and T 40 in a; then with b's 30 of each and 30 NK. Classes are B, NK, T.
    assert used[0] == pytest.approx([2 / 0.51 / 3, 0, 2 / 0.51 / 3], rel=1e-6)
    assert used[-1] == pytest.approx([2 / (0.01 + n / 170) / 3 for n in (70, 30, 70)], rel=1e-6)


def test_in_reference_the_target_s_values_do_not_reach_the_annotated_batches_models(three: Prepared) -> None:
    """With a named source, training needs nothing of the target but the choice of features."""
    prepared, plan, settings = three
    changed = with_other_target(prepared, plan)
    assert equal(every_weight(learn(prepared, plan, settings)), every_weight(learn(changed, plan, settings)))


# --- adversarial alignment -----------------------------------------------------------------------------------------------


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an epoch of alignment have four steps instead of forty, where the steps are not the subject."""
    monkeypatch.setattr(method_reference, "STEPS", 4)


def state(annotated: Annotated, part: str) -> dict[str, torch.Tensor]:
    return weights(getattr(annotated.model, part))


@pytest.mark.slow
@pytest.mark.usefixtures("few_steps")
def test_alignment_trains_the_adapter_only_and_self_training_all_but_the_adapter(model_of_three: Learned) -> None:
    shared, x, known, settings = model_of_three
    annotated = annotate_before_alignment(shared, x, known, settings)
    assert annotated.model is shared
    train_adversarially(annotated, x, known, settings)
    assert equal(state(annotated, "encoder"), weights(shared.encoder))
    assert equal(state(annotated, "classifier"), weights(shared.classifier))
    adapter = state(annotated, "adapter")
    self_train(annotated, x, known, settings)
    assert equal(state(annotated, "adapter"), adapter)
    for part in ("encoder", "classifier"):
        before, after = weights(getattr(shared, part)), state(annotated, part)
        assert not any(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_an_epoch_of_alignment_moves_the_adapter(model_of_three: Learned) -> None:
    shared, x, known, _ = model_of_three
    set_seeds(0)
    adapter = Adapter(x.shape[1])
    before, frozen = weights(adapter), weights(shared)
    model = shared.copy_with(adapter)
    method_reference._Players(model, adapter, x, known.latent).train_epoch()
    assert not any(torch.equal(before[name], after) for name, after in weights(adapter).items())
    assert equal(
        weights(shared.copy_with(adapter).encoder), {k[8:]: v for k, v in frozen.items() if k[:8] == "encoder."}
    )
    assert equal(weights(model.classifier), weights(shared.classifier))
    assert not any(part.training for part in model.modules()), "no dropout, no noise"


def kept_epoch(annotated: Annotated) -> int:
    found = re.search(r"kept epoch (\d+)", annotated.notes[0])
    assert found, annotated.notes
    return int(found[1])


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.slow
def test_alignment_keeps_the_epoch_with_strictly_the_fewest_unassigned(
    model_of_three: Learned, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among the epochs in which neither side won, and the fresh adapter."""
    monkeypatch.setattr(method_reference, "STEPS", 10)  # with 40, one epoch or two can be kept; with 10, seven
    shared, x, known, settings = model_of_three
    settings = replace(settings, seed=seed, epochs=15)
    set_seeds(seed)
    model = shared.copy_with(Adapter(x.shape[1]))
    fresh = predict(model, encode(model, x, CPU), known, settings)
    annotated = annotate_before_alignment(shared, x, known, settings)
    train_adversarially(annotated, x, known, settings)
    fewest, expected = int(fresh.rejected.sum()), 0
    for point in annotated.curves:
        eligible = 0.5 < point["loss"] < 0.78 and 0.5 < point["discriminator_loss"] < 0.78
        assert eligible is ("unassigned" in point)
        if eligible and point["unassigned"] < fewest:
            fewest, expected = point["unassigned"], point["epoch"]
    assert kept_epoch(annotated) == expected
    assert int(annotated.stages[TargetStage.ALIGNED].rejected.sum()) == fewest


GOOD, BAD, ZERO = (0.6, 0.7), (0.9, 0.6), (0.0, 0.6)


def script_epochs(monkeypatch: pytest.MonkeyPatch, losses: list[tuple[float, float]]) -> None:
    """Epochs that add 1 to the adapter's b and tell the next of some losses."""
    script: Iterator[tuple[float, float]] = iter(losses)

    def epoch(players: method_reference._Players) -> tuple[float, float]:
        with torch.no_grad():
            players.adapter.b.add_(1)
        return next(script)

    monkeypatch.setattr(method_reference._Players, "train_epoch", epoch)


@pytest.mark.parametrize(
    ("losses", "played"),
    [
        ([GOOD] * 20, 7),
        ([BAD] * 20, 7),
        ([BAD] * 6 + [GOOD] + [BAD] * 13, 14),
        ([BAD, BAD, GOOD] * 10, 15),
        ([GOOD, BAD] * 10, 13),
        # a loss of exactly 0 begins both counts again
        ([BAD] * 6 + [ZERO] + [BAD] * 13, 14),
        ([GOOD] * 6 + [ZERO] + [GOOD] * 13, 14),
        # the limits themselves are not good, nor is one good loss of two
        ([(0.5, 0.6)] * 20, 7),
        ([(0.6, 0.78)] * 20, 7),
        ([BAD, BAD, (0.501, 0.779)] * 10, 15),
    ],
)
def test_alignment_stops_after_seven_good_epochs_seven_others_in_a_row_or_all(
    model_of_three: Learned, losses: list[tuple[float, float]], played: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, x, known, settings = model_of_three
    script_epochs(monkeypatch, losses)
    annotated = annotate_before_alignment(shared, x, known, settings)
    train_adversarially(annotated, x, known, replace(settings, epochs=15))
    assert len(annotated.curves) == played


@pytest.mark.parametrize(
    ("unassigned", "losses", "expected"),
    [
        # the fresh adapter's first, then the good epochs'
        ([9, 8, 5, 5], [GOOD, GOOD, GOOD], 2),
        ([5, 5, 6, 5], [GOOD, GOOD, GOOD], 0),
        ([9, 3], [BAD, GOOD, BAD], 2),
        ([9], [BAD, BAD, BAD], 0),
    ],
)
def test_of_equally_good_epochs_alignment_keeps_the_first_and_of_others_none(
    model_of_three: Learned,
    unassigned: list[int],
    losses: list[tuple[float, float]],
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared, x, known, settings = model_of_three
    script_epochs(monkeypatch, losses)
    counts = iter(unassigned)

    def scripted_predict(*arguments: Any) -> Predictions:
        predictions = predict(*arguments)
        n = next(counts, 0)
        rejected = np.arange(x.shape[0]) < n
        probabilities = np.where(rejected[:, None], 1 / 3, [[1.0, 0.0, 0.0]])
        return replace(predictions, probabilities=probabilities, thresholds=np.full(3, 0.5))

    annotated = annotate_before_alignment(shared, x, known, settings)
    monkeypatch.setattr(method_reference, "predict", scripted_predict)
    train_adversarially(annotated, x, known, replace(settings, epochs=len(losses)))
    assert kept_epoch(annotated) == expected
    assert annotated.model.adapter is not None
    assert set(annotated.model.adapter.b.tolist()) == {float(expected)}


def test_a_loss_of_zero_draws_the_adapter_anew(model_of_three: Learned, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, x, known, settings = model_of_three
    script_epochs(monkeypatch, [ZERO, BAD])
    restart, restarted = Adapter.restart, []
    monkeypatch.setattr(Adapter, "restart", lambda adapter: restarted.append(adapter) or restart(adapter))
    annotated = annotate_before_alignment(shared, x, known, settings)
    train_adversarially(annotated, x, known, settings)
    assert restarted == [annotated.model.adapter]


@pytest.mark.parametrize(
    ("n_target", "minibatch", "steps"),
    [(1, 1, 40), (128, 128, 40), (128 * 49, 128, 40), (128 * 49 + 1, 128, 50), (128 * 60, 128, 60), (100, 2, 50)],
)
def test_an_epoch_has_forty_steps_or_the_target_s_minibatches_from_fifty_on(
    n_target: int, minibatch: int, steps: int
) -> None:
    assert method_reference._steps(n_target, minibatch) == steps


def test_a_running_loss_is_the_mean_since_the_epoch_began() -> None:
    running = method_reference._RunningLoss()
    assert running.mean == 0.7
    for loss in (0.2, 0.4, 0.9):
        running.add(torch.tensor(loss))
    assert running.mean == pytest.approx(0.5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bias", "adapter_steps", "discriminator_steps"),
    # An adapter that has won rests; a discriminator rests while the adapter loses and its own loss is fine.
    [(0.0, True, True), (10.0, False, True), (-1.0, True, False), (-10.0, True, True)],
)
def test_each_player_moves_by_the_running_losses(
    model_of_three: Learned,
    bias: float,
    adapter_steps: bool,
    discriminator_steps: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every step's decision is worked out again from the losses before it."""
    shared, x, known, _ = model_of_three
    set_seeds(0)
    adapter = Adapter(x.shape[1])
    players = method_reference._Players(shared.copy_with(adapter), adapter, x, known.latent)
    last = players.discriminator[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, bias)
    moves: list[tuple[str, float, bool]] = []
    step = method_reference._step

    def record(optimiser: torch.optim.Optimizer, loss: torch.Tensor, wanted: bool) -> None:
        moves.append(("adapter" if optimiser is players.of_adapter else "discriminator", loss.item(), wanted))
        step(optimiser, loss, wanted)

    monkeypatch.setattr(method_reference, "_step", record)
    means = players.train_epoch()
    assert [player for player, _, _ in moves] == ["adapter", "discriminator", "discriminator"] * 40
    losses: dict[str, list[float]] = {"adapter": [], "discriminator": []}
    for player, loss, wanted in moves:
        mean = {name: np.mean(values) if values else 0.7 for name, values in losses.items()}
        should = mean["adapter"] > 0.4 if player == "adapter" else mean["adapter"] < 0.8 or mean["discriminator"] > 1.0
        assert wanted == should
        losses[player].append(loss)
    assert means == pytest.approx((np.mean(losses["adapter"]), np.mean(losses["discriminator"])))
    assert moves[3][2] is adapter_steps, "the first step of each epoch begins at 0.7"
    assert moves[4][2] is discriminator_steps


def test_a_player_that_rests_does_not_change() -> None:
    layer = nn.Linear(2, 1)
    before = weights(layer)
    optimiser = torch.optim.RMSprop(layer.parameters(), lr=0.1)
    method_reference._step(optimiser, layer(torch.ones(1, 2)).sum(), False)
    assert equal(weights(layer), before)
    method_reference._step(optimiser, layer(torch.ones(1, 2)).sum(), True)
    assert not equal(weights(layer), before)


def test_the_players__constants_are_the_published_ones(model_of_three: Learned) -> None:
    shared, x, known, _ = model_of_three
    adapter = Adapter(x.shape[1])
    players = method_reference._Players(shared.copy_with(adapter), adapter, x, known.latent)
    for optimiser, decay in ((players.of_adapter, 1e-2), (players.of_discriminator, 1e-3)):
        assert isinstance(optimiser, torch.optim.RMSprop)
        group = optimiser.param_groups[0]
        assert (group["lr"], group["alpha"], group["momentum"], group["weight_decay"]) == (1e-4, 0.99, 0, decay)
    assert {id(p) for p in players.of_adapter.param_groups[0]["params"]} == {id(p) for p in adapter.parameters()}
    assert players.minibatch == min(128, x.shape[0])
    assert method_reference._Players(shared.copy_with(adapter), adapter, x, known.latent[:5]).minibatch == 5


# --- self-training -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("few_steps")
def test_self_training_is_skipped_with_fewer_than_ten_confident_cells(model_of_three: Learned) -> None:
    """Nine cells cannot be ten confident ones."""
    shared, x, known, settings = model_of_three
    annotated = annotate(shared, x[:9], known, settings)
    assert list(annotated.stages) == [TargetStage.BEFORE, TargetStage.ALIGNED]
    assert "skipped" in annotated.notes[-1]
    assert equal(state(annotated, "classifier"), weights(shared.classifier))


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize(("n_sure", "trains"), [(9, False), (10, True)])
def test_ten_confident_cells_are_enough(
    model_of_three: Learned, n_sure: int, trains: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, x, known, settings = model_of_three
    annotated = annotate_before_alignment(shared, x, known, settings)
    train_adversarially(annotated, x, known, settings)
    confidence = np.sort(annotated.stages[TargetStage.ALIGNED].confidence)[::-1]
    cut = np.full(3, (float(confidence[n_sure - 1]) + float(confidence[n_sure])) / 2)
    thetas: list[float] = []
    monkeypatch.setattr(method_reference, "class_thresholds", lambda probabilities, theta: thetas.append(theta) or cut)
    self_train(annotated, x, known, settings)
    assert (TargetStage.SELF_TRAINED in annotated.stages) is trains
    assert str(n_sure) in annotated.notes[-1]
    assert 0.1 in thetas


@pytest.mark.usefixtures("few_steps")
def test_self_training_keeps_the_latest_epoch_of_best_agreement(
    model_of_three: Learned, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, x, known, settings = model_of_three
    settings = replace(settings, epochs=4)
    annotated = annotate_before_alignment(shared, x, known, settings)
    train_adversarially(annotated, x, known, settings)
    before = copy.deepcopy(annotated.model.encoder.linear.bias.data)
    minibatches: list[int] = []

    def epoch(model: Annotator, *rest: Any) -> float:
        minibatches.append(rest[-1].minibatch)
        with torch.no_grad():
            model.encoder.linear.bias.add_(1)
        return 1.0

    agreements = iter([0.5, 0.9, 0.9, 0.8])
    monkeypatch.setattr(method_reference, "train_epoch", epoch)
    monkeypatch.setattr(method_reference, "accuracy", lambda *_: next(agreements))
    self_train(annotated, x, known, settings)
    torch.testing.assert_close(annotated.model.encoder.linear.bias.data, before + 3)
    assert minibatches == [32] * 4


@pytest.mark.usefixtures("few_steps")
def test_the_target_is_aligned_and_then_self_trained(model_of_three: Learned) -> None:
    """`align` is both, one after the other, as the parts called by hand."""
    shared, x, known, settings = model_of_three
    x = x[own_order(x)]  # `annotate` takes cells in this order
    by_hand = annotate_before_alignment(shared, x, known, settings)
    torch.rand(1)  # what used random numbers before must not matter
    with no_subnormal_numbers():
        train_adversarially(by_hand, x, known, settings)
    self_train(by_hand, x, known, settings)
    annotated = annotate(shared, x, known, settings)
    assert list(annotated.stages) == [TargetStage.BEFORE, TargetStage.ALIGNED, TargetStage.SELF_TRAINED]
    assert equal(weights(annotated.model), weights(by_hand.model))
    assert annotated.curves == by_hand.curves
    assert annotated.notes == by_hand.notes
