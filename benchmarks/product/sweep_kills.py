"""Kill a sweep over 40 donors at random moments, start it again until all is done, and look for what was lost.

    python -m benchmarks.product.sweep_kills              # a quarter of an hour on one core

Each of 40 simulated donors of 30 cells is the target once, annotated by four of them (`jind-nb sweep --each-target`, one run at a
time). At random moments
SIGKILL hits the command, its Dask worker, the run at work, that run's kernel, or all of them, and the same command follows
until it ends with exit status 0. Then nothing may be lost:

- no run that was finished at a kill was done again, and its table is that of before;
- all targets are in summary.csv as finished, every file under its final name is whole, and no process is left;
- each target has, bit for bit, the answers that `jn.annotate` gives for it where nothing is killed.

Rows of results/sweep_kills.csv are written as they come: one for each kill, and one for each end of the command.
"""

from __future__ import annotations

import os
import random
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import psutil
import yaml

import jind_nb as jn
from benchmarks.common import RESULTS, ROOT, jind_nb, parser_of
from tests.helpers.simulated import simulated
from tests.helpers.whole import unreadable

OUTPUT = RESULTS / "sweep_kills.csv"
DONOR = {"B": 12, "T": 12, "NK": 6}
WHAT = ("the command", "a worker", "the process of runs", "the run", "a kernel", "all")
FORKS = ("the process of runs", "the run", "a kernel")  # a process, its fork, and the fork's fork: one command line
SECONDS_UNTIL_GONE = 90  # a kernel that computes ends later than the run that started it


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(process.pid).children(recursive=True)
    return []


def kind_of(process: psutil.Process) -> str:
    """Return which of WHAT a process is, by its command line; an empty text for any other."""
    with suppress(psutil.Error):
        lines = [" ".join(one.cmdline()) for one in (process, *process.parents())]
        if "sweep.process" in lines[0]:
            return FORKS[min(sum("sweep.process" in line for line in lines), len(FORKS)) - 1]
        return "a worker" if "multiprocessing" in lines[0] else ""
    return ""


def kill(what: str, process: subprocess.Popen[bytes], rng: random.Random) -> str:
    """Kill it, or the command where there is no such process now; return what was killed."""
    children = family(process)
    of_kind = [child for child in children if kind_of(child) == what]
    chosen = [rng.choice(of_kind)] if of_kind else [*children, psutil.Process(process.pid)]
    if not of_kind and what != "all":
        what, chosen = "the command", chosen[-1:]
    for one in chosen:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    return what


def finished(runs: Path) -> dict[str, tuple[int, bytes]]:
    """Return for each finished run when its last file was written, and its table."""
    return {
        file.parent.name: (file.stat().st_mtime_ns, (file.parent / "predictions.parquet").read_bytes())
        for file in runs.glob("*/manifest.json")
    }


def do_session(
    command: list[str], folder: Path, rng: random.Random, between: tuple[float, float]
) -> list[dict[str, object]]:
    """Start the sweep once and kill something of it every so often, until the command has ended; return a row for each kill and
    for the end."""
    rows: list[dict[str, object]] = []
    runs = folder / "results" / "targets"
    with (folder / "log.txt").open("ab") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
    begun, known = time.monotonic(), set()
    moment = rng.uniform(*between)
    while process.poll() is None:
        known |= set(family(process))
        second = time.monotonic() - begun
        if second > moment:
            before, killed = finished(runs), kill(rng.choice(WHAT), process, rng)
            rows.append({"second": round(second), "killed": killed, "finished": len(before), "wrong": ""})
            moment = second + rng.uniform(*between)
        time.sleep(0.2)
    wrong = []
    for left in psutil.wait_procs(list(known), timeout=SECONDS_UNTIL_GONE)[1]:
        wrong.append(f"still at work: {' '.join(left.cmdline()[:6])}")
        left.kill()
    end = {"second": round(time.monotonic() - begun), "killed": f"(ended: {process.returncode})"}
    return [*rows, end | {"finished": len(finished(runs)), "wrong": "; ".join([*wrong, *unreadable(runs)])}]


