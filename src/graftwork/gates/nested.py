"""`nested`: a hard-concrete gate of the site times one of every adapter."""

from __future__ import annotations

from torch import Tensor

from graftwork.gates.family import Logits
from graftwork.gates.hard_concrete import HardConcrete

__all__ = ["NestedHardConcrete"]


class NestedHardConcrete(HardConcrete):
    """`z_site[t] z_adapter[t, k]`: the last column of the logits is that of the site."""

    name = "nested"
    columns = 1

    def sample(self, logits: Logits, state: Tensor | None = None) -> Logits:
        gates = super().sample(logits, state)
        return gates[:, :-1] * gates[:, -1:]

    def deterministic(self, logits: Logits, state: Tensor | None = None) -> Logits:
        gates = super().deterministic(logits, state)
        return gates[:, :-1] * gates[:, -1:]

    def prob_open(self, logits: Logits, state: Tensor | None = None) -> Logits:
        probabilities = super().prob_open(logits, state)
        return probabilities[:, :-1] * probabilities[:, -1:]
