"""What tests of trained models share: prepared cells, a training on them, and weights to compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from jind_nb.core.parameters import make_parameters
from jind_nb.data.cells import read_cells
from jind_nb.data.plan import Plan
from jind_nb.data.prepare import prepare
from jind_nb.data.roles import make_plan
from jind_nb.model import annotate, loop
from jind_nb.model import reference as method_reference
from jind_nb.model.networks import Annotator
from jind_nb.model.state import Cells, KnownLatents, Reference, Settings, TrainingStage
from jind_nb.model.target import known_latents
from tests.helpers.simulated import THREE_BATCHES, simulated

torch.set_num_threads(1)  # on busy cores, small networks are many times slower with more

CPU = torch.device("cpu")
METHODS = tuple(annotate.METHODS)

Prepared = tuple[ad.AnnData, Plan, Settings]
Learned = tuple[Annotator, sparse.csr_matrix, KnownLatents, Settings]


def prepare_simulated(folder: Path, data: dict[str, dict[str, int]] | ad.AnnData, **parameters: Any) -> Prepared:
    """Return what stage 2 gets: cells of the batches, `c` the target, written to a file and read as a run reads them.

    METHOD `reference` with two epochs, if nothing else is said.
    """
    adata = data if isinstance(data, ad.AnnData) else simulated(data)
    adata.write_h5ad(folder / "input.h5ad")
    values = {
        "PATH": str(folder / "input.h5ad"), "BATCH_COL": "batch", "LABELS_COL": "celltype", "TARGET_DATASET_NAME": "c",
        "OUTPUT_PATH": str(folder / "results"), "MIN_CELL_TYPE_POPULATION": 2, "EPOCHS": 2, "USE_GPU": False,
        "METHOD": "reference",
    }  # fmt: skip
    checked = make_parameters(values | parameters)
    cells = read_cells(checked)
    plan = make_plan(checked, cells)
    return prepare(checked, cells, plan), plan, annotate.settings_of(checked)


def learn(prepared: ad.AnnData, plan: Plan, settings: Settings) -> Reference:
    """Return what all of stage 2 learns."""
    return annotate.train(prepared, plan, settings)


def target_cells(prepared: ad.AnnData, plan: Plan) -> sparse.csr_matrix:
    """Return the target's prepared cells, float32 (n_target, p)."""
    return sparse.csr_matrix(prepared[(prepared.obs["batch"] == plan.target).to_numpy()].X)


def learned(folder: Path, data: dict[str, dict[str, int]] | ad.AnnData = THREE_BATCHES, **parameters: Any) -> Learned:
    """Return what stage 3 starts from: the annotated batches' model and latents, the target's cells; `a` is the source."""
    prepared, plan, settings = prepare_simulated(folder, data, **{"SOURCE_DATASET_NAME": "a"} | parameters)
    reference = learn(prepared, plan, settings)
    return reference.model, target_cells(prepared, plan), known_latents(reference), settings


def fit_adapter(reference: Reference, batch: str) -> None:
    """Give a batch its adapter, as `fit.learn_intermediates` does, and nothing else."""
    reference.adapters[batch] = reference.settings.method.fit_adapter(reference, batch)


def fit_jointly(reference: Reference, stage: TrainingStage) -> None:
    """Train what the batches share, with the batch `b` as the last one, as `fit.learn_intermediates` does, and nothing else."""
    batch = "b" if stage == TrainingStage.FINETUNED else "all annotated batches"
    reference.settings.method.fit_jointly(reference, stage, batch)


def is_reference(settings: Settings) -> bool:
    """Return whether it is METHOD `reference`."""
    return settings.method.NAME == "reference"


def weights(module: nn.Module | None) -> dict[str, Tensor]:
    """Return a copy of a module's weights; none of no module."""
    return {} if module is None else {name: tensor.clone() for name, tensor in module.state_dict().items()}


def every_weight(reference: Reference) -> dict[str, Tensor]:
    """Return a copy of the weights of every batch's annotator."""
    return {
        f"{batch} {name}": tensor
        for batch in reference.adapters
        for name, tensor in weights(reference.annotator(batch)).items()
    }


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Return whether all weights are the same, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def cells_of(y: list[int], seed: int = 0, n_features: int = 20, noise: float = 0.3) -> Cells:
    """Return cells without a file: type k has its features (every fourth from k on) raised."""
    random = np.random.default_rng(seed)
    labels = np.array(y)
    x = random.normal(0, noise, (len(y), n_features)) + 2.0 * (np.arange(n_features) % 4 == labels[:, None])
    return Cells(sparse.csr_matrix(x.astype(np.float32)), labels, loop.hold_out(labels, 0.1, 0))


def settings_with(**values: Any) -> Settings:
    """Return settings of METHOD `reference` with three epochs, if nothing else is said."""
    return Settings(
        **{
            "method": method_reference, "seed": 0, "epochs": 3, "theta": 0.05, "align": True, "always_align": True,
            "calibrate": True, "target_error": None, "device": CPU,
        }
        | values
    )  # fmt: skip


def with_other_target(prepared: ad.AnnData, plan: Plan) -> ad.AnnData:
    """Return the prepared cells with other values of the target's."""
    changed = prepared.copy()
    x = changed.X.toarray()
    x[(prepared.obs["batch"] == plan.target).to_numpy(), ::2] = 1.0
    changed.X = sparse.csr_matrix(x)
    return changed
