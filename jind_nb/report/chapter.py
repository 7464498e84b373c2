"""Chapters of a report: an executed notebook's prose, tables and pictures as HTML, without its code."""

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping
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

FEW_ROWS = 14  # a table of so many rows is not split between two pages

WIDE = 1000, 1.15  # pixels, and times the height: a wider picture gets a landscape page

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


def chapter(notebook: Path, points: PointData | None = None, deeper: int = 0) -> str:
    """Return an executed notebook's prose, tables and pictures as HTML, without code, log lines and the parameters cell, and
    without sections that show nothing.

    Parameters
    ----------
    points
        Collects what pictures show about their points; without it they show nothing.
    deeper
        How many levels to move headings down.
    """
    to_html = markdown_to_html()
    sections: list[list[str]] = [[]]
    has_content = [True]
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "markdown":
            if cell.source.startswith("## "):
                sections.append([])
                has_content.append(False)
            deep = re.sub(r"^(#+ )", "#" * deeper + r"\1", cell.source, flags=re.MULTILINE)
            sections[-1].append(to_html(deep))
        elif cell.cell_type == "code" and NOTEBOOK_ONLY not in cell.metadata.get("tags", []):
            shown = [html for output in cell.outputs for html in [_output_html(output, points)] if html is not None]
            sections[-1] += shown
            has_content[-1] |= bool(shown)
    return "\n".join(html for section in compress(sections, has_content) for html in section)


def _output_html(output: Any, points: PointData | None) -> str | None:
    """Return a picture or table of a notebook as HTML; None for anything else, also a sentence in place of a picture."""
    if output.output_type not in ("display_data", "execute_result"):
        return None
    if "image/png" in output.data:
        about = dict(output.metadata.get("image/png", {}))
        for name in ("where", "what"):
            value = about.pop(name, None)
            if points is not None and value is not None:
                about[name] = points.add(value)
        picture = base64.b64decode(output.data["image/png"])
        return figure_html(picture if points is None else style.at_most(picture, points.most_bytes), about)
    html = output.data.get("text/html", "")
    return scrolling_html(html) if html and 'class="nothing"' not in html[:40] else None


def figure_html(png: bytes, about: Mapping[str, Any]) -> Markup:
    """Return a picture as HTML; a wide one can be scrolled on a screen and has its own page on paper.

    Parameters
    ----------
    about
        `alt`, `width` and `height` in pixels, [`where`, `what`: ids of `PointData`].
    """
    width, height = about.get("width", 0), about.get("height", 1)
    is_wide = width > WIDE[0] and width > WIDE[1] * height
    data, shown_width = base64.b64encode(png).decode(), round((LARGER if is_wide else 1) * width)
    template = templates().get_template("figure.html.j2")
    return Markup(template.render(about, data=data, is_wide=is_wide, shown_width=shown_width))


def scrolling_html(table: str) -> Markup:
    """Return a table that can be scrolled, also by keys, where it is wider than the page."""
    if not table.startswith("<table"):
        return Markup(table)
    caption = re.search(r"<caption>(.*?)</caption>", table)
    name = caption[1] if caption else "Table"
    together = " together" if table.count("<tr") <= FEW_ROWS else ""
    return Markup(f'<div class="scrolls{together}" tabindex="0" role="region" aria-label="{name}">{table}</div>')
