"""A gradient of zero for a parameter that an output does not depend on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["with_zero_gradient"]


class _ZeroGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, parameter: Tensor) -> Tensor:
        ctx.like = (parameter.shape, parameter.dtype, parameter.device)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        shape, dtype, device = ctx.like
        return gradient, torch.zeros(shape, dtype=dtype, device=device)


def with_zero_gradient(x: Tensor, parameter: Tensor) -> Tensor:
    """`x` itself; in the backward pass the parameter, on which it does not depend, gets a gradient of zero.

    DDP waits for the gradient of every parameter it was given, unless it searches every graph for those that
    are missing (`find_unused_parameters`).
    """
    result: Tensor = _ZeroGradient.apply(x, parameter)  # type: ignore[no-untyped-call]
    return result
