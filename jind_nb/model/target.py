"""Annotating a batch without labels, whatever the METHOD: before alignment, and after each stage of alignment."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import sparse
from torch import Tensor

from ..core.sparse_rows import for_products, product, sums_and_squares
from ..core.subsample import subsample
from ..data.fingerprints import own_order
from .doublets import Doublets, find_doublets
from .mixture import mixed
from .neighbours import Neighbours, nearest
from .networks import Annotator, encode, no_subnormal_numbers
from .new_types import directions
from .predictions import Predictions, Rule
from .state import AlignmentMode, Annotated, KnownLatents, Reference, Settings, TargetStage

log = logging.getLogger(__name__)

MOST_LATENTS = 20_000  # of training cells, 1 kB each
MOST_TRIED = 2_000  # cells of a batch that is not aligned, which alignment is tried on
MOST_COMPARED = 5_000  # training cells that a cell is compared with, all types together
FEWEST_OF_A_TYPE = 50


def known_latents(reference: Reference) -> KnownLatents:
    """Return the latents of annotated cells, by their own batches' annotators; at most 20,000 training cells, at random."""
    names, n_classes = list(reference.batches), len(reference.classes)
    training = {name: np.flatnonzero(~cells.held_out) for name, cells in reference.batches.items()}
    batch = np.repeat(np.arange(len(names)), [len(training[name]) for name in names])
    rows = np.concatenate(list(training.values()))
    chosen = subsample(len(rows), MOST_LATENTS, reference.settings.seed)
    batch, rows = batch[chosen], rows[chosen]
    of_batches = [(name, cells, rows[batch == i]) for i, (name, cells) in enumerate(reference.batches.items())]
    return KnownLatents(
        method=reference.settings.method,
        classes=reference.classes,
        batches=names,
        latent=np.concatenate([reference.latent(name, of_batch) for name, _, of_batch in of_batches]),
        batch=batch,
        y=np.concatenate([cells.y[of_batch] for _, cells, of_batch in of_batches]),
        held_out=reference.held_out_latent(),
        counts=np.bincount(np.concatenate([cells.y for cells in reference.batches.values()]), minlength=n_classes),
        novelty_limit=reference.settings.method.NOVELTY,
    )


def in_own_order(x: sparse.csr_matrix, annotate: Callable[[sparse.csr_matrix], Annotated]) -> Annotated:
    """Annotate a batch's cells, float32 (n, p), in an order that their values give them; return them as they came.

    So a cell's answer does not depend on the row it stands in.
    """
    order = own_order(x)
    return annotate(x[order]).subset(np.argsort(order))


def annotate_before_alignment(
    shared: Annotator, x: sparse.csr_matrix, known: KnownLatents, settings: Settings
) -> Annotated:
    """Annotate a batch by the annotated batches' model as it is.

    Parameters
    ----------
    shared
        The shared encoder and classifier, without an adapter.
    x
        The batch's cells, float32 (n, p).
    """
    with no_subnormal_numbers():
        return annotate_latent(shared, encode(shared, x, settings.device), known, settings)


def annotate_latent(shared: Annotator, latent: np.ndarray, known: KnownLatents, settings: Settings) -> Annotated:
    """Annotate cells whose latents, float32 (n, d), are known already, as `annotate_before_alignment` does."""
    near = known.method.neighbours(latent, settings)
    novel = known.method.novelty(shared, latent, known, settings, near)
    rule = known.rules.get(AlignmentMode.UNALIGNED, Rule())
    first = predict(shared, latent, known, settings, rule, Surroundings(novel, near))
    return Annotated(shared, {TargetStage.BEFORE: first}, {TargetStage.BEFORE: latent}, novel)


