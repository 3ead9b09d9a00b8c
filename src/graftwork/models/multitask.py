"""`MultiTaskModel`: one backbone, one head per task, batches that mix the tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from graftwork.errors import ConfigError, DataError
from graftwork.kinds.heads import TaskHead
from graftwork.kinds.linear_heads import TaskHeads
from graftwork.kinds.pairs.features import pair_width
from graftwork.models.first_pass import measured_width
from graftwork.models.pairs.compared import in_place_of_logits
from graftwork.models.pairs.second import SecondTexts, split_second
from graftwork.models.pooling import Pooling, pool, pool_windows
from graftwork.routing.router import find_router
from graftwork.routing.rows import ROWS_KEYWORD
from graftwork.search.compact import compact_
from graftwork.structure.structure import Structure
from graftwork.trunk.tree import Tree
from graftwork.trunk.trunk import find_trunk
from graftwork.tuner.pool import check_size
from graftwork.tuner.view import graft_view

__all__ = ["MultiTaskModel", "hidden_width", "select_tasks_"]


class MultiTaskModel(nn.Module):
    r"""A backbone (plain, or with adapters of any PEFT method) under the heads of several tasks.

    .. math::
        \mathrm{logits}_i = W_{t(i)} \, \mathrm{pool}(h_i) + b_{t(i)}, \quad
        L = \frac{1}{N} \sum_i w_{t(i), y_i} \ell_{t(i)}(\mathrm{logits}_i, y_i)

    with h [rows, positions, d] the backbone's last hidden state, t(i) the task of row i and w the weight of
    its class (1 unless given). The loss of a row is the cross-entropy (nats) for classes, the squared error
    for scores, which are standardised: in units of their standard deviation. Logits are [rows, C], C the
    size of the largest head, and minus infinity beyond a row's own head.

    A row of a task that reads its two texts separately is two sequences of the batch, with vectors u and v,
    and its head sees `[u, v, |u - v|, u * v]`. Of a task that compares its texts with those of other rows
    (`kind: retrieval`) the logits of a row are the cosine of u and v and both with length 1, [1 + 2 d].

    Args:
        backbone: gives `last_hidden_state` [rows, positions, d]; if it has graft adapters, each row is routed
            to its task.
        heads: the tasks, in the order of the graft adapter's tasks.
        pooling: how the positions of a row become one vector.
        dropout: on that vector.
        max_length: tokens of a row in training and in use; longer ones are cut before they come here.

    Raises:
        ConfigError: the heads are not those of the graft adapter's tasks, or the backbone's width is unknown.
        DataError: in `forward`: several tasks and no `graft_rows`.

    Example:
        `heads` are those of three tasks, made by `graftwork.Task.head`.

        >>> from peft import get_peft_model
        >>> tasks = [head.name for head in heads]
        >>> tasks
        ['colour', 'same', 'length']
        >>> adapted = get_peft_model(backbone, gw.GraftConfig(tasks=tasks))
        >>> model = gw.MultiTaskModel(adapted, heads).eval()
        >>> import torch
        >>> outputs = model(**tokens, labels=torch.tensor([0.0, 1.5]), graft_rows=torch.tensor([0, 2]))
        >>> outputs.logits.shape, outputs.loss.shape  # two classes; a score is the first number of its row
        (torch.Size([2, 2]), torch.Size([]))
    """

    causal = False
    """Whether the backbone is a language model with its head (`CausalMultiTaskModel`)."""

    def __init__(
        self,
        backbone: nn.Module,
        heads: Sequence[TaskHead],
        *,
        pooling: Pooling = "mean",
        dropout: float = 0.1,
        max_length: int = 128,
    ) -> None:
        super().__init__()
        written = [head.name for head in heads if head.written]
        if written and not self.causal:
            raise ConfigError(
                f"task {written[0]!r} is written by a language model; use gw.CausalMultiTaskModel, around a "
                "causal model."
            )
        self.backbone = backbone
        self.max_length = max_length
        self.pooling: Pooling = pooling
        self.dropout = nn.Dropout(dropout)
        width = hidden_width(backbone)
        largest = max(head.size for head in heads)
        # One tensor holds all heads, each as large as the largest.
        check_size(len(heads) * largest * width, backbone, f"{len(heads)} heads of up to {largest:,} outputs")
        self.heads = TaskHeads(heads, width)
        self.routed = find_router(backbone) is not None
        self.rows_keyword: str | None = ROWS_KEYWORD if self.routed else None
        """How the backbone calls the tasks of its rows, if it asks for them."""
        if self.routed:
            _check_order([head.name for head in heads], graft_view(backbone).config.tasks)

    def forward(
        self,
        input_ids: Int[Tensor, "read positions"] | None = None,
        attention_mask: Int[Tensor, "read positions"] | None = None,
        token_type_ids: Int[Tensor, "read positions"] | None = None,
        pixel_values: Float[Tensor, "read channels height width"] | None = None,
        labels: Float[Tensor, " rows *targets"] | None = None,
        graft_rows: Int[Tensor, " rows"] | None = None,
        windows: Int[Tensor, "rows most"] | None = None,
        places: Int[Tensor, "rows tokens"] | None = None,
        second_input_ids: Int[Tensor, "read positions"] | None = None,
        second_attention_mask: Int[Tensor, "read positions"] | None = None,
        second_token_type_ids: Int[Tensor, "read positions"] | None = None,
    ) -> SequenceClassifierOutput:
        """Logits, and the loss if there are labels.

        Args:
            input_ids: tokens.
            attention_mask: 1 for tokens, 0 for padding.
            token_type_ids: segment of every token, for backbones that know segments.
            pixel_values: images, in place of tokens.
            labels: class index or standardised score of every row, or all targets of each, padded.
            graft_rows: index of every row's task; not needed if there is only one task.
            windows: what is read for each row, by its place in the batch, if rows have several windows; -1
                for none. Default: one each.
            places: where each token of a row is among all positions that are read
                (`graftwork.data.encoding.windows.pad_windows`).
            second_input_ids: tokens of the second text, as long as those of the first, of rows of tasks that
                read their texts separately; what other rows have there is not read.
            second_attention_mask: as for the first.
            second_token_type_ids: as for the first.
        """
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "pixel_values": pixel_values,
        }
        second = {
            "input_ids": second_input_ids,
            "attention_mask": second_attention_mask,
            "token_type_ids": second_token_type_ids,
        }
        inputs = {name: value for name, value in given.items() if value is not None}
        first = next(iter(inputs.values()))
        if graft_rows is None:
            if len(self.heads.heads) > 1:
                names = ", ".join(head.name for head in self.heads.heads)
                raise DataError(
                    f"the model has several tasks ({names}); pass graft_rows, the task index of every row."
                )
            count = (first if windows is None else windows).shape[0]
            graft_rows = torch.zeros(count, dtype=torch.long, device=first.device)
        # Of what is read: a row, or each of its windows.
        own = graft_rows if windows is None else graft_rows.repeat_interleave((windows >= 0).sum(1))
        read, tasks, texts = first.shape[0], own, None
        if self.heads.reads_separately:
            seconds = {name: value for name, value in second.items() if value is not None}
            texts = SecondTexts.of(seconds, self.heads.separate[own], self.heads.heads)
        if texts is not None:
            inputs = texts.joined(inputs)
            tasks = torch.cat([own, own[texts.owner]])
        hidden, whole = self._read(inputs, tasks)
        dtype = self.heads.weight.dtype
        pooled = self.dropout(whole).to(dtype)
        tokens = self.dropout(hidden[:read]).to(dtype) if self.heads.tags_tokens else None
        pairs = None
        if texts is not None:
            pairs = texts.features(pooled, whole.to(dtype))
        elif (
            self.heads.pair_weight is not None
        ):  # processes that train together need the gradient of every weight
            pairs = pooled.new_zeros(read, pair_width(pooled.shape[1]))
        logits = self.heads(pooled[:read], own, tokens, pairs)
        if windows is not None:
            largest = self.heads.by_largest[graft_rows][:, None]
            logits = pool_windows(logits, windows, places, largest, tagged=self.heads.tags_tokens)
        if self.heads.compares:
            width = 1 + 2 * whole.shape[1]
            made = whole.new_zeros(read, width).float() if texts is None else texts.compared(whole)
            # What is compared has one window.
            made = made if windows is None else made[windows[:, 0]]
            mine = self.heads.compared[graft_rows]
            logits = in_place_of_logits(logits, made, mine, tagged=self.heads.tags_tokens)
        loss = None if labels is None else self.heads.loss(logits, labels, graft_rows)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def vectors(
        self, inputs: Mapping[str, Tensor], graft_rows: Int[Tensor, " rows"]
    ) -> Float[Tensor, "rows d"]:
        """The pooled vectors of rows of one text each, along the paths of their tasks: the mean over windows.

        Args:
            inputs: of the backbone, with `windows` and `places` if there are several of a row.
            graft_rows: index of every row's task.
        """
        inputs = dict(inputs)
        windows, _ = inputs.pop("windows", None), inputs.pop("places", None)
        if windows is None:
            return self._read(inputs, graft_rows)[1]
        own = graft_rows.repeat_interleave((windows >= 0).sum(1))
        return pool_windows(self._read(inputs, own)[1], windows)

    def _read(self, inputs: Mapping[str, Tensor], tasks: Tensor) -> tuple[Tensor, Tensor]:
        """Last hidden states of a batch, and its pooled vectors."""
        routing = {} if self.rows_keyword is None else {self.rows_keyword: tasks}
        hidden: Tensor = self.backbone(**inputs, **routing).last_hidden_state
        mask = inputs.get("attention_mask")
        if mask is None:
            mask = torch.ones(hidden.shape[:2], dtype=torch.long, device=hidden.device)
        return hidden, pool(hidden, mask, self.pooling)

    def forward_all(
        self,
        inputs: Mapping[str, Tensor],
        wanted: Bool[Tensor, "rows tasks"] | None = None,
        tree: Tree | None = None,
    ) -> Float[Tensor, " rows tasks *outputs"]:
        """Logits of all tasks for every row, in one pass that branches where the tasks part.

        Args:
            inputs: as for `forward`, without labels and tasks.
            wanted: which tasks are wanted for which row, at least one for each; default all.
            tree: where the tasks part; default what their gates say now.

        Returns:
            Minus infinity beyond a task's own outputs, NaN where a task is not wanted.
        """
        inputs, second = split_second(inputs)
        windows, places = inputs.pop("windows", None), inputs.pop("places", None)
        first = next(iter(inputs.values()))
        read, device = first.shape[0], first.device
        texts, asked = None, wanted
        if windows is not None and wanted is not None:
            asked = wanted.repeat_interleave((windows >= 0).sum(1), dim=0)
        if self.heads.reads_separately:
            texts = SecondTexts.of_all(second, read, asked, self.heads.separate, self.heads.heads)
        if texts is not None:
            inputs = texts.joined(inputs)
            asked = None if asked is None else torch.cat([asked, asked[texts.owner]])
        sequences = next(iter(inputs.values())).shape[0]
        trunk = find_trunk(self.backbone)
        if trunk is None:
            hidden = self.backbone(**inputs).last_hidden_state
            source = torch.arange(sequences, device=device)
            place = source[:, None].expand(-1, len(self.heads.heads))
        else:
            tree = tree or trunk.tree(self.backbone, range(len(self.heads.heads)))
            carried = trunk.carry(tree, sequences, device, asked)
            hidden, source, place = trunk.run(self.backbone, carried, inputs), carried.source, carried.place
        mask = inputs.get("attention_mask")
        if mask is None:
            mask = torch.ones(hidden.shape[:2], dtype=torch.long, device=device)
        else:
            mask = mask.index_select(0, source)
        dtype = self.heads.weight.dtype
        pooled = self.dropout(pool(hidden, mask, self.pooling)).to(dtype)
        tokens = self.dropout(hidden).to(dtype) if self.heads.tags_tokens else None
        pairs = None
        if texts is not None and self.heads.pair_weight is not None:
            pairs = texts.features_of_all(pooled, place, self.heads.weighed)
        logits = self.heads.of_all(pooled, place[:read], tokens, pairs)
        if windows is not None:
            largest = self.heads.by_largest[:, None]
            logits = pool_windows(logits, windows, places, largest, tagged=self.heads.tags_tokens)
        if self.heads.compares:
            width = 1 + 2 * pooled.shape[1]
            made = pooled.new_zeros(read, logits.shape[1], width).float()
            if texts is not None:
                made = texts.compared_of_all(pooled, place, self.heads.compared)
            made = made if windows is None else made[windows[:, 0]]
            mine = self.heads.compared.expand(logits.shape[0], -1)
            logits = in_place_of_logits(logits, made, mine, tagged=self.heads.tags_tokens)
        if wanted is None:
            return logits
        return logits.masked_fill(~wanted[(...,) + (None,) * (logits.dim() - 2)], float("nan"))

    def activation_checkpointing_enable(self, **kwargs: Any) -> None:
        """Recompute the backbone's activations in the backward pass; Trainer asks for it by this name."""
        self.backbone.activation_checkpointing_enable(**kwargs)  # type: ignore[operator]


