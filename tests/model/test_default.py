"""METHOD `default`: what its codes, heads and translations are, and what a target is moved by and what not."""

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
from jind_nb.model.alignment import ADAPTED, ALIGNED, BEFORE, SHARED, Annotated, KnownCodes, annotate, known_codes, move
from jind_nb.model.training import Settings, decode, encode
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from jind_nb.model import projection, training
from jind_nb.model.calibration import best_way, of_all_ways
from jind_nb.model.leave_one_out import leave_batches_out
from jind_nb.model.networks import VIEWS, Annotator, Projection, columns
from tests.conftest import ROOT
from tests.helpers.simulated import THREE_BATCHES, simulated
from tests.model.test_reference import every_weight, learn, prepare_simulated

quick = hypothesis_settings(deadline=None, max_examples=40)
CPU = torch.device("cpu")
Learned = tuple[Annotator, sparse.csr_matrix, KnownCodes, Settings]


def cells(n: int = 200, p: int = 80, seed: int = 0) -> sparse.csr_matrix:
    """Values of features whose means differ, many of them zero."""
    random = np.random.default_rng(seed)
    return sparse.csr_matrix(np.log1p(random.poisson(random.gamma(0.5, 2, p), (n, p))).astype(np.float32))


def codes(encoder: Projection, x: sparse.csr_matrix) -> np.ndarray:
    return encoder(torch.from_numpy(x.toarray())).numpy()


# --- the encoder -------------------------------------------------------------------------------------------------------


@quick
@given(st.floats(0.01, 100), st.integers(0, 5))
def test_a_code_does_not_depend_on_how_deep_a_cell_was_read(depth: float, seed: int) -> None:
    """All values of a cell twice as high: the same cell."""
    x = cells(60, 20, seed)
    encoder = projection.fit(x, 0)
    np.testing.assert_allclose(codes(encoder, x * np.float32(depth)), codes(encoder, x), rtol=1e-3, atol=1e-4)


def scaled_alike(x: sparse.csr_matrix) -> np.ndarray:
    dense = x.toarray().astype(np.float64)
    lengths = np.linalg.norm(dense, axis=1, keepdims=True)
    return dense * lengths.mean() / lengths


@pytest.mark.parametrize(("n", "p"), [(200, 80), (60, 20), (30, 90)])
def test_codes_are_scikit_learns_components_of_cells_of_one_length(n: int, p: int) -> None:
    """A half of features divided by their softened standard deviations, a half of features as they are."""
    x = cells(n, p)
    encoder = projection.fit(x, 0)
    found, even = codes(encoder, x), scaled_alike(x)
    deviation = even.std(axis=0)
    half = min(50, n - 1, p - 1)
    assert encoder.size == found.shape[1] == 2 * half
    for block, values in enumerate((even / (deviation + np.median(deviation)), even)):
        expected = PCA(half, svd_solver="full").fit_transform(values)
        sure = slice(0, 10)  # later ones of so few cells differ too little from each other to be told apart
        mine = found[:, block * half : (block + 1) * half]
        np.testing.assert_allclose(np.abs(mine[:, sure]), np.abs(expected[:, sure]), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose((mine**2).sum(), (expected**2).sum(), rtol=1e-3)


@pytest.mark.parametrize("p", [1, 2, 5])
def test_fewer_features_than_components_are_enough(p: int) -> None:
    x = cells(40, p)
    encoder = projection.fit(x, 0)
    assert encoder.size == 2 * max(1, p - 1)
    assert np.isfinite(codes(encoder, x)).all()


@pytest.mark.parametrize("x", [np.ones((60, 80)), np.zeros((60, 80)), np.ones((60, 3)), np.ones((1, 5))])
def test_cells_that_are_all_alike_have_one_code(x: np.ndarray) -> None:
    """There is nothing to find in them; and nothing to stop for."""
    sparse_x = sparse.csr_matrix(x.astype(np.float32))
    assert np.ptp(codes(projection.fit(sparse_x, 0), sparse_x), axis=0).max() == 0


def test_a_cell_without_a_value_has_a_code_and_changes_nobody_s_by_much() -> None:
    x = cells(200, 40)
    with_empty = sparse.vstack([x, sparse.csr_matrix((1, 40), dtype=np.float32)], format="csr")
    found = codes(projection.fit(with_empty, 0), with_empty)
    assert np.isfinite(found).all()


def test_a_feature_that_hardly_varies_is_not_blown_up() -> None:
    """Divided by its own standard deviation alone, rounding in a constant feature would be a component."""
    x = cells(200, 40).toarray()
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x = np.hstack([x, np.full((200, 1), 1.0), np.random.default_rng(0).normal(1, 1e-4, (200, 1))]).astype(np.float32)
    encoder = projection.fit(sparse.csr_matrix(x), 0)
    weight = encoder.weight.numpy()
    assert np.abs(weight[-2:]).max() < np.abs(weight[:-2]).max()
    part = codes(encoder, sparse.csr_matrix(x)).std(axis=0)[:10]
    quiet = (x[:, -1:] * weight[-1:] * float(encoder.length) / np.linalg.norm(x, axis=1, keepdims=True)).std(axis=0)
    assert (quiet[:10] < 0.1 * part).all()


def test_at_most_so_many_cells_are_used_and_all_are_projected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "MOST_CELLS", 70)
    x = cells(300, 30)
    encoder = projection.fit(x, 0)
    chosen = projection.sample(300, 70, 0)
    monkeypatch.setattr(projection, "MOST_CELLS", 10**6)
    np.testing.assert_allclose(codes(encoder, x), codes(projection.fit(x[chosen], 0), x), atol=1e-4)


