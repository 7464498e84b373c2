"""Levels: an ambiguous cell gets its type's parent where that is confident, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jind_nb.core.labels import UNASSIGNED
from jind_nb.data import parents as data_parents
from jind_nb.data.plan import Plan
from jind_nb.errors import InputError
from jind_nb.model import hierarchy
from jind_nb.model.predictions import NONE_PASSES, Predictions, Rule

CLASSES = ["B", "CD4 T", "CD8 T", "NK"]
T = {"CD4 T": "T", "CD8 T": "T"}
LEAST = {"B": 0.8, "T": 0.8, "NK": 0.8}


def fallen(probabilities: list[float], *, unlike: bool = False, least: dict[str, float] = LEAST) -> str | None:
    p = Predictions(CLASSES, np.array([probabilities]), np.full(4, 0.8), np.array([unlike]))
    return hierarchy.fall_back(p, T, least)[0]


def test_an_ambiguous_cell_of_two_types_gets_their_parent() -> None:
    """A biologist who cannot know CD4 from CD8 still learns that it is a T cell."""
    assert fallen([0.05, 0.5, 0.4, 0.05]) == "T"


@pytest.mark.parametrize(
    ("probabilities", "why"),
    [
        ([0.05, 0.85, 0.05, 0.05], "its type is confident"),
        ([0.3, 0.3, 0.35, 0.05], "its parent is not"),
        ([0.7, 0.1, 0.1, 0.1], "its parent has one type, and says no more than it"),
    ],
)
def test_other_cells_do_not_fall_back(probabilities: list[float], why: str) -> None:
    assert fallen(probabilities) is None, why


def test_a_cell_unlike_the_reference_stays_unassigned() -> None:
    """What is like nothing annotated is not of a parent of annotated types either."""
    assert fallen([0.0, 0.5, 0.5, 0.0], unlike=True) is None


def test_the_parent_of_the_most_probable_type_is_not_always_the_most_probable_parent() -> None:
    assert fallen([0.4, 0.3, 0.3, 0.0], least={"B": 0.5, "T": 0.5, "NK": 0.5}) == "T"


def test_parents_thresholds_come_from_the_held_out_cells_sums() -> None:
    """Else a threshold for a type would be asked of a sum, which is nearly always above it."""
    held_out = np.array([[0.0, p, 0.98 - p, 0.02] for p in np.linspace(0.4, 0.6, 40)])
    p = Predictions.by(Rule(), CLASSES, held_out[:1], held_out, 0.05)
    assert hierarchy.parent_thresholds(p, T)["T"] == pytest.approx(0.98)
    assert p.thresholds[1] < 0.6


def test_target_error_s_threshold_is_the_parents_too() -> None:
    p = Predictions.by(Rule(threshold=0.93), CLASSES, np.eye(4), np.eye(4), 0.05)
    assert hierarchy.parent_thresholds(p, T) == {"B": 0.93, "NK": 0.93, "T": 0.93}
    none = Predictions.by(Rule(threshold=NONE_PASSES), CLASSES, np.full((9, 4), 0.25), np.eye(4), 0.05)
    assert pd.isna(hierarchy.fall_back(none, T, hierarchy.parent_thresholds(none, T))).all()


shares = arrays(np.float32, st.tuples(st.integers(0, 30), st.just(4)), elements=st.floats(0, 1, width=32)).map(
    lambda v: (v + 1e-6) / (v + 1e-6).sum(axis=1, keepdims=True)
)
maps = st.dictionaries(st.sampled_from(CLASSES), st.sampled_from(["T", "lymphoid", "other"]))


@given(cells=shares, held_out=shares, parents=maps, theta=st.floats(0, 0.9))
def test_falling_back_only_ever_names_what_was_rejected(
    cells: np.ndarray, held_out: np.ndarray, parents: dict[str, str], theta: float
) -> None:
    """A parent in place of an answer would take information away."""
    p = Predictions.by(Rule(), CLASSES, cells, held_out, theta)
    names, summed = hierarchy.parent_probabilities(p.probabilities, CLASSES, parents)
    of = data_parents.parents_of(CLASSES, parents)
    for k, parent in enumerate(of):
        assert (summed[:, names.index(parent)] >= cells[:, k]).all()
    np.testing.assert_allclose(summed.sum(axis=1), 1, atol=1e-5)
    least = hierarchy.parent_thresholds(p, parents)
    given_ = hierarchy.fall_back(p, parents, least)
    fell = pd.notna(given_)
    assert p.rejected[fell].all()
    for i in np.flatnonzero(fell):
        assert of.count(given_[i]) > 1
        assert summed[i, names.index(given_[i])] == summed[i].max() >= least[given_[i]]


@given(cells=shares)
def test_without_shared_parents_no_cell_falls_back(cells: np.ndarray) -> None:
    p = Predictions(CLASSES, cells, np.full(4, 0.9))
    own = {name: f"parent of {name}" for name in CLASSES}
    assert pd.isna(hierarchy.fall_back(p, own, hierarchy.parent_thresholds(p, own))).all()


# --- what PARENTS says -----------------------------------------------------------------------------------------------


def cells(types: dict[str, int], parents: dict[str, list[str | None]] | None = None) -> pd.DataFrame:
    frame = pd.DataFrame({"cell_type": [name for name, n in types.items() for _ in range(n)] + [None]})
    if parents is not None:
        frame["parent"] = [name for of_type in parents.values() for name in of_type] + ["never looked at"]
    return frame


def plan_of(given: dict[str, str] | str, frame: pd.DataFrame) -> Plan:
    plan = Plan("t", None, ["a"], [*CLASSES])
    data_parents.set_parents(given, frame, plan)
    return plan


TYPES = cells(dict.fromkeys([*CLASSES, "dropped T"], 3))


def test_a_map_is_taken_as_it_is() -> None:
    plan = plan_of(T, TYPES)
    assert plan.parents == T
    assert "does not name 'B', 'NK'" in " ".join(plan.notes)


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"CD4 T": "T", "CD8 T": "T", "T": "lymphoid", "NK": "lymphoid"}, ["one level only", "'lymphoid'"]),
        ({"B": "NK", "NK": "lymphoid"}, ["'NK' is the parent of 'B' and has a parent itself, 'lymphoid'"]),
        ({"CD4T": "T", "CD8 T": "T"}, ["no cell type 'CD4T'", "did you mean 'CD4 T'"]),
        ({"alpha": "endocrine", "beta": "endocrine"}, ["no cell type 'alpha'", "'CD8 T'"]),
        ({"CD4 T": UNASSIGNED, "CD8 T": UNASSIGNED}, [UNASSIGNED, "'CD4 T'"]),
    ],
    ids=["a chain", "a type that is a parent", "almost a type", "other types", "our own word"],
)
def test_a_map_that_cannot_be_meant_is_refused(given_: dict[str, str], words: list[str]) -> None:
    with pytest.raises(InputError, match="PARENTS") as error:
        plan_of(given_, TYPES)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_one_map_serves_several_data_sets() -> None:
    """Types that this file lacks, or that are too rare in it, are no mistake."""
    plan = plan_of(T | {"dropped T": "T", "plasmablast": "B lineage"}, TYPES)
    assert plan.parents["dropped T"] == "T"
    assert "'plasmablast'" in " ".join(plan.notes)


def test_a_type_may_be_the_parent_of_others() -> None:
    """Labels such as T beside CD4 T: the T cells that nobody looked at closer."""
    plan = Plan("t", None, ["a"], ["B", "CD4 T", "T"])
    data_parents.set_parents({"CD4 T": "T"}, TYPES, plan)
    assert data_parents.parents_of(plan.classes, plan.parents) == ["B", "T", "T"]
    p = Predictions(plan.classes, np.array([[0.0, 0.5, 0.5]]), np.full(3, 0.8))
    assert hierarchy.fall_back(p, plan.parents, {"B": 0.8, "T": 0.8}).tolist() == ["T"]


@pytest.mark.parametrize(
    ("given_", "said"), [({"B": "x"}, "no two cell types"), (dict.fromkeys(CLASSES, "cell"), "says nothing")]
)
def test_a_map_that_helps_nothing_is_warned_of(given_: dict[str, str], said: str) -> None:
    assert said in " ".join(plan_of(given_, TYPES).warnings)


def test_a_column_gives_the_parent_of_most_of_a_types_cells() -> None:
    frame = cells(
        {"B": 2, "CD4 T": 4, "CD8 T": 2, "NK": 1},
        {"B": ["B", "B"], "CD4 T": ["T", "T", "T", "NK"], "CD8 T": ["T", None], "NK": [None]},
    )
    plan = plan_of("coarse", frame)
    assert plan.parents == {"B": "B", "CD4 T": "T", "CD8 T": "T"}
    assert "'CD4 T' have 'T' 75 %, 'NK' 25 % in 'coarse'" in " ".join(plan.warnings)
    assert "has no parent for 'NK'" in " ".join(plan.notes)


def test_a_column_that_is_no_coarser_level_is_refused() -> None:
    """A donor column, say, would give parents that mean nothing."""
    frame = cells({"B": 3, "NK": 2}, {"B": ["d1", "d2", "d3"], "NK": ["d1", "d2"]})
    with pytest.raises(InputError, match=r"PARENTS: the column 'donor' is no coarser level.*'B'"):
        plan_of("donor", frame)
    with pytest.raises(InputError, match="no annotated cell has a value"):
        plan_of("empty", cells({"B": 1}, {"B": [None]}))


def test_no_parent_is_given_that_is_less_likely_than_not() -> None:
    """A cell that is a quarter of everything is of no lineage either."""
    quarters = np.full((4, 4), 0.25)
    doubted = Predictions.by(Rule(floor=0.5), list("abcd"), quarters, quarters, 0.05)
    assert min(hierarchy.parent_thresholds(doubted, {"a": "x", "b": "x", "c": "y", "d": "z"}).values()) >= 0.5
