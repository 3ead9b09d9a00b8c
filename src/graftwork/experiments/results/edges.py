"""Learning rates that were chosen at the edge of what was tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graftwork.experiments.results.collect import Group

__all__ = ["edge_doubt"]


def edge_doubt(group: Group) -> str:
    """In words, that the rate of a group is the smallest or largest of several tried; else empty.

    A better rate may then lie beyond. Of one model per task, the tasks are named.
    """
    rates: dict[str, None] = {}
    for run in group.runs:
        parts: Mapping[str, Any] = run.data.get("parts") or {"": run.data}
        for task, part in parts.items():
            rate = _edge(part.get("tuning"))
            if rate is not None:
                rates[f"{rate:g}" + (f" of {task}" if task else "")] = None
    if not rates:
        return ""
    plural = len(rates) > 1
    return f"rate{'s' * plural} {', '.join(rates)} at the edge of {'their grids' if plural else 'its grid'}"


def _edge(tuning: Any) -> float | None:
    """The rate that was chosen, if it is the smallest or largest of those tried."""
    if not isinstance(tuning, Mapping):
        return None
    tried, rate = tuning.get("grid") or (), tuning.get("chosen")
    return rate if len(tried) > 1 and rate in (min(tried), max(tried)) else None
