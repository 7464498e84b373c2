"""The parameters of a run: names, types, defaults, limits, and how files of them are read.

The names are those of the JIND-Multi program, upper case, in YAML, JSON, the notebooks' `parameters` cell and
`jind-nb run -s NAME=VALUE` alike.
"""

import json
import re
import shlex
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import InputError
from .address import is_remote
from .coerce import (
    AUTO,
    ONTOLOGY,
    Markers,
    MaybeBool,
    MaybeName,
    MaybeNumber,
    MaybeText,
    Names,
    Ontology,
    Parents,
    Paths,
    Population,
    Rename,
    Targets,
    Whole,
    Words,
)
from .files import read_yaml
from .methods import DATA_RULES
from .model_json import Normalisation
from .text import listing, nearest

# A PATH that starts with this names data that come with an installed package.
BUNDLED = "scanpy:"

# More than any parameter file needs, and so few that reading them never takes long.
MOST_BYTES = 2**18

DATA_SUFFIXES = (".h5ad", ".h5", ".hdf5", ".zarr", ".loom", ".h5mu")

MOST_TARGETS_NAMED = 3

# Parameters that say where the data are, what they hold and where results go: together they are of one data set.
DATA_NAMES = (
    "PATH", "BATCH_COL", "LABELS_COL", "TARGET_DATASET_NAME", "SOURCE_DATASET_NAME", "INTER_DATASETS_NAMES",
    "EXCLUDE_DATASETS_NAMES", "OUTPUT_PATH",
)  # fmt: skip

# What most people set, in this order; a notebook's cell has these first.
USUAL_NAMES = (
    "PATH", "BATCH_COL", "LABELS_COL", "TARGET_DATASET_NAME", "OUTPUT_PATH", "SOURCE_DATASET_NAME", "EXCLUDE_DATASETS_NAMES",
    "MARKERS", "PARENTS", "CLUSTER_RESOLUTION",
)  # fmt: skip

OLDER_NAMES = {"TRAIN_DATASETS_NAMES": "INTER_DATASETS_NAMES"}

# What the Python API (`jind_nb.annotate`) calls a parameter: scverse's names; any other has its own name in lower case.
PYTHON_NAMES = {
    "BATCH_COL": "batch_key",
    "LABELS_COL": "labels_key",
    "TARGET_DATASET_NAME": "target",
    "SOURCE_DATASET_NAME": "source",
    "INTER_DATASETS_NAMES": "intermediates",
    "EXCLUDE_DATASETS_NAMES": "exclude",
}

# Parameters that the Python API does not have, and what to use instead.
NOT_IN_PYTHON = {
    "PATH": "the AnnData is the input.",
    "OUTPUT_PATH": "results go into the AnnData, and model.save(folder) keeps the model.",
    "PRETRAINED_MODEL_PATH": "use jind_nb.load_model(folder).predict(adata).",
    "MARKERS": "show them with scanpy.pl.dotplot(adata, markers, groupby='jind_prediction').",
}


