"""PARENTS, the coarser level of the cell types: each type may have a parent, which an ambiguous cell is then given."""

from collections.abc import Mapping, Sequence

import pandas as pd

from ..core.labels import UNASSIGNED
from ..core.text import listing, nearest
from ..errors import InputError
from .plan import Plan

Parents = Mapping[str, str]  # cell type -> parent; a type that is missing is its own parent

NEARLY_UNANIMOUS = 0.95  # share of a type's cells that have the same parent

NAMES_SHOWN = 10


# --- what PARENTS says -----------------------------------------------------------------------------------------------


def set_parents(given: Parents | str, cells: pd.DataFrame, plan: Plan) -> None:
    """Set `plan.parents`, the parent of each cell type, and add warnings and notes about them to the plan.

    Parameters
    ----------
    given
        PARENTS: the map itself, or the name of the column that `cells` has as `parent`.
    cells
        Of `cells.read_cells`: `cell_type`, and `parent` (None where it is not known) if a column is given.
    plan
        Its `classes` need parents; other types in the data do not.

    Raises
    ------
    InputError
        For a parent that has a parent itself, for `Unassigned` as a parent, for a misspelt cell type, and for a column in
        which a type has no parent for most of its cells.
    """
    parents = _by_majority(given, cells, plan) if isinstance(given, str) else dict(given)
    if not isinstance(given, str):
        _check_types_exist(parents, set(cells["cell_type"].dropna()) | set(plan.classes), plan)
    for name, parent in parents.items():
        if parent == UNASSIGNED:
            reserved = f"{UNASSIGNED} is our word for a rejected cell"
            raise InputError(f"PARENTS: {reserved}; give the parent of {name!r} another name.")
        if parents.get(parent, parent) != parent:
            raise InputError(
                f"PARENTS: {parent!r} is the parent of {name!r} and has a parent itself, {parents[parent]!r}; there is one "
                f"level only. Give {name!r} the parent {parents[parent]!r}, or leave {parent!r} without one."
            )
    plan.parents = parents
    sizes = pd.Series(parents_of(plan.classes, parents)).value_counts()
    if not (sizes > 1).any():
        plan.warnings.append("PARENTS: no two cell types have the same parent, so no cell can fall back to one.")
    elif len(sizes) == 1:
        plan.warnings.append(f"PARENTS: all cell types have the same parent, {sizes.index[0]!r}, which says nothing.")


def _check_types_exist(parents: Parents, labels: set[str], plan: Plan) -> None:
    unknown = [name for name in parents if name not in labels]
    without = [name for name in plan.classes if name not in parents]
    for name in unknown:
        near = nearest(name, without, cutoff=0.85)
        if near or len(unknown) == len(parents):
            hint = f"did you mean {near!r}?" if near else f"the cell types are {listing(plan.classes, NAMES_SHOWN)}."
            raise InputError(f"PARENTS: there is no cell type {name!r}; {hint}")
    if unknown:
        plan.notes.append(f"PARENTS names {listing(unknown, NAMES_SHOWN)}, which no annotated cell has; ignored.")
    if without:
        types = listing(without, NAMES_SHOWN)
        plan.notes.append(f"PARENTS does not name {types}: their cells never fall back to a parent.")


def _by_majority(column: str, cells: pd.DataFrame, plan: Plan) -> dict[str, str]:
    """Return the parent that most annotated cells of each type have in a column."""
    known = cells[cells["cell_type"].isin(plan.classes) & cells["parent"].notna()]
    found: dict[str, str] = {}
    for name, of_type in known.groupby("cell_type")["parent"]:
        counts = of_type.value_counts().sort_index().sort_values(ascending=False, kind="stable")
        shares = counts / counts.sum()
        found_shares = ", ".join(f"{parent!r} {100 * share:.0f} %" for parent, share in shares.iloc[:3].items())
        if shares.iloc[0] <= 0.5:
            raise InputError(
                f"PARENTS: the column {column!r} is no coarser level of the cell types: cells of {name!r} have {found_shares}. "
                "Name another column, or give a map."
            )
        if shares.iloc[0] < NEARLY_UNANIMOUS:
            plan.warnings.append(f"PARENTS: cells of {name!r} have {found_shares} in {column!r}; the first is used.")
        found[str(name)] = str(counts.index[0])
    if not found:
        raise InputError(f"PARENTS: no annotated cell has a value in the column {column!r}.")
    if without := [name for name in plan.classes if name not in found]:
        types = listing(without, NAMES_SHOWN)
        plan.notes.append(f"PARENTS: {column!r} has no parent for {types}: their cells never fall back to one.")
    return found


# --- falling back ----------------------------------------------------------------------------------------------------


def parents_of(types: Sequence[str], parents: Parents) -> list[str]:
    """Return the parent of each type, its own name if it has none.

    >>> parents_of(["B", "CD4 T", "CD8 T"], {"CD4 T": "T", "CD8 T": "T"})
    ['B', 'T', 'T']
    """
    return [parents.get(name, name) for name in types]
