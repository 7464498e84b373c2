"""The web page, as one notebook shows it: a new run, or one that was started before.

    from jind_nb import app

    app.page()

Under `jind-nb app` each visitor's page has its own kernel, which reads no data itself: files are looked at and checked,
and runs are made, in processes of their own (`in_app`). In JupyterLab the same page chooses among the files under the
current folder, and results go to `runs/app` there.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import ipywidgets as widgets
from IPython.display import HTML, display

from .new_run import Choosing
from .run_view import Watching
from .widgets import dropdown, fill, hide, told
from .workspace import AppSettings, RunOfVisitor, Workspace

SECONDS_BETWEEN_LOOKS = 1.0

NEW = ("New run", "")

STATES = {
    "waiting": "waiting for a free place",
    "running": "at work",
    "done": "done",
    "cancelled": "cancelled",
    "failed": "failed",
}


def page() -> None:
    """Shows the page, as the visitor's link says."""
    settings, query = AppSettings.from_environment(), parse_qs(os.environ.get("QUERY_STRING", ""))
    if settings is None:
        here = Path.cwd()
        workspace = Workspace(AppSettings(str(here / "runs" / "app"), (str(here),)), "jupyterlab").made()
        _Page(workspace, served=False).show()
        return
    found = Workspace.find(settings, query.get("session", [""])[-1])
    assert found is not None, "the server looked before it started this kernel"
    _Page(found, served=True).show(query.get("run", [""])[-1])


class _Page:
    def __init__(self, workspace: Workspace, *, served: bool) -> None:
        self.workspace = workspace
        self.loop = asyncio.get_running_loop()
        self.tasks: set[Any] = set()
        self.filling = False
        self.broken = widgets.HTML()
        self.which = dropdown("Run", [NEW])
        self.choosing = Choosing(workspace, uploads=served, beside=self._beside, started=self._open)
        self.watching = Watching(workspace, served=served, beside=self._beside, changed=self._list_runs)
        self.box = widgets.VBox([self.which, self.broken, self.choosing.box, self.watching.box])
        self.box.add_class("jind")
        self.which.observe(lambda _: None if self.filling else self._open(workspace.run(self.which.value)), "value")

    def show(self, run: str = "") -> None:
        """Displays the page and follows what happens in the visitor's folder."""
        templates = files("jind_nb") / "templates"
        style, script = ((templates / name).read_text("utf-8") for name in ("app.css", "upload.js"))
        display(HTML(f"<style>{style}</style><script>{script}</script>"), self.box)
        self.choosing.look()
        at_work = next((one for one in self.workspace.all_runs() if one.at_work()), None)
        self._open(self.workspace.run(run) or at_work)
        self._beside(self._follow())

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Starts work beside the widgets' answers, which JupyterLab may have in another thread."""

        async def told_of() -> None:
            try:
                await work
            except Exception as error:
                self.broken.value = told("bad", f"{type(error).__name__}: {error}")

        task = asyncio.run_coroutine_threadsafe(told_of(), self.loop)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _follow(self) -> None:
        while True:
            (self.choosing if self.watching.run is None else self.watching).look()
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)

    def _open(self, run: RunOfVisitor | None) -> None:
        hide(self.choosing.box, hidden=run is not None)
        self.watching.open(run)
        self._list_runs()

    def _list_runs(self) -> None:
        shown = self.watching.run
        options = [NEW, *((self._in_a_line(run), run.name) for run in self.workspace.all_runs())]
        self.filling = True
        try:
            fill(self.which, options, shown.name if shown else "")
        finally:
            self.filling = False
        hide(self.choosing.box, hidden=shown is not None)

    @staticmethod
    def _in_a_line(run: RunOfVisitor) -> str:
        day, time = run.name[:8], run.name[9:15]
        when = f"{day[:4]}-{day[4:6]}-{day[6:]} {time[:2]}:{time[2:4]}"
        return f"{when}, {run.run.parameters.TARGET_DATASET_NAME}: {STATES[run.state()]}"
