"""Rows to predict: which texts of a row a task reads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from graftwork.data.images.reader import ImageReader
from graftwork.data.images.row_image import RowImage, is_image
from graftwork.data.splits import joined_words
from graftwork.data.targets.words import encode_words
from graftwork.data.tokens import encode
from graftwork.errors import DataError
from graftwork.kinds.heads import TaskHead
from graftwork.kinds.registry import KINDS
from graftwork.kinds.scoring.tags import Word
from graftwork.messages import listed, mended, shown
from graftwork.texts.choices import choices_of
from graftwork.texts.rows import RowReader, field_text
from graftwork.texts.template import fill_text, is_template, template_fields, unmarked

if TYPE_CHECKING:
    from graftwork.data.images.reader import InputReader

__all__ = [
    "RowLike",
    "answered",
    "check_list",
    "check_row",
    "encode_rows",
    "fields_of",
    "lacking",
    "texts_of",
]

Read = TypeVar("Read")
RowLike = Mapping[str, Any] | str | Sequence[str] | Any
"""A row to predict: a mapping with the fields of its task, or its text, or its pair of texts, or its image:
the path of one, or an image of Pillow."""


def check_row(row: object, number: int) -> None:
    """Refuse what is no row.

    Raises:
        DataError: it is neither a text, nor a pair of texts, nor a mapping.
    """
    if not isinstance(row, Mapping | list | tuple) and not _is_single(row):
        raise DataError(f"row {number} is {shown(row)}, not a text, a pair of texts or an object of fields.")


def _is_single(row: object) -> bool:
    """Whether a row is one text, or one image or the path of it."""
    return isinstance(row, str | os.PathLike) or is_image(row)


def task_of(row: RowLike, number: int, task: str | None, names: Sequence[str]) -> str:
    """The task of a row: the given one, its own, or the only one there is.

    Args:
        row: the row.
        number: its number, from 1, for messages.
        task: of all rows, if it is given.
        names: the tasks of the model.

    Raises:
        DataError: it has none, or an unknown one.
    """
    own = row.get("task") if isinstance(row, Mapping) else None
    name = task or own or (names[0] if len(names) == 1 else None)
    if name is None:
        raise DataError(
            f"row {number} names no task; pass --task (in Python task=) or give each row a field `task` "
            f"({', '.join(names)})."
        )
    if not isinstance(name, str) or name not in names:
        raise DataError(f"unknown task {shown(name)} (row {number}); the model has {', '.join(names)}.")
    return name


def lacking(row: RowLike, head: TaskHead) -> str | None:
    """What a row lacks to be read by a task; None if it has its fields, or as many texts."""
    if isinstance(row, Mapping):
        absent = [field for field in head.fields if field not in row]
        return f"no field {absent[0]!r}" if absent else None
    count = 1 if _is_single(row) else len(row)
    if count == len(head.fields):
        return None
    return f"{count} texts, but the task reads {len(head.fields)} ({', '.join(head.fields)})"


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
    texts = [row] if _is_single(row) else list(row)
    if head.writing is not None:
        fields = template_fields(head.writing.prompt or "") or (head.writing.source,)
        if head.writing.choices is not None:
            fields = (*fields, head.writing.choices)
        if head.writing.is_list or head.writing.choices is not None or len(fields) != len(texts):
            given = "a list of messages" if head.writing.is_list else f"the fields {listed(fields)}"
            raise DataError(f"row {number} is a text, but task {head.name!r} reads {given}; give a mapping.")
        return dict(zip(fields, texts, strict=True))
    if len(texts) != len(head.fields):
        raise DataError(
            f"row {number} has {len(texts)} texts, but task {head.name!r} reads "
            f"{len(head.fields)} ({', '.join(head.fields)})."
        )
    return dict(zip(head.fields, texts, strict=True))


def texts_of(
    row: Mapping[str, Any], number: int, head: TaskHead, folder: Path | None = None
) -> tuple[str, ...]:
    """The texts that a task reads, or the image.

    Words in a list are one text, if the task has targets per token.

    Args:
        row: its fields.
        number: its number, from 1, for messages.
        head: the task.
        folder: where relative paths of images are looked for first.

    Of a task that a language model answers: what its prompt is made of, and the row's own choices.

    Raises:
        DataError: a field is missing, or is no text, or no image.
    """
    if head.writing is not None:
        own, where = head.writing.choices, f"row {number}"
        choices = () if own is None else choices_of(row, own, where)
        return (RowReader(head.writing).asked(row, where), *choices)
    if head.reads == "image":
        return (_image(row, head.text[0], number, head.name, folder),)
    if KINDS[head.kind].per == "token":
        row = {**row, **{field: joined_words(row[field]) for field in head.text if field in row}}
    return tuple(_text(row, field, number, head.name) for field in head.text)


def _image(row: Mapping[str, Any], field: str, number: int, task: str, folder: Path | None) -> RowImage:
    _check_field(row, field, number, task)
    try:
        return RowImage.read(row[field], folder)
    except ValueError as error:
        raise DataError(f"row {number}: the image in {field!r} {error}.") from None


def _check_field(row: Mapping[str, Any], field: str, number: int, task: str) -> None:
    if field not in row:
        raise DataError(
            f"row {number} has no field {field!r}, which task {task!r} reads; its fields: "
            f"{listed(row) or 'none'}."
        )


def _text(row: Mapping[str, Any], field: str, number: int, task: str) -> str:
    """The text in a field, or that of a template."""
    if is_template(field):
        return fill_text(field, row, partial(field_text, where=f"row {number} of task {task!r}"))
    _check_field(row, field, number, task)
    if not isinstance(row[field], str):
        raise DataError(f"row {number}: field {field!r} is {shown(row[field])}, not a text.")
    return unmarked(mended(row[field]))


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


def encode_rows(
    tokenizer: InputReader,
    rows: Sequence[tuple[tuple[str, ...], Sequence[TaskHead]]],
    max_length: int,
) -> tuple[list[dict[str, Any]], dict[int, list[Word]]]:
    """Token lists of rows, with one call of the tokenizer for single texts, one for pairs, one for words.

    Args:
        tokenizer: the backbone's.
        rows: the texts of each, and the tasks that read them, all with the same `stride`.
        max_length: tokens kept per row.

    Returns:
        The tokens, and by their place the words of rows that a task with targets per token reads.
    """
    tokens: list[dict[str, Any]] = [{} for _ in rows]
    words: dict[int, list[Word]] = {}
    groups: dict[tuple[int, int | None, bool], list[int]] = {}
    for index, (texts, heads) in enumerate(rows):
        per_token = any(KINDS[head.kind].per == "token" for head in heads)
        # All tasks of a row read it in one way.
        way = (0 if per_token else len(texts), heads[0].stride, heads[0].separate)
        groups.setdefault(way, []).append(index)
    for (count, stride, separate), members in groups.items():
        columns = list(zip(*(rows[index][0] for index in members), strict=True))
        if count:
            encoded = encode(tokenizer, columns, max_length, stride, separate=separate)
        else:
            assert not isinstance(tokenizer, ImageReader)  # `Task` refuses images for such kinds
            encoded, found = encode_words(tokenizer, columns[0], max_length, stride)
            words |= dict(zip(members, found, strict=True))
        for place, index in enumerate(members):
            tokens[index] = {name: values[place] for name, values in encoded.items()}
    return tokens, words
