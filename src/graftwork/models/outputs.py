"""Outputs of a multi-task model for tokenised rows, batch by batch and without a trainer."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from graftwork.data.tokens import collate, row_length
from graftwork.edges import forward_errors
from graftwork.files.hashing import stable_key
from graftwork.kinds.losses import NO_TARGET
from graftwork.kinds.scores import per_task_scores, settled_heads

if TYPE_CHECKING:
    from datasets import Dataset

    from graftwork.data.images.reader import InputReader
    from graftwork.kinds.heads import TaskHead
    from graftwork.models.multitask import MultiTaskModel

__all__ = ["Outputs", "RowSample", "forward_rows"]

BATCH = 64
"""Rows of a forward pass without gradients."""

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Outputs:
    """Outputs of a model for some rows, on the CPU.

    Attributes:
        logits: [N, C], or [N, 1 + positions, C] (`graftwork.kinds.linear_heads.TaskHeads`).
        labels: [N], or [N, W], padded.
        rows: [N], the task of every row.
    """

    logits: Tensor
    labels: Tensor
    rows: Tensor

    def scores(self, model: MultiTaskModel) -> dict[str, float]:
        """Score of every task that has rows."""
        arrays = (self.logits.numpy(), self.labels.numpy(), self.rows.numpy())
        return per_task_scores(*arrays, model.heads.heads)

    def settled(self, model: MultiTaskModel) -> tuple[TaskHead, ...]:
        """The heads with what is chosen on these rows, if they are those of validation."""
        arrays = (self.logits.numpy(), self.labels.numpy(), self.rows.numpy())
        return settled_heads(model.heads.heads, *arrays)

    def losses(self, model: MultiTaskModel) -> dict[int, float]:
        """Mean loss of every task that has rows, by the task's index."""
        heads = model.heads
        found = {}
        for task in self.rows.unique().tolist():
            mine = self.rows == task
            device = heads.sizes.device
            parts = (part[mine].to(device) for part in (self.logits, self.labels, self.rows))
            found[int(task)] = float(heads.loss(*parts))
        return found


@torch.no_grad()
def forward_rows(
    model: MultiTaskModel,
    tokens: Sequence[Any] | Dataset,
    make_batch: Callable[[Sequence[Any]], Batch],
    *,
    row: int | None = None,
) -> Outputs:
    """Run rows through a model in evaluation mode. Nothing random is drawn, and the mode is put back.

    Args:
        model: the model.
        tokens: rows as made by `graftwork.data.tokens.tokenise`.
        make_batch: as made by `graftwork.data.tokens.collate`.
        row: index of the task of all rows, in place of their own `graft_rows`.
    """
    device = model.heads.weight.device
    training = model.training
    model.eval()
    logits, labels, rows = [], [], []
    try:
        for start in range(0, len(tokens), BATCH):
            batch = make_batch([tokens[i] for i in range(start, min(start + BATCH, len(tokens)))])
            labels.append(batch.pop("labels"))
            if row is not None:
                batch["graft_rows"] = torch.full_like(batch["graft_rows"], row)
            rows.append(batch["graft_rows"])
            inputs = {name: value.to(device) for name, value in batch.items()}
            with forward_errors(inputs):
                logits.append(model(**inputs).logits.float().cpu())
    finally:
        model.train(training)
    return Outputs(_joined(logits), _joined(labels), torch.cat(rows))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Batches below each other; where rows differ in length, as Trainer pads them."""
    width = max(part.shape[1] for part in parts) if parts[0].dim() > 1 else 0
    padded = [
        F.pad(part, (0, 0) * (part.dim() - 2) + (0, width - part.shape[1]), value=NO_TARGET)
        if part.dim() > 1 and part.shape[1] < width
        else part
        for part in parts
    ]
    return torch.cat(padded)


class RowSample:
    """A seeded choice of rows, as many of every task as fit, longest first.

    Args:
        tokens: rows as made by `graftwork.data.tokens.tokenise`.
        tokenizer: pads them.
        most: rows of all tasks together.
        seed: of the choice.
    """

    def __init__(self, tokens: Dataset, tokenizer: InputReader, *, most: int, seed: int = 0) -> None:
        tasks = np.asarray(tokens.data.column("graft_rows").to_numpy())
        present = np.unique(tasks)
        chosen: list[int] = []
        for task in present.tolist():
            own = np.flatnonzero(tasks == task).tolist()
            draw = random.Random(stable_key(seed, "rows", task))
            chosen += draw.sample(own, min(len(own), max(1, most // len(present))))
        self.rows = sorted((tokens[i] for i in chosen), key=lambda row: -row_length(row))
        self._make_batch = collate(tokenizer)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def batches(self) -> Iterator[Batch]:
        """The rows, padded."""
        for start in range(0, len(self), BATCH):
            yield self._make_batch(self.rows[start : start + BATCH])

    def run(self, model: MultiTaskModel, tasks: Sequence[int] | None = None) -> Outputs | None:
        """Outputs of the rows of these tasks (default all); None if they have no row."""
        rows = [row for row in self.rows if tasks is None or int(row["graft_rows"]) in tasks]
        return forward_rows(model, rows, self._make_batch) if rows else None
