"""The gates of single sites, as a search moves and reads them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graftwork.tuner.layer import GraftLayer
from graftwork.tuner.view import GraftView

__all__ = ["gate_scores", "keep_in_bounds_", "start_closed_"]


@torch.no_grad()
def start_closed_(site: GraftLayer, adapter_name: str, gates: Tensor) -> None:
    """Let these gates, bool [tasks, K], start nearly closed."""
    theta = site.graft_gate_bias[adapter_name]
    state = site.graft_state[adapter_name] if adapter_name in site.graft_state else None
    family = site.pools[adapter_name].family
    family.start_closed_(gates.to(theta.device), theta, state, float(site.graft_ratio[adapter_name]))


@torch.no_grad()
def gate_scores(view: GraftView) -> dict[str, dict[str, Any]]:
    """`prob_open` and `scores` [tasks, K] and `strength` [K] of every site, as lists."""
    name = view.adapter_name
    return {
        site: {
            "prob_open": layer.prob_open(name).tolist(),
            "scores": layer.scores(name).tolist(),
            "strength": layer.strength(name).tolist(),
        }
        for site, layer in view.sites.items()
    }


def keep_in_bounds_(site: GraftLayer, adapter_name: str) -> None:
    """Clamp the learned part of the logits, so that a gate at the bound can move back in the next step."""
    family = site.pools[adapter_name].family
    ratio = float(site.graft_ratio[adapter_name])
    low, high = (-family.bound - family.initial_logit) / ratio, (family.bound - family.initial_logit) / ratio
    with torch.no_grad():
        site.graft_gate_bias[adapter_name].clamp_(low, high)
