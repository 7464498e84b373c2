"""The web page as its users meet it: a server of its own, plain HTTP, and a real browser from upload to download."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import anndata as ad
import psutil
import pytest
from tornado.websocket import websocket_connect

from tests.commands.test_workspace import processes_in, until
from tests.conftest import CHROMIUM_ARGUMENTS, ROOT
from tests.helpers.simulated import THREE_BATCHES, simulated

pytestmark = pytest.mark.slow

SCREENSHOTS = ROOT / "screenshots"
PATIENCE = 400_000  # milliseconds; machines that test are busy


@dataclass
class Served:
    """A server at work, and its folders."""

    port: int
    token: str
    root: Path
    data: Path
    process: subprocess.Popen[str]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def ask(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[int, Any, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def visitor(self) -> Visitor:
        """Comes with the token, as a browser does."""
        status, headers, _ = self.ask(f"/?token={self.token}")
        assert status == 302
        login = [value.partition(";")[0] for value in headers.get_all("Set-Cookie")]
        session = re.fullmatch(r"/\?session=(.{32})", headers["Location"])
        assert session, headers["Location"]
        return Visitor(
            self, session[1], "; ".join([*login, "_xsrf=2|aabbccdd|00112233445566778899aabbccddeeff|1700000000"])
        )


@dataclass
class Visitor:
    """Somebody with the token's cookie and a session."""

    server: Served
    session: str
    cookies: str

    @property
    def uploads(self) -> Path:
        return self.server.root / self.session / "uploads"

    def get(self, path: str) -> tuple[int, Any, bytes]:
        return self.server.ask(path, Cookie=self.cookies)

    def upload(self, name: str, body: bytes, session: str | None = None) -> tuple[int, Any, bytes]:
        xsrf = self.cookies.partition("_xsrf=")[2]
        path = f"/upload/{session or self.session}?name={quote(name)}"
        return self.server.ask(path, "POST", body, Cookie=self.cookies, X_XSRFToken=xsrf)


def start(folder: Path, *options: object) -> Served:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = folder / "data"
    data.mkdir(exist_ok=True)
    command = [
        sys.executable, "-m", "jind_nb.cli", "app", "--port", str(port), "--folder", str(folder / "root"),
        "--data", str(data), *map(str, options),
    ]  # fmt: skip
    with (folder / "stderr.txt").open("a") as stderr:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(rf"http://127\.0\.0\.1:{port}/\?token=(\S{{30,}})", line)
    assert found, line + (folder / "stderr.txt").read_text()
    return Served(port, found[1], folder / "root", data, process)


def stop(server: Served) -> None:
    server.process.send_signal(signal.SIGTERM)
    server.process.communicate(timeout=60)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("app")
    served = start(folder, "--max-upload-gb", "0.4")
    yield served
    stop(served)
    assert processes_in(served.root) == []
    assert "jind_nb/" not in (folder / "stderr.txt").read_text()  # in a traceback


# --- over HTTP -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cookie", ["", "username-127-0-0-1=abc", "jind-nb=1"])
def test_everything_demands_the_token(server: Served, cookie: str) -> None:
    """Lost otherwise: the machine, to whoever finds the port."""
    visitor, kernel = server.visitor(), "0" * 8 + "-0000-0000-0000-" + "0" * 12
    for path in (
        "/", f"/?session={visitor.session}", f"/results/{visitor.session}/20260101-000000-01234567/report.html", "/?token=wrong",
        f"/api/kernels/{kernel}",
    ):  # fmt: skip
        status, headers, body = server.ask(path, Cookie=cookie)
        assert (status, "login" in headers.get("Location", "")) in [(302, True), (403, False)], path
        assert visitor.session.encode() not in body
    for path in (f"/upload/{visitor.session}?name=x.h5ad", f"/voila/api/shutdown/{kernel}"):
        assert server.ask(path, "POST", b"x", Cookie=cookie)[0] == 403
    upgrade = {
        "Upgrade": "websocket", "Connection": "Upgrade", "Sec_WebSocket_Version": "13",
        "Sec_WebSocket_Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Cookie": cookie,
    }  # fmt: skip
    assert server.ask(f"/api/kernels/{kernel}/channels", **upgrade)[0] == 403
    assert list(visitor.uploads.iterdir()) == []