class Parameters(BaseModel):
    """Hold all parameters of a run; they cannot be changed.

    >>> p = Parameters(PATH="a.h5ad", BATCH_COL="batch", LABELS_COL="celltype", TARGET_DATASET_NAME=3,
    ...                OUTPUT_PATH="runs/a", INTER_DATASETS_NAMES="['1', '2']")
    >>> p.TARGET_DATASET_NAME, p.INTER_DATASETS_NAMES, p.NUM_FEATURES
    ('3', ['1', '2'], 5000)
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    PATH: Paths
    """The .h5ad file or .zarr folder, what Cell Ranger writes (.h5, mtx folder), an .h5mu or .loom file, the DOI or https
    address of an .h5ad file, or a list of these whose genes are matched by name."""
    BATCH_COL: str = Field(min_length=1)
    """Column of `obs` with the batch of each cell; in a list of files, a file without it is one batch named like the
    file."""
    LABELS_COL: str = Field(min_length=1)
    """Column of `obs` with the cell types of the annotated batches."""
    TARGET_DATASET_NAME: Targets = None
    """The batch to annotate, or a list of batches; absent: every batch without labels. Its labels, if any, only serve
    evaluation."""
    SOURCE_DATASET_NAME: MaybeName = None
    """The annotated batch training starts from; chosen automatically if absent."""
    OUTPUT_PATH: str = Field(min_length=1)
    """Folder of the results; default runs/<parameter file's name>."""
    PRETRAINED_MODEL_PATH: MaybeText = None
    """A run's `trained_models` folder: annotate with it and train nothing."""
    INTER_DATASETS_NAMES: Names = []
    """Intermediate batches, in training order; empty: every annotated batch not excluded."""
    EXCLUDE_DATASETS_NAMES: Names = []
    """Batches that take no part in anything."""
    NUM_FEATURES: Whole = Field(5000, ge=1)
    """How many features (genes, peaks) of largest variance are kept."""
    MIN_CELL_TYPE_POPULATION: Population = AUTO
    """A cell type with fewer labelled cells in a batch is left out of that batch's training. `auto`: only a type with a
    single cell in all annotated batches is left out (METHOD `reference`: 100 if absent)."""
    USE_GPU: bool = True
    """Use a GPU if there is one."""
    METHOD: Literal["default", "reference"] = "default"
    """`reference` is the published method with its constants; `default` is what we recommend."""
    SEED: Whole = Field(0, ge=0, le=2**32 - 1)
    """Fixes every random choice."""
    EPOCHS: Whole = Field(15, ge=1, le=1000)
    """METHOD `reference`: epochs of each training stage, and at most of alignment."""
    REJECTION: float = Field(0.05, ge=0, lt=1)
    """theta: the share of a type's held-out cells that its confidence threshold would reject."""
    TARGET_ERROR: MaybeNumber = Field(None, gt=0, lt=1)
    """Instead of REJECTION: the highest share of wrong labels among the assigned cells of a batch that is new to the
    model, say 0.05."""
    UNLABELED: Words = [
        "-", "?", "NA", "N/A", "n.a.", "NaN", "None", "null", "unknown", "unassigned", "unlabeled", "unlabelled",
        "unannotated", "unclassified", "undefined", "undetermined", "unidentified", "unspecified", "unmapped", "unk",
        "not annotated", "not assigned", "not applicable", "not available", "not determined", "no label", "no annotation", "n.d.",
        "missing",
    ]  # fmt: skip
    """Words in LABELS_COL that mean: no label (upper and lower case, punctuation and a following "cells" make no difference)."""
    RENAME: Rename = {}
    """Labels to read as others, a map such as {"b cells": "B", "Bcell": "B"}; the target's own too."""
    GENE_COL: MaybeText = None
    """Column of `var` with the feature names; default: the index of `var`."""
    FEATURE_TYPES: Words = []
    """Which `var.feature_types` to use; default: Gene Expression where all batches have it, else what all have."""
    LAYER: MaybeText = None
    """Which values to use: a layer's name, `.raw`, or `obsm:KEY` for an embedding of your own; default: `X`."""
    NORMALISATION: Normalisation = "auto"
    """What the values are: recognised batch by batch (`auto`), `counts` or another linear scale, `log1p` values, counts
    of antibodies (`clr`), cytometry (`panel`), in situ counts to divide by the cell's volume (`volume`), or to be left
    alone (`as_is`)."""
    ALIGN: MaybeBool = None
    """Align the target with the annotated batches (METHOD `default`: as far as that helped left-out batches); default:
    yes, but not with PRETRAINED_MODEL_PATH."""
    MARKERS: Markers = {}
    """Features to look at for each cell type, a map such as {"T": ["CD3D", "CD3E"], "B": ["MS4A1"]}."""
    PARENTS: Parents = None
    """A coarser level: a map such as {"CD4 T": "T", "CD8 T": "T"}, a column of `obs` with it, or `ontology`; an ambiguous
    cell is then given the parent, where that is confident."""
    ONTOLOGY: Ontology = None
    """Terms of the Cell Ontology beside the answers: `auto`, by the types' names, or a map with more, such as {"Mono":
    "CL:0000576"}."""
    TYPES: Names = []
    """The only cell types that may be given, say those of the tissue; empty: all. Cells of others stay Unassigned and are
    counted."""
    DOUBLETS: bool = False
    """Look for cells of the target that are two cells read as one (Scrublet); they stay Unassigned."""
    CLUSTER_RESOLUTION: MaybeNumber = Field(None, gt=0, le=100, allow_inf_nan=False)
    """Leiden clusters of the target at this resolution (1 is usual), and the majority of each, beside the answer for
    each cell."""

    @model_validator(mode="before")
    @classmethod
    def _minimum_of_method(cls, values: Any) -> Any:
        """Give a METHOD its own minimum of cells where none is given."""
        if isinstance(values, dict) and str(values.get("METHOD")) in DATA_RULES:
            return {"MIN_CELL_TYPE_POPULATION": DATA_RULES[values["METHOD"]].fewest_cells} | values
        return values

    @model_validator(mode="after")
    def _roles_are_disjoint(self) -> Self:
        for target in self.targets:
            if target == self.SOURCE_DATASET_NAME:
                equal = (
                    f"SOURCE_DATASET_NAME and TARGET_DATASET_NAME are both {target!r}; the target cannot train itself"
                )
                raise ValueError(f"{equal}: name another source, or leave it out to have one chosen")
            if target in self.INTER_DATASETS_NAMES:
                raise ValueError(
                    f"TARGET_DATASET_NAME {target!r} is also in INTER_DATASETS_NAMES; take it out of one of them"
                )
        for other in ("TARGET_DATASET_NAME", "SOURCE_DATASET_NAME", "INTER_DATASETS_NAMES"):
            both = [name for name in self.batches_in(other) if name in self.EXCLUDE_DATASETS_NAMES]
            if both:
                raise ValueError(f"EXCLUDE_DATASETS_NAMES and {other} both name {listing(both)}; take it out of one")
        return self

    def batches_in(self, parameter: str) -> list[str]:
        """Return the batches that a parameter names, also if it is one name or none."""
        value = getattr(self, parameter)
        return [value] if isinstance(value, str) else list(value or ())

    @property
    def targets(self) -> list[str]:
        """Return the batches to annotate; none while TARGET_DATASET_NAME is absent."""
        return self.batches_in("TARGET_DATASET_NAME")

    @property
    def target(self) -> str:
        """Return the batch to annotate, of several their names in one text."""
        return listing(self.targets, MOST_TARGETS_NAMED, quoted=False) or "every batch without labels"

    @property
    def paths(self) -> list[str]:
        """Return PATH as a list, also if it is a single file."""
        return [self.PATH] if isinstance(self.PATH, str) else list(self.PATH)

    @property
    def intermediates(self) -> list[str]:
        """Return INTER_DATASETS_NAMES without the source (the reference's own example lists it there)."""
        return [name for name in self.INTER_DATASETS_NAMES if name != self.SOURCE_DATASET_NAME]

    @property
    def fewest_of_a_type(self) -> int:
        """Return how many labelled cells of a type a batch needs to be trained with the type."""
        least = self.MIN_CELL_TYPE_POPULATION
        return 1 if isinstance(least, str) else least

    @property
    def parents_column(self) -> str | None:
        """Return the column of `obs` that PARENTS names; None if it names none."""
        return self.PARENTS if isinstance(self.PARENTS, str) and self.PARENTS != ONTOLOGY else None

    @property
    def terms(self) -> dict[str, str] | None:
        """Return the terms that ONTOLOGY gives; None if no terms are asked for, also not by PARENTS."""
        asked = self.ONTOLOGY is not None or self.PARENTS == ONTOLOGY
        return (self.ONTOLOGY if isinstance(self.ONTOLOGY, dict) else {}) if asked else None

    @property
    def aligns(self) -> bool:
        """Return whether the target is aligned: ALIGN, or its default."""
        return self.PRETRAINED_MODEL_PATH is None if self.ALIGN is None else self.ALIGN

    def is_unlabeled(self, label: str) -> bool:
        """Return whether a word in LABELS_COL means no label; an empty one always does."""
        folded, bare = _placeholders(tuple(self.UNLABELED))
        return not label.strip() or _folded(label) in folded or _bare(label) in bare


