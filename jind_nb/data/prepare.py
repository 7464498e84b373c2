"""From the user's files to one prepared AnnData.

    cells = read_cells(parameters)          # one row for each cell: file, row, name, batch, cell type
    plan = make_plan(parameters, cells)     # which batches are used for training, which is annotated, which are left out
    prepared = prepare(parameters, cells, plan)

Only `read_target_labels`, which evaluation calls, ever reads the target's labels.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from ..core.methods import DATA_RULES
from ..core.model_json import CommonScale, Preprocessing, features_digest, read_model_json
from ..core.parameters import Parameters
from ..core.text import listing, percent, plural
from ..core.threads import map_ahead
from ..errors import InputError
from . import features, gene_tables, totals
from .ahead import CELLS_TO_GUESS_BY, Ahead, Guess
from .chunks import uncopied_warnings
from .h5ad import input_files
from .layers import ChosenLayers, InputFile, Meanwhile, choose_layers
from .plan import Plan
from .scale import describe_normalisation, scale_of_counts
from .variable_features import (
    MeanVariance,
    NormalisedFiles,
    highly_variable,
    mean_variance,
    read_features,
    read_features_in_blocks,
)

Result = TypeVar("Result")

# The median cell of a target is poor if it has values of so small a share of the features that those of annotated batches have, the
# poorest of them (the lowest of 78 real targets has 0.44). A part of its cells is told of from MANY_POOR on, by what is usual in the
# target too (none of 69 real targets has as many). Of fewer than ENOUGH_CELLS nothing is said.
POOR, MANY_POOR, ENOUGH_CELLS = 0.4, 0.2, 10

TRANSLATED = "(translated)"  # in place of a column of var


@dataclass
class Selection:
    """Hold what is to be read, once the features are selected."""

    cells: pd.DataFrame  # those that train, and the target's
    used: np.ndarray  # bool: which cells of all files these are
    values: NormalisedFiles
    var: pd.DataFrame  # the features, and their `variance`
    columns: np.ndarray  # positions of the features
    markers: dict[str, int]  # name -> position of each of MARKERS that the data have
    empty: np.ndarray  # bool, of `cells`: those without any value


@dataclass(frozen=True)
class PreparedFile(Generic[Result]):
    """One file's values as `prepare` gives them, read when they are asked for; no more is ever held than a few blocks of cells."""

    path: str  # where in the file the values are
    features: pd.Index
    selection: Selection
    function: Callable[[sparse.csr_matrix], Result]  # of a block's values (n_block, p)
    found: list[Result]  # what that gave already, while the values were recognised; empty: nothing

    def results(self) -> Iterator[Result]:
        """Yield once what the function gives for each of the `blocks`."""
        found = self.found.copy()
        self.found.clear()
        yield from found or map_ahead(self.function, self.blocks())

    def blocks(self) -> Iterator[sparse.csr_matrix]:
        """Yield the values of all cells, float32 (n_block, p), some cells at a time, in their order; none is kept in memory then."""
        yield from self._read(self.selection.used)
        for file in self.selection.values.files:
            file.blocks.release()

    def some(self, rows: np.ndarray) -> sparse.csr_matrix:
        """Return the values of some cells, float32 (n_chosen, p); blocks without any of them are not read.

        Parameters
        ----------
        rows
            Positions among the cells, int (n_chosen,), ascending.
        """
        wanted = np.zeros(len(self.selection.used), dtype=bool)
        wanted[rows] = True
        return sparse.vstack([sparse.csr_matrix((0, len(self.features)), dtype=np.float32), *self._read(wanted)], "csr")

    def _read(self, wanted: np.ndarray) -> Iterator[sparse.csr_matrix]:
        read = read_features_in_blocks(self.selection.values, wanted, (self.selection.columns,))
        return (x for (x,) in read)


