"""Reading, checking and preprocessing: from the user's files to one prepared AnnData.

    cells = read_cells(parameters)          # one row a cell: file, row, name, batch, cell type
    plan = make_plan(parameters, cells)     # who trains, who is annotated, what is left out and why
    prepared = prepare(parameters, cells, plan)

Only `read_target_labels`, which evaluation calls, ever reads the target's labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from ..core.model_json import read_model_json
from ..core.parameters import Parameters
from ..core.text import listing
from ..errors import InputError
from . import features, variable_features
from .layers import Choice, Loaded, choose
from .plan import Plan
from .scale import done

# --- values ----------------------------------------------------------------------------------------------------------


def prepare(parameters: Parameters, cells: pd.DataFrame, plan: Plan) -> ad.AnnData:
    """Reads, normalises and selects: what training and alignment work on.

    Files are read in blocks of rows: once to check them and see what their values are, once for the features'
    variances, once for the values that are kept, which alone are ever held (all, where there are few). Where this process
    has a Dask client, or DASK_SCHEDULER_ADDRESS names a scheduler, its workers read the blocks of a large file; the
    result is the same.

    With PRETRAINED_MODEL_PATH the model's features are taken instead of the most variable ones, absent ones as zero.

    Returns
    -------
    AnnData, rows are the cells that train and the target's, in the input's order; `X` float32 CSR, features sorted by
    name; `obs`: `cell`, `file`, `row`, `batch`, `cell_type` (missing for the target); `var`: `variance` over all cells
    of the batches that take part (float32; NaN with a saved model). With MARKERS: `obsm["markers"]`, float32 CSR, the
    values of those the file has, selected or not, and `uns["markers"]`, their names as MARKERS gives them.

    Raises
    ------
    InputError
        If the values cannot be read or brought to one scale, or under 20 % of the features are there.
    """
    cells, markers, var, wanted = _chosen(parameters, cells, plan)
    x, *of_markers = variable_features.kept(*wanted)
    if parameters.PRETRAINED_MODEL_PATH is not None:  # whose features stand in the order of the run that trained it
        x.sort_indices()
    obs = cells[["cell", "file", "row", "batch", "cell_type"]].copy()
    obs.index = pd.RangeIndex(len(obs)).astype(str)
    obs["batch"] = pd.Categorical(obs["batch"], categories=[*plan.annotated, plan.target])
    obs["cell_type"] = pd.Categorical(obs["cell_type"], categories=plan.classes)
    prepared = ad.AnnData(x, obs=obs, var=var)
    if markers:
        prepared.obsm["markers"] = of_markers[0]
        prepared.uns["markers"] = list(markers)
    return prepared


def prepare_in_blocks(parameters: Parameters, cells: pd.DataFrame, plan: Plan) -> Iterator[sparse.csr_matrix]:
    """The target's values as `prepare` gives them, some cells after the others, in their order: no more is ever held."""
    for x, *_ in variable_features.kept_in_blocks(*_chosen(parameters, cells, plan)[-1]):
        yield x


def _chosen(
    parameters: Parameters, cells: pd.DataFrame, plan: Plan
) -> tuple[pd.DataFrame, dict[str, int], pd.DataFrame, tuple[Any, ...]]:
    """Reads the values once or twice, enters what they are into the plan, and chooses features.

    Returns
    -------
    The cells that train and the target's, the markers there are, the features, and what `selection.kept` is told.
    """
    takes_part = cells["batch"].isin([*plan.annotated, plan.target])
    cells = cells[takes_part].reset_index(drop=True)
    model = None
    if parameters.PRETRAINED_MODEL_PATH is not None:
        model = read_model_json(Path(parameters.PRETRAINED_MODEL_PATH))
        plan.classes = model["classes"]
        plan.parents = plan.parents or model.get("parents", {})
    choice = choose(parameters, cells, model["preprocessing"] if model else None)
    _describe(choice, plan)
    in_files, gene_cols = _feature_names(choice.loaded, model["features"] if model else None, plan)
    totals_over = _totals_over(parameters, choice, in_files, plan, model)
    names = in_files[0] if totals_over is None else totals_over
    columns = [None if totals_over is None else features.match(totals_over, index)[0] for index in in_files]
    used = (cells["trains"] | (cells["batch"] == plan.target)).to_numpy()
    markers = _marker_columns(parameters, names, choice.loaded[0], in_files[0], plan)
    if model is None:
        # A file to annotate later will be like the target's, where the files differ.
        of_target = next((i for i, one in enumerate(choice.loaded) if plan.target in one.rows), 0)
        plan.preprocessing = choice.scale | {
            "layer": choice.loaded[of_target].layer,
            "gene_col": gene_cols[of_target],
            "totals_over": None if totals_over is None else list(totals_over),
        }
        chosen, var = _select(parameters, choice, columns, names, cells, plan)
    else:
        plan.preprocessing = model["preprocessing"]
        chosen, var = _as_in_model(names, in_files, pd.Index(model["features"]), plan)
    plan.features = {"in_file": len(in_files[0]) if model is not None else len(names), "kept": len(var)} | plan.features
    wanted = (chosen, np.array(list(markers.values()), dtype=int))[: 2 if markers else 1]
    of_files = [wanted] * len(choice.loaded)
    return cells[used], markers, var, (choice.loaded, choice.scale, _by_file(used, choice), columns, of_files)


