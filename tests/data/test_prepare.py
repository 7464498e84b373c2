"""Reading, planning and preparing: whatever an h5ad file looks like, the same cells give the same numbers."""

from __future__ import annotations

import gzip
import json
import math
import re
import tracemalloc
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from jind_nb.core.methods import DATA_RULES
from jind_nb.core.model_json import ALL_FEATURES, CommonScale, write_all_features, write_model_json
from jind_nb.core.parameters import Parameters, make_parameters
from jind_nb.data import cells as data_cells
from jind_nb.data import chunks, datasets, layers
from jind_nb.data import plan as data_plan
from jind_nb.data import prepare as data_prepare
from jind_nb.data import roles as data_roles
from jind_nb.data.scale import scale_of_counts, to_log_counts
from jind_nb.errors import InputError
from jind_nb.report.html import table_html
from jind_nb.results import data_tables
from tests.helpers.simulated import MODEL, THREE_BATCHES, simulated

NUMBERED = {"1": {"B": 20, "T": 20}, "2": {"B": 20, "T": 20}, "3": {"B": 15, "T": 15}}


class Prepared(NamedTuple):
    """What reading, planning and preparing gave."""

    parameters: Parameters
    cells: pd.DataFrame
    plan: data_plan.Plan
    adata: ad.AnnData

    @property
    def values(self) -> np.ndarray:
        return self.adata.X.toarray()

    def of_batch(self, name: str) -> np.ndarray:
        return self.values[(self.adata.obs["batch"] == name).to_numpy()]


@pytest.fixture
def prepare(tmp_path: Path) -> Callable[..., Prepared]:
    """Writes the given AnnData (or uses the given paths) and goes the way of the first notebook."""

    def call(given: ad.AnnData | Path | list[Path], **values: Any) -> Prepared:
        if isinstance(given, ad.AnnData):
            given.write_h5ad(tmp_path / "in.h5ad")
            given = tmp_path / "in.h5ad"
        paths = [str(path) for path in given] if isinstance(given, list) else str(given)
        p = make_parameters(
            {
                "PATH": paths,
                "BATCH_COL": "batch",
                "LABELS_COL": "celltype",
                "TARGET_DATASET_NAME": "c",
                "OUTPUT_PATH": str(tmp_path / "out"),
                "MIN_CELL_TYPE_POPULATION": 5,
            }
            | values
        )
        cells = data_cells.read_cells(p)
        plan = data_roles.make_plan(p, cells)
        return Prepared(p, cells, plan, data_prepare.prepare(p, cells, plan))

    return call


def same(one: Prepared, other: Prepared) -> None:
    """Everything that training sees is identical, wherever in the file it was."""
    np.testing.assert_array_equal(one.values, other.values)
    pd.testing.assert_frame_equal(one.adata.obs, other.adata.obs)
    pd.testing.assert_frame_equal(one.adata.var, other.adata.var, check_names=False)
    plans = [asdict(prepared.plan) for prepared in (one, other)]
    for plan in plans:
        del plan["matrices"], plan["preprocessing"]["layer"], plan["preprocessing"]["gene_col"]
    assert plans[0] == plans[1]


def same_by_batch(one: Prepared, other: Prepared) -> None:
    """The same values, where the batches' cells stand in another order."""
    for name in "abc":
        np.testing.assert_array_equal(one.of_batch(name), other.of_batch(name))


def log_counts(counts: np.ndarray, total: float = 1e4) -> np.ndarray:
    """The formula of method_reference.md, in float64."""
    counts = np.asarray(counts, dtype=np.float64)
    return np.log(1 + total * counts / (counts.sum(axis=1, keepdims=True) + 1e-5))


def changed(adata: ad.AnnData, **columns: Any) -> ad.AnnData:
    adata = adata.copy()
    for name, values in columns.items():
        adata.obs[name] = values
    return adata


# --- how values are stored -------------------------------------------------------------------------------------------


def _in_raw(adata: ad.AnnData) -> ad.AnnData:
    scaled = ad.AnnData(adata.X.toarray()[:, :10] - 0.5, obs=adata.obs, var=adata.var.iloc[:10])
    scaled.raw = adata
    return scaled


def _in_layer(adata: ad.AnnData) -> ad.AnnData:
    return ad.AnnData(adata.X * -0.5, obs=adata.obs, var=adata.var, layers={"counts": adata.X})


def _in_gene_col(adata: ad.AnnData) -> ad.AnnData:
    var = pd.DataFrame({"symbol": pd.Categorical(adata.var_names)}, index=[f"ENSG{i}" for i in range(adata.n_vars)])
    return ad.AnnData(adata.X, obs=adata.obs, var=var)


def _with_stored_zeros(adata: ad.AnnData) -> ad.AnnData:
    matrix = adata.X.tocoo()
    row, col = np.append(matrix.row, [0, 1]), np.append(matrix.col, [0, 0])
    stored = sparse.coo_matrix((np.append(matrix.data, [0, 0]).astype(np.float32), (row, col)), matrix.shape).tocsr()
    return ad.AnnData(stored, obs=adata.obs, var=adata.var)


def _as(convert: Callable[[Any], Any]) -> Callable[[ad.AnnData], ad.AnnData]:
    return lambda adata: ad.AnnData(convert(adata.X), obs=adata.obs, var=adata.var)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stored", "parameters"),
    [
        (_as(lambda x: x.toarray()), {}),
        (_as(lambda x: x.toarray().astype(np.int32)), {}),
        (_as(lambda x: np.asfortranarray(x.toarray().astype(np.float64))), {}),
        (_as(lambda x: x.tocsc()), {}),
        (_as(lambda x: x.astype(np.float64)), {}),
        (_as(lambda x: x.astype(np.int64)), {}),
        (_as(lambda x: x.tocsc().astype(np.uint16)), {}),
        (_with_stored_zeros, {}),
        (_in_raw, {"LAYER": ".raw"}),
        (_in_layer, {"LAYER": "counts"}),
        (_in_gene_col, {"GENE_COL": "symbol"}),
    ],
    ids=[
        "dense",
        "dense-int32",
        "dense-float64",
        "csc",
        "csr-float64",
        "csr-int64",
        "csc-uint16",
        "stored-zeros",
        "raw",
        "layer",
        "gene-column",
    ],
)
def test_the_same_values_stored_in_any_way_prepare_the_same(
    prepare: Callable[..., Prepared], stored: Callable[[ad.AnnData], ad.AnnData], parameters: dict[str, str]
) -> None:
    plain = simulated(THREE_BATCHES)
    same(prepare(stored(plain), **parameters), prepare(plain))


