"""From the hidden states of a backbone to one vector per row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from graftwork.data.encoding.windows import PLACES, WINDOWS, in_batches, window_count
from graftwork.data.images.reader import ImageReader
from graftwork.data.targets.words import encode_words
from graftwork.data.tokens import encode, pad
from graftwork.edges import forward_errors
from graftwork.errors import ConfigError, DataError
from graftwork.kinds.scoring.tags import Word

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from graftwork.data.images.reader import InputReader

__all__ = ["Pooling", "embed", "pool", "pool_windows"]

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


def pool_windows(
    logits: torch.Tensor,
    windows: torch.Tensor,
    places: torch.Tensor | None = None,
    largest: torch.Tensor | None = None,
    *,
    tagged: bool = False,
) -> torch.Tensor:
    """From the outputs of windows to those of the rows that they are of.

    Those of a row are the mean over its windows, or the largest of each; a token is read in one window.

    Args:
        logits: [windows, *tasks, C]; if `tagged`, [windows, *tasks, 1 + positions, C], the window's first.
        windows: [rows, most windows], which are those of a row; -1 for none.
        places: [rows, most tokens], where among all positions of all windows each token of a row is; -1 for
            none.
        largest: where the largest counts, as a mask that fits to [rows, *tasks, C]; None: nowhere.
        tagged: there are outputs of tokens.

    Returns:
        [rows, *tasks, C], or [rows, *tasks, 1 + most tokens, C], with 0 where a row has no more tokens.
    """
    own = logits[..., 0, :] if tagged else logits
    there = (windows >= 0).view(*windows.shape, *[1] * (own.dim() - 1))
    parts = own[windows.clamp(min=0)]
    pooled = parts.masked_fill(~there, 0.0).sum(1) / there.sum(1)
    if largest is not None:
        pooled = torch.where(largest, parts.masked_fill(~there, float("-inf")).amax(1), pooled)
    if not tagged:
        return pooled
    assert places is not None
    flat = logits[..., 1:, :].movedim(-2, 1).flatten(0, 1)
    lacking = (places < 0).view(*places.shape, *[1] * (flat.dim() - 1))
    found = flat[places.clamp(min=0)].masked_fill(lacking, 0.0).movedim(1, -2)
    return torch.cat([pooled.unsqueeze(-2), found], dim=-2)


def embed(
    backbone: PreTrainedModel,
    tokenizer: InputReader,
    texts: Sequence[str],
    max_length: int,
    batch_size: int = 64,
    pooling: Pooling = "mean",
    advance: Callable[[int], None] = lambda count: None,
    words: bool = False,
    stride: int | None = None,
) -> Any:
    """Embed texts or images with a frozen backbone; texts are sorted by length and padded per batch.

    Of an encoder-decoder the encoder is used. Equal texts are embedded once. `advance` is told how many texts
    were done since the last time. With `stride` a long text is read in windows, whose vectors are averaged.

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
        tokens, found = encode_words(tokenizer, list(distinct), max_length, stride)
    else:
        tokens = encode(tokenizer, [list(distinct)], max_length, stride)
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
            counts = [window_count({WINDOWS: own}) for own in tokens.get(WINDOWS, [()] * len(distinct))]
            for rows in in_batches(order.tolist(), counts, batch_size):
                batch = pad(tokenizer, [{name: tokens[name][i] for name in tokens} for i in rows])
                batch = {name: value.to(device) for name, value in batch.items()}
                windows, places = batch.pop(WINDOWS, None), batch.pop(PLACES, None)
                with forward_errors(batch):
                    hidden = model(**batch).last_hidden_state
                if words:
                    if places is not None:
                        hidden = hidden.flatten(0, 1)[places.clamp(min=0)]
                    firsts = [[word[0] for word in found[i]] for i in rows]
                    parts += [
                        row[place].float().cpu().numpy() for row, place in zip(hidden, firsts, strict=True)
                    ]
                else:
                    mask = batch.get("attention_mask", hidden.new_ones(hidden.shape[:2], dtype=torch.long))
                    vectors = pool(hidden, mask, pooling)
                    vectors = vectors if windows is None else pool_windows(vectors, windows)
                    parts.append(vectors.float().cpu().numpy())
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
