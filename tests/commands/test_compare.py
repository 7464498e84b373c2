"""Methods side by side: what is measured, that nothing sees the target's labels, and what `jind-nb compare` leaves."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from openpyxl import load_workbook

from jind_nb.commands.compare import measure as compare_measure
from jind_nb.commands.compare import table as compare_table
from jind_nb.commands.compare.measure import measure, scores
from jind_nb.commands.compare.table import Comparison
from jind_nb.core.parameters import Parameters, load_parameters
from jind_nb.data import cells as data_cells
from jind_nb.data import prepare, roles
from jind_nb.errors import InputError
from jind_nb.model.predictions import Predictions
from jind_nb.results.workbook import write_sheets
from tests.conftest import run_command
from tests.helpers.simulated import THREE_BATCHES, simulated


@pytest.fixture
def parameters(write_parameters: Callable[..., Path]) -> Parameters:
    return load_parameters(write_parameters(EPOCHS=1, USE_GPU=False))


def spoilt(file: Path) -> None:
    """The target's labels exchanged in turn."""
    import anndata as ad

    adata = ad.read_h5ad(file)
    wrong = {"B": "T", "T": "NK", "NK": "B"}
    labels = adata.obs["celltype"].astype(str)
    adata.obs["celltype"] = labels.where(adata.obs["batch"] != "c", labels.map(wrong))
    adata.write_h5ad(file)


# --- one method ------------------------------------------------------------------------------------------------------


def test_controls_are_the_best_and_the_worst_that_could_be(parameters: Parameters) -> None:
    """A comparison whose true labels did not score 1 would count something else than it says."""
    best = measure(parameters, "true labels")
    assert [best[name] for name in ("raw_accuracy", "macro_F1", "macro_F1_10", "mAP", "accuracy_at_90%")] == [1.0] * 5
    assert best["AURC"] == best["calibration_error"] == 0
    worst = measure(parameters, "majority")
    assert worst["raw_accuracy"] == pytest.approx(30 / 80)
    assert worst["balanced_accuracy"] == pytest.approx(1 / 3)
    assert 0.1 < measure(parameters, "random labels")["raw_accuracy"] < 0.6


@pytest.mark.slow
def test_a_methods_own_process_gives_the_same_numbers_and_its_own_memory(parameters: Parameters) -> None:
    row = measure(parameters, "logistic regression")
    predictions, _ = compare_measure.annotate(parameters, "logistic regression")
    truth = data_cells.read_target_labels(parameters)
    assert truth is not None
    expected = scores(truth, predictions)
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert 0 < row["cpu_seconds"] < 60
    assert row["seconds"] > 0
    assert 0.05 < row["peak_GB"] < 2


@pytest.mark.slow
@pytest.mark.usefixtures("short_game")
@pytest.mark.parametrize(
    "method", ["logistic regression", "reference", "reference combined", "reference single source"]
)
def test_no_method_sees_the_targets_labels(method: str, parameters: Parameters) -> None:
    """A method that did would look better here than it ever is."""
    before, _ = compare_measure.annotate(parameters, method)
    spoilt(Path(parameters.paths[0]))
    after, _ = compare_measure.annotate(parameters, method)
    np.testing.assert_array_equal(before.probabilities, after.probabilities)


def test_ways_to_use_the_annotated_batches(parameters: Parameters) -> None:
    """Single source, all as one and one after the other would else be the same row three times."""
    single = compare_measure.single_source(parameters)
    plan = roles.make_plan(single, data_cells.read_cells(single))
    assert plan.annotated == [plan.source]
    cells = data_cells.read_cells(parameters)
    plan = roles.make_plan(parameters, cells)
    prepared, one = compare_measure.combined(prepare.prepare(parameters, cells, plan), plan)
    assert one.annotated == ["all annotated batches"]
    assert prepared.obs["batch"].value_counts().to_dict() == {"all annotated batches": 220, "c": 80}
    assert sorted(plan.annotated) == ["a", "b"]


