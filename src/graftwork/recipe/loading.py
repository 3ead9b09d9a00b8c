"""Reading a `Recipe` from YAML, and writing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graftwork.data.memory import GivenRows
from graftwork.data.task import Task
from graftwork.errors import ConfigError, GraftworkError, RecipeError
from graftwork.files.later import is_written, settled, with_earlier
from graftwork.files.places import Given, expand
from graftwork.files.yaml_file import read_yaml, values_to_yaml
from graftwork.messages import shown
from graftwork.noise.kinds import Noise
from graftwork.recipe.moving import moved_recipe
from graftwork.recipe.recipe import Recipe
from graftwork.recipe.schema import joined, read_fields
from graftwork.recipe.settings import GraftSettings
from graftwork.recipe.shares import share_slips, spelled_share
from graftwork.structure.file import named_file

__all__ = ["find_files", "load_recipe", "make_recipe", "override", "read_tasks", "recipe_to_yaml"]


def load_recipe(
    path: str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    saved: bool = False,
    places: bool = True,
) -> Recipe:
    """Read a recipe from a YAML file.

    `$NAME`, `${NAME}` and `${NAME:-default}` in `model`, `output` and the sources of tasks are environment
    variables. A relative model folder or source is looked for beside the recipe first, then in the current
    folder.

    Args:
        path: The YAML file.
        overrides: Values that replace those of the file, by dotted key: `training.epochs`, `seed`, or
            `tasks.NAME.max_train`.
        saved: The file is that of a saved model: no budget of a tenth or more is a slip. A setting that it
            lacks has the value of before there was the setting, as in any file with all older ones.
        places: Refuse environment variables that are not set; False: backbone and data are not needed.

    Raises:
        RecipeError: the file cannot be read as a recipe; the message names every fault.
    """
    path = Path(path)
    raw = read_yaml(path)
    return make_recipe(raw, overrides, folder=path.parent, where=str(path), saved=saved, places=places)


def make_recipe(
    raw: dict[str, Any],
    overrides: Mapping[str, Any] | None = None,
    *,
    folder: Path,
    where: str = "",
    saved: bool = False,
    places: bool = True,
) -> Recipe:
    """A recipe from the values of a YAML file, or from values of the same form.

    Args:
        raw: Plain values, which are changed.
        overrides: As for `load_recipe`.
        folder: Where relative places are looked for first.
        where: What the values are from, to begin messages with.
        saved: As for `load_recipe`.
        places: As for `load_recipe`.

    Raises:
        RecipeError: it is no recipe; the message names every fault.
    """
    faults: list[str] = []
    unset = faults if places else []
    for key, value in (overrides or {}).items():
        override(raw, key, value, faults)
    for name in ("model", "output", "start"):
        value = raw.get(name)
        if isinstance(value, str):
            here = name == "output" or isinstance(value, Given)  # given beside the file, not in it
            raw[name] = expand(value, None if here else folder, name, unset)
    graft = raw.get("graft", {})
    if isinstance(graft, dict) and (saved or is_written(graft, GraftSettings)):
        raw["graft"] = with_earlier(graft, GraftSettings)
    if not saved:
        faults += share_slips(Recipe, raw, "") + share_slips(GraftSettings, raw.get("graft"), "graft.")
    if isinstance(raw.get("tasks"), list):
        raw["tasks"] = [_earlier_task(task, saved) for task in raw["tasks"]]
    find_files(raw.get("graft"), folder, unset)
    tasks = read_tasks(raw.pop("tasks", None), folder, faults, unset)
    noise = read_noise(raw.pop("noise", None) or [], faults)
    settings = read_fields(Recipe, raw, "", faults, given=("tasks", "noise"))
    if not faults:
        try:
            return Recipe(tasks=tasks, noise=noise, **settings)
        except RecipeError as error:
            faults.append(str(error))
    raise RecipeError(f"{where}: {joined(faults)}" if where else joined(faults))


def recipe_to_yaml(recipe: Recipe, folder: Path | None = None) -> str:
    """The recipe as YAML that `load_recipe` reads back.

    Values at their default are written too, but for those of settings that came later
    (`graftwork.files.later`).

    Args:
        recipe: The recipe.
        folder: Where the YAML is to lie: relative paths of backbone and data are written relative to it,
            others as they were given. Without it, all are written as this process uses them.
    """
    values = settled(recipe)
    graft = values["graft"]
    for section, key in ((values, "budgets"), (graft, "budget"), (graft, "task_budget")):
        if key in section:
            section[key] = spelled_share(section[key])
    return values_to_yaml(values if folder is None else moved_recipe(values, folder))


def override(raw: dict[str, Any], key: str, value: Any, faults: list[str]) -> None:
    """Set a dotted key in the raw recipe; the tasks of the list are addressed by name."""
    *sections, last = key.split(".")
    target: Any = raw
    for i, section in enumerate(sections):
        if i == 1 and sections[0] == "tasks":
            tasks = target if isinstance(target, Sequence) else ()
            target = next(
                (task for task in tasks if isinstance(task, dict) and task.get("name") == section), None
            )
        else:
            target = target.setdefault(section, {}) if isinstance(target, dict) else None
    if not isinstance(target, dict):
        faults.append(f"cannot set {key!r}: the recipe has no {'.'.join(sections)!r}")
    else:
        target[last] = value


def find_files(section: Any, folder: Path, faults: list[str]) -> None:
    """Look beside the recipe for the files that `structure` and `cost` of a section name, in place."""
    for key in ("structure", "cost"):
        found = named_file(section.get(key)) if isinstance(section, dict) else None
        if found is not None:
            place = expand(found[1], folder, key, faults)
            section[key] = Given(found[0] + place, section[key], folder)


def _earlier_task(task: Any, saved: bool) -> Any:
    """A task of a file that may be from before a setting was there."""
    return with_earlier(task, Task) if isinstance(task, dict) and (saved or is_written(task, Task)) else task


def read_tasks(raw: Any, folder: Path, faults: list[str], unset: list[str] | None = None) -> tuple[Task, ...]:
    """The tasks of a recipe or grid; every fault is appended as one phrase.

    Args:
        raw: The list of the file.
        folder: The folder of the file.
        faults: Every fault is appended.
        unset: Environment variables that are not set are appended here, in place of `faults`.
    """
    unset = faults if unset is None else unset
    if raw is None:
        faults.append("tasks is missing; give a list of at least one task")
        return ()
    if not isinstance(raw, list):
        faults.append(f"tasks={shown(raw)} must be a list of tasks, each with at least a name")
        return ()
    tasks = []
    for i, entry in enumerate(raw):
        if not isinstance(entry, dict):
            faults.append(f"tasks[{i}]={shown(entry)} must be a mapping with at least a name")
            continue
        where = f"task {shown(entry['name'])}" if isinstance(entry.get("name"), str) else f"tasks[{i}]"
        entry = dict(entry)
        for split in ("train", "validation", "test"):
            if isinstance(entry.get(split), str) and not isinstance(entry[split], GivenRows):
                entry[split] = expand(entry[split], folder, f"{split} of {where}", unset)
        if isinstance(
            entry.get("labels"), list
        ):  # whole numbers are good class names; booleans are a trap of YAML
            entry["labels"] = [str(label) if type(label) is int else label for label in entry["labels"]]
        if isinstance(entry.get("class_weights"), dict):
            entry["class_weights"] = {
                str(label) if type(label) is int else label: value
                for label, value in entry["class_weights"].items()
            }
        before = len(faults)
        settings = read_fields(Task, entry, where, faults)
        if len(faults) == before:
            try:
                tasks.append(Task(**settings))
            except GraftworkError as error:
                faults.append(str(error).rstrip("."))
    return tuple(tasks)


def read_noise(raw: Any, faults: list[str]) -> tuple[Noise, ...]:
    """The noise of a recipe or grid: a mapping with kind and ratio, or a list of them."""
    found = []
    for i, entry in enumerate(raw if isinstance(raw, list) else [raw]):
        if not isinstance(entry, Mapping):
            faults.append(f"noise[{i}]={shown(entry)} must be a mapping with kind and ratio")
            continue
        before = len(faults)
        settings = read_fields(Noise, entry, f"noise[{i}]", faults)
        if len(faults) == before:
            try:
                found.append(Noise(**settings))
            except ConfigError as error:
                faults.append(str(error).rstrip("."))
    return tuple(found)
