"""`retrieval`: of all passages that of a query is to be found, by the cosine of their vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from graftwork.errors import ConfigError, DataError
from graftwork.kinds.kind import Column, Head, Kind, Metric, TaskSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Retrieval"]

MOST = 2**24
"""Different texts of a split that can be told apart: batches have their numbers in single precision."""


class Retrieval(Kind):
    """A row is a query and its passage, and nothing else; a head has no weights.

    Targets are two numbers per row: which query and which passage it has, where texts that are equal but for
    case and white space are one. The outputs of a row are the cosine of its two vectors and the vectors
    themselves, with length 1, [1 + 2 d]; what is served as its one output is the cosine.
    """

    name = "retrieval"
    metrics: tuple[Metric, ...] = ("mrr", "recall@1", "recall@10")
    several = "different queries and passages"
    answers: tuple[str, ...] = ("score",)
    dtype = "float32"
    per: Literal["row", "label", "token", "pair"] = "pair"

    def faults(self, task: TaskSettings) -> list[str]:
        """Two texts are read, and there is nothing to name or to weigh."""
        faults = []
        if len(task.text_fields) != 2:
            faults.append("kind: retrieval reads two texts; name their fields as text: [query, passage]")
        if task.label != "label":
            faults.append("a retrieval task has no label: its passage is the right one; remove label")
        for name in ("labels", "class_weights"):
            if getattr(task, name) is not None:
                faults.append(f"a retrieval task has no {name}; remove them")
        return faults

    def read(self, values: Sequence[Any], column: Column) -> list[Any]:
        """Both texts of a row, in the form in which equal ones are equal."""
        for i, texts in enumerate(values):
            for field, text in zip(column.fields, texts, strict=True):
                if not text:
                    raise DataError(
                        f"{column.what}: {column.place(i)}: the text in {field!r} is empty; nothing can be "
                        "found by it, so fill it or leave the row out"
                    )
        return list(values)

    def check(self, task: TaskSettings, values: Sequence[Any]) -> None:
        """Any two texts may be a pair."""

    def classes(self, task: TaskSettings, values: Sequence[Any]) -> tuple[str, ...]:
        """None."""
        return ()

    def targets(
        self, values: Sequence[Any], labels: Sequence[str], column: Column, origin: str
    ) -> NDArray[Any]:
        """Numbers of the queries and of the passages, in the order in which they come first, [N, 2]."""
        import numpy as np

        found = np.empty((len(values), 2))
        for side in (0, 1):
            number: dict[str, int] = {}
            found[:, side] = [number.setdefault(texts[side], len(number)) for texts in values]
            if len(number) > MOST:
                raise DataError(
                    f"{column.what} has {len(number):,} different texts in {column.fields[side]!r}, more "
                    f"than can be told apart ({MOST:,}); give fewer rows"
                )
        return found

    def fit(self, task: TaskSettings, labels: Sequence[str], targets: NDArray[Any]) -> dict[str, Any]:
        """Nothing follows from the rows."""
        return {}

    def scale(self, targets: NDArray[Any]) -> tuple[float, float]:
        """Numbers are kept as they are."""
        return 0.0, 1.0

    def guessed_loss(self, targets: NDArray[Any]) -> float:
        """All passages as near as each other, in one batch of these rows, in nats."""
        import numpy as np

        from graftwork.kinds.pairs.ranking import ranked_against

        return float(np.log(ranked_against(targets)).mean())

    def outputs(self, labels: Sequence[str]) -> int:
        """One, the cosine, beside the vectors."""
        return 1

    def named(self, targets: NDArray[Any], labels: Sequence[str]) -> list[Any]:
        """Nothing: the texts are all there is."""
        return []

    def value(self, target: Any, labels: Sequence[str]) -> str:
        """That there is nothing to tell apart."""
        return "one query or one passage"

    def notes(self, head: Head, targets: NDArray[Any]) -> list[str]:
        """Nothing is known from the numbers; negatives are counted where the batch is known."""
        return []

    def predicted(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """The cosine."""
        return outputs[:, 0]

    def expected(self, targets: NDArray[Any]) -> NDArray[Any]:
        """As they are."""
        return targets

    def in_units(self, head: Head, values: NDArray[Any]) -> NDArray[Any]:
        """Ranks as they are."""
        return values

    def scored(
        self, head: Head, outputs: NDArray[Any], targets: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """The rank of every row's passage, and among how many it was ranked: those of all these rows."""
        from graftwork.kinds.pairs.ranking import ranked_against, ranks

        return ranks(outputs, targets), ranked_against(targets)

    def varied(self, targets: NDArray[Any]) -> bool:
        """Whether there are two queries and two passages."""
        return len(targets) > 0 and bool((targets != targets[0]).any(axis=0).all())

    def order(self, targets: NDArray[Any]) -> NDArray[Any]:
        """Rows have no order."""
        import numpy as np

        return np.zeros(len(targets))

    def keys(self, targets: NDArray[Any]) -> list[Any]:
        """The texts say all."""
        return [""] * len(targets)

    def says_little(self, head: Head, predicted: NDArray[Any], expected: NDArray[Any]) -> str | None:
        """Of so few passages that all are among the first."""
        most, wanted = int(expected.max()), head.metric.removeprefix("recall@")
        if wanted == head.metric or most > int(wanted):
            return None
        return (
            f"the queries of task {head.name!r} are ranked against {most} passages; {head.metric} is then 1 "
            "whatever the model says"
        )

    def majority(self, head: Head, train: NDArray[Any], test: NDArray[Any]) -> float:
        """Chance: passages in a random order."""
        from graftwork.kinds.pairs.ranking import chance, ranked_against

        return chance(head.metric, ranked_against(test))

    def figures(self, head: Head, predicted: NDArray[Any], expected: NDArray[Any]) -> dict[str, Any]:
        """All scores, the median rank, and the number of passages."""
        import numpy as np

        from graftwork.kinds.scoring.metrics import score

        found: dict[str, Any] = {metric: score(metric, predicted, expected) for metric in self.metrics}
        return {**found, "median_rank": float(np.median(predicted)), "passages": int(expected.max())}

    def answer(
        self, head: Head, outputs: Sequence[float], top: int | None, digits: int | None
    ) -> Mapping[str, Any]:
        """The cosine of both texts."""
        return {"score": outputs[0] if digits is None else round(outputs[0], digits)}

    def damaged(
        self, head: Head, targets: NDArray[Any], rows: NDArray[Any], draw: Callable[[int], int]
    ) -> NDArray[Any]:
        """Targets are the texts themselves.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"labels noise changes targets, and a row of task {head.name!r} has none beside its two texts; "
            "leave it out, or put noise into the texts"
        )

    def probes(self, features: NDArray[Any], targets: NDArray[Any]) -> list[Any]:
        """None: the cosine of the frozen vectors is the floor."""
        return []
