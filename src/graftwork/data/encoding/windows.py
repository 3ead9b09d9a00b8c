"""Windows: a text of more tokens than a model reads becomes several rows of one pass, which overlap.

A row of a table holds its windows one after another: `input_ids` and the other columns of the tokenizer are
those of all its windows, `windows` has their lengths. Of a task with targets per token, `places` says where
among these tokens each token of the whole text is read: where it stands furthest from a cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import torch

from graftwork.data.encoding.framing import (
    Columns,
    Frame,
    filled,
    frame_of,
    ids_of,
    ids_of_parts,
    without_special,
)
from graftwork.edges import library_errors
from graftwork.errors import DataError
from graftwork.texts.template import parts_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "PLACES",
    "WINDOWS",
    "encode_texts",
    "in_batches",
    "pad_windows",
    "token_windows",
    "window_count",
]

WINDOWS, PLACES = "windows", "places"
Row = dict[str, list[int]]


def encode_texts(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Sequence[str]],
    max_length: int,
    stride: int | None = None,
) -> Columns:
    """Tokenise rows of which some were made by templates, or are to be cut into windows.

    Args:
        tokenizer: of the backbone.
        rows: the texts of each: one, or two of a pair.
        max_length: tokens of a row, or of a window.
        stride: tokens that neighbouring windows share; None: what is beyond `max_length` is cut.

    Raises:
        DataError: texts cannot be read, or `stride` leaves too little of a window.
    """
    if len(rows[0]) > 1:
        columns = [
            without_special(tokenizer, [" ".join(parts_of(text) or [text]) for text in column])
            for column in zip(*rows, strict=True)
        ]
        with library_errors(f"{type(tokenizer).__name__} cannot read the texts", DataError):
            encoded = tokenizer(
                *columns, truncation=True, max_length=max_length, padding=False, split_special_tokens=True
            )
        return filled(tokenizer, encoded)
    frame = frame_of(tokenizer)
    room, left = _room(frame, max_length), tokenizer.truncation_side == "left"
    parts = [parts_of(text) for (text,) in rows]
    made = iter(ids_of_parts(tokenizer, [own for own in parts if own is not None]))
    plain = iter(ids_of(tokenizer, [text for (text,), own in zip(rows, parts, strict=True) if own is None]))
    heads, framed = [], []
    for own in parts:
        head, body = ([], next(plain)) if own is None else next(made)
        ids = [*head, *body]
        if stride is None:
            ids = ids[-room:] if left else ids[:room]
        heads.append(len(head))
        framed.append(frame.around(ids))
    found = _columns(tokenizer, framed)
    if stride is None:
        return found
    return _columns(
        tokenizer,
        [
            cut_windows(_row(found, line), frame, max_length, stride, head=head)
            for line, head in enumerate(heads)
        ],
    )


def _row(columns: Columns, line: int) -> Row:
    return {name: values[line] for name, values in columns.items()}


def _columns(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> Columns:
    return filled(tokenizer, {name: [row[name] for row in rows] for name in rows[0]})


def token_windows(
    tokenizer: PreTrainedTokenizerBase, columns: Columns, max_length: int, stride: int
) -> Columns:
    """Rows of whole texts as windows, with the places of their tokens."""
    frame = frame_of(tokenizer)
    rows = range(len(columns["input_ids"]))
    return _columns(
        tokenizer,
        [cut_windows(_row(columns, line), frame, max_length, stride, placed=True) for line in rows],
    )


def _room(frame: Frame, max_length: int) -> int:
    room = max_length - frame.starts - frame.ends
    if room < 1:
        raise DataError(
            f"max_length is {max_length}, which the {frame.starts + frame.ends} special tokens of a row "
            "fill; give more"
        )
    return room


def cut_windows(
    row: Row, frame: Frame, max_length: int, stride: int, *, head: int = 0, placed: bool = False
) -> Row:
    """One row as windows.

    All windows are equally long: the last one ends with the text, and shares more with the one before it. The
    first `head` tokens are in every window, unless they would take more than half of it: then the windows go
    over all tokens.

    Args:
        row: columns of the tokens of the whole text, with its special tokens.
        frame: these.
        max_length: tokens of a window.
        stride: tokens that neighbouring windows share.
        head: tokens at the beginning of the text that every window has.
        placed: say where each token of the row is, too.

    Raises:
        DataError: they would share half of a window or more.
    """
    room, total = _room(frame, max_length), len(row["input_ids"])
    if stride > (room - 1) // 2:
        raise DataError(
            f"stride is {stride}, but windows of {max_length} tokens ({room} beside the special ones) may "
            f"share {(room - 1) // 2} at most; give less, or a larger max_length"
        )
    if total <= max_length:
        return {**row, WINDOWS: [total], **({PLACES: list(range(total))} if placed else {})}
    fixed = frame.starts + (head if head <= room // 2 else 0)
    size, end = max_length - fixed - frame.ends, total - frame.ends
    starts = list(range(fixed, end - stride, size - stride))
    starts[-1] = end - size
    kept = [[*range(fixed), *range(start, start + size), *range(end, total)] for start in starts]
    cut = {name: [values[place] for window in kept for place in window] for name, values in row.items()}
    cut[WINDOWS] = [max_length] * len(starts)
    if not placed:
        return cut
    places = list(range(fixed))
    for token in range(fixed, end):
        at = (token - fixed) // (size - stride)
        near = {max(at - 1, 0), min(at, len(starts) - 1), len(starts) - 1}
        holding = [window for window in sorted(near) if starts[window] <= token < starts[window] + size]
        best = max(holding, key=lambda window: _apart(token, starts[window], size, fixed, end))
        places.append(best * max_length + fixed + token - starts[best])
    places += range(len(starts) * max_length - frame.ends, len(starts) * max_length)
    return {**cut, PLACES: places}


def _apart(token: int, start: int, size: int, first: int, end: int) -> int:
    """Tokens between this one and the nearest cut; an end of the text is none."""
    before = token - start if start > first else end
    behind = start + size - 1 - token if start + size < end else end
    return min(before, behind)


def window_count(row: Mapping[str, Any]) -> int:
    """Windows of a row; 1 of a row that has none."""
    return max(1, len(row.get(WINDOWS) or ()))


def in_batches(order: Sequence[int], counts: Sequence[int], most: int) -> Iterator[list[int]]:
    """Rows in their order, as many in a batch as have `most` windows together, but at least one.

    Args:
        order: rows.
        counts: windows of every row, by its number.
        most: windows of a batch.
    """
    batch: list[int] = []
    held = 0
    for row in order:
        if batch and held + counts[row] > most:
            yield batch
            batch, held = [], 0
        batch.append(row)
        held += counts[row]
    if batch:
        yield batch


def pad_windows(
    features: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    pad: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
) -> dict[str, Tensor]:
    """The windows of all rows as rows of one batch, and which of them belong to which row.

    Args:
        features: rows, as `encode_texts` or `token_windows` give them.
        names: columns of the tokenizer.
        pad: pads windows; it is given what else a row has with each of them.

    Returns:
        The padded windows [windows, positions]; `windows` [rows, most windows], the places of those of a row,
        and `places` [rows, most tokens], where among all positions each token of a row is; -1 for none.
    """
    pieces: list[dict[str, Any]] = []
    bounds = []
    windows: list[list[int]] = []
    for feature in features:
        lengths = feature.get(WINDOWS) or [len(feature["input_ids"])]
        bounds.append(list(pairwise([0, *accumulate(lengths)])))
        windows.append(list(range(len(pieces), len(pieces) + len(lengths))))
        other = {name: value for name, value in feature.items() if name not in (WINDOWS, PLACES)}
        pieces += [
            {**other, **{name: feature[name][start:stop] for name in names if name in feature}}
            for start, stop in bounds[-1]
        ]
    batch = pad(pieces)
    width = batch["input_ids"].shape[1]
    places = []
    for feature, mine, spans in zip(features, windows, bounds, strict=True):
        flat = [
            window * width + offset
            for window, (start, stop) in zip(mine, spans, strict=True)
            for offset in range(stop - start)
        ]
        own = feature.get(PLACES) or range(spans[0][1])
        places.append([flat[place] for place in own])
    return {**batch, WINDOWS: _ragged(windows), PLACES: _ragged(places)}


def _ragged(rows: Sequence[Sequence[int]]) -> Tensor:
    most = max(map(len, rows))
    return torch.tensor([[*row, *[-1] * (most - len(row))] for row in rows], dtype=torch.long)
