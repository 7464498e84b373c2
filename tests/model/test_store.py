"""A trained model on disk: found by its batch, read without running code, and saying what it said before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
import yaml
from scipy import sparse

import jind_nb as jn
from jind_nb.core.files import sha256
from jind_nb.core.model_json import read_all_features, read_model_json, write_model_json
from jind_nb.core.parameters import Parameters, make_parameters
from jind_nb.data.plan import Plan
from jind_nb.errors import InputError
from jind_nb.model import annotate, default_4, store
from jind_nb.model.annotate import leave_batches_out
from jind_nb.model.calibration import Calibration, alignment_in_words, calibrate_modes
from jind_nb.model.default import Offset
from jind_nb.model.networks import Annotator, classify, encode
from jind_nb.model.new_types import ALONE, BESIDE_NOVEL
from jind_nb.model.predictions import Predictions, class_thresholds, tempered, within
from jind_nb.model.reference import Adapter
from jind_nb.model.state import AlignmentMode, Annotated, KnownLatents, Reference
from jind_nb.model.target import align, annotate_before_alignment, known_latents, predict
from tests.helpers.learn import CPU, METHODS, equal, is_reference, learn, prepare_simulated, target_cells, weights

pytestmark = pytest.mark.usefixtures("short_game")

AWKWARD = ["../up/Ä 1", "..", "1", "10"]
TYPES = {"B": 20, "CD8+/45RA+ T": 20}


@dataclass
class Saved:
    """A finished training and the folder it was written to."""

    reference: Reference
    plan: Plan
    x: sparse.csr_matrix  # the target
    folder: Path


@pytest.fixture(scope="module", params=METHODS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Of either METHOD; in `default`, ALIGN asks for alignment whatever left-out batches say."""
    folder = tmp_path_factory.mktemp("saved")
    data = dict.fromkeys([*AWKWARD, "c"], TYPES)
    prepared, plan, settings = prepare_simulated(
        folder, data, SOURCE_DATASET_NAME=AWKWARD[0], INTER_DATASETS_NAMES=AWKWARD[1:], EPOCHS=1, METHOD=request.param,
        ALIGN=True,
    )  # fmt: skip
    reference = learn(prepared, plan, settings)
    models = folder / "trained_models"
    calibrations = calibrate_modes(leave_batches_out(reference), settings, len(reference.batches))
    store.save_model(models, reference, calibrations, plan, parameters_of(METHOD=request.param))
    return Saved(reference, plan, target_cells(prepared, plan), models)


def parameters_of(**values: object) -> Parameters:
    return make_parameters(
        {
            "PATH": "x.h5ad", "BATCH_COL": "batch", "LABELS_COL": "celltype", "TARGET_DATASET_NAME": "c",
            "OUTPUT_PATH": "unused", "USE_GPU": False, "EPOCHS": 1,
        }
        | values
    )  # fmt: skip


@pytest.fixture
def copied(saved: Saved, tmp_path: Path) -> Path:
    """A copy of the model's folder, to be damaged."""
    folder = tmp_path / "trained_models"
    folder.mkdir()
    for file in saved.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def said_of(saved: Saved, model: Annotator, known: KnownLatents) -> Predictions:
    """Return what a model says of the target."""
    return predict(model, encode(model, saved.x, CPU), known, saved.reference.settings)


@pytest.mark.slow
def test_a_loaded_model_says_exactly_what_the_trained_one_said(saved: Saved) -> None:
    model, known = store.load_shared(saved.folder, CPU)
    assert equal(weights(model), weights(saved.reference.model))
    reference = saved.reference
    before = said_of(saved, reference.model, known_latents(reference))
    after = said_of(saved, model, known)
    np.testing.assert_array_equal(after.probabilities, before.probabilities)
    np.testing.assert_array_equal(after.thresholds, before.thresholds)
    assert after.classes == before.classes
    assert after.names.tolist() == before.names.tolist()


