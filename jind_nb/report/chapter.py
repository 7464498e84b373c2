"""TODO."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import nbformat
from markupsafe import Markup

from ..core._compat import markdown_to_html
from .plots import style

NOTEBOOK_ONLY = "notebook-only"  # tag of cells that repeat what the report's own pages say

FEW_ROWS = 14  # of a table that stays on one sheet of paper

WIDE = 1000, 1.15  # pixels, and of the height: from there on a picture gets a sheet of paper laid on its side

LARGER = 1.3  # on a screen, which can be scrolled


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
    to_html = markdown_to_html()
    sections: list[list[str]] = [[]]
    worth = [True]
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "markdown":
            if cell.source.startswith("## "):
                sections.append([])
                worth.append(False)
            deep = re.sub(r"^(#+ )", "#" * deeper + r"\1", cell.source, flags=re.MULTILINE)
            sections[-1].append(to_html(deep))
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
        return _figure(picture if told is None else style.at_most(picture, told.most_bytes), about)
    html = output.data.get("text/html", "")
    return _scrolling(html) if html and 'class="nothing"' not in html[:40] else None


def _about(figure: Any, words: str) -> dict[str, Any]:
    width, height = style.pixels(figure)
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
