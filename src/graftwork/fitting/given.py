"""What is given in Python becomes a `Recipe`: settings as mappings, and rows that are in memory."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from graftwork.data.memory import GivenRows
from graftwork.data.sources import split_file
from graftwork.data.tables import given_rows, is_table, splits_of
from graftwork.data.task import SPLITS
from graftwork.errors import CheckpointError, DataError, RecipeError
from graftwork.files.later import settled
from graftwork.files.places import Given, expand
from graftwork.files.reading import user_path
from graftwork.files.yaml_file import read_yaml
from graftwork.messages import listed, shown
from graftwork.models.files import FILES
from graftwork.recipe.loading import make_recipe
from graftwork.recipe.recipe import Recipe

__all__ = ["given_recipe"]

SECTIONS = ("graft", "schedule", "training")
"""Settings of a recipe that are mappings; beside a recipe, they replace only the keys that they have."""


def given_recipe(
    recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str] | None,
    settings: Mapping[str, Any],
    *,
    output: str | None = None,
) -> tuple[Recipe, list[str]]:
    """The recipe that somebody means in Python.

    Args:
        recipe: a recipe, its path, or a mapping of the same form; None: the settings are all there is.
        settings: values that replace those of the recipe.
        output: where the model is written if neither of them says it.

    Returns:
        The recipe, and notes on what is left out of the data.

    Raises:
        RecipeError: settings are wrong; the message names every fault.
        DataError: rows are in no form that can be read.
    """
    if isinstance(recipe, Recipe):
        if settings:
            raise RecipeError(
                f"a Recipe is complete, but {listed(settings)} is given beside it; use "
                "dataclasses.replace(recipe, ...), or give its path or a mapping."
            )
        return recipe, []
    notes: list[str] = []
    saved = False
    settings = dict(settings)
    start = settings.get("start")
    if isinstance(start, str | os.PathLike):  # relative to the current folder, not to that of a recipe
        settings["start"] = Given(os.fspath(start), os.fspath(start))
    raw: dict[str, Any]
    if recipe is None and isinstance(start, str | os.PathLike):
        folder, saved = user_path(Path(start)), True
        raw, where = _recipe_of_model(folder), f"{folder / FILES.recipe}"
    elif recipe is None:
        raw, folder, where = {}, Path(), ""
    elif isinstance(recipe, Mapping):
        raw, folder, where = _settings(recipe, notes), Path(), ""
    elif isinstance(recipe, str | os.PathLike):
        path = Path(recipe)
        raw, folder, where = read_yaml(path), path.parent, str(path)
    else:
        raise RecipeError(
            f"recipe is {shown(recipe)}; give the path of a YAML file, a mapping of the same form, a Recipe, "
            "or none and its settings by keyword."
        )
    changes = _by_key(_settings(settings, notes))
    if saved and "tasks" in changes:
        changes["tasks"] = [_completed(task, raw["tasks"], folder) for task in changes["tasks"]]
    if output is not None and "output" not in changes:
        raw.setdefault("output", output)
    return make_recipe(raw, changes, folder=folder, where=where, saved=saved), notes


def _recipe_of_model(folder: Path) -> dict[str, Any]:
    """The values of the recipe of a finished model, but for its output.

    Raises:
        CheckpointError: the folder has none.
        RecipeError: it cannot be read.
    """
    path = folder / FILES.recipe
    if not path.is_file():
        raise CheckpointError(f"{folder} is no model to go on from: it has no {FILES.recipe}.")
    raw = read_yaml(path)
    raw.pop("output", None)
    raw["tasks"] = [task for task in raw.get("tasks") or () if isinstance(task, dict)]
    return raw


def _completed(task: Any, known: Sequence[Mapping[str, Any]], folder: Path) -> Any:
    """A task with what it does not say from the recipe of the model in the folder.

    Splits that lie beside the train source of that recipe stay where they are if only train is replaced.
    """
    name = task.get("name") if isinstance(task, Mapping) else None
    old = next((old for old in known if old.get("name") == name), None)
    if old is None:
        return task
    train = expand(str(old.get("train")), folder, "train", [])
    beside = {}
    for split in SPLITS[1:]:
        with suppress(DataError):  # a source that is gone has no splits beside it
            beside[split] = split_file(train, split)
    return {**{key: value for key, value in beside.items() if value}, **_without_nulls(old), **task}


def _without_nulls(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are given."""
    return {key: value for key, value in values.items() if value is not None}


