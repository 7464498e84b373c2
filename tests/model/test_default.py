"""METHOD `default`: what its latents, classifier and offsets are, and what a target is moved by and what not."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from jind_nb.model import default, fit, loop, pca
from jind_nb.model.annotate import annotate, calibrate, known_with_rules
from jind_nb.model.calibration import moved_share
from jind_nb.model.default import Projection, columns_of
from jind_nb.model.networks import Annotator, classify, encode
from jind_nb.model.state import AlignmentMode, Cells, KnownLatents, Settings, TargetStage
from jind_nb.model.target import annotate_before_alignment, known_latents
from tests.conftest import ROOT
from tests.helpers import learn as helpers
from tests.helpers.learn import (
    CPU,
    Learned,
    equal,
    every_weight,
    learn,
    prepare_simulated,
    settings_with,
    target_cells,
    weights,
    with_other_target,
)
from tests.helpers.simulated import THREE_BATCHES, simulated

quick = hypothesis_settings(deadline=None, max_examples=40)


def cells(n: int = 200, p: int = 80, seed: int = 0) -> sparse.csr_matrix:
    """Values of features whose means differ, many of them zero."""
    random = np.random.default_rng(seed)
    return sparse.csr_matrix(np.log1p(random.poisson(random.gamma(0.5, 2, p), (n, p))).astype(np.float32))


def latents(encoder: Projection, x: sparse.csr_matrix) -> np.ndarray:
    return encoder(torch.from_numpy(x.toarray())).numpy()


# --- the encoder -------------------------------------------------------------------------------------------------------


@quick
@given(st.floats(0.01, 100), st.integers(0, 5))
def test_a_latent_does_not_depend_on_how_deep_a_cell_was_read(depth: float, seed: int) -> None:
    """All values of a cell twice as high: the same cell."""
    x = cells(60, 20, seed)
    encoder = default.fit_projection(x, 0)
    np.testing.assert_allclose(latents(encoder, x * np.float32(depth)), latents(encoder, x), rtol=1e-3, atol=1e-4)


def test_there_are_as_many_components_as_types() -> None:
    """An atlas of two hundred types does not fit into a hundred components: half of its types would look alike."""
    labels = np.tile(np.arange(130), 2)
    batches = {"a": Cells(cells(260, 300), labels, np.zeros(260, dtype=bool))}
    encoder = default.fit_encoder(batches["a"].x, batches, settings_with())
    assert encoder.weight.shape == (300, 2 * 130)
    annotator, _ = default.fit_source(batches["a"], 130, settings_with(), encoder)
    assert annotator.classifier.weight.shape[1] == 260
    assert default.columns_of(default.MEMBERS["many scaled components"][0], 260).tolist() == list(range(130))


def scaled_alike(x: sparse.csr_matrix) -> np.ndarray:
    dense = x.toarray().astype(np.float64)
    lengths = np.linalg.norm(dense, axis=1, keepdims=True)
    return dense * lengths.mean() / lengths


@pytest.mark.parametrize(("n", "p"), [(200, 80), (60, 20), (30, 90)])
def test_latents_are_scikit_learns_components_of_cells_of_one_length(n: int, p: int) -> None:
    """A half of features divided by their softened standard deviations, a half of features as they are."""
    x = cells(n, p)
    encoder = default.fit_projection(x, 0)
    found, even = latents(encoder, x), scaled_alike(x)
    deviation = even.std(axis=0)
    half = min(default.COMPONENTS, n - 1, p - 1)
    assert found.shape[1] == 2 * half
    for block, values in enumerate((even / (deviation + np.median(deviation)), even)):
        expected = PCA(half, svd_solver="full").fit_transform(values)
        sure = slice(0, 10)  # later ones of so few cells differ too little from each other to be told apart
        mine = found[:, block * half : (block + 1) * half]
        np.testing.assert_allclose(np.abs(mine[:, sure]), np.abs(expected[:, sure]), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose((mine**2).sum(), (expected**2).sum(), rtol=1e-3)


@pytest.mark.parametrize("p", [1, 2, 5])
def test_fewer_features_than_components_are_enough(p: int) -> None:
    x = cells(40, p)
    encoder = default.fit_projection(x, 0)
    found = latents(encoder, x)
    assert found.shape == (40, 2 * max(1, p - 1))
    assert np.isfinite(found).all()


@pytest.mark.parametrize("x", [np.ones((60, 80)), np.zeros((60, 80)), np.ones((60, 3)), np.ones((1, 5))])
def test_cells_that_are_all_alike_have_one_latent(x: np.ndarray) -> None:
    """There is nothing to find in them; and nothing to stop for."""
    sparse_x = sparse.csr_matrix(x.astype(np.float32))
    assert np.ptp(latents(default.fit_projection(sparse_x, 0), sparse_x), axis=0).max() == 0


def test_a_cell_without_a_value_has_a_latent_and_changes_nobody_s_by_much() -> None:
    x = cells(200, 40)
    with_empty = sparse.vstack([x, sparse.csr_matrix((1, 40), dtype=np.float32)], format="csr")
    found = latents(default.fit_projection(with_empty, 0), with_empty)
    assert np.isfinite(found).all()


def test_a_feature_that_hardly_varies_is_not_blown_up() -> None:
    """Divided by its own standard deviation alone, rounding in a constant feature would be a component."""
    x = cells(200, 40).toarray()
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x = np.hstack([x, np.full((200, 1), 1.0), np.random.default_rng(0).normal(1, 1e-4, (200, 1))]).astype(np.float32)
    encoder = default.fit_projection(sparse.csr_matrix(x), 0)
    weight = encoder.weight.numpy()
    assert np.abs(weight[-2:]).max() < np.abs(weight[:-2]).max()
    part = latents(encoder, sparse.csr_matrix(x)).std(axis=0)[:10]
    quiet = (x[:, -1:] * weight[-1:] * float(encoder.length) / np.linalg.norm(x, axis=1, keepdims=True)).std(axis=0)
    assert (quiet[:10] < 0.1 * part).all()


def test_at_most_so_many_cells_are_used_and_all_are_projected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default, "MOST_CELLS", 70)
    x = cells(300, 30)
    encoder = default.fit_projection(x, 0)
    chosen = default.own_order(x)[default.subsample(300, 70, 0)]
    monkeypatch.setattr(default, "MOST_CELLS", 10**6)
    np.testing.assert_allclose(latents(encoder, x), latents(default.fit_projection(x[chosen], 0), x), atol=1e-4)


@pytest.mark.parametrize("blocks", [1000, 7])
def test_components_of_many_cells_are_those_of_scikit_learn(blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the covariance where there are more values than pairs of features; else by the values."""
    monkeypatch.setattr(pca, "DENSE_CELLS", blocks)
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 80)) * np.linspace(3, 0.5, 80) * (random.random((300, 80)) < 0.7)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    sparse_x = sparse.csr_matrix(x)
    assert x.shape[1] ** 2 < 2 * sparse_x.nnz
    encoder = default.fit_projection(sparse_x.astype(np.float32), seed=0)
    with torch.no_grad():
        found = encoder(torch.from_numpy(x.astype(np.float32))).numpy()[:, 79:]
    expected = PCA(79, svd_solver="full").fit_transform(x)
    np.testing.assert_allclose(np.abs(found[:, :20]), np.abs(expected[:, :20]), atol=2e-4)


