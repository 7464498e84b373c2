"""Pictures with few and with many cell types: every name there, every group told from every other."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pypdf
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from jind_nb.core.colours import DARK_GREY, colours_of
from jind_nb.core.labels import UNASSIGNED
from jind_nb.core.parameters import Parameters
from jind_nb.data.plan import Plan
from jind_nb.metrics import reliability, risk_coverage
from jind_nb.model.calibration import Calibration
from jind_nb.model.history import (
    HELD_OUT,
    TRAINED_ON,
    UNSEEN,
    StageResult,
    stage_result,
    stages_to_compare,
    without_training_cells,
)
from jind_nb.model.predictions import Predictions
from jind_nb.model.state import TargetStage
from jind_nb.report.plots import compare, confusion, embedding, style, training
from jind_nb.report.plots import target as plots_target
from jind_nb.results import clusters, cohort, tables
from jind_nb.results.clusters import Clusters
from jind_nb.results.target import LabelledCells
from jind_nb.runs.folder import Run

SOURCE, TARGET = "donor 1", "donor 9"


@pytest.fixture(autouse=True)
def _close_figures() -> object:
    yield
    plt.close("all")


def type_names(n: int) -> list[str]:
    return [f"cell type {i:02d}" for i in range(n)]


def result(batch: str, stage: str, cells: str, types: list[str], n: int = 0) -> StageResult:
    """A stage that is mostly right, with every type among the cells."""
    random = np.random.default_rng(len(types))
    truth = np.array(types * (n or 6), dtype=object)
    y = np.tile(np.arange(len(types)), n or 6)
    probabilities = random.dirichlet(np.full(len(types), 0.3), len(truth)) * 0.4
    probabilities[np.arange(len(truth)), y] += 0.6 * random.uniform(size=len(truth))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return stage_result(
        batch,
        stage,
        cells,
        truth,
        Predictions(types, probabilities, np.full(len(types), 0.4 if len(types) > 9 else 0.5)),
    )


def history_of(types: list[str], intermediates: list[str]) -> list[StageResult]:
    """What a run records, in its order."""
    made = [result(SOURCE, "initial", which, types) for which in (HELD_OUT, TRAINED_ON)]
    for batch in intermediates:
        made.append(result(batch, "initial", UNSEEN, types))
        made += [
            result(batch, stage, which, types) for stage in ("adapt", "finetuned") for which in (HELD_OUT, TRAINED_ON)
        ]
    if intermediates:
        made += [
            result(batch, "retrain", which, types)
            for batch in (SOURCE, *intermediates)
            for which in (HELD_OUT, TRAINED_ON)
        ]
    return made + [result(TARGET, stage, UNSEEN, types) for stage in ("before alignment", "after alignment")]


def pages_of(file: Path) -> list[str]:
    return [page.extract_text() for page in pypdf.PdfReader(file).pages]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[list[StageResult]], list[str]]:
    """Writes a history and gives the text of its pages."""

    def call(history: list[StageResult]) -> list[str]:
        confusion.write_history(history, SOURCE, TARGET, tmp_path / "history.pdf")
        return pages_of(tmp_path / "history.pdf")

    return call


ORDER_WITH_ONE_INTERMEDIATE = [
    "donor 1: its own classifier, first trained",
    "donor 2: seen by the model before adapting to it",
    "donor 2: after its adapter was trained",
    "donor 2: after joint fine-tuning",
    "donor 1: after the last joint training",
    "donor 2: after the last joint training",
    "donor 9: before alignment",
    "donor 9: after alignment",
]


def test_of_hundreds_of_batches_and_types_the_worst_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two thousand matrices of 200 types would take an hour and a half, and nobody leafs through them."""
    run = Run(
        Parameters(PATH="x", BATCH_COL="b", LABELS_COL="l", TARGET_DATASET_NAME=TARGET, OUTPUT_PATH=str(tmp_path))
    )
    history = history_of(type_names(4), [f"donor {i}" for i in range(2, 8)])
    for stage in history:
        stage.metrics["raw_accuracy"] = 0.2 if stage.batch == "donor 5" else 0.9
    unseen = cohort.stages_in_detail(run, history)
    assert [stage.cells for stage in unseen].count(TRAINED_ON) == 0
    assert {(stage.batch, stage.stage) for stage in unseen} == {(stage.batch, stage.stage) for stage in history}
    monkeypatch.setattr(cohort, "MOST_ROWS_DRAWN", 4)
    drawn = cohort.stages_in_detail(run, history)
    assert [(stage.batch, stage.stage) for stage in drawn] == [
        ("donor 5", "retrain"), (TARGET, "before alignment"), (TARGET, "after alignment"),
    ]  # fmt: skip
    confusion.write_history(history, SOURCE, TARGET, tmp_path / "history.pdf", drawn)
    pages = pages_of(tmp_path / "history.pdf")
    assert f"3 of these {len(unseen)} stages" in pages[0].replace("\n", " ")
    assert len(pages) == 1 + 2  # all batches are in the overview; a batch has a page


@pytest.mark.slow
def test_history_of_few_types_is_a_page_for_each_batch_in_reading_order(write: Callable[..., list[str]]) -> None:
    """A user who leafs through it follows the run from the source to the target."""
    history = without_training_cells(history_of(type_names(4), ["donor 2"]))
    pages = write(history)
    overview = " ".join(pages[0].split())
    for names in (
        ("donor 1", "donor 2", TARGET),
        ("before adapting", "after its adapter", "fine-tuning", "last joint"),
    ):
        at = [overview.index(name) for name in names]
        assert at == sorted(at)
    of_batches = [" ".join(page.split()) for page in pages[1:]]
    assert sum(page.count("mAP") for page in of_batches) == len(history)
    for title in ORDER_WITH_ONE_INTERMEDIATE:
        assert sum(title in page for page in of_batches) == 1
    for page in of_batches:
        assert len({title.split(":")[0] for title in ORDER_WITH_ONE_INTERMEDIATE if title in page}) == 1


