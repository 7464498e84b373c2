"""`jind-nb report`: the reports of a run, rendered again from its folder alone."""

from pathlib import Path

from .. import report
from ..core import locks
from ..core.files import read_json, write_json
from ..core.parameters import load_parameters
from ..errors import InputError
from ..runs import cache
from ..runs.folder import Run
from .crate import write_crate


def report_again(folder_of_run: Path) -> tuple[Run, str | None]:
    """Render the reports of a run again, or the page that says that it failed; no notebook is run.

    The folder may have been moved, and the input is not read.

    Returns
    -------
    The run, and why there is no PDF, if there is none.

    Raises
    ------
    InputError
        If the folder is not a run's, the run is not finished or at work, or files of it are missing.
    """
    file = folder_of_run / "parameters.yaml"
    if not file.exists():
        raise InputError(
            f"RUN_DIR: {folder_of_run} is not the folder of a run: it has no parameters.yaml. Give the folder that "
            "jind-nb run wrote its results to; jind-nb predict --report makes the report of a prediction."
        )
    this = Run(load_parameters(file, {"OUTPUT_PATH": str(folder_of_run)}), input_matters=False)
    with locks.held(this.folder):
        if not this.manifest.exists() and this.failure_json.exists():
            report.write_failed_html(this)
            return this, "the run failed"
        if not this.manifest.exists():
            raise InputError(f"RUN_DIR: the run in {folder_of_run} is not finished; continue it with {this.goes_on}.")
        try:
            return this, _render(this)
        except (FileNotFoundError, InputError) as error:
            missing = error.filename if isinstance(error, FileNotFoundError) else error
            raise InputError(
                f"RUN_DIR: the report cannot be made without {missing}; {this.goes_on} makes all files again."
            ) from None
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"RUN_DIR: this version of jind-nb cannot read the files of the run in {folder_of_run} ({error}); "
                f"{this.goes_on} makes all files again."
            ) from None


def _render(this: Run) -> str | None:
    """Render a finished run's reports, and record them, so that the same run again does not repeat them."""
    manifest, records = read_json(this.manifest), cache.read_records(this)
    pdf_missing = report.write_pdf(this, report.write_html(this, manifest))
    if records is not None and cache.REPORT in records:
        key = records[cache.REPORT]["key"]
        files = [file for file in (this.report_html, this.report_pdf) if file.exists()]
        records[cache.REPORT] |= cache.stage_record(this, cache.REPORT, key, files, pdf_missing=pdf_missing)
        write_json(this.stages_json, records)
        stages = [stage for stage in (*this.stages, cache.REPORT) if stage in records]
        write_crate(this, manifest, {stage: records[stage] for stage in stages})
    write_json(this.manifest, manifest | {"report_pdf": pdf_missing or "written"})
    return pdf_missing
