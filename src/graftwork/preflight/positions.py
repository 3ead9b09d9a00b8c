"""How many tokens of a row a backbone has positions for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from graftwork.data.task_data import TaskData
from graftwork.texts.rendering import Renderer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["fitting_lengths", "most_tokens"]

_TABLE = re.compile(r"pos(?!t)|wpe", re.IGNORECASE)
"""Names of parameters and buffers that may hold one row per position."""
_OFFSET = 8
"""Rows of a position table that may lie before the first position; known backbones (RoBERTa, OPT, BART) leave
at most 2."""


def most_tokens(backbone: PreTrainedModel, wanted: int, token: int) -> int:
    """The largest number of tokens, up to `wanted`, that a row may have.

    Tables of positions differ in where they begin, in their name, and in whether they grow. So where one may
    be too small the backbone is asked: `wanted` tokens are passed through it, and if that fails, the bound is
    found by halving. A backbone with relative or rotary positions alone has no such table, and no bound.

    Args:
        backbone: as it was loaded, in evaluation mode.
        wanted: tokens of a row.
        token: number of an ordinary token, not of the padding.
    """
    smallest = min(_tables(backbone), default=wanted + _OFFSET)
    if wanted + _OFFSET <= smallest or _passes(backbone, [token] * wanted):
        return wanted
    low, high = 1, wanted  # what passes, and what does not
    if not _passes(backbone, [token]):
        return wanted  # then it is not for the number of tokens
    while high - low > 1:
        middle = (low + high) // 2
        if _passes(backbone, [token] * middle):
            low = middle
        else:
            high = middle
    return low


def _tables(backbone: PreTrainedModel) -> list[int]:
    """Rows of all that may be a table of positions."""
    named = (*backbone.named_parameters(), *backbone.named_buffers())
    return [tensor.shape[-2] for name, tensor in named if tensor.dim() in (2, 3) and _TABLE.search(name)]


@torch.inference_mode()
def _passes(backbone: PreTrainedModel, tokens: Sequence[int]) -> bool:
    ids = torch.tensor([tokens], device=backbone.device)
    try:
        backbone(input_ids=ids, attention_mask=torch.ones_like(ids))
    except Exception:  # an index out of range, or whatever a backbone's own check says
        return False
    return True


def fitting_lengths(
    datas: Sequence[TaskData], backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> list[TaskData]:
    """The tasks, those that are written with no more tokens than the backbone has positions for."""
    fitting = []
    for data in datas:
        writing = data.head.writing
        if writing is not None:
            token = Renderer(tokenizer, writing).ends[0]
            most = most_tokens(backbone, writing.max_length, token)
            writing = replace(writing, max_length=most)
            data = replace(data, head=replace(data.head, writing=writing))
        fitting.append(data)
    return fitting
