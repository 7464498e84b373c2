"""`jind-nb predict`: annotate a new file with a saved model; only alignment trains anything."""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from threading import Event
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from .. import report
from ..core import locks
from ..core.code_hash import versions
from ..core.files import copy_until, sha256, whole_file, write_json
from ..core.labels import NO_VALUES, OUTSIDE, UNASSIGNED, UNLIKE
from ..core.logs import log_to
from ..core.model_json import read_model_json
from ..core.on_disk import ArraysOnDisk
from ..core.parameters import Parameters, make_parameters
from ..core.sparse_rows import seen_columns
from ..core.text import listing, percent, plural
from ..core.threads import lower_priority, map_ahead
from ..data.allowed_types import allowed_types
from ..data.chunks import read_obs_of_whole, read_whole
from ..data.fingerprints import fingerprints
from ..data.h5ad import frame, local_file, no_column, open_file, put_tables, texts
from ..data.plan import Plan
from ..data.prepare import PreparedFile, poor_cells_warnings, prepare_in_blocks
from ..errors import InputError
from ..model import store as model_store
from ..model.annotate import settings_of
from ..model.doublets import Doublets, find_doublets
from ..model.expected_error import ExpectedError, beside_alignment, pooled_error, widened
from ..model.networks import Annotator
from ..model.state import KnownLatents, Settings
from ..model.target import (
    align,
    annotate_latent,
    changed_by_alignment,
    encode_and_compare,
    like_no_type,
    reject_doublets,
    reject_strange,
    try_alignment,
)
from ..results.new_groups import find_groups_of_file, to_json
from ..results.predicted import Predicted
from ..results.tables import BATCH, annotate_obs, outside_notes, predictions_table
from ..results.target import TargetResult, with_parents, with_types
from ..results.write import write_cells, write_groups, write_tables, write_workbook
from ..runs import previous
from ..runs.folder import Run, check_output
from ..runs.stages import model_folder
from .crate import write_prediction_crate

log = logging.getLogger(__name__)

# Parameters that may differ from the model's run.
PARAMETERS_OF_FILE = ("LAYER", "GENE_COL", "FEATURE_TYPES", "NORMALISATION", "TYPES", "USE_GPU", "DOUBLETS")

MOST_IN_MEMORY = 2**32  # bytes of all cells' latents: five million cells have as much

MOST = 0.5  # of a file's cells: if so many are strange, the file is
MANY_CHANGED = 0.1  # of the assigned cells, by alignment
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
    file = _recognised(run, options.batch_col)
    with _nothing_left_if_refused(run.folder):
        previous.recover(run)
        predicted, hashed = _annotate_copy(file, h5ad, options)
        _write_about(predicted, hashed, options, begun)
    return predicted


def annotate_file(run: Run, batch_col: str | None = None) -> Predicted:
    """Return the annotation of all cells of a file; nothing is written.

    Parameters
    ----------
    run
        Its parameters are those of `parameters_for`.

    Raises
    ------
    InputError
        If the model or the file cannot be used.
    """
    return _predicted(_recognised(run, batch_col))


@dataclass(frozen=True)
class _Loaded:
    """A saved model."""

    folder: Path
    shared: Annotator
    known: KnownLatents


@dataclass
class _Encoded:
    """What is kept in memory of some cells of a file, in the file's order, or of all, in an order that their values give them (`odd` is
    in the file's always)."""

    latent: np.ndarray  # float32 (n, d), of the shared encoder
    fingerprints: np.ndarray  # uint64 (n,)
    own: np.ndarray  # bool (n,): cells that the model annotated in its own run
    values: sparse.csr_matrix  # (m, p), of the own cells; of all cells if they are to be aligned or may be doublets
    seen: np.ndarray  # int (n,): how many of the model's features a cell has a value of
    strange: np.ndarray  # bool (n,): cells that are like no type the model knows
    here: np.ndarray  # bool (p,): features of which some cell has a value
    odd: sparse.csr_matrix  # (o, p), of the cells that are like no type by all features

    @property
    def empty(self) -> np.ndarray:
        return self.seen == 0

    def values_of(self, cells: np.ndarray) -> sparse.csr_matrix:
        held = self.own if self.values.shape[0] < len(self.own) else np.ones_like(self.own)
        return self.values[(np.cumsum(held) - 1)[cells]]