# --- the classifier ----------------------------------------------------------------------------------------------------


def clusters(n_types: int, n: int = 40, size: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Latents around a point for each type, near enough to be confused."""
    random = np.random.default_rng(seed)
    y = np.repeat(np.arange(n_types), n)
    return (random.normal(0, 1, (n_types, size))[y] + random.normal(0, 1, (len(y), size))).astype(np.float32), y


def everywhere(y: np.ndarray) -> np.ndarray:
    """All cells lie where their batches' offsets put them."""
    return np.ones(len(y), dtype=bool)


def members_of(classifier: default.Heads, latent: np.ndarray) -> dict[str, np.ndarray]:
    """Return each member's probabilities, (n, K)."""
    said = classifier.of_members(torch.from_numpy(latent)).numpy()
    return {name: said[:, m] for m, name in enumerate(default.MEMBERS)}


@pytest.mark.slow
@pytest.mark.parametrize("n_types", [2, 3, 7])
@pytest.mark.parametrize("size", [2, 12, 200])
def test_members_of_regressions_are_scikit_learns_and_types_count_by_the_root_of_their_cells(
    n_types: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted cell by cell a rare type is drowned; counted alike it is overrated."""
    of_cells, y = clusters(n_types, size=size)
    of_cells, y = of_cells[7:], y[7:]  # types of different sizes
    monkeypatch.setattr(default, "TOLERANCE", 1e-6)
    monkeypatch.setattr(default, "MOST_STEPS", 2000)
    weights = np.random.default_rng(0).uniform(0.1, 1, len(y))
    classifier = default.fit_classifier(of_cells, y, weights, everywhere(y), n_types)
    rooted = weights / np.sqrt(np.bincount(y)[y])
    rooted /= rooted.mean() / weights.mean()
    for member, said in members_of(classifier, of_cells).items():
        if member == "discriminant":
            continue
        expected = np.zeros((len(y), n_types))
        for view in default.MEMBERS[member]:
            seen = of_cells[:, columns_of(view, size)].astype(np.float64)
            model = LogisticRegression(C=1.0, tol=1e-6, max_iter=2000).fit(seen, y, sample_weight=rooted)
            expected += model.predict_proba(seen) / len(default.MEMBERS[member])
        np.testing.assert_allclose(said, expected, atol=1e-3, err_msg=member)


def test_the_discriminant_is_scikit_learns_shrunk_halfway_to_a_sphere() -> None:
    """Its log odds are divided by three, and types' shares count by their root."""
    of_cells, y = clusters(3)
    of_cells, y = of_cells[20:], y[20:]
    classifier = default.fit_classifier(of_cells, y, np.ones(len(y)), everywhere(y), 3)
    shares = np.sqrt(np.bincount(y))
    z = of_cells.astype(np.float64)
    model = LinearDiscriminantAnalysis(
        solver="lsqr", shrinkage=default.COVARIANCE_SHRINKAGE, priors=shares / shares.sum()
    )
    model.fit(z, y)
    # scikit-learn divides by the number of cells, and standardises features before it shrinks: the same only about.
    expected = model.predict(z)
    said = members_of(classifier, of_cells)["discriminant"]
    assert (said.argmax(axis=1) == expected).mean() > 0.95
    wrong = said.argmax(axis=1) != y
    assert said.max(axis=1)[wrong].mean() < said.max(axis=1)[~wrong].mean()


def test_the_discriminant_learns_a_type_of_two_cells() -> None:
    """A regression drowns it among four hundred others."""
    random = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [200, 200, 2])
    centres = random.normal(0, 3, (3, 20))
    of_cells = (centres[y] + random.normal(0, 1, (len(y), 20))).astype(np.float32)
    classifier = default.fit_classifier(of_cells, y, np.ones(len(y)), everywhere(y), 3)
    new = (centres[np.repeat(2, 50)] + random.normal(0, 1, (50, 20))).astype(np.float32)
    assert (members_of(classifier, new)["discriminant"].argmax(axis=1) == 2).mean() > 0.95


def test_the_discriminant_is_computed_from_cells_that_lie_at_their_place() -> None:
    """Copies of cells as nothing has moved them would blur the covariance of all types."""
    of_cells, y = clusters(3)
    copies = np.concatenate([of_cells, of_cells + 5])
    at_place = np.repeat([True, False], len(y))
    alone = default.fit_classifier(of_cells, y, np.ones(len(y)), everywhere(y), 3)
    with_copies = default.fit_classifier(copies, np.tile(y, 2), np.ones(2 * len(y)), at_place, 3)
    np.testing.assert_array_equal(with_copies.weight[-1], alone.weight[-1])
    np.testing.assert_array_equal(with_copies.bias[-1], alone.bias[-1])


@pytest.mark.parametrize("learned", [[0], [0, 2], [1, 2, 4]])
def test_a_type_never_learned_gets_next_to_nothing(learned: list[int]) -> None:
    of_cells, y = clusters(len(learned))
    classifier = default.fit_classifier(of_cells, np.array(learned)[y], np.ones(len(y)), everywhere(y), 5)
    said = {"all": classify(classifier, of_cells * 3, CPU)} | members_of(classifier, of_cells * 3)
    for name, probabilities in said.items():
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5, err_msg=name)
        assert np.delete(probabilities, learned, axis=1).max() < 1e-6, name


