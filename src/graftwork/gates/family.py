"""`GateFamily`: what the pool, the sparsity control and the discretisation need to know about a gate."""

from __future__ import annotations

from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from graftwork.distributed.shards import assign_

__all__ = ["GateFamily", "Logits"]

CLOSED_LOGIT = -3.0
"""Logit of a gate that starts nearly closed: hard-concrete gates are then open with probability 0.2."""

Logits = Float[Tensor, "tasks adapters"]


class GateFamily(Protocol):
    """One way to turn logits into gates.

    A family holds no tensor. What it needs of a run beside the logits (a temperature, a shift) it asks for in
    `initial_state`; every pool keeps it in one saved buffer, and every method gets that as `state`. What is
    in it a family names in a `NamedTuple` of views (`graftwork.gates.importance.ImportanceState`).

    A family that derives from this class has to write `name`, `initial_logit`, `bound`, `sample`,
    `deterministic` and `prob_open`; the rest has a default.
    """

    name: str
    """Name in `GraftConfig.gates`."""
    initial_logit: float
    """Value of every logit before training."""
    bound: float
    """Logits are kept in [-bound, bound], so that a closed gate can open again."""
    learnable: bool = True
    """False if every gate is decided from the start."""
    needs_budget: bool = False
    """True if the family's control knows a budget only, no penalty."""
    measured: bool = False
    """True if the gradient of the logits is measured, task by task, and never followed: then the control
    gives tasks of a group the same gates; else they have the same logits (`Pool.groups`)."""

    def sample(self, logits: Logits, state: Tensor | None = None) -> Logits:
        """Gates of one training step, differentiable in the logits."""

    def deterministic(self, logits: Logits, state: Tensor | None = None) -> Logits:
        """Gates of evaluation, without noise."""

    def prob_open(self, logits: Logits, state: Tensor | None = None) -> Logits:
        """Probability that a gate is not zero, differentiable in the logits."""

    def scores(self, logits: Logits, state: Tensor | None = None) -> Logits:
        """What the discretisation ranks by, in [0, 1]: the probability of being open."""
        return self.prob_open(logits, state)

    def initial_state(self, tasks: int, adapters: int) -> Tensor | None:
        """What a pool has to keep for this family beside its logits; None if nothing."""
        return None

    def start_closed_(self, gates: Tensor, theta: Tensor, state: Tensor | None, ratio: float) -> None:
        """Let the search start with some gates nearly closed, so that they can still open.

        Args:
            gates: bool, [tasks, adapters]: those gates; all others stay open.
            theta: the learned part of the logits, changed in place.
            state: as made by `initial_state`; it may be changed in place.
            ratio: logits are `initial_logit + ratio * theta`.
        """
        assign_(theta, gates * ((CLOSED_LOGIT - self.initial_logit) / ratio))

    def anneal_(self, state: Tensor | None, ramped: float) -> None:
        """Move the state along with the ramp: `ramped` goes from 0 (warm-up) to 1 (the end of the ramp)."""
        return
