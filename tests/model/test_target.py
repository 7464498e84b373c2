"""The target, without its labels: what alignment and self-training change, what they keep, when they stop.

METHOD `reference`, if nothing else is said; what holds for both methods is asked of both. How METHOD `default` moves a
target is in test_projection.py.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch
from jind_nb.model.alignment import ADAPTED, ALIGNED, BEFORE, SELF_TRAINED, SHARED, Annotated, KnownCodes, known_codes
from jind_nb.model.training import Settings, set_seeds
from scipy import sparse
from torch import nn

from jind_nb.core.labels import UNASSIGNED
from jind_nb.model import alignment
from jind_nb.model.calibration import best_way, of_all_ways
from jind_nb.model.leave_one_out import leave_batches_out
from jind_nb.model.networks import Adapter, Annotator
from jind_nb.model.predictions import class_thresholds
from tests.helpers.simulated import THREE_BATCHES, simulated
from tests.model.test_reference import METHODS, equal, learn, prepare_simulated, weights

CPU = torch.device("cpu")
Learned = tuple[Annotator, sparse.csr_matrix, KnownCodes, Settings]


def learned(folder: Path, data: Any = THREE_BATCHES, **parameters: Any) -> Learned:
    """What stage 3 starts from: the annotated batches' model and codes, the target's cells."""
    prepared, plan, settings = prepare_simulated(folder, data, SOURCE_DATASET_NAME="a", **parameters)
    reference = learn(prepared, plan, settings)
    x = prepared[(prepared.obs["batch"] == "c").to_numpy()].X
    return reference.model, x, known_codes(reference), settings


@pytest.fixture(scope="module")
def model_of_three(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    shared, x, known, settings = learned(tmp_path_factory.mktemp("three"), EPOCHS=8)
    return shared, x, known, replace(settings, epochs=2)


@pytest.fixture(scope="module", params=METHODS)
def by_each(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """The same by either METHOD; in `default` the target is aligned without asking whether that helps."""
    return learned(tmp_path_factory.mktemp("each"), METHOD=request.param, ALIGN=True)


def whole(shared: Annotator, x: sparse.csr_matrix, known: KnownCodes, settings: Settings) -> Annotated:
    """All of stage 3."""
    annotated = alignment.annotate(shared, x, known, settings)
    alignment.align(annotated, x, known, settings)
    alignment.self_train(annotated, x, known, settings)
    return annotated


def state(annotated: Annotated, part: str) -> dict[str, torch.Tensor]:
    return weights(getattr(annotated.model, part))


# --- what changes ------------------------------------------------------------------------------------------------------


def test_annotating_a_target_leaves_the_annotated_batches_model_as_it_was(by_each: Learned) -> None:
    """The published program overwrites the shared weights; here a copy is trained."""
    shared, settings = by_each[0], by_each[3]
    before = weights(shared)
    annotated = whole(*by_each)
    assert list(annotated.stages) == [BEFORE, ALIGNED, *([SELF_TRAINED] if settings.is_reference else [])]
    assert equal(weights(shared), before)
    assert shared.adapter is None
    memory = [{t.data_ptr() for t in model.state_dict().values()} for model in (shared, annotated.model)]
    assert not memory[0] & memory[1]


def test_alignment_trains_the_adapter_only_and_self_training_all_but_the_adapter(model_of_three: Learned) -> None:
    shared, x, known, settings = model_of_three
    annotated = alignment.annotate(shared, x, known, settings)
    assert annotated.model is shared
    alignment.align(annotated, x, known, settings)
    assert equal(state(annotated, "encoder"), weights(shared.encoder))
    assert equal(state(annotated, "head"), weights(shared.head))
    adapter = state(annotated, "adapter")
    alignment.self_train(annotated, x, known, settings)
    assert equal(state(annotated, "adapter"), adapter)
    for part in ("encoder", "head"):
        before, after = weights(getattr(shared, part)), state(annotated, part)
        assert not any(torch.equal(before[name], after[name]) for name in before)


def test_a_played_epoch_moves_the_adapter(model_of_three: Learned) -> None:
    shared, x, known, _ = model_of_three
    set_seeds(0)
    adapter = Adapter(x.shape[1])
    before, frozen = weights(adapter), weights(shared)
    model = shared.copy_with(adapter)
    alignment._Game(model, adapter, x, known.codes).epoch()
    assert not any(torch.equal(before[name], after) for name, after in weights(adapter).items())
    assert equal(
        weights(shared.copy_with(adapter).encoder), {k[8:]: v for k, v in frozen.items() if k[:8] == "encoder."}
    )
    assert equal(weights(model.head), weights(shared.head))
    assert not any(part.training for part in model.modules()), "no dropout, no noise"


def test_align_false_only_predicts(by_each: Learned) -> None:
    shared, x, known, settings = by_each
    annotated = whole(shared, x, known, replace(settings, align=False))
    assert list(annotated.stages) == list(annotated.codes) == [BEFORE]
    assert annotated.model is shared
    assert annotated.curves == []
    assert len(annotated.notes) == 1
    assert "ALIGN" in alignment.notes_table(annotated)["note"][0]


def test_every_stage_has_a_row_for_every_cell(by_each: Learned) -> None:
    annotated, n = whole(*by_each), by_each[1].shape[0]
    assert list(annotated.codes) == list(annotated.stages)
    for stage, predictions in annotated.stages.items():
        assert predictions.probabilities.shape == (n, 3)
        assert annotated.codes[stage].shape == (n, by_each[0].encoder.size)


def test_the_last_stage_is_what_the_kept_model_says(by_each: Learned) -> None:
    """Thresholds too: the held-out cells' codes through the head that predicts the target."""
    _, x, known, settings = by_each
    annotated = whole(*by_each)
    final = list(annotated.stages.values())[-1]
    assert annotated.way == ADAPTED
    again = known.predict(annotated.model, x, settings)
    np.testing.assert_array_equal(again.probabilities, final.probabilities)
    expected = class_thresholds(known.of_held_out(annotated.model, settings), settings.theta)
    assert final.thresholds.tolist() == expected.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_simulated_target_is_annotated_right(tmp_path: Path, method: str) -> None:
    data = {name: dict.fromkeys(("B", "T", "NK"), 150) for name in ("a", "b")} | {"c": dict.fromkeys("BT", 60)}
    data["c"] = {"B": 60, "T": 60}
    adata = simulated(data)
    shared, x, known, settings = learned(tmp_path, adata, EPOCHS=15, METHOD=method, ALIGN=True)
    annotated = whole(shared, x, known, settings)
    truth = adata.obs.loc[adata.obs["batch"] == "c", "celltype"].to_numpy()
    for stage, predictions in annotated.stages.items():
        kept = predictions.names != UNASSIGNED
        assert (predictions.raw == truth).mean() > 0.95, stage
        assert (predictions.names == truth)[kept].mean() > 0.95, stage


