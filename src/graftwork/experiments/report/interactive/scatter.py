"""Scores against costs, as plain data: the reader of the page chooses which."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from graftwork.experiments.report.costs import active_parameters
from graftwork.experiments.results.collect import Comparison, Group
from graftwork.experiments.results.statistics import interval_of_mean
from graftwork.pages.canvas import MARKERS, PALETTE, Look

__all__ = ["scatter"]


def _at(path: str, unit: float = 1.0) -> Callable[[Group], float | None]:
    """The mean of a number of the run files, in a unit."""

    def read(group: Group) -> float | None:
        mean = group.mean(path)
        return None if mean is None else mean / unit

    return read


def _active(group: Group) -> float | None:
    means = [float(np.mean(list(found.values()))) for run in group.runs if (found := active_parameters(run))]
    return float(np.mean(means)) if means else None


_COSTS: tuple[tuple[str, str, Callable[[Group], float | None]], ...] = (
    ("stored", "stored adapter parameters", _at("parameters.stored")),
    ("active", "adapter parameters a task uses, mean", _active),
    ("disk", "size on disk, MB", _at("bytes_on_disk", 1e6)),
    ("train", "training, seconds", _at("seconds.train")),
    ("total", "whole run, seconds", _at("seconds.total")),
    ("memory", "peak memory, GB", _at("memory_peak_bytes", 1e9)),
    ("price", "price of all tasks on one text, passes", _at("trunk.price")),
)
"""Key, name and value of what may stand along the bottom."""


def scatter(
    comparison: Comparison, looks: Mapping[str, Look], doubts: Mapping[tuple[str, str], Sequence[str]]
) -> dict[str, Any] | None:
    """The points of a comparison; None if no cost tells two groups with a score apart.

    Args:
        comparison: methods on the same tasks.
        looks: colour and marker of every label.
        doubts: (group, task) -> why the figure may not be what it looks like; the empty task is all of them.

    Returns:
        `costs` and `scores`, the axes on offer as key and name, and `points`: for every group its values by
        key; a score is its mean and, of two seeds or more, the ends of its 95 % interval over seeds.
    """
    tasks = list(comparison.tasks)
    scores: list[tuple[str, str, list[str], str]] = []
    if len(tasks) > 1:
        scores += [("suite", "suite mean (test)", tasks, "test")]
    scores += [
        (f"test {task}", f"{task}, {metric}", [task], "test") for task, metric in comparison.tasks.items()
    ]
    scores += [("validation", "mean on validation", tasks, "validation")]
    points: list[dict[str, Any]] = []
    for group in comparison.groups:
        found = {key: _score(group.suites(names, split)) for key, _, names, split in scores}
        colour, marker = looks[group.label]
        points.append(
            {
                "title": group.title,
                "label": group.label,
                "look": [PALETTE.index(colour), MARKERS.index(marker)],
                "seeds": f"{len(group.runs)} of {len(group.seeds)}",
                "whole": group.complete(tasks),
                "doubts": list(doubts.get((group.id, ""), ())),
                "costs": {key: value for key, _, read in _COSTS if (value := read(group)) is not None},
                "scores": {key: score for key, score in found.items() if score is not None},
            }
        )
    points = [point for point in points if point["scores"]]
    costs = [
        (key, name)
        for key, name, _ in _COSTS
        if len({p["costs"][key] for p in points if key in p["costs"]}) > 1
    ]
    offered = [(key, name) for key, name, _, _ in scores if any(key in point["scores"] for point in points)]
    if not costs or not offered:
        return None
    return {
        "costs": [{"key": key, "name": name} for key, name in costs],
        "scores": [{"key": key, "name": name} for key, name in offered],
        "points": points,
    }


def _score(values: Sequence[float]) -> list[float | None] | None:
    if not values:
        return None
    interval = interval_of_mean(np.array(values)[:, None])
    ends = (None, None) if interval is None else (interval.low, interval.high)
    return [None if value is None else round(value, 6) for value in (float(np.mean(values)), *ends)]
