"""`hard_concrete`: gates with exact zeros and a known probability of being open."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from graftwork.gates.family import GateFamily, Logits
from graftwork.gates.sampling import shared_logistic

__all__ = ["HardConcrete"]


class HardConcrete(GateFamily):
    r"""Stretched and clipped binary concrete gates with exact zeros.

    .. math::
        s = \sigma((\ln u - \ln(1 - u) + a) / \beta), \quad u \sim U(0, 1) \\
        z = \operatorname{clip}(s (\zeta - \gamma) + \gamma, 0, 1) \\
        P(z \neq 0) = \sigma(a - \beta \ln(-\gamma / \zeta))

    Source: Louizos, Welling, Kingma 2018, "Learning Sparse Neural Networks through L0 Regularization",
    equations 10-12.
    """

    name = "hard_concrete"
    initial_logit = 2.0
    bound = math.log(100.0)
    temperature = 2.0 / 3.0
    low = -0.1
    high = 1.1

    def sample(self, logits: Logits, state: Tensor | None = None) -> Logits:
        """Draw gates; the noise has shape [adapters] and is shared by all tasks."""
        soft = torch.sigmoid((shared_logistic(logits) + logits) / self.temperature)
        return (soft * (self.high - self.low) + self.low).clamp(0.0, 1.0)

    def deterministic(self, logits: Logits, state: Tensor | None = None) -> Logits:
        r"""`clip(sigma(a) (zeta - gamma) + gamma, 0, 1)`."""
        return (torch.sigmoid(logits) * (self.high - self.low) + self.low).clamp(0.0, 1.0)

    def prob_open(self, logits: Logits, state: Tensor | None = None) -> Logits:
        r"""`sigma(a - beta ln(-gamma / zeta))`."""
        return torch.sigmoid(logits - self.temperature * math.log(-self.low / self.high))
