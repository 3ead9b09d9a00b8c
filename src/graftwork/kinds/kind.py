"""`Kind`: all that the library asks of a kind of task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Column", "Head", "Kind", "Metric", "Reads", "TaskSettings"]

Metric = Literal[
    "accuracy",
    "macro_f1",
    "matthews",
    "pearson",
    "spearman",
    "micro_f1",
    "entity_f1",
    "token_accuracy",
    "mrr",
    "recall@1",
    "recall@10",
    "likelihood",
    "token_f1",
    "exact_match",
    "number",
    "rouge1",
    "rouge2",
    "rougeL",
    "bleu",
    "chrf",
]
"""Names of `graftwork.kinds.scoring.metrics` and, from `token_f1` on, of `graftwork.texts.scores`."""
Reads = Literal["text", "image"]
"""What a task reads of a row."""


@dataclass(frozen=True)
class Column:
    """Where values come from, for messages."""

    field: str
    """That they are in."""
    what: str
    """The split and its task."""
    place: Callable[[int], str]
    """Says where the row of a value is: the file and its line."""
    separator: str | None = None
    """Between the labels of a row in one text; None: labels are lists."""
    texts: Sequence[Any] = ()
    """What the rows have in their first text field: a text, or a list of words."""
    fields: Sequence[str] = ()
    """Those of the texts."""


class TaskSettings(Protocol):
    """What a recipe says of a task, as far as its kind asks for it (`graftwork.data.task.Task`)."""

    @property
    def name(self) -> str:
        """Name of the task."""

    @property
    def text_fields(self) -> tuple[str, ...]:
        """Fields of the texts."""

    @property
    def label(self) -> str:
        """Field of the targets."""

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The classes, if they are given."""

    @property
    def class_weights(self) -> str | dict[str, float] | None:
        """What a row counts by its class."""

    @property
    def metric(self) -> str | None:
        """How it is scored, if that is given."""

    @property
    def choices(self) -> str | None:
        """Field of the texts that a row may choose from, if each has its own."""


