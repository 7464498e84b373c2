"""From Python: an AnnData in, `obs` and `obsm` keys out, a model to keep; the answers of the command line."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import jind_nb as jn
from jind_nb.core.labels import UNASSIGNED
from jind_nb.core.model_json import read_model_json, write_model_json
from jind_nb.core.parameters import NOT_IN_PYTHON, Parameters
from jind_nb.core.python_names import in_python, python_names
from jind_nb.data.datasets import bundled_file
from jind_nb.errors import InputError
from tests.conftest import ROOT, run_command
from tests.helpers.simulated import THREE_BATCHES, simulated

KEYS = ["jind_prediction", "jind_raw_prediction", "jind_confidence", "jind_reason"]
ASKED: dict[str, Any] = {
    "batch_key": "batch", "labels_key": "celltype", "target": "c", "source": "a", "min_cell_type_population": 5,
}  # fmt: skip


def cells() -> ad.AnnData:
    """Three batches of counts; the target has labels that are wrong, since nothing may read them."""
    adata = simulated(THREE_BATCHES)
    adata.obs["truth"] = adata.obs["celltype"]
    adata.obs.loc[adata.obs["batch"] == "c", "celltype"] = "B"
    adata.layers["counts"] = adata.X.copy()
    adata.obsm["X_pca"] = np.ones((adata.n_obs, 2))
    adata.uns["mine"] = {"kept": True}
    return adata


@pytest.fixture(scope="module")
def annotated() -> tuple[ad.AnnData, jn.Model]:
    adata = cells()
    return adata, jn.annotate(adata, **ASKED)


def answers(adata: ad.AnnData) -> pd.DataFrame:
    """What was written for the target's cells, its codes too."""
    target = adata[adata.obs["batch"].astype(str) == "c"]
    codes = pd.DataFrame(target.obsm["X_jind"], index=target.obs_names)
    return pd.concat([target.obs[KEYS].astype({key: str for key in KEYS if key != "jind_confidence"}), codes], axis=1)


# --- what is told and drawn -------------------------------------------------------------------------------------------


def test_the_model_says_what_page_one_says(annotated: tuple[ad.AnnData, jn.Model]) -> None:
    """Who works in a notebook opens no report; the error to expect and what to check must reach them too."""
    _, model = annotated
    text = model.summary()
    assert text.startswith("c: ")
    assert "of the assigned cells are probably wrong" in text
    assert "Check before you use these labels:" in text
    assert model.classes == ["B", "NK", "T"]
    assert "A saved model of 3 cell types (B, NK, T)" in jn.load_model(model.folder).summary()


def test_four_pictures_are_drawn_from_what_was_written(annotated: tuple[ad.AnnData, jn.Model]) -> None:
    """A scanpy user wants figures in the notebook, not files in a folder; `Unassigned` and unannotated cells included."""
    adata, model = annotated
    composition = jn.pl.composition(adata, batch_key="batch", labels_key="truth")
    assert sum(bar.get_width() for bar in composition.axes[0].patches) == pytest.approx(100)
    assert {label.get_text() for label in composition.axes[0].get_yticklabels()} == {"B", "NK", "T"}
    assert any("annotated batches" in text.get_text() for text in composition.legends[0].get_texts())
    points = sum(len(drawn.get_offsets()) for drawn in jn.pl.umap(adata).axes[0].collections)
    assert points == (adata.obs["batch"] == "c").sum()
    drawn = jn.pl.umap(adata, basis="X_pca")
    assert sum(len(part.get_offsets()) for part in drawn.axes[0].collections) == adata.n_obs
    assert sum(bar.get_height() for bar in jn.pl.confidence(adata).axes[0].patches) == points
    assert len(jn.pl.reliability(model).axes) == 2
    with pytest.raises(InputError, match="annotate the cells first"):
        jn.pl.confidence(cells())
    plt.close("all")