def test_a_cell_of_next_to_no_weight_teaches_the_regressions_next_to_nothing() -> None:
    of_cells, y = clusters(2)
    wrong = np.concatenate([of_cells, of_cells]), np.concatenate([y, 1 - y])
    weights = np.repeat([1.0, 1e-9], len(y))
    alone = members_of(default.fit_classifier(of_cells, y, np.ones(len(y)), everywhere(y), 2), of_cells)
    with_others = members_of(default.fit_classifier(*wrong, weights, everywhere(wrong[1]), 2), of_cells)
    for name in list(default.MEMBERS)[:-1]:
        np.testing.assert_allclose(with_others[name], alone[name], atol=0.01, err_msg=name)


# --- offsets -----------------------------------------------------------------------------------------------------------


def means(y: np.ndarray, of_cells: np.ndarray, n_types: int = 3) -> tuple[np.ndarray, np.ndarray]:
    return default.type_means(of_cells, np.eye(n_types)[y])


compositions = st.lists(st.integers(0, 300), min_size=3, max_size=3).filter(lambda n: sum(n) > 0)


@quick
@given(compositions, compositions, st.integers(0, 99), st.floats(-5, 5))
def test_a_known_shift_is_found_whatever_the_compositions(
    own: list[int], others: list[int], seed: int, far: float
) -> None:
    """A batch of many B and few T, beside one of few B and many T: their means differ, and that is no shift."""
    random = np.random.default_rng(seed)
    centres, shift = random.normal(0, 5, (3, 6)), far * random.normal(0, 1, 6)
    mine, theirs = np.repeat(np.arange(3), own), np.repeat(np.arange(3), others)
    b = default.offset_between(means(mine, centres[mine] + shift), means(theirs, centres[theirs]))
    common = sum(n for n, m in zip(own, others, strict=True) if m > 0)
    np.testing.assert_allclose(b, -shift * common / (common + default.SHRINKAGE), atol=1e-6)


