"""From Python: an AnnData in, `obs` and `obsm` keys out. The same stages as the notebooks', without files and pictures.

Values go by a temporary h5ad file, because everything that reads, checks and prepares them does so in blocks of rows from
a file: one code path, the same answers bit for bit, and memory for the selected features only.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Never

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import torch
from anndata.io import write_elem
from scipy import sparse

from .commands.predict import PARAMETERS_OF_FILE, annotate_file, parameters_for
from .core.coerce import ONTOLOGY
from .core.model_json import Normalisation, read_model_json
from .core.parameters import make_parameters
from .core.python_names import from_python, in_python
from .core.text import listing, plural
from .data import cells as data_cells
from .data import plan as data_plan
from .data import prepare, roles
from .data.h5ad import embedding_key, no_column, texts
from .data.integrity import mark_as_undamaged
from .data.layers import VOLUME_COLUMNS
from .errors import InputError
from .model import annotate as model_annotate
from .model import store
from .model.annotate import calibrate, known_with_rules, settings_of, train
from .model.expected_error import ExpectedError, expected_error
from .results import clusters, cohort, new_groups, summary, tables, target
from .runs.folder import Run

OBS_KEYS = (
    "jind_prediction", "jind_raw_prediction", "jind_confidence", "jind_reason", "jind_level", "jind_cluster",
    "jind_cluster_majority", "jind_cluster_share", "jind_doublet_score", "jind_prediction_ontology_term_id",
)  # fmt: skip

OBSM_KEY = "X_jind"

FILE = "adata.h5ad"

NOT_KNOWN = ExpectedError(None, None, "This model has annotated no target.")


def annotate(
    adata: ad.AnnData,
    *,
    batch_key: str,
    labels_key: str,
    target: str | Sequence[str] | None = None,
    source: str | None = None,
    intermediates: Sequence[str] = (),
    exclude: Sequence[str] = (),
    num_features: int = 5000,
    min_cell_type_population: int | Literal["auto"] | None = None,
    use_gpu: bool = True,
    method: Literal["default", "reference"] = "default",
    seed: int = 0,
    epochs: int = 15,
    rejection: float = 0.05,
    target_error: float | None = None,
    unlabeled: Sequence[str] | None = None,
    rename: Mapping[str, str] | None = None,
    gene_col: str | None = None,
    feature_types: Sequence[str] = (),
    layer: str | None = None,
    normalisation: Normalisation = "auto",
    align: bool | None = None,
    parents: Mapping[str, str] | str | None = None,
    ontology: Mapping[str, str] | str | None = None,
    types: Sequence[str] = (),
    doublets: bool = False,
    cluster_resolution: float | None = None,
    key_added: str = "jind",
    **unknown: Never,
) -> Model:
    """Annotate one batch of `adata`, the target, or several, with the labels of its other batches.

    The labels of a target, if it has any, are never read. What METHOD `default` does is in docs/method.md; with the same
    values and seed the answers are those of `jind-nb run`, bit for bit.

    Parameters
    ----------
    adata
        `n_obs` x `n_vars`, rows are cells: counts, other linear values or logarithms, dense or sparse; recognised batch
        by batch. May be a view (which becomes a copy, as in scanpy) or backed. A temporary file of the size of its
        values is written; memory is needed for the selected features only.
    batch_key
        Column of `adata.obs` with each cell's batch (donor, sample, study).
    labels_key
        Column of `adata.obs` with the cell types of the annotated batches; missing where not known.
    target
        The batch to annotate, or a list of batches; absent: every batch without labels. docs/cohorts.md compares the
        answers for several with those of a call for each.
    source
        The annotated batch training starts from; chosen automatically if absent.
    intermediates
        Intermediate batches, in training order; empty: every annotated batch not excluded.
    exclude
        Batches that take no part in anything.
    num_features
        How many features (genes, peaks) of largest variance are kept.
    min_cell_type_population
        A cell type with fewer labelled cells in a batch is left out of that batch's training. `auto`: only a type with a
        single cell in all annotated batches is left out (method `reference`: 100 if absent).
    use_gpu
        Use a GPU if there is one.
    method
        `reference` is the published method with its constants; `default` is what we recommend.
    seed
        Fixes every random choice.
    epochs
        method `reference`: epochs of each training stage, and at most of alignment.
    rejection
        theta: the share of a type's held-out cells that its confidence threshold would reject.
    target_error
        Instead of rejection: the highest share of wrong labels among the assigned cells of a batch that is new to the
        model, say 0.05.
    unlabeled
        Words in labels_key that mean: no label (upper and lower case, punctuation and a following "cells" make no
        difference). Default: -, ?, NA,
        unknown and the like.
    rename
        Labels to read as others, a map such as {"b cells": "B", "Bcell": "B"}; the target's own too.
    gene_col
        Column of `var` with the feature names; default: the index of `var`.
    feature_types
        Which `var.feature_types` to use; default: Gene Expression where all batches have it, else what all have.
    layer
        Which values to use: a layer's name, `.raw`, or `obsm:KEY` for an embedding of your own; default: `X`.
    normalisation
        What the values are: recognised batch by batch (`auto`), `counts` or another linear scale, `log1p` values, counts of
        antibodies (`clr`), cytometry (`panel`), in situ counts to divide by the cell's volume (`volume`), or to be left
        alone (`as_is`).
    align
        Align the target with the annotated batches (method `default`: as far as that helped left-out batches); default:
        yes, but not with pretrained_model_path.
    parents
        A coarser level: a map such as {"CD4 T": "T", "CD8 T": "T"}, a column of `obs` with it, or `ontology`; an ambiguous
        cell is then given the parent, where that is confident.
    ontology
        Terms of the Cell Ontology beside the answers: `auto`, by the types' names, or a map with more, such as {"Mono":
        "CL:0000576"}.
    types
        The only cell types that may be given, say those of the tissue; empty: all. Cells of others stay Unassigned and are
        counted.
    doublets
        Look for cells of the target that are two cells read as one (Scrublet); they stay Unassigned.
    cluster_resolution
        Leiden clusters of the target at this resolution (1 is usual), and the majority of each, beside the answer for each
        cell.
    key_added
        What the names of the keys that are written begin with, in place of `jind`: two answers stand side by side.

    Returns
    -------
    The model, to save, or to annotate other data with. Cells of the target get, and all others get a missing value for,

    `adata.obs["jind_prediction"]` : categorical
        The cell type, or `Unassigned`.
    `adata.obs["jind_raw_prediction"]` : categorical
        The most probable cell type.
    `adata.obs["jind_confidence"]` : float32
        Its probability, calibrated on annotated batches that were left out of training.
    `adata.obs["jind_reason"]` : categorical
        `confident`; of Unassigned cells `ambiguous`, `unlike reference` (unlike all annotated cells), `not in TYPES`,
        `doublet` or `no values`.
    `adata.obsm["X_jind"]` : float32, `n_obs` x size of a latent
        The cells' latents: what the model knows of a cell. Those of several targets are on axes of their own each (method
        `reference`: on the same).
    `adata.uns["jind_prediction_colors"]` : list of str
        The colour of each answer, in the order of the categories; scanpy's pictures use them.
    `adata.obs["jind_level"]`; `["jind_doublet_score"]`; `["jind_cluster"]`, `["jind_cluster_majority"]`, `["jind_cluster_share"]`
        With `parents`; with `doublets`; with `cluster_resolution`.

    Raises
    ------
    InputError
        If something about the data or parameters is wrong, with what to do; `adata` is then as it was.

    Warns
    -----
    UserWarning
        Of what a reader of the results should know first; this and less is in the model's `notes`.

    Examples
    --------
    >>> import jind_nb as jn, scanpy as sc
    >>> pbmc = sc.datasets.pbmc68k_reduced()
    >>> adata = pbmc.raw.to_adata()
    >>> adata.obs["well"] = adata.obs_names.str[-1]
    >>> model = jn.annotate(adata, batch_key="well", labels_key="bulk_labels", target="1")
    >>> adata.obs["jind_prediction"].notna().sum()  # the cells of well 1
    np.int64(95)
    """
    own = ("adata", "unknown", "key_added")
    options: dict[str, Any] = {name: value for name, value in locals().items() if name not in own and name != "own"}
    _check_key(key_added)
    missing = [name for name in ("batch_key", "labels_key") if options[name] is None]
    if missing:
        raise InputError(f"{missing[0]} is missing: jind_nb.annotate(adata, batch_key=…, labels_key=…).")
    values = from_python(options | unknown)
    columns = {"batch_key": values["BATCH_COL"], "labels_key": values["LABELS_COL"]}
    if (
        isinstance(values.get("PARENTS"), str)
        and values["PARENTS"] != ONTOLOGY
        and values["PARENTS"].strip()[:1] not in ("", "{")
    ):
        columns["parents"] = values["PARENTS"]
    with tempfile.TemporaryDirectory(prefix="jind-nb-") as folder, _as_file(adata, columns, values) as file:
        run = Run(roles.with_targets(make_parameters(values | {"PATH": str(file), "OUTPUT_PATH": folder})))
        found = {one.plan.target: one for one in _all_stages(run)}
        warned, notes = (
            list(dict.fromkeys(text for one in found.values() for text in getattr(one.plan, which)))
            for which in ("warnings", "notes")
        )
        errors = {name: one.error for name, one in found.items()}
        error = errors if len(errors) > 1 else next(iter(errors.values()))
        summaries = [one.summary for one in found.values()]
        model = Model(_moved(run.models), [*warned, *notes], error, summaries)
    weakref.finalize(model, shutil.rmtree, model.folder, ignore_errors=True)
    results = {name: one.result for name, one in found.items()}
    _write_targets(adata, texts(adata.obs[columns["batch_key"]]), results, key_added)
    _warn(warned)
    return model


def _write_targets(
    adata: ad.AnnData, batch: pd.Series, results: Mapping[str, target.TargetResult], key_added: str
) -> None:
    """Write the answers for the cells of all targets into an AnnData; latents shorter than others end in zeros."""
    order = np.argsort(np.concatenate([np.flatnonzero((batch == name).to_numpy()) for name in results]))
    table = tables.joint_table({name: tables.predictions_table(result) for name, result in results.items()})
    classes = sorted({name for result in results.values() for name in result.final.classes})
    latent = tables.joint_latent([result.latent for result in results.values()])
    rows = batch.isin(list(results)).to_numpy()
    _write_into(adata, rows, table.drop(columns="target").iloc[order], classes, latent[order], key_added)


@dataclass
class Stages:
    """What all stages give for one target."""

    plan: data_plan.Plan
    result: target.TargetResult
    error: ExpectedError
    summary: str


def _moved(models: Path) -> Path:
    """Move a run's models to a temporary folder of their own."""
    kept = Path(tempfile.mkdtemp(prefix="jind-nb-model-"))
    return models.rename(kept)  # of an empty folder takes the place


