"""The web page's folders: what each visitor uploaded, their runs, and the processes of those runs.

    ROOT/server.json           the token and the cookies' secret, which outlive a restart
    ROOT/places/               a run at work holds one of the locks in it
    ROOT/VISITOR/uploads/      files, under cleaned names
    ROOT/VISITOR/runs/RUN/     parameters.yaml, process.json, said.txt, results/, and empty files: begun (the run has a
                               place), cancelled

VISITOR is 32 random characters that only the visitor's link contains. A run is a process in a session of its own: it
continues without the page, the kernel that started it, and the server.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from ...core.files import FULL, InFolder, read_end, read_json, write_json
from ...core.parameters import BUNDLED, load_parameters, make_parameters
from ...core.processes import python_module
from ...core.text import listing
from ...errors import InputError
from ...runs.folder import Run
from ..run_output import current_stage, failure_message

VISITOR = re.compile(r"[A-Za-z0-9_-]{32}")

RUN = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{8}")

EXAMPLE = f"{BUNDLED}pbmc68k_reduced"

PLACES = "places"

PART = ".part"  # of an upload under way

LONGEST_FILE_NAME = 120  # bytes

MOST_FILES_LISTED = 500

SECONDS_TO_STOP = 15

SECONDS_BETWEEN_QUESTIONS = 0.2

MOST_SHOWN = 20_000  # bytes of a log

OF_KERNELS = ("FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "MPLBACKEND")

# The environment variable by which a page's kernel gets the server's settings.
SETTINGS = "JIND_NB_APP"

STARTED_HERE: list[psutil.Popen] = []

State = Literal["waiting", "running", "done", "cancelled", "failed"]


@dataclass(frozen=True)
class AppSettings:
    """The options of `jind-nb app`: the folder of all files, folders with data to choose from, limits."""

    root: Path
    data: tuple[Path, ...] = ()
    most_upload_bytes: int = 0  # of all uploads of a visitor; 0: no uploads
    runs_at_once: int = 1
    most_pages: int = 50  # open at once, each with a kernel
    keep_days: float = 0  # age after which uploads and ended runs are deleted; 0: they are kept
    has_token: bool = True
    served: bool = True  # False: JupyterLab shows the page

    @classmethod
    def from_environment(cls) -> AppSettings | None:
        """Return the server's settings, None if the page is opened in JupyterLab, without a server."""
        stored = os.environ.get(SETTINGS)
        return None if stored is None else TypeAdapter(cls).validate_json(stored)

    def to_environment(self) -> None:
        os.environ[SETTINGS] = TypeAdapter(AppSettings).dump_json(self).decode()

    def warnings(self, ip: str) -> list[str]:
        """Return what is not safe about serving the page at this address."""
        may_list = self.root.exists() and self.root.stat().st_mode & 0o077
        warnings = {
            "other machines can reach the page, and what is sent can be read on the way: put a proxy with https before it "
            "(docs/web.md).": not is_of_this_machine(ip),
            f"others on this machine may list {self.root}, and its names are the secret that keeps visitors apart: "
            f"chmod 700 {shlex.quote(str(self.root))}": may_list,
            "without a token, everybody who reaches the page can use it.": not self.has_token,
        }
        return [warning for warning, holds in warnings.items() if holds]


def is_of_this_machine(ip: str) -> bool:
    """Return whether only this machine reaches an address.

    >>> is_of_this_machine("127.0.0.2"), is_of_this_machine("::1"), is_of_this_machine("::")
    (True, True, False)
    """
    with suppress(ValueError):
        return ipaddress.ip_address(ip).is_loopback
    return ip == "localhost"


