"""The templates: clean to read, the same parameters as the command line, and runnable without jind-nb's help."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import papermill
import pytest
import yaml
from jupyter_client.manager import run_kernel
from papermill.cli import papermill as papermill_main

from jind_nb.commands.compare.measure import METHODS
from jind_nb.core.parameters import Parameters, load_parameters
from jind_nb.core.stage_words import STAGES
from jind_nb.errors import InputError
from jind_nb.runs.notebook import parameters_of
from tests.conftest import ROOT, Whole
from tests.helpers import parameter_cells
from tests.helpers.simulated import THREE_BATCHES, simulated

NOTEBOOKS = ROOT / "notebooks"
TEMPLATES = [NOTEBOOKS / f"{stage}.ipynb" for stage in STAGES]
COMPARE, TUTORIAL = NOTEBOOKS / "compare.ipynb", NOTEBOOKS / "tutorial.ipynb"
PAGE = NOTEBOOKS / "app.ipynb"  # takes no parameters: its visitors pick them
each_template = pytest.mark.parametrize("template", [*TEMPLATES, COMPARE], ids=lambda path: path.stem)
each_notebook = pytest.mark.parametrize("template", [*TEMPLATES, COMPARE, TUTORIAL, PAGE], ids=lambda path: path.stem)


def cells_of(template: Path, kind: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(template, as_version=4).cells if cell.cell_type == kind]


def assigned(cell: nbformat.NotebookNode) -> dict[str, object]:
    """The values a parameters cell gives; fails on anything but `NAME = literal`."""
    values = {}
    for statement in ast.parse(cell.source).body:
        assert isinstance(statement, ast.Assign), ast.unparse(statement)
        (name,) = statement.targets
        assert isinstance(name, ast.Name)
        values[name.id] = ast.literal_eval(statement.value)
    return values


def parameters_cell(template: Path) -> nbformat.NotebookNode:
    (cell,) = [c for c in cells_of(template, "code") if "parameters" in c.metadata.get("tags", [])]
    return cell


def test_the_stages_are_all_there_is() -> None:
    """A notebook that nothing runs would go stale, and one that is missing stops every run."""
    assert sorted(NOTEBOOKS.glob("*.ipynb")) == sorted([*TEMPLATES, COMPARE, TUTORIAL, PAGE])


@each_notebook
def test_template_is_valid_and_holds_no_results(template: Path) -> None:
    """Results in a template would be somebody else's data in the user's hands."""
    nbformat.validate(nbformat.read(template, as_version=4))
    for cell in cells_of(template, "code"):
        assert cell.outputs == []
        assert cell.execution_count is None


@each_notebook
def test_template_defines_nothing_and_cells_are_short(template: Path) -> None:
    """Code in notebooks is not tested, and long cells are not read."""
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    for cell in cells_of(template, "code"):
        assert not [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, definitions)], cell.source
        if "parameters" not in cell.metadata.get("tags", []):
            assert len(cell.source.splitlines()) <= 25, cell.source


@each_template
def test_parameters_are_those_of_the_command_line(template: Path) -> None:
    """A name or default that differs would make the notebook do another thing than `jind-nb run`."""
    values = assigned(parameters_cell(template))
    assert values.pop("PARAMETERS") is None
    if template == COMPARE:
        assert set(values.pop("METHODS")) < set(METHODS)
        assert values.pop("SEEDS") == 1
    assert sorted(values) == sorted(Parameters.model_fields)
    demo = load_parameters(ROOT / "parameters" / "demo.yaml").model_dump()
    assert values | {"OUTPUT_PATH": demo["OUTPUT_PATH"]} == demo
    named = yaml.safe_load((ROOT / "parameters" / "demo.yaml").read_text())
    for name, field in Parameters.model_fields.items():
        if name not in named and name != "OUTPUT_PATH":
            assert values[name] == field.default, name


@each_template
def test_the_cell_is_as_parameters_have_it(template: Path) -> None:
    """Each parameter with its sentence above it, the usual ones first; `python -m tests.helpers.parameter_cells` writes it."""
    source = parameters_cell(template).source
    assert source == parameter_cells.parameters_cell(template.stem)
    assert max(map(len, source.splitlines())) <= parameter_cells.WIDTH + 8  # none scrolls sideways
    usual, rare = source.split("# rarely needed")
    assert "LABELS_COL = " in usual
    assert "UNLABELED = " in rare


def test_a_parameter_file_stands_between_the_cell_and_papermill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person edits one file, not four cells; a workflow manager still has the last word."""
    monkeypatch.chdir(tmp_path)
    cell = assigned(parameters_cell(TEMPLATES[0]))
    (tmp_path / "mine.yaml").write_text(
        "PATH: a.h5ad\nBATCH_COL: donor\nLABELS_COL: type\nTARGET_DATASET_NAME: d4\nSEED: 3\n"
    )
    here = cell | {"PARAMETERS": "mine.yaml", "NUM_FEATURES": 77}
    found = parameters_of(here)
    assert str(tmp_path / "a.h5ad") == found.PATH
    assert (found.BATCH_COL, found.targets, found.SEED, found.NUM_FEATURES) == ("donor", ["d4"], 3, 77)
    assert found.SOURCE_DATASET_NAME is None  # the demo's source is no batch of this file
    assert str(tmp_path / "runs" / "mine") == found.OUTPUT_PATH
    injected = '# Parameters\nSEED = 0\nOUTPUT_PATH = "elsewhere"\n'
    found = parameters_of(here | {"OUTPUT_PATH": "elsewhere", "SEED": 0, "In": ["", "x = 1", injected]})
    assert (0, str(tmp_path / "elsewhere")) == (found.SEED, found.OUTPUT_PATH)
    (tmp_path / "few.yaml").write_text("NUM_FEATURES: 50\n")
    found = parameters_of(cell | {"PARAMETERS": str(tmp_path / "few.yaml")})
    assert (found.NUM_FEATURES, found.SOURCE_DATASET_NAME) == (50, "well 7")


