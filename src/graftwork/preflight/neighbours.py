"""Whether the outputs of a row depend on the rows beside it, by way of their padding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from graftwork.data.tokens import encode, pad
from graftwork.edges import library_errors
from graftwork.errors import RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["check_neighbours"]

_SHORT, _LONG = "a row", "a longer row of text, so that the short one beside it is padded to its length"


@torch.no_grad()
def check_neighbours(
    backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, max_length: int
) -> None:
    """Refuse a backbone that mixes padding into the tokens of a row, such as FNet and ConvBERT.

    Their outputs for a row change with the rows that happen to be in its batch, and labels with them.

    Args:
        backbone: as it was loaded.
        tokenizer: of the backbone.
        name: of the backbone, for the message.
        max_length: tokens of a row.

    Raises:
        RecipeError: a short row has other hidden states beside a long one than alone, or the backbone cannot
            read a row of text at all.
    """
    columns = encode(tokenizer, [[_SHORT, _LONG]], min(max_length, 24))
    rows = [{key: values[row] for key, values in columns.items()} for row in (0, 1)]
    length = len(rows[0]["input_ids"])
    if length >= len(rows[1]["input_ids"]):
        return
    training, device = backbone.training, next(backbone.parameters()).device
    backbone.eval()
    try:
        with library_errors(f"model {name} cannot read a row of text", RecipeError):
            alone, beside = (
                backbone(**{key: value.to(device) for key, value in pad(tokenizer, part).items()})
                .last_hidden_state[0, :length]
                .float()
                for part in (rows[:1], rows)
            )
    finally:
        backbone.train(training)
    close = 1e-3 if next(backbone.parameters()).dtype in (torch.float32, torch.float64) else 5e-2
    if (alone - beside).abs().max() > close * alone.abs().max():
        raise RecipeError(
            f"model {name} gives a row other outputs beside a longer row than alone, since it mixes padding "
            "into the tokens; its labels would depend on the batch. Take another backbone."
        )
