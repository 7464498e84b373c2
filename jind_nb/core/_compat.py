"""Private or fragile parts of the libraries in use; each says why. An update that breaks one of them is repaired here.

Every function imports its library itself: some of these belong to an extra or take seconds to import, and a process
that needs one should not wait for the others.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jupyter_client.manager import KernelManager


def import_umap() -> ModuleType:
    """Return the module umap, with its slow functions compiled once for all processes."""
    with warnings.catch_warnings():
        # umap imports tqdm.auto, which asks for ipywidgets; its bars are not used here.
        warnings.filterwarnings("ignore", message="IProgress not found")
        import umap

    # Compiling these takes six seconds in every new process; numba can keep them on disk, but umap does not ask for it.
    umap.umap_.smooth_knn_dist.enable_caching()
    umap.umap_.compute_membership_strengths.enable_caching()
    with suppress(AttributeError):
        umap.layouts._nb_optimize_layout_euclidean_single_epoch.enable_caching()
    return umap


def kernel_manager(**traits: Any) -> KernelManager:
    """Return a Jupyter kernel manager that does not warn about a connection without encryption at every start."""
    from jupyter_client.manager import KernelManager

    KernelManager.transport_encryption = "auto"  # type: ignore[assignment]  # a trait of the class; papermill makes its own
    return KernelManager(**traits)


def kill_kernel(kernel: KernelManager) -> None:
    """Kill a kernel's process at once: after Ctrl-C the event loop that a shutdown needs may be blocked."""
    process = getattr(kernel.provisioner, "process", None)
    if process is not None:
        process.kill()
        process.wait()


def replace_traceback(shell: Any, error: BaseException, lines: Sequence[str]) -> None:
    """Show lines of text as a notebook cell's error: IPython has no public function for it."""
    shell._showtraceback(type(error), error, list(lines))


def in_notebook() -> bool:
    """Return whether this is a notebook's kernel, which IPython tells only by an attribute of its shell."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None


def markdown_to_html() -> Callable[[str], str]:
    """Return a function from a notebook's Markdown to HTML: nbconvert's filter of that name keeps anchor links."""
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    return MarkdownWithMath(renderer=IPythonRenderer(escape=False, exclude_anchor_links=True)).render


def doi_archive(doi: str, timeout: float) -> Any:
    """Return pooch's reader of the archive that a DOI belongs to: the public functions do not tell a file's address."""
    from pooch.downloaders import doi_to_repository

    return doi_to_repository(doi, timeout=timeout, headers=request_headers())


def request_headers() -> dict[str, str]:
    """Return the headers that pooch sends; further ones passed to its downloader would replace them."""
    from pooch.downloaders import REQUESTS_HEADERS

    return dict(REQUESTS_HEADERS)


def is_task_wanted() -> Callable[[], bool]:
    """Return a function that tells whether the Dask task calling this is still wanted.

    Dask forgets a cancelled task, and one whose client is gone, but has no way to tell the task itself.
    """
    from distributed import Status, get_worker
    from distributed.worker import thread_state

    worker, key = get_worker(), thread_state.key

    def is_wanted() -> bool:
        task = worker.state.tasks.get(key)
        return worker.status in (Status.running, Status.paused) and task is not None and task.state != "cancelled"

    return is_wanted


def ignore_dask_logs() -> None:
    """Silence all loggers of Dask's workers and schedulers: each has a level of its own, set at import."""
    import logging

    import distributed  # noqa: F401

    for name in list(logging.root.manager.loggerDict):
        if name.startswith("distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
