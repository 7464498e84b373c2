"""Parameters: every spelling a user types is understood alike, every mistake is named with what to do about it."""
# ruff: noqa: SIM300  (upper-case attributes are taken for constants)

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from jind_nb.core.parameters import Parameters, from_notebook, load_parameters, make_parameters, parse_override
from jind_nb.core.text import as_text
from jind_nb.errors import InputError

# A busy machine is no failure.

NEEDED = {
    "PATH": "/data/a.h5ad",
    "BATCH_COL": "batch",
    "LABELS_COL": "celltype",
    "TARGET_DATASET_NAME": "target",
    "OUTPUT_PATH": "/runs/a",
}
# What a batch may be called in all three spellings of a list: no comma, quote or backslash, no list's bracket in
# front, no blanks around.
NAME = (
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters=",'\"\\[("), min_size=1)
    .map(lambda name: as_text(name + " 1"))  # accents in one form
    .filter(lambda name: name == name.strip())
)
NAMES = st.lists(NAME | st.from_regex("[a-z0-9_]{1,6}", fullmatch=True), min_size=1, max_size=6, unique=True)
LISTS = pytest.mark.parametrize("name", ["INTER_DATASETS_NAMES", "EXCLUDE_DATASETS_NAMES"])


def made(**values: Any) -> Parameters:
    return make_parameters(NEEDED | values)


def refusal(**values: Any) -> str:
    with pytest.raises(InputError) as error:
        made(**values)
    return str(error.value)


# --- names and lists of names ----------------------------------------------------------------------------------------


@LISTS
@given(names=NAMES)
def test_the_three_spellings_of_a_list_give_the_same_names(name: str, names: list[str]) -> None:
    spellings: list[object] = [names, tuple(names), ", ".join(names), ",".join(names), str(names), str(tuple(names))]
    for spelling in spellings:
        assert getattr(made(TARGET_DATASET_NAME="the target", **{name: spelling}), name) == names, spelling


@LISTS
@given(numbers=st.lists(st.integers(0, 10**9), min_size=1, max_size=6, unique=True))
def test_numbers_in_a_list_name_the_same_batches_as_text(name: str, numbers: list[int]) -> None:
    texts = [str(number) for number in numbers]
    for spelling in (numbers, texts, [float(n) for n in numbers], str(numbers), str(texts), ",".join(texts)):
        assert getattr(made(**{name: spelling}), name) == texts


@pytest.mark.parametrize("name", ["TARGET_DATASET_NAME", "SOURCE_DATASET_NAME"])
@given(number=st.integers(-(10**15), 10**15))
def test_a_batch_may_be_named_by_number_or_text(name: str, number: int) -> None:
    assert {getattr(made(**{name: spelling}), name) for spelling in (number, float(number), str(number))} == {
        str(number)
    }


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_and_its_text_are_the_same_name(number: float) -> None:
    assert as_text(number) == as_text(as_text(number))
    assert float(as_text(number)) == number


def test_blanks_around_a_name_are_not_part_of_it() -> None:
    """A batch column is read without blanks around its values; the parameters must not keep them either."""
    p = made(TARGET_DATASET_NAME=" a ", SOURCE_DATASET_NAME="b ", INTER_DATASETS_NAMES=[" c", "d "])
    assert (p.TARGET_DATASET_NAME, p.SOURCE_DATASET_NAME, p.INTER_DATASETS_NAMES) == ("a", "b", ["c", "d"])
    assert "TARGET_DATASET_NAME" in refusal(TARGET_DATASET_NAME="  ")


@pytest.mark.parametrize("nothing", [None, "", "  ", "[]", [], ()])
def test_no_intermediates_can_be_written_in_every_way(nothing: object) -> None:
    assert made(INTER_DATASETS_NAMES=nothing).INTER_DATASETS_NAMES == []


def test_the_order_of_the_intermediates_is_the_users() -> None:
    assert made(INTER_DATASETS_NAMES="['b', 'a', '10', '9']").intermediates == ["b", "a", "10", "9"]


@pytest.mark.parametrize(
    "values",
    [
        {"TARGET_DATASET_NAME": False},
        {"SOURCE_DATASET_NAME": True},
        {"INTER_DATASETS_NAMES": ["a", False]},
        {"EXCLUDE_DATASETS_NAMES": True},
    ],
    ids=lambda values: next(iter(values)),
)
def test_a_name_that_yaml_reads_as_a_bool_asks_for_quotes(values: dict[str, object]) -> None:
    """A Norwegian donor `no` must not become the batch 'False'."""
    message = refusal(**values)
    assert message.startswith(next(iter(values)))
    assert "put the name in quotes" in message


