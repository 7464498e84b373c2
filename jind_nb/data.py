"""Reading, checking and preprocessing: from the user's files to one prepared AnnData.

    cells = read_cells(parameters)          # one row a cell: file, row, name, batch, cell type
    plan = make_plan(parameters, cells)     # who trains, who is annotated, what is left out and why
    prepared = prepare(parameters, cells, plan)

Only `read_target_labels`, which evaluation calls, ever reads the target's labels.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from . import features, levels, selection
from .artifacts import read_model_json
from .blocks import cells_as_they_are
from .errors import InputError
from .files import frame, input_files, matrix_of, no_column, open_file, texts
from .matrices import Choice, Loaded, choose
from .parameters import Parameters
from .values import done

# Labelled cells of a batch that train. METHOD `default` learns its head from 20,000 cells of all batches together.
CELLS_HASHED_AT_ONCE = 2_000  # memory only
CELLS_PER_BATCH = {"default": 10_000, "reference": 50_000}
FEWEST_OF_A_TYPE = 100  # of these, where a type has so many
# Our own word for a rejected cell, whatever UNLABELED says: as a type to learn it would be taken for one.
REJECTED = "unassigned"


# --- reading ---------------------------------------------------------------------------------------------------------


def _labels(column: pd.Series, parameters: Parameters) -> pd.Series:
    labels = texts(column)
    placeholder = {
        label: parameters.is_unlabeled(label) or label.strip().casefold() == REJECTED
        for label in labels.dropna().unique()
    }
    return labels.mask(np.array([placeholder.get(label, True) for label in labels], dtype=bool), None)


def _says_rejected(column: pd.Series) -> np.ndarray:
    labels = texts(column)
    said = {label: label.strip().casefold() == REJECTED for label in labels.dropna().unique()}
    return np.array([said.get(label, False) for label in labels], dtype=bool)


def read_cells(parameters: Parameters) -> pd.DataFrame:
    """One row for each cell of the input, in the input's order.

    Returns
    -------
    Columns `file` (int, which of `input_files`), `row` (int, 0-based in that file), `cell` (str, as named in the
    file), `batch` (str, None where missing), `cell_type` (str, None where there is no label; always None for the
    target, whose labels are left to evaluation), `rejected` (bool, labelled `Unassigned`; never true for the target);
    `parent` (str or None, always None for the target) if PARENTS names a column.

    Raises
    ------
    InputError
        For an unreadable file, a missing column, or fewer than two cells.
    """
    files = input_files(parameters)
    tables, labelled_files = [], 0
    parents = parameters.PARENTS if isinstance(parameters.PARENTS, str) else None
    for number, file in enumerate(files):
        with open_file(file) as store:
            obs = frame(store, "obs")
            matrix_of(store, parameters.LAYER)  # a missing layer is told now, not after minutes of work
        if parameters.BATCH_COL in obs:
            batch = texts(obs[parameters.BATCH_COL])
        elif len(files) > 1:
            batch = pd.Series(file.stem, index=obs.index, dtype=object)
        else:
            raise no_column("BATCH_COL", parameters.BATCH_COL, obs, f"obs of {file}")
        has_labels = parameters.LABELS_COL in obs
        labelled_files += has_labels
        if not has_labels and len(files) == 1 and parameters.PRETRAINED_MODEL_PATH is None:
            raise no_column("LABELS_COL", parameters.LABELS_COL, obs, f"obs of {file}")
        types = _labels(obs[parameters.LABELS_COL], parameters) if has_labels else None
        rejected = _says_rejected(obs[parameters.LABELS_COL]) if has_labels else False
        tables.append(
            pd.DataFrame(
                {
                    "file": number,
                    "row": np.arange(len(obs)),
                    "cell": obs.index.astype(str).to_numpy(),
                    "batch": batch.to_numpy(),
                    "cell_type": types.to_numpy() if types is not None else None,
                    "rejected": rejected,
                }
            )
        )
        if parents is not None:
            tables[-1]["parent"] = _labels(obs[parents], parameters).to_numpy() if parents in obs else None
            if parents not in obs and len(files) == 1:
                raise no_column("PARENTS", parents, obs, f"obs of {file}")
    if not labelled_files and parameters.PRETRAINED_MODEL_PATH is None:
        raise InputError(f"LABELS_COL: none of the files of PATH has a column {parameters.LABELS_COL!r} in obs.")
    cells = pd.concat(tables, ignore_index=True)
    if len(cells) < 2:
        held = "1 cell" if len(cells) == 1 else "0 cells"
        raise InputError(f"PATH: {', '.join(map(str, files))} holds {held}; at least two are needed.")
    of_target = cells["batch"] == parameters.TARGET_DATASET_NAME
    cells["cell_type"] = cells["cell_type"].astype(object).mask(of_target, None)
    cells["rejected"] &= ~of_target
    if parents is not None:
        cells["parent"] = cells["parent"].astype(object).mask(of_target, None)
    return cells


def read_target_labels(parameters: Parameters) -> np.ndarray | None:
    """The target's own labels, for evaluation alone: objects (n_target,), None where unknown.

    None if no target cell has a label.
    """
    labels = []
    for file in input_files(parameters):
        with open_file(file) as store:
            obs = frame(store, "obs")
        batch = texts(obs[parameters.BATCH_COL]) if parameters.BATCH_COL in obs else pd.Series(file.stem, obs.index)
        is_target = (batch == parameters.TARGET_DATASET_NAME).to_numpy()
        if parameters.LABELS_COL in obs:
            labels.append(_labels(obs[parameters.LABELS_COL], parameters).to_numpy()[is_target])
        else:
            labels.append(np.full(is_target.sum(), None, dtype=object))
    known = np.concatenate(labels)
    return known if pd.notna(known).any() else None


def read_target(parameters: Parameters, cells: pd.DataFrame) -> ad.AnnData:
    """The target batch as it is in the file(s): X, layers, raw, obs, var, obsm, in the input's order.

    Raises
    ------
    InputError
        If any part of a file cannot be read.
    """
    target = cells[cells["batch"] == parameters.TARGET_DATASET_NAME]
    parts = []
    for number, file in enumerate(input_files(parameters)):
        rows = target.loc[target["file"] == number, "row"].to_numpy()
        if len(rows):
            parts.append(cells_as_they_are(file, rows))
    return parts[0] if len(parts) == 1 else ad.concat(parts, join="outer", merge="same")


# --- the plan --------------------------------------------------------------------------------------------------------


@dataclass
class Plan:
    """Who trains, who is annotated, and what is left out and why. Plain values only: it is saved as JSON."""

    target: str
    source: str | None  # None: to be chosen
    annotated: list[str]  # in training order, a named source first
    classes: list[str]  # cell types that are trained, sorted by name
    cells: dict[str, dict[str, int]] = field(default_factory=dict)  # batch -> cell type -> cells that train
    too_rare: list[dict[str, Any]] = field(default_factory=list)  # batch, cell_type, cells
    dropped: list[str] = field(default_factory=list)  # cell types that no batch trains
    left_out: dict[str, str] = field(default_factory=dict)  # batch -> reason
    warnings: list[str] = field(default_factory=list)  # what a reader of the results should know first
    notes: list[str] = field(default_factory=list)
    matrices: list[dict[str, Any]] = field(default_factory=list)  # what X, .raw and the layers look like
    values: list[dict[str, Any]] = field(default_factory=list)  # what the values of each batch were taken for, and why
    overlap: list[dict[str, Any]] = field(default_factory=list)  # how many features each batch has
    parents: dict[str, str] = field(default_factory=dict)  # cell type -> parent, where PARENTS says so
    features: dict[str, int] = field(default_factory=dict)  # in_file, kept; missing: filled in for a saved model
    # All that brings a new file to the scale of this run: layer, gene_col, totals_over (names; None: a file's
    # features) and what `values.agree` gives.
    preprocessing: dict[str, Any] = field(default_factory=dict)


def _listing(names: list[str], most: int = 20) -> str:
    shown = ", ".join(map(repr, names[:most]))
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def _require_batches(named: dict[str, list[str]], known: list[str], where: str) -> None:
    for parameter, names in named.items():
        for name in names:
            if name not in known:
                alike = [other for other in known if other.casefold() == name.casefold()]
                near = alike or difflib.get_close_matches(name, known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise InputError(f"{parameter}: there is no batch {name!r} in {where}; it has {_listing(known)}.{hint}")


def make_plan(parameters: Parameters, cells: pd.DataFrame) -> Plan:
    """Decides from names and labels alone who takes part; adds the bool column `trains` to `cells`.

    Raises
    ------
    InputError
        For an unknown batch, or where fewer than two cell types would be left to train.
    """
    p = parameters
    batches = list(dict.fromkeys(cells["batch"].dropna()))
    where = f"column {p.BATCH_COL!r} of {', '.join(p.paths)}"
    # A saved model needs no annotated batch: parameters that name some are not wrong, only unused.
    named = {"TARGET_DATASET_NAME": [p.TARGET_DATASET_NAME]}
    if p.PRETRAINED_MODEL_PATH is None:
        named |= {
            "SOURCE_DATASET_NAME": [p.SOURCE_DATASET_NAME] if p.SOURCE_DATASET_NAME else [],
            "INTER_DATASETS_NAMES": p.INTER_DATASETS_NAMES,
            "EXCLUDE_DATASETS_NAMES": p.EXCLUDE_DATASETS_NAMES,
        }
    _require_batches(named, batches, where)
    plan = Plan(target=p.TARGET_DATASET_NAME, source=p.SOURCE_DATASET_NAME, annotated=[], classes=[])
    n_target = int((cells["batch"] == plan.target).sum())
    if n_target < 2:
        raise InputError(f"TARGET_DATASET_NAME: batch {plan.target!r} has {n_target} cell; at least two are needed.")
    _note_names(p, cells, plan)
    cells["trains"] = False
    if p.PRETRAINED_MODEL_PATH is not None:
        plan.source = None
        if p.PARENTS is not None:
            if isinstance(p.PARENTS, str):
                raise InputError(
                    f"PARENTS: {p.PARENTS!r} is a column, and a saved model has no annotated cells to read it of; give a "
                    "map, or leave PARENTS out to use the model's own."
                )
            plan.classes = read_model_json(Path(p.PRETRAINED_MODEL_PATH))["classes"]
            levels.enter(p.PARENTS, cells, plan)
        return plan

    candidates = _candidates(p, batches, plan)
    has_label = cells["cell_type"].notna()
    labelled = {name: cells.loc[has_label & (cells["batch"] == name), ["cell_type"]] for name in candidates}
    counts = {name: batch["cell_type"].value_counts().sort_index() for name, batch in labelled.items()}
    for name, batch in labelled.items():
        _choose_types(p, name, counts[name], plan)
        if name in plan.cells:
            batch = _draw(p, name, batch[batch["cell_type"].isin(plan.cells[name])], plan)
            plan.cells[name] = {str(t): int(n) for t, n in batch["cell_type"].value_counts().sort_index().items()}
            cells.loc[batch.index, "trains"] = True
    _check_what_is_left(p, counts, plan)
    plan.classes = sorted({cell_type for of_batch in plan.cells.values() for cell_type in of_batch})
    plan.dropped = sorted(
        {cell_type for of_batch in counts.values() for cell_type in of_batch.index} - set(plan.classes)
    )
    if p.PARENTS is not None:
        levels.enter(p.PARENTS, cells, plan)
    return plan


def _candidates(p: Parameters, batches: list[str], plan: Plan) -> list[str]:
    """The batches that may train, in training order: the named ones, or all but the target and the excluded."""
    first = [p.SOURCE_DATASET_NAME] if p.SOURCE_DATASET_NAME else []
    if p.INTER_DATASETS_NAMES:
        candidates = first + p.intermediates
        unnamed = [name for name in batches if name not in (*candidates, plan.target, *p.EXCLUDE_DATASETS_NAMES)]
        plan.left_out |= dict.fromkeys(unnamed, "not named in INTER_DATASETS_NAMES")
    else:
        candidates = first + [name for name in batches if name not in (*first, plan.target, *p.EXCLUDE_DATASETS_NAMES)]
    plan.left_out |= dict.fromkeys(p.EXCLUDE_DATASETS_NAMES, "named in EXCLUDE_DATASETS_NAMES")
    return candidates


def _note_names(p: Parameters, cells: pd.DataFrame, plan: Plan) -> None:
    if p.SOURCE_DATASET_NAME in p.INTER_DATASETS_NAMES:
        plan.notes.append(f"INTER_DATASETS_NAMES lists the source {p.SOURCE_DATASET_NAME!r} too; it stays the source.")
    without = int(cells["batch"].isna().sum())
    if without:
        plan.notes.append(f"{without} cells have no value in {p.BATCH_COL!r} and take no part.")
    rejected = int(cells["rejected"].sum())
    if rejected:
        plan.notes.append(
            f"{rejected} cells of the annotated batches are labelled Unassigned, our word for a rejected cell; they count as "
            "without a label."
        )
    repeated = int(cells["cell"].duplicated().sum())
    if repeated:
        plan.notes.append(f"{repeated} cell names occur more than once; the cells are kept apart by their position.")


def sample(n: int, most: int, seed: int) -> np.ndarray:
    """Rows int, ascending: all of n, or `most` of them at random."""
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, most, replace=False))


def _draw(p: Parameters, name: str, batch: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """A batch's cells that train: all, or as many as the METHOD takes, at random; of each type at least 100 or all."""
    most = CELLS_PER_BATCH[p.METHOD]
    if len(batch) <= most:
        return batch
    types = batch["cell_type"].astype("category").cat.codes.to_numpy()
    fewest = min(FEWEST_OF_A_TYPE, most // len(np.unique(types)))
    order = np.random.default_rng(p.SEED).permutation(len(batch))
    # Each cell's place among those of its type in that order: the first hundred of each go before all others.
    place = pd.Series(types[order]).groupby(types[order]).cumcount().to_numpy()
    chosen = order[np.argsort(place >= fewest, kind="stable")][:most]
    plan.notes.append(
        f"{name!r} has {len(batch):,} labelled cells; {most:,} chosen at random train, of each cell type at least {fewest} "
        "or all."
    )
    return batch.iloc[np.sort(chosen)]


def _choose_types(p: Parameters, name: str, counts: pd.Series, plan: Plan) -> None:
    """Enters a batch with its cell types of enough cells into the plan, or why it is left out."""
    enough = counts[counts >= p.MIN_CELL_TYPE_POPULATION]
    if counts.empty:
        plan.left_out[name] = f"none of its cells has a label in {p.LABELS_COL!r}"
        return
    plan.too_rare += [
        {"batch": name, "cell_type": cell_type, "cells": int(n)}
        for cell_type, n in counts.drop(enough.index).items()
    ]  # fmt: skip
    if enough.empty:
        plan.left_out[name] = (
            f"none of its cell types has MIN_CELL_TYPE_POPULATION {p.MIN_CELL_TYPE_POPULATION} cells "
            f"(its largest has {counts.max()})"
        )
        return
    plan.annotated.append(name)
    plan.cells[name] = {str(cell_type): int(n) for cell_type, n in enough.items()}


def _check_what_is_left(p: Parameters, counts: dict[str, pd.Series], plan: Plan) -> None:
    """Refuses a plan without a source or with fewer than two cell types, and names the MIN that would work."""
    source = p.SOURCE_DATASET_NAME
    if source and counts[source].empty:
        raise InputError(
            f"SOURCE_DATASET_NAME: no cell of {source!r} has a label in {p.LABELS_COL!r}; name an annotated batch."
        )
    if all(of_batch.empty for of_batch in counts.values()):
        raise InputError(
            f"No annotated batch is left to learn from: apart from the target {plan.target!r}, no cell has a label in "
            f"LABELS_COL {p.LABELS_COL!r}. Check LABELS_COL, UNLABELED and EXCLUDE_DATASETS_NAMES."
        )
    largest = pd.DataFrame(counts).max(axis=1).sort_values(ascending=False)
    if len(largest) < 2:
        raise InputError(
            f"LABELS_COL {p.LABELS_COL!r}: the annotated batches have one cell type only ({largest.index[0]!r}); "
            "at least two are needed to tell cells apart."
        )
    would_work = int(min(largest.iloc[1], counts[source].max() if source else np.inf))
    n_types = len({cell_type for of_batch in plan.cells.values() for cell_type in of_batch})
    if n_types < 2 or (source and source not in plan.annotated):
        what = (
            f"leaves {n_types} cell type{'' if n_types == 1 else 's'} to learn; at least two are needed"
            if n_types < 2
            else f"leaves SOURCE_DATASET_NAME {source!r} no cell type to learn from"
        )
        raise InputError(
            f"MIN_CELL_TYPE_POPULATION {p.MIN_CELL_TYPE_POPULATION} {what}. {would_work} or less would work."
        )


# --- values ----------------------------------------------------------------------------------------------------------


def prepare(parameters: Parameters, cells: pd.DataFrame, plan: Plan) -> ad.AnnData:
    """Reads, normalises and selects: what training and alignment work on.

    Files are read in blocks of rows: once to check them and see what their values are, once for the features'
    variances, once for the values that are kept, which alone are ever held (all, where there are few). Where this process
    has a Dask client, or DASK_SCHEDULER_ADDRESS names a scheduler, its workers read the blocks of a large file; the
    result is the same.

    With PRETRAINED_MODEL_PATH the model's features are taken instead of the most variable ones, absent ones as zero.

    Returns
    -------
    AnnData, rows are the cells that train and the target's, in the input's order; `X` float32 CSR, features sorted by
    name; `obs`: `cell`, `file`, `row`, `batch`, `cell_type` (missing for the target); `var`: `variance` over all cells
    of the batches that take part (float32; NaN with a saved model). With MARKERS: `obsm["markers"]`, float32 CSR, the
    values of those the file has, selected or not, and `uns["markers"]`, their names as MARKERS gives them.

    Raises
    ------
    InputError
        If the values cannot be read or brought to one scale, or under 20 % of the features are there.
    """
    cells, markers, var, wanted = _chosen(parameters, cells, plan)
    x, *of_markers = selection.kept(*wanted)
    if parameters.PRETRAINED_MODEL_PATH is not None:  # whose features stand in the order of the run that trained it
        x.sort_indices()
    obs = cells[["cell", "file", "row", "batch", "cell_type"]].copy()
    obs.index = pd.RangeIndex(len(obs)).astype(str)
    obs["batch"] = pd.Categorical(obs["batch"], categories=[*plan.annotated, plan.target])
    obs["cell_type"] = pd.Categorical(obs["cell_type"], categories=plan.classes)
    prepared = ad.AnnData(x, obs=obs, var=var)
    if markers:
        prepared.obsm["markers"] = of_markers[0]
        prepared.uns["markers"] = list(markers)
    return prepared


def prepare_in_blocks(parameters: Parameters, cells: pd.DataFrame, plan: Plan) -> Iterator[sparse.csr_matrix]:
    """The target's values as `prepare` gives them, some cells after the others, in their order: no more is ever held."""
    for x, *_ in selection.kept_in_blocks(*_chosen(parameters, cells, plan)[-1]):
        yield x


def _chosen(
    parameters: Parameters, cells: pd.DataFrame, plan: Plan
) -> tuple[pd.DataFrame, dict[str, int], pd.DataFrame, tuple[Any, ...]]:
    """Reads the values once or twice, enters what they are into the plan, and chooses features.

    Returns
    -------
    The cells that train and the target's, the markers there are, the features, and what `selection.kept` is told.
    """
    takes_part = cells["batch"].isin([*plan.annotated, plan.target])
    cells = cells[takes_part].reset_index(drop=True)
    model = None
    if parameters.PRETRAINED_MODEL_PATH is not None:
        model = read_model_json(Path(parameters.PRETRAINED_MODEL_PATH))
        plan.classes = model["classes"]
        plan.parents = plan.parents or model.get("parents", {})
    choice = choose(parameters, cells, model["preprocessing"] if model else None)
    _describe(choice, plan)
    in_files, gene_cols = _feature_names(choice.loaded, model["features"] if model else None, plan)
    totals_over = _totals_over(parameters, choice, in_files, plan, model)
    names = in_files[0] if totals_over is None else totals_over
    columns = [None if totals_over is None else features.match(totals_over, index)[0] for index in in_files]
    used = (cells["trains"] | (cells["batch"] == plan.target)).to_numpy()
    markers = _marker_columns(parameters, names, choice.loaded[0], in_files[0], plan)
    if model is None:
        # A file to annotate later will be like the target's, where the files differ.
        of_target = next((i for i, one in enumerate(choice.loaded) if plan.target in one.rows), 0)
        plan.preprocessing = choice.scale | {
            "layer": choice.loaded[of_target].layer,
            "gene_col": gene_cols[of_target],
            "totals_over": None if totals_over is None else list(totals_over),
        }
        chosen, var = _select(parameters, choice, columns, names, cells, plan)
    else:
        plan.preprocessing = model["preprocessing"]
        chosen, var = _as_in_model(names, in_files, pd.Index(model["features"]), plan)
    plan.features = {"in_file": len(in_files[0]) if model is not None else len(names), "kept": len(var)} | plan.features
    wanted = (chosen, np.array(list(markers.values()), dtype=int))[: 2 if markers else 1]
    of_files = [wanted] * len(choice.loaded)
    return cells[used], markers, var, (choice.loaded, choice.scale, _by_file(used, choice), columns, of_files)


def _by_file(values: np.ndarray, choice: Choice) -> list[np.ndarray]:
    """What is known of each cell that takes part, file by file."""
    return np.split(values, np.cumsum([len(one.cells) for one in choice.loaded])[:-1])


def _marker_columns(p: Parameters, names: pd.Index, first: Loaded, in_first: pd.Index, plan: Plan) -> dict[str, int]:
    """Where each of MARKERS is among the columns `names`: by the features' names, else by another text column of the
    first file's `var`, whose features are `in_first`. What is nowhere is noted."""
    wanted = pd.Index(list(dict.fromkeys(marker for of_type in p.MARKERS.values() for marker in of_type)), dtype=object)
    if not len(wanted):
        return {}
    found = features.match(wanted, names)[0]
    for column in first.columns.values():
        by_column = features.match(wanted, column)[0]
        elsewhere = np.where(by_column < 0, -1, names.get_indexer(in_first[by_column]))
        found = np.where(found < 0, elsewhere, found)
    missing = list(wanted[found < 0])
    if missing:
        plan.notes.append(
            f"MARKERS: {len(missing):,} of {len(wanted):,} features are not in the data and are not shown: "
            f"{_listing(missing)}."
        )
    return {str(name): int(column) for name, column in zip(wanted, found, strict=True) if column >= 0}


def _describe(choice: Choice, plan: Plan) -> None:
    """Enters into the plan what the values look like and what is done with them."""
    plan.warnings += choice.warnings
    plan.matrices = choice.table
    plan.values = [
        {
            "batch": name,
            "looks like": found.kind,
            "evidence": found.because,
            "from": found.smallest,
            "to": found.largest,
            "stored %": round(100 * found.stored, 1),
            "median cell total": found.median_total,
            "done": done(found, choice.scale),
        }
        for loaded in choice.loaded
        for name, found in loaded.evidence.items()
    ]
    kinds = {row["looks like"] for row in plan.values}
    if choice.scale["rescaled"] and (len(kinds) > 1 or not kinds <= {"counts", "linear"}):
        plan.notes.append(
            f"Batches hold values of different kinds or cell totals; all were brought to {choice.scale['scale']}."
        )


def _feature_names(
    loaded: list[Loaded], model: list[str] | None, plan: Plan
) -> tuple[list[pd.Index], list[str | None]]:
    """For each file the names its features go by, unique, and the column of `var` they are from (None: its index)."""
    columns = [one.columns for one in loaded]
    if model is not None:
        chosen = features.choose_columns([{"": pd.Index(model)}, *columns], given=True)[1:]
    else:
        chosen = features.choose_columns(columns)
    names = []
    for one, column in zip(loaded, chosen, strict=True):
        index = one.columns[column]
        if column and len(one.columns) > 1:
            plan.notes.append(
                f"The features of {one.file.name} are named by column {column!r} of var, which fits best."
            )
        repeated = int(index.duplicated().sum())
        if repeated:
            plan.notes.append(
                f"{repeated} feature names of {one.file.name} occur more than once; made unique (A, A-1, …)."
            )
        names.append(features.unique(index))
    return names, [column or None for column in chosen]


def _totals_over(
    p: Parameters, choice: Choice, names: list[pd.Index], plan: Plan, model: dict[str, Any] | None
) -> pd.Index | None:
    """The features that a cell's total is over: all of the file (None), or those common to several files."""
    if model is not None and model["preprocessing"]["totals_over"] is not None:
        return pd.Index(model["preprocessing"]["totals_over"])
    if len(names) == 1:
        return None
    common = names[0]
    for other, one in zip(names[1:], choice.loaded[1:], strict=True):
        found, any_case = features.match(common, other)
        if any_case:
            plan.notes.append(f"The features of {one.file.name} were matched with upper and lower case taken as alike.")
        common = common[found >= 0]
    if not len(common):
        if all(features.kind_of(index) == "peaks" for index in names):
            raise InputError(
                "PATH: the files have no peak in common. Peaks are matched by position, not overlapped: re-quantify all "
                f"batches on one common peak set. The files begin {_examples(names)}."
            )
        raise InputError(
            f"PATH: the files have no feature name in common (they begin {_examples(names)}). Use the same kind of "
            "names in all, or name the column of var that has them in GENE_COL."
        )
    fewest = min(len(index) for index in names)
    plan.notes.append(f"{len(common):,} features are common to all files (the smallest has {fewest:,}).")
    if model is None:
        _compare_files(p, choice, names, plan)
    return common


def _examples(names: list[pd.Index]) -> str:
    return "; ".join(f"{list(index[:3])}" for index in names)


def _compare_files(p: Parameters, choice: Choice, names: list[pd.Index], plan: Plan) -> None:
    """How many of the most variable features of each annotated file every other file has."""
    for one, index in zip(choice.loaded, names, strict=True):
        if plan.target in one.rows and len(one.rows) == 1:
            continue
        found = selection.moments([one], choice.scale, [np.full(len(one.cells), "")], [None])
        wanted = index[selection.most_variable(found.variance, p.NUM_FEATURES)]
        for other, other_index in zip(choice.loaded, names, strict=True):
            if other is not one:
                missing = features.match(wanted, other_index)[0] < 0
                of = f"that vary most in {one.file.name}"
                for batch in other.rows:
                    _enter_overlap(plan, batch, wanted, missing, of)
                _judge(plan, f"PATH: {other.file.name} ({_listing(list(other.rows), 5)})", wanted, missing, of)


def _enter_overlap(plan: Plan, batch: str, wanted: pd.Index, missing: np.ndarray, of: str) -> None:
    plan.overlap.append(
        {
            "batch": batch,
            "features": of,
            "there": int((~missing).sum()),
            "of": len(wanted),
            "%": round(100 * float((~missing).mean()), 1) if len(wanted) else 100.0,
            "missing": ", ".join(map(str, wanted[missing][: features.NAMES_SHOWN]))
            + (" …" if missing.sum() > 10 else ""),
        }
    )


def _judge(
    plan: Plan, who: str, wanted: pd.Index, missing: np.ndarray, of: str, refuse_below: float = features.REFUSE_BELOW
) -> None:
    warning = features.judge(who, wanted, missing, of, refuse_below)
    if warning:
        plan.warnings.append(warning)


def _select(
    p: Parameters,
    choice: Choice,
    columns: list[np.ndarray | None],
    names: pd.Index,
    cells: pd.DataFrame,
    plan: Plan,
) -> tuple[np.ndarray, pd.DataFrame]:
    """The columns of the most variable features, sorted by name; sees that every batch has them."""
    batch = cells["batch"].to_numpy()
    found = selection.moments(choice.loaded, choice.scale, _by_file(batch, choice), columns)
    chosen = selection.most_variable(found.variance, p.NUM_FEATURES)
    chosen = chosen[np.argsort(names[chosen].to_numpy(dtype=str), kind="stable")]
    seen = {name: found.seen[name][chosen] for name in dict.fromkeys(batch)}
    for name, missing in features.never_seen(seen, cells["batch"].value_counts().to_dict()).items():
        _enter_overlap(plan, name, names[chosen], missing, "kept, seen at all")
        # Among z-scores zero is a value like any other, and says nothing about what was measured.
        if plan.preprocessing["values"] != "as they are":
            _judge(plan, f"Batch {name!r}", names[chosen], missing, "kept (the others are zero in all its cells)")
    return chosen, pd.DataFrame({"variance": found.variance[chosen].astype(np.float32)}, index=names[chosen])


def _as_in_model(
    names: pd.Index, in_files: list[pd.Index], wanted: pd.Index, plan: Plan
) -> tuple[np.ndarray, pd.DataFrame]:
    """The columns of the saved model's features, in its order (-1: taken as zero); `names` are the columns', `in_files`
    what the files have."""
    missing = np.zeros(len(wanted), dtype=bool)
    for index in in_files:
        found, any_case = features.match(wanted, index)
        missing |= found < 0
        if any_case:
            plan.notes.append("The features were matched to the model's with upper and lower case taken as alike.")
    plan.features["missing"] = int(missing.sum())
    _enter_overlap(plan, plan.target, wanted, missing, "of the model")
    if missing.all():
        raise InputError(
            f"PRETRAINED_MODEL_PATH: none of the model's {len(wanted):,} features is in the file (the model has "
            f"{list(wanted[:3])}, the file {list(in_files[0][:3])}). GENE_COL can name another column of var."
            + (" Peaks must be re-quantified on the model's." if features.kind_of(wanted) == "peaks" else "")
        )
    _judge(
        plan, f"PRETRAINED_MODEL_PATH: {plan.target!r}", wanted, missing, "of the model", features.MODEL_REFUSES_BELOW
    )
    if missing.any():
        plan.notes.append(
            f"{int(missing.sum()):,} of the model's {len(wanted):,} features are not in the file; taken as zero."
        )
    nothing = np.full(len(wanted), np.nan)
    var = pd.DataFrame({"variance": nothing}, index=wanted)
    return features.match(wanted, names)[0], var


def fingerprints(x: sparse.csr_matrix) -> np.ndarray:
    """A number for each cell that depends on its values alone, by which it is known again in another file: uint64 (n,).

    The sum, modulo 2 to the 64, of a hash of each stored value times a hash of its column; not meant against forgery.
    """
    of_blocks = [_fingerprints(x[i : i + CELLS_HASHED_AT_ONCE]) for i in range(0, x.shape[0], CELLS_HASHED_AT_ONCE)]
    return np.concatenate([np.empty(0, dtype=np.uint64), *of_blocks])


def _fingerprints(x: sparse.csr_matrix) -> np.ndarray:
    of_values = pd.util.hash_array(x.data)
    of_values[x.data == 0] = 0
    of_columns = pd.util.hash_array(np.arange(x.shape[1], dtype=x.indices.dtype)) | np.uint64(1)
    return sparse.csr_matrix((of_values, x.indices, x.indptr), x.shape) @ of_columns


# --- what to tell a person -------------------------------------------------------------------------------------------


def batch_table(cells: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Every batch of the input: its role, cells, labelled cells, cells that train, and why it is left out."""
    roles = dict.fromkeys(plan.annotated, "annotated") | {plan.target: "target"}
    if plan.source:
        roles |= {plan.source: "source"} | {name: "intermediate" for name in plan.annotated if name != plan.source}
    names = list(dict.fromkeys(cells["batch"].dropna()))
    names.sort(key=lambda name: (name not in plan.annotated, name == plan.target, name in plan.left_out))
    groups = dict(iter(cells.groupby("batch", sort=False)))
    rows = [
        {
            "batch": name,
            "role": roles.get(name, "left out"),
            "cells": len(groups[name]),
            "labelled": "not read" if name == plan.target else int(groups[name]["cell_type"].notna().sum()),
            "training": int(groups[name]["trains"].sum()),
            "why left out": plan.left_out.get(name, ""),
        }
        for name in names
    ]
    return pd.DataFrame(rows).set_index("batch")


def too_rare_table(plan: Plan) -> pd.DataFrame:
    """One row for each cell type left out of some batch's training: which batches (with its cells there), and whether
    it is learned from others."""
    rare = pd.DataFrame(plan.too_rare, columns=["batch", "cell_type", "cells"])
    rows = [
        {
            "cell type": name,
            "too few cells in": ", ".join(f"{row.batch} ({row.cells})" for row in group.itertuples()),
            "learned from other batches": "yes" if name in plan.classes else "no: never predicted",
        }
        for name, group in rare.groupby("cell_type")
    ]
    columns = ["cell type", "too few cells in", "learned from other batches"]
    return pd.DataFrame(rows, columns=columns).set_index("cell type")


def values_table(plan: Plan) -> pd.DataFrame:
    """What each batch's values were taken for, the evidence, and what was done with them."""
    return _short_numbers(pd.DataFrame(plan.values).set_index("batch").drop(columns="stored %"))


def matrices_table(plan: Plan) -> pd.DataFrame:
    """What X, `.raw` and every layer look like, a row for each kind of values in it, and which one is used."""
    return _short_numbers(pd.DataFrame(plan.matrices).set_index("matrix"))


def overlap_table(plan: Plan) -> pd.DataFrame:
    """How many of the features looked for each batch has; the first few missing ones by name."""
    return pd.DataFrame(plan.overlap).set_index("batch")


def _short_numbers(table: pd.DataFrame) -> pd.DataFrame:
    for name in ("from", "to", "median cell total"):
        table[name] = [f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}" for value in table[name]]
    return table


def notes_table(plan: Plan) -> pd.DataFrame:
    """What was noticed while reading and preparing, a line each, warnings first."""
    lines = [f"Warning: {text}" for text in plan.warnings] + plan.notes
    return pd.DataFrame({"note": lines or ["nothing unusual"]})
