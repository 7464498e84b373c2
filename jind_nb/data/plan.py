"""TODO."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# --- the plan --------------------------------------------------------------------------------------------------------


@dataclass
class Plan:
    """Who trains, who is annotated, and what is left out and why. Plain values only: it is saved as JSON."""

    target: str
    source: str | None  # None: to be chosen
    annotated: list[str]  # in training order, a named source first
    classes: list[str]  # cell types that are trained, sorted by name
    cells: dict[str, dict[str, int]] = field(default_factory=dict)  # batch -> cell type -> cells that train
    too_rare: list[dict[str, Any]] = field(default_factory=list)  # batch, cell_type, cells
    dropped: list[str] = field(default_factory=list)  # cell types that no batch trains
    left_out: dict[str, str] = field(default_factory=dict)  # batch -> reason
    warnings: list[str] = field(default_factory=list)  # what a reader of the results should know first
    notes: list[str] = field(default_factory=list)
    matrices: list[dict[str, Any]] = field(default_factory=list)  # what X, .raw and the layers look like
    values: list[dict[str, Any]] = field(default_factory=list)  # what the values of each batch were taken for, and why
    overlap: list[dict[str, Any]] = field(default_factory=list)  # how many features each batch has
    parents: dict[str, str] = field(default_factory=dict)  # cell type -> parent, where PARENTS says so
    features: dict[str, int] = field(default_factory=dict)  # in_file, kept; missing: filled in for a saved model
    # All that brings a new file to the scale of this run: layer, gene_col, totals_over (names; None: a file's
    # features) and what `values.agree` gives.
    preprocessing: dict[str, Any] = field(default_factory=dict)
