"""The numbers of the report: by hand, and against scikit-learn where it computes the same."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sklearn_metrics

from jind_nb.core.labels import UNASSIGNED
from jind_nb.metrics import (
    accuracy_at_coverage,
    area_under_risk_coverage,
    average_precision,
    balanced_accuracy,
    calibration_error,
    confusion,
    per_type_table,
    reliability,
    risk_coverage,
)
from jind_nb.model.history import evaluate, stage_result
from jind_nb.model.predictions import Predictions

CLASSES = ["B", "NK", "T"]
UNKNOWN = "Mono"
quick = settings(deadline=None, max_examples=50)


def predictions_of(
    probabilities: list[list[float]], threshold: float = 0.0, classes: list[str] | None = None
) -> Predictions:
    classes = classes or CLASSES
    return Predictions(classes, np.array(probabilities), np.full(len(classes), threshold))


def names(*values: str) -> np.ndarray:
    return np.array(values, dtype=object)


@st.composite
def labelled(draw: st.DrawFn, fewest: int = 1, types: tuple[str, ...] = (*CLASSES, UNKNOWN)) -> tuple:
    """True types (one of them unknown to the model) and predictions with a threshold."""
    n = draw(st.integers(fewest, 40))
    truth = np.array(draw(st.lists(st.sampled_from(types), min_size=n, max_size=n)), dtype=object)
    weights = draw(hnp.arrays(np.float64, (n, len(CLASSES)), elements=st.integers(1, 9).map(float)))
    threshold = draw(st.floats(0, 1))
    return truth, Predictions(CLASSES, weights / weights.sum(axis=1, keepdims=True), np.full(len(CLASSES), threshold))


# --- average precision -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("is_type", "score", "expected"),
    [
        ([1, 1, 0, 0], [0.9, 0.8, 0.2, 0.1], 1.0),
        # precision at the two hits 1 and 2/3, already falling
        ([1, 0, 1], [0.9, 0.5, 0.4], (1 + 2 / 3) / 2),
        # precision at the hits 1/2, 2/3: the first is lifted to 2/3
        ([0, 1, 1], [0.9, 0.5, 0.4], 2 / 3),
        # precision at the hits 1/3, 2/4, 3/5: all lifted to 3/5
        ([0, 0, 1, 1, 1], [0.9, 0.8, 0.7, 0.6, 0.5], 3 / 5),
        # ties: the wrong cell counts as first, whatever the order of rows
        ([1, 0], [0.5, 0.5], 1 / 2),
        ([0, 1], [0.5, 0.5], 1 / 2),
        # three of equal score: 0, 1, 1 -> 1/2 and 2/3, lifted to 2/3
        ([1, 0, 1], [0.5, 0.5, 0.5], 2 / 3),
        ([0, 0, 1], [0.9, 0.8, 0.1], 1 / 3),
        ([1], [0.0], 1.0),
    ],
)
def test_average_precision_is_that_worked_out_by_hand(is_type: list[int], score: list[float], expected: float) -> None:
    assert average_precision(np.array(is_type, dtype=bool), np.array(score)) == pytest.approx(expected)


def test_average_precision_of_a_type_without_cells_is_undefined() -> None:
    assert np.isnan(average_precision(np.zeros(3, dtype=bool), np.arange(3.0)))


@st.composite
def without_ties(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    n = draw(st.integers(1, 40))
    is_type = draw(hnp.arrays(bool, n))
    is_type[draw(st.integers(0, n - 1))] = True
    return is_type, np.array(draw(st.permutations(range(n))), dtype=float) / n


@quick
@given(without_ties())
def test_average_precision_is_scikit_learn_s_with_precision_made_monotone(data: tuple) -> None:
    is_type, score = data
    ours, theirs = average_precision(is_type, score), sklearn_metrics.average_precision_score(is_type, score)
    assert ours >= theirs - 1e-12
    precision, recall, _ = sklearn_metrics.precision_recall_curve(is_type, score)
    monotone = np.maximum.accumulate(precision)  # scikit-learn's curve begins at full recall
    assert ours == pytest.approx(-np.sum(np.diff(recall) * monotone[:-1]))
    if np.array_equal(monotone[:-1], precision[:-1]):
        assert ours == pytest.approx(theirs)


@quick
@given(st.integers(1, 20), st.integers(0, 20))
def test_a_perfect_ranking_has_average_precision_1_as_in_scikit_learn(n_right: int, n_wrong: int) -> None:
    is_type = np.arange(n_right + n_wrong) < n_right
    score = np.linspace(1, 0, n_right + n_wrong)
    assert average_precision(is_type, score) == 1.0
    assert sklearn_metrics.average_precision_score(is_type, score) == pytest.approx(1.0)


@quick
@given(labelled(), st.randoms(use_true_random=False))
def test_average_precision_does_not_depend_on_the_order_of_cells(data: tuple, random: Any) -> None:
    truth, predictions = data
    is_type, score = truth == truth[0], predictions.probabilities[:, 0]
    order = list(range(len(truth)))
    random.shuffle(order)
    assert average_precision(is_type[order], score[order]) == pytest.approx(average_precision(is_type, score))


@quick
@given(without_ties())
def test_a_tie_never_raises_average_precision(data: tuple) -> None:
    is_type, score = data
    coarse = np.round(score, 1)
    # Break every tie in favour of the right cells: that can only be better.
    lucky = coarse + is_type * 1e-3
    assert average_precision(is_type, coarse) <= average_precision(is_type, lucky) + 1e-12


# --- evaluate ----------------------------------------------------------------------------------------------------------


def test_all_numbers_of_six_cells_are_those_worked_out_by_hand() -> None:
    truth = names("B", "B", "T", "T", "T", "NK")
    predictions = predictions_of(
        [
            [0.8, 0.1, 0.1],  # B, right
            [0.1, 0.2, 0.7],  # B called T
            [0.1, 0.1, 0.8],  # T, right
            [0.2, 0.2, 0.6],  # T, right but rejected
            [0.9, 0.0, 0.1],  # T called B
            [0.1, 0.4, 0.5],  # NK called T, rejected
        ],
        threshold=0.65,
    )
    found, table = evaluate(truth, predictions)
    assert (found["cells"], found["rejected"], found["misclassified"]) == (6, 2, 2)
    assert found["raw_accuracy"] == pytest.approx(3 / 6)
    assert found["effective_accuracy"] == pytest.approx(2 / 4)
    assert found["rejection"] == pytest.approx(2 / 6)
    assert table["T"] | {"average_precision": 0} == {
        "cells": 3, "rejected": 1, "right": 1, "misclassified": 1, "average_precision": 0,
        "precision": 2 / 4, "recall": 2 / 3, "f1": 4 / 7,
    }  # fmt: skip
    assert table["NK"]["precision"] is None
    assert table["NK"]["f1"] == 0
    # B: scores 0.9 (wrong), 0.8 right, 0.2, then three of 0.1, the wrong two first: 1/2, 2/6.
    # NK: 0.4 is the highest, right: 1. T: 0.8 right, 0.7, 0.6 right, 0.5, two of 0.1, the wrong first: 1, 2/3, 3/6.
    assert table["B"]["average_precision"] == pytest.approx((1 / 2 + 2 / 6) / 2)
    assert table["NK"]["average_precision"] == 1
    assert table["T"]["average_precision"] == pytest.approx((1 + 2 / 3 + 3 / 6) / 3)
    assert found["mAP"] == pytest.approx((5 / 12 + 1 + 13 / 18) / 3)
    assert found["macro_F1"] == pytest.approx((1 / 2 + 0 + 4 / 7) / 3)


@quick
@given(labelled())
def test_raw_numbers_agree_with_scikit_learn(data: tuple) -> None:
    truth, predictions = data
    found, table = evaluate(truth, predictions)
    raw, present = predictions.raw, sorted(set(truth))
    assert found["raw_accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(truth, raw))
    precision, recall, f1, _ = sklearn_metrics.precision_recall_fscore_support(
        truth, raw, labels=present, average=None, zero_division=0
    )
    assert [row["precision"] or 0 for row in table.values()] == pytest.approx(list(precision))
    assert [row["recall"] for row in table.values()] == pytest.approx(list(recall))
    assert [row["f1"] for row in table.values()] == pytest.approx(list(f1))
    assert found["macro_F1"] == pytest.approx(np.mean(f1))
    assert list(table) == present


@quick
@given(labelled())
def test_effective_accuracy_is_the_accuracy_among_cells_kept(data: tuple) -> None:
    truth, predictions = data
    kept = predictions.names != UNASSIGNED
    found, _ = evaluate(truth, predictions)
    assert found["rejection"] == pytest.approx(1 - kept.mean())
    if kept.any():
        expected = sklearn_metrics.accuracy_score(truth[kept], predictions.names[kept])
        assert found["effective_accuracy"] == pytest.approx(expected)
    else:
        assert found["effective_accuracy"] is None


@quick
@given(labelled())
def test_counts_of_a_type_add_up_to_its_cells(data: tuple) -> None:
    truth, predictions = data
    found, table = evaluate(truth, predictions)
    assert all(row["rejected"] + row["right"] + row["misclassified"] == row["cells"] for row in table.values())
    for name in ("cells", "rejected", "misclassified"):
        assert found[name] == sum(row[name] for row in table.values())


def test_effective_accuracy_is_undefined_where_every_cell_is_rejected() -> None:
    found, _ = evaluate(names("B", "T"), predictions_of([[0.5, 0.2, 0.3], [0.5, 0.2, 0.3]], threshold=0.9))
    assert found["effective_accuracy"] is None
    assert found["rejection"] == 1
    assert found["raw_accuracy"] == 0.5


def test_a_type_the_model_missed_altogether_lowers_map() -> None:
    """The reference leaves such types out of the mean, which hides the failure."""
    predictions = predictions_of([[0.9, 0.0, 0.1], [0.8, 0.1, 0.1], [0.7, 0.2, 0.1]])
    found, table = evaluate(names("B", "B", UNKNOWN), predictions)
    assert table["B"]["average_precision"] == 1
    assert table[UNKNOWN]["average_precision"] == 0
    assert found["mAP"] == 0.5


def test_a_type_the_model_does_not_know_counts_as_wrong_and_zero() -> None:
    found, table = evaluate(names("B", UNKNOWN), predictions_of([[0.9, 0.0, 0.1], [0.8, 0.1, 0.1]]))
    assert found["raw_accuracy"] == 0.5
    assert table[UNKNOWN] == {
        "cells": 1, "rejected": 0, "right": 0, "misclassified": 1, "precision": None, "recall": 0, "f1": 0,
        "average_precision": 0,
    }  # fmt: skip
    assert found["macro_F1"] == pytest.approx((2 / 3 + 0) / 2)


def test_types_that_are_predicted_but_not_there_do_not_enter_the_means() -> None:
    found, table = evaluate(names("B", "B"), predictions_of([[0.9, 0.0, 0.1], [0.1, 0.1, 0.8]]))
    assert list(table) == ["B"]
    assert found["macro_F1"] == pytest.approx(2 / 3)
    assert found["mAP"] == 1


def test_no_cells_give_no_numbers_instead_of_a_crash() -> None:
    found, table = evaluate(names(), Predictions(CLASSES, np.empty((0, 3)), np.zeros(3)))
    assert table == {}
    assert found == {
        "cells": 0, "unknown_type": 0, "rejected": 0, "misclassified": 0, "raw_accuracy": None,
        "effective_accuracy": None, "accuracy": None, "rejection": None, "mAP": None, "macro_F1": None, "AURC": None,
        "calibration_error": None,
    }  # fmt: skip


def test_the_table_tells_of_a_type_that_is_neither_there_nor_predicted() -> None:
    table = per_type_table(names("B"), names("B"), np.array([True]), ["NK"])
    assert table == {
        "NK": {"cells": 0, "rejected": 0, "right": 0, "misclassified": 0, "precision": None, "recall": None, "f1": None}
    }


@quick
@given(labelled(fewest=0))
def test_results_are_strict_json(data: tuple) -> None:
    """metrics.json is read by programs that know no NaN."""
    truth, predictions = data
    result = stage_result("a", "initial", "held-out cells", truth, predictions)
    stored = asdict(result)
    assert json.loads(json.dumps(stored, allow_nan=False)) == stored


# --- confusion ---------------------------------------------------------------------------------------------------------


@quick
@given(labelled())
def test_confusion_agrees_with_scikit_learn(data: tuple) -> None:
    truth, predictions = data
    every = sorted({*CLASSES, UNKNOWN, UNASSIGNED})
    counts = confusion(truth, predictions.names, every, every)
    np.testing.assert_array_equal(counts, sklearn_metrics.confusion_matrix(truth, predictions.names, labels=every))


@quick
@given(labelled())
def test_a_stage_s_matrix_has_every_cell_once(data: tuple) -> None:
    truth, predictions = data
    result = stage_result("a", "adapt", "training cells", truth, predictions)
    counts = np.array(result.confusion)
    assert result.predicted == [*CLASSES, UNASSIGNED]
    assert counts.shape == (len(result.truth), len(result.predicted))
    assert counts.sum() == result.metrics["cells"] == len(truth)
    assert counts[:, -1].sum() == result.metrics["rejected"]
    for name, row in zip(result.truth, counts, strict=True):
        assert row.sum() == (truth == name).sum()
        if name in CLASSES:
            assert row[CLASSES.index(name)] == ((truth == name) & (predictions.names == name)).sum()


# --- confidence ----------------------------------------------------------------------------------------------------------


@st.composite
def confident(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Confidences with ties, and whether each is right."""
    cells = draw(
        st.lists(st.tuples(st.sampled_from([0.2, 0.5, 0.55, 0.9, 1.0]), st.booleans()), min_size=1, max_size=40)
    )
    return np.array([c for c, _ in cells]), np.array([r for _, r in cells])


