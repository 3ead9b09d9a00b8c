"""Names of the gate families and what a recipe must know of them, without a tensor.

The families themselves are `graftwork.gates.registry.GATE_FAMILIES`, of which this is the plain part.
"""

from __future__ import annotations

from dataclasses import dataclass

from graftwork.errors import ConfigError
from graftwork.messages import did_you_mean, shown

__all__ = ["GATES", "GateTraits", "gate_traits"]


@dataclass(frozen=True)
class GateTraits:
    """What a gate family asks of its settings."""

    learnable: bool = True
    """False if every gate is decided from the start."""
    needs_budget: bool = False
    """True if the family's control knows a budget only, no penalty."""
    experimental: bool = False
    """True if no result on real tasks supports the family (`docs/structure-search.md`)."""


GATES: dict[str, GateTraits] = {
    "hard_concrete": GateTraits(),
    "sigmoid": GateTraits(),
    "gumbel": GateTraits(experimental=True),
    "shifted_sigmoid": GateTraits(needs_budget=True, experimental=True),
    "importance": GateTraits(needs_budget=True),
    "fixed": GateTraits(learnable=False),
}
"""Name -> traits, of every family of `graftwork.gates`."""


def gate_traits(name: str) -> GateTraits:
    """The traits of the gate family called `name`.

    Raises:
        ConfigError: there is no such family; the message lists those there are.
    """
    if not isinstance(name, str) or name not in GATES:
        raise ConfigError(
            f"unknown gates {shown(name)}{did_you_mean(name, GATES)} Allowed: {', '.join(sorted(GATES))}."
        )
    return GATES[name]
