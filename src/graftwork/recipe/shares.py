"""Budgets as parts of a whole: `0.3%` is 0.003, and a plain tenth or more is taken for a slip."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from graftwork.files.reading import is_finite
from graftwork.messages import shown

__all__ = ["SHARE", "WORDS", "is_share", "plain_share", "share_slips", "spelled_share"]

SHARE: dict[str, bool] = {"share": True}
"""Metadata of a field that takes a fraction of a whole, also in percent."""
SLIP = 0.1
"""Smallest plain number that is suspected to lack its percent sign."""
WORDS = "a percentage above 0% and below 100%, such as 0.3%"
"""What a share may be beside a number, for messages."""
_PERCENT = re.compile(r"\s*([0-9]{1,20}(?:\.[0-9]{0,20})?(?:[eE][+-]?[0-9]{1,3})?)\s*%\s*")
_SWEPT = ("budget", "task_budget")
"""Settings of a grid, whatever their section, that are shares."""


def is_share(entry: dataclasses.Field[Any]) -> bool:
    """Whether a field takes a fraction of a whole."""
    return bool(entry.metadata.get("share"))


def plain_share(value: Any, key: str = "budget") -> Any:
    """The number that a percentage stands for; lists by part, anything else as it is.

    Args:
        value: of a setting.
        key: the setting, dotted; of one that is no share the value stays.

    Raises:
        ValueError: a percentage is not above 0 and below 100.
    """
    if key.rpartition(".")[2] not in _SWEPT:
        return value
    if isinstance(value, list | tuple):
        return type(value)(plain_share(part) for part in value)
    if not isinstance(value, str) or "%" not in value:
        return value
    found = _PERCENT.fullmatch(value)
    # By decimals, so that 0.7% is the 0.007 that a file may have: results are found by their settings.
    number = float(Decimal(found[1]).scaleb(-2)) if found else 0.0
    if not 0 < number < 1:
        raise ValueError(f"{shown(value)} must be {WORDS}")
    return number


def spelled_share(value: Any) -> Any:
    """A share as a file has it: a plain number, but a percentage where a number would look like a slip."""
    if isinstance(value, list | tuple):
        return type(value)(map(spelled_share, value))
    if not isinstance(value, float) or not SLIP <= value < 1:
        return value
    return f"{Decimal(repr(value)).scaleb(2).normalize():f}%"


def share_slips(cls: type, raw: Any, where: str, *, below: float = 1) -> list[str]:
    """A phrase for every share given as a plain fraction of a tenth or more: it may lack its percent sign.

    Args:
        cls: a dataclass whose fields of shares carry `SHARE`.
        raw: keys and plain values for it, as YAML gives them.
        where: what stands before the key in messages, such as `graft.`.
        below: numbers from here on are left to others, who refuse them or take them for counts.
    """
    if not isinstance(raw, Mapping):
        return []
    faults = []
    for entry in dataclasses.fields(cls):
        given = raw.get(entry.name) if is_share(entry) else None
        for value in given if isinstance(given, list | tuple) else [given]:
            number = _number(value)
            if number is not None and SLIP <= number < below:
                meant = f", or {100 * number:g}% if that is meant" if number < 1 else ""
                faults.append(
                    f"{where}{entry.name}={shown(value)} would be {100 * number:g} %; write {number:g}% or "
                    f"{number / 100:g}{meant}"
                )
    return faults


def _number(value: Any) -> float | None:
    """A plain number, which YAML may give as a string (`3e-1`)."""
    if isinstance(value, str):
        try:
            value = float(value[:100])
        except ValueError:
            return None
    return float(value) if is_finite(value) else None
