"""Noise in one split of a task: in its texts, its labels, or its choice of rows; measured on the result."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from graftwork.data.splits import content_hash
from graftwork.data.task_data import Split, TaskData
from graftwork.errors import ConfigError, DataError
from graftwork.files.hashing import stable_key
from graftwork.kinds.heads import TaskHead
from graftwork.kinds.registry import KINDS
from graftwork.noise.text import TEXT_NOISE, edit_distance, moved_words
from graftwork.texts.template import change_parts, plain_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DamagedSplit", "damage_split"]

_WORD_KINDS = ("word_drop", "word_swap")
"""Kinds of noise whose ratio counts words; the other ones in texts count characters."""


@dataclass(frozen=True, eq=False)
class DamagedSplit:
    """A noisy split and how noisy it is."""

    split: Split
    """The rows after the noise."""
    realised: float
    """Measured ratio, in the unit of the noise."""
    items: int
    """Characters, words or rows before the noise."""
    words: float = 0.0
    """For texts: word edits / words."""


def damage_split(data: TaskData, name: str, kind: str, ratio: float, seed: int) -> DamagedSplit:
    """Put noise of one kind into the split `name` of a task.

    Raises:
        ConfigError: a package of `graftwork[noise]` is not installed.
        DataError: `row_drop` leaves fewer than two classes or scores.
    """
    split = data.splits[name]
    if kind == "labels":
        return _change_labels(data, split, ratio, seed)
    if kind == "row_drop":
        return _drop_rows(data, split, ratio, seed)
    return _damage_texts(data, split, kind, ratio, seed)


def _split(data: TaskData, split: Split, texts: tuple[list[str], ...], targets: NDArray[np.float64]) -> Split:
    """The split with other texts or targets."""
    named: Any = data.head.labels if split.answers is None else split.answers
    return Split(texts, targets, content_hash(texts, targets, data.head.kind, named), split.answers)


def _damage_texts(data: TaskData, split: Split, kind: str, ratio: float, seed: int) -> DamagedSplit:
    if data.head.reads == "image":
        raise ConfigError(
            f"{kind} noise is for texts, and task {data.head.name!r} reads images; leave it out"
        )
    if KINDS[data.head.kind].per == "token":
        raise ConfigError(
            f"{kind} noise would move the spans of task {data.head.name!r}; leave it out, or train the task "
            "apart"
        )
    columns = []
    counts: Counter[str] = Counter()
    for field, column in enumerate(split.texts):
        noisy = column
        if ratio > 0:
            # Without the row's number: the same text is damaged alike wherever it stands.
            noisy = [_damaged(text, kind, ratio, stable_key(seed, kind, field, text)) for text in column]
        columns.append(noisy)
        for before, after in zip(column, noisy, strict=True):
            counts += _measure(plain_text(before), plain_text(after), kind)
    texts = tuple(columns)
    return DamagedSplit(
        _split(data, split, texts, split.targets),
        _fraction(counts["changed"], counts["total"]),
        counts["total"],
        _fraction(counts["word_edits"], counts["words"]),
    )


def _damaged(text: str, kind: str, ratio: float, key: int) -> str:
    """A text with noise, of one that a template made in every part, so that the parts stay apart."""
    return change_parts(text, lambda part: TEXT_NOISE[kind](part, ratio, key))


def _measure(before: str, after: str, kind: str) -> Counter[str]:
    words, noisy_words = before.split(), after.split()
    word_edits = edit_distance(words, noisy_words) if before != after else 0
    total, changed = len(words), word_edits
    if kind == "word_swap":
        changed = moved_words(words, noisy_words)
    elif kind not in _WORD_KINDS:
        total, changed = len(before), edit_distance(before, after) if before != after else 0
    return Counter(total=total, changed=changed, words=len(words), word_edits=word_edits)


def _fraction(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _shuffled_rows(head: TaskHead, split: Split, kind: str, seed: int) -> NDArray[np.int64]:
    """The rows in a random order that depends on their content alone; equal rows are numbered."""
    seen: Counter[tuple[object, ...]] = Counter()
    keys = []
    told = KINDS[head.kind].keys(split.targets)
    for *texts, target in zip(*split.texts, told, strict=True):
        row = (*texts, target)
        keys.append(stable_key(seed, kind, *row, seen[row]))
        seen[row] += 1
    return np.argsort(np.array(keys, dtype=np.int64), kind="stable")


def _change_labels(data: TaskData, split: Split, ratio: float, seed: int) -> DamagedSplit:
    """Another class, each equally likely; scores go round among the chosen rows, in their random order."""
    rows = _shuffled_rows(data.head, split, "labels", seed)
    told = KINDS[data.head.kind].keys(split.targets)
    chosen = rows[: round(ratio * len(rows))]

    def draw(row: int) -> int:
        texts = [column[row] for column in split.texts]
        return stable_key(seed, "class", *texts, told[row])

    targets = KINDS[data.head.kind].damaged(data.head, split.targets, chosen, draw)
    unlike = targets != split.targets
    changed = int(unlike.any(axis=1).sum() if unlike.ndim > 1 else unlike.sum())
    return DamagedSplit(
        _split(data, split, split.texts, targets),
        _fraction(changed, len(rows)),
        len(rows),
    )


def _drop_rows(data: TaskData, split: Split, ratio: float, seed: int) -> DamagedSplit:
    rows = _shuffled_rows(data.head, split, "row_drop", seed)
    lost = round(ratio * len(rows))
    keep = np.sort(rows[lost:])
    targets = split.targets[keep]
    if not KINDS[data.head.kind].varied(targets):
        what = KINDS[data.head.kind].several
        raise DataError(
            f"train of task {data.head.name!r}: row_drop noise of {ratio:g} leaves {len(keep)} of "
            f"{len(rows)} rows, without two {what}; use a smaller ratio"
        )
    texts = tuple([column[i] for i in keep] for column in split.texts)
    return DamagedSplit(
        _split(data, split, texts, targets),
        _fraction(lost, len(rows)),
        len(rows),
    )
