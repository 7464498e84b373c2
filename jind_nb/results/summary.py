"""A run's result in sentences and a few numbers: the first page of the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from ..core.labels import DOUBLET, NO_VALUES, OUTSIDE, UNASSIGNED, UNLIKE
from ..core.resources import templates
from ..core.text import about, listing, percent, plural
from ..data.plan import Plan
from ..metrics import highest_error_of_none
from ..model.calibration import Calibration, alignment_in_words
from ..model.expected_error import ExpectedError, expected_error
from ..model.history import StageResult
from ..model.label_errors import batch_stands_apart
from ..model.predictions import NO_EVIDENCE
from ..model.state import AlignmentMode
from ..runs.folder import Run
from ..runs.stages import load_plan, load_training
from .across import in_one_sentence
from .load import load_finished
from .new_groups import FEATURES, FEATURES_OF_OTHERS, HIGHER_THAN_ALL, MUCH_LIKE
from .predicted import Predicted
from .tables import (
    composition_table,
    left_out_confusion,
    most_like_shares,
    outside_notes,
    predictions_table,
)
from .target import (
    MANY_UNLIKE,
    Level,
    TargetResult,
    counts_in_words,
    evaluate_target,
    held_out_accuracy,
    target_calibration,
)

# The end of the expected error's interval is named beside it if it is so far above, or a little and so many times as high.
WIDE, NAMED, TIMES = 0.2, 0.02, 2
FEW_CELLS = 30  # a type learned from fewer is listed as something to distrust
# A type that fewer cells were given, and less than this share of the target, is listed too: a third of such cells are wrong
# (`python -m benchmarks.research.few_cells`).
FEW_ASSIGNED, SMALL_SHARE = 5, 0.01

SELDOM = 0.5  # of the cells of types that were hidden in turn, that were noticed

MUCH_REJECTED = 0.3

SEVERAL = 5  # cells that are most like a type

MOST_NEAREST = 3  # types that are named as the nearest of cells unlike all annotated ones
MOST_FEATURES, MOST_TOLD = 3, 4  # features that tell such a group, and groups
POOR = 0.6  # of the median features of the target's other cells: a group with fewer may be damaged cells
WHAT_IS_HIGHER = "Groups of these cells, by what is higher in them than in {}: {{}}."
ALL_TYPES, TYPES_OF_FILE = "all types", "each type that ten or more cells here were given"

ASSIGNED_CELLS = "the assigned cells"

NO_CHECK = "The answers were not compared with labels. Look at known markers before you rely on a type."

# Of all cells, that a type has more or fewer than in any annotated batch, or in the only one.
MUCH_APART, MUCH_APART_FROM_ONE = 0.1, 0.2

MUCH_LOST = 0.02  # of accuracy, by alignment, on left-out batches

FAR_BELOW = 0.2  # of a left-out batch's cells, that fewer are assigned, or right, than in the median other one
FEWEST_LEFT_OUT = 20  # cells of a left-out batch whose shares say something

MANY_UNCHECKED = 0.1  # of the assigned cells: their types could not be checked on left-out ones

# A type is named if, of so many left-out cells of it or called so, fewer than this share were right; at most so many types.
ENOUGH_OF_A_TYPE, MOSTLY_RIGHT, MOST_MISTAKEN = 10, 0.6, 5

# Shares of `Calibration.batches` that are compared, in words.
COMPARED = {"assigned": "of its cells assigned", "raw_accuracy": "of its cells right before rejection"}


@dataclass(frozen=True)
class Number:
    """One number of the first page: its name, its value as text, and its meaning in half a sentence."""

    name: str
    value: str
    words: str
    basis: str = ""  # what it rests on, in sentences


@dataclass
class Summary:
    """The first page of the report, and what its other sentences are made of."""

    sentence: str
    numbers: list[Number]
    distrust: list[str]  # the most important first
    calibration: Calibration | None
    held_out: Mapping[str, float] | None
    labelled: dict[str, Any] | None  # the numbers of the last stage on the target's labelled cells
    error: ExpectedError


def summarise(result: TargetResult, plan: Plan, training: Mapping[str, Any]) -> Summary:
    """Summarise what was done, how certain it is and what to distrust, for a reader who does not know the project."""
    n, counts = len(result.cells), _count_levels(result)
    held_out = held_out_accuracy([StageResult(**stage) for stage in training["history"]])
    stages, calibration = evaluate_target(result, plan.target), target_calibration(training, result)
    labelled = stages[-1].metrics if stages else None
    n_unlike = int((result.reasons == UNLIKE).sum())
    sentence = f"{plan.target}: {counts_in_words(counts, n_unlike)}"
    expected = expected_error(result.final, calibration)
    if labelled and labelled["effective_accuracy"] is not None:
        among = "" if labelled["cells"] == n else f" (checked on {plural(labelled['cells'], 'labelled cell')})"
        agrees = percent(labelled["effective_accuracy"])
        sentence += f"; {agrees} of the assigned cells agree with the file's labels{among}"
    elif not labelled:
        sentence += _probably_wrong(expected)
    if plan.dropped:
        types = plural(len(plan.dropped), "type is never predicted", "types are never predicted")
        sentence += f"; {types}: {listing(plan.dropped, 3, quoted=False)}"
    contradicted = [] if calibration is None else calibration.contradictions
    doubts_of_batches = [*_alignment_hurts(training, result), *contradicted, *_left_out_worse(calibration, "target")]
    distrust = [
        *_worse_than_expected(result, expected, labelled),
        *doubts_of_batches,
        *_doubtful_types(composition_table(result, plan), calibration, plan.classes),
        *_seldom_noticed(calibration),
        *_distrust(result, plan, stages),
    ]
    dropped = list(plan.dropped_shares.values())  # shares of labelled cells that no answer could be right about
    stated = _expected_number(expected, calibration, held_out, sum(dropped) / max(1, len(dropped)))
    reasons = ({OUTSIDE: 0} if result.types else {}) | pd.Series(result.reasons).value_counts().to_dict()
    numbers = _numbers(counts, reasons, stated)
    if labelled and labelled["effective_accuracy"] is not None:
        n_compared = labelled["cells"] - labelled["rejected"]
        of = f"{n_compared:,} assigned of {plural(labelled['cells'], 'labelled cell')}"
        words = f"of the assigned cells agree with the file's labels ({of})"
        numbers.append(Number("Checked here", percent(labelled["effective_accuracy"]), words))
    return Summary(f"{sentence}.", numbers, distrust, calibration, held_out, labelled, expected)


def _count_levels(result: TargetResult) -> dict[Level, int]:
    """Count the target's cells of each kind of answer; parents only where there are any."""
    levels = [level for level in Level if result.parents or level != Level.PARENT]
    return {level: int((result.level == level).sum()) for level in levels}


