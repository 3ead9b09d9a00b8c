"""`TaskSampler`: batches that mix the tasks and need little padding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from torch.utils.data import Sampler

from graftwork.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["TaskSampler"]

MEGA = 50
"""Number of batches whose rows are sorted by length together."""


class TaskSampler(Sampler[int]):
    r"""Order the rows of several tasks into batches that mix them and need little padding.

    An epoch has as many rows as the dataset, of which task t takes the share
    :math:`p_t \propto n_t^{1/\text{temperature}}`: 1 uses every row once, larger values even the tasks out.
    A task's rows come in shuffled passes: none comes again before all have come. Rows are then sorted by
    length within `MEGA` batches, and those batches shuffled. Consecutive `batch_size` indices are a batch.

    Args:
        lengths: Tokens of each row, shape [N].
        task_of_row: Task index of each row, shape [N].
        batch_size: Rows per batch.
        temperature: Of the task shares; greater than 0.
        seed: Of the order; the same seed and epoch give the same order.

    Raises:
        ConfigError: A value is out of range, or the shapes differ.
    """

    def __init__(
        self,
        lengths: ArrayLike,
        task_of_row: ArrayLike,
        batch_size: int,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        """Count the rows of each task and apportion the epoch."""
        self._lengths = np.asarray(lengths, dtype=np.int64)
        tasks = np.asarray(task_of_row, dtype=np.int64)
        if self._lengths.shape != tasks.shape or tasks.ndim != 1 or not len(tasks):
            raise ConfigError(
                f"lengths {self._lengths.shape} and task_of_row {tasks.shape} are not equal, flat and filled"
            )
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}, not at least 1")
        if not temperature > 0:
            raise ConfigError(f"temperature is {temperature}, not greater than 0")
        self._rows = [np.flatnonzero(tasks == task) for task in range(int(tasks.max()) + 1)]
        self._shares = _apportion(np.bincount(tasks), temperature)
        self._batch_size = batch_size
        self._seed = seed & 0xFFFFFFFF
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        self._epoch = epoch

    @property
    def epoch(self) -> int:
        """Whose order it is."""
        return self._epoch

    def __len__(self) -> int:
        """Return the rows of an epoch."""
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        """Iterate over the row indices of the epoch."""
        return iter(self._order().tolist())

    def _order(self) -> NDArray[np.int64]:
        rng = np.random.default_rng([self._seed, self._epoch])
        owner = rng.permutation(np.repeat(np.arange(len(self._rows)), self._shares))
        order = np.empty(len(self), dtype=np.int64)
        for task, (rows, share) in enumerate(zip(self._rows, self._shares, strict=True)):
            if share:
                passes = [rng.permutation(rows) for _ in range(-(-share // len(rows)))]
                order[owner == task] = np.concatenate(passes)[:share]
        mega = np.arange(len(order)) // (MEGA * self._batch_size)
        order = order[np.lexsort((-self._lengths[order], mega))]
        # Only whole batches move: the short last one has to stay last.
        whole = len(order) // self._batch_size
        shuffled = np.lexsort((rng.random(whole), np.arange(whole) // MEGA))
        batches = order[: whole * self._batch_size].reshape(whole, self._batch_size)[shuffled]
        return np.concatenate([batches.ravel(), order[whole * self._batch_size :]])


def _apportion(counts: NDArray[np.int64], temperature: float) -> NDArray[np.int64]:
    """Share `sum(counts)` rows out by `counts ** (1 / temperature)`, to whole rows by largest remainder."""
    # Relative to the largest count: a small temperature must not overflow.
    weights = np.where(counts > 0, (counts / counts.max()) ** (1.0 / temperature), 0.0)
    ideal = weights / weights.sum() * counts.sum()
    # Not below a whole number for a rounding error: temperature 1 is every row once.
    shares: NDArray[np.int64] = np.floor(ideal + 1e-9).astype(np.int64)
    rest = int(counts.sum() - shares.sum())
    shares[np.argsort(shares - ideal, kind="stable")[:rest]] += 1
    return shares
