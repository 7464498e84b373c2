"""Which score tells cells of a type that no annotated batch has: AUROC per type.

    .venv/bin/python benchmarks/novelty.py            # the table of what results/novelty.csv holds
    .venv/bin/python benchmarks/novelty.py --run      # computes it anew (about half an hour), then prints it

Each type in turn is taken away from the annotated batches; a score should then be higher for the target's cells of that
type than for its other cells. Scores look at the codes before alignment and after it.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import pandas as pd
import torch
from learned import RESULTS, labels_of_target, learn, parameters_of
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from jind_nb import alignment
from jind_nb.alignment import KnownCodes

OUTPUT = RESULTS / "novelty.csv"
JOBS = (  # set, target, source, types to take away (None: all)
    ("cellbench_6batches", "CELseq2_5cl_p3", "10x_5cl", None),
    ("cellbench_6batches", "10x_5cl", "CELseq2_5cl_p3", None),
    ("pancreas_3studies_small", "Lawlor", "Baron", None),
    ("pancreas_3studies_small", "Baron", "Segerstolpe", None),
    ("pbmc_10x_symphony", "3pv1", "3pv2", ("B", "Mono_CD14", "NK", "T_CD4")),
)


def scores(known: KnownCodes, codes: np.ndarray, model: Any) -> dict[str, np.ndarray]:
    """Each score of the cells (n, size), higher for stranger ones."""
    with torch.no_grad():
        logits = model.head(torch.from_numpy(codes))
    neighbours = NearestNeighbors(n_neighbors=5).fit(known.codes)
    means = np.stack([known.codes[known.y == k].mean(axis=0) for k in np.unique(known.y)])
    place = np.searchsorted(np.unique(known.y), known.y)
    within = LedoitWolf().fit(known.codes - means[place]).precision_
    mahalanobis = np.stack([np.einsum("ij,jk,ik->i", codes - m, within, codes - m) for m in means]).min(axis=0)
    return {
        "5th neighbour, cosine (used)": known.novelty(codes),
        "5th neighbour, Euclidean": neighbours.kneighbors(codes)[0][:, -1],
        "Mahalanobis to the nearest type": mahalanobis,
        "1 - confidence": 1 - torch.softmax(logits, dim=1).max(dim=1).values.numpy(),
        "energy": -torch.logsumexp(logits, dim=1).numpy(),
    }


def one_type(name: str, target: str, source: str, taken_away: str) -> list[dict[str, Any]]:
    """Learns without a type, annotates the target and scores its cells."""
    learned = learn(parameters_of(name, target, SOURCE_DATASET_NAME=source, UNLABELED=[taken_away]))
    annotated = learned.annotate()
    truth = labels_of_target(parameters_of(name, target))
    novel = truth == taken_away
    counted = novel | np.isin(truth.astype(str), learned.plan.classes)
    rows = []
    for stage in (alignment.BEFORE, alignment.ALIGNED):
        of_stage = {
            score: roc_auc_score(novel[counted], values[counted])
            for score, values in scores(learned.known, annotated.codes[stage], learned.reference.model).items()
        }
        rejected = float(annotated.stages[stage].rejected[novel].mean())
        rows.append(
            {"set": name, "target": target, "type": taken_away, "cells": int(novel.sum()), "codes": stage}
            | {"rejected by its thresholds": rejected}
            | of_stage
        )
    return rows


def run() -> None:
    """Computes every row."""
    torch.set_num_threads(1)
    rows = []
    for name, target, source, types in JOBS:
        if types is None:
            types = tuple(sorted(set(labels_of_target(parameters_of(name, target)))))
        for taken_away in types:
            rows += one_type(name, target, source, taken_away)
            print(f"{name}, {target} without {taken_away}", flush=True)
    pd.DataFrame(rows).round(4).to_csv(OUTPUT, index=False)


def report() -> None:
    """Prints the AUROC of each score by set, and mean and worst type."""
    table = pd.read_csv(OUTPUT)
    names = [column for column in table if column not in ("set", "target", "type", "cells", "codes")]
    by_set = table.groupby(["codes", "set", "target"], sort=False)[names].mean()
    print(by_set.round(3).T.to_string())
    print("\nOver all types:")
    print(table.groupby("codes", sort=False)[names].agg(["mean", "min"]).round(3).T.unstack().to_string())


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--run", action="store_true", help="compute the results anew first")
    if arguments.parse_args().run:
        run()
    report()
