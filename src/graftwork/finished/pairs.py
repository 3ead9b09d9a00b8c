"""How an added task reads its two texts, if that is to be found out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graftwork.recipe.length import added_floor
from graftwork.recipe.settings import GraftSettings
from graftwork.training.pairs.choosing import Pilot, settle_pairs

if TYPE_CHECKING:
    from rich.console import Console

    from graftwork.recipe.recipe import Recipe
    from graftwork.recipe.task_recipe import TaskRecipe
    from graftwork.training.preparation import Prepared

__all__ = ["choose_way"]


def choose_way(
    prepared: Prepared, recipe: TaskRecipe, name: str, old: Recipe | None, console: Console
) -> tuple[Prepared, dict[str, dict[str, Any]]]:
    """The rows of the new task, read in one of the ways, and what was chosen if it says `pairs: auto`.

    The short trainings have uniform adapters as the model was made with, on the backbone alone.

    Args:
        prepared: the rows.
        recipe: of the new task.
        name: of the backbone.
        old: recipe of the model, if it has one.
        console: where to show how it goes.
    """
    training = added_floor(recipe.training, prepared.rows)
    pilot = Pilot(name, GraftSettings() if old is None else old.graft, training, recipe.seed)
    prepared, choices = settle_pairs(prepared, [recipe.task], pilot, console=console)
    return prepared, {task: choice.as_dict() for task, choice in choices.items()}
