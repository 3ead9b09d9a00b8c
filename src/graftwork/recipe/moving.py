"""Recipes written into another folder: their relative places are rewritten."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graftwork.files.places import Given, moved
from graftwork.structure.file import named_file

__all__ = ["moved_recipe"]

SOURCES = ("train", "validation", "test")
"""Fields of a task that may name a file."""


def moved_recipe(values: Mapping[str, Any], after: Path, before: Path | None = None) -> dict[str, Any]:
    """The values of a recipe as they are to be written in another folder.

    Args:
        values: as YAML gives them, or with `Given` places.
        after: the folder in which the recipe is to be written.
        before: the folder in which it is written now.
    """
    result = dict(values)
    for key in ("model", "start"):
        if isinstance(values.get(key), str):
            result[key] = moved(values[key], after, before)
    if isinstance(values.get("output"), Given):
        result["output"] = values["output"].given
    graft = values.get("graft")
    if isinstance(graft, Mapping):
        files = {key: graft[key] for key in ("structure", "cost") if named_file(graft.get(key))}
        result["graft"] = {**graft, **{key: _moved_file(text, after, before) for key, text in files.items()}}
    tasks = values.get("tasks")
    if isinstance(tasks, list | tuple):
        result["tasks"] = [_moved_task(task, after, before) for task in tasks]
    return result


def _moved_task(task: Any, after: Path, before: Path | None) -> Any:
    if not isinstance(task, Mapping):
        return task
    found = {key: task[key] for key in SOURCES if isinstance(task.get(key), str)}
    return {**task, **{key: moved(text, after, before) for key, text in found.items()}}


def _moved_file(text: str, after: Path, before: Path | None) -> str:
    """The same for `file:PATH` and `task:NAME:PATH`."""
    if isinstance(text, Given):
        before, text = text.folder, text.given
    prefix, path = named_file(text) or ("", text)
    return prefix + moved(path, after, before)
