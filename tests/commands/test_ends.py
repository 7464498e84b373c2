"""How a command ends that is ended from outside, or whose terminal is gone: small processes that print and wait."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jind_nb.commands.terminal import Ended

pytestmark = pytest.mark.slow

# A command that starts a child in a temporary folder, prints and waits.
COMMAND = """
import os, subprocess, sys, tempfile, time
from jind_nb.commands.terminal import err, exit_status, out, print_line, stopped_with
with exit_status(), stopped_with("The same run again continues."), tempfile.TemporaryDirectory(dir=sys.argv[1]):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"]) as child:
        try:
            print_line(str(child.pid))
            for _ in range(600):
                time.sleep(0.1)
        finally:
            child.kill()
"""

PRINT = """
import os, sys
from jind_nb.commands.terminal import err, exit_status, out, print_line
with exit_status():
    results = open(sys.argv[1], "w")
    for _ in range(3):
        print_line("x" * 10_000)
        print_line("x" * 10_000, err)
    os.write(1, b"stray words of a library")
    import subprocess
    subprocess.run([sys.executable, "-c", "import os; os.fstat(1), os.fstat(2)"], check=True)
    results.write("right")
    results.close()
"""


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_run_with_a_sentence_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """Lost otherwise: the machine, to kernels nobody knows of; /tmp, to their folders; and how to go on."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert said == f"Stopped by {number.name}. The same run again continues.\n"
    assert process.returncode == 128 + number
    assert not is_alive(child)
    assert list(tmp_path.iterdir()) == []


def test_nohup_still_ignores_a_closed_terminal(tmp_path: Path) -> None:
    """Lost otherwise: the night's run, that was started so that it goes on."""
    process = subprocess.Popen(
        ["nohup", sys.executable, "-c", COMMAND, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.terminate()
    process.communicate(timeout=60)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_command_that_is_killed_says_why_all_the_same(tmp_path: Path, number: signal.Signals) -> None:
    """Lost otherwise: the reason why `predict` ended with "Killed", or with nothing, where a job's memory ran out."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    child = int(process.stdout.readline())
    process.send_signal(number)
    said = process.stderr.readline()
    if is_alive(child):
        os.kill(child, signal.SIGKILL)
    process.communicate(timeout=60)
    assert bool(re.match(r"Failed: the process was killed .* memory ran out: .* GB\. Give it more", said)) == (
        number == 9
    )


CLOSED = {
    "closed": "exec >&- 2>&- <&-; exec {command}",
    "full disk": "exec > /dev/full 2>&1; exec {command}",
    "reader gone": "({command}; echo $? > {status}) 2>&1 | true; exit $(cat {status})",
}


@pytest.mark.parametrize("how", CLOSED)
def test_output_that_nobody_reads_does_not_fail_a_run(tmp_path: Path, how: str) -> None:
    """Lost otherwise: the run, to a closed terminal or `| head`; or a file of results, to words that were printed into it."""
    (tmp_path / "print.py").write_text(PRINT)
    command = f"{sys.executable} {tmp_path}/print.py {tmp_path}/results"
    script = CLOSED[how].format(command=command, status=tmp_path / "status")
    done = subprocess.run(["bash", "-c", script], timeout=60, check=False)
    assert done.returncode == 0
    assert (tmp_path / "results").read_text() == "right"


def test_a_signal_passes_through_the_loop_that_runs_notebooks() -> None:
    """Lost otherwise: the end, to asyncio, which logs any exception that it does not know and goes on."""
    import asyncio

    def end() -> None:
        raise Ended(signal.SIGTERM)

    async def main() -> None:
        asyncio.get_running_loop().call_soon(end)
        await asyncio.sleep(10)

    with pytest.raises(Ended):
        asyncio.run(main())


@pytest.mark.parametrize(
    ("number", "says"), [(28, "The disk is full: out/x.csv"), (27, "(ulimit -f) is reached: out/x.csv")]
)
def test_any_command_names_the_limit_that_a_file_met(number: int, says: str) -> None:
    """Lost otherwise: the reason why `predict` failed, to a number of the system."""
    work = f"from jind_nb.commands.terminal import exit_status\nwith exit_status(): raise OSError({number}, '', 'out/x.csv')"
    done = subprocess.run([sys.executable, "-c", work], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert says in done.stderr