def _settings(values: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Settings as a YAML file would give them; the rows of tasks become `GivenRows`."""
    found = {key: _plain(value) for key, value in values.items() if key != "tasks"}
    if values.get("tasks") is not None:
        found["tasks"] = _tasks(values["tasks"], notes)
    return found


def _by_key(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values by dotted key, so that a section replaces only what it has."""
    changes: dict[str, Any] = {}
    for key, value in values.items():
        if key in SECTIONS and isinstance(value, Mapping):
            changes |= {f"{key}.{name}": item for name, item in value.items()}
        else:
            changes[key] = value
    return changes


def _plain(value: Any) -> Any:
    """A value with strings for paths, lists for tuples, and mappings for objects of settings."""
    if isinstance(value, GivenRows | Given):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain({entry.name: getattr(value, entry.name) for entry in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _tasks(tasks: Any, notes: list[str]) -> list[Any]:
    """The list of a recipe, from such a list or from a mapping of names to data or settings."""
    if isinstance(tasks, Mapping):
        entries = [_entry(name, given, notes) for name, given in tasks.items()]
    elif isinstance(tasks, list | tuple):
        entries = []
        for task in tasks:
            task = _settled(task)
            named = isinstance(task, Mapping)
            entries.append({**task, **_sources(str(task.get("name")), task, notes)} if named else task)
    else:
        raise RecipeError(
            f"tasks is {shown(tasks)}; give a mapping of names to data, such as {{'sentiment': rows}}, or a "
            "list as in a recipe."
        )
    return [_plain(entry) for entry in entries]


def _settled(task: Any) -> Any:
    """A `Task` as a mapping; anything else as it is."""
    return settled(task) if dataclasses.is_dataclass(task) and not isinstance(task, type) else task


def _entry(name: Any, given: Any, notes: list[str]) -> dict[str, Any]:
    """The settings of a task that is given by its name."""
    given = _settled(given)
    if splits_of(given) is not None or is_table(given) or isinstance(given, str | os.PathLike):
        given = {"train": given}
    if not isinstance(given, Mapping):
        raise DataError(
            f"task {shown(name)} is {shown(given)}; give its rows (a path, a list of mappings, a DataFrame, "
            "a datasets.Dataset or DatasetDict), or a mapping of settings with them as train."
        )
    if given.get("name", name) != name:
        raise RecipeError(f"task {shown(name)} has the name {shown(given['name'])}; give one of them.")
    return {"name": name, **given, **_sources(str(name), given, notes)}


def _sources(task: str, given: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """The splits of a task that are rows; a `DatasetDict` as train may bring them all."""
    sources = {split: given[split] for split in SPLITS if given.get(split) is not None}
    if not sources:
        raise DataError(
            f"task {shown(task)} has no data; give train (a path, a list of mappings, a DataFrame, a "
            "datasets.Dataset or DatasetDict), and validation and test if they are apart."
        )
    splits = splits_of(sources.get("train"))
    if splits is not None:
        if "train" not in splits:
            raise DataError(
                f"the DatasetDict of task {shown(task)} has no split 'train' (its splits: "
                f"{listed(splits) or 'none'}); name it so, or give train=, validation= and test=."
            )
        sources = {**{split: splits[split] for split in SPLITS if split in splits}, **_without_train(sources)}
        left = [split for split in splits if split not in SPLITS]
        if left:
            notes.append(f"task {task!r}: {listed(left)} of its DatasetDict is not used")
    return {
        split: value if isinstance(value, str | os.PathLike) else given_rows(value, task, split)
        for split, value in sources.items()
    }


def _without_train(sources: Mapping[str, Any]) -> dict[str, Any]:
    return {split: value for split, value in sources.items() if split != "train"}
