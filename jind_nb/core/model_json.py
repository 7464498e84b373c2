"""model.json, the description of a saved model: what it must hold, and that it is as it was written."""

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from ..errors import InputError
from .files import read_json, whole_file, write_json

MODEL_FORMAT = 5
OLDER_FORMAT = 4  # read too; of METHOD `default` it holds five regressions and no members

# A JSON list of names, which may be many. The space keeps it apart from any batch's file, where it would be %20.
ALL_FEATURES = "all features.json.gz"

MOST_BYTES = 2**27  # of all names; what is compressed could become more than the memory holds

# A total of counts, the largest number a model has, stays far below it.
LARGEST = 1e15

ROUNDING = 1e-3  # of a sum of weights, or of what was computed from probabilities

Threshold = Annotated[float, Field(ge=0, le=2)]  # of a confidence or a distance; above 1 every cell is Unassigned

Share = Annotated[float, Field(ge=0, le=1)]

MeasuredShare = Annotated[float, Field(ge=-ROUNDING, le=1 + ROUNDING)]

Novelty = Annotated[float, Field(ge=0, le=1000)]  # a distance, or the logarithm of one

Normalisation = Literal["auto", "counts", "log1p", "clr", "panel", "volume", "as_is"]


def read_model_json(folder: Path) -> dict[str, Any]:
    """Return the description of a saved model.

    Raises
    ------
    InputError
        If the folder holds no model of ours, a model of another format, or a damaged or edited one.
    """
    file = folder / "model.json"
    if not file.exists():
        wrong = f"{folder} has no model.json" if folder.is_dir() else f"there is no folder {folder}"
        if any(folder.glob("*.pt")):
            wrong += " (a model of the JIND-Multi program lacks its gene list and cannot be used)"
        raise InputError(f"PRETRAINED_MODEL_PATH: {wrong}; give a run's trained_models folder.")
    try:
        model = read_json(file)
        made_by_format = model["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"PRETRAINED_MODEL_PATH: {file} is damaged ({error}); copy the folder again.") from None
    if made_by_format not in (OLDER_FORMAT, MODEL_FORMAT):
        newer = isinstance(made_by_format, int) and made_by_format > MODEL_FORMAT
        advice = f"this program reads formats {OLDER_FORMAT} and {MODEL_FORMAT}; {'update jind-nb' if newer else 'train the model again'}"
        raise InputError(f"PRETRAINED_MODEL_PATH: {file} has format {made_by_format!r}, {advice}.")
    if model.get("sha256") != _digest(model):
        what = "is not as it was written (its content does not match its own hash)"
        raise InputError(f"PRETRAINED_MODEL_PATH: {file} {what}; copy the folder again, and do not edit it.")
    if (absurd := _absurd_number(model)) is not None:
        what = f"it holds the number {absurd!r}, which no model of ours has"
        raise InputError(f"PRETRAINED_MODEL_PATH: {file} is damaged ({what}); copy the folder again.")
    try:
        _Model.model_validate_json(file.read_bytes(), strict=True)
    except ValidationError as error:
        what = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])
        raise InputError(f"PRETRAINED_MODEL_PATH: {file} is damaged ({what}); copy the folder again.") from None
    return model


def _absurd_number(value: Any) -> int | float | None:
    """Return a number of a JSON value that is larger than any that data or training give; None if there is none."""
    if isinstance(value, (dict, list)):
        parts = value.values() if isinstance(value, dict) else value
        return next((found for part in parts if (found := _absurd_number(part)) is not None), None)
    is_absurd = isinstance(value, (int, float)) and not -LARGEST < value < LARGEST  # also NaN
    return value if is_absurd else None


@dataclass(frozen=True, kw_only=True, config=ConfigDict(strict=True))
class CommonScale:
    """Hold the scale that all batches are brought to; the names of its fields stand in model.json."""

    scale: str  # in words
    # `clr`: centred log ratios of antibody counts; `volume`: log1p of counts divided by the cell's volume.
    values: Literal["log1p", "as they are", "clr", "volume"]
    # Of each cell on the linear scale; None: not known.
    total: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    rescaled: bool  # whether every cell was brought to that total
    normalisation: Normalisation  # NORMALISATION as given
    kinds: Annotated[list[str], Field(min_length=1)]  # the batches' value types, sorted
    mean: float  # median over batches of the mean of all values as they were; so is `sd`
    sd: float
    unclear: Annotated[str, Field(pattern="^log(1p|2|10)$")]  # what logarithms of an unknown base were taken for

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.rescaled and self.total is None:
            raise ValueError("values brought to a total need one")
        return self


@dataclass(frozen=True, kw_only=True, config=ConfigDict(strict=True))
class Preprocessing(CommonScale):
    """Hold all that brings the values of a new file to the scale of a run."""

    layer: str | None  # as LAYER names it; None: X
    gene_col: str | None  # as GENE_COL names it; None: the index of var
    totals_over: list[str] | None  # the features that a cell's total is over; None: all of its file
    # `features_digest` of these in the only file that the model learned from; None: they are not kept in ALL_FEATURES, because no
    # totals were taken, or `totals_over` names them, or an earlier version saved the model.
    features_sha256: str | None = None
    # How many of the features the median cell of an annotated batch has, of the batch with the fewest; None: an older model.
    features_a_cell: Annotated[float, Field(ge=0)] | None = None


