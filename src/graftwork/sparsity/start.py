"""Which gates start open."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool
from torch import Tensor

from graftwork.structure.groups import check_groups

if TYPE_CHECKING:
    from graftwork.tuner.view import GraftView

__all__ = ["starting_paths"]


def starting_paths(view: GraftView) -> list[Bool[Tensor, "tasks adapters"]]:
    """Which gates start open, site by site.

    `random` opens every gate with probability 1/2, and one gate of an adapter that is open to nobody.
    `private` and `grouped` deal the adapters of a site to the tasks in turn; which task comes first goes
    round from site to site. An adapter is open to the task it is dealt to, and to all of that task's group.
    Where tasks go together (`Pool.groups`), what is open to one of them is open to all.

    Raises:
        ConfigError: the groups are no partition of the tasks.
    """
    name = view.adapter_name
    pools = [site.pools[name] for site in view.sites.values()]
    return [pool.tied(paths.float()) > 0 for pool, paths in zip(pools, _apart(view), strict=True)]


def _apart(view: GraftView) -> list[Bool[Tensor, "tasks adapters"]]:
    """The starting paths of tasks that do not go together."""
    config, name = view.config, view.adapter_name
    tasks = len(config.tasks)
    sizes = [site.pools[name].size for site in view.sites.values()]
    if config.gate_start == "shared":
        return [torch.ones(tasks, size, dtype=torch.bool) for size in sizes]
    if config.gate_start == "random":
        generator = torch.Generator().manual_seed(config.start_seed)
        return [_random_paths(tasks, size, generator) for size in sizes]
    groups = [[task] for task in range(tasks)]
    if config.gate_start == "grouped":
        groups = check_groups(config.groups, config.tasks)
    group_of = torch.empty(tasks, dtype=torch.long)
    for index, group in enumerate(groups):
        group_of[group] = index
    dealt = [(torch.arange(size) + place * size) % tasks for place, size in enumerate(sizes)]
    return [group_of[:, None] == group_of[tasks_of][None, :] for tasks_of in dealt]


def _random_paths(tasks: int, size: int, generator: torch.Generator) -> Bool[Tensor, "tasks adapters"]:
    paths = torch.rand(tasks, size, generator=generator) < 0.5
    lonely = ~paths.any(dim=0)
    paths[torch.randint(tasks, (size,), generator=generator), torch.arange(size)] |= lonely
    return paths
