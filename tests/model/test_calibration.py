"""What left-out batches teach: temperature, TARGET_ERROR's threshold, novelty's limit. Simulations know the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from jind_nb.metrics import calibration_error
from jind_nb.model.calibration import (
    best_mode,
    calibrate,
    lowest_threshold,
    novelty_threshold,
    safe_threshold,
    temperature,
)
from jind_nb.model.leave_one_out import LeftOut
from jind_nb.model.predictions import NONE_PASSES, tempered
from jind_nb.model.state import AlignmentMode

quick = hypothesis_settings(deadline=None, max_examples=100)
CLASSES = ["B", "NK", "T"]


def batch(
    name: str,
    n: int = 3000,
    seed: int = 0,
    true_temperature: float = 1.0,
    unknown: float = 0.0,
    mode: str = AlignmentMode.UNALIGNED,
) -> LeftOut:
    """A left-out batch whose probabilities are right as often as they say once divided by a temperature."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (n, 3))
    network = np.exp(logits * true_temperature)
    network /= network.sum(axis=1, keepdims=True)
    honest = tempered(network, true_temperature)
    y = (random.random((n, 1)) > honest.cumsum(axis=1)).sum(axis=1).clip(0, 2)
    known = random.random(n) >= unknown
    y[~known] = (honest.argmax(axis=1)[~known] + 1) % 3
    novelty = np.where(known, random.random(n), 2.0)
    return LeftOut(name, CLASSES, y, known, {mode: network}, {mode: network}, novelty)


@pytest.mark.parametrize("truth", [0.5, 1.0, 3.0])
def test_the_temperature_that_makes_probabilities_honest_is_found(truth: float) -> None:
    """Else a confidence of 0.8 would not mean right in four of five."""
    left_out = [batch("a", seed=1, true_temperature=truth), batch("b", seed=2, true_temperature=truth)]
    assert temperature(left_out, AlignmentMode.UNALIGNED) == pytest.approx(truth, rel=0.1)
    learned = calibrate(left_out, AlignmentMode.UNALIGNED, 0.05, None, 2)
    for row in learned.batches:
        assert row["calibration_error"] < 0.03
        if truth != 1.0:
            assert row["network_calibration_error"] > 2 * row["calibration_error"]


def test_cells_of_types_the_model_could_not_know_do_not_cool_it() -> None:
    left_out = [batch("a", seed=1, unknown=0.3)]
    assert temperature(left_out, AlignmentMode.UNALIGNED) == pytest.approx(1.0, rel=0.1)
    assert novelty_threshold(left_out) < 1.0


def test_a_batch_counts_alike_however_many_cells_it_has() -> None:
    large, small = batch("a", 20_000, 1, true_temperature=3.0), batch("b", 500, 2)
    assert 1.2 < temperature([large, small], AlignmentMode.UNALIGNED) < 2.5
    novel = replace(small, novelty=small.novelty + 1)
    assert novelty_threshold([large, novel]) > 1.9


def test_without_cells_of_known_types_nothing_is_learned_and_nothing_assigned() -> None:
    """Left-out batches may hold only types of their own."""
    alien = batch("a", 50, unknown=1.1)
    assert temperature([alien], AlignmentMode.UNALIGNED) == 1.0
    assert novelty_threshold([alien]) is None
    learned = calibrate([alien], AlignmentMode.UNALIGNED, 0.05, 0.05, 2)
    assert learned.threshold == NONE_PASSES
    assert learned.batches[0]["cells"] == 0
    assert learned.mean("error_among_assigned") is None


@quick
@given(
    st.lists(st.tuples(st.sampled_from([0.2, 0.5, 0.6, 0.9, 1.0]), st.booleans()), min_size=1, max_size=60),
    st.floats(0.01, 0.5),
)
def test_from_the_lowest_threshold_on_errors_stay_within_bounds(cells: list[tuple[float, bool]], alpha: float) -> None:
    confidence, right = np.array([c for c, _ in cells]), np.array([r for _, r in cells])

    def too_many(threshold: float) -> bool:
        assigned = confidence >= threshold
        return bool((~right[assigned]).sum() > max(1, alpha * assigned.sum()))

    threshold = lowest_threshold(confidence, right, alpha)
    assert not any(too_many(t) for t in [threshold, *confidence[confidence >= threshold]])
    lower = confidence[confidence < threshold]
    assert not len(lower) or too_many(lower.max())


