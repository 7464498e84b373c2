"""report.html and report.pdf: the answer on one page, the evidence from the executed notebooks without their code, and
methods ready for a paper; or, of a run that failed, a page that says so."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import unescape
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from markupsafe import Markup

from ..core.files import read_json, whole_file
from ..core.resources import templates
from ..results import load, summary
from ..results import tables as results_tables
from ..results import target as results_target
from ..runs.folder import Run
from ..runs.previous import PREVIOUS
from ..runs.stages import load_plan, load_training
from . import alt
from . import html as report_html
from .chapter import Told, _about, _figure, _scrolling, chapter
from .methods_text import methods
from .plots import style, target

PICTURES = 2_800_000  # bytes of all of them; with what is told of points, the page stays below 5 MB

MOST_POINTS = 7  # of what to distrust, on the first page

EVIDENCE = "4_evaluate"


def write_html(run: Run, facts: Mapping[str, Any]) -> str:
    """Writes report.html, one file that needs no network, from the run's folder alone; returns its text.

    Parameters
    ----------
    facts
        `versions` and `input` as in manifest.json.
    """
    result, plan, training = load.finished_result(run), load_plan(run), load_training(run)
    on_target = results_target.evaluate_target(result, plan.target)
    composition = results_tables.composition(result, plan)
    picture = target.composition_bars(composition, plan.target)
    told = Told(most_bytes=_most_bytes([run.notebook(stage) for stage in run.stages]))
    before = [stage for stage in run.stages if stage != EVIDENCE]
    html = _render(
        "report.html.j2",
        target=plan.target,
        summary=summary.summarise(result, plan, training, run),
        most_points=MOST_POINTS,
        composition_picture=Markup(
            _figure(style.png(picture), _about(picture, alt.composition(composition, plan.target)))
        ),
        table=_scrolling(
            report_html.html(results_tables.per_type(result, plan, on_target), "Each cell type in the target")
        ),
        labelled=bool(on_target),
        chapters=[_part(run.notebook(stage), told) for stage in (EVIDENCE, *before)],
        methods=methods(run, result, plan, training, facts["versions"]),
        inputs=facts["input"],
        parameters=_scrolling(report_html.html(_parameters(run), "Every parameter as it was used")),
        versions=_scrolling(
            report_html.html(_by_name(facts["versions"], "package", "version"), "What the run was made with")
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
    script, name = the_script()
    return (
        templates()
        .get_template(template)
        .render(script=Markup(script), allowed_script=Markup(name), version=version("jind-nb"), **values)
    )


def _parameters(run: Run) -> pd.DataFrame:
    def told(value: Any) -> str:
        if isinstance(value, Mapping):
            return (
                "; ".join(f"{k}: {v if isinstance(v, str) else ', '.join(v)}" for k, v in value.items())
                or report_html.NONE
            )
        if isinstance(value, list):
            return ", ".join(map(str, value)) or report_html.NONE
        return report_html.text(value)

    return _by_name({name: told(value) for name, value in run.parameters.model_dump().items()}, "parameter", "value")


def _by_name(values: Mapping[str, str], name: str, value: str) -> pd.DataFrame:
    return pd.DataFrame({value: pd.Series(values, dtype=object)}).rename_axis(name)
