"""From Python: an AnnData in, `obs` and `obsm` keys out. The same stages as the notebooks', without files and pictures.

Values go by a temporary h5ad file, because everything that reads, checks and prepares them does so in blocks of rows from
a file: one code path, the same answers bit for bit, and memory for the selected features only.
"""

from __future__ import annotations

import inspect
import re
import shutil
import tempfile
import textwrap
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import torch
from anndata.io import write_elem

from .commands.predict import OF_THE_FILE, annotate_file, settings_for
from .core.model_json import read_model_json
from .core.parameters import Parameters, make_parameters
from .core.python_names import from_python, in_python, python_names
from .data import cells as data_cells
from .data import plan as data_plan
from .data import prepare, roles
from .data.h5ad import no_column, texts
from .data.integrity import mark_as_undamaged
from .errors import InputError
from .model import alignment, calibration, store, training
from .model.leave_one_out import leave_batches_out
from .results import clusters, tables, target
from .runs.folder import Run

OURS = (
    "jind_prediction", "jind_raw_prediction", "jind_confidence", "jind_reason", "jind_level", "jind_cluster",
    "jind_cluster_majority", "jind_cluster_share",
)  # fmt: skip

CODES = "X_jind"

FILE = "adata.h5ad"

REQUIRED = ("batch_key", "labels_key", "target")


def annotate(adata: ad.AnnData, **parameters: Any) -> Model:
    """Annotates one batch of `adata`, the target, with the labels of its other batches.

    The labels of the target, if it has any, are never read. What METHOD `default` does is in docs/method.md; with the same
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
        The batch to annotate.
    {others}

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
        `confident`; of Unassigned cells `ambiguous`, or `unlike reference` (unlike all annotated cells).
    `adata.obsm["X_jind"]` : float32, `n_obs` x size of a code
        The cells' codes.
    `adata.obs["jind_level"]`; `["jind_cluster"]`, `["jind_cluster_majority"]`, `["jind_cluster_share"]`
        With `parents`; with `cluster_resolution`.

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
    >>> model = jn.annotate(adata, batch_key="well", labels_key="bulk_labels", target="1", min_cell_type_population=5)
    >>> adata.obs["jind_prediction"].notna().sum()  # the cells of well 1
    np.int64(95)
    """
    missing = [name for name in REQUIRED if parameters.get(name) is None]
    if missing:
        raise InputError(f"{missing[0]} is missing: jind_nb.annotate(adata, batch_key=…, labels_key=…, target=…).")
    values = from_python(parameters)
    columns = {"batch_key": values["BATCH_COL"], "labels_key": values["LABELS_COL"]}
    if isinstance(values.get("PARENTS"), str) and values["PARENTS"].strip()[:1] not in ("", "{"):
        columns["parents"] = values["PARENTS"]
    with tempfile.TemporaryDirectory(prefix="jind-nb-") as folder, _as_file(adata, columns, values) as file:
        run = Run(make_parameters(values | {"PATH": str(file), "OUTPUT_PATH": folder}))
        plan, result = _all_stages(run)
        model = Model(_kept(run.models), [*plan.warnings, *plan.notes])
    weakref.finalize(model, shutil.rmtree, model.folder, ignore_errors=True)
    table = tables.predictions_table(result)
    of_target = (texts(adata.obs[columns["batch_key"]]) == plan.target).to_numpy()
    _enter(adata, of_target, table, result.final.classes, result.codes)
    _warn(plan.warnings)
    return model


def _kept(models: Path) -> Path:
    """A run's models, moved to a temporary folder of their own."""
    kept = Path(tempfile.mkdtemp(prefix="jind-nb-model-"))
    return models.rename(kept)  # of an empty folder takes the place


