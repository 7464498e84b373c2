"""Every picture of the notebooks and reports. Functions return a figure; `show` puts it into a notebook.

Colours are Okabe and Ito's eight, which colour-blind readers can tell apart; where there are more groups than
colours, marker shapes repeat them, so that colour and shape together name up to 64 groups.
"""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from PIL import Image

from . import metrics, tables
from .artifacts import whole_file
from .calibration import Calibration
from .clusters import Clusters
from .explain import Dots
from .metrics import TRAINED_ON, StageResult
from .rejection import AMBIGUOUS, CONFIDENT, UNASSIGNED, UNLIKE

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
FEWEST_OF_A_RANGE = 5  # cells of a confidence; the share right among fewer says nothing
MANY = 24  # cell types from which on names are small, numbered, or in two columns
SIDE_BY_SIDE = 12  # confusion matrices of at most so many types share a row

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

    display(HTML(tables.html(table, caption)))


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


# --- stage 1 -------------------------------------------------------------------------------------------------------------


def cells_per_type(cells: Mapping[str, Mapping[str, int]], target: str, n_target: int) -> Figure | str:
    """How many cells train, cell type by batch, as a table with shaded cells; the target's number in the title."""
    if not cells:
        return f"A saved model annotates {short(target)}, {n_target:,} cells; no batch is trained on."
    table = pd.DataFrame(cells).fillna(0).astype(int).sort_index()
    has_numbers = table.shape[1] <= 12
    width, height = (0.5 if has_numbers else 0.17), (0.24 if len(table) <= MANY else 0.15)
    longest = max(len(name) for name in short_names(list(table.columns)))
    figure, axes = plt.subplots(
        figsize=(max(6.4, 2.6 + width * table.shape[1]), 1.2 + 0.07 * longest + height * len(table)),
        layout="constrained",
    )
    largest = max(2, int(table.to_numpy().max()))
    # Up to four times the largest number, so that the numbers in the cells stay readable.
    shades = LogNorm(vmin=0.5, vmax=4 * largest)
    drawn = axes.imshow(table.where(table > 0).to_numpy(dtype=float), cmap="Blues", aspect="auto", norm=shades)
    size = 7 if len(table) <= MANY else 6
    if has_numbers:
        for (row, column), n in np.ndenumerate(table.to_numpy()):
            axes.text(column, row, f"{n:,}" if n else "·", ha="center", va="center", fontsize=size)
    else:
        figure.colorbar(drawn, label="cells (white: none)", shrink=0.6)
    axes.set_xticks(range(table.shape[1]), short_names(list(table.columns)), rotation=90, fontsize=7)
    axes.set_yticks(range(table.shape[0]), short_names(list(table.index)), fontsize=size)
    axes.set(xlabel="annotated batch", ylabel="cell type")
    figure.suptitle(f"Labelled cells to learn from; to annotate: {short(target)}, {n_target:,} cells", fontsize=10)
    return figure


def feature_variances(variances: pd.Series, features: Mapping[str, int]) -> Figure | str:
    """The kept features' variances by rank, with the names of the ten largest."""
    if variances.isna().all():
        return f"The saved model's own {features['kept']:,} features are used."
    ranked = variances.sort_values(ascending=False, kind="stable")
    figure, axes = plt.subplots(figsize=(6.6, 3.2), layout="constrained")
    axes.plot(np.arange(1, len(ranked) + 1), ranked, color=COLOURS[0])
    axes.set(xlabel="feature, by rank", ylabel="variance over all cells", xscale="log")
    axes.set_title(f"{features['kept']:,} of {features['in_file']:,} features kept, the most variable", fontsize=10)
    axes.text(
        0.98, 0.95, "largest: " + "\n".join(textwrap.wrap(", ".join(map(short, ranked.index[:10])), 44)), fontsize=7,
        ha="right", va="top", transform=axes.transAxes,
    )  # fmt: skip
    axes.grid(alpha=0.3)
    return figure


