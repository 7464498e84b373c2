"""`jind-nb run` as a process, which the web page starts; a sweep starts `sweep.process`.

python -m jind_nb.commands.run_process PARAMETERS
"""

import sys

from .. import report
from ..core.parameters import Parameters, load_parameters
from .kernel_process import FOR_A_RUN, WaitingKernel, waiting_kernel
from .run import run
from .terminal import err, exit_status, plain, print_line, stopped_with


def run_in_terminal(parameters: Parameters, waiting: WaitingKernel, *, force: bool = False) -> None:
    """Run all stages, then print the result in one line and where report and predictions are.

    Ctrl-C ends the process with status 130 and a sentence on how to go on.
    """
    with stopped_with("The same run again continues after the last finished stage."):
        this = run(parameters, waiting, err, force=force)
    pdf = f"\n             {this.report_pdf}" if this.report_pdf.exists() else ""
    print_line(
        f"\n[bold]{plain(report.one_line(this))}[/bold]\n"
        f"report:      {plain(str(this.report_html))}{plain(pdf)}\n"
        f"predictions: {plain(str(this.predictions_xlsx))}"
    )


if __name__ == "__main__":
    with exit_status(), waiting_kernel(FOR_A_RUN) as kernel:
        run_in_terminal(load_parameters(sys.argv[1]), kernel)
