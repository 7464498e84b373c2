"""Parts of the web page: labelled widgets, and HTML in which names of the data are escaped."""

from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import ipywidgets as widgets

from ...core.files import is_disk_full
from ...core.parameters import Parameters
from ...core.resources import templates
from ...errors import InputError

# The macros of the template: `html.box("bad", text)`; screen readers read out a bad box at once.
html: Any = templates().get_template("app.html.j2").module

StartTask = Callable[[Coroutine[Any, Any, None]], None]

BEING_FILLED: set[widgets.Widget] = set()

SEVERAL = "Several: hold Ctrl (on a Mac ⌘), or Shift."

# Descriptions of parameters whose own speak of the file of parameters.
OF_PAGE = {
    "TARGET_DATASET_NAME": f"{SEVERAL} If these batches have labels, the labels are only compared with the answers.",
    "SOURCE_DATASET_NAME": "The annotated batch that training starts from.",
    "EXCLUDE_DATASETS_NAMES": f"{SEVERAL} These batches take no part in anything.",
    "MARKERS": "Features to look at for each cell type.",
    "PARENTS": "A coarser level: a cell of ambiguous type is then given the parent, where that is confident.",
    "RENAME": "Labels to read as others; those of the batches to annotate too.",
    "LAYER": "Which values to use; `obsm:KEY` for an embedding of your own.",
    "TARGET_ERROR": "The highest share of wrong labels among the assigned cells of a batch that is new to the model.",
}


def in_words(error: Exception) -> str:
    """Return what a visitor is told of an error."""
    if isinstance(error, InputError):
        return str(error)
    if is_disk_full(error):
        return (
            "The server's disk is full. Delete files and runs that you no longer need, or tell who gave you the link."
        )
    if isinstance(error, OSError):
        return f"The server could not read or write a file ({error.strerror or error}). Tell who gave you the link."
    return f"{type(error).__name__}: {error}"


def hide(*these: widgets.Widget, hidden: bool = True) -> None:
    for widget in these:
        widget.layout.display = "none" if hidden else ""


def labelled(kind: type[widgets.Widget], text: str, **options: Any) -> Any:
    """Return a widget with a label to its left."""
    return kind(
        description=text,
        style={"description_width": "220px"},
        layout={"width": "720px", "max_width": "100%"},
        **options,
    )


def dropdown(text: str, options: list[tuple[str, str]], parameter: str = "") -> widgets.Dropdown:
    """Return a list to choose from, with a parameter's description as its tooltip."""
    tooltip = Parameters.model_fields[parameter].description if parameter else text
    return labelled(widgets.Dropdown, text, options=options, tooltip=tooltip)


def fill(choice: widgets.Dropdown, options: list[tuple[str, str]], value: str) -> None:
    """Set the options of a list, and choose `value`, or the first option if `value` is not among them."""
    BEING_FILLED.add(choice)
    try:
        choice.options = options
        choice.value = value if value in {name for _, name in options} else options[0][1]
    finally:
        BEING_FILLED.discard(choice)


def fill_several(choice: widgets.SelectMultiple, options: list[tuple[str, str]], values: Iterable[str]) -> None:
    """Set the options of a list of which several can be chosen, and choose those of `values` that are among them."""
    BEING_FILLED.add(choice)
    try:
        choice.options = options
        choice.value = [value for _, value in options if value in set(values)]
    finally:
        BEING_FILLED.discard(choice)


def on_change(work: Callable[[], None], *these: widgets.Widget) -> None:
    """Call a function whenever the visitor changes one of these widgets, but not when `fill` does."""
    for widget in these:
        widget.observe(lambda change: None if change.owner in BEING_FILLED else work(), "value")


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
    return widgets.HTML(html.heading(text))


def several(text: str, rows: int) -> widgets.SelectMultiple:
    """Return a list of which several can be chosen."""
    return labelled(widgets.SelectMultiple, text, rows=rows, tooltip=SEVERAL)


def description(parameter: str) -> widgets.HTML:
    """Return a parameter's description and name."""
    text = OF_PAGE.get(parameter) or Parameters.model_fields[parameter].description
    return widgets.HTML(html.parameter(parameter, text))
