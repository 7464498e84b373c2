"""The results of a sweep: summary.csv for programs, index.html with a link to every report."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from ...core.csv_files import write_csv
from ...core.files import InFolder, read_json, write_text
from ...core.parameters import Parameters
from ...core.resources import templates
from ...core.text import percent, plural
from ...runs.folder import Run


@dataclass(frozen=True)
class SweepFolder:
    """The files of a sweep itself, without those of its runs."""

    folder: Path

    summary_csv = InFolder("summary.csv")
    index_html = InFolder("index.html")
    parameters = InFolder("parameters")
    logs = InFolder("logs")
    targets = InFolder("targets")  # the runs of `--each-target`, a folder each

    def parameters_yaml(self, name: str) -> Path:
        return self.parameters / f"{name}.yaml"

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"


FINISHED, FINISHED_BEFORE, FAILED = "finished", "finished before", "failed"

WAITING, RUNNING, NOT_FINISHED = "waiting", "running", "not finished"

DONE = (FINISHED, FINISHED_BEFORE)

NEARLY_NONE = 1e-6  # no error is estimated to be none

COLUMNS = [
    "run", "target", "status", "cells", "assigned", "expected_error", "expected_error_low", "expected_error_high",
    "accuracy", "raw_accuracy", "macro_F1", "seconds", "peak_GB", "model", "report", "log", "message",
]  # fmt: skip


def row_of(
    files: SweepFolder, name: str, file: str, parameters: Parameters, status: str, message: str
) -> dict[str, Any]:
    """Return a run's row of summary.csv.

    `assigned` is a share of the target's cells, `expected_error` a share of the assigned ones; of a run of several targets both
    are over all of them together, without the shares between which the error probably is, and there are no accuracies, nor for targets without labels. `seconds` is the sum over all stages, `peak_GB` their maximum. `model` is the saved model that
    annotated the target, if the run trained none. `report` and `log` are relative to the sweep's folder.
    """
    this, log = Run(parameters), files.log(file)
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {"run": name, "target": parameters.target, "status": status, "message": message}
    row["model"] = parameters.PRETRAINED_MODEL_PATH
    row["log"] = _relative(log, files) if log.exists() else None
    if status not in DONE:
        return row
    metrics, manifest = read_json(this.metrics), read_json(this.manifest)
    each = list(metrics["targets"].values()) if "targets" in metrics else [metrics["target"]]
    labelled = each[0]["labelled"] or {} if len(each) == 1 else {}
    cells, annotated = (sum(target[which] for target in each) for which in ("cells", "annotated"))
    low, high = (each[0]["expected_error_range"] if len(each) == 1 else None) or (None, None)
    wrong = [target["expected_error"] and target["expected_error"] * target["annotated"] for target in each]
    return row | {
        "cells": cells,
        "assigned": annotated / cells,
        "expected_error": None if None in wrong else sum(wrong) / max(1, annotated),
        "expected_error_low": low,
        "expected_error_high": high,
        **{column: labelled.get(column) for column in ("accuracy", "raw_accuracy", "macro_F1")},
        "seconds": round(sum(manifest["seconds"].values()), 1),
        "peak_GB": round(max(manifest["peak_memory_bytes"].values()) / 1e9, 3),
        "report": _relative(this.report_html, files),
    }


def _relative(path: Path, files: SweepFolder) -> str:
    return Path(os.path.relpath(path, files.folder)).as_posix()


def write_summary(files: SweepFolder, title: str, notes: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Write summary.csv and index.html from the rows so far."""
    write_csv(files.summary_csv, pd.DataFrame(rows, columns=COLUMNS))
    environment = templates()
    environment.filters["percent"] = lambda share: "–" if share is None else f"{100 * share:.1f} %"
    environment.filters["estimated"] = lambda share: "–" if share is None else percent(max(share, NEARLY_NONE))
    environment.filters["link"] = quote
    shown = {"title": title, "sentence": in_words(rows), "notes": notes, "rows": rows, "done": DONE}
    page = environment.get_template("sweep.html.j2").render(shown, version=version("jind-nb"))
    write_text(files.index_html, page)


def short_table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return the table of all runs for a terminal, numbers as text."""
    table = pd.DataFrame(rows).set_index("run")
    shares = dict.fromkeys(("assigned", "accuracy", "macro_F1"), "{:.3f}")
    formats = {"cells": "{:,.0f}", **shares, "seconds": "{:.0f}"}
    for name, form in formats.items():
        table[name] = [form.format(value) if pd.notna(value) else "–" for value in table[name]]
    return table[["status", *formats]].rename(columns={"macro_F1": "macro F1"})


def in_words(rows: Sequence[dict[str, Any]]) -> str:
    """Return in words how many runs finished, failed, and did not finish yet."""
    n_done, n_failed = (sum(row["status"] in which for row in rows) for which in (DONE, (FAILED,)))
    n_left = len(rows) - n_done - n_failed
    counts = {"failed": n_failed, "not finished": n_left}
    first = f"{n_done} of {plural(len(rows), 'run')} finished"
    return ", ".join([first, *(f"{n} {what}" for what, n in counts.items() if n)])
