"""Reading, checking and preprocessing: from the user's h5ad files to one prepared AnnData.

    cells = read_cells(parameters)          # one row a cell: file, row, name, batch, cell type
    plan = make_plan(parameters, cells)     # who trains, who is annotated, what is left out and why
    prepared = prepare(parameters, cells, plan)

Only `read_target_labels`, which evaluation calls, ever reads the target's labels.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from anndata.utils import make_index_unique
from scipy import sparse

from .artifacts import read_model_json
from .demo import bundled_file
from .errors import InputError
from .parameters import BUNDLED, Parameters, as_text

CELLS_PER_BATCH = 50_000
COUNTS_PER_CELL = 10_000.0
# Log-transformed expression stays below this (log2 of the largest 32-bit count is 32); linear scales exceed it.
LARGEST_LOG_VALUE = 40.0
DENSE_ROWS_AT_ONCE = 4096


# --- reading ---------------------------------------------------------------------------------------------------------


def input_files(parameters: Parameters) -> list[Path]:
    """The files of PATH; one bundled with a package is written to the user's cache first."""
    return [bundled_file(path) if path.startswith(BUNDLED) else Path(path) for path in parameters.paths]


@contextmanager
def open_h5ad(file: Path) -> Iterator[h5py.File]:
    """The file, open for reading.

    Raises
    ------
    InputError
        If it is missing, unreadable, or not an h5ad file.
    """
    if not file.exists():
        near = difflib.get_close_matches(file.name, [f.name for f in file.parent.glob("*.h5ad")], n=1)
        raise InputError(f"PATH: there is no file {file}." + (f" Did you mean {near[0]}?" if near else ""))
    if not file.is_file():
        raise InputError(f"PATH: {file} is a folder; give the .h5ad file in it.")
    if file.stat().st_size == 0:
        raise InputError(f"PATH: {file} is empty (0 bytes); copy or download it again.")
    try:
        h5 = h5py.File(file, "r")
    except OSError as error:
        if not h5py.is_hdf5(file):
            raise InputError(f"PATH: {file} is not an h5ad (HDF5) file; write one with adata.write_h5ad().") from None
        raise InputError(f"PATH: {file} cannot be read ({error}); it may be cut short: copy it again.") from None
    with h5:
        if not {"obs", "var"} <= set(h5):
            raise InputError(
                f"PATH: {file} is HDF5 but not h5ad: it has {', '.join(sorted(h5)) or 'nothing'}, and not obs and var; "
                "write it with adata.write_h5ad()."
            )
        yield h5


def _frame(h5: h5py.File, name: str) -> pd.DataFrame:
    try:
        frame = ad.io.read_elem(h5[name])
    except Exception as error:  # a damaged or foreign table fails inside anndata in many ways
        raise InputError(f"PATH: {name} of {h5.filename} cannot be read: {error}") from None
    if not isinstance(frame, pd.DataFrame):
        raise InputError(
            f"PATH: {name} of {h5.filename} is not a table as anndata 0.7 and later write it; "
            "open the file with scanpy and write it again."
        )
    return frame


def _texts(column: pd.Series) -> pd.Series:
    """The column as text, missing values as None; numbers as `as_text` writes them."""
    column = column.astype(object)
    texts = {value: as_text(value) for value in column.dropna().unique()}
    return column.map(texts).astype(object).where(column.notna(), None)


def _labels(column: pd.Series, parameters: Parameters) -> pd.Series:
    labels = _texts(column)
    placeholder = {label: parameters.is_unlabeled(label) for label in labels.dropna().unique()}
    return labels.mask(np.array([placeholder.get(label, True) for label in labels], dtype=bool), None)


