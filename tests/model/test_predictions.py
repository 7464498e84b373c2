"""Which cells are rejected, and the reason given for each."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jind_nb.core.labels import REASONS, UNASSIGNED
from jind_nb.model.predictions import (
    NO_EVIDENCE,
    NONE_PASSES,
    Predictions,
    Rule,
    borrowing_thresholds,
    class_thresholds,
    tempered,
)

quick = settings(deadline=None, max_examples=50)


def of_one_type(top: list[float], k: int = 0, n_classes: int = 2) -> np.ndarray:
    """Probabilities of cells of type k with these top probabilities, the rest spread evenly."""
    probabilities = np.repeat((1 - np.array(top))[:, None] / (n_classes - 1), n_classes, axis=1)
    probabilities[:, k] = top
    return probabilities


@st.composite
def probability_tables(draw: st.DrawFn) -> np.ndarray:
    shape = draw(st.tuples(st.integers(0, 60), st.integers(1, 5)))
    # Few different values, so that ties between cells and between types happen.
    weights = draw(hnp.arrays(np.float64, shape, elements=st.integers(1, 12).map(float)))
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("top", "theta", "expected"),
    [
        # index floor(0.05 * 3) + 1 = 1
        ([0.8, 0.6, 0.7], 0.05, 0.7),
        # index floor(0.05 * 20) + 1 = 2
        ([0.6 + i / 100 for i in range(20)], 0.05, 0.62),
        # index floor(0.05 * 19) + 1 = 1
        ([0.6 + i / 100 for i in range(19)], 0.05, 0.61),
        # index floor(0.1 * 20) + 1 = 3
        ([0.6 + i / 100 for i in range(20)], 0.1, 0.63),
        # index 1 is past the end of one cell
        ([0.99], 0.05, 0.9),
        # theta 0 still leaves out the lowest
        ([0.6, 0.7], 0.0, 0.7),
        # index floor(0.5 * 2) + 1 = 2 is past the end of two cells
        ([0.6, 0.7], 0.5, 0.9),
        # index floor(0.5 * 4) + 1 = 3 is the last of four
        ([0.6, 0.7, 0.8, 0.85], 0.5, 0.85),
        # more than 0.9 is possible too
        ([0.99, 0.97, 0.98], 0.05, 0.98),
    ],
)
def test_thresholds_are_those_worked_out_by_hand(top: list[float], theta: float, expected: float) -> None:
    thresholds = class_thresholds(of_one_type(top), theta)
    assert thresholds == pytest.approx([expected, NO_EVIDENCE])


def test_a_threshold_without_evidence_is_not_taken_for_one_that_the_cap_made() -> None:
    """A report would else warn of too few held-out cells where there were thousands, all confident."""
    sure = np.vstack([of_one_type([0.99] * 20, 0, 2), of_one_type([0.95], 1, 2)])
    predictions = Predictions.by(Rule(threshold_cap=NO_EVIDENCE), ["many", "one"], sure, sure, 0.05)
    assert predictions.thresholds == pytest.approx([NO_EVIDENCE, NO_EVIDENCE])
    assert predictions.without_evidence == ["one"]
    assert Predictions.by(Rule(threshold=0.9), ["many", "one"], sure, sure, 0.05).without_evidence == []


def test_each_type_s_threshold_comes_from_its_own_cells() -> None:
    both = np.vstack([of_one_type([0.6, 0.7, 0.8], 0, 3), of_one_type([0.91, 0.95], 2, 3)])
    assert class_thresholds(both, 0.05) == pytest.approx([0.7, 0.9, 0.95])
    assert class_thresholds(both[::-1], 0.05) == pytest.approx([0.7, 0.9, 0.95])


def test_without_held_out_cells_every_threshold_is_the_cautious_one() -> None:
    assert class_thresholds(np.empty((0, 3), dtype=np.float32), 0.05) == pytest.approx([0.9, 0.9, 0.9])


def naive_thresholds(table: np.ndarray, theta: float) -> list[float]:
    answer = []
    for k in range(table.shape[1]):
        top = sorted(max(row) for row in table.tolist() if row.index(max(row)) == k)
        index = math.floor(theta * len(top)) + 1
        answer.append(top[index] if index <= len(top) - 1 else 0.9)
    return answer


@quick
@given(probability_tables(), st.floats(0, 1, exclude_max=True))
def test_thresholds_agree_with_the_definition_read_aloud(table: np.ndarray, theta: float) -> None:
    assert class_thresholds(table, theta).tolist() == naive_thresholds(table, theta)


@quick
@given(probability_tables(), st.floats(0, 0.5))
def test_a_higher_theta_never_lowers_a_threshold_that_held_out_cells_support(table: np.ndarray, theta: float) -> None:
    low, high = class_thresholds(table, theta), class_thresholds(table, min(0.99, theta + 0.2))
    supported = np.array([(np.argmax(table, axis=1) == k).sum() for k in range(table.shape[1])]) * 0.7 >= 2
    assert (high >= low)[supported].all()


def test_a_cell_exactly_at_its_threshold_is_kept() -> None:
    probabilities = np.array([[0.8, 0.2], [np.nextafter(0.8, 0), 0.2], [0.3, 0.7]])
    predictions = Predictions(["B", "T"], probabilities, np.array([0.8, 0.7]))
    assert predictions.rejected.tolist() == [False, True, False]
    assert predictions.names.tolist() == ["B", UNASSIGNED, "T"]
    assert predictions.raw.tolist() == ["B", "B", "T"]
    assert predictions.confidence.tolist() == probabilities.max(axis=1).tolist()


def test_a_cell_unlike_everything_annotated_is_not_confident_of_its_type() -> None:
    """Who sorts by confidence must not find new cell types at the top; METHOD `reference` says what it said."""
    probabilities = np.array([[0.8, 0.2], [0.99, 0.01], [0.6, 0.4]], dtype=np.float32)
    marks = {"unlike": np.array([False, True, False]), "empty": np.array([False, False, True])}
    predictions = Predictions(["B", "T"], probabilities, np.full(2, 0.5), borrows=True, **marks)
    assert predictions.confidence.dtype == np.float32
    np.testing.assert_allclose(predictions.confidence, [0.8, 0.495, 0.0], rtol=1e-6)
    assert predictions.rejected.tolist() == [False, True, True]
    as_before = Predictions(["B", "T"], probabilities, np.full(2, 0.5), **marks)
    assert as_before.confidence.tolist() == probabilities.max(axis=1).tolist()


def test_float32_probabilities_reach_their_own_threshold() -> None:
    """Thresholds are float64: a cell that defines one must not fall below it by rounding."""
    probabilities = of_one_type([0.61, 0.7, 0.77]).astype(np.float32)
    thresholds = class_thresholds(probabilities, 0.05)
    assert Predictions(["B", "T"], probabilities, thresholds).rejected.tolist() == [True, False, False]


def test_the_threshold_applied_is_that_of_the_predicted_type() -> None:
    predictions = Predictions(["B", "T"], np.array([[0.6, 0.4], [0.4, 0.6]]), np.array([0.5, 0.9]))
    assert predictions.names.tolist() == ["B", UNASSIGNED]


def test_of_equal_probabilities_the_first_type_wins() -> None:
    assert Predictions(["B", "T"], np.array([[0.5, 0.5]]), np.zeros(2)).raw.tolist() == ["B"]


def test_a_type_of_long_name_is_not_cut_to_the_length_of_unassigned() -> None:
    name = "CD8+/CD45RA+ Naive Cytotoxic"
    predictions = Predictions([name, "T"], np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0.5, 0.9]))
    assert predictions.names.tolist() == [name, UNASSIGNED]


@quick
@given(probability_tables(), st.floats(0, 0.99), st.data())
def test_some_of_the_cells_are_predicted_as_they_are_among_all(
    table: np.ndarray, theta: float, data: st.DataObject
) -> None:
    predictions = Predictions(list("ABCDE")[: table.shape[1]], table, class_thresholds(table, theta))
    chosen = data.draw(hnp.arrays(bool, len(table)))
    assert predictions.subset(chosen).names.tolist() == predictions.names[chosen].tolist()
    assert predictions.subset(np.flatnonzero(chosen)).names.tolist() == predictions.names[chosen].tolist()


@quick
@given(probability_tables(), st.floats(0, 0.99))
def test_every_cell_is_its_most_probable_type_or_unassigned(table: np.ndarray, theta: float) -> None:
    predictions = Predictions(list("ABCDE")[: table.shape[1]], table, class_thresholds(table, theta))
    assert len(predictions.names) == len(table)
    assert all(
        name == (UNASSIGNED if rejected else raw)
        for name, raw, rejected in zip(predictions.names, predictions.raw, predictions.rejected, strict=True)
    )


# --- rules and reasons -----------------------------------------------------------------------------------------------


@quick
@given(probability_tables(), st.floats(0.2, 20))
def test_a_temperature_changes_how_sure_cells_are_but_not_of_what(table: np.ndarray, temperature: float) -> None:
    """Else calibration would change the labels."""
    cooled = tempered(table, temperature)
    np.testing.assert_allclose(cooled.sum(axis=1), 1, rtol=1e-6)
    top = np.arange(len(table)), table.argmax(axis=1)
    np.testing.assert_allclose(cooled[top], cooled.max(axis=1, initial=0), rtol=1e-9)
    surer = cooled.max(axis=1, initial=0) >= table.max(axis=1, initial=0) - 1e-9
    assert (
        surer.all()
        if temperature <= 1
        else (cooled.max(axis=1, initial=0) <= table.max(axis=1, initial=0) + 1e-9).all()
    )


def test_without_a_temperature_probabilities_stay_bit_for_bit() -> None:
    """METHOD reference gives the network's own."""
    table = np.array([[0.1, 0.9]], dtype=np.float32)
    assert tempered(table, 1.0) is table