def test_a_history_of_one_annotated_batch_speaks_of_no_intermediates_and_no_adapters(
    write: Callable[..., list[str]],
) -> None:
    """There are none, and a reader would look for them."""
    first = result(SOURCE, "initial", HELD_OUT, type_names(4))
    stages = [result(TARGET, stage, UNSEEN, type_names(4)) for stage in ("before alignment", "after alignment")]
    assert stages_to_compare([first]) == []
    assert stages_to_compare([first, *stages]) == [first, *stages]
    overview = " ".join(write([first, *stages])[0].split())
    for words in (f"labels from {SOURCE} to {TARGET}", "first trained", "before alignment", "after alignment"):
        assert words in overview
    assert "adapt" not in overview


def test_batches_of_one_stage_share_pages(write: Callable[..., list[str]]) -> None:
    """Forty donors, each with its last stage, take ten pages and not forty; TARGET has its own."""
    last = [result(f"donor {i}", "retrain", HELD_OUT, type_names(4)) for i in range(11, 20)]
    pages = write(
        [*last, *(result(TARGET, stage, UNSEEN, type_names(4)) for stage in ("before alignment", "after alignment"))]
    )
    assert [page.count("mAP") for page in pages] == [0, 4, 4, 1, 2]


@pytest.mark.slow
def test_history_of_forty_types_loses_no_stage(write: Callable[..., list[str]]) -> None:
    """Forty types fill a page: each matrix has its own, and none is left out."""
    history = history_of(type_names(40), [])
    pages = write(history)
    assert len(pages) == 1 + len(history)
    for record, page in zip(history, pages[1:], strict=True):
        assert confusion.stage_title(record, SOURCE) in page
        assert f"{record.metrics['cells']:,} {record.cells}" in page


def test_history_without_intermediates(write: Callable[..., list[str]]) -> None:
    """Two batches are the smallest run there is."""
    pages = write(history_of(type_names(4), []))
    assert len(pages) == 1 + 2
    assert "first trained" in pages[1]
    assert "donor 9: after alignment" in pages[2]


def test_history_of_nothing_says_so(write: Callable[..., list[str]]) -> None:
    """A saved model on an unlabelled target has nothing to show; an empty file would look like a failure."""
    (page,) = write([])
    assert "nothing was trained" in page


@pytest.mark.slow
@pytest.mark.parametrize("n", [4, 40])
def test_every_matrix_names_its_types_and_its_numbers(n: int, write: Callable[..., list[str]]) -> None:
    """A matrix without cells, rejections, errors and precision beside it hides what the colours do not show."""
    record = result(TARGET, "after alignment", UNSEEN, type_names(n))
    _, page = write([record])
    for heading in ("cells", "rejected", "wrong", "AP", "predicted cell type", "true cell type", UNASSIGNED):
        assert heading in page
    for i, name in enumerate(type_names(n)):
        if n <= confusion.SIDE_BY_SIDE:
            assert page.count(name) >= 2, name  # a row and a column
        else:  # a row, whose number is its column's heading
            assert f"{name}  {i + 1}" in page, name
    m = record.metrics
    assert f"{m['rejected']:,} rejected, {m['misclassified']:,} misclassified" in page
    assert f"raw {m['raw_accuracy']:.3f}, effective {m['effective_accuracy']:.3f}; mAP {m['mAP']:.3f}" in " ".join(
        page.split()
    )
    for row in record.per_class.values():
        assert f"{row['average_precision']:.3f}" in page


def test_matrix_shows_every_count(write: Callable[..., list[str]]) -> None:
    """The counts of a matrix must add up to its cells."""
    record = result(TARGET, "after alignment", UNSEEN, ["B", "NK", "T"], n=50)
    figure = confusion.confusions([record], SOURCE)
    inside = [t.get_text().split("\n") for t in figure.axes[0].texts if "\n" in t.get_text()]
    counts, shares = zip(*inside, strict=True)
    assert sum(int(n.replace(",", "")) for n in counts) == record.metrics["cells"]
    (first, *_), totals = np.array(record.confusion), np.array(record.confusion).sum(axis=1)
    assert f"{100 * first[0] / totals[0]:.0f}%" in shares


def test_types_that_are_absent_from_the_batch_have_a_column_but_no_row() -> None:
    """A row of zeros would be divided by zero, and a missing column would hide where cells went."""
    truth = np.array(["B"] * 5, dtype=object)
    predictions = Predictions(["B", "T"], np.array([[0.2, 0.8]] * 2 + [[0.9, 0.1]] * 3), np.zeros(2))
    figure = confusion.confusions([stage_result(TARGET, "s", UNSEEN, truth, predictions)], SOURCE)
    assert names_at("right", figure) == ["B"]
    assert names_at("top", figure) == ["B", "T", UNASSIGNED]


def names_at(edge: str, figure: Figure) -> list[str]:
    """The names whose right edge is at a matrix's rows, or whose top is at its columns."""
    words = figure.axes[0].texts
    return [t.get_text() for t in words if edge in (t.get_horizontalalignment(), t.get_verticalalignment())]


LONG = [
    "CD8-positive, alpha-beta T cell",
    "CD8-positive, alpha-beta memory T cell",
    "CD8-positive, alpha-beta NKT cell",
]


def test_long_names_that_begin_alike_stay_apart(write: Callable[..., list[str]]) -> None:
    """Cell Ontology names differ at their end: cut there, two rows of a matrix would carry the same name."""
    figure = confusion.confusions([result(TARGET, "after alignment", UNSEEN, LONG)], SOURCE)
    assert len(set(names_at("right", figure))) == len(LONG)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["$T$", "a_b^c", "<b>B</b>", r"\frac", "100 %", "T{x}", "$", "=cmd()"])
def test_no_name_is_read_as_mathematics(name: str, write: Callable[..., list[str]]) -> None:
    """One dollar sign in a label would else stop the run, or draw another name."""
    _, page = write([result(TARGET, "after alignment", UNSEEN, [name, "other"])])
    assert page.count(name) >= 2


# --- many groups ---------------------------------------------------------------------------------------------------------


