"""Private or fragile parts of the libraries in use; each says why. An update that breaks one of them is repaired here.

Every function imports its library itself: some of these belong to an extra or take seconds to import, and a process
that needs one should not wait for the others.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from queue import Empty
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jupyter_client.asynchronous import AsyncKernelClient
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import KernelManager
    from torch import Tensor


OBJECTS_BETWEEN_GARBAGE = 10_000  # Python's own number is 700

_is_ours = False  # whether nobody but this package works in the process


def this_process_is_ours() -> None:
    """Let later imports leave out what takes seconds and nothing here uses; not for a process in which a user works.

    - Python looks for garbage after each 700 new objects, and an import makes hundreds of thousands that stay.
    - jsonschema, by which notebooks are read, asks rfc3987_syntax for a grammar of internationalised addresses: two CPU seconds.
    - umap imports pynndescent, which compiles itself: 24 CPU seconds in a new environment (`import_umap`).
    """
    global _is_ours
    _is_ours = True
    gc.set_threshold(OBJECTS_BETWEEN_GARBAGE, *gc.get_threshold()[1:])
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # what Python takes for "cannot be imported"


@contextmanager
def importing() -> Iterator[None]:
    """Let Python look for no garbage while modules are imported, nor in them later: what they make stays. It takes a tenth of the time of
    their import."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def keep_freed_memory() -> None:
    """Let the C library give out freed memory again, where it is glibc, instead of handing each large array's back to the system.

    The system would clear it for the next array, and a virtual machine would have to ask its host for it: a second of the eighteen
    that `predict` took for 300,000 cells. All threads share one store of it, or each would keep its own.
    """
    trim_threshold, mmap_max, arena_max = -1, -4, -8  # as malloc.h numbers them
    with suppress(AttributeError, OSError, TypeError):  # another C library, or another system
        mallopt = ctypes.CDLL(None).mallopt
        for what, value in ((mmap_max, 0), (trim_threshold, 2**31 - 1), (arena_max, 1)):
            mallopt(what, value)


def is_process_ours() -> bool:
    """Return whether nobody but this package works in the process."""
    return _is_ours


def import_anndata() -> None:
    """Import anndata: in a process of our own without dask.array, which only its lazy arrays need, a third of a second sooner."""
    if not _is_ours or {"anndata", "dask"} & set(sys.modules):
        return
    sys.modules["dask"] = None  # type: ignore[assignment]  # anndata then takes Dask for not installed
    try:
        import_module("anndata")
    finally:
        del sys.modules["dask"]


def import_torch_to_annotate() -> None:
    """Import torch for a process that trains nothing: if it is our own, without the shapes of tensors that have no values, which only
    torch's compiler and its optimizers ask for, a quarter of a second sooner."""
    shapes = "torch._meta_registrations"
    if not _is_ours or "torch" in sys.modules:
        return
    sys.modules[shapes] = ModuleType(shapes)
    try:
        import_module("torch")
    finally:
        del sys.modules[shapes]


def import_umap() -> ModuleType:
    """Return the module umap, with its slow functions compiled once for all processes."""
    if _is_ours and "pynndescent" not in sys.modules:
        from numba.core import config

        config.DISABLE_JIT = 1  # type: ignore[attr-defined]  # its functions would work, slowly; neighbours are found without them
        try:
            import_module("pynndescent")
        finally:
            config.DISABLE_JIT = 0  # type: ignore[attr-defined]
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


def multiplies_whole_numbers() -> bool:
    """Return whether this processor multiplies matrices of whole numbers (`product_of_whole_numbers`) faster than others, and
    exactly: some without these instructions lose the largest sums."""
    import torch

    has = torch.cpu.get_capabilities()
    return torch.backends.mkldnn.is_available() and bool(has.get("avx512_vnni") or has.get("avx_vnni"))


def product_of_whole_numbers(a: Tensor, b: Tensor) -> Tensor:
    """Return the product, int32 (n, m), of matrices of int8 (n, d) and (d, m). torch has no public function for it, and this one
    is wrong of a single column."""
    import torch

    product: Tensor = torch._int_mm(a, b) if a.shape[1] > 1 else a.to(torch.int32) * b
    return product


def own_kernel_spec(provisioner: str = "local-provisioner") -> KernelSpec:
    """Return how a kernel of this Python is started; no kernel that the user has installed under a name is looked for."""
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec

    described = get_kernel_dict(python_arguments=["-P"])
    # Whatever the user has chosen for their own kernels.
    described["metadata"] |= {"kernel_provisioner": {"provisioner_name": provisioner}}
    return KernelSpec(resource_dir="", **described)


def kernel_manager(**traits: Any) -> KernelManager:
    """Return a Jupyter kernel manager of `own_kernel_spec` that does not warn about a connection without encryption at every
    start, and whose clients let nbclient look meanwhile whether the kernel still lives: a blocking one waits for ever."""
    from jupyter_client.manager import KernelManager

    KernelManager.transport_encryption = "auto"  # type: ignore[assignment]  # a trait of the class; papermill makes its own
    manager = KernelManager(client_factory=_quick_client(), **traits)
    manager._kernel_spec = own_kernel_spec("jind-nb")  # where it keeps what it has found by name
    return manager


def _quick_client() -> type[AsyncKernelClient]:
    """Return Jupyter's client, which is ready when the kernel answers: its own then listens for a fifth of a second to what
    nobody says, before each notebook. nbclient leaves out what is no answer to its own questions."""
    from jupyter_client.asynchronous import AsyncKernelClient

    class QuickClient(AsyncKernelClient):
        async def wait_for_ready(self, timeout: float | None = None) -> None:
            end = time.monotonic() + (timeout or float("inf"))
            while time.monotonic() < end:
                self.kernel_info()
                with suppress(Empty):
                    answer = await self.get_shell_msg(timeout=1)
                    await self.get_iopub_msg(timeout=0.2)  # so that what cells show will arrive too
                    self._handle_kernel_info_reply(answer)
                    return
                if not await self.is_alive():
                    break
            raise RuntimeError("Kernel died before replying to kernel_info")  # Jupyter's words

    return QuickClient


def own_kernels_only() -> type[KernelSpecManager]:
    """Return a class of Jupyter's that knows `own_kernel_spec`, under any name, and no kernel that the user has installed."""
    from jupyter_client.kernelspec import KernelSpecManager

    class OwnKernelOnly(KernelSpecManager):
        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            return own_kernel_spec()

        def find_kernel_specs(self) -> dict[str, str]:
            return {"python3": ""}

        def get_all_specs(self) -> dict[str, Any]:
            return {"python3": {"resource_dir": "", "spec": own_kernel_spec().to_dict()}}

    return OwnKernelOnly


def answer_addresses_by_name() -> None:
    """Let Jupyter's handlers look for an address in `local_hostnames` too, where they look for names only."""
    from urllib.parse import urlsplit

    from jupyter_server.base.handlers import JupyterHandler

    of_jupyter = JupyterHandler.check_host

    def check_host(handler: JupyterHandler) -> bool:
        with suppress(ValueError):  # half a bracket
            if urlsplit(f"//{handler.request.host}").hostname in handler.settings["local_hostnames"]:
                return True
        return bool(of_jupyter(handler))

    JupyterHandler.check_host = check_host  # type: ignore[method-assign, assignment]


def n_kernels(manager: Any) -> int:
    """Return how many kernels a server's manager has, with those that are about to start, which it does not list."""
    return len({*manager.list_kernel_ids(), *manager._pending_kernels})


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
