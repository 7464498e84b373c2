"""The command line: `jind-nb init`, `run`, `validate`, `predict`, `compare`, `sweep`, `report` and `app`.

Exit status: 0 done, 2 the user's input is wrong (one message, no traceback), 1 the program failed.
"""

import shlex
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from .commands.terminal import arguments_named, err, exit_status, out, plain, print_line, print_table, stopped_with
from .core._compat import import_anndata, import_torch_to_annotate, importing, keep_freed_memory
from .core.files import hash_ahead
from .core.parameters import Parameters, load_parameters, parse_override
from .core.text import plural
from .errors import InputError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="""Transfer cell-type labels from annotated batches to a new one. You write one parameter file and get the
    annotated cells and a report.

    Examples:

    jind-nb init cells.h5ad

    jind-nb validate cells.yaml

    jind-nb run cells.yaml
    """,
)

File = Annotated[
    Path, typer.Argument(metavar="PARAMETERS", help="Parameter file: YAML, or JSON as JIND-Multi reads it.")
]

Overrides = Annotated[list[str] | None, typer.Option("-s", metavar="NAME=VALUE", help="Set one parameter; repeatable.")]

OutputPath = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the results (OUTPUT_PATH).")]


def _parameters(file: Path, overrides: list[str] | None, output_path: Path | None) -> Parameters:
    values = dict(parse_override(text) for text in overrides or [])
    if output_path is not None:
        values["OUTPUT_PATH"] = str(output_path)
    return load_parameters(file, values)


def _print_version(is_given: bool) -> None:
    if is_given:
        out.print(f"jind-nb {version('jind-nb')}", highlight=False)
        raise typer.Exit


