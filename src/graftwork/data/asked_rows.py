"""Rows to predict: which texts of a row a task reads."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graftwork.data.images.row_image import RowImage, is_image
from graftwork.data.splits import joined_words
from graftwork.errors import DataError
from graftwork.kinds.heads import TaskHead
from graftwork.kinds.registry import KINDS
from graftwork.messages import listed, mended, shown

__all__ = ["RowLike", "check_row", "fields_of", "lacking", "texts_of"]

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


def lacking(row: RowLike, head: TaskHead) -> str | None:
    """What a row lacks to be read by a task; None if it has its fields, or as many texts."""
    if isinstance(row, Mapping):
        absent = [field for field in head.text if field not in row]
        return f"no field {absent[0]!r}" if absent else None
    count = 1 if _is_single(row) else len(row)
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
    texts = [row] if _is_single(row) else list(row)
    if len(texts) != len(head.text):
        raise DataError(
            f"row {number} has {len(texts)} texts, but task {head.name!r} reads "
            f"{len(head.text)} ({', '.join(head.text)})."
        )
    return dict(zip(head.text, texts, strict=True))


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

    Raises:
        DataError: a field is missing, or is no text, or no image.
    """
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
    _check_field(row, field, number, task)
    if not isinstance(row[field], str):
        raise DataError(f"row {number}: field {field!r} is {shown(row[field])}, not a text.")
    return mended(row[field])