def _probably_wrong(expected: ExpectedError, of_cells: str = ASSIGNED_CELLS) -> str:
    if expected.value is None:
        return ""
    high = expected.value if expected.range is None else expected.range[1]
    above = high - expected.value
    is_named = above > WIDE or (above >= NAMED and high >= TIMES * expected.value)
    why = ", since there may be a new type" if expected.unseen > above / 2 else ""
    up_to = f", perhaps up to {percent(high)}{why}" if is_named else ""
    return f"; {about(expected.value)} of {of_cells} are probably wrong{up_to}"


def _numbers(levels: Mapping[Level, int], reasons: Mapping[str, int], expected_error: Number) -> list[Number]:
    """Return the few numbers that most readers want, from the cells of each kind of answer and of each reason."""
    n, n_rejected = sum(levels.values()), levels[Level.UNASSIGNED]
    words = {
        UNLIKE: "unlike all annotated cells",
        OUTSIDE: "not in TYPES",
        NO_VALUES: "without values",
        DOUBLET: "doublets",
    }
    others = {reason: reasons.get(reason, 0) for reason in words if reason in reasons or reason == UNLIKE}
    why = f"{plural(n_rejected, 'cell')}: {n_rejected - sum(others.values()):,} ambiguous"
    why += "".join(f", {count:,} {words[reason]}" for reason, count in others.items())
    numbers = [Number("Assigned", percent(levels[Level.TYPE] / n), f"{levels[Level.TYPE]:,} of {n:,} cells")]
    if Level.PARENT in levels:
        n_parent = levels[Level.PARENT]
        numbers.append(
            Number("Parent type only", percent(n_parent / n), f"{plural(n_parent, 'cell')} of ambiguous type")
        )
    return [*numbers, Number(UNASSIGNED, percent(n_rejected / n), why), expected_error]


