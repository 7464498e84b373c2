"""The trained model on disk: weights only, and `model.json` with everything needed to use them.

trained_models/<batch>.pt       encoder, head and the batch's adapter (none for the source)
trained_models/target.pth       the target's own: encoder, head, adapter
trained_models/reference codes.pt   codes of annotated cells, for thresholds and alignment
trained_models/val_stats_trained_model.json   predictions on held-out cells
trained_models/model.json       features, classes, thresholds, files, how it was trained
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .alignment import Annotated, KnownCodes
from .artifacts import MODEL_FORMAT, Run, file_name, read_model_json, whole_file, write_json
from .data import sample
from .errors import InputError
from .networks import Adapter, Annotator, Encoder, Head
from .parameters import Parameters
from .training import Reference, decode, encode, held_out_codes

CODES = "reference codes.pt"  # the space keeps it apart from any batch's file, where it would be %20
MOST_CODES = 20_000  # of training cells, 1 kB each


def _save(weights: Mapping[str, torch.Tensor], path: Path) -> None:
    with whole_file(path) as temporary:
        torch.save({name: tensor.detach().cpu() for name, tensor in weights.items()}, temporary)


def _load(path: Path) -> dict[str, torch.Tensor]:
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"PRETRAINED_MODEL_PATH: {path} is missing; copy the whole trained_models folder.") from None
    except Exception as error:  # torch raises many types for a damaged or foreign file
        raise InputError(f"PRETRAINED_MODEL_PATH: {path} is not a file of weights: {error}") from None
    if not isinstance(weights, dict):
        raise InputError(f"PRETRAINED_MODEL_PATH: {path} is not a file of weights as jind-nb writes it.")
    return weights


def save_reference(reference: Reference, parameters: Parameters, preprocessing: dict[str, Any], folder: Path) -> None:
    """Writes all annotated batches' models, the reference codes, val_stats and model.json.

    Parameters
    ----------
    preprocessing
        `Plan.preprocessing`: all that brings a new file to the same scale.
    folder
        `trained_models` of the run.
    """
    files = _file_names(reference.batches)
    for batch in reference.batches:
        _save(reference.annotator(batch).state_dict(), folder / files[batch])
    known = known_codes(reference)
    _save(
        {name: torch.from_numpy(getattr(known, name)) for name in ("codes", "batch", "y", "held_out", "counts")},
        folder / CODES,
    )
    device = reference.settings.device
    thresholds = known.thresholds(reference.model, reference.settings.theta, device)
    write_json(
        folder / "val_stats_trained_model.json",
        {
            "classes": reference.classes,
            "true": [reference.classes[y] for c in reference.batches.values() for y in c.y[c.held_out]],
            "batch": [name for name, c in reference.batches.items() for _ in range(int(c.held_out.sum()))],
            "probabilities": decode(reference.model.head, known.held_out, device).tolist(),
        },
    )
    write_json(
        folder / "model.json",
        {
            "format": MODEL_FORMAT,
            "made by": {"jind-nb": version("jind-nb"), "torch": torch.__version__},
            "classes": reference.classes,
            "features": reference.features,
            "preprocessing": preprocessing,
            "thresholds": dict(zip(reference.classes, thresholds.tolist(), strict=True)),
            "source": reference.source,
            "files": files,
            "target": None,
            "training": {
                "METHOD": parameters.METHOD,
                "SEED": parameters.SEED,
                "EPOCHS": parameters.EPOCHS,
                "REJECTION": parameters.REJECTION,
                "cells": {name: len(cells.y) for name, cells in reference.batches.items()},
                "held_out": {name: int(cells.held_out.sum()) for name, cells in reference.batches.items()},
            },
        },
    )


def _file_names(batches: Iterable[str]) -> dict[str, str]:
    """A file for each batch, apart even on a disk that takes `A` and `a` for the same."""
    files: dict[str, str] = {}
    for batch in batches:
        taken = {name.casefold() for name in files.values()}
        name = file_name(batch)
        while f"{name}.pt".casefold() in taken:
            name += "~"
        files[batch] = f"{name}.pt"
    return files


def known_codes(reference: Reference) -> KnownCodes:
    """Codes of the annotated cells through their own batches' annotators; at most 20,000 training cells, at random."""
    names, n_classes = list(reference.batches), len(reference.classes)
    training = {name: np.flatnonzero(~cells.held_out) for name, cells in reference.batches.items()}
    batch = np.repeat(np.arange(len(names)), [len(training[name]) for name in names])
    rows = np.concatenate(list(training.values()))
    chosen = sample(len(rows), MOST_CODES, reference.settings.seed)
    batch, rows = batch[chosen], rows[chosen]
    codes, y = [], []
    for i, (name, cells) in enumerate(reference.batches.items()):
        of_batch = rows[batch == i]
        codes.append(encode(reference.annotator(name), cells.x[of_batch], reference.settings.device))
        y.append(cells.y[of_batch])
    counts = np.bincount(np.concatenate([cells.y for cells in reference.batches.values()]), minlength=n_classes)
    return KnownCodes(
        classes=reference.classes,
        batches=names,
        codes=np.concatenate(codes),
        batch=batch,
        y=np.concatenate(y),
        held_out=held_out_codes(reference),
        counts=counts,
    )


