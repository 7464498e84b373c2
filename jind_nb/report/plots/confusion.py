"""Confusion matrices, accuracy by stage, and the PDF of the training history."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from ...core.files import whole_file
from ...core.labels import UNASSIGNED
from ...core.text import percent, plural
from ...model.history import HELD_OUT, TRAINED_ON, UNSEEN, EvaluatedCells, StageResult, without_training_cells
from ...model.state import TargetStage, TrainingStage
from .style import (
    COLOURS,
    FULL,
    LETTERS,
    TITLE,
    boxes_for_missing_letters,
    row_height,
    short,
    short_names,
    three_digits,
)

FEW_COLUMNS = 6  # of one matrix as wide as a page: more have numbers for names
WIDEST_CELL = 0.8  # inches, of that matrix where the names of its columns are not turned

SIDE_BY_SIDE = 12  # confusion matrices of at most so many types share a row

MOST_ON_A_PAGE = 4

NUMBERS_BESIDE = {"cells": "cells", "rejected": "rejected", "wrong": "misclassified", "AP": "average_precision"}

STAGE_WORDS: dict[str, str] = {
    TrainingStage.INITIAL: "seen by the model before adapting to it",
    TrainingStage.ADAPT: "after its adapter was trained",
    TrainingStage.FINETUNED: "after joint fine-tuning",
    TrainingStage.RETRAIN: "after the last joint training",
}

FIRST_TRAINED = "first trained"
BEFORE_ADAPTING, ADAPTED = "before adapting to the batch (the source: first trained)", "after its adapter was trained"

PANELS: dict[str, str] = {
    TrainingStage.INITIAL: BEFORE_ADAPTING,
    TargetStage.BEFORE: BEFORE_ADAPTING,
    TrainingStage.ADAPT: ADAPTED,
    TargetStage.ALIGNED: ADAPTED,
    TrainingStage.FINETUNED: "after joint fine-tuning",
    TrainingStage.RETRAIN: "after the last joint training",
}


def stage_title(result: StageResult, source: str) -> str:
    """Return what a result shows, in words."""
    words = STAGE_WORDS.get(result.stage, result.stage)
    if result.batch == source and result.stage == TrainingStage.INITIAL:
        words = "its own classifier, first trained"
    return f"{short(result.batch)}: {words}"


# Inches: the width of a letter or digit of LETTERS points, at most; in names of many capitals.
LETTER, WIDE_LETTER = 0.058, 0.066

BETWEEN = 0.2  # inches, of the words of one panel from those of the next


@dataclass(frozen=True)
class _Grid:
    """Inches of the cells of matrices. With few types a cell has two lines; with many the columns have numbers for names."""

    width: float
    height: float
    is_numbered: bool
    step: float = 0.37  # from one of the numbers beside a matrix to the next

    @classmethod
    def of(cls, results: Sequence[StageResult]) -> Self:
        """Return cells that the largest count fits into; a page is as large as they need."""
        is_numbered = max(len(result.predicted) for result in results) - 1 > SIDE_BY_SIDE
        largest = max((n for result in results for row in result.confusion for n in row), default=0)
        width = 0.05 + LETTER * len(f"{largest:,}")
        return cls(max(width, 0.12), 0.13, is_numbered) if is_numbered else cls(max(width, 0.34), 0.29, is_numbered)


def draw_confusion(axes: Axes, result: StageResult, title: str, grid: _Grid) -> None:
    """Draw one confusion matrix: counts in cells that are shaded by the share of their row, which is printed below the
    count where types are few. Beside it, for each type: cells, rejected, wrong, average precision."""
    counts = np.array(result.confusion)
    totals = counts.sum(axis=1, keepdims=True)
    present = totals[:, 0] > 0
    rows = [name for name, here in zip(result.truth, present, strict=True) if here]
    counts, totals = counts[present], totals[present]
    n_columns = len(result.predicted)
    axes.imshow(counts / totals, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), n in np.ndenumerate(counts):
        if n:
            share = n / totals[row, 0]
            style: dict[str, Any] = {"ha": "center", "va": "center", "color": "white" if share > 0.72 else "black"}
            words = f"{n:,}" if grid.is_numbered else f"{n:,}\n{100 * share:.0f}%"
            axes.text(column, row, words, fontsize=LETTERS, **style)
    axes.axvline(n_columns - 1.5, color="black", linewidth=0.8)
    step = grid.step / grid.width
    for offset, (heading, key) in enumerate(NUMBERS_BESIDE.items()):
        x = n_columns - 0.5 + step * (offset + 0.6)
        axes.text(x, -0.8, heading, ha="center", va="bottom", fontsize=LETTERS, rotation=90, fontweight="bold")
        for row, name in enumerate(rows):
            value = result.per_class[name][key]
            text = three_digits(value) if heading == "AP" else f"{value:,}"
            axes.text(x, row, text, ha="center", va="center", fontsize=LETTERS)
    axes.set_xlim(-0.5, n_columns - 0.5 + 4.2 * step)
    of_column = {name: i + 1 for i, name in enumerate(result.predicted)}
    across, down = short_names(result.predicted), short_names(rows)
    if grid.is_numbered:
        across = [*map(str, range(1, n_columns)), UNASSIGNED]
        down = [f"{words}  {of_column.get(name, '–')}" for name, words in zip(rows, down, strict=True)]
    # Words instead of ticks, which take a third of the time of a long history.
    axes.set(xticks=[], yticks=[])
    beside, below = -0.5 - 0.05 / grid.width, len(rows) - 0.5 + 0.05 / grid.height
    for row, words in enumerate(down):
        axes.text(beside, row, words, ha="right", va="center", fontsize=LETTERS)
    for column, words in enumerate(across):
        axes.text(column, below, words, ha="center", va="top", rotation=90, fontsize=LETTERS)
    numbered = ", numbered as the rows" if grid.is_numbered else ""
    points = [72 * WIDE_LETTER * max(map(len, words)) + 6 for words in (across, down)]
    axes.set_xlabel(
        f"predicted cell type{numbered} (number: cells; shade: share of the row)", fontsize=7, labelpad=points[0]
    )
    axes.set_ylabel("true cell type", fontsize=7, labelpad=points[1])
    axes.spines[["top", "right"]].set_visible(False)
    m = result.metrics
    axes.set_title(
        f"{title}\n{m['cells']:,} {result.cells}: {m['rejected']:,} rejected, {m['misclassified']:,} misclassified\n"
        f"accuracy raw {three_digits(m['raw_accuracy'])}, effective {three_digits(m['effective_accuracy'])}; "
        f"mAP {three_digits(m['mAP'])}",
        fontsize=8,
        loc="left",
        pad=52,
    )


def share_matrix(counts: pd.DataFrame, title: str, answers: Sequence[str] = ()) -> Figure:
    """Draw one confusion matrix as wide as a page: each row shaded by the shares of its cells, with numbers where they fit, and beside it
    its cells and the share of them that are assigned their own type (a dash for a type that none can be assigned).

    Parameters
    ----------
    counts
        Cells, true types (rows) by answers (columns), `Unassigned` last; as `tables.confusion_table` returns it.
    answers
        All possible answers in their order, so that a type has the same number in all pictures; default: the columns.
    """
    n_rows, n_columns = counts.shape
    is_numbered = n_columns - 1 > FEW_COLUMNS
    names = short_names([str(name) for name in counts.index], 24 if n_columns <= 40 else 18)
    heads = short_names([str(name) for name in counts.columns], 20)
    number = {name: i + 1 for i, name in enumerate(answers or counts.columns)}
    names = [word if name in number else f"(new) {word}" for name, word in zip(counts.index, names, strict=True)]
    left = 0.25 + 0.058 * (max(map(len, names)) + 4 * is_numbered)
    room = (FULL - left - 1.15) / n_columns
    wrapped = [] if is_numbered else _in_lines(heads, min(room, WIDEST_CELL))
    cell = min(room, WIDEST_CELL) if wrapped else float(np.clip(room, 0.05, 0.42))
    every = int(np.ceil(0.105 / cell))  # so many columns share a number
    row = float(np.clip(cell, 0.108, 0.2 if n_rows <= 20 else 0.118))
    below = 0.058 * (len(UNASSIGNED) if is_numbered else max(map(len, heads)))
    bottom = 0.32 + (0.115 * max(head.count("\n") + 1 for head in wrapped) if wrapped else below)
    height = 0.56 + row * n_rows + bottom
    figure = plt.figure(figsize=(FULL, height))
    axes = figure.add_axes((left / FULL, bottom / height, cell * n_columns / FULL, row * n_rows / height))
    totals = counts.to_numpy().sum(axis=1, keepdims=True)
    shares = counts.to_numpy() / np.maximum(1, totals)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    longest = max(len(f"{n:,}") for n in counts.to_numpy().ravel())
    if cell >= 0.04 + 0.058 * longest:
        for (i, j), n in np.ndenumerate(counts.to_numpy()):
            if n:
                color = "white" if shares[i, j] > 0.6 else "black"
                axes.text(j, i, f"{n:,}", ha="center", va="center", fontsize=7, color=color)
    axes.axvline(n_columns - 1.5, color="black", linewidth=0.8)
    at = {name: j for j, name in enumerate(counts.columns)}
    right = np.array([counts.iloc[i, at[name]] if name in at else 0 for i, name in enumerate(counts.index)])
    for x, head in ((0.3, "cells"), (0.78, "assigned\nand right")):
        axes.text(n_columns - 0.5 + x / cell, -0.75, head, ha="center", va="bottom", fontsize=7, fontweight="bold")
    for i, total in enumerate(totals[:, 0]):
        axes.text(n_columns - 0.5 + 0.3 / cell, i, f"{total:,}", ha="center", va="center", fontsize=7)
        share = f"{100 * right[i] / max(1, total):.0f} %" if counts.index[i] in number else "–"
        axes.text(n_columns - 0.5 + 0.78 / cell, i, share, ha="center", va="center", fontsize=7)
    if is_numbered:
        heads = [str(number[name]) if j % every == 0 else "" for j, name in enumerate(counts.columns[:-1])] + [
            UNASSIGNED
        ]
        names = [
            f"{number[name]}: {word}" if name in number else word
            for name, word in zip(counts.index, names, strict=True)
        ]
    axes.set_xticks(range(n_columns), wrapped or heads, rotation=0 if wrapped else 90, fontsize=7)
    axes.set_yticks(range(n_rows), names, fontsize=7)
    axes.tick_params(length=2, pad=2)
    numbered = ", numbered as the rows" if is_numbered else ""
    axes.set_xlabel(f"answer{numbered}", fontsize=7)
    if is_numbered:
        axes.xaxis.set_label_coords(0.5, -0.27 / (row * n_rows))  # beside the only long word, not below it
    axes.spines[["top", "right"]].set_visible(False)
    figure.text(0.01, 1 - 0.1 / height, title, fontsize=8.5, va="top")
    return figure


def _in_lines(heads: Sequence[str], width: float) -> list[str]:
    """Return the heads of a matrix broken between words so that they fit over cells of a width (inches); nothing where a word is too
    long for that."""
    letters = int((width - 0.06) / 0.058)
    if max(len(word) for head in heads for word in head.split() or [""]) > letters:
        return []
    return ["\n".join(textwrap.wrap(head, letters, break_on_hyphens=False)) for head in heads]


def share_matrix_alt(counts: pd.DataFrame, title: str) -> str:
    """Return the alt text of `share_matrix`: how many are assigned and right, and the most frequent mistakes."""
    long = counts.stack()
    mistakes = [(int(n), *pair) for pair, n in long.items() if n and pair[0] != pair[1] and pair[1] != UNASSIGNED]
    largest = sorted(mistakes, key=lambda mistake: -mistake[0])[:3]
    words = "; ".join(f"{n:,} of {truth} called {given}" for n, truth, given in largest) or "no mistakes"
    n_right = sum(int(counts.loc[name, name]) for name in counts.index if name in counts.columns)
    n_wrong, n_left = sum(mistake[0] for mistake in mistakes), int(counts[UNASSIGNED].sum())
    return f"Confusion matrix. {title}: {n_right:,} assigned and right, {n_wrong:,} assigned and wrong, {n_left:,} Unassigned. Most often: {words}."


def confusions(results: Sequence[StageResult], source: str, width: float = 8.0) -> Figure | str:
    """Draw confusion matrices in reading order, as many side by side as fit into a width (inches)."""
    if not results:
        return "There are no labels for comparison."
    grid = _Grid.of(results)
    n_columns, n_rows = max(len(r.predicted) for r in results), max(len(r.truth) for r in results)
    # Sizes are computed, in inches: a layout engine would take most of the time of a long history.
    down = max(len(name) for r in results for name in short_names(r.truth))
    across = len(UNASSIGNED) if grid.is_numbered else max(len(n) for r in results for n in short_names(r.predicted))
    left, bottom, top = 0.4 + 0.072 * (down + 4 * grid.is_numbered), 0.35 + 0.072 * across, 1.5
    grid_width, grid_height = max(2.9, grid.width * n_columns + 4.2 * grid.step), max(1.2, grid.height * n_rows)
    panel_width, panel_height = left + grid_width + 0.1, bottom + grid_height + top
    per_row = max(1, min(len(results), int(width // panel_width)))
    width, height = panel_width * per_row, panel_height * -(-len(results) // per_row)
    figure = plt.figure(figsize=(width, height))
    for i, result in enumerate(results):
        row, column = divmod(i, per_row)
        x, y = column * panel_width + left, height - (row + 1) * panel_height + bottom
        axes = figure.add_axes((x / width, y / height, grid_width / width, grid_height / height))
        draw_confusion(axes, result, stage_title(result, source), grid)
    return figure


def confusion_alt(result: StageResult) -> str:
    """Return the alt text of `confusions` of one stage: how many are assigned and right, and the most frequent mistakes."""
    m, counts = result.metrics, np.array(result.confusion)
    mistakes = [
        (int(counts[row, column]), truth, predicted)
        for row, truth in enumerate(result.truth)
        for column, predicted in enumerate(result.predicted[:-1])
        if truth != predicted and counts[row, column]
    ]
    largest = sorted(mistakes, key=lambda mistake: -mistake[0])[:3]
    words = "; ".join(f"{n:,} of {truth} called {predicted}" for n, truth, predicted in largest) or "no mistakes"
    n_right = m["cells"] - m["rejected"] - m["misclassified"]
    return (
        f"Confusion matrix of {result.batch}, {STAGE_WORDS.get(result.stage, result.stage)}, {m['cells']:,} {result.cells}: {n_right:,} "
        f"assigned and right, {m['misclassified']:,} assigned and wrong, {m['rejected']:,} Unassigned. Most often: {words}."
    )


def batch_results(history: Sequence[StageResult], batch: str, stages: Sequence[str]) -> list[StageResult]:
    """Return a batch's results at some stages: on held-out cells where there are any, since they flatter least."""
    return [r for stage in stages for r in without_training_cells(history) if r.batch == batch and r.stage == stage]