def prepare(parameters: Parameters, cells: pd.DataFrame, plan: Plan) -> ad.AnnData:
    """Read, normalise and select: return the values that training and alignment use, and complete the plan.

    Returns
    -------
    AnnData. Its rows are the cells that train and the target's, in the input's order; `X` float32 CSR, features sorted by
    name; `obs`: `cell`, `file`, `row`, `batch`, `cell_type` (missing for the target); `var`: `variance` over all cells
    of the batches that take part (float32; NaN with a saved model). With MARKERS: `obsm["markers"]`, float32 CSR, the
    values of those the file has, selected or not, and `uns["markers"]`, their names as MARKERS gives them.

    Raises
    ------
    InputError
        If the values cannot be read or brought to one scale, or a batch has under 20 % of the features.

    Notes
    -----
    Files are read in blocks of rows: once to check them and recognise their values, once for the variances of the
    features (with METHOD `default` twice, first for the cells' counts), once for the values of the selected features, which alone are ever held (files with
    few values are held whole). If this process has a Dask client, or DASK_SCHEDULER_ADDRESS names a scheduler, its workers read the blocks of
    a large file; the result is the same.

    With PRETRAINED_MODEL_PATH the features are the model's; one that the file lacks is zero in all cells.
    """
    selection = _select(parameters, cells, plan)
    files = input_files(parameters)
    for number in sorted(set(cells.loc[cells["batch"].isin(plan.targets), "file"])):
        plan.warnings += uncopied_warnings(files[number])
    wanted = (selection.columns, np.array(list(selection.markers.values()), dtype=int))
    x, *of_markers = read_features(selection.values, selection.used, wanted[: 2 if selection.markers else 1])
    if parameters.PRETRAINED_MODEL_PATH is not None:  # its features have the order of the run that trained it
        x.sort_indices()
    x, of_markers = _without_empty(selection, cells, plan, x, of_markers)
    seen, batch = np.diff(x.indptr), selection.cells["batch"].to_numpy()
    of_targets = np.isin(batch, plan.targets)
    _describe_annotated(seen, batch, plan)
    plan.warnings += poor_cells_warnings(seen[of_targets], batch[of_targets], plan)
    obs = selection.cells[["cell", "file", "row", "batch", "cell_type"]].copy()
    obs.index = pd.RangeIndex(len(obs)).astype(str)
    obs["batch"] = pd.Categorical(obs["batch"], categories=[*plan.annotated, *plan.targets])
    obs["cell_type"] = pd.Categorical(obs["cell_type"], categories=plan.classes)
    prepared = ad.AnnData(x, obs=obs, var=selection.var)
    if selection.markers:
        prepared.obsm["markers"] = of_markers[0]
        prepared.uns["markers"] = list(selection.markers)
    return prepared


def _without_empty(
    selection: Selection, cells: pd.DataFrame, plan: Plan, x: sparse.csr_matrix, others: list[sparse.csr_matrix]
) -> tuple[sparse.csr_matrix, list[sparse.csr_matrix]]:
    """Leave annotated cells out of the training that have no value at all; count those of the target.

    Of the target, cells without a value in any selected feature count too: `model.target.reject_strange` rejects them. The
    plan and the column `trains` of `cells` say what is left.
    """
    of_target = selection.cells["batch"].isin(plan.targets).to_numpy()
    empty = np.where(of_target, np.diff(x.indptr) == 0, selection.empty)
    if not empty.any():
        return x, others
    dropped = selection.cells[empty & ~of_target]
    parts = [(len(dropped), "of the annotated batches, which do not train")]
    parts += [(int((empty & of_target).sum()), f"of {listing(plan.targets, 5)}, which stay Unassigned")]
    told = " and ".join(f"{n:,} {whose}" for n, whose in parts if n)
    plan.warnings.append(
        f"{int(empty.sum()):,} cells are empty, without any value in the features that are used: {told}."
    )
    if not len(dropped):
        return x, others
    keys = pd.MultiIndex.from_frame(cells[["file", "row"]])
    cells.loc[keys.isin(pd.MultiIndex.from_frame(dropped[["file", "row"]])), "trains"] = False
    selection.cells = selection.cells[~(empty & ~of_target)]
    _recount(selection.cells, plan)
    keep = np.flatnonzero(~(empty & ~of_target))
    return x[keep], [other[keep] for other in others]


def _describe_annotated(seen: np.ndarray, batch: np.ndarray, plan: Plan) -> None:
    """Enter into the plan how many features annotated cells have values of; the parameters are those of `poor_cells_warnings`."""
    assert plan.preprocessing is not None
    if plan.annotated and plan.preprocessing.features_a_cell is None:
        fewest = min(float(np.median(seen[batch == name])) for name in plan.annotated)
        plan.preprocessing = replace(plan.preprocessing, features_a_cell=fewest)


