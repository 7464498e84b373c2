"""What the target consists of, how far its confidence can be trusted, and its clusters."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ... import metrics
from ...core.colours import DARK_GREY, GREY, colours_of
from ...core.labels import UNASSIGNED, UNLIKE
from ...core.text import listing, plural
from ...data.plan import Plan
from ...model.calibration import Calibration
from ...results.clusters import Clusters
from ...results.tables import composition_shares
from ...results.target import LabelledCells
from .embedding import FEW, scatter, target_umap, target_umap_alt
from .style import (
    COLOURS,
    FULL,
    HALF,
    REASON_COLOURS,
    REJECTED,
    TITLE,
    clickable,
    legend_below,
    row_height,
    short,
    short_names,
    subplots,
    three_digits,
)  # fmt: skip

MOST_BARS = 28  # types in the picture of the composition

PALE: dict[str, Any] = {
    "facecolor": "#E8E8E8",
    "edgecolor": "#777777",
    "linewidth": 0.4,
}  # bars of cells with a parent only

OUTLIERS = {"marker": ".", "markersize": 2, "markeredgewidth": 0, "markerfacecolor": "#777777"}

# Points of a curve's line and of its marks: each is drawn over wider ones, so that curves on one place are all seen.
UNDER, MIDDLE, OVER = ({"linewidth": width, "markersize": size} for width, size in ((3.0, 7), (1.8, 4.5), (1.0, 2.5)))

FEWEST_OF_A_RANGE = 5  # cells in a range of confidence; the share of right ones among fewer says nothing


def answer_pictures(
    points: pd.DataFrame, composition: pd.DataFrame, plan: Plan, answers: Sequence[str]
) -> list[tuple[Figure, str]]:
    """Return the pictures that stand side by side on page one, equally high, each with its alt text: the target's cells by type,
    and `composition_bars`, whose names are the legend of both.

    Parameters
    ----------
    points
        Of the last stage, as `tables.describe_points` returns them.
    composition
        As `tables.composition_table` returns it.
    answers
        All possible answers in their order, which gives colours and numbers.
    """
    target = plan.target
    bars = composition_bars(composition_shares(composition, plan, MOST_BARS), target, answers)
    title = f"{short(target, 14)} (coloured), annotated cells (grey)"
    cells = target_umap(points, "cell type", target, answers, title=title, height=float(bars.get_figheight()))
    return [(cells, target_umap_alt(points, "cell type", target)), (bars, composition_alt(composition, target))]


def composition_bars(table: pd.DataFrame, target: str, names: Sequence[str]) -> Figure:
    """Draw the target's share of each cell type beside the annotated batches'; each bar has its type's colour.

    Parameters
    ----------
    table
        As `tables.composition_shares` returns it.
    names
        All possible answers in their order, which gives colours and numbers.
    """
    colours, numbers = colours_of(names), {name: i + 1 for i, name in enumerate(names)}
    step = 0.21 if len(table) <= 12 else 0.15 if len(table) <= 20 else 0.108
    height = max(3.02, 0.95 + step * len(table))
    figure, axes = subplots(figsize=(HALF, height))
    y = np.arange(len(table))
    # All others together would dwarf each of the types.
    is_named = np.isin(table.index.astype(str), [*names, UNLIKE])
    rest, table = table, table.copy()
    table.loc[~is_named] = 0
    given = 100 * table["assigned"].to_numpy()
    axes.barh(y, given, color=[colours.get(name, GREY) for name in table.index], height=0.72)
    start = given
    for column, style in (("parent_only", PALE), ("rejected", REJECTED)):
        if table[column].any():
            drawn = axes.barh(y, 100 * table[column], left=start, height=0.72, **style)
            start = start + 100 * table[column].to_numpy()
    if UNLIKE in table.index:
        drawn[-1].set(facecolor=DARK_GREY, hatch="")
    ends = start
    if table["mean"].notna().any():
        axes.hlines(y, 100 * table["low"], 100 * table["high"], color="black", linewidth=0.9)
        axes.plot(100 * table["mean"], y, "|", color="black", markersize=6, markeredgewidth=1.4)
        ends = np.maximum(start, 100 * table["high"].fillna(table["mean"]).fillna(0).to_numpy())
    for i, (end, n) in enumerate(zip(ends, rest["cells"], strict=True)):
        if rest.index[i] == UNLIKE:
            continue
        share = "" if is_named[i] else f" ({100 * rest['assigned'].iloc[i]:.0f} %)"
        # Beside a mark at the very end, a number that began there would seem to begin with a 1.
        number = f"{n:,}{share}"
        axes.annotate(number, (end, i), xytext=(6, 0), textcoords="offset points", va="center", fontsize=7)
    is_numbered = len([name for name in names if name != UNASSIGNED]) > FEW
    words = [
        f"{numbers[name]}: {word}" if is_numbered and name in numbers else word
        for name, word in zip(table.index, short_names([str(name) for name in table.index], 22), strict=True)
    ]
    axes.set_yticks(y, words, fontsize=7)
    for name, label in zip(table.index, axes.get_yticklabels(), strict=True):
        if name != UNLIKE:
            clickable(label, "prediction", str(name))
    axes.set(ylim=(len(table) - 0.4, -0.6), xlim=(0, 1.2 * max(1.0, float(ends.max(initial=0)))))
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("% of the cells; number: assigned", fontsize=7)
    figure.suptitle(f"Composition of {short(target, 24)}", fontsize=8.5, x=0.02, ha="left")
    handles, labels = _composition_legend(table)
    figure.legend(
        handles, labels, fontsize=7, frameon=False, loc="outside lower center", ncols=1, borderpad=0.1, labelspacing=0.2
    )
    return figure


def _composition_legend(table: pd.DataFrame) -> tuple[list[Any], list[str]]:
    """Return what the marks beside the coloured bars mean, those that are drawn."""
    marks: dict[str, Any] = {}
    if table["mean"].notna().any():
        line = plt.Line2D([], [], color="black", marker="|", markersize=6, linewidth=0.9)
        has_range = table["low"].notna().any()
        marks["annotated batches: mean, lowest and highest" if has_range else "the annotated batch"] = line
    if table["parent_only"].any():
        marks["most like this type, but its parent only"] = plt.Rectangle((0, 0), 1, 1, **PALE)
    if table["rejected"].drop(UNLIKE, errors="ignore").any():
        marks["most like this type, but Unassigned"] = plt.Rectangle(
            (0, 0), 1, 1, facecolor=GREY, hatch="///", edgecolor="white"
        )
    return list(marks.values()), list(marks)


def composition_alt(table: pd.DataFrame, target: str) -> str:
    """Return the alt text of `composition_bars`; `table` as `tables.composition_table` returns it.

    >>> composition_alt(pd.DataFrame({"assigned": [8, 2], "rejected": [1, 0]}, index=["B", "T"]), "donor 4")
    'Bar chart of the cells of donor 4 by cell type, beside the annotated batches: B 8, T 2. 1 cell is left Unassigned.'
    """
    counts, rejected = table["assigned"][table["assigned"] > 0], int(table["rejected"].sum())
    named = listing((f"{name} {n:,}" for name, n in counts.items()), 5, quoted=False) or "none assigned"
    left = f"{plural(rejected, 'cell')} {'is' if rejected == 1 else 'are'} left Unassigned"
    return f"Bar chart of the cells of {target} by cell type, beside the annotated batches: {named}. {left}."


def confidence_histogram(confidence: np.ndarray, rejected: np.ndarray, target: str) -> Figure:
    """Draw how many cells have which confidence, assigned and `Unassigned` ones; bool `rejected` (n_target,)."""
    figure, axes = subplots(figsize=(HALF, 2.1))
    bins = [i / 20 for i in range(21)]
    parts, colours = [confidence[~rejected], confidence[rejected]], [COLOURS[0], DARK_GREY]
    axes.hist(
        parts, bins=bins, stacked=True, color=colours, label=["assigned", UNASSIGNED], edgecolor="white", linewidth=0.4
    )
    axes.set(xlim=(0, 1))
    axes.set_xlabel("confidence", fontsize=7)
    axes.set_ylabel("cells", fontsize=7)
    axes.tick_params(labelsize=7, length=2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"How sure the model is of {short(target, 20)}", fontsize=8.5, loc="left")
    legend_below(figure, ncols=2)
    return figure


def histogram_alt(confidence: np.ndarray, rejected: np.ndarray, target: str) -> str:
    """Return the alt text of `confidence_histogram`."""
    return (
        f"Histogram of the confidence of {plural(len(confidence), 'cell')} of {target}: {int((confidence >= 0.9).sum()):,} have "
        f"0.9 or more, {int((confidence < 0.5).sum()):,} less than 0.5; {int(rejected.sum()):,} are Unassigned."
    )


def quality_by_reason(table: pd.DataFrame, target: str) -> Figure:
    """Draw how many features the cells have, by the reason of their answer; `table` as `tables.quality_table` returns it."""
    reasons = [reason for reason in REASON_COLOURS if (table["reason"] == reason).any()]
    figure, axes = subplots(figsize=(HALF, 2.1))
    values = [table.loc[table["reason"] == reason, "features"].to_numpy() for reason in reasons]
    drawn = axes.boxplot(values, orientation="horizontal", widths=0.6, patch_artist=True, flierprops=OUTLIERS)
    for box, reason in zip(drawn["boxes"], reasons, strict=True):
        box.set(facecolor=REASON_COLOURS[reason], alpha=0.55, linewidth=0.6)
    for line in drawn["medians"]:
        line.set(color="black", linewidth=1.2)
    axes.set_xlabel("features above zero in a cell", fontsize=7)
    axes.ticklabel_format(axis="x", style="plain", useOffset=False)
    axes.spines[["top", "right"]].set_visible(False)
    words = [f"{reason.replace(' ', chr(10))}\n({(table['reason'] == reason).sum():,})" for reason in reasons]
    axes.set_yticks(range(1, len(reasons) + 1), words, fontsize=7)
    axes.invert_yaxis()
    figure.suptitle(f"Quality of the cells of {short(target, 20)}", fontsize=8.5, x=0.02, ha="left")
    return figure


def quality_alt(table: pd.DataFrame, target: str) -> str:
    """Return the alt text of `quality_by_reason`."""
    medians = table.groupby("reason", observed=True)["features"].median()
    words = "; ".join(f"{reason} {value:,.0f}" for reason, value in medians.items())
    return f"Box plot of the features above zero in the cells of {target} by reason. Medians: {words}."


def confidence_by_type(raw: np.ndarray, confidence: np.ndarray, thresholds: Mapping[str, float], target: str) -> Figure:
    """Draw each cell's confidence by its most probable type, and the threshold below which it is rejected."""
    names = sorted(set(raw))
    height = 0.95 + row_height(len(names), 0.22) * len(names)
    figure, axes = subplots(figsize=(FULL, height))
    jitter = np.random.default_rng(0).uniform(-0.32, 0.32, len(raw))
    for i, name in enumerate(names):
        at = np.flatnonzero(raw == name)
        axes.scatter(confidence[at], i + jitter[at], s=4, color=COLOURS[0], alpha=0.5, linewidths=0, rasterized=True)
        axes.plot([thresholds[name]] * 2, [i - 0.42, i + 0.42], color=COLOURS[3], linewidth=2)
    axes.plot([], [], color=COLOURS[3], linewidth=2, label="threshold: cells below it are Unassigned")
    axes.set_yticks(range(len(names)), short_names(names), fontsize=7)
    axes.set(xlim=(0, 1.02), xlabel="confidence (probability of the most probable type)", ylabel="most probable type")
    axes.set_title(f"Confidence of each cell of {short(target)}", fontsize=TITLE)
    axes.set_ylim(len(names) - 0.4, -0.6)
    legend_below(figure)
    return figure


