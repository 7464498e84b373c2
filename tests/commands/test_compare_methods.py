"""The usual tools: each learns from the annotated cells alone, and gives probabilities in the columns of our types."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

from jind_nb.commands.compare import measure, methods
from jind_nb.commands.compare.methods import BASELINES, BaselineInput
from jind_nb.core.parameters import load_parameters
from jind_nb.data import cells as data_cells
from jind_nb.data import prepare, roles
from jind_nb.data.scale import to_log_counts
from tests.conftest import skip
from tests.helpers.simulated import THREE_BATCHES, simulated

CHEAP = ["logistic regression", "linear SVM", "random labels", "majority"]


def task(n_rare: int = 20) -> tuple[BaselineInput, np.ndarray]:
    """Three types in two annotated batches and a target, plain to tell apart; and the target's types."""
    adata = simulated(
        {"a": {"B": 40, "T": 40, "NK": n_rare}, "b": {"B": 30, "T": 30}, "c": {"B": 20, "T": 20, "NK": 9}}
    )
    x, types = to_log_counts(adata.X), ["B", "NK", "T"]
    y = np.array([types.index(name) for name in adata.obs["celltype"]])
    is_target = (adata.obs["batch"] == "c").to_numpy()
    counts = sparse.vstack([adata.X[~is_target], adata.X[is_target]], format="csr")
    batch = adata.obs["batch"].astype(object).to_numpy()[~is_target]
    return BaselineInput(x[~is_target], y[~is_target], batch, x[is_target], "c", types, 0, counts), y[is_target]


def run(method: str, of: BaselineInput) -> np.ndarray:
    """A baseline's probabilities; skips where its package is missing."""
    if method == "kNN after Harmony" and importlib.util.find_spec("harmonypy") is None:
        skip("harmonypy is not installed")
    # scvi-tools brings thirty packages, which is too much for every `make test`; where it is installed, it is tested.
    if method == "scANVI" and importlib.util.find_spec("scvi") is None:
        pytest.skip("scvi-tools, of the extra `compare`, is not installed")
    if method == "CellTypist":
        try:
            methods.celltypist_python()
        except ModuleNotFoundError as reason:
            skip(str(reason))
    return BASELINES[method](of)


