"""What several samples beside each other tell: a sample that is odd, and none that is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from jind_nb.data.plan import Plan
from jind_nb.model.expected_error import ExpectedError
from jind_nb.model.predictions import Predictions
from jind_nb.results.across import in_one_sentence, what_stands_out
from jind_nb.results.target import TargetResult

CLASSES = ["B", "T"]
ANNOTATED = {"a": {"B": 30, "T": 70}, "b": {"B": 50, "T": 50}}


def sample(n_b: int, n_t: int, *, confidence: float = 0.9) -> TargetResult:
    """A sample of so many cells that are most like B and T; under 0.6 they are Unassigned."""
    p = np.repeat([[confidence, 1 - confidence], [1 - confidence, confidence]], [n_b, n_t], axis=0)
    names = np.array([f"c{i}" for i in range(n_b + n_t)])
    return TargetResult(
        {"before alignment": Predictions(CLASSES, p, np.full(2, 0.6))}, names, np.zeros((len(p), 8)), None
    )


def plans(warnings: list[str] | None = None, annotated: dict[str, dict[str, int]] = ANNOTATED) -> dict[str, Plan]:
    return {
        name: Plan(name, "a", list(annotated), CLASSES, cells=annotated, warnings=list(warnings or []))
        for name in ("s1", "s2", "s3")
    }


def errors(**values: float | None) -> dict[str, ExpectedError]:
    return {name: ExpectedError(values.get(name, 0.01), (0.0, 0.1), "") for name in ("s1", "s2", "s3")}


def test_a_sample_with_many_unassigned_cells_keeps_its_composition() -> None:
    """Its doubtful cells would otherwise be told as a change of its composition, and of that of all others."""
    results = {"s1": sample(40, 60), "s2": sample(40, 60), "s3": sample(40, 60, confidence=0.55)}
    assert what_stands_out(results, errors(), plans()) == [
        "s3: 0.0 % of the cells are assigned, 100.0 % in the median of the others."
    ]


def test_a_share_as_in_the_annotated_batches_does_not_stand_out_and_another_does() -> None:
    """Beside one odd sample an ordinary one looks odd."""
    results = {"s1": sample(45, 55), "s2": sample(90, 10), "s3": sample(88, 12)}
    assert what_stands_out(results, errors(), plans()) == [
        "s2: 10.0 % of the cells are most like T, 33.5 % in the median of the others, 50.0 % to 70.0 % in the annotated batches.",
        "s3: 12.0 % of the cells are most like T, 32.5 % in the median of the others, 50.0 % to 70.0 % in the annotated batches.",
    ]


def test_beside_one_annotated_batch_only_the_samples_are_compared() -> None:
    results = {"s1": sample(10, 90), "s2": sample(90, 10), "s3": sample(88, 12)}
    first = what_stands_out(results, errors(), plans(annotated={"a": ANNOTATED["a"]}))[0]
    assert first.startswith("s1: ")
    assert "annotated" not in first


def test_a_sample_without_a_known_error_is_compared_by_the_rest() -> None:
    """Of a single annotated batch no error is known at all."""
    results = {name: sample(40, 60) for name in ("s1", "s2", "s3")}
    assert what_stands_out(results, errors(s1=None, s2=None, s3=None), plans()) == []
    assert what_stands_out(results, errors(s1=None, s2=0.2), plans()) == [
        "s2: 20.0 % of the assigned cells are probably wrong, 1.0 % in the median of the others."
    ]


def test_a_samples_own_warning_comes_first_and_is_said_of_it_alone() -> None:
    """Why a sample is odd is what its reader needs."""
    results = {"s1": sample(45, 55), "s2": sample(45, 55), "s3": sample(45, 55, confidence=0.55)}
    warnings = ["The cells of 's2' are poor.", "Something about the annotated batches."]
    first, second = what_stands_out(results, errors(), plans(warnings))
    assert first == "The cells of 's2' are poor."
    assert second.startswith("s3: ")


def test_the_first_sentence_weighs_errors_by_assigned_cells() -> None:
    results = {"s1": sample(40, 60), "s2": sample(150, 150), "s3": sample(40, 60, confidence=0.55)}
    # In s3 no cell is assigned, so none is wrong.
    assert in_one_sentence(results, errors(s1=0.05, s2=0.01, s3=None)) == (
        "400 of 500 cells assigned (80.0 %); about 2.0 % of the assigned cells are probably wrong, most in s1 (about 5.0 %)"
    )
    assert in_one_sentence(results, errors(s2=None, s3=None)).endswith(
        "; how many of them are wrong is not known in 1 sample"
    )
    del results["s3"]
    assert in_one_sentence(results, errors(s1=0.05, s2=0.01)) == (
        "400 of 400 cells assigned (100.0 %); about 2.0 % of the assigned cells are probably wrong, most in s1 (about 5.0 %)"
    )


def test_cells_unlike_all_annotated_ones_are_told_though_all_samples_have_as_many() -> None:
    """A cell type that the annotated batches lack is in every sample of a cohort, and compared with each other none is odd."""
    results = {name: sample(40, 60) for name in ("s1", "s2", "s3")}
    for result in results.values():
        result.stages = {"last": replace(result.final, unlike=np.arange(100) >= 80)}
    told = what_stands_out(results, errors(), plans())
    assert [words[:2] for words in told] == ["s1", "s2", "s3"]
    assert all("20.0 % of the cells are unlike all annotated cells, perhaps of a type that" in words for words in told)
    assert "(80.0 %), 60 unlike all annotated cells; about" in in_one_sentence(results, errors())


def test_a_share_that_leaves_cells_out_says_so() -> None:
    """ "9.8 % of the cells" was 7.4 % of the bar beside it."""
    results = {"s1": sample(45, 55), "s2": sample(45, 55), "s3": sample(90, 10)}
    results["s3"].stages = {"last": replace(results["s3"].final, unlike=np.arange(100) >= 98)}
    (told,) = what_stands_out(results, errors(), plans())
    assert told.startswith(
        "s3: 8.2 % of the cells are most like T (cells unlike all annotated ones not counted), 55.0 %"
    )


def test_no_sample_is_named_for_an_error_like_all_others() -> None:
    """ "most in s2 (about 0.1 %)" after "about 0.1 %" would be read as a finding."""
    results = {name: sample(40, 60) for name in ("s1", "s2")}
    assert in_one_sentence(results, errors(s1=0.010, s2=0.012)).endswith("of the assigned cells are probably wrong")
