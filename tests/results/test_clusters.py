"""Clusters of the target and their majorities: beside the answer for each cell, and never in its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from jind_nb.core.labels import UNASSIGNED
from jind_nb.data.scale import to_log_counts
from jind_nb.results import clusters


@pytest.fixture(scope="module")
def blood(shared_file: Callable[[str], Path]) -> ad.AnnData:
    """One batch of real blood cells, log-normalised."""
    adata = ad.read_h5ad(shared_file("pbmc_10x_symphony"))
    adata = adata[adata.obs["batch"] == "3pv2"].copy()
    adata.X = to_log_counts(sparse.csr_matrix(adata.X))
    return adata


def test_clusters_are_kinds_of_cells(blood: ad.AnnData) -> None:
    """Clusters that cut across cell types would say nothing about the labels."""
    found = clusters.leiden(blood.X, 1.0, 0)
    broad = blood.obs["cell_type_broad"].to_numpy()
    assert adjusted_rand_score(broad, found) > 0.4
    majority, _ = clusters.majorities(found, broad)
    assert (majority == broad).mean() > 0.9
    sizes = pd.Series(found).value_counts()
    assert list(sizes.sort_index(key=lambda names: names.astype(int))) == sorted(sizes, reverse=True)


def test_the_same_seed_gives_the_same_clusters(blood: ad.AnnData) -> None:
    np.testing.assert_array_equal(clusters.leiden(blood.X, 1.0, 3), clusters.leiden(blood.X, 1.0, 3))


def test_a_higher_resolution_gives_more_clusters(blood: ad.AnnData) -> None:
    coarse, fine = (len(set(clusters.leiden(blood.X, resolution, 0))) for resolution in (0.2, 3.0))
    assert coarse < fine


def test_cells_beyond_the_bound_join_their_neighbours(blood: ad.AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target of a million cells must not take hours, and every cell has a cluster."""
    whole = clusters.leiden(blood.X, 0.5, 0)
    monkeypatch.setattr(clusters, "MOST_CELLS", 200)
    bounded = clusters.leiden(blood.X, 0.5, 0)
    assert len(bounded) == blood.n_obs > 400
    assert adjusted_rand_score(whole, bounded) > 0.5


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_few_cells_have_clusters_too(n: int) -> None:
    x = sparse.random(n, 30, density=0.5, format="csr", dtype=np.float32, random_state=0)
    assert set(clusters.leiden(x, 1.0, 0)) >= {"0"}
    assert len(clusters.leiden(x, 1.0, 0)) == n


def test_equal_cells_are_one_cluster() -> None:
    x = sparse.csr_matrix(np.ones((40, 10), dtype=np.float32))
    assert len(clusters.leiden(x, 1.0, 0)) == 40


def test_a_cluster_nothing_fits_is_not_named_after_the_few_that_something_does() -> None:
    cluster = np.array(["0"] * 5 + ["1"] * 2, dtype=object)
    answers = np.array([UNASSIGNED] * 3 + ["B"] * 2 + ["T", UNASSIGNED], dtype=object)
    majority, share = clusters.majorities(cluster, answers)
    assert majority.tolist() == [UNASSIGNED] * 5 + ["T"] * 2
    assert share.tolist() == [0.6] * 5 + [0.5] * 2


@given(st.lists(st.tuples(st.sampled_from("012"), st.sampled_from(["B", "T", UNASSIGNED])), min_size=1, max_size=40))
def test_a_majority_is_the_most_frequent_answer_and_its_share_is_right(cells: list[tuple[str, str]]) -> None:
    cluster, answers = (np.array(values, dtype=object) for values in zip(*cells, strict=True))
    majority, share = clusters.majorities(cluster, answers)
    for name in set(cluster):
        here = cluster == name
        counts = pd.Series(answers[here]).value_counts()
        assert len(set(majority[here])) == 1
        assert counts[majority[here][0]] == counts.max()
        assert share[here] == pytest.approx(counts.max() / here.sum())


def test_the_table_says_what_a_reader_asks() -> None:
    found = clusters.Clusters(
        np.array(["0", "0", "0", "1"], dtype=object),
        np.array(["B", "B", "B", "T"], dtype=object),
        np.array([2 / 3, 2 / 3, 2 / 3, 1.0]),
    )
    answers = np.array(["B", "B", UNASSIGNED, "T"], dtype=object)
    table = clusters.cluster_table(found, answers, np.array(["B", None, "T", None], dtype=object))
    assert table.loc["0"].tolist() == [3, "B", 66.7, UNASSIGNED, 33.3, 33.3, 50.0]
    assert table.loc["1", "majority"] == "T"
    assert pd.isna(table.loc["1", "majority is the label %"])
