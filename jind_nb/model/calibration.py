"""What probabilities are worth in a new batch, learned from annotated batches that were left out of training.

Temperature scaling (Guo et al. 2017, "On calibration of modern neural networks", ICML, arXiv:1706.04599) makes the
network's probabilities agree with how often they are right. TARGET_ERROR asks for a confidence above which at most that
share of the assigned cells of an unseen batch is wrong: selective classification (Geifman & El-Yaniv 2017, NeurIPS,
arXiv:1705.08500), with whole batches as the exchangeable units, as in conformal prediction for grouped data (Dunn,
Wasserman & Ramdas 2023, doi 10.1080/01621459.2022.2060112).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError
from scipy.optimize import minimize_scalar

from ..core.labels import REASONS
from ..core.text import percent
from ..metrics import area_under_risk_coverage, calibration_error, reliability, risk_coverage
from . import label_errors
from .leave_one_out import LeftOut
from .mixture import Weights, learned_weights, mixed
from .predictions import NO_EVIDENCE, NONE_PASSES, Predictions, Rule, tempered
from .state import AlignmentMode, Exceeded, Settings

COOLEST, HOTTEST = 0.5, 20.0  # where left-out batches have no error, the coolest of all would fit them best

FEWEST_FOR_A_GUARANTEE = 4  # left-out batches

MORE_LIKELY_THAN_NOT = 0.5  # no cell is assigned a type that is less likely

# Of a single annotated batch, whose held-out cells are too easy: the median temperature that left-out batches wanted where there
# were several, and a floor of the thresholds, since nothing shows how wrong a new batch is (benchmarks/README.md).
ALONE_TEMPERATURE, ALONE_FLOOR = 0.7, 0.8

# What these fields are called in the JSON of saved models.
JSON_NAMES = {"novelty_threshold": "most_novel", "threshold_cap": "enough"}
FEWEST_FOR_A_LIMIT = 50  # cells of known types in a left-out batch: a fiftieth of them is asked for
HIGHEST_LIMIT = 2.0  # of novelty; saved models hold no higher one, but a batch's own cells may raise it


def temperature(left_out: list[LeftOut], mode: str, weights: Weights) -> float:
    """Return the temperature of least negative log likelihood on the left-out cells of types their model knew.

    Every batch counts alike, however many cells it has. 1 where there are no such cells.
    """
    usable = [
        (_mixed(b, mode, weights)[b.could_be_known].astype(np.float64), b.y[b.could_be_known])
        for b in left_out
        if b.could_be_known.any()
    ]
    if not usable:
        return 1.0

    def loss(log_temperature: float) -> float:
        means = [_negative_log_likelihood(p, y, np.exp(log_temperature)) for p, y in usable]
        return float(np.mean(means))

    found = minimize_scalar(loss, bounds=(np.log(COOLEST), np.log(HOTTEST)), method="bounded")
    return float(np.exp(found.x))


def member_weights(left_out: list[LeftOut], mode: str) -> Weights:
    """Return the weights of the METHOD's members that annotate left-out batches best: `mixture.learned_weights`.

    Cells held out of the only annotated batch are too easy to learn weights from; there it is the prior.
    """
    batches = []
    for batch in left_out:
        rows = np.flatnonzero(batch.could_be_known)
        if batch.is_new and len(rows):
            batches.append((batch.members[mode][rows, :, batch.y[rows]], np.full(len(rows), 1 / len(rows))))
    return learned_weights(batches, left_out[0].prior)


def _mixed(batch: LeftOut, mode: str, weights: Weights) -> np.ndarray:
    return mixed(batch.members[mode], weights)


def _negative_log_likelihood(probabilities: np.ndarray, y: np.ndarray, temperature: float) -> float:
    own = tempered(probabilities, temperature)[np.arange(len(y)), y]
    return float(-np.log(np.maximum(own, 1e-12)).mean())


def lowest_threshold(confidence: np.ndarray, right: np.ndarray, target_error: float) -> float:
    """Return the lowest confidence threshold from which on, also at every higher one, the errors among the assigned cells
    stay within `target_error` of them (one wrong cell is always allowed: it says little about a share).

    A cell is assigned if its confidence is at least the threshold.

    Parameters
    ----------
    confidence, right
        Float and bool (n_cells,).

    Returns
    -------
    0 if all cells may be assigned; above 1 if none may.

    >>> lowest_threshold(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, True, False, False]), 0.05)
    0.7
    """
    confidence, wrong = _errors_by_confidence(confidence, right)
    ends = np.append(np.flatnonzero(np.diff(confidence)), len(confidence) - 1)  # where equal confidences end
    too_many = wrong[ends] > np.maximum(1, target_error * (ends + 1))
    if not too_many.any():
        return 0.0
    first_bad = int(np.argmax(too_many))
    return float(confidence[ends[first_bad - 1]]) if first_bad else NONE_PASSES


def safe_threshold(batches: list[tuple[np.ndarray, np.ndarray]], target_error: float) -> float:
    """Return the confidence that keeps the error among the assigned cells of an unseen batch within `target_error`.

    It is the highest `lowest_threshold` of the left-out batches. Were all batches scored by one model, and the new one
    exchangeable with these n (one more of the same kind), its own lowest threshold would be above the highest of theirs
    with probability at most 1 / (n + 1). Here up to three models, each trained without the batches it is asked about,
    stand in for the final one, which has learned from more; n / (n + 1) is therefore said as `about`. The threshold is
    then raised until the error among all assigned left-out cells together is within `target_error` too.

    Parameters
    ----------
    batches
        For each left-out batch, confidence and whether it is right, float and bool (n_cells,).

    Returns
    -------
    A threshold; above 1 (every cell Unassigned) where none will do.
    """
    batches = [(confidence, right) for confidence, right in batches if len(right)]
    if not batches:
        return NONE_PASSES
    threshold = max(lowest_threshold(confidence, right, target_error) for confidence, right in batches)
    confidence, wrong = _errors_by_confidence(
        np.concatenate([confidence for confidence, _ in batches]), np.concatenate([right for _, right in batches])
    )
    assigned = np.arange(1, len(wrong) + 1)
    ends = np.append(np.flatnonzero(np.diff(confidence)), len(confidence) - 1)  # where equal confidences end
    ends = ends[confidence[ends] >= threshold]
    within = ends[wrong[ends] <= target_error * assigned[ends]]
    if not len(within):
        return NONE_PASSES
    return threshold if within[-1] == ends[-1] else float(confidence[within[-1]])


def _errors_by_confidence(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the confidences, highest first, and the number of wrong cells up to each."""
    order = np.argsort(-confidence, kind="stable")
    return confidence[order], np.cumsum(~right[order])


