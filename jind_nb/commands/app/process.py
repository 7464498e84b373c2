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


def describe_file(path: str) -> dict[str, Any]:
    """Count cells and features, and the values of the columns of `obs` that could hold batches or cell types.

    Returns
    -------
    `cells`, `features`; `proposed`: parameters by `guess.guess`; `columns`: name -> value -> cells, the most frequent
    first; `labelled`: name -> name -> value -> cells of that value of the first column that have a label in the second.

    Raises
    ------
    InputError
        If the file cannot be read, or has less than two such columns.
    """
    with open_file(bundled_file(path) if path.startswith(BUNDLED) else Path(path)) as store:
        obs, n_features = frame(store, "obs"), len(frame(store, "var"))
    fit = [name for name in obs if 0 < len(distinct_values(obs[name])) <= MOST_VALUES][:MOST_COLUMNS]
    if len(fit) < 2:
        raise InputError(
            f"obs needs a column with the batch of each cell and one with cell types; of columns with at most {MOST_VALUES} "
            f"different values it has {', '.join(fit) or 'none'}."
        )
    table = pd.DataFrame({str(name): texts(obs[name]) for name in fit}).astype("category")
    is_unlabeled = Parameters.model_construct().is_unlabeled
    with_label = table.apply(lambda column: column.isin([v for v in column.cat.categories if not is_unlabeled(v)]))
    return {
        "cells": len(obs),
        "features": n_features,
        "proposed": guess(obs).values,
        "columns": {name: table[name].value_counts().to_dict() for name in table},
        "labelled": {name: with_label.groupby(table[name], observed=True).sum().to_dict() for name in table},
    }


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
