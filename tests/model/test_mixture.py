"""One answer from several members: what left-out batches teach about how much each member counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from jind_nb.model.mixture import MOST_CELLS, PRIOR_CELLS, Weights, learned_weights, mixed

quick = hypothesis_settings(deadline=None, max_examples=60)
Batch = tuple[np.ndarray, np.ndarray]


def of_prior(values: list[float]) -> Weights:
    return tuple(float(value) for value in np.array(values) / sum(values))


priors = st.lists(st.floats(0.05, 1), min_size=2, max_size=8).map(of_prior)


def left_out(random: np.random.Generator, n: int, n_members: int) -> Batch:
    """Members' probabilities of n cells' own types, of which all cells count alike."""
    return random.random((n, n_members)), np.full(n, 1 / max(1, n))


@quick
@given(priors, st.lists(st.integers(0, 60), max_size=5), st.integers(0, 99))
def test_weights_are_shares_of_one_answer(prior: Weights, sizes: list[int], seed: int) -> None:
    """Else the answer would be no probability. Also where members give a cell's type no probability at all."""
    random = np.random.default_rng(seed)
    batches = [left_out(random, n, len(prior)) for n in sizes]
    batches = [(own * (random.random(own.shape) < 0.7), counts) for own, counts in batches]
    weights = learned_weights(batches, prior)
    assert len(weights) == len(prior)
    assert sum(weights) == pytest.approx(1)
    assert all(0 <= weight <= 1 for weight in weights)


@quick
@given(priors, st.integers(0, 7), st.integers(100, 400))
def test_the_member_that_is_right_more_often_gains(prior: Weights, which: int, n: int) -> None:
    better = which % len(prior)
    own = np.full((n, len(prior)), 0.3)
    own[:, better] = 0.9
    assert learned_weights([(own, np.full(n, 1 / n))], prior)[better] > prior[better]


@quick
@given(priors)
def test_without_a_left_out_cell_the_prior_stands(prior: Weights) -> None:
    assert learned_weights([], prior) == prior
    assert learned_weights([left_out(np.random.default_rng(0), 0, len(prior))], prior) == prior


def test_the_only_member_is_the_whole_answer() -> None:
    """METHOD `reference` has one."""
    assert learned_weights([left_out(np.random.default_rng(0), 50, 1)], (1.0,)) == (1.0,)


@quick
@given(priors, st.integers(0, 99), st.floats(0.01, 0.99))
def test_members_that_say_the_same_keep_the_prior(prior: Weights, seed: int, said: float) -> None:
    """Nothing tells them apart, so what other data sets taught stands."""
    own = np.full((50, len(prior)), said)
    np.testing.assert_allclose(learned_weights([(own, np.full(50, 1 / 50))], prior), prior, atol=1e-9)


@quick
@given(st.integers(2, 5), st.integers(0, 99))
def test_the_order_of_batches_and_of_their_cells_does_not_matter(n_batches: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    batches = [left_out(random, int(random.integers(1, 50)), 4) for _ in range(n_batches)]
    prior = (0.1, 0.2, 0.3, 0.4)
    others = [(own[::-1], counts[::-1]) for own, counts in reversed(batches)]
    np.testing.assert_allclose(learned_weights(others, prior), learned_weights(batches, prior), atol=1e-9)


def test_every_batch_counts_alike_however_many_cells_it_has() -> None:
    """One large batch would else decide for all."""

    def said(first: float, second: float, n: int) -> Batch:
        return np.tile([first, second], (n, 1)), np.full(n, 1 / n)

    large_and_small = learned_weights([said(0.9, 0.3, 4000), said(0.3, 0.9, 400)], (0.5, 0.5))
    np.testing.assert_allclose(large_and_small, (0.5, 0.5), atol=1e-6)


def test_a_handful_of_cells_moves_the_prior_less_than_hundreds() -> None:
    prior = (0.2, 0.8)
    few, many = (learned_weights([(np.tile([0.9, 0.1], (n, 1)), np.full(n, 1 / n))], prior)[0] for n in (1, 300))
    assert prior[0] < few < 0.4
    assert many > 0.9


def test_cells_beyond_four_hundred_add_no_certainty() -> None:
    """Cells of one batch share what is odd about it: the prior keeps its share of 20 in 420."""
    own = np.tile([1.0, 0.0], (50_000, 1))
    weights = learned_weights([(own, np.full(len(own), 1 / len(own)))], (0.5, 0.5))
    assert weights[1] == pytest.approx(0.5 * PRIOR_CELLS / (PRIOR_CELLS + MOST_CELLS), abs=1e-3)


def test_one_sure_mistake_does_not_silence_a_member() -> None:
    """Log likelihood alone would: a probability of zero is infinitely wrong."""
    own = np.tile([0.95, 0.7], (200, 1))
    own[0, 0] = 0.0
    assert learned_weights([(own, np.full(200, 1 / 200))], (0.5, 0.5))[0] > 0.6


@quick
@given(priors, st.integers(1, 20), st.integers(2, 5), st.integers(0, 99))
def test_a_mean_of_probabilities_is_one_too(prior: Weights, n: int, n_types: int, seed: int) -> None:
    members = np.random.default_rng(seed).dirichlet(np.ones(n_types), (n, len(prior)))
    found = mixed(members, prior)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    assert (found >= members.min(axis=1) - 1e-6).all()
    assert (found <= members.max(axis=1) + 1e-6).all()
    alone = tuple(float(m == 0) for m in range(len(prior)))
    np.testing.assert_allclose(mixed(members, alone), members[:, 0], rtol=1e-6)
