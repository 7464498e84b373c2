"""Which score tells cells of a type that no annotated batch has.

    .venv/bin/python benchmarks/novelty.py            # the table of what results/novelty.csv holds
    .venv/bin/python benchmarks/novelty.py --run      # computes it anew (about ten minutes), then prints it

Each type in turn is taken away from the annotated batches; a score should then be higher for the target's cells of that
type than for its other cells, and beyond the limit that 1 % of left-out batches' known cells exceed. METHOD `default`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from jind_nb.model.alignment import KnownCodes
from jind_nb.model.training import Reference, Settings, encode
from learned import RESULTS, command, labels_of_target, learn, parameters_of
from scipy import sparse
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from jind_nb.model import alignment, calibration, leave_one_out
from jind_nb.model.networks import Annotator

OUTPUT = RESULTS / "novelty.csv"
JOBS = (  # set, target, source, types to take away (None: all)
    ("cellbench_6batches", "CELseq2_5cl_p3", "10x_5cl", None),
    ("cellbench_6batches", "10x_5cl", "CELseq2_5cl_p3", None),
    ("pancreas_3studies_small", "Lawlor", "Baron", None),
    ("pancreas_3studies_small", "Baron", "Segerstolpe", None),
    ("pbmc_10x_symphony", "3pv1", "3pv2", ("B", "Mono_CD14", "NK", "T_CD4")),
)


def scores(known: KnownCodes, codes: np.ndarray, model: Annotator) -> dict[str, np.ndarray]:
    """Each score of the cells (n, size), higher for stranger ones."""
    with torch.no_grad():
        logits = model.head(torch.from_numpy(codes))
    neighbours = NearestNeighbors(n_neighbors=5).fit(known.codes)
    means = np.stack([known.codes[known.y == k].mean(axis=0) for k in np.unique(known.y)])
    place = np.searchsorted(np.unique(known.y), known.y)
    within = LedoitWolf().fit(known.codes - means[place]).precision_
    mahalanobis = np.stack([np.einsum("ij,jk,ik->i", codes - m, within, codes - m) for m in means]).min(axis=0)
    return {
        "5th neighbour, cosine (used: moved)": known.novelty(codes),
        "5th neighbour, Euclidean": neighbours.kneighbors(codes)[0][:, -1],
        "Mahalanobis to the nearest type": mahalanobis,
        "Mahalanobis beyond the batch's first quartile": mahalanobis - np.quantile(mahalanobis, 0.25),
        "1 - confidence": 1 - torch.softmax(logits, dim=1).max(dim=1).values.numpy(),
        "energy": -torch.logsumexp(logits, dim=1).numpy(),
    }


def as_it_is_and_moved(
    known: KnownCodes, x: sparse.csr_matrix, model: Annotator, settings: Settings
) -> dict[str, dict[str, np.ndarray]]:
    """The scores of a batch's cells, by their codes as they are and moved as alignment moves them."""
    codes = encode(model, x, settings.device)
    b = alignment.translate(model.head, codes, known, settings)[0]
    return {"as they are": scores(known, codes, model), "moved": scores(known, codes + b, model)}


def limits(reference: Reference) -> dict[str, dict[str, float]]:
    """For each score what 1 % of the cells of left-out batches exceed, each batch counted alike."""
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    for group in leave_one_out.folds(list(reference.batches), leave_one_out.MOST_LEFT_OUT, reference.settings.seed):
        model = leave_one_out.learn_without(reference, group)
        learned = np.concatenate([cells.y for cells in model.batches.values()])
        for cells in (reference.batches[name] for name in group):
            of_batch = as_it_is_and_moved(alignment.known_codes(model), cells.x, model.model, model.settings)
            for where, of_scores in of_batch.items():
                for score, values in of_scores.items():
                    found.setdefault((where, score), []).append(values[np.isin(cells.y, learned)])
    limit: dict[str, dict[str, float]] = {}
    for (where, score), values in found.items():
        some = [of_batch for of_batch in values if len(of_batch)]
        weights = np.concatenate([np.full(len(of_batch), 1 / len(of_batch)) for of_batch in some])
        at = np.quantile(np.concatenate(some), 1 - calibration.UNLIKE, weights=weights, method="inverted_cdf")
        limit.setdefault(where, {})[score] = float(at)
    return limit


def one_type(name: str, target: str, source: str, taken_away: str) -> list[dict[str, Any]]:
    """Learns without a type and scores the target's cells."""
    learned = learn(parameters_of(name, target, SOURCE_DATASET_NAME=source, UNLABELED=[taken_away]))
    truth, limit = labels_of_target(parameters_of(name, target)), limits(learned.reference)
    new = truth == taken_away
    known = np.isin(truth.astype(str), learned.plan.classes)
    found = as_it_is_and_moved(learned.known, learned.x, learned.reference.model, learned.settings)
    return [
        {"set": name, "target": target, "type": taken_away, "cells": int(new.sum()), "codes": where, "score": score}
        | {"AUROC": roc_auc_score(new[new | known], values[new | known])}
        | {"new cells beyond the limit": float(np.mean(values[new] > limit[where][score]))}
        | {"known cells beyond the limit": float(np.mean(values[known] > limit[where][score]))}
        for where, of_scores in found.items()
        for score, values in of_scores.items()
    ]


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
    """Prints, for each score, the mean over types of the AUROC and of the shares beyond the limit, and the worst type's."""
    table = pd.read_csv(OUTPUT)
    numbers = ["AUROC", "new cells beyond the limit", "known cells beyond the limit"]
    grouped = table.groupby(["codes", "score"], sort=False)
    worst = pd.DataFrame(
        {"lowest AUROC": grouped["AUROC"].min(), "most known cells beyond it": grouped[numbers[2]].max()}
    )
    print(grouped[numbers].mean().join(worst).round(3).to_string())


if __name__ == "__main__":
    command(__doc__, run, report)
