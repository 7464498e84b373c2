"""Learning from the annotated batches: what no stage may see, the choice of the source, history, and a training interrupted.

What holds for both METHODs is asked of both. What each stage of METHOD `reference` trains is in test_reference.py, what METHOD
`default` computes in test_default.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse

from jind_nb.errors import InputError
from jind_nb.model import checkpoint, default, fit, loop
from jind_nb.model import reference as method_reference
from jind_nb.model.annotate import train
from jind_nb.model.history import HELD_OUT, TRAINED_ON, UNSEEN
from jind_nb.model.networks import classify, encode
from jind_nb.model.predictions import Predictions, class_thresholds
from jind_nb.model.state import Reference, TrainingStage
from tests.helpers.learn import (
    CPU,
    METHODS,
    Prepared,
    cells_of,
    equal,
    every_weight,
    fit_adapter,
    fit_jointly,
    is_reference,
    learn,
    prepare_simulated,
    settings_with,
    weights,
)
from tests.helpers.simulated import THREE_BATCHES


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Source `a`, intermediate `b`, target `c`."""
    return prepare_simulated(tmp_path_factory.mktemp("three"), THREE_BATCHES, SOURCE_DATASET_NAME="a")


@pytest.fixture(scope="module", params=METHODS)
def by_each(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The same by either METHOD."""
    folder = tmp_path_factory.mktemp("each")
    return prepare_simulated(folder, THREE_BATCHES, SOURCE_DATASET_NAME="a", METHOD=request.param)


@pytest.fixture(scope="module")
def trained_three(three: Prepared) -> Reference:
    """All that stage 2 learns of `three`; no test changes it."""
    return train(*three)


@pytest.fixture(scope="module")
def trained(by_each: Prepared) -> Reference:
    """All that stage 2 learns of `by_each`; no test changes it."""
    return learn(*by_each)


# --- choosing the source -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_source_too_small_to_hold_cells_out_still_trains(tmp_path: Path, method: str) -> None:
    data = {"a": {"B": 4, "T": 3}, "b": {"B": 4, "T": 4}, "c": {"B": 3, "T": 3}}
    reference = learn(*prepare_simulated(tmp_path, data, SOURCE_DATASET_NAME="a", METHOD=method))
    assert not any(cells.held_out.any() for cells in reference.batches.values())
    assert {result.cells for result in reference.history} == {UNSEEN, TRAINED_ON}
    assert all(np.isfinite(point["loss"]) for point in reference.curves)
    epochs = 2 if method == "reference" else 0
    assert [p["held_out_accuracy"] for p in reference.curves if p["stage"] == "initial"] == [None] * epochs


def test_the_source_is_the_candidate_that_rejects_fewest_target_cells() -> None:
    """Each count is checked against the candidate's own classifier and its own held-out cells."""
    candidates = {
        "first": cells_of([0, 1, 2] * 30, seed=2, noise=1.0),
        "second": cells_of([0, 1, 2] * 30, seed=1, noise=0.05),
    }
    target, settings = cells_of([0, 1, 2] * 20, seed=3, noise=0.5).x, settings_with(epochs=6)
    name, rows = fit.choose_source(candidates, target, list("BTN"), settings)
    counts = {row["batch"]: row["target cells Unassigned"] for row in rows}
    for batch, cells in candidates.items():
        cells = replace(cells, held_out=loop.hold_out(cells.y, 0.2, settings.seed))
        model, _ = method_reference.fit_source(cells, 3, settings)
        own, theirs = (
            classify(model.classifier, encode(model, x, CPU), CPU) for x in (cells.x[cells.held_out], target)
        )
        assert counts[batch] == Predictions(list("BTN"), theirs, class_thresholds(own, 0.05)).rejected.sum()
    assert counts["second"] < counts["first"], "the case shows nothing: the first is the best"
    assert name == "second"


def test_of_equal_candidates_the_first_is_the_source() -> None:
    cells = cells_of([0, 1] * 15)
    name, rows = fit.choose_source({"q": cells, "p": cells}, cells.x, ["B", "T"], settings_with())
    assert rows[0]["target cells Unassigned"] == rows[1]["target cells Unassigned"]
    assert name == "q"


def test_default_starts_from_the_batch_of_most_types_then_most_cells_without_a_trial(tmp_path: Path) -> None:
    """A batch of a single type would place all others by that type alone, and a trial would cost a training a batch."""
    data = {"a": {"B": 90}, "b": {"B": 20, "T": 20}, "d": {"B": 30, "T": 30}, "c": {"B": 9, "T": 9}}
    prepared, plan, settings = prepare_simulated(tmp_path, data, METHOD="default")
    reference = fit.start(prepared, plan, settings)
    assert reference.source == "d"
    assert reference.candidates == []
    assert "most cell types" in fit.candidates_table(reference, plan).loc["d", "why"]
    only = replace(plan, annotated=["d"])
    assert fit.candidates_table(reference, only).loc["d", "why"] == "the only annotated batch"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("source", [None, "b"])
def test_the_named_or_chosen_source_comes_first_and_has_no_adapter(
    tmp_path: Path, source: str | None, method: str
) -> None:
    prepared, plan, settings = prepare_simulated(tmp_path, THREE_BATCHES, SOURCE_DATASET_NAME=source, METHOD=method)
    reference = fit.start(prepared, plan, settings)
    tried = source is None and is_reference(settings)
    best = fit.candidates_table(reference, plan)["target cells Unassigned"].idxmin() if tried else plan.annotated[0]
    assert reference.source == (source or best)
    assert sorted(reference.batches) == ["a", "b"]
    assert reference.adapters == {reference.source: None}
    assert bool(reference.candidates) is tried
    assert len(fit.candidates_table(reference, plan)) == (2 if tried else 1)


@pytest.mark.parametrize("method", METHODS)
def test_a_single_annotated_batch_is_the_source_without_a_contest(tmp_path: Path, method: str) -> None:
    reference = fit.start(*prepare_simulated(tmp_path, THREE_BATCHES, EXCLUDE_DATASETS_NAMES=["a"], METHOD=method))
    assert reference.source == "b"
    assert reference.candidates == []


def test_nothing_trains_without_annotated_batches(by_each: Prepared) -> None:
    prepared, plan, settings = by_each
    with pytest.raises(InputError, match="PRETRAINED_MODEL_PATH"):
        fit.start(prepared, replace(plan, annotated=[]), settings)


def test_reference_holds_out_a_fifth_of_the_source_and_a_tenth_of_the_others(three: Prepared) -> None:
    reference = fit.start(*three)
    # a: B 40, T 40, NK 30; b: the same.
    assert reference.batches["a"].held_out.sum() == 8 + 8 + 6
    assert reference.batches["b"].held_out.sum() == 4 + 4 + 3


def test_default_holds_out_a_tenth_of_every_batch(tmp_path: Path) -> None:
    reference = fit.start(*prepare_simulated(tmp_path, THREE_BATCHES, SOURCE_DATASET_NAME="a", METHOD="default"))
    assert [cells.held_out.sum() for cells in reference.batches.values()] == [4 + 4 + 3] * 2


# --- what no stage may see ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("held_out", [True, False])
def test_no_stage_trains_on_held_out_cells(by_each: Prepared, held_out: bool) -> None:
    """Other values in the held-out cells of both batches leave every weight that is learned as it was, bit for bit.

    METHOD `default` computes its encoder from the values of all cells, held-out ones too, but never from their types: it
    is given here, and only what rests on types is compared.
    """
    prepared, plan, settings = by_each
    settings = replace(settings, epochs=1)
    changed = prepared.copy()
    x = changed.X.toarray()
    for batch in plan.annotated:
        rows = np.flatnonzero(prepared.obs["batch"] == batch)
        share = settings.method.SOURCE_HELD_OUT if batch == plan.source else settings.held_out
        out = loop.hold_out(prepared.obs["cell_type"].cat.codes.to_numpy()[rows], share, settings.seed)
        random = np.random.default_rng(0)
        x[rows[out if held_out else ~out]] *= random.uniform(0.2, 2, x.shape[1])
    changed.X = sparse.csr_matrix(x.astype(np.float32))
    with pytest.MonkeyPatch.context() as patched:
        # Cells are put in an order by their values, and held out in that order: the same cells are to be held out of both.
        patched.setattr(fit, "own_order", lambda x, *_: np.arange(x.shape[0]))
        if not is_reference(settings):
            encoder = default.fit_projection(prepared.X, settings.seed)
            patched.setattr(default, "fit_projection", lambda *_: encoder)
        one, other = (learn(data, plan, settings) for data in (prepared, changed))
    assert equal(every_weight(one), every_weight(other)) is held_out


def test_held_out_cells_labels_have_no_say(by_each: Prepared) -> None:
    """The types of held-out cells, exchanged within a batch, change no weight that METHOD `default` learns, and in METHOD
    `reference` only which epoch of the source's is kept."""
    prepared, plan, settings = by_each
    one, other = (fit.start(prepared, plan, replace(settings, epochs=1)) for _ in range(2))
    for reference in (one, other):
        if reference is other:
            for name, cells in reference.batches.items():
                y = cells.y.copy()
                y[cells.held_out] = np.roll(y[cells.held_out], 1)
                assert (y != cells.y).any()
                reference.batches[name] = replace(cells, y=y)
        fit.learn_intermediates(reference)
    assert equal(every_weight(one), every_weight(other))


@pytest.mark.parametrize("method", ["default", pytest.param("reference", marks=pytest.mark.slow)])
def test_a_new_type_is_learned_in_the_end(tmp_path: Path, method: str) -> None:
    data = {"a": {"B": 200, "T": 200}, "b": {"B": 200, "T": 200, "NK": 400}, "c": {"B": 10, "T": 10}}
    reference = learn(*prepare_simulated(tmp_path, data, SOURCE_DATASET_NAME="a", EPOCHS=15, METHOD=method))
    final = [r for r in reference.history if (r.batch, r.stage, r.cells) == ("b", "retrain", HELD_OUT)]
    assert final[0].per_class["NK"]["recall"] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_an_intermediate_of_new_types_only_still_joins(tmp_path: Path, method: str) -> None:
    data = {"a": {"B": 20, "T": 20}, "b": {"NK": 20, "Mono": 20}, "c": {"B": 10, "NK": 10}}
    reference = learn(*prepare_simulated(tmp_path, data, SOURCE_DATASET_NAME="a", METHOD=method))
    assert [p for p in reference.curves if p["stage"] == "adapt"] == []
    assert [r.stage for r in reference.history if r.batch == "b" and r.cells == HELD_OUT] == [
        "adapt", "finetuned", "retrain",
    ]  # fmt: skip
    assert all(torch.isfinite(tensor).all() for tensor in every_weight(reference).values())


# --- history -----------------------------------------------------------------------------------------------------------


def test_the_history_has_every_stage_in_order_held_out_cells_apart(trained: Reference) -> None:
    reference = trained
    both = (HELD_OUT, TRAINED_ON)
    assert [(r.batch, r.stage, r.cells) for r in reference.history] == [
        *(("a", "initial", cells) for cells in both),
        ("b", "initial", UNSEEN),
        *(("b", "adapt", cells) for cells in both),
        *(("b", "finetuned", cells) for cells in both),
        *(("a", "finetuned", cells) for cells in both),
        *(("a", "retrain", cells) for cells in both),
        *(("b", "retrain", cells) for cells in both),
    ]
    for result in reference.history:
        cells = reference.batches[result.batch]
        n = {HELD_OUT: cells.held_out.sum(), TRAINED_ON: (~cells.held_out).sum(), UNSEEN: len(cells.y)}
        assert result.metrics["cells"] == n[result.cells]


def test_history_s_thresholds_come_from_the_held_out_cells_of_all_batches_through_their_own_adapters(
    trained: Reference,
) -> None:
    reference = trained
    classifier = reference.model.classifier
    probabilities = {
        name: classify(classifier, encode(reference.annotator(name), cells.x, CPU), CPU)
        for name, cells in reference.batches.items()
    }
    held_out = np.concatenate([probabilities[name][cells.held_out] for name, cells in reference.batches.items()])
    thresholds = class_thresholds(held_out, reference.settings.theta)
    for result in (r for r in reference.history if r.stage == "retrain"):
        rows = reference.batches[result.batch].held_out == (result.cells == HELD_OUT)
        rejected = Predictions(reference.classes, probabilities[result.batch][rows], thresholds).rejected
        assert result.metrics["rejected"] == rejected.sum()


@pytest.mark.parametrize("method", METHODS)
def test_without_intermediates_nothing_is_fine_tuned(tmp_path: Path, method: str) -> None:
    reference = learn(*prepare_simulated(tmp_path, THREE_BATCHES, EXCLUDE_DATASETS_NAMES=["b"], METHOD=method))
    assert {result.stage for result in reference.history} == {"initial"}
    assert {point["stage"] for point in reference.curves} == ({"initial"} if method == "reference" else set())


def test_the_initial_stage_of_an_intermediate_is_the_source_model_without_an_adapter(by_each: Prepared) -> None:
    reference = fit.start(*by_each)
    cells = reference.batches["b"]
    right = loop.accuracy(reference.model, cells.x, cells.y, CPU)
    fit.learn_intermediates(reference)
    initial = next(r for r in reference.history if (r.batch, r.stage) == ("b", "initial"))
    assert initial.metrics["raw_accuracy"] == pytest.approx(right)


def test_without_history_the_model_is_the_same(by_each: Prepared, trained: Reference) -> None:
    """The Python API keeps none, to save time."""
    bare = train(*by_each, keep_history=False)
    assert {result.stage for result in bare.history} <= {TrainingStage.INITIAL}
    assert equal(every_weight(bare), every_weight(trained))


# --- reproducibility ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_bit_for_bit_and_another_seed_others(
    by_each: Prepared, trained: Reference
) -> None:
    """METHOD `default` draws with it which cells to hold out, and nothing else of so few."""
    prepared, plan, settings = by_each
    one = every_weight(trained)
    torch.rand(5)  # what ran before must not matter
    assert equal(one, every_weight(learn(prepared, plan, settings)))
    assert not equal(one, every_weight(learn(prepared, plan, replace(settings, seed=1))))