def test_the_loaded_latents_are_those_of_each_batch_through_its_own_adapter(saved: Saved) -> None:
    _, known = store.load_shared(saved.folder, CPU)
    assert known.batches == AWKWARD
    for i, (name, cells) in enumerate(saved.reference.batches.items()):
        expected = encode(saved.reference.annotator(name), cells.x[~cells.held_out], CPU)
        np.testing.assert_array_equal(known.latent[known.batch == i], expected)
        np.testing.assert_array_equal(known.y[known.batch == i], cells.y[~cells.held_out])
    assert known.counts.tolist() == [20 * len(AWKWARD)] * 2


def test_every_batch_has_a_file_of_a_safe_name_that_model_json_maps(saved: Saved) -> None:
    """`1` is not `10`, and `..` does not leave the folder."""
    files = read_model_json(saved.folder)["files"]
    assert list(files) == AWKWARD
    assert {unquote(file.removesuffix(".pt")) for file in files.values()} == set(AWKWARD)
    assert files["1"] == "1.pt"
    for batch, file in files.items():
        assert "/" not in file
        path = saved.folder / file
        assert path.resolve().parent == saved.folder.resolve()
        stored = torch.load(path, weights_only=True)
        as_learned = weights(saved.reference.annotator(batch))
        assert equal({name.replace("head.", "classifier."): tensor for name, tensor in stored.items()}, as_learned)
        assert any(name.startswith("adapter.") for name in stored) is (batch != AWKWARD[0])


def test_all_files_of_weights_load_without_running_code(saved: Saved) -> None:
    files = sorted(saved.folder.glob("*.pt"))
    assert len(files) == len(AWKWARD) + 1  # the reference codes
    for file in files:
        stored = torch.load(file, weights_only=True)
        assert all(isinstance(tensor, torch.Tensor) for tensor in stored.values())


def test_val_stats_hold_held_out_cells_only(saved: Saved) -> None:
    stats = json.loads((saved.folder / "val_stats_trained_model.json").read_text(encoding="utf-8"))
    start = 0
    for name, cells in saved.reference.batches.items():
        rows = slice(start, start + int(cells.held_out.sum()))
        start = rows.stop
        codes = encode(saved.reference.annotator(name), cells.x[cells.held_out], CPU)
        expected = classify(saved.reference.model.classifier, codes, CPU)
        np.testing.assert_allclose(stats["probabilities"][rows], expected, atol=1e-6)
        assert stats["batch"][rows] == [name] * len(expected)
        assert stats["true"][rows] == [saved.reference.classes[y] for y in cells.y[cells.held_out]]
    assert start == len(stats["true"]) == len(stats["batch"]) == len(stats["probabilities"]) > 0


def test_model_json_has_all_that_annotating_needs(saved: Saved) -> None:
    stored = read_model_json(saved.folder)
    stats = json.loads((saved.folder / "val_stats_trained_model.json").read_text(encoding="utf-8"))
    calibrated = tempered(
        np.array(stats["probabilities"]), stored["calibration"][AlignmentMode.UNALIGNED]["temperature"]
    )
    thresholds = class_thresholds(calibrated, saved.reference.settings.theta)
    assert list(stored["thresholds"]) == stored["classes"] == saved.reference.classes
    threshold_cap = stored["calibration"][AlignmentMode.UNALIGNED]["enough"]
    assert list(stored["thresholds"].values()) == pytest.approx(within(thresholds, threshold_cap, 0.5).tolist())
    assert stored["features"] == saved.reference.features
    total = "10,000" if is_reference(saved.reference.settings) else f"{stored['preprocessing']['total']:.0f}"
    assert stored["preprocessing"]["scale"] == f"log1p of counts per {total}"
    assert stored["source"] == AWKWARD[0]
    assert stored["target"] is None
    assert stored["training"]["cells"] == dict.fromkeys(AWKWARD, 40)
    assert stored["training"]["held_out"] == {name: c.held_out.sum() for name, c in saved.reference.batches.items()}
    of_reference = is_reference(saved.reference.settings)
    assert stored["training"]["METHOD"] == ("reference" if of_reference else "default")
    assert stored["code size"] == known_latents(saved.reference).latent.shape[1] == (256 if of_reference else 118)
    calibrations = {mode: Calibration.from_json(values) for mode, values in stored["calibration"].items()}
    assert stored["alignment"]["why"] == alignment_in_words(calibrations)


