"""`ImportanceControl`: keeps the adapters on which the loss depends most, without learned gates."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from graftwork.shards import whole
from graftwork.sparsity import pool_cost
from graftwork.view import GraftView, site_prices

__all__ = ["ImportanceControl", "importance_scores"]

SURE = 0.5
MEMORY = 0.95
"""Of the running means, per optimizer step. AdaLoRA's is 0.85; in mixed batches many a task has few rows."""


def importance_scores(
    products: Float[Tensor, "tasks adapters"], *, quota: bool = False, total: bool = False
) -> Float[Tensor, "tasks adapters"]:
    r"""Importance in [0, 1] that compares adapters over the whole model and tasks at one adapter.

    .. math::
        q_{t k} = I_{t k} / \sum_j I_{t j}, \quad
        \text{score}_{t k} = \frac{q_{t k}}{\max_t q_{t k}} \frac{\operatorname{rank}_k(\max_t q_{t k})}{N}

    Shares of a task's own total, for tasks differ in their rows and in the scale of their loss. Ranks, for
    importance spans orders of magnitude, which rounding to 3 decimals would wipe out; equal importance has
    equal rank. At one adapter the tasks keep their proportions.

    Args:
        products: I, for every adapter of the model.
    """
    tiny = torch.finfo(products.dtype).tiny
    shares = products / products.sum(dim=1, keepdim=True).clamp_min(tiny)
    keenest = shares.amax(dim=0)
    if quota:
        keenest_task = shares.argmax(dim=0)
        better = (keenest[:, None] < keenest[None, :]) & (keenest_task[:, None] == keenest_task[None, :])
        worth = -better.sum(dim=1).to(keenest) + keenest
        ranks = torch.searchsorted(worth.sort().values, worth) + 1
    elif total:
        worth = shares.sum(dim=0)
        ranks = torch.searchsorted(worth.sort().values, worth) + 1
    else:
        ranks = torch.searchsorted(keenest.sort().values, keenest) + 1
    return shares / keenest.clamp_min(tiny) * (ranks / len(keenest))


