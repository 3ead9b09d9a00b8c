"""`TaskData`: the rows of a task in memory, split by split."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from graftwork.kinds.heads import TaskHead

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Split", "TaskData"]


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a task, by column."""

    texts: tuple[list[str], ...]
    """One list per text field."""
    targets: NDArray[np.float64]
    """Class index, or the score as it was given, [N]; 0 and 1 for several labels, [N, labels]."""
    sha256: str
    """SHA-256 of the texts and the label names or scores, in their order."""
    answers: list[tuple[str, ...]] | None = None
    """Of a task that writes texts: the answers that count as right, by the place that is a row's target."""

    def answers_of(self, rows: Iterable[int]) -> list[tuple[str, ...]]:
        """The answers of these rows."""
        assert self.answers is not None
        return [self.answers[int(self.targets[row])] for row in rows]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.targets)


@dataclass(frozen=True, eq=False)
class TaskData:
    """A task's head and its three splits."""

    head: TaskHead
    splits: dict[str, Split]

    @property
    def counts(self) -> dict[str, int]:
        """Rows per split."""
        return {name: len(split) for name, split in self.splits.items()}

    @property
    def sha256(self) -> dict[str, str]:
        """Hash of the content of each split."""
        return {name: split.sha256 for name, split in self.splits.items()}
