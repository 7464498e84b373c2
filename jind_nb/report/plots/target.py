"""What the target consists of, how far its confidence can be trusted, and its clusters."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ... import metrics
from ...core.labels import UNASSIGNED
from ...core.text import listing, plural
from ...model.calibration import Calibration
from ...results.clusters import Clusters
from .embedding import scatter
from .style import COLOURS, GREY, MANY, REJECTED, legend_below, short, short_names, three_digits

FEWEST_OF_A_RANGE = 5  # cells in a range of confidence; the share of right ones among fewer says nothing


def composition_bars(table: pd.DataFrame, target: str) -> Figure:
    """Draw cells of each type, annotated and rejected, many types in two columns; `table` as `tables.composition_table`
    returns it."""
    table = table[table[["annotated", "parent_only", "rejected"]].sum(axis=1) > 0]
    n_columns = 1 if len(table) <= MANY else 2
    n_rows = -(-len(table) // n_columns)
    step = 0.24 if n_rows <= 12 else 0.155
    size = 7.2, 1.15 + step * n_rows
    figure, grid = plt.subplots(1, n_columns, figsize=size, layout="constrained", squeeze=False, sharex=True)
    most = max(1, int(table[["annotated", "parent_only", "rejected"]].sum(axis=1).max()))
    for i, axes in enumerate(grid.flat):
        _draw_composition(axes, table[i * n_rows : (i + 1) * n_rows][::-1], most)
        axes.set_ylim(-0.6, n_rows - 0.4)
        axes.tick_params(axis="y", labelsize=8 if n_columns == 1 else 6.5)
        axes.set_xlim(0, most * (1.18 if n_columns == 1 else 1.4))
    figure.suptitle(f"Cell types of {short(target)}", fontsize=10)
    legend_below(figure, *grid[0, 0].get_legend_handles_labels(), ncols=3)
    return figure


def composition_alt(table: pd.DataFrame, target: str) -> str:
    """Return the alt text of `composition_bars`.

    >>> composition_alt(pd.DataFrame({"annotated": [8, 2], "rejected": [1, 0]}, index=["B", "T"]), "donor 4")
    'Bar chart of the cells of donor 4 by cell type: B 8, T 2. 1 cell is left Unassigned.'
    """
    counts, rejected = table["annotated"][table["annotated"] > 0], int(table["rejected"].sum())
    named = listing((f"{name} {n:,}" for name, n in counts.items()), 5, quoted=False) or "none annotated"
    left = f"{plural(rejected, 'cell')} {'is' if rejected == 1 else 'are'} left Unassigned"
    return f"Bar chart of the cells of {target} by cell type: {named}. {left}."


def _draw_composition(axes: Axes, table: pd.DataFrame, most: int) -> None:
    """Draw the bars of one column, the first at the bottom."""
    y = np.arange(len(table))
    axes.barh(y, table["annotated"], color=COLOURS[0], label="annotated")
    named = table["annotated"] + table["parent_only"]
    if table["parent_only"].any():
        label = "most like this type, but its parent only"
        axes.barh(y, table["parent_only"], left=table["annotated"], color=COLOURS[4], label=label)
    axes.barh(y, table["rejected"], left=named, label="most like this type, but Unassigned", **REJECTED)
    for i, row in enumerate(table.itertuples()):
        others = [f"+{n:,}" for n in (row.parent_only, row.rejected) if n]
        text = f" {row.annotated:,}" + (f" ({', '.join(others)})" if others else "")
        size = 7 if most and len(table) <= MANY else 6
        axes.text(row.annotated + row.parent_only + row.rejected, i, text, va="center", fontsize=size)
    axes.set_yticks(y, [short(str(name)) for name in table.index])
    axes.set_xlabel("cells", fontsize=8)


def confidence_by_type(raw: np.ndarray, confidence: np.ndarray, thresholds: Mapping[str, float], target: str) -> Figure:
    """Draw each cell's confidence by its most probable type, and the threshold below which it is rejected."""
    names = sorted(set(raw))
    height = 1.3 + (0.26 if len(names) <= MANY else 0.15) * len(names)
    figure, axes = plt.subplots(figsize=(7.2, height), layout="constrained")
    jitter = np.random.default_rng(0).uniform(-0.32, 0.32, len(raw))
    for i, name in enumerate(names):
        at = np.flatnonzero(raw == name)
        axes.scatter(confidence[at], i + jitter[at], s=4, color=COLOURS[0], alpha=0.5, linewidths=0, rasterized=True)
        axes.plot([thresholds[name]] * 2, [i - 0.42, i + 0.42], color=COLOURS[3], linewidth=2)
    axes.plot([], [], color=COLOURS[3], linewidth=2, label="threshold: cells below it are Unassigned")
    axes.set_yticks(range(len(names)), [short(name) for name in names], fontsize=8 if len(names) <= MANY else 6.5)
    axes.set(xlim=(0, 1.02), xlabel="confidence (probability of the most probable type)", ylabel="most probable type")
    axes.set_title(f"Confidence of each cell of {short(target)}", fontsize=10)
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
    calibration: Calibration | None, target: str, labelled: tuple[np.ndarray, np.ndarray] | None = None
) -> Figure | str:
    """Draw how often cells of a confidence are right (reliability), and how many are wrong if only the most confident are
    assigned (risk and coverage): in left-out batches and, where labels are known, in the target.

    Parameters
    ----------
    labelled
        `target.labelled_confidence`.
    """
    if calibration is None and labelled is None:
        return "No annotated batch was left out of training, and the target has no labels for comparison."
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 4.2), layout="constrained")
    left.plot([0, 1], [0, 1], color=GREY, linewidth=1, label="perfect calibration")
    if calibration is not None:
        which = "left-out batches" if calibration.n_annotated > 1 else "held-out cells"
        lines = (("network", "uncalibrated", "^", COLOURS[1]), ("calibrated", "calibrated", "o", COLOURS[0]))
        for kind, words, marker, colour in lines:
            column = "calibration_error" if kind == "calibrated" else "network_calibration_error"
            rows = pd.DataFrame(calibration.reliability[kind], columns=["cells", "confidence", "right"])
            rows = rows[rows["cells"] >= FEWEST_OF_A_RANGE]
            label = f"{which}, {words} (error {three_digits(calibration.mean(column))})"
            left.plot(rows["confidence"], rows["right"], marker=marker, ms=4, color=colour, label=label)
        coverage, risk = np.array(calibration.risk_coverage).reshape(-1, 2).T
        label = f"{which} (mean AURC {three_digits(calibration.mean('AURC'))})"
        right.plot(100 * coverage, 100 * risk, color=COLOURS[0], label=label)
    if labelled is not None and len(labelled[1]):
        rows = metrics.reliability(*labelled)
        rows = rows[rows["cells"] >= FEWEST_OF_A_RANGE]
        label = f"{short(target)}, by its labels (error {three_digits(metrics.calibration_error(*labelled))})"
        left.plot(rows["confidence"], rows["right"], marker="s", ms=4, color=COLOURS[3], linestyle="--", label=label)
        coverage, risk = metrics.risk_coverage(*labelled)
        label = f"{short(target)}, by its labels (AURC {three_digits(metrics.area_under_risk_coverage(*labelled))})"
        right.plot(100 * coverage, 100 * risk, color=COLOURS[3], linestyle="--", label=label)
    left.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence (mean of a range)", ylabel="share of right cells")
    left.set_title(f"Reliability (ranges of at least {FEWEST_OF_A_RANGE} cells)", fontsize=10)
    right.set(xlim=(0, 101), xlabel="most confident cells assigned (%)", ylabel="wrong among the assigned cells (%)")
    right.set_ylim(0, max(2.0, 1.08 * right.get_ylim()[1]))
    right.set_title("Risk and coverage", fontsize=10)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6.5, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    return figure


