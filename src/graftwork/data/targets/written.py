"""Rows of tasks that the language model itself answers: read, tokenised, and what was cut of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graftwork.errors import DataError
from graftwork.messages import listed
from graftwork.texts.choices import choice_tokens, choices_of, right_choices
from graftwork.texts.rendering import Renderer
from graftwork.texts.rows import RowReader, with_form

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from graftwork.data.sources import SourceRows
    from graftwork.data.task_data import Split, TaskData
    from graftwork.kinds.heads import TaskHead
    from graftwork.texts.writing import Writing

__all__ = ["TRAINED", "check_learned", "read_written", "written_tokens"]

TRAINED = "trained"
"""Column of the tokens: 1 where a token is learned."""
ODD = 0.01
"""Part of the rows of a split that may have nothing to learn; one row always may."""


def read_written(
    table: SourceRows, writing: Writing, what: str, *, known: bool, label: str | None = None
) -> tuple[list[str], list[tuple[str, ...]], Writing]:
    """Sources and answers of all rows of a table, and the settings with the form of the rows.

    Args:
        table: the rows.
        writing: how they are read.
        what: the split and its task, for messages.
        known: whether the form of `writing` is known already, as that of a saved model or of the train rows.
        label: of `kind: choice` the field of the right one of a row's choices; None: answers are written.

    Returns:
        Sources, answers and settings. Of a row with its own choices the answers are the right one, then all
        of them in their order; there are none if all rows choose from the same labels.

    Raises:
        DataError: a row cannot be read.
    """
    if not known:
        writing = with_form(writing, table.rows[0], f"{what}: {table.where(0)}")
    if writing.system is not None and not writing.chat:
        raise DataError(f"{what}: system is a message of a chat; set chat: true, or write it into prompt:")
    reader = RowReader(writing)
    places = [f"{what}: {table.where(i)}" for i in range(len(table.rows))]
    # The label of a conversation is no message of it.
    read = reader.source if label is None else reader.asked
    sources = [read(row, place) for row, place in zip(table.rows, places, strict=True)]
    answers: list[tuple[str, ...]] = []
    if label is None:
        answers = [reader.answers(row, place) for row, place in zip(table.rows, places, strict=True)]
    elif writing.choices is not None:
        answers = _own_choices(table, writing.choices, label, places)
    return sources, answers, writing


def _own_choices(table: SourceRows, field: str, label: str, places: Sequence[str]) -> list[tuple[str, ...]]:
    choices = [choices_of(row, field, place) for row, place in zip(table.rows, places, strict=True)]
    for row, place in zip(table.rows, places, strict=True):
        if label not in row:
            raise DataError(f"{place} has no field {label!r}; its fields: {listed(row, 20) or 'none'}")
    right = right_choices([row[label] for row in table.rows], choices, label, places)
    return [(text, *own) for text, own in zip(right, choices, strict=True)]


def written_tokens(
    tokenizer: PreTrainedTokenizerBase, head: TaskHead, split: Split, rows: range
) -> tuple[dict[str, list[list[int]]], list[int]]:
    """Columns of the rows that have something to learn, and which rows these are.

    Args:
        tokenizer: of the backbone.
        head: the task.
        split: its rows.
        rows: which of them.
    """
    assert head.writing is not None
    sources = [split.texts[0][row] for row in rows]
    if split.answers is None:
        answers = [head.labels[int(split.targets[row])] for row in rows]
    else:
        answers = [right[0] for right in split.answers_of(rows)]
    found = Renderer(tokenizer, head.writing).rows(sources, answers)
    kept = [place for place, row in enumerate(found) if any(row.trained)]
    columns = {
        "input_ids": [found[place].ids for place in kept],
        "attention_mask": [[1] * len(found[place].ids) for place in kept],
        TRAINED: [found[place].trained for place in kept],
    }
    for name in set(tokenizer.model_input_names) - set(columns):
        columns[name] = [[0] * len(ids) for ids in columns["input_ids"]]
    return columns, [rows[place] for place in kept]


def check_choices(data: TaskData, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a task of `kind: choice` some of whose choices no model could score.

    Raises:
        DataError: they are too long, or two of a row are the same tokens.
    """
    assert data.head.writing is not None
    if data.head.kind != "choice":
        return
    renderer = Renderer(tokenizer, data.head.writing)
    for split in data.splits.values():
        own = split.answers is not None
        rows = range(len(split) if own else 1)  # labels are the same after every prompt
        choices = [found[1:] for found in split.answers_of(rows)] if own else [data.head.labels]
        choice_tokens(renderer, data.head.name, [split.texts[0][row] for row in rows], choices)


def check_learned(
    datas: Sequence[TaskData], tokens: dict[str, Dataset], tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    """Notes on rows that were cut, or left out as they have nothing to learn.

    Args:
        datas: the tasks.
        tokens: their rows as tokens.
        tokenizer: that made them.

    Raises:
        DataError: more than the odd row of a task has nothing to learn.
    """
    notes = []
    for index, data in enumerate(datas):
        writing = data.head.writing
        if writing is None:
            continue
        check_choices(data, tokenizer)
        ends: Any = Renderer(tokenizer, writing).ends
        for split, dataset in tokens.items():
            what = f"{split} of task {data.head.name!r}"
            mine = np.asarray(dataset.data.column("graft_rows").to_numpy()) == index
            rows = len(data.splits[split])
            lost = rows - int(mine.sum())
            if lost:
                said = (
                    f"{what}: {lost:,} of {rows:,} rows have no token of an answer left (it is empty, or the "
                    f"prompt has {writing.max_length} tokens and more)"
                )
                if lost > max(1, ODD * rows):
                    raise DataError(
                        f"{said}; raise max_length of the task, shorten the prompts, or correct "
                        f"{(writing.target if data.head.kind == 'generation' else data.head.label)!r}"
                    )
                notes.append(f"{said}; they are left out")
            cut = _cut(dataset, mine, writing.max_length, ends)
            if cut:
                notes.append(
                    f"{what}: {cut:,} of {rows:,} rows have more than {writing.max_length} tokens, and "
                    "the end of their answer is cut; raise max_length of the task"
                )
    return notes


def _cut(dataset: Dataset, mine: Any, limit: int, ends: Sequence[int]) -> int:
    """How many rows are as long as they may be and do not end as an answer does."""
    import pyarrow.compute  # type: ignore[import-untyped]

    lengths = np.asarray(pyarrow.compute.list_value_length(dataset.data.column("input_ids")).to_numpy())
    full = np.flatnonzero(mine & (lengths >= limit))
    return sum(dataset[int(row)]["input_ids"][-1] not in ends for row in full)
