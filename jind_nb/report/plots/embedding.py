"""Cells in two dimensions, coloured by what is known of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from ...core.labels import UNASSIGNED
from ...core.text import listing
from .style import COLOURS, GREY, REASON_STYLES, group_style, legend_beside, short

UNASSIGNED_STYLE = {"color": "#777777", "marker": "x", "linewidths": 0.8}


def scatter(
    points: pd.DataFrame,
    group: Sequence[str],
    title: str,
    order: Sequence[str] | None = None,
    words: Mapping[str, str] | None = None,
) -> Figure:
    """Draw cells in two dimensions, coloured by group; `Unassigned` is grey and behind the others.

    Parameters
    ----------
    points
        Columns `x`, `y`.
    group
        A name for each point.
    order
        The groups in the legend's order; default: by name.
    words
        The legend's text for groups that are numbers.
    """
    figure, axes = plt.subplots(figsize=(6.6 + 2.2 * (len(set(group)) // 26), 4.6), layout="constrained")
    groups = np.asarray(group, dtype=object)
    names = [name for name in (order or sorted(set(group))) if (groups == name).any()]
    size = float(np.clip(12_000 / max(1, len(points)), 3, 22))
    if (groups == UNASSIGNED).any():
        names = [UNASSIGNED, *(name for name in names if name != UNASSIGNED)]
    shown = [name for name in names if name != UNASSIGNED]
    for name in names:
        at = groups == name
        style = UNASSIGNED_STYLE | {"color": GREY} if name == UNASSIGNED else group_style(shown.index(name))
        label = f"{short(words[name] if words else name)} ({at.sum():,})"
        if words or (len(shown) > len(COLOURS) and name != UNASSIGNED):
            # Shapes alone are hard to tell apart: the group's number is drawn in its middle and in the legend.
            number = name if words else shown.index(name) + 1
            label = f"{number}: {label}"
            _draw_number(axes, number, points["x"][at].to_numpy(), points["y"][at].to_numpy(), 7)
        axes.scatter(points["x"][at], points["y"][at], s=size, alpha=0.8, label=label, **style)
    legend_beside(axes, ncols=1 + len(names) // 26, markerscale=1.6)
    axes.set_title(title, fontsize=10)
    axes.set(xlabel="dimension 1 (no unit)", ylabel="dimension 2 (no unit)", xticks=[], yticks=[])
    return figure


def _draw_number(axes: Axes, number: object, x: np.ndarray, y: np.ndarray, size: float) -> None:
    """Draw a group's number at its point nearest to its median, where there may be no cell."""
    nearest = np.argmin((x - np.median(x)) ** 2 + (y - np.median(y)) ** 2)
    middle, halo = (float(x[nearest]), float(y[nearest])), [withStroke(linewidth=2, foreground="white")]
    axes.annotate(str(number), middle, ha="center", va="center", fontsize=size, zorder=5, path_effects=halo)