# --- labels ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_target_s_labels_have_no_say_in_its_annotation(tmp_path: Path, method: str) -> None:
    """Wrong, new or no labels in the target: the same predictions, bit for bit. METHOD `default` has the target's values
    in its encoder, and aligns with them; neither reads a label."""

    def probabilities(adata: ad.AnnData, name: str) -> np.ndarray:
        (tmp_path / name).mkdir()
        annotated = whole(*learned(tmp_path / name, adata, EPOCHS=2, METHOD=method, ALIGN=True))
        return list(annotated.stages.values())[-1].probabilities

    adata = simulated(THREE_BATCHES)
    in_target = (adata.obs["batch"] == "c").to_numpy()
    right = probabilities(adata, "right")
    for name, label in {"wrong": "B", "new": "Erythrocyte", "none": None}.items():
        other = adata.copy()
        other.obs["celltype"] = other.obs["celltype"].astype(object).mask(in_target, label)
        np.testing.assert_array_equal(probabilities(other, name), right, err_msg=name)


# --- the epoch kept, and when to stop ------------------------------------------------------------------------------------


def kept_epoch(annotated: Annotated) -> int:
    found = re.search(r"kept epoch (\d+)", annotated.notes[0])
    assert found, annotated.notes
    return int(found[1])


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.slow
def test_alignment_keeps_the_epoch_with_strictly_the_fewest_unassigned(model_of_three: Learned, seed: int) -> None:
    """Among the epochs in which neither side won, and the fresh adapter."""
    shared, x, known, settings = model_of_three
    settings = replace(settings, seed=seed, epochs=15)
    set_seeds(seed)
    fresh = known.predict(shared.copy_with(Adapter(x.shape[1])), x, settings)
    annotated = alignment.annotate(shared, x, known, settings)
    alignment.align(annotated, x, known, settings)
    fewest, expected = int(fresh.rejected.sum()), 0
    for point in annotated.curves:
        eligible = 0.5 < point["loss"] < 0.78 and 0.5 < point["discriminator_loss"] < 0.78
        assert eligible is ("unassigned" in point)
        if eligible and point["unassigned"] < fewest:
            fewest, expected = point["unassigned"], point["epoch"]
    assert kept_epoch(annotated) == expected
    assert int(annotated.stages[ALIGNED].rejected.sum()) == fewest


