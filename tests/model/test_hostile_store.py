"""Saved models from elsewhere that are made to do harm, and models of equal runs."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from jind_nb.core.files import sha256
from jind_nb.core.model_json import read_model_json, write_model_json
from jind_nb.errors import InputError
from jind_nb.model import store

OLDER = Path(__file__).parent.parent / "data" / "model_format_4" / "default.zip"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of a model that the repository keeps, to be changed and hashed again."""
    with zipfile.ZipFile(OLDER) as archive:
        archive.extractall(tmp_path)
    return next(tmp_path.rglob("model.json")).parent


def source_file(model: Path) -> Path:
    described = read_model_json(model)
    return model / described["files"][described["source"]]


def hash_again(file: Path) -> None:
    described = json.loads((file.parent / "model.json").read_text("utf-8"))
    write_model_json(file.parent, described | {"hashes": described["hashes"] | {file.name: sha256(file)}})


def test_a_compressed_archive_is_refused_before_it_unpacks(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost otherwise: the machine's memory, to a model of three megabytes."""
    file = source_file(model)
    with zipfile.ZipFile(file) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    hash_again(file)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was unpacked"))
    with pytest.raises(InputError, match=r"PRETRAINED_MODEL_PATH: .* is a compressed archive.*not unpacked"):
        store.load_shared(model, torch.device("cpu"))


def test_weights_that_no_training_gives_are_refused(model: Path) -> None:
    """Lost otherwise: a table of NaN that looks like an answer."""
    file = source_file(model)
    weights = torch.load(file, weights_only=True)
    first = next(iter(weights))
    torch.save(weights | {first: torch.full(weights[first].shape, 1e30)}, file)
    hash_again(file)
    with pytest.raises(InputError, match=r"holds weights beyond 1e\+15"):
        store.load_shared(model, torch.device("cpu"))


def odd_tensors() -> dict[str, Any]:
    return {
        "of another type": torch.zeros(3, dtype=torch.complex64),
        "of larger numbers": torch.full((3,), 1e300, dtype=torch.float64),
        "that wants a gradient": torch.zeros(3, requires_grad=True),
        "of nothing": torch.empty(10**12, device="meta"),
        "without values of its own": torch.zeros(1).expand(10**9),
    }


@pytest.mark.parametrize("kind", odd_tensors())
def test_tensors_as_nobody_writes_them_here_are_refused(model: Path, kind: str) -> None:
    """Lost otherwise: the message, to a traceback; or the memory, to a tensor that stands for more than the file holds."""
    file = source_file(model)
    torch.save(torch.load(file, weights_only=True) | {"encoder.weight": odd_tensors()[kind]}, file)
    hash_again(file)
    with pytest.raises(InputError, match="not a file of weights as jind-nb writes it"):
        store.load_shared(model, torch.device("cpu"))


@pytest.mark.parametrize("change", ["a name that is none", "whole numbers"])
def test_weights_that_fit_no_model_are_refused(model: Path, change: str) -> None:
    """Lost otherwise: the message, to a traceback; or the answer, to weights that were rounded."""
    file = source_file(model)
    weights = torch.load(file, weights_only=True)
    first = next(name for name, of in weights.items() if of.ndim)
    torch.save(
        weights | ({5: torch.zeros(1)} if change == "a name that is none" else {first: weights[first].long()}), file
    )
    hash_again(file)
    with pytest.raises(
        InputError, match=r"PRETRAINED_MODEL_PATH: .*(not a file of weights|does not fit its model\.json)"
    ):
        store.load_shared(model, torch.device("cpu"))


def test_a_weight_for_each_member_or_none(model: Path) -> None:
    """Lost otherwise: the message, to a traceback from the middle of a run."""
    described = json.loads((model / "model.json").read_text("utf-8"))
    described["calibration"]["shared"]["weights"] = [0.5, 0.5]
    write_model_json(model, described)
    with pytest.raises(InputError, match=r"does not fit its model\.json"):
        store.load_shared(model, torch.device("cpu"))


ABSURD: dict[str, tuple[list[Any], Any]] = {
    "total": (["preprocessing", "total"], 1e300),
    "mean": (["preprocessing", "mean"], 1e300),
    "threshold": (["thresholds"], 1e300),
    "threshold below 0": (["thresholds"], -1.0),
    "temperature": (["calibration", "shared", "temperature"], 1e300),
    "temperature of nearly 0": (["calibration", "shared", "temperature"], 1e-300),
    "cap": (["calibration", "shared", "threshold_cap"], 7.0),
    "cap, as models call it": (["calibration", "shared", "enough"], 7.0),
    "novelty": (["calibration", "shared", "most_novel"], -1.0),
    "floor": (["calibration", "shared", "floor"], 7.0),
    "weight below 0": (["calibration", "shared", "weights"], [-1.0, 2.0]),
    "weights of a larger sum": (["calibration", "shared", "weights"], [0.7, 0.7]),
    "noise": (["calibration", "shared", "noise"], 1.5),
    "dropped": (["calibration", "shared", "dropped"], -1.0),
    "error of a left-out batch": (["calibration", "shared", "batches", 0, "error_among_assigned"], -1.0),
    "cells of a left-out batch": (["calibration", "shared", "batches", 0, "cells"], None),
    "doubt without an error": (
        ["calibration", "shared", "batches"],
        [{"cells": 5, "unlike_reference": 0.0, "error_among_assigned": None, "doubt_among_assigned": 0.5}],
    ),
    "cells": (["training", "cells of each type"], 10**300),
}


@pytest.mark.parametrize("place", ABSURD)
def test_absurd_numbers_in_a_model_hashed_again_are_refused(model: Path, place: str) -> None:
    """Lost otherwise: an answer for every cell, from a model that was made to mislead."""
    names, value = ABSURD[place]
    described = json.loads((model / "model.json").read_text("utf-8"))
    part = described
    for name in names[:-1]:
        part = part[name]
    before = part.get(names[-1])
    part[names[-1]] = dict.fromkeys(before, value) if isinstance(before, dict) else value
    write_model_json(model, described)
    with pytest.raises(InputError, match=r"PRETRAINED_MODEL_PATH: .*model\.json is damaged"):
        read_model_json(model)


def test_what_an_earlier_version_measured_and_what_is_rounded_is_no_damage(model: Path) -> None:
    """Lost otherwise: a good model, to the last digit of a share, or to a number that was not kept when it was trained."""
    described = json.loads((model / "model.json").read_text("utf-8"))
    calibration = described["calibration"]["shared"]
    left_out = calibration["batches"][0] | {"error_among_assigned": 0.1, "doubt_among_assigned": -1e-8}
    left_out.pop("error_of_known_types", None)
    calibration |= {"batches": [left_out], "noise": 1.0, "most_novel": 3.0}
    write_model_json(model, described)
    read_model_json(model)


def test_equal_weights_are_equal_files_whoever_writes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost otherwise: the proof that two runs gave the same model, to a process id in the file."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr("os.getpid", lambda name=name: {"one": 11, "two": 2222}[name])
        store._save({"w": torch.arange(5.0)}, tmp_path / name / "batch.pt")
    assert (tmp_path / "one" / "batch.pt").read_bytes() == (tmp_path / "two" / "batch.pt").read_bytes()
