"""How many neighbours the cells of a small target should ask.

    .venv/bin/python benchmarks/small_targets.py          # the table of what results/small_targets.csv holds
    .venv/bin/python benchmarks/small_targets.py --run    # computes it anew

Targets of a few cells are drawn at random from the targets of benchmarks/accuracy.py, and annotated as in
benchmarks/trials.py. The rule was chosen on the design sets; the check sets were run once.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import torch
from accuracy import CHECK, DESIGN, targets
from learned import RESULTS, command
from trials import Problem, over_views, plain, problem

from jind_nb import metrics
from jind_nb.model import projection

OUTPUT = RESULTS / "small_targets.csv"
SIZES = (5, 10, 20, 31, 64, 128, 256, 512)  # cells
DRAWS = 3
# Cells asked, the cell itself among them: a share of the target's, at most 16.
ASKED = {"itself alone": 0, "n / 32": 1 / 32, "n / 16 (used)": 1 / 16, "n / 8": 1 / 8, "n / 4": 1 / 4, "16": 1.0}


def run() -> None:
    torch.set_num_threads(1)
    random, lines = np.random.default_rng(0), []
    for name in (*DESIGN, *CHECK):
        for target, roles in targets(name)[:3]:
            whole, truth = problem(name, target, roles)
            for size in SIZES:
                if size > len(truth):
                    continue
                for draw in range(DRAWS):
                    drawn = random.choice(len(truth), size, replace=False)
                    small = Problem(replace(whole.task, target=whole.task.target[drawn]), name)
                    where = {"set": name, "target": target, "cells": size, "draw": draw}
                    lines += [where | row for row in each_rule(small, truth[drawn])]
            print(f"{name}, {target}", flush=True)
    pd.DataFrame(lines).round(5).to_csv(OUTPUT, index=False)


def each_rule(p: Problem, truth: np.ndarray) -> list[dict[str, Any]]:
    """Numbers of the target's cells whose type an annotated batch has, for each rule."""
    answers, rows = over_views(p, plain), []
    types = np.array(p.task.classes, dtype=object)
    known = np.isin(truth, types)
    if not known.any():
        return []
    for words, share in ASKED.items():
        k = max(1, min(projection.NEIGHBOURS, int(share * len(truth))))
        near = projection.nearest(p.target_codes, p.target_codes, k)[0]
        mixed = projection.with_neighbours(answers, answers, near)[known]
        right, confidence = types[mixed.argmax(axis=1)] == truth[known], mixed.max(axis=1)
        aurc = metrics.area_under_risk_coverage(confidence, right)
        rows.append({"asked": words, "right": right.mean(), "confidence": confidence.mean(), "AURC": aurc})
    return rows


def report() -> None:
    rows = pd.read_csv(OUTPUT)
    for words, sets in {"design": DESIGN, "check": CHECK}.items():
        of_sets = (
            rows[rows["set"].isin(sets)].groupby(["cells", "asked", "set"])[["right", "confidence", "AURC"]].mean()
        )
        table = of_sets.groupby(["cells", "asked"]).mean().unstack("asked")
        for number in ("right", "confidence", "AURC"):
            print(f"\n{words} sets, {number}\n{table[number][list(ASKED)].to_string(float_format='{:.3f}'.format)}")


if __name__ == "__main__":
    command(__doc__, run, report)
