"""Annotated batches left out of training: never seen by the model that annotates them, and at a bounded cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jind_nb import left_out
from jind_nb.alignment import ADAPTED, SHARED
from jind_nb.calibration import of_all_ways
from jind_nb.left_out import BATCHES_OF_A_FOLD, FOLDS, folds, leave_batches_out
from jind_nb.training import Reference
from tests.test_training import learn, prepare_simulated

TYPES = {"B": 30, "T": 30}


def reference_of(folder: Path, batches: dict[str, dict[str, int]], **parameters: Any) -> Reference:
    data = batches | {"c": {"B": 10, "T": 10}}
    return learn(
        *prepare_simulated(folder, data, **{"EPOCHS": 1, "SOURCE_DATASET_NAME": next(iter(batches))} | parameters)
    )


@given(st.integers(0, 60), st.integers(0, 5))
def test_batches_are_left_out_once_in_at_most_three_trainings(n: int, seed: int) -> None:
    """Else calibration would cost as much as there are batches."""
    names = [str(i) for i in range(n)]
    groups = folds(names, seed)
    chosen = [name for group in groups for name in group]
    assert len(groups) <= FOLDS
    assert len(chosen) == len(set(chosen)) == (min(n, FOLDS * BATCHES_OF_A_FOLD) if n > 1 else 0)
    assert set(chosen) <= set(names)
    assert all(0 < len(group) <= BATCHES_OF_A_FOLD for group in groups)
    assert folds(names, seed) == groups


def test_no_model_annotates_a_batch_it_was_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said about a new batch would flatter otherwise."""
    trained: list[set[str]] = []
    learn_without = left_out._learn_without

    def watched(reference: Reference, group: list[str]) -> Reference:
        model = learn_without(reference, group)
        trained.append(set(model.batches))
        return model

    monkeypatch.setattr(left_out, "_learn_without", watched)
    reference = reference_of(tmp_path, dict.fromkeys(("a", "b", "d", "e"), TYPES))
    done = leave_batches_out(reference)
    assert [one.batch for one in done] == list(reference.batches)
    groups = folds(list(reference.batches), 0)
    assert trained == [{"a", "b", "d", "e"} - set(group) for group in groups]
    for one in done:
        assert len(one.y) == 60
        assert one.probabilities[SHARED].shape == (60, 2)
        np.testing.assert_allclose(one.probabilities[SHARED].sum(axis=1), 1, rtol=1e-5)


def test_the_run_s_own_model_is_not_touched(tmp_path: Path) -> None:
    reference = reference_of(tmp_path, {"a": TYPES, "b": TYPES})
    before = {name: tensor.clone() for name, tensor in reference.annotator("b").state_dict().items()}
    history = len(reference.history)
    leave_batches_out(reference)
    assert all((tensor == before[name]).all() for name, tensor in reference.annotator("b").state_dict().items())
    assert len(reference.history) == history


def test_the_same_seed_gives_the_same_evidence(tmp_path: Path) -> None:
    reference = reference_of(tmp_path, {"a": TYPES, "b": TYPES})
    once, again = leave_batches_out(reference), leave_batches_out(reference)
    for one, other in zip(once, again, strict=True):
        for way in (SHARED, ADAPTED):
            np.testing.assert_array_equal(one.probabilities[way], other.probabilities[way])


def test_types_only_the_left_out_batch_has_are_marked_as_not_knowable(tmp_path: Path) -> None:
    """They must not count as errors of a model that could not know them."""
    reference = reference_of(tmp_path, {"a": TYPES, "b": TYPES | {"NK": 20}})
    of_b = leave_batches_out(reference)[1]
    names = np.array(of_b.classes)[of_b.y]
    assert of_b.could_be_known.tolist() == (names != "NK").tolist()
    assert of_b.novelty[~of_b.could_be_known].mean() > of_b.novelty[of_b.could_be_known].mean()


def test_a_single_batch_s_held_out_cells_stand_in(tmp_path: Path) -> None:
    reference = reference_of(tmp_path, {"a": TYPES})
    (one,) = leave_batches_out(reference)
    assert len(one.y) == reference.batches["a"].held_out.sum() > 0
    assert set(one.probabilities) == {SHARED, ADAPTED}


def test_large_batches_are_cut_to_the_cells_that_may_be_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(left_out, "CELLS_OF_A_FOLD", 70)
    monkeypatch.setattr(left_out, "CELLS_OF_A_BATCH", 25)
    reference = reference_of(tmp_path, dict.fromkeys(("a", "b", "d"), TYPES), ALIGN=False)
    model = left_out._learn_without(reference, ["d"])
    assert sum(len(cells.y) for cells in model.batches.values()) == 70
    for name, cells in model.batches.items():
        whole = reference.batches[name]
        assert cells.x.sum() < whole.x.sum()
        assert len(cells.y) == cells.x.shape[0] == len(cells.held_out)
    assert [len(one.y) for one in leave_batches_out(reference)] == [25, 25, 25]


@pytest.mark.parametrize(("target_error", "aligned"), [(None, 3), (0.1, 4)])
def test_only_a_target_error_pays_for_aligning_every_left_out_batch(
    tmp_path: Path, target_error: float | None, aligned: int
) -> None:
    reference = reference_of(tmp_path, dict.fromkeys(("a", "b", "d", "e"), TYPES), TARGET_ERROR=target_error)
    assert sum(ADAPTED in one.probabilities for one in leave_batches_out(reference)) == aligned


def test_without_alignment_left_out_batches_are_not_aligned_either(tmp_path: Path) -> None:
    reference = reference_of(tmp_path, {"a": TYPES, "b": TYPES}, ALIGN=False)
    assert all(set(one.probabilities) == {SHARED} for one in leave_batches_out(reference))


def test_a_tiny_batch_that_loses_all_its_cells_to_the_cut_does_not_stop_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(left_out, "CELLS_OF_A_FOLD", 20)
    batches = {name: {"B": 300, "T": 300} for name in ("a", "b")} | {"d": {"B": 3, "T": 3}}
    reference = reference_of(tmp_path, batches, ALIGN=False)
    model = left_out._learn_without(reference, ["b"])
    assert all((~cells.held_out).any() for cells in model.batches.values())


def test_a_single_batch_without_held_out_cells_teaches_nothing_and_stops_nothing(tmp_path: Path) -> None:
    reference = reference_of(tmp_path, {"a": {"B": 4, "T": 4}}, ALIGN=False)
    (one,) = leave_batches_out(reference)
    assert len(one.y) == len(one.novelty) == 0
    learned = of_all_ways([one], reference.settings, 1)[SHARED]
    assert (learned.temperature, learned.most_novel) == (1.0, None)
