"""Labels that are wrong are found where they are, and make no error of the model's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from jind_nb.model.label_errors import COLUMNS, contradictions, even_noise, other_names, suspects
from jind_nb.model.leave_one_out import LeftOut
from jind_nb.model.predictions import Rule

CLASSES = ["B", "DC", "Mono", "NK", "T"]


def batch(
    name: str, *, noise: float = 0.0, mistakes: float = 0.0, n: int = 400, seed: int = 0
) -> tuple[LeftOut, np.ndarray]:
    """A left-out batch of five types, a share of labels changed at random, and answers that mix up NK and T where unsure."""
    random = np.random.default_rng(seed)
    true = random.integers(0, 5, n)
    unsure = (random.random(n) < mistakes) & (true >= 3)
    answer = np.where(unsure, 7 - true, true)
    p = np.full((n, 5), 0.02)
    p[np.arange(n), answer] = np.where(unsure, 0.6, random.uniform(0.75, 0.92, n))
    p[np.arange(n), true] += np.where(unsure, 0.3, 0.0)
    p /= p.sum(axis=1, keepdims=True)
    wrong = random.random(n) < noise
    y = np.where(wrong, (true + random.integers(1, 5, n)) % 5, true)
    one = {"shared": p[:, None]}
    left_out = LeftOut(
        name, CLASSES, y, np.ones(n, dtype=bool), one, one, np.zeros(n), (1.0,), rows=np.arange(n) + 1000
    )
    return left_out, p


def several(**values: float) -> tuple[list[LeftOut], list[np.ndarray]]:
    pairs = [batch(name, seed=seed, **values) for seed, name in enumerate("abcd")]
    return [left_out for left_out, _ in pairs], [p for _, p in pairs]


def test_cells_with_a_wrong_label_are_found_and_few_others() -> None:
    """The table is what a person looks through."""
    left_out, p = batch("a", noise=0.1)
    found = suspects([left_out], [p])
    wrong = {1000 + int(i) for i in np.flatnonzero(left_out.y != p.argmax(axis=1))}
    assert list(found[0]) == list(COLUMNS)
    rows = {row["row"] for row in found}
    assert rows <= wrong
    assert len(rows) > 0.75 * len(wrong)  # the others are less sure than the mean cell of the type they are called
    margins = [row["probability of answer"] - row["probability of label"] for row in found]
    assert margins == sorted(margins, reverse=True)


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.2])
def test_noise_in_the_labels_is_measured(noise: float) -> None:
    assert even_noise(*several(noise=noise)) == pytest.approx(noise, abs=0.02)


def test_mistakes_of_the_model_are_no_noise() -> None:
    """Else the error that is stated for a hard target would be too low."""
    assert even_noise(*several(mistakes=0.4)) == 0


def test_a_batch_with_two_types_swapped_is_pointed_out() -> None:
    left_out, p = several()
    y = left_out[1].y.copy()
    left_out[1].y[y == 0], left_out[1].y[y == 4] = 4, 0
    (warning,) = contradictions(left_out, p)
    assert "Batch 'b' stands apart" in warning
    assert "EXCLUDE_DATASETS_NAMES" in warning


def test_a_type_that_one_batch_calls_otherwise_is_pointed_out() -> None:
    left_out, p = several()
    left_out[2].y[left_out[2].y == 1] = 2
    left_out[2].y[np.flatnonzero(left_out[2].y == 3)[:60]] = 1  # most cells called DC here are NK
    warnings = contradictions(left_out, p)
    assert any(
        text.startswith("DC in batch 'c' stands apart: 100.0 %") and "most often NK" in text for text in warnings
    ) or any("Batch 'c' stands apart" in text for text in warnings)


def test_a_type_of_two_batches_is_compared_with_the_other_by_its_name() -> None:
    """There is no median batch to look for among one."""
    left_out, p = several()
    for other in left_out[:3]:
        other.could_be_known &= other.y != 1
    left_out[2].y[np.flatnonzero(left_out[2].y == 3)[:30]] = 1  # called NK
    (warning,) = (text for text in contradictions(left_out, p) if text.startswith("DC in batch 'c'"))
    assert "0.0 % in batch 'd'. suspect_labels.csv lists 18 clear cases." in warning


def test_a_type_without_a_clear_case_is_not_looked_for_in_the_table() -> None:
    """A biologist would search suspect_labels.csv for cells that it does not list."""
    left_out, p = several()
    for other in left_out[:3]:
        other.could_be_known &= other.y != 1
    mixed_up = np.flatnonzero(left_out[2].y == 3)[:30]
    left_out[2].y[mixed_up] = 1  # called NK, but by little
    p[2][mixed_up] = np.full(p[2].shape[1], 0.19)
    p[2][mixed_up, 3] = 0.24
    (warning,) = (text for text in contradictions(left_out, p) if text.startswith("DC in batch 'c'"))
    assert warning.endswith("0.0 % in batch 'd'.")


def test_batches_that_agree_are_not_warned_of() -> None:
    assert contradictions(*several(noise=0.1, mistakes=0.3)) == []


def with_label_of_its_own(answers: list[int]) -> tuple[LeftOut, np.ndarray]:
    """A left-out batch of B cells, and of 40 cells labelled T, as no other batch does, that are called something else."""
    y = np.array([0] * 60 + [4] * 40)
    called = np.array([0] * 60 + (answers * 40)[:40])
    p = np.full((100, 5), 0.05)
    p[np.arange(100), called] = 0.8
    one = {"shared": p[:, None]}
    return LeftOut("a", CLASSES, y, y != 4, one, one, np.zeros(100), (1.0,)), p


def test_a_batch_that_labels_coarsely_is_told_with_what_to_write() -> None:
    """Else half of the target's T cells are given a coarse label and half a fine one, and no name says why."""
    left_out, p = with_label_of_its_own([1, 3])
    (warning,) = other_names([left_out], [p], Rule())
    assert "40 cells of batch 'a' are labelled 'T', as nowhere else" in warning
    assert "RENAME {DC: T, NK: T}" in warning


def test_another_name_of_a_type_is_told_with_what_to_write() -> None:
    left_out, p = with_label_of_its_own([2])
    (warning,) = other_names([left_out], [p], Rule())
    assert "calls 100.0 % of them 'Mono', which that batch lacks" in warning
    assert "RENAME {T: Mono}" in warning


@pytest.mark.parametrize("answers", [[0], [0, 1], [0, 0, 1, 3]])
def test_a_type_that_only_one_batch_has_is_no_other_name(answers: list[int]) -> None:
    """A new type is called like its relatives, which its own batch has too."""
    left_out, p = with_label_of_its_own(answers)
    assert other_names([left_out], [p], Rule()) == []


def test_cells_like_nothing_the_model_knows_have_no_other_name() -> None:
    """RENAME would merge gamma cells with the macrophages, the least unlike of what a model without gamma cells knows."""
    left_out, p = with_label_of_its_own([2])
    novel = replace(left_out, novelty=np.where(left_out.y == 4, 1.0, 0.0))
    assert other_names([novel], [p], Rule(novelty_threshold=0.9)) == []
    assert other_names([novel], [p], Rule(novelty_threshold=1.1)) != []
