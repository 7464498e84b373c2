"""The trained model on disk: weights only, and `model.json` with everything needed to use them.

trained_models/<batch>.pt       encoder, head and the batch's adapter (none for the source)
trained_models/target.pth       the target's own: encoder, head, adapter
trained_models/target cells.pt  fingerprints of the target's cells, by which they are known again, and their answers
trained_models/reference codes.pt   codes of annotated cells, for thresholds, novelty and alignment
trained_models/val_stats_trained_model.json   predictions on held-out cells
trained_models/model.json       features, classes, preprocessing, thresholds, calibration, files with their hashes
trained_models/MODEL_CARD.md    the same for people

Hashes tell a damaged or changed file. They do not tell who made a model: whoever changes one can hash it again. What is
read is data all the same; nothing in it is ever executed.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from scipy import sparse

from ..core.files import file_names, sha256, whole_file, write_json
from ..core.model_json import MODEL_FORMAT, read_model_json, write_model_json
from ..core.resources import templates
from ..data.fingerprints import fingerprints
from ..data.plan import Plan
from ..errors import InputError
from ..runs.folder import Run
from ..runs.stages import begin_stage, model_folder
from .alignment import ADAPTED, SHARED, Annotated, KnownCodes, known_codes
from .calibration import Calibration, best_way
from .networks import (
    Adapter,
    Annotator,
    Encoder,
    Head,
    LinearHeads,
    Projection,
    Translation,  # fmt: skip
)
from .predictions import Rule
from .training import Reference, Settings, decode, encode

# The space keeps these apart from any batch's file, where it would be %20.
CODES = "reference codes.pt"

TARGET_CELLS = "target cells.pt"

TARGET = "target.pth"

CODE_ARRAYS = ("codes", "batch", "y", "held_out", "counts")

AS_IN_ITS_RUN = "as in the model's own run"


# --- writing -------------------------------------------------------------------------------------------------------------


def _save(weights: Mapping[str, torch.Tensor], path: Path) -> None:
    with whole_file(path) as temporary:
        torch.save({name: tensor.detach().cpu() for name, tensor in weights.items()}, temporary)


def save_reference(reference: Reference, calibrations: Mapping[str, Calibration], plan: Plan, run: Run) -> None:
    """Writes all annotated batches' models, the reference codes, val_stats and model.json.

    Parameters
    ----------
    calibrations
        Way to annotate -> what left-out batches taught about it; empty if none were left out.
    plan
        Its `preprocessing` brings a new file to the scale the model learned from.
    """
    folder, parameters = run.models, run.parameters
    begin_stage(run, "2_train")
    files = _file_names(reference.batches)
    for batch in reference.batches:
        _save(reference.annotator(batch).state_dict(), folder / files[batch])
    known = known_codes(reference)
    known.rules = {way: calibration.rule for way, calibration in calibrations.items()}
    _save({name: torch.from_numpy(getattr(known, name)) for name in CODE_ARRAYS}, folder / CODES)
    device = reference.settings.device
    write_json(
        folder / "val_stats_trained_model.json",
        {
            "classes": reference.classes,
            "true": [reference.classes[y] for c in reference.batches.values() for y in c.y[c.held_out]],
            "batch": [name for name, c in reference.batches.items() for _ in range(int(c.held_out.sum()))],
            "probabilities": decode(reference.model.head, known.held_out, device).tolist(),
        },
    )
    no_cells = np.empty((0, known.codes.shape[1]), dtype=np.float32)
    judged = known.judge(reference.model, no_cells, reference.settings, known.rules.get(SHARED, Rule()))
    description = {
        "format": MODEL_FORMAT,
        "made by": {name: version(name) for name in ("jind-nb", "torch", "numpy", "anndata")},
        "classes": reference.classes,
        "features": reference.features,
        "preprocessing": asdict(plan)["preprocessing"],
        "parents": plan.parents,
        "thresholds": _by_class(reference.classes, judged.thresholds),
        "calibration": {way: asdict(calibration) for way, calibration in calibrations.items()},
        "a new file is annotated with": SHARED,
        "alignment": dict(zip(("way", "why"), best_way(calibrations), strict=True)),
        "code size": known.codes.shape[1],
        "source": reference.source,
        "files": files,
        "target": None,
        "training": {
            **{name: getattr(parameters, name) for name in ("METHOD", "SEED", "EPOCHS", "REJECTION", "TARGET_ERROR")},
            "ALIGN": parameters.aligns,
            "cells": {name: len(cells.y) for name, cells in reference.batches.items()},
            "held_out": {name: int(cells.held_out.sum()) for name, cells in reference.batches.items()},
            "cells of each type": dict(zip(reference.classes, known.counts.tolist(), strict=True)),
        },
        "hashes": {name: sha256(folder / name) for name in (*files.values(), CODES)},
    }
    write_model_json(folder, description)


def card(folder: Path) -> str:
    """What MODEL_CARD.md says, from the model's description: somebody else's file is not shown in a notebook, where it could
    hold scripts.

    Raises
    ------
    InputError
        If the folder holds no model, or it does not describe itself as ours do.
    """
    description = read_model_json(folder)
    _try_card(folder, description)
    return _card(description)


def _as_text(words: object) -> str:
    """Words that Markdown shows as they are, whatever is in them: no tag, link, formula or column of a table.

    >>> print(_as_text("CD4_T <b>"))
    CD4_T &#60;b&#62;
    """
    return re.sub(r"[<>&\[\]`*|$~\\]", lambda sign: f"&#{ord(sign[0])};", str(words))


def _card(description: dict[str, Any]) -> str:
    calibration = {way: Calibration(**values) for way, values in description["calibration"].items()}
    environment = templates().overlay(autoescape=False, trim_blocks=True, lstrip_blocks=True)
    environment.filters["plain"] = _as_text
    environment.filters["quoted"] = lambda name: _as_text(json.dumps(name, ensure_ascii=False))
    return environment.get_template("MODEL_CARD.md.j2").render(model=description, calibration=calibration.get(SHARED))


def _write_card(folder: Path, description: dict[str, Any]) -> None:
    card = _card(description)
    with whole_file(folder / "MODEL_CARD.md") as temporary:
        temporary.write_text(card, encoding="utf-8")


def _try_card(folder: Path, description: dict[str, Any]) -> None:
    """Sees that another's model describes itself as ours do.

    Raises
    ------
    InputError
        If not.
    """
    try:
        _card(description)
    except Exception as error:  # a template fails in as many ways as there are values
        raise InputError(
            f"PRETRAINED_MODEL_PATH: the model.json in {folder} does not describe a model: {error}"
        ) from None


def _by_class(classes: list[str], thresholds: np.ndarray) -> dict[str, float]:
    return dict(zip(classes, thresholds.tolist(), strict=True))


def _file_names(batches: Iterable[str]) -> dict[str, str]:
    return {batch: f"{name}.pt" for batch, name in file_names(batches).items()}


def save_target(annotated: Annotated, batch: str, x: sparse.csr_matrix, run: Run) -> None:
    """Writes target.pth, its cells' fingerprints and answers, enters them in model.json with the target's own thresholds,
    and writes MODEL_CARD.md.

    A run with a saved model gets its own copy of that model first, so that its folder is complete by itself.

    Parameters
    ----------
    x
        The target's prepared cells, (n_target, p).
    """
    folder = run.models
    begin_stage(run, "3_align")
    given = run.parameters.PRETRAINED_MODEL_PATH
    if given is not None and Path(given) != folder:
        others = read_model_json(model_folder(run))
        for name in (CODES, *others["files"].values()):
            with whole_file(folder / Path(name).name) as temporary:
                shutil.copyfile(_checked(model_folder(run), name, others), temporary)
        write_model_json(folder, others | {"target": None})
        _try_card(model_folder(run), others)
    _save(annotated.model.state_dict(), folder / TARGET)
    last = list(annotated.stages.values())[-1]
    unlike = np.zeros(x.shape[0], dtype=bool) if last.unlike is None else last.unlike
    answers = {
        "fingerprints": fingerprints(x).view(np.int64),
        "probabilities": last.probabilities.astype(np.float32),
        "unlike": unlike,
    }
    _save({name: torch.from_numpy(values) for name, values in answers.items()}, folder / TARGET_CELLS)
    description = read_model_json(folder)
    description["target"] = {
        "batch": batch,
        "file": TARGET,
        "has_adapter": annotated.model.adapter is not None,
        "cells": x.shape[0],
        "thresholds": _by_class(description["classes"], last.thresholds),
        "hashes": {name: sha256(folder / name) for name in (TARGET, TARGET_CELLS)},
    }
    write_model_json(folder, description)
    _write_card(folder, description)


# --- reading -------------------------------------------------------------------------------------------------------------


def _checked(folder: Path, name: str, description: Mapping[str, Any]) -> Path:
    """The path of one of the model's files, if it is as it was written.

    Raises
    ------
    InputError
        If it is missing, or its hash is not the one in model.json.
    """
    path = folder / Path(name).name
    try:
        there = path.is_file()
    except (OSError, ValueError):  # no name for a file
        there = False
    if not there:
        raise InputError(f"PRETRAINED_MODEL_PATH: {path} is missing; copy the whole trained_models folder.")
    hashes = description["hashes"] | (description["target"] or {}).get("hashes", {})
    if sha256(path) != hashes.get(name):
        raise InputError(
            f"PRETRAINED_MODEL_PATH: {path} is not the file model.json describes (its hash differs): it is cut short, "
            "damaged, or from another model. Copy the whole trained_models folder again."
        )
    return path


def _load(path: Path) -> dict[str, torch.Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of foreign formats, which are refused
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises many types for a damaged or foreign file, and proposes to run the code in it
        raise InputError(
            f"PRETRAINED_MODEL_PATH: {path} is not a file of weights; nothing in it was executed. Copy the whole "
            "trained_models folder again."
        ) from None
    if not isinstance(weights, dict) or not all(_is_plain(value) for value in weights.values()):
        raise InputError(f"PRETRAINED_MODEL_PATH: {path} is not a file of weights as jind-nb writes it.")
    if not all(bool(torch.isfinite(value).all()) for value in weights.values()):
        raise InputError(f"PRETRAINED_MODEL_PATH: {path} holds NaN or infinite weights; train the model again.")
    return weights


def _is_plain(value: Any) -> bool:
    """Whether it is a tensor whose values are all there: others can stand for more than the memory holds."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def _fits(known: KnownCodes, size: int) -> bool:
    """Whether the reference codes are of the shapes and types, and within the bounds, that annotating relies on."""
    n, n_classes = len(known.codes), len(known.classes)
    shapes = known.codes.shape == (n, size) and known.held_out.ndim == 2 and known.held_out.shape[1] == size
    kinds = known.codes.dtype == known.held_out.dtype == np.float32
    kinds = kinds and all(of.dtype == np.int64 for of in (known.batch, known.y, known.counts))
    if not (
        n and shapes and kinds and known.batch.shape == known.y.shape == (n,) and known.counts.shape == (n_classes,)
    ):
        return False
    bounds = ((known.y, n_classes), (known.batch, len(known.batches)))
    return all(of.min() >= 0 and of.max() < most for of, most in bounds) and bool(known.counts.min() >= 0)


