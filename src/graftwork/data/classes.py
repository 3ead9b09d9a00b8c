"""What the train rows say of a task's classes: that they are none, that they are uneven, what they weigh."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from graftwork.data.task import Task
from graftwork.errors import DataError
from graftwork.messages import listed, shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from graftwork.data.task_data import TaskData

__all__ = ["check_rows", "class_notes", "class_weights"]

ENOUGH = 20
"""Rows from which the number of different labels tells whether they are classes."""
VARIED = 0.5
"""Different labels per row above which sentences or numbers are no classes."""
UNIQUE = 0.9
"""Different labels per row above which no labels are classes: 150 classes with 10 rows each are far below."""
WORDS, LONG = 3, 40
"""Number of words, and of characters, from which a label looks like a sentence."""
SCALE = 20
"""Number of different labels with fractions above which they are a scale, not classes."""
UNEVEN = 10
"""Rows of the largest class per row of the smallest one from which we note that classes are uneven."""
FEW = 5
"""Rows of a class below which we note that it can hardly be learned."""
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_FILES = {
    "images": (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".svg", ".heic"),
    "sounds": (".wav", ".mp3", ".flac", ".ogg", ".m4a"),
    "films": (".mp4", ".avi", ".mov", ".mkv", ".webm"),
}
"""Files that are no texts, by what their names end in."""
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
                raise DataError(
                    f"train of task {task.name!r}: {len(found):,} of {len(column):,} texts in {field!r} are "
                    f"paths of {kind}, such as {shown(found[0])}; a recipe reads texts, {kind} are not read "
                    "from paths. Give the field with the text as text:"
                )
    if task.kind == "classification" and task.labels is None:
        _check_classes(task, [str(label) for label in labels])


def _is_path(text: str, ends: tuple[str, ...]) -> bool:
    """Whether a text is the path of a file: short, on one line, without blanks unless it names folders."""
    path = text.strip()
    if not path.lower().endswith(ends) or len(path) > LONGEST_PATH or "\n" in path:
        return False
    return len(path.split()) == 1 or "/" in path or "\\" in path


def _check_classes(task: Task, labels: Sequence[str]) -> None:
    distinct = list(dict.fromkeys(labels))
    if len(labels) < ENOUGH:
        return
    start = (
        f"train of task {task.name!r}: {len(distinct):,} of {len(labels):,} labels in {task.label!r} are "
        f"different, such as {shown(distinct[0])}"
    )
    end = "if they are the classes all the same, list them as labels:"
    varied = len(distinct) > VARIED * len(labels)
    if all(map(_NUMBER.fullmatch, distinct)):
        scale = len(distinct) > SCALE and not all(float(name).is_integer() for name in distinct)
        if varied or scale:
            raise DataError(
                f"{start}; they are numbers: set kind: regression, or give the field of the class as label:; "
                f"{end}"
            )
    elif varied and np.mean([_long(name) for name in distinct]) >= 0.5:
        raise DataError(
            f"{start}; they look like sentences, and a task chooses among classes: writing texts is not a "
            f"kind of task. Give the field of the class as label:; {end}"
        )
    elif len(distinct) > UNIQUE * len(labels):
        raise DataError(
            f"{start}, too many for classes that a row can be an example of; give the field of the class as "
            f"label:; {end}"
        )


def _long(name: str) -> bool:
    return len(name.split()) >= WORDS or len(name) >= LONG


def class_notes(data: TaskData) -> list[str]:
    """A sentence if the classes of a task are uneven, or have few rows, with what to do about it."""
    head = data.head
    if head.kind != "classification":
        return []
    counts = _counts(data.splits["train"].targets, len(head.labels))
    order = np.argsort(-counts, kind="stable")
    most, least = order[0], order[-1]
    rows = f"task {head.name!r}: of the {counts.sum():,} train rows "
    notes = []
    hidden, unweighted = head.metric == "accuracy", not head.class_weights
    if counts[most] >= UNEVEN * counts[least] and (hidden or unweighted):
        advice = [
            *(["metric: macro_f1 counts every class alike, accuracy hides the rare ones"] if hidden else []),
            *(["class_weights: balanced lets rare classes weigh more in training"] if unweighted else []),
        ]
        notes.append(
            f"{rows}{counts[most]:,} are {shown(head.labels[most])} and {counts[least]:,} "
            f"{shown(head.labels[least])}; " + "; ".join(advice) + "."
        )
    rare = [f"{shown(head.labels[i])} {counts[i]}" for i in order if counts[i] < FEW]
    if rare:
        which = "a class" if len(rare) == 1 else f"each of {len(rare)} classes"
        notes.append(
            f"{rows}fewer than {FEW} belong to {which} ({listed(rare, 6)}); give more rows, for so few teach "
            "little."
        )
    return notes


def class_weights(task: Task, labels: Sequence[str], targets: NDArray[np.float64]) -> tuple[float, ...]:
    r"""The weights of the classes in the training loss, in their order; empty without `class_weights`.

    .. math:: w_c = \frac{n}{C \, n_c}

    for `balanced`, with :math:`n_c` of the n train rows in class c and C the classes that have rows. Weights
    that are given are scaled alike: their mean over the train rows is 1, so that a task keeps its part of the
    loss.

    Raises:
        DataError: a weight is given for a class that the task does not have.
    """
    given = task.class_weights
    if given is None:
        return ()
    counts = _counts(targets, len(labels))
    if isinstance(given, Mapping):
        unknown = [name for name in given if name not in labels]
        if unknown:
            raise DataError(
                f"class_weights of task {task.name!r} has {listed(map(shown, unknown))}; its classes are "
                f"{listed(labels, 20)}"
            )
        weights = np.array([given.get(name, 1.0) for name in labels])
    else:
        weights = np.divide(1.0, counts, out=np.zeros(len(labels)), where=counts > 0)
        weights[counts == 0] = weights.max()
    return tuple(float(weight) for weight in weights * counts.sum() / (weights * counts).sum())


def _counts(targets: NDArray[np.float64], classes: int) -> NDArray[np.int64]:
    return np.bincount(targets.astype(np.int64), minlength=classes)