def _all_stages(run: Run) -> list[Stages]:
    """Do what the four notebooks do, but for their tables and pictures; leave `run.models`."""
    parameters = run.parameters
    cells = data_cells.read_cells(parameters)
    of_all = cells.copy()
    plan = roles.make_plan(parameters, of_all)
    prepared = prepare.prepare(parameters, of_all, plan)
    settings = settings_of(parameters)
    reference = train(prepared, plan, settings, keep_history=False)
    calibrations = calibrate(reference)
    plan.warnings += next((of_mode.contradictions for of_mode in calibrations.values()), [])
    known = known_with_rules(reference, calibrations)
    store.save_model(run.models, reference, calibrations, plan, parameters)
    found = []
    for one in run.each_target:
        of_one, values, own, learned = plan, prepared, calibrations, reference
        if one is not run:
            of_one, values = cohort.prepare_target(one, cells, plan, prepared)
        is_target = (values.obs["batch"] == of_one.target).to_numpy()
        x = sparse.csr_matrix(values[is_target].X)
        if cohort.learns_alone(one):
            alone = model_annotate.learn_and_annotate(values, of_one, settings, keep_history=False)
            annotated, own, learned = alone.annotated, alone.calibrations, alone.reference
        else:
            annotated = model_annotate.annotate(reference.model, x, known, settings)
        if one is run:
            store.save_target(run.models, annotated, plan.target, x, run.models)
        names = values.obs.loc[is_target, "cell"].astype(str).to_numpy()
        result = target.TargetResult(annotated.stages, names, annotated.final_latent, None, annotated.mode)
        result.ontology = of_one.ontology
        if annotated.doublets is not None:
            result.doublet_scores = annotated.doublets.score
        result = target.with_types(target.with_parents(result, of_one.parents, of_one.coarser), parameters.TYPES)
        result.clusters = clusters.cluster_target(x, result.names, parameters.CLUSTER_RESOLUTION, parameters.SEED)
        groups = new_groups.find_groups(values, of_one.target, result, parameters.SEED)
        result.groups = None if groups is None else groups.table
        training = learned.record() | {"calibration": {mode: of_mode.to_json() for mode, of_mode in own.items()}}
        text = summary.as_text(summary.summarise(result, of_one, training))
        found.append(Stages(of_one, result, expected_error(result.final, own.get(result.mode)), text))
    store.write_card(run.models)
    return found


