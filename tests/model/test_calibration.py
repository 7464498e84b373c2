"""What left-out batches teach: temperature, TARGET_ERROR's threshold, novelty's limit. Simulations know the truth."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from jind_nb.core.text import percent
from jind_nb.metrics import calibration_error
from jind_nb.model.calibration import (
    ALONE_FLOOR,
    ALONE_TEMPERATURE,
    Calibration,
    alignment_in_words,
    calibrate,
    lowest_threshold,
    member_weights,
    moved_share,
    novelty_threshold,
    safe_threshold,
    temperature,
)
from jind_nb.model.leave_one_out import LeftOut
from jind_nb.model.mixture import mixed
from jind_nb.model.predictions import NONE_PASSES, Predictions, tempered
from jind_nb.model.state import AlignmentMode, NoveltyLimit

quick = hypothesis_settings(deadline=None, max_examples=100)
CLASSES = ["B", "NK", "T"]
ONE = (1.0,)


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
    only = {mode: network[:, None]}  # of a METHOD of one member
    return LeftOut(name, CLASSES, y, known, only, only, novelty, ONE)


@pytest.mark.parametrize("truth", [0.5, 1.0, 3.0])
def test_the_temperature_that_makes_probabilities_honest_is_found(truth: float) -> None:
    """Else a confidence of 0.8 would not mean right in four of five."""
    left_out = [batch("a", seed=1, true_temperature=truth), batch("b", seed=2, true_temperature=truth)]
    assert temperature(left_out, AlignmentMode.UNALIGNED, ONE) == pytest.approx(truth, rel=0.1)
    learned = calibrate(left_out, AlignmentMode.UNALIGNED, 0.05, None, 2)
    for row in learned.batches:
        assert row["calibration_error"] < 0.03
        if truth != 1.0:
            assert row["network_calibration_error"] > 2 * row["calibration_error"]


def test_cells_of_types_the_model_could_not_know_do_not_cool_it() -> None:
    left_out = [batch("a", seed=1, unknown=0.3)]
    assert temperature(left_out, AlignmentMode.UNALIGNED, ONE) == pytest.approx(1.0, rel=0.1)
    assert novelty_threshold(left_out) < 1.0


def test_a_batch_counts_alike_however_many_cells_it_has() -> None:
    large, small = batch("a", 20_000, 1, true_temperature=3.0), batch("b", 500, 2)
    assert 1.2 < temperature([large, small], AlignmentMode.UNALIGNED, ONE) < 2.5
    novel = replace(small, novelty=small.novelty + 1)
    assert novelty_threshold([large, novel]) > 1.9


def test_the_limit_of_novelty_follows_the_left_out_batches_that_can_tell() -> None:
    """Of ten cells the most novel is chance, and held-out cells of the only batch say nothing of another one: with such limits
    no cell of a new type was flagged."""
    limit = NoveltyLimit(0.02, 0.5, start=0.3, slope=0.75, alone=0.9)
    usual = [replace(batch(name, 200, seed), limit=limit) for seed, name in enumerate("ab")]
    found = np.quantile(np.concatenate([of_batch.novelty for of_batch in usual]), 0.98, method="inverted_cdf")
    assert novelty_threshold(usual) == pytest.approx(max(0.5, 0.3 + 0.75 * found))
    few = batch("c", 10, 3)
    few = replace(few, novelty=few.novelty + 5, limit=limit)
    assert novelty_threshold([*usual, few]) == novelty_threshold(usual)
    assert novelty_threshold([few]) == novelty_threshold([replace(usual[0], is_new=False)]) == 0.9


@pytest.mark.parametrize("n_batches", [1, 2, 4, 9, 20])
def test_the_limit_of_novelty_is_lower_the_more_batches_tell_it_and_the_nearer_they_are(n_batches: int) -> None:
    """One batch tells little of the next: with its limit known cells would be flagged. With many batches the same doubt would hide
    new types."""
    limit = NoveltyLimit(0.02, 0.0, start=0.1, slope=0.5, unsure=0.8, apart=0.2, alone=0.9)
    one = replace(batch("a", 200, 0), limit=limit)
    value = np.quantile(one.novelty, 0.98, method="inverted_cdf")
    doubt = 0.2 * 0.4 if n_batches == 1 else 0.0  # beside no other batch it may be as far from the next as usual
    expected = 0.1 + 0.5 * value + 0.8 / min(n_batches, 8) ** 0.5 + doubt
    assert novelty_threshold([one] * n_batches) == pytest.approx(expected, abs=0.01)
    apart = [replace(one, novelty=one.novelty + shift) for shift in (-0.3, 0.3) for _ in range(4)]
    assert novelty_threshold(apart) > novelty_threshold([one] * 8) + 0.05


def test_without_cells_of_known_types_nothing_is_learned_and_nothing_assigned() -> None:
    """Left-out batches may hold only types of their own."""
    alien = batch("a", 50, unknown=1.1)
    assert temperature([alien], AlignmentMode.UNALIGNED, ONE) == 1.0
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
    network = boastful.members[AlignmentMode.UNALIGNED][:, 0]
    right = network.argmax(axis=1) == boastful.y
    by_other = tempered(network.astype(np.float32), temperature([honest], AlignmentMode.UNALIGNED, ONE)).max(axis=1)
    assert error["b"]["calibration_error"] == pytest.approx(calibration_error(by_other, right))


def test_cells_of_types_that_no_batch_trains_count_as_errors() -> None:
    """Else a check on the types that are left says that next to nothing is wrong, where a fifth of all cells is."""
    left_out = [batch("a", seed=1), batch("b", seed=2)]
    dropped = [replace(one, dropped=0.2, untrained=0.25) for one in left_out]
    whole, less = (calibrate(cells, AlignmentMode.UNALIGNED, 0.05, None, 2) for cells in (left_out, dropped))
    assert less.dropped == pytest.approx(0.2)
    for row, before in zip(less.batches, whole.batches, strict=True):
        assert row["checked"] == pytest.approx(0.75)
        assert row["error_of_known_types"] == before["error_among_assigned"]
        assert row["raw_accuracy"] == pytest.approx(before["raw_accuracy"] * 0.75 / 0.95)
        assert row["error_among_assigned"] == pytest.approx(1 - (1 - before["error_among_assigned"]) * 0.75 / 0.95)
    wanted = [calibrate(cells, AlignmentMode.UNALIGNED, 0.05, 0.1, 2).threshold for cells in (left_out, dropped)]
    assert wanted[1] > 0.99 > wanted[0]  # more than a tenth is wrong whatever the confidence


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


# --- the members' weights ------------------------------------------------------------------------------------------------

PRIOR = (0.5, 0.0, 0.0, 0.5)  # two members, before and after alignment


def of_two_members(name: str, good: int, n: int = 500, *, seed: int = 0, is_new: bool = True) -> LeftOut:
    """A left-out batch that one member (0 to 3) annotates right and the others at random."""
    random = np.random.default_rng(seed)
    y = random.integers(0, 3, n)
    members = random.dirichlet([1, 1, 1], (n, 4))
    members[:, good] = 0.05
    members[np.arange(n), good, y] = 0.9
    modes = dict.fromkeys(AlignmentMode, members)
    return LeftOut(name, CLASSES, y, np.ones(n, dtype=bool), modes, modes, random.random(n), PRIOR, is_new)


def both(left_out: list[LeftOut], n_annotated: int) -> dict[str, Calibration]:
    return {mode: calibrate(left_out, mode, 0.05, None, n_annotated) for mode in AlignmentMode}


@pytest.mark.parametrize("good", range(4))
def test_the_member_that_annotates_left_out_batches_best_counts_most(good: int) -> None:
    """Also one that the prior gives next to nothing: else a set of another kind would keep the weights of those we had."""
    prior = tuple(0.1 if member == good else 0.3 for member in range(4))
    left_out = [replace(of_two_members(name, good, seed=i), prior=prior) for i, name in enumerate("ab")]
    weights = calibrate(left_out, AlignmentMode.ALIGNED, 0.05, None, 2).weights
    assert sum(weights) == pytest.approx(1)
    assert np.argmax(weights) == good
    assert weights[good] > 0.7


def test_the_numbers_of_a_left_out_batch_come_from_weights_that_the_others_taught() -> None:
    """Else they would flatter: here each batch is annotated well by a member that the other one has no use for."""
    left_out = [of_two_members("a", 0, seed=1), of_two_members("b", 3, seed=2)]
    rows = calibrate(left_out, AlignmentMode.ALIGNED, 0.05, None, 2).batches
    for batch, other, row in zip(left_out, reversed(left_out), rows, strict=True):
        by_other = mixed(batch.members[AlignmentMode.ALIGNED], member_weights([other], AlignmentMode.ALIGNED))
        by_itself = mixed(batch.members[AlignmentMode.ALIGNED], member_weights([batch], AlignmentMode.ALIGNED))
        assert row["raw_accuracy"] == (by_other.argmax(axis=1) == batch.y).mean()
        assert row["raw_accuracy"] < (by_itself.argmax(axis=1) == batch.y).mean()


def test_held_out_cells_of_the_only_batch_teach_no_weights() -> None:
    """They are annotated right by every member that has learned their neighbours by heart."""
    alone = of_two_members("a", 0, is_new=False)
    assert calibrate([alone], AlignmentMode.ALIGNED, 0.05, None, 1).weights == PRIOR


def test_held_out_cells_of_the_only_batch_make_nobody_sure() -> None:
    """They are nearly all right: learned from them, a new batch's cells would all be certain, and half of them wrong."""
    alone = of_two_members("a", 0, is_new=False)
    found = calibrate([alone], AlignmentMode.ALIGNED, 0.05, None, 1)
    assert found.temperature == ALONE_TEMPERATURE
    judged = Predictions.by(found.rule, CLASSES, *(mixed(alone.members["aligned"], found.weights),) * 2, 0.05)
    assert (judged.thresholds >= ALONE_FLOOR).all()
    assert (judged.thresholds <= 0.9).all()


