"""Cells of types that no annotated batch has: whoever reads page one must hear of them."""

import numpy as np
import pytest
from scipy import sparse

from jind_nb.model import new_types
from jind_nb.model.new_types import ALONE, AnnotatedSpace, Compared, Profiles, hide_in_turn, novelty_of_annotated

D = 40  # of a latent: two blocks of 20
NEAR = np.arange(D)


def cells(means: np.ndarray, of: np.ndarray, seed: int) -> np.ndarray:
    return means[of] + np.random.default_rng(seed).normal(size=(len(of), D))


@pytest.fixture(scope="module")
def means() -> np.ndarray:
    return np.random.default_rng(9).normal(scale=3, size=(5, D))


@pytest.fixture(scope="module")
def space(means: np.ndarray) -> AnnotatedSpace:
    """Two annotated batches of the first four types."""
    y = np.tile(np.arange(4), 100)
    batch = np.repeat([0, 1], 200)
    return AnnotatedSpace.of(cells(means, y, 0) + 0.3 * batch[:, None], batch, y, NEAR)


def novelties(space: AnnotatedSpace, latent: np.ndarray, shares: np.ndarray | None = None) -> np.ndarray:
    """By answers of the nearest type, as any classifier would have them for such distant types."""
    if shares is None and len(latent):
        shares = np.eye(len(space.types))[
            space.distances(latent - latent.mean(axis=0) + space.types.mean(axis=0)).argmin(axis=1)
        ]
    return space.novelty(latent, Compared.of(latent, NEAR), shares, np.zeros(D))


@pytest.mark.parametrize("share", [0.05, 0.5])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_a_new_type_stands_out_of_a_batch_that_is_odd_as_a_whole(
    space: AnnotatedSpace, means: np.ndarray, share: float, shift: float
) -> None:
    """However common the new type is: today's cell atlases lack half of a tumour."""
    n_new = int(400 * share)
    of = np.concatenate([np.full(n_new, 4), np.arange(400 - n_new) % 4])
    novelty = novelties(space, cells(means, of, 1) + shift)
    assert (novelty[of == 4] > ALONE).mean() > 0.9
    assert (novelty[of < 4] > ALONE).mean() < 0.05


def claims(space: AnnotatedSpace, latent: np.ndarray) -> np.ndarray:
    """Of all types together, each as common in the batch as among the annotated cells."""
    return space.claims(latent, Compared.of(latent, NEAR).sharing).mean(axis=1)


def test_no_annotated_cell_claims_cells_of_a_new_type_beside_a_known_one(
    space: AnnotatedSpace, means: np.ndarray
) -> None:
    """They lie no farther off than a known type's own cells may, so that their distance alone does not tell."""
    of = np.arange(300) % 5
    beside = means.copy()
    beside[4] = means[0] + 0.6 * (means[4] - means[0])
    found = claims(space, cells(beside, of, 2))
    assert found[of == 4].mean() < 0.1
    assert all(found[of == k].mean() > 0.5 for k in range(4))


def test_hardly_any_annotated_cell_is_in_a_group_of_new_cells_that_little_sets_apart(
    space: AnnotatedSpace, means: np.ndarray
) -> None:
    """Two types of oligodendrocytes lie nearer to each other than cells of one type do, and yet they are two heaps."""
    of = np.arange(400) % 5
    beside = means.copy()
    beside[4] = means[0] + 0.35 * (means[4] - means[0])
    latent = cells(beside, of, 2)
    found = np.mean([of_draw.mean(axis=1) for of_draw in space.claims_of_groups(Compared.of(latent, NEAR))], axis=0)
    assert np.median(found[of == 4]) < 0.2
    assert all(np.median(found[of == k]) > 0.7 for k in range(4))


def test_cells_of_known_types_in_another_state_are_claimed(space: AnnotatedSpace, means: np.ndarray) -> None:
    """Half of the stimulated cells would lose their label: those of a type that answers most lie far from all annotated ones."""
    of = np.arange(300) % 4
    answers = means[:4] + np.random.default_rng(7).normal(size=(4, D)) * np.array([0.2, 0.5, 1, 2])[:, None]
    found = claims(space, cells(answers, of, 2))
    assert all(found[of == k].mean() > 0.5 for k in range(4))


def test_a_type_may_be_rare_among_the_annotated_cells_and_common_in_the_batch(means: np.ndarray) -> None:
    """Each of its annotated cells stands for many then: sorted cells would be unlike the reference otherwise."""
    y = np.concatenate([np.full(10, 0), 1 + np.arange(390) % 3])
    space = AnnotatedSpace.of(cells(means, y, 0), np.arange(400) % 2, y, NEAR)
    latent = cells(means, (of := np.where(np.arange(300) % 2, 0, np.arange(300) % 3 + 1)), 2)
    assert (novelties(space, latent)[of == 0] > ALONE).mean() < 0.05


