"""Titles of groups and comparisons."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

__all__ = ["display", "distinct", "natural", "short_names"]

_PLAIN = ("graft.", "method.", "schedule.", "training.")


class Swept(Protocol):
    """Anything with swept settings."""

    @property
    def vary(self) -> Mapping[str, Any]:
        """Their names and values."""


def short_names(runs: Iterable[Swept]) -> dict[str, str]:
    """Names of the swept settings for titles: `budget` for `graft.budget`, `noise ratio` for `noise.ratio`.

    The section is left out where it says nothing, unless two settings would have the same name.
    """
    keys = sorted({key for run in runs for key in run.vary})
    short = {
        key: key.removeprefix(f"{key.partition('.')[0]}.") if key.startswith(_PLAIN) else key for key in keys
    }
    counts = Counter(short.values())
    return {key: (name if counts[name] == 1 else key).replace(".", " ") for key, name in short.items()}


def display(vary: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Settings in words: `budget 0.003, kind typos`."""
    return ", ".join(f"{names.get(key, key)} {_value(value)}" for key, value in sorted(vary.items()))


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def distinct(title: str, titles: Iterable[str], identity: str) -> str:
    """The title, with the start of a hash if others have the same."""
    return title if list(titles).count(title) == 1 else f"{title} #{identity[:6]}".strip()


def natural(text: str) -> list[tuple[int, float, str]]:
    """A sort key under which 0.05 comes before 0.1 and 2 before 10."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)", text)
    return [(0, float(part), "") if i % 2 else (1, 0.0, part.casefold()) for i, part in enumerate(parts)]
