"""When a prediction is too doubtful to keep: class-wise thresholds, and why a cell was rejected."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..core.labels import AMBIGUOUS, CONFIDENT, DOUBLET, NO_VALUES, OUTSIDE, UNASSIGNED, UNLIKE
from .mixture import Weights

NO_EVIDENCE = 0.9

SUREST = 1e-6  # from 0 and 1, of which there are no log odds

# What is left of the confidence of a cell unlike everything annotated: that it is of an annotated type is not likelier than not.
MOST_OF_UNLIKE = 0.5

SHARE_ABOVE = 0.02  # of cells: what they exceed in novelty tells where the limit is

NONE_PASSES = 1.01  # a threshold above every probability


def class_thresholds(probabilities: np.ndarray, theta: float) -> np.ndarray:
    """Return the confidence below which a prediction of each type is rejected (docs/method_reference.md section 3).

    For type k: the top probabilities of the held-out cells whose most probable type is k, ascending, n of them; the
    threshold is the one at 0-based index floor(theta * n) + 1, and 0.9 where there is none.

    Parameters
    ----------
    probabilities
        Of the held-out cells, (n_cells, K).
    theta
        Share of a type's held-out cells to reject, 0 to 1.

    Returns
    -------
    Thresholds float64 (K,).

    >>> class_thresholds(np.array([[0.6, 0.4], [0.7, 0.3], [0.8, 0.2]]), 0.05)
    array([0.7, 0.9])
    """
    top = probabilities.max(axis=1, initial=0.0)
    winner = probabilities.argmax(axis=1)
    thresholds = np.full(probabilities.shape[1], NO_EVIDENCE)
    for k in range(probabilities.shape[1]):
        of_k = np.sort(top[winner == k])
        index = math.floor(theta * len(of_k)) + 1
        if index < len(of_k):
            thresholds[k] = of_k[index]
    return thresholds


def borrowing_thresholds(probabilities: np.ndarray, theta: float) -> np.ndarray:
    """Return thresholds as `class_thresholds` does, where types of few held-out cells borrow from all held-out cells together.

    Of two held-out cells, the published rule rejects what is below the second: half of all new cells of the type, instead of
    theta. Here the threshold of a type with n cells called so is, in log odds, (1 - a) times its own theta-quantile plus a
    times the one of all held-out cells, a = 1 - theta n, and 0 from n = 1 / theta on. Over new cells like the held-out ones
    about theta is rejected, whatever n.

    Parameters
    ----------
    probabilities
        Of the held-out cells, (n_cells, K).
    theta
        Share to reject, 0 to 1.

    Returns
    -------
    Thresholds float64 (K,); 0.9 where there is no held-out cell at all.
    """
    if not len(probabilities):
        return np.full(probabilities.shape[1], NO_EVIDENCE)
    top = np.clip(probabilities.max(axis=1).astype(np.float64), SUREST, 1 - SUREST)
    log_odds, winner = np.log(top / (1 - top)), probabilities.argmax(axis=1)
    thresholds = np.full(probabilities.shape[1], _lower_quantile(log_odds, theta, beyond=True))
    for k in np.unique(winner):
        own = log_odds[winner == k]
        borrowed = max(0.0, 1 - theta * len(own))
        thresholds[k] = (1 - borrowed) * _lower_quantile(own, theta, beyond=False) + borrowed * thresholds[k]
    # A cell that is as sure as the one the threshold is from passes, however log odds were rounded.
    as_probabilities: np.ndarray = 1 / (1 + np.exp(-thresholds)) - SUREST
    return as_probabilities


def _lower_quantile(values: np.ndarray, share: float, *, beyond: bool) -> float:
    """Return what a new value is below with a probability of `share`, if it is one more of the same kind.

    Of n + 1 exchangeable values each place is as likely for the new one, so it is the value at place share (n + 1), between two
    of them by interpolation. Below the first place it is the smallest value or, with `beyond`, one that lies below it as far as
    an exponential tail goes; the tail's scale is that of the lower half, made larger where these are few.
    """
    ordered, place = np.sort(values), share * (len(values) + 1)
    if place >= 1:
        return float(np.interp(place, np.arange(1, len(values) + 1), ordered))
    lower = ordered[: max(2, (len(ordered) + 1) // 2)]
    if not beyond or len(lower) < 2 or place <= 0:
        return float(ordered[0])
    scale = (lower.mean() - lower[0]) * (len(lower) + 2) / (len(lower) - 1)
    return float(ordered[0] + scale * np.log(place))


def within(thresholds: np.ndarray, cap: float | None, floor: float) -> np.ndarray:
    """Return thresholds of which none is above the cap, and none below the floor (`Rule`)."""
    limited: np.ndarray = np.clip(thresholds, floor, np.inf if cap is None else max(cap, floor))
    return limited


def tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return probabilities (n_cells, K) of the same logits divided by a temperature; above 1 makes them less sure.

    >>> tempered(np.array([[0.8, 0.2]]), 2.0).round(3)
    array([[0.667, 0.333]])
    """
    if temperature == 1.0:
        return probabilities
    with np.errstate(divide="ignore"):
        logits = np.log(probabilities.astype(np.float64)) / temperature
    powers = np.exp(logits - logits.max(axis=1, initial=-np.inf, keepdims=True))
    shares: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return shares.astype(probabilities.dtype)