@dataclass(frozen=True)
class _File:
    """A file whose values can be brought to the model's scale."""

    run: Run
    batch_col: str | None
    model: _Loaded
    settings: Settings
    cells: pd.DataFrame
    plan: Plan
    values: PreparedFile[_Encoded]
    on_disk: ArraysOnDisk | None  # where latents are kept if they are large; None: in memory
    n_batches: int | None  # by the column that had the model's batches; None: the file does not have it


def _recognised(run: Run, batch_col: str | None) -> _File:
    """Load the model and find out what a file's values are."""
    parameters, folder = run.parameters, model_folder(run)
    usual = read_model_json(folder)["training"].get("BATCH_COL")
    cells, n_batches = _cells(Path(parameters.paths[0]), batch_col, usual)
    batches = list(dict.fromkeys(cells["batch"]))
    plan = Plan(target=batches[0], source=None, annotated=batches[1:], classes=[])
    settings = settings_of(parameters)
    log.info("reading %s", parameters.paths[0])
    model = _Loaded(folder, *model_store.load_shared(folder, settings.device))
    size = len(cells) * model.known.latent[0].nbytes
    on_disk = ArraysOnDisk(run.folder if run.folder.is_dir() else None) if size > MOST_IN_MEMORY else None
    values = prepare_in_blocks(parameters, cells, plan, _encoding(model, settings, on_disk))
    if batch_col is None and n_batches is not None and n_batches > 1:
        plan.notes.append(
            f"The column {usual!r} of the file, which had the batches of the annotated cells, has {n_batches} values; all cells were taken for "
            f"one batch. Name it (--batch-col {usual}; in Python batch_key) if they are of several."
        )
    return _File(run, batch_col, model, settings, cells, plan, values, on_disk, n_batches)


def _predicted(file: _File) -> Predicted:
    """Return the annotation of all cells of a file."""
    plan, run = file.plan, file.run
    encoded, rows = _whole(list(file.values.results()), file.model.known, file.on_disk)
    answer = _annotate(file, encoded, rows)
    table, batch = answer.table, file.cells["batch"].to_numpy()
    reasons = Counter(table["reason"])
    notes = [*plan.notes, *answer.notes, *(outside_notes(table) if reasons[OUTSIDE] else [])]
    plan.warnings.extend(_strange_warnings(reasons))
    plan.warnings.extend(poor_cells_warnings(encoded.seen, batch[rows], plan))
    if file.batch_col is None:
        notes += _note_on_batches(reasons) if file.n_batches is None else []
    else:
        table.insert(0, BATCH, batch)
    missing = plan.features["missing"]
    return Predicted(
        table,
        rows,
        answer.latent,
        plan.classes,
        plan.warnings,
        notes,
        run,
        widened(answer.error, missing / plan.features["kept"]),
        batch,
        plan.features | {"silent": int((~encoded.here).sum()) - missing},
        answer.n_learned,
        alignment_notes=answer.alignment_notes,
        errors={name: widened(error, missing / plan.features["kept"]) for name, error in answer.errors.items()},
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


def _cells(h5ad: Path, batch_col: str | None, usual: str | None) -> tuple[pd.DataFrame, int | None]:
    """Return all cells of the file as `prepare` takes them, and how many batches they are of by the usual column, None if the file lacks it.

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
    cells = pd.DataFrame(places | {"batch": batch.to_numpy(), "cell_type": None, "trains": True})
    return cells, obs[usual].nunique() if usual in obs else None


def _encoding(
    model: _Loaded, settings: Settings, on_disk: ArraysOnDisk | None
) -> Callable[[sparse.csr_matrix], _Encoded]:
    """Return the function that encodes some cells' values, (n, p)."""
    known, own_target = model.known, model_store.own_target(model.folder)
    encode = encode_and_compare(model.shared, known, settings)

    def encoded(x: sparse.csr_matrix) -> _Encoded:
        prints, seen = fingerprints(x), np.diff(x.indptr)
        own = np.isin(prints, own_target)
        latent, strange = encode(x)
        strange &= seen > 0
        latent = latent if on_disk is None else on_disk.copy_of(latent)
        values = x if settings.align or settings.doublets else x[own]
        return _Encoded(latent, prints, own, values, seen, strange, seen_columns(x), x[strange])

    return encoded


def _whole(parts: list[_Encoded], known: KnownLatents, on_disk: ArraysOnDisk | None) -> tuple[_Encoded, np.ndarray]:
    """Return what is kept of all cells, given that of all blocks, and the cells' rows in the file, int (n,)."""
    of_cells = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("fingerprints", "own", "seen", "strange")
    }
    values, odd = (sparse.vstack([getattr(part, name) for part in parts], format="csr") for name in ("values", "odd"))
    here = np.any([part.here for part in parts], axis=0)
    strange = of_cells["strange"]  # by all features; of these, by those that the file has
    strange[strange] = like_no_type(odd, known, here)
    rows = np.argsort(of_cells["fingerprints"], kind="stable")
    place = np.argsort(rows)
    shape = len(rows), parts[0].latent.shape[1]
    latent = np.empty(shape, dtype=np.float32) if on_disk is None else on_disk.zeros(shape, np.float32)
    ends = np.cumsum([len(part.latent) for part in parts])

    def put(at: int) -> None:
        of_part = parts[at].latent
        latent[place[ends[at] - len(of_part) : ends[at]]] = of_part

    deque(map_ahead(put, range(len(parts))), maxlen=0)
    if values.shape[0]:
        held = of_cells["own"] if values.shape[0] < len(rows) else np.ones(len(rows), dtype=bool)
        values = values[(np.cumsum(held) - 1)[rows[held[rows]]]]
    in_own_order = {name: found[rows] for name, found in of_cells.items()}
    return _Encoded(latent=latent, values=values, here=here, odd=odd, **in_own_order), rows


