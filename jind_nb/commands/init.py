"""`jind-nb init`: a commented parameter file, proposed from the data."""

import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..core.address import is_remote
from ..core.files import write_text
from ..core.parameters import BUNDLED, Parameters, make_parameters
from ..core.resources import text_templates
from ..data.h5ad import frame, local_file, open_file
from ..errors import InputError
from .guess import PROPOSED, REQUIRED, Guess, guess, one_line, read_obs

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
    found = guess(read_obs(files, paths), given, several_files=len(files) > 1)
    values = {"PATH": in_file[0] if len(in_file) == 1 else in_file} | found.values | given
    text = _text(output, values, found, given, _gene_column(files[0]))
    try:
        write_text(output, text)
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
    placeholders = {"PATH": paths, "OUTPUT_PATH": "runs", **dict.fromkeys(REQUIRED, "\0")}
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


def _text(output: Path, values: Mapping[str, Any], found: Guess, given: Mapping[str, Any], gene: str | None) -> str:
    fields = Parameters.model_fields
    defaults = {name: None if field.is_required() else field.get_default() for name, field in fields.items()}
    rows = found.batches.map("{:,}".format).rename(index=one_line).itertuples(name=None)
    environment = text_templates()
    environment.filters |= {"yaml": one_line, "comment": _comment}
    return environment.get_template("parameters.yaml.j2").render(
        file=output.name,
        fields=fields,
        proposed=("PATH", *PROPOSED),
        required=("PATH", *REQUIRED),
        values=values,
        given=given,
        defaults=defaults | {"OUTPUT_PATH": f"runs/{output.stem}"},
        found=found,
        why_missing=why_missing,
        batches=list(rows)[:MOST_BATCHES_SHOWN],
        n_more_batches=len(found.batches) - MOST_BATCHES_SHOWN,
        gene_column=gene,
    )


def _comment(sentence: str) -> str:
    return textwrap.fill(
        sentence, WIDTH, initial_indent="# ", subsequent_indent="#   ", break_long_words=False, break_on_hyphens=False
    )


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
