"""Where backbones and data are, written so that a project can be moved.

A relative path in a file is relative to the folder of that file. When it is written into a file of another
folder, it is rewritten; absolute paths, names in packages and on the hub, and text with environment variables
stay as the user gave them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graftwork.files import exists
from graftwork.structure_file import named_file

__all__ = ["PREFIXES", "VARIABLE", "Given", "moved", "moved_recipe"]

VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}|\$(?P<bare>\w+)")
PREFIXES = ("package:", "hub:")
"""Of names that are no path."""
SOURCES = ("train", "validation", "test")


class Given(str):
    """A place as it is used, which remembers how it was given.

    Attributes:
        given: what the user wrote.
        folder: the folder of the file in which it was written; None if it was written in no file.
    """

    given: str
    folder: Path | None

    def __new__(cls, value: str, given: str, folder: Path | None = None) -> Given:
        """A string with two attributes."""
        place = super().__new__(cls, value)
        place.given, place.folder = given, folder
        return place

    def __getnewargs__(self) -> tuple[str, str, Path | None]:  # type: ignore[override]
        """For copies and pickles."""
        return str(self), self.given, self.folder


def moved(text: str, after: Path, before: Path | None = None) -> str:
    """A place as it is to be written in a file of another folder.

    Args:
        text: the place; a `Given` brings its own folder.
        after: the folder in which it is to be written.
        before: the folder in which it is written now; what is not there may be in the current folder.

    Returns:
        A path relative to `after`, if `text` is a relative path to what exists, or
        `${NAME:-DEFAULT}` with such a default; else the text as it was given.
    """
    if isinstance(text, Given):
        before, text = text.folder, text.given
    variable = VARIABLE.match(text)
    default = variable["default"] if variable else None
    if variable and default and not VARIABLE.search(text, variable.end()):
        base = _base(default + text[variable.end() :], before)
        if base is None:
            return text
        return f"${{{variable['name']}:-{_relative(base / default, after)}}}{text[variable.end() :]}"
    base = None if VARIABLE.search(text) else _base(text, before)
    return text if base is None else _relative(base / text, after)


def _base(text: str, folder: Path | None) -> Path | None:
    """The folder to which a place is relative; None if it is none, or not there."""
    if not text or text.startswith((*PREFIXES, "~")) or os.path.isabs(text):
        return None
    return next((base for base in (folder, Path()) if base is not None and exists(base / text)), None)


def _relative(target: Path, folder: Path) -> str:
    """The path from a folder to a target; symbolic links are kept where the path then still leads there."""
    place = os.path.realpath(folder)
    path = os.path.relpath(os.path.abspath(target), os.path.abspath(folder))
    if os.path.realpath(os.path.join(place, path)) != os.path.realpath(target):
        path = os.path.relpath(os.path.realpath(target), place)
    # With a dot in front it is never taken for a name on the hub.
    return path if path.startswith(os.pardir) else os.path.join(os.curdir, path)


def moved_recipe(values: Mapping[str, Any], after: Path, before: Path | None = None) -> dict[str, Any]:
    """The values of a recipe as they are to be written in another folder.

    Args:
        values: as YAML gives them, or with `Given` places.
        after: the folder in which the recipe is to be written.
        before: the folder in which it is written now.
    """
    result = dict(values)
    if isinstance(values.get("model"), str):
        result["model"] = moved(values["model"], after, before)
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
