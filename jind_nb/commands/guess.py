"""Guess parameters from the table of cells, for `jind-nb init` and the web page, where people correct them."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ..core.coerce import AUTO
from ..core.files import read_yaml
from ..core.parameters import Parameters
from ..core.text import listing
from ..data.cells import names_of
from ..data.h5ad import frame, open_file, texts

REQUIRED = ("BATCH_COL", "LABELS_COL", "TARGET_DATASET_NAME")

PROPOSED = (*REQUIRED, "SOURCE_DATASET_NAME", "MIN_CELL_TYPE_POPULATION")

# Words by which columns and labels are recognised.
WORDS: dict[str, list[str]] = read_yaml(Path(__file__).with_name("column_words.yaml").read_text("utf-8"))

MOST_BATCHES, MOST_TYPES, MOST_NUMBERS = 2_000, 1_000, 200

SMALLEST_TARGET = 100  # cells of a proposed target with known labels

OF_ONE_PARENT = 0.95

EACH_FILE = "(file)"  # BATCH_COL if no column has batches: each file is a batch


@dataclass(frozen=True)
class Columns:
    """Names of columns of `obs`, the likeliest first."""

    batch: list[str]
    labels: list[str]
    by_content: set[str] = field(default_factory=set)  # columns guessed by their values


@dataclass(frozen=True)
class Guess:
    """Proposed parameters, and why."""

    columns: Columns
    batches: pd.DataFrame  # index: names, largest first; int columns `cells`, `labelled`, `types`
    values: dict[str, Any]  # proposed parameters; None if the data do not tell
    why: dict[str, str]  # parameter -> a sentence
    parents: list[str]  # columns that hold a coarser level of the labels
    unlabeled: dict[str, int]  # words of UNLABELED in the data -> cells
    doubtful: dict[str, int]  # labels that may not be cell types -> cells
    names: list[str] = field(default_factory=list)  # of all columns of obs


def read_obs(files: Sequence[Path], paths: Sequence[str] = ()) -> pd.DataFrame:
    """Return the tables of cells of all files as one, with the file's name in the column EACH_FILE if there are several.

    Parameters
    ----------
    files
        On this machine, as h5ad or zarr.
    paths
        What they are called in PATH, if that is something else.

    Raises
    ------
    InputError
        If a file cannot be read.
    """
    tables = []
    for file, name in zip(files, names_of(paths or files), strict=True):
        with open_file(file) as store:
            table = frame(store, "obs")
        if len(files) == 1:
            return table
        categories = table.select_dtypes("category").columns
        tables.append(table.astype(dict.fromkeys(categories, object)).assign(**{EACH_FILE: name}))
    return pd.concat(tables, ignore_index=True)


def guess(obs: pd.DataFrame, given: Mapping[str, Any] | None = None, *, several_files: bool = False) -> Guess:
    """Guess parameters from a table of cells.

    Parameters
    ----------
    obs
        Rows are cells, as `read_obs` returns them.
    given
        Parameters that the user knows already.
    several_files
        Whether `obs` has the column EACH_FILE, which is used where a batch is missing.
    """
    known = dict(given or {})
    columns = guess_columns(obs.drop(columns=EACH_FILE), obs[EACH_FILE]) if several_files else guess_columns(obs)
    values: dict[str, Any] = dict.fromkeys(PROPOSED)
    why: dict[str, str] = {}
    _guess_columns(values, why, columns, several_files)
    values |= known
    batch = _batches(obs, values["BATCH_COL"], several_files)
    types, unlabeled, doubtful = _types(obs, values["LABELS_COL"], known)
    counts = pd.crosstab(batch, types) if batch is not None and types is not None else pd.DataFrame()
    table = _table(batch, counts)
    _guess_roles(values, why, table, counts, known)
    names = [str(name) for name in obs if name != EACH_FILE]
    return Guess(columns, table, values, why, _parents(obs, types, values), unlabeled, doubtful, names)


def one_line(value: object) -> str:
    """Return a value as one line of YAML, with quotes only if it needs them.

    >>> print(one_line("T cell"), one_line("1"), one_line("a: b"), one_line(["a", 1]))
    T cell "1" "a: b" [a, 1]
    """
    if isinstance(value, str):
        plain = re.fullmatch(r"[\w./~(][\w ./+()~-]*", value, re.ASCII) and not value.endswith(" ")
        with suppress(Exception):
            if plain and read_yaml(value) == value:
                return value
        return yaml.safe_dump(value, default_style='"', allow_unicode=True, width=math.inf).rstrip("\n")
    if isinstance(value, list):
        return f"[{', '.join(map(one_line, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{one_line(key)}: {one_line(item)}' for key, item in value.items())}}}"
    return "" if value is None else json.dumps(value)


# --- columns ---------------------------------------------------------------------------------------------------------


def guess_columns(obs: pd.DataFrame, file: pd.Series | None = None) -> Columns:
    """Guess the columns of batches and cell types from their names and their values.

    Parameters
    ----------
    obs
        Rows are cells.
    file
        The file of each cell, which stands for a batch where a column has none; None: there is one file.

    >>> obs = pd.DataFrame({"Donor_ID": ["d1", "d1", "d2", "d2"], "sex": ["f", "f", "m", "m"],
    ...                     "CellType": ["B", "T", "B", "T"], "n_counts": [1.5, 2.5, 3.5, 4.5]})
    >>> columns = guess_columns(obs)
    >>> columns.batch, columns.labels
    (['Donor_ID'], ['CellType'])
    """
    # A name with _ in front is what a tool keeps for itself (_scvi_labels, _dataset).
    for_people = [name for name in obs if not str(name).startswith("_")] or list(obs)
    could_be_labels = [name for name in for_people if not set(WORDS["other"]) & set(_words(name))]
    of_batch = _by_name(obs[for_people], WORDS["batch"])
    of_labels = _by_name(obs[[name for name in could_be_labels if name not in of_batch]], WORDS["labels"])
    batches = {
        name: obs[name] if file is None else obs[name].astype(object).where(obs[name].notna(), file)
        for name in of_batch
    }
    batch = [name for name in of_batch if _may_be_batch(batches[name])]
    labels = [name for name in of_labels if _may_be_labels(obs[name])]
    labels.sort(key=lambda name: (_is_of_a_tool(name), _are_numbers(obs[name])))
    if batch:
        # First what leaves a batch to annotate; a column whose types are each in only one batch is of no use.
        of_cells = batches[batch[0]]
        labels.sort(key=lambda name: not _leaves_a_batch(obs[name], of_cells))
        labels.sort(key=lambda name: _each_in_one_batch(obs[name], of_cells))
    by_content: set[str] = set()
    rest = [name for name in could_be_labels if name not in {*of_batch, *of_labels} and not _is_number(obs[name])]
    # What a tool predicted covers all cells; a person's labels would be preferred to it.
    rest = [name for name in rest if not _is_of_a_tool(name)] or rest
    for found, may_be in ((batch, _may_be_batch), (labels, _may_be_labels)):
        could = [name for name in rest if may_be(obs[name])]
        if not found and len(could) == 1:  # of several, the user must choose
            found.append(could[0])
            by_content.add(could[0])
    if batch and labels and batch[0] == labels[0]:
        labels.clear()
    return Columns(batch, labels, by_content)


def _words(name: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", str(name))]


def _by_name(obs: pd.DataFrame, known: Sequence[str]) -> list[str]:
    """Return the columns whose names fit, the best first."""
    places = {name: place for name in obs if (place := _place(name, known)) is not None}
    return sorted(places, key=places.__getitem__)


def _place(name: str, known: Sequence[str]) -> tuple[bool, int, int] | None:
    """Return a sort key for how well a column's name fits, None if it does not: whole names first, then by `known`."""
    words = _words(name)
    while len(words) > 1 and words[-1] in WORDS["trailing"]:
        words.pop()
    parts = {"".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1)}
    places = [place for place, word in enumerate(known) if word in parts]
    if not places:
        return None
    whole = "".join(words)
    if whole in known:
        return False, known.index(whole), int(name != name.lower())
    return True, places[0], len(words)


