"""The gate families by name."""

from __future__ import annotations

from graftwork.gates.family import GateFamily
from graftwork.gates.fixed import Fixed
from graftwork.gates.gumbel import Gumbel
from graftwork.gates.hard_concrete import HardConcrete
from graftwork.gates.importance import Importance
from graftwork.gates.names import gate_traits
from graftwork.gates.shifted_sigmoid import ShiftedSigmoid
from graftwork.gates.sigmoid import Sigmoid

__all__ = ["GATE_FAMILIES", "gate_family"]

GATE_FAMILIES: dict[str, GateFamily] = {
    family.name: family
    for family in (HardConcrete(), Sigmoid(), Gumbel(), ShiftedSigmoid(), Importance(), Fixed())
}


def gate_family(name: str) -> GateFamily:
    """The gate family called `name`.

    Raises:
        ConfigError: there is no such family; the message lists those there are.
    """
    gate_traits(name)
    return GATE_FAMILIES[name]