def _expected_number(
    expected: ExpectedError,
    calibration: Calibration | None,
    held_out: Mapping[str, float] | None,
    dropped: float = 0.0,
    of_cells: str = ASSIGNED_CELLS,
) -> Number:
    """Return the share of wrong cells to expect among the assigned ones, and what it rests on."""
    name = "Expected error"
    if expected.value is not None and expected.range is not None:
        low, high = expected.range
        words = f"of {of_cells} are wrong, probably {100 * low:.1f} to {percent(high)}"
        return Number(name, about(expected.value), words, expected.basis)
    basis = expected.basis
    if calibration and calibration.n_annotated == 1 and calibration.n_assigned:
        basis += f" {_wrong_of_held_out(calibration)}; a new batch is harder. Cells of a type that it lacks are not counted, and may have got a name."
    elif held_out is not None and held_out["assigned"]:
        counted = ", those of types too rare to be learned included" if dropped else ""
        basis += (
            f" {percent(1 - held_out['effective_accuracy'] * (1 - dropped))} of the assigned ones among the cells held out of "
            f"training are wrong{counted}, and a new batch is harder."
        )
    return Number(name, "not known", "how many of the assigned cells are wrong", basis)


def alignment_reason(training: Mapping[str, Any]) -> str:
    """Return how much of an answer of METHOD `default` comes from where alignment moved the target."""
    return alignment_in_words(
        {mode: Calibration.from_json(of_mode) for mode, of_mode in training["calibration"].items()}
    )


def expected_error_sentence(calibration: Calibration) -> str:
    """Return the errors to expect among the assigned cells of a new batch, and what this rests on."""
    template = templates().get_template("expected_error.txt.j2")
    text = template.render(
        calibration=calibration,
        highest_error_of_none=highest_error_of_none,
        wrong_of_held_out=_wrong_of_held_out,
    )
    return text.replace("\n", " ")


def _wrong_of_held_out(calibration: Calibration) -> str:
    """Return how many of the assigned cells held out of the only annotated batch were wrong."""
    error, n = calibration.mean("error_among_assigned") or 0.0, calibration.n_assigned
    wrong = f"{percent(error)} were" if error else "none was"
    by_chance = f" (up to {percent(highest_error_of_none(n))} may be, by chance)" if not error else ""
    counted = ", cells of types too rare to be learned counted in" if calibration.dropped else ""
    which = "Of the {:,} assigned among {} held out of the only annotated batch, once confidences were calibrated"
    held_out = plural(sum(row["cells"] for row in calibration.batches), "cell")
    return f"{which.format(n, held_out)}, {wrong} wrong{by_chance}{counted}"


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
        f"On the annotated batches left out of training, alignment lowered the share of cells that are right before rejection from "
        f"{percent(without)} to {percent(aligned)}. Compare with a run with ALIGN false."
    ]


