"""Cells unlike everything annotated are shown as groups: a reader can tell a new type from debris by its markers."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from jind_nb.core.parameters import make_parameters
from jind_nb.model.predictions import Predictions
from jind_nb.results import new_groups, summary
from jind_nb.results.new_groups import Groups, find_groups, find_groups_of_file
from jind_nb.results.summary import groups_in_words
from jind_nb.results.tables import predictions_table
from jind_nb.results.target import TargetResult
from jind_nb.results.write import write_groups
from jind_nb.runs.folder import Run

NEEDED = {"PATH": "cells.h5ad", "BATCH_COL": "batch", "LABELS_COL": "celltype", "TARGET_DATASET_NAME": "t"}


def case(n_new: int, *, annotated: bool = True) -> tuple[ad.AnnData, TargetResult]:
    """60 target cells of a known type, and new ones that lack g0 and have g5; 60 annotated cells of two types."""
    rng = np.random.default_rng(0)
    n = 60 + n_new
    values = rng.poisson(0.2, size=(n + 60, 30)).astype(np.float32)
    values[:60, 0] += 5
    values[60:n, 5] += 5
    values[n:, 0] += 5
    batch = np.repeat(["t", "a"], [n, 60])
    types = np.array([None] * n + (["B", "T"] * 30 if annotated else [None] * 60), dtype=object)
    obs = pd.DataFrame({"batch": batch, "cell_type": pd.Categorical(types)}, index=[f"c{i}" for i in range(n + 60)])
    adata = ad.AnnData(sparse.csr_matrix(values), obs, var=pd.DataFrame(index=[f"g{i}" for i in range(30)]))
    unlike = np.arange(n) >= 60
    predictions = Predictions(["B", "T"], np.tile([0.9, 0.1], (n, 1)), np.array([0.5, 0.5]), unlike)
    return adata, TargetResult({"s": predictions}, np.array(obs.index[:n]), np.zeros((n, 2)), None)


def grouped(adata: ad.AnnData, result: TargetResult) -> Groups:
    found = find_groups(adata, "t", result, seed=0)
    assert found is not None
    return found


@pytest.mark.parametrize("annotated", [True, False])
def test_a_group_is_told_by_its_size_its_nearest_type_and_what_is_high_and_low(annotated: bool) -> None:
    adata, result = case(40, annotated=annotated)
    table = grouped(adata, result).table
    assert table["cells"].sum() <= 40
    first = table.iloc[0]
    assert first["nearest type"] == first["compared with"] == "B"
    assert first["higher"][0] == "g5"
    assert first["lower"][0] == "g0"


def test_a_file_says_which_group_each_cell_is_in(tmp_path: Path) -> None:
    """Who looks at a group in a program of their own needs its cells; those of an earlier run would be other ones."""
    adata, result = case(40)
    groups, run = grouped(adata, result), Run(make_parameters(NEEDED | {"OUTPUT_PATH": str(tmp_path)}))
    write_groups(groups, predictions_table(result), run)
    cells = pd.read_csv(tmp_path / "unlike_groups.csv", index_col="cellname")
    assert cells["group"].value_counts(sort=False).to_dict() == groups.table["cells"].to_dict()
    assert set(cells.index) <= set(result.cells[60:])
    write_groups(None, predictions_table(result), run)
    assert not (tmp_path / "unlike_groups.csv").exists()


def test_what_another_type_has_too_is_told_apart() -> None:
    """g6 is high in the group and in T cells: it does not tell what the group is, though its nearest type B lacks it."""
    adata, result = case(40)
    values = adata.X.toarray()
    values[40:100, 6] += 8
    adata.X = sparse.csr_matrix(values)
    result.final.probabilities[40:60] = [0.1, 0.9]
    first = grouped(adata, result).table.iloc[0]
    assert first["compared with"] == "B"
    assert first["higher"][:2] == ["g6", "g5"]
    assert first["higher than in all types"] == ["g5"]


def test_groups_are_alike_over_others_too_and_the_largest_that_has_a_marker_tells_it() -> None:
    """1 is like 2 and 2 like 3: they are one type, though the first is too poor to have a marker."""
    names = pd.Index([f"group {i}" for i in range(1, 4)], name="group")
    table = pd.DataFrame(
        {"cells": [40, 30, 20], "median features": [5, 20, 20], "median features of others": 20}, names
    )
    table["much like"] = [["group 2"], ["group 1", "group 3"], ["group 2"]]
    table["higher than in all types"] = [[], ["CD19", "MS4A1"], ["CD19"]]
    words = groups_in_words(table)
    assert (
        words == "CD19, MS4A1 (90 cells in 3 groups that are much alike, 40 of them with few features: perhaps damaged)"
    )
    all_poor = groups_in_words(table.assign(**{"median features": 5}))
    assert all_poor.endswith("all of them with few features: perhaps damaged)")


def test_page_one_tells_the_groups_after_how_many_such_cells_there_are() -> None:
    table = pd.DataFrame(
        {"assigned": [60], "parent_only": 0, "rejected": 40, "unlike": 40, "training_cells": 130}, index=["B"]
    )
    unlike = summary._doubt_of_unlike(table, np.arange(100) >= 60)
    adata, result = case(40)
    told = summary._named(unlike | summary._doubt_of_groups(grouped(adata, result).table, summary.ALL_TYPES))
    assert told[0].startswith("40 Unassigned cells are unlike all annotated cells, nearest to B (40)")
    assert told[1] == "Groups of these cells, by what is higher in them than in all types: g5 (40 cells)."


def test_a_group_that_is_nearest_to_no_type_in_particular_says_so() -> None:
    """It reads like biology, and is a guess."""
    adata, result = case(40)
    result.final.probabilities[60:81] = [0.4, 0.6]
    result.final.probabilities[81:] = [0.6, 0.4]
    final = Predictions(["B", "T", "N"], np.zeros((100, 3)), np.full(3, 0.5), result.final.unlike)
    final.probabilities[:60, 0] = 1.0
    final.probabilities[60:, :] = np.eye(3)[np.arange(40) % 3]
    three = TargetResult({"s": final}, result.cells, result.latent, None)
    assert grouped(adata, three).table["nearest type"].str.startswith("none clearly: ").all()


def test_many_cells_are_averaged_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    adata, result = case(40)
    expected = grouped(adata, result).table
    monkeypatch.setattr(new_groups, "CELLS_AT_ONCE", 7)
    pd.testing.assert_frame_equal(grouped(adata, result).table, expected)


def test_of_many_types_fewer_cells_each_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_groups, "MOST_OF_ALL_TYPES", 20)
    adata, result = case(40)
    result.final.probabilities[30:60] = [0.1, 0.9]
    _, (rows,) = of_file(adata, result, np.arange(100))
    assert (rows < 60).sum() <= 30  # ten of each of two types, and ten others


def test_page_one_names_what_is_higher_in_the_groups() -> None:
    """A reader who knows cell types knows these by their markers at once. One type in three donors is no three types, and a heap of
    damaged cells no type at all."""
    adata, result = case(40)
    groups = grouped(adata, result).table
    assert groups_in_words(groups) == "g5 (40 cells)"
    names = [f"group {i}" for i in range(1, 4)]
    three = pd.concat([groups] * 3).set_axis(pd.Index(names, name="group")).assign(cells=[40, 30, 20])
    three["much like"] = [["group 3"], [], ["group 1"]]
    three["higher than in all types"] = [["g5", "CD5, clone 2"], [], ["g5"]]
    three["median features"], three["median features of others"] = [20, 20, 9], 20
    assert groups_in_words(three) == (
        "g5, CD5, clone 2 (60 cells in 2 groups that are much alike, 20 of them with few features: perhaps damaged); "
        "no feature (30 cells: perhaps of an annotated type in another state, or damaged)"
    )


@pytest.mark.parametrize("shared", [0.0, 6.0])
def test_groups_that_differ_from_all_others_alike_are_said_to_be(shared: float) -> None:
    """Each donor's cells of one new type may be a group, and would be told as new types."""
    adata, result = case(80)
    values = adata.X.toarray()
    values[60:140, 5] = 0
    values[60:100, 10] += 5
    values[100:140, 11] += 5
    values[60:140, 12:18] += shared
    adata.X = sparse.csr_matrix(values)
    table = grouped(adata, result).table
    assert len(table) == 2
    assert list(table["much like"]) == ([["group 2"], ["group 1"]] if shared else [[], []])


