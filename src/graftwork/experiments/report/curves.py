"""Scores over a swept numeric setting."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graftwork.experiments.results.collect import Comparison, Group
from graftwork.experiments.results.names import display, short_names
from graftwork.experiments.results.statistics import Interval, interval_of_mean

__all__ = ["Curve", "Line", "Point", "curves"]


@dataclass(frozen=True)
class Point:
    """A group at one value of the setting; `complete` if every expected seed is there."""

    x: float
    mean: float
    interval: Interval | None
    stored: float | None
    complete: bool


@dataclass(frozen=True)
class Line:
    """The points of one method whose other swept settings agree."""

    label: str
    title: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Curve:
    """All lines over one setting.

    Attributes:
        levels: label, title and mean of reference groups that do not have the setting.
    """

    key: str
    lines: tuple[Line, ...]
    levels: tuple[tuple[str, str, float], ...]
    caption: str


def curves(comparisons: Sequence[Comparison], reference: str) -> list[Curve]:
    """A curve for every numeric swept setting along which some method has two values or more.

    A line joins groups of the same label, tasks and other swept settings, learning rates aside (they are
    tuned). Two groups that claim one place of a line are both left out, and the caption says so.
    """
    groups = [(comparison, group) for comparison in comparisons for group in comparison.groups]
    names = short_names(run for _, group in groups for run in (*group.runs, *group.failed))
    keys = sorted({key for _, group in groups for key, value in group.vary.items() if _numeric(value)})
    return [curve for key in keys if (curve := _curve(key, groups, names, reference))]


def _curve(
    key: str, groups: Sequence[tuple[Comparison, Group]], names: dict[str, str], reference: str
) -> Curve | None:
    members: dict[tuple[str, str, tuple[str, ...]], list[tuple[Comparison, Group]]] = {}
    for comparison, group in groups:
        if _numeric(group.vary.get(key)):
            rest = {k: v for k, v in group.vary.items() if k != key and not k.endswith("learning_rate")}
            place = (group.label, json.dumps(rest, sort_keys=True), tuple(comparison.tasks))
            members.setdefault(place, []).append((comparison, group))
    lines, clashes, met = [], [], set()
    for (label, rest_json, tasks), found in sorted(members.items()):
        values = [float(group.vary[key]) for _, group in found]
        clashes += sorted({f"{label} at {v:g}" for v in values if values.count(v) > 1})
        points = [
            point
            for value, (_, group) in sorted(zip(values, found, strict=True), key=lambda item: item[0])
            if values.count(value) == 1 and (point := _point(value, group, tasks))
        ]
        if len(points) > 1:
            others = display(json.loads(rest_json), names)
            title = " · ".join(filter(None, (label, others)))
            lines.append(Line(label, title, tuple(points)))
            met |= {comparison.id for comparison, _ in found}
    if not lines:
        return None
    caption = (
        "Mean over seeds of the suite mean; bands: 95 % bootstrap intervals over seeds (none with one "
        "seed); hollow: seeds missing. Other settings agree along a line, save learning rates, which may be "
        "tuned per point."
    )
    if clashes:
        caption += f" Left out, for several groups claim the place: {'; '.join(clashes)}."
    levels = [
        (group.label, group.title, float(np.mean(suites)))
        for comparison, group in groups
        if comparison.id in met and reference in (group.method, group.label) and key not in group.vary
        if (suites := group.suites(list(comparison.tasks)))
    ]
    shown = tuple(levels) if len(met) == 1 and len(levels) == 1 else ()
    return Curve(names[key], tuple(lines), shown, caption)


def _point(value: float, group: Group, tasks: Sequence[str]) -> Point | None:
    suites = group.suites(tasks)
    if not suites:
        return None
    return Point(
        x=value,
        mean=float(np.mean(suites)),
        interval=interval_of_mean(np.array(suites)[:, None]),
        stored=group.mean("parameters.stored"),
        complete=group.complete(tasks),
    )


def _numeric(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
