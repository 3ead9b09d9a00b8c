"""Result files name no place of the machine that made them, for they are read elsewhere."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

__all__ = ["as_given", "without_places"]

_BEFORE = r"(?<![\w.~$}/:*-])"
"""What is before a slash that begins a path: nothing of a longer path, of a variable or of an address."""
_FOLDERS = re.compile(_BEFORE + r"/(?:[\w.@+~-]+/)+")


def as_given(text: str, folder: Path) -> str:
    """A path as a file says it, variables and all; an absolute one as seen from the file's folder."""
    return os.path.relpath(text, folder) if os.path.isabs(text) else text


def without_places(text: str, known: Mapping[str, str]) -> str:
    """A message or traceback without absolute paths.

    Files of Python's own search path are named from there, what is known as it was given, and of anything
    else the last part is left, after "...".

    Args:
        text: any number of lines.
        known: paths, and what to call them.
    """
    names = {path: name for path, name in known.items() if os.path.isabs(path)}
    names |= {os.path.join(path, ""): "" for path in sys.path if os.path.isabs(path) and path != os.sep}
    for path in sorted(names, key=len, reverse=True):
        text = re.sub(_BEFORE + re.escape(path), names[path].replace("\\", r"\\"), text)
    return _FOLDERS.sub(".../", text)