def test_another_name_keeps_both_answers(annotated: tuple[ad.AnnData, jn.Model]) -> None:
    """Two references side by side is the usual comparison; the second must not replace the first."""
    adata, model = annotated[0].copy(), annotated[1]
    before = adata.obs["jind_prediction"].copy()
    model.predict(adata, key_added="second")
    pd.testing.assert_series_equal(adata.obs["jind_prediction"], before)
    assert adata.obs["second_prediction"].notna().all()
    assert {"X_jind", "X_second"} <= set(adata.obsm)
    assert jn.pl.confidence(adata, key="second").axes
    plt.close("all")
    with pytest.raises(InputError, match="key_added"):
        model.predict(adata, key_added="a/b")


@pytest.mark.slow
def test_the_page_about_python_says_what_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user types the page's lines as they stand."""
    monkeypatch.chdir(tmp_path)
    found = doctest.testfile(str(ROOT / "docs" / "python.md"), module_relative=False, optionflags=doctest.ELLIPSIS)
    plt.close("all")
    assert found.attempted > 8
    assert found.failed == 0


# --- what is written --------------------------------------------------------------------------------------------------


def test_labels_go_into_obs_and_nothing_else_changes(annotated: tuple[ad.AnnData, jn.Model]) -> None:
    """A user's AnnData holds days of work; an annotation that touches anything else of it ruins that."""
    adata, _ = annotated
    before = cells()
    target = (adata.obs["batch"] == "c").to_numpy()
    assert (adata.obs.loc[target, "jind_raw_prediction"] == adata.obs.loc[target, "truth"]).mean() > 0.95
    assert set(adata.obs["jind_prediction"].cat.categories) == {"B", "T", "NK", UNASSIGNED}
    assert adata.obs.loc[~target, KEYS].isna().all(axis=None)
    assert adata.obs["jind_confidence"].dtype == np.float32
    assert adata.obsm["X_jind"].dtype == np.float32
    assert np.isfinite(adata.obsm["X_jind"][target]).all()
    assert np.isnan(adata.obsm["X_jind"][~target]).all()
    pd.testing.assert_frame_equal(adata.obs.drop(columns=KEYS), before.obs)
    assert (adata.X != before.X).nnz == 0
    assert (adata.layers["counts"] != before.layers["counts"]).nnz == 0
    assert list(adata.obsm) == ["X_pca", "X_jind"]
    assert len(set(adata.uns["jind_prediction_colors"])) == 4
    assert {name: adata.uns[name] for name in adata.uns if "jind" not in name} == before.uns


def _layer(adata: ad.AnnData) -> dict[str, Any]:
    adata.X = sparse.csr_matrix(np.full(adata.shape, -1.0, dtype=np.float32))
    return {"layer": "counts"}


def _raw(adata: ad.AnnData) -> dict[str, Any]:
    adata.raw = adata.copy()
    adata.X = sparse.csr_matrix(np.full(adata.shape, -1.0, dtype=np.float32))
    return {"layer": ".raw"}


def _x(convert: Callable[[Any], Any]) -> Callable[[ad.AnnData], None]:
    def change(adata: ad.AnnData) -> None:
        adata.X = convert(adata.X)

    return change


def _column(convert: Callable[[pd.Series], Any]) -> Callable[[ad.AnnData], None]:
    def change(adata: ad.AnnData) -> None:
        adata.obs["batch"] = convert(adata.obs["batch"])

    return change


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        _x(lambda x: x.toarray()), _x(sparse.csc_matrix), _x(sparse.csr_array), _layer, _raw,
        _column(lambda batch: batch.astype("category")), _column(lambda batch: batch.astype("string")),
    ],
    ids=["dense", "csc", "csr array", "layer", "raw", "categorical batch", "string batch"],
)  # fmt: skip
def test_the_form_of_the_data_does_not_matter(
    change: Callable[[ad.AnnData], dict[str, Any] | None], annotated: tuple[ad.AnnData, jn.Model]
) -> None:
    """Who converts a matrix on the way would get other labels."""
    adata = cells()
    also = change(adata) or {}
    jn.annotate(adata, **ASKED, **also)
    pd.testing.assert_frame_equal(answers(adata), answers(annotated[0]))