@dataclass(frozen=True)
class Rule:
    """How a model's probabilities become confidence and rejection; learned by `calibration`."""

    temperature: float = 1.0
    threshold: float | None = None  # one for all types (TARGET_ERROR); None: class-wise, from held-out cells
    novelty_threshold: float | None = None  # novelty above which a cell is unlike the reference; None: not asked
    threshold_cap: float | None = None  # no class-wise threshold is above it; None: no cap
    weights: Weights = ()  # of the METHOD's members; empty: its prior
    floor: float = 0.0  # no threshold is below it
    borrows: bool = False  # whether types of few held-out cells borrow from the others: `borrowing_thresholds`
    beside_novel: float = 0.0  # of the novelty that SHARE_ABOVE of a batch's cells exceed: its limit is not below it

    def limit_of(self, novelty: np.ndarray) -> float:
        """Return the novelty above which a cell of a batch, whose cells have these, float (n,), is unlike the reference; infinite if
        that is not asked."""
        if self.novelty_threshold is None:
            return np.inf
        if not self.beside_novel or not len(novelty):
            return self.novelty_threshold
        return max(self.novelty_threshold, self.beside_novel * float(np.quantile(novelty, 1 - SHARE_ABOVE)))


@dataclass(frozen=True)
class Predictions:
    """What a model says of some cells, and what its thresholds make of it.

    >>> p = Predictions(["B", "T"], np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([0.8, 0.8]))
    >>> list(p.raw), list(p.names)
    (['B', 'T'], ['B', 'Unassigned'])
    """

    classes: list[str]  # the K types of the model
    probabilities: np.ndarray  # float (n_cells, K)
    thresholds: np.ndarray  # float (K,)
    unlike: np.ndarray | None = None  # bool (n_cells,): unlike anything annotated; None: not asked
    # Float (m, K), probabilities of held-out cells from which, with theta, the thresholds come; None: from elsewhere.
    held_out: np.ndarray | None = None
    theta: float = 0.0
    threshold_cap: float | None = None  # no class-wise threshold is above it
    floor: float = 0.0  # no threshold is below it
    outside: np.ndarray | None = None  # bool (n_cells,): more probably of none of TYPES than of one; None: not asked
    borrows: bool = False  # whether types of few held-out cells borrow from the others
    empty: np.ndarray | None = None  # bool (n_cells,): without any value, so that nothing is known; None: not asked
    doublet: np.ndarray | None = None  # bool (n_cells,): seems to be two cells; None: not asked

    @classmethod
    def by(
        cls,
        rule: Rule,
        classes: list[str],
        probabilities: np.ndarray,
        held_out: np.ndarray,
        theta: float,
        novelty: np.ndarray | None = None,
    ) -> Predictions:
        """Return what a rule makes of a model's probabilities (n_cells, K) and of novelty (n_cells,); the probabilities of
        held-out cells (m, K) and theta give the class-wise thresholds."""
        unlike = None
        if rule.novelty_threshold is not None and novelty is not None:
            unlike = novelty > rule.limit_of(novelty)
        judged = tempered(probabilities, rule.temperature)
        if rule.threshold is not None:
            alike = np.full(len(classes), max(rule.threshold, rule.floor))
            return cls(classes, judged, alike, unlike, borrows=rule.borrows)
        by = tempered(held_out, rule.temperature)
        judged_alike = cls(
            classes, judged, np.empty(0), unlike, by, theta, rule.threshold_cap, rule.floor, borrows=rule.borrows
        )
        return replace(judged_alike, thresholds=judged_alike.thresholds_by(by))

    def thresholds_by(self, held_out: np.ndarray) -> np.ndarray:
        """Return the thresholds that held-out cells give, (J,) of probabilities (m, J) of types or of their parents."""
        by_type = borrowing_thresholds if self.borrows else class_thresholds
        return within(by_type(held_out, self.theta), self.threshold_cap, self.floor)

    @cached_property
    def _largest(self) -> np.ndarray:
        largest: np.ndarray = self.probabilities.argmax(axis=1)
        return largest

    @cached_property
    def raw(self) -> np.ndarray:
        """The most probable type of each cell, objects (n_cells,); the first of equals."""
        raw: np.ndarray = np.array(self.classes, dtype=object)[self._largest]
        return raw

    @cached_property
    def confidence(self) -> np.ndarray:
        """The probability that `raw` is right, (n_cells,): that of the most probable type. METHOD `default` halves it for a cell
        unlike everything annotated, which may be of no annotated type, and of a cell without any value nothing is left."""
        confidence: np.ndarray = self.probabilities.max(axis=1)
        if not self.borrows:  # METHOD `reference`, and models of earlier versions
            return confidence
        for of, left in ((self.unlike, MOST_OF_UNLIKE), (self.empty, 0)):
            confidence = confidence if of is None else np.where(of, confidence * left, confidence)
        return confidence.astype(self.probabilities.dtype, copy=False)

    @property
    def without_evidence(self) -> list[str]:
        """The types that too few held-out cells are called for a threshold of their own, which is 0.9 then."""
        if self.held_out is None or (self.borrows and len(self.held_out)):
            return []
        called = np.bincount(self.held_out.argmax(axis=1), minlength=len(self.classes))
        return [name for name, n in zip(self.classes, called, strict=True) if math.floor(self.theta * n) + 1 >= n]

    @cached_property
    def rejected(self) -> np.ndarray:
        """Bool (n_cells,): the confidence is strictly below the threshold of its type, or the cell is unlike anything
        annotated or of no type that may be given."""
        rejected: np.ndarray = self.confidence < self.thresholds[self._largest]
        for also in (self.unlike, self.outside, self.empty, self.doublet):
            rejected = rejected if also is None else rejected | also
        return rejected

    @cached_property
    def reasons(self) -> np.ndarray:
        """Why each cell was kept or rejected, objects (n_cells,): `no values`, else `doublet` if it was called one, else `unlike
        reference` if its novelty is above the rule's limit, else `not in TYPES` if it is of no type that may be given, else `ambiguous` if it is rejected, else
        `confident`."""
        none = np.zeros(len(self.probabilities), dtype=bool)
        marks = [none if of is None else of for of in (self.empty, self.doublet, self.unlike, self.outside)]
        names = [NO_VALUES, DOUBLET, UNLIKE, OUTSIDE, AMBIGUOUS]
        return np.select([*marks, self.rejected], names, CONFIDENT).astype(object)

    @cached_property
    def names(self) -> np.ndarray:
        """`raw`, with `Unassigned` for the rejected: objects (n_cells,)."""
        return np.where(self.rejected, UNASSIGNED, self.raw)

    def subset(self, cells: np.ndarray) -> Predictions:
        """Return only some cells, bool or index (n_chosen,)."""
        unlike, outside, empty, doublet = (
            None if of is None else of[cells] for of in (self.unlike, self.outside, self.empty, self.doublet)
        )
        probabilities = self.probabilities[cells]
        return replace(self, probabilities=probabilities, unlike=unlike, outside=outside, empty=empty, doublet=doublet)

    def among(self, types: Collection[str]) -> Predictions:
        """Return what the same probabilities say if only some types may be given (TYPES).

        A cell that is more probably of none of them than of one is rejected and keeps its probabilities, so that it can be
        told what it would have been. Of all others the probabilities are those given that the type is one of `types`:
        divided by their sum over these, and zero for the rest. Thresholds stay.

        >>> p = Predictions(["B", "NK", "T"], np.array([[0.5, 0.0, 0.5], [0.9, 0.0, 0.1]]), np.full(3, 0.8))
        >>> list(p.names), list(p.among(["NK", "T"]).names), list(p.among(["NK", "T"]).raw)
        (['Unassigned', 'B'], ['T', 'Unassigned'], ['T', 'B'])
        """
        allowed = np.isin(self.classes, list(types))
        share = self.probabilities[:, allowed].sum(axis=1, keepdims=True)
        outside = share < 0.5
        given = np.where(allowed, self.probabilities, 0) / np.where(outside, 1, share)
        probabilities = np.where(outside, self.probabilities, given).astype(self.probabilities.dtype)
        return replace(self, probabilities=probabilities, outside=outside[:, 0])
