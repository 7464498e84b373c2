"""Which stored matrix (X, `.raw`, a layer) each file is read from, and the one scale all batches are brought to."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from ..core.parameters import Parameters
from ..core.progress import bar
from ..errors import InputError
from .chunks import KEPT_VALUES, Block, Blocks, some_rows
from .features import Columns, text_columns, unique
from .h5ad import frame, has_x, input_files, matrix_of, no_column, open_file, other_matrices, texts
from .integrity import path_of
from .recognise import (
    CELLS_LOOKED_AT,
    Evidence,
    cells_looked_at,
    facts_of,
    recognise,
    recognise_cells,  # fmt: skip
)
from .scale import agree, fit

if TYPE_CHECKING:
    import zarr

# Cells of each batch looked at in the matrices that are not used.
CELLS_SURVEYED = 200

MOST_MATRICES = 8

# Stored values of all cells looked at together; of hundreds of interleaved batches fewer cells are looked at.
VALUES_LOOKED_AT = 2**26


@dataclass
class Loaded:
    """The cells of one file that take part: where their values are, and what those look like."""

    file: Path
    layer: str | None  # as LAYER names it; None: X
    blocks: Blocks
    columns: Columns  # the names its features go by
    cells: np.ndarray  # names (n,)
    rows: dict[str, np.ndarray]  # batch -> which of the cells
    evidence: dict[str, Evidence] = field(default_factory=dict)  # batch -> what its values look like


def name_of(layer: str | None) -> str:
    """What to call a matrix that LAYER names.

    >>> name_of(None), name_of(".raw"), name_of("counts")
    ('X', '.raw', "layer 'counts'")
    """
    return "X" if layer is None else layer if layer == ".raw" else f"layer {layer!r}"


def _names(store: h5py.File | zarr.Group, table: str, gene_col: str | None) -> Columns:
    var = frame(store, table)
    if gene_col is None:
        return text_columns(var)
    if gene_col not in var:
        raise no_column("GENE_COL", gene_col, var, f"var of {path_of(store)}")
    return {gene_col: pd.Index(texts(var[gene_col]).fillna("").astype(str))}


def _locate(parameters: Parameters, cells: pd.DataFrame, number: int, layer: str | None) -> Loaded:
    """Where one file's values are.

    Raises
    ------
    InputError
        For a missing layer or column, an empty or damaged matrix.
    """
    file = input_files(parameters)[number]
    here = cells[cells["file"] == number]
    with open_file(file) as store:
        path, table, what = matrix_of(store, layer)
        columns = _names(store, table, parameters.GENE_COL)
        features = next(iter(columns.values()))
        if not len(features):
            raise InputError(f"PATH: {what} of {file} has no features (genes or peaks).")
        blocks = Blocks.of(store, path, what, here["row"].to_numpy())
    if blocks.shape[1] != len(features):
        raise InputError(f"PATH: {what} of {file} has {blocks.shape[1]} columns but var has {len(features)} rows.")
    in_other_files = set(cells.loc[cells["file"] != number, "batch"])
    batch = here["batch"].to_numpy()
    rows = {
        f"{name} ({file.name})" if name in in_other_files else name: np.flatnonzero(batch == name)
        for name in dict.fromkeys(batch)
    }
    return Loaded(file, layer, blocks, columns, here["cell"].to_numpy(), rows)


def _look(parameters: Parameters, loaded: list[Loaded], others: list[Loaded]) -> None:
    """Reads the values of some files for the first time: recognises each batch. Few values are kept from then on.

    Parameters
    ----------
    others
        Files read before, whose values may have been kept.

    Raises
    ------
    InputError
        For a damaged matrix, NaN or infinite values.
    """
    n_kept = sum(one.blocks.n_values for one in others if one.blocks.keeps)
    keep = sum(one.blocks.n_values for one in loaded) + n_kept <= KEPT_VALUES
    folder = Path(parameters.OUTPUT_PATH)
    for one in loaded:
        one.blocks.ready(folder if folder.is_dir() else Path(tempfile.gettempdir()), keep=keep)
        _recognise(one)


def _recognise(loaded: Loaded) -> None:
    per_cell = max(1, loaded.blocks.n_values // max(1, loaded.blocks.shape[0]))
    most = int(np.clip(VALUES_LOOKED_AT // (per_cell * len(loaded.rows)), CELLS_SURVEYED, CELLS_LOOKED_AT))
    looked_at = {name: rows[cells_looked_at(len(rows), most)] for name, rows in loaded.rows.items()}
    is_looked_at = np.zeros(len(loaded.cells), dtype=bool)
    is_looked_at[np.concatenate(list(looked_at.values()))] = True
    looks = loaded.blocks.each(_look_at_block, per_block(loaded, is_looked_at))
    found = list(bar(looks, f"reading {loaded.file.name}", "block", len(loaded.blocks.blocks)))
    _check_finite(found, loaded)
    facts = np.concatenate([look[0] for look in found])
    matrix = sparse.vstack([look[2] for look in found], format="csr")
    del found
    place = np.cumsum(is_looked_at) - 1
    loaded.evidence = {
        name: recognise_cells(facts[rows], matrix[place[looked_at[name]]]) for name, rows in loaded.rows.items()
    }


def per_block(loaded: Loaded, values: np.ndarray) -> list[np.ndarray]:
    """What is known of each cell of a file (n, ...), block by block."""
    return np.split(values, np.cumsum([len(block.rows) for block in loaded.blocks.blocks])[:-1])


Look = tuple[np.ndarray, tuple[int, int, int] | None, sparse.csr_matrix]


def _look_at_block(block: Block, looked_at: np.ndarray) -> Look:
    """`facts_of` all cells; how many values are not finite and the cell and feature of the first; some cells."""
    matrix = block.matrix()
    facts, wrong = facts_of(matrix), None
    if not np.isfinite(facts["total"]).all():
        where = np.flatnonzero(~np.isfinite(matrix.data))
        row = int(np.searchsorted(matrix.indptr, where[0], side="right") - 1)
        wrong = len(where), row, int(matrix.indices[where[0]])
    return facts, wrong, matrix[looked_at]


def _check_finite(found: list[Look], loaded: Loaded) -> None:
    begin, first, n = 0, None, 0
    for facts, wrong, _ in found:
        if wrong is not None:
            first, n = first or (begin + wrong[1], wrong[2]), n + wrong[0]
        begin += len(facts)
    if first is not None:
        features = unique(next(iter(loaded.columns.values())))
        raise InputError(
            f"{loaded.blocks.what} has {n} NaN or infinite values, the first in cell {loaded.cells[first[0]]!r}, feature "
            f"{features[first[1]]!r}. Replace them, or point LAYER to values without them."
        )


def _survey(loaded: Loaded, cells: pd.DataFrame, number: int) -> dict[str | None, dict[str, Evidence]]:
    """What the file's other matrices look like, by some cells of each batch; one that cannot be read is passed over."""
    stored_rows = cells.loc[cells["file"] == number, "row"].to_numpy()
    some = {name: rows[cells_looked_at(len(rows), CELLS_SURVEYED)] for name, rows in loaded.rows.items()}
    asked = np.sort(np.concatenate(list(some.values())))
    found: dict[str | None, dict[str, Evidence]] = {}
    with open_file(loaded.file) as store:
        others: list[str | None] = [*([None] if has_x(store) else []), *other_matrices(store)]
        for layer in [layer for layer in others if layer != loaded.layer][:MOST_MATRICES]:
            with suppress(Exception):  # nobody asked for this matrix: what cannot be read is not offered
                matrix = some_rows(store, matrix_of(store, layer)[0], stored_rows[asked])
                if np.isfinite(matrix.data).all():
                    found[layer] = {
                        name: recognise(matrix[np.searchsorted(asked, rows)]) for name, rows in some.items()
                    }
    return found


