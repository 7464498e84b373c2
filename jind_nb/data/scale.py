"""The common scale: which one all batches are brought to, and the values of a batch on it.

scale = common_scale(evidence, "auto")                      # evidence: batch -> recognise(its values)
values = to_common_scale(matrix, evidence[batch], scale)
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from scipy import sparse

from ..core.model_json import CommonScale, Normalisation
from ..core.sparse_rows import select_columns
from ..core.text import listing
from ..errors import InputError
from .recognise import FORMULAS, LOGARITHMS, MOST_IN_SITU, NEGATIVE, Evidence, invert

COUNTS_PER_CELL = 10_000.0

# As of "transcripts per million": values that are no counts, such as imputed ones, may look like any number of them.
MOST_PER_CELL = 1_000_000.0

# Logarithms whose totals are not known stay as they are, unless cells hold fewer counts: at their total one count and two would
# look alike.
FEW_COUNTS = 700.0

# Counts are brought to so many units of volume (of cubic micrometres, a cell has about as many).
PER_VOLUME = 1_000.0

# Logarithms of values that add up to less (target_sum 1 to 150, also of some of the features) are brought to 10,000.
SMALL_TOTAL = 200.0

# Totals over a subset of the features differ between batches of one scale, but not by as much as scales do.
SAME_TOTALS, SAME_SPREAD = 4.0, 3.0

Scale = TypeVar("Scale", bound=CommonScale)


@dataclass(frozen=True)
class Wanted:
    """Say which features of a matrix are returned, and which count in a cell's total."""

    columns: np.ndarray | None = None  # positions; -1: a column of zeros; None: all as they are
    counted: np.ndarray | None = None  # bool (n_features,); None: all


EVERYTHING = Wanted()


def common_scale(evidence: Mapping[str, Evidence], normalisation: Normalisation, unclear: str = "log1p") -> CommonScale:
    """Return the scale that all batches are brought to.

    Parameters
    ----------
    evidence
        Of each batch that takes part.
    normalisation
        NORMALISATION: `auto`, `counts`, `log1p`, `clr`, `panel`, `volume` or `as_is`.
    unclear
        The value type that logarithms of an unknown base were taken for.

    Raises
    ------
    InputError
        If values are negative where they must not be, or the batches cannot be brought to one scale.
    """
    batches = list(evidence.values())
    value_types = sorted({batch.value_type for batch in batches})

    untouched = CommonScale(
        scale=f"as they are: {' and '.join(value_types)}",
        values="as they are",
        total=None,
        rescaled=False,
        normalisation=normalisation,
        kinds=value_types,
        mean=float(np.median([batch.mean for batch in batches])),
        sd=float(np.median([batch.sd for batch in batches])),
        unclear=unclear,
    )
    log1p = replace(untouched, values="log1p", scale="log1p, as they are")
    per_10_000 = replace(log1p, scale="log1p of counts per 10,000", total=COUNTS_PER_CELL, rescaled=True)
    clr = replace(untouched, values="clr", scale="centred log ratios within each cell")
    volume = replace(untouched, values="volume", scale="log1p of counts divided by the cell's volume")
    if normalisation in ("as_is", "panel"):
        return untouched
    if normalisation in ("counts", "log1p", "clr", "volume"):
        for name, batch in evidence.items():
            if batch.value_type in NEGATIVE:
                what = "whole numbers, some negative" if batch.value_type == "negative counts" else "partly negative"
                raise InputError(
                    f"The values of batch {name!r} are {what} (the smallest is {batch.smallest:g}); they cannot be "
                    f"{normalisation}. Point LAYER to the counts, or set NORMALISATION to as_is to use them as they are."
                )
        return {"counts": per_10_000, "log1p": log1p, "clr": clr, "volume": volume}[normalisation]
    if all(batch.is_logarithm for batch in batches) and _same_totals(batches) and not _small_totals(batches):
        totals = [batch.total for batch in batches]
        total = float(np.median([t for t in totals if t])) if all(totals) else None
        of = "" if total is None else f" of values that add up to {total:,.7g} in a cell"
        taken = "as in the file" if value_types == ["log1p"] else f"from {' and '.join(value_types)} in the file"
        return replace(log1p, scale=f"log1p{of}, {taken}", total=total)
    if all(batch.is_linear or batch.is_logarithm for batch in batches):
        if any(batch.value_type == "antibody counts" for batch in batches):
            return clr
        if all(_is_in_situ(batch) for batch in batches):
            return volume
        return per_10_000
    if _same_unknown_scale(batches):
        return untouched
    raise _no_common_scale(evidence)


