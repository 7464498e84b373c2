"""The whole sequence: what a METHOD and the parameters settle, that no label of the target is read, and odd data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch
from scipy import sparse

from jind_nb.core.labels import UNASSIGNED
from jind_nb.core.parameters import make_parameters
from jind_nb.model import annotate as sequence
from jind_nb.model import reference as method_reference
from jind_nb.model.annotate import annotate, calibrate, known_with_rules, leave_batches_out, settings_of
from jind_nb.model.calibration import calibrate_modes
from jind_nb.model.state import AlignmentMode, TargetStage
from tests.helpers.learn import CPU, METHODS, learn, learned, prepare_simulated, settings_with, target_cells
from tests.helpers.simulated import THREE_BATCHES, simulated

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("short_game")]


@pytest.mark.parametrize(("method", "held_out", "by_trial"), [("default", 0.1, False), ("reference", 0.2, True)])
def test_a_method_fixes_its_constants(method: str, held_out: float, by_trial: bool) -> None:
    parameters = make_parameters(
        {
            "PATH": "x.h5ad", "BATCH_COL": "b", "LABELS_COL": "l", "TARGET_DATASET_NAME": "c", "OUTPUT_PATH": "o",
            "METHOD": method, "SEED": 7, "EPOCHS": 4, "REJECTION": 0.2, "ALIGN": False, "USE_GPU": False,
        }
    )  # fmt: skip
    found = settings_of(parameters)
    assert found == settings_with(
        method=sequence.METHODS[method], always_align=method == "reference", seed=7, epochs=4, theta=0.2, align=False, calibrate=method == "default",
    )  # fmt: skip
    assert found.held_out == 0.1
    assert (held_out, by_trial) == (found.method.SOURCE_HELD_OUT, found.method.SOURCE_BY_TRIAL)


@pytest.mark.parametrize(
    ("method", "align", "always"),
    [("default", None, False), ("default", True, True), ("reference", None, True), ("reference", True, True)],
)
def test_only_default_without_align_asks_whether_alignment_helps(
    tmp_path: Path, method: str, align: bool | None, always: bool
) -> None:
    """It asks it of models of format 4 only; today's answer before and after alignment, and weigh."""
    _, _, settings = prepare_simulated(tmp_path, THREE_BATCHES, METHOD=method, ALIGN=align)
    assert (settings.align, settings.always_align) == (True, always)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target_error", [None, 0.1])
def test_default_and_target_error_leave_batches_out(tmp_path: Path, method: str, target_error: float | None) -> None:
    """METHOD `reference` takes long, and has no use of it but for TARGET_ERROR."""
    prepared = prepare_simulated(tmp_path, THREE_BATCHES, METHOD=method, TARGET_ERROR=target_error, EPOCHS=1)
    assert bool(calibrate(learn(*prepared))) is (method == "default" or target_error is not None)


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU here")
def test_without_a_gpu_a_line_says_what_is_used(caplog: pytest.LogCaptureFixture) -> None:
    values = {
        "PATH": "cells.h5ad", "BATCH_COL": "batch", "LABELS_COL": "celltype", "TARGET_DATASET_NAME": "c", "OUTPUT_PATH": "unused",
    }  # fmt: skip
    with caplog.at_level("INFO"):
        assert settings_of(make_parameters(values)).device == CPU
    assert [record.message for record in caplog.records] == ["computing on cpu (no GPU found)"]


