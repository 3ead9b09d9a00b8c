"""`generation`: a row has a text to write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graftwork.errors import DataError
from graftwork.kinds.kind import Column, Head, Metric, TaskSettings
from graftwork.kinds.written.written import Written, gone_round, placed

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Generation"]


class Generation(Written):
    """Targets are the places of the answers in their split; the one output of a row is its loss.

    Of a finished model the answers are written and scored as `graftwork.texts.scores` has it.
    """

    name = "generation"
    metrics: tuple[Metric, ...] = (
        "token_f1",
        "exact_match",
        "number",
        "rouge1",
        "rouge2",
        "rougeL",
        "bleu",
        "chrf",
        "likelihood",
    )
    several = "rows"
    answers: tuple[str, ...] = ("text",)

    def faults(self, task: TaskSettings) -> list[str]:
        """There are no classes to name or to weigh."""
        faults = []
        if task.class_weights is not None:
            faults.append("a generation task has no class_weights; remove them")
        if task.labels is not None:
            faults.append("a generation task has no labels; remove them, or set kind to choice")
        return faults

    def read(self, values: Sequence[Any], column: Column) -> list[Any]:
        """Answers as `graftwork.data.targets.written` reads them."""
        return list(values)

    def classes(self, task: TaskSettings, values: Sequence[Any]) -> tuple[str, ...]:
        """None."""
        return ()

    def targets(
        self, values: Sequence[Any], labels: Sequence[str], column: Column, origin: str
    ) -> NDArray[Any]:
        """Places in the list of answers."""
        return placed(len(values))

    def fit(self, task: TaskSettings, labels: Sequence[str], targets: NDArray[Any]) -> dict[str, Any]:
        """Nothing follows from the answers."""
        return {}

    def named(self, targets: NDArray[Any], labels: Sequence[Any]) -> list[Any]:
        """The answers, which come in place of classes."""
        return [list(labels[int(place)]) for place in targets]

    def value(self, target: float, labels: Sequence[str]) -> str:
        """A place says nothing."""
        return "one answer"

    def notes(self, head: Head, targets: NDArray[Any]) -> list[str]:
        """Nothing is known from places."""
        return []

    def says_little(self, head: Head, predicted: NDArray[Any], expected: NDArray[Any]) -> str | None:
        """Nothing."""
        return None

    def majority(self, head: Head, train: NDArray[Any], test: NDArray[Any]) -> float:
        """Of a constant text: 0."""
        return 0.0

    def figures(self, head: Head, predicted: NDArray[Any], expected: NDArray[Any]) -> dict[str, Any]:
        """Those of texts are in `graftwork.texts.scores`."""
        return {}

    def answer(
        self, head: Head, outputs: Sequence[float], top: int | None, digits: int | None
    ) -> Mapping[str, Any]:
        """Texts are written, not read from outputs.

        Raises:
            DataError: always.
        """
        raise DataError(f"task {head.name!r} writes texts, which its outputs are not.")

    def damaged(
        self, head: Head, targets: NDArray[Any], rows: NDArray[Any], draw: Callable[[int], int]
    ) -> NDArray[Any]:
        """The answers go round among the rows."""
        return gone_round(targets, rows)
