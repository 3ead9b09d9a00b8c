"""What a tokenizer puts around a text, and texts of several parts as tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graftwork.edges import library_errors
from graftwork.errors import DataError
from graftwork.texts.template import SEPARATOR

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Columns", "Frame", "filled", "frame_of", "ids_of", "ids_of_parts", "without_special"]

Columns = dict[str, list[list[int]]]
_PROBES = ("a", "0", "text", ".")
"""Texts by which the special tokens around a text are found; one of them has a token in any tokenizer."""


@dataclass(frozen=True)
class Frame:
    """The special tokens that a tokenizer puts around one text, in all of its columns."""

    before: Mapping[str, list[int]]
    after: Mapping[str, list[int]]
    inside: Mapping[str, int]
    """What the columns beside `input_ids` have at the tokens of the text."""

    @property
    def starts(self) -> int:
        """Special tokens before the text."""
        return len(self.before["input_ids"])

    @property
    def ends(self) -> int:
        """Special tokens after it."""
        return len(self.after["input_ids"])

    def around(self, ids: Sequence[int]) -> dict[str, list[int]]:
        """The tokens of a text as a row."""
        found = {"input_ids": list(ids), **{name: [value] * len(ids) for name, value in self.inside.items()}}
        return {name: [*self.before[name], *values, *self.after[name]] for name, values in found.items()}


def frame_of(tokenizer: PreTrainedTokenizerBase) -> Frame:
    """What a tokenizer puts around a text.

    Raises:
        DataError: it does not put the same around every text.
    """
    for text in _PROBES:
        bare = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        whole = {name: list(values) for name, values in tokenizer(text).items()}
        ids = whole["input_ids"]
        places = [i for i in range(len(ids)) if bare and ids[i : i + len(bare)] == bare]
        if places:
            start, stop = places[0], places[0] + len(bare)
            return Frame(
                {name: values[:start] for name, values in whole.items()},
                {name: values[stop:] for name, values in whole.items()},
                {name: values[start] for name, values in whole.items() if name != "input_ids"},
            )
    raise DataError(
        f"{type(tokenizer).__name__} does not put special tokens around a text in a way that is known; use "
        "one text field, and neither a template nor stride"
    )


def filled(tokenizer: PreTrainedTokenizerBase, encoded: Mapping[str, Any]) -> Columns:
    """What a tokenizer gives, as columns; a row without any token gets one, since models need it.

    Tokenizers without special tokens turn an empty text into no token at all.
    """
    columns = {name: list(values) for name, values in encoded.items()}
    if not all(columns["input_ids"]):
        blank = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else 0
        for name, values in columns.items():
            fill = {"input_ids": blank, "attention_mask": 1}.get(name, 0)
            columns[name] = [value or [fill] for value in values]
    return columns


def ids_of(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], **options: Any) -> list[list[int]]:
    """The tokens of texts, all of them, without special tokens around them."""
    if not texts:
        return []
    with library_errors(f"{type(tokenizer).__name__} cannot read the texts", DataError):
        found = tokenizer(
            list(texts), add_special_tokens=False, padding=False, truncation=False, verbose=False, **options
        )
    return [list(ids) for ids in found["input_ids"]]


def ids_of_parts(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[str]]
) -> list[tuple[list[int], list[int]]]:
    """The tokens of texts of several parts, the separator token between them.

    Args:
        tokenizer: of the backbone.
        rows: the parts of every text. Nothing in them becomes a special token.

    Returns:
        Of every row the tokens up to the last separator and with it, and those after it.

    Raises:
        DataError: a row has several parts, and the tokenizer has no separator token.
    """
    separator: Any = tokenizer.sep_token_id
    if separator is None and any(len(parts) > 1 for parts in rows):
        raise DataError(
            f"{type(tokenizer).__name__} has no separator token for the {SEPARATOR} of a template; write "
            "another sign there, such as a line break"
        )
    texts = without_special(tokenizer, [part for parts in rows for part in parts])
    flat = iter(ids_of(tokenizer, texts, split_special_tokens=True))
    found = []
    for parts in rows:
        *first, last = (next(flat) for _ in parts)
        found.append(([token for ids in first for token in (*ids, int(separator))], last))
    return found


def without_special(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[str]:
    """Texts with a blank inside of what reads as a special token.

    Tokenizers that are told not to look for special tokens (`split_special_tokens`) may still have them as
    words of their vocabulary.
    """
    names = sorted({str(name) for name in tokenizer.all_special_tokens if len(str(name)) > 1})
    if not names:
        return list(texts)
    inside = re.compile("|".join(f"(?<={re.escape(name[0])})(?={re.escape(name[1:])})" for name in names))
    return [inside.sub(" ", text) for text in texts]
