"""report.html: the answer on one page, the evidence from the executed notebooks without their code, and methods for a paper;
of a failed run, a page that says so."""

import base64
import hashlib
import math
import re
from collections.abc import Collection, Mapping
from html import escape, unescape
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
from markupsafe import Markup

from ..core.address import last_name
from ..core.files import read_json, whole_file
from ..core.model_json import read_model_json
from ..core.resources import templates
from ..data.plan import Plan
from ..model.annotate import METHODS
from ..model.state import AlignmentMode
from ..results.load import load_finished
from ..results.summary import alignment_reason, expected_error_sentence, summarise
from ..results.tables import composition_table, describe_points, hover_table, type_table
from ..results.target import TargetResult, evaluate_target, fallback_metrics, known_types_metrics
from ..runs.folder import Run
from ..runs.previous import PREVIOUS
from ..runs.stages import load_device, load_latent_points, load_plan, load_training
from . import html as report_html
from .chapter import PointData, chapter, figure_html, scrolling_html
from .methods_text import methods, tags_of
from .plots import style
from .plots.embedding import last_stage
from .plots.target import answer_pictures

PICTURES = 2_800_000  # bytes of all of them; with the data about points, the page stays below 5 MB

MOST_CSV = 1_000_000  # bytes of the table of all cells that the page holds itself

EVIDENCE = "4_evaluate"


def write_html(run: Run, facts: Mapping[str, Any]) -> str:
    """Write report.html, one file that needs no network, from the run's folder alone, and return its text.

    Parameters
    ----------
    facts
        `versions` and `input` as in manifest.json.
    """
    result, plan, training = load_finished(run), load_plan(run), load_training(run)
    types = type_table(result, plan, evaluate_target(result, plan.target))
    points = PointData(most_bytes=most_bytes([run.notebook(stage) for stage in run.stages]))
    before, tags = [stage for stage in run.stages if stage != EVIDENCE], tags_of(run)
    of_run = {"facts": facts, "run": run, "result": result, "plan": plan, "training": training}
    html = render(
        "report.html.j2",
        **of_run,
        summary=summarise(result, plan, training),
        known_types=known_types_metrics(result),
        fallback=fallback_metrics(result),
        data=", ".join(map(last_name, run.parameters.paths)),
        alignment_reason=alignment_reason,
        always_aligns=METHODS[run.parameters.METHOD].ALWAYS_ALIGNS,
        expected_error_sentence=expected_error_sentence,
        confidence_in_words=confidence_in_words,
        pictures=answer_of(run, result, plan, points),
        table=scrolling_html(report_html.table_html(types, "Each cell type in the target", has_download=True)),
        has_own_thresholds=_has_own_thresholds(run, result),
        all_cells=all_cells(run),
        evidence=part(run.notebook(EVIDENCE), points, tags, in_appendix=False),
        appendix=[
            part(run.notebook(EVIDENCE), points, tags, in_appendix=True, title="More evidence"),
            *(part(run.notebook(stage), points, tags) for stage in before),
        ],
        methods=methods(run, result, plan, training, facts["versions"]),
        parameters=by_name(parameters_in_words(run), ["parameter", "value"], "Every parameter as it was used"),
        versions=by_name(facts["versions"], ["package", "version"], "Python and the packages that made this run"),
        point_data=points.content,
    )
    return write(html, run)


def confidence_in_words(confidence: np.ndarray) -> str:
    """Return above which confidence half of the cells are, and nine tenths; once where both are the same, rounded down.

    >>> confidence_in_words(np.linspace(0.5, 1, 101)), confidence_in_words(np.full(9, 0.999))
    ('above 0.75 for half of the cells, above 0.55 for nine tenths', 'above 0.99 for nine tenths of the cells')
    """
    of_half, of_most = (f"{min(0.99, np.floor(100 * np.quantile(confidence, q)) / 100):.2f}" for q in (0.5, 0.1))
    if of_half == of_most:
        return f"above {of_most} for nine tenths of the cells"
    return f"above {of_half} for half of the cells, above {of_most} for nine tenths"


def _has_own_thresholds(run: Run, result: TargetResult) -> bool:
    """Return whether the target was aligned, and got other thresholds for that than the model card has."""
    of_model = read_model_json((run.cohort or run).models)["thresholds"]
    others = [of_model[name] for name in result.final.classes]
    return result.mode == AlignmentMode.ALIGNED and not np.allclose(others, result.final.thresholds, atol=5e-4)


