"""`CausalMultiTaskModel`: one decoder for tasks that it answers in its own words, and tasks with heads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from graftwork.errors import ConfigError, DataError
from graftwork.kinds.heads import TaskHead
from graftwork.models.multitask import MultiTaskModel
from graftwork.models.pooling import Pooling, pool
from graftwork.routing.rows import ROWS_KEYWORD

__all__ = ["CausalMultiTaskModel", "LossPer", "language_model", "make_model"]


LossPer = Literal["row", "token"]
"""What weighs the same in the loss of a batch."""


@dataclass
class _Reading:
    """What the head of a language model is to read in one pass, and what there was to read."""

    rows: Tensor
    positions: Tensor
    hidden: Tensor | None = None


_READING: ContextVar[_Reading | None] = ContextVar("graftwork_reading", default=None)


def _select(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """A hook before the head of a language model: it reads the chosen positions alone, as one row."""
    reading = _READING.get()
    if reading is None:
        return None
    reading.hidden = args[0]
    return (args[0][reading.rows, reading.positions].unsqueeze(0), *args[1:])


@contextmanager
def _reading(chosen: _Reading) -> Iterator[None]:
    token = _READING.set(chosen)
    try:
        yield
    finally:
        _READING.reset(token)


class CausalMultiTaskModel(MultiTaskModel):
    r"""A decoder (plain, or with adapters of any PEFT method) for several tasks.

    Tasks of `kind: generation` and `choice` are answered by the backbone's own language-model head, which is
    computed only where an answer is learned. The loss of a row is

    .. math::
        L_i = -\frac{1}{|A_i|} \sum_{p \in A_i} \log P(x_p \mid x_{<p})

    in nats, with A_i the tokens of the answer and the one that ends it; the loss of a batch is the mean over
    its rows, so that a long answer counts no more than a short one, and accumulated gradients are those of
    one large batch. Rows of tasks with heads may stand in the same batch: their heads read the last token.
    With `loss_per = "token"` the weight of a written row in that mean is :math:`|A_i|` over the mean of all
    written rows of the batch, so that every token counts as much as any other.

    Args:
        backbone: a causal language model of Transformers; if it has graft adapters, each row is routed to its
            task.
        heads: the tasks, in the order of the graft adapter's tasks.
        pooling: `last`, or None for it; heads read the last token, the only one that has seen the whole row.
        dropout: on the vector that heads read.
        max_length: tokens of rows of tasks with heads; the others have their own.

    Raises:
        ConfigError: the backbone has no language-model head, another pooling is asked for, or a task reads
            its two texts separately.
        DataError: in `forward`: several tasks and no `graft_rows`.

    Example:
        >>> from peft import get_peft_model
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> config = GPT2Config(vocab_size=30, n_embd=16, n_layer=2, n_head=2, n_positions=16)
        >>> decoder = GPT2LMHeadModel(config)
        >>> writer = gw.Task("answers", "data/answers", kind="generation").head()
        >>> adapted = get_peft_model(decoder, gw.GraftConfig(tasks=["answers"], budget=0.03))
        >>> model = gw.CausalMultiTaskModel(adapted, [writer]).eval()
        >>> import torch
        >>> ids = torch.tensor([[5, 6, 7, 8]])
        >>> outputs = model(ids, trained=torch.tensor([[0, 0, 1, 1]]), labels=torch.zeros(1))
        >>> outputs.loss.shape, outputs.logits.shape  # the one output of a written row is its loss
        (torch.Size([]), torch.Size([1, 1]))
    """

    causal = True
    loss_per: LossPer = "row"
    """What weighs the same in the loss of a batch: every written row, or every token of their answers."""

    def __init__(
        self,
        backbone: nn.Module,
        heads: Sequence[TaskHead],
        *,
        pooling: Pooling | None = None,
        dropout: float = 0.1,
        max_length: int = 128,
    ) -> None:
        if pooling not in (None, "last"):
            raise ConfigError(
                f"pooling is {pooling!r}; the heads of a decoder that writes read the last token."
            )
        pairs = [head for head in heads if head.separate]
        if pairs:
            joint = "" if pairs[0].compared else "with pairs: joint, or "
            raise ConfigError(
                f"task {pairs[0].name!r} reads its two texts separately, which a language model that writes "
                f"cannot; train it {joint}without tasks that are written."
            )
        super().__init__(backbone, heads, pooling="last", dropout=dropout, max_length=max_length)
        head = language_model(backbone).get_output_embeddings()
        if not isinstance(head, nn.Module):
            raise ConfigError(
                f"{type(language_model(backbone)).__name__} has no head for words; give a causal model."
            )
        # A model of some of the tasks is another one around the same backbone.
        if _select not in head._forward_pre_hooks.values():
            head.register_forward_pre_hook(_select)
        written = torch.tensor([known.written for known in heads])
        self.written: Tensor
        self.register_buffer("written", written, persistent=False)

    def forward(  # type: ignore[override]
        self,
        input_ids: Int[Tensor, "rows positions"],
        attention_mask: Int[Tensor, "rows positions"] | None = None,
        token_type_ids: Int[Tensor, "rows positions"] | None = None,
        trained: Int[Tensor, "rows positions"] | None = None,
        labels: Float[Tensor, " rows *targets"] | None = None,
        graft_rows: Int[Tensor, " rows"] | None = None,
    ) -> SequenceClassifierOutput:
        """Outputs, and the loss if there are labels.

        Args:
            input_ids: tokens, padded on the right.
            attention_mask: 1 for tokens, 0 for padding.
            token_type_ids: taken for the sake of tokenizers that give them; a decoder knows no segments.
            trained: 1 for tokens that are learned; not needed if no row is one of a written task.
            labels: class index or standardised score of every row; of written rows not read.
            graft_rows: index of every row's task; not needed if there is only one task.

        Returns:
            `logits` [rows, C]: of written rows the first is their loss, of others as `MultiTaskModel` has it.
        """
        if graft_rows is None:
            if len(self.heads.heads) > 1:
                names = ", ".join(head.name for head in self.heads.heads)
                raise DataError(
                    f"the model has several tasks ({names}); pass graft_rows, the task index of every row."
                )
            graft_rows = torch.zeros(len(input_ids), dtype=torch.long, device=input_ids.device)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        learned = torch.zeros_like(input_ids) if trained is None else trained
        rows, positions = learned[:, 1:].nonzero(as_tuple=True)
        reading = _Reading(rows, positions)
        routing = {ROWS_KEYWORD: graft_rows} if self.routed else {}
        with _reading(reading):
            words = self.backbone(
                input_ids=input_ids, attention_mask=mask, use_cache=False, **routing
            ).logits[0]
        assert reading.hidden is not None
        losses = F.cross_entropy(words.float(), input_ids[rows, positions + 1], reduction="none")
        sums = losses.new_zeros(len(input_ids)).index_add(0, rows, losses)
        counts = torch.zeros_like(sums).index_add(0, rows, torch.ones_like(losses))
        own = sums / counts.clamp(min=1)
        logits = self._head_logits(reading.hidden, mask, graft_rows)
        mine, flat = self.written[graft_rows], logits.flatten(1)
        first = torch.where(mine, own, flat[:, 0])
        rest = flat[:, 1:].masked_fill(mine.unsqueeze(1), float("-inf"))
        logits = torch.cat([first.unsqueeze(1), rest], dim=1).view_as(logits)
        loss = None
        if labels is not None and self.loss_per == "row":
            loss = self.heads.loss(logits, labels, graft_rows)
        elif labels is not None:
            tokens = torch.where(mine, counts, 0.0)
            weights = torch.where(mine, counts * mine.sum() / tokens.sum().clamp(min=1), 1.0)
            loss = (self.heads.row_losses(logits, labels, graft_rows) * weights).mean()
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _head_logits(self, hidden: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
        """Logits of the heads; of written rows they mean nothing."""
        if not self.heads.weight.requires_grad and bool(self.written.all()):
            return hidden.new_zeros(len(hidden), self.heads.weight.shape[1], dtype=torch.float32)
        dtype = self.heads.weight.dtype
        pooled = self.dropout(pool(hidden, mask, "last")).to(dtype)
        tokens = self.dropout(hidden).to(dtype) if self.heads.tags_tokens else None
        return self.heads(pooled, rows, tokens)  # type: ignore[no-any-return]


def language_model(backbone: nn.Module) -> Any:
    """The language model of Transformers below the adapters of PEFT, or itself."""
    inside = getattr(backbone, "get_base_model", None)
    return inside() if callable(inside) else backbone


def make_model(
    backbone: nn.Module, heads: Sequence[TaskHead], *, pooling: Pooling, max_length: int, causal: bool = False
) -> MultiTaskModel:
    """The model of some tasks: a `CausalMultiTaskModel` if one of them is written, or `causal`."""
    if causal or any(head.written for head in heads):
        return CausalMultiTaskModel(backbone, heads, max_length=max_length)
    return MultiTaskModel(backbone, heads, pooling=pooling, max_length=max_length)