def test_what_a_type_has_of_which_the_target_has_few_cells_is_not_said_to_be_higher_than_in_all() -> None:
    """Genes of dendritic cells were said to be higher in B cells than in all types, since the target has five dendritic cells."""
    adata, result = case(40)
    values = adata.X.toarray()
    values[60:100, 6] += 5
    values[100:, 6] += 5  # annotated cells; those of the target that are called B lack it
    adata.X = sparse.csr_matrix(values)
    first = grouped(adata, result).table.iloc[0]
    assert "g6" in first["higher"]
    assert first["higher than in all types"] == ["g5"]


def test_a_group_between_two_types_names_both() -> None:
    """Seven cells of one type and eleven of another are no state of either."""
    adata, result = case(40)
    result.final.probabilities[60:74] = [0.4, 0.6]
    table = grouped(adata, result).table
    counted = table["nearest type"].str.findall(r"(?:B|T) \((\d+)\)").map(lambda found: sum(map(int, found)))
    assert (counted == table["cells"]).all()
    assert table["compared with"].iloc[0] == "B"


def test_a_few_odd_cells_are_no_group() -> None:
    adata, result = case(5)
    assert find_groups(adata, "t", result, seed=0) is None


def test_a_group_is_compared_with_the_targets_own_cells_of_its_type() -> None:
    """What a protocol does to all of the target's cells would else be told as what sets the group apart."""
    adata, result = case(40)
    values = adata.X.toarray()
    values[:100, 7] += 9  # in all of the target's cells
    adata.X = sparse.csr_matrix(values)
    table = grouped(adata, result).table
    assert not any("g7" in higher for higher in table["higher"])


