"""Which names can be those of a model on the hub."""

from __future__ import annotations

import re
from pathlib import Path

from graftwork.files.reading import exists

__all__ = ["PREFIX", "is_backbone_id", "is_model_id"]

PREFIX = "hub:"
"""Put before a name that is to be looked for on the hub alone."""
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
"""Of a name; the hub allows neither `-` nor `.` at an end."""
_MODEL = re.compile(rf"{_PART}/{_PART}")
_BACKBONE = re.compile(rf"(?:{_PART}/)?{_PART}")


def is_model_id(name: str) -> bool:
    """Whether a name is of the form `user/model`."""
    return _MODEL.fullmatch(name) is not None and "--" not in name and ".." not in name


def is_backbone_id(name: str) -> bool:
    """Whether the name of a backbone is one of the hub: of its form, and no file or folder here."""
    formed = _BACKBONE.fullmatch(name) is not None and "--" not in name and ".." not in name
    return formed and not exists(Path(name))
