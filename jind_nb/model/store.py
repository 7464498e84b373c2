"""The trained model on disk: weights only, and `model.json` with everything needed to use them.

trained_models/<batch>.pt       encoder, classifier and the batch's adapter (none for the source)
trained_models/target.pth       the target's own: encoder, classifier, adapter
trained_models/target cells.pt  fingerprints of the target's cells, by which they are known again, and their answers
trained_models/reference codes.pt   latents of annotated cells, for thresholds, novelty and alignment
trained_models/val_stats_trained_model.json   predictions on held-out cells
trained_models/all features.json.gz     names of all features of the only file, which count in a cell's total; of several files model.json says
trained_models/model.json       features, classes, preprocessing, thresholds, calibration, files with their hashes
trained_models/MODEL_CARD.md    the same for people
trained_models/README.md        MODEL_CARD.md with the front matter that the Hugging Face hub reads
trained_models/*.safetensors    the tensors of each .pt and .pth file once more, for other programs; never read here

Hashes tell a damaged or changed file. They do not tell who made a model: whoever changes one can hash it again. What is
read is data all the same; nothing in it is ever executed.
"""

import io
import json
import re
import shutil
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from scipy import sparse

from ..core.files import file_names, sha256, whole_file, write_json, write_text
from ..core.model_json import (
    LARGEST,
    MODEL_FORMAT,
    OLDER_FORMAT,
    read_all_features,
    read_model_json,
    write_all_features,
    write_model_json,
)
from ..core.parameters import Parameters
from ..core.resources import text_templates
from ..data.fingerprints import fingerprints
from ..data.plan import Plan
from ..errors import InputError
from . import default_4
from .annotate import METHODS, known_with_rules
from .calibration import Calibration
from .expected_error import ExpectedError, expected_error
from .networks import Annotator, classify, encode
from .new_types import ALONE, SCORE, Profiles
from .predictions import Predictions, Rule
from .state import AlignmentMode, Annotated, Annotating, KnownLatents, NoveltyLimit, Reference, Settings, TargetStage
from .target import (
    align,
    annotate_before_alignment,
    in_own_order,
    like_no_type,
    look_for_doublets,
    predict,
    reject_strange,
)

# The space keeps these apart from any batch's file, where it would be %20.
LATENTS = "reference codes.pt"
TARGET_CELLS = "target cells.pt"
TARGET = "target.pth"

# Behind the whole name: a batch may be called target.
SAFETENSORS = ".safetensors"

# In the file -> in `KnownLatents`.
# Not in models of earlier versions: `Profiles.means`, and `KnownLatents.fingerprints` as int64.
PROFILES, FINGERPRINTS = "profiles", "fingerprints"
LATENT_ARRAYS = {"codes": "latent", "batch": "batch", "y": "y", "held_out": "held_out", "counts": "counts"}


# --- writing -------------------------------------------------------------------------------------------------------------


