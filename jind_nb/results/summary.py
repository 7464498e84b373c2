"""What a run says about the target: the predictions table, the annotated file, the metrics, the summary in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.address import name_of
from ..core.labels import UNASSIGNED, UNLIKE
from ..data.plan import Plan
from ..model.calibration import Calibration, best_mode
from ..model.history import StageResult
from ..model.predictions import NO_EVIDENCE
from ..model.state import AlignmentMode
from ..runs.folder import Run
from ..runs.stages import load_plan, load_training
from .load import finished_result
from .tables import composition
from .target import (
    TargetResult,
    evaluate_target,
    fallback_metrics,
    held_out_accuracy,
    known_types_metrics,
    target_calibration,
)

FEW_CELLS = 30  # a type learned from fewer is named as something to distrust

MUCH_REJECTED = 0.3

MUCH_LOST = 0.02  # of accuracy, by alignment, on left-out batches


@dataclass(frozen=True)
class Number:
    """One number of the first page: its name, its value as text, and what it says in half a sentence."""

    name: str
    value: str
    words: str


@dataclass
class Summary:
    """The first page of the report, in words and a few numbers."""

    sentence: str
    numbers: list[Number]
    facts: dict[str, str]
    distrust: list[str]  # the most important first


def percent(share: float) -> str:
    """A share as people read it.

    >>> percent(0.1234)
    '12.3 %'
    """
    return f"{100 * share:.1f} %"


def summarise(result: TargetResult, plan: Plan, training: Mapping[str, Any], run: Run) -> Summary:
    """What was done, how sure it is and what to distrust, for a reader who never saw the project."""
    target, final = plan.target, result.final
    n, n_parent = len(result.cells), int(result.fell_back.sum())
    n_rejected = int(final.rejected.sum()) - n_parent  # Unassigned
    n_types = n - n_rejected - n_parent
    history = [StageResult(**stage) for stage in training["history"]]
    held_out = held_out_accuracy(history)
    labelled = evaluate_target(result, target)
    sentence = f"{target}: {n_types:,} of {n:,} cells annotated, "
    sentence += f"{n_parent:,} with a parent type only, " if result.parents else ""
    sentence += f"{n_rejected:,} left Unassigned"
    if labelled and labelled[-1].metrics["effective_accuracy"] is not None:
        n_labelled = labelled[-1].metrics["cells"]
        which = "they" if n_labelled == n else f"the {n_labelled:,} labelled cells"
        agrees = labelled[-1].metrics["effective_accuracy"]
        sentence += f"; where {which} could be checked, {percent(agrees)} of the annotated agree with the file's labels"
    calibration = target_calibration(training, result)
    expected = calibration.mean("error_among_assigned") if calibration else None
    if not labelled and calibration and calibration.n_annotated > 1 and expected is not None and n_types:
        sentence += (
            f"; expect about {percent(expected)} of the annotated to be wrong"
            if expected
            else "; of annotated batches hidden in turn and annotated like this one, no annotated cell was wrong"
        )
    facts = {
        "Data": ", ".join(map(name_of, run.parameters.paths)),
        "Target (annotated here)": f"{target}, {n:,} cells",
        "Learned from": _learned_from(training, plan),
        "Cell types it can name": f"{len(plan.classes)}: {', '.join(plan.classes[:15])}"
        + (f" and {len(plan.classes) - 15} more" if len(plan.classes) > 15 else ""),
        "Alignment": f"{_alignment(training, result, run)}.",
        **({"Parent only": _fallback_in_words(result)} if result.parents else {}),
        "Confidence": f"half of the cells above {_rounded_down(np.median(final.confidence))}, nine tenths above "
        f"{_rounded_down(np.quantile(final.confidence, 0.1))} (1 is certain)",
    }
    if held_out:
        facts["Check on annotated batches"] = (
            f"{percent(held_out['effective_accuracy'])} of the cells it annotated right, on {held_out['cells']:,} "
            "cells kept out of training; a new batch is usually harder"
        )
    if calibration is not None:
        facts["Errors to expect in a new batch"] = expected_error(calibration)
    if labelled:
        facts["Check on the target's own labels"] = _checked_against_labels(labelled[-1].metrics, result)
    distrust = [*_alignment_hurts(training, result), *_distrust(result, plan, labelled)]
    return Summary(sentence + ".", _numbers(result, calibration, held_out, labelled), facts, distrust)


def _rounded_down(confidence: float) -> str:
    """Two digits, and never the 1.00 that no cell reaches."""
    return f"{min(0.99, np.floor(100 * confidence) / 100):.2f}"


def _numbers(
    result: TargetResult,
    calibration: Calibration | None,
    held_out: Mapping[str, float] | None,
    labelled: list[StageResult],
) -> list[Number]:
    """The few numbers that most readers want."""
    n, n_parent = len(result.cells), int(result.fell_back.sum())
    n_rejected = int(result.final.rejected.sum()) - n_parent
    n_unlike = int((result.final.reasons == UNLIKE).sum())
    numbers = [
        Number("Annotated", percent((n - n_rejected - n_parent) / n), f"{n - n_rejected - n_parent:,} of {n:,} cells"),
        Number(
            UNASSIGNED,
            percent(n_rejected / n),
            f"{n_rejected:,} cells: {n_rejected - n_unlike:,} ambiguous, {n_unlike:,} unlike all annotated cells",
        ),
    ]
    if result.parents:
        numbers.insert(1, Number("Parent type only", percent(n_parent / n), f"{n_parent:,} cells of ambiguous type"))
    numbers.append(_expected_number(calibration, held_out))
    agrees = labelled[-1].metrics["effective_accuracy"] if labelled else None
    if agrees is not None:
        n_labelled = labelled[-1].metrics["cells"]
        words = f"of the annotated cells agree with the file's labels ({n_labelled:,} cells have one)"
        numbers.append(Number("Checked here", percent(agrees), words))
    return numbers


def _expected_number(calibration: Calibration | None, held_out: Mapping[str, float] | None) -> Number:
    name = "Expected error"
    expected = calibration.mean("error_among_assigned") if calibration is not None else None
    if calibration is not None and expected is not None:
        if calibration.n_annotated == 1:
            words = (
                "of the annotated cells, as seen on cells held out of the only annotated batch; a new batch is harder"
            )
            return Number(name, f"> {percent(expected)}", words)
        lowest, highest = calibration.range("error_among_assigned") or (expected, expected)
        words = (
            "of the annotated cells are wrong, as seen when annotated batches were hidden in turn and annotated like this "
            f"one ({100 * lowest:.1f} to {percent(highest)})"
        )
        if not highest:
            words = "no annotated cell was wrong when annotated batches were hidden in turn and annotated like this one"
        return Number(name, f"about {percent(expected)}" if highest else "none seen", words)
    if held_out is None:
        return Number(name, "not known", "nothing could be checked on cells of known type")
    wrong = 1 - held_out["effective_accuracy"]
    return Number(
        name, f"> {percent(wrong)}", "wrong on held-out cells of the annotated batches; a new batch is harder"
    )


def _fallback_in_words(result: TargetResult) -> str:
    """How many ambiguous cells were given their type's parent, and how many of them rightly."""
    numbers = fallback_metrics(result) or {}
    n = len(result.cells)
    text = (
        f"{numbers['cells']:,} cells ({percent(numbers['cells'] / n)}) whose type is ambiguous and whose parent is not"
    )
    if numbers["labelled"]:
        share = percent(numbers["right"] / numbers["labelled"])
        text += f"; by the file's labels {numbers['right']:,} of {numbers['labelled']:,} are right ({share})"
    return text