def accuracy_by_stage(results: Sequence[StageResult], title: str) -> Figure:
    """Draw raw and effective accuracy and rejection: a line for each batch, a panel for each stage, both in order of appearance."""
    panel_of = _panels(results)
    batches, panels = (
        list(dict.fromkeys(of)) for of in ([r.batch for r in results], [panel_of[r.stage] for r in results])
    )
    # Sizes are computed, in inches, as for the matrices.
    letters = FontProperties(size=LETTERS)

    def inches(words: Iterable[str]) -> float:
        """Letters that are fitted to dots are a little wider."""
        with boxes_for_missing_letters():
            sizes = [text_to_path.get_text_width_height_descent(text, letters, ismath=False)[0] for text in words]
        return 1.04 * max(sizes) / 72

    names = short_names(batches)
    left, beside = 0.2 + inches(names), 0.05 + BETWEEN + inches({_n_cells(result) for result in results})
    panel = max((FULL - left) / len(panels), beside + 0.75)
    heads = [textwrap.wrap(words, max(8, int((panel - BETWEEN) / LETTER))) for words in panels]
    words = textwrap.wrap(title, int((left + panel * len(panels)) / (LETTER * TITLE / LETTERS)))
    top = 0.1 + 0.14 * len(words) + 0.05 + 0.125 * max(map(len, heads)) + 0.05
    rows, bottom = row_height(len(batches), 0.19) * len(batches), 0.72
    width, height = left + panel * len(panels), bottom + rows + top
    figure = plt.figure(figsize=(width, height))
    for number, head in enumerate(heads):
        shown = [result for result in results if panel_of[result.stage] == panels[number]]
        y = [batches.index(result.batch) for result in shown]
        place = (left + panel * number) / width, bottom / height, (panel - beside) / width, rows / height
        axes = figure.add_axes(place)
        effective = [result.metrics["effective_accuracy"] for result in shown]
        axes.plot([result.metrics["rejection"] for result in shown], y, "x", color="#666666", label="rejected")
        axes.plot(
            [result.metrics["raw_accuracy"] for result in shown], y, "o",
            color=COLOURS[0], ms=4, label="raw accuracy (all cells)",
        )  # fmt: skip
        axes.plot(
            [np.nan if share is None else share for share in effective], y, "D",
            color=COLOURS[3], ms=5, label="effective accuracy (cells not rejected)", fillstyle="none",
        )  # fmt: skip
        axes.set(xlim=(-0.06, 1.06), ylim=(len(batches) - 0.4, -0.6), yticks=[])
        axes.set_xticks((0, 0.5, 1), ("0", "0.5", "1"))
        axes.tick_params(labelsize=LETTERS, length=2)
        axes.set_title("\n".join(head), fontsize=LETTERS, pad=4)
        axes.grid(axis="x", alpha=0.3)
        axes.hlines(range(len(batches)), -0.06, 1.06, color="#b0b0b0", linewidth=0.8, alpha=0.3, zorder=0)
        beside_axes: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": LETTERS}
        gap = 0.05 / (panel - beside)
        for row, result in zip(y, shown, strict=True):
            axes.text(1 + gap, row, _n_cells(result), color="#555555", **beside_axes)
        if number == 0:
            for row, name in enumerate(names):
                axes.text(-gap, row, name, ha="right", **beside_axes)
            figure.legend(fontsize=LETTERS, frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 0.0))
    figure.text(0.5, 0.34 / height, "share of cells; beside it, the number of cells", ha="center", fontsize=LETTERS)
    figure.text(0.5, 1 - 0.05 / height, "\n".join(words), ha="center", va="top", fontsize=TITLE)
    return figure


