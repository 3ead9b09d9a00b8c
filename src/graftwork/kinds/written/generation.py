"""`generation`: a row has a text to write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graftwork.errors import DataError
from graftwork.kinds.kind import Column, Head, Kind, Metric, TaskSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Generation"]


class Generation(Kind):
    """Targets are the places of the answers in their split; the one output of a row is its loss.

    That loss is the mean over the tokens of the answer, in nats. While a model is trained a task's score is
    `likelihood`; of a finished model the answers are written and scored as `graftwork.texts.scores` has it.
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
    dtype = "float32"
    written = True
    in_training: Metric | None = "likelihood"

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

    def check(self, task: TaskSettings, values: Sequence[Any]) -> None:
        """Any texts can be answers."""

    def classes(self, task: TaskSettings, values: Sequence[Any]) -> tuple[str, ...]:
        """None."""
        return ()

    def targets(
        self, values: Sequence[Any], labels: Sequence[str], column: Column, origin: str
    ) -> NDArray[Any]:
        """Places in the list of answers."""
        import numpy as np

        return np.arange(len(values), dtype=np.float64)

    def fit(self, task: TaskSettings, labels: Sequence[str], targets: NDArray[Any]) -> dict[str, Any]:
        """Nothing follows from the answers."""
        return {}

    def scale(self, targets: NDArray[Any]) -> tuple[float, float]:
        """Places are kept as they are."""
        return 0.0, 1.0

    def guessed_loss(self, targets: NDArray[Any]) -> float:
        """Nobody guesses a text."""
        return 0.0

    def outputs(self, labels: Sequence[str]) -> int:
        """One: the loss of the row."""
        return 1

    def named(self, targets: NDArray[Any], labels: Sequence[Any]) -> list[Any]:
        """The answers, which come in place of classes."""
        return [list(labels[int(place)]) for place in targets]

    def value(self, target: float, labels: Sequence[str]) -> str:
        """A place says nothing."""
        return "one answer"

    def notes(self, head: Head, targets: NDArray[Any]) -> list[str]:
        """Nothing is known from places."""
        return []

    def predicted(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """The loss."""
        return outputs[:, 0]

    def expected(self, targets: NDArray[Any]) -> NDArray[Any]:
        """Places as they are."""
        return targets

    def in_units(self, head: Head, values: NDArray[Any]) -> NDArray[Any]:
        """Losses as they are."""
        return values

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
        import numpy as np

        changed = targets.copy()
        changed[rows] = np.roll(changed[rows], 1)
        return changed

    def probes(self, features: NDArray[Any], targets: NDArray[Any]) -> list[Any]:
        """None: the frozen model's own answers are the floor."""
        return []