def answers(adata: ad.AnnData, parameters: Path) -> pd.DataFrame:
    """Return what the Python API says of the target of a parameter file, without its labels."""
    values = yaml.safe_load(parameters.read_text())
    target, roles = (
        values["TARGET_DATASET_NAME"],
        {"source": "SOURCE_DATASET_NAME", "intermediates": "INTER_DATASETS_NAMES"},
    )
    asked = {"batch_key": "batch", "labels_key": "celltype", "min_cell_type_population": 5, "epochs": 1}
    one = adata.copy()
    jn.annotate(one, target=target, **asked, **{name: values[key] for name, key in roles.items()})
    return one.obs.loc[one.obs["batch"] == target, ["jind_prediction", "jind_confidence"]]


def lost(folder: Path, adata: ad.AnnData, donors: list[str]) -> list[str]:
    """Return what is not as it would be without a kill."""
    summary = pd.read_csv(folder / "results" / "summary.csv")
    wrong = [f"not in summary.csv: {name}" for name in set(donors) - set(summary["target"])]
    wrong += [f"{row.target}: {row.status}" for row in summary.itertuples() if not row.status.startswith("finished")]
    for donor in donors:
        table = pd.read_parquet(folder / "results" / "targets" / donor / "predictions.parquet")
        wanted = answers(adata, folder / "results" / "parameters" / f"{donor}.yaml")
        same = table["predictions"].tolist() == wanted["jind_prediction"].tolist()
        same &= np.array_equal(table["confidence"].astype("float32"), wanted["jind_confidence"])
        wrong += [] if same and list(table.index) == list(wanted.index) else [f"{donor}: other answers"]
    return wrong


def main() -> None:
    """Print a line for each kill and each end, and what was lost; write results/sweep_kills.csv."""
    arguments = parser_of(__doc__)
    arguments.add_argument("--donors", type=int, default=40)
    arguments.add_argument("--seed", type=int, default=0, help="of kills and moments")
    arguments.add_argument(
        "--between", type=float, nargs=2, default=(20, 150), help="seconds from one kill to the next"
    )
    arguments.add_argument("--output", type=Path, default=OUTPUT)
    options = arguments.parse_args()
    os.environ |= {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), "COLUMNS": "1000"}
    donors, rng = [f"donor{i:02d}" for i in range(options.donors)], random.Random(options.seed)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        adata = simulated(dict.fromkeys(donors, DONOR))
        adata.write_h5ad(folder / "input.h5ad")
        values = {
            "PATH": "input.h5ad",
            "BATCH_COL": "batch",
            "LABELS_COL": "celltype",
            "TARGET_DATASET_NAME": donors[0],
        }
        (folder / "p.yaml").write_text(yaml.safe_dump(values | {"MIN_CELL_TYPE_POPULATION": 5, "EPOCHS": 1}))
        (folder / "results" / "targets").mkdir(parents=True)
        also = ("--each-target", "--workers", 1, "--output-path", folder / "results")
        command, before = jind_nb("sweep", folder / "p.yaml", *also), {}
        while not rows or rows[-1]["killed"] != "(ended: 0)":
            new = do_session(command, folder, rng, options.between)
            after = finished(folder / "results" / "targets")
            again = [donor for donor, made in before.items() if after.get(donor) != made]
            new[-1]["wrong"] = "; ".join(filter(None, [str(new[-1]["wrong"]), *(f"done again: {d}" for d in again)]))
            rows, before = (
                rows
                + [
                    {"seed": options.seed, "session": 1 + sum("(" in str(row["killed"]) for row in rows)} | row
                    for row in new
                ],
                after,
            )
            for row in rows[-len(new) :]:
                print(row, flush=True)
            pd.DataFrame(rows).to_csv(options.output, index=False)
        print(f"Lost: {lost(folder, adata, donors) or 'nothing'}")
        print(pd.DataFrame(rows)["killed"].value_counts().to_string())


if __name__ == "__main__":
    main()
