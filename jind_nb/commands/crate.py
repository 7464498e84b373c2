"""ro-crate-metadata.json, what manifest.json knows in a form that archives and workflow systems read.

A Process Run Crate (https://w3id.org/ro/wfrun/process/0.5), one of the profiles of Workflow Run RO-Crate: the run as one
action and each stage as another, with inputs and their hashes, parameters, software, outputs and times.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rocrate.model.contextentity import ContextEntity
from rocrate.rocrate import ROCrate

from ..core.files import sha256, write_json
from ..core.stage_words import STAGE_WORDS
from ..runs.folder import Run

PROFILE = "https://w3id.org/ro/wfrun/process/0.5"

HOME = "https://pypi.org/project/{}/"

TYPES = {
    ".h5ad": "application/x-hdf5", ".html": "text/html", ".pdf": "application/pdf", ".json": "application/json",
    ".csv": "text/csv", ".ipynb": "application/x-ipynb+json", ".yaml": "application/yaml", ".md": "text/markdown",
    ".parquet": "application/vnd.apache.parquet",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}  # fmt: skip

Records = Mapping[str, Mapping[str, Any]]


def write_crate(run: Run, manifest: Mapping[str, Any], records: Records) -> None:
    """Write a finished run's ro-crate-metadata.json.

    Parameters
    ----------
    manifest
        What manifest.json holds.
    records
        Of each stage in order, `runs.cache.stage_record` with `seconds` and, of stages of this version, `finished`.
    """
    crate = _new_crate(f"Cell types of {run.parameters.target}", "A run of jind-nb")
    ours = _ourselves(crate, manifest["versions"])
    inputs = [_input(crate, file) for file in manifest["input"]]
    parameters = [_parameter(crate, name, value) for name, value in run.parameters.model_dump().items()]
    outputs = {stage: _outputs(crate, run, record) for stage, record in records.items()}
    times = {stage: _times(record) for stage, record in records.items()}
    for stage, record in records.items():
        reused = " (reused from an earlier run)" if stage in manifest["reused"] else ""
        about = {"@type": "CreateAction", "name": f"{stage}: {STAGE_WORDS[stage]}{reused}"} | times[stage]
        about["description"] = f"{record['seconds']:g} seconds, {record['peak_memory_bytes'] / 1e9:.2f} GB at most"
        action = crate.add(ContextEntity(crate, f"#{stage}", about))
        action["instrument"], action["result"] = ours, outputs[stage]
    whole = crate.add(ContextEntity(crate, "#run", {"@type": "CreateAction", "name": "jind-nb run"} | _from_to(times)))
    whole["instrument"], whole["object"] = ours, [*inputs, *parameters]
    whole["result"] = [file for of_stage in outputs.values() for file in of_stage]
    crate.root_dataset["mentions"] = [whole, *(crate.dereference(f"#{stage}") for stage in records)]
    write_json(run.crate, crate.metadata.generate())


def write_prediction_crate(run: Run, manifest: Mapping[str, Any], seconds: float) -> None:
    """Write ro-crate-metadata.json of `jind-nb predict`: one action, whose instrument is the program and whose objects are the
    file, the saved model and the parameters.

    Parameters
    ----------
    manifest
        What manifest.json holds.
    seconds
        How long it took until now.
    """
    crate = _new_crate(f"Cell types of {run.parameters.target}", "A file annotated by jind-nb with a saved model")
    ours = _ourselves(crate, manifest["versions"])
    objects = [_input(crate, file) for file in manifest["input"]]
    model = Path(manifest["model"]["path"]) / "model.json"  # which has the hashes of all other files of the model
    objects.append(_input(crate, {"path": str(model), "sha256": sha256(model)}))
    objects += [_parameter(crate, name, value) for name, value in run.parameters.model_dump().items()]
    written = (
        run.predictions_parquet, run.predictions_csv, run.predictions_xlsx, run.unlike_groups, run.metrics, run.report_html,
    )  # fmt: skip
    files = [_file(crate, run, path, sha256(path), path.stat().st_size) for path in written if path.exists()]
    # Hashing the annotated file would take as long as writing it.
    files.append(_file(crate, run, run.annotated_target, None, run.annotated_target.stat().st_size))
    now = datetime.now().astimezone()
    times = {"startTime": now - timedelta(seconds=seconds), "endTime": now}
    about = {"@type": "CreateAction", "name": "jind-nb predict"}
    about |= {name: time.isoformat(timespec="seconds") for name, time in times.items()}
    action = crate.add(ContextEntity(crate, "#predict", about))
    action["instrument"], action["object"], action["result"] = ours, objects, files
    crate.root_dataset["mentions"] = [action]
    write_json(run.crate, crate.metadata.generate())


def _new_crate(name: str, what: str) -> ROCrate:
    crate = ROCrate(gen_preview=False)
    crate.name = name
    crate.description = f"{what}: cell-type labels carried over from annotated batches to one without labels."
    crate.root_dataset["conformsTo"] = {"@id": PROFILE}
    crate.add(ContextEntity(crate, PROFILE, {"@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"}))
    return crate


def _ourselves(crate: ROCrate, versions: Mapping[str, str]) -> ContextEntity:
    """Add Python and the packages to a crate, and return our own."""
    software = [_software(crate, name, version) for name, version in versions.items()]
    ours = next(entity for entity in software if entity["name"] == "jind-nb")
    ours["softwareRequirements"] = [entity for entity in software if entity is not ours]
    return ours


def _software(crate: ROCrate, name: str, version: str) -> ContextEntity:
    url = "https://www.python.org" if name == "python" else HOME.format(name)
    about = {"@type": "SoftwareApplication", "name": name, "softwareVersion": version}
    return crate.add(ContextEntity(crate, f"#{name}", about | ({} if name == "jind-nb" else {"url": url})))


def _input(crate: ROCrate, file: Mapping[str, Any]) -> Any:
    path = Path(file["path"])
    about = {"name": path.name, "sha256": file["sha256"], "contentUrl": path.absolute().as_uri()}
    return crate.add_file(file.get("fetched from", path.absolute().as_uri()), properties=about)


def _parameter(crate: ROCrate, name: str, value: Any) -> ContextEntity:
    plain = value if isinstance(value, str | int | float | bool) else "" if value is None else str(value)
    return crate.add(ContextEntity(crate, f"#{name}", {"@type": "PropertyValue", "name": name, "value": plain}))


def _outputs(crate: ROCrate, run: Run, record: Mapping[str, Any]) -> list[Any]:
    """Return the files for users that a stage wrote; what one stage leaves for the next is not among them."""
    found = []
    for name, signature in record["files"].items():
        parts = Path(name).parts
        if run.work.name in (parts[0], *(parts[2:-1] if parts[0] == run.targets.name else ())):
            continue
        # Of a file that a later stage changes there is only a hash of a part.
        whole = "bytes" in signature
        known = (signature["sha256"], signature["bytes"]) if whole else (None, None)
        found.append(_file(crate, run, run.folder / name, *known))
    return found


def _file(crate: ROCrate, run: Run, path: Path, hash_: str | None, size: int | None) -> Any:
    about = {
        "name": path.name,
        "encodingFormat": TYPES.get(path.suffix),
        "sha256": hash_,
        "contentSize": None if size is None else str(size),
    }
    known = {key: value for key, value in about.items() if value is not None}
    return crate.add_file(path, dest_path=path.relative_to(run.folder).as_posix(), properties=known)


def _times(record: Mapping[str, Any]) -> dict[str, str]:
    if "finished" not in record:
        return {}
    end = datetime.fromisoformat(record["finished"])
    start = end - timedelta(seconds=record["seconds"])
    return {"startTime": start.isoformat(timespec="seconds"), "endTime": end.isoformat(timespec="seconds")}


def _from_to(times: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    known = [of_stage for of_stage in times.values() if of_stage]
    if not known:
        return {}
    starts, ends = ([of_stage[name] for of_stage in known] for name in ("startTime", "endTime"))
    return {"startTime": min(starts, key=datetime.fromisoformat), "endTime": max(ends, key=datetime.fromisoformat)}
