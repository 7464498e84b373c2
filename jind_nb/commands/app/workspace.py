"""The web page's folders: what each visitor uploaded, their runs, and the processes of those runs.

    ROOT/server.json           what the server is known by again after a restart
    ROOT/places/               a run at work holds one of the locks in it
    ROOT/VISITOR/uploads/      files, under cleaned names
    ROOT/VISITOR/runs/RUN/     parameters.yaml, process.json, said.txt, results/

VISITOR is 32 random characters, in the link alone: who does not have it finds nothing. A run is a process of its own,
in a session of its own: it needs neither the page, nor the kernel that started it, nor the server.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
from filelock import FileLock, Timeout

from ...core.files import write_json
from ...core.parameters import BUNDLED, load_parameters, make_parameters
from ...errors import InputError
from ...runs.folder import Run

VISITOR = re.compile(r"[A-Za-z0-9_-]{32}")

RUN = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{8}")

EXAMPLE = f"{BUNDLED}pbmc68k_reduced"

PART = ".part"  # of an upload under way

LONGEST_FILE_NAME = 120  # bytes

MOST_FILES_LISTED = 500

SECONDS_TO_STOP = 15

OF_KERNELS = ("FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "MPLBACKEND")

# The kernel of a page finds here what the server was told.
SETTINGS = "JIND_NB_APP"

STARTED_HERE: list[subprocess.Popen[bytes]] = []

State = Literal["waiting", "running", "done", "cancelled", "failed"]


@dataclass(frozen=True)
class AppSettings:
    """What `jind-nb app` was told: the folder of everything, folders with data to choose from, limits."""

    root: str
    data: tuple[str, ...] = ()
    most_upload_bytes: int = 0  # of one visitor's uploads together; 0: nothing can be uploaded
    runs_at_once: int = 1

    @classmethod
    def from_environment(cls) -> AppSettings | None:
        """The server's settings; None where the page is opened in JupyterLab, without the server."""
        stored = os.environ.get(SETTINGS)
        if stored is None:
            return None
        values = json.loads(stored)
        return cls(**values | {"data": tuple(values["data"])})

    def to_environment(self) -> None:
        os.environ[SETTINGS] = json.dumps(asdict(self))

    @property
    def places(self) -> Path:
        return Path(self.root) / "places"

    def warnings(self, ip: str, *, token: bool) -> list[str]:
        """Return what is not safe about serving the page at this address."""
        folder, found = Path(self.root), []
        if ip not in ("127.0.0.1", "localhost", "::1"):
            found.append(
                "other machines can reach the page, and what is sent can be read on the way: put a proxy with https "
                "before it (docs/web.md)."
            )
        if folder.exists() and folder.stat().st_mode & 0o077:
            found.append(
                f"others on this machine may list {folder}, and its names are the secret that keeps visitors apart: "
                f"chmod 700 {shlex.quote(str(folder))}"
            )
        if not token:
            found.append("without a token, everybody who reaches the page can use it.")
        return found


@contextmanager
def one_of(places: Path, n: int) -> Iterator[None]:
    """Waits until fewer than n processes hold a place; the system frees a place when its holder dies."""
    places.mkdir(parents=True, exist_ok=True)
    while True:
        for number in range(n):
            lock = FileLock(places / f"{number}.lock")
            with suppress(Timeout):
                lock.acquire(timeout=0)
                try:
                    yield
                finally:
                    lock.release()
                return
        time.sleep(1)


def clean_name(name: str) -> str:
    """A name for an uploaded file: letters, digits and a few signs, the ending `.h5ad`.

    >>> clean_name("../my <b>cells</b>.h5ad"), clean_name("Zellen für Üben.H5AD")
    ('my _b_cells_b_.h5ad', 'Zellen für Üben.h5ad')

    Raises
    ------
    InputError
        If the name ends otherwise.
    """
    if not name.lower().endswith(".h5ad"):
        raise InputError(f"{name[-100:]!r} is not an .h5ad file; write one with adata.write_h5ad().")
    stem = re.sub(r"[^\w .()+=,-]+", "_", name[:-5]).lstrip("._ ").rstrip()
    while len(stem.encode()) > LONGEST_FILE_NAME:
        stem = stem[:-1]
    return f"{stem or 'cells'}.h5ad"