def styles(figure: Figure) -> list[tuple[str, bytes]]:
    """Colour and shape of each labelled group of points."""
    drawn = [c for axes in figure.axes for c in axes.collections if isinstance(c, PathCollection)]
    return [
        (to_hex(c.get_facecolor()[0]), c.get_paths()[0].vertices.round(4).tobytes())
        for c in drawn
        if not str(c.get_label()).startswith("_")
    ]


@pytest.mark.parametrize("n", [3, 60])
def test_no_two_groups_share_colour_and_shape(n: int) -> None:
    """Two cell types drawn alike are one cell type to the reader."""
    random = np.random.default_rng(0)
    group = np.repeat(type_names(n), 5)
    points = pd.DataFrame(random.normal(size=(len(group), 2)), columns=["x", "y"])
    found = styles(embedding.scatter(points, list(group), "title"))
    assert len(found) == n
    assert len(set(found)) == n


def test_unassigned_is_grey_and_apart_from_all_types() -> None:
    """A rejected cell must never look like a cell of a type."""
    group = [UNASSIGNED, *type_names(60)]
    points = pd.DataFrame({"x": np.arange(61.0), "y": np.arange(61.0)})
    figure = embedding.scatter(points, group, "title")
    (legend,) = figure.legends
    assert legend.get_texts()[0].get_text() == "Unassigned (1)"
    assert len(set(styles(figure))) == 61
    assert [colour for colour, _ in styles(figure)].count(DARK_GREY.lower()) == 1


def seen_cells(n: int, stages: tuple[str, ...] = ("before alignment", "after alignment")) -> pd.DataFrame:
    """An annotated and a target cell of each of n types, as `tables.describe_points` makes them."""
    names = type_names(n)
    frame = pd.DataFrame({"x": np.arange(n) * 1.0, "y": np.arange(n) * 1.0, "batch": names, "cell type": names})
    known = frame.assign(cell=-1, confidence=np.nan, reason=None)
    reasons = np.array(["confident", "ambiguous", "unlike reference"], dtype=object)[np.arange(n) % 3]
    target = frame.assign(batch=TARGET, cell=np.arange(n), confidence=np.linspace(0.1, 1, n), reason=reasons)
    return pd.concat([part.assign(stage=stage) for stage in stages for part in (known, target)], ignore_index=True)


def last_of(n: int) -> pd.DataFrame:
    return embedding.last_stage(seen_cells(n))


@pytest.mark.parametrize("by", ["batch", "cell type", "label", "confidence", "reason"])
@pytest.mark.parametrize("n", [3, 60])
def test_the_targets_picture_names_every_group_inside_it(by: str, n: int) -> None:
    """A name beyond the edge, or none, leaves a colour that says nothing."""
    names = type_names(n) if by in ("cell type", "label") else [f"donor {i}" for i in range(n)]
    seen = last_of(n).assign(batch=lambda frame: np.where(frame["cell"] >= 0, TARGET, "donor 1"))
    figure = embedding.target_umap(seen, by, TARGET, names)
    words = [text for legend in figure.legends for text in legend.get_texts()]
    groups = {"batch": 2 if n == 3 else 1, "cell type": n, "label": n, "confidence": 0, "reason": 3}[by]
    assert len({text.get_text() for text in words}) == groups
    figure.canvas.draw()
    for text in words:
        box = text.get_window_extent()
        assert box.x0 > 0, text
        assert box.x1 < figure.bbox.width, text
        assert box.y0 > 0, text


def test_a_type_has_one_colour_in_every_picture_and_in_the_annotated_file() -> None:
    """A reader who has learned that B cells are blue would else take T cells for them on the next page."""
    names = [*type_names(60), UNASSIGNED]
    colours = colours_of(names)
    assert len(set(colours.values())) == 61
    seen = last_of(60)
    figure = embedding.target_umap(seen, "cell type", TARGET, names)
    annotated = embedding.target_umap(seen, "label", TARGET, names)
    for picture in (figure, annotated):
        drawn = [to_hex(c.get_facecolor()[0]).upper() for c in picture.axes[0].collections[1:]]
        assert drawn == [colours[name] for name in type_names(60)]
    bars = plots_target.composition_bars(shares_of(60, 60), TARGET, names).axes[0].patches[:60]
    assert [to_hex(bar.get_facecolor()).upper() for bar in bars] == [colours[name] for name in type_names(60)]


def test_batches_stay_apart_in_the_file_of_the_picture() -> None:
    """A palette of 256 colours must not give two donors of few cells the same one."""
    names = [f"batch {i}" for i in range(12)]
    x = np.repeat(np.arange(12.0), 3)
    points = pd.DataFrame({"x": x, "y": np.tile([0.0, 1, 2], 12), "cell": -1, "batch": np.repeat(names, 3)})
    figure = embedding.target_umap(points, "batch", TARGET, names)
    for drawn in figure.axes[0].collections:
        drawn.set_alpha(1)
    pixels = np.array(Image.open(io.BytesIO(style.png(figure))).convert("RGB")).reshape(-1, 3).astype(int)
    for colour in colours_of(names).values():
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert np.abs(pixels - wanted).max(axis=1).min() < 12, colour
    assert (pixels == 255).all(axis=1).any()


def test_before_alignment_is_shown_only_where_it_moved_something() -> None:
    """Two equal pictures would look as if alignment had done nothing, and cost a page."""
    seen = seen_cells(20)
    assert not embedding.moved(seen)
    at = (seen["stage"] == "after alignment") & (seen["cell"] >= 0)
    seen.loc[at, "x"] += 5
    assert embedding.moved(seen)
    titles = [
        figure.axes[0].get_title(loc="left") for figure, _, _ in embedding.pictures_of_target(seen, TARGET, [], [])
    ]
    assert titles[0] == f"{TARGET} before alignment: by batch"
    assert len(titles) == 5
    assert len(embedding.pictures_of_target(seen_cells(3, ("before alignment",)), TARGET, [], [])) == 4


def test_the_target_is_told_from_many_annotated_batches() -> None:
    """Whether it lies among them cannot be seen in sixty colours."""
    (legend,) = embedding.target_umap(last_of(60), "batch", TARGET, type_names(60)).legends
    assert [t.get_text() for t in legend.get_texts()] == [TARGET]
    (legend,) = embedding.target_umap(last_of(3), "batch", TARGET, type_names(3)).legends
    assert len(legend.get_texts()) == 4