@pytest.mark.slow
@pytest.mark.parametrize("method", [*CHEAP[:2], "kNN after Harmony"])
def test_types_that_are_plain_to_see_are_found(method: str) -> None:
    """A tool fed wrongly (columns mixed up, no normalisation) would lose to ours for no merit of ours."""
    given, truth = task()
    probabilities = run(method, given)
    assert probabilities.shape == (len(truth), 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert (probabilities.argmax(axis=1) == truth).mean() > 0.95


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what scvi-tools, lightning and pyro say of each other
@pytest.mark.parametrize("method", ["CellTypist", "scANVI"])
def test_heavy_tools_find_types_that_are_plain_to_see(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "MOST_STEPS", 60)
    given, truth = task()
    probabilities = run(method, given)
    assert probabilities.shape == (len(truth), 3)
    assert (probabilities.argmax(axis=1) == truth).mean() > 0.95


@pytest.mark.parametrize("method", CHEAP)
def test_a_type_that_no_cell_teaches_is_never_told(method: str) -> None:
    """A column that belongs to another type would turn every answer into a wrong one."""
    given, _ = task()
    without = replace(given, classes=["A", *given.classes], y=given.y + 1)
    probabilities = run(method, without)
    assert probabilities.shape[1] == 4
    assert (probabilities[:, 0] == 0).all()
    np.testing.assert_array_equal(probabilities[:, 1:], run(method, given))


def test_a_type_of_three_cells_does_not_stop_the_svm() -> None:
    """MIN_CELL_TYPE_POPULATION may be 1; five folds need a cell of each type."""
    given, truth = task(n_rare=3)
    assert (run("linear SVM", given).argmax(axis=1) == truth).mean() > 0.8


def test_random_labels_depend_on_the_seed_and_nothing_else_does() -> None:
    """Controls that changed from run to run could not be compared; seeds that did nothing would be run for nothing."""
    given, _ = task()
    assert (run("random labels", given) != run("random labels", replace(given, seed=1))).any()
    for method in ("logistic regression", "linear SVM", "majority"):
        assert method not in measure.SEEDED
        np.testing.assert_array_equal(run(method, given), run(method, replace(given, seed=1)))


def test_majority_gives_every_cell_the_shares_of_the_annotated_cells() -> None:
    given, _ = task()
    np.testing.assert_allclose(run("majority", given)[0], np.bincount(given.y) / len(given.y))


def test_scanvi_refuses_values_without_counts() -> None:
    """z-scores taken for counts would give a number that means nothing."""
    given, _ = task()
    pytest.importorskip("scvi", reason="the extra `compare` is not installed")
    with pytest.raises(ValueError, match="needs counts"):
        BASELINES["scANVI"](replace(given, counts=None))


def test_celltypist_offline_is_missing_not_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the internet the other methods must still be compared, and the reason be told."""
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: retrying\nERROR: no route to the index\n")
    monkeypatch.setenv("JIND_NB_CACHE", str(tmp_path))
    monkeypatch.setattr("venv.create", lambda *a, **k: None)
    monkeypatch.setattr("subprocess.run", lambda *a, **k: failed)
    with pytest.raises(ModuleNotFoundError, match=r"celltypist==1\.7\.1 .* no route to the index"):
        methods.celltypist_python()


def test_scanvi_gets_the_files_counts_back(shared_file: Callable[[str], Path], write_parameters) -> None:
    """Normalised values in place of counts would handicap scANVI; rows of another cell would ruin it."""
    adata = ad.read_h5ad(shared_file("pbmc_10x_symphony"))
    file = write_parameters(adata, TARGET_DATASET_NAME="3pv1", NUM_FEATURES=300)
    parameters = load_parameters(file)
    cells = data_cells.read_cells(parameters)
    plan = roles.make_plan(parameters, cells)
    prepared = prepare.prepare(parameters, cells, plan)
    counts = measure.counts_of_features(parameters, prepared)
    assert counts is not None
    of_target = (prepared.obs["batch"] == "3pv1").to_numpy()
    rows = np.concatenate([prepared.obs["row"][~of_target], prepared.obs["row"][of_target]])
    assert (counts != adata[rows, prepared.var_names].X).nnz == 0


def test_other_tools_get_the_values_that_they_are_made_for(
    write_parameters: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lost otherwise: a fair comparison, as CellTypist and the rest ask for log1p of counts per 10,000."""
    given = []

    def kept(values: BaselineInput) -> np.ndarray:
        given.append(values)
        return np.ones((values.target.shape[0], len(values.classes)))

    monkeypatch.setitem(BASELINES, "majority", kept)
    parameters = load_parameters(write_parameters(simulated(THREE_BATCHES), TARGET_DATASET_NAME="c"))
    measure.annotate(parameters, "majority")
    np.testing.assert_allclose(np.expm1(given[0].all_cells.toarray()).sum(axis=1), 10_000, rtol=1e-3)


def test_scanvi_gets_whole_numbers_where_there_are_no_counts(
    shared_file: Callable[[str], Path], write_parameters
) -> None:
    """RPKM values are no counts: each cell's 10,000 are shared out instead, rounded."""
    file = write_parameters(ad.read_h5ad(shared_file("pancreas_wang_xin_baron")), TARGET_DATASET_NAME="Wang")
    parameters = load_parameters(file)
    cells = data_cells.read_cells(parameters)
    plan = roles.make_plan(parameters, cells)
    prepared = measure.per_10_000(prepare.prepare(parameters, cells, plan), plan)
    counts = measure.counts_of_features(parameters, prepared)
    assert counts is not None
    assert (counts.data == np.rint(counts.data)).all()
    assert counts.data.min() >= 0
    n_target = int((prepared.obs["batch"] == "Wang").sum())
    totals = np.asarray(counts[-n_target:].sum(axis=1)).ravel()
    assert abs(np.median(totals) - 10_000) < 100
