"""METHOD `default`: the answer of all members together, before and after alignment, and of a cell's neighbours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from jind_nb.model import default, neighbours
from jind_nb.model.annotate import annotate, calibrate, known_with_rules
from jind_nb.model.mixture import mixed
from jind_nb.model.networks import Annotator
from jind_nb.model.predictions import Rule
from jind_nb.model.state import AlignmentMode, TargetStage
from jind_nb.model.target import annotate_before_alignment, known_latents, predict
from tests.helpers.learn import learn, learned, prepare_simulated, settings_with, target_cells
from tests.helpers.simulated import THREE_BATCHES

quick = hypothesis_settings(deadline=None, max_examples=40)
SETTINGS = settings_with(method=default)
N = len(default.MEMBERS)
WEIGHTS = default.prior_weights()


def model_of(n_latent: int = 40, n_classes: int = 3, *, moved: bool = True, seed: int = 0) -> Annotator:
    """Members of random weights, with an adapter that moves cells."""
    random = torch.Generator().manual_seed(seed)
    heads = default.Heads(n_latent, n_classes)
    heads.weight.copy_(torch.randn(heads.weight.shape, generator=random))
    heads.bias.copy_(torch.randn(heads.bias.shape, generator=random))
    heads.prior.copy_(torch.tensor(WEIGHTS).reshape(2, -1).sum(dim=0))
    adapter = default.Offset.of(np.linspace(-1, 1, n_latent)) if moved else None
    return Annotator(default.Projection(10, n_latent), heads, adapter)


def latents(n: int, n_latent: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (n, n_latent)).astype(np.float32)


# --- the weighted mean ---------------------------------------------------------------------------------------------------


@quick
@given(st.integers(1, 6), st.integers(2, 30), st.integers(0, 99))
def test_every_member_gives_each_cell_probabilities(n_classes: int, n_latent: int, seed: int) -> None:
    heads = model_of(n_latent, n_classes, seed=seed).classifier
    cells = torch.from_numpy(latents(15, n_latent, seed))
    assert isinstance(heads, default.Heads)
    of_members = heads.of_members(cells).numpy()
    assert of_members.shape == (15, N, n_classes)
    np.testing.assert_allclose(of_members.sum(axis=2), 1, rtol=1e-5)
    assert (of_members >= 0).all()
    np.testing.assert_allclose(np.exp(heads(cells).numpy()), mixed(of_members, tuple(heads.prior.tolist())), atol=1e-6)


def test_each_head_is_counted_for_its_own_member() -> None:
    """The first member is the mean of five heads; the others have one each."""
    heads, cells = model_of().classifier, torch.from_numpy(latents(9))
    assert isinstance(heads, default.Heads)
    each = torch.softmax(torch.einsum("nc,hck->nhk", cells, heads.weight) + heads.bias, dim=2)
    expected = torch.cat([each[:, :5].mean(dim=1, keepdim=True), each[:, 5:]], dim=1)
    assert torch.allclose(heads.of_members(cells), expected)


@pytest.mark.parametrize("moved", [True, False])
@pytest.mark.parametrize("n", [0, 1, 3, 100])
def test_the_answer_is_the_weighted_mean_of_the_members(n: int, moved: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else weights learned from members would be weights of something else; also in blocks that bound the memory."""
    model, cells = model_of(moved=moved), latents(n)
    expected = mixed(default.members(model, cells, SETTINGS), WEIGHTS)
    assert expected.shape == (n, 3)
    for at_once in (5000, 7):
        monkeypatch.setattr(default, "CELLS_AT_ONCE", at_once)
        found = default.predict_proba(model, cells, WEIGHTS, SETTINGS)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
        np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)


def test_members_answer_for_cells_as_they_are_and_as_they_were_moved() -> None:
    """The first half without the adapter, the second half with it; neighbours are those of either, as all cells move alike."""
    model, cells = model_of(), latents(10)
    unmoved = default.members(model_of(moved=False), cells - model.adapter.numpy(), SETTINGS)
    moved = default.members(model_of(moved=False), cells, SETTINGS)
    found = default._own(model, cells, SETTINGS)
    np.testing.assert_allclose(
        found[:, :N], default._own(model_of(moved=False), cells - model.adapter.numpy(), SETTINGS)[:, :N], atol=1e-5
    )
    np.testing.assert_allclose(found[:, N:], default._own(model_of(moved=False), cells, SETTINGS)[:, :N], atol=1e-6)
    assert np.abs(unmoved - moved).max() > 0.1, "the case shows nothing: the adapter moves nothing"