GOOD, BAD, ZERO = (0.6, 0.7), (0.9, 0.6), (0.0, 0.6)


def script_epochs(monkeypatch: pytest.MonkeyPatch, losses: list[tuple[float, float]]) -> None:
    """Epochs that add 1 to the adapter's b and tell the next of some losses."""
    script: Iterator[tuple[float, float]] = iter(losses)

    def epoch(game: alignment._Game) -> tuple[float, float]:
        with torch.no_grad():
            game.adapter.b.add_(1)
        return next(script)

    monkeypatch.setattr(alignment._Game, "epoch", epoch)


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
    annotated = alignment.annotate(shared, x, known, settings)
    alignment.align(annotated, x, known, replace(settings, epochs=15))
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
    predict, counts = KnownCodes.predict, iter(unassigned)

    def told(self: KnownCodes, model: Annotator, *rest: Any) -> Any:
        predictions = predict(self, model, *rest)
        n = next(counts, 0)
        rejected = np.arange(x.shape[0]) < n
        probabilities = np.where(rejected[:, None], 1 / 3, [[1.0, 0.0, 0.0]])
        return replace(predictions, probabilities=probabilities, thresholds=np.full(3, 0.5))

    annotated = alignment.annotate(shared, x, known, settings)
    monkeypatch.setattr(KnownCodes, "predict", told)
    alignment.align(annotated, x, known, replace(settings, epochs=len(losses)))
    assert kept_epoch(annotated) == expected
    assert annotated.model.adapter is not None
    assert set(annotated.model.adapter.b.tolist()) == {float(expected)}


def test_a_loss_of_zero_draws_the_adapter_anew(model_of_three: Learned, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, x, known, settings = model_of_three
    script_epochs(monkeypatch, [ZERO, BAD])
    restart, restarted = Adapter.restart, []
    monkeypatch.setattr(Adapter, "restart", lambda adapter: restarted.append(adapter) or restart(adapter))
    annotated = alignment.annotate(shared, x, known, settings)
    alignment.align(annotated, x, known, settings)
    assert restarted == [annotated.model.adapter]


# --- one epoch of play -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_target", "minibatch", "steps"),
    [(1, 1, 40), (128, 128, 40), (128 * 49, 128, 40), (128 * 49 + 1, 128, 50), (128 * 60, 128, 60), (100, 2, 50)],
)
def test_an_epoch_has_forty_steps_or_the_target_s_minibatches_from_fifty_on(
    n_target: int, minibatch: int, steps: int
) -> None:
    assert alignment._steps(n_target, minibatch) == steps


def test_a_running_loss_is_the_mean_since_the_epoch_began() -> None:
    running = alignment._RunningLoss()
    assert running.mean == 0.7
    for loss in (0.2, 0.4, 0.9):
        running.add(torch.tensor(loss))
    assert running.mean == pytest.approx(0.5)


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
    game = alignment._Game(shared.copy_with(adapter), adapter, x, known.codes)
    last = game.discriminator[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, bias)
    moves: list[tuple[str, float, bool]] = []
    step = alignment._step

    def record(optimiser: torch.optim.Optimizer, loss: torch.Tensor, wanted: bool) -> None:
        moves.append(("adapter" if optimiser is game.moves else "discriminator", loss.item(), wanted))
        step(optimiser, loss, wanted)

    monkeypatch.setattr(alignment, "_step", record)
    means = game.epoch()
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
    alignment._step(optimiser, layer(torch.ones(1, 2)).sum(), False)
    assert equal(weights(layer), before)
    alignment._step(optimiser, layer(torch.ones(1, 2)).sum(), True)
    assert not equal(weights(layer), before)


