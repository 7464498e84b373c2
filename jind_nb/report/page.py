"""report.html: the answer on one page, the evidence from the executed notebooks without their code, and methods for a paper;
of a failed run, a page that says so."""

import base64
import hashlib
import math
import re
from collections.abc import Mapping
from html import unescape
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
from markupsafe import Markup

from ..core.address import last_name
from ..core.files import read_json, whole_file
from ..core.resources import templates
from ..model.annotate import METHODS
from ..results.load import load_finished
from ..results.summary import alignment_reason, expected_error_sentence, summarise
from ..results.tables import composition_table, type_table
from ..results.target import evaluate_target, fallback_metrics, known_types_metrics
from ..runs.folder import Run
from ..runs.previous import PREVIOUS
from ..runs.stages import load_plan, load_training
from . import html as report_html
from .chapter import PointData, chapter, figure_html, scrolling_html
from .methods_text import methods
from .plots import style
from .plots.target import composition_alt, composition_bars

PICTURES = 2_800_000  # bytes of all of them; with the data about points, the page stays below 5 MB

EVIDENCE = "4_evaluate"


def write_html(run: Run, facts: Mapping[str, Any]) -> str:
    """Write report.html, one file that needs no network, from the run's folder alone, and return its text.

    Parameters
    ----------
    facts
        `versions` and `input` as in manifest.json.
    """
    result, plan, training = load_finished(run), load_plan(run), load_training(run)
    types, composition = type_table(result, plan, evaluate_target(result, plan.target)), composition_table(result, plan)
    figure = composition_bars(composition, plan.target)
    about = {"alt": composition_alt(composition, plan.target), **style.pixels(figure)}
    points = PointData(most_bytes=_most_bytes([run.notebook(stage) for stage in run.stages]))
    before = [stage for stage in run.stages if stage != EVIDENCE]
    of_run = {"facts": facts, "run": run, "result": result, "plan": plan, "training": training}
    html = _render(
        "report.html.j2",
        **of_run,
        summary=summarise(result, plan, training),
        known_types=known_types_metrics(result),
        fallback=fallback_metrics(result),
        data=", ".join(map(last_name, run.parameters.paths)),
        alignment_reason=alignment_reason,
        always_aligns=METHODS[run.parameters.METHOD].ALWAYS_ALIGNS,
        expected_error_sentence=expected_error_sentence,
        quantile=np.quantile,
        composition_picture=figure_html(style.png(figure), about),
        table=scrolling_html(report_html.table_html(types, "Each cell type in the target")),
        chapters=[_part(run.notebook(stage), points) for stage in (EVIDENCE, *before)],
        methods=methods(run, result, plan, training, facts["versions"]),
        parameters=_by_name(_parameters(run), ["parameter", "value"], "Every parameter as it was used"),
        versions=_by_name(facts["versions"], ["package", "version"], "Python and the packages that made this run"),
        point_data=points.content,
    )
    return _write(html, run)


def _write(html: str, run: Run) -> str:
    with whole_file(run.report_html) as temporary:
        temporary.write_text(html, encoding="utf-8", errors="replace")
    return html


def _by_name(values: Mapping[str, str], heads: list[str], caption: str) -> Markup:
    return scrolling_html(report_html.rows_html(heads, list(values.items()), caption))


def _most_bytes(notebooks: list[Path], together: float = PICTURES) -> float:
    """Return how many bytes a picture may have so that all pictures fit, if larger ones are made that small."""
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


def _part(notebook: Path, points: PointData) -> dict[str, str]:
    """Return an executed notebook as a chapter of the report: its `id`, `title` for the table of contents, and `html`."""
    html = chapter(notebook, points, deeper=1)
    title = re.search(r"<h2>(.*?)</h2>", html)
    title_text = unescape(title[1]) if title else notebook.stem
    return {"id": f"notebook-{notebook.stem}", "title": title_text, "html": Markup(html)}


def write_failed_html(run: Run) -> str:
    """Write, in place of report.html, a page that says that the run failed, where, and what to do; return its text.

    It says what `commands.run` noted in work/failure.json.
    """
    failure = read_json(run.failure_json)
    notebook, earlier = run.notebook(failure["stage"]), run.folder / PREVIOUS / run.report_html.name
    html = _render(
        "failed.html.j2",
        run=run,
        failure=failure,
        notebook=notebook.relative_to(run.folder) if notebook.exists() else None,
        earlier=earlier.relative_to(run.folder) if earlier.exists() else None,
    )
    run.report_pdf.unlink(missing_ok=True)
    return _write(html, run)


def script_and_hash() -> tuple[str, str]:
    """Return the one script of a report, and its hash as a Content-Security-Policy has it."""
    script = files("jind_nb").joinpath("templates", "report.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return script, f"'sha256-{digest}'"


def _render(template: str, **values: Any) -> str:
    script, name = map(Markup, script_and_hash())
    constants = {"script": script, "allowed_script": name, "version": version("jind-nb")}
    return templates().get_template(template).render(constants, **values)


def _parameters(run: Run) -> dict[str, str]:
    def words(value: Any) -> str:
        if isinstance(value, Mapping):
            value = "; ".join(f"{k}: {v if isinstance(v, str) else ', '.join(v)}" for k, v in value.items())
        if isinstance(value, list):
            value = ", ".join(map(str, value))
        return report_html.value_text(value) or report_html.NONE

    return {name: words(value) for name, value in run.parameters.model_dump().items()}
