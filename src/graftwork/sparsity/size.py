"""How big the structure is expected to be, differentiable in the logits."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from graftwork.sparsity.budget import site_prices
from graftwork.tuner.view import GraftView

__all__ = [
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
    """Price of all adapters on offer, in the unit of `GraftConfig.cost`."""
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

    :math:`n_{s k}` is the adapter's price in the budget: its parameters, unless `GraftConfig.cost` says
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