class _Target(BaseModel):
    """Check what tells the cells of the model's own target."""

    has_adapter: bool
    thresholds: dict[str, Threshold]
    hashes: dict[str, str]
    # Of the cells that were assigned: None where it could not be known, or an earlier version saved the model.
    expected_error: Share | None = None
    expected_error_range: tuple[Share, Share] | None = None
    expected_error_basis: str = ""


class _Training(BaseModel):
    """Check what is needed to build the model again, and what column had the batches."""

    METHOD: Literal["default", "reference"]
    BATCH_COL: str | None = None  # not in older models


class _LeftOut(BaseModel):
    """Check the numbers of a left-out batch, on which the expected error rests; older models lack some of them."""

    cells: Annotated[int, Field(ge=0)]
    unlike_reference: MeasuredShare | None
    error_among_assigned: MeasuredShare | None
    checked: MeasuredShare = 1.0
    error_of_known_types: MeasuredShare | None = None
    doubt_among_assigned: MeasuredShare | None = None
    raw_accuracy: MeasuredShare | None = None
    assigned: MeasuredShare | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        # Older models have the error of all types alone.
        of = "error_of_known_types" if "error_of_known_types" in self.model_fields_set else "error_among_assigned"
        if self.doubt_among_assigned is not None and getattr(self, of) is None:
            raise ValueError("doubt without an error")
        return self


class _Rule(BaseModel):
    """Check the numbers of a calibration that decide about cells, or say how sure it is; `model.calibration` checks the rest."""

    temperature: Annotated[float, Field(ge=1e-6, le=1e6)] = 1.0
    threshold: Threshold | None = None
    novelty_threshold: Novelty | None = None
    most_novel: Novelty | None = None  # the same, as models have it
    threshold_cap: Threshold | None = None
    enough: Threshold | None = None  # the same, as models have it
    weights: list[MeasuredShare] = []
    floor: MeasuredShare = 0.0
    beside_novel: MeasuredShare = 0.0
    noise: MeasuredShare = 0.0
    dropped: MeasuredShare = 0.0
    noticed: dict[str, MeasuredShare] = {}
    n_annotated: Annotated[int, Field(ge=1)] = 1
    batches: list[_LeftOut] = []
    risk_coverage: list[tuple[MeasuredShare, MeasuredShare]] = []

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.weights and abs(sum(self.weights) - 1) > ROUNDING:
            raise ValueError("weights whose sum is not 1")
        return self


class _Novelty(BaseModel):
    """Check how it is judged whether a cell is unlike anything annotated."""

    share: Share
    floor: Threshold
    score: Annotated[int, Field(ge=1)] | None = None  # `new_types.SCORE`; not in older models
    least: Annotated[float, Field(ge=-1, le=1)]  # correlation with a type's mean cell


class _Alignment(BaseModel):
    """Check how new cells are aligned, and why."""

    way: Literal["shared", "aligned"]  # `model.state.AlignmentMode`
    why: str


class _Model(BaseModel):
    """Check what model.json must hold to be used."""

    classes: list[str] = Field(min_length=2)
    features: list[str] = Field(min_length=1)
    preprocessing: Preprocessing
    thresholds: dict[str, Threshold]
    calibration: dict[str, _Rule]
    source: str
    files: dict[str, str]
    target: _Target | None
    training: _Training
    alignment: _Alignment
    novelty: _Novelty | None = None  # None: as versions before it was asked
    code_size: int = Field(alias="code size", ge=1, le=4096)
    hashes: dict[str, str]
    parents: dict[str, str] = {}
    coarser: list[dict[str, str]] = []
    ontology: dict[str, Annotated[str, Field(pattern=r"^CL:\d{7}$")]] = {}

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.source not in self.files:
            raise ValueError(f"the source {self.source!r} has no file")
        targets = [self.target.thresholds] if self.target else []
        if any(set(thresholds) != set(self.classes) for thresholds in (self.thresholds, *targets)):
            raise ValueError("the thresholds are not those of the classes")
        if len(set(self.features)) < len(self.features) or len(set(self.classes)) < len(self.classes):
            raise ValueError("features and classes must each be named once")
        return self


def features_digest(names: Iterable[str]) -> str:
    """Return a hash of features' names in their order."""
    return hashlib.sha256(_as_json(names)).hexdigest()


def write_all_features(folder: Path, names: Iterable[str]) -> None:
    """Write beside a model the names of all features of the file that it learned from."""
    with whole_file(folder / ALL_FEATURES) as temporary:
        temporary.write_bytes(gzip.compress(_as_json(names), mtime=0))


def read_all_features(folder: Path, digest: str) -> list[str]:
    """Return what `write_all_features` wrote, if it has the digest.

    Raises
    ------
    InputError
        If the file is missing, or is not as it was written.
    """
    path = folder / ALL_FEATURES
    try:
        with gzip.open(path) as stream:
            names = json.loads(stream.read(MOST_BYTES))
    except (OSError, EOFError, zlib.error, ValueError, RecursionError):
        names = None
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not is_list or features_digest(names) != digest:
        what = "is not the file model.json describes" if path.exists() else "is missing"
        raise InputError(f"PRETRAINED_MODEL_PATH: {path} {what}; copy the whole trained_models folder again.")
    return list(names)


def _as_json(names: Iterable[str]) -> bytes:
    return json.dumps([str(name) for name in names]).encode()


def write_model_json(folder: Path, model: Mapping[str, Any]) -> None:
    """Write the description of a saved model, with the hash of its own content as `sha256`."""
    write_json(folder / "model.json", {**model, "sha256": _digest(model)})


def _digest(model: Mapping[str, Any]) -> str:
    content = {name: value for name, value in model.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
