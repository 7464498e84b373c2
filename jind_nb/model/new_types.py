"""How unlike everything annotated a cell is, for METHOD `default`: cells of types that no annotated batch has.

1. Each cell of the batch is averaged with its nearest cells there. What is left is what a group of cells has in common: chance
   of single cells goes, a new type stays.
2. What the components of the annotated cells cannot explain of it is measured before alignment, which would hide it.
3. Its distance to the nearest annotated type is measured after alignment, in units of how much cells of a type differ within and
   between annotated batches (Mahalanobis; Lee et al. 2018, NeurIPS, arXiv:1807.03888).
4. Annotated cells claim the batch's cells that are nearest to them. A group that none of them claims is farther from everything
   annotated than other cells of the batch are: this tells a new type from a batch all of whose cells are far.
5. Logarithms of the two distances are averaged, that of the claims is taken off, and so is the batch's own lower quartile: a batch
   may be odd as a whole, and at least a quarter of its cells is taken to be of annotated types. (`resemblance` finds files of which
   no cell is.)
benchmarks/research/new_types.py hides types in turn and measures it; benchmarks/README.md compares it with other scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from ..core.compiled import compiled
from ..core.sparse_rows import product, sums_and_squares
from ..core.subsample import subsample
from .in_blocks import in_blocks
from .neighbours import nearest

FLOOR = 0.86  # no limit is below it
SHARE_ABOVE = 0.02  # of left-out cells of known types, that the limit leaves above it
NEIGHBOURS, CELLS_A_NEIGHBOUR, FEWEST_NEIGHBOURS = 15, 4, 5
MOST_CELLS = 5_000  # that neighbours are looked for among
MOST_ANNOTATED = 4_000  # that components, types and their spread are computed from
FEWEST_OF_A_TYPE = 100
# Cells that an annotated cell claims; how far the claims of a type follow its share of the batch (0: not, 1: wholly); rounds in which
# neighbours share their claims; what is added to them before the logarithm, and its weight.
CLAIMED, COMPOSITION, SHARED, FEW_CLAIMS, CLAIM_WEIGHT = 10, 0.75, 3, 0.05, 0.4
COMPONENTS = 50  # or a quarter of the latent, if that is less
SHRINKAGE = 0.3  # of the covariance within types, towards a sphere
QUARTILE = 0.25
ROUNDS, FEWEST_FOR_A_SHIFT = 2, 4
MOST_SHIFTED = 20_000  # cells of a batch that tell what all its cells have in common
CELLS_AT_ONCE = 5_120  # whose novelty is computed; memory only
TINY = 1e-9
# Of the correlation below which a cell is no cell: a share of what nearly all annotated cells reach, but at least so many standard
# deviations of chance, and never more than the larger share.
UNLIKE_SHARE, LARGER_SHARE, DEVIATIONS, NEARLY_NONE = 0.4, 0.6, 3.0, 0.01
# Of nearly all annotated cells; where they do not resemble their types, nothing can be asked of others.
LEAST_CORRELATION = 0.1
MOST_COMPARED = 2_000  # annotated cells that the limit comes from
# Of hiding each annotated type in turn: cells of a batch and of the others, batches a type is hidden in, types, cells it needs.
MOST_OF_A_BATCH, MOST_OF_OTHERS, BATCHES_A_TYPE, MOST_TYPES, FEWEST_HIDDEN = 500, 2_000, 2, 60, 10
MOST_HIDDEN = 0.5  # share of the batch that a hidden type makes up: of a batch of new types alone nothing is known
ENOUGH_CELLS = 50  # in which a feature without any value is one that the file lacks


@dataclass(frozen=True)
class AnnotatedSpace:
    """What annotated cells span, and how much cells of a type differ there."""

    near: np.ndarray  # int (c,), columns of a latent by which cells are compared
    mean: np.ndarray  # (b,), of the unscaled block of latents
    axes: np.ndarray  # (b, k), its components
    types: np.ndarray  # (K, c), mean latent of each type
    precision: np.ndarray  # (c, c), inverse of the covariance within types
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
            smooth[batch == one] = compared.mean(compared.nearest_to(latent[batch == one]))
        names, own = np.unique(y, return_inverse=True)
        types = np.stack([latent[y == k].mean(axis=0) for k in names])
        apart = (smooth - types[own])[:, near]
        weights = 1 / np.bincount(own)[own]  # every type counts alike
        covariance = (apart * weights[:, None]).T @ apart / weights.sum()
        sphere = np.trace(covariance) / len(near) + TINY
        covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * sphere * np.eye(len(near))
        block = latent[:, latent.shape[1] // 2 :]
        mean = block.mean(axis=0)
        _, axes = np.linalg.eigh((block - mean).T @ (block - mean))
        axes = axes[:, ::-1][:, : min(COMPONENTS, max(1, latent.shape[1] // 4))]
        return cls(near, mean, axes, types[:, near], np.linalg.inv(covariance), latent[:, near], own)

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

    def claims(self, compared: Compared, offset: np.ndarray, shift: np.ndarray) -> np.ndarray:
        """Return how often annotated cells claim the compared cells of a batch, float (m,): about 1 on average.

        Each annotated cell claims the ten cells nearest to it, where alignment puts them. So a cell that is far from all annotated
        cells is claimed if none is nearer: another state of a type is, a new type beside a known one is not. The claims of a type
        are weighed by how much more of the batch than of the annotated cells it is, to the power 0.75: a type may be rare in one and
        common in the other. Then cells share their claims with their neighbours, so that a group has the same.

        Parameters
        ----------
        offset, shift
            By which alignment moves the batch's latents, float (d,), and how far they are away then still, float (c,).
        """
        positions = compared.nearest_to(compared.latent)
        moved = compared.latent[:, self.near] + offset[self.near]
        m, k = len(moved), min(CLAIMED, max(1, len(moved) // CELLS_A_NEIGHBOUR))
        of = self.distances(compared.mean(positions)[:, self.near] + offset[self.near] - shift).argmin(axis=1)
        here, annotated = (np.bincount(types, minlength=len(self.types)) / len(types) for types in (of, self.y))
        weight = ((here + TINY) / annotated)[self.y] ** COMPOSITION
        claimed, _ = nearest(self.cells, moved, k)
        claims: np.ndarray = np.bincount(claimed.ravel(), np.repeat(weight / weight.mean(), k), m) * m / claimed.size
        neighbours = sparse.csr_matrix(
            (np.ones(positions.size), positions.ravel(), np.arange(m + 1) * positions.shape[1]), shape=(m, m)
        )
        neighbours = neighbours.maximum(neighbours.T)
        counts = np.diff(neighbours.indptr)
        for _ in range(SHARED):
            claims = neighbours @ claims / counts
        return claims

    def novelty(self, latent: np.ndarray, offset: np.ndarray, *, by_claims: bool = True) -> np.ndarray:
        """Return how unlike the annotated cells each cell of a batch is, float (n,): about 0 for most cells of known types.

        Parameters
        ----------
        latent
            Of the batch's cells that have any value, before alignment, float (n, d).
        offset
            By which alignment moves them, float (d,).
        by_claims
            Whether `claims` count; they did not where an earlier version saved a model's limit.
        """
        if not len(latent):
            return np.zeros(0)
        compared = Compared.of(latent, self.near)
        some = subsample(len(latent), MOST_SHIFTED, 0)
        nearest_to_some = compared.nearest_to(latent[some])
        moved = compared.mean(nearest_to_some)[:, self.near] + offset[self.near]
        shift = np.zeros(len(self.near))
        for _ in range(ROUNDS):
            shift += _shift(moved - shift - self.types[(of := self.distances(moved - shift).argmin(axis=1))], of)

        claims = self.claims(compared, offset, shift) if by_claims else np.ones(len(compared.latent))
        unclaimed = -CLAIM_WEIGHT * np.log(claims + FEW_CLAIMS)

        def farness_of(rows: slice) -> np.ndarray:
            positions = nearest_to_some[rows] if len(some) == len(latent) else compared.nearest_to(latent[rows])
            smooth = compared.mean(positions)
            to_type = self.distances(smooth[:, self.near] + offset[self.near] - shift).min(axis=1)
            distance = (np.log(self.unexplained(smooth) + TINY) + np.log(to_type + TINY)) / 2
            farness: np.ndarray = distance + unclaimed[positions].mean(axis=1)
            return farness

        farness = np.concatenate(in_blocks(farness_of, len(latent), CELLS_AT_ONCE))
        novelty: np.ndarray = farness - np.quantile(farness, QUARTILE)
        return novelty


def hide_in_turn(
    latent: np.ndarray, batch: np.ndarray, y: np.ndarray, near: np.ndarray, limit: float
) -> dict[int, float]:
    """Return which share of a type's cells would have been found unlike everything annotated, had no other batch had the type.

    Nothing is learned anew: components, offsets and the limit are those of all annotated cells. benchmarks/README.md has how near
    that comes to what is found of a type that is really new.

    Parameters
    ----------
    latent, batch, y, near
        As in `AnnotatedSpace.of`.
    limit
        Of novelty.

    Returns
    -------
    Type to share, 0 to 1: of the largest 60 types, each hidden from up to two batches. Types that a single batch has, or fewer
    than ten of its cells, are not among them.
    """
    counts = np.zeros((batch.max(initial=-1) + 1, y.max(initial=-1) + 1), dtype=int)
    np.add.at(counts, (batch, y), 1)
    found = {}
    for k in np.argsort(-counts.sum(axis=0), kind="stable")[:MOST_TYPES]:
        shares = []
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
            novelty = space.novelty(latent[here], np.zeros(latent.shape[1]))
            if (y[here] == k).any():
                shares.append(float((novelty[y[here] == k] > limit).mean()))
        if shares:
            found[int(k)] = float(np.mean(shares))
    return found


@dataclass(frozen=True)
class Compared:
    """The cells of a batch that its cells are averaged with: all, or a subsample."""

    latent: np.ndarray  # float64 (m, d)
    near: np.ndarray  # int (c,), columns by which cells are compared
    k: int  # nearest cells, a cell itself among them

    @classmethod
    def of(cls, latent: np.ndarray, near: np.ndarray) -> Compared:
        """Choose from a batch's latents, float (n, d): 15 nearest cells, of fewer cells in a small batch or a subsample."""
        some = subsample(len(latent), MOST_CELLS, 0)
        k = max(FEWEST_NEIGHBOURS, round(NEIGHBOURS * len(some) / max(1, len(latent))))
        return cls(latent[some].astype(np.float64), near, min(k, max(1, len(latent) // CELLS_A_NEIGHBOUR)) + 1)

    def nearest_to(self, latent: np.ndarray) -> np.ndarray:
        """Return which of the batch's cells are nearest to each of some latents (l, d), int64 (l, k)."""
        return nearest(latent[:, self.near], self.latent[:, self.near], self.k)[0]

    def mean(self, positions: np.ndarray) -> np.ndarray:
        """Return the means of the batch's cells at some positions, int (l, k), float64 (l, d)."""
        mean = np.zeros((len(positions), self.latent.shape[1]))
        _add_up(self.latent, positions, mean)
        mean /= positions.shape[1]
        return mean


@compiled
def _add_up(latent, positions, total):  # type: ignore[no-untyped-def]
    for i in range(len(positions)):
        row = total[i]
        for j in range(positions.shape[1]):
            other = latent[positions[i, j]]
            for k in range(len(row)):
                row[k] += other[k]


def _shift(apart: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Return what the ways from their types to a batch's cells have in common, float (c,).

    Of each type the nearer half of its cells counts: a new type's cells lie among those of the nearest annotated one, farther off.

    Parameters
    ----------
    apart, of
        The cells' ways from their nearest types, float (n, c), and these types, int (n,).
    """
    shift = np.zeros(apart.shape[1])
    for _ in range(ROUNDS + 1):
        length = np.linalg.norm(apart - shift, axis=1)
        means, weights = [], []
        for k in np.unique(of):
            rows = np.flatnonzero(of == k)
            if len(rows) >= FEWEST_FOR_A_SHIFT:
                nearer = rows[length[rows] <= np.median(length[rows])]
                means.append(apart[nearer].mean(axis=0))
                weights.append(np.sqrt(len(nearer)))
        if means:
            shift = np.average(means, axis=0, weights=weights)
    return shift


@dataclass(frozen=True)
class Profiles:
    """The mean cell of each type, and how much a cell must at least be like one of them to be one at all.

    Cells of another tissue, technology or state have types' profiles nearly as annotated cells have. Constants, noise, shuffled
    cells and features under wrong names do not.
    """

    means: np.ndarray  # float32 (K, p)
    least: float  # correlation

    @classmethod
    def of(cls, x: sparse.csr_matrix, y: np.ndarray) -> Profiles:
        """Average annotated cells, float (m, p), by type, int (m,)."""
        names, own = np.unique(y, return_inverse=True)
        shares = sparse.csr_matrix((1 / np.bincount(own)[own], (own, np.arange(len(y)))), shape=(len(names), len(y)))
        means = np.asarray((shares @ x).todense(), dtype=np.float32)
        alike = resemblance(x[subsample(len(y), MOST_COMPARED, 0)], means)
        usual = float(np.quantile(alike, NEARLY_NONE))
        least = min(max(UNLIKE_SHARE * usual, DEVIATIONS / np.sqrt(x.shape[1])), LARGER_SHARE * usual)
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

    def unlike_by(self, x: sparse.csr_matrix, products: np.ndarray) -> np.ndarray:
        """Return what `unlike` does by all features, given the `product` of the cells and `directions(self.means)`, (n, K)."""
        unlike: np.ndarray = _correlation(x, products) < self.least
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
    return _correlation(x, product(x, directions(means)))


def directions(means: np.ndarray) -> np.ndarray:
    """Return types' mean cells (K, p) less the mean of each, of length one, as columns: float32 (p, K); zero if all values of a
    type are equal."""
    apart = (means - means.mean(axis=1, keepdims=True)).astype(np.float64)
    lengths = np.linalg.norm(apart, axis=1, keepdims=True)
    apart = np.where(lengths > TINY, apart / np.maximum(lengths, TINY), 0.0)
    return apart.T.astype(np.float32)


def _correlation(x: sparse.csr_matrix, products: np.ndarray) -> np.ndarray:
    """Return the largest correlation of each cell (n, p), float (n,), by its products with `directions`, (n, K)."""
    sums, squares = sums_and_squares(x)
    spread = squares - sums**2 / x.shape[1]
    varies = spread > 1e-6 * np.maximum(squares, TINY)
    cosines = products.max(axis=1) / np.sqrt(np.where(varies, spread, 1.0))
    correlation: np.ndarray = np.where(varies, cosines, 0.0)
    return correlation