def test_a_temperature_keeps_probabilities_of_zero_and_of_one() -> None:
    assert tempered(np.array([[1.0, 0.0]]), 3.0).tolist() == [[1.0, 0.0]]


HELD_OUT = np.array([[0.6, 0.4], [0.7, 0.3], [0.8, 0.2], [0.3, 0.7]])


def test_without_a_threshold_of_its_own_a_rule_takes_class_wise_ones_from_held_out_cells_at_its_temperature() -> None:
    judged = Predictions.by(Rule(2.0), ["B", "T"], HELD_OUT, HELD_OUT, 0.05)
    assert judged.thresholds.tolist() == class_thresholds(tempered(HELD_OUT, 2.0), 0.05).tolist()


def test_target_error_s_threshold_holds_for_every_type() -> None:
    judged = Predictions.by(Rule(1.0, 0.65), ["B", "T"], HELD_OUT, HELD_OUT, 0.05)
    assert judged.names.tolist() == [UNASSIGNED, "B", "B", "T"]
    assert set(Predictions.by(Rule(1.0, NONE_PASSES), ["B", "T"], HELD_OUT, HELD_OUT, 0.05).names) == {UNASSIGNED}


def test_a_cell_unlike_the_reference_is_rejected_however_confident_and_says_so() -> None:
    novelty = np.array([0.1, 0.3, 0.1, 0.3])
    judged = Predictions.by(Rule(1.0, 0.65, novelty_threshold=0.2), ["B", "T"], HELD_OUT, HELD_OUT, 0.05, novelty)
    assert judged.reasons.tolist() == ["ambiguous", "unlike reference", "confident", "unlike reference"]
    assert judged.names.tolist() == [UNASSIGNED, UNASSIGNED, "B", UNASSIGNED]
    assert judged.subset(np.array([2, 3])).reasons.tolist() == ["confident", "unlike reference"]


