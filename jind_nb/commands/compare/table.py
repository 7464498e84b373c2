"""Tables, files and pictures of compared methods, and `jind-nb compare`: one target, method by method, resumable.

comparison = open_comparison(globals())      # in notebooks/compare.ipynb
rows = comparison.measure_all()              # what is not in comparison.csv yet
comparison.write(rows)
"""

from __future__ import annotations

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
from ...core.files import whole_file
from ...core.locks import held
from ...core.parameters import Parameters, from_notebook
from ...core.resources import checkout, shipped, templates
from ...data.cells import read_cells
from ...data.roles import make_plan
from ...errors import InputError
from ...report.chapter import chapter
from ...report.plots import compare, style
from ...results.write import write_sheets
from ...runs import cache
from ...runs.folder import Run, check_output
from ..kernels import KERNEL
from .measure import CONTROLS, COVERAGES, METHODS, SEEDED, UnavailableError, measure, target_labels

log = logging.getLogger(__name__)

AT_COVERAGES = [f"accuracy_at_{share:.0%}" for share in COVERAGES]

NUMBERS = [
    "raw_accuracy", "macro_F1", "macro_F1_10", "balanced_accuracy", "effective_accuracy", "rejection", "mAP", "AURC",
    *AT_COVERAGES, "calibration_error", "seconds", "peak_GB", "cpu_seconds",
]  # fmt: skip

KEY = "parameters"  # column with what a row depends on besides method and seed, as a hash


# --- tables ----------------------------------------------------------------------------------------------------------


def by_target(rows: pd.DataFrame) -> pd.DataFrame:
    """The median over seeds of every number: one row for each `set` (where there is one), `target` and `method`."""
    keys = [name for name in ("set", "target", "method") if name in rows]
    return rows.groupby(keys, sort=False)[NUMBERS].median().reset_index()


def over_targets(rows: pd.DataFrame) -> pd.Series:
    """The mean of a column of `by_target` rows over targets, and over sets where there are some: each set counts alike."""
    numbers = rows[NUMBERS].apply(pd.to_numeric)
    return numbers.groupby(rows["set"]).mean().mean() if "set" in rows else numbers.mean()


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a method, best macro-F1 first: `targets`, means, the worst target's macro-F1, and the difference in
    macro-F1 from the best method on the targets both have: mean, standard deviation, lowest and highest.

    The best is the method of highest mean macro-F1 that is no control.
    """
    median = by_target(rows)
    table = pd.DataFrame({name: over_targets(of) for name, of in median.groupby("method", sort=False)}).T
    table = table.sort_values("macro_F1", ascending=False, kind="stable")
    methods = [name for name in table.index if name not in CONTROLS]
    wide = wide_by_target(rows, "macro_F1")
    table.insert(0, "targets", wide.notna().sum())
    table.insert(3, "macro_F1, worst target", wide.min())
    best = methods[0] if methods else table.index[0]  # controls alone: nothing else to be measured by
    differences = {name: differs(wide, name, best) for name in table.index}
    return table.join(pd.DataFrame(differences).T).rename_axis("method")


def numbers(rows: pd.DataFrame) -> pd.DataFrame:
    """The summary of one target's rows, a column a method: what notebook and page show."""
    one_target = ["targets", "macro_F1, worst target", "its sd", "lowest", "highest"]
    table = summary(rows).drop(columns=one_target)
    return table.rename(columns={"difference from best": "macro_F1, difference from best"}).T.rename_axis(
        "number", columns=None
    )


def wide_by_target(rows: pd.DataFrame, number: str) -> pd.DataFrame:
    """One number, medians over seeds: a row a target (of a set), a column a method."""
    median = by_target(rows)
    return median.pivot(index=[name for name in ("set", "target") if name in median], columns="method", values=number)


def differs(wide: pd.DataFrame, one: str, other: str) -> dict[str, float]:
    """The paired difference of two columns over the targets that both have; equal weight a set where there are sets."""
    difference = (wide[one] - wide[other]).dropna()
    of_sets = difference.groupby("set").mean() if "set" in wide.index.names else difference
    return {
        "difference from best": float(of_sets.mean()),
        "its sd": float(difference.std()) if len(difference) > 1 else float("nan"),
        "lowest": float(difference.min()),
        "highest": float(difference.max()),
    }


