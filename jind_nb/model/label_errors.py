"""Labels that the answers for left-out cells contradict: cells, cell types of a batch, whole batches, other names of a type, and noise
in all labels.

A cell of a left-out batch was annotated by a model that never saw its batch. Where that model is confidently of another type,
either it or the label is wrong; which of them, people have to see. After confident learning (Northcutt, Jiang & Chuang 2021, J.
Artif. Intell. Res. 70, doi 10.1613/jair.1.12125). Nothing is relabelled.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..core.text import in_yaml, listing, percent, plural
from ..data.label_names import key_of
from .leave_one_out import LeftOut
from .predictions import Rule

SUREST, FLAT = 1 / 3, 0.5  # share of cells; of the other cells' share of mistakes
EVEN = 1.5  # times the evenly spread mistakes, that noise is at most
ENOUGH = 15  # of the surest cells that one answer was given to, to say how often each label is among them
ENOUGH_OF_A_TYPE = 20  # of a batch, to say that the type stands apart in it
APART, ORDINARY = 0.5, 0.2  # share of contradicted cells: at least this here, at most this in most other batches
# Of a label that one batch alone has: cells, share of them called what the batch lacks, and each such answer's least share.
FEWEST_OF_A_NAME, NEARLY_ALL, PART_OF_A_TYPE = 20, 0.8, 0.1
BATCH_APART = 0.25  # by which a batch's share is above the median of the others'

# The columns of the table of suspects.
COLUMNS = ("row", "batch", "label", "answer", "probability of label", "probability of answer")


def suspects(left_out: Sequence[LeftOut], probabilities: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """Return the cells whose label a left-out answer contradicts, the clearest first, as rows of COLUMNS.

    Parameters
    ----------
    probabilities
        For each batch the calibrated probabilities of its cells, float (n, K).

    Notes
    -----
    A type is a candidate for a cell if the cell's probability of it is at least the mean probability that cells labelled so
    have of it. A cell is suspect if its most probable candidate is not its label. They are ordered by how much more probable the
    answer is than the label.
    """
    known = [batch.could_be_known for batch in left_out]
    if not any(of_batch.any() for of_batch in known):
        return []
    y = np.concatenate([batch.y[of_batch] for batch, of_batch in zip(left_out, known, strict=True)])
    p = np.concatenate([of[of_batch] for of, of_batch in zip(probabilities, known, strict=True)]).astype(np.float64)
    own = p[np.arange(len(y)), y]
    n_classes = p.shape[1]
    counts = np.bincount(y, minlength=n_classes)
    least = np.where(counts > 0, np.bincount(y, own, n_classes) / np.maximum(1, counts), np.inf)
    candidates = np.where(p >= least, p, -1.0)
    answer = candidates.argmax(axis=1)
    contradicted = np.flatnonzero((candidates.max(axis=1) >= 0) & (answer != y) & (p.argmax(axis=1) != y))
    names = np.concatenate([np.full(int(of.sum()), batch.batch) for batch, of in zip(left_out, known, strict=True)])
    rows = np.concatenate(
        [(np.full(len(batch.y), -1) if batch.rows is None else batch.rows)[of] for batch, of in zip(left_out, known, strict=True)]
    )  # fmt: skip
    margin = p[contradicted, answer[contradicted]] - own[contradicted]
    classes = left_out[0].classes
    return [
        dict(
            zip(
                COLUMNS,
                (int(rows[i]), str(names[i]), classes[y[i]], classes[answer[i]], float(own[i]), float(p[i, answer[i]])),
                strict=True,
            )
        )
        for i in contradicted[np.argsort(-margin, kind="stable")]
    ]


def even_noise(left_out: Sequence[LeftOut], probabilities: Sequence[np.ndarray]) -> float:
    """Return the share of labels that are wrong at random, as far as left-out answers tell.

    A model's own mistakes are made where it is unsure, and between a few types that are alike. Labels that were mixed up at random
    are found as often where it is surest, and with every answer. So only the surest third of each batch's cells is asked. For each
    label the median is taken of how often it is found among the cells of each other answer, and these are added up: mistakes
    between two types leave the median as it is. The share of mistakes, at most 1.5 times that sum, is the noise. 0 where fewer than
    three answers have enough cells, or where the surest third has less than half of the share of mistakes that the other cells have.
    """
    pairs = [
        (batch.y[batch.could_be_known], of[batch.could_be_known])
        for of, batch in zip(probabilities, left_out, strict=True)
        if batch.is_new and batch.could_be_known.any()
    ]
    if not pairs:
        return 0.0
    y, answer = np.concatenate([y for y, _ in pairs]), np.concatenate([p.argmax(axis=1) for _, p in pairs])
    surest = np.concatenate([p.max(axis=1) >= np.quantile(p.max(axis=1), 1 - SUREST) for _, p in pairs])
    if surest.all() or (y != answer)[surest].mean() < FLAT * (y != answer)[~surest].mean():
        return 0.0
    found = pd.crosstab(y[surest], answer[surest])
    found = found.loc[:, found.sum() >= ENOUGH]
    if found.shape[1] < 3:
        return 0.0
    rates = found / found.sum()
    each = []
    for label in rates.index:
        others = rates.loc[label, rates.columns != label].to_numpy()
        each.append(float(np.median(others) if len(others) >= 3 else others.min()))
    return float(min((y != answer)[surest].mean(), EVEN * sum(each)))


def contradictions(left_out: Sequence[LeftOut], probabilities: Sequence[np.ndarray]) -> list[str]:
    """Return a warning for each batch, and each type of a batch, whose labels left-out answers contradict far more than those of
    the other batches."""
    tables = [
        pd.DataFrame({"batch": batch.batch, "y": batch.y, "answer": of.argmax(axis=1)})[batch.could_be_known]
        for batch, of in zip(left_out, probabilities, strict=True)
        if batch.is_new
    ]
    cells = pd.concat(tables) if tables else pd.DataFrame()
    if cells.empty or cells["batch"].nunique() < 3:
        return []
    cells["wrong"] = cells["y"] != cells["answer"]
    listed = Counter((row["batch"], row["label"]) for row in suspects(left_out, probabilities))
    by_batch = cells.groupby("batch", sort=False)["wrong"].mean()
    warnings = []
    apart = [name for name, share in by_batch.items() if share - by_batch.drop(name).median() >= BATCH_APART]
    for name in apart:
        warnings.append(
            f"{batch_stands_apart(name)}: {percent(by_batch[name])} of its labels are contradicted by the answers of a model "
            f"that was learned without it, {percent(by_batch.drop(name).median())} in the median other batch. Its labels may be "
            "wrong or mean something else, or its cells are of another kind."
            f"{_where_listed(sum(n for (batch, _), n in listed.items() if batch == name))} Compare with a "
            "run that has it in EXCLUDE_DATASETS_NAMES."
        )
    of_types = cells.groupby(["batch", "y"], sort=False)["wrong"].agg(["mean", "size"])
    for (name, y), row in of_types.iterrows():
        others = of_types.xs(y, level="y").drop(name)["mean"]
        if name in apart or row["size"] < ENOUGH_OF_A_TYPE or row["mean"] < APART:
            continue
        if len(others) and others.median() <= ORDINARY:
            here = cells[(cells["batch"] == name) & (cells["y"] == y) & cells["wrong"]]
            label = left_out[0].classes[int(y)]
            most = left_out[0].classes[int(here["answer"].value_counts().index[0])]
            beside = f"batch {others.index[0]!r}" if len(others) == 1 else "the median other batch"
            warnings.append(
                f"{label} in batch {name!r} stands apart: {percent(row['mean'])} of "
                f"{plural(int(row['size']), 'left-out cell')} are called otherwise (most often {most}), "
                f"{percent(others.median())} in {beside}.{_where_listed(listed[name, label])}"
            )
    return warnings


def _where_listed(n: int) -> str:
    """Return where such cells are listed, after a space; nothing if none is clear enough."""
    return f" suspect_labels.csv lists {plural(n, 'clear case')}." if n else ""


def batch_stands_apart(name: str) -> str:
    """Return how the warning on a batch's labels begins."""
    return f"Batch {name!r} stands apart"


