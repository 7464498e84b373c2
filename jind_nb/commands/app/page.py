"""The web page, as one notebook shows it: a new run, or one that was started before.

    from jind_nb.commands.app import page

    page.page()

Under `jind-nb app` each visitor's page has its own kernel, which reads no data itself: files are read and checked,
and runs are done, in processes of their own (`app.process`). In JupyterLab the same page chooses among the files under the
current folder, and results go to `runs/app` there.
"""

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import ipywidgets as widgets
from IPython.display import HTML, display

from .new_run import NewRunForm
from .run_view import RunView
from .widgets import dropdown, fill, hide, html, in_words, on_change
from .workspace import AppSettings, RunOfVisitor, Workspace

SECONDS_BETWEEN_REFRESHES = 1.0

NEW = ("New run", "")

STATES = {"waiting": "waiting for a free place", "running": "at work"}  # the others are called as they are


def page() -> None:
    """Show the page of the visitor whose link was opened."""
    settings, query = AppSettings.from_environment(), parse_qs(os.environ.get("QUERY_STRING", ""))
    if settings is None:
        here = Path.cwd()
        settings = AppSettings(here / "runs" / "app", (here,), served=False)
        _Page(Workspace.new(settings, "jupyterlab")).show()
        return
    found = Workspace.find(settings, query.get("session", [""])[-1])
    assert found is not None, "the server checked it before it started this kernel"
    _Page(found).show(query.get("run", [""])[-1])


class _Page:
    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.loop = asyncio.get_running_loop()
        self.tasks: list[Any] = []  # without it they could end unfinished, as garbage
        self.broken = widgets.HTML()
        self.which = dropdown("Run", [NEW])
        self.new_run = NewRunForm(workspace, start_task=self._start_task, started=self._open)
        self.run_view = RunView(start_task=self._start_task, changed=self._list_runs)
        foot = widgets.HTML(html.foot(workspace.settings))
        self.box = widgets.VBox([self.which, self.broken, self.new_run.box, self.run_view.box, foot])
        self.box.add_class("jind")
        on_change(lambda: self._open(workspace.run(self.which.value)), self.which)

    def show(self, run: str = "") -> None:
        """Display the page, and keep it up to date with the visitor's folder."""
        display(HTML(html.assets(self.workspace.settings)), self.box)
        self.new_run.refresh()
        at_work = next((one for one in self.workspace.all_runs() if one.process()), None)
        self._open(self.workspace.run(run) or at_work)
        self._start_task(self._keep_up_to_date())

    def _start_task(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a coroutine in the kernel's event loop; JupyterLab may call the widgets from another thread."""

        async def with_errors_shown() -> None:
            self.broken.value = ""  # what was wrong before
            try:
                await work
            except Exception as error:
                self.broken.value = html.box("bad", in_words(error))

        self.tasks.append(asyncio.run_coroutine_threadsafe(with_errors_shown(), self.loop))

    async def _keep_up_to_date(self) -> None:
        was_broken = False
        while True:
            try:
                (self.new_run if self.run_view.run is None else self.run_view).refresh()
                if was_broken:
                    self.broken.value, was_broken = "", False
            except Exception as error:  # of a disk, for instance; a page that no longer follows its run would be worse
                self.broken.value, was_broken = html.box("bad", in_words(error)), True
            await asyncio.sleep(SECONDS_BETWEEN_REFRESHES)

    def _open(self, run: RunOfVisitor | None) -> None:
        self.run_view.show(run)
        self._list_runs()

    def _list_runs(self) -> None:
        options = [NEW]
        for run in self.workspace.all_runs():
            state = run.state()
            options.append((f"{run.title()}: {STATES.get(state, state)}", run.name))
        shown = self.run_view.run
        fill(self.which, options, shown.name if shown else "")
        hide(self.new_run.box, hidden=shown is not None)
