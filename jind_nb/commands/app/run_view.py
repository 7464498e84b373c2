"""The web page's view of one run: stage, time and log while it is at work, then the report and the files."""

import asyncio
from collections.abc import Callable

import ipywidgets as widgets

from .widgets import StartTask, button, confirmed_button, hide, html, labelled
from .workspace import RunOfVisitor


class RunView:
    """The widgets of a run, in `box`.

    Parameters
    ----------
    start_task
        Starts a coroutine while the widgets stay usable.
    changed
        Called when the run's state has changed, or it was deleted.
    """

    def __init__(self, *, start_task: StartTask, changed: Callable[[], None]) -> None:
        self.changed = changed
        self.run: RunOfVisitor | None = None
        self.shown = ""  # the state on the page
        self.problem = ""  # why the run cannot be read
        self.description, self.status, self.log, self.result = (widgets.HTML() for _ in range(4))
        self.progress = labelled(widgets.IntProgress, "Progress")
        self.cancel = button("Cancel", lambda: start_task(self._do(RunOfVisitor.cancel)), "Ends the run.")
        continues = "Continues after the last finished stage."
        self.again = button("Run again", lambda: start_task(self._do(RunOfVisitor.start)), continues, "success")
        self.delete = confirmed_button("Delete this run", lambda: start_task(self._do(RunOfVisitor.delete)))
        buttons = widgets.HBox([self.cancel, self.again, self.delete])
        self.box = widgets.VBox([self.description, self.status, self.progress, self.result, buttons, self.log])

    def show(self, run: RunOfVisitor | None) -> None:
        """Show another run, or none."""
        self.run, self.shown = run, ""
        hide(self.box, hidden=run is None)
        self.result.value = self.log.value = ""
        if run is None:
            return
        self.problem = run.problem()
        hide(self.status, self.log, hidden=bool(self.problem))
        if self.problem:  # it can only be deleted
            self.description.value = html.box("bad", run.workspace.without_folder(self.problem))
            hide(self.progress, self.cancel, self.again)
            hide(self.delete, hidden=False)
            return
        self.description.value = html.description(run, run.run.parameters)
        self.refresh()

    def refresh(self) -> None:
        """Show the present state of the run."""
        run = self.run
        if run is None:
            return
        if not run.is_there():  # deleted, in another tab perhaps
            self.show(None)
            self.changed()
            return
        if self.problem:
            return
        state = run.state()
        at_work = state in ("running", "waiting")
        if state == self.shown and not at_work:
            return
        stage, self.progress.max, _ = run.progress()
        self.progress.value = max(0, stage - 1)
        self.status.value, self.log.value = html.status(run, state), html.log(run, at_work)
        if state != self.shown:
            hide(self.progress, self.cancel, hidden=not at_work)
            hide(self.again, hidden=state not in ("failed", "cancelled"))
            hide(self.delete, hidden=at_work)
            self.result.value = html.results(run) if state == "done" else ""
            self.shown = state
            self.changed()

    async def _do(self, work: Callable[[RunOfVisitor], None]) -> None:
        """Call a method of the run in a thread: to end processes takes seconds."""
        if self.run is not None:
            self.cancel.disabled = True
            try:
                await asyncio.to_thread(work, self.run)
            finally:
                self.cancel.disabled = False
            self.refresh()
