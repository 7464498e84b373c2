"""The parameters of a run: names, types, defaults, limits, and how files of them are read.

The names are those of the JIND-Multi program, upper case, in YAML, JSON, the notebooks' `parameters` cell and
`jind-nb run -s NAME=VALUE` alike.
"""

from __future__ import annotations

import ast
import difflib
import json
import re
import shlex
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from .errors import InputError
from .fetch import check_address, is_remote

# A PATH that starts with this names data inside an installed package instead of a file.
BUNDLED = "scanpy:"
# Far more than any parameter file needs, and little enough that no content of it takes long to read.
MOST_BYTES = 2**18
DATA_SUFFIXES = (".h5ad", ".h5", ".hdf5", ".zarr", ".loom")
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
# What takes the place of the others there.
NOT_IN_PYTHON = {
    "PATH": "the AnnData is the input.",
    "OUTPUT_PATH": "results go into the AnnData, and model.save(folder) keeps the model.",
    "PRETRAINED_MODEL_PATH": "use jind_nb.load_model(folder).predict(adata).",
    "MARKERS": "show them with scanpy.pl.dotplot(adata, markers, groupby='jind_prediction').",
}


def as_text(value: object) -> str:
    """A batch or label name as text, so that `1`, `1.0` (a column with gaps) and `"1"` are the same batch.

    >>> as_text(1), as_text(1.0), as_text("1"), as_text(1.5)
    ('1', '1', '1', '1.5')
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def _name(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"put the name in quotes, YAML reads it as {str(value).lower()}")
    if isinstance(value, date):
        raise ValueError("put the name in quotes, YAML reads it as a date")
    return as_text(value) if isinstance(value, int | float | str) else value


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _names(value: object) -> object:
    """A list, comma-separated text, or the reference's "['1', '2']" as a list of names."""
    if value is None:
        return []
    if isinstance(value, str):
        text = value.strip()
        if text.startswith(("[", "(")):
            try:
                value = ast.literal_eval(text)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                raise ValueError("looks like a list but cannot be read; write ['a', 'b'] or a, b") from None
        else:
            value = [part.strip() for part in text.split(",") if part.strip()]
    if isinstance(value, int | float):
        value = [value]
    if isinstance(value, list | tuple):
        return [_name(item) for item in value]
    return value


def _without_repeats(names: list[str]) -> list[str]:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"names {', '.join(map(repr, repeated))} more than once; keep one")
    return names


def _paths(value: object) -> object:
    paths = [value] if isinstance(value, str) else value
    if isinstance(paths, list) and paths and all(isinstance(path, str) and path.strip() for path in paths):
        for path in filter(is_remote, paths):
            check_address(path)
        return paths[0] if len(paths) == 1 else paths
    raise ValueError("must be the path of an .h5ad file or .zarr folder, its DOI or https address, or a list of these")


def _map(value: object) -> object:
    """A map, also where `-s` or a notebook gives it as text; nothing for an empty text."""
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return {}
        if text.startswith("{"):
            try:
                value = read_yaml(text)
            except Exception:  # PyYAML lets many errors of its own code through
                raise ValueError("looks like a map but cannot be read; write {NAME: VALUE, NAME: VALUE}") from None
    return {_name(key): item for key, item in value.items()} if isinstance(value, dict) else value


def _writable(name: object) -> None:
    """Sees that a name that files will hold can be written to one."""
    if isinstance(name, str) and re.search("[\0\ud800-\udfff]", name):
        raise ValueError("holds a name with a character that no file can; spell it otherwise")


def _markers(value: object) -> object:
    value = _map({} if value is None else value)
    if not isinstance(value, dict):
        raise ValueError("must be a map of cell types to features, as in {T: [CD3D, CD3E], B: [MS4A1]}")
    names = {key: _names(item) for key, item in value.items()}
    for key, item in names.items():
        for name in (key, *item) if isinstance(item, list) else (key,):
            _writable(name)
    # A feature given twice for a type is shown once.
    return {key: list(dict.fromkeys(item)) if isinstance(item, list) else item for key, item in names.items()}


def _parents(value: object) -> object:
    value = _map(value)
    if isinstance(value, dict):
        value = {key: _name(item) for key, item in value.items() if item not in (None, "")}
        for pair in value.items():
            _writable(pair[0])
            _writable(pair[1])
        if all(isinstance(name, str) and name for pair in value.items() for name in pair):
            return value or None
    elif value is None or isinstance(value, str | int):
        return _name(value)
    raise ValueError("must be a map of cell types to parents, or a column of obs")