def _no_column(parameter: str, column: str, obs: pd.DataFrame, where: str) -> InputError:
    near = difflib.get_close_matches(column, map(str, obs.columns), n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    names = ", ".join(map(str, obs.columns[:30])) or "none"
    return InputError(f"{parameter}: {where} has no column {column!r}; its columns are {names}.{hint}")


def read_cells(parameters: Parameters) -> pd.DataFrame:
    """One row for each cell of the input, in the input's order.

    Returns
    -------
    Columns `file` (int, which of `input_files`), `row` (int, 0-based in that file), `cell` (str, as named in the
    file), `batch` (str, None where missing), `cell_type` (str, None where there is no label; always None for the
    target, whose labels are left to evaluation).

    Raises
    ------
    InputError
        For an unreadable file, a missing column, or fewer than two cells.
    """
    files = input_files(parameters)
    tables, labelled_files = [], 0
    for number, file in enumerate(files):
        with open_h5ad(file) as h5:
            obs = _frame(h5, "obs")
            _matrix_of(h5, parameters.LAYER)  # a missing layer is told now, not after minutes of work
        if parameters.BATCH_COL in obs:
            batch = _texts(obs[parameters.BATCH_COL])
        elif len(files) > 1:
            batch = pd.Series(file.stem, index=obs.index, dtype=object)
        else:
            raise _no_column("BATCH_COL", parameters.BATCH_COL, obs, f"obs of {file}")
        has_labels = parameters.LABELS_COL in obs
        labelled_files += has_labels
        if not has_labels and len(files) == 1 and parameters.PRETRAINED_MODEL_PATH is None:
            raise _no_column("LABELS_COL", parameters.LABELS_COL, obs, f"obs of {file}")
        types = _labels(obs[parameters.LABELS_COL], parameters) if has_labels else None
        tables.append(
            pd.DataFrame(
                {
                    "file": number,
                    "row": np.arange(len(obs)),
                    "cell": obs.index.astype(str).to_numpy(),
                    "batch": batch.to_numpy(),
                    "cell_type": types.to_numpy() if types is not None else None,
                }
            )
        )
    if not labelled_files and parameters.PRETRAINED_MODEL_PATH is None:
        raise InputError(f"LABELS_COL: none of the files of PATH has a column {parameters.LABELS_COL!r} in obs.")
    cells = pd.concat(tables, ignore_index=True)
    if len(cells) < 2:
        held = "1 cell" if len(cells) == 1 else "0 cells"
        raise InputError(f"PATH: {', '.join(map(str, files))} holds {held}; at least two are needed.")
    cells["cell_type"] = cells["cell_type"].astype(object).mask(cells["batch"] == parameters.TARGET_DATASET_NAME, None)
    return cells


def read_target_labels(parameters: Parameters) -> np.ndarray | None:
    """The target's own labels, for evaluation alone: objects (n_target,), None where unknown.

    None if no target cell has a label.
    """
    labels = []
    for file in input_files(parameters):
        with open_h5ad(file) as h5:
            obs = _frame(h5, "obs")
        batch = _texts(obs[parameters.BATCH_COL]) if parameters.BATCH_COL in obs else pd.Series(file.stem, obs.index)
        is_target = (batch == parameters.TARGET_DATASET_NAME).to_numpy()
        if parameters.LABELS_COL in obs:
            labels.append(_labels(obs[parameters.LABELS_COL], parameters).to_numpy()[is_target])
        else:
            labels.append(np.full(is_target.sum(), None, dtype=object))
    known = np.concatenate(labels)
    return known if pd.notna(known).any() else None


def read_target(parameters: Parameters, cells: pd.DataFrame) -> ad.AnnData:
    """The target batch as it is in the file(s): X, layers, raw, obs, var, obsm, in the input's order."""
    target = cells[cells["batch"] == parameters.TARGET_DATASET_NAME]
    parts = []
    for number, file in enumerate(input_files(parameters)):
        rows = target.loc[target["file"] == number, "row"].to_numpy()
        if len(rows):
            with warnings.catch_warnings():
                # Cells with equal names are kept apart by position; the user is told so by the plan.
                warnings.filterwarnings("ignore", message=".* names are not unique")
                part = ad.read_h5ad(file, backed="r")
                parts.append(part[rows].to_memory())
            part.file.close()
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
    notes: list[str] = field(default_factory=list)
    values: list[dict[str, Any]] = field(default_factory=list)  # what the values of each batch were taken for, and why
    features: dict[str, int] = field(default_factory=dict)  # in_file, kept


def _listing(names: list[str], most: int = 20) -> str:
    shown = ", ".join(map(repr, names[:most]))
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def _require_batches(named: dict[str, list[str]], known: list[str], where: str) -> None:
    for parameter, names in named.items():
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
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
        return plan

    candidates = _candidates(p, batches, plan)
    labelled = {name: _labelled_cells(p, cells, name, plan) for name in candidates}
    counts = {name: batch["cell_type"].value_counts().sort_index() for name, batch in labelled.items()}
    for name in candidates:
        _choose_types(p, name, counts[name], plan)
        cells.loc[labelled[name].index[labelled[name]["cell_type"].isin(plan.cells.get(name, {}))], "trains"] = True
    _check_what_is_left(p, counts, plan)
    plan.classes = sorted({cell_type for of_batch in plan.cells.values() for cell_type in of_batch})
    plan.dropped = sorted(
        {cell_type for of_batch in counts.values() for cell_type in of_batch.index} - set(plan.classes)
    )
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
    repeated = int(cells["cell"].duplicated().sum())
    if repeated:
        plan.notes.append(f"{repeated} cell names occur more than once; the cells are kept apart by their position.")


def sample(n: int, most: int, seed: int) -> np.ndarray:
    """Rows int, ascending: all of n, or `most` of them at random."""
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, most, replace=False))


