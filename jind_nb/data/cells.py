"""The table of cells: the batch and the label of each, and the target's own labels and values as they are in the file."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from ..core.address import is_remote, last_name, shown_address
from ..core.labels import UNASSIGNED
from ..core.parameters import BUNDLED, Parameters
from ..core.text import listing, plural
from ..errors import InputError
from .chunks import read_whole_cells
from .formats import sample_names
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
    """Return the labels of a column as text after RENAME, None for a cell without one and if there is no such column."""
    labels = _texts(obs, column)
    labels = labels.map(lambda label: parameters.RENAME.get(label, label)) if parameters.RENAME else labels
    return labels.mask(_where(labels, lambda label: parameters.is_unlabeled(label) or _is_rejected(label)), None)


def names_of(paths: Sequence[str | Path]) -> list[str]:
    """Return what each file of PATH is called: its name without ending, or folders above it where several have one name.

    >>> names_of(["s1/counts.h5ad", "s2/counts.h5ad", "new.h5ad"]), names_of(["a/s1/x.h5ad", "b/s1/x.h5ad", "b/s2/x.h5ad"])
    (['s1', 's2', 'new'], ['a/s1', 'b/s1', 'b/s2'])
    """
    possible = [_possible_names(str(path)) for path in paths]
    names = [own[0] for own in possible]
    for name in [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        same = [i for i, other in enumerate(names) if other == name]
        for i, apart in zip(same, _told_apart([possible[i] for i in same]), strict=True):
            names[i] = apart
    return [name if names.index(name) == i else f"{name} ({i + 1})" for i, name in enumerate(names)]


def _possible_names(path: str) -> list[str]:
    if path.startswith(BUNDLED):
        return [path.removeprefix(BUNDLED)]
    if is_remote(path):
        return [Path(last_name(path)).stem, *reversed(shown_address(path).split("/")[:-1])]
    return sample_names(path)


def _told_apart(possible: list[list[str]]) -> list[str]:
    """Return a name for each of some files with one name: of the first folders above them that differ."""
    for depth in range(1, max(map(len, possible))):
        for first in (depth, 1):
            found = ["/".join(names[depth : first - 1 : -1]) or names[0] for names in possible]
            if len(set(found)) == len(found):
                return found
    return [names[0] for names in possible]


def _batches(obs: pd.DataFrame, file: Path, name: str, parameters: Parameters) -> pd.Series:
    """Return the batch of each cell; a file of several without BATCH_COL is one batch, named like the file."""
    if parameters.BATCH_COL in obs:
        return texts(obs[parameters.BATCH_COL])
    if len(parameters.paths) == 1:
        raise no_column("BATCH_COL", parameters.BATCH_COL, obs, f"obs of {file}")
    return pd.Series(name, index=obs.index, dtype=object)


@dataclass
class FileOfCells:
    """Hold the table of cells of one file, and what it says of batches and labels."""

    obs: pd.DataFrame
    batch: pd.Series  # the batch of each cell, as text
    labels: pd.Series  # of LABELS_COL, None where there is none


def _read_files(parameters: Parameters) -> list[FileOfCells]:
    """Return the tables of all files, batches of one name in several files kept apart."""
    found, files = [], input_files(parameters)
    for file, name in zip(files, names_of(parameters.paths), strict=True):
        with open_file(file) as store:
            obs = frame(store, "obs")
            matrix_of(store, parameters.LAYER)  # a missing layer is an error now, not after minutes of work
        labels = _labels(obs, parameters.LABELS_COL, parameters)
        found.append(FileOfCells(obs, _batches(obs, file, name, parameters), labels))
    _keep_apart(found, parameters)
    return found


def _keep_apart(files: list[FileOfCells], parameters: Parameters) -> None:
    """Name batches that occur in several files after their file: `0 (query)`.

    The target keeps its name where one file alone has it without labels, or none has labels for it.

    Raises
    ------
    InputError
        If it cannot be told which file's batch is the target.
    """
    places = defaultdict(list)
    for i, file in enumerate(files):
        for name in file.batch.dropna().unique():
            places[str(name)].append(i)
    called = names_of(parameters.paths)
    for name, where in places.items():
        others = where if len(where) > 1 else []
        if others and name in parameters.targets:
            bare = [i for i in where if files[i].labels[files[i].batch == name].isna().all()]
            if len(bare) not in (1, len(where)):
                names = listing(f"{name} ({called[i]})" for i in where)
                raise InputError(
                    f"TARGET_DATASET_NAME: {len(where)} files have a batch {name!r} ({listing(map(called.__getitem__, where))}); "
                    f"name one of {names}. If they are one batch, write them as one file."
                )
            others = [i for i in where if i not in bare]
        for i in others:
            files[i].batch = files[i].batch.where(files[i].batch != name, f"{name} ({called[i]})")


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
    tables, any_labels = [], False
    parents = parameters.parents_column
    files = input_files(parameters)
    for number, (file, found) in enumerate(zip(files, _read_files(parameters), strict=True)):
        obs = found.obs
        has_labels = parameters.LABELS_COL in obs
        any_labels |= has_labels
        if not has_labels and len(files) == 1 and parameters.PRETRAINED_MODEL_PATH is None:
            raise no_column("LABELS_COL", parameters.LABELS_COL, obs, f"obs of {file}")
        table = pd.DataFrame({"file": number, "row": np.arange(len(obs)), "cell": obs.index.astype(str)})
        table["batch"] = found.batch.to_numpy()
        table["cell_type"] = found.labels.to_numpy()
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
    of_target = cells["batch"].isin(parameters.targets)
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
    labels = [
        file.labels[file.batch.isin(parameters.targets)].to_numpy(dtype=object) for file in _read_files(parameters)
    ]
    known = np.concatenate(labels)
    return known if pd.notna(known).any() else None


def read_target(parameters: Parameters, cells: pd.DataFrame) -> ad.AnnData:
    """Return the target batch (or several), unchanged: X, layers, raw, obs, var, obsm, in the input's order.

    Raises
    ------
    InputError
        If any part of a file cannot be read.
    """
    target = cells[cells["batch"].isin(parameters.targets)]
    parts = []
    for number, file in enumerate(input_files(parameters)):
        rows = target.loc[target["file"] == number, "row"].to_numpy()
        if len(rows):
            parts.append(read_whole_cells(file, rows))
    return parts[0] if len(parts) == 1 else ad.concat(parts, join="outer", merge="same")
