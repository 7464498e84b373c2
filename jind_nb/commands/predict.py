"""`jind-nb predict`: annotate a new file with a saved model; only alignment trains anything."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from .. import report
from ..core import locks
from ..core.code_hash import versions
from ..core.files import sha256, whole_file, write_json
from ..core.labels import NO_VALUES, UNASSIGNED, UNLIKE
from ..core.logs import log_to
from ..core.model_json import read_model_json
from ..core.parameters import Parameters, make_parameters
from ..core.sparse_rows import seen_columns
from ..core.text import plural
from ..data.allowed_types import allowed_types
from ..data.chunks import read_obs_of_whole, read_whole
from ..data.fingerprints import fingerprints
from ..data.h5ad import copy_with, frame, local_file, no_column, open_file, texts
from ..data.plan import Plan
from ..data.prepare import prepare_in_blocks
from ..errors import InputError
from ..model import store as model_store
from ..model.annotate import settings_of
from ..model.doublets import Doublets, find_doublets
from ..model.expected_error import ExpectedError, pooled_error, widened
from ..model.networks import Annotator
from ..model.state import KnownLatents, Settings
from ..model.target import (
    align,
    annotate_latent,
    encode_and_compare,
    like_no_type,
    reject_doublets,
    reject_strange,
)
from ..results.new_groups import group_table_of_file
from ..results.predicted import Predicted
from ..results.tables import BATCH, annotate_obs, outside_notes, predictions_table
from ..results.target import TargetResult, with_parents, with_types
from ..results.write import write_cells, write_tables, write_workbook
from ..runs import previous
from ..runs.folder import Run, check_output
from ..runs.stages import model_folder
from .crate import write_prediction_crate

log = logging.getLogger(__name__)

# Parameters that may differ from the model's run.
PARAMETERS_OF_FILE = ("LAYER", "GENE_COL", "FEATURE_TYPES", "NORMALISATION", "TYPES", "USE_GPU", "DOUBLETS")

MOST = 0.5  # of a file's cells: if so many are strange, the file is
MANY = 0.05  # of one batch's cells, to be unlike all annotated ones

NOTHING_NEW = "The model learned from all of these cells, so nothing says how well it annotates new ones."

# Parameters that are the model's own.
PARAMETERS_OF_MODEL = ("METHOD", "SEED", "EPOCHS", "REJECTION", "TARGET_ERROR")


MOST_IN_A_WORKBOOK = 50_000  # cells: more take longer to write there than to annotate


@dataclass(frozen=True)
class Options:
    """How a file is annotated."""

    align: bool = False  # align each batch of new cells with the annotated cells first, and self-train on it
    # Column of `obs` with batches, whose values may be of different kinds and which are annotated one by one; None: one batch.
    batch_col: str | None = None
    xlsx: bool = False  # write the workbook also of more than 50,000 cells
    report: bool = False  # write report.html


def predict(
    model: Path,
    h5ad: Path,
    output: Path,
    options: Options,
    values: Mapping[str, Any] | None = None,
) -> Predicted:
    """Annotate every cell of a file; write the predictions (parquet, csv, xlsx), the annotated file, metrics.json and a manifest.

    Cells that the model annotated in its own run are recognised and annotated as there, with target.pth; all others
    with the shared encoder and classifier.

    Parameters
    ----------
    model
        A run's `trained_models` folder.
    output
        Folder for the results; those of an earlier run there are moved to its `previous/`.
    values
        PARAMETERS_OF_FILE; by default as in the model's run, but for DOUBLETS, which is false.

    Raises
    ------
    InputError
        If the model or the file cannot be used; nothing has been written then.
    """
    begun, h5ad = time.monotonic(), local_file(str(h5ad))
    own: dict[str, Any] = {"ALIGN": options.align, "OUTPUT_PATH": str(output.absolute())}
    parameters = parameters_for(model, h5ad, own | dict(values or {}))
    run = Run(parameters)
    previous.refuse_foreign_files(run)
    if not run.manifest.exists() and any(path.exists() for path in (run.work, run.models, run.notebooks)):
        raise InputError(
            f"OUTPUT_PATH: {run.folder} holds an unfinished run, or notebooks run by hand, whose training must not be "
            "lost; choose another folder."
        )
    check_output(parameters, 0)
    predicted = annotate_file(run, options.batch_col, has_groups=options.report)
    log.info("checking what else %s has, and writing", h5ad.name)
    # Before anything is written: parts of the file that were not read yet may be damaged.
    adata = read_whole(h5ad) if h5ad.is_dir() else read_obs_of_whole(h5ad, but=predicted.read)
    with locks.held(run.folder):
        previous.recover(run)
        replace = previous.set_aside if run.manifest.exists() else previous.discard
        replace(run, keep=set())
        log_to(run.log)
        _write(predicted, adata, h5ad, options, begun)
    return predicted


def annotate_file(run: Run, batch_col: str | None = None, *, has_groups: bool = False) -> Predicted:
    """Return the annotation of all cells of a file; nothing is written.

    Parameters
    ----------
    run
        Its parameters are those of `parameters_for`.
    has_groups
        Whether groups of the cells unlike all annotated ones are looked for: where there are some, parts of the file are read again.

    Raises
    ------
    InputError
        If the model or the file cannot be used.
    """
    parameters, model = run.parameters, model_folder(run)
    cells = _cells(Path(parameters.paths[0]), batch_col)
    batches = list(dict.fromkeys(cells["batch"]))
    plan = Plan(target=batches[0], source=None, annotated=batches[1:], classes=[])
    settings = settings_of(parameters)
    log.info("reading %s", parameters.paths[0])
    loaded = _Loaded(model, *model_store.load_shared(model, settings.device))
    file = prepare_in_blocks(parameters, cells, plan, _encoding(loaded, settings))
    encoded = _whole(list(file.results()), loaded.known)
    answer = _annotate(loaded, cells, encoded, settings, plan, parameters.TYPES)
    notes = [*plan.notes, *answer.notes, *outside_notes(answer.table)]
    plan.warnings.extend(_strange_warnings(answer.table))
    table, batch = answer.table, cells["batch"].to_numpy()
    if batch_col is None:
        notes += _note_on_batches(table)
    else:
        table.insert(0, BATCH, batch)
    missing = plan.features["missing"]
    error = widened(answer.error, missing / plan.features["kept"])
    found = plan.features | {"silent": int((~encoded.here).sum()) - missing}
    groups = None
    if has_groups:
        order = _in_own_order(encoded, np.arange(len(table)))
        del encoded  # so that what groups need makes the most that is held no more
        groups = group_table_of_file(table, order, file.some, file.features, settings.seed)
    return Predicted(
        table,
        answer.latent,
        plan.classes,
        plan.warnings,
        notes,
        run,
        error,
        batch,
        found,
        answer.n_learned,
        file.path,
        groups,
    )


def parameters_for(model: Path, h5ad: Path, values: Mapping[str, Any]) -> Parameters:
    """Return the parameters of the model's run, for the new file.

    Parameters
    ----------
    values
        OUTPUT_PATH, ALIGN and PARAMETERS_OF_FILE, if they are given.

    Raises
    ------
    InputError
        If the model cannot be used, or a value is wrong.
    """
    if wrong := [name for name in values if name not in (*PARAMETERS_OF_FILE, "OUTPUT_PATH", "ALIGN")]:
        raise InputError(
            f"-s {wrong[0]}: a saved model takes {', '.join(PARAMETERS_OF_FILE)}; all else is the model's own."
        )
    training = read_model_json(model)["training"]
    if lacking := [name for name in PARAMETERS_OF_MODEL if name not in training]:
        raise InputError(
            f"PRETRAINED_MODEL_PATH: model.json in {model} does not say {', '.join(lacking)}; copy the folder again."
        )
    of_model = {name: training[name] for name in PARAMETERS_OF_MODEL}
    paths = {"PATH": str(h5ad.absolute()), "PRETRAINED_MODEL_PATH": str(model.absolute())}
    names = {"BATCH_COL": "(none)", "LABELS_COL": "(none)", "TARGET_DATASET_NAME": h5ad.stem}
    parameters = make_parameters(of_model | paths | names | dict(values))
    if parameters.TYPES:
        allowed_types(parameters.TYPES, read_model_json(model)["classes"])
    return parameters


def _cells(h5ad: Path, batch_col: str | None) -> pd.DataFrame:
    """Return all cells of the file as `prepare` takes them.

    Raises
    ------
    InputError
        If the file has no cells, or the batch of a cell is missing.
    """
    with open_file(h5ad) as store:
        obs = frame(store, "obs")
    if not len(obs):
        raise InputError(f"{h5ad} holds no cells.")
    batch = pd.Series(h5ad.stem, obs.index, dtype=object)
    if batch_col is not None:
        if batch_col not in obs:
            raise no_column("--batch-col", batch_col, obs, f"obs of {h5ad}")
        batch = texts(obs[batch_col])
        if batch.isna().any():
            raise InputError(f"--batch-col: {int(batch.isna().sum())} cells of {h5ad} have no value in {batch_col!r}.")
    places = {"file": 0, "row": np.arange(len(obs)), "cell": obs.index.astype(str).to_numpy()}
    return pd.DataFrame(places | {"batch": batch.to_numpy(), "cell_type": None, "trains": True})


@dataclass(frozen=True)
class _Loaded:
    """A saved model."""

    folder: Path
    shared: Annotator
    known: KnownLatents


@dataclass
class _Encoded:
    """What is kept in memory of all cells of a file, or of some."""

    latent: np.ndarray  # float32 (n, d), of the shared encoder
    fingerprints: np.ndarray  # uint64 (n,)
    own: np.ndarray  # bool (n,): cells that the model annotated in its own run
    learned: np.ndarray  # bool (n,): cells that it learned from
    values: sparse.csr_matrix  # (m, p), of the own cells; of all cells if they are to be aligned or may be doublets
    empty: np.ndarray  # bool (n,): cells without any value in the model's features
    strange: np.ndarray  # bool (n,): cells that are like no type the model knows
    here: np.ndarray  # bool (p,): features of which some cell has a value
    odd: sparse.csr_matrix  # (o, p), of the cells that are like no type by all features

    def values_of(self, rows: np.ndarray) -> sparse.csr_matrix:
        held = self.own if self.values.shape[0] < len(self.own) else np.ones_like(self.own)
        return self.values[(np.cumsum(held) - 1)[rows]]


def _encoding(model: _Loaded, settings: Settings) -> Callable[[sparse.csr_matrix], _Encoded]:
    """Return the function that encodes some cells' values, (n, p)."""
    known, own_target = model.known, model_store.own_target(model.folder)
    encode = encode_and_compare(model.shared, known, settings)

    def encoded(x: sparse.csr_matrix) -> _Encoded:
        prints, empty = fingerprints(x), np.diff(x.indptr) == 0
        own = np.isin(prints, own_target)
        learned = np.isin(prints, [] if known.fingerprints is None else known.fingerprints) & ~own & ~empty
        latent, strange = encode(x)
        strange &= ~empty
        values = x if settings.align or settings.doublets else x[own]
        return _Encoded(latent, prints, own, learned, values, empty, strange, seen_columns(x), x[strange])

    return encoded