def test_a_click_on_a_name_finds_its_cells() -> None:
    """The report highlights the points whose column has that very name."""
    seen = last_of(3)
    _, about = style.described(embedding.target_umap(seen, "cell type", TARGET, type_names(3)), "alt", seen[["x", "y"]])
    assert [(entry["column"], entry["name"]) for entry in about["legend"]] == [("prediction", n) for n in type_names(3)]
    for entry in about["legend"]:
        left, top, width, height = entry["box"]
        assert 0 <= left <= left + width <= 1e4
        assert 0 <= top <= top + height <= 1e4


def test_the_number_of_a_group_stands_on_one_of_its_cells() -> None:
    """Between two clusters it would name a place where nothing is; on a group that is smaller than it, hide the colour."""
    _, axes = plt.subplots()
    two = pd.DataFrame({"x": [0.0, 1.0, 9.0, 10.0], "y": np.zeros(4)})
    embedding._draw_number(axes, 1, two, two)
    assert (axes.texts[0].xy, axes.texts[0].xyann) == ((1.0, 0.0), (0, 0))
    embedding._draw_number(axes, 2, two[:2], two * 10)
    assert axes.texts[1].xyann != (0, 0)


def test_the_numbers_of_groups_that_lie_together_do_not_hide_each_other() -> None:
    """Two numbers on one place are read as a third."""
    _, axes = plt.subplots()
    line = pd.DataFrame({"x": np.arange(101.0), "y": np.zeros(101)})
    for number in range(3):
        embedding._draw_number(axes, number, line, line)
    places = sorted(text.xy[0] for text in axes.texts)
    assert np.diff(places).min() > 4
    assert 40 <= places[0] <= places[2] <= 60


def test_many_groups_are_numbered_where_they_lie() -> None:
    """Sixty colours are more than an eye tells apart: the number in the picture leads to the name."""
    figure = embedding.target_umap(last_of(60), "cell type", TARGET, type_names(60))
    written = [t.get_text() for t in figure.axes[0].texts]
    assert written == [str(i + 1) for i in range(60)]
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == [f"{i + 1}: {name}" for i, name in enumerate(type_names(60))]
    assert not embedding.target_umap(last_of(3), "cell type", TARGET, type_names(3)).axes[0].texts


def test_the_place_of_a_point_in_the_picture_is_where_it_is_drawn() -> None:
    """The report tells about the cell under the pointer: another one's name there would be believed."""
    seen = last_of(3)
    figure = embedding.target_umap(seen, "cell type", TARGET, type_names(3))
    figure.canvas.draw()
    places = style._places(figure, seen)
    width, height = figure.get_size_inches() * figure.dpi
    for i, row in enumerate(seen.itertuples()):
        x, y = figure.axes[0].transData.transform((row.x, row.y))
        assert places["x"][i] == pytest.approx(1e4 * x / width, abs=1)
        assert places["y"][i] == pytest.approx(1e4 * (1 - y / height), abs=1)


def test_what_is_told_of_points_is_plain_and_short() -> None:
    """Ten thousand repeated names would be megabytes of report."""
    cells = pd.DataFrame({"cell": ["a", "b", None, "d"], "batch": ["x", "x", "x", None], "p": [0.5, np.nan, 1.0, 0.0]})
    assert style._hover_columns(cells) == [
        {"name": "cell", "values": ["a", "b", None, "d"]},
        {"name": "batch", "values": [0, 0, 0, -1], "levels": ["x"]},
        {"name": "p", "values": [0.5, None, 1.0, 0.0]},
    ]


def composition_of(n: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "assigned": np.arange(n, 0, -1) * 10,
            "parent_only": 0,
            "rejected": np.arange(n) % 4,
            "unlike": 0,
            "median_confidence": 0.8,
        },
        index=pd.Index(type_names(n), name="cell type"),
    )


def shares_of(n: int, most: int = plots_target.MOST_BARS, **columns: object) -> pd.DataFrame:
    cells = {"a": dict.fromkeys(type_names(n), 10), "b": {type_names(n)[0]: 5}}
    return tables.composition_shares(composition_of(n).assign(**columns), Plan(TARGET, "a", [], [], cells=cells), most)


def test_the_title_of_page_ones_picture_is_inside_it() -> None:
    """Cut off, it does not say what the grey cells are."""
    plan = Plan("pbmc_kang_ifnb_4samples.h5ad", None, [], [])
    (figure, _), _ = plots_target.answer_pictures(last_of(3), composition_of(3), plan, [*type_names(3), UNASSIGNED])
    figure.canvas.draw()
    titles = [text for text in figure.findobj(Text) if "annotated cells (grey)" in text.get_text()]
    assert len(titles) == 1
    assert titles[0].get_window_extent().x1 < figure.bbox.width + 1


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 3, 28, 60])
def test_composition_has_a_bar_for_each_type(n: int) -> None:
    """The picture on the report's first page must show every type that was found, and still leave room there."""
    shares = shares_of(n)
    figure = plots_target.composition_bars(shares, TARGET, type_names(n))
    shown = [label.get_text().split(": ")[-1] for label in figure.axes[0].get_yticklabels()]
    most = plots_target.MOST_BARS
    assert shown == (type_names(n) if n <= most else [*type_names(n)[: most - 1], f"{n - most + 1} other types"])
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    others = shares[["assigned", "parent_only", "rejected"]].iloc[most:].sum() if n <= most else shares.iloc[-1]
    # In words: a bar of all others would dwarf each type's.
    assert sum(widths) == pytest.approx(100 * (1 - others[["assigned", "parent_only", "rejected"]].sum()))
    assert (f"({100 * others['assigned']:.0f} %)" in figure.axes[0].texts[-1].get_text()) == (n > most)
    assert shares["cells"].sum() == composition_of(n)["assigned"].sum()
    assert figure.get_size_inches()[1] < 5.6