def far_below(
    batches: Sequence[Mapping[str, Any]], least: float = FAR_BELOW
) -> dict[str, dict[str, tuple[float, float]]]:
    """Return which left-out batches did far worse than the others, the worst first.

    It finds one in two fifths of the runs with all other batches annotated (`python -m benchmarks.research.left_out_apart`).

    Parameters
    ----------
    batches
        Rows as `Calibration.batches` has them, of two batches or more.

    Returns
    -------
    Batch -> those of COMPARED that are `least` below the median of the other batches -> its share, and that median.
    """
    some = [row for row in batches if row["cells"] >= FEWEST_LEFT_OUT]
    table = pd.DataFrame(some, columns=["batch", *COMPARED]).set_index("batch").astype(float)
    found = {}
    for name, own in table.iterrows():
        others = table.drop(index=name).median()
        low = {of: (float(own[of]), float(others[of])) for of in COMPARED if others[of] - own[of] >= least}
        if low:
            found[str(name)] = low
    return dict(sorted(found.items(), key=lambda of: -max(others - own for own, others in of[1].values())))


def _worse_than_expected(
    result: TargetResult, expected: ExpectedError, labelled: Mapping[str, Any] | None
) -> list[str]:
    """Return a list with a warning where, by the target's labels, more of the assigned cells are wrong than the expected error's
    interval allows for, else an empty one."""
    if labelled is None or result.labels is None or expected.range is None or labelled["effective_accuracy"] is None:
        return []
    error, high = 1 - labelled["effective_accuracy"], expected.range[1]
    if not error > high:
        return []
    assigned = pd.notna(result.labels) & ~result.final.rejected
    n_new = int((assigned & ~pd.Series(result.labels).isin(result.final.classes)).sum())
    unseen = (
        f" It cannot see types that no annotated batch has: those of {n_new:,} of the wrong cells." if n_new else ""
    )
    n_wrong = labelled["misclassified"]
    return [
        f"By the file's labels, {percent(error)} of the assigned cells are wrong ({n_wrong:,} of {assigned.sum():,}), more than the "
        f"expected error allows for ({percent(expected.range[0])} to {percent(high)}).{unseen}"
    ]


def _doubtful_types(types: pd.DataFrame, calibration: Calibration | None, classes: Sequence[str]) -> list[str]:
    """Return warnings on the types given here: those that no left-out cell could check, those that left-out cells were often given
    wrongly, and those whose left-out cells often got no such answer, the worst first; `types` as `tables.count_types` returns it."""
    found = left_out_confusion(calibration, list(classes))
    if calibration is None or found is None:
        return []
    counts = found.reindex(index=classes, columns=[*classes, UNASSIGNED], fill_value=0)
    wrong, missed = [], []
    for name in types.index[types["assigned"] > 0]:
        n_called, n_own, n_right = int(counts[name].sum()), int(counts.loc[name].sum()), int(counts.loc[name, name])
        if n_called >= ENOUGH_OF_A_TYPE and n_right < MOSTLY_RIGHT * n_called:
            wrong.append((n_right / n_called, f"{name} ({n_called - n_right:,} of {n_called:,})"))
        if n_own >= ENOUGH_OF_A_TYPE and n_right < MOSTLY_RIGHT * n_own:
            others = counts.loc[name].drop([name, UNASSIGNED])
            otherwise = f"; {plural(int(others.max()), 'was', 'were')} called {others.idxmax()}" if others.any() else ""
            none = f"; {counts.loc[name, UNASSIGNED]:,} got none" if counts.loc[name, UNASSIGNED] else ""
            missed.append((n_right / n_own, f"{name} ({n_right:,} of {n_own:,}{otherwise}{none})"))
    unchecked = {} if calibration.n_annotated == 1 else _unchecked_types(types, counts)
    which = "cells held out of the only annotated batch" if calibration.n_annotated == 1 else "left-out cells"
    doubts = {
        f"Of the {which} that were called one of these types, many were of another: {{}}. Cells called so here may be, too.": wrong,
        f"Of the {which} of these types, fewer than {100 * MOSTLY_RIGHT:.0f} % got their own type: {{}}. Here, too, cells of them may "
        "have got another, or none.": missed,
    }
    worst = {text: [words for _, words in sorted(named)[:MOST_MISTAKEN]] for text, named in doubts.items()}
    return _named(unchecked | worst)


