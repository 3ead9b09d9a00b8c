"""The words of a text as its tokenizer splits it, and their tags, for tasks with targets per token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from graftwork.data.encoding.framing import Columns, filled
from graftwork.data.encoding.windows import PLACES, token_windows
from graftwork.edges import library_errors
from graftwork.errors import DataError
from graftwork.kinds.heads import TaskHead
from graftwork.kinds.losses import NO_TARGET
from graftwork.kinds.registry import KINDS
from graftwork.kinds.scoring.tags import Word, tag_words
from graftwork.messages import shown

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    from graftwork.data.task_data import Split, TaskData

__all__ = ["encode_words", "tagged_rows", "tags_of_rows", "word_notes"]

CHUNK = 8192
"""Rows per call of the tokenizer."""


def encode_words(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_length: int | None,
    stride: int | None = None,
) -> tuple[Columns, list[list[Word]]]:
    """Tokenise texts, and find the first piece of every word and the characters of the word.

    Args:
        tokenizer: a fast one: its pre-tokenizer says what a word is.
        texts: at least one.
        max_length: tokens kept per row; None: all.
        stride: tokens that neighbouring windows share, if long texts are read in windows; positions are then
            those in the whole text (`graftwork.data.encoding.windows`).

    Raises:
        DataError: the tokenizer cannot say what a word is, or a text has no token at all.
    """
    if stride is not None and max_length is not None:
        columns, found = encode_words(tokenizer, texts, None)
        return token_windows(tokenizer, columns, max_length, stride), found
    if not tokenizer.is_fast:
        raise DataError(
            f"{type(tokenizer).__name__} does not say which words its tokens are of; kind: tokens needs a "
            "fast tokenizer (tokenizer.json)"
        )
    with library_errors(f"{type(tokenizer).__name__} cannot read the texts", DataError):
        encoded = tokenizer(
            list(texts),
            truncation=max_length is not None,
            max_length=max_length,
            padding=False,
            verbose=False,
        )
    parts = encoded.encodings
    assert parts is not None
    words = []
    for text, part in zip(texts, parts, strict=True):
        words.append(list(_words(text, part.word_ids, part.offsets)))
        if len(words[-1]) == 1 and len(text[words[-1][0][1] : words[-1][0][2]].split()) > 1:
            raise DataError(
                f"{type(tokenizer).__name__} takes a text for one word, such as {shown(text)}; kind: tokens "
                "needs a tokenizer that splits texts into words"
            )
    return filled(tokenizer, encoded), words


def _words(text: str, ids: Sequence[int | None], offsets: Sequence[tuple[int, int]]) -> Iterator[Word]:
    """Words with a character that is not blank: some tokenizers count blanks to the word that follows."""
    at = 0
    while at < len(ids):
        first, word = at, ids[at]
        while at < len(ids) and ids[at] == word:
            at += 1
        if word is None:
            continue
        start, end = offsets[first][0], max(stop for _, stop in offsets[first:at])
        while start < end and text[start].isspace():
            start += 1
        while end > start and text[end - 1].isspace():
            end -= 1
        if start < end:
            yield first, start, end


def tagged_rows(
    tokenizer: PreTrainedTokenizerBase, head: TaskHead, rows: Split, part: slice, max_length: int
) -> tuple[Columns, list[list[float]]]:
    """Tokens of some rows, and of each token its tag: that of its word at the first piece, else none."""
    columns, words = encode_words(tokenizer, rows.texts[0][part], max_length, head.stride)
    found = []
    for ids, own, spans in zip(
        columns.get(PLACES, columns["input_ids"]), words, rows.targets[part], strict=True
    ):
        tags = [NO_TARGET] * len(ids)
        for (position, _, _), tag in zip(own, tag_words(spans, own, head.labels), strict=True):
            if tag >= 0:
                tags[position] = float(tag)
        found.append(tags)
    return columns, found


def tags_of_rows(
    tokenizer: PreTrainedTokenizerBase, head: TaskHead, rows: Split, max_length: int
) -> NDArray[Any]:
    """The tags of the words of every row, as indices; those beyond `max_length` are left out."""
    found = []
    for start in range(0, len(rows), CHUNK):
        _, tags = tagged_rows(tokenizer, head, rows, slice(start, start + CHUNK), max_length)
        found += [tuple(int(tag) for tag in row if tag >= 0) for row in tags]
    return KINDS[head.kind].column(found)


def word_notes(
    tokenizer: PreTrainedTokenizerBase, data: TaskData, max_length: int, splits: Sequence[str] = ()
) -> list[str]:
    """What is not learned or scored as the rows have it: cut rows, and spans that end inside a word.

    Args:
        tokenizer: of the backbone.
        data: a task of any kind; of those without targets per token nothing is said.
        max_length: tokens of a row.
        splits: which; default all.
    """
    head, notes = data.head, []
    if KINDS[head.kind].per != "token":
        return []
    for name in splits or data.splits:
        rows = data.splits[name]
        cut = lost = moved = 0
        for start in range(0, len(rows), CHUNK):
            texts, targets = rows.texts[0][start : start + CHUNK], rows.targets[start : start + CHUNK]
            _, words = encode_words(tokenizer, texts, None)
            _, kept = encode_words(tokenizer, texts, max_length, head.stride)
            for own, left, spans in zip(words, kept, targets, strict=True):
                end = left[-1][2] if left else 0
                cut += len(left) < len(own)
                lost += sum(stop > end for _, stop, _ in spans) if len(left) < len(own) else 0
                starts, ends = {word[1] for word in own}, {word[2] for word in own}
                moved += sum(first not in starts or stop not in ends for first, stop, _ in spans)
        what = f"{name} of task {head.name!r}"
        if cut:
            notes.append(
                f"{what}: {cut:,} of {len(rows):,} rows are longer than {max_length} tokens; what is beyond, "
                f"{lost:,} spans or parts of them, is neither learned nor scored (training.max_length)."
            )
        if moved:
            notes.append(
                f"{what}: {moved:,} spans begin or end inside a word of the tokenizer; "
                "they count as whole words."
            )
    return notes
