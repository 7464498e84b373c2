"""Every picture of the notebooks and reports. Functions return a figure; `show` puts it into a notebook.

Colours are Okabe and Ito's eight, which colour-blind readers can tell apart; where there are more groups than
colours, marker shapes repeat them, so that colour and shape together name up to 64 groups.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from html import escape
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from ...core.labels import AMBIGUOUS, CONFIDENT, UNLIKE
from .. import html

COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#8C6D00", "#000000"]

MARKERS = ["o", "^", "s", "D", "v", "P", "X", "*"]

GREY = "#BBBBBB"

REASON_STYLES: dict[str, dict[str, Any]] = {
    CONFIDENT: {"color": "#0072B2", "marker": "o", "linewidths": 0},
    "parent only": {"color": "#56B4E9", "marker": "s", "linewidths": 0},
    AMBIGUOUS: {"color": "#E69F00", "marker": "^", "linewidths": 0},
    UNLIKE: {"color": "#D55E00", "marker": "D", "linewidths": 0},
}

MOST_TOLD = 10_000  # points of which the report can tell

DOTS, PIXELS = 150, 100  # of an inch: in the file, and on a screen

MANY = 24  # cell types from which on names are small, numbered, or in two columns

# Cell and batch names may hold any character; one the font lacks is drawn as a box, which is no reason to warn.
warnings.filterwarnings("ignore", message="Glyph .* missing from font")


def show(figure: Figure | str | None, alt: str = "", cells: pd.DataFrame | None = None) -> None:
    """Displays a figure once, as a PNG with a text for readers who cannot see it, or words where there is no picture;
    nothing if there is neither.

    Parameters
    ----------
    cells
        What the report tells about the point under the pointer: a row for each, with `panel` (int, which of the figure's
        axes), `x`, `y` (in its data) and columns to tell by their names; none of more than 10,000 rows.
    """
    from IPython.display import HTML, display

    if figure is None:
        return
    if isinstance(figure, str):
        display(HTML(f'<p class="nothing">{escape(figure)}</p>'))
        return
    width, height = pixels(figure)
    about: dict[str, Any] = {"alt": alt, "width": width, "height": height}
    if cells is not None and len(cells) <= MOST_TOLD:
        about |= {"where": _places(figure, cells), "what": _told(cells.drop(columns=["panel", "x", "y"]))}
    display({"image/png": png(figure), "text/plain": alt}, raw=True, metadata={"image/png": about})


def pixels(figure: Figure) -> tuple[int, int]:
    """Width and height on a screen."""
    width, height = figure.get_size_inches()
    return round(PIXELS * width), round(PIXELS * height)


def _places(figure: Figure, cells: pd.DataFrame) -> dict[str, list[int]]:
    """Where the points are in the picture, in ten thousandths of its width and height from the upper left corner."""
    figure.draw_without_rendering()  # puts the axes where they will be
    places = np.empty((len(cells), 2))
    for panel, rows in cells.reset_index(drop=True).groupby("panel"):
        axes = figure.axes[panel]
        places[rows.index] = figure.transFigure.inverted().transform(axes.transData.transform(rows[["x", "y"]]))
    x, y = np.rint(1e4 * np.clip([places[:, 0], 1 - places[:, 1]], 0, 1)).astype(int).tolist()
    return {"x": x, "y": y}


def _told(cells: pd.DataFrame) -> list[dict[str, Any]]:
    """Columns as plain values: words that repeat as their number among `levels`, -1 or None where there is none."""
    told: list[dict[str, Any]] = []
    for name, column in cells.items():
        if column.dtype == object and column.nunique() <= len(column) / 2:
            codes, levels = pd.factorize(column)
            told.append({"name": name, "values": codes.tolist(), "levels": [str(level) for level in levels]})
        else:
            told.append({"name": name, "values": [None if pd.isna(value) else value for value in column.tolist()]})
    return told


def show_table(table: pd.DataFrame, caption: str | None = None) -> None:
    """Displays a table with its index as the first column; names are shown as text, missing values as a dash."""
    from IPython.display import HTML, display

    display(HTML(html.html(table, caption)))


def png(figure: Figure) -> bytes:
    """The figure as PNG data of 256 colours, sharp on paper and a third as large; the figure is closed."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DOTS)
    plt.close(figure)
    return _few_colours(Image.open(drawn), 256)


def _few_colours(image: Image.Image, n: int) -> bytes:
    data = io.BytesIO()
    image.convert("RGB").quantize(n, dither=Image.Dither.NONE).save(data, format="png", optimize=True)
    return data.getvalue()


def at_most(data: bytes, n_bytes: float) -> bytes:
    """A PNG with fewer pixels, down to a quarter each way, where it is larger than so many bytes."""
    if len(data) <= n_bytes:
        return data
    whole = Image.open(io.BytesIO(data)).convert("RGB")
    for share in (0.8, 0.65, 0.5, 0.35, 0.25):
        size = round(whole.width * share), round(whole.height * share)
        smaller = _few_colours(whole.resize(size, Image.Resampling.LANCZOS), 64)
        if len(smaller) <= n_bytes:
            break
    return smaller


def short(name: str, most: int = 28) -> str:
    """A name cut in the middle to fit a label; `$` escaped, since matplotlib would read it as mathematics."""
    if len(name) > most:
        name = f"{name[: most // 2]}…{name[len(name) - (most - most // 2 - 1) :]}"
    return name.replace("$", r"\$")


def short_names(names: Sequence[str], most: int = 28) -> list[str]:
    """`short` for names that stand side by side: whole where cutting would make two of them alike."""
    cut = [short(name, most) for name in names]
    return cut if len(set(cut)) == len(set(names)) else [short(name, 200) for name in names]


def _style(position: int) -> dict[str, Any]:
    return {
        "color": COLOURS[position % len(COLOURS)],
        "marker": MARKERS[(position // len(COLOURS)) % len(MARKERS)],
        "linewidths": 0,
    }
