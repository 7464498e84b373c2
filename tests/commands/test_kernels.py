"""The kernels of stages, with a notebook of one cell: what they see of the user's settings and of the folder they work in."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import psutil
import pytest

from jind_nb.commands import kernels
from jind_nb.commands.kernel_process import WaitingKernel, waiting_kernel
from tests.conftest import run_command

LOOK = """
import builtins, importlib.util, json, sys
import matplotlib
print(json.dumps({
    "python": sys.executable, "usetex": matplotlib.rcParams["text.usetex"], "size": matplotlib.rcParams["font.size"],
    "started": hasattr(builtins, "started_by_user"), "umap": importlib.util.find_spec("umap").origin,
    "inline": "inline" in matplotlib.get_backend(), "ends first": open("/proc/self/oom_score_adj").read().strip() == "500",
}))
"""

# What a run does with each of its notebooks.
EXECUTE = """
import sys
from pathlib import Path
from jind_nb.commands import kernels
from jind_nb.commands.kernel_process import waiting_kernel
folder, shipped = Path(sys.argv[1]), Path(sys.argv[2])
kernels.shipped = lambda _: shipped
with (
    waiting_kernel(["jind_nb.report.plots.style"]) as waiting,  # as for every stage
    kernels.own_kernels(folder) as own,
    kernels.one_kernel(["look", "again"], own, waiting) as stages,
):
    for name, kernel in stages:
        kernels.execute(name, folder / f"{name}.ipynb", {}, folder, kernel)
"""

LEFT = "print([name for name in ('mine', 'json', '_') if name in globals()])"


def test_kernels_see_nothing_of_the_users(tmp_path: Path) -> None:
    """Lost otherwise: a run, to a kernel of another Python, to `text.usetex`, to a long TMPDIR, or to what IPython does at its
    start; and whose code is executed, where a file in OUTPUT_PATH is called like a library."""
    users, folder, long, shipped = (tmp_path / name for name in ("users", "results", "x" * 82, "shipped"))
    for made in (users / "kernels" / "python3", users / "profile_default" / "startup", folder, long, shipped):
        made.mkdir(parents=True)
    (users / "kernels" / "python3" / "kernel.json").write_text('{"argv": ["/bin/false"], "display_name": "other"}')
    for start in (users / "profile_default" / "startup" / "a.py", users / "startup.py"):
        start.write_text("import builtins; builtins.started_by_user = True")
    for place in (users, folder):
        (place / "matplotlibrc").write_text("text.usetex: True\nfont.size: 33\n")
    (folder / "umap.py").write_text("raise RuntimeError('executed')")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(LOOK)])
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    notebook.cells.append(nbformat.v4.new_code_cell("mine = 1\nmine"))
    nbformat.write(notebook, shipped / "look.ipynb")
    notebook.cells[:] = [nbformat.v4.new_code_cell(LEFT)]
    nbformat.write(notebook, shipped / "again.ipynb")
    of_user = dict.fromkeys(("JUPYTER_PATH", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR"), str(users))
    of_user |= {"MATPLOTLIBRC": str(users / "matplotlibrc"), "MPLBACKEND": "pdf", "TMPDIR": str(long)}
    of_user |= {"PYTHONSTARTUP": str(users / "startup.py"), "JUPYTER_PREFER_ENV_PATH": "0"}
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, str(folder), str(shipped)],
        env=os.environ | of_user,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    outputs = nbformat.read(folder / "look.ipynb", as_version=4).cells[-2].outputs
    seen = json.loads("".join(output.text for output in outputs if output.name == "stdout"))
    assert seen.pop("umap") not in (None, str(folder / "umap.py"))
    assert seen.pop("ends first")  # when memory runs out: the run itself says so then
    assert seen == {"python": sys.executable, "usetex": False, "size": 10.0, "started": False, "inline": True}
    assert list(long.iterdir()) == []
    again = nbformat.read(folder / "again.ipynb", as_version=4).cells[-1]
    assert "".join(output.text for output in again.outputs) == "[]\n"  # one kernel, and nothing of the notebook before


def test_a_kernel_that_is_killed_at_work_ends_the_run_with_a_sentence(tmp_path: Path) -> None:
    """Lost otherwise: the night, to a run that waits for ever for a process that the system ended when memory ran out."""
    folder, shipped = tmp_path / "results", tmp_path / "shipped"
    for made in (folder, shipped):
        made.mkdir()
    cell = nbformat.v4.new_code_cell("import os, signal, time; os.kill(os.getpid(), signal.SIGKILL); time.sleep(100)")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), shipped / "look.ipynb")
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, str(folder), str(shipped)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "look: the process was killed from outside, most often because memory ran out: " in done.stderr


DRAW = """
from jind_nb.commands.terminal import exit_status
with exit_status():
    from jind_nb.report.plots import style
    figure, ax = style.plt.subplots()
    ax.set_title("x")
    style.described(figure, "x")
    print(style.plt.rcParams["text.usetex"], style.plt.get_backend())
