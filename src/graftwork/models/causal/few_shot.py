"""Prompts that begin with rows that are answered already: what a frozen model knows when it is shown how."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from graftwork.texts.rows import messages_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from graftwork.data.task_data import Split, TaskData
    from graftwork.texts.writing import Writing

__all__ = ["SHOTS", "with_examples"]

SHOTS = 3
"""Rows that are shown before each one that is asked."""


def with_examples(data: TaskData, split: str = "test", shots: int = SHOTS) -> TaskData:
    """A task that is written, each prompt of one split behind a few train rows with their answers.

    In a chat they are earlier turns, else texts with an empty line between two. They are the first train rows
    with different answers, the same for every row. A row may be as many times longer.

    Args:
        data: the task; its head and its rows are not changed.
        split: whose rows are asked; the task that is returned has no other.
        shots: rows that are shown.
    """
    from graftwork.data.task_data import TaskData  # numpy; a page needs the number of shots alone

    writing, train, asked = data.head.writing, data.splits["train"], data.splits[split]
    assert writing is not None
    answers = _answers(data, train)
    chosen = _different(answers, shots)
    examples = [(train.texts[0][row], answers[row]) for row in chosen]
    sources = [_source(writing, examples, source) for source in asked.texts[0]]
    longer = replace(writing, max_length=writing.max_length * (len(examples) + 1))
    if writing.chat and not writing.is_list:
        longer = replace(longer, form="messages")
    return TaskData(replace(data.head, writing=longer), {split: replace(asked, texts=(sources,))})


def _answers(data: TaskData, split: Split) -> list[str]:
    """The right answer of every row."""
    if split.answers is None:
        return [data.head.labels[int(target)] for target in split.targets]
    return [right[0] for right in split.answers_of(range(len(split)))]


def _different(answers: Sequence[str], shots: int) -> list[int]:
    """The first rows with different answers, then others, if there are too few of these."""
    first = {answer: row for row, answer in reversed(list(enumerate(answers)))}
    rows = sorted(first.values())[:shots]
    return rows + [row for row in range(len(answers)) if row not in rows][: shots - len(rows)]


def _source(writing: Writing, examples: Sequence[tuple[str, str]], source: str) -> str:
    if not writing.chat:
        parts = [
            text + ("" if not text or text[-1].isspace() else " ") + answer.strip()
            for text, answer in examples
        ]
        return "\n\n".join([*parts, source])
    messages: list[dict[str, Any]] = []
    for text, answer in examples:
        messages += [*_talk(writing, text, messages), {"role": "assistant", "content": answer.strip()}]
    return json.dumps([*messages, *_talk(writing, source, messages)], ensure_ascii=False, sort_keys=True)


def _talk(writing: Writing, source: str, before: Sequence[Any]) -> list[dict[str, Any]]:
    """The messages of a source; one of the system may stand at the beginning alone."""
    if not writing.is_list:
        return [{"role": "user", "content": source}]
    return [message for message in messages_of(source) if not before or message.get("role") != "system"]
