"""Every mistake a user can make ends in one message that names it and says what to do: exit 2, nothing trained."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pytest

from jind_nb.core.model_json import MODEL_FORMAT, OLDER_FORMAT, write_model_json
from tests.conftest import ROOT, Answer
from tests.helpers.simulated import MODEL, THREE_BATCHES, simulated

JindNb = Callable[..., Answer]
BOTH = ("validate", "run")
# What only shows when the values are read: `run` does that in its first notebook.
VALIDATE = ("validate",)


def nothing_was_trained(folder: Path) -> bool:
    return not any((folder / "results" / name).exists() for name in ("notebooks", "trained_models", "work", "run.log"))


def refused(answer: Answer, folder: Path, *fragments: str) -> None:
    """Exit status 2, one message with these words, no traceback, and no model or notebook."""
    assert answer.status == 2, answer.out + answer.err
    assert answer.err.startswith("Wrong input: ")
    for fragment in fragments:
        assert fragment in answer.err
    assert "Traceback" not in answer.out + answer.err
    assert nothing_was_trained(folder)


def _nothing(_: Path) -> None:
    pass


@dataclass
class Mistake:
    """What is wrong: the cells, the file they were written to, or the parameters; and what the message must say."""

    name: str
    says: list[str]
    adata: Callable[[], ad.AnnData] = lambda: simulated(THREE_BATCHES)
    damage: Callable[[Path], None] = _nothing
    parameters: dict[str, Any] = field(default_factory=dict)
    commands: tuple[str, ...] = BOTH


def _cells(cells: dict[str, dict[str, int]]) -> Callable[[], ad.AnnData]:
    return lambda: simulated(cells)


def _part(rows: slice, columns: slice) -> Callable[[], ad.AnnData]:
    return lambda: simulated(THREE_BATCHES)[rows, columns].copy()


def _with_value(value: float, *, dense: bool = False, batch: str = "c") -> Callable[[], ad.AnnData]:
    """One value of the given batch replaced."""

    def make() -> ad.AnnData:
        adata = simulated(THREE_BATCHES)
        row = int(np.flatnonzero(adata.obs["batch"] == batch)[0])
        if dense:
            adata.X = adata.X.toarray()
            adata.X[row, 7] = value
        else:
            adata.X.data[adata.X.indptr[row]] = value
        return adata

    return make


def _centred(batch: str) -> Callable[[], ad.AnnData]:
    """Logarithms less their mean in one batch, counts in the others."""

    def make() -> ad.AnnData:
        adata = simulated(THREE_BATCHES)
        values, rows = adata.X.toarray(), (adata.obs["batch"] == batch).to_numpy()
        values[rows] = np.log1p(values[rows]) - 0.3
        adata.X = values
        return adata

    return make


def _other_genes(share: float, names: str = "other{}") -> Callable[[], ad.AnnData]:
    """A file in which the target has counts for the first genes only; the others' were filled with zeros."""

    def make() -> ad.AnnData:
        adata = simulated(THREE_BATCHES)
        values = adata.X.toarray()
        values[np.ix_((adata.obs["batch"] == "c").to_numpy(), np.arange(60) >= share * 60)] = 0
        adata.X = values
        adata.var_names = [names.format(i) for i in range(60)]
        return adata

    return make


def _with_scores() -> ad.AnnData:
    adata = simulated(THREE_BATCHES)
    adata.obs["scores"] = np.arange(adata.n_obs) / 7
    return adata


def _unlabelled() -> ad.AnnData:
    adata = simulated(THREE_BATCHES)
    adata.obs["celltype"] = adata.obs["celltype"].where(adata.obs["batch"] == "c", "unknown")
    return adata


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _replace_by_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _delete(element: str) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        with h5py.File(file, "a") as h5:
            del h5[element]

    return damage


def _overwrite_column(file: Path) -> None:
    """The batch column is there but holds nothing anndata can read."""
    with h5py.File(file, "a") as h5:
        del h5["obs/batch"]
        h5["obs/batch"] = np.zeros(3)


