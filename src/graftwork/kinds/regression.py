"""`regression`: a row has a score."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graftwork.errors import DataError
from graftwork.kinds.kind import Column, Head, Kind, Metric, TaskSettings
from graftwork.messages import shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Regression", "read_numbers"]

ALPHAS = (1e5, 1e4, 1e3, 100.0, 10.0)
"""Regularisation of ridge; on 1,536 standardised features of 1,500 pairs (STS-B) 1e4 is best, 10 useless."""


class Regression(Kind):
    """Targets are scores; a head has one output, the score standardised by mean and deviation in training."""

    name = "regression"
    metrics: tuple[Metric, ...] = ("spearman", "pearson")
    several = "different scores"
    answers: tuple[str, ...] = ("score",)
    dtype = "float32"
    similarity = True

    def faults(self, task: TaskSettings) -> list[str]:
        """There are no classes to name or to weigh."""
        end = "; remove them or set kind to classification"
        faults = [f"a regression task has no class_weights{end}"] if task.class_weights is not None else []
        return faults + ([f"a regression task has no labels{end}"] if task.labels is not None else [])

    def read(self, values: Sequence[Any], column: Column) -> list[Any]:
        """Scores as they are; `targets` reads them."""
        return list(values)

    def check(self, task: TaskSettings, values: Sequence[Any]) -> None:
        """Whatever can be read as numbers may be scores."""

    def classes(self, task: TaskSettings, values: Sequence[Any]) -> tuple[str, ...]:
        """None."""
        return ()

    def targets(
        self, values: Sequence[Any], labels: Sequence[str], column: Column, origin: str
    ) -> NDArray[Any]:
        """Finite numbers."""
        return read_numbers(values, column)

    def fit(self, task: TaskSettings, labels: Sequence[str], targets: NDArray[Any]) -> dict[str, Any]:
        """The scale."""
        mean, std = self.scale(targets)
        return {"mean": mean, "std": std}

    def scale(self, targets: NDArray[Any]) -> tuple[float, float]:
        """Mean and deviation."""
        return float(targets.mean()), float(targets.std())

    def guessed_loss(self, targets: NDArray[Any]) -> float:
        """The variance."""
        return float(targets.var())

    def outputs(self, labels: Sequence[str]) -> int:
        """One."""
        return 1

    def named(self, targets: NDArray[Any], labels: Sequence[str]) -> list[Any]:
        """The scores."""
        scores: list[Any] = targets.tolist()
        return scores

    def value(self, target: float, labels: Sequence[str]) -> str:
        """The score."""
        return f"the score {target:g}"

    def notes(self, head: Head, targets: NDArray[Any]) -> list[str]:
        """Nothing is known that makes scores hard to learn."""
        return []

    def predicted(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """The standardised score."""
        return outputs[:, 0]

    def expected(self, targets: NDArray[Any]) -> NDArray[Any]:
        """Standardised scores as they are."""
        return targets

    def in_units(self, head: Head, values: NDArray[Any]) -> NDArray[Any]:
        """Scores in the unit of the rows."""
        return values.astype("float64") * head.std + head.mean

    def says_little(self, head: Head, predicted: NDArray[Any], expected: NDArray[Any]) -> str | None:
        """Of rows with one score, and of one score for all rows: correlations are then 0."""
        if expected.min() == expected.max():
            value = float(self.in_units(head, expected)[0])
            return (
                f"all {len(expected):,} rows of task {head.name!r} have the score {value:g}; correlations "
                "are then 0 whatever the model says"
            )
        if predicted.min() == predicted.max():
            return f"the model gives all rows of task {head.name!r} the same score; correlations are then 0"
        return None

    def majority(self, head: Head, train: NDArray[Any], test: NDArray[Any]) -> float:
        """Of the mean score: the correlation of a constant."""
        return 0.0

    def figures(self, head: Head, predicted: NDArray[Any], expected: NDArray[Any]) -> dict[str, Any]:
        """`number_figures`."""
        from graftwork.kinds.scoring.figures import number_figures

        return number_figures(predicted, expected)

    def answer(
        self, head: Head, outputs: Sequence[float], top: int | None, digits: int | None
    ) -> Mapping[str, Any]:
        """The score; its decimals are those of a score divided by the deviation."""
        score = outputs[0] * head.std + head.mean
        return {"score": score if digits is None else round(score, digits - math.floor(math.log10(head.std)))}

    def damaged(
        self, head: Head, targets: NDArray[Any], rows: NDArray[Any], draw: Callable[[int], int]
    ) -> NDArray[Any]:
        """The scores go round among the rows."""
        import numpy as np

        changed = targets.copy()
        changed[rows] = np.roll(changed[rows], 1)
        return changed

    def probes(self, features: NDArray[Any], targets: NDArray[Any]) -> list[Any]:
        """Ridge regressions."""
        from sklearn.linear_model import Ridge

        return [Ridge(alpha=alpha).fit(features.astype("float64"), targets) for alpha in ALPHAS]


def read_numbers(values: Sequence[Any], column: Column, empty: float | None = None) -> NDArray[Any]:
    """Read numbers; `empty` stands for null and the empty string, an error if not given.

    Raises:
        DataError: a value is no finite number.
    """
    import numpy as np

    if empty is not None:
        values = [empty if value is None or value == "" else value for value in values]
    try:
        numbers = np.array([np.nan if isinstance(value, bool) else float(value) for value in values])
        good = ~np.isnan(numbers) if empty is not None else np.isfinite(numbers)
    except (TypeError, ValueError, OverflowError):
        numbers, good = np.zeros(0), np.array([_is_number(value) for value in values])
    if not good.all():
        i = int(good.argmin())
        raise DataError(
            f"{column.what}: {column.place(i)}: {column.field!r} is {shown(values[i])}, not a finite number"
        )
    return numbers


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and not math.isnan(float(value))
    except (TypeError, ValueError, OverflowError):
        return False
