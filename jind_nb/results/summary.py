"""A run's result in sentences and a few numbers: the first page of the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.address import last_name
from ..core.labels import UNASSIGNED, UNLIKE
from ..core.text import listing, percent, plural
from ..data.plan import Plan
from ..model.annotate import METHODS
from ..model.calibration import Calibration, best_mode
from ..model.history import StageResult
from ..model.predictions import NO_EVIDENCE
from ..model.state import AlignmentMode
from ..runs.folder import Run
from ..runs.stages import load_plan, load_training
from .load import load_finished
from .tables import composition_table
from .target import (
    TargetResult,
    count_fallbacks,
    evaluate_target,
    held_out_accuracy,
    known_types_metrics,
    target_calibration,
)

FEW_CELLS = 30  # a type learned from fewer is listed as something to distrust

MUCH_REJECTED = 0.3

MUCH_LOST = 0.02  # of accuracy, by alignment, on left-out batches


@dataclass(frozen=True)
class Number:
    """One number of the first page: its name, its value as text, and its meaning in half a sentence."""

    name: str
    value: str
    words: str


@dataclass
class Summary:
    """The first page of the report."""

    sentence: str
    numbers: list[Number]
    facts: dict[str, str]
    distrust: list[str]  # the most important first


def summarise(result: TargetResult, plan: Plan, training: Mapping[str, Any], run: Run) -> Summary:
    """Summarise what was done, how certain it is and what to distrust, for a reader who does not know the project."""
    target, final = plan.target, result.final
    n, n_parent = len(result.cells), int(result.fell_back.sum())
    n_rejected = int(final.rejected.sum()) - n_parent  # Unassigned
    n_types = n - n_rejected - n_parent
    history = [StageResult(**stage) for stage in training["history"]]
    held_out = held_out_accuracy(history)
    labelled = evaluate_target(result, target)
    sentence = f"{target}: {n_types:,} of {n:,} cells annotated, "
    sentence += f"{n_parent:,} given a parent type only, " if result.parents else ""
    sentence += f"{n_rejected:,} left Unassigned"
    if labelled and labelled[-1].metrics["effective_accuracy"] is not None:
        n_labelled = labelled[-1].metrics["cells"]
        among = "" if n_labelled == n else f" (checked on {plural(n_labelled, 'labelled cell')})"
        agrees = percent(labelled[-1].metrics["effective_accuracy"])
        sentence += f"; {agrees} of the annotated cells agree with the file's labels{among}"
    calibration = target_calibration(training, result)
    expected = calibration.mean("error_among_assigned") if calibration else None
    if not labelled and calibration and calibration.n_annotated > 1 and expected is not None and n_types:
        sentence += (
            f"; about {percent(expected)} of the annotated cells are probably wrong"
            if expected
            else "; no annotated cell was wrong when each annotated batch was hidden in turn and annotated like this one"
        )
    facts = {
        "Data": ", ".join(map(last_name, run.parameters.paths)),
        "Target (annotated here)": f"{target}, {n:,} cells",
        "Learned from": _learned_from(training, plan),
        "Cell types it can give": f"{len(plan.classes)}: {listing(plan.classes, 15, quoted=False)}",
        "Alignment": f"{_alignment(training, result, run)}.",
        **({"Parent only": _fallback_sentence(result)} if result.parents else {}),
        "Confidence": f"above {_rounded_down(np.median(final.confidence))} for half of the cells, above "
        f"{_rounded_down(np.quantile(final.confidence, 0.1))} for nine tenths (1 is certain)",
    }
    if held_out:
        facts["Check on annotated batches"] = (
            f"{percent(held_out['effective_accuracy'])} of the annotated cells were right, on "
            f"{plural(int(held_out['cells']), 'cell')} held out of training; a new batch is usually harder"
        )
    if calibration is not None:
        facts["Errors to expect in a new batch"] = expected_error_sentence(calibration)
    if labelled:
        facts["Check on the target's own labels"] = _checked_against_labels(labelled[-1].metrics, result)
    distrust = [*_alignment_hurts(training, result), *_distrust(result, plan, labelled)]
    return Summary(sentence + ".", _numbers(result, calibration, held_out, labelled), facts, distrust)


def _rounded_down(confidence: float) -> str:
    """Return a confidence with two digits, rounded down, and never 1.00, which no cell reaches."""
    return f"{min(0.99, np.floor(100 * confidence) / 100):.2f}"


def _numbers(
    result: TargetResult,
    calibration: Calibration | None,
    held_out: Mapping[str, float] | None,
    labelled: list[StageResult],
) -> list[Number]:
    """Return the few numbers that most readers want."""
    n, n_parent = len(result.cells), int(result.fell_back.sum())
    n_rejected = int(result.final.rejected.sum()) - n_parent
    n_unlike = int((result.final.reasons == UNLIKE).sum())
    numbers = [
        Number("Annotated", percent((n - n_rejected - n_parent) / n), f"{n - n_rejected - n_parent:,} of {n:,} cells"),
        Number(
            UNASSIGNED,
            percent(n_rejected / n),
            f"{plural(n_rejected, 'cell')}: {n_rejected - n_unlike:,} ambiguous, {n_unlike:,} unlike all annotated cells",
        ),
    ]
    if result.parents:
        numbers.insert(
            1, Number("Parent type only", percent(n_parent / n), f"{plural(n_parent, 'cell')} of ambiguous type")
        )
    numbers.append(_expected_number(calibration, held_out))
    agrees = labelled[-1].metrics["effective_accuracy"] if labelled else None
    if agrees is not None:
        n_labelled = plural(labelled[-1].metrics["cells"], "labelled cell")
        words = f"of the annotated cells agree with the file's labels ({n_labelled})"
        numbers.append(Number("Checked here", percent(agrees), words))
    return numbers


def _expected_number(calibration: Calibration | None, held_out: Mapping[str, float] | None) -> Number:
    name = "Expected error"
    expected = calibration.mean("error_among_assigned") if calibration is not None else None
    if calibration is not None and expected is not None:
        if calibration.n_annotated == 1:
            words = (
                "of the annotated cells are wrong on cells held out of the only annotated batch; a new batch is harder"
            )
            return Number(name, f"> {percent(expected)}", words)
        lowest, highest = calibration.range("error_among_assigned") or (expected, expected)
        words = (
            "of the annotated cells are wrong, if this batch is like the annotated ones: each was hidden in turn and "
            f"annotated like this one ({100 * lowest:.1f} to {percent(highest)} wrong)"
        )
        if not highest:
            words = "no cell was wrong when each annotated batch was hidden in turn and annotated like this one"
        return Number(name, f"about {percent(expected)}" if highest else "none seen", words)
    if held_out is None:
        return Number(name, "not known", "there were no cells of known type to check")
    words = "of the held-out cells of the annotated batches are wrong; a new batch is harder"
    return Number(name, f"> {percent(1 - held_out['effective_accuracy'])}", words)


def _fallback_sentence(result: TargetResult) -> str:
    """Return how many ambiguous cells were given their type's parent, and how many of these parents are right."""
    numbers = count_fallbacks(result, result.fell_back)
    share = percent(numbers["cells"] / len(result.cells))
    text = f"{plural(numbers['cells'], 'cell')} ({share}) whose type is ambiguous and whose parent is not"
    if numbers["labelled"]:
        share = percent(numbers["right"] / numbers["labelled"])
        text += f"; by the file's labels {numbers['right']:,} of {numbers['labelled']:,} parents are right ({share})"
    return text


