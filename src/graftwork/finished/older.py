"""What a model says of the tasks that it had before another one was added."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from graftwork.data.encoding.windows import PLACES, WINDOWS
from graftwork.data.pairs.second import SECOND_IDS, with_itself
from graftwork.kinds.scores import of_task

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from graftwork.models.multitask import MultiTaskModel

__all__ = ["outputs_of_older"]


@torch.no_grad()
def outputs_of_older(
    model: MultiTaskModel, batch: Mapping[str, Tensor], older: int
) -> Float[Tensor, " outputs"]:
    """Outputs of the first tasks of a model for some rows: each task alone, and all of them in one batch.

    What other tasks add to a batch, such as padding, is not among them.

    Args:
        model: in evaluation mode.
        batch: padded rows, without targets and tasks.
        older: how many tasks.
    """
    rows = len(next(iter(batch.values())) if PLACES not in batch else batch[PLACES])
    if model.heads.reads_separately and SECOND_IDS not in batch:
        texts = {name: value for name, value in batch.items() if name not in (WINDOWS, PLACES)}
        batch = {**batch, **with_itself(texts)}
    if model.causal:  # of written tasks the loss of all tokens
        batch = {**batch, "trained": batch["attention_mask"]}
    tokens = batch.get(PLACES, next(iter(batch.values()))).shape[1]
    routes = [torch.full((rows,), task) for task in range(older)]
    routes.append(torch.arange(rows) % older)
    parts = []
    for route in routes:
        logits = model(**batch, graft_rows=route).logits
        for task, head in enumerate(model.heads.heads[:older]):
            mine = route == task
            outputs, _ = of_task(head, logits[mine].numpy(), np.zeros((int(mine.sum()), 2)))
            # Behind the tokens there may be positions that hold none.
            parts.append(torch.from_numpy(outputs[:, :tokens] if outputs.ndim == 3 else outputs).flatten())
    return torch.cat(parts)