def _whole(parts: list[_Encoded], known: KnownLatents) -> _Encoded:
    """Return what is kept of all cells, given that of all blocks."""
    arrays = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("latent", "fingerprints", "own", "learned", "empty", "strange")
    }
    values, odd = (sparse.vstack([getattr(part, name) for part in parts], format="csr") for name in ("values", "odd"))
    here = np.any([part.here for part in parts], axis=0)
    whole = _Encoded(values=values, here=here, odd=odd, **arrays)
    whole.strange[whole.strange] = like_no_type(
        odd, known, here
    )  # by all features; of these, by those that the file has
    return whole


def _strange_warnings(table: pd.DataFrame) -> list[str]:
    """Return a list with one warning if most cells of a file have no values or are unlike all annotated ones, otherwise an empty
    one."""
    empty, unlike = (int((table["reason"] == reason).sum()) for reason in (NO_VALUES, UNLIKE))
    if empty + unlike <= MOST * len(table):
        return []
    return [
        f"{empty + unlike:,} of {len(table):,} cells are nothing that the model knows ({unlike:,} unlike all annotated cells, "
        f"{empty:,} without values): is this the same tissue, species and kind of data, with its own names of features? "
        "Do not use the other labels before you know why."
    ]


def _note_on_batches(table: pd.DataFrame) -> list[str]:
    """Return a list with one note if so many cells of one batch are unlike all annotated ones that it may be several batches."""
    unlike = int((table["reason"] == UNLIKE).sum())
    if unlike <= MANY * len(table):
        return []
    return [
        f"{unlike:,} of {len(table):,} cells are unlike all annotated ones. If the file's cells are of several batches, name their "
        "column (--batch-col; in Python batch_key): what is unusual is seen beside cells of the same batch."
    ]


