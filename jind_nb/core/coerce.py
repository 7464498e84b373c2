"""The types of the parameters: what a value may be written as in YAML, JSON, a notebook or `-s NAME=VALUE`."""

import ast
import re
from contextlib import suppress
from datetime import date
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from .address import check_address, is_remote
from .files import read_yaml
from .text import as_text, listing

AUTO: Literal["auto"] = "auto"  # of MIN_CELL_TYPE_POPULATION and ONTOLOGY

ONTOLOGY = "ontology"  # of PARENTS


def _name(value: object) -> object:
    """Return a number as a name; refuse what YAML reads as something else."""
    if isinstance(value, bool):
        raise ValueError(f"put the name in quotes, YAML reads it as {str(value).lower()}")
    if isinstance(value, date):
        raise ValueError("put the name in quotes, YAML reads it as a date")
    return as_text(value) if isinstance(value, int | float | str) else value


def _not_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _population(value: object) -> object:
    """Return `auto`, or a whole number of at least one."""
    if value == AUTO:
        return value
    number = _not_bool(value)
    if isinstance(number, str) and number.strip().isdecimal():
        number = int(number)
    if not isinstance(number, int | float) or number != number or number % 1 or number < 1:
        raise ValueError(f"must be a whole number of at least 1, or {AUTO}")
    return int(number)


def _names(value: object) -> object:
    """Return a list, comma-separated text, or the reference's "['1', '2']" as a list of names."""
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
    return [_name(item) for item in value] if isinstance(value, list | tuple) else value


def _targets(value: object) -> object:
    """Return one name, a list of several, or None for none; text is a name, unless it is a list as Python writes it."""
    if isinstance(value, str) and value.strip().startswith("["):
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            value = ast.literal_eval(value.strip())
    if isinstance(value, list | tuple):
        names = _names(value)
        if isinstance(names, list) and len(names) < 2:
            return names[0] if names else None
        return names
    return None if value is None else _name(value)


def _no_repeats_of_several(names: str | list[str] | None) -> str | list[str] | None:
    return _without_repeats(names) if isinstance(names, list) else names


def _without_repeats(names: list[str]) -> list[str]:
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"names {listing(repeated)} more than once; keep one")
    return names


def _paths(value: object) -> object:
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, list) or not paths or not all(isinstance(path, str) and path.strip() for path in paths):
        raise ValueError(
            "must be the path of an .h5ad file or .zarr folder, a DOI or https address, or a list of these"
        )
    for path in filter(is_remote, paths):
        check_address(path)
    return paths[0] if len(paths) == 1 else _without_repeats(paths)


def _map(value: object) -> object:
    """Return a map, also one that `-s` or a notebook gives as text; an empty text is an empty map."""
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


def _writable(name: str) -> str:
    if re.search("[\0\ud800-\udfff]", name):
        raise ValueError("holds a name with a character that no file can hold; spell it differently")
    return name


def _markers(value: object) -> object:
    value = _map({} if value is None else value)
    if not isinstance(value, dict):
        raise ValueError("must be a map of cell types to features, as in {T: [CD3D, CD3E], B: [MS4A1]}")
    return value


def _parents(value: object) -> object:
    value = _map(value)
    if value is None or isinstance(value, str | int):
        return _name(value)
    if isinstance(value, dict):
        value = {key: _name(item) for key, item in value.items() if item not in (None, "")}
        if all(isinstance(name, str) and _writable(name) for pair in value.items() for name in pair):
            return value or None
    raise ValueError("must be a map of cell types to parents, or a column of obs")


def _ontology(value: object) -> object:
    value = _map(value)
    if not value or value == AUTO:
        return value or None
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ValueError(f"must be {AUTO}, or a map of cell types to terms, as in {{B: CL:0000236}}")
    return {key: item.strip().replace("_", ":") for key, item in value.items()}


def _rename(value: object) -> object:
    value = _map({} if value is None else value)
    if not isinstance(value, dict) or any(isinstance(item, dict | list) for item in value.values()):
        raise ValueError("must be a map of labels to labels, as in {b cells: B, Bcell: B}")
    return value


def _none_if_empty(value: object) -> object:
    return None if isinstance(value, str | bytes) and not value.strip() else value


Name = Annotated[str, BeforeValidator(_name), Field(min_length=1)]

Population = Annotated[int | Literal["auto"], BeforeValidator(_population)]

Whole = Annotated[int, BeforeValidator(_not_bool)]

MaybeName = Annotated[Name | None, BeforeValidator(_none_if_empty)]

MaybeText = Annotated[str | None, BeforeValidator(_none_if_empty)]

Paths = Annotated[str | list[str], BeforeValidator(_paths)]

Names = Annotated[list[Name], BeforeValidator(_names), AfterValidator(_without_repeats)]

Targets = Annotated[Name | list[Name] | None, BeforeValidator(_targets), AfterValidator(_no_repeats_of_several)]

Words = Annotated[list[Annotated[str, BeforeValidator(_name)]], BeforeValidator(_names)]

MaybeNumber = Annotated[float | None, BeforeValidator(_none_if_empty), BeforeValidator(_not_bool)]

_Writable = Annotated[Name, AfterValidator(_writable)]

# A feature given twice for a type is shown once.
_Features = Annotated[
    list[_Writable], BeforeValidator(_names), AfterValidator(lambda names: list(dict.fromkeys(names)))
]

Markers = Annotated[dict[_Writable, _Features], BeforeValidator(_markers)]

Parents = Annotated[dict[Name, Name] | Name | None, BeforeValidator(_parents)]

Ontology = Annotated[dict[Name, str] | Literal["auto"] | None, BeforeValidator(_ontology)]

Rename = Annotated[dict[Name, Name], BeforeValidator(_rename)]

MaybeBool = Annotated[bool | None, BeforeValidator(_none_if_empty)]
