"""From the rows of several tasks to tensors: tokenise once, pad, collate; of images, pixels by the batch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from graftwork.data.encoding.cache import load_table, store_table
from graftwork.data.encoding.framing import filled
from graftwork.data.encoding.settings import check_together
from graftwork.data.encoding.windows import PLACES, WINDOWS, encode_texts, pad_windows, window_count
from graftwork.data.images.reader import ImageReader
from graftwork.data.images.row_image import as_stored, image_type, open_image
from graftwork.data.pairs.second import (
    SECOND_IDS,
    add_empty_,
    both,
    pad_both,
    separate_modes,
    sequences,
    two_lengths,
)
from graftwork.data.targets.words import tagged_rows
from graftwork.data.targets.written import TRAINED, written_tokens
from graftwork.data.task import SPLITS
from graftwork.data.task_data import Split, TaskData
from graftwork.edges import library_errors
from graftwork.errors import DataError
from graftwork.kinds.heads import TaskHead
from graftwork.kinds.losses import NO_TARGET
from graftwork.kinds.registry import KINDS
from graftwork.texts.template import is_template, parts_of

if TYPE_CHECKING:
    import pyarrow  # type: ignore[import-untyped]
    from datasets import Dataset
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    from graftwork.data.images.reader import InputReader

__all__ = [
    "collate",
    "encode",
    "learned",
    "longest_first",
    "pad",
    "row_length",
    "row_lengths",
    "tokenise",
    "tokenizer_identity",
]

CHUNK = 8192
"""Rows per call of the tokenizer, which bounds the memory of its lists of integers."""

_FORMAT = 1  # of the cache files; part of their names


def tokenise(
    datas: Sequence[TaskData],
    tokenizer: InputReader,
    max_length: int,
    cache_dir: str | Path | None,
    splits: Sequence[str] = SPLITS,
) -> dict[str, Dataset]:
    """Tokenise all tasks, one dataset per split, and keep the result on disk.

    Columns: those of the tokenizer (`input_ids`, `attention_mask`, perhaps `token_type_ids`), `labels`
    (class index, or `(score - mean) / std`; lists if a task has several targets per row) and `graft_rows`
    (index of the task in `datas`). If a language model itself answers a task, there is also `trained`, 1 for
    tokens that are learned; rows of such a task that have none are left out. Images are a column `image` of
    paths, which needs no cache. If a task reads two texts separately, the second has columns of its own
    (`graftwork.data.pairs.second`); of tasks with `stride` there are the columns of
    `graftwork.data.encoding.windows`, too.
    The cache is keyed by the tokenizer, the content and `max_length`. Files are written under a temporary
    name and renamed, so that concurrent runs can share a folder.

    Args:
        datas: The tasks, in the order that numbers them.
        tokenizer: The backbone's tokenizer.
        max_length: Tokens kept per row; of a pair the longer text is cut first.
        cache_dir: Folder of the cache, made if absent; None keeps nothing. One that cannot be written is
            passed over with a note: the cache only saves time.
        splits: Which of them.

    Raises:
        DataError: texts cannot be read; or a task has windows beside one that a language model answers.
    """
    from datasets import Dataset

    check_together([data.head for data in datas])
    if isinstance(tokenizer, ImageReader):
        return {split: Dataset(_table(datas, split, tokenizer, max_length)) for split in splits}
    identity = tokenizer_identity(tokenizer)
    result = {}
    for split in splits:
        scale = [_learned_as(data, split) for data in datas]
        modes = separate_modes([data.head for data in datas])
        key = _digest(_FORMAT, identity, max_length, scale, *_writing(datas, tokenizer), *modes)
        file = Path(cache_dir) / f"tokens-{split}-{key[:32]}.arrow" if cache_dir is not None else None
        cached = load_table(file) if file is not None else None
        if cached is None:
            table = _table(datas, split, tokenizer, max_length)
            cached = Dataset(table)
            if file is not None:
                store_table(table, file)
        result[split] = cached
    return result


def encode(
    tokenizer: InputReader,
    columns: Sequence[Sequence[str]],
    max_length: int,
    stride: int | None = None,
    *,
    separate: bool = False,
) -> dict[str, list[Any]]:
    """Tokenise one column of texts, or two of pairs, in one call and without padding.

    With `stride` a longer text becomes several windows (`graftwork.data.encoding.windows`). Pairs that are
    read separately become two sequences, each of up to `max_length` tokens. Images stay as they are, in a
    column `image`: pixels are made for one batch at a time (`pad`).
    """
    if separate:
        return both(*(encode(tokenizer, [column], max_length) for column in columns))
    if isinstance(tokenizer, ImageReader):
        return {"image": list(columns[0])}
    if stride is not None or any(parts_of(text) is not None for column in columns for text in column):
        return encode_texts(tokenizer, list(zip(*columns, strict=True)), max_length, stride)
    with library_errors(f"{type(tokenizer).__name__} cannot read the texts", DataError):
        encoded = tokenizer(*map(list, columns), truncation=True, max_length=max_length, padding=False)
    return filled(tokenizer, encoded)


def row_lengths(dataset: Dataset) -> NDArray[np.int64]:
    """Return the number of tokens of every row, without reading the rows; images count as one.

    Of two texts that are read separately the longer one counts: both are padded to it.
    """
    import pyarrow.compute  # type: ignore[import-untyped]

    if "input_ids" not in dataset.column_names:
        return np.ones(len(dataset), dtype=np.int64)
    column = dataset.data.column("input_ids")
    lengths = np.asarray(pyarrow.compute.list_value_length(column).to_numpy(), dtype=np.int64)
    return two_lengths(dataset, lengths)


def row_length(row: Mapping[str, Any]) -> int:
    """The number of tokens of one row, as `row_lengths` counts."""
    return max(len(row["input_ids"]), len(row.get(SECOND_IDS, ()))) if "input_ids" in row else 1


def longest_first(dataset: Dataset) -> Dataset:
    """Return the same rows by falling length, so that batches in their order need little padding."""
    return dataset.select(np.argsort(-row_lengths(dataset), kind="stable"))


def pad(tokenizer: InputReader, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Pad token lists to the longest, on the right whatever side the tokenizer pads; images become pixels.

    Positions that a model counts from the first column are then those of the row alone, and a causal model
    never reads padding. A tokenizer without a pad token pads with its end-of-text token. Windows of a row
    become rows of their own, and `windows` and `places` say which (`pad_windows`).

    Raises:
        DataError: The tokenizer has neither.
    """
    if isinstance(tokenizer, ImageReader):
        return {"pixel_values": tokenizer.pixels([open_image(feature["image"]) for feature in features])}
    if any(window_count(feature) > 1 for feature in features):
        return pad_windows(features, tokenizer.model_input_names, lambda pieces: pad(tokenizer, pieces))
    if any(sequences(feature) > 1 for feature in features):
        return pad_both(features, lambda texts: pad(tokenizer, texts))
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise DataError(
                f"{type(tokenizer).__name__} has no pad and no end-of-text token; set tokenizer.pad_token"
            )
        tokenizer.pad_token = tokenizer.eos_token
    names = [name for name in tokenizer.model_input_names if name in features[0]]
    columns = {name: [feature[name] for feature in features] for name in names}
    if "attention_mask" in names and len({len(row) for row in columns["input_ids"]}) == 1:
        # Nothing to pad, as for one row: the tokenizer would take longer than everything else together.
        return {name: torch.tensor(rows, dtype=torch.long) for name, rows in columns.items()}
    # The hint that padding while tokenising is faster does not hold for batches drawn at random.
    quiet = tokenizer.deprecation_warnings.get("Asking-to-pad-a-fast-tokenizer", False)
    tokenizer.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] = True
    try:
        return dict(tokenizer.pad(columns, padding=True, padding_side="right", return_tensors="pt"))
    finally:
        tokenizer.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] = quiet