def _unchecked_types(types: pd.DataFrame, counts: pd.DataFrame) -> dict[str, Sequence[str]]:
    """Return the doubt that many cells are of types of which no left-out cell could be checked (often one annotated batch alone has
    them); `counts` are of left-out cells by type and answer."""
    n_left_out, n_assigned = counts.sum(axis=1), types["assigned"].sum()
    of_unchecked = types["assigned"][n_left_out.reindex(types.index, fill_value=0) == 0]
    if of_unchecked.sum() < MANY_UNCHECKED * n_assigned:
        return {}
    named = [f"{name} ({n:,})" for name, n in of_unchecked[of_unchecked > 0].items()]
    text = (
        f"{of_unchecked.sum():,} of the {n_assigned:,} assigned cells were given types of which no left-out cell could be checked: {{}}. "
        "The errors of left-out batches tell nothing about them."
    )
    return {text: named}


def _seldom_noticed(calibration: Calibration | None) -> list[str]:
    """Return a list with a warning where most cells of a new type would not be noticed, else an empty one."""
    if calibration is None or not calibration.noticed:
        return []
    noticed = float(np.mean(list(calibration.noticed.values())))
    if noticed >= SELDOM:
        return []
    return [
        f"A new cell type could go unnoticed here: of annotated types that were hidden in turn, {percent(noticed)} of the cells were found unlike "
        "all others, on average."
    ]


def _left_out_worse(calibration: Calibration | None, target: str) -> list[str]:
    """Return a list with a warning on left-out batches that did far worse than the others, and what it means for the target, else
    an empty one. How often a batch is right is left to the warning on its labels where there is one."""
    if calibration is None or calibration.n_annotated == 1:
        return []
    found = far_below(calibration.batches)
    for name, low in found.items():
        if any(text.startswith(batch_stands_apart(name)) for text in calibration.contradictions):
            low.pop("raw_accuracy", None)
    found = {name: low for name, low in found.items() if low}
    if not found:
        return []
    compared = [row["batch"] for row in calibration.batches if row["cells"] >= FEWEST_LEFT_OUT]
    is_pair = len(compared) == 2
    each = []
    for name, low in found.items():
        beside = next(str(other) for other in compared if str(other) != name) if is_pair else "the median other batch"
        shares = [f"{percent(own)} {COMPARED[of]}, {percent(others)} in {beside}" for of, (own, others) in low.items()]
        each.append(f"{name} ({'; '.join(shares)})")
    measures, meaning = {of for low in found.values() for of in low}, []
    if "raw_accuracy" in measures:
        meaning.append("more of its labels may be wrong than the expected error says")
    if "assigned" in measures:
        meaning.append("its Unassigned cells, also those unlike the annotated ones, may well be of annotated types")
    these, one = ("this annotated batch", "it") if len(each) == 1 else ("these annotated batches", "one of them")
    did = "did far worse than" if "raw_accuracy" in measures else "had far fewer cells assigned than"
    worse = f"{these} {did} the rest"
    if is_pair:
        worse, one = f"one annotated batch {did} another", next(iter(found)) if len(each) == 1 else one
    return [
        f"Left out of training, {worse}: {listing(each, 6, quoted=False)}. If the {target} is like {one} "
        f"(in condition, protocol or tissue), {' and '.join(meaning)}."
    ]


