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
from matplotlib.text import Annotation

from ...core.colours import colours_of
from ...core.labels import UNASSIGNED
from ...core.text import listing
from .style import (
    FULL,
    HALF,
    REASON_COLOURS,
    TITLE,
    clickable,
    legend_below,
    legend_beside,
    short,
    short_names,
    subplots,
)

FEW = 8  # groups that colours alone tell apart; more are numbered in the picture

MOST_BATCHES = 12  # more annotated batches share one colour

REFERENCE = "#D9D9D9"  # of annotated cells behind the target's

TARGET = "#000000"  # of the target among other batches

MOST_BESIDE = 26  # groups in a legend beside a picture; that of more is below it

PANEL, LOW_PANEL = 2.5, 1.7  # inches, height of a picture without its legend: by cell type, and by anything else

MOST_IN_HALF = 16  # entries of a legend below a picture of half a page's width

SMALL = 0.06  # of the picture, each way: a number would hide such a group

APART = np.array([0.04, 0.05])  # of the picture, each way: two numbers nearer than that would hide each other

TINY = 1e-9

MOVED = 0.02  # of the picture's diagonal: less is no movement that an eye sees


def scatter(
    points: pd.DataFrame,
    group: Sequence[str],
    title: str,
    order: Sequence[str] | None = None,
    words: Mapping[str, str] | None = None,
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """Draw cells in two dimensions, coloured by group; `Unassigned` is dark grey and behind the others.

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
    colours
        Of the groups; default: as different as can be.
    """
    groups = np.asarray(group, dtype=object)
    names = [name for name in (order or sorted(set(group))) if (groups == name).any()]
    is_beside = len(names) <= MOST_BESIDE
    height = 3.6 if is_beside else 4.3 + 0.15 * -(-len(names) // 3)
    figure, axes = subplots(figsize=(FULL, height))
    called = [words[name] if words else name for name in names]
    shown_as = dict(zip(names, short_names(called, 28 if is_beside else 18), strict=True))
    colours = colours or colours_of(names)
    size = float(np.clip(12_000 / max(1, len(points)), 3, 22))
    if (groups == UNASSIGNED).any():
        names = [UNASSIGNED, *(name for name in names if name != UNASSIGNED)]
    shown = [name for name in names if name != UNASSIGNED]
    for name in names:
        at = groups == name
        label = f"{shown_as[name]} ({at.sum():,})"
        if words or (len(shown) > FEW and name != UNASSIGNED):
            # Colours alone are hard to tell apart: the group's number is drawn in its middle and in the legend.
            number = name if words else shown.index(name) + 1
            label = f"{number}: {label}"
            _draw_number(axes, number, points[at], points)
        axes.scatter(
            points["x"][at], points["y"][at], s=size, alpha=0.7, label=label, color=colours[name], linewidths=0
        )
    if is_beside:
        legend_beside(axes, markerscale=1.6)
    else:
        legend_below(figure, ncols=3)
    axes.set_title(title, fontsize=TITLE)
    axes.set(xlabel="dimension 1 (no unit)", ylabel="dimension 2 (no unit)", xticks=[], yticks=[])
    return figure


def _draw_number(axes: Axes, number: object, place: pd.DataFrame, every: pd.DataFrame) -> None:
    """Draw a group's number at its point nearest to its median, where there may be no cell; beside a group that it would hide, and
    away from the numbers that are drawn already, if the group has such a point.

    Parameters
    ----------
    place, every
        Columns `x`, `y`: of the group, and of all points.
    """
    points, size = place[["x", "y"]].to_numpy(), np.ptp(every[["x", "y"]].to_numpy(), axis=0) + TINY
    nearest = points[np.argsort(np.linalg.norm(points - np.median(points, axis=0), axis=1), kind="stable")]
    is_free = np.ones(len(nearest), dtype=bool)
    for other in axes.findobj(Annotation):
        is_free &= (np.abs(nearest - other.xy) > APART * size).any(axis=1)
    middle, halo = nearest[np.argmax(is_free)], [withStroke(linewidth=2, foreground="white")]
    is_small = (np.ptp(points, axis=0) <= SMALL * size).all()
    words: dict[str, Any] = {"ha": "center", "va": "center", "xytext": (6, 5) if is_small else (0, 0)}
    axes.annotate(str(number), middle, textcoords="offset points", fontsize=7, zorder=5, path_effects=halo, **words)


def moved(points: pd.DataFrame) -> bool:
    """Return whether alignment moved the target's cells so far that a picture shows it.

    Parameters
    ----------
    points
        As `tables.describe_points` returns them.
    """
    of_target = points[points["cell"] >= 0]
    stages = [part.set_index("cell")[["x", "y"]] for _, part in of_target.groupby("stage", sort=False)]
    if len(stages) < 2 or stages[0].empty:
        return False
    size = float(np.hypot(*np.ptp(points[["x", "y"]].to_numpy(), axis=0)))
    distance = np.hypot(*(stages[0] - stages[-1]).to_numpy().T)
    return bool(np.median(distance) > MOVED * size)


def last_stage(points: pd.DataFrame) -> pd.DataFrame:
    """Return the points of the last stage, the answer's."""
    return points[points["stage"] == points["stage"].iloc[-1]]


def target_umap(
    points: pd.DataFrame,
    by: str,
    target: str,
    names: Sequence[str] = (),
    *,
    title: str = "",
    height: float | None = None,
) -> Figure:
    """Draw the target's cells, small and translucent, over the annotated ones in grey; or these, by their labels, over the target's.

    Parameters
    ----------
    points
        Of one stage, as `tables.describe_points` returns them.
    by
        What gives the colours: `cell type`, `batch`, `confidence` or `reason`, or the annotated cells' `label`. By `batch` the
        annotated cells are coloured too, unless their batches are many.
    names
        All possible answers or batches in their order, so that each has the same colour in all pictures.
    height
        Inches; then there is no legend, which the picture beside this one has.
    """
    of_target = (points["cell"] >= 0).to_numpy()
    group, is_coloured = points[_groups(by)].to_numpy(dtype=object), ~of_target if by == "label" else of_target
    colours = _colours(by, names, points, target)
    present = set(group if by == "batch" else group[is_coloured])
    entries = [name for name in colours if name in present] if by != "confidence" and height is None else []
    panel, width = PANEL if by == "cell type" else LOW_PANEL, HALF
    if len(entries) > MOST_IN_HALF:
        panel, width = 2 * PANEL, FULL
    columns = max(1, min(4, int(width / (0.32 + 0.062 * max(map(len, short_names(entries)), default=0)))))
    below = 0.42 if by == "confidence" else 0.12 + 0.13 * -(-len(entries) // columns)
    explains_grey = height is not None and UNASSIGNED in present
    if height is None:
        height = panel + 0.24 + below
    elif explains_grey:
        below += 0.13
    panel = height - 0.24 - below
    figure = plt.figure(figsize=(width, height))
    axes = figure.add_axes((0.02, below / height, 0.96, panel / height))
    axes.set(xticks=[], yticks=[])
    axes.set_title(title or _title(by, target), fontsize=8.5, loc="left", pad=4)
    axes.spines[:].set_color("#BBBBBB")
    if explains_grey:
        axes.set_xlabel(f"dark grey: {UNASSIGNED}", fontsize=7, loc="left", labelpad=2)
    x, y = points["x"].to_numpy(), points["y"].to_numpy()
    sizes = {"small": _size(len(points)), "large": 1.8 * _size(int(of_target.sum()) * 2)}
    axes.scatter(x[~is_coloured], y[~is_coloured], s=sizes["small"], color=REFERENCE, linewidths=0)
    if by == "confidence":
        shade = points["confidence"].to_numpy(dtype=float)[of_target]
        axes.scatter(
            x[of_target], y[of_target], s=sizes["large"], c=shade, cmap="cividis", vmin=0, vmax=1, linewidths=0
        )
        bar = figure.add_axes((0.12, 0.3 / height, 0.76, 0.09 / height))
        figure.colorbar(ScalarMappable(Normalize(0, 1), "cividis"), cax=bar, orientation="horizontal")
        bar.tick_params(labelsize=7, length=2, pad=1)
        return figure
    if by == "batch" and set(group[~of_target]) <= set(colours):
        is_coloured = np.ones_like(of_target)
    n_types = len([name for name in entries or colours if name != UNASSIGNED])
    numbers = {name: i + 1 for i, name in enumerate(names)} if n_types > FEW and _groups(by) == "cell type" else {}
    for name in [name for name in colours if name != target] + [target] * (by == "batch"):
        at = (group == name) & is_coloured
        if not at.any():
            continue
        size = (
            sizes["large"] if by not in ("batch", "label") else sizes["large"] / 2 if name == target else sizes["small"]
        )
        axes.scatter(x[at], y[at], s=size, alpha=0.65, color=colours[name], linewidths=0)
        if name in numbers and name != UNASSIGNED:
            _draw_number(axes, numbers[name], points[at], points)
    for name, here in _in_groups(points).items() if by == "reason" else ():
        _draw_number(axes, name.removeprefix("group "), here, points)
    _legend_below(figure, entries, colours, numbers, columns, _column(by))
    return figure


def _in_groups(points: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the points of each group of cells unlike the reference, by its name; none where there are no groups."""
    return {str(name): here for name, here in points.groupby("group")} if "group" in points else {}


def _size(n: int) -> float:
    """Return a point's area (points squared) for so many of them."""
    return float(np.clip(6_000 / max(1, n), 1.5, 10))


def _groups(by: str) -> str:
    """Return the column of `tables.describe_points` with the groups of a picture."""
    return "cell type" if by == "label" else by


def _column(by: str) -> str:
    """Return the column of `tables.hover_table` with the groups of a picture."""
    return {"cell type": "prediction", "label": "label in the file"}.get(by, by)


def _title(by: str, target: str) -> str:
    return (
        f"Annotated cells by label ({short(target, 14)} in grey)" if by == "label" else f"{short(target, 24)}: by {by}"
    )


def _colours(by: str, names: Sequence[str], points: pd.DataFrame, target: str) -> dict[str, str]:
    if by == "reason":
        return {name: colour for name, colour in REASON_COLOURS.items() if (points["reason"] == name).any()}
    if by == "batch":
        annotated = [name for name in (names or sorted(set(points["batch"]))) if name != target]
        return (colours_of(annotated) if len(annotated) <= MOST_BATCHES else {}) | {target: TARGET}
    return colours_of(names or sorted(set(points["cell type"][(points["cell"] < 0) == (by == "label")])))


def _legend_below(
    figure: Figure,
    entries: Sequence[str],
    colours: Mapping[str, str],
    numbers: Mapping[str, int],
    columns: int,
    column: str,
) -> None:
    if not entries:
        return
    handles = [
        plt.Line2D([], [], marker="o", linestyle="", markersize=4.5, color=colours[name], markeredgewidth=0)
        for name in entries
    ]
    words = [
        f"{numbers[name]}: {word}" if name in numbers and name != UNASSIGNED else word
        for name, word in zip(entries, short_names(list(entries)), strict=True)
    ]
    legend = figure.legend(
        handles, words, loc="lower center", ncols=columns, fontsize=7, frameon=False, handletextpad=0.1,
        columnspacing=0.8, borderpad=0.1, labelspacing=0.3, borderaxespad=0.1,
    )  # fmt: skip
    for text, name in zip(legend.get_texts(), entries, strict=True):
        clickable(text, column, name)


def target_umap_alt(points: pd.DataFrame, by: str, target: str, when: str = "") -> str:
    """Return the alt text of `target_umap`."""
    of_target = (points["cell"] >= 0).to_numpy()
    which = "Each annotated cell" if by == "label" else "Each cell"
    text = (
        f"Picture of {int(of_target.sum()):,} cells of {target} among {int((~of_target).sum()):,} annotated cells{when}. "
        f"{which} is a point, coloured by {by}"
    )
    if by == "confidence":
        return f"{text}: half of the target's cells have at least {points['confidence'][of_target].median():.2f}."
    drawn = {"batch": slice(None), "label": ~of_target}.get(by, of_target)
    groups = points[_groups(by)][drawn].value_counts()
    numbers = " Numbers are groups of cells unlike the reference." if by == "reason" and _in_groups(points) else ""
    return f"{text}: {listing((f'{name} {n:,}' for name, n in groups.items()), 5, quoted=False)}.{numbers}"


def pictures_of_target(
    points: pd.DataFrame, target: str, batches: Sequence[str], answers: Sequence[str]
) -> list[tuple[Figure, str, bool]]:
    """Return the pictures that show where the target lies: by batch (before alignment too, if it moved anything), among the
    annotated cells' labels, by confidence and reason; each with its alt text, and whether it shows the points of the last
    stage. By batch and by label, all in their order give colours and numbers."""
    last = last_stage(points)
    found = []
    if moved(points):
        first = points[points["stage"] == points["stage"].iloc[0]]
        title = f"{short(target, 24)} before alignment: by batch"
        before = target_umap(first, "batch", target, batches, title=title)
        found.append((before, target_umap_alt(first, "batch", target, " before alignment"), False))
    for by, names in (("batch", batches), ("label", answers), ("confidence", ()), ("reason", ())):
        figure = target_umap(last, by, target, names)
        found.append((figure, target_umap_alt(last, by, target), True))
    return found