def test_a_batch_with_no_type_in_common_is_not_moved() -> None:
    """Nothing tells where it should lie."""
    mine, theirs = np.repeat([0, 1], 50), np.repeat(2, 50)
    of_cells = np.random.default_rng(0).normal(0, 3, (100, 6))
    assert not default.offset_between(means(mine, of_cells), means(theirs, of_cells[:50])).any()


@pytest.mark.parametrize(("n", "share"), [(1, 1 / 21), (20, 0.5), (980, 0.98)])
def test_a_batch_of_few_cells_is_moved_less(n: int, share: float) -> None:
    """Their mean says little."""
    b = default.offset_between(means(np.zeros(n, int), np.ones((n, 2))), means(np.zeros(9, int), np.zeros((9, 2))))
    np.testing.assert_allclose(b, -share)


def test_an_adapter_is_what_it_was_made_of() -> None:
    x, b = cells(50, 10), np.arange(18.0)
    encoder = default.fit_projection(x, 0)
    model = Annotator(encoder, default.Heads(18, 2), default.Offset.of(b))
    np.testing.assert_allclose(encode(model, x, CPU), latents(encoder, x) + b, rtol=1e-5, atol=1e-5)


def test_an_intermediate_s_shift_is_taken_out(tmp_path: Path) -> None:
    """The same types of two batches lie nearer to each other in the adapted latents than in the bare ones."""
    data = {"a": {"B": 200, "T": 40}, "b": {"B": 40, "T": 200}, "c": {"B": 10, "T": 10}}
    adata = simulated(data, shift=0.8)
    reference = learn(*prepare_simulated(tmp_path, adata, SOURCE_DATASET_NAME="a", METHOD="default"))
    a, b = reference.batches["a"], reference.batches["b"]
    adapted = reference.latent("b", np.arange(len(b.y)))
    for k in range(2):
        there = a.latent[a.y == k].mean(axis=0)
        bare, moved = (np.linalg.norm(of_b[b.y == k].mean(axis=0) - there) for of_b in (b.latent, adapted))
        assert moved < bare


@pytest.mark.slow
def test_in_default_the_target_s_values_reach_the_encoder(tmp_path: Path) -> None:
    """On purpose: components of all cells of a run describe the target as well as the annotated batches. Its labels do
    not (`test_annotate.test_the_target_s_labels_have_no_say_in_its_annotation`)."""
    prepared, plan, settings = prepare_simulated(tmp_path, THREE_BATCHES, SOURCE_DATASET_NAME="a", METHOD="default")
    one, other = learn(prepared, plan, settings), learn(with_other_target(prepared, plan), plan, settings)
    assert not equal(weights(one.model.encoder), weights(other.model.encoder))


