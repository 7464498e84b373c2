"""The Python API's names of the parameters, in its arguments and in messages."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import InputError
from .parameters import NOT_IN_PYTHON, Parameters, python_name
from .text import nearest


def python_names() -> dict[str, str]:
    """Return the parameters of the Python API: its name -> the parameter's name."""
    return {python_name(name): name for name in Parameters.model_fields if name not in NOT_IN_PYTHON}


def from_python(options: Mapping[str, Any], known: Iterable[str] | None = None) -> dict[str, Any]:
    """Return the Python API's arguments by the parameters' own names; leave out None, which means the default.

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
            near = nearest(given.lower(), names, cutoff=0.5)
            hint = f"did you mean {near}?" if near else f"known are {', '.join(names)}."
            raise InputError(f"There is no parameter {given} here: {elsewhere.get(given.lower(), hint)}")
    plain = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in options.items()}
    return {names[name]: value for name, value in plain.items() if value is not None}


def in_python(message: str) -> str:
    """Return a message with the parameters' names replaced by those of the Python API.

    >>> in_python("TARGET_DATASET_NAME: there is no batch '9'; see EXCLUDE_DATASETS_NAMES.")
    "target: there is no batch '9'; see exclude."
    """
    for name in sorted(Parameters.model_fields, key=len, reverse=True):
        message = re.sub(rf"\b{name}\b", python_name(name), message)
    return message
