"""Groups of tasks as plain data: lists of names that hold each task once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graftwork.errors import ConfigError

__all__ = ["check_groups"]


def check_groups(groups: Any, tasks: Sequence[str]) -> list[list[int]]:
    """The groups as indices of the tasks.

    Raises:
        ConfigError: they are no partition of the tasks.
    """
    if groups is None:
        raise ConfigError(
            "groups= is missing: lists of the tasks that share adapters; "
            "gw.group_tasks(gw.input_distances(model, batches, tasks), tasks) finds them."
        )
    named = sorted(name for group in groups for name in group)
    if named != sorted(tasks) or not all(groups):
        raise ConfigError(
            f"groups={groups!r} must hold each of the tasks {', '.join(tasks)} once, in groups that are not "
            "empty."
        )
    return [[list(tasks).index(name) for name in group] for group in groups]