def _all_stages(run: Run) -> tuple[data_plan.Plan, target.TargetResult]:
    """What the four notebooks do, but for their tables and pictures; leaves `run.models`."""
    parameters = run.parameters
    cells = data_cells.read_cells(parameters)
    plan = roles.make_plan(parameters, cells)
    prepared = prepare.prepare(parameters, cells, plan)
    settings = training.Settings.of(parameters)

    reference = training.start(prepared, plan, settings)
    reference.keeps_history = False
    training.learn_intermediates(reference)
    left_out = leave_batches_out(reference) if settings.calibrates else []
    calibrations = calibration.of_all_ways(left_out, settings, len(reference.batches))
    store.save_reference(reference, calibrations, plan, run)

    shared, known = store.load_shared(run.models, settings.device)
    is_target = (prepared.obs["batch"] == plan.target).to_numpy()
    x = prepared[is_target].X
    annotated = alignment.annotate(shared, x, known, settings)
    alignment.align(annotated, x, known, settings)
    alignment.self_train(annotated, x, known, settings)
    store.save_target(annotated, plan.target, x, run)

    names = prepared.obs.loc[is_target, "cell"].astype(str).to_numpy()
    codes = list(annotated.codes.values())[-1]
    result = target.TargetResult(annotated.stages, names, codes, None, annotated.way)
    result = target.with_parents(result, plan.parents)
    result.clusters = clusters.of_target(x, result.names, parameters.CLUSTER_RESOLUTION, parameters.SEED)
    return plan, result


class Model:
    """A trained model: a folder with what is needed to annotate other data. In a notebook it shows its model card.

    Attributes
    ----------
    folder
        The same as a run's `trained_models`: `jind-nb predict` and PRETRAINED_MODEL_PATH read it too.
    notes
        What was noticed about the data it was trained on, warnings first; nothing of a loaded one.
    """

    def __init__(self, folder: Path, notes: Sequence[str] = ()) -> None:
        self.folder = folder
        self.notes = [_in_words(note) for note in notes]

    @property
    def classes(self) -> list[str]:
        """The cell types that it can name, sorted."""
        return list(read_model_json(self.folder)["classes"])

    def save(self, folder: Path | str, *, overwrite: bool = False) -> None:
        """Copies the model to a folder, which is made; with it a colleague annotates new data. It holds weights,
        descriptions and the codes of annotated cells, but none of their values or names, and no program code.

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
        self, adata: ad.AnnData, *, batch_key: str | None = None, align: bool = False, **parameters: Any
    ) -> None:
        """Annotates every cell of other data, without training; writes the keys that `annotate` writes.

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
        **parameters
            `layer`, `gene_col`, `normalisation`, `use_gpu`, as in `annotate`; by default as the model was trained.

        Raises
        ------
        InputError
            If the model or the data cannot be used, with what to do; `adata` is then as it was.
        """
        values = from_python(parameters, OF_THE_FILE)
        with _as_file(adata, {"batch_key": batch_key} if batch_key else {}, values) as file:
            settings = settings_for(self.folder, file, values | {"ALIGN": align, "OUTPUT_PATH": str(file.parent)})
            predicted = annotate_file(Run(settings), batch_key)
        _enter(adata, np.ones(adata.n_obs, dtype=bool), predicted.table, predicted.classes, predicted.codes)
        _warn(predicted.warnings)

    def __repr__(self) -> str:
        model = read_model_json(self.folder)
        return (
            f"<jind_nb.Model in {self.folder}: {len(model['classes'])} cell types, {len(model['features'])} features, "
            f"learned from {', '.join(map(repr, model['files']))}>"
        )

    def _repr_markdown_(self) -> str:
        return store.card(self.folder)


def load_model(folder: Path | str) -> Model:
    """A model that `Model.save` wrote, or a run's `trained_models`. Nothing in the folder is executed.

    Raises
    ------
    InputError
        If there is none, or it is damaged.
    """
    folder = Path(folder).expanduser()
    with _told_in_python():
        store.load_shared(folder, torch.device("cpu"))
    return Model(folder)


# --- in and out ------------------------------------------------------------------------------------------------------


@contextmanager
def _as_file(adata: ad.AnnData, columns: Mapping[str, str], values: Mapping[str, Any]) -> Iterator[Path]:
    """What of an AnnData is needed, in a temporary h5ad file.

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
    with tempfile.TemporaryDirectory(prefix="jind-nb-") as folder, _told_in_python(folder):
        file = Path(folder) / FILE
        try:
            parts: dict[str, Any] = {
                "obs": _as_text(adata.obs[list(dict.fromkeys(columns.values()))]),
                "var": _as_text(_names_in(adata.var, values.get("GENE_COL"))),
                "layers": {name: adata.layers[name] for name in adata.layers if searched or name == layer},
            }
            if adata.X is not None and (searched or layer is None):
                parts["X"] = adata.X
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


