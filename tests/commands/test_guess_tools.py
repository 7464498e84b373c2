"""What `init` proposes for the tables of cells that other tools leave: what a person would.

A wrong proposal costs a run on numbers of types, or on what a tool predicted as if somebody had labelled it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jind_nb.commands.guess import EACH_FILE, guess, read_obs
from tests.conftest import SHARED, skip

I = np.arange(300)  # noqa: E741
TYPES = np.array(["B", "T", "NK"])[I % 3]
DONORS = np.array(["d1", "d2", "d3"])[I // 100]
OF_D3 = DONORS == "d3"
NUMBERS = (I * 7 % 5).astype(str)

# Tool -> columns that it leaves, the batch and the labels that a person would take, and the target.
TOOLS: dict[str, tuple[dict[str, Any], str, str, str | None]] = {
    "scANVI": (
        {
            "_scvi_batch": I // 100, "_scvi_labels": I % 3, "tech": DONORS, "leiden": NUMBERS, "C_scANVI": TYPES,
            "seed_labels": np.where(OF_D3, "Unknown", TYPES),
        },
        "tech", "seed_labels", "d3",
    ),
    "popV": (
        {
            "_dataset": np.where(OF_D3, "query", "ref"), "_batch_annotation": DONORS, "donor": DONORS,
            "popv_prediction": TYPES, "popv_majority_vote_prediction": TYPES, "popv_prediction_score": I % 7,
            "popv_knn_on_scvi_prediction": TYPES, "ref_labels": np.where(OF_D3, "NA", TYPES),
        },
        "donor", "ref_labels", "d3",
    ),
    "SingleR": (
        {
            "sample": DONORS, "SingleR.labels": TYPES, "pruned.labels": np.where(I % 11, TYPES, None), "delta.next": I / 7,
            "annotation": np.where(OF_D3, None, TYPES),
        },
        "sample", "annotation", "d3",
    ),
    "Azimuth": (
        {
            "orig.ident": DONORS, "nCount_RNA": I * 1.5, "predicted.celltype.l2": TYPES, "predicted.celltype.l1": TYPES,
            "predicted.celltype.l2.score": I / 300, "mapping.score": I / 300, "cell_type": np.where(OF_D3, "", TYPES),
        },
        "orig.ident", "cell_type", "d3",
    ),
    "CellTypist": (
        {
            "batch": DONORS, "predicted_labels": TYPES, "majority_voting": TYPES, "over_clustering": NUMBERS,
            "conf_score": I / 300, "label": np.where(OF_D3, "unassigned", TYPES),
        },
        "batch", "label", "d3",
    ),
    "cellxgene": (
        {
            "donor_id": DONORS, "assay": ["10x"] * 300, "suspension_type": ["cell"] * 300, "is_primary_data": [True] * 300,
            "cell_type_ontology_term_id": np.array(["CL:0000236", "CL:0000084", "CL:0000623"])[I % 3], "cell_type": TYPES,
            "disease": np.array(["normal", "ill"])[I % 2], "observation_joinid": [f"j{i}" for i in I],
        },
        "donor_id", "cell_type", None,
    ),
    "Seurat": (
        {
            "orig.ident": DONORS, "nCount_RNA": I * 2, "nFeature_RNA": I * 3, "percent.mt": I / 100,
            "RNA_snn_res.0.8": NUMBERS, "seurat_clusters": NUMBERS, "cluster_names": TYPES,
        },
        "orig.ident", "cluster_names", None,
    ),
    "Seurat's ident": (
        {"orig.ident": DONORS, "ident": TYPES, "seurat_clusters": NUMBERS.astype(int), "nCount_RNA": I}, "orig.ident", "ident", None,
    ),
    "Seurat's hashtags": (
        {
            "orig.ident": ["pbmc"] * 300, "HTO_classification": DONORS, "hash.ID": DONORS, "predicted.id": TYPES,
            "HTO_classification.global": np.where(I % 11, "Singlet", "Doublet"), "cell_type": np.where(OF_D3, None, TYPES),
        },
        "hash.ID", "cell_type", "d3",
    ),
    "scArches": (
        {
            "dataset": DONORS, "ann_level_1": np.where(OF_D3, None, TYPES), "transf_ann_level_1_label": TYPES,
            "transf_ann_level_1_uncert": I / 300,
        },
        "dataset", "ann_level_1", "d3",
    ),
    "a tool's labels alone": (
        {"sample": DONORS, "predicted_labels": np.where(OF_D3, None, TYPES)}, "sample", "predicted_labels", "d3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("tool", TOOLS)
def test_the_tables_that_tools_leave(tool: str) -> None:
    columns, batch, labels, target = TOOLS[tool]
    found = guess(pd.DataFrame(columns)).values
    assert (found["BATCH_COL"], found["LABELS_COL"]) == (batch, labels)
    assert target is None or found["TARGET_DATASET_NAME"] == target


@pytest.mark.parametrize(
    ("name", "batch", "labels"),
    [("obs_of_scanvi", "tech", "seed_labels"), ("obs_of_popv", "donor_method", "ref_labels")],
)
def test_real_tables_of_tools(name: str, batch: str, labels: str) -> None:
    file = SHARED.parent / "cases" / f"{name}.h5ad"
    if not file.exists():
        skip(f"the shared case {name} is not in {file.parent}")
    found = guess(read_obs([file])).values
    assert (found["BATCH_COL"], found["LABELS_COL"], found["TARGET_DATASET_NAME"]) == (batch, labels, "5p")


def test_columns_that_only_one_of_two_files_has() -> None:
    """The reference has donors and types, the new file neither; it is a batch named like the file."""
    both = pd.DataFrame({"donor": DONORS, "cell_type": TYPES, "n_counts": I / 7})
    both.loc[OF_D3, ["donor", "cell_type"]] = None
    both[EACH_FILE] = np.where(OF_D3, "new", "atlas")
    found = guess(both, several_files=True).values
    assert (found["BATCH_COL"], found["LABELS_COL"], found["TARGET_DATASET_NAME"]) == ("donor", "cell_type", "new")


def test_names_for_people_are_there_or_what_there_is_is_taken() -> None:
    found = guess(pd.DataFrame({"_batch": DONORS, "_labels": TYPES})).values
    assert (found["BATCH_COL"], found["LABELS_COL"]) == ("_batch", "_labels")


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    import anndata as ad

    for name in ("s1", "s2"):
        (tmp_path / name).mkdir()
        ad.AnnData(np.ones((4, 2)), obs=pd.DataFrame({"x": ["u", "v"] * 2}, index=list("abcd"))).write_h5ad(
            tmp_path / name / "counts.h5ad"
        )
    obs = read_obs([tmp_path / "s1/counts.h5ad", tmp_path / "s2/counts.h5ad"])
    assert list(obs[EACH_FILE].unique()) == ["s1", "s2"]
