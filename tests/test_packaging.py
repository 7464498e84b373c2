"""What is installed, shipped and documented agrees: pyproject, lock, environment.yml, README, parameter files."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from jind_nb.core.parameters import Parameters, load_parameters
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA_NAMES = {
    "torch": "pytorch",
    "matplotlib": "matplotlib-base",
    "nbconvert": "nbconvert-core",
    "igraph": "python-igraph",
}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line.split(" ", 1)[0].split(";")[0] for line in lines if re.match(r"[a-z0-9].*==", line)]
    return {normal(name): version for name, _, version in (pin.partition("==") for pin in pins)}


def test_conda_users_get_the_same_requirements() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    conda = {normal(r.name): str(r.specifier) for r in map(Requirement, (x for x in environment if isinstance(x, str)))}
    wanted = {
        normal(CONDA_NAMES.get(r.name, r.name)): str(r.specifier) for r in map(Requirement, PROJECT["dependencies"])
    }
    wanted |= {"python": PROJECT["requires-python"], "pip": ""}
    assert conda == wanted


def test_the_conda_recipe_asks_for_what_the_environment_has() -> None:
    text = re.sub(r"{%.*?%}|{{.*?}}", "", (ROOT / "conda" / "meta.yaml").read_text())
    recipe, environment = yaml.safe_load(text), yaml.safe_load((ROOT / "environment.yml").read_text())
    wanted = [name for name in environment["dependencies"] if isinstance(name, str) and name != "pip"]
    assert recipe["requirements"]["run"] == wanted


def test_whoever_cites_finds_how() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    readme = (ROOT / "README.md").read_text("utf-8")
    assert all(paper["doi"] in readme for paper in citation["references"])


def test_a_tag_is_published_only_after_its_files_ran_on_every_python_we_name() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "package.yml").read_text())["jobs"]
    named = [text.rsplit(" ", 1)[1] for text in PROJECT["classifiers"] if re.search(r"Python :: \d\.\d+$", text)]
    assert jobs["install"]["strategy"]["matrix"]["python"] == named
    assert jobs["publish"]["needs"] == "install"
    assert jobs["publish"]["permissions"] == {"id-token": "write"}


def test_lock_satisfies_every_requirement_and_leaves_torch_out() -> None:
    pins = locked()
    for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]:
        requirement = Requirement(text)
        if requirement.name != "torch":
            assert requirement.specifier.contains(pins[normal(requirement.name)]), text
    assert "torch" not in pins
    assert not [name for name in pins if name.startswith("nvidia")]
    assert "appnope" in pins  # macOS


def test_makefile_pins_a_torch_the_package_accepts() -> None:
    pin = re.search(r"^TORCH := torch==(\S+)$", (ROOT / "Makefile").read_text(), re.M)
    assert pin
    assert "+" not in pin[1]
    assert next(Requirement(r) for r in PROJECT["dependencies"] if r.startswith("torch")).specifier.contains(pin[1])


def test_the_parameters_page_lists_every_parameter_with_its_sentence() -> None:
    page = (ROOT / "docs" / "parameters.md").read_text("utf-8")
    for name, field in Parameters.model_fields.items():
        assert re.search(rf"^\| {name} \| .* \| {re.escape(str(field.description))} \|$", page, re.M), name


# The table of the JIND-Multi program's own page: batch, labels, source, target, intermediates, MIN_CELL_TYPE_POPULATION.
REFERENCE_TABLE = {
    "pancreas": ("pancreas.h5ad", "batch", "celltype", "0", "3", ["1", "2"], 5),
    "nsclc_lung": (
        "NSCLC_lung_NORMALIZED_FILTERED.h5ad", "Donor", "predicted_labels_majority", "Donor5", "Donor2",
        ["Donor0", "Donor1", "Donor3", "Donor4", "Donor6"], 20,
    ),
    "neurips_brain": ("All_human_brain.h5ad", "batch", "label", "C4", "C7", ["AD2", "ADx1", "ADx2", "ADx4"], 100),
    "bmmc_atac": (
        "data_multiome_annotated_BMMC_ATAC.h5ad", "batch", "cell_type", "s4d8", "s3d3",
        ["s1d1", "s1d2", "s1d3", "s2d1", "s2d4", "s2d5", "s3d10", "s4d1"], 18,
    ),
    "fetal_heart": (
        "heart_sample_norm_scaled_data_annotated.h5ad", "batch", "celltype", "heart_sample_39", "heart_sample_14",
        ["heart_sample_32"], 100,
    ),
    "fetal_kidney": (
        "kidney_sample_norm_scaled_data_annotated.h5ad", "batch", "celltype", "kidney_sample_3", "kidney_sample_67",
        ["kidney_sample_34", "kidney_sample_65"], 100,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFERENCE_TABLE)
def test_parameter_files_have_exactly_the_references_values(name: str) -> None:
    file = ROOT / "parameters" / f"{name}.yaml"
    p = load_parameters(file)
    values = (
        Path(p.paths[0]).name, p.BATCH_COL, p.LABELS_COL, p.SOURCE_DATASET_NAME, p.TARGET_DATASET_NAME,
        p.INTER_DATASETS_NAMES, p.MIN_CELL_TYPE_POPULATION,
    )  # fmt: skip
    assert values == REFERENCE_TABLE[name]
    assert f"doi:10.5281/zenodo.14000644/{values[0]}" == p.PATH


def test_the_dockerfile_copies_what_there_is_and_repeats_no_version() -> None:
    """The image is not built in CI: what can be seen without Docker must not be what breaks it."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    steps = [line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#")]
    base = next(value for step, value in steps if step == "FROM").removeprefix("python:").removesuffix("-slim")
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(base)
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    assert base in workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert "==" not in text
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for source in [name for step, value in steps if step == "COPY" for name in value.split()[:-1]]:
        assert (ROOT / source).exists()
        assert source.split("/")[0] in let_in
    assert [value for step, value in steps if step == "USER"] == ["jind"]
    assert f'["{next(iter(PROJECT["scripts"]))}"]' in [value for step, value in steps if step == "ENTRYPOINT"]


