"""Hostile input, a few hundred cases of benchmarks/product/fuzz.py, and one run in which every name is meant to do harm."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import openpyxl
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Page

from jind_nb.core.files import read_yaml
from jind_nb.core.parameters import load_parameters
from jind_nb.data import h5ad, integrity
from jind_nb.data.chunks import Blocks
from jind_nb.errors import InputError
from tests.conftest import CHROMIUM_ARGUMENTS
from tests.helpers.mutations import KINDS, LAUGHS, MERGES, Worker, cases, good_h5ad
from tests.helpers.one_process import run_forked
from tests.helpers.simulated import simulated
from tests.helpers.whole import predictions_of, probabilities_of, same_annotated, strict_json

CASES = 220


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with Worker(tmp_path_factory.mktemp("hostile")) as worker:
        yield worker


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_input_ends_in_a_message(kind: str, worker: Worker) -> None:
    """A damaged download must cost a message, not an evening with a traceback, a full memory or an overwritten file."""
    outcomes = [worker.attempt(*case) for case in cases(CASES, 1) if case[0] == kind]
    assert outcomes
    assert [outcome for outcome in outcomes if outcome.problem] == []


# --- what was found so, one by one -------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    good_h5ad(tmp_path / "input.h5ad")
    return tmp_path / "input.h5ad"


def read(file: Path) -> None:
    with h5ad.open_file(file) as store:
        h5ad.frame(store, "obs")
        path, _, what = h5ad.matrix_of(store, None)
        blocks = Blocks.from_store(store, path, what, np.arange(48))
    for block in blocks.blocks:
        block.matrix()


def test_good_file_is_read(file: Path) -> None:
    read(file)


@pytest.mark.parametrize("place", ["X", "obs/batch", "uns/x"])
def test_link_to_another_file_is_not_followed(place: str, file: Path) -> None:
    """An h5ad from elsewhere could else carry home what another file of the reader's holds."""
    good_h5ad(file.with_name("secret.h5ad"))
    with h5py.File(file, "a") as h5:
        if place in h5:
            del h5[place]
        h5[place] = h5py.ExternalLink("secret.h5ad", "X")
    with pytest.raises(InputError, match=rf"PATH: {place} of .*link to another file"):
        read(file)


def test_a_link_to_nothing_is_told_of(file: Path) -> None:
    """Lost otherwise: the message, to a traceback."""
    with h5py.File(file, "a") as h5:
        del h5["X"]
        h5["X"] = h5py.SoftLink("/nowhere")
    with pytest.raises(InputError, match=r"input\.h5ad has no X"):
        read(file)


def test_values_kept_in_another_file_are_not_read(file: Path) -> None:
    """The same by another way of HDF5: any file's bytes as numbers."""
    with h5py.File(file, "a") as h5:
        h5.create_dataset("obsm/x", (48, 1), "u1", external=[("/etc/passwd", 0, 48)])
    with pytest.raises(InputError, match=r"obsm/x of .*kept in another file"):
        read(file)


@pytest.mark.parametrize(
    ("place", "shape"), [("X", (10**12, 24)), ("obs/_index", (10**12,)), ("layers/x", (48, 10**10))]
)
def test_rows_that_the_file_cannot_hold_are_refused(place: str, shape: tuple[int, ...], file: Path) -> None:
    """A few thousand bytes could else take all memory of a shared machine, or keep it busy for weeks."""
    with h5py.File(file, "a") as h5:
        if place in h5:
            del h5[place]
        h5.create_dataset(place, shape, "f4", chunks=(10, 24)[: len(shape)])
    with pytest.raises(InputError, match=rf"PATH: {place} of .* declares"):
        read(file)


@pytest.mark.parametrize("form", ["csr", "csc"])
@pytest.mark.parametrize(
    ("part", "values"), [("indptr", [0, 5, 3]), ("indptr", [0, 10**9]), ("indices", [10**6]), ("indices", [-1])]
)
def test_matrix_that_points_out_of_its_memory_is_refused(form: str, part: str, values: list[int], file: Path) -> None:
    """scipy reads and writes there: wrong labels or a crash, as chance has it."""
    good_h5ad(file, form)
    with h5py.File(file, "a") as h5:
        h5[f"X/{part}"][: len(values)] = values
    with pytest.raises(InputError, match=r"PATH: X of .*(indices|indptr)"):
        read(file)


def test_half_characters_are_told_of_before_training(file: Path) -> None:
    """No result file could hold them: the run would fail at its end."""
    with h5py.File(file, "a") as h5:
        h5["obs/celltype/categories"][0] = b"\xff B"
    with pytest.raises(InputError, match=r"obs of .*utf-8"):
        read(file)


@pytest.mark.parametrize("begin", [lambda _: None, integrity.rehearse_ahead])
def test_file_that_kills_the_library_is_told_of(
    file: Path, monkeypatch: pytest.MonkeyPatch, begin: Callable[[Path], None]
) -> None:
    """A dead program says nothing of which file it was."""
    monkeypatch.setattr(integrity, "_read_once", lambda _: os.abort())
    begin(file)
    with pytest.raises(InputError, match=r"input\.h5ad cannot be read .*fails on it"):
        read(file)


