"""Figures of one task beyond its score: every class and what it is confused with, or errors in numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from graftwork.kinds.scoring.metrics import score

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["class_figures", "label_figures", "number_figures"]


def class_figures(labels: tuple[str, ...], predicted: NDArray[Any], expected: NDArray[Any]) -> dict[str, Any]:
    """Precision, recall and F1 of every class, and the confusion matrix; 0 where a figure is undefined.

    Args:
        labels: the classes, in the order of the head.
        predicted: class indices, shape [N].
        expected: class indices, shape [N].

    Returns:
        `classes`: per class `precision`, `recall`, `f1`, `support` (its rows) and `predicted` (rows given to
        it); `macro`: their plain mean over the classes that occur in rows or predictions, as `macro_f1` has
        it; `weighted`: their mean by support; `accuracy`; `confusion`: rows of class i taken for class j, at
        [i][j], in the order of `labels`.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    indices = list(range(len(labels)))
    expected, predicted = expected.astype(np.int64), predicted.astype(np.int64)
    matrix = confusion_matrix(expected, predicted, labels=indices)
    parts = precision_recall_fscore_support(expected, predicted, labels=indices, zero_division=0)[:3]
    support, given = matrix.sum(axis=1), matrix.sum(axis=0)
    occurs = support + given > 0
    names = ("precision", "recall", "f1")
    columns = dict(zip(names, (np.asarray(part, dtype=np.float64) for part in parts), strict=True))
    return {
        "classes": {
            label: {
                **{name: float(columns[name][i]) for name in names},
                "support": int(support[i]),
                "predicted": int(given[i]),
            }
            for i, label in enumerate(labels)
        },
        "macro": {name: float(columns[name][occurs].mean()) for name in names},
        "weighted": {name: float(np.average(columns[name], weights=support)) for name in names},
        "accuracy": float((predicted == expected).mean()),
        "confusion": {"labels": list(labels), "matrix": matrix.tolist()},
    }


def number_figures(predicted: NDArray[Any], expected: NDArray[Any]) -> dict[str, Any]:
    """Correlations, 0 of a constant, and errors in the unit of the scores: `mae` and `rmse`.

    Args:
        predicted: scores, shape [N].
        expected: scores, shape [N].
    """
    from sklearn.metrics import mean_absolute_error, mean_squared_error

    return {
        "pearson": score("pearson", predicted, expected),
        "spearman": score("spearman", predicted, expected),
        "mae": float(mean_absolute_error(expected, predicted)),
        "rmse": math.sqrt(float(mean_squared_error(expected, predicted))),
    }


def label_figures(
    labels: tuple[str, ...],
    predicted: NDArray[Any],
    expected: NDArray[Any],
    thresholds: tuple[float, ...] = (),
) -> dict[str, Any]:
    """Precision, recall and F1 of every label, and of all; 0 where a figure is undefined.

    Args:
        labels: in the order of the head.
        predicted: 0 and 1, shape [N, labels].
        expected: 0 and 1, shape [N, labels].
        thresholds: of the head, if it has any.

    Returns:
        `classes`: per label `precision`, `recall`, `f1`, `support` (its rows), `predicted` (rows given it)
        and perhaps its `threshold`; `macro`: their plain mean over the labels; `micro`: over all labels of
        all rows; `exact`: part of the rows whose set is right.
    """
    from sklearn.metrics import precision_recall_fscore_support

    names = ("precision", "recall", "f1")

    def figures(average: str | None) -> list[Any]:
        return list(
            precision_recall_fscore_support(expected, predicted, average=average, zero_division=0)[:3]
        )

    columns = figures(None)
    return {
        "classes": {
            label: {
                **{name: float(column[i]) for name, column in zip(names, columns, strict=True)},
                "support": int(expected[:, i].sum()),
                "predicted": int(predicted[:, i].sum()),
                **({"threshold": thresholds[i]} if thresholds else {}),
            }
            for i, label in enumerate(labels)
        },
        **{
            mean: {name: float(value) for name, value in zip(names, figures(mean), strict=True)}
            for mean in ("macro", "micro")
        },
        "exact": float((predicted == expected).all(axis=1).mean()),
    }
