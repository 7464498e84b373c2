"""How many predictions of METHOD `reference` change where its networks are trained in bfloat16 (torch's autocast).

    OMP_NUM_THREADS=1 nice .venv/bin/python benchmarks/mixed_precision.py            # two shared sets, three seeds

Trained on the CPU, whose autocast rounds the same products to bfloat16 as a GPU's does: what is measured is the answers,
not the seconds. They are compared with those of float32, and those with each other between seeds.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from jind_nb.commands.compare import measure
from jind_nb.core.parameters import load_parameters
from jind_nb.data import cells as data_cells
from jind_nb.data import prepare, roles
from jind_nb.model import alignment, training
from jind_nb.model.predictions import Predictions

HERE = Path(__file__).parent
OUTPUT = HERE / "results" / "mixed_precision.csv"
SETS = ("pbmc_10x_symphony", "pancreas_3studies_small")


@contextmanager
def trained_in_bfloat16() -> Iterator[None]:
    """Every epoch of training and of alignment is computed under autocast; predicting is not."""

    def rounded(function: Callable[..., Any]) -> Callable[..., Any]:
        def under_autocast(*arguments: Any, **named: Any) -> Any:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return function(*arguments, **named)

        return under_autocast

    epoch, game = training.train_epoch, alignment._Game.epoch
    training.train_epoch = alignment.train_epoch = rounded(epoch)
    alignment._Game.epoch = rounded(game)
    try:
        yield
    finally:
        training.train_epoch = alignment.train_epoch = epoch
        alignment._Game.epoch = game


def answers(name: str, seed: int) -> Predictions:
    parameters = load_parameters(HERE / "parameters" / f"{name}.yaml", {"SEED": str(seed)})
    cells = data_cells.read_cells(parameters)
    plan = roles.make_plan(parameters, cells)
    return measure.jind(prepare.prepare(parameters, cells, plan), plan, parameters)[0]


def row(name: str, what: str, seeds: str, one: Predictions, other: Predictions, truth: np.ndarray) -> dict[str, Any]:
    return {
        "set": name,
        "compared": what,
        "seeds": seeds,
        "cells": len(truth),
        "raw predictions changed": int((one.raw != other.raw).sum()),
        "predictions changed": int((one.names != other.names).sum()),
        "raw accuracy": round(float((one.raw == truth).mean()), 4),
        "raw accuracy, the other": round(float((other.raw == truth).mean()), 4),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    rows = []
    for name in SETS:
        truth = measure.target_labels(load_parameters(HERE / "parameters" / f"{name}.yaml", {}))
        plain, rounded = {}, {}
        for seed in range(asked.seeds):
            plain[seed] = answers(name, seed)
            with trained_in_bfloat16():
                rounded[seed] = answers(name, seed)
            rows.append(row(name, "float32, bfloat16", str(seed), plain[seed], rounded[seed], truth))
            print(rows[-1], flush=True)
        for a, b in combinations(plain, 2):
            rows.append(row(name, "two seeds", f"{a}, {b}", plain[a], plain[b], truth))
    table = pd.DataFrame(rows)
    table.to_csv(OUTPUT, index=False)
    print(table.to_string(index=False))
