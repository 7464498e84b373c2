"""The command line: `jind-nb init`, `run`, `validate`, `predict`, `compare`, `sweep`, `report` and `app`.

Exit status: 0 done, 2 the user's input is wrong (one message, no traceback), 1 the program failed.
"""

from __future__ import annotations

import re
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .commands.terminal import err, exit_status, out, plain
from .core.parameters import Parameters, load_parameters, parse_override
from .errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from .commands.sweep.summary import SweepFolder

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="""Cell-type labels from several annotated batches to an unannotated one: one parameter file in, an annotated
    target and a report out.

    Examples:

    jind-nb init cells.h5ad

    jind-nb validate cells.yaml

    jind-nb run cells.yaml
    """,
)

File = Annotated[Path, typer.Argument(metavar="PARAMETERS", help="YAML file, or JSON as the JIND-Multi program reads.")]

Overrides = Annotated[
    list[str] | None, typer.Option("-s", metavar="NAME=VALUE", help="Override one parameter; repeatable.")
]

OutputPath = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the results (OUTPUT_PATH).")]


def _parameters(file: Path, overrides: list[str] | None, output_path: Path | None) -> Parameters:
    values = dict(parse_override(text) for text in overrides or [])
    if output_path is not None:
        values["OUTPUT_PATH"] = str(output_path)
    return load_parameters(file, values)


def _print_version(asked: bool) -> None:
    if asked:
        out.print(f"jind-nb {version('jind-nb')}", highlight=False)
        raise typer.Exit


