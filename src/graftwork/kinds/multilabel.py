"""`multilabel`: a row has any number of labels, none included."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graftwork.errors import DataError
from graftwork.kinds.kind import Column, Head, Kind, Metric, TaskSettings
from graftwork.kinds.labels import label_name, sort_labels
from graftwork.messages import listed, shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Multilabel", "best_thresholds", "logit_thresholds"]

STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""Inverse regularisation C of the logistic regressions, one per label; the best on validation is used."""
NEAREST = 1e-6
"""Smallest distance of a threshold from 0 and 1: beyond it, probabilities of single precision run out."""
FEW = 5
"""Train rows below which a label can hardly be learned."""
UNIQUE = 0.9
"""Part of the train labels that may be different: of more, no row is an example of another."""
ENOUGH = 20
"""Labels from which their number says something."""


class Multilabel(Kind):
    """Targets are rows of 0 and 1, one per label; a head has one output per label, its logit."""

    name = "multilabel"
    metrics: tuple[Metric, ...] = ("micro_f1", "macro_f1")
    several = "sets of labels"
    answers = ("labels", "probabilities")
    dtype = "int64"
    per = "label"

    def faults(self, task: TaskSettings) -> list[str]:
        """Weights; labels that are not different names."""
        faults, labels = [], task.labels
        if task.class_weights is not None:
            faults.append("a multilabel task has no class_weights; its thresholds are chosen on validation")
        if labels is not None and not isinstance(labels, tuple):
            faults.append(f"labels is {shown(labels)}, not a list of names")
        elif labels is not None and (len(set(labels)) < len(labels) or len(labels) < 2):
            faults.append(f"labels has {listed(labels) or 'none'}; give two or more, each once")
        return faults

    def read(self, values: Sequence[Any], column: Column) -> list[Any]:
        """Names of the labels of every row, each once, in the order of the row."""
        return [_names(value, column, i) for i, value in enumerate(values)]

    def check(self, task: TaskSettings, values: Sequence[Any]) -> None:
        """Refuse labels that are nearly all different, unless the task lists them."""
        names = [name for row in values for name in row]
        distinct = dict.fromkeys(names)
        if task.labels is None and len(names) >= ENOUGH and len(distinct) > UNIQUE * len(names):
            raise DataError(
                f"train of task {task.name!r}: {len(distinct):,} of {len(names):,} labels in {task.label!r} "
                f"are different, such as {shown(next(iter(distinct)))}; give the field of the labels as "
                "label:, or their separator; if they are the labels all the same, list them as labels:"
            )

    def classes(self, task: TaskSettings, values: Sequence[Any]) -> tuple[str, ...]:
        """The labels of the task, or those of the train rows, sorted."""
        found = task.labels or sort_labels({name for row in values for name in row})
        if len(found) < 2:
            raise DataError(
                f"train of task {task.name!r}: the rows have {listed(found) or 'no label'} in "
                f"{task.label!r}; a multilabel task needs two labels or more (of one: kind: classification)"
            )
        return found

    def targets(
        self, values: Sequence[Any], labels: Sequence[str], column: Column, origin: str
    ) -> NDArray[Any]:
        """One row of 0 and 1 per row."""
        import numpy as np

        index = {name: i for i, name in enumerate(labels)}
        found = np.zeros((len(values), len(labels)))
        for i, names in enumerate(values):
            for name in names:
                if name not in index:
                    raise DataError(
                        f"{column.what}: {column.place(i)} has the label {shown(name)} in {column.field!r}; "
                        f"allowed ({origin}): {listed(labels, 20)}"
                    )
                found[i, index[name]] = 1
        return found

    def fit(self, task: TaskSettings, labels: Sequence[str], targets: NDArray[Any]) -> dict[str, Any]:
        """The labels."""
        return {"labels": labels}

    def scale(self, targets: NDArray[Any]) -> tuple[float, float]:
        """0 and 1 are learned as they are."""
        return 0.0, 1.0

    def guessed_loss(self, targets: NDArray[Any]) -> float:
        """Mean entropy of the labels, in nats."""
        import numpy as np

        share = targets.mean(axis=0)
        parts = [part[part > 0] * np.log(part[part > 0]) for part in (share, 1 - share)]
        return float(-sum(part.sum() for part in parts) / len(share))

    def outputs(self, labels: Sequence[str]) -> int:
        """One per label."""
        return len(labels)

    def named(self, targets: NDArray[Any], labels: Sequence[str]) -> list[Any]:
        """Lists of names."""
        return [[labels[int(i)] for i in row.nonzero()[0]] for row in targets]

    def value(self, target: Any, labels: Sequence[str]) -> str:
        """The set."""
        names = [name for name, has in zip(labels, target, strict=True) if has]
        return f"the labels {listed(names)}" if names else "no label"

    def notes(self, head: Head, targets: NDArray[Any]) -> list[str]:
        """Of labels that few rows have."""
        counts = targets.sum(axis=0).astype(int)
        rare = [f"{shown(head.labels[i])} {counts[i]}" for i in counts.argsort() if counts[i] < FEW]
        if not rare:
            return []
        which = "a label" if len(rare) == 1 else f"each of {len(rare)} labels"
        return [
            f"task {head.name!r}: of the {len(targets):,} train rows fewer than {FEW} have {which} "
            f"({listed(rare, 6)}); give more rows, for so few teach little."
        ]

    def predicted(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """The labels with a probability of a half or more."""
        found: NDArray[Any] = (outputs >= 0).astype(self.dtype)
        return found

    def expected(self, targets: NDArray[Any]) -> NDArray[Any]:
        """0 and 1 as whole numbers."""
        return targets.astype(self.dtype)

    def in_units(self, head: Head, values: NDArray[Any]) -> NDArray[Any]:
        """As they are."""
        return values

    def scored(
        self, head: Head, outputs: NDArray[Any], targets: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """The labels at or above their thresholds."""
        return (outputs >= logit_thresholds(head)).astype(self.dtype), self.expected(targets)

    def settled(self, head: Head, outputs: NDArray[Any], targets: NDArray[Any]) -> dict[str, Any]:
        """A threshold for every label, with the best F1."""
        return {"thresholds": best_thresholds(outputs, targets)}

    def order(self, targets: NDArray[Any]) -> NDArray[Any]:
        """The number of a row's set among all sets."""
        import numpy as np

        return np.unique(targets, axis=0, return_inverse=True)[1].reshape(-1)

    def keys(self, targets: NDArray[Any]) -> list[Any]:
        """The sets as texts."""
        return ["".join("1" if part else "0" for part in row) for row in targets]

    def says_little(self, head: Head, predicted: NDArray[Any], expected: NDArray[Any]) -> str | None:
        """Of rows without any label."""
        if expected.any():
            return None
        return f"none of the {len(expected):,} rows of task {head.name!r} has a label; F1 says nothing then"

    def majority(self, head: Head, train: NDArray[Any], test: NDArray[Any]) -> float:
        """The most frequent labels of the train rows, as many as score best on those."""
        import numpy as np

        from graftwork.kinds.scoring.metrics import score

        order = train.sum(axis=0).argsort(kind="stable")[::-1]
        guesses = [np.isin(np.arange(len(order)), order[:size]) for size in range(len(order) + 1)]

        def scored(guess: NDArray[Any], targets: NDArray[Any]) -> float:
            rows = np.broadcast_to(guess, targets.shape).astype(self.dtype)
            return score(head.metric, rows, self.expected(targets))

        best = max(guesses, key=lambda guess: scored(guess, train))
        return scored(best, test)

    def figures(self, head: Head, predicted: NDArray[Any], expected: NDArray[Any]) -> dict[str, Any]:
        """`label_figures`."""
        from graftwork.kinds.scoring.figures import label_figures

        return label_figures(head.labels, predicted, expected, head.thresholds)

    def answer(
        self, head: Head, outputs: Sequence[float], top: int | None, digits: int | None
    ) -> Mapping[str, Any]:
        """The labels at or above their thresholds, and the probabilities of all or of the likeliest."""
        order: Sequence[int] = range(len(head.labels))
        cuts = logit_thresholds(head)
        if top is not None:
            order = sorted(order, key=lambda index: -outputs[index])[:top]
        return {
            "labels": [name for name, z, cut in zip(head.labels, outputs, cuts, strict=True) if z >= cut],
            "probabilities": {head.labels[i]: _rounded(_sigmoid(outputs[i]), digits) for i in order},
        }

    def damaged(
        self, head: Head, targets: NDArray[Any], rows: NDArray[Any], draw: Callable[[int], int]
    ) -> NDArray[Any]:
        """One label of a row comes or goes, each equally likely."""
        changed = targets.copy()
        for row in rows:
            label = draw(row) % changed.shape[1]
            changed[row, label] = 1 - changed[row, label]
        return changed

    def probes(self, features: NDArray[Any], targets: NDArray[Any]) -> list[Any]:
        """Logistic regressions, one for every label."""
        return [_OnePerLabel(features, targets, strength) for strength in STRENGTHS]

    def settle_probe_(self, probe: Any, features: NDArray[Any], targets: NDArray[Any]) -> None:
        """Thresholds, as for a head."""
        probe.cuts = _as_logits(best_thresholds(probe.logits(features), targets))


class _OnePerLabel:
    """A logistic regression for every label that some rows have and some have not."""

    def __init__(self, features: NDArray[Any], targets: NDArray[Any], strength: float) -> None:
        import warnings

        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        with warnings.catch_warnings():
            # A fit cut short is one more regularised candidate; validation judges it.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.models = [
                LogisticRegression(C=strength, max_iter=1000).fit(features, column)
                if column.min() < column.max()
                else math.inf * (1 if column.min() else -1)
                for column in targets.T
            ]
        self.cuts: Sequence[float] = [0.0] * targets.shape[1]

    def logits(self, features: NDArray[Any]) -> NDArray[Any]:
        import numpy as np

        columns = [
            np.full(len(features), model) if isinstance(model, float) else model.decision_function(features)
            for model in self.models
        ]
        return np.stack(columns, axis=1)

    def predict(self, features: NDArray[Any]) -> NDArray[Any]:
        import numpy as np

        return (self.logits(features) >= np.asarray(self.cuts)).astype("int64")


def best_thresholds(logits: NDArray[Any], targets: NDArray[Any]) -> tuple[float, ...]:
    """The probability from which a row gets a label, by label, with the largest F1 on these rows.

    It lies midway between the two logits that it parts. Of equal ones that nearest to a half is taken, and a
    half for a label that no row has.

    Args:
        logits: shape [N, labels].
        targets: 0 and 1, the same shape.
    """
    return tuple(_best(column, has) for column, has in zip(logits.T, targets.T, strict=True))


def _best(logits: NDArray[Any], has: NDArray[Any]) -> float:
    import numpy as np

    if not has.any() or not np.isfinite(logits).all():
        return 0.5
    order = np.argsort(-logits, kind="stable")
    values, hits = logits[order].astype(np.float64), np.cumsum(has[order])
    taken = np.arange(1, len(values) + 1)
    f1 = 2 * hits / (taken + has.sum())
    # Equal logits are taken together.
    last = np.append(values[:-1] != values[1:], True)
    below = np.append(values[1:], values[-1] - 1.0)
    cuts, f1 = ((values + below) / 2)[last], f1[last]
    best = cuts[f1 >= f1.max() - 1e-12]
    nearest = float(best[np.abs(best).argmin()])
    return min(max(_sigmoid(nearest), NEAREST), 1 - NEAREST)


def logit_thresholds(head: Head) -> list[float]:
    """The thresholds of a head as logits, so that serving and scoring compare the same numbers."""
    return _as_logits(head.thresholds or (0.5,) * len(head.labels))


def _as_logits(thresholds: Sequence[float]) -> list[float]:
    return [math.log(part / (1 - part)) for part in thresholds]


def _sigmoid(logit: float) -> float:
    power = math.exp(-abs(logit))
    return (1 if logit >= 0 else power) / (1 + power)


def _rounded(value: float, digits: int | None) -> float:
    return value if digits is None else round(value, digits)


def _names(value: Any, column: Column, row: int) -> list[str]:
    where = f"{column.what}: {column.place(row)}: {column.field!r}"
    if isinstance(value, str) and column.separator is not None:
        value = [part for part in value.split(column.separator) if part.strip()]
    if not isinstance(value, list | tuple):
        hint = "; give their separator as separator:" if isinstance(value, str) else "; [] stands for none"
        raise DataError(f"{where} is {shown(value)}, not a list of labels{hint}")
    try:
        return list(dict.fromkeys(label_name(label) for label in value))
    except ValueError as error:
        raise DataError(f"{where} has {error}") from None
