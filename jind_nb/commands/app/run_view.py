"""The web page's view of one run: stage, time and log while it is at work, then the report and the files."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import ipywidgets as widgets

from .widgets import LABELS, WIDE, button, confirmed_button, hide, message_box, minutes
from .workspace import RunOfVisitor, Workspace


class RunView:
    """The widgets of a run, in `box`.

    Parameters
    ----------
    start_task
        Starts a coroutine while the widgets stay usable.
    changed
        Called when the run's state has changed, or it was deleted.
    """

    def __init__(
        self,
        workspace: Workspace,
        *,
        served: bool,
        start_task: Callable[[Coroutine[Any, Any, None]], None],
        changed: Callable[[], None],
    ) -> None:
        self.workspace, self.served, self.start_task, self.changed = workspace, served, start_task, changed
        self.run: RunOfVisitor | None = None
        self.shown = ""  # the state on the page
        self.description, self.status, self.log, self.result = (widgets.HTML() for _ in range(4))
        self.progress = widgets.IntProgress(0, 0, 5, description="Progress", style=LABELS, layout=WIDE)
        self.cancel = button("Cancel", self._cancel, "Ends the run.")
        self.again = button("Run again", self._again, "Continues after the last finished stage.", "success")
        self.delete = confirmed_button("Delete this run", self._delete)
        buttons = widgets.HBox([self.cancel, self.again, self.delete])
        self.box = widgets.VBox([self.description, self.status, self.progress, self.log, buttons, self.result])

    def show(self, run: RunOfVisitor | None) -> None:
        """Show another run, or none."""
        self.run, self.shown = run, ""
        hide(self.box, hidden=run is None)
        self.result.value = self.log.value = ""
        if run is not None:
            self.description.value = self._description(run)
            self.refresh()

    def refresh(self) -> None:
        """Show the present state of the run."""
        run = self.run
        if run is None:
            return
        if not run.parameters_yaml.exists():  # deleted in another tab
            self.show(None)
            self.changed()
            return
        state = run.state()
        at_work = state in ("running", "waiting")
        if state == self.shown and not at_work:
            return
        stage, n, words = run.progress()
        self.progress.max, self.progress.value = n, max(0, stage - 1)
        self.status.value = {
            "waiting": lambda: message_box(
                "quiet", "About to start; while other runs are at work it waits for its turn."
            ),
            "running": lambda: message_box(
                "quiet",
                f"{f'Stage {stage} of {n}: {words}' if stage else 'Starting'} ({minutes(run.seconds())} so far)",
            ),
            "failed": lambda: message_box("bad", self.workspace.without_folder(run.why_failed())),
            "cancelled": lambda: message_box(
                "warn", "Cancelled. What finished stages made is kept; it can be run again."
            ),
            "done": lambda: message_box("good", run.summary()),
        }[state]()
        log = escape(self.workspace.without_folder(run.log()))
        self.log.value = log and f'<div class="log" role="log" aria-label="Log" tabindex="0"><pre>{log}</pre></div>'
        if state != self.shown:
            hide(self.progress, self.cancel, hidden=not at_work)
            hide(self.again, hidden=state not in ("failed", "cancelled"))
            hide(self.delete, hidden=at_work)
            self.result.value = self._results(run) if state == "done" else ""
            self.shown = state
            self.changed()

    def _description(self, run: RunOfVisitor) -> str:
        p = run.run.parameters
        words = (
            f"{Path(p.paths[0]).name}: annotates {p.TARGET_DATASET_NAME!r} of {p.BATCH_COL}, with the cell types of "
            f"{p.LABELS_COL}."
        )
        link = f"?session={self.workspace.visitor}&run={run.name}"
        keep = f'<p><a href="{link}">Link to this run</a>: keep it, and give it to nobody who should not see your files.</p>'
        return f"<h2>Run</h2><p>{escape(words)}</p>{keep if self.served else ''}"

    def _cancel(self) -> None:
        async def cancel(run: RunOfVisitor) -> None:
            self.cancel.disabled = True
            try:
                await asyncio.to_thread(run.cancel)
            finally:
                self.cancel.disabled = False

        if self.run is not None:
            self.start_task(cancel(self.run))

    def _again(self) -> None:
        if self.run is not None:
            self.run.start()
            self.refresh()

    def _delete(self) -> None:
        if self.run is not None:
            self.run.delete()
            self.refresh()

    def _results(self, of_visitor: RunOfVisitor) -> str:
        run = of_visitor.run
        if not self.served:
            report = escape(run.report_html.read_text("utf-8"), quote=True)
            return (
                f"<h2>Result</h2><p>The files are in {escape(str(run.folder))}</p>"
                f'<iframe title="Report" sandbox="allow-scripts" srcdoc="{report}"></iframe>'
            )
        here = f"results/{self.workspace.visitor}/{of_visitor.name}"
        offered = {
            "Report (HTML)": run.report_html,
            "Report (PDF)": run.report_pdf,
            "Predictions (Excel)": run.predictions_xlsx,
            "Annotated target (h5ad)": run.annotated_target,
            "Parameter file": run.parameters_yaml,
        }
        links = "".join(
            f'<a class="file" href="{here}/{quote(file.name)}?download=1" download>{words}</a>'
            for words, file in offered.items()
            if file.exists()
        )
        return (
            f'<h2>Result</h2><a class="file" href="{here}/report.html" target="_blank" rel="noopener">Report in a tab of its '
            f'own</a>{links}<iframe title="Report" sandbox="allow-scripts" src="{here}/report.html"></iframe>'
        )
