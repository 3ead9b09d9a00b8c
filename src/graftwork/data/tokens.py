"""From the rows of several tasks to tensors: tokenise once, pad, collate; of images, pixels by the batch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

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
from graftwork.data.targets.words import filled, tagged_rows
from graftwork.data.targets.written import TRAINED, written_tokens
from graftwork.data.task import SPLITS
from graftwork.data.task_data import Split, TaskData
from graftwork.distributed.notes import note_once
from graftwork.edges import library_errors
from graftwork.errors import DataError
from graftwork.kinds.heads import TaskHead
from graftwork.kinds.losses import NO_TARGET
from graftwork.kinds.registry import KINDS

if TYPE_CHECKING:
    import pyarrow  # type: ignore[import-untyped]
    from datasets import Dataset
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    from graftwork.data.images.reader import Reader

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
_LOG = logging.getLogger(__name__)


def tokenise(
    datas: Sequence[TaskData],
    tokenizer: Reader,
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
    (`graftwork.data.pairs.second`).
    The cache is keyed by the tokenizer, the content and `max_length`. Files are written under a temporary
    name and renamed, so that concurrent runs can share a folder.

    Args:
        datas: The tasks, in the order that numbers them.
        tokenizer: The backbone's tokenizer.
        max_length: Tokens kept per row; of a pair the longer text is cut first.
        cache_dir: Folder of the cache, made if absent; None keeps nothing. One that cannot be written is
            passed over with a note: the cache only saves time.
        splits: Which of them.
    """
    from datasets import Dataset

    if isinstance(tokenizer, ImageReader):
        return {split: Dataset(_table(datas, split, tokenizer, max_length)) for split in splits}
    identity = tokenizer_identity(tokenizer)
    result = {}
    for split in splits:
        scale = [_learned_as(data, split) for data in datas]
        modes = separate_modes([data.head for data in datas])
        key = _digest(_FORMAT, identity, max_length, scale, *_writing(datas, tokenizer), *modes)
        file = Path(cache_dir) / f"tokens-{split}-{key[:32]}.arrow" if cache_dir is not None else None
        cached = _load(file) if file is not None else None
        if cached is None:
            table = _table(datas, split, tokenizer, max_length)
            cached = Dataset(table)
            if file is not None:
                _store(table, file)
        result[split] = cached
    return result


def encode(
    tokenizer: Reader, columns: Sequence[Sequence[str]], max_length: int, *, separate: bool = False
) -> dict[str, list[Any]]:
    """Tokenise one column of texts, or two of pairs, in one call and without padding.

    Images stay as they are, in a column `image`: pixels are made for one batch at a time (`pad`). Pairs that
    are read separately become two sequences, each of up to `max_length` tokens.
    """
    if separate:
        return both(*(encode(tokenizer, [column], max_length) for column in columns))
    if isinstance(tokenizer, ImageReader):
        return {"image": list(columns[0])}
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


def pad(tokenizer: Reader, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Pad token lists to the longest, on the right whatever side the tokenizer pads; images become pixels.

    Positions that a model counts from the first column are then those of the row alone, and a causal model
    never reads padding. A tokenizer without a pad token pads with its end-of-text token.

    Raises:
        DataError: The tokenizer has neither.
    """
    if isinstance(tokenizer, ImageReader):
        return {"pixel_values": tokenizer.pixels([open_image(feature["image"]) for feature in features])}
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
    tokenizer: Reader,
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
    own = (data.sha256[split], data.head.labels, data.head.mean, data.head.std)
    return own if KINDS[data.head.kind].per == "row" else (*own, data.head.kind)


def learned(
    tokenizer: Reader, head: TaskHead, rows: Split, part: slice, max_length: int
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
    return encode(tokenizer, columns, max_length, separate=head.separate), targets[part].tolist()


def _table(datas: Sequence[TaskData], split: str, tokenizer: Reader, max_length: int) -> pyarrow.Table:
    import pyarrow

    small = pyarrow.list_(pyarrow.int8())
    types = {"input_ids": pyarrow.list_(pyarrow.int32()), "image": image_type()}
    wide = any(KINDS[data.head.kind].per != "row" for data in datas)
    parts = []
    any_written = any(data.head.written for data in datas)
    any_separate = any(data.head.separate for data in datas)
    in_order = any_written or any_separate  # tasks may have their columns in different orders
    types[SECOND_IDS] = types["input_ids"]
    for task, data in enumerate(datas):
        part = data.splits[split]
        for start in range(0, len(part), CHUNK):
            rows = slice(start, start + CHUNK)
            tokens, targets = learned(tokenizer, data.head, part, rows, max_length)
            if any_written:
                tokens.setdefault(TRAINED, [[0] * len(ids) for ids in tokens["input_ids"]])
            if any_separate:
                add_empty_(tokens)
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


def _load(file: Path) -> Dataset | None:
    import pyarrow
    from datasets import Dataset

    try:
        return Dataset.from_file(str(file))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, pyarrow.ArrowException) as error:
        # A crash of the machine can leave a file whose content never reached the disk.
        _LOG.warning("the token cache %s cannot be read (%s); it is made anew", file, error)
        return None


def _store(table: pyarrow.Table, file: Path) -> None:
    import pyarrow

    temporary = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.stem}-")
        os.close(handle)
        with pyarrow.OSFile(temporary, "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=CHUNK)
        os.replace(temporary, file)
    except (OSError, pyarrow.ArrowException) as error:
        reason = getattr(error, "strerror", None) or error
        note_once(
            f"the token cache {file.parent} cannot be written ({reason}); texts are tokenised in every run"
        )
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink(missing_ok=True)


def _writing(datas: Sequence[TaskData], tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    """What the tokens of tasks depend on that the language model itself answers; nothing for others."""
    written = [None if data.head.writing is None else data.head.writing.as_dict() for data in datas]
    return (
        [written, getattr(tokenizer, "chat_template", None)]
        if any(data.head.written for data in datas)
        else []
    )


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