def before_after(points: pd.DataFrame, by: str, target: str) -> Figure:
    """Draw the cells before and after alignment on the same axes, or one panel where the target was not aligned.
    Annotated cells are pale and behind the target's.

    Parameters
    ----------
    points
        As `tables.describe_points` returns them.
    by
        The column that gives the colours: `batch`, `cell type`, `confidence` or `reason`. If there are more batches than
        colours, all annotated batches share one.
    """
    n_batches = points["batch"].nunique()
    if by == "batch" and n_batches > len(COLOURS):
        batches = points["batch"].where(points["batch"] == target, f"{n_batches - 1} annotated batches")
        points = points.assign(batch=batches)
    stages = list(dict.fromkeys(points["stage"]))
    panel = 3.35
    names = _legend_names(points, by, target)
    columns = max(1, min(6, int(7 / (0.4 + 0.055 * max([len(short(name)) for name in names], default=0)))))
    legend = 0.3 + 0.145 * -(-len(names) // columns) if names else 0.6
    width, height = max(7.1, 0.1 + (panel + 0.15) * len(stages)), 0.3 + panel + 0.25 + legend
    figure = plt.figure(figsize=(width, height))
    left = (width - (panel + 0.15) * len(stages)) / 2
    grid: list[Axes] = []
    for i, stage in enumerate(stages):
        place = ((left + i * (panel + 0.15)) / width, (legend + 0.25) / height, panel / width, panel / height)
        axes = figure.add_axes(place, sharex=grid[0] if grid else None, sharey=grid[0] if grid else None)
        grid.append(axes)
        _draw_cells(axes, points[points["stage"] == stage], by, names, target)
        what = stage if len(stages) > 1 else "not aligned"
        axes.set_title(f"{short(target)}, {what}: by {by}", fontsize=9)
        axes.set_xlabel("UMAP of the latent space, dimension 1 (no unit)", fontsize=7)
        axes.set(xticks=[], yticks=[])
    grid[0].set_ylabel("dimension 2 (no unit)", fontsize=7)
    if by == "confidence":
        bar = figure.add_axes((0.25, 0.36 / height, 0.5, 0.13 / height))
        figure.colorbar(ScalarMappable(Normalize(0, 1), "cividis"), cax=bar, orientation="horizontal")
        bar.set_xlabel("confidence: probability of the most probable type (grey: annotated cells)", fontsize=7)
        bar.tick_params(labelsize=7)
    else:
        for i in range(len(names)):
            grid[0].scatter([], [], s=22, label=_numbered(names, i), **_style_of(by, names, i))
        figure.legend(
            *grid[0].get_legend_handles_labels(), loc="lower center", ncols=columns, fontsize=7, frameon=False,
            handletextpad=0.2, columnspacing=1.0, borderpad=0.1, labelspacing=0.35,
        )  # fmt: skip
    return figure


def before_after_alt(points: pd.DataFrame, by: str, target: str) -> str:
    """Return the alt text of `before_after`, for the last stage."""
    last = points[points["stage"] == points["stage"].iloc[-1]]
    of_target = last["cell"] >= 0
    several = points["stage"].nunique() > 1
    text = (
        f"{'Two pictures' if several else 'Picture'} of {int(of_target.sum()):,} cells of {target} among "
        f"{int((~of_target).sum()):,} annotated cells{', before and after alignment' if several else ''}. Each cell is a "
        f"point, coloured by {by}"
    )
    if by == "confidence":
        confidence = last["confidence"][of_target]
        return f"{text}: half of the target's cells have at least {confidence.median():.2f}."
    groups = last[by][of_target if by != "batch" else slice(None)].value_counts()
    return f"{text}: {listing((f'{name} {n:,}' for name, n in groups.items()), 5, quoted=False)}."


def _legend_names(points: pd.DataFrame, by: str, target: str) -> list[str]:
    """Return the groups in the order of the legend: the target's batch or `Unassigned` last."""
    if by == "confidence":
        return []
    if by == "reason":
        return [name for name in REASON_STYLES if (points["reason"] == name).any()]
    last = target if by == "batch" else UNASSIGNED
    names = sorted(set(points[by]) - {last})
    return [*names, last] if (points[by] == last).any() else names


def _draw_cells(axes: Axes, here: pd.DataFrame, by: str, names: list[str], target: str) -> None:
    """Draw the points of one panel, and each group's number in its middle where there are many groups."""
    of_target = (here["batch"] == target).to_numpy()
    x, y = here["x"].to_numpy(), here["y"].to_numpy()
    small = float(np.clip(5_000 / max(1, len(here)), 2, 9))
    if by in ("confidence", "reason"):
        axes.scatter(x[~of_target], y[~of_target], s=small, color="#D5D5D5", linewidths=0)
    if by == "confidence":
        shade = here["confidence"].to_numpy(dtype=float)[of_target]
        axes.scatter(x[of_target], y[of_target], s=1.6 * small, c=shade, cmap="cividis", vmin=0, vmax=1, linewidths=0)
        return
    group = here[by].to_numpy(dtype=object)
    for i, name in enumerate(names):
        of_group = group == name
        for at, alpha, size in ((of_group & ~of_target, 0.3, small), (of_group & of_target, 0.9, 1.6 * small)):
            axes.scatter(x[at], y[at], s=size, alpha=alpha, **_style_of(by, names, i))
        if _is_numbered(names) and of_group.any() and name != UNASSIGNED:
            at = of_group & of_target if (of_group & of_target).any() else of_group
            _draw_number(axes, i + 1, x[at], y[at], 6.5)


def _numbered(names: list[str], i: int) -> str:
    """Return a group's name in the legend, with its number where there are many groups."""
    return f"{i + 1}: {short(names[i])}" if _is_numbered(names) and names[i] != UNASSIGNED else short(names[i])


def _is_numbered(names: list[str]) -> bool:
    return len([name for name in names if name != UNASSIGNED]) > len(COLOURS)


def _style_of(by: str, names: list[str], i: int) -> dict[str, Any]:
    if names[i] == UNASSIGNED:
        return UNASSIGNED_STYLE
    return REASON_STYLES[names[i]] if by == "reason" else group_style(i)
