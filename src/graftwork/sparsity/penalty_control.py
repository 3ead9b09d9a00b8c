"""`PenaltyControl`: the expected size, times lambda, added to the loss."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from graftwork.sparsity.size import add_gradient_, expected_size, pool_cost
from graftwork.tuner.view import GraftView

__all__ = ["PenaltyControl"]


class PenaltyControl:
    r"""`lambda * size`, ramped up linearly.

    `mean`: expected size as a fraction of the pool, in the unit of `GraftConfig.cost`. `sum`: the number of
    open gates over all tasks, `lambda * sum_{t,s,k} P`, which for sigmoid gates is the paper's
    `lambda * sum sigma(a)` (arXiv 2509.03057, equation 5).
    """

    always = False

    def __init__(self, weight: float, reduction: str) -> None:
        self.weight = weight
        self.reduction = reduction

    def loss(self, view: GraftView, ramped: float) -> Tensor:
        """`lambda * ramped * size`."""
        if self.reduction == "sum":
            return self.weight * ramped * expected_size(view, in_adapters=True)
        return self.weight * ramped * expected_size(view) / pool_cost(view)

    def apply(self, view: GraftView, ramped: float) -> None:
        """Add the gradient of the loss."""
        add_gradient_(view, self.loss(view, ramped))

    def update(self, view: GraftView, ramped: float) -> None:
        """Nothing adapts."""

    def figures(self) -> dict[str, float]:
        """The weight."""
        return {"penalty": self.weight}

    def state(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""
