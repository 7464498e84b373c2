"""The demo's data: real blood cells that scanpy carries, made into an input file."""

from __future__ import annotations

from pathlib import Path

from ..core.files import whole_file
from ..core.parameters import BUNDLED
from ..errors import InputError
from .download import cache_folder


def bundled_file(path: str) -> Path:
    """The h5ad file for a PATH such as `scanpy:pbmc68k_reduced`, written to the user's cache on first use.

    700 blood cells of 8 wells (told apart by the number after the barcode's dash; `obs["well"]`: "well 1" to "well 8"), 765 genes, log-normalised
    values from `.raw`, 10 cell types in `obs["bulk_labels"]`.

    Raises
    ------
    InputError
        For any other name.
    """
    name = path.removeprefix(BUNDLED)
    if name != "pbmc68k_reduced":
        raise InputError(f"PATH: {path} is not known; the bundled set is {BUNDLED}pbmc68k_reduced.")
    file = cache_folder() / f"{name}.h5ad"
    if not file.exists():
        _write_demo(file)
    return file


def _write_demo(file: Path) -> None:
    import anndata as ad
    import scanpy as sc

    full = sc.datasets.pbmc68k_reduced()
    adata = ad.AnnData(full.raw.X, obs=full.obs[["bulk_labels"]].copy(), var=full.raw.var[[]].copy())
    adata.obs["well"] = "well " + adata.obs_names.str.rsplit("-", n=1).str[-1]
    with whole_file(file) as temporary:
        adata.write_h5ad(temporary, compression="gzip")
