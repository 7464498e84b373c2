"""Damaged and hostile files: what is checked before anything of a file is trusted.

Some damaged files make the HDF5 library hang or crash, so a file is first read in a child process. A file may not link
to other files, nor declare more values than it can hold.
"""

import faulthandler
import json
import math
import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import anndata as ad
import h5py
import zarr

from ..core.files import is_disk_full, signature
from ..errors import InputError

with suppress(ImportError):
    import hdf5plugin  # noqa: F401  # an extra: it brings HDF5 the filters of FILTERS

Store: TypeAlias = h5py.File | zarr.Group  # an open file

# Deflate shrinks at most a thousandfold: a file that declares more than this was damaged, or made to fill the memory.
DECLARED_PER_BYTE, SMALL = 2000, 2**28

WRITE_ALL = "write the file again with everything in it."

DAMAGED = "it is damaged: copy or write it again."

MOST_NESTED = 100

# HDF5's numbers of the filters that hdf5plugin brings.
FILTERS = {
    32001: "Blosc", 32004: "LZ4", 32008: "Bitshuffle", 32013: "ZFP", 32015: "Zstandard", 32017: "SZ", 32018: "FCIDECOMP",
    32022: "SPERR", 32024: "SZ3", 32026: "Blosc2", 307: "BZip2",
}  # fmt: skip

# Where zarr, in versions 2 and 3, says how arrays are stored.
ZARR_DESCRIPTIONS = {".zarray", ".zmetadata", "zarr.json"}

# What the rehearsal may take: seconds, and bytes it reads in a second.
SECONDS, BYTES_PER_SECOND = 20, 5e6

SMALL_ENOUGH_TO_READ = 2**20

# The files that passed, as inode, size and time: the kernels of a run need not repeat the rehearsal, which would double
# the memory that they seem to hold while they are forked.
REHEARSED = "JIND_NB_REHEARSED"

_begun: dict[str, int] = {}  # `signature` -> the child process of `rehearse_ahead`


def check_links(folder: Path) -> None:
    """Check that every part of a zarr folder is in it.

    Raises
    ------
    InputError
        If a part is a link to somewhere else, which could be any file of the reader's, or no file at all.
    """
    home = folder.resolve()
    for above, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(above) / name
            if path.is_symlink() and home not in Path(os.path.realpath(path)).parents:
                raise InputError(f"PATH: {path} is a link to another place, which is not followed: {WRITE_ALL}")
            if not (path.is_file() or path.is_dir()):  # a pipe, from which reading waits for ever
                raise InputError(f"PATH: {path} is neither a file nor a folder: {WRITE_ALL}")


def check_codecs(folder: Path) -> None:
    """Check that no array of a zarr folder is read by unpickling, which executes what the file holds.

    zarr knows that codec (numcodecs' `pickle`), and refuses it today only because its arrays are of another kind.

    Raises
    ------
    InputError
        If one is.
    """
    for above, _, names in os.walk(folder):
        for name in ZARR_DESCRIPTIONS.intersection(names):
            described = None
            with suppress(ValueError, RecursionError):  # damage, which zarr tells
                described = json.loads((Path(above) / name).read_bytes())
            if _names_pickle(described):
                raise InputError(
                    f"PATH: {folder} cannot be read ({Path(above).relative_to(folder)} has the codec pickle, which executes "
                    "what is in it): write the file again with another compressor."
                )


def _names_pickle(described: Any) -> bool:
    """Return whether a part of a description, but no attribute, names a codec that unpickles."""
    parts = [described]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            codec = part.get("id", part.get("name"))
            if isinstance(codec, str) and codec.rpartition(".")[2].lower() == "pickle":
                return True
            parts += [value for key, value in part.items() if key != "attributes" and not key.endswith(".zattrs")]
        elif isinstance(part, list):
            parts += part
    return False


@contextmanager
def reading(what: str | Path, how: str = "read") -> Iterator[None]:
    """Turn what goes wrong while something is read into one InputError; a full disk stays an OSError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # damage and foreign encodings fail inside anndata, h5py and zarr in many ways
        if is_disk_full(error):
            raise
        raise InputError(f"PATH: {what} cannot be {how}: {error}") from None


def path_of(store: Any) -> str:
    """Return the path of an open file, for messages."""
    return str(store.filename if isinstance(store, h5py.File) else store.store.root)


def rehearse_ahead(file: Path) -> None:
    """Begin to rehearse a file, with a core that is free; `rehearse` waits for the end, unless the file has changed meanwhile."""
    with suppress(OSError, ValueError):  # whoever reads the file tells what is wrong with it
        if file.is_file() and hasattr(os, "fork"):
            _begun[signature(file)] = _begin_to_rehearse(file)


def rehearse(file: Path) -> None:
    """Read the file's structure and tables once, in a child process.

    Raises
    ------
    InputError
        If the HDF5 library does not finish, or crashes, as it does on some damaged files.
    """
    if signature(file) in os.environ.get(REHEARSED, "").split() or not hasattr(os, "fork"):
        return
    child = _begun.pop(signature(file), None) or _begin_to_rehearse(file)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        what = "does not finish" if os.WTERMSIG(status) == signal.SIGALRM else "fails on it"
        raise InputError(f"PATH: {file} cannot be read (the HDF5 library {what}); {DAMAGED}")
    mark_as_undamaged(file)


def _begin_to_rehearse(file: Path) -> int:
    """Return the number of the child process, which ends itself after a while, whatever its parent does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which the child does not touch
        child = os.fork()
    if child == 0:
        with suppress(BaseException):
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # not Python's, which would wait for the HDF5 library
            signal.setitimer(signal.ITIMER_REAL, SECONDS + file.stat().st_size / BYTES_PER_SECOND)
            faulthandler.disable()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where a dying library complains
            _read_once(file)
        os._exit(0)
    return child


