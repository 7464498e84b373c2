"""The notebooks in a real JupyterLab: they open, explain themselves, run, show what they do, and stop.

Screenshots are left in `screenshots/`, for people to look at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from playwright.sync_api import Page

from jind_nb.core.stage_words import STAGES
from tests.conftest import ROOT
from tests.helpers import jupyterlab

pytestmark = pytest.mark.slow

NOTEBOOKS = ROOT / "notebooks"
SCREENSHOTS = ROOT / "screenshots"
FEW_METHODS = ["logistic regression", "true labels", "majority"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[jupyterlab.Lab]:
    """JupyterLab on a copy of the notebooks, whose results go to `run` beside them."""
    folder = tmp_path_factory.mktemp("lab")
    for template in [*STAGES, "compare"]:
        values: dict[str, object] = {"OUTPUT_PATH": str(folder / "run"), "EPOCHS": 2}  # as `demo_run`
        also = {"METHODS": FEW_METHODS} if template == "compare" else {}
        jupyterlab.with_parameters(NOTEBOOKS / f"{template}.ipynb", folder / f"{template}.ipynb", values | also)
    (folder / "tutorial.ipynb").write_bytes((NOTEBOOKS / "tutorial.ipynb").read_bytes())
    with jupyterlab.server(folder, tmp_path_factory.mktemp("jupyter")) as started:
        yield started


@pytest.fixture(scope="module")
def page(chromium: str) -> Iterator[Page]:
    SCREENSHOTS.mkdir(exist_ok=True)
    with jupyterlab.browser(chromium) as opened:
        yield opened


def picture(page: Page, name: str, *, whole: bool = False) -> None:
    jupyterlab.picture(page, SCREENSHOTS / f"jupyterlab-{name}.png", whole=whole)


def show(page: Page, beginning: str) -> str:
    """Scrolls to an output that begins so; its whole text."""
    output = page.locator(".jp-OutputArea-output pre", has_text=beginning)
    # In one step: a bar that goes on is drawn anew, and Playwright's own scrolling fails if that happens meanwhile.
    text: str = output.evaluate("element => { element.scrollIntoView({block: 'center'}); return element.innerText; }")
    return text


@dataclass
class Seen:
    """What one notebook showed."""

    on_opening: str
    errors: list[str]
    kinds: set[str]
    said: str
    words_stand: set[str]  # in tables, as the page aligns them
    numbers_stand: set[str]


def look(page: Page, lab: jupyterlab.Lab, name: str) -> Seen:
    """Opens a notebook, runs all of it and leaves."""
    jupyterlab.open_notebook(page, lab, f"{name}.ipynb")
    on_opening = page.locator(".jp-Notebook").inner_text()
    picture(page, f"{name}-opened")
    jupyterlab.run_all(page)
    jupyterlab.wait_until_done(page)
    picture(page, f"{name}-done", whole=True)
    kinds = {kind for output in jupyterlab.outputs(page) for kind in output.get("data", {})}
    stand = [
        set(
            page.locator(f".jp-OutputArea-output {cells}").evaluate_all(
                "all => all.map(c => getComputedStyle(c).textAlign)"
            )
        )
        for cells in ("td:not(.number)", "td.number")
    ]
    seen = Seen(on_opening, jupyterlab.errors(page), kinds, jupyterlab.said(page), *stand)
    jupyterlab.close(page)
    return seen


@dataclass
class Mistakes:
    """What came of a batch's name spelt wrong in the first notebook, of the right one, and of the second notebook after that."""

    error: dict[str, Any]
    shown: str
    errors_after: list[str]
    batches_after: str
    other_parameters: list[str]  # errors of the second notebook with its own parameters
    interrupted: list[str]
    stopped: str  # what is shown of that
    bars: tuple[str, str]  # of training, three seconds apart
    errors_in_the_end: list[str]


@pytest.fixture(scope="module")
def mistakes(page: Page, lab: jupyterlab.Lab) -> Mistakes:
    """The first two notebooks with mistakes, other parameters and a stop; their kernels go on, so that `run_by_hand` finds them
    as somebody does who starts anew."""
    jupyterlab.open_notebook(page, lab, "1_preprocess.ipynb")
    jupyterlab.set_parameter(page, "TARGET_DATASET_NAME", "wel 2")
    jupyterlab.run_all(page)
    jupyterlab.wait_until_done(page)
    (error,) = [output for output in jupyterlab.outputs(page) if output["output_type"] == "error"]
    shown = show(page, "Please check")
    picture(page, "mistake")
    well_2 = {"TARGET_DATASET_NAME": "well 2", "METHOD": "reference"}
    errors_after = run_with(page, well_2)
    tables = [
        output["data"]["text/html"] for output in jupyterlab.outputs(page) if "text/html" in output.get("data", {})
    ]

    jupyterlab.open_notebook(page, lab, "2_train.ipynb")
    other_parameters = run_with(page, {})
    show(page, "Please check")
    picture(page, "other-parameters")
    for name, value in (well_2 | {"EPOCHS": 1000}).items():
        jupyterlab.set_parameter(page, name, value)
    jupyterlab.run_all(page)
    jupyterlab.wait_until(
        page, f"JSON.stringify({jupyterlab.NOTEBOOK}.content.model.toJSON()).includes('source classifier')"
    )
    first = show(page, "/1000 [")  # by now perhaps of another training: the bar of one is gone when that is done
    page.wait_for_timeout(3000)
    picture(page, "bar")
    bars = (first, show(page, "/1000 ["))
    jupyterlab.stop(page)
    jupyterlab.wait_until_done(page)
    interrupted, stopped = jupyterlab.errors(page), show(page, "Stopped.")
    picture(page, "stopped")
    in_the_end = run_with(page, {"EPOCHS": 1})
    return Mistakes(
        error, shown, errors_after, "".join(tables[0]), other_parameters, interrupted, stopped, bars, in_the_end
    )


