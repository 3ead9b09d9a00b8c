"""How big the structure is expected to be, and what keeps it small: a penalty or a budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from graftwork.schedule import Schedule
from graftwork.view import GraftView, site_prices

__all__ = [
    "BudgetControl",
    "PenaltyControl",
    "Schedule",
    "SparsityControl",
    "add_gradient_",
    "expected_active",
    "expected_size",
    "gate_parameters",
    "pool_cost",
    "pool_parameters",
]


def pool_parameters(view: GraftView) -> int:
    """Parameters of all adapters on offer."""
    pools = (site.pools[view.adapter_name] for site in view.sites.values())
    return sum(pool.cost * pool.size for pool in pools)


def pool_cost(view: GraftView) -> float:
    """What all adapters on offer take of a budget, in the unit of `GraftConfig.cost`."""
    prices = site_prices(view)
    return sum(prices[name] * site.pools[view.adapter_name].size for name, site in view.sites.items())


def expected_active(view: GraftView) -> Float[Tensor, " tasks"]:
    r"""Expected parameters on the path of every task, :math:`\sum_{s, k} n_{s k} P(z_{t s k} \neq 0)`."""
    name = view.adapter_name
    return torch.stack(
        [site.prob_open(name).sum(dim=1) * site.pools[name].cost for site in view.sites.values()]
    ).sum(dim=0)


def expected_size(
    view: GraftView, *, in_adapters: bool = False, in_parameters: bool = False
) -> Float[Tensor, ""]:
    r"""Expected size of the stored part of the shared pool, differentiable in the logits.

    .. math:: \sum_{s, k} n_{s k} \max_t P(z_{t s k} \neq 0)

    All tasks share the noise of an adapter, so the maximum is the exact probability that anyone stores it. A
    product of complements over tasks would be wrong, and its gradient dies as the number of tasks grows.

    :math:`n_{s k}` is what the adapter takes of a budget: its parameters, unless `GraftConfig.cost` says
    otherwise.

    Args:
        view: the adapter.
        in_adapters: count every gate of every task as one, the paper's `sum sigma(a)`, instead of parameters.
        in_parameters: count parameters, whatever `GraftConfig.cost` says.
    """
    name = view.adapter_name
    if in_adapters:
        return torch.stack([site.prob_open(name).sum() for site in view.sites.values()]).sum()
    prices: Mapping[str, float] = (
        {site: layer.pools[name].cost for site, layer in view.sites.items()}
        if in_parameters
        else site_prices(view)
    )
    sizes = [layer.prob_open(name).amax(dim=0).sum() * prices[site] for site, layer in view.sites.items()]
    return torch.stack(sizes).sum()


def gate_parameters(view: GraftView) -> list[nn.Parameter]:
    """The learned part of the logits, of every site that is not decided."""
    name = view.adapter_name
    return [site.graft_gate_bias[name] for site in view.sites.values() if not site.is_decided(name)]


def add_gradient_(view: GraftView, loss: Tensor) -> None:
    """Add the gradient of a function of the gates to theirs."""
    gates = gate_parameters(view)
    for gate, gradient in zip(gates, torch.autograd.grad(loss, gates), strict=True):
        gate.grad = gradient if gate.grad is None else gate.grad + gradient


class SparsityControl(Protocol):
    """Keeps the structure small: acts on the gates before and after every step of the optimizer.

    `ramped` goes from 0 (warm-up) to 1 (the end of the ramp).
    """

    always: bool
    """True: called at every step until the structure is decided; False: during the search phase."""

    def apply(self, view: GraftView, ramped: float) -> None:
        """Change the gradients of the gates, after clipping and before the optimizer's step."""

    def update(self, view: GraftView, ramped: float) -> None:
        """Adapt after the optimizer's step."""

    def figures(self) -> dict[str, float]:
        """Numbers to log."""

    def state(self) -> dict[str, Any]:
        """JSON form of what must survive a checkpoint."""

    def load(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""


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