def _strange_warnings(reasons: Counter[str]) -> list[str]:
    """Return a list with one warning if most cells of a file have no values or are unlike all annotated ones, otherwise an empty
    one; given how many cells have each reason."""
    empty, unlike, n = reasons[NO_VALUES], reasons[UNLIKE], reasons.total()
    if empty + unlike <= MOST * n:
        return []
    return [
        f"{empty + unlike:,} of {n:,} cells are nothing that the model knows ({unlike:,} unlike all annotated cells, "
        f"{empty:,} without values): is this the same tissue, species and kind of data, with its own names of features? "
        "Do not use the other labels before you know why."
    ]


def _note_on_batches(reasons: Counter[str]) -> list[str]:
    """Return a list with one note if so many cells of one batch are unlike all annotated ones that it may be several batches."""
    unlike, n = reasons[UNLIKE], reasons.total()
    if unlike <= MANY * n:
        return []
    return [
        f"{unlike:,} of {n:,} cells are unlike all annotated ones, perhaps of a new cell type. If the "
        "file's cells are of several batches, name their column (--batch-col; in Python batch_key): what is unusual is seen beside "
        "cells of the same batch."
    ]


@dataclass
class _Answer:
    """What a model says of all cells of a file."""

    table: pd.DataFrame  # in the file's order
    latent: np.ndarray  # float32 (n, d), in the order of the encoded cells
    notes: list[str]
    alignment_notes: list[str]  # how the cells were aligned
    error: ExpectedError
    errors: Mapping[str, ExpectedError]  # by batch
    n_learned: int  # as in `Predicted`


