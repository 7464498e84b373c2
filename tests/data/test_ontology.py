"""ONTOLOGY and `PARENTS: ontology`: terms that are certain, and coarser types that the Cell Ontology knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import jind_nb as jn
from jind_nb.core.labels import UNASSIGNED
from jind_nb.core.parameters import make_parameters
from jind_nb.data.plan import Plan
from jind_nb.errors import InputError
from jind_nb.model.predictions import Predictions
from jind_nb.results import tables, target
from jind_nb.results.target import TargetResult
from tests.helpers.simulated import simulated

pytest.importorskip("cellxgene_ontology_guide", reason="the extra `ontology` is not installed")

from jind_nb.data import ontology

BLOOD = ["B cells", "CD8-positive, alpha-beta T cell", "CD4-positive, alpha-beta T cells", "NK", "Monocytes", "odd one"]


def plan_of(types: list[str], given: dict[str, str] | None = None) -> Plan:
    plan = Plan("t", None, [], types)
    ontology.set_ontology(given or {}, plan)
    return plan


@pytest.mark.parametrize(
    ("name", "term"),
    [
        ("B cell", "CL:0000236"), ("B", "CL:0000236"), ("b-lymphocytes", "CL:0000236"), ("NK", "CL:0000623"),
        ("Mast", "CL:0000097"), ("plasma_cells", "CL:0000786"), ("Treg", "CL:0000815"), ("pDC", "CL:0000784"),
    ],
)  # fmt: skip
def test_a_type_is_known_by_its_name_or_an_exact_synonym(name: str, term: str) -> None:
    assert ontology.term_of(name) == term


@pytest.mark.parametrize("name", ["alpha", "alpha cells", "beta", "C1", "Mono_CD14", "cluster 3", "T_CD4", "", "s"])
def test_what_is_not_certain_is_never_guessed(name: str) -> None:
    """`alpha cell` is a synonym of a cell of the retina only: a pancreas would be submitted with the wrong term."""
    assert ontology.term_of(name) is None


def test_what_has_no_term_is_listed_and_a_map_adds_it() -> None:
    plan = plan_of(BLOOD)
    assert list(plan.ontology) == BLOOD[:-1]
    assert any("odd one" in note and "name it in ONTOLOGY" in note for note in plan.notes)
    assert any("NK = natural killer cell (CL:0000623)" in note for note in plan.notes)
    assert plan_of(BLOOD, {"odd one": "CL:0000097"}).ontology["odd one"] == "CL:0000097"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"NK": "CL:9999999"}, "no term of the Cell Ontology"),
        ({"NK": "UBERON:0000955"}, "no term of the Cell Ontology"),
        ({"NK": "CL:0000003"}, "is obsolete; use CL:0000000"),
        ({"B cell": "CL:0000236"}, "did you mean 'B cells'"),
    ],
)
def test_a_wrong_term_is_refused(given: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_of(BLOOD, given)


def test_the_levels_are_a_tree() -> None:
    """A name must mean the same types at every level, or its probability would mean nothing."""
    plan = plan_of(BLOOD)
    ontology.set_levels(plan)
    types_of: dict[str, set[frozenset[str]]] = {}
    for level in (plan.parents, *plan.coarser):
        for parent in set(level.values()):
            types_of.setdefault(parent, set()).add(frozenset(name for name in level if level[name] == parent))
    assert types_of
    assert all(len(sets) == 1 for sets in types_of.values())
    found = [next(iter(sets)) for sets in types_of.values()]
    assert frozenset(BLOOD[1:3]) in found
    assert all(not a & b or a <= b or b <= a for a in found for b in found)
    assert not any("odd one" in types for types in found)
    assert set(types_of) <= set(plan.ontology)


def result_of(probabilities: list[list[float]]) -> TargetResult:
    plan = plan_of(BLOOD)
    ontology.set_levels(plan)
    final = Predictions(BLOOD, np.array(probabilities), np.full(len(BLOOD), 0.8))
    names = np.array([f"c{i}" for i in range(len(probabilities))])
    result = TargetResult({"before alignment": final}, names, np.zeros((len(names), 4)), None, ontology=plan.ontology)
    return target.with_parents(result, plan.parents, plan.coarser)


def test_an_ambiguous_cell_gets_the_nearest_ancestor_that_is_confident() -> None:
    result = result_of(
        [
            [0.9, 0.02, 0.02, 0.02, 0.02, 0.02],
            [0.02, 0.46, 0.46, 0.02, 0.02, 0.02],
            [0.3, 0.3, 0.1, 0.25, 0.03, 0.02],
            [0.1, 0.1, 0.1, 0.1, 0.1, 0.5],
        ]
    )
    table = tables.predictions_table(result)
    assert table["predictions"].tolist()[0] == "B cells"
    assert "T cell" in table["predictions"].iloc[1]
    assert table["predictions"].iloc[2] == "lymphocyte"
    assert table["predictions"].iloc[3] == UNASSIGNED
    assert table["ontology_term_id"].tolist()[::2] == ["CL:0000236", "CL:0000542"]
    assert table["ontology_term_id"].iloc[3] == "unknown"
    assert table["level_1_probability"].iloc[2] == pytest.approx(0.95, abs=0.04)
    deepest = [name for name in table if name.endswith("_probability")][-1]
    assert table[deepest].iloc[1] == pytest.approx(0.92)
    np.testing.assert_array_equal(tables.probabilities_of(table, BLOOD), result.final.probabilities)
    assert tables.fallback_table(result)["cells"].sum() == 2
    assert "CL_0000236" in str(tables.ontology_table(result).loc["B cells", "Cell Ontology"])


def test_terms_and_levels_reach_the_annotated_cells_and_the_saved_model(tmp_path: Path) -> None:
    """A colleague with the model needs no ontology."""
    batches = {name: {"B": 40, "T": 40, "NK": 30, "Monocytes": 30} for name in "abc"}
    adata = simulated(batches)
    model = jn.annotate(
        adata, batch_key="batch", labels_key="celltype", target="c", parents="ontology", min_cell_type_population=5
    )
    there = adata.obs["batch"] == "c"
    assert set(adata.obs["jind_prediction_ontology_term_id"][there]) <= {
        "CL:0000236", "CL:0000084", "CL:0000623", "CL:0000576", "CL:0000542", "unknown",
    }  # fmt: skip
    assert adata.obs["jind_prediction_ontology_term_id"][~there].isna().all()
    new = simulated(batches)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ontology, "_parser", lambda: pytest.fail("the ontology was asked"))
        model.predict(new)
    known = pd.Series(new.obs["jind_prediction"]).eq("B")
    assert (new.obs["jind_prediction_ontology_term_id"][known] == "CL:0000236").all()


def test_parents_is_the_ontology_and_no_column_of_that_name() -> None:
    asked = {"PATH": "a.h5ad", "BATCH_COL": "b", "LABELS_COL": "l", "TARGET_DATASET_NAME": "t", "OUTPUT_PATH": "o"}
    parameters = make_parameters(asked | {"PARENTS": "ontology"})
    assert parameters.parents_column is None
    assert parameters.terms == {}
    assert make_parameters(asked | {"ONTOLOGY": "{Mono: CL_0000576}"}).terms == {"Mono": "CL:0000576"}
    assert make_parameters(asked | {"ONTOLOGY": ""}).terms is None
    with pytest.raises(InputError, match="ONTOLOGY: found 'yes'; must be auto, or a map"):
        make_parameters(asked | {"ONTOLOGY": "yes"})
