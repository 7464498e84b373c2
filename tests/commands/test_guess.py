"""Which columns and batches are guessed, and the parameter file that `jind-nb init` writes of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from jind_nb.commands import init
from jind_nb.commands.guess import EACH_FILE, guess, guess_columns, one_line, read_obs
from jind_nb.core.files import read_yaml
from jind_nb.core.parameters import Parameters, load_parameters
from tests.conftest import Answer
from tests.helpers.simulated import THREE_BATCHES, simulated

SETS = (
    "cellbench_6batches", "pancreas_3studies_small", "pancreas_baron_human_mouse_6donors", "pancreas_wang_xin_baron",
    "pbmc_10x_symphony", "pbmc_adt_cite_asap_4batches", "pbmc_onek1k_40donors", "scatac_granja_bmmc_2donors",
    "scatac_hematopoiesis_3batches",
)  # fmt: skip
DISTRACTORS = {
    "sex": lambda i: np.where(i % 2, "female", "male"),
    "percent_mito": lambda i: (i % 37) / 37,
    "n_counts": lambda i: i % 91,
    "is_doublet": lambda i: i % 13 == 0,
    "phase": lambda i: np.array(["G1", "S", "G2M"])[i % 3],
    "cell_type_ontology_term_id": lambda i: np.array(["CL:0000236", "CL:0000084"])[i % 2],
    "barcode": lambda i: np.array([f"ACGT{n}" for n in i]),
}


def table(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({name: list(values) for name, values in columns.items()})


# --- columns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "labels"),
    [
        ("batch", "celltype"), ("donor_id", "CellType"), ("Donor", "predicted_labels_majority"), ("orig.ident", "cell_type"),
        ("well", "bulk_labels"), ("sampleID", "author_cell_type"), ("Study", "Clusters"), ("library", "leiden"),
        ("patient", "annotation_l2"), ("batch", "label"),
    ],
)  # fmt: skip
def test_usual_names_are_found_among_distractors(batch: str, labels: str) -> None:
    """Data from elsewhere name these columns as they like; a wrong guess costs a run on the wrong column."""
    i = np.arange(120)
    obs = pd.DataFrame({name: make(i) for name, make in DISTRACTORS.items()})
    obs[labels] = np.array(["B", "T", "NK"])[i % 3]
    obs[batch] = np.array(["d1", "d2", "d3", "d4"])[i % 4]
    columns = guess_columns(obs)
    assert (columns.batch[0], columns.labels[0]) == (batch, labels)
    assert not set(DISTRACTORS) & {*columns.batch, *columns.labels}


def test_cluster_numbers_are_asked_about() -> None:
    """Numbers of clusters pass for cell types until somebody reads the report."""
    obs = table(batch=np.arange(60) % 2, leiden=np.arange(60) % 3)
    assert guess(obs).why["LABELS_COL"].endswith("check that they are cell types")


def test_what_a_column_holds_counts_as_well_as_its_name() -> None:
    """A batch column with one value, or labels that say nothing, would end in an error at once."""
    i = np.arange(60)
    obs = table(batch=["1"] * 60, donor=i % 3, celltype=["unknown"] * 60, labels=np.array(["B", "T"])[i % 2])
    columns = guess_columns(obs)
    assert (columns.batch, columns.labels) == (["donor"], ["labels"])


def test_labels_that_are_each_in_one_batch_come_last() -> None:
    """`donor1_cluster3` is no cell type another donor could have."""
    i = np.arange(60)
    obs = table(
        donor=i % 2, celltype=[f"{n % 2}_{n // 2 % 3}" for n in i], annotation=np.array(["B", "T", "NK"])[i // 2 % 3]
    )
    assert guess_columns(obs).labels == ["annotation", "celltype"]


def test_labels_of_the_only_annotated_batch_are_labels() -> None:
    """One annotated batch and one to annotate is the commonest case of all."""
    i = np.arange(60)
    obs = table(batch=np.where(i < 30, "ref", "new"), celltype=np.where(i < 30, np.array(["B", "T"])[i % 2], None))
    assert guess_columns(obs).labels == ["celltype"]


def test_unnamed_columns_are_guessed_only_where_there_is_no_choice() -> None:
    """Between two columns that could be it, a person must say which."""
    i = np.arange(60)
    obs = table(
        celltype=np.array(["B", "T"])[i % 2], group=np.array(["x", "y", "z"])[i % 3], sex=np.array(["f", "m"])[i % 2]
    )
    assert guess_columns(obs).batch == ["group"]
    assert guess_columns(obs).by_content == {"group"}
    assert guess_columns(obs.assign(other=np.array(["p", "q"])[i // 2 % 2])).batch == []


# --- roles -----------------------------------------------------------------------------------------------------------


def of_counts(cells: dict[str, dict[str | None, int]], **given: Any) -> dict[str, Any]:
    rows = [(batch, label) for batch, of in cells.items() for label, n in of.items() for _ in range(n)]
    return guess(pd.DataFrame(rows, columns=["batch", "celltype"]), given).values


def test_the_batch_without_labels_is_the_target_and_the_richest_the_source() -> None:
    values = of_counts(
        {"new": {None: 50, "unknown": 3}, "a": {"B": 200, "T": 200}, "b": {"B": 150, "T": 150, "NK": 120}}
    )
    assert values["TARGET_DATASET_NAME"] == "new"
    assert values["SOURCE_DATASET_NAME"] == "b"
    assert values["MIN_CELL_TYPE_POPULATION"] == "auto"


def test_the_type_that_cannot_be_learned_is_named() -> None:
    rows = [("new", None)] * 9 + [("a", "B")] * 9 + [("b", "T")] * 9 + [("a", "DC"), ("b", "DC"), ("b", "mast")]
    found = guess(pd.DataFrame(rows, columns=["batch", "celltype"]))
    assert found.why["MIN_CELL_TYPE_POPULATION"] == "learns every cell type but mast, which has a single cell"


def test_what_is_given_is_not_guessed_and_the_rest_fits_to_it() -> None:
    cells = {name: {"B": 120, "T": 120} for name in "abc"}
    values = of_counts(cells, SOURCE_DATASET_NAME="a", EXCLUDE_DATASETS_NAMES=["b"])
    assert (values["TARGET_DATASET_NAME"], values["SOURCE_DATASET_NAME"]) == ("c", "a")
    assert of_counts(cells, TARGET_DATASET_NAME="b", MIN_CELL_TYPE_POPULATION=7)["MIN_CELL_TYPE_POPULATION"] == 7


def test_no_target_is_proposed_where_nothing_would_be_left_to_learn() -> None:
    values = of_counts({"a": {"B": 50}, "b": {"T": 50}})
    assert values["TARGET_DATASET_NAME"] is None


def test_each_file_of_several_is_a_batch_where_no_column_says_so(tmp_path: Path) -> None:
    """A reference in one file and new cells in another need no column at all."""
    adata = simulated(THREE_BATCHES)
    for name in "abc":
        part = adata[adata.obs["batch"] == name].copy()
        part.obs = part.obs[["celltype"] if name != "c" else []]
        part.write_h5ad(tmp_path / f"{name}.h5ad")
    files = [tmp_path / f"{name}.h5ad" for name in "abc"]
    found = guess(read_obs(files), several_files=True)
    assert found.values["BATCH_COL"] == EACH_FILE
    assert found.values["TARGET_DATASET_NAME"] == "c"
    started = init.write([*map(str, files)], tmp_path / "all.yaml", {})
    from jind_nb.data.cells import read_cells
    from jind_nb.data.roles import make_plan

    parameters = load_parameters(started.file)
    assert make_plan(parameters, read_cells(parameters)).annotated == ["a", "b"]


def test_a_coarser_column_is_seen_as_parents() -> None:
    i = np.arange(60)
    labels = np.array(["CD4 T", "CD8 T", "B"])[i % 3]
    obs = table(
        batch=i % 2, celltype=labels, broad=[name.split()[-1] for name in labels], sex=np.array(["f", "m"])[i % 2]
    )
    assert guess(obs).parents == ["broad"]


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.floats(), st.sampled_from(["", "B", "T", "unknown", "#"])
)
NAMES = st.sampled_from(["batch", "donor_id", "celltype", "Cell Type", "label", "sex", "x", "", "(file)", "123"])


@given(columns=st.dictionaries(NAMES, st.lists(VALUES, min_size=6, max_size=6), max_size=5), categorical=st.booleans())
def test_any_table_gives_a_guess(columns: dict[str, list[Any]], categorical: bool) -> None:
    """Tables from elsewhere mix numbers, words and gaps: `init` must not fail on one."""
    obs = pd.DataFrame(columns, index=[f"cell{i}" for i in range(6)], dtype=object)
    obs = obs.astype("category") if categorical else obs.infer_objects()
    found = guess(obs)
    for parameter in ("BATCH_COL", "LABELS_COL"):
        assert found.values[parameter] in {None, *columns}
    if found.values["SOURCE_DATASET_NAME"] is not None:
        assert found.values["SOURCE_DATASET_NAME"] != found.values["TARGET_DATASET_NAME"]


# --- the file --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_the_file_written_for_real_data_is_valid_as_it_stands(
    name: str, shared_file: Callable[[str], Path], jind_nb: Callable[..., Answer], tmp_path: Path, monkeypatch: Any
) -> None:
    """The first ten minutes: what `init` writes must be what `validate` takes."""
    monkeypatch.chdir(tmp_path)
    done = jind_nb("init", shared_file(name))
    assert done.status == 0, done.err
    assert f"jind-nb validate {name}.yaml" in done.out
    assert load_parameters(tmp_path / f"{name}.yaml").LABELS_COL == "celltype"
    assert jind_nb("validate", tmp_path / f"{name}.yaml").status == 0


@pytest.mark.parametrize("name", ["pancreas_wang_xin_baron", "pbmc_10x_symphony"])
def test_real_data_under_other_names_with_distractors(
    name: str, shared_file: Callable[[str], Path], jind_nb: Callable[..., Answer], tmp_path: Path, monkeypatch: Any
) -> None:
    """Files from elsewhere: other column names, clusters and sex beside them, and one batch that nobody has labelled."""
    adata = ad.read_h5ad(shared_file(name))
    new = adata.obs["batch"].iloc[0]
    obs = adata.obs.rename(columns={"batch": "donor_id", "celltype": "CellType"})
    obs["CellType"] = obs["CellType"].astype(object).mask(obs["donor_id"] == new, "Unknown")
    i = np.arange(adata.n_obs)
    adata.obs = obs.assign(sex=np.where(i % 2, "f", "m"), louvain=(i % 7).astype(str), percent_mito=i / len(i))
    adata.write_h5ad(tmp_path / "new data.h5ad")
    monkeypatch.chdir(tmp_path)
    done = jind_nb("init", "new data.h5ad")
    assert done.status == 0, done.err
    parameters = load_parameters(tmp_path / "new data.yaml")
    assert (parameters.BATCH_COL, parameters.LABELS_COL) == ("donor_id", "CellType")
    assert new == parameters.TARGET_DATASET_NAME
    assert "Unknown (" in (tmp_path / "new data.yaml").read_text("utf-8")
    assert "jind-nb validate 'new data.yaml'" in done.out
    assert jind_nb("validate", "new data.yaml").status == 0


def test_the_file_says_each_parameter_with_its_default(tmp_path: Path) -> None:
    """What is commented out must be the truth: taking the # away changes nothing."""
    simulated(THREE_BATCHES).write_h5ad(tmp_path / "cells.h5ad")
    file = init.write([str(tmp_path / "cells.h5ad")], tmp_path / "cells.yaml", {}).file
    text = file.read_text("utf-8")
    for parameter, field in Parameters.model_fields.items():
        assert len(re.findall(rf"^#?{parameter}:", text, re.M)) == 1
        assert str(field.description) in re.sub(r"\n# +", " ", text)
    (tmp_path / "bare.yaml").write_text(re.sub(r"^#(?=[A-Z_]+:)", "", text, flags=re.M), "utf-8")
    as_it_is, uncommented = load_parameters(file), load_parameters(tmp_path / "bare.yaml")
    assert uncommented.model_dump(exclude={"OUTPUT_PATH"}) == as_it_is.model_dump(exclude={"OUTPUT_PATH"})
    assert yaml.safe_load(text)["PATH"] == "cells.h5ad"