# --- the target --------------------------------------------------------------------------------------------------------


def annotated_target(saved: Saved, known: KnownLatents, *, aligned: bool) -> Annotated:
    annotated = annotate_before_alignment(saved.reference.model, saved.x, known, saved.reference.settings)
    if aligned:
        align(annotated, saved.x, known, saved.reference.settings)
    return annotated


@pytest.mark.parametrize("aligned", [True, False])
def test_the_saved_target_model_says_what_the_run_said(saved: Saved, tmp_path: Path, aligned: bool) -> None:
    known = known_latents(saved.reference)
    annotated = annotated_target(saved, known, aligned=aligned)
    final = annotated.final
    own = tmp_path / "trained_models"
    store.save_target(own, annotated, "c", saved.x, saved.folder)
    model = store.load_target(own)
    again = said_of(saved, model, known)
    np.testing.assert_allclose(again.probabilities, final.probabilities, atol=1e-6)
    stored = read_model_json(own)["target"]
    assert (stored["batch"], stored["has_adapter"]) == ("c", aligned)
    assert stored["thresholds"] == dict(zip(final.classes, final.thresholds.tolist(), strict=True))
    torch.load(own / "target.pth", weights_only=True)


def test_a_model_is_aligned_by_the_method_it_was_trained_with_whatever_the_run_s_is(
    saved: Saved, tmp_path: Path
) -> None:
    """METHOD stands in every parameter file; a saved model need not be of the same."""
    shared, known = store.load_shared(saved.folder, CPU)
    own = tmp_path / "trained_models"
    settings = saved.reference.settings
    (other,) = (method for method in annotate.METHODS.values() if method is not settings.method)
    annotated = annotate.annotate(shared, saved.x, known, replace(settings, method=other))
    store.save_target(own, annotated, "c", saved.x, saved.folder)
    assert annotated.mode == AlignmentMode.ALIGNED
    model = store.load_target(own)
    assert type(model.adapter) is (Adapter if is_reference(settings) else Offset)


def test_a_run_with_a_saved_model_leaves_that_as_it_was_and_a_whole_copy_of_its_own(
    saved: Saved, tmp_path: Path
) -> None:
    before = {file.name: file.read_bytes() for file in saved.folder.iterdir()}
    own = tmp_path / "trained_models"
    known = known_latents(saved.reference)
    store.save_target(own, annotated_target(saved, known, aligned=False), "c", saved.x, saved.folder)
    assert {file.name: file.read_bytes() for file in saved.folder.iterdir()} == before
    model, loaded = store.load_shared(own, CPU)
    assert equal(weights(model), weights(saved.reference.model))
    np.testing.assert_array_equal(loaded.latent, known.latent)
    assert set(read_model_json(own)["files"].values()) <= {file.name for file in own.iterdir()}
    assert read_all_features(own, read_model_json(own)["preprocessing"]["features_sha256"]) == saved.plan.all_features
    assert len(saved.plan.all_features) == 60


# --- damage ------------------------------------------------------------------------------------------------------------


class Foreign:
    """An object whose class a weights-only reader must refuse."""


def source_file(folder: Path) -> Path:
    return folder / read_model_json(folder)["files"][AWKWARD[0]]


def edit(folder: Path, **values: object) -> None:
    """Changes model.json as somebody would who can hash it again."""
    stored = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    write_model_json(folder, stored | values)


def forge(file: Path, content: object) -> None:
    """Replaces a file of weights, and its hash."""
    torch.save(content, file)
    edit(file.parent, hashes=read_model_json(file.parent)["hashes"] | {file.name: sha256(file)})


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:1000])


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def without_rehashing(folder: Path, **values: object) -> None:
    stored = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    (folder / "model.json").write_text(json.dumps(stored | values), encoding="utf-8")