def _panels(results: Sequence[StageResult]) -> dict[str, str]:
    """Return the words over the panel of each stage. A target is aligned by its adapter, as annotated batches are; where none of
    these has one, its stages have names of their own."""
    stages = {result.stage for result in results}
    words = PANELS if TrainingStage.ADAPT in stages else STAGE_WORDS | {TrainingStage.INITIAL: FIRST_TRAINED}
    return {stage: words.get(stage, stage) for stage in stages}


def _n_cells(result: StageResult) -> str:
    kind = {TRAINED_ON: "trained", HELD_OUT: "held out", UNSEEN: "unseen"}[EvaluatedCells(result.cells)]
    return f"{result.metrics['cells']:,} {kind}"


def accuracy_alt(results: Sequence[StageResult]) -> str:
    """Return the alt text of `accuracy_by_stage`."""
    some = [r.metrics for r in results if r.metrics["cells"]]
    raw, rejected = ([metrics[name] for metrics in some] for name in ("raw_accuracy", "rejection"))
    if not some:
        return "Accuracy and rejection by stage."
    return (
        f"Raw and effective accuracy and rejection of {plural(len(results), 'stage')}: raw accuracy from {percent(min(raw))} "
        f"to {percent(max(raw))}, rejected from {percent(min(rejected))} to {percent(max(rejected))}."
    )


