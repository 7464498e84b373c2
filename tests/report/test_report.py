"""The report as its reader meets it: a page in a browser without network, and pages of paper."""

from __future__ import annotations

import base64
import html
import itertools
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pypdf
import pytest
import yaml
from playwright.sync_api import Browser, Page, sync_playwright

from jind_nb.core import locks
from jind_nb.core.files import read_json, write_json
from jind_nb.core.parameters import load_parameters
from jind_nb.core.resources import templates
from jind_nb.model.annotate import device_of
from jind_nb.report import chapter, pdf
from jind_nb.report import page as report_page
from jind_nb.report.methods_text import methods
from jind_nb.report.plots import style
from jind_nb.results import load
from jind_nb.runs import cache
from jind_nb.runs.folder import Run
from jind_nb.runs.stages import load_plan, load_training
from tests.conftest import CHROMIUM_ARGUMENTS, Answer, Whole, skip
from tests.helpers.one_process import run_forked
from tests.helpers.simulated import simulated

pytestmark = pytest.mark.slow

SENTENCE = re.compile(r"well 1: \d+ of 95 cells assigned, \d+ left Unassigned")
# What code, a prompt or a parameter dump would put on a page.
CODE = ("import ", "open_run(", "plots.show", "In [", "Out[", "globals()")


@dataclass
class Seen:
    """What a browser found on the page, and what it asked for."""

    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    headings: list[tuple[int, str]] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    text: str = ""
    code_areas: int = 0
    wider_than_screen: bool = False


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as play:
        yield play.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)


@pytest.fixture(scope="module")
def opened(demo_run: Path, browser: Browser) -> tuple[Page, Seen]:
    """The demo's report in a browser, and what was seen of it before anything was touched."""
    found = Seen()
    page = browser.new_page(viewport={"width": 1000, "height": 900})
    page.on("request", lambda request: found.requests.append(request.url[:80]))
    page.on("console", lambda said: found.complaints.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: found.complaints.append(str(error)))
    page.goto((demo_run / "report.html").as_uri(), wait_until="networkidle")
    found.images = page.eval_on_selector_all(
        "img", "all => all.map(i => ({alt: i.alt, width: i.naturalWidth, complete: i.complete}))"
    )
    found.headings = [
        (int(level), text)
        for level, text in page.eval_on_selector_all(
            "h1, h2, h3, h4, h5, h6", "all => all.map(h => [h.tagName[1], h.textContent])"
        )
    ]
    found.tables = page.eval_on_selector_all(
        "table",
        """all => all.map(t => ({caption: t.caption ? t.caption.textContent : "", bare:
        [...t.querySelectorAll("th")].filter(h => !h.scope).length, heads: t.querySelectorAll("th").length}))""",
    )
    found.text = page.inner_text("body")
    found.code_areas = page.locator(".jp-CodeCell, .jp-InputArea, .input_area, .highlight, pre").count()
    found.wider_than_screen = page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
    return page, found


@pytest.fixture(scope="module")
def seen(opened: tuple[Page, Seen]) -> Seen:
    return opened[1]


def test_page_asks_for_nothing_outside_itself(seen: Seen) -> None:
    """A collaborator opens it offline, and nobody learns that they did."""
    assert seen.requests
    assert [url for url in seen.requests if not url.startswith(("file:", "data:"))] == []
    assert [url for url in seen.requests if url.startswith("file:") and not url.endswith("/report.html")] == []


def test_browser_has_no_complaint(seen: Seen) -> None:
    """A script that the page's own policy forbids would be one."""
    assert seen.complaints == []


def test_every_picture_is_there_and_described(seen: Seen) -> None:
    """A reader who cannot see the picture needs its words; nbconvert's own are the same for every picture."""
    assert len(seen.images) > 15
    for image in seen.images:
        assert image["complete"]
        assert image["width"] > 0
        assert len(image["alt"]) > 15
        assert "No description has been provided" not in image["alt"]


def test_first_heading_is_the_result(seen: Seen) -> None:
    """Who reads one line reads this one."""
    assert [level for level, _ in seen.headings].count(1) == 1
    level, text = seen.headings[0]
    assert level == 1
    assert SENTENCE.match(text)
    parts = [text for level, text in seen.headings if level == 2]
    assert parts == [
        "Check before you use these labels", "The cell types, one by one", "Evidence: how far to trust the annotation",
        "Appendix: the run in short", "More evidence", "What is in the data", "Learning from the annotated cells",
        "Aligning the target", "Methods, ready for a paper",
    ]  # fmt: skip