def without(folder: Path, name: str) -> None:
    stored = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    write_model_json(folder, {key: value for key, value in stored.items() if key != name})


def other_method(folder: Path) -> None:
    training = read_model_json(folder)["training"]
    edit(folder, training=training | {"METHOD": "reference" if training["METHOD"] == "default" else "default"})


CHANGED = "its hash differs"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights missing": (lambda d: source_file(d).unlink(), "is missing; copy the whole"),
    "weights cut short": (lambda d: cut_short(source_file(d)), CHANGED),
    "weights empty": (lambda d: source_file(d).write_bytes(b""), CHANGED),
    "one bit of the weights": (lambda d: flip_a_bit(source_file(d)), CHANGED),
    "weights are text": (lambda d: source_file(d).write_text("hello"), CHANGED),
    "a pickled object": (lambda d: forge(source_file(d), {"x": Foreign()}), "is not a file of weights"),
    "a list": (lambda d: forge(source_file(d), [torch.zeros(1)]), "is not a file of weights"),
    "weights of another model": (lambda d: forge(source_file(d), {"w": torch.zeros(1)}), "does not fit"),
    "weights that are no numbers": (lambda d: forge(source_file(d), {"w": torch.tensor([torch.nan])}), "NaN"),
    "codes missing": (lambda d: (d / store.LATENTS).unlink(), "is missing; copy the whole"),
    "codes cut short": (lambda d: cut_short(d / store.LATENTS), CHANGED),
    "codes incomplete": (lambda d: forge(d / store.LATENTS, {"y": torch.zeros(1)}), "does not fit"),
    "fewer features": (lambda d: edit(d, features=["gene000"]), "does not fit"),
    "a threshold missing": (lambda d: edit(d, thresholds={}), "is damaged"),
    "more classes": (lambda d: edit(d, classes=["B", "T", "NK"], thresholds={"B": 0, "T": 0, "NK": 0}), "damaged|fit"),
    "another source": (lambda d: edit(d, source="nobody"), "is damaged"),
    "calibration of another kind": (lambda d: edit(d, calibration={AlignmentMode.UNALIGNED: {"x": 1}}), "does not fit"),
    "edited by hand": (lambda d: without_rehashing(d, thresholds={"B": 0.0}), "not as it was written"),
    "codes of no number": (lambda d: edit(d, **{"code size": 0}), "is damaged"),
    "codes of a billion numbers": (lambda d: edit(d, **{"code size": 10**9}), "is damaged"),
    "code size as text": (lambda d: edit(d, **{"code size": "100"}), "is damaged"),
    "code size missing": (lambda d: without(d, "code size"), "is damaged.*code size"),
    "no way to align": (lambda d: edit(d, alignment={"way": "backwards", "why": "x"}), "is damaged.*alignment"),
    "alignment without a reason": (lambda d: edit(d, alignment={"way": AlignmentMode.UNALIGNED}), "is damaged.*why"),
    "alignment missing": (lambda d: without(d, "alignment"), "is damaged.*alignment"),
    "no known METHOD": (lambda d: edit(d, training={"METHOD": "magic"}), "is damaged.*METHOD"),
    "METHOD missing": (lambda d: edit(d, training={}), "is damaged.*METHOD"),
    "the other METHOD": (lambda d: other_method(d), "does not fit"),
    "a newer format": (lambda d: edit(d, format=99), "format 99.*update jind-nb"),
    "an older format": (lambda d: edit(d, format=1), "format 1.*train the model again"),
    "model.json cut short": (lambda d: cut_short(d / "model.json"), "is damaged"),
    "model.json is a list": (lambda d: (d / "model.json").write_text("[]"), "is damaged"),
    "model.json missing": (lambda d: (d / "model.json").unlink(), "has no model.json .*gene list"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_model_is_told_of_by_name(copied: Path, damage: str) -> None:
    do, message = DAMAGE[damage]
    do(copied)
    with pytest.raises(InputError, match=message) as error:
        store.load_shared(copied, CPU)
    assert "PRETRAINED_MODEL_PATH" in str(error.value)
    assert str(copied) in str(error.value)


def test_a_model_with_another_code_size_is_refused(copied: Path) -> None:
    edit(copied, **{"code size": 50})
    with pytest.raises(InputError, match="does not fit"):
        store.load_shared(copied, CPU)


def test_a_folder_that_is_not_there_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        store.load_shared(tmp_path / "nothing", CPU)


def test_a_file_name_in_model_json_cannot_lead_out_of_the_folder(copied: Path) -> None:
    outside = copied.parent / "outside.pt"
    source_file(copied).rename(outside)
    files = read_model_json(copied)["files"] | {AWKWARD[0]: "../outside.pt"}
    edit(copied, files=files)
    with pytest.raises(InputError, match="is missing"):
        store.load_shared(copied, CPU)


# --- the model's own target ----------------------------------------------------------------------------------------------


def test_the_model_s_own_target_is_known_again_cell_by_cell_and_annotated_as_in_its_run(
    saved: Saved, tmp_path: Path
) -> None:
    _, known = store.load_shared(saved.folder, CPU)
    annotated = annotated_target(saved, known, aligned=True)
    own = tmp_path / "trained_models"
    store.save_target(own, annotated, "c", saved.x, saved.folder)
    shuffled = np.random.default_rng(0).permutation(saved.x.shape[0])[:10]
    assert store.of_own_target(own, saved.x[shuffled]).all()
    changed = saved.x.copy()
    changed.data[changed.indptr[3]] += 1
    assert np.flatnonzero(~store.of_own_target(own, changed)).tolist() == [3]
    shared, loaded = store.load_shared(own, CPU)
    some = saved.x[shuffled]  # without the cells that were their neighbours
    again = annotate_before_alignment(shared, some, loaded, saved.reference.settings)
    store.recall(again, some, own, loaded, saved.reference.settings)
    now, then = again.final, annotated.final.subset(shuffled)
    np.testing.assert_allclose(now.probabilities, then.probabilities, atol=1e-6)
    assert now.names.tolist() == then.names.tolist()
    assert now.reasons.tolist() == then.reasons.tolist()


def test_a_model_that_annotated_no_target_yet_knows_no_cell(saved: Saved) -> None:
    assert not store.of_own_target(saved.folder, saved.x).any()


def test_the_rules_of_left_out_batches_come_back_with_the_model(saved: Saved) -> None:
    _, known = store.load_shared(saved.folder, CPU)
    stored = read_model_json(saved.folder)
    assert set(known.rules) == set(stored["calibration"])
    assert (
        known.rules[AlignmentMode.UNALIGNED].temperature
        == stored["calibration"][AlignmentMode.UNALIGNED]["temperature"]
        != 1.0
    )
    annotated = annotate_before_alignment(saved.reference.model, saved.x, known, saved.reference.settings)
    thresholds = next(iter(annotated.stages.values())).thresholds
    assert stored["thresholds"] == pytest.approx(dict(zip(known.classes, thresholds.tolist(), strict=True)))


def test_the_weights_of_the_members_come_back_with_the_model(saved: Saved) -> None:
    """Else a loaded model would answer by the prior, and not as left-out batches taught."""
    _, known = store.load_shared(saved.folder, CPU)
    stored, n_members = read_model_json(saved.folder), len(known.method.prior_weights())
    assert stored["format"] == 5
    assert known.method is saved.reference.settings.method
    for mode, rule in known.rules.items():
        assert list(rule.weights) == stored["calibration"][mode]["weights"]
        assert len(rule.weights) == n_members
        assert sum(rule.weights) == pytest.approx(1)


def test_the_card_tells_what_the_model_is_for_people(saved: Saved, tmp_path: Path) -> None:
    """A model is shared with its card; a name with markup in it must not break the table."""
    own = tmp_path / "trained_models"
    store.save_target(
        own, annotated_target(saved, known_latents(saved.reference), aligned=False), "c|\n#", saved.x, saved.folder
    )
    card = (own / "MODEL_CARD.md").read_text(encoding="utf-8")
    for name in (*saved.reference.classes, *saved.reference.batches):
        assert json.dumps(name, ensure_ascii=False) in card
    assert '"c&#124;&#92;n#"' in card
    assert store.card(own) == card
    assert "left-out batch" in card
    assert "jind-nb predict" in card
    assert "The report of the model's own run has" not in card  # the target was not aligned


# --- models of earlier versions ------------------------------------------------------------------------------------------

OLDER = Path(__file__).parent.parent / "data" / "model_format_4"  # tests/data/README.md


METHOD_OF_FORMAT_4 = {"default": default_4, "reference": annotate.METHODS["reference"]}


def folder_method(folder: Path) -> str:
    name: str = read_model_json(folder)["training"]["METHOD"]
    return name


@pytest.fixture(params=METHODS)
def older(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """A model that jind-nb saved at commit 5512574, and what it answered there."""
    shutil.unpack_archive(OLDER / f"{request.param}.zip", tmp_path / "model")
    with np.load(OLDER / f"{request.param}.npz") as stored:
        return tmp_path / "model", dict(stored)


@pytest.mark.filterwarnings(
    "ignore:27 of 28 cells are nothing that the model knows"
)  # of the case `new`, made up as such
def test_a_model_of_an_earlier_version_gives_its_answers(older: tuple[Path, dict[str, np.ndarray]]) -> None:
    """New cells, those aligned (METHOD `default`), and the model's own target, which is known again.

    Probabilities are bit for bit the same on the machine that made them; another's arithmetic may round otherwise.
    """
    folder, answers = older
    model = jn.load_model(folder)
    cases = [name.removesuffix(" x") for name in answers if name.endswith(" x")]
    assert {"new", "own"} <= set(cases)
    as_it_was_made = METHOD_OF_FORMAT_4[folder_method(folder)]
    assert store.load_shared(folder, CPU)[1].method is as_it_was_made
    for case in cases:
        x = answers[f"{case} x"].astype(np.float32)
        adata = ad.AnnData(sparse.csr_matrix(x), var=pd.DataFrame(index=[f"gene{i:03d}" for i in range(x.shape[1])]))
        model.predict(adata, align=case == "new aligned")
        for key in ("jind_prediction", "jind_raw_prediction", "jind_reason"):
            assert adata.obs[key].tolist() == answers[f"{case} {key}"].tolist(), case
        np.testing.assert_allclose(adata.obs["jind_confidence"], answers[f"{case} jind_confidence"], rtol=0, atol=1e-6)
        np.testing.assert_allclose(adata.obsm["X_jind"], answers[f"{case} X_jind"], rtol=1e-5, atol=1e-5)


def test_files_of_weights_name_them_as_earlier_versions_did(saved: Saved, tmp_path: Path) -> None:
    """So that both are read alike. METHOD `default` has had members, and their prior, since format 5."""
    method = saved.reference.settings.method.NAME
    shutil.unpack_archive(OLDER / f"{method}.zip", tmp_path)
    for own, earlier in ((AWKWARD[0], "a"), ("1", "b")):
        files = (saved.folder / read_model_json(saved.folder)["files"][own], tmp_path / f"{earlier}.pt")
        names, earlier_names = (list(torch.load(file, weights_only=True)) for file in files)
        assert [name for name in names if name != "head.prior"] == earlier_names
        assert ("head.prior" in names) is (method == "default")
        assert any(name.startswith("head.") for name in names)
    codes = (folder / store.LATENTS for folder in (saved.folder, tmp_path))
    names, earlier_names = (list(torch.load(file, weights_only=True)) for file in codes)
    assert [name for name in names if name not in (store.PROFILES, store.FINGERPRINTS)] == earlier_names


def test_the_folder_can_be_put_on_a_hub_as_it_is(saved: Saved, copied: Path) -> None:
    """A README with front matter, and every tensor in the form that needs no torch; the card in a notebook stays without."""
    model, known = store.load_shared(saved.folder, CPU)
    annotated = annotate_before_alignment(model, saved.x, known, saved.reference.settings)
    store.save_target(copied, annotated, "c", saved.x, copied)
    for file in (file for file in copied.iterdir() if file.suffix in (".pt", ".pth")):
        stored = safetensors.torch.load_file(copied / f"{file.name}.safetensors")
        assert equal(stored, torch.load(file, weights_only=True)), file.name
    _, front_matter, card = (copied / "README.md").read_text("utf-8").split("---\n", 2)
    assert yaml.safe_load(front_matter)["library_name"] == "jind-nb"
    assert card.strip() == (copied / "MODEL_CARD.md").read_text("utf-8").strip()
    assert {f"{name}.safetensors" for name in saved_names(copied)} <= set(read_model_json(copied)["hashes"])


def saved_names(folder: Path) -> list[str]:
    return list(read_model_json(folder)["files"].values())


def test_a_model_that_was_copied_keeps_both_forms_of_its_weights(saved: Saved, tmp_path: Path) -> None:
    model, known = store.load_shared(saved.folder, CPU)
    annotated = annotate_before_alignment(model, saved.x, known, saved.reference.settings)
    store.save_target(tmp_path, annotated, "c", saved.x, saved.folder)
    assert all((tmp_path / f"{name}.safetensors").exists() for name in saved_names(tmp_path))


def test_a_model_of_format_5_from_before_new_types_were_looked_for_judges_as_it_did(
    saved: Saved, tmp_path: Path
) -> None:
    """Its limit is of another score: with it, every cell or none would be unlike the reference."""
    older = shutil.copytree(saved.folder, tmp_path / "older")
    description = read_model_json(older)
    del description["novelty"]
    write_model_json(older, description)
    settings = replace(saved.reference.settings, align=False)
    annotated, known = store.annotate_with_model(older, saved.x, settings, recall_own=False)
    assert known.novelty_limit is None
    assert known.profiles is None
    assert 0 <= annotated.novelty.min() <= annotated.novelty.max() <= 2


def test_a_model_whose_limit_is_of_an_older_score_has_the_limit_of_one_batch_at_least(
    saved: Saved, tmp_path: Path
) -> None:
    """With its own limit, many known cells would be unlike the reference."""
    older = shutil.copytree(saved.folder, tmp_path / "older")
    description = read_model_json(older)
    (description["novelty"] or {}).pop("score", None)  # METHOD `reference` has none
    for rule in description["calibration"].values():
        rule["most_novel"] = 0.1
    write_model_json(older, description)
    settings = replace(saved.reference.settings, align=False)
    _, known = store.annotate_with_model(older, saved.x, settings, recall_own=False)
    limits = {rule.novelty_threshold for rule in known.rules.values()}
    assert limits <= ({0.1} if is_reference(saved.reference.settings) else {ALONE})


def test_a_saved_model_knows_that_its_limit_is_higher_beside_very_novel_cells(saved: Saved, tmp_path: Path) -> None:
    """Else `predict` would flag other cells than the run; a model that was saved before that goes on as it did."""
    of_method = 0.0 if is_reference(saved.reference.settings) else BESIDE_NOVEL
    older = shutil.copytree(saved.folder, tmp_path / "older")
    description = read_model_json(older)
    for rule in description["calibration"].values():
        del rule["beside_novel"]
    write_model_json(older, description)
    settings = replace(saved.reference.settings, align=False)
    for folder, expected in ((saved.folder, of_method), (older, 0.0)):
        _, known = store.annotate_with_model(folder, saved.x, settings, recall_own=False)
        assert {rule.beside_novel for rule in known.rules.values()} <= {expected}
