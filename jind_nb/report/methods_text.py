"""The methods section for a paper: what a run did, as one paragraph with its references (templates/methods.txt.j2)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..core.methods import DATA_RULES
from ..core.model_json import read_model_json
from ..core.resources import templates
from ..data.plan import Plan
from ..model.annotate import METHODS
from ..model.expected_error import expected_error
from ..model.new_types import CLAIM_WEIGHT, CLAIMED, DRAWS, GROUP_WEIGHT, SURPRISE_WEIGHT
from ..model.predictions import SHARE_ABOVE
from ..results.summary import alignment_reason
from ..results.target import TargetResult, target_calibration
from ..runs.folder import Run
from .chapter import ONE_BATCH, SEVERAL_BATCHES


@dataclass(frozen=True)
class Methods:
    """The paragraph and its references in order of citation: (authors and year, title and journal, address)."""

    paragraph: str
    references: list[tuple[str, str, str]]


def tags_of(run: Run) -> frozenset[str]:
    """Return how the run's model was trained, as tags of the notebooks' cells: its METHOD, and whether on one annotated batch."""
    training = _model(run)["training"]
    return frozenset({f"method-{training['METHOD']}", ONE_BATCH if len(training["cells"]) == 1 else SEVERAL_BATCHES})


def _model(run: Run) -> dict[str, Any]:
    """Return the description of the run's model: its model.json."""
    return read_model_json((run.cohort or run).models)


def _most_cells(run: Run, plan: Plan) -> int | None:
    """Return how many labelled cells of a batch were used at most; None where no batch had more."""
    most = DATA_RULES[run.parameters.METHOD].most_cells
    return most if any(n > most for n in plan.labelled.values()) else None


def methods(
    run: Run, result: TargetResult, plan: Plan, training: Mapping[str, Any], versions: Mapping[str, str]
) -> Methods:
    """Describe what was done in this run, no more.

    Parameters
    ----------
    versions
        Of Python and packages, as in manifest.json.
    """
    model = _model(run)
    method = model["training"]["METHOD"]
    calibration = target_calibration(training, result)
    epochs = None if run.parameters.PRETRAINED_MODEL_PATH else run.parameters.EPOCHS
    values = {
        "run": run, "result": result, "plan": plan, "training": training, "versions": versions, "method": method,
        "calibration": calibration, "stated": expected_error(result.final, calibration), "alignment_reason": alignment_reason,
        "learning": METHODS[method].describe(result.latent.shape[1], epochs, 1 + len(training["intermediates"])),
        "CLAIMED": CLAIMED, "CLAIM_WEIGHT": CLAIM_WEIGHT, "GROUP_WEIGHT": GROUP_WEIGHT, "DRAWS": DRAWS, "SURPRISE_WEIGHT": SURPRISE_WEIGHT, "SHARE_ABOVE": SHARE_ABOVE,
        "most_cells": _most_cells(run, plan), "steps": METHODS[method],
    }  # fmt: skip
    module: Any = templates().get_template("methods.txt.j2").make_module(values)
    paragraph = re.sub(r"\s*\n\s*", " ", str(module)).strip()
    cited = [reference for reference in module.references if reference[0] in paragraph]
    return Methods(paragraph, sorted(cited, key=lambda reference: paragraph.index(reference[0])))