def test_numbered_batches_are_found_as_numbers_and_as_text() -> None:
    """Pandas makes 1.0 of 1 where a value is missing, and `target=1` would find nothing."""
    adata = cells()
    number = adata.obs["batch"].map({"a": 1, "b": 2, "c": 3}).astype(float)
    adata.obs["batch"] = number.where(adata.obs_names != adata.obs_names[0])
    asked = ASKED | {"source": np.int64(1), "intermediates": np.array([2])}
    jn.annotate(adata, **asked | {"target": 3})
    assert adata.obs["jind_prediction"].notna().sum() in (79, 80)
    as_numbers = adata.obs["jind_prediction"].astype(str).tolist()
    jn.annotate(adata, **asked | {"target": "3"})
    assert adata.obs["jind_prediction"].astype(str).tolist() == as_numbers


def test_a_view_becomes_a_copy_and_its_parent_stays() -> None:
    """An annotation of some cells must not write half a column into the whole."""
    whole = cells()
    order = np.arange(whole.n_obs)[::-1]
    view = whole[order]
    jn.annotate(view, **ASKED)
    assert not view.is_view
    assert not [column for column in whole.obs if column.startswith("jind_")]
    assert (view.obs["jind_raw_prediction"].dropna() == view.obs["truth"][view.obs["batch"] == "c"]).mean() > 0.95
    assert view.obs_names.tolist() == whole.obs_names[order].tolist()


def test_a_backed_anndata_is_annotated_and_its_file_stays(
    tmp_path: Path, annotated: tuple[ad.AnnData, jn.Model]
) -> None:
    """Who has more cells than memory opens the file backed."""
    cells().write_h5ad(tmp_path / "cells.h5ad")
    before = (tmp_path / "cells.h5ad").read_bytes()
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    jn.annotate(backed, **ASKED)
    assert backed.isbacked
    written = ad.AnnData(obs=backed.obs, obsm=backed.obsm)
    backed.file.close()
    pd.testing.assert_frame_equal(answers(written), answers(annotated[0]))
    assert (tmp_path / "cells.h5ad").read_bytes() == before


@pytest.mark.slow
def test_again_replaces_what_was_there() -> None:
    """Columns of an earlier call, of options that are off now, would pass for this one's."""
    adata = cells()
    jn.annotate(adata, **ASKED, parents={"T": "lymphocyte", "NK": "lymphocyte"}, cluster_resolution=1)
    assert {"jind_level", "jind_cluster", "jind_cluster_majority", "jind_cluster_share"} <= set(adata.obs)
    jn.annotate(adata, **ASKED)
    assert [column for column in adata.obs if column.startswith("jind_")] == KEYS


