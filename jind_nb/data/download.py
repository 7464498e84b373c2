"""PATH as a DOI or an https address: the file is fetched once into the cache and checked; it is there whole or not at all.

    JIND_NB_CACHE (default: the user's cache folder)/downloads/<hash of the address>/<name>.h5ad
                                                      ... /fetched.json    where from, when, checksums

pooch finds the files of a DOI and their checksums, streams a file, compares its checksum, and then gives it its name. What
a broken connection left is kept as `.part`, and the next try continues there if the server's file is still the same.
"""

import difflib
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urljoin

import h5py
import pooch
import requests
from filelock import AcquireReturnProxy, FileLock, Timeout
from platformdirs import user_cache_path
from tqdm import tqdm

from ..core._compat import doi_archive, request_headers
from ..core.address import check_address, is_safe, last_name, shown_address
from ..core.files import is_disk_full, write_json
from ..core.locks import locks_may_be_missing
from ..core.text import listing
from ..errors import InputError

log = logging.getLogger(__name__)

CACHE = "JIND_NB_CACHE"

PIECE = 2**18  # bytes; a broken connection costs at most so many

LEFT_FREE = 200_000_000  # bytes of the cache's disk

SECONDS_BETWEEN_LINES = 10

TIMEOUT = 30  # seconds without an answer

TRY = "Try again with the internet at hand, or fetch the file by hand and give its path."

BROWSER = "fetch the file in a browser and give its path."

MAKE_ROOM = f"Make room, or name a folder on a larger disk in {CACHE}."

MEANINGS = {401: "it asks for a login", 403: "it asks for a login", 404: "there is no such file", 429: "it is busy"}


def cache_folder() -> Path:
    """Return JIND_NB_CACHE, or the user's cache folder.

    Raises
    ------
    InputError
        If JIND_NB_CACHE is relative: the notebooks of a run work in another folder.
    """
    folder = Path(os.environ.get(CACHE) or user_cache_path("jind_nb")).expanduser()
    if not folder.is_absolute():
        raise InputError(f"{CACHE}: found {str(folder)!r}; it must be an absolute path.")
    return folder


def fetch(address: str) -> Path:
    """Return the file of an address in the cache; fetch it if it is not there.

    Raises
    ------
    InputError
        If it cannot be fetched, has another checksum, or is no h5ad file.
    """
    try:
        check_address(address)
    except ValueError as error:
        raise InputError(f"PATH: found {shown_address(address)!r}; it {error}.") from None
    this = _Download(address)
    try:
        this.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The cache folder {this.folder} cannot be made ({error}); name another in {CACHE}.") from None
    if not this.is_there():
        with this.lock():
            if not this.is_there():  # another run may have fetched it meanwhile
                this.fetch()
    return this.file


def _say(line: str) -> None:
    log.info(line)
    print(line, file=sys.stderr, flush=True)