def _usable(evidence: Mapping[str, Evidence]) -> bool:
    return all(found.linear or found.logarithm for found in evidence.values())


def _best(others: Mapping[str | None, Mapping[str, Evidence]]) -> str | None:
    """The matrix to go back to: counts before other linear scales before logarithms. None: there is none."""

    def rank(layer: str | None) -> int:
        kinds = {found.kind for found in others[layer].values()}
        return 0 if kinds == {"counts"} else 1 if kinds <= {"counts", "linear"} else 2

    usable = [layer for layer, evidence in others.items() if layer is not None and _usable(evidence)]
    return min(usable, key=rank, default=None)


@dataclass
class Choice:
    """What was read, and how it is brought to one scale."""

    loaded: list[Loaded]
    scale: dict[str, Any]  # of `values.agree`, and `unclear` (the logarithm taken where nothing tells the base)
    table: list[dict[str, Any]]  # what every matrix of every file looks like
    warnings: list[str]


def choose(parameters: Parameters, cells: pd.DataFrame, trained: Mapping[str, Any] | None) -> Choice:
    """Reads the values of `cells` once and settles their scale; goes back to `.raw` or a layer where X is of no use.

    Parameters
    ----------
    trained
        `Plan.preprocessing` of the run that trained the saved model, if there is one.

    Raises
    ------
    InputError
        As `_locate` and `_look` do, or if the batches (or the model and the target) cannot be brought to one scale.
    """
    p, numbers, warnings = parameters, list(dict.fromkeys(cells["file"])), list[str]()
    loaded = [_locate(p, cells, number, _first_layer(p, number, trained)) for number in numbers]
    _look(p, loaded, [])
    others = [_survey(one, cells, number) for one, number in zip(loaded, numbers, strict=True)]
    surveyed = [{one.layer: one.evidence} | other for one, other in zip(loaded, others, strict=True)]
    try:
        scale = _settle(p, loaded, trained, warnings)
    except InputError as reason:
        loaded = _go_back(p, cells, numbers, loaded, others, reason, warnings)
        try:
            scale = _settle(p, loaded, trained, warnings)
        except InputError:
            raise reason from None
    if scale["values"] == "as they are" and p.NORMALISATION == "auto":
        warnings.append(_as_they_are(loaded, others))
    table = [
        row
        for one, found in zip(loaded, surveyed, strict=True)
        for layer, evidence in found.items()
        for row in _described(one, layer, evidence, several=len(loaded) > 1)
    ]
    return Choice(loaded, scale, table, warnings)


