"""Which layer (X, `.raw`, a layer by name) each file is read from, and the common scale of all batches."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from ..core.model_json import CommonScale, Preprocessing
from ..core.parameters import Parameters
from ..core.progress import bar
from ..core.text import listing, plural
from ..errors import InputError
from .chunks import KEPT_VALUES, Block, Blocks, read_rows
from .feature_kinds import choose_kinds, feature_kinds
from .features import NameColumns, choose_name_columns, match, name_columns, unique_names
from .h5ad import (
    embedding_key,
    features_of,
    has_part,
    input_files,
    layer_name,
    matrix_of,
    no_column,
    open_file,
    other_layers,
    texts,
)
from .integrity import Store, path_of
from .recognise import (
    CELLS_COMPARED,
    Evidence,
    alike,
    antibodies,
    cell_statistics,
    evenly_spaced,
    recognise,
    recognise_blocks,
)  # fmt: skip
from .scale import by_value_type, common_scale, scale_for_model

# Cells of each batch looked at in the layers that are not used.
CELLS_OF_OTHER_LAYERS = 200

MOST_LAYERS = 8

# `.raw` takes the place of X for so many times the common features.
MORE_FEATURES = 1.1

# A layer has a feature that so many of some cells have; and more values than X where it has so many times as many.
SEEN_IN_CELLS, MORE_VALUES = 3, 1.02

# Columns of obs with the volume of each cell, as MERSCOPE and others name them.
VOLUME_COLUMNS = ("volume", "cell_volume")

# Stored values of all cells looked at together; of hundreds of interleaved batches fewer cells are looked at.
VALUES_COMPARED = 2**26


@dataclass
class InputFile:
    """Hold where the values of one file are, for the cells that take part, and what they look like."""

    path: Path
    layer: str | None  # as LAYER names it; None: X
    blocks: Blocks
    name_columns: NameColumns  # the names its features may go by
    cells: np.ndarray  # names (n,)
    rows: dict[str, np.ndarray]  # batch -> positions of its cells among `cells`
    antibodies: str = ""  # why its features are antibodies; empty: they are not
    volumes: np.ndarray | None = None  # of the cells, float64 (n,); None: the file does not say
    evidence: dict[str, Evidence] = field(default_factory=dict)  # batch -> what its values look like
    empty: np.ndarray = field(
        default_factory=lambda: np.empty(0, dtype=bool)
    )  # of the cells, bool (n,): no value at all

    def by_block(self, values: np.ndarray) -> list[np.ndarray]:
        """Return an array (n, ...) with a row for each cell, cut into one part for each block."""
        return np.split(values, np.cumsum([len(block.rows) for block in self.blocks.blocks])[:-1])

    @property
    def is_embedding(self) -> bool:
        """Return whether the values are a matrix of obsm, which is never normalised."""
        return embedding_key(self.layer) is not None

    @property
    def value_types(self) -> set[str]:
        return {batch.value_type for batch in self.evidence.values()}


# What is called with the stored values of each block while they are recognised; none if nothing is done with them.
Meanwhile = Callable[[InputFile], Sequence[Callable[[sparse.csr_matrix], None]]]

OtherLayers = dict[str | None, dict[str, Evidence]]  # layer -> batch -> what its values look like


@dataclass
class ChosenLayers:
    """Hold what was read, and the common scale."""

    files: list[InputFile]
    scale: CommonScale
    table: list[dict[str, Any]]  # what every layer of every file looks like
    warnings: list[str]
    notes: list[str]


def choose_layers(
    parameters: Parameters,
    cells: pd.DataFrame,
    trained: Preprocessing | None,
    model_features: Sequence[str] = (),
    meanwhile: Meanwhile | None = None,
) -> ChosenLayers:
    """Read the values of `cells` once and choose the layers and the common scale.

    Parameters
    ----------
    cells
        Of `read_cells`, the cells that take part.
    trained, model_features
        The preprocessing and the features of a saved model.
    meanwhile
        Of `Ahead.begin`.

    Raises
    ------
    InputError
        For a missing layer or column; for empty or damaged layers; for NaN or infinite values; or if the batches (or the
        model and the target) cannot be brought to one scale.

    Notes
    -----
    Without LAYER and NORMALISATION, `.raw` or a layer takes the place of an X that cannot be brought to one scale.
    """
    numbers, warnings = list(dict.fromkeys(cells["file"])), list[str]()
    layers = {n: _layer_to_try(parameters, n, trained) for n in numbers}
    kinds, notes = choose_kinds(parameters, cells, layers, model_features)
    files = [_input_file(parameters, cells, n, layers[n], kinds) for n in numbers]
    _recognise_files(parameters, files, meanwhile=meanwhile)
    warnings += _use_raw_for_features(parameters, cells, files, kinds, model_features)
    others = [_recognise_other_layers(file, cells, n, kinds) for file, n in zip(files, numbers, strict=True)]
    all_layers = [{file.layer: file.evidence} | other for file, other in zip(files, others, strict=True)]
    warnings += _use_layer_for_features(parameters, cells, files, others, kinds)
    try:
        scale = _common_scale(parameters, files, trained, warnings)
    except InputError as reason:
        warnings += _use_other_layers(parameters, cells, files, others, kinds)
        try:
            scale = _common_scale(parameters, files, trained, warnings)
        except InputError:
            raise reason from None
    panel = scale.kinds == ["panel"]  # of the model, if there is one: a few cells of a panel may look like anything
    is_embedding = any(file.is_embedding for file in files)
    if is_embedding:
        notes.append(
            f"{layer_name(files[0].layer)} is used as it is: its columns are the features. Whether all cells lie in one "
            "space cannot be seen here."
        )
    elif scale.values == "as they are" and parameters.NORMALISATION == "auto" and not panel:
        warnings.append(_unknown_scale_warning(files, others))
    table = [
        row
        for file, layers in zip(files, all_layers, strict=True)
        for layer, evidence in layers.items()
        for row in _layer_rows(file, layer, evidence, several=len(files) > 1)
    ]
    return ChosenLayers(files, scale, table, warnings, notes)


def _use_raw_for_features(
    p: Parameters, cells: pd.DataFrame, files: list[InputFile], kinds: Sequence[str], model_features: Sequence[str]
) -> list[str]:
    """Put `.raw` of all files that have it in the place of X, if a tenth more features are then common; return warnings.

    Nothing is replaced if the user chose LAYER or NORMALISATION.
    """
    numbers = list(dict.fromkeys(cells["file"]))
    if p.LAYER is not None or p.NORMALISATION != "auto" or (len(files) < 2 and not model_features):
        return []
    with_raw = {i: _input_file(p, cells, numbers[i], ".raw", kinds) for i, file in enumerate(files) if _has_raw(file)}
    in_raw = [with_raw.get(i, file) for i, file in enumerate(files)]
    now, then = (_n_common(some, model_features) for some in (files, in_raw))
    if not with_raw or then <= MORE_FEATURES * now:
        return []
    earlier = [file for i, file in enumerate(files) if i not in with_raw]
    _recognise_files(p, list(with_raw.values()), earlier)
    if not all(_can_be_normalised(file.evidence) for file in with_raw.values()):
        return []
    for i, file in with_raw.items():
        files[i] = file
    names = listing((file.path.name for file in with_raw.values()), 5, quoted=False)
    what = "the model's features" if model_features else "features are common to all files"
    return [
        f".raw of {names} is used instead of X: {then:,} of {what} there, {now:,} in X. Set LAYER to choose another."
        if model_features
        else f".raw of {names} is used instead of X: with it {then:,} {what}, with X {now:,}. Set LAYER to choose another."
    ]


def _use_layer_for_features(
    p: Parameters, cells: pd.DataFrame, files: list[InputFile], others: list[OtherLayers], kinds: Sequence[str]
) -> list[str]:
    """Put a layer of counts in the place of an X that is zero throughout a batch for a tenth of what the layer has; return
    warnings.

    Nothing is replaced if the user chose LAYER or NORMALISATION.
    """
    if p.LAYER is not None or p.NORMALISATION != "auto":
        return []
    numbers, warnings = list(dict.fromkeys(cells["file"])), list[str]()
    for i, file in enumerate(files):
        counts = [layer for layer, of in others[i].items() if {batch.value_type for batch in of.values()} == {"counts"}]
        # In most files X and the layer have values at the same places, which is seen without reading more.
        fuller = [layer for layer in counts if layer is not None and _has_more_values(others[i][layer], file.evidence)]
        for layer in fuller if file.layer is None else ():
            for name in file.rows:
                some = cells.loc[(cells["file"] == numbers[i]) & (cells["batch"] == name), "row"].to_numpy()
                in_x, in_layer = _n_features_seen(
                    file, layer, some[evenly_spaced(len(some), CELLS_OF_OTHER_LAYERS)], kinds
                )
                if in_layer > MORE_FEATURES * in_x:
                    files[i] = _input_file(p, cells, numbers[i], layer, kinds)
                    _recognise_files(p, [files[i]], files[:i] + files[i + 1 :])
                    warnings.append(
                        f"{layer_name(layer)} of {file.path.name} is used instead of X: in {name!r} it has values of "
                        f"{in_layer:,} features, of which X has {in_x:,}. Set LAYER to choose another."
                    )
                    break
            if files[i] is not file:
                break
    return warnings


def _has_more_values(layer: Mapping[str, Evidence], of_x: Mapping[str, Evidence]) -> bool:
    return any(layer[name].stored > MORE_VALUES * of_x[name].stored for name in layer)


def _n_features_seen(file: InputFile, layer: str, rows: np.ndarray, kinds: Sequence[str]) -> tuple[int, int]:
    """Return how many features that a layer has in some cells X has in any of them, and how many that are; 0 of 0 where the
    layer (`.raw`) has other features."""
    with open_file(file.path) as store:
        found = []
        for one in (None, layer):
            path, table, _ = matrix_of(store, one)
            matrix = read_rows(store, path, rows)
            kept = np.isin(feature_kinds(store, table), kinds) if kinds else np.ones(matrix.shape[1], dtype=bool)
            found.append(np.bincount(matrix.indices, minlength=matrix.shape[1])[kept])
    if len(found[0]) != len(found[1]):
        return 0, 0
    there = found[1] >= SEEN_IN_CELLS
    return int((there & (found[0] > 0)).sum()), int(there.sum())


def _has_raw(file: InputFile) -> bool:
    with open_file(file.path) as store:
        return file.layer is None and ".raw" in other_layers(store)


def _n_common(files: Sequence[InputFile], model_features: Sequence[str]) -> int:
    """Return how many features all files have, or of a model's features how many."""
    given = [{"": pd.Index(model_features)}] if model_features else []
    columns = [*given, *(file.name_columns for file in files)]
    chosen = [
        of_file[name] for of_file, name in zip(columns, choose_name_columns(columns, given=bool(given)), strict=True)
    ]
    common = chosen[0]
    for other in chosen[1:]:
        common = common[match(common, other)[0] >= 0]
    return len(common)


