"""The error that page one states: collaborators act on it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jind_nb.model.calibration import Calibration
from jind_nb.model.expected_error import (
    ExpectedError,
    beside_alignment,
    expected_error,
    pooled_error,
    unseen_types,
    widened,
)
from jind_nb.model.predictions import Predictions

SHARE = st.floats(0, 1)


def of_confidence(*confidence: float) -> Predictions:
    """Predictions of two types; a cell is assigned from 0.5 on."""
    top = np.array(confidence)
    return Predictions(["B", "T"], np.stack([top, 1 - top], axis=1), np.array([0.5, 0.5]))


def calibration(*rows: tuple[float | None, float | None], n_annotated: int = 3) -> Calibration:
    """What left-out batches taught: of each the error and the doubt among its assigned cells."""
    batches = [{"cells": 100, "error_among_assigned": error, "doubt_among_assigned": doubt} for error, doubt in rows]
    return Calibration(1.0, None, None, None, n_annotated, batches, {}, [])


def test_a_target_that_the_model_doubts_is_said_to_be_worse_than_the_left_out_batches() -> None:
    """A mean over left-out batches would state 2 % for a target of another condition."""
    like_the_others = expected_error(of_confidence(*[0.98] * 50), calibration((0.02, 0.02), (0.02, 0.02)))
    another = expected_error(of_confidence(*[0.85] * 50), calibration((0.02, 0.02), (0.02, 0.02)))
    assert like_the_others.value == pytest.approx(0.02)
    assert another.value == pytest.approx(0.15)


def test_a_model_that_was_too_sure_of_left_out_batches_is_not_believed() -> None:
    honest = expected_error(of_confidence(*[0.95] * 50), calibration((0.05, 0.05), (0.05, 0.05))).value
    boastful = expected_error(of_confidence(*[0.95] * 50), calibration((0.20, 0.05), (0.20, 0.05))).value
    assert honest is not None
    assert boastful is not None
    assert boastful > 2 * honest


def test_types_that_were_left_out_are_added_as_errors() -> None:
    """A fifth of the annotated cells is of types too rare to be learned: so, probably, is a fifth of the target."""
    learned = calibration((0.02, 0.02), (0.02, 0.02))
    whole = expected_error(of_confidence(*[0.98] * 50), learned)
    found = expected_error(of_confidence(*[0.98] * 50), replace(learned, dropped=0.2))
    assert whole.range is not None
    assert found.value == pytest.approx(0.02 + 0.98 * 0.2)
    assert found.range == pytest.approx([1 - 0.8 * (1 - share) for share in whole.range])
    assert "20.0 % of the labelled cells are of types too rare to be learned" in found.basis


def test_only_assigned_cells_count() -> None:
    predictions = Predictions(["B", "T"], np.array([[0.9, 0.1], [0.55, 0.45]]), np.array([0.8, 0.8]))
    assert expected_error(predictions, calibration((0.1, 0.1))).value == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("learned", "why"),
    [
        (None, "No annotated batch was left out"),
        (calibration((0.0, 0.0), n_annotated=1), "There is a single annotated batch"),
    ],
)
def test_nothing_is_stated_where_no_batch_could_be_left_out(learned: Calibration | None, why: str) -> None:
    """Cells held out of the same batch would promise too much."""
    found = expected_error(of_confidence(0.9), learned)
    assert (found.value, found.range) == (None, None)
    assert found.basis.startswith(why)


def test_nothing_is_stated_of_no_cell() -> None:
    assert expected_error(of_confidence(), calibration((0.1, 0.1))).value is None


def test_nothing_is_stated_by_a_model_that_did_not_keep_the_doubt_of_left_out_batches() -> None:
    """Its own confidence alone, which nothing corrects, would be believed."""
    older = Calibration(1.0, None, None, None, 3, [{"error_among_assigned": 0.3}], {}, [])
    found = expected_error(of_confidence(0.9), older)
    assert found.value is None
    assert "earlier version" in found.basis


def test_groups_of_cells_count_by_their_assigned_cells() -> None:
    parts = {"'a'": (ExpectedError(0.1, (0.0, 0.2), "So."), 90), "'b'": (ExpectedError(0.2, (0.1, 0.3), "Thus."), 10)}
    pooled = pooled_error(parts)
    assert pooled.value == pytest.approx(0.11)
    assert pooled.range == pytest.approx((0.01, 0.21))
    assert (
        pooled.basis
        == "This is the mean over these parts of the file, the larger ones counting more: 'a', 'b'. For 'a': so."
    )
    assert pooled_error({"'a'": (ExpectedError(None, None, "No cell was assigned."), 0)}).value is None


def test_nothing_is_stated_where_nothing_is_known_of_some_assigned_cells() -> None:
    known, unknown = ExpectedError(0.1, (0.0, 0.2), "so"), ExpectedError(None, None, "why")
    assert pooled_error({"'a'": (known, 5), "'b'": (unknown, 5)}) == unknown
    assert pooled_error({"'a'": (known, 5), "'b'": (unknown, 0)}) == known


@given(st.lists(st.floats(0.5, 1), min_size=1, max_size=30), st.lists(st.tuples(SHARE, SHARE), min_size=1, max_size=5))
def test_it_is_a_share_within_its_interval(confidence: list[float], rows: list[tuple[float, float]]) -> None:
    found = expected_error(of_confidence(*confidence), calibration(*rows))
    assert found.value is not None
    assert found.range is not None
    low, high = found.range
    assert 0 <= low <= found.value <= high <= 1


def test_what_a_file_lacks_makes_the_interval_wider() -> None:
    """No left-out batch lacks features, so none tells what that costs."""
    error = ExpectedError(0.1, (0.05, 0.2), "So.")
    assert widened(error, 0.0) == error
    of_few = widened(error, 0.4)
    assert of_few.range == pytest.approx((0.05, 0.26))
    assert "40.0 % of the model's features are not in the file" in of_few.basis


def flagged(share: float) -> Predictions:
    """A hundred cells, of which a share is unlike the reference."""
    return replace(of_confidence(*[0.95] * 100), unlike=np.arange(100) < round(100 * share))


def test_a_new_type_that_is_seldom_noticed_makes_the_interval_reach_higher() -> None:
    """Flagged cells of a new type have sisters that got a name; left-out batches have none of these."""
    learned = calibration((0.05, 0.05), (0.05, 0.05))
    for row in learned.batches:
        row["unlike_reference"] = 0.02
    seldom = replace(learned, noticed={"B": 0.2, "T": 0.4})
    often = replace(learned, noticed={"B": 1.0, "T": 1.0})
    plain = expected_error(flagged(0.02), seldom)
    found = expected_error(flagged(0.12), seldom)
    noticed = expected_error(flagged(0.12), often)
    assert plain.range is not None
    assert found.range is not None
    assert noticed.range is not None
    assert unseen_types(flagged(0.02), seldom) == 0
    assert unseen_types(flagged(0.12), seldom) == pytest.approx(0.1 * 0.7 / 0.88)
    assert found.range[1] > noticed.range[1] + 0.1
    assert found.range[0] == pytest.approx(noticed.range[0])
    assert found.value == pytest.approx(noticed.value)
    assert "may have been given a name" in found.basis
    assert "may have been given a name" not in plain.basis


def test_a_batch_that_alignment_would_annotate_otherwise_is_not_believed_for_its_confidence() -> None:
    """9 % was stated of proteins of another study, of which 64 % were wrong: the cells lay apart, and their answers were sure."""
    sure, aligned = ExpectedError(0.1, (0.0, 0.2), "Said."), ExpectedError(0.1, (0.0, 0.2), "Aligned.")
    found = beside_alignment(sure, 0.5, aligned)
    assert found.value == pytest.approx(0.5 * 0.9 + 0.5 * 0.1)
    assert found.range == pytest.approx((0.3, 0.7))
    assert "50.0 % of the assigned cells would get another type" in found.basis
    assert beside_alignment(sure, 0.0, aligned) is sure


@given(SHARE, SHARE, SHARE, SHARE, SHARE)
def test_beside_alignment_the_error_is_never_lower_and_within_its_interval(
    value: float, other: float, low: float, high: float, changed: float
) -> None:
    error = ExpectedError(value, (value * low, value + (1 - value) * high), "")
    found = beside_alignment(error, changed, ExpectedError(other, (other * low, other + (1 - other) * high), ""))
    assert found.value is not None
    assert found.range is not None
    assert 0 <= found.range[0] <= found.value <= found.range[1] <= 1
    assert found.value >= value
    assert beside_alignment(ExpectedError(None, None, ""), changed, error).value is None


def test_how_far_the_range_is_for_new_types_is_kept() -> None:
    """The first sentence says why it is so wide; predict pools batches, and asks what alignment would change."""
    own = ExpectedError(0.01, (0.0, 0.4), "Why.", unseen=0.3)
    assert pooled_error({"a": (own, 10), "b": (own, 30)}).unseen == pytest.approx(0.3)
    assert beside_alignment(own, 0.2, ExpectedError(0.05, (0.0, 0.1), "")).unseen == 0.3
