"""The same cells in another order, or with other threads, get the same answers bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
from scipy import sparse
from threadpoolctl import threadpool_limits

from jind_nb.core.methods import DATA_RULES
from jind_nb.core.parameters import make_parameters
from jind_nb.data.cells import read_cells
from jind_nb.data.roles import make_plan
from jind_nb.model import default, neighbours
from jind_nb.model.annotate import annotate, calibrate, known_with_rules
from tests.helpers.learn import METHODS, learn, prepare_simulated, target_cells
from tests.helpers.simulated import simulated

pytestmark = pytest.mark.usefixtures("short_game")

TYPES = {"B": 40, "T": 40, "NK": 30}
BATCHES = {"a": TYPES, "b": TYPES, "d": TYPES, "c": TYPES}


def answers(folder: Path, adata: ad.AnnData, method: str) -> dict[str, np.ndarray]:
    """Return all that is said of the target's cells, in the order of their names."""
    folder.mkdir()
    prepared, plan, settings = prepare_simulated(folder, adata, METHOD=method, EPOCHS=1, ALIGN=True)
    reference = learn(prepared, plan, settings)
    known = known_with_rules(reference, calibrate(reference))
    annotated = annotate(reference.model, target_cells(prepared, plan), known, settings)
    order = np.argsort(prepared.obs.loc[(prepared.obs["batch"] == plan.target).to_numpy(), "cell"].to_numpy())
    final = annotated.final
    said = {"probabilities": final.probabilities, "latent": annotated.final_latent, "novelty": annotated.novelty}
    return {name: of[order] for name, of in said.items()} | {"thresholds": final.thresholds}


@pytest.mark.parametrize("method", ["default", pytest.param("reference", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_another_order_or_number_of_threads_changes_no_bit(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a collaborator who sorts the file by barcode, or has a larger machine, finds other cells Unassigned.

    More cells than are drawn make the draws matter; many features, the products.
    """
    assert method in METHODS
    monkeypatch.setattr(default, "MOST_CELLS", 150)
    monkeypatch.setattr(neighbours, "MOST_CELLS", 60)
    adata = simulated(BATCHES, n_genes=700)
    adata.X = sparse.vstack([adata.X[[2, 2]], adata.X[2:]], format="csr")  # cells alike in all but perhaps their label
    as_it_is = answers(tmp_path / "as it is", adata, method)
    for name, rows in (("reversed", np.arange(adata.n_obs)[::-1]), ("sorted", np.argsort(adata.obs_names))):
        other = answers(tmp_path / name, adata[rows].copy(), method)
        for what, values in as_it_is.items():
            np.testing.assert_array_equal(other[what], values, err_msg=f"{name}: {what}")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with threadpool_limits(2):
            other = answers(tmp_path / "two threads", adata, method)
    finally:
        torch.set_num_threads(threads)
    for what, values in as_it_is.items():
        np.testing.assert_array_equal(other[what], values, err_msg=f"two threads: {what}")


def test_the_cells_of_a_large_batch_are_drawn_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a file sorted in another way would be learned from other cells."""
    monkeypatch.setitem(DATA_RULES, "default", replace(DATA_RULES["default"], most_cells=60))

    def drawn(adata: ad.AnnData) -> set[str]:
        adata.write_h5ad(tmp_path / "input.h5ad")
        names = {"BATCH_COL": "batch", "LABELS_COL": "celltype", "TARGET_DATASET_NAME": "c"}
        parameters = make_parameters({"PATH": str(tmp_path / "input.h5ad"), "OUTPUT_PATH": str(tmp_path)} | names)
        cells = read_cells(parameters)
        make_plan(parameters, cells)
        return set(cells.loc[cells["trains"], "cell"])

    adata = simulated(BATCHES)
    assert drawn(adata) == drawn(adata[::-1].copy())
    assert len(drawn(adata)) == 180
