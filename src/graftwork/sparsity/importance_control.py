"""`ImportanceControl`: keeps the adapters on which the loss depends most, without learned gates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from graftwork.distributed.shards import whole
from graftwork.gates.importance import ImportanceState
from graftwork.sparsity.budget import site_prices
from graftwork.sparsity.size import pool_cost
from graftwork.sparsity.start import starting_paths
from graftwork.tuner.view import GraftView

__all__ = ["ImportanceControl", "importance_scores"]

MEMORY = 0.95
"""Decay of the running means per optimizer step. AdaLoRA has 0.85; means are longer here, as a mixed batch
has few rows of each task."""


def importance_scores(
    products: Float[Tensor, "tasks adapters"],
    threshold: float,
    own: Bool[Tensor, "tasks adapters"] | None = None,
    tied: Callable[[Tensor], Tensor] = lambda table: table,
) -> Float[Tensor, "tasks adapters"]:
    r"""Importance in [0, 1] that compares adapters over the whole model and tasks at one adapter.

    .. math::
        q_{t k} = I_{t k} / \sum_j I_{t j}, \quad
        \text{score}_{t k} = \left(\frac{q_{t k}}{\max_t q_{t k}}\right)^{\gamma}
                             \frac{\operatorname{rank}_k(\sum_t q_{t k})}{N}, \quad
        \gamma = \frac{\ln 2}{\ln (1 / \tau)}

    Shares of a task's own total, for tasks differ in their rows and in the scale of their loss. What all
    tasks together lose without an adapter is what it is worth storing. Ranks, as importance spans orders of
    magnitude, which rounding to 3 decimals would remove; equal importance has equal rank.

    At one adapter, a task whose share is :math:`\tau` of the largest share has half of the largest score.

    Args:
        products: I, for every adapter of the model.
        threshold: tau, in (0, 1).
        own: which adapters are open to each task, if that is settled. Others count for nothing, and the tasks
            that may use an adapter have the same score.
        tied: makes rows of tasks that go together equal.
    """
    tiny = torch.finfo(products.dtype).tiny
    products = products if own is None else products * own
    shares = products / products.sum(dim=1, keepdim=True).clamp_min(tiny)
    worth = shares.sum(dim=0)
    ranks = (torch.searchsorted(worth.sort().values, worth) + 1) / len(worth)
    if own is not None:
        return own * ranks
    power = math.log(2.0) / -math.log(threshold)
    shares = tied(shares)
    return (shares / shares.amax(dim=0).clamp_min(tiny)) ** power * ranks


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
    highest score of all tasks, which ends at the rule of `choose_structure`. Until the discretisation a
    closed adapter keeps its weights and may come back. With another `gate_start` than "shared" it is settled
    at the start which task may use which adapter (`graftwork.sparsity.start.starting_paths`), and only what
    is stored is learned.

    Source: Zhang et al. 2023, AdaLoRA, equations 8-12; g and the gates of single tasks are ours.
    """

    always = True

    def __init__(self, budget: float) -> None:
        self.budget = budget
        self._own: Bool[Tensor, "tasks adapters"] | None = None
        self._parted = False

    @torch.no_grad()
    def apply(self, view: GraftView, ramped: float) -> None:
        """Measure the gradient of the gates, then remove it: no optimizer may move them."""
        for site in view.sites.values():
            gate = site.graft_gate_bias[view.adapter_name]
            if gate.grad is None:
                continue
            state = ImportanceState.of(site.graft_state[view.adapter_name])
            gradient = whole(gate.grad).to(state.mean)
            sensitivity = gradient.abs()
            state.signed.lerp_(gradient, 1 - MEMORY)
            state.mean.lerp_(sensitivity, 1 - MEMORY)
            state.uncertainty.lerp_((sensitivity - state.mean).abs(), 1 - MEMORY)
            gate.grad = None

    @torch.no_grad()
    def update(self, view: GraftView, ramped: float) -> None:
        """Score the adapters, and open those that fit the size of the moment."""
        name = view.adapter_name
        states = [ImportanceState.of(site.graft_state[name]) for site in view.sites.values()]
        products = torch.cat([_importance(state) for state in states], dim=1)
        if view.config.gate_start != "shared" and self._own is None:
            self._own = torch.cat(starting_paths(view), dim=1)
        self._own = None if self._own is None else self._own.to(products.device)
        pools = [site.pools[name] for site in view.sites.values()]
        sizes = [pool.size for pool in pools]

        def tied(table: Tensor) -> Tensor:
            parts = zip(pools, table.split(sizes, dim=1), strict=True)
            return torch.cat([pool.tied(part) for pool, part in parts], dim=1)

        scores = importance_scores(products, view.config.path_threshold, self._own, tied)
        worth = scores.amax(dim=0)
        users = scores >= 0.5 * ramped * worth if self._own is None else self._own
        mask = users * self._stored(view, worth, ramped).to(products.device)
        for state, score, cells in zip(
            states, scores.split(sizes, dim=1), mask.split(sizes, dim=1), strict=True
        ):
            state.score.copy_(score)
            if ramped > 0:
                state.mask.copy_(cells)

    def _stored(self, view: GraftView, worth: Float[Tensor, " adapters"], ramped: float) -> Tensor:
        """1 for the adapters that are worth most, as many as fit into the size of the moment."""
        prices = site_prices(view)
        name = view.adapter_name
        costs = [prices[site] for site, layer in view.sites.items() for _ in range(layer.pools[name].size)]
        left = self.target(view, ramped)
        stored = torch.zeros(len(costs))
        for index in worth.argsort(descending=True, stable=True).tolist():
            if costs[index] <= left:
                stored[index] = 1.0
                left -= costs[index]
        return stored

    def target(self, view: GraftView, ramped: float) -> float:
        """Cost of the adapters stored at the moment, in the unit of the budget."""
        total = pool_cost(view)
        budget = min(self.budget, total)
        return budget + (total - budget) * (1.0 - ramped) ** 3

    def figures(self) -> dict[str, float]:
        """Nothing beside the size itself, which every search logs."""
        return {}

    def part(self, view: GraftView, worth: Sequence[Float[Tensor, "tasks adapters"]]) -> None:
        """Settle anew which task may use which adapter, once it is known which tasks go together.

        A group may use what is worth something to its tasks together.

        Args:
            view: the adapter, its pools with their groups.
            worth: of its open adapters, site by site (`graftwork.sparsity.worth.open_worth`).
        """
        if self._own is None:
            return
        pools = [site.pools[view.adapter_name] for site in view.sites.values()]
        own = self._own.split([pool.size for pool in pools], dim=1)
        settled = []
        for pool, paths, values in zip(pools, own, worth, strict=True):
            together = pool.tied(values.to(paths.device))
            most = pool.tied(paths.float()) >= 0.5
            settled.append((together > 0) | ((together == 0) & most))
        self._own, self._parted = torch.cat(settled, dim=1), True

    def state(self) -> dict[str, Any]:
        """What tasks that have parted may use; masks and running means are in the model."""
        return {"own": self._own.int().tolist()} if self._parted and self._own is not None else {}

    def load(self, state: dict[str, Any]) -> None:
        """Restore what tasks that have parted may use."""
        if "own" in state:
            self._own, self._parted = torch.tensor(state["own"], dtype=torch.bool), True


def _importance(state: ImportanceState) -> Float[Tensor, "tasks adapters"]:
    # Of a gradient that never changes its sign the difference is 0 up to rounding.
    suffered = (state.mean.float() - state.signed.float().clamp_min(0.0)).clamp_min(0.0)
    return suffered * state.uncertainty.float()