def test_unquoted_no_in_a_yaml_file_asks_for_quotes_and_quoted_works(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    text = "PATH: a.h5ad\nBATCH_COL: batch\nLABELS_COL: celltype\nTARGET_DATASET_NAME: {}\n"
    file.write_text(text.format("no"))
    with pytest.raises(InputError, match=r"TARGET_DATASET_NAME.*quotes"):
        load_parameters(file)
    file.write_text(text.format("'no'"))
    assert load_parameters(file).TARGET_DATASET_NAME == "no"


def test_a_damaged_list_as_text_is_refused_and_shows_how_to_write_one() -> None:
    for text in ("['a', 'b'", "[a b]", "[" * 150, "[\0]", "[" + "-" * 100_000 + "1]"):
        message = refusal(INTER_DATASETS_NAMES=text)
        assert message.startswith("INTER_DATASETS_NAMES")
        assert "write ['a', 'b'] or a, b" in message


# --- the reference's configurations ----------------------------------------------------------------------------------


def test_the_references_own_json_works_unchanged(tmp_path: Path) -> None:
    """Lists as text, numbers as numbers, the source listed among the intermediates: read as their program meant it."""
    file = tmp_path / "config.json"
    values = {
        "PATH": "data/pancreas.h5ad",
        "BATCH_COL": "batch",
        "LABELS_COL": "celltype",
        "SOURCE_DATASET_NAME": "0",
        "TARGET_DATASET_NAME": "3",
        "OUTPUT_PATH": "out",
        "INTER_DATASETS_NAMES": "['0', '1', '2']",
        "EXCLUDE_DATASETS_NAMES": "",
        "NUM_FEATURES": 5000,
        "MIN_CELL_TYPE_POPULATION": 5,
        "USE_GPU": True,
    }
    file.write_text(json.dumps(values))
    p = load_parameters(file)
    assert (p.SOURCE_DATASET_NAME, p.TARGET_DATASET_NAME, p.intermediates) == ("0", "3", ["1", "2"])
    assert (p.NUM_FEATURES, p.MIN_CELL_TYPE_POPULATION, p.USE_GPU) == (5000, 5, True)
    assert p.PATH == str(tmp_path / "data" / "pancreas.h5ad")


def test_older_configurations_name_the_intermediates_differently() -> None:
    assert made(TRAIN_DATASETS_NAMES="['1', '2']").INTER_DATASETS_NAMES == ["1", "2"]


def test_the_older_and_the_newer_name_together_are_refused() -> None:
    message = refusal(TRAIN_DATASETS_NAMES="1", INTER_DATASETS_NAMES="2")
    assert "TRAIN_DATASETS_NAMES" in message
    assert "keep INTER_DATASETS_NAMES" in message


# --- unknown names, limits, roles ------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", list(Parameters.model_fields))
def test_an_unknown_name_is_refused_with_the_nearest_known_one(known: str) -> None:
    for typo in (known.lower(), known + "S", known.replace("_", "-")):
        if typo != known:
            assert f"There is no parameter {typo}; did you mean {known}?" in refusal(**{typo: "x"})


def test_a_name_like_no_other_lists_the_known_ones() -> None:
    message = refusal(xyzzy=1)
    assert "xyzzy" in message
    assert all(name in message for name in Parameters.model_fields)


def test_every_unknown_name_is_told_at_once() -> None:
    message = refusal(NUM_FEATURE=1, SEEED=2)
    assert "NUM_FEATURES?" in message
    assert "SEED?" in message


@pytest.mark.parametrize("name", ["PATH", "BATCH_COL", "LABELS_COL"])
def test_a_missing_parameter_is_named_with_what_it_means(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} is missing: ") as error:
        make_parameters({key: value for key, value in NEEDED.items() if key != name})
    assert str(Parameters.model_fields[name].description) in str(error.value)


@pytest.mark.parametrize(
    ("name", "allowed", "refused"),
    [
        ("NUM_FEATURES", [1, 5000, 10**6, "200", 300.0], [0, -1, 1.5, "many", None, [], math.inf, math.nan]),
        ("MIN_CELL_TYPE_POPULATION", [1, 100, "5", 5.0, "auto"], [0, -1, 2.5, "few", None, math.nan, math.inf]),
        ("REJECTION", [0, 0.05, 0.999, "0.1"], [-0.01, 1, 1.5, "5%", None, math.nan]),
        ("EPOCHS", [1, 15, 1000], [0, 1001, -3, 1.5]),
        ("SEED", [0, 1, 2**32 - 1], [-1, 2**32, 0.5, "x"]),
        ("METHOD", ["default", "reference"], ["Default", "paper", "", None]),
        ("NORMALISATION", ["auto", "counts", "log1p", "as_is"], ["raw", "Counts", True]),
        ("USE_GPU", [True, False, "true", "no", 0], ["maybe", 2, None, []]),
        ("ALIGN", [True, False, "", None], ["maybe", 2]),
        ("BATCH_COL", ["batch"], ["", None, 3, ["a"]]),
        ("PATH", ["a.h5ad", ["a.h5ad", "b.h5ad"]], ["", [], [1], None, 5, {"a": 1}, ["a.h5ad", ""]]),
        ("OUTPUT_PATH", ["out"], ["", None, 5]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_limits(name: str, allowed: list[object], refused: list[object]) -> None:
    for value in allowed:
        assert made(**{name: value}) is not None
    for value in refused:
        message = refusal(**{name: value})
        assert message.startswith(f"{name}: found {value!r}"), message


def test_absent_every_type_is_learned_but_in_the_published_method_only_those_of_100_cells() -> None:
    """A hundred would drop most types of a small file; the published method keeps its own constant."""
    assert made().MIN_CELL_TYPE_POPULATION == "auto"
    assert made(METHOD="reference").MIN_CELL_TYPE_POPULATION == 100
    assert made(METHOD="reference", MIN_CELL_TYPE_POPULATION="auto").MIN_CELL_TYPE_POPULATION == "auto"


@pytest.mark.parametrize("name", ["NUM_FEATURES", "SEED", "EPOCHS", "MIN_CELL_TYPE_POPULATION"])
def test_yes_is_not_a_number(name: str) -> None:
    refusal(**{name: True})


@pytest.mark.parametrize(
    ("values", "fragments"),
    [
        ({"SOURCE_DATASET_NAME": "target"}, ["SOURCE_DATASET_NAME and TARGET_DATASET_NAME", "name another source"]),
        ({"INTER_DATASETS_NAMES": ["a", "target"]}, ["'target' is also in INTER_DATASETS_NAMES", "take it out"]),
        (
            {"EXCLUDE_DATASETS_NAMES": ["target"]},
            ["EXCLUDE_DATASETS_NAMES and TARGET_DATASET_NAME both", "take it out"],
        ),
        (
            {"SOURCE_DATASET_NAME": 1, "EXCLUDE_DATASETS_NAMES": "1, 2"},
            ["EXCLUDE_DATASETS_NAMES and SOURCE_DATASET_NAME both name '1'", "take it out"],
        ),
        (
            {"INTER_DATASETS_NAMES": "['1', '2', '3']", "EXCLUDE_DATASETS_NAMES": [2, 3]},
            ["EXCLUDE_DATASETS_NAMES and INTER_DATASETS_NAMES both name '2', '3'", "take it out"],
        ),
        (
            {"INTER_DATASETS_NAMES": [1, "1", "2"]},
            ["INTER_DATASETS_NAMES: found [1, '1', '2']; names '1' more than once", "keep one"],
        ),
        (
            {"EXCLUDE_DATASETS_NAMES": "x, y, x"},
            ["EXCLUDE_DATASETS_NAMES: found 'x, y, x'; names 'x' more than once", "keep one"],
        ),
        (
            {"PATH": ["a.h5ad", "a.h5ad"]},
            ["PATH: found ['a.h5ad', 'a.h5ad']; names 'a.h5ad' more than once", "keep one"],
        ),
    ],
)
def test_roles_that_clash_are_named_with_what_to_do(values: dict[str, object], fragments: list[str]) -> None:
    message = refusal(**values)
    for fragment in fragments:
        assert fragment in message


def test_the_placeholder_words_of_unlabeled_hold_whatever_their_case() -> None:
    p = made()
    assert all(
        p.is_unlabeled(word) for word in ("", "  ", "-", "Unknown", " UNASSIGNED ", "nan", "NA", "Not annotated")
    )
    assert not any(p.is_unlabeled(word) for word in ("B", "T cell", "unknown lymphoid", "NA-like"))
    own = made(UNLABELED=" doublet , debris")
    assert own.is_unlabeled("Doublet")
    assert not own.is_unlabeled("unknown")


def test_alignment_is_on_by_default_and_off_with_a_saved_model() -> None:
    assert made().aligns
    assert not made(PRETRAINED_MODEL_PATH="/m").aligns
    assert made(PRETRAINED_MODEL_PATH="/m", ALIGN=True).aligns
    assert not made(ALIGN=False).aligns


# --- files of parameters ---------------------------------------------------------------------------------------------


@pytest.fixture
def parameter_file(tmp_path: Path) -> Callable[..., Path]:
    """A parameter file in a folder of its own, with relative paths."""

    def write(suffix: str = ".yaml", **values: object) -> Path:
        file = tmp_path / "project" / f"mine{suffix}"
        file.parent.mkdir(exist_ok=True)
        all_values = {k: v for k, v in (NEEDED | {"PATH": "data/a.h5ad", "OUTPUT_PATH": "out"} | values).items()
                      if v is not ...}  # fmt: skip
        file.write_text(json.dumps(all_values) if suffix == ".json" else yaml.safe_dump(all_values))
        return file

    return write


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".json"])
def test_paths_in_a_file_are_relative_to_it_and_overrides_to_the_caller(
    suffix: str, parameter_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    file = parameter_file(suffix, PRETRAINED_MODEL_PATH="../models")
    p = load_parameters(file)
    assert p.PATH == str(tmp_path / "project" / "data" / "a.h5ad")
    assert p.OUTPUT_PATH == str(tmp_path / "project" / "out")
    assert p.PRETRAINED_MODEL_PATH == str(tmp_path / "models")
    p = load_parameters(file, {"PATH": ["b.h5ad", "/abs/c.h5ad"], "OUTPUT_PATH": "../o", "SEED": 7})
    assert p.PATH == [str(elsewhere / "b.h5ad"), "/abs/c.h5ad"]
    assert (p.OUTPUT_PATH, p.SEED) == (str(tmp_path / "o"), 7)


def test_results_go_to_runs_and_the_files_name_by_default(
    parameter_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_parameters(parameter_file(OUTPUT_PATH=...)).OUTPUT_PATH == str(tmp_path / "runs" / "mine")
    assert load_parameters(parameter_file(OUTPUT_PATH=None)).OUTPUT_PATH == str(tmp_path / "runs" / "mine")


def test_a_bundled_set_and_the_home_folder_are_not_relative_paths(
    parameter_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert load_parameters(parameter_file(PATH="scanpy:pbmc68k_reduced")).PATH == "scanpy:pbmc68k_reduced"
    assert load_parameters(parameter_file(PATH="~/a.h5ad")).PATH == str(tmp_path / "home" / "a.h5ad")


def test_a_notebooks_variables_are_parameters_and_nothing_else_is(tmp_path: Path) -> None:
    namespace = NEEDED | {"PATH": "a.h5ad", "SEED": 3, "METHOD": None, "other": object(), "_": 1}
    p = from_notebook(namespace, tmp_path)
    assert (p.PATH, p.SEED, p.METHOD) == (str(tmp_path / "a.h5ad"), 3, "default")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text", "fragment"),
    [
        ("p.yaml", "PATH: [a", "is not YAML"),
        ("p.yaml", "PATH: a\n\tBATCH_COL: b", "is not YAML"),
        ("p.yaml", "PATH: {}".format("[" * 3000), "is not YAML"),
        ("p.yaml", "SEED: 2020-13-45", "is not YAML"),
        ("p.yaml", "!!python/object/apply:os.system [exit]", "is not YAML"),
        ("p.json", '{"PATH": "a",}', "is not JSON"),
        ("p.JSON", "PATH: a", "is not JSON"),
        ("p.yaml", "- PATH", "must hold names and values"),
        ("p.yaml", "", "must hold names and values"),
        ("p.json", "[]", "must hold names and values"),
    ],
)
def test_a_file_that_cannot_be_understood_is_named(tmp_path: Path, name: str, text: str, fragment: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(InputError, match=fragment) as error:
        load_parameters(file)
    assert str(file) in str(error.value)


def test_a_file_whose_path_leads_nowhere_is_named(tmp_path: Path) -> None:
    """Lost otherwise: the message, to a traceback; and in the web page the list of all runs."""
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    for file in (tmp_path / "loop.yaml", Path("~nobody-here/p.yaml")):
        with pytest.raises(InputError, match=rf"{file.name}"):
            load_parameters(file)


def test_files_that_cannot_be_opened_are_named(tmp_path: Path) -> None:
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00\xd8")
    for file in (tmp_path / "missing.yaml", tmp_path, binary):
        with pytest.raises(InputError, match=file.name):
            load_parameters(file)


def test_a_byte_order_mark_from_a_windows_editor_does_no_harm(parameter_file: Callable[..., Path]) -> None:
    file = parameter_file()
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert load_parameters(file).BATCH_COL == "batch"


@pytest.mark.parametrize("path", ["~nosuchuserhere/a.h5ad", "a\0b.h5ad"])
def test_a_path_that_cannot_be_one_is_the_users_mistake(path: str, parameter_file: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="PATH"):
        load_parameters(parameter_file(".json", PATH=path))


def test_an_override_wins_over_the_files_older_name(parameter_file: Callable[..., Path]) -> None:
    p = load_parameters(parameter_file(TRAIN_DATASETS_NAMES="a"), {"INTER_DATASETS_NAMES": "b"})
    assert p.INTER_DATASETS_NAMES == ["b"]


# --- maps ------------------------------------------------------------------------------------------------------------

MARKERS = {"T": ["CD3D", "CD3E"], "B": ["MS4A1"]}


@pytest.mark.parametrize(
    "value",
    [
        MARKERS,
        "{T: [CD3D, CD3E], B: [MS4A1]}",
        '{"T": ["CD3D", "CD3E"], "B": ["MS4A1"]}',
        '{"T":["CD3D","CD3E"],"B":["MS4A1"]}',
        {"T": "CD3D, CD3E", "B": "MS4A1"},
        {"T": ["CD3D", "CD3E", "CD3D"], "B": ["MS4A1"]},
    ],
    ids=["a map", "its text", "JSON", "JSON without blanks", "lists as text", "a gene twice"],
)
def test_markers_are_read_in_every_spelling(value: Any, tmp_path: Path) -> None:
    assert made(MARKERS=value).MARKERS == MARKERS
    if isinstance(value, str):
        name, read = parse_override(f"MARKERS={value}")
        assert made(**{name: read}).MARKERS == MARKERS
    for suffix, write in ((".json", json.dumps), (".yaml", yaml.safe_dump)):
        file = tmp_path / f"p{suffix}"
        file.write_text(write(NEEDED | {"MARKERS": value}))
        assert load_parameters(file).MARKERS == MARKERS


@pytest.mark.parametrize("nothing", [{}, "", None])
def test_no_markers_and_no_parents_are_nothing(nothing: object) -> None:
    p = made(MARKERS=nothing, PARENTS=nothing)
    assert p.MARKERS == {}
    assert p.PARENTS is None


@pytest.mark.parametrize(
    "value", [{"CD4 T": "T", "CD8 T": "T", "1": "2"}, {"CD4 T": "T", "CD8 T": "T", 1: 2, "B": None}]
)
def test_parents_are_a_map_of_names(value: object) -> None:
    assert made(PARENTS=value).PARENTS == {"CD4 T": "T", "CD8 T": "T", "1": "2"}


def test_parents_may_be_a_column() -> None:
    assert made(PARENTS="coarse").PARENTS == "coarse"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"MARKERS": ["CD3D"]}, "MARKERS: found ['CD3D']; must be a map of cell types to features"),
        ({"MARKERS": "CD3D"}, "MARKERS: found 'CD3D'; must be a map"),
        ({"MARKERS": "{T: [CD3D"}, "MARKERS: found '{T: [CD3D'; looks like a map but cannot be read"),
        ({"MARKERS": {"T": {"CD3D": 1}}}, "MARKERS: found"),
        ({"PARENTS": ["T"]}, "PARENTS: found ['T']; must be a map of cell types to parents, or a column of obs"),
        ({"PARENTS": {"CD4 T": ["T"]}}, "PARENTS: found {'CD4 T': ['T']}; must be a map"),
        ({"PARENTS": {"CD4 T": True}}, "put the name in quotes"),
        ({"PARENTS": {"CD4 T": "T\0"}}, "a name with a character that no file can"),
        ({"MARKERS": {"T": ["CD3D", "\ud800"]}}, "a name with a character that no file can"),
        ({"CLUSTER_RESOLUTION": True}, "CLUSTER_RESOLUTION: found True; must be a number."),
        ({"CLUSTER_RESOLUTION": 0}, "CLUSTER_RESOLUTION: found 0"),
        ({"CLUSTER_RESOLUTION": math.nan}, "CLUSTER_RESOLUTION: found nan"),
    ],
)
def test_what_is_no_map_or_resolution_is_refused_in_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as error:
        made(**values)
    assert says in str(error.value)
    assert len(str(error.value).splitlines()) == 1


# --- -s NAME=VALUE ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NUM_FEATURES=200", ("NUM_FEATURES", 200)),
        ("REJECTION=0.1", ("REJECTION", 0.1)),
        ("USE_GPU=false", ("USE_GPU", False)),
        ("TARGET_DATASET_NAME=well 1", ("TARGET_DATASET_NAME", "well 1")),
        ("INTER_DATASETS_NAMES=[a, b]", ("INTER_DATASETS_NAMES", ["a", "b"])),
        ("INTER_DATASETS_NAMES=['1', '2']", ("INTER_DATASETS_NAMES", ["1", "2"])),
        ("INTER_DATASETS_NAMES=", ("INTER_DATASETS_NAMES", "")),
        ("SOURCE_DATASET_NAME=null", ("SOURCE_DATASET_NAME", None)),
        (" BATCH_COL =a=b", ("BATCH_COL", "a=b")),
        ("BATCH_COL=a: b: c", ("BATCH_COL", "a: b: c")),
        ("TARGET_DATASET_NAME=2020-13-45", ("TARGET_DATASET_NAME", "2020-13-45")),
    ],
)
def test_an_override_is_read_as_yaml_or_else_as_it_stands(text: str, expected: tuple[str, object]) -> None:
    assert parse_override(text) == expected


