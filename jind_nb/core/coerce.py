"""TODO."""

from __future__ import annotations

import ast
import re
from datetime import date
from typing import Annotated

from pydantic import BeforeValidator, Field

from .address import check_address, is_remote
from .files import read_yaml
from .text import as_text


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
