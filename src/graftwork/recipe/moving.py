"""Recipes written into another folder: their relative places are rewritten."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from graftwork.files.places import Given, moved
from graftwork.structure.file import named_file

__all__ = ["moved_recipe"]

SOURCES = ("train", "validation", "test")
"""Fields of a task that may name a file."""


def moved_recipe(
    values: Mapping[str, Any], after: Path, before: Path | None = None, *, current: bool = True
) -> dict[str, Any]:
    """The values of a recipe as they are to be written in another folder.

    Args:
        values: as YAML gives them, or with `Given` places.
        after: the folder in which the recipe is to be written.
        before: the folder in which it is written now.
        current: what is not there may be in the current folder, too.
    """

    def placed(text: str) -> str:
        return moved(text, after, before, current=current)

    result = dict(values)
    for key in ("model", "start"):
        if isinstance(values.get(key), str):
            result[key] = placed(values[key])
    if isinstance(values.get("output"), Given):
        result["output"] = values["output"].given
    graft = values.get("graft")
    if isinstance(graft, Mapping):
        files = {key: graft[key] for key in ("structure", "cost") if named_file(graft.get(key))}
        result["graft"] = {**graft, **{key: _moved_file(text, placed) for key, text in files.items()}}
    tasks = values.get("tasks")
    if isinstance(tasks, list | tuple):
        result["tasks"] = [_moved_task(task, placed) for task in tasks]
    return result


def _moved_task(task: Any, placed: Callable[[str], str]) -> Any:
    if not isinstance(task, Mapping):
        return task
    found = {key: task[key] for key in SOURCES if isinstance(task.get(key), str)}
    return {**task, **{key: placed(text) for key, text in found.items()}}


def _moved_file(text: str, placed: Callable[[str], str]) -> str:
    """The same for `file:PATH` and `task:NAME:PATH`."""
    given = text.given if isinstance(text, Given) else text
    prefix, path = named_file(given) or ("", given)
    return prefix + placed(Given(path, path, text.folder) if isinstance(text, Given) else path)