def test_no_stage_of_default_changes_the_encoder(tmp_path: Path) -> None:
    prepared, plan, settings = prepare_simulated(tmp_path, THREE_BATCHES, SOURCE_DATASET_NAME="a", METHOD="default")
    reference = fit.start(prepared, plan, settings)
    encoder, stored = weights(reference.model.encoder), {n: c.latent.copy() for n, c in reference.batches.items()}
    fit.learn_intermediates(reference)
    assert equal(weights(reference.model.encoder), encoder)
    assert not [parameter for parameter in reference.annotator("b").parameters() if parameter.requires_grad]
    for name, cells in reference.batches.items():
        np.testing.assert_array_equal(cells.latent, stored[name])
        through = encode(reference.annotator(name), cells.x, CPU)
        everything = reference.latent(name, np.arange(len(cells.y)))
        np.testing.assert_allclose(everything, through, atol=1e-5)


# --- moving a target ---------------------------------------------------------------------------------------------------


MANY = {"a": {"B": 150, "T": 150, "NK": 100}, "b": {"B": 150, "T": 150, "NK": 100}}


def learned(folder: Path, data: Any, **parameters: Any) -> Learned:
    """Return what stage 3 starts from, of METHOD `default`; alignment without asking whether it helps."""
    return helpers.learned(folder, data, METHOD="default", **{"ALIGN": True} | parameters)


def moved(
    shared: Annotator, x: sparse.csr_matrix, known: KnownLatents, settings: Settings, shift: Any = 0
) -> np.ndarray:
    """By how much `align` moves the target whose latents were shifted."""
    annotated = annotate_before_alignment(shared, x, known, settings)
    annotated.latent[TargetStage.BEFORE] = (annotated.latent[TargetStage.BEFORE] + shift).astype(np.float32)
    default.align(annotated, x, known, settings)
    assert annotated.model.adapter is not None
    assert [point["epoch"] for point in annotated.curves] == [1, 2, 3, 4, 5]
    return annotated.model.adapter.b.numpy()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    adata = simulated(MANY | {"c": {"B": 150, "T": 150, "NK": 100}}, shift=0.1)
    return learned(tmp_path_factory.mktemp("many"), adata)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_shifted_target_is_brought_back(many: Learned, seed: int) -> None:
    known = many[2]
    spread = np.sqrt(known.latent.var(axis=0).sum())
    direction = np.random.default_rng(seed).normal(0, known.latent.std(axis=0))
    shift = 0.5 * spread * direction / np.linalg.norm(direction)
    back = moved(*many, shift) - moved(*many)
    assert np.linalg.norm(back + shift) < 0.15 * np.linalg.norm(shift)


def test_a_target_that_the_shift_makes_wrong_is_right_after_it(many: Learned) -> None:
    shared, x, known, settings = many
    right = annotate_before_alignment(shared, x, known, settings).stages[TargetStage.BEFORE].raw
    of_type = default.type_means(known.latent, np.eye(3)[known.y])[0]
    shift = 0.6 * (of_type[0] - of_type[1])
    annotated = annotate_before_alignment(shared, x, known, settings)
    bare = annotated.latent[TargetStage.BEFORE] + shift.astype(np.float32)
    before = np.array(known.classes)[classify(shared.classifier, bare, CPU).argmax(axis=1)]
    b = moved(*many, shift)
    after = np.array(known.classes)[classify(shared.classifier, (bare + b).astype(np.float32), CPU).argmax(axis=1)]
    assert (before == right).mean() < 0.95, "the case shows nothing: the shift does no harm"
    assert (after == right).mean() > 0.99


@pytest.mark.parametrize("composition", [{"B": 150}, {"B": 290, "NK": 10}, {"T": 20, "B": 20, "NK": 260}])
def test_a_target_that_differs_in_composition_only_is_not_moved(many: Learned, composition: dict[str, int]) -> None:
    """What adversarial alignment does to it: moves B cells to where T cells are wanted."""
    shared, x, known, settings = many
    names = annotate_before_alignment(shared, x, known, settings).stages[TargetStage.BEFORE].raw
    random = np.random.default_rng(0)
    rows = np.concatenate([random.choice(np.flatnonzero(names == name), n) for name, n in composition.items()])
    spread = np.sqrt(known.latent.var(axis=0).sum())
    assert np.linalg.norm(moved(shared, x[rows], known, settings)) < 0.2 * spread
    bare = annotate_before_alignment(shared, x[rows], known, settings)
    default.align(bare, x[rows], known, settings)
    assert (bare.stages[TargetStage.ALIGNED].raw == bare.stages[TargetStage.BEFORE].raw).mean() > 0.99


