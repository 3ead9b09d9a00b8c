"""`Tree`: which tasks are carried together, section by section. Plain data, without torch."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

__all__ = ["Tree", "grow", "parting_words"]


@dataclass(frozen=True)
class Tree:
    """Which tasks are carried together in every section of a pass, in the order of execution.

    Section 0 is what runs before the first layer, section i the i-th layer. Tasks that have parted stay so.

    Attributes:
        nodes: `nodes[section][task]`: the group that a task belongs to. Those of a section are numbered
            from 0, and the groups that come of one group follow each other.
    """

    nodes: tuple[tuple[int, ...], ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """Groups of every section: how often a row is carried through it."""
        return tuple(max(section, default=-1) + 1 for section in self.nodes)

    def groups(self, section: int) -> list[list[int]]:
        """The tasks of every group of a section."""
        found: list[list[int]] = [[] for _ in range(self.widths[section])]
        for task, node in enumerate(self.nodes[section]):
            found[node].append(task)
        return found

    def passes(self, prices: Sequence[float]) -> float:
        r"""Price of all tasks on one row, in passes of one task: `sum_s w_s p_s / sum_s p_s`.

        Args:
            prices: p, of every layer, in any unit. If there are none, whole passes are counted.
        """
        if not sum(prices):
            return float(self.widths[-1])
        widths = self.widths[1:]
        return sum(w * p for w, p in zip(widths, prices, strict=True)) / sum(prices)


def parting_words(tree: Tree, names: Sequence[str]) -> str:
    """Where tasks part, in words: of every group that parts, all but the largest group that is left.

    Args:
        tree: of the tasks.
        names: of the tasks.
    """
    leaving: dict[str, list[str]] = {}
    before = [0] * len(names)
    for section, nodes in enumerate(tree.nodes):
        for parent in dict.fromkeys(before):
            members = [task for task, node in enumerate(before) if node == parent]
            groups: dict[int, list[str]] = {}
            for task in members:
                groups.setdefault(nodes[task], []).append(names[task])
            stays = max(groups.values(), key=len)
            when = f"after layer {section - 1}" if section > 1 else "from the start"
            leaving.setdefault(when, []).extend(
                " with ".join(group) for group in groups.values() if group is not stays
            )
        before = list(nodes)
    parts = [f"{', '.join(groups)} {when}" for when, groups in leaving.items() if groups]
    return f"tasks part: {'; '.join(parts)}" if parts else "tasks never part"


def grow(tasks: int, signatures: Sequence[Sequence[Hashable]]) -> Tree:
    """The tree of tasks that part at the first section in which they differ.

    Args:
        tasks: their number.
        signatures: `signatures[section][task]`: equal if two tasks do the same in a section.
    """
    nodes = [0] * tasks
    sections = []
    for signature in signatures:
        keys = list(zip(nodes, signature, strict=True))
        first = {key: task for task, key in reversed(list(enumerate(keys)))}
        # Groups in the order of those they come from, so that rows that do not part keep their places.
        order = {key: place for place, key in enumerate(sorted(first, key=lambda key: (key[0], first[key])))}
        nodes = [order[key] for key in keys]
        sections.append(tuple(nodes))
    return Tree(tuple(sections))
