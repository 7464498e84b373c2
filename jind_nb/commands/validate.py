"""`jind-nb validate`: what a run would do; the data are read and prepared, nothing is trained or written."""

from dataclasses import dataclass

import pandas as pd

from ..core.parameters import Parameters
from ..core.text import listing
from ..data import cells as data_cells
from ..data import prepare, roles
from ..results import data_tables
from . import run

MOST_BATCHES = 5  # in a terminal, a row for each

ENOUGH_FEATURES = 95  # percent; batches with fewer have a row of their own


@dataclass(frozen=True)
class Findings:
    """What `jind-nb validate` and the web page show: tables by title, and sentences."""

    tables: dict[str, pd.DataFrame]
    facts: list[str]
    warnings: list[str]
    notes: list[str]


def validate(parameters: Parameters) -> Findings:
    """Read parameters and data as a run does, and return what is found.

    Raises
    ------
    InputError
        If a run would raise it.
    """
    parameters = roles.with_targets(parameters)
    cells = data_cells.read_cells(parameters)
    plan = roles.make_plan(parameters, cells)
    run.check_folder_and_model(parameters)
    prepare.prepare(parameters, cells, plan)
    tables = {"Batches": data_tables.batch_table(cells, plan)}
    if plan.too_rare:
        tables["Cell types left out of a batch's training"] = data_tables.too_rare_table(plan)
    if len(plan.matrices) > 1:
        tables["What the file holds"] = data_tables.matrices_table(plan)
    tables |= {"Values": data_tables.values_table(plan), "Features": data_tables.overlap_table(plan)}
    facts = [f"{plan.features['kept']:,} of {plan.features['in_file']:,} features would be used."]
    if plan.classes:
        facts.insert(0, f"{len(plan.classes)} cell types can be predicted: {', '.join(plan.classes)}")
    return Findings(tables, facts, plan.warnings, plan.notes)


def shorten(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of batches for a terminal: if it has more than five rows, equal ones share a row.

    Rows are equal if they differ only in numbers, or in a few features that are not there. Other tables are returned as they are.

    >>> table = pd.DataFrame({"value type": ["counts"] * 12, "to": range(12)}, index=[f"d{i}" for i in range(12)])
    >>> shorten(table.rename_axis("batch")).loc["d0, d1, d2 and 9 more"].tolist()
    ['counts', '0 – 11']
    """
    same = [name for name in ("value type", "evidence", "normalisation", "features") if name in table]
    if table.index.name != "batch" or len(table) <= MOST_BATCHES or not same:
        return table
    enough = table["found %"] >= ENOUGH_FEATURES if "found %" in table else pd.Series(True, index=table.index)
    alike = table[same].replace(r"\d+", "", regex=True)  # evidence names numbers of each batch
    keys = alike.assign(enough=enough, of=table.index.where(~enough, ""))
    rows = [
        (listing(group.index, 3, quoted=False), *(_joined(column, group[column]) for column in table))
        for _, group in table.groupby([keys[name].to_numpy() for name in keys], sort=False)
    ]
    return pd.DataFrame(rows, columns=["batch", *table]).set_index("batch")


def _joined(column: str, values: pd.Series) -> str:
    """Return one text for several values: the common value, or the range of numbers, or how many batches lack features."""
    distinct = list(dict.fromkeys(map(str, values)))
    if len(distinct) == 1:
        return distinct[0]
    if column == "evidence":  # alike but for numbers
        return f"for example: {distinct[0]}"
    if column in data_tables.LACKING:
        return f"a few in {(values != '').sum()} of them"
    distinct.sort(key=lambda text: float(text.replace(",", "")))
    return f"{distinct[0]} – {distinct[-1]}"
