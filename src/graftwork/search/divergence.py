"""Noticing that a training has diverged, and saying where."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from graftwork.errors import DivergenceError

__all__ = ["check_finite", "diverged", "not_finite"]

MEND = "lower the learning rate, or clip gradients with a smaller max_grad_norm"
"""Advice at the end of every message about a training that diverged."""


def diverged(step: int, what: str) -> DivergenceError:
    """The error of a run that diverged in an optimizer step (the first is 1)."""
    return DivergenceError(f"training diverged at step {step}: {what}; {MEND}.")


@torch.no_grad()
def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors with a value that is not finite; one transfer from the device if there is none."""
    floating = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    if not floating:
        return []
    finite = torch.stack([tensor.isfinite().all() for tensor in floating.values()])
    if bool(finite.all()):
        return []
    return [name for name, good in zip(floating, finite.tolist(), strict=True) if not good]


def check_finite(tensors: Mapping[str, Tensor], step: int) -> None:
    """Stop a run whose weights are not finite.

    Raises:
        DivergenceError: names one of them and the step.
    """
    found = not_finite(tensors)
    if found:
        raise diverged(
            step, f"{len(found)} of {len(tensors)} trained tensors are not finite, such as {found[0]}"
        )