def _labelled_cells(p: Parameters, cells: pd.DataFrame, name: str, plan: Plan) -> pd.DataFrame:
    """A batch's labelled cells, at most 50,000 of them chosen at random."""
    batch = cells[(cells["batch"] == name) & cells["cell_type"].notna()]
    if len(batch) > CELLS_PER_BATCH:
        plan.notes.append(f"{name!r} has {len(batch):,} labelled cells; {CELLS_PER_BATCH:,} chosen at random train.")
    return batch.iloc[sample(len(batch), CELLS_PER_BATCH, p.SEED)]


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


def _matrix_of(h5: h5py.File, layer: str | None) -> tuple[Any, str, str]:
    """The stored matrix, the name of its `var` table, and what to call it in messages."""
    has = [*h5.get("layers", {}), *([".raw"] if "raw" in h5 else [])]
    if layer is None and "X" in h5:
        return h5["X"], "var", "X"
    if layer is None:
        raise InputError(f"PATH: {h5.filename} has no X; set LAYER to what it has: {', '.join(has) or 'nothing'}.")
    if layer in h5.get("layers", {}):
        return h5["layers"][layer], "var", f"layer {layer!r}"
    if layer == ".raw" and "raw" in h5:
        return h5["raw"]["X"], "raw/var", ".raw"
    raise InputError(f"LAYER: {h5.filename} has no layer {layer!r}; it has X{''.join(', ' + name for name in has)}.")


def _sparse_rows(stored: h5py.Group | h5py.Dataset, rows: np.ndarray) -> sparse.csr_matrix:
    """The given rows of a stored matrix, float32; a dense one is read a few thousand rows at a time."""
    if isinstance(stored, h5py.Dataset):
        blocks = [
            sparse.csr_matrix(stored[start : start + DENSE_ROWS_AT_ONCE].astype(np.float32, copy=False))
            for start in range(0, stored.shape[0], DENSE_ROWS_AT_ONCE)
        ]
        matrix = sparse.vstack(blocks, format="csr")
    else:
        matrix = sparse.csr_matrix(ad.io.read_elem(stored))
    if len(rows) and rows[-1] >= matrix.shape[0]:
        raise ValueError(f"it has {matrix.shape[0]} rows, and obs has more")
    if len(rows) < matrix.shape[0]:
        matrix = matrix[rows]
    matrix = matrix.astype(np.float32, copy=False)
    matrix.eliminate_zeros()
    return matrix


