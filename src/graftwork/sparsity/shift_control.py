"""`ShiftControl`: holds the expected cost at the budget by shifting all logits alike."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from graftwork.distributed.shards import whole
from graftwork.gates.shifted_sigmoid import ShiftedSigmoid, ShiftState
from graftwork.sparsity.budget import site_prices
from graftwork.sparsity.size import expected_size, gate_parameters, pool_cost
from graftwork.tuner.view import GraftView

__all__ = ["ShiftControl", "solve_shift"]

REACH = 30.0
"""Largest distance of the shift from the outermost logit, in units of beta: sigma(30) is 1 - 1e-13."""
HALVINGS = 60
"""Steps of the bisection: each halves the interval, so that 60 reach the precision of a double."""


def solve_shift(
    logits: Float[Tensor, " adapters"], costs: Float[Tensor, " adapters"], cost: float, scale: float
) -> float:
    r"""The b of `sum_k n_k sigma((a_k - b) / beta) = cost`, by bisection, in float64 on the CPU.

    Args:
        logits: of every adapter of the model, the highest logit of all tasks.
        costs: n, the price of every adapter, in the unit of the budget.
        cost: the expected cost to be met; beyond what is possible, the nearest that is.
        scale: beta.
    """
    logits, costs = logits.double().cpu(), costs.double().cpu()
    low = float(logits.min()) - REACH * scale
    high = float(logits.max()) + REACH * scale
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if float(costs @ torch.sigmoid((logits - middle) / scale)) > cost:
            low = middle
        else:
            high = middle
    return (low + high) / 2


class ShiftControl:
    r"""Solves the shift b of `shifted_sigmoid` gates after every optimizer step, warm-up included.

    .. math:: \sum_{s, k} n_{s k} \max_t \sigma((a_{t s k} - b) / \beta) = c(\text{ramped})

    where n is the price of an adapter and c falls linearly from the cost at the start to the budget. There is
    nothing to weigh against the task's loss, so no multiplier and no penalty.

    b follows from the logits, and so what the task's loss says about b belongs into their gradient:

    .. math:: g_j \leftarrow g_j + \frac{\partial L}{\partial b} \frac{\partial b}{\partial a_j}
              = g_j - \frac{\partial c / \partial a_j}{\sum_i \partial c / \partial a_i} \sum_i g_i

    The corrected gradient sums to zero: moving all logits alike moves nothing. S3Delta approximates this by
    `p sg(sum p) / sum p`.

    Source: Hu et al. 2022, "Sparse Structure Search for Delta Tuning", section 3.3; the exact derivative is
    ours.
    """

    always = True

    def __init__(self, budget: float, family: ShiftedSigmoid) -> None:
        self.budget = budget
        self.family = family

    def apply(self, view: GraftView, ramped: float) -> None:
        """Remove the part of the gates' gradient that the shift will undo."""
        gates = gate_parameters(view)
        if all(gate.grad is None for gate in gates):
            return
        slopes = torch.autograd.grad(expected_size(view), gates)
        common = torch.stack([whole(gate.grad).sum() for gate in gates if gate.grad is not None]).sum()
        # With all gates saturated there is no slope, and then no gradient to correct either.
        total = torch.stack([whole(slope).sum() for slope in slopes]).sum().clamp_min(1e-30)
        share = float(common / total)
        for gate, slope in zip(gates, slopes, strict=True):
            correction = slope * share
            gate.grad = -correction if gate.grad is None else gate.grad - correction

    @torch.no_grad()
    def update(self, view: GraftView, ramped: float) -> None:
        """Solve the shift."""
        name, prices = view.adapter_name, site_prices(view)
        keenest = {site: layer.logits(name).amax(dim=0) for site, layer in view.sites.items()}
        costs = [torch.full((len(logits),), prices[site]) for site, logits in keenest.items()]
        shift = solve_shift(
            torch.cat([*keenest.values()]), torch.cat(costs), self.target(view, ramped), self.family.scale
        )
        for layer in view.sites.values():
            ShiftState(layer.graft_state[name]).shift.fill_(shift)

    def target(self, view: GraftView, ramped: float) -> float:
        """Expected cost asked for, in the unit of the budget."""
        total = pool_cost(view)
        start = self.family.initial_open * total
        return start + ramped * (min(self.budget, total) - start)

    def figures(self) -> dict[str, float]:
        """Nothing beside the expected size itself, which every search logs."""
        return {}

    def state(self) -> dict[str, Any]:
        """Nothing: the shift is in the model."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""