def scale_of_counts(scale: CommonScale, counts: Mapping[str, np.ndarray]) -> CommonScale:
    """Return the scale with the annotated batches' median count, at most a million, as its total.

    At 10,000 one count and two would look alike in a cell of a hundred, and one count like none in a cell of a million
    (benchmarks/README.md).

    Parameters
    ----------
    counts
        `counts_in_cells` of each annotated batch, over the features that are used.
    """
    medians = [np.nanmedian(of_batch) for of_batch in counts.values() if not np.isnan(of_batch).all()]
    if scale.values != "log1p" or scale.normalisation not in ("auto", "counts") or not medians:
        return scale
    median = float(np.exp(np.median(np.log(medians))))  # technologies differ by powers of ten
    if scale.total is None and median >= FEW_COUNTS:
        return scale
    total = min(max(1.0, float(round(median))), MOST_PER_CELL)
    return replace(scale, total=total, rescaled=True, scale=f"log1p of counts per {total:,.7g}")


def counts_in_cells(matrix: sparse.csr_matrix, batch: Evidence, scale: CommonScale) -> np.ndarray:
    """Return how many counts each cell holds if the smallest of its values stands for one, float64 (n,); NaN for an empty cell.

    So it is the same for counts, for shares of a cell's total and for their logarithms.
    """
    linear = invert(matrix.data, batch.value_type) if _is_inverted(batch, scale) else matrix.data
    found, filled = np.full(matrix.shape[0], np.nan), np.diff(matrix.indptr) > 0
    if filled.any():
        starts = matrix.indptr[:-1][filled]
        sums = np.add.reduceat(linear.astype(np.float64), starts)
        smallest = np.minimum.reduceat(np.where(linear > 0, linear, np.inf), starts)
        found[filled] = np.where(np.isfinite(smallest), sums / smallest, np.nan)
    return found


def _is_in_situ(batch: Evidence) -> bool:
    return batch.value_type == "counts per volume" or (_is_divided(batch) and batch.n_features <= MOST_IN_SITU)


def _small_totals(batches: list[Evidence]) -> bool:
    """Return whether logarithms are of values so small that log(1 + x) is nearly x: they separate no types."""
    return all(batch.clear and (batch.total or batch.median_total) < SMALL_TOTAL for batch in batches)


def _same_totals(batches: list[Evidence]) -> bool:
    if all(batch.total is not None for batch in batches):
        totals = [batch.total or 0.0 for batch in batches]
        return max(totals) <= min(totals) * 1.05
    medians = [batch.median_total for batch in batches if batch.median_total > 0]
    return not medians or max(medians) <= SAME_TOTALS * min(medians)


def _same_unknown_scale(batches: list[Evidence]) -> bool:
    """Return whether values of no known scale are at least on the same one in all batches."""
    negative = all(batch.value_type in NEGATIVE for batch in batches)
    panel = all(batch.value_type == "panel" for batch in batches)
    if not negative and not panel and not all(batch.value_type == "unknown" or batch.is_logarithm for batch in batches):
        return False
    sd, means = [batch.sd for batch in batches if batch.sd > 0], [batch.mean for batch in batches]
    return bool(sd) and max(sd) <= SAME_SPREAD * min(sd) and max(means) - min(means) <= max(sd)


def by_value_type(evidence: Mapping[str, Evidence]) -> dict[str, dict[str, Evidence]]:
    """Return the batches of each value type, types and batches in the order of `evidence`."""
    types = dict.fromkeys(batch.value_type for batch in evidence.values())
    return {kind: {name: batch for name, batch in evidence.items() if batch.value_type == kind} for kind in types}


