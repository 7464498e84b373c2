"""Measure how many neighbours should be averaged in a small target.

    python -m benchmarks.research.small_targets          # prints the table of results/small_targets.csv
    python -m benchmarks.research.small_targets --run    # measures it anew

Targets of a few cells are drawn at random from those of benchmarks/product/accuracy.py, and annotated as in
benchmarks/research/trials.py. The rule was chosen on the design sets; the check sets were measured once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.common import CHECK, DESIGN, RESULTS, SETS, TARGETS_OF_A_SET, read_rows, run_or_report, targets
from benchmarks.research.trials import Problem, mixed, over_views, plain, problem
from jind_nb import metrics
from jind_nb.model import default
from jind_nb.model.neighbours import nearest

OUTPUT = RESULTS / "small_targets.csv"
SIZES = (5, 10, 20, 31, 64, 128, 256, 512)  # cells
DRAWS = 3
# Cells asked, the cell itself among them: a share of the target's, at most 16.
ASKED = {"itself alone": 0, "n / 32": 1 / 32, "n / 16 (used)": 1 / 16, "n / 8": 1 / 8, "n / 4": 1 / 4, "16": 1.0}


def run() -> None:
    torch.set_num_threads(1)
    random, lines = np.random.default_rng(0), []
    for name in SETS:
        for target, roles in targets(name)[:TARGETS_OF_A_SET]:
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
    """Return, for each rule, numbers of the target's cells whose type an annotated batch has."""
    answers, rows = over_views(p, plain), []
    types = np.array(p.task.classes, dtype=object)
    known = np.isin(truth, types)
    if not known.any():
        return []
    for words, share in ASKED.items():
        k = max(1, min(default.NEIGHBOURS, int(share * len(truth))))
        near = nearest(p.target_codes, p.target_codes, k)[0]
        probabilities = mixed(answers, near, default.NEIGHBOURS_SHARE)[known]
        right, confidence = types[probabilities.argmax(axis=1)] == truth[known], probabilities.max(axis=1)
        aurc = metrics.area_under_risk_coverage(confidence, right)
        rows.append({"asked": words, "right": right.mean(), "confidence": confidence.mean(), "AURC": aurc})
    return rows


def report() -> None:
    rows = read_rows(OUTPUT)
    for words, sets in {"design": DESIGN, "check": CHECK}.items():
        of_sets = (
            rows[rows["set"].isin(sets)].groupby(["cells", "asked", "set"])[["right", "confidence", "AURC"]].mean()
        )
        table = of_sets.groupby(["cells", "asked"]).mean().unstack("asked")
        for number in ("right", "confidence", "AURC"):
            print(f"\n{words} sets, {number}\n{table[number][list(ASKED)].to_string(float_format='{:.3f}'.format)}")


if __name__ == "__main__":
    run_or_report(__doc__, run, report)
