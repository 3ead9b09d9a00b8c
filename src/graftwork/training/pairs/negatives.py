"""How many passages of other rows a query is told apart from in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from graftwork.distributed.processes import world_size

if TYPE_CHECKING:
    from graftwork.data.task_data import TaskData
    from graftwork.recipe.settings import TrainingSettings

__all__ = ["negative_notes", "negatives"]


def negatives(rows: Sequence[int], settings: TrainingSettings) -> list[float]:
    """About how many other rows of its task a row finds in its part of a batch, task by task.

    Args:
        rows: training rows of every task.
        settings: the training loop.
    """
    shares = [(count / max(rows)) ** (1.0 / settings.temperature) for count in rows]
    others = settings.batch_size / world_size() - 1
    return [others * share / sum(shares) for share in shares]


def negative_notes(datas: Sequence[TaskData], settings: TrainingSettings) -> list[str]:
    """A sentence for every task whose loss is that of a batch.

    Args:
        datas: all tasks of the run.
        settings: the training loop.
    """
    counts = negatives([len(data.splits["train"]) for data in datas], settings)
    part = f"a batch of {settings.batch_size}" + (f" on {world_size()} processes" if world_size() > 1 else "")
    more = ", and gradient_accumulation adds none" if settings.gradient_accumulation > 1 else ""
    return [
        f"task {data.head.name!r}: a query has about {count:.3g} negatives, the passages of other rows of "
        f"its task in {part}{more}; a larger training.batch_size gives more"
        for data, count in zip(datas, counts, strict=True)
        if data.head.compared
    ]
