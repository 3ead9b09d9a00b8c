"""`BudgetControl`: a Lagrangian that drives the expected size to a budget."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graftwork.sparsity.size import add_gradient_, expected_size, pool_cost
from graftwork.tuner.view import GraftView

__all__ = ["BudgetControl"]


class BudgetControl:
    r"""Lagrangian that drives the expected cost c to a budget B, both in the unit of `GraftConfig.cost`.

    .. math:: \lambda_1 (c - b) + \lambda_2 (c - b)^2

    with c and the target b as fractions of the pool; b falls linearly from 1 to B / pool while the ramp
    lasts. The multipliers climb by Adam ascent.

    Source: Xia, Zhong, Chen 2022 (CoFi), section 3.1.
    """

    always = False

    def __init__(self, budget: float, *, learning_rate: float = 0.1) -> None:
        self.budget = budget
        self.multipliers = torch.zeros(2, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.multipliers], lr=learning_rate, maximize=True)

    def _excess(self, view: GraftView, ramped: float) -> Tensor:
        total = pool_cost(view)
        target = 1.0 + ramped * (min(self.budget / total, 1.0) - 1.0)
        excess: Tensor = expected_size(view) / total - target
        return excess

    def loss(self, view: GraftView, ramped: float) -> Tensor:
        """The Lagrangian term, with the multipliers held fixed."""
        excess = self._excess(view, ramped)
        first, second = self.multipliers.detach().to(excess.device)
        loss: Tensor = first * excess + second * excess**2
        return loss

    def apply(self, view: GraftView, ramped: float) -> None:
        """Add the gradient of the Lagrangian."""
        add_gradient_(view, self.loss(view, ramped))

    def update(self, view: GraftView, ramped: float) -> None:
        """One ascent step of the multipliers."""
        with torch.no_grad():
            excess = self._excess(view, ramped).cpu()
        self.multipliers.grad = torch.stack([excess, excess**2]).to(self.multipliers)
        self.optimizer.step()

    def figures(self) -> dict[str, float]:
        """Both multipliers."""
        first, second = self.multipliers.tolist()
        return {"multiplier_1": first, "multiplier_2": second}

    def state(self) -> dict[str, Any]:
        """Multipliers and the state of their Adam."""
        moments = self.optimizer.state[self.multipliers]
        return {
            "multipliers": self.multipliers.tolist(),
            "adam": {key: value.tolist() for key, value in moments.items()},
        }

    def load(self, state: dict[str, Any]) -> None:
        """Restore multipliers and moments.

        Raises:
            ValueError: the state is not that of two multipliers.
        """
        multipliers = torch.tensor(state["multipliers"], dtype=torch.float32)
        moments = {key: torch.tensor(value, dtype=torch.float32) for key, value in state["adam"].items()}
        shapes = {key: tuple(value.shape) for key, value in {**moments, "multipliers": multipliers}.items()}
        pairs = ("multipliers", "exp_avg", "exp_avg_sq") if moments else ("multipliers",)
        if shapes != {**dict.fromkeys(pairs, (2,)), **({"step": ()} if moments else {})}:
            raise ValueError(f"the multipliers and their moments have the shapes {shapes}")
        if not all(torch.isfinite(value).all() for value in (multipliers, *moments.values())):
            raise ValueError("the multipliers or their moments are not finite")
        with torch.no_grad():
            self.multipliers.copy_(multipliers)
        if moments:
            self.optimizer.state[self.multipliers] = moments