def test_every_stage_seeds_anew(by_each: Prepared, trained: Reference) -> None:
    """A stage run after something else used random numbers gives the same weights."""
    straight = every_weight(trained)
    torch.rand(1)
    reference = fit.start(*by_each)
    torch.rand(1)
    fit_adapter(reference, "b")
    for stage in (TrainingStage.FINETUNED, TrainingStage.RETRAIN):
        torch.rand(1)
        fit_jointly(reference, stage)
    assert equal(every_weight(reference), straight)


def test_a_batch_adapted_again_has_the_same_adapter(by_each: Prepared) -> None:
    """Fitting an adapter draws from its own seed and changes nothing of the reference."""
    reference = fit.start(*by_each)
    method, before = reference.settings.method, every_weight(reference)
    once, again = (weights(method.fit_adapter(reference, "b")) for _ in range(2))
    assert equal(once, again)
    assert equal(every_weight(reference), before)


# --- interrupted -------------------------------------------------------------------------------------------------------


def interrupted_in(stage: str, at_epoch: int) -> Callable[..., Iterator[int]]:
    """Return epochs of which so many are gone through; those of the last batch's stage are then interrupted.

    `b` is the only intermediate, so each stage is there once.
    """

    def epochs(of: range, what: str, unit: str) -> Iterator[int]:
        for epoch in of:
            if what.startswith(stage) and epoch == at_epoch:
                raise KeyboardInterrupt
            yield epoch

    return epochs


