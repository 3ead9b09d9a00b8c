"""Means, intervals and paired differences of groups of runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from graftwork.experiments.results.collect import Comparison, Group
from graftwork.experiments.results.joined import ARRANGEMENT

__all__ = [
    "Difference",
    "Interval",
    "comparable",
    "counterpart",
    "deviation",
    "difference",
    "interval_of_mean",
    "pareto_front",
    "references",
]

RESAMPLES = 10_000
"""Resamples of a bootstrap interval."""
LEVEL = 0.95
"""Probability with which an interval covers the mean."""
SEED = 0
"""Seed of every bootstrap, so that no interval depends on another."""


@dataclass(frozen=True)
class Interval:
    """The percentiles 2.5 and 97.5 of a bootstrap."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Test scores of a group minus those of its reference, seed by seed.

    Attributes:
        seeds: the pairs: seeds that both groups have done with every task.
        mean: over the pairs and all tasks; None without a pair.
        interval: seeds and tasks resampled; None with fewer than two pairs.
        interval_seeds: only the seeds resampled.
        tasks: task -> mean, interval over seeds, number of pairs.
    """

    group: Group
    reference: Group
    seeds: tuple[int, ...]
    mean: float | None
    interval: Interval | None
    interval_seeds: Interval | None
    tasks: Mapping[str, tuple[float, Interval | None, int]]

    @property
    def verdict(self) -> str:
        """Whether the interval lies above zero, below it, or on both sides."""
        if self.mean is None:
            return "no pairs"
        if self.interval is None:
            return "too few pairs"
        return "better" if self.interval.low > 0 else "worse" if self.interval.high < 0 else "not told apart"


def deviation(values: Sequence[float]) -> float | None:
    """The sample standard deviation (n - 1); None for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def interval_of_mean(table: Float[np.ndarray, "seeds tasks"], *, over_tasks: bool = False) -> Interval | None:
    """A percentile bootstrap interval of the mean of a table.

    Every resample draws as many rows (seeds) as there are, with replacement; with `over_tasks` it also draws
    as many columns (tasks) as there are, with replacement and independently of the rows, the same columns
    for every drawn row (a crossed bootstrap). Fewer than two rows give no interval.
    """
    rows, columns = table.shape
    if rows < 2 or columns == 0:
        return None
    rng = np.random.default_rng(SEED)
    row_weights = rng.multinomial(rows, np.full(rows, 1 / rows), size=RESAMPLES) / rows
    if over_tasks and columns > 1:
        column_weights = rng.multinomial(columns, np.full(columns, 1 / columns), size=RESAMPLES) / columns
    else:
        column_weights = np.full((1, columns), 1 / columns)
    means = ((row_weights @ table) * column_weights).sum(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def difference(group: Group, reference: Group, tasks: Sequence[str]) -> Difference:
    """The paired difference of two groups: over all tasks, and task by task."""
    theirs = {run.seed: run for run in reference.runs}
    pairs = [(run, theirs[run.seed]) for run in group.runs if run.seed in theirs]
    each: dict[str, tuple[float, Interval | None, int]] = {}
    for task in tasks:
        scores = [(mine.score(task), other.score(task)) for mine, other in pairs]
        gaps = [mine - other for mine, other in scores if mine is not None and other is not None]
        if gaps:
            each[task] = (float(np.mean(gaps)), interval_of_mean(np.array(gaps)[:, None]), len(gaps))
    whole = [(a, b) for a, b in pairs if a.suite(tasks) is not None and b.suite(tasks) is not None]
    table = np.array([[(a.score(task) or 0) - (b.score(task) or 0) for task in tasks] for a, b in whole])
    if not whole:
        return Difference(group, reference, (), None, None, None, each)
    return Difference(
        group,
        reference,
        seeds=tuple(a.seed for a, _ in whole),
        mean=float(table.mean()),
        interval=interval_of_mean(table, over_tasks=True),
        interval_seeds=interval_of_mean(table),
        tasks=each,
    )


def comparable(group: Group, candidates: Sequence[Group]) -> list[Group]:
    """The other candidates with the same value of every swept setting both have, learning rates aside."""
    return [
        each
        for each in candidates
        if each.id != group.id
        and all(
            each.vary[key] == value for key, value in group.vary.items() if key in each.vary and _same(key)
        )
    ]


def counterpart(group: Group, candidates: Sequence[Group]) -> Group | None:
    """The candidate to compare a group with, if one is `comparable`.

    Of several, the one with the fewest settings that only one of the two has is taken, then the one whose
    stored parameters are closest (as a ratio), then the first by title.
    """
    return min(
        comparable(group, candidates),
        key=lambda each: (
            len(group.vary.keys() ^ each.vary.keys()),
            _distance(group, each),
            each.title,
            each.id,
        ),
        default=None,
    )


def references(comparison: Comparison, reference: str) -> dict[str, Group]:
    """Group -> the group of the reference, a method or a label, that it is compared with.

    Groups of the reference have none, save that one model per task is compared with one model for all.
    """
    candidates = [group for group in comparison.groups if reference in (group.method, group.label)]
    mine = {group.id for group in candidates}
    found = {g.id: counterpart(g, candidates) for g in comparison.groups if g.id not in mine}
    for group in candidates:
        if group.vary.get(ARRANGEMENT) == "single":
            same = [g for g in candidates if g.label == group.label and g.vary.get(ARRANGEMENT) == "multi"]
            found[group.id] = counterpart(replace(group, vary={**group.vary, ARRANGEMENT: "multi"}), same)
    return {identity: group for identity, group in found.items() if group is not None}


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, score) that no other point beats, by cost.

    A point is beaten by one that costs no more and scores no less, and is better in one of the two.
    """
    front = [
        i
        for i, (cost, score) in enumerate(points)
        if not any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in points)
    ]
    return sorted(front, key=lambda i: points[i])


def _same(key: str) -> bool:
    """Learning rates are tuned for each method, so they need not be equal."""
    return key.rpartition(".")[2] not in ("learning_rate", "head_learning_rate")


def _distance(group: Group, other: Group) -> float:
    sizes: list[Any] = [each.mean("parameters.stored") for each in (group, other)]
    if any(size is None for size in sizes):
        return math.inf
    return abs(math.log(max(sizes[0], 1)) - math.log(max(sizes[1], 1)))
