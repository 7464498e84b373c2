"""`jind-nb init`: a commented parameter file, proposed from the data."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic_core import PydanticUndefined

from ..core.address import is_remote
from ..core.files import whole_file
from ..core.parameters import BUNDLED, Parameters, make_parameters
from ..data.h5ad import frame, local_file, open_file
from ..errors import InputError
from .guess import Guess, guess, one_line, read_obs

PROPOSED = ("BATCH_COL", "LABELS_COL", "TARGET_DATASET_NAME", "SOURCE_DATASET_NAME", "MIN_CELL_TYPE_POPULATION")

REQUIRED = ("BATCH_COL", "LABELS_COL", "TARGET_DATASET_NAME")

MOST_BATCHES_SHOWN = 60

WIDTH = 100

NAME_COLUMNS = ("feature_name", "gene_name", "gene_names", "gene_symbol", "gene_symbols", "symbol", "symbols")

ENSEMBL = r"ENS[A-Z]*G\d{6,}"


@dataclass(frozen=True)
class WrittenFile:
    """A parameter file that `init` wrote."""

    file: Path
    guess: Guess
    missing: list[str]  # required parameters that the data do not tell

    def proposed_table(self) -> pd.DataFrame:
        """Return the proposed parameters, and why."""
        values, why = self.guess.values, self.guess.why
        rows = {name: (str(values[name]), why.get(name, "given")) for name in PROPOSED if values[name] is not None}
        return pd.DataFrame.from_dict(rows, "index", columns=["value", "why"]).rename_axis("parameter")


def write(paths: Sequence[str], output: Path | None, given: Mapping[str, Any], *, force: bool = False) -> WrittenFile:
    """Write a commented parameter file for these data.

    Parameters
    ----------
    paths
        As PATH takes them, relative ones to the working directory.
    output
        The file to write; default: the first path's name with .yaml, in the working directory.
    given
        Parameters that the user knows already.
    force
        Replace an existing file.

    Raises
    ------
    InputError
        If the data cannot be read, `given` is no parameter, or the file exists; nothing is written then.
    """
    files = [local_file(path) for path in paths]
    output = Path(f"{files[0].stem}.yaml") if output is None else output
    if output.exists() and not force:
        raise InputError(f"{output} is there already; give another name with --output, or --force to replace it.")
    if output.suffix.lower() not in (".yaml", ".yml"):
        raise InputError(f"--output: {output} must end in .yaml.")
    in_file = [_for_file(path, output) for path in paths]
    given = _check_given(given, in_file)
    given |= {
        name: _for_file(given[name], output) for name in ("OUTPUT_PATH", "PRETRAINED_MODEL_PATH") if given.get(name)
    }
    found = guess(read_obs(files), given, several_files=len(files) > 1)
    values = {"PATH": in_file[0] if len(in_file) == 1 else in_file} | found.values | given
    text = _text(output, values, found, given, _gene_column(files[0]))
    try:
        with whole_file(output) as temporary:
            temporary.write_text(text, "utf-8")
    except OSError as error:
        raise InputError(f"--output: {output} cannot be written: {error}.") from None
    return WrittenFile(output, found, [name for name in REQUIRED if values[name] is None])


def _for_file(path: str, output: Path) -> str:
    """Return a path as the parameter file gives it: relative if the data are in the file's folder or below."""
    if path.startswith(BUNDLED) or is_remote(path):
        return path
    data, folder = Path(path).expanduser().absolute(), output.absolute().parent
    relative = os.path.relpath(data, folder)
    return str(data.parent.resolve() / data.name) if relative.startswith("..") else relative


def _check_given(given: Mapping[str, Any], paths: list[str]) -> dict[str, Any]:
    if "PATH" in given:
        raise InputError("-s PATH: this command takes the data as arguments; leave PATH out.")
    placeholders = {
        "PATH": paths,
        "OUTPUT_PATH": "runs",
        "BATCH_COL": "\0",
        "LABELS_COL": "\0",
        "TARGET_DATASET_NAME": "\0",
    }
    checked = make_parameters(placeholders | dict(given)).model_dump()
    return {name: checked[name] for name in Parameters.model_fields if name in given}


def _gene_column(file: Path) -> str | None:
    """Return a column of `var` with gene names, if the index holds Ensembl ids."""
    with open_file(file) as store:
        var = frame(store, "var")
    first = pd.Series(var.index[:100].astype(str))
    if first.empty or first.str.match(ENSEMBL).mean() < 0.9:
        return None
    return next((name for name in NAME_COLUMNS if name in var), None)


# --- the text --------------------------------------------------------------------------------------------------------


