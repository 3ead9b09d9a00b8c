"""`shifted_sigmoid`: gates whose expected size is the budget at every step."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from graftwork.gates.family import GateFamily, Logits
from graftwork.gates.sampling import straight_through

__all__ = ["ShiftState", "ShiftedSigmoid"]


class ShiftState(NamedTuple):
    """The state of `shifted_sigmoid` gates by name: the buffer itself, so what is written goes into it."""

    shift: Float[Tensor, ""]
    """b, the same at every site."""


class ShiftedSigmoid(GateFamily):
    r"""experimental: Bernoulli gates that compete for a budget.

    .. math:: P(z = 1) = p = \sigma((a - b) / \beta)

    One shift b for the whole model, solved after every optimizer step so that the expected stored size is the
    ramped budget (`ShiftControl` of `graftwork.sparsity`). A gate opens by overtaking others, never with
    all of them.
    Draws are straight-through at temperature 1.

    Source: Hu et al. 2022, "Sparse Structure Search for Delta Tuning" (S3Delta), section 3.3.
    """

    name = "shifted_sigmoid"
    needs_budget = True
    initial_logit = 0.0
    bound = math.log(100.0)
    scale = 1.0
    """beta."""
    initial_open = 0.95
    """P(open) of every gate until the ramp begins; at 1 no gate would have a gradient."""

    def initial_state(self, tasks: int, adapters: int) -> Tensor:
        """The shift b that gives `initial_open`."""
        return torch.tensor(-self.scale * math.log(self.initial_open / (1.0 - self.initial_open)))

    def _shifted(self, logits: Logits, state: Tensor | None) -> Logits:
        return (logits - (0.0 if state is None else ShiftState(state).shift)) / self.scale

    def sample(self, logits: Logits, state: Tensor | None = None) -> Logits:
        """Draw gates of 0 and 1; the noise has shape [adapters] and is shared by all tasks."""
        return straight_through(self._shifted(logits, state), 1.0)

    def deterministic(self, logits: Logits, state: Tensor | None = None) -> Logits:
        """1 where opening is likelier than not, as for `gumbel`."""
        return (self._shifted(logits, state) > 0).to(logits.dtype)

    def prob_open(self, logits: Logits, state: Tensor | None = None) -> Logits:
        """`sigma((a - b) / beta)`."""
        return torch.sigmoid(self._shifted(logits, state))