def _feature_names(h5: h5py.File, table: str, column: str | None) -> pd.Index:
    var = _frame(h5, table)
    if column is None:
        return var.index.astype(str)
    if column not in var:
        raise _no_column("GENE_COL", column, var, f"var of {h5.filename}")
    return pd.Index(_texts(var[column]).fillna("").astype(str))


def read_values(parameters: Parameters, cells: pd.DataFrame, plan: Plan) -> tuple[sparse.csr_matrix, pd.Index]:
    """The stored values of `cells` and the names of their features.

    Returns
    -------
    Matrix float32 (len(cells) x n_features), and the names, unique; with several files the names common to all.

    Raises
    ------
    InputError
        For a missing layer or column, an empty matrix, NaN or infinite values, or no feature common to all files.
    """
    blocks, names = [], []
    for number, file in enumerate(input_files(parameters)):
        rows = cells.loc[cells["file"] == number, "row"].to_numpy()
        if not len(rows):
            continue
        with open_h5ad(file) as h5:
            stored, table, what = _matrix_of(h5, parameters.LAYER)
            features = _feature_names(h5, table, parameters.GENE_COL)
            if not len(features):
                raise InputError(f"PATH: {what} of {file} has no features (genes or peaks).")
            try:
                block = _sparse_rows(stored, rows)
            except Exception as error:  # damaged HDF5 blocks and foreign encodings fail in many ways
                raise InputError(f"PATH: {what} of {file} cannot be read: {error}") from None
        if block.shape[1] != len(features):
            raise InputError(f"PATH: {what} of {file} has {block.shape[1]} columns but var has {len(features)} rows.")
        repeated = int(features.duplicated().sum())
        if repeated:
            plan.notes.append(f"{repeated} feature names of {file.name} occur more than once; made unique (A, A-1, …).")
            features = make_index_unique(features)
        _check_finite(block, features, cells.loc[cells["file"] == number, "cell"], f"{what} of {file}")
        blocks.append(block)
        names.append(features)
    common = names[0]
    for other in names[1:]:
        common = common.intersection(other, sort=False)
    if not len(common):
        examples = "; ".join(f"{list(index[:3])}" for index in names)
        raise InputError(
            f"PATH: the files have no feature name in common (they begin {examples}). Use the same kind of names in "
            "all, or name the column of var that has them in GENE_COL."
        )
    if len(names) > 1:
        fewest = min(len(index) for index in names)
        plan.notes.append(f"{len(common):,} features are common to all files (the smallest has {fewest:,}).")
    columns = [block[:, index.get_indexer(common)] for block, index in zip(blocks, names, strict=True)]
    return sparse.vstack(columns, format="csr") if len(columns) > 1 else columns[0], common


def _check_finite(matrix: sparse.csr_matrix, features: pd.Index, cells: pd.Series, what: str) -> None:
    wrong = np.flatnonzero(~np.isfinite(matrix.data))
    if len(wrong):
        row = int(np.searchsorted(matrix.indptr, wrong[0], side="right") - 1)
        raise InputError(
            f"{what} has {len(wrong)} NaN or infinite values, the first in cell {cells.iloc[row]!r}, feature "
            f"{features[matrix.indices[wrong[0]]]!r}. Replace them, or point LAYER to values without them."
        )


def recognise(values: np.ndarray) -> str:
    """What one batch's stored (non-zero) values look like.

    Parameters
    ----------
    values
        Floats (n_stored,).

    Returns
    -------
    `counts` (whole, none negative), `linear` (fractions and values too large for a logarithm, such as TPM, RPKM or
    expected counts), `log1p` (fractions, all small), `centred` (some negative, as after scaling) or `negative counts`.

    >>> recognise(np.array([1.0, 7.0])), recognise(np.array([0.7, 1.1])), recognise(np.array([0.7, 900.0]))
    ('counts', 'log1p', 'linear')
    """
    if not len(values):
        return "counts"
    whole = bool(np.all(values == np.floor(values)))
    if values.min() < 0:
        return "negative counts" if whole else "centred"
    if whole:
        return "counts"
    return "log1p" if values.max() <= LARGEST_LOG_VALUE else "linear"


