"""Chapters of a report: an executed notebook's prose, tables and pictures as HTML, without its code."""

import base64
import hashlib
import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import Any

import nbformat
from markupsafe import Markup

from ..core._compat import markdown_to_html
from ..core.resources import templates
from .plots import style

NOTEBOOK_ONLY = "notebook-only"  # tag of cells that repeat what the report's own pages say

APPENDIX = "appendix"  # tag of the headings of sections that belong to the technical appendix

# Tags of cells that describe only some runs: those of this METHOD, or of so many annotated batches.
METHOD_TAGS = frozenset({"method-default", "method-reference"})
ONE_BATCH, SEVERAL_BATCHES = "one-batch", "several-batches"
KINDS_OF_TAGS = METHOD_TAGS, frozenset({ONE_BATCH, SEVERAL_BATCHES})

FEW_ROWS = 14  # a table of so many rows is not split between two pages

WIDE = 1000, 1.15  # pixels, and times the height: a wider picture gets a landscape page

PIXELS_OF_HALF = round(style.PIXELS * style.HALF) + 10  # of a picture that has another one beside it

TALL = 600  # pixels: such a picture may stand on the page after its text

LARGER = 1.3  # such a picture on a screen, which can be scrolled


@dataclass
class PointData:
    """The report's data about the points in its pictures, as JSON by the id of the element that holds it; and how many bytes
    a picture may have."""

    content: dict[str, Markup] = field(default_factory=dict)
    most_bytes: float = math.inf

    def add(self, value: Any) -> str:
        """Add a value, unless it is there, and return its id."""
        # In a page `<` could begin a tag; escaped it is the same JSON.
        content = json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
        name = f"points-{hashlib.sha256(content.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"
        self.content[name] = Markup(content)
        return name


def chapter(
    notebook: Path,
    points: PointData | None = None,
    deeper: int = 0,
    *,
    in_appendix: bool | None = None,
    of_run: Collection[str] | None = None,
    has_prose: bool = True,
) -> str:
    """Return an executed notebook's prose, tables and pictures as HTML, without code, log lines and the parameters cell, and
    without sections that show nothing.

    Parameters
    ----------
    points
        Collects what pictures show about their points; without it they show nothing.
    deeper
        How many levels to move headings down.
    in_appendix
        Only the sections (`##`) with or without the tag `appendix`; None: all.
    of_run
        The tags of KINDS_OF_TAGS that describe the run; cells (and sections, by their heading) that have another tag of the same kind are left
        out.
    has_prose
        Whether paragraphs are wanted, or only headings, pictures and tables.
    """
    to_html = markdown_to_html()
    sections: list[list[str]] = [[]]
    has_content = [not in_appendix]
    is_wanted = not in_appendix
    for cell in nbformat.read(notebook, as_version=4).cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            sections.append([])
            has_content.append(False)
            is_wanted = in_appendix is None or in_appendix == (APPENDIX in tags)
            is_wanted &= not _is_of_another(of_run, tags)
        if not is_wanted or NOTEBOOK_ONLY in tags or _is_of_another(of_run, tags):
            continue
        if cell.cell_type == "markdown":
            prose = cell.source if has_prose else "\n\n".join(re.findall(r"^#+ .*", cell.source, flags=re.MULTILINE))
            deep = re.sub(r"^(#+ )", "#" * deeper + r"\1", prose, flags=re.MULTILINE)
            sections[-1].append(to_html(deep))
        elif cell.cell_type == "code":
            shown = [html for output in cell.outputs for html in [_output_html(output, points)] if html is not None]
            sections[-1] += shown
            has_content[-1] |= bool(shown)
    return _in_pairs("\n".join(html for section in compress(sections, has_content) for html in section))


def _is_of_another(of_run: Collection[str] | None, tags: Collection[str]) -> bool:
    """Return whether a cell's tags are for other runs than those that `of_run` describes."""
    named = [kind & set(tags) for kind in KINDS_OF_TAGS]
    return of_run is not None and any(of_kind and of_kind.isdisjoint(of_run) for of_kind in named)


def _in_pairs(html: str) -> str:
    """Put small pictures that follow each other into a box, where they stand side by side."""
    return re.sub(
        r"(?:<figure class=\"half\".*?</figure>\s*)+",
        lambda found: f'<div class="pair">{found[0]}</div>',
        html,
        flags=re.DOTALL,
    )


def _output_html(output: Any, points: PointData | None) -> str | None:
    """Return a picture or table of a notebook as HTML; None for anything else, also a sentence in place of a picture."""
    if output.output_type not in ("display_data", "execute_result"):
        return None
    if "image/png" in output.data:
        about = dict(output.metadata.get("image/png", {}))
        return figure_html(base64.b64decode(output.data["image/png"]), about, points)
    html = output.data.get("text/html", "")
    return scrolling_html(html) if html and 'class="nothing"' not in html[:40] else None


def figure_html(
    png: bytes, about: Mapping[str, Any], points: PointData | None = None, *, has_names: bool = False
) -> Markup:
    """Return a picture as HTML; a wide one can be scrolled on a screen and has its own page on paper, two small ones stand
    side by side.

    Parameters
    ----------
    about
        As `style.described` returns it.
    points
        Collects `where`, `what` and `legend`; without it they are left out.
    has_names
        Whether a picture beside it has names to click.
    """
    data_of = {name: about[name] for name in ("where", "what", "legend") if name in about}
    about = {name: value for name, value in about.items() if name not in data_of}
    if points is not None:
        about |= {name: points.add(value) for name, value in data_of.items()}
        png = style.at_most(png, points.most_bytes)
    width, height = about.get("width", 0), about.get("height", 1)
    is_wide = width > WIDE[0] and width > WIDE[1] * height
    kind = "half" if 0 < width <= PIXELS_OF_HALF else "tall" if height >= TALL else ""
    data, shown_width = base64.b64encode(png).decode(), round((LARGER if is_wide else 1) * width)
    template = templates().get_template("figure.html.j2")
    has_names |= "legend" in about
    return Markup(
        template.render(about, data=data, is_wide=is_wide, kind=kind, shown_width=shown_width, has_names=has_names)
    )


def scrolling_html(table: str) -> Markup:
    """Return a table that can be scrolled, also by keys, where it is wider than the page."""
    if not table.startswith("<table"):
        return Markup(table)
    caption = re.search(r"<caption>(.*?)</caption>", table)
    name = caption[1] if caption else "Table"
    is_short, is_narrow = table.count("<tr") <= FEW_ROWS, table.count('<th scope="col"') <= 2
    kind = " together" if is_short else " narrow" if is_narrow else ""
    table, end, rest = table.partition("</table>")
    box = f'<div class="scrolls{kind}" tabindex="0" role="region" aria-label="{name}">{table}{end}</div>'
    if kind == " narrow":
        box = f'<div class="together">{box}</div>'  # two columns are one box; WeasyPrint would break both
    return Markup(f"{box}{rest}")
