"""The roles of the batches: which are used for training, which is annotated, and what is left out and why."""

from pathlib import Path

import numpy as np
import pandas as pd

from ..core.coerce import AUTO, ONTOLOGY
from ..core.methods import DATA_RULES
from ..core.model_json import read_model_json
from ..core.parameters import Parameters
from ..core.text import did_you_mean, listing, percent, plural
from ..errors import InputError
from .allowed_types import allowed_types
from .cells import names_of, read_cells
from .label_names import label_warnings
from .ontology import set_levels, set_ontology
from .parents import set_parents
from .plan import Plan

# MIN_CELL_TYPE_POPULATION `auto`: labelled cells that a type needs in all annotated batches together.
LEARNABLE = 2

ROLES = ("SOURCE_DATASET_NAME", "INTER_DATASETS_NAMES", "EXCLUDE_DATASETS_NAMES")  # of batches that are no target

FEWEST_OF_A_TYPE = 100  # of these, for each cell type with so many


def _check_names(p: Parameters, known: list[str]) -> None:
    """Check that there are the batches that parameters name; with a saved model, which needs no other, the target."""
    where = f"column {p.BATCH_COL!r} of {', '.join(p.paths)}"
    for parameter in ("TARGET_DATASET_NAME", *(ROLES if p.PRETRAINED_MODEL_PATH is None else ())):
        for name in p.batches_in(parameter):
            if name not in known:
                has = f"it has {listing(known)}.{did_you_mean(name, known)}"
                raise InputError(f"{parameter}: there is no batch {name!r} in {where}; {has}")


def with_targets(parameters: Parameters) -> Parameters:
    """Return the parameters with their targets named: every batch without labels, where TARGET_DATASET_NAME is absent.

    Batches in EXCLUDE_DATASETS_NAMES, and those with another role, are no targets; nor is a single cell.

    Raises
    ------
    InputError
        If there is no such batch.
    """
    if parameters.targets:
        return parameters
    cells = read_cells(parameters)
    table = cells.groupby("batch", sort=False)["cell_type"].agg(["size", "count"])
    used = {name for other in ROLES for name in parameters.batches_in(other)}
    found = [str(name) for name in table.index[(table["count"] == 0) & (table["size"] > 1)] if name not in used]
    if not found:
        raise InputError(
            f"TARGET_DATASET_NAME is absent, which means every batch without labels, and each has some in column "
            f"{parameters.LABELS_COL!r}; name the batch to annotate: {listing(table.index)}."
        )
    return parameters.model_copy(update={"TARGET_DATASET_NAME": found[0] if len(found) == 1 else found})


def make_plan(parameters: Parameters, cells: pd.DataFrame) -> Plan:
    """Return the plan that follows from names and labels alone; add the bool column `trains` to `cells`.

    Raises
    ------
    InputError
        For an unknown batch, or if fewer than two cell types would be left to train.
    """
    p = parameters
    batches = list(dict.fromkeys(cells["batch"].dropna()))
    _check_names(p, batches)
    plan = Plan(p.target, p.SOURCE_DATASET_NAME, annotated=[], classes=[], targets=p.targets)
    for target in plan.targets:
        n_target = int((cells["batch"] == target).sum())
        if n_target < 2:
            raise InputError(f"TARGET_DATASET_NAME: batch {target!r} has {n_target} cell; at least two are needed.")
    _note_names(p, cells, plan)
    cells["trains"] = False
    if p.PRETRAINED_MODEL_PATH is not None:
        plan.source = None
        if p.TYPES:
            allowed_types(p.TYPES, read_model_json(Path(p.PRETRAINED_MODEL_PATH))["classes"])
        if p.terms is not None:
            plan.classes = read_model_json(Path(p.PRETRAINED_MODEL_PATH))["classes"]
            set_ontology(p.terms, plan)
        if p.PARENTS == ONTOLOGY:
            set_levels(plan)
        elif p.PARENTS is not None:
            if isinstance(p.PARENTS, str):
                column = f"{p.PARENTS!r} is a column, and a saved model has no annotated cells to read it from"
                raise InputError(f"PARENTS: {column}; give a map, or leave PARENTS out to use the model's own.")
            plan.classes = read_model_json(Path(p.PRETRAINED_MODEL_PATH))["classes"]
            set_parents(p.PARENTS, cells, plan)
        return plan

    candidates = _candidates(p, batches, plan)
    has_label = cells["cell_type"].notna()
    labelled = {name: cells.loc[has_label & (cells["batch"] == name), ["cell", "cell_type"]] for name in candidates}
    counts = {name: batch["cell_type"].value_counts().sort_index() for name, batch in labelled.items()}
    total = pd.DataFrame(counts).sum(axis=1)
    learnable = total.index[(total >= LEARNABLE) | (p.MIN_CELL_TYPE_POPULATION != AUTO)]
    for name, batch in labelled.items():
        _choose_types(p, name, counts[name], learnable, plan)
        if name in plan.cells:
            batch = _subsample_batch(p, name, batch[batch["cell_type"].isin(plan.cells[name])], plan)
            plan.cells[name] = {str(t): int(n) for t, n in batch["cell_type"].value_counts().sort_index().items()}
            cells.loc[batch.index, "trains"] = True
    _check_what_is_left(p, counts, plan)
    if p.TARGET_ERROR is not None and len(plan.annotated) == 1:
        raise InputError(
            f"TARGET_ERROR: found {p.TARGET_ERROR}, but there is a single annotated batch ({plan.annotated[0]!r}). How wrong a "
            "new batch will be can only be seen by leaving an annotated batch out, and then none is left to learn from. Leave "
            "TARGET_ERROR out (REJECTION works), or add a second annotated batch."
        )
    plan.classes = sorted(set().union(*plan.cells.values()))
    plan.dropped = sorted(set().union(*(of_batch.index for of_batch in counts.values())) - set(plan.classes))
    plan.labelled = {name: int(of_batch.sum()) for name, of_batch in counts.items() if of_batch.sum()}
    plan.warnings += _dropped_warning(p, plan)  # the first of all: page one counts on these types being there
    plan.warnings += label_warnings({name: counts[name] for name in plan.annotated})
    if p.TYPES:
        allowed_types(p.TYPES, plan.classes)
    if p.terms is not None:
        set_ontology(p.terms, plan)
    if p.PARENTS == ONTOLOGY:
        set_levels(plan)
    elif p.PARENTS is not None:
        set_parents(p.PARENTS, cells, plan)
    return plan


