"""How many rows are longer than a model reads at once: what is read in windows, and what is cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from graftwork.data.encoding.windows import WINDOWS
from graftwork.kinds.heads import TaskHead
from graftwork.kinds.registry import KINDS
from graftwork.messages import listed

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Long", "length_note", "length_notes"]


@dataclass(frozen=True)
class Long:
    """The long rows of a split of a task."""

    split: str
    rows: int
    """Of the split."""
    long: int
    """Those that have windows; without `stride` those that fill all tokens, and may have been cut."""
    windows: int = 0
    """Of the long rows together."""


def length_notes(heads: Sequence[TaskHead], splits: Mapping[str, Dataset], max_length: int) -> list[str]:
    """A sentence on every task that has long rows.

    Args:
        heads: the tasks.
        splits: their rows as tokens.
        max_length: tokens of a row, or of a window.
    """
    import pyarrow.compute  # type: ignore[import-untyped]

    found: list[list[Long]] = [[] for _ in heads]
    for split, dataset in splits.items():
        task_of = np.asarray(dataset.data.column("graft_rows").to_numpy())
        for task, head in enumerate(heads):
            mine = task_of == task
            if head.stride is None:
                lengths = pyarrow.compute.list_value_length(dataset.data.column("input_ids"))
                full = np.asarray(lengths.to_numpy())[mine] >= max_length
                found[task].append(Long(split, int(mine.sum()), int(full.sum())))
            else:
                counts = pyarrow.compute.list_value_length(dataset.data.column(WINDOWS))
                own = np.asarray(counts.to_numpy())[mine]
                several = own[own > 1]
                found[task].append(Long(split, int(mine.sum()), len(several), int(several.sum())))
    notes = (length_note(head, some, max_length) for head, some in zip(heads, found, strict=True))
    return [note for note in notes if note is not None]


def length_note(head: TaskHead, splits: Sequence[Long], max_length: int) -> str | None:
    """A sentence on the long rows of a task; None without any.

    Of tasks with targets per token that are cut `graftwork.data.targets.words.word_notes` says more, and of
    tasks that a language model answers `graftwork.data.targets.written.check_learned`.
    """
    some = [split for split in splits if split.long]
    if not some or head.written:
        return None
    if head.stride is not None:
        told = listed(
            f"{one.long:,} of {one.rows:,} {one.split} rows ({one.windows:,} windows)" for one in some
        )
        return f"task {head.name!r}: longer than {max_length} tokens are {told}"
    if KINDS[head.kind].per == "token":
        return None
    told = listed(f"{one.long:,} of {one.rows:,} {one.split} rows" for one in some)
    remedy = "" if len(head.text) > 1 else ", or read it in windows (stride of the task)"
    return (
        f"task {head.name!r}: {told} fill all {max_length} tokens, and what is beyond is cut; raise "
        f"training.max_length{remedy}"
    )
