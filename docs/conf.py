"""The website: `make docs`. The source folder is the repository's root, so that the pages' links work here as on a forge."""

import os
from importlib import metadata

project = "jind-nb"
author = "the jind-nb developers"
release = version = metadata.version("jind-nb")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
root_doc = "docs/index"
include_patterns = [
    "docs/*.md", "benchmarks/README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "README.md",
    "notebooks/tutorial.ipynb",
]  # fmt: skip

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
# Figures in the text of pages that begin below the first level, and code that is no Python.
suppress_warnings = ["myst.header", "misc.highlighting_failure"]

nb_execution_mode = "off" if os.environ.get("JIND_NB_DOCS_QUICK") else "force"
nb_execution_timeout = 900
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_typehints = "none"  # numpydoc's sections say it
napoleon_google_docstring = False

html_theme = "sphinx_book_theme"
html_title = "jind-nb"
html_theme_options = {"show_toc_level": 2, "home_page_in_toc": True}
html_static_path = []