def _first_layer(parameters: Parameters, number: int, trained: Mapping[str, Any] | None) -> str | None:
    if parameters.LAYER is not None or trained is None or trained["layer"] is None:
        return parameters.LAYER
    with open_file(input_files(parameters)[number]) as store:
        return trained["layer"] if trained["layer"] in other_matrices(store) else None


def _settle(
    p: Parameters, loaded: list[Loaded], trained: Mapping[str, Any] | None, warnings: list[str]
) -> dict[str, Any]:
    unclear = _take_unclear_logarithms(p, loaded, trained, warnings)
    evidence = {name: found for one in loaded for name, found in one.evidence.items()}
    if trained is None:
        return agree(evidence, p.NORMALISATION) | {"unclear": unclear}
    scales = []
    for name, found in evidence.items():
        scale, said = fit(name, found, p.NORMALISATION, trained)
        scales.append(scale)
        warnings += said
    chosen = next((scale for scale in scales if scale["rescaled"]), scales[0])
    if any(scale["normalisation"] != chosen["normalisation"] for scale in scales):
        return chosen | {"normalisation": "auto"}  # batches of different kinds: each is taken for what it is
    return chosen


def _take_unclear_logarithms(
    p: Parameters, loaded: list[Loaded], trained: Mapping[str, Any] | None, warnings: list[str]
) -> str:
    """Takes logarithms whose base nothing tells for the kind that the other batches, or the model's, are."""
    found = [(one, name, evidence) for one in loaded for name, evidence in one.evidence.items()]
    clear = {evidence.kind for _, _, evidence in found if evidence.logarithm and evidence.clear}
    unclear = [(one, name) for one, name, evidence in found if evidence.logarithm and not evidence.clear]
    kind = trained["unclear"] if trained is not None else clear.pop() if len(clear) == 1 else "log1p"
    for one, name in unclear:
        if kind != "log1p":
            because = f"{one.evidence[name].because}; taken for what the others are"
            median = one.evidence[name].medians[kind]
            one.evidence[name] = replace(one.evidence[name], kind=kind, because=because, median_total=median)
    if unclear and p.NORMALISATION == "auto":
        names = ", ".join(repr(name) for _, name in unclear[:10]) + (" and more" if len(unclear) > 10 else "")
        warnings.append(
            f"The values of {names} look like logarithms, but nothing tells their base; taken for {kind}. "
            "If the file has counts, point LAYER to them."
        )
    return kind