def test_the_game_s_constants_are_the_published_ones(model_of_three: Learned) -> None:
    shared, x, known, _ = model_of_three
    adapter = Adapter(x.shape[1])
    game = alignment._Game(shared.copy_with(adapter), adapter, x, known.codes)
    for optimiser, decay in ((game.moves, 1e-2), (game.answers, 1e-3)):
        assert isinstance(optimiser, torch.optim.RMSprop)
        group = optimiser.param_groups[0]
        assert (group["lr"], group["alpha"], group["momentum"], group["weight_decay"]) == (1e-4, 0.99, 0, decay)
    assert {id(p) for p in game.moves.param_groups[0]["params"]} == {id(p) for p in adapter.parameters()}
    assert game.minibatch == min(128, x.shape[0])
    assert alignment._Game(shared.copy_with(adapter), adapter, x, known.codes[:5]).minibatch == 5


# --- self-training -----------------------------------------------------------------------------------------------------


def test_self_training_is_skipped_with_fewer_than_ten_confident_cells(model_of_three: Learned) -> None:
    """Nine cells cannot be ten confident ones."""
    shared, x, known, settings = model_of_three
    annotated = whole(shared, x[:9], known, settings)
    assert list(annotated.stages) == [BEFORE, ALIGNED]
    assert "skipped" in annotated.notes[-1]
    assert equal(state(annotated, "head"), weights(shared.head))