def test_the_login_page_takes_the_token_and_nothing_else(server: Served) -> None:
    """Lost otherwise: the way in for who has the token on paper; or the door."""
    xsrf = "2|aabbccdd|00112233445566778899aabbccddeeff|1700000000"
    for password, status in ((server.token, 302), (server.token[:-1], 401), ("", 401)):
        body = f"password={quote(password)}&_xsrf={quote(xsrf)}".encode()
        answer = server.ask(
            "/login", "POST", body, Cookie=f"_xsrf={xsrf}", Content_Type="application/x-www-form-urlencoded"
        )
        assert answer[0] == status


def test_visitors_get_sessions_of_their_own_and_come_back_to_them(server: Served) -> None:
    """Lost otherwise: one's files, to the next visitor; or one's own way back."""
    one, two = server.visitor(), server.visitor()
    assert one.session != two.session
    assert one.get(f"/?session={'x' * 32}")[0] == 404
    status, headers, page = one.get(f"/?session={one.session}")
    assert status == 200
    assert "token" not in page.decode()
    assert headers["Referrer-Policy"] == "same-origin"
    back = "; ".join([one.cookies, *(value.partition(";")[0] for value in headers.get_all("Set-Cookie"))])
    assert server.ask("/", Cookie=back)[1]["Location"] == f"/?session={one.session}"


def test_an_upload_needs_the_pages_own_header(server: Served) -> None:
    """Lost otherwise: a foreign page could upload in a visitor's name."""
    visitor = server.visitor()
    status, _, _ = server.ask(f"/upload/{visitor.session}?name=x.h5ad", "POST", b"x", Cookie=visitor.cookies)
    assert status == 403
    assert visitor.upload("x.h5ad", b"x", session="x" * 32)[0] == 404
    assert list(visitor.uploads.iterdir()) == []


def test_an_upload_over_the_limit_or_of_another_kind_leaves_nothing(server: Served) -> None:
    """Lost otherwise: the disk."""
    visitor = server.visitor()
    status, _, body = visitor.upload("cells.csv", b"x")
    assert (status, json.loads(body)["message"][:15]) == (413, "'cells.csv' is ")
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    connection.putrequest("POST", f"/upload/{visitor.session}?name=cells.h5ad")
    for name, value in {
        "Cookie": visitor.cookies, "X-XSRFToken": visitor.cookies.partition("_xsrf=")[2], "Content-Length": "500000000",
    }.items():  # fmt: skip
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    assert "500.0 MB; there is room for 400.0 MB" in json.loads(answer.read())["message"]
    connection.close()
    assert list(visitor.uploads.iterdir()) == []


def test_an_upload_that_breaks_off_leaves_nothing(server: Served) -> None:
    """Lost otherwise: the disk, and half a file to choose."""
    visitor = server.visitor()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        head = (
            f"POST /upload/{visitor.session}?name=cells.h5ad HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
            f"Cookie: {visitor.cookies}\r\nX-XSRFToken: {visitor.cookies.partition('_xsrf=')[2]}\r\n"
            "Content-Length: 1000000\r\n\r\n"
        )
        connection.sendall(head.encode() + bytes(300_000))
        until(lambda: any(file.stat().st_size > 100_000 for file in visitor.uploads.iterdir()))
    until(lambda: list(visitor.uploads.iterdir()) == [])


