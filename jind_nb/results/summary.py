"""A run's result in sentences and a few numbers: the first page of the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..core.labels import OUTSIDE, UNASSIGNED, UNLIKE
from ..core.resources import templates
from ..core.text import listing, percent, plural
from ..data.plan import Plan
from ..model.calibration import Calibration, alignment_in_words
from ..model.expected_error import ExpectedError, expected_error
from ..model.history import StageResult
from ..model.predictions import NO_EVIDENCE
from ..model.state import AlignmentMode
from ..runs.folder import Run
from ..runs.stages import load_plan, load_training
from .load import load_finished
from .tables import composition_table, outside_notes, predictions_table
from .target import Level, TargetResult, evaluate_target, held_out_accuracy, target_calibration

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
    """The first page of the report, and what its other sentences are made of."""

    sentence: str
    numbers: list[Number]
    distrust: list[str]  # the most important first
    calibration: Calibration | None
    held_out: Mapping[str, float] | None
    labelled: dict[str, Any] | None  # the numbers of the last stage on the target's labelled cells


def summarise(result: TargetResult, plan: Plan, training: Mapping[str, Any]) -> Summary:
    """Summarise what was done, how certain it is and what to distrust, for a reader who does not know the project."""
    n, counts = len(result.cells), _count_levels(result)
    held_out = held_out_accuracy([StageResult(**stage) for stage in training["history"]])
    stages, calibration = evaluate_target(result, plan.target), target_calibration(training, result)
    labelled = stages[-1].metrics if stages else None
    sentence = f"{plan.target}: {counts[Level.TYPE]:,} of {n:,} cells annotated, "
    sentence += f"{counts[Level.PARENT]:,} given a parent type only, " if result.parents else ""
    sentence += f"{counts[Level.UNASSIGNED]:,} left Unassigned"
    expected = expected_error(result.final, calibration)
    if labelled and labelled["effective_accuracy"] is not None:
        among = "" if labelled["cells"] == n else f" (checked on {plural(labelled['cells'], 'labelled cell')})"
        agrees = percent(labelled["effective_accuracy"])
        sentence += f"; {agrees} of the annotated cells agree with the file's labels{among}"
    elif not labelled and expected.value is not None:
        sentence += f"; about {percent(expected.value)} of the annotated cells are probably wrong"
    if plan.dropped:
        types = plural(len(plan.dropped), "type is never predicted", "types are never predicted")
        sentence += f"; {types}: {listing(plan.dropped, 3, quoted=False)}"
    contradicted = [] if calibration is None else calibration.contradictions
    distrust = [*_alignment_hurts(training, result), *contradicted, *_distrust(result, plan, stages)]
    dropped = list(plan.dropped_shares.values())  # shares of labelled cells that no answer could be right about
    stated = _expected_number(expected, calibration, held_out, sum(dropped) / max(1, len(dropped)))
    numbers = _numbers(result, labelled, stated)
    return Summary(f"{sentence}.", numbers, distrust, calibration, held_out, labelled)


def _count_levels(result: TargetResult) -> dict[Level, int]:
    """Count the target's cells of each kind of answer."""
    return {level: int((result.level == level).sum()) for level in Level}


def _numbers(result: TargetResult, labelled: Mapping[str, Any] | None, expected_error: Number) -> list[Number]:
    """Return the few numbers that most readers want."""
    n, (n_types, n_parent, n_rejected) = len(result.cells), _count_levels(result).values()
    n_unlike = int((result.final.reasons == UNLIKE).sum())
    n_outside = int((result.final.reasons == OUTSIDE).sum())
    n_ambiguous = n_rejected - n_unlike - n_outside
    why = f"{plural(n_rejected, 'cell')}: {n_ambiguous:,} ambiguous, {n_unlike:,} unlike all annotated cells"
    why += f", {n_outside:,} not in TYPES" if result.types else ""
    numbers = [Number("Annotated", percent(n_types / n), f"{n_types:,} of {n:,} cells")]
    if result.parents:
        words = f"{plural(n_parent, 'cell')} of ambiguous type"
        numbers.append(Number("Parent type only", percent(n_parent / n), words))
    numbers += [Number(UNASSIGNED, percent(n_rejected / n), why), expected_error]
    if labelled and labelled["effective_accuracy"] is not None:
        n_labelled = plural(labelled["cells"], "labelled cell")
        words = f"of the annotated cells agree with the file's labels ({n_labelled})"
        numbers.append(Number("Checked here", percent(labelled["effective_accuracy"]), words))
    return numbers


def _expected_number(
    expected: ExpectedError, calibration: Calibration | None, held_out: Mapping[str, float] | None, dropped: float = 0.0
) -> Number:
    """Return the share of wrong cells to expect among the annotated ones, and what it rests on."""
    name = "Expected error"
    if expected.value is not None and expected.range is not None:
        low, high = expected.range
        words = f"of the annotated cells are wrong, probably {100 * low:.1f} to {percent(high)}. {expected.basis}"
        return Number(name, f"about {percent(expected.value)}", words)
    of_batch = calibration.mean("error_among_assigned") if calibration and calibration.n_annotated == 1 else None
    if of_batch is None and held_out is not None:
        of_batch = 1 - held_out["effective_accuracy"] * (1 - dropped)
    if of_batch is None:
        return Number(name, "not known", expected.basis)
    words = f"{percent(of_batch)} of the cells held out of the annotated batches are wrong, and a new batch is harder."
    return Number(name, "not known", f"{expected.basis} {words}")


