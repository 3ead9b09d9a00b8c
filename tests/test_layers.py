"""Imports run downwards: what `make layers` checks, and that it would notice."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import graftwork

ROOT = Path(__file__).parents[1]
SOURCE = Path(graftwork.__file__).parent
MOST_MODULES = 12
MOST_LINES = 350


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """The contracts of `pyproject.toml` for the package in a folder."""
    script = (
        f"import sys; sys.path.insert(0, {str(folder)!r}); "
        "from importlinter.cli import lint_imports_command as run; run()"
    )
    return subprocess.run(
        [sys.executable, "-c", script, "--no-logo", "--no-cache", str(ROOT / "pyproject.toml")],
        cwd=folder,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the package, which is found before the installed one."""
    folder = tmp_path_factory.mktemp("layers")
    shutil.copytree(SOURCE, folder / "graftwork", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


LEVELS = "Packages import from lower levels only BROKEN"
ROOMS = "The rooms of experiments have an order BROKEN"
CIRCLES = "No circles BROKEN"
PLAIN = "Recipes and structures know no torch BROKEN"
QUICK = "The command line imports no torch itself BROKEN"
FOR_TYPES = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from graftwork.training.run import TrainingRun
"""
PLANTED = {
    "up": ("gates/names.py", "from graftwork.search.schedule import Schedule", LEVELS),
    "up for types": ("tuner/pool.py", FOR_TYPES, LEVELS),
    "up and late": (
        "files/hashing.py",
        "def late():\n    from graftwork.tuner.view import graft_view",
        LEVELS,
    ),
    "sideways": ("fitting/fit.py", "from graftwork.finished.extract import extract", LEVELS),
    "rooms": ("experiments/results/store.py", "from graftwork.experiments.report.tables import Table", ROOMS),
    "circle": ("files/reading.py", "from graftwork.files.yaml_file import read_yaml", CIRCLES),
    "torch": ("recipe/shares.py", "import torch", PLAIN),
    "torch further down": ("structure/ranking.py", "def late():\n    import torch", PLAIN),
    "torch in a command": ("cli/use.py", "import torch", QUICK),
    "no level": ("new/__init__.py", "", "every child of every container"),
}
"""Where a line is planted, the line, and what is then printed."""


def test_the_contracts_are_kept(copied: Path) -> None:
    done = lint(copied)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("case", PLANTED)
def test_a_planted_import_is_noticed(case: str, copied: Path) -> None:
    name, line, message = PLANTED[case]
    path = copied / "graftwork" / name
    before = path.read_text() if path.exists() else None
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{before or ''}\n{line}\n")
    try:
        done = lint(copied)
    finally:
        if before is None:
            shutil.rmtree(path.parent)
        else:
            path.write_text(before)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr


def test_folders_are_small_and_files_are_short() -> None:
    for folder in [SOURCE, *(path for path in SOURCE.rglob("*") if path.is_dir())]:
        modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(modules) <= MOST_MODULES, folder
        for path in modules:
            assert len(path.read_text().splitlines()) <= MOST_LINES, path


def test_packages_say_what_they_are_for() -> None:
    for path in SOURCE.rglob("__init__.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), path