def poor_cells_warnings(seen: np.ndarray, batch: np.ndarray, plan: Plan) -> list[str]:
    """Return a warning for each batch whose median cell, or a fifth of whose cells, has values of so few features that types are
    easily confused.

    Parameters
    ----------
    seen, batch
        How many of the features each cell has a value of, int (n,), and its batch, text (n,).
    plan
        As `prepare` or `prepare_in_blocks` completed it.
    """
    assert plan.preprocessing is not None
    if (usual := plan.preprocessing.features_a_cell) is None:
        return []
    usual *= 1 - plan.features.get("missing", 0) / plan.features["kept"]
    warnings = []
    for name in dict.fromkeys(batch):
        of_batch = seen[(batch == name) & (seen > 0)]  # cells without any are told of elsewhere
        if len(of_batch) < ENOUGH_CELLS:
            continue
        median = np.median(of_batch)
        n_poor = int((of_batch < POOR * min(usual, median)).sum())
        if median < POOR * usual:
            warnings.append(
                f"The cells of {name!r} are poor: the median cell has values of {median:,.0f} of the {plan.features['kept']:,} features; in "
                f"annotated batches it has {usual:,.0f} or more, and {(of_batch < POOR * usual).sum():,} of {len(of_batch):,} cells have less "
                f"than {percent(POOR)} of that. More labels may be wrong than the confidences say. Check how the file was made: depth of "
                "sequencing, filters of cells, LAYER."
            )
        elif n_poor >= MANY_POOR * len(of_batch):
            warnings.append(
                f"{n_poor:,} of the {len(of_batch):,} cells of {name!r} are poor: they have values of less than {POOR * min(usual, median):,.0f} "
                f"of the {plan.features['kept']:,} features; its median cell has {median:,.0f}, that of annotated batches {usual:,.0f} or more. "
                "More of their labels may be wrong than the confidences say. Check how the file was made: does it need a filter of cells?"
            )
    return warnings


def _recount(cells: pd.DataFrame, plan: Plan) -> None:
    """Enter into the plan how many cells of each type train.

    Raises
    ------
    InputError
        If fewer than two cell types are left.
    """
    for name in list(plan.annotated):
        counts = cells.loc[cells["batch"] == name, "cell_type"].value_counts().sort_index()
        plan.cells[name] = {str(cell_type): int(n) for cell_type, n in counts.items() if n}
        if not plan.cells[name]:
            plan.annotated.remove(name)
            del plan.cells[name]
            plan.left_out[name] = "all of its labelled cells are empty"
    classes = sorted(set().union(*plan.cells.values()))
    plan.dropped = sorted({*plan.dropped, *(set(plan.classes) - set(classes))})
    if plan.annotated and len(classes) >= 2 and plan.source in (None, *plan.annotated):
        plan.classes = classes
        return
    raise InputError(
        f"PATH: without empty cells {len(classes)} cell types in {len(plan.annotated)} annotated batches are left, and "
        "SOURCE_DATASET_NAME must be one of them; at least two types are needed. Check LAYER, or which features the files share."
    )


def prepare_in_blocks(
    parameters: Parameters,
    cells: pd.DataFrame,
    plan: Plan,
    function: Callable[[sparse.csr_matrix], Result],
) -> PreparedFile[Result]:
    """Complete the plan as `prepare` does, of one file of which all cells are the target's, and return what reads its values.

    Parameters
    ----------
    function
        Of a block's values (n_block, p), which `PreparedFile.results` is asked for. It is called while a large file is read to
        recognise its values, if the first cells tell what they will be.
    """
    planned = deepcopy(plan)

    def guess() -> Guess:
        of_first = _select(parameters, cells.iloc[:CELLS_TO_GUESS_BY], planned)
        return Guess(of_first.values, of_first.columns)

    ahead = Ahead(guess, function)
    selection = _select(parameters, cells, plan, ahead.begin)
    (file,) = selection.values.files
    found = ahead.results(Guess(selection.values, selection.columns), selection.used)
    return PreparedFile(file.blocks.path, selection.var.index, selection, function, found)


