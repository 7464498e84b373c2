"""The `parameters` cells of the notebooks: made from `Parameters`, so that a new one is in all of them.

`python -m tests.helpers.parameter_cells` writes them; a test compares.
"""

from __future__ import annotations

import pprint
import textwrap
from collections.abc import Iterator
from pathlib import Path

import nbformat

from jind_nb.core.parameters import USUAL_NAMES, Parameters, load_parameters

ROOT = Path(__file__).resolve().parent.parent.parent

WIDTH = 100  # letters of a line: a cell that scrolls sideways is not read

TEMPLATES = ("1_preprocess", "2_train", "3_align", "4_evaluate", "compare")

FILE = "A file of parameters (YAML or JSON), say of `jind-nb init`: its values come before those below, so that you edit one file."

OF_COMPARISON = {
    "METHODS": (
        ["default", "reference", "logistic regression", "linear SVM", "true labels", "random labels", "majority"],
        "The methods to compare; their names are in docs/compare.md.",
    ),
    "SEEDS": (1, "Methods whose answer depends on a seed get so many, from SEED on."),
}


def parameters_cell(template: str) -> str:
    """The text of a template's `parameters` cell: literals, the demo's and otherwise the defaults, the usual ones first."""
    demo = load_parameters(ROOT / "parameters" / "demo.yaml").model_dump() | {"OUTPUT_PATH": "runs/demo"}
    first = OF_COMPARISON if template == "compare" else {}
    lines = [*_entry("PARAMETERS", None, FILE)]
    for name, (value, words) in first.items():
        lines += _entry(name, value, words)
    for name in USUAL_NAMES:
        lines += _entry(name, demo[name], str(Parameters.model_fields[name].description))
    lines += ["", "# rarely needed"]
    for name, field in Parameters.model_fields.items():
        if name not in USUAL_NAMES:
            lines += _entry(name, demo[name], str(field.description))
    return "\n".join(["# fmt: off", *lines])


def _entry(name: str, value: object, words: str) -> Iterator[str]:
    yield ""
    yield from textwrap.wrap(words, WIDTH, initial_indent="# ", subsequent_indent="# ")
    text = pprint.pformat(value, width=WIDTH - len(name) - 4, compact=True, sort_dicts=False)
    yield f"{name} = {text}".replace("\n", "\n    ").replace("'", '"')


def main() -> None:
    for template in TEMPLATES:
        file = ROOT / "notebooks" / f"{template}.ipynb"
        notebook = nbformat.read(file, as_version=4)
        for cell in notebook.cells:
            if "parameters" in cell.metadata.get("tags", []):
                cell.source = parameters_cell(template)
            elif cell.source.startswith("## Parameters") and template != "compare":
                cell.source = PROSE
        nbformat.write(notebook, file)


PROSE = """## Parameters

These annotate the demo's well 1. For your own data write a file (`jind-nb init DATA.h5ad` proposes one) and name it in PARAMETERS, the same in all four notebooks; or change the values below. Run the notebooks in order, 1 to 4. `jind-nb run FILE` does all of this in one command. Relative paths mean this notebook's folder (in the repository's own `notebooks/`: the repository)."""


if __name__ == "__main__":
    main()
