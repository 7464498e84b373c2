"""Let random faults hit a loop of small runs, and count how they end.

    python -m benchmarks.product.soak --minutes 60

Each run works in the folder that the one before left, so that it continues, repeats or replaces. At a random moment one of
FAULTS happens to it. Then its end must be one of

- right: exit status 0, and bit for bit the files that an undisturbed run writes;
- told: exit status 1 or 2 with one message (`Failed:`, `Wrong input:`), or a signal's with `Stopped`;
- killed: what was killed with SIGKILL says nothing;

and after any of them no file under its final name is half-written, no process of the run is alive, and the folder for
temporary files has nothing new (after SIGKILL: nothing that the next run leaves there). Anything else is `wrong`, in words.
A run that does not end within ten minutes is a hang. Full disks need the right to mount one. Rows are written as they
come; the command may be stopped at any time.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
import yaml

from benchmarks.common import RESULTS, ROOT, jind_nb, parser_of
from tests.helpers.simulated import THREE_BATCHES, simulated
from tests.helpers.whole import differences, unreadable

OUTPUT = RESULTS / "soak.csv"

SECONDS_UNTIL_A_HANG = 600

MEGABYTES = 600  # of the disk: check_output asks for 200 and twice the input

# What happens to a run at its moment; those of START are there from its beginning.
FAULTS = (
    "nothing", "SIGKILL to the command", "SIGKILL to all", "SIGKILL to a kernel", "SIGTERM", "SIGHUP", "SIGINT", "disk full",
    "input changed", "folder removed", "second run in the folder", "clock of a file set back",
)  # fmt: skip

START = (
    "stdout and stderr closed", "ulimit -n 64", "ulimit -f", "OMP_NUM_THREADS=0", "working directory removed",
    "HOME not writable", "long TMPDIR", "output not writable",
)  # fmt: skip

MESSAGES = ("Failed:", "Wrong input:", "Stopped")


@dataclass(frozen=True)
class Place:
    """Where everything is: a disk of its own if one can be mounted."""

    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "disk" / "run"

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    def start(
        self, how: str = "", run: Path | None = None, log: Path | None = None, *, force: bool = False
    ) -> subprocess.Popen[bytes]:
        """Start a run, under one of the faults of START; with `force` it reuses nothing."""
        log, work = log or self.log, self.folder / "work"
        work.mkdir(exist_ok=True)
        home, long = self.folder / "home", self.temporary / ("x" * 82)
        for made in (self.temporary, home):
            made.mkdir(exist_ok=True)
        environment = os.environ | {"TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1", "COLUMNS": "1000"}
        output = self.folder / "file" / "run" if how == "output not writable" else run or self.run
        (self.folder / "file").touch()
        before = {
            "stdout and stderr closed": "exec >&- 2>&-; ",
            "ulimit -n 64": "ulimit -n 64; ",
            "ulimit -f": "ulimit -f 1000; ",
            "working directory removed": "rmdir ../work; ",
        }.get(how, "")
        if how == "OMP_NUM_THREADS=0":
            environment["OMP_NUM_THREADS"] = "0"
        if how == "HOME not writable":
            environment["HOME"] = "/proc/nobody"
            environment.pop("XDG_CACHE_HOME", None)
        if how == "long TMPDIR":
            long.mkdir(exist_ok=True)
            environment["TMPDIR"] = str(long)
        options = ["--force"] if force else []
        command = " ".join(jind_nb("run", self.folder / "p.yaml", "--output-path", output, *options))
        with log.open("wb") as stderr:
            return subprocess.Popen(
                ["bash", "-c", f"{before}exec {command}"], cwd=work, env=environment, stdout=stderr, stderr=stderr
            )

    def processes(self) -> list[psutil.Process]:
        """Return the live processes that belong to runs in this place."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                ours = process.environ().get("TMPDIR", "").startswith(str(self.temporary))
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


