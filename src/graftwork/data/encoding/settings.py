"""Settings of a task about its texts: templates, and windows of long ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol

from graftwork.errors import DataError
from graftwork.kinds.heads import TaskHead
from graftwork.kinds.registry import KINDS
from graftwork.messages import listed, shown
from graftwork.texts.template import is_template, text_faults

__all__ = ["Pooled", "check_together", "reading_faults"]

Pooled = Literal["mean", "max"]
"""How the logits of the windows of a row become those of the row."""


class Texts(Protocol):
    """What a recipe says of the texts of a task (`graftwork.data.task.Task`)."""

    @property
    def kind(self) -> str:
        """What its targets are."""

    @property
    def text(self) -> str | tuple[str, ...]:
        """Fields or templates."""

    @property
    def text_fields(self) -> tuple[str, ...]:
        """The same as a tuple, of images their field."""

    @property
    def label(self) -> str:
        """Field of the targets."""

    @property
    def image(self) -> str | None:
        """Field of the images."""

    @property
    def stride(self) -> int | None:
        """Tokens that neighbouring windows share."""

    @property
    def windows(self) -> str:
        """How they are pooled."""


def reading_faults(task: Texts) -> list[str]:
    """What is wrong with the fields, templates and windows of a task."""
    texts, names = task.text_fields, (*task.text_fields, task.label)
    if not 1 <= len(texts) <= 2:
        return [f"text names {len(texts)} fields; give one, or two for a pair"]
    if not all(isinstance(name, str) and name for name in names):
        return [f"text is {shown(task.text)} and label is {shown(task.label)}; both are names of fields"]
    if len(set(names)) < len(names):
        return [f"text and label name a field twice ({listed(names)})"]
    return [*_template_faults(task), *_window_faults(task)]


def _template_faults(task: Texts) -> list[str]:
    if task.image is not None or not any(map(is_template, task.text_fields)):
        return []
    if task.kind in KINDS and KINDS[task.kind].written:
        return [f"text is a template, which for kind: {task.kind} is prompt:; write it there"]
    if task.kind in KINDS and KINDS[task.kind].per == "token":
        return [
            "text is a template, but the spans of kind: tokens count the characters of one field; name it"
        ]
    return text_faults(task.text_fields, task.label)


def _window_faults(task: Texts) -> list[str]:
    if task.stride is None:
        return [] if task.windows == "mean" else ["windows says how windows are pooled; set stride, too"]
    if isinstance(task.stride, bool) or not isinstance(task.stride, int) or task.stride < 0:
        return [f"stride is {shown(task.stride)}, not a whole number of tokens of at least 0"]
    if task.windows not in ("mean", "max"):
        return [f"windows is {shown(task.windows)}; allowed: mean, max"]
    if task.image is not None:
        return ["stride is for texts; an image has no windows"]
    kind = KINDS.get(task.kind)
    if kind is not None and kind.written:
        return [f"stride is for tasks with a head, not for kind: {task.kind}; remove it"]
    if kind is not None and kind.per == "token" and task.windows != "mean":
        return ["windows is not for kind: tokens, where each word is read in one window; remove it"]
    if len(task.text_fields) > 1:
        both = " [SEP] ".join(
            name if is_template(name) else f"{{{name}}}" for name in map(str, task.text_fields)
        )
        return [f"stride is for one text, not a pair; write both as one template, such as text: {both!r}"]
    return []


def check_together(heads: Iterable[TaskHead]) -> None:
    """Refuse windows beside tasks that the language model itself answers.

    Raises:
        DataError: there are both.
    """
    heads = list(heads)
    written = next((head.name for head in heads if head.written), None)
    windowed = next((head.name for head in heads if head.stride is not None), None)
    if written is not None and windowed is not None:
        raise DataError(
            f"task {windowed!r} has stride, but beside task {written!r}, which a language model answers, "
            "rows are read in one window; leave stride out, or train the two apart"
        )
