"""Hostile input, and what `jind-nb` makes of it: one case is a kind of input and a number, made and tried in a worker.

    with Worker(folder) as worker:
        outcome = worker.attempt("h5ad structure", 7)

A worker is a process of its own, so that a hang or a death of the HDF5 library is seen and ends nothing else.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
HANGS = 60.0  # seconds
MEMORY = 3 * 2**30  # what a case may take beside what the imports took
LONGEST_MESSAGE = 20_000  # characters

NAMES = [
    "/", "..", "../../outside", "a/b", "/etc/passwd", "a\nb", "a\r\nb", "a\x00b", "\x1b[2J\x1b[31m", "\x07", "🧬 cell", "👨‍🔬",
    "\u202egnp.exe", "\u200b", "\ufeff", "'", '"', "''\"\"", "`id`", "$(touch canary)", "=cmd|' /C calc'!A0", "=1+1", "+1", "-1", "@SUM(A1)",
    "<script>alert(1)</script>", "</td><img src=x onerror=alert(1)>", "<b>x</b>", "{{7*7}}", "{% raw %}", "$x$", r"$\frac{$",
    "%(x)s", "%s%n", "{}", "{0.__class__}", "[bold]x[/bold]", "[/]", "x" * 10_000, "=" * 300, " ", "", "nan", "None", "True", "1", "1.0",
    "1e999", "-", "unassigned", "Unassigned", "\ud800", "\udcff", "a|b", "\\", "a,b", "CON", "~root", "~nosuchuser", "\t", "é", "e\u0301",
]  # fmt: skip


# --- what is damaged ---------------------------------------------------------------------------------------------------


def _text(values: list[str]) -> np.ndarray:
    return np.array(values, dtype=h5py.string_dtype())


def _table(h5: h5py.File, name: str, index: list[str], **columns: list[str]) -> None:
    table = h5.create_group(name)
    table.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "_index"})
    table.attrs.create("column-order", _text(list(columns)) if columns else np.array([], dtype=float))
    _strings(table, "_index", index)
    for column, values in columns.items():
        group = table.create_group(column)
        group.attrs.update({"encoding-type": "categorical", "encoding-version": "0.2.0", "ordered": False})
        categories = list(dict.fromkeys(values))
        _strings(group, "categories", categories)
        codes = group.create_dataset("codes", data=np.array([categories.index(v) for v in values], dtype=np.int8))
        codes.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})


def _strings(group: h5py.Group, name: str, values: list[str]) -> None:
    if name in group:
        del group[name]
    stored = group.create_dataset(name, shape=(len(values),), dtype=h5py.string_dtype())
    for i, value in enumerate(values):
        stored[i] = value.encode("utf-8", "surrogatepass").replace(b"\x00", b"\x01")
    stored.attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})


def _matrix(group: h5py.Group, name: str, values: np.ndarray, form: str) -> None:
    from scipy import sparse

    if form == "dense":
        group.create_dataset(name, data=values).attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        return
    stored = (sparse.csr_matrix if form == "csr" else sparse.csc_matrix)(values)
    made = group.create_group(name)
    made.attrs.update({"encoding-type": f"{form}_matrix", "encoding-version": "0.1.0", "shape": np.array(values.shape)})
    for part in ("data", "indices", "indptr"):
        made.create_dataset(part, data=getattr(stored, part))


def good_h5ad(file: Path, form: str = "csr", *, batches: tuple[str, ...] = ("a", "b", "c")) -> None:
    """A small file without fault: 16 cells in each batch, two types, 24 genes; with a layer, raw, obsm and uns."""
    numbers = np.random.default_rng(0)
    n = 16 * len(batches)
    types = ["B", "T"] * (n // 2)
    means = np.full((2, 24), 0.5)
    means[0, ::2], means[1, 1::2] = 6, 6
    values = numbers.poisson(means[[0, 1] * (n // 2)]).astype(np.float32)
    with h5py.File(file, "w") as h5:
        h5.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        _table(h5, "obs", [f"cell{i}" for i in range(n)], batch=[b for b in batches for _ in range(16)], celltype=types)
        genes = [f"gene{i}" for i in range(24)]
        _table(h5, "var", genes)
        _matrix(h5, "X", values, form)
        for name in ("layers", "obsm", "varm", "obsp", "varp", "uns", "raw"):
            kind = "raw" if name == "raw" else "dict"
            h5.create_group(name).attrs.update({"encoding-type": kind, "encoding-version": "0.1.0"})
        _matrix(h5["layers"], "counts", values, "csr" if form == "dense" else form)
        _matrix(h5["obsm"], "X_pca", values[:, :3], "dense")
        _matrix(h5["raw"], "X", values, "csr")
        _table(h5["raw"], "var", genes)
        h5["raw"].create_group("varm").attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})


@cache
def _good(form: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        good_h5ad(Path(folder) / "x.h5ad", form)
        return (Path(folder) / "x.h5ad").read_bytes()


def damage_bytes(content: bytes, chance: random.Random) -> bytes:
    """One to four places flipped, zeroed, cut out, inserted or overwritten; or the end cut off."""
    damaged = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(max(1, len(damaged)))
        length = min(len(damaged) - at, 2 ** chance.randint(0, 11))
        match chance.randrange(6):
            case 0:
                damaged[at : at + 1] = bytes([(damaged[at] if damaged else 0) ^ 2 ** chance.randrange(8)])
            case 1:
                damaged[at : at + length] = bytes(length)
            case 2:
                del damaged[at : at + length]
            case 3:
                damaged[at:at] = chance.randbytes(length)
            case 4:
                damaged[at : at + length] = chance.choice([b"\xff" * length, chance.randbytes(length)])
            case _ if chance.random() < 0.3:
                del damaged[at:]
    return bytes(damaged)


def odd_values(n: int, chance: random.Random) -> Any:
    """An array that does not belong: of another type, length or shape, or with values out of all bounds."""
    record = np.zeros(n, dtype=[("x", "i4"), ("y", "f8")])
    return chance.choice(
        [
            np.full(n, np.nan), np.full(n, np.inf), np.full(n, -1.0), np.full(n, 1e300), np.full(n, 3.4e38, dtype=np.float32),
            np.arange(n) - 3, np.full(n, 2**62), np.full(n, -(2**62)), np.full(n, 2**31 - 1, dtype=np.int32),
            np.arange(n)[::-1].copy(), np.zeros(n, dtype=np.int8), np.zeros(n, dtype=bool), np.zeros(n, dtype=np.complex128),
            np.zeros(n, dtype=np.float16), np.full(n, 255, dtype=np.uint8), np.full(n, 2**64 - 1, dtype=np.uint64), record,
            _text(["x"] * n), _text(["3"] * n), _text([""] * n), np.array([b"\xff\xfe"] * n, dtype="S2"), np.zeros((n, 2)),
            np.zeros((n, 0)), np.zeros(0), np.zeros(n + 1), np.zeros(max(0, n - 1), dtype=np.int32), np.float64(3), "text",
            b"\xff", h5py.Empty("f8"), h5py.Empty(h5py.string_dtype()), np.zeros((1,) * 20),
        ]
    )  # fmt: skip


def _objects(h5: h5py.File) -> list[str]:
    found: list[str] = []
    h5.visit(found.append)
    return sorted(found)


def _some(h5: h5py.File, chance: random.Random, *wanted: str) -> str:
    """The path of an object, mostly one that is read: in obs, var, X, raw or layers."""
    names = [name for name in _objects(h5) if not wanted or name.rsplit("/", 1)[-1] in wanted]
    read = [name for name in names if name.split("/")[0] in ("obs", "var", "X", "raw", "layers")]
    return chance.choice((read if chance.random() < 0.85 and read else names) or ["X"])


def _put(h5: h5py.File, name: str, value: Any, *, keep: bool = True) -> None:
    attributes = dict(h5[name].attrs) if keep and name in h5 else {}
    if name in h5:
        del h5[name]
    stored = h5.create_dataset(name, data=value)
    for attribute, content in attributes.items():
        stored.attrs[attribute] = content


def _replace(h5: h5py.File, chance: random.Random) -> None:
    name = _some(h5, chance)
    n = h5[name].shape[0] if isinstance(h5[name], h5py.Dataset) and h5[name].shape else 48
    _put(h5, name, odd_values(n, chance), keep=chance.random() < 0.7)


def _delete(h5: h5py.File, chance: random.Random) -> None:
    del h5[_some(h5, chance)]


def _rename(h5: h5py.File, chance: random.Random) -> None:
    name = _some(h5, chance)
    h5.move(name, chance.choice(["renamed", "obs/renamed", name + "x", "obs/Σ🧬", "layers/.raw", "X/X", "obs/index"]))


def _to_group(h5: h5py.File, chance: random.Random) -> None:
    name = _some(h5, chance)
    del h5[name]
    h5.create_group(name)


def _attribute(h5: h5py.File, chance: random.Random) -> None:
    attributes = h5[_some(h5, chance)].attrs
    name = chance.choice([*sorted(attributes), "encoding-type", "shape", "_index", "column-order", "h5sparse_format"])
    if chance.random() < 0.25:
        attributes.pop(name, None)
        return
    attributes[name] = chance.choice(
        [
            "csr_matrix", "csc_matrix", "dataframe", "categorical", "array", "string-array", "nullable-integer",
            "nullable-boolean", "nullable-string-array", "rec-array", "dict", "raw", "null", "awkward-array", "string",
            "numeric-scalar", "0.1.0", "0.2.0", "9.9.9", "", "x" * 10_000, "batch", "../var", "/", 3, -1, np.nan, True,
            [10**12, 24], [48, 10**12], [-1, -1], [48], [48, 24, 1], [0, 0], [2**31, 24], [2**63 - 1, 2**63 - 1], [1.5, 2.5],
            _text(["batch", "batch"]), _text(["batch", "celltype", "missing"]), _text(["batch", "celltype", "batch"]), b"\xff\xfe",
            _text(["../../X", "/obs"]), h5py.Empty("f8"), np.zeros((2, 2)),
        ]
    )  # fmt: skip


def _pointers(h5: h5py.File, chance: random.Random) -> None:
    name = _some(h5, chance, "indptr")
    if not isinstance(h5[name], h5py.Dataset) or len(h5[name].shape) != 1:
        return
    values = h5[name][:].astype(np.int64)
    at = chance.randrange(max(1, len(values)))
    match chance.randrange(6):
        case 0:
            values = values[::-1].copy()
        case 1:
            values[at:] += chance.choice([1, 10**6, 2**40, 2**62])
        case 2:
            values[at : at + 1] = chance.choice([-1, -(2**40), 2**62])
        case 3:
            values = values[: at + 1]
        case 4:
            values[:] = 0
        case _:
            values[-1:] = chance.choice([0, 1, 2**40])
    _put(h5, name, values)


def _indices(h5: h5py.File, chance: random.Random) -> None:
    name = _some(h5, chance, "indices", "codes")
    if not isinstance(h5[name], h5py.Dataset) or not h5[name].shape or not np.issubdtype(h5[name].dtype, np.number):
        return
    values = h5[name][:].astype(np.int64)
    some = slice(chance.randrange(max(1, len(values))), None if chance.random() < 0.3 else chance.randrange(1, 50))
    values[some] = chance.choice([-1, -2, 2, 24, 10**6, 2**31 - 1, 2**31, 2**40, 2**62, -(2**40), 0])
    _put(h5, name, values if chance.random() < 0.5 else values.astype(np.int32))


def _values(h5: h5py.File, chance: random.Random) -> None:
    name = _some(h5, chance, "data", "X")
    if not isinstance(h5[name], h5py.Dataset) or not h5[name].shape or not np.issubdtype(h5[name].dtype, np.number):
        return
    values = np.asarray(h5[name][...], dtype=np.float64)
    match chance.randrange(5):
        case 0:
            values.flat[chance.randrange(max(1, values.size)) :][:1] = chance.choice(
                [np.nan, np.inf, -np.inf, -1, 1e308]
            )
        case 1:
            values *= chance.choice([0, -1, 0.1, 1e300, 1e-320, 1e38])
        case 2:
            values = values[: max(0, len(values) - chance.randint(1, 30))]
        case 3:
            values = np.log1p(values) * chance.choice([1, 1.4427, 0.4343, 30])
        case _:
            values = values - values.mean() if values.size else values
    _put(h5, name, values)


def _huge(h5: h5py.File, chance: random.Random) -> None:
    """Declares far more values than the file holds: chunks that were never written take no room."""
    name = _some(h5, chance)
    attributes = dict(h5[name].attrs)
    kind = chance.choice(["f4", "f8", "i1", "i4", h5py.string_dtype()])
    rows = chance.choice([10**5, 10**7, 2 * 10**9, 10**12, 2**50])
    columns = chance.choice([(), (24,), (10**6,)])
    compression = chance.choice([None, "gzip"])
    del h5[name]
    stored = h5.create_dataset(
        name, (rows, *columns), kind, chunks=(1000, *(min(c, 24) for c in columns)), compression=compression
    )
    for attribute, content in attributes.items():
        stored.attrs[attribute] = content


def _link(h5: h5py.File, chance: random.Random) -> None:
    """A link to another place or file, or values kept in another file."""
    name = _some(h5, chance)
    others = [
        "../other.h5ad",
        "/etc/passwd",
        "/dev/zero",
        "../fifo",
        "missing.h5",
        "input.h5ad",
        "../../" * 20 + "etc/passwd",
    ]
    other = chance.choice(others)
    if chance.random() < 0.7:
        del h5[name]
    else:
        name = chance.choice(["obs/secret", "layers/secret", "uns/secret", "secret", "obsm/secret", "X/secret"])
        if name in h5:
            return
    match chance.randrange(6):
        case 0 | 1:
            h5[name] = h5py.ExternalLink(other, chance.choice(["X", "/", "obs", name]))
        case 2:
            h5[name] = h5py.SoftLink(chance.choice(["/X", "/", name, "/missing", "/obs", "/obs/batch", "../../x"]))
        case 3:
            h5.create_dataset(name, (48, 24), "f4", external=[(other, 0, h5py.h5f.UNLIMITED)])
        case 4:
            layout = h5py.VirtualLayout((48, 24), "f4")
            layout[...] = h5py.VirtualSource(other, "X", (48, 24))
            h5.create_virtual_dataset(name, layout)
        case _:
            h5[name] = h5[chance.choice(["/", "/obs", "/X"])]  # a second name, which may make a circle


def _reference(h5: h5py.File, chance: random.Random) -> None:
    kind = chance.choice([h5py.ref_dtype, h5py.regionref_dtype])
    name = _some(h5, chance)
    del h5[name]
    stored = h5.create_dataset(name, (48,), kind)
    if kind == h5py.ref_dtype:
        stored[0] = h5["obs"].ref if "obs" in h5 else h5.ref


def _column(h5: h5py.File, chance: random.Random) -> None:
    """The batch or type column in another encoding: nullable, boolean, compound, enumerated, text, nested."""
    name, n = chance.choice(["obs/batch", "obs/celltype", "obs/_index", "var/_index"]), 48
    if name in h5:
        del h5[name]
    kind = chance.choice(
        ["nullable-integer", "nullable-boolean", "nullable-string-array", "values", "frame", "enum", "opaque", "vlen"]
    )
    if kind.startswith("nullable"):
        group = h5.create_group(name)
        group.attrs.update({"encoding-type": kind, "encoding-version": "0.1.0"})
        values = {"nullable-integer": np.arange(n) % 3, "nullable-boolean": np.arange(n) % 2 == 0}
        group["values"] = values.get(kind, _text(["a", "b", "c"] * 16))
        group["mask"] = (
            np.arange(n) % chance.choice([1, 5, 100]) == 0 if chance.random() < 0.8 else odd_values(n, chance)
        )
    elif kind == "frame":
        _table(h5, name, [str(i) for i in range(n)], x=["y"] * n)
    elif kind == "enum":
        h5.create_dataset(name, data=np.zeros(n, dtype=np.int8), dtype=h5py.enum_dtype({"A": 0, "B": 1}, "i1"))
    elif kind == "opaque":
        h5.create_dataset(name, data=np.zeros(n, dtype="V5"))
    elif kind == "vlen":
        h5.create_dataset(name, (n,), h5py.vlen_dtype(np.int32))[0] = [1, 2, 3]
    else:
        h5.create_dataset(name, data=odd_values(n, chance))


def _empty(h5: h5py.File, chance: random.Random) -> None:
    name = chance.choice(["obs", "var", "raw", "layers", "raw/var"])
    if name in h5:
        del h5[name]
        _table(h5, name, [])


def _nest(h5: h5py.File, chance: random.Random) -> None:
    """Groups within groups, a thousand deep."""
    name = chance.choice(["uns/deep", "layers/deep", "obs/deep", "obsm/deep"])
    if name.split("/")[0] in h5 and isinstance(h5[name.split("/")[0]], h5py.Group) and name not in h5:
        h5.create_group("/".join([name, *["x"] * chance.choice([10, 300, 1000])]))


def _older(h5: h5py.File, chance: random.Random) -> None:
    """As anndata wrote before 0.7: tables as one compound dataset."""
    for name in ("obs", "var"):
        if name in h5:
            del h5[name]
        h5[name] = np.array([(b"c%d" % i, 1) for i in range(48)], dtype=[("index", "S8"), ("batch", "i4")])


STRUCTURE: list[Callable[[h5py.File, random.Random], None]] = [
    _replace, _delete, _rename, _to_group, _attribute, _pointers, _indices, _values, _huge, _link, _reference, _column,
    _empty, _nest, _older,
]  # fmt: skip


def damage_structure(file: Path, chance: random.Random) -> None:
    """One to three changes that leave an HDF5 file."""
    with h5py.File(file, "a") as h5:
        for change in chance.choices(STRUCTURE, k=chance.choice([1, 1, 2, 3])):
            try:
                change(h5, chance)
            except Exception:
                if "X" in h5 and chance.random() < 0.3:  # what an earlier change left cannot be changed so
                    del h5["X"]


# --- parameter files -----------------------------------------------------------------------------------------------------

GOOD = {
    "PATH": "input.h5ad", "BATCH_COL": "batch", "LABELS_COL": "celltype", "TARGET_DATASET_NAME": "c",
    "OUTPUT_PATH": "results", "MIN_CELL_TYPE_POPULATION": 2, "NUM_FEATURES": 20,
}  # fmt: skip
OPTIONAL = [
    "SOURCE_DATASET_NAME", "PRETRAINED_MODEL_PATH", "INTER_DATASETS_NAMES", "EXCLUDE_DATASETS_NAMES", "USE_GPU", "METHOD",
    "SEED", "EPOCHS", "REJECTION", "TARGET_ERROR", "UNLABELED", "GENE_COL", "LAYER", "NORMALISATION", "ALIGN", "unknown",
    "TRAIN_DATASETS_NAMES", "__class__", "model_config",
]  # fmt: skip
LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(24)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} {{<<: [*{chr(97 + i)}, *{chr(97 + i)}]}}\n" for i in range(24)
)
YAML_VALUES = [
    "!!python/object/apply:os.system [touch canary]", "!!python/object/new:os.system [touch canary]", "!!python/name:os.system",
    "!!binary aGVsbG8=", "!!binary x", "!!set {a, b}", "!!int ''", "!!bool x", "!!timestamp x", "!!float x", "!!omap [a: 1]",
    "!!pairs [a: 1]", "&a [*a]", "&a {x: *a}", "*missing", "[" * 5000, "{" * 5000, "{a: " * 300, "[" * 100 + "]" * 100, "1" * 5000, "9" * 4000,
    "1e999", "-1e999", ".nan", ".inf", "0x" + "f" * 5000, "1" + ":59" * 400, "1" + ":59" * 400 + ".5", "2001-99-99", "2001-01-01", "0001-01-01T00:00:00+23:59",
    "0001-01-01T00:00:00-99:99", "~", "yes", "no", "''", "[]", "{}", "[[], []]", "[a, a]", "- a", "a: b", "? a", "|", ">", "|\n  x", "%TAG ! x", "@x", "`x`",
    "\t", "\ta", "'unclosed", "\"\\x", "\"\\ud800\"", "\"\\0\"", "/dev/zero", "../fifo", "/dev/null", "/", ".", "~", "~nosuchuser", "\"a\\0b\"", "x" * 10_000,
    "'" + "['a'," * 500 + "'", "\"[" + "(" * 5000 + "\"", "\"['a', 1, None, {}]\"", "\"[__import__('os').system('touch canary')]\"", "scanpy:../../x",
    "scanpy:pbmc3k", "scanpy:", "http://127.0.0.1:1/x.h5ad", "s3://x/y.h5ad", "\\\\host\\share", "-1", "0", "1.5", "true", "c", "a", "[a, c]", "counts", ".raw",
]  # fmt: skip


def _yaml_name(name: str) -> str:
    return json.dumps(name)


def hostile_yaml(chance: random.Random) -> bytes:
    """A parameter file with some of its values, lines or bytes changed, or another document altogether."""
    lines = {name: json.dumps(value) for name, value in GOOD.items()}
    match chance.randrange(8):
        case 0:
            whole = [
                LAUGHS + "PATH: *y\n", "".join(f"{k}: {v}\n" for k, v in lines.items()) + LAUGHS, MERGES, LAUGHS, "- " * 3000,
                "&a [*a]", "", "\x00", "---\n---\n", "%YAML 9.9\n---\nx: 1", "x: " * 2000, "? " * 3000, "[" * 100_000, "{a: " * 20_000,
                "x" * 300_000, "x: 1\n" * 30_000, "1" + ":59" * 60_000, "!!python/object/apply:os.system [touch canary]", "null", "3", "[PATH]",
                "a: &a x\n" + "b: *a\n" * 100, "<<: {PATH: x}", "PATH: &p input.h5ad\nOUTPUT_PATH: *p",
            ]  # fmt: skip
            return chance.choice(whole).encode()
        case 1:
            return damage_bytes("".join(f"{k}: {v}\n" for k, v in lines.items()).encode(), chance)
        case 2:
            text = "".join(f"{k}: {v}\n" for k, v in lines.items())
            coding = chance.choice(["utf-16", "utf-32", "utf-8-sig", "latin-1", "utf-7", "cp037"])
            return (text + "# é\n").encode(coding, "replace")
        case _:
            for _ in range(chance.randint(1, 3)):
                name = chance.choice([*GOOD, *OPTIONAL])
                lines[name] = chance.choice([*YAML_VALUES, _yaml_name(chance.choice(NAMES))])
            if chance.random() < 0.1:
                lines.pop(chance.choice(sorted(lines)))
            return "".join(f"{k}: {v}\n" for k, v in lines.items()).encode("utf-8", "surrogatepass")


def odd_json(chance: random.Random) -> Any:
    """A value that may be anything JSON can say."""
    return chance.choice(
        [
            None, True, False, 0, -1, 1.5, 10**30, 1e308, float("nan"), float("inf"), float("-inf"), "", [], {}, [[]], [None], {"a": {}}, [1, "a", None],
            ["a", "a"], ["c"], "c", "a", [0.5] * 3, {"x": 1}, 2**63, -(2**63), "9" * 400, *NAMES, [chance.choice(NAMES)], {chance.choice(NAMES): 1},
            "as they are", "log1p", "counts", ".raw", "../outside", ["B", "T"], {"B": 0.5, "T": 0.5}, {"B": None, "T": "x"},
        ]
    )  # fmt: skip


def hostile_json(chance: random.Random) -> bytes:
    values: dict[str, Any] = dict(GOOD)
    match chance.randrange(6):
        case 0:
            whole = [
                "", "[" * 100_000, '{"a":' * 100_000, "{", "[]", "null", "9" * 5000, '{"PATH": ' + "9" * 5000 + "}", '{"SEED": 1e400}', "\ufeff{}", "NaN",
                '{"PATH": "\\ud800"}', '{"a": 1}' * 2, '{"x": 1, "x": 2}', "//", "{'PATH': 1}", '"' + "x" * 300_000 + '"', "\x00",
            ]  # fmt: skip
            return chance.choice(whole).encode("utf-8", "surrogatepass")
        case 1:
            return damage_bytes(json.dumps(values).encode(), chance)
        case _:
            for _ in range(chance.randint(1, 3)):
                values[chance.choice([*GOOD, *OPTIONAL])] = odd_json(chance)
            return json.dumps(values).encode()


# --- names -----------------------------------------------------------------------------------------------------------------


def hostile_names(folder: Path, chance: random.Random) -> dict[str, Any]:
    """The good file with other names of cells, batches, types, genes, columns or layers; returns its parameters."""
    n, values = 48, dict(GOOD)

    def some(k: int) -> list[str]:
        names = [chance.choice(NAMES) + (str(i) if chance.random() < 0.5 else "") for i in range(k)]
        return names if chance.random() < 0.7 else [names[0]] * k

    with h5py.File(folder / "input.h5ad", "a") as h5:
        for what in chance.sample(["cells", "genes", "batches", "types", "column", "layer"], chance.randint(1, 4)):
            if what in ("cells", "genes"):
                _strings(h5["obs" if what == "cells" else "var"], "_index", some(n if what == "cells" else 24))
            elif what in ("batches", "types"):
                column = "batch" if what == "batches" else "celltype"
                names = some(3 if what == "batches" else 2)
                _strings(h5["obs"][column], "categories", names)
                if what == "batches":
                    values["TARGET_DATASET_NAME"] = names[-1]
            elif what == "column":
                name = chance.choice(NAMES).replace("\x00", "") or "x"
                with suppress(UnicodeError):  # h5py cannot name a column so
                    if name not in h5["obs"]:
                        h5["obs"].copy("batch", name)
                        h5["obs"].attrs["column-order"] = _text(["batch", "celltype", name])
                        values["BATCH_COL"] = name
            else:
                name = chance.choice(NAMES).replace("\x00", "") or "x"
                with suppress(UnicodeError):
                    if name not in h5["layers"]:
                        h5["layers"].copy("counts", name)
                        values["LAYER"] = name
    return values


# --- saved models ------------------------------------------------------------------------------------------------------------


def make_model(folder: Path) -> None:
    """A saved model, trained for one epoch on the good file, in `folder`/trained_models."""
    from jind_nb.core.parameters import make_parameters
    from jind_nb.data import cells as data_cells
    from jind_nb.data import prepare, roles
    from jind_nb.model import store
    from jind_nb.model.annotate import calibrate, settings_of, train
    from jind_nb.model.target import annotate_before_alignment, known_latents

    good_h5ad(folder / "input.h5ad")
    values = GOOD | {"PATH": str(folder / "input.h5ad"), "OUTPUT_PATH": str(folder), "EPOCHS": 1, "USE_GPU": False}
    parameters = make_parameters(values)
    cells = data_cells.read_cells(parameters)
    plan = roles.make_plan(parameters, cells)
    prepared = prepare.prepare(parameters, cells, plan)
    settings = settings_of(parameters)
    reference = train(prepared, plan, settings)
    models = folder / "trained_models"
    store.save_model(models, reference, calibrate(reference), plan, parameters)
    x = prepared[(prepared.obs["batch"] == "c").to_numpy()].X
    annotated = annotate_before_alignment(reference.model, x, known_latents(reference), settings)
    store.save_target(models, annotated, "c", x, models)


class Command:
    """Unpickled by a reader that runs code, it leaves a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch canary",)


