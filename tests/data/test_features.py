"""Which names mean the same gene or peak; a wrong match or a missed one silently costs a user their markers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jind_nb.data import features
from jind_nb.errors import InputError

GENES = ["CD3E", "CD8A", "NKX2-1", "HLA-DRB1", "MT-CO1", "AC012345.1"]


@pytest.mark.parametrize(
    ("wanted", "names", "found"),
    [
        (["ENSG00000139618"], ["ENSG00000139618.17"], [0]),
        (["ENSG00000139618.2", "ENSG00000141510"], ["ENSG00000141510.9", "ENSG00000139618.5"], [1, 0]),
        (["ENSMUSG00000059552"], ["ENSG00000059552"], [-1]),
        (["chr1:100-200", "chrX:5-9"], ["X-5-9", "1_100_200"], [1, 0]),
        (["GL000194.1:100-200", "chrUn_KI270742v1:1-9"], ["chrUn_KI270742v1_1_9", "GL000194.1-100-200"], [1, 0]),
        (["chr1:100-200", "chr1:300-400"], ["chr1:100-201", "chr11:00-200"], [-1, -1]),
        (["TBCE", "TBCE-1"], ["TBCE.1", "TBCE"], [1, 0]),
        (["Cd3e", "Cd8a"], ["CD8A", "CD3E"], [1, 0]),
        (GENES, GENES[::-1], [5, 4, 3, 2, 1, 0]),
        (["NKX2"], ["NKX2-1"], [-1]),
    ],
)
def test_spellings_of_one_feature(wanted: list[str], names: list[str], found: list[int]) -> None:
    assert list(features.match(pd.Index(wanted), pd.Index(names))[0]) == found


def test_case_is_ignored_only_where_it_finds_more() -> None:
    """C1orf1 beside C1ORF1 may be two rows of one file; one odd spelling is no reason to mix them up."""
    human = pd.Index([f"GENE{i}" for i in range(50)])
    odd = human[:49].append(pd.Index(["gene49"]))
    assert list(np.flatnonzero(features.match(human, odd)[0] < 0)) == [49]
    found, any_case = features.match(human, pd.Index([name.lower() for name in human]))
    assert any_case
    assert list(found) == list(range(50))


@given(st.lists(st.sampled_from(["A", "A-1", "A.1", "B", "chr1:1-2", "a", "ENSG00000000001.1"]), max_size=12))
def test_keys_are_unique_and_every_feature_finds_itself(names: list[str]) -> None:
    index = features.unique_names(pd.Index(names, dtype=object))
    assert index.is_unique
    assert features.keys_of(index).is_unique
    assert list(features.match(index, index)[0]) == list(range(len(index)))


def test_repeated_names_are_numbered_and_none_is_taken_twice() -> None:
    assert list(features.unique_names(pd.Index(["A", "A", "A-1", "A"]))) == ["A", "A-2", "A-1", "A-3"]


def test_only_columns_that_could_be_names_are_tried() -> None:
    """Else every file would be matched by `chromosome`."""
    var = pd.DataFrame(
        {
            "gene_ids": [f"ENSG{i:011d}" for i in range(10)],
            "symbol": pd.Categorical([f"G{i}" for i in range(10)]),
            "chromosome": ["chr1"] * 10,
            "n_cells": range(10),
            "gaps": [None] * 8 + ["x", "y"],
        },
        index=[f"name{i}" for i in range(10)],
    )
    assert list(features.name_columns(var)) == ["", "gene_ids", "symbol"]


def test_the_index_is_kept_unless_a_column_fits_clearly_better() -> None:
    symbols, ids = pd.Index([f"G{i}" for i in range(20)]), pd.Index([f"ENSG{i:011d}" for i in range(20)])
    both = {"": symbols, "gene_ids": ids}
    assert features.choose_name_columns([both, {"": symbols, "gene_ids": ids}]) == ["", ""]
    assert features.choose_name_columns([both, {"": ids}]) == ["gene_ids", ""]
    assert features.choose_name_columns([{"": ids}, both, both]) == ["", "gene_ids", "gene_ids"]
    assert features.choose_name_columns([{"": ids}, {"": symbols}]) == ["", ""]


def test_a_feature_is_missing_only_where_ten_cells_should_have_it() -> None:
    values = np.zeros((200, 3))
    values[:100, 0] = 1
    values[:5, 1] = 1
    values[:, 2] = 1
    seen = {"a": (values[:100] != 0).sum(axis=0), "b": (values[100:] != 0).sum(axis=0)}
    missing = features.never_seen(seen, {"a": 100, "b": 100})
    assert missing["b"].tolist() == [True, False, False]
    assert missing["a"].tolist() == [False, False, False]


@pytest.mark.parametrize(("there", "outcome"), [(10, None), (8, None), (7, "warning"), (2, "warning"), (1, "error")])
def test_the_limits_of_overlap(there: int, outcome: str | None) -> None:
    wanted = pd.Index([f"G{i}" for i in range(10)])
    missing = np.arange(10) >= there
    if outcome == "error":
        with pytest.raises(
            InputError, match=r"b has only 1 of 10 features \(10 %\) kept; the others: G1, .*G9\..*GENE_COL"
        ):
            features.missing_features_warnings("b", wanted, missing, "kept")
    else:
        warnings = features.missing_features_warnings("b", wanted, missing, "kept")
        assert len(warnings) == (outcome == "warning")
        assert all(f"only {there} of 10" in warning for warning in warnings)


def of_types(rates: dict[str, list[float]], cells: int) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """How many of so many cells of each type have each feature, and how many cells that are."""
    return {name: np.array(of) * cells for name, of in rates.items()}, dict.fromkeys(rates, cells)


# Two features that all have, a T cell's marker, a B cell's, and one that is rare everywhere.
RATES = {"B": [0.9, 0.5, 0.0, 0.8, 0.01], "T": [0.9, 0.5, 0.8, 0.0, 0.01]}


def test_a_target_of_b_cells_alone_keeps_the_markers_of_t_cells() -> None:
    """Else its B cells would be compared with T cells by what both have."""
    target = np.array([90, 50, 0, 80, 0])
    assert not features.not_measured(*of_types(RATES, 100), target, 100).any()


def test_a_feature_that_every_type_has_is_not_measured_where_no_cell_has_it() -> None:
    target = np.array([90, 0, 40, 40, 1])
    assert features.not_measured(*of_types(RATES, 100), target, 100).tolist() == [False, True, False, False, False]


def test_cells_read_less_deeply_or_few_do_not_lack_what_they_happen_not_to_have() -> None:
    shallow = np.array([9, 0, 4, 4, 0])  # a tenth of the depth: five of 100 cells would have the second feature
    assert not features.not_measured(*of_types(RATES, 100), shallow, 100).any()
    assert not features.not_measured(*of_types(RATES, 100), np.array([8, 0, 0, 4, 0]), 9).any()


def test_where_most_features_were_not_measured_rare_ones_were_not_either() -> None:
    """Zeros in place of what a panel lacks were taken for measured where a feature is rare: 63.7 % instead of 11 %."""
    target = np.array([0, 0, 40, 0, 0])
    found = features.not_measured(*of_types(RATES, 100), target, 100)
    assert found.tolist() == [True, True, False, True, True]


def test_fifty_features_are_enough_to_learn_from_them_alone() -> None:
    wanted = pd.Index([f"G{i}" for i in range(1000)])
    assert features.missing_features_warnings("b", wanted, np.arange(1000) >= 50, "kept")
    with pytest.raises(InputError, match="only 49 of 1,000"):
        features.missing_features_warnings("b", wanted, np.arange(1000) >= 49, "kept")
