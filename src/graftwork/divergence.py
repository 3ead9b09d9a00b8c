"""Noticing that a training has diverged, and saying where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graftwork.errors import DivergenceError

if TYPE_CHECKING:
    from graftwork.multitask import TaskHeads
    from graftwork.view import GraftView

__all__ = ["check_finite", "diverged", "graft_tensors", "not_finite", "offending_tasks"]

MEND = "lower the learning rate, or clip gradients with a smaller max_grad_norm"


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
    """Stop a run whose weights are not finite any more.

    Raises:
        DivergenceError: names one of them and the step.
    """
    found = not_finite(tensors)
    if found:
        raise diverged(
            step, f"{len(found)} of {len(tensors)} trained tensors are not finite, such as {found[0]}"
        )


def graft_tensors(view: GraftView) -> dict[str, Tensor]:
    """The weights and gates of a graft adapter, by name."""
    marker = f".{view.adapter_name}"
    return {
        f"{site}.{name.removesuffix(marker)}": parameter
        for site, layer in view.sites.items()
        for name, parameter in layer.named_parameters()
        if name.startswith("graft_") and name.endswith(marker)
    }


def offending_tasks(heads: TaskHeads, losses: Tensor, rows: Tensor) -> list[str]:
    """The tasks with a row whose loss is not finite, and how many rows.

    Args:
        heads: of all tasks.
        losses: of every row, shape [rows].
        rows: task index of every row, shape [rows].
    """
    bad: Iterable[int] = rows[~losses.isfinite()].tolist()
    counts: dict[str, int] = {}
    for row in bad:
        counts[heads.heads[row].name] = counts.get(heads.heads[row].name, 0) + 1
    total = {head.name: int((rows == index).sum()) for index, head in enumerate(heads.heads)}
    return [f"{name!r} ({count} of its {total[name]} rows)" for name, count in counts.items()]
