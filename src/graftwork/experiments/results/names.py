"""Titles of groups and comparisons."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

__all__ = ["display", "distinct", "natural", "short_names", "told_apart"]

_PLAIN = ("graft.", "method.", "schedule.", "training.")
"""Prefixes of settings that labels leave out."""


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


def told_apart(titles: Mapping[str, str], settings: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The titles; groups with the same one get the settings in which they differ: `search · pool_size 4`.

    Args:
        titles: group -> title.
        settings: group -> the sections of its settings.
    """
    told = dict(titles)
    for title, count in Counter(titles.values()).items():
        if count == 1:
            continue
        flat = {group: _flat(settings[group]) for group in titles if titles[group] == title}
        keys = sorted({key for each in flat.values() for key in each})
        differ = [key for key in keys if len({json.dumps(each.get(key)) for each in flat.values()}) > 1]
        for group, each in flat.items():
            words = ", ".join(f"{_word(key)} {_value(each.get(key))}" for key in differ)
            told[group] = " · ".join(filter(None, (title, words)))
    return told


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        section + key: value
        for section in _PLAIN
        if isinstance(values := settings.get(section.removesuffix(".")), Mapping)
        for key, value in values.items()
    }


def _word(key: str) -> str:
    return "rate" if key == "training.learning_rate" else key.partition(".")[2]


def natural(text: str) -> list[tuple[int, float, str]]:
    """A sort key under which 0.05 comes before 0.1 and 2 before 10."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)", text)
    return [(0, float(part), "") if i % 2 else (1, 0.0, part.casefold()) for i, part in enumerate(parts)]