@pytest.mark.slow
@pytest.mark.parametrize("at_epoch", [0, 1])
@pytest.mark.parametrize("stopped_in", ["source", "adapt", "finetuned", "retrain"])
def test_a_training_goes_on_where_it_was_interrupted(
    three: Prepared, trained_three: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_in: str,
    at_epoch: int,
) -> None:  # fmt: skip
    """Hours of METHOD `reference` are not lost to a queue's time limit, and the model is the same bit for bit: also where a
    notebook's cell was stopped in the middle of a batch, and is run again."""
    whole, file = trained_three, tmp_path / "unfinished.pt"
    with monkeypatch.context() as patched:
        patched.setattr(method_reference, "bar", interrupted_in(stopped_in, at_epoch))
        with pytest.raises(KeyboardInterrupt):
            train(*three, file)
    assert file.exists() is (stopped_in != "source")
    stages = list[str]()
    monkeypatch.setattr(method_reference, "bar", lambda epochs, what, unit: stages.append(what) or epochs)
    again = train(*three, file)
    done = {"source": 0, "adapt": 1, "finetuned": 1, "retrain": 3}[stopped_in]
    assert stages == ["source classifier", "adapt b", "finetuned: b", "retrain: all annotated batches"][done:]
    assert equal(every_weight(again), every_weight(whole))
    assert again.history == whole.history
    assert again.curves == whole.curves
    assert again.record() == whole.record()


