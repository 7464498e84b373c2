"""Kill a run at random moments, run it again, and check what is left each time and how it ends.

    python -m benchmarks.product.kills            # 100 kills, about 25 minutes

Two parameter sets that differ in SEED take turns in one folder, so that each run finds the other's finished results.
A run is killed (SIGKILL) at a moment drawn uniformly from the time it would still need; every other time with its
kernels, else alone. At once the folder is checked: no file is half-written, and the earlier results are complete,
in place or in `previous/`, with nothing of them beside the new ones. After at most four kills a rerun is left to end:
it must give, bit for bit, what an undisturbed run gives, and reuse exactly the stages that had been finished.
Rows are written as they come; the command may be stopped at any time.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil
import yaml

from benchmarks.common import RESULTS, ROOT, jind_nb, parser_of
from tests.helpers.simulated import THREE_BATCHES, simulated
from tests.helpers.whole import Digest, differences, digest, place_of, problems

OUTPUT = RESULTS / "kills.csv"
MOST_IN_A_ROW = 4


def start(folder: Path, run: Path, seed: int, log: Path) -> subprocess.Popen[bytes]:
    """Start a `jind-nb run` that writes its messages into the file `log`."""
    command = jind_nb("run", folder / "p.yaml", "-s", f"SEED={seed}", "--output-path", run)
    with log.open("wb") as stderr:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)


def stage_of(log: Path) -> str:
    """Return the stage that was under way, `start` before the first."""
    lines = [line.split()[2].rstrip(":") for line in log.read_text().splitlines() if "/5 " in line]
    unchanged = [line.split()[2].rstrip(":") for line in log.read_text().splitlines() if "unchanged" in line]
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
    """Kill a run up to `most` times, then let it end; return a row for each kill."""
    rows: list[dict[str, object]] = []
    log, left = folder / "log.txt", seconds
    for _ in range(most):
        moment, kernels = rng.uniform(0, left), rng.random() < 0.5
        process = start(folder, run, seed, log)
        try:
            process.wait(timeout=moment)
            break  # ended before its moment came
        except subprocess.TimeoutExpired:
            kill(process, kernels=kernels)
        place, wrong = place_of(run, earlier), problems(run, earlier, digest(wanted))
        # Until the earlier results are moved, the records there are theirs.
        done = finished_stages(run) if place == "previous" else []
        rows.append(
            {"seed": seed, "second": round(moment, 2), "killed": "all" if kernels else "command", "in": stage_of(log),
             "earlier results": place, "finished": len(done), "wrong": "; ".join(wrong)}
        )  # fmt: skip
        left = seconds * (1 - 0.17 * len(done))
    else:
        process = start(folder, run, seed, log)
        process.wait()
    wrong = differences(run, wanted) if process.returncode == 0 else [log.read_text()[-300:]]
    if not wrong and rows and process.returncode == 0:
        reused = json.loads((run / "manifest.json").read_text())["reused"]
        known = finished_before(log)
        wrong += [] if reused == known else [f"reused {reused}, announced {known}"]
        wrong += [] if len(reused) >= int(str(rows[-1]["finished"])) else ["a finished stage was run again"]
    if place_of(run, earlier) != "previous":
        wrong.append("the earlier results are not in previous/")
    for row in rows:
        row["ended"] = "right" if not wrong else "; ".join(wrong)
    return rows


def finished_before(log: Path) -> list[str]:
    return [line.split()[2].rstrip(":") for line in log.read_text().splitlines() if "unchanged, reused" in line]


def undisturbed(folder: Path, seed: int) -> tuple[Path, float]:
    begun, run = time.monotonic(), folder / f"undisturbed{seed}"
    if start(folder, run, seed, folder / "log.txt").wait() != 0:
        raise SystemExit((folder / "log.txt").read_text())
    return run, time.monotonic() - begun


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Count the kills by the stage they hit, what was right afterwards, and what was not."""
    by_stage = rows.assign(
        right=rows["ended"] == "right", wrong=(rows["wrong"] != "") | (rows["ended"] != "right")
    ).groupby("in")
    return by_stage.agg(
        kills=("in", "size"), **{"reruns that ended right": ("right", "sum")},
        **{"stages finished by then, mean": ("finished", "mean")}, **{"anything wrong": ("wrong", "sum")},
    ).round(1)  # fmt: skip


def main() -> None:
    """Print a line for each kill and a table, and write results/kills.csv."""
    arguments = parser_of(__doc__)
    arguments.add_argument("--kills", type=int, default=100)
    arguments.add_argument("--seed", type=int, default=0, help="of the random moments")
    arguments.add_argument("--output", type=Path, default=OUTPUT)
    options = arguments.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    rng, rows = random.Random(options.seed), []
    options.output.parent.mkdir(exist_ok=True)
    options.output.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        simulated(THREE_BATCHES).write_h5ad(folder / "input.h5ad")
        values = {"PATH": "input.h5ad", "BATCH_COL": "batch", "LABELS_COL": "celltype", "TARGET_DATASET_NAME": "c"}
        (folder / "p.yaml").write_text(yaml.safe_dump(values | {"MIN_CELL_TYPE_POPULATION": 5, "EPOCHS": 1}))
        wanted, seconds = zip(*(undisturbed(folder, seed) for seed in (0, 1)), strict=True)
        run, seed = Path(shutil.copytree(wanted[0], folder / "run")), 0
        while len(rows) < options.kills:
            earlier, seed = digest(run), 1 - seed
            most = min(MOST_IN_A_ROW, options.kills - len(rows))
            for row in until_the_end(folder, run, seed, earlier, wanted[seed], rng, min(seconds), most):
                rows.append({"kill": len(rows) + 1} | row)
                print(rows[-1], flush=True)
            pd.DataFrame(rows).to_csv(options.output, index=False)
    print(table(pd.DataFrame(rows)).to_string())


if __name__ == "__main__":
    main()
