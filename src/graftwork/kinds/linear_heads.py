"""The linear heads of all tasks of a model, and the losses of rows under them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from graftwork.errors import CheckpointError
from graftwork.kinds.heads import TaskHead
from graftwork.kinds.losses import LOSSES, of_kind
from graftwork.kinds.pairs.features import pair_width
from graftwork.kinds.registry import KINDS

__all__ = ["TaskHeads"]


class TaskHeads(nn.Module):
    r"""The linear heads of all tasks as one tensor, so that a batch of several tasks is one product.

    .. math:: \mathrm{logits}_i = W_{t(i)} x_i + b_{t(i)}

    `weight` has shape [tasks, C, d] with C the size of the largest head; rows beyond a head's own size stay
    zero, and their logits are minus infinity. There is one product per size of a head, so that the rounding
    of a task's logits does not depend on how many classes the other tasks have.

    If a task has targets per token, logits are [rows, 1 + positions, C]: the first of a row is that of the
    pooled row, the others are those of its tokens, and minus infinity where a task has none.

    A task that reads its two texts separately has more weights, `pair_weight` [such tasks, C, 3 d + 1], for
    what the vectors of both give beside the first (`graftwork.kinds.pairs.features.pair_parts`), and for
    their cosine. Only heads of numbers use the cosine, and start as it: so a similarity needs not be learned
    anew.

    A task that compares its two texts with those of other rows has no weights. What stands for its logits
    here is replaced by the cosine and the vectors (`graftwork.models.pairs.compared`).

    Args:
        heads: the tasks.
        width: d, features of a pooled row.
    """

    def __init__(self, heads: Sequence[TaskHead], width: int) -> None:
        super().__init__()
        self.heads = tuple(heads)
        sizes = torch.tensor([head.size for head in heads])
        valid = torch.arange(int(sizes.max())) < sizes[:, None]
        written = torch.tensor([head.written for head in heads])
        compared = torch.tensor([head.compared for head in heads])
        bare = written | compared
        own = valid & ~bare[:, None]  # neither what a language model answers has weights, nor a cosine
        self.weight = nn.Parameter(torch.randn(*valid.shape, width) * 0.02 * own.unsqueeze(-1))
        self.bias = nn.Parameter(torch.zeros(valid.shape))
        separate = torch.tensor([head.separate for head in heads])
        self.reads_separately = bool(separate.any())
        self.pair_weight: nn.Parameter | None = None
        self.pair_used: Tensor
        self.compares = bool(compared.any())
        weighed = separate & ~compared
        if weighed.any():
            values = torch.randn(*own[weighed].shape, pair_width(width)) * 0.02 * own[weighed].unsqueeze(-1)
            used = torch.ones(len(values), 1, pair_width(width))
            for place, head in enumerate(head for head in heads if head.separate and not head.compared):
                if KINDS[head.kind].similarity:  # it starts as the cosine
                    self.weight.data[self.heads.index(head)] = 0.0
                    values[place] = 0.0
                    values[place, :, -1] = 1.0
                else:
                    used[place, :, -1] = 0.0
            self.pair_weight = nn.Parameter(values * used)
            self.register_buffer("pair_used", used, persistent=False)
        self.separate: Tensor
        self.compared: Tensor
        self.weighed: Tensor
        self.pair_index: Tensor
        self.register_buffer("separate", separate, persistent=False)
        self.register_buffer("compared", compared, persistent=False)
        self.register_buffer("weighed", weighed, persistent=False)
        self.register_buffer("pair_index", (weighed.cumsum(0) - 1).clamp(min=0), persistent=False)
        if bare.all():
            self.requires_grad_(False)
        self._distinct = sorted({head.size for head in heads})
        self.sizes: Tensor
        self.kinds: Tensor
        self.register_buffer("sizes", sizes, persistent=False)
        self._kinds = [kind for kind in KINDS if any(head.kind == kind for head in heads)]
        kinds = torch.tensor([self._kinds.index(head.kind) for head in heads])
        self.register_buffer("kinds", kinds, persistent=False)
        per_token = torch.tensor([KINDS[head.kind].per == "token" for head in heads])
        self.tags_tokens = bool(per_token.any())
        self.per_token: Tensor
        self.register_buffer("per_token", per_token, persistent=False)
        by_largest = torch.tensor([head.windows == "max" for head in heads])
        self.by_largest: Tensor
        self.register_buffer("by_largest", by_largest, persistent=False)
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", _class_weights(self.heads, valid.shape[1]), persistent=False)

    def forward(
        self,
        x: Float[Tensor, "rows d"],
        rows: Int[Tensor, " rows"],
        tokens: Float[Tensor, "rows positions d"] | None = None,
        pairs: Float[Tensor, "rows features"] | None = None,
    ) -> Float[Tensor, " rows *outputs"]:
        """Logits of every row under its own task's head; of its tokens, too, if any task has such targets.

        `pairs` has what the two vectors of a row give beside the first, and zeros for rows of one sequence.
        """
        logits = self._of_rows(x, rows, pairs)
        if not self.tags_tokens or tokens is None:
            return logits
        tagged = self.per_token[rows][:, None, None]
        low = float("-inf")
        of_rows = logits[:, None].masked_fill(tagged, low)
        return torch.cat([of_rows, self._of_tokens(tokens, rows).masked_fill(~tagged, low)], dim=1)

    def _of_tokens(
        self, tokens: Float[Tensor, "rows positions d"], rows: Int[Tensor, " rows"]
    ) -> Float[Tensor, "rows positions outputs"]:
        largest = self.weight.shape[1]
        shape = (*tokens.shape[:2], largest)
        logits = tokens.new_full(shape, float("-inf"), dtype=torch.float32)
        sizes = {head.size for head in self.heads if KINDS[head.kind].per == "token"}
        for size in sorted(sizes):
            weight, bias = self.weight[rows, :size], self.bias[rows, None, :size]
            part = torch.einsum("bld,bcd->blc", tokens, weight) + bias
            padded = F.pad(part.float(), (0, largest - size), value=float("-inf"))
            logits = torch.where((self.sizes[rows] == size)[:, None, None], padded, logits)
        return logits

    def _of_rows(
        self,
        x: Float[Tensor, "rows d"],
        rows: Int[Tensor, " rows"],
        pairs: Float[Tensor, "rows features"] | None,
    ) -> Float[Tensor, "rows outputs"]:
        largest = self.weight.shape[1]
        logits = x.new_full((x.shape[0], largest), float("-inf"), dtype=torch.float32)
        for size in self._distinct:
            part = torch.einsum("bd,bcd->bc", x, self.weight[rows, :size]) + self.bias[rows, :size]
            if pairs is not None and self.pair_weight is not None:
                weight = (self.pair_weight * self.pair_used)[self.pair_index[rows], :size]
                part = part + torch.einsum("bd,bcd->bc", pairs, weight)
            padded = F.pad(part.float(), (0, largest - size), value=float("-inf"))
            logits = torch.where((self.sizes[rows] == size).unsqueeze(1), padded, logits)
        return logits

    def of_all(
        self,
        x: Float[Tensor, "carried d"],
        place: Int[Tensor, "rows tasks"],
        tokens: Float[Tensor, "carried positions d"] | None = None,
        pairs: Float[Tensor, "rows separate features"] | None = None,
    ) -> Float[Tensor, " rows tasks *outputs"]:
        """Logits of every row under all heads; `place` says which carried row is that of a row for a task.

        `pairs` is as for `forward`, for every task that has weights for it.

        If a task has targets per token, they are [rows, tasks, 1 + positions, C], as those of `forward`.
        """
        low = float("-inf")
        logits = torch.einsum("rtd,tcd->rtc", x[place], self.weight) + self.bias
        if pairs is not None and self.pair_weight is not None:
            more = torch.einsum("rsd,scd->rsc", pairs, self.pair_weight * self.pair_used)
            logits = logits.index_add(1, self.weighed.nonzero().squeeze(1), more)
        beyond = torch.arange(self.weight.shape[1], device=x.device) >= self.sizes[:, None]
        logits = logits.float().masked_fill(beyond, low)
        if not self.tags_tokens or tokens is None:
            return logits
        tagging = self.per_token.nonzero().squeeze(1)
        own = torch.einsum("rtld,tcd->rtlc", tokens[place[:, tagging]], self.weight[tagging])
        own = (own + self.bias[tagging, None]).float().masked_fill(beyond[tagging, None], low)
        of_tokens = logits.new_full((*place.shape, *own.shape[2:]), low).index_copy(1, tagging, own)
        of_rows = logits.masked_fill(self.per_token[:, None], low)
        return torch.cat([of_rows[:, :, None], of_tokens], dim=2)

    def loss(
        self,
        logits: Float[Tensor, " rows *outputs"],
        labels: Float[Tensor, " rows *targets"],
        rows: Int[Tensor, " rows"],
    ) -> Float[Tensor, ""]:
        """Mean of `row_losses`."""
        return self.row_losses(logits, labels, rows).mean()

    def row_losses(
        self,
        logits: Float[Tensor, " rows *outputs"],
        labels: Float[Tensor, " rows *targets"],
        rows: Int[Tensor, " rows"],
    ) -> Float[Tensor, " rows"]:
        """The loss of every row, as the kind of its task has it (`graftwork.kinds.losses`)."""
        kinds = self.kinds[rows]
        weights = None if self.class_weights is None else self.class_weights[rows]
        losses = logits.new_zeros(len(rows))
        for index, kind in enumerate(self._kinds):
            mine = kinds == index
            own, targets = of_kind(KINDS[kind].per, logits, labels, mine, self.weight.shape[-1])
            losses = torch.where(mine, LOSSES[kind](own, targets, mine, weights, rows), losses)
        return losses

    def count(self) -> int:
        """Parameters of all heads, without the padding."""
        return sum(value.numel() for value in self.export().values())

    def export(self) -> dict[str, Tensor]:
        """`<task>.weight` [C_t, d] and `<task>.bias` [C_t] for every task, without the padding.

        The weight of a task that reads its texts separately is [C_t, 4 d], for `[u, v, |u - v|, u * v]`; that
        of a number has one more, for the scaled cosine.
        """
        tensors = {}
        for index, head in enumerate(self.heads):
            if head.bare:
                continue
            tensors[f"{head.name}.weight"] = torch.cat(
                [part.detach() for part in self._parts(index, head)], dim=1
            )
            tensors[f"{head.name}.bias"] = self.bias[index, : head.size].detach().clone()
        return tensors

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `export` returned.

        Raises:
            CheckpointError: a head is missing or has another shape.
        """
        for index, head in enumerate(self.heads):
            if head.bare:
                continue
            parts = self._parts(index, head)
            width = sum(part.shape[1] for part in parts)
            for name, needed in (("weight", (head.size, width)), ("bias", (head.size,))):
                found = tensors.get(f"{head.name}.{name}")
                if found is None or found.shape != needed:
                    shape = "none" if found is None else tuple(found.shape)
                    raise CheckpointError(
                        f"the saved {name} of the head of task {head.name!r} is {shape}; {needed} is needed."
                    )
                if name == "bias":
                    self.bias[index, : head.size].copy_(found)
                    continue
                for part, values in zip(parts, found.split([p.shape[1] for p in parts], 1), strict=True):
                    part.copy_(values)

    def _parts(self, index: int, head: TaskHead) -> list[Tensor]:
        """The weights of a task, without the padding: of its row, and of a pair of vectors."""
        parts = [self.weight[index, : head.size]]
        if head.separate and self.pair_weight is not None:
            width = self.pair_weight.shape[-1] - (not KINDS[head.kind].similarity)
            parts.append(self.pair_weight[int(self.pair_index[index]), : head.size, :width])
        return parts


def _class_weights(heads: Sequence[TaskHead], classes: int) -> Tensor | None:
    """Weight of a row by task and class, [tasks, C]; None if all are 1."""
    if not any(head.class_weights for head in heads):
        return None
    weights = torch.ones(len(heads), classes)
    for index, head in enumerate(heads):
        if head.class_weights:
            weights[index, : head.size] = torch.tensor(head.class_weights)
    return weights
