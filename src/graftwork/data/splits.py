"""Load a task: read its sources, check every row, split off what is missing, sub-sample."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from graftwork.data.classes import check_rows
from graftwork.data.images.columns import image_column
from graftwork.data.sources import SourceRows, read_table, split_file
from graftwork.data.targets.written import read_written
from graftwork.data.task import SPLITS, Task
from graftwork.data.task_data import Split, TaskData
from graftwork.errors import DataError
from graftwork.kinds.heads import TaskHead
from graftwork.kinds.kind import Column
from graftwork.kinds.registry import KINDS
from graftwork.kinds.regression import read_numbers
from graftwork.messages import listed, mended, shown
from graftwork.texts.rows import field_text
from graftwork.texts.template import fill_text, is_template, unmarked
from graftwork.texts.writing import Writing

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["carved_with", "content_hash", "load_split", "load_task", "text_keys"]

CARVED = 0.1
"""Fraction of the distinct training texts that becomes a validation or a test split without a source."""


ORIGIN = "those of the model that is trained further; a new class needs a new training, or a new task"
"""Who says what the classes of a known head are, for messages."""


def load_task(task: Task, seed: int = 0, known: TaskHead | None = None) -> TaskData:
    """Read, check, filter, split and sub-sample the rows of a task.

    A split without a source is the folder's own file if `train` is a folder with one file per split,
    else a tenth of the distinct train texts, spread evenly over the labels. Equal texts (up to case
    and white space) always fall into the same split.

    Args:
        task: what to read.
        seed: of what is drawn.
        known: a trained head of this task, whose classes and scale are kept.

    Raises:
        DataError: A source cannot be read, a field is missing, a label is unknown, a score is not a
            number, the training rows have only one class, or their labels are none (`check_rows`).
    """
    writing = None if known is None else known.writing
    columns = {"train": _Columns.read(task, _train_source(task), "train", writing)}
    writing = columns["train"].writing
    check_rows(task, columns["train"].texts, columns["train"].labels)
    for name in ("validation", "test"):
        source = _source(task, name)
        if source is not None:
            columns[name] = _Columns.read(task, source, name, writing)
    answers = {name: part.answers for name, part in columns.items()}
    labels = KINDS[task.kind].classes(task, columns["train"].labels) if known is None else known.labels
    origin = "" if known is None else ORIGIN
    train = columns.pop("train")
    parts = {"train": (train.texts, train.targets(task, labels, "train", origin))}
    _check_varied(task, labels, parts["train"][1])  # before other splits: their labels would look unknown
    parts |= {name: (part.texts, part.targets(task, labels, name, origin)) for name, part in columns.items()}
    missing = [name for name in SPLITS if name not in parts]
    if missing:
        parts |= _carve(task, *parts["train"], missing, seed)
    splits = {
        name: _sample(task, name, parts[name], labels, seed, answers.get(name, answers["train"]))
        for name in SPLITS
    }
    head = replace(_head(task, labels, splits["train"].targets), writing=writing)
    return TaskData(
        head if known is None else replace(head, mean=known.mean, std=known.std, pairs=known.pairs), splits
    )


def load_split(task: Task, head: TaskHead, split: str, seed: int = 0) -> TaskData:
    """One split of a task as a saved head reads it: with its fields, its classes and its scale.

    Only the source that the split comes from is read, and nothing but the head says what the classes are.

    Args:
        task: where the rows are, and which of them.
        head: of the saved model.
        split: train, validation or test.
        seed: that the model was trained with.

    Returns:
        The task with this split alone.

    Raises:
        DataError: As `load_task`; a class that the head does not know is an unknown label.
    """
    fields: dict[str, Any] = (
        {"text": head.text, "image": None}
        if head.reads == "text"
        else {"text": "text", "image": head.text[0]}
    )
    task = replace(
        task, **fields, label=head.label, kind=head.kind, metric=head.metric, labels=head.labels or None
    )
    missing = carved_with(task, split)
    origin = "train" if missing else split
    columns = _Columns.read(task, _source(task, origin) or _train_source(task), origin, head.writing)
    part = (columns.texts, columns.targets(task, head.labels, origin, "the classes of the model"))
    if missing:
        part = _carve(task, *part, missing, seed)[split]
    return TaskData(head, {split: _sample(task, split, part, head.labels, seed, columns.answers)})


def carved_with(task: Task, split: str) -> list[str]:
    """The splits that are carved out of the train source together, if this one depends on that; else none."""
    if split != "train" and _source(task, split) is not None:
        return []
    return [name for name in SPLITS if _source(task, name) is None]


def _source(task: Task, split: str) -> str | None:
    """Where a split has rows of its own."""
    train = _train_source(task)
    given: str | None = getattr(task, split)
    return given or split_file(train, split)


def _train_source(task: Task) -> str:
    if task.train is None:
        raise DataError(f"task {task.name!r} has no training source; set train to a file, folder or dataset")
    return task.train


@dataclass(frozen=True, eq=False)
class _Columns:
    """The checked columns of one source; `keep` are the indices of its rows in `table`."""

    texts: tuple[list[str], ...]
    labels: list[Any]
    table: SourceRows
    keep: NDArray[np.int64]
    first: list[Any]
    """The first text field as the rows have it: texts, or lists of words."""
    writing: Writing | None = None
    answers: list[tuple[str, ...]] | None = None

    @classmethod
    def read(cls, task: Task, source: str, split: str, known: Writing | None = None) -> _Columns:
        """Read a source; `known` is how the rows of a saved model, or of another split, are read."""
        table = read_table(source, task=task.name, split=split, form=task.text_format)
        what = f"{split} of task {task.name!r}"
        kind, writing, answers = KINDS[task.kind], known, None
        words = kind.per == "token"
        labels: list[Any]
        if kind.written:
            sources, right, writing = read_written(
                table,
                known or task.writing(),
                what,
                known=known is not None,
                label=task.label if kind.name == "choice" else None,
            )
            texts: tuple[list[str], ...] = (sources,)
            answers = right or None
            labels = list(right) if right else _column(table, task.label, what)
        else:
            if task.reads == "image":
                texts = (image_column(table, task.text_fields[0], what),)
            else:
                texts = tuple(_text_column(table, field, what, words) for field in task.text_fields)
            compared = kind.per == "pair"
            labels = list(text_keys(texts)) if compared else _column(table, task.label, what)
        kept = np.ones(len(table.rows), dtype=bool)
        for field, least in task.minimum.items():
            values = _column(table, field, what)
            kept &= read_numbers(values, Column(field, what, table.where), empty=-np.inf) >= least
        if task.drop_broken:
            for column in texts:
                kept &= np.fromiter(("\ufffd" not in text for text in column), bool, len(column))
        if not kept.any():
            raise DataError(
                f"{what}: minimum and drop_broken leave none of the {len(kept)} rows of {table.path}"
            )
        keep = np.flatnonzero(kept)
        texts = tuple([column[i] for i in keep] for column in texts)
        labels = [labels[i] for i in keep]
        first = [table.rows[i][task.text_fields[0]] for i in keep] if words else texts[0]
        answers = None if answers is None else [answers[i] for i in keep]
        columns = cls(texts, labels, table, keep, first, writing, answers)
        if answers is not None:  # they have been read
            return columns
        return replace(columns, labels=kind.read(labels, columns.source(task, split)))

    def source(self, task: Task, split: str) -> Column:
        """Where the targets come from."""
        return Column(
            task.label,
            f"{split} of task {task.name!r}",
            lambda i: self.table.where(int(self.keep[i])),
            task.separator,
            self.first,
            task.text_fields,
        )

    def targets(self, task: Task, labels: Sequence[str], split: str, origin: str = "") -> NDArray[np.float64]:
        origin = origin or ("given by the task" if task.labels else "found in the train rows")
        return KINDS[task.kind].targets(self.labels, labels, self.source(task, split), origin)


def _column(table: SourceRows, field: str, what: str) -> list[Any]:
    try:
        return [row[field] for row in table.rows]
    except KeyError:
        i = next(i for i, row in enumerate(table.rows) if field not in row)
    fields = listed(table.rows[i], 20) or "none"
    hint = "; to read images set image: image" if set(table.rows[i]) == {"image", "label"} else ""
    raise DataError(f"{what}: {table.where(i)} has no field {field!r}; its fields: {fields}{hint}")


def _text_column(table: SourceRows, field: str, what: str, words: bool = False) -> list[str]:
    """The texts in a field, or those that a template makes."""
    if is_template(field):
        return [
            fill_text(field, row, partial(field_text, where=f"{what}: {table.where(i)}"))
            for i, row in enumerate(table.rows)
        ]
    column = _column(table, field, what)
    if words:
        column = [joined_words(value) for value in column]
    if not all(isinstance(text, str) for text in column):
        i = next(i for i, text in enumerate(column) if not isinstance(text, str))
        given = "null" if column[i] is None else f"{shown(column[i])} ({type(column[i]).__name__})"
        raise DataError(f"{what}: {table.where(i)}: the text in {field!r} is {given[:80]}, not a string")
    return [unmarked(mended(text)) for text in column]


def joined_words(value: Any) -> Any:
    """A list of words as a text, with a blank between two; anything else as it is."""
    whole = isinstance(value, list | tuple) and value
    return (
        " ".join(value) if whole and all(isinstance(word, str) and word.strip() for word in value) else value
    )


def _check_varied(task: Task, labels: tuple[str, ...], targets: NDArray[np.float64]) -> None:
    kind = KINDS[task.kind]
    if not kind.varied(targets):
        value = kind.value(targets[0], labels)
        raise DataError(
            f"train of task {task.name!r}: all {len(targets)} rows have {value}; there is nothing to learn"
        )


def _head(task: Task, labels: tuple[str, ...], targets: NDArray[np.float64]) -> TaskHead:
    _check_varied(task, labels, targets)
    return task.head(**KINDS[task.kind].fit(task, labels, targets))


_Part = tuple[tuple[list[str], ...], "NDArray[np.float64]"]


def _take(texts: tuple[list[str], ...], targets: NDArray[np.float64], rows: NDArray[np.int64]) -> _Part:
    return tuple([column[i] for i in rows] for column in texts), targets[rows]


def _sample(
    task: Task,
    name: str,
    part: _Part,
    labels: tuple[str, ...],
    seed: int,
    answers: Sequence[tuple[str, ...]] | None = None,
) -> Split:
    """The split of these rows: all of them, or as many as the task allows; of answers those of its rows."""
    texts, targets = part
    most = getattr(task, f"max_{name}")
    if most is not None and most < len(targets):
        texts, targets = _take(
            texts, targets, np.sort(_rng(seed, task, name).permutation(len(targets))[:most])
        )
    if answers is None:
        return Split(texts, targets, content_hash(texts, targets, task.kind, labels))
    own = [answers[int(place)] for place in targets]
    targets = np.arange(len(own), dtype=np.float64)
    return Split(texts, targets, content_hash(texts, targets, task.kind, own), own)


def _rng(seed: int, task: Task, purpose: str) -> np.random.Generator:
    """A random generator for each task and purpose: adding a task must not change the rows of another."""
    return np.random.default_rng([seed & 0xFFFFFFFF, zlib.crc32(f"{task.name}/{purpose}".encode())])


def text_keys(texts: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """What makes the texts of two rows equal: they are, up to case and white space."""
    return [tuple(" ".join(text.casefold().split()) for text in row) for row in zip(*texts, strict=True)]


def _carve(
    task: Task, texts: tuple[list[str], ...], targets: NDArray[np.float64], missing: list[str], seed: int
) -> dict[str, _Part]:
    """Split off `missing` from the train rows by distinct text, evenly over the sorted targets."""
    keys = text_keys(texts)
    index: dict[tuple[str, ...], int] = {}
    group = np.fromiter((index.setdefault(key, len(index)) for key in keys), np.int64, len(keys))
    total = len(index)
    size = max(1, round(CARVED * total))
    if total < (len(missing) + 1) * size + 1:
        raise DataError(
            f"train of task {task.name!r} has {total} distinct texts, too few to split off "
            f"{' and '.join(missing)}; give sources for them"
        )
    rng = _rng(seed, task, "carve")
    first = np.unique(group, return_index=True)[1]
    order = np.lexsort((rng.permutation(total), KINDS[task.kind].order(targets[first])))
    # Evenly spaced positions in the order of the targets are a draw stratified by them.
    count = size * len(missing)
    drawn = order[((np.arange(count) + rng.random()) * total / count).astype(np.int64)]
    owner = np.zeros(total, dtype=np.int64)
    owner[drawn] = 1 + np.arange(count) % len(missing)
    names = ("train", *missing)
    return {name: _take(texts, targets, np.flatnonzero(owner[group] == i)) for i, name in enumerate(names)}


def content_hash(
    texts: Sequence[Sequence[str]], targets: NDArray[np.float64], kind: str, labels: Sequence[Any]
) -> str:
    """SHA-256 of texts and of targets as rows have them: names of classes, scores, or answers."""
    content = json.dumps(
        [*texts, KINDS[kind].named(targets, labels)], ensure_ascii=False, separators=(",", ":")
    )
    return hashlib.sha256(content.encode()).hexdigest()