def test_300_mb_go_to_the_disk_and_not_into_memory(server: Served) -> None:
    """Lost otherwise: the server, to one large file."""
    visitor, size = server.visitor(), 300_000_000
    resident = psutil.Process(server.process.pid).memory_info
    before, most, done = resident().rss, 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.02):
            most = max(most, resident().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    piece = os.urandom(1_000_000)

    class Body:
        """A file of 300 pieces that nobody holds here either."""

        left = size // len(piece)

        def read(self, _: int = -1) -> bytes:
            self.left -= 1
            return piece if self.left >= 0 else b""

    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
    xsrf = visitor.cookies.partition("_xsrf=")[2]
    connection.request(
        "POST", f"/upload/{visitor.session}?name=large.h5ad", Body(),
        {"Cookie": visitor.cookies, "X-XSRFToken": xsrf, "Content-Length": str(size)},
    )  # fmt: skip
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())) == (200, {"name": "large.h5ad"})
    connection.close()
    done.set()
    watcher.join()
    assert (visitor.uploads / "large.h5ad").stat().st_size == size
    with (visitor.uploads / "large.h5ad").open("rb") as stored:
        stored.seek(299_000_000)
        assert stored.read() == piece
    assert most - before < 60_000_000
    (visitor.uploads / "large.h5ad").unlink()


def test_nothing_but_results_is_served(server: Served) -> None:
    """Lost otherwise: the token, other people's files, the machine's."""
    visitor = server.visitor()
    (visitor.uploads / "mine.h5ad").touch()
    run = server.root / visitor.session / "runs" / "20260101-000000-01234567"
    run.mkdir()
    for path in (
        f"/results/{visitor.session}/{run.name}/report.html", f"/results/{visitor.session}/{run.name}/said.txt",
        f"/results/{visitor.session}/{run.name}/..%2F..%2F..%2Fserver.json", f"/results/{visitor.session}/..%2F..%2F/server.json",
        "/results/..%2F/x/server.json", f"/results/{visitor.session}/uploads/mine.h5ad", "/voila/files/app.ipynb",
        "/voila/api/contents/", "/voila/tree", "/app.ipynb", "/api/kernels", "/api/contents/", "/voila/static/../../app.py",
        "/voila/templates/../static/../../../../server.json",
    ):  # fmt: skip
        status, _, body = visitor.get(path)
        assert status in (403, 404, 405), path
        assert server.token.encode() not in body


def test_a_page_runs_the_notebook_and_no_code_of_its_visitor(server: Served, tmp_path: Path) -> None:
    """Lost otherwise: the machine, to everybody with the token."""
    visitor = server.visitor()
    page = visitor.get(f"/?session={visitor.session}&template=../../etc&theme=dark")[2].decode()
    kernel = re.search(r'"kernelId": "([0-9a-f-]+)"', page)
    assert kernel

    async def ask(kind: str, **content: object) -> list[str]:
        from tornado.httpclient import HTTPRequest

        url = f"ws://127.0.0.1:{server.port}/api/kernels/{kernel[1]}/channels?session_id=test"
        socket = await websocket_connect(HTTPRequest(url, headers={"Cookie": visitor.cookies}))
        header = {"msg_id": kind, "msg_type": kind, "session": "test", "username": "", "date": "", "version": "5.3"}
        message = {"channel": "shell", "header": header, "parent_header": {}, "metadata": {}, "content": content}
        await socket.write_message(json.dumps(message))
        answers = []
        try:
            while True:
                answer = json.loads(str(await asyncio.wait_for(socket.read_message(), 8)))
                answers.append(answer["msg_type"])
        except TimeoutError:
            return answers
        finally:
            socket.close()
            while await socket.read_message() is not None:  # until the server has closed its end too
                pass

    assert "kernel_info_reply" in asyncio.run(ask("kernel_info_request"))
    code = f"open({str(tmp_path / 'executed')!r}, 'w')"
    assert "execute_reply" not in asyncio.run(ask("execute_request", code=code, silent=False))
    assert not (tmp_path / "executed").exists()


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)
        yield opened
        opened.close()


