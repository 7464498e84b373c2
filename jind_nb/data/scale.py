"""TODO."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import sparse

from ..errors import InputError
from .recognise import FORMULAS, LOGARITHMS, NEGATIVE, Evidence, invert

COUNTS_PER_CELL = 10_000.0

# Totals over a subset of the features differ between batches of one scale, but not by as much as scales do.
SAME_TOTALS, SAME_SPREAD = 4.0, 3.0


# --- one scale for all batches ---------------------------------------------------------------------------------------

RESCALED = "log1p of counts per 10,000"


def agree(evidence: Mapping[str, Evidence], wanted: str) -> dict[str, Any]:
    """The one scale that the batches are brought to.

    Parameters
    ----------
    evidence
        Of each batch that takes part.
    wanted
        NORMALISATION: `auto`, `counts`, `log1p` or `as_is`.

    Returns
    -------
    Plain values: `scale` (in words), `values` (`log1p` or `as they are`), `total` (float: what the cells come to on
    the linear scale; None: not known), `rescaled` (bool: whether every cell was brought to that total), `mean`, `sd`
    (float, over all values as they were), `normalisation` (as wanted), `kinds` (sorted, as found).

    Raises
    ------
    InputError
        For negative values where they make no sense, or batches of kinds that cannot be brought together.
    """
    kinds = sorted({found.kind for found in evidence.values()})
    found: dict[str, Any] = {
        "normalisation": wanted,
        "kinds": kinds,
        "mean": float(np.median([e.mean for e in evidence.values()])),
        "sd": float(np.median([e.sd for e in evidence.values()])),
    }
    as_they_are = {"values": "as they are", "total": None, "rescaled": False} | found
    if wanted == "as_is":
        return {"scale": f"as they are: {' and '.join(kinds)}"} | as_they_are
    if wanted in ("counts", "log1p"):
        for name, of_batch in evidence.items():
            if of_batch.kind in NEGATIVE:
                raise InputError(_negative(name, of_batch, wanted))
        if wanted == "counts":
            return {"scale": RESCALED, "values": "log1p", "total": COUNTS_PER_CELL, "rescaled": True} | found
        return {"scale": "log1p, as they are", "values": "log1p", "total": None, "rescaled": False} | found
    if all(e.linear or e.logarithm for e in evidence.values()):
        if all(e.logarithm for e in evidence.values()) and _same_totals(list(evidence.values())):
            totals = [e.total for e in evidence.values()]
            total = float(np.median([t for t in totals if t])) if all(totals) else None
            of = "" if total is None else f" of values that add up to {total:,.6g} in a cell"
            scale = f"log1p{of}, as in the file"
            return {"scale": scale, "values": "log1p", "total": total, "rescaled": False} | found
        return {"scale": RESCALED, "values": "log1p", "total": COUNTS_PER_CELL, "rescaled": True} | found
    if _same_unknown_scale(list(evidence.values())):
        return {"scale": f"as they are: {' and '.join(kinds)}"} | as_they_are
    raise InputError(_cannot_be_compared(evidence))


def _same_totals(evidence: list[Evidence]) -> bool:
    if all(e.total is not None for e in evidence):
        totals = [e.total or 0.0 for e in evidence]
        return max(totals) <= min(totals) * 1.05
    medians = [e.median_total for e in evidence if e.median_total > 0]
    return not medians or max(medians) <= SAME_TOTALS * min(medians)


def _same_unknown_scale(evidence: list[Evidence]) -> bool:
    """Whether values of no known scale are at least of the same one in all batches."""
    if not (all(e.kind in NEGATIVE for e in evidence) or all(e.kind == "unknown" or e.logarithm for e in evidence)):
        return False
    sd = [e.sd for e in evidence if e.sd > 0]
    apart = max(e.mean for e in evidence) - min(e.mean for e in evidence)
    return bool(sd) and max(sd) <= SAME_SPREAD * min(sd) and apart <= max(sd)


def _negative(name: str, found: Evidence, wanted: str) -> str:
    what = "whole numbers, some negative" if found.kind == "negative counts" else "partly negative"
    return (
        f"The values of batch {name!r} are {what} (the smallest is {found.smallest:g}); they cannot be {wanted}. "
        "Point LAYER to the counts, or set NORMALISATION to as_is to take the values as they are."
    )


def _cannot_be_compared(evidence: Mapping[str, Evidence]) -> str:
    groups: dict[str, list[str]] = {}
    for name, found in evidence.items():
        groups.setdefault(found.kind, []).append(name)
    told = []
    for kind, names in groups.items():
        low = min(evidence[name].smallest for name in names)
        high = max(evidence[name].largest for name in names)
        shown = ", ".join(map(repr, names[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        what = {"negative counts": "whole, some negative, values", "counts": "counts"}.get(kind, f"{kind} values")
        told.append(f"{shown} {'holds' if len(names) == 1 else 'hold'} {what} (from {low:.3g} to {high:.3g})")
    return (
        f"The values of the batches cannot be brought to one scale: {'; '.join(told)}. Point LAYER to values of one "
        "kind in all batches (counts, if the file has them); NORMALISATION as_is takes the values as they are."
    )


def fit(name: str, found: Evidence, wanted: str, trained: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The scale of a saved model, as one batch of a new file is brought to it, and what to warn of.

    Parameters
    ----------
    wanted
        NORMALISATION; `auto` also takes the training run's, where the values look like that run's.
    trained
        What `agree` gave for the training run.

    Raises
    ------
    InputError
        If the values cannot be brought to the model's scale.
    """
    said: list[str] = []
    if wanted == "auto" and found.kind in trained["kinds"]:
        wanted = trained["normalisation"]
    scale = dict(trained) | {"normalisation": wanted}
    if trained["values"] == "as they are":
        same_sign = (found.kind in NEGATIVE) == any(kind in NEGATIVE for kind in trained["kinds"])
        sd = trained["sd"]
        same_spread = sd / SAME_SPREAD <= found.sd <= sd * SAME_SPREAD and abs(found.mean - trained["mean"]) <= sd
        if wanted != "as_is" and not (same_sign and same_spread):
            raise InputError(_not_the_models(name, found, trained))
        return scale | {"rescaled": False}, said
    if wanted == "as_is" or (wanted == "log1p" and found.kind not in NEGATIVE):
        return scale | {"rescaled": False, "values": "as they are"}, said
    if not (found.linear or found.logarithm):
        raise InputError(_not_the_models(name, found, trained))
    if trained["rescaled"] or wanted == "counts":
        return scale | {"rescaled": True, "total": trained["total"] or COUNTS_PER_CELL}, said
    alike = found.total is None or trained["total"] is None or abs(found.total - trained["total"]) < 0.05 * found.total
    if found.logarithm and alike:
        return scale, said
    if trained["total"] is None:
        said.append(
            f"The model was trained on logarithms whose cells have different totals; {name!r} ({found.kind}) was brought "
            "to counts per 10,000 over all its features, which may not be quite the same scale."
        )
    return scale | {"rescaled": True, "total": trained["total"] or COUNTS_PER_CELL}, said