@pytest.mark.slow
def test_odd_tables_do_no_harm(annotated: tuple[ad.AnnData, jn.Model]) -> None:
    """Repeated cell names, columns that no file can hold and others' `jind_` columns are no reason to fail or to lose them."""
    adata = cells()
    adata.obs["jind_manual"] = "mine"
    adata.obs["list"] = [[1]] * adata.n_obs
    adata.var["list"] = [[1]] * adata.n_vars
    adata.var["mixed"] = ["a", 1] * (adata.n_vars // 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # anndata's, of the names
        adata.obs_names = ["cell"] * adata.n_obs
        jn.annotate(adata, **ASKED)
        jn.annotate(adata, **ASKED)
    assert (adata.obs["jind_manual"] == "mine").all()
    np.testing.assert_array_equal(adata.obsm["X_jind"], annotated[0].obsm["X_jind"])
    assert adata.obs["jind_prediction"].tolist()[:50] == annotated[0].obs["jind_prediction"].tolist()[:50]


def test_parents_may_be_a_column() -> None:
    """The annotated cells often carry the coarser level already."""
    adata = cells()
    adata.obs["lineage"] = adata.obs["celltype"].map({"B": "B lineage", "T": "T/NK", "NK": "T/NK"})
    model = jn.annotate(adata, **ASKED, parents="lineage")
    assert "jind_level" in adata.obs
    assert "T/NK" in model._repr_markdown_()


# --- the command line's answers ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_same_answers_as_the_command_line_and_its_models(demo_run: Path) -> None:
    """A tutorial that leads to other labels than the report would cost both their credit."""
    adata = ad.read_h5ad(bundled_file("scanpy:pbmc68k_reduced"))
    asked: dict[str, Any] = {
        "batch_key": "well", "labels_key": "bulk_labels", "target": "well 1", "source": "well 7", "epochs": 2,
    }  # fmt: skip
    ours = jn.annotate(adata, **asked)
    theirs = ad.read_h5ad(demo_run / "annotated_target.h5ad")
    target = adata[adata.obs["well"] == "well 1"]
    pd.testing.assert_frame_equal(target.obs[KEYS], theirs.obs[KEYS], check_categorical=False)
    np.testing.assert_array_equal(target.obsm["X_jind"], theirs.obsm["X_jind"])
    # A model is the same whoever made it.
    model = jn.load_model(demo_run / "trained_models")
    assert model.classes == ours.classes
    new, again = theirs.copy(), theirs.copy()
    model.predict(new)
    ours.predict(again)
    pd.testing.assert_frame_equal(new.obs[KEYS], theirs.obs[KEYS])
    pd.testing.assert_frame_equal(again.obs[KEYS], theirs.obs[KEYS])


@pytest.mark.slow
def test_the_command_line_reads_a_saved_model(annotated: tuple[ad.AnnData, jn.Model], tmp_path: Path) -> None:
    """A model made in a notebook is to be used on a cluster, too."""
    _, model = annotated
    model.save(tmp_path / "model")
    new = simulated(THREE_BATCHES, seed=7)
    new.write_h5ad(tmp_path / "new.h5ad")
    done = run_command("predict", "model", "new.h5ad", "--output-path", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    by_file = ad.read_h5ad(tmp_path / "out" / "annotated_target.h5ad")
    jn.load_model(tmp_path / "model").predict(new)
    pd.testing.assert_frame_equal(new.obs[KEYS], by_file.obs[KEYS])
    np.testing.assert_array_equal(new.obsm["X_jind"], by_file.obsm["X_jind"])


@pytest.mark.slow
@pytest.mark.parametrize("n", [12, 228])
def test_real_cells_without_labels_are_annotated_right(n: int, shared_file: Callable[[str], Path]) -> None:
    """Simulated cells are easy; three studies of the pancreas in three units are what users bring. A dozen sorted cells
    must not be left Unassigned because there are so few."""
    adata = ad.read_h5ad(shared_file("pancreas_3studies_small"))
    cells = np.arange(adata.n_obs)
    few = np.random.default_rng(0).choice(cells[adata.obs["batch"] == "Lawlor"], n, replace=False)
    adata = adata[np.isin(cells, few) | (adata.obs["batch"] != "Lawlor").to_numpy()].copy()
    truth = adata.obs["celltype"].astype(str)
    adata.obs["celltype"] = truth.where(adata.obs["batch"] != "Lawlor")
    jn.annotate(adata, batch_key="batch", labels_key="celltype", target="Lawlor", min_cell_type_population=20)
    of_target = (adata.obs["batch"] == "Lawlor").to_numpy()
    said = adata.obs["jind_prediction"][of_target]
    assigned = said != UNASSIGNED
    assert assigned.mean() > 0.6
    assert (said[assigned] == truth[of_target][assigned]).mean() > 0.95


# --- models -----------------------------------------------------------------------------------------------------------


def test_a_model_saved_and_loaded_says_the_same(annotated: tuple[ad.AnnData, jn.Model], tmp_path: Path) -> None:
    """Sharing a model is pointless if it answers otherwise elsewhere."""
    adata, model = annotated
    model.save(tmp_path / "deep" / "model")
    loaded = jn.load_model(tmp_path / "deep" / "model")
    assert loaded.classes == model.classes == ["B", "NK", "T"]
    one, two = (simulated(THREE_BATCHES, seed=3) for _ in range(2))
    stated = model.predict(one)
    assert stated == loaded.predict(two)
    assert stated.value is not None
    names = ("expected_error", "expected_error_range", "expected_error_basis")
    assert [getattr(loaded, name) for name in names] == [getattr(model, name) for name in names]
    pd.testing.assert_frame_equal(one.obs, two.obs)
    assert one.obs["jind_prediction"].notna().all()
    assert (one.obs["jind_raw_prediction"] == one.obs["celltype"]).mean() > 0.9
    again = adata[adata.obs["batch"] == "c"].copy()
    loaded.predict(again)  # the target's own cells are known again
    pd.testing.assert_frame_equal(answers(again), answers(adata))


def test_a_model_shows_its_card(annotated: tuple[ad.AnnData, jn.Model]) -> None:
    """In a notebook the last line `model` is how one looks at it."""
    model = annotated[1]
    assert "How far to trust it" in model._repr_markdown_()
    assert model._repr_markdown_() == (model.folder / "MODEL_CARD.md").read_text("utf-8")
    assert "3 cell types" in repr(model)
    assert "'a', 'b'" in repr(model)


def test_a_strangers_card_is_no_page_of_the_notebook(annotated: tuple[ad.AnnData, jn.Model], tmp_path: Path) -> None:
    """JupyterLab runs the scripts that Markdown of a trusted notebook holds; a colleague's folder must not bring any."""
    annotated[1].save(tmp_path / "model")
    description = read_model_json(tmp_path / "model")
    bad = "<img src=x onerror=alert(1)> [x](javascript:alert(1)) $x$"
    description["alignment"]["why"] = bad
    description["made by"]["jind-nb"] = bad
    description["training"]["cells"] = {bad: 1}
    description["training"]["held_out"] = {bad: 1}
    write_model_json(tmp_path / "model", description)
    (tmp_path / "model" / "MODEL_CARD.md").write_text("<script>alert(1)</script>")
    shown = jn.load_model(tmp_path / "model")._repr_markdown_()
    assert "alert(1)" in shown
    assert "<" not in shown
    assert "](" not in shown


def test_save_overwrites_a_model_when_asked_and_nothing_else_ever(
    annotated: tuple[ad.AnnData, jn.Model], tmp_path: Path
) -> None:
    """A mistyped name must not cost a folder of results."""
    model = annotated[1]
    model.save(tmp_path / "model")
    with pytest.raises(InputError, match="overwrite=True"):
        model.save(tmp_path / "model")
    (tmp_path / "model" / "stale").write_text("of before")
    model.save(tmp_path / "model", overwrite=True)
    assert not (tmp_path / "model" / "stale").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "results.csv").write_text("a year's work")
    with pytest.raises(InputError, match="is no model"):
        model.save(tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "results.csv").read_text() == "a year's work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "model"]


def test_predict_takes_batches_apart_when_it_aligns(annotated: tuple[ad.AnnData, jn.Model]) -> None:
    """Two batches shifted in opposite ways have no common shift."""
    new = simulated({"x": THREE_BATCHES["a"], "y": THREE_BATCHES["b"]}, seed=5)
    annotated[1].predict(new, batch_key="batch", align=True)
    assert (new.obs["jind_raw_prediction"] == new.obs["celltype"]).mean() > 0.9


def test_the_temporary_model_goes_with_its_object() -> None:
    """A notebook that annotates a hundred times would else fill the disk."""
    model = jn.annotate(cells(), **ASKED)
    folder = model.folder
    assert folder.exists()
    del model
    assert not folder.exists()


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"batch_key": "bach"}, r"batch_key: obs of the AnnData has no column 'bach'.*Did you mean 'batch'\?"),
        ({"labels_key": "cell_type"}, r"labels_key: obs of the AnnData has no column 'cell_type'"),
        ({"layer": "obsm:X_no"}, r"^layer: obsm has no matrix 'X_no'; it has"),
        ({"target": "d"}, r"target: there is no batch 'd' in column 'batch' of the AnnData; it has '"),
        ({"target": None}, r"target is absent.*name the batch to annotate"),
        ({"sources": "a"}, r"no parameter sources here: did you mean source\?"),
        ({"source": "c"}, r"source and target are both 'c'"),
        ({"rejection": 2}, r"rejection: found 2"),
        ({"layer": "spliced"}, r"layer: the AnnData has no layer 'spliced'; it has X"),
        ({"min_cell_type_population": 1000}, r"min_cell_type_population 1000 leaves 0 cell types"),
        ({"path": "x.h5ad"}, r"no parameter path here: the AnnData is the input"),
        ({"pretrained_model_path": "x"}, r"load_model\(folder\)\.predict\(adata\)"),
        ({"parents": "lineage"}, r"parents: obs of the AnnData has no column 'lineage'"),
    ],
    ids=lambda value: str(next(iter(value.items()))) if isinstance(value, dict) else "",
)  # fmt: skip
def test_mistakes_are_told_in_the_words_of_python_and_change_nothing(wrong: dict[str, Any], told: str) -> None:
    """A message about BATCH_COL in some file under /tmp is no help to who wrote batch_key."""
    adata = cells()
    with pytest.raises(InputError, match=told) as error:
        jn.annotate(adata, **ASKED | wrong)
    assert not [name for name in Parameters.model_fields if "_" in name and name in str(error.value)]
    assert "/tmp" not in str(error.value)
    pd.testing.assert_frame_equal(adata.obs, cells().obs)
    assert "X_jind" not in adata.obsm


