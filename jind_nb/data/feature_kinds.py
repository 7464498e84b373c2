"""Kinds of features in one matrix (genes, peaks, antibodies, spike-ins), and which of them a run uses."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ..core.parameters import Parameters
from ..core.text import as_text, did_you_mean, listing
from ..errors import InputError
from .chunks import read_rows
from .features import match, name_columns, names_type
from .h5ad import features_of, input_files, matrix_of, open_file
from .integrity import Store
from .recognise import antibodies, evenly_spaced

GENES, PEAKS, ANTIBODIES, NOT_SAID = "Gene Expression", "Peaks", "Antibody Capture", "(not said)"

DIMENSIONS = "dimensions of an embedding"

# Other words for a kind: the multiome data of NeurIPS 2021 say GEX, ATAC and ADT.
OTHER_WORDS = {
    **dict.fromkeys(("gene expression", "gex", "rna", "mrna", "gene", "genes"), GENES),
    **dict.fromkeys(("peaks", "peak", "atac", "chromatin accessibility"), PEAKS),
    **dict.fromkeys(("antibody capture", "adt", "protein", "proteins", "antibody", "antibodies", "prot"), ANTIBODIES),
}

# CELLxGENE's feature_type says what Ensembl takes a gene for, which is no other kind of feature.
A_BIOTYPE = "protein_coding"

# What stands among genes and is none (adt-1 is one, of a worm), by its name, where var.feature_types does not say.
KINDS_BY_NAME = {
    PEAKS: re.compile(r"chr[\w.]+[:_-]\d+[-_]\d+|[\w.]+:\d+-\d+", re.IGNORECASE),
    "ERCC spike-ins": re.compile(r"ERCC[-_.]\d{5}", re.IGNORECASE),
    ANTIBODIES: re.compile(
        r".*totalseq.*|(?!adt-\d+$)(?:adt|prot|hto|hashtag|anti)[-_:.].+|.+[-_:.](?:adt|prot|hto)|(?:hashtag|hto)\d+",
        re.IGNORECASE,
    ),
    "CRISPR Guide Capture": re.compile(
        r"(?:sg|g)rna[-_:.].+|.+[-_:.](?:sg|g)rna(?:[-_:.]?\d+)?|(?-i:sg[A-Z][A-Z0-9]+[-_.]\d+)|non[-_. ]?targeting.*",
        re.IGNORECASE,
    ),
}

# What all of these names have; most genes' names have not.
PART_OF_OTHERS = re.compile(r"[-_:.]|totalseq|hashtag|^hto|targeting", re.IGNORECASE)

# Cells of a batch that show which kinds it has values of.
CELLS_LOOKED_AT = 50


def feature_kinds(store: Store, table: str) -> np.ndarray:
    """Return the kind of each feature of a `var` table, objects (n_features,): `feature_types`, or what names say."""
    var = features_of(store, table)
    if table.startswith("obsm/"):
        return np.full(len(var), DIMENSIONS, dtype=object)
    return kinds_of(var, next(iter(name_columns(var).values())))


def kind_of(word: str) -> str:
    """Return one word for a kind of features.

    >>> kind_of("GEX"), kind_of("gene expression"), kind_of("Custom")
    ('Gene Expression', 'Gene Expression', 'Custom')
    """
    return OTHER_WORDS.get(word.strip().casefold(), word)


def kinds_of(var: pd.DataFrame, names: pd.Index) -> np.ndarray:
    """Return the kind of each feature, objects (n_features,).

    >>> list(kinds_of(pd.DataFrame(index=range(3)), pd.Index(["LYZ", "ERCC-00002", "chr1:10-20"])))
    ['Gene Expression', 'ERCC spike-ins', 'Peaks']
    """
    column = next((name for name in ("feature_types", "feature_type") if name in var), None)
    if column is not None and not (var[column] == A_BIOTYPE).any():
        said = var[column].astype(object)
        said = said.where(said.notna(), NOT_SAID).map(as_text)
        kinds = said.map({kind: kind_of(kind) for kind in said.unique()}).to_numpy(dtype=object)
    else:
        of_all = PEAKS if names_type(names) == "peaks" else ANTIBODIES if antibodies(names) else GENES
        kinds = np.full(len(names), of_all, dtype=object)
    texts = list(map(str, names))
    genes = [i for i in np.flatnonzero(kinds == GENES) if PART_OF_OTHERS.search(texts[i])]
    for kind, pattern in KINDS_BY_NAME.items():
        kinds[[i for i in genes if pattern.fullmatch(texts[i])]] = kind
    return kinds


def choose_kinds(
    parameters: Parameters, cells: pd.DataFrame, layers: Mapping[int, str | None], model_features: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return the kinds of features that a run uses (none: all features), and notes.

    Parameters
    ----------
    cells
        Of `read_cells`, the cells that take part.
    layers
        File -> its layer.
    model_features
        Of a saved model, whose kind is the one to use.

    Raises
    ------
    InputError
        If FEATURE_TYPES names a kind that a file does not have.
    """
    features, batches, of_model = Counter[str](), dict[str, set[str]](), Counter[str]()
    files, wanted = input_files(parameters), list(map(kind_of, parameters.FEATURE_TYPES))
    for number, layer in layers.items():
        with open_file(files[number]) as store:
            path, table, _ = matrix_of(store, layer)
            kinds = feature_kinds(store, table)
            features |= Counter(kinds)
            if wrong := [kind for kind in wanted if kind not in set(kinds)]:
                there = list(dict.fromkeys(kinds))
                hint = did_you_mean(wrong[0], there)
                raise InputError(f"FEATURE_TYPES: {files[number]} has no {wrong[0]!r}; it has {listing(there)}.{hint}")
            here = cells[cells["file"] == number]
            for name, rows in here.groupby("batch", sort=False)["row"]:
                seen = set(kinds)
                if len(seen) > 1:
                    some = rows.to_numpy()[evenly_spaced(len(rows), CELLS_LOOKED_AT)]
                    seen = set(kinds[np.unique(read_rows(store, path, np.sort(some)).indices)])
                batches[str(name)] = batches.get(str(name), set()) | seen
            if len(model_features) and len(set(kinds)) > 1:
                names = next(iter(name_columns(features_of(store, table)).values()))
                found = match(pd.Index(model_features), names)[0]
                of_model += Counter(kinds[found[found >= 0]])
    if len(features) < 2:
        return [], []
    chosen, why = wanted, "FEATURE_TYPES names"
    if not chosen and of_model:
        chosen, why = [of_model.most_common(1)[0][0]], "the model has"
    if not chosen:
        common = set.intersection(*batches.values())
        if not common:
            return [], []
        chosen = [GENES if GENES in common else max(sorted(common), key=features.__getitem__)]
        why = "all batches have"
    rest = {kind: n for kind, n in features.items() if kind not in chosen}
    if not rest:
        return [], []
    left_out = listing([f"{n:,} {kind}" for kind, n in rest.items()], 10, quoted=False)
    return chosen, [
        f"Of several kinds of features {listing(chosen, quoted=False)} are used, which {why}; left out: {left_out}. "
        "FEATURE_TYPES chooses otherwise."
    ]