def _layer_to_try(parameters: Parameters, number: int, trained: Preprocessing | None) -> str | None:
    """Return LAYER; without it, the layer that the model was trained on, if the file has it."""
    if parameters.LAYER is not None or trained is None or trained.layer is None:
        return parameters.LAYER
    if embedding_key(trained.layer) is not None:
        return trained.layer  # nothing else lies in the model's space
    with open_file(input_files(parameters)[number]) as store:
        return trained.layer if trained.layer in other_layers(store) else None


# --- the files' values -----------------------------------------------------------------------------------------------


def _input_file(
    parameters: Parameters, cells: pd.DataFrame, number: int, layer: str | None, kinds: Sequence[str] = ()
) -> InputFile:
    """Return where the values of one file are; reads none.

    Parameters
    ----------
    kinds
        The kinds of features to use; empty: all.

    Raises
    ------
    InputError
        For a missing layer or column, an empty or damaged layer.
    """
    path = input_files(parameters)[number]
    here = cells[cells["file"] == number]
    with open_file(path) as store:
        in_store, table, what = matrix_of(store, layer)
        columns = _read_name_columns(store, table, None if embedding_key(layer) is not None else parameters.GENE_COL)
        said = feature_kinds(store, table)
        kept = np.flatnonzero(np.isin(said, kinds)) if kinds else None
        if kept is not None:
            said, columns = said[kept], {name: column[kept] for name, column in columns.items()}
        features = next(iter(columns.values()))
        if not len(features):
            raise InputError(f"PATH: {what} of {path} has no features (genes or peaks).")
        blocks = Blocks.from_store(store, in_store, what, here["row"].to_numpy(), kept)
        volumes = _volumes(store, here["row"].to_numpy())
    in_other_files = set(cells.loc[cells["file"] != number, "batch"])
    batch = here["batch"].to_numpy()
    rows = {
        f"{name} ({path.name})" if name in in_other_files else name: np.flatnonzero(batch == name)
        for name in dict.fromkeys(batch)
    }
    kinds_said = pd.Series(said)
    # By the names, if they say it already; `feature_types` may also say that they are none.
    why = next((antibodies(n) or antibodies(n, kinds_said) for n in columns.values() if antibodies(n, kinds_said)), "")
    return InputFile(path, layer, blocks, columns, here["cell"].to_numpy(), rows, why, volumes)