class ImportanceControl:
    r"""Closes adapters by sensitivity, along a cubic schedule.

    .. math::
        s_{t k} = |\partial L / \partial z_{t k}|, \quad
        \bar s \leftarrow \beta \bar s + (1 - \beta) s, \quad
        \bar u \leftarrow \beta \bar u + (1 - \beta) |s - \bar s|, \quad
        I = (\bar s - \max(\bar g, 0)) \bar u

    s is the first-order change of the loss if an open adapter (z = 1) is closed, `|sum W_up dL/dW_up|`; of a
    closed one, if it is opened. AdaLoRA's importance is `s u`; the running mean g of the signed gradient
    takes away what a task would gain without the adapter: of an adapter trained by several tasks, those that
    suffer from it have gradients as large as those that profit.

    After every step the most important adapters stay open, as many as fit into
    `B + (pool - B) (1 - ramped)^3`; a task uses those of them where its score is at least `ramped / 2` of the
    keenest task's, which ends at the rule of `choose_structure`. With `gate_start="private"` every adapter is
    that of its one task until the ramp begins; from there on the bound is half of the keenest task's. Until
    the discretisation a closed adapter keeps its weights and may come back.

    Source: Zhang et al. 2023, AdaLoRA, equations 8-12; g and the gates of single tasks are ours.
    """

    always = True

    def __init__(self, budget: float) -> None:
        self.budget = budget

    @torch.no_grad()
    def apply(self, view: GraftView, ramped: float) -> None:
        """Measure the gradient of the gates, and take it away: no optimizer is to move them."""
        for site in view.sites.values():
            gate = site.graft_gate_bias[view.adapter_name]
            if gate.grad is None:
                continue
            _, _, mean, uncertainty, signed = site.graft_state[view.adapter_name]
            gradient = whole(gate.grad).to(mean)
            sensitivity = gradient.abs()
            signed.lerp_(gradient, 1 - MEMORY)
            mean.lerp_(sensitivity, 1 - MEMORY)
            uncertainty.lerp_((sensitivity - mean).abs(), 1 - MEMORY)
            gate.grad = None

    @torch.no_grad()
    def update(self, view: GraftView, ramped: float) -> None:
        """Score the adapters, and open those that fit the size of the moment."""
        name = view.adapter_name
        states = [site.graft_state[name] for site in view.sites.values()]
        sizes = [state.shape[-1] for state in states]
        trial = view.config.trial
        products = [_importance(state) for state in states]
        if trial == "nested":
            open_now = [state[0].float() for state in states]
            means = [
                (product * gates).sum(dim=1, keepdim=True) / gates.sum(dim=1, keepdim=True).clamp_min(1.0)
                for product, gates in zip(products, open_now, strict=True)
            ]
            products = [(product * mean).sqrt() for product, mean in zip(products, means, strict=True)]
        scores = importance_scores(torch.cat(products, dim=1), quota=trial == "quota", total="total" in trial)
        if trial == "always_on":
            firsts = torch.tensor([0, *sizes[:-1]]).cumsum(dim=0)
            scores = scores * 0.999
            scores[:, firsts] = 1.0
        if "sign" in trial:
            scores = _by_sign(states, torch.cat(products, dim=1), ramped)
        keenest = scores.amax(dim=0)
        prices = site_prices(view)
        costs = [prices[site] for site, layer in view.sites.items() for _ in range(layer.pools[name].size)]
        left = self.target(view, ramped)
        stored = torch.zeros(len(costs))
        for index in keenest.argsort(descending=True, stable=True).tolist():
            if costs[index] <= left:
                stored[index] = 1.0
                left -= costs[index]
        least = 0.5 if "sign" in trial or view.config.gate_start == "private" else 0.5 * ramped
        mask = (scores >= least * keenest) * stored.to(scores.device)
        for state, score, cells in zip(
            states, scores.split(sizes, dim=1), mask.split(sizes, dim=1), strict=True
        ):
            state[1].copy_(score)
            if ramped > 0:
                state[0].copy_(cells)

    def target(self, view: GraftView, ramped: float) -> float:
        """Cost of the adapters stored at the moment, in the unit of the budget."""
        total = pool_cost(view)
        budget = min(self.budget, total)
        return budget + (total - budget) * (1.0 - ramped) ** 3

    def figures(self) -> dict[str, float]:
        """Nothing beside the size itself, which every search logs."""
        return {}

    def state(self) -> dict[str, Any]:
        """Nothing: masks and running means are in the model."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


def _importance(state: Tensor) -> Tensor:
    _, _, mean, uncertainty, signed = state.float()
    # Of a gradient that never changes its sign the difference is 0 up to rounding.
    importance: Tensor = (mean - signed.clamp_min(0.0)).clamp_min(0.0) * uncertainty
    return importance


def _by_sign(states: list[Tensor], products: Tensor, ramped: float) -> Tensor:
    whole_state = torch.cat([state.float() for state in states], dim=2)
    _, old, mean, _, signed = whole_state
    use = old >= 0.5 * old.amax(dim=0)
    trend = signed / mean.clamp_min(torch.finfo(mean.dtype).tiny)
    if ramped > 0:
        use = (use | (trend < -SURE)) & ~(trend > SURE)
        lonely = ~use.any(dim=0)
        use = use | (lonely & (trend == trend.amin(dim=0)))
    tiny = torch.finfo(products.dtype).tiny
    shares = products / products.sum(dim=1, keepdim=True).clamp_min(tiny)
    worth = (shares * use).sum(dim=0)
    ranks = torch.searchsorted(worth.sort().values, worth) + 1
    return torch.where(use, 1.0, 0.25) * (ranks / len(worth))