def _select(parameters: Parameters, cells: pd.DataFrame, plan: Plan, meanwhile: Meanwhile | None = None) -> Selection:
    """Read the values once or twice, enter what they are into the plan, and select features."""
    cells = cells[cells["batch"].isin([*plan.annotated, *plan.targets])].reset_index(drop=True)
    model, trained = None, None
    if parameters.PRETRAINED_MODEL_PATH is not None:
        model = read_model_json(Path(parameters.PRETRAINED_MODEL_PATH))
        trained = Preprocessing(**model["preprocessing"])
        plan.classes = model["classes"]
        if not plan.parents:
            plan.parents, plan.coarser = model.get("parents", {}), model.get("coarser", [])
        plan.ontology = model.get("ontology", {}) | plan.ontology
    chosen = choose_layers(parameters, cells, trained, model["features"] if model else (), meanwhile)
    plan.notes += chosen.notes
    plan.warnings += chosen.warnings
    plan.matrices = chosen.table
    kinds = {of_batch.value_type for file in chosen.files for of_batch in file.evidence.values()}
    are_different = chosen.scale.rescaled and (len(kinds) > 1 or (model is None and not kinds <= {"counts", "linear"}))
    if parameters.DOUBLETS:
        _check_doublets(chosen.scale)
    in_files, gene_cols = _feature_names(chosen.files, model["features"] if model else None, plan, parameters.GENE_COL)
    totals_over = _totals_over(parameters, chosen, in_files, plan, trained)
    names = in_files[0] if totals_over is None else totals_over
    columns = [None if totals_over is None else features.match(totals_over, index)[0] for index in in_files]
    counted = None
    if model is not None and trained is not None:
        plan.warnings += totals.unknown_warnings(trained, chosen.scale, model["features"], names)
        if totals_over is not None and trained.features_sha256 is not None and len(in_files) == 1:
            evidence = chosen.files[0].evidence.values()
            found_in = totals.beside_others(totals_over, in_files[0], chosen.scale, evidence)
            names, columns, counted, chosen.scale = found_in.names, [found_in.columns], found_in.counted, found_in.scale
    values = NormalisedFiles(chosen.files, chosen.scale, columns, counted)
    used = (cells["trains"] | cells["batch"].isin(plan.targets)).to_numpy()
    found = None
    if model is None:
        batch = cells["batch"].to_numpy()
        types = cells["cell_type"].astype(object).where(cells["trains"], "").to_numpy()
        found = mean_variance(values, batch, types)
        # Where zero is a value like any other, it does not mean that a feature was not measured.
        measured = chosen.scale.values == "as they are" or _measured(parameters, found, names, cells, plan)
        if not np.all(measured):  # a cell's total is over what all batches have
            totals_over = names = names[measured]
            columns = [features.match(names, index)[0] for index in in_files]
            values = NormalisedFiles(chosen.files, chosen.scale, columns)
            found = mean_variance(values, batch)
        if DATA_RULES[parameters.METHOD].rescales_to_median:
            of_annotated = {name: found.counts[name] for name in plan.annotated if name in found.counts}
            scale = scale_of_counts(chosen.scale, of_annotated)
            if scale != chosen.scale:
                chosen.scale = scale
                values = NormalisedFiles(chosen.files, chosen.scale, columns)
                found = mean_variance(values, batch)
    _describe_values(chosen, plan, are_different=are_different)
    markers = _marker_columns(parameters, names, chosen.files[0], in_files[0], plan)
    if found is not None:
        # A file to annotate later will be like the target's, where the files differ.
        of_target = next((i for i, file in enumerate(chosen.files) if set(plan.targets) & set(file.rows)), 0)
        plan.preprocessing = Preprocessing(
            **asdict(chosen.scale),
            layer=chosen.files[of_target].layer,
            gene_col=gene_cols[of_target],
            totals_over=None if totals_over is None else list(totals_over),
        )
        if totals_over is None and totals.are_taken(chosen.scale):
            plan.all_features = list(names)
            plan.preprocessing = replace(plan.preprocessing, features_sha256=features_digest(names))
        selected, var = _highly_variable_features(parameters, found, chosen.scale, names, cells, plan)
    else:
        assert model is not None
        plan.preprocessing = trained
        selected, var = _model_features(names, in_files, pd.Index(model["features"]), plan)
    plan.features = {"in_file": len(in_files[0]) if model is not None else len(names), "kept": len(var)} | plan.features
    empty = np.concatenate([file.empty for file in chosen.files])
    return Selection(cells[used], used, values, var, selected, markers, empty[used])


