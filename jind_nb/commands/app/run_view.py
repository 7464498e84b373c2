"""The web page's view of one run: stage, time and log while it is at work, then the report and the files to keep."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import ipywidgets as widgets

from .widgets import LABELS, WIDE, button, deleting, hide, minutes, told
from .workspace import RunOfVisitor, Workspace


class Watching:
    """The widgets of a run, in `box`.

    Parameters
    ----------
    beside
        Starts a coroutine beside the widgets.
    changed
        Called when the run's state has changed, or it was deleted.
    """

    def __init__(
        self,
        workspace: Workspace,
        *,
        served: bool,
        beside: Callable[[Coroutine[Any, Any, None]], None],
        changed: Callable[[], None],
    ) -> None:
        self.workspace, self.served, self.beside, self.changed = workspace, served, beside, changed
        self.run: RunOfVisitor | None = None
        self.shown = ""  # the state that is shown
        self.what, self.status, self.log, self.result = (widgets.HTML() for _ in range(4))
        self.progress = widgets.IntProgress(0, 0, 5, description="Progress", style=LABELS, layout=WIDE)
        self.cancel = button("Cancel", self._cancel, "Ends the run.")
        self.again = button("Run again", self._again, "Goes on after the last finished stage.", "success")
        self.delete = deleting("Delete this run", self._delete)
        buttons = widgets.HBox([self.cancel, self.again, self.delete])
        self.box = widgets.VBox([self.what, self.status, self.progress, self.log, buttons, self.result])

    def open(self, run: RunOfVisitor | None) -> None:
        """Shows another run, or none."""
        self.run, self.shown = run, ""
        hide(self.box, hidden=run is None)
        self.result.value = self.log.value = ""
        if run is not None:
            self.what.value = self._what(run)
            self.look()

    def look(self) -> None:
        """Shows how far the run is now."""
        run = self.run
        if run is None:
            return
        if not run.parameters_yaml.exists():  # deleted in another tab
            self.open(None)
            self.changed()
            return
        state = run.state()
        at_work = state in ("running", "waiting")
        if state == self.shown and not at_work:
            return
        stage, n, words = run.progress()
        self.progress.max, self.progress.value = n, max(0, stage - 1)
        self.status.value = {
            "waiting": lambda: told("quiet", "About to start; while other runs are at work it waits for its turn."),
            "running": lambda: told(
                "quiet",
                f"{f'Stage {stage} of {n}: {words}' if stage else 'Starting'} ({minutes(run.seconds())} so far)",
            ),
            "failed": lambda: told("bad", self.workspace.in_words(run.why_failed())),
            "cancelled": lambda: told("warn", "Cancelled. What finished stages made is kept; it can be run again."),
            "done": lambda: told("good", run.summary()),
        }[state]()
        log = escape(self.workspace.in_words(run.log()))
        self.log.value = log and f'<div class="log" role="log" aria-label="Log" tabindex="0"><pre>{log}</pre></div>'
        if state != self.shown:
            hide(self.progress, self.cancel, hidden=not at_work)
            hide(self.again, hidden=state not in ("failed", "cancelled"))
            hide(self.delete, hidden=at_work)
            self.result.value = self._results(run) if state == "done" else ""
            self.shown = state
            self.changed()

    def _what(self, run: RunOfVisitor) -> str:
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
            self.beside(cancel(self.run))

    def _again(self) -> None:
        if self.run is not None:
            self.run.start()
            self.look()

    def _delete(self) -> None:
        if self.run is not None:
            self.run.delete()
            self.look()

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
