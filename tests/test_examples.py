"""The examples for workflow systems: an example that does not work is worse than none."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import anndata as ad
import pytest
import yaml

from tests.conftest import ROOT, skip
from tests.helpers.simulated import THREE_BATCHES, simulated

EXAMPLES = ROOT / "examples"

# Stands for jind-nb where only the call matters: says how it was called, and writes what Snakemake waits for.
CALLED = """#!/bin/sh
echo "$@" >> "{log}"
while [ "$1" != --output-path ]; do shift; done
mkdir -p "$2" && echo {{}} > "$2/manifest.json"
"""


@pytest.mark.slow
def test_the_snakefile_and_the_wrappers_call_jind_nb(tmp_path: Path) -> None:
    """With the real Snakemake; what is newer than its parameters is not done again."""
    snakemake = shutil.which("snakemake")
    if snakemake is None:
        skip("no snakemake (pip install snakemake, into an environment of its own)")
    (tmp_path / "parameters").mkdir()
    for name in ("one", "two"):
        (tmp_path / "parameters" / f"{name}.yaml").write_text("PATH: a.h5ad")
    (tmp_path / "runs" / "two").mkdir(parents=True)
    (tmp_path / "runs" / "two" / "manifest.json").write_text("{}")
    (tmp_path / "model").mkdir()
    (tmp_path / "new cells.h5ad").touch()
    (tmp_path / "Predict").write_text(
        f"""
rule predict:
    input: model="model", cells="new cells.h5ad"
    output: manifest="answers/manifest.json"
    params: extra="--align"
    wrapper: "file:{EXAMPLES}/snakemake/predict"
"""
    )
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "jind-nb"
    command.write_text(CALLED.format(log=tmp_path / "calls"))
    command.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = f"{command.parent}{os.pathsep}{environment['PATH']}"
    for snakefile in (EXAMPLES / "Snakefile", tmp_path / "Predict"):
        done = subprocess.run(
            [str(snakemake), "--snakefile", snakefile, "--cores", "2"],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "calls").read_text().splitlines() == [
        "run parameters/one.yaml --output-path runs/one",
        "predict model new cells.h5ad --output-path answers --align",
    ]


@pytest.mark.parametrize("name", ["run", "predict"])
def test_a_nextflow_module_names_the_files_that_come_out(name: str) -> None:
    """Nextflow itself is not here (its launcher is fetched): what can be seen without it."""
    folder = EXAMPLES / "nextflow" / name
    text = (folder / "main.nf").read_text()
    assert text.count("{") == text.count("}")
    assert text.count('"""') == 4
    meta = yaml.safe_load((folder / "meta.yml").read_text())
    emitted = re.findall(r"emit: (\w+)", text)
    assert emitted == [name for one in meta["output"] for name in one]
    assert f"jind-nb {name} " in text
    page = (ROOT / "docs" / "output.md").read_text("utf-8")
    for file in re.findall(r"\{prefix\}/([\w.]+)", text):
        assert file in page, file


def test_the_openproblems_component_labels_every_test_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adata = simulated(THREE_BATCHES)
    adata.layers["counts"] = adata.X.copy()
    adata.obs["label"] = adata.obs["celltype"]
    is_test = adata.obs["batch"] == "c"
    adata[~is_test].copy().write_h5ad(tmp_path / "train.h5ad")
    test = adata[is_test].copy()
    truth = test.obs.pop("label")
    test.uns |= {"dataset_id": "simulated", "normalization_id": "counts"}
    test.write_h5ad(tmp_path / "test.h5ad")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / "openproblems" / "jind_nb" / "script.py"))
    output = ad.read_h5ad(tmp_path / "output.h5ad")
    assert (output.obs["label_pred"] == truth).mean() > 0.9
    assert dict(output.uns) == {"dataset_id": "simulated", "normalization_id": "counts", "method_id": "jind_nb"}
    config = yaml.safe_load((EXAMPLES / "openproblems" / "jind_nb" / "config.vsh.yaml").read_text())
    assert config["name"] == json.loads(json.dumps(output.uns["method_id"]))