@dataclass
class Tab:
    """A browser's tab with the page in it, and what went wrong in it."""

    page: Any
    wrong: list[str]
    asked_for: list[str]

    def shot(self, name: str) -> None:
        SCREENSHOTS.mkdir(exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"app-{name}.png")
        wide = self.page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]")
        assert max(wide[:2]) <= wide[2], f"{name}: needs scrolling sideways"

    def wait_for(self, text: str) -> None:
        self.page.get_by_text(text).locator("visible=true").first.wait_for(timeout=PATIENCE)

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name, exact=True)

    def choose(self, label: str, option: str) -> None:
        self.page.get_by_label(label, exact=True).select_option(label=option)


@pytest.fixture
def opened(browser: Any, server: Served) -> Iterator[Callable[..., Tab]]:
    """Opens the page in a new browser profile, or a link in it."""
    contexts = []

    def open_page(link: str | None = None, context: Any = None) -> Tab:
        context = context or browser.new_context(viewport={"width": 1200, "height": 1800}, accept_downloads=True)
        contexts.append(context)
        page = context.new_page()
        tab = Tab(page, [], [])
        page.on("pageerror", lambda error: tab.wrong.append(str(error)))
        page.on("console", lambda said: tab.wrong.append(said.text) if said.type == "error" else None)
        page.on("request", lambda request: tab.asked_for.append(urlsplit(request.url).netloc))
        page.goto(link or f"{server.address}?token={server.token}", timeout=PATIENCE)
        page.get_by_label("Run", exact=True).wait_for(timeout=PATIENCE)
        return tab

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file whose batch c has no labels, with names that would do harm as HTML."""
    adata = simulated(THREE_BATCHES)
    adata.obs["celltype"] = adata.obs["celltype"].replace("B", "<img src=x onerror=alert(1)>B")
    adata.obs.loc[adata.obs["batch"] == "c", "celltype"] = "unknown"
    adata.obs["batch"] = adata.obs["batch"].replace("c", "<b>new</b>")
    file = tmp_path_factory.mktemp("cells") / "my cells.h5ad"
    adata.write_h5ad(file)
    return file


def fill(tab: Tab, file: Path) -> None:
    """Uploads a file and picks what there is to pick."""
    tab.page.set_input_files("input[type=file]", file)
    tab.page.get_by_label("Batches are in", exact=True).wait_for(timeout=PATIENCE)
    tab.button("More").click()
    tab.page.get_by_label("Fewest cells of a type").fill("5")
    tab.page.get_by_label("Fewest cells of a type").press("Tab")


def test_from_a_bad_file_to_the_annotated_one(
    opened: Callable[..., Tab], server: Served, cells: Path, tmp_path: Path
) -> None:
    """Lost otherwise: everything a colleague without a terminal came for."""
    tab = opened()
    page = tab.page
    tab.shot("1-start")
    session = page.url.partition("session=")[2]
    assert len(session) == 32
    assert "token" not in page.url

    (tmp_path / "notes.h5ad").write_text("not cells")
    page.set_input_files("input[type=file]", tmp_path / "notes.h5ad")
    tab.wait_for("PATH: notes.h5ad is not an h5ad (HDF5) file; write one with adata.write_h5ad().")
    tab.shot("2-bad-file")

    fill(tab, cells)
    chosen = page.get_by_label("Batches to annotate", exact=True)
    assert chosen.evaluate("list => list.selectedOptions[0].label") == "<b>new</b>"  # the one without labels
    tab.shot("3-picked")
    page.get_by_label("Batches to annotate", exact=True).select_option([])
    tab.button("Check").click()
    tab.wait_for("Please choose: Batches to annotate.")
    tab.choose("Batches to annotate", "<b>new</b>")
    page.get_by_label("Fewest cells of a type").fill("5000")
    page.get_by_label("Fewest cells of a type").press("Tab")
    tab.button("Check").click()
    tab.wait_for("MIN_CELL_TYPE_POPULATION 5000 leaves 0 cell types to learn")
    tab.shot("4-check-refused")
    page.get_by_label("Fewest cells of a type").fill("5")
    page.get_by_label("Fewest cells of a type").press("Tab")
    tab.button("Check").click()
    tab.wait_for("This can be run.")
    tab.wait_for("3 cell types can be predicted")
    tab.shot("5-checked")

    tab.button("Run").focus()
    page.keyboard.press("Enter")
    tab.wait_for("of 5:")
    link = page.get_by_role("link", name="Link to this run").get_attribute("href")
    tab.shot("6-at-work")
    context = page.context
    page.close()  # in the middle

    again = opened(f"{server.address}{link}", context)
    again.wait_for("learning from the annotated batches")
    again.shot("7-at-work-again")
    again.wait_for("Annotated target (h5ad)")
    again.wait_for("80 of 80 cells assigned")
    frame = again.page.frame_locator("iframe[title=Report]")
    frame.get_by_text("Cell types of").first.wait_for(timeout=PATIENCE)
    again.shot("8-done")

    results = next((server.root / session / "runs").iterdir()) / "results"
    for words, name in {
        "Report (HTML)": "report.html",
        "Predictions (Excel)": "predicted_label_test_data.xlsx",
        "Predictions (CSV)": "predictions.csv",
        "Annotated target (h5ad)": "annotated_target.h5ad",
        "Parameter file": "parameters.yaml",
    }.items():
        with again.page.expect_download(timeout=PATIENCE) as download:
            again.page.get_by_role("link", name=words).click()
        assert download.value.suggested_filename == name
        download.value.save_as(tmp_path / name)
        assert (tmp_path / name).read_bytes() == (results / name).read_bytes()
    assert "jind_prediction" in ad.read_h5ad(tmp_path / "annotated_target.h5ad").obs
    with again.page.expect_download(timeout=PATIENCE) as download:
        again.page.get_by_role("link", name="Everything (zip)").click()
    names = zipfile.ZipFile(download.value.path()).namelist()
    assert {"report.html", "predictions.csv", "trained_models/model.json"} <= set(names)
    phone = opened(f"{server.address}{link}", context)
    phone.page.set_viewport_size({"width": 390, "height": 800})
    phone.wait_for("Annotated target (h5ad)")
    phone.shot("9-phone")
    assert phone.page.locator("select:visible").first.bounding_box()["height"] >= 36  # a finger's breadth
    phone.page.close()

    stranger = server.visitor()
    for name in ("report.html", "annotated_target.h5ad"):
        assert stranger.get(f"/results/{stranger.session}/{results.parent.name}/{name}")[0] == 404
    status, headers, _ = stranger.get(f"/results/{session}/{results.parent.name}/report.html")
    assert status == 200  # who has been given the link
    assert headers["Content-Security-Policy"].startswith("sandbox")
    assert "allow-same-origin" not in headers["Content-Security-Policy"]

    again.button("Delete this run").click()
    again.button("Delete for good?").click()
    until(lambda: list((server.root / session / "runs").iterdir()) == [])
    assert tab.wrong == again.wrong == []
    assert {*tab.asked_for, *again.asked_for} - {""} <= {f"127.0.0.1:{server.port}"}


def test_two_visitors_see_nothing_of_each_other_and_cancel_ends_a_run(
    opened: Callable[..., Tab], server: Served, cells: Path
) -> None:
    """Lost otherwise: one's patients to a colleague; or the machine to a run nobody wants."""
    one, two = opened(), opened()
    assert one.page.url != two.page.url
    fill(one, cells)
    one.button("Check").click()
    one.wait_for("This can be run.")
    one.button("Run").click()
    one.wait_for("Stage")
    files = two.page.get_by_label("File", exact=True)
    assert "my cells" not in files.inner_text()
    assert "at work" not in two.page.get_by_label("Run", exact=True).inner_text()
    folder = server.root / one.page.url.partition("session=")[2]
    until(lambda: len(processes_in(folder / "runs")) >= 2, 400)
    one.button("Cancel").click()
    one.wait_for("Cancelled.")
    one.shot("9-cancelled")
    assert processes_in(folder / "runs") == []
    assert one.wrong == two.wrong == []


