"""The Slurm settings of a sweep (a small YAML file), and the script of a job array."""

import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import yaml
from dask.utils import parse_bytes
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from ...core.files import write_text
from ...core.resources import text_templates
from ...errors import InputError


def _bytes(text: str) -> str:
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
    try:
        return SlurmSettings.model_validate(values | ({} if workers is None else {"workers": workers}))
    except ValidationError as error:
        raise InputError("\n".join(f"--slurm: {file}: {_in_words(wrong)}" for wrong in error.errors())) from None


def _in_words(problem: ErrorDetails) -> str:
    name = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"there is no setting {name}; known are {', '.join(SlurmSettings.model_fields)}."
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
    names = {"python": shlex.quote(sys.executable), "logs": shlex.quote(str(logs)), "threads": THREADS}
    commands = [shlex.join(map(str, of_job)) for of_job in jobs]
    text = text_templates().get_template("array.sbatch.j2").render(settings=settings, jobs=commands, **names)
    try:
        write_text(file, text)
    except OSError as error:
        raise InputError(f"--write-slurm-array: {file} cannot be written: {error.strerror or error}.") from None


# The variables by which the libraries under numpy, torch and scikit-learn set their threads.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