def test_values_that_are_not_finite_are_told_of_with_their_cell() -> None:
    """They come from a division by zero upstream, which the user can only find with the cell's name."""
    adata = cells()
    adata.X.data[5] = np.nan
    with pytest.raises(
        InputError, match=r"X of the AnnData has NaN or infinite values in 1 cell, the first in cell 'cell"
    ):
        jn.annotate(adata, **ASKED)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda model, adata: model.predict(adata, batch_key="bach"), "batch_key: obs of the AnnData has no column"),
        (lambda model, adata: model.predict(adata, seed=3), "no parameter seed here: .*layer"),
        (lambda model, adata: model.predict(adata[:, :2].copy()), "adata: .*has only 2 of 60 features"),
        (lambda model, adata: jn.load_model("/nowhere"), "model: there is no folder"),
    ],
    ids=["batch_key", "seed", "features", "folder"],
)
def test_a_model_tells_what_is_wrong(
    call: Callable[[jn.Model, ad.AnnData], Any], told: str, annotated: tuple[ad.AnnData, jn.Model]
) -> None:
    """Who was given a model has nobody to ask."""
    with pytest.raises(InputError, match=told):
        call(annotated[1], simulated(THREE_BATCHES, seed=3))


def test_what_a_reader_should_know_is_warned_of(annotated: tuple[ad.AnnData, jn.Model]) -> None:
    """A model that finds a third of its genes in the new data must say so."""
    new = simulated(THREE_BATCHES, seed=3)[:, 20:].copy()
    with pytest.warns(UserWarning, match="features"):
        annotated[1].predict(new)
    assert new.obs["jind_prediction"].notna().all()