def _alignment(training: Mapping[str, Any], result: TargetResult, run: Run) -> str:
    """Whether the target was aligned with the annotated batches, and why."""
    done = "aligned" if result.mode == AlignmentMode.ALIGNED else "not aligned"
    if run.parameters.ALIGN is not None or run.parameters.PRETRAINED_MODEL_PATH is not None:
        return f"{done}: ALIGN is {str(run.parameters.aligns).lower()}"
    if run.parameters.METHOD == "reference":
        return f"{done}, as METHOD reference always does"
    return f"{done}. {why_this_mode(training)}"


def why_this_mode(training: Mapping[str, Any]) -> str:
    """Why METHOD `default` aligned the target or did not, where ALIGN left it to left-out batches."""
    return best_mode({way: Calibration.from_json(values) for way, values in training["calibration"].items()})[1]


def _checked_against_labels(all_cells: dict[str, Any], result: TargetResult) -> str:
    """How right the annotation is by the target's own labels: over all cells, and over the types that could be known."""
    after = all_cells["effective_accuracy"]
    text = (
        f"{percent(all_cells['raw_accuracy'])} right before rejection"
        + (f", {percent(after)} of the annotated after" if after is not None else "")
        + f", macro-F1 {all_cells['macro_F1']:.2f}"
    )
    known = known_types_metrics(result)
    if all_cells["unknown_type"] and known:
        text += (
            f". Cells of types no annotated batch taught ({all_cells['unknown_type']:,}) are right only when Unassigned: "
            f"counted so, {percent(all_cells['accuracy'])} of all cells are right; over the types that could be known "
            f"{percent(known['raw_accuracy'])} before rejection"
            + (f", {percent(known['effective_accuracy'])} after" if known["effective_accuracy"] is not None else "")
        )
    return text + " (read for this check alone, never for training)"


