"""How unlike everything annotated a cell is, for METHOD `default`: cells of types that no annotated batch has.

1. Each cell of the batch is averaged with its nearest cells there. What is left is what a group of cells has in common: chance
   of single cells goes, a new type stays.
2. What the components of the annotated cells cannot explain of it is measured before alignment, which would hide it.
3. Annotated cells claim the batch's cells that are nearest to them, and so tell where in this batch their type is: `in_batch`.
   Alignment asks the batch's cells alone where they belong. It would move known cells off their place to make room for new ones.
4. Its distance to the nearest type there is measured in units of how much cells of a type differ within and between annotated
   batches (Mahalanobis; Lee et al. 2018, NeurIPS, arXiv:1807.03888).
5. A group that no annotated cell claims is farther from everything annotated than other cells of the batch are: this tells a new
   type from a batch all of whose cells are far. A new type that is no farther off may be told by what sets it apart from the batch's
   other cells, however little that is: annotated cells are sorted into groups of the batch's own (`claims_of_groups`), several times.
6. Logarithms of the two distances are averaged, and those of both claims and of the answers' largest shares are taken off. So is the
   batch's own lower quartile: a batch may be odd as a whole, and at least a quarter of its cells is taken to be of annotated types. (`resemblance` finds files of which
   no cell is.)
7. A cell is flagged above a limit that left-out batches tell: the more of them and the more alike, the lower (UNSURE, APART). It is higher
   beside very novel cells (BESIDE_NOVEL): odd groups of known types are not flagged together with a clearly new type. So the limit
   can be lower elsewhere, and finds less clear ones.
benchmarks/research/new_types.py hides types in turn and measures it; benchmarks/README.md compares it with other scores.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import sparse
from scipy.cluster.vq import kmeans2

from ..core.compiled import compiled
from ..core.sparse_rows import product, sums_and_squares
from ..core.subsample import subsample
from .in_blocks import in_blocks
from .neighbours import CELLS_A_NEIGHBOUR, Neighbours, nearest
from .predictions import SHARE_ABOVE

SCORE = 2  # how often the score was changed: a saved model's limit is of one score

# The limit: what SHARE_ABOVE of left-out cells of known types exceed, times SLOPE, added to START, and what doubt there is of that: UNSURE
# divided by the root of the number of batches, and APART times the standard deviation between them; but not below FLOOR. Where no
# batch could be left out, annotated cells stand in where they lie (`novelty_of_annotated`), as if two batches told it; ALONE is the
# limit where these are too few.
START, SLOPE, UNSURE, APART, FLOOR, ALONE = -0.15, 0.6, 0.8, 0.2, 0.3, 1.06
EASIER = 0.1  # is added to what they exceed: it is easier to recognise them than cells of a new batch
BESIDE_NOVEL = 0.5  # of what SHARE_ABOVE of the target's own cells exceed: the limit is not below it
MOST_ANNOTATED = 4_000  # that components, types and their spread are computed from
FEWEST_OF_A_TYPE = 100
# Cells that an annotated cell claims; rounds in which neighbours share their claims; what is added to them before the logarithm, and
# its weight.
CLAIMED, SHARED, FEW_CLAIMS, CLAIM_WEIGHT = 10, 3, 0.05, 0.3
# How many times more or less common a type must be in the batch than among the annotated cells, for its claims to follow its share of
# the batch by half, and how suddenly they do.
OTHER_SHARE, SUDDENLY = 4.0, 4
SURPRISE_WEIGHT, LEAST_SHARE = 0.15, 1e-3  # of the logarithm of how sure the answers are, and what is added before it
# Of where a type is in a batch: rounds; more claims than this count no more (1: as if a type's were spread over all cells); cells
# below which a type tells nothing; how far a common type goes its own way, and the share of the batch at which it goes half of that.
ROUNDS, MOST_CLAIMS, FEWEST_CELLS, OWN_WAY, RARE = 3, 4.0, 3, 0.25, 0.02
# Of groups of the batch's cells: what is added to the annotated cells in them before the logarithm, and its weight; how often they are
# drawn, from how many cells at most, in how many rounds. There are half as many as types, and so many more: fewer where no two batches tell how a
# type differs between them. But no more than 40, and one for ten cells.
FEW_OF_A_GROUP, GROUP_WEIGHT, DRAWS, MOST_GROUPED, ROUNDS_OF_GROUPS = 0.05, 0.3, 9, 2_000, 20
MORE_GROUPS, MORE_UNTOLD, MOST_GROUPS, CELLS_A_GROUP = 7, 4, 40, 10
COMPONENTS = 50  # or a quarter of the latent, if that is less
SHRINKAGE = 0.3  # of the covariance within types of a batch, towards a sphere
BETWEEN = 3.0  # times the covariance of a type's means between annotated batches is added to it
FEWEST_OF_A_MEAN = 3  # cells of a type in a batch
QUARTILE = 0.25
CELLS_AT_ONCE = 5_120  # whose novelty is computed; memory only
TINY = 1e-9
# Of the correlation below which a cell is no cell: a share of what nearly all annotated cells reach, but at least so many standard
# deviations of chance, and never more than the larger share.
UNLIKE_SHARE, LARGER_SHARE, DEVIATIONS, NEARLY_NONE = 0.4, 0.6, 3.0, 0.01
# Of nearly all annotated cells; where they do not resemble their types, nothing can be asked of others.
LEAST_CORRELATION = 0.1
MOST_AVERAGED, MOST_COMPARED = (
    5_000,
    2_000,
)  # cells of a batch that profiles come from, and annotated cells that the limit comes from
# Of hiding each annotated type in turn: cells of a batch and of the others, batches a type is hidden in, types, cells it needs.
MOST_OF_A_BATCH, MOST_OF_OTHERS, BATCHES_A_TYPE, MOST_TYPES, FEWEST_HIDDEN = 500, 2_000, 2, 60, 10
MOST_BATCHES = 9  # whose annotated cells are asked how novel they are
MOST_HIDDEN = 0.5  # share of the batch that a hidden type makes up: of a batch of new types alone nothing is known
ENOUGH_CELLS = 50  # in which a feature without any value is one that the file lacks


@dataclass(frozen=True)
class AnnotatedSpace:
    """What annotated cells span, and how much cells of a type differ there."""

    names: np.ndarray  # int (K,), what each type is called in `y` of the annotated cells
    near: np.ndarray  # int (c,), columns of a latent by which cells are compared
    mean: np.ndarray  # (b,), of the unscaled block of latents
    axes: np.ndarray  # (b, k), its components
    types: np.ndarray  # (K, c), mean latent of each type
    precision: np.ndarray  # (c, c), inverse of the covariance within types, in a batch and between batches
    between: np.ndarray | None  # (c, c), that of a type's means between batches; None where no type is in two
    within: np.ndarray  # (c, c), that within types of a batch
    cells: np.ndarray  # (m, c), latents of annotated cells
    y: np.ndarray  # int (m,), their types, as rows of `types`

    @classmethod
    def of(cls, latent: np.ndarray, batch: np.ndarray, y: np.ndarray, near: np.ndarray) -> AnnotatedSpace:
        """Describe annotated cells.

        Parameters
        ----------
        latent
            Float (m, d), of each cell where its own batch's adapter puts it; the second half is of unscaled components.
        batch, y
            Int (m,), the cells' batches and types.
        near
            Columns by which cells are compared, int (c,).
        """
        chosen = subsample(len(y), MOST_ANNOTATED, 0)
        for k in np.unique(y):  # a rare type is not lost among many cells
            of_type = np.flatnonzero(y == k)
            chosen = np.union1d(chosen, of_type[subsample(len(of_type), FEWEST_OF_A_TYPE, 0)])
        latent, batch, y = latent[chosen].astype(np.float64), batch[chosen], y[chosen]
        smooth = np.empty_like(latent)
        for one in np.unique(batch):
            compared = Compared.of(latent[batch == one], near)
            smooth[batch == one] = compared.mean(compared.neighbours.positions)
        names, own = np.unique(y, return_inverse=True)
        types = np.stack([latent[y == k].mean(axis=0) for k in names])
        within, between = _within_and_between(smooth[:, near], batch, own)
        block = latent[:, latent.shape[1] // 2 :]
        mean = block.mean(axis=0)
        _, axes = np.linalg.eigh((block - mean).T @ (block - mean))
        axes = axes[:, ::-1][:, : min(COMPONENTS, max(1, latent.shape[1] // 4))]
        covariance = _shrunk(within) + (0 if between is None else BETWEEN * between)
        precision = np.linalg.inv(covariance)
        return cls(names, near, mean, axes, types[:, near], precision, between, within, latent[:, near], own)

    def unexplained(self, latent: np.ndarray) -> np.ndarray:
        """Return the length of what the components do not explain of latents (n, d), float (n,)."""
        rest = latent[:, latent.shape[1] // 2 :] - self.mean
        rest = rest - rest @ self.axes @ self.axes.T
        length: np.ndarray = np.linalg.norm(rest, axis=1)
        return length

    def distances(self, near: np.ndarray) -> np.ndarray:
        """Return the distances of latents, of which only the near columns are given (n, c), to every type, float (n, K)."""
        scaled = near @ self.precision
        squares = (scaled * near).sum(axis=1)[:, None] - 2 * scaled @ self.types.T
        squares = squares + ((self.types @ self.precision) * self.types).sum(axis=1)
        distances: np.ndarray = np.sqrt(np.maximum(squares, 0))
        return distances

    def in_batch(self, compared: Compared, shares: np.ndarray, offset: np.ndarray) -> tuple[AnnotatedSpace, np.ndarray]:
        """Return the space with each type where a batch has it, and the cells that each type has there, float (K,).

        A cell counts for a type as far as it is of that type by the classifier, and annotated cells of the type claim it. So cells
        of a new type move nothing: they have an answer, but nobody claims them. A type that the batch lacks does not either: its
        cells claim others, which have another answer. All types are moved by the mean of their ways, each weighed by the root of
        its cells, and then a common one by a quarter of what its own way differs.

        Parameters
        ----------
        compared
            The batch's cells, m of them.
        shares
            Their answers after alignment, float (m, K).
        offset
            By which alignment moves them, float (d,): the first guess.
        """
        latent = compared.latent[:, self.near]
        moved, ways = offset[self.near], np.zeros_like(self.types)
        cells = np.zeros(len(self.types))
        for _ in range(ROUNDS):
            belongs = np.minimum(self.claims(latent + moved, compared.sharing), MOST_CLAIMS) * shares
            cells = belongs.sum(axis=0)
            ways = self.types - belongs.T @ latent / (cells + TINY)[:, None]
            counts = np.sqrt(cells) * (cells > FEWEST_CELLS)
            if not counts.any():
                break
            moved = np.average(ways, axis=0, weights=counts)
        own = OWN_WAY * cells / (cells + RARE * len(latent))
        ways = moved + own[:, None] * (ways - moved)
        return replace(self, types=self.types - ways, cells=self.cells - ways[self.y]), cells

    def claims(self, latent: np.ndarray, sharing: sparse.csr_matrix) -> np.ndarray:
        """Return how often annotated cells of each type claim a batch's cells, float (m, K): about 1 on average for each type.

        Each annotated cell claims the ten cells nearest to it. So a cell that is far from all annotated cells is claimed if none is
        nearer: another state of a type is, a new type beside a known one is not. Then cells share their claims with their
        neighbours, so that a group has the same.

        Parameters
        ----------
        latent
            Of the batch's cells, the near columns alone, float (m, c).
        sharing
            `Compared.sharing` of these cells.
        """
        m, k = len(latent), min(CLAIMED, max(1, len(latent) // CELLS_A_NEIGHBOUR))
        claimed, _ = nearest(self.cells, latent, k)
        claims = np.zeros((m, len(self.types)))
        np.add.at(claims, (claimed.ravel(), np.repeat(self.y, claimed.shape[1])), 1.0)
        for _ in range(SHARED):
            claims = sharing @ claims
        normal: np.ndarray = claims * (m / claims.sum(axis=0))
        return normal

    def claims_of_groups(self, compared: Compared) -> list[np.ndarray]:
        """Return how many annotated cells of each type there are in the group of each of a batch's cells, for each cell of the batch that
        is in it, float (m, K), by each of several draws: about 1 on average for each type.

        Groups are heaps of the batch's cells (k-means), and a linear discriminant learns to tell them apart. So it looks where the cells of
        this batch differ from each other, be it little, but less where annotated batches differ in the same type; where none tell, less
        where cells of a type do. By it annotated cells belong to groups, too: hardly any to one of a new type.
        """
        latent, some = compared.latent[:, self.near], subsample(len(compared.latent), MOST_GROUPED, 0)
        smooth = compared.mean(compared.neighbours.positions[compared.neighbours.among[some]])[:, self.near]
        smooth /= np.linalg.norm(smooth, axis=1, keepdims=True) + TINY
        blind, more = (self.within, MORE_UNTOLD) if self.between is None else (BETWEEN * self.between, MORE_GROUPS)
        n_groups = min(more + len(self.types) // 2, MOST_GROUPS, max(2, len(latent) // CELLS_A_GROUP))
        of_types = np.eye(len(self.types))[self.y] / np.bincount(self.y)
        found = []
        for seed in range(DRAWS):
            belongs_to = _groups_by(latent[some], _groups(smooth, n_groups, seed), blind)
            shares = belongs_to(latent)
            claims = of_types.T @ belongs_to(self.cells) / (shares.mean(axis=0) + TINY)
            found.append(shares @ claims.T)
        return found

    def weights(self, cells: np.ndarray) -> np.ndarray:
        """Return how much each type's claims count, float (K,), sum 1: as much as the type is common.

        A type may be rare among the annotated cells and common in the batch: its few claims must stand for many cells. But its share
        of the batch is a guess, and too high for the type that cells of a new type are nearest to: that type would claim them. So
        its share of the annotated cells counts, unless the two are far apart.

        Parameters
        ----------
        cells
            Of each type in the batch, float (K,): from `in_batch`.
        """
        in_batch, annotated = cells / (cells.sum() + TINY) + TINY, np.bincount(self.y) / len(self.y)
        times = np.maximum(in_batch / annotated, annotated / in_batch)
        power = 1 / (1 + (OTHER_SHARE / times) ** SUDDENLY)
        weights: np.ndarray = in_batch**power * annotated ** (1 - power)
        weights /= weights.sum()
        return weights

    def novelty(self, latent: np.ndarray, compared: Compared, shares: np.ndarray, offset: np.ndarray) -> np.ndarray:
        """Return how unlike the annotated cells each cell of a batch is, float (n,): about 0 for most cells of known types.

        Parameters
        ----------
        latent
            Of the batch's cells that have any value, before alignment, float (n, d).
        compared, offset
            As in `in_batch`.
        shares
            The compared cells' answers after alignment, float (m, all types of the model).
        """
        if not len(latent):
            return np.zeros(0)
        shares = shares[:, self.names] / np.maximum(shares[:, self.names].sum(axis=1, keepdims=True), TINY)
        here, cells = self.in_batch(compared, shares, offset)
        weights = self.weights(cells)
        claims = here.claims(compared.latent[:, self.near], compared.sharing) @ weights
        unclaimed, unsure = -np.log(claims + FEW_CLAIMS), -np.log(shares.max(axis=1) + LEAST_SHARE)
        # Annotated cells of a type that is none of a cell's answers do not make it a known one.
        answered = np.minimum(1, shares * shares.shape[1])
        in_groups = np.median([(of_draw * answered) @ weights for of_draw in here.claims_of_groups(compared)], axis=0)
        alone = -np.log(in_groups + FEW_OF_A_GROUP)
        strange = CLAIM_WEIGHT * unclaimed + GROUP_WEIGHT * alone + SURPRISE_WEIGHT * unsure

        def farness_of(rows: slice) -> np.ndarray:
            positions = compared.neighbours.positions[rows]
            smooth = compared.mean(positions)
            to_type = here.distances(smooth[:, self.near]).min(axis=1)
            distance = (np.log(self.unexplained(smooth) + TINY) + np.log(to_type + TINY)) / 2
            farness: np.ndarray = distance + strange[positions].mean(axis=1)
            return farness

        farness = np.concatenate(in_blocks(farness_of, len(latent), CELLS_AT_ONCE))
        novelty: np.ndarray = farness - np.quantile(farness, QUARTILE)
        return novelty


def hide_in_turn(
    latent: np.ndarray, batch: np.ndarray, y: np.ndarray, shares: np.ndarray, near: np.ndarray
) -> dict[int, list[tuple[np.ndarray, np.ndarray]]]:
    """Return how novel cells of each type would have been, had no other batch had the type.

    Nothing is learned anew: components, offsets and answers are those of all annotated cells. benchmarks/README.md has how near
    that comes to what is found of a type that is really new.

    Parameters
    ----------
    latent, batch, y, near
        As in `AnnotatedSpace.of`.
    shares
        The cells' answers, float (m, all types of the model).

    Returns
    -------
    For each of up to two batches the novelty of its cells, float (n,), and which of them are of the type, bool (n,): by type, of
    the largest 60. Types that a single batch has, or fewer than ten of its cells, are not among them.
    """
    counts = np.zeros((batch.max(initial=-1) + 1, y.max(initial=-1) + 1), dtype=int)
    np.add.at(counts, (batch, y), 1)
    found: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
    for k in np.argsort(-counts.sum(axis=0), kind="stable")[:MOST_TYPES]:
        for one in np.argsort(-counts[:, k], kind="stable")[:BATCHES_A_TYPE]:
            elsewhere = np.flatnonzero((batch != one) & (y != k))
            if (
                counts[one, k] < FEWEST_HIDDEN
                or counts[one, k] == counts[:, k].sum()
                or len(np.unique(y[elsewhere])) < 2
            ):
                continue
            own, others = np.flatnonzero((batch == one) & (y == k)), np.flatnonzero((batch == one) & (y != k))
            here = np.flatnonzero(batch == one)
            if len(own) > MOST_HIDDEN * len(here):
                here = np.union1d(others, own[subsample(len(own), max(FEWEST_HIDDEN, len(others)), 0)])
            here = here[subsample(len(here), MOST_OF_A_BATCH, 0)]
            elsewhere = elsewhere[subsample(len(elsewhere), MOST_OF_OTHERS, 0)]
            space = AnnotatedSpace.of(latent[elsewhere], batch[elsewhere], y[elsewhere], near)
            novelty = _novelty_where_they_lie(space, latent[here], shares[here])
            if (y[here] == k).any():
                found.setdefault(int(k), []).append((novelty, y[here] == k))
    return found


def novelty_of_annotated(
    latent: np.ndarray, batch: np.ndarray, y: np.ndarray, shares: np.ndarray, near: np.ndarray
) -> float | None:
    """Return the novelty that SHARE_ABOVE of annotated cells exceed where they lie, each batch compared with the others: the mean over
    batches, nine at most. Of a single batch one half is compared with the other.

    Nothing is learned anew, as in `hide_in_turn`, and the parameters are those; None where the others have a single type, or
    no batch has ten cells of their types.
    """
    if len(np.unique(batch)) == 1:
        batch = np.random.default_rng(0).integers(0, 2, len(batch))
    found = []
    for one in np.unique(batch)[:MOST_BATCHES]:
        here, elsewhere = np.flatnonzero(batch == one), np.flatnonzero(batch != one)
        here = here[subsample(len(here), MOST_OF_A_BATCH, 0)]
        elsewhere = elsewhere[subsample(len(elsewhere), MOST_OF_OTHERS, 0)]
        known = np.isin(y[here], y[elsewhere])
        if known.sum() >= FEWEST_HIDDEN and len(np.unique(y[elsewhere])) > 1:
            space = AnnotatedSpace.of(latent[elsewhere], batch[elsewhere], y[elsewhere], near)
            novelty = _novelty_where_they_lie(space, latent[here], shares[here])
            found.append(np.quantile(novelty[known], 1 - SHARE_ABOVE))
    return float(np.mean(found)) if found else None


def _novelty_where_they_lie(space: AnnotatedSpace, latent: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return the novelty of annotated cells (n, d) that alignment does not move, by their answers (n, all types), float (n,)."""
    compared = Compared.of(latent, space.near)
    return space.novelty(latent, compared, shares[compared.neighbours.among], np.zeros(latent.shape[1]))


