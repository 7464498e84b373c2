"""report.html of several targets: a page on all of them, then a section for each, then what they have in common."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ..core.address import last_name
from ..data.plan import Plan
from ..results.across import in_one_sentence, samples_table, shares_table, what_stands_out
from ..results.cohort import learns_alone
from ..results.load import load_finished
from ..results.summary import Summary, summarise
from ..results.tables import type_table
from ..results.target import TargetResult, evaluate_target
from ..runs.folder import Run
from ..runs.stages import load_plan, load_training
from . import html as report_html
from . import page
from .chapter import PointData, figure_html, scrolling_html
from .methods_text import methods, tags_of
from .plots import style
from .plots.cohort import compositions, compositions_alt

MOST_WITH_EVIDENCE = 8  # targets; of more, the pictures of each are in its notebook


@dataclass(frozen=True)
class Sample:
    """One target's section."""

    run: Run
    result: TargetResult
    plan: Plan
    training: Mapping[str, Any]
    summary: Summary
    id: str
    pictures: Markup
    types: Markup
    evidence: Markup


def write_html(run: Run, facts: Mapping[str, Any]) -> str:
    """Write report.html, one file that needs no network, from the run's folder alone, and return its text.

    Parameters
    ----------
    facts
        `versions` and `input` as in manifest.json.
    """
    each = run.each_target
    if len(each) == 1:
        return page.write_html(run, facts)
    shown = each if len(each) <= MOST_WITH_EVIDENCE else []
    notebooks = [one.notebook(page.EVIDENCE) for one in shown]
    before = [stage for stage in run.stages if run.notebook(stage).exists()]
    points = PointData(most_bytes=page.most_bytes([*notebooks, *map(run.notebook, before)]))
    samples = [_sample(one, i, points, has_evidence=one in shown) for i, one in enumerate(each, 1)]
    results = {sample.plan.target: sample.result for sample in samples}
    errors = {sample.plan.target: sample.summary.error for sample in samples}
    shares, first = shares_table(results), samples[0]
    answers = list(dict.fromkeys(answer for sample in samples for answer in sample.result.answers))
    picture = figure_html(*style.described(compositions(shares, answers), compositions_alt(shares)), points)
    percents = (100 * (shares if len(shares) >= len(shares.columns) else shares.T.rename_axis("answer"))).round(
        1
    )  # the longer side downwards
    percents = percents.rename(columns=lambda name: f"{name} %")
    html = page.render(
        "cohort.html.j2",
        run=run,
        facts=facts,
        samples=samples,
        sentence=in_one_sentence(results, errors),
        data=", ".join(map(last_name, run.parameters.paths)),
        learns_alone=learns_alone(first.run),
        stands_out=what_stands_out(results, errors, {sample.plan.target: sample.plan for sample in samples}),
        picture=picture,
        table=scrolling_html(report_html.table_html(samples_table(results, errors), "Each sample", has_download=True)),
        shares=scrolling_html(
            report_html.table_html(percents, "The share of each cell type in each sample", has_download=True)
        ),
        chapters=[page.part(run.notebook(stage), points, tags_of(run)) for stage in before],
        methods=methods(first.run, first.result, first.plan, first.training, facts["versions"]),
        parameters=page.by_name(
            page.parameters_in_words(run), ["parameter", "value"], "Every parameter as it was used"
        ),
        versions=page.by_name(facts["versions"], ["package", "version"], "Python and the packages that made this run"),
        point_data=points.content,
    )
    return page.write(html, run)


def _sample(one: Run, number: int, points: PointData, *, has_evidence: bool) -> Sample:
    """Return the section of one target; without its pictures unless it has them."""
    result, plan, training = load_finished(one), load_plan(one), load_training(one)
    types = type_table(result, plan, evaluate_target(result, plan.target))
    table = scrolling_html(report_html.table_html(types, f"Each cell type in {plan.target}", has_download=True))
    pictures = evidence = Markup("")
    if has_evidence:
        pictures = page.answer_of(one, result, plan, points)
        notebook, tags = one.notebook(page.EVIDENCE), tags_of(one)
        # What the pictures mean is said once, for the first sample.
        part = page.part(notebook, points, tags, in_appendix=False, has_prose=number == 1)
        evidence = Markup(part["html"])
    name = f"sample-{number}"
    return Sample(one, result, plan, training, summarise(result, plan, training), name, pictures, table, evidence)
