"""Dot plots of what cells express."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from ...core.text import plural
from ...results.expression import Dots
from .style import FULL, short, short_names

MOST_ROWS = 66  # of one picture, which is then as tall as a page

PAGE = 8.6  # inches: a higher picture would be made smaller, letters too

DOWN = ((20, 0.165), (40, 0.12), (np.inf, 0.105))  # inches of a row, where a plot has at most so many


def dot_plot_pages(plots: Iterable[Dots]) -> Iterator[tuple[Figure, str]]:
    """Yield pictures and their alt texts: plots of the same features below each other, if a page holds them."""
    for _, group in groupby(plots, key=lambda dots: list(dots.sections.items())):
        parts = list(group)
        if sum(len(dots.mean) for dots in parts) <= MOST_ROWS:
            yield dot_plot(*parts), " ".join(map(dot_plot_alt, parts))
        else:
            yield from ((dot_plot(dots), dot_plot_alt(dots)) for dots in parts)


def dot_plot(*plots: Dots) -> Figure:
    """Draw groups of cells (rows) by features (columns), several plots of the same features below each other. A dot's size is
    the share of the group's cells with a value above zero, its colour the mean value of all the group's cells.

    Notes
    -----
    scanpy's `DotPlot` draws its title over the headings, fails on a group without cells, and with 60 groups its legend
    falls apart.
    """
    dots = plots[0]
    columns = short_names([name for here in dots.sections.values() for name in here])  # a peak has up to 26 letters
    rows = [
        [f"{name} ({n:,})" for name, n in zip(short_names(list(part.mean.index), 24), part.cells, strict=True)]
        for part in plots
    ]
    # Features that each speak for one type stand in the order of the rows: no heading is needed.
    headings = short_names(list(dots.sections), 22) if len(columns) > len(dots.sections) else []
    # Sizes in inches: letters of 7 points, and rows and columns that they fit into.
    left = 0.3 + 0.06 * max(len(name) for names in rows for name in names)
    step = float(np.clip((FULL - left - 0.1) / len(columns), 0.11, 0.19))
    widths = [step * len(here) for here in dots.sections.values()]
    is_level = bool(headings) and all(0.066 * len(h) <= inches for h, inches in zip(headings, widths, strict=True))
    above = 0.05 + (0.12 + (0.12 if is_level else 0.064 * max(map(len, headings))) if headings else 0)
    below, title = 0.74 + 0.12 * len(_unit_lines(dots)) + 0.06 * max(map(len, columns)), 0.29
    down = next(inches for most, inches in DOWN if max(map(len, rows)) <= most)
    around = above + title * len(plots) + below
    down = min(down, max(0.105, (PAGE - around) / sum(map(len, rows))))
    heights = [down * max(len(names), 2) for names in rows]
    height = around + sum(heights)
    figure = plt.figure(figsize=(FULL, height))
    largest = (72 * min(step, down)) ** 2  # a dot of all cells just touches its neighbours
    y = height
    for i, (part, names, inches) in enumerate(zip(plots, rows, heights, strict=True)):
        shown = "peaks open in cells of each type" if part.what == "peaks" else "what cells of each type express"
        words = textwrap.shorten(f"{short(part.title, 60)}: {shown}", 90, placeholder="…")
        figure.text(0.01, (y - 0.11) / height, words, fontsize=8.5, va="top")
        y -= title + (above if i == 0 else 0) + inches
        axes = figure.add_axes((left / FULL, y / height, step * len(columns) / FULL, inches / height))
        drawn = _draw_dots(axes, part, names, largest)
        if i == 0 and headings:
            _draw_headings(axes, dots, headings, inches, is_level)
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=7)
    axes.set_xlabel(dots.what[:-1], fontsize=7)
    _dot_legend(figure, drawn, dots, largest, left)
    return figure


def _draw_dots(axes: Axes, dots: Dots, names: Sequence[str], largest: float) -> Any:
    order = [name for here in dots.sections.values() for name in here]
    mean, share = dots.mean[order].to_numpy(), dots.share[order].to_numpy()
    row, column = np.nonzero(np.nan_to_num(share) > 0)
    drawn = axes.scatter(
        column, row, s=_dot_size(share[row, column], largest), c=mean[row, column], cmap="Blues",
        norm=Normalize(*dots.color_range), edgecolors="#444444", linewidths=0.4,
        antialiased=False,  # smooth edges of 1,800 dots double the file
    )  # fmt: skip
    axes.set_xticks(range(len(order)), [""] * len(order))
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set(xlim=(-0.6, len(order) - 0.4), ylim=(len(names) - 0.4, -0.6))
    axes.tick_params(length=2)
    axes.set_axisbelow(True)
    axes.grid(color="#EEEEEE", linewidth=0.6)
    return drawn


def _draw_headings(axes: Axes, dots: Dots, headings: Sequence[str], inches: float, is_level: bool) -> None:
    """Draw above axes of a height what the features below each heading speak for, level where the headings are short."""
    start, above = 0, axes.get_xaxis_transform()
    for heading, here in zip(headings, dots.sections.values(), strict=True):
        end, y = start + len(here) - 1, 1 + 0.06 / inches
        axes.plot([start - 0.3, end + 0.3], [y, y], color="#444444", linewidth=1, transform=above, clip_on=False)
        place = (start + end) / 2, y + 0.05 / inches
        axes.text(
            *place, heading, rotation=0 if is_level else 90, ha="center", va="bottom", fontsize=7, transform=above
        )
        start = end + 1


def dot_plot_alt(dots: Dots) -> str:
    """Return the alt text of `dot_plot`."""
    n_features = sum(map(len, dots.sections.values()))
    return (
        f"Dot plot of {dots.title}: share of cells with each of {plural(n_features, dots.what[:-1])}, and its mean value, "
        f"for {plural(len(dots.mean), 'group')} of cells."
    )


def _dot_size(share: np.ndarray, largest: float) -> np.ndarray:
    """Return areas (points squared) that grow with the share of cells."""
    sizes: np.ndarray = (0.04 + 0.82 * np.asarray(share)) * largest
    return sizes


def _unit_lines(dots: Dots) -> list[str]:
    return textwrap.wrap(f"mean value: {dots.unit}", 52, max_lines=2, placeholder="…")


def _dot_legend(figure: Figure, drawn: Any, dots: Dots, largest: float, left: float) -> None:
    """Draw what sizes and colours mean, side by side below the dots, from `left` inches on."""
    width, height = figure.get_size_inches()
    shares = np.array([0.05, 0.25, 0.5, 0.75, 1.0])
    words = "open" if dots.what == "peaks" else "above zero"
    unit = _unit_lines(dots)
    x = min(left, 1.6, FULL - 3.25 - 0.062 * max(map(len, unit)))
    figure.text(x / width, 0.4 / height, f"share of cells {words}", fontsize=7)
    sizes = figure.add_axes((x / width, 0.08 / height, 2.9 / width, 0.26 / height))
    sizes.scatter(np.arange(5), np.zeros(5), s=_dot_size(shares, largest), color="#888888", linewidths=0)
    for i, share in enumerate(shares):
        sizes.text(i + 0.24, 0, f"{100 * share:.0f} %", fontsize=7, va="center")
    sizes.set(xlim=(-0.3, 5.0), ylim=(-1, 1))
    sizes.axis("off")
    figure.text((x + 3.2) / width, 0.4 / height, "\n".join(unit), fontsize=7)
    bar = figure.add_axes(((x + 3.2) / width, 0.22 / height, 1.6 / width, 0.1 / height))
    figure.colorbar(drawn, cax=bar, orientation="horizontal")
    bar.tick_params(labelsize=7, length=2, pad=1)
