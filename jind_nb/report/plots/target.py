"""TODO."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ... import metrics
from ...core.labels import UNASSIGNED
from ...model.calibration import Calibration
from ...results.clusters import Clusters
from .confusion import _share
from .embedding import scatter
from .style import COLOURS, GREY, MANY, short, short_names

FEWEST_OF_A_RANGE = 5  # cells of a confidence; the share right among fewer says nothing


# --- stage 4 -------------------------------------------------------------------------------------------------------------


def composition_bars(table: pd.DataFrame, target: str) -> Figure:
    """Cells of each type, annotated and rejected, many types in two columns; `table` as `results.composition` makes it."""
    parent_only = table.get("parent only", pd.Series(0, index=table.index))
    table = table.assign(parent=parent_only)[table["annotated"] + table["rejected"] + parent_only > 0]
    n_columns = 1 if len(table) <= MANY else 2
    n_rows = -(-len(table) // n_columns)
    step = 0.24 if n_rows <= 12 else 0.155
    figure, grid = plt.subplots(
        1, n_columns, figsize=(7.2, 1.15 + step * n_rows), layout="constrained", squeeze=False, sharex=True
    )
    most = max(1, int(table[["annotated", "parent", "rejected"]].sum(axis=1).max()))
    for i, axes in enumerate(grid.flat):
        _draw_composition(axes, table[i * n_rows : (i + 1) * n_rows][::-1], most)
        axes.set_ylim(-0.6, n_rows - 0.4)
        axes.tick_params(axis="y", labelsize=8 if n_columns == 1 else 6.5)
        axes.set_xlim(0, most * (1.18 if n_columns == 1 else 1.4))
    figure.suptitle(f"What {short(target)} is made of", fontsize=10)
    figure.legend(
        *grid[0, 0].get_legend_handles_labels(), fontsize=7, frameon=False, loc="outside lower center", ncols=3
    )
    return figure


def _draw_composition(axes: Axes, table: pd.DataFrame, most: int) -> None:
    """The bars of one column, from below."""
    y = np.arange(len(table))
    axes.barh(y, table["annotated"], color=COLOURS[0], label="annotated")
    named = table["annotated"] + table["parent"]
    if table["parent"].any():
        axes.barh(
            y, table["parent"], left=table["annotated"], color=COLOURS[4], label="most like it, but its parent only"
        )
    axes.barh(
        y, table["rejected"], left=named, color=GREY, hatch="///", edgecolor="white",
        label="most like this type, but Unassigned",
    )  # fmt: skip
    for i, row in enumerate(table.itertuples()):
        others = [f"+{n:,}" for n in (row.parent, row.rejected) if n]
        text = f" {row.annotated:,}" + (f" ({', '.join(others)})" if others else "")
        size = 7 if most and len(table) <= MANY else 6
        axes.text(row.annotated + row.parent + row.rejected, i, text, va="center", fontsize=size)
    axes.set_yticks(y, [short(str(name)) for name in table.index])
    axes.set_xlabel("cells", fontsize=8)


def confidence_by_type(raw: np.ndarray, confidence: np.ndarray, thresholds: Mapping[str, float], target: str) -> Figure:
    """The confidence of each cell by its most probable type, with the threshold below which it is rejected."""
    names = sorted(set(raw))
    figure, axes = plt.subplots(
        figsize=(7.2, 1.3 + (0.26 if len(names) <= MANY else 0.15) * len(names)), layout="constrained"
    )
    jitter = np.random.default_rng(0).uniform(-0.32, 0.32, len(raw))
    for i, name in enumerate(names):
        at = np.flatnonzero(raw == name)
        axes.scatter(confidence[at], i + jitter[at], s=4, color=COLOURS[0], alpha=0.5, linewidths=0, rasterized=True)
        axes.plot([thresholds[name]] * 2, [i - 0.42, i + 0.42], color=COLOURS[3], linewidth=2)
    axes.plot([], [], color=COLOURS[3], linewidth=2, label="threshold: below it Unassigned")
    axes.set_yticks(range(len(names)), [short(name) for name in names], fontsize=8 if len(names) <= MANY else 6.5)
    axes.set(xlim=(0, 1.02), xlabel="confidence (probability of the most probable type)", ylabel="most probable type")
    axes.set_title(f"How sure the model is of each cell of {short(target)}", fontsize=10)
    axes.set_ylim(len(names) - 0.4, -0.6)
    figure.legend(fontsize=7, frameon=False, loc="outside lower center")
    return figure


def trust(
    calibration: Calibration | None, target: str, checked: tuple[np.ndarray, np.ndarray] | None = None
) -> Figure | str:
    """How often cells of a confidence are right (reliability), and how many are wrong when only the most confident are
    assigned (risk and coverage), in left-out batches and, where labels are known, in the target.

    Parameters
    ----------
    checked
        Confidence and whether it is right, float and bool (n_labelled,), of the target's labelled cells.
    """
    if calibration is None and checked is None:
        return "No annotated batch was left out of training, and the target has no labels to compare with."
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 4.2), layout="constrained")
    left.plot([0, 1], [0, 1], color=GREY, linewidth=1, label="as sure as right")
    if calibration is not None:
        which = "left-out batches" if calibration.n_annotated > 1 else "held-out cells"
        lines = (("network", "network's own", "^", COLOURS[1]), ("calibrated", "calibrated", "o", COLOURS[0]))
        for kind, words, marker, colour in lines:
            column = "calibration_error" if kind == "calibrated" else "network_calibration_error"
            rows = pd.DataFrame(calibration.reliability[kind], columns=["cells", "confidence", "right"])
            rows = rows[rows["cells"] >= FEWEST_OF_A_RANGE]
            label = f"{which}, {words} (error {_share(calibration.mean(column))})"
            left.plot(rows["confidence"], rows["right"], marker=marker, ms=4, color=colour, label=label)
        coverage, risk = np.array(calibration.risk_coverage).reshape(-1, 2).T
        label = f"{which} (mean AURC {_share(calibration.mean('AURC'))})"
        right.plot(100 * coverage, 100 * risk, color=COLOURS[0], label=label)
    if checked is not None and len(checked[1]):
        rows = metrics.reliability(*checked)
        rows = rows[rows["cells"] >= FEWEST_OF_A_RANGE]
        label = f"{short(target)}, by its labels (error {_share(metrics.calibration_error(*checked))})"
        left.plot(rows["confidence"], rows["right"], marker="s", ms=4, color=COLOURS[3], linestyle="--", label=label)
        coverage, risk = metrics.risk_coverage(*checked)
        label = f"{short(target)}, by its labels (AURC {_share(metrics.area_under_risk_coverage(*checked))})"
        right.plot(100 * coverage, 100 * risk, color=COLOURS[3], linestyle="--", label=label)
    left.set(
        xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence (mean of a range)", ylabel="share of cells that are right"
    )
    left.set_title(f"Reliability (ranges of at least {FEWEST_OF_A_RANGE} cells)", fontsize=10)
    right.set(xlim=(0, 101), xlabel="most confident cells assigned (%)", ylabel="wrong among the assigned (%)")
    right.set_ylim(0, max(2.0, 1.08 * right.get_ylim()[1]))
    right.set_title("Risk and coverage", fontsize=10)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6.5, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    return figure


def cluster_bars(table: pd.DataFrame, target: str) -> Figure | str:
    """The share of each cluster's cells that its majority has, and what the others are; `table` as `clusters.table`
    makes it."""
    if "majority" not in table:
        return "CLUSTER_RESOLUTION is not set: the cells were not clustered."
    figure, axes = plt.subplots(figsize=(7.2, 1.3 + 0.24 * len(table)), layout="constrained")
    y = np.arange(len(table))
    share = table["share %"].to_numpy(dtype=float)
    unassigned = np.where(table["majority"] == UNASSIGNED, 0.0, table["Unassigned %"].to_numpy(dtype=float))
    is_named = (table["majority"] != UNASSIGNED).to_numpy()
    axes.barh(y[is_named], share[is_named], color=COLOURS[0], label="the majority")
    if not is_named.all():
        axes.barh(y[~is_named], share[~is_named], color=GREY, hatch="///", edgecolor="white")
    axes.barh(y, 100 - share - unassigned, left=share, color=COLOURS[4], label="another answer")
    axes.barh(y, unassigned, left=100 - unassigned, color=GREY, hatch="///", edgecolor="white", label=UNASSIGNED)
    names = [
        f"{name}: {majority} ({n:,})"
        for name, majority, n in zip(table.index, short_names(list(table["majority"])), table["cells"], strict=True)
    ]
    axes.set_yticks(y, names, fontsize=8)
    axes.set(xlim=(0, 100), ylim=(len(table) - 0.4, -0.6), xlabel="share of the cluster's cells (%)")
    axes.set_ylabel("cluster: majority (cells)")
    axes.set_title(f"Clusters of {short(target)}: how far their cells agree", fontsize=10)
    figure.legend(fontsize=7, frameon=False, loc="outside lower center", ncols=3)
    return figure


def cluster_scatter(points: pd.DataFrame, clusters: Clusters, target: str) -> Figure:
    """The target's cells in two dimensions by cluster, each with its majority.

    Parameters
    ----------
    points
        Columns `x`, `y`, and `cell`, the row among the target's cells.
    """
    words = dict(zip(clusters.cluster, clusters.majority, strict=True))
    title = f"Clusters of {short(target)}, each with its majority"
    return scatter(points, clusters.cluster[points["cell"]], title, sorted(words, key=int), words)
