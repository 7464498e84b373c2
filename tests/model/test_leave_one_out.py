"""Annotated batches left out of training: never seen by the model that annotates them, and at a bounded cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jind_nb.model import annotate, default, leave_one_out
from jind_nb.model import reference as method_reference
from jind_nb.model.annotate import leave_batches_out
from jind_nb.model.calibration import ALONE_TEMPERATURE, calibrate_modes
from jind_nb.model.leave_one_out import MOST_LEFT_OUT, LeftOut, folds
from jind_nb.model.state import AlignmentMode, Reference
from tests.helpers.learn import METHODS, equal, every_weight, learn, prepare_simulated

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("short_game")]

TYPES = {"B": 30, "T": 30}
by_each = pytest.mark.parametrize("method", METHODS)


def reference_of(folder: Path, batches: dict[str, dict[str, int]], **parameters: Any) -> Reference:
    """Of METHOD `default`, if nothing else is said."""
    data = batches | {"c": {"B": 10, "T": 10}}
    values = {"EPOCHS": 1, "SOURCE_DATASET_NAME": next(iter(batches)), "METHOD": "default"} | parameters
    return learn(*prepare_simulated(folder, data, **values))


@given(
    st.integers(0, 60), st.sampled_from([method_reference.MOST_TRAININGS, default.MOST_TRAININGS]), st.integers(0, 5)
)
def test_nine_batches_are_left_out_once_in_at_most_so_many_trainings(n: int, most: int, seed: int) -> None:
    """Else calibration would cost as much as there are batches."""
    names = [str(i) for i in range(n)]
    groups = folds(names, most, seed)
    chosen = [name for group in groups for name in group]
    assert len(groups) <= most
    assert len(chosen) == len(set(chosen)) == (min(n, MOST_LEFT_OUT) if n > 1 else 0)
    assert set(chosen) <= set(names)
    assert all(0 < len(group) <= -(-MOST_LEFT_OUT // most) for group in groups)
    assert folds(names, most, seed) == groups


@pytest.mark.parametrize(("method", "trainings"), [("default", 5), ("reference", 3)])
def test_default_leaves_batches_out_one_at_a_time_and_reference_trains_three_times(
    tmp_path: Path, method: str, trainings: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[list[str]] = []
    monkeypatch.setattr(annotate, "train_without", lambda reference, group: groups.append(group) or reference)
    monkeypatch.setattr(annotate, "annotate", lambda *_: None)
    monkeypatch.setattr(annotate, "left_out_batch", lambda name, *_: LeftOut(name, [], *[None] * 6))
    monkeypatch.setattr(annotate, "_with_limit", lambda left_out, _: left_out)
    reference = reference_of(tmp_path, dict.fromkeys(("a", "b", "d", "e", "f"), TYPES), METHOD=method)
    done = leave_batches_out(reference)
    assert len(groups) == trainings
    assert [one.batch for one in done] == list(reference.batches)


@by_each
def test_no_model_annotates_a_batch_it_was_trained_on(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is said about a new batch would flatter otherwise."""
    trained: list[set[str]] = []
    train_without = leave_one_out.train_without

    def watched(reference: Reference, group: list[str]) -> Reference:
        model = train_without(reference, group)
        trained.append(set(model.batches))
        return model

    monkeypatch.setattr(annotate, "train_without", watched)
    reference = reference_of(tmp_path, dict.fromkeys(("a", "b", "d", "e"), TYPES), METHOD=method)
    done = leave_batches_out(reference)
    assert [one.batch for one in done] == list(reference.batches)
    groups = folds(list(reference.batches), 3 if method == "reference" else MOST_LEFT_OUT, 0)
    assert trained == [{"a", "b", "d", "e"} - set(group) for group in groups]
    n_members = len(reference.settings.method.prior_weights())
    for one in done:
        assert len(one.y) == 60
        assert one.members[AlignmentMode.UNALIGNED].shape == (60, n_members, 2)
        np.testing.assert_allclose(one.members[AlignmentMode.UNALIGNED].sum(axis=2), 1, rtol=1e-5)


@by_each
def test_the_run_s_own_model_is_not_touched(tmp_path: Path, method: str) -> None:
    reference = reference_of(tmp_path, {"a": TYPES, "b": TYPES}, METHOD=method)
    before, history = every_weight(reference), len(reference.history)
    held_out = {name: cells.held_out.copy() for name, cells in reference.batches.items()}
    leave_batches_out(reference)
    assert equal(every_weight(reference), before)
    assert len(reference.history) == history
    for name, cells in reference.batches.items():
        np.testing.assert_array_equal(cells.held_out, held_out[name])


@by_each
def test_the_same_seed_gives_the_same_evidence(tmp_path: Path, method: str) -> None:
    reference = reference_of(tmp_path, {"a": TYPES, "b": TYPES}, METHOD=method)
    once, again = leave_batches_out(reference), leave_batches_out(reference)
    for one, other in zip(once, again, strict=True):
        for mode in (AlignmentMode.UNALIGNED, AlignmentMode.ALIGNED):
            np.testing.assert_array_equal(one.members[mode], other.members[mode])


