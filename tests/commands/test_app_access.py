"""Who gets into the web page: names in the address, proxies, cookies, the way out. Two servers of their own, plain HTTP."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from jind_nb.commands.app.server import _local_names
from jind_nb.commands.app.workspace import EXAMPLE
from jind_nb.errors import InputError
from tests.commands.test_app import Served, start, stop

pytestmark = pytest.mark.slow


MOST_PAGES = 3  # the tests before the last one open so many


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = start(tmp_path_factory.mktemp("token"), "--most-pages", MOST_PAGES)
    yield served
    stop(served)


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One without a token, at every address of this machine, which a proxy asks for as cells.example.org or 192.0.2.9."""
    folder = tmp_path_factory.mktemp("open")
    command = [
        sys.executable,
        "-m",
        "jind_nb.cli",
        "app",
        "--no-token",
        "--host",
        "Cells.Example.org",
        "--host",
        "192.0.2.9",
        "--ip",
        "::",
        "--folder",
        "root",
    ]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    found = re.search(r"http://[^/]+:(\d+)/$", process.stdout.readline().strip())
    assert found
    yield Served(int(found[1]), "", folder / "root", folder, process)
    stop(Served(int(found[1]), "", folder / "root", folder, process))


@pytest.mark.parametrize(
    ("host", "let_in"),
    [
        ("localhost", True), ("127.0.0.1:{port}", True), ("[::1]", True), ("cells.example.org", True), ("evil.example", False),
        ("localhost.evil.example", False), ("192.0.2.7", False), ("192.0.2.9", True), ("[::]:{port}", True), ("[fd00::2]", False),
    ],
)  # fmt: skip
def test_without_a_token_only_known_names_lead_in(open_server: Served, host: str, let_in: bool) -> None:
    """Lost otherwise: files and machine, to any page that a visitor has open elsewhere (DNS rebinding)."""
    host = host.format(port=open_server.port)
    status, _, body = open_server.ask("/", Host=host)
    assert status == (302 if let_in else 403)
    assert let_in or f"not served under the name {host}" in body.decode()
    if not let_in:
        kernel = "0" * 8 + "-0000-0000-0000-" + "0" * 12
        for path in (
            "/alive",
            f"/api/kernels/{kernel}",
            f"/results/{'x' * 32}/20260101-000000-01234567/report.html",
            "/login",
        ):
            assert open_server.ask(path, Host=host)[0] == 403, path


def test_with_a_token_any_name_leads_to_the_token(server: Served) -> None:
    """Lost otherwise: the page behind a proxy, whatever its name is."""
    assert server.ask("/", Host="cells.example.org")[1]["Location"].startswith("/login")


@pytest.mark.skipif(not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists(), reason="no IPv6")
def test_every_address_means_those_of_ipv6_too(open_server: Served) -> None:
    """Lost otherwise: the page under the printed name, which may be one of IPv4 or of IPv6."""
    with socket.create_connection(("::1", open_server.port), timeout=10):
        pass


@pytest.mark.parametrize("host", ["https://cells.example.org", "cells.example.org:443", "cells.example.org/", ""])
def test_a_host_that_is_no_name_is_refused(host: str) -> None:
    """Lost otherwise: an afternoon before a page that refuses the very name it was started with."""
    with pytest.raises(InputError, match=r"--host: found .* give the name alone"):
        _local_names("127.0.0.1", [host])


def test_the_address_that_is_printed_leads_in_whatever_the_machine_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost otherwise: the page, on a machine called DESKTOP-7: browsers ask for it in small letters."""
    monkeypatch.setattr("socket.gethostname", lambda: "DESKTOP-7")
    assert "desktop-7" in _local_names("0.0.0.0", [])


@pytest.mark.parametrize("protocol", ["https", "http"])
def test_cookies_are_secure_behind_a_proxy_with_https(server: Served, protocol: str) -> None:
    """Lost otherwise: the token's cookie, to the network, on the first link without https."""
    status, headers, _ = server.ask(f"/?token={server.token}", X_Forwarded_Proto=protocol)
    cookies = headers.get_all("Set-Cookie")
    page = server.ask(
        headers["Location"], Cookie="; ".join(one.partition(";")[0] for one in cookies), X_Forwarded_Proto=protocol
    )
    assert (status, page[0]) == (302, 200)
    for cookie in [*cookies, *page[1].get_all("Set-Cookie")]:
        assert "SameSite=Lax" in cookie, cookie
        assert ("Secure" in cookie) == (protocol == "https"), cookie


@pytest.mark.parametrize(
    ("protocol", "is_secure"), [("HTTPS", True), ("https, http", True), ("http", False), ("x", False)]
)
def test_a_proxy_before_the_proxy_counts_too(server: Served, protocol: str, is_secure: bool) -> None:
    """Lost otherwise: the same, where a load balancer with https stands before another proxy without."""
    cookies = server.ask(f"/?token={server.token}", X_Forwarded_Proto=protocol)[1].get_all("Set-Cookie")
    assert ["Secure" in cookie for cookie in cookies] == [is_secure]


