"""Reading YAML and JSON that somebody else may have written, by mistake or on purpose.

Whatever stands in a file, reading it ends in plain values or in an error of one line, soon and in memory that
the size of the file bounds.
"""

from __future__ import annotations

import json
import math
import numbers
import os
from pathlib import Path
from typing import IO, Any

import yaml

from graftwork.messages import shown

__all__ = [
    "exists",
    "is_finite",
    "parse_json",
    "parse_yaml",
    "read_json",
    "read_regular",
    "read_yaml_text",
    "user_path",
]

LARGEST_YAML = 2**18
"""Largest YAML file, in bytes: a recipe has a few thousand, and PyYAML takes seconds for this many."""

MOST_NODES = 50_000
"""Largest number of values of a YAML file; an alias counts as much as what it repeats."""

DEEPEST = 40
"""Largest number of nested levels of a YAML file."""


def is_finite(value: object) -> bool:
    """Whether a value is a number, no bool, that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def user_path(text: str | Path) -> Path:
    """The path with `~` filled in; one that names no user stays as it is."""
    return Path(os.path.expanduser(text))


def exists(path: Path) -> bool:
    """Whether a file or folder exists; False also for a value that cannot be a path."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def parse_json(text: str) -> Any:
    """The values of a JSON text.

    Raises:
        ValueError: it is not JSON (a `json.JSONDecodeError`, which names the place), too deep, or has
            a number of more than 4,300 digits.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError:
        raise
    except ValueError:
        raise ValueError("it has a number of more than 4,300 digits") from None


def read_regular(path: Path) -> bytes:
    """The content of a regular file: a device or a pipe may have no end.

    Raises:
        OSError: it is missing, something else, or cannot be read.
        ValueError: the path has a null character.
    """
    if not path.is_file():
        path.stat()  # says what is wrong, if it is missing or a broken link
        raise OSError(f"{path} is not a regular file")
    return path.read_bytes()


def read_json(path: Path) -> Any:
    """The values of a JSON file.

    Raises:
        OSError: it is missing, not a regular file, or cannot be read.
        ValueError: it is not UTF-8 or not JSON (`parse_json`).
    """
    return parse_json(read_regular(path).decode("utf-8"))


def read_yaml_text(path: Path) -> str:
    """The text of a YAML file, which may be a pipe.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not UTF-8, or larger than a recipe can be.
    """
    with path.open("rb") as file:
        content = file.read(LARGEST_YAML + 1)
    if len(content) > LARGEST_YAML:
        raise ValueError(f"it is larger than {LARGEST_YAML:,} bytes")
    return content.decode("utf-8")


def parse_yaml(text: str) -> Any:
    """The plain values of a YAML text.

    Aliases are resolved, as long as what they stand for stays small: nine aliases of nine aliases, and
    so on for forty levels, are a kilobyte that fits no memory.

    Raises:
        yaml.YAMLError: it is not YAML; a key is given twice; a value is not of the kind that its form says;
            or it is too large or too deep.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """YAML's plain types, of bounded size, each key once."""

    def __init__(self, stream: str | IO[str]) -> None:
        super().__init__(stream)
        self._nodes = 0
        self._heights = [0]
        self._anchors: dict[str, tuple[int, int]] = {}
        """Nodes and levels below every anchor whose node is complete."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in self.anchors and event.anchor not in self._anchors:
                raise self._error(f"*{event.anchor} stands inside of what it stands for", event)
            size, height = self._anchors.get(str(event.anchor), (0, 0))
            node = super().compose_node(parent, index)
        else:
            before = self._nodes
            self._heights.append(0)
            self._check(event, len(self._heights))
            node = super().compose_node(parent, index)
            size, height = 1, self._heights.pop() + 1
            if event.anchor is not None:
                self._anchors[event.anchor] = (self._nodes - before + 1, height)
        self._nodes += size
        self._heights[-1] = max(self._heights[-1], height)
        self._check(event, len(self._heights) + height)
        return node

    def _check(self, event: Any, depth: int) -> None:
        if depth > DEEPEST:
            raise self._error(f"it is nested more than {DEEPEST} levels deep", event)
        if self._nodes > MOST_NODES:
            raise self._error(f"it comes to more than {MOST_NODES:,} values", event)

    @staticmethod
    def _error(problem: str, event: Any) -> yaml.YAMLError:
        return yaml.composer.ComposerError(None, None, problem, event.start_mark)

    def compose_mapping_node(self, anchor: Any) -> Any:
        node: Any = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise self._error(f"the key {shown(key.value)} is given twice", key)
                seen.add((key.tag, key.value))
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError) as error:
            raise yaml.constructor.ConstructorError(
                None, None, f"{shown(node.value)} is not what its form says ({error})", node.start_mark
            ) from error
