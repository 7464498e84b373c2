"""The target, without its labels: what annotating it changes, keeps and says, by either METHOD."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from scipy import sparse

from jind_nb.data.fingerprints import own_order
from jind_nb.model import target
from jind_nb.model.annotate import annotate
from jind_nb.model.default import Projection
from jind_nb.model.mixture import mixed
from jind_nb.model.networks import Annotator, encode
from jind_nb.model.new_types import Profiles
from jind_nb.model.predictions import class_thresholds
from jind_nb.model.state import AlignmentMode, KnownLatents, Settings, TargetStage
from jind_nb.model.target import align, annotate_before_alignment, known_latents, predict
from tests.helpers.learn import CPU, METHODS, Learned, equal, is_reference, learn, learned, prepare_simulated, weights
from tests.helpers.simulated import THREE_BATCHES

pytestmark = pytest.mark.usefixtures("short_game")


@pytest.fixture(scope="module", params=METHODS)
def by_each(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """The same by either METHOD; in `default` the target is aligned without asking whether that helps."""
    return learned(tmp_path_factory.mktemp("each"), METHOD=request.param, ALIGN=True)


@pytest.mark.parametrize("has_profiles", [True, False])
def test_cells_of_a_file_are_encoded_and_compared_with_the_types_as_those_of_a_run(has_profiles: bool) -> None:
    """One product serves both in `predict`: other last digits would be other labels than the run's for the same cells."""
    random = np.random.default_rng(0)
    y, means = np.arange(60) % 3, random.gamma(0.5, 4, (3, 50))
    x = sparse.csr_matrix(random.poisson(means[y]).astype(np.float32))
    encoder = Projection(50, 12)
    encoder.weight.copy_(torch.from_numpy(random.normal(size=(50, 12))))
    shared = Annotator(encoder, torch.nn.Identity())
    profiles = Profiles.of([(x, y)]) if has_profiles else None
    known = cast(KnownLatents, SimpleNamespace(profiles=profiles))
    x = sparse.vstack([x, np.zeros((1, 50)), np.ones((5, 50))], format="csr", dtype=np.float32)
    latent, strange = target.encode_and_compare(shared, known, cast(Settings, SimpleNamespace(device=CPU)))(x)
    np.testing.assert_array_equal(latent, encode(shared, x, CPU))
    np.testing.assert_array_equal(strange, target.like_no_type(x, known, np.ones(50, dtype=bool)))
    assert strange.any() == has_profiles


@pytest.mark.slow
def test_annotating_a_target_leaves_the_annotated_batches_model_as_it_was(by_each: Learned) -> None:
    """The published program overwrites the shared weights; here a copy is trained."""
    shared, settings = by_each[0], by_each[3]
    before = weights(shared)
    annotated = annotate(*by_each)
    assert list(annotated.stages) == [
        TargetStage.BEFORE,
        TargetStage.ALIGNED,
        *([TargetStage.SELF_TRAINED] if is_reference(settings) else []),
    ]
    assert equal(weights(shared), before)
    assert shared.adapter is None
    memory = [{t.data_ptr() for t in model.state_dict().values()} for model in (shared, annotated.model)]
    assert not memory[0] & memory[1]


def test_align_false_only_predicts(by_each: Learned) -> None:
    shared, x, known, settings = by_each
    annotated = annotate(shared, x, known, replace(settings, align=False))
    assert list(annotated.stages) == list(annotated.latent) == [TargetStage.BEFORE]
    assert annotated.model is shared
    assert annotated.curves == []
    assert len(annotated.notes) == 1
    assert "ALIGN" in target.notes_table(annotated)["note"][0]


def test_every_stage_has_a_row_for_every_cell(by_each: Learned) -> None:
    annotated, n = annotate(*by_each), by_each[1].shape[0]
    assert list(annotated.latent) == list(annotated.stages)
    for stage, predictions in annotated.stages.items():
        assert predictions.probabilities.shape == (n, 3)
        assert annotated.latent[stage].shape == (n, by_each[2].latent.shape[1])


def test_the_last_stage_is_what_the_kept_model_says(by_each: Learned) -> None:
    """Thresholds too: the held-out cells' latents through the classifier that predicts the target."""
    _, x, known, settings = by_each
    annotated = annotate(*by_each)
    final = list(annotated.stages.values())[-1]
    assert annotated.mode == AlignmentMode.ALIGNED
    again = predict(annotated.model, encode(annotated.model, x, CPU), known, settings)
    np.testing.assert_array_equal(again.probabilities, final.probabilities)
    of_members = known.method.prior_weights()
    expected = class_thresholds(
        mixed(known.method.members_of_held_out(annotated.model, known, settings), of_members), settings.theta
    )
    assert final.thresholds.tolist() == expected.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_at_most_so_many_latents_are_kept_and_each_keeps_its_batch_and_type(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = learn(*prepare_simulated(tmp_path, THREE_BATCHES, METHOD=method))
    everything = known_latents(reference)
    monkeypatch.setattr(target, "MOST_LATENTS", 50)
    some = known_latents(reference)
    assert len(some.latent) == len(some.y) == len(some.batch) == 50
    assert some.counts.tolist() == everything.counts.tolist()
    assert len(some.held_out) == len(everything.held_out)
    of_code = {
        latent.tobytes(): (b, k) for latent, b, k in zip(everything.latent, everything.batch, everything.y, strict=True)
    }
    # A batch's latents may round differently in blocks of another size; find each by its nearest.
    for latent, batch, y in zip(some.latent, some.batch, some.y, strict=True):
        nearest = everything.latent[np.abs(everything.latent - latent).sum(axis=1).argmin()]
        assert of_code[nearest.tobytes()] == (batch, y)


@pytest.mark.parametrize("n", [1, 2, 3, 12])
def test_a_target_of_a_few_cells_is_annotated(by_each: Learned, n: int) -> None:
    shared, x, known, settings = by_each
    annotated = annotate(shared, x[:n], known, settings)
    assert TargetStage.ALIGNED in annotated.stages
    assert all(len(predictions.names) == n for predictions in annotated.stages.values())
    assert all(np.isfinite(predictions.probabilities).all() for predictions in annotated.stages.values())


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_model_without_held_out_cells_still_annotates(tmp_path: Path, method: str) -> None:
    data = {"a": {"B": 4, "T": 3}, "b": {"B": 4, "T": 4}, "c": {"B": 3, "T": 3}}
    annotated = annotate(*learned(tmp_path, data, METHOD=method, ALIGN=True))
    assert annotated.stages[TargetStage.ALIGNED].thresholds.tolist() == [0.9, 0.9]


@pytest.mark.slow
def test_the_same_seed_annotates_alike_bit_for_bit_and_another_seed_does_not(by_each: Learned) -> None:
    """METHOD `default` draws nothing here: another seed annotates alike too."""
    shared, x, known, settings = by_each
    x = x[own_order(x)]  # `annotate` takes cells in this order
    one, again = annotate(shared, x, known, settings), annotate_before_alignment(shared, x, known, settings)
    torch.rand(1)  # what used random numbers before must not matter
    align(again, x, known, settings)
    other = annotate(shared, x, known, replace(settings, seed=1))
    assert equal(weights(one.model), weights(again.model))
    assert one.curves == again.curves
    assert equal(weights(one.model), weights(other.model)) is not is_reference(settings)