def _volumes(store: Store, rows: np.ndarray) -> np.ndarray | None:
    """Return the volumes of some cells, float64 (n,); None if there is no such column, or one is missing or not above 0."""
    obs: Any = store["obs"]
    name = next((name for name in VOLUME_COLUMNS if name in obs), None)
    if name is None:
        return None
    column = pd.Series(ad.io.read_elem(obs[name])).astype(object)
    volumes = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)[rows]
    return volumes if len(volumes) and (volumes > 0).all() and np.isfinite(volumes).all() else None


def _read_name_columns(store: Store, table: str, gene_col: str | None) -> NameColumns:
    var = features_of(store, table)
    if gene_col is None:
        return name_columns(var)
    if gene_col not in var:
        raise no_column("GENE_COL", gene_col, var, f"var of {path_of(store)}")
    return {gene_col: pd.Index(texts(var[gene_col]).fillna("").astype(str))}


def _recognise_files(
    parameters: Parameters,
    files: list[InputFile],
    earlier: Sequence[InputFile] = (),
    meanwhile: Meanwhile | None = None,
) -> None:
    """Read the values of some files for the first time and recognise each batch.

    Values are kept in memory from then on, if all files together have few; `earlier` were read before.
    """
    in_memory = [*files, *(file for file in earlier if file.blocks.keeps)]
    keep = sum(file.blocks.n_values for file in in_memory) <= KEPT_VALUES
    folder = Path(parameters.OUTPUT_PATH)
    for file in files:
        file.blocks.ready(folder if folder.is_dir() else Path(tempfile.gettempdir()), keep=keep)
        _recognise_batches(file, () if meanwhile is None else meanwhile(file))