def _no_common_scale(evidence: Mapping[str, Evidence]) -> InputError:
    words = {"negative counts": "whole, some negative, values", "counts": "counts"}
    parts = []
    for value_type, batches in by_value_type(evidence).items():
        low, high = min(b.smallest for b in batches.values()), max(b.largest for b in batches.values())
        holds = f"{'holds' if len(batches) == 1 else 'hold'} {words.get(value_type, f'{value_type} values')}"
        parts.append(f"{listing(batches, 10)} {holds} (from {low:.3g} to {high:.3g})")
    return InputError(
        f"The values of the batches cannot be brought to one scale: {'; '.join(parts)}. Point LAYER to values of one "
        "type in all batches (counts, if the file has them); NORMALISATION as_is uses the values as they are."
    )


def scale_for_model(
    name: str, batch: Evidence, normalisation: Normalisation, trained: Scale
) -> tuple[Scale, list[str]]:
    """Return how one batch of a new file is brought to a saved model's scale, and warnings.

    Parameters
    ----------
    name, batch
        The batch, and what its values look like.
    normalisation
        NORMALISATION. `auto` stands for the training run's, if the values look like that run's.
    trained
        The common scale of the training run.

    Raises
    ------
    InputError
        If the values cannot be brought to the model's scale.
    """
    if normalisation == "auto" and batch.value_type in trained.kinds:
        normalisation = trained.normalisation
    scale = replace(trained, normalisation=normalisation)
    if trained.values == "as they are":
        same_sign = (batch.value_type in NEGATIVE) == any(value_type in NEGATIVE for value_type in trained.kinds)
        same_sign |= "panel" in trained.kinds and not batch.is_linear  # a few cells of a panel may look like anything
        same_spread = trained.sd / SAME_SPREAD <= batch.sd <= trained.sd * SAME_SPREAD
        same_mean = abs(batch.mean - trained.mean) <= trained.sd
        if normalisation not in ("as_is", "panel") and not (same_sign and same_spread and same_mean):
            raise _not_the_models(name, batch, trained)
        return replace(scale, rescaled=False), []
    if normalisation in ("as_is", "panel") or (normalisation == "log1p" and batch.value_type not in NEGATIVE):
        return replace(scale, rescaled=False, values="as they are"), []
    if not (batch.is_linear or batch.is_logarithm):
        raise _not_the_models(name, batch, trained)
    if trained.values in ("clr", "volume"):
        return scale, []
    rescaled = replace(scale, rescaled=True, total=trained.total or COUNTS_PER_CELL)
    if trained.rescaled or normalisation == "counts":
        return rescaled, []
    alike = batch.total is None or trained.total is None or abs(batch.total - trained.total) < 0.05 * batch.total
    if batch.is_logarithm and alike:
        return scale, []
    if trained.total is not None:
        return rescaled, []
    brought = f"{name!r} ({batch.value_type}) was brought to counts per 10,000 over all its features"
    may_differ = "The model was trained on logarithms whose cells have different totals"
    return rescaled, [f"{may_differ}; {brought}, which may not be quite the same scale."]


def _not_the_models(name: str, batch: Evidence, trained: CommonScale) -> InputError:
    return InputError(
        f"PATH: the values of {name!r} are {batch.value_type} (from {batch.smallest:.3g} to {batch.largest:.3g}), and the model was "
        f"trained on values that are {trained.scale}. Point LAYER to values of the same type."
    )


def describe_normalisation(batch: Evidence, scale: CommonScale) -> str:
    """Return in words what `to_common_scale` does to a batch."""
    if scale.rescaled:
        inverted = f"{FORMULAS[batch.value_type]}, " if _is_inverted(batch, scale) else ""
        return f"{inverted}counts per {scale.total:,.7g}, log1p"
    if scale.values in ("clr", "volume"):
        inverted = f"{FORMULAS[batch.value_type]}, " if batch.is_logarithm else ""
        if scale.values == "clr":
            return f"{inverted}log1p minus the cell's mean (CLR)"
        return f"{inverted}{'divided by the volume, ' if _is_divided(batch) else ''}log1p"
    return "brought to natural logarithms" if _changes_base(batch, scale) else "left as they are"


def _is_inverted(batch: Evidence, scale: CommonScale) -> bool:
    return batch.is_logarithm and scale.normalisation != "counts"


def _is_divided(batch: Evidence) -> bool:
    # What is not whole was divided by something before.
    return batch.has_volume and batch.value_type in ("counts", "antibody counts")