def test_beside_clearly_new_cells_less_novel_ones_keep_their_type() -> None:
    """Poor cells of a known type would lose it, or the limit would have to be so high that fainter new types pass it."""
    rule, known = Rule(novelty_threshold=0.5, beside_novel=0.5), np.linspace(-0.5, 0.7, 90)
    beside = np.concatenate([known, np.full(10, 3.0)])
    assert rule.limit_of(known) == 0.5
    assert rule.limit_of(beside) == 1.5
    judged = Predictions.by(rule, ["B", "T"], *[np.tile([[0.9, 0.1]], (100, 1))] * 2, 0.05, beside)
    assert judged.unlike is not None
    assert np.flatnonzero(judged.unlike).tolist() == list(range(90, 100))
    assert Rule(novelty_threshold=0.5).limit_of(beside) == 0.5
    assert rule.limit_of(np.zeros(0)) == 0.5


@quick
@given(probability_tables(), st.floats(0, 0.99), st.data())
def test_a_cell_is_confident_if_and_only_if_it_is_assigned(
    table: np.ndarray, theta: float, data: st.DataObject
) -> None:
    novelty = data.draw(hnp.arrays(float, len(table), elements=st.floats(0, 2)))
    judged = Predictions.by(Rule(1.5, None, 1.0), list("ABCDE")[: table.shape[1]], table, table, theta, novelty)
    assert (judged.reasons == "confident").tolist() == (judged.names != UNASSIGNED).tolist()
    assert set(judged.reasons) <= set(REASONS)


