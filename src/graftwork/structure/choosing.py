"""How a `Structure` is chosen from the scores of gates, or made of given paths."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from graftwork.errors import StructureError
from graftwork.structure.ranking import Place, SiteScores, choose_paths
from graftwork.structure.structure import SiteStructure, Structure

__all__ = ["choose_family", "choose_structure", "paths_structure"]


def choose_structure(
    tasks: tuple[str, ...],
    sites: Mapping[str, SiteScores],
    budget: float | None,
    *,
    task_budget: float | None = None,
    rank_by: str = "prob_open",
    within: Structure | None = None,
) -> Structure:
    """Discretise gates: choose the adapters that are stored, then the tasks that use them.

    With a budget, adapters are taken in the order of `rank_by`, never of the site's place, as long as they
    fit; the stored adapters never exceed the budget and no further adapter fits. Without one, adapters are
    taken if at least one task opens them with a probability of 0.5 or more.

    A task uses a stored adapter if its P(open) is at least half of the highest P(open) of all tasks: sharing
    is free, and gates that a penalty has shrunk all alike keep their proportions. With `rank_by="strength"`
    the gates do not decide what is stored, only which of the stored adapters a task uses.

    With a task budget, each task keeps the best of those by its own P(open), ties by strength, as long as
    they fit. An adapter that no task has room for is replaced by the next in rank. The stored adapters are
    then far below `budget` only if every task that wants one of the others has reached its own budget: tasks
    that want the same adapters share them, so that everything stored may be as small as one path.

    Args:
        tasks: task names.
        sites: site name -> scores.
        budget: stored adapters allowed, in parameters or in the unit of the scores' prices; or None.
        task_budget: the same for the adapters that one task uses.
        rank_by: `prob_open`, `strength` or `product` (`graftwork.structure.ranking.RANKINGS`).
        within: choose a part of this structure, of the same sites and pools.

    Raises:
        StructureError: not even one adapter fits a budget.
    """
    smallest = min((site.takes for site in sites.values()), default=0)
    for name, allowed in (("budget", budget), ("task budget", task_budget)):
        if allowed is not None and allowed < smallest:
            raise StructureError(
                f"the {name} of {allowed:,.10g} is smaller than one adapter ({smallest:,.10g}); raise it or "
                "lower r."
            )
    paths = choose_paths(
        sites,
        budget,
        task_budget=task_budget,
        rank_by=rank_by,
        within=None if within is None else [within.paths(task) for task in tasks],
    )
    pools = {name: (len(site.strength), site.r, site.cost) for name, site in sites.items()}
    return _of_paths(tasks, pools, paths)


def paths_structure(whole: Structure, paths: Sequence[Collection[Place]]) -> Structure:
    """The structure of the same tasks, sites and pools as `whole` with these paths.

    Args:
        whole: gives everything but the paths.
        paths: the open (site, adapter) pairs of every task.
    """
    pools = {name: (site.pool_size, site.r, site.cost) for name, site in whole.sites.items()}
    return _of_paths(whole.tasks, pools, paths)


def _of_paths(
    tasks: tuple[str, ...],
    pools: Mapping[str, tuple[int, int, int]],
    paths: Sequence[Collection[Place]],
) -> Structure:
    return Structure(
        tasks,
        {
            name: SiteStructure(
                size, r, cost, tuple(tuple((name, k) in path for k in range(size)) for path in paths)
            )
            for name, (size, r, cost) in pools.items()
        },
    )


def choose_family(
    tasks: tuple[str, ...],
    sites: Mapping[str, SiteScores],
    budgets: Sequence[float],
    *,
    task_budget: float | None = None,
    rank_by: str = "prob_open",
) -> list[Structure]:
    """Nested structures from one ranking: every path of a smaller one is part of the larger one's.

    The largest is that of `choose_structure`; each smaller one is chosen within the next larger, so that no
    further adapter of that one fits. Among adapters of one price it is what `choose_structure` gives alone.

    Args:
        tasks: task names.
        sites: site name -> scores.
        budgets: stored adapters allowed.
        task_budget: as for `choose_structure`.
        rank_by: as for `choose_structure`.

    Returns:
        A structure per budget, in the order of `budgets`.

    Raises:
        StructureError: not even one adapter fits a budget.
    """
    family: dict[float, Structure] = {}
    parent: Structure | None = None
    for budget in sorted(budgets, reverse=True):
        parent = family[budget] = choose_structure(
            tasks, sites, budget, task_budget=task_budget, rank_by=rank_by, within=parent
        )
    return [family[budget] for budget in budgets]