def _alignment(training: Mapping[str, Any], result: TargetResult, run: Run) -> str:
    """Return whether the target was aligned with the annotated batches, and why."""
    state = "aligned" if result.mode == AlignmentMode.ALIGNED else "not aligned"
    if run.parameters.ALIGN is not None or run.parameters.PRETRAINED_MODEL_PATH is not None:
        return f"{state}: ALIGN is {str(run.parameters.aligns).lower()}"
    if METHODS[run.parameters.METHOD].ALWAYS_ALIGNS:
        return f"{state}, as always in METHOD {run.parameters.METHOD}"
    return f"{state}. {alignment_reason(training)}"


def alignment_reason(training: Mapping[str, Any]) -> str:
    """Return why METHOD `default` aligned the target or did not, where ALIGN is not set."""
    return best_mode({mode: Calibration.from_json(values) for mode, values in training["calibration"].items()})[1]


def _checked_against_labels(all_cells: dict[str, Any], result: TargetResult) -> str:
    """Return how right the annotation is by the target's own labels: over all cells, and over the known types."""

    def accuracies(metrics: Mapping[str, Any]) -> str:
        after = metrics["effective_accuracy"]
        text = f"{percent(metrics['raw_accuracy'])} of the cells are right before rejection"
        return text if after is None else f"{text}, {percent(after)} of the annotated ones after it"

    text = f"{accuracies(all_cells)}; macro-F1 {all_cells['macro_F1']:.2f}"
    known, n_unknown = known_types_metrics(result), all_cells["unknown_type"]
    if n_unknown and known:
        text += (
            f". {plural(n_unknown, 'cell')} {'is' if n_unknown == 1 else 'are'} of a type that no annotated batch has; such "
            f"a cell is right only if it is Unassigned. Counted so, {percent(all_cells['accuracy'])} of all cells are "
            f"right. Without these types, {accuracies(known)}"
        )
    return f"{text}. The labels were used only for this check, not for training."


