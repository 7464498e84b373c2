"""PATH on the network, against a web server on this machine that also plays doi.org and Zenodo, and misbehaves."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from jind_nb.commands import run as commands_run
from jind_nb.core import address as core_address
from jind_nb.core.parameters import Parameters, load_parameters, make_parameters
from jind_nb.data import download
from jind_nb.data.download import fetch
from jind_nb.errors import InputError
from jind_nb.runs import cache
from jind_nb.runs.folder import Run
from tests.conftest import ROOT, Answer, run_command
from tests.helpers.simulated import THREE_BATCHES, simulated

SECRET = "hush"


class Server(ThreadingHTTPServer):
    """Serves one file under many names, each with its own fault."""

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.asked, self.etag = content, [], '"1"'  # type: ignore[var-annotated]
        self.killed = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def files_asked(self) -> list[tuple[str, str | None]]:
        """Path and Range of each request for a file."""
        return [(path, range_) for path, range_ in self.asked if path.split("?")[0].endswith(".h5ad")]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def handle_error(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:  # http.server's name
        self.server.asked.append((self.path, self.headers.get("Range")))
        path, content = self.path.split("?")[0], self.server.content
        if path == "/api/records/14000644":
            checksum = f"md5:{hashlib.md5(content).hexdigest()}"
            files = [
                {"key": name, "checksum": checksum, "links": {"self": f"{self.server.address}/files/{name}"}}
                for name in ("pancreas.h5ad", "lung.h5ad")
            ]
            files.append(
                {
                    "key": "wrong.h5ad",
                    "checksum": f"md5:{'0' * 32}",
                    "links": {"self": self.server.address + "/wrong.h5ad"},
                }
            )
            self._answer(json.dumps({"id": 14000644, "files": files}).encode(), "application/json")
        elif path == "/api/records/404":
            self._answer(
                b'{"status": 404, "message": "The persistent identifier is not registered."}', "application/json"
            )
        elif "login" in path:
            self._answer(b"<!DOCTYPE html><title>Please log in</title>", "text/html; charset=utf-8")
        elif "page" in path:
            self._answer(b"<!DOCTYPE html><title>About the file</title>")
        elif "elsewhere" in path:
            self.send_response(302)
            self.send_header("Location", "http://example.invalid/x.h5ad" if "unsafe" in path else "/files/x.h5ad")
            self.end_headers()
        elif "missing" in path or "closed" in path or "broken" in path:
            self.send_error({"missing": 404, "closed": 403, "broken": 503}[path[1:-5]])
        elif "huge" in path:
            self.send_response(200)
            self.send_header("Content-Length", str(10**16))
            self.end_headers()
        else:
            self._file(content, path)

    def _file(self, content: bytes, path: str) -> None:
        begin = 0
        range_ = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if range_ and self.headers.get("If-Range") == self.server.etag:
            begin = int(range_[1])
        if begin > len(content):
            self.send_error(416)
            return
        rest = content[begin:]
        first = sum(asked == self.path for asked, _ in self.server.asked) == 1
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header(
                "Content-Range", f"bytes {begin + 7 * ('shifted' in path)}-{len(content) - 1}/{len(content)}"
            )
        if "endless" not in path:
            self.send_header("Content-Length", str(len(rest)))
        self.send_header("Content-Type", "application/octet-stream")
        if "plain" not in path:
            self.send_header("ETag", self.server.etag)
        self.end_headers()
        if "slow" in path:
            time.sleep(1)
        if "stuck" in path and first:
            self.wfile.write(rest[: len(rest) // 2])
            self.server.killed.wait(60)
            return
        self.wfile.write(rest[: len(rest) // 2] if "cut" in path and first else rest)

    def _answer(self, content: bytes, kind: str = "application/octet-stream") -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("served") / "cells.h5ad"
    simulated(THREE_BATCHES).write_h5ad(file)
    return file.read_bytes()


@pytest.fixture
def server(content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """The server, doi.org and Zenodo for pooch, and an empty cache."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setenv("JIND_NB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "PIECE", 1000)
    with Server(content) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()

        def doi_to_url(doi: str, **also: Any) -> str:
            requests.get(f"{server.address}/doi/{doi}", **also).raise_for_status()
            return f"https://zenodo.org/records/{doi.rsplit('.', 1)[-1]}"

        monkeypatch.setattr("pooch.downloaders.doi_to_url", doi_to_url)
        monkeypatch.setattr("pooch.downloaders.ZenodoRepository.base_api_url", f"{server.address}/api/records")
        yield server
        server.shutdown()
        thread.join()


