"""Results of other code are never reused."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_an_edited_module_changes_everything(tmp_path: Path) -> None:
    """Wherever in the package it is: an edit that goes unnoticed gives the results of the code before it."""
    package = Path(
        shutil.copytree(ROOT / "jind_nb", tmp_path / "jind_nb", ignore=shutil.ignore_patterns("__pycache__"))
    )

    def code() -> str:
        script = "from jind_nb.core.code_hash import code_hash; print(code_hash())"
        own = {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            env=os.environ | own,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    folders = {file.parent: file for file in [*package.rglob("*.py"), *package.rglob("templates/*.j2")]}
    found = [code()]
    for file in folders.values():  # one file of each folder, one after the other
        with file.open("a") as edited:
            edited.write("\n")
        found.append(code())
    assert len(set(found)) == 1 + len(folders)
