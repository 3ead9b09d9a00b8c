"""What a linear model sees of two texts that are read separately."""

from __future__ import annotations

from typing import Any

__all__ = ["PARTS", "pair_parts"]

PARTS = 4
"""Vectors that `pair_parts` gives."""


def pair_parts(u: Any, v: Any) -> tuple[Any, Any, Any, Any]:
    """The vectors u and v of two texts, what differs between them, and what they have in common.

    Args:
        u: of the first texts, shape [..., d], an array of NumPy or a tensor.
        v: of the second texts, of the same shape.

    Returns:
        `u, v, |u - v|, u * v`.

    Source: Conneau et al. 2017 (InferSent), figure 1.
    """
    return u, v, abs(u - v), u * v