def _check_order(heads: list[str], tasks: list[str]) -> None:
    """Rows carry one index for both head and gates; only an adapter of a single task serves any heads."""
    if len(tasks) > 1 and heads != tasks:
        raise ConfigError(
            f"the heads are for {', '.join(heads)}, the adapter for {', '.join(tasks)}; give the same tasks "
            "in the same order."
        )


def hidden_width(backbone: nn.Module) -> int:
    """Features of the backbone's last hidden state, as measured when it was loaded, or as configured.

    Raises:
        ConfigError: nothing was measured, and its configuration does not say.
    """
    measured = measured_width(backbone)
    if measured is not None:
        return measured
    config: Any = getattr(backbone, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    # OPT projects its output to the width of its embeddings.
    width = getattr(text, "word_embed_proj_dim", None)
    width = width or getattr(text, "hidden_size", None) or getattr(text, "d_model", None)
    if width is None:
        raise ConfigError(
            f"the configuration of {type(backbone).__name__} names no hidden_size, so no head fits it."
        )
    return int(width)


def select_tasks_(model: MultiTaskModel, tasks: Sequence[str]) -> tuple[MultiTaskModel, Structure]:
    """The model of some tasks of a multi-task model, around the same backbone, which is changed in place.

    Raises:
        StructureError: a task is unknown.
    """
    structure = compact_(model, tasks)
    heads = {head.name: head for head in model.heads.heads}
    small = type(model)(
        model.backbone,
        [heads[task] for task in tasks],
        pooling=model.pooling,
        max_length=model.max_length,
    )
    small.heads.load(model.heads.export())
    return small.eval(), structure
