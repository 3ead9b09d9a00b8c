"""What the train rows say of a task: that another field or kind is meant, or that they are hard to learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from graftwork.data.task import Task
from graftwork.errors import DataError
from graftwork.kinds.registry import KINDS
from graftwork.messages import shown
from graftwork.texts.template import plain_text

if TYPE_CHECKING:
    from graftwork.data.task_data import TaskData

__all__ = ["check_rows", "class_notes"]

_FILES = {
    "images": (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".svg", ".heic"),
    "sounds": (".wav", ".mp3", ".flac", ".ogg", ".m4a"),
    "films": (".mp4", ".avi", ".mov", ".mkv", ".webm"),
}
"""Files that are no texts, by what their names end in."""
_CURE = "A recipe reads texts and images; give the field with the text as text:"
LONGEST_PATH = 300
"""Longest path of a file of `_FILES` that we look for, in characters."""


def check_rows(task: Task, texts: Sequence[Sequence[str]], labels: Sequence[object]) -> None:
    """Refuse train rows that another field or another kind of task must be meant for.

    Args:
        task: what the recipe says; labels that it lists are what they are.
        texts: one list per text field.
        labels: names of classes, or scores.

    Raises:
        DataError: most texts are paths of images and the like, or most labels are different and look like
            sentences or numbers, or nearly all are different.
    """
    for field, column in zip(task.text_fields, texts, strict=True):
        for kind, ends in _FILES.items():
            found = [text for text in column if _is_path(text, ends)]
            if len(found) > len(column) / 2:
                cure = f"To read images set image: {field} in place of text:" if kind == "images" else _CURE
                raise DataError(
                    f"train of task {task.name!r}: {len(found):,} of {len(column):,} texts in {field!r} are "
                    f"paths of {kind}, such as {shown(plain_text(found[0]))}. {cure}"
                )
    KINDS[task.kind].check(task, labels)


def _is_path(text: str, ends: tuple[str, ...]) -> bool:
    """Whether a text is the path of a file: short, on one line, without blanks unless it names folders."""
    path = text.strip()
    if not path.lower().endswith(ends) or len(path) > LONGEST_PATH or "\n" in path:
        return False
    return len(path.split()) == 1 or "/" in path or "\\" in path


def class_notes(data: TaskData) -> list[str]:
    """A sentence if train rows will be hard to learn, with what to do about it (`Kind.notes`)."""
    train = data.splits.get("train")
    return [] if train is None else KINDS[data.head.kind].notes(data.head, train.targets)
