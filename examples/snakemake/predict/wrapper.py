"""Snakemake wrapper around `jind-nb predict`: a saved model and an h5ad file in, the folder of results out."""

from pathlib import Path

from snakemake.shell import shell

model, cells = snakemake.input.model, snakemake.input.cells  # noqa: F821
folder = Path(snakemake.output.manifest).parent  # noqa: F821
extra, log = snakemake.params.get("extra", ""), snakemake.log_fmt_shell(stdout=True, stderr=True)  # noqa: F821
shell("OMP_NUM_THREADS={snakemake.threads} jind-nb predict {model:q} {cells:q} --output-path {folder:q} {extra} {log}")
