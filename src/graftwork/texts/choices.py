"""The texts that a row may choose from, and which of them is the right one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graftwork.errors import DataError
from graftwork.messages import listed, mended, shown

if TYPE_CHECKING:
    from graftwork.texts.rendering import Renderer

__all__ = ["choice_tokens", "choices_of", "right_choices"]


def choices_of(row: Mapping[str, Any], field: str, where: str) -> tuple[str, ...]:
    """The choices of a row in their order, stripped; a text may hold them as a JSON list.

    Args:
        row: the row.
        field: that they are in.
        where: the place of the row, for messages.

    Raises:
        DataError: there is no such field, or not two or more different texts or whole numbers in it.
    """
    if field not in row:
        raise DataError(f"{where} has no field {field!r}; its fields: {listed(row, 20) or 'none'}")
    value = row[field]
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            value = row[field]
    if not isinstance(value, list | tuple):
        raise DataError(f"{where}: {field!r} is {shown(value)}, not a list of texts to choose from")
    for item in value:
        if isinstance(item, bool) or not isinstance(item, str | int):
            raise DataError(f"{where}: {field!r} has {shown(item)}, which is no text to choose")
    found = tuple(mended(str(item)).strip() for item in value)
    if not all(found):
        raise DataError(f"{where}: {field!r} has an empty text, which cannot be chosen")
    if len(found) < 2:
        raise DataError(f"{where}: {field!r} has {len(found)} texts to choose from; give two or more")
    twice = next((text for text in found if found.count(text) > 1), None)
    if twice is not None:
        raise DataError(f"{where}: {field!r} has {shown(twice)} twice; give every choice once")
    return found


def right_choices(
    values: Sequence[Any], choices: Sequence[Sequence[str]], field: str, places: Sequence[str]
) -> list[str]:
    """The right choice of every row, each given as its text or as its place, from 0.

    A column is read in one way: as texts, if each is among the choices of its row, else as places. Whole
    numbers of JSON are places.

    Args:
        values: of the field of labels.
        choices: of every row.
        field: that the values are in, for messages.
        places: of the rows, for messages.

    Raises:
        DataError: a value is neither, or the two readings differ for numbers.
    """
    texts, counted = [_text(value) for value in values], [_place(value) for value in values]
    numbers = all(isinstance(value, int) for value in values)
    named = all(text in own for text, own in zip(texts, choices, strict=True))
    inside = [
        place if place is not None and 0 <= place < len(own) else None
        for place, own in zip(counted, choices, strict=True)
    ]
    if named and not (numbers and None not in inside):
        return texts
    found = []
    for value, own, text, place, where in zip(values, choices, texts, inside, places, strict=True):
        if place is None and text not in own:
            raise DataError(
                f"{where}: {field!r} is {shown(value)}, which is neither one of the row's choices "
                f"({listed(own, 6)}) nor the place of one, from 0 to {len(own) - 1}"
            )
        if place is not None and named and own[place] != text:
            raise DataError(
                f"{where}: {field!r} is {shown(value)}, which is one of the row's choices ({listed(own, 6)}) "
                "and the place of another; give the right ones as texts, not as numbers"
            )
        found.append(place)
    if None in found:
        where, value = next((places[row], values[row]) for row, place in enumerate(found) if place is None)
        raise DataError(
            f"{where}: {field!r} is {shown(value)}, a text, but in other rows the place of the right choice; "
            "give all of them in one way"
        )
    return [own[place] for place, own in zip(found, choices, strict=True) if place is not None]


def _text(value: Any) -> str:
    return mended(value).strip() if isinstance(value, str) else str(value)


def _place(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    text = value.strip() if isinstance(value, str) else ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else None


def choice_tokens(
    renderer: Renderer, task: str, sources: Sequence[str], choices: Sequence[Sequence[str]]
) -> tuple[list[list[int]], list[list[list[int]]]]:
    """The tokens of prompts, and of every row's choices, each with the token that ends it.

    Of a prompt that is too long the end is kept, which asks.

    Args:
        renderer: of the task.
        task: its name, for messages.
        sources: what the prompts are made of.
        choices: of every row.

    Raises:
        DataError: a choice is as long as a row may be, or two of a row are the same tokens.
    """
    limit = renderer.writing.max_length
    asked = [source for source, own in zip(sources, choices, strict=True) for _ in own]
    texts = [text for own in choices for text in own]
    replies = iter(renderer.replies(asked, texts))
    found, prompts = [], []
    for prompt, own in zip(renderer.prompts(sources), choices, strict=True):
        tokens = [next(replies) for _ in own]
        long = next((text for text, ids in zip(own, tokens, strict=True) if len(ids) >= limit), None)
        if long is not None:
            raise DataError(
                f"task {task!r}: the choice {shown(long)} has {limit} tokens or more, as many as a row may "
                "have; raise max_length of the task"
            )
        known: dict[tuple[int, ...], str] = {}
        for text, ids in zip(own, tokens, strict=True):
            other = known.setdefault(tuple(ids), text)
            if other != text:
                raise DataError(
                    f"task {task!r}: {shown(other)} and {shown(text)} are the same tokens to "
                    f"{type(renderer.tokenizer).__name__}, so that no model could choose; write one of them "
                    "in other words"
                )
        prompts.append(prompt[-(limit - max(map(len, tokens))) :])
        found.append(tokens)
    return prompts, found
