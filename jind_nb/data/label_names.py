"""Labels that may mean the same cell type, or a coarser one: found by their names, said, and never merged by themselves."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping

import pandas as pd

from ..core.text import in_yaml, listing

MOST_SHOWN = 10

QUOTES = re.compile("[\"'`´‘’‚‛“”„‹›«»]")

Counts = Mapping[str, pd.Series]  # batch -> label -> cells


def label_warnings(counts: Counts) -> list[str]:
    """Return what to tell about the labels of the annotated batches: spellings of one type, and batches labelled coarsely.

    Parameters
    ----------
    counts
        Of each annotated batch, the labelled cells of each type.
    """
    labels = pd.DataFrame(dict(counts)).sum(axis=1) if counts else pd.Series(dtype=float)
    return [*_spellings(labels), *_coarser(counts, set(labels.index))]


def key_of(label: str) -> str:
    """Return a label without what writers differ in: case, accents, quotes, joints, plural, the word cell.

    >>> key_of("CD4_T-cells"), key_of("‘Naïve’ B"), key_of("CD4- T"), key_of("CD4+ T")
    ('cd4 t', 'naive b', 'cd4- t', 'cd4+ t')
    """
    plain = unicodedata.normalize("NFKD", label.casefold())
    plain = QUOTES.sub("", "".join(c for c in plain if not unicodedata.combining(c)))
    words = re.sub(r"(?<=[^\W_])[-./](?=[^\W_])|_", " ", plain).split()
    words = [word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word for word in words]
    return " ".join([word for word in words if word != "cell"] or words)


def _has_quotes(label: str) -> bool:
    return QUOTES.search(label) is not None


def _spellings(labels: pd.Series) -> list[str]:
    groups = defaultdict(list)
    for label in labels.sort_values(ascending=False, kind="stable").index:
        groups[key_of(str(label))].append(str(label))
    same = [sorted(group, key=_has_quotes) for group in groups.values() if len(group) > 1]
    if not same:
        return []
    pairs = listing([" = ".join(map(repr, group)) for group in same], MOST_SHOWN, quoted=False)
    rename = listing(
        [f"{in_yaml(other)}: {in_yaml(first)}" for first, *others in same for other in others], MOST_SHOWN, quoted=False
    )
    return [
        f"LABELS_COL: some labels differ in spelling only ({pairs}); they are learned as different cell types. If they are "
        f"the same, RENAME {{{rename}}} merges them."
    ]


def _coarser(counts: Counts, labels: set[str]) -> list[str]:
    """Tell of each batch that uses a label where others use finer ones, as `T` beside `CD4 T` and `CD8 T`."""
    words = {label: set(key_of(label).split()) for label in labels}
    of_batches, found = {batch: set(of_batch.index) for batch, of_batch in counts.items()}, defaultdict(list)
    for label in labels:
        finer = {other for other in labels if words[label] < words[other]}
        using = [batch for batch, names in of_batches.items() if label in names]
        if len(finer) > 1 and not any(finer & of_batches[batch] for batch in using):
            found[(label, tuple(sorted(finer)))] = using
    return [
        f"LABELS_COL: {listing(batches, 5)} label cells {label!r} where other batches have {listing(elsewhere, 5)}; a cell "
        "may be given either, and errors are measured as if they were different types. EXCLUDE_DATASETS_NAMES leaves a "
        f"batch out; RENAME {{{listing([f'{in_yaml(name)}: {in_yaml(label)}' for name in elsewhere], 5, quoted=False)}}} gives the finer labels "
        "the coarse one."
        for (label, elsewhere), batches in sorted(found.items())
    ]