@quick
@given(
    st.lists(st.lists(st.tuples(st.floats(0.3, 1.0), st.booleans()), min_size=0, max_size=30), min_size=1, max_size=5),
    st.floats(0.01, 0.5),
)
def test_all_assigned_left_out_cells_together_keep_the_target_error(
    batches: list[list[tuple[float, bool]]], alpha: float
) -> None:
    arrays = [(np.array([c for c, _ in b], dtype=float), np.array([r for _, r in b], dtype=bool)) for b in batches]
    threshold = safe_threshold(arrays, alpha)
    confidence, right = (np.concatenate(part) for part in zip(*arrays, strict=True))
    assigned = confidence >= threshold
    assert (~right[assigned]).sum() <= alpha * assigned.sum() + 1e-9
    if threshold <= 1:
        assert assigned.any()
        assert all(threshold >= lowest_threshold(c, r, alpha) for c, r in arrays if len(r))
    else:
        assert threshold == NONE_PASSES


def test_where_even_the_surest_cells_are_wrong_none_may_be_assigned() -> None:
    assert safe_threshold([(np.linspace(0.5, 1, 50), np.zeros(50, dtype=bool))], 0.05) == NONE_PASSES
    assert safe_threshold([], 0.05) == NONE_PASSES


def test_where_all_cells_are_right_all_may_be_assigned() -> None:
    """Also one less sure than any seen."""
    assert safe_threshold([(np.linspace(0.5, 1, 50), np.ones(50, dtype=bool))], 0.05) == 0.0


def test_target_error_holds_in_as_many_new_batches_as_promised() -> None:
    """The promise of n / (n + 1), over simulated batches that differ in how far to believe them."""
    random = np.random.default_rng(0)
    alpha, n, held = 0.05, 4, []
    for _ in range(150):
        drawn = []
        for _ in range(n + 1):
            confidence = random.uniform(0.4, 1, 400)
            believable = random.uniform(0.6, 1.4)  # of this batch
            drawn.append((confidence, random.random(400) < 1 - (1 - confidence) * believable))
        threshold = safe_threshold(drawn[:n], alpha)
        confidence, right = drawn[n]
        assigned = confidence >= threshold
        held.append((~right[assigned]).sum() <= max(1, alpha * assigned.sum()))
    assert np.mean(held) > n / (n + 1) - 0.07


def test_what_is_told_of_a_left_out_batch_rests_on_the_others() -> None:
    """Else calibration would look better than it is."""
    honest, boastful = batch("a", seed=1), batch("b", seed=2, true_temperature=3.0)
    learned = calibrate([honest, boastful], AlignmentMode.UNALIGNED, 0.05, None, 2)
    error = {row["batch"]: row for row in learned.batches}
    right = boastful.probabilities[AlignmentMode.UNALIGNED].argmax(axis=1) == boastful.y
    by_other = tempered(
        boastful.probabilities[AlignmentMode.UNALIGNED], temperature([honest], AlignmentMode.UNALIGNED)
    ).max(axis=1)
    assert error["b"]["calibration_error"] == pytest.approx(calibration_error(by_other, right))


def test_a_mode_few_batches_were_annotated_in_is_judged_by_those_alone() -> None:
    left_out = [batch("a", seed=1), batch("b", seed=2, mode=AlignmentMode.ALIGNED)]
    assert [row["batch"] for row in calibrate(left_out, AlignmentMode.ALIGNED, 0.05, None, 2).batches] == ["b"]


@pytest.mark.parametrize(("names", "guarantee"), [("a", False), ("abc", False), ("abcd", True)])
def test_fewer_than_four_left_out_batches_promise_nothing(names: str, guarantee: bool) -> None:
    left_out = [batch(name, 200, seed) for seed, name in enumerate(names)]
    assert calibrate(left_out, AlignmentMode.UNALIGNED, 0.05, 0.1, len(names)).is_guarantee is guarantee


