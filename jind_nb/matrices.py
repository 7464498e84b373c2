"""Which stored matrix (X, `.raw`, a layer) each file is read from, and the one scale all batches are brought to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from .errors import InputError
from .features import Columns, text_columns, unique
from .h5ad import few_rows, frame, input_files, matrix_of, no_column, open_h5ad, other_matrices, sparse_rows, texts
from .parameters import Parameters
from .values import LOGARITHMS, Evidence, agree, fit, recognise

# Cells of each batch looked at in the matrices that are not used.
CELLS_SURVEYED = 200
MOST_MATRICES = 8


@dataclass
class Loaded:
    """The values of one file's cells."""

    file: Path
    layer: str | None  # as LAYER names it; None: X
    matrix: sparse.csr_matrix  # float32, the file's cells that take part x all its features
    columns: Columns  # the names its features go by
    rows: dict[str, np.ndarray]  # batch -> rows of `matrix`
    evidence: dict[str, Evidence] = field(default_factory=dict)  # batch -> what its values look like


def name_of(layer: str | None) -> str:
    """What to call a matrix that LAYER names.

    >>> name_of(None), name_of(".raw"), name_of("counts")
    ('X', '.raw', "layer 'counts'")
    """
    return "X" if layer is None else layer if layer == ".raw" else f"layer {layer!r}"


def _names(h5: h5py.File, table: str, gene_col: str | None) -> Columns:
    var = frame(h5, table)
    if gene_col is None:
        return text_columns(var)
    if gene_col not in var:
        raise no_column("GENE_COL", gene_col, var, f"var of {h5.filename}")
    return {gene_col: pd.Index(texts(var[gene_col]).fillna("").astype(str))}


def _load(parameters: Parameters, cells: pd.DataFrame, number: int, layer: str | None) -> Loaded:
    """Reads one file's cells and recognises each batch.

    Raises
    ------
    InputError
        For a missing layer or column, an empty or damaged matrix, NaN or infinite values.
    """
    file = input_files(parameters)[number]
    here = cells[cells["file"] == number]
    with open_h5ad(file) as h5:
        stored, table, what = matrix_of(h5, layer)
        columns = _names(h5, table, parameters.GENE_COL)
        features = next(iter(columns.values()))
        if not len(features):
            raise InputError(f"PATH: {what} of {file} has no features (genes or peaks).")
        try:
            matrix = sparse_rows(stored, here["row"].to_numpy())
        except Exception as error:  # damaged HDF5 blocks and foreign encodings fail in many ways
            raise InputError(f"PATH: {what} of {file} cannot be read: {error}") from None
    if matrix.shape[1] != len(features):
        raise InputError(f"PATH: {what} of {file} has {matrix.shape[1]} columns but var has {len(features)} rows.")
    _check_finite(matrix, unique(features), here["cell"], f"{what} of {file}")
    in_other_files = set(cells.loc[cells["file"] != number, "batch"])
    batch = here["batch"].to_numpy()
    rows = {
        f"{name} ({file.name})" if name in in_other_files else name: np.flatnonzero(batch == name)
        for name in dict.fromkeys(batch)
    }
    return Loaded(file, layer, matrix, columns, rows, {name: recognise(matrix[of]) for name, of in rows.items()})


def _check_finite(matrix: sparse.csr_matrix, features: pd.Index, cells: pd.Series, what: str) -> None:
    wrong = np.flatnonzero(~np.isfinite(matrix.data))
    if len(wrong):
        row = int(np.searchsorted(matrix.indptr, wrong[0], side="right") - 1)
        raise InputError(
            f"{what} has {len(wrong)} NaN or infinite values, the first in cell {cells.iloc[row]!r}, feature "
            f"{features[matrix.indices[wrong[0]]]!r}. Replace them, or point LAYER to values without them."
        )


def _survey(loaded: Loaded, cells: pd.DataFrame, number: int) -> dict[str | None, dict[str, Evidence]]:
    """What the file's other matrices look like, by some cells of each batch; one that cannot be read is passed over."""
    stored_rows = cells.loc[cells["file"] == number, "row"].to_numpy()
    found: dict[str | None, dict[str, Evidence]] = {}
    with open_h5ad(loaded.file) as h5:
        others: list[str | None] = [*([None] if "X" in h5 else []), *other_matrices(h5)]
        for layer in [layer for layer in others if layer != loaded.layer][:MOST_MATRICES]:
            of_layer = {}
            for name, rows in loaded.rows.items():
                some = rows[np.linspace(0, len(rows) - 1, min(len(rows), CELLS_SURVEYED)).astype(int)]
                try:
                    matrix = few_rows(matrix_of(h5, layer)[0], stored_rows[some])
                except Exception:  # nobody asked for this matrix: what cannot be read is not offered
                    break
                if not np.isfinite(matrix.data).all():
                    break
                of_layer[name] = recognise(matrix)
            else:
                found[layer] = of_layer
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
    """Reads the values of `cells` and settles their scale; goes back to `.raw` or a layer where X is of no use.

    Parameters
    ----------
    trained
        `Plan.preprocessing` of the run that trained the saved model, if there is one.

    Raises
    ------
    InputError
        As `_load` does, or if the batches (or the model and the target) cannot be brought to one scale.
    """
    p, numbers, warnings = parameters, list(dict.fromkeys(cells["file"])), list[str]()
    loaded = [_load(p, cells, number, _first_layer(p, number, trained)) for number in numbers]
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
    with open_h5ad(input_files(parameters)[number]) as h5:
        return trained["layer"] if trained["layer"] in other_matrices(h5) else None


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
            median = _median_total_as(one.matrix[one.rows[name]], kind)
            one.evidence[name] = replace(one.evidence[name], kind=kind, because=because, median_total=median)
    if unclear and p.NORMALISATION == "auto":
        names = ", ".join(repr(name) for _, name in unclear[:10]) + (" and more" if len(unclear) > 10 else "")
        warnings.append(
            f"The values of {names} look like logarithms, but nothing tells their base; taken for {kind}. "
            "If the file has counts, point LAYER to them."
        )
    return kind


def _median_total_as(matrix: sparse.csr_matrix, kind: str) -> float:
    """The median total of a cell on the linear scale, were the values logarithms of the given kind."""
    linear = matrix.astype(np.float64)
    linear.data = np.expm1(linear.data * LOGARITHMS[kind])
    return float(np.median(np.asarray(linear.sum(axis=1)).ravel()))


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
        back.append(_load(p, cells, number, layer))
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