@pytest.mark.slow
def test_batches_that_were_learned_are_not_learned_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the batch that was interrupted, and what follows it; the source that was chosen stays."""
    data = {"a": {"B": 9, "T": 9}, "d": {"B": 8, "T": 8}, "b": {"B": 7, "T": 7}, "c": {"B": 3, "T": 3}}
    prepared = prepare_simulated(tmp_path, data)
    whole, file, stages = train(*prepared), tmp_path / "unfinished.pt", list[str]()
    last = whole.intermediates[-1]
    with monkeypatch.context() as patched:
        patched.setattr(method_reference, "bar", interrupted_in(f"finetuned: {last}", 1))
        with pytest.raises(KeyboardInterrupt):
            train(*prepared, file)
    monkeypatch.setattr(method_reference, "bar", lambda epochs, what, unit: stages.append(what) or epochs)
    again = train(*prepared, file)
    assert stages == [f"adapt {last}", f"finetuned: {last}", "retrain: all annotated batches"]
    assert equal(every_weight(again), every_weight(whole))
    assert again.record() == whole.record()


@pytest.fixture(scope="module")
def kept(three: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a training of `three` leaves to go on from; no test changes it."""
    file = tmp_path_factory.mktemp("kept") / "unfinished.pt"
    train(*three, file)
    return file


