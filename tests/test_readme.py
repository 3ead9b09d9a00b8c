"""The README's recipe and Python examples do what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import graftwork as gw
from graftwork.cli.parser import build_parser
from graftwork.recipe.loading import load_recipe

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def test_recipe_with_hub_names(tmp_path: Path) -> None:
    (recipe,) = blocks("yaml")
    (tmp_path / "recipe.yaml").write_text(recipe, encoding="utf-8")
    assert [task.name for task in load_recipe(tmp_path / "recipe.yaml").tasks] == ["sentiment", "topics"]


def test_python_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, make, load = blocks("python")  # the first needs the quick start: tests/test_quickstart.py
    names: dict[str, Any] = {}
    exec(compile(make, "README.md", "exec"), names)
    assert names["structure"].tasks == ("sentiment", "topics")
    fresh = {"backbone": type(names["backbone"])(names["backbone"].config)}
    exec(compile(load, "README.md", "exec"), fresh)
    assert gw.structure_of(fresh["model"]) == names["structure"]


def test_commands_are_understood() -> None:
    names = "fit|show|evaluate|predict|extract|export|compare|report|add-task|remove-task"
    commands = re.findall(rf"graftwork (?:{names}) [^|\n`]+", README)
    assert len(commands) >= 10
    for command in commands:
        if "--help" not in command:
            build_parser().parse_args(shlex.split(command)[1:])


def test_make_targets_exist() -> None:
    makefile = (Path(__file__).parent.parent / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make ([a-z-]+)", README, flags=re.MULTILINE):
        assert f"\n{target}:" in makefile
