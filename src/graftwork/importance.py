"""`ImportanceControl`: keeps the adapters on which the loss depends most, without learned gates."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from graftwork.affinity import SKETCH, affinities, dealt_to, group_tasks
from graftwork.processes import from_main, summed
from graftwork.shards import whole
from graftwork.sparsity import SparsityControl, pool_cost
from graftwork.view import GraftView, site_prices

GRADIENT_MEMORY = 0.98
"""Of the running means of the tasks' gradients, per optimizer step: they are compared once, and noisy."""

__all__ = ["ImportanceControl", "importance_scores"]

MEMORY = 0.95
"""Of the running means, per optimizer step. AdaLoRA's is 0.85; in mixed batches many a task has few rows."""


def importance_scores(
    products: Float[Tensor, "tasks adapters"], own: Bool[Tensor, "tasks adapters"] | None = None
) -> Float[Tensor, "tasks adapters"]:
    r"""Importance in [0, 1] that compares adapters over the whole model and tasks at one adapter.

    .. math::
        q_{t k} = I_{t k} / \sum_j I_{t j}, \quad
        \text{score}_{t k} = \frac{q_{t k}}{\max_t q_{t k}} \frac{\operatorname{rank}_k(\max_t q_{t k})}{N}

    Shares of a task's own total, for tasks differ in their rows and in the scale of their loss. Ranks, for
    importance spans orders of magnitude, which rounding to 3 decimals would wipe out; equal importance has
    equal rank. At one adapter the tasks keep their proportions.

    If it is known which adapters are whose, an adapter is worth the sum of its tasks' shares, and its tasks
    have the same score:

    .. math::
        \text{score}_{t k} = o_{t k} \frac{\operatorname{rank}_k(\sum_t q_{t k})}{N}, \quad
        q_{t k} = o_{t k} I_{t k} / \sum_j o_{t j} I_{t j}

    Args:
        products: I, for every adapter of the model.
        own: o, which adapters are open to each task.
    """
    tiny = torch.finfo(products.dtype).tiny
    products = products if own is None else products * own
    shares = products / products.sum(dim=1, keepdim=True).clamp_min(tiny)
    worth = shares.amax(dim=0) if own is None else shares.sum(dim=0)
    ranks = (torch.searchsorted(worth.sort().values, worth) + 1) / len(worth)
    return shares / worth.clamp_min(tiny) * ranks if own is None else own * ranks


class ImportanceControl(SparsityControl):
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

    With `gate_start="grouped"` all tasks use all adapters until the ramp begins. Then the tasks whose
    gradients agree (`graftwork.affinity`) form groups, every adapter is dealt to one of them, and from there
    on it is open to its group and to nobody else; what is stored goes by the sum of the group's shares.

    Source: Zhang et al. 2023, AdaLoRA, equations 8-12; g and the gates of single tasks are ours.
    """

    always = True

    def __init__(self, budget: float) -> None:
        self.budget = budget
        self.groups: list[list[int]] | None = None
        """The tasks that share adapters, once they are known (`gate_start="grouped"`)."""
        self.affinity: list[list[float]] | None = None
        """Cosines between the tasks' mean gradients, by which they were grouped."""

    @torch.no_grad()
    def begin(self, view: GraftView) -> None:
        """Let the sites note every task's gradient, until the tasks are grouped."""
        for site in view.sites.values():
            site.task_gradients.pop(view.adapter_name, None)
            if view.config.gate_start == "grouped" and self.groups is None:
                state = site.graft_state[view.adapter_name]
                site.task_gradients[view.adapter_name] = state.new_zeros(*state.shape[1:], SKETCH)

    @torch.no_grad()
    def apply(self, view: GraftView, ramped: float) -> None:
        """Measure the gradient of the gates, and take it away: no optimizer is to move them."""
        for site in view.sites.values():
            state = site.graft_state[view.adapter_name]
            if (found := site.task_gradients.get(view.adapter_name)) is not None:
                state[5:].lerp_(summed(found).permute(2, 0, 1).to(state), 1 - GRADIENT_MEMORY)
                found.zero_()
            gate = site.graft_gate_bias[view.adapter_name]
            if gate.grad is None:
                continue
            _, _, mean, uncertainty, signed = state[:5]
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
        products = torch.cat([_importance(state) for state in states], dim=1)
        if view.config.gate_start == "grouped" and ramped > 0:
            if self.groups is None:
                self._group(view)
            own = self._own(sizes, products.device)
            scores = importance_scores(products, own)
            users = own.to(scores)
        else:
            scores = importance_scores(products)
            least = 0.5 if view.config.gate_start == "private" else 0.5 * ramped
            users = (scores >= least * scores.amax(dim=0)).to(scores)
        mask = users * self._stored(view, scores.amax(dim=0), ramped).to(users)
        for state, score, cells in zip(
            states, scores.split(sizes, dim=1), mask.split(sizes, dim=1), strict=True
        ):
            state[1].copy_(score)
            if ramped > 0:
                state[0].copy_(cells)

    def _stored(self, view: GraftView, worth: Float[Tensor, " adapters"], ramped: float) -> Tensor:
        """1 for the adapters that are worth most, as many as fit the size of the moment."""
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

    def _group(self, view: GraftView) -> None:
        """Decide which tasks share, and note no more gradients."""
        name = view.adapter_name
        sketches = [site.graft_state[name][5:].permute(1, 2, 0).flatten(1) for site in view.sites.values()]
        affinity = affinities(torch.cat(sketches, dim=1))
        # Those of the main process: the last bit may differ between devices.
        self.affinity, self.groups = from_main((affinity.tolist(), group_tasks(affinity)))
        for site in view.sites.values():
            site.task_gradients.pop(name, None)

    def _own(self, sizes: list[int], device: torch.device) -> Bool[Tensor, "tasks adapters"]:
        """Which adapters are open to each task: each is dealt to a task, and open to all of its group."""
        assert self.groups is not None
        group = {task: index for index, tasks in enumerate(self.groups) for task in tasks}
        dealt = torch.cat([dealt_to(size, place, len(group)) for place, size in enumerate(sizes)])
        owner = torch.tensor([group[task] for task in range(len(group))])
        return (owner[:, None] == owner[dealt][None, :]).to(device)

    def target(self, view: GraftView, ramped: float) -> float:
        """Cost of the adapters stored at the moment, in the unit of the budget."""
        total = pool_cost(view)
        budget = min(self.budget, total)
        return budget + (total - budget) * (1.0 - ramped) ** 3

    def figures(self) -> dict[str, float]:
        """How many groups of tasks there are, once that is known."""
        return {} if self.groups is None else {"task_groups": float(len(self.groups))}

    def state(self) -> dict[str, Any]:
        """The groups; masks and running means are in the model."""
        return {} if self.groups is None else {"groups": self.groups, "affinity": self.affinity}

    def load(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned.

        Raises:
            ValueError: the groups are no partition of the tasks.
        """
        if not state:
            return
        groups, affinity = state["groups"], state["affinity"]
        tasks = sorted(task for group in groups for task in group)
        if tasks != list(range(len(affinity))) or not all(groups):
            raise ValueError(f"the groups {groups} are no partition of {len(affinity)} tasks")
        self.groups, self.affinity = [list(group) for group in groups], affinity


def _importance(state: Tensor) -> Tensor:
    _, _, mean, uncertainty, signed = state[:5].float()
    # Of a gradient that never changes its sign the difference is 0 up to rounding.
    importance: Tensor = (mean - signed.clamp_min(0.0)).clamp_min(0.0) * uncertainty
    return importance