def of_file(adata: ad.AnnData, result: TargetResult, order: np.ndarray) -> tuple[Groups | None, list[np.ndarray]]:
    """The groups of a file whose cells are in an order, and the rows that were read for it."""
    table, x, read = predictions_table(result).iloc[order], adata.X[order], []

    def values(rows: np.ndarray) -> sparse.csr_matrix:
        read.append(rows)
        return x[rows]

    return find_groups_of_file(table, np.argsort(order), values, adata.var_names, seed=0), read


def test_a_new_file_has_the_table_of_the_run_in_whatever_order_its_cells_are() -> None:
    """Who annotates with a colleague's model needs to know what the unknown cells are no less."""
    adata, result = case(40)
    expected = grouped(adata, result)
    n = len(result.cells)
    for order in (np.arange(n), np.random.default_rng(1).permutation(n)):
        found, _ = of_file(adata, result, order)
        assert found is not None
        pd.testing.assert_frame_equal(found.table, expected.table)
        assert found.of_cells.tolist() == expected.of_cells[order].tolist()
    assert of_file(*case(5), np.arange(65)) == (None, [])  # and nothing is read for a few odd cells


def test_of_a_large_file_a_few_cells_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """predict holds no values, and a file may have millions of cells that are unlike the reference."""
    monkeypatch.setattr(new_groups, "MOST_GROUPED", 25)
    monkeypatch.setattr(new_groups, "MOST_COMPARED", 20)
    adata, result = case(40)
    found, (rows,) = of_file(adata, result, np.arange(100))
    assert (np.diff(rows) > 0).all()
    assert ((rows >= 60).sum(), (rows < 60).sum()) == (25, 20)
    assert found is not None
    assert found.table.iloc[0]["higher"][0] == "g5"
    assert found.table.iloc[0]["lower"][0] == "g0"


@pytest.mark.parametrize("n_annotated", [0, 20])
def test_a_group_whose_nearest_type_has_a_handful_of_cells_is_compared_with_more(n_annotated: int) -> None:
    """Three odd annotated cells would tell their own markers, and none would tell nothing of what the group is."""
    adata, result = case(40)
    probabilities = np.tile([0.1, 0.9], (100, 1))
    probabilities[60:] = [0.9, 0.1]
    final = Predictions(["B", "T"], probabilities, np.array([0.5, 0.5]), result.final.unlike)
    result = TargetResult({"s": final}, result.cells, result.latent, None)
    types = np.array(adata.obs["cell_type"], dtype=object)
    types[100:] = ["B"] * n_annotated + ["T"] * (60 - n_annotated)
    adata.obs["cell_type"] = pd.Categorical(types)
    table = grouped(adata, result).table
    assert set(table["compared with"]) == {"annotated B" if n_annotated else "all other cells"}
    assert table.iloc[0]["higher"][0] == "g5"
    found, (rows,) = of_file(adata, result, np.arange(100))
    assert found is not None
    assert set(found.table["compared with"]) == {"all other cells"}
    assert found.table.iloc[0]["higher"][0] == "g5"
    assert (rows < 60).any()


def test_a_file_of_new_cells_alone_has_nothing_to_compare_them_with() -> None:
    """The annotated cells' values are not in a saved model."""
    adata, result = case(40)
    new = np.arange(60, 100)
    predictions = result.final.subset(new)
    alone = TargetResult({"s": predictions}, result.cells[new], result.latent[new], None)
    found, _ = of_file(adata[new], alone, np.arange(40))
    assert found is not None
    assert found.table["higher"].tolist() == found.table["lower"].tolist() == [[]] * len(found.table)
    assert found.table["higher than in all types"].isna().all()
    assert "no type to compare with" in groups_in_words(found.table)