def alignment_reason(training: Mapping[str, Any]) -> str:
    """Return how much of an answer of METHOD `default` comes from where alignment moved the target."""
    return alignment_in_words(
        {mode: Calibration.from_json(of_mode) for mode, of_mode in training["calibration"].items()}
    )


def expected_error_sentence(calibration: Calibration) -> str:
    """Return the errors to expect among the assigned cells of a new batch, and what this rests on."""
    text = templates().get_template("expected_error.txt.j2").render(calibration=calibration)
    return text.replace("\n", " ")


def _alignment_hurts(training: Mapping[str, Any], result: TargetResult) -> list[str]:
    """Return a warning where left-out batches were annotated better without alignment, else nothing."""
    right = [
        {row["batch"]: row["raw_accuracy"] for row in training["calibration"].get(mode, {"batches": []})["batches"]}
        for mode in (AlignmentMode.UNALIGNED, AlignmentMode.ALIGNED)
    ]
    both = pd.DataFrame(right, dtype=float).dropna(axis=1)
    without, aligned = both.mean(axis=1)
    if result.mode != AlignmentMode.ALIGNED or not training["intermediates"] or not without - aligned >= MUCH_LOST:
        return []
    return [
        f"On the annotated batches left out of training, alignment lowered the share of right cells from "
        f"{percent(without)} to {percent(aligned)}. Compare with a run with ALIGN false."
    ]


def _distrust(result: TargetResult, plan: Plan, labelled: list[StageResult]) -> list[str]:
    """Return what a reader should doubt, and why: a sentence for each kind of doubt, warnings first."""
    table = composition_table(result, plan)
    rejected = table["rejected"] + table["parent_only"]
    most_like = table["annotated"] + rejected
    missed = [
        f"{name} ({percent(row['recall'])} of {row['cells']:,} cells)"
        for name, row in (labelled[-1].per_class.items() if labelled else ())
        if row["cells"] >= 5 and row["recall"] < 0.5 and name in plan.classes
    ]
    unsure = table.index[(most_like >= 5) & (rejected > MUCH_REJECTED * most_like)]
    few = table.loc[(table["training_cells"].astype(float) < FEW_CELLS) & (most_like > 0), "training_cells"]
    n_odd = int((result.final.reasons == UNLIKE).sum())
    odd = [plural(n_odd, "Unassigned cell is", "Unassigned cells are")] if n_odd else []
    unchecked = [] if labelled else [plan.target]
    not_known = [name for name in result.types if name not in plan.classes]
    doubts: dict[str, Sequence[str]] = {
        "By the file's labels, fewer than half of the cells of these types were recognised: {}.": missed,
        "The target has no labels for a check. Look at marker genes before you rely on a type.": unchecked,
        "The model is unsure of these types and left many of their cells Unassigned: {}.": [
            f"{name} ({rejected[name]:,} of its {most_like[name]:,} candidate cells)" for name in unsure
        ],
        "These types were learned from few cells, so they are easily missed or mistaken: {}.": [
            f"{name} ({plural(n, 'cell')})" for name, n in few.items()
        ],
        "{} unlike all cells of the annotated batches: perhaps of a cell type that these lack, or damaged.": odd,
        "All their labelled cells are empty, so these types are never predicted: {}.": [
            name for name in plan.dropped if name not in {row["cell_type"] for row in plan.too_rare}
        ],
        "TYPES names {}, which no annotated cell has; ignored.": not_known,
        "No cell is most like {}: absent here, or missed.": [
            name for name in table.index[most_like == 0] if not result.types or name in result.types
        ],
        f"Too few held-out cells to set a threshold for {{}}: their cells need a confidence of {NO_EVIDENCE} instead.": [
            name for name in result.without_evidence if most_like[name]
        ],
    }
    for reason in dict.fromkeys(reason for reason in plan.left_out.values() if "none of" in reason):
        batches = [batch for batch, why in plan.left_out.items() if why == reason]
        doubts[f"Not used: {{}} ({reason})."] = batches
    named = [text.replace("{}", listing(names, 6, quoted=False), 1) for text, names in doubts.items() if len(names)]
    return [*plan.warnings, *outside_notes(predictions_table(result)), *named, *plan.notes]


def as_text(summary: Summary) -> str:
    """Return the first page as plain text."""
    lines = [summary.sentence, *(f"{number.name}: {number.value} {number.words}" for number in summary.numbers)]
    if summary.distrust:
        lines += ["Check before you use these labels:", *(f"- {point}" for point in summary.distrust)]
    return "\n".join(lines)


def one_line(run: Run) -> str:
    """Return the run's result in one line, for the terminal."""
    if run.each_target == [run]:
        return summarise(load_finished(run), load_plan(run), load_training(run)).sentence
    answers = pd.read_parquet(run.predictions_parquet, columns=["predictions"])["predictions"]
    rejected = int((answers == UNASSIGNED).sum())
    of = f"{len(answers) - rejected:,} of {len(answers):,} cells annotated, {rejected:,} left Unassigned"
    return f"{len(run.each_target)} samples ({run.parameters.target}): {of}."