def test_cells_of_a_new_type_do_not_raise_the_claims_of_the_type_they_are_nearest_to(
    space: AnnotatedSpace, means: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That type seems twice as common in the batch as it is, by their answer; if its claims counted twice, they would claim more of
    them."""
    seems = np.array([200.0, 100, 100, 100])
    assert np.allclose(space.weights(seems), 0.25, atol=0.03)
    monkeypatch.setattr(new_types, "OTHER_SHARE", 0.5)  # claims that follow the share of the batch
    assert space.weights(seems)[0] > 0.33


def test_the_claims_of_a_type_follow_its_share_of_the_batch_where_that_is_quite_another(means: np.ndarray) -> None:
    """Else sorted cells of a rare type are unlike the reference, and a type that the batch lacks claims cells of a new one."""
    y = np.concatenate([np.full(10, 0), 1 + np.arange(390) % 3])
    space = AnnotatedSpace.of(cells(means, y, 0), np.arange(400) % 2, y, NEAR)
    weights = space.weights(np.array([250.0, 125, 125, 0]))
    assert weights[0] == pytest.approx(0.5, abs=0.1)
    assert weights[3] < 1e-6


@pytest.mark.parametrize("lacks", [False, True])
def test_a_new_type_does_not_move_known_ones(space: AnnotatedSpace, means: np.ndarray, lacks: bool) -> None:
    """Alignment moved the type whose answer its cells have halfway towards them: then neither type's cells lie on it, and the
    known ones are flagged as much as the new. Nor may a type that the batch lacks move the others."""
    of = np.where(np.arange(400) % 10 < 3, 4, np.arange(400) % (3 if lacks else 4))
    answer = np.where(of == 4, 0, of)
    shifted = means + 1.5
    shifted[4] = shifted[0] + 0.7 * (means[4] - means[0])
    latent = cells(shifted, of, 2)
    here, count = space.in_batch(Compared.of(latent, NEAR), np.eye(4)[answer], np.zeros(D))
    there = np.unique(answer)
    apart = np.linalg.norm(here.types[there] - shifted[there], axis=1)
    by_answers = np.stack([latent[answer == k].mean(axis=0) for k in there])
    assert apart.max() < 0.5 * np.linalg.norm(by_answers - shifted[there], axis=1).max()
    assert (count[there] > 20).all()
    assert lacks == (count[3] < 1)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_a_handful_of_cells_is_judged(space: AnnotatedSpace, means: np.ndarray, n: int) -> None:
    novelty = novelties(space, cells(means, np.arange(n), 3), np.full((n, 4), 0.25))
    assert novelty.shape == (n,)
    assert np.isfinite(novelty).all()


@pytest.fixture(scope="module")
def counts() -> tuple[np.ndarray, np.ndarray]:
    """300 cells of three types in 400 genes, and their types."""
    rng = np.random.default_rng(4)
    rates = np.exp(rng.normal(size=(3, 400)))
    y = np.arange(300) % 3
    return np.log1p(rng.poisson(rates[y])), y


def test_what_is_no_cell_is_like_no_type(counts: tuple[np.ndarray, np.ndarray]) -> None:
    """`predict` called a file of noise `confident` in 78 to 100 % of its rows."""
    x, y = counts
    rng = np.random.default_rng(5)
    profiles = Profiles.of([(sparse.csr_matrix(x), y)])
    nonsense = {
        "constant": np.full_like(x, 2.0),
        "noise": rng.exponential(size=x.shape),
        "shuffled": rng.permuted(x, axis=1),
        "other names": x[:, rng.permutation(x.shape[1])],
    }
    for name, values in nonsense.items():
        assert profiles.unlike(sparse.csr_matrix(values)).mean() > 0.95, name
    assert not profiles.unlike(sparse.csr_matrix(x)).any()


def test_honest_cells_of_a_file_that_lacks_features_are_like_their_types(counts: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = counts
    few = np.where(np.arange(x.shape[1]) < 60, x, 0)
    assert not Profiles.of([(sparse.csr_matrix(x), y)]).unlike(sparse.csr_matrix(few)).any()


def noticed(means: np.ndarray, batch: np.ndarray, y: np.ndarray) -> dict[int, float]:
    latent = cells(means, y, 3)
    squares = ((latent[:, None] - means[None, : y.max() + 1]) ** 2).sum(axis=2)
    shares = np.exp(-0.05 * (squares - squares.min(axis=1, keepdims=True)))
    found = hide_in_turn(latent, batch, y, shares / shares.sum(axis=1, keepdims=True), NEAR)
    of_types = {k: np.concatenate([novelty[hidden] for novelty, hidden in batches]) for k, batches in found.items()}
    return {k: float((novelty > ALONE).mean()) for k, novelty in of_types.items()}


def test_a_type_between_others_would_not_be_noticed_and_a_distant_one_would(means: np.ndarray) -> None:
    """A biologist must know which types this data could hide, without a run for each."""
    y = np.tile(np.arange(5), 120)
    batch = np.repeat([0, 1], 300)
    alike = means.copy()
    alike[1] = alike[0] + 0.2
    shares = noticed(alike, batch, y)
    assert set(shares) == set(range(5))
    assert max(shares[0], shares[1]) < 0.1
    assert min(shares[2], shares[3], shares[4]) > 0.9


def test_a_type_of_one_batch_cannot_be_hidden(means: np.ndarray) -> None:
    y = np.concatenate([np.tile(np.arange(3), 50), np.tile(np.arange(2), 75)])
    batch = np.repeat([0, 1], 150)
    assert set(noticed(means, batch, y)) == {0, 1}
    assert noticed(means, batch[:150], y[:150]) == {}


def test_annotated_cells_where_they_lie_tell_how_novel_known_types_are(means: np.ndarray) -> None:
    """A single annotated batch cannot be left out: with one limit for all data, no cell of accessibility data was flagged."""
    y = np.tile(np.arange(4), 100)
    latent, shares = cells(means, y, 5), np.eye(4)[y]
    one = novelty_of_annotated(latent, np.zeros(400, int), y, shares, NEAR)
    odd = (np.arange(400) < 20)[:, None] * means[4]
    two = novelty_of_annotated(latent + odd, np.arange(400) // 200, y, shares, NEAR)
    assert one is not None
    assert two is not None
    assert 0 < one < 0.5 < two
    assert novelty_of_annotated(latent[:12], np.zeros(12, int), y[:12], shares[:12], NEAR) is None
