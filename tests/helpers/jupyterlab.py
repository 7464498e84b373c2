"""A real JupyterLab in a headless Chromium, for tests: a server with settings of its own, and a page with one notebook."""

from __future__ import annotations

import ast
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from playwright.sync_api import Page, sync_playwright

from tests.conftest import CHROMIUM_ARGUMENTS

WIDTH, HEIGHT = 1280, 900
LONGEST = 16_000  # pixels that Chromium paints
# Of a machine busy with other tests.
SECONDS_TO_START, SECONDS_TO_RUN = 180, 600
NOTEBOOK = "window.jupyterapp.shell.currentWidget"


@dataclass
class Lab:
    """A running JupyterLab that shows `folder`."""

    url: str
    token: str
    folder: Path


@contextmanager
def server(folder: Path, home: Path) -> Iterator[Lab]:
    """JupyterLab as `jupyter lab` starts it, with nothing of the user's settings, and nothing of its own left in them."""
    settings = home / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    quiet = {"fetchNews": "false", "checkForUpdates": False}  # it would ask the network, and then the user
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    environment = os.environ | {
        "JUPYTER_CONFIG_DIR": str(home / "config"), "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"), "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"), "IPYTHONDIR": str(home / "ipython"),
    }  # fmt: skip
    with (home / "server.log").open("w") as log:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
                f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}", "--expose-app-in-browser",
                "--LanguageServerManager.autodetect=False",
            ],
            env=environment, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(f"{url}/api?token={token}", process, home / "server.log")
        yield Lab(url, token, folder)
    finally:
        process.terminate()  # which shuts its kernels down
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        process.kill()
        process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError):
            urllib.request.urlopen(url, timeout=5).close()
            return
        time.sleep(0.5)
    raise RuntimeError(f"JupyterLab did not start: {log.read_text()[-2000:]}")


@contextmanager
def browser(chromium: str) -> Iterator[Page]:
    """An empty page."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)
        page = started.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_default_timeout(SECONDS_TO_START * 1000)
        yield page
        started.close()


def wait_until(page: Page, condition: str, seconds: int = SECONDS_TO_START) -> None:
    """Waits until an expression is true, and asks twice a second: Playwright would ask at every frame, and draw it for that."""
    page.wait_for_function(condition, timeout=seconds * 1000, polling=500)


def open_notebook(page: Page, lab: Lab, name: str) -> None:
    """Opens a notebook and waits for its kernel: the first by its address, as from a bookmark, and later ones in the same window,
    where the one before is closed unsaved, and its kernel goes on."""
    if page.url.startswith(lab.url):
        page.evaluate(
            f"async path => {{ {NOTEBOOK}.dispose();"
            " await window.jupyterapp.commands.execute('docmanager:open', {path}); }",
            name,
        )
    else:
        page.goto(f"{lab.url}/lab/workspaces/auto-{secrets.token_hex(4)}/tree/{name}?token={lab.token}")
    wait_until(page, "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'")
    page.locator(".jp-Notebook .jp-Cell").first.wait_for()


def run_all(page: Page) -> None:
    """The menu's Run, Run All Cells; does not wait."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


def wait_until_done(page: Page, seconds: int = SECONDS_TO_RUN) -> None:
    """Waits until no cell is at work or waits for its turn."""
    wait_until(
        page,
        f"{NOTEBOOK}.content.widgets.every(cell => cell.model.type !== 'code' || cell.model.executionState === 'idle')"
        f" && {NOTEBOOK}.sessionContext.session.kernel.status === 'idle'",
        seconds,
    )


def outputs(page: Page) -> list[dict[str, Any]]:
    """Every output of the notebook as it is now, in order."""
    cells = page.evaluate(f"{NOTEBOOK}.content.model.toJSON().cells")
    return [output for cell in cells for output in cell.get("outputs", [])]


def errors(page: Page) -> list[str]:
    return [f"{o['ename']}: {o['evalue']}" for o in outputs(page) if o["output_type"] == "error"]


def said(page: Page) -> str:
    """All text that cells printed."""
    texts = [output.get("text", "") for output in outputs(page)]
    return "".join(text if isinstance(text, str) else "".join(text) for text in texts)


def picture(page: Page, file: Path, *, whole: bool = False) -> None:
    """A screenshot of the window, or of all of the notebook as if the window were that long."""
    if whole:
        height = page.evaluate(f"{NOTEBOOK}.content.node.querySelector('.jp-WindowedPanel-viewport').scrollHeight")
        page.set_viewport_size({"width": WIDTH, "height": min(int(height) + 200, LONGEST)})
        page.evaluate(f"{NOTEBOOK}.content.node.querySelector('.jp-WindowedPanel-outer').scrollTop = 0")
        page.wait_for_timeout(1000)
    page.screenshot(path=file)
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})


def with_parameters(template: Path, to: Path, values: dict[str, object]) -> None:
    """A copy of a template whose parameters cell gives other values, as a person edits it."""
    notebook = nbformat.read(template, as_version=4)
    (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    lines = cell.source.splitlines()
    for name, value in values.items():
        ((first, last),) = [
            (line.lineno - 1, line.end_lineno)
            for line in ast.parse("\n".join(lines)).body
            if ast.unparse(line).startswith(f"{name} = ")
        ]
        lines[first:last] = [f"{name} = {value!r}"]
    cell.source = "\n".join(lines)
    nbformat.write(notebook, to)


def set_parameter(page: Page, name: str, value: object) -> None:
    """Changes a line of the open notebook's parameters cell, as typing does."""
    page.evaluate(
        f"""([name, line]) => {{
            const cell = {NOTEBOOK}.content.widgets.find(cell => cell.model.getMetadata('tags')?.includes('parameters'));
            const lines = cell.model.sharedModel.getSource().split('\\n');
            cell.model.sharedModel.setSource(lines.map(old => old.startsWith(name + ' = ') ? line : old).join('\\n'));
        }}""",
        [name, f"{name} = {value!r}"],
    )


def stop(page: Page) -> None:
    """The toolbar's stop button."""
    page.locator("jp-button[title^='Interrupt the kernel'], button[title^='Interrupt the kernel']").first.click()


def close(page: Page) -> None:
    """Ends the open notebook's kernel."""
    page.evaluate(f"{NOTEBOOK}.sessionContext.shutdown()")