@pytest.mark.parametrize(("n_sure", "trains"), [(9, False), (10, True)])
def test_ten_confident_cells_are_enough(
    model_of_three: Learned, n_sure: int, trains: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, x, known, settings = model_of_three
    annotated = alignment.annotate(shared, x, known, settings)
    alignment.align(annotated, x, known, settings)
    confidence = np.sort(annotated.stages[ALIGNED].confidence)[::-1]
    cut = np.full(3, (float(confidence[n_sure - 1]) + float(confidence[n_sure])) / 2)
    thetas: list[float] = []
    monkeypatch.setattr(alignment, "class_thresholds", lambda probabilities, theta: thetas.append(theta) or cut)
    alignment.self_train(annotated, x, known, settings)
    assert (SELF_TRAINED in annotated.stages) is trains
    assert str(n_sure) in annotated.notes[-1]
    assert 0.1 in thetas


def test_self_training_keeps_the_latest_epoch_of_best_agreement(
    model_of_three: Learned, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, x, known, settings = model_of_three
    settings = replace(settings, epochs=4)
    annotated = alignment.annotate(shared, x, known, settings)
    alignment.align(annotated, x, known, settings)
    before = copy.deepcopy(annotated.model.encoder.linear.bias.data)
    minibatches: list[int] = []

    def epoch(model: Annotator, *rest: Any) -> float:
        minibatches.append(rest[-1].minibatch)
        with torch.no_grad():
            model.encoder.linear.bias.add_(1)
        return 1.0

    agreements = iter([0.5, 0.9, 0.9, 0.8])
    monkeypatch.setattr(alignment, "train_epoch", epoch)
    monkeypatch.setattr(alignment, "accuracy_of", lambda *_: next(agreements))
    alignment.self_train(annotated, x, known, settings)
    torch.testing.assert_close(annotated.model.encoder.linear.bias.data, before + 3)
    assert minibatches == [32] * 4


# --- small targets, reproducibility --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 12])
def test_a_target_of_a_few_cells_is_annotated(by_each: Learned, n: int) -> None:
    shared, x, known, settings = by_each
    annotated = whole(shared, x[:n], known, settings)
    assert ALIGNED in annotated.stages
    assert all(len(predictions.names) == n for predictions in annotated.stages.values())
    assert all(np.isfinite(predictions.probabilities).all() for predictions in annotated.stages.values())


@pytest.mark.parametrize("method", METHODS)
def test_a_model_without_held_out_cells_still_annotates(tmp_path: Path, method: str) -> None:
    data = {"a": {"B": 4, "T": 3}, "b": {"B": 4, "T": 4}, "c": {"B": 3, "T": 3}}
    annotated = whole(*learned(tmp_path, data, METHOD=method, ALIGN=True))
    assert annotated.stages[ALIGNED].thresholds.tolist() == [0.9, 0.9]


# --- odd data ----------------------------------------------------------------------------------------------------------

BT = {"B": 20, "T": 20}
ODD: dict[str, Any] = {
    "a target of one type": {"a": BT, "b": BT, "c": {"B": 15}},
    "a target of a type of its own": {"a": BT, "b": BT, "c": {"Mono": 15}},
    "an intermediate of one type": {"a": BT, "b": {"T": 20}, "c": BT},
    "a source of one type": {"a": {"B": 20}, "b": BT, "c": BT},
    "two types, each in a batch of its own": {"a": {"B": 20}, "b": {"T": 20}, "c": BT},
    "a type of one batch only": {"a": BT, "b": BT | {"NK": 20}, "d": BT | {"Mono": 20}, "c": BT},
    "batches with no type in common": {"a": BT, "b": {"NK": 20, "Mono": 20}, "c": BT},
    "a batch of two cells": {"a": BT, "b": {"B": 1, "T": 1}, "c": BT},
    "one feature": simulated({"a": BT, "b": BT, "c": BT}, n_genes=1),
    "two features": simulated({"a": BT, "b": BT, "c": BT}, n_genes=2),
    "five features": simulated({"a": BT, "b": BT, "c": BT}, n_genes=5),
    "more features than cells": simulated({"a": {"B": 5, "T": 5}, "b": {"B": 5, "T": 5}, "c": {"B": 3}}, n_genes=80),
}  # fmt: skip


def with_empty_cells(n: int) -> ad.AnnData:
    """The first n cells of each batch have no value."""
    adata = simulated({"a": BT, "b": BT, "c": BT})
    x = adata.X.toarray()
    for name in "abc":
        x[np.flatnonzero(adata.obs["batch"] == name)[:n]] = 0
    adata.X = sparse.csr_matrix(x)
    return adata


def all_alike(n_genes: int) -> ad.AnnData:
    """Cells of the same direction: scaled to one length, nothing tells them apart."""
    adata = simulated({"a": BT, "b": BT, "c": BT}, n_genes)
    depth = np.random.default_rng(0).integers(1, 5, (adata.n_obs, 1))
    adata.X = sparse.csr_matrix((depth * np.ones((1, n_genes))).astype(np.float32))
    return adata


ODD |= {
    "empty cells": with_empty_cells(5),
    "half the cells empty": with_empty_cells(20),
    "one feature that every cell has": all_alike(1),
    "cells that are all alike": all_alike(60),
}


@pytest.mark.parametrize("method", ["default", pytest.param("reference", marks=pytest.mark.slow)])
@pytest.mark.parametrize("odd", ODD)
def test_odd_data_are_trained_on_left_out_and_annotated(tmp_path: Path, odd: str, method: str) -> None:
    """All that a run computes, without a warning (an error in tests) and without a number that is none."""
    values = {"SOURCE_DATASET_NAME": "a", "METHOD": method, "ALIGN": True, "EPOCHS": 1, "MIN_CELL_TYPE_POPULATION": 1}
    values["NORMALISATION"] = "as_is" if "alike" in odd or "every cell" in odd else "auto"
    prepared, plan, settings = prepare_simulated(tmp_path, ODD[odd], **values)
    reference = learn(prepared, plan, settings)
    calibrations = of_all_ways(leave_batches_out(reference), settings, len(reference.batches))
    known = known_codes(reference)
    known.rules = {way: calibration.rule for way, calibration in calibrations.items()}
    x = prepared[(prepared.obs["batch"] == "c").to_numpy()].X
    annotated = whole(reference.model, x, known, settings)
    assert best_way(calibrations)[0] in (SHARED, ADAPTED)
    assert ALIGNED in annotated.stages
    for stage, predictions in annotated.stages.items():
        assert predictions.probabilities.shape == (x.shape[0], len(plan.classes))
        np.testing.assert_allclose(predictions.probabilities.sum(axis=1), 1, rtol=1e-5)
        assert np.isfinite(annotated.codes[stage]).all()


@pytest.mark.slow
def test_the_same_seed_annotates_alike_bit_for_bit_and_another_seed_does_not(by_each: Learned) -> None:
    """METHOD `default` draws nothing here: another seed annotates alike too."""
    shared, x, known, settings = by_each
    one, again = whole(shared, x, known, settings), alignment.annotate(shared, x, known, settings)
    for stage in (alignment.align, alignment.self_train):
        torch.rand(1)  # what used random numbers before must not matter
        stage(again, x, known, settings)
    other = whole(shared, x, known, replace(settings, seed=1))
    assert equal(weights(one.model), weights(again.model))
    assert one.curves == again.curves
    assert equal(weights(one.model), weights(other.model)) is not settings.is_reference
