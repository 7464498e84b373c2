"""TYPES, the only cell types that may be given: those of them that a model knows."""

from collections.abc import Sequence

from ..core.text import listing, nearest
from ..errors import InputError


def allowed_types(types: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Return those of TYPES that are among the cell types that can be given, in the order of `classes`.

    Raises
    ------
    InputError
        For a type that looks like a misspelt one, and if none can be given.

    >>> allowed_types(["T", "B", "neuron"], ["B", "NK", "T"])
    ['B', 'T']
    """
    others = [name for name in classes if name not in types]
    for name in types:
        if name not in classes and (near := nearest(name, others, cutoff=0.85)):
            raise InputError(f"TYPES: no annotated cell has the type {name!r}; did you mean {near!r}?")
    if not set(types) & set(classes):
        raise InputError(f"TYPES: no annotated cell has one of these types; the cell types are {listing(classes)}.")
    return [name for name in classes if name in types]
