"""Measure the time and memory of whole runs on large simulated data of exact shapes.

    python -m benchmarks.product.scale                              # prints the table of results/scale.csv
    python -m benchmarks.product.scale --run pancreas bmmc_atac     # writes the data, runs, measures, appends rows
    python -m benchmarks.product.scale --run all --data /scratch    # everything; 25 GB of disk
    python -m benchmarks.product.scale --run cells_300k --model runs/x/trained_models    # predict alone

Counts are negative binomial: a mean for each feature and cell type, shifted by batch, times the cell's depth. A row is a whole
`jind-nb run` (or `predict`) in a process of its own, notebooks and reports included: wall and CPU seconds, and the peak
memory (resident set) of the whole process tree, looked at ten times a second; how long a headless Chromium takes to open
the report. `second run` (with `--again`) repeats a run in another folder right after, with warm caches. `h5py alone` reads the
file's values and does nothing with them: predict's CPU seconds are told as a multiple of that too.
"""

from __future__ import annotations

import datetime
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import psutil
import yaml
from scipy import sparse

from benchmarks.common import RESULTS, append_rows, jind_nb, parser_of

OUTPUT = RESULTS / "scale.csv"
BLOCK = 40_000_000  # values drawn at once
DISPERSION = 2.0
DEPTH_SPREAD, BATCH_SPREAD, TYPE_SPREAD = 0.35, 0.2, 1.0  # of the logarithms
OF_TYPES = 0.05  # share of the features by which a type differs
MOST_COUNTS = 200
LOOK_EVERY = 0.1  # seconds


@dataclass(frozen=True)
class Shape:
    """A data set: cells of each batch, features, and the share of values that are not zero."""

    batches: tuple[int, ...]
    n_features: int
    stored: float
    n_types: int = 15
    peaks: bool = False

    @property
    def n_cells(self) -> int:
        return sum(self.batches)


def evenly(n_cells: int, n_batches: int) -> tuple[int, ...]:
    """Return batch sizes from half to one and a half of the mean, with the right sum."""
    weights = np.linspace(0.5, 1.5, n_batches)
    sizes = (weights / weights.sum() * n_cells).astype(int)
    sizes[-1] += n_cells - sizes.sum()
    return tuple(int(size) for size in sizes)


SHAPES = {
    "pancreas": Shape((7_742, 2_018, 2_038, 430), 2_448, 0.45, n_types=8),
    "bmmc_atac": Shape(evenly(69_000, 10), 116_000, 0.03, n_types=20, peaks=True),
    "neurips_brain": Shape(evenly(90_000, 6), 30_000, 0.05, n_types=20),
    "cells_100k": Shape(evenly(100_000, 20), 20_000, 0.05),
    "cells_300k": Shape(evenly(300_000, 20), 20_000, 0.05),
    "atlas": Shape(evenly(300_000, 301), 20_000, 0.05, n_types=200),
    "atlas_75": Shape(evenly(300_000, 76), 20_000, 0.05, n_types=200),
    "cells_1m": Shape(evenly(1_000_000, 20), 20_000, 0.05),
}


# --- the data --------------------------------------------------------------------------------------------------------


def means(shape: Shape, random: np.random.Generator) -> np.ndarray:
    """Return the mean count of each feature in each type, float32 (n_types, n_features), for the share of values stored."""
    logs = random.normal(0, 1.5, shape.n_features)
    parents_of = np.tile(logs, (shape.n_types, 1))
    for k in range(shape.n_types):
        some = random.choice(shape.n_features, max(20, int(OF_TYPES * shape.n_features)), replace=False)
        parents_of[k, some] += random.normal(0, TYPE_SPREAD, len(some))
    depths = np.exp(random.normal(0, DEPTH_SPREAD, 20))[:, None, None]
    low, high = -30.0, 10.0
    for _ in range(40):
        middle = (low + high) / 2
        mean = depths * np.exp(parents_of[:, :2000] + middle)
        low, high = (low, middle) if 1 - np.mean(zeros(mean)) > shape.stored else (middle, high)
    return np.exp(parents_of + low).astype(np.float32)


def zeros(mean: np.ndarray) -> np.ndarray:
    """Return the probability of zero of a negative binomial of this mean."""
    return np.exp(-DISPERSION * np.log(1 + mean / np.float32(DISPERSION)))