@quick
@given(confident(), st.randoms(use_true_random=False))
def test_risk_does_not_depend_on_the_order_of_cells_and_ends_at_the_error(data: tuple, random: Any) -> None:
    confidence, right = data
    order = list(range(len(right)))
    random.shuffle(order)
    coverage, risk = risk_coverage(confidence, right)
    np.testing.assert_allclose(risk_coverage(confidence[order], right[order])[1], risk)
    assert coverage[-1] == 1
    assert risk[-1] == pytest.approx(1 - right.mean())
    assert ((risk >= 0) & (risk <= 1 + 1e-12)).all()


@quick
@given(confident())
def test_aurc_is_zero_if_all_are_right_and_one_if_none_is(data: tuple) -> None:
    confidence, right = data
    assert area_under_risk_coverage(confidence, np.ones_like(right)) == 0
    assert area_under_risk_coverage(confidence, np.zeros_like(right)) == pytest.approx(1)


def test_aurc_of_four_cells_is_that_worked_out_by_hand() -> None:
    """Risks 0, 1/2, 1/3, 2/4."""
    aurc = area_under_risk_coverage(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False]))
    assert aurc == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)


def test_confidence_that_ranks_wrong_cells_last_has_the_lower_aurc() -> None:
    right = np.array([True, True, False])
    good, bad = np.array([0.9, 0.8, 0.7]), np.array([0.7, 0.8, 0.9])
    assert area_under_risk_coverage(good, right) < area_under_risk_coverage(bad, right)