def _distrust(result: TargetResult, plan: Plan, labelled: list[StageResult]) -> list[str]:
    """Return what a reader should doubt, and why: a sentence for each kind of doubt, warnings first."""
    table = composition_table(result, plan)
    missed = [
        f"{name} ({percent(row['recall'])} of {row['cells']:,} cells)"
        for name, row in (labelled[-1].per_class.items() if labelled else ())
        if row["cells"] >= 5 and row["recall"] < 0.5 and name in plan.classes
    ]
    unchecked = [] if labelled else [plan.target]
    not_known = [name for name in result.types if name not in plan.classes]
    unlike = _doubt_of_unlike(table, result.reasons == UNLIKE, result.labels)
    unlike |= _doubt_of_groups(result.groups, ALL_TYPES)
    doubts: dict[str, Sequence[str]] = {
        **(unlike if (result.reasons == UNLIKE).mean() > MANY_UNLIKE else {}),  # first, then: a key keeps its place
        "By the file's labels, fewer than half of the cells of these types are most like their own type: {}.": missed,
        NO_CHECK: unchecked,
        **_doubts_of_types(table),
        **unlike,
        "All their labelled cells are empty, so these types are never predicted: {}.": [
            name for name in plan.dropped if name not in {row["cell_type"] for row in plan.too_rare}
        ],
        "TYPES names {}, which no annotated cell has; ignored.": not_known,
        **_absent_types(table, result.types),
        **_other_composition(table, plan),
        f"Too few held-out cells to set a threshold for {{}}: their cells need a confidence of {NO_EVIDENCE} instead.": [
            name for name in result.without_evidence if _most_like(table)[name]
        ],
    }
    for reason in dict.fromkeys(reason for reason in plan.left_out.values() if "none of" in reason):
        batches = [batch for batch, why in plan.left_out.items() if why == reason]
        doubts[f"Not used: {{}} ({reason})."] = batches
    return [*plan.warnings, *outside_notes(predictions_table(result)), *_named(doubts), *plan.notes]


def _doubt_of_unlike(
    table: pd.DataFrame, unlike: np.ndarray, labels: np.ndarray | None = None
) -> dict[str, Sequence[str]]:
    """Return the doubt that there are cells unlike all annotated ones, bool (n,), with the types that are nearest and what the file's
    labels say of them; `table` as `tables.count_types` returns it."""
    if not unlike.any():
        return {}
    classes, nearest = table.index, table["unlike"].sort_values(ascending=False, kind="stable")
    names = listing((f"{name} ({n:,})" for name, n in nearest[nearest > 0].items()), MOST_NEAREST, quoted=False)
    first, n_learned = nearest.index[0], float(table["training_cells"].astype(float)[nearest.index[0]])
    or_few = f"; or {first}, which was learned from {plural(int(n_learned), 'cell')}" if n_learned < FEW_CELLS else ""
    text = (
        f"{{}} unlike all annotated cells, nearest to {names}: perhaps of a cell type or subtype that the annotated batches lack, in "
        f"another state, damaged, or doublets{or_few}."
    )
    if labels is not None and (known := pd.notna(labels[unlike])).any():
        of_annotated = int(np.isin(labels[unlike][known], classes).sum())
        text += f" By the file's labels, {of_annotated:,} of {plural(int(known.sum()), 'labelled one')} are of annotated types."
    return {text: [plural(int(unlike.sum()), "Unassigned cell is", "Unassigned cells are")]}


def _doubt_of_groups(groups: pd.DataFrame | None, types: str) -> dict[str, Sequence[str]]:
    """Return what is higher in the groups of cells unlike all annotated ones than in some types, in words; nothing without groups."""
    return {} if groups is None else {WHAT_IS_HIGHER.format(types): [groups_in_words(groups)]}


def groups_in_words(groups: pd.DataFrame) -> str:
    """Return what is higher in the groups of cells unlike all annotated ones than in all types, the largest first; groups that are much
    alike are told as one. `groups` is `new_groups.find_groups`'s table."""
    place = {name: i for i, name in enumerate(groups.index)}
    links = [(place[name], place[other]) for name, others in groups[MUCH_LIKE].items() for other in others]
    is_linked = np.zeros((len(groups), len(groups)), dtype=bool)
    is_linked[tuple(np.array(links, dtype=int).reshape(-1, 2).T)] = True
    kind = connected_components(sparse.csr_matrix(is_linked), directed=False)[1]
    found = []
    for _, these in groups.groupby(kind, sort=False):
        asked = [higher for higher in these[HIGHER_THAN_ALL] if higher is not None]
        higher: list[str] = next(filter(None, asked), [])  # the largest group's that has any
        n, is_poor = int(these["cells"].sum()), these[FEATURES] < POOR * these[FEATURES_OF_OTHERS]
        n_poor = int(these["cells"][is_poor].sum())
        words = plural(n, "cell") + (f" in {len(these)} groups that are much alike" if len(these) > 1 else "")
        if n_poor:
            words += f", {'all' if n_poor == n else f'{n_poor:,}'} of them with few features: perhaps damaged"
        elif asked and not higher:
            words += ": perhaps of an annotated type in another state, or damaged"
        first = ", ".join(higher[:MOST_FEATURES]) or ("no feature" if asked else "no type to compare with")
        found.append(f"{first} ({words})")
    more = f"; and {plural(len(found) - MOST_TOLD, 'more group')}" if len(found) > MOST_TOLD else ""
    return "; ".join(found[:MOST_TOLD]) + more