def _recognise_batches(file: InputFile, meanwhile: Sequence[Callable[[sparse.csr_matrix], None]]) -> None:
    per_cell = max(1, file.blocks.n_values // max(1, file.blocks.shape[0]))
    most = int(np.clip(VALUES_COMPARED // (per_cell * len(file.rows)), CELLS_OF_OTHER_LAYERS, CELLS_COMPARED))
    compared = {name: rows[evenly_spaced(len(rows), most)] for name, rows in file.rows.items()}
    is_compared = np.zeros(len(file.cells), dtype=bool)
    is_compared[np.concatenate(list(compared.values()))] = True
    uses: list[Callable[[sparse.csr_matrix], None] | None] = [*meanwhile] or [None for _ in file.blocks.blocks]
    summaries = file.blocks.each(_block_summary, zip(file.by_block(is_compared), uses, strict=True))
    found = list(bar(summaries, f"reading {file.path.name}", "block", len(file.blocks.blocks)))
    statistics = np.concatenate([of_block for of_block, _ in found])
    _check_finite(statistics, file)
    file.empty = statistics["stored"] == 0
    matrix = sparse.vstack([values for _, values in found], format="csr")
    del found
    place = np.cumsum(is_compared) - 1
    found_in = {
        name: recognise_blocks(statistics[rows], matrix[place[compared[name]]], file.antibodies)
        for name, rows in file.rows.items()
    }
    together = alike(found_in, {name: len(rows) for name, rows in file.rows.items()})
    file.evidence = {name: replace(of, has_volume=file.volumes is not None) for name, of in together.items()}
    if file.is_embedding:
        why = "LAYER names a matrix of obsm"
        for name, of in file.evidence.items():
            file.evidence[name] = replace(of, value_type="embedding", because=why, clear=True)


def _block_summary(
    block: Block, argument: tuple[np.ndarray, Callable[[sparse.csr_matrix], None] | None]
) -> tuple[np.ndarray, sparse.csr_matrix]:
    """Return the statistics of all cells, and the values of the cells that are compared with each other; do meanwhile with the
    values what is to be done."""
    is_compared, use = argument
    if use is not None:
        with suppress(InputError):  # of damage that `values_and_some` does not see: told when these values are needed
            matrix = block.matrix()
            summary = cell_statistics(matrix.indptr, matrix.data), matrix[is_compared]
            use(matrix)
            return summary
    indptr, data, some = block.values_and_some(is_compared)
    return cell_statistics(indptr, data), some


def _check_finite(statistics: np.ndarray, file: InputFile) -> None:
    wrong = [~np.isfinite(totals) for totals in file.by_block(statistics["total"])]
    for block, cells, is_wrong in zip(file.blocks.blocks, file.by_block(file.cells), wrong, strict=True):
        if is_wrong.any():
            first = block.matrix()[np.argmax(is_wrong)]
            feature = first.indices[np.argmin(np.isfinite(first.data))]
            name = unique_names(next(iter(file.name_columns.values())))[feature]
            raise InputError(
                f"{file.blocks.what} has NaN or infinite values in {plural(sum(map(np.sum, wrong)), 'cell')}, the first in "
                f"cell {cells[np.argmax(is_wrong)]!r}, feature {name!r}. Replace them, or point LAYER to others."
            )


def _recognise_other_layers(file: InputFile, cells: pd.DataFrame, number: int, kinds: Sequence[str]) -> OtherLayers:
    """Return what the file's other layers look like, by some cells of each batch; unreadable layers are passed over."""
    stored_rows = cells.loc[cells["file"] == number, "row"].to_numpy()
    some = {name: rows[evenly_spaced(len(rows), CELLS_OF_OTHER_LAYERS)] for name, rows in file.rows.items()}
    positions = np.sort(np.concatenate(list(some.values())))
    found: OtherLayers = {}
    with open_file(file.path) as store:
        others: list[str | None] = [*([None] if has_part(store, "X") else []), *other_layers(store)]
        for layer in [layer for layer in others if layer != file.layer][:MOST_LAYERS]:
            with suppress(Exception):  # nobody asked for this layer: what cannot be read is not offered
                in_store, table, _ = matrix_of(store, layer)
                matrix = read_rows(store, in_store, stored_rows[positions])
                if kinds:
                    matrix = matrix[:, np.isin(feature_kinds(store, table), kinds)]
                places = {name: np.searchsorted(positions, rows) for name, rows in some.items()}
                if np.isfinite(matrix.data).all():
                    of_layer = {name: recognise(matrix[rows], file.antibodies) for name, rows in places.items()}
                    found[layer] = alike(of_layer, {name: len(rows) for name, rows in places.items()})
    return found


# --- the common scale ------------------------------------------------------------------------------------------------


def _common_scale(
    p: Parameters, files: list[InputFile], trained: Preprocessing | None, warnings: list[str]
) -> CommonScale:
    normalisation = p.NORMALISATION
    if any(file.is_embedding for file in files):
        _check_embeddings(p, files, trained)
        normalisation = "as_is"
    unclear = _resolve_unclear_logarithms(p, files, trained, warnings)
    evidence = {name: batch for file in files for name, batch in file.evidence.items()}
    if trained is None:
        return common_scale(evidence, normalisation, unclear)
    found = [scale_for_model(name, batch, normalisation, trained) for name, batch in evidence.items()]
    scales = [scale for scale, _ in found]
    warnings += [warning for _, of_batch in found for warning in of_batch]
    chosen = next((scale for scale in scales if scale.rescaled), scales[0])
    if any(scale.normalisation != chosen.normalisation for scale in scales):
        return replace(chosen, normalisation="auto")  # batches of different value types: each is normalised by its own
    return chosen


def _check_embeddings(p: Parameters, files: list[InputFile], trained: Preprocessing | None) -> None:
    """Check that an embedding is asked for as it is, and has the same dimensions in all files and the saved model.

    Raises
    ------
    InputError
        If not.
    """
    if p.NORMALISATION not in ("auto", "as_is"):
        raise InputError(f"NORMALISATION: an embedding ({p.LAYER}) is never normalised; leave NORMALISATION out.")
    of_model = None if trained is None else trained.totals_over
    if trained is not None and embedding_key(trained.layer) is None:
        raise InputError(f"LAYER: the model was trained on {layer_name(trained.layer)}, and not on an embedding.")
    dimensions = {file.path.name: file.blocks.shape[1] for file in files}
    dimensions |= {} if of_model is None else {"the model": len(of_model)}
    if len(set(dimensions.values())) > 1:
        found = ", ".join(f"{n} in {where}" for where, n in dimensions.items())
        what = f"{files[0].blocks.what.split(' of ')[0]} has not the same number of columns everywhere ({found})"
        raise InputError(f"LAYER: {what}; compute one embedding of all cells together.")


def _resolve_unclear_logarithms(
    p: Parameters, files: list[InputFile], trained: Preprocessing | None, warnings: list[str]
) -> str:
    """Give logarithms of an unknown base the base of the other batches, or of the model; return the value type."""
    logarithms = [(file, name, b) for file in files for name, b in file.evidence.items() if b.is_logarithm]
    clear = {batch.value_type for *_, batch in logarithms if batch.clear}
    unclear = [(file, name, batch) for file, name, batch in logarithms if not batch.clear]
    value_type = trained.unclear if trained is not None else clear.pop() if len(clear) == 1 else "log1p"
    if value_type != "log1p":
        for file, name, batch in unclear:
            because, median = f"{batch.because}; read like the other batches", batch.medians[value_type]
            file.evidence[name] = replace(batch, value_type=value_type, because=because, median_total=median)
    if unclear and p.NORMALISATION == "auto":
        warnings.append(
            f"The values of {listing((name for _, name, _ in unclear), 10)} look like logarithms, but nothing tells their "
            f"base; they are read as {value_type}. If the file has counts, point LAYER to them; if this is cytometry, set "
            "NORMALISATION to panel."
        )
    return value_type


def _can_be_normalised(evidence: Mapping[str, Evidence]) -> bool:
    return all(batch.is_linear or batch.is_logarithm or batch.value_type == "panel" for batch in evidence.values())


def _best_layer(others: OtherLayers) -> str | None:
    """Return the layer to use instead: counts before other linear scales before logarithms. None: there is none."""

    def rank(layer: str | None) -> int:
        value_types = {batch.value_type for batch in others[layer].values()}
        return 0 if value_types == {"counts"} else 1 if value_types <= {"counts", "linear"} else 2

    usable = [layer for layer, evidence in others.items() if layer is not None and _can_be_normalised(evidence)]
    return min(usable, key=rank, default=None)


def _use_other_layers(
    p: Parameters, cells: pd.DataFrame, files: list[InputFile], others: list[OtherLayers], kinds: Sequence[str]
) -> list[str]:
    """Put into `files` what `.raw` or another layer holds where X cannot be brought to one scale; return warnings.

    Nothing is replaced if a file has no such layer, or the user chose LAYER or NORMALISATION.
    """
    layers = {i: _best_layer(others[i]) for i, file in enumerate(files) if not _can_be_normalised(file.evidence)}
    if None in layers.values() or p.LAYER is not None or p.NORMALISATION != "auto":
        return []
    numbers, warnings = list(dict.fromkeys(cells["file"])), list[str]()
    for i, layer in layers.items():
        file = files[i]
        files[i] = _input_file(p, cells, numbers[i], layer, kinds)
        _recognise_files(p, [files[i]], files[:i] + files[i + 1 :])
        warnings.append(
            f"{layer_name(file.layer)} of {file.path.name} is {', '.join(sorted(file.value_types))}, which cannot be "
            f"brought to one scale; {layer_name(layer)} ({', '.join(sorted(files[i].value_types))}) is used instead. Set "
            "LAYER to choose another."
        )
    return warnings


def _unknown_scale_warning(files: list[InputFile], others: list[OtherLayers]) -> str:
    value_types = sorted(set().union(*(file.value_types for file in files)))
    better = [layer for other in others if (layer := _best_layer(other)) is not None]
    advice = "Counts are better, if there are any: add them as a layer and name it in LAYER."
    if len(better) == len(others):
        advice = f"{layer_name(better[0])} holds values of a known scale; set LAYER: {better[0]} to use them."
    return (
        f"The values are {' and '.join(value_types)} in every batch, a scale that we cannot normalise. They are used as "
        f"they are, which is right only if all batches were prepared together. {advice}"
    )


def _layer_rows(
    file: InputFile, layer: str | None, evidence: Mapping[str, Evidence], *, several: bool
) -> list[dict[str, Any]]:
    """Return a row of the table for each value type that a layer holds."""
    return [
        {
            "matrix": f"{layer_name(layer)} of {file.path.name}" if several else layer_name(layer),
            "used": "yes" if layer == file.layer else "",
            "value type": value_type,
            "batches": listing(batches, 5, quoted=False),
            "from": min(batch.smallest for batch in batches.values()),
            "to": max(batch.largest for batch in batches.values()),
            "median cell total": float(np.median([batch.median_total for batch in batches.values()])),
        }
        for value_type, batches in by_value_type(evidence).items()
    ]