@by_each
def test_a_left_out_batch_s_labels_are_not_read(tmp_path: Path, method: str) -> None:
    """Other labels of it are annotated just the same."""
    reference = reference_of(tmp_path, {"a": TYPES, "b": TYPES}, METHOD=method)
    (one,) = (found for found in leave_batches_out(reference) if found.batch == "b")
    reference.batches["b"].y[:] = reference.batches["b"].y[::-1].copy()
    (other,) = (found for found in leave_batches_out(reference) if found.batch == "b")
    for mode in (AlignmentMode.UNALIGNED, AlignmentMode.ALIGNED):
        np.testing.assert_array_equal(one.members[mode], other.members[mode])


@by_each
def test_types_only_the_left_out_batch_has_are_marked_as_not_knowable(tmp_path: Path, method: str) -> None:
    """They must not count as errors of a model that could not know them."""
    reference = reference_of(tmp_path, {"a": TYPES, "b": TYPES | {"NK": 20}}, METHOD=method)
    of_b = leave_batches_out(reference)[1]
    names = np.array(of_b.classes)[of_b.y]
    assert of_b.could_be_known.tolist() == (names != "NK").tolist()
    assert of_b.novelty[~of_b.could_be_known].mean() > of_b.novelty[of_b.could_be_known].mean()


@by_each
def test_a_single_batch_s_held_out_cells_stand_in(tmp_path: Path, method: str) -> None:
    reference = reference_of(tmp_path, {"a": TYPES}, METHOD=method)
    (one,) = leave_batches_out(reference)
    assert len(one.y) == reference.batches["a"].held_out.sum() > 0
    assert set(one.members) == {AlignmentMode.UNALIGNED, AlignmentMode.ALIGNED}


@by_each
def test_the_limit_of_novelty_of_a_single_batch_is_of_its_own_data(tmp_path: Path, method: str) -> None:
    """Its held-out cells say nothing of another batch, and data differ: one limit for all flagged no new type in some."""
    reference = reference_of(tmp_path, {"a": TYPES}, METHOD=method)
    (one,) = leave_batches_out(reference)
    assert (one.limit != reference.settings.method.NOVELTY) == (method == "default")
    (tmp_path / "two").mkdir()
    two = reference_of(tmp_path / "two", {"a": {"B": 60, "T": 60}, "b": {"B": 60, "T": 60}}, METHOD=method)
    assert [batch.limit for batch in leave_batches_out(two)] == [two.settings.method.NOVELTY] * 2


def test_large_batches_are_cut_to_the_cells_that_may_be_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leave_one_out, "CELLS_OF_A_TRAINING", 70)
    monkeypatch.setattr(leave_one_out, "CELLS_OF_A_BATCH", 25)
    reference = reference_of(tmp_path, dict.fromkeys(("a", "b", "d"), TYPES), ALIGN=False)
    model = leave_one_out.train_without(reference, ["d"])
    assert sum(len(cells.y) for cells in model.batches.values()) == 70
    for name, cells in model.batches.items():
        whole = reference.batches[name]
        assert cells.x.sum() < whole.x.sum()
        assert len(cells.y) == cells.x.shape[0] == len(cells.held_out)
    assert [len(one.y) for one in leave_batches_out(reference)] == [25, 25, 25]


@by_each
@pytest.mark.parametrize("target_error", [None, 0.1])
def test_every_left_out_batch_is_annotated_both_ways(tmp_path: Path, target_error: float | None, method: str) -> None:
    """How much of an answer comes from after alignment is learned from it."""
    batches = dict.fromkeys(("a", "b", "d", "e"), TYPES)
    reference = reference_of(tmp_path, batches, TARGET_ERROR=target_error, METHOD=method)
    done = leave_batches_out(reference)
    assert [set(one.members) for one in done] == [{AlignmentMode.UNALIGNED, AlignmentMode.ALIGNED}] * 4
    assert [set(one.held_out) for one in done] == [{AlignmentMode.UNALIGNED, AlignmentMode.ALIGNED}] * 4


def test_without_alignment_left_out_batches_are_not_aligned_either(tmp_path: Path) -> None:
    reference = reference_of(tmp_path, {"a": TYPES, "b": TYPES}, ALIGN=False)
    assert all(set(one.members) == {AlignmentMode.UNALIGNED} for one in leave_batches_out(reference))


def test_a_tiny_batch_that_loses_all_its_cells_to_the_cut_does_not_stop_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leave_one_out, "CELLS_OF_A_TRAINING", 20)
    batches = {name: {"B": 300, "T": 300} for name in ("a", "b")} | {"d": {"B": 3, "T": 3}}
    reference = reference_of(tmp_path, batches, ALIGN=False)
    model = leave_one_out.train_without(reference, ["b"])
    assert all((~cells.held_out).any() for cells in model.batches.values())


@by_each
def test_a_single_batch_without_held_out_cells_teaches_nothing_and_stops_nothing(tmp_path: Path, method: str) -> None:
    reference = reference_of(tmp_path, {"a": {"B": 4, "T": 4}}, ALIGN=False, METHOD=method)
    (one,) = leave_batches_out(reference)
    assert len(one.y) == len(one.novelty) == 0
    learned = calibrate_modes([one], reference.settings, 1)[AlignmentMode.UNALIGNED]
    assert (learned.temperature, learned.novelty_threshold) == (ALONE_TEMPERATURE, None)