def _to_log_counts(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """log(1 + 10,000 x value / (the cell's total + 1e-5)), method.md section 1.

    The total is over all features of the file; with several files over those common to all, so that files of
    different width stay comparable.
    """
    totals = np.asarray(matrix.sum(axis=1, dtype=np.float64)).ravel()
    scale = np.repeat(COUNTS_PER_CELL / (totals + 1e-5), np.diff(matrix.indptr))
    matrix = matrix.copy()
    matrix.data = np.log1p(matrix.data * scale).astype(np.float32)
    return matrix


def normalise(matrix: sparse.csr_matrix, batch: np.ndarray, parameters: Parameters, plan: Plan) -> sparse.csr_matrix:
    """Brings every batch to log1p of counts per 10,000, where it is not a logarithm already: float32, same shape.

    What each batch's values were taken for, and the evidence, is added to `plan.values`.

    Raises
    ------
    InputError
        For negative values where there should be none, or centred values in some batches only.
    """
    blocks, order, kinds = [], [], {}
    for name in dict.fromkeys(batch):
        rows = np.flatnonzero(batch == name)
        block = matrix[rows]
        kinds[name] = kind = recognise(block.data)
        wants = parameters.NORMALISATION
        if wants != "as_is" and (kind == "negative counts" or (wants != "auto" and kind == "centred")):
            raise InputError(
                f"The values of batch {name!r} are {'whole numbers, some' if 'counts' in kind else 'partly'} negative "
                f"(the smallest is {block.data.min():g}); they cannot be {'counts' if wants == 'auto' else wants}. "
                "Point LAYER to the counts, or set NORMALISATION to as_is to take the values as they are."
            )
        transform = wants == "counts" or (wants == "auto" and kind in ("counts", "linear"))
        totals = np.asarray(block.sum(axis=1)).ravel()
        plan.values.append(
            {
                "batch": name,
                "looks like": kind,
                "smallest stored": float(block.data.min()) if block.nnz else 0.0,
                "largest": float(block.data.max()) if block.nnz else 0.0,
                "stored %": round(100 * block.nnz / max(1, block.shape[0] * block.shape[1]), 1),
                "median total of a cell": float(np.median(totals)),
                "done": "counts per 10,000, log1p" if transform else "left as they are",
            }
        )
        blocks.append(_to_log_counts(block) if transform else block)
        order.append(rows)
    centred = [name for name, kind in kinds.items() if kind == "centred"]
    if centred and parameters.NORMALISATION == "auto":
        if len(centred) < len(kinds):
            raise InputError(
                f"The values of {_listing(centred)} are centred (partly negative), those of "
                f"{_listing([name for name in kinds if name not in centred])} are not, so they cannot be compared. "
                "Point LAYER to values of one kind in all batches (counts, if the file has them)."
            )
        plan.notes.append("The values are centred (partly negative) in every batch; they are taken as they are.")
    if len({row["done"] for row in plan.values}) > 1:
        plan.notes.append("Batches hold values of different kinds; those not yet logarithms were brought to log1p.")
    back = np.argsort(np.concatenate(order), kind="stable")
    return sparse.vstack(blocks, format="csr")[back]


def most_variable(matrix: sparse.csr_matrix, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns of largest population variance, and all variances.

    Returns
    -------
    Indices (min(n, n_features),), largest first, the earlier column on ties; variances (n_features,).
    """
    from sklearn.utils.sparsefuncs import mean_variance_axis

    _, variances = mean_variance_axis(matrix, axis=0)
    return np.argsort(-variances, kind="stable")[:n], variances


def prepare(parameters: Parameters, cells: pd.DataFrame, plan: Plan) -> ad.AnnData:
    """Reads, normalises and selects: what training and alignment work on.

    With PRETRAINED_MODEL_PATH the model's features are taken instead of the most variable ones, absent ones as zero.

    Returns
    -------
    AnnData, rows are the cells that train and the target's, in the input's order; `X` float32 CSR, features sorted by
    name; `obs`: `cell`, `file`, `row`, `batch`, `cell_type` (missing for the target); `var`: `variance`.
    """
    takes_part = cells["batch"].isin([*plan.annotated, plan.target])
    cells = cells[takes_part].reset_index(drop=True)
    matrix, names = read_values(parameters, cells, plan)
    matrix = normalise(matrix, cells["batch"].to_numpy(), parameters, plan)
    if parameters.PRETRAINED_MODEL_PATH is None:
        chosen, variances = most_variable(matrix, parameters.NUM_FEATURES)
        chosen = chosen[np.argsort(names[chosen].to_numpy(dtype=str), kind="stable")]
        matrix, kept, variance = matrix[:, chosen], names[chosen], variances[chosen]
    else:
        model = read_model_json(Path(parameters.PRETRAINED_MODEL_PATH))
        _check_scale(model, plan)
        plan.classes = model["classes"]
        matrix, kept = (_with_features(matrix, names, model["features"], plan), pd.Index(model["features"]))
        variance = np.full(len(kept), np.nan)
    plan.features = {"in_file": len(names), "kept": len(kept)}
    used = (cells["trains"] | (cells["batch"] == plan.target)).to_numpy()
    obs = cells.loc[used, ["cell", "file", "row", "batch", "cell_type"]]
    obs.index = pd.RangeIndex(len(obs)).astype(str)
    obs["batch"] = pd.Categorical(obs["batch"], categories=[*plan.annotated, plan.target])
    obs["cell_type"] = pd.Categorical(obs["cell_type"], categories=plan.classes)
    var = pd.DataFrame({"variance": variance}, index=kept)
    return ad.AnnData(sparse.csr_matrix(matrix[used]), obs=obs, var=var)


def scale_of(values: list[dict[str, Any]]) -> list[str]:
    """What a plan's values are after `normalise`: `log1p` and/or `centred`."""
    return sorted({"centred" if row["looks like"] == "centred" else "log1p" for row in values})


def _check_scale(model: dict[str, Any], plan: Plan) -> None:
    if scale_of(plan.values) != model["values"]:
        raise InputError(
            f"PRETRAINED_MODEL_PATH: the model was trained on {' and '.join(model['values'])} values, and those of "
            f"{plan.target!r} are {' and '.join(scale_of(plan.values))}; point LAYER to values of the same kind."
        )


def _with_features(matrix: sparse.csr_matrix, names: pd.Index, features: list[str], plan: Plan) -> sparse.csr_matrix:
    """The model's features as columns; those the file lacks are columns of zeros."""
    found = names.get_indexer(pd.Index(features))
    missing = int((found < 0).sum())
    if missing == len(features):
        raise InputError(
            f"PRETRAINED_MODEL_PATH: none of the model's {len(features):,} features is in the file (the model has "
            f"{features[:3]}, the file {list(names[:3])}). GENE_COL can name another column of var."
        )
    if missing:
        plan.notes.append(f"{missing:,} of the model's {len(features):,} features are not in the file; taken as zero.")
    padded = sparse.hstack([matrix, sparse.csr_matrix((matrix.shape[0], 1), dtype=np.float32)], format="csr")
    return padded[:, np.where(found < 0, matrix.shape[1], found)]


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
    return pd.DataFrame(plan.values).set_index("batch").round(2)


def notes_table(plan: Plan) -> pd.DataFrame:
    """What was noticed while reading and preparing, a line each."""
    return pd.DataFrame({"note": plan.notes or ["nothing unusual"]})