def confidence_alt(confidence: np.ndarray, target: str) -> str:
    """Return the alt text of `confidence_by_type`."""
    low, middle, high = np.quantile(confidence, [0.1, 0.5, 0.9])
    return (
        f"Confidence of each cell of {target} by its most probable type, with the type's threshold: a tenth of the cells "
        f"are below {low:.2f}, half below {middle:.2f}, a tenth above {high:.2f}."
    )


def reliability_curves(
    calibration: Calibration | None, target: str, labelled: LabelledCells | None = None
) -> Figure | str:
    """Draw how often cells of a confidence are right (reliability), and how many are wrong if only the most confident are
    assigned (risk and coverage): in left-out batches and, where labels are known, in the target.

    The reliability is without the target's cells whose confidence was lowered because they are unlike all annotated ones: it is no
    probability of being right, as that of all other cells (and of all left-out ones) is.

    Parameters
    ----------
    labelled
        `target.labelled_confidence`.
    """
    if calibration is None and labelled is None:
        return "No annotated batch was left out of training, and the target has no labels for comparison."
    figure, (left, right) = subplots(1, 2, figsize=(FULL, 2.7))
    left.plot([0, 1], [0, 1], color=GREY, linewidth=1, label="perfect calibration")
    if calibration is not None:
        which = "left-out batches" if calibration.n_annotated > 1 else "held-out cells"
        lines = (
            ("network", "uncalibrated", {"marker": "^", "color": COLOURS[1]} | UNDER),
            ("calibrated", "calibrated", {"marker": "o", "color": COLOURS[0]} | MIDDLE),
        )
        for kind, words, style in lines:
            column = "calibration_error" if kind == "calibrated" else "network_calibration_error"
            rows = pd.DataFrame(calibration.reliability[kind], columns=["cells", "confidence", "right"])
            rows = rows[rows["cells"] >= FEWEST_OF_A_RANGE]
            label = f"{which}, {words} (error {three_digits(calibration.mean(column))})"
            left.plot(rows["confidence"], rows["right"], label=label, **style)
        coverage, risk = np.array(calibration.risk_coverage).reshape(-1, 2).T
        label = f"{which} (mean AURC {three_digits(calibration.mean('AURC'))})"
        right.plot(100 * coverage, 100 * risk, color=COLOURS[0], label=label, **MIDDLE)
    if labelled is not None:
        by_labels = f"{short(target)}, by its labels"
        cells = _probabilities(labelled)
        if len(cells[0]):
            rows = metrics.reliability(*cells)
            rows = rows[rows["cells"] >= FEWEST_OF_A_RANGE]
            label = f"{by_labels} (error {three_digits(metrics.calibration_error(*cells))})"
            left.plot(
                rows["confidence"], rows["right"], marker="s", color=COLOURS[3], linestyle="--", label=label, **OVER
            )
        coverage, risk = metrics.risk_coverage(labelled.confidence, labelled.right)
        aurc = metrics.area_under_risk_coverage(labelled.confidence, labelled.right)
        label = f"{by_labels} (AURC {three_digits(aurc)})"
        right.plot(100 * coverage, 100 * risk, color=COLOURS[3], linestyle="--", label=label, **OVER)
    left.set(
        xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence (mean of a range)", ylabel="share right, assigned or not"
    )
    left.set_title(f"Reliability (ranges of at least {FEWEST_OF_A_RANGE} cells)", fontsize=TITLE)
    right.set(xlim=(0, 101), xlabel="most confident cells assigned (%)", ylabel="wrong among these cells (%)")
    highest = max(2.0, 1.08 * right.get_ylim()[1])
    right.set_ylim(-0.03 * highest, highest)  # a curve at nothing is seen beside the axis
    right.set_title("Risk and coverage", fontsize=TITLE)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return figure


