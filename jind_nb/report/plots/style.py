"""What all pictures share: colours of lines, short names, and how a figure becomes a PNG in a notebook.

Lines and bars have Okabe and Ito's eight colours, which colour-blind readers can tell apart; cell types and batches those of
`core.colours`.
"""

import io
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML, display
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from ...core._compat import is_process_ours
from ...core.colours import GREY
from ...core.labels import AMBIGUOUS, CONFIDENT, DOUBLET, NO_VALUES, OUTSIDE, PARENT_ONLY, UNLIKE
from .. import html

if is_process_ours():
    # The user's `matplotlibrc` may ask for LaTeX or for fonts that are not there; one in the working directory comes before all
    # that the environment says.
    matplotlib.rcdefaults()

COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#8C6D00", "#000000"]

MARKERS = ["o", "^", "s", "D", "v", "P", "X", "*"]

REASON_COLOURS = {
    CONFIDENT: "#0072B2", PARENT_ONLY: "#56B4E9", AMBIGUOUS: "#E69F00", UNLIKE: "#D55E00", OUTSIDE: "#CC79A7",
    DOUBLET: "#8C6D00", NO_VALUES: "#999999",
}  # fmt: skip

REJECTED: dict[str, Any] = {"color": GREY, "hatch": "///", "edgecolor": "white"}  # bars of cells without a type

MOST_HOVER = 10_000  # points with text under the pointer

DOTS, PIXELS = 150, 100  # per inch: in the file, and on a screen

FULL, HALF = 6.6, 3.3  # inches: a picture as wide as a page, and one of two side by side

MANY = 24  # cell types from which on names are small, numbered, or in two columns

TITLE, LETTERS = 8.5, 7  # points of a title and of other words in a picture; less than 7 cannot be read on paper


def subplots(*args: Any, **kwargs: Any) -> tuple[Figure, Any]:
    """Return `plt.subplots` with a layout that leaves room for all words, and with letters as small as those of the report."""
    with plt.rc_context({"axes.labelsize": LETTERS}):
        figure, axes = plt.subplots(*args, layout="constrained", **kwargs)
    for one in np.ravel(axes):
        one.tick_params(labelsize=LETTERS, length=2)
    return figure, axes


@contextmanager
def boxes_for_missing_letters() -> Iterator[None]:
    """Draw a letter that the font lacks as a box, without a warning: cell and batch names may hold any letter."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def show(figure: Figure | str | None, alt: str = "", points: pd.DataFrame | None = None) -> None:
    """Display a figure in a notebook as a PNG with its alt text, or a sentence in its place; nothing for None.

    Parameters
    ----------
    alt
        What the picture shows, for readers who cannot see it.
    points
        What the report shows about the point under the pointer: `described`.
    """
    if figure is None:
        return
    if isinstance(figure, str):
        display(HTML(f'<p class="nothing">{escape(figure)}</p>'))
        return
    data, about = described(figure, alt, points)
    display({"image/png": data, "text/plain": alt}, raw=True, metadata={"image/png": about})


def show_note(text: str | None) -> None:
    """Display a sentence below a picture, in the report too; nothing for None."""
    if text is not None:
        display(HTML(f'<p class="note">{escape(text)}</p>'))


def described(figure: Figure, alt: str, points: pd.DataFrame | None = None) -> tuple[bytes, dict[str, Any]]:
    """Return a figure as PNG data, and what the report knows of it; the figure is closed.

    Parameters
    ----------
    points
        A row for each point of the first axes, with `x`, `y` (in data coordinates) and columns to show by their names. Left
        out if it has more than 10,000 rows.

    Returns
    -------
    `alt`; `width` and `height` on a screen in pixels; `letters`, the points of the smallest ones; of points `where` (places) and
    `what` (columns); `legend`, the entries that were made `clickable`.
    """
    width, height = figure.get_size_inches()
    about: dict[str, Any] = {"alt": alt, "width": round(PIXELS * width), "height": round(PIXELS * height)}
    image = _drawn(figure)  # puts everything where it is from now on
    if points is not None and len(points) <= MOST_HOVER:
        about |= {"where": _places(figure, points), "what": _hover_columns(points.drop(columns=["x", "y"]))}
    if legend := _clickable_entries(figure):
        about["legend"] = legend
    about["letters"] = min((text.get_fontsize() for text in figure.findobj(Text) if text.get_text()), default=None)
    plt.close(figure)
    return _few_colours(image, 256), about


CLICKABLE = "clickable "


def clickable(text: Text, column: str, name: str) -> None:
    """Make a word of a picture highlight the points that have a name in a column of `tables.hover_table`."""
    text.set_gid(f"{CLICKABLE}{column}\n{name}")


def _clickable_entries(figure: Figure) -> list[dict[str, Any]]:
    """Return the words that `clickable` marked: `column`, `name`, and `box`, left, top, width and height in ten thousandths of the
    picture, with the swatch on a legend entry's left."""
    found = []
    whole = figure.bbox
    for text in figure.findobj(Text):
        gid = text.get_gid() or ""
        if not gid.startswith(CLICKABLE):
            continue
        column, name = gid.removeprefix(CLICKABLE).split("\n", 1)
        box, swatch = text.get_window_extent(), 0.14 * figure.dpi
        left, top = (box.x0 - swatch) / whole.width, 1 - box.y1 / whole.height
        sizes = left, top, (box.width + swatch) / whole.width, box.height / whole.height
        found.append({"column": column, "name": name, "box": [round(1e4 * size) for size in sizes]})
    return found


