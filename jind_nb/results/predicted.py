"""A new file that a saved model has annotated."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from ..core.labels import AMBIGUOUS, CONFIDENT, UNASSIGNED, UNLIKE
from ..core.text import about, percent
from ..model.expected_error import ExpectedError
from ..runs.folder import Run
from . import new_groups
from .tables import answers_of, error_columns
from .target import REASONS, Level, counts_in_words


@dataclass
class Predicted:
    """The annotation of a new file."""

    table: pd.DataFrame  # `tables.predictions_table`, rows in the file's order
    order: np.ndarray  # int (n,), the rows in an order that the cells' values give them
    latent_in_order: np.ndarray  # float32 (n, d)
    classes: list[str]
    warnings: list[str]
    notes: list[str]
    run: Run
    error: ExpectedError  # among the assigned cells
    batches: np.ndarray  # objects (n,), each cell's batch
    features: dict[str, int]  # `Plan.features`, and of the model's how many are `silent`: there, and zero in all cells
    n_learned: int  # assigned cells that the model learned from; the error is that of the others
    alignment_notes: list[str] = field(default_factory=list)  # how the cells were aligned; empty if they were not
    errors: Mapping[str, ExpectedError] = field(
        default_factory=dict
    )  # as `error`, of each batch that has cells new to the model
    groups: new_groups.Groups | None = None  # where they were looked for, and there are any

    @cached_property
    def latent(self) -> np.ndarray:
        """The cells' latents, float32 (n, d), in the table's order."""
        latent: np.ndarray = self.latent_in_order[np.argsort(self.order)]
        return latent

    @property
    def written(self) -> Path:
        """The table to look at: the workbook, or the CSV where there is none."""
        return self.run.predictions_xlsx if self.run.predictions_xlsx.exists() else self.run.predictions_csv

    @property
    def level(self) -> np.ndarray:
        """What kind of answer each cell got, `Level` as text, objects (n,)."""
        if "level" in self.table:
            return self.table["level"].to_numpy(dtype=object)
        is_unassigned = (self.table["predictions"] == UNASSIGNED).to_numpy()
        return np.where(is_unassigned, UNASSIGNED, str(Level.TYPE)).astype(object)

    @property
    def levels(self) -> dict[Level, int]:
        """How many cells got each kind of answer; parents only where the model has any."""
        levels = [level for level in Level if "level" in self.table or level != Level.PARENT]
        return {level: int((self.level == level).sum()) for level in levels}

    @property
    def answers(self) -> list[str]:
        """All answers in the order to show them: types, parents that were given, `Unassigned`."""
        return answers_of(self.table, self.classes)

    @property
    def error_line(self) -> str:
        """The error to expect, in a sentence."""
        if self.error.value is None or self.error.range is None:
            return f"How many of the assigned cells are wrong is not known. {self.error.basis}"
        low, high = self.error.range
        of_them = "of the assigned cells that are new to the model" if self.n_learned else "of the assigned cells"
        wrong = f"{about(self.error.value).capitalize()} {of_them} are probably wrong"
        return f"{wrong} ({percent(low)} to {percent(high)}). {self.error.basis}"

    @property
    def one_line(self) -> str:
        """How many cells were assigned a type, in a sentence."""
        return f"{counts_in_words(self.levels, int((self.table['reason'] == UNLIKE).sum()))}."


# Columns of a row of `flagged_table`.
FLAGGED = {"reason": "why", "raw_predictions": "most like", "confidence": "confidence"}


def flagged_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return the cells that got no type, the least sure first: index `cell`, columns `why`, `most like`, `confidence`."""
    flagged = table[table["reason"] != CONFIDENT].sort_values("confidence", kind="stable")
    return flagged[list(FLAGGED)].rename(columns=FLAGGED).rename_axis("cell")


def reasons_counted(table: pd.DataFrame) -> pd.DataFrame:
    """Return how many cells have each reason, and their share in percent."""
    counts = table["reason"].value_counts()
    counts = counts.reindex(
        [reason for reason in REASONS if reason in counts or reason in (CONFIDENT, AMBIGUOUS, UNLIKE)]
    )
    counts = counts.fillna(0).astype(int)
    return counts.rename_axis("reason").to_frame("cells").assign(**{"share %": 100 * counts / len(table)})


def batches_table(predicted: Predicted) -> pd.DataFrame:
    """Return a row for each batch of the file: `cells`, shares in percent of those assigned, Unassigned and unlike the annotated
    ones, `median confidence`, the expected error among the assigned cells with its range, and the most frequent types."""
    answers = predicted.table["predictions"].to_numpy()
    rows = {}
    for name in pd.unique(predicted.batches):
        here = predicted.batches == name
        types = pd.Series(answers[here]).value_counts(normalize=True).drop(UNASSIGNED, errors="ignore")
        rows[name] = {
            "cells": int(here.sum()),
            "assigned %": 100 * float((predicted.level[here] == Level.TYPE).mean()),
            "Unassigned %": 100 * float((answers[here] == UNASSIGNED).mean()),
            "unlike all annotated cells %": 100 * float((predicted.table["reason"][here] == UNLIKE).mean()),
            "median confidence": float(predicted.table["confidence"][here].median()),
            **error_columns(predicted.errors.get(name, ExpectedError(None, None, ""))),
            "most frequent": ", ".join(f"{of_type} {100 * share:.0f} %" for of_type, share in types.head(3).items()),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("batch")
