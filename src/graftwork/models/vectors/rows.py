"""The vectors of rows along the path of a task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from graftwork.data.asked_rows import (
    RowLike,
    check_list,
    check_row,
    encode_rows,
    fields_of,
    task_of,
    texts_of,
)
from graftwork.data.tokens import pad, row_length
from graftwork.edges import forward_errors
from graftwork.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from graftwork.data.images.reader import InputReader
    from graftwork.models.multitask import MultiTaskModel

__all__ = ["embed_rows"]


def embed_rows(
    model: MultiTaskModel,
    tokenizer: InputReader,
    rows: Sequence[RowLike],
    task: str | None,
    *,
    max_length: int,
    batch_size: int,
    beside: Path | None = None,
) -> NDArray[np.float32]:
    """The pooled last hidden states of rows, shape [rows, d].

    Args:
        model: in evaluation mode.
        tokenizer: of the model, or the reader of its images.
        rows: of the task; of one that reads two texts separately single texts.
        task: whose path is taken; needed if there are several.
        max_length: tokens of a row; longer ones are cut.
        batch_size: rows per forward pass.
        beside: where relative paths of images are looked for first.

    Raises:
        DataError: there are no rows, or they are not those of the task; or the model writes.
    """
    check_list(rows)
    if model.causal:
        raise DataError(
            "vectors are what heads see, and the model is a language model that writes; take the hidden "
            "states of its backbone."
        )
    if not len(rows):
        raise DataError("there are no rows to embed; give at least one.")
    heads = {head.name: head for head in model.heads.heads}
    head = heads[task_of("", 1, task, tuple(heads))]
    if head.separate:
        head = replace(head, text=("text",), pairs="joint")
    texts = []
    for number, row in enumerate(rows, 1):
        check_row(row, number)
        texts.append(texts_of(fields_of(row, number, head), number, head, beside))
    index_of = list(heads).index(head.name)
    tokens, _ = encode_rows(tokenizer, [(row, (head,)) for row in texts], max_length)
    order = sorted(range(len(texts)), key=lambda index: -row_length(tokens[index]))
    device = model.heads.weight.device
    found: list[Any] = [None] * len(texts)
    for start in range(0, len(order), batch_size):
        picked = order[start : start + batch_size]
        batch = pad(tokenizer, [tokens[index] for index in picked])
        inputs = {name: value.to(device) for name, value in batch.items()}
        with torch.inference_mode(), forward_errors(inputs):
            vectors = model.vectors(inputs, torch.full((len(picked),), index_of, device=device))
        for index, vector in zip(picked, vectors.float().cpu().numpy(), strict=True):
            found[index] = vector
    return np.stack(found)