def test_composition_stands_beside_the_annotated_batches() -> None:
    """A type of which the target has none, and every donor a tenth, is the first thing to look at."""
    shares = shares_of(4)
    assert shares.loc[type_names(1)[0], ["low", "high"]].tolist() == [0.25, 1.0]
    assert shares.loc[type_names(2)[1], "mean"] == pytest.approx(0.125)
    figure = plots_target.composition_bars(shares, TARGET, type_names(4))
    assert any("annotated batches" in text.get_text() for text in figure.legends[0].get_texts())
    alone = Plan(TARGET, "a", [], [], cells={"a": dict.fromkeys(type_names(4), 10)})
    figure = plots_target.composition_bars(
        tables.composition_shares(composition_of(4), alone, 36), TARGET, type_names(4)
    )
    assert "the annotated batch" in [text.get_text() for text in figure.legends[0].get_texts()]  # which has no range
    of_model = tables.composition_shares(composition_of(4), Plan(TARGET, None, [], []), 36)
    assert of_model["mean"].isna().all()
    figure = plots_target.composition_bars(of_model, TARGET, type_names(4))
    assert not any("annotated batches" in text.get_text() for text in figure.legends[0].get_texts())


def test_composition_shows_cells_with_a_parent_only_apart_from_those_unassigned() -> None:
    figure = plots_target.composition_bars(shares_of(3, parent_only=[4, 0, 2]), TARGET, type_names(3))
    assert any("parent only" in text.get_text() for text in figure.legends[0].get_texts())
    assert sum(bar.get_width() for bar in figure.axes[0].patches) == pytest.approx(100)


def test_cells_unlike_all_annotated_ones_are_a_bar_of_their_own() -> None:
    """A cell type that is new would be taken for the annotated one that is least unlike it."""
    shares = shares_of(3, rejected=[0, 30, 1], unlike=[0, 30, 0])
    assert shares["rejected"].round(3).tolist() == [0, 0, round(1 / 91, 3), round(30 / 91, 3)]
    figure = plots_target.composition_bars(shares, TARGET, type_names(3))
    assert figure.axes[0].get_yticklabels()[-1].get_text() == "unlike reference"
    assert len(figure.axes[0].texts) == 3
    assert sum(bar.get_width() for bar in figure.axes[0].patches) == pytest.approx(100)


def test_a_type_has_the_same_number_in_the_matrix_as_on_page_one() -> None:
    """A reader goes from the numbers of page one to the matrix: type 2 must not be type 1 there, because another is absent."""
    names = [f"type {i}" for i in range(1, 11)]
    counts = pd.DataFrame(np.eye(9, 10, dtype=int), names[1:], [*names[1:], UNASSIGNED])
    axes = confusion.share_matrix(counts, "answers", [*names, UNASSIGNED]).axes[0]
    assert axes.get_yticklabels()[0].get_text() == "2: type 2"
    assert axes.get_xticklabels()[0].get_text() == "2"


def test_a_type_that_was_not_learned_is_marked() -> None:
    """A row without any right answer would else look like a failure of the model."""
    counts = pd.DataFrame([[3, 0, 1], [0, 2, 0], [0, 1, 4]], ["B", "T", "mast"], ["B", "T", UNASSIGNED])
    axes = confusion.share_matrix(counts, "answers", ["B", "T", UNASSIGNED]).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["B", "T", "(new) mast"]


@pytest.mark.parametrize("n", [8, 9])
def test_numbers_in_the_cells_of_page_one_are_explained_beside_them(n: int) -> None:
    """Numbers in a picture that no legend has are a riddle."""
    names = [*type_names(n), UNASSIGNED]
    cells = embedding.target_umap(last_of(n), "cell type", TARGET, names, height=3.0)
    bars = plots_target.composition_bars(shares_of(n), TARGET, names)
    is_explained = all(": " in label.get_text() for label in bars.axes[0].get_yticklabels())
    assert bool(cells.axes[0].texts) == is_explained == (n > 8)


def test_a_matrix_says_that_its_shares_are_of_assigned_cells() -> None:
    """Elsewhere an Unassigned cell may be right, by its most probable type; of a new type no cell can be assigned and right."""
    counts = pd.DataFrame([[6, 2, 2], [0, 3, 7]], ["B", "Macrophage"], ["B", "T", UNASSIGNED])
    figure = confusion.share_matrix(counts, "a long title of a matrix " * 3, ["B", "T", UNASSIGNED])
    axes = figure.axes[0]
    (head,) = [text for text in axes.texts if text.get_text() == "assigned\nand right"]
    shares = [text.get_text() for text in axes.texts if text.get_position()[0] == head.get_position()[0]]
    assert shares[1:] == ["60 %", "–"]
    figure.canvas.draw()
    (title,) = figure.texts
    assert title.get_window_extent().y0 > head.get_window_extent().y1


@pytest.mark.parametrize("n", [2, 28, 60])
def test_one_matrix_fits_a_page_and_its_letters_can_be_read(n: int) -> None:
    """On paper a page is 6.6 inches wide; letters below 7 points are not read."""
    counts = pd.DataFrame(np.eye(n, dtype=int) * 1234 + 1, type_names(n), type_names(n)).assign(**{UNASSIGNED: 3})
    figure = confusion.share_matrix(counts, "all left-out batches")
    assert figure.get_size_inches()[0] == style.FULL
    assert figure.get_size_inches()[1] < 8.6
    axes = figure.axes[0]
    assert overlapping(list(axes.get_yticklabels()), figure) == []
    for text in [*axes.get_yticklabels(), *axes.get_xticklabels(), *axes.texts]:
        assert text.get_fontsize() >= 7
        box = text.get_window_extent()
        assert box.x0 > -1, text
        assert box.x1 < figure.bbox.width + 1, text
    assert f"{1235 * n:,} assigned and right" in confusion.share_matrix_alt(counts, "x")