def _doubts_of_types(table: pd.DataFrame) -> dict[str, Sequence[str]]:
    """Return the doubts that a `tables.count_types` shows."""
    rejected, most_like = table["rejected"] + table["parent_only"] - table["unlike"], _most_like(table)
    unassigned = table.index[(most_like >= SEVERAL) & (rejected > MUCH_REJECTED * most_like)]
    n_cells = table[["assigned", "parent_only", "rejected"]].to_numpy().sum()
    of_few = table["assigned"].between(1, FEW_ASSIGNED - 1) & (table["assigned"] < SMALL_SHARE * n_cells)
    is_here = most_like + table["unlike"] > 0
    few = table.loc[(table["training_cells"].astype(float) < FEW_CELLS) & is_here, "training_cells"]
    others = " (not counting those unlike all annotated cells)" if table["unlike"].any() else ""
    return {
        f"Many of the cells that are most like these types are Unassigned{others}: {{}}.": [
            f"{name} ({rejected[name]:,} of {most_like[name]:,})" for name in unassigned
        ],
        "Only a few cells were given these types, and such answers are often wrong (look at known markers): {}.": [
            f"{name} ({plural(n, 'cell')})" for name, n in table.loc[of_few, "assigned"].items()
        ],
        "These types were learned from few cells, so they are easily missed or mistaken: {}.": [
            f"{name} ({plural(n, 'cell')})" for name, n in few.items()
        ],
    }  # fmt: skip


def _absent_types(table: pd.DataFrame, types: Sequence[str]) -> dict[str, Sequence[str]]:
    absent = [name for name in table.index[_most_like(table) == 0] if not types or name in types]
    unlike = [name for name in absent if table.loc[name, "unlike"]]
    # Of those that several cells are most like it is said that many of these are Unassigned.
    is_without = (table["assigned"] == 0) & (table["parent_only"] == 0) & _most_like(table).between(1, SEVERAL - 1)
    without = [name for name in table.index[is_without] if not types or name in types]
    training = table["training_cells"].astype(float)

    def told(name: str, n_cells: int = 0) -> str:
        here = [plural(n_cells, "cell")] if n_cells else []
        few = [f"learned from {plural(int(training[name]), 'cell')}"] if training[name] < FEW_CELLS else []
        return f"{name} ({', '.join(here + few)})" if here or few else name

    return {
        "No cell is most like {}: absent here, or missed.": [told(name) for name in absent if name not in unlike],
        "No cell is assigned to these types, though some are most like them: {}. They are absent here, or missed.": [
            told(name, int(_most_like(table)[name])) for name in without
        ],
        "All cells that are most like {} are unlike all annotated cells: the type itself in another state, or a new one.": [
            f"{name} ({table.loc[name, 'unlike']:,})" for name in unlike
        ],
    }


