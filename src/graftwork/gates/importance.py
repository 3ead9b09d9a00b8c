"""`importance`: no gate is learned; adapters are kept by how much the loss depends on them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from graftwork.gates.family import GateFamily, Logits

__all__ = ["Importance", "ImportanceState"]


class ImportanceState(NamedTuple):
    """The state of `importance` gates by name: views of the buffer, so what is written goes into it."""

    mask: Logits
    """1 where an adapter is open to a task at the moment, else 0."""
    score: Logits
    """What ranks, in [0, 1]."""
    mean: Logits
    """Running mean of the sensitivity, `|dL/dz|`."""
    uncertainty: Logits
    """Running mean of the distance of the sensitivity from its mean."""
    signed: Logits
    """Running mean of `dL/dz`."""

    @classmethod
    def of(cls, buffer: Float[Tensor, "5 tasks adapters"]) -> ImportanceState:
        """Name the tables of a buffer as `Importance.initial_state` makes it."""
        mask, score, mean, uncertainty, signed = (buffer[table] for table in range(5))
        return cls(mask, score, mean, uncertainty, signed)


class Importance(GateFamily):
    r"""Gates of 0 and 1 that `ImportanceControl` (`graftwork.sparsity`) opens and closes by sensitivity.

    The logits stay 0; they are there for their gradient alone, which is that of a variable that multiplies
    the adapter, `dL/dz`, for open and for closed gates.

    The state is `ImportanceState`.

    Source: Zhang et al. 2023, AdaLoRA, section 3.2.
    """

    name = "importance"
    needs_budget = True
    measured = True
    initial_logit = 0.0
    bound = 0.0

    def initial_state(self, tasks: int, adapters: int) -> Tensor:
        """All open, all equal, nothing measured yet."""
        return torch.cat([torch.ones(2, tasks, adapters), torch.zeros(3, tasks, adapters)])

    def start_closed_(self, gates: Tensor, theta: Tensor, state: Tensor | None, ratio: float) -> None:
        """Close them; their gradient is measured all the same, so they open once they matter."""
        assert state is not None
        ImportanceState.of(state).mask.copy_(~gates)

    def sample(self, logits: Logits, state: Tensor | None = None) -> Logits:
        """The mask of the moment, with a gradient of 1 for every logit."""
        return self.prob_open(logits, state) + (logits - logits.detach())

    def deterministic(self, logits: Logits, state: Tensor | None = None) -> Logits:
        """As `sample`: nothing is drawn."""
        return self.sample(logits, state)

    def prob_open(self, logits: Logits, state: Tensor | None = None) -> Logits:
        """The mask of the moment."""
        if state is None:
            return torch.ones_like(logits)
        return ImportanceState.of(state).mask.to(logits.dtype)

    def scores(self, logits: Logits, state: Tensor | None = None) -> Logits:
        """The normalised importance."""
        return torch.ones_like(logits) if state is None else ImportanceState.of(state).score
