"""TODO."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd

from ..core.parameters import Parameters
from ..errors import InputError
from .chunks import cells_as_they_are
from .h5ad import frame, input_files, matrix_of, no_column, open_file, texts

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
