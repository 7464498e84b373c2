"""LAYER obsm:KEY: labels carried over in a space that the user trusts already, untouched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import jind_nb as jn
from jind_nb.commands.predict import annotate_file, parameters_for
from jind_nb.core.parameters import make_parameters
from jind_nb.data.cells import read_cells
from jind_nb.data.plan import Plan
from jind_nb.data.prepare import prepare
from jind_nb.data.roles import make_plan
from jind_nb.errors import InputError
from jind_nb.results.attribution import attribute_types, attribution_table
from jind_nb.results.target import TargetResult
from jind_nb.runs.folder import Run
from tests.helpers.simulated import THREE_BATCHES, simulated

KEY = "X_mine"


def embedded() -> ad.AnnData:
    """Cells whose genes are noise and whose embedding tells the types apart."""
    adata = simulated(THREE_BATCHES)
    random = np.random.default_rng(0)
    types = pd.Categorical(adata.obs["celltype"]).codes
    adata.obsm[KEY] = (np.eye(3, 12)[types] * 4 + random.normal(0, 0.5, (adata.n_obs, 12))).astype(np.float32)
    adata.X = random.poisson(1, adata.shape).astype(np.float32)
    return adata


def prepared(folder: Path, files: list[ad.AnnData], **parameters: Any) -> tuple[ad.AnnData, Plan]:
    paths = [folder / f"{i}.h5ad" for i in range(len(files))]
    for adata, path in zip(files, paths, strict=True):
        adata.write_h5ad(path)
    values = {
        "PATH": [str(path) for path in paths], "BATCH_COL": "batch", "LABELS_COL": "celltype", "TARGET_DATASET_NAME": "c",
        "OUTPUT_PATH": str(folder), "LAYER": f"obsm:{KEY}", "MIN_CELL_TYPE_POPULATION": 5,
    }  # fmt: skip
    checked = make_parameters(values | parameters)
    cells = read_cells(checked)
    plan = make_plan(checked, cells)
    return prepare(checked, cells, plan), plan


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_an_embedding_is_used_as_it_is_however_it_is_stored(tmp_path: Path, form: Any) -> None:
    """A number that changes would leave the space that the user trusts."""
    adata = embedded()
    wanted = adata.obsm[KEY].copy()
    adata.obsm[KEY] = form(wanted)
    found, plan = prepared(tmp_path, [adata])
    np.testing.assert_array_equal(found.X.toarray(), wanted)
    assert list(found.var_names[:2]) == ["dimension 01", "dimension 02"]
    assert {row["value type"] for row in plan.values} == {"embedding"}
    assert not plan.warnings
    assert any("used as it is" in note for note in plan.notes)


def test_several_files_share_one_embedding(tmp_path: Path) -> None:
    adata = embedded()
    parts = [adata[adata.obs["batch"].isin(names)].copy() for names in (["a", "b"], ["c"])]
    found, _ = prepared(tmp_path, parts)
    np.testing.assert_array_equal(found.X.toarray(), np.concatenate([part.obsm[KEY] for part in parts]))
    parts[1].obsm[KEY] = parts[1].obsm[KEY][:, :9]
    with pytest.raises(InputError, match=r"12 in 0.h5ad, 9 in 1.h5ad.*one embedding of all cells"):
        prepared(tmp_path, parts)


def with_nan(adata: ad.AnnData) -> None:
    adata.obsm[KEY][7, 3] = np.nan


def as_table(adata: ad.AnnData) -> None:
    adata.obsm[KEY] = pd.DataFrame(adata.obsm[KEY], index=adata.obs_names).add_prefix("d")


def under_another_name(adata: ad.AnnData) -> None:
    adata.obsm["X_mind"] = adata.obsm.pop(KEY)


@pytest.mark.parametrize(
    ("change", "also", "message"),
    [
        (with_nan, {}, "obsm 'X_mine' of .* has NaN or infinite values in 1 cell, .* feature 'dimension 04'"),
        (as_table, {}, "is a table; write it as a matrix"),
        (under_another_name, {}, "no matrix 'X_mine' in obsm; it has X_mind. Did you mean 'X_mind'"),
        (lambda adata: None, {"NORMALISATION": "counts"}, "never normalised"),
        (lambda adata: None, {"FEATURE_TYPES": "Peaks"}, "has no 'Peaks'"),
    ],
)
def test_what_is_no_embedding_is_refused(tmp_path: Path, change: Any, also: dict[str, Any], message: str) -> None:
    adata = embedded()
    change(adata)
    with pytest.raises(InputError, match=message):
        prepared(tmp_path, [adata], **also)


def test_the_labels_come_from_the_embedding_also_with_the_saved_model(tmp_path: Path) -> None:
    """The genes here are noise: any answer from them would be wrong in two of three cells."""
    adata = embedded()
    model = jn.annotate(
        adata, batch_key="batch", labels_key="celltype", target="c", layer=f"obsm:{KEY}", min_cell_type_population=5
    )
    target = adata.obs["batch"] == "c"
    assert (adata.obs["jind_prediction"] == adata.obs["celltype"])[target].mean() > 0.95
    new = embedded()
    model.predict(new)
    assert (new.obs["jind_prediction"] == new.obs["celltype"]).mean() > 0.95
    new.write_h5ad(tmp_path / "new.h5ad")
    values = {"OUTPUT_PATH": str(tmp_path / "out")}
    predicted = annotate_file(Run(parameters_for(model.folder, tmp_path / "new.h5ad", values)))
    assert predicted.table["predictions"].tolist() == new.obs["jind_prediction"].tolist()
    new.obsm[KEY] = new.obsm[KEY][:, :5]
    with pytest.raises(InputError, match="5 in the AnnData, 12 in the model"):
        model.predict(new)
    del new.obsm[KEY]
    with pytest.raises(InputError, match="no matrix 'X_mine'"):
        model.predict(new)


def test_it_is_said_that_no_gene_can_speak_for_a_type(tmp_path: Path) -> None:
    found, plan = prepared(tmp_path, [embedded()])
    result = TargetResult({"before alignment": None}, np.empty(0), np.empty(0), None)  # type: ignore[dict-item]
    result.stages = {"before alignment": type("Answer", (), {"classes": plan.classes})()}
    attributed = attribute_types(None, found, result, plan)  # type: ignore[arg-type]
    assert attributed.sections == {}
    assert "cannot be said which genes" in attribution_table(attributed).iloc[0, 0]