@dataclass(frozen=True)
class Compared:
    """The cells of a batch that its cells are averaged with: all, or a subsample."""

    latent: np.ndarray  # float64 (m, d)
    neighbours: Neighbours  # of all cells of the batch, among these

    @classmethod
    def of(cls, latent: np.ndarray, near: np.ndarray, neighbours: Neighbours | None = None) -> Compared:
        """Choose from a batch's latents, float (n, d), cells to compare by their near columns, int (c,).

        Parameters
        ----------
        neighbours
            The cells' neighbours by these columns; they are looked for if they are not given.
        """
        neighbours = neighbours or Neighbours.of(latent, near, 0)
        return cls(latent[neighbours.among].astype(np.float64), neighbours)

    def mean(self, positions: np.ndarray) -> np.ndarray:
        """Return the means of the batch's cells at some positions, int (l, k), float64 (l, d)."""
        mean = np.zeros((len(positions), self.latent.shape[1]))
        _add_up(self.latent, positions, mean)
        mean /= positions.shape[1]
        return mean

    @cached_property
    def sharing(self) -> sparse.csr_matrix:
        """What gives each cell the mean over cells that are among its nearest, or that it is among the nearest of: (m, m)."""
        positions = self.neighbours.positions[self.neighbours.among]
        m, k = positions.shape
        neighbours = sparse.csr_matrix((np.ones(m * k), positions.ravel(), np.arange(m + 1) * k), shape=(m, m))
        neighbours = neighbours.maximum(neighbours.T)
        return sparse.diags(1 / np.diff(neighbours.indptr)) @ neighbours