@pytest.mark.parametrize(
    ("names", "turned"), [(["CD14+ Monocytes", "CD4 T cells", "B cells"], 0), (["Oligodendrocytes/OPC"] * 5, 90)]
)
def test_names_of_few_columns_are_not_turned_where_they_have_room(names: list[str], turned: float) -> None:
    """Turned names are hard to read, and leave a third of a page of paper empty below two matrices."""
    counts = pd.DataFrame(np.eye(len(names), dtype=int), names, names).assign(**{UNASSIGNED: 3})
    figure = confusion.share_matrix(counts, "answers")
    labels = figure.axes[0].get_xticklabels()
    assert {label.get_rotation() for label in labels} == {turned}
    assert overlapping(list(labels), figure) == []
    figure.canvas.draw()
    clear_of = figure.axes[0].xaxis.label.get_window_extent()
    for label in labels:
        assert not label.get_window_extent().overlaps(clear_of), label
    assert clear_of.y0 > -1


def test_groups_unlike_the_reference_are_numbered_by_reason_alone() -> None:
    """Which blob is which group nobody could see; in other pictures the numbers would be read as types."""
    rng = np.random.default_rng(0)
    points = pd.DataFrame(rng.normal(size=(40, 2)), columns=["x", "y"]).assign(
        cell=np.arange(40), stage="s", batch="t", name="c", label=None, raw="B", confidence=0.9, reason="unlike reference",
        **{"cell type": "Unassigned", "group": ["group 1"] * 20 + ["group 2"] * 10 + [None] * 10},
    )  # fmt: skip
    drawn = {}
    for by in ("reason", "batch"):
        figure = embedding.target_umap(points, by, "t", ["t"])
        drawn[by] = [text.get_text() for text in figure.axes[0].texts]
        plt.close(figure)
    assert drawn == {"reason": ["1", "2"], "batch": []}
    assert "Numbers are groups" in embedding.target_umap_alt(points, "reason", "t")
    assert "Numbers" not in embedding.target_umap_alt(points.drop(columns="group"), "reason", "t")


def test_quality_names_every_reason_and_its_cells() -> None:
    """Unassigned cells of few features are damaged cells, not a new type."""
    table = pd.DataFrame({"features": [10, 20, 5], "reason": ["confident"] * 2 + ["ambiguous"]})
    figure = plots_target.quality_by_reason(table, TARGET)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["confident\n(2)", "ambiguous\n(1)"]
    assert "confident 15" in plots_target.quality_alt(table, TARGET)
    confidence, rejected = np.array([0.95, 0.7, 0.2]), np.array([False, False, True])
    figure = plots_target.confidence_histogram(confidence, rejected, TARGET)
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == 3
    assert "1 have 0.9 or more, 1 less than 0.5" in plots_target.histogram_alt(confidence, rejected, TARGET)


def clusters_of(n: int) -> Clusters:
    """Clusters of different sizes, every third of which is named Unassigned."""
    cluster = np.repeat(np.arange(n), np.arange(n + 5, 5, -1)).astype(str).astype(object)
    majority = np.array([UNASSIGNED if int(c) % 3 == 2 else type_names(n)[int(c)] for c in cluster], dtype=object)
    return Clusters(cluster, majority, np.full(len(cluster), 0.75))


@pytest.mark.parametrize("n", [1, 3, 40])
def test_every_cluster_is_named_in_the_picture_and_has_a_bar_of_its_shares(n: int) -> None:
    found = clusters_of(n)
    answers = found.majority.copy()
    answers[::4] = type_names(1)[0]
    points = pd.DataFrame({"x": np.arange(len(answers)), "y": 0.0, "cell": np.arange(len(answers))[::-1]})
    possible = [*type_names(n), UNASSIGNED]
    axes = plots_target.cluster_scatter(points, found, TARGET, possible).axes[0]
    words = legend_of(axes)
    majorities = dict(zip(found.cluster, found.majority, strict=True))
    assert [line.split(" (")[0] for line in words] == [f"{c}: {majorities[c]}" for c in sorted(majorities, key=int)]
    assert {text.get_text() for text in axes.texts} == set(majorities)
    colours = {drawn.get_label().split(":")[0]: drawn.get_facecolor()[0][:3] for drawn in axes.collections}
    of_types = colours_of(possible)  # the colour of the majority on every other page
    assert {c: to_hex(colour).upper() for c, colour in colours.items()} == {
        c: of_types[m] for c, m in majorities.items()
    }
    table = clusters.cluster_table(
        clusters.Clusters(found.cluster, *clusters.majorities(found.cluster, answers)), answers, None
    )
    figure = plots_target.cluster_bars(table, TARGET)
    labels = figure.axes[0].get_yticklabels()
    assert [label.get_text().split(":")[0] for label in labels] == list(table.index)
    assert overlapping(list(labels), figure) == []
    assert sum(bar.get_width() for bar in figure.axes[0].patches) == pytest.approx(100 * n)


def overlapping(texts: list, figure: Figure) -> list[tuple[str, str]]:
    """Neighbouring labels that are drawn over each other."""
    figure.canvas.draw()
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts if t.get_text()]
    return [(a, b) for (a, p), (b, q) in itertools.pairwise(boxes) if p.overlaps(q)]


def many_types(n: int) -> dict[str, Figure]:
    """The pictures whose labels stand close with many types."""
    names, random = type_names(n), np.random.default_rng(0)
    raw = np.array(names * 20, dtype=object)
    batches = {f"donor {i}": {name: int(random.integers(0, 20_000)) for name in names} for i in range(40)}
    return {
        "composition_bars": plots_target.composition_bars(shares_of(n), TARGET, names),
        "confidence_by_type": plots_target.confidence_by_type(
            raw, random.uniform(size=len(raw)), dict.fromkeys(names, 0.5), TARGET
        ),
        "cells_per_type": training.cells_per_type(batches, TARGET, 1234),
        "confusions": confusion.confusions([result(TARGET, "after alignment", UNSEEN, names)], SOURCE),
    }