def collate(
    tokenizer: InputReader,
) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, torch.Tensor]]:
    """Make a collator: the padded inputs, `labels` [B] float32 and `graft_rows` [B] int64.

    Of rows with several targets `labels` is [B, W], padded with `graftwork.kinds.losses.NO_TARGET`.
    """

    def collator(features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        batch = pad(tokenizer, features)
        if TRAINED in features[0]:
            longest = batch["input_ids"].shape[1]
            padded = [[*row[TRAINED], *[0] * (longest - len(row[TRAINED]))] for row in features]
            batch[TRAINED] = torch.tensor(padded, dtype=torch.long)
        batch["labels"] = _stacked([feature["labels"] for feature in features])
        batch["graft_rows"] = torch.tensor([feature["graft_rows"] for feature in features], dtype=torch.int64)
        return batch

    return collator


def _stacked(targets: Sequence[float | Sequence[float]]) -> torch.Tensor:
    if not any(isinstance(row, Sequence) for row in targets):
        return torch.tensor(targets, dtype=torch.float32)
    rows = [list(row) if isinstance(row, Sequence) else [row] for row in targets]
    width = max(map(len, rows))
    return torch.tensor([row + [NO_TARGET] * (width - len(row)) for row in rows], dtype=torch.float32)


def _learned_as(data: TaskData, split: str) -> tuple[object, ...]:
    """What the column `labels` of a task depends on, for the cache's key."""
    own: tuple[object, ...] = (data.sha256[split], data.head.labels, data.head.mean, data.head.std)
    if data.head.stride is not None:
        own = (*own, "stride", data.head.stride)
    return own if KINDS[data.head.kind].per == "row" else (*own, data.head.kind)


def learned(
    tokenizer: InputReader, head: TaskHead, rows: Split, part: slice, max_length: int
) -> tuple[dict[str, list[Any]], list[Any]]:
    """Tokens of some rows of a task, and their targets as models learn them.

    Args:
        tokenizer: the backbone's.
        head: the task.
        rows: a split of it.
        part: which rows.
        max_length: tokens kept per row.

    Returns:
        Columns as `encode` gives them, and a number per row, or a list of several. Of a task that is written
        only the rows that have something to learn, with the column `trained`.
    """
    if KINDS[head.kind].per == "token":
        assert not isinstance(tokenizer, ImageReader)
        return tagged_rows(tokenizer, head, rows, part, max_length)
    targets = ((rows.targets - head.mean) / head.std).astype(np.float32)
    if head.written:
        assert not isinstance(tokenizer, ImageReader)
        tokens, kept = written_tokens(tokenizer, head, rows, range(*part.indices(len(rows))))
        return tokens, targets[kept].tolist()
    columns = [column[part] for column in rows.texts]
    tokens = encode(tokenizer, columns, max_length, head.stride, separate=head.separate)
    return tokens, targets[part].tolist()


def _table(datas: Sequence[TaskData], split: str, tokenizer: InputReader, max_length: int) -> pyarrow.Table:
    import pyarrow

    small = pyarrow.list_(pyarrow.int8())
    long = pyarrow.list_(pyarrow.int32())
    types = {"input_ids": long, WINDOWS: long, PLACES: long, "image": image_type()}
    wide = any(KINDS[data.head.kind].per != "row" for data in datas)
    parts = []
    any_written = any(data.head.written for data in datas)
    any_separate = any(data.head.separate for data in datas)
    types[SECOND_IDS] = long
    windows = [data.head for data in datas if data.head.stride is not None]
    tagged = any(KINDS[head.kind].per == "token" for head in windows)
    # Tasks may have their columns in different orders.
    in_order = any_written or any_separate or bool(windows)
    for task, data in enumerate(datas):
        part = data.splits[split]
        for start in range(0, len(part), CHUNK):
            rows = slice(start, start + CHUNK)
            tokens, targets = learned(tokenizer, data.head, part, rows, max_length)
            if any_written:
                tokens.setdefault(TRAINED, [[0] * len(ids) for ids in tokens["input_ids"]])
            if any_separate:
                add_empty_(tokens)
            if windows:
                tokens.setdefault(WINDOWS, [[len(ids)] for ids in tokens["input_ids"]])
            if tagged:
                tokens.setdefault(PLACES, [[] for _ in targets])
            if wide:
                targets = [row if isinstance(row, list) else [row] for row in targets]
            kind = pyarrow.list_(pyarrow.float32()) if wide else pyarrow.float32()
            columns = {
                name: pyarrow.array(as_stored(name, values), type=types.get(name, small))
                for name, values in (sorted(tokens.items()) if in_order else tokens.items())
            }
            columns["labels"] = pyarrow.array(targets, type=kind)
            columns["graft_rows"] = pyarrow.array(np.full(len(targets), task, dtype=np.int64))
            parts.append(pyarrow.table(columns))
    return pyarrow.concat_tables(parts).combine_chunks()


def _writing(datas: Sequence[TaskData], tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    """What the tokens of tasks depend on that the language model itself answers, or that have templates."""
    written = [None if data.head.writing is None else data.head.writing.as_dict() for data in datas]
    key = (
        [tokenizer.sep_token_id]
        if any(is_template(text) for data in datas for text in data.head.text)
        else []
    )
    if any(data.head.written for data in datas):
        key = [written, getattr(tokenizer, "chat_template", None), *key]
    return key


def tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """A checksum that two tokenizers share if they make the same tokens of every text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        content = json.loads(backend.to_str())
        # The last call's settings, not the tokenizer's own.
        content.pop("truncation", None)
        content.pop("padding", None)
    else:
        content = [tokenizer.get_vocab(), repr(tokenizer.init_kwargs)]
    names = tokenizer.model_input_names
    return _digest(type(tokenizer).__name__, content, names, tokenizer.truncation_side)


def _digest(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
