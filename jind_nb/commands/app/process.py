"""The processes of the web page: they read the visitors' files, so that the page and the server do not.

    python -m jind_nb.commands.app.process describe                 # what is in a file
    python -m jind_nb.commands.app.process check                    # what `jind-nb validate` finds
    python -m jind_nb.commands.app.process run FOLDER N             # waits for one of N places, then is `jind-nb run`

The first two read JSON, the file's path or the parameters, and print JSON; of wrong input, {"error": message}.
"""

import contextlib
import json
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from ...core.parameters import BUNDLED, Parameters, make_parameters
from ...data.datasets import bundled_file
from ...data.h5ad import frame, open_file, texts
from ...errors import InputError
from ...report import html
from ..guess import distinct_values, guess
from ..validate import validate
from .workspace import PLACES, place_held

# A column with more distinct values holds neither batches nor cell types.
MOST_VALUES = 200

MOST_COLUMNS = 60

LONGEST_VALUE = 200  # characters of a name

MOST_CHARACTERS = 150_000  # of all names and values together


def describe_file(path: str) -> dict[str, Any]:
    """Count cells and features, and the values of the columns of `obs` that could hold batches or cell types.

    Returns
    -------
    `cells`, `features`; `proposed`: parameters by `guess.guess`; `columns`: name -> value -> cells, the most frequent
    first; `labelled`: `_labelled`. Together some hundred kilobytes at most, whatever is in the file.

    Raises
    ------
    InputError
        If the file cannot be read, or has less than two such columns.
    """
    with open_file(bundled_file(path) if path.startswith(BUNDLED) else Path(path)) as store:
        obs, n_features = frame(store, "obs"), len(frame(store, "var"))
    proposed = guess(obs).values
    first = [name for name in (proposed["BATCH_COL"], proposed["LABELS_COL"]) if name is not None]
    columns: dict[str, dict[str, int]] = {}
    rest = MOST_CHARACTERS
    for name in [*first, *(str(name) for name in obs if str(name) not in first)]:
        if (counts := _counts(obs[name])) is None:
            continue
        rest -= len(name) + sum(len(value) for value in counts)
        if rest < 0 or len(columns) == MOST_COLUMNS:
            break
        columns[name] = counts
    columns = {str(name): columns[str(name)] for name in obs if str(name) in columns}
    if len(columns) < 2:
        raise InputError(
            f"obs needs a column with the batch of each cell and one with cell types; of columns with at most {MOST_VALUES} "
            f"different values it has {', '.join(columns) or 'none'}."
        )
    return {
        "cells": len(obs),
        "features": n_features,
        "proposed": proposed,
        "columns": columns,
        "labelled": _labelled(obs, columns),
    }


def _counts(column: pd.Series) -> dict[str, int] | None:
    """Return how many cells have each value of a column, the most frequent first; None if it cannot hold batches or cell
    types: it has no value, too many, or values longer than names are."""
    if not 0 < len(distinct_values(column)) <= MOST_VALUES:
        return None
    counts = pd.Series(texts(column)).value_counts().to_dict()
    return counts if max(map(len, counts), default=0) <= LONGEST_VALUE else None


def _labelled(obs: pd.DataFrame, columns: dict[str, dict[str, int]]) -> dict[str, dict[str, dict[str, int]]]:
    """Return for each column, each other one that has cells without a label, and each value of the first: the cells with a
    label in the second. Of a column in which all cells have labels the counts are those of `columns`."""
    is_unlabeled = Parameters.model_construct().is_unlabeled
    table = pd.DataFrame({name: texts(obs[name]) for name in columns}).astype("category")
    with_label = table.apply(lambda column: column.isin([v for v in column.cat.categories if not is_unlabeled(v)]))
    with_label = with_label.loc[:, ~with_label.all()]
    found, rest = {}, MOST_CHARACTERS
    for name in sorted(columns, key=lambda name: len(columns[name])):  # batches are few: they come first
        rest -= len(with_label.columns) * sum(len(value) + len('": 1000000, ') for value in columns[name])
        if rest < 0:
            break
        found[name] = with_label.groupby(table[name], observed=True).sum().to_dict()
    return found


def check(values: dict[str, Any]) -> dict[str, Any]:
    """Return what `jind-nb validate` finds, its tables as HTML.

    Raises
    ------
    InputError
        As a run would.
    """
    found = validate(make_parameters(values))
    return vars(found) | {"tables": [html.table_html(table, title) for title, table in found.tables.items()]}


def run(folder: Path, n_places: int) -> None:
    """Do a visitor's run as `jind-nb run` does, once a place is free."""
    # The kernel that started this process ignores Ctrl-C, and so would this process; the page cancels runs with it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), place_held(folder.parents[2] / PLACES, n_places):
        (folder / "begun").touch()

        # Imported only now: a waiting process should not hold the half gigabyte that a run needs.
        sys.argv = ["jind-nb run", str(folder / "parameters.yaml")]
        runpy.run_module("jind_nb.commands.run_process", run_name="__main__")


def _answer(work: Callable[[Any], dict[str, Any]]) -> None:
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        try:
            answer = work(json.load(sys.stdin))
        except InputError as error:
            answer = {"error": str(error)}
    json.dump(answer, out)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["describe"]:
            _answer(describe_file)
        case ["check"]:
            _answer(check)
        case ["run", folder, n_places]:
            run(Path(folder), int(n_places))