def drawn_labels(axes: Axes) -> list[Text]:
    """The tick labels within the axes' limits; matplotlib keeps some beyond them, and does not draw those."""
    found = []
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        found += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("picture", ["composition_bars", "confidence_by_type", "cells_per_type", "confusions"])
@pytest.mark.parametrize("n", [3, 60])
def test_labels_of_many_types_do_not_overlap_and_are_all_inside(picture: str, n: int) -> None:
    """Atlases have sixty types; labels over each other or beyond the edge cannot be read."""
    figure = many_types(n)[picture]
    axes = figure.axes[0]
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert overlapping(list(labels), figure) == []
    width, height = figure.canvas.get_width_height()
    for text in [*drawn_labels(axes), axes.title, axes.xaxis.label, *axes.texts]:
        box = text.get_window_extent()
        assert box.x0 > -1, text
        assert box.y0 > -1, text
        assert box.x1 < width + 1, text
        assert box.y1 < height + 1, text


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 4, 12, 40])
def test_headings_beside_a_matrix_are_clear_of_its_title(n: int) -> None:
    """Accuracy and mAP stand in the title's last line: overprinted, they cannot be read."""
    figure = confusion.confusions([result(TARGET, "after alignment", UNSEEN, type_names(n))], SOURCE)
    figure.canvas.draw()
    axes = figure.axes[0]
    title = next(t for t in axes.get_children() if isinstance(t, Text) and "accuracy raw" in t.get_text())
    for text in axes.texts:
        assert not title.get_window_extent().overlaps(text.get_window_extent()), text.get_text()
    assert (
        min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 7
    )  # less is not read on paper


@pytest.mark.slow
@pytest.mark.parametrize("name", ["9", "donor number twenty-eight xy"])
@pytest.mark.parametrize("n", [1, 45])
def test_words_of_the_overview_are_inside_the_page_and_apart(name: str, n: int, tmp_path: Path) -> None:
    """The heading names source and target; cut or overprinted, the page does not say what it is about."""
    history = [
        record
        for number in range(n)
        for record in history_of(type_names(3), [f"{name}{number}"])
        if record.batch not in (SOURCE, TARGET)
    ]
    history += [result(name, stage, UNSEEN, type_names(3)) for stage in TargetStage]
    confusion.write_history(history, name, name, tmp_path / "history.pdf")
    drawn = list(confusion.accuracy_pages(history, f"labels from {name} and its intermediates to {name}; " * 3))
    assert len(drawn) == 1 + (n >= 40)
    for figure in drawn:
        figure.canvas.draw()
        width, height = figure.canvas.get_width_height()
        words = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
        boxes = [text.get_window_extent() for text in words]
        for text, box in zip(words, boxes, strict=True):
            assert box.x0 > -1, text
            assert box.y0 > -1, text
            assert box.x1 < width + 1, text
            assert box.y1 < height + 1, text
            assert text.get_fontsize() >= 7, text
        heads = [axes.title for axes in figure.axes]
        for one, other in itertools.pairwise([*heads, *figure.texts]):
            assert not one.get_window_extent().overlaps(other.get_window_extent()), (one, other)
        for one, other in itertools.pairwise(figure.axes):
            heads_apart = other.title.get_window_extent().x0 - one.title.get_window_extent().x1
            frame_apart = other.get_window_extent().x0 - max(text.get_window_extent().x1 for text in one.texts)
            assert min(heads_apart, frame_apart) > 0.12 * figure.dpi, "words of two panels read as one"


def test_a_picture_is_made_small_enough_and_a_small_one_left_alone() -> None:
    """Dozens of dot plots of sixty types would make a report that no mail takes."""
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(noise).save(data, format="png")
    whole = data.getvalue()
    assert style.at_most(whole, len(whole)) == whole
    smaller = style.at_most(whole, 30_000)
    assert len(smaller) <= 30_000
    width, height = Image.open(io.BytesIO(smaller)).size
    assert width / height == pytest.approx(4 / 3, abs=0.02)


def test_png_closes_its_figure() -> None:
    """Hundreds of open figures would fill the memory of a long notebook."""
    before = plt.get_fignums()
    assert style.png(plots_target.composition_bars(shares_of(3), TARGET, type_names(3))).startswith(b"\x89PNG")
    assert plt.get_fignums() == before


# --- what a confidence is worth ------------------------------------------------------------------------------------------


def checked_cells(confidence: np.ndarray, right: np.ndarray) -> LabelledCells:
    return LabelledCells(confidence, right, np.zeros(len(right), dtype=bool))


def learned(n_cells: int = 400) -> Calibration:
    random = np.random.default_rng(0)
    confidence = random.uniform(0.3, 1, n_cells)
    right = random.random(n_cells) < confidence
    rows = reliability(confidence, right).to_dict("records")
    coverage, risk = risk_coverage(confidence, right)
    row = {
        "batch": "b", "cells": n_cells, "raw_accuracy": 0.7, "assigned": 0.9, "error_among_assigned": 0.2,
        "unlike_reference": 0.0, "AURC": 0.1, "network_calibration_error": 0.3, "calibration_error": 0.05,
    }  # fmt: skip
    curve = [[float(c), float(r)] for c, r in zip(coverage, risk, strict=True)]
    return Calibration(2.0, None, None, 0.2, 3, [row], {"network": rows, "calibrated": rows}, curve)


def legend_of(axes: Axes) -> list[str]:
    legend = axes.get_legend() or axes.get_figure().legends[0]
    return [text.get_text() for text in legend.get_texts()]


def test_trust_shows_left_out_batches_and_the_target_where_it_has_labels() -> None:
    checked = checked_cells(np.linspace(0.4, 1, 50), np.arange(50) % 3 > 0)
    left, right = plots_target.reliability_curves(learned(), TARGET, checked).axes
    assert any("left-out batches, calibrated" in words for words in legend_of(left))
    assert any("left-out batches, uncalibrated" in words for words in legend_of(left))
    assert all(any(TARGET in words for words in legend_of(axes)) for axes in (left, right))
    assert "AURC" in " ".join(legend_of(right))
    left, right = plots_target.reliability_curves(learned(), TARGET).axes
    assert not any(TARGET in words for axes in (left, right) for words in legend_of(axes))