def _marker_columns(p: Parameters, names: pd.Index, first: InputFile, in_first: pd.Index, plan: Plan) -> dict[str, int]:
    """Return the position of each of MARKERS among the features `names`; note those that are missing.

    A marker is found by the features' names, or else by another text column of the first file's `var`, whose features
    are `in_first`.
    """
    wanted = pd.Index(list(dict.fromkeys(marker for of_type in p.MARKERS.values() for marker in of_type)), dtype=object)
    if not len(wanted):
        return {}
    found = features.match(wanted, names)[0]
    for column in first.name_columns.values():
        by_column = features.match(wanted, column)[0]
        elsewhere = np.where(by_column < 0, -1, names.get_indexer(in_first[by_column]))
        found = np.where(found < 0, elsewhere, found)
    if missing := list(wanted[found < 0]):
        lacking = f"the data lack {len(missing):,} of {plural(len(wanted), 'feature')}, and no picture shows them"
        plan.notes.append(f"MARKERS: {lacking}: {listing(missing)}.")
    return {str(name): int(column) for name, column in zip(wanted, found, strict=True) if column >= 0}


def _describe_values(chosen: ChosenLayers, plan: Plan, *, are_different: bool) -> None:
    """Enter into the plan what the values look like and how they are normalised, and say if that was needed to compare batches."""
    plan.values = [
        {
            "batch": name,
            "value type": batch.value_type,
            "evidence": batch.because,
            "from": batch.smallest,
            "to": batch.largest,
            "stored %": round(100 * batch.stored, 1),
            "median cell total": batch.median_total,
            "normalisation": describe_normalisation(batch, chosen.scale),
        }
        for file in chosen.files
        for name, batch in file.evidence.items()
    ]
    if are_different:
        different = "Batches hold values of different types or cell totals"
        plan.notes.append(f"{different}; all were brought to {chosen.scale.scale}.")


def _check_doublets(scale: CommonScale) -> None:
    """Raise InputError if DOUBLETS cannot be done here."""
    if scale.values != "log1p":
        raise InputError(
            f"DOUBLETS: Scrublet adds up the counts of two cells, and these values ({scale.values}) cannot be added up; leave "
            "DOUBLETS out, or name a LAYER with counts."
        )


def _check_positions(file: InputFile, index: pd.Index, *, matched: bool) -> None:
    """Raise InputError if features that are only numbered would be matched with those of another file or a model."""
    if matched:
        raise InputError(
            f"PATH: the features of {file.path} are numbered ({', '.join(index[:3])}, …), and var has no column with their "
            "names; numbers of rows do not say which feature is which in another file. Put the names into var's index, or "
            "into a column of var that GENE_COL names."
        )


def _feature_names(
    files: list[InputFile], model: list[str] | None, plan: Plan, gene_col: str | None
) -> tuple[list[pd.Index], list[str | None]]:
    """Return for each file its features' names, made unique, and the column of `var` they are from (None: its index)."""
    given = [] if model is None else [{"": pd.Index(model)}]
    columns = [*given, *(file.name_columns for file in files)]
    chosen = features.choose_name_columns(columns, given=model is not None)
    if (more := _with_translated(columns, chosen)) is not None:
        columns, chosen = more, features.choose_name_columns(more, given=model is not None)
    columns, chosen = columns[len(given) :], chosen[len(given) :]
    names = []
    for file, of_file, column in zip(files, columns, chosen, strict=True):
        index = of_file[column]
        if column == TRANSLATED:
            tables = f"the tables of {gene_tables.source()}"
            plan.notes.append(f"The features of {file.path.name} were translated (Ensembl ids, symbols) by {tables}.")
        elif column == "" and features.are_positions(index):
            _check_positions(file, index, matched=len(files) > 1 or model is not None)
            plan.notes.append(
                f"The features of {file.path.name} have numbers and no names; no other file can be matched to it."
            )
        elif column and "" not in file.name_columns and not gene_col:
            plan.notes.append(
                f"The features of {file.path.name} are named by column {column!r} of var: its index has only numbers."
            )
        elif column and len(file.name_columns) > 1:
            plan.notes.append(f"The features of {file.path.name} are named by column {column!r} of var (the best fit).")
        if repeated := int(index.duplicated().sum()):
            names_of = f"{repeated} feature names of {file.path.name}"
            plan.notes.append(f"{names_of} occur more than once; made unique (A, A-1, …).")
        names.append(features.unique_names(index))
    return names, [None if column in ("", TRANSLATED) else column for column in chosen]


