"""What a trained language model writes or chooses in the rows of a split, scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch

from graftwork.errors import ConfigError
from graftwork.models.causal.model import CausalMultiTaskModel
from graftwork.models.causal.scoring import TextScore, losses_of, score_texts

if TYPE_CHECKING:
    from graftwork.data.images.reader import InputReader
    from graftwork.data.task_data import TaskData
    from graftwork.models.causal.model import LossPer
    from graftwork.models.multitask import MultiTaskModel

__all__ = ["answered", "set_loss_", "trained_answers", "with_precision"]


def trained_answers(
    model: MultiTaskModel,
    tokenizer: InputReader,
    datas: Sequence[TaskData],
    split: str,
    *,
    most: Mapping[str, int | None],
    advance: Callable[[int], object] = lambda count: None,
) -> dict[str, TextScore]:
    """The answers to rows of all written tasks, in mixed batches, and their scores.

    Args:
        model: a `CausalMultiTaskModel`.
        tokenizer: its tokenizer.
        datas: tasks of the model; those that are not written are passed over.
        split: of which rows.
        most: rows of a task whose answers are written.
        advance: told how many rows were answered since the last time.
    """
    return score_texts(
        model.backbone,
        tokenizer,
        datas,
        split,
        most=most,
        advance=advance,
        routed=model.routed,
        order=[head.name for head in model.heads.heads],
    )


def answered(
    model: MultiTaskModel,
    reader: InputReader,
    data: TaskData,
    split: str,
    most: Mapping[str, int | None],
) -> dict[str, dict[str, Any]]:
    """Figures of what a language model answers of one task, by the split; nothing of other tasks."""
    if not data.head.written:
        return {}
    metric = data.head.metric
    text = trained_answers(model, reader, [data], split, most=most)[data.head.name]
    figures = losses_of(model, reader, data.head, data.splits[split]) | text.as_dict()
    return {split: figures if metric == "likelihood" else {**figures, metric: text.score}}


def set_loss_(model: MultiTaskModel, per: LossPer) -> None:
    """Choose what weighs the same in the loss of a batch.

    Raises:
        ConfigError: tokens shall, and no task of the model is written.
    """
    if isinstance(model, CausalMultiTaskModel):
        model.loss_per = per
    if per == "token" and not any(head.written for head in model.heads.heads):
        raise ConfigError(
            "training.loss=token is for tasks of kind: generation and choice, and none is; leave it out."
        )


def with_precision(backbone: Any, bf16: bool) -> AbstractContextManager[Any]:
    """A context in which a model answers with the precision that it is trained with."""
    return torch.autocast(backbone.device.type, torch.bfloat16, enabled=bf16)
