"""Nested structures for several budgets, chosen from the scores of one search."""

from __future__ import annotations

from collections.abc import Sequence

from graftwork.errors import StructureError
from graftwork.search.search import StructureSearch
from graftwork.sparsity.budget import budget_cost, in_units_of_cost, site_prices
from graftwork.structure.choosing import choose_family
from graftwork.structure.ranking import SiteScores
from graftwork.structure.structure import Structure

__all__ = ["nested_structures"]


def nested_structures(search: StructureSearch, budgets: Sequence[float]) -> list[Structure]:
    """The structures of several budgets by the ranking of one finished search, each part of the larger.

    Args:
        search: after the step that decided the structure, with the model not yet compact.
        budgets: as `GraftConfig.budget`: fractions of the backbone, or counts.

    Returns:
        A structure per budget (`choose_family`); `graftwork.set_structure_` takes one.

    Raises:
        StructureError: the search has not decided yet, or a budget is smaller than one adapter.
    """
    if search.structure is None or search.scores is None:
        raise StructureError(
            "the search has not decided its structure yet; ask for others after the step that does."
        )
    model, view = search.model, search.view
    prices, ranked = site_prices(view), search.scores
    scores = {
        name: SiteScores(
            site.r,
            site.cost,
            tuple(map(tuple, ranked[name]["scores"])),
            tuple(ranked[name]["strength"]),
            prices[name],
        )
        for name, site in search.structure.sites.items()
    }
    return choose_family(
        search.structure.tasks,
        scores,
        [in_units_of_cost(model, budget, search.adapter_name) for budget in budgets],
        task_budget=budget_cost(model, search.adapter_name, of="task_budget"),
        rank_by=view.config.rank_by,
    )