@contextmanager
def place_held(places: Path, n: int, is_wanted: Callable[[], bool] = lambda: True) -> Iterator[int | None]:
    """Wait for one of n places and hold it during the `with` block; the system frees it when its holder dies.

    Parameters
    ----------
    is_wanted
        Asked while waiting; if it returns False, no place is held.

    Yields
    ------
    The place's open file: a process that inherits it holds the place too. None without a place.
    """
    places.mkdir(parents=True, exist_ok=True)
    descriptors: list[int] = []
    while is_wanted():
        for number in range(n):
            with suppress(Timeout), FileLock(places / f"{number}.lock", timeout=0, on_acquired=descriptors.append):
                yield descriptors[-1]
                return
        time.sleep(1)
    yield None


def clean_name(name: str) -> str:
    """Return a safe name for an uploaded file: letters, digits and a few signs, ending in `.h5ad`.

    >>> clean_name("../my <b>cells</b>.h5ad"), clean_name("Zellen für Üben.H5AD")
    ('my _b_cells_b_.h5ad', 'Zellen für Üben.h5ad')

    Raises
    ------
    InputError
        If the name does not end in .h5ad.
    """
    if not name.lower().endswith(".h5ad"):
        raise InputError(f"{name[-100:]!r} is not an .h5ad file; write one with adata.write_h5ad().")
    stem = re.sub(r"[^\w .()+=,-]+", "_", name[:-5]).lstrip("._ ").rstrip()
    cut = stem.encode()[:LONGEST_FILE_NAME].decode(errors="ignore")  # no half character
    return f"{cut or 'cells'}.h5ad"


def _after_boot(process: psutil.Process) -> float:
    """Return when a process was started, in seconds since the machine was: a clock that is set does not change it."""
    return float(process.create_time() - psutil.boot_time())


def promised_bytes(root: Path) -> int:
    """Return how many bytes of all visitors' uploads under way are still to come: their files take no space yet."""
    missing = 0
    for part in root.glob(f"*/uploads/.*{PART}"):
        with suppress(FileNotFoundError):  # it has just ended
            status = part.stat()
            missing += max(0, status.st_size - 512 * status.st_blocks)
    return missing


def remove_old(settings: AppSettings) -> None:
    """Delete the uploads and ended runs of all visitors that are older than the settings allow, if they have a limit.

    A file that a run at work reads is kept.
    """
    if not settings.keep_days:
        return
    oldest = time.time() - 86_400 * settings.keep_days
    for folder in settings.root.iterdir():
        workspace = Workspace.find(settings, folder.name)
        if workspace is None:
            continue
        with suppress(OSError):  # a visitor who deletes the same
            for run in workspace.all_runs():
                if run.process() is None and run.last_change() < oldest:
                    run.delete()
            for file in workspace.uploaded():
                if file.stat().st_mtime < oldest and not workspace.uses(str(file)):
                    file.unlink()


