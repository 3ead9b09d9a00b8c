"""What a linear model sees of two texts that are read separately."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["PARTS", "pair_parts", "pair_width", "scaled"]

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


def scaled(cosine: Any) -> Any:
    r"""A cosine in the unit of standardised targets.

    .. math:: \sqrt{12} \, (c - 1/2)

    which has mean 0 and deviation 1 if similarities are spread evenly from 0 to 1.
    """
    return math.sqrt(12) * (cosine - 0.5)


def pair_width(width: int) -> int:
    """Numbers that a pair of vectors of `width` gives beside the first: the other parts, and the cosine."""
    return (PARTS - 1) * width + 1
