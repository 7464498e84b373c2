"""Dot plots of what cells express."""

import textwrap
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from ...core.text import plural
from ...results.expression import Dots
from .style import short, short_names


def dot_plot(dots: Dots) -> Figure:
    """Draw groups of cells (rows) by features (columns). A dot's size is the share of the group's cells with a value
    above zero, its colour the mean value of all the group's cells.

    Notes
    -----
    scanpy's `DotPlot` draws its title over the headings, fails on a group without cells, and with 60 groups its legend
    falls apart.
    """
    n_rows, n_columns = len(dots.mean), sum(map(len, dots.sections.values()))
    names = [f"{name} ({n:,})" for name, n in zip(short_names(list(dots.mean.index)), dots.cells, strict=True)]
    headings = short_names(list(dots.sections), 22)
    # Sizes in inches: the picture is as wide as its columns need, up to a page.
    left = 0.5 + 0.066 * max(map(len, names))
    top = 0.45 + 0.062 * max(map(len, headings))
    columns = [short(name, 22) for here in dots.sections.values() for name in here]
    bottom = 0.45 + 0.062 * max(map(len, columns))
    step = 0.19
    grid_width, grid_height, legend = step * n_columns, step * max(n_rows, 2), 1.75
    width = left + grid_width + legend
    title = textwrap.wrap(f"{short(dots.title, 60)}: what cells of each type express", int(width * 11))
    top += 0.16 * len(title)
    height = max(bottom + grid_height + top, top + 2.45)  # below the headings, the legend too
    figure = plt.figure(figsize=(width, height))
    grid_top = 1 - top / height
    axes = figure.add_axes((left / width, grid_top - grid_height / height, grid_width / width, grid_height / height))
    order = [name for here in dots.sections.values() for name in here]
    mean, share = dots.mean[order].to_numpy(), dots.share[order].to_numpy()
    row, column = np.nonzero(np.nan_to_num(share) > 0)
    shades = Normalize(*dots.color_range)
    drawn = axes.scatter(
        column, row, s=_dot_size(share[row, column]), c=mean[row, column], cmap="Blues", norm=shades,
        edgecolors="#444444", linewidths=0.4, antialiased=False,  # smooth edges of 1,800 dots double the file
    )  # fmt: skip
    axes.set_xticks(range(n_columns), columns, rotation=90, fontsize=7)
    axes.set_yticks(range(n_rows), names, fontsize=7)
    axes.set(xlim=(-0.6, n_columns - 0.4), ylim=(n_rows - 0.4, -0.6))
    axes.set_ylabel("cell type (cells)", fontsize=8)
    axes.set_xlabel(dots.what[:-1], fontsize=8)
    axes.tick_params(length=2)
    axes.set_axisbelow(True)
    axes.grid(color="#EEEEEE", linewidth=0.6)
    start = 0
    above = axes.get_xaxis_transform()
    for heading, here in zip(headings, dots.sections.values(), strict=True):
        end = start + len(here) - 1
        y = 1 + 0.06 / grid_height
        axes.plot([start - 0.3, end + 0.3], [y, y], color="#444444", linewidth=1, transform=above, clip_on=False)
        place = (start + end) / 2, y + 0.05 / grid_height
        axes.text(*place, heading, rotation=90, ha="center", va="bottom", fontsize=7, transform=above)
        start = end + 1
    figure.text(0.02, 1 - 0.08 / height, "\n".join(title), fontsize=10, va="top")
    _dot_legend(figure, drawn, dots, (1 - (legend - 0.25) / width, grid_top))
    return figure


def dot_plot_alt(dots: Dots) -> str:
    """Return the alt text of `dot_plot`."""
    n_features = sum(map(len, dots.sections.values()))
    return (
        f"Dot plot of {dots.title}: share of cells with each of {plural(n_features, dots.what[:-1])}, and its mean value, "
        f"for {plural(len(dots.mean), 'group')} of cells."
    )


def _dot_size(share: np.ndarray) -> np.ndarray:
    """Return areas (points squared) that grow with the share of cells."""
    return 4 + 86 * np.asarray(share)


def _dot_legend(figure: Figure, drawn: Any, dots: Dots, corner: tuple[float, float]) -> None:
    """Draw what sizes and colours mean, one below the other, from an upper left corner (0 to 1 of the figure)."""
    width, height = figure.get_size_inches()
    x, y = corner
    shares = np.array([0.05, 0.25, 0.5, 0.75, 1.0])
    words = "open" if dots.what == "peaks" else "above zero"
    figure.text(x, y, f"share of cells\n{words}", fontsize=7, va="top")
    sizes = figure.add_axes((x, y - 1.25 / height, 0.9 / width, 0.95 / height))
    sizes.scatter(np.zeros(5), np.arange(5), s=_dot_size(shares), color="#888888", linewidths=0)
    for i, share in enumerate(shares):
        sizes.text(0.3, i, f"{100 * share:.0f} %", fontsize=7, va="center")
    sizes.set(xlim=(-0.3, 1.5), ylim=(4.6, -0.6))
    sizes.axis("off")
    unit = textwrap.wrap(f"mean value: {dots.unit}", 22)
    figure.text(x, y - 1.36 / height, "\n".join(unit), fontsize=7, va="top")
    at = y - (1.36 + 0.13 * len(unit) + 0.2) / height
    bar = figure.add_axes((x, at, 1.2 / width, 0.12 / height))
    figure.colorbar(drawn, cax=bar, orientation="horizontal")
    bar.tick_params(labelsize=7, length=2)
