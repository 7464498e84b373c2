"""Which cells are rejected, and the reason given for each."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jind_nb.rejection import NO_EVIDENCE, REASONS, UNASSIGNED, Predictions, class_thresholds, reasons

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
    assert predictions.of(chosen).names.tolist() == predictions.names[chosen].tolist()
    assert predictions.of(np.flatnonzero(chosen)).names.tolist() == predictions.names[chosen].tolist()


@quick
@given(probability_tables(), st.floats(0, 0.99))
def test_every_cell_is_its_most_probable_type_or_unassigned(table: np.ndarray, theta: float) -> None:
    predictions = Predictions(list("ABCDE")[: table.shape[1]], table, class_thresholds(table, theta))
    assert len(predictions.names) == len(table)
    assert all(
        name == (UNASSIGNED if rejected else raw)
        for name, raw, rejected in zip(predictions.names, predictions.raw, predictions.rejected, strict=True)
    )


# --- reasons ---------------------------------------------------------------------------------------------------------


def clouds() -> tuple[np.ndarray, np.ndarray]:
    """Reference and held-out codes, both around the origin."""
    random = np.random.default_rng(0)
    return random.normal(0, 1, (300, 4)).astype(np.float32), random.normal(0, 1, (100, 4)).astype(np.float32)


def test_a_rejected_cell_far_from_every_reference_cell_is_unlike_reference() -> None:
    reference, held_out = clouds()
    codes = np.array([[0, 0, 0, 0], [0, 0, 0, 0], [50, 0, 0, 0], [50, 0, 0, 0]], dtype=np.float32)
    told = reasons(np.array([False, True, False, True]), codes, reference, held_out)
    assert told.tolist() == ["confident", "ambiguous", "confident", "unlike reference"]
    assert set(told) <= set(REASONS)


def test_the_limit_is_what_99_percent_of_held_out_cells_stay_within() -> None:
    """On a line, reference cells at 0: the fifth nearest is as far as the cell itself."""
    reference, held_out = np.zeros((10, 1)), np.arange(1.0, 102.0)[:, None]  # distances 1 to 101, 99 % quantile 100
    codes = np.array([[99.9], [100.1]])
    assert reasons(np.ones(2, dtype=bool), codes, reference, held_out).tolist() == ["ambiguous", "unlike reference"]


def test_four_stray_reference_cells_do_not_make_a_cell_like_the_reference() -> None:
    reference, held_out = clouds()
    stray = np.full((1, 4), 50, dtype=np.float32)
    rejected = np.ones(1, dtype=bool)
    four, five = (np.vstack([reference, np.repeat(stray, n, axis=0)]) for n in (4, 5))
    assert reasons(rejected, stray, four, held_out).tolist() == ["unlike reference"]
    assert reasons(rejected, stray, five, held_out).tolist() == ["ambiguous"]


@pytest.mark.parametrize(("n_reference", "n_held_out"), [(0, 5), (5, 0), (1, 1), (3, 2)])
def test_few_reference_cells_still_give_every_cell_a_reason(n_reference: int, n_held_out: int) -> None:
    codes = np.zeros((3, 4), dtype=np.float32)
    told = reasons(np.array([True, False, True]), codes, np.zeros((n_reference, 4)), np.zeros((n_held_out, 4)))
    assert told.tolist() == ["ambiguous", "confident", "ambiguous"]


def test_without_rejected_cells_all_are_confident() -> None:
    reference, held_out = clouds()
    assert set(reasons(np.zeros(5, dtype=bool), np.full((5, 4), 99.0), reference, held_out)) == {"confident"}
    assert len(reasons(np.zeros(0, dtype=bool), np.zeros((0, 4)), reference, held_out)) == 0
