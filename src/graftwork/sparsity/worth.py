"""What an open adapter is worth to a task, below 0 if the task is better off without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from graftwork.gates.importance import ImportanceState

if TYPE_CHECKING:
    from graftwork.tuner.view import GraftView

__all__ = ["open_worth"]


@torch.no_grad()
def open_worth(view: GraftView) -> list[Float[Tensor, "tasks adapters"]]:
    r"""What every adapter is worth to a task, site by site; the gates must not be decided.

    A task wants an adapter if its score is at least half of the highest one of all tasks, as the decision has
    it (`graftwork.structure.choosing.choose_structure`). Of gates that are measured (`importance`) the worth
    is what hangs on the gate being as the task wants it, as a share of what hangs on all that it wants:

    .. math::
        w_{t k} = \pm (\bar s - \max(\pm \bar g, 0)) \bar u

    with + for an adapter that it wants and the running means of `graftwork.sparsity.importance_control`. Of
    other gates it is the score above that half.
    """
    name = view.adapter_name
    layers = list(view.sites.values())
    scores = [layer.scores(name).float() for layer in layers]
    halves = [score.amax(dim=0) / 2 for score in scores]
    if not all(layer.pools[name].family.measured for layer in layers):
        return [score - half for score, half in zip(scores, halves, strict=True)]
    sizes = [score.shape[1] for score in scores]
    wanted = torch.cat([score >= half for score, half in zip(scores, halves, strict=True)], dim=1)
    states = [ImportanceState.of(layer.graft_state[name]) for layer in layers]
    mean, signed, uncertainty = (
        torch.cat([getattr(state, part).float() for state in states], dim=1)
        for part in ("mean", "signed", "uncertainty")
    )
    sign = torch.where(wanted, 1.0, -1.0)
    stake = (mean - (sign * signed).clamp_min(0.0)).clamp_min(0.0) * uncertainty
    total = (stake * wanted).sum(dim=1, keepdim=True).clamp_min(torch.finfo(stake.dtype).tiny)
    return list((sign * stake / total).split(sizes, dim=1))