class _Download:
    """Hold where one file comes from and goes to, and its checksum (`sha256:0f3c…`) if one is known."""

    def __init__(self, address: str) -> None:
        self.address, _, checksum = address.partition("#")
        self.shown = shown_address(address)
        self.wanted = checksum.replace("=", ":", 1).lower() or None
        self.folder = cache_folder() / "downloads" / hashlib.sha256(self.address.encode()).hexdigest()[:24]
        self.file, self.note = self.folder / last_name(address), self.folder / "fetched.json"
        # What is kept of an earlier try, and the server's name for the version that it is the beginning of.
        self.part, self.version = self.folder / ".part", self.folder / ".part.etag"
        self.sized = True  # whether the server said how long the answer is

    def lock(self) -> AcquireReturnProxy:
        """Return the lock on the folder, to be held by `with`; wait while another run has it."""
        lock = FileLock(self.folder / ".lock")
        try:
            with locks_may_be_missing():
                return lock.acquire(timeout=0.1)
        except Timeout:
            _say(f"Another run is fetching {self.shown}; waiting for it.")
            return lock.acquire()

    def is_there(self) -> bool:
        """Return whether the file is there, unchanged since it was fetched, and has the wanted checksum."""
        note = self._as_noted()
        if note is None or self.wanted is None:
            return note is not None
        algorithm, _, digest = self.wanted.partition(":")
        if algorithm not in note:
            note[algorithm] = pooch.file_hash(str(self.file), algorithm)
            self._write_note(note)
        return note[algorithm] == digest

    def _as_noted(self) -> dict[str, str] | None:
        """Return the file's noted checksums; None if it was not fetched, or was changed since."""
        try:
            note, stat = json.loads(self.note.read_text("utf-8")), self.file.stat()
            return dict(note["hashes"]) if note["signature"] == [stat.st_size, stat.st_mtime_ns] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _write_note(self, hashes: dict[str, str]) -> None:
        stat, when = self.file.stat(), time.strftime("%Y-%m-%d %H:%M:%S")
        note = {"address": self.shown, "fetched": when, "hashes": hashes}
        write_json(self.note, note | {"signature": [stat.st_size, stat.st_mtime_ns]})

    def fetch(self) -> None:
        """Fetch the file and note its checksums."""
        pooch.get_logger().setLevel(logging.WARNING)
        try:
            url, known = self._resolved()
            if self.file.exists() and not self._as_noted():
                self.file.unlink()
            pooch.retrieve(url, known_hash=known, fname=self.file.name, path=self.folder, downloader=self._stream)
        except InputError:
            raise
        except requests.exceptions.HTTPError as error:
            raise self._refused(f"the server answers {_status(error.response)}") from None
        except OSError as error:  # those of requests too
            if is_disk_full(error):
                raise self._refused(f"the disk of the cache, {self.folder}, is full", MAKE_ROOM) from None
            raise self._refused(self._broken(error)) from None
        except ValueError as error:  # pooch's word for a wrong checksum, and for a DOI it cannot use
            wrong = re.search(r"expected (?:\w+:)?(\w+) but got (\w+)", str(error))
            came = r"what came has the checksum \2 and not \1; nothing of it is kept"
            raise self._refused(wrong.expand(came) if wrong else str(error).rstrip(".")) from None
        except (KeyError, IndexError, TypeError):
            raise self._refused("what the archive says of its files cannot be understood") from None
        hashes = dict([known.split(":", 1)] if known else []) | {"sha256": pooch.file_hash(str(self.file))}
        self._write_note(hashes)
        checked = f"its {known.split(':')[0]} is right" if known else f"its sha256 is {hashes['sha256']}"
        _say(f"Fetched {self.file.name}: {checked}.")
        if known is None:
            _say(f"To have that checked wherever it is fetched: PATH: {self.shown}#sha256={hashes['sha256']}")

    def _resolved(self) -> tuple[str, str | None]:
        """Return the https address and checksum of the file; for a DOI, as the archive lists them."""
        if not self.address.lower().startswith("doi:"):
            return self.address, self.wanted
        doi, name = self.address[4:].rsplit("/", 1)
        known: dict[str, str] = {}
        archive = doi_archive(doi, TIMEOUT)
        archive.populate_registry(SimpleNamespace(registry=known))
        name = unquote(name)
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1) or sorted(known)[:20]
            raise InputError(f"PATH: doi:{doi} has no file {name!r}; did you mean {listing(near)}?")
        if self.wanted and self.wanted.split(":")[0] == known[name].split(":")[0] and self.wanted != known[name]:
            raise InputError(f"PATH: {self.shown} should be {self.wanted}, but the archive says {known[name]}.")
        return archive.download_url(name), self.wanted or known[name]

    def _stream(self, url: str, output_file: str, _: object) -> None:
        """pooch's downloader: to `part`, from where an earlier one stopped; then it is the output."""
        self._check_safe(url)
        headers = request_headers() | {"Accept-Encoding": "identity"}
        if self.version.exists() and self.part.exists() and self.part.stat().st_size:
            headers |= {"Range": f"bytes={self.part.stat().st_size}-", "If-Range": self.version.read_text("utf-8")}
        with closing(_Progress(self)) as progress, ExitStack() as answers:

            def answered(answer: requests.Response, **_: Any) -> None:
                self._answered(answers.enter_context(answer))

            how = {"chunk_size": PIECE, "timeout": TIMEOUT, "headers": headers, "hooks": {"response": answered}}
            try:
                with self.part.open("ab") as part:
                    pooch.HTTPDownloader(progress, **how)(url, part, None)
                self._check_content()
            except BaseException:
                if not self.version.exists():
                    self.part.unlink(missing_ok=True)
                raise
        self.part.replace(output_file)
        self.version.unlink(missing_ok=True)

    def _check_safe(self, url: str) -> None:
        if not is_safe(url):
            raise InputError(f"PATH: {self.shown} leads to {shown_address(url)}, which is not https; fetch it by hand.")

    def _answered(self, answer: requests.Response) -> None:
        """Check, before anything of an answer is kept, that it is the file, fits on the disk, and where it begins."""
        if answer.is_redirect:
            return self._check_safe(urljoin(answer.url, answer.headers["location"]))
        if answer.status_code == 416:  # what is kept is longer than the file
            self.forget()
        if not answer.ok:
            return
        if answer.headers.get("content-type", "").startswith("text/html"):
            self.forget()
            page = "a web page and not an .h5ad file; perhaps one to log in, or about the file"
            raise InputError(f"PATH: {self.shown} is {page}: {BROWSER}")
        if answer.status_code == 206:
            begins = answer.headers.get("content-range", "").startswith(f"bytes {self.part.stat().st_size}-")
            if not begins or answer.headers.get("etag", "") not in ("", self.version.read_text("utf-8")):
                self.forget()
                raise self._refused("the server sent another part of it than was asked for")
        else:  # from its beginning
            self.forget()
            self.part.touch()
            if (etag := answer.headers.get("etag", "")).startswith('"'):
                self.version.write_text(etag, "utf-8")
        self.sized = "content-length" in answer.headers
        size, free = int(answer.headers.get("content-length", 0)), shutil.disk_usage(self.folder).free
        if size + LEFT_FREE > free:
            raise self._refused(f"it has {size:,} bytes more, and the disk of the cache {free:,} free", MAKE_ROOM)
        kept = f", going on after {self.part.stat().st_size:,}" if answer.status_code == 206 else ""
        _say(f"Fetching {self.shown} ({size:,} bytes{kept}) to {self.folder}")

    def _check_content(self) -> None:
        if not h5py.is_hdf5(self.part):
            with self.part.open("rb") as part:
                begins = part.read(60)
            self.forget()
            raise InputError(f"PATH: {self.shown} is not an h5ad (HDF5) file: it begins with {begins!r}; {BROWSER}")
        if not self.sized:  # a connection that broke looks like one that ended
            try:
                h5py.File(self.part, "r").close()
            except OSError as error:
                raise self._refused(f"what came is not whole ({error})") from None

    def forget(self) -> None:
        """Remove what was kept of an earlier try."""
        if self.part.exists():
            os.truncate(self.part, 0)
        self.version.unlink(missing_ok=True)

    def _broken(self, error: Exception) -> str:
        kept = self.part.stat().st_size if self.part.exists() else 0
        reason = re.findall(r"\[Errno [^\]]*\] ([^'\")]+)|(timed out|Connection broken)", str(error))
        words = next((word for pair in reason for word in pair if word), type(error).__name__)
        again = f"; {kept:,} bytes are kept, and the same command goes on after them" if kept else ""
        return f"there is no connection, or it broke ({words}){again}"

    def _refused(self, reason: str, advice: str = TRY) -> InputError:
        return InputError(f"PATH: {self.shown} could not be fetched: {reason}. {advice}")