def _candidates(p: Parameters, batches: list[str], plan: Plan) -> list[str]:
    """Return the batches that may train, in training order: those named, or all but the target and the excluded."""
    candidates = p.batches_in("SOURCE_DATASET_NAME") + p.intermediates
    unnamed = [name for name in batches if name not in (*candidates, *plan.targets, *p.EXCLUDE_DATASETS_NAMES)]
    if p.INTER_DATASETS_NAMES:
        plan.left_out |= dict.fromkeys(unnamed, "not named in INTER_DATASETS_NAMES")
    else:
        candidates += sorted(unnamed)  # not as the file happens to be sorted
    plan.left_out |= dict.fromkeys(p.EXCLUDE_DATASETS_NAMES, "named in EXCLUDE_DATASETS_NAMES")
    return candidates


def _note_names(p: Parameters, cells: pd.DataFrame, plan: Plan) -> None:
    files = cells.groupby("batch", sort=False)["file"].agg(["first", "nunique"])
    for name in files.index[files["nunique"] > 1]:
        plan.notes.append(f"{files.loc[name, 'nunique']} files have a batch {name!r} without labels; it is one batch.")
    called = names_of(p.paths)
    ends = {name: f" ({called[number]})" for name, number in files["first"].items()}
    if apart := [name for name, end in ends.items() if len(p.paths) > 1 and str(name).endswith(end)]:
        plan.notes.append(
            f"Several files have batches of one name; they are kept apart, named after their files: {listing(apart)}."
        )
    if p.SOURCE_DATASET_NAME in p.INTER_DATASETS_NAMES:
        plan.notes.append(f"INTER_DATASETS_NAMES lists the source {p.SOURCE_DATASET_NAME!r} too; it stays the source.")
    if without := int(cells["batch"].isna().sum()):
        plan.notes.append(f"{without} cells have no value in {p.BATCH_COL!r} and take no part.")
    if rejected := int(cells["rejected"].sum()):
        labelled = f"{rejected} cells of the annotated batches are labelled Unassigned, our word for a rejected cell"
        plan.notes.append(f"{labelled}; they count as cells without a label.")
    if repeated := int(cells["cell"].duplicated().sum()):
        plan.notes.append(f"{repeated} cell names occur more than once; the cells are told apart by their position.")


