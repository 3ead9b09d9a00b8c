"""Metrics: how predictions of a task are scored, and the score of its majority class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graftwork.errors import ConfigError, DataError
from graftwork.kinds.heads import TaskHead

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["majority_score", "per_task_scores", "score"]


def score(metric: str, predictions: ArrayLike, labels: ArrayLike) -> float:
    """Score predictions: class indices for classification metrics, numbers for correlations.

    Correlations of a constant are 0; of anything that is not finite, NaN.

    Raises:
        ConfigError: The metric is unknown.
        DataError: There is nothing to score, or the numbers of rows differ.
    """
    predicted, expected = np.asarray(predictions), np.asarray(labels)
    if predicted.shape != expected.shape or not predicted.size:
        raise DataError(f"{predicted.shape} predictions cannot be scored against {expected.shape} labels")
    scorer = _SCORERS.get(metric)
    if scorer is None:
        raise ConfigError(f"metric is {metric!r}; allowed: {', '.join(_SCORERS)}")
    return float(scorer(predicted, expected))


def _accuracy(predictions: NDArray[Any], labels: NDArray[Any]) -> float:
    return float((predictions == labels).mean())


def _macro_f1(predictions: NDArray[Any], labels: NDArray[Any]) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, average="macro", zero_division=0))


def _matthews(predictions: NDArray[Any], labels: NDArray[Any]) -> float:
    from sklearn.metrics import matthews_corrcoef

    if not np.ptp(labels) and not np.ptp(predictions):
        return 0.0  # what it gives, with a warning, for a single class
    return float(matthews_corrcoef(labels, predictions))


def _pearson(predictions: NDArray[Any], labels: NDArray[Any]) -> float:
    from scipy.stats import pearsonr

    return _correlation(pearsonr, predictions, labels)


def _spearman(predictions: NDArray[Any], labels: NDArray[Any]) -> float:
    from scipy.stats import spearmanr

    return _correlation(spearmanr, predictions, labels)


def _correlation(measure: Callable[..., Any], predictions: NDArray[Any], labels: NDArray[Any]) -> float:
    if not (np.isfinite(predictions).all() and np.isfinite(labels).all()):
        return float("nan")
    if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
        return 0.0
    return float(measure(predictions.astype(np.float64), labels.astype(np.float64)).statistic)


_SCORERS: dict[str, Callable[[NDArray[Any], NDArray[Any]], float]] = {
    "accuracy": _accuracy,
    "macro_f1": _macro_f1,
    "matthews": _matthews,
    "spearman": _spearman,
    "pearson": _pearson,
}
"""Metric -> its function of predictions and labels."""


def per_task_scores(
    logits: ArrayLike, labels: ArrayLike, rows: ArrayLike, heads: Sequence[TaskHead]
) -> dict[str, float]:
    """Score the rows of several tasks, each under its own metric.

    Args:
        logits: Outputs, shape [N, C], C the largest head; padding beyond a head's size is ignored.
        labels: Class indices or standardised scores, shape [N].
        rows: Index into `heads` for each row, shape [N].
        heads: The tasks.

    Returns:
        A score per task that has rows; NaN if an output is NaN, so that a diverged run is seen.
    """
    outputs, targets, owner = np.asarray(logits), np.asarray(labels), np.asarray(rows)
    scores = {}
    for index, head in enumerate(heads):
        mine = owner == index
        if not mine.any():
            continue
        own = outputs[mine, : head.size]
        if np.isnan(own).any():
            scores[head.name] = float("nan")
            continue
        predicted = own.argmax(axis=1) if head.labels else own[:, 0]
        expected = targets[mine].astype(np.int64) if head.labels else targets[mine]
        scores[head.name] = score(head.metric, predicted, expected)
    return scores


def majority_score(head: TaskHead, train_labels: ArrayLike, test_labels: ArrayLike) -> float:
    """Score the constant guess: the most frequent training class; for scores the mean, which is 0."""
    if head.kind == "regression":
        return 0.0
    expected = np.asarray(test_labels).astype(np.int64)
    guess = np.bincount(np.asarray(train_labels).astype(np.int64)).argmax()
    return score(head.metric, np.full_like(expected, guess), expected)
