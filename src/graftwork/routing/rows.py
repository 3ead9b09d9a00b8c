"""`Route`: the tasks of the rows of one forward pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from graftwork.errors import RoutingError
from graftwork.messages import did_you_mean

__all__ = ["ROWS_KEYWORD", "Route", "repeats_of", "unknown_task"]

ROWS_KEYWORD = "graft_rows"


class Route:
    """The tasks of the rows of one forward pass.

    Args:
        tasks: a task name (all rows), a sequence of names (one per row), or an integer tensor of shape
            [rows] with indices into the adapter's task list.
        expand: rows may be repeated, each one k times in a row, if the batch is k times as long
            (beam search).
    """

    def __init__(self, tasks: str | Sequence[str] | Tensor, *, expand: bool = False) -> None:
        self.tasks = tasks if isinstance(tasks, (str, Tensor)) else tuple(tasks)
        self.expand = expand
        self._resolved: dict[tuple[tuple[str, ...], torch.device], int | Tensor] = {}

    def names(self) -> set[str]:
        """The task names given, empty if rows are indices."""
        if isinstance(self.tasks, str):
            return {self.tasks}
        return set() if isinstance(self.tasks, Tensor) else set(self.tasks)

    def resolve(
        self, known: tuple[str, ...], batch: int, device: torch.device, *, positions: int = 1
    ) -> int | Tensor:
        """Index of the task of every row, for an adapter that knows the tasks `known`.

        Args:
            known: the task names of the adapter.
            batch: rows of the batch.
            device: of the result.
            positions: how many rows the site sees in place of each one of the batch (`Router.positions`).

        Returns:
            One index if all rows share a task, else an integer tensor of shape [batch * positions].

        Raises:
            RoutingError: an unknown task, an index out of range, or not as many tasks as rows.
        """
        key = (known, device)
        if key not in self._resolved:
            self._resolved[key] = self._index(known, device)
        rows = self._resolved[key]
        if isinstance(rows, int):
            return rows
        repeats = repeats_of(rows.shape[0], batch, self.expand) * positions
        if repeats:
            return rows if repeats == 1 else rows.repeat_interleave(repeats)
        raise RoutingError(
            f"the route names the tasks of {len(rows)} rows, but the batch has {batch}; give one task per "
            "row, or a single task name for all."
        )

    def among(self, chosen: Sequence[int], batch: int, *, positions: int = 1) -> Route:
        """The route of some of the rows that a site sees."""
        if isinstance(self.tasks, str):
            return self
        repeats = repeats_of(len(self.tasks), batch, self.expand) * positions
        if not repeats:
            return self  # `resolve` will refuse it
        rows = [row // repeats for row in chosen]
        if isinstance(self.tasks, Tensor):
            return Route(self.tasks[rows])
        return Route([self.tasks[row] for row in rows])

    def _index(self, known: tuple[str, ...], device: torch.device) -> int | Tensor:
        if isinstance(self.tasks, Tensor):
            rows = self.tasks.to(device)
            if rows.dim() != 1 or rows.is_floating_point() or rows.dtype == torch.bool:
                raise RoutingError(
                    f"{ROWS_KEYWORD} has shape {tuple(rows.shape)} and type {rows.dtype}; it must be a "
                    "one-dimensional tensor of integers, the task index of every row."
                )
            if torch.compiler.is_compiling():
                # Reading values would end the graph; the check becomes part of it.
                valid = ((rows >= 0) & (rows < len(known))).all()
                torch._assert_async(valid, f"{ROWS_KEYWORD} holds task indices outside 0..{len(known) - 1}")
            elif len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(known):
                raise RoutingError(
                    f"{ROWS_KEYWORD} holds task indices from {int(rows.min())} to {int(rows.max())}, but "
                    f"there are {len(known)} tasks: {', '.join(known)}."
                )
            return rows
        index = {name: position for position, name in enumerate(known)}
        for name in sorted(self.names()):
            if name not in index:
                raise unknown_task(name, known)
        if isinstance(self.tasks, str):
            return index[self.tasks]
        return torch.tensor([index[name] for name in self.tasks], dtype=torch.long, device=device)


def repeats_of(count: int, batch: int, expand: bool) -> int:
    """How often each of `count` rows stands in a batch, each one k times in a row; 0 if they do not fit."""
    if count == batch:
        return 1
    return batch // count if expand and count and batch % count == 0 else 0


def unknown_task(name: str, known: Sequence[str]) -> RoutingError:
    """The error for a task name that an adapter does not know."""
    return RoutingError(f"unknown task {name!r}{did_you_mean(name, known)} Known tasks: {', '.join(known)}.")
