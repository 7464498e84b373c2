"""What each stage of METHOD `reference` brings or costs, on the first target of each shared set.

    .venv/bin/python benchmarks/stages.py          # the table of what results/stages.csv holds
    .venv/bin/python benchmarks/stages.py --run    # runs what is missing there first

The target's labels are read after all stages, to count. `alignment, best epoch by the target's labels` is no method: it is
what a perfect stopping rule would have found.
"""

from __future__ import annotations

import csv
import os
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import torch
from accuracy import CHECK, DESIGN, targets
from learned import RESULTS, command, labels_of_target, parameters_of
from scipy import sparse

from jind_nb.data import cells as data_cells
from jind_nb.data import prepare
from jind_nb.data import roles as data_roles
from jind_nb.model import alignment, history, training
from jind_nb.model.predictions import Predictions

OUTPUT = RESULTS / "stages.csv"


def stages(name: str, target: str, roles: dict[str, Any]) -> dict[str, np.ndarray]:
    """Probabilities for the target after each stage."""
    parameters = parameters_of(name, target, METHOD="reference", **roles)
    cells = data_cells.read_cells(parameters)
    plan = data_roles.make_plan(parameters, cells)
    prepared = prepare.prepare(parameters, cells, plan)
    settings = training.Settings.of(parameters)
    x = sparse.csr_matrix(prepared[(prepared.obs["batch"] == plan.target).to_numpy()].X)
    reference = training.start(prepared, plan, settings)
    reference.keeps_history = False

    def shared() -> np.ndarray:
        codes = training.encode(reference.model, x, settings.device)
        return training.decode(reference.model.head, codes, settings.device)

    answers = {"source alone": shared()}
    for batch in reference.intermediates:
        training.adapt(reference, batch)
        training.finetune(reference, batch)
    training.retrain(reference)
    answers["adapters and joint training (before alignment)"] = shared()
    if reference.intermediates:
        models = [reference.annotator(batch) for batch in reference.intermediates]
        codes = [training.encode(model, x, settings.device) for model in models]
        by_adapter = [training.decode(reference.model.head, of_one, settings.device) for of_one in codes]
        answers["the same, mean over the intermediates' adapters"] = np.mean(by_adapter, axis=0)
    known = alignment.known_codes(reference)
    annotated = alignment.annotate(reference.model, x, known, settings)
    epochs = watched(x)
    alignment.align(annotated, x, known, settings)
    epochs = epochs()
    answers["alignment, epoch of fewest Unassigned (the method's)"] = annotated.stages[alignment.ALIGNED].probabilities
    answers["alignment, last epoch"] = epochs[-1]
    alignment.self_train(annotated, x, known, settings)
    answers["self-training (the method's answer)"] = list(annotated.stages.values())[-1].probabilities
    truth = labels_of_target(parameters)
    best = max(
        epochs, key=lambda one: float((np.array(plan.classes, dtype=object)[one.argmax(axis=1)] == truth).mean())
    )
    answers["alignment, best epoch by the target's labels"] = best
    return {stage: Predictions(plan.classes, p, np.zeros(len(plan.classes))) for stage, p in answers.items()}


def watched(x: sparse.csr_matrix) -> Any:
    """Lets the next alignment be looked at epoch by epoch; call the answer for the probabilities."""
    seen: list[np.ndarray] = []
    played = alignment._Game.epoch

    def epoch(game: alignment._Game) -> tuple[float, float]:
        losses = played(game)
        codes = training.encode(game.model, x, game.device)
        seen.append(training.decode(game.model.head, codes, game.device))
        return losses

    alignment._Game.epoch = epoch

    def stop() -> list[np.ndarray]:
        alignment._Game.epoch = played
        return seen

    return stop


def run() -> None:
    torch.set_num_threads(1)
    done = set(pd.read_csv(OUTPUT, dtype={"target": str})["set"]) if OUTPUT.exists() else set()
    for name in (*DESIGN, *CHECK):
        if name in done:
            continue
        target, roles = targets(name)[0]
        answers = stages(name, target, roles)
        truth = labels_of_target(parameters_of(name, target, **roles))
        new = not OUTPUT.exists()
        with OUTPUT.open("a", newline="") as stream:
            writer = csv.writer(stream)
            if new:
                writer.writerow(["set", "target", "stage", "raw_accuracy", "macro_F1", "AURC"])
            for stage, predictions in answers.items():
                found = history.evaluate(truth, predictions)[0]
                numbers = [round(found[number], 5) for number in ("raw_accuracy", "macro_F1", "AURC")]
                writer.writerow([name, target, stage, *numbers])
        print(name, target, flush=True)


def report() -> None:
    rows = pd.read_csv(OUTPUT, dtype={"target": str})
    wide = rows.pivot(index="stage", columns="set", values="macro_F1").reindex(rows["stage"].unique())
    means = rows.groupby("stage", sort=False)[["raw_accuracy", "macro_F1", "AURC"]].mean()
    print(means.join(wide).to_string(float_format="{:.3f}".format))


if __name__ == "__main__":
    command(__doc__, run, report)