def _annotate(file: _File, encoded: _Encoded, rows: np.ndarray) -> _Answer:
    """Annotate the model's own target as in its run, and all other cells with the shared model.

    The error is that of cells which the model did not learn from: of the others it knows the labels.

    Parameters
    ----------
    rows
        In the file, of the encoded cells, int (n,).
    """
    model, plan, settings = file.model, file.plan, file.settings
    description, shared, known = read_model_json(model.folder), model.shared, model.known
    names, batch = (file.cells[column].to_numpy()[rows] for column in ("cell", "batch"))
    batches = {name: np.flatnonzero(batch == name) for name in pd.unique(file.cells["batch"])}
    own, latent = encoded.own, encoded.latent
    learned = np.isin(encoded.fingerprints, [] if known.fingerprints is None else known.fingerprints)
    learned &= ~own & ~encoded.empty
    ordinary = ~(learned | encoded.empty | encoded.strange)
    of_own = np.flatnonzero(own)
    groups = {"the model's own target": of_own} | {f"{name!r}": of[~own[of]] for name, of in batches.items()}
    tables, order, errors = [], [], {}
    n_learned = 0
    doublets, notes = _doublets(encoded, batches, settings.seed) if settings.doublets else (None, [])
    alignment_notes: dict[str, list[str]] = {}
    for group, cells in groups.items():
        if not len(cells):
            continue
        log.info("annotating %s", plural(len(cells), "cell"))
        before = latent if len(cells) == len(latent) else latent[cells]
        annotated = annotate_latent(shared, before, known, settings)
        if cells is of_own:
            model_store.recall(annotated, encoded.values_of(cells), model.folder, known, settings)
        elif settings.align:
            align(annotated, encoded.values_of(cells), known, settings)
            alignment_notes[group], annotated.notes = annotated.notes, []
        tried = None
        if cells is not of_own and not settings.align:  # the model knows where the cells are that it learned from
            tried = try_alignment(shared, before[ordinary[cells]], known, settings)
        reject_strange(annotated, encoded.empty[cells], encoded.strange[cells])
        if doublets is not None:
            reject_doublets(annotated, doublets.subset(cells))
        notes += [note if len(groups) == 2 else f"{group}: {note}" for note in annotated.notes]
        if annotated.final_latent is not before:  # which may be `latent` itself, and is not needed any more
            latent[cells] = annotated.final_latent
        result = TargetResult(annotated.stages, names[cells], annotated.final_latent, None, ontology=plan.ontology)
        result.doublet_scores = None if annotated.doublets is None else annotated.doublets.score
        result = with_types(with_parents(result, plan.parents, plan.coarser), file.run.parameters.TYPES)
        new = result.final.subset(~learned[cells]) if learned[cells].any() else result.final
        n_new = int((~new.rejected).sum())
        n_learned += int((~result.final.rejected).sum()) - n_new
        if len(new.probabilities):
            error = model_store.stated_error(description, new, annotated.mode)
            if tried is not None:
                changed = changed_by_alignment(tried)
                after = model_store.stated_error(description, tried.final, tried.mode)
                error = beside_alignment(error, changed, after)
                plan.warnings.extend(_warnings_of_a_batch_apart(group, changed))
            errors[group] = error, n_new
        tables.append(predictions_table(result))
        order.append(cells)
    table = pd.concat(tables).iloc[np.argsort(rows[np.concatenate(order)])]
    if learned.any():
        notes.append(_note_on_learned(int(learned.sum()), len(table)))
    error = pooled_error(errors) if errors else ExpectedError(None, None, NOTHING_NEW)
    if n_learned and errors and not any(n_new for _, n_new in errors.values()):
        error = ExpectedError(None, None, "Of the cells that are new to the model none was assigned.")
    if errors and n_learned:
        learned_from = plural(
            n_learned, "assigned cell that the model learned from is", "assigned cells that the model learned from are"
        )
        error = replace(error, basis=f"{error.basis} {learned_from} not counted.")
    of_batches = {str(name): errors[f"{name!r}"][0] for name in batches if f"{name!r}" in errors}
    return _Answer(table, latent, notes, _told_once(alignment_notes), error, of_batches, n_learned)


