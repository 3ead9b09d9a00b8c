"""The training loss of every kind of task. Apart from the kinds, for recipes know those and no torch."""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["LOSSES", "RowLoss"]


class RowLoss(Protocol):
    """The loss of the rows of one kind, in a batch that may have rows of other kinds."""

    def __call__(
        self,
        logits: Float[Tensor, "rows outputs"],
        targets: Float[Tensor, " rows"],
        mine: Bool[Tensor, " rows"],
        weights: Float[Tensor, "rows outputs"] | None,
    ) -> Float[Tensor, " rows"]:
        """The loss of every row; what it is for rows of other kinds has no effect, but must be finite.

        Args:
            logits: minus infinity beyond the outputs of a row's head.
            targets: class indices, or standardised scores.
            mine: the rows of this kind.
            weights: what a row counts by its class; None: 1 each.
        """


def _cross_entropy(logits: Tensor, targets: Tensor, mine: Tensor, weights: Tensor | None) -> Tensor:
    """Cross-entropy, times the weight of the row's class."""
    classes = targets.long().masked_fill(~mine, 0)
    losses = F.cross_entropy(logits, classes, reduction="none")
    return losses if weights is None else losses * weights.gather(1, classes[:, None])[:, 0]


def _squared_error(logits: Tensor, targets: Tensor, mine: Tensor, weights: Tensor | None) -> Tensor:
    """Squared error of standardised scores."""
    return (logits[:, 0] - targets) ** 2


def _own_loss(logits: Tensor, targets: Tensor, mine: Tensor, weights: Tensor | None) -> Tensor:
    """The output itself: the language model has computed the loss where it has the tokens."""
    return logits[:, 0]


LOSSES: dict[str, RowLoss] = {
    "classification": _cross_entropy,
    "regression": _squared_error,
    "generation": _own_loss,
}
"""Name of a kind -> its loss."""
