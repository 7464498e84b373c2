"""Which stages of an earlier run in the same folder are still good: what they depended on, and the files they made.

work/stages.json: `{stage: {"key", "files": {path: {"bytes", "sha256"}}, "seconds", "peak_memory_bytes", ...}}`, written
after each stage. A run that was killed goes on after the last stage in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..core.code_hash import code_hash, json_hash
from ..core.files import read_json, sha256
from ..core.model_json import read_model_json, write_model_json
from ..core.resources import shipped
from ..core.stage_words import STAGES
from ..data.h5ad import input_files, n_bytes, parts
from .folder import Run

# The first stage that each parameter matters to; it matters to all after it. When in doubt, the first of all. The
# files of PATH and PRETRAINED_MODEL_PATH count by name and content, not by folder; OUTPUT_PATH is only shown.
MATTERS_FROM = {
    "1_preprocess": (
        "PATH", "BATCH_COL", "LABELS_COL", "TARGET_DATASET_NAME", "SOURCE_DATASET_NAME", "PRETRAINED_MODEL_PATH",
        "INTER_DATASETS_NAMES", "EXCLUDE_DATASETS_NAMES", "NUM_FEATURES", "MIN_CELL_TYPE_POPULATION", "METHOD", "SEED",
        "UNLABELED", "GENE_COL", "LAYER", "NORMALISATION", "MARKERS", "PARENTS",
    ),
    "2_train": ("USE_GPU", "EPOCHS", "REJECTION", "TARGET_ERROR"),
    "3_align": ("ALIGN",),
    "4_evaluate": ("CLUSTER_RESOLUTION",),
    "report": ("OUTPUT_PATH",),
}  # fmt: skip

REPORT = "report"

# Stage 3 enters the target in stage 2's file.
SHARED_FILE = "trained_models/model.json"

Records = dict[str, dict[str, Any]]


def input_signature(run: Run) -> list[tuple[str, int, int]]:
    """What tells whether an input file was changed while the run was at work."""

    return [
        (str(part), s.st_size, s.st_mtime_ns) for file in _inputs(run) for part in parts(file) for s in [part.stat()]
    ]


def _inputs(run: Run) -> list[Path]:

    model = run.parameters.PRETRAINED_MODEL_PATH
    of_model = sorted(path for path in Path(model).iterdir() if path.is_file()) if model is not None else []
    return [*input_files(run.parameters), *of_model]


def input_hashes(run: Run, hash_of: Callable[[Path], str] = sha256) -> dict[Path, str]:
    """The SHA-256 of every input file; `hash_of` may remember those of files that many runs share."""
    return {file: hash_of(file) for file in _inputs(run)}


def keys(run: Run, inputs: Mapping[Path, str]) -> dict[str, str]:
    """For each stage of the run, in order, a hash of all it depends on: code, input, parameters, the stages before.

    Parameters
    ----------
    inputs
        `input_hashes(run)`.
    """
    values = run.parameters.model_dump()
    values["PATH"] = [(file.name, hash_) for file, hash_ in inputs.items()]
    values["PRETRAINED_MODEL_PATH"] = run.parameters.PRETRAINED_MODEL_PATH is not None
    before, found = code_hash(), {}
    passed: dict[str, Any] = {}
    for stage, names in MATTERS_FROM.items():
        passed |= {name: values[name] for name in names if name in values}
        if stage not in (*run.stages, REPORT):
            continue  # what would matter to a stage left out matters to the next
        template = shipped("notebooks") / f"{stage}.ipynb"
        before = json_hash([stage, before, passed, sha256(template) if stage in STAGES else None])
        found[stage] = before
        passed = {}
    return found


def settled(run: Run, stage: str) -> dict[str, Any]:
    """Every parameter that matters to a stage or to one before it, as plain values: files of PATH by name and size, a
    saved model by its content."""

    values = run.parameters.model_dump()
    values["PATH"] = [[file.name, n_bytes(file)] for file in input_files(run.parameters)]
    if run.parameters.PRETRAINED_MODEL_PATH is not None:
        values["PRETRAINED_MODEL_PATH"] = read_model_json(Path(run.parameters.PRETRAINED_MODEL_PATH))["sha256"]
    upto = list(MATTERS_FROM)[: list(MATTERS_FROM).index(stage) + 1]
    return {name: values[name] for earlier in upto for name in MATTERS_FROM[earlier]}


def differences(run: Run, stage: str) -> list[str]:
    """In words, which parameters a stage's files were made with that are others now."""
    now, then = settled(run, stage), read_json(run.settled(stage))
    words = {
        "PATH": "PATH names another file, or the file was changed",
        "PRETRAINED_MODEL_PATH": "PRETRAINED_MODEL_PATH names another model",
    }
    return [
        words.get(name, f"{name} was {then.get(name)!r}, here it is {value!r}")
        for name, value in now.items()
        if name not in then or then[name] != value
    ]


def is_of(run: Run) -> bool:
    """Whether the finished run in the folder has these parameters, and files of PATH of the same names and sizes."""
    first = STAGES[0]
    try:
        there = yaml.safe_load(run.parameters_yaml.read_text("utf-8"))
        if run.settled(first).exists() and differences(run, first):
            return False
    except (OSError, ValueError, yaml.YAMLError):
        return False
    # A folder may have been moved.
    return bool(there | {"OUTPUT_PATH": None} == run.parameters.model_dump() | {"OUTPUT_PATH": None})


def read_records(run: Run) -> Records | None:
    """What earlier runs noted; None where none did, or somebody else's file is there."""
    try:
        records = read_json(run.stages_json)
        return {stage: dict(record, files=dict(record["files"])) for stage, record in records.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def record(run: Run, stage: str, key: str, files: Iterable[Path], **also: Any) -> dict[str, Any]:
    """What is noted of a finished stage."""
    names = sorted(file.relative_to(run.folder).as_posix() for file in files)
    return {"key": key, "files": {name: _signature(run, stage, name) for name in names}, **also}


def still_good(run: Run, keys: Mapping[str, str], records: Records) -> list[str]:
    """The stages, from the first on, whose key is the same and whose files are as they were."""
    good: list[str] = []
    for stage, key in keys.items():
        of_stage = records.get(stage, {})
        # A report without its PDF is made again: most likely, what it lacked has been installed.
        if of_stage.get("key") != key or of_stage.get("pdf_missing"):
            break
        try:
            if any(_signature(run, stage, name) != wanted for name, wanted in of_stage["files"].items()):
                break
        except (OSError, ValueError, TypeError):
            break
        good.append(stage)
    return good


def is_finished(run: Run, inputs: Mapping[Path, str]) -> bool:
    """Whether the run is done and unchanged: the same again would repeat nothing, but for a PDF it lacks."""
    records = read_records(run)
    if records is None or not run.manifest.exists():
        return False
    found = keys(run, inputs)
    return still_good(run, found, {stage: of | {"pdf_missing": None} for stage, of in records.items()}) == list(found)


def files_of(run: Run, records: Records, stages: Iterable[str]) -> set[Path]:
    return {run.folder / name for stage in stages for name in records[stage]["files"]}


def without_target(run: Run) -> None:
    """Takes stage 3's entry out of stage 2's file."""
    description = read_json(run.folder / SHARED_FILE)
    if description["target"] is not None:
        write_model_json(run.models, description | {"target": None})


def _signature(run: Run, stage: str, name: str) -> dict[str, Any]:
    file = run.folder / name
    if stage == "2_train" and name == SHARED_FILE:
        return {"sha256": json_hash(read_json(file) | {"target": None, "sha256": None})}
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}