FILES = [
    Mistake("missing", ["PATH", "there is no file", "Did you mean 'input.h5ad'?"], parameters={"PATH": "inputs.h5ad"}),
    Mistake("missing, nothing near", ["PATH: there is no file", "/q.h5ad"], parameters={"PATH": "q.h5ad"}),
    Mistake("one of two missing", ["there is no file", "b.h5ad"], parameters={"PATH": ["input.h5ad", "b.h5ad"]}),
    Mistake("a folder", ["PATH", "input.h5ad is a folder"], damage=_replace_by_folder),
    Mistake("truncated", ["PATH", "input.h5ad cannot be read", "copy it again"], damage=_truncate),
    Mistake("text", ["input.h5ad is not an h5ad (HDF5) file"], damage=lambda file: file.write_text("cell,gene\n") and None),
    Mistake("empty", ["input.h5ad is empty (0 bytes)"], damage=lambda file: file.write_bytes(b"") and None),
    Mistake("HDF5 without X", ["input.h5ad has no X", "set LAYER"], damage=_delete("X")),
    Mistake("HDF5 without obs", ["is HDF5 but not h5ad", "write_h5ad"], damage=_delete("obs")),
    Mistake("obs damaged", ["obs of", "input.h5ad cannot be read"], damage=_overwrite_column),
    Mistake("X damaged", ["X of", "input.h5ad cannot be read"], damage=_delete("X/indices"), commands=VALIDATE),
    Mistake("no cells", ["input.h5ad holds 0 cells", "at least two"], adata=_part(slice(0), slice(None))),
    Mistake("one cell", ["input.h5ad holds 1 cell", "at least two"], adata=_part(slice(1), slice(None))),
    Mistake(
        "no genes", ["PATH", "has no features (genes or peaks)"], adata=_part(slice(None), slice(0)), commands=VALIDATE
    ),
    Mistake(
        "unknown bundled set",
        ["scanpy:pbmc3k is not known", "scanpy:pbmc68k_reduced"],
        parameters={"PATH": "scanpy:pbmc3k"},
    ),
]  # fmt: skip
COLUMNS = [
    Mistake("BATCH_COL", ["BATCH_COL", "'Batch'", "Did you mean 'batch'?"], parameters={"BATCH_COL": "Batch"}),
    Mistake("LABELS_COL", ["LABELS_COL", "'cell_type'", "'celltype'?"], parameters={"LABELS_COL": "cell_type"}),
    Mistake("far from any", ["no column 'zzz'", "its columns are batch, celltype"], parameters={"BATCH_COL": "zzz"}),
    Mistake("GENE_COL", ["GENE_COL", "'symbol'", "none"], parameters={"GENE_COL": "symbol"}, commands=VALIDATE),
    Mistake("LAYER", ["LAYER", "'counts'", "it has X"], parameters={"LAYER": "counts"}, commands=VALIDATE),
    Mistake("LAYER .raw", ["LAYER", "'.raw'", "it has X"], parameters={"LAYER": ".raw"}, commands=VALIDATE),
]
BATCHES = [
    Mistake("target", ["TARGET_DATASET_NAME", "no batch 'd'", "'a'"], parameters={"TARGET_DATASET_NAME": "d"}),
    Mistake("target's case", ["Did you mean 'target batch'?"], _cells({"a": {"B": 9, "T": 9}, "target batch": {"B": 9}}),
            parameters={"TARGET_DATASET_NAME": "Target batch"}),
    Mistake("all in small letters", ["Did you mean 'S3'?"], _cells({"a": {"B": 9, "T": 9}, "S3": {"B": 9}}),
            parameters={"TARGET_DATASET_NAME": "s3"}, commands=VALIDATE),
    Mistake("markup", ["no batch '[bold]x[/bold]'"], parameters={"TARGET_DATASET_NAME": "[bold]x[/bold]"}),
    Mistake("source", ["SOURCE_DATASET_NAME", "no batch '7'"], parameters={"SOURCE_DATASET_NAME": 7}),
    Mistake("intermediate", ["INTER_DATASETS_NAMES", "no batch 'x'"], parameters={"INTER_DATASETS_NAMES": "a, x"}),
    Mistake("excluded", ["EXCLUDE_DATASETS_NAMES", "no batch 'x'"], parameters={"EXCLUDE_DATASETS_NAMES": ["x"]}),
    Mistake("target = source", ["SOURCE_DATASET_NAME and TARGET_DATASET_NAME"], parameters={"SOURCE_DATASET_NAME": "c"}),
    Mistake("target intermediate", ["TARGET_DATASET_NAME 'c' is also in INTER_DATASETS_NAMES"],
            parameters={"INTER_DATASETS_NAMES": "a, c"}),
    Mistake("source excluded", ["EXCLUDE_DATASETS_NAMES and SOURCE_DATASET_NAME both name 'a'"],
            parameters={"SOURCE_DATASET_NAME": "a", "EXCLUDE_DATASETS_NAMES": "['a']"}),
    Mistake("repeated", ["INTER_DATASETS_NAMES: found 'a, b, a'; names 'a' more than once"], parameters={"INTER_DATASETS_NAMES": "a, b, a"}),
    Mistake("all excluded", ["No annotated batch is left", "EXCLUDE_DATASETS_NAMES"],
            parameters={"EXCLUDE_DATASETS_NAMES": "a, b"}),
    Mistake("no labels", ["No annotated batch is left", "LABELS_COL 'celltype'"], _unlabelled),
    Mistake("target only", ["No annotated batch is left"], _cells({"c": {"B": 20, "T": 20}})),
    Mistake("source without labels", ["SOURCE_DATASET_NAME: no cell of 'a' has a label"], _unlabelled,
            parameters={"SOURCE_DATASET_NAME": "a"}),
    Mistake("one type", ["LABELS_COL 'celltype'", "one cell type only ('B')", "at least two"],
            _cells({"a": {"B": 20}, "b": {"B": 20}, "c": {"B": 9, "T": 9}})),
    Mistake("one type left", ["one cell type only ('T')"], _cells({"a": {"B": 20}, "b": {"T": 20}, "c": {"B": 9}}),
            parameters={"EXCLUDE_DATASETS_NAMES": "a"}),
    Mistake("one target cell", ["TARGET_DATASET_NAME", "batch 'c' has 1 cell;", "at least two"],
            _cells({"a": {"B": 9, "T": 9}, "c": {"B": 1}})),
]  # fmt: skip
VALUES = [
    Mistake("NaN, dense", ["NaN or infinite values in 1 cell", "feature 'gene007'"], _with_value(np.nan, dense=True)),
    Mistake("NaN, sparse", ["NaN or infinite values in 1 cell", "in cell 'cell"], _with_value(np.nan)),
    Mistake("infinite", ["NaN or infinite values in 1 cell", "LAYER"], _with_value(np.inf)),
    Mistake("negative infinite", ["NaN or infinite values in 1 cell"], _with_value(-np.inf, dense=True)),
    Mistake("NaN in an annotated batch", ["NaN or infinite values in 1 cell"], _with_value(np.nan, batch="a")),
    Mistake("negative counts", ["'c' holds whole, some negative, values (from -2", "LAYER"], _with_value(-2)),
    Mistake("centred target alone", ["'c' holds centred values", "brought to one scale", "LAYER"], _centred("c")),
    Mistake("centred as counts", ["partly negative", "cannot be counts"], _centred("c"),
            parameters={"NORMALISATION": "counts"}),
    Mistake("negative as logarithms", ["some negative", "cannot be log1p"], _with_value(-0.5),
            parameters={"NORMALISATION": "log1p"}),
]  # fmt: skip
VALUES += [
    Mistake("other genes", ["Batch 'c' has only 6 of 60 features (10 %)", "the others: other10,", "and 44 more"],
            _other_genes(0.1)),
    Mistake("other peaks", ["Batch 'c' has only 0 of 60 features", "re-quantify all batches on one common peak set"],
            _other_genes(0.0, "chr1:{0}00-{0}50")),
]  # fmt: skip
for mistake in VALUES:
    mistake.commands = VALIDATE
