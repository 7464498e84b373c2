"""Snakemake wrapper around `jind-nb run`: a parameter file in, the folder of results out."""

from pathlib import Path

from snakemake.shell import shell

parameters, folder = snakemake.input.parameters, Path(snakemake.output.manifest).parent  # noqa: F821
extra, log = snakemake.params.get("extra", ""), snakemake.log_fmt_shell(stdout=True, stderr=True)  # noqa: F821
shell("OMP_NUM_THREADS={snakemake.threads} jind-nb run {parameters:q} --output-path {folder:q} {extra} {log}")
