"""The Slurm settings of a sweep (a small YAML file), and the script of a job array."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from ...core.files import whole_file
from ...errors import InputError


def _bytes(text: str) -> str:
    from dask.utils import parse_bytes

    try:
        parse_bytes(text)
    except ValueError:
        raise ValueError("must be an amount such as 8 GB") from None
    return text


def _one_line(text: str) -> str:
    if "\n" in text:
        raise ValueError("must be one line")
    return text


Line = Annotated[str, AfterValidator(_one_line), Field(min_length=1)]

# Empty in the file: Slurm's own default.
MaybeLine = Annotated[Line | None, BeforeValidator(lambda text: text or None)]

Lines = Annotated[list[Line], BeforeValidator(lambda lines: lines or [])]


class SlurmSettings(BaseModel):
    """The settings of a Slurm job, which does one run at a time."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    memory: Annotated[Line, AfterValidator(_bytes)] = Field(description="memory of a job, say 8 GB")
    walltime: Annotated[Line, Field(pattern=r"^(\d+-)?\d+(:\d+){0,2}$")] = Field(
        description="longest time of a job, say 04:00:00; a run that takes longer continues in another job"
    )
    queue: MaybeLine = Field(None, description="partition")
    account: MaybeLine = Field(None, description="account to charge")
    cores: int = Field(1, ge=1, description="cores of a job")
    workers: int = Field(10, ge=1, description="at most so many jobs at once")
    interface: MaybeLine = Field(None, description="network interface the jobs reach this machine by, say ib0")
    job_extra_directives: Lines = Field([], description="further options of sbatch, say --gres=gpu:1")
    job_script_prologue: Lines = Field([], description="shell lines before the work, say module load cuda")

    @property
    def megabytes(self) -> str:
        """The memory in the form that sbatch reads."""
        from dask.utils import parse_bytes

        return f"{math.ceil(parse_bytes(self.memory) / 2**20)}M"


def read_slurm(file: Path, workers: int | None = None) -> SlurmSettings:
    """Return the settings in a YAML file, with the number of workers that the user gave.

    Raises
    ------
    InputError
        If it cannot be read, or holds something unknown or wrong.
    """
    try:
        # All values as text: YAML reads 12:00:00 as a number of seconds.
        values = yaml.load(file.read_text("utf-8"), Loader=yaml.BaseLoader)
    except FileNotFoundError:
        raise InputError(f"--slurm: there is no file {file}.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--slurm: {file} cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"--slurm: {file} must hold names and values, one `name: value` a line.")
    known = ", ".join(SlurmSettings.model_fields)
    try:
        return SlurmSettings.model_validate(values | ({} if workers is None else {"workers": workers}))
    except ValidationError as error:
        raise InputError(
            "\n".join(f"--slurm: {file}: {_in_words(problem, known)}" for problem in error.errors())
        ) from None


def _in_words(problem: ErrorDetails, known: str) -> str:
    name = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"there is no setting {name}; known are {known}."
    if problem["type"] == "missing":
        return f"{name} is missing: {SlurmSettings.model_fields[name].description}."
    if problem["type"] == "string_pattern_mismatch":
        return f"{name}: found {problem['input']!r}; must be a time such as 04:00:00."
    return f"{name}: found {problem['input']!r}; {problem['msg'].removeprefix('Value error, ')}."


def write_array(file: Path, jobs: Sequence[Sequence[Path]], settings: SlurmSettings, logs: Path) -> None:
    """Write an sbatch script that does the runs as one job array.

    Parameters
    ----------
    jobs
        For each job of the array its parameter files, done one after the other.
    logs
        The folder of the jobs' logs; it exists.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    directives = [
        "--job-name=jind-nb",
        f"--array=0-{len(jobs) - 1}%{settings.workers}",
        f"--cpus-per-task={settings.cores}",
        f"--mem={settings.megabytes}",
        f"--time={settings.walltime}",
        "--output=/dev/null",  # the log's name may have a space, which a directive cannot have
        *([f"--partition={settings.queue}"] if settings.queue else []),
        *([f"--account={settings.account}"] if settings.account else []),
        *settings.job_extra_directives,
    ]
    cases = [
        f"  {i}) runs=({' '.join(shlex.quote(str(parameters)) for parameters in of_job)}) ;;"
        for i, of_job in enumerate(jobs)
    ]
    lines = [
        "#!/bin/bash",
        "# Written by jind-nb sweep --write-slurm-array. Submit it with sbatch; afterwards the same sweep command without",
        "# --write-slurm-array finds the finished runs and writes the summary.",
        *(f"#SBATCH {directive}" for directive in directives),
        f"exec > {shlex.quote(str(logs))}/slurm-${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}.log 2>&1",
        *settings.job_script_prologue,
        *(f"export {name}={settings.cores}" for name in THREADS),
        "export TQDM_DISABLE=1",
        'case "$SLURM_ARRAY_TASK_ID" in',
        *cases,
        "esac",
        "status=0",
        'for parameters in "${runs[@]}"; do',
        f'  {shlex.quote(sys.executable)} -m jind_nb.cli run "$parameters" || status=$?',
        "done",
        "exit $status",
    ]
    try:
        with whole_file(file) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"--write-slurm-array: {file} cannot be written: {error.strerror or error}.") from None


# The variables by which the libraries under numpy, torch and scikit-learn set their threads.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
