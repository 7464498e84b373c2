"""Tables of the input: its batches, cell types, values and features, and what was noticed."""

import pandas as pd

from ..data.plan import Plan

# Of which features `Plan.overlap` says in which cells they have a value; of the others, whether the file has them.
OF_VALUES = ("kept, seen at all", "that vary most, measured in it")

LACKING = ("not in the file", "zero though expected")  # columns of `overlap_table`


def batch_table(cells: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Return a row for each batch of the input: its role, cells, labelled cells (of a target they are not counted, since its labels
    are read only when the answers are compared with them), training cells, why it is left out."""
    roles = dict.fromkeys(plan.annotated, "annotated") | dict.fromkeys(plan.targets, "target")
    if plan.source:
        roles |= {plan.source: "source"} | {name: "intermediate" for name in plan.annotated if name != plan.source}
    names = list(dict.fromkeys(cells["batch"].dropna()))
    names.sort(key=lambda name: (name not in plan.annotated, name in plan.targets, name in plan.left_out))
    groups = cells.groupby("batch", sort=False)
    table = pd.DataFrame({"cells": groups.size(), "labelled": groups["cell_type"].count()}, dtype=object).loc[names]
    table.insert(0, "role", [roles.get(name, "left out") for name in names])
    table.loc[table.index.isin(plan.targets), "labelled"] = "not counted"
    table["training"] = groups["trains"].sum().astype(int)
    if plan.left_out:
        table["why left out"] = [plan.left_out.get(name, "") for name in names]
    return table


def too_rare_table(plan: Plan) -> pd.DataFrame:
    """Return a row for each cell type left out of a batch's training: the batches (with its cells there), and whether it is
    learned from others."""
    rare = pd.DataFrame(plan.too_rare, columns=["batch", "cell_type", "cells"])
    batches = (rare["batch"].astype(str) + " (" + rare["cells"].astype(str) + ")").groupby(rare["cell_type"])
    table = batches.agg(", ".join).rename_axis("cell type").to_frame("too few cells in")
    learned = ["yes" if name in plan.classes else "no: never predicted" for name in table.index]
    return table.assign(**{"learned from other batches": learned})


def values_table(plan: Plan) -> pd.DataFrame:
    """Return what each batch's values were taken for, the evidence, and what was done with them."""
    return _short_numbers(pd.DataFrame(plan.values).set_index("batch").drop(columns="stored %"))


def matrices_table(plan: Plan) -> pd.DataFrame:
    """Return a row for X, `.raw` and every layer, for each value type in it, and which one is used."""
    return _short_numbers(pd.DataFrame(plan.matrices).set_index("matrix"))


def overlap_table(plan: Plan) -> pd.DataFrame:
    """Return how many of the wanted features each batch has, and by name the first few that its file does not have, and those that
    are there and zero in all its cells though the other batches' rates say otherwise."""
    table = pd.DataFrame(plan.overlap).set_index("batch")
    table = table.rename(columns={"there": "found", "of": "expected", "%": "found %"})
    is_silent = table["features"].isin(OF_VALUES)
    lacking = table.pop("missing")
    for name, of_rows in zip(LACKING, (~is_silent, is_silent), strict=True):
        names = lacking.where(of_rows, "")
        if names.astype(bool).any():
            table[name] = names
    return table


def _short_numbers(table: pd.DataFrame) -> pd.DataFrame:
    for name in ("from", "to", "median cell total"):
        decimals = _decimals(table[name])
        table[name] = [f"{value:,.{decimals}f}" for value in table[name]]
    return table.rename(columns={"from": "min (not 0)", "to": "max"})


def _decimals(column: pd.Series) -> int:
    """Return so many decimals for all numbers of a column that its largest has four digits; none for whole numbers."""
    numbers = column.astype(float)
    if (numbers == numbers.round()).all():
        return 0
    largest = numbers.abs().max()
    return next((decimals for most, decimals in ((0.1, 5), (10, 3), (100, 2), (1000, 1)) if largest < most), 0)


def notes_table(plan: Plan) -> pd.DataFrame:
    """Return what was noticed while reading and preparing, a sentence a row, warnings first."""
    lines = [f"Warning: {text}" for text in plan.warnings] + plan.notes
    return pd.DataFrame({"note": lines or ["Nothing unusual was noticed while the files were read."]})
