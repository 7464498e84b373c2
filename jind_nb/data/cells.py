"""The table of cells: the batch and the label of each, and the target's own labels and values as they are in the file."""

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from ..core.labels import UNASSIGNED
from ..core.parameters import Parameters
from ..core.text import listing, plural
from ..errors import InputError
from .chunks import read_whole_cells
from .h5ad import frame, input_files, matrix_of, no_column, open_file, texts


def _is_rejected(label: str) -> bool:
    # Our own word for a rejected cell is never a label, whatever UNLABELED says: it would be learned as a cell type.
    return label.strip().casefold() == UNASSIGNED.casefold()


def _texts(obs: pd.DataFrame, column: str) -> pd.Series:
    return texts(obs.get(column, pd.Series(None, index=obs.index, dtype=object)))


def _where(labels: pd.Series, rule: Callable[[str], bool]) -> pd.Series:
    """Return for which cells a rule about their label holds."""
    return labels.isin([label for label in labels.dropna().unique() if rule(label)])


def _labels(obs: pd.DataFrame, column: str, parameters: Parameters) -> pd.Series:
    """Return the labels of a column as text, None for a cell without one and if there is no such column."""
    labels = _texts(obs, column)
    return labels.mask(_where(labels, lambda label: parameters.is_unlabeled(label) or _is_rejected(label)), None)


def _batches(obs: pd.DataFrame, file: Path, parameters: Parameters) -> pd.Series:
    """Return the batch of each cell; a file of several without BATCH_COL is one batch, named like the file."""
    if parameters.BATCH_COL in obs:
        return texts(obs[parameters.BATCH_COL])
    if len(parameters.paths) == 1:
        raise no_column("BATCH_COL", parameters.BATCH_COL, obs, f"obs of {file}")
    return pd.Series(file.stem, index=obs.index, dtype=object)


def read_cells(parameters: Parameters) -> pd.DataFrame:
    """Return one row for each cell of the input, in the input's order.

    Returns
    -------
    Columns `file` (int, position in `input_files`), `row` (int, 0-based in that file), `cell` (str, the name in the
    file), `batch` (str, None if missing), `cell_type` (str, None without a label; always None for the target, whose
    labels only serve evaluation), `rejected` (bool, labelled `Unassigned`; never true for the target); with a column in
    PARENTS also `parent` (str or None, always None for the target).

    Raises
    ------
    InputError
        For an unreadable file, a missing column, or fewer than two cells.
    """
    files = input_files(parameters)
    tables, any_labels = [], False
    parents = parameters.PARENTS if isinstance(parameters.PARENTS, str) else None
    for number, file in enumerate(files):
        with open_file(file) as store:
            obs = frame(store, "obs")
            matrix_of(store, parameters.LAYER)  # a missing layer is an error now, not after minutes of work
        batch = _batches(obs, file, parameters)
        has_labels = parameters.LABELS_COL in obs
        any_labels |= has_labels
        if not has_labels and len(files) == 1 and parameters.PRETRAINED_MODEL_PATH is None:
            raise no_column("LABELS_COL", parameters.LABELS_COL, obs, f"obs of {file}")
        table = pd.DataFrame({"file": number, "row": np.arange(len(obs)), "cell": obs.index.astype(str)})
        table["batch"] = batch.to_numpy()
        table["cell_type"] = _labels(obs, parameters.LABELS_COL, parameters).to_numpy()
        table["rejected"] = _where(_texts(obs, parameters.LABELS_COL), _is_rejected).to_numpy()
        tables.append(table)
        if parents is not None:
            table["parent"] = _labels(obs, parents, parameters).to_numpy()
            if parents not in obs and len(files) == 1:
                raise no_column("PARENTS", parents, obs, f"obs of {file}")
    if not any_labels and parameters.PRETRAINED_MODEL_PATH is None:
        raise InputError(f"LABELS_COL: none of the files of PATH has a column {parameters.LABELS_COL!r} in obs.")
    cells = pd.concat(tables, ignore_index=True)
    if len(cells) < 2:
        n = plural(len(cells), "cell")
        raise InputError(f"PATH: {listing(files, quoted=False)} holds {n}; at least two are needed.")
    of_target = cells["batch"] == parameters.TARGET_DATASET_NAME
    cells["rejected"] &= ~of_target
    for column in ("cell_type", "parent") if parents is not None else ("cell_type",):
        cells[column] = cells[column].astype(object).mask(of_target, None)
    return cells


def read_target_labels(parameters: Parameters) -> np.ndarray | None:
    """Return the target's own labels, for evaluation alone: objects (n_target,), None for a cell without one.

    Returns
    -------
    None if no target cell has a label.
    """
    labels = []
    for file in input_files(parameters):
        with open_file(file) as store:
            obs = frame(store, "obs")
        is_target = (_batches(obs, file, parameters) == parameters.TARGET_DATASET_NAME).to_numpy()
        labels.append(_labels(obs, parameters.LABELS_COL, parameters).to_numpy()[is_target])
    known = np.concatenate(labels)
    return known if pd.notna(known).any() else None


def read_target(parameters: Parameters, cells: pd.DataFrame) -> ad.AnnData:
    """Return the target batch, unchanged: X, layers, raw, obs, var, obsm, in the input's order.

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
            parts.append(read_whole_cells(file, rows))
    return parts[0] if len(parts) == 1 else ad.concat(parts, join="outer", merge="same")
