"""The predictions table, its two files, and the summary's tables: what a user opens first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from jind_nb.core.colours import DARK_GREY
from jind_nb.core.labels import UNASSIGNED
from jind_nb.core.parameters import Parameters
from jind_nb.data.plan import Plan
from jind_nb.errors import InputError
from jind_nb.model.calibration import Calibration
from jind_nb.model.expected_error import ExpectedError, expected_error
from jind_nb.model.predictions import NONE_PASSES, Predictions
from jind_nb.results import data_tables, summary, tables, target, workbook, write
from jind_nb.results.clusters import Clusters
from jind_nb.results.target import TargetResult, labelled_confidence
from jind_nb.runs.folder import Run
from tests.helpers.simulated import simulated


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(
        Parameters(
            PATH="a.h5ad", BATCH_COL="batch", LABELS_COL="type", TARGET_DATASET_NAME="t", OUTPUT_PATH=str(tmp_path)
        )
    )


def annotated(
    classes: list[str], probabilities: list[list[float]], labels: list[str | None] | None = None, threshold: float = 0.6
) -> TargetResult:
    """A target whose cells have these probabilities; all types ask for the same confidence."""
    n = len(probabilities)
    final = Predictions(classes, np.array(probabilities), np.full(len(classes), threshold))
    known = None if labels is None else np.array(labels, dtype=object)
    return TargetResult({"before alignment": final}, np.array([f"c{i}" for i in range(n)]), np.zeros((n, 256)), known)


THREE_CELLS = [[0.9, 0.1], [0.55, 0.45], [0.2, 0.8]]


def sheet_of(run: Run) -> list[tuple[object, ...]]:
    book = openpyxl.load_workbook(run.predictions_xlsx, read_only=True)
    try:
        return list(book.active.iter_rows(values_only=True))
    finally:
        book.close()


def test_table_has_raw_and_rejected_predictions_probabilities_and_labels() -> None:
    """Else a user could not tell which cells were rejected, or how sure the model was."""
    table = tables.predictions_table(annotated(["B", "T"], THREE_CELLS, ["B", None, "T"]))
    assert table.index.name == "cellname"
    assert list(table.index) == ["c0", "c1", "c2"]
    assert list(table) == ["raw_predictions", "predictions", "confidence", "reason", "B", "T", "labels"]
    assert list(table["raw_predictions"]) == ["B", "B", "T"]
    assert list(table["predictions"]) == ["B", UNASSIGNED, "T"]
    assert list(table["labels"]) == ["B", None, "T"]
    np.testing.assert_array_equal(table[["B", "T"]], THREE_CELLS)


def test_table_has_no_labels_column_without_labels() -> None:
    assert "labels" not in tables.predictions_table(annotated(["B", "T"], THREE_CELLS))


LEVELS = [[0.9, 0.05, 0.05], [0.1, 0.5, 0.4], [0.4, 0.3, 0.3], [0.05, 0.05, 0.9]]


def with_levels(labels: list[str | None] | None = None) -> TargetResult:
    """B, a T cell of either kind, one that may be anything, and CD8 T."""
    result = annotated(["B", "CD4 T", "CD8 T"], LEVELS, labels, threshold=0.8)
    return target.with_parents(result, {"CD4 T": "T", "CD8 T": "T", "gdT": "T"})


def test_a_parent_is_the_answer_where_the_type_is_ambiguous() -> None:
    """And its level and reason say so, or it would be taken for a type."""
    table = tables.predictions_table(with_levels())
    assert list(table)[:6] == ["raw_predictions", "predictions", "level", "confidence", "reason", "B"]
    assert table["predictions"].tolist() == ["B", "T", UNASSIGNED, "CD8 T"]
    assert table["level"].tolist() == ["cell type", "parent", UNASSIGNED, "cell type"]
    assert table["reason"].tolist() == ["confident", "parent only", "ambiguous", "confident"]
    np.testing.assert_array_equal(tables.probabilities_of(table, ["B", "CD4 T", "CD8 T"]), LEVELS)
    assert tables.reasons_table(with_levels())["cells"].to_dict() == {
        "confident": 2, "parent only": 1, "ambiguous": 1, "unlike reference": 0,
    }  # fmt: skip


def test_without_parents_nothing_speaks_of_levels() -> None:
    result = annotated(["B", "T"], THREE_CELLS)
    assert "level" not in tables.predictions_table(result)
    assert "parent only" not in tables.reasons_table(result).index
    assert target.fallback_metrics(result) is None
    assert "PARENTS is not set" in tables.fallback_table(result).iloc[0, 0]


@pytest.mark.parametrize(
    ("label", "right"), [("CD4 T", 1), ("gdT", 1), ("B", 0), ("a type nobody named", 0), (None, None)]
)
def test_a_fallback_is_right_if_it_is_the_true_types_parent(label: str | None, right: int | None) -> None:
    """Also of a type the annotated batches lack, if PARENTS names it."""
    numbers = target.fallback_metrics(with_levels(["B", label, "B", "CD8 T"]))
    assert numbers == {"cells": 1, "labelled": int(label is not None), "right": right or 0}


def test_a_fallback_counts_as_rejected_in_the_numbers_of_types() -> None:
    """Else PARENTS would make a method look better at naming types."""
    (stage,) = target.evaluate_target(with_levels(["B", "CD4 T", "B", "CD8 T"]), "t")
    assert stage.metrics["rejected"] == 2
    assert stage.metrics["effective_accuracy"] == 1.0
    table = tables.composition_table(with_levels(), Plan("t", None, [], ["B", "CD4 T", "CD8 T"]))
    assert table.loc["CD4 T", ["assigned", "parent_only", "rejected"]].tolist() == [0, 1, 0]
    assert table[["assigned", "parent_only", "rejected"]].sum().sum() == 4


FOUR_OF_THREE_TYPES = [[0.9, 0.05, 0.05], [0.48, 0.04, 0.48], [0.04, 0.9, 0.06], [0.48, 0.04, 0.48]]


def test_what_a_left_out_type_would_have_been_is_counted() -> None:
    """Else a user would not see that TYPES is wrong."""
    result = target.with_types(annotated(["B", "NK", "T"], FOUR_OF_THREE_TYPES), ["T", "NK", "neuron"])
    table = tables.predictions_table(result)
    assert table["predictions"].tolist() == [UNASSIGNED, "T", "NK", "T"]
    assert table["reason"].tolist() == ["not in TYPES", *["confident"] * 3]
    assert table["raw_predictions"].tolist()[0] == "B"
    assert tables.outside_table(result).loc["B"].to_dict() == {
        "cells most like it": 3, "assigned without TYPES": 1, "now one of TYPES": 2, "now Unassigned": 1,
    }  # fmt: skip
    assert "1 cell is more probably" in tables.outside_notes(table)[0]
    told = summary.summarise(
        result, Plan("t", None, [], ["B", "NK", "T"]), {"history": [], "calibration": {}, "intermediates": []}
    )
    assert any("TYPES names neuron, which no annotated cell has" in text for text in told.distrust)
    assert any("most like: B (1)" in text for text in told.distrust)
    adata = simulated({"a": {"B": 4}})
    tables.annotate_obs(adata, table, ["B", "NK", "T"], result.latent)
    assert adata.obs["jind_reason"].tolist()[0] == "not in TYPES"


def test_without_types_nothing_speaks_of_them() -> None:
    result = annotated(["B", "T"], THREE_CELLS)
    assert target.with_types(result, []) is result
    assert "not in TYPES" not in tables.reasons_table(result).index
    assert "TYPES is not set" in tables.outside_table(result).iloc[0, 0]


@pytest.mark.parametrize(
    ("types", "message"),
    [(["B cells"], "did you mean 'B cell'"), (["neuron"], "no annotated cell has one of these types")],
)
def test_a_type_that_cannot_be_given_is_refused(types: list[str], message: str) -> None:
    """Else a misspelt type would leave all of its cells Unassigned."""
    with pytest.raises(InputError, match=message):
        target.with_types(annotated(["B cell", "T cell"], THREE_CELLS), types)


def test_the_annotated_file_has_the_level_and_the_clusters() -> None:
    result = with_levels()
    result.clusters = Clusters(np.array(list("0010"), dtype=object), result.names, np.array([0.5, 0.5, 1.0, 0.25]))
    adata = simulated({"a": {"B": 4}})
    adata.obs["jind_level"] = "of an earlier annotation"
    tables.annotate_obs(adata, tables.predictions_table(result), result.final.classes, result.latent)
    obs = adata.obs
    assert obs["jind_prediction"].tolist() == ["B", "T", UNASSIGNED, "CD8 T"]
    assert list(obs["jind_prediction"].cat.categories) == ["B", "CD4 T", "CD8 T", "T", UNASSIGNED]
    assert obs["jind_level"].tolist() == ["cell type", "parent", UNASSIGNED, "cell type"]
    assert obs["jind_cluster"].tolist() == list("0010")
    assert obs["jind_cluster_majority"].tolist() == result.names.tolist()
    assert obs["jind_cluster_share"].tolist() == [0.5, 0.5, 1.0, 0.25]
    np.testing.assert_allclose(obs["jind_confidence"], [0.9, 0.5, 0.4, 0.9])
    colours = adata.uns["jind_prediction_colors"]
    assert len(set(colours)) == len(obs["jind_prediction"].cat.categories)
    assert colours[-1] == DARK_GREY
    plain = annotated(["B", "T"], [[0.9, 0.1]] * 4)
    tables.annotate_obs(adata, tables.predictions_table(plain), ["B", "T"], plain.latent)
    assert not {"jind_level", "jind_cluster", "jind_cluster_majority", "jind_cluster_share"} & set(adata.obs)


@pytest.mark.parametrize(
    "taken",
    [
        "level",
        "confidence",
        "cluster",
        "cluster_share",
        "reason",
        "labels",
        "predictions",
        "raw_predictions",
        "cellname",
    ],
)
def test_type_named_like_a_column_keeps_both(taken: str, run: Run) -> None:
    """Else the type's probabilities would replace the predictions themselves."""
    result = annotated([taken, "T"], THREE_CELLS, ["T", "T", "T"])
    table = tables.predictions_table(result)
    assert list(table) == ["raw_predictions", "predictions", "confidence", "reason", f"p({taken})", "T", "labels"]
    assert list(table[f"p({taken})"]) == [0.9, 0.55, 0.2]
    assert list(table["predictions"]) == [taken, UNASSIGNED, "T"]
    assert list(table["labels"]) == ["T", "T", "T"]
    write.write_predictions(table, run)
    pd.testing.assert_frame_equal(pd.read_parquet(run.predictions_parquet), table)
    assert sheet_of(run)[0] == ("cellname", *table)


