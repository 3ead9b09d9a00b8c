"""The README's recipe and Python examples do what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import graftwork as gw
from graftwork.recipe import load_recipe

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def test_recipe_with_hub_names(tmp_path: Path) -> None:
    (recipe,) = blocks("yaml")
    (tmp_path / "recipe.yaml").write_text(recipe, encoding="utf-8")
    assert [task.name for task in load_recipe(tmp_path / "recipe.yaml").tasks] == ["sentiment", "topics"]


def test_python_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make, load = blocks("python")
    names: dict[str, Any] = {}
    exec(compile(make, "README.md", "exec"), names)
    assert names["structure"].tasks == ("sentiment", "topics")
    fresh = {"backbone": type(names["backbone"])(names["backbone"].config)}
    exec(compile(load, "README.md", "exec"), fresh)
    assert gw.structure_of(fresh["model"]) == names["structure"]