def _status(answer: Any) -> str:
    meaning = MEANINGS.get(answer.status_code, "it fails" if answer.status_code >= 500 else "it refuses")
    return f"{answer.status_code} {answer.reason} ({meaning})"


class _Progress:
    """Show progress to pooch's liking: a bar in a terminal, a line now and then elsewhere."""

    def __init__(self, of: _Download) -> None:
        self.of, self.total, self.done, self.said = of, 0, 0, time.monotonic()
        self.bar: Any = None

    def update(self, n: int) -> None:
        self.done = min(self.done + n, self.total or self.done + n)
        if shutil.disk_usage(self.of.folder).free < LEFT_FREE // 2:
            raise self.of._refused("the disk of the cache is all but full", MAKE_ROOM)
        if sys.stderr.isatty():
            if self.bar is None:
                self.bar = tqdm(total=self.total or None, unit="B", unit_scale=True, desc=self.of.file.name)
            self.bar.update(self.done - self.bar.n)
        elif time.monotonic() - self.said > SECONDS_BETWEEN_LINES:
            self.said = time.monotonic()
            share = f" ({self.done / self.total:.0%})" if self.total else ""
            _say(f"{time.strftime('%H:%M:%S')} {self.of.file.name}: {self.done:,} bytes{share}")

    def reset(self) -> None:
        """Start again: pooch calls this at the end, and then `update` with the whole size."""
        self.done = 0

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