def run_with(page: Page, values: dict[str, object]) -> list[str]:
    """Changes parameters of the open notebook and runs all of it; the errors."""
    for name, value in values.items():
        jupyterlab.set_parameter(page, name, value)
    jupyterlab.run_all(page)
    jupyterlab.wait_until_done(page)
    return jupyterlab.errors(page)


def test_mistakes_read_like_help(mistakes: Mistakes) -> None:
    """Forty lines of traceback hide the one that says which batch is meant, and make people give up."""
    assert mistakes.error["ename"] == "InputError"
    assert len("".join(mistakes.error["traceback"]).splitlines()) == 1
    assert "TARGET_DATASET_NAME: there is no batch 'wel 2'" in mistakes.shown
    assert "Did you mean 'well 2'?" in mistakes.shown


def test_a_value_put_right_is_obeyed_when_run_again(mistakes: Mistakes) -> None:
    """Else every correction would cost a new kernel."""
    assert mistakes.errors_after == []
    words = re.sub("<[^>]+>", " ", mistakes.batches_after).split()
    assert words[words.index("target") - 2 :][:2] == ["well", "2"]


def test_a_notebook_of_other_parameters_names_the_one_to_run_again(mistakes: Mistakes) -> None:
    """The second notebook would train on what the first prepared for another target, and say nothing."""
    (error,) = mistakes.other_parameters
    assert "notebooks/1_preprocess.ipynb was last run with other parameters" in error
    assert "TARGET_DATASET_NAME was 'well 2', here it is 'well 1'" in error


def test_a_long_cell_shows_a_bar_and_the_stop_button_stops_it(mistakes: Mistakes) -> None:
    """Else an hour of training looks like a frozen page, and stopping it costs the kernel."""
    before, after = mistakes.bars
    assert before != after, "the bar stands still"
    (error,) = mistakes.interrupted
    assert error.startswith("KeyboardInterrupt")
    assert len(mistakes.stopped.splitlines()) == 1


def test_after_a_stop_the_same_kernel_goes_on(mistakes: Mistakes) -> None:
    """What was learned before the stop does no harm, and nobody has to begin anew."""
    assert mistakes.errors_in_the_end == []


@pytest.fixture(scope="module")
def run_by_hand(mistakes: Mistakes, page: Page, lab: jupyterlab.Lab) -> dict[str, Seen]:
    """The four stages, one after the other."""
    return {stage: look(page, lab, stage) for stage in STAGES}


def test_the_stages_run_one_after_the_other_and_leave_predictions(
    run_by_hand: dict[str, Seen], lab: jupyterlab.Lab, demo_run: Path
) -> None:
    """Who opens JupyterLab, and not a terminal, would get no annotation, or another one than `jind-nb run` gives."""
    for stage, seen in run_by_hand.items():
        assert seen.errors == [], stage
        assert "image/png" in seen.kinds, stage
        assert "Warning" not in seen.said, stage
    ours, theirs = (pd.read_parquet(run / "predictions.parquet") for run in (lab.folder / "run", demo_run))
    assert len(ours) == 95
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
    for name in ("predicted_label_test_data.xlsx", "annotated_target.h5ad", "metrics.json", "run.log"):
        assert (lab.folder / "run" / name).exists(), name
    assert not (lab.folder / "run" / "manifest.json").exists()  # it is no finished run, and has no report


def test_each_stage_says_what_it_is_before_anything_runs(run_by_hand: dict[str, Seen]) -> None:
    """A notebook that explains itself only by running is no help in deciding what to change."""
    for seen in run_by_hand.values():
        assert "Parameters" in seen.on_opening
        assert "TARGET_DATASET_NAME" in seen.on_opening
        assert "in order" in seen.on_opening


def test_words_in_tables_stand_left_and_numbers_right(run_by_hand: dict[str, Seen]) -> None:
    """JupyterLab puts all to the right, where names and sentences of different lengths are hard to read."""
    assert run_by_hand["1_preprocess"].words_stand == {"left"}
    assert run_by_hand["1_preprocess"].numbers_stand == {"right"}


def test_the_comparison_runs(page: Page, lab: jupyterlab.Lab) -> None:
    """Else only `jind-nb compare` could show how the methods do."""
    seen = look(page, lab, "compare")
    assert seen.errors == []
    assert "image/png" in seen.kinds
    assert (lab.folder / "run" / "compare" / "comparison.csv").exists()


def test_the_tutorial_runs_and_runs_again(page: Page, lab: jupyterlab.Lab) -> None:
    """It is the first thing that a scanpy user tries, and tries again with something changed."""
    jupyterlab.open_notebook(page, lab, "tutorial.ipynb")
    for _ in range(2):
        jupyterlab.run_all(page)
        jupyterlab.wait_until_done(page)
        assert jupyterlab.errors(page) == []
        assert jupyterlab.said(page).strip() == ""  # nor any warning
    picture(page, "tutorial", whole=True)
    kinds = {kind for output in jupyterlab.outputs(page) for kind in output.get("data", {})}
    assert {"image/png", "text/markdown"} <= kinds
    assert (lab.folder / "pbmc_model" / "model.json").exists()
    jupyterlab.close(page)
