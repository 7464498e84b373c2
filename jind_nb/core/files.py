"""Files and their names: written whole or not at all, JSON, YAML, hashes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from .locks import OURS

FULL = 65_536  # bytes free; torch and h5py do not always say that it was the disk

LONGEST_NAME = 80  # two fit into a file name


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name to write to, beside `path`; it becomes `path` only if all went well.

    Raises
    ------
    OSError
        With the file's name, if the disk is full; whatever the library that wrote made of that.
    """
    # A run's kernels do not make its folder: removed meanwhile, it must not come back in part.
    path.parent.mkdir(parents=OURS not in os.environ, exist_ok=True)
    temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}.part")
    try:
        yield temporary
        temporary.replace(path)
    except Exception as error:
        if is_disk_full(error) or (path.parent.exists() and shutil.disk_usage(path.parent).free < FULL):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def is_disk_full(error: BaseException) -> bool:
    """Whether the disk, or the user's share of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def write_json(path: Path, value: Any) -> None:
    """Strict JSON (no NaN), indented, UTF-8."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def file_name(batch: str, safe: str = "") -> str:
    """A batch's name as part of a file name: percent-encoded, so that any name is a safe one; a long one is cut and
    ends in a hash.

    >>> file_name("donor 1/2")
    'donor%201%2F2'
    """
    name = quote(batch, safe=safe)
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}~{hashlib.sha256(batch.encode()).hexdigest()[:12]}"


def file_names(batches: Iterable[str]) -> dict[str, str]:
    """A name for each batch's file or folder, apart even on a disk that takes `A` and `a` for the same."""
    names: dict[str, str] = {}
    for batch in batches:
        taken = {name.casefold() for name in names.values()}
        name = file_name(batch)
        while name.casefold() in taken:
            name += "~"
        names[batch] = name
    return names


def sha256(file: Path) -> str:
    """A file's SHA-256, in hexadecimal; a folder's is of the names and hashes of all files in it."""
    if file.is_dir():
        parts = sorted(part for part in file.rglob("*") if part.is_file())
        told = [f"{part.relative_to(file).as_posix()} {sha256(part)}" for part in parts]
        return hashlib.sha256("\n".join(told).encode("utf-8", "surrogateescape")).hexdigest()
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_end(file: Path, most: int) -> str:
    """Return the last `most` bytes of a file as text, an empty text if it cannot be read."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - most))
            return stream.read().decode("utf-8", "replace")
    except OSError:
        return ""


class _Loader(yaml.SafeLoader):
    """Without aliases of lists and mappings, a few of which can stand for more values than the memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if alias and not isinstance(node, yaml.ScalarNode):
            raise yaml.YAMLError("an alias (*name) may only stand for a single value; write the list out")
        return node


def read_yaml(text: str) -> Any:
    """The value that a text of YAML says; only plain values, nothing is executed."""
    return yaml.load(text, Loader=_Loader)


def write_yaml(path: Path, value: Any) -> None:
    """Write a value as YAML, names in their order."""
    with whole_file(path) as temporary:
        temporary.write_text(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), encoding="utf-8")
