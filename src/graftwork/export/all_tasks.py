"""A multi-task model as a function that answers all tasks at once, for export."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graftwork.errors import ExportError
from graftwork.kinds.heads import TaskHead
from graftwork.kinds.registry import KINDS
from graftwork.models.multitask import MultiTaskModel
from graftwork.trunk.trunk import find_trunk

__all__ = ["PREFIX", "AllTasks"]

PREFIX = "logits."
"""What the name of an output begins with; the name of its task follows."""


class AllTasks(nn.Module):
    """The logits of every task, [batch, classes of the task], in one pass that branches.

    Those of tasks with targets per token are [batch, sequence, tags], those of tasks that compare texts the
    cosine and both vectors, [batch, 1 + 2 d].

    Args:
        model: the model; its structure is taken as it is now.

    Raises:
        ExportError: the model has no heads, or only some of its tasks read two texts separately.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if not isinstance(model, MultiTaskModel):
            raise ExportError(
                f"all tasks at once need heads, and a {type(model).__name__} has none; give a MultiTaskModel."
            )
        ways = {head.separate: head.name for head in model.heads.heads}
        if len(ways) > 1:
            raise ExportError(
                f"task {ways[True]!r} reads its two texts separately and task {ways[False]!r} one sequence, "
                "so no row is for both; export without --all-tasks, or one task with --task."
            )
        self.model = model
        self.training = model.training
        self.heads = model.heads.heads
        trunk = find_trunk(model.backbone)
        self._tree = None if trunk is None else trunk.tree(model.backbone, range(len(self.heads)))

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs, in the order of the tasks."""
        return [PREFIX + head.name for head in self.heads]

    def described(self) -> list[dict[str, Any]]:
        """The tasks with the names of their outputs, as JSON values."""
        return [{**head.as_dict(), "output": PREFIX + head.name} for head in self.heads]

    def forward(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        """One tensor a task."""
        logits = self.model.forward_all(inputs, tree=self._tree)
        return tuple(self._own(logits[:, task], head) for task, head in enumerate(self.heads))

    def _own(self, logits: Tensor, head: TaskHead) -> Tensor:
        if head.compared:
            return logits.flatten(1)[:, : 1 + 2 * self.model.heads.weight.shape[-1]]
        if self.model.heads.tags_tokens:
            logits = logits[:, 1:] if KINDS[head.kind].per == "token" else logits[:, 0]
        return logits[..., : head.size]

    def one_by_one(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        """The same from one routed pass a task: what an exported model is checked against."""
        first = next(iter(inputs.values()))
        found = []
        for task, head in enumerate(self.heads):
            rows = torch.full((first.shape[0],), task, device=first.device)
            found.append(self._own(self.model(**inputs, graft_rows=rows).logits, head))
        return tuple(found)