def test_preview_is_short_and_names_the_confidence() -> None:
    """With hundreds of types the notebook's first table would else be hundreds of columns wide."""
    result = annotated(["B", "T"], THREE_CELLS * 10, ["B", None, "T"] * 10)
    assert list(tables.preview(result)) == ["raw_predictions", "predictions", "confidence", "reason", "labels"]
    assert len(tables.preview(result)) == 5
    assert list(tables.preview(result, 3)["confidence"]) == [0.9, 0.55, 0.8]
    assert list(tables.preview(annotated(["B", "T"], THREE_CELLS))) == [
        "raw_predictions",
        "predictions",
        "confidence",
        "reason",
    ]


def test_composition_counts_every_cell_once_and_the_cells_behind_each_type() -> None:
    """Else the first page would not add up to the number of cells."""
    result = annotated(["B", "NK", "T"], [[0.9, 0.0, 0.1], [0.5, 0.1, 0.4], [0.1, 0.1, 0.8], [0.2, 0.1, 0.7]])
    plan = Plan("t", "a", ["a", "b"], ["B", "NK", "T"], cells={"a": {"B": 7, "T": 5}, "b": {"B": 4, "NK": 9}})
    table = tables.composition_table(result, plan)
    assert list(table.index) == ["T", "B", "NK"]
    assert table["assigned"].to_dict() == {"T": 2, "B": 1, "NK": 0}
    assert table["rejected"].to_dict() == {"T": 0, "B": 1, "NK": 0}
    assert table["training_cells"].to_dict() == {"T": 5, "B": 11, "NK": 9}
    assert table.loc["T", "median_confidence"] == pytest.approx(0.75)
    assert table.loc["B", "median_confidence"] == pytest.approx(0.7)  # rejected cells count, or doubt would be hidden
    assert pd.isna(table.loc["NK", "median_confidence"])