def _is_file(file: Path) -> bool:
    try:
        return file.is_file()
    except (OSError, RuntimeError):  # a circle of links
        return False


def _rewrite(file: Path, content: bytes) -> None:
    file.unlink(missing_ok=True)  # other cases have the same file, by another name
    file.write_bytes(content)


def _write_description(folder: Path, description: Any, chance: random.Random) -> None:
    from jind_nb.core.model_json import _digest

    if isinstance(description, dict) and chance.random() < 0.85:
        description = description | {"sha256": _digest(description)}
    _rewrite(folder / "model.json", json.dumps(description).encode("utf-8", "surrogatepass"))


def _change_somewhere(value: Any, chance: random.Random) -> Any:
    """A copy with one thing changed, however deep."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(sorted(value))
        changed = dict(value)
        match chance.randrange(8):
            case 0:
                del changed[key]
            case 1:
                changed[chance.choice(NAMES)] = changed.pop(key)
            case _:
                changed[key] = _change_somewhere(value[key], chance)
        return changed
    if isinstance(value, list) and value and chance.random() < 0.7:
        changed_list = list(value)
        at = chance.randrange(len(value))
        match chance.randrange(4):
            case 0:
                del changed_list[at]
            case 1:
                changed_list.insert(at, changed_list[at])
            case _:
                changed_list[at] = _change_somewhere(value[at], chance)
        return changed_list
    return odd_json(chance)


def _odd_weights(stored: dict[str, Any], chance: random.Random) -> Any:
    import torch

    name = chance.choice(sorted(stored))
    tensor = stored[name]
    match chance.randrange(14):
        case 0:
            del stored[name]
        case 1:
            stored[name] = tensor[: len(tensor) // 2] if tensor.ndim else tensor
        case 2:
            stored[name] = tensor.to(
                chance.choice([torch.float64, torch.int8, torch.bool, torch.complex64, torch.bfloat16])
            )
        case 3:
            stored[name] = torch.full_like(tensor, chance.choice([-1, 0, 1, 100]))
        case 4:
            stored[name] = tensor.double() * torch.nan
        case 5:
            stored[name] = torch.zeros(1).expand(chance.choice([10**12, 10**9, 10**6]))
        case 6:
            stored[name] = torch.sparse_coo_tensor(
                torch.zeros((1, 1), dtype=torch.long), torch.ones(1), (chance.choice([3, 10**12]),)
            )
        case 7:
            stored[name] = chance.choice([3, "x", None, [tensor], {"a": tensor}])
        case 8:
            stored[name] = tensor.reshape(-1)
        case 9:
            stored[chance.choice(NAMES)] = tensor
        case 10:
            return chance.choice([[], {}, tensor, {"x": Command()}, Command(), 3])
        case 11:
            stored[name] = torch.empty((0, *tensor.shape[1:]), dtype=tensor.dtype)
        case 12:
            stored[name] = torch.full(tensor.shape, 3e38)
        case _:
            stored[name] = torch.empty(tensor.shape, device="meta")
    return stored


def hostile_model(folder: Path, chance: random.Random) -> None:
    """Changes a saved model in place, mostly as somebody would who can hash it again."""
    import torch

    from jind_nb.core.files import sha256

    description = json.loads((folder / "model.json").read_text("utf-8"))
    weights = sorted([*folder.glob("*.pt"), *folder.glob("*.pth")])
    file = chance.choice(weights)
    match chance.randrange(11):
        case 10:
            name = chance.choice(["code size", "alignment", "METHOD"])
            odd = chance.choice(
                [odd_json(chance), 256, 257, 2**31, {"way": "aligned", "why": "x" * 10**6}, "reference"]
            )
            if name == "METHOD":
                description["training"] |= {name: odd}
            else:
                description[name] = odd
            _write_description(folder, description, chance)
            return
        case 0 | 1 | 2 | 3:
            for _ in range(chance.choice([1, 1, 2, 3])):
                description = _change_somewhere(description, chance)
            _write_description(folder, description, chance)
            return
        case 4:
            _rewrite(folder / "model.json", damage_bytes((folder / "model.json").read_bytes(), chance))
            return
        case 5:
            names = [
                "../outside.pt",
                "/etc/passwd",
                "..",
                "",
                "model.json",
                "a.pt\x00",
                "../../outside",
                "/dev/zero",
                *NAMES,
            ]
            description["files"] = {batch: chance.choice(names) for batch in description["files"]}
            _write_description(folder, description, chance)
            return
        case 6:
            _rewrite(file, damage_bytes(file.read_bytes(), chance))
        case 7:
            others = [
                b"",
                pickle.dumps(Command()),
                pickle.dumps({"x": Command()}, 0),
                b"PK\x03\x04",
                chance.randbytes(500),
                b"[" * 10**5,
            ]
            _rewrite(file, chance.choice(others))
        case 8:
            file.unlink()
            file.symlink_to(
                chance.choice(
                    ["../../outside.pt", "/etc/passwd", "/dev/zero", "../../fifo", file.name, "..", "missing"]
                )
            )
        case _:
            stream = io.BytesIO()
            torch.save(_odd_weights(torch.load(file, weights_only=True), chance), stream)
            _rewrite(file, stream.getvalue())
    if chance.random() < 0.9 and _is_file(file):
        for hashes in (description["hashes"], description["target"]["hashes"]):
            if file.name in hashes:
                hashes[file.name] = sha256(file)
        _write_description(folder, description, chance)


# --- one case ----------------------------------------------------------------------------------------------------------------

KINDS = {
    "h5ad bytes": 0.2, "h5ad structure": 0.26, "YAML": 0.18, "JSON": 0.1, "names": 0.1, "model": 0.12, "h5ad to predict": 0.04,
}  # kind -> share of the cases  # fmt: skip


@dataclass
class Outcome:
    """What the command did with one case. `problem` is empty where that was as it should be."""

    kind: str
    number: int
    status: int | None
    problem: str  # traceback, hang, death, write outside, message
    detail: str


def make_case(kind: str, number: int, folder: Path, model: Path) -> list[str]:
    """Writes the files of a case into `folder`; returns the command line."""
    chance = random.Random(f"{kind} {number}")
    file = folder / "input.h5ad"
    file.write_bytes(_good(chance.choice(["csr", "csr", "csc", "dense"])))
    parameters = folder / ("p.json" if kind == "JSON" else "p.yaml")
    parameters.write_text(json.dumps(GOOD), "utf-8")
    options: list[str] = []
    if kind in ("model", "h5ad to predict"):
        (folder / "model").mkdir()
        for part in model.iterdir():
            os.link(part, folder / "model" / part.name)
        options = chance.choice([[], [], ["--batch-col", "batch"]])
    if kind == "h5ad bytes" or (kind == "h5ad to predict" and chance.random() < 0.4):
        file.write_bytes(damage_bytes(file.read_bytes(), chance))
    elif kind in ("h5ad structure", "h5ad to predict"):
        damage_structure(file, chance)
        if chance.random() < 0.2:
            parameters.write_text(json.dumps(GOOD | {"LAYER": chance.choice([".raw", "counts"])}), "utf-8")
    elif kind == "YAML":
        parameters.write_bytes(hostile_yaml(chance))
    elif kind == "JSON":
        parameters.write_bytes(hostile_json(chance))
    elif kind == "names":
        parameters.write_text(json.dumps(hostile_names(folder, chance)), "utf-8")
    elif kind == "model":
        hostile_model(folder / "model", chance)
        if chance.random() < 0.3:
            parameters.write_text(json.dumps(GOOD | {"PRETRAINED_MODEL_PATH": "model"}), "utf-8")
            return ["validate", "p.yaml"]
    if kind in ("model", "h5ad to predict"):
        return ["predict", "model", "input.h5ad", "--output-path", "results", *options]
    return ["validate", parameters.name]


def _listing(folder: Path, results: Path) -> dict[str, tuple[int, int, int]]:
    found = {}
    for place, folders, files in os.walk(folder):
        if Path(place) == results:
            folders.clear()
            continue
        for name in [*files, *(f for f in folders if Path(place, f) != results)]:
            stat = Path(place, name).lstat()
            is_file = name in files
            found[f"{place}/{name}"] = (stat.st_ino, stat.st_mtime_ns * is_file, stat.st_size * is_file)
    return found


def _judge(status: int, out: str, err: str, written: list[str]) -> tuple[str, str]:
    """What is wrong with an answer, and the detail; two empty texts if nothing is."""
    from jind_nb.core.parameters import Parameters

    if status not in (0, 2) or "Traceback" in out + err:
        return "traceback", f"status {status}: {err[-3000:]}"
    if written:
        return "write outside", "; ".join(written[:5])
    if "\x1b" in out + err or "\x07" in out + err:
        return "message", f"control characters reach the terminal: {(out + err)[-500:]!r}"
    if status == 0:
        return "", ""
    where = [
        *Parameters.model_fields,
        "MODEL_DIR",
        "H5AD",
        "--batch-col",
        "--output-path",
        "parameter file",
        "input.h5ad",
        "no parameter",
    ]
    if not err.startswith("Wrong input: ") or err.count("Wrong input: ") != 1 or not any(name in err for name in where):
        return "message", err[:3000]
    if len(err) > LONGEST_MESSAGE:
        return "message", f"{len(err)} characters: {err[:300]}"
    return "", err[:300]


def _work() -> None:
    """A worker: takes cases from standard input, a JSON line each, and answers with an outcome each."""
    answers = os.fdopen(os.dup(1), "w")
    requests = os.fdopen(os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    root = Path(sys.argv[1])
    os.dup2(os.open(root / "worker.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
    os.dup2(1, 2)
    sys.dont_write_bytecode = True

    from jind_nb import cli
    from jind_nb.commands.terminal import WATCH

    predicts = sys.argv[2] == "predict"
    guarded, case = root / "guarded", root / "guarded" / "case"
    results = case / "results"
    guarded.mkdir(exist_ok=True)
    (guarded / "secret.txt").write_text("x")
    good_h5ad(guarded / "other.h5ad")
    (guarded / "outside.pt").write_bytes((root / "trained_models" / "a.pt").read_bytes())
    if not (guarded / "fifo").exists():
        os.mkfifo(guarded / "fifo")
    watching, seen = False, list[str]()
    makes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if not watching or not arguments or isinstance(arguments[0], int):
            return
        if event == "subprocess.Popen" and list(arguments[1])[:3] == ["/bin/sh", "-c", WATCH]:
            return  # our own, of which only the last argument, a sentence, differs
        if event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect"):
            seen.append(f"{event} {arguments!r}"[:300])
        # A nameless temporary file is opened by its folder.
        if event == "open" and (arguments[2] or 0) & makes and not Path(os.fsdecode(arguments[0])).is_dir():
            _written("open", arguments[0])
        if event in (
            "os.mkdir",
            "os.rename",
            "os.remove",
            "os.rmdir",
            "os.link",
            "os.symlink",
            "os.truncate",
            "os.chmod",
        ):
            _written(event, arguments[0])

    def _written(event: str, path: Any) -> None:
        place = os.path.realpath(os.fsdecode(path))
        if not place.startswith((str(results), str(root / "tmp"), "/dev/", "/proc/")):
            seen.append(f"{event} {place}")

    for command in [["validate", "p.yaml"], ["predict", "model", "input.h5ad", "--output-path", "results"]][
        : 1 + predicts
    ]:
        shutil.rmtree(case, ignore_errors=True)
        case.mkdir()
        os.chdir(case)
        good_h5ad(case / "input.h5ad")
        (case / "p.yaml").write_text(json.dumps(GOOD))
        shutil.copytree(root / "trained_models", case / "model")
        sys.argv = ["jind-nb", *command]
        with suppress(SystemExit):
            cli.main()  # so that what is imported late is there for all cases
    sys.addaudithook(audit)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in requests:
        # As each command is a process of its own: what one did to its memory must not be taken for the next one's.
        forks = json.loads(line)[0].startswith("h5ad")
        if child := os.fork() if forks else 0:
            status = os.waitpid(child, 0)[1]
            if status:
                kind, number = json.loads(line)
                detail = (root / "worker.log").read_text("utf-8", "replace")[-300:]
                answers.write(
                    json.dumps(asdict(Outcome(kind, number, None, "death", f"status {status}: {detail}"))) + "\n"
                )
                answers.flush()
            continue
        kind, number = json.loads(line)
        shutil.rmtree(case, ignore_errors=True)
        case.mkdir()
        os.chdir(case)
        sys.argv = ["jind-nb", *make_case(kind, number, case, root / "trained_models")]
        before = _listing(guarded, results)
        streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", errors) for errors in ("strict", "backslashreplace")]
        seen.clear()
        warnings.resetwarnings()
        warnings.simplefilter("ignore", DeprecationWarning)  # as Python does for everything but __main__
        warnings.simplefilter("ignore", ImportWarning)
        kept, (sys.stdout, sys.stderr) = (sys.stdout, sys.stderr), streams
        watching, status = True, 0
        try:
            cli.main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        except BaseException as error:
            status = -1
            streams[1].write(f"Traceback: {type(error).__name__}: {error}")
        finally:
            watching = False
            sys.stdout, sys.stderr = kept
        texts = []
        for stream in streams:
            stream.flush()
            texts.append(stream.buffer.getvalue().decode("utf-8", "replace"))  # type: ignore[attr-defined]
        if _listing(guarded, results) != before:
            changed = dict(set(before.items()) ^ set(_listing(guarded, results).items()))
            seen.append(f"changed: {sorted(changed)}")
        problem, detail = _judge(status, *texts, seen)
        answers.write(json.dumps(asdict(Outcome(kind, number, status, problem, detail))) + "\n")
        answers.flush()
        if forks:
            os._exit(0)


class Worker:
    """A process that tries cases, started again where one kills or hangs it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "trained_models").exists():
            make_model(folder)
        self.processes: dict[bool, subprocess.Popen[str]] = {}

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        for predicts in list(self.processes):
            self._stop(predicts)

    def _stop(self, predicts: bool) -> int:
        process = self.processes.pop(predicts)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return process.returncode

    def _start(self, predicts: bool) -> subprocess.Popen[str]:
        way = "predict" if predicts else "validate"
        root = self.folder / way
        (root / "tmp").mkdir(parents=True, exist_ok=True)
        if not (root / "trained_models").exists():
            shutil.copytree(self.folder / "trained_models", root / "trained_models")
        own = {"TMPDIR": str(root / "tmp"), "PYTHONPATH": str(ROOT), "JIND_NB_TRACEBACK": "1", "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.mutations", str(root), way], cwd=ROOT, env=os.environ | own, text=True,
            start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def attempt(self, kind: str, number: int) -> Outcome:
        """Tries one case; starts what it needs."""
        predicts = kind in ("model", "h5ad to predict")
        process = self.processes[predicts] = self.processes.get(predicts) or self._start(predicts)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([kind, number]) + "\n")
        process.stdin.flush()
        if not select.select([process.stdout], [], [], HANGS)[0]:
            self._stop(predicts)
            return Outcome(kind, number, None, "hang", f"no answer within {HANGS:.0f} s")
        answer = process.stdout.readline()
        if not answer:
            return Outcome(kind, number, None, "death", f"status {self._stop(predicts)}")
        return Outcome(**json.loads(answer))


def cases(n: int, seed: int) -> list[tuple[str, int]]:
    """The kind and number of each of n cases, the kinds in their shares, in random order."""
    chosen = [
        (kind, seed * 1_000_000 + i)
        for kind, share in KINDS.items()
        for i in range(round(n * share / sum(KINDS.values())))
    ]
    chosen += [("h5ad bytes", seed * 1_000_000 + 500_000 + i) for i in range(max(0, n - len(chosen)))]
    random.Random(seed).shuffle(chosen)
    return chosen[:n]


if __name__ == "__main__":
    _work()
