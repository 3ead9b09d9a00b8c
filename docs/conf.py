"""The site of the documentation: `make docs` writes it to docs/_build."""

from __future__ import annotations

import inspect
import io
import re
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT / "src"))

project = "graftwork"
author = "The graftwork maintainers"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx-mathjax-offline"]
html_theme = "furo"
html_title = "graftwork"
exclude_patterns = ["_build", "search/*.html", "pilot/*.html"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4
# A build trains nothing: `test_notebooks.py` runs every cell of the notebooks.
nb_execution_mode = "off"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_use_ivar = True

GENERATED = HERE / "reference"
RECIPE = (
    ("graftwork.recipe.recipe", "Recipe"),
    ("graftwork.data.task", "Task"),
    ("graftwork.recipe.settings", "GraftSettings"),
    ("graftwork.recipe.settings", "TrainingSettings"),
    ("graftwork.search.schedule", "Schedule"),
)
"""What a recipe is made of."""


def _python() -> str:
    """The page of the public names."""
    import graftwork

    lines = ["# Python", "", "```{eval-rst}", ".. module:: graftwork", ""]
    for name in sorted(graftwork.__all__):
        found = getattr(graftwork, name)
        if inspect.isclass(found):
            lines += [f".. autoclass:: graftwork.{name}", "   :members:", ""]
        elif callable(found):
            lines += [f".. autofunction:: graftwork.{name}", ""]
    return "\n".join([*lines, "```", ""])


def _recipe() -> str:
    """The page of the settings."""
    lines = ["# Recipe", "", "Sections of a recipe and their keys, as `graftwork fit --help` lists them.", ""]
    for module, name in RECIPE:
        lines += [
            "```{eval-rst}",
            f".. autoclass:: {module}.{name}",
            "   :members:",
            "   :no-index:",
            "```",
            "",
        ]
    return "\n".join(lines)


def _commands() -> str:
    """The page of the commands: what each says with --help."""
    from graftwork.cli import main
    from graftwork.cli.parser import COMMANDS

    lines = ["# Commands", ""]
    for name in COMMANDS:
        said = io.StringIO()
        with redirect_stdout(said), suppress(SystemExit):
            main([name, "--help"])
        lines += [f"## {name}", "", "```text", said.getvalue().rstrip(), "```", ""]
    return "\n".join(lines)


GENERATED.mkdir(exist_ok=True)
for page, make in (("python", _python), ("recipe", _recipe), ("commands", _commands)):
    (GENERATED / f"{page}.md").write_text(make(), encoding="utf-8")


def _code(app: Any, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    """Docstrings mark code as Markdown does, once; reStructuredText wants it twice."""
    text = re.sub(
        r":\w+:`[^`]*`|``[^`]*``|`([^`]+)`",
        lambda mark: mark[0] if mark[1] is None else f"``{mark[1]}``",
        "\n".join(lines),
    )
    # What stands before a colon in the first line of an attribute would be taken for its type.
    lines[:] = ([""] if what == "attribute" else []) + text.split("\n")


def _no_folders(app: Any, page: str, source: list[str]) -> None:
    """Links to folders beside the documentation lead somewhere on a code host alone: here they are text."""
    source[0] = re.sub(r"\[([^\]]+)\]\((?:\.\./)+(?:results|recipes)[^)]*\)", r"\1", source[0])


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _code, priority=400)
    app.connect("source-read", _no_folders)
