"""The web page's form for a new run: a file, its columns and batches, the check, and the start."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from ...core.coerce import AUTO
from ...core.parameters import Parameters
from ...core.text import listing
from ...errors import InputError
from ...report.html import rows_html
from . import widgets as ours
from .widgets import StartTask, hide, html
from .workspace import EXAMPLE, RunOfVisitor, Workspace, ask_process

NOTHING = ("– choose –", "")

EVERY = "every\nbatch without labels"  # with a line break, so that no batch has this name

AUTOMATIC = ("– chosen automatically –", "")

METHODS = [("default: what we recommend", "default"), ("reference: as published", "reference")]

TYPED = ("TARGET_ERROR", "MARKERS", "PARENTS", "RENAME", "LAYER", "CLUSTER_RESOLUTION")

NEEDED = ("BATCH_COL", "LABELS_COL", "TARGET_DATASET_NAME")


class NewRunForm:
    """The widgets of a new run, in `box`.

    Parameters
    ----------
    start_task
        Starts a coroutine while the widgets stay usable.
    started
        Called with a run that was started.
    """

    def __init__(self, workspace: Workspace, *, start_task: StartTask, started: Callable[[RunOfVisitor], None]) -> None:
        self.workspace, self.started = workspace, started
        self.content: dict[str, Any] = {}  # of the chosen file, as `process.describe_file` returns it
        self.path = ""
        self.uploaded: list[Path] | None = None  # as listed on the page
        self.upload = widgets.HTML(html.upload(workspace))
        self.file = ours.dropdown("File", [NOTHING])
        self.remove = ours.confirmed_button("Delete this upload", self._delete)
        where = f"a file in {listing(workspace.settings.data, quoted=False)}"
        self.typed = ours.labelled(widgets.Text, "… or its whole path", continuous_update=False, placeholder=where)
        self.problem, self.seen, self.batches, self.found = (widgets.HTML() for _ in range(4))
        self.fields = _fields()
        reads = "Reads the data and says what a run would do."
        self.check = ours.button("Check", lambda: start_task(self._check()), reads, "primary")
        self._arrange()
        self._clear_choice()
        ours.on_change(lambda: start_task(self._choose_file(self.file.value)), self.file)
        ours.on_change(lambda: start_task(self._choose_file(self.typed.value.strip())), self.typed)
        batch, labels, *others = self.fields.values()
        ours.on_change(self._columns_chosen, batch, labels)
        ours.on_change(self._targets_chosen, self.fields["TARGET_DATASET_NAME"])
        ours.on_change(self._discard_check, *others)

    def _arrange(self) -> None:
        """Put the widgets into boxes, in the order in which they are filled in."""
        hide(self.typed, hidden=not self.workspace.settings.data)
        file = widgets.HBox([self.file, self.remove])
        data = [ours.heading("1. Data"), self.upload, file, self.typed, self.problem]
        batch, labels, *others = self.fields
        columns = [self.seen, self.fields[batch], self.fields[labels], self.batches]
        described = [part for name in others for part in (self.fields[name], ours.description(name))]
        more = widgets.ToggleButton(description="More", tooltip="More options", layout={"width": "200px"})
        of_more = widgets.VBox(described[4:])
        hide(of_more)
        more.observe(lambda change: hide(of_more, hidden=not change.new), "value")
        check = [ours.heading("3. Check"), self.check, self.found]
        run = ours.button("Run", self._start, "Starts the run; it continues when this page is closed.", "success")
        self.starting = widgets.VBox([ours.heading("4. Run"), run])
        title = ours.heading("2. Batches and cell types")
        self.choices = widgets.VBox([title, *columns, *described[:4], more, of_more, *check, self.starting])
        self.box = widgets.VBox([*data, self.choices])

    # --- 1. data

    def refresh(self) -> None:
        """List the files, and choose one that was just uploaded."""
        uploaded, before = self.workspace.uploaded(), self.uploaded
        if uploaded == before:
            return
        self.uploaded = uploaded
        options = [
            NOTHING,
            *((f"{file.name} (uploaded)", str(file)) for file in uploaded),
            ("Example: 700 blood cells of 8 wells", EXAMPLE),
            *((str(file), str(file)) for file in self.workspace.server_files()),
        ]
        ours.fill(self.file, options, self.file.value)
        new = [file for file in uploaded if before is not None and file not in before]
        if new:
            self.file.value = str(new[0])

    def _is_upload(self) -> bool:
        return Path(self.file.value).parent == self.workspace.uploads

    def _clear_choice(self) -> None:
        self.path, self.content, self.problem.value, self.found.value = "", {}, "", ""
        hide(self.choices, self.starting)
        hide(self.remove, hidden=not self._is_upload())

    async def _choose_file(self, path: str) -> None:
        self._clear_choice()
        if not path:
            return
        with _errors_in(self.problem):
            self.path = resolved = self.workspace.resolve_path(path)
            self.problem.value = html.box("quiet", "Looking at the file …")
            content = await asyncio.to_thread(ask_process, self.workspace, "describe", resolved, self._still(resolved))
            if content is not None and self.path == resolved:  # otherwise another was chosen meanwhile
                self._show_content(content)

    def _show_content(self, content: dict[str, Any]) -> None:
        if "error" in content:
            raise InputError(content["error"])
        self.problem.value, self.content = "", content
        self.seen.value = f"<p>{content['cells']:,} cells, {content['features']:,} features.</p>"
        proposed = content["proposed"]
        options = [NOTHING, *((f"{name} ({len(values)} values)", name) for name, values in content["columns"].items())]
        for name in ("BATCH_COL", "LABELS_COL"):
            ours.fill(self.fields[name], options, proposed[name] or "")
        self.fields["MIN_CELL_TYPE_POPULATION"].value = str(proposed["MIN_CELL_TYPE_POPULATION"] or AUTO)
        self._columns_chosen()
        source = self.fields["SOURCE_DATASET_NAME"]
        ours.fill(source, list(source.options), source.value or str(proposed.get("SOURCE_DATASET_NAME") or ""))
        target = self.fields["TARGET_DATASET_NAME"]
        if not target.value:
            ours.fill_several(target, list(target.options), _as_list(proposed.get("TARGET_DATASET_NAME")))
        hide(self.choices, hidden=False)

    def _delete(self) -> None:
        if self.workspace.uses(self.path):
            words = "A run is at work with this file; cancel it first, or wait until it is done."
            self.problem.value = html.box("bad", words)
        elif self._is_upload():
            Path(self.file.value).unlink(missing_ok=True)
            self.refresh()
            self._clear_choice()
            self.upload.value = html.upload(self.workspace)

    # --- 2. batches and cell types

    def _columns_chosen(self) -> None:
        batch, labels = self.fields["BATCH_COL"].value, self.fields["LABELS_COL"].value
        names, types = (self.content["columns"].get(column, {}) for column in (batch, labels))
        of_batch = self.content["labelled"].get(batch)
        # Without an entry all cells have labels.
        labelled = {} if of_batch is None else of_batch.get(labels, names)
        self.batches.value = _label_tables(names, types, labelled)
        target, source = self.fields["TARGET_DATASET_NAME"], self.fields["SOURCE_DATASET_NAME"]
        without = [name for name in names if labels and not labelled.get(name)]
        options = [(name, name) for name in names]
        every = [(f"– every batch without labels ({len(without)}) –", EVERY)] if len(without) > 1 else []
        likeliest = [EVERY] if every else without
        kept = [name for name in target.value if name in names]
        ours.fill_several(target, [*every, *options], kept or likeliest)
        ours.fill(source, [AUTOMATIC, *options], source.value)
        self.fields["EXCLUDE_DATASETS_NAMES"].options = list(names)
        self._discard_check()

    def _targets_chosen(self) -> None:
        """Take back a proposed source that is to be annotated."""
        source = self.fields["SOURCE_DATASET_NAME"]
        if source.value in self.fields["TARGET_DATASET_NAME"].value:
            ours.fill(source, list(source.options), "")

    def _discard_check(self) -> None:
        """Remove the result of a check, which is not for the present choice."""
        self.found.value = ""
        hide(self.starting)

    def _values(self) -> dict[str, Any]:
        """Return the chosen parameters without OUTPUT_PATH.

        Raises
        ------
        InputError
            If a choice is missing.
        """
        missing = [self.fields[name].description for name in NEEDED if not self.fields[name].value]
        if missing:
            raise InputError(f"Please choose: {', '.join(missing)}.")
        chosen = {"PATH": self.path} | {name: field.value for name, field in self.fields.items()}
        chosen["EXCLUDE_DATASETS_NAMES"] = list(chosen["EXCLUDE_DATASETS_NAMES"])
        targets = list(chosen["TARGET_DATASET_NAME"])
        chosen["TARGET_DATASET_NAME"] = "" if EVERY in targets else targets[0] if len(targets) == 1 else targets
        chosen = {
            name: value.strip() if isinstance(value, str) and name in TYPED else value for name, value in chosen.items()
        }
        return {name: value for name, value in chosen.items() if value not in ("", [])}

    # --- 3. check

    async def _check(self) -> None:
        with _errors_in(self.found):
            values = self._values()
            self.found.value = html.box("quiet", "Reading the data; a large file takes minutes …")
            self.check.disabled = True
            try:
                what = values | {"OUTPUT_PATH": str(self.workspace.runs / "new")}
                found = await asyncio.to_thread(ask_process, self.workspace, "check", what, self._still(self.path))
            finally:
                self.check.disabled = False
            self._discard_check()
            if found is not None and self._values() == values:  # nothing was changed meanwhile
                self.found.value = html.findings(found)
                hide(self.starting, hidden="error" in found)

    def _still(self, path: str) -> Callable[[], bool]:
        """Return a function that tells whether a file is still the chosen one."""
        return lambda: self.path == path

    # --- 4. run

    def _start(self) -> None:
        with _errors_in(self.found):
            run = self.workspace.start_run(self._values())
            self._discard_check()
            self.started(run)


def _fields() -> dict[str, Any]:
    """Return a widget for each parameter that can be chosen, in the order of the page."""
    excluded, fewest, error = "Batches to leave out", "Fewest cells of a type", "Maximum error rate"
    share = "empty, or a share such as 0.05"
    of_text = {
        "MARKERS": ("Marker genes", "{T: [CD3D, CD3E], B: [MS4A1]}"),
        "PARENTS": ("Parent types", "{CD4 T: T, CD8 T: T}, or a column of obs"),
        "RENAME": ("Labels to rename", "{b cells: B, Bcell: B}"),
        "LAYER": ("Values in", "empty: X; or the name of a layer, .raw"),
        "CLUSTER_RESOLUTION": ("Clusters at resolution", "empty: none; 1 is usual"),
    }
    return {
        "BATCH_COL": ours.dropdown("Batches are in", [NOTHING], "BATCH_COL"),
        "LABELS_COL": ours.dropdown("Cell types are in", [NOTHING], "LABELS_COL"),
        "TARGET_DATASET_NAME": ours.several("Batches to annotate", rows=6),
        "SOURCE_DATASET_NAME": ours.dropdown("Start learning from", [AUTOMATIC], "SOURCE_DATASET_NAME"),
        "EXCLUDE_DATASETS_NAMES": ours.several(excluded, rows=5),
        "MIN_CELL_TYPE_POPULATION": ours.labelled(widgets.Text, fewest, value=AUTO, placeholder=AUTO),
        "TARGET_ERROR": ours.labelled(widgets.Text, error, placeholder=share),
        "METHOD": ours.dropdown("Method", METHODS, "METHOD"),
    } | {name: ours.labelled(widgets.Text, text, placeholder=example) for name, (text, example) in of_text.items()}


def _as_list(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)] if value else []


def _label_tables(names: dict[str, int], types: dict[str, int], labelled: dict[str, int]) -> str:
    """Return tables of batches and of cell types as HTML, a column that is not chosen without one."""
    is_unlabeled = Parameters.model_construct().is_unlabeled
    # Batches to annotate first: later ones are seen only by scrolling.
    order = sorted(names, key=lambda name: bool(labelled.get(name)))
    of_batches = [[name, names[name], labelled.get(name)] for name in order]
    of_types = [[f"{name} (counts as no label)" if is_unlabeled(name) else name, n] for name, n in types.items()]
    batches = rows_html(["batch", "cells", "with a label"], of_batches, "Batches") if names else ""
    return html.tables([batches, rows_html(["cell type", "cells"], of_types, "Cell types") if types else ""])


@contextmanager
def _errors_in(place: widgets.HTML) -> Iterator[None]:
    """Show wrong input, and what the disk cannot take or give, in a widget instead of raising it."""
    try:
        yield
    except (InputError, OSError) as error:
        place.value = html.box("bad", ours.in_words(error))