def test_a_dense_matrix_is_read_in_pieces_without_loss(
    prepare: Callable[..., Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = simulated(THREE_BATCHES)
    whole = prepare(plain)
    monkeypatch.setattr(chunks, "VALUES_AT_ONCE", 7 * 60)
    same(prepare(_as(lambda x: x.toarray())(plain)), whole)


@pytest.mark.slow
def test_prepared_values_are_sparse_float32_and_reading_never_makes_them_dense(
    prepare: Callable[..., Prepared], tmp_path: Path
) -> None:
    """2,000 cells x 40,000 peaks would be 320 MB dense, and are 50 times as many in a user's atlas."""
    random = np.random.default_rng(0)
    matrix = sparse.random(2000, 40_000, density=1e-3, format="csr", dtype=np.float32, random_state=random)
    matrix.data = np.ceil(matrix.data * 5)
    obs = pd.DataFrame(
        {"batch": np.repeat(["a", "c"], 1000), "celltype": np.tile(["B", "T"], 1000)}, index=np.arange(2000).astype(str)
    )
    file = tmp_path / "peaks.h5ad"
    ad.AnnData(matrix, obs=obs, var=pd.DataFrame(index=np.arange(40_000).astype(str))).write_h5ad(file)
    tracemalloc.start()
    try:
        result = prepare(file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(result.adata.X, sparse.csr_matrix)
    assert result.adata.X.dtype == np.float32
    assert result.adata.shape == (2000, 5000)
    assert peak < 80e6


# --- batches and labels ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "convert",
    [
        lambda batch: batch.astype(int).to_numpy(),
        lambda batch: batch.astype(float).to_numpy(),
        lambda batch: batch.astype(np.int8).to_numpy(),
        lambda batch: pd.Categorical(batch.astype(int)),
        lambda batch: pd.Categorical(batch, categories=["9", "3", "2", "1", "unused"]),
        lambda batch: pd.array(batch.astype(int), dtype="Int64"),
        lambda batch: [f" {name} " for name in batch],
    ],
    ids=["int", "float", "int8", "categorical-int", "categorical-unused", "nullable", "blanks"],
)
def test_batches_named_by_number_are_those_named_by_text(
    prepare: Callable[..., Prepared], convert: Callable[[pd.Series], Any]
) -> None:
    plain = simulated(NUMBERED)
    roles = {"TARGET_DATASET_NAME": 3, "SOURCE_DATASET_NAME": "2", "INTER_DATASETS_NAMES": [1.0]}
    as_text = prepare(plain, **roles)
    as_numbers = prepare(changed(plain, batch=convert(plain.obs["batch"])), **roles)
    same(as_numbers, as_text)
    assert as_text.plan.annotated == ["2", "1"]


@pytest.mark.parametrize("convert", [lambda batch: batch.astype(float), pd.Categorical], ids=["float", "text"])
def test_cells_without_a_batch_take_no_part_and_are_noted(
    prepare: Callable[..., Prepared], convert: Callable[[pd.Series], Any]
) -> None:
    """With gaps, pandas reads batch 1 as 1.0; it is still batch 1."""
    adata = simulated(NUMBERED)
    batch = adata.obs["batch"].copy()
    batch.iloc[:7] = np.nan
    result = prepare(changed(adata, batch=convert(batch)), TARGET_DATASET_NAME="3")
    assert set(result.adata.obs["batch"].cat.categories) == {"1", "2", "3"}
    assert result.adata.n_obs == adata.n_obs - 7
    assert list(result.adata.obs["cell"]) == list(adata.obs_names[7:])
    assert any(note.startswith("7 cells have no value in 'batch'") for note in result.plan.notes)


@pytest.mark.slow
@pytest.mark.parametrize("placeholder", [None, "", "  ", "Unknown", "NA", " unassigned ", "-"])
def test_cells_without_a_label_never_train(prepare: Callable[..., Prepared], placeholder: str | None) -> None:
    adata = simulated(THREE_BATCHES)
    unlabelled = np.flatnonzero(adata.obs["batch"] == "a")[:30]
    labels = adata.obs["celltype"].to_numpy(dtype=object)
    labels[unlabelled] = placeholder
    result = prepare(changed(adata, celltype=pd.Categorical(labels)))
    assert result.plan.classes == ["B", "NK", "T"]
    assert sum(result.plan.cells["a"].values()) == 110 - 30
    assert not set(adata.obs_names[unlabelled]) & set(result.adata.obs["cell"])
    assert not result.cells["trains"].to_numpy()[unlabelled].any()


@pytest.mark.parametrize("word", ["Unassigned", "unassigned ", "UNASSIGNED"])
def test_our_word_for_a_rejected_cell_is_never_a_type(prepare: Callable[..., Prepared], word: str) -> None:
    """A column of an earlier run's predictions would else teach `Unassigned` as a type, whatever UNLABELED says."""
    adata = simulated(THREE_BATCHES)
    labels = adata.obs["celltype"].to_numpy(dtype=object)
    rejected = np.flatnonzero(adata.obs["batch"].isin(["a", "c"]))[:40]
    labels[rejected] = word
    result = prepare(changed(adata, celltype=labels), UNLABELED=["nothing"])
    assert result.plan.classes == ["B", "NK", "T"]
    n = int((adata.obs["batch"].iloc[rejected] == "a").sum())
    assert f"{n} cells of the annotated batches are labelled Unassigned" in " ".join(result.plan.notes)
    known = data_cells.read_target_labels(result.parameters)
    assert known is not None
    assert "Unassigned" not in {str(label).strip().capitalize() for label in known}


def test_categories_that_no_cell_has_are_no_types(prepare: Callable[..., Prepared]) -> None:
    adata = simulated(THREE_BATCHES)
    labels = pd.Categorical(adata.obs["celltype"], categories=["B", "NK", "T", "never", "Unassigned"])
    result = prepare(changed(adata, celltype=labels))
    assert result.plan.classes == ["B", "NK", "T"]
    assert not result.plan.dropped
    assert not result.plan.too_rare


def test_types_only_the_target_has_are_not_learned(prepare: Callable[..., Prepared]) -> None:
    adata = simulated({"a": {"B": 20, "T": 20}, "b": {"T": 20, "NK": 20}, "c": {"B": 10, "DC": 20}})
    result = prepare(adata)
    assert result.plan.classes == ["B", "NK", "T"]
    assert (result.adata.obs["batch"] == "c").sum() == 30


def test_words_for_no_label_are_the_users(prepare: Callable[..., Prepared]) -> None:
    adata = simulated(THREE_BATCHES)
    labels = adata.obs["celltype"].replace("NK", "nan").to_numpy(dtype=object)
    assert prepare(changed(adata, celltype=labels)).plan.classes == ["B", "T"]
    assert prepare(changed(adata, celltype=labels), UNLABELED=["T"]).plan.classes == ["B", "nan"]


def test_labels_may_be_numbers(prepare: Callable[..., Prepared]) -> None:
    adata = simulated(THREE_BATCHES)
    clusters = adata.obs["celltype"].map({"B": 0, "T": 1, "NK": 10}).astype(float)
    clusters[adata.obs["batch"] == "c"] = np.nan
    assert prepare(changed(adata, celltype=clusters)).plan.classes == ["0", "1", "10"]


def _no_labels(labels: np.ndarray) -> list[None]:
    return [None] * len(labels)


@pytest.mark.slow
@pytest.mark.parametrize(
    "relabel",
    [_no_labels, lambda labels: labels[::-1], lambda labels: ["only in the target"] * len(labels)],
    ids=["none", "reversed", "new type"],
)
def test_the_targets_labels_change_nothing_before_evaluation(
    prepare: Callable[..., Prepared], relabel: Callable[[np.ndarray], Any]
) -> None:
    """A user who trusts the evaluation must know that the target's labels did not leak into training."""
    adata = simulated(THREE_BATCHES)
    target = (adata.obs["batch"] == "c").to_numpy()
    labels = adata.obs["celltype"].to_numpy(dtype=object)
    labels[target] = relabel(labels[target])
    known, relabelled = prepare(adata), prepare(changed(adata, celltype=pd.Categorical(labels)))
    same(relabelled, known)
    pd.testing.assert_frame_equal(relabelled.cells, known.cells)
    assert known.cells.loc[target, "cell_type"].isna().all()
    assert known.adata.obs.loc[(known.adata.obs["batch"] == "c"), "cell_type"].isna().all()
    assert not known.cells.loc[target, "trains"].any()


def test_evaluation_reads_the_targets_labels_in_the_inputs_order(prepare: Callable[..., Prepared]) -> None:
    adata = simulated(THREE_BATCHES)
    target = (adata.obs["batch"] == "c").to_numpy()
    labels = adata.obs["celltype"].to_numpy(dtype=object)
    labels[np.flatnonzero(target)[:4]] = [None, "", "unknown", "B"]
    read = data_cells.read_target_labels(prepare(changed(adata, celltype=pd.Categorical(labels))).parameters)
    assert read is not None
    assert list(read[:4]) == [None, None, None, "B"]
    assert list(read[4:]) == list(labels[target][4:])
    labels[target] = "unknown"
    assert data_cells.read_target_labels(prepare(changed(adata, celltype=labels)).parameters) is None


@pytest.mark.parametrize("fewest", [1, 25, 40])
def test_every_target_cell_stays_in_the_inputs_order_whatever_the_filters(
    prepare: Callable[..., Prepared], fewest: int
) -> None:
    adata = simulated(THREE_BATCHES | {"c": {"B": 3, "NK": 1, "seen nowhere else": 2}})
    result = prepare(adata, MIN_CELL_TYPE_POPULATION=fewest)
    target = result.adata.obs[result.adata.obs["batch"] == "c"]
    assert list(target["cell"]) == list(adata.obs_names[adata.obs["batch"] == "c"])
    assert list(result.adata.obs["row"]) == sorted(result.adata.obs["row"])


def test_a_type_too_rare_in_one_batch_is_left_out_there_and_learned_from_another(
    prepare: Callable[..., Prepared],
) -> None:
    adata = simulated(
        {"a": {"B": 30, "T": 5, "NK": 4}, "b": {"B": 4, "T": 30, "NK": 20, "DC": 2}, "c": {"B": 9, "T": 9}}
    )
    result = prepare(adata)
    assert result.plan.cells == {"a": {"B": 30, "T": 5}, "b": {"NK": 20, "T": 30}}
    assert result.plan.classes == ["B", "NK", "T"]
    assert result.plan.dropped == ["DC"]
    rare = {(row["batch"], row["cell_type"]): row["cells"] for row in result.plan.too_rare}
    assert rare == {("a", "NK"): 4, ("b", "B"): 4, ("b", "DC"): 2}
    trained = result.adata.obs.groupby("batch", observed=True)["cell_type"].value_counts()
    assert {key: n for key, n in trained.items() if n} == {
        ("a", "B"): 30,
        ("a", "T"): 5,
        ("b", "NK"): 20,
        ("b", "T"): 30,
    }
    assert result.plan.dropped_shares == {"a": 0, "b": 2 / 56}
    assert result.plan.untrained_shares == {"a": 4 / 39, "b": 6 / 56}
    assert "1 cell type is too rare in the annotated batches to be learned (below 5): DC." in result.plan.warnings[0]
    assert "2.1 % of the labelled cells" in result.plan.warnings[0]
    table = data_tables.too_rare_table(result.plan)
    assert table["learned from other batches"].to_dict() == {"NK": "yes", "B": "yes", "DC": "no: never predicted"}


def test_auto_leaves_out_only_a_type_with_a_single_annotated_cell(prepare: Callable[..., Prepared]) -> None:
    """Two cells of a type are enough to learn it, also if they are in two batches."""
    adata = simulated(
        {"a": {"B": 9, "T": 9, "DC": 1}, "b": {"B": 9, "NK": 2, "DC": 1, "mast": 1}, "c": {"B": 9, "T": 9}}
    )
    result = prepare(adata, MIN_CELL_TYPE_POPULATION="auto")
    assert result.plan.cells == {"a": {"B": 9, "DC": 1, "T": 9}, "b": {"B": 9, "DC": 1, "NK": 2}}
    assert result.plan.dropped == ["mast"]


def test_batches_that_cannot_train_are_left_out_by_name_and_reason(prepare: Callable[..., Prepared]) -> None:
    adata = simulated(THREE_BATCHES | {"bare": {"B": 20}, "tiny": {"B": 3}, "away": {"B": 20}})
    labels = adata.obs["celltype"].where(adata.obs["batch"] != "bare", "unknown")
    result = prepare(changed(adata, celltype=labels), EXCLUDE_DATASETS_NAMES="away", SOURCE_DATASET_NAME="b")
    assert result.plan.annotated == ["b", "a"]
    assert "has a label" in result.plan.left_out["bare"]
    assert "its largest has 3" in result.plan.left_out["tiny"]
    assert "EXCLUDE_DATASETS_NAMES" in result.plan.left_out["away"]
    assert set(result.plan.left_out) == {"bare", "tiny", "away"}
    table = data_tables.batch_table(result.cells, result.plan)
    assert table["role"].to_dict() == {
        "b": "source", "a": "intermediate", "c": "target", "bare": "left out", "tiny": "left out", "away": "left out",
    }  # fmt: skip
    assert table.loc["c", "labelled"] == "not counted"  # and not "not read": the report compares them in the end
    assert '<th scope="col" class="number">labelled</th>' in table_html(table)  # the word leaves it a column of numbers


def test_training_order_is_the_users(prepare: Callable[..., Prepared]) -> None:
    adata = simulated({name: {"B": 10, "T": 10} for name in ("z", "a", "m", "k", "c")})
    in_file = [name for name in dict.fromkeys(adata.obs["batch"]) if name != "c"]
    assert prepare(adata).plan.annotated == sorted(in_file)  # whatever the order of the rows
    assert prepare(adata, INTER_DATASETS_NAMES=["m", "z", "k"]).plan.annotated == ["m", "z", "k"]
    named = prepare(adata, INTER_DATASETS_NAMES="['m', 'a', 'z']", SOURCE_DATASET_NAME="a")
    assert named.plan.annotated == ["a", "m", "z"]
    assert any("lists the source 'a' too" in note for note in named.plan.notes)
    assert named.plan.left_out == {"k": "not named in INTER_DATASETS_NAMES"}


@pytest.mark.parametrize(
    "roles",
    [{"SOURCE_DATASET_NAME": "a", "INTER_DATASETS_NAMES": "b"}, {"EXCLUDE_DATASETS_NAMES": "other"}],
    ids=["unnamed", "excluded"],
)
def test_a_batch_that_takes_no_part_influences_nothing(prepare: Callable[..., Prepared], roles: dict[str, str]) -> None:
    """In the reference program batches neither named nor excluded still decide which features are kept."""
    adata = simulated(THREE_BATCHES | {"other": {"B": 50, "only there": 50}})
    before = prepare(adata, NUM_FEATURES=12, **roles)
    other = (adata.obs["batch"] == "other").to_numpy()
    values = adata.X.toarray()
    values[other] = np.random.default_rng(5).normal(0, 300, values[other].shape) * (np.arange(60) % 7 == 0)
    after = prepare(_as(lambda _: sparse.csr_matrix(values))(adata), NUM_FEATURES=12, **roles)
    same(after, before)
    assert before.plan.classes == ["B", "NK", "T"]


def with_most_cells(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    """Let METHOD `default` learn from so many cells of a batch."""
    monkeypatch.setitem(DATA_RULES, "default", replace(DATA_RULES["default"], most_cells=n))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_large_batches_are_capped_with_a_note_and_by_the_seed(
    prepare: Callable[..., Prepared], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    with_most_cells(monkeypatch, 20)
    adata = simulated(THREE_BATCHES)
    one, again = (prepare(adata, MIN_CELL_TYPE_POPULATION=1, SEED=seed) for _ in range(2))
    other = prepare(adata, MIN_CELL_TYPE_POPULATION=1, SEED=2)
    same(one, again)
    assert {name: sum(types.values()) for name, types in one.plan.cells.items()} == {"a": 20, "b": 20}
    assert one.adata.obs["batch"].value_counts().to_dict() == {"a": 20, "b": 20, "c": 80}
    assert list(one.adata.obs["cell"]) != list(other.adata.obs["cell"])
    for name in ("a", "b"):
        note = f"'{name}' has 110 labelled cells; 20 of them, chosen at random, are used for training, at least 6 of each cell type or all of it."
        assert note in one.plan.notes


def test_a_rare_type_is_not_lost_among_many_cells(
    prepare: Callable[..., Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 400 cells drawn at random from 3,000, the 12 of the rare type would leave one or two."""
    with_most_cells(monkeypatch, 400)
    adata = simulated({"a": {"B": 2800, "T": 188, "rare": 12}, "c": {"B": 9, "T": 9}})
    plan = prepare(adata, MIN_CELL_TYPE_POPULATION=12).plan
    assert plan.cells["a"]["rare"] == 12
    assert plan.cells["a"]["T"] >= 100
    assert sum(plan.cells["a"].values()) == 400
    reference = prepare(adata, MIN_CELL_TYPE_POPULATION=12, METHOD="reference").plan
    assert sum(reference.cells["a"].values()) == 3000


def test_the_population_that_the_message_names_works_for_capped_batches_too(
    prepare: Callable[..., Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_most_cells(monkeypatch, 20)
    adata = simulated({"a": {"B": 60, "T": 20}, "c": {"B": 9}})
    with pytest.raises(InputError, match=r"\. \d+ or less would work") as error:
        prepare(adata, MIN_CELL_TYPE_POPULATION=100)
    named = re.search(r"(\d+) or less", str(error.value))
    assert named is not None
    assert prepare(adata, MIN_CELL_TYPE_POPULATION=int(named[1])).plan.classes == ["B", "T"]


# --- normalisation ---------------------------------------------------------------------------------------------------


def test_the_formula_of_the_logarithm_by_hand() -> None:
    """log(1 + 10,000 x / (total + 1e-5)); a cell of zeros stays zero."""
    done = to_log_counts(sparse.csr_matrix(np.array([[1, 3, 0], [0, 0, 0], [0, 0, 7]], dtype=np.float32)))
    expected = [
        [math.log(1 + 1e4 * 1 / 4.00001), math.log(1 + 1e4 * 3 / 4.00001), 0],
        [0, 0, 0],
        [0, 0, math.log(1 + 1e4 * 7 / 7.00001)],
    ]
    np.testing.assert_allclose(done.toarray(), expected, rtol=1e-6)
    np.testing.assert_allclose(done.toarray()[0], [7.824444, 8.922789, 0], atol=2e-5)
    assert done.dtype == np.float32


def _kinds(adata: ad.AnnData, **factor: Callable[[np.ndarray], np.ndarray]) -> ad.AnnData:
    """The same counts, those of some batches transformed."""
    values = adata.X.toarray().astype(np.float64)
    for name, transform in factor.items():
        rows = (adata.obs["batch"] == name).to_numpy()
        values[rows] = transform(values[rows])
    return _as(lambda _: sparse.csr_matrix(values.astype(np.float32)))(adata)


def test_each_batch_is_normalised_by_what_its_own_values_are(prepare: Callable[..., Prepared]) -> None:
    """Counts, log values and TPM of the same cells end up the same, and the user is told."""
    adata = simulated(THREE_BATCHES)
    plain = prepare(adata)
    mixed = prepare(_kinds(adata, a=log_counts, b=lambda x: 1e6 * x / x.sum(axis=1, keepdims=True)))
    np.testing.assert_allclose(mixed.values, plain.values, rtol=2e-4)
    total = total_of(plain)
    assert total is not None
    for name in "abc":
        counts = adata[adata.obs["batch"] == name].X.toarray()
        np.testing.assert_allclose(plain.of_batch(name), log_counts(counts, total), rtol=1e-5)
    assert {row["batch"]: row["value type"] for row in mixed.plan.values} == {
        "a": "log1p",
        "b": "linear",
        "c": "counts",
    }
    done = {row["batch"]: row["normalisation"] for row in mixed.plan.values}
    per_total = f"counts per {total:,.6g}, log1p"
    assert done == {"a": f"exp(x) - 1, {per_total}", "b": per_total, "c": per_total}
    assert any("different types or cell totals" in note for note in mixed.plan.notes)
    assert not any("different types" in note for note in plain.plan.notes)
    assert set(data_tables.values_table(mixed.plan).index) == set("abc")


@pytest.mark.slow
def test_the_user_can_overrule_what_the_values_are_taken_for(prepare: Callable[..., Prepared]) -> None:
    adata = simulated(THREE_BATCHES, n_genes=600)
    logs = _kinds(adata, a=log_counts, b=log_counts, c=log_counts)
    np.testing.assert_array_equal(prepare(logs, NORMALISATION="log1p").values, logs.X.toarray())
    np.testing.assert_array_equal(
        prepare(logs, METHOD="reference", MIN_CELL_TYPE_POPULATION=5).values, logs.X.toarray()
    )
    np.testing.assert_array_equal(prepare(adata, NORMALISATION="as_is").values, adata.X.toarray())
    np.testing.assert_array_equal(prepare(adata, NORMALISATION="log1p").values, adata.X.toarray())
    as_counts = prepare(logs, NORMALISATION="counts")
    total = total_of(as_counts)
    assert total is not None
    np.testing.assert_allclose(as_counts.values, log_counts(logs.X.toarray(), total), rtol=1e-5)


@pytest.mark.slow
def test_centred_values_are_taken_as_they_are_only_where_all_batches_are(prepare: Callable[..., Prepared]) -> None:
    def centre(x: np.ndarray) -> np.ndarray:
        return np.log1p(x) - 0.3

    adata = simulated(THREE_BATCHES)
    all_centred = _kinds(adata, a=centre, b=centre, c=centre)
    result = prepare(all_centred)
    np.testing.assert_array_equal(result.values, all_centred.X.toarray())
    assert any("centred in every batch" in warning for warning in result.plan.warnings)
    with pytest.raises(InputError, match=r"'a' holds centred values.*LAYER"):
        prepare(_kinds(adata, a=centre))
    np.testing.assert_array_equal(
        prepare(_kinds(adata, a=centre), NORMALISATION="as_is").values, _kinds(adata, a=centre).X.toarray()
    )
    for wanted in ("counts", "log1p"):
        with pytest.raises(InputError, match=f"cannot be {wanted}"):
            prepare(all_centred, NORMALISATION=wanted)


def _z_scores(x: np.ndarray) -> np.ndarray:
    logs = log_counts(x)
    return (logs - logs.mean(axis=0)) / (logs.std(axis=0) + 1e-9)


def _with_z_scores(adata: ad.AnnData, *, batch: str | None = None) -> ad.AnnData:
    """X z-scored, in one batch or in all, as scanpy's tutorials leave it."""
    values = adata.X.toarray()
    rows = np.full(adata.n_obs, True) if batch is None else (adata.obs["batch"] == batch).to_numpy()
    values[rows] = _z_scores(values[rows])
    return ad.AnnData(sparse.csr_matrix(values), obs=adata.obs, var=adata.var)


@pytest.mark.slow
@pytest.mark.parametrize("where", [".raw", "counts", "csc", "dense"])
def test_z_scores_beside_counts_make_it_go_back_to_the_files_counts_and_say_so(
    prepare: Callable[..., Prepared], where: str
) -> None:
    """A silent fallback is what users of other programs complained of most."""
    plain = simulated(THREE_BATCHES)
    scaled = _with_z_scores(plain, batch="a")
    if where == ".raw":
        scaled.raw = plain
    else:
        convert = {"counts": plain.X, "csc": plain.X.tocsc(), "dense": plain.X.toarray()}
        scaled.layers["aaa"] = scaled.X
        scaled.layers[where] = convert[where]
    result = prepare(scaled)
    np.testing.assert_array_equal(result.values, prepare(plain).values)
    name = ".raw" if where == ".raw" else f"layer '{where}'"
    assert any(f"{name} (counts) is used instead" in warning for warning in result.plan.warnings)
    table = data_tables.matrices_table(result.plan)
    assert set(table.loc[[name], "used"]) == {"yes"}
    assert set(table.loc[["X"], "value type"]) == {"counts", "z-scored"}
    assert any(line.startswith("Warning: X of in.h5ad") for line in data_tables.notes_table(result.plan)["note"])


@pytest.mark.slow
def test_z_scores_in_every_batch_are_taken_with_a_warning_that_names_what_is_better(
    prepare: Callable[..., Prepared],
) -> None:
    plain = simulated(THREE_BATCHES)
    scaled = _with_z_scores(plain)
    bare = prepare(scaled)
    np.testing.assert_array_equal(bare.values, scaled.X.toarray())
    assert any(
        "z-scored in every batch" in warning and "add them as a layer" in warning for warning in bare.plan.warnings
    )
    scaled.layers["counts"] = plain.X
    layered = prepare(scaled)
    np.testing.assert_array_equal(layered.values, scaled.X.toarray())
    assert any("set LAYER: counts" in warning for warning in layered.plan.warnings)
    np.testing.assert_array_equal(prepare(scaled, LAYER="counts").values, prepare(plain).values)


def test_z_scores_beside_counts_with_nothing_to_go_back_to_are_refused(prepare: Callable[..., Prepared]) -> None:
    scaled = _with_z_scores(simulated(THREE_BATCHES), batch="c")
    scaled.layers["also scaled"] = scaled.X
    with pytest.raises(InputError, match=r"'c' holds z-scored values.*LAYER"):
        prepare(scaled)


def test_each_file_of_a_list_goes_back_by_itself(prepare: Callable[..., Prepared], tmp_path: Path) -> None:
    """A reference of counts and a query as scanpy's tutorial leaves it: logarithms in .raw, z-scores in X."""
    adata = simulated(THREE_BATCHES)
    query = (adata.obs["batch"] == "c").to_numpy()
    paths = [tmp_path / "reference.h5ad", tmp_path / "query.h5ad"]
    adata[~query].copy().write_h5ad(paths[0])
    asked = _with_z_scores(adata[query].copy())
    asked.raw = _kinds(adata[query].copy(), c=log_counts)
    asked.write_h5ad(paths[1])
    result = prepare(paths)
    np.testing.assert_allclose(result.of_batch("c"), prepare(adata).of_batch("c"), rtol=1e-3, atol=1e-4)
    assert any("X of query.h5ad is z-scored" in warning for warning in result.plan.warnings)


def test_one_fraction_in_one_batch_changes_one_value(prepare: Callable[..., Prepared]) -> None:
    """In the reference program it switches normalisation off for every batch."""
    adata = simulated(THREE_BATCHES)
    odd = adata.copy()
    odd.X.data[0] += 0.5
    plain, changed_one = prepare(adata), prepare(odd)
    assert {row["value type"] for row in changed_one.plan.values} == {"counts"}
    cells = (abs(plain.values - changed_one.values) > 1e-6).any(axis=1)
    assert cells.sum() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pbmc_10x_symphony", "cellbench_6batches"])
def test_real_cells_prepare_the_same_whatever_scale_the_file_holds(
    prepare: Callable[..., Prepared], shared_file: Callable[[str], Path], name: str
) -> None:
    adata = ad.read_h5ad(shared_file(name))
    adata = adata[np.arange(0, adata.n_obs, 3)].copy()
    batches = list(adata.obs["batch"].unique())
    roles = {"TARGET_DATASET_NAME": batches[0], "MIN_CELL_TYPE_POPULATION": 2}
    plain = prepare(adata, **roles)
    scales: dict[str, Callable[..., np.ndarray]] = {
        "counts per 10,000": lambda x: 1e4 * x / x.sum(axis=1, keepdims=True),
        "log1p": log_counts,
        "log2": lambda x: log_counts(x) / np.log(2),
    }
    for scale, transform in scales.items():
        for some in (batches, batches[::2]):
            found = prepare(_kinds(adata, **dict.fromkeys(some, transform)), **roles)
            np.testing.assert_allclose(found.values, plain.values, rtol=2e-3, atol=2e-4, err_msg=f"{scale}: {some}")


def test_real_pancreas_of_mixed_units_is_comparable(
    prepare: Callable[..., Prepared], shared_file: Callable[[str], Path]
) -> None:
    """UMI counts beside RPKM: where one fraction switches normalisation off, 19 % of the cells come out right."""
    from sklearn.linear_model import LogisticRegression

    result = prepare(shared_file("pancreas_wang_xin_baron"), TARGET_DATASET_NAME="Baron")
    truth = data_cells.read_target_labels(result.parameters)
    trains = result.adata.obs["cell_type"].notna().to_numpy()
    values, y = result.values, result.adata.obs["cell_type"].astype(str).to_numpy()
    known = np.isin(truth.astype(str), result.plan.classes)
    model = LogisticRegression(C=0.01, max_iter=300).fit(values[trains], y[trains])
    right = float(np.mean(model.predict(values[~trains])[known] == truth[known]))
    assert right > 0.75


def test_the_methods_say_which_logarithms_the_file_had(
    prepare: Callable[..., Prepared], shared_file: Callable[[str], Path]
) -> None:
    """A paper would say that values were taken as they are, that were in fact divided."""
    result = prepare(shared_file("liver_mouse_gse87795_5stages"), TARGET_DATASET_NAME="E11.5")
    assert result.plan.preprocessing.scale.endswith("from log2 in the file")


# --- features --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 13, 60, 1000])
def test_the_features_of_largest_population_variance_over_all_cells_are_kept(
    prepare: Callable[..., Prepared], n: int
) -> None:
    adata = simulated(THREE_BATCHES)
    adata = adata[:, np.random.default_rng(1).permutation(60)].copy()
    result = prepare(adata, NUM_FEATURES=n)
    total = total_of(result)
    assert total is not None
    variance = pd.Series(log_counts(adata.X.toarray(), total).var(axis=0), index=adata.var_names)
    best = variance.sort_values(ascending=False).index[:n]
    assert list(result.adata.var_names) == sorted(best)
    np.testing.assert_allclose(result.adata.var["variance"], variance[sorted(best)], rtol=1e-4)
    assert result.plan.features == {"in_file": 60, "kept": min(n, 60)}


def test_a_feature_that_varies_in_the_target_alone_is_kept(prepare: Callable[..., Prepared]) -> None:
    adata = simulated(THREE_BATCHES)
    values = adata.X.toarray()
    target = (adata.obs["batch"] == "c").to_numpy()
    values[target, 5] = np.where(np.arange(target.sum()) % 2 == 0, 5000, 0)
    result = prepare(_as(lambda _: sparse.csr_matrix(values))(adata), NUM_FEATURES=1)
    assert list(result.adata.var_names) == ["gene005"]


def test_repeated_feature_names_are_made_unique_and_noted(prepare: Callable[..., Prepared]) -> None:
    adata = simulated(THREE_BATCHES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        adata.var_names = ["gene000"] * 3 + list(adata.var_names[3:])
    result = prepare(adata)
    assert {"gene000", "gene000-1", "gene000-2"} < set(result.adata.var_names)
    assert result.adata.var_names.is_unique
    assert any(note.startswith("2 feature names of in.h5ad occur more than once") for note in result.plan.notes)
    column = list(result.adata.var_names).index("gene000-1")
    total = total_of(result)
    assert total is not None
    np.testing.assert_allclose(result.values[:, column], log_counts(adata.X.toarray(), total)[:, 1], rtol=1e-5)


def test_repeated_cell_names_are_kept_apart_and_noted(prepare: Callable[..., Prepared]) -> None:
    adata = simulated(THREE_BATCHES)
    plain = prepare(adata)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        adata.obs_names = ["same"] * adata.n_obs
        result = prepare(adata)
    np.testing.assert_array_equal(result.values, plain.values)
    assert list(result.adata.obs["row"]) == list(plain.adata.obs["row"])
    assert set(result.adata.obs["cell"]) == {"same"}
    assert any(note.startswith("299 cell names occur more than once") for note in result.plan.notes)


def test_the_target_is_read_without_warnings_where_names_repeat(prepare: Callable[..., Prepared]) -> None:
    adata = simulated(THREE_BATCHES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        adata.obs_names = ["same"] * adata.n_obs
        result = prepare(adata)
    assert data_cells.read_target(result.parameters, result.cells).n_obs == 80


# --- several files ---------------------------------------------------------------------------------------------------


@pytest.fixture
def two_files(tmp_path: Path) -> tuple[ad.AnnData, list[Path]]:
    """The whole as one, over the genes both files have; and a reference of batches a and b with labels beside a query
    without batch, labels, ten of the genes, and the order of the rest."""
    adata = simulated(THREE_BATCHES)
    query = (adata.obs["batch"] == "c").to_numpy()
    genes = np.random.default_rng(3).permutation(60)[:50]
    reference = adata[~query, :57]
    asked = adata[query][:, genes].copy()
    asked.obs = asked.obs[[]]
    reference.copy().write_h5ad(tmp_path / "reference.h5ad")
    asked.write_h5ad(tmp_path / "query.h5ad")
    common = adata[:, [i for i in range(57) if i in genes]]
    return ad.concat([common[~query], common[query]]), [tmp_path / "reference.h5ad", tmp_path / "query.h5ad"]


def test_a_query_file_without_batch_or_labels_is_a_batch_named_like_the_file(
    prepare: Callable[..., Prepared], two_files: tuple[ad.AnnData, list[Path]]
) -> None:
    """Genes are matched by name, whatever their order, and only those of both files count."""
    one, files = two_files
    result = prepare(files, TARGET_DATASET_NAME="query")
    batch = one.obs["batch"].astype(str).replace("c", "query")
    expected = prepare(changed(one, batch=batch), TARGET_DATASET_NAME="query")
    np.testing.assert_array_equal(result.values, expected.values)
    assert list(result.adata.var_names) == list(expected.adata.var_names) == sorted(one.var_names)
    assert list(result.adata.obs["cell"]) == list(one.obs_names)
    assert result.adata.obs["file"].value_counts().to_dict() == {0: 220, 1: 80}
    assert f"{one.n_vars} features are common to all files (the smallest has 50)." in result.plan.notes
    assert data_cells.read_target_labels(result.parameters) is None
    target = data_cells.read_target(result.parameters, result.cells)
    assert list(target.obs_names) == list(one.obs_names[220:])
    assert target.n_vars == 50


def test_the_order_of_the_files_does_not_matter_for_the_values(
    prepare: Callable[..., Prepared], two_files: tuple[ad.AnnData, list[Path]]
) -> None:
    _, files = two_files
    forth, back = (prepare(paths, TARGET_DATASET_NAME="query") for paths in (files, files[::-1]))
    np.testing.assert_array_equal(forth.of_batch("query"), back.of_batch("query"))
    np.testing.assert_array_equal(forth.of_batch("a"), back.of_batch("a"))


@pytest.mark.slow
def test_files_may_number_their_batches_and_name_their_genes_in_a_column(
    prepare: Callable[..., Prepared], tmp_path: Path
) -> None:
    adata = simulated(NUMBERED)
    paths = []
    for number in ("1", "2", "3"):
        part = _in_gene_col(adata[adata.obs["batch"] == number].copy())
        part.obs["batch"] = part.obs["batch"].astype(int if number != "2" else str).to_numpy()
        paths.append(tmp_path / f"part{number}.h5ad")
        part.write_h5ad(paths[-1])
    result = prepare(paths, TARGET_DATASET_NAME="3", GENE_COL="symbol")
    assert result.plan.annotated == ["1", "2"]
    assert list(result.adata.var_names) == sorted(adata.var_names)
    assert list(data_cells.read_target_labels(result.parameters)) == list(
        adata.obs.loc[adata.obs["batch"] == "3", "celltype"]
    )


@pytest.mark.slow
def test_the_target_comes_back_as_it_is_in_the_file(prepare: Callable[..., Prepared]) -> None:
    """What a user put into the file (layers, raw, obsm) must be in annotated_target.h5ad again."""
    adata = _in_layer(simulated(THREE_BATCHES))
    adata.raw = simulated(THREE_BATCHES)
    adata.obsm["X_pca"] = np.random.default_rng(0).normal(size=(adata.n_obs, 4))
    result = prepare(adata, LAYER="counts", NUM_FEATURES=10)
    target, expected = data_cells.read_target(result.parameters, result.cells), adata[adata.obs["batch"] == "c"]
    assert list(target.obs_names) == list(expected.obs_names)
    assert list(target.var_names) == list(adata.var_names)
    np.testing.assert_array_equal(target.X.toarray(), expected.X.toarray())
    np.testing.assert_array_equal(target.layers["counts"].toarray(), expected.layers["counts"].toarray())
    np.testing.assert_array_equal(target.raw.X.toarray(), expected.raw.X.toarray())
    np.testing.assert_array_equal(target.obsm["X_pca"], expected.obsm["X_pca"])


def test_files_that_name_genes_differently_are_matched_by_the_column_that_fits(
    prepare: Callable[..., Prepared], tmp_path: Path
) -> None:
    """Symbols in one file, versioned Ensembl ids in the other: the ids are a column of the first."""
    adata = simulated(THREE_BATCHES)
    query = (adata.obs["batch"] == "c").to_numpy()
    paths = [tmp_path / "reference.h5ad", tmp_path / "query.h5ad"]
    reference, asked = adata[~query].copy(), adata[query].copy()[:, np.arange(60)[::-1]].copy()
    reference.var["chromosome"] = "chr1"
    reference.var["gene_ids"] = [f"ENSG{i:011d}" for i in range(60)]
    reference.write_h5ad(paths[0])
    asked.var_names = [f"ENSG{i:011d}.{i % 7}" for i in reversed(range(60))]
    asked.write_h5ad(paths[1])
    result = prepare(paths)
    same_by_batch(result, prepare(adata))
    assert any("reference.h5ad are named by column 'gene_ids' of var" in note for note in result.plan.notes)
    assert result.plan.preprocessing.gene_col is None  # the target's file


@pytest.mark.slow
@pytest.mark.parametrize("spell", [str.upper, "{}.3".format], ids=["case", "not a version"])
def test_spelling_of_genes_between_files(
    prepare: Callable[..., Prepared], tmp_path: Path, spell: Callable[[str], str]
) -> None:
    """`Actb` and `ACTB` are matched, and said; a suffix that is not a version is another gene."""
    adata = simulated(THREE_BATCHES)
    query = (adata.obs["batch"] == "c").to_numpy()
    paths = [tmp_path / "reference.h5ad", tmp_path / "query.h5ad"]
    adata[~query].copy().write_h5ad(paths[0])
    asked = adata[query].copy()
    asked.var_names = [spell(name) for name in asked.var_names]
    asked.write_h5ad(paths[1])
    if spell is str.upper:
        result = prepare(paths)
        same_by_batch(result, prepare(adata))
        assert any("upper and lower case" in note for note in result.plan.notes)
    else:
        with pytest.raises(InputError, match="no feature name in common"):
            prepare(paths)


def test_peaks_are_the_same_however_spelled(prepare: Callable[..., Prepared], tmp_path: Path) -> None:
    adata = simulated(THREE_BATCHES)
    query = (adata.obs["batch"] == "c").to_numpy()
    adata.var_names = [f"chr1:{i}00-{i}50" for i in range(60)]
    paths = [tmp_path / "reference.h5ad", tmp_path / "query.h5ad"]
    adata[~query].copy().write_h5ad(paths[0])
    asked = adata[query].copy()
    asked.var_names = [f"1_{i}00_{i}50" for i in range(60)]
    asked.write_h5ad(paths[1])
    result = prepare(paths)
    same_by_batch(result, prepare(adata))
    assert result.adata.var_names.str.startswith("chr1:").all()


def test_the_overlap_of_every_batch_is_shown_and_a_small_one_warned_of(
    prepare: Callable[..., Prepared], tmp_path: Path
) -> None:
    """A target filled up with zeros looks like any other, and its cells were annotated at random: what it lacks is used in no
    batch."""
    adata = simulated(THREE_BATCHES)
    values = adata.X.toarray()
    values[np.ix_((adata.obs["batch"] == "c").to_numpy(), np.arange(60) >= 36)] = 0
    result = prepare(_as(lambda _: sparse.csr_matrix(values))(adata))
    table = data_tables.overlap_table(result.plan)
    assert table["found"].iloc[0] == 36
    assert table["expected"].iloc[0] == 60
    assert table["zero though expected"].iloc[0].startswith("gene036, gene037")
    assert "not in the file" not in table
    assert result.adata.n_vars == 36
    assert "Left out of all batches: 24 of 60 features that no cell of 'c' has" in " ".join(result.plan.notes)
    (warning,) = result.plan.warnings
    assert "Batch 'c' has only 36 of 60 features (60 %)" in warning
    assert "gene036" in warning
    assert "and 14 more" in warning


@pytest.mark.parametrize(("poor", "told"), [("c", True), ("a", False), ("", False)])
def test_a_target_of_poor_cells_is_warned_of_and_poor_annotated_cells_are_the_measure(
    prepare: Callable[..., Prepared], poor: str, told: bool
) -> None:
    """Its labels are wrong more often than left-out batches tell, where none of them is as poor."""
    adata = simulated(THREE_BATCHES, seed=0)
    lost = np.repeat(adata.obs["batch"].to_numpy() == poor, np.diff(adata.X.indptr))
    adata.X.data[lost & (np.random.default_rng(0).random(adata.X.nnz) > 0.2)] = 0
    adata.X.eliminate_zeros()
    found = prepare(adata, TARGET_DATASET_NAME="c")
    assert any("The cells of 'c' are poor" in warning for warning in found.plan.warnings) == told


@pytest.mark.parametrize(("every", "told"), [(3, True), (8, False)])
def test_a_target_with_a_part_of_poor_cells_is_warned_of_them(
    prepare: Callable[..., Prepared], every: int, told: bool
) -> None:
    """A file without a filter of cells has good cells and bad ones; its median cell does not show it."""
    adata = simulated(THREE_BATCHES, seed=0)
    is_poor = (adata.obs["batch"] == "c").to_numpy() & (np.arange(adata.n_obs) % every == 0)
    adata.X.data[np.repeat(is_poor, np.diff(adata.X.indptr)) & (np.random.default_rng(0).random(adata.X.nnz) > 0.2)] = 0
    adata.X.eliminate_zeros()
    found = prepare(adata, TARGET_DATASET_NAME="c")
    words = f"{is_poor.sum()} of the {(adata.obs['batch'] == 'c').sum()} cells of 'c' are poor"
    assert any(words in warning for warning in found.plan.warnings) == told


def test_a_small_batch_is_not_accused_of_missing_what_it_has_too_few_cells_to_show(
    prepare: Callable[..., Prepared],
) -> None:
    result = prepare(simulated(THREE_BATCHES | {"c": {"B": 3}}))
    assert not result.plan.warnings
    assert set(data_tables.overlap_table(result.plan)["found %"]) == {100.0}


# --- with a saved model's features -----------------------------------------------------------------------------------


LOG_COUNTS = MODEL["preprocessing"]
CENTRED = LOG_COUNTS | {
    "scale": "as they are: centred", "values": "as they are", "rescaled": False, "kinds": ["centred"], "mean": 0.0,
    "sd": 0.5, "total": None,
}  # fmt: skip


@pytest.fixture
def saved_model(tmp_path: Path) -> Callable[..., Path]:
    """A folder with the description of a model of the given features."""

    def save(features: list[str], preprocessing: dict[str, Any] | None = None) -> Path:
        folder = tmp_path / "trained_models"
        write_model_json(folder, MODEL | {"features": features, "preprocessing": preprocessing or LOG_COUNTS})
        return folder

    return save


def test_a_saved_model_gets_its_own_features_in_its_own_order(
    prepare: Callable[..., Prepared], saved_model: Callable[..., Path]
) -> None:
    """Absent features are zero and noted; the cells are normalised over all features of the file, as in training."""
    adata = simulated(THREE_BATCHES)
    folder = saved_model(["gene010", "absent", "gene002"])
    result = prepare(adata, PRETRAINED_MODEL_PATH=str(folder), LABELS_COL="no such column", NUM_FEATURES=1)
    target = log_counts(adata[adata.obs["batch"] == "c"].X.toarray())
    assert list(result.adata.var_names) == ["gene010", "absent", "gene002"]
    np.testing.assert_allclose(result.values, np.c_[target[:, 10], np.zeros(80), target[:, 2]], rtol=1e-5)
    assert any(note.startswith("The file lacks 1 of the model's 3 features") for note in result.plan.notes)
    assert any(warning.startswith("'c' has only 2 of 3 features") for warning in result.plan.warnings)
    assert list(result.adata.obs["cell_type"].cat.categories) == ["B", "T"]


@pytest.mark.parametrize(
    ("features", "preprocessing", "fragment"),
    [
        (["CD3E", "CD8A"], LOG_COUNTS, "^PATH: 'c' has none of the model's 2 features.*Both seem to have gene symbols"),
        (["chr1:1-9", "chr1:10-19"], LOG_COUNTS, "none of the model's 2 features.*re-quantified"),
        (["gene001", *(f"other{i}" for i in range(9))], LOG_COUNTS, r"^PATH: 'c' has only 1 of 10 features \(10 %\)"),
        (
            ["gene001", *(f"ENSG{i:011d}" for i in range(9))],
            LOG_COUNTS,
            r"^PATH: 'c' has only 1 of 10 features \(10 %\) of the model; the others: .*Your file uses symbols, the model Ensembl ids",
        ),
        (
            ["gene001"],
            CENTRED,
            "^PATH: the values of 'c' are counts .*, and the model was trained on values that are as they are: centred",
        ),
    ],
)
def test_a_saved_model_that_does_not_fit_the_file_is_refused(
    prepare: Callable[..., Prepared],
    saved_model: Callable[..., Path],
    features: list[str],
    preprocessing: dict[str, Any],
    fragment: str,
) -> None:
    with pytest.raises(InputError, match=fragment):
        prepare(simulated(THREE_BATCHES), PRETRAINED_MODEL_PATH=str(saved_model(features, preprocessing)))


def _layered(adata: ad.AnnData) -> ad.AnnData:
    scaled = _with_z_scores(adata, batch="a")
    scaled.layers["counts"] = adata.X
    return scaled


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda adata: adata,
        lambda adata: _kinds(adata, a=log_counts),
        lambda adata: _kinds(adata, c=log_counts),
        lambda adata: _kinds(adata, c=lambda x: log_counts(x) / np.log(2)),
        lambda adata: _kinds(adata, **dict.fromkeys("abc", log_counts)),
        lambda adata: _kinds(adata, **dict.fromkeys("abc", lambda x: log_counts(x) / np.log(2))),
        lambda adata: _kinds(adata, a=lambda x: 1e6 * x / x.sum(axis=1, keepdims=True)),
        _with_z_scores,
        _layered,
    ],
    ids=["counts", "log a", "log c", "log2 c", "log", "log2", "TPM a", "z-scored", "layer"],
)
@pytest.mark.parametrize("alone", [True, False])
def test_the_runs_own_target_has_the_same_values_with_its_saved_model(
    prepare: Callable[..., Prepared],
    saved_model: Callable[..., Path],
    make: Callable[[ad.AnnData], ad.AnnData],
    alone: bool,
) -> None:
    """Else `predict` on the very same cells would give other answers than the run."""
    adata = make(simulated(THREE_BATCHES))
    run = prepare(adata, NUM_FEATURES=30)
    folder = saved_model(list(run.adata.var_names), json.loads(json.dumps(asdict(run.plan.preprocessing))))
    again = prepare(adata[adata.obs["batch"] == "c"].copy() if alone else adata, PRETRAINED_MODEL_PATH=str(folder))
    np.testing.assert_array_equal(again.values, run.of_batch("c"))
    assert again.plan.features["missing"] == 0


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_model_of_several_files_counts_a_cells_total_over_the_features_they_share(
    prepare: Callable[..., Prepared], saved_model: Callable[..., Path], two_files: tuple[ad.AnnData, list[Path]],
    shuffled: bool, tmp_path: Path,
) -> None:  # fmt: skip
    _, files = two_files
    run = prepare(files, TARGET_DATASET_NAME="query", NUM_FEATURES=20)
    folder = saved_model(list(run.adata.var_names), json.loads(json.dumps(asdict(run.plan.preprocessing))))
    query = ad.read_h5ad(files[1])
    query.obs["batch"] = "query"
    if shuffled:
        query = query[:, np.random.default_rng(0).permutation(query.n_vars)].copy()
    again = prepare(query, TARGET_DATASET_NAME="query", PRETRAINED_MODEL_PATH=str(folder))
    np.testing.assert_array_equal(again.values, run.of_batch("query"))
    fewer = query[:, ~query.var_names.isin(run.adata.var_names[:3])].copy()
    lacking = prepare(fewer, TARGET_DATASET_NAME="query", PRETRAINED_MODEL_PATH=str(folder))
    assert lacking.plan.features["missing"] == 3


def _saved(run: Prepared, saved_model: Callable[..., Path]) -> Path:
    """The model that a run of one file would save, as far as values depend on it."""
    preprocessing = json.loads(json.dumps(asdict(run.plan.preprocessing)))
    folder = saved_model(list(run.adata.var_names), preprocessing)
    if preprocessing["features_sha256"] is not None:
        write_all_features(folder, run.plan.all_features)
    return folder


def _part(adata: ad.AnnData, columns: Any, batch: str | None = None) -> ad.AnnData:
    return adata[slice(None) if batch is None else adata.obs["batch"] == batch, columns].copy()


IN_FILES: dict[str, Callable[[ad.AnnData], ad.AnnData]] = {
    "more": lambda adata: adata,
    "more, shuffled": lambda adata: adata[:, np.random.default_rng(0).permutation(adata.n_vars)].copy(),
    "more, dense": lambda adata: ad.AnnData(adata.X.toarray(), obs=adata.obs, var=adata.var),
    "more, in .raw": _in_raw,
    "the same": lambda adata: adata[:, 10:50].copy(),
}


@pytest.mark.parametrize("how", IN_FILES)
@pytest.mark.parametrize("kind", ["counts", "log2 of shares"])
def test_a_model_of_one_file_counts_a_cells_total_over_the_features_of_that_file(
    prepare: Callable[..., Prepared], saved_model: Callable[..., Path], how: str, kind: str
) -> None:
    """People train on the features that vary most, and annotate whole files: there are ten times as many counts."""
    adata = simulated(THREE_BATCHES)
    adata.X[:, 50:] *= 100
    if kind != "counts":
        adata = _kinds(adata, **dict.fromkeys("abc", lambda x: log_counts(x) / np.log(2)))
    run = prepare(_part(adata, slice(10, 50)), NUM_FEATURES=20)
    again = prepare(IN_FILES[how](_part(adata, slice(None), "c")), PRETRAINED_MODEL_PATH=str(_saved(run, saved_model)))
    np.testing.assert_array_equal(again.values, run.of_batch("c"))
    assert all(warning.startswith(".raw of in.h5ad is used") for warning in again.plan.warnings)


def test_the_names_of_a_models_features_are_read_where_a_file_has_others(
    prepare: Callable[..., Prepared], saved_model: Callable[..., Path]
) -> None:
    adata = simulated(THREE_BATCHES)
    run = prepare(_part(adata, slice(40)), NUM_FEATURES=20)
    folder = _saved(run, saved_model)
    for damage in (
        lambda file: file.write_bytes(file.read_bytes()[:-20]),
        lambda file: file.write_text("a"),
        lambda file: file.write_bytes(gzip.compress(b"[" * 100_000)),
        lambda file: file.write_bytes(gzip.compress(b"[1, 2]")),
        Path.unlink,
    ):
        damage(folder / ALL_FEATURES)
        same_features = prepare(_part(adata, slice(40), "c"), PRETRAINED_MODEL_PATH=str(folder))
        np.testing.assert_array_equal(same_features.values, run.of_batch("c"))
        with pytest.raises(
            InputError, match=r"^PRETRAINED_MODEL_PATH: .*all features.*copy the whole trained_models folder"
        ):
            prepare(_part(adata, slice(None), "c"), PRETRAINED_MODEL_PATH=str(folder))


def test_a_file_with_few_of_the_features_that_a_total_was_over_is_told_so(
    prepare: Callable[..., Prepared], saved_model: Callable[..., Path]
) -> None:
    """Its totals are over what it has, whether it has others beside or not."""
    adata = simulated(THREE_BATCHES)
    run = prepare(_part(adata, slice(50)), NUM_FEATURES=20)
    folder = _saved(run, saved_model)
    alone, beside = (
        prepare(_part(adata, columns, "c"), PRETRAINED_MODEL_PATH=str(folder))
        for columns in (slice(20, 50), slice(20, 60))
    )
    np.testing.assert_array_equal(alone.values, beside.values)
    counts = adata.X.toarray()[(adata.obs["batch"] == "c").to_numpy()]
    there = [name for name in run.adata.var_names if name >= "gene020"]
    expected = log_counts(counts[:, 20:50], run.plan.preprocessing.total)[:, [int(name[4:]) - 20 for name in there]]
    np.testing.assert_allclose(alone.values[:, run.adata.var_names.isin(there)], expected, rtol=1e-5)
    words = "In the training a cell's total was over 50 features; here it is over the 30 of them that are there."
    assert all(any(note.startswith(words) for note in found.plan.notes) for found in (alone, beside))


def test_several_files_each_count_what_a_model_of_one_file_counted(
    prepare: Callable[..., Prepared], saved_model: Callable[..., Path], tmp_path: Path
) -> None:
    adata = simulated(THREE_BATCHES)
    run = prepare(_part(adata, slice(40)), NUM_FEATURES=20)
    _part(adata, slice(None), "c").write_h5ad(tmp_path / "whole.h5ad")
    _part(adata, slice(45), "a").write_h5ad(tmp_path / "less.h5ad")
    folder = _saved(run, saved_model)
    again = prepare([tmp_path / "whole.h5ad", tmp_path / "less.h5ad"], PRETRAINED_MODEL_PATH=str(folder))
    np.testing.assert_array_equal(again.of_batch("c"), run.of_batch("c"))


def test_logarithms_of_other_totals_are_brought_to_those_of_a_model_of_fewer_features(
    prepare: Callable[..., Prepared], saved_model: Callable[..., Path]
) -> None:
    """With METHOD `reference` a model keeps logarithms; in a file of more features 10,000 is another total."""
    whole = simulated(THREE_BATCHES)
    few = _kinds(_part(whole, slice(40)), **dict.fromkeys("abc", log_counts))
    run = prepare(few, NUM_FEATURES=20, METHOD="reference")
    assert not run.plan.preprocessing.rescaled
    logs = _kinds(whole, **dict.fromkeys("abc", log_counts))
    folder = _saved(run, saved_model)
    again = prepare(_part(logs, slice(None), "c"), PRETRAINED_MODEL_PATH=str(folder))
    np.testing.assert_allclose(again.values, run.of_batch("c"), rtol=1e-4)
    same_features = prepare(_part(few, slice(None), "c"), PRETRAINED_MODEL_PATH=str(folder))
    np.testing.assert_array_equal(same_features.values, run.of_batch("c"))


def test_logarithms_without_totals_say_nothing_of_the_features_that_count(
    prepare: Callable[..., Prepared], saved_model: Callable[..., Path]
) -> None:
    """They were normalised over a whole file before most of its features were left out: new counts are too."""
    logs = _kinds(simulated(THREE_BATCHES), **dict.fromkeys("abc", log_counts))
    run = prepare(_part(logs, slice(30)), METHOD="reference")
    assert run.plan.preprocessing.total is None
    assert run.plan.preprocessing.features_sha256 is None
    assert not run.plan.all_features
    folder = _saved(run, saved_model)
    counts = simulated(THREE_BATCHES)
    found = prepare(_part(counts, slice(None), "c"), PRETRAINED_MODEL_PATH=str(folder), METHOD="reference")
    np.testing.assert_allclose(found.values, run.of_batch("c"), rtol=1e-4)
    assert len(found.plan.warnings) == 1
    assert "brought to counts per 10,000 over all its features" in found.plan.warnings[0]


@pytest.mark.parametrize(("n_features", "told"), [(39, True), (41, False)])
def test_an_older_model_with_fewer_features_than_the_file_is_told_of(
    prepare: Callable[..., Prepared], saved_model: Callable[..., Path], n_features: int, told: bool
) -> None:
    adata = simulated(THREE_BATCHES)
    folder = saved_model([f"gene{i:03d}" for i in range(n_features)])
    found = prepare(_part(adata, slice(None), "c"), PRETRAINED_MODEL_PATH=str(folder))
    assert any("did not keep which features count" in warning for warning in found.plan.warnings) == told


# --- real cells ------------------------------------------------------------------------------------------------------


def test_the_demos_data_is_the_real_set_scanpy_carries(
    prepare: Callable[..., Prepared], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    result = prepare(
        Path("scanpy:pbmc68k_reduced"), BATCH_COL="well", LABELS_COL="bulk_labels", TARGET_DATASET_NAME="well 1"
    )
    assert len(result.cells) == 700
    assert result.cells["batch"].nunique() == 8
    assert len(result.plan.classes) <= 10
    assert {row["value type"] for row in result.plan.values} == {"log1p"}
    assert result.plan.features == {"in_file": 765, "kept": 765}
    assert (result.adata.obs["batch"] == "well 1").sum() == (result.cells["batch"] == "well 1").sum()
    with pytest.raises(InputError, match="pbmc68k_reduced"):
        datasets.bundled_file("scanpy:pbmc3k")


def test_real_blood_cells_of_three_chemistries(
    prepare: Callable[..., Prepared], shared_file: Callable[[str], Path]
) -> None:
    """Counts as documented in shared/data/pbmc_10x_symphony.md: all 430 cells of 5p, HSC and MK too rare to learn."""
    result = prepare(shared_file("pbmc_10x_symphony"), TARGET_DATASET_NAME="5p", MIN_CELL_TYPE_POPULATION=5)
    assert (result.adata.obs["batch"] == "5p").sum() == 430
    assert result.plan.cells == {
        "3pv1": {"B": 39, "Mono_CD14": 50, "Mono_CD16": 27, "NK": 17, "T_CD4": 97, "T_CD8": 53},
        "3pv2": {"B": 62, "DC": 16, "Mono_CD14": 102, "Mono_CD16": 11, "NK": 22, "T_CD4": 150, "T_CD8": 115},
    }
    assert result.plan.dropped == ["HSC", "MK"]
    assert result.plan.features == {"in_file": 1767, "kept": 1767}
    assert {row["value type"] for row in result.plan.values} == {"counts"}
    labels = pd.Series(data_cells.read_target_labels(result.parameters)).value_counts().to_dict()
    assert labels == {
        "B": 71, "DC": 10, "HSC": 1, "MK": 2, "Mono_CD14": 120, "Mono_CD16": 22, "NK": 20, "T_CD4": 126, "T_CD8": 58,
    }  # fmt: skip


def test_real_scatac_peaks_are_features_like_any_other(
    prepare: Callable[..., Prepared], shared_file: Callable[[str], Path]
) -> None:
    result = prepare(
        shared_file("scatac_granja_bmmc_2donors"),
        TARGET_DATASET_NAME="BMMC_D5T1",
        MIN_CELL_TYPE_POPULATION=90,
        NUM_FEATURES=2000,
    )
    assert (result.adata.obs["batch"] == "BMMC_D5T1").sum() == 108
    assert result.plan.cells == {"BMMC_D6T1": {"07_GMP": 93, "15_CLP.2": 95}}
    assert len(result.plan.dropped) == 4
    assert result.plan.features == {"in_file": 10_000, "kept": 2000}
    assert result.adata.var_names.str.match(r"chr\w+[:-]\d+-\d+$").all()


def test_batches_of_a_new_file_that_differ_in_kind_each_come_to_the_model_s_scale(tmp_path: Path) -> None:
    """A model of counts, named as such; taken as counts, the logarithms would be normalised twice."""
    adata = simulated({"a": {"B": 20, "T": 20}, "c": {"B": 20, "T": 20}})
    counts = adata.X.toarray()
    expected = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    logs = (adata.obs["batch"] == "a").to_numpy()
    adata.X = np.where(logs[:, None], expected, counts).astype(np.float32)
    adata.write_h5ad(tmp_path / "new.h5ad")
    scale = LOG_COUNTS | {"normalisation": "counts"}
    write_model_json(tmp_path / "model", MODEL | {"features": list(adata.var_names), "preprocessing": scale})
    parameters = make_parameters(
        {
            "PATH": str(tmp_path / "new.h5ad"), "BATCH_COL": "batch", "LABELS_COL": "celltype", "OUTPUT_PATH": "o",
            "TARGET_DATASET_NAME": "c", "PRETRAINED_MODEL_PATH": str(tmp_path / "model"),
        }
    )  # fmt: skip
    cells = data_cells.read_cells(parameters).assign(trains=True)
    prepared = data_prepare.prepare(
        parameters, cells, data_plan.Plan(target="c", source=None, annotated=["a"], classes=[])
    )
    np.testing.assert_allclose(prepared.X.toarray(), expected, atol=1e-5)


def of_new_file(folder: Path, adata: ad.AnnData, features: list[str]) -> Parameters:
    """Write a file of batch c and a model of some features, and return the parameters to annotate it."""
    adata.write_h5ad(folder / "new.h5ad")
    write_model_json(folder / "model", MODEL | {"features": features, "preprocessing": LOG_COUNTS})
    return make_parameters(
        {
            "PATH": str(folder / "new.h5ad"), "BATCH_COL": "batch", "LABELS_COL": "celltype", "OUTPUT_PATH": "o",
            "TARGET_DATASET_NAME": "c", "PRETRAINED_MODEL_PATH": str(folder / "model"),
        }
    )  # fmt: skip


@pytest.mark.parametrize("stored", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_matrix.toarray])
@pytest.mark.parametrize("kept", [0, 10**9])
def test_a_few_cells_of_a_new_file_are_read_again_and_none_stays_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: Callable[[Any], Any], kept: int
) -> None:
    """predict holds latents, not values; what it asks for later has to be that of the cells it names."""
    monkeypatch.setattr(layers, "KEPT_VALUES", kept)
    monkeypatch.setattr(chunks, "VALUES_AT_ONCE", 700)
    adata = simulated({"c": {"B": 40, "T": 40}})
    adata.X = stored(adata.X)
    features = ["gene010", "gene002", "gene031"]
    parameters = of_new_file(tmp_path, adata, features)
    plan = data_plan.Plan(target="c", source=None, annotated=[], classes=[])
    cells = data_cells.read_cells(parameters).assign(trains=True)
    file = data_prepare.prepare_in_blocks(parameters, cells, plan, lambda x: x)
    whole = sparse.vstack(list(file.blocks())).toarray()
    assert [
        block.kept for of in file.selection.values.files for block in of.blocks.blocks if block.kept is not None
    ] == []
    rows = np.array([3, 4, 41, 79])
    np.testing.assert_array_equal(file.some(rows).toarray(), whole[rows])
    assert file.some(rows[:0]).shape == (0, 3)
    assert list(file.features) == features


LATER = {  # what the first 500 cells do not tell of the others; whether values are read again then
    "the same": (lambda x: x, False),
    "fractions": (lambda x: x * 1.5, True),
    "logarithms": (lambda x: np.log1p(x / x.sum(axis=1, keepdims=True) * 1e4), True),
    "values of another feature": (lambda x: np.roll(x, 1, axis=1), False),
}


@pytest.mark.parametrize("later", LATER)
@pytest.mark.parametrize("stored", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
def test_values_of_a_large_file_are_those_of_a_small_one_whatever_its_first_cells_look_like(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: str, stored: Callable[[Any], Any]
) -> None:
    """A file whose first cells are counts, and others not, would be scaled by the wrong rule."""
    adata = simulated({"c": {"B": 350, "T": 350}})
    adata.X = adata.X.toarray()
    change, is_read_again = LATER[later]
    adata.X[600:] = change(adata.X[600:])
    adata.X = stored(adata.X)
    parameters = of_new_file(tmp_path, adata, ["gene010", "gene002"])
    cells = data_cells.read_cells(parameters).assign(trains=True)
    monkeypatch.setattr(chunks, "VALUES_AT_ONCE", 700)
    found, plans = [], []
    for kept in (10**9, 0):
        monkeypatch.setattr(layers, "KEPT_VALUES", kept)
        plan = data_plan.Plan(target="c", source=None, annotated=[], classes=[])
        file = data_prepare.prepare_in_blocks(parameters, cells, plan, lambda x: x)
        read_already = bool(file.found)
        found.append(sparse.vstack(list(file.results())).toarray())
        plans.append(plan)
    assert read_already == (not is_read_again and stored is not sparse.csc_matrix)
    np.testing.assert_array_equal(*found)
    assert plans[0] == plans[1]


def test_what_goes_wrong_while_values_are_read_ahead_is_told_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value that is missing has to be named by cell and feature, whatever stumbled over it first."""
    adata = simulated({"c": {"B": 350, "T": 350}})
    adata.X = sparse.csr_matrix(adata.X)
    adata.X.data[-1] = np.nan
    parameters = of_new_file(tmp_path, adata, ["gene010", "gene002"])
    cells = data_cells.read_cells(parameters).assign(trains=True)
    monkeypatch.setattr(chunks, "VALUES_AT_ONCE", 700)
    monkeypatch.setattr(layers, "KEPT_VALUES", 0)
    plan = data_plan.Plan(target="c", source=None, annotated=[], classes=[])

    def stumbles(x: sparse.csr_matrix) -> None:
        raise ValueError("over something")

    with pytest.raises(InputError, match="NaN or infinite values in 1 cell"):
        data_prepare.prepare_in_blocks(parameters, cells, plan, stumbles)


# --- markers ---------------------------------------------------------------------------------------------------------


def test_markers_that_are_not_selected_have_their_values_too(prepare: Callable[..., Prepared]) -> None:
    """A biologist's marker need not be among the most variable features to be worth a look."""
    whole = prepare(simulated(THREE_BATCHES))
    few = prepare(
        simulated(THREE_BATCHES), NUM_FEATURES=3, MARKERS={"B": ["gene007", "gene001"], "T": ["gene007", "none"]}
    )
    assert list(few.adata.uns["markers"]) == ["gene007", "gene001"]
    values = few.adata.obsm["markers"].toarray()
    np.testing.assert_array_equal(values, whole.adata[:, ["gene007", "gene001"]].X.toarray())
    assert "MARKERS: the data lack 1 of 3 features, and no picture shows them: 'none'." in few.plan.notes


def test_markers_by_symbol_are_found_among_ensembl_ids(prepare: Callable[..., Prepared]) -> None:
    """Atlases name genes by id and keep the symbols in a column; people type symbols."""
    adata = simulated(THREE_BATCHES)
    symbols = adata.var_names.copy()
    adata.var = pd.DataFrame({"symbol": symbols}, index=[f"ENSG{i:011d}" for i in range(adata.n_vars)])
    prepared = prepare(adata, MARKERS={"B": ["gene003"]}).adata
    np.testing.assert_array_equal(
        prepared.obsm["markers"].toarray()[:, 0], prepared[:, "ENSG00000000003"].X.toarray()[:, 0]
    )


def test_markers_need_not_be_features_of_a_saved_model(
    prepare: Callable[..., Prepared], saved_model: Callable[..., Path]
) -> None:
    adata = simulated(THREE_BATCHES)
    folder = saved_model(["gene010", "gene002"])
    prepared = prepare(adata, PRETRAINED_MODEL_PATH=str(folder), MARKERS={"B": ["gene005"]}).adata
    expected = log_counts(adata[adata.obs["batch"] == "c"].X.toarray())
    np.testing.assert_allclose(prepared.obsm["markers"].toarray()[:, 0], expected[:, 5], atol=1e-5)


def test_unknown_markers_alone_stop_nothing(prepare: Callable[..., Prepared]) -> None:
    prepared = prepare(simulated(THREE_BATCHES), MARKERS={"B": ["none", "neither"]})
    assert "markers" not in prepared.adata.obsm
    assert any("the data lack 2 of 2 features" in note for note in prepared.plan.notes)


# --- parents ---------------------------------------------------------------------------------------------------------


def test_a_column_of_parents_is_read_of_annotated_cells_alone(prepare: Callable[..., Prepared]) -> None:
    """What the target's own column says would be knowledge of its labels."""
    adata = simulated(THREE_BATCHES)
    adata.obs["coarse"] = adata.obs["celltype"].map({"B": "B", "T": "lymphoid", "NK": "lymphoid"})
    adata.obs.loc[adata.obs["batch"] == "c", "coarse"] = "of the target"
    assert prepare(adata, PARENTS="coarse").plan.parents == {"B": "B", "T": "lymphoid", "NK": "lymphoid"}


def test_a_saved_models_parents_hold_unless_the_parameters_give_others(
    prepare: Callable[..., Prepared], tmp_path: Path
) -> None:
    own = {"B": "lymphoid", "T": "lymphoid"}
    write_model_json(tmp_path / "model", MODEL | {"parents": own})
    saved = {"PRETRAINED_MODEL_PATH": str(tmp_path / "model")}
    assert prepare(simulated(THREE_BATCHES), **saved).plan.parents == own
    other = {"B": "B or T", "T": "B or T"}
    assert prepare(simulated(THREE_BATCHES), **saved, PARENTS=other).plan.parents == other
    with pytest.raises(InputError, match="PARENTS: there is no cell type 'alpha'"):
        prepare(simulated(THREE_BATCHES), **saved, PARENTS={"alpha": "endocrine"})


def test_a_single_annotated_batch_promises_no_target_error(prepare: Callable[..., Prepared]) -> None:
    """Its own held-out cells would keep the promise, and a new batch have several times as many errors."""
    adata = simulated({"a": {"B": 20, "T": 20}, "c": {"B": 9, "T": 9}})
    with pytest.raises(InputError, match=r"TARGET_ERROR: found 0.05, but there is a single annotated batch \('a'\)"):
        prepare(adata, TARGET_ERROR=0.05)


# --- totals -----------------------------------------------------------------------------------------------------------


def total_of(result: Prepared) -> float | None:
    assert result.plan.preprocessing is not None
    return result.plan.preprocessing.total


@pytest.mark.parametrize("n_genes", [60, 600])
def test_cells_are_brought_to_their_median_count(n_genes: int, prepare: Callable[..., Prepared]) -> None:
    """At 10,000 a count of one and one of two look alike: a shallow run's cells would differ by zero or not zero alone."""
    adata = simulated(THREE_BATCHES, n_genes=n_genes)
    result = prepare(adata)
    sums = pd.Series(np.asarray(adata.X.sum(axis=1)).ravel()).groupby(adata.obs["batch"].to_numpy()).median()
    assert total_of(result) == round(float(np.sqrt(sums[result.plan.annotated].prod())))
    linear = np.expm1(result.values).sum(axis=1)
    np.testing.assert_allclose(linear, total_of(result), rtol=1e-3)
    words = {row["normalisation"] for row in result.plan.values}
    assert words == {f"counts per {total_of(result):,.6g}, log1p"}
    assert total_of(prepare(adata, METHOD="reference", MIN_CELL_TYPE_POPULATION=5)) == 10_000  # as it was published


def test_only_the_annotated_batches_say_which_total_it_is(prepare: Callable[..., Prepared]) -> None:
    """A target gets the same answers alone and as one of many, and a new file the same as the model's target."""
    adata, deep = simulated(THREE_BATCHES), simulated(THREE_BATCHES)
    of_target = (adata.obs["batch"] == "c").to_numpy()
    deep.X = (deep.X + sparse.diags_array(of_target * 10.0) @ (deep.X > 1).astype(np.float32)).tocsr()
    assert deep.X.sum() > 1.2 * adata.X.sum()
    assert total_of(prepare(deep)) == total_of(prepare(adata))


def test_counts_are_seen_in_logarithms(prepare: Callable[..., Prepared]) -> None:
    """The same cells give the same numbers, also from a file in which somebody has taken logarithms."""
    adata = simulated(THREE_BATCHES)
    logs = adata.copy()
    logs.X = to_log_counts(adata.X, 10_000.0)
    of_logs, of_counts = prepare(logs), prepare(adata)
    assert total_of(of_logs) == total_of(of_counts)
    np.testing.assert_allclose(of_logs.values, of_counts.values, rtol=1e-3)
    np.testing.assert_array_equal(
        prepare(logs, NORMALISATION="log1p").values, logs.X.toarray()
    )  # the user knows better


@pytest.mark.parametrize(
    ("medians", "total"),
    [((5_000.0, 2_000.0, 4_000.0), 4_000), ((1_000.0, 1_000_000.0), 31_623), ((3e7, 5e7), 1_000_000), ((0.4,), 1)],
)
def test_the_total_is_the_median_of_the_batches_at_most_a_million(medians: tuple[float, ...], total: int) -> None:
    """Technologies differ by powers of ten; and of imputed values the smallest is not one count."""
    per_10_000 = CommonScale(
        scale="", values="log1p", total=1e4, rescaled=True, normalisation="auto", kinds=["counts"], mean=1.0, sd=1.0,
        unclear="log1p",
    )  # fmt: skip
    counts = {str(i): np.array([0.5, 1.0, np.nan, 2.0]) * median for i, median in enumerate(medians)}
    found = scale_of_counts(per_10_000, counts)
    assert (found.total, found.rescaled) == (total, True)
    assert found.scale == f"log1p of counts per {total:,}"


@pytest.mark.parametrize(("n_genes", "stay"), [(100, False), (600, True)])
def test_logarithms_of_some_of_the_features_stay_as_they_are_unless_cells_hold_few_counts(
    n_genes: int, stay: bool, prepare: Callable[..., Prepared]
) -> None:
    """Whoever took them knew the cell's other features; but of few counts only zero and not zero would be left."""
    adata = simulated(THREE_BATCHES, n_genes=1200)
    adata.X = to_log_counts(adata.X, 10_000.0)
    some = adata[:, :n_genes].copy()
    result = prepare(some)
    assert (total_of(result) is None) == stay
    if stay:
        np.testing.assert_array_equal(result.values, some.X.toarray())
    else:
        assert total_of(result) < 700


def test_features_that_the_target_lacks_have_no_part_in_the_total(prepare: Callable[..., Prepared]) -> None:
    """Of a panel's genes the annotated cells have few counts, however deep they were read."""
    adata = simulated(THREE_BATCHES, n_genes=600)
    assert total_of(prepare(adata)) > 1_000
    x = adata.X.tolil()
    x[np.ix_((adata.obs["batch"] == "c").to_numpy(), np.arange(600) >= 60)] = 0
    adata.X = sparse.csr_matrix(x)
    result = prepare(adata)
    assert result.adata.n_vars == 60
    assert total_of(result) < 300
