"""The data of the demo: real blood cells that come with scanpy, written as an input file."""

from pathlib import Path

import anndata as ad

from ..core.files import whole_file
from ..core.parameters import BUNDLED
from ..errors import InputError
from .download import CACHE, cache_folder


def bundled_file(path: str) -> Path:
    """Return the h5ad file for a PATH such as `scanpy:pbmc68k_reduced`; write it to the user's cache on first use.

    It has 700 blood cells, 765 genes, log-normalised values from `.raw`, 10 cell types in `obs["bulk_labels"]` and 8 wells
    in `obs["well"]`, "well 1" to "well 8": the number after the dash of the barcode.

    Raises
    ------
    InputError
        For any other name, or if the cache folder cannot be written.
    """
    name = path.removeprefix(BUNDLED)
    if name != "pbmc68k_reduced":
        raise InputError(f"PATH: {path} is not known; the bundled data are {BUNDLED}pbmc68k_reduced.")
    file = cache_folder() / f"{name}.h5ad"
    if file.exists():
        return file
    import scanpy as sc  # takes seconds

    full = sc.datasets.pbmc68k_reduced()
    adata = ad.AnnData(full.raw.X, obs=full.obs[["bulk_labels"]].copy(), var=full.raw.var[[]].copy())
    adata.obs["well"] = "well " + adata.obs_names.str.rsplit("-", n=1).str[-1]
    try:
        with whole_file(file) as temporary:
            adata.write_h5ad(temporary, compression="gzip")
    except PermissionError as error:
        raise InputError(
            f"The cache folder {file.parent} cannot be written ({error}); name another in {CACHE}."
        ) from None
    return file
