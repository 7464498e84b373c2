"""The files that one stage leaves for the next: written whole, and read only if they were made with the same parameters.

`results.write` writes the files for users, `model.store` the models; `folder.Run` has the path of every file.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from pydantic import TypeAdapter

from ..core import locks
from ..core.files import read_json, whole_file, write_json
from ..core.model_json import read_model_json
from ..core.stage_words import STAGES
from ..data.plan import Plan
from ..errors import InputError
from . import cache, previous
from .folder import Run

log = logging.getLogger(__name__)


def begin_stage(run: Run, stage: str) -> None:
    """Mark a stage's earlier files as outdated, before its first new file is written.

    When notebooks are run by hand in the folder of a finished run with other parameters or other input, that run is
    first moved to `previous/`.

    Raises
    ------
    InputError
        If a `jind-nb run` is at work in the folder.
    """
    whole = run.cohort or run
    if whole.manifest.exists() and not cache.has_same_parameters(whole):
        before = STAGES[: STAGES.index(stage)]
        records = cache.read_records(whole) or {}
        keep = cache.recorded_files(whole, records, [name for name in before if name in records]) | {whole.log}
        with locks.held(whole.folder):
            previous.recover(whole)
            previous.set_aside(whole, keep)
        log.info("The finished run here had other parameters or input; it was moved to %s.", previous.PREVIOUS)
    run.stage_parameters_json(stage).unlink(missing_ok=True)


def finish_stage(run: Run, stage: str) -> None:
    """Write the parameters that a stage's files were made with; no later stage reads them without this file."""
    write_json(run.stage_parameters_json(stage), cache.parameters_of_stage(run, stage))


def model_folder(run: Run) -> Path:
    """Return the folder of the annotated batches' model: the run's own, or PRETRAINED_MODEL_PATH.

    Raises
    ------
    InputError
        If it is the run's own, and notebook 2 has not written it, or wrote it with other parameters.
    """
    if run.parameters.PRETRAINED_MODEL_PATH is not None:
        return Path(run.parameters.PRETRAINED_MODEL_PATH)
    whole = run.cohort or run
    return _file_of_stage(whole, "2_train", whole.models / "model.json").parent


def is_done(run: Run, stage: str) -> bool:
    """Return whether a stage has finished with the run's parameters."""
    return run.stage_parameters_json(stage).exists() and not (
        run.input_matters and cache.changed_parameters(run, stage)
    )


# --- stage 1 -----------------------------------------------------------------------------------------------------------


def save_prepared(run: Run, prepared: ad.AnnData, plan: Plan, embedding: pd.DataFrame) -> None:
    """Write stage 1's result: the prepared cells (h5ad), the plan (JSON), and the picture's points (columns `row` of the
    prepared cells, `x`, `y`)."""
    begin_stage(run, "1_preprocess")
    with whole_file(run.work / "prepared.h5ad") as temporary:
        prepared.write_h5ad(temporary)
    write_json(run.work / "plan.json", asdict(plan))
    with whole_file(run.work / "embedding.parquet") as temporary:
        embedding.to_parquet(temporary)
    finish_stage(run, "1_preprocess")


def load_plan(run: Run) -> Plan:
    """Read stage 1's plan."""
    return TypeAdapter(Plan).validate_json(_file_of_stage(run, "1_preprocess", run.work / "plan.json").read_bytes())


def load_prepared(run: Run) -> ad.AnnData:
    """Read stage 1's prepared cells."""
    return ad.read_h5ad(_file_of_stage(run, "1_preprocess", run.work / "prepared.h5ad"))


def load_prepared_obs(run: Run) -> pd.DataFrame:
    """Read only the table of the prepared cells, without their values."""
    with h5py.File(_file_of_stage(run, "1_preprocess", run.work / "prepared.h5ad"), "r") as stored:
        return ad.io.read_elem(stored["obs"])


def load_embedding(run: Run) -> pd.DataFrame:
    """Read the points of stage 1's picture: columns `row`, `x`, `y`."""
    return pd.read_parquet(_file_of_stage(run, "1_preprocess", run.work / "embedding.parquet"))


# --- stage 2 -----------------------------------------------------------------------------------------------------------


def save_training(run: Run, training: Mapping[str, Any]) -> None:
    """Write stage 2's record: `source`, `intermediates`, `candidates`, `history`, `curves`, `calibration`."""
    write_json(run.work / "training.json", dict(training))
    finish_stage(run, "2_train")
    run.unfinished.unlink(missing_ok=True)


def load_training(run: Run) -> dict[str, Any]:
    """Read stage 2's record; of a saved model as much as its model.json tells.

    One of several targets has a record of its own where it learned anew.
    """
    if run.cohort is not None and not (run.work / "training.json").exists():
        return load_training(run.cohort)
    if run.parameters.PRETRAINED_MODEL_PATH is not None:
        # A finished run has its own copy, and may be on another machine.
        given = model_folder(run)
        model = read_model_json(given if given.exists() else run.models)
        others = [batch for batch in model["files"] if batch != model["source"]]
        known = {"source": model["source"], "intermediates": others, "calibration": model["calibration"]}
        return known | {name: [] for name in ("candidates", "history", "curves")}
    return read_json(_file_of_stage(run, "2_train", run.work / "training.json"))


# --- stage 3 -----------------------------------------------------------------------------------------------------------


def save_target(run: Run, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> None:
    """Write stage 3's result: arrays by name (npz), and `stages`, `curves`, `notes`, `device` (JSON)."""
    with whole_file(run.work / "target.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    write_json(run.work / "target.json", dict(record))
    finish_stage(run, "3_align")


def load_target(run: Run) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read stage 3's arrays and record."""
    with np.load(_file_of_stage(run, "3_align", run.work / "target.npz"), allow_pickle=False) as stored:
        arrays = dict(stored)
    return arrays, read_json(run.work / "target.json")


def load_device(run: Run) -> str | None:
    """Read what annotated the run's target, `cpu` or the kind of GPU; None of a run of an earlier version."""
    record = read_json(_file_of_stage(run, "3_align", run.work / "target.json"))
    return None if record.get("device") is None else str(record["device"])


def save_latent_points(run: Run, points: pd.DataFrame) -> None:
    """Write stage 3's picture, as `embedding.latent_points` makes it."""
    with whole_file(run.work / "codes.parquet") as temporary:
        points.to_parquet(temporary)


def load_latent_points(run: Run) -> pd.DataFrame:
    """Read stage 3's picture."""
    return pd.read_parquet(_file_of_stage(run, "3_align", run.work / "codes.parquet"))


def _file_of_stage(run: Run, stage: str, path: Path) -> Path:
    """Return the path of one of a stage's files, if the stage has finished with the same parameters.

    Raises
    ------
    InputError
        Naming the notebook to run first, or the parameters that differ.
    """
    if not path.exists() or not run.stage_parameters_json(stage).exists():
        raise InputError(f"{path} is missing: run notebooks/{stage}.ipynb first (OUTPUT_PATH {run.folder}).")
    if run.input_matters and (found := cache.changed_parameters(run, stage)):
        raise InputError(
            f"notebooks/{stage}.ipynb was last run with other parameters (OUTPUT_PATH {run.folder}): "
            f"{'; '.join(found)}. Run it again with the new value, or set the old value here."
        )
    return path
