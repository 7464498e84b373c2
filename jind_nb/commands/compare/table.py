"""`jind-nb compare`: methods measured on one target, a row each in comparison.csv, then tables, a picture and a page.

comparison = open_comparison(globals())      # in notebooks/compare.ipynb
rows = comparison.measure_all()              # measures only rows that are not in comparison.csv
comparison.write(rows)
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from ...core import code_hash
from ...core.csv_files import as_it_was, write_csv
from ...core.files import InFolder, whole_file, write_text
from ...core.locks import held
from ...core.parameters import Parameters
from ...core.resources import templates
from ...data.cells import read_cells
from ...data.roles import make_plan
from ...errors import InputError
from ...report.chapter import chapter
from ...report.plots import compare, style
from ...results.workbook import write_sheets
from ...runs import cache
from ...runs.folder import Run, check_output
from ...runs.notebook import parameters_of
from ..kernel_process import FOR_A_COMPARISON, waiting_kernel
from ..kernels import execute, one_kernel, own_kernels
from .measure import CONTROLS, COVERAGES, METHODS, SEEDED, UnavailableError, measure, target_labels

log = logging.getLogger(__name__)

AT_COVERAGES = [f"accuracy_at_{share:.0%}" for share in COVERAGES]

NUMBERS = [
    "raw_accuracy", "macro_F1", "macro_F1_10", "balanced_accuracy", "effective_accuracy", "rejection", "mAP", "AURC",
    *AT_COVERAGES, "calibration_error", "seconds", "peak_GB", "cpu_seconds",
]  # fmt: skip

HIGHER_IS_BETTER = (
    "macro_F1", "macro_F1_10", "raw_accuracy", "balanced_accuracy", "accuracy_at_90%", "effective_accuracy", "mAP",
)  # fmt: skip

LOWER_IS_BETTER = ("AURC", "calibration_error")

# What a reader of the notebook sees; all numbers are in comparison.csv.
WORDS = {
    "macro_F1": "macro-F1", "macro_F1_10": "macro-F1, larger types", "raw_accuracy": "accuracy, all cells",
    "balanced_accuracy": "balanced accuracy", "accuracy_at_90%": "accuracy, surest 90 % of cells",
    "effective_accuracy": "accuracy, assigned cells", "rejection": "share rejected", "mAP": "mean average precision",
    "AURC": "AURC", "calibration_error": "calibration error", "seconds": "seconds",
    "peak_GB": "memory (GB)", "difference from best": "behind the best",
}  # fmt: skip

KEY = "parameters"  # column with a hash of all that a row depends on besides method and seed


# --- tables ----------------------------------------------------------------------------------------------------------


def by_target(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the median over seeds of every number: a row for each `set` (if there are sets), `target` and `method`."""
    keys = [name for name in ("set", "target", "method") if name in rows]
    return rows.groupby(keys, sort=False)[NUMBERS].median().reset_index()


def over_targets(rows: pd.DataFrame) -> pd.Series:
    """Return the mean of each number over the targets of a set, and then over sets (if there are sets)."""
    numbers = rows[NUMBERS].apply(pd.to_numeric)
    return numbers.groupby(rows["set"]).mean().mean() if "set" in rows else numbers.mean()


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per method, best macro-F1 first.

    Columns are `targets`, means, the worst target's macro-F1, and the difference in macro-F1 from the best method on the
    targets of both: mean, standard deviation, lowest and highest. Best is the highest mean macro-F1 without controls.
    """
    median = by_target(rows)
    table = pd.DataFrame({name: over_targets(of) for name, of in median.groupby("method", sort=False)}).T
    table = table.sort_values("macro_F1", ascending=False, kind="stable")
    methods = [name for name in table.index if name not in CONTROLS]
    wide = wide_by_target(rows, "macro_F1")
    table.insert(0, "targets", wide.notna().sum())
    table.insert(3, "macro_F1, worst target", wide.min())
    best = methods[0] if methods else table.index[0]  # only controls
    differences = {name: paired_difference(wide, name, best) for name in table.index}
    return table.join(pd.DataFrame(differences).T).rename_axis("method")


def short_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the main columns of the summary, rounded, for a terminal."""
    columns = ["macro_F1", "raw_accuracy", "accuracy_at_90%", "AURC", "seconds", "difference from best"]
    return summary(rows)[columns].round(3).rename(columns=lambda name: name.replace("_", " "))