PARAMETERS = [
    Mistake(
        "unknown", ["There is no parameter NUM_FEATURE; did you mean NUM_FEATURES?"], parameters={"NUM_FEATURE": 9}
    ),
    Mistake("lower case", ["did you mean SEED?"], parameters={"seed": 9}),
    Mistake("Python's name", ["did you mean TARGET_DATASET_NAME?"], parameters={"target": "c"}, commands=VALIDATE),
    Mistake(
        "missing",
        ["LABELS_COL is missing", "Fill in LABELS_COL in", ".yaml"],
        parameters={"LABELS_COL": ...},
    ),
    Mistake(
        "no batch without labels",
        ["TARGET_DATASET_NAME is absent", "every batch without labels", "name the batch to annotate: "],
        parameters={"TARGET_DATASET_NAME": ...},
    ),
    Mistake(
        "a target twice", ["TARGET_DATASET_NAME", "more than once"], parameters={"TARGET_DATASET_NAME": ["c", "c"]}
    ),
    Mistake("out of limits", ["REJECTION: found 1.5"], parameters={"REJECTION": 1.5}),
    Mistake("not a number", ["NUM_FEATURES: found 'many'"], parameters={"NUM_FEATURES": "many"}),
    Mistake("no", ["TARGET_DATASET_NAME", "quotes"], parameters={"TARGET_DATASET_NAME": False}),
    Mistake("markers without types", ["MARKERS", "must be a map"], parameters={"MARKERS": ["gene000"]}),
    Mistake("two levels", ["PARENTS", "one level only", "'cell'"], parameters={"PARENTS": {"B": "T", "T": "cell"}}),
    Mistake("no such column", ["PARENTS", "no column 'coarse'", "celltype"], parameters={"PARENTS": "coarse"}),
    Mistake(
        "no coarser column", ["PARENTS", "'scores' is no coarser level"], _with_scores, parameters={"PARENTS": "scores"}
    ),
]
ALL = {"file": FILES, "column": COLUMNS, "batch": BATCHES, "values": VALUES, "parameter": PARAMETERS}