def test_an_interrupt_leaves_the_anndata_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stop button may be pressed at any moment."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    adata = cells()
    monkeypatch.setattr("jind_nb.model.annotate.align", stop)
    with pytest.raises(KeyboardInterrupt):
        jn.annotate(adata, **ASKED)
    pd.testing.assert_frame_equal(adata.obs, cells().obs)


# --- names ------------------------------------------------------------------------------------------------------------


def test_every_parameter_has_a_name_in_python_or_a_reason_for_none() -> None:
    """A parameter that only the command line has would be missed without a word."""
    assert {*python_names().values(), *NOT_IN_PYTHON} == set(Parameters.model_fields)
    assert not set(python_names().values()) & set(NOT_IN_PYTHON)
    signature = inspect.signature(jn.annotate)
    assert list(signature.parameters) == ["adata", *python_names(), "key_added", "unknown"]
    text = " ".join(str(jn.annotate.__doc__).split())
    for python, name in python_names().items():
        assert f"\n    {python}\n" in str(jn.annotate.__doc__)
        field = Parameters.model_fields[name]
        if python not in ("batch_key", "labels_key", "target"):
            assert in_python(str(field.description)) in text
            default = signature.parameters[python].default
            assert default in (None, ()) or default == field.get_default(call_default_factory=True)


def test_in_python_leaves_longer_words_alone() -> None:
    """A gene called METHODX would be renamed in its own error."""
    assert in_python("METHODX SEED MY_SEED LABELS_COL") == "METHODX seed MY_SEED labels_key"


@pytest.mark.slow
def test_importing_the_package_is_quick() -> None:
    """`jind-nb --help` would wait seconds for torch."""
    script = "import sys, jind_nb; assert not {'torch', 'scanpy', 'anndata'} & set(sys.modules); jind_nb.annotate"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