def test_headings_and_tables_can_be_walked_by_ear(seen: Seen) -> None:
    """A screen reader jumps from heading to heading, and reads a cell with its row's and column's heads."""
    levels = [level for level, _ in seen.headings]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert len(seen.tables) > 8
    for table in seen.tables:
        assert table["caption"]
        assert table["heads"]
        assert table["bare"] == 0, table


def test_no_code_reaches_the_reader(seen: Seen) -> None:
    """The report is for people who never open a notebook."""
    assert seen.code_areas == 0
    for words in CODE:
        assert words not in seen.text


def test_what_has_nothing_to_show_is_not_there(seen: Seen) -> None:
    """Headings over `not set` would fill half of most reports."""
    assert "is not set" not in seen.text
    assert "Your markers" not in seen.text
    assert "All stages" in seen.text


def test_page_fits_a_laptops_width(seen: Seen) -> None:
    """A table that pushes the page sideways makes every line of it hard to read."""
    assert not seen.wider_than_screen


def test_pointing_at_a_cell_tells_its_name_type_and_probability(opened: tuple[Page, Seen], demo_run: Path) -> None:
    """The wrong cell's name there would be believed."""
    page, _ = opened
    table = pd.read_parquet(demo_run / "predictions.parquet")
    images = page.locator("img[data-where]")
    assert images.count() == 5  # by type, batch, label, confidence and reason
    where, what = (
        json.loads(page.locator(f"#{images.first.get_attribute(name)}").text_content() or "")
        for name in ("data-where", "data-what")
    )
    cells = next(column for column in what if column["name"] == "cell")
    names = [cells["levels"][k] if k >= 0 else None for k in cells["values"]]
    images.first.scroll_into_view_if_needed()
    box = images.first.bounding_box()
    assert box is not None
    places = np.column_stack([where["x"], where["y"]]) / 1e4 * [box["width"], box["height"]]
    checked = 0
    for i, name in enumerate(names):
        alone = (np.hypot(*(places - places[i]).T) < 1).sum() == 1
        if name is None or not alone or checked >= 12:
            continue
        page.mouse.move(box["x"] + places[i, 0], box["y"] + places[i, 1])
        said = page.inner_text(".tip")
        row = table.loc[name]
        assert f"cell: {name}" in said
        assert f"prediction: {row['predictions']}" in said
        assert f"most probable type: {row['raw_predictions']}" in said
        (probability,) = re.findall(r"probability: ([\d.]+)", said)
        assert float(probability) == pytest.approx(row[row["raw_predictions"]], abs=0.0051)
        checked += 1
    assert checked >= 5
    page.mouse.move(1, 1)
    assert page.locator(".tip").is_hidden()


def test_numbers_are_sorted_as_numbers_and_missing_ones_last(opened: tuple[Page, Seen]) -> None:
    """As text, 9 cells would be more than 24; keys must do what a click does."""
    page, _ = opened
    table = page.locator("#types table").first
    heads = table.locator("thead th").all_inner_texts()
    column = next(i for i, head in enumerate(heads) if head.startswith("assigned"))
    button = table.locator("thead button").nth(column)

    def values() -> list[str]:
        return table.locator(f"tbody tr > :nth-child({column + 1})").all_inner_texts()

    before = values()
    for direction, sign in (("ascending", 1), ("descending", -1)):
        button.focus()
        page.keyboard.press("Enter")
        now = values()
        assert table.locator("thead th").nth(column).get_attribute("aria-sort") == direction
        assert sorted(now) == sorted(before)
        numbers = [float(text.replace(",", "")) for text in now if text != "–"]
        assert numbers == sorted(numbers, key=lambda value: sign * value)
        assert all(text == "–" for text in now[len(numbers) :])
    assert len({len(text) for text in before}) > 1


def test_a_legends_entry_highlights_its_cells(opened: tuple[Page, Seen]) -> None:
    """Ten colours in one picture: the question is always where this one type lies. A second click ends it."""
    page, _ = opened
    button = page.locator('.picture button[data-column="prediction"]').first
    assert button.get_attribute("aria-pressed") == "false"
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "true"
    assert page.locator(".picture canvas").count() == 5
    button.click()
    assert page.locator(".picture canvas").count() == 0