def _within_and_between(latent: np.ndarray, batch: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the covariance of latents (n, c) within types of a batch, and that of a type's means between batches, float (c, c) each;
    every type counts alike. None for the second where no type is in two batches."""
    within, between = [], []
    for k in np.unique(y):
        of_batches = [latent[(y == k) & (batch == one)] for one in np.unique(batch[y == k])]
        apart = np.concatenate([of_batch - of_batch.mean(axis=0) for of_batch in of_batches])
        within.append(apart.T @ apart / len(apart))
        means = [of_batch.mean(axis=0) for of_batch in of_batches if len(of_batch) >= FEWEST_OF_A_MEAN]
        if len(means) > 1:
            between.append(np.cov(np.stack(means), rowvar=False))
    return np.mean(within, axis=0), np.mean(between, axis=0) if between else None


def _shrunk(covariance: np.ndarray) -> np.ndarray:
    """Return a covariance (c, c) drawn towards a sphere."""
    sphere = np.trace(covariance) / len(covariance) + TINY
    shrunk: np.ndarray = (1 - SHRINKAGE) * covariance + SHRINKAGE * sphere * np.eye(len(covariance))
    return shrunk


def _groups(points: np.ndarray, n_groups: int, seed: int) -> np.ndarray:
    """Return which of at most so many heaps each point (m, c) belongs to, int (m,): k-means, from starts that lie apart (Arthur &
    Vassilvitskii 2007, SODA)."""
    n_groups = min(n_groups, len(np.unique(points, axis=0)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "One of the clusters is empty")  # then there is one heap less
        group: np.ndarray = kmeans2(points, n_groups, iter=ROUNDS_OF_GROUPS, minit="++", rng=seed)[1]
    return group


def _groups_by(latent: np.ndarray, group: np.ndarray, blind: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return what tells cells (n, c) in which shares they belong to each group that these are in, float (n, groups): a linear
    discriminant, less by what has a covariance, (c, c), that it shall not look at."""
    group = np.unique(group, return_inverse=True)[1]
    members = np.eye(group.max() + 1)[group]
    counts = members.sum(axis=0)
    means = (members.T @ latent) / counts[:, None]
    apart = latent - means[group]
    precision = np.linalg.inv(_shrunk(apart.T @ apart / len(latent)) + blind)
    weight = precision @ means.T
    bias = np.log(counts / len(latent)) - (means * weight.T).sum(axis=1) / 2

    def shares(of: np.ndarray) -> np.ndarray:
        logits = of @ weight + bias
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        found: np.ndarray = exponentials / exponentials.sum(axis=1, keepdims=True)
        return found

    return shares


@compiled
def _add_up(latent, positions, total):  # type: ignore[no-untyped-def]
    for i in range(len(positions)):
        row = total[i]
        for j in range(positions.shape[1]):
            other = latent[positions[i, j]]
            for k in range(len(row)):
                row[k] += other[k]


@dataclass(frozen=True)
class Profiles:
    """The mean cell of each type, and how much a cell must at least be like one of them to be one at all.

    Cells of another tissue, technology or state have types' profiles nearly as annotated cells have. Constants, noise, shuffled
    cells and features under wrong names do not.
    """

    means: np.ndarray  # float32 (K, p)
    least: float  # correlation

    @classmethod
    def of(cls, batches: Sequence[tuple[sparse.csr_matrix, np.ndarray]]) -> Profiles:
        """Average annotated cells by type, given for each batch: its cells, float (m, p), and their types, int (m,).

        Of a large batch 5,000 cells are asked. One batch is looked at after the other, so that an atlas is never copied.
        """
        chosen = [subsample(len(y), MOST_AVERAGED, 0) for _, y in batches]
        types = [y[rows] for (_, y), rows in zip(batches, chosen, strict=True)]
        names, counts = np.unique(np.concatenate(types), return_counts=True)
        ends, n_features = np.cumsum(list(map(len, types))), batches[0][0].shape[1]
        asked = subsample(int(ends[-1]), MOST_COMPARED, 0)
        sums, compared = np.zeros((len(names), n_features)), []
        for (x, _), rows, y, end in zip(batches, chosen, types, ends, strict=True):
            of_batch = x if len(rows) == x.shape[0] else x[rows]
            is_of = (np.ones(len(y)), (np.searchsorted(names, y), np.arange(len(y))))
            sums += (sparse.csr_matrix(is_of, shape=(len(names), len(y))) @ of_batch).toarray()
            compared.append(of_batch[asked[(asked >= end - len(y)) & (asked < end)] - (end - len(y))])
        means = (sums / counts[:, None]).astype(np.float32)
        alike = resemblance(sparse.vstack(compared, format="csr"), means)
        usual = float(np.quantile(alike, NEARLY_NONE))
        least = min(max(UNLIKE_SHARE * usual, DEVIATIONS / np.sqrt(n_features)), LARGER_SHARE * usual)
        return cls(means, least if usual > LEAST_CORRELATION else -1.0)

    def unlike(self, x: sparse.csr_matrix, here: np.ndarray | None = None) -> np.ndarray:
        """Return which cells (n, p) are like no type, bool (n,), by the features that are `here`, bool (p,): by default those of
        which some cell has a value, where there are 50 cells or more."""
        if here is None:
            here = np.ones(x.shape[1], dtype=bool)
            if x.shape[0] >= ENOUGH_CELLS:
                here = np.bincount(x.indices, minlength=x.shape[1]) > 0
        if here.sum() < 2 or not x.shape[0]:
            return np.zeros(x.shape[0], dtype=bool)
        means = self.means
        if not here.all():
            x, means = x[:, np.flatnonzero(here)], means[:, here]
        unlike: np.ndarray = resemblance(x, means) < self.least
        return unlike

    def unlike_by(self, products: np.ndarray, sums: np.ndarray, squares: np.ndarray) -> np.ndarray:
        """Return what `unlike` does by all features, given the `product` of the cells and `directions(self.means)`, (n, K), and the
        cells' `sums_and_squares`."""
        unlike: np.ndarray = _correlation(products, sums, squares, self.means.shape[1]) < self.least
        return unlike


def resemblance(x: sparse.csr_matrix, means: np.ndarray) -> np.ndarray:
    """Return each cell's correlation with the type it is most like, float (n,); 0 for a cell whose values are all equal.

    Parameters
    ----------
    x, means
        Cells float (n, p), and the types' mean cells float (K, p).

    >>> means = np.array([[1.0, 2.0, 3.0]])
    >>> resemblance(sparse.csr_matrix([[2.0, 4.0, 6.0], [5.0, 5.0, 5.0]]), means).round(3)
    array([1., 0.])
    """
    return _correlation(product(x, directions(means)), *sums_and_squares(x), x.shape[1])


def directions(means: np.ndarray) -> np.ndarray:
    """Return types' mean cells (K, p) less the mean of each, of length one, as columns: float32 (p, K); zero if all values of a
    type are equal."""
    apart = (means - means.mean(axis=1, keepdims=True)).astype(np.float64)
    lengths = np.linalg.norm(apart, axis=1, keepdims=True)
    apart = np.where(lengths > TINY, apart / np.maximum(lengths, TINY), 0.0)
    return apart.T.astype(np.float32)


def _correlation(products: np.ndarray, sums: np.ndarray, squares: np.ndarray, n_features: int) -> np.ndarray:
    """Return the largest correlation of each cell, float (n,), by its products with `directions`, (n, K), and the sums of its values
    and of their squares, (n,) each."""
    spread = squares - sums**2 / n_features
    varies = spread > 1e-6 * np.maximum(squares, TINY)
    cosines = products.max(axis=1) / np.sqrt(np.where(varies, spread, 1.0))
    correlation: np.ndarray = np.where(varies, cosines, 0.0)
    return correlation
