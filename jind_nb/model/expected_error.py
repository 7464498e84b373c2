"""How many of the assigned cells of THIS target are probably wrong, as far as that can be known without its labels.

The doubt of the target's own assigned cells (one minus their mean confidence), corrected by how doubt and error compared in each
annotated batch that was left out. After Guillory et al. 2021 (difference of confidences, ICCV, arXiv:2107.03315) and Garg et al.
2022 (arXiv:2201.04234); `benchmarks/research/stated_error.py` compares it with the mean error of left-out batches.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..core.text import listing, percent, plural
from .calibration import Calibration
from .predictions import Predictions

FLOOR = 0.02  # added to doubt and error before they are compared: neither is ever known to be zero
PRIOR_BATCHES = 1.0  # batches in which doubt was right, that the left-out ones are averaged with
# Of the interval: what is uncertain however few errors are stated, as a share of them, and the normal's 95 % quantile.
SPREAD, SPREAD_OF_ERROR, NORMAL = 0.03, 0.4, 1.645
# Of the share of cells flagged beyond the left-out batches' and not noticed of a new type: how much higher the interval ends. No
# type is taken to be noticed less often than FEWEST_NOTICED, or, where none could be hidden, more often than USUALLY_NOTICED.
OF_UNSEEN, FEWEST_NOTICED, USUALLY_NOTICED, FEWEST_ASSIGNED = 2.0, 0.3, 0.7, 0.2
OF_MISSING = 0.15  # of the share of features that a file lacks, that the interval is wider
WORTH_SAYING = 0.01  # share of labels that are wrong at random, or of cells
MOST_NAMES = 5  # of batches that are named
MOST_NOISE = 0.5  # of labels wrong at random: where more is contradicted, batches mean different things by their labels


@dataclass(frozen=True)
class ExpectedError:
    """The share of wrong cells to expect among the assigned ones, between which shares it probably is, and what it rests on."""

    value: float | None
    range: tuple[float, float] | None
    basis: str
    unseen: float = 0.0  # by how much the range ends higher since there may be a new type


def expected_error(predictions: Predictions, calibration: Calibration | None) -> ExpectedError:
    """Return the error to expect among the assigned cells of a batch without labels.

    Parameters
    ----------
    predictions
        Of the batch, judged by the calibration's rule.
    calibration
        Of the mode in which the batch was annotated; None where no annotated batch was left out.

    Returns
    -------
    None and the reason if there is a single annotated batch, no batch was left out, or no cell is assigned. A cell type that no
    annotated batch has is not in the number.
    """
    assigned = predictions.confidence[~predictions.rejected]
    if calibration is None:
        return ExpectedError(None, None, "No annotated batch was left out, so nobody can say.")
    if calibration.n_annotated == 1:
        alone = (
            "There is a single annotated batch, so no batch could be left out to see how well a new one is annotated."
        )
        return ExpectedError(None, None, alone)
    if not len(assigned):
        return ExpectedError(None, None, "No cell was assigned.")
    if not any("doubt_among_assigned" in row for row in calibration.batches):
        older = "The model was saved by an earlier version, which did not keep how doubt and error compared."
        return ExpectedError(None, None, older)
    checked = [row for row in calibration.batches if row.get("doubt_among_assigned") is not None]
    doubt = 1 - math.fsum(assigned) / len(assigned)  # the same in any order of the cells
    errors = sum(row.get("error_of_known_types", row["error_among_assigned"]) for row in checked)
    doubts = sum(row["doubt_among_assigned"] for row in checked)
    power = len(checked) / (len(checked) + PRIOR_BATCHES)
    value = min(1.0, doubt * ((errors + FLOOR) / (doubts + FLOOR)) ** power)
    variance = SPREAD**2 + (SPREAD_OF_ERROR * value) ** 2 + max(value, 0.01) * (1 - value) / len(assigned)
    half = NORMAL * float(np.sqrt(variance))
    low, high = max(0.0, value - half), min(1.0, value + half)
    # Labels that are wrong at random make the model look wrong, and unsure, where it is not.
    noise = min(calibration.noise, MOST_NOISE)
    value, low, high = (max(0.0, (share - noise) / (1 - noise)) for share in (value, low, high))
    value, low, high = (1 - (1 - share) * (1 - calibration.dropped) for share in (value, low, high))
    unseen = unseen_types(predictions, calibration)
    known, high = high, min(1.0, high + OF_UNSEEN * unseen)
    n_cells, share = sum(row["cells"] for row in checked), [row["checked"] for row in checked if "checked" in row]
    of_labelled = f", {percent(float(np.mean(share)))} of the labelled ones" if share and np.mean(share) < 1 else ""
    basis = (
        f"Computed from the confidence of the {len(assigned):,} assigned cells of this batch, and from the errors on "
        f"{plural(len(checked), 'annotated batch that was', 'annotated batches that were')} left out of training in turn "
        f"({n_cells:,} of their cells could be checked{of_labelled}). "
    )
    if noise >= WORTH_SAYING:
        basis += f"About {percent(noise)} of the labels seem to be wrong at random: not counted as errors. "
    if calibration.dropped:
        basis += f"{percent(calibration.dropped)} of the labelled cells are of types too rare to be learned: added as errors. "
    if unseen >= WORTH_SAYING:
        basis += (
            "More cells are unlike the reference than in the left-out batches. If they are of a new type, others of that type "
            "may have been given a name: the interval reaches higher for it. "
        )
    return ExpectedError(
        value, (low, high), f"{basis}Cells of types that no annotated batch has are not in the number.", high - known
    )


def unseen_types(predictions: Predictions, calibration: Calibration) -> float:
    """Return how many cells of unseen types may be among the assigned ones, as a share of these, from how many were flagged.

    It is the share of cells flagged beyond that of the left-out batches, times the share of a new type's cells that is not
    noticed: the mean over the annotated types, each hidden in turn (`Calibration.noticed`). Flagged cells need not be of a new type,
    so this counts for the end of the interval and not for the error (benchmarks/README.md).
    """
    if predictions.unlike is None or not (~predictions.rejected).any():
        return 0.0
    flagged = max(0.0, float(predictions.unlike.mean()) - (calibration.mean("unlike_reference") or 0.0))
    noticed = float(np.mean(list(calibration.noticed.values()))) if calibration.noticed else USUALLY_NOTICED
    return flagged * (1 - max(noticed, FEWEST_NOTICED)) / max(float((~predictions.rejected).mean()), FEWEST_ASSIGNED)


def pooled_error(parts: Mapping[str, tuple[ExpectedError, int]]) -> ExpectedError:
    """Return the error to expect among all assigned cells of several batches: name -> its error and number of assigned cells.

    The batches share what is odd about the model, so the ends of their intervals are averaged and nothing is gained by there being
    many. None where it is None for a batch with assigned cells.
    """
    counted = {name: part for name, part in parts.items() if part[1]}
    errors = [error for error, _ in (counted or parts).values()]
    if len(counted) < 2:
        return errors[0]
    known = [
        (error.value, *error.range, error.unseen)
        for error in errors
        if error.value is not None and error.range is not None
    ]
    if len(known) < len(errors):
        return next(error for error in errors if error.value is None)
    cells = np.array([n for _, n in counted.values()])
    value, low, high, unseen = np.average(known, axis=0, weights=cells).tolist()
    name, basis = next(iter(counted)), errors[0].basis
    names = listing(counted, MOST_NAMES, quoted=False)
    words = f"This is the mean over these parts of the file, the larger ones counting more: {names}. For {name}: {basis[:1].lower()}{basis[1:]}"
    return ExpectedError(value, (low, high), words, unseen)


def beside_alignment(error: ExpectedError, changed: float, aligned: ExpectedError) -> ExpectedError:
    """Return the error of a batch that was not aligned, given what alignment would change.

    Of two different answers at least one is wrong. Where they differ, the one after alignment is taken to be right as often as is stated of it;
    where they agree, both are wrong as often as it is. The confidence of a batch that lies apart says nothing of that.

    Parameters
    ----------
    changed
        Share of the assigned cells that would get another type.
    aligned
        The error to expect after alignment.
    """
    if error.value is None or error.range is None or aligned.value is None or aligned.range is None:
        return error
    if changed < WORTH_SAYING:
        return error
    value = changed * (1 - aligned.value) + (1 - changed) * aligned.value
    if value <= error.value:
        return error
    low, high = (
        max(error.range[0], changed - aligned.range[1]),
        min(1.0, max(error.range[1], changed + aligned.range[1])),
    )
    words = f"{percent(changed)} of the assigned cells would get another type if the batch were aligned, and at least one of the two is wrong: added as errors."
    return replace(error, value=value, range=(min(low, value), max(high, value)), basis=f"{error.basis} {words}")


def widened(error: ExpectedError, missing: float) -> ExpectedError:
    """Return an error whose interval allows for the share of the model's features that a file lacks.

    Left-out batches lack none, so they say nothing of it. Where 20 to 80 % are missing, up to 0.15 times that share more of the
    assigned cells are wrong (benchmarks/README.md, "A saved model on a new file").
    """
    if error.range is None or missing <= 0:
        return error
    low, high = error.range
    basis = f"{error.basis} {percent(missing)} of the model's features are not in the file, for which the interval is wider."
    return replace(error, range=(low, min(1.0, high + OF_MISSING * missing)), basis=basis)
