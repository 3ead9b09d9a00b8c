"""How many passages of other rows a query is told apart from in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from graftwork.distributed.processes import world_size

if TYPE_CHECKING:
    from graftwork.data.task_data import TaskData

__all__ = ["negative_notes", "negatives"]


def negatives(rows: Sequence[int], batch_size: int, temperature: float) -> list[float]:
    """About how many other rows of its task a row finds in its part of a batch, task by task.

    Args:
        rows: training rows of every task.
        batch_size: rows of a batch, which several processes share.
        temperature: of the sampling of tasks (`graftwork.data.sampler.TaskSampler`).
    """
    shares = [(count / max(rows)) ** (1.0 / temperature) for count in rows]
    others = batch_size / world_size() - 1
    return [others * share / sum(shares) for share in shares]


def negative_notes(
    datas: Sequence[TaskData], *, batch_size: int, temperature: float, gradient_accumulation: int
) -> list[str]:
    """A sentence for every task whose rows are compared with each other in training.

    Args:
        datas: all tasks of the run.
        batch_size: as for `negatives`.
        temperature: as for `negatives`.
        gradient_accumulation: batches of a step, which are not compared with each other.
    """
    if not any(data.head.compared for data in datas):
        return []
    counts = negatives([len(data.splits["train"]) for data in datas], batch_size, temperature)
    part = f"a batch of {batch_size}" + (f" on {world_size()} processes" if world_size() > 1 else "")
    more = ", and gradient_accumulation adds none" if gradient_accumulation > 1 else ""
    return [
        f"task {data.head.name!r}: negatives of a query are the passages of other rows of its task in {part}"
        f", about {count:.3g}{more}; a larger training.batch_size gives more"
        for data, count in zip(datas, counts, strict=True)
        if data.head.compared
    ]
