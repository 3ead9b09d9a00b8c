"""Where backbones and data are, written so that a project can be moved.

A relative path in a file is relative to the folder of that file. When it is written into a file of another
folder, it is rewritten; absolute paths, names in packages and on the hub, and text with environment variables
stay as the user gave them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from graftwork.files.reading import exists

__all__ = ["MEMORY", "PREFIXES", "VARIABLE", "Given", "expand", "moved"]

VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}|\$(?P<bare>\w+)")
"""A variable of the environment in a place: `$NAME`, `${NAME}` or `${NAME:-DEFAULT}`."""

MEMORY = "memory:"
"""Prefix of the name of rows that were given in Python, and are in no file."""
PREFIXES = ("package:", "hub:", MEMORY)
"""Prefixes of sources that are no paths."""


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


def moved(text: str, after: Path, before: Path | None = None, *, current: bool = True) -> str:
    """A place as it is to be written in a file of another folder.

    Args:
        text: the place; a `Given` brings its own folder.
        after: the folder in which it is to be written.
        before: the folder in which it is written now.
        current: what is not there may be in the current folder.

    Returns:
        A path relative to `after`, if `text` is a relative path to what exists, or
        `${NAME:-DEFAULT}` with such a default; else the text as it was given.
    """
    if isinstance(text, Given):
        before, text = text.folder, text.given
    variable = VARIABLE.match(text)
    default = variable["default"] if variable else None
    if variable and default and not VARIABLE.search(text, variable.end()):
        base = _base(default + text[variable.end() :], before, current)
        if base is None:
            return text
        return f"${{{variable['name']}:-{_relative(base / default, after)}}}{text[variable.end() :]}"
    base = None if VARIABLE.search(text) else _base(text, before, current)
    return text if base is None else _relative(base / text, after)


def _base(text: str, folder: Path | None, current: bool) -> Path | None:
    """The folder to which a place is relative; None if it is none, or not there."""
    if not text or text.startswith((*PREFIXES, "~")) or os.path.isabs(text):
        return None
    folders = [folder, Path()] if current else [folder]
    return next((base for base in folders if base is not None and exists(base / text)), None)


def _relative(target: Path, folder: Path) -> str:
    """The path from a folder to a target; symbolic links are kept where the path then still leads there."""
    place = os.path.realpath(folder)
    path = os.path.relpath(os.path.abspath(target), os.path.abspath(folder))
    if os.path.realpath(os.path.join(place, path)) != os.path.realpath(target):
        path = os.path.relpath(os.path.realpath(target), place)
    # With a dot in front it is never taken for a name on the hub.
    return path if path.startswith(os.pardir) else os.path.join(os.curdir, path)


def _is_downloaded(folder: Path) -> bool:
    """Whether a folder is in the cache of the hub, where others have written what it holds."""
    from huggingface_hub import constants

    return Path(os.path.abspath(folder)).is_relative_to(os.path.abspath(constants.HF_HUB_CACHE))


def expand(given: str, folder: Path | None, where: str, faults: list[str]) -> Given:
    """Fill in environment variables and find a relative path beside the recipe.

    Args:
        given: A path, or a name with one of `PREFIXES`.
        folder: The folder of the recipe; None: leave relative paths as they are.
        where: What the value is, for messages.
        faults: A variable that is not set and has no default is appended, and any of a model of the hub.
    """
    foreign = VARIABLE.search(given) is not None and folder is not None and _is_downloaded(folder)

    def fill(match: re.Match[str]) -> str:
        name = match["name"] or match["bare"]
        if foreign:
            # It would become part of a name that is asked for, or of a message.
            faults.append(f"{where} uses the environment variable {name}, which a model of the hub may not")
            return ""
        if name not in os.environ and match["default"] is None:
            faults.append(
                f"{where} uses the environment variable {name}, which is not set; set it, or give a default "
                f"as ${{{name}:-default}}"
            )
        return os.environ.get(name) or match["default"] or ""

    value = VARIABLE.sub(fill, given)
    if not value.startswith(PREFIXES):
        value = os.path.expanduser(value)
        if folder is not None and value and exists(folder / value):
            value = str(folder / value)
    return Given(value, given, folder)