def test_a_file_that_is_there_is_not_overwritten(
    tmp_path: Path, jind_nb: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parameter file somebody has worked on is not to be lost."""
    simulated(THREE_BATCHES).write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cells.yaml").write_text("mine")
    refused = jind_nb("init", "cells.h5ad")
    assert refused.status == 2
    assert "cells.yaml is there already" in refused.err
    assert (tmp_path / "cells.yaml").read_text() == "mine"
    assert jind_nb("init", "cells.h5ad", "--force", "-s", "SEED=3").status == 0
    assert load_parameters("cells.yaml").SEED == 3
    assert not list(tmp_path.glob("*.part"))


def test_what_nothing_tells_is_left_to_fill_in_and_said(
    tmp_path: Path, jind_nb: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guess out of nothing would be worse than a question."""
    adata = simulated(THREE_BATCHES)
    adata.obs = pd.DataFrame({"quality": np.linspace(0, 1, adata.n_obs)}, index=adata.obs_names)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.chdir(tmp_path)
    done = jind_nb("init", "cells.h5ad")
    assert done.status == 0
    for name in ("BATCH_COL", "LABELS_COL", "TARGET_DATASET_NAME"):
        assert f"To fill in: {name}: " in done.out
    text = (tmp_path / "cells.yaml").read_text()
    assert text.count("TO FILL IN: ") == 3
    assert "The columns of obs are quality." in text
    answer = jind_nb("validate", "cells.yaml")
    assert answer.status == 2
    assert "BATCH_COL is missing" in answer.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.h5ad"], "H5AD: there is no file"),
        (["cells.h5ad", "-s", "NUM_FEATURE=3"], "did you mean NUM_FEATURES?"),
        (["cells.h5ad", "-s", "SEED=-1"], "SEED: found -1"),
        (["cells.h5ad", "-s", "PATH=b.h5ad"], "-s PATH"),
        (["cells.h5ad", "--output", "cells.h5ad", "--force"], "must end in .yaml"),
        (["cells.h5ad", "--output", "cells.h5ad/x.yaml"], "--output: cells.h5ad/x.yaml"),
    ],
)
def test_mistakes_are_told_and_write_nothing(
    arguments: list[str], says: str, tmp_path: Path, jind_nb: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated(THREE_BATCHES).write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.chdir(tmp_path)
    answer = jind_nb("init", *arguments)
    assert answer.status == 2
    assert says in answer.err
    assert [file.name for file in tmp_path.iterdir()] == ["cells.h5ad"]


NASTY = ["1", "true", "no", "null", "2020-01-01", "a: b", "# x", "- x", "'", '"', "a\nTARGET_DATASET_NAME: z", "{", "%", "é",
         "\u2028x", "\x85x", "[a, b]", "=1", "1e3", "0x10", "a" * 150, "&a", "*a", "!tag x", "|", ">", "@", "`", "\ufeffx"]  # fmt: skip


@given(value=st.one_of(st.sampled_from(NASTY), st.text(st.characters(exclude_categories=["Cs"]))))
def test_any_name_survives_in_one_line_of_yaml(value: str) -> None:
    """A batch called `no`, `1` or something with a line break must come back as the same batch."""
    line = one_line(value)
    assert len(line.splitlines()) <= 1
    assert read_yaml(f"X: {line}\n# {line}\nY: 1") == {"X": value, "Y": 1}
    assert read_yaml(f"X: {one_line([value, value])}") == {"X": [value, value]}
    assert read_yaml(f"X: {one_line({value: value})}") == {"X": {value: value}}


@pytest.mark.slow
def test_hostile_names_make_a_file_that_says_the_same(tmp_path: Path) -> None:
    """Names come from other people's files: none may become a parameter of its own."""
    cells = {name: {"B": 12, "T: #": 12} for name in NASTY if name.strip() == name and "\ufeff" not in name}
    adata = simulated(cells)
    adata.obs = adata.obs.rename(columns={"batch": "donor: #\n1", "celltype": "cell_type '\""})
    adata.write_h5ad(tmp_path / "cells: #1.h5ad")
    for target in cells:
        started = init.write(
            [str(tmp_path / "cells: #1.h5ad")], tmp_path / "x.yaml", {"TARGET_DATASET_NAME": target}, force=True
        )
        parameters = load_parameters(started.file)
        assert target == parameters.TARGET_DATASET_NAME
        assert (parameters.BATCH_COL, parameters.LABELS_COL) == ("donor: #\n1", "cell_type '\"")
        assert parameters.SOURCE_DATASET_NAME in cells
        assert Path(parameters.paths[0]).name == "cells: #1.h5ad"


def test_ensembl_ids_hint_at_the_column_with_names(tmp_path: Path) -> None:
    adata = simulated(THREE_BATCHES)
    adata.var = pd.DataFrame({"feature_name": adata.var_names}, index=[f"ENSG{i:011d}" for i in range(adata.n_vars)])
    adata.write_h5ad(tmp_path / "cells.h5ad")
    file = init.write([str(tmp_path / "cells.h5ad")], tmp_path / "cells.yaml", {}).file
    assert "feature_name holds gene names" in file.read_text("utf-8")


@pytest.mark.filterwarnings("ignore:Writing zarr v2:UserWarning")
def test_a_zarr_folder_is_looked_at_too(tmp_path: Path) -> None:
    adata = simulated(THREE_BATCHES)
    adata.write_zarr(tmp_path / "cells.zarr")
    started = init.write([str(tmp_path / "cells.zarr")], tmp_path / "cells.yaml", {})
    assert load_parameters(started.file).paths == [str(tmp_path / "cells.zarr")]
