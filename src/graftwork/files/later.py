"""Settings that came later: at their default they are left out of files and keys, which stay as they were."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

__all__ = [
    "LATER",
    "is_later_default",
    "is_written",
    "later",
    "settled",
    "with_earlier",
    "without_later",
]

LATER: dict[str, Any] = {"later": True}
"""Metadata of a field that files and keys leave out at its default, as older ones do not have it."""


def later(before: object) -> dict[str, Any]:
    """Metadata like `LATER` for a field whose default is not what was done before there was the field.

    Args:
        before: the value that says what was done then: files and keys leave it out, not the default.
    """
    return {**LATER, "before": before}


def is_later_default(entry: dataclasses.Field[Any], value: object) -> bool:
    """Whether a field has the value that `LATER` or `later` leaves out; files hold lists for tuples."""
    if not entry.metadata.get("later"):
        return False
    default = entry.default if entry.default_factory is dataclasses.MISSING else entry.default_factory()
    default = entry.metadata.get("before", default)
    return value == (list(default) if isinstance(value, list) and isinstance(default, tuple) else default)


def settled(item: Any) -> Any:
    """A dataclass, and all it holds, as mappings, without fields of `LATER` that have their default."""
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        found = {entry.name: getattr(item, entry.name) for entry in dataclasses.fields(item)}
        return {
            entry.name: settled(found[entry.name])
            for entry in dataclasses.fields(item)
            if not is_later_default(entry, found[entry.name])
        }
    if isinstance(item, Mapping):
        return {key: settled(value) for key, value in item.items()}
    return type(item)(map(settled, item)) if isinstance(item, list | tuple) else item


def without_later(values: Mapping[str, Any], cls: type) -> dict[str, Any]:
    """A file's values for the dataclass `cls`, without fields of `LATER` that have their default."""
    fields = {entry.name: entry for entry in dataclasses.fields(cls)}
    return {
        key: value
        for key, value in values.items()
        if key not in fields or not is_later_default(fields[key], value)
    }


def with_earlier(values: Mapping[str, Any], cls: type) -> dict[str, Any]:
    """A file's values for `cls`, with the value of before for fields of `later` that the file lacks."""
    earlier = {
        entry.name: entry.metadata["before"]
        for entry in dataclasses.fields(cls)
        if "before" in entry.metadata
    }
    return {**earlier, **values}


def is_written(values: Mapping[str, Any], cls: type) -> bool:
    """Whether a file has every field of `cls` that did not come later.

    Then it was written from all settings, and lacks those that `with_earlier` fills in. By hand one names a
    few, and means the defaults of now.
    """
    return all(entry.name in values for entry in dataclasses.fields(cls) if not entry.metadata.get("later"))
