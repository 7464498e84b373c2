"""How right the parents are that ambiguous cells fall back to: `python benchmarks/levels.py`.

Each batch in turn is the target, annotated without alignment by class-wise thresholds. Writes results/levels.csv.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from learned import RESULTS, labels_of_target, learn, parameters_of

from jind_nb.data import parents as data_parents
from jind_nb.model import alignment, hierarchy
from jind_nb.model.predictions import Predictions, Rule
from jind_nb.model.training import decode

SETS = {
    "pbmc_10x_symphony": (
        ["3pv1", "3pv2", "5p"],
        {"T_CD4": "T", "T_CD8": "T", "Mono_CD14": "Mono", "Mono_CD16": "Mono"},
    ),
    "pancreas_wang_xin_baron": (
        ["Wang", "Xin", "Baron"], dict.fromkeys(["alpha", "beta", "delta", "gamma"], "endocrine"),
    ),
    "scatac_granja_bmmc_2donors": (
        ["BMMC_D5T1", "BMMC_D6T1"], dict.fromkeys(["01_HSC", "05_CMP.LMPP", "07_GMP"], "myeloid progenitor"),
    ),
}  # fmt: skip
THETAS = (0.05, 0.2)


def rows_of(name: str, target: str) -> list[dict[str, object]]:
    """One row for each share of held-out cells to reject."""
    parents = SETS[name][1]
    parameters = parameters_of(name, target, METHOD="reference")
    learned = learn(parameters)
    labels = labels_of_target(parameters)
    annotated = alignment.annotate(learned.reference.model, learned.x, learned.known, learned.settings)
    network = annotated.stages[alignment.BEFORE].probabilities
    held_out = decode(learned.reference.model.head, learned.known.held_out, learned.settings.device)
    rows = []
    for theta in THETAS:
        p = Predictions.by(Rule(), learned.known.classes, network, held_out, theta)
        fallback = hierarchy.fall_back(p, parents, hierarchy.thresholds(p, parents))
        fell = pd.notna(fallback)
        truth = np.array(data_parents.parents_of(list(labels), parents), dtype=object)
        kept, unassigned = ~p.rejected, p.rejected & ~fell
        rows.append(
            {
                "set": name,
                "target": target,
                "REJECTION": theta,
                "cells": len(labels),
                "types assigned": int(kept.sum()),
                "of them right": int((p.names == labels)[kept].sum()),
                "fell back": int(fell.sum()),
                "of them right parent": int((fallback == truth)[fell].sum()),
                "their type would have been right": int((p.raw == labels)[fell].sum()),
                "Unassigned": int(unassigned.sum()),
            }
        )
    return rows


def main() -> None:
    table = pd.DataFrame(
        [row for name, (targets, _) in SETS.items() for target in targets for row in rows_of(name, target)]
    )
    table.to_csv(RESULTS / "levels.csv", index=False)
    print(table.to_string())
    print(table.groupby("REJECTION").sum(numeric_only=True).to_string())


if __name__ == "__main__":
    main()