def by_nearest(latent: np.ndarray, annotated: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return how unlike the annotated cells each cell is: the cosine distance from its latent to the fifth nearest annotated
    cell's, float (n,) in 0 to 2.

    Of each type an equal number of annotated cells stands for it, so that a common type does not crowd out a rare one.
    benchmarks/README.md compares scores.

    Parameters
    ----------
    latent, annotated
        Float (n, c) and (m, c).
    y
        The types of the annotated cells, int (m,).
    """
    types = np.unique(y)
    most = max(FEWEST_OF_A_TYPE, MOST_COMPARED // len(types))
    rows = [np.flatnonzero(y == k) for k in types]
    chosen = np.concatenate([of_type[subsample(len(of_type), most, 0)] for of_type in rows])
    distance: np.ndarray = np.maximum(0, 1 - nearest(latent, annotated[chosen], 5)[1][:, -1])
    return distance


@dataclass(frozen=True)
class Surroundings:
    """What is known of where a batch's cells lie, before a model answers for them."""

    novelty: np.ndarray | None = None  # (n,)
    neighbours: Neighbours | None = None


def predict(
    model: Annotator,
    latent: np.ndarray,
    known: KnownLatents,
    settings: Settings,
    rule: Rule = Rule(),  # noqa: B008 - frozen
    surroundings: Surroundings = Surroundings(),
) -> Predictions:
    """Return what a model says of the latents (n, d) of one batch's cells, and what a rule makes of it.

    Parameters
    ----------
    rule
        By default class-wise thresholds, the probabilities as they are, and the METHOD's prior weights of its members.
    surroundings
        Their neighbours are those of these latents; None if they are not known.
    """
    weights = rule.weights or known.method.prior_weights()
    probabilities = known.method.predict_proba(model, latent, weights, settings, surroundings.neighbours)
    held_out = mixed(known.method.members_of_held_out(model, known, settings), weights)
    return Predictions.by(rule, known.classes, probabilities, held_out, settings.theta, surroundings.novelty)


def align(annotated: Annotated, x: sparse.csr_matrix, known: KnownLatents, settings: Settings) -> None:
    """Give a batch its own adapter, as the model's METHOD does it; for a saved model that need not be the run's METHOD."""
    if settings.align:
        known.method.align(annotated, x, known, settings)
    else:
        annotated.notes.append("ALIGN is false: the target was not aligned.")
    reject_strange(annotated, np.diff(x.indptr) == 0, like_no_type(x, known))


def try_alignment(shared: Annotator, latent: np.ndarray, known: KnownLatents, settings: Settings) -> Annotated | None:
    """Annotate at most 2,000 cells of a batch that is not to be aligned both ways, to see how much alignment would change.

    None where there are none, alignment trains something, or was not measured on left-out batches.

    Parameters
    ----------
    latent
        Of the batch's cells, float32 (n, d), in an order of their own.
    """
    if not len(latent) or not known.method.ALIGNS_LATENTS or AlignmentMode.ALIGNED not in known.rules:
        return None
    some = latent[subsample(len(latent), MOST_TRIED, settings.seed)]
    tried = annotate_latent(shared, some, known, settings)
    known.method.align(tried, sparse.csr_matrix((len(some), 0), dtype=np.float32), known, settings)
    return tried


def changed_by_alignment(tried: Annotated) -> float:
    """Return the share of the cells assigned before alignment that have another most probable type after it."""
    before, assigned = tried.stages[TargetStage.BEFORE], ~tried.stages[TargetStage.BEFORE].rejected
    return float((before.raw[assigned] != tried.final.raw[assigned]).mean()) if assigned.any() else 0.0


def add_stage(
    annotated: Annotated, stage: TargetStage, latent: np.ndarray, known: KnownLatents, settings: Settings
) -> None:
    """Add what the batch's model says now as a further stage; the cells' latents are float32 (n, d)."""
    annotated.latent[stage] = latent
    annotated.mode = AlignmentMode.ALIGNED
    rule = known.rules.get(AlignmentMode.ALIGNED)
    if rule is None and AlignmentMode.UNALIGNED in known.rules:
        rule = known.rules[AlignmentMode.UNALIGNED]
        note = "The model's calibration was never measured after alignment; that without alignment is used."
        annotated.notes += [note] if note not in annotated.notes else []
    around = Surroundings(annotated.novelty)
    predictions = predict(annotated.model, latent, known, settings, rule or Rule(), around)
    annotated.stages[stage] = predictions
    if rule is not None:  # else the thresholds are yet to be learned from this batch, which is left out
        log.info("%s: %d of %d cells Unassigned", stage, predictions.rejected.sum(), len(latent))


def reject_strange(annotated: Annotated, empty: np.ndarray, strange: np.ndarray) -> None:
    """Reject at every stage cells without any value and cells that are like no type, bool (n,) each, whatever the model says."""
    if not (empty | strange).any():
        return
    for stage, predictions in annotated.stages.items():
        unlike = strange if predictions.unlike is None else predictions.unlike | strange
        annotated.stages[stage] = replace(predictions, unlike=unlike, empty=empty)


def look_for_doublets(annotated: Annotated, x: sparse.csr_matrix, settings: Settings) -> None:
    """Reject at every stage the cells of a batch, float32 (n, p), that seem to be two cells, if DOUBLETS asks for it."""
    if settings.doublets:
        doublets, note = find_doublets(x, settings.seed)
        annotated.notes.append(note)
        reject_doublets(annotated, doublets)


def reject_doublets(annotated: Annotated, doublets: Doublets) -> None:
    """Reject at every stage the cells that were called doublets."""
    annotated.doublets = doublets
    for stage, predictions in annotated.stages.items():
        annotated.stages[stage] = replace(predictions, doublet=doublets.called)


def like_no_type(x: sparse.csr_matrix, known: KnownLatents, here: np.ndarray | None = None) -> np.ndarray:
    """Return which cells (n, p) are like no annotated type, bool (n,): constants, noise, features under wrong names. None where a
    METHOD, or a model that an earlier version saved, does not ask. `here`: see `Profiles.unlike`."""
    return np.zeros(x.shape[0], dtype=bool) if known.profiles is None else known.profiles.unlike(x, here)


def encode_and_compare(
    shared: Annotator, known: KnownLatents, settings: Settings
) -> Callable[[sparse.csr_matrix], tuple[np.ndarray, np.ndarray]]:
    """Return a function of cells (n, p) that gives what `encode` and, by all features, `like_no_type` do: by one product of the
    cells for both, where both need one."""
    of_product: Callable[[np.ndarray, np.ndarray], Tensor] | None = getattr(shared.encoder, "of_product", None)
    profiles = known.profiles
    if of_product is None or profiles is None or settings.device.type != "cpu":
        return lambda x: (encode(shared, x, settings.device), like_no_type(x, known, np.ones(x.shape[1], dtype=bool)))
    weight, of_types = shared.encoder.state_dict()["weight"].numpy(), directions(profiles.means)
    d, both = weight.shape[1], for_products(np.hstack([weight, of_types]))

    def of_cells(x: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
        products = product(x, both)
        of_types_alone = products[:, d : d + of_types.shape[1]]
        sums, squares = sums_and_squares(x)
        unlike = profiles.unlike_by(of_types_alone, sums, squares)
        return of_product(products[:, :d], squares).numpy(), unlike

    return of_cells


def notes_table(annotated: Annotated) -> pd.DataFrame:
    """Return what was done to align the target and why, in words."""
    return pd.DataFrame({"note": annotated.notes})