def mark_as_undamaged(file: Path) -> None:
    """Note that a file needs no rehearsal: it passed before, or was just written by ourselves."""
    os.environ[REHEARSED] = f"{os.environ.get(REHEARSED, '')} {signature(file)}".strip()


def _read_once(file: Path) -> None:
    """Read everything of a file except large values; ignore errors, which the parent process finds again."""

    def read_item(name: str, item: Any) -> None:
        with suppress(Exception):
            dict(item.attrs)
        with suppress(Exception):
            if isinstance(item, h5py.Dataset) and not item.external and not item.is_virtual and item.shape is not None:
                declared = math.prod(item.shape) * item.dtype.itemsize
                if declared <= max(SMALL_ENOUGH_TO_READ, file.stat().st_size * DECLARED_PER_BYTE):
                    item[() if declared <= SMALL_ENOUGH_TO_READ else slice(0, 1)]
                if item.chunks:
                    item.id.get_num_chunks()

    with h5py.File(file, "r") as h5:
        check_structure(h5, file.stat().st_size)
        h5.visititems(read_item)
        for table in ("obs", "var", "raw/var"):
            with suppress(Exception):
                ad.io.read_elem(h5[table])


def check_structure(store: Store, n_bytes: int) -> None:
    """Check that a file holds all its values itself, and is not made to fill the memory.

    Raises
    ------
    InputError
        If a part is in another file, which could be any file of the reader's, or declares values it cannot hold.
    """
    groups, seen = [(store["/"] if isinstance(store, h5py.File) else store, "", 0)], set()
    while groups:
        group, above, depth = groups.pop()
        for key in group:
            name = f"{above}{decoded(key)}"
            what = f"{name} of {path_of(store)}"
            address: object = name
            if isinstance(group, h5py.Group):
                link = group.id.links.get_info(key if isinstance(key, bytes) else key.encode()).type
                if link == h5py.h5l.TYPE_EXTERNAL:
                    raise InputError(f"PATH: {what} is a link to another file, which is not followed: {WRITE_ALL}")
                if link != h5py.h5l.TYPE_HARD:  # a second name within this file
                    continue
                address = h5py.h5o.get_info(group[key].id).addr
            item = group[key]
            if is_array(item):
                _check_dataset(item, what, n_bytes)
            elif is_group(item) and address not in seen:
                if depth == MOST_NESTED:
                    where = f"{above[:50]}… of {path_of(store)}"
                    raise InputError(f"PATH: {where} is nested more than {depth} deep; write it flatter.")
                groups.append((item, f"{name}/", depth + 1))
            seen.add(address)


def _check_dataset(stored: h5py.Dataset | zarr.Array, what: str, n_bytes: int) -> None:
    if isinstance(stored, h5py.Dataset) and (stored.external or stored.is_virtual):
        raise InputError(f"PATH: {what} is kept in another file, which is not read: {WRITE_ALL}")
    _check_filters(stored, what)
    declared = math.prod(stored.shape) * stored.dtype.itemsize
    if declared > max(SMALL, DECLARED_PER_BYTE * n_bytes):
        shape = " x ".join(map(str, stored.shape))
        raise InputError(f"PATH: {what} declares {shape} values, which {n_bytes:,} bytes cannot hold; {DAMAGED}")


def _check_filters(stored: h5py.Dataset | zarr.Array, what: str) -> None:
    """Raise InputError if a dataset is compressed in a way that this HDF5 library does not have."""
    if not isinstance(stored, h5py.Dataset) or not stored.chunks:
        return
    made_with = stored.id.get_create_plist()
    for code in (made_with.get_filter(i)[0] for i in range(made_with.get_nfilters())):
        if not h5py.h5z.filter_avail(code):
            name = FILTERS.get(code, "a filter")
            advice = "install it (pip install hdf5plugin)" if code in FILTERS else "install the plugin that has it"
            raise InputError(
                f"PATH: {what} is compressed with {name} (HDF5 filter {code}), which the package hdf5plugin reads: {advice}, "
                "or write the file again with adata.write_h5ad(…, compression='gzip')."
            )


def is_array(item: Any) -> bool:
    """Return whether a part of a file is an array, not a group."""
    return getattr(item, "shape", None) is not None


def is_group(item: Any) -> bool:
    """Return whether a part of a file is a group; a stored null is neither a group nor an array."""
    return hasattr(item, "keys")


def decoded(stored: str | bytes) -> str:
    """Return the name of a part of a file as text."""
    return stored if isinstance(stored, str) else stored.decode("utf-8", "replace")
