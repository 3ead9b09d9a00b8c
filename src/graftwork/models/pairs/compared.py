"""Texts that are compared with those of other rows: their vectors stand where other tasks have logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["in_place_of_logits", "with_cosine"]


def with_cosine(u: Float[Tensor, "*rows d"], v: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows outputs"]:
    """The cosine of two vectors, and both with length 1, [..., 1 + 2 d], in single precision.

    Args:
        u: of the first texts.
        v: of the second ones.
    """
    u, v = F.normalize(u.float(), dim=-1), F.normalize(v.float(), dim=-1)
    return torch.cat([(u * v).sum(-1, keepdim=True), u, v], dim=-1)


def in_place_of_logits(
    logits: Float[Tensor, "*rows outputs"],
    vectors: Float[Tensor, "*rows compared"],
    mine: Bool[Tensor, "*some"],
    *,
    tagged: bool,
) -> Tensor:
    """Logits that have, in rows of tasks which compare texts, the cosine and the vectors in their place.

    Args:
        logits: [..., C], or if `tagged` [..., 1 + positions, C], which is filled position by position.
        vectors: as made by `with_cosine`; those of other rows are not looked at.
        mine: where the vectors count, as a mask that fits to the rows.
        tagged: there are logits of tokens.

    Returns:
        As many outputs as the vectors need, or as many further positions. Behind the vectors stands minus
        infinity, and so behind the logits of other rows; further positions have 0 in them.
    """
    columns, needed = logits.shape[-1], vectors.shape[-1]
    low = float("-inf")
    if not tagged:
        width = max(columns, needed)
        both = [F.pad(part, (0, width - part.shape[-1]), value=low) for part in (vectors, logits)]
        return torch.where(mine[..., None], both[0], both[1])
    # Always the same further positions, so that a graph needs not compare lengths.
    more = -(-needed // columns)
    flat = F.pad(logits, (0, 0, 0, more)).flatten(-2)
    padded = torch.cat([vectors, flat.new_full((1,), low).expand_as(flat)[..., needed:]], dim=-1)
    found = torch.where(mine[..., None], padded, flat)
    return found.view(*found.shape[:-1], -1, columns)