def _resolution(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number, the resolution: 1 is usual, a higher one gives more clusters")
    return value


def _nothing_if_empty(value: object) -> object:
    return None if isinstance(value, str | bytes) and not value.strip() else value


Name = Annotated[str, BeforeValidator(_name), Field(min_length=1)]
Whole = Annotated[int, BeforeValidator(_number)]
MaybeName = Annotated[Name | None, BeforeValidator(_nothing_if_empty)]
MaybeText = Annotated[str | None, BeforeValidator(_nothing_if_empty)]
Names = Annotated[list[Name], BeforeValidator(_names)]
Words = Annotated[list[Annotated[str, BeforeValidator(_name)]], BeforeValidator(_names)]
MaybeNumber = Annotated[float | None, BeforeValidator(_nothing_if_empty), BeforeValidator(_number)]
MaybeResolution = Annotated[float | None, BeforeValidator(_nothing_if_empty), BeforeValidator(_resolution)]
Markers = Annotated[dict[Name, Names], BeforeValidator(_markers)]
MaybeParents = Annotated[dict[Name, Name] | Name | None, BeforeValidator(_parents)]
MaybeBool = Annotated[bool | None, BeforeValidator(_nothing_if_empty)]


class Parameters(BaseModel):
    """Everything a run can be told. Frozen: a run's parameters do not change under it.

    >>> p = Parameters(PATH="a.h5ad", BATCH_COL="batch", LABELS_COL="celltype", TARGET_DATASET_NAME=3,
    ...                OUTPUT_PATH="runs/a", INTER_DATASETS_NAMES="['1', '2']")
    >>> p.TARGET_DATASET_NAME, p.INTER_DATASETS_NAMES, p.NUM_FEATURES
    ('3', ['1', '2'], 5000)
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    PATH: Annotated[str | list[str], BeforeValidator(_paths)] = Field(
        description="The .h5ad file or .zarr folder, the DOI or https address of an .h5ad file, or a list of these whose "
        "genes are matched by name."
    )
    BATCH_COL: str = Field(
        min_length=1,
        description="Column of `obs` with the batch of each cell; in a list of files, a file without it is one batch "
        "named like the file.",
    )
    LABELS_COL: str = Field(min_length=1, description="Column of `obs` with the cell types of the annotated batches.")
    TARGET_DATASET_NAME: Name = Field(description="The batch to annotate; its labels, if any, only serve evaluation.")
    SOURCE_DATASET_NAME: MaybeName = Field(
        None, description="The annotated batch training starts from; chosen automatically if absent."
    )
    OUTPUT_PATH: str = Field(min_length=1, description="Folder of the results; default runs/<parameter file's name>.")
    PRETRAINED_MODEL_PATH: MaybeText = Field(
        None, description="A run's `trained_models` folder: annotate with it and train nothing."
    )
    INTER_DATASETS_NAMES: Names = Field(
        [], description="Intermediate batches, in training order; empty: every annotated batch not excluded."
    )
    EXCLUDE_DATASETS_NAMES: Names = Field([], description="Batches that take no part in anything.")
    NUM_FEATURES: Whole = Field(
        5000, ge=1, description="How many features (genes, peaks) of largest variance are kept."
    )
    MIN_CELL_TYPE_POPULATION: Whole = Field(
        100, ge=1, description="A cell type with fewer labelled cells in a batch is left out of that batch's training."
    )
    USE_GPU: bool = Field(True, description="Use a GPU if there is one.")
    METHOD: Literal["default", "reference"] = Field(
        "default", description="`reference` is the published method with its constants; `default` is what we recommend."
    )
    SEED: Whole = Field(0, ge=0, le=2**32 - 1, description="Fixes every random choice.")
    EPOCHS: Whole = Field(
        15,
        ge=1,
        le=1000,
        description="METHOD `reference`: epochs of each training stage, and at most of alignment.",
    )
    REJECTION: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="theta: the share of a type's held-out cells that its confidence threshold would reject.",
    )
    TARGET_ERROR: MaybeNumber = Field(
        None,
        gt=0,
        lt=1,
        description="Instead of REJECTION: the share of wrong labels among the assigned cells to stay below in a batch "
        "never seen, say 0.05.",
    )
    UNLABELED: Words = Field(
        ["-", "?", "NA", "N/A", "NaN", "None", "null", "unknown", "unassigned", "unlabeled", "unlabelled",
         "unannotated", "not annotated", "not assigned"],
        description="Words in LABELS_COL that mean: no label (upper and lower case alike).",
    )  # fmt: skip
    GENE_COL: MaybeText = Field(
        None, description="Column of `var` with the feature names; default: the index of `var`."
    )
    LAYER: MaybeText = Field(
        None, description="Which values to use: the name of a layer, `.raw` for `adata.raw`; default: `X`."
    )
    NORMALISATION: Literal["auto", "counts", "log1p", "as_is"] = Field(
        "auto",
        description="What the values are: recognised batch by batch (`auto`), `counts` or another linear scale, "
        "`log1p` values, or to be left alone (`as_is`).",
    )
    ALIGN: MaybeBool = Field(
        None,
        description="Align the target with the annotated batches; default: where left-out batches were annotated better "
        "for it (METHOD `reference`: always), and never with PRETRAINED_MODEL_PATH.",
    )
    MARKERS: Markers = Field(
        {}, description='Features to look at for each cell type, a map such as {"T": ["CD3D", "CD3E"], "B": ["MS4A1"]}.'
    )
    PARENTS: MaybeParents = Field(
        None,
        description='A coarser level: a map such as {"CD4 T": "T", "CD8 T": "T"}, or a column of `obs` with it; an ambiguous '
        "cell is then given the parent, where that is confident.",
    )
    CLUSTER_RESOLUTION: MaybeResolution = Field(
        None,
        gt=0,
        le=100,
        allow_inf_nan=False,
        description="Leiden clusters of the target at this resolution (1 is usual), and the majority of each, beside "
        "the answer for each cell.",
    )

    @model_validator(mode="after")
    def _roles_are_disjoint(self) -> Parameters:
        _check(_without_repeats, "INTER_DATASETS_NAMES", self.INTER_DATASETS_NAMES)
        _check(_without_repeats, "EXCLUDE_DATASETS_NAMES", self.EXCLUDE_DATASETS_NAMES)
        if len(self.paths) != len(set(self.paths)):
            raise ValueError("PATH names the same file more than once; keep one")
        target, source = self.TARGET_DATASET_NAME, self.SOURCE_DATASET_NAME
        if source == target:
            raise ValueError(
                f"SOURCE_DATASET_NAME and TARGET_DATASET_NAME are both {target!r}; the target cannot train itself: "
                "name another source, or leave it out to have one chosen"
            )
        if target in self.INTER_DATASETS_NAMES:
            raise ValueError(
                f"TARGET_DATASET_NAME {target!r} is also in INTER_DATASETS_NAMES; take it out of one of the two"
            )
        for other, names in {
            "TARGET_DATASET_NAME": [target],
            "SOURCE_DATASET_NAME": [source] if source else [],
            "INTER_DATASETS_NAMES": self.INTER_DATASETS_NAMES,
        }.items():
            both = [name for name in names if name in self.EXCLUDE_DATASETS_NAMES]
            if both:
                raise ValueError(
                    f"EXCLUDE_DATASETS_NAMES and {other} both name {', '.join(map(repr, both))}; "
                    "take it out of one of the two"
                )
        return self

    @property
    def paths(self) -> list[str]:
        """PATH as a list, also where it is a single file."""
        return [self.PATH] if isinstance(self.PATH, str) else list(self.PATH)

    @property
    def intermediates(self) -> list[str]:
        """INTER_DATASETS_NAMES without the source (the reference's own example lists it there)."""
        return [name for name in self.INTER_DATASETS_NAMES if name != self.SOURCE_DATASET_NAME]

    @property
    def aligns(self) -> bool:
        """Whether the target is aligned: ALIGN, or its default."""
        return self.PRETRAINED_MODEL_PATH is None if self.ALIGN is None else self.ALIGN

    def is_unlabeled(self, label: str) -> bool:
        """Whether a word in LABELS_COL stands for no label; an empty one always does."""
        return not label.strip() or label.strip().casefold() in {word.casefold() for word in self.UNLABELED}


def _check(rule, name: str, value: list[str]) -> None:
    try:
        rule(value)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


def make_parameters(values: Mapping[str, Any]) -> Parameters:
    """Parameters from a mapping of names to values.

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
        raise InputError("\n".join(_told(problem) for problem in error.errors())) from None


def _with_newer_names(values: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(values)
    for older, newer in OLDER_NAMES.items():
        if older in values:
            if newer in values:
                raise InputError(f"{older} is the older name of {newer}, and both are given; keep {newer}.")
            values[newer] = values.pop(older)
    return values


def _unknown(name: object) -> str:
    called = {python_name(known): known for known in PYTHON_NAMES}.get(str(name).lower())
    near = (
        [called] if called else difflib.get_close_matches(str(name).upper(), Parameters.model_fields, n=1, cutoff=0.5)
    )
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(Parameters.model_fields)}."
    return f"There is no parameter {name!s}; {hint}"


def _told(problem: Mapping[str, Any]) -> str:
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


# --- the Python API's names -------------------------------------------------------------------------------------------


def python_name(name: str) -> str:
    """What the Python API calls a parameter.

    >>> python_name("BATCH_COL"), python_name("NUM_FEATURES")
    ('batch_key', 'num_features')
    """
    return PYTHON_NAMES.get(name, name.lower())


def python_names() -> dict[str, str]:
    """The Python API's name of each parameter that it has -> the parameter."""
    return {python_name(name): name for name in Parameters.model_fields if name not in NOT_IN_PYTHON}


def from_python(options: Mapping[str, Any], known: Iterable[str] | None = None) -> dict[str, Any]:
    """Values by the parameters' own names, for `make_parameters`, from the Python API's; None stands for the default.

    Parameters
    ----------
    known
        The parameters that may be given; default: all that Python has.

    Raises
    ------
    InputError
        For an unknown name, with the nearest known one or what to use instead.
    """
    names = {python: name for python, name in python_names().items() if known is None or name in known}
    elsewhere = {python_name(name): instead for name, instead in NOT_IN_PYTHON.items()}
    for given in options:
        if given not in names:
            near = difflib.get_close_matches(given.lower(), names, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(names)}."
            raise InputError(f"There is no parameter {given} here: {elsewhere.get(given.lower(), hint)}")
    plain = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in options.items()}
    return {names[name]: value for name, value in plain.items() if value is not None}


def in_python(message: str) -> str:
    """A message with the parameters called as in Python.

    >>> in_python("TARGET_DATASET_NAME: there is no batch '9'; see EXCLUDE_DATASETS_NAMES.")
    "target: there is no batch '9'; see exclude."
    """
    for name in sorted(Parameters.model_fields, key=len, reverse=True):
        message = re.sub(rf"\b{name}\b", python_name(name), message)
    return message


# --- files of parameters ----------------------------------------------------------------------------------------------


def _is_bundled(path: str) -> bool:
    return path.startswith(BUNDLED)


def _absolute(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same values, relative paths made absolute from `folder`."""

    def absolute(name: str, path: object) -> object:
        if not isinstance(path, str) or not path.strip() or _is_bundled(path) or (name == "PATH" and is_remote(path)):
            return path
        try:
            found = (folder / Path(path).expanduser()).resolve()
            found.exists()  # says where a name is too long for the disk
            return str(found)
        except (RuntimeError, ValueError, OSError) as error:
            raise InputError(f"{name}: {path!r} cannot be a path: {error}.") from None

    return {
        name: ([absolute(name, path) for path in value] if isinstance(value, list) else absolute(name, value))
        if name in ("PATH", "OUTPUT_PATH", "PRETRAINED_MODEL_PATH")
        else value
        for name, value in values.items()
    }


def _read_mapping(file: Path) -> dict[str, Any]:
    if file.suffix.lower() in DATA_SUFFIXES:
        raise InputError(
            f"{file} holds data, not parameters; jind-nb init {shlex.quote(str(file))} writes a parameter file for them."
        )
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


class _Loader(yaml.SafeLoader):
    """Without aliases of lists and mappings, a few of which can stand for more values than the memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if alias and not isinstance(node, yaml.ScalarNode):
            raise yaml.YAMLError("an alias (*name) may only stand for a single value; write the list out")
        return node


def read_yaml(text: str) -> Any:
    """The value that a text of YAML says; only plain values, nothing is executed."""
    return yaml.load(text, Loader=_Loader)


def load_parameters(file: Path | str, overrides: Mapping[str, Any] | None = None) -> Parameters:
    """Parameters from a YAML or JSON file; `overrides` (the command line's) win.

    Relative paths in the file are relative to the file, in the overrides to the working directory. Without an
    OUTPUT_PATH, results go to `runs/<the file's name>` under the working directory.

    Raises
    ------
    InputError
        If the file cannot be read, or as `make_parameters` does.
    """
    file = Path(file).expanduser().resolve()
    values = {"OUTPUT_PATH": str(Path.cwd() / "runs" / file.stem)}
    in_file = _absolute(_with_newer_names(_read_mapping(file)), file.parent)
    values |= {name: value for name, value in in_file.items() if value is not None}
    values |= _absolute(_with_newer_names(overrides or {}), Path.cwd())
    required = [
        name for name, field in Parameters.model_fields.items() if field.is_required() and name != "OUTPUT_PATH"
    ]
    try:
        return make_parameters(values)
    except InputError as error:
        missing = [name for name in required if name not in values]
        if not missing or set(values) - set(Parameters.model_fields):
            raise
        raise InputError(f"{error}\nFill in {', '.join(missing)} in {file}, or give -s NAME=VALUE.") from None


def from_notebook(namespace: Mapping[str, Any], folder: Path) -> Parameters:
    """Parameters from a notebook's variables (`globals()`); relative paths are relative to `folder`."""
    values = {name: namespace[name] for name in Parameters.model_fields if name in namespace}
    return make_parameters(_absolute({k: v for k, v in values.items() if v is not None}, folder))


def parse_override(text: str) -> tuple[str, Any]:
    """`NAME=VALUE` from the command line, the value read as YAML.

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
