"""Learning from the annotated batches: what each stage may change, what it must never see, and which epoch it keeps.

METHOD `reference`, if nothing else is said; what holds for both methods is asked of both. What METHOD `default` computes
is in test_projection.py. `prepare_simulated`, `learn`, `weights` and `equal` serve the other tests of trained models too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jind_nb.model.training import Cells, Loss, Reference, Settings
from scipy import sparse
from torch import Tensor, nn

from jind_nb.core.parameters import make_parameters
from jind_nb.data.cells import read_cells
from jind_nb.data.plan import Plan
from jind_nb.data.prepare import prepare
from jind_nb.data.roles import make_plan
from jind_nb.errors import InputError
from jind_nb.model import training
from jind_nb.model.history import HELD_OUT, TRAINED_ON, UNSEEN
from jind_nb.model.networks import Adapter, Annotator, Encoder, Head, LinearHeads, Projection, Translation
from jind_nb.model.predictions import Predictions, class_thresholds
from tests.helpers.simulated import THREE_BATCHES, simulated

quick = hypothesis_settings(deadline=None, max_examples=50)
CPU = torch.device("cpu")
METHODS = ("default", "reference")
torch.set_num_threads(1)  # on busy cores, small networks are many times slower with more
NEW_TYPE = {"a": {"B": 40, "T": 40}, "b": {"B": 30, "T": 30, "NK": 30}, "c": {"B": 10, "T": 10}}
Prepared = tuple[ad.AnnData, Plan, Settings]


def prepare_simulated(folder: Path, data: dict[str, dict[str, int]] | ad.AnnData, **parameters: Any) -> Prepared:
    """What stage 2 gets: cells of the batches, `c` the target, written to a file and read as a run reads them."""
    adata = data if isinstance(data, ad.AnnData) else simulated(data)
    adata.write_h5ad(folder / "input.h5ad")
    values = {
        "PATH": str(folder / "input.h5ad"), "BATCH_COL": "batch", "LABELS_COL": "celltype", "TARGET_DATASET_NAME": "c",
        "OUTPUT_PATH": str(folder / "results"), "MIN_CELL_TYPE_POPULATION": 2, "EPOCHS": 2, "USE_GPU": False,
        "METHOD": "reference",
    }  # fmt: skip
    checked = make_parameters(values | parameters)
    cells = read_cells(checked)
    plan = make_plan(checked, cells)
    return prepare(checked, cells, plan), plan, Settings.of(checked)


def learn(prepared: ad.AnnData, plan: Plan, settings: Settings) -> Reference:
    """All of stage 2."""
    reference = training.start(prepared, plan, settings)
    for batch in reference.intermediates:
        training.adapt(reference, batch)
        training.finetune(reference, batch)
    training.retrain(reference)
    return reference


def weights(module: nn.Module | None) -> dict[str, Tensor]:
    """A copy of a module's weights; none of no module."""
    return {} if module is None else {name: tensor.clone() for name, tensor in module.state_dict().items()}


def every_weight(reference: Reference) -> dict[str, Tensor]:
    return {
        f"{batch} {name}": tensor
        for batch in reference.adapters
        for name, tensor in weights(reference.annotator(batch)).items()
    }


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether all weights are the same, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def cells_of(y: list[int], seed: int = 0, n_features: int = 20, noise: float = 0.3) -> Cells:
    """Cells without a file: type k has its features (every fourth from k on) raised."""
    random = np.random.default_rng(seed)
    labels = np.array(y)
    x = random.normal(0, noise, (len(y), n_features)) + 2.0 * (np.arange(n_features) % 4 == labels[:, None])
    return Cells(sparse.csr_matrix(x.astype(np.float32)), labels, training.hold_out(labels, 0.1, 0))


def settings_of(**values: Any) -> Settings:
    return Settings(
        **{
            "is_reference": True, "source_held_out": 0.1, "source_coverage": 0.9, "seed": 0, "epochs": 3, "theta": 0.05,
            "align": True, "always_aligns": True, "calibrates": True, "target_error": None, "device": CPU,
        }
        | values
    )  # fmt: skip


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Source `a`, intermediate `b`, target `c`."""
    return prepare_simulated(tmp_path_factory.mktemp("three"), THREE_BATCHES, SOURCE_DATASET_NAME="a")


@pytest.fixture(scope="module")
def new_type(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The intermediate `b` has a type that the source `a` lacks."""
    return prepare_simulated(tmp_path_factory.mktemp("new"), NEW_TYPE, SOURCE_DATASET_NAME="a")


