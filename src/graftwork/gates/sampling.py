"""The noise of sampled gates, and the straight-through draw made of it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from graftwork.gates.family import Logits

__all__ = ["shared_logistic", "straight_through"]


def shared_logistic(logits: Logits) -> Float[Tensor, " adapters"]:
    """Logistic noise `ln u - ln(1 - u)`, one draw per adapter, shared by all tasks.

    Always float32, whatever the logits' type: a float16 uniform hits 0 and 1, where ln diverges.
    """
    noise = torch.rand(logits.shape[-1:], device=logits.device).clamp_(1e-6, 1 - 1e-6)
    return torch.logit(noise)


def straight_through(logits: Logits, temperature: Tensor | float) -> Logits:
    r"""Draw gates that are 0 or 1, with the gradient of their relaxation.

    .. math::
        z = [l + a > 0], \quad
        \frac{\partial z}{\partial a} := \frac{\partial}{\partial a} \sigma\left(\frac{l + a}{\tau}\right),
        \quad l = \ln u - \ln(1 - u)

    `P(z = 1) = sigma(a)` exactly, at every temperature. The difference of two Gumbel draws is logistic, so
    this is the two-way Gumbel-softmax.

    Source: Jang, Gu, Poole 2017, section 2.2; Maddison, Mnih, Teh 2017, appendix B (binary concrete).
    """
    shifted = shared_logistic(logits) + logits
    soft = torch.sigmoid(shifted / temperature)
    # In this order the value is exactly 0 or 1.
    return (shifted > 0).to(soft.dtype) + (soft - soft.detach())
