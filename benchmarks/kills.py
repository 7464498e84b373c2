"""A run killed at random moments, rerun, killed again: what is left each time, and how it ends.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/kills.py            # 100 kills, about 25 minutes

Two parameter sets that differ in SEED take turns in one folder, so that each run finds the other's finished results.
A run is killed (SIGKILL) at a moment drawn uniformly from the time it would still need; every other time with its
kernels, else alone. At once the folder is checked: no file is half-written, and the earlier results are complete,
in place or in `previous/`, with nothing of them beside the new ones. After at most four kills a rerun is left to end:
it must give, bit for bit, what an undisturbed run gives, and reuse exactly the stages that had been finished.
Rows are written as they come; the command may be stopped at any time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil
import yaml

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from tests.helpers.simulated import THREE_BATCHES, simulated  # noqa: E402
from tests.helpers.whole import Digest, differences, digest, place_of, problems  # noqa: E402

RESULT = HERE / "results" / "kills.csv"
MOST_IN_A_ROW = 4


def start(folder: Path, run: Path, seed: int, said: Path) -> subprocess.Popen[bytes]:
    """One `jind-nb run`; what it says goes to the file `said`."""
    command = [sys.executable, "-m", "jind_nb.cli", "run", folder / "p.yaml", "-s", f"SEED={seed}"]
    with said.open("wb") as stderr:
        return subprocess.Popen([*command, "--output-path", run], stdout=subprocess.DEVNULL, stderr=stderr)


def stage_of(said: Path) -> str:
    """The stage that was under way; `start` before the first, `end` after the last."""
    lines = [line.split()[2].rstrip(":") for line in said.read_text().splitlines() if "/5 " in line]
    unchanged = [line.split()[2].rstrip(":") for line in said.read_text().splitlines() if "unchanged" in line]
    under_way = [stage for stage in lines if stage not in unchanged]
    return under_way[-1] if under_way else "start"


def finished_stages(run: Path) -> list[str]:
    file = run / "work" / "stages.json"
    return list(json.loads(file.read_text())) if file.exists() else []


def kill(process: subprocess.Popen[bytes], *, kernels: bool) -> None:
    me = psutil.Process(process.pid)
    for one in [me, *me.children(recursive=True)] if kernels else [me]:
        one.kill()
    process.wait()


def until_the_end(
    folder: Path, run: Path, seed: int, earlier: Digest, wanted: Path, rng: random.Random, seconds: float, most: int
) -> list[dict[str, object]]:
    """Kills a run up to `most` times, then lets it end; a row for each kill."""
    rows: list[dict[str, object]] = []
    said, left = folder / "said.txt", seconds
    for _ in range(most):
        moment, kernels = rng.uniform(0, left), rng.random() < 0.5
        process = start(folder, run, seed, said)
        try:
            process.wait(timeout=moment)
            break  # ended before its moment came
        except subprocess.TimeoutExpired:
            kill(process, kernels=kernels)
        place, wrong = place_of(run, earlier), problems(run, earlier, digest(wanted))
        # Until the earlier results are moved, the records there are theirs.
        done = finished_stages(run) if place == "previous" else []
        rows.append(
            {"seed": seed, "second": round(moment, 2), "killed": "all" if kernels else "command", "in": stage_of(said),
             "earlier results": place, "finished": len(done), "wrong": "; ".join(wrong)}
        )  # fmt: skip
        left = seconds * (1 - 0.17 * len(done))
    else:
        process = start(folder, run, seed, said)
        process.wait()
    wrong = differences(run, wanted) if process.returncode == 0 else [said.read_text()[-300:]]
    if not wrong and rows and process.returncode == 0:
        reused = json.loads((run / "manifest.json").read_text())["reused"]
        known = finished_before(said)
        wrong += [] if reused == known else [f"reused {reused}, said {known}"]
        wrong += [] if len(reused) >= int(str(rows[-1]["finished"])) else ["a finished stage was run again"]
    if place_of(run, earlier) != "previous":
        wrong.append("the earlier results are not in previous/")
    for row in rows:
        row["ended"] = "right" if not wrong else "; ".join(wrong)
    return rows


def finished_before(said: Path) -> list[str]:
    return [line.split()[2].rstrip(":") for line in said.read_text().splitlines() if "unchanged, reused" in line]


def undisturbed(folder: Path, seed: int) -> tuple[Path, float]:
    begun, run = time.monotonic(), folder / f"undisturbed{seed}"
    if start(folder, run, seed, folder / "said.txt").wait() != 0:
        raise SystemExit((folder / "said.txt").read_text())
    return run, time.monotonic() - begun


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Kills by the stage they hit, what was right afterwards, and what was not."""
    by_stage = rows.assign(
        right=rows["ended"] == "right", wrong=(rows["wrong"] != "") | (rows["ended"] != "right")
    ).groupby("in")
    return by_stage.agg(
        kills=("in", "size"), **{"reruns that ended right": ("right", "sum")},
        **{"stages finished by then, mean": ("finished", "mean")}, **{"anything wrong": ("wrong", "sum")},
    ).round(1)  # fmt: skip


def main() -> None:
    """Prints a line for each kill and a table, and writes benchmarks/results/kills.csv."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--kills", type=int, default=100)
    arguments.add_argument("--seed", type=int, default=0, help="of the random moments")
    arguments.add_argument("--output", type=Path, default=RESULT)
    asked = arguments.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rng, rows = random.Random(asked.seed), []
    asked.output.parent.mkdir(exist_ok=True)
    asked.output.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        simulated(THREE_BATCHES).write_h5ad(folder / "input.h5ad")
        values = {"PATH": "input.h5ad", "BATCH_COL": "batch", "LABELS_COL": "celltype", "TARGET_DATASET_NAME": "c"}
        (folder / "p.yaml").write_text(yaml.safe_dump(values | {"MIN_CELL_TYPE_POPULATION": 5, "EPOCHS": 1}))
        wanted, seconds = zip(*(undisturbed(folder, seed) for seed in (0, 1)), strict=True)
        run, seed = Path(shutil.copytree(wanted[0], folder / "run")), 0
        while len(rows) < asked.kills:
            earlier, seed = digest(run), 1 - seed
            most = min(MOST_IN_A_ROW, asked.kills - len(rows))
            for row in until_the_end(folder, run, seed, earlier, wanted[seed], rng, min(seconds), most):
                rows.append({"kill": len(rows) + 1} | row)
                print(rows[-1], flush=True)
            pd.DataFrame(rows).to_csv(asked.output, index=False)
    print(table(pd.DataFrame(rows)).to_string())


if __name__ == "__main__":
    main()
