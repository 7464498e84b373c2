"""Which features count in a cell's total where a saved model annotates a file that has others than the model learned from.

    known = features_of_model(folder, trained, in_files)        # None: nothing to do
    found = beside_others(known, in_files[0], scale, evidence)

The features of a run's only file are saved with its model. In a new file these alone count, as far as it has them: whole files are
annotated with models of the 2,000 features that vary most, and totals over 20,000 would be several times as large.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from ..core.model_json import CommonScale, Preprocessing, features_digest, read_all_features
from ..core.parameters import Parameters
from . import features
from .recognise import Evidence

# With so many times a model's features a file of another kind: of a whole transcriptome, or more peaks.
CLEARLY_MORE = 1.5


@dataclass(frozen=True)
class Totals:
    """Say how the totals of a file's cells are taken; the fields are those of `NormalisedFiles`."""

    names: pd.Index
    columns: np.ndarray | None
    counted: np.ndarray | None
    scale: CommonScale


def are_taken(scale: CommonScale) -> bool:
    """Return whether a cell's values depend on its total, or on one that is the same for all cells."""
    return scale.values == "log1p" and scale.total is not None


def features_of_model(folder: Path, trained: Preprocessing, in_files: list[pd.Index]) -> pd.Index | None:
    """Return the features that count by a saved model; None: the model does not say, or the only file has these and no others.

    Raises
    ------
    InputError
        If the file of names that belongs to the model is missing or damaged.
    """
    if trained.totals_over is not None:
        return pd.Index(trained.totals_over)
    digest = trained.features_sha256
    if digest is None or (len(in_files) == 1 and features_digest(in_files[0]) == digest):
        return None
    return pd.Index(read_all_features(folder, digest))


def beside_others(known: pd.Index, in_file: pd.Index, scale: CommonScale, evidence: Iterable[Evidence]) -> Totals:
    """Return how the totals of a file's cells are taken over the features that the model's only file had.

    Parameters
    ----------
    known, in_file
        The model's features, and those of the file.
    scale, evidence
        What the file is brought to, and what the values of its batches look like.
    """
    columns = features.match(known, in_file)[0]
    there = columns[columns >= 0]
    if len(there) == len(in_file):
        return Totals(in_file, None, None, scale)
    if are_taken(scale) and not scale.rescaled and all(batch.total is not None for batch in evidence):
        scale = replace(scale, rescaled=True)  # the same total, but over other features than the model's
    if (np.diff(there) < 0).any():  # sums are of the same bits as in the training in one order alone
        return Totals(known, columns, None, scale)
    counted = np.zeros(len(in_file), dtype=bool)
    counted[there] = True
    return Totals(in_file, None, counted, scale)


def lacking_notes(known: pd.Index, in_files: list[pd.Index]) -> list[str]:
    """Return a list with one note if a file has few of the features that count, otherwise an empty one."""
    there = min(int((features.match(known, index)[0] >= 0).sum()) for index in in_files)
    if there >= features.WARN_BELOW * len(known):
        return []
    return [
        f"In the training a cell's total was over {len(known):,} features; here it is over the {there:,} of them that are there. If the "
        "others were taken out of the file, and not zero, all values are larger than those that the model learned from."
    ]


def unknown_warnings(trained: Preprocessing, scale: CommonScale, model: list[str], names: pd.Index) -> list[str]:
    """Return a list with one warning if an earlier version saved a model, and the file seems to have many more features than the
    model's had, otherwise an empty one: a model with fewer features than are kept by default probably has all of its file."""
    if trained.totals_over is not None or trained.features_sha256 is not None:
        return []
    if not (are_taken(trained) and are_taken(scale) and scale.rescaled):
        return []
    most = Parameters.model_fields["NUM_FEATURES"].default
    if len(model) >= most or len(names) <= CLEARLY_MORE * len(model):
        return []
    return [
        f"The model has {len(model):,} features and the file {len(names):,}. The version that saved the model did not keep which features "
        "count in a cell's total; here all of the file's do. If its training file had no others than the model, all values are smaller than "
        "those that it learned from, and the answers others: train it again, or leave only its features in the file."
    ]