def accuracy_pages(results: Sequence[StageResult], title: str, at_once: int = 40) -> Iterator[Figure]:
    """Yield `accuracy_by_stage` in pictures of at most `at_once` batches."""
    batches = list(dict.fromkeys(result.batch for result in results))
    for start in range(0, len(batches), at_once):
        part = [result for result in results if result.batch in batches[start : start + at_once]]
        yield accuracy_by_stage(part, title if not start else f"{title} (continued)")


def write_history(
    history: Sequence[StageResult], source: str, target: str, path: Path, in_detail: Sequence[StageResult] | None = None
) -> None:
    """Write the training history as a PDF: an overview, then pages of confusion matrices.

    Parameters
    ----------
    in_detail
        The stages that have a confusion matrix; default: all.
    """
    with whole_file(path) as temporary, PdfPages(temporary) as pdf, boxes_for_missing_letters():

        def page(figure: Figure | str) -> None:
            assert isinstance(figure, Figure)  # a sentence replaces only the matrices of an empty history
            pdf.savefig(figure)
            plt.close(figure)

        others = " and its intermediates" if {result.batch for result in history} - {source, target} else ""
        heading = f"Training history: labels from {short(source)}{others} to {short(target)}"
        shown = without_training_cells(history)
        if in_detail is not None and len(in_detail) < len(shown):
            heading += f". {len(in_detail):,} of these {len(shown):,} stages have a confusion matrix"
        for overview in accuracy_pages(shown, heading):
            page(overview)
        if not history:
            figure = plt.figure(figsize=(8.5, 2))
            figure.text(0.05, 0.5, f"{heading}:\nnothing was trained, and the target has no labels for comparison.")
            page(figure)
        for pages in _pages(history if in_detail is None else in_detail):
            page(confusions(pages, source, width=16.0))


def _pages(history: Sequence[StageResult]) -> list[list[StageResult]]:
    """Return results grouped into pages, batch after batch: where the matrices are small, four of a batch share one, or four batches of
    one stage each."""
    pages: list[list[StageResult]] = []
    for name in dict.fromkeys(result.batch for result in history):
        results = [result for result in history if result.batch == name]
        most = MOST_ON_A_PAGE if len(results[0].predicted) <= SIDE_BY_SIDE else 1
        last = pages[-1] if pages else []
        if len(results) == 1 and len(last) < most and len({result.batch for result in last}) == len(last) > 0:
            last += results
        else:
            pages += [results[first : first + most] for first in range(0, len(results), most)]
    return pages