@quick
@given(probability_tables(), st.data())
def test_only_types_that_may_be_given_are_given(table: np.ndarray, data: st.DataObject) -> None:
    """And no cell is forced into one of them that is more probably of another."""
    classes = list("ABCDE")[: table.shape[1]]
    types = data.draw(st.sets(st.sampled_from(classes), min_size=1))
    before = Predictions(classes, table, np.full(len(classes), 0.6))
    after = before.among(types)
    assert set(after.names) <= {*types, UNASSIGNED}
    share = table[:, np.isin(classes, list(types))].sum(axis=1)
    assert (after.reasons[share < 0.5] == "not in TYPES").all()
    np.testing.assert_array_equal(after.probabilities[share < 0.5], table[share < 0.5])
    np.testing.assert_allclose(after.probabilities.sum(axis=1), table.sum(axis=1), atol=1e-5)
    kept = np.isin(before.names, list(types))
    assert (after.names[kept] == before.names[kept]).all()
    assert after.subset(np.arange(len(table))).reasons.tolist() == after.reasons.tolist()


@pytest.mark.parametrize("apart", [0.0, 0.5])
@pytest.mark.parametrize("n", [2, 5, 10, 20, 100])
def test_the_share_that_is_asked_for_is_rejected_however_few_cells_were_held_out(n: int, apart: float) -> None:
    """The published rule rejects half of the cells of a type of which two were held out. Types may differ in how sure they are."""
    random, n_types, n_new, shares = np.random.default_rng(0), 6, 50, []
    means = 1.5 + apart * np.arange(n_types)

    def drawn(cells: int) -> np.ndarray:
        log_odds = random.normal(np.tile(means, cells), 1.2)
        top = np.maximum(1 / (1 + np.exp(-log_odds)), 0.3)
        table = np.repeat((1 - top)[:, None] / (n_types - 1), n_types, axis=1)
        table[np.arange(len(top)), np.tile(np.arange(n_types), cells)] = top
        return table

    for _ in range(200):
        thresholds = borrowing_thresholds(drawn(n), 0.05)
        new = drawn(n_new)
        shares.append((new.max(axis=1) < thresholds[new.argmax(axis=1)]).mean())
    assert np.mean(shares) == pytest.approx(0.05, abs=0.02)


def test_a_cell_as_sure_as_all_held_out_ones_passes() -> None:
    """Many cells have one and the same probability, of 1 too; rounding must not reject them."""
    for top in (0.98, 1.0, 0.7):
        table = np.tile(np.array([[top, 1 - top]], dtype=np.float32), (30, 1))
        assert borrowing_thresholds(table, 0.05)[0] <= np.float32(top)
        assert borrowing_thresholds(table[:2], 0.05)[1] <= np.float32(top)  # of a type that no held-out cell is called


def test_without_any_held_out_cell_a_type_needs_a_confidence_of_0_9() -> None:
    assert borrowing_thresholds(np.empty((0, 2)), 0.05).tolist() == [NO_EVIDENCE] * 2


def test_only_rules_of_left_out_batches_borrow() -> None:
    """METHOD `reference`, and models of earlier versions, keep the published rule."""
    rules = [Rule(), Rule(borrows=True)]
    published, borrowed = (Predictions.by(rule, ["B", "NK", "T"], HELD_OUT, HELD_OUT, 0.05) for rule in rules)
    assert published.thresholds.tolist() == class_thresholds(HELD_OUT, 0.05).tolist()
    assert borrowed.thresholds.tolist() == borrowing_thresholds(HELD_OUT, 0.05).tolist()
    assert borrowed.without_evidence == []