def _probabilities(labelled: LabelledCells) -> tuple[np.ndarray, np.ndarray]:
    """Return the confidence of the cells of which it was not lowered, and whether they are right."""
    return labelled.confidence[~labelled.lowered], labelled.right[~labelled.lowered]


def reliability_alt(calibration: Calibration | None, labelled: LabelledCells | None) -> str:
    """Return the alt text of `reliability_curves`."""
    numbers = []
    if calibration is not None and calibration.mean("AURC") is not None:
        error, aurc = calibration.mean("calibration_error"), calibration.mean("AURC")
        which = "left-out batches" if calibration.n_annotated > 1 else "held-out cells"
        numbers.append(f"on {which} {three_digits(error)} and {three_digits(aurc)}")
    if labelled is not None:
        cells = _probabilities(labelled)
        error = metrics.calibration_error(*cells) if len(cells[0]) else None
        aurc = metrics.area_under_risk_coverage(labelled.confidence, labelled.right)
        numbers.append(f"on the target's labelled cells {three_digits(error)} and {three_digits(aurc)}")
    return (
        "Reliability diagram and risk-coverage curve. Calibration error and area under the risk-coverage curve (0 is best): "
        f"{'; '.join(numbers) or 'not known'}."
    )


def calibration_note(calibration: Calibration | None) -> str | None:
    """Return a sentence where calibrated confidences have no smaller calibration error than uncalibrated ones; None where they do."""
    if calibration is None:
        return None
    plain, calibrated = calibration.mean("network_calibration_error"), calibration.mean("calibration_error")
    if plain is None or calibrated is None or calibrated < plain:
        return None
    words = f"Here calibrated confidences have no smaller error ({three_digits(calibrated)}) than uncalibrated ones ({three_digits(plain)})"
    if calibration.n_annotated == 1:
        return f"{words}: the temperature is what suited new batches of other data sets, and held-out cells are easier than those."
    return f"{words}: a temperature that fits other batches need not fit the one that is judged by it."