def _not_the_models(name: str, found: Evidence, trained: Mapping[str, Any]) -> str:
    return (
        f"PRETRAINED_MODEL_PATH: the model was trained on values that are {trained['scale']}, and those of {name!r} are "
        f"{found.kind} (from {found.smallest:.3g} to {found.largest:.3g}). Point LAYER to values of the same kind."
    )


def done(found: Evidence, scale: Mapping[str, Any]) -> str:
    """What `bring` does to a batch, in words."""
    if scale["rescaled"]:
        inverted = f"{FORMULAS[found.kind]}, " if _inverts(found, scale) else ""
        return f"{inverted}counts per {scale['total']:,.6g}, log1p"
    if _changes_base(found, scale):
        return "brought to natural logarithms"
    return "left as they are"


def _inverts(found: Evidence, scale: Mapping[str, Any]) -> bool:
    return found.logarithm and scale["normalisation"] != "counts"


def _changes_base(found: Evidence, scale: Mapping[str, Any]) -> bool:
    natural = scale["values"] == "log1p" and scale["normalisation"] == "auto"
    return natural and found.logarithm and found.kind != "log1p"


def bring(matrix: sparse.csr_matrix, found: Evidence, scale: Mapping[str, Any]) -> sparse.csr_matrix:
    """A batch's values on the agreed scale: float32, same shape.

    `rescaled`: log(1 + total x value / (the cell's total + 1e-5)), method.md section 1, the cell's total over the
    given features; logarithms are inverted first. Else logarithms become natural ones, and all others stay.
    """
    if scale["rescaled"]:
        if _inverts(found, scale):
            matrix = matrix.copy()
            matrix.data = invert(matrix.data, found.kind)
        return to_log_counts(matrix, scale["total"])
    if _changes_base(found, scale):
        matrix = matrix.copy()
        matrix.data = (matrix.data * LOGARITHMS[found.kind]).astype(np.float32)
    return matrix


def to_log_counts(matrix: sparse.csr_matrix, per_cell: float = COUNTS_PER_CELL) -> sparse.csr_matrix:
    """log(1 + per_cell x value / (the cell's total + 1e-5)), float32."""
    totals = np.asarray(matrix.sum(axis=1, dtype=np.float64)).ravel()
    values = np.repeat(per_cell / (totals + 1e-5), np.diff(matrix.indptr))
    values *= matrix.data
    np.log1p(values, out=values)
    return sparse.csr_matrix((values.astype(np.float32), matrix.indices.copy(), matrix.indptr.copy()), matrix.shape)