def test_a_batch_of_types_all_its_own_is_no_evidence_for_a_promise() -> None:
    left_out = [batch(name, 200, seed) for seed, name in enumerate("abc")] + [batch("d", 50, unknown=1.1)]
    learned = calibrate(left_out, AlignmentMode.UNALIGNED, 0.05, 0.1, 4)
    assert (learned.n_left_out, learned.is_guarantee) == (3, False)


# --- whether to align --------------------------------------------------------------------------------------------------


def both_ways(name: str, shared: np.ndarray, adapted: np.ndarray) -> LeftOut:
    """A left-out batch, annotated right with so high a confidence, either way; a negative one is of a wrong type."""

    def probabilities(confidence: np.ndarray) -> np.ndarray:
        own = np.abs(confidence)
        rest = (1 - own) / 2
        right = confidence > 0
        return np.stack([np.where(right, own, rest), np.where(right, rest, own), rest], axis=1)

    modes = {AlignmentMode.UNALIGNED: probabilities(shared), AlignmentMode.ALIGNED: probabilities(adapted)}
    n = len(shared)
    return LeftOut(name, CLASSES, np.zeros(n, dtype=np.int64), np.ones(n, dtype=bool), modes, modes, np.zeros(n))


GOOD, BAD = np.array([0.9, 0.8, 0.7, 0.6]), np.array([0.9, -0.8, 0.7, -0.6])


@pytest.mark.parametrize(
    ("batches", "mode"),
    [
        ([(BAD, GOOD), (BAD, GOOD)], AlignmentMode.ALIGNED),
        ([(GOOD, BAD), (GOOD, BAD)], AlignmentMode.UNALIGNED),
        # ties, also of nothing but right cells: the simpler mode
        ([(GOOD, GOOD), (GOOD, GOOD)], AlignmentMode.UNALIGNED),
        ([(BAD, BAD), (BAD, BAD)], AlignmentMode.UNALIGNED),
        ([(GOOD, BAD), (BAD, GOOD)], AlignmentMode.UNALIGNED),
        # batches count alike, however many cells they have
        ([(np.tile(GOOD, 50), np.tile(BAD, 50)), (BAD, GOOD), (BAD, GOOD)], AlignmentMode.ALIGNED),
    ],
)
def test_the_target_is_aligned_only_where_left_out_batches_are_annotated_better_for_it(
    batches: list[tuple[np.ndarray, np.ndarray]], mode: str
) -> None:
    left_out = [both_ways(str(i), *of_batch) for i, of_batch in enumerate(batches)]
    calibrations = {
        name: calibrate(left_out, name, 0.05, None, len(batches))
        for name in (AlignmentMode.UNALIGNED, AlignmentMode.ALIGNED)
    }
    found, why = best_mode(calibrations)
    assert found == mode
    assert ("are annotated better" in why) is (mode == AlignmentMode.ALIGNED)
    assert "of their cells right with it" in why


def test_without_a_left_out_batch_or_a_second_mode_nothing_is_aligned() -> None:
    """A single annotated batch has held-out cells of its own only, which say nothing of a new batch."""
    better = [both_ways("a", BAD, GOOD)]
    single = {name: calibrate(better, name, 0.05, None, 1) for name in (AlignmentMode.UNALIGNED, AlignmentMode.ALIGNED)}
    for calibrations in ({}, {AlignmentMode.UNALIGNED: single[AlignmentMode.UNALIGNED]}, single):
        assert best_mode(calibrations)[0] == AlignmentMode.UNALIGNED
        assert "No annotated batch was left out" in best_mode(calibrations)[1]


def test_batches_of_types_of_their_own_say_nothing_of_alignment() -> None:
    """Nothing to compare: no alignment, and no number in the reason."""
    alien = replace(both_ways("a", BAD, GOOD), could_be_known=np.zeros(4, dtype=bool))
    calibrations = {
        name: calibrate([alien, alien], name, 0.05, None, 2)
        for name in (AlignmentMode.UNALIGNED, AlignmentMode.ALIGNED)
    }
    mode, why = best_mode(calibrations)
    assert (mode, "%" in why) == (AlignmentMode.UNALIGNED, False)
