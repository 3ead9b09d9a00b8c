"""Budgets of a graft adapter in the unit of its cost, and whether they are possible."""

from __future__ import annotations

import math
from typing import Literal

from torch import nn

from graftwork.errors import StructureError
from graftwork.tuner.cost import adapter_price, backbone_flops
from graftwork.tuner.view import GraftView, backbone_parameters, graft_view

__all__ = [
    "budget_cost",
    "budget_parameters",
    "check_budgets",
    "in_units_of_cost",
    "pool_note",
    "site_prices",
]


def site_prices(view: GraftView) -> dict[str, float]:
    """Price of one adapter of every site, in the unit of `GraftConfig.cost`.

    Raises:
        ConfigError: the cost is a table that lacks a site.
    """
    name, cost = view.adapter_name, view.config.cost
    return {site: adapter_price(cost, site, layer.pools[name]) for site, layer in view.sites.items()}


def in_units_of_cost(
    model: nn.Module, share: float, adapter_name: str | None = None, *, what: str = "budget"
) -> float:
    """A budget in the unit of `GraftConfig.cost`: 1 or more is one already, below 1 it is a fraction.

    The whole is the backbone's parameters; for `flops` the FLOPs per token of its linear maps; for a table
    the cost of all adapters on offer. Parameters and FLOPs are rounded down to whole numbers.

    Args:
        model: a model with a graft adapter, at any depth.
        share: the budget as in `GraftConfig`.
        adapter_name: PEFT's name for the adapter; default the active one.
        what: the name of the setting, for the message.

    Raises:
        ConfigError: the cost is a table that lacks a site.
        StructureError: the budget is smaller than one adapter.
    """
    view = graft_view(model, adapter_name)
    prices, cost = site_prices(view), view.config.cost
    if cost == "parameters":
        whole: float = backbone_parameters(model)
    elif cost == "flops":
        whole = backbone_flops(view.backbone)
    else:
        whole = sum(prices[name] * site.pools[view.adapter_name].size for name, site in view.sites.items())
    allowed = share if share >= 1 else share * whole
    allowed = int(allowed) if isinstance(cost, str) else allowed
    smallest = min(prices.values(), default=0)
    if allowed < smallest:
        unit = cost if isinstance(cost, str) else "of the cost table's units"
        raise StructureError(
            f"{what}={share:g} allows {allowed:,.10g} {unit}, less than one adapter ({smallest:,.10g}); "
            f"raise the {what.replace('_', ' ')} to at least {smallest / whole:.2g} or lower r."
        )
    return allowed


def budget_cost(
    model: nn.Module, adapter_name: str | None = None, *, of: Literal["budget", "task_budget"] = "budget"
) -> float | None:
    """The budget of an adapter, or that of one task, in the unit of `GraftConfig.cost`; None if it has none.

    Raises:
        ConfigError: the cost is a table that lacks a site.
        StructureError: the budget is smaller than one adapter.
    """
    share: float | None = getattr(graft_view(model, adapter_name).config, of)
    return None if share is None else in_units_of_cost(model, share, adapter_name, what=of)


def check_budgets(model: nn.Module, adapter_name: str | None = None) -> None:
    """Refuse impossible budgets before the first step, not at discretisation.

    Raises:
        ConfigError: the cost is a table that lacks a site.
        StructureError: a budget is smaller than one adapter.
    """
    site_prices(graft_view(model, adapter_name))
    budget_cost(model, adapter_name)
    budget_cost(model, adapter_name, of="task_budget")


def pool_note(
    model: nn.Module,
    adapter_name: str | None = None,
    *,
    budget: str = "graft.budget",
    larger: str = "graft.pool_size",
) -> str | None:
    """A sentence if the budget of an adapter is above its whole pool, so that nothing has to be chosen.

    Args:
        model: a model with a graft adapter whose pool is whole.
        adapter_name: PEFT's name for the adapter; default the active one.
        budget: the name of the setting.
        larger: the setting that makes the pool larger.

    Raises:
        StructureError: the budget is smaller than one adapter.
    """
    view, allowed = graft_view(model, adapter_name), budget_cost(model, adapter_name)
    name, prices = view.adapter_name, site_prices(view)
    whole = sum(prices[site] * layer.pools[name].size for site, layer in view.sites.items())
    if allowed is None or allowed <= whole or not whole:
        return None
    cost, size = view.config.cost, view.config.pool_size
    unit = cost if isinstance(cost, str) else "of the cost table's units"
    share = ""
    if cost == "parameters":
        share = f", {100 * whole / backbone_parameters(model):.3g} % of the backbone"
    return (
        f"{budget} allows {allowed:,.10g} {unit}, more than the whole pool holds ({whole:,.10g}{share}: "
        f"{size} adapters of rank {view.config.r} at {len(view.sites)} sites), so that nothing has to be "
        f"closed; raise {larger} (to {math.ceil(size * allowed / whole)} for a pool as large as the budget), "
        "r or the number of sites (placement, target_modules), or lower the budget."
    )


def budget_parameters(model: nn.Module, adapter_name: str | None = None) -> int | None:
    """The budget of an adapter as a number of stored parameters; None if it has none in parameters.

    Raises:
        StructureError: the budget is smaller than one adapter.
    """
    budget = budget_cost(model, adapter_name)
    counted = graft_view(model, adapter_name).config.cost == "parameters"
    return int(budget) if budget is not None and counted else None