@dataclass(frozen=True)
class Workspace:
    """One visitor's folder."""

    settings: AppSettings
    visitor: str

    @classmethod
    def new(cls, settings: AppSettings) -> Workspace:
        return cls(settings, secrets.token_urlsafe(24)).made()

    @classmethod
    def find(cls, settings: AppSettings, visitor: str) -> Workspace | None:
        this = cls(settings, visitor)
        return this if VISITOR.fullmatch(visitor) and this.folder.is_dir() else None

    def made(self) -> Workspace:
        for folder in (self.folder, self.uploads, self.runs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self

    @property
    def folder(self) -> Path:
        # Without links on the way to it: a path that was chosen, and has none either, is looked for in it again.
        return Path(self.settings.root).resolve() / self.visitor

    @property
    def uploads(self) -> Path:
        return self.folder / "uploads"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def in_words(self, message: str) -> str:
        """A message without the visitor's own folder, which is no news to them."""
        return message.replace(f"{self.uploads}{os.sep}", "").replace(str(self.folder), "…")

    # --- files

    def uploaded(self) -> list[Path]:
        """What was uploaded whole, the newest first."""
        files = [file for file in self.uploads.glob("*.h5ad") if file.is_file() and not file.is_symlink()]
        return sorted(files, key=lambda file: -file.stat().st_mtime)

    def room(self) -> int:
        """Bytes that may still be uploaded: what the limit leaves, and the disk."""
        used = sum(file.stat().st_size for file in self.uploads.iterdir())
        # A run writes about twice its input.
        return max(0, min(self.settings.most_upload_bytes - used, shutil.disk_usage(self.folder).free // 3))

    def begin_upload(self, name: str, n_bytes: int) -> Path:
        """A temporary file of `n_bytes`, to be written over; `end_upload` gives it its name.

        Raises
        ------
        InputError
            If the name is not that of an .h5ad file, or there is no room.
        """
        name = clean_name(name)
        if n_bytes > self.room():
            raise InputError(
                f"{name} has {n_bytes / 1e6:,.1f} MB; there is room for {self.room() / 1e6:,.1f} MB. "
                "Delete files you no longer need, or ask for the file to be put on the server."
            )
        file = self.uploads / f".{secrets.token_hex(8)}{PART}"
        file.touch(mode=0o600)
        os.truncate(file, n_bytes)  # counts at once, for uploads side by side; takes no space yet
        return file

    def end_upload(self, part: Path, name: str) -> Path:
        """Gives a whole upload its name, or the next free one: `cells (2).h5ad`."""
        file = self.uploads / clean_name(name)
        stem, number = file.stem, 1
        while file.exists():
            number += 1
            file = file.with_name(f"{stem} ({number}).h5ad")
        return part.rename(file)

    def on_server(self) -> list[Path]:
        """The .h5ad files and .zarr folders under the server's data folders, the first few hundred by name."""
        found: list[Path] = []
        for folder in map(Path, self.settings.data):
            for above, folders, names in os.walk(folder):
                here = [Path(above) / name for name in sorted(folders + names) if name.endswith((".h5ad", ".zarr"))]
                folders[:] = sorted(f for f in folders if not f.startswith(".") and not f.endswith(".zarr"))
                found += [file for file in here if self._in_data(file)]
                if len(found) >= MOST_FILES_LISTED:
                    return found[:MOST_FILES_LISTED]
        return found

    def allowed(self, path: str) -> str:
        """The PATH for what a visitor chose: their own upload, the example, or what lies in a data folder.

        Raises
        ------
        InputError
            For any other path, there or not.
        """
        if path == EXAMPLE:
            return path
        chosen = Path(path)
        if chosen in self.uploaded() or (chosen.is_absolute() and self._in_data(chosen)):
            return str(chosen.resolve())
        folders = ", ".join(self.settings.data)
        raise InputError(
            f"{path!r} is no file of yours"
            + (f" and not in {folders}; give the whole path of a file in there." if folders else ".")
        )

    def _in_data(self, path: Path) -> bool:
        try:
            there = path.resolve(strict=True)
        except (OSError, ValueError, RuntimeError):
            return False
        if Path(self.settings.root).resolve() in there.parents:  # which may lie in a data folder itself
            return False
        return any(Path(folder).resolve() in there.parents for folder in self.settings.data)

    # --- runs

    def all_runs(self) -> list[RunOfVisitor]:
        """The newest first."""
        names = sorted((path.name for path in self.runs.iterdir() if RUN.fullmatch(path.name)), reverse=True)
        return [RunOfVisitor(self, name) for name in names if (self.runs / name / "parameters.yaml").exists()]

    def run(self, name: str) -> RunOfVisitor | None:
        return next((run for run in self.all_runs() if run.name == name), None)

    def start(self, values: dict[str, Any]) -> RunOfVisitor:
        """A new run with these parameters, started.

        Raises
        ------
        InputError
            If a parameter is wrong, or PATH is not for this visitor.
        """
        run = RunOfVisitor(self, f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}")
        values = values | {"PATH": self.allowed(values["PATH"]), "OUTPUT_PATH": str(run.results)}
        make_parameters(values)
        run.folder.mkdir(mode=0o700)
        # JSON is YAML, and names of any kind come back as they were.
        write_json(run.parameters_yaml, values)
        run.start()
        return run


@dataclass(frozen=True)
class RunOfVisitor:
    """One run of a visitor: its folder, and the process at work in it."""

    workspace: Workspace
    name: str

    @property
    def folder(self) -> Path:
        return self.workspace.runs / self.name

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def parameters_yaml(self) -> Path:
        return self.folder / "parameters.yaml"

    @property
    def run(self) -> Run:
        return Run(load_parameters(self.parameters_yaml))

    @property
    def _said(self) -> Path:
        return self.folder / "said.txt"

    @property
    def begun(self) -> Path:
        """There once the run has a place and is at work."""
        return self.folder / "begun"

    @property
    def _cancelled(self) -> Path:
        return self.folder / "cancelled"

    @property
    def _process_json(self) -> Path:
        return self.folder / "process.json"

    def start(self) -> None:
        """Starts the process, or starts it again; goes on after the last finished stage."""
        if self._process() is not None:
            return
        for sign in (self.begun, self._cancelled):
            sign.unlink(missing_ok=True)
        settings = self.workspace.settings
        # A kernel makes what it starts believe that it writes to a terminal in colours.
        environment = {name: value for name, value in os.environ.items() if name not in OF_KERNELS}
        with self._said.open("wb") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "jind_nb.commands.app.process", "run", str(self.folder), str(settings.places), str(settings.runs_at_once)],
                cwd=self.folder,
                env=environment | {"NO_COLOR": "1", "COLUMNS": "200"},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        STARTED_HERE.append(process)
        created = psutil.Process(process.pid).create_time()  # by which a later process of this number is told apart
        write_json(self._process_json, {"pid": process.pid, "created": created})

    def _process(self) -> psutil.Process | None:
        """The process at work, if there is one."""
        for child in STARTED_HERE:
            child.poll()  # collects it where it has ended
        with suppress(OSError, ValueError, KeyError, psutil.Error):
            stored = json.loads(self._process_json.read_text("utf-8"))
            process = psutil.Process(stored["pid"])
            if abs(process.create_time() - stored["created"]) < 1:
                return process if process.status() != psutil.STATUS_ZOMBIE else None
        return None

    def at_work(self) -> bool:
        return self._process() is not None

    def state(self) -> State:
        if self._process() is not None:
            return "running" if self.begun.exists() else "waiting"
        if (self.results / "manifest.json").exists():
            return "done"
        return "cancelled" if self._cancelled.exists() else "failed"

    def cancel(self) -> None:
        """Ends the process and everything it started; what finished stages made is kept."""
        process = self._process()
        if process is None:
            return
        self._cancelled.touch()
        family = _family(process)
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGINT)
        psutil.wait_procs([process], timeout=SECONDS_TO_STOP)
        for left in {*family, *_family(process)}:
            with suppress(psutil.NoSuchProcess):
                left.kill()
        psutil.wait_procs(family, timeout=SECONDS_TO_STOP)

    def delete(self) -> None:
        self.cancel()
        shutil.rmtree(self.folder)

    def progress(self) -> tuple[int, int, str]:
        """The stage at work (from 1; 0 before the first), how many there are, and what it does in words."""
        stages = re.findall(r"^\d\d:\d\d:\d\d (\d+)/(\d+) \S+: (.*)$", self._text(self._said), re.M)
        return (int(stages[-1][0]), int(stages[-1][1]), stages[-1][2]) if stages else (0, 1, "starting")

    def seconds(self) -> float:
        """For how long it is at work."""
        return time.time() - self.begun.stat().st_mtime if self.begun.exists() else 0.0

    def log(self, most: int = 20_000) -> str:
        """The end of the run's log."""
        return self._text(self.results / "run.log")[-most:]

    def why_failed(self) -> str:
        said = self._text(self._said)
        told = re.findall(r"^(?:Wrong input|Failed): (.*)", said, re.M | re.S)
        if told:
            return str(told[-1]).strip()
        return "It was ended from outside, most often because memory ran out.\n" + said[-2000:]

    def summary(self) -> str:
        """What the finished run came to, in one line."""
        told = self._text(self._said).strip().splitlines()
        at = next((i for i, line in enumerate(told) if line.startswith("report: ")), 0)
        return told[at - 1] if at else ""

    @staticmethod
    def _text(file: Path) -> str:
        try:
            return file.read_text("utf-8", errors="replace")
        except OSError:
            return ""


def _family(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return [process, *process.children(recursive=True)]
    return [process]