def other_names(left_out: Sequence[LeftOut], probabilities: Sequence[np.ndarray], rule: Rule) -> list[str]:
    """Return a warning for each label of a single batch whose cells are called what that batch never uses: one other name, or the
    names of several finer types. Cells that are unlike the reference by a rule count for no name: a model calls what it has never
    seen by the name that is least wrong."""
    found: list[tuple[int, list[int], str]] = []  # a label, what its cells are called, and how that is told
    for batch, of in zip(left_out, probabilities, strict=True):
        is_like = batch.novelty <= rule.limit_of(batch.novelty)
        for k in np.unique(batch.y[~batch.could_be_known]).tolist() if batch.is_new else ():
            called = pd.Series(of[(batch.y == k) & is_like].argmax(axis=1))
            shares = called.value_counts() / (batch.y == k).sum()
            foreign = shares[~shares.index.isin(batch.y) & (shares >= PART_OF_A_TYPE)]
            spelt_alike = {key_of(batch.classes[i]) for i in foreign.index} & {key_of(batch.classes[k])}  # told already
            if (batch.y == k).sum() >= FEWEST_OF_A_NAME and foreign.sum() >= NEARLY_ALL and not spelt_alike:
                found.append((k, foreign.index.tolist(), _in_words(batch, k, foreign)))
    coarse = {(fine, k) for k, called, _ in found if len(called) > 1 for fine in called}
    pairs = {(k, called[0]) for k, called, _ in found}
    # Cells of the finer labels are called the coarse one in turn, and of two names of a type each is called the other: told once.
    return [
        told
        for k, called, told in found
        if len(called) > 1 or not ((k, called[0]) in coarse or ((called[0], k) in pairs and called[0] < k))
    ]


def _in_words(batch: LeftOut, k: int, foreign: pd.Series) -> str:
    """Return what to tell of a label that one batch alone uses; `foreign` has the shares of what its cells are called."""
    label, names = batch.classes[k], [batch.classes[i] for i in foreign.index]
    seen = f"{(batch.y == k).sum():,} cells of batch {batch.batch!r} are labelled {label!r}, as nowhere else. A model of the other"
    if len(names) == 1:
        return (
            f"{seen} batches calls {percent(foreign.iloc[0])} of them {names[0]!r}, which that batch lacks. If it is the same "
            f"cell type, RENAME {{{in_yaml(label)}: {in_yaml(names[0])}}} merges them."
        )
    listed, rename = listing(names, 5), ", ".join(f"{in_yaml(name)}: {in_yaml(label)}" for name in names)
    return (
        f"{seen} batches calls {percent(foreign.sum())} of them {listed}, which that batch lacks: its label may be a coarser "
        f"one, and a cell may be given either. RENAME {{{rename}}} makes all of them coarse; to keep the finer ones, put "
        f"{batch.batch!r} into EXCLUDE_DATASETS_NAMES."
    )