@app.callback()
def _all_commands(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def init(
    data: Annotated[
        list[str], typer.Argument(metavar="H5AD...", help="The data: h5ad files or zarr folders, or their addresses.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The file to write; default: the data's name with .yaml, in this folder."),
    ] = None,
    s: Annotated[
        list[str] | None,
        typer.Option("-s", metavar="NAME=VALUE", help="A parameter you know already, such as the target; repeatable."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Write a commented parameter file for your data.

    It proposes the columns with batches and cell types, lists the batches,
    and proposes target and source. You fill in what the data do not tell.
    Nothing is trained.

    Examples:

    jind-nb init cells.h5ad

    jind-nb init cells.h5ad --output mydata.yaml -s TARGET_DATASET_NAME=donor4

    jind-nb init doi:10.5281/zenodo.14000644/pancreas.h5ad
    """
    from .commands.init import why_missing, write

    with arguments_named({"^PATH": "H5AD"}):
        written = write(data, output, dict(parse_override(text) for text in s or []), force=force)
    print_table(f"Written to {plain(str(written.file))}", written.proposed_table())
    for name in written.missing:
        print_line(f"[bold yellow]To fill in:[/bold yellow] {name}: {plain(why_missing(name, written.guess))}")
    print_line(f"Check it, then: jind-nb validate {plain(shlex.quote(str(written.file)))}")


@app.command()
def run(
    file: File,
    s: Overrides = None,
    output_path: OutputPath = None,
    force: Annotated[
        bool, typer.Option("--force", help="Run every stage, also those that an earlier run finished.")
    ] = False,
) -> None:
    """Annotate the target and write the report: all stages for one parameter file.

    An interrupted run continues after its last finished stage. A finished run is not repeated if nothing was changed.

    Examples:

    jind-nb run mydata.yaml

    jind-nb run parameters/demo.yaml -s SEED=1 --output-path runs/seed1

    jind-nb run mydata.yaml -s METHOD=reference --force
    """
    from .commands.kernel_process import FOR_A_RUN, waiting_kernel

    with waiting_kernel(FOR_A_RUN) as kernel:
        parameters = _parameters(file, s, output_path)
        from .commands.run_process import run_in_terminal

        run_in_terminal(parameters, kernel, force=force)


@app.command()
def validate(file: File, s: Overrides = None, output_path: OutputPath = None) -> None:
    """Check parameters and data, and say what a run would do. Nothing is trained or written.

    Examples:

    jind-nb validate mydata.yaml

    jind-nb validate parameters/demo.yaml -s "TARGET_DATASET_NAME=well 2"
    """
    parameters = _parameters(file, s, output_path)
    from .commands.validate import shorten
    from .commands.validate import validate as find

    found = find(parameters)
    for title, table in found.tables.items():
        print_table(title, shorten(table))
    labels = (("", found.facts), ("[bold yellow]Warning:[/bold yellow] ", found.warnings), ("Note: ", found.notes))
    for label, sentences in labels:
        for sentence in sentences:
            out.print(f"{label}{plain(sentence)}", highlight=False)
    print_line(f"Results would be written to {plain(parameters.OUTPUT_PATH)}")
    given = [part for text in s or [] for part in ("-s", text)]
    given += [] if output_path is None else ["--output-path", str(output_path)]
    print_line(f"It can run: {plain(shlex.join(['jind-nb', 'run', str(file), *given]))}")


@app.command()
def predict(
    model_dir: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="A run's trained_models folder.")],
    data: Annotated[str, typer.Argument(metavar="H5AD", help="The file to annotate, or its DOI or https address.")],
    output_path: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for the results; default: runs/<name of the file>-predicted."),
    ] = None,
    align: Annotated[
        bool, typer.Option("--align", help="First align the new cells with the annotated cells (takes a minute).")
    ] = False,
    batch_col: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column of obs with the batches; default: the whole file is one batch."),
    ] = None,
    s: Annotated[
        list[str] | None,
        typer.Option(
            "-s", metavar="NAME=VALUE", help="LAYER, GENE_COL, NORMALISATION, TYPES, DOUBLETS or USE_GPU for this file."
        ),
    ] = None,
    xlsx: Annotated[bool, typer.Option("--xlsx", help="Write the workbook also of more than 50,000 cells.")] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Write report.html too, for people (takes some seconds).")
    ] = False,
) -> None:
    """Annotate a new file with a saved model, without training.

    Examples:

    jind-nb predict runs/demo/trained_models new_cells.h5ad --report

    jind-nb predict runs/demo/trained_models new.h5ad --align --batch-col donor

    jind-nb predict runs/demo/trained_models new_cells.h5ad -s LAYER=counts
    """
    keep_freed_memory()
    hash_ahead(Path(data))  # with the core that the imports below, which take longer, leave free
    with importing():
        import_anndata()
        from .data.integrity import rehearse_ahead

        rehearse_ahead(Path(data))
        if not align:
            import_torch_to_annotate()
        from .commands.predict import Options
        from .commands.predict import predict as annotate
        from .commands.progress import last_messages_shown
        from .data.h5ad import local_file

    values = dict(parse_override(text) for text in s or [])
    names = {r"\bPRETRAINED_MODEL_PATH": "MODEL_DIR", r"\bOUTPUT_PATH": "--output-path", r"\bPATH": "H5AD"}
    with arguments_named(names):
        h5ad = local_file(data)
        output = output_path or Path("runs") / f"{h5ad.stem}-predicted"
        with last_messages_shown(err):
            predicted = annotate(model_dir, h5ad, output, Options(align, batch_col, xlsx, report), values)
    for note in (*predicted.warnings, *predicted.notes):
        out.print(f"Note: {plain(note)}", highlight=False)
    print_line(
        f"\n[bold]{plain(h5ad.name)}: {predicted.one_line}[/bold]\n"
        f"{plain(predicted.error_line)}\n"
        f"predictions: {plain(str(predicted.written))}\n"
        f"h5ad:        {plain(str(predicted.run.annotated_target))}"
        + (f"\nreport:      {plain(str(predicted.run.report_html))}" if report else "")
    )


@app.command()
def compare(
    file: File,
    s: Overrides = None,
    output_path: OutputPath = None,
    methods: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="The methods to compare; default: all that can run here.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds, from SEED on, for methods that use one.")] = 1,
) -> None:
    r"""Compare the methods with the usual tools and controls, on a target whose labels are known.

    The tools are logistic regression, a linear SVM, kNN after Harmony, CellTypist and scANVI; Harmony and scANVI need
    pip install 'jind-nb\[compare]'. A method is not measured again with the same input and parameters.

    Examples:

    jind-nb compare mydata.yaml

    jind-nb compare parameters/demo.yaml --methods "default,linear SVM" --seeds 3
    """
    parameters = _parameters(file, s, output_path)
    from .commands.compare.measure import METHODS
    from .commands.compare.table import Comparison, run, short_table

    chosen = list(METHODS) if methods is None else [name.strip() for name in methods.split(",") if name.strip()]
    this = Comparison(parameters, chosen, seeds)
    with stopped_with("The same comparison again continues with what is not measured yet."):
        rows = run(this, lambda line: print_line(plain(line), err))
    print_table(plain(parameters.target), short_table(rows))
    print_line(f"report: {plain(str(this.file('html')))}")


@app.command()
def sweep(
    files: Annotated[list[Path], typer.Argument(metavar="PARAMETERS...", help="Parameter files: one run for each.")],
    each_target: Annotated[
        bool,
        typer.Option("--each-target", help="With one parameter file: a run for each batch of its input as the target."),
    ] = False,
    cluster: Annotated[
        str,
        typer.Option(metavar="WHERE", help="local, slurm (needs --slurm), or a Dask scheduler's address tcp://…:8786."),
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Runs at once; default: as many as cores, free memory or --slurm allow."),
    ] = None,
    slurm: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="YAML file: a Slurm job's memory, walltime, queue and more (docs/runs.md)."),
    ] = None,
    write_slurm_array: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a script for sbatch (one job array) and run nothing; needs --slurm."),
    ] = None,
    s: Overrides = None,
    output_path: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the summary, index.html and, with --each-target, the runs; default: runs/sweep, with "
            "--each-target OUTPUT_PATH/sweep.",
        ),
    ] = None,
) -> None:
    """Do many runs, here, on Slurm or on a Dask scheduler; a table and a page link their reports.

    Each run is a process of its own. If one fails, the others continue. The
    next call skips runs that are finished and unchanged. Ctrl-C ends all of
    them. All machines must see the same files.

    Targets without any label share their annotated batches. METHOD reference
    trains these once for all such targets. METHOD default trains again for
    each, in seconds, because the target's cells improve its predictions.

    Examples:

    jind-nb sweep first.yaml second.yaml third.yaml

    jind-nb sweep --each-target parameters/demo.yaml --workers 2

    jind-nb sweep --each-target mydata.yaml --cluster slurm --slurm slurm.yaml

    jind-nb sweep *.yaml --cluster tcp://node17:8786

    jind-nb sweep *.yaml --slurm slurm.yaml --write-slurm-array array.sbatch
    """
    from .commands.sweep import sweep as sweeps
    from .commands.sweep.slurm import read_slurm
    from .commands.sweep.summary import DONE, in_words, short_table
    from .commands.sweep.workers import check_where

    if each_target and len(files) > 1:
        raise InputError(f"--each-target takes one parameter file; {len(files)} are given.")
    check_where(cluster, needs_slurm=write_slurm_array is not None, has_slurm=slurm is not None)
    settings = None if slurm is None else read_slurm(slurm, workers)
    values = dict(parse_override(text) for text in s or [])
    if each_target:
        this = sweeps.each_target(files[0], values, output_path)
    else:
        this = sweeps.of_files(files, values, output_path)
    sweeps.check(this)
    for note in this.notes:
        print_line(f"Note: {plain(note)}", err)
    if write_slurm_array is not None:
        assert settings is not None
        n = sweeps.write_job_array(this, settings, write_slurm_array.absolute())
        submit = f"{plural(n, 'run')}: sbatch {plain(str(write_slurm_array))}"
        print_line(submit if n else "All runs are finished; no script was written.")
        return
    with stopped_with("The same sweep again continues with the runs that are not finished."):
        rows = sweeps.run(this, sweeps.make_cluster(this, cluster, workers, settings), err)
    print_table(in_words(rows), short_table(rows))
    print_line(f"summary: {plain(str(this.files.summary_csv))}")
    print_line(f"reports: {plain(str(this.files.index_html))}")
    not_done = [row for row in rows if row["status"] not in DONE]
    for row in not_done:
        log = this.files.folder / (row["log"] or "")
        print_line(plain(f"{row['run']}: {row['status']}: {row['message']} (log: {log})"), err)
    if not_done:
        raise typer.Exit(1)


@app.command()
def report(run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder of a finished run.")]) -> None:
    """Render report.html and report.pdf of a finished run again; no notebook is run.

    The folder may have been moved or copied from another machine; the input is not needed.
    For a failed run, the page that says so is rendered.

    Example:

    jind-nb report runs/mydata
    """
    from .commands.report import report_again

    with arguments_named({r"\bOUTPUT_PATH": "RUN_DIR"}):
        this, pdf_missing = report_again(run_dir.expanduser().resolve())
    if pdf_missing:
        print_line(f"No report.pdf: {plain(pdf_missing)}", err)
    pdf = f"\n        {this.report_pdf}" if this.report_pdf.exists() else ""
    print_line(f"report: {plain(str(this.report_html))}{plain(pdf)}")


@app.command(name="app")
def web_page(
    folder: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of all uploads and runs; nobody else should be able to read it.")
    ] = Path("runs/app"),
    data: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Folder whose files everybody with the token may use; repeatable."),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Default: 8866, or the next free port.", show_default=False)
    ] = None,
    ip: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 or :: (IPv6 too): other machines can reach the page.")
    ] = "127.0.0.1",
    base_url: Annotated[
        str, typer.Option(metavar="PATH", help="Behind a proxy: the path at which it serves the page.")
    ] = "/",
    max_upload_gb: Annotated[
        float, typer.Option(min=0, metavar="N", help="Gigabytes that each visitor may upload in total; 0: no uploads.")
    ] = 10,
    runs_at_once: Annotated[
        int, typer.Option(min=1, metavar="N", help="How many runs work at once; the others wait.")
    ] = 1,
    most_pages: Annotated[
        int, typer.Option(min=1, metavar="N", help="How many pages may be open at once, of 100 MB of memory each.")
    ] = 50,
    keep_days: Annotated[
        float,
        typer.Option(min=0, metavar="N", help="Delete uploads and ended runs after so many days; 0: keep them."),
    ] = 0,
    token: Annotated[bool, typer.Option(help="Ask visitors for the token in the printed address.")] = True,
    host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="With --no-token: a name by which a proxy asks for the page; repeatable.",
            show_default=False,
        ),
    ] = None,
) -> None:
    r"""Start the web page, for people without a terminal: choose a file, check it, run, read the report.

    It needs pip install 'jind-nb\[web]'. Runs continue when their page or this server is closed.

    Examples:

    jind-nb app

    jind-nb app --data /data/atlases --max-upload-gb 2
    """
    if lacking := [name for name in ("ipywidgets", "voila") if find_spec(name) is None]:
        raise InputError(f"The web page needs {lacking[0]}, which is not installed: pip install 'jind-nb[web]'")
    from .commands.app.server import PORTS_TRIED, serve
    from .commands.app.workspace import AppSettings

    if missing := [path for path in data or [] if not path.is_dir()]:
        raise InputError(f"--data: there is no folder {missing[0]}.")
    ip = ip.strip("[]")  # of an IPv6 address, as browsers take it
    folders, most_bytes = tuple(path.resolve() for path in data or []), int(max_upload_gb * 1e9)
    settings = AppSettings(folder.absolute(), folders, most_bytes, runs_at_once, most_pages, keep_days, token)
    for warning in settings.warnings(ip):
        print_line(f"[bold yellow]Warning:[/bold yellow] {plain(warning)}", err)

    ports = range(8866, 8866 + PORTS_TRIED) if port is None else (port,)
    serve(settings, ip=ip, ports=ports, base_url=f"/{base_url.strip('/')}/".replace("//", "/"), hosts=host or [])


def main() -> None:
    """Run the `jind-nb` command and end with its exit status."""
    with exit_status():
        app(standalone_mode=True)


if __name__ == "__main__":
    main()
