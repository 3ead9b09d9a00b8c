"""Gate families: how a logit a[t, k] becomes a gate z[t, k] in [0, 1].

A family is a small stateless object. `sample` draws the gates of a training step, `deterministic` gives
those of evaluation, `prob_open` the probability (or its stand-in) that a gate is not zero, which is what the
sparsity control counts. A new family is one class here plus an entry in `GATE_FAMILIES`.

All tasks share the noise of an adapter: with one uniform draw u[k] per adapter, an adapter of the shared
pool is stored with probability exactly `max_t P(z[t, k] != 0)`, which `graftwork.sparsity` relies on.
"""

from __future__ import annotations

import difflib
import math
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from graftwork.errors import ConfigError

__all__ = ["GATE_FAMILIES", "Fixed", "GateFamily", "HardConcrete", "Sigmoid", "gate_family"]

Logits = Float[Tensor, "tasks adapters"]


class GateFamily(Protocol):
    """What the pool, the sparsity control and the discretisation need to know about a gate."""

    name: str
    """Name in `GraftConfig.gates`."""
    learnable: bool
    """False if there are no logits to learn: every gate is decided from the start."""
    initial_logit: float
    """Value of every logit before training."""
    bound: float
    """Logits are kept in [-bound, bound], so that a closed gate can open again."""

    def sample(self, logits: Logits) -> Logits:
        """Gates of one training step, differentiable in the logits."""

    def deterministic(self, logits: Logits) -> Logits:
        """Gates of evaluation, without noise."""

    def prob_open(self, logits: Logits) -> Logits:
        """Probability that a gate is not zero, differentiable in the logits."""


class HardConcrete:
    r"""Stretched and clipped binary concrete gates with exact zeros.

    .. math::
        s = \sigma((\ln u - \ln(1 - u) + a) / \beta), \quad u \sim U(0, 1) \\
        z = \operatorname{clip}(s (\zeta - \gamma) + \gamma, 0, 1) \\
        P(z \neq 0) = \sigma(a - \beta \ln(-\gamma / \zeta))

    Source: Louizos, Welling, Kingma 2018, "Learning Sparse Neural Networks through L0 Regularization",
    equations 10-12.
    """

    name = "hard_concrete"
    learnable = True
    initial_logit = 2.0
    bound = math.log(100.0)
    temperature = 2.0 / 3.0
    low = -0.1
    high = 1.1

    def sample(self, logits: Logits) -> Logits:
        """Draw gates; the uniform noise has shape [adapters] and is shared by all tasks."""
        # Noise in float32 whatever the logits' type: a float16 uniform hits 0 and 1, where ln diverges.
        noise = torch.rand(logits.shape[-1:], device=logits.device).clamp_(1e-6, 1 - 1e-6)
        soft = torch.sigmoid((torch.logit(noise) + logits) / self.temperature)
        return (soft * (self.high - self.low) + self.low).clamp(0.0, 1.0)

    def deterministic(self, logits: Logits) -> Logits:
        r"""`clip(sigma(a) (zeta - gamma) + gamma, 0, 1)`."""
        return (torch.sigmoid(logits) * (self.high - self.low) + self.low).clamp(0.0, 1.0)

    def prob_open(self, logits: Logits) -> Logits:
        r"""`sigma(a - beta ln(-gamma / zeta))`."""
        return torch.sigmoid(logits - self.temperature * math.log(-self.low / self.high))


class Sigmoid:
    r"""The paper's own gates: `z = sigma(a)`, with `a` starting at 0.

    A sigmoid is never zero, so `prob_open` is the gate itself and the penalty `lambda * sum sigma(a)` the
    paper's. It shrinks gates while the weights behind them grow (`docs/decisions.md`).

    Source: arXiv 2509.03057, equations 2 and 5.
    """

    name = "sigmoid"
    learnable = True
    initial_logit = 0.0
    bound = math.log(100.0)

    def sample(self, logits: Logits) -> Logits:
        """`sigma(a)`; there is no noise."""
        return torch.sigmoid(logits)

    def deterministic(self, logits: Logits) -> Logits:
        """`sigma(a)`."""
        return torch.sigmoid(logits)

    def prob_open(self, logits: Logits) -> Logits:
        """`sigma(a)`, the paper's stand-in for a probability."""
        return torch.sigmoid(logits)


class Fixed:
    """No learning: every gate is 1, or what a given structure says."""

    name = "fixed"
    learnable = False
    initial_logit = 0.0
    bound = 0.0

    def sample(self, logits: Logits) -> Logits:
        """All ones."""
        return torch.ones_like(logits)

    def deterministic(self, logits: Logits) -> Logits:
        """All ones."""
        return torch.ones_like(logits)

    def prob_open(self, logits: Logits) -> Logits:
        """All ones."""
        return torch.ones_like(logits)


GATE_FAMILIES: dict[str, GateFamily] = {
    family.name: family for family in (HardConcrete(), Sigmoid(), Fixed())
}


def gate_family(name: str) -> GateFamily:
    """The gate family called `name`.

    Raises:
        ConfigError: there is no such family; the message lists those there are.
    """
    if name not in GATE_FAMILIES:
        near = difflib.get_close_matches(str(name), GATE_FAMILIES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"unknown gates {name!r}{hint} Allowed: {', '.join(sorted(GATE_FAMILIES))}.")
    return GATE_FAMILIES[name]
