"""`validate` and a run never disagree about whether a file can be annotated.

What validate lets pass and a later stage refuses has cost all the training by then.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from jind_nb.commands.validate import validate
from jind_nb.core.parameters import make_parameters
from jind_nb.errors import InputError
from tests.helpers.cases import annotate
from tests.helpers.mutations import damage_structure, good_h5ad

pytestmark = pytest.mark.slow

OURS = {"TARGET_DATASET_NAME": "c", "MIN_CELL_TYPE_POPULATION": 2}


def refusal_of(command: Callable[[], object]) -> str | None:
    """What an InputError says; None without one."""
    try:
        command()
    except InputError as refusal:
        return str(refusal)
    return None


@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
@pytest.mark.parametrize("number", range(12))
def test_what_validate_lets_pass_is_annotated(form: str, number: int, tmp_path: Path) -> None:
    """Files with one odd or damaged part, from the corpus of benchmarks/product/fuzz.py."""
    file = tmp_path / "input.h5ad"
    good_h5ad(file, form)
    damage_structure(file, random.Random(f"{form} {number}"))
    parameters = {
        "PATH": str(file),
        "BATCH_COL": "batch",
        "LABELS_COL": "celltype",
        "OUTPUT_PATH": str(tmp_path / "out"),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is odd about the file
        refusals = [
            refusal_of(lambda: validate(make_parameters(parameters | OURS))),
            refusal_of(lambda: annotate(file, tmp_path, **OURS)),
        ]
    assert refusals[0] == refusals[1]