def test_a_calibration_that_did_not_help_is_told() -> None:
    """The legend said 0.106 uncalibrated and 0.140 calibrated, beside a sentence that calibration makes confidences right."""
    better = learned()
    assert plots_target.calibration_note(better) is None
    assert plots_target.calibration_note(None) is None
    row = better.batches[0] | {"network_calibration_error": 0.106, "calibration_error": 0.14}
    worse = plots_target.calibration_note(replace(better, batches=[row]))
    assert worse is not None
    assert "no smaller error (0.140) than uncalibrated ones (0.106)" in worse
    alone = plots_target.calibration_note(replace(better, batches=[row], n_annotated=1))
    assert alone is not None
    assert "other data sets" in alone
    assert "held-out cells" in plots_target.reliability_alt(replace(better, n_annotated=1), None)


def test_curves_on_one_place_are_all_seen() -> None:
    """Left-out batches may be as well calibrated as the target; a curve below another would be missed, or taken for the other."""
    random = np.random.default_rng(0)
    confidence = random.uniform(0.3, 1, 400)
    same = checked_cells(confidence, random.random(400) < confidence)  # as those of `learned`, calibrated or not
    figure = plots_target.reliability_curves(learned(), TARGET, same)
    for axes in figure.axes:
        axes.get_legend().remove()
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    half = pixels.shape[1] // 2
    for side, colours in ((pixels[:, :half], (0, 1, 3)), (pixels[:, half:], (0, 3))):
        for colour in colours:
            drawn = (side == (255 * np.array(to_rgb(style.COLOURS[colour]))).round()).all(axis=2)
            assert drawn.sum() > 30, style.COLOURS[colour]


def test_ranges_of_a_few_cells_are_not_drawn_as_if_they_said_something() -> None:
    few = checked_cells(np.array([0.3] * 4 + [0.9] * 20), np.array([False] * 4 + [True] * 20))
    left, _ = plots_target.reliability_curves(None, TARGET, few).axes
    (line,) = [line for line in left.get_lines() if line.get_marker() == "s"]
    assert line.get_xdata().tolist() == pytest.approx([0.9])


def test_reliability_is_without_cells_whose_confidence_was_lowered() -> None:
    """Cells unlike all annotated ones have half of a probability for their confidence: among others of 0.4 it would seem that the model
    is wrong about these. If only the most confident cells were assigned, these would still be the last."""
    confidence, right = np.array([0.45] * 10 + [0.95] * 20), np.array([False] * 10 + [True] * 19 + [False])
    cells = LabelledCells(confidence, right, confidence < 0.5)
    left, risks = plots_target.reliability_curves(None, TARGET, cells).axes
    (line,) = [line for line in left.get_lines() if line.get_marker() == "s"]
    assert line.get_xdata().tolist() == pytest.approx([0.95])
    assert any("error 0.000" in words for words in legend_of(left))
    assert max(max(line.get_ydata()) for line in risks.get_lines()) == pytest.approx(100 * 11 / 30)
    assert "target's labelled cells 0.000 and" in plots_target.reliability_alt(None, cells)
    all_lowered = LabelledCells(confidence, right, confidence < 1)
    plots_target.reliability_curves(None, TARGET, all_lowered).canvas.draw()
    assert "nan" not in plots_target.reliability_alt(None, all_lowered)


def test_with_nothing_to_show_trust_says_so() -> None:
    words = plots_target.reliability_curves(None, TARGET)
    assert isinstance(words, str)
    assert "No annotated batch was left out" in words
    nothing_known = Calibration(1.0, None, None, None, 2, [], {"network": [], "calibrated": []}, [])
    plots_target.reliability_curves(nothing_known, TARGET).canvas.draw()


def test_a_single_annotated_batch_is_not_called_left_out() -> None:
    left, _ = plots_target.reliability_curves(replace(learned(), n_annotated=1), TARGET).axes
    assert any("held-out cells" in words for words in legend_of(left))


# --- methods side by side ------------------------------------------------------------------------------------------------


def test_comparison_draws_every_target_of_every_method_best_first() -> None:
    """A method or target missing from the picture would be missed by nobody."""
    rows = pd.DataFrame(
        [
            {"set": f"set{s}", "target": f"t{s}", "method": method, "macro_F1": f1, "accuracy_at_90%": 0.5, "AURC": 0.1}
            for method, f1 in (("worse", 0.2), ("better", 0.8))
            for s in range(9)
        ]
    )
    figure = compare.comparison(rows, "two methods")
    panel = figure.axes[0]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["better", "worse"]
    marks = [line for line in panel.lines if line.get_marker() != "|"]
    assert sum(len(line.get_xdata()) for line in marks) == len(rows)
    assert len({(line.get_marker(), line.get_color()) for line in marks}) == 9
    (means,) = (line for line in panel.lines if line.get_marker() == "|")
    assert list(means.get_xdata()) == pytest.approx([0.8, 0.2])
    assert style.png(figure).startswith(b"\x89PNG")


def test_comparison_of_one_target_has_no_legend_and_no_means() -> None:
    rows = pd.DataFrame(
        {"target": "t", "method": ["a", "b"], "macro_F1": [0.1, 0.2], "accuracy_at_90%": 0.5, "AURC": 0.1}
    )
    figure = compare.comparison(rows, "t")
    assert not figure.legends
    assert all(line.get_marker() != "|" for line in figure.axes[0].lines)
    assert style.png(figure).startswith(b"\x89PNG")


# --- alignment -----------------------------------------------------------------------------------------------------------


def test_alignment_shows_the_losses_of_the_one_method_and_the_moves_of_the_other() -> None:
    """And says so where there was none; a stage's points only."""
    play = [{"stage": "after alignment", "epoch": i, "loss": 0.6, "discriminator_loss": 0.7} for i in (1, 2)]
    moves = [{"stage": "after alignment", "epoch": i, "moved": 1 / i} for i in (1, 2, 3)]
    other = [{"stage": "self-training", "epoch": 1, "loss": 9.0}]
    of_play, of_moves = (training.alignment_losses([*points, *other]).axes[0] for points in (play, moves))
    assert (of_play.get_xlabel(), len(of_play.lines)) == ("epoch", 2)
    assert of_moves.get_xlabel() == "round"
    (line,) = of_moves.lines
    np.testing.assert_allclose(np.asarray(line.get_ydata(), dtype=float), [1, 1 / 2, 1 / 3])
    words = training.alignment_losses(other)
    assert isinstance(words, str)
    assert "not aligned" in words