@dataclass(frozen=True)
class Calibration:
    """How an alignment mode does on batches its model never saw. Plain values only: it is saved as JSON.

    The numbers of a left-out batch never rest on the batch itself: where there are others, its temperature (and
    TARGET_ERROR's threshold) comes from those.
    """

    temperature: float
    target_error: float | None
    threshold: float | None  # TARGET_ERROR's
    novelty_threshold: float | None
    n_annotated: int  # 1: nothing could be left out, and the batch's own held-out cells stand in
    batches: list[dict[str, Any]]  # a row for each left-out batch: `_row`
    reliability: dict[str, list[dict[str, float]]]  # `network` and `calibrated` -> rows of `metrics.reliability`
    risk_coverage: list[list[float]]  # at most 101 points of coverage and risk, all left-out cells together
    threshold_cap: float | None = None  # REJECTION's: see `_rule`
    weights: Weights = ()  # of the METHOD's members; empty in models of format 4
    floor: float = 0.0  # no threshold is below it; 0 in models of format 4
    # Left-out cells of known types, all batches together: (true type, answer, cells), places among the classes; the answer
    # after the last class is Unassigned. Empty in older models.
    confusion: list[tuple[int, int, int]] = field(default_factory=list)
    noise: float = 0.0  # share of the annotated batches' labels that seem to be wrong at random; 0 in older models
    contradictions: list[str] = field(default_factory=list)  # warnings of `label_errors`
    borrows: bool = False  # whether thresholds from few held-out cells borrow from the others; not in older models
    beside_novel: float = 0.0  # `Rule.beside_novel`; 0 in older models
    noticed: dict[str, float] = field(default_factory=dict)  # `new_types.hide_in_turn`, by name; not in older models
    dropped: float = (
        0.0  # share of the annotated batches' labelled cells whose type none trains, each batch counted alike
    )

    @property
    def rule(self) -> Rule:
        return Rule(
            self.temperature,
            self.threshold,
            self.novelty_threshold,
            self.threshold_cap,
            self.weights,
            self.floor,
            self.borrows,
            self.beside_novel,
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values, under the names that saved models have them by."""
        return {JSON_NAMES.get(name, name): value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Calibration:
        """Return a calibration from what `to_json` gave.

        Raises
        ------
        ValueError
            If the values are not as `calibrate` makes them.
        """
        own = {json_name: name for name, json_name in JSON_NAMES.items()}
        try:
            calibration = _ADAPTER.validate_python({own.get(name, name): value for name, value in values.items()})
        except ValidationError as error:
            what = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])
            raise ValueError(what) from None
        if not 0 < calibration.temperature < np.inf:
            raise ValueError(f"a temperature of {calibration.temperature}")
        return calibration

    @property
    def is_guarantee(self) -> bool:
        """Whether TARGET_ERROR's promise rests on enough batches to be called one."""
        return self.n_left_out >= FEWEST_FOR_A_GUARANTEE

    @property
    def n_left_out(self) -> int:
        """Left-out batches that say something: with cells of types their model knew."""
        return sum(row["cells"] > 0 for row in self.batches)

    @property
    def n_assigned(self) -> int:
        """Cells of left-out batches that were assigned a type."""
        return sum(round(row["cells"] * (row["assigned"] or 0.0)) for row in self.batches)

    def mean(self, column: str) -> float | None:
        """Return the mean of a column of `batches` over those that have it; every batch counts alike."""
        values = [row[column] for row in self.batches if row[column] is not None]
        return float(np.mean(values)) if values else None

    def range(self, column: str) -> tuple[float, float] | None:
        """Return the lowest and highest value of a column of `batches`."""
        values = [row[column] for row in self.batches if row[column] is not None]
        return (min(values), max(values)) if values else None


_ADAPTER = TypeAdapter(Calibration)


def calibrate(
    left_out: list[LeftOut], mode: str, theta: float, target_error: float | None, n_annotated: int
) -> Calibration:
    """Return the rule for an alignment mode, and how it does on each left-out batch.

    Parameters
    ----------
    left_out
        Left-out batches; the rule is class-wise thresholds at `theta`, or one threshold where there is a
        `target_error`.
    n_annotated
        Number of annotated batches.
    """
    left_out = [batch for batch in left_out if mode in batch.members]
    rule = _rule(left_out, mode, theta, target_error)
    if n_annotated == 1:
        rule = replace(rule, temperature=ALONE_TEMPERATURE, floor=ALONE_FLOOR, threshold_cap=NO_EVIDENCE)
    rows, plain, calibrated, rights = [], [], [], []
    confusion: Counter[tuple[int, int]] = Counter()
    for batch in left_out:
        others = [other for other in left_out if other is not batch]
        by = _rule(others, mode, theta, target_error) if others else rule
        rows.append(_row(batch, mode, by, theta))
        plain.append(_confidence(batch, mode, replace(by, temperature=1.0)))
        calibrated.append(_confidence(batch, mode, by))
        rights.append(_right(batch, mode, by))
        confusion.update(_answers(batch, mode, by, theta))
    judged = _judged_probabilities(left_out, mode, rule)
    right = np.concatenate(rights)
    coverage, risk = risk_coverage(np.concatenate(calibrated), right)
    shown = np.unique(np.linspace(0, len(risk) - 1, min(101, len(risk))).astype(int))
    return Calibration(
        temperature=rule.temperature,
        target_error=target_error,
        threshold=rule.threshold,
        novelty_threshold=rule.novelty_threshold,
        threshold_cap=rule.threshold_cap,
        weights=rule.weights,
        floor=rule.floor,
        confusion=[(true, given, n) for (true, given), n in sorted(confusion.items())],
        borrows=rule.borrows,
        beside_novel=rule.beside_novel,
        noise=label_errors.even_noise(left_out, judged),
        contradictions=label_errors.contradictions(left_out, judged) + label_errors.other_names(left_out, judged, rule),
        dropped=float(np.mean([batch.dropped for batch in left_out])),
        n_annotated=n_annotated,
        batches=rows,
        reliability={
            "network": reliability(np.concatenate(plain), right).to_dict("records"),
            "calibrated": reliability(np.concatenate(calibrated), right).to_dict("records"),
        },
        risk_coverage=[[float(coverage[i]), float(risk[i])] for i in shown],
    )


def novelty_threshold(left_out: list[LeftOut]) -> float | None:
    """Return the limit of novelty by left-out batches: `NoveltyLimit`. None where no cell could be known."""
    limit, exceeded = left_out[0].limit, exceeded_novelty(left_out)
    if exceeded is not None:
        return min(limit.from_exceeded(exceeded), HIGHEST_LIMIT)
    could = any(batch.could_be_known.any() for batch in left_out)
    return min(limit.alone, HIGHEST_LIMIT) if limit.alone is not None and could else None


def exceeded_novelty(left_out: list[LeftOut]) -> Exceeded | None:
    """Return the novelty that a share of the left-out cells of types their model knew exceed, each batch counted alike. A batch of which
    only a handful of cells could be known is not asked, if there is a limit without; None where no batch is."""
    limit = left_out[0].limit
    telling = [batch for batch in left_out if limit.alone is None or tells_a_limit(batch)]
    novelty = [of_batch for batch in telling if len(of_batch := batch.novelty[batch.could_be_known])]
    if not novelty:
        return None
    weights = np.concatenate([np.full(len(of_batch), 1 / len(of_batch)) for of_batch in novelty])
    value = np.quantile(np.concatenate(novelty), 1 - limit.share, weights=weights, method="inverted_cdf")
    if len(novelty) == 1:
        return Exceeded(float(value), 1)
    each = [np.quantile(of_batch, 1 - limit.share) for of_batch in novelty]
    return Exceeded(float(value), len(novelty), float(np.std(each, ddof=1)))


def tells_a_limit(batch: LeftOut) -> bool:
    """Return whether the limit of novelty can be learned from a left-out batch."""
    return batch.is_new and int(batch.could_be_known.sum()) >= FEWEST_FOR_A_LIMIT


def calibrate_modes(left_out: list[LeftOut], settings: Settings, n_annotated: int) -> dict[str, Calibration]:
    """Calibrate each mode in which left-out batches were annotated; nothing if none were."""
    modes = [mode for mode in AlignmentMode if any(mode in batch.members for batch in left_out)]
    return {mode: calibrate(left_out, mode, settings.theta, settings.target_error, n_annotated) for mode in modes}


def suspect_labels(left_out: list[LeftOut], calibrations: Mapping[str, Calibration]) -> list[dict[str, Any]]:
    """Return the annotated cells whose labels left-out answers contradict, in the mode in which a target is annotated:
    `label_errors.suspects`."""
    if not calibrations:
        return []
    mode = list(calibrations)[-1]
    return label_errors.suspects(left_out, _judged_probabilities(left_out, mode, calibrations[mode].rule))


def _judged_probabilities(left_out: list[LeftOut], mode: str, rule: Rule) -> list[np.ndarray]:
    """Return the calibrated probabilities of each left-out batch's cells, (n, K) each."""
    return [tempered(_mixed(batch, mode, rule.weights), rule.temperature) for batch in left_out]


def moved_share(weights: Weights) -> float:
    """Return the weight of the members that see the target where alignment moved it: the second half of them."""
    return float(sum(weights[len(weights) // 2 :]))


def alignment_in_words(calibrations: Mapping[str, Calibration]) -> str:
    """Return how much of an answer comes from where alignment moved the target, and who decided that."""
    aligned = calibrations.get(AlignmentMode.ALIGNED)
    if aligned is None or len(aligned.weights) < 2:
        return "No annotated batch was left out to see how much alignment helps"
    chosen = "under this mix the labels of left-out annotated batches are most likely"
    if aligned.n_annotated == 1:
        chosen = "this mix is what suited other data sets, since there is no second annotated batch to leave out"
    return f"{percent(moved_share(aligned.weights))} of each answer comes from after alignment, the rest from before it; {chosen}"


def _rule(left_out: list[LeftOut], mode: str, theta: float, target_error: float | None) -> Rule:
    """Return what left-out batches teach about an alignment mode.

    Class-wise thresholds come from held-out cells of known batches, of which the model is surer than of a new batch's: by
    themselves they reject half of some targets, nearly all of it right. So no threshold needs to be above the confidence (`threshold_cap`) at which no left-out
    batch had more than theta wrong among its cells at least so confident. Below 0.9 none is: a new batch may hold types
    that no left-out one has.
    """
    weights = member_weights(left_out, mode)
    rule = Rule(
        weights=weights,
        novelty_threshold=novelty_threshold(left_out),
        floor=MORE_LIKELY_THAN_NOT,
        borrows=True,
        beside_novel=left_out[0].limit.beside_novel,
    )
    rule = replace(rule, temperature=temperature(left_out, mode, rule.weights))
    cells = [(_confidence(batch, mode, rule), _right(batch, mode, rule)) for batch in left_out]
    if target_error is not None:
        with_dropped = [_with_dropped(*of_batch, batch) for of_batch, batch in zip(cells, left_out, strict=True)]
        return replace(rule, threshold=safe_threshold(with_dropped, target_error))
    return replace(rule, threshold_cap=max(NO_EVIDENCE, safe_threshold(cells, theta)))


def _confidence(batch: LeftOut, mode: str, rule: Rule) -> np.ndarray:
    """Return the confidence of the cells whose type could be known, (n,)."""
    probabilities = _mixed(batch, mode, rule.weights)[batch.could_be_known]
    top: np.ndarray = tempered(probabilities, rule.temperature).max(axis=1, initial=0.0)
    return top


def _right(batch: LeftOut, mode: str, rule: Rule) -> np.ndarray:
    """Return whether the most probable type is right, of the cells whose type could be known: bool (n,)."""
    known = batch.could_be_known
    right: np.ndarray = _mixed(batch, mode, rule.weights)[known].argmax(axis=1) == batch.y[known]
    return right


def _judged(batch: LeftOut, mode: str, rule: Rule, theta: float) -> Predictions:
    """Return what a rule makes of the cells whose type could be known, beside all others of the batch."""
    held_out, probabilities = mixed(batch.held_out[mode], rule.weights), _mixed(batch, mode, rule.weights)
    judged = Predictions.by(rule, batch.classes, probabilities, held_out, theta, batch.novelty)
    return judged.subset(batch.could_be_known)


def _answers(batch: LeftOut, mode: str, rule: Rule, theta: float) -> Counter[tuple[int, int]]:
    """Count true types and answers as in `Calibration.confusion`."""
    judged = _judged(batch, mode, rule, theta)
    given = np.where(judged.rejected, len(batch.classes), judged.probabilities.argmax(axis=1))
    return Counter(zip(batch.y[batch.could_be_known].tolist(), given.tolist(), strict=True))


def dropped_per_cell(batch: LeftOut) -> float:
    """Return how many labelled cells of types that no batch trains there are for each cell whose answer could be checked."""
    return batch.dropped / batch.checked if batch.checked else 0.0


def _with_dropped(confidence: np.ndarray, right: np.ndarray, batch: LeftOut) -> tuple[np.ndarray, np.ndarray]:
    """Add the batch's cells of types that no batch trains: no answer for them can be right, and they are taken to be as
    confident as its others."""
    n = round(dropped_per_cell(batch) * len(right))
    if not n:
        return confidence, right
    theirs = np.quantile(confidence, (np.arange(n) + 0.5) / n).astype(confidence.dtype)
    return np.concatenate([confidence, theirs]), np.concatenate([right, np.zeros(n, dtype=bool)])


def _row(batch: LeftOut, mode: str, rule: Rule, theta: float) -> dict[str, Any]:
    """Return the numbers of one left-out batch, its cells of types that could be known; None where there is nothing to take a share of.

    `calibration_error` is of the calibrated confidence, `network_calibration_error` of the network's own;
    `doubt_among_assigned` is one minus the mean confidence. Cells of types that no batch trains count as wrong in
    `raw_accuracy` and `error_among_assigned`, as often assigned as the others; `error_of_known_types` is without them.
    `checked` is the share of the batch's labelled cells that `cells` stand for.
    """
    right, judged = _right(batch, mode, rule), _judged(batch, mode, rule, theta)
    kept = ~judged.rejected
    some = bool(len(right))
    confidence, dropped = _confidence(batch, mode, rule), dropped_per_cell(batch)
    error = float(1 - right[kept].mean()) if kept.any() else None
    return {
        "batch": batch.batch,
        "cells": len(right),
        "checked": batch.checked,
        "raw_accuracy": float(right.mean()) / (1 + dropped) if some else None,
        "assigned": float(kept.mean()) if some else None,
        "unlike_reference": float(np.mean(judged.reasons == REASONS[2])) if some else None,
        "error_among_assigned": None if error is None else (error + dropped) / (1 + dropped),
        "error_of_known_types": error,
        "doubt_among_assigned": float(1 - confidence[kept].mean()) if kept.any() else None,
        "AURC": area_under_risk_coverage(confidence, right) if some else None,
        "network_calibration_error": calibration_error(_confidence(batch, mode, replace(rule, temperature=1.0)), right)
        if some
        else None,
        "calibration_error": calibration_error(confidence, right) if some else None,
    }
