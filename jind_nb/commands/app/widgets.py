"""Parts of the web page: labelled widgets and boxes of text. Names in the data are escaped."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape
from typing import Literal

import ipywidgets as widgets

from ...core.parameters import Parameters

LABELS = {"description_width": "220px"}

WIDE = {"width": "720px"}


def scrolling(table: str) -> str:
    """Return a table (HTML) that scrolls within the page."""
    return f'<div class="scrolled">{table}</div>'


def minutes(seconds: float) -> str:
    """Return a duration in words.

    >>> minutes(83.4)
    '1 min 23 s'
    """
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"


def message_box(kind: Literal["quiet", "good", "warn", "bad"], text: str) -> str:
    """Return a box of text as HTML; screen readers read out a bad one at once."""
    role = ' role="alert"' if kind == "bad" else ""
    return f'<div class="{kind}"{role}>{escape(text)}</div>'


def hide(*these: widgets.Widget, hidden: bool = True) -> None:
    for widget in these:
        widget.layout.display = "none" if hidden else ""


def show(*these: widgets.Widget) -> None:
    hide(*these, hidden=False)


def dropdown(text: str, options: list[tuple[str, str]], parameter: str = "") -> widgets.Dropdown:
    """Return a list to choose from, with a parameter's description as its tooltip."""
    tooltip = Parameters.model_fields[parameter].description if parameter else text
    return widgets.Dropdown(description=text, options=options, style=LABELS, layout=WIDE, tooltip=tooltip)


def fill(choice: widgets.Dropdown, options: list[tuple[str, str]], value: str) -> None:
    """Set the options of a list, and choose `value`, or the first option if `value` is not among them."""
    choice.options = options
    choice.value = value if value in {name for _, name in options} else options[0][1]


def button(text: str, work: Callable[[], None], tooltip: str, style: str = "") -> widgets.Button:
    made = widgets.Button(description=text, tooltip=tooltip, button_style=style, layout={"width": "200px"})
    made.on_click(lambda _: work())
    return made


def confirmed_button(text: str, work: Callable[[], None]) -> widgets.Button:
    """Return a button that does its work at the second click."""

    def clicked() -> None:
        sure = made.description != text
        made.description = text if sure else "Delete for good?"
        if sure:
            work()

    made = button(text, clicked, "For good; a second click confirms.")
    return made


def heading(text: str) -> widgets.HTML:
    return widgets.HTML(f"<h2>{escape(text)}</h2>")


def description(parameter: str) -> widgets.HTML:
    """Return a parameter's description and name."""
    text = re.sub(r"`(.+?)`", r"<code>\1</code>", escape(str(Parameters.model_fields[parameter].description)))
    return widgets.HTML(f'<div class="described">{text} <code>{parameter}</code></div>')
