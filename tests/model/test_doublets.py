"""Doublets: a droplet with two cells must not pass for a cell of one type, as far as Scrublet can tell."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import roc_auc_score

import jind_nb as jn
from jind_nb.errors import InputError
from jind_nb.model.doublets import find_doublets
from tests.helpers.simulated import simulated


def with_pairs(n: int, pairs: int) -> sparse.csr_matrix:
    """Counts of n cells of three types, and below them sums of a B and a T cell."""
    adata = simulated({"a": {"B": n // 3, "T": n // 3, "NK": n - 2 * (n // 3)}}, n_genes=120)
    types, x = adata.obs["celltype"].to_numpy(), sparse.csr_matrix(adata.X)
    b, t = np.flatnonzero(types == "B")[:pairs], np.flatnonzero(types == "T")[:pairs]
    return sparse.vstack([x, x[b] + x[t]], format="csr").astype(np.float32)


def test_sums_of_two_cells_score_higher_than_cells() -> None:
    x = with_pairs(600, 40).log1p()
    doublets, note = find_doublets(x, seed=0)
    is_pair = np.arange(x.shape[0]) >= 600
    assert roc_auc_score(is_pair, doublets.score) > 0.95
    assert doublets.called[is_pair].mean() > 0.2
    assert doublets.called[~is_pair].mean() < 0.02
    assert f"{doublets.called.sum()} of 640 cells" in note


@pytest.mark.parametrize(("n", "genes"), [(60, 120), (200, 10)])
def test_few_cells_or_features_are_told_and_nobody_is_called(n: int, genes: int) -> None:
    doublets, note = find_doublets(with_pairs(n, 1)[:, :genes].log1p(), seed=0)
    assert not doublets.called.any()
    assert not doublets.score.any()
    assert "too few" in note


def test_a_cell_without_values_is_no_doublet() -> None:
    x = with_pairs(150, 5).tolil()
    x[3] = 0
    assert find_doublets(sparse.csr_matrix(x).log1p(), seed=0)[0].score[3] == 0


def test_doublets_stay_unassigned_with_the_reason_and_their_score() -> None:
    """Who sets DOUBLETS must find both in the annotated data, whatever order the cells came in."""
    types = {"B": 100, "T": 100, "NK": 80}
    adata = simulated({"a": types, "b": types, "c": types}, n_genes=240)
    of_target = np.flatnonzero((adata.obs["batch"] == "c").to_numpy())
    own = adata.obs["celltype"].to_numpy()[of_target]
    b, t = of_target[own == "B"][:25], of_target[own == "T"][:25]
    x = adata.X.toarray()
    x[b] += x[t]
    adata.X = sparse.csr_matrix(x)
    adata.obs["pair"] = np.isin(np.arange(adata.n_obs), b)
    asked = {"batch_key": "batch", "labels_key": "celltype", "target": "c", "min_cell_type_population": 5}
    model = jn.annotate(adata, **asked, doublets=True)
    called = (adata.obs["jind_reason"] == "doublet").to_numpy()
    score = adata.obs["jind_doublet_score"].to_numpy()[of_target]
    assert roc_auc_score(adata.obs["pair"].to_numpy()[of_target], score) > 0.95
    assert (
        called[adata.obs["pair"]].mean() > 0.1 > 10 * called[of_target][~adata.obs["pair"].to_numpy()[of_target]].mean()
    )
    assert (adata.obs["jind_prediction"][called] == "Unassigned").all()
    assert adata.obs["jind_doublet_score"].notna().sum() == len(of_target)
    new = adata[of_target].copy()
    model.predict(new, doublets=True, key_added="again")  # a saved model looks in other data too
    np.testing.assert_array_equal(new.obs["again_doublet_score"], score)
    other = adata[np.random.default_rng(1).permutation(adata.n_obs)].copy()
    jn.annotate(other, **asked, doublets=True)
    assert (other.obs["jind_reason"][adata.obs_names].astype(str) == adata.obs["jind_reason"].astype(str)).all()


def test_values_that_cannot_be_added_up_are_refused() -> None:
    adata = simulated({"a": {"B": 30, "T": 30}, "c": {"B": 30, "T": 30}})
    adata.obsm["X_own"] = np.random.default_rng(0).normal(size=(adata.n_obs, 10)).astype(np.float32)
    with pytest.raises(InputError, match=r"(?i)doublets.*cannot be added up; leave"):
        jn.annotate(adata, batch_key="batch", labels_key="celltype", target="c", layer="obsm:X_own", doublets=True)
