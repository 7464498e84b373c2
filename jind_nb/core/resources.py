"""What the package brings along: templates, notebooks, parameter files; and the checkout it may have been installed from."""

from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader

from .text import about, listing, percent, plural

PACKAGE = Path(str(files("jind_nb")))


def checkout() -> Path | None:
    """Return the root of the checkout that the package is used from, None where it was installed as a wheel."""
    root = PACKAGE.parent
    return root if (root / "notebooks").is_dir() and (root / "pyproject.toml").exists() else None


def shipped(folder: str) -> Path:
    """Return the folder `notebooks` or `parameters`: in the installed package, or in the checkout."""
    packaged = PACKAGE / folder
    return packaged if packaged.is_dir() else PACKAGE.parent / folder


@cache
def templates() -> Environment:
    """Return the environment of all templates, which escapes what is put into them and knows how to write numbers and lists."""
    environment = Environment(loader=PackageLoader("jind_nb"), autoescape=True)
    environment.globals |= {"about": about, "listing": listing, "percent": percent, "plural": plural}
    return environment


def text_templates() -> Environment:
    """Return the environment of templates of plain text: nothing is escaped, and a line with only a tag leaves none."""
    return templates().overlay(autoescape=False, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
