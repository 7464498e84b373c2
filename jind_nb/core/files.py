"""Files and their names: written whole or not at all, JSON, YAML, hashes."""

import errno
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from .limits import file_size_limit
from .locks import OURS

FULL = 65_536  # bytes free: below, a failed write is taken for a full disk, which torch and h5py do not always say

PIECE = 2**25  # bytes hashed or copied at once: after each, a thread waits until another one lets it go on

_begun: dict[str, Future[str]] = {}  # `signature` -> what `hash_ahead` finds

LONGEST_NAME = 80  # characters; two names fit into a file name


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; rename it to `path` only if all went well.

    Raises
    ------
    OSError
        With the file's name if the disk is full, whatever error the writing library raised.
    """
    # The kernels of a run do not make its folder: one that was removed meanwhile must not come back in part.
    path.parent.mkdir(parents=OURS not in os.environ, exist_ok=True)
    temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}.part")
    try:
        yield temporary
        temporary.replace(path)
    except Exception as error:
        if isinstance(error, OSError) and is_disk_full(error):
            raise disk_full(path, errno.EFBIG if error.errno == errno.EFBIG else errno.ENOSPC) from error
        if path.parent.exists() and shutil.disk_usage(path.parent).free < FULL:
            raise disk_full(path) from error
        limit = file_size_limit()
        if limit is not None and temporary.is_file() and temporary.stat().st_size > limit - FULL:
            raise disk_full(path, errno.EFBIG) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def copy_until(stop: threading.Event, file: Path, to: Path) -> None:
    """Copy a file, piece by piece; stop half-way if another thread says so. Where the disk can, both files share what they hold."""
    with file.open("rb", buffering=0) as source, to.open("wb") as copy:
        if hasattr(os, "copy_file_range"):  # on Linux
            with suppress(OSError):  # of disks that cannot; whatever else is wrong is told below
                while not stop.is_set() and os.copy_file_range(source.fileno(), copy.fileno(), PIECE):
                    pass
        while not stop.is_set() and copy.write(source.read(PIECE)):
            pass


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


class InFolder:
    """A file or folder of known name in the `folder` of an object; each object has it as a path.

    >>> class Results:
    ...     folder = Path("runs/first")
    ...     table = InFolder("table.csv")
    >>> Results().table.as_posix()
    'runs/first/table.csv'
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, owner: Any, _: type) -> Path:
        return Path(owner.folder, self.name)


def disk_full(file: Path | str, number: int = errno.ENOSPC) -> OSError:
    """Return the error that says that a file could not be written because the disk is full, or the file too large."""
    return OSError(number, os.strerror(number), str(file))


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error means that the disk, or the user's share of it, is full, or that a file may not be larger."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def why_not_written(error: OSError) -> str:
    """Return in words why a file could not be written, for an error of `is_disk_full`."""
    if error.errno == errno.EFBIG:
        limit = file_size_limit()
        most = "" if limit is None else f" of {limit / 1e6:,.1f} MB"
        return f"The limit of a file's size{most} (ulimit -f) is reached"
    return "The disk is full"


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON (no NaN), indented, in UTF-8."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))


def read_json(path: Path) -> Any:
    """Return the content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def file_name(batch: str, safe: str = "") -> str:
    """Return a batch's name as part of a file name: percent-encoded; a long name is cut and ends in a hash.

    >>> file_name("donor 1/2")
    'donor%201%2F2'
    """
    name = quote(batch, safe=safe)
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}~{hashlib.sha256(batch.encode()).hexdigest()[:12]}"


def file_names(batches: Iterable[str]) -> dict[str, str]:
    """Return a name for each batch's file or folder, different also on a disk that does not tell `A` from `a`."""
    names: dict[str, str] = {}
    for batch in batches:
        taken = {name.casefold() for name in names.values()}
        name = file_name(batch)
        while name.casefold() in taken:
            name += "~"
        names[batch] = name
    return names


def sha256(file: Path) -> str:
    """Return a file's SHA-256 in hexadecimal; a folder's is the hash of the names and hashes of all files in it."""
    if file.is_dir():
        parts = sorted(part for part in file.rglob("*") if part.is_file())
        lines = [f"{part.relative_to(file).as_posix()} {sha256(part)}" for part in parts]
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
    begun = _begun.get(signature(file))
    return _sha256(file) if begun is None else begun.result()


def hash_ahead(file: Path) -> None:
    """Begin to hash a large file in a thread; `sha256` waits for the result, unless the file has changed meanwhile."""
    with suppress(OSError, ValueError):  # whoever reads the file tells what is wrong with it
        if file.is_file() and file.stat().st_size > PIECE:
            _begun[signature(file)] = result = Future[str]()
            # Whoever stops need not wait for it.
            threading.Thread(target=_hash_into, args=(file, result), daemon=True).start()


def _hash_into(file: Path, result: Future[str]) -> None:
    try:
        result.set_result(_sha256(file))
    except Exception as error:
        result.set_exception(error)


def _sha256(file: Path) -> str:
    found, piece = hashlib.sha256(), memoryview(bytearray(min(PIECE, max(1, file.stat().st_size))))
    with file.open("rb", buffering=0) as stream:
        while n := stream.readinto(piece):
            found.update(piece[:n])
    return found.hexdigest()


def signature(file: Path) -> str:
    """Return what is another text once a file is another one: its inode, size and time."""
    stat = file.stat()
    return f"{stat.st_ino}-{stat.st_size}-{stat.st_mtime_ns}"


def read_end(file: Path, most: int) -> str:
    """Return the last `most` bytes of a file as text, an empty text if it cannot be read."""
    with suppress(OSError), file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - most))
        return stream.read().decode("utf-8", "replace")
    return ""


class _Loader(yaml.SafeLoader):
    """Refuse aliases of lists and mappings, a few of which can stand for more values than fit into memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if alias and not isinstance(node, yaml.ScalarNode):
            raise yaml.YAMLError("an alias (*name) may only stand for a single value; write the list out")
        return node


def read_yaml(text: str) -> Any:
    """Return the value of a YAML text; it holds plain values only, and nothing is executed."""
    return yaml.load(text, Loader=_Loader)


def write_yaml(path: Path, value: Any) -> None:
    """Write a value as YAML, names in their order."""
    write_text(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True))