@dataclass
class _Answer:
    """What a model says of all cells of a file, in the file's order."""

    table: pd.DataFrame
    latent: np.ndarray  # float32 (n, d)
    notes: list[str]
    error: ExpectedError
    n_learned: int  # as in `Predicted`


def _annotate(
    model: _Loaded,
    cells: pd.DataFrame,
    encoded: _Encoded,
    settings: Settings,
    plan: Plan,
    types: Sequence[str],
) -> _Answer:
    """Annotate the model's own target as in its run, and all other cells with the shared model.

    The error is that of cells which the model did not learn from: of the others it knows the labels.
    """
    description, shared, known = read_model_json(model.folder), model.shared, model.known
    names, batch, own = cells["cell"].to_numpy(), cells["batch"].to_numpy(), encoded.own
    groups = {"the model's own target": own} | {f"{name!r}": ~own & (batch == name) for name in pd.unique(batch)}
    tables, order, latent, errors = [], [], encoded.latent, {}
    notes: list[str] = []
    n_learned = 0
    doublets = _doublets(encoded, batch, settings, notes) if settings.doublets else None
    for group, is_in_group in groups.items():
        rows = _in_own_order(encoded, np.flatnonzero(is_in_group))
        if not len(rows):
            continue
        log.info("annotating %s", plural(len(rows), "cell"))
        before = latent[rows]
        annotated = annotate_latent(shared, before, known, settings)
        if is_in_group is own:
            model_store.recall(annotated, encoded.values_of(rows), model.folder, known, settings)
        elif settings.align:
            align(annotated, encoded.values_of(rows), known, settings)
        reject_strange(annotated, encoded.empty[rows], encoded.strange[rows])
        if doublets is not None:
            reject_doublets(annotated, doublets.subset(rows))
        notes += [note if len(groups) == 2 else f"{group}: {note}" for note in annotated.notes]
        if annotated.final_latent is not before:
            latent[rows] = annotated.final_latent
        result = TargetResult(annotated.stages, names[rows], annotated.final_latent, None, ontology=plan.ontology)
        result.doublet_scores = None if annotated.doublets is None else annotated.doublets.score
        result = with_types(with_parents(result, plan.parents, plan.coarser), types)
        new = result.final.subset(~encoded.learned[rows])
        n_new = int((~new.rejected).sum())
        n_learned += int((~result.final.rejected).sum()) - n_new
        if len(new.probabilities):
            errors[group] = model_store.stated_error(description, new, annotated.mode), n_new
        tables.append(predictions_table(result))
        order.append(rows)
    table = pd.concat(tables).iloc[np.argsort(np.concatenate(order), kind="stable")]
    if encoded.learned.any():
        notes.append(_note_on_learned(int(encoded.learned.sum()), len(table)))
    error = pooled_error(errors) if errors else ExpectedError(None, None, NOTHING_NEW)
    if errors and n_learned:
        learned = plural(
            n_learned, "assigned cell that the model learned from is", "assigned cells that the model learned from are"
        )
        error = replace(error, basis=f"{error.basis} {learned} not counted.")
    return _Answer(table, latent, notes, error, n_learned)


