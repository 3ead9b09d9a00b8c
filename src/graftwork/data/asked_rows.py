"""Rows to predict: which texts of a row a task reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from graftwork.data.splits import joined_words
from graftwork.errors import DataError
from graftwork.kinds.heads import TaskHead
from graftwork.kinds.registry import KINDS
from graftwork.messages import listed, mended, shown
from graftwork.texts.choices import choices_of
from graftwork.texts.rows import Reader
from graftwork.texts.template import template_fields

__all__ = ["RowLike", "answered", "check_list", "check_row", "fields_of", "lacking", "texts_of"]

Read = TypeVar("Read")
RowLike = Mapping[str, Any] | str | Sequence[str]
"""A row to predict: a mapping with the text fields of its task, or its text, or its pair of texts."""


def check_row(row: object, number: int) -> None:
    """Refuse what is no row.

    Raises:
        DataError: it is neither a text, nor a pair of texts, nor a mapping.
    """
    if not isinstance(row, Mapping | str | list | tuple):
        raise DataError(f"row {number} is {shown(row)}, not a text, a pair of texts or an object of fields.")


def lacking(row: RowLike, head: TaskHead) -> str | None:
    """What a row lacks to be read by a task; None if it has its fields, or as many texts."""
    if isinstance(row, Mapping):
        absent = [field for field in head.text if field not in row]
        return f"no field {absent[0]!r}" if absent else None
    count = 1 if isinstance(row, str) else len(row)
    if count == len(head.text):
        return None
    return f"{count} texts, but the task reads {len(head.text)} ({', '.join(head.text)})"


def fields_of(row: RowLike, number: int, head: TaskHead) -> Mapping[str, Any]:
    """A row under the names of a task's fields.

    Args:
        row: the row.
        number: its number, from 1, for messages.
        head: the task.

    Raises:
        DataError: its texts are more or fewer than the task has.
    """
    if isinstance(row, Mapping):
        return row
    texts = [row] if isinstance(row, str) else list(row)
    if head.writing is not None:
        fields = template_fields(head.writing.prompt or "") or (head.writing.source,)
        if head.writing.choices is not None:
            fields = (*fields, head.writing.choices)
        if head.writing.is_list or head.writing.choices is not None or len(fields) != len(texts):
            given = "a list of messages" if head.writing.is_list else f"the fields {listed(fields)}"
            raise DataError(f"row {number} is a text, but task {head.name!r} reads {given}; give a mapping.")
        return dict(zip(fields, texts, strict=True))
    if len(texts) != len(head.text):
        raise DataError(
            f"row {number} has {len(texts)} texts, but task {head.name!r} reads "
            f"{len(head.text)} ({', '.join(head.text)})."
        )
    return dict(zip(head.text, texts, strict=True))


def texts_of(row: Mapping[str, Any], number: int, head: TaskHead) -> tuple[str, ...]:
    """The texts that a task reads; words in a list are one text, if the task has targets per token.

    Of a task that a language model answers: what its prompt is made of, and the row's own choices.

    Raises:
        DataError: a field is missing, or is no text.
    """
    if head.writing is not None:
        own, where = head.writing.choices, f"row {number}"
        choices = () if own is None else choices_of(row, own, where)
        return (Reader(head.writing).asked(row, where), *choices)
    if KINDS[head.kind].per == "token":
        row = {**row, **{field: joined_words(row[field]) for field in head.text if field in row}}
    return tuple(_text(row, field, number, head.name) for field in head.text)


def _text(row: Mapping[str, Any], field: str, number: int, task: str) -> str:
    if field not in row:
        raise DataError(
            f"row {number} has no field {field!r}, which task {task!r} reads; its fields: "
            f"{listed(row) or 'none'}."
        )
    if not isinstance(row[field], str):
        raise DataError(f"row {number}: field {field!r} is {shown(row[field])}, not a text.")
    return mended(row[field])


def check_list(rows: object) -> None:
    """Refuse a single row where a list of rows is asked for.

    Raises:
        DataError: it is one.
    """
    if isinstance(rows, str | Mapping):
        raise DataError(f"rows is {shown(rows)}, a single row; give a list of rows, such as [row].")


def answered(
    lists: Iterable[Sequence[RowLike]],
    read: Callable[[RowLike, int], Read],
    answer: Callable[[list[Read]], list[dict[str, Any]]],
) -> Iterator[list[dict[str, Any]]]:
    """Answers to lists of rows; those before a bad row come before its error."""
    number = 0
    for rows in lists:
        ready: list[Read] = []
        fault: DataError | None = None
        for row in rows:
            number += 1
            try:
                ready.append(read(row, number))
            except DataError as error:
                fault = error
                break
        if ready:
            yield answer(ready)
        if fault is not None:
            raise fault