"""


@pytest.mark.slow
def test_pictures_of_the_command_itself_heed_no_settings_of_the_users(tmp_path: Path) -> None:
    """Lost otherwise: a run at its last stage, `predict --report` and `report`, to LaTeX that is not there."""
    for folder, setting in (("", "text.usetex: True"), ("own", "font.family: nowhere")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "matplotlibrc").write_text(setting)
    done = subprocess.run(
        [sys.executable, "-c", DRAW],
        cwd=tmp_path,
        env=os.environ | {"MPLBACKEND": "tkagg", "MATPLOTLIBRC": str(tmp_path / "own" / "matplotlibrc")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "False agg\n", done.stderr


@pytest.fixture
def waiting() -> Iterator[WaitingKernel]:
    with waiting_kernel(["matplotlib"]) as kernel:
        yield kernel


def test_a_kernel_that_is_killed_between_two_notebooks_is_told(waiting: WaitingKernel, tmp_path: Path) -> None:
    """Lost otherwise: a minute of waiting for a process that is gone, and why the run ended."""
    with kernels.own_kernels(tmp_path) as own, kernels.one_kernel(["first", "second"], own, waiting) as stages:
        _, kernel = next(stages)
        kernel.signal_kernel(signal.SIGKILL)
        with pytest.raises(kernels.StageError, match=r"killed from outside, .*; run again continues"):
            next(stages)


WAITS = """
import os, signal, sys, time
from jind_nb.commands.kernel_process import WaitingKernel
kernel = WaitingKernel.new(["matplotlib"])
if len(sys.argv) > 1:
    os.kill(kernel.process.pid, signal.SIGSTOP)  # as a busy machine does
    kernel.begin(["-f", sys.argv[1] + "/kernel.json"], sys.argv[1], os.environ, [])
print(kernel.process.pid, flush=True)
time.sleep(100)
"""


@pytest.mark.parametrize("told", [False, True])
def test_a_kernel_that_does_not_begin_in_time_ends_with_its_command(told: bool, tmp_path: Path) -> None:
    """Lost otherwise: half a gigabyte of memory, and the folder, for each command that was killed while its kernel imported."""
    code = [sys.executable, "-c", WAITS, *([str(tmp_path)] if told else [])]
    with subprocess.Popen(code, stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        waiting = psutil.Process(int(command.stdout.readline()))
        command.kill()
    waiting.resume()
    assert psutil.wait_procs([waiting], timeout=60)[1] == []


def test_a_kernel_whose_folder_is_gone_leaves_the_words_to_its_command(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    """Lost otherwise: the sentence that a folder was removed, under a traceback."""
    waiting = WaitingKernel.new(["matplotlib"])
    waiting.begin(["-f", str(tmp_path / "kernel.json")], str(tmp_path / "missing"), os.environ, [])
    assert waiting.process.wait(60) == 0
    assert capfd.readouterr().err == ""


STARTED = """
import json, os, shutil, socket, sys
import matplotlib
from ipykernel.kernelapp import IPKernelApp
from jind_nb.commands.kernel_process import become_kernel

folder, is_removed = sys.argv[1], sys.argv[2] == "removed"

def launch():
    if is_removed:
        shutil.rmtree(folder)
    open("not there")

IPKernelApp.launch_instance = launch
ours, theirs = socket.socketpair()
told = {"arguments": [], "folder": folder, "environment": dict(os.environ), "parent": os.getppid()}
ours.sendall(b" " + json.dumps(told).encode())
ours.close()
become_kernel(theirs)
"""


@pytest.mark.parametrize(("what", "returns"), [("removed", 0), ("kept", 1)])
def test_a_kernel_whose_folder_goes_while_it_starts_leaves_the_words_to_its_command(
    what: str, returns: int, tmp_path: Path
) -> None:
    """And one that misses another file says so."""
    (folder := tmp_path / "results").mkdir()
    done = subprocess.run([sys.executable, "-c", STARTED, folder, what], capture_output=True, text=True, check=False)
    assert done.returncode == returns, done.stderr
    assert ("Traceback" in done.stderr) == bool(returns)


def test_wrong_parameters_leave_no_process(tmp_path: Path) -> None:
    """Lost otherwise: the seconds in which a process goes on importing for nothing."""
    before = {process.pid for process in psutil.process_iter()}
    done = run_command("run", tmp_path / "missing.yaml", cwd=tmp_path, JIND_NB_TEST=str(tmp_path))
    assert done.returncode == 2
    left = [process for process in psutil.process_iter() if process.pid not in before]
    assert [process for process in left if _environment(process).get("JIND_NB_TEST") == str(tmp_path)] == []


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}