def _note_on_learned(n_learned: int, n_cells: int) -> str:
    return (
        f"{n_learned:,} of {n_cells:,} cells are annotated cells that the model learned from: their answers say little of new cells, "
        "and the expected error is that of the others."
    )


def _doublets(encoded: _Encoded, batch: np.ndarray, settings: Settings, notes: list[str]) -> Doublets:
    """Look for doublets in each batch, objects (n,), of a file: cells are doublets of cells that were read together."""
    found = Doublets(np.zeros(len(batch), dtype=np.float32), np.zeros(len(batch), dtype=bool))
    names = pd.unique(batch)
    for name in names:
        rows = _in_own_order(encoded, np.flatnonzero(batch == name))
        of_batch, note = find_doublets(encoded.values_of(rows), settings.seed)
        found.score[rows], found.called[rows] = of_batch.score, of_batch.called
        notes.append(note if len(names) == 1 else f"{name}: {note}")
    return found


def _in_own_order(encoded: _Encoded, rows: np.ndarray) -> np.ndarray:
    """Return rows, int (m,), in an order that their values give them, however the file is sorted."""
    return rows[np.argsort(encoded.fingerprints[rows], kind="stable")]


def _write(predicted: Predicted, adata: ad.AnnData, h5ad: Path, options: Options, begun: float) -> None:
    run, model = predicted.run, model_folder(predicted.run)
    xlsx = options.xlsx or len(predicted.table) <= MOST_IN_A_WORKBOOK
    if not xlsx:
        words = (
            f"{run.predictions_xlsx.name} is written of at most {MOST_IN_A_WORKBOOK:,} cells, because it takes longest"
        )
        predicted.notes.append(f"{words}; of more with --xlsx. {run.predictions_csv.name} has the same table.")
    with ThreadPoolExecutor(2) as aside:  # copying needs the disk, all else the processor
        copied, hashed = aside.submit(_write_annotated, predicted, adata, h5ad), aside.submit(sha256, h5ad)
        write_tables(predicted.table, run)
        if xlsx:
            write_workbook(predicted.table, run, predicted.error)
        copied.result()
    manifest = {
        "versions": versions(),
        "model": {"path": str(model), "sha256": read_model_json(model)["sha256"]},
        "input": [{"path": str(h5ad), "sha256": hashed.result()}],
        "notes": [*predicted.warnings, *predicted.notes],
    }
    write_json(run.metrics, {"target": _metrics(predicted)})
    if options.report:
        report.write_prediction_html(predicted, manifest)
    write_prediction_crate(run, manifest, time.monotonic() - begun)
    write_json(run.manifest, manifest)


def _metrics(predicted: Predicted) -> dict[str, Any]:
    """Return the numbers of a prediction, under the names that a run's metrics.json has."""
    rejected = predicted.table["predictions"] == UNASSIGNED
    return {
        "batch": predicted.run.parameters.TARGET_DATASET_NAME,
        "cells": len(rejected),
        "annotated": int((~rejected).sum()),
        "rejected": int(rejected.sum()),
        "expected_error": predicted.error.value,
        "expected_error_range": predicted.error.range,
        "expected_error_basis": predicted.error.basis,
    }


def _write_annotated(predicted: Predicted, adata: ad.AnnData, h5ad: Path) -> None:
    """Write the annotated file."""
    annotate_obs(adata, predicted.table, predicted.classes, predicted.latent)
    with whole_file(predicted.run.annotated_target) as temporary:
        if h5ad.is_dir():
            write_cells(temporary, adata)
        else:
            copy_with(h5ad, temporary, adata)