def answer_of(run: Run, result: TargetResult, plan: Plan, points: PointData) -> Markup:
    """Return page one's pictures: the target's cells by type, and their composition beside the annotated batches'."""
    last = last_stage(describe_points(load_latent_points(run), result))
    cells, bars = answer_pictures(last, composition_table(result, plan), plan, result.answers)
    return pair([style.described(*cells, hover_table(last)), style.described(*bars)], points)


def pair(pictures: list[tuple[bytes, dict[str, Any]]], points: PointData) -> Markup:
    """Return small pictures side by side, two in a row."""
    has_names = any("legend" in about for _, about in pictures)
    shown = Markup("").join(figure_html(png, about, points, has_names=has_names) for png, about in pictures)
    return Markup('<div class="pair">{}</div>').format(shown)


def all_cells(run: Run) -> Markup:
    """Return a link to the table of all cells: with the table itself in it where that is small, else to the file."""
    file = run.predictions_csv
    if not file.exists():  # of a run of an earlier version
        return Markup("")
    if file.stat().st_size < MOST_CSV:
        return report_html.data_link(file.read_text("utf-8"), file.name)
    link = '<p class="csv">The file <a href="{0}">{0}</a> beside this report has every cell.</p>'
    return Markup(link).format(file.name)


def write(html: str, run: Run) -> str:
    with whole_file(run.report_html) as temporary:
        temporary.write_text(html, encoding="utf-8", errors="replace")
    return html


def by_name(values: Mapping[str, str], heads: list[str], caption: str) -> Markup:
    return scrolling_html(report_html.rows_html(heads, list(values.items()), caption, has_download=True))


def most_bytes(notebooks: list[Path], together: float = PICTURES) -> float:
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


def part(
    notebook: Path,
    points: PointData,
    of_run: Collection[str],
    *,
    in_appendix: bool | None = None,
    title: str | None = None,
    has_prose: bool = True,
) -> dict[str, str]:
    """Return an executed notebook as a chapter of the report: its `id`, `title` for the table of contents, and `html`.

    Parameters
    ----------
    of_run, in_appendix, has_prose
        As in `chapter`.
    title
        The chapter's heading; default: the notebook's own.
    """
    html = chapter(notebook, points, deeper=1, in_appendix=in_appendix, of_run=of_run, has_prose=has_prose)
    if title is not None:
        html = f"<h2>{escape(title)}</h2>\n{html}"
    found = re.search(r"<h2>(.*?)</h2>", html)
    title_text = unescape(found[1]) if found else notebook.stem
    name = f"{notebook.stem}-appendix" if in_appendix else notebook.stem
    return {"id": f"notebook-{name}", "title": title_text, "html": Markup(html)}


def write_failed_html(run: Run) -> str:
    """Write, in place of report.html, a page that says that the run failed, where, and what to do; return its text.

    It says what `commands.run` noted in work/failure.json.
    """
    failure = read_json(run.failure_json)
    notebook, earlier = run.notebook(failure["stage"]), run.folder / PREVIOUS / run.report_html.name
    html = render(
        "failed.html.j2",
        run=run,
        failure=failure,
        notebook=notebook.relative_to(run.folder) if notebook.exists() else None,
        earlier=earlier.relative_to(run.folder) if earlier.exists() else None,
    )
    run.report_pdf.unlink(missing_ok=True)
    return write(html, run)


def script_and_hash() -> tuple[str, str]:
    """Return the one script of a report, and its hash as a Content-Security-Policy has it."""
    script = files("jind_nb").joinpath("templates", "report.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return script, f"'sha256-{digest}'"


def render(template: str, **values: Any) -> str:
    script, name = map(Markup, script_and_hash())
    constants = {"script": script, "allowed_script": name, "version": version("jind-nb")}
    return templates().get_template(template).render(constants, **values)


def parameters_in_words(run: Run, names: Collection[str] | None = None) -> dict[str, str]:
    """Return parameters as text, all or some of them; all of a finished run, whose USE_GPU says what was used."""

    def words(value: Any) -> str:
        if isinstance(value, Mapping):
            value = "; ".join(f"{k}: {v if isinstance(v, str) else ', '.join(v)}" for k, v in value.items())
        if isinstance(value, list):
            value = ", ".join(map(str, value))
        return report_html.value_text(value) or report_html.NONE

    shown = run.parameters.model_dump(include=set(names) if names else None)
    texts = {name: words(value) for name, value in shown.items()}
    if shown.get("USE_GPU") and (device := load_device(run.each_target[0])) is not None:
        texts["USE_GPU"] += "; no GPU was found, so the CPU was used" if device == "cpu" else "; a GPU was used"
    return texts