def scatter(
    points: pd.DataFrame,
    group: Sequence[str],
    title: str,
    order: Sequence[str] | None = None,
    words: Mapping[str, str] | None = None,
) -> Figure:
    """Cells in two dimensions, coloured by a group; `Unassigned` grey and behind the others.

    Parameters
    ----------
    points
        Columns `x`, `y`.
    group
        A name for each point.
    order
        The groups in the legend's order; default: by name.
    words
        What the legend says of groups that are numbers, as text.
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
        style = {"color": GREY, "marker": "x", "linewidths": 0.8} if name == UNASSIGNED else _style(shown.index(name))
        label = f"{short(words[name] if words else name)} ({at.sum():,})"
        if words or (len(shown) > len(COLOURS) and name != UNASSIGNED):
            # Shapes alone are hard to tell apart: the group's number stands in its middle and in the legend.
            number = name if words else shown.index(name) + 1
            label = f"{number}: {label}"
            middle = _middle(points["x"][at].to_numpy(), points["y"][at].to_numpy())
            halo = [withStroke(linewidth=2, foreground="white")]
            axes.annotate(str(number), middle, ha="center", va="center", fontsize=7, zorder=5, path_effects=halo)
        axes.scatter(points["x"][at], points["y"][at], s=size, alpha=0.8, label=label, **style)
    axes.legend(
        loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=7, markerscale=1.6, frameon=False,
        ncols=1 + len(names) // 26,
    )  # fmt: skip
    axes.set_title(title, fontsize=10)
    axes.set(xlabel="dimension 1 (no unit)", ylabel="dimension 2 (no unit)", xticks=[], yticks=[])
    return figure


def _middle(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The point of a group nearest its middle, which may itself lie where no cell is."""
    nearest = np.argmin((x - np.median(x)) ** 2 + (y - np.median(y)) ** 2)
    return float(x[nearest]), float(y[nearest])


def before_after(points: pd.DataFrame, by: str, target: str) -> Figure:
    """The cells before and after alignment on the same axes, the annotated ones pale behind the target's; one panel where
    the target was not aligned.

    Parameters
    ----------
    points
        As `results.cells_to_see` makes them.
    by
        What colours tell: the column `batch`, `cell type`, `confidence` or `reason`. More batches than there are colours
        are the target and the annotated ones together.
    """
    n_batches = points["batch"].nunique()
    if by == "batch" and n_batches > len(COLOURS):
        points = points.assign(
            batch=points["batch"].where(points["batch"] == target, f"{n_batches - 1} annotated batches")
        )
    stages = list(dict.fromkeys(points["stage"]))
    panel = 3.35
    names = _names_to_see(points, by, target)
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
        axes.set_xlabel("UMAP of the codes, dimension 1 (no unit)", fontsize=7)
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


def _names_to_see(points: pd.DataFrame, by: str, target: str) -> list[str]:
    """The groups of a picture in the order of its legend: the target's batch last, `Unassigned` last."""
    if by == "confidence":
        return []
    if by == "reason":
        return [name for name in REASON_STYLES if (points["reason"] == name).any()]
    last = target if by == "batch" else UNASSIGNED
    names = sorted(set(points[by]) - {last})
    return [*names, last] if (points[by] == last).any() else names


def _draw_cells(axes: Axes, here: pd.DataFrame, by: str, names: list[str], target: str) -> None:
    """The points of one panel, and the number of each group in its middle where there are many."""
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
        style = _style_of(by, names, i)
        for rows, alpha, size in ((~of_target, 0.3, small), (of_target, 0.9, 1.6 * small)):
            at = rows & (group == name)
            axes.scatter(x[at], y[at], s=size, alpha=alpha, **style)
    if not _is_numbered(names) or by == "reason":
        return
    for i, name in enumerate(names):
        at = group == name
        at &= of_target if (at & of_target).any() else True
        if at.any() and name != UNASSIGNED:
            halo = [withStroke(linewidth=2, foreground="white")]
            axes.annotate(
                str(i + 1), _middle(x[at], y[at]), ha="center", va="center", fontsize=6.5, zorder=5, path_effects=halo
            )


def _numbered(names: list[str], i: int) -> str:
    """A group in the legend: with its number where there are many, since shapes alone are hard to tell apart."""
    return f"{i + 1}: {short(names[i])}" if _is_numbered(names) and names[i] != UNASSIGNED else short(names[i])


def _is_numbered(names: list[str]) -> bool:
    return len([name for name in names if name != UNASSIGNED]) > len(COLOURS)


def _style_of(by: str, names: list[str], i: int) -> dict[str, Any]:
    if names[i] == UNASSIGNED:
        return {"color": "#777777", "marker": "x", "linewidths": 0.8}
    return REASON_STYLES[names[i]] if by == "reason" else _style(i)


