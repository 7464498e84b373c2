"""The processes of the web page: they read the visitors' files, so that the page and the server do not.

    python -m jind_nb.commands.app.process describe PATH            # prints JSON: what is in a file
    python -m jind_nb.commands.app.process check PARAMETERS         # prints JSON: what `jind-nb validate` finds
    python -m jind_nb.commands.app.process run FOLDER PLACES N      # waits for one of N places, then is `jind-nb run`

Wrong input is printed as {"error": message}.
"""

from __future__ import annotations

import contextlib
import json
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

from ...core.parameters import BUNDLED, Parameters, load_parameters
from ...data.datasets import bundled_file
from ...data.h5ad import frame, open_file, texts
from ...errors import InputError
from ...report import html
from ..guess import distinct_values, guess
from ..validate import validate
from .workspace import place_held

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
        If the file cannot be read.
    """
    import numpy as np
    import pandas as pd

    with open_file(bundled_file(path) if path.startswith(BUNDLED) else Path(path)) as store:
        obs, n_features = frame(store, "obs"), len(frame(store, "var"))
    proposed = guess(obs).values
    fit = [name for name in obs if 0 < len(distinct_values(obs[name])) <= MOST_VALUES]
    candidates = {str(name): texts(obs[name]) for name in fit[:MOST_COLUMNS]}
    parameters = Parameters.model_construct()
    codes = {name: pd.factorize(column) for name, column in candidates.items()}
    with_label = {
        name: (code >= 0) & np.array([not parameters.is_unlabeled(str(value)) for value in values], dtype=bool)[code]
        for name, (code, values) in codes.items()
    }
    return {
        "cells": len(obs),
        "features": n_features,
        "proposed": proposed,
        "columns": {
            name: {str(v): int(n) for v, n in column.value_counts().items()} for name, column in candidates.items()
        },
        "labelled": {
            name: {
                other: {
                    str(v): int(n)
                    for v, n in zip(values, np.bincount(code[(code >= 0) & labelled], minlength=len(values)), strict=True)
                }
                for other, labelled in with_label.items()
                if other != name
            }
            for name, (code, values) in codes.items()
        },
    }  # fmt: skip


def check(file: str) -> dict[str, Any]:
    """Return what `jind-nb validate` finds, its tables as HTML.

    Raises
    ------
    InputError
        As a run would.
    """
    found = validate(load_parameters(file))
    shown = [html.table_html(table, title) for title, table in found.tables.items()]
    return {"tables": shown, "facts": found.facts, "warnings": found.warnings, "notes": found.notes}


def run(folder: Path, places: Path, n: int) -> None:
    """Do a visitor's run as `jind-nb run` does, once a place is free."""
    # The kernel that started this process ignores Ctrl-C, and so would this process; the page cancels runs with it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), place_held(places, n):
        (folder / "begun").touch()

        # Imported only now: a waiting process should not hold the half gigabyte that a run needs.
        sys.argv = ["jind-nb run", str(folder / "parameters.yaml")]
        runpy.run_module("jind_nb.commands.run_process", run_name="__main__")


def _answer(work: Any, argument: str) -> None:
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        try:
            answer = work(argument)
        except InputError as error:
            answer = {"error": str(error)}
    json.dump(answer, out)


if __name__ == "__main__":
    if sys.argv[1] == "run":
        run(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
    else:
        _answer({"describe": describe_file, "check": check}[sys.argv[1]], sys.argv[2])
