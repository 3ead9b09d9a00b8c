r"""Which tasks should share adapters: those whose gradients agree.

While all tasks share every adapter (the warm-up of a search with `gate_start="grouped"`), the gradient of
each task alone is noted for every adapter's `W_down`. Tasks whose mean gradients point the same way help each
other; those that pull in other directions get adapters of their own. (The gradients of `W_up` hardly tell
tasks apart: docs/log.md, 2026-11-25.)

Source: cosines of the tasks' gradients as in Yu et al. 2020 (PCGrad), to group tasks as in Fifty et al. 2021;
here of running means, for the gradients of single batches are hardly correlated.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["SKETCH", "THRESHOLD", "affinities", "dealt_to", "group_tasks", "noted", "projection"]

SKETCH = 16
"""M: numbers kept of every adapter's gradient."""
THRESHOLD = 0.25
"""Mean cosine from which tasks share."""


@functools.cache
def projection(r: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The random signs that turn the gradient of an adapter, [r, d_in], into `SKETCH` numbers.

    The same for the same sizes, wherever and whenever it is made. Inner products of sketches are unbiased
    estimates of those of the gradients.

    Returns:
        [r, M] and [d_in, M].
    """
    draw = torch.Generator().manual_seed(width * 1_000 + r)
    units, features = (
        torch.randint(2, (size, SKETCH), generator=draw).mul(2).sub(1).float().to(device)
        for size in (r, width)
    )
    return units, features / SKETCH**0.5


class _Note(torch.autograd.Function):
    """The identity, whose backward adds a sketch of every task's gradient to `total`."""

    @staticmethod
    def forward(ctx: Any, units: Tensor, x: Tensor, rows: int | Tensor, total: Tensor) -> Tensor:
        count, (_, adapters, _) = units.shape[0], total.shape
        signs, features = projection(units.shape[-1] // adapters, x.shape[-1], x.device)
        rows = torch.as_tensor(rows, device=x.device).expand(count)
        inner = x.detach().float().reshape(count, -1, x.shape[-1]) @ features
        ctx.save_for_backward(inner.float(), signs, rows)  # autocast made it shorter
        ctx.total = total
        return units.view_as(units)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        inner, signs, rows = ctx.saved_tensors
        count, adapters = inner.shape[0], ctx.total.shape[1]
        outer = gradient.float().reshape(count, -1, gradient.shape[-1])
        sketch = (outer.mT @ inner).view(count, adapters, -1, SKETCH).mul(signs).sum(dim=2)
        ctx.total.index_add_(0, rows, sketch)
        return gradient, None, None, None


def noted(units: Tensor, x: Tensor, rows: int | Tensor, total: Float[Tensor, "tasks adapters m"]) -> Tensor:
    """`units`, as they are; their backward pass adds to `total`.

    Args:
        units: `W_down x + b`, [rows, ..., K r].
        x: what they are made of, [rows, ..., d_in].
        rows: the task of every row, or of all of them.
        total: changed in place: sketches of the gradient of every adapter's `W_down`, task by task.
    """
    result: Tensor = _Note.apply(units, x, rows, total)  # type: ignore[no-untyped-call]
    return result


def dealt_to(adapters: int, place: int, tasks: int) -> Int[Tensor, " adapters"]:
    """The task that every adapter of a site is dealt to: in turn, and the first goes round from site to site.

    Args:
        adapters: in the site's pool.
        place: which site it is.
        tasks: how many there are.
    """
    return (torch.arange(adapters) + place * adapters) % tasks


def affinities(sketches: Float[Tensor, "tasks numbers"]) -> Float[Tensor, "tasks tasks"]:
    """Cosines between the tasks' mean gradients; 0 for a task without one."""
    unit = sketches.double() / sketches.double().norm(dim=1, keepdim=True).clamp_min(1e-30)
    return (unit @ unit.T).float()


def group_tasks(affinity: Float[Tensor, "tasks tasks"], threshold: float = THRESHOLD) -> list[list[int]]:
    """Groups of tasks: the two with the largest mean affinity become one, as long as it is the threshold.

    Args:
        affinity: symmetric, as made by `affinities`.
        threshold: mean cosine between the tasks of two groups from which they become one.

    Returns:
        The tasks of every group, in order of their first.
    """
    table = affinity.tolist()
    groups = [[task] for task in range(len(table))]

    def mean(first: list[int], second: list[int]) -> float:
        return sum(table[a][b] for a in first for b in second) / (len(first) * len(second))

    while len(groups) > 1:
        pairs = [(i, j) for j in range(len(groups)) for i in range(j)]
        best = max(pairs, key=lambda pair: (mean(groups[pair[0]], groups[pair[1]]), -pair[0], -pair[1]))
        if mean(groups[best[0]], groups[best[1]]) < threshold:
            break
        groups[best[0]] = sorted(groups[best[0]] + groups.pop(best[1]))
    return sorted(groups)