def _style(position: int) -> dict[str, Any]:
    return {
        "color": COLOURS[position % len(COLOURS)],
        "marker": MARKERS[(position // len(COLOURS)) % len(MARKERS)],
        "linewidths": 0,
    }


# --- stages 2 and 3 ------------------------------------------------------------------------------------------------------


def curves(
    points: Sequence[Mapping[str, Any]], quantity: str, title: str, unit: str, every: str = "epoch"
) -> Figure | None:
    """A quantity over epochs, one line for each batch and stage that has it; None if none has."""
    frame = pd.DataFrame([point for point in points if point.get(quantity) is not None])
    if frame.empty:
        return None
    figure, axes = plt.subplots(figsize=(6.6, 3.2), layout="constrained")
    lines = list(frame.groupby("batch", sort=False)) if "batch" in frame else [("", frame)]
    for i, (name, line) in enumerate(lines):
        style = ["-", "--", ":", "-."][(i // len(COLOURS)) % 4]
        axes.plot(line["epoch"], line[quantity], style, color=COLOURS[i % len(COLOURS)], label=short(str(name)))
    axes.set(xlabel=every, ylabel=unit)
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    if len(lines) > 1:
        axes.legend(
            fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5), ncols=1 + len(lines) // 16
        )
    return figure


def alignment_losses(points: Sequence[Mapping[str, Any]], stage: str) -> Figure | str | None:
    """How alignment went: how far the target still moved at each round, or in METHOD `reference` both players' losses
    over epochs, with the band in which neither wins."""
    frame = pd.DataFrame([point for point in points if point["stage"] == stage])
    if frame.empty:
        return "The target was not aligned in this run."
    if "moved" in frame:
        return curves(points, "moved", "How far the target was still moved", "distance of codes", "round")
    figure, axes = plt.subplots(figsize=(6.6, 3.2), layout="constrained")
    axes.axhspan(0.5, 0.78, color=GREY, alpha=0.3, label="neither side wins")
    axes.plot(frame["epoch"], frame["loss"], "o-", color=COLOURS[0], ms=4, label="adapter: make the target look alike")
    axes.plot(
        frame["epoch"], frame["discriminator_loss"], "s--", color=COLOURS[3], ms=4, label="discriminator: tell apart"
    )
    axes.set(xlabel="epoch", ylabel="mean cross-entropy (nats)", ylim=(0, None))
    axes.set_title("Aligning the target with the annotated batches", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def rejection_by_stage(stages: Mapping[str, Any], title: str) -> Figure:
    """The target's cells kept and rejected, one bar for each stage."""
    figure, axes = plt.subplots(figsize=(6.6, 1.1 + 0.45 * len(stages)), layout="constrained")
    names = list(stages)[::-1]
    rejected = np.array([stages[name].rejected.sum() for name in names])
    kept = np.array([len(stages[name].rejected) for name in names]) - rejected
    axes.barh(names, kept, color=COLOURS[0], label="annotated")
    axes.barh(names, rejected, left=kept, color=GREY, hatch="///", edgecolor="white", label=UNASSIGNED)
    for i, (a, b) in enumerate(zip(kept, rejected, strict=True)):
        axes.text(a + b, i, f" {b:,} of {a + b:,} Unassigned", va="center", fontsize=8)
    axes.set_xlim(0, (kept + rejected).max() * 1.35)
    axes.set_xlabel("cells")
    axes.set_title(title, fontsize=10)
    figure.legend(fontsize=7, frameon=False, loc="outside lower center", ncols=2)
    return figure


# --- confusion matrices ---------------------------------------------------------------------------------------------------

STAGE_WORDS = {
    "initial": "seen by the model before adapting to it",
    "adapt": "after its adapter was trained",
    "finetuned": "after joint fine-tuning",
    "retrain": "after the last joint training",
}


def stage_title(result: StageResult, source: str) -> str:
    """What a result shows, in words."""
    words = STAGE_WORDS.get(result.stage, result.stage)
    if result.batch == source and result.stage == "initial":
        words = "its own classifier, first trained"
    return f"{short(result.batch)}: {words}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


@dataclass(frozen=True)
class _Grid:
    """Inches of a matrix's cells and points of its letters, by its number of types: two lines in a cell of few types, small
    letters and numbered columns for many."""

    width: float
    height: float
    size: float
    has_shares: bool
    is_numbered: bool

    @classmethod
    def of(cls, n_types: int) -> _Grid:
        if n_types <= SIDE_BY_SIDE:
            return cls(0.34, 0.29, 6.5, has_shares=True, is_numbered=False)
        if n_types <= MANY:
            return cls(0.25, 0.2, 6.5, has_shares=False, is_numbered=True)
        return cls(0.118, 0.094, 4.8, has_shares=False, is_numbered=True)


def draw_confusion(axes: Axes, result: StageResult, title: str) -> None:
    """One confusion matrix: counts in cells shaded by their row's share (for few types printed below the count); per type
    and in all what was rejected and wrong, and the average precision, beside it and outside the colour scale."""
    counts = np.array(result.confusion)
    totals = counts.sum(axis=1, keepdims=True)
    present = totals[:, 0] > 0
    rows = [name for name, here in zip(result.truth, present, strict=True) if here]
    counts, totals = counts[present], totals[present]
    n_columns, grid = len(result.predicted), _Grid.of(len(result.predicted) - 1)
    axes.imshow(counts / totals, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), n in np.ndenumerate(counts):
        if n:
            share = n / totals[row, 0]
            style: dict[str, Any] = {"ha": "center", "va": "center", "color": "white" if share > 0.72 else "black"}
            axes.text(column, row - (0.18 if grid.has_shares else 0), f"{n:,}", fontsize=grid.size, **style)
            if grid.has_shares:
                axes.text(column, row + 0.26, f"{100 * share:.0f}%", fontsize=grid.size - 1.5, **style)
    axes.axvline(n_columns - 1.5, color="black", linewidth=0.8)
    step = 0.37 / grid.width if not grid.is_numbered else 0.045 * grid.size / grid.width
    for offset, heading in enumerate(("cells", "rejected", "wrong", "AP")):
        x = n_columns - 0.5 + step * (offset + 0.6)
        axes.text(x, -0.8, heading, ha="center", va="bottom", fontsize=grid.size, rotation=90, fontweight="bold")
        for row, name in enumerate(rows):
            numbers = result.per_class[name]
            text = [
                f"{numbers['cells']:,}", f"{numbers['rejected']:,}", f"{numbers['misclassified']:,}",
                _share(numbers["average_precision"]),
            ][offset]  # fmt: skip
            axes.text(x, row, text, ha="center", va="center", fontsize=grid.size)
    axes.set_xlim(-0.5, n_columns - 0.5 + 4.2 * step)
    of_column = {name: i + 1 for i, name in enumerate(result.predicted)}
    across, down = short_names(result.predicted), short_names(rows)
    if grid.is_numbered:
        across = [*map(str, range(1, n_columns)), UNASSIGNED]
        down = [f"{words}  {of_column.get(name, '–')}" for name, words in zip(rows, down, strict=True)]
    axes.set_xticks(range(n_columns), across, rotation=90, fontsize=min(7, grid.size))
    axes.set_yticks(range(len(rows)), down, fontsize=min(7, grid.size))
    axes.tick_params(length=2, pad=2)
    numbered = ", numbered as the rows" if grid.is_numbered else ""
    axes.set_xlabel(f"predicted cell type{numbered} (number: cells; shade: share of the row)", fontsize=7)
    axes.set_ylabel("true cell type", fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    m = result.metrics
    axes.set_title(
        f"{title}\n{m['cells']:,} {result.cells}: {m['rejected']:,} rejected, {m['misclassified']:,} misclassified\n"
        f"accuracy raw {_share(m['raw_accuracy'])}, effective {_share(m['effective_accuracy'])}; "
        f"mAP {_share(m['mAP'])}",
        fontsize=8,
        loc="left",
        pad=46 if grid.size > 6 else 34,
    )


def confusions(results: Sequence[StageResult], source: str, width: float = 8.0) -> Figure | str:
    """Confusion matrices in reading order, as many beside each other as fit into a width (inches)."""
    if not results:
        return "There are no labels to compare with."
    grid = _Grid.of(max(len(result.predicted) for result in results) - 1)
    n_columns, n_rows = max(len(r.predicted) for r in results), max(len(r.truth) for r in results)
    # Inches, computed instead of left to a layout engine: that would take most of the time of a long history.
    down = max(len(name) for r in results for name in short_names(r.truth))
    across = len(UNASSIGNED) if grid.is_numbered else max(len(n) for r in results for n in short_names(r.predicted))
    letter = 0.072 * min(7, grid.size) / 7
    left, bottom = 0.4 + letter * (down + 4 * grid.is_numbered), 0.35 + letter * across
    top = 1.4 if grid.size > 6 else 1.05
    step = 0.37 if not grid.is_numbered else 0.045 * grid.size
    grid_width, grid_height = max(2.9, grid.width * n_columns + 4.2 * step), max(1.2, grid.height * n_rows)
    panel_width, panel_height = left + grid_width + 0.1, bottom + grid_height + top
    per_row = max(1, min(len(results), int(width // panel_width)))
    width, height = panel_width * per_row, panel_height * -(-len(results) // per_row)
    figure = plt.figure(figsize=(width, height))
    for i, result in enumerate(results):
        row, column = divmod(i, per_row)
        x, y = column * panel_width + left, height - (row + 1) * panel_height + bottom
        axes = figure.add_axes((x / width, y / height, grid_width / width, grid_height / height))
        draw_confusion(axes, result, stage_title(result, source))
    return figure


def of_batch(history: Sequence[StageResult], batch: str, stages: Sequence[str]) -> list[StageResult]:
    """The results of a batch's stages to look at: held-out cells where there are any, they flatter least."""
    chosen = []
    for stage in stages:
        here = [r for r in history if r.batch == batch and r.stage == stage]
        chosen += [r for r in here if r.cells != TRAINED_ON] or here
    return chosen


def accuracy_by_stage(results: Sequence[StageResult], source: str, title: str) -> Figure:
    """Raw and effective accuracy of many stages, one line each, in reading order."""
    figure, axes = plt.subplots(figsize=(8.5, 1.4 + 0.22 * len(results)), layout="constrained")
    y = np.arange(len(results))
    numbers = [result.metrics for result in results]
    axes.plot([m["raw_accuracy"] for m in numbers], y, "o", color=COLOURS[0], label="raw accuracy (all cells)")
    axes.plot(
        [np.nan if m["effective_accuracy"] is None else m["effective_accuracy"] for m in numbers], y, "D",
        color=COLOURS[3], ms=5, label="effective accuracy (cells not rejected)", fillstyle="none",
    )  # fmt: skip
    axes.plot([m["rejection"] for m in numbers], y, "x", color="#666666", label="rejected")
    labels = [f"{stage_title(r, source)} ({r.metrics['cells']:,} {r.cells})" for r in results]
    axes.set_yticks(y, labels, fontsize=7)
    axes.invert_yaxis()
    axes.set(xlim=(-0.02, 1.02), xlabel="share of cells")
    figure.suptitle("\n".join(textwrap.wrap(title, 90)), fontsize=10)
    axes.grid(alpha=0.3)
    figure.legend(fontsize=7, frameon=False, loc="outside lower center", ncols=3)
    return figure


def accuracy_pages(results: Sequence[StageResult], source: str, title: str, at_once: int = 40) -> Iterator[Figure]:
    """`accuracy_by_stage` in pictures of at most so many stages."""
    for start in range(0, len(results), at_once):
        part = results[start : start + at_once]
        yield accuracy_by_stage(part, source, title if not start else f"{title} (continued)")


def write_history(history: Sequence[StageResult], source: str, target: str, path: Path) -> None:
    """The training history as a PDF: an overview, then a page of confusion matrices for each stage of each batch."""
    with whole_file(path) as temporary, PdfPages(temporary) as pdf:

        def page(figure: Figure | str) -> None:
            assert isinstance(figure, Figure)  # words stand for an empty history alone
            pdf.savefig(figure)
            plt.close(figure)

        heading = f"Training history: labels from {short(source)} and its intermediates to {short(target)}"
        for overview in accuracy_pages(history, source, heading):
            page(overview)
        if not history:
            figure = plt.figure(figsize=(8.5, 2))
            figure.text(0.05, 0.5, f"{heading}:\nnothing was trained, and the target has no labels to compare with.")
            page(figure)
        for pages in _pages(history):
            page(confusions(pages, source, width=14.0))


def _pages(history: Sequence[StageResult]) -> list[list[StageResult]]:
    """Results of the same batch and stage together where two matrices fit side by side, held-out cells first."""
    pages: list[list[StageResult]] = []
    for result in history:
        fits = len(result.predicted) <= SIDE_BY_SIDE and pages
        if fits and (pages[-1][0].batch, pages[-1][0].stage) == (result.batch, result.stage):
            pages[-1].append(result)
        else:
            pages.append([result])
    return pages


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


# --- methods side by side ------------------------------------------------------------------------------------------------


def comparison(rows: pd.DataFrame, title: str) -> Figure:
    """Macro-F1, accuracy at 90 % coverage and AURC of methods, best macro-F1 first: a mark for each target, and where
    there are several a line at the mean (over sets, where there are some).

    Parameters
    ----------
    rows
        A row for each `method` and `target` (of a `set`), as `comparison.by_target` gives them.
    """
    numbers = {
        "macro_F1": "macro-F1",
        "accuracy_at_90%": "accuracy of the 90 % of cells\nit is surest of",
        "AURC": "AURC (less is better)",
    }
    sets = list(dict.fromkeys(rows["set"])) if "set" in rows else [None]
    group = ["method", "set"] if "set" in rows else ["method"]
    means = rows.groupby(group, sort=False)[list(numbers)].mean().groupby("method", sort=False).mean()
    means = means.sort_values("macro_F1", ascending=False, kind="stable")
    position = {method: i for i, method in enumerate(means.index)}
    figure, panels = plt.subplots(
        1, 3, sharey=True, figsize=(10, 1.9 + 0.3 * len(means) + 0.22 * (len(sets) // 3)), layout="constrained"
    )
    for axes, (number, label) in zip(panels, numbers.items(), strict=True):
        for i, name in enumerate(sets):
            some = rows if name is None else rows[rows["set"] == name]
            # Sets beside one another, so that equal numbers do not hide each other.
            y = some["method"].map(position) + (0 if len(sets) == 1 else 0.5 * (i / (len(sets) - 1) - 0.5))
            axes.plot(
                some[number],
                y,
                MARKERS[i % 8],
                ms=4,
                alpha=0.75,
                label=name and short(name),
                color=COLOURS[(i + i // 8) % 8],
            )
        if len(rows) > len(means):
            axes.plot(means[number], list(position.values()), "|", ms=15, mew=2.5, color="#000000")
        axes.set(xlabel=label, xlim=(-0.03, 1.03))
        axes.grid(alpha=0.3)
    panels[0].set_yticks(list(position.values()), short_names(list(position)), fontsize=8)
    panels[0].invert_yaxis()
    figure.suptitle("\n".join(textwrap.wrap(short(title, 200), 90)), fontsize=10)
    if sets != [None]:
        figure.legend(
            *panels[0].get_legend_handles_labels(), fontsize=7, frameon=False, loc="outside lower center", ncols=3
        )
    return figure


def dot_plot(dots: Dots) -> Figure:
    """Groups of cells (rows) by features (columns): a dot's size is the share of the group's cells with a value above
    zero, its colour their mean value, all cells counted.

    Not scanpy's `DotPlot`: its title lies on the headings, a group without cells stops it, and with 60 groups its legend
    falls apart.
    """
    n_rows, n_columns = len(dots.mean), sum(map(len, dots.sections.values()))
    names = [f"{name} ({n:,})" for name, n in zip(short_names(list(dots.mean.index)), dots.cells, strict=True)]
    headings = short_names(list(dots.sections), 22)
    # Inches, computed: the picture is as wide as its columns need, up to a page.
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
    shades = Normalize(*dots.brightest)
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
        axes.text(
            (start + end) / 2, y + 0.05 / grid_height, heading, rotation=90, ha="center", va="bottom", fontsize=7,
            transform=above,
        )  # fmt: skip
        start = end + 1
    figure.text(0.02, 1 - 0.08 / height, "\n".join(title), fontsize=10, va="top")
    _dot_legend(figure, drawn, dots, (1 - (legend - 0.25) / width, grid_top))
    return figure


def _dot_size(share: np.ndarray) -> np.ndarray:
    """Areas (points squared) that grow with the share of cells."""
    return 4 + 86 * np.asarray(share)


def _dot_legend(figure: Figure, drawn: Any, dots: Dots, corner: tuple[float, float]) -> None:
    """Sizes and colours, below each other from the upper left corner (of the figure, 0 to 1) on."""
    width, height = figure.get_size_inches()
    x, y = corner
    shares = np.array([0.05, 0.25, 0.5, 0.75, 1.0])
    figure.text(
        x, y, "share of cells\nopen" if dots.what == "peaks" else "share of cells\nabove zero", fontsize=7, va="top"
    )
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
