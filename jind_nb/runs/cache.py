"""Which stages of an earlier run in the same folder can be reused: what they depended on, and the files they wrote.

work/stages.json: `{stage: {"key", "files": {path: {"bytes", "sha256"}}, "seconds", "peak_memory_bytes", ...}}`, written
after each stage. A run that was killed continues after the last stage in it.
"""

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
        "UNLABELED", "RENAME", "GENE_COL", "FEATURE_TYPES", "LAYER", "NORMALISATION", "MARKERS", "PARENTS", "ONTOLOGY",
    ),
    "2_train": ("USE_GPU", "EPOCHS", "REJECTION", "TARGET_ERROR"),
    "3_align": ("ALIGN", "DOUBLETS"),
    "4_evaluate": ("TYPES", "CLUSTER_RESOLUTION"),
    "report": ("OUTPUT_PATH",),
}  # fmt: skip

REPORT = "report"

# Stage 2 writes this file, and stage 3 adds the target to it.
SHARED_FILE = "trained_models/model.json"

Records = dict[str, dict[str, Any]]


def input_signature(run: Run) -> list[tuple[str, int, int]]:
    """Return path, size and time of every input file, by which a change while the run is at work is noticed."""
    status = {str(part): part.stat() for file in _input_files(run) for part in parts(file)}
    return [(name, s.st_size, s.st_mtime_ns) for name, s in status.items()]


def _input_files(run: Run) -> list[Path]:
    """Return the data files and the files of a saved model."""
    model = run.parameters.PRETRAINED_MODEL_PATH
    of_model = sorted(path for path in Path(model).iterdir() if path.is_file()) if model is not None else []
    return [*input_files(run.parameters), *of_model]


def input_hashes(run: Run, hash_of: Callable[[Path], str] = sha256) -> dict[Path, str]:
    """Return the SHA-256 of every input file; `hash_of` may cache those of files that many runs share."""
    return {file: hash_of(file) for file in _input_files(run)}


def stage_keys(run: Run, inputs: Mapping[Path, str]) -> dict[str, str]:
    """Return for each stage of the run, in order, a hash of all it depends on: code, input, parameters, earlier stages.

    Parameters
    ----------
    inputs
        `input_hashes(run)`.
    """
    values = run.parameters.model_dump()
    values["PATH"] = [(file.name, hash_) for file, hash_ in inputs.items()]
    values["PRETRAINED_MODEL_PATH"] = run.parameters.PRETRAINED_MODEL_PATH is not None
    key, found = code_hash(), {}
    matters: dict[str, Any] = {}
    for stage, names in MATTERS_FROM.items():
        matters |= {name: values[name] for name in names if name in values}
        if stage not in (*run.stages, REPORT):
            continue  # what matters to a stage that this run does not have matters to the next
        template = shipped("notebooks") / f"{stage}.ipynb"
        found[stage] = key = json_hash([stage, key, matters, sha256(template) if stage in STAGES else None])
        matters = {}
    return found


def parameters_of_stage(run: Run, stage: str) -> dict[str, Any]:
    """Return every parameter that matters to a stage or to one before it, as plain values.

    Files of PATH are given by name and size, a saved model by its content.
    """
    values = run.parameters.model_dump()
    values["PATH"] = [[file.name, n_bytes(file)] for file in input_files(run.parameters)]
    if run.parameters.PRETRAINED_MODEL_PATH is not None:
        values["PRETRAINED_MODEL_PATH"] = read_model_json(Path(run.parameters.PRETRAINED_MODEL_PATH))["sha256"]
    stages = list(MATTERS_FROM)
    return {name: values[name] for earlier in stages[: stages.index(stage) + 1] for name in MATTERS_FROM[earlier]}


def changed_parameters(run: Run, stage: str) -> list[str]:
    """Return, in words, the parameters that differ from those a stage's files were made with."""
    now, then = parameters_of_stage(run, stage), read_json(run.stage_parameters_json(stage))
    words = {
        "PATH": "PATH names another file, or the file was changed",
        "PRETRAINED_MODEL_PATH": "PRETRAINED_MODEL_PATH names another model",
    }
    return [
        words.get(name, f"{name} was {then.get(name)!r}, here it is {value!r}")
        for name, value in now.items()
        if name not in then or then[name] != value
    ]


def has_same_parameters(run: Run) -> bool:
    """Return whether the finished run in the folder has these parameters, and files of PATH of the same names and sizes."""
    first = STAGES[0]
    try:
        stored = yaml.safe_load(run.parameters_yaml.read_text("utf-8"))
        if run.stage_parameters_json(first).exists() and changed_parameters(run, first):
            return False
    except (OSError, ValueError, yaml.YAMLError):
        return False
    # OUTPUT_PATH does not count: the folder may have been moved.
    return bool(stored | {"OUTPUT_PATH": None} == run.parameters.model_dump() | {"OUTPUT_PATH": None})


def read_records(run: Run) -> Records | None:
    """Return the records that earlier runs wrote, None if there are none or the file is not a run's."""
    try:
        records = read_json(run.stages_json)
        return {stage: dict(record, files=dict(record["files"])) for stage, record in records.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def stage_record(run: Run, stage: str, key: str, files: Iterable[Path], **also: Any) -> dict[str, Any]:
    """Return the record of a finished stage."""
    names = sorted(file.relative_to(run.folder).as_posix() for file in files)
    return {"key": key, "files": {name: _file_signature(run, stage, name) for name in names}, **also}


def reusable_stages(run: Run, keys: Mapping[str, str], records: Records) -> list[str]:
    """Return the stages, from the first on, whose key is the same and whose files are unchanged."""
    reusable: list[str] = []
    for stage, key in keys.items():
        of_stage = records.get(stage, {})
        # A report without a PDF is made again: what it needs may have been installed since.
        if of_stage.get("key") != key or of_stage.get("pdf_missing"):
            break
        try:
            if any(_file_signature(run, stage, name) != wanted for name, wanted in of_stage["files"].items()):
                break
        except (OSError, ValueError, TypeError):
            break
        reusable.append(stage)
    return reusable


def is_finished(run: Run, inputs: Mapping[Path, str]) -> bool:
    """Return whether the run is finished and unchanged, so that the same run again would repeat nothing.

    A missing PDF does not count.
    """
    records = {stage: record | {"pdf_missing": None} for stage, record in (read_records(run) or {}).items()}
    keys = stage_keys(run, inputs)
    return run.manifest.exists() and reusable_stages(run, keys, records) == list(keys)


def recorded_files(run: Run, records: Records, stages: Iterable[str]) -> set[Path]:
    """Return the files that these stages wrote."""
    return {run.folder / name for stage in stages for name in records[stage]["files"]}


def remove_target_from_model(run: Run) -> None:
    """Remove from model.json what stage 3 added, so that it is stage 2's file again."""
    description = read_json(run.folder / SHARED_FILE)
    if description["target"] is not None:
        write_model_json(run.models, description | {"target": None})


def _file_signature(run: Run, stage: str, name: str) -> dict[str, Any]:
    """Return what a file of a stage is recognised by; in the file that stage 3 changes, only stage 2's part counts."""
    file = run.folder / name
    if stage == "2_train" and name == SHARED_FILE:
        return {"sha256": json_hash(read_json(file) | {"target": None, "sha256": None})}
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}