# --- one target ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """Methods and seeds on one target, and their folder OUTPUT_PATH/compare."""

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

    @property
    def notebook(self) -> Path:
        return self.folder / "compare.ipynb"

    def jobs(self) -> list[tuple[str, int]]:
        """Every method with its seeds, SEED and those after it; once where no seed matters."""
        first = self.parameters.SEED
        return [(name, first + i) for name in self.methods for i in range(self.seeds if name in SEEDED else 1)]

    def key(self) -> str:
        """What all rows depend on: input by content, parameters and versions; METHOD and SEED are a row's own."""
        files = [(file.name, hash_) for file, hash_ in cache.input_hashes(Run(self.parameters)).items()]
        values = self.parameters.model_dump(exclude={"PATH", "OUTPUT_PATH", "METHOD", "SEED"})
        return hashlib.sha256(json.dumps([files, values, code_hash.versions()]).encode()).hexdigest()[:16]

    def load(self) -> pd.DataFrame:
        """The rows that still hold of an earlier comparison.

        Raises
        ------
        InputError
            If a file of that name is there that is none of ours.
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
        return rows[rows[KEY] == self.key()]

    def measure_all(self, tell: Callable[[str], None] = log.info) -> pd.DataFrame:
        """Runs what is not in comparison.csv yet, a row at a time, and tells of each; returns what was asked for.

        A method that cannot run here is told, entered in `problems` and left out.
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
            new = {"target": self.parameters.TARGET_DATASET_NAME, **row, KEY: key}
            rows = pd.DataFrame([*rows.to_dict("records"), new])
            with whole_file(self.file("csv")) as temporary:
                rows.to_csv(temporary, index=False)
            tell(f"{what}: macro-F1 {row['macro_F1']:.3f}, {row['seconds']:.0f} s")
        asked = rows[["method", "seed"]].apply(tuple, axis=1).isin(jobs) if len(rows) else []
        return rows[asked].reset_index(drop=True)

    def problems_table(self) -> pd.DataFrame:
        """Methods left out and why."""
        return pd.DataFrame({"left out": list(self.problems), "why": list(self.problems.values())})

    def write(self, rows: pd.DataFrame) -> None:
        """comparison.xlsx (the summary, every row) and comparison.png."""

        write_sheets(self.file("xlsx"), {"summary": summary(rows), "rows": rows})
        with whole_file(self.file("png")) as temporary:
            temporary.write_bytes(style.png(compare.comparison(by_target(rows), self.parameters.TARGET_DATASET_NAME)))


def open_comparison(namespace: Mapping[str, Any]) -> Comparison:
    """The first call of notebooks/compare.ipynb: reads parameters, METHODS and SEEDS from the notebook's variables."""
    parameters = from_notebook(namespace, checkout() or Path.cwd())
    return Comparison(parameters, list(namespace["METHODS"]), int(namespace["SEEDS"]))


def run(comparison: Comparison, tell: Callable[[str], None]) -> pd.DataFrame:
    """Measures, then runs the notebook, which finds every row done, and makes its page comparison.html.

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

    make_plan(comparison.parameters, read_cells(comparison.parameters))
    target_labels(comparison.parameters)
    check_output(comparison.parameters, needed=10_000_000)
    with held(comparison.folder):
        rows = comparison.measure_all(tell)
        if rows.empty:
            raise RuntimeError("No method could run: " + "; ".join(comparison.problems.values()))
        _execute(comparison)
        _write_html(comparison)
    return rows


def _execute(comparison: Comparison) -> None:
    """Runs the notebook with the methods that could run."""
    import papermill
    from jupyter_client.manager import KernelManager
    from papermill.exceptions import PapermillExecutionError

    KernelManager.transport_encryption = "auto"  # type: ignore[assignment]  # as in pipeline
    methods = [name for name in comparison.methods if name not in comparison.problems]
    running = comparison.folder / ".compare.running.ipynb"
    try:
        papermill.execute_notebook(
            shipped("notebooks") / "compare.ipynb",
            running,
            parameters=comparison.parameters.model_dump() | {"METHODS": methods, "SEEDS": comparison.seeds},
            kernel_name=KERNEL,
            progress_bar=False,
            cwd=str(comparison.folder),
        )
    except PapermillExecutionError as error:
        raise RuntimeError(
            f"compare failed: {error.ename}: {error.evalue}\nThe notebook with the error: {comparison.notebook}"
        ) from None
    finally:
        if running.exists():
            running.replace(comparison.notebook)


def _write_html(comparison: Comparison) -> None:
    html = (
        templates()
        .get_template("comparison.html.j2")
        .render(
            target=comparison.parameters.TARGET_DATASET_NAME,
            content=Markup(chapter(comparison.notebook)),
            problems=comparison.problems,
        )
    )
    with whole_file(comparison.file("html")) as temporary:
        temporary.write_text(html, encoding="utf-8")
