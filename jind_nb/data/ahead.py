"""What is done with a file's values while they are read for the first time, to see what they are: so that they are read once.

A guess, by the first cells, says how they are brought to the model's scale. What was done counts if all cells turn out to be as was
guessed; otherwise the values are read again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from scipy import sparse

from .chunks import current_client
from .variable_features import NormalisedFiles, Part, block_features, parts_of

if TYPE_CHECKING:
    from .layers import InputFile

Result = TypeVar("Result")

CELLS_TO_GUESS_BY = 500


@dataclass(frozen=True)
class Guess:
    """How the values of a file are brought to the model's scale."""

    values: NormalisedFiles  # of one file
    columns: np.ndarray  # int (p,), positions of the features; -1: nowhere


@dataclass
class Ahead(Generic[Result]):
    """Hold what a function gave for each block of a file, and by which guess."""

    guess: Callable[[], Guess]  # of the first cells
    function: Callable[[sparse.csr_matrix], Result]  # of a block's features
    guessed: Guess | None = None
    file: InputFile | None = None
    found: list[Result | None] = field(default_factory=list)  # of each block; None: something was wrong

    def begin(self, file: InputFile) -> list[Callable[[sparse.csr_matrix], None]]:
        """Return for each block what is to be called with its stored values; an empty list if they will be kept, or nothing can be
        guessed.

        Nothing is raised: whatever is wrong is told when it is found without this.
        """
        blocks = file.blocks.blocks
        # Values that are read by all processes of a cluster, or sorted first, are read in their own way.
        if file.blocks.keeps or not blocks or any(block.form not in ("csr", "dense") for block in blocks):
            return []
        with suppress(Exception):
            if current_client() is not None:
                return []
            guessed = self.guess()
            of_first, values = guessed.values.files[0], guessed.values
            if len(of_first.value_types) > 1 or not _same_place(of_first, file):
                return []
            evidence = replace(next(iter(of_first.evidence.values())), has_volume=file.volumes is not None)
            alike = replace(file, evidence=dict.fromkeys(file.rows, evidence))
            n = len(file.cells)
            parts = parts_of(
                replace(values, files=[alike]),
                np.full(n, ""),
                np.ones(n, bool),
                (guessed.columns,),
            )
            self.guessed, self.file, self.found = guessed, file, [None] * len(blocks)
            return [partial(self._use, i, part) for i, part in enumerate(parts) if part is not None]
        return []

    def _use(self, i: int, part: Part, stored: sparse.csr_matrix) -> None:
        with suppress(Exception), np.errstate(all="ignore"):
            (features,) = block_features(stored, part)
            self.found[i] = self.function(features)

    def results(self, final: Guess, used: np.ndarray) -> list[Result]:
        """Return what the function gave for each block, if it would give the same by how all values are, and for the cells
        that are used, bool (n,); otherwise an empty list. It is forgotten here."""
        found, self.found = self.found, []
        results = [result for result in found if result is not None]
        if self.guessed is None or not found or len(results) < len(found):
            return []
        (file,), guessed = final.values.files, self.guessed
        of_first = guessed.values.files[0]
        is_as_guessed = (
            file is self.file
            and file.value_types == of_first.value_types
            and used.all()
            and final.values.scale == guessed.values.scale
            and _equal(final.values.columns[0], guessed.values.columns[0])
            and _equal(final.values.counted, guessed.values.counted)
            and _equal(final.columns, guessed.columns)
        )
        return results if is_as_guessed else []


def _same_place(one: InputFile, other: InputFile) -> bool:
    same_columns = _equal(one.blocks.blocks[0].columns, other.blocks.blocks[0].columns)
    return one.path == other.path and one.layer == other.layer and same_columns


def _equal(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return one is other if one is None or other is None else np.array_equal(one, other)