def in_cache(tmp_path: Path, pattern: str = "*") -> list[Path]:
    """Files in the cache that hold something, but locks."""
    return [
        path
        for path in (tmp_path / "cache").rglob(pattern)
        if path.is_file() and path.stat().st_size and path.name != ".lock"
    ]


DOI = "doi:10.5281/zenodo.14000644/pancreas.h5ad"


# --- it works --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["https", "doi"])
def test_a_file_is_fetched_once(of: str, server: Server, content: bytes, tmp_path: Path) -> None:
    """Gigabytes that come again with every command, or a second time while a run's notebooks read them, are no cache."""
    address = DOI if of == "doi" else f"{server.address}/a%20b.h5ad?download=1"
    file = fetch(address)
    assert file.name == ("pancreas.h5ad" if of == "doi" else "a b.h5ad")
    assert file.read_bytes() == content
    asked = len(server.asked)
    assert fetch(address) == file
    assert len(server.asked) == asked
    note = json.loads((file.parent / "fetched.json").read_text())
    assert note["hashes"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert ("md5" in note["hashes"]) == (of == "doi")
    assert "download=1" not in note["address"]
    assert {path.name for path in in_cache(tmp_path)} == {file.name, "fetched.json"}


def test_a_checksum_in_the_address_is_checked(server: Server, content: bytes, tmp_path: Path) -> None:
    """Who writes the checksum down means this file and no later one of the same name."""
    right = hashlib.sha256(content).hexdigest()
    file = fetch(f"{server.address}/x.h5ad#sha256={right}")
    assert file.read_bytes() == content
    assert fetch(f"{server.address}/x.h5ad#md5={hashlib.md5(content).hexdigest()}") == file  # of the file that is there
    assert len(server.files_asked) == 1
    for address in (f"{server.address}/y.h5ad#sha256={'0' * 64}", "doi:10.5281/zenodo.14000644/wrong.h5ad"):
        with pytest.raises(
            InputError, match=r"what came has the checksum \w+ and not 0+; nothing of it is kept"
        ) as refused:
            fetch(address)
        assert str(tmp_path) not in str(refused.value)
    assert {path.name for path in in_cache(tmp_path)} == {"x.h5ad", "fetched.json"}


def test_another_checksum_than_that_of_the_cached_file_fetches_again_and_keeps_the_old_one_if_wrong(
    server: Server, content: bytes
) -> None:
    file = fetch(f"{server.address}/x.h5ad")
    with pytest.raises(InputError, match=r"and not 0+;"):
        fetch(f"{server.address}/x.h5ad#sha256={'0' * 64}")
    assert file.read_bytes() == content


def test_a_cached_file_that_was_changed_is_fetched_again(server: Server, content: bytes) -> None:
    """What somebody did to the file in the cache must not pass for the file of the address."""
    file = fetch(f"{server.address}/x.h5ad")
    file.write_bytes(content[:1000])
    assert fetch(f"{server.address}/x.h5ad").read_bytes() == content


def test_two_at_once_fetch_it_once(server: Server, content: bytes) -> None:
    """A sweep starts many runs on the same data at the same time."""
    files: list[Path] = []
    threads = [threading.Thread(target=lambda: files.append(fetch(f"{server.address}/slow.h5ad"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [file.read_bytes() == content for file in files] == [True] * 3
    assert len(server.files_asked) == 1


def test_a_safe_redirect_is_followed(server: Server, content: bytes) -> None:
    assert fetch(f"{server.address}/elsewhere.h5ad").read_bytes() == content


def test_progress_is_told_in_lines_where_there_is_no_terminal(
    server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Hours of silence in a job's log look like a hanging job."""
    monkeypatch.setattr(download, "SECONDS_BETWEEN_LINES", 0)
    fetch(f"{server.address}/x.h5ad")
    lines = capfd.readouterr().err.splitlines()
    shares = [int(share[1]) for line in lines if (share := re.search(r"x\.h5ad: [\d,]+ bytes \((\d+)%\)$", line))]
    assert shares[-1] == 100
    assert shares == sorted(shares)
    assert len(shares) > 3


def test_a_terminal_gets_a_bar(
    server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    fetch(f"{server.address}/x.h5ad")
    assert re.search(r"x\.h5ad: 100%\|█+\|", capfd.readouterr().err)


# --- never half a file -----------------------------------------------------------------------------------------------


def test_a_broken_connection_leaves_no_file_and_the_next_try_goes_on(
    server: Server, content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Half a file that looks whole would be worse than none, and the first half again costs an evening."""
    with pytest.raises(InputError, match=r"no connection, or it broke .* bytes are kept"):
        fetch(f"{server.address}/cut.h5ad")
    assert not in_cache(tmp_path, "*.h5ad")
    assert fetch(f"{server.address}/cut.h5ad").read_bytes() == content
    assert [range_ for _, range_ in server.files_asked] == [None, f"bytes={len(content) // 2 // 1000 * 1000}-"]
    assert "going on after" in capfd.readouterr().err
    assert {path.name for path in in_cache(tmp_path)} == {"cut.h5ad", "fetched.json"}


def test_a_killed_command_leaves_no_file_and_the_next_goes_on(server: Server, content: bytes, tmp_path: Path) -> None:
    """A job's time limit ends it in the middle of a download, without a word to it."""
    address = f"{server.address}/stuck.h5ad"
    code = f"from jind_nb.data import download; download.PIECE = 1000; download.fetch({address!r})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not in_cache(tmp_path, ".part") and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    process.kill()
    process.wait()
    server.killed.set()
    assert not in_cache(tmp_path, "*.h5ad")
    assert fetch(address).read_bytes() == content
    assert (server.files_asked[-1][1] or "").startswith("bytes=")


def test_a_file_that_changed_meanwhile_is_not_pieced_together(server: Server, content: bytes) -> None:
    """The first half of one version and the second of another are no file at all."""
    with pytest.raises(InputError, match="broke"):
        fetch(f"{server.address}/cut.h5ad")
    server.etag, server.content = '"2"', content + b"\0" * 8
    assert fetch(f"{server.address}/cut.h5ad").read_bytes() == server.content


def test_another_part_than_was_asked_for_is_not_pieced_together(server: Server, content: bytes, tmp_path: Path) -> None:
    address = f"{server.address}/cut-shifted.h5ad"
    for says in ("broke", "another part"):
        with pytest.raises(InputError, match=says):
            fetch(address)
    assert not in_cache(tmp_path)
    assert fetch(address).read_bytes() == content


def test_without_a_version_nothing_is_kept(server: Server, content: bytes, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="broke"):
        fetch(f"{server.address}/cut-plain.h5ad")
    assert not in_cache(tmp_path)
    assert fetch(f"{server.address}/cut-plain.h5ad").read_bytes() == content
    assert [range_ for _, range_ in server.files_asked] == [None, None]


def test_half_a_file_of_unsaid_length_is_not_kept(server: Server, content: bytes, tmp_path: Path) -> None:
    """Old servers end an answer by closing the connection, whether all of it was sent or not."""
    with pytest.raises(InputError, match="what came is not whole"):
        fetch(f"{server.address}/cut-plain-endless.h5ad")
    assert not in_cache(tmp_path)
    assert fetch(f"{server.address}/cut-plain-endless.h5ad").read_bytes() == content


def test_a_run_killed_before_the_note_leaves_nothing_that_is_trusted(server: Server, content: bytes) -> None:
    """Only a file whose checksums were noted is one that was fetched whole."""
    file = fetch(f"{server.address}/x.h5ad")
    (file.parent / "fetched.json").unlink()
    file.write_bytes(content[:-100])
    assert fetch(f"{server.address}/x.h5ad").read_bytes() == content


# --- refused clearly -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing.h5ad", "404 .*there is no such file"),
        ("closed.h5ad", "403 .*asks for a login"),
        ("broken.h5ad", "503 .*it fails"),
        ("login.h5ad", "is a web page and not an .h5ad file"),
        ("page.h5ad", r"not an h5ad \(HDF5\) file: it begins with b'<!DOCTYPE"),
        ("huge.h5ad", "10,000,000,000,000,000 bytes more, and the disk .* JIND_NB_CACHE"),
        ("elsewhere-unsafe.h5ad", "leads to http://example.invalid/x.h5ad, which is not https"),
    ],
)
def test_what_is_no_file_is_refused_and_nothing_kept(name: str, says: str, server: Server, tmp_path: Path) -> None:
    """A page to log in saved as data costs an hour of wondering what is wrong with the file."""
    with pytest.raises(InputError, match=says) as refused:
        fetch(f"{server.address}/{name}?token={SECRET}")
    assert str(refused.value).startswith("PATH: ")
    assert f"{server.address}/{name}" in str(refused.value) or name == "page.h5ad"
    assert SECRET not in str(refused.value)
    assert not in_cache(tmp_path)


def test_a_record_without_the_file_names_what_it_has(server: Server) -> None:
    with pytest.raises(InputError, match=r"has no file 'pancreass.h5ad'; did you mean 'pancreas.h5ad'\?"):
        fetch("doi:10.5281/zenodo.14000644/pancreass.h5ad")


def test_a_record_that_is_gone_is_told(server: Server) -> None:
    """Zenodo answers of such a record in JSON, without files."""
    with pytest.raises(InputError, match="what the archive says of its files cannot be understood"):
        fetch("doi:10.5281/zenodo.404/pancreas.h5ad")


@pytest.mark.parametrize("of", ["https", "doi"])
def test_offline_says_what_to_do(of: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a train or a compute node: which file, and that it can be fetched by hand."""
    nobody = f"http://127.0.0.1:{server.server_port + 1 if server.server_port < 65535 else 1}"
    monkeypatch.setattr("pooch.downloaders.doi_to_url", lambda doi, **also: requests.get(f"{nobody}/{doi}", **also).url)
    address = DOI if of == "doi" else f"{nobody}/x.h5ad"
    with pytest.raises(
        InputError, match=r"could not be fetched: there is no connection.*by hand and give its path"
    ) as refused:
        fetch(address)
    assert address in str(refused.value)


def test_a_full_disk_is_told_and_nothing_is_left(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download._Progress, "update", full)
    with pytest.raises(InputError, match=r"the disk of the cache, .* is full"):
        fetch(f"{server.address}/plain.h5ad")
    assert not in_cache(tmp_path)


def test_a_cache_that_cannot_be_written_is_named(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JIND_NB_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"cache folder .* JIND_NB_CACHE"):
        fetch(f"{server.address}/x.h5ad")


def test_a_relative_cache_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The notebooks of a run work in its folder, and would fetch everything again into it."""
    monkeypatch.setenv("JIND_NB_CACHE", "cache")
    with pytest.raises(InputError, match="JIND_NB_CACHE: found 'cache'"):
        fetch(f"{server.address}/x.h5ad")


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("http://example.org/x.h5ad", "only https://"),
        ("ftp://example.org/x.h5ad", "only https://"),
        ("https:///x.h5ad", "only https://"),
        ("https://me:hush@example.org/x.h5ad", "holds a user name or password"),
        ("https://example.org/x.zarr", "must end in the name of an .h5ad file"),
        ("https://example.org/x.h5ad.gz", "must end in the name of an .h5ad file"),
        ("https://example.org/..%2Fx.h5ad", "must end in the name of an .h5ad file"),
        ("https://example.org/x.h5ad#1234", "must be a checksum"),
        ("doi:10.5281/zenodo.14000644", "with its file"),
        ("doi://10.5281/zenodo.14000644/x.h5ad", "with its file"),
    ],
)
def test_addresses_that_are_not_fetched_are_refused_before_anything_else(address: str, says: str) -> None:
    """A parameter file from somebody else names where to go: only what cannot do harm is gone to."""
    with pytest.raises(InputError, match=r"PATH: found .*" + re.escape(says)):
        make_parameters(
            {
                "PATH": ["a.h5ad", address],
                "BATCH_COL": "b",
                "LABELS_COL": "l",
                "TARGET_DATASET_NAME": "t",
                "OUTPUT_PATH": "o",
            }
        )


@given(st.text(), st.sampled_from(["https://", "doi:10.5281/", "http://127.0.0.1/", "HTTPS://[", "x://", ""]))
def test_any_text_is_an_address_a_path_or_refused(text: str, start: str) -> None:
    """Parameter files come from other people."""
    address = start + text
    core_address.last_name(address)
    assert SECRET not in core_address.shown_address(f"https://me:{SECRET}@example.org/{text.replace('@', '')}")
    try:
        core_address.check_address(address)
    except ValueError:
        return
    assert core_address.is_remote(address)
    assert Path(core_address.last_name(address)).name == core_address.last_name(address)


# --- the whole way ---------------------------------------------------------------------------------------------------


def test_addresses_are_no_relative_paths(tmp_path: Path) -> None:
    """`/home/me/doi:10.5281/…` would be looked for on the disk."""
    file = tmp_path / "p.yaml"
    https = "https://example.org/x.h5ad#sha256=" + "0" * 64
    file.write_text(f"PATH: ['{DOI}', '{https}', mine.h5ad]\nBATCH_COL: b\nLABELS_COL: l\nTARGET_DATASET_NAME: t\n")
    assert load_parameters(file).paths == [DOI, https, str(tmp_path / "mine.h5ad")]
    assert Parameters(**load_parameters(file).model_dump()).paths[0] == DOI


def test_validate_and_init_take_an_address(
    server: Server,
    jind_nb: Callable[..., Answer],
    write_parameters: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The parameter files of the paper's data name a DOI: the first command must work with it."""
    file = write_parameters(PATH=DOI)
    done = jind_nb("validate", file)
    assert done.status == 0, done.err
    assert "Fetching doi:10.5281/zenodo.14000644/pancreas.h5ad" in done.err
    assert "its md5 is right" in done.err
    assert "Fetching" not in jind_nb("validate", file).err
    monkeypatch.chdir(file.parent)
    assert jind_nb("init", DOI).status == 0
    assert load_parameters("pancreas.yaml").PATH == DOI


def test_the_manifest_says_where_a_file_is_from(server: Server, tmp_path: Path) -> None:
    """A year later, the name of a file in somebody's cache says nothing."""
    values = {"PATH": f"{server.address}/x.h5ad?token={SECRET}", "OUTPUT_PATH": str(tmp_path / "run")}
    run = Run(make_parameters(values | {"BATCH_COL": "batch", "LABELS_COL": "celltype", "TARGET_DATASET_NAME": "c"}))
    report = {"seconds": 1, "peak_memory_bytes": 1, "pdf_missing": None}
    work = SimpleNamespace(
        run=run, inputs=cache.input_hashes(run), records={cache.REPORT: report}, keys={cache.REPORT: ""}, reused=[]
    )
    (told,) = commands_run._manifest(work)["input"]  # type: ignore[arg-type]
    assert told["fetched from"] == f"{server.address}/x.h5ad"
    assert told["sha256"] == hashlib.sha256(server.content).hexdigest()


@pytest.mark.slow
def test_validate_without_connection_is_exit_status_2(
    server: Server, write_parameters: Callable[..., Path], tmp_path: Path
) -> None:
    server.shutdown()
    server.server_close()
    file = write_parameters(PATH=f"{server.address}/x.h5ad")
    done = run_command("validate", file, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"Wrong input: PATH: {server.address}/x.h5ad could not be fetched")
    assert "Traceback" not in done.stderr