def test_a_table_is_filtered_and_saved(opened: tuple[Page, Seen], demo_run: Path) -> None:
    """With sixty types nobody scrolls; and the numbers behind a table are wanted in the next program."""
    page, _ = opened
    box = page.locator("#types input.filter")
    rows = page.locator("#types table").first.locator("tbody tr")
    n = rows.count()
    box.fill("CD19")
    assert 0 < len([row for row in rows.all() if row.is_visible()]) < n
    box.fill("")
    links = page.locator("a[download]")
    assert links.count() > 8
    with page.expect_download() as started:
        page.locator("#types a[download]").last.click()
    saved = pd.read_csv(started.value.path(), index_col="cellname")
    pd.testing.assert_index_equal(saved.index, pd.read_parquet(demo_run / "predictions.parquet").index)


def test_on_a_phone_tables_stack(demo_run: Path, browser: Browser) -> None:
    """A table that is wider than the phone hides its numbers; a picture made as narrow as the phone has letters nobody reads."""
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto((demo_run / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    right = page.locator("#types table td").evaluate_all("all => all.map(cell => cell.getBoundingClientRect().right)")
    assert max(right) <= 390
    page.locator("#types .filter").fill("cd56")
    assert page.locator("#types tbody tr:visible").count() == 1
    large = page.locator("figure:not(.half) img").first
    assert large.evaluate("image => image.clientWidth >= 0.9 * image.getAttribute('width')")
    page.close()


def test_without_scripts_the_page_reads_the_same(demo_run: Path, browser: Browser, seen: Seen) -> None:
    """Mail programs and careful readers run none."""
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto((demo_run / "report.html").as_uri())
    text = page.locator("body").inner_text()
    assert SENTENCE.search(text)
    assert "Methods, ready for a paper" in text
    assert "Point at a cell" not in text
    assert page.locator("button, input").count() == 0


def test_page_is_small_enough_to_mail(demo_run: Path) -> None:
    assert (demo_run / "report.html").stat().st_size < 5_000_000


def test_methods_say_what_this_run_did(demo_run: Path, seen: Seen) -> None:
    """They go into a paper as they are: numbers, versions and citations must be this run's."""
    manifest = json.loads((demo_run / "manifest.json").read_text())
    paragraph = seen.text[seen.text.index("Methods, ready for a paper", 2000) :]
    for words in (
        "Cells of well 1 (n = 95)", "Goyal et al. 2022", "Sancho-Zamora et al. 2025", "Guo et al. 2017",
        "doi:10.1093/bioinformatics/btac140", f"PyTorch {manifest['versions']['torch']}", "10 cell types",
        "7 annotated batches (well 7 (source), well 2", "comes from after alignment", manifest["input"][0]["sha256"], "random seed was 0",
    ):  # fmt: skip
        assert words in paragraph, words
    assert "Leiden" not in paragraph.split("References")[0]


def test_a_check_before_calibration_says_so(seen: Seen) -> None:
    """Another sentence of the page has a smaller share for held-out cells, and both are true."""
    assert "by the probabilities and thresholds of training, before confidences were calibrated" in seen.text


def test_methods_claim_no_comparison_that_was_not_made(demo_run: Path) -> None:
    """With a single annotated batch nothing is left out; a paper would say that it was."""
    run = Run(load_parameters(demo_run / "parameters.yaml", {"OUTPUT_PATH": str(demo_run)}), input_matters=False)
    result, training = load.load_finished(run), load_training(run)
    training["calibration"] = {way: of | {"n_annotated": 1} for way, of in training["calibration"].items()}
    paragraph = methods(run, result, load_plan(run), training, {}).paragraph
    assert "since there is no second annotated batch to leave out" in paragraph
    assert "annotated best" not in paragraph
    assert "annotate left-out batches" not in paragraph


@pytest.mark.parametrize(
    ("device", "says"),
    [("cpu", "yes; no GPU was found, so the CPU was used"), ("cuda", "yes; a GPU was used"), (None, "yes")],
)
def test_use_gpu_says_what_was_used(demo_run: Path, tmp_path: Path, device: str | None, says: str) -> None:
    """USE_GPU is "yes" by default; a reader would think that a GPU computed what the CPU did. Runs of earlier versions do not say."""
    folder = Path(shutil.copytree(demo_run, tmp_path / "run"))
    run = Run(load_parameters(folder / "parameters.yaml", {"OUTPUT_PATH": str(folder)}), input_matters=False)
    record = read_json(run.work / "target.json")
    assert record["device"] == device_of(run.parameters).type
    write_json(run.work / "target.json", record | {"device": device})
    assert report_page.parameters_in_words(run)["USE_GPU"] == says


@pytest.mark.parametrize(
    ("least", "says"),
    [("auto", "Cell types with a single labelled cell"), (5, "Cell types with fewer than 5 labelled cells")],
)
def test_methods_say_that_rare_types_were_left_out_only_if_any_were(
    demo_run: Path, least: str | int, says: str
) -> None:
    """An author would have to find out which types a paper speaks of; there are none."""
    values = {"OUTPUT_PATH": str(demo_run), "MIN_CELL_TYPE_POPULATION": least}
    run = Run(load_parameters(demo_run / "parameters.yaml", values), input_matters=False)
    result, training, plan = load.load_finished(run), load_training(run), load_plan(run)
    usual = methods(run, result, plan, training, {}).paragraph
    assert "were left out" not in usual
    assert "labelled cells of a batch were used" not in usual  # no batch has so many
    plan.too_rare = [{"batch": "well 2", "cell_type": "Dendritic", "cells": 1}]
    plan.labelled["well 2"] = 10_001
    told = methods(run, result, plan, training, {}).paragraph
    assert says in told
    assert "At most 10,000 labelled cells of a batch were used." in told


def test_other_thresholds_in_the_model_card_are_explained(demo_run: Path, seen: Seen) -> None:
    """Who compares the two pages would take one for wrong."""
    model = json.loads((demo_run / "trained_models" / "model.json").read_text())
    assert model["thresholds"] != model["target"]["thresholds"]
    assert "The thresholds are for confidences after alignment; the model card has others" in seen.text
    card = (demo_run / "trained_models" / "MODEL_CARD.md").read_text()
    assert "These thresholds are for cells that are annotated without alignment" in card


# --- on paper ---------------------------------------------------------------------------------------------------------


def paper(file: Path) -> list[str]:
    return [" ".join(page.extract_text().split()) for page in pypdf.PdfReader(file).pages]


@pytest.fixture(scope="module")
def pages(demo_run: Path) -> list[str]:
    return paper(demo_run / "report.pdf")


def test_a_short_table_of_types_is_on_page_one_and_none_is_split(
    whole: Whole, pages: list[str], tmp_path: Path
) -> None:
    """A third of page one would else be empty, or a table begin at its end."""
    html_of_three = (whole.run / "report.html").read_text("utf-8")
    assert pdf._by_weasyprint(html_of_three, tmp_path / "report.pdf") is None
    first = paper(tmp_path / "report.pdf")[0]
    assert "The cell types, one by one … page 1" in first
    assert "median confidence" in first
    with_table = next(text for text in pages if "median confidence" in text)
    for name in ("CD14+ Monocyte", "Dendritic", "CD34+", "CD19+ B", "CD56+ NK", "CD8+ Cytotoxic T"):
        assert f"{name} " in with_table[with_table.index("median confidence") :]


def test_first_page_of_paper_has_the_result_and_what_to_distrust(pages: list[str]) -> None:
    """Page one is what gets printed."""
    assert SENTENCE.search(pages[0])
    assert "Check before you use these labels" in pages[0]


def test_answer_and_evidence_are_six_pages(pages: list[str]) -> None:
    """Who has ten minutes reads these; the appendix is for who has an hour."""
    (first,) = re.findall(r"Appendix: the run in short … page (\d+)", pages[0])
    assert int(first) <= 7
    assert "Methods, ready for a paper … page" in pages[0]  # the answer and its table of contents are one page


def test_the_reader_is_told_of_the_method_of_this_run_only(seen: Seen) -> None:
    """What another METHOD would have done is a riddle to somebody who was sent the report."""
    assert "With METHOD default" in seen.text
    assert "METHOD reference" not in seen.text


def test_paper_has_all_pages_and_no_parameters_first(pages: list[str]) -> None:
    """Parameters belong to the end; a reader who meets them first stops reading."""
    assert 5 < len(pages) < 60
    for page in pages[:2]:
        assert "NUM_FEATURES" not in page
        assert "PRETRAINED_MODEL_PATH" not in page
    assert "NUM_FEATURES" in " ".join(pages[-3:])
    for i, page in enumerate(pages):
        assert f"page {i + 1} of {len(pages)}" in page


def test_paper_can_be_read_by_ear(demo_run: Path) -> None:
    """Without its structure a PDF is read line by line across columns, and pictures have no words."""
    root = pypdf.PdfReader(demo_run / "report.pdf").trailer["/Root"]
    assert root["/MarkInfo"]["/Marked"]
    assert root["/Lang"] == "en"


def test_contents_name_the_pages(pages: list[str]) -> None:
    """On paper a link leads nowhere; the page's number does."""
    (number,) = re.findall(r"Methods, ready for a paper … page (\d+)", pages[0])
    assert "Methods, ready for a paper" in pages[int(number) - 1]


@pytest.fixture(scope="module")
def laid_out(demo_run: Path) -> list[Any]:
    """The pages of paper before they are drawn, with the place of every word and picture."""
    weasyprint = pytest.importorskip("weasyprint", exc_type=OSError, reason="no pango")
    pages: list[Any] = weasyprint.HTML(string=(demo_run / "report.html").read_text("utf-8")).render().pages
    return pages


FIGURES = {
    "wide as the page": '<figure><img src="{0}" style="width: 660px; height: 270px"></figure>',
    "two side by side": '<div class="pair">' + '<figure class="half"><img src="{0}" style="height: 210px"></figure>' * 2 + "</div>",
    "tall": '<figure class="tall"><img src="{0}" style="width: 660px; height: 800px"></figure>',
}  # fmt: skip


@pytest.mark.parametrize("figure", FIGURES)
def test_a_picture_is_on_the_page_of_its_heading_and_text(figure: str) -> None:
    """What box plots mean is not read on another page, and a heading with nothing below it looks like a mistake."""
    weasyprint = pytest.importorskip("weasyprint", exc_type=OSError, reason="no pango")
    css = "".join(templates().get_template(name).render() for name in ("style.css.j2", "paper.css.j2"))
    pixel = "data:image/png;base64," + base64.b64encode(style.png(plt.figure(figsize=(0.1, 0.1)))).decode()
    words = "<p>what it shows</p>" * 2
    for above in range(0, 260, 20):  # millimetres that are full already
        parts = f'<div style="height: {above}mm">before</div><h3>Heading</h3>{words}{FIGURES[figure].format(pixel)}'
        html = f'<style>{css}</style><main><section class="part flows">{parts}</section></main>'
        texts = [
            {
                (box.element_tag if box.element_tag == "img" else getattr(box, "text", ""))
                for box in page._page_box.descendants()
            }
            for page in weasyprint.HTML(string=html).render().pages
        ]
        (with_picture,) = [text for text in texts if "img" in text]
        assert {"Heading", "what it shows"} <= with_picture, above
        assert sum("what it shows" in text for text in texts) == 1, above


def test_letters_can_be_read_on_paper(laid_out: list[Any], demo_run: Path) -> None:
    """Less than 7 points needs a magnifying glass, in the text and in the pictures as they are printed."""
    from weasyprint.formatting_structure import boxes

    drawn = [box for page in laid_out for box in page._page_box.descendants()]
    points = {
        round(box.style["font_size"] * 0.75, 2) for box in drawn if isinstance(box, boxes.TextBox) and box.text.strip()
    }
    assert min(points) >= 7
    pictures = [box for box in drawn if isinstance(box, boxes.ReplacedBox) and box.width]
    smaller = min(box.width / float(box.element.get("width")) * 100 / 96 for box in pictures)  # 100 pixels are an inch
    letters = [
        output.metadata["image/png"]["letters"]
        for notebook in (demo_run / "notebooks").glob("*.ipynb")
        for cell in nbformat.read(notebook, as_version=4).cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(letters) >= 10
    assert min(letters) * smaller >= 7


def test_nothing_is_cut_at_the_edge_of_a_page(laid_out: list[Any]) -> None:
    """A table over the edge loses its last columns on paper, a picture its legend. A4, and Letter laid over its middle."""
    from weasyprint.formatting_structure import boxes

    millimetre, tolerance = 96 / 25.4, 1.0
    for page in laid_out:
        left, top = (14 * millimetre, 14 * millimetre)
        right, bottom = page.width - left, page.height - top
        assert sorted((page.width, page.height)) == pytest.approx([210 * millimetre, 297 * millimetre])
        for box in page._page_box.descendants():
            if isinstance(box, boxes.TextBox | boxes.ReplacedBox) and box.width:
                assert box.position_x > left - tolerance, box
                assert box.position_x + box.width < right + tolerance, (box, getattr(box, "text", ""))
                assert box.position_y > top - tolerance, box
                assert box.position_y + box.height < bottom + tolerance, (box, getattr(box, "text", ""))


def test_paper_has_no_code(pages: list[str]) -> None:
    for words in CODE:
        assert not [page for page in pages if words in page]


# --- where WeasyPrint or everything is missing -----------------------------------------------------------------------


@pytest.fixture
def copied_run(demo_run: Path, tmp_path: Path) -> Run:
    """The demo's run in another folder, without its reports."""
    shutil.copytree(demo_run, tmp_path / "run", ignore=shutil.ignore_patterns("report.*"))
    return Run(load_parameters(tmp_path / "run" / "parameters.yaml", {"OUTPUT_PATH": str(tmp_path / "run")}))


@pytest.fixture
def without_weasyprint(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(pdf, "_by_weasyprint", lambda html, path: "pango is missing")
    return "pango is missing"


@pytest.mark.usefixtures("without_weasyprint", "chromium")
def test_chromium_prints_where_weasyprint_cannot(copied_run: Run) -> None:
    """Many machines lack pango, and most have a browser."""
    assert pdf.write_pdf(copied_run, report_page.write_html(copied_run, read_json(copied_run.manifest))) is None
    pages = paper(copied_run.report_pdf)
    assert 5 < len(pages) < 60
    assert SENTENCE.search(pages[0])


def test_without_both_the_reason_is_told_and_the_page_stands(
    copied_run: Run, without_weasyprint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing system library must not cost a run its result, and the user must know what to install."""
    monkeypatch.setattr(pdf, "CHROMIUMS", ("no-such-browser",))
    text = report_page.write_html(copied_run, read_json(copied_run.manifest))
    reason = pdf.write_pdf(copied_run, text)
    assert reason is not None
    assert without_weasyprint in reason
    assert "Chromium" in reason
    assert not copied_run.report_pdf.exists()
    assert copied_run.report_html.read_text("utf-8") == text
    assert not list(copied_run.folder.glob(".*.part"))


def test_browser_that_fails_is_told(copied_run: Run, without_weasyprint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A browser without a display or a sandbox fails on some clusters; that is no failure of the run."""
    monkeypatch.setattr(pdf, "CHROMIUMS", ("false",))
    reason = pdf.write_pdf(copied_run, "<h1>x</h1>")
    assert reason is not None
    assert without_weasyprint in reason
    assert "failed" in reason


@pytest.fixture
def listener() -> Iterator[tuple[str, list[str]]]:
    """A web server on this machine, and what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the base class's name
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def test_weasyprint_makes_no_request(listener: tuple[str, list[str]], tmp_path: Path) -> None:
    """Whatever a name in the data looks like, making the PDF tells nobody."""
    address, asked = listener
    html = f'<h1>x</h1><img src="{address}/a.png"><link rel="stylesheet" href="{address}/b.css">'
    problem = pdf._by_weasyprint(html, tmp_path / "x.pdf")
    if problem is not None:
        skip(problem)
    assert (tmp_path / "x.pdf").stat().st_size > 0
    assert asked == []


# --- rendered again ------------------------------------------------------------------------------------------------------


@pytest.fixture
def moved_run(demo_run: Path, tmp_path: Path) -> Path:
    """The demo's run as if carried over from a machine where the input was somewhere else."""
    run = Path(shutil.copytree(demo_run, tmp_path / "a 'moved' run"))
    values = yaml.safe_load((run / "parameters.yaml").read_text("utf-8"))
    changed = values | {"PATH": "/gone/cells.h5ad", "OUTPUT_PATH": "/gone/run"}
    (run / "parameters.yaml").write_text(yaml.safe_dump(changed), "utf-8")
    return run


def test_a_moved_run_is_rendered_again_without_its_input(moved_run: Path, jind_nb: Callable[..., Answer]) -> None:
    """Reports are lost, and a newer version makes better ones; the cells must not be needed for that."""
    before = (moved_run / "report.html").read_text("utf-8")
    records = read_json(moved_run / "work" / "stages.json")
    for file in ("report.html", "report.pdf"):
        (moved_run / file).unlink()
    done = jind_nb("report", moved_run)
    assert done.status == 0, done.err
    assert str(moved_run / "report.html") in done.out
    after = (moved_run / "report.html").read_text("utf-8")
    for tag in ("<figure", "<tr>", "<h3>"):
        assert after.count(tag) == before.count(tag)
    assert "agree with the file's labels" in html.unescape(after)
    assert paper(moved_run / "report.pdf")
    run = Run(load_parameters(moved_run / "parameters.yaml", {"OUTPUT_PATH": str(moved_run)}))
    now = read_json(run.stages_json)
    assert now["report"]["files"] == cache.stage_record(run, "report", "", [run.report_html, run.report_pdf])["files"]
    assert {stage: of for stage, of in now.items() if stage != "report"} == {
        stage: of for stage, of in records.items() if stage != "report"
    }
    assert not list(moved_run.glob(".*"))


def test_the_same_run_again_repeats_nothing_after_a_new_report(copied_run: Run, jind_nb: Callable[..., Answer]) -> None:
    """Else each look at a report would cost the stages again."""
    inputs = cache.input_hashes(copied_run)
    records = read_json(copied_run.stages_json)
    records["report"]["key"] = cache.stage_keys(copied_run, inputs)[
        "report"
    ]  # as if the run had been made in this folder
    write_json(copied_run.stages_json, records)
    assert not cache.is_finished(copied_run, inputs)  # its reports were left behind
    assert jind_nb("report", copied_run.folder).status == 0
    assert cache.is_finished(copied_run, inputs)


def test_what_is_no_finished_run_is_refused(copied_run: Run, jind_nb: Callable[..., Answer], tmp_path: Path) -> None:
    """One message each, and nothing written."""
    (tmp_path / "empty").mkdir()
    for where in (tmp_path / "empty", tmp_path / "nowhere"):
        done = jind_nb("report", where)
        assert done.status == 2
        assert "is not the folder of a run" in done.err
    assert not (tmp_path / "nowhere").exists()
    with locks.held(copied_run.folder):
        done = jind_nb("report", copied_run.folder)
        assert done.status == 2
        assert "RUN_DIR: another run of jind-nb is at work" in done.err
    (copied_run.work / "target.npz").unlink()
    done = jind_nb("report", copied_run.folder)
    assert done.status == 2
    assert "target.npz" in done.err
    copied_run.manifest.unlink()
    done = jind_nb("report", copied_run.folder)
    assert done.status == 2
    assert "is not finished" in done.err
    assert not copied_run.report_html.exists()


# --- chapters ------------------------------------------------------------------------------------------------------------


def notebook_of(tmp_path: Path, *cells: nbformat.NotebookNode) -> Path:
    nbformat.write(nbformat.v4.new_notebook(cells=list(cells)), tmp_path / "x.ipynb")
    return tmp_path / "x.ipynb"


def displays(metadata: dict[str, Any] | None = None, **data: str) -> nbformat.NotebookNode:
    data = {f"{'image' if kind == 'png' else 'text'}/{kind}": value for kind, value in data.items()}
    output = nbformat.v4.new_output("display_data", data=data, metadata=metadata or {})
    return nbformat.v4.new_code_cell("secret()", outputs=[output])


def test_a_section_of_words_for_missing_pictures_is_left_out(tmp_path: Path) -> None:
    """And one that shows something keeps its prose; code and logs never appear."""
    markdown = nbformat.v4.new_markdown_cell
    log = nbformat.v4.new_code_cell("f()", outputs=[nbformat.v4.new_output("stream", text="log line")])
    html = chapter.chapter(
        notebook_of(
            tmp_path, markdown("# Title"), markdown("## Empty\n\nEmpty prose."), log,
            displays(html='<p class="nothing">not set</p>'), markdown("## Full\n\nFull prose."),
            displays(html="<table><tr><td>1</td></tr></table>"), markdown("### More"),
        ),
        deeper=1,
    )  # fmt: skip
    assert "<h2>Title</h2>" in html
    assert "<h3>Full</h3>" in html
    assert "<h4>More</h4>" in html
    for words in ("Empty", "not set", "log line", "secret", "f()"):
        assert words not in html


@pytest.mark.parametrize(
    ("of_run", "shown"),
    [
        ({"method-default", "one-batch"}, ["always", "alone", "table 1"]),
        ({"method-default", "several-batches"}, ["always", "left out in turn", "members left out", "table 1", "Hidden", "table 2"]),
        ({"method-reference", "several-batches"}, ["always", "left out in turn", "table 1", "Hidden", "table 2"]),
    ],
)  # fmt: skip
def test_only_what_describes_the_run_is_told(tmp_path: Path, of_run: set[str], shown: list[str]) -> None:
    """A report of a single annotated batch spoke of batches left out in turn, and had a section on types hidden in others."""

    def markdown(text: str, *tags: str) -> nbformat.NotebookNode:
        return nbformat.v4.new_markdown_cell(text, metadata={"tags": list(tags)})

    cells = [
        markdown("## First\n\nalways"), markdown("left out in turn", "several-batches"), markdown("alone", "one-batch"),
        markdown("members left out", "several-batches", "method-default"), displays(html="<table><tr><td>table 1</td></tr></table>"),
        markdown("## Hidden", "several-batches"), displays(html="<table><tr><td>table 2</td></tr></table>"),
    ]  # fmt: skip
    html = chapter.chapter(notebook_of(tmp_path, *cells), of_run=of_run)
    everything = ["always", "left out in turn", "alone", "members left out", "table 1", "Hidden", "table 2"]
    assert [words for words in everything if words in html] == shown


OF_SEVERAL_BATCHES = re.compile(
    r"left.out (annotated )?batch(?!es of other data sets)|left out of training (in turn|one at a time)|intermediate|in turn"
    r"|[Ee]ach annotated batch|[Aa]ll annotated batches|If a type were new|Every stage|several annotated"
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with a single annotated batch, and beside it of a prediction by its model."""
    folder = tmp_path_factory.mktemp("alone")
    simulated({"a": {"B": 40, "T": 40, "NK": 30}, "c": {"B": 30, "T": 30}}).write_h5ad(folder / "input.h5ad")
    simulated({"d": {"B": 30, "T": 30}}, seed=1).write_h5ad(folder / "new.h5ad")
    values = {"PATH": "input.h5ad", "BATCH_COL": "batch", "LABELS_COL": "celltype", "TARGET_DATASET_NAME": "c"}
    (folder / "p.yaml").write_text(yaml.safe_dump(values))
    for arguments in (
        ["run", "p.yaml", "--output-path", "run"],
        ["predict", "run/trained_models", "new.h5ad", "--report", "--output-path", "predicted"],
    ):
        done = run_forked(*arguments, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", ["run", "predicted"])
def test_a_report_of_one_annotated_batch_speaks_of_what_exists_there(alone: Path, name: str) -> None:
    """It claimed that each annotated batch had been left out in turn; what it showed were held-out cells of the only one."""
    page = re.sub(
        r"<script.*?</script>|<style.*?</style>", "", (alone / name / "report.html").read_text(), flags=re.DOTALL
    )
    text = " ".join(html.unescape(re.sub(r"<[^>]*>", "", page)).split())
    text = text.split("parameter value")[0]  # names and values of parameters are the same in all runs
    assert [text[max(0, found.start() - 80) : found.end() + 20] for found in OF_SEVERAL_BATCHES.finditer(text)] == []
    assert "Held-out cells of the only annotated batch" in text
    assert "There is a single annotated batch, so no batch could be left out" in text
    n = int(
        re.findall(r"among (\d+) cells held out of the only annotated batch, once confidences were calibrated", text)[0]
    )
    assert n == 11
    if name == "predicted":
        assert "So few cells tell little." in text
    else:
        assert "cells held out of training were right" not in text  # the same cells before calibration: another number


def test_points_are_told_once_and_cannot_end_their_script(tmp_path: Path) -> None:
    """Four pictures of the same cells would else carry four lists of ten thousand names, and a cell's name could run."""
    name = "</script><script>alert(1)</script>"
    about = {"alt": '"><script>', "width": 10, "height": 5, "where": {"x": [1], "y": [2]}, "what": [{"values": [name]}]}
    told = chapter.PointData()
    pictures = [displays({"image/png": about}, png="iVBORw0KGgo=") for _ in range(2)]
    html = chapter.chapter(notebook_of(tmp_path, *pictures), told)
    assert len(told.content) == 2
    assert html.count("data-where=") == 2
    assert "<script" not in html
    assert not [content for content in told.content.values() if "<" in content]
    assert name in [json.loads(content)[0]["values"][0] for content in told.content.values() if "values" in content]
    plain = chapter.chapter(notebook_of(tmp_path, *pictures))
    assert "data-where" not in plain


def test_only_names_that_are_there_are_to_be_clicked() -> None:
    """A reader looked for a legend below a picture that has none; page one's names are those of the picture beside it."""
    cells = {"alt": "", "where": {"x": [1], "y": [2]}, "what": [{"values": ["c0"]}]}
    names = {"alt": "", "legend": [{"column": "prediction", "name": "B", "box": [1, 2, 3, 4]}]}
    told = chapter.PointData()
    alone = chapter.figure_html(b"", cells, told)
    assert "Point at a cell" in alone
    assert "click" not in alone
    assert "click a name" in chapter.figure_html(b"", cells | names, told)
    assert report_page.pair([(b"", cells), (b"", names)], told).count("click a name") == 1


def test_pictures_together_fit_into_a_mail(tmp_path: Path) -> None:
    """The small ones stay as they are, the large ones share what is left."""
    sizes = (300, 300, 9_000, 30_000)
    pictures = [displays(png=base64.b64encode(bytes(n)).decode()) for n in sizes]
    notebook = notebook_of(tmp_path, *pictures)
    assert report_page.most_bytes([notebook], 50_000) == float("inf")
    assert report_page.most_bytes([notebook], 20_600) == 11_000
    assert report_page.most_bytes([notebook], 10_600) == 5_000