@pytest.mark.parametrize(
    ("mistake", "command"),
    [
        pytest.param(mistake, command, id=f"{command}: {kind}: {mistake.name}")
        for kind, mistakes in ALL.items()
        for mistake in mistakes
        for command in mistake.commands
    ],
)
def test_a_mistake_is_named_and_nothing_is_trained(
    mistake: Mistake, command: str, write_parameters: Callable[..., Path], jind_nb: JindNb, tmp_path: Path
) -> None:
    file = write_parameters(mistake.adata(), **mistake.parameters)
    mistake.damage(tmp_path / "input.h5ad")
    refused(jind_nb(command, file), tmp_path, *mistake.says)


# --- the parameter file and -s ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", BOTH)
def test_a_missing_parameter_file_is_named(command: str, jind_nb: JindNb, tmp_path: Path) -> None:
    refused(jind_nb(command, tmp_path / "none.yaml"), tmp_path, "There is no parameter file", "none.yaml")


@pytest.mark.parametrize("command", BOTH)
def test_data_in_place_of_a_parameter_file_leads_to_init(command: str, jind_nb: JindNb, tmp_path: Path) -> None:
    """It is what most people try first; that its bytes are no text would help nobody."""
    (tmp_path / "my cells.h5ad").touch()
    says = ("holds data, not parameters", "jind-nb init '", "my cells.h5ad'")
    refused(jind_nb(command, tmp_path / "my cells.h5ad"), tmp_path, *says)


@pytest.mark.parametrize(
    ("override", "says"),
    [("NUM_FEATURE=3", "did you mean NUM_FEATURES?"), ("SEED", "-s NAME=VALUE"), ("SEED=-1", "SEED: found -1")],
)
def test_a_wrong_override_is_named(
    override: str, says: str, write_parameters: Callable[..., Path], jind_nb: JindNb, tmp_path: Path
) -> None:
    refused(jind_nb("validate", write_parameters(), "-s", override), tmp_path, says)


# --- values that would work ------------------------------------------------------------------------------------------