def reliability_alt(calibration: Calibration | None, labelled: tuple[np.ndarray, np.ndarray] | None) -> str:
    """Return the alt text of `reliability_curves`."""
    numbers = []
    if calibration is not None and calibration.mean("AURC") is not None:
        error, aurc = calibration.mean("calibration_error"), calibration.mean("AURC")
        numbers.append(f"on left-out batches {three_digits(error)} and {three_digits(aurc)}")
    if labelled is not None and len(labelled[1]):
        error, aurc = metrics.calibration_error(*labelled), metrics.area_under_risk_coverage(*labelled)
        numbers.append(f"on the target's labelled cells {three_digits(error)} and {three_digits(aurc)}")
    return (
        "Reliability diagram and risk-coverage curve. Calibration error and area under the risk-coverage curve (0 is best): "
        f"{'; '.join(numbers) or 'not known'}."
    )


def cluster_bars(table: pd.DataFrame, target: str) -> Figure:
    """Draw the share of each cluster's cells that are of its majority, and what the others are; `table` as
    `clusters.cluster_table` returns it."""
    figure, axes = plt.subplots(figsize=(7.2, 1.3 + 0.24 * len(table)), layout="constrained")
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
    axes.set_yticks(y, names, fontsize=8)
    axes.set(xlim=(0, 100), ylim=(len(table) - 0.4, -0.6), xlabel="share of the cluster's cells (%)")
    axes.set_ylabel("cluster: majority (cells)")
    axes.set_title(f"Clusters of {short(target)} and their majorities", fontsize=10)
    legend_below(figure, ncols=3)
    return figure


def cluster_bars_alt(table: pd.DataFrame) -> str:
    """Return the alt text of `cluster_bars`."""
    rows = table[["majority", "share %"]].itertuples()
    clusters = (f"{name} is {share:.0f} % {majority}" for name, majority, share in rows)
    return f"Share of each cluster's cells that are of its majority: cluster {listing(clusters, 5, quoted=False)}."


def cluster_scatter(points: pd.DataFrame, clusters: Clusters, target: str) -> Figure:
    """Draw the target's cells in two dimensions by cluster, each with its majority.

    Parameters
    ----------
    points
        Columns `x`, `y`, and `cell`, the row among the target's cells.
    """
    words = dict(zip(clusters.cluster, clusters.majority, strict=True))
    title = f"Clusters of {short(target)}, each with its majority"
    return scatter(points, clusters.cluster[points["cell"]], title, sorted(words, key=int), words)
