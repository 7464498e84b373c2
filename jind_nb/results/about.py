"""The sheet `about` of the workbook of predictions: what the first sheet is, for whoever gets it by mail."""

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

import pandas as pd

from ..core.labels import UNASSIGNED
from ..core.text import about, percent
from ..model.expected_error import ExpectedError
from ..runs.folder import Run

COLUMNS = {
    "batch": "the cell's batch, from the column that --batch-col names",
    "raw_predictions": "the most probable cell type",
    "predictions": "the answer: the same, or Unassigned where the model is not sure enough (with PARENTS: or the parent type)",
    "level": "what kind of answer it is: cell type, parent or Unassigned",
    "ontology_term_id": "the term of the Cell Ontology that predictions is; unknown where there is none",
    "level_1": "the most probable type at the coarsest level of the ontology; level_2 and so on are finer",
    "level_1_probability": "its probability: the sum over its types",
    "confidence": "the probability that raw_predictions is right, from 0 to 1, also of Unassigned cells",
    "reason": "why: confident, ambiguous (below the type's threshold), unlike reference (unlike all annotated cells), ...",
    "cluster": "the cell's cluster",
    "cluster_majority": "the most frequent answer in the cluster",
    "cluster_share": "the share of the cluster's cells that have it",
    "labels": "the label in the input file; it was not used for the predictions",
}


def about_table(table: pd.DataFrame, run: Run, error: ExpectedError | None = None) -> pd.DataFrame:
    """Return what a reader of the predictions must know: a row for each fact, with `section`, `name` and `value`.

    Parameters
    ----------
    table
        The `tables.predictions_table`.
    error
        The stated error; None where nobody can say.
    """
    rows = [
        *_overview(table, run), *_stated(error), *_counts(table), *_columns(table),
        *(("parameter", name, _words(value)) for name, value in run.parameters.model_dump().items()),
        ("version", "jind-nb", version("jind-nb")),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["section", "name", "value"], dtype=object)


Rows = Iterator[tuple[str, str, object]]


def _overview(table: pd.DataFrame, run: Run) -> Rows:
    target = run.parameters.target
    of = f" for the cells of {target}" if target else ""
    yield (
        "about",
        "what this is",
        f"Predicted cell types{of}; one row for each cell in the first sheet, in the input's order.",
    )
    rejected = int((table["predictions"] == UNASSIGNED).sum())
    yield "about", "cells", len(table)
    yield "about", "assigned", len(table) - rejected
    yield "about", UNASSIGNED, rejected


def _stated(error: ExpectedError | None) -> Rows:
    if error is None:
        return
    value, between = "not known", "not known"
    if error.value is not None and error.range is not None:
        value = f"{about(error.value)} of the assigned cells are wrong"
        between = f"{percent(error.range[0])} to {percent(error.range[1])}"
    yield "expected error", "value", value
    yield "expected error", "probably between", between
    yield "expected error", "basis", error.basis


def _counts(table: pd.DataFrame) -> Rows:
    for name, n in table["predictions"].value_counts().items():
        yield "cells by answer", str(name), int(n)


def _columns(table: pd.DataFrame) -> Rows:
    for name, words in COLUMNS.items():
        if name in table:
            yield "column", name, words
    yield "column", "all others", "the probability of the cell type in the column's head"


def _words(value: Any) -> object:
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_words(of)}" for key, of in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return (
        value if isinstance(value, int | float) and not isinstance(value, bool) else str("" if value is None else value)
    )