# --- settings ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=METHODS)
def by_each(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The same by either METHOD."""
    folder = tmp_path_factory.mktemp("each")
    return prepare_simulated(folder, THREE_BATCHES, SOURCE_DATASET_NAME="a", METHOD=request.param)


@pytest.mark.parametrize(("method", "held_out", "coverage"), [("default", 0.1, 0.9), ("reference", 0.2, 0.0)])
def test_a_method_fixes_its_constants(method: str, held_out: float, coverage: float) -> None:
    parameters = make_parameters(
        {
            "PATH": "x.h5ad", "BATCH_COL": "b", "LABELS_COL": "l", "TARGET_DATASET_NAME": "c", "OUTPUT_PATH": "o",
            "METHOD": method, "SEED": 7, "EPOCHS": 4, "REJECTION": 0.2, "ALIGN": False, "USE_GPU": False,
        }
    )  # fmt: skip
    found = Settings.of(parameters)
    assert found == settings_of(
        is_reference=method == "reference", always_aligns=method == "reference", source_held_out=held_out,
        source_coverage=coverage, seed=7, epochs=4, theta=0.2, align=False, calibrates=method == "default",
    )  # fmt: skip
    assert found.held_out == 0.1


@pytest.mark.parametrize(
    ("method", "align", "always"),
    [("default", None, False), ("default", True, True), ("reference", None, True), ("reference", True, True)],
)
def test_only_default_without_align_asks_whether_alignment_helps(
    tmp_path: Path, method: str, align: bool | None, always: bool
) -> None:
    _, _, settings = prepare_simulated(tmp_path, THREE_BATCHES, METHOD=method, ALIGN=align)
    assert (settings.align, settings.always_aligns) == (True, always)


# --- what all stages share ---------------------------------------------------------------------------------------------


@quick
@given(hnp.arrays(np.int64, st.integers(0, 80), elements=st.integers(0, 5)), st.floats(0.01, 0.5), st.integers(0, 99))
def test_a_share_of_every_type_is_held_out_and_none_of_a_tiny_one(y: np.ndarray, share: float, seed: int) -> None:
    held_out = training.hold_out(y, share, seed)
    assert held_out.dtype == bool
    assert len(held_out) == len(y)
    for k in range(6):
        n, out = int((y == k).sum()), int(held_out[y == k].sum())
        assert out == (0 if n < 5 else max(1, round(share * n)))
        assert out < n or n == 0
    np.testing.assert_array_equal(held_out, training.hold_out(y, share, seed))


def test_another_seed_holds_out_other_cells() -> None:
    y = np.repeat([0, 1], 50)
    assert not np.array_equal(training.hold_out(y, 0.1, 0), training.hold_out(y, 0.1, 1))


def test_class_weights_are_those_worked_out_by_hand() -> None:
    found = training.class_weights(np.array([0, 0, 0, 2]), 3)
    assert found == pytest.approx([2 / 0.76 / 3, 0.0, 2 / 0.26 / 3])


def test_the_loss_is_the_weighted_mean_over_a_minibatch() -> None:
    logits, y = torch.tensor([[1.0, 0.0, -1.0], [0.0, 2.0, 0.0], [0.5, 0.5, 0.0]]), np.array([0, 2, 2])
    w = np.array([0.5, 1.0, 3.0])
    nll = -F.log_softmax(logits, dim=1).numpy()[np.arange(3), y]
    assert Loss(w, CPU)(logits, y).item() == pytest.approx((w[y] * nll).sum() / w[y].sum(), rel=1e-6)


def test_an_epoch_sees_every_cell_once_and_weighs_its_loss_by_cells() -> None:
    """Seven cells in minibatches of three: the last one is partial and kept."""
    torch.manual_seed(0)
    cells, model = cells_of([0, 1, 2, 0, 1, 2, 0]), nn.Linear(20, 3)
    loss = Loss(np.ones(3), CPU, minibatch=3)
    sizes: list[int] = []
    model.register_forward_hook(lambda _, __, out: sizes.append(len(out)))
    mean = training.train_epoch(model, cells.x, cells.y, torch.optim.SGD(model.parameters(), lr=0.0), loss)  # type: ignore[arg-type]
    assert sizes == [3, 3, 1]
    every = F.cross_entropy(model(torch.from_numpy(cells.x.toarray())), torch.from_numpy(cells.y))
    assert mean == pytest.approx(every.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("losses", "halved_at"),
    [
        # not below 0.95 of the best is bad; the third bad epoch in a row halves
        ([1.0, 0.95, 0.96, 0.955], [4]),
        ([1.0, 0.96, 0.96], []),
        # a good epoch in between begins the count again
        ([1.0, 0.96, 0.96, 0.94, 0.94, 0.94, 0.94], [7]),
        # and so does halving
        ([1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6], [4, 7]),
        ([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4], []),
        # small steps down are measured against the best that counted, not against the epoch before
        ([1.0, 0.97, 0.96, 0.94, 0.93, 0.92, 0.91], [7]),
    ],
)
def test_the_rate_halves_at_the_third_epoch_in_a_row_that_is_hardly_better(
    losses: list[float], halved_at: list[int]
) -> None:
    optimiser = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=1.0)
    rate, rates = training.plateau(optimiser), [1.0]
    for loss in losses:
        rate.step(loss)
        rates.append(optimiser.param_groups[0]["lr"])
    assert [epoch for epoch in range(1, len(rates)) if rates[epoch] != rates[epoch - 1]] == halved_at
    assert rates[-1] == 0.5 ** len(halved_at)


def test_predicting_in_blocks_gives_every_cell_its_own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = training.train_source(cells_of([0, 1] * 10), 2, settings_of(epochs=1))
    x = cells_of([0, 1] * 10).x
    whole = training.encode(model, x, CPU)
    monkeypatch.setattr(training, "CELLS_AT_ONCE", 7)
    np.testing.assert_allclose(training.encode(model, x, CPU), whole, rtol=1e-5, atol=1e-6)
    assert training.encode(model, x[:0], CPU).shape == (0, 256)
    probabilities = training.decode(model.head, whole, CPU)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


# --- the source --------------------------------------------------------------------------------------------------------


def test_cells_held_whole_on_a_gpu_train_the_same_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they fit into a GPU's memory they are made dense once; that may change speed, and nothing else."""
    cells = cells_of([0, 1] * 30)
    by_minibatch, _ = training.train_source(cells, 2, settings_of())
    monkeypatch.setattr(training, "free_memory", lambda device: 10**9)
    assert training.minibatches(cells.x, CPU)(np.array([2, 0])).tolist() == cells.x[[2, 0]].toarray().tolist()
    whole, _ = training.train_source(cells, 2, settings_of())
    assert equal(weights(by_minibatch), weights(whole))


@pytest.mark.parametrize("free", [0, 10**9])
def test_nothing_is_computed_beside_the_device(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's `meta` device has no numbers, but refuses to mix with another device, as a GPU does."""
    monkeypatch.setattr(training, "free_memory", lambda device: free)
    meta, cells = torch.device("meta"), cells_of([0, 1] * 30)
    for network in (
        Annotator(Encoder(20), Head(2), Adapter(20)),
        Annotator(Projection(20, 8), LinearHeads(8, 2), Translation(8)),
    ):
        taken = training.minibatches(cells.x, meta)(np.arange(6))
        loss = Loss(np.ones(2), meta)(network.to(meta)(taken), cells.y[:6])
        assert loss.device == meta


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU here")
def test_without_a_gpu_a_line_says_what_is_used(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert training._device(use_gpu=True) == CPU
    assert [record.message for record in caplog.records] == ["computing on cpu (no GPU found)"]


def test_the_source_classifier_learns_cells_it_was_not_trained_on() -> None:
    cells, settings = cells_of([0, 1, 2] * 100), settings_of(epochs=10)
    model, curve = training.train_source(cells, 3, settings)
    assert curve[-1]["loss"] < curve[0]["loss"] / 2
    fresh = cells_of([0, 1, 2] * 50, seed=5)
    assert training.accuracy_of(model, fresh.x, fresh.y, CPU) > 0.95
    assert [point["epoch"] for point in curve] == list(range(1, 11))


def test_the_source_classifier_is_the_earliest_epoch_of_best_held_out_accuracy() -> None:
    """Trained anew for exactly that many epochs, the weights are the same, bit for bit."""
    cells, settings = cells_of([0, 1, 2] * 40, noise=1.0), settings_of(epochs=12)
    model, curve = training.train_source(cells, 3, settings)
    accuracies = [point["held_out_accuracy"] for point in curve]
    best = int(np.argmax(accuracies))
    assert accuracies.count(max(accuracies)) > 1, "the case shows nothing: no ties"
    assert 0 < best < len(curve) - 1, "the case shows nothing: the first or the last epoch is best"
    stopped, _ = training.train_source(cells, 3, replace(settings, epochs=best + 1))
    assert equal(weights(model), weights(stopped))
    out = training.hold_out(cells.y, 0.1, 0)
    assert training.accuracy_of(model, cells.x[out], cells.y[out], CPU) == accuracies[best]


@pytest.mark.parametrize("held_out", [True, False])
def test_the_source_s_held_out_cells_never_train(held_out: bool) -> None:
    """After one epoch, which is kept whatever its accuracy, other values there leave every weight as it was."""
    cells, settings = cells_of([0, 1, 2] * 20), settings_of(epochs=1, source_held_out=0.2)
    out = training.hold_out(cells.y, 0.2, 0)
    changed = cells.x.toarray()
    changed[out if held_out else ~out] *= 3
    one, _ = training.train_source(cells, 3, settings)
    other, _ = training.train_source(replace(cells, x=sparse.csr_matrix(changed)), 3, settings)
    assert equal(weights(one), weights(other)) is held_out


@pytest.mark.parametrize("method", METHODS)
def test_a_source_too_small_to_hold_cells_out_still_trains(tmp_path: Path, method: str) -> None:
    data = {"a": {"B": 4, "T": 3}, "b": {"B": 4, "T": 4}, "c": {"B": 3, "T": 3}}
    reference = learn(*prepare_simulated(tmp_path, data, SOURCE_DATASET_NAME="a", METHOD=method))
    assert not any(cells.held_out.any() for cells in reference.batches.values())
    assert {result.cells for result in reference.history} == {UNSEEN, TRAINED_ON}
    assert all(np.isfinite(point["loss"]) for point in reference.curves)
    epochs = 2 if method == "reference" else 0
    assert [p["held_out_accuracy"] for p in reference.curves if p["stage"] == "initial"] == [None] * epochs


def test_without_held_out_cells_the_source_s_epoch_of_lowest_loss_is_kept() -> None:
    cells, settings = cells_of([0, 0, 1, 1]), settings_of(epochs=6)
    model, curve = training.train_source(cells, 2, settings)
    lowest = int(np.argmin([point["loss"] for point in curve]))
    stopped, _ = training.train_source(cells, 2, replace(settings, epochs=lowest + 1))
    assert equal(weights(model), weights(stopped))


# --- choosing the source -----------------------------------------------------------------------------------------------


def test_the_source_is_the_candidate_that_rejects_fewest_target_cells() -> None:
    """Each count is checked against the candidate's own classifier and its own held-out cells."""
    candidates = {
        "first": cells_of([0, 1, 2] * 30, seed=2, noise=1.0),
        "second": cells_of([0, 1, 2] * 30, seed=1, noise=0.05),
    }
    target, settings = cells_of([0, 1, 2] * 20, seed=3, noise=1.0).x, settings_of(epochs=6)
    name, rows = training.choose_source(candidates, target, list("BTN"), settings)
    counts = {row["batch"]: row["target cells Unassigned"] for row in rows}
    for batch, cells in candidates.items():
        model, _ = training.train_source(cells, 3, settings)
        own, theirs = (
            training.decode(model.head, training.encode(model, x, CPU), CPU) for x in (cells.x[cells.held_out], target)
        )
        assert counts[batch] == Predictions(list("BTN"), theirs, class_thresholds(own, 0.05)).rejected.sum()
    assert counts["second"] < counts["first"], "the case shows nothing: the first is the best"
    assert name == "second"


def test_of_equal_candidates_the_first_is_the_source() -> None:
    cells = cells_of([0, 1] * 15)
    name, rows = training.choose_source({"q": cells, "p": cells}, cells.x, ["B", "T"], settings_of())
    assert rows[0]["target cells Unassigned"] == rows[1]["target cells Unassigned"]
    assert name == "q"


@pytest.mark.parametrize(("coverage", "chosen"), [(0.9, "all"), (0.0, "one type")])
def test_default_passes_over_a_batch_with_too_few_cell_types(coverage: float, chosen: str) -> None:
    """A batch of a single type rejects nothing, and would make every target cell that type."""
    one_type = cells_of([0] * 200, seed=1)
    everything = cells_of([0, 1, 2] * 30, seed=2, noise=1.0)
    target = cells_of([0, 1, 2] * 20, seed=3, noise=1.5).x
    candidates = {"one type": one_type, "all": everything}
    settings = settings_of(source_coverage=coverage, epochs=5)
    name, rows = training.choose_source(candidates, target, list("BTN"), settings)
    assert name == chosen
    tried = {row["batch"]: isinstance(row["target cells Unassigned"], int) for row in rows}
    assert tried == {"one type": coverage == 0.0, "all": True}
    assert {row["batch"]: row["cell types"] for row in rows} == {"one type": 1, "all": 3}


def test_nine_of_ten_cell_types_are_enough_and_eight_are_not() -> None:
    candidates = {str(n): cells_of(list(range(n)) * 2) for n in (10, 9, 8)}
    _, rows = training.choose_source(candidates, candidates["10"].x, list("ABCDEFGHIJ"), settings_of(epochs=1))
    assert [row["batch"] for row in rows if isinstance(row["target cells Unassigned"], int)] == ["10", "9"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("source", [None, "b"])
def test_the_named_or_chosen_source_comes_first_and_has_no_adapter(
    tmp_path: Path, source: str | None, method: str
) -> None:
    prepared, plan, settings = prepare_simulated(tmp_path, THREE_BATCHES, SOURCE_DATASET_NAME=source, METHOD=method)
    reference = training.start(prepared, plan, settings)
    assert reference.source == (source or training.candidates_table(reference)["target cells Unassigned"].idxmin())
    assert sorted(reference.batches) == ["a", "b"]
    assert reference.adapters == {reference.source: None}
    assert bool(reference.candidates) is (source is None)
    assert len(training.candidates_table(reference)) == (2 if source is None else 1)


@pytest.mark.parametrize("method", METHODS)
def test_a_single_annotated_batch_is_the_source_without_a_contest(tmp_path: Path, method: str) -> None:
    reference = training.start(*prepare_simulated(tmp_path, THREE_BATCHES, EXCLUDE_DATASETS_NAMES=["a"], METHOD=method))
    assert reference.source == "b"
    assert reference.candidates == []


def test_nothing_trains_without_annotated_batches(by_each: Prepared) -> None:
    prepared, plan, settings = by_each
    with pytest.raises(InputError, match="PRETRAINED_MODEL_PATH"):
        training.start(prepared, replace(plan, annotated=[]), settings)


def test_reference_holds_out_a_fifth_of_the_source_and_a_tenth_of_the_others(tmp_path: Path) -> None:
    prepared, plan, settings = prepare_simulated(
        tmp_path, THREE_BATCHES, SOURCE_DATASET_NAME="a", METHOD="reference", EPOCHS=1
    )
    reference = training.start(prepared, plan, settings)
    # a: B 40, T 40, NK 30; b: the same.
    assert reference.batches["a"].held_out.sum() == 8 + 8 + 6
    assert reference.batches["b"].held_out.sum() == 4 + 4 + 3


# --- the intermediates -------------------------------------------------------------------------------------------------


def test_adapt_changes_nothing_that_other_batches_share(three: Prepared) -> None:
    reference = training.start(*three)
    before = weights(reference.model)
    training.adapt(reference, "b")
    assert equal(weights(reference.model), before)
    torch.manual_seed(0)
    fresh = weights(training.Adapter(len(reference.features)))
    learned = weights(reference.adapters["b"])
    assert not any(torch.equal(fresh[name], learned[name]) for name in fresh), "f, g and b all learn"


@pytest.mark.parametrize("stage", ["finetune", "retrain"])
def test_joint_training_leaves_every_adapter_as_it_was(three: Prepared, stage: str) -> None:
    reference = training.start(*three)
    training.adapt(reference, "b")
    adapters, shared = weights(reference.adapters["b"]), weights(reference.model)
    if stage == "finetune":
        training.finetune(reference, "b")
    else:
        training.retrain(reference)
    assert equal(weights(reference.adapters["b"]), adapters)
    now = weights(reference.model)
    assert not any(torch.equal(shared[name], now[name]) for name in shared), "encoder and head all learn"


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
        share = settings.source_held_out if batch == plan.source else settings.held_out
        out = training.hold_out(prepared.obs["cell_type"].cat.codes.to_numpy()[rows], share, settings.seed)
        random = np.random.default_rng(0)
        x[rows[out if held_out else ~out]] *= random.uniform(0.2, 2, x.shape[1])
    changed.X = sparse.csr_matrix(x.astype(np.float32))
    with pytest.MonkeyPatch.context() as patched:
        if not settings.is_reference:
            encoder = training.projection.fit(prepared.X, settings.seed)
            patched.setattr(training.projection, "fit", lambda *_: encoder)
        one, other = (learn(data, plan, settings) for data in (prepared, changed))
    assert equal(every_weight(one), every_weight(other)) is held_out


def test_held_out_cells_labels_have_no_say(by_each: Prepared) -> None:
    """The types of held-out cells, exchanged within a batch, change no weight that METHOD `default` learns, and in METHOD
    `reference` only which epoch of the source's is kept."""
    prepared, plan, settings = by_each
    one, other = (training.start(prepared, plan, replace(settings, epochs=1)) for _ in range(2))
    for reference in (one, other):
        if reference is other:
            for name, cells in reference.batches.items():
                y = cells.y.copy()
                y[cells.held_out] = np.roll(y[cells.held_out], 1)
                assert (y != cells.y).any()
                reference.batches[name] = replace(cells, y=y)
        training.learn_intermediates(reference)
    assert equal(every_weight(one), every_weight(other))


def with_other_values(reference: Reference, batch: str, cell_type: str) -> None:
    """Makes the batch's cells of a type look different."""
    cells = reference.batches[batch]
    x = cells.x.toarray()
    x[cells.y == reference.classes.index(cell_type)] += 1
    reference.batches[batch] = replace(cells, x=sparse.csr_matrix(x))


@pytest.mark.parametrize("cell_type", ["NK", "B"])
def test_an_intermediate_s_new_type_enters_with_the_joint_fine_tune_only(new_type: Prepared, cell_type: str) -> None:
    """Its cells, and only its, have no say in the adapter: the head does not know them yet."""
    one, other = training.start(*new_type), training.start(*new_type)
    with_other_values(other, "b", cell_type)
    for reference in (one, other):
        training.adapt(reference, "b")
    assert equal(weights(one.adapters["b"]), weights(other.adapters["b"])) is (cell_type == "NK")
    for reference in (one, other):
        training.finetune(reference, "b")
    assert not equal(weights(one.model), weights(other.model))


@pytest.mark.parametrize("method", METHODS)
def test_a_new_type_is_learned_in_the_end(tmp_path: Path, method: str) -> None:
    data = {"a": {"B": 200, "T": 200}, "b": {"B": 200, "T": 200, "NK": 400}, "c": {"B": 10, "T": 10}}
    reference = learn(*prepare_simulated(tmp_path, data, SOURCE_DATASET_NAME="a", EPOCHS=15, METHOD=method))
    final = [r for r in reference.history if (r.batch, r.stage, r.cells) == ("b", "retrain", HELD_OUT)]
    assert final[0].per_class["NK"]["recall"] > 0.9


@pytest.mark.parametrize("method", METHODS)
def test_an_intermediate_of_new_types_only_still_joins(tmp_path: Path, method: str) -> None:
    data = {"a": {"B": 20, "T": 20}, "b": {"NK": 20, "Mono": 20}, "c": {"B": 10, "NK": 10}}
    reference = learn(*prepare_simulated(tmp_path, data, SOURCE_DATASET_NAME="a", METHOD=method))
    assert [p for p in reference.curves if p["stage"] == "adapt"] == []
    assert [r.stage for r in reference.history if r.batch == "b" and r.cells == HELD_OUT] == [
        "adapt", "finetuned", "retrain",
    ]  # fmt: skip
    assert all(torch.isfinite(tensor).all() for tensor in every_weight(reference).values())


def scripted(losses: list[float], touch: Callable[[Any], Tensor]) -> Callable[..., float]:
    """An epoch that adds 1 to a weight and tells the next of some losses."""
    script = iter(losses)

    def epoch(model: Any, *_: object) -> float:
        with torch.no_grad():
            touch(model).add_(1)
        return next(script)

    return epoch


def test_adapt_keeps_the_epoch_of_lowest_loss_the_latest_on_ties(
    three: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, plan, settings = three
    reference = training.start(prepared, plan, replace(settings, epochs=5))
    monkeypatch.setattr(training, "train_epoch", scripted([3, 1, 2, 1, 4], lambda model: model.adapter.b))
    training.adapt(reference, "b")
    assert reference.adapters["b"] is not None
    assert set(reference.adapters["b"].b.tolist()) == {4.0}


@pytest.mark.parametrize("stage", ["finetune", "retrain"])
def test_joint_training_keeps_the_epoch_of_lowest_summed_loss_the_latest_on_ties(
    three: Prepared, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the epoch that is best for the last batch, which is the first here."""
    prepared, plan, settings = three
    reference = training.start(prepared, plan, replace(settings, epochs=4))
    training.adapt(reference, "b")
    before = reference.model.encoder.linear.bias.clone()
    per_batch = [5, 1, 1, 3, 2, 2, 3, 1.5]  # a, b, a, b, ...: sums 6, 4, 4, 4.5
    monkeypatch.setattr(training, "train_epoch", scripted(per_batch, lambda model: model.encoder.linear.bias))
    if stage == "finetune":
        training.finetune(reference, "b")
    else:
        training.retrain(reference)
    kept = reference.model.encoder.linear.bias - before
    torch.testing.assert_close(kept, torch.full_like(kept, 6.0))  # three epochs of two batches


def test_a_joint_epoch_passes_over_the_batches_in_order_each_with_its_own_optimiser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"a": {"B": 9, "T": 9}, "d": {"B": 8, "T": 8}, "b": {"B": 7, "T": 7}, "c": {"B": 3, "T": 3}}
    prepared, plan, settings = prepare_simulated(
        tmp_path, data, SOURCE_DATASET_NAME="a", INTER_DATASETS_NAMES=["d", "b"]
    )
    reference = learn(prepared, plan, settings)
    assert reference.intermediates == ["d", "b"]
    passes: list[tuple[int, int, float]] = []

    def epoch(_: object, x: sparse.csr_matrix, __: object, optimiser: torch.optim.Optimizer, loss: Loss) -> float:
        assert loss.minibatch == 128
        passes.append((x.shape[0], id(optimiser), optimiser.param_groups[0]["lr"]))
        return 1.0

    monkeypatch.setattr(training, "train_epoch", epoch)
    training.retrain(reference)
    n_training = [int((~reference.batches[name].held_out).sum()) for name in ("a", "d", "b")]
    assert [n for n, _, _ in passes] == n_training * 2
    assert len({optimiser for _, optimiser, _ in passes}) == 3
    assert {rate for _, _, rate in passes} == {1e-4}


def test_class_weights_are_pooled_over_the_batches_learned_so_far(
    new_type: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = training.start(*new_type)
    used: list[np.ndarray] = []
    epoch = training.train_epoch
    monkeypatch.setattr(
        training, "train_epoch", lambda *args: used.append(args[4].weights.numpy().copy()) or epoch(*args)
    )
    training.adapt(reference, "b")
    training.finetune(reference, "b")
    # B 40 and T 40 in a; then with b's 30 of each and 30 NK. Classes are B, NK, T.
    assert used[0] == pytest.approx([2 / 0.51 / 3, 0, 2 / 0.51 / 3], rel=1e-6)
    assert used[-1] == pytest.approx([2 / (0.01 + n / 170) / 3 for n in (70, 30, 70)], rel=1e-6)


# --- history -----------------------------------------------------------------------------------------------------------


def test_the_history_has_every_stage_in_order_held_out_cells_apart(by_each: Prepared) -> None:
    reference = learn(*by_each)
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
    by_each: Prepared,
) -> None:
    reference = learn(*by_each)
    head = reference.model.head
    probabilities = {
        name: training.decode(head, training.encode(reference.annotator(name), cells.x, CPU), CPU)
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
    reference = training.start(*by_each)
    cells = reference.batches["b"]
    right = training.accuracy_of(reference.model, cells.x, cells.y, CPU)
    training.adapt(reference, "b")
    initial = next(r for r in reference.history if (r.batch, r.stage) == ("b", "initial"))
    assert initial.metrics["raw_accuracy"] == pytest.approx(right)


# --- reproducibility ---------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights_bit_for_bit_and_another_seed_others(by_each: Prepared) -> None:
    """METHOD `default` draws with it which cells to hold out, and nothing else of so few."""
    prepared, plan, settings = by_each
    one = every_weight(learn(prepared, plan, settings))
    torch.rand(5)  # what ran before must not matter
    assert equal(one, every_weight(learn(prepared, plan, settings)))
    assert not equal(one, every_weight(learn(prepared, plan, replace(settings, seed=1))))


def test_every_stage_seeds_anew(by_each: Prepared) -> None:
    """A stage run after something else used random numbers gives the same weights."""
    prepared, plan, settings = by_each
    straight = every_weight(learn(prepared, plan, settings))
    torch.rand(1)
    reference = training.start(prepared, plan, settings)
    for stage in (training.adapt, training.finetune):
        torch.rand(1)
        stage(reference, "b")
    torch.rand(1)
    training.retrain(reference)
    assert equal(every_weight(reference), straight)


def test_a_batch_adapted_again_has_the_same_adapter(by_each: Prepared) -> None:
    """A notebook's cell that is run twice."""
    reference = training.start(*by_each)
    training.adapt(reference, "b")
    once = weights(reference.adapters["b"])
    training.adapt(reference, "b")
    assert equal(weights(reference.adapters["b"]), once)


def with_other_target(prepared: ad.AnnData, plan: Plan) -> ad.AnnData:
    """The target's cells have other values."""
    changed = prepared.copy()
    x = changed.X.toarray()
    x[(prepared.obs["batch"] == plan.target).to_numpy(), ::2] = 1.0
    changed.X = sparse.csr_matrix(x)
    return changed


def test_in_reference_the_target_s_values_do_not_reach_the_annotated_batches_models(three: Prepared) -> None:
    """With a named source, training needs nothing of the target but the choice of features."""
    prepared, plan, settings = three
    changed = with_other_target(prepared, plan)
    assert equal(every_weight(learn(prepared, plan, settings)), every_weight(learn(changed, plan, settings)))


def test_in_default_the_target_s_values_reach_the_encoder(tmp_path: Path) -> None:
    """On purpose: components of all cells of a run describe the target as well as the annotated batches. Its labels do
    not (`test_alignment.test_the_target_s_labels_have_no_say_in_its_annotation`)."""
    prepared, plan, settings = prepare_simulated(tmp_path, THREE_BATCHES, SOURCE_DATASET_NAME="a", METHOD="default")
    one, other = learn(prepared, plan, settings), learn(with_other_target(prepared, plan), plan, settings)
    assert not equal(weights(one.model.encoder), weights(other.model.encoder))


def test_no_stage_of_default_changes_the_encoder(tmp_path: Path) -> None:
    prepared, plan, settings = prepare_simulated(tmp_path, THREE_BATCHES, SOURCE_DATASET_NAME="a", METHOD="default")
    reference = training.start(prepared, plan, settings)
    encoder, stored = weights(reference.model.encoder), {n: c.codes.copy() for n, c in reference.batches.items()}
    training.learn_intermediates(reference)
    assert equal(weights(reference.model.encoder), encoder)
    assert not [parameter for parameter in reference.annotator("b").parameters() if parameter.requires_grad]
    for name, cells in reference.batches.items():
        np.testing.assert_array_equal(cells.codes, stored[name])
        through = training.encode(reference.annotator(name), cells.x, CPU)
        everything = training.codes_of(reference, name, np.arange(len(cells.y)))
        np.testing.assert_allclose(everything, through, atol=1e-5)


# --- interrupted ----------------------------------------------------------------------------------------------------------


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("stopped_in", ["adapt", "finetuned", "retrain"])
def test_a_training_goes_on_where_it_was_interrupted(
    three: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_in: str
) -> None:
    """Hours of METHOD `reference` are not lost to a queue's time limit, and the model is the same."""
    prepared, plan, settings = three
    whole = training.start(prepared, plan, settings)
    training.learn_intermediates(whole)
    file, stages = tmp_path / "unfinished.pt", list[str]()

    def until(epochs: range, what: str, unit: str) -> range:
        stages.append(what)
        if what.startswith(stopped_in) and whole.intermediates[-1] in what + "all annotated batches":
            raise StoppedError
        return epochs

    with monkeypatch.context() as patched:
        patched.setattr(training, "bar", until)
        with pytest.raises(StoppedError):
            training.learn_intermediates(training.start(prepared, plan, settings, file))
    monkeypatch.setattr(training, "bar", lambda epochs, what, unit: stages.append(what) or epochs)
    before = len(stages)
    again = training.start(prepared, plan, settings, file)
    assert len(stages) == before
    training.learn_intermediates(again)
    assert equal(every_weight(again), every_weight(whole))
    assert [result.to_json() for result in again.history] == [result.to_json() for result in whole.history]
    assert again.curves == whole.curves


@pytest.mark.parametrize("change", ["seed", "cells", "damage"])
def test_what_another_training_learned_is_not_gone_on_with(three: Prepared, tmp_path: Path, change: str) -> None:
    prepared, plan, settings = three
    file = tmp_path / "unfinished.pt"
    training.learn_intermediates(training.start(prepared, plan, settings, file))
    if change == "seed":
        settings = replace(settings, seed=settings.seed + 1)
    if change == "cells":
        prepared = prepared[1:].copy()
    if change == "damage":
        file.write_bytes(file.read_bytes()[:-100])
    assert training.start(prepared, plan, settings, file).left_to_learn == ["b", "c"][: len(plan.annotated) - 1]


def test_default_keeps_nothing(by_each: Prepared, tmp_path: Path) -> None:
    prepared, plan, settings = by_each
    training.start(prepared, plan, settings, tmp_path / "unfinished.pt")
    assert (tmp_path / "unfinished.pt").exists() is settings.is_reference


@pytest.mark.parametrize("stopped_in", ["adapt", "finetuned", "retrain"])
def test_a_stage_interrupted_in_a_notebook_can_be_run_again(
    three: Prepared, monkeypatch: pytest.MonkeyPatch, stopped_in: str
) -> None:
    """Stopping a cell must not leave a half-trained model that the next cell goes on with."""
    prepared, plan, settings = three
    whole = training.start(prepared, plan, settings)
    training.learn_intermediates(whole)
    reference = training.start(prepared, plan, settings)

    def until(epochs: range, what: str, unit: str) -> Iterator[int]:
        yield 0
        if what.startswith(stopped_in):
            raise KeyboardInterrupt
        yield from epochs[1:]

    with monkeypatch.context() as patched:
        patched.setattr(training, "bar", until)
        with pytest.raises(KeyboardInterrupt):
            training.learn_intermediates(reference)
    training.learn_intermediates(reference)
    assert equal(every_weight(reference), every_weight(whole))
    if stopped_in != "finetuned":  # whose batch is adapted anew, and said so again
        assert [result.to_json() for result in reference.history] == [result.to_json() for result in whole.history]
        assert reference.curves == whole.curves


def test_a_batch_that_could_not_be_kept_is_learned_again(
    three: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk the model goes back to before the batch, and so must the list of what it knows."""
    prepared, plan, settings = three
    reference = training.start(prepared, plan, settings, tmp_path / "unfinished.pt")

    def full(_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(training.checkpoint, "keep", full)
        with pytest.raises(OSError, match="disk full"):
            training.learn_intermediates(reference)
    assert reference.left_to_learn == reference.intermediates
