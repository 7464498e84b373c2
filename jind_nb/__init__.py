"""Cell-type labels from several annotated batches to an unannotated target batch.

import jind_nb as jn

model = jn.annotate(adata, batch_key="donor", labels_key="cell_type", target="donor4")
model.save("my_model")
jn.load_model("my_model").predict(new_adata)
"""

import os
import sys
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

# numba, once at work, sets the threads of OpenMP, and so torch's, to its own number, which is all cores: OMP_NUM_THREADS
# would then mean nothing. Once it is imported it takes another number for a mistake.
if "OMP_NUM_THREADS" in os.environ and "numba" not in sys.modules:
    os.environ.setdefault("NUMBA_NUM_THREADS", os.environ["OMP_NUM_THREADS"])

# torch's products are then the same bit for bit on any number of threads, and a cell's answer with them (Intel's oneMKL
# Developer Guide, "Conditional Numerical Reproducibility"). It is read at the first product of a process.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

from .errors import InputError

if TYPE_CHECKING:
    from . import datasets, pl
    from .api import Model, annotate, load_model

__all__ = ["InputError", "Model", "annotate", "datasets", "load_model", "pl"]


def __getattr__(name: str) -> Any:
    # The command line imports this package too, and should not wait for torch to say what is wrong.
    if name == "__version__":
        return version("jind-nb")
    if name in ("datasets", "pl"):
        return import_module(f".{name}", __name__)
    if name in __all__:
        return getattr(import_module(".api", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
