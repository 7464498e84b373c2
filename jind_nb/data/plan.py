"""The plan of a run: which batches are used for training, which is annotated, and what is left out and why."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from ..core.model_json import Preprocessing


@dataclass
class Plan:
    """Hold what a run does with each batch, and what was found in the data. It is saved as JSON."""

    target: str  # of several their names in one text
    source: str | None  # None: to be chosen
    annotated: list[str]  # in training order, a named source first
    classes: list[str]  # cell types that are trained, sorted by name
    cells: dict[str, dict[str, int]] = field(default_factory=dict)  # batch -> cell type -> cells that train
    too_rare: list[dict[str, Any]] = field(default_factory=list)  # batch, cell_type, cells
    dropped: list[str] = field(default_factory=list)  # cell types that no batch trains
    labelled: dict[str, int] = field(default_factory=dict)  # batch -> labelled cells, also those that do not train
    left_out: dict[str, str] = field(default_factory=dict)  # batch -> reason
    warnings: list[str] = field(default_factory=list)  # what a reader of the results should know first
    notes: list[str] = field(default_factory=list)
    matrices: list[dict[str, Any]] = field(default_factory=list)  # what X, .raw and the layers look like
    values: list[dict[str, Any]] = field(default_factory=list)  # value type and normalisation of each batch, and why
    overlap: list[dict[str, Any]] = field(default_factory=list)  # how many features each batch has
    parents: dict[str, str] = field(default_factory=dict)  # cell type -> parent, where PARENTS says so
    coarser: list[dict[str, str]] = field(default_factory=list)  # the same of further levels, the nearest first
    ontology: dict[str, str] = field(default_factory=dict)  # cell type or parent -> term of the Cell Ontology
    features: dict[str, int] = field(default_factory=dict)  # in_file, kept; missing: only with a saved model
    preprocessing: Preprocessing | None = None  # None: not prepared yet
    # Of the only file, where `preprocessing.features_sha256` tells of them; they are saved with the model.
    all_features: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)  # the batches to annotate

    def __post_init__(self) -> None:
        """Name the only target also where an earlier version wrote the plan."""
        self.targets = self.targets or [self.target]

    @property
    def n_labelled(self) -> int:
        """Return the number of labelled cells that train."""
        return sum(sum(counts.values()) for counts in self.cells.values())

    @property
    def dropped_shares(self) -> dict[str, float]:
        """Return for each batch with labels the share of its labelled cells whose type no batch trains."""
        return {name: self._share(name, self.dropped) for name in self.labelled}

    @property
    def untrained_shares(self) -> dict[str, float]:
        """Return for each batch with labels the share of its labelled cells whose type it does not train."""
        return {name: self._share(name, None) for name in self.labelled}

    def _share(self, batch: str, types: Collection[str] | None) -> float:
        rare = [row for row in self.too_rare if row["batch"] == batch]
        return sum(row["cells"] for row in rare if types is None or row["cell_type"] in types) / self.labelled[batch]

    @property
    def scale(self) -> str:
        """Return the common scale in words."""
        return self.preprocessing.scale if self.preprocessing else ""