def test_cells_of_types_the_model_could_not_know_teach_no_weights() -> None:
    """No member can be right about them."""
    alien = of_two_members("a", 0)
    alien = replace(alien, could_be_known=np.zeros(len(alien.y), dtype=bool))
    assert calibrate([alien, alien], AlignmentMode.ALIGNED, 0.05, None, 2).weights == PRIOR


@pytest.mark.parametrize(("good", "much"), [(0, False), (3, True)])
def test_how_much_comes_from_after_alignment_is_told_in_words(good: int, much: bool) -> None:
    learned = both([of_two_members("a", good, seed=1), of_two_members("b", good, seed=2)], 2)
    share = moved_share(learned[AlignmentMode.ALIGNED].weights)
    assert (share > 0.9) is much
    assert (share < 0.1) is not much
    words = alignment_in_words(learned)
    assert words.startswith(f"{percent(share)} of each answer comes from after alignment")
    assert "the labels of left-out annotated batches are most likely" in words


def test_with_a_single_annotated_batch_the_words_say_whose_experience_it_is() -> None:
    words = alignment_in_words(both([of_two_members("a", 0, is_new=False)], 1))
    assert words.startswith("50.0 % of each answer comes from after alignment")
    assert "suited other data sets" in words


def test_without_a_left_out_batch_the_words_claim_nothing() -> None:
    """Also of a METHOD of one member, and of a run that was not aligned."""
    learned = both([of_two_members("a", 0), of_two_members("b", 0)], 2)
    one_member = calibrate([batch("a", mode=AlignmentMode.ALIGNED)], AlignmentMode.ALIGNED, 0.05, None, 2)
    unaligned = {AlignmentMode.UNALIGNED: learned[AlignmentMode.UNALIGNED]}
    for calibrations in ({}, unaligned, {AlignmentMode.ALIGNED: one_member}):
        assert "No annotated batch was left out" in alignment_in_words(calibrations)


def test_the_weights_come_back_from_a_saved_model() -> None:
    """Of an earlier version's models, which have none, they are empty: its only member counts alone."""
    learned = both([of_two_members("a", 0), of_two_members("b", 0)], 2)[AlignmentMode.ALIGNED]
    stored = json.loads(json.dumps(learned.to_json()))
    assert Calibration.from_json(stored).weights == learned.weights == learned.rule.weights
    del stored["weights"]
    assert Calibration.from_json(stored).weights == ()
