"""Where tasks part, as `GraftConfig.trunk` or `trunk_budget` say: known to the search and to its decision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graftwork.errors import ConfigError
from graftwork.sparsity.budget import budget_cost, site_prices
from graftwork.sparsity.worth import open_worth
from graftwork.structure.ranking import SiteScores
from graftwork.trunk.parting import choose_tree
from graftwork.trunk.tree import Tree
from graftwork.trunk.trunk import find_trunk
from graftwork.tuner.config_checks import TRUNKS
from graftwork.tuner.cost import adapter_price, backbone_flops
from graftwork.tuner.view import GraftView, graft_view

__all__ = [
    "check_own",
    "check_trunk",
    "given_tree",
    "read_tree",
    "tie_",
    "tied_scores",
    "tree_within",
    "trunk_sites",
]


def check_trunk(model: nn.Module, adapter_name: str | None = None) -> None:
    """Refuse a trunk that this backbone cannot have, before the first step.

    Raises:
        ConfigError: the backbone does not run as a row of layers, or has fewer of them.
    """
    config = graft_view(model, adapter_name).config
    given = next((name for name in TRUNKS if getattr(config, name) is not None), None)
    if given is None or config.structure is not None:
        return
    trunk = find_trunk(model)
    said = f"{given}={getattr(config, given):g}"
    if trunk is None or trunk.order is None:
        reason = "there is no adapter" if trunk is None else trunk.reason
        raise ConfigError(f"{said} needs a backbone that runs as a row of layers: {reason}; leave it out.")
    layers = len(trunk.order.layers)
    if config.trunk is not None and config.trunk > layers:
        raise ConfigError(
            f"{said}: the backbone has {layers} layers; give a number from 1 to {layers}, with which all "
            "tasks share all adapters."
        )


def given_tree(model: nn.Module, view: GraftView) -> Tree | None:
    """The tree of `GraftConfig.trunk`: all tasks together up to a layer, from there on all apart."""
    shared, tasks = view.config.trunk, len(view.config.tasks)
    if shared is None:
        return None
    together, apart = (0,) * tasks, tuple(range(tasks))
    sections = range(_layers(model)[0] + 1)
    return Tree(tuple(together if section <= shared else apart for section in sections))


def tree_within(model: nn.Module, view: GraftView, worth: list[Tensor]) -> Tree:
    """The tree of `GraftConfig.trunk_budget` that keeps most (`choose_tree`).

    Args:
        model: that has the adapter.
        view: the adapter, its gates not decided.
        worth: of its open adapters (`open_worth`).
    """
    assert view.config.trunk_budget is not None
    count, sections = _layers(model)
    name, prices, budget = view.adapter_name, site_prices(view), budget_cost(model, view.adapter_name)
    tables = [[np.zeros((len(view.config.tasks), 0))] for _ in range(count + 1)]
    costs = [[np.zeros(0)] for _ in range(count + 1)]
    whole = dearest = 0.0
    for (site, layer), table in zip(view.sites.items(), worth, strict=True):
        pool, section = layer.pools[name], sections.get(site, 0)
        tables[section].append(table.double().cpu().numpy())
        costs[section].append(np.full(pool.size, prices[site]))
        flops = adapter_price("flops", site, pool)
        whole, dearest = whole + pool.size * flops, max(dearest, flops / prices[site])
    trunk = find_trunk(model)
    assert trunk is not None
    assert trunk.order is not None, "check_trunk has refused it"
    return choose_tree(
        [np.concatenate(parts, axis=1) for parts in tables],
        [np.concatenate(parts) for parts in costs],
        budget,
        [backbone_flops(view.backbone.get_submodule(layer)) for layer in trunk.order.layers],
        view.config.trunk_budget,
        extra=whole if budget is None else min(whole, budget * dearest),
    )


def tie_(model: nn.Module, view: GraftView, tree: Tree) -> None:
    """From now on tasks of a group of the tree have the same gates at a site, in place."""
    _, sections = _layers(model)
    for site, layer in view.sites.items():
        groups = tree.nodes[sections.get(site, 0)]
        layer.pools[view.adapter_name] = replace(layer.pools[view.adapter_name], groups=groups)


def tied_scores(
    model: nn.Module, view: GraftView, scores: Mapping[str, SiteScores]
) -> Mapping[str, SiteScores]:
    """The scores that the decision would rank now: equal for tasks that go together."""
    config, name = view.config, view.adapter_name
    if config.trunk is None and config.trunk_budget is None:
        return scores
    if all(layer.pools[name].groups is not None for layer in view.sites.values()):
        return scores  # by the search
    check_trunk(model, name)
    tree = given_tree(model, view) or tree_within(model, view, open_worth(view))
    _, sections = _layers(model)
    found = {}
    for site, layer in view.sites.items():
        pool = replace(layer.pools[name], groups=tree.nodes[sections.get(site, 0)])
        table = pool.tied(torch.tensor(scores[site].scores, dtype=torch.float64))
        found[site] = replace(scores[site], scores=tuple(map(tuple, table.tolist())))
    return found


def read_tree(nodes: Any, model: nn.Module, view: GraftView) -> Tree | None:
    """The tree that the state of a search has, None if it has none.

    Raises:
        ValueError: it is no tree of these tasks and layers.
    """
    if nodes is None:
        return None
    tree = Tree(tuple(tuple(int(group) for group in section) for section in nodes))
    count, tasks = _layers(model)[0], len(view.config.tasks)
    whole = all(
        len(section) == tasks and set(section) == set(range(max(section) + 1)) for section in tree.nodes
    )
    if len(tree.nodes) != count + 1 or not whole:
        raise ValueError("the tree of the tasks does not fit the model")
    return tree


def check_own(own: Any, view: GraftView) -> None:
    """Check what the state of a search says of the adapters that every task may use.

    Raises:
        ValueError: it is of other tasks or adapters.
    """
    shape = (
        len(view.config.tasks),
        sum(layer.pools[view.adapter_name].size for layer in view.sites.values()),
    )
    if own is not None and tuple(torch.tensor(own).shape) != shape:
        raise ValueError("the adapters that tasks may use do not fit the model")


def trunk_sites(model: nn.Module, sites: Iterable[str]) -> set[str]:
    """Those of some sites that lie in the trunk of a trained model, if it has one (`GraftConfig.trunk`)."""
    view, trunk = graft_view(model), find_trunk(model)
    if view.config.trunk is None or trunk is None or trunk.order is None:
        return set()
    order, shared = trunk.order, view.config.trunk
    beyond = tuple(f"{layer}." for layer in order.layers[shared:])
    # Modules that were no sites when the order was seen are told by their names.
    return {
        site
        for site in sites
        if not (order.sections[site] > shared if site in order.sections else f"{site}.".startswith(beyond))
    }


def _layers(model: nn.Module) -> tuple[int, Mapping[str, int]]:
    """The number of layers, and the section of every site (`graftwork.trunk.order.Order`)."""
    trunk = find_trunk(model)
    if trunk is None or trunk.order is None:
        return 0, {}
    return len(trunk.order.layers), trunk.order.sections
