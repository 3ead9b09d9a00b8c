"""How the tasks of a recipe that say `pairs: auto` read their two texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from graftwork.fitting.measuring import timed
from graftwork.training.pairs.choosing import Pilot, settle_pairs

if TYPE_CHECKING:
    from rich.console import Console

    from graftwork.recipe.recipe import Recipe
    from graftwork.training.preparation import Prepared

__all__ = ["choose_ways"]


def choose_ways(
    prepared: Prepared,
    recipe: Recipe,
    known: Mapping[str, Any] | None,
    console: Console,
    seconds: dict[str, float],
) -> tuple[Prepared, dict[str, dict[str, Any]]]:
    """The rows of a run with every pair read in one of the ways, and what was chosen, for the report.

    Args:
        prepared: the rows.
        recipe: of the run. A model that is trained further keeps the ways of its heads.
        known: what was chosen when the run was started, if it goes on.
        console: where to show how it goes.
        seconds: the time is noted here as `pairs`.
    """
    if recipe.start is not None or all(task.pairs != "auto" for task in recipe.tasks):
        return prepared, {}
    graft = dataclasses.replace(recipe.graft, budget=recipe.graft_values()["budget"])
    pilot = Pilot(recipe.model, graft, recipe.training, recipe.seed)
    with timed(seconds, "pairs"):
        prepared, choices = settle_pairs(prepared, recipe.tasks, pilot, known=known, console=console)
    return prepared, {name: choice.as_dict() for name, choice in choices.items()}