TOO_HIGH = [
    pytest.param({"a": {"B": 30, "T": 12}, "b": {"B": 8, "T": 17}, "c": {"B": 9}}, {}, id="two types"),
    pytest.param({"a": {"B": 30}, "b": {"T": 6, "NK": 3}, "c": {"B": 9}}, {}, id="in different batches"),
    pytest.param({"a": {"B": 30, "T": 30}, "b": {"T": 6}, "c": {"B": 9}}, {"SOURCE_DATASET_NAME": "a"}, id="source"),
    pytest.param(
        {"a": {"B": 3, "T": 4}, "b": {"B": 30, "T": 40}, "c": {"B": 9}},
        {"SOURCE_DATASET_NAME": "a"},
        id="a source of few cells",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("cells", "roles"), TOO_HIGH)
def test_the_population_that_the_message_names_works(
    cells: dict[str, dict[str, int]],
    roles: dict[str, str],
    write_parameters: Callable[..., Path],
    jind_nb: JindNb,
    tmp_path: Path,
) -> None:
    """And it is the largest one: one more is still too high."""
    file = write_parameters(simulated(cells), MIN_CELL_TYPE_POPULATION=100, **roles)
    answer = jind_nb("validate", file)
    refused(answer, tmp_path, "MIN_CELL_TYPE_POPULATION 100 leaves 0 cell types to learn")
    named = re.search(r"(\d+) or less would work", answer.err)
    assert named is not None
    works = int(named[1])
    assert jind_nb("validate", file, "-s", f"MIN_CELL_TYPE_POPULATION={works}").status == 0
    assert jind_nb("validate", file, "-s", f"MIN_CELL_TYPE_POPULATION={works + 1}").status == 2


def test_a_source_with_too_few_cells_of_every_type_says_how_many_would_do(
    write_parameters: Callable[..., Path], jind_nb: JindNb, tmp_path: Path
) -> None:
    adata = simulated({"a": {"B": 3, "T": 4}, "b": {"B": 30, "T": 40}, "c": {"B": 9}})
    file = write_parameters(adata, SOURCE_DATASET_NAME="a")
    refused(jind_nb("run", file), tmp_path, "SOURCE_DATASET_NAME 'a'", "4 or less would work")
    assert jind_nb("validate", file, "-s", "MIN_CELL_TYPE_POPULATION=4").status == 0


# --- unusual, but not wrong ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axis", "note"),
    [
        ("var_names", "2 feature names of input.h5ad occur more than once"),
        ("obs_names", "2 cell names occur more than once"),
    ],
)
def test_repeated_names_are_accepted_and_said(
    axis: str, note: str, write_parameters: Callable[..., Path], jind_nb: JindNb
) -> None:
    adata = simulated(THREE_BATCHES)
    names = list(getattr(adata, axis))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        setattr(adata, axis, [names[0]] * 3 + names[3:])
        file = write_parameters(adata)
    answer = jind_nb("validate", file)
    assert answer.status == 0, answer.err
    assert note in " ".join(answer.out.split())


def test_a_good_input_is_said_to_be_good_and_nothing_is_trained(
    write_parameters: Callable[..., Path], jind_nb: JindNb, tmp_path: Path
) -> None:
    """Without this, the tests above would also pass if `validate` refused everything."""
    answer = jind_nb("validate", write_parameters(SOURCE_DATASET_NAME="a", INTER_DATASETS_NAMES="b"))
    assert answer.status == 0, answer.err
    assert "3 cell types can be predicted: B, NK, T" in answer.out
    assert "60 of 60 features would be used." in answer.out
    assert nothing_was_trained(tmp_path)


def test_validate_shows_what_the_file_holds_by_what_evidence_and_warns(
    write_parameters: Callable[..., Path], jind_nb: JindNb
) -> None:
    """Which matrix was looked at, what it looks like and what to set: what users of other programs had to ask for."""
    adata = _centred("c")()
    adata.layers["counts"] = simulated(THREE_BATCHES).X
    answer = jind_nb("validate", write_parameters(adata))
    assert answer.status == 0, answer.err
    said = " ".join(answer.out.split())
    for fragment in ("What the file holds", "layer 'counts'", "Values", "whole", "Features", "60 │ 60 │ 100.0"):
        assert fragment in said
    assert "Warning: X of input.h5ad is centred, counts, which cannot be brought to one scale;" in said
    assert "layer 'counts' (counts) is used instead. Set LAYER to choose another." in said


def test_validate_writes_nothing(write_parameters: Callable[..., Path], jind_nb: JindNb, tmp_path: Path) -> None:
    assert jind_nb("validate", write_parameters()).status == 0
    assert not (tmp_path / "results").exists()


def test_a_file_without_x_works_by_its_layer(write_parameters: Callable[..., Path], jind_nb: JindNb) -> None:
    adata = simulated(THREE_BATCHES)
    bare = ad.AnnData(None, obs=adata.obs, var=adata.var, layers={"counts": adata.X})
    assert jind_nb("validate", write_parameters(bare, LAYER="counts")).status == 0


