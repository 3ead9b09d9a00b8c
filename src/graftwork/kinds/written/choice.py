"""`choice`: of some texts the likeliest is the answer, as a language model has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graftwork.errors import DataError
from graftwork.kinds.classification import Classification, uneven_notes
from graftwork.kinds.kind import Column, Head, Metric, TaskSettings
from graftwork.kinds.written.written import Written, gone_round, placed
from graftwork.messages import shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Choice"]

ENOUGH = 20
"""Rows from which the number of different labels says something."""
VARIED = 0.5
"""Part of the labels that may be different: every label is a text that is read for every row."""
_CLASSES = Classification()


class Choice(Written):
    """The labels of a task are texts, or each row has its own; the likeliest after the prompt is chosen.

    With labels that are the same for all rows, targets are indices into them. Where each row has its own
    choices there are no labels, and targets are places of rows in the answers of their split: the right text,
    then all choices in their order. The one output of a row is the loss of its right text. Of a finished
    model all choices are scored (`graftwork.models.causal.choosing`).
    """

    name = "choice"
    metrics: tuple[Metric, ...] = ("accuracy", "macro_f1", "matthews")
    several = "labels"
    answers: tuple[str, ...] = ("label", "probabilities")

    def faults(self, task: TaskSettings) -> list[str]:
        """Nothing is weighed by class, and labels are two different texts or more."""
        if task.class_weights is not None:
            return ["a choice task has no class_weights; remove them, or set kind: classification"]
        if task.choices is None:
            return _CLASSES.faults(task)
        faults = []
        if task.labels is not None:
            faults.append("labels are the same for all rows and choices each row's own; leave one out")
        if task.metric not in (None, "accuracy"):
            faults.append(
                f"metric is {task.metric!r}, which counts by class, and rows with choices of their own have "
                "no classes; take accuracy"
            )
        return faults

    def read(self, values: Sequence[Any], column: Column) -> list[Any]:
        """Names of labels (`label_name`)."""
        return _CLASSES.read(values, column)

    def check(self, task: TaskSettings, values: Sequence[Any]) -> None:
        """Refuse labels of which nearly every row has its own, unless the task lists them."""
        if task.labels is not None or len(values) < ENOUGH or _own(values):
            return
        distinct = list(dict.fromkeys(values))
        if len(distinct) > VARIED * len(values):
            raise DataError(
                f"train of task {task.name!r}: {len(distinct):,} of {len(values):,} labels in {task.label!r} "
                f"are different, such as {shown(distinct[0])}; if each row has texts of its own to choose "
                "from, name their field as choices:; to write texts set kind: generation; if they are the "
                "labels all the same, list them as labels:"
            )

    def classes(self, task: TaskSettings, values: Sequence[Any]) -> tuple[str, ...]:
        """The labels of the task, or those of the train rows, sorted; none if rows have their own choices."""
        return () if _own(values) else _CLASSES.classes(task, values)

    def targets(
        self, values: Sequence[Any], labels: Sequence[str], column: Column, origin: str
    ) -> NDArray[Any]:
        """Indices of labels, or places in the list of answers."""
        return placed(len(values)) if _own(values) else _CLASSES.targets(values, labels, column, origin)

    def fit(self, task: TaskSettings, labels: Sequence[str], targets: NDArray[Any]) -> dict[str, Any]:
        """The labels."""
        return {"labels": labels}

    def named(self, targets: NDArray[Any], labels: Sequence[Any]) -> list[Any]:
        """Labels, or the right text with all choices, which come in place of labels."""
        found = [labels[int(target)] for target in targets]
        return [value if isinstance(value, str) else list(value) for value in found]

    def value(self, target: float, labels: Sequence[str]) -> str:
        """The label; a place says nothing."""
        return f"the label {labels[int(target)]!r}" if labels else "one answer"

    def notes(self, head: Head, targets: NDArray[Any]) -> list[str]:
        """Of labels that are uneven, or have few rows."""
        return uneven_notes(head, targets, weights=False) if head.labels else []

    def says_little(self, head: Head, predicted: NDArray[Any], expected: NDArray[Any]) -> str | None:
        """Of rows of one label."""
        return _CLASSES.says_little(head, predicted, expected) if head.labels else None

    def majority(self, head: Head, train: NDArray[Any], test: NDArray[Any]) -> float:
        """The most frequent label of the train rows; or of indices of right choices, the most frequent."""
        return _CLASSES.majority(head, train, test)

    def figures(self, head: Head, predicted: NDArray[Any], expected: NDArray[Any]) -> dict[str, Any]:
        """Those of every label."""
        return _CLASSES.figures(head, predicted, expected) if head.labels else {}

    def answer(
        self, head: Head, outputs: Sequence[float], top: int | None, digits: int | None
    ) -> Mapping[str, Any]:
        """The likeliest label, and the probabilities of all or of the likeliest.

        Args:
            head: with the labels, or the row's own choices in their place.
            outputs: log-likelihoods.
            top: how many probabilities; None: all.
            digits: decimals of probabilities.
        """
        return _CLASSES.answer(head, outputs, top, digits)

    def damaged(
        self, head: Head, targets: NDArray[Any], rows: NDArray[Any], draw: Callable[[int], int]
    ) -> NDArray[Any]:
        """Another label; of rows with their own choices these go round among the rows, with the right one."""
        return _CLASSES.damaged(head, targets, rows, draw) if head.labels else gone_round(targets, rows)


def _own(values: Sequence[Any]) -> bool:
    """Whether these are answers of rows with their own choices, and not names of labels."""
    return len(values) > 0 and isinstance(values[0], tuple)