@quick
@given(confident())
def test_reliability_has_every_cell_once_and_its_error_is_a_share(data: tuple) -> None:
    confidence, right = data
    table = reliability(confidence, right)
    assert table["cells"].sum() == len(right)
    assert 0 <= calibration_error(confidence, right) <= 1


def test_calibration_error_of_two_ranges_is_that_worked_out_by_hand() -> None:
    """Two cells of 0.9, both right: 0.1 off; two of 0.5, both wrong: 0.5 off."""
    error = calibration_error(np.array([0.9, 0.9, 0.5, 0.5]), np.array([True, True, False, False]))
    assert error == pytest.approx((0.1 + 0.5) / 2)


def test_no_cells_have_no_calibration_error() -> None:
    assert np.isnan(calibration_error(np.zeros(0), np.zeros(0, dtype=bool)))
    assert np.isnan(area_under_risk_coverage(np.zeros(0), np.zeros(0, dtype=bool)))


# --- types the model does not know -----------------------------------------------------------------------------------------


def test_a_cell_of_a_type_no_annotated_batch_has_is_right_only_when_rejected() -> None:
    """Else a model that names everything would look as good as one that knows its limits."""
    truth = names("B", "T", UNKNOWN, UNKNOWN)
    certain, doubtful = [0.9, 0.05, 0.05], [0.4, 0.3, 0.3]
    keeps, _ = evaluate(truth, predictions_of([certain, [0.05, 0.05, 0.9], certain, certain], 0.5))
    assert (keeps["unknown_type"], keeps["accuracy"], keeps["effective_accuracy"]) == (2, 0.5, 0.5)
    rejects, _ = evaluate(truth, predictions_of([certain, [0.05, 0.05, 0.9], doubtful, doubtful], 0.5))
    assert (rejects["accuracy"], rejects["effective_accuracy"], rejects["misclassified"]) == (1.0, 1.0, 0)