def _by_file(values: np.ndarray, choice: Choice) -> list[np.ndarray]:
    """What is known of each cell that takes part, file by file."""
    return np.split(values, np.cumsum([len(one.cells) for one in choice.loaded])[:-1])


def _marker_columns(p: Parameters, names: pd.Index, first: Loaded, in_first: pd.Index, plan: Plan) -> dict[str, int]:
    """Where each of MARKERS is among the columns `names`: by the features' names, else by another text column of the
    first file's `var`, whose features are `in_first`. What is nowhere is noted."""
    wanted = pd.Index(list(dict.fromkeys(marker for of_type in p.MARKERS.values() for marker in of_type)), dtype=object)
    if not len(wanted):
        return {}
    found = features.match(wanted, names)[0]
    for column in first.columns.values():
        by_column = features.match(wanted, column)[0]
        elsewhere = np.where(by_column < 0, -1, names.get_indexer(in_first[by_column]))
        found = np.where(found < 0, elsewhere, found)
    missing = list(wanted[found < 0])
    if missing:
        plan.notes.append(
            f"MARKERS: {len(missing):,} of {len(wanted):,} features are not in the data and are not shown: "
            f"{listing(missing)}."
        )
    return {str(name): int(column) for name, column in zip(wanted, found, strict=True) if column >= 0}


def _describe(choice: Choice, plan: Plan) -> None:
    """Enters into the plan what the values look like and what is done with them."""
    plan.warnings += choice.warnings
    plan.matrices = choice.table
    plan.values = [
        {
            "batch": name,
            "looks like": found.kind,
            "evidence": found.because,
            "from": found.smallest,
            "to": found.largest,
            "stored %": round(100 * found.stored, 1),
            "median cell total": found.median_total,
            "done": done(found, choice.scale),
        }
        for loaded in choice.loaded
        for name, found in loaded.evidence.items()
    ]
    kinds = {row["looks like"] for row in plan.values}
    if choice.scale["rescaled"] and (len(kinds) > 1 or not kinds <= {"counts", "linear"}):
        plan.notes.append(
            f"Batches hold values of different kinds or cell totals; all were brought to {choice.scale['scale']}."
        )


def _feature_names(
    loaded: list[Loaded], model: list[str] | None, plan: Plan
) -> tuple[list[pd.Index], list[str | None]]:
    """For each file the names its features go by, unique, and the column of `var` they are from (None: its index)."""
    columns = [one.columns for one in loaded]
    if model is not None:
        chosen = features.choose_columns([{"": pd.Index(model)}, *columns], given=True)[1:]
    else:
        chosen = features.choose_columns(columns)
    names = []
    for one, column in zip(loaded, chosen, strict=True):
        index = one.columns[column]
        if column and len(one.columns) > 1:
            plan.notes.append(
                f"The features of {one.file.name} are named by column {column!r} of var, which fits best."
            )
        repeated = int(index.duplicated().sum())
        if repeated:
            plan.notes.append(
                f"{repeated} feature names of {one.file.name} occur more than once; made unique (A, A-1, …)."
            )
        names.append(features.unique(index))
    return names, [column or None for column in chosen]


def _totals_over(
    p: Parameters, choice: Choice, names: list[pd.Index], plan: Plan, model: dict[str, Any] | None
) -> pd.Index | None:
    """The features that a cell's total is over: all of the file (None), or those common to several files."""
    if model is not None and model["preprocessing"]["totals_over"] is not None:
        return pd.Index(model["preprocessing"]["totals_over"])
    if len(names) == 1:
        return None
    common = names[0]
    for other, one in zip(names[1:], choice.loaded[1:], strict=True):
        found, any_case = features.match(common, other)
        if any_case:
            plan.notes.append(f"The features of {one.file.name} were matched with upper and lower case taken as alike.")
        common = common[found >= 0]
    if not len(common):
        if all(features.kind_of(index) == "peaks" for index in names):
            raise InputError(
                "PATH: the files have no peak in common. Peaks are matched by position, not overlapped: re-quantify all "
                f"batches on one common peak set. The files begin {_examples(names)}."
            )
        raise InputError(
            f"PATH: the files have no feature name in common (they begin {_examples(names)}). Use the same kind of "
            "names in all, or name the column of var that has them in GENE_COL."
        )
    fewest = min(len(index) for index in names)
    plan.notes.append(f"{len(common):,} features are common to all files (the smallest has {fewest:,}).")
    if model is None:
        _compare_files(p, choice, names, plan)
    return common