def _with_translated(columns: list[features.NameColumns], chosen: list[str]) -> list[features.NameColumns] | None:
    """Return the columns with Ensembl ids translated where the first file, or a saved model, has symbols, and the other way
    round; None where there is nothing to translate."""
    first = columns[0][chosen[0]]
    other_names = [
        gene_tables.translated(of[column], first) for of, column in zip(columns[1:], chosen[1:], strict=True)
    ]
    if all(names is None for names in other_names):
        return None
    more = [
        of if names is None else {**of, TRANSLATED: names} for of, names in zip(columns[1:], other_names, strict=True)
    ]
    return [columns[0], *more]


def _totals_over(
    p: Parameters, chosen: ChosenLayers, names: list[pd.Index], plan: Plan, trained: Preprocessing | None
) -> pd.Index | None:
    """Return the features that a cell's total is over: those common to several files, or those of a saved model; None: all of the
    only file."""
    if trained is not None and p.PRETRAINED_MODEL_PATH is not None:
        of_model = totals.features_of_model(Path(p.PRETRAINED_MODEL_PATH), trained, names)
        if of_model is not None:
            plan.notes += totals.lacking_notes(of_model, names) if totals.are_taken(chosen.scale) else []
            return of_model
    if chosen.files[0].is_embedding:
        return names[0]  # all dimensions, of which a new file must have as many
    if len(names) == 1:
        # The mean of a cell is over these; in a new file too, which may have other antibodies beside them.
        return names[0] if chosen.scale.values == "clr" and trained is None else None
    common = names[0]
    for other, file in zip(names[1:], chosen.files[1:], strict=True):
        found, disregarded = features.match(common, other)
        if disregarded:
            plan.notes.append(f"The features of {file.path.name} were matched without regard to {disregarded}.")
        common = common[found >= 0]
    if not len(common):
        kind, advice = "feature name", "Use one kind of names in all, or name the column of var with them in GENE_COL."
        if all(features.names_type(index) == "peaks" for index in names):
            kind, advice = "peak", features.PEAKS_ADVICE
        begin = "; ".join(f"{list(index[:3])}" for index in names)
        ids = (
            gene_tables.kinds_of_names_advice(names[0], other, chosen.files[0].path.name, file.path.name)
            for other, file in zip(names[1:], chosen.files[1:], strict=True)
        )
        advice += next(filter(None, ids), "")
        raise InputError(f"PATH: the files have no {kind} in common (they begin {begin}). {advice}")
    fewest = min(len(index) for index in names)
    plan.notes.append(f"{len(common):,} features are common to all files (the smallest has {fewest:,}).")
    if trained is None:
        _compare_files(p, chosen, names, plan)
    return common


def _compare_files(p: Parameters, chosen: ChosenLayers, names: list[pd.Index], plan: Plan) -> None:
    """Check how many of the highly variable features of each annotated file every other file has."""
    for file, index in zip(chosen.files, names, strict=True):
        if set(file.rows) <= set(plan.targets):
            continue
        values = NormalisedFiles([file], chosen.scale, [None])
        found = mean_variance(values, np.full(len(file.cells), ""))
        wanted = index[highly_variable(found.variance, p.NUM_FEATURES)]
        for other, other_index in zip(chosen.files, names, strict=True):
            if other is not file:
                missing = features.match(wanted, other_index)[0] < 0
                of = f"that vary most in {file.path.name}"
                for batch in other.rows:
                    _enter_overlap(plan, batch, wanted, missing, of)
                who = f"PATH: {other.path.name} ({listing(list(other.rows), 5)})"
                plan.warnings += features.missing_features_warnings(who, wanted, missing, of)


def _enter_overlap(plan: Plan, batch: str, wanted: pd.Index, missing: np.ndarray, of: str) -> None:
    there, share = int((~missing).sum()), round(100 * float((~missing).mean()), 1) if len(wanted) else 100.0
    names = listing(wanted[missing], features.NAMES_SHOWN, quoted=False)
    row = {"batch": batch, "features": of, "there": there, "of": len(wanted), "%": share, "missing": names}
    plan.overlap.append(row)