def test_what_the_message_on_negative_counts_proposes_works(
    write_parameters: Callable[..., Path], jind_nb: JindNb
) -> None:
    file = write_parameters(_with_value(-2)())
    assert jind_nb("validate", file, "-s", "NORMALISATION=as_is").status == 0


# --- several files ---------------------------------------------------------------------------------------------------


@pytest.fixture
def query(tmp_path: Path) -> Path:
    """A second file: a batch `d` whose genes have other names."""
    adata = simulated({"d": {"B": 9, "T": 9}})
    adata.var_names = [f"ENSG{i:011d}" for i in range(adata.n_vars)]
    adata.write_h5ad(tmp_path / "query.h5ad")
    return tmp_path / "query.h5ad"


def test_files_without_a_common_gene_show_how_each_names_them(
    write_parameters: Callable[..., Path], query: Path, jind_nb: JindNb, tmp_path: Path
) -> None:
    file = write_parameters(PATH=["input.h5ad", query.name], TARGET_DATASET_NAME="d")
    refused(
        jind_nb("validate", file), tmp_path, "no feature name in common", "'gene000'", "'ENSG00000000000'", "GENE_COL"
    )


def test_files_of_disjoint_peaks_are_told_to_requantify(
    write_parameters: Callable[..., Path], jind_nb: JindNb, tmp_path: Path
) -> None:
    """Filling in zeros would annotate every cell at random."""
    reference, asked = simulated(THREE_BATCHES), simulated({"d": {"B": 9, "T": 9}})
    reference.var_names = [f"chr1:{i}00-{i}50" for i in range(60)]
    asked.var_names = [f"chr1-{i}20-{i}70" for i in range(60)]
    asked.write_h5ad(tmp_path / "query.h5ad")
    file = write_parameters(reference, PATH=["input.h5ad", "query.h5ad"], TARGET_DATASET_NAME="d")
    refused(jind_nb("validate", file), tmp_path, "no peak in common", "re-quantify all batches", "'chr1-120-170'")


def test_a_query_file_with_few_of_the_genes_is_refused(
    write_parameters: Callable[..., Path], jind_nb: JindNb, tmp_path: Path
) -> None:
    simulated({"d": {"B": 9, "T": 9}})[:, :6].copy().write_h5ad(tmp_path / "query.h5ad")
    file = write_parameters(PATH=["input.h5ad", "query.h5ad"], TARGET_DATASET_NAME="d")
    says = ("query.h5ad ('d') has only 6 of 60 features (10 %) that vary most in input.h5ad", "the others: gene0")
    refused(jind_nb("validate", file), tmp_path, *says, "and 44 more", "GENE_COL")


def test_labels_in_none_of_the_files_are_missed_by_name(
    write_parameters: Callable[..., Path], query: Path, jind_nb: JindNb, tmp_path: Path
) -> None:
    file = write_parameters(PATH=["input.h5ad", query.name], TARGET_DATASET_NAME="d", LABELS_COL="label")
    refused(jind_nb("run", file), tmp_path, "LABELS_COL", "none of the files", "'label'")


# --- the output folder -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", BOTH)
@pytest.mark.parametrize("folder", ["input.h5ad/results", "/proc/jind_nb/results"], ids=["below a file", "proc"])
def test_an_output_folder_that_cannot_be_written_is_named(
    command: str, folder: str, write_parameters: Callable[..., Path], jind_nb: JindNb, tmp_path: Path
) -> None:
    answer = jind_nb(command, write_parameters(OUTPUT_PATH=folder))
    refused(answer, tmp_path, "OUTPUT_PATH", folder, "cannot be written")


@pytest.fixture
def full_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on a file system with 1 MB of room; where none can be mounted, the room is made out to be that."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and shutil.which("mount") and not subprocess.run(mount, capture_output=True).returncode
    if mounted:
        yield folder
        subprocess.run(["umount", str(folder)], check=True)
    else:
        usage = shutil.disk_usage(folder)._replace(free=1_000_000)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        yield folder


@pytest.mark.parametrize("command", BOTH)
def test_an_output_folder_without_room_is_told_before_training(
    command: str, full_folder: Path, write_parameters: Callable[..., Path], jind_nb: JindNb, tmp_path: Path
) -> None:
    answer = jind_nb(command, write_parameters(), "--output-path", full_folder / "results")
    refused(answer, tmp_path, "OUTPUT_PATH", str(full_folder), "1 MB free", "Make room")
    assert not list(full_folder.rglob("*.*"))


