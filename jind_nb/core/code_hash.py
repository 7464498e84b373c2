"""A hash of our own code and the versions it stands on: results of other code are never reused."""

import hashlib
import json
import sys
from importlib.metadata import version
from typing import Any

from .files import sha256
from .resources import PACKAGE

# What manifest.json tells the versions of; another version of one, and nothing is reused.
PACKAGES = (
    "jind-nb", "anndata", "captum", "igraph", "numpy", "pandas", "papermill", "scanpy", "scikit-learn", "scipy", "torch",
    "umap-learn",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Return the version of Python and of each package that results depend on."""
    return {"python": sys.version.split()[0]} | {name: version(name) for name in PACKAGES}


def code_hash() -> str:
    """Return a hash of every module and template of the package, in all its folders, and of `versions`."""
    sources = sorted([*PACKAGE.rglob("*.py"), *(PACKAGE / "templates").glob("*")])
    return json_hash([{file.relative_to(PACKAGE).as_posix(): sha256(file) for file in sources}, versions()])


def json_hash(value: Any) -> str:
    """Return the SHA-256 of a value written as JSON.

    >>> json_hash([1])[:8]
    '080a9ed4'
    """
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