@app.callback()
def _all_commands(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    pass


@app.command()
def init(
    data: Annotated[
        list[str], typer.Argument(metavar="H5AD...", help="The data: h5ad files or zarr folders, or addresses of them.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The file to write; default: the data's name with .yaml, here."),
    ] = None,
    s: Annotated[
        list[str] | None,
        typer.Option("-s", metavar="NAME=VALUE", help="A parameter you know already, e.g. the target; repeatable."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
) -> None:
    """Looks at the data and writes a commented parameter file for them.

    Guesses the columns with batches and cell types, lists the batches, and
    proposes target and source. What nothing in the data tells is left to be
    filled in, and said. Nothing is trained.

    Examples:

    jind-nb init cells.h5ad

    jind-nb init cells.h5ad --output mydata.yaml -s TARGET_DATASET_NAME=donor4

    jind-nb init doi:10.5281/zenodo.14000644/pancreas.h5ad
    """
    from .commands.init import PROPOSED, to_fill_in, write

    try:
        started = write(data, output, dict(parse_override(text) for text in s or []), force=force)
    except InputError as error:
        raise InputError(re.sub(r"^PATH\b", "H5AD", str(error))) from None
    import pandas as pd

    proposed = {name: str(value) for name in PROPOSED if (value := started.guess.values[name]) is not None}
    why = [started.guess.why.get(name, "given") for name in proposed]
    index = pd.Index(list(proposed), name="parameter")
    title = f"Written to {plain(str(started.file))}"
    if proposed:
        _table(title, pd.DataFrame({"value": proposed.values(), "why": why}, index))
    else:
        out.print(title, highlight=False, soft_wrap=True)
    if started.to_fill_in:
        out.print(
            "\n".join(
                f"[bold yellow]To fill in:[/bold yellow] {name}: {plain(to_fill_in(name, started.guess))}"
                for name in started.to_fill_in
            ),
            highlight=False,
        )
    out.print(
        f"Look through it, then: jind-nb validate {plain(shlex.quote(str(started.file)))}",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def run(
    file: File,
    s: Overrides = None,
    output_path: OutputPath = None,
    force: Annotated[
        bool, typer.Option("--force", help="Run every stage, also those an earlier run finished.")
    ] = False,
) -> None:
    """All stages for one parameter file: annotates the target and writes the report.

    A run that was interrupted goes on after its last finished stage; one that is done and unchanged is not repeated.

    Examples:

    jind-nb run mydata.yaml

    jind-nb run parameters/demo.yaml -s SEED=1 --output-path runs/seed1

    jind-nb run mydata.yaml -s METHOD=reference --force
    """
    parameters = _parameters(file, s, output_path)
    from .commands.run_process import run_in_terminal

    run_in_terminal(parameters, force=force)


@app.command()
def validate(file: File, s: Overrides = None, output_path: OutputPath = None) -> None:
    """Reads parameters and data and says what would happen; trains and writes nothing.

    Examples:

    jind-nb validate mydata.yaml

    jind-nb validate parameters/demo.yaml -s "TARGET_DATASET_NAME=well 2"
    """
    parameters = _parameters(file, s, output_path)
    from .commands.validate import find, in_short

    found = find(parameters)
    for title, table in found.tables.items():
        _table(title, in_short(table))
    for fact in found.facts:
        out.print(plain(fact), highlight=False)
    for warning in found.warnings:
        out.print(f"[bold yellow]Warning:[/bold yellow] {plain(warning)}", highlight=False)
    for note in found.notes:
        out.print(f"Note: {plain(note)}", highlight=False)
    out.print(f"Results would go to {plain(parameters.OUTPUT_PATH)}", highlight=False, soft_wrap=True)
    given = [part for text in s or [] for part in ("-s", text)]
    given += [] if output_path is None else ["--output-path", str(output_path)]
    again = shlex.join(["jind-nb", "run", str(file), *given])
    out.print(f"It can run: {plain(again)}", highlight=False, soft_wrap=True)


@app.command()
def predict(
    model_dir: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="A run's trained_models folder.")],
    data: Annotated[
        str, typer.Argument(metavar="H5AD", help="The file whose cells to annotate, or its DOI or https address.")
    ],
    output_path: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for the results; default runs/<name of the file>-predicted."),
    ] = None,
    align: Annotated[
        bool, typer.Option("--align", help="Align the new cells with the annotated ones first (takes a minute).")
    ] = False,
    batch_col: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Column of obs with batches, where the file has several; default: it is one."
        ),
    ] = None,
    s: Annotated[
        list[str] | None,
        typer.Option("-s", metavar="NAME=VALUE", help="LAYER, GENE_COL, NORMALISATION or USE_GPU for this file."),
    ] = None,
) -> None:
    """Annotates a new file with a saved model, without training.

    Examples:

    jind-nb predict runs/demo/trained_models new_cells.h5ad

    jind-nb predict runs/demo/trained_models new.h5ad --align --batch-col donor

    jind-nb predict runs/demo/trained_models new_cells.h5ad -s LAYER=counts
    """
    from .commands.predict import predict as annotate
    from .data.h5ad import local_file

    values = dict(parse_override(text) for text in s or [])
    try:
        h5ad = local_file(data)
        output = output_path or Path("runs") / f"{h5ad.stem}-predicted"
        predicted = annotate(model_dir, h5ad, output, align=align, batch_col=batch_col, values=values)
    except InputError as error:  # the parameters that this command's arguments stand for
        told = str(error).replace("PRETRAINED_MODEL_PATH", "MODEL_DIR").replace("OUTPUT_PATH", "--output-path")
        raise InputError(re.sub(r"\bPATH\b", "H5AD", told)) from None
    for note in (*predicted.warnings, *predicted.notes):
        out.print(f"Note: {plain(note)}", highlight=False)
    n, reasons = len(predicted.table), predicted.table["reason"].value_counts()
    assigned, parents = int(reasons.get("confident", 0)), int(reasons.get("parent only", 0))
    with_parents = f"{parents:,} with a parent type only, " if parents else ""
    out.print(
        f"\n[bold]{plain(h5ad.name)}: {assigned:,} of {n:,} cells annotated, {with_parents}{n - assigned - parents:,} "
        "left Unassigned.[/bold]\n"
        f"predictions: {plain(str(predicted.run.predictions_xlsx))}\n"
        f"annotated:   {plain(str(predicted.run.annotated_target))}",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def compare(
    file: File,
    s: Overrides = None,
    output_path: OutputPath = None,
    methods: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="Methods to compare; default: all that can run here.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each method that depends on one, from SEED on.")] = 1,
) -> None:
    r"""The methods side by side on a target whose labels are known, with the usual tools and controls.

    Logistic regression, a linear SVM, kNN after Harmony, CellTypist and scANVI; Harmony and scANVI need
    pip install 'jind-nb\[compare]'. What was measured before with the same input and parameters is not measured again.

    Examples:

    jind-nb compare mydata.yaml

    jind-nb compare parameters/demo.yaml --methods "default,linear SVM" --seeds 3
    """
    parameters = _parameters(file, s, output_path)
    from .commands.compare.measure import METHODS
    from .commands.compare.table import Comparison, run, summary

    chosen = list(METHODS) if methods is None else [name.strip() for name in methods.split(",") if name.strip()]
    this = Comparison(parameters, chosen, seeds)
    try:
        rows = run(this, lambda line: err.print(plain(line), highlight=False, soft_wrap=True))
    except KeyboardInterrupt:  # typer would end without a word
        err.print("Stopped. The same comparison again goes on with what is not measured yet.")
        raise typer.Exit(130) from None
    columns = ["macro_F1", "raw_accuracy", "accuracy_at_90%", "AURC", "seconds", "difference from best"]
    table = summary(rows)[columns].round(3).rename(columns=lambda name: name.replace("_", " "))
    _table(plain(parameters.TARGET_DATASET_NAME), table)
    out.print(f"report: {plain(str(this.file('html')))}", highlight=False, soft_wrap=True)


