"""`Written`: what all kinds have in common that the language model itself answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from graftwork.kinds.kind import Head, Kind, Metric, TaskSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Written", "gone_round", "placed"]


class Written(Kind):
    """The one output of a row is the loss of its right answer: the mean over its tokens, in nats.

    While a model is trained a task's score is `likelihood`.
    """

    dtype = "float32"
    written = True
    in_training: Metric | None = "likelihood"

    def check(self, task: TaskSettings, values: Sequence[Any]) -> None:
        """Any texts can be answers."""

    def scale(self, targets: NDArray[Any]) -> tuple[float, float]:
        """Targets are kept as they are."""
        return 0.0, 1.0

    def guessed_loss(self, targets: NDArray[Any]) -> float:
        """Nobody guesses a text."""
        return 0.0

    def outputs(self, labels: Sequence[str]) -> int:
        """One: the loss of the row."""
        return 1

    def predicted(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """The loss."""
        return outputs[:, 0]

    def expected(self, targets: NDArray[Any]) -> NDArray[Any]:
        """Targets as they are."""
        return targets

    def in_units(self, head: Head, values: NDArray[Any]) -> NDArray[Any]:
        """Losses as they are."""
        return values

    def probes(self, features: NDArray[Any], targets: NDArray[Any]) -> list[Any]:
        """None: the frozen model's own answers are the floor."""
        return []


def placed(count: int) -> NDArray[Any]:
    """The targets of rows whose answers stand in a list of their split: their places in it, [N]."""
    import numpy as np

    return np.arange(count, dtype=np.float64)


def gone_round(targets: NDArray[Any], rows: NDArray[Any]) -> NDArray[Any]:
    """Targets in which those of some rows go round among them."""
    import numpy as np

    changed = targets.copy()
    changed[rows] = np.roll(changed[rows], 1)
    return changed