def test_every_layer_is_on_the_map() -> None:
    """Who looks for the place of a change would miss what CONTRIBUTING.md does not name, and write it again."""
    named = set(re.findall(r"`([\w/]+)(?:\.py)?`", (ROOT / "CONTRIBUTING.md").read_text("utf-8")))
    package = ROOT / "jind_nb"
    modules = {file.stem for file in package.glob("*.py")} - {"__init__"}
    layers = {f"{file.parent.relative_to(package).as_posix()}/" for file in package.glob("*/__init__.py")}
    assert (modules | layers) - named == set()


def test_the_website_has_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text("utf-8").splitlines()
    assert {file.stem for file in (ROOT / "docs").glob("*.md")} - {"index"} <= set(index)


def test_links_in_the_pages_lead_somewhere() -> None:
    """A link into nothing ends a newcomer's reading; headings that are linked must be there too."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks" / "README.md"]
    for page in pages:
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", page.read_text("utf-8"))):
            file, _, heading = target.partition("#")
            if re.match(r"[a-z]+:", file):
                continue
            there = page.parent / file if file else page
            assert there.exists(), f"{page.name}: {target}"
            if heading:
                titles = re.findall(r"^#+ (.+)$", there.read_text("utf-8"), re.M)
                anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
                assert heading in anchors, f"{page.name}: {target}"


@pytest.mark.slow
def test_an_installed_wheel_carries_notebooks_parameters_and_templates(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT], check=True
    )
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    assert {
        f"jind_nb/notebooks/{stage}.ipynb"
        for stage in ("1_preprocess", "2_train", "3_align", "4_evaluate", "compare", "app")
    } <= names
    assert {f"jind_nb/parameters/{name}.yaml" for name in ("demo", *REFERENCE_TABLE)} <= names
    templates = (
        "report.html.j2", "failed.html.j2", "comparison.html.j2", "sweep.html.j2", "style.css.j2", "paper.css.j2",
        "report.js", "MODEL_CARD.md.j2", "app.css", "upload.js",
        "parameters.yaml.j2", "array.sbatch.j2",
    )  # fmt: skip
    assert {*(f"jind_nb/templates/{name}" for name in templates), "jind_nb/commands/column_words.yaml"} <= names