@app.command()
def sweep(
    files: Annotated[list[Path], typer.Argument(metavar="PARAMETERS...", help="Parameter files, a run for each.")],
    each_target: Annotated[
        bool,
        typer.Option(
            "--each-target",
            help="Of one parameter file: every batch of its input in turn as the target, a run for each.",
        ),
    ] = False,
    cluster: Annotated[
        str,
        typer.Option(
            metavar="WHERE",
            help="local, slurm (needs --slurm), or the address of a running Dask scheduler, tcp://…:8786.",
        ),
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Runs at once; default: here what cores and free memory allow, on Slurm `workers` of the --slurm file.",
        ),
    ] = None,
    slurm: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="YAML file with memory, walltime, queue, … of a Slurm job (docs/runs.md)."),
    ] = None,
    write_slurm_array: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Runs nothing; writes a script for sbatch, one job array (needs --slurm)."),
    ] = None,
    s: Overrides = None,
    output_path: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the summary, index.html and, with --each-target, the runs; default runs/sweep, with "
            "--each-target OUTPUT_PATH/sweep.",
        ),
    ] = None,
) -> None:
    """Many runs: here, on Slurm, or on a running Dask scheduler; a table and a page link their reports.

    A run is a process of its own. One that fails does not stop the others;
    finished and unchanged ones are skipped on the next call; Ctrl-C leaves
    nothing at work. All machines must see the same files.

    Annotated batches that several targets share (targets without any label)
    are trained once in METHOD reference. In METHOD default each run learns
    from them anew, in seconds: the target's cells make its answers better.

    Examples:

    jind-nb sweep first.yaml second.yaml third.yaml

    jind-nb sweep --each-target parameters/demo.yaml --workers 2

    jind-nb sweep --each-target mydata.yaml --cluster slurm --slurm slurm.yaml

    jind-nb sweep *.yaml --cluster tcp://node17:8786

    jind-nb sweep *.yaml --slurm slurm.yaml --write-slurm-array array.sbatch
    """
    from .commands.sweep import sweep as sweeps
    from .commands.sweep.slurm import read_slurm
    from .commands.sweep.summary import DONE
    from .commands.sweep.workers import ADDRESS, LOCAL, SLURM, Cluster

    if each_target and len(files) > 1:
        raise InputError(f"--each-target takes one parameter file; {len(files)} are given.")
    if cluster not in (LOCAL, SLURM) and not ADDRESS.match(cluster):
        raise InputError(
            f"--cluster: found {cluster!r}; it is {LOCAL}, {SLURM} or an address such as tcp://node17:8786."
        )
    if slurm is None and (cluster == SLURM or write_slurm_array is not None):
        raise InputError("--slurm is missing: a YAML file with memory and walltime of a job, and queue where needed.")
    settings = None if slurm is None else read_slurm(slurm)
    if settings is not None and workers is not None:
        settings = settings.model_copy(update={"workers": workers})
    values = dict(parse_override(text) for text in s or [])
    this = (
        sweeps.each_target(files[0], values, output_path)
        if each_target
        else sweeps.of_files(files, values, output_path)
    )
    sweeps.check(this)
    for note in this.notes:
        err.print(f"Note: {plain(note)}", highlight=False, soft_wrap=True)
    if write_slurm_array is not None:
        assert settings is not None
        n = sweeps.array(this, settings, write_slurm_array.absolute())
        said = f"{n} runs: sbatch {write_slurm_array}" if n else "All runs are finished; no script was written."
        out.print(plain(said), highlight=False, soft_wrap=True)
        return
    if cluster == LOCAL:
        n_workers = min(workers or sweeps.default_workers(this), len(this.tasks))
    else:
        n_workers = settings.workers if settings else 1
    on = settings if cluster == SLURM else None
    try:
        rows = sweeps.run(this, Cluster(cluster, n_workers, on, this.files.logs), err)
    except KeyboardInterrupt:  # typer would end without a word
        err.print("Stopped. The same sweep again goes on with what is not finished.")
        raise typer.Exit(130) from None
    _tell_of_sweep(this.files, rows)
    if any(row["status"] not in DONE for row in rows):
        raise typer.Exit(1)


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder of a finished run.")],
) -> None:
    """Renders report.html and report.pdf again from a finished run; runs no notebook.

    The folder may have been moved or copied from another machine; the input is not needed.
    Of a run that failed it renders the page that says so.

    Example:

    jind-nb report runs/mydata
    """
    from .commands.report import report_again

    folder = run_dir.expanduser().resolve()
    try:
        this, pdf_missing = report_again(folder)
    except InputError as error:  # the parameter that this command's argument stands for
        raise InputError(str(error).replace("OUTPUT_PATH", "RUN_DIR")) from None
    if pdf_missing:
        err.print(f"No report.pdf: {plain(pdf_missing)}", highlight=False, soft_wrap=True)
    pdf = f"\n        {this.report_pdf}" if this.report_pdf.exists() else ""
    out.print(f"report: {plain(str(this.report_html))}{plain(pdf)}", highlight=False, soft_wrap=True)