@quick
@given(labelled())
def test_accuracy_counts_assigned_and_right_cells_and_rejected_ones_of_unknown_types(data: tuple) -> None:
    truth, predictions = data
    metrics, table = evaluate(truth, predictions)
    right = sum(row["right"] for row in table.values()) + table.get(UNKNOWN, {"rejected": 0})["rejected"]
    assert metrics["accuracy"] == pytest.approx(right / len(truth))


# --- methods that reject different shares --------------------------------------------------------------------------------


@given(confident())
def test_accuracy_at_full_coverage_is_raw_accuracy_and_no_share_is_impossible(data: tuple) -> None:
    """Methods are compared by it; a cell more or less at the border would favour one of them."""
    confidence, right = data
    assert accuracy_at_coverage(confidence, right, 1.0) == pytest.approx(right.mean())
    for share in (0.8, 0.9, 0.95):
        assert -1e-12 <= accuracy_at_coverage(confidence, right, share) <= 1 + 1e-12


@given(st.integers(1, 400), st.sampled_from([0.8, 0.9, 0.95]), st.randoms(use_true_random=False))
def test_accuracy_at_coverage_counts_the_surest_cells(n: int, share: float, random: Any) -> None:
    """Against a count by hand, ranks without ties: the smallest number of cells that is no less than the share."""
    right = np.array([random.random() < 0.7 for _ in range(n)])
    confidence = np.array(random.sample(range(n), n)) / n
    most = next(k for k in range(n + 1) if 100 * k >= round(100 * share) * n)
    expected = right[np.argsort(-confidence)][:most].mean()
    assert accuracy_at_coverage(confidence, right, share) == pytest.approx(expected)


@given(st.integers(1, 50), st.floats(0.05, 1))
def test_a_method_that_is_equally_sure_of_all_cells_gains_nothing_by_rejecting(n: int, share: float) -> None:
    right = np.arange(n) % 3 > 0
    assert accuracy_at_coverage(np.full(n, 0.5), right, share) == pytest.approx(right.mean())


@given(st.lists(st.sampled_from("ABC"), min_size=1), st.randoms(use_true_random=False))
def test_balanced_accuracy_is_scikit_learns(names: list[str], random: Any) -> None:
    from sklearn.metrics import recall_score

    truth = np.array(names, dtype=object)
    raw = np.array([random.choice("ABCD") for _ in names], dtype=object)
    present = sorted(set(names))
    expected = recall_score(truth, raw, labels=present, average="macro", zero_division=0)
    assert balanced_accuracy(truth, raw) == pytest.approx(expected)