@dataclass(frozen=True)
class Workspace:
    """One visitor's folder."""

    settings: AppSettings
    visitor: str

    @classmethod
    def new(cls, settings: AppSettings, visitor: str = "") -> Workspace:
        """Make the folders of a visitor, with a random name if none is given."""
        this = cls(settings, visitor or secrets.token_urlsafe(24))
        for folder in (this.folder, this.uploads, this.runs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return this

    @classmethod
    def find(cls, settings: AppSettings, visitor: str) -> Workspace | None:
        this = cls(settings, visitor)
        return this if VISITOR.fullmatch(visitor) and this.folder.is_dir() else None

    @property
    def folder(self) -> Path:
        # Without links on the way to it: a path that was chosen, and has none either, is looked for in it again.
        return self.settings.root.resolve() / self.visitor

    uploads = InFolder("uploads")
    runs = InFolder("runs")

    def without_folder(self, message: str) -> str:
        """Return a message without the path of the visitor's folder."""
        return message.replace(f"{self.uploads}{os.sep}", "").replace(str(self.folder), "…")

    # --- files

    def uploaded(self) -> list[Path]:
        """Return the complete uploads, the newest first."""
        files = [file for file in self.uploads.glob("*.h5ad") if file.is_file() and not file.is_symlink()]
        return sorted(files, key=lambda file: -file.stat().st_mtime)

    def room(self) -> int:
        """Return how many bytes the limit and the disk still allow to upload."""
        used = sum(file.stat().st_size for file in self.uploads.iterdir())
        # A run writes about twice its input.
        free = (shutil.disk_usage(self.folder).free - promised_bytes(self.settings.root)) // 3
        return max(0, min(self.settings.most_upload_bytes - used, free))

    def begin_upload(self, name: str, n_bytes: int) -> Path:
        """Return a temporary file of `n_bytes` for an upload; `end_upload` gives it its name.

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
        os.truncate(file, n_bytes)  # counts at once for other uploads, but takes no space yet
        return file

    def end_upload(self, part: Path, name: str) -> Path:
        """Give a complete upload its name, or the next free one: `cells (2).h5ad`."""
        file = self.uploads / clean_name(name)
        stem, number = file.stem, 1
        while file.exists():
            number += 1
            file = file.with_name(f"{stem} ({number}).h5ad")
        return part.rename(file)

    def uses(self, file: str) -> bool:
        """Return whether a run at work reads this file."""
        return any(run.process() and file in run.paths() for run in self.all_runs())

    def server_files(self) -> list[Path]:
        """Return the .h5ad files and .zarr folders in the server's data folders, at most some hundreds."""
        found: list[Path] = []
        for folder in self.settings.data:
            for above, folders, names in os.walk(folder):
                here = [Path(above) / name for name in sorted(folders + names) if name.endswith((".h5ad", ".zarr"))]
                folders[:] = sorted(f for f in folders if not f.startswith(".") and not f.endswith(".zarr"))
                found += [file for file in here if self._in_data(file)]
                if len(found) >= MOST_FILES_LISTED:
                    return found[:MOST_FILES_LISTED]
        return found

    def resolve_path(self, path: str) -> str:
        """Return PATH for a visitor's choice: an own upload, the example, or a file in a data folder.

        Raises
        ------
        InputError
            For any other path, whether it exists or not.
        """
        if path == EXAMPLE:
            return path
        chosen = Path(path)
        if chosen in self.uploaded() or (chosen.is_absolute() and self._in_data(chosen)):
            return str(chosen.resolve())
        folders = listing(self.settings.data, quoted=False)
        where = f" and not in {folders}; give the whole path of a file in there." if folders else "."
        raise InputError(f"{path!r} is no file of yours{where}")

    def _in_data(self, path: Path) -> bool:
        with suppress(OSError, ValueError, RuntimeError):
            above = path.resolve(strict=True).parents
            if self.settings.root.resolve() not in above:  # which may lie in a data folder itself
                return any(folder.resolve() in above for folder in self.settings.data)
        return False

    # --- runs

    def all_runs(self) -> list[RunOfVisitor]:
        """Return all runs, the newest first."""
        names = sorted((path.name for path in self.runs.iterdir() if RUN.fullmatch(path.name)), reverse=True)
        return [run for run in (RunOfVisitor(self, name) for name in names) if run.is_there()]

    def run(self, name: str) -> RunOfVisitor | None:
        return next((run for run in self.all_runs() if run.name == name), None)

    def start_run(self, values: dict[str, Any]) -> RunOfVisitor:
        """Start a new run with these parameters.

        Raises
        ------
        InputError
            If a parameter is wrong, or the visitor may not use PATH.
        OSError
            If the disk is full; nothing is left of the run then.
        """
        run = RunOfVisitor(self, f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}")
        values = values | {"PATH": self.resolve_path(values["PATH"]), "OUTPUT_PATH": str(run.results)}
        make_parameters(values)
        run.folder.mkdir(mode=0o700)
        try:
            # JSON is YAML, and names of any kind come back as they were.
            write_json(run.parameters_yaml, values)
            run.start()
        except OSError:
            shutil.rmtree(run.folder, ignore_errors=True)
            raise
        return run


def ask_process(
    workspace: Workspace, work: str, argument: object, is_wanted: Callable[[], bool]
) -> dict[str, Any] | None:
    """Return the answer of a process of `app.process`; of wrong input, its `error`; None if it is no longer wanted.

    A visitor has one such process at a time, whatever is clicked in however many tabs: each holds a part of a file.

    Parameters
    ----------
    is_wanted
        Asked all the time; if it returns False, the process is ended.
    """
    with place_held(workspace.folder / PLACES, 1, is_wanted) as place:
        if place is None:
            return None
        process = subprocess.Popen(
            python_module("jind_nb.commands.app.process", work),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            cwd=workspace.folder,
            pass_fds=[place],  # a page that is closed meanwhile leaves the process, which goes on to count
        )
        text: str | None = json.dumps(argument)
        while True:
            try:
                out, err = process.communicate(text, timeout=SECONDS_BETWEEN_QUESTIONS)
                break
            except subprocess.TimeoutExpired:
                text = None
            if not is_wanted():
                process.kill()
                process.communicate()
                return None
    try:
        answer = dict(json.loads(out))
    except ValueError:
        answer = {"error": f"Reading it failed. {err[-1000:]}"}
    if "error" in answer:
        answer["error"] = workspace.without_folder(answer["error"])
    return answer


@dataclass(frozen=True)
class RunOfVisitor:
    """One run of a visitor: its folder, and the process at work in it."""

    workspace: Workspace
    name: str

    @property
    def folder(self) -> Path:
        return self.workspace.runs / self.name

    results = InFolder("results")
    parameters_yaml = InFolder("parameters.yaml")
    begun = InFolder("begun")  # empty; is there once the run has a place
    cancelled = InFolder("cancelled")  # empty

    @property
    def run(self) -> Run:
        return Run(load_parameters(self.parameters_yaml))

    def is_there(self) -> bool:
        """Return whether the run is there and not deleted; also one whose files cannot be read is there."""
        try:
            self.parameters_yaml.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            pass
        return True

    def problem(self) -> str:
        """Return why the run cannot be read, an empty text if it can."""
        try:
            load_parameters(self.parameters_yaml)
        except (InputError, OSError) as error:
            return f"This run cannot be read: {error}"
        return ""

    def paths(self) -> list[str]:
        """Return the files that the run reads; none if that cannot be known."""
        with suppress(InputError, OSError):
            return self.run.parameters.paths
        return []

    def title(self) -> str:
        """Return when the run was started, and what it annotates."""
        when = f"{self.name[:4]}-{self.name[4:6]}-{self.name[6:8]} {self.name[9:11]}:{self.name[11:13]}"
        target = "unreadable" if self.problem() else self.run.parameters.target
        return f"{when}, {target}"

    def files(self) -> dict[str, Path]:
        """Return the files that the visitor may fetch by their names, those that exist."""
        run = self.run
        files = [
            run.report_html, run.report_pdf, run.predictions_xlsx, run.predictions_csv, run.predictions_parquet,
            run.unlike_groups, run.suspect_labels, run.annotated_target, run.annotated_targets, run.parameters_yaml,
            run.metrics, run.log,
        ]  # fmt: skip
        return {file.name: file for file in files if file.is_file() and not file.is_symlink()}

    def archived(self, name: str) -> dict[str, Path]:
        """Return what is in one of the archives that the visitor may fetch, by the names there: `model.zip` has the saved model,
        `everything.zip` the files too; empty for any other name, and while there is nothing."""
        models = self.run.models
        of_model = {
            f"{models.name}/{file.name}": file
            for file in sorted(models.glob("*"))
            if file.is_file() and not file.is_symlink()
        }
        return {"model.zip": of_model, "everything.zip": self.files() | of_model}.get(name, {})

    def start(self) -> None:
        """Start the process; a run that was ended before continues after its last finished stage."""
        if self.process() is not None:
            return
        for sign in (self.begun, self.cancelled):
            sign.unlink(missing_ok=True)
        settings = self.workspace.settings
        # These variables of a kernel would make the process write colours.
        environment = {name: value for name, value in os.environ.items() if name not in OF_KERNELS}
        with (self.folder / "said.txt").open("wb") as output:
            process = psutil.Popen(
                python_module("jind_nb.commands.app.process", "run", self.folder, settings.runs_at_once),
                cwd=self.folder,
                env=environment | {"NO_COLOR": "1", "COLUMNS": "200"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        STARTED_HERE.append(process)
        try:
            # A later process may get the same number.
            write_json(self.folder / "process.json", {"pid": process.pid, "after_boot": _after_boot(process)})
        except OSError:  # nobody could find it again
            process.kill()
            process.wait()
            raise

    def process(self) -> psutil.Process | None:
        """Return the process at work, None if there is none."""
        for child in STARTED_HERE:
            child.poll()  # removes it from the system's table if it has ended
        with suppress(OSError, ValueError, KeyError, TypeError, psutil.Error):  # also of a file that is damaged
            stored = read_json(self.folder / "process.json")
            process = psutil.Process(stored["pid"])
            # Whoever is found here may be killed: it has to be one that works in this folder, or one in it, too.
            where = Path(process.cwd())
            is_ours = abs(_after_boot(process) - stored["after_boot"]) < 1 and self.folder in (where, *where.parents)
            if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None

    def state(self) -> State:
        if self.process() is not None:
            return "running" if self.begun.exists() else "waiting"
        if (self.results / "manifest.json").exists():
            return "done"
        return "cancelled" if self.cancelled.exists() else "failed"

    def cancel(self) -> None:
        """End the process and everything it started; the files of finished stages are kept."""
        process = self.process()
        if process is None:
            return
        with suppress(OSError):  # of a full disk; it is called failed then
            self.cancelled.touch()
        family = {process}
        with suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            family.update(process.children(recursive=True))
            process.send_signal(signal.SIGINT)
            process.wait(SECONDS_TO_STOP)
        with suppress(psutil.NoSuchProcess):
            family.update(process.children(recursive=True))  # those it started meanwhile
        for left in family:
            with suppress(psutil.NoSuchProcess):
                left.kill()
        psutil.wait_procs(family, timeout=SECONDS_TO_STOP)

    def last_change(self) -> float:
        """Return when a file of the run was last written, in seconds since 1970."""
        files = [self.folder, *self.folder.iterdir(), *(self.results.iterdir() if self.results.is_dir() else ())]
        return max(file.lstat().st_mtime for file in files)

    def delete(self) -> None:
        self.cancel()
        with suppress(OSError):  # first: without it the run is no longer listed
            self.parameters_yaml.unlink()
        shutil.rmtree(self.folder)

    def progress(self) -> tuple[int, int, str]:
        """Return the stage at work (from 1; 0 before the first), the number of stages, and what the stage does."""
        number, n_stages, stage = current_stage(self._output()) or (0, 1, ": starting")
        return number, n_stages, stage.partition(": ")[2]

    def seconds(self) -> float:
        """Return how long the run has been at work."""
        return max(0.0, time.time() - self.begun.stat().st_mtime) if self.begun.exists() else 0.0

    def log(self) -> str:
        """Return the end of the run's log."""
        return read_end(self.results / "run.log", MOST_SHOWN)

    def why_failed(self) -> str:
        """Return the run's own message, or the end of its output."""
        output, ended = self._output(), "It was ended from outside, most often because memory ran out."
        if shutil.disk_usage(self.folder).free < FULL:
            ended = "The disk is full. Delete files that are no longer needed, then run it again."
        return failure_message(output) or f"{ended}\n{output[-2000:]}"

    def summary(self) -> str:
        """Return the result of a finished run in one line: the one above the report's path."""
        found = re.search(r"^(.*)\nreport: ", self._output(), re.M)
        return found[1] if found else ""

    def _output(self) -> str:
        return read_end(self.folder / "said.txt", MOST_SHOWN)
