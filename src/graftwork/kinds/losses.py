"""The training loss of every kind of task. Apart from the kinds, for recipes know those and no torch."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["LOSSES", "NO_TARGET", "RowLoss", "of_kind"]

NO_TARGET = -100.0
"""Stands where a row has no target; Trainer pads with it, too."""
SCALE = 20.0
"""What cosines are multiplied with before the softmax over the passages of a batch; the same in
sentence-transformers' `MultipleNegativesRankingLoss`."""


class RowLoss(Protocol):
    """The loss of the rows of one kind, in a batch that may have rows of other kinds."""

    def __call__(
        self,
        logits: Float[Tensor, " rows *outputs"],
        targets: Float[Tensor, " rows *targets"],
        mine: Bool[Tensor, " rows"],
        weights: Float[Tensor, "rows outputs"] | None,
        rows: Int[Tensor, " rows"],
    ) -> Float[Tensor, " rows"]:
        """The loss of every row, which may depend on the other rows of its task.

        What it is for rows of other kinds has no effect, but must be finite.

        Args:
            logits: minus infinity beyond the outputs of a row's head.
            targets: class indices, or standardised scores; for several labels [rows, labels], 1 or 0, and
                less than 0 beyond those of a row's head. For tokens [rows, positions, outputs] and
                [rows, positions], the index of a tag, less than 0 where there is none. For texts that are
                compared [rows, 1 + 2 d], the cosine and both vectors, and [rows, 2], which texts they are.
            mine: the rows of this kind.
            weights: what a row counts by its class; None: 1 each.
            rows: the task of every row.
        """


def _cross_entropy(
    logits: Tensor, targets: Tensor, mine: Tensor, weights: Tensor | None, rows: Tensor
) -> Tensor:
    """Cross-entropy, times the weight of the row's class."""
    classes = targets.long().masked_fill(~mine, 0)
    losses = F.cross_entropy(logits, classes, reduction="none")
    return losses if weights is None else losses * weights.gather(1, classes[:, None])[:, 0]


def _squared_error(
    logits: Tensor, targets: Tensor, mine: Tensor, weights: Tensor | None, rows: Tensor
) -> Tensor:
    """Squared error of standardised scores."""
    return (logits[:, 0] - targets) ** 2


def _binary_cross_entropy(
    logits: Tensor, targets: Tensor, mine: Tensor, weights: Tensor | None, rows: Tensor
) -> Tensor:
    """Mean binary cross-entropy over the labels of a row's head."""
    own = (targets >= 0) & mine[:, None] & (logits != float("-inf"))
    losses = F.binary_cross_entropy_with_logits(
        logits.masked_fill(~own, 0.0), targets.clamp(min=0), reduction="none"
    )
    return losses.masked_fill(~own, 0.0).sum(1) / own.sum(1).clamp(min=1)


def _tag_entropy(
    logits: Tensor, targets: Tensor, mine: Tensor, weights: Tensor | None, rows: Tensor
) -> Tensor:
    """Mean cross-entropy over the words of a row; 0 without any."""
    own = (targets >= 0) & mine[:, None]
    losses = F.cross_entropy(
        logits.masked_fill(~own[:, :, None], 0.0).transpose(1, 2),
        targets.long().masked_fill(~own, 0),
        reduction="none",
    )
    return losses.masked_fill(~own, 0.0).sum(1) / own.sum(1).clamp(min=1)


def _in_batch(logits: Tensor, targets: Tensor, mine: Tensor, weights: Tensor | None, rows: Tensor) -> Tensor:
    r"""Cross-entropy of a query's own passage among those of all rows of its task in the batch.

    .. math:: -\log \frac{e^{s \cos(q_i, p_i)}}{e^{s \cos(q_i, p_i)} + \sum_{j \in N_i} e^{s \cos(q_i, p_j)}}

    with s `SCALE` and :math:`N_i` the rows of the same task with another query and another passage: what is
    right for a query is never a negative of it.

    Source: Henderson et al. 2017, section 4.4; from queries to passages alone, as the default of
    sentence-transformers' `MultipleNegativesRankingLoss`.
    """
    u, v = logits[:, 1:].chunk(2, dim=1)
    query, passage = targets[:, 0], targets[:, 1]
    other = (query[:, None] != query) & (passage[:, None] != passage)
    rival = other & (rows[:, None] == rows) & mine
    own = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    with torch.autocast(u.device.type, enabled=False):  # mixed precision has too few digits for cosines
        scores = (SCALE * u @ v.T).masked_fill(~(rival | own), float("-inf"))
    return F.cross_entropy(scores, torch.arange(len(rows), device=rows.device), reduction="none")


def _own_loss(logits: Tensor, targets: Tensor, mine: Tensor, weights: Tensor | None, rows: Tensor) -> Tensor:
    """The output itself: the language model has computed the loss where it has the tokens."""
    return logits[:, 0]


LOSSES: dict[str, RowLoss] = {
    "classification": _cross_entropy,
    "regression": _squared_error,
    "multilabel": _binary_cross_entropy,
    "tokens": _tag_entropy,
    "retrieval": _in_batch,
    "generation": _own_loss,
    "choice": _own_loss,
}
"""Name of a kind -> its loss."""


def of_kind(per: str, logits: Tensor, labels: Tensor, mine: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Logits and targets of a batch as the losses of a kind take them; those of other rows are finite.

    Args:
        per: what has a target (`graftwork.kinds.kind.Kind`).
        logits: of all rows.
        labels: of all rows.
        mine: the rows of this kind.
        width: d, features of a vector.
    """
    if per == "pair":
        outputs = logits.flatten(1)[:, : 1 + 2 * width]
        return torch.where(mine[:, None], outputs, 0.0), _fitted(labels.reshape(len(labels), -1), 2)
    if logits.dim() == 3:
        logits = logits[:, 1:] if per == "token" else logits[:, 0]
        # Rows of tokens have no logits as rows, and the other way round.
        logits = torch.where(mine.view(-1, *[1] * (logits.dim() - 1)), logits, 0.0)
    if labels.dim() == 2:
        labels = labels[:, 0] if per == "row" else _fitted(labels, logits.shape[1])
    return logits, labels


def _fitted(labels: Tensor, width: int) -> Tensor:
    """Targets with so many columns: padding that is missing, or that other rows of the batch need."""
    return F.pad(labels, (0, max(0, width - labels.shape[1])), value=NO_TARGET)[:, :width]
