"""What all pictures share: colours, marker shapes, short names, and how a figure becomes a PNG in a notebook.

Colours are Okabe and Ito's eight, which colour-blind readers can tell apart. Where there are more groups than colours,
each marker shape repeats them: colour and shape together tell up to 64 groups apart.
"""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from ...core.labels import AMBIGUOUS, CONFIDENT, OUTSIDE, PARENT_ONLY, UNLIKE
from .. import html

COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#8C6D00", "#000000"]

MARKERS = ["o", "^", "s", "D", "v", "P", "X", "*"]

GREY = "#BBBBBB"

REASON_COLOURS = {
    CONFIDENT: "#0072B2", PARENT_ONLY: "#56B4E9", AMBIGUOUS: "#E69F00", UNLIKE: "#D55E00", OUTSIDE: "#CC79A7",
}  # fmt: skip

REASON_STYLES: dict[str, dict[str, Any]] = {
    reason: {"color": colour, "marker": marker, "linewidths": 0}
    for (reason, colour), marker in zip(REASON_COLOURS.items(), "os^Dv", strict=True)
}

REJECTED: dict[str, Any] = {"color": GREY, "hatch": "///", "edgecolor": "white"}  # bars of cells without a type

MOST_HOVER = 10_000  # points with text under the pointer

DOTS, PIXELS = 150, 100  # per inch: in the file, and on a screen

MANY = 24  # cell types from which on names are small, numbered, or in two columns


@contextmanager
def boxes_for_missing_letters() -> Iterator[None]:
    """Draw a letter that the font lacks as a box, without a warning: cell and batch names may hold any letter."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def show(figure: Figure | str | None, alt: str = "", cells: pd.DataFrame | None = None) -> None:
    """Display a figure in a notebook as a PNG with its alt text, or a sentence in its place; nothing for None.

    Parameters
    ----------
    alt
        What the picture shows, for readers who cannot see it.
    cells
        What the report shows about the point under the pointer: a row for each point, with `panel` (int, which of the
        figure's axes), `x`, `y` (in data coordinates) and the columns to show by their names. Left out if it has more
        than 10,000 rows.
    """
    if figure is None:
        return
    if isinstance(figure, str):
        display(HTML(f'<p class="nothing">{escape(figure)}</p>'))
        return
    about: dict[str, Any] = {"alt": alt, **pixels(figure)}
    if cells is not None and len(cells) <= MOST_HOVER:
        about |= {"where": _places(figure, cells), "what": _hover_columns(cells.drop(columns=["panel", "x", "y"]))}
    display({"image/png": png(figure), "text/plain": alt}, raw=True, metadata={"image/png": about})


def pixels(figure: Figure) -> dict[str, int]:
    """Return a figure's `width` and `height` on a screen."""
    width, height = figure.get_size_inches()
    return {"width": round(PIXELS * width), "height": round(PIXELS * height)}


def _places(figure: Figure, cells: pd.DataFrame) -> dict[str, list[int]]:
    """Return each point's place, in ten thousandths of the picture's width and height from its upper left corner."""
    with boxes_for_missing_letters():
        figure.draw_without_rendering()  # puts the axes where they will be
    places = np.empty((len(cells), 2))
    for panel, rows in cells.reset_index(drop=True).groupby("panel"):
        axes = figure.axes[panel]
        places[rows.index] = figure.transFigure.inverted().transform(axes.transData.transform(rows[["x", "y"]]))
    x, y = np.rint(1e4 * np.clip([places[:, 0], 1 - places[:, 1]], 0, 1)).astype(int).tolist()
    return {"x": x, "y": y}


def _hover_columns(cells: pd.DataFrame) -> list[dict[str, Any]]:
    """Return columns as plain values; repeated words as numbers into `levels`, -1 or None for a missing value."""
    columns: list[dict[str, Any]] = []
    for name, column in cells.items():
        if column.dtype == object and column.nunique() <= len(column) / 2:
            codes, levels = pd.factorize(column)
            columns.append({"name": name, "values": codes.tolist(), "levels": [str(level) for level in levels]})
        else:
            columns.append({"name": name, "values": [None if pd.isna(value) else value for value in column.tolist()]})
    return columns


def show_table(table: pd.DataFrame, caption: str | None = None) -> None:
    """Display a table in a notebook, its index as the first column."""
    display(HTML(html.table_html(table, caption)))


def png(figure: Figure) -> bytes:
    """Return a figure as PNG data of 256 colours, a third as large as with all colours; the figure is closed."""
    drawn = io.BytesIO()
    with boxes_for_missing_letters():
        figure.savefig(drawn, format="png", dpi=DOTS)
    plt.close(figure)
    return _few_colours(Image.open(drawn), 256)


def _few_colours(image: Image.Image, n: int) -> bytes:
    data = io.BytesIO()
    image.convert("RGB").quantize(n, dither=Image.Dither.NONE).save(data, format="png", optimize=True)
    return data.getvalue()


def at_most(data: bytes, n_bytes: float) -> bytes:
    """Return a PNG with so few pixels that it has at most `n_bytes`, but no less than a quarter of them each way."""
    if len(data) <= n_bytes:
        return data
    image = Image.open(io.BytesIO(data)).convert("RGB")
    for share in (0.8, 0.65, 0.5, 0.35, 0.25):
        size = round(image.width * share), round(image.height * share)
        smaller = _few_colours(image.resize(size, Image.Resampling.LANCZOS), 64)
        if len(smaller) <= n_bytes:
            break
    return smaller


def short(name: str, most: int = 28) -> str:
    """Return a name, cut in the middle to fit a label; `$` is escaped, since matplotlib would read it as mathematics."""
    if len(name) > most:
        name = f"{name[: most // 2]}…{name[len(name) - (most - most // 2 - 1) :]}"
    return name.replace("$", r"\$")


def short_names(names: Sequence[str], most: int = 28) -> list[str]:
    """Return `short` of names that stand side by side; uncut where cutting would make two of them alike."""
    cut = [short(name, most) for name in names]
    return cut if len(set(cut)) == len(set(names)) else [short(name, 200) for name in names]


def three_digits(value: float | None) -> str:
    """Return a share or score with three decimals, a dash for None."""
    return "–" if value is None else f"{value:.3f}"


def legend_below(figure: Figure, *handles_and_labels: Any, ncols: int = 1) -> None:
    """Draw a figure's legend below everything else, of all its axes or of some handles and labels."""
    figure.legend(*handles_and_labels, fontsize=7, frameon=False, loc="outside lower center", ncols=ncols)


def legend_beside(axes: Axes, ncols: int = 1, markerscale: float = 1.0) -> None:
    """Draw the legend of axes on their right."""
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
    axes.legend(fontsize=7, frameon=False, ncols=ncols, markerscale=markerscale, **place)


def group_style(position: int) -> dict[str, Any]:
    """Return matplotlib's colour, marker and line width for the group of a position (0 to 63)."""
    turn, colour = divmod(position, len(COLOURS))
    return {"color": COLOURS[colour], "marker": MARKERS[turn % len(MARKERS)], "linewidths": 0}
