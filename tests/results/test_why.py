"""Why, levels and clusters in a whole run on real blood cells: what the report shows and what the files hold."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml

from jind_nb.core.labels import UNASSIGNED
from tests.conftest import Answer
from tests.helpers import stages
from tests.helpers.one_process import run_forked

pytestmark = pytest.mark.slow

PARENTS = {"T_CD4": "T", "T_CD8": "T", "Mono_CD14": "Mono", "Mono_CD16": "Mono"}
CLUSTERS = {"cluster", "cluster_majority", "cluster_share"}
OPTIONS = {
    "PARENTS": "cell_type_broad",
    "CLUSTER_RESOLUTION": 1.0,
    "MARKERS": {"B": ["MS4A1"], "NK": ["GNLY"], "Mono": ["CD14", "FCGR3A"], "T": ["CD3D"], "beta": ["INS"]},
}


def values_of(file: Path, **also: object) -> dict[str, object]:
    return {
        "PATH": str(file), "BATCH_COL": "batch", "LABELS_COL": "celltype", "TARGET_DATASET_NAME": "3pv1",
        "OUTPUT_PATH": "run", "MIN_CELL_TYPE_POPULATION": 5, "NUM_FEATURES": 500, "REJECTION": 0.3,
    } | also  # fmt: skip


def run_of(folder: Path, file: Path, **also: object) -> Path:
    """A whole run in `folder`, with results in its `run`, without a PDF; fails if the run does."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "p.yaml").write_text(yaml.safe_dump(values_of(file, **also)))
    done = run_forked("run", folder / "p.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def run(shared_file: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(tmp_path_factory.mktemp("why"), shared_file("pbmc_10x_symphony"), **OPTIONS)


@pytest.fixture(scope="module")
def plain(shared_file: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without any of the three, by the functions that the notebooks call."""
    folder = tmp_path_factory.mktemp("plain")
    values = values_of(shared_file("pbmc_10x_symphony"), OUTPUT_PATH=str(folder / "run"))
    for stage in (stages.preprocess, stages.train, stages.align, stages.evaluate):
        stage(values)
    return folder / "run"


def test_the_types_and_probabilities_are_those_of_a_run_without_levels_and_clusters(run: Path, plain: Path) -> None:
    """What is beside the answer must not change it."""
    with_, without = (pd.read_parquet(folder / "predictions.parquet") for folder in (run, plain))
    assert with_["raw_predictions"].tolist() == without["raw_predictions"].tolist()
    probabilities = [
        name for name in without if name not in ("raw_predictions", "predictions", "confidence", "reason", "labels")
    ]
    np.testing.assert_array_equal(with_[probabilities], without[probabilities])
    fell_back = with_["level"] == "parent"
    assert fell_back.any()
    assert with_["predictions"].mask(fell_back, UNASSIGNED).tolist() == without["predictions"].tolist()
    assert (without["reason"][fell_back] == "ambiguous").all()
    assert with_["reason"].mask(fell_back, "ambiguous").tolist() == without["reason"].tolist()
    one, other = (json.loads((folder / "metrics.json").read_text()) for folder in (run, plain))
    assert one["stages"] == other["stages"]
    assert one["target"] | {"fallback": None} == other["target"]


def test_ambiguous_cells_get_a_parent_that_is_mostly_right(run: Path) -> None:
    table = pd.read_parquet(run / "predictions.parquet")
    fell_back = table[table["level"] == "parent"]
    assert set(fell_back["predictions"]) <= {"T", "Mono"}
    truth = fell_back["labels"].map(lambda name: PARENTS.get(name, name))
    right = int((truth == fell_back["predictions"]).sum())
    assert right / len(fell_back) > 0.8
    numbers = json.loads((run / "metrics.json").read_text())["target"]["fallback"]
    assert numbers == {"cells": len(fell_back), "labelled": len(fell_back), "right": right}
    assert f"{len(fell_back):,} given a parent type only" in (run / "report.html").read_text("utf-8")


def test_clusters_and_their_majorities_are_in_both_files(run: Path) -> None:
    table = pd.read_parquet(run / "predictions.parquet")
    obs = ad.read_h5ad(run / "annotated_target.h5ad").obs
    for name in ("level", "cluster", "cluster_majority"):
        assert obs[f"jind_{name}"].tolist() == table[name].tolist()
    np.testing.assert_allclose(obs["jind_cluster_share"], table["cluster_share"], atol=1e-6)
    assert obs["jind_prediction"].tolist() == table["predictions"].tolist()
    for _, cells in table.groupby("cluster"):
        counts = cells["predictions"].value_counts()
        assert counts[cells["cluster_majority"].iloc[0]] == counts.max()
        assert cells["cluster_share"].tolist() == pytest.approx([counts.max() / len(cells)] * len(cells))


def test_the_report_shows_what_drives_each_type_and_the_users_markers(run: Path) -> None:
    notebook = nbformat.read(run / "notebooks" / "4_evaluate.ipynb", as_version=4)
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    alts = [output["metadata"]["image/png"]["alt"] for output in shown if "image/png" in output.get("data", {})]
    dots = [alt for alt in alts if alt.startswith("Dot plot of ")]
    assert len(dots) == 2  # of the model's features, and of the markers
    for alt in dots:
        assert "Dot plot of Annotated cells, by label:" in alt
        assert "Dot plot of 3pv1, by prediction:" in alt
    assert dots[1].count("share of cells with each of 5 features, and its mean value") == 2
    assert any("UMAP of the target's cells by cluster" in alt for alt in alts)
    tables = " ".join(output["data"].get("text/html", "") for output in shown if "data" in output)
    assert "importance %" in tables
    for marker in ("MS4A1", "GNLY", "FCGR3A"):
        assert re.search(f"<td[^>]*>{marker}</td>", tables)
    plan = json.loads((run / "work" / "plan.json").read_text())
    assert "MARKERS: the data lack 1 of 6 features, and no picture shows them: 'INS'." in plan["notes"]
    html = (run / "report.html").read_text("utf-8")
    assert "Mono: CD14, FCGR3A" in html  # the parameter, as used


def test_predict_falls_back_like_the_run(run: Path, tmp_path: Path, jind_nb: Callable[..., Answer]) -> None:
    """A collaborator with the model must see what the report shows."""
    shutil.copy(run / "annotated_target.h5ad", tmp_path / "new.h5ad")
    done = jind_nb("predict", run / "trained_models", tmp_path / "new.h5ad", "--output-path", tmp_path / "out")
    assert done.status == 0, done.err
    then, now = (pd.read_parquet(folder / "predictions.parquet") for folder in (run, tmp_path / "out"))
    for column in ("raw_predictions", "predictions", "level", "reason"):
        assert now[column].tolist() == then[column].tolist()
    assert "given a parent type only" in done.out
    obs = ad.read_h5ad(tmp_path / "out" / "annotated_target.h5ad").obs
    assert obs["jind_level"].tolist() == then["level"].tolist()
    assert "jind_cluster" not in obs  # of the run, not of this annotation


def test_a_saved_models_run_takes_its_parents_and_explains_it(
    run: Path, tmp_path: Path, jind_nb: Callable[..., Answer]
) -> None:
    """And PARENTS of its own wins; a column cannot be read, there are no annotated cells."""
    parameters = {"PRETRAINED_MODEL_PATH": str(run / "trained_models"), "ALIGN": False, "CLUSTER_RESOLUTION": 0.5}
    file = run / "annotated_target.h5ad"
    again = run_of(tmp_path / "own", file, **parameters)
    then, now = (pd.read_parquet(folder / "predictions.parquet") for folder in (run, again))
    assert now["predictions"].tolist() == then["predictions"].tolist()
    probabilities = sorted(
        set(now) - {"raw_predictions", "predictions", "confidence", "reason", "labels", "level"} - CLUSTERS
    )
    np.testing.assert_allclose(now[probabilities], then[probabilities], atol=1e-6)
    html = (again / "report.html").read_text("utf-8")
    assert "importance %" in html
    assert "Your markers" not in html  # MARKERS is not set: a heading over nothing is left out
    (tmp_path / "p.yaml").write_text(
        yaml.safe_dump(
            {
                "PATH": str(file), "BATCH_COL": "batch", "LABELS_COL": "celltype", "TARGET_DATASET_NAME": "3pv1",
                "OUTPUT_PATH": "refused", "PARENTS": "cell_type_broad", **parameters,
            }
        )
    )  # fmt: skip
    refused = jind_nb("validate", tmp_path / "p.yaml")
    assert refused.status == 2
    assert "a saved model has no annotated cells" in " ".join(refused.err.split())