def _subsample_batch(p: Parameters, name: str, batch: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Return the cells of a batch that train: all, or as many as METHOD uses at random, at least 100 (or all) of a type."""
    most = DATA_RULES[p.METHOD].most_cells
    if len(batch) <= most:
        return batch
    batch = batch.sort_values("cell", kind="stable")  # no values were read yet; the file may be sorted in any way
    types = batch["cell_type"].astype("category").cat.codes.to_numpy()
    fewest = min(FEWEST_OF_A_TYPE, most // len(np.unique(types)))
    order = np.random.default_rng(p.SEED).permutation(len(batch))
    # Each cell's place among those of its type in that order: the first hundred of each type come before all others.
    place = pd.Series(types[order]).groupby(types[order]).cumcount().to_numpy()
    chosen = order[np.argsort(place >= fewest, kind="stable")][:most]
    plan.notes.append(
        f"{name!r} has {len(batch):,} labelled cells; {most:,} of them, chosen at random, are used for training, at least "
        f"{fewest} of each cell type or all of it."
    )
    return batch.iloc[np.sort(chosen)].sort_index()


def _choose_types(p: Parameters, name: str, counts: pd.Series, learnable: pd.Index, plan: Plan) -> None:
    """Enter into the plan a batch with those learnable cell types that have enough cells in it, or why it is left out."""
    enough = counts[(counts >= p.fewest_of_a_type) & counts.index.isin(learnable)]
    if counts.empty:
        plan.left_out[name] = f"none of its cells has a label in {p.LABELS_COL!r}"
        return
    too_rare = counts.drop(enough.index).items()
    plan.too_rare += [{"batch": name, "cell_type": cell_type, "cells": int(n)} for cell_type, n in too_rare]
    if enough.empty:
        least = f"MIN_CELL_TYPE_POPULATION {p.MIN_CELL_TYPE_POPULATION} cells"
        if p.MIN_CELL_TYPE_POPULATION == AUTO:
            least = f"{LEARNABLE} cells in all annotated batches together"
        plan.left_out[name] = f"none of its cell types has {least} (its largest has {counts.max()})"
        return
    plan.annotated.append(name)
    plan.cells[name] = {str(cell_type): int(n) for cell_type, n in enough.items()}


def _dropped_warning(p: Parameters, plan: Plan) -> list[str]:
    """Return what to tell where cell types are left out of all training; nothing where none is."""
    if not plan.dropped:
        return []
    cells = sum(row["cells"] for row in plan.too_rare if row["cell_type"] in plan.dropped)
    share = percent(cells / sum(plan.labelled.values()))
    how = "they have a single cell" if p.MIN_CELL_TYPE_POPULATION == AUTO else f"below {p.MIN_CELL_TYPE_POPULATION}"
    types = (
        f"{plural(len(plan.dropped), 'cell type is', 'cell types are')} too rare in the annotated batches to be learned"
    )
    keep = "" if p.MIN_CELL_TYPE_POPULATION == AUTO else "; a lower value, or `auto`, keeps them"
    return [
        f"MIN_CELL_TYPE_POPULATION: {types} ({how}): {listing(plan.dropped, 6, quoted=False)}. They are never predicted: every "
        f"cell of these types gets a wrong label or none. They are {share} of the labelled cells, and count as errors{keep}."
    ]


def _check_what_is_left(p: Parameters, counts: dict[str, pd.Series], plan: Plan) -> None:
    """Raise InputError for a plan without a source or with fewer than two cell types, naming the MIN that would work."""
    source = p.SOURCE_DATASET_NAME
    if source and counts[source].empty:
        no_label = f"no cell of {source!r} has a label in {p.LABELS_COL!r}"
        raise InputError(f"SOURCE_DATASET_NAME: {no_label}; name an annotated batch.")
    if all(of_batch.empty for of_batch in counts.values()):
        raise InputError(
            f"No annotated batch is left to learn from: apart from the target {listing(plan.targets, 5)}, no cell has a label in "
            f"LABELS_COL {p.LABELS_COL!r}. Check LABELS_COL, UNLABELED and EXCLUDE_DATASETS_NAMES."
        )
    largest = pd.DataFrame(counts).max(axis=1).sort_values(ascending=False)
    if len(largest) < 2:
        one = f"the annotated batches have one cell type only ({largest.index[0]!r}); at least two are needed"
        raise InputError(f"LABELS_COL {p.LABELS_COL!r}: {one} to tell cells apart.")
    would_work = int(min(largest.iloc[1], counts[source].max() if source else np.inf))
    n_types = len(set().union(*plan.cells.values()))
    if n_types < 2 or (source and source not in plan.annotated):
        what = f"SOURCE_DATASET_NAME {source!r} no cell type to learn from"
        if n_types < 2:
            what = f"{plural(n_types, 'cell type')} to learn; at least two are needed"
        least = f"MIN_CELL_TYPE_POPULATION {p.MIN_CELL_TYPE_POPULATION}"
        works = f"{would_work} or less" if would_work > 1 else "1"
        raise InputError(f"{least} leaves {what}. {works} would work.")