def test_composition_of_a_saved_model_knows_no_training_cells() -> None:
    """A zero there would say that the type was learned from nothing."""
    table = tables.composition_table(annotated(["B", "T"], THREE_CELLS), Plan("t", None, [], ["B", "T"]))
    assert table["training_cells"].isna().all()


@pytest.mark.parametrize(("cells", "written"), [(5, 5), (6, 4), (9, 4)])
def test_past_a_sheets_rows_it_says_so(cells: int, written: int, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Excel would refuse the file, or the missing cells would go unnoticed."""
    monkeypatch.setattr(workbook, "SHEET_ROWS", 6)
    table = tables.predictions_table(annotated(["B", "T"], [[0.9, 0.1]] * cells))
    write.write_predictions(table, run)
    rows = sheet_of(run)
    assert len(rows) <= 6
    names = [row[0] for row in rows[1:]]
    assert names[:written] == [f"c{i}" for i in range(written)]
    if written < cells:
        assert names[written] == f"{cells - written} more rows: see predictions.parquet"
    assert len(names) == written + (written < cells)
    assert len(pd.read_parquet(run.predictions_parquet)) == cells


@pytest.mark.parametrize("name", ["B\x00cell", "B\x0bcell", "B\x1fcell", "B\ufffecell"])
def test_control_characters_do_not_stop_the_workbook(name: str, run: Run) -> None:
    """One odd byte in a label would else cost the user the whole run at its last step."""
    table = tables.predictions_table(annotated([name, "T"], THREE_CELLS))
    write.write_predictions(table, run)
    assert sheet_of(run)[1][1] == "B\ufffdcell"
    assert pd.read_parquet(run.predictions_parquet)["raw_predictions"].iloc[0] == name


@pytest.mark.parametrize("name", ["CD4\u00a0T", "👨\u200d🔬 cell", "na\u00efve", "γδ T", "\ue000"])
def test_characters_a_workbook_can_hold_stay_as_they_are(name: str, run: Run) -> None:
    """Else a type would have one name in the xlsx and another in every other file."""
    write.write_predictions(tables.predictions_table(annotated([name, "T"], THREE_CELLS)), run)
    rows = sheet_of(run)
    assert rows[0][5] == name
    assert rows[1][1] == name


@example(["=cmd()", "+1", "@x", "12", "#N/A", "TRUE"])
@example(["<r><t>B</t></r>", "<r>", "<r></r><c><f>cmd()</f></c><r></r>", "http://x"])
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12), min_size=1, max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
def test_any_text_is_a_cell_of_text(run: Run, names: list[str]) -> None:
    """A name such as `=cmd()` must never run as a formula, and none may break the file."""
    table = pd.DataFrame({"predictions": names}, index=pd.Index(names, name="cellname"))
    write.write_predictions(table, run)
    sheet = openpyxl.load_workbook(run.predictions_xlsx).active
    assert sheet is not None
    assert sheet.max_row == len(names) + 1
    assert {cell.data_type for row in sheet.iter_rows() for cell in row} == {"s"}
    for name, cell in zip(names, sheet["B"][1:], strict=True):
        assert cell.value == name or not name.isprintable() or "_x" in name, (name, cell.value)
    assert list(pd.read_parquet(run.predictions_parquet)["predictions"]) == names


def test_a_name_longer_than_a_cell_is_cut_and_kept(run: Run) -> None:
    """Else the cell would be empty, and the others' columns read as if nothing was missing."""
    table = pd.DataFrame({"predictions": ["a" * 40_000]}, index=pd.Index(["c"], name="cellname"))
    write.write_predictions(table, run)
    assert sheet_of(run)[1] == ("c", "a" * 32_767)


def test_missing_labels_are_empty_cells(run: Run) -> None:
    """The word None or nan in the sheet would count as a cell type in the user's own tables."""
    write.write_predictions(tables.predictions_table(annotated(["B", "T"], THREE_CELLS, ["B", None, "T"])), run)
    assert [row[7] if len(row) > 7 else None for row in sheet_of(run)] == ["labels", "B", None, "T"]


def test_the_workbook_is_made_to_be_read(run: Run) -> None:
    """A wall of 17 digits without a filter sends a biologist back to somebody who can program."""
    result = annotated(["B", "T"], [[0.9999, 0.0001], *THREE_CELLS])
    error = ExpectedError(0.12, (0.08, 0.16), "From 3 cells.")
    write.write_predictions(tables.predictions_table(result), run, error)
    book = openpyxl.load_workbook(run.predictions_xlsx)
    sheet, about = book.worksheets
    assert (sheet.freeze_panes, sheet.auto_filter.ref) == ("B2", "A1:G5")
    assert {sheet.cell(row, 6).number_format for row in range(2, 6)} == {workbook.NUMBER_FORMATS["share"]}
    assert sheet.column_dimensions["B"].width > len("raw_predictions")
    facts = {(section, name): value for section, name, value in about.iter_rows(values_only=True)}
    assert facts["about", "cells"] == 4
    assert facts["cells by answer", "B"] == 2
    assert facts["expected error", "value"] == "about 12.0 % of the assigned cells are wrong"
    assert facts["parameter", "BATCH_COL"] == "batch"
    assert ("version", "jind-nb") in facts


def test_the_csv_has_the_same_table(run: Run) -> None:
    """R and a text editor open no parquet."""
    table = tables.predictions_table(annotated(["B", "T"], THREE_CELLS, ["B", None, "T"]))
    write.write_predictions(table, run)
    read = pd.read_csv(run.predictions_csv, index_col="cellname")
    pd.testing.assert_frame_equal(read.drop(columns="labels"), table.drop(columns="labels"), check_dtype=False)
    assert read["labels"].isna().tolist() == [False, True, False]
    assert list(read["confidence"]) == [0.9, 0.55, 0.8]


def test_accuracy_on_the_target_counts_labelled_cells_only() -> None:
    """Cells without a label would else count as wrong."""
    result = annotated(["B", "T"], THREE_CELLS, ["B", None, "B"])
    (stage,) = target.evaluate_target(result, "t")
    assert stage.metrics["cells"] == 2
    assert stage.metrics["raw_accuracy"] == 0.5
    assert target.evaluate_target(annotated(["B", "T"], THREE_CELLS), "t") == []


def test_types_the_model_cannot_know_are_counted_apart() -> None:
    """The two numbers tell a type that was missed from one that no annotated batch has."""
    result = annotated(["B", "T"], THREE_CELLS, ["B", "B", "never seen"])
    assert target.evaluate_target(result, "t")[-1].metrics["raw_accuracy"] == pytest.approx(2 / 3)
    known = target.known_types_metrics(result)
    assert known is not None
    assert (known["cells"], known["raw_accuracy"]) == (2, 1.0)


# --- what to expect of a new batch ---------------------------------------------------------------------------------------


def left_out(
    *errors: float | None, n_annotated: int, target_error: float | None, threshold: float | None
) -> Calibration:
    rows = [
        {
            "batch": f"b{i}", "cells": 100, "raw_accuracy": 0.9, "assigned": 0.8, "error_among_assigned": error,
            "unlike_reference": 0.01, "AURC": 0.05, "network_calibration_error": 0.2, "calibration_error": 0.1,
        }
        for i, error in enumerate(errors)
    ]  # fmt: skip
    return Calibration(1.5, target_error, threshold, 0.3, n_annotated, rows, {"network": [], "calibrated": []}, [])


@pytest.mark.parametrize(
    ("calibration", "says", "not_says"),
    [
        (
            left_out(0.02, 0.1, n_annotated=2, target_error=None, threshold=None),
            ["about 6.0 %", "2.0 % to 10.0 %", "2 annotated batches that were left out"],
            ["TARGET_ERROR", "guarantee"],
        ),
        (
            left_out(0.02, 0.1, n_annotated=2, target_error=0.05, threshold=0.7),
            [
                "at most 5.0 %",
                "1 of 2 batches met it",
                "2 annotated batches (2 left out) this is an estimate, no guarantee",
            ],
            ["further batches"],
        ),
        (
            left_out(0.02, 0.04, 0.0, 0.01, n_annotated=5, target_error=0.05, threshold=0.7),
            ["4 of 4 batches met it", "about 4 of 5 further batches like these should meet it"],
            ["no guarantee"],
        ),
        (
            left_out(0.4, None, n_annotated=2, target_error=0.05, threshold=NONE_PASSES),
            ["no confidence keeps them below 5.0 %", "every cell is Unassigned"],
            ["guarantee"],
        ),
        (
            left_out(0.02, n_annotated=1, target_error=None, threshold=None),
            [
                "Of the 80 assigned among 100 cells held out of the only annotated batch, once confidences were calibrated, 2.0 % "
                "were wrong; a new batch is usually harder"
            ],
            ["left out of training"],
        ),
        (left_out(None, n_annotated=2, target_error=None, threshold=None), ["not known"], ["%"]),
        (
            left_out(None, n_annotated=1, target_error=None, threshold=None),
            ["not known: none of the 100 cells held out of the only annotated batch was assigned"],
            ["left-out"],
        ),
        (
            left_out(0.0, 0.0, n_annotated=2, target_error=None, threshold=None),
            [
                "none of 160 assigned cells was wrong in 2 annotated batches",
                "by chance up to 1.9 % may be, and more in a batch that is unlike",
            ],
            ["0.0 %"],
        ),
        (
            left_out(0.0, n_annotated=1, target_error=None, threshold=None),
            ["none was wrong (up to 3.7 % may be, by chance)"],
            ["0.0 %"],
        ),
    ],
)
def test_the_error_to_expect_says_what_it_rests_on(
    calibration: Calibration, says: list[str], not_says: list[str]
) -> None:
    """A number without its footing would be believed more than it deserves."""
    text = summary.expected_error_sentence(calibration)
    assert all(part in text for part in says), text
    assert not any(part in text for part in not_says), text


def test_captions_speak_of_left_out_cells_only_where_a_batch_was_left_out() -> None:
    """Of a single annotated batch there are none, and a reader would look for them."""
    several, alone = (left_out(0.02, n_annotated=n, target_error=None, threshold=None) for n in (2, 1))
    assert "left-out" in " ".join(tables.left_out_captions({"shared": several}))
    assert tables.left_out_caption(several, "Each batch") == tables.left_out_caption(None, "Each batch") == "Each batch"
    assert tables.left_out_caption(alone, "Each batch") == "Held-out cells of the only annotated batch"
    captions = tables.left_out_captions({"shared": alone, "aligned": alone})
    assert "left-out" not in " ".join(captions)
    assert captions[1].startswith("Labels that answers for held-out cells of the only annotated batch contradict")


def test_the_left_out_table_is_in_percent() -> None:
    table = tables.left_out_table(left_out(0.02, None, n_annotated=2, target_error=None, threshold=None))
    assert table.loc["b0", "wrong among assigned %"] == 2.0
    assert np.isnan(table.loc["b1", "wrong among assigned %"])
    assert table.index.name == "batch"


# --- what the report tells -----------------------------------------------------------------------------------------------


def plan_of(classes: list[str], **cells: dict[str, int]) -> Plan:
    return Plan("t", None, list(cells), classes, cells=cells)


def test_the_table_by_type_has_the_numbers_of_the_labels_and_of_the_model() -> None:
    """Two B cells, one of them called T, and a type that the model cannot name: precision and recall are before rejection."""
    probabilities = [[0.9, 0.1], [0.4, 0.6], [0.55, 0.45], [0.2, 0.8]]
    result = annotated(["B", "T"], probabilities, ["B", "B", "NK", "T"])
    table = tables.type_table(result, plan_of(["B", "T"], a={"B": 40, "T": 10}), target.evaluate_target(result, "t"))
    assert list(table) == [
        "assigned", UNASSIGNED, "threshold", "median confidence", "training cells", "labelled", "precision %", "recall %", "AP",
    ]  # fmt: skip
    assert table.loc["T"].tolist() == [2, 0, 0.6, 0.7, 10, 1, 50.0, 100.0, 1.0]
    assert table.loc["B"].tolist()[:7] == [1, 1, 0.6, pytest.approx(0.725), 40, 2, 50.0]
    assert table.loc["NK", ["labelled", "recall %"]].tolist() == [1, 0.0]
    assert table.loc["NK", ["assigned", "threshold"]].isna().all()
    plain = tables.type_table(annotated(["B", "T"], probabilities), plan_of(["B", "T"], a={"B": 40, "T": 10}), [])
    assert "recall %" not in plain
    assert list(plain.index) == ["T", "B"]


def test_what_is_told_of_a_cell_is_its_own_at_each_stage() -> None:
    """Before alignment it may have been called something else; an annotated cell has no prediction."""
    result = annotated(["B", "T"], THREE_CELLS, ["B", None, "B"])
    before = Predictions(["B", "T"], np.array([[0.4, 0.6]] * 3), np.full(2, 0.5))
    result.stages = {"before alignment": before, "after alignment": result.final}
    known = {"x": 0.0, "y": 0.0, "batch": "a", "cell type": "T", "cell": -1}
    points = pd.DataFrame(
        [
            {"stage": stage, **row}
            for stage in result.stages
            for row in (known, *({**known, "batch": "t", "cell type": "?", "cell": i} for i in (2, 0)))
        ]
    )
    seen = tables.describe_points(points, result)
    assert seen["cell type"].tolist() == ["T", "T", "T", "T", "T", "B"]
    told = tables.hover_table(seen)
    assert told["cell"].fillna("").tolist() == ["", "c2", "c0"] * 2
    assert told["prediction"].tolist() == [None, "T", "T", None, "T", "B"]
    assert told["probability"].tolist()[1:3] == [0.6, 0.6]
    assert told["probability"].tolist()[4:] == [0.8, 0.9]
    assert told["probability"].isna().tolist() == [True, False, False] * 2
    assert told["label in the file"].tolist() == ["T", "B", "B"] * 2


def test_doubts_are_said_once_for_many_types() -> None:
    """Sixty types that were learned from few cells would else be the first page."""
    classes = [f"type {i:02d}" for i in range(60)]
    result = annotated(classes, np.eye(60).tolist())
    doubts = summary._distrust(result, plan_of(classes, a=dict.fromkeys(classes, 7)), [])
    assert len(doubts) == 2
    assert doubts[0].startswith("The answers were not compared with labels")
    assert "type 00 (7 cells)" in doubts[1]
    assert "and 54 more" in doubts[1]


def test_types_that_only_a_few_of_many_cells_were_given_are_doubted() -> None:
    """Such answers are wrong ten times as often as others, and nothing else of page one doubts them."""
    classes = ["B", "ductal", "NK", "T"]
    of_types = {"B": 500, "ductal": 3, "NK": 5, "T": 0}
    rows = [np.eye(4)[classes.index(name)].tolist() for name, n in of_types.items() for _ in range(n)]
    plan = plan_of(classes, a={"B": 500, "ductal": 100, "NK": 100, "T": 100})
    doubts = [text for text in summary._distrust(annotated(classes, rows), plan, []) if "Only a few cells" in text]
    assert len(doubts) == 1
    assert doubts[0].endswith(": ductal (3 cells).")
    of_a_small_target = annotated(classes, rows[300:])  # three of 208: as many as one may expect
    assert not any("Only a few cells" in text for text in summary._distrust(of_a_small_target, plan, []))


def test_a_composition_that_no_annotated_batch_has_is_doubted() -> None:
    """Half a sample of a type that is rare everywhere else is a finding, or a type that was mistaken; the reader has to know."""
    result = annotated(["B", "T"], [[0.9, 0.1]] * 5 + [[0.1, 0.9]] * 5)
    told = " ".join(summary._distrust(result, plan_of(["B", "T"], a={"B": 10, "T": 90}, b={"B": 35, "T": 65}), []))
    assert "T (50.0 %, elsewhere 65.0 % to 90.0 %), B (50.0 %, elsewhere 10.0 % to 35.0 %)" in told
    usual = plan_of(["B", "T"], a={"B": 41, "T": 59}, b={"B": 30, "T": 70})
    assert "far from" not in " ".join(summary._distrust(result, usual, []))
    single = plan_of(["B", "T"], a={"B": 50, "T": 950})
    told = " ".join(summary._distrust(result, single, []))
    assert "in the only annotated batch: T (50.0 %, there 95.0 %), B (50.0 %, there 5.0 %)" in told
    of_one_usual = plan_of(["B", "T"], a={"B": 65, "T": 35})
    assert "far from" not in " ".join(summary._distrust(result, of_one_usual, []))


def left_out_of(*rows: tuple[str, int, float, float], contradictions: list[str] | None = None) -> Calibration:
    """Of batches (name, cells, share assigned, share right) that were left out."""
    names = ("batch", "cells", "assigned", "raw_accuracy")
    batches = [dict(zip(names, row, strict=True)) for row in rows]
    return Calibration(1.0, None, None, None, len(rows), batches, {}, [], contradictions=contradictions or [])


def test_left_out_batches_that_did_far_worse_than_the_rest_are_named_worst_first() -> None:
    """A reader whose target is stimulated, too, would else be told that nothing unusual was noticed."""
    found = left_out_of(
        ("ctrl1", 454, 0.94, 0.95), ("ctrl2", 296, 0.92, 0.95), ("stim1", 306, 0.70, 0.91), ("stim2", 90, 0.5, 0.7)
    )
    (told,) = summary._left_out_worse(found, "target")
    assert "these annotated batches did far worse than the rest: stim2 (50.0 % of its cells assigned, 92.0 %" in told
    assert told.index("stim2") < told.index("stim1 (70.0 % of its cells assigned")
    assert "ctrl" not in told
    assert "If the target is like one of them" in told
    assert "more of its labels may be wrong than the expected error says" in told
    assert "its Unassigned cells" in told


def test_an_error_above_the_stated_interval_is_told_and_one_below_is_not() -> None:
    """Page one said 0 to 21.9 % beside 67.6 % that agree with the labels, as if both were well."""
    cells = [[0.9, 0.1]] * 8 + [[0.5, 0.5]] * 2
    result = annotated(["B", "T"], cells, ["B"] * 4 + ["T", "delta", "delta", None, "B", "T"])
    row = {"cells": 90, "assigned": 0.9, "raw_accuracy": 1.0, "error_among_assigned": 0.0, "doubt_among_assigned": 0.1}
    none_wrong = [{"batch": name} | row for name in "ab"]
    calibration = Calibration(1.0, None, None, None, 3, none_wrong, {}, [])
    training = {"history": [], "calibration": {"shared": calibration.to_json()}, "intermediates": []}
    told = summary.summarise(result, plan_of(["B", "T"], a={"B": 40, "T": 50}), training)
    low, high = expected_error(result.final, calibration).range or (0, 0)
    assert told.distrust[0] == (
        f"By the file's labels, 42.9 % of the assigned cells are wrong (3 of 7), more than the expected error allows for "
        f"({summary.percent(low)} to {summary.percent(high)}). It cannot see types that no annotated batch has: those of 2 of the wrong cells."
    )
    result.labels = np.array(["B"] * 10, dtype=object)
    better = summary.summarise(result, plan_of(["B", "T"], a={"B": 40, "T": 50}), training)
    assert not any("allows for" in text for text in better.distrust)


def test_types_that_left_out_batches_got_wrong_are_named_worst_first_where_cells_are_given_them() -> None:
    """Of 25 left-out macrophages 14 were called so, and page one did not say it of 19 new ones."""
    classes = ["B", "DC", "Macrophage", "Monocyte"]
    confusion = [(0, 0, 40), (0, 1, 6), (1, 0, 2), (1, 1, 3), (2, 2, 14), (2, 3, 8), (2, 4, 3), (3, 2, 11), (3, 3, 7)]
    calibration = Calibration(1.0, None, None, None, 2, [], {}, [], confusion=confusion)
    types = pd.DataFrame({"assigned": [9, 9, 9, 9]}, index=classes)
    wrong, missed = summary._doubtful_types(types, calibration, classes)
    assert "called one of these types, many were of another: Monocyte (8 of 15), Macrophage (11 of 25)." in wrong
    assert (
        "got their own type: Monocyte (7 of 18; 11 were called Macrophage), Macrophage (14 of 25; 8 were called Monocyte; 3 got none)."
        in missed
    )
    assert "DC" not in wrong + missed  # of nine cells or fewer, which say little
    wrong, missed = summary._doubtful_types(types.assign(assigned=[9, 9, 9, 0]), calibration, classes)
    assert "Monocyte (" not in wrong + missed
    assert summary._doubtful_types(types.assign(assigned=[9, 9, 0, 0]), calibration, classes) == []
    wrong, _ = summary._doubtful_types(types, replace(calibration, n_annotated=1), classes)
    assert wrong.startswith("Of the cells held out of the only annotated batch that were called")


def test_cells_near_a_type_of_few_cells_may_be_that_type() -> None:
    """A type of two cells is hardly known: 23 plasma cells were said to be of a type that the annotated batches lack."""
    table = pd.DataFrame(
        {"assigned": [4, 9], "parent_only": 0, "rejected": [23, 2], "unlike": [23, 1], "training_cells": [2, 130]},
        index=["Plasma", "B"],
    )
    ((text, cells),) = summary._doubt_of_unlike(table, np.array([True] * 24 + [False] * 14)).items()
    assert cells == ["24 Unassigned cells are"]
    assert (
        "nearest to Plasma (23), B (1): perhaps of a cell type or subtype that the annotated batches lack, in another state, damaged, or doublets; or Plasma, which was "
        "learned from 2 cells." in text
    )
    (well_known,) = summary._doubt_of_unlike(table.assign(unlike=[1, 2]), np.array([True] * 3))
    assert (
        "nearest to B (2), Plasma (1): perhaps of a cell type or subtype that the annotated batches lack, in another"
        in well_known
    )
    assert "learned" not in next(iter(summary._doubt_of_unlike(table.assign(training_cells=None), np.array([True]))))


def test_many_unassigned_cells_are_counted_without_those_unlike_the_reference_and_it_is_said() -> None:
    """The table has 25 Unassigned cells of a type, and the sentence none of them."""
    table = pd.DataFrame(
        {"assigned": [4, 9], "parent_only": 0, "rejected": [23, 5], "unlike": [23, 0], "training_cells": 100},
        index=["A", "B"],
    )
    text, names = next(iter(summary._doubts_of_types(table).items()))
    assert (text, names) == (
        "Many of the cells that are most like these types are Unassigned (not counting those unlike all annotated cells): {}.",
        ["B (5 of 14)"],
    )
    text = next(iter(summary._doubts_of_types(table.assign(unlike=0))))
    assert text == "Many of the cells that are most like these types are Unassigned: {}."


def test_of_two_left_out_batches_the_other_one_is_named() -> None:
    """ "The rest" and "the median other batch" made a reader look for batches that there were not."""
    found = left_out_of(("spleen", 120, 0.9, 0.72), ("blood", 72, 0.9, 1.0), ("lung", 19, 0.9, 1.0))
    (told,) = summary._left_out_worse(found, "target")
    assert "far worse than another: spleen (72.0 % of its cells right before rejection, 100.0 % in blood)" in told
    assert "If the target is like spleen" in told
    assert "median" not in told


def test_a_left_out_batch_of_which_fewer_cells_were_assigned_did_not_do_worse_in_all() -> None:
    """More of the assigned ones may be right than in the other batch."""
    (told,) = summary._left_out_worse(left_out_of(("a", 300, 0.48, 0.66), ("b", 300, 0.85, 0.6)), "target")
    assert "had far fewer cells assigned than another: a (48.0 % of its cells assigned, 85.0 % in b)" in told
    assert "worse" not in told
    assert "may be wrong" not in told


def test_types_that_no_left_out_cell_could_check_are_named() -> None:
    """The expected error rests on the other types, and half of the answers may be of these."""
    calibration = replace(
        left_out_of(("a", 300, 0.9, 0.9), ("b", 300, 0.9, 0.9)), confusion=[(0, 0, 80), (1, 1, 90), (1, 2, 4)]
    )
    types = pd.DataFrame({"assigned": [60, 20, 15, 5]}, index=["B", "T", "NK", "DC"])
    (told,) = summary._doubtful_types(types, calibration, ["B", "T", "NK", "DC"])
    assert (
        "20 of the 100 assigned cells were given types of which no left-out cell could be checked: NK (15), DC (5)."
        in told
    )
    assert summary._doubtful_types(types.assign(assigned=[80, 15, 3, 2]), calibration, ["B", "T", "NK", "DC"]) == []


@pytest.mark.parametrize(
    ("batches", "contradictions"),
    [
        ([("a", 300, 0.9, 0.95), ("b", 300, 0.75, 0.9)], []),  # as left-out batches usually differ
        ([("a", 300, 0.9, 0.95), ("b", 19, 0.5, 0.5)], []),  # a few cells, which say little
        ([("a", 300, 0.9, 0.95)], []),  # the only one: held-out cells of the same batch
        (
            [("a", 300, 0.9, 0.95), ("b", 300, 0.9, 0.6)],
            ["Batch 'b' stands apart: 40.0 % of its labels are contradicted."],
        ),
    ],
)
def test_nothing_is_said_of_left_out_batches_that_are_much_alike(
    batches: list[tuple[str, int, float, float]], contradictions: list[str]
) -> None:
    """What is always said is not read; and what is said of a batch's labels is said once."""
    assert summary._left_out_worse(left_out_of(*batches, contradictions=contradictions), "target") == []


def test_a_type_that_could_not_be_hidden_is_not_known_to_be_noticed() -> None:
    """It would be missing from the table without a word, as if there were no such type."""
    found = Calibration(1.0, None, None, None, 2, [], {}, [], noticed={"T": 0.9, "B": 0.25})
    table = tables.noticed_table(found, ["B", "NK", "T"])
    assert table["noticed %"].to_dict() == {"B": 25.0, "T": 90.0, "NK": "not known"}
    assert "No annotated batch was left out" in tables.noticed_table(None, ["B"]).loc[0, "note"]


def test_few_held_out_cells_are_doubted_by_what_was_held_out_not_by_the_threshold() -> None:
    """A threshold of 0.9 may also be one that was confident enough."""
    result = annotated(["B", "T"], THREE_CELLS)
    plan = plan_of(["B", "T"], a={"B": 40, "T": 50})
    result.stages["before alignment"].thresholds[:] = 0.9
    assert "held-out" not in " ".join(summary._distrust(result, plan, []))
    result.without_evidence = ["T"]
    assert "Too few held-out cells to set a threshold for T:" in " ".join(summary._distrust(result, plan, []))


def test_the_first_sentence_tells_how_wrong_the_expected_error_may_be() -> None:
    """Where many cells may be of a new type, "0.2 %" alone is all that a reader takes away, and up to 80 % may be wrong."""
    wide, narrow, near = (
        ExpectedError(v, (0.0, high), "Said.") for v, high in ((0.002, 0.158), (0.002, 0.01), (0.2, 0.3))
    )
    assert summary._probably_wrong(wide).endswith(
        "about 0.2 % of the assigned cells are probably wrong, perhaps up to 15.8 %"
    )
    assert summary._probably_wrong(narrow).endswith("are probably wrong")
    assert summary._probably_wrong(near).endswith("are probably wrong")
    far = ExpectedError(0.3, (0.1, 0.55), "Said.")
    assert summary._probably_wrong(far).endswith("perhaps up to 55.0 %")
    unseen = replace(far, unseen=0.5)  # nearly all of the way up is for types that may be new
    assert summary._probably_wrong(unseen).endswith("up to 55.0 %, since there may be a new type")


@pytest.mark.parametrize(
    ("noticed", "is_said"), [({"B": 0.0, "T": 0.1}, True), ({"B": 0.9, "T": 0.8}, False), ({}, False)]
)
def test_page_one_says_where_a_new_type_would_go_unnoticed(noticed: dict[str, float], is_said: bool) -> None:
    """ "0 cells unlike all annotated ones" reassures, where a quarter of the cells were of new types and none was noticed."""
    calibration = replace(left_out(0.02, 0.1, n_annotated=2, target_error=None, threshold=None), noticed=noticed)
    said = summary._seldom_noticed(calibration)
    assert bool(said) is is_said
    assert not said or "5.0 % of the cells were found unlike all others" in said[0]


def test_the_first_numbers_say_what_they_rest_on() -> None:
    """An expected error of nothing, or of one batch, must not look like a promise."""
    result = annotated(["B", "T"], THREE_CELLS, ["B", "B", "T"])
    unknown = expected_error(result.final, None)
    no_batch = {"calibration": {}, "history": [], "intermediates": []}
    told = summary.summarise(result, plan_of(["B", "T"], a={"B": 40, "T": 50}), no_batch)
    numbers = {number.name: number for number in told.numbers}
    assert list(numbers) == ["Assigned", UNASSIGNED, "Expected error", "Checked here"]
    assert numbers["Assigned"].value == "66.7 %"
    assert numbers["Expected error"].value == "not known"
    assert numbers["Checked here"].value == "100.0 %"
    held_out = {"cells": 10, "assigned": 8, "raw_accuracy": 0.9, "effective_accuracy": 0.95}
    from_held_out = summary._expected_number(unknown, None, held_out)
    assert from_held_out.value == "not known"
    assert (
        "5.0 % of the assigned ones among the cells held out of training are wrong, and a new batch is harder"
        in from_held_out.basis
    )
    none_assigned = held_out | {"assigned": 0, "effective_accuracy": 0.0}
    assert summary._expected_number(unknown, None, none_assigned).basis == unknown.basis  # no share of no cells
    of_one = {"cells": 201, "assigned": 0.9, "error_among_assigned": 0.055}
    one = Calibration(1.0, None, None, None, 1, [of_one], {}, [])
    alone = summary._expected_number(expected_error(result.final, one), one, held_out)
    assert alone.value == "not known"
    assert "There is a single annotated batch" in alone.basis
    assert "once confidences were calibrated, 5.5 % were wrong; a new batch is harder." in alone.basis
    assert "Cells of a type that it lacks are not counted" in alone.basis
    with_dropped = summary._expected_number(unknown, None, held_out, dropped=0.2)
    assert (
        "24.0 % of the assigned ones among the cells held out of training are wrong, those of types too rare to be learned"
        in with_dropped.basis
    )  # the others are wrong whatever is said of them
    none_wrong = [{"cells": 9, "error_among_assigned": 0.0, "doubt_among_assigned": 0.0}] * 2
    several = Calibration(1.0, None, None, None, 3, none_wrong, {}, [])
    some = summary._expected_number(expected_error(result.final, several), several, held_out)
    assert some.value.startswith("about ")
    assert "Cells of types that no annotated batch has are not in the number." in some.basis


def test_numbers_of_a_column_have_the_same_decimals() -> None:
    """1.04 below 0.963 reads as the smaller one, where points do not stand below each other."""
    plan = Plan("c", "a", ["a"], [])
    for batch, low, high, total in (("a", 0.9634, 1.04, 1948.0), ("b", 0.7, 5.9, 2013.5)):
        row = {
            "batch": batch,
            "value type": "log1p",
            "from": low,
            "to": high,
            "median cell total": total,
            "stored %": 5.0,
        }
        plan.values.append(row)
    table = data_tables.values_table(plan)
    assert table["min (not 0)"].tolist() == ["0.963", "0.700"]
    assert table["max"].tolist() == ["1.040", "5.900"]
    assert table["median cell total"].tolist() == ["1,948", "2,014"]


def test_a_lowered_confidence_is_told_from_a_probability() -> None:
    """The report's reliability is about probabilities; that of a cell unlike all annotated ones was halved. Cells without a label
    cannot be compared."""
    result = annotated(["B", "T"], [[0.9, 0.1]] * 4, ["B", "T", "B", None])
    unlike = replace(result.final, unlike=np.array([False, True, False, False]), borrows=True)
    cells = labelled_confidence(replace(result, stages=dict.fromkeys(result.stages, unlike)))
    assert cells is not None
    assert cells.confidence.tolist() == pytest.approx([0.9, 0.45, 0.9])
    assert (cells.right.tolist(), cells.lowered.tolist()) == ([True, False, True], [False, True, False])
    assert labelled_confidence(annotated(["B", "T"], [[0.9, 0.1]], [None])) is None


def test_many_cells_unlike_all_annotated_ones_come_first() -> None:
    """Two in five of a target may be a new cell type, and page one said that they are macrophages."""
    cells = [[0.9, 0.1]] * 6 + [[0.1, 0.9]] * 4
    result = annotated(["B", "Macrophage"], cells, ["B"] * 6 + ["alpha"] * 3 + [None])
    unlike = replace(result.final, unlike=np.arange(10) >= 6)
    result = replace(result, stages=dict.fromkeys(result.stages, unlike))
    plan = plan_of(["B", "Macrophage"], a={"B": 40, "Macrophage": 50}, b={"B": 45, "Macrophage": 45})
    told = summary.summarise(result, plan, {"history": [], "calibration": {}, "intermediates": []})
    assert "6 of 10 cells assigned, 4 left Unassigned (all of them unlike all annotated cells)" in told.sentence
    assert told.distrust[0].startswith("4 Unassigned cells are unlike all annotated cells")
    assert told.distrust[0].endswith("By the file's labels, 0 of 3 labelled ones are of annotated types.")
    assert any(text.startswith("All cells that are most like Macrophage (") for text in told.distrust)
    assert not any(text.startswith("Many of the cells that are most like these types") for text in told.distrust)


def test_a_type_whose_cells_are_all_unlike_the_reference_is_not_called_absent() -> None:
    """Page one said that no cell was most like alpha, and the table below it had three of them."""
    table = pd.DataFrame(
        {"assigned": 0, "parent_only": 0, "rejected": [3, 0, 1], "unlike": [3, 0, 0], "training_cells": [90, 5, 90]},
        index=["alpha", "beta", "delta"],
    )
    absent, without, unlike = summary._absent_types(table, []).values()
    assert (absent, without, unlike) == (["beta (learned from 5 cells)"], ["delta (1 cell)"], ["alpha (3)"])