def test_relative_paths_mean_the_notebooks_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook that was copied beside the data reads them there; the repository's own write to its root."""
    cell = assigned(parameters_cell(TEMPLATES[0])) | {"PATH": "mine.h5ad"}
    monkeypatch.chdir(tmp_path)
    assert str(tmp_path / "mine.h5ad") == parameters_of(cell).PATH
    assert str(tmp_path / "runs" / "demo") == parameters_of(cell).OUTPUT_PATH
    monkeypatch.chdir(NOTEBOOKS)
    assert str(ROOT / "runs" / "demo") == parameters_of(cell).OUTPUT_PATH


def test_papermill_knows_every_parameter() -> None:
    """Else `papermill -f` warns of an unknown parameter for each one, and nobody believes that it was used."""
    for template in TEMPLATES:
        known = papermill.inspect_notebook(template)
        assert set(known) == {*Parameters.model_fields, "PARAMETERS"}


@pytest.mark.parametrize("template", [*TEMPLATES, COMPARE, TUTORIAL], ids=lambda path: path.stem)
def test_prose_comes_before_every_picture_and_says_what_the_page_is(template: Path) -> None:
    """Collaborators read the report, which is these notebooks without their code."""
    cells = nbformat.read(template, as_version=4).cells
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    assert len(cells_of(template, "markdown")) >= 4


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_prose_on_several_batches_is_tagged_so(template: Path) -> None:
    """The report of a single annotated batch leaves such cells out; without the tag it tells of what is not there."""
    of_several = re.compile(
        r"\*?left-out batch|left out of training in turn|\*?intermediate|All annotated batches|the annotated batches\b"
    )
    for cell in cells_of(template, "markdown"):
        tags = set(cell.metadata.get("tags", []))
        assert not of_several.search(cell.source) or tags & {"several-batches", "one-batch", "notebook-only"}, (
            cell.source
        )


def test_the_tutorial_is_ten_lines_of_code() -> None:
    """More would say that the tool is hard to use, and hide which lines matter."""
    calls = [statement for cell in cells_of(TUTORIAL, "code") for statement in ast.parse(cell.source).body]
    assert len([call for call in calls if not isinstance(call, ast.Import)]) <= 13
    assert "jn.annotate" in ast.unparse(ast.Module(calls, []))


# --- executed ---------------------------------------------------------------------------------------------------------


def said_in(notebook: Path) -> Iterator[str]:
    for cell in cells_of(notebook, "code"):
        for output in cell.outputs:
            yield output.get("text", "") if output.output_type == "stream" else ""


