"""The answers of a language model to rows of several tasks, as predictions read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from graftwork.kinds.answers import Answers
from graftwork.models.causal.answering import answer_texts
from graftwork.models.causal.choosing import choice_outputs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from graftwork.kinds.heads import TaskHead
    from graftwork.models.multitask import MultiTaskModel

__all__ = ["reply_rows"]


def reply_rows(
    model: MultiTaskModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[tuple[TaskHead, Sequence[str]]],
    answers: Answers,
    *,
    batch_size: int,
) -> list[dict[str, Any]]:
    """The answers to rows, in their order: texts that are written, or chosen with their probabilities.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        rows: the task of every row, and what its prompt is made of, then its own choices, if it has any.
        answers: how they are given.
        batch_size: prompts that are read together.
    """
    heads = list(model.heads.heads)
    index_of = {head.name: index for index, head in enumerate(heads)}
    found: dict[int, dict[str, Any]] = {}
    chosen = [place for place, (head, _) in enumerate(rows) if head.kind == "choice"]
    choices = [rows[place][1][1:] or rows[place][0].labels for place in chosen]
    outputs = choice_outputs(
        model.backbone,
        tokenizer,
        heads,
        [index_of[rows[place][0].name] for place in chosen],
        [rows[place][1][0] for place in chosen],
        choices,
        batch_size=batch_size,
    )
    for place, own, values in zip(chosen, choices, outputs, strict=True):
        # Of a row with its own choices these stand for the labels.
        found[place] = answers.describe(replace(rows[place][0], labels=tuple(own)), values)
    written = [place for place in range(len(rows)) if place not in found]
    texts = answer_texts(
        model.backbone,
        tokenizer,
        heads,
        [index_of[rows[place][0].name] for place in written],
        [rows[place][1][0] for place in written],
        batch_size=batch_size,
    )
    for place, text in zip(written, texts, strict=True):
        found[place] = answers.written(rows[place][0], text)
    return [found[place] for place in range(len(rows))]
