"""Commands in forks of one process that has everything imported: a whole run for a third of the price.

For tests of what a run leaves in its folder: its notebooks run in an IPython shell instead of on four kernels, and all
else (the lock, what is reused and set aside, page and PDF) is what `jind-nb run` does. What kernels and processes do is
tested with `run_command`; that both leave the same folder is tested in `tests/commands/test_run.py`.
"""

from __future__ import annotations

import base64
import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from socketserver import ForkingMixIn, StreamRequestHandler, UnixStreamServer
from typing import Any

from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]


# --- in the tests -----------------------------------------------------------------------------------------------------


_started: list[subprocess.Popen[bytes]] = []


def _session() -> int:
    """Return the process that all workers of this session of tests come from."""
    return os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()


@cache
def _server() -> Path:
    """Return the socket of the process that is forked; the first worker to ask starts it, and it ends with the session."""
    folder = Path(tempfile.gettempdir()) / f"jind-nb-tests-{_session()}"
    folder.mkdir(exist_ok=True)
    place = folder / "socket"
    with FileLock(folder / "lock"):
        if not place.exists():
            started = [sys.executable, "-m", "tests.helpers.one_process", str(_session()), str(place)]
            _started.append(subprocess.Popen(started, cwd=ROOT))
        while not place.exists():
            assert all(server.poll() is None for server in _started), "the process to fork did not start"
            time.sleep(0.05)
    return place


def run_forked(
    *arguments: object, cwd: Path, pdf: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `jind-nb` with these arguments; like `tests.conftest.run_command`, but without kernels.

    Parameters
    ----------
    pdf
        Whether the report and the training history are printed, too, which costs more than all else; if not, the run says that
        the report is not, and the history is an empty PDF.
    """
    said = [cwd / f".{name}.txt" for name in ("stdout", "stderr")]
    order = {
        "arguments": [str(argument) for argument in arguments],
        "cwd": str(cwd),
        "environment": dict(os.environ | environment),
        "said": [str(file) for file in said],
        "pdf": pdf,
    }
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(str(_server()))
        server.sendall(json.dumps(order).encode() + b"\n")
        status = int(server.makefile().readline())
    out, err = (file.read_text("utf-8") for file in said)
    for file in said:
        file.unlink()
    return subprocess.CompletedProcess(order["arguments"], status, out, err)


# --- in the process that is forked ------------------------------------------------------------------------------------


@contextmanager
def _no_kernels(stages: Sequence[str], _own: object, _waiting: object) -> Iterator[Iterator[tuple[str, None]]]:
    yield ((stage, None) for stage in stages)


def _execute(template: str, executed: Path, parameters: Mapping[str, Any], folder: Path, _kernel: None) -> None:
    """Do what `jind_nb.commands.kernels.execute` does, in this process."""
    import nbformat
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    from jind_nb.commands.kernels import StageError
    from jind_nb.core.locks import OURS
    from jind_nb.core.logs import log_to
    from jind_nb.core.progress import NO_BARS
    from jind_nb.core.resources import shipped
    from jind_nb.errors import InputError

    notebook = load_notebook_node(str(shipped("notebooks") / f"{template}.ipynb"))
    notebook = parameterize_notebook(notebook, dict(parameters))
    os.chdir(folder)
    os.environ |= {OURS: str(folder), NO_BARS: "1"}
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(user_ns={"__name__": "__main__"})
    error = None
    for number, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), 1):
        with capture_output() as seen:
            result = shell.run_cell(cell.source, store_history=False)
        cell.execution_count = number
        cell.outputs = [
            nbformat.v4.new_output("stream", name=name, text=text)
            for name, text in (("stdout", seen.stdout), ("stderr", seen.stderr))
            if text
        ]
        cell.outputs += [
            nbformat.v4.new_output("display_data", data=_as_json(shown.data), metadata=shown.metadata or {})
            for shown in seen.outputs
        ]
        error = result.error_before_exec or result.error_in_exec
        if error is not None:
            break
    nbformat.write(notebook, executed)
    del os.environ[OURS], os.environ[NO_BARS]
    log_to(folder / "run.log")  # a notebook's lines go to its reader, too; the command's do not
    if isinstance(error, InputError):
        raise InputError(str(error))
    if error is not None:
        raise StageError(f"{template} failed: {error!r}") from error


def _as_json(data: dict[str, Any]) -> dict[str, Any]:
    return {kind: base64.b64encode(of).decode() if isinstance(of, bytes) else of for kind, of in data.items()}


def _run(order: dict[str, Any]) -> int:
    """Run one command in this fork; its exit status."""
    from jind_nb.cli import main
    from jind_nb.commands import kernel_process, progress, run
    from jind_nb.report.plots import confusion

    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["cwd"])
    for descriptor, file in enumerate(order["said"], 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
    kernel_process.waiting_kernel = nullcontext  # type: ignore[assignment]
    run.one_kernel, run.execute = _no_kernels, _execute  # type: ignore[assignment]
    # Not into `sys.stderr`, where a slow cell's output is caught meanwhile.
    progress._print_line = lambda _, text: print(text, file=sys.__stderr__)
    if not order["pdf"]:
        run.report.write_pdf = lambda *_: "this test looks at none"
        confusion.write_history = lambda _history, _source, _target, path, _detail: path.write_bytes(
            b"%PDF-1.7\n%%EOF\n"
        )
    sys.argv = ["jind-nb", *order["arguments"]]
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


class _Fork(StreamRequestHandler):
    """Answer an order, a line of JSON, with the exit status of its command."""

    def handle(self) -> None:
        status = _run(json.loads(self.rfile.readline()))
        sys.stdout.flush()
        sys.stderr.flush()
        self.wfile.write(f"{status}\n".encode())


class _Server(ForkingMixIn, UnixStreamServer):
    """A process that has everything imported, and forks for each order until the session of tests has ended."""

    block_on_close = False

    def service_actions(self) -> None:
        super().service_actions()
        try:
            os.kill(int(sys.argv[1]), 0)
        except ProcessLookupError:
            shutil.rmtree(Path(sys.argv[2]).parent)
            sys.exit()


def serve() -> None:
    """Import everything, then answer orders."""
    from jind_nb.commands.kernel_process import FOR_A_COMPARISON, FOR_A_RUN
    from jind_nb.core._compat import import_umap, this_process_is_ours

    this_process_is_ours()
    commands = [f"jind_nb.commands.{name}" for name in ("predict", "run", "validate")]
    reports = ["jind_nb.report.page", "nbconvert", "papermill", "weasyprint"]
    for name in [*FOR_A_RUN, *FOR_A_COMPARISON, *commands, *reports]:
        importlib.import_module(name)
    import_umap()
    with _Server(sys.argv[2], _Fork) as server:
        server.serve_forever()


if __name__ == "__main__":
    serve()