def test_without_an_adapter_both_halves_are_the_same() -> None:
    """A target that nothing moved: before and after alignment are one answer."""
    found = default.members(model_of(moved=False), latents(30), SETTINGS)
    np.testing.assert_array_equal(found[:, :N], found[:, N:])


def test_without_alignment_only_the_sum_of_a_member_s_two_weights_counts(tmp_path: Path) -> None:
    """ALIGN false: weights that left-out batches taught for both halves are those of the members as they are."""
    shared, x, known, settings = learned(tmp_path, METHOD="default")
    settings = replace(settings, align=False)
    folded = tuple(WEIGHTS[m] + WEIGHTS[N + m] for m in range(N))
    said = []
    for weights in (WEIGHTS, folded + (0.0,) * N, (0.0,) * N + folded):
        known.rules = {AlignmentMode.UNALIGNED: Rule(weights=weights)}
        annotated = annotate(shared, x, known, settings)
        assert list(annotated.stages) == [TargetStage.BEFORE]
        said.append(annotated.final.probabilities)
    np.testing.assert_allclose(said[1], said[0], atol=1e-6)
    np.testing.assert_allclose(said[2], said[0], atol=1e-6)


def test_a_target_is_annotated_with_the_weights_that_left_out_batches_taught(tmp_path: Path) -> None:
    prepared, plan, settings = prepare_simulated(tmp_path, THREE_BATCHES, METHOD="default")
    reference = learn(prepared, plan, settings)
    calibrations = calibrate(reference)
    known = known_with_rules(reference, calibrations)
    weights = known.rules[AlignmentMode.ALIGNED].weights
    assert weights == calibrations[AlignmentMode.ALIGNED].weights != default.prior_weights()
    annotated = annotate(reference.model, target_cells(prepared, plan), known, settings)
    expected = mixed(default.members(annotated.model, annotated.final_latent, settings), weights)
    expected /= expected.sum(axis=1, keepdims=True)
    found = predict(annotated.model, annotated.final_latent, known, settings, Rule(weights=weights)).probabilities
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert annotated.final.raw.tolist() == np.array(plan.classes)[expected.argmax(axis=1)].tolist()


def test_a_single_annotated_batch_is_weighed_by_the_prior(tmp_path: Path) -> None:
    """There is no other batch to leave out, and its own held-out cells are too easy to learn weights from."""
    values = {"METHOD": "default", "EXCLUDE_DATASETS_NAMES": ["b"]}
    prepared, plan, settings = prepare_simulated(tmp_path, THREE_BATCHES, **values)
    reference = learn(prepared, plan, settings)
    known = known_with_rules(reference, calibrate(reference))
    prior = default.prior_weights()
    assert {rule.weights for rule in known.rules.values()} == {prior}
    x = target_cells(prepared, plan)
    without_rules = annotate_before_alignment(reference.model, x, known_latents(reference), settings)
    by_prior = default.predict_proba(reference.model, without_rules.latent[TargetStage.BEFORE], prior, settings)
    np.testing.assert_array_equal(without_rules.final.probabilities, by_prior)


def test_prior_weights_are_shares_of_one_answer() -> None:
    weights = default.prior_weights()
    assert len(weights) == 2 * N
    assert sum(weights) == pytest.approx(1)
    assert min(weights) >= 0


# --- mutual nearest neighbours -------------------------------------------------------------------------------------------