def _save(weights: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write tensors twice: as torch does it, which is what is read here, and as safetensors, for everybody else."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    content = io.BytesIO()  # into a file, torch would write the file's temporary name as well, which holds a process id
    torch.save(plain, content)
    with whole_file(path) as temporary:
        temporary.write_bytes(content.getbuffer())
    with whole_file(path.with_name(path.name + SAFETENSORS)) as temporary:
        temporary.write_bytes(safetensors.torch.save(plain))


def save_model(
    folder: Path, reference: Reference, calibrations: Mapping[str, Calibration], plan: Plan, parameters: Parameters
) -> None:
    """Write all annotated batches' models, the latents of annotated cells, val_stats and model.json.

    Parameters
    ----------
    calibrations
        Alignment mode -> what left-out batches taught about it; empty if none were left out.
    plan
        Its `preprocessing` brings a new file to the common scale that the model learned from.
    """
    files = {batch: f"{name}.pt" for batch, name in file_names(reference.batches).items()}
    for batch in reference.batches:
        _save(_as_stored(reference.annotator(batch)), folder / files[batch])
    known = known_with_rules(reference, calibrations)
    arrays = {name: torch.from_numpy(getattr(known, of)) for name, of in LATENT_ARRAYS.items()}
    if known.profiles is not None:
        arrays[PROFILES] = torch.from_numpy(known.profiles.means)
    settings, cells = reference.settings, reference.batches
    learned = np.concatenate([fingerprints(of_batch.x) for of_batch in cells.values()])
    arrays[FINGERPRINTS] = torch.from_numpy(np.unique(learned).view(np.int64))
    _save(arrays, folder / LATENTS)
    write_json(
        folder / "val_stats_trained_model.json",
        {
            "classes": reference.classes,
            "true": [reference.classes[y] for c in cells.values() for y in c.y[c.held_out]],
            "batch": [name for name, c in cells.items() for _ in range(int(c.held_out.sum()))],
            "probabilities": classify(reference.model.classifier, known.held_out, settings.device).tolist(),
        },
    )
    no_cells = np.empty((0, known.latent.shape[1]), dtype=np.float32)
    rule = known.rules.get(AlignmentMode.UNALIGNED, Rule())
    thresholds = predict(reference.model, no_cells, known, settings, rule).thresholds
    description = {
        "format": MODEL_FORMAT,
        "made by": {name: version(name) for name in ("jind-nb", "torch", "numpy", "anndata")},
        "classes": reference.classes,
        "features": reference.features,
        "preprocessing": asdict(plan)["preprocessing"],
        "parents": plan.parents,
        "coarser": plan.coarser,
        "ontology": plan.ontology,
        "thresholds": _by_class(reference.classes, thresholds),
        "calibration": {mode: calibration.to_json() for mode, calibration in calibrations.items()},
        "a new file is annotated with": AlignmentMode.UNALIGNED,
        "novelty": None
        if known.novelty_limit is None or known.profiles is None
        else asdict(known.novelty_limit) | {"least": known.profiles.least, "score": SCORE},
        "alignment": {"way": known.mode, "why": known.why},
        "code size": known.latent.shape[1],
        "source": reference.source,
        "files": files,
        "target": None,
        "training": {
            **{name: getattr(parameters, name) for name in ("METHOD", "SEED", "EPOCHS", "REJECTION", "TARGET_ERROR")},
            "ALIGN": parameters.aligns,
            "BATCH_COL": parameters.BATCH_COL,
            "cells": {name: len(c.y) for name, c in cells.items()},
            "held_out": {name: int(c.held_out.sum()) for name, c in cells.items()},
            "cells of each type": dict(zip(reference.classes, known.counts.tolist(), strict=True)),
        },
        "hashes": _hashes(folder, (*files.values(), LATENTS)),
    }
    if description["preprocessing"]["features_sha256"] is not None:
        write_all_features(folder, plan.all_features)
    write_model_json(folder, description)


def _hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the hash of each file of weights, in both of its forms."""
    return {form: sha256(folder / form) for name in names for form in (name, name + SAFETENSORS)}


def card(folder: Path) -> str:
    """Return what MODEL_CARD.md says, from the model's description: somebody else's file is not shown in a notebook, where it
    could hold scripts.

    Raises
    ------
    InputError
        If the folder holds no model, or it does not describe itself as ours do.
    """
    return _card(folder, read_model_json(folder))


def _as_text(words: object) -> str:
    """Return words that Markdown shows as they are, whatever is in them: no tag, link, formula or column of a table.

    >>> print(_as_text("CD4_T <b>"))
    CD4_T &#60;b&#62;
    """
    return re.sub(r"[<>&\[\]`*|$~\\]", lambda sign: f"&#{ord(sign[0])};", str(words))


def _card(folder: Path, description: dict[str, Any]) -> str:
    """Return the model card of a description, which may be somebody else's.

    Raises
    ------
    InputError
        If it does not describe a model as ours do.
    """
    environment = text_templates()
    environment.filters["plain"] = _as_text
    environment.filters["quoted"] = lambda name: _as_text(json.dumps(name, ensure_ascii=False))
    try:
        unaligned = description["calibration"].get(AlignmentMode.UNALIGNED)
        calibration = None if unaligned is None else Calibration.from_json(unaligned)
        return environment.get_template("MODEL_CARD.md.j2").render(model=description, calibration=calibration)
    except Exception as error:  # a template fails in as many ways as there are values
        raise InputError(
            f"PRETRAINED_MODEL_PATH: the model.json in {folder} does not describe a model: {error}"
        ) from None


def _by_class(classes: list[str], thresholds: np.ndarray) -> dict[str, float]:
    return dict(zip(classes, thresholds.tolist(), strict=True))


def save_target(folder: Path, annotated: Annotated, batch: str, x: sparse.csr_matrix, model: Path) -> None:
    """Write target.pth, its cells' fingerprints and answers, and MODEL_CARD.md, and enter the target with its own thresholds in
    model.json.

    Parameters
    ----------
    x
        The target's prepared cells, (n_target, p).
    model
        Where the annotated batches' model is. If that is another folder, it is copied first, so that this one is complete.
    """
    if model != folder:
        copy_model(model, folder)
    _save(_as_stored(annotated.model), folder / TARGET)
    last = annotated.final
    unlike = np.zeros(x.shape[0], dtype=bool) if last.unlike is None else last.unlike
    answers = {
        "fingerprints": fingerprints(x).view(np.int64),
        "probabilities": last.probabilities.astype(np.float32),
        "unlike": unlike,
    }
    _save({name: torch.from_numpy(values) for name, values in answers.items()}, folder / TARGET_CELLS)
    description = read_model_json(folder)
    error = stated_error(description, last, annotated.mode)
    description["target"] = {
        "batch": batch,
        "file": TARGET,
        "has_adapter": annotated.model.adapter is not None,
        "cells": x.shape[0],
        "thresholds": _by_class(description["classes"], last.thresholds),
        "expected_error": error.value,
        "expected_error_range": error.range,
        "expected_error_basis": error.basis,
        "hashes": _hashes(folder, (TARGET, TARGET_CELLS)),
    }
    write_model_json(folder, description)
    write_card(folder)


def write_card(folder: Path) -> None:
    """Write MODEL_CARD.md beside a model, and README.md, the same with what a hub of models reads."""
    description = read_model_json(folder)
    text = _card(folder, description)
    write_text(folder / "MODEL_CARD.md", text)
    front_matter = text_templates().get_template("front_matter.yaml.j2").render(model=description)
    write_text(folder / "README.md", front_matter + text)


# --- reading -------------------------------------------------------------------------------------------------------------


def _checked(folder: Path, name: str, description: Mapping[str, Any]) -> Path:
    """Return the path of one of the model's files, if it is as it was written.

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


def _check_archive(path: Path) -> None:
    """Check that an archive of weights holds them as they are, before anything in it is unpacked.

    Raises
    ------
    InputError
        If it is compressed, or declares more than it holds: some megabytes could become more than the memory holds.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (OSError, ValueError, zipfile.BadZipFile):  # another format, which is refused below
        return
    is_stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    if not is_stored or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise InputError(
            f"PRETRAINED_MODEL_PATH: {path} is a compressed archive, as jind-nb writes none; it was not unpacked. Copy the "
            "whole trained_models folder again."
        )


def _load(path: Path) -> dict[str, torch.Tensor]:
    _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of foreign formats, which are refused
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises many types for a damaged or foreign file, and proposes to run the code in it
        raise InputError(
            f"PRETRAINED_MODEL_PATH: {path} is not a file of weights; nothing in it was executed. Copy the whole "
            "trained_models folder again."
        ) from None
    if not isinstance(weights, dict) or not all(
        isinstance(k, str) and _is_plain(value) for k, value in weights.items()
    ):
        raise InputError(f"PRETRAINED_MODEL_PATH: {path} is not a file of weights as jind-nb writes it.")
    if not all(bool(torch.isfinite(value).all()) for value in weights.values()):
        raise InputError(f"PRETRAINED_MODEL_PATH: {path} holds NaN or infinite weights; train the model again.")
    numbers = [value for value in weights.values() if value.is_floating_point()]
    if any(value.numel() and float(value.abs().max()) > LARGEST for value in numbers):
        what = f"holds weights beyond {LARGEST:g}, which no training gives"
        raise InputError(f"PRETRAINED_MODEL_PATH: {path} {what}; train the model again.")
    return weights


def _is_plain(value: Any) -> bool:
    """Return whether it is a tensor of a type that is written here, whose values are all there: others can stand for more than the
    memory holds."""
    return (
        isinstance(value, torch.Tensor)
        and value.dtype in (torch.float32, torch.int64, torch.bool)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_nested
        and not value.requires_grad
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def _fits(known: KnownLatents, n_latent: int) -> bool:
    """Return whether the latents are of the shapes and types, and within the bounds, that annotating relies on."""
    n, n_classes = len(known.latent), len(known.classes)
    shapes = known.latent.shape == (n, n_latent) and known.held_out.ndim == 2 and known.held_out.shape[1] == n_latent
    kinds = known.latent.dtype == known.held_out.dtype == np.float32
    kinds = kinds and all(of.dtype == np.int64 for of in (known.batch, known.y, known.counts))
    if not (
        n and shapes and kinds and known.batch.shape == known.y.shape == (n,) and known.counts.shape == (n_classes,)
    ):
        return False
    n_members = len(known.method.prior_weights())
    if any(len(rule.weights) not in (0, n_members) for rule in known.rules.values()):
        return False
    bounds = ((known.y, n_classes), (known.batch, len(known.batches)))
    return all(of.min() >= 0 and of.max() < most for of, most in bounds) and bool(known.counts.min() >= 0)


def _as_stored(model: Annotator) -> dict[str, torch.Tensor]:
    """Return weights under the names that files have them by."""
    return {name.replace("classifier.", "head.", 1): weights for name, weights in model.state_dict().items()}


def _annotator(folder: Path, name: str, description: Mapping[str, Any], has_adapter: bool) -> Annotator:
    """Return an annotator from one file of weights, on the CPU."""
    n_features, n_classes, n_latent = (
        len(description["features"]),
        len(description["classes"]),
        description["code size"],
    )
    model = _method(description).empty_annotator(n_features, n_classes, n_latent, has_adapter)
    stored = _load(_checked(folder, name, description))
    try:
        if not all(weights.is_floating_point() for weights in stored.values()):
            raise RuntimeError("weights that are whole numbers")
        model.load_state_dict({key.replace("head.", "classifier.", 1): weights for key, weights in stored.items()})
    except RuntimeError as error:
        raise InputError(f"PRETRAINED_MODEL_PATH: {name} in {folder} does not fit its model.json: {error}") from None
    return model


def _method(description: Mapping[str, Any]) -> Annotating:
    method = METHODS[description["training"]["METHOD"]]
    if description["format"] == OLDER_FORMAT and method.NAME == default_4.NAME:
        return default_4
    return method


def load_shared(folder: Path, device: torch.device) -> tuple[Annotator, KnownLatents]:
    """Read the shared encoder and classifier (the source's file), and the latents of annotated cells with the rules of rejection.

    Raises
    ------
    InputError
        For a missing, damaged or foreign file.
    """
    description = read_model_json(folder)
    model = _annotator(folder, description["files"][description["source"]], description, has_adapter=False)
    stored = _load(_checked(folder, LATENTS, description))
    try:
        arrays = {own: stored[name].numpy() for name, own in LATENT_ARRAYS.items()}
        known = KnownLatents(
            method=_method(description),
            classes=description["classes"],
            batches=list(description["files"]),
            latent=arrays["latent"],
            batch=arrays["batch"],
            y=arrays["y"],
            held_out=arrays["held_out"],
            counts=arrays["counts"],
            rules={mode: Calibration.from_json(values).rule for mode, values in description["calibration"].items()},
            mode=description["alignment"]["way"],
            why=description["alignment"]["why"],
        )
        if FINGERPRINTS in stored:
            known.fingerprints = stored[FINGERPRINTS].numpy().view(np.uint64)
        if novelty := description.get("novelty"):
            known.novelty_limit = NoveltyLimit(novelty["share"], novelty["floor"])
            if novelty.get("score") != SCORE:  # its limits are of another score
                known.rules = {
                    mode: replace(rule, novelty_threshold=max(rule.novelty_threshold or 0.0, ALONE))
                    for mode, rule in known.rules.items()
                }
            known.profiles = Profiles(stored[PROFILES].numpy(), novelty["least"])
            means = known.profiles.means
            if not means.size or means.ndim != 2 or means.shape[1] != len(description["features"]):
                raise ValueError(f"{LATENTS} does not hold the mean cells it describes")
        if not _fits(known, description["code size"]):
            raise ValueError(f"{LATENTS} does not hold the latents it describes")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"PRETRAINED_MODEL_PATH: the model in {folder} does not fit its model.json: {error}") from None
    return model.to(device), known


def stated_error(description: Mapping[str, Any], predictions: Predictions, mode: str) -> ExpectedError:
    """Return the error to expect among the assigned cells of a batch that the model of a description annotated in a mode."""
    calibrations = description["calibration"]
    values = calibrations.get(mode) or calibrations.get(AlignmentMode.UNALIGNED)
    return expected_error(predictions, Calibration.from_json(values) if values else None)


def error_of_own_target(folder: Path) -> ExpectedError:
    """Return what a saved model states of its own run's target: None and the reason where it states nothing.

    Raises
    ------
    InputError
        If the folder holds no model.
    """
    target = read_model_json(folder)["target"]
    if target is None:
        return ExpectedError(None, None, "The model has no target; metrics.json of a run of several has each one's.")
    if "expected_error_basis" not in target:
        return ExpectedError(None, None, "The model was saved by an earlier version, which did not keep it.")
    low_high = target["expected_error_range"]
    return ExpectedError(target["expected_error"], low_high and tuple(low_high), target["expected_error_basis"])


def save_target_alone(file: Path, annotated: Annotated) -> None:
    """Write the weights of one of several targets: its encoder, classifier and adapter."""
    _save(_as_stored(annotated.model), file)


def load_target_alone(file: Path, method: Annotating, n_features: int, n_classes: int, n_latent: int) -> Annotator:
    """Read the encoder and classifier of one of several targets, without its adapter, on the CPU."""
    stored = {key.replace("head.", "classifier.", 1): weights for key, weights in _load(file).items()}
    has_adapter = any(key.startswith("adapter.") for key in stored)
    model = method.empty_annotator(n_features, n_classes, n_latent, has_adapter)
    model.load_state_dict(stored)
    return Annotator(model.encoder, model.classifier)


def copy_model(model: Path, folder: Path) -> None:
    """Copy the annotated batches' model, without a target, to another folder."""
    others = read_model_json(model)
    names = [LATENTS, *others["files"].values()]
    # Models of earlier versions have the torch form only.
    for name in (*names, *(name + SAFETENSORS for name in names if name + SAFETENSORS in others["hashes"])):
        with whole_file(folder / Path(name).name) as temporary:
            shutil.copyfile(_checked(model, name, others), temporary)
    if (digest := others["preprocessing"].get("features_sha256")) is not None:
        write_all_features(folder, read_all_features(model, digest))
    write_model_json(folder, others | {"target": None})
    _card(model, others)  # refuses what it cannot describe


def load_target(folder: Path) -> Annotator:
    """Read the target's annotator, on the CPU.

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
    """Read the fingerprints of the cells that the model annotated as its run's target, uint64 (n_target,)."""
    description = read_model_json(folder)
    if description["target"] is None:
        return np.empty(0, dtype=np.uint64)
    return _target_cells(folder, description)["fingerprints"].view(np.uint64)


def of_own_target(folder: Path, x: sparse.csr_matrix) -> np.ndarray:
    """Return which prepared cells (n, p) the model has annotated as its run's target, bool (n,)."""
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


def recall(annotated: Annotated, x: sparse.csr_matrix, folder: Path, known: KnownLatents, settings: Settings) -> None:
    """Add, as a further stage, the answers of the model's own run for cells (n, p) of its target. They are looked up, because an
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
    annotated.mode = AlignmentMode.ALIGNED if target["has_adapter"] else AlignmentMode.UNALIGNED
    latent = annotated.latent[TargetStage.AS_IN_ITS_RUN] = encode(annotated.model, x, settings.device)
    rule = known.rules.get(annotated.mode) or known.rules.get(AlignmentMode.UNALIGNED, Rule())
    annotated.stages[TargetStage.AS_IN_ITS_RUN] = replace(
        predict(annotated.model, latent, known, settings, rule),
        probabilities=stored["probabilities"][cells],
        unlike=None if rule.novelty_threshold is None else stored["unlike"][cells],
        thresholds=np.array([target["thresholds"][name] for name in known.classes]),
    )
    annotated.notes.append(
        f"{len(cells):,} cells were annotated in the run that made the model; they get the same answers here."
    )


def annotate_with_model(
    model: Path, x: sparse.csr_matrix, settings: Settings, *, recall_own: bool
) -> tuple[Annotated, KnownLatents]:
    """Annotate a batch without labels, float32 (n, p), with a saved model.

    Parameters
    ----------
    model
        A run's `trained_models`.
    recall_own
        Whether cells that all are the model's own target are not annotated anew: they get the answers of that run.

    Raises
    ------
    InputError
        For a missing, damaged or foreign file.
    """
    shared, known = load_shared(model, settings.device)

    def in_this_order(x: sparse.csr_matrix) -> Annotated:
        annotated = annotate_before_alignment(shared, x, known, settings)
        if recall_own and of_own_target(model, x).all():
            recall(annotated, x, model, known, settings)
        else:
            align(annotated, x, known, settings)
        reject_strange(annotated, np.diff(x.indptr) == 0, like_no_type(x, known))
        look_for_doublets(annotated, x, settings)
        return annotated

    return in_own_order(x, in_this_order), known