def _names_in(var: pd.DataFrame, gene_col: str | None) -> pd.DataFrame:
    """The columns of `var` that may name features."""
    return var[[c for c in var if c == gene_col or pd.api.types.infer_dtype(var[c].astype(object)) == "string"]]


def _as_text(table: pd.DataFrame) -> pd.DataFrame:
    """The same with text in all columns, which any file can hold."""
    index = table.index.astype(str)
    return pd.DataFrame({str(c): pd.Categorical(texts(table[c])) for c in table}, index=index)


@contextmanager
def _told_in_python(folder: str = "") -> Iterator[None]:
    """Errors in the Python API's words: of an AnnData and its parameters."""
    try:
        yield
    except InputError as error:
        raise InputError(_in_words(str(error).replace(f"{folder}/{FILE}", FILE))) from None


def _in_words(told: str) -> str:
    told = re.sub(r"\bPRETRAINED_MODEL_PATH\b", "model", told.replace(FILE, "the AnnData"))
    return in_python(re.sub(r"\bPATH\b", "adata", told.replace("--batch-col", "batch_key")))


def _warn(told: Sequence[str]) -> None:
    for text in told:
        warnings.warn(_in_words(text), UserWarning, stacklevel=3)


def _enter(adata: ad.AnnData, rows: np.ndarray, table: pd.DataFrame, classes: list[str], codes: np.ndarray) -> None:
    """Writes the answers for some rows (bool) of an AnnData into it, missing values for all others; what an earlier
    annotation left is replaced."""
    some = ad.AnnData(obs=pd.DataFrame(index=pd.RangeIndex(int(rows.sum())).astype(str)))
    tables.annotate_obs(some, table, classes, codes)
    place = np.where(rows, np.cumsum(rows) - 1, -1)
    obs = adata.obs.drop(columns=list(OURS), errors="ignore")
    for name, column in some.obs.items():
        obs[name] = column.array.take(place, allow_fill=True)
    all_codes = np.full((adata.n_obs, codes.shape[1]), np.nan, dtype=np.float32)
    all_codes[rows] = some.obsm[CODES]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ad.ImplicitModificationWarning)  # a view becomes a copy
        adata.obs = obs
        adata.obsm[CODES] = all_codes


# --- what `help` and Jupyter show -------------------------------------------------------------------------------------


def _document(function: Any) -> None:
    """Puts the parameters that `parameters` knows into a function's docstring and signature, for Tab and `?`."""
    others, lines = {}, []
    for python, name in python_names().items():
        if python in REQUIRED:
            continue
        field = Parameters.model_fields[name]
        default = field.get_default(call_default_factory=True)
        others[python] = inspect.Parameter(python, inspect.Parameter.KEYWORD_ONLY, default=default)
        text = in_python(str(field.description)) + (f" Default: {default!r}." if default not in (None, []) else "")
        lines += [python, *textwrap.wrap(text, 100, initial_indent="    ", subsequent_indent="    ")]
    function.__doc__ = function.__doc__.replace("{others}", "\n    ".join(lines))
    first = inspect.Parameter("adata", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation="ad.AnnData")
    required = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation="str") for name in REQUIRED]
    function.__signature__ = inspect.Signature([first, *required, *others.values()], return_annotation="Model")


_document(annotate)