def _places(figure: Figure, points: pd.DataFrame) -> dict[str, list[int]]:
    """Return each point's place, in ten thousandths of the picture's width and height from its upper left corner."""
    on_paper = figure.axes[0].transData.transform(points[["x", "y"]])
    places = figure.transFigure.inverted().transform(on_paper)
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


def show_table(table: pd.DataFrame, caption: str | None = None, bold: pd.DataFrame | None = None) -> None:
    """Display a table in a notebook, its index as the first column; `bold`, bool and shaped like it, says what stands out."""
    display(HTML(html.table_html(table, caption, has_download=True, bold=bold)))


def png(figure: Figure) -> bytes:
    """Return a figure as PNG data of 256 colours, a third as large as with all of them; the figure is closed."""
    image = _drawn(figure)
    plt.close(figure)
    return _few_colours(image, 256)


def _drawn(figure: Figure) -> Image.Image:
    """Return a figure as an image, drawn once: `Figure.savefig` draws it twice, the first time for its layout."""
    figure.set_dpi(DOTS)
    canvas = FigureCanvasAgg(figure)
    with boxes_for_missing_letters():
        canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba()))


def _few_colours(image: Image.Image, n: int) -> bytes:
    """Return an image as PNG data of n colours.

    The palette is chosen from the colours that occur, each counted once: counted by their area, two batches of few cells
    would get one colour.
    """
    pixels = np.asarray(image.convert("RGB"))
    numbers = pixels.astype(np.uint32) @ np.array([65536, 256, 1], dtype=np.uint32)
    occurring = np.unique(numbers)
    once = np.stack([occurring >> 16, (occurring >> 8) & 255, occurring & 255], axis=-1).astype(np.uint8)
    found = Image.fromarray(once[None]).quantize(n - 1, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    colours = (found.getpalette() or [])[: 3 * (n - 1)]
    palette = Image.new("P", (1, 1))
    palette.putpalette([255, 255, 255, *colours])
    places = np.array(Image.fromarray(pixels).quantize(palette=palette, dither=Image.Dither.NONE))
    places[numbers == 0xFFFFFF] = 0  # Pillow takes the first that is near; paper stays white
    few = Image.fromarray(places, mode="P")
    few.putpalette([255, 255, 255, *colours])
    data = io.BytesIO()
    few.save(data, format="png", compress_level=6)  # at 9 it takes seven times as long, for a twentieth of the size
    return data.getvalue()


def at_most(data: bytes, n_bytes: float) -> bytes:
    """Return a PNG with so few pixels that it has at most `n_bytes`, but no less than a quarter of them each way."""
    if len(data) <= n_bytes:
        return data
    image = Image.open(io.BytesIO(data)).convert("RGB")
    for share in (0.8, 0.65, 0.5, 0.35, 0.25):
        size = round(image.width * share), round(image.height * share)
        smaller = _few_colours(image.resize(size, Image.Resampling.LANCZOS), 128)
        if len(smaller) <= n_bytes:
            break
    return smaller


def short(name: str, most: int = 28) -> str:
    """Return a name, cut in the middle to fit a label; `$` is escaped, since matplotlib would read it as mathematics."""
    if len(name) > most:
        name = f"{name[: most // 2]}…{name[len(name) - (most - most // 2 - 1) :]}"
    return name.replace("$", r"\$")


def short_names(names: Sequence[str], most: int = 28) -> list[str]:
    """Return `short` of names that stand side by side. Those that would look alike keep more of their end, and as many more
    letters as they need.

    >>> short_names(["CD4-positive helper T cell, naive", "CD4-positive regulatory T cell, naive", "B"], 22)
    ['CD4-p…er T cell, naive', 'CD4-p…ry T cell, naive', 'B']
    """
    cut = {name: short(name, most) for name in names}
    for more in range(0, 201, 4):
        count = Counter(cut.values())
        alike = [name for name, words in cut.items() if count[words] > 1]
        if not alike:
            break
        cut |= {name: _short_at_front(name, most + more) for name in alike}
    return [cut[name] for name in names]


def _short_at_front(name: str, most: int) -> str:
    if len(name) > most:
        name = f"{name[: most // 4]}…{name[len(name) - (most - most // 4 - 1) :]}"
    return name.replace("$", r"\$")


def row_height(n: int, most: float) -> float:
    """Return inches for each of so many rows: at most 0.15 for many, and less where the picture would not fit a page; letters of 7
    points always fit a row."""
    return float(np.clip(7.0 / max(1, n), 0.105, most if n <= MANY else min(most, 0.15)))


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
