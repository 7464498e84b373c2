"""What `--help` says: every command with examples that can be typed as they stand."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable

import click
import pytest
import typer

from jind_nb import __version__
from jind_nb.cli import app
from tests.conftest import ROOT, Answer

GROUP = typer.main.get_command(app)
assert isinstance(GROUP, click.Group | typer.core.TyperGroup)
COMMANDS = list(GROUP.commands)


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_has_examples_that_work_on_a_terminal_of_80_columns(
    command: str | None, jind_nb: Callable[..., Answer]
) -> None:
    """An example is what most people read of a help page, and copy: it must stand on one line and be a valid command."""
    text = jind_nb(*([command] if command else []), "--help").out
    assert max(map(len, text.splitlines())) <= 80
    examples = re.findall(r"^ (jind-nb .*?) *$", text.split("Example", 1)[1], re.M)
    assert examples
    for example in examples:
        _, name, *arguments = shlex.split(example)
        assert command in (None, name)
        GROUP.commands[name].make_context(name, arguments).close()


def test_the_version_can_be_asked(jind_nb: Callable[..., Answer]) -> None:
    """Every report of a problem begins with it."""
    assert jind_nb("--version").out.strip() == f"jind-nb {__version__}"


def test_words_in_brackets_are_not_taken_for_markup(jind_nb: Callable[..., Answer]) -> None:
    """`pip install 'jind-nb'` instead of `'jind-nb[compare]'` would install nothing."""
    assert "jind-nb[compare]" in jind_nb("compare", "--help").out


def test_commands_in_the_pages_are_valid() -> None:
    """The README's commands are typed as they stand."""
    found = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for line in re.findall(r"^    (?:\.venv/bin/)?(jind-nb .*)$", page.read_text("utf-8"), re.M):
            _, name, *arguments = shlex.split(line, comments=True)
            GROUP.commands[name].make_context(name, arguments).close()
            found.append(name)
    assert {"init", "validate", "run", "predict", "sweep", "compare"} <= set(found)