def _other_composition(table: pd.DataFrame, plan: Plan) -> dict[str, Sequence[str]]:
    """Return a doubt where the target's composition is not one that the annotated batches have; a single one has but its own."""
    shares = most_like_shares(table, plan)
    if len(plan.cells) == 1:
        apart = shares[(shares["here"] - shares["mean"]).abs() > MUCH_APART_FROM_ONE]
        one = [f"{name} ({percent(row['here'])}, there {percent(row['mean'])})" for name, row in apart.iterrows()]
        return {"The share of cells most like these types is far from that in the only annotated batch: {}.": one}
    others = [
        f"{name} ({percent(row['here'])}, elsewhere {percent(row['low'])} to {percent(row['high'])})"
        for name, row in shares.iterrows()
        if max(row["low"] - row["here"], row["here"] - row["high"]) > MUCH_APART
    ]
    counted = " (cells unlike all annotated ones not counted)" if table["unlike"].any() else ""
    return {
        f"The share of cells most like these types{counted} is far from that in every annotated batch: {{}}.": others
    }


def _most_like(table: pd.DataFrame) -> pd.Series:
    """Return how many cells are most like each type, whatever became of them, but those that are unlike all annotated ones."""
    return table["assigned"] + table["rejected"] + table["parent_only"] - table["unlike"]


def _named(doubts: Mapping[str, Sequence[str]]) -> list[str]:
    return [text.replace("{}", listing(names, 6, quoted=False), 1) for text, names in doubts.items() if len(names)]


def summarise_prediction(
    predicted: Predicted, types: pd.DataFrame, plan: Plan, calibration: Calibration | None
) -> Summary:
    """Summarise what a saved model says of a new file.

    Parameters
    ----------
    types
        Its `tables.count_types`.
    plan
        Its `cells` are the annotated ones that the model keeps.
    calibration
        Of how the model annotated it; None where no annotated batch was left out.
    """
    counts = predicted.levels
    name = Path(predicted.run.parameters.paths[0]).name
    of_cells = f"{ASSIGNED_CELLS} that are new to the model" if predicted.n_learned else ASSIGNED_CELLS
    reasons = predicted.table["reason"].value_counts().to_dict()
    unlike = (predicted.table["reason"] == UNLIKE).to_numpy()
    sentence = f"{name}: {counts_in_words(counts, int(unlike.sum()))}{_probably_wrong(predicted.error, of_cells)}."
    groups = None if predicted.groups is None else predicted.groups.table
    doubt_of_unlike = _doubt_of_unlike(types, unlike) | _doubt_of_groups(groups, TYPES_OF_FILE)
    doubts = {
        **(doubt_of_unlike if unlike.mean() > MANY_UNLIKE else {}),
        NO_CHECK: [name],
        **_doubts_of_types(types),
        **doubt_of_unlike,
        **_absent_types(types, predicted.run.parameters.TYPES),
        **_other_composition(types, plan),
    }
    distrust = [
        *predicted.warnings,
        *_left_out_worse(calibration, "file"),
        *_doubtful_types(types, calibration, predicted.classes),
        *_seldom_noticed(calibration),
        *_named(doubts),
        *predicted.notes,
    ]
    numbers = _numbers(counts, reasons, _expected_number(predicted.error, None, None, of_cells=of_cells))
    return Summary(sentence, numbers, distrust, None, None, None, predicted.error)


def as_text(summary: Summary) -> str:
    """Return the first page as plain text."""
    lines = [summary.sentence]
    for number in summary.numbers:
        lines.append(f"{number.name}: {number.value} {number.words}{f'. {number.basis}' if number.basis else ''}")
    if summary.distrust:
        lines += ["Check before you use these labels:", *(f"- {point}" for point in summary.distrust)]
    return "\n".join(lines)


def one_line(run: Run) -> str:
    """Return the run's result in one line, for the terminal."""
    if run.each_target == [run]:
        return summarise(load_finished(run), load_plan(run), load_training(run)).sentence
    results = {one.parameters.target: load_finished(one) for one in run.each_target}
    errors = {
        one.parameters.target: expected_error(result.final, target_calibration(load_training(one), result))
        for one, result in zip(run.each_target, results.values(), strict=True)
    }
    return f"{len(results)} samples ({run.parameters.target}): {in_one_sentence(results, errors)}."