def _measured(p: Parameters, found: MeanVariance, names: pd.Index, cells: pd.DataFrame, plan: Plan) -> np.ndarray:
    """Return which features are used, bool (len(names),): all but those that the target does not have (`features.not_measured`).

    Among several targets nothing is left out: each of them gets what a run of its own would give.
    """
    everything = np.ones(len(names), dtype=bool)
    if len(plan.targets) > 1 or not DATA_RULES[p.METHOD].leaves_out_features:
        return everything
    sizes = cells.loc[cells["trains"], "cell_type"].value_counts().to_dict()
    of_types = {name: found.seen_of_types[name] for name in sizes if name in found.seen_of_types}
    n_target = int((cells["batch"] == plan.target).sum())
    lacking = features.not_measured(of_types, sizes, found.seen[plan.target], n_target)
    if not lacking.any():
        return everything
    wanted = highly_variable(found.variance, p.NUM_FEATURES)
    wanted = wanted[np.argsort(names[wanted].to_numpy(dtype=str), kind="stable")]
    _enter_overlap(plan, plan.target, names[wanted], lacking[wanted], "that vary most, measured in it")
    of = "that vary most (no cell of it has the others, which annotated cells have too often for chance)"
    plan.warnings += features.missing_features_warnings(f"Batch {plan.target!r}", names[wanted], lacking[wanted], of)
    plan.notes.append(
        f"Left out of all batches: {int(lacking.sum()):,} of {len(names):,} features that no cell of {plan.target!r} has, and annotated cells "
        f"have too often for chance ({listing(names[lacking], features.NAMES_SHOWN, quoted=False)}). They were not measured there, or are not "
        "expressed in its condition."
    )
    return ~lacking


def _highly_variable_features(
    p: Parameters, found: MeanVariance, scale: CommonScale, names: pd.Index, cells: pd.DataFrame, plan: Plan
) -> tuple[np.ndarray, pd.DataFrame]:
    """Return position and variance of the highly variable features, sorted by name; check that every batch has them."""
    batch = cells["batch"].to_numpy()
    selected = highly_variable(found.variance, p.NUM_FEATURES)
    selected = selected[np.argsort(names[selected].to_numpy(dtype=str), kind="stable")]
    seen = {name: found.seen[name][selected] for name in dict.fromkeys(batch)}
    for name, missing in features.never_seen(seen, cells["batch"].value_counts().to_dict()).items():
        _enter_overlap(plan, name, names[selected], missing, "kept, seen at all")
        # Among z-scores zero is a value like any other: it does not mean that a feature was not measured.
        if scale.values != "as they are":
            of = "kept (the others are zero in all its cells)"
            plan.warnings += features.missing_features_warnings(f"Batch {name!r}", names[selected], missing, of)
    return selected, pd.DataFrame({"variance": found.variance[selected].astype(np.float32)}, index=names[selected])


def _model_features(
    names: pd.Index, in_files: list[pd.Index], wanted: pd.Index, plan: Plan
) -> tuple[np.ndarray, pd.DataFrame]:
    """Return the positions of a saved model's features, in its order, among `names`; -1: missing, and taken as zero.

    `in_files` are the features that each file has.
    """
    missing = np.zeros(len(wanted), dtype=bool)
    for index in in_files:
        found, disregarded = features.match(wanted, index)
        missing |= found < 0
        if disregarded:
            plan.notes.append(f"The features were matched to the model's without regard to {disregarded}.")
    plan.features["missing"] = int(missing.sum())
    _enter_overlap(plan, plan.target, wanted, missing, "of the model")
    kinds = gene_tables.kinds_of_names_advice(in_files[0], wanted, "Your file", "the model")
    if missing.all():
        raise InputError(
            f"PATH: {plan.target!r} has none of the model's {len(wanted):,} features (the file has {list(in_files[0][:3])}, the model "
            f"{list(wanted[:3])}). GENE_COL can name another column of var."
            + (kinds or features.same_kind_advice(wanted))
            + (" Peaks must be re-quantified on the model's." if features.names_type(wanted) == "peaks" else "")
        )
    few = features.few_features(repr(plan.target), wanted, missing, "of the model")
    if few is not None and (~missing).mean() < features.MODEL_REFUSES_BELOW:
        are_peaks = features.names_type(wanted) == "peaks"
        raise InputError(f"PATH: {few}{kinds or ' ' + (features.PEAKS_ADVICE if are_peaks else features.MODEL_ADVICE)}")
    plan.warnings += [few] if few is not None else []
    if missing.any():
        lacking = f"The file lacks {int(missing.sum()):,} of the model's {plural(len(wanted), 'feature')}"
        plan.notes.append(f"{lacking}; taken as zero.")
    return features.match(wanted, names)[0], pd.DataFrame({"variance": np.full(len(wanted), np.nan)}, index=wanted)