def _tell_of_sweep(files: SweepFolder, rows: list[dict[str, Any]]) -> None:
    """The table of all runs, where the summary is, and why runs are not done."""
    from .commands.sweep.summary import DONE, in_words

    _sweep_table(in_words(rows), rows)
    out.print(f"summary: {plain(str(files.summary_csv))}", highlight=False, soft_wrap=True)
    out.print(f"reports: {plain(str(files.index_html))}", highlight=False, soft_wrap=True)
    for row in rows:
        if row["status"] not in DONE:
            err.print(
                f"{plain(row['run'])}: {plain(row['status'])}: {plain(row['message'])}"
                f" (log: {plain(str(files.folder / (row['log'] or '')))})",
                highlight=False,
                soft_wrap=True,
            )


def _sweep_table(title: str, rows: list[dict[str, Any]]) -> None:
    import pandas as pd

    frame = pd.DataFrame(rows).set_index("run")
    table = frame[["status", "cells"]].astype(object)
    table["cells"] = [f"{value:,.0f}" if pd.notna(value) else "–" for value in frame["cells"]]
    for name in ("assigned", "accuracy", "macro_F1"):
        table[name.replace("_", " ")] = [f"{value:.3f}" if pd.notna(value) else "–" for value in frame[name]]
    table["seconds"] = [f"{value:.0f}" if pd.notna(value) else "–" for value in frame["seconds"]]
    _table(title, table)


