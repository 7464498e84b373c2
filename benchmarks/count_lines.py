"""Count the lines of code of jind_nb now, and at a commit if one is named.

    python benchmarks/count_lines.py             # the working tree
    python benchmarks/count_lines.py 5512574     # that commit, the working tree, and the ratio of the two

Files are copied into a temporary folder and formatted there by `ruff format` with this checkout's settings. Blank lines,
comments and docstrings do not count. Only .py files do.
"""

from __future__ import annotations

import argparse
import ast
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "jind_nb"
NO_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING,
    tokenize.ENDMARKER,
}  # fmt: skip
WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_lines(source: str) -> int:
    '''Return the number of lines with code.

    >>> code_lines('"""A docstring."""\\n\\n# a comment\\nx = (1,\\n     2)  # two lines\\n')
    2
    '''
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, WITH_DOCSTRING) and ast.get_docstring(node, clean=False) is not None:
            docstring = node.body[0]
            lines.difference_update(range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1))
    return len(lines)


def copy_working_tree(folder: Path) -> None:
    """Copy the package as it is now into a folder."""
    shutil.copytree(ROOT / PACKAGE, folder / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))


def copy_commit(commit: str, folder: Path) -> None:
    """Copy the package as it was at a commit into a folder."""
    archive = subprocess.run(["git", "archive", commit, PACKAGE], cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")


def count_formatted(folder: Path) -> Counter[str]:
    """Format the package in a folder and return the lines of code of each of its folders."""
    settings = ROOT / "pyproject.toml"
    command = [sys.executable, "-m", "ruff", "format", "--quiet", "--no-cache", "--config", str(settings), PACKAGE]
    subprocess.run(command, cwd=folder, check=True)
    lines: Counter[str] = Counter()
    for file in (folder / PACKAGE).rglob("*.py"):
        parts = file.relative_to(folder).parts
        lines["/".join(parts[: min(2, len(parts) - 1)])] += code_lines(file.read_text("utf-8"))
    return lines


def print_table(columns: dict[str, Counter[str]]) -> None:
    """Print one row for each folder and one for all; the ratio is of the last column to the first."""

    def print_row(name: str, numbers: list[int]) -> None:
        ratio = f"{numbers[-1] / numbers[0]:10.3f}" if len(numbers) > 1 and numbers[0] else ""
        print(f"{name:24}" + "".join(f"{number:14,}" for number in numbers) + ratio)

    print(f"{'lines of code':24}" + "".join(f"{name:>14}" for name in columns) + ("     ratio" * (len(columns) > 1)))
    for folder in sorted(set().union(*columns.values())):
        print_row(folder, [lines[folder] for lines in columns.values()])
    print_row("all", [lines.total() for lines in columns.values()])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("commit", nargs="?", help="a commit, tag or branch to compare with")
    commit = parser.parse_args().commit
    columns = {}
    with tempfile.TemporaryDirectory() as before, tempfile.TemporaryDirectory() as now:
        if commit:
            copy_commit(commit, Path(before))
            columns[commit] = count_formatted(Path(before))
        copy_working_tree(Path(now))
        columns["working tree"] = count_formatted(Path(now))
    print_table(columns)