def counts(mean: np.ndarray, random: np.random.Generator) -> sparse.csr_matrix:
    """Return negative binomial counts of these means, float32 in the shape of `mean`, by inverting the distribution function."""
    shape, u, cumulated = mean.shape, random.random(mean.shape, dtype=np.float32), zeros(mean)
    rows, columns = np.nonzero(u > cumulated)
    u, mean, cumulated = u[rows, columns].astype(np.float64), mean[rows, columns], cumulated[rows, columns]
    values, probability, more = np.ones(len(u), dtype=np.float32), cumulated.astype(np.float64), np.arange(len(u))
    share, cumulated = mean / (mean + DISPERSION), cumulated.astype(np.float64)
    for k in range(1, MOST_COUNTS):
        probability[more] *= share[more] * (k - 1 + DISPERSION) / k
        cumulated[more] += probability[more]
        more = more[u[more] > cumulated[more]]
        values[more] = k + 1
    return sparse.csr_matrix((values, (rows, columns)), shape=shape)


def write(shape: Shape, path: Path, seed: int = 0) -> None:
    """Write an h5ad of the shape, uncompressed as anndata does, block by block, so that nothing large is in memory."""
    random = np.random.default_rng(seed)
    parents_of = means(shape, random)
    shares = random.dirichlet(np.full(shape.n_types, 2.0), len(shape.batches))
    cell_types = [random.choice(shape.n_types, size, p=p) for size, p in zip(shape.batches, shares, strict=True)]
    obs = pd.DataFrame(
        {
            "batch": pd.Categorical(np.repeat([f"batch{i + 1}" for i in range(len(shape.batches))], shape.batches)),
            "celltype": pd.Categorical([f"type {k + 1:02d}" for k in np.concatenate(cell_types)]),
        },
        index=[f"cell{i}" for i in range(shape.n_cells)],
    )
    names = (
        [f"chr{1 + i % 22}:{1000 * i}-{1000 * i + 500}" for i in range(shape.n_features)]
        if shape.peaks
        else [f"GENE{i}" for i in range(shape.n_features)]
    )
    temporary = path.with_suffix(".part")
    ad.AnnData(sparse.csr_matrix((shape.n_cells, 1), dtype=np.float32), obs=obs).write_h5ad(temporary)
    with h5py.File(temporary, "a") as h5:
        del h5["X"], h5["var"]
        ad.io.write_elem(h5, "var", pd.DataFrame(index=names))
        group = h5.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        group.attrs["shape"] = np.array([shape.n_cells, shape.n_features])
        data, indices = (
            group.create_dataset(name, (0,), kind, maxshape=(None,), chunks=(1 << 18,))
            for name, kind in (("data", np.float32), ("indices", np.int32))
        )
        lengths = []
        step = max(1, BLOCK // shape.n_features)
        for types in cell_types:
            shift = np.exp(random.normal(0, BATCH_SPREAD, shape.n_features)).astype(np.float32)
            for start in range(0, len(types), step):
                some = types[start : start + step]
                depths = np.exp(random.normal(0, DEPTH_SPREAD, len(some))).astype(np.float32)
                drawn = counts(parents_of[some] * shift * depths[:, None], random)
                for stored, values in ((data, drawn.data), (indices, drawn.indices)):
                    stored.resize((len(stored) + len(values),))
                    stored[-len(values) :] = values
                lengths.append(np.diff(drawn.indptr))
        group["indptr"] = np.concatenate([[0], np.cumsum(np.concatenate(lengths), dtype=np.int64)])
    temporary.rename(path)


# What predict is compared with: every stored value and index, read once by h5py, two million at a time.
READ_ALONE = """
import h5py, sys
with h5py.File(sys.argv[1]) as h5:
    for name in ("X/data", "X/indices"):
        for start in range(0, len(h5[name]), 2**21):
            h5[name][start : start + 2**21]
"""

# --- measuring -------------------------------------------------------------------------------------------------------


def parameters_of(shape: Shape, data: Path, output: Path) -> dict[str, Any]:
    """Return the parameters of METHOD `default`, the last batch as target and the first as source."""
    return {
        "PATH": str(data),
        "BATCH_COL": "batch",
        "LABELS_COL": "celltype",
        "TARGET_DATASET_NAME": f"batch{len(shape.batches)}",
        "SOURCE_DATASET_NAME": "batch1",
        "OUTPUT_PATH": str(output),
    }


def measured(command: list[str]) -> dict[str, float]:
    """Run a command; return wall and CPU seconds and the peak memory of its process tree."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began, peak = time.monotonic(), 0
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        tree = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                peak = max(peak, sum(memory_of(one) for one in [tree, *tree.children(recursive=True)]))
            except psutil.NoSuchProcess:
                break
            time.sleep(LOOK_EVERY)
        process.wait()
        seconds = time.monotonic() - began
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{output.read().decode(errors='replace')[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), "peak_GB": round(peak / 1e9, 2)}


def memory_of(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def one_shape(name: str, folder: Path, *, again: bool, model: Path | None = None) -> None:
    """Write the data unless they are there, run, predict the same file with the model, and append the rows.

    With a model of another shape of the same features, nothing is run, and that model predicts.
    """
    shape, data = SHAPES[name], folder / f"{name}.h5ad"
    if not data.exists():
        began = time.monotonic()
        write(shape, data)
        print(f"{name}: {data} written in {time.monotonic() - began:.0f} s", flush=True)
    common = {
        "date": datetime.date.today().isoformat(),
        "shape": name,
        "cells": shape.n_cells,
        "features": shape.n_features,
        "batches": len(shape.batches),
        "file_GB": round(data.stat().st_size / 1e9, 2),
        "cores": len(os.sched_getaffinity(0)),
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
    }
    for what in () if model else ("run", "second run")[: 1 + again]:
        output = folder / f"{name}-{what.replace(' ', '-')}"
        shutil.rmtree(output, ignore_errors=True)
        parameters = folder / f"{name}.yaml"
        parameters.write_text(yaml.safe_dump(parameters_of(shape, data, output)))
        row = common | {"what": what, **measured(jind_nb("run", parameters))}
        manifest = json.loads((output / "manifest.json").read_text())
        row |= {f"{stage} s": seconds for stage, seconds in manifest["seconds"].items()}
        row |= {f"{stage} GB": round(size / 1e9, 2) for stage, size in manifest["peak_memory_bytes"].items()}
        row["report_MB"] = round((output / "report.html").stat().st_size / 1e6, 2)
        append(row | {"raw_accuracy": accuracy(output)} | opened(output / "report.html"))
        model = output / "trained_models"
    assert model is not None
    predicted = folder / f"{name}-predicted"
    shutil.rmtree(predicted, ignore_errors=True)
    append(common | {"what": "h5py alone", **measured([sys.executable, "-c", READ_ALONE, str(data)])})
    command = jind_nb("predict", model, data, "--output-path", predicted)
    append(common | {"what": "predict", **measured(command)})


def opened(report: Path) -> dict[str, float]:
    """Return the seconds until a browser shows the report, and its elements; nothing without Chromium."""
    from playwright.sync_api import sync_playwright

    if (chromium := shutil.which("chromium")) is None:
        return {}
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        began = time.monotonic()
        page.goto(report.absolute().as_uri(), wait_until="load")
        n_elements = page.evaluate("document.body.offsetHeight && document.getElementsByTagName('*').length")
        seconds = time.monotonic() - began
        browser.close()
    return {"report opens s": round(seconds, 2), "report elements": n_elements}


def accuracy(output: Path) -> float:
    """Return the share of right raw predictions, by the target's own labels."""
    table = pd.read_parquet(output / "predictions.parquet", columns=["raw_predictions", "labels"])
    return round(float((table["raw_predictions"] == table["labels"]).mean()), 4)


COLUMNS = (
    "date", "shape", "what", "cells", "features", "batches", "file_GB", "seconds", "cpu_seconds", "peak_GB",
    "raw_accuracy", "report_MB", "1_preprocess s", "2_train s", "3_align s", "4_evaluate s", "report s",
    "1_preprocess GB", "2_train GB", "3_align GB", "4_evaluate GB", "report GB", "cores", "threads",
    "report opens s", "report elements",
)  # fmt: skip


def append(row: dict[str, Any]) -> None:
    """Append a row to the results and print its first numbers."""
    append_rows(OUTPUT, [row], COLUMNS)
    print(", ".join(f"{name} {row[name]}" for name in COLUMNS[1:12] if name in row), flush=True)


def report() -> None:
    """Print the last row of each shape, cells per second, and how many times longer than reading alone predict takes."""
    rows = pd.read_csv(OUTPUT).groupby(["shape", "what"], sort=False).tail(1).drop(columns=["date", "threads"])
    rows["cells/s"] = (rows["cells"] / rows["seconds"]).round(0)
    rows["cells/CPU s"] = (rows["cells"] / rows["cpu_seconds"]).round(0)
    alone = rows[rows["what"] == "h5py alone"].set_index("shape")["cpu_seconds"]
    times = rows["cpu_seconds"] / rows["shape"].map(alone)
    rows["times h5py"] = times.round(1).where(rows["what"] == "predict")
    print(rows.set_index(["shape", "what"]).T.to_string())


if __name__ == "__main__":
    parser = parser_of(__doc__)
    parser.add_argument("--run", nargs="+", metavar="SHAPE", help=f"{', '.join(SHAPES)}, or all")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "jind-nb-scale", help="folder")
    parser.add_argument("--again", action="store_true", help="run twice")
    parser.add_argument("--model", type=Path, help="predict with this trained_models folder; nothing is run")
    parser.add_argument("--keep", action="store_true", help="leave the data there")
    options = parser.parse_args()
    for name in list(SHAPES) if options.run == ["all"] else options.run or []:
        options.data.mkdir(parents=True, exist_ok=True)
        one_shape(name, options.data, again=options.again, model=options.model)
        if not options.keep:
            for left in options.data.glob(f"{name}*"):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    report()