def load_shared(folder: Path, device: torch.device) -> tuple[Annotator, KnownCodes]:
    """The shared encoder and head (the source's file), and the reference codes.

    Raises
    ------
    InputError
        For a missing, damaged or foreign file.
    """
    description = read_model_json(folder)
    model = Annotator(Encoder(len(description["features"])), Head(len(description["classes"])))
    file = folder / Path(description["files"][description["source"]]).name
    try:
        model.load_state_dict(_load(file))
        stored = _load(folder / CODES)
        arrays = {name: stored[name].numpy() for name in ("codes", "batch", "y", "held_out", "counts")}
        known = KnownCodes(classes=description["classes"], batches=list(description["files"]), **arrays)
    except (RuntimeError, KeyError) as error:
        raise InputError(f"PRETRAINED_MODEL_PATH: the weights in {folder} do not fit its model.json: {error}") from None
    return model.to(device), known


def save_target(annotated: Annotated, batch: str, run: Run) -> None:
    """Writes target.pth and enters it in model.json with its own thresholds.

    A run with a saved model gets its own copy of that model first, so that its folder is complete by itself.
    """
    folder = run.models
    if run.model_folder != folder:
        for name in ("model.json", CODES, *read_model_json(run.model_folder)["files"].values()):
            with whole_file(folder / Path(name).name) as temporary:
                shutil.copyfile(run.model_folder / Path(name).name, temporary)
    _save(annotated.model.state_dict(), folder / "target.pth")
    description = read_model_json(folder)
    thresholds = list(annotated.stages.values())[-1].thresholds
    description["target"] = {
        "batch": batch,
        "file": "target.pth",
        "has_adapter": annotated.model.adapter is not None,
        "thresholds": dict(zip(description["classes"], thresholds.tolist(), strict=True)),
    }
    write_json(folder / "model.json", description)


def load_target(folder: Path) -> Annotator:
    """The target's annotator, on the CPU.

    Raises
    ------
    InputError
        For a model that has not annotated a target yet, or a damaged one.
    """
    description = read_model_json(folder)
    if description["target"] is None:
        raise InputError(f"PRETRAINED_MODEL_PATH: the model in {folder} has not annotated a target yet.")
    n_features = len(description["features"])
    adapter = Adapter(n_features) if description["target"]["has_adapter"] else None
    model = Annotator(Encoder(n_features), Head(len(description["classes"])), adapter)
    try:
        model.load_state_dict(_load(folder / "target.pth"))
    except RuntimeError as error:
        raise InputError(
            f"PRETRAINED_MODEL_PATH: target.pth in {folder} does not fit its model.json: {error}"
        ) from None
    return model