@contextmanager
def disk_at(folder: Path) -> Iterator[bool]:
    """Mount a small disk at a folder, if that is allowed; yield whether."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "none", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def happen(fault: str, place: Place, process: subprocess.Popen[bytes], rng: random.Random) -> list[str]:
    """Let a fault happen to a run at work; return what went wrong beside the run itself."""
    if fault.startswith("SIGKILL"):
        me = psutil.Process(process.pid)
        children = me.children(recursive=True)
        chosen = {"SIGKILL to the command": [me], "SIGKILL to all": [me, *children]}.get(fault)
        if chosen is None:
            chosen = [rng.choice(children)] if children else []
        for one in chosen:
            with suppress(psutil.NoSuchProcess):
                one.kill()
    elif fault.startswith("SIG"):
        process.send_signal(signal.Signals[fault])
    elif fault == "disk full":
        with (place.run.parent / "full").open("wb", buffering=0) as fill, suppress(OSError):
            while True:
                fill.write(bytes(2**20))
    elif fault == "input changed":
        with (place.folder / "input.h5ad").open("ab") as stream:
            stream.write(b"x")
    elif fault == "folder removed":
        subprocess.run(["rm", "-rf", str(place.run)], check=False)  # the run goes on writing while it is removed
    elif fault == "clock of a file set back":
        for file in place.run.rglob("*"):
            with suppress(OSError):
                os.utime(file, (1e9, 1e9))
    elif fault == "second run in the folder":
        log = place.folder / "second.txt"
        second = place.start(log=log)
        is_refused = second.wait(SECONDS_UNTIL_A_HANG) == 2 and "at work in" in log.read_text()
        if not is_refused and process.poll() is None:  # unless the first one has ended meanwhile
            return [f"a second run was let in: {second.returncode} {log.read_text()[-300:]}"]
    return []


def repair(fault: str, place: Place, content: bytes) -> None:
    """Undo what the next run should not find."""
    (place.run.parent / "full").unlink(missing_ok=True)
    if fault == "input changed":
        (place.folder / "input.h5ad").write_bytes(content)


def end_of(fault: str, status: int, log: str, place: Place, wanted: Path) -> tuple[str, list[str]]:
    """Return how a run ended (right, told, killed), and what is wrong about that."""
    if status == -signal.SIGKILL:
        return "killed", [] if fault.startswith("SIGKILL") else ["killed by nobody"]
    if status == 0:
        return "right", differences(place.run, wanted)
    said = [line for line in log.splitlines() if line.startswith(MESSAGES)]
    wrong = [] if len(said) == 1 else [f"{len(said)} messages: {log[-300:]}"]
    wrong += [f"a traceback: {log[-300:]}"] if "Traceback" in log else []
    wrong += [f"status {status}"] if status not in (1, 2, 129, 130, 143) else []
    wrong += ["nothing happened to it"] if fault == "nothing" else []
    return "told", wrong


def one(
    fault: str, place: Place, wanted: Path, seconds: float, rng: random.Random, content: bytes
) -> dict[str, object]:
    """Do one run under a fault and return its row. Over a finished run it reuses nothing, after another it continues."""
    moment, begun, force = rng.uniform(0.5, seconds), time.monotonic(), (place.run / "manifest.json").exists()
    before = {path.name for path in place.temporary.glob("*")} if place.temporary.exists() else set()
    process, wrong = place.start(fault if fault in START else "", force=force), []
    has_happened = fault in START or fault == "nothing"
    if not has_happened:
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            has_happened = True
            wrong += happen(fault, place, process, rng)
    try:
        status = process.wait(SECONDS_UNTIL_A_HANG)
    except subprocess.TimeoutExpired:
        wrong.append("it does not end")
        process.kill()
        status = process.wait()
    end, found = end_of(fault, status, place.log.read_text(errors="replace"), place, wanted)
    wrong += found
    patience = time.monotonic() + (20 if end == "killed" else 3)
    while (alive := place.processes()) and time.monotonic() < patience:
        time.sleep(0.2)
    wrong += [f"still at work: {' '.join(left.cmdline()[:6])}" for left in alive]
    for left in alive:
        left.kill()
    wrong += unreadable(place.run) if place.run.exists() else []
    left_there = {path.name for path in place.temporary.glob("*")} - before - {"x" * 82}
    wrong += [f"left in TMPDIR: {sorted(left_there)}"] if left_there and end != "killed" else []
    repair(fault, place, content)
    return {
        "fault": fault if has_happened else f"{fault}: the run ended before", "continues": not force, "second": None if fault in START else round(moment, 1), "status": status, "end": end,
        "took": round(time.monotonic() - begun, 1), "wrong": "; ".join(wrong),
    }  # fmt: skip


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Count the runs of each fault by their ends, and those about which anything was wrong."""
    counts = pd.crosstab(rows["fault"], rows["end"])
    return counts.assign(wrong=(rows["wrong"].fillna("") != "").groupby(rows["fault"]).sum())


def main() -> None:
    """Print a line for each run and a table, and write results/soak.csv."""
    arguments = parser_of(__doc__)
    arguments.add_argument("--minutes", type=float, default=60)
    arguments.add_argument("--seed", type=int, default=0, help="of faults and moments")
    arguments.add_argument("--output", type=Path, default=OUTPUT)
    options = arguments.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    rng, rows, drawn = random.Random(options.seed), [], []
    options.output.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, disk_at(Path(name) / "disk") as has_disk:
        place = Place(Path(name))
        simulated(THREE_BATCHES).write_h5ad(place.folder / "input.h5ad")
        content = (place.folder / "input.h5ad").read_bytes()
        values = {"PATH": "input.h5ad", "BATCH_COL": "batch", "LABELS_COL": "celltype", "TARGET_DATASET_NAME": "c"}
        (place.folder / "p.yaml").write_text(yaml.safe_dump(values | {"MIN_CELL_TYPE_POPULATION": 5, "EPOCHS": 1}))
        begun, wanted = time.monotonic(), place.folder / "undisturbed"
        if place.start(run=wanted).wait() != 0:
            raise SystemExit(place.log.read_text())
        seconds = time.monotonic() - begun
        print(f"An undisturbed run takes {seconds:.0f} s.", flush=True)
        end = time.monotonic() + 60 * options.minutes
        while time.monotonic() < end:
            if not drawn:  # each fault once before any comes again
                drawn = [fault for fault in (*FAULTS, *START) if fault != "disk full" or has_disk]
                rng.shuffle(drawn)
            rows.append(
                {"seed": options.seed, "run": len(rows) + 1} | one(drawn.pop(), place, wanted, seconds, rng, content)
            )
            if rows[-1]["status"] == 0:  # on a machine that others use the same run takes now a minute, now five
                seconds = float(str(rows[-1]["took"]))
            print(rows[-1], flush=True)
            pd.DataFrame(rows).to_csv(options.output, index=False)
    print(table(pd.DataFrame(rows)).to_string())


if __name__ == "__main__":
    main()
