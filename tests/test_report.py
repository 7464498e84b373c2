"""The report as its reader meets it: a page in a browser without network, and pages of paper."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pypdf
import pytest

from jind_nb import report
from jind_nb.artifacts import Run
from jind_nb.parameters import load_parameters
from tests.conftest import skip

pytestmark = pytest.mark.slow

SENTENCE = re.compile(r"well 1: \d+ of 95 cells annotated, \d+ left Unassigned")
# What code, a prompt or a parameter dump would put on a page.
CODE = ("import ", "open_run(", "plots.show", "In [", "Out[", "globals()")


@dataclass
class Seen:
    """What a browser found on the page, and what it asked for."""

    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)
    text: str = ""
    code_areas: int = 0
    wider_than_screen: bool = False


@pytest.fixture(scope="module")
def seen(demo_run: Path, chromium: str) -> Seen:
    from playwright.sync_api import sync_playwright

    found = Seen()
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=arguments)
        page = browser.new_page(viewport={"width": 1000, "height": 900})
        page.on("request", lambda request: found.requests.append(request.url[:80]))
        page.on("console", lambda said: found.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: found.complaints.append(str(error)))
        page.goto((demo_run / "report.html").as_uri(), wait_until="networkidle")
        found.images = page.eval_on_selector_all(
            "img", "all => all.map(i => ({alt: i.alt, width: i.naturalWidth, complete: i.complete}))"
        )
        found.headings = page.locator("h1").all_inner_texts()
        found.text = page.inner_text("body")
        found.code_areas = page.locator(".jp-CodeCell, .jp-InputArea, .input_area, .highlight, pre").count()
        found.wider_than_screen = page.evaluate(
            "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        )
        browser.close()
    return found


def test_page_asks_for_nothing_outside_itself(seen: Seen) -> None:
    """A collaborator opens it offline, and nobody learns that they did."""
    assert seen.requests
    assert [url for url in seen.requests if not url.startswith(("file:", "data:"))] == []
    assert [url for url in seen.requests if url.startswith("file:") and not url.endswith("/report.html")] == []


def test_browser_has_no_complaint(seen: Seen) -> None:
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
    assert SENTENCE.match(seen.headings[0])
    assert len(seen.headings) == 1 + 4 + 1  # then the four notebooks, then how it was made
    assert seen.headings[-1] == "How this was made"


def test_no_code_reaches_the_reader(seen: Seen) -> None:
    """The report is for people who never open a notebook."""
    assert seen.code_areas == 0
    for words in CODE:
        assert words not in seen.text


def test_page_fits_a_laptops_width(seen: Seen) -> None:
    """A table that pushes the page sideways makes every line of it hard to read."""
    assert not seen.wider_than_screen


# --- on paper ---------------------------------------------------------------------------------------------------------


def paper(file: Path) -> list[str]:
    return [" ".join(page.extract_text().split()) for page in pypdf.PdfReader(file).pages]


@pytest.fixture(scope="module")
def pages(demo_run: Path) -> list[str]:
    return paper(demo_run / "report.pdf")


def test_first_page_of_paper_has_the_result_and_what_to_distrust(pages: list[str]) -> None:
    """Page one is what gets printed."""
    assert SENTENCE.search(pages[0])
    assert "What to distrust" in pages[0]


def test_paper_has_all_pages_and_no_parameters_first(pages: list[str]) -> None:
    """Parameters belong to the end; a reader who meets them first stops reading."""
    assert 5 < len(pages) < 60
    for page in pages[:2]:
        assert "NUM_FEATURES" not in page
        assert "PRETRAINED_MODEL_PATH" not in page
    assert "NUM_FEATURES" in pages[-1]
    assert f"page 1 of {len(pages)}" in pages[0]


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
    monkeypatch.setattr(report, "_by_weasyprint", lambda html, path: "pango is missing")
    return "pango is missing"


@pytest.mark.usefixtures("without_weasyprint", "chromium")
def test_chromium_prints_where_weasyprint_cannot(copied_run: Run) -> None:
    """Many machines lack pango, and most have a browser."""
    assert report.write_pdf(copied_run, report.write_html(copied_run)) is None
    pages = paper(copied_run.report_pdf)
    assert 5 < len(pages) < 60
    assert SENTENCE.search(pages[0])


def test_without_both_the_reason_is_told_and_the_page_stands(
    copied_run: Run, without_weasyprint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing system library must not cost a run its result, and the user must know what to install."""
    monkeypatch.setattr(report, "CHROMIUMS", ("no-such-browser",))
    html = report.write_html(copied_run)
    reason = report.write_pdf(copied_run, html)
    assert reason is not None
    assert without_weasyprint in reason
    assert "Chromium" in reason
    assert not copied_run.report_pdf.exists()
    assert copied_run.report_html.read_text("utf-8") == html
    assert not list(copied_run.folder.glob(".*.part"))


def test_browser_that_fails_is_told(copied_run: Run, without_weasyprint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A browser without a display or a sandbox fails on some clusters; that is no failure of the run."""
    monkeypatch.setattr(report, "CHROMIUMS", ("false",))
    reason = report.write_pdf(copied_run, "<h1>x</h1>")
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
    problem = report._by_weasyprint(html, tmp_path / "x.pdf")
    if problem is not None:
        skip(problem)
    assert (tmp_path / "x.pdf").stat().st_size > 0
    assert asked == []