def test_a_failure_is_told_to_the_visitor_and_the_address_to_nobody(server: Served) -> None:
    """Lost otherwise: the token, to whoever reads the server's log after the disk was full once; and why nothing opens."""
    aside = server.root.rename(server.root.with_name("aside"))
    server.root.touch()  # a folder in which nothing can be made
    try:
        status, _, body = server.ask(f"/?token={server.token}")
    finally:
        server.root.unlink()
        aside.rename(server.root)
    assert status == 500
    assert b"could not read or write a file" in body
    log = (server.root.parent / "stderr.txt").read_text()
    assert "A request failed" in log
    assert server.token not in log


@pytest.mark.parametrize(
    "path", ["lab/static/../../conf.json", "lab/static/..%2f..%2f..%2fetc%2fpasswd", "lab/static/"]
)
def test_a_path_out_of_the_template_leads_nowhere(server: Served, path: str) -> None:
    """Lost otherwise: the server's log, to tracebacks that anybody can write there without the token."""
    assert server.ask(f"/voila/templates/{path}")[0] == 404


def test_the_page_learns_that_its_kernel_is_gone(server: Served) -> None:
    """Lost otherwise: an evening, before a page that shows a run which never ends."""
    visitor = server.visitor()
    page = visitor.get(f"/?session={visitor.session}")[2].decode()
    found = re.search(r'"kernelId": "([0-9a-f-]+)"', page)
    assert found
    assert re.search(r'<script id="jupyter-config-data" type="application/json">', page)
    assert json.loads(visitor.get(f"/alive?kernel={found[1]}")[2]) == {"kernel": True}
    assert json.loads(visitor.get("/alive?kernel=" + "0" * 36)[2]) == {"kernel": False}
    assert "login" in server.ask("/alive")[1]["Location"]
    newest = max(psutil.Process(server.process.pid).children(), key=psutil.Process.create_time)
    newest.kill()  # as the system does when memory runs out
    for _ in range(100):
        if json.loads(visitor.get(f"/alive?kernel={found[1]}")[2]) == {"kernel": False}:
            break
        time.sleep(0.1)
    else:
        pytest.fail("a page without a kernel looks as if it worked")


def test_logging_out_forgets_the_token_and_the_visitor(server: Served) -> None:
    """Lost otherwise: one's files, to the next person at a shared computer; and 100 MB for half an hour, to a page nobody sees."""
    visitor = server.visitor()
    found = re.search(r'"kernelId": "([0-9a-f-]+)"', visitor.get(f"/?session={visitor.session}")[2].decode())
    assert found
    xsrf, path = visitor.cookies.partition("_xsrf=")[2], f"/logout?kernel={found[1]}"
    assert server.ask(path, "POST", b"", Cookie=visitor.cookies)[0] == 403  # another site's form
    stranger = "; ".join(one for one in visitor.cookies.split("; ") if one.startswith("_xsrf"))
    assert server.ask(path, "POST", b"", Cookie=stranger, X_XSRFToken=xsrf)[0] == 200
    assert json.loads(visitor.get(f"/alive?kernel={found[1]}")[2]) == {"kernel": True}
    status, headers, _ = server.ask(path, "POST", b"", Cookie=visitor.cookies, X_XSRFToken=xsrf)
    assert json.loads(visitor.get(f"/alive?kernel={found[1]}")[2]) == {"kernel": False}
    forgotten = {one.partition("=")[0] for one in headers.get_all("Set-Cookie") if '=""' in one}
    assert status == 200
    assert len(forgotten) == 2
    assert b"Logged out" in server.ask("/logout")[2]


def test_an_archive_that_has_no_room_is_told(server: Served) -> None:
    """Lost otherwise: the reason, to an empty page; and the way to the files, which are all there one by one."""
    visitor, name = server.visitor(), "20260101-000000-01234567"
    run = server.root / visitor.session / "runs" / name
    (run / "results").mkdir(parents=True)
    values = {"PATH": EXAMPLE, "BATCH_COL": "well", "LABELS_COL": "bulk_labels", "TARGET_DATASET_NAME": "well 1"}
    (run / "parameters.yaml").write_text(json.dumps(values | {"OUTPUT_PATH": str(run / "results")}))
    (run / "results" / "predictions.csv").write_bytes(bytes(100_000))
    archive, process = f"/results/{visitor.session}/{name}/everything.zip", psutil.Process(server.process.pid)
    assert len(visitor.get(archive)[2]) > 100_000
    before = process.rlimit(psutil.RLIMIT_FSIZE)
    process.rlimit(psutil.RLIMIT_FSIZE, (10_000, before[1]))  # as a full disk
    try:
        status, _, body = visitor.get(archive)
        assert status == 507
        assert b"Fetch them one by one" in body
        assert visitor.get(archive.replace("everything.zip", "predictions.csv"))[0] == 200
    finally:
        process.rlimit(psutil.RLIMIT_FSIZE, before)


def test_one_page_too_many_is_told_and_starts_nothing(server: Served) -> None:
    """Lost otherwise: the server's memory, which each open page takes a part of, and with it everybody's runs."""
    visitor = server.visitor()
    status, body = 200, b""
    for _ in range(MOST_PAGES + 1):
        if status == 200:
            status, headers, body = visitor.get(f"/?session={visitor.session}")
    assert status == 503
    assert headers["Retry-After"] == "30"
    assert b"3 pages are open on this server" in body
    children = psutil.Process(server.process.pid).children()
    assert sum("ipykernel_launcher" in child.cmdline() for child in children) == MOST_PAGES
    assert visitor.session not in (server.root.parent / "stderr.txt").read_text()  # who reads it would have the files