def expected_error(calibration: Calibration) -> str:
    """In words: the errors to expect among the assigned cells of a new batch, and what that rests on."""
    target_error, mean = calibration.target_error, calibration.mean("error_among_assigned")
    n, n_annotated = calibration.n_left_out, calibration.n_annotated
    if target_error is not None and calibration.threshold is not None and calibration.threshold > 1:
        return (
            f"no confidence keeps them below {percent(target_error)} on the left-out batches, so every cell is "
            "Unassigned; ask for a higher TARGET_ERROR, or use REJECTION"
        )
    if mean is None:
        return "cannot be told: no cell of a left-out batch was assigned"
    lowest, highest = calibration.range("error_among_assigned") or (mean, mean)
    if n_annotated == 1:
        text = f"{percent(mean)} on cells held out of the only annotated batch; a new batch is usually harder"
    else:
        text = (
            f"about {percent(mean)} of the assigned cells ({percent(lowest)} to {percent(highest)} in {n} annotated "
            f"batch{'' if n == 1 else 'es'} that {'was' if n == 1 else 'were'} left out of training in turn and annotated "
            "like the target), if its cell types are among the annotated ones"
        )
    if target_error is not None:
        errors = [row["error_among_assigned"] or 0.0 for row in calibration.batches if row["cells"]]
        text += (
            f". TARGET_ERROR asks for at most {percent(target_error)}; in {sum(e <= target_error for e in errors)} of {n} "
            "it held with a threshold from the others: "
        )
        text += (
            f"it should hold in about {n} of {n + 1} further batches like these or better"
            if calibration.is_guarantee
            else f"with {n_annotated} annotated batch{'' if n_annotated == 1 else 'es'} ({n} left out) this is an estimate, no guarantee"
        )
    return text


def _learned_from(training: Mapping[str, Any], plan: Plan) -> str:
    if not plan.cells:
        return f"a saved model (source {training['source']}, {len(training['intermediates'])} intermediate batches)"
    others = training["intermediates"]
    return (
        f"{training['source']} (source)"
        + (f", {', '.join(others[:10])}" if others else "")
        + (f" and {len(others) - 10} more" if len(others) > 10 else "")
        + f": {sum(sum(counts.values()) for counts in plan.cells.values()):,} labelled cells"
    )