def _examples(names: list[pd.Index]) -> str:
    return "; ".join(f"{list(index[:3])}" for index in names)


def _compare_files(p: Parameters, choice: Choice, names: list[pd.Index], plan: Plan) -> None:
    """How many of the most variable features of each annotated file every other file has."""
    for one, index in zip(choice.loaded, names, strict=True):
        if plan.target in one.rows and len(one.rows) == 1:
            continue
        found = variable_features.moments([one], choice.scale, [np.full(len(one.cells), "")], [None])
        wanted = index[variable_features.most_variable(found.variance, p.NUM_FEATURES)]
        for other, other_index in zip(choice.loaded, names, strict=True):
            if other is not one:
                missing = features.match(wanted, other_index)[0] < 0
                of = f"that vary most in {one.file.name}"
                for batch in other.rows:
                    _enter_overlap(plan, batch, wanted, missing, of)
                _judge(plan, f"PATH: {other.file.name} ({listing(list(other.rows), 5)})", wanted, missing, of)


def _enter_overlap(plan: Plan, batch: str, wanted: pd.Index, missing: np.ndarray, of: str) -> None:
    plan.overlap.append(
        {
            "batch": batch,
            "features": of,
            "there": int((~missing).sum()),
            "of": len(wanted),
            "%": round(100 * float((~missing).mean()), 1) if len(wanted) else 100.0,
            "missing": ", ".join(map(str, wanted[missing][: features.NAMES_SHOWN]))
            + (" …" if missing.sum() > 10 else ""),
        }
    )


def _judge(
    plan: Plan, who: str, wanted: pd.Index, missing: np.ndarray, of: str, refuse_below: float = features.REFUSE_BELOW
) -> None:
    warning = features.judge(who, wanted, missing, of, refuse_below)
    if warning:
        plan.warnings.append(warning)


def _select(
    p: Parameters,
    choice: Choice,
    columns: list[np.ndarray | None],
    names: pd.Index,
    cells: pd.DataFrame,
    plan: Plan,
) -> tuple[np.ndarray, pd.DataFrame]:
    """The columns of the most variable features, sorted by name; sees that every batch has them."""
    batch = cells["batch"].to_numpy()
    found = variable_features.moments(choice.loaded, choice.scale, _by_file(batch, choice), columns)
    chosen = variable_features.most_variable(found.variance, p.NUM_FEATURES)
    chosen = chosen[np.argsort(names[chosen].to_numpy(dtype=str), kind="stable")]
    seen = {name: found.seen[name][chosen] for name in dict.fromkeys(batch)}
    for name, missing in features.never_seen(seen, cells["batch"].value_counts().to_dict()).items():
        _enter_overlap(plan, name, names[chosen], missing, "kept, seen at all")
        # Among z-scores zero is a value like any other, and says nothing about what was measured.
        if plan.preprocessing["values"] != "as they are":
            _judge(plan, f"Batch {name!r}", names[chosen], missing, "kept (the others are zero in all its cells)")
    return chosen, pd.DataFrame({"variance": found.variance[chosen].astype(np.float32)}, index=names[chosen])


def _as_in_model(
    names: pd.Index, in_files: list[pd.Index], wanted: pd.Index, plan: Plan
) -> tuple[np.ndarray, pd.DataFrame]:
    """The columns of the saved model's features, in its order (-1: taken as zero); `names` are the columns', `in_files`
    what the files have."""
    missing = np.zeros(len(wanted), dtype=bool)
    for index in in_files:
        found, any_case = features.match(wanted, index)
        missing |= found < 0
        if any_case:
            plan.notes.append("The features were matched to the model's with upper and lower case taken as alike.")
    plan.features["missing"] = int(missing.sum())
    _enter_overlap(plan, plan.target, wanted, missing, "of the model")
    if missing.all():
        raise InputError(
            f"PRETRAINED_MODEL_PATH: none of the model's {len(wanted):,} features is in the file (the model has "
            f"{list(wanted[:3])}, the file {list(in_files[0][:3])}). GENE_COL can name another column of var."
            + (" Peaks must be re-quantified on the model's." if features.kind_of(wanted) == "peaks" else "")
        )
    _judge(
        plan, f"PRETRAINED_MODEL_PATH: {plan.target!r}", wanted, missing, "of the model", features.MODEL_REFUSES_BELOW
    )
    if missing.any():
        plan.notes.append(
            f"{int(missing.sum()):,} of the model's {len(wanted):,} features are not in the file; taken as zero."
        )
    nothing = np.full(len(wanted), np.nan)
    var = pd.DataFrame({"variance": nothing}, index=wanted)
    return features.match(wanted, names)[0], var