# --- a saved model ---------------------------------------------------------------------------------------------------


def _model(folder: Path, content: str | dict[str, Any]) -> None:
    """A folder with a model.json: any text, or values with the hash that belongs to them."""
    folder.mkdir()
    if isinstance(content, str):
        (folder / "model.json").write_text(content)
    else:
        write_model_json(folder, content)


def _of_the_reference(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.pt").write_bytes(b"")


def _without(name: str) -> dict[str, Any]:
    return {key: value for key, value in MODEL.items() if key != name}


@pytest.mark.parametrize("command", BOTH)
@pytest.mark.parametrize(
    ("make", "says"),
    [
        pytest.param(lambda folder: None, ["there is no folder", "trained_models folder"], id="none"),
        pytest.param(lambda folder: folder.write_text(""), ["there is no folder"], id="a file"),
        pytest.param(Path.mkdir, ["has no model.json", "trained_models folder"], id="empty folder"),
        pytest.param(_of_the_reference, ["has no model.json", "JIND-Multi program"], id="of JIND-Multi"),
        pytest.param(lambda folder: _model(folder, "{"), ["model.json is damaged"], id="not JSON"),
        pytest.param(lambda folder: _model(folder, ""), ["model.json is damaged"], id="empty"),
        pytest.param(lambda folder: _model(folder, "[]"), ["model.json is damaged"], id="a list"),
        *(
            pytest.param(lambda folder, key=key: _model(folder, _without(key)), ["is damaged", key], id=f"no {key}")
            for key in ("format", "features", "classes", "source", "files")
        ),
        pytest.param(
            lambda folder: _model(folder, MODEL | {"format": 99}),
            ["format 99", f"reads formats {OLDER_FORMAT} and {MODEL_FORMAT}", "update jind-nb"],
            id="newer",
        ),
    ],
)
def test_a_saved_model_that_cannot_be_used_is_named(
    command: str,
    make: Callable[[Path], None],
    says: list[str],
    write_parameters: Callable[..., Path],
    jind_nb: JindNb,
    tmp_path: Path,
) -> None:
    make(tmp_path / "model")
    file = write_parameters(PRETRAINED_MODEL_PATH="model")
    refused(jind_nb(command, file), tmp_path, "PRETRAINED_MODEL_PATH", *says)


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param({"preprocessing": None}, id="preprocessing"),
        pytest.param({"features": ["ENSG1", "ENSG2"]}, id="other features"),
        pytest.param(
            {"preprocessing": MODEL["preprocessing"] | {"values": "as they are", "kinds": ["z-scored"]}},
            id="other scale",
        ),
    ],
)  # fmt: skip
def test_a_saved_model_that_does_not_fit_the_file_is_refused(
    broken: dict[str, Any], write_parameters: Callable[..., Path], jind_nb: JindNb, tmp_path: Path
) -> None:
    model = {key: value for key, value in (MODEL | broken).items() if value is not None}
    _model(tmp_path / "model", model)
    file = write_parameters(PRETRAINED_MODEL_PATH="model")
    refused(jind_nb("validate", file), tmp_path, "PRETRAINED_MODEL_PATH")


def test_a_saved_model_asks_nothing_of_the_annotated_batches(
    write_parameters: Callable[..., Path], jind_nb: JindNb, tmp_path: Path
) -> None:
    """A file with nothing but the query, and parameters that still name the training batches, are fine."""
    _model(tmp_path / "model", MODEL)
    adata = simulated({"c": {"B": 9, "T": 9}})
    del adata.obs["celltype"]
    file = write_parameters(adata, PRETRAINED_MODEL_PATH="model", SOURCE_DATASET_NAME="a", INTER_DATASETS_NAMES="b")
    answer = jind_nb("validate", file)
    assert answer.status == 0, answer.err
    assert "2 of 60 features would be used." in answer.out


def test_the_demos_parameters_are_good(jind_nb: JindNb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    demo = ROOT / "parameters" / "demo.yaml"
    assert jind_nb("validate", demo, "--output-path", tmp_path / "results").status == 0