def _go_back(
    p: Parameters,
    cells: pd.DataFrame,
    numbers: list[int],
    loaded: list[Loaded],
    others: list[dict[str | None, dict[str, Evidence]]],
    reason: InputError,
    warnings: list[str],
) -> list[Loaded]:
    """The files whose X is of no use read from their `.raw` or a layer instead; the reason again if that cannot be."""
    if p.LAYER is not None or p.NORMALISATION != "auto":
        raise reason
    back = []
    for number, one, other in zip(numbers, loaded, others, strict=True):
        if _usable(one.evidence):
            back.append(one)
            continue
        layer = _best(other)
        if layer is None:
            raise reason
        back.append(_locate(p, cells, number, layer))
        _look(p, back[-1:], [*back[:-1], *loaded[len(back) :]])
        kinds = ", ".join(sorted({found.kind for found in one.evidence.values()}))
        instead = ", ".join(sorted({found.kind for found in back[-1].evidence.values()}))
        warnings.append(
            f"{name_of(one.layer)} of {one.file.name} is {kinds}, which cannot be brought to one scale; "
            f"{name_of(layer)} ({instead}) is used instead. Set LAYER to choose another."
        )
    return back


def _as_they_are(loaded: list[Loaded], others: list[dict[str | None, dict[str, Evidence]]]) -> str:
    kinds = sorted({found.kind for one in loaded for found in one.evidence.values()})
    better = [layer for other in others if (layer := _best(other)) is not None]
    advice = (
        f"{name_of(better[0])} holds values of a known scale; set LAYER: {better[0]} to use them."
        if better and len(better) == len(others)
        else "Counts are to be preferred, if there are any: add them as a layer and name it in LAYER."
    )
    return (
        f"The values are {' and '.join(kinds)} in every batch, not of a scale we can normalise; they are taken as they "
        f"are, which is right only if all batches were prepared together. {advice}"
    )


def _described(
    one: Loaded, layer: str | None, evidence: Mapping[str, Evidence], *, several: bool
) -> list[dict[str, Any]]:
    """A row for each kind of values that a matrix holds."""
    kinds: dict[str, list[str]] = {}
    for name, found in evidence.items():
        kinds.setdefault(found.kind, []).append(name)
    matrix = f"{name_of(layer)} of {one.file.name}" if several else name_of(layer)
    return [
        {
            "matrix": matrix,
            "used": "yes" if layer == one.layer else "",
            "looks like": kind,
            "batches": ", ".join(names) if len(names) <= 5 else f"{', '.join(names[:4])} and {len(names) - 4} more",
            "from": min(evidence[name].smallest for name in names),
            "to": max(evidence[name].largest for name in names),
            "median cell total": float(np.median([evidence[name].median_total for name in names])),
        }
        for kind, names in kinds.items()
    ]
