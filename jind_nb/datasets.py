"""Data to try jind-nb with."""

import anndata as ad

from .core.parameters import BUNDLED
from .data.datasets import bundled_file

__all__ = ["demo"]


def demo() -> ad.AnnData:
    """Return the demo's 700 blood cells, which come with scanpy: 765 genes (log-normalised), 10 cell types in
    `obs["bulk_labels"]`, 8 wells in `obs["well"]`, "well 1" to "well 8".

    >>> demo().obs["well"].nunique()
    8
    """
    return ad.read_h5ad(bundled_file(f"{BUNDLED}pbmc68k_reduced"))