def _alignment_hurts(training: Mapping[str, Any], result: TargetResult) -> list[str]:
    """A warning where left-out batches were annotated better without alignment; nothing where they were not."""
    ways = {way: {row["batch"]: row for row in c["batches"]} for way, c in training["calibration"].items()}
    if (
        result.mode != AlignmentMode.ALIGNED
        or not {AlignmentMode.UNALIGNED, AlignmentMode.ALIGNED} <= set(ways)
        or not training["intermediates"]
    ):
        return []
    both = [
        (ways[AlignmentMode.UNALIGNED][name]["raw_accuracy"], row["raw_accuracy"])
        for name, row in ways[AlignmentMode.ALIGNED].items()
    ]
    both = [pair for pair in both if None not in pair]
    without, aligned = np.mean(both, axis=0) if both else (0.0, 0.0)
    if without - aligned < MUCH_LOST:
        return []
    return [
        f"On the annotated batches left out of training, alignment lowered the share of right cells from "
        f"{percent(without)} to {percent(aligned)}; compare with a run with ALIGN false."
    ]


def _distrust(result: TargetResult, plan: Plan, labelled: list[StageResult]) -> list[str]:
    """What a reader should doubt, and why: a sentence for each kind of doubt, warnings first."""
    table, points = composition(result, plan), list(plan.warnings)
    rejected = table["rejected"] + table.get("parent only", 0)
    called = table["annotated"] + rejected
    if labelled:
        missed = [
            f"{name} ({percent(row['recall'])} of {row['cells']:,} cells)"
            for name, row in labelled[-1].per_class.items()
            if row["cells"] >= 5 and row["recall"] < 0.5 and name in plan.classes
        ]
        if missed:
            points.append(
                f"By the file's own labels, fewer than half of the cells were recognised of {_listed(missed)}."
            )
    else:
        points.append("The target has no labels to check against; look at marker genes before relying on a type.")
    unsure = [
        f"{name} ({rejected[name]:,.0f} of the {called[name]:,.0f} cells most like it)"
        for name in table.index[(called >= 5) & (rejected > MUCH_REJECTED * called)]
    ]
    if unsure:
        points.append(f"The model is unsure of these types, and many of their cells are Unassigned: {_listed(unsure)}.")
    few = table[(table["training cells"] < FEW_CELLS) & (called > 0)] if plan.cells else table[:0]
    if len(few):
        names = [f"{name} ({n:.0f} cells)" for name, n in few["training cells"].items()]
        points.append(f"Learned from few cells, so easily missed or mistaken: {_listed(names)}.")
    odd = int((result.final.reasons == UNLIKE).sum())
    if odd:
        points.append(
            f"{odd:,} Unassigned cell{'s are' if odd > 1 else ' is'} unlike anything in the annotated batches; "
            f"{'they' if odd > 1 else 'it'} may be of a cell type those lack, or damaged."
        )
    if plan.dropped:
        points.append(f"Too rare in the annotated batches to be learned, so never named here: {_listed(plan.dropped)}.")
    never = [str(name) for name in table.index[called == 0]]
    if never:
        points.append(f"No cell looks most like {_listed(never)}; they may be absent, or missed.")
    unsupported = [name for name in result.without_evidence if called[name] > 0]
    if unsupported:
        points.append(
            f"Too few held-out cells to set a threshold for {_listed(unsupported)}: a confidence of {NO_EVIDENCE} is "
            "asked for instead."
        )
    for reason in dict.fromkeys(reason for reason in plan.left_out.values() if "none of" in reason):
        batches = [batch for batch, why in plan.left_out.items() if why == reason]
        points.append(f"{_listed(batches)} took no part: {reason}.")
    return points + plan.notes


def _listed(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def one_line(run: Run) -> str:
    """The run's result in one line, for the terminal."""
    return summarise(finished_result(run), load_plan(run), load_training(run), run).sentence
