"""The pictures' coordinates: any number of cells, the same each time, every point with its name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from jind_nb.core.subsample import subsample
from jind_nb.model.annotate import annotate
from jind_nb.model.target import known_latents
from jind_nb.results import embedding
from jind_nb.results.embedding import latent_points, umap_of
from tests.conftest import ROOT
from tests.helpers.learn import learn, prepare_simulated, target_cells
from tests.helpers.simulated import THREE_BATCHES, simulated

pytestmark = pytest.mark.usefixtures("short_game")


def cells(n: int, n_genes: int = 60) -> ad.AnnData:
    """Half of them of each of two types; log values, as after preparing."""
    adata = simulated({"a": {"B": n - n // 2, "T": n // 2}}, n_genes)
    adata.X = adata.X.log1p()
    return adata


@pytest.mark.parametrize(("n", "most"), [(0, 5), (5, 5), (6, 5), (1000, 10)])
def test_a_sample_has_rows_once_and_in_order(n: int, most: int) -> None:
    rows = subsample(n, most, 0)
    assert len(rows) == min(n, most)
    assert (np.diff(rows) > 0).all()
    assert set(rows) <= set(range(n))
    np.testing.assert_array_equal(rows, subsample(n, most, 0))


@pytest.mark.parametrize("n", [2, 3, 5, 15, 16, 20])
@pytest.mark.slow
def test_few_cells_still_have_a_picture(n: int) -> None:
    points = umap_of(cells(n), 0)
    assert list(points.columns) == ["row", "x", "y"]
    assert points["row"].tolist() == list(range(n))
    assert np.isfinite(points[["x", "y"]].to_numpy()).all()


@pytest.mark.parametrize("n_genes", [1, 2, 3])
def test_few_features_still_have_a_picture(n_genes: int) -> None:
    points = umap_of(cells(30, n_genes), 0)
    assert len(points) == 30
    assert np.isfinite(points[["x", "y"]].to_numpy()).all()


@pytest.mark.slow
def test_types_stand_apart_and_the_picture_is_the_same_each_time() -> None:
    adata = cells(60)
    points = umap_of(adata, 0)
    xy = points[["x", "y"]].to_numpy()
    np.testing.assert_array_equal(xy, umap_of(adata, 0)[["x", "y"]].to_numpy())
    is_b = (adata.obs["celltype"] == "B").to_numpy()[points["row"]]
    centres = xy[is_b].mean(axis=0), xy[~is_b].mean(axis=0)
    nearest = np.linalg.norm(xy - centres[0], axis=1) < np.linalg.norm(xy - centres[1], axis=1)
    assert (nearest == is_b).mean() > 0.95


@pytest.mark.slow
def test_ten_thousand_cells_are_drawn_as_five_thousand() -> None:
    """pynndescent, which umap would use by itself, fails on data of this size."""
    adata = cells(10_000)
    points = umap_of(adata, 0)
    assert len(points) == 5_000
    assert points["row"].is_monotonic_increasing
    assert points["row"].is_unique
    assert points["row"].iloc[-1] > 9_000
    assert np.isfinite(points[["x", "y"]].to_numpy()).all()


@pytest.mark.slow
@pytest.mark.parametrize(("method", "of_a"), [("default", 99), ("reference", 88)])  # 110 less 11 or 22 held out
def test_latent_points_have_every_cell_of_every_stage_on_the_same_axes(
    tmp_path: Path, method: str, of_a: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"SOURCE_DATASET_NAME": "a", "EPOCHS": 2, "METHOD": method, "ALIGN": True}
    prepared, plan, settings = prepare_simulated(tmp_path, THREE_BATCHES, **values)
    reference = learn(prepared, plan, settings)
    known = known_latents(reference)
    annotated = annotate(reference.model, target_cells(prepared, plan), known, settings)
    points = latent_points(annotated, known, "c", 0)
    assert list(points.columns) == ["stage", "x", "y", "batch", "cell type", "cell"]
    every = list(annotated.stages)
    shown = list(dict.fromkeys([every[0], every[-1]]))
    assert list(dict.fromkeys(points["stage"])) == shown
    first = None
    for stage in shown:
        of_stage = points[points["stage"] == stage]
        target, others = (of_stage[(of_stage["batch"] == "c") == is_target] for is_target in (True, False))
        assert target["cell type"].tolist() == annotated.stages[stage].names.tolist()
        assert target["cell"].tolist() == list(range(80))
        assert set(others["cell"]) == {-1}
        assert others["batch"].value_counts().to_dict() == {"a": of_a, "b": 99}
        assert others["cell type"].tolist() == [known.classes[y] for y in known.y]
        first = others[["x", "y"]].to_numpy() if first is None else first
        np.testing.assert_array_equal(others[["x", "y"]].to_numpy(), first)
    monkeypatch.setattr(embedding, "MOST_POINTS", 40)
    assert len(latent_points(annotated, known, "c", 0)) == 40


@pytest.mark.slow
@pytest.mark.parametrize("first", ["", "import numba; "])
def test_one_thread_asked_for_is_one_thread(first: str) -> None:
    """On a shared machine threads that nobody asked for wait for each other, and slow all down several times."""
    code = f"{first}import torch, numpy as np; from jind_nb.results import embedding\n"
    code += "embedding.umap_of_latents(np.random.default_rng(0).random((60, 5)), 0); print(torch.get_num_threads())"
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment | {"OMP_NUM_THREADS": "1"},
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if not first:  # where numba was imported before, its number cannot be changed any more
        assert done.stdout.split()[-1] == "1"
