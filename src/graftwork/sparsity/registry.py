"""Which control keeps the structure small, by the family of the gates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graftwork.gates.family import GateFamily
from graftwork.sparsity.budget_control import BudgetControl
from graftwork.sparsity.control import SparsityControl
from graftwork.sparsity.importance_control import ImportanceControl
from graftwork.sparsity.penalty_control import PenaltyControl
from graftwork.sparsity.shift_control import ShiftControl

__all__ = ["CONTROLS", "sparsity_control"]

CONTROLS: dict[str, Callable[[float, Any], SparsityControl]] = {
    "importance": lambda budget, _: ImportanceControl(budget),
    "shifted_sigmoid": ShiftControl,
}
"""Controls of single families, made of the budget and the family; they know no penalty."""


def sparsity_control(
    family: GateFamily, *, budget: float | None, penalty: float, reduction: str
) -> SparsityControl:
    """The control of a gate family: its own, else a Lagrangian for a budget, else a penalty.

    Args:
        family: of the gates.
        budget: cost of the stored adapters allowed (`GraftConfig.cost`), or None.
        penalty: lambda, if there is no budget.
        reduction: `mean` or `sum`, of the penalty.
    """
    if budget is None:
        return PenaltyControl(penalty, reduction)
    own = CONTROLS.get(family.name)
    return BudgetControl(budget) if own is None else own(budget, family)