def test_files_on_the_server_are_chosen_by_path_and_no_others(
    opened: Callable[..., Tab], server: Served, cells: Path, tmp_path: Path
) -> None:
    """Lost otherwise: the large file that cannot be uploaded; or any file of the server's."""
    (server.data / "atlas").mkdir(exist_ok=True)
    (server.data / "atlas" / "large.h5ad").write_bytes(cells.read_bytes())
    (tmp_path / "secret.h5ad").write_bytes(cells.read_bytes())
    (server.data / "link.h5ad").symlink_to(tmp_path / "secret.h5ad")
    tab = opened()
    typed = tab.page.get_by_label("… or its whole path")
    for path in (
        tmp_path / "secret.h5ad",
        server.data / "link.h5ad",
        f"{server.data}/../root/server.json",
        "/etc/passwd",
    ):
        typed.fill(str(path))
        typed.press("Enter")
        tab.wait_for(f"'{path}' is no file of yours")
    tab.shot("10-path-refused")
    assert "link.h5ad" not in tab.page.get_by_label("File", exact=True).inner_text()
    typed.fill(str(server.data / "atlas" / "large.h5ad"))
    typed.press("Enter")
    tab.wait_for("300 cells, 60 features")
    assert tab.wrong == []


def test_a_run_outlives_its_server(tmp_path: Path, browser: Any) -> None:
    """Lost otherwise: hours of work to a restart, or the link to it."""
    # So many cells, and networks to train, that the run is still at work when the page is opened again.
    adata = simulated({name: {of: 12 * n for of, n in types.items()} for name, types in THREE_BATCHES.items()})
    adata.obs.loc[adata.obs["batch"] == "c", "celltype"] = "unknown"
    adata.write_h5ad(cells := tmp_path / "cells.h5ad")
    server = start(tmp_path)
    page = browser.new_page(viewport={"width": 1200, "height": 1400})
    tab = Tab(page, [], [])
    page.goto(f"{server.address}?token={server.token}", timeout=PATIENCE)
    tab.page.get_by_label("File", exact=True).wait_for(timeout=PATIENCE)
    fill(tab, cells)
    tab.choose("Method", "reference: as published")
    tab.button("Check").click()
    tab.wait_for("This can be run.")
    tab.button("Run").click()
    tab.wait_for("of 5:")
    link = page.get_by_role("link", name="Link to this run").get_attribute("href")
    runs = server.root / page.url.partition("session=")[2] / "runs"
    stop(server)
    page.close()
    assert len(processes_in(runs)) >= 1
    restarted = start(tmp_path)
    try:
        assert restarted.token == server.token
        page = browser.new_page()
        page.goto(f"{restarted.address}{link}&token={restarted.token}", timeout=PATIENCE)
        tab = Tab(page, [], [])
        tab.wait_for("of 5:")
        tab.button("Cancel").click()
        tab.wait_for("Cancelled.")
        assert processes_in(runs) == []
        page.close()
    finally:
        stop(restarted)


# --- elsewhere -------------------------------------------------------------------------------------------------------


def test_the_notebook_works_without_the_server(tmp_path: Path, cells: Path) -> None:
    """Lost otherwise: the same page in JupyterLab."""
    import nbformat
    from nbclient import NotebookClient

    (tmp_path / "here.h5ad").write_bytes(cells.read_bytes())
    notebook = nbformat.read(ROOT / "notebooks" / "app.ipynb", as_version=4)
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    assert "application/vnd.jupyter.widget-view+json" in json.dumps(notebook)
    options = [option for state in client.widget_state.values() for option in state.get("_options_labels", [])]
    assert str(tmp_path / "here.h5ad") in options
