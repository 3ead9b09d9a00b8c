"""Fields that came later leave older files and keys as they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from graftwork.data.task import Task
from graftwork.errors import CheckpointError
from graftwork.files.later import LATER, is_written, later, settled, with_earlier, without_later
from graftwork.kinds.heads import TaskHead
from graftwork.recipe.loading import load_recipe, recipe_to_yaml
from graftwork.recipe.recipe import Recipe
from graftwork.recipe.settings import GraftSettings


@dataclass(frozen=True)
class Settings:
    old: int = 1
    new: tuple[int, ...] = field(default=(1, 2), metadata=LATER)
    made: dict[str, int] = field(default_factory=dict, metadata=LATER)


def test_later_fields_are_left_out_at_their_default_only() -> None:
    assert settled(Settings()) == {"old": 1}
    assert settled([Settings(new=(3,)), {"inside": Settings(made={"a": 1})}]) == [
        {"old": 1, "new": (3,)},
        {"inside": {"old": 1, "made": {"a": 1}}},
    ]


def test_a_file_that_has_them_reads_as_one_that_has_not() -> None:
    assert without_later({"old": 1, "new": [1, 2], "made": {}}, Settings) == {"old": 1}
    assert without_later({"old": 1, "new": [1], "unknown": 0}, Settings) == {
        "old": 1,
        "new": [1],
        "unknown": 0,
    }


@dataclass(frozen=True)
class Changed:
    old: int = 1
    new: float = field(default=2.0, metadata=later(before=1.0))


def test_a_default_that_is_not_what_was_done_before() -> None:
    assert settled(Changed()) == {"old": 1, "new": 2.0}
    assert settled(Changed(new=1.0)) == {"old": 1}
    assert without_later({"new": 1.0}, Changed) == {}
    assert with_earlier({"old": 3}, Changed) == {"old": 3, "new": 1.0}
    assert with_earlier({"new": 2.0}, Changed) == {"new": 2.0}
    assert is_written({"old": 1}, Changed)
    assert not is_written({"new": 1.0}, Changed)


@pytest.mark.parametrize("scale", ["auto", 1.0, 0.3])
def test_a_recipe_that_was_written_is_read_with_its_scale(scale: float | str, tmp_path: Path) -> None:
    task = Task("colour", train="colour.jsonl")
    recipe = Recipe("model", (task,), "out", graft=GraftSettings(budget=0.05, scale=scale))
    (tmp_path / "recipe.yaml").write_text(recipe_to_yaml(recipe))
    for saved in (True, False):
        assert load_recipe(tmp_path / "recipe.yaml", saved=saved).graft == recipe.graft
    by_hand = yaml.safe_load(recipe_to_yaml(recipe))
    by_hand["graft"] = {"budget": "5%"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(by_hand))
    assert load_recipe(tmp_path / "recipe.yaml").graft.scale == "auto"


def test_recipes_and_heads_leave_them_out() -> None:
    task = Task("colour", train="colour.jsonl")
    written = yaml.safe_load(recipe_to_yaml(Recipe("model", (task,), "out", graft=GraftSettings(budget=0.1))))
    assert "gate_start" not in written["graft"]
    assert written["graft"]["pool_size"] == 32
    head = task.head(["red", "blue"])
    assert TaskHead.from_dict(head.as_dict()) == head


def test_weights_of_classes_are_in_a_head_only_if_there_are_any() -> None:
    task = Task("colour", train="colour.jsonl", class_weights={"red": 2.0})
    assert "class_weights" not in Task("colour").as_dict()
    assert Task.from_dict(task.as_dict()) == task
    head = task.head(["red", "blue"], class_weights=(1.5, 0.5))
    assert TaskHead.from_dict(head.as_dict()) == head
    assert "class_weights" not in task.head(["red", "blue"]).as_dict()
    with pytest.raises(CheckpointError, match="class_weights"):
        TaskHead.from_dict({**head.as_dict(), "class_weights": [1.0]})