class Head(Protocol):
    """What a model knows of a task (`graftwork.kinds.heads.TaskHead`)."""

    @property
    def name(self) -> str:
        """Name of the task."""

    @property
    def metric(self) -> str:
        """How it is scored."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Its classes."""

    @property
    def mean(self) -> float:
        """What is taken from a target before it is learned."""

    @property
    def std(self) -> float:
        """By what that is divided."""

    @property
    def class_weights(self) -> tuple[float, ...]:
        """What a row counts by its class; empty: 1 each."""

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Probability from which a row has a label, by label; empty: a half each."""


class Kind(Protocol):
    """One kind of task: its targets, its head, its scores, and how a prediction reads.

    A kind holds nothing and imports neither torch nor, at its top, numpy: recipes ask it for its metrics. Its
    loss is in `graftwork.kinds.losses`. Targets are one float64 number per row; models learn
    `(target - mean) / std`. Where targets are several numbers per row, `per` says of what, and the methods
    that have a body here are the kind's own.
    """

    name: str
    """Name in recipes."""
    metrics: tuple[Metric, ...]
    """Metrics a task may have, the default first."""
    several: str
    """Of what the train rows must have two or more."""
    answers: tuple[str, ...]
    """Fields of its answers, beside `task`."""
    dtype: str
    """NumPy's name for the type of predictions."""
    per: Literal["row", "label", "token", "pair"] = "row"
    """What has a target: a row one (shape [N]), each of its labels ([N, labels]), its tokens, or both of its
    texts, which are compared with those of other rows ([N, 2], which texts they are)."""
    written: bool = False
    """Whether the language model itself answers, without a head."""
    similarity: bool = False
    """Whether a target of two texts may say how alike they are, so that a head sees their cosine, too."""
    in_training: Metric | None = None
    """What outputs are scored by where that is not the metric of the task."""

    def faults(self, task: TaskSettings) -> list[str]:
        """What is wrong with the settings of a task that only some kinds have."""

    def read(self, values: Sequence[Any], column: Column) -> list[Any]:
        """Values of the target field as the kind names them.

        Raises:
            DataError: a value is none of this kind.
        """

    def check(self, task: TaskSettings, values: Sequence[Any]) -> None:
        """Refuse train rows whose values look like another kind of task.

        Raises:
            DataError: they do.
        """

    def classes(self, task: TaskSettings, values: Sequence[Any]) -> tuple[str, ...]:
        """The classes, given or found in the values of the train rows; none if the kind has no classes."""

    def targets(
        self, values: Sequence[Any], labels: Sequence[str], column: Column, origin: str
    ) -> NDArray[Any]:
        """The targets, float64, shape [N].

        Args:
            values: as made by `read`.
            labels: the classes of the task.
            column: where the values come from.
            origin: who says what the classes are.

        Raises:
            DataError: a value is no target of the task.
        """

    def fit(self, task: TaskSettings, labels: Sequence[str], targets: NDArray[Any]) -> dict[str, Any]:
        """Fields of the head (`TaskHead`) that follow from classes and train targets.

        Raises:
            DataError: a setting does not fit them.
        """

    def guessed_loss(self, targets: NDArray[Any]) -> float:
        """Mean loss if all rows get the one answer that fits these targets best, as models learn them."""

    def scale(self, targets: NDArray[Any]) -> tuple[float, float]:
        """`mean` and `std` of a head with these train targets."""

    def outputs(self, labels: Sequence[str]) -> int:
        """Outputs of a head."""

    def named(self, targets: NDArray[Any], labels: Sequence[str]) -> list[Any]:
        """The targets as rows have them, for the hash of their content."""

    def value(self, target: float, labels: Sequence[str]) -> str:
        """One target in words."""

    def notes(self, head: Head, targets: NDArray[Any]) -> list[str]:
        """Sentences on train targets that will be hard to learn, each with what to do about it."""

    def predicted(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """Predictions [N] from the outputs of a head [N, outputs], in the unit that is learned."""

    def expected(self, targets: NDArray[Any]) -> NDArray[Any]:
        """Learned targets in the type that predictions are compared with."""

    def in_units(self, head: Head, values: NDArray[Any]) -> NDArray[Any]:
        """Predictions or learned targets in the unit of the rows."""

    def scored(
        self, head: Head, outputs: NDArray[Any], targets: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Predictions and targets as metrics compare them.

        Args:
            head: the task.
            outputs: of its head, shape [N, outputs], of tokens [N, positions, outputs]. Of a kind that
                compares rows with each other they are those of all rows.
            targets: as models learn them, shape [N], or [N, labels], or [N, positions], or [N, 2].
        """
        return self.predicted(outputs), self.expected(targets)

    def settled(self, head: Head, outputs: NDArray[Any], targets: NDArray[Any]) -> dict[str, Any]:
        """Fields of the head that are chosen on validation rows after training; none unless overridden."""
        return {}

    def pooled(self, outputs: NDArray[Any], targets: NDArray[Any]) -> NDArray[Any]:
        """The outputs of `scored` as one list of numbers per row, shape [N, outputs]."""
        return outputs

    def column(self, rows: Sequence[Any]) -> NDArray[Any]:
        """Predictions or targets of rows, one after another as `scored` gives them, as one array."""
        import numpy as np

        return np.array(rows, dtype=self.dtype)

    def varied(self, targets: NDArray[Any]) -> bool:
        """Whether train targets differ, so that there is something to learn."""
        return len(targets) > 0 and bool((targets != targets[0]).any())

    def order(self, targets: NDArray[Any]) -> NDArray[Any]:
        """Numbers [N] by which rows are sorted for splits that have every kind of target."""
        return targets

    def keys(self, targets: NDArray[Any]) -> list[Any]:
        """The targets as numbers or texts, by which random choices are made."""
        found: list[Any] = targets.tolist()
        return found

    def says_little(self, head: Head, predicted: NDArray[Any], expected: NDArray[Any]) -> str | None:
        """What to say of a score over rows, or predictions, that are all alike."""

    def majority(self, head: Head, train: NDArray[Any], test: NDArray[Any]) -> float:
        """Score of the best constant guess."""

    def figures(self, head: Head, predicted: NDArray[Any], expected: NDArray[Any]) -> dict[str, Any]:
        """Figures beyond the score, of predictions and targets in the unit of the rows."""

    def answer(
        self, head: Head, outputs: Sequence[float], top: int | None, digits: int | None
    ) -> Mapping[str, Any]:
        """How the outputs for one row read (`graftwork.kinds.answers.Answers`)."""

    def damaged(
        self, head: Head, targets: NDArray[Any], rows: NDArray[Any], draw: Callable[[int], int]
    ) -> NDArray[Any]:
        """The targets with noise in some rows.

        Args:
            head: the task.
            targets: not changed.
            rows: which, in random order.
            draw: a random number for a row.
        """

    def probes(self, features: NDArray[Any], targets: NDArray[Any]) -> list[Any]:
        """Linear models of scikit-learn on features [N, d], one per regularisation, the strongest first."""

    def settle_probe_(self, probe: Any, features: NDArray[Any], targets: NDArray[Any]) -> None:
        """Choose on validation rows what `settled` chooses for a head; nothing unless overridden."""
        return None
