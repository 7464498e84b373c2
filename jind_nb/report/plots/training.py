"""What is trained on, and how training and alignment went."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...core.colours import GREY
from ...core.labels import UNASSIGNED
from ...model.state import TargetStage
from .style import (
    COLOURS,
    FULL,
    REJECTED,
    TITLE,
    legend_below,
    legend_beside,
    row_height,
    short,
    short_names,
    subplots,
)


def cells_per_type(cells: Mapping[str, Mapping[str, int]], target: str, n_target: int) -> Figure | str:
    """Draw the number of training cells, cell type by batch, as a shaded table; the target's number is in the title."""
    if not cells:
        return f"A saved model annotates {target}, {n_target:,} cells; there is no training."
    table = pd.DataFrame(cells).fillna(0).astype(int).sort_index()
    has_numbers = table.shape[1] <= 12
    height = row_height(len(table), 0.19)
    longest = max(len(name) for name in short_names(list(table.columns)))
    # Twelve columns with numbers fit a page; of more, each needs the height of its heading's letters.
    size = max(FULL, 2.6 + 0.105 * table.shape[1]), 0.8 + 0.07 * longest + height * len(table)
    figure, axes = subplots(figsize=size)
    largest = max(2, int(table.to_numpy().max()))
    # Up to four times the largest number, so that the numbers in the cells stay readable.
    shades = LogNorm(vmin=0.5, vmax=4 * largest)
    drawn = axes.imshow(table.where(table > 0).to_numpy(dtype=float), cmap="Blues", aspect="auto", norm=shades)
    letters = 7
    if has_numbers:
        for (row, column), n in np.ndenumerate(table.to_numpy()):
            color = "white" if n and shades(n) > 0.6 else "black"
            axes.text(column, row, f"{n:,}" if n else "·", ha="center", va="center", fontsize=letters, color=color)
    else:
        bar = figure.colorbar(drawn, shrink=0.6)
        bar.set_label("cells (white: none)", fontsize=7)
        bar.ax.tick_params(labelsize=7)
    axes.set_xticks(range(table.shape[1]), short_names(list(table.columns)), rotation=90, fontsize=7)
    axes.set_yticks(range(table.shape[0]), short_names(list(table.index)), fontsize=letters)
    axes.set(xlabel="annotated batch", ylabel="cell type")
    figure.suptitle(f"Labelled training cells; to annotate: {short(target)}, {n_target:,} cells", fontsize=TITLE)
    return figure


def feature_variances(variances: pd.Series, features: Mapping[str, int]) -> Figure | str:
    """Draw the kept features' variances by rank, with the names of the ten largest."""
    if variances.isna().all():
        return f"The {features['kept']:,} features of the saved model are used."
    ranked = variances.sort_values(ascending=False, kind="stable")
    figure, axes = subplots(figsize=(FULL, 2.0))
    axes.plot(np.arange(1, len(ranked) + 1), ranked, color=COLOURS[0])
    axes.set(xlabel="feature, by rank", ylabel="variance over all cells", xscale="log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    kept, n = features["kept"], features["in_file"]
    title = f"All {n:,} features are kept" if kept == n else f"The {kept:,} most variable of {n:,} features are kept"
    axes.set_title(title, fontsize=TITLE)
    largest = "\n".join(textwrap.wrap("largest: " + ", ".join(map(short, ranked.index[:10])), 56))
    # A line that bends upwards leaves the lower left corner free, one that bends downwards the upper right.
    middle = ranked.iloc[round(np.sqrt(len(ranked))) - 1]
    if 2 * middle >= ranked.iloc[0] + ranked.iloc[-1]:
        place: dict[str, Any] = {"x": 0.02, "y": 0.05, "ha": "left", "va": "bottom"}
    else:
        place = {"x": 0.98, "y": 0.95, "ha": "right", "va": "top"}
    axes.text(**place, s=largest, fontsize=7, transform=axes.transAxes)
    axes.grid(alpha=0.3)
    return figure


def curves(
    points: Sequence[Mapping[str, Any]], quantity: str, title: str, unit: str, every: str = "epoch"
) -> Figure | None:
    """Draw a quantity over epochs, one line for each batch that has it; None if none has."""
    frame = pd.DataFrame([point for point in points if point.get(quantity) is not None])
    if frame.empty:
        return None
    figure, axes = subplots(figsize=(FULL, 2.2))
    lines = list(frame.groupby("batch", sort=False)) if "batch" in frame else [("", frame)]
    for i, (name, line) in enumerate(lines):
        style = ["-", "--", ":", "-."][(i // len(COLOURS)) % 4]
        axes.plot(line["epoch"], line[quantity], style, color=COLOURS[i % len(COLOURS)], label=short(str(name)))
    axes.set(xlabel=every, ylabel=unit)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(title, fontsize=TITLE)
    axes.grid(alpha=0.3)
    if len(lines) > 1:
        legend_beside(axes, ncols=1 + len(lines) // 16)
    return figure


def stage_curves(points: Sequence[Mapping[str, Any]], stage: str, title: str) -> Figure | None:
    """Draw the training loss of one stage over epochs, a line for each batch; None where nothing was trained."""
    return curves([point for point in points if point["stage"] == stage], "loss", title, "mean weighted loss (nats)")


def alignment_losses(points: Sequence[Mapping[str, Any]]) -> Figure | str | None:
    """Draw how alignment went: how far each round moved the target, or in METHOD `reference` the losses of adapter and
    discriminator over epochs, with the band in which neither wins."""
    frame = pd.DataFrame([point for point in points if point["stage"] == TargetStage.ALIGNED])
    if frame.empty:
        return "The target was not aligned in this run."
    if "moved" in frame:
        return curves(points, "moved", "How far each round moved the target", "distance in the latent space", "round")
    figure, axes = subplots(figsize=(FULL, 2.8))
    axes.axhspan(0.5, 0.78, color=GREY, alpha=0.3, label="neither side wins")
    adapter, discriminator = "adapter (makes target cells look annotated)", "discriminator (tells them apart)"
    axes.plot("epoch", "loss", "o-", data=frame, color=COLOURS[0], ms=4, label=adapter)
    axes.plot("epoch", "discriminator_loss", "s--", data=frame, color=COLOURS[3], ms=4, label=discriminator)
    axes.set(xlabel="epoch", ylabel="mean cross-entropy (nats)", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("Aligning the target with the annotated batches", fontsize=TITLE)
    axes.grid(alpha=0.3)
    legend_beside(axes)
    return figure


def rejection_by_stage(stages: Mapping[str, Any], title: str) -> Figure:
    """Draw the target's cells kept and rejected, one bar for each stage."""
    figure, axes = subplots(figsize=(FULL, 0.9 + 0.3 * len(stages)))
    names = list(stages)[::-1]
    rejected = np.array([stages[name].rejected.sum() for name in names])
    kept = np.array([len(stages[name].rejected) for name in names]) - rejected
    axes.barh(names, kept, color=COLOURS[0], label="assigned")
    axes.barh(names, rejected, left=kept, label=UNASSIGNED, **REJECTED)
    for i, (a, b) in enumerate(zip(kept, rejected, strict=True)):
        axes.text(a + b, i, f" {b:,} of {a + b:,} {UNASSIGNED}", va="center", fontsize=7)
    axes.set_xlim(0, (kept + rejected).max() * 1.5)
    axes.set_xlabel("cells")
    axes.set_title(title, fontsize=TITLE)
    legend_below(figure, ncols=2)
    return figure