def test_a_single_source_is_the_batch_of_most_types(write_parameters: Callable[..., Path]) -> None:
    batches = {"a": {"B": 90, "T": 90}, "b": THREE_BATCHES["b"], "c": THREE_BATCHES["c"]}
    parameters = load_parameters(write_parameters(simulated(batches)))
    assert compare_measure.single_source(parameters).SOURCE_DATASET_NAME == "b"


def test_scores_count_cells_of_types_that_nobody_could_know() -> None:
    """Left out, a method that calls every new type something would look perfect."""
    predictions = Predictions(
        ["B", "T"], np.array([[0.9, 0.1]] * 10 + [[0.3, 0.7]] * 10 + [[0.6, 0.4]] * 5), np.zeros(2)
    )
    found = scores(np.array(["B"] * 10 + ["T"] * 10 + ["new"] * 5, dtype=object), predictions)
    assert found["raw_accuracy"] == 0.8
    assert found["unknown_type"] == 5
    assert found["macro_F1"] == pytest.approx((20 / 25 + 1 + 0) / 3)
    assert found["macro_F1_10"] == pytest.approx((20 / 25 + 1) / 2)
    assert found["accuracy_at_80%"] == 1
    assert found["accuracy_at_90%"] == pytest.approx(20 / 23)


def test_unlabelled_cells_of_the_target_are_not_counted(write_parameters: Callable[..., Path]) -> None:
    adata = simulated(THREE_BATCHES)
    adata.obs.loc[adata.obs.index[(adata.obs["batch"] == "c")][:30], "celltype"] = "unknown"
    row = measure(load_parameters(write_parameters(adata)), "true labels")
    assert row["cells"] == 50
    assert row["raw_accuracy"] == 1