def _told_once(notes: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the notes on groups of cells, one after the other: what all have in common once, the rest with the group's name."""
    groups: dict[str, list[str]] = {}
    for group, of_group in notes.items():
        for note in of_group:
            groups.setdefault(note, []).append(group)
    return [
        note if len(having) == len(notes) else f"{listing(having, len(having), quoted=False)}: {note}"
        for note, having in groups.items()
    ]


def _warnings_of_a_batch_apart(name: str, changed: float) -> list[str]:
    """Return a list with one warning if alignment would give so many of a batch's assigned cells another type that it seems to lie apart
    from the annotated cells, otherwise an empty one."""
    if changed <= MANY_CHANGED:
        return []
    return [
        f"The cells of {name} lie apart from the annotated cells: {percent(changed)} of the assigned ones would get another type if they were "
        "aligned, and at least one of the two is wrong. Align them (--align; in Python align=True), and look at marker genes."
    ]


def _note_on_learned(n_learned: int, n_cells: int) -> str:
    return (
        f"{n_learned:,} of {n_cells:,} cells are annotated cells that the model learned from: their answers say little of new cells, "
        "and the expected error is that of the others."
    )


def _doublets(encoded: _Encoded, batches: Mapping[str, np.ndarray], seed: int) -> tuple[Doublets, list[str]]:
    """Look for doublets in each batch of a file, given as positions of its cells: cells are doublets of cells that were read
    together. Return them and what to note."""
    n = len(encoded.own)
    found, notes = Doublets(np.zeros(n, dtype=np.float32), np.zeros(n, dtype=bool)), []
    for name, cells in batches.items():
        of_batch, note = find_doublets(encoded.values_of(cells), seed)
        found.score[cells], found.called[cells] = of_batch.score, of_batch.called
        notes.append(note if len(batches) == 1 else f"{name}: {note}")
    return found, notes


def _annotate_copy(file: _File, h5ad: Path, options: Options) -> tuple[Predicted, str]:
    """Annotate a file and write the annotated copy and the tables; return the annotation and the file's SHA-256.

    Raises
    ------
    InputError
        If the file is wrong; the results of an earlier run are as they were then.
    """
    run, is_folder, stop = file.run, h5ad.is_dir(), Event()
    with (
        whole_file(run.annotated_target) as annotated,
        ThreadPoolExecutor(1, initializer=lower_priority) as copying,  # when a core has nothing else to do
        ThreadPoolExecutor(1) as aside,
    ):
        try:
            copied = None if is_folder else copying.submit(copy_until, stop, h5ad, annotated)
            hashed = aside.submit(sha256, h5ad)
            checked = None if is_folder else aside.submit(read_obs_of_whole, h5ad, file.values.path)
            aside.submit(import_module, "pyarrow.parquet")  # a sixth of a second
            predicted = _predicted(file)
            if options.report:
                predicted.groups = find_groups_of_file(
                    predicted.table, predicted.order, file.values.some, file.values.features, run.parameters.SEED
                )
            # Whatever is wrong is told before earlier results are moved: parts not read yet may be damaged, the disk full.
            adata = read_whole(h5ad) if checked is None else checked.result()
            if copied is not None:
                copied.result()
            log.info("writing")
            set_aside = previous.set_aside if run.manifest.exists() else previous.discard
            set_aside(run, keep=set())
            log_to(run.log)
            finished = aside.submit(_annotate_obs, annotated, predicted, adata, is_copy=not is_folder)
            _write_tables(predicted, options)
            finished.result()
            return predicted, hashed.result()
        except BaseException:  # Ctrl-C too: nobody waits for what is of no use any more
            stop.set()
            aside.shutdown(wait=False, cancel_futures=True)
            raise


def _annotate_obs(to: Path, predicted: Predicted, adata: ad.AnnData, *, is_copy: bool) -> None:
    """Write the annotation into the copy of the file, or all of `adata` where none was made."""
    annotate_obs(adata, predicted.table, predicted.classes, predicted.latent)
    if is_copy:
        put_tables(to, adata)
    else:
        write_cells(to, adata)


def _write_tables(predicted: Predicted, options: Options) -> None:
    run = predicted.run
    write_tables(predicted.table, run)
    write_groups(predicted.groups, predicted.table, run)
    if options.xlsx or len(predicted.table) <= MOST_IN_A_WORKBOOK:
        write_workbook(predicted.table, run, predicted.error)
        return
    words = f"{run.predictions_xlsx.name} is written of at most {MOST_IN_A_WORKBOOK:,} cells, because it takes longest"
    predicted.notes.append(f"{words}; of more with --xlsx. {run.predictions_csv.name} has the same table.")


def _write_about(predicted: Predicted, hashed: str, options: Options, begun: float) -> None:
    """Write what tells how a file was annotated; the manifest, which marks a finished run, is the last.

    Parameters
    ----------
    hashed
        SHA-256 of the file.
    begun
        By `time.monotonic`.
    """
    run, model = predicted.run, model_folder(predicted.run)
    manifest = {
        "versions": versions(),
        "model": {"path": str(model), "sha256": read_model_json(model)["sha256"]},
        "input": [{"path": run.parameters.paths[0], "sha256": hashed}],
        "notes": [*predicted.warnings, *predicted.notes, *predicted.alignment_notes],
    }
    groups = {"unlike_groups": to_json(predicted.groups and predicted.groups.table)} if options.report else {}
    write_json(run.metrics, {"target": _metrics(predicted) | groups})
    if options.report:
        report.write_prediction_html(predicted, manifest)
    write_prediction_crate(run, manifest, time.monotonic() - begun)
    write_json(run.manifest, manifest)


@contextmanager
def _nothing_left_if_refused(folder: Path) -> Iterator[None]:
    """Hold an output folder's lock; if the file turns out to be wrong, or nothing was written, leave the folder as it was, or none."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with locks.held(folder):
        try:
            yield
        except BaseException as error:
            with suppress(OSError):  # the folder is gone, or somebody else writes into one above it
                if isinstance(error, InputError) or {path.name for path in folder.iterdir()} == {locks.LOCK}:
                    (folder / locks.LOCK).unlink()
                for path in made:
                    path.rmdir()
            raise


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
