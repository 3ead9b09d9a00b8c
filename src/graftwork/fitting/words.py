"""What the phases of a run have found, in a few words each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from graftwork.pages.fit_page import YARDSTICKS
from graftwork.sparsity.budget import budget_parameters
from graftwork.sparsity.size import pool_parameters
from graftwork.tuner.view import backbone_parameters, graft_view

if TYPE_CHECKING:
    from graftwork.models.multitask import MultiTaskModel
    from graftwork.training.preparation import Prepared

__all__ = [
    "baselines_in_words",
    "diagnosis_in_words",
    "rows_in_words",
    "scores_in_words",
    "size_in_words",
]


def rows_in_words(prepared: Prepared) -> str:
    """How much there is to learn from."""
    many = len(prepared.datas)
    return f"{many} task{'s' * (many != 1)}, {prepared.rows:,} training rows"


def size_in_words(model: MultiTaskModel) -> str:
    """What is on offer, and what is allowed."""
    view = graft_view(model)
    pool, whole = pool_parameters(view), backbone_parameters(model)
    budget = budget_parameters(model) if view.sites else None
    allowed = "" if budget is None else f"; the budget allows {budget:,}"
    return f"{pool:,} adapter parameters at {len(view.sites)} sites of {whole:,} in the backbone{allowed}"


def baselines_in_words(found: Mapping[str, Mapping[str, float]]) -> str:
    """Test scores without any training."""
    told = []
    for task, scores in found.items():
        known = [f"{word} {scores[key]:.3f}" for key, word in YARDSTICKS.items() if key in scores]
        told.append(f"{task} {', '.join(known)}")
    return f"test scores without training: {'; '.join(told)}"


def scores_in_words(found: Mapping[str, Mapping[str, float]]) -> str:
    """Mean scores over the tasks."""
    means = {
        split: sum(scores[split] for scores in found.values()) / len(found)
        for split in ("validation", "test")
    }
    return f"mean validation score {means['validation']:.3f}, mean test score {means['test']:.3f}"


def diagnosis_in_words(diagnosis: Mapping[str, Any]) -> str:
    """What was tried, and how much is off."""
    ablation, findings = diagnosis["ablation"], len(diagnosis["findings"])
    tried = ""
    if ablation is not None:
        tried = (
            f"{len(ablation['adapters'])} of {ablation['stored']} adapters closed one by one on "
            f"{ablation['rows']} validation rows; "
        )
    return tried + (f"{findings} finding{'s' * (findings != 1)}" if findings else "nothing is off")