def papermill_command(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("papermill"), *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_plain_papermill_runs_a_runs_parameter_file(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clusters and workflow managers call papermill, not jind-nb; they must get the same answer.

    And a warning in a notebook is the first thing its reader sees, and asks about. After the first notebook papermill's
    command line is called in this process, since another one shows nothing more.
    """
    values = yaml.safe_load((whole.run / "parameters.yaml").read_text()) | {"OUTPUT_PATH": str(tmp_path / "run")}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(values))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for template in TEMPLATES:
        arguments = [str(template), "out.ipynb", "-f", str(tmp_path / "p.yaml")]
        if template == TEMPLATES[0]:
            done = papermill_command(*arguments, cwd=elsewhere)
            assert done.returncode == 0, done.stderr
            assert "unknown parameter" not in done.stderr.lower()
        else:
            papermill_main(arguments, standalone_mode=False)
        assert "Warning" not in "".join(said_in(elsewhere / "out.ipynb")), template.stem
    assert [path.name for path in elsewhere.iterdir()] == ["out.ipynb"]
    for name in ("predicted_label_test_data.xlsx", "annotated_target.h5ad", "metrics.json", "run.log"):
        assert (tmp_path / "run" / name).exists(), name
    ours, theirs = (pd.read_parquet(run / "predictions.parquet") for run in (tmp_path / "run", whole.run))
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_stage_too_early_says_what_to_run_first(stage: str, tmp_path: Path) -> None:
    """Notebooks opened out of order must not end in a message about some file in a work folder alone."""
    code = []
    for cell in cells_of(NOTEBOOKS / f"{stage}.ipynb", "code"):
        code.append(cell.source)
        if "parameters" in cell.metadata.get("tags", []):
            code.append(f"OUTPUT_PATH = {str(tmp_path / 'run')!r}")
    with pytest.raises(InputError, match=r"run notebooks/1_preprocess\.ipynb first"):
        exec("\n".join(code), {"__name__": "__main__"})


TRAINING = """
from jind_nb.core.parameters import make_parameters
from jind_nb.data.cells import read_cells
from jind_nb.data.prepare import prepare
from jind_nb.data.roles import make_plan
from jind_nb.model.annotate import settings_of
from jind_nb.model.fit import learn_intermediates, start
parameters = make_parameters({values!r})
cells = read_cells(parameters)
plan = make_plan(parameters, cells)
prepared = prepare(parameters, cells, plan)
reference = start(prepared, plan, settings_of(parameters))
reference.settings = dataclasses.replace(reference.settings, epochs=10**6)
print("training", flush=True)
learn_intermediates(reference)
"""


@pytest.mark.slow
def test_a_cell_that_trains_stops_at_an_interrupt_and_the_kernel_goes_on(tmp_path: Path) -> None:
    """The stop button of JupyterLab must not cost what the kernel holds."""
    simulated(THREE_BATCHES).write_h5ad(tmp_path / "input.h5ad")
    values = {
        "PATH": str(tmp_path / "input.h5ad"), "BATCH_COL": "batch", "LABELS_COL": "celltype", "TARGET_DATASET_NAME": "c",
        "MIN_CELL_TYPE_POPULATION": 5, "METHOD": "reference", "EPOCHS": 1, "USE_GPU": False, "SOURCE_DATASET_NAME": "a",
        "OUTPUT_PATH": str(tmp_path / "run"),
    }  # fmt: skip
    said: list[str] = []
    with run_kernel(kernel_name="python3") as client:

        def hear(message: dict[str, Any]) -> None:
            said.append(message["content"].get("text", ""))
            if "training" in said[-1]:
                client.parent.interrupt_kernel()

        stopped = client.execute_interactive(
            "import dataclasses\n" + TRAINING.format(values=values), output_hook=hear, timeout=300
        )
        assert stopped["content"]["ename"] == "KeyboardInterrupt", said
        left = client.execute_interactive(
            "print(reference.learned, list(reference.adapters))",
            output_hook=lambda message: said.append(message["content"].get("text", "")),
            timeout=60,
        )
        assert left["content"]["status"] == "ok"
        assert "[] ['a']" in "".join(said)