def cluster_bars(table: pd.DataFrame, target: str) -> Figure:
    """Draw the share of each cluster's cells that are of its majority, and what the others are; `table` as
    `clusters.cluster_table` returns it."""
    figure, axes = subplots(figsize=(FULL, 0.95 + row_height(len(table), 0.22) * len(table)))
    y = np.arange(len(table))
    share = table["share %"].to_numpy(dtype=float)
    unassigned = np.where(table["majority"] == UNASSIGNED, 0.0, table["Unassigned %"].to_numpy(dtype=float))
    is_named = (table["majority"] != UNASSIGNED).to_numpy()
    axes.barh(y[is_named], share[is_named], color=COLOURS[0], label="the majority")
    if not is_named.all():
        axes.barh(y[~is_named], share[~is_named], **REJECTED)
    axes.barh(y, 100 - share - unassigned, left=share, color=COLOURS[4], label="another type")
    axes.barh(y, unassigned, left=100 - unassigned, label=UNASSIGNED, **REJECTED)
    rows = zip(table.index, short_names(list(table["majority"])), table["cells"], strict=True)
    names = [f"{name}: {majority} ({n:,})" for name, majority, n in rows]
    axes.set_yticks(y, names, fontsize=7)
    axes.set(xlim=(0, 100), ylim=(len(table) - 0.4, -0.6), xlabel="share of the cluster's cells (%)")
    axes.set_ylabel("cluster: majority (cells)")
    axes.set_title(f"Clusters of {short(target)} and their majorities", fontsize=TITLE)
    legend_below(figure, ncols=3)
    return figure


def cluster_bars_alt(table: pd.DataFrame) -> str:
    """Return the alt text of `cluster_bars`."""
    rows = table[["majority", "share %"]].itertuples()
    clusters = (f"{name} is {share:.0f} % {majority}" for name, majority, share in rows)
    return f"Share of each cluster's cells that are of its majority: cluster {listing(clusters, 5, quoted=False)}."


def cluster_scatter(points: pd.DataFrame, clusters: Clusters, target: str, answers: Sequence[str]) -> Figure:
    """Draw the target's cells in two dimensions by cluster, each with its majority and in the colour of that type.

    Parameters
    ----------
    points
        Columns `x`, `y`, and `cell`, the row among the target's cells.
    answers
        All possible answers in their order, which gives colours.
    """
    words = dict(zip(clusters.cluster, clusters.majority, strict=True))
    title = f"Clusters of {short(target)}, each with its majority"
    of_types = colours_of(answers)
    colours = {cluster: of_types[majority] for cluster, majority in words.items()}
    return scatter(points, clusters.cluster[points["cell"]], title, sorted(words, key=int), words, colours)