@pytest.mark.parametrize("text", ["", "SEED", "=1", " =1"])
def test_an_override_without_name_or_value_shows_how_to_write_one(text: str) -> None:
    with pytest.raises(InputError, match="-s NAME=VALUE"):
        parse_override(text)


# --- anything at all -------------------------------------------------------------------------------------------------

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=5) | st.dates()
)
ODD = st.recursive(
    SCALARS | st.sampled_from(["[", "['a'", "(1", "a, b", "['1', '2']", "nan", "[[1], {}]", "[None]", "{}"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3) | st.sets(SCALARS, max_size=3),
    max_leaves=6,
)  # fmt: skip
ODD_MAPPING = st.dictionaries(st.sampled_from([*Parameters.model_fields, "TRAIN_DATASETS_NAMES"]), ODD, max_size=5)


@given(odd=ODD_MAPPING, unknown=st.dictionaries(SCALARS, ODD, max_size=1))
def test_odd_values_give_parameters_or_a_message_and_never_anything_else(odd: dict, unknown: dict) -> None:
    try:
        p = make_parameters(NEEDED | odd | unknown)
    except InputError as error:
        told = str(error)
    else:
        told = "made"
        assert all(isinstance(name, str) and name for name in p.INTER_DATASETS_NAMES)
        assert make_parameters(p.model_dump()) == p
    assert told
    assert "Value error" not in told


@given(text=st.text(max_size=60) | st.dictionaries(st.text(max_size=8), ODD, max_size=3).map(repr))
def test_any_text_as_a_parameter_file_or_override_is_read_or_refused(
    text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "odd.yaml"
    file.write_text(text, encoding="utf-8", errors="replace")
    with pytest.raises(InputError):
        load_parameters(file)
    if text.partition("=")[0].strip() and "=" in text:
        assert parse_override(text)[0] == text.partition("=")[0].strip()
    else:
        with pytest.raises(InputError, match="NAME=VALUE"):
            parse_override(text)


def test_targets_are_one_name_a_list_or_absent() -> None:
    """An empty shell variable must not annotate every batch, and a batch whose name has a comma stays one batch."""
    assert made(TARGET_DATASET_NAME=["a", 2]).targets == ["a", "2"]
    assert made(TARGET_DATASET_NAME="['a', 'b']").targets == ["a", "b"]
    assert made(TARGET_DATASET_NAME="a, b").targets == ["a, b"]
    assert made(TARGET_DATASET_NAME="[a, b]").targets == ["[a, b]"]
    assert made(TARGET_DATASET_NAME=["a"]).TARGET_DATASET_NAME == "a"
    assert made(TARGET_DATASET_NAME=[]).targets == made(TARGET_DATASET_NAME=None).targets == []
    assert "TARGET_DATASET_NAME" in refusal(TARGET_DATASET_NAME="")
    assert "more than once" in refusal(TARGET_DATASET_NAME=["a", "a"])
    assert "'b' is also in INTER_DATASETS_NAMES" in refusal(TARGET_DATASET_NAME=["a", "b"], INTER_DATASETS_NAMES=["b"])
