"""The web page's form for a new run: a file, its columns and batches, the check, and the start."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from ...core.files import write_json
from ...core.parameters import Parameters, make_parameters
from ...errors import InputError
from ...report import html
from .process import MOST_VALUES
from .widgets import (
    LABELS,
    WIDE,
    button,
    confirmed_button,
    description,
    dropdown,
    fill,
    heading,
    hide,
    message_box,
    scrolling,
    show,
)
from .workspace import EXAMPLE, RunOfVisitor, Workspace

NOTHING = ("– choose –", "")

AUTOMATIC = ("– chosen automatically –", "")

FEWEST = Parameters.model_fields["MIN_CELL_TYPE_POPULATION"].default

METHODS = [("default: what we recommend", "default"), ("reference: as published", "reference")]


class NewRunForm:
    """The widgets of a new run, in `box`.

    Parameters
    ----------
    uploads
        Whether there is a server to upload to.
    start_task
        Starts a coroutine while the widgets stay usable.
    started
        Called with a run that was started.
    """

    def __init__(
        self,
        workspace: Workspace,
        *,
        uploads: bool,
        start_task: Callable[[Coroutine[Any, Any, None]], None],
        started: Callable[[RunOfVisitor], None],
    ) -> None:
        self.workspace, self.uploads, self.start_task, self.started = workspace, uploads, start_task, started
        self.content: dict[str, Any] = {}  # of the chosen file, as `process.describe_file` returns it
        self.path = ""
        self.ignores_events = False
        self.box = widgets.VBox([self._data(), self._columns(), self._options(), self._check_and_run()])
        self._clear_choice()
        self._on_change(lambda: self._choose_file(self.file.value), self.file)
        self._on_change(lambda: self._choose_file(self.typed.value.strip()), self.typed)
        self._on_change(self._columns_chosen, self.batch, self.labels)
        self._on_change(
            self._discard_check, self.target, self.source, self.excluded, self.fewest, self.error, self.method
        )

    # --- what is on the page

    def _data(self) -> widgets.VBox:
        self.upload = widgets.HTML(self._upload_area())
        self.file = dropdown("File", [NOTHING])
        self.remove = confirmed_button("Delete this upload", self._delete)
        self.typed = widgets.Text(
            description="… or its whole path", continuous_update=False, style=LABELS, layout=WIDE,
            placeholder=f"a file in {', '.join(self.workspace.settings.data)}",
        )  # fmt: skip
        self.problem = widgets.HTML()
        hide(self.upload, hidden=not self.uploads)
        hide(self.typed, hidden=not self.workspace.settings.data)
        return widgets.VBox(
            [heading("1. Data"), self.upload, widgets.HBox([self.file, self.remove]), self.typed, self.problem]
        )

    def _columns(self) -> widgets.VBox:
        self.seen, self.batches = widgets.HTML(), widgets.HTML()
        self.batch = dropdown("Batches are in", [NOTHING], "BATCH_COL")
        self.labels = dropdown("Cell types are in", [NOTHING], "LABELS_COL")
        self.target = dropdown("Batch to annotate", [NOTHING], "TARGET_DATASET_NAME")
        self.source = dropdown("Start learning from", [AUTOMATIC], "SOURCE_DATASET_NAME")
        self.columns = widgets.VBox(
            [
                heading("2. Batches and cell types"), self.seen, self.batch, self.labels, self.batches, self.target,
                description("TARGET_DATASET_NAME"), self.source, description("SOURCE_DATASET_NAME"),
            ]
        )  # fmt: skip
        return self.columns

    def _options(self) -> widgets.VBox:
        self.excluded = widgets.SelectMultiple(
            description="Batches to leave out",
            rows=5,
            style=LABELS,
            layout=WIDE,
            tooltip="Several: hold Ctrl, or Shift.",
        )
        self.fewest = widgets.BoundedIntText(
            description="Fewest cells of a type", min=1, max=10**6, style=LABELS, layout=WIDE,
            value=FEWEST,
        )  # fmt: skip
        self.error = widgets.Text(
            description="Wrong labels to stay below", placeholder="empty, or a share such as 0.05", style=LABELS, layout=WIDE,
        )  # fmt: skip
        self.method = dropdown("Method", METHODS, "METHOD")
        more = widgets.ToggleButton(description="More options", layout={"width": "200px"})
        of_more = widgets.VBox(
            [
                self.excluded, description("EXCLUDE_DATASETS_NAMES"), self.fewest, description("MIN_CELL_TYPE_POPULATION"),
                self.error, description("TARGET_ERROR"), self.method, description("METHOD"),
            ]
        )  # fmt: skip
        hide(of_more)
        more.observe(lambda change: hide(of_more, hidden=not change.new), "value")
        self.options = widgets.VBox([more, of_more])
        return self.options

    def _check_and_run(self) -> widgets.VBox:
        self.check = button("Check", self._check, "Reads the data and says what a run would do.", "primary")
        self.found = widgets.HTML()
        self.checking = widgets.VBox([heading("3. Check"), self.check, self.found])
        run = button("Run", self._start, "Starts the run; it continues when this page is closed.", "success")
        self.starting = widgets.VBox([heading("4. Run"), run])
        return widgets.VBox([self.checking, self.starting])

    def _upload_area(self) -> str:
        room = self.workspace.room() if self.uploads else 0
        if not room:
            return '<p class="quiet">Nothing can be uploaded here: choose a file that is on the server.</p>'
        return (
            f'<div class="drop" data-url="upload/{self.workspace.visitor}" data-room="{room}">'
            '<label>Upload an .h5ad file, or drop it here: <input type="file" accept=".h5ad"></label>'
            '<progress max="1" hidden aria-label="Upload"></progress><button type="button" hidden>Stop</button>'
            f'<div role="status"></div><p class="quiet">Up to {room / 1e9:.3g} GB. Only who has your link sees it. A larger '
            "file: ask for it to be put on the server.</p></div>"
        )

    def _on_change(self, work: Callable[[], None], *these: widgets.Widget) -> None:
        for widget in these:
            widget.observe(lambda _: None if self.ignores_events else work(), "value")

    @contextmanager
    def _without_events(self) -> Iterator[None]:
        """Ignore changes of widgets in the `with` block: the program made them, not the visitor."""
        self.ignores_events = True
        try:
            yield
        finally:
            self.ignores_events = False

    # --- 1. data

    def refresh(self) -> None:
        """List the files, and choose one that was just uploaded."""
        before = {value for _, value in self.file.options}
        uploaded = self.workspace.uploaded()
        if EXAMPLE in before and {str(file) for file in uploaded} == set(filter(self._is_upload, before)):
            return
        options = [NOTHING, *((f"{file.name} (uploaded)", str(file)) for file in uploaded)]
        options.append(("Example: 700 blood cells of 8 wells", EXAMPLE))
        options += [(str(file), str(file)) for file in self.workspace.server_files()]
        with self._without_events():
            fill(self.file, options, self.file.value)
        new = [str(file) for file in uploaded if str(file) not in before]
        if new and EXAMPLE in before:
            self.file.value = new[0]

    def _is_upload(self, path: str) -> bool:
        return Path(path).parent == self.workspace.uploads

    def _clear_choice(self) -> None:
        self.path, self.content, self.problem.value, self.found.value = "", {}, "", ""
        hide(self.columns, self.options, self.checking, self.starting)
        hide(self.remove, hidden=not self._is_upload(self.file.value))

    def _choose_file(self, path: str) -> None:
        self._clear_choice()
        if not path:
            return
        try:
            self.path = self.workspace.resolve_path(path)
        except InputError as error:
            self.problem.value = message_box("bad", str(error))
            return
        self.problem.value = message_box("quiet", "Looking at the file …")
        self.start_task(self._read_file(self.path))

    async def _read_file(self, path: str) -> None:
        content = await self._ask_process("describe", path)
        if path != self.path:  # another was chosen meanwhile
            return
        columns = content.get("columns", {})
        if "error" not in content and len(columns) < 2:
            content["error"] = (
                f"obs needs a column with the batch of each cell and one with cell types; of columns with at most {MOST_VALUES} "
                f"different values it has {', '.join(columns) or 'none'}."
            )
        if "error" in content:
            self.problem.value = message_box("bad", self.workspace.without_folder(content["error"]))
            return
        self.problem.value, self.content = "", content
        self.seen.value = f"<p>{content['cells']:,} cells, {content['features']:,} features.</p>"
        proposed = content["proposed"]
        options = [NOTHING, *((f"{name} ({len(values)} values)", name) for name, values in columns.items())]
        with self._without_events():
            fill(self.batch, options, proposed["BATCH_COL"] or "")
            fill(self.labels, options, proposed["LABELS_COL"] or "")
            self.fewest.value = proposed["MIN_CELL_TYPE_POPULATION"] or FEWEST
        self._columns_chosen()
        show(self.columns, self.options, self.checking)

    def _delete(self) -> None:
        at_work = [run for run in self.workspace.all_runs() if run.at_work()]
        if any(self.path in run.run.parameters.paths for run in at_work):
            words = "A run is at work with this file; cancel it first, or wait until it is done."
            self.problem.value = message_box("bad", words)
        elif self._is_upload(self.file.value):
            Path(self.file.value).unlink(missing_ok=True)
            self.refresh()
            self._clear_choice()
            self.upload.value = self._upload_area()

    # --- 2. batches and cell types

    def _columns_chosen(self) -> None:
        batch, labels = self.batch.value, self.labels.value
        names = self.content["columns"].get(batch, {})
        types = self.content["columns"].get(labels, {})
        labelled = self.content["labelled"].get(batch, {}).get(labels, {})
        self.batches.value = self._label_tables(names, types, labelled)
        without = [name for name in names if labels and not labelled.get(name)]
        options = [(name, name) for name in names]
        with self._without_events():
            fill(self.target, [NOTHING, *options], self.target.value or next(iter(without), ""))
            fill(self.source, [AUTOMATIC, *options], self.source.value)
            self.excluded.options = list(names)
        self._discard_check()

    @staticmethod
    def _label_tables(names: dict[str, int], types: dict[str, int], labelled: dict[str, int]) -> str:
        parameters = Parameters.model_construct()
        # Batches to annotate first: later ones are seen only by scrolling.
        order = sorted(names, key=lambda name: bool(labelled.get(name)))
        of_batches = [[name, names[name], labelled.get(name)] for name in order]
        parents_of = [
            [f"{name} (counts as no label)" if parameters.is_unlabeled(name) else name, n] for name, n in types.items()
        ]
        found = [
            html.rows_html(["batch", "cells", "with a label"], of_batches, "Batches") if of_batches else "",
            html.rows_html(["cell type", "cells"], parents_of, "Cell types") if parents_of else "",
        ]
        return f'<div class="beside">{"".join(map(scrolling, found))}</div>'

    def _discard_check(self) -> None:
        """Remove the result of a check, which is not for the present choice."""
        self.found.value = ""
        hide(self.starting)

    def _values(self) -> dict[str, Any]:
        """Return the chosen parameters without OUTPUT_PATH.

        Raises
        ------
        InputError
            If a choice is missing or wrong.
        """
        chosen = {
            "PATH": self.path,
            "BATCH_COL": self.batch.value,
            "LABELS_COL": self.labels.value,
            "TARGET_DATASET_NAME": self.target.value,
            "SOURCE_DATASET_NAME": self.source.value,
            "EXCLUDE_DATASETS_NAMES": list(self.excluded.value),
            "MIN_CELL_TYPE_POPULATION": self.fewest.value,
            "TARGET_ERROR": self.error.value.strip(),
            "METHOD": self.method.value,
        }
        needed = {"BATCH_COL": self.batch, "LABELS_COL": self.labels, "TARGET_DATASET_NAME": self.target}
        missing = [widget.description for name, widget in needed.items() if not chosen[name]]
        if missing:
            raise InputError(f"Please choose: {', '.join(missing)}.")
        values = {name: value for name, value in chosen.items() if value not in ("", [])}
        make_parameters(values | {"OUTPUT_PATH": str(self.workspace.runs / "new")})
        return values

    # --- 3. check

    def _check(self) -> None:
        try:
            values = self._values()
        except InputError as error:
            self.found.value = message_box("bad", str(error))
            return
        self.check.disabled = True
        self.found.value = message_box("quiet", "Reading the data; a large file takes minutes …")
        self.start_task(self._check_in_process(values))

    async def _check_in_process(self, values: dict[str, Any]) -> None:
        file = self.workspace.folder / f"check-{secrets.token_hex(4)}.yaml"
        write_json(file, values | {"OUTPUT_PATH": str(self.workspace.runs / "new")})  # JSON is YAML
        try:
            found = await self._ask_process("check", str(file))
        finally:
            file.unlink()
            self.check.disabled = False
        with suppress(InputError):
            if self._values() == values:  # nothing was changed meanwhile
                self._show_findings(found)
                return
        self._discard_check()

    def _show_findings(self, found: dict[str, Any]) -> None:
        if "error" in found:
            self.found.value = message_box("bad", self.workspace.without_folder(found["error"]))
            return
        self.found.value = "".join(
            [
                message_box("good", "This can be run."),
                *(message_box("warn", text) for text in found["warnings"]),
                *(f"<p>{escape(text)}</p>" for text in found["facts"]),
                *(f'<p class="quiet">Note: {escape(text)}</p>' for text in found["notes"]),
                *map(scrolling, found["tables"]),
            ]
        )
        show(self.starting)

    async def _ask_process(self, *arguments: str) -> dict[str, Any]:
        """Return the answer of a process of `app.process`."""
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "jind_nb.commands.app.process", *arguments],
            cwd=self.workspace.folder,
            capture_output=True,
            check=False,
            start_new_session=True,
        )
        with suppress(ValueError):
            return dict(json.loads(done.stdout))
        return {"error": f"Reading it failed. {done.stderr.decode(errors='replace')[-1000:]}"}

    # --- 4. run

    def _start(self) -> None:
        try:
            run = self.workspace.start_run(self._values())
        except InputError as error:
            self.found.value = message_box("bad", str(error))
            return
        self._discard_check()
        self.started(run)