def _text(
    output: Path, values: Mapping[str, Any], found: Guess, given: Mapping[str, Any], gene_column: str | None
) -> str:
    name = one_line(output.name)
    parts = [
        "# Parameters of jind-nb: one `NAME: value` on each line. Text after # is a comment. Relative paths are relative to\n"
        "# this file. `jind-nb init` proposed these values from the data. Check them, and then type\n"
        f"#     jind-nb validate {name}     (checks the input and says what a run would do; trains nothing)\n"
        f"#     jind-nb run {name}\n"
    ]
    for parameter in ("PATH", *PROPOSED):
        comments = [str(Parameters.model_fields[parameter].description), *_remarks(parameter, values, found, given)]
        table = _batch_table(found) if parameter == "TARGET_DATASET_NAME" else ""
        default = Parameters.model_fields[parameter].default
        hidden = "#" if parameter not in (*REQUIRED, "PATH") and values[parameter] in (None, default) else ""
        shown = default if values[parameter] is None and default is not PydanticUndefined else values[parameter]
        parts.append("".join(map(_comment, comments)) + table + _line(f"{hidden}{parameter}", shown))
    parts.append("# All other parameters have a default, shown here. To change one, remove the # before its name.\n")
    for parameter, field in Parameters.model_fields.items():
        if parameter in ("PATH", *PROPOSED):
            continue
        hint = _hint(parameter, found, gene_column)
        default = field.get_default() if parameter != "OUTPUT_PATH" else f"runs/{output.stem}"
        line = _line(parameter, given[parameter]) if parameter in given else _line(f"#{parameter}", default)
        parts.append(_comment(str(field.description)) + hint + line)
    return "\n".join(parts)


def _line(name: str, value: object) -> str:
    return f"{name}: {one_line(value)}".rstrip() + "\n"


def _comment(sentence: str) -> str:
    filled = textwrap.fill(
        sentence, WIDTH, initial_indent="# ", subsequent_indent="#   ", break_long_words=False, break_on_hyphens=False
    )
    return f"{filled}\n"


def _remarks(parameter: str, values: Mapping[str, Any], found: Guess, given: Mapping[str, Any]) -> list[str]:
    """Return why a value is proposed, and what other values are possible."""
    others = {"BATCH_COL": found.columns.batch, "LABELS_COL": found.columns.labels}.get(parameter, [])
    others = [one_line(name) for name in others if name != values[parameter]]
    remarks = []
    if parameter in given:
        remarks.append("Given.")
    elif parameter in found.why:
        remarks.append(f"Proposed: {found.why[parameter]}.")
    elif parameter in REQUIRED:
        remarks.append(f"TO FILL IN: {why_missing(parameter, found)}")
    if others:
        remarks.append(f"It could also be: {', '.join(others)}.")
    if parameter == "LABELS_COL" and found.unlabeled:
        seen = ", ".join(f"{one_line(word)} ({n:,} cells)" for word, n in found.unlabeled.items())
        remarks.append(f"These values count as no label (UNLABELED): {seen}.")
    return remarks


def why_missing(parameter: str, found: Guess) -> str:
    """Return why a required parameter could not be proposed, and what to do."""
    shown = ", ".join(map(one_line, found.names[:30])) + (" …" if len(found.names) > 30 else "")
    has = f"The columns of obs are {shown}." if found.names else "obs has no columns."
    if parameter == "BATCH_COL":
        return f"no column looks like batches. {has} If none of them has the donor, sample or run, add such a column."
    if parameter == "LABELS_COL":
        return (
            f"no column looks like cell types. {has} If none of them has, add one, or give the annotated cells' file too: "
            "jind-nb init new.h5ad annotated.h5ad."
        )
    return "the batch to annotate is proposed once BATCH_COL and LABELS_COL are known: give them with -s, and --force."


def _batch_table(found: Guess) -> str:
    if found.batches.empty:
        return ""
    shown = found.batches.head(MOST_BATCHES_SHOWN)
    names = [one_line(name) for name in shown.index]
    width = min(40, max(map(len, [*names, "batch"])))
    rows = [f"# {'batch':{width}} {'cells':>10} {'labelled':>10} {'cell types':>11}\n"]
    rows += [
        f"# {name:{width}} {cells:>10,} {labelled:>10,} {types:>11,}\n"
        for name, (cells, labelled, types) in zip(names, shown.itertuples(index=False, name=None), strict=True)
    ]
    left = len(found.batches) - len(shown)
    return "".join(rows) + (f"# and {left:,} smaller ones\n" if left else "")


def _hint(parameter: str, found: Guess, gene_column: str | None) -> str:
    """Return a comment on what the data suggest instead of the default."""
    if parameter == "GENE_COL" and gene_column:
        return _comment(f"The index holds Ensembl ids; {gene_column} holds gene names.")
    if parameter == "PARENTS" and found.parents:
        return _comment(
            f"These columns hold coarser types, and could be given: {', '.join(map(one_line, found.parents))}."
        )
    if parameter == "UNLABELED" and found.doubtful:
        seen = ", ".join(f"{one_line(word)} ({n:,} cells)" for word, n in found.doubtful.items())
        return _comment(f"These labels may not be cell types; if so, add them: {seen}.")
    return ""
