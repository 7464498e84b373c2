"""report.html and report.pdf: the answer on one page, the evidence from the executed notebooks without their code, and
methods ready for a paper; or, of a run that failed, a page that says so."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape, unescape
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from . import alt, plots, results, tables
from .artifacts import Run, read_json, whole_file
from .folder import PREVIOUS
from .methods import methods

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
NOTEBOOK_ONLY = "notebook-only"  # tag of cells that repeat what the report's own pages say
PICTURES = 2_800_000  # bytes of all of them; with what is told of points, the page stays below 5 MB
FEW_ROWS = 14  # of a table that stays on one sheet of paper
MOST_POINTS = 7  # of what to distrust, on the first page
WIDE = 1000, 1.15  # pixels, and of the height: from there on a picture gets a sheet of paper laid on its side
LARGER = 1.3  # on a screen, which can be scrolled
EVIDENCE = "4_evaluate"


@dataclass
class Told:
    """What the report tells of points in its pictures: JSON by the id of the element that holds it, each once; and how many
    bytes a picture may have."""

    content: dict[str, Markup] = field(default_factory=dict)
    most_bytes: float = math.inf

    def keep(self, value: Any) -> str:
        """The id of the element that will hold the value."""
        # As part of a page `<` could begin a tag; written so, it is the same JSON.
        content = json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
        name = f"told-{hashlib.sha256(content.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"
        self.content[name] = Markup(content)
        return name


def write_html(run: Run, facts: Mapping[str, Any]) -> str:
    """Writes report.html, one file that needs no network, from the run's folder alone; returns its text.

    Parameters
    ----------
    facts
        `versions` and `input` as in manifest.json.
    """
    result, plan, training = results.finished_result(run), run.load_plan(), run.load_training()
    on_target = results.evaluate_target(result, plan.target)
    composition = results.composition(result, plan)
    picture = plots.composition_bars(composition, plan.target)
    told = Told(most_bytes=_most_bytes([run.notebook(stage) for stage in run.stages]))
    before = [stage for stage in run.stages if stage != EVIDENCE]
    html = _render(
        "report.html.j2",
        target=plan.target,
        summary=results.summarise(result, plan, training, run),
        most_points=MOST_POINTS,
        composition_picture=Markup(
            _figure(plots.png(picture), _about(picture, alt.composition(composition, plan.target)))
        ),
        table=_scrolling(tables.html(results.per_type(result, plan, on_target), "Each cell type in the target")),
        labelled=bool(on_target),
        chapters=[_part(run.notebook(stage), told) for stage in (EVIDENCE, *before)],
        methods=methods(run, result, plan, training, facts["versions"]),
        inputs=facts["input"],
        parameters=_scrolling(tables.html(_parameters(run), "Every parameter as it was used")),
        versions=_scrolling(
            tables.html(_by_name(facts["versions"], "package", "version"), "What the run was made with")
        ),
        told=told.content,
    )
    with whole_file(run.report_html) as temporary:
        temporary.write_text(html, encoding="utf-8", errors="replace")
    return html


def _most_bytes(notebooks: list[Path], together: float = PICTURES) -> float:
    """How many bytes a picture may have so that all of them, the larger ones made so small, fit into a page to mail."""
    sizes = sorted(
        len(output.data["image/png"]) * 3 / 4
        for notebook in notebooks
        for cell in nbformat.read(notebook, as_version=4).cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    )
    for i, size in enumerate(sizes):
        share = together / (len(sizes) - i)
        if size > share:
            return share
        together -= size
    return math.inf


@dataclass(frozen=True)
class Part:
    """A chapter of the report: an executed notebook, and its title for the table of contents."""

    id: str
    title: str
    html: Markup


def _part(notebook: Path, told: Told) -> Part:
    html = chapter(notebook, told, deeper=1)
    title = re.search(r"<h2>(.*?)</h2>", html)
    return Part(f"notebook-{notebook.stem}", unescape(title[1]) if title else notebook.stem, Markup(html))


def write_failed_html(run: Run) -> str:
    """Writes, in report.html's place, a page that says that the run failed, at what, and what to do; returns its text.

    What is told is what `pipeline` noted in work/failure.json.
    """
    failure = read_json(run.failure_json)
    earlier = run.folder / PREVIOUS / run.report_html.name
    html = _render(
        "failed.html.j2",
        target=run.parameters.TARGET_DATASET_NAME,
        failure=failure,
        stages=failure["stages"],
        notebook=Path(run.notebooks.name) / f"{failure['stage']}.ipynb"
        if run.notebook(failure["stage"]).exists()
        else None,
        log=run.log.name,
        earlier=earlier.relative_to(run.folder) if earlier.exists() else None,
        folder=run.folder,
        goes_on=run.goes_on,
    )
    run.report_pdf.unlink(missing_ok=True)
    with whole_file(run.report_html) as temporary:
        temporary.write_text(html, encoding="utf-8", errors="replace")
    return html


def the_script() -> tuple[str, str]:
    """The one script of a report, and what a Content-Security-Policy calls it."""
    script = files("jind_nb").joinpath("templates", "report.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return script, f"'sha256-{digest}'"


def _render(template: str, **values: Any) -> str:
    environment = Environment(loader=PackageLoader("jind_nb"), autoescape=True)
    script, name = the_script()
    return environment.get_template(template).render(
        script=Markup(script), allowed_script=Markup(name), version=version("jind-nb"), **values
    )


def _parameters(run: Run) -> pd.DataFrame:
    def told(value: Any) -> str:
        if isinstance(value, Mapping):
            return (
                "; ".join(f"{k}: {v if isinstance(v, str) else ', '.join(v)}" for k, v in value.items()) or tables.NONE
            )
        if isinstance(value, list):
            return ", ".join(map(str, value)) or tables.NONE
        return tables.text(value)

    return _by_name({name: told(value) for name, value in run.parameters.model_dump().items()}, "parameter", "value")


def _by_name(values: Mapping[str, str], name: str, value: str) -> pd.DataFrame:
    return pd.DataFrame({value: pd.Series(values, dtype=object)}).rename_axis(name)


# --- from executed notebooks -----------------------------------------------------------------------------------------


def chapter(notebook: Path, told: Told | None = None, deeper: int = 0) -> str:
    """An executed notebook's prose, tables and pictures as HTML: no code, no log lines, no parameters cell, and no section
    that has nothing to show.

    Parameters
    ----------
    told
        Takes in what pictures tell of their points; without it they tell nothing.
    deeper
        How many levels further down its headings go.
    """
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    prose = MarkdownWithMath(renderer=IPythonRenderer(escape=False, exclude_anchor_links=True))
    sections: list[list[str]] = [[]]
    worth = [True]
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "markdown":
            if cell.source.startswith("## "):
                sections.append([])
                worth.append(False)
            deep = re.sub(r"^(#+ )", "#" * deeper + r"\1", cell.source, flags=re.MULTILINE)
            sections[-1].append(prose.render(deep))
        elif cell.cell_type == "code" and NOTEBOOK_ONLY not in cell.metadata.get("tags", []):
            shown = [html for output in cell.outputs for html in [_shown(output, told)] if html is not None]
            sections[-1] += shown
            worth[-1] |= bool(shown)
    return "\n".join(html for section, is_worth in zip(sections, worth, strict=True) if is_worth for html in section)


def _shown(output: Any, told: Told | None) -> str | None:
    """A picture or table of a notebook; None for anything else, words in place of a picture included."""
    if output.output_type not in ("display_data", "execute_result"):
        return None
    if "image/png" in output.data:
        about = dict(output.metadata.get("image/png", {}))
        if told is not None and {"where", "what"} <= set(about):
            about |= {name: told.keep(about[name]) for name in ("where", "what")}
        else:
            about = {name: value for name, value in about.items() if name not in ("where", "what")}
        picture = base64.b64decode(output.data["image/png"])
        return _figure(picture if told is None else plots.at_most(picture, told.most_bytes), about)
    html = output.data.get("text/html", "")
    return _scrolling(html) if html and 'class="nothing"' not in html[:40] else None


def _about(figure: Any, words: str) -> dict[str, Any]:
    width, height = plots.pixels(figure)
    return {"alt": words, "width": width, "height": height}


def _figure(png: bytes, about: Mapping[str, Any]) -> str:
    """A picture with its words and size; a wide one can be scrolled on a screen and has its own sheet of paper."""
    width, height = about.get("width", 0), about.get("height", 1)
    is_wide = width > WIDE[0] and width > WIDE[1] * height
    attributes = "".join(
        f' {name}="{escape(str(value))}"'
        for name, value in {
            "alt": about.get("alt", ""),
            # The style is for WeasyPrint, which leaves width and height out of account.
            "style": f"width: {round((LARGER if is_wide else 1) * width)}px" if width else None,
            "width": width or None,
            "height": height if width else None,
            "data-where": about.get("where"),
            "data-what": about.get("what"),
        }.items()
        if value is not None
    )
    hint = '<figcaption class="hint">Point at a cell, or tap it, to read its name, type and probability.</figcaption>'
    return (
        f'<figure{WIDE_FIGURE if is_wide else ""}><img src="data:image/png;base64,{base64.b64encode(png).decode()}"'
        f"{attributes}>{hint if 'where' in about else ''}</figure>"
    )


WIDE_FIGURE = ' class="wide" tabindex="0" role="group" aria-label="A wide picture, which can be scrolled"'


def _scrolling(table: str) -> Markup:
    """A table that scrolls within the page where it is wider, also by keys."""
    if not table.startswith("<table"):
        return Markup(table)
    caption = re.search(r"<caption>(.*?)</caption>", table)
    name = caption[1] if caption else "Table"
    together = " together" if table.count("<tr") <= FEW_ROWS else ""
    return Markup(f'<div class="scrolls{together}" tabindex="0" role="region" aria-label="{name}">{table}</div>')


def write_pdf(run: Run, html: str) -> str | None:
    """Writes report.pdf from the report's HTML: by WeasyPrint, which needs pango, else by a Chromium.

    Returns
    -------
    None, or why there is no PDF; a missing PDF is no failure.
    """
    html = _without_long_words(html)
    try:
        with whole_file(run.report_pdf) as temporary:
            problem = _by_weasyprint(html, temporary)
            if problem is not None:
                problem = _by_chromium(html, temporary, problem)
            if problem is not None:
                raise OSError(problem)
    except OSError as error:
        run.report_pdf.unlink(missing_ok=True)  # an earlier one would not match the HTML
        return str(error)
    return None


def _without_long_words(html: str) -> str:
    """Words that no line of paper holds, cut: WeasyPrint takes minutes to break a name of thousands of letters."""

    def cut(word: re.Match[str]) -> str:
        return f"{word[0][:100]}…"

    return re.sub(r">[^<]{200,}<", lambda text: re.sub(r"[^\s<>&;]{200,}", cut, text[0]), html)


def _by_weasyprint(html: str, path: Path) -> str | None:
    try:
        import weasyprint
    except OSError as error:  # pango, a library of the system, is missing
        return f"WeasyPrint cannot load the system's pango ({str(error).splitlines()[0]})"
    # Data addresses only: a report makes no request, whatever a name in the data looks like.
    inline = weasyprint.urls.URLFetcher(allowed_protocols=["data"])
    weasyprint.HTML(string=html, url_fetcher=inline).write_pdf(path, pdf_tags=True)
    return None


def _by_chromium(html: str, path: Path, before: str) -> str | None:
    browser = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if browser is None:
        return f"{before}, and there is no Chromium; install either (Debian: apt-get install libpango-1.0-0 libpangoft2-1.0-0)"
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        page.write_text(html, encoding="utf-8")
        printed = subprocess.run(
            [
                browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
                "--no-pdf-header-footer", f"--user-data-dir={folder}/profile", f"--print-to-pdf={folder}/report.pdf",
                page.as_uri(),
            ],
            capture_output=True,
            timeout=300,
            check=False,
        )  # fmt: skip
        made = Path(folder) / "report.pdf"
        if not made.exists():
            return f"{before}, and {browser} failed: {printed.stderr.decode(errors='replace')[-200:]}"
        shutil.copyfile(made, path)
    return None