def _is_number(column: pd.Series) -> bool:
    return bool(pd.api.types.is_numeric_dtype(column) or pd.api.types.is_datetime64_any_dtype(column))


def distinct_values(column: pd.Series) -> pd.Index:
    """Return the distinct values of a column; none if it holds measurements, dates, or true and false."""
    if pd.api.types.is_bool_dtype(column) or pd.api.types.is_datetime64_any_dtype(column):
        return pd.Index([])
    distinct = pd.Series(column.dropna().unique())
    if pd.api.types.is_numeric_dtype(distinct):
        distinct = distinct.astype(float)
        if len(distinct) > MOST_NUMBERS or (distinct % 1 != 0).any():
            return pd.Index([])
    return pd.Index(distinct)


def _may_be_batch(column: pd.Series) -> bool:
    n = len(distinct_values(column))
    return 2 <= n <= min(MOST_BATCHES, max(2, len(column) // 2)) and column.isna().mean() <= 0.1


def _may_be_labels(column: pd.Series) -> bool:
    parameters = Parameters.model_construct()
    n = len({str(value) for value in distinct_values(column) if not parameters.is_unlabeled(str(value))})
    return 2 <= n <= min(MOST_TYPES, max(2, int(column.notna().sum()) // 2))


def _is_of_a_tool(name: str) -> bool:
    """Return whether a column's name says that a tool predicted what it holds."""
    return bool(set(WORDS["predicted"]) & set(_words(name)))


def _are_numbers(labels: pd.Series) -> bool:
    """Return whether labels are numbers, also as text: numbers of clusters more often than types."""
    return all(re.fullmatch(r"-?\d+(\.\d+)?", str(value)) for value in labels.dropna().unique())


def _leaves_a_batch(labels: pd.Series, batch: pd.Series) -> bool:
    """Return whether a column labels most cells of some batches, and no cell of others."""
    parameters = Parameters.model_construct()
    known = texts(labels).map(lambda label: label is not None and not parameters.is_unlabeled(str(label)))
    share = known.groupby(texts(batch).to_numpy()).mean()
    return bool((share == 0).any() and (share > 0.5).any())


def _each_in_one_batch(labels: pd.Series, batch: pd.Series) -> bool:
    pairs = pd.DataFrame({"label": texts(labels), "batch": texts(batch)}).dropna().drop_duplicates()
    return bool(pairs["batch"].nunique() > 1 and not pairs["label"].duplicated().any())


def _guess_columns(values: dict[str, Any], why: dict[str, str], columns: Columns, several_files: bool) -> None:
    for name, found in (("BATCH_COL", columns.batch), ("LABELS_COL", columns.labels)):
        if not found:
            continue
        values[name] = found[0]
        why[name] = "by the column's name"
        if found[0] in columns.by_content:
            why[name] = "the only column whose values look like it"
        elif name == "LABELS_COL" and set(WORDS["clusters"]) & set(_words(found[0])):
            why[name] = "by the column's name; it may hold clusters: check that they are cell types"
    if not columns.batch and several_files:
        values["BATCH_COL"] = EACH_FILE
        why["BATCH_COL"] = "no column has batches, so each file is a batch, named like the file"


# --- batches and cell types ------------------------------------------------------------------------------------------


def _batches(obs: pd.DataFrame, column: str | None, several_files: bool) -> pd.Series | None:
    if column not in obs:
        return obs[EACH_FILE] if several_files else None
    batch = texts(obs[column])
    return batch.where(batch.notna(), obs[EACH_FILE]) if several_files else batch


def _types(
    obs: pd.DataFrame, column: str | None, given: Mapping[str, Any]
) -> tuple[pd.Series | None, dict[str, int], dict[str, int]]:
    """Return the label of each cell (None without one), and the labels that count, or may count, as none."""
    if column not in obs:
        return None, {}, {}
    named = {"UNLABELED": given["UNLABELED"]} if "UNLABELED" in given else {}
    parameters = Parameters.model_construct(**named)
    types = texts(obs[column])
    cells = types.value_counts()
    unlabeled = {str(word): int(n) for word, n in cells.items() if parameters.is_unlabeled(str(word))}
    doubtful = {str(word): int(n) for word, n in cells.items() if str(word).casefold() in WORDS["doubtful labels"]}
    return types.mask(types.isin(list(unlabeled)), None), unlabeled, doubtful


def _table(batch: pd.Series | None, counts: pd.DataFrame) -> pd.DataFrame:
    cells = pd.Series(dtype=int) if batch is None else batch[batch != ""].value_counts()
    counts = counts.reindex(cells.index, fill_value=0).astype(int)
    return pd.DataFrame(
        {"cells": cells, "labelled": counts.sum(axis=1).astype(int), "types": (counts > 0).sum(axis=1).astype(int)}
    )


def _guess_roles(
    values: dict[str, Any], why: dict[str, str], table: pd.DataFrame, counts: pd.DataFrame, given: Mapping[str, Any]
) -> None:
    """Guess target, source and MIN_CELL_TYPE_POPULATION."""
    out = set(given.get("EXCLUDE_DATASETS_NAMES", []))
    if "TARGET_DATASET_NAME" not in given:
        source = given.get("SOURCE_DATASET_NAME")
        fit = table[(table["cells"] >= 2) & ~table.index.isin({*out, source, *given.get("INTER_DATASETS_NAMES", [])})]
        for names, reason in _possible_targets(fit):
            if (_learned(counts, {*names, *out}).sum() > 0).sum() >= 2:
                values["TARGET_DATASET_NAME"] = names[0] if len(names) == 1 else names
                why["TARGET_DATASET_NAME"] = reason
                break
    target = values["TARGET_DATASET_NAME"]
    targets = target if isinstance(target, list) else [target]
    annotated = _learned(counts, {*targets, *out})
    if target is None or annotated.empty:
        return
    if "MIN_CELL_TYPE_POPULATION" not in given:
        values["MIN_CELL_TYPE_POPULATION"] = AUTO
        why["MIN_CELL_TYPE_POPULATION"] = _learned_in_words(annotated)
    if "SOURCE_DATASET_NAME" not in given:
        least = values["MIN_CELL_TYPE_POPULATION"]
        enough = annotated.where(annotated >= (1 if least == AUTO else least), 0)
        best = pd.DataFrame({"types": (enough > 0).sum(axis=1), "cells": enough.sum(axis=1)})
        best = best.sort_values(["types", "cells"], ascending=False, kind="stable")
        if best["types"].iloc[0] > 0:
            values["SOURCE_DATASET_NAME"] = best.index[0]
            why["SOURCE_DATASET_NAME"] = (
                f"the annotated batch with the most cell types ({best['types'].iloc[0]} of {(enough.sum() > 0).sum()}) "
                "and then the most cells; if you leave it out, METHOD default chooses it so too, and METHOD reference by trial"
            )


def _possible_targets(table: pd.DataFrame) -> list[tuple[list[str], str]]:
    """Return batches that could be the target or targets, the likeliest first, and why."""
    bare = table.index[table["labelled"] == 0]
    labelled = table[table["labelled"] > 0].sort_values("cells", kind="stable")
    large = labelled["cells"] >= SMALLEST_TARGET
    without = "the only batch without labels" if len(bare) == 1 else "the batches without labels; each is annotated"
    known = "every batch has labels: choose the one to annotate; this small one is good for a first try"
    by_size = [*labelled.index[large], *labelled.index[~large][::-1]]
    return [*([([*bare], without)] if len(bare) else []), *(([name], known) for name in by_size)]


def _learned(counts: pd.DataFrame, without: set[Any]) -> pd.DataFrame:
    """Return the cells of each type (columns) in the batches (rows) that can be used for training."""
    rest = counts[~counts.index.isin(without)]
    return rest[rest.sum(axis=1) > 0]


def _learned_in_words(annotated: pd.DataFrame) -> str:
    cells = annotated.sum()
    single = listing(map(one_line, map(str, cells.index[cells == 1])), 10, quoted=False)
    return f"learns every cell type but {single}, which has a single cell" if single else "learns every cell type"


def _parents(obs: pd.DataFrame, types: pd.Series | None, values: Mapping[str, Any]) -> list[str]:
    """Return columns of coarser types: they have fewer values, and (nearly) all cells of a type have the same value."""
    if types is None:
        return []
    found, taken = [], (values["BATCH_COL"], values["LABELS_COL"], EACH_FILE)
    for name in obs:
        if name in taken or _is_number(obs[name]) or not 2 <= len(distinct_values(obs[name])) < types.nunique():
            continue
        counts = pd.crosstab(types, texts(obs[name]))
        if counts.shape[1] >= 2 and (counts.max(axis=1) >= OF_ONE_PARENT * counts.sum(axis=1)).all():
            found.append(str(name))
    return found