def _changes_base(batch: Evidence, scale: CommonScale) -> bool:
    return scale.values == "log1p" and scale.normalisation == "auto" and batch.value_type in ("log2", "log10")


def to_common_scale(
    matrix: sparse.csr_matrix,
    batch: Evidence,
    scale: CommonScale,
    volumes: np.ndarray | None = None,
    wanted: Wanted = EVERYTHING,
) -> sparse.csr_matrix:
    """Return a batch's values on the common scale, float32.

    Parameters
    ----------
    volumes
        Of the cells, float64 (n_cells,); None where the file has none.
    wanted
        A cell's mean is over all features of `matrix`.

    Notes
    -----
    If the scale is `rescaled`: log(1 + total x value / (the cell's total + 1e-5)), docs/method_reference.md section 1,
    with the cell's total over the features that count; logarithms are inverted first. If it is `clr`: log(1 + value) minus its
    mean over the cell's features. If it is `volume`: log(1 + 1,000 x count / volume), or log(1 + value) of values that are
    no counts or have no volume. Otherwise logarithms become natural ones, and all other values stay.
    """
    columns = wanted.columns
    if scale.values in ("clr", "volume"):
        linear = invert(matrix.data, batch.value_type)
        if scale.values == "volume" and volumes is not None and _is_divided(batch):
            linear = linear * np.repeat(PER_VOLUME / volumes, np.diff(matrix.indptr))
        logs = sparse.csr_matrix((np.log1p(linear), matrix.indices.copy(), matrix.indptr.copy()), matrix.shape)
        found = _centred_in_cells(logs) if scale.values == "clr" else logs.astype(np.float32)
        return found if columns is None else select_columns(found, columns)
    if scale.rescaled and scale.total is not None:
        if _is_inverted(batch, scale):
            matrix = matrix.copy()
            matrix.data = invert(matrix.data, batch.value_type)
        return to_log_counts(matrix, scale.total, wanted)
    if columns is not None:
        matrix = select_columns(matrix, columns)
    if _changes_base(batch, scale):
        matrix = matrix.copy()
        matrix.data = (matrix.data * LOGARITHMS[batch.value_type]).astype(np.float32)
    return matrix


def _centred_in_cells(logs: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return each value minus the mean of its cell, zeros too, float32.

    Notes
    -----
    The centred log ratio of Stoeckius et al. 2017 with 1 added to each count, within a cell (muon's `prot.pp.clr` with
    axis 1). Seurat's `margin = 2`, over the cells of a batch, would make the values of a cell depend on which other cell
    types its batch has.
    """
    dense = logs.toarray()
    return sparse.csr_matrix((dense - dense.mean(axis=1, keepdims=True)).astype(np.float32))


def to_log_counts(
    matrix: sparse.csr_matrix, per_cell: float = COUNTS_PER_CELL, wanted: Wanted = EVERYTHING
) -> sparse.csr_matrix:
    """Return log(1 + per_cell x value / (the cell's total + 1e-5)), float32, of all features or those that are wanted.

    Notes
    -----
    scanpy's `normalize_total` and `log1p` lack the 1e-5 of the published method.
    """
    counts = matrix if wanted.counted is None else _of_columns(matrix, wanted.counted)
    totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    matrix = matrix.copy() if wanted.columns is None else select_columns(matrix, wanted.columns)
    values = np.repeat(per_cell / (totals + 1e-5), np.diff(matrix.indptr))
    values *= matrix.data
    matrix.data = np.log1p(values, out=values).astype(np.float32)
    return matrix


def _of_columns(matrix: sparse.csr_matrix, chosen: np.ndarray) -> sparse.csr_matrix:
    """Return the matrix without the values of columns that are not chosen, bool (n_features,), the others in the same order.

    So their sums have the same bits as those of a matrix that never had more columns. `select_columns` would take longer: it
    gathers from all places that a cell could have a value in.
    """
    kept = chosen[matrix.indices]
    pointers = np.concatenate([[0], np.cumsum(kept)])[matrix.indptr]
    return sparse.csr_matrix((matrix.data[kept], matrix.indices[kept], pointers), matrix.shape)