class Model:
    """A trained model: a folder with what is needed to annotate other data. In a notebook it shows its model card.

    Attributes
    ----------
    folder
        The same as a run's `trained_models`: `jind-nb predict` and PRETRAINED_MODEL_PATH read it too.
    notes
        What was noticed about the data it was trained on, warnings first; nothing of a loaded one.
    expected_error, expected_error_range, expected_error_basis
        The share of wrong cells to expect among the assigned ones of the target, between which shares it probably is, and what
        that rests on. None with a single annotated batch, and where an earlier version saved the model. Of several targets
        each is a dict by target.
    """

    expected_error: float | dict[str, float | None] | None
    expected_error_range: tuple[float, float] | dict[str, tuple[float, float] | None] | None
    expected_error_basis: str | dict[str, str]

    def __init__(
        self,
        folder: Path,
        notes: Sequence[str] = (),
        error: ExpectedError | dict[str, ExpectedError] = NOT_KNOWN,
        summaries: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self._summaries = [_in_python(text) for text in summaries]
        self.notes = [_in_python(note) for note in notes]
        if isinstance(error, dict):
            self.expected_error = {name: of.value for name, of in error.items()}
            self.expected_error_range = {name: of.range for name, of in error.items()}
            self.expected_error_basis = {name: of.basis for name, of in error.items()}
        else:
            self.expected_error, self.expected_error_range = error.value, error.range
            self.expected_error_basis = error.basis

    @property
    def classes(self) -> list[str]:
        """The cell types that it can name, sorted."""
        return list(read_model_json(self.folder)["classes"])

    def summary(self) -> str:
        """Return what page one of a report says: how many cells were assigned, the error to expect, and what to check before
        the labels are used; a part for each target. Of a loaded model, what it can name and has learned from."""
        if self._summaries:
            return "\n\n".join(self._summaries)
        model = read_model_json(self.folder)
        types, batches = plural(len(self.classes), "cell type"), listing(model["files"], quoted=False)
        return f"A saved model of {types} ({listing(self.classes, quoted=False)}), learned from {batches}."

    def save(self, folder: Path | str, *, overwrite: bool = False) -> None:
        """Copy the model to a folder, which is made; with it a colleague annotates new data. It holds weights,
        descriptions, and of annotated cells the latents and numbers by which the same values are known again, but none of their
        values or names, and no program code.

        Parameters
        ----------
        overwrite
            Whether to replace a model that is there.

        Raises
        ------
        InputError
            If there is something of that name, and it is no model or not to be replaced.
        """
        folder = Path(folder).expanduser()
        if folder.exists() and not (overwrite and (folder / "model.json").exists()):
            how = "choose another name" if overwrite else "choose another name, or overwrite=True"
            raise InputError(f"folder: {folder} is there already{' and is no model' if overwrite else ''}; {how}.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as beside:
            new = shutil.copytree(self.folder, Path(beside) / "new")
            if folder.exists():
                folder.rename(Path(beside) / "old")
            new.rename(folder)

    def predict(
        self,
        adata: ad.AnnData,
        *,
        batch_key: str | None = None,
        align: bool = False,
        layer: str | None = None,
        gene_col: str | None = None,
        normalisation: Normalisation | None = None,
        types: Sequence[str] | None = None,
        doublets: bool = False,
        use_gpu: bool | None = None,
        key_added: str = "jind",
        **unknown: Never,
    ) -> ExpectedError:
        """Annotate every cell of other data, without training; writes the keys that `annotate` writes.

        Cells that the model annotated as its target are known again by their values, and get the same answers.

        Parameters
        ----------
        adata
            `n_obs` x `n_vars`, rows are cells, with the features the model looks at; those it lacks are taken as zero.
        batch_key
            Column of `adata.obs` with batches whose values may be of different kinds, and that are aligned apart; by
            default all cells are one batch.
        align
            Whether to align the cells with the annotated ones first.
        layer, gene_col, normalisation, types, use_gpu
            As in `annotate`; by default as the model was trained.
        doublets
            Whether to look in each batch for cells that are two cells read as one.
        key_added
            What the names of the keys that are written begin with.

        Returns
        -------
        The share of wrong cells to expect among the assigned ones of these data (`value`), between which shares it probably is
        (`range`), and what that rests on (`basis`).

        Raises
        ------
        InputError
            If the model or the data cannot be used, with what to do; `adata` is then as it was.
        """
        options = {
            "layer": layer, "gene_col": gene_col, "normalisation": normalisation, "types": types, "use_gpu": use_gpu,
            "doublets": doublets,
        }  # fmt: skip
        _check_key(key_added)
        values = from_python(options | unknown, PARAMETERS_OF_FILE)
        learned_from = read_model_json(self.folder)["preprocessing"]["layer"]
        if embedding_key(learned_from) is not None:
            values = {"LAYER": learned_from} | values
        with _as_file(adata, {"batch_key": batch_key} if batch_key else {}, values) as file:
            settings = parameters_for(self.folder, file, values | {"ALIGN": align, "OUTPUT_PATH": str(file.parent)})
            predicted = annotate_file(Run(settings), batch_key)
        everywhere = np.ones(adata.n_obs, dtype=bool)
        _write_into(adata, everywhere, predicted.table, predicted.classes, predicted.latent, key_added)
        _warn(predicted.warnings)
        return predicted.error

    def __repr__(self) -> str:
        model = read_model_json(self.folder)
        return (
            f"<jind_nb.Model in {self.folder}: {len(model['classes'])} cell types, {len(model['features'])} features, "
            f"learned from {', '.join(map(repr, model['files']))}>"
        )

    def _repr_markdown_(self) -> str:
        return store.card(self.folder)


def load_model(folder: Path | str) -> Model:
    """Read a model that `Model.save` wrote, or a run's `trained_models`. Nothing in the folder is executed.

    Raises
    ------
    InputError
        If there is none, or it is damaged.
    """
    folder = Path(folder).expanduser()
    with _errors_in_python():
        store.load_shared(folder, torch.device("cpu"))
        error = store.error_of_own_target(folder)
    return Model(folder, error=error)


# --- in and out ------------------------------------------------------------------------------------------------------


@contextmanager
def _as_file(adata: ad.AnnData, columns: Mapping[str, str], values: Mapping[str, Any]) -> Iterator[Path]:
    """Write what of an AnnData is needed to a temporary h5ad file.

    Parameters
    ----------
    columns
        The Python API's parameter -> the column of `obs` it names.
    values
        LAYER, NORMALISATION and GENE_COL, as far as they are given: what is asked for by name has no other in its place.

    Raises
    ------
    InputError
        For a missing column, values that cannot be written, and whatever is wrong inside, in the Python API's names.
    """
    layer = values.get("LAYER")
    searched = layer is None and values.get("NORMALISATION", "auto") == "auto"
    for name, column in columns.items():
        if column not in adata.obs:
            raise no_column(name, column, adata.obs, "obs of the AnnData")
    key = embedding_key(layer)
    if key is not None and key not in adata.obsm:
        raise InputError(f"layer: obsm has no matrix {key!r}; it has {', '.join(adata.obsm) or 'none'}.")
    with tempfile.TemporaryDirectory(prefix="jind-nb-") as folder, _errors_in_python(folder):
        file = Path(folder) / FILE
        try:
            parts: dict[str, Any] = {
                "obs": _as_text(adata.obs[list(dict.fromkeys(columns.values()))]).assign(**_volumes(adata.obs)),
                "var": _as_text(_names_in(adata.var, values.get("GENE_COL"))),
                # From anndata 0.13 on X is among the layers, under None.
                "layers": {n: adata.layers[n] for n in adata.layers if n is not None and (searched or n == layer)},
            }
            if adata.X is not None and (searched or layer is None):
                parts["X"] = adata.X
            if key is not None:
                parts["obsm"] = {key: adata.obsm[key]}
            if adata.raw is not None and (searched or layer == ".raw"):
                parts["raw"] = {"X": adata.raw.X, "var": _as_text(_names_in(adata.raw.var, values.get("GENE_COL")))}
            with h5py.File(file, "w") as h5:
                h5.attrs["encoding-type"], h5.attrs["encoding-version"] = "anndata", "0.1.0"
                for name, part in parts.items():
                    write_elem(h5, name, part)
        except (TypeError, ValueError, NotImplementedError) as error:
            raise InputError(f"adata: its values cannot be written to a temporary file ({error}).") from None
        mark_as_undamaged(file)
        yield file


def _volumes(obs: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return the columns of `obs` with the cells' volumes, numbers as they are."""
    return {name: obs[name].to_numpy() for name in VOLUME_COLUMNS if pd.api.types.is_numeric_dtype(obs.get(name))}


def _names_in(var: pd.DataFrame, gene_col: str | None) -> pd.DataFrame:
    """Return the columns of `var` that may name features."""
    return var[[c for c in var if c == gene_col or pd.api.types.infer_dtype(var[c].astype(object)) == "string"]]


def _as_text(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with text in all columns, which any file can hold."""
    index = table.index.astype(str)
    return pd.DataFrame({str(c): pd.Categorical(texts(table[c])) for c in table}, index=index)


@contextmanager
def _errors_in_python(folder: str = "") -> Iterator[None]:
    """Put errors into the Python API's words: an AnnData and its parameters."""
    try:
        yield
    except InputError as error:
        raise InputError(_in_python(str(error).replace(f"{folder}/{FILE}", FILE))) from None


def _in_python(message: str) -> str:
    message = re.sub(r"\bPRETRAINED_MODEL_PATH\b", "model", message.replace(FILE, "the AnnData"))
    return in_python(re.sub(r"\bPATH\b", "adata", message.replace("--batch-col", "batch_key")))


def _warn(messages: Sequence[str]) -> None:
    for text in messages:
        warnings.warn(_in_python(text), UserWarning, stacklevel=3)


def _check_key(key_added: str) -> None:
    if not isinstance(key_added, str) or not key_added.strip() or "/" in key_added:
        raise InputError(f"key_added: found {key_added!r}; a word such as 'jind' is needed, without a slash.")


def _write_into(
    adata: ad.AnnData, rows: np.ndarray, table: pd.DataFrame, classes: list[str], latent: np.ndarray, key_added: str
) -> None:
    """Write the answers for some rows (bool) of an AnnData into it, missing values for all others, under names that begin with
    `key_added`; what an earlier annotation of that name left is replaced."""
    some = ad.AnnData(obs=pd.DataFrame(index=pd.RangeIndex(int(rows.sum())).astype(str)))
    tables.annotate_obs(some, table, classes, latent)
    place = np.where(rows, np.cumsum(rows) - 1, -1)
    obs = adata.obs.drop(columns=[_named(name, key_added) for name in OBS_KEYS], errors="ignore")
    for name, column in some.obs.items():
        obs[_named(str(name), key_added)] = column.array.take(place, allow_fill=True)
    all_latents = np.full((adata.n_obs, latent.shape[1]), np.nan, dtype=np.float32)
    all_latents[rows] = some.obsm[OBSM_KEY]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ad.ImplicitModificationWarning)  # a view becomes a copy
        adata.obs = obs
        adata.obsm[f"X_{key_added}"] = all_latents
        adata.uns[f"{key_added}_prediction_colors"] = some.uns["jind_prediction_colors"]


def _named(name: str, key_added: str) -> str:
    return key_added + name.removeprefix("jind")