def _folded(word: str) -> str:
    """Return a word without what writers differ in: case, and whether parts are joined by blank, hyphen or underscore."""
    return " ".join(re.sub("[-_]", " ", word.casefold()).split()).rstrip(".") or word.strip()


def _bare(word: str) -> str:
    """Return the letters and digits of a word, without a "cells" behind them.

    >>> _bare("<NA>"), _bare("Un-assigned cells"), _bare("n/a"), _bare("T?")
    ('na', 'unassigned', 'na', 't')
    """
    return re.sub(r"(?<=.)(cell|celltype|type)s?$", "", re.sub(r"[^\w+]|_", "", word.casefold()))


@cache
def _placeholders(words: tuple[str, ...]) -> tuple[set[str], set[str]]:
    """Return the words of UNLABELED folded, and bare those that are ours: of a user's own, "T?" would be T."""
    ours = set(map(_folded, Parameters.model_fields["UNLABELED"].get_default()))
    folded = set(map(_folded, words))
    return folded, {_bare(word) for word in folded & ours if "." not in word} - {""}


for _field in Parameters.model_fields.values():  # their docstrings, as one line each
    _field.description = " ".join(str(_field.description).split())


def make_parameters(values: Mapping[str, Any]) -> Parameters:
    """Return the parameters of a mapping of names to values.

    Raises
    ------
    InputError
        Naming every unknown parameter with its nearest known one, or every value out of its limits.
    """
    values = _with_newer_names(values)
    unknown = [name for name in values if name not in Parameters.model_fields]
    if unknown:
        raise InputError("\n".join(_unknown(name) for name in unknown))
    try:
        return Parameters(**values)
    except ValidationError as error:
        raise InputError("\n".join(_message(problem) for problem in error.errors())) from None


