"""What would happen with a parameter file: the data is read and prepared, nothing is trained or written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import data, pipeline
from .parameters import Parameters

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Findings:
    """What `jind-nb validate` and the web page show: tables with their titles, and sentences."""

    tables: dict[str, pd.DataFrame]
    facts: list[str]
    warnings: list[str]
    notes: list[str]


def find(parameters: Parameters) -> Findings:
    """Reads parameters and data as a run would.

    Raises
    ------
    InputError
        Where a run would.
    """
    cells = data.read_cells(parameters)
    plan = data.make_plan(parameters, cells)
    pipeline.check_folder_and_model(parameters)
    data.prepare(parameters, cells, plan)
    tables = {"Batches": data.batch_table(cells, plan)}
    if plan.too_rare:
        tables["Cell types left out of a batch's training"] = data.too_rare_table(plan)
    if len(plan.matrices) > 1:
        tables["What the file holds"] = data.matrices_table(plan)
    tables |= {"Values": data.values_table(plan), "Features": data.overlap_table(plan)}
    facts = [f"{plan.features['kept']:,} of {plan.features['in_file']:,} features would be used."]
    if plan.classes:
        facts.insert(0, f"{len(plan.classes)} cell types can be predicted: {', '.join(plan.classes)}")
    return Findings(tables, facts, plan.warnings, plan.notes)