def expected_error_sentence(calibration: Calibration) -> str:
    """Return the errors to expect among the assigned cells of a new batch, and what this rests on."""
    target_error, mean = calibration.target_error, calibration.mean("error_among_assigned")
    n, n_annotated = calibration.n_left_out, calibration.n_annotated
    if target_error is not None and calibration.threshold is not None and calibration.threshold > 1:
        return (
            f"no confidence keeps them below {percent(target_error)} on the left-out batches, so every cell is "
            "Unassigned; set a higher TARGET_ERROR, or use REJECTION"
        )
    if mean is None:
        return "not known: no cell of a left-out batch was assigned"
    lowest, highest = calibration.range("error_among_assigned") or (mean, mean)
    if n_annotated == 1:
        text = f"{percent(mean)} on cells held out of the only annotated batch; a new batch is usually harder"
    else:
        text = (
            f"about {percent(mean)} of the assigned cells ({percent(lowest)} to {percent(highest)} in "
            f"{plural(n, 'annotated batch', 'annotated batches')} that {'was' if n == 1 else 'were'} left out of training "
            "in turn and annotated like the target), if its cell types are among the annotated ones"
        )
    if target_error is not None:
        errors = [row["error_among_assigned"] or 0.0 for row in calibration.batches if row["cells"]]
        text += (
            f". TARGET_ERROR asks for at most {percent(target_error)}; {sum(e <= target_error for e in errors)} of {n} "
            "batches met it with a threshold from the others: "
        )
        text += (
            f"about {n} of {n + 1} further batches like these should meet it, or more"
            if calibration.is_guarantee
            else f"with {plural(n_annotated, 'annotated batch', 'annotated batches')} ({n} left out) this is an estimate, "
            "no guarantee"
        )
    return text


def _learned_from(training: Mapping[str, Any], plan: Plan) -> str:
    if not plan.cells:
        n = plural(len(training["intermediates"]), "intermediate batch", "intermediate batches")
        return f"a saved model (source {training['source']}, {n})"
    batches = listing([f"{training['source']} (source)", *training["intermediates"]], 11, quoted=False)
    return f"{batches}: {plural(sum(sum(counts.values()) for counts in plan.cells.values()), 'labelled cell')}"


def _alignment_hurts(training: Mapping[str, Any], result: TargetResult) -> list[str]:
    """Return a warning where left-out batches were annotated better without alignment, else nothing."""
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
        f"{percent(without)} to {percent(aligned)}. Compare with a run with ALIGN false."
    ]


def _distrust(result: TargetResult, plan: Plan, labelled: list[StageResult]) -> list[str]:
    """Return what a reader should doubt, and why: a sentence for each kind of doubt, warnings first."""
    table, points = composition_table(result, plan), list(plan.warnings)
    rejected = table["rejected"] + table["parent_only"]
    most_like = table["annotated"] + rejected
    if labelled:
        missed = [
            f"{name} ({percent(row['recall'])} of {row['cells']:,} cells)"
            for name, row in labelled[-1].per_class.items()
            if row["cells"] >= 5 and row["recall"] < 0.5 and name in plan.classes
        ]
        if missed:
            points.append(
                f"By the file's labels, fewer than half of the cells of these types were recognised: {_first(missed)}."
            )
    else:
        points.append("The target has no labels for a check. Look at marker genes before you rely on a type.")
    unsure = [
        f"{name} ({rejected[name]:,} of the {most_like[name]:,} cells most like it)"
        for name in table.index[(most_like >= 5) & (rejected > MUCH_REJECTED * most_like)]
    ]
    if unsure:
        points.append(f"The model is unsure of these types and left many of their cells Unassigned: {_first(unsure)}.")
    few = table[(table["training_cells"] < FEW_CELLS) & (most_like > 0)] if plan.cells else table[:0]
    if len(few):
        names = [f"{name} ({plural(n, 'cell')})" for name, n in few["training_cells"].items()]
        points.append(
            f"These types were learned from few cells, so they are easily missed or mistaken: {_first(names)}."
        )
    odd = int((result.final.reasons == UNLIKE).sum())
    if odd:
        points.append(
            f"{plural(odd, 'Unassigned cell')} {'is' if odd == 1 else 'are'} unlike all cells of the annotated batches: "
            "perhaps of a cell type that these lack, or damaged."
        )
    if plan.dropped:
        points.append(f"Too rare in the annotated batches to be learned, so never predicted: {_first(plan.dropped)}.")
    never = [str(name) for name in table.index[most_like == 0]]
    if never:
        points.append(f"No cell is most like {_first(never)}: absent here, or missed.")
    unsupported = [name for name in result.without_evidence if most_like[name] > 0]
    if unsupported:
        points.append(
            f"Too few held-out cells to set a threshold for {_first(unsupported)}: their cells need a confidence of "
            f"{NO_EVIDENCE} instead."
        )
    for reason in dict.fromkeys(reason for reason in plan.left_out.values() if "none of" in reason):
        batches = [batch for batch, why in plan.left_out.items() if why == reason]
        points.append(f"Not used: {_first(batches)} ({reason}).")
    return points + plan.notes


def _first(names: list[str]) -> str:
    return listing(names, 6, quoted=False)


def one_line(run: Run) -> str:
    """Return the run's result in one line, for the terminal."""
    return summarise(load_finished(run), load_plan(run), load_training(run), run).sentence
