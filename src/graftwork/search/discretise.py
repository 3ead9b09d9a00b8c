"""From learned gates to a structure, and back into the gates of a model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from graftwork.errors import StructureError
from graftwork.search.parting import tied_scores
from graftwork.sparsity.budget import budget_cost, site_prices
from graftwork.structure.choosing import choose_structure
from graftwork.structure.fixed import fixed_structure
from graftwork.structure.ranking import SiteScores
from graftwork.structure.structure import SiteStructure, Structure
from graftwork.tuner.config import GraftConfig
from graftwork.tuner.view import graft_view

__all__ = [
    "discretise_",
    "record_structure_",
    "set_fixed_structure_",
    "set_structure_",
    "site_scores",
    "structure_of",
]


def structure_of(model: nn.Module, adapter_name: str | None = None) -> Structure:
    """The structure of a graft adapter.

    While gates are learned it is the structure that `discretise_` would choose now; nothing is changed. With
    `GraftConfig.trunk` or `trunk_budget`, tasks part where these allow it.

    Args:
        model: a model with a graft adapter, at any depth.
        adapter_name: PEFT's name for it; default the active one.

    Returns:
        The structure: data without a tensor, also of sites where every adapter is closed.

    Raises:
        ConfigError: the model has no graft adapter, the cost table lacks a site, or the backbone cannot have
            the trunk that is asked for.
        StructureError: gates are learned, and the budget is smaller than one adapter.

    Example:
        >>> from peft import get_peft_model
        >>> model = get_peft_model(backbone, gw.GraftConfig(tasks=["a", "b"], gates="fixed", pool_size=4))
        >>> structure = gw.structure_of(model)
        >>> structure.tasks, len(structure.sites), structure.counts()
        (('a', 'b'), 12, {'a': 48, 'b': 48})
    """
    view = graft_view(model, adapter_name)
    if not view.decided:
        return choose_structure(
            tuple(view.config.tasks),
            tied_scores(model, view, site_scores(model, adapter_name)),
            budget_cost(model, adapter_name),
            task_budget=budget_cost(model, adapter_name, of="task_budget"),
            rank_by=view.config.rank_by,
        )
    name = view.adapter_name
    return Structure(
        tuple(view.config.tasks),
        {
            site: SiteStructure(
                layer.pools[name].size,
                layer.pools[name].rank,
                layer.pools[name].cost,
                tuple(map(tuple, (layer.graft_mask[name] > 0).tolist())),
            )
            for site, layer in view.sites.items()
        },
    )


@torch.no_grad()
def site_scores(model: nn.Module, adapter_name: str | None = None) -> dict[str, SiteScores]:
    """What `choose_structure` knows of a model: P(open), strength and price of its adapters."""
    view = graft_view(model, adapter_name)
    name, prices = view.adapter_name, site_prices(view)
    return {
        site: SiteScores(
            layer.pools[name].rank,
            layer.pools[name].cost,
            tuple(map(tuple, layer.scores(name).tolist())),
            tuple(layer.strength(name).tolist()),
            prices[site],
        )
        for site, layer in view.sites.items()
    }


def discretise_(model: nn.Module, adapter_name: str | None = None) -> Structure:
    """Decide every gate, in place, by ranking to the budget (`choose_structure`).

    With a budget, adapters are taken in the order of their score, as long as they fit; task t uses a stored
    adapter k if `score[t, k] >= max_t score[t, k] / 2`; of tasks that go together (`GraftConfig.trunk`,
    `trunk_budget`) the mean score counts. Weights stay as they are.

    Args:
        model: a model with a graft adapter, at any depth.
        adapter_name: PEFT's name for the adapter; default the active one.

    Returns:
        The structure.

    Raises:
        ConfigError: the model has no graft adapter, the cost table lacks a site, or the backbone cannot have
            the trunk that is asked for.
        StructureError: the budget is smaller than one adapter.

    Example:
        >>> from peft import get_peft_model
        >>> model = get_peft_model(backbone, gw.GraftConfig(tasks=["a", "b"], budget=0.03, pool_size=4))
        >>> structure = gw.discretise_(model)
        >>> structure.parameters() <= 0.03 * backbone.num_parameters()
        True
    """
    structure = structure_of(model, adapter_name)
    set_structure_(model, structure, adapter_name)
    return structure


def set_structure_(model: nn.Module, structure: Structure, adapter_name: str | None = None) -> None:
    """Give a graft adapter a structure, in place. Sites that the structure does not name are closed.

    Args:
        model: a model with a graft adapter, at any depth, with pools as large as those of the structure.
        structure: of the same tasks, in the same order.
        adapter_name: PEFT's name for the adapter; default the active one.

    Raises:
        StructureError: tasks, sites or pool sizes do not fit the model.

    Example:
        >>> from peft import get_peft_model
        >>> model = get_peft_model(backbone, gw.GraftConfig(tasks=["a", "b"], budget=0.03, pool_size=4))
        >>> full = gw.structure_of(model)
        >>> one_site = gw.Structure(full.tasks, dict(list(full.sites.items())[:1]))
        >>> gw.set_structure_(model, one_site)
        >>> gw.structure_of(model).counts() == one_site.counts()
        True
    """
    view = graft_view(model, adapter_name)
    if tuple(view.config.tasks) != structure.tasks:
        raise StructureError(
            f"the structure is for the tasks {', '.join(structure.tasks)}, the model for "
            f"{', '.join(view.config.tasks)}."
        )
    unknown = [name for name in structure.sites if name not in view.sites]
    if unknown:
        raise StructureError(
            f"the model has no site {unknown[0]!r}; it has {', '.join(list(view.sites)[:4])}, ..."
        )
    masks = {}
    for name, layer in view.sites.items():
        shape = tuple(layer.graft_mask[view.adapter_name].shape)
        mask = torch.zeros(shape, dtype=torch.bool)
        if name in structure.sites:
            mask = torch.tensor(structure.sites[name].open, dtype=torch.bool)
            if tuple(mask.shape) != shape:
                raise StructureError(
                    f"at site {name!r} the structure has {tuple(mask.shape)} (tasks, adapters), the model "
                    f"{shape}."
                )
        masks[name] = mask
    for name, mask in masks.items():
        view.sites[name].set_mask(view.adapter_name, mask)


def set_fixed_structure_(
    model: nn.Module, name: str, *, seed: int = 0, adapter_name: str | None = None
) -> Structure:
    """Give a graft adapter a fixed structure within its own budgets, in place.

    Args:
        model: a model with a graft adapter, at any depth.
        name: of `graftwork.structure.fixed.FIXED_STRUCTURES`, `file:PATH` or `task:NAME:PATH`.
        seed: of what is drawn.
        adapter_name: PEFT's name for the adapter; default the active one.

    Returns:
        The structure.

    Raises:
        ConfigError: there is no such structure, or it needs a budget.
        StructureError: the structure does not fit the budgets or the model.
    """
    view = graft_view(model, adapter_name)
    pools = {site: layer.pools[view.adapter_name] for site, layer in view.sites.items()}
    tasks = tuple(view.config.tasks)
    whole = Structure(
        tasks,
        {
            site: SiteStructure(pool.size, pool.rank, pool.cost, ((True,) * pool.size,) * len(tasks))
            for site, pool in pools.items()
        },
    )
    structure = fixed_structure(
        name,
        whole,
        budget_cost(model, adapter_name),
        prices=site_prices(view),
        task_budget=budget_cost(model, adapter_name, of="task_budget"),
        seed=seed,
        groups=view.config.groups,
    )
    set_structure_(model, structure, adapter_name)
    return structure


def record_structure_(model: nn.Module, adapter_name: str) -> Structure:
    """Write the decided structure of a compact adapter into its configuration, which is saved with it."""
    view = graft_view(model, adapter_name)
    structure = structure_of(model, adapter_name)
    added = {site: layer.pools[adapter_name].added for site, layer in view.sites.items()}
    _describe_(view.config, structure, added)
    return structure


def _describe_(config: GraftConfig, structure: Structure, added: Mapping[str, tuple[int, ...]]) -> None:
    data = structure.to_dict()
    for site, found in data["sites"].items():
        if added[site]:
            found["added"] = list(added[site])
    config.structure = data
    config.target_modules = set(structure.sites)