def _annotator(folder: Path, name: str, description: Mapping[str, Any], has_adapter: bool) -> Annotator:
    """An annotator from one file of weights, on the CPU."""
    n_features, n_classes, size = len(description["features"]), len(description["classes"]), description["code size"]
    if description["training"]["METHOD"] == "reference":
        model = Annotator(Encoder(n_features), Head(n_classes), Adapter(n_features) if has_adapter else None)
    else:
        adapter = Translation(size) if has_adapter else None
        model = Annotator(Projection(n_features, size), LinearHeads(size, n_classes), adapter)
    try:
        model.load_state_dict(_load(_checked(folder, name, description)))
    except RuntimeError as error:
        raise InputError(f"PRETRAINED_MODEL_PATH: {name} in {folder} does not fit its model.json: {error}") from None
    return model


def load_shared(folder: Path, device: torch.device) -> tuple[Annotator, KnownCodes]:
    """The shared encoder and head (the source's file), and the reference codes with the rules of rejection.

    Raises
    ------
    InputError
        For a missing, damaged or foreign file.
    """
    description = read_model_json(folder)
    model = _annotator(folder, description["files"][description["source"]], description, has_adapter=False)
    stored = _load(_checked(folder, CODES, description))
    try:
        known = KnownCodes(
            classes=description["classes"],
            batches=list(description["files"]),
            **{name: stored[name].numpy() for name in CODE_ARRAYS},
            rules={way: _calibration(values).rule for way, values in description["calibration"].items()},
            way=description["alignment"]["way"],
            why=description["alignment"]["why"],
        )
        if not _fits(known, model.encoder.size):
            raise ValueError(f"{CODES} does not hold the codes it describes")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"PRETRAINED_MODEL_PATH: the model in {folder} does not fit its model.json: {error}") from None
    return model.to(device), known