def test_latents_that_are_all_one_are_moved_by_nothing(many: Learned) -> None:
    """Nothing to divide by either."""
    shared, x, known, settings = many
    known = replace(known, latent=np.zeros_like(known.latent))
    annotated = annotate_before_alignment(shared, x, known, settings)
    default.align(annotated, x, known, settings)
    assert "moved by 0.00 of" in annotated.notes[-1]


# --- how much of the answer comes from after alignment -------------------------------------------------------------------


@pytest.mark.slow
def test_strongly_shifted_left_out_batches_ask_for_more_of_alignment(tmp_path: Path) -> None:
    """And the reason is told with the target."""
    names, types = ["a", "b", "d", "e"], {"B": 60, "T": 60, "NK": 60, "Mono": 60}
    shares = {}
    for shift in (0.0, 1.2):
        folder = tmp_path / str(shift)
        folder.mkdir()
        adata = simulated(dict.fromkeys([*names, "c"], types), n_genes=20, seed=1, shift=shift)
        prepared, plan, settings = prepare_simulated(folder, adata, SOURCE_DATASET_NAME="a", METHOD="default")
        reference = learn(prepared, plan, settings)
        calibrations = calibrate(reference)
        shares[shift] = moved_share(calibrations[AlignmentMode.ALIGNED].weights)
        annotated = annotate(
            reference.model, target_cells(prepared, plan), known_with_rules(reference, calibrations), settings
        )
        assert annotated.mode == AlignmentMode.ALIGNED
        assert "of each answer comes from after alignment" in annotated.notes[0]
    assert shares[1.2] > shares[0.0] + 0.1


# --- reproducibility ---------------------------------------------------------------------------------------------------


ONE_RUN = """
import sys, hashlib, pathlib
from jind_nb.model.annotate import annotate
from tests.helpers.learn import learned
from tests.helpers.simulated import THREE_BATCHES, simulated
annotated = annotate(*learned(pathlib.Path(sys.argv[1]), simulated(THREE_BATCHES), METHOD="default", ALIGN=True))
print(hashlib.sha256(b"".join(p.probabilities.tobytes() for p in annotated.stages.values())).hexdigest())
"""


@pytest.mark.slow
def test_another_process_with_another_hash_seed_says_the_same_bit_for_bit(tmp_path: Path) -> None:
    said = []
    for hash_seed in ("1", "2"):
        (tmp_path / hash_seed).mkdir()
        done = subprocess.run(
            [sys.executable, "-c", ONE_RUN, tmp_path / hash_seed],
            cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.split()[-1])
    assert said[0] == said[1]


def test_cells_without_values_do_not_make_the_others_unlike(tmp_path: Path) -> None:
    """They lie nearest to one another, and would be a group that no annotated cell claims or the lower quartile itself."""
    model, x, known, settings = helpers.learned(tmp_path, METHOD="default")
    latent = encode(model, sparse.vstack([x, sparse.csr_matrix(x.shape, dtype=np.float32)], format="csr"), CPU)
    alone = default.novelty(model, latent[: x.shape[0]], known, settings)
    both = default.novelty(model, latent, known, settings)
    assert abs(both[: x.shape[0]] - alone).max() < 0.3
    assert (both[x.shape[0] :] == 0).all()


@pytest.mark.parametrize("n_genes", [40, 60])
def test_the_seed_matters_only_to_which_cells_are_held_out(
    tmp_path: Path, n_genes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And above 50 features, to the last digits of the components. (And of more than 20,000 cells, to which are used.)"""
    hold_out = loop.hold_out
    monkeypatch.setattr(fit, "hold_out", lambda y, share, seed: hold_out(y, share, 0))
    probabilities, learned_weights = [], []
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        values = {"SOURCE_DATASET_NAME": "a", "METHOD": "default", "SEED": seed, "ALIGN": True}
        prepared, plan, settings = prepare_simulated(tmp_path / str(seed), simulated(THREE_BATCHES, n_genes), **values)
        reference = learn(prepared, plan, settings)
        annotated = annotate(reference.model, target_cells(prepared, plan), known_latents(reference), settings)
        probabilities.append(annotated.stages[TargetStage.ALIGNED].probabilities)
        learned_weights.append(every_weight(reference))
    if n_genes <= default.COMPONENTS:
        np.testing.assert_array_equal(*probabilities)
        assert equal(*learned_weights)
    else:
        np.testing.assert_allclose(*probabilities, atol=1e-3)
