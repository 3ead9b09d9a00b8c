"""From the hidden states of a backbone to one vector per row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from graftwork.data.images.reader import ImageReader
from graftwork.data.targets.words import encode_words
from graftwork.data.tokens import encode, pad
from graftwork.edges import forward_errors
from graftwork.errors import ConfigError, DataError
from graftwork.kinds.scoring.tags import Word

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from graftwork.data.images.reader import Reader

__all__ = ["Pooling", "embed", "pool"]

Pooling = Literal["mean", "cls", "last"]
Embedder = Callable[..., Any]
"""Texts to vectors [texts, d], and with `words=True` to what `embed` gives then."""


def pool(hidden: torch.Tensor, attention_mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Reduce hidden states [B, L, D] to one vector per row [B, D], whatever side the padding is on.

    `mean` is over the row's tokens, `cls` takes its first token, `last` its last.

    Raises:
        ConfigError: The pooling is unknown.
    """
    mask = attention_mask.to(hidden.dtype)
    if pooling == "mean":
        return (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
    if pooling not in ("cls", "last"):
        raise ConfigError(f"pooling is {pooling!r}; allowed: mean, cls, last")
    positions = torch.arange(mask.shape[1], device=mask.device)
    if pooling == "last":
        index = (attention_mask * positions).argmax(1)
    else:
        index = attention_mask.to(torch.int64).argmax(1)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), index]


def embed(
    backbone: PreTrainedModel,
    tokenizer: Reader,
    texts: Sequence[str],
    max_length: int,
    batch_size: int = 64,
    pooling: Pooling = "mean",
    advance: Callable[[int], None] = lambda count: None,
    words: bool = False,
) -> Any:
    """Embed texts or images with a frozen backbone; texts are sorted by length and padded per batch.

    Of an encoder-decoder the encoder is used. Equal texts are embedded once. `advance` is told how many texts
    were done since the last time.

    Returns:
        Pooled last hidden states, shape [len(texts), D]. With `words`, of every text the last hidden states
        at the first pieces of its words, shape [words, D], and the words (`graftwork.data.targets.words`).
    """
    if not len(texts):
        raise DataError("there are no texts to embed")
    distinct = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    found: list[list[Word]] = []
    if words:
        assert not isinstance(tokenizer, ImageReader)
        tokens: dict[str, list[Any]]
        tokens, found = encode_words(tokenizer, list(distinct), max_length)
    else:
        tokens = encode(tokenizer, [list(distinct)], max_length)
    if "input_ids" in tokens:
        order = np.argsort([-len(ids) for ids in tokens["input_ids"]], kind="stable")
    else:
        order = np.arange(len(distinct))
    model = backbone.get_encoder() if getattr(backbone.config, "is_encoder_decoder", False) else backbone
    device = next(model.parameters()).device
    training = backbone.training
    backbone.train(False)
    parts: list[Any] = []
    try:
        with torch.inference_mode():
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                batch = pad(tokenizer, [{name: tokens[name][i] for name in tokens} for i in rows])
                batch = {name: value.to(device) for name, value in batch.items()}
                with forward_errors(batch):
                    hidden = model(**batch).last_hidden_state
                if words:
                    places = [[word[0] for word in found[i]] for i in rows]
                    parts += [
                        row[place].float().cpu().numpy() for row, place in zip(hidden, places, strict=True)
                    ]
                else:
                    mask = batch.get("attention_mask", hidden.new_ones(hidden.shape[:2], dtype=torch.long))
                    parts.append(pool(hidden, mask, pooling).float().cpu().numpy())
                advance(len(rows))
    finally:
        backbone.train(training)
    if words:
        back = {int(row): part for row, part in zip(order, parts, strict=True)}
        advance(len(texts) - len(distinct))
        return [(back[distinct[text]], found[distinct[text]]) for text in texts]
    pooled = np.concatenate(parts)
    result = np.empty_like(pooled)
    result[order] = pooled
    advance(len(texts) - len(distinct))
    return result[[distinct[text] for text in texts]]