@pytest.mark.slow
@pytest.mark.parametrize("change", ["nothing", "seed", "cells", "damage"])
def test_what_another_training_learned_is_not_gone_on_with(
    three: Prepared, kept: Path, tmp_path: Path, change: str
) -> None:
    prepared, plan, settings = three
    file = Path(shutil.copy(kept, tmp_path))
    if change == "seed":
        settings = replace(settings, seed=settings.seed + 1)
    if change == "cells":
        prepared = prepared[1:].copy()
    if change == "damage":
        file.write_bytes(file.read_bytes()[:-100])
    assert fit.start(prepared, plan, settings, file).learned == (["b"] if change == "nothing" else [])


def test_default_keeps_nothing(by_each: Prepared, tmp_path: Path) -> None:
    prepared, plan, settings = by_each
    fit.start(prepared, plan, settings, tmp_path / "unfinished.pt")
    assert (tmp_path / "unfinished.pt").exists() is is_reference(settings)


def test_a_batch_that_could_not_be_kept_is_learned_again(
    three: Prepared, trained_three: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk the file stays as it was before the batch, and so must the list of what it knows."""
    file = tmp_path / "unfinished.pt"
    keep, kept = checkpoint.keep, list[list[str]]()

    def full(reference: Reference) -> None:
        if reference.learned:
            raise OSError("disk full")
        kept.append(list(reference.learned))
        keep(reference)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "keep", full)
        with pytest.raises(OSError, match="disk full"):
            train(*three, file)
    assert kept == [[]], "the case shows nothing: the source was not kept"
    assert fit.start(*three, file).learned == []
    assert equal(every_weight(train(*three, file)), every_weight(trained_three))