# --- the heads ---------------------------------------------------------------------------------------------------------


def clusters(n_types: int, n: int = 40, size: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Codes around a point for each type, near enough to be confused."""
    random = np.random.default_rng(seed)
    y = np.repeat(np.arange(n_types), n)
    return (random.normal(0, 1, (n_types, size))[y] + random.normal(0, 1, (len(y), size))).astype(np.float32), y


@pytest.mark.parametrize("n_types", [2, 3, 7])
@pytest.mark.parametrize("size", [2, 12, 100])
def test_heads_are_the_mean_of_scikit_learns_softmax_regressions(n_types: int, size: int) -> None:
    of_cells, y = clusters(n_types, size=size)
    weights = np.random.default_rng(0).uniform(0.1, 1, len(y))
    head = projection.fit_heads(of_cells, y, weights, n_types)
    expected = np.zeros((len(y), n_types))
    for view in VIEWS:
        seen = of_cells[:, columns(view, size)].astype(np.float64)
        model = LogisticRegression(C=1.0, max_iter=300).fit(seen, y, sample_weight=weights)
        expected += model.predict_proba(seen) / len(VIEWS)
    found = decode(head, of_cells, CPU)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("taught", [[0], [0, 2], [1, 2, 4]])
def test_a_type_never_taught_gets_next_to_nothing(taught: list[int]) -> None:
    of_cells, y = clusters(len(taught))
    head = projection.fit_heads(of_cells, np.array(taught)[y], np.ones(len(y)), 5)
    probabilities = decode(head, of_cells * 3, CPU)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert np.delete(probabilities, taught, axis=1).max() < 1e-6


def test_a_cell_of_next_to_no_weight_teaches_next_to_nothing() -> None:
    of_cells, y = clusters(2)
    wrong = np.concatenate([of_cells, of_cells]), np.concatenate([y, 1 - y])
    weights = np.repeat([1.0, 1e-9], len(y))
    alone = projection.fit_heads(of_cells, y, np.ones(len(y)), 2)
    with_others = projection.fit_heads(*wrong, weights, 2)
    np.testing.assert_allclose(decode(with_others, of_cells, CPU), decode(alone, of_cells, CPU), atol=1e-3)


# --- translations ------------------------------------------------------------------------------------------------------


def means(y: np.ndarray, of_cells: np.ndarray, n_types: int = 3) -> tuple[np.ndarray, np.ndarray]:
    return projection.type_means(of_cells, np.eye(n_types)[y])


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
    b = projection.translation(means(mine, centres[mine] + shift), means(theirs, centres[theirs]))
    common = sum(n for n, m in zip(own, others, strict=True) if m > 0)
    np.testing.assert_allclose(b, -shift * common / (common + projection.SHRINKAGE), atol=1e-6)


def test_a_batch_with_no_type_in_common_is_not_moved() -> None:
    """Nothing tells where it should lie."""
    mine, theirs = np.repeat([0, 1], 50), np.repeat(2, 50)
    of_cells = np.random.default_rng(0).normal(0, 3, (100, 6))
    assert not projection.translation(means(mine, of_cells), means(theirs, of_cells[:50])).any()


@pytest.mark.parametrize(("n", "share"), [(1, 1 / 21), (20, 0.5), (980, 0.98)])
def test_a_batch_of_few_cells_is_moved_less(n: int, share: float) -> None:
    """Their mean says little."""
    b = projection.translation(means(np.zeros(n, int), np.ones((n, 2))), means(np.zeros(9, int), np.zeros((9, 2))))
    np.testing.assert_allclose(b, -share)


def test_an_adapter_is_what_it_was_made_of() -> None:
    x, b = cells(50, 10), np.arange(18.0)
    encoder = projection.fit(x, 0)
    model = Annotator(encoder, training.LinearHeads(18, 2), projection.as_adapter(b))
    np.testing.assert_allclose(encode(model, x, CPU), codes(encoder, x) + b, rtol=1e-5, atol=1e-5)


def test_an_intermediate_s_shift_is_taken_out(tmp_path: Path) -> None:
    """The same types of two batches lie nearer to each other in the adapted codes than in the bare ones."""
    data = {"a": {"B": 200, "T": 40}, "b": {"B": 40, "T": 200}, "c": {"B": 10, "T": 10}}
    adata = simulated(data, shift=0.8)
    reference = learn(*prepare_simulated(tmp_path, adata, SOURCE_DATASET_NAME="a", METHOD="default"))
    a, b = reference.batches["a"], reference.batches["b"]
    adapted = training.codes_of(reference, "b", np.arange(len(b.y)))
    for k in range(2):
        there = a.codes[a.y == k].mean(axis=0)
        bare, moved = (np.linalg.norm(of_b[b.y == k].mean(axis=0) - there) for of_b in (b.codes, adapted))
        assert moved < bare


# --- moving a target ---------------------------------------------------------------------------------------------------

MANY = {"a": {"B": 150, "T": 150, "NK": 100}, "b": {"B": 150, "T": 150, "NK": 100}}


def learned(folder: Path, data: Any, **parameters: Any) -> Learned:
    values = {"SOURCE_DATASET_NAME": "a", "METHOD": "default"} | parameters
    prepared, plan, settings = prepare_simulated(folder, data, **values)
    reference = learn(prepared, plan, settings)
    x = prepared[(prepared.obs["batch"] == "c").to_numpy()].X
    return reference.model, sparse.csr_matrix(x), known_codes(reference), settings


def moved(shared: Annotator, x: sparse.csr_matrix, known: KnownCodes, settings: Settings, shift: Any = 0) -> np.ndarray:
    """By how much `move` moves the target whose codes were shifted."""
    annotated = annotate(shared, x, known, settings)
    annotated.codes[BEFORE] = (annotated.codes[BEFORE] + shift).astype(np.float32)
    move(annotated, x, known, settings)
    assert annotated.model.adapter is not None
    assert [point["epoch"] for point in annotated.curves] == [1, 2, 3, 4, 5]
    return annotated.model.adapter.b.numpy()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    adata = simulated(MANY | {"c": {"B": 150, "T": 150, "NK": 100}}, shift=0.1)
    return learned(tmp_path_factory.mktemp("many"), adata)


@pytest.mark.parametrize("seed", range(5))
def test_a_shifted_target_is_brought_back(many: Learned, seed: int) -> None:
    known = many[2]
    spread = np.sqrt(known.codes.var(axis=0).sum())
    direction = np.random.default_rng(seed).normal(0, known.codes.std(axis=0))
    shift = 0.5 * spread * direction / np.linalg.norm(direction)
    back = moved(*many, shift) - moved(*many)
    assert np.linalg.norm(back + shift) < 0.15 * np.linalg.norm(shift)


def test_a_target_that_the_shift_makes_wrong_is_right_after_it(many: Learned) -> None:
    shared, x, known, settings = many
    right = annotate(shared, x, known, settings).stages[BEFORE].raw
    of_type = projection.type_means(known.codes, np.eye(3)[known.y])[0]
    shift = 0.6 * (of_type[0] - of_type[1])
    annotated = annotate(shared, x, known, settings)
    bare = annotated.codes[BEFORE] + shift.astype(np.float32)
    before = np.array(known.classes)[decode(shared.head, bare, CPU).argmax(axis=1)]
    b = moved(*many, shift)
    after = np.array(known.classes)[decode(shared.head, (bare + b).astype(np.float32), CPU).argmax(axis=1)]
    assert (before == right).mean() < 0.95, "the case shows nothing: the shift does no harm"
    assert (after == right).mean() > 0.99


@pytest.mark.parametrize("composition", [{"B": 150}, {"B": 290, "NK": 10}, {"T": 20, "B": 20, "NK": 260}])
def test_a_target_that_differs_in_composition_only_is_not_moved(many: Learned, composition: dict[str, int]) -> None:
    """What adversarial alignment does to it: moves B cells to where T cells are wanted."""
    shared, x, known, settings = many
    names = annotate(shared, x, known, settings).stages[BEFORE].raw
    random = np.random.default_rng(0)
    rows = np.concatenate([random.choice(np.flatnonzero(names == name), n) for name, n in composition.items()])
    spread = np.sqrt(known.codes.var(axis=0).sum())
    assert np.linalg.norm(moved(shared, x[rows], known, settings)) < 0.2 * spread
    bare = annotate(shared, x[rows], known, settings)
    move(bare, x[rows], known, settings)
    assert (bare.stages[ALIGNED].raw == bare.stages[BEFORE].raw).mean() > 0.99


def test_codes_that_are_all_one_are_moved_by_nothing(many: Learned) -> None:
    """Nothing to divide by either."""
    shared, x, known, settings = many
    known = replace(known, codes=np.zeros_like(known.codes))
    annotated = annotate(shared, x, known, settings)
    move(annotated, x, known, settings)
    assert "moved by 0.00 of" in annotated.notes[-1]


# --- whether to align --------------------------------------------------------------------------------------------------


def evidence(folder: Path, shift: float, **parameters: Any) -> tuple[str, str]:
    """What left-out batches of so strong a shift say."""
    names = ["a", "b", "d", "e"]
    types = {"B": 60, "T": 60, "NK": 60, "Mono": 60}
    adata = simulated(dict.fromkeys([*names, "c"], types), n_genes=20, seed=1, shift=shift)
    prepared, plan, settings = prepare_simulated(folder, adata, SOURCE_DATASET_NAME="a", METHOD="default", **parameters)
    reference = learn(prepared, plan, settings)
    return best_way(of_all_ways(leave_batches_out(reference), settings, len(reference.batches)))


def test_shifted_left_out_batches_ask_for_alignment(tmp_path: Path) -> None:
    way, why = evidence(tmp_path, 1.2)
    assert (way, "annotated better after alignment" in why) == (ADAPTED, True)


def test_left_out_batches_annotated_without_error_ask_for_none(tmp_path: Path) -> None:
    way, why = evidence(tmp_path, 0.0)
    assert (way, "no better after alignment" in why) == (SHARED, True)


def whole(shared: Annotator, x: sparse.csr_matrix, known: KnownCodes, settings: Settings) -> Annotated:
    from jind_nb.model.alignment import align

    annotated = annotate(shared, x, known, settings)
    align(annotated, x, known, settings)
    return annotated


@pytest.mark.parametrize(("align", "aligned"), [(None, False), (True, True), (False, False)])
def test_the_target_is_aligned_where_left_out_batches_or_the_user_ask_for_it(
    many: Learned, align: bool | None, aligned: bool
) -> None:
    """Left-out batches: `known.way`. And the reason is told either way."""
    shared, x, known, settings = many
    settings = replace(settings, align=align is not False, always_aligns=align is True)
    for way, expected in ((SHARED, aligned), (ADAPTED, align is not False)):
        annotated = whole(shared, x, replace(known, way=way, why="A reason"), settings)
        assert (ALIGNED in annotated.stages) is expected
        assert annotated.way == (ADAPTED if expected else SHARED)
        assert ("A reason." in annotated.notes) is (align is None)
        assert annotated.notes


# --- reproducibility ---------------------------------------------------------------------------------------------------

ONE_RUN = """
import sys, hashlib, pathlib
import numpy as np
from tests.model.test_default import learned, whole
from tests.helpers.simulated import THREE_BATCHES, simulated
annotated = whole(*learned(pathlib.Path(sys.argv[1]), simulated(THREE_BATCHES), ALIGN=True))
print(hashlib.sha256(b"".join(p.probabilities.tobytes() for p in annotated.stages.values())).hexdigest())
"""


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


@pytest.mark.parametrize("n_genes", [40, 60])
def test_the_seed_matters_only_to_which_cells_are_held_out(
    tmp_path: Path, n_genes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And above 50 features, to the last digits of the components. (And of more than 20,000 cells, to which are used.)"""
    hold_out = training.hold_out
    monkeypatch.setattr(training, "hold_out", lambda y, share, seed: hold_out(y, share, 0))
    probabilities, weights = [], []
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        values = {"SOURCE_DATASET_NAME": "a", "METHOD": "default", "SEED": seed, "ALIGN": True}
        prepared, plan, settings = prepare_simulated(tmp_path / str(seed), simulated(THREE_BATCHES, n_genes), **values)
        reference = learn(prepared, plan, settings)
        x = sparse.csr_matrix(prepared[(prepared.obs["batch"] == "c").to_numpy()].X)
        annotated = whole(reference.model, x, known_codes(reference), settings)
        probabilities.append(annotated.stages[ALIGNED].probabilities)
        weights.append(every_weight(reference))
    if n_genes <= projection.COMPONENTS:
        np.testing.assert_array_equal(*probabilities)
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    else:
        np.testing.assert_allclose(*probabilities, atol=1e-3)


# --- the target's own neighbourhoods -------------------------------------------------------------------------------------


def test_a_cell_among_others_of_a_type_is_taken_for_one_of_them() -> None:
    """A batch's own clusters say what its shift against the annotated batches hides."""
    random = np.random.default_rng(0)
    codes = np.concatenate([random.normal([5, 0], 0.5, (50, 2)), random.normal([0, 5], 0.5, (50, 2))])
    own = np.repeat([[0.9, 0.1], [0.1, 0.9]], 50, axis=0)
    own[3] = [0.4, 0.6]
    found = projection.with_neighbours(own, own, projection.neighbours(codes, codes, seed=0))
    assert found[3].argmax() == 0
    assert (np.delete(found, 3, axis=0).argmax(axis=1) == np.delete(own, 3, axis=0).argmax(axis=1)).all()
    np.testing.assert_allclose(found.sum(axis=1), 1)


@quick
@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_the_nearest_cells_are_those_of_scikit_learn(n: int, m: int, k: int, seed: int) -> None:
    from sklearn.neighbors import NearestNeighbors

    random = np.random.default_rng(seed)
    codes, others = random.normal(size=(n, 5)), random.normal(size=(m, 5))
    distances, _ = (
        NearestNeighbors(n_neighbors=min(k, m), metric="cosine", algorithm="brute").fit(others).kneighbors(codes)
    )
    positions, cosines = projection.nearest(codes, others, k)
    np.testing.assert_allclose(1 - cosines, distances, atol=1e-5)
    lengths = np.linalg.norm(codes, axis=1, keepdims=True) * np.linalg.norm(others[positions], axis=2)
    np.testing.assert_allclose((codes[:, None] * others[positions]).sum(axis=2) / lengths, cosines, atol=1e-5)


def test_a_cell_of_zeros_is_like_no_other() -> None:
    """An empty cell has no direction."""
    assert projection.nearest(np.zeros((1, 3)), np.eye(3), 2)[1].tolist() == [[0, 0]]


def test_neighbours_in_blocks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = np.random.default_rng(0).normal(size=(50, 4))
    whole = projection.nearest(codes, codes, 7)
    monkeypatch.setattr(projection, "CELLS_AT_ONCE", 3)
    np.testing.assert_array_equal(projection.nearest(codes, codes, 7)[0], whole[0])


@pytest.mark.parametrize("n", [6, 20, 40])
def test_the_only_cell_of_its_type_in_a_small_target_keeps_its_answer(n: int) -> None:
    """Sixteen neighbours of twenty cells are nearly all others' types."""
    codes, own = np.repeat([[1.0, 0.0]], n, axis=0), np.repeat([[0.9, 0.1]], n, axis=0)
    codes[0], own[0] = [0.0, 1.0], [0.2, 0.8]
    found = projection.with_neighbours(own, own, projection.neighbours(codes, codes, 0))
    assert found.argmax(axis=1).tolist() == [1] + [0] * (n - 1)


@given(st.integers(1, 400))
def test_more_cells_never_have_fewer_neighbours_up_to_sixteen(n: int) -> None:
    counts = [projection.neighbours(np.ones((m, 2)), np.ones((m, 2)), 0).shape[1] for m in (n, n + 1)]
    assert counts[0] <= counts[1] <= projection.NEIGHBOURS
    assert (counts[0] == projection.NEIGHBOURS) == (n >= 256)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_cells_have_few_neighbours(n: int) -> None:
    """A file of one cell is annotated too."""
    own = np.full((n, 3), 1 / 3)
    np.testing.assert_allclose(
        projection.with_neighbours(own, own, projection.neighbours(np.ones((n, 4)), np.ones((n, 4)), 0)), own
    )


def test_neighbours_are_looked_for_among_some_of_many_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million cells are not compared with a million."""
    monkeypatch.setattr(projection, "MOST_NEIGHBOURS", 40)
    codes = np.repeat(np.eye(2), 500, axis=0)
    own = np.repeat([[0.8, 0.2], [0.3, 0.7]], 500, axis=0)
    np.testing.assert_allclose(projection.with_neighbours(own, own, projection.neighbours(codes, codes, 0)), own)


@pytest.mark.parametrize("blocks", [1000, 7])
def test_components_of_many_cells_are_those_of_scikit_learn(blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the covariance where there are more values than pairs of features; else by the values."""
    monkeypatch.setattr(projection, "DENSE_CELLS", blocks)
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 80)) * np.linspace(3, 0.5, 80) * (random.random((300, 80)) < 0.7)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    sparse_x = sparse.csr_matrix(x)
    assert x.shape[1] ** 2 < 2 * sparse_x.nnz
    encoder = projection.fit(sparse_x.astype(np.float32), seed=0)
    with torch.no_grad():
        codes = encoder(torch.from_numpy(x.astype(np.float32))).numpy()[:, 50:]
    expected = PCA(50, svd_solver="full").fit_transform(x)
    np.testing.assert_allclose(np.abs(codes[:, :20]), np.abs(expected[:, :20]), atol=2e-4)


@pytest.mark.parametrize("p", [30, 80, 400])
def test_coordinates_are_those_of_scikit_learn(p: int) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(300, p)) * np.linspace(3, 0.5, p) * (random.random((300, p)) < 0.7)
    found, expected = (
        projection.coordinates(sparse.csr_matrix(x), 10, seed=0),
        PCA(10, svd_solver="full").fit_transform(x),
    )
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-6)


def test_cells_that_are_all_alike_are_one_point() -> None:
    """A picture of them is dull, and no error."""
    assert not projection.coordinates(sparse.csr_matrix(np.tile([1.0, 0.0, 2.5], (70, 30))), 10, seed=0).any()
