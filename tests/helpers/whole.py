"""What must hold of a run's folder: at any moment, also right after a kill, and when the run is finished.

Tests and benchmarks/product/kills.py ask it.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import nbformat
import numpy as np
import pandas as pd

from jind_nb.model.default import COMPONENTS
from tests.helpers.simulated import THREE_BATCHES, simulated

Digest = dict[str, str]


def _pdf(file: Path) -> None:
    content = file.read_bytes()
    if not content.startswith(b"%PDF") or not content.rstrip().endswith(b"%%EOF"):
        raise ValueError("half a PDF")


def _html(file: Path) -> None:
    if not file.read_text("utf-8").rstrip().endswith("</html>"):
        raise ValueError("half a page")


def _zip(file: Path) -> None:
    if zipfile.ZipFile(file).testzip() is not None:
        raise ValueError("a damaged archive")


def _h5ad(file: Path) -> None:
    with h5py.File(file) as stored:
        stored["obs"], stored["var"]


READ: dict[str, Callable[[Path], object]] = {
    ".json": lambda file: json.loads(file.read_text("utf-8")),
    ".ipynb": lambda file: nbformat.read(file, as_version=4),
    ".parquet": pd.read_parquet,
    ".h5ad": _h5ad,
    ".pdf": _pdf,
    ".html": _html,
    ".npz": _zip,
    ".pt": _zip,
    ".pth": _zip,
    ".xlsx": _zip,
}


def files_in(folder: Path, *, hidden: bool = False) -> dict[str, Path]:
    """By name relative to the folder; without `previous/`, and without temporaries unless asked for."""
    return {
        str(name): file
        for file in sorted(folder.rglob("*"))
        for name in [file.relative_to(folder)]
        if file.is_file() and name.parts[0] != "previous" and (hidden or not any(p.startswith(".") for p in name.parts))
    }


def digest(folder: Path) -> Digest:
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files_in(folder).items()}


def unreadable(folder: Path) -> list[str]:
    """Files under their final name that are not whole."""
    found = []
    for place in (folder, folder / "previous"):
        for name, file in files_in(place).items() if place.exists() else ():
            try:
                READ.get(file.suffix, Path.read_bytes)(file)
            except Exception as error:
                found.append(f"{place.name}/{name}: {error}")
    return found


def place_of(folder: Path, earlier: Digest) -> str | None:
    """Where an earlier run's results are, every one of them: in place, in previous, or on their way; None if not."""
    there = digest(folder)
    on_the_way = digest(folder / ".previous.part") if (folder / ".previous.part").exists() else {}
    if all(there.get(name) == value for name, value in earlier.items()):
        return "in place"
    if (folder / "previous").exists() and earlier.items() <= digest(folder / "previous").items():
        return "previous"
    if on_the_way and earlier.items() <= (there | on_the_way).items():
        return "on their way"
    return None


def problems(folder: Path, earlier: Digest, wanted: Digest) -> list[str]:
    """What is wrong in a folder where a run was killed and an earlier one, with other results, had finished.

    Parameters
    ----------
    wanted
        What the killed run would have made: some of it may be the same in the earlier one.
    """
    found, place, there = unreadable(folder), place_of(folder, earlier), digest(folder)
    if place is None:
        found.append("the earlier results are not complete anywhere")
    old = [name for name, value in there.items() if value in earlier.values() and wanted.get(name) != value]
    if place == "previous" and old:
        found.append(f"of the earlier run, beside the new one's: {old}")
    if place == "previous" and "manifest.json" in there and "report.html" not in there:
        found.append("looks finished and is not")
    return found


def differences(run: Path, wanted: Path) -> list[str]:
    """In what a finished run differs from another one of the same parameters; bit for bit where files allow it."""
    found = [f"left: {n}" for n in files_in(run, hidden=True) if any(p.startswith(".") for p in Path(n).parts)]
    if set(files_in(run)) != set(files_in(wanted)):
        found.append(f"files: {sorted(set(files_in(run)) ^ set(files_in(wanted)))}")
    found += [
        name
        for name in ("predictions.parquet", "metrics.json")
        if not (run / name).exists() or (run / name).read_bytes() != (wanted / name).read_bytes()
    ]
    if not found:
        one, two = (ad.read_h5ad(folder / "annotated_target.h5ad") for folder in (run, wanted))
        if not (np.array_equal(one.obsm["X_jind"], two.obsm["X_jind"]) and one.obs.equals(two.obs)):
            found.append("annotated_target.h5ad")
        with np.load(run / "work/target.npz") as a, np.load(wanted / "work/target.npz") as b:
            found += [f"target.npz: {name}" for name in b.files if not np.array_equal(a[name], b[name])]
    return found + unreadable(run)


def shown_in(notebook: Path) -> tuple[str, list[dict[str, Any]]]:
    """What an executed notebook says, and its other outputs, without the plain texts that name an address in memory."""
    outputs = [output for cell in nbformat.read(notebook, as_version=4).cells for output in cell.get("outputs", [])]
    shown = [
        {kind: what for kind, what in output["data"].items() if kind != "text/plain"}
        for output in outputs
        if "data" in output
    ]
    return "".join(output.get("text", "") for output in outputs), shown


# --- what a finished run holds ----------------------------------------------------------------------------------------


def predictions_of(run: Path) -> pd.DataFrame:
    return pd.read_parquet(run / "predictions.parquet")


def probabilities_of(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns=["raw_predictions", "predictions", "confidence", "reason", "labels"], errors="ignore")


def strict_json(file: Path) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in {file}")

    return json.loads(file.read_text("utf-8"), parse_constant=refuse)


def same_annotated(annotated: ad.AnnData, given: ad.AnnData) -> None:
    """Everything of the input is as it was, plus what jind-nb adds and nothing else."""
    added = ["jind_prediction", "jind_raw_prediction", "jind_confidence", "jind_reason"]
    pd.testing.assert_frame_equal(annotated.obs[given.obs.columns].astype(str), given.obs.astype(str))
    assert list(annotated.obs.columns) == [*given.obs.columns, *added]
    pd.testing.assert_frame_equal(annotated.var, given.var)
    assert (annotated.X != given.X).sum() == 0
    assert annotated.X.dtype == given.X.dtype
    assert set(annotated.layers) == set(given.layers)
    assert all((annotated.layers[name] != given.layers[name]).sum() == 0 for name in given.layers)
    assert set(annotated.obsm) == {*given.obsm, "X_jind"}
    for name in given.obsm:
        np.testing.assert_array_equal(annotated.obsm[name], given.obsm[name])
    assert (annotated.raw is None) == (given.raw is None)
    if given.raw is not None:
        assert list(annotated.raw.var_names) == list(given.raw.var_names)
        assert (annotated.raw.X != given.raw.X).sum() == 0
    assert annotated.obsm["X_jind"].shape == (given.n_obs, 2 * min(COMPONENTS, given.n_vars - 1))
    assert np.isfinite(annotated.obsm["X_jind"]).all()


def annotated_without_labels(run: Path) -> None:
    """The cells of batch `c` are annotated, mostly right, and nothing claims to have checked it."""
    table, true = predictions_of(run), simulated(THREE_BATCHES).obs.query("batch == 'c'")
    assert list(table.index) == list(true.index)
    assert "labels" not in table
    assert (table["raw_predictions"] == true["celltype"]).mean() > 0.9
    assert strict_json(run / "metrics.json")["target"]["labelled"] is None
    report = (run / "report.html").read_text("utf-8")
    assert "The answers were not compared with labels" in report
    assert "Check on the target" not in report