@pytest.mark.parametrize("method", METHODS)
def test_a_simulated_target_is_annotated_right(tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(method_reference, "STEPS", 40)  # as in a run
    data = {name: dict.fromkeys(("B", "T", "NK"), 150) for name in ("a", "b")} | {"c": {"B": 60, "T": 60}}
    adata = simulated(data)
    shared, x, known, settings = learned(tmp_path, adata, EPOCHS=5, METHOD=method, ALIGN=True)
    annotated = annotate(shared, x, known, settings)
    truth = adata.obs.loc[adata.obs["batch"] == "c", "celltype"].to_numpy()
    for stage, predictions in annotated.stages.items():
        kept = predictions.names != UNASSIGNED
        assert (predictions.raw == truth).mean() > 0.95, stage
        assert (predictions.names == truth)[kept].mean() > 0.95, stage


@pytest.mark.parametrize("method", METHODS)
def test_the_target_s_labels_have_no_say_in_its_annotation(tmp_path: Path, method: str) -> None:
    """Wrong, new or no labels in the target: the same predictions, bit for bit. METHOD `default` has the target's values
    in its encoder, and aligns with them; neither reads a label."""

    def probabilities(adata: ad.AnnData, name: str) -> np.ndarray:
        (tmp_path / name).mkdir()
        annotated = annotate(*learned(tmp_path / name, adata, EPOCHS=1, METHOD=method, ALIGN=True))
        return list(annotated.stages.values())[-1].probabilities

    adata = simulated(THREE_BATCHES)
    in_target = (adata.obs["batch"] == "c").to_numpy()
    right = probabilities(adata, "right")
    for name, label in {"wrong": "B", "new": "Erythrocyte", "none": None}.items():
        other = adata.copy()
        other.obs["celltype"] = other.obs["celltype"].astype(object).mask(in_target, label)
        np.testing.assert_array_equal(probabilities(other, name), right, err_msg=name)


# --- odd data ----------------------------------------------------------------------------------------------------------


BT = {"B": 20, "T": 20}
ODD: dict[str, Any] = {
    "a target of one type": {"a": BT, "b": BT, "c": {"B": 15}},
    "a target of a type of its own": {"a": BT, "b": BT, "c": {"Mono": 15}},
    "an intermediate of one type": {"a": BT, "b": {"T": 20}, "c": BT},
    "a source of one type": {"a": {"B": 20}, "b": BT, "c": BT},
    "two types, each in a batch of its own": {"a": {"B": 20}, "b": {"T": 20}, "c": BT},
    "a type of one batch only": {"a": BT, "b": BT | {"NK": 20}, "d": BT | {"Mono": 20}, "c": BT},
    "batches with no type in common": {"a": BT, "b": {"NK": 20, "Mono": 20}, "c": BT},
    "a batch of two cells": {"a": BT, "b": {"B": 1, "T": 1}, "c": BT},
    "one feature": simulated({"a": BT, "b": BT, "c": BT}, n_genes=1),
    "two features": simulated({"a": BT, "b": BT, "c": BT}, n_genes=2),
    "five features": simulated({"a": BT, "b": BT, "c": BT}, n_genes=5),
    "more features than cells": simulated({"a": {"B": 5, "T": 5}, "b": {"B": 5, "T": 5}, "c": {"B": 3}}, n_genes=80),
}  # fmt: skip


def with_empty_cells(n: int) -> ad.AnnData:
    """The first n cells of each batch have no value."""
    adata = simulated({"a": BT, "b": BT, "c": BT})
    x = adata.X.toarray()
    for name in "abc":
        x[np.flatnonzero(adata.obs["batch"] == name)[:n]] = 0
    adata.X = sparse.csr_matrix(x)
    return adata


def all_alike(n_genes: int) -> ad.AnnData:
    """Cells of the same direction: scaled to one length, nothing tells them apart."""
    adata = simulated({"a": BT, "b": BT, "c": BT}, n_genes)
    depth = np.random.default_rng(0).integers(1, 5, (adata.n_obs, 1))
    adata.X = sparse.csr_matrix((depth * np.ones((1, n_genes))).astype(np.float32))
    return adata


ODD |= {
    "empty cells": with_empty_cells(5),
    "half the cells empty": with_empty_cells(20),
    "one feature that every cell has": all_alike(1),
    "cells that are all alike": all_alike(60),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("odd", ODD)
def test_odd_data_are_trained_on_left_out_and_annotated(tmp_path: Path, odd: str, method: str) -> None:
    """All that a run computes, without a warning (an error in tests) and without a number that is none."""
    values = {"SOURCE_DATASET_NAME": "a", "METHOD": method, "ALIGN": True, "EPOCHS": 1, "MIN_CELL_TYPE_POPULATION": 1}
    values["NORMALISATION"] = "as_is" if "alike" in odd or "every cell" in odd else "auto"
    prepared, plan, settings = prepare_simulated(tmp_path, ODD[odd], **values)
    reference = learn(prepared, plan, settings)
    calibrations = calibrate_modes(leave_batches_out(reference), settings, len(reference.batches))
    known = known_with_rules(reference, calibrations)
    x = target_cells(prepared, plan)
    annotated = annotate(reference.model, x, known, settings)
    assert set(known.rules) == set(AlignmentMode)
    assert TargetStage.ALIGNED in annotated.stages
    for stage, predictions in annotated.stages.items():
        assert predictions.probabilities.shape == (x.shape[0], len(plan.classes))
        np.testing.assert_allclose(predictions.probabilities.sum(axis=1), 1, rtol=1e-5)
        assert np.isfinite(annotated.latent[stage]).all()
