"""The setting `pairs` of a task."""

from __future__ import annotations

from typing import Any, Literal, get_args

from graftwork.kinds.kind import TaskSettings
from graftwork.messages import shown

__all__ = ["Pairs", "PairsSetting", "default_pairs", "pairs_faults"]

Pairs = Literal["joint", "separate"]
"""How a model reads the two texts of a row."""
PairsSetting = Literal["joint", "separate", "auto"]
"""What a recipe says of it."""


def default_pairs(task: TaskSettings, kind: Any) -> PairsSetting:
    """What a task does that says nothing: a head can compare two texts in both ways, and `auto` finds out.

    Args:
        task: that reads one text or two.
        kind: of the task (`graftwork.kinds.kind.Kind`).
    """
    if kind.per == "pair":
        return "separate"
    return "auto" if len(task.text_fields) == 2 and not kind.written and kind.per != "token" else "joint"


def pairs_faults(setting: Any, task: TaskSettings, kind: Any) -> list[str]:
    """What is wrong with the setting of a task.

    Args:
        setting: as it was given; None if it was not.
        task: whose setting it is.
        kind: of the task (`graftwork.kinds.kind.Kind`).
    """
    if kind.per == "pair" and setting in ("joint", "auto"):
        return [f"pairs is {setting!r}, but kind: {kind.name} reads each text alone; leave pairs out"]
    if setting in (None, "joint"):
        return []
    allowed = get_args(PairsSetting)
    if setting not in allowed:
        return [f"pairs is {shown(setting)}; allowed: {', '.join(allowed)}"]
    if kind.written:
        return [f"pairs: {setting} needs a head, and kind: {kind.name} has none; leave pairs out"]
    if len(task.text_fields) == 2:
        return []
    return [
        f"pairs: {setting} is for tasks that read two texts; name both as text: [first, second], or leave "
        "pairs out"
    ]
