"""Which tasks go together in which layer: the tree that keeps most, for a price of all tasks on one text.

The price is no sum over sites: tasks that have parted once are carried apart from there on. So a tree is
chosen as a whole, by dynamic programming from the last layer to the first, on the way from tasks that are all
apart to tasks that are all together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from graftwork.trunk.tree import Tree, grow

__all__ = ["choose_tree", "kept_worth"]

Partition = tuple[int, ...]
"""The group of every task; groups are numbered in the order of their first tasks."""
Numbers = NDArray[np.float64]

STEPS = 720
"""Steps in which what may be spent beyond one pass is counted."""
ROUNDS = 4
"""Times that the tree is chosen: after each what a stored adapter must be worth is known better."""
_ROUNDING = 1e-9
"""Relative rounding error that a sum of prices may have."""


def choose_tree(
    worth: Sequence[Float[NDArray[np.float64], "tasks adapters"]],
    costs: Sequence[Float[NDArray[np.float64], " adapters"]],
    budget: float | None,
    layers: Sequence[float],
    price: float,
    *,
    extra: float = 0.0,
) -> Tree:
    r"""The tree of tasks that keeps the most worth of open adapters under two budgets.

    A group of tasks has one path: an adapter k is open to the group g if that is worth something to its tasks
    together, :math:`w_{g k} = \sum_{t \in g} w_{t k} > 0`. What a structure of the stored adapters S keeps is

    .. math::
        \sum_{k \in S} \sum_g \max(0, w_{g k}), \quad
        \sum_{k \in S} n_k \le B, \quad
        \frac{\sum_l |\mathrm{groups}_l| F_l}{\sum_l F_l} \le \mathrm{price}

    It never grows when groups are joined; where it stays the same, tasks are kept together. The budget B of
    the stored adapters is kept to by a price of storing (the density of the best adapter that is not stored),
    found in a few rounds. For up to six tasks all partitions of every layer are looked at; for more, those
    that joining two groups at a time gives, of every number of groups the best few.

    Args:
        worth: w, of every section of a pass (`Tree.nodes`), of an adapter that is open to a task; below 0 if
            the task is better off without it.
        costs: n, what storing each adapter of a section takes.
        budget: B, or None.
        layers: F, the FLOPs of every layer; sections without the first.
        price: the largest price, of at least 1.
        extra: FLOPs that stored adapters may add to the layers, nobody knows to which.
    """
    tasks, sections = worth[0].shape[0], len(worth)
    kept = _Kept(worth, costs)
    spent = [0.0, *layers[:-1], layers[-1] + extra]  # they cost most where most groups are
    whole = (price - 1) * (sum(layers) + extra)
    least = kept.least([tuple(range(tasks))] * sections, budget)
    found: dict[tuple[Partition, ...], tuple[float, float]] = {}
    for _ in range(ROUNDS):
        chosen = _within(kept, least, spent, whole)
        if chosen in found:
            break
        found[chosen] = (kept.total(chosen, budget), -_spent(chosen, spent))
        least = kept.least(chosen, budget)
    best = max(found, key=lambda chosen: found[chosen])
    return grow(tasks, best)


def kept_worth(tree: Tree, worth: Sequence[Numbers], costs: Sequence[Numbers], budget: float | None) -> float:
    """What a tree keeps (`choose_tree`), with the adapters stored that keep most for what they take."""
    return _Kept(worth, costs).total([_named(section) for section in tree.nodes], budget)


class _Kept:
    """What partitions keep."""

    def __init__(self, worth: Sequence[Numbers], costs: Sequence[Numbers]) -> None:
        self.worth = [np.asarray(table, dtype=np.float64) for table in worth]
        self.costs = [np.asarray(cost, dtype=np.float64) for cost in costs]
        self._groups: dict[tuple[int, tuple[int, ...]], Numbers] = {}

    def adapters(self, section: int, partition: Partition) -> Numbers:
        """What every adapter of a section keeps."""
        total = np.zeros(self.worth[section].shape[1])
        for group in range(max(partition) + 1):
            members = tuple(task for task, own in enumerate(partition) if own == group)
            if (section, members) not in self._groups:
                self._groups[section, members] = self.worth[section][list(members)].sum(0).clip(min=0)
            total = total + self._groups[section, members]
        return total

    def value(self, section: int, partition: Partition, least: float) -> float:
        """What a partition of a section keeps beyond the price of storing."""
        return float((self.adapters(section, partition) - least * self.costs[section]).clip(min=0).sum())

    def least(self, partitions: Sequence[Partition], budget: float | None) -> float:
        """The density of the best adapter that is not stored; 0 if all are."""
        worth, costs, stored = self._stored(partitions, budget)
        left = worth[~stored] / costs[~stored]
        return float(left.max(initial=0.0))

    def total(self, partitions: Sequence[Partition], budget: float | None) -> float:
        """What a tree keeps."""
        worth, _, stored = self._stored(partitions, budget)
        return float(worth[stored].sum())

    def _stored(
        self, partitions: Sequence[Partition], budget: float | None
    ) -> tuple[Numbers, Numbers, NDArray[np.bool_]]:
        worth = np.concatenate([self.adapters(*each) for each in enumerate(partitions)])
        costs = np.concatenate(self.costs)
        stored = np.ones(len(worth), dtype=bool)
        if budget is not None:
            left = budget * (1 + _ROUNDING)
            for index in np.argsort(-worth / costs, kind="stable"):
                stored[index] = costs[index] <= left
                left -= costs[index] * stored[index]
        return worth, costs, stored


def _spent(partitions: Sequence[Partition], spent: Sequence[float]) -> float:
    """What is spent beyond one pass."""
    return sum(max(partition) * cost for partition, cost in zip(partitions, spent, strict=True))


def _within(kept: _Kept, least: float, spent: Sequence[float], whole: float) -> tuple[Partition, ...]:
    """The best partitions, each finer than the one before, that spend no more than `whole`."""
    step = whole / STEPS
    units = [round(cost / step) if step else STEPS + 1 for cost in spent]
    units[0] = 0
    # Rounded units may add up to more or less than what is spent: begin with more, and see.
    for allowed in range(STEPS + len(units), -1, -1):
        chosen = _best(kept, least, units, allowed)
        if _spent(chosen, spent) <= whole * (1 + _ROUNDING):
            return chosen
    raise AssertionError("tasks that are all together spend nothing")


def _best(kept: _Kept, least: float, units: Sequence[int], allowed: int) -> tuple[Partition, ...]:
    """The best partitions that spend no more than `allowed` units."""
    tasks = kept.worth[0].shape[0]
    # Of up to six tasks there are never more partitions of one number of groups than this.
    most = max(2, 120_000 // tasks**4)
    nothing = np.full(allowed + 1, -np.inf)
    nothing[0] = 0.0
    table: dict[Partition, Numbers] = {tuple(range(tasks)): nothing}
    sources: list[_Sources] = []
    for section in reversed(range(len(units))):
        table, came = _section(kept, least, section, units[section], table, most)
        sources.append(came)
    # The first of the best: what spends least.
    partition, unit = min(
        ((part, int(values.argmax())) for part, values in table.items()),
        key=lambda found: (-table[found[0]][found[1]], found[1], found[0]),
    )
    chosen = []
    for section, came in enumerate(reversed(sources)):
        chosen.append(partition)
        unit -= max(partition) * units[section]
        partition = came.names[came.which[partition][unit]]
    return tuple(chosen)


class _Sources(NamedTuple):
    """What follows the partitions of a section."""

    names: list[Partition]
    """The partitions of the next section."""
    which: dict[Partition, NDArray[np.int64]]
    """By partition and units spent after this section: which of them."""


def _section(
    kept: _Kept, least: float, section: int, unit: int, after: dict[Partition, Numbers], most: int
) -> tuple[dict[Partition, Numbers], _Sources]:
    """The best values from a section on, by its partition and the units spent, and what they come from."""
    length = len(next(iter(after.values())))
    levels: list[dict[Partition, tuple[Numbers, NDArray[np.int64]]]]
    levels = [{} for _ in range(kept.worth[0].shape[0] + 1)]
    for number, (partition, values) in enumerate(after.items()):
        levels[max(partition) + 1][partition] = values, np.full(length, number)
    table: dict[Partition, Numbers] = {}
    came = _Sources(list(after), {})
    for width in range(len(levels) - 1, 0, -1):
        level, left = levels[width], max(length - (width - 1) * unit, 0)
        own = {part: kept.value(section, part, least) for part in level}
        best = {
            part: own[part] + float(values[:left].max(initial=-np.inf)) for part, (values, _) in level.items()
        }
        for partition in sorted(level, key=lambda part: (-best[part], part))[:most]:
            values, sources = level[partition]
            if best[partition] > -np.inf:
                table[partition] = np.full(length, -np.inf)
                table[partition][length - left :] = values[:left] + own[partition]
                came.which[partition] = sources
            for joined in _joined(partition):
                known, there = levels[width - 1].get(joined, (values, sources))
                better = values > known
                levels[width - 1][joined] = (
                    np.where(better, values, known),
                    np.where(better, sources, there),
                )
    return table, came


def _joined(partition: Partition) -> list[Partition]:
    """The partitions with two of the groups as one."""
    groups = range(max(partition) + 1)
    return [
        _named([first if group == second else group for group in partition])
        for first in groups
        for second in groups[first + 1 :]
    ]


def _named(groups: Sequence[int]) -> Partition:
    names: dict[int, int] = {}
    return tuple(names.setdefault(group, len(names)) for group in groups)