def _with_newer_names(values: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(values)
    for older, newer in OLDER_NAMES.items():
        if older in values and newer in values:
            raise InputError(f"{older} is the older name of {newer}, and both are given; keep {newer}.")
        if older in values:
            values[newer] = values.pop(older)
    return values


def _unknown(name: object) -> str:
    by_python_name = {python_name(known): known for known in PYTHON_NAMES}
    near = by_python_name.get(str(name).lower()) or nearest(str(name).upper(), Parameters.model_fields, cutoff=0.5)
    return f"There is no parameter {name!s}; " + (
        f"did you mean {near}?" if near else f"known are {', '.join(Parameters.model_fields)}."
    )


def _message(problem: Mapping[str, Any]) -> str:
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return f"{message}."
    name = str(problem["loc"][0])
    if problem["type"] == "missing":
        return f"{name} is missing: {Parameters.model_fields[name].description}"
    try:
        found = repr(problem["input"])
    except ValueError:  # a whole number of thousands of digits
        found = "a number too long to show"
    return f"{name}: found {found}; {message[0].lower()}{message[1:]}."


def python_name(name: str) -> str:
    """Return the Python API's name of a parameter.

    >>> python_name("BATCH_COL"), python_name("NUM_FEATURES")
    ('batch_key', 'num_features')
    """
    return PYTHON_NAMES.get(name, name.lower())


# --- files of parameters ----------------------------------------------------------------------------------------------


def _absolute(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the same values, with relative paths made absolute from `folder`."""

    def absolute(name: str, path: object) -> object:
        if (
            not isinstance(path, str)
            or not path.strip()
            or path.startswith(BUNDLED)
            or (name == "PATH" and is_remote(path))
        ):
            return path
        try:
            found = (folder / Path(path).expanduser()).resolve()
            found.exists()  # fails for a name that is too long for the disk
            return str(found)
        except (RuntimeError, ValueError, OSError) as error:
            raise InputError(f"{name}: {path!r} cannot be a path: {error}.") from None

    made = {name: values[name] for name in ("PATH", "OUTPUT_PATH", "PRETRAINED_MODEL_PATH") if name in values}
    for name, value in made.items():
        made[name] = [absolute(name, path) for path in value] if isinstance(value, list) else absolute(name, value)
    return values | made


def _resolved(file: Path) -> Path:
    try:
        return file.expanduser().resolve()
    except (RuntimeError, ValueError, OSError) as error:  # of a link to itself, or the home of nobody
        raise InputError(f"{file} cannot be a parameter file: {error}.") from None


def _read_mapping(file: Path) -> dict[str, Any]:
    if file.suffix.lower() in DATA_SUFFIXES:
        command = f"jind-nb init {shlex.quote(str(file))}"
        raise InputError(f"{file} holds data, not parameters; {command} writes a parameter file for them.")
    try:
        with file.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"There is no parameter file {file}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The parameter file {file} cannot be read: {error}.") from None
    if len(content) > MOST_BYTES:
        raise InputError(f"The parameter file {file} is larger than {MOST_BYTES:,} bytes; it cannot be one.")
    try:
        values = json.loads(text) if file.suffix.lower() == ".json" else read_yaml(text)
    except Exception as error:  # PyYAML lets many errors of its own code through
        kind = "JSON" if file.suffix.lower() == ".json" else "YAML"
        raise InputError(f"The parameter file {file} is not {kind}: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"The parameter file {file} must hold names and values, one `NAME: value` a line.")
    return values


def load_parameters(file: Path | str, overrides: Mapping[str, Any] | None = None) -> Parameters:
    """Return the parameters of a YAML or JSON file; `overrides`, of the command line, replace them.

    Relative paths in the file are relative to the file, in the overrides to the working directory. Without an
    OUTPUT_PATH, results go to `runs/<the file's name>` under the working directory.

    Raises
    ------
    InputError
        If the file cannot be read, or as `make_parameters` does.
    """
    file = _resolved(Path(file))
    values = {"OUTPUT_PATH": str(Path.cwd() / "runs" / file.stem)}
    in_file = _absolute(_with_newer_names(_read_mapping(file)), file.parent)
    values |= {name: value for name, value in in_file.items() if value is not None}
    values |= _absolute(_with_newer_names(overrides or {}), Path.cwd())
    try:
        return make_parameters(values)
    except InputError as error:
        missing = [
            name for name, field in Parameters.model_fields.items() if field.is_required() and name not in values
        ]
        if not missing or set(values) - set(Parameters.model_fields):
            raise
        raise InputError(f"{error}\nFill in {', '.join(missing)} in {file}, or give -s NAME=VALUE.") from None


def from_notebook(namespace: Mapping[str, Any], folder: Path, injected: Collection[str] = ()) -> Parameters:
    """Return the parameters in a notebook's variables (`globals()`); relative paths are relative to `folder`.

    Parameters
    ----------
    namespace
        Where PARAMETERS names a file, its values come before those of the notebook's cell. If it names the data (PATH), nothing
        that the cell says of data and results holds (DATA_NAMES): that is of other data.
    injected
        Names that papermill gave values; these come before the file's.
    """
    values = {name: namespace[name] for name in Parameters.model_fields if name in namespace}
    given = {name: values[name] for name in injected if name in values}
    values = _absolute({name: value for name, value in values.items() if value is not None}, folder)
    if (parameter_file := namespace.get("PARAMETERS")) is not None:
        file = _resolved(folder / Path(str(parameter_file)).expanduser())
        in_file = _absolute(_with_newer_names(_read_mapping(file)), file.parent)
        if "PATH" in in_file:
            values = {name: value for name, value in values.items() if name not in DATA_NAMES}
            values["OUTPUT_PATH"] = str(folder / "runs" / file.stem)
        values |= {name: value for name, value in in_file.items() if value is not None}
    return make_parameters(values | _absolute({n: v for n, v in given.items() if v is not None}, folder))


def parse_override(text: str) -> tuple[str, Any]:
    """Return name and value of `NAME=VALUE` from the command line, the value read as YAML.

    >>> parse_override("NUM_FEATURES=200")
    ('NUM_FEATURES', 200)
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise InputError(f"-s {text}: write -s NAME=VALUE.")
    try:
        return name.strip(), read_yaml(value) if value.strip() else ""
    except Exception:  # PyYAML lets many errors of its own code through; then it is text
        return name.strip(), value