@pytest.mark.parametrize("begin", [lambda _: None, integrity.rehearse_ahead])
def test_file_that_hangs_the_library_is_told_of(
    file: Path, monkeypatch: pytest.MonkeyPatch, begin: Callable[[Path], None]
) -> None:
    """Else a user waits until they give up, and never learns for what."""
    monkeypatch.setattr(integrity, "_read_once", lambda _: [None for _ in iter(int, 1)])
    monkeypatch.setattr(integrity, "SECONDS", 0.5)
    begin(file)
    with pytest.raises(InputError, match=r"input\.h5ad cannot be read .*does not finish"):
        read(file)


def test_file_read_once_without_fault_is_not_rehearsed_by_the_kernels(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time, a kernel that holds gigabytes would be forked."""
    read(file)
    assert str(file.stat().st_mtime_ns) in os.environ[integrity.REHEARSED]
    monkeypatch.setattr(integrity, "_read_once", lambda _: os.abort())
    read(file)
    file.write_bytes(file.read_bytes())
    with pytest.raises(InputError, match="fails on it"):
        read(file)


@pytest.mark.parametrize("text", [LAUGHS, MERGES, "&a [*a]", "a: &a {b: *a}"])
def test_few_lines_of_yaml_cannot_fill_the_memory(text: str, tmp_path: Path) -> None:
    """Twenty-five lines of aliases stand for millions of values."""
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(InputError, match=r"p\.yaml is not YAML"):
        load_parameters(tmp_path / "p.yaml")


def test_alias_of_one_value_is_read() -> None:
    """It harms nobody, and spares repeating a path."""
    assert read_yaml("a: &a x\nb: *a") == {"a": "x", "b": "x"}


@pytest.mark.parametrize(
    "text", ["SEED: !!int ''", "SEED: !!bool x", "SEED: !!timestamp x", "SEED: 1" + ":59" * 400 + ".5"]
)
def test_tags_that_break_the_yaml_library_are_a_message(text: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(InputError, match=r"p\.yaml is not YAML"):
        load_parameters(tmp_path / "p.yaml")


@pytest.mark.slow
@given(st.sampled_from(sorted(KINDS)), st.integers(0, 2**31))
@settings(max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_hostile_input_ends_in_a_message(worker: Worker, kind: str, number: int) -> None:
    assert worker.attempt(kind, number).problem == ""


# --- one run -----------------------------------------------------------------------------------------------------------

TYPES = [
    "=cmd|' /C calc'!A0",
    "=cmd()",
    "<b>B</b>",
    "T/NK 'x' \"y\" 🧬",
    "<script>document.title='ran'</script>",
    "</td><img src=http://127.0.0.1:9/x onerror=alert(1)>",
]
SOURCE, TARGET = "..", "x" * 10_000
BATCHES = [
    SOURCE, "../a/b", '"><img src=x>', "$1$ {x} \\n", "../../outside", "{{7*7}} $x$ %(x)s\n\u202egnp", TARGET,
]  # fmt: skip
CELLS = [
    "=1+1", "../x", "<i>cell</i>", "🧬 cell", "@SUM(A1)", "+1", "-1", "a\nb", "..", "/etc/passwd", "'\"`", "👨‍🔬",
    "\u202egnp", "<b>x</b>", "y" * 10_000,
]  # fmt: skip
GENES = ["=1+1", "<i>g</i>", "../g", "g\nh", "🧬", "$g$", "%s", "{0}"]


@pytest.fixture(scope="module")
def hostile_input(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Names that are paths, formulas, tags, mathematics and code; with layers, raw and obsm beside X."""
    folder = tmp_path_factory.mktemp("names") / "guarded"
    folder.mkdir()
    adata = simulated({batch: dict.fromkeys(TYPES, 12) for batch in BATCHES})
    cells = iter(CELLS)
    adata.obs_names = [
        next(cells, name) if batch == TARGET else name
        for name, batch in zip(adata.obs_names, adata.obs["batch"], strict=True)
    ]
    adata.var_names = [*adata.var_names[:5], *GENES, *adata.var_names[5 + len(GENES) :]]
    adata.layers["doubled"] = adata.X * 2
    adata.obsm["X_mine"] = np.arange(2.0 * adata.n_obs).reshape(-1, 2)
    adata.raw = adata.copy()
    adata[:, 5:].copy().write_h5ad(folder / "input.h5ad")
    return folder / "input.h5ad"


@pytest.fixture(scope="module")
def hostile_run(hostile_input: Path) -> Path:
    folder = hostile_input.parent
    values: dict[str, Any] = {
        "PATH": "input.h5ad", "BATCH_COL": "batch", "LABELS_COL": "celltype", "TARGET_DATASET_NAME": TARGET,
        "SOURCE_DATASET_NAME": SOURCE, "OUTPUT_PATH": "all/run", "MIN_CELL_TYPE_POPULATION": 5,
    }  # fmt: skip
    (folder / "p.yaml").write_text(yaml.safe_dump(values, allow_unicode=True), "utf-8")
    done = run_forked("run", "p.yaml", cwd=folder, pdf=True)
    assert done.returncode == 0, done.stderr
    return folder / "all" / "run"


@pytest.mark.slow
def test_hostile_names_write_nothing_outside(hostile_run: Path) -> None:
    """A batch called ../../outside must not become a file of the reader's."""
    guarded = hostile_run.parent.parent
    assert [path.name for path in hostile_run.parent.iterdir()] == ["run"]
    assert {path.name for path in guarded.iterdir()} == {"input.h5ad", "p.yaml", "all"}
    assert [path.name for path in guarded.parent.iterdir()] == ["guarded"]
    models = strict_json(hostile_run / "trained_models" / "model.json")["files"]
    assert set(models) == {*BATCHES} - {TARGET}
    assert all((hostile_run / "trained_models" / name).is_file() for name in models.values())
    assert (hostile_run / "trained_models" / "MODEL_CARD.md").stat().st_size > 0
    assert len(list(hostile_run.glob("train*.pdf"))) == 1


@pytest.mark.slow
def test_hostile_names_stay_as_they_are_in_the_tables(hostile_run: Path, hostile_input: Path) -> None:
    """Names belong to the user, and none may be changed, cut or executed."""
    table = predictions_of(hostile_run)
    assert set(CELLS) <= set(table.index)
    assert set(probabilities_of(table)) == set(TYPES)
    assert set(table["labels"]) == set(TYPES)
    annotated, given = ad.read_h5ad(hostile_run / "annotated_target.h5ad"), ad.read_h5ad(hostile_input)
    assert list(annotated.obs_names) == list(table.index)
    assert list(annotated.var_names[: len(GENES)]) == GENES
    same_annotated(annotated, given[given.obs["batch"] == TARGET].copy())


@pytest.mark.slow
def test_hostile_names_are_text_in_the_workbook(hostile_run: Path) -> None:
    """Opened in Excel, a cell type called =cmd() must not run."""
    file = hostile_run / "predicted_label_test_data.xlsx"
    sheet = openpyxl.load_workbook(file).active
    assert sheet is not None
    assert {cell.data_type for row in sheet.iter_rows() for cell in row if cell.value is not None} == {"s", "n"}
    assert set(TYPES) <= {cell.value for cell in sheet[1]}
    with zipfile.ZipFile(file) as parts:
        assert not any(b"<f>" in parts.read(name) for name in parts.namelist())


class Tags(HTMLParser):
    """The tags and image sources of a page, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [value or "" for name, value in attrs if name == "src"]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.slow
def test_hostile_names_are_text_in_the_report(hostile_run: Path) -> None:
    """A name with a tag must be read, not rendered; this is seen without a browser, too."""
    page = Tags()
    page.feed((hostile_run / "report.html").read_text("utf-8"))
    assert not page.tags & {"b", "i"}
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    for name in [*TYPES, *BATCHES]:
        assert name in page.text, name


def _told_of_every_cell(page: Page) -> str:
    """All that the report tells of the cells in its first picture of them, asked for one by one."""
    image = page.locator("img[data-where]").first
    image.scroll_into_view_if_needed()
    where = json.loads(page.locator(f"#{image.get_attribute('data-where')}").text_content() or "")
    box = image.bounding_box()
    assert box is not None
    told = []
    for x, y in zip(where["x"], where["y"], strict=True):
        page.mouse.move(box["x"] + x * box["width"] / 1e4, box["y"] + y * box["height"] / 1e4)
        told.append(page.locator(".tip").text_content() or "")
        assert page.locator(".tip *:not(div)").count() == 0
    return "\n".join(told)


@pytest.mark.slow
def test_hostile_names_are_text_in_the_browser(hostile_run: Path, chromium: str) -> None:
    """A report is mailed around; opened, it must run nothing and tell nobody."""
    from playwright.sync_api import sync_playwright

    requests, dialogs = list[str](), list[str]()
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)
        page = browser.new_page()
        page.on("request", lambda request: requests.append(request.url[:80]))
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        page.goto((hostile_run / "report.html").as_uri(), wait_until="networkidle")
        text, title = page.inner_text("body"), page.title()
        tags = page.locator("iframe, object, [onerror], img:not([src^='data:']), b, i").count()
        scripts = page.locator("script:not([type='application/json'])").count()
        told = _told_of_every_cell(page)
        browser.close()
    assert dialogs == []
    assert title != "ran"
    assert tags == 0
    assert scripts == 1  # ours, by its hash
    for name in CELLS:
        assert f"cell: {name}" in told
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    for name in TYPES:
        assert name in text
    assert "49 $x$" not in text


@pytest.mark.slow
def test_model_of_hostile_names_annotates_a_file(hostile_run: Path, hostile_input: Path, tmp_path: Path) -> None:
    """What was trained must be of use, whatever it was called."""
    done = run_forked("predict", hostile_run / "trained_models", hostile_input, "--output-path", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert set(CELLS) <= set(pd.read_parquet(tmp_path / "out" / "predictions.parquet").index)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