def around(centre: list[float], n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(centre, 0.05, (n, len(centre))).astype(np.float32)


def mutual_neighbours(cells: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    return default.mutual(neighbours.Neighbours.of(cells, default.near_columns(cells.shape[1]), seed))


def answered(own: np.ndarray, cells: np.ndarray, seed: int = 0) -> np.ndarray:
    return default.with_neighbours(own, mutual_neighbours(cells, seed))


def three_among(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Three cells of a rare type, the only ones of their kind, beside n of another, which answer very surely."""
    cells = np.concatenate([around([1, 0.3, 0, 0], n, 0), around([0.3, 1, 0, 0], 3, 1)])
    own = np.repeat([[0.95, 0.05], [0.48, 0.52]], [n, 3], axis=0)
    return cells, own


def test_three_cells_of_a_rare_type_among_hundreds_keep_their_answer() -> None:
    """Of the 16 nearest cells of each, 13 are of the other type: counted alike they outvote it."""
    cells, own = three_among(300)
    assert (answered(own, cells)[-3:].argmax(axis=1) == 1).all()
    near = neighbours.nearest(cells, cells, neighbours.NEIGHBOURS)[0]
    outvoted = default.with_neighbours(own, (near, np.ones(near.shape, dtype=bool)))
    assert (outvoted[-3:].argmax(axis=1) == 0).all(), "the case shows nothing: plain neighbours do no harm"


def test_a_cell_among_others_of_a_type_is_taken_for_one_of_them() -> None:
    """A batch's own clusters say what its shift against the annotated batches hides."""
    cells = np.concatenate([around([1, 0, 0, 0], 50, 0), around([0, 1, 0, 0], 50, 1)])
    own = np.repeat([[0.9, 0.1], [0.1, 0.9]], 50, axis=0)
    middle = np.argmax(mutual_neighbours(cells, 0)[1][:50].sum(axis=1))
    own[middle] = [0.45, 0.55]
    found = answered(own, cells)
    assert found[middle].argmax() == 0
    np.testing.assert_allclose(found[50:], own[50:], atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)


@quick
@given(st.integers(1, 200), st.integers(0, 99))
def test_answers_do_not_depend_on_the_order_of_cells(n: int, seed: int) -> None:
    """A file sorted by anything is annotated the same."""
    random = np.random.default_rng(seed)
    cells, own = latents(n, 20, seed), random.dirichlet([1, 1, 1], n)
    order = random.permutation(n)
    np.testing.assert_allclose(answered(own[order], cells[order]), answered(own, cells)[order], atol=1e-6)


@quick
@given(st.integers(1, 300))
def test_of_fewer_than_sixty_four_cells_a_fourth_are_asked(n: int) -> None:
    """Sixteen neighbours of twenty cells are nearly all others' types."""
    positions, mutual = mutual_neighbours(latents(n, 8), 0)
    assert positions.shape == mutual.shape == (n, min(neighbours.NEIGHBOURS, max(1, n // neighbours.CELLS_A_NEIGHBOUR)))


@pytest.mark.parametrize("n", [6, 20, 40])
def test_the_only_cell_of_its_type_in_a_small_target_keeps_its_answer(n: int) -> None:
    cells = np.concatenate([around([0, 1, 0, 0], 1, 0), around([1, 0, 0, 0], n - 1, 1)])
    own = np.repeat([[0.2, 0.8], [0.9, 0.1]], [1, n - 1], axis=0)
    assert answered(own, cells).argmax(axis=1).tolist() == [1] + [0] * (n - 1)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_a_few_cells_or_none_keep_their_answers(n: int) -> None:
    """A file of one cell is annotated too; a training of few cells holds none out."""
    own = np.random.default_rng(0).dirichlet([1, 1], n).reshape(n, 2)
    np.testing.assert_allclose(answered(own, latents(n)), own, atol=1e-6)


def test_each_cell_is_its_own_neighbour_and_neighbours_are_mutual() -> None:
    positions, mutual = mutual_neighbours(latents(120), 0)
    assert (positions[:, 0] == np.arange(120)).all()
    assert mutual[:, 0].all()
    pairs = {(i, int(j)) for i in range(120) for j in positions[i][mutual[i]]}
    assert {(j, i) for i, j in pairs} == pairs
    assert 120 < len(pairs) < positions.size


def test_cells_that_are_all_alike_have_no_nearest_and_one_answer() -> None:
    own = np.repeat([[0.8, 0.2]], 100, axis=0)
    np.testing.assert_allclose(answered(own, np.ones((100, 4), dtype=np.float32)), own, atol=1e-6)


def test_neighbours_are_looked_for_among_some_of_many_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million cells are not compared with a million; a cell that is nobody's neighbour keeps its own answer."""
    monkeypatch.setattr(neighbours, "MOST_CELLS", 40)
    cells = np.concatenate([around([1, 0, 0, 0], 500, 0), around([0, 1, 0, 0], 500, 1)])
    own = np.repeat([[0.8, 0.2], [0.3, 0.7]], 500, axis=0)
    positions, mutual = mutual_neighbours(cells, 0)
    assert positions.shape == (1000, neighbours.FEWEST_NEIGHBOURS)
    assert len(np.unique(positions)) <= 40
    assert mutual.any()
    np.testing.assert_allclose(answered(own, cells), own, atol=1e-6)
    own[np.flatnonzero(~mutual.any(axis=1))] = [0.55, 0.45]
    alone = np.flatnonzero(~mutual.any(axis=1))
    np.testing.assert_allclose(answered(own, cells)[alone], own[alone], atol=1e-6)