@pytest.mark.slow
def test_a_missing_package_is_named_with_what_to_install(
    parameters: Parameters, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Who has not the extra must still get the other methods, and learn how to get this one."""
    (tmp_path / "scvi.py").write_text("raise ModuleNotFoundError(\"No module named 'scvi'\")\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    with pytest.raises(compare_measure.UnavailableError, match=r"scANVI needs pip install 'jind-nb\[compare\]'.*scvi"):
        measure(parameters, "scANVI")


# --- tables ----------------------------------------------------------------------------------------------------------


def rows_of(numbers: dict[tuple[str, str, str], list[float]]) -> pd.DataFrame:
    """Rows of a comparison: (set, target, method) -> macro-F1 of each seed; every other number is 0."""
    return pd.DataFrame(
        [
            {
                "set": s,
                "target": t,
                "method": m,
                "seed": seed,
                **dict.fromkeys(compare_table.NUMBERS, 0.0),
                "macro_F1": value,
            }
            for (s, t, m), values in numbers.items()
            for seed, value in enumerate(values)
        ]
    )


def test_summary_is_over_seeds_then_targets_then_sets() -> None:
    """One set of many batches, or one lucky seed, would otherwise decide."""
    table = compare_table.summary(
        rows_of(
            {
                ("one", "a", "ours"): [0.2, 0.8, 0.9], ("one", "b", "ours"): [0.6], ("two", "c", "ours"): [0.5],
                ("one", "a", "tool"): [0.7], ("one", "b", "tool"): [0.7], ("two", "c", "tool"): [0.2],
                ("one", "a", "true labels"): [1.0], ("one", "b", "true labels"): [1.0], ("two", "c", "true labels"): [1.0],
            }
        )
    )  # fmt: skip
    assert list(table.index) == ["true labels", "ours", "tool"]
    assert table.loc["ours", "macro_F1"] == pytest.approx((0.7 + 0.5) / 2)
    assert table.loc["ours", "macro_F1, worst target"] == 0.5
    assert table.loc["ours", "difference from best"] == 0  # true labels are no method to be best
    assert table.loc["tool", "difference from best"] == pytest.approx((0.0 - 0.3) / 2)
    assert table.loc["tool", ["lowest", "highest"]].tolist() == pytest.approx([-0.3, 0.1])
    assert table.loc["tool", "its sd"] == pytest.approx(np.std([-0.1, 0.1, -0.3], ddof=1))


def test_differences_are_over_the_targets_both_have() -> None:
    """A comparison that is half done would else set a hard target beside an easy one."""
    table = compare_table.summary(
        rows_of({("s", "easy", "a"): [0.9], ("s", "hard", "a"): [0.3], ("s", "hard", "b"): [0.4]})
    )
    assert table.loc["a", "difference from best"] == 0
    assert table.loc["b", "difference from best"] == pytest.approx(0.1)
    assert table["targets"].to_dict() == {"a": 2, "b": 1}


def test_the_best_method_stands_out_and_seeds_show_their_spread() -> None:
    """A reader looks for the winner, and for whether it won by more than luck."""
    rows = rows_of({("s", "t", "a"): [0.8, 0.9], ("s", "t", "b"): [0.5, 0.5], ("s", "t", "true labels"): [1.0]})
    table = compare_table.numbers(rows.drop(columns="set"))
    assert compare_table.is_best(table)["macro-F1"].to_dict() == {"true labels": False, "a": True, "b": False}
    assert table.loc["a", "macro-F1, standard deviation over seeds"] == pytest.approx(np.std([0.8, 0.9], ddof=1))
    one = compare_table.numbers(rows[rows["seed"] == rows["seed"].iloc[0]].drop(columns="set"))
    assert not [name for name in one if "deviation" in name]


def test_controls_alone_make_a_table_too() -> None:
    """Where no other tool is installed, that should be told, and not end in an error."""
    rows = rows_of({("s", "t", "majority"): [0.2], ("s", "t", "random labels"): [0.1]}).drop(columns="set")
    table = compare_table.summary(rows)
    assert table["difference from best"].tolist() == pytest.approx([0, -0.1])
    table = compare_table.numbers(rows)
    assert list(table.index) == ["majority", "random labels"]
    assert not compare_table.is_best(table).to_numpy().any()  # a control is no method to be best


def test_a_batchs_name_is_text_in_the_workbook(tmp_path: Path) -> None:
    """A name like =1+1 is a formula to Excel."""
    file = tmp_path / "t.xlsx"
    write_sheets(file, {"rows": pd.DataFrame({"target": ["=1+1"], "x": [0.5]})})
    cell = load_workbook(file)["rows"]["A2"]
    assert (cell.value, cell.data_type) == ("=1+1", "s")


# --- the command -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_compare_leaves_a_table_a_picture_a_page_and_the_notebook(
    write_parameters: Callable[..., Path], tmp_path: Path
) -> None:
    file = write_parameters(EPOCHS=1)
    done = run_command("compare", file, "--methods", "random labels,majority", "--seeds", 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "results" / "compare"
    names = ["compare.ipynb", "comparison.csv", "comparison.html", "comparison.png", "comparison.xlsx"]
    assert sorted(path.name for path in folder.iterdir()) == names
    rows = pd.read_csv(folder / "comparison.csv")
    assert rows["method"].value_counts().to_dict() == {"random labels": 2, "majority": 1}
    book = load_workbook(folder / "comparison.xlsx")
    assert book.sheetnames == ["summary", "rows"]
    assert book["rows"].max_row == 1 + len(rows)
    html = (folder / "comparison.html").read_text()
    assert "data:image/png" in html
    for name in ("random labels", "macro-F1", "AURC", "memory (GB)"):
        assert re.search(f"<t[dh][^>]*>{re.escape(name)}</t[dh]>", html), name
    assert "import" not in re.sub(r"<style>.*?</style>", "", html, flags=re.S)
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
    # Again, with one method more: only that one is run.
    before = rows.set_index(["method", "seed"])
    more = "linear SVM,random labels,majority"
    done = run_command("compare", file, "--methods", more, "--seeds", 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("done before") == 3
    again = pd.read_csv(folder / "comparison.csv").set_index(["method", "seed"])
    pd.testing.assert_frame_equal(again.loc[before.index], before)
    assert len(again) == len(before) + 1


def test_a_method_that_is_killed_names_the_limit(parameters: Parameters, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost otherwise: why a method has no row, where a batch system ended its process."""
    killed = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    monkeypatch.setattr(compare_measure, "python_module", lambda *_: killed)
    with pytest.raises(
        compare_measure.UnavailableError, match=r"^linear SVM was killed \(signal 9\), most often .* GB\."
    ):
        compare_measure.measure(parameters, "linear SVM")


def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Replaces the methods by a note of what was asked for."""
    asked: list[tuple[str, int]] = []

    def fake(parameters: Parameters, method: str) -> dict[str, Any]:
        asked.append((method, parameters.SEED))
        if method == "scANVI":
            raise compare_measure.UnavailableError("scANVI is missing")
        return {"method": method, "seed": parameters.SEED, **dict.fromkeys(compare_table.NUMBERS, 0.5)}

    monkeypatch.setattr(compare_table, "measure", fake)
    return asked


def test_other_parameters_or_another_input_are_measured_anew(
    parameters: Parameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of two settings in one table would be no comparison."""
    asked = measured(monkeypatch)
    methods = ["reference", "linear SVM"]
    Comparison(parameters, methods, 2).measure_all()
    assert asked == [("reference", 0), ("reference", 1), ("linear SVM", 0)]
    for seeds, new in ((2, []), (3, [("reference", 2)])):
        asked.clear()
        assert len(Comparison(parameters, methods, seeds).measure_all()) == seeds + 1
        assert asked == new
    asked.clear()
    other = parameters.model_copy(update={"NUM_FEATURES": 30})
    assert len(Comparison(other, methods, 1).measure_all()) == 2
    assert len(asked) == 2
    spoilt(Path(parameters.paths[0]))
    asked.clear()
    Comparison(other, methods, 1).measure_all()
    assert len(asked) == 2


def test_a_method_that_cannot_run_does_not_stop_the_others(
    parameters: Parameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch)
    told: list[str] = []
    this = Comparison(parameters, ["scANVI", "majority"], 1)
    assert list(this.measure_all(told.append)["method"]) == ["majority"]
    assert this.problems == {"scANVI": "scANVI is missing"}
    assert any("left out: scANVI is missing" in line for line in told)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--methods", "CellTypst"], "METHODS: there is no CellTypst; known are default, default not aligned"),
        (["-s", "PRETRAINED_MODEL_PATH=."], "a comparison trains every method"),
        (["-s", "BATCH_COL=nothing"], "BATCH_COL"),
        (["-s", "NUM_FEATURS=3"], "did you mean NUM_FEATURES"),
    ],
)
def test_wrong_input_is_one_message_and_status_2(
    arguments: list[str], said: str, write_parameters: Callable[..., Path], jind_nb: Callable[..., Any], tmp_path: Path
) -> None:
    answer = jind_nb("compare", write_parameters(), *arguments)
    assert answer.status == 2
    assert said in " ".join(answer.err.split())
    assert not (tmp_path / "results").exists()


def test_a_target_without_labels_cannot_be_compared(
    write_parameters: Callable[..., Path], jind_nb: Callable[..., Any], tmp_path: Path
) -> None:
    """Who has no labels should learn it at once, not after an hour."""
    adata = simulated(THREE_BATCHES)
    adata.obs.loc[adata.obs["batch"] == "c", "celltype"] = "unknown"
    answer = jind_nb("compare", write_parameters(adata))
    assert answer.status == 2
    assert "no cell of the target 'c' has a label" in " ".join(answer.err.split())
    assert not (tmp_path / "results").exists()


def test_somebody_elses_table_is_not_overwritten(parameters: Parameters) -> None:
    this = Comparison(parameters, ["majority"])
    this.folder.mkdir(parents=True)
    this.file("csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="is no table of jind-nb"):
        this.measure_all()
    assert this.file("csv").read_text() == "a,b\n1,2\n"