def _calibration(values: Mapping[str, Any]) -> Calibration:
    """
    Raises
    ------
    ValueError
        If it is not as `calibration` makes it.
    """
    try:
        calibration = TypeAdapter(Calibration).validate_python(values)
    except ValidationError as error:
        raise ValueError("; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])) from None
    if not 0 < calibration.temperature < np.inf:
        raise ValueError(f"a temperature of {calibration.temperature}")
    return calibration


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
    return _annotator(folder, TARGET, description, description["target"]["has_adapter"])


def own_target(folder: Path) -> np.ndarray:
    """The fingerprints of the cells that the model annotated as its run's target, uint64 (n_target,)."""
    description = read_model_json(folder)
    if description["target"] is None:
        return np.empty(0, dtype=np.uint64)
    return _target_cells(folder, description)["fingerprints"].view(np.uint64)


def of_own_target(folder: Path, x: sparse.csr_matrix) -> np.ndarray:
    """Which prepared cells (n, p) the model has annotated as its run's target, bool (n,)."""
    return np.isin(fingerprints(x), own_target(folder))


def _target_cells(folder: Path, description: Mapping[str, Any]) -> dict[str, np.ndarray]:
    stored = {name: of.numpy() for name, of in _load(_checked(folder, TARGET_CELLS, description)).items()}
    n = len(stored.get("fingerprints", ()))
    shapes = {"fingerprints": (n,), "probabilities": (n, len(description["classes"])), "unlike": (n,)}
    kinds = {"fingerprints": np.int64, "probabilities": np.float32, "unlike": np.bool_}
    fits = {name: of.shape for name, of in stored.items()} == shapes
    if not fits or any(stored[name].dtype != kind for name, kind in kinds.items()):
        raise InputError(
            f"PRETRAINED_MODEL_PATH: {TARGET_CELLS} in {folder} does not hold fingerprints and answers; copy it again."
        )
    return stored


def recall(annotated: Annotated, x: sparse.csr_matrix, folder: Path, known: KnownCodes, settings: Settings) -> None:
    """Enters, as a further stage, what the model's own run said of cells (n, p) of its target. It is looked up, because an
    answer also rests on the neighbours that the cells had there.

    Raises
    ------
    InputError
        For a damaged file.
    """
    description = read_model_json(folder)
    stored, target = _target_cells(folder, description), description["target"]
    there = stored["fingerprints"].view(np.uint64)
    order = np.argsort(there, kind="stable")
    cells = order[np.searchsorted(there, fingerprints(x), sorter=order)]
    annotated.model = load_target(folder).to(settings.device)
    annotated.way = ADAPTED if target["has_adapter"] else SHARED
    codes = annotated.codes[AS_IN_ITS_RUN] = encode(annotated.model, x, settings.device)
    rule = known.rules.get(annotated.way) or known.rules.get(SHARED, Rule())
    annotated.stages[AS_IN_ITS_RUN] = replace(
        known.judge(annotated.model, codes, settings, rule),
        probabilities=stored["probabilities"][cells],
        unlike=None if rule.most_novel is None else stored["unlike"][cells],
        thresholds=np.array([target["thresholds"][name] for name in known.classes]),
    )
    annotated.notes.append(f"{len(cells):,} cells are those the model annotated in its own run: annotated as there.")