def numbers(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the summary of one target's rows in words, a row for each method, best macro-F1 first, for the notebook and the
    page; with the spread of macro-F1 over seeds where there are several."""
    table = summary(rows)[[*WORDS]].rename(columns=WORDS)
    if rows.groupby("method")["seed"].nunique().max() > 1:
        spread = rows.assign(macro_F1=pd.to_numeric(rows["macro_F1"])).groupby("method")["macro_F1"].std()
        table.insert(1, "macro-F1, standard deviation over seeds", spread.reindex(table.index))
    return table


def is_best(table: pd.DataFrame) -> pd.DataFrame:
    """Return which methods have the best number of each column of `numbers`, controls left aside: bool, shaped like it."""
    best = pd.DataFrame(False, table.index, table.columns)
    methods = [name for name in table.index if name not in CONTROLS]
    for column in table.columns.intersection([WORDS[name] for name in (*HIGHER_IS_BETTER, *LOWER_IS_BETTER)]):
        of_methods = pd.to_numeric(table.loc[methods, column])
        if len(methods) > 1 and of_methods.notna().any():
            is_low = column in [WORDS[name] for name in LOWER_IS_BETTER]
            best.loc[methods, column] = of_methods == (of_methods.min() if is_low else of_methods.max())
    return best


def wide_by_target(rows: pd.DataFrame, number: str) -> pd.DataFrame:
    """Return one number, medians over seeds: a row per target (of a set), a column per method."""
    median = by_target(rows)
    return median.pivot(index=[name for name in ("set", "target") if name in median], columns="method", values=number)


def paired_difference(wide: pd.DataFrame, one: str, other: str) -> dict[str, float]:
    """Return the paired difference of two columns over the targets of both; each set has the same weight."""
    difference = (wide[one] - wide[other]).dropna()
    of_sets = difference.groupby("set").mean() if "set" in wide.index.names else difference
    values = (of_sets.mean(), difference.std(), difference.min(), difference.max())  # the sd of one target is NaN
    return dict(zip(("difference from best", "its sd", "lowest", "highest"), map(float, values), strict=True))


# --- one target ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """Methods and seeds to measure on one target, and the folder OUTPUT_PATH/compare."""

    parameters: Parameters
    methods: list[str]
    seeds: int = 1
    problems: dict[str, str] = field(default_factory=dict)  # method -> why it could not run

    def __post_init__(self) -> None:
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown:
            raise InputError(f"METHODS: there is no {', '.join(unknown)}; known are {', '.join(METHODS)}.")
        if self.parameters.PRETRAINED_MODEL_PATH is not None:
            raise InputError("PRETRAINED_MODEL_PATH: a comparison trains every method; leave it out.")
        if self.seeds < 1:
            raise InputError(f"SEEDS: found {self.seeds}; at least one is needed.")

    @property
    def folder(self) -> Path:
        return Path(self.parameters.OUTPUT_PATH) / "compare"

    def file(self, ending: str) -> Path:
        return self.folder / f"comparison.{ending}"

    notebook = InFolder("compare.ipynb")

    def jobs(self) -> list[tuple[str, int]]:
        """Return every method with its seeds, from SEED on; a method that no seed changes has one."""
        first = self.parameters.SEED
        return [(name, first + i) for name in self.methods for i in range(self.seeds if name in SEEDED else 1)]

    def key(self) -> str:
        """Return a hash of all that every row depends on: the input's content, parameters and versions."""
        files = [(file.name, hash_) for file, hash_ in cache.input_hashes(Run(self.parameters)).items()]
        values = self.parameters.model_dump(exclude={"PATH", "OUTPUT_PATH", "METHOD", "SEED"})
        return hashlib.sha256(json.dumps([files, values, code_hash.versions()]).encode()).hexdigest()[:16]

    def load(self) -> pd.DataFrame:
        """Return the rows of an earlier comparison with the same input and parameters.

        Raises
        ------
        InputError
            If there is a comparison.csv that no comparison wrote.
        """
        columns = ["target", "method", "seed", *NUMBERS, KEY]
        if not self.file("csv").exists():
            return pd.DataFrame(columns=columns)
        try:
            rows = pd.read_csv(self.file("csv"), dtype={"target": str, KEY: str})
        except (ValueError, UnicodeDecodeError):
            rows = pd.DataFrame()
        if not set(columns) <= set(rows.columns):
            raise InputError(f"OUTPUT_PATH: {self.file('csv')} is no table of jind-nb; choose another folder.")
        rows["target"] = rows["target"].map(as_it_was)
        return rows[rows[KEY] == self.key()]

    def measure_all(self, tell: Callable[[str], None] = log.info) -> pd.DataFrame:
        """Measure what is not in comparison.csv yet, one row after the other, and return all rows.

        A method that cannot run is entered in `problems` and has no row.

        Parameters
        ----------
        tell
            Called with a line about each row.
        """
        rows, jobs, key = self.load(), self.jobs(), self.key()
        for i, (method, seed) in enumerate(jobs):
            what = f"{i + 1} of {len(jobs)}: {method}" + (f", seed {seed}" if method in SEEDED else "")
            if ((rows["method"] == method) & (rows["seed"] == seed)).any():
                tell(f"{what}: done before")
                continue
            if method in self.problems:
                continue
            try:
                row = measure(self.parameters.model_copy(update={"SEED": seed}), method)
            except UnavailableError as reason:
                self.problems[method] = str(reason)
                tell(f"{what}: left out: {reason}")
                continue
            new = {"target": self.parameters.target, **row, KEY: key}
            rows = pd.DataFrame([*rows.to_dict("records"), new])
            write_csv(self.file("csv"), rows)
            tell(f"{what}: macro-F1 {row['macro_F1']:.3f}, {row['seconds']:.0f} s")
        is_chosen = rows[["method", "seed"]].apply(tuple, axis=1).isin(jobs) if len(rows) else []
        return rows[is_chosen].reset_index(drop=True)

    def problems_table(self) -> pd.DataFrame:
        """Return the methods that could not run, and why."""
        return pd.DataFrame({"left out": list(self.problems), "why": list(self.problems.values())})

    def write(self, rows: pd.DataFrame) -> None:
        """Write comparison.xlsx (the summary and every row) and comparison.png."""
        write_sheets(self.file("xlsx"), {"summary": summary(rows), "rows": rows})
        with whole_file(self.file("png")) as temporary:
            temporary.write_bytes(style.png(compare.comparison(by_target(rows), self.parameters.target)))


def open_comparison(namespace: Mapping[str, Any]) -> Comparison:
    """Return the comparison of a notebook's variables: its parameters, METHODS and SEEDS."""
    parameters = parameters_of(namespace)
    return Comparison(parameters, list(namespace["METHODS"]), int(namespace["SEEDS"]))


def run(comparison: Comparison, tell: Callable[[str], None]) -> pd.DataFrame:
    """Measure all rows, run the notebook, which finds them in comparison.csv, and make the page comparison.html.

    Returns
    -------
    The rows of what could run.

    Raises
    ------
    InputError
        If the input is wrong, the target's labels are not known, or another comparison is at work in the folder.
    RuntimeError
        If no method could run.
    """
    if len(comparison.parameters.targets) != 1:
        raise InputError(
            f"TARGET_DATASET_NAME: {comparison.parameters.target} cannot be compared; name one target whose labels are known."
        )
    make_plan(comparison.parameters, read_cells(comparison.parameters))
    target_labels(comparison.parameters)
    check_output(comparison.parameters, needed=10_000_000)
    with held(comparison.folder):
        rows = comparison.measure_all(tell)
        if rows.empty:
            raise RuntimeError("No method could run: " + "; ".join(comparison.problems.values()))
        methods = [name for name in comparison.methods if name not in comparison.problems]
        parameters = comparison.parameters.model_dump() | {"METHODS": methods, "SEEDS": comparison.seeds}
        with (
            waiting_kernel(FOR_A_COMPARISON) as waiting,
            own_kernels(comparison.folder) as own,
            one_kernel(["compare"], own, waiting) as kernels,
        ):
            for name, kernel in kernels:
                execute(name, comparison.notebook, parameters, comparison.folder, kernel)
        html = templates().get_template("comparison.html.j2")
        content = Markup(chapter(comparison.notebook))
        target = comparison.parameters.target
        write_text(comparison.file("html"), html.render(target=target, content=content, problems=comparison.problems))
    return rows
