"""Gate families: how a logit a[t, k] becomes a gate z[t, k] in [0, 1].

A family is a small stateless object. `sample` draws the gates of a training step, `deterministic` gives
those of evaluation, `prob_open` the probability (or its stand-in) that a gate is not zero, which is what the
sparsity control counts. A new family is one class in a file of its own plus an entry in `GATE_FAMILIES` and
one in `graftwork.gate_names.GATES`.

All tasks share the noise of an adapter: with one uniform draw u[k] per adapter, an adapter of the shared
pool is stored with probability exactly `max_t P(z[t, k] != 0)`, which `graftwork.sparsity` relies on.
"""

from __future__ import annotations

from graftwork.gate_names import gate_traits
from graftwork.gates.family import GateFamily
from graftwork.gates.fixed import Fixed
from graftwork.gates.gumbel import Gumbel
from graftwork.gates.hard_concrete import HardConcrete
from graftwork.gates.importance import Importance
from graftwork.gates.shifted_sigmoid import ShiftedSigmoid
from graftwork.gates.sigmoid import Sigmoid

__all__ = [
    "GATE_FAMILIES",
    "Fixed",
    "GateFamily",
    "Gumbel",
    "HardConcrete",
    "Importance",
    "ShiftedSigmoid",
    "Sigmoid",
    "gate_family",
]

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
