"""`classification`: a row belongs to one of several classes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graftwork.errors import DataError
from graftwork.files.reading import is_finite
from graftwork.kinds.kind import Column, Head, Kind, Metric, TaskSettings
from graftwork.kinds.labels import label_name, sort_labels
from graftwork.messages import listed, shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Classification", "class_weights", "uneven_notes"]

WEIGHTS = (1e-6, 1e6)
"""The smallest and the largest weight that a class may be given."""
ENOUGH = 20
"""Rows from which the number of different labels says something."""
VARIED = 0.5
"""Part of the labels that may be different if they are sentences or numbers."""
UNIQUE = 0.9
"""The same for any labels: of 150 classes with 10 rows each it is 0.07."""
WORDS, LONG = 3, 40
"""Words, or characters, from which a label looks like a sentence."""
SCALE = 20
"""Different numbers with fractions above which they are a scale and not classes."""
UNEVEN = 10
"""Rows of the largest class per row of the smallest from which a task's classes count as uneven."""
FEW = 5
"""Rows below which a class can hardly be learned."""
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
STRENGTHS = (0.0001, 0.0003, 0.001, 0.01, 0.1, 1.0, 10.0)
"""Inverse regularisation C of logistic regression; the best on validation is used."""


class Classification(Kind):
    """Targets are indices into the classes; a head has one output per class, its logit."""

    name = "classification"
    metrics: tuple[Metric, ...] = ("accuracy", "macro_f1", "matthews")
    several = "classes"
    answers = ("label", "probabilities")
    dtype = "int64"

    def faults(self, task: TaskSettings) -> list[str]:
        """Weights that are no positive numbers; labels that are not two different names."""
        faults, (least, most) = [], WEIGHTS
        given, labels = task.class_weights, task.labels
        weights = list(given.values()) if isinstance(given, Mapping) else []
        if given not in (None, "balanced") and not (
            weights and all(is_finite(weight) and least <= weight <= most for weight in weights)
        ):
            faults.append(
                f"class_weights is {shown(given)}, not balanced or a mapping of labels to numbers from "
                f"{least:g} to {most:,.0f}"
            )
        if labels is None:
            return faults
        if not isinstance(labels, tuple):
            faults.append(f"labels is {shown(labels)}, not a list of names")
        elif len(set(labels)) < len(labels) or len(labels) < 2:
            faults.append(f"labels has {listed(labels) or 'none'}; give two or more, each once")
        return faults

    def read(self, values: Sequence[Any], column: Column) -> list[Any]:
        """Names of classes (`label_name`)."""
        names = []
        for i, label in enumerate(values):
            try:
                names.append(label_name(label))
            except ValueError as error:
                raise DataError(f"{column.what}: {column.place(i)} has {error}") from None
        return names

    def check(self, task: TaskSettings, values: Sequence[Any]) -> None:
        """Refuse classes that are a scale or sentences, unless the task lists them."""
        if task.labels is None:
            _check_classes(task, [str(label) for label in values])

    def classes(self, task: TaskSettings, values: Sequence[Any]) -> tuple[str, ...]:
        """The labels of the task, or those of the train rows, sorted."""
        return task.labels or sort_labels({str(label) for label in values})

    def targets(
        self, values: Sequence[Any], labels: Sequence[str], column: Column, origin: str
    ) -> NDArray[Any]:
        """Class indices."""
        import numpy as np

        index = {name: i for i, name in enumerate(labels)}
        found = np.fromiter((index.get(name, -1) for name in values), np.int64, len(values))
        if found.min() < 0:
            i = int(found.argmin())
            raise DataError(
                f"{column.what}: {column.place(i)} has the label {shown(values[i])}; allowed ({origin}): "
                f"{listed(labels, 20)}"
            )
        return found.astype(np.float64)

    def fit(self, task: TaskSettings, labels: Sequence[str], targets: NDArray[Any]) -> dict[str, Any]:
        """The classes and what they weigh."""
        return {"labels": labels, "class_weights": class_weights(task, labels, targets)}

    def scale(self, targets: NDArray[Any]) -> tuple[float, float]:
        """Indices are learned as they are."""
        return 0.0, 1.0

    def guessed_loss(self, targets: NDArray[Any]) -> float:
        """The entropy of the classes, in nats."""
        import numpy as np

        shares = np.unique(targets, return_counts=True)[1] / len(targets)
        return float(-(shares * np.log(shares)).sum())

    def outputs(self, labels: Sequence[str]) -> int:
        """One per class."""
        return len(labels)

    def named(self, targets: NDArray[Any], labels: Sequence[str]) -> list[Any]:
        """Names of the classes."""
        return [labels[int(i)] for i in targets]

    def value(self, target: float, labels: Sequence[str]) -> str:
        """The class."""
        return f"the class {labels[int(target)]!r}"

    def notes(self, head: Head, targets: NDArray[Any]) -> list[str]:
        """Of classes that are uneven, or have few rows."""
        return uneven_notes(head, targets)

    def predicted(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """The class of the largest logit."""
        predicted: NDArray[Any] = outputs.argmax(axis=1)
        return predicted

    def expected(self, targets: NDArray[Any]) -> NDArray[Any]:
        """Class indices as whole numbers."""
        return targets.astype(self.dtype)

    def in_units(self, head: Head, values: NDArray[Any]) -> NDArray[Any]:
        """Indices as they are."""
        return values

    def says_little(self, head: Head, predicted: NDArray[Any], expected: NDArray[Any]) -> str | None:
        """Of rows of one class."""
        if expected.min() != expected.max():
            return None
        zero = "; matthews is then 0 whatever the model says" * (head.metric == "matthews")
        return (
            f"all {len(expected):,} rows of task {head.name!r} have the class "
            f"{head.labels[int(expected[0])]!r}{zero}"
        )

    def majority(self, head: Head, train: NDArray[Any], test: NDArray[Any]) -> float:
        """The most frequent class of the train rows."""
        import numpy as np

        from graftwork.kinds.scoring.metrics import score

        expected = test.astype(np.int64)
        guess = np.bincount(train.astype(np.int64)).argmax()
        return score(head.metric, np.full_like(expected, guess), expected)

    def figures(self, head: Head, predicted: NDArray[Any], expected: NDArray[Any]) -> dict[str, Any]:
        """`class_figures`."""
        from graftwork.kinds.scoring.figures import class_figures

        return class_figures(head.labels, predicted, expected)

    def answer(
        self, head: Head, outputs: Sequence[float], top: int | None, digits: int | None
    ) -> Mapping[str, Any]:
        """The likeliest class, and the probabilities of all or of the likeliest."""
        order: Sequence[int] = range(len(head.labels))
        probabilities = _softmax(outputs)
        best = max(order, key=outputs.__getitem__)
        if top is not None:
            order = sorted(order, key=lambda index: -outputs[index])[:top]
        if digits is not None:
            probabilities = [round(value, digits) for value in probabilities]
        return {
            "label": head.labels[best],
            "probabilities": {head.labels[index]: probabilities[index] for index in order},
        }

    def damaged(
        self, head: Head, targets: NDArray[Any], rows: NDArray[Any], draw: Callable[[int], int]
    ) -> NDArray[Any]:
        """Another class, each equally likely."""
        classes, changed = len(head.labels), targets.copy()
        for row in rows:
            changed[row] = (changed[row] + 1 + draw(row) % (classes - 1)) % classes
        return changed

    def probes(self, features: NDArray[Any], targets: NDArray[Any]) -> list[Any]:
        """Logistic regressions."""
        import warnings

        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        with warnings.catch_warnings():
            # A fit cut short is one more regularised candidate; validation judges it.
            warnings.simplefilter("ignore", ConvergenceWarning)
            models = [LogisticRegression(C=strength, max_iter=2000) for strength in STRENGTHS]
            return [model.fit(features, targets.astype("int64")) for model in models]


def _check_classes(task: TaskSettings, labels: Sequence[str]) -> None:
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
    elif varied and sum(map(_long, distinct)) >= 0.5 * len(distinct):
        raise DataError(
            f"{start}; they look like sentences, and a task chooses among classes: set kind: generation to "
            f"write texts, with a language model. Give the field of the class as label:; {end}"
        )
    elif len(distinct) > UNIQUE * len(labels):
        raise DataError(
            f"{start}, too many for classes that a row can be an example of; give the field of the class as "
            f"label:; {end}"
        )


def _long(name: str) -> bool:
    return len(name.split()) >= WORDS or len(name) >= LONG


def uneven_notes(head: Head, targets: NDArray[Any], *, weights: bool = True) -> list[str]:
    """A sentence if the classes of a task are uneven, or have few rows, with what to do about it.

    Args:
        head: the task.
        targets: of the train rows.
        weights: whether `class_weights` can be set.
    """
    counts = _counts(targets, len(head.labels))
    order = (-counts).argsort(kind="stable")
    most, least = order[0], order[-1]
    rows = f"task {head.name!r}: of the {counts.sum():,} train rows "
    notes = []
    hidden, unweighted = head.metric == "accuracy", weights and not head.class_weights
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


def class_weights(task: TaskSettings, labels: Sequence[str], targets: NDArray[Any]) -> tuple[float, ...]:
    r"""The weights of the classes in the training loss, in their order; empty without `class_weights`.

    .. math:: w_c = \frac{n}{C \, n_c}

    for `balanced`, with :math:`n_c` of the n train rows in class c and C the classes that have rows. Weights
    that are given are scaled alike: their mean over the train rows is 1, so that a task keeps its part of the
    loss.

    Raises:
        DataError: a weight is given for a class that the task does not have.
    """
    import numpy as np

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


def _counts(targets: NDArray[Any], classes: int) -> NDArray[Any]:
    import numpy as np

    return np.bincount(targets.astype(np.int64), minlength=classes)


def _softmax(logits: Sequence[float]) -> list[float]:
    largest = max(logits)
    powers = [math.exp(value - largest) for value in logits]
    total = sum(powers)
    return [power / total for power in powers]
