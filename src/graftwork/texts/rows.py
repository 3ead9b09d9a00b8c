"""Rows as people have them, each read as one source (what the prompt is made of) and its answers.

A source is a string: a text, or for chat rows the messages as JSON, so that sources can be hashed, compared
and kept like any other text.
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from graftwork.errors import DataError
from graftwork.messages import listed, mended, shown
from graftwork.texts.template import fill
from graftwork.texts.writing import Writing

__all__ = ["RowReader", "field_text", "messages_of", "with_form"]

Message = dict[str, Any]
Row = Mapping[str, Any]

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "bot": "assistant",
    "system": "system",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
"""Names that rows with `from` and `value` have for the roles of a chat template."""
_AS_TEXT = (int, decimal.Decimal, datetime.date, datetime.time)
"""Values beside floats that a text can name; Parquet files have dates."""


def with_form(writing: Writing, row: Row, where: str) -> Writing:
    """The settings with the form that a row has.

    Args:
        writing: as the recipe gives it.
        row: the first one.
        where: its place, for messages.

    Raises:
        DataError: it has none of the known forms.
    """
    if writing.prompt is not None:
        return replace(writing, form="template")
    for field in dict.fromkeys((writing.source, "messages", "conversations")):
        value = row.get(field)
        if isinstance(value, list):
            turns = any(isinstance(item, Mapping) and "from" in item for item in value)
            form: Any = "conversations" if turns else "messages"
            return replace(writing, form=form, source=field, chat=True)
    if writing.source in row:
        return writing
    if "instruction" in row and writing.source == "text":
        target = "output" if writing.target == "target" and "target" not in row else writing.target
        return replace(writing, form="instruction", source="instruction", target=target)
    raise DataError(
        f"{where} has no field {writing.source!r}; its fields: {listed(row, 20) or 'none'}. Name the field "
        "of the text as text:, or write a prompt: with fields, such as 'Question: {question}'"
    )


class RowReader:
    """Reads rows of one form.

    Args:
        writing: with the form of the rows.
    """

    def __init__(self, writing: Writing) -> None:
        self.writing = writing

    def source(self, row: Row, where: str) -> str:
        """What the prompt of a row is made of.

        Raises:
            DataError: a field is missing, or no text.
        """
        writing = self.writing
        if writing.is_list:
            return _dumped(self._split(row, where)[0])
        return self._text(row, where)

    def asked(self, row: Row, where: str) -> str:
        """The source of a row to be answered: of chat rows all messages, but for an answer at the end.

        Raises:
            DataError: a field is missing, or no text.
        """
        if not self.writing.is_list:
            return self._text(row, where)
        messages = [self._message(item, where) for item in self._list(row, where)]
        before = messages[:-1] if messages[-1]["role"] == "assistant" else messages
        if not before:
            raise DataError(f"{where}: the assistant speaks first, so there is no prompt")
        return _dumped(before)

    def answers(self, row: Row, where: str) -> tuple[str, ...]:
        """The answers of a row that count as right; the first one is learned.

        Raises:
            DataError: it has none, or one that is no text.
        """
        writing = self.writing
        if writing.is_list:
            first = self._split(row, where)[1]
            if first is None:
                raise DataError(f"{where}: no message of the assistant, so there is nothing to learn")
        else:
            first = _answer(row, writing.target, where, writing.references)
        return tuple(dict.fromkeys((first, *self._references(row, where))))

    def _text(self, row: Row, where: str) -> str:
        writing = self.writing
        read = partial(field_text, where=where)
        if writing.form == "template":
            assert writing.prompt is not None
            return fill(writing.prompt, row, read)
        if writing.form == "instruction":
            given = row.get("input")
            more = field_text(row, "input", where) if given is not None else ""
            return read(row, writing.source) + (f"\n\n{more}" if more.strip() else "")
        return read(row, writing.source)

    def _split(self, row: Row, where: str) -> tuple[list[Message], str | None]:
        """The messages before the last one of the assistant, and that one; all of them, if there is none."""
        messages = [self._message(item, where) for item in self._list(row, where)]
        last = max((i for i, item in enumerate(messages) if item["role"] == "assistant"), default=None)
        if last is None:
            return messages, None
        if last == 0:
            raise DataError(f"{where}: the assistant speaks first, so there is no prompt")
        return messages[:last], str(messages[last]["content"])

    def _list(self, row: Row, where: str) -> list[Any]:
        value = row.get(self.writing.source)
        if isinstance(value, str) and value.lstrip().startswith("["):
            try:
                value = json.loads(value)
            except ValueError:
                value = None
        if not isinstance(value, list) or not value:
            raise DataError(
                f"{where}: {self.writing.source!r} is {shown(row.get(self.writing.source))}, not a list of "
                f"messages; its fields: {listed(row, 20) or 'none'}"
            )
        return value

    def _message(self, item: Any, where: str) -> Message:
        keys = ("from", "value") if self.writing.form == "conversations" else ("role", "content")
        if not isinstance(item, Mapping) or not all(isinstance(item.get(key), str) for key in keys):
            raise DataError(
                f"{where}: the message {shown(item)} has not both {keys[0]} and {keys[1]} as texts"
            )
        role, content = item[keys[0]], mended(item[keys[1]])
        if self.writing.form == "messages":
            return {**item, "role": role, "content": content}
        if role not in _ROLES:
            raise DataError(f"{where}: a message is from {shown(role)}; allowed: {', '.join(_ROLES)}")
        return {"role": _ROLES[role], "content": content}

    def _references(self, row: Row, where: str) -> Sequence[str]:
        field = self.writing.references
        if field is None or row.get(field) is None:
            return ()
        value = row[field]
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            raise DataError(f"{where}: {field!r} is {shown(value)}, not a list of texts")
        return [mended(item) for item in value]


def messages_of(source: str) -> list[Message]:
    """The messages of a source of chat rows.

    Raises:
        DataError: it is none; noise in texts breaks it.
    """
    try:
        found = json.loads(source)
    except ValueError:
        found = None
    if not isinstance(found, list):
        raise DataError(
            f"{shown(source)} is no list of messages; noise in texts is for rows of text, not of chats"
        )
    return found


def _dumped(messages: Sequence[Message]) -> str:
    try:
        return json.dumps(messages, ensure_ascii=False, sort_keys=True)
    except TypeError as error:
        raise DataError(f"a message cannot be kept as JSON ({error})") from None


def field_text(row: Row, field: str, where: str) -> str:
    """The text of a field, as it stands in a prompt or a template.

    Numbers are written as Python has them (3.50 in JSON is 3.5), true and false as in JSON.

    Args:
        row: the row.
        field: its field.
        where: its place, for messages.

    Raises:
        DataError: the field is missing, null, no finite number, or a list or a mapping.
    """
    if field not in row:
        raise DataError(f"{where} has no field {field!r}; its fields: {listed(row, 20) or 'none'}")
    value = row[field]
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, _AS_TEXT) or (isinstance(value, float) and math.isfinite(value)):
        try:
            return str(value)
        except ValueError:  # Python writes no whole number of more than 4,300 digits
            pass
    if not isinstance(value, str):
        raise DataError(f"{where}: {field!r} is {shown(value)}, not a text or a number")
    return mended(value)


def _answer(row: Row, field: str, where: str, references: str | None) -> str:
    value = row.get(field)
    if isinstance(value, list):
        hint = (
            "give the one that is learned there, and name the field of all that count as right as references:"
            if references is None
            else "give the one that is learned there"
        )
        raise DataError(f"{where}: the target in {field!r} is a list of {len(value)}; {hint}")
    return field_text(row, field, where)
