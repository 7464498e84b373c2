"""A coarser level: a cell whose type is ambiguous gets the type's parent, where that is confident.

One level: every type has one parent, itself where none is given. A parent's probability is the sum of its types'.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .errors import InputError
from .rejection import AMBIGUOUS, UNASSIGNED, Predictions, at_most, class_thresholds

if TYPE_CHECKING:
    from .data import Plan

Parents = Mapping[str, str]  # cell type -> parent; a type that is missing is its own
NEARLY_UNANIMOUS = 0.95  # of a type's cells, on its parent
NAMES_SHOWN = 10


# --- what PARENTS says -----------------------------------------------------------------------------------------------


def enter(given: Parents | str, cells: pd.DataFrame, plan: Plan) -> None:
    """Enters into the plan the parent of each cell type, `plan.parents`, and what is odd about them.

    Parameters
    ----------
    given
        PARENTS: the map itself, or the name of the column that `cells` has as `parent`.
    cells
        As `data.read_cells` makes it: `cell_type`, and `parent` (None where it is not known) if a column is given.
    plan
        Its `classes`; of a type that is in the data but not among them no parent is asked for.

    Raises
    ------
    InputError
        For a parent that itself has one, for `Unassigned` as a parent, for a name that is almost a cell type's, and for
        a column in which a type's cells do not agree.
    """
    parents = dict(given) if not isinstance(given, str) else _by_majority(given, cells, plan)
    labels = set(cells["cell_type"].dropna()) | set(plan.classes)
    if not isinstance(given, str):
        _see_that_types_exist(parents, labels, plan)
    for name, parent in parents.items():
        if parent == UNASSIGNED:
            raise InputError(
                f"PARENTS: {UNASSIGNED} is our word for a rejected cell; name the parent of {name!r} anew."
            )
        if parents.get(parent, parent) != parent:
            raise InputError(
                f"PARENTS: {parent!r} is the parent of {name!r} and has a parent itself, {parents[parent]!r}; there is one "
                f"level only. Give {name!r} the parent {parents[parent]!r}, or leave {parent!r} without one."
            )
    plan.parents = parents
    sizes = pd.Series(of_types(plan.classes, parents)).value_counts()
    if not (sizes > 1).any():
        plan.warnings.append("PARENTS: no two cell types have the same parent, so no cell can fall back to one.")
    elif len(sizes) == 1:
        plan.warnings.append(f"PARENTS: all cell types have the same parent, {sizes.index[0]!r}, which says nothing.")


def _see_that_types_exist(parents: Parents, labels: set[str], plan: Plan) -> None:
    unknown = [name for name in parents if name not in labels]
    without = [name for name in plan.classes if name not in parents]
    for name in unknown:
        near = difflib.get_close_matches(name, without, n=1, cutoff=0.85)
        if near or len(unknown) == len(parents):
            hint = f"did you mean {near[0]!r}?" if near else f"the cell types are {_listing(plan.classes)}."
            raise InputError(f"PARENTS: there is no cell type {name!r}; {hint}")
    if unknown:
        plan.notes.append(f"PARENTS names {_listing(unknown)}, which no annotated cell has; that is no matter.")
    if without:
        plan.notes.append(f"PARENTS does not name {_listing(without)}: no cell falls back from there.")


def _by_majority(column: str, cells: pd.DataFrame, plan: Plan) -> dict[str, str]:
    """The parent that most of a type's annotated cells have in a column."""
    known = cells[cells["cell_type"].isin(plan.classes) & cells["parent"].notna()]
    found: dict[str, str] = {}
    for name, of_type in known.groupby("cell_type")["parent"]:
        counts = of_type.value_counts().sort_index().sort_values(ascending=False, kind="stable")
        shares = counts / counts.sum()
        told = ", ".join(f"{parent!r} {100 * share:.0f} %" for parent, share in shares.iloc[:3].items())
        if shares.iloc[0] <= 0.5:
            raise InputError(
                f"PARENTS: the column {column!r} is no coarser level of the cell types: cells of {name!r} have {told}. "
                "Name another column, or give a map."
            )
        if shares.iloc[0] < NEARLY_UNANIMOUS:
            plan.warnings.append(f"PARENTS: cells of {name!r} have {told} in {column!r}; the first is taken.")
        found[str(name)] = str(counts.index[0])
    if not found:
        raise InputError(f"PARENTS: no annotated cell has a value in the column {column!r}.")
    if without := [name for name in plan.classes if name not in found]:
        plan.notes.append(f"PARENTS: {column!r} says nothing of {_listing(without)}: no cell falls back from there.")
    return found


def _listing(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(map(repr, names[:NAMES_SHOWN])) + more


# --- falling back ----------------------------------------------------------------------------------------------------


def of_types(types: Sequence[str], parents: Parents) -> list[str]:
    """The parent of each type; its own name where none is given.

    >>> of_types(["B", "CD4 T", "CD8 T"], {"CD4 T": "T", "CD8 T": "T"})
    ['B', 'T', 'T']
    """
    return [parents.get(name, name) for name in types]


def probabilities(of_types_: np.ndarray, classes: Sequence[str], parents: Parents) -> tuple[list[str], np.ndarray]:
    """Each parent's probability: the sum over its types.

    Parameters
    ----------
    of_types_
        Float (n_cells, K).

    Returns
    -------
    The J parents, by name, and float64 (n_cells, J).
    """
    parent = of_types(classes, parents)
    names = sorted(set(parent))
    member = np.zeros((len(classes), len(names)))
    member[np.arange(len(classes)), [names.index(name) for name in parent]] = 1.0
    return names, of_types_.astype(np.float64) @ member


def thresholds(predictions: Predictions, parents: Parents) -> dict[str, float]:
    """The probability below which a cell does not fall back to a parent, by the rule that rejects types: class-wise from
    the held-out cells' summed probabilities; TARGET_ERROR's own where there is one threshold for all."""
    names, _ = probabilities(predictions.probabilities[:0], predictions.classes, parents)
    if predictions.held_out is not None:
        held_out = probabilities(predictions.held_out, predictions.classes, parents)[1]
        thresholds = at_most(class_thresholds(held_out, predictions.theta), predictions.enough)
        return dict(zip(names, thresholds.tolist(), strict=True))
    parent = np.array(of_types(predictions.classes, parents))
    return {name: float(predictions.thresholds[parent == name].max()) for name in names}


def fall_back(predictions: Predictions, parents: Parents, least: Mapping[str, float]) -> np.ndarray:
    """The parent that each cell falls back to, objects (n_cells,): None where it does not.

    A cell falls back if its type is ambiguous (never if it is unlike the reference), its most probable parent has at
    least two types (another would say no more than the type), and that parent's probability is at least its threshold.

    >>> p = Predictions(["B", "CD4 T", "CD8 T"], np.array([[0.1, 0.5, 0.4]]), np.full(3, 0.8))
    >>> fall_back(p, {"CD4 T": "T", "CD8 T": "T"}, {"B": 0.8, "T": 0.8}).tolist()
    ['T']
    """
    names, summed = probabilities(predictions.probabilities, predictions.classes, parents)
    parent = of_types(predictions.classes, parents)
    best = summed.argmax(axis=1)
    confident = summed.max(axis=1, initial=0.0) >= np.array([least[name] for name in names])[best]
    shared = np.array([parent.count(name) > 1 for name in names])[best]
    falls = (predictions.reasons == AMBIGUOUS) & confident & shared
    fallen = np.full(len(best), None, dtype=object)
    fallen[falls] = np.array(names, dtype=object)[best[falls]]
    return fallen
