"""`TaskRecipe`: one task to be added to a trained model, read from a YAML file.

It is a recipe without what a model has once for all its tasks: `model`, `graft` and `noise` are the model's,
and so are the tokens of a row and the pooling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graftwork.data.task import Task
from graftwork.errors import RecipeError
from graftwork.files.yaml_file import read_yaml
from graftwork.recipe.extension import Extension
from graftwork.recipe.loading import override, read_tasks
from graftwork.recipe.schema import joined, read_fields
from graftwork.recipe.settings import TrainingSettings
from graftwork.recipe.shares import share_slips
from graftwork.search.schedule import Schedule

__all__ = ["TaskRecipe", "load_task_recipe"]

OF_THE_MODEL = ("model", "graft", "noise", "training.max_length", "training.pooling", "training.image_size")
"""Settings that the recipe of an added task may not have, as they are those of the model."""


@dataclass(frozen=True)
class TaskRecipe:
    """One run that adds a task.

    Raises:
        RecipeError: the seed is out of range.

    Example:
        >>> recipe = gw.TaskRecipe(gw.Task("words", "data/words"), extend=gw.Extension(private=2))
        >>> recipe.extend.private, recipe.schedule.discretise
        (2, 0.6)
    """

    task: Task
    """The new task."""
    extend: Extension = field(default_factory=Extension)
    """What the task may use of the model, and bring along."""
    schedule: Schedule = field(default_factory=Schedule)
    """Phases of the search for its path."""
    training: TrainingSettings = field(default_factory=TrainingSettings)
    """Training loop; tokens per row and pooling are the model's."""
    seed: int = 0
    """Seed of the training; the data are split with the model's."""

    def __post_init__(self) -> None:
        """Check what the sections do not check themselves."""
        if not 0 <= self.seed < 2**32:
            raise RecipeError(f"seed={self.seed} must be a whole number from 0 to {2**32 - 1}")


def load_task_recipe(path: str | Path, overrides: Mapping[str, Any] | None = None) -> TaskRecipe:
    """Read the recipe of an added task from a YAML file.

    Args:
        path: The YAML file, with `tasks` (a list of the one new task) and perhaps `extend`, `schedule`,
            `training` and `seed`.
        overrides: Values that replace those of the file, by dotted key, as for `load_recipe`.

    Raises:
        RecipeError: the file cannot be read as such a recipe; the message names every fault.
    """
    path = Path(path)
    raw = read_yaml(path, "recipe of an added task", "tasks, a list of the one new task")
    faults: list[str] = []
    for key, value in (overrides or {}).items():
        override(raw, key, value, faults)
    for key in OF_THE_MODEL:
        section, _, name = key.partition(".")
        holder = raw.get(section) if name else raw
        if isinstance(holder, dict) and (name or section) in holder:
            faults.append(f"{key} is that of the trained model; remove it")
            del holder[name or section]
    if "output" in raw:
        faults.append("output is given on the command line; remove it")
        del raw["output"]
    faults += share_slips(Extension, raw.get("extend"), "extend.")
    tasks = read_tasks(raw.pop("tasks", None), path.parent, faults)
    settings = read_fields(TaskRecipe, raw, "", faults, given=("task",))
    if len(tasks) != 1 and not faults:
        faults.append(f"tasks has {len(tasks)} tasks; give the one that is to be added")
    if not faults:
        try:
            return TaskRecipe(task=tasks[0], **settings)
        except RecipeError as error:
            faults.append(str(error))
    raise RecipeError(f"{path}: {joined(faults)}")
