"""ro-crate-metadata.json: what an archive or a workflow system reads of a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rocrate.rocrate import ROCrate

from jind_nb.commands.crate import PROFILE, write_crate
from jind_nb.core.files import sha256
from jind_nb.core.parameters import make_parameters
from jind_nb.runs.folder import Run
from tests.conftest import Answer, Whole


def written(folder: Path, **of_record: Any) -> ROCrate:
    (folder / "input.h5ad").write_text("cells")
    (folder / "metrics.json").write_text("{}")
    (folder / "work").mkdir(exist_ok=True)
    values = {
        "PATH": str(folder / "input.h5ad"), "BATCH_COL": "batch", "LABELS_COL": "type", "TARGET_DATASET_NAME": "new #1",
        "OUTPUT_PATH": str(folder), "TARGET_ERROR": 0.05,
    }  # fmt: skip
    manifest = {
        "versions": {"python": "3.11.9", "jind-nb": "1.0", "numpy": "2.4.6"},
        "input": [{"path": str(folder / "input.h5ad"), "sha256": "abc"}],
        "reused": ["1_preprocess"],
    }
    files = {"metrics.json": {"bytes": 2, "sha256": "def"}, "work/plan.json": {"bytes": 2, "sha256": "0"}}
    record = {"files": files, "seconds": 90.0, "peak_memory_bytes": 10**9} | of_record
    run = Run(make_parameters(values))
    write_crate(run, manifest, {"1_preprocess": record})
    return ROCrate(folder)


def test_the_crate_says_what_went_in_how_and_what_came_out(tmp_path: Path) -> None:
    crate = written(tmp_path, finished="2026-11-28T20:00:00+00:00")
    run, stage = crate.dereference("#run"), crate.dereference("#1_preprocess")
    assert crate.root_dataset["conformsTo"].id == PROFILE
    assert {run["@type"], stage["@type"]} == {"CreateAction"}
    assert run["instrument"]["softwareVersion"] == "1.0"
    assert {one["name"] for one in run["instrument"]["softwareRequirements"]} == {"python", "numpy"}
    asked = {one["name"]: one for one in run["object"]}
    assert asked["input.h5ad"]["sha256"] == "abc"
    assert asked["TARGET_ERROR"]["value"] == 0.05
    assert [one["name"] for one in run["result"]] == ["metrics.json"]
    assert (stage["startTime"], stage["endTime"]) == ("2026-11-28T19:58:30+00:00", "2026-11-28T20:00:00+00:00")
    assert "reused" in stage["name"]


def test_a_stage_of_an_earlier_version_has_no_times(tmp_path: Path) -> None:
    assert "endTime" not in written(tmp_path).dereference("#run").properties()


@pytest.mark.slow
def test_a_report_that_is_made_again_is_in_the_crate(
    whole: Whole, tmp_path: Path, jind_nb: Callable[..., Answer]
) -> None:
    """Else the archive's hash would not be that of the file beside it."""
    run = shutil.copytree(whole.run, tmp_path / "run")
    assert jind_nb("report", run).status == 0
    (report,) = [one for one in ROCrate(run).get_by_type("File") if one.id == "report.html"]
    assert report["sha256"] == sha256(run / "report.html")


@pytest.mark.slow
def test_a_run_s_crate_names_every_file_for_users_with_its_hash(whole: Whole) -> None:
    crate = ROCrate(whole.run)
    files = {one.id: one for one in crate.get_by_type("File")}
    for name in (
        "predictions.parquet",
        "annotated_target.h5ad",
        "report.html",
        "trained_models/model.json",
        "notebooks/4_evaluate.ipynb",
    ):
        assert files[name]["sha256"] == sha256(whole.run / name), name
    source = json.loads((whole.run / "manifest.json").read_text())["input"][0]
    assert source["sha256"] in {one.get("sha256") for one in files.values()}
    assert all(stage.get("endTime") for stage in crate.get_by_type("CreateAction"))
