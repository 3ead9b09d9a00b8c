"""`gumbel`: Bernoulli gates with the gradient of their relaxation, the temperature annealed."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from graftwork.gates.family import GateFamily, Logits
from graftwork.gates.sampling import straight_through

__all__ = ["Gumbel", "GumbelState"]


class GumbelState(NamedTuple):
    """The state of `gumbel` gates by name: the buffer itself, so what is written goes into it."""

    temperature: Float[Tensor, ""]
    """tau, one for the whole pool."""


class Gumbel(GateFamily):
    r"""experimental: two-way Gumbel-softmax gates, straight-through.

    .. math::
        z = [l + a > 0], \quad
        \frac{\partial z}{\partial a} := \frac{\partial}{\partial a} \sigma\left(\frac{l + a}{\tau}\right),
        \quad P(z = 1) = \sigma(a)

    with logistic noise l. The temperature falls geometrically from `start` to `end` along the ramp: first
    every gate hears of every draw, at the end only those hear that could have gone either way. In evaluation
    a gate is 1 where opening is likelier than not: the weights have only ever met gates of 0 and 1, and so
    will they after the discretisation, while the mean `sigma(a)` is a gate that never occurs.

    Source: Jang, Gu, Poole 2017; `end` and the hard evaluation: Moosavi et al. 2022, "Adaptable Adapters".
    """

    name = "gumbel"
    initial_logit = 3.0
    bound = math.log(100.0)
    start = 1.0
    end = 0.1

    def initial_state(self, tasks: int, adapters: int) -> Tensor:
        """The temperature."""
        return torch.tensor(self.start)

    def anneal_(self, state: Tensor | None, ramped: float) -> None:
        """`start^(1 - ramped) end^ramped`."""
        assert state is not None
        GumbelState(state).temperature.fill_(self.start ** (1.0 - ramped) * self.end**ramped)

    def sample(self, logits: Logits, state: Tensor | None = None) -> Logits:
        """Draw gates of 0 and 1; the noise has shape [adapters] and is shared by all tasks."""
        return straight_through(logits, self.start if state is None else GumbelState(state).temperature)

    def deterministic(self, logits: Logits, state: Tensor | None = None) -> Logits:
        """1 where opening is likelier than not."""
        return (logits > 0).to(logits.dtype)

    def prob_open(self, logits: Logits, state: Tensor | None = None) -> Logits:
        """`sigma(a)`, exact at every temperature."""
        return torch.sigmoid(logits)
