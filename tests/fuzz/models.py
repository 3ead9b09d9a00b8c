"""The model that the fuzzers break: trained once, copied for every case."""

from __future__ import annotations

import shutil
from io import StringIO
from pathlib import Path

from rich.console import Console

from graftwork.cli import main
from graftwork.fitting.fit import fit
from graftwork.recipe.loading import load_recipe
from toyrun import recipe_dict, write_recipe, write_run


def write_model(folder: Path) -> Path:
    """A tiny run and its model in `out`."""
    write_run(folder)
    settings = recipe_dict(folder)
    settings["training"]["epochs"] = 1
    fit(load_recipe(write_recipe(folder, settings)), console=Console(file=StringIO()))
    (folder / "rows.jsonl").write_text('{"text": "red stone", "task": "colour"}\n')
    return folder


def copy_model(trained: Path, target: Path) -> Path:
    """A fresh copy of the model, in place of the last one."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(trained / "out", target, ignore=shutil.ignore_patterns("*.png", "README.md"))
    return target


def run(*arguments: object) -> None:
    """A command in this process: it succeeds, or stops with exit code 2 after a line on standard error."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        assert stop.code == 2  # noqa: PT017 - success is as good