@app.command(name="app")
def web_page(
    folder: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of all uploads and runs, which nobody else should read.")
    ] = Path("runs/app"),
    data: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Folder whose files anybody with the token may choose; repeatable."),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Default: 8866, or the next free one.", show_default=False)
    ] = None,
    ip: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0: reachable from everywhere.")] = "127.0.0.1",
    base_url: Annotated[
        str, typer.Option(metavar="PATH", help="Behind a proxy: the path it serves the page at.")
    ] = "/",
    max_upload_gb: Annotated[
        float, typer.Option(min=0, metavar="N", help="Gigabytes each visitor may upload in all; 0: no uploads.")
    ] = 10,
    runs_at_once: Annotated[int, typer.Option(min=1, metavar="N", help="Further runs wait their turn.")] = 1,
    token: Annotated[bool, typer.Option(help="Ask visitors for the token that is in the printed address.")] = True,
) -> None:
    r"""The web page, for people without a terminal: upload or choose a file, check, run, read the report.

    Needs pip install 'jind-nb\[web]'. A run goes on when its page, or this server, is closed.

    Examples:

    jind-nb app

    jind-nb app --data /data/atlases --max-upload-gb 2
    """
    try:
        import ipywidgets  # noqa: F401
        import voila  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"The web page needs {error.name}, which is not installed: pip install 'jind-nb[web]'"
        ) from None
    from .commands.app.server import PORTS_TRIED, serve
    from .commands.app.workspace import Settings

    for one in data or []:
        if not one.is_dir():
            raise InputError(f"--data: there is no folder {one}.")
    settings = Settings(
        root=str(folder.absolute()),
        data=tuple(str(one.resolve()) for one in data or []),
        most_upload_bytes=int(max_upload_gb * 1e9),
        runs_at_once=runs_at_once,
    )
    if ip not in ("127.0.0.1", "localhost", "::1"):
        err.print(
            "[bold yellow]Warning:[/bold yellow] the page can be reached from other machines, and what goes to and fro can be "
            "read on the way: put a proxy with https before it (docs/web.md).",
            soft_wrap=True,
        )
    if folder.exists() and folder.stat().st_mode & 0o077:
        err.print(
            f"[bold yellow]Warning:[/bold yellow] others on this machine may list {plain(str(folder))}, where names are what "
            f"keeps visitors apart: chmod 700 {plain(shlex.quote(str(folder)))}",
            soft_wrap=True,
        )
    if not token:
        err.print(
            "[bold yellow]Warning:[/bold yellow] without a token, anybody who reaches the page can use it.",
            soft_wrap=True,
        )

    def told(address: str) -> None:
        out.print(f"The web page: {plain(address)}\nStop with Ctrl-C; runs go on.", highlight=False, soft_wrap=True)

    ports = tuple(range(8866, 8866 + PORTS_TRIED)) if port is None else (port,)
    serve(settings, ip=ip, ports=ports, base_url=f"/{base_url.strip('/')}/".replace("//", "/"), token=token, told=told)


def _table(title: str, frame: pd.DataFrame) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in (frame.index.name, *frame.columns):
        table.add_column(str(name), overflow="fold")
    for row in frame.itertuples(name=None):
        table.add_row(*(plain(str(value)) for value in row))
    out.print(table)


def main() -> None:
    """The `jind-nb` command: runs the app and turns what went wrong into a message and an exit status."""
    with exit_status():
        app(standalone_mode=True)


if __name__ == "__main__":
    main()
