"""Metrics: how predictions of a task are scored."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from graftwork.errors import ConfigError, DataError
from graftwork.kinds.scoring.tags import entity_score

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["score"]


def score(metric: str, predictions: ArrayLike, labels: ArrayLike) -> float:
    """Score predictions: class indices for classification metrics, numbers for correlations.

    Of several labels, predictions and labels are rows of 0 and 1, shape [N, labels], for `micro_f1` and
    `macro_f1`. Of tokens they are objects, the tags of each row's words. For `mrr` and `recall@K` predictions
    are the ranks of the right passages, from 1, and labels among how many each was ranked.

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


def _likelihood(losses: NDArray[Any], labels: NDArray[Any]) -> float:
    """The probability of a token of the right answer, as a geometric mean: of the mean loss of the rows."""
    return float(np.exp(-losses.astype(np.float64).mean()))


def _macro_f1(predictions: NDArray[Any], labels: NDArray[Any]) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, average="macro", zero_division=0))


def _micro_f1(predictions: NDArray[Any], labels: NDArray[Any]) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, average="micro", zero_division=0))


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


def _entity_f1(predictions: NDArray[Any], labels: NDArray[Any]) -> float:
    return entity_score(list(predictions), list(labels))


def _token_accuracy(predictions: NDArray[Any], labels: NDArray[Any]) -> float:
    pairs = [pair for row in zip(predictions, labels, strict=True) for pair in zip(*row, strict=True)]
    return sum(bool(told == true) for told, true in pairs) / max(1, len(pairs))


def _mrr(ranks: NDArray[Any], passages: NDArray[Any]) -> float:
    """The mean of 1 / rank."""
    return float((1.0 / ranks.astype(np.float64)).mean())


def _recall_at(most: int) -> Callable[[NDArray[Any], NDArray[Any]], float]:
    """The part of the queries whose passage is among the first `most`."""
    return lambda ranks, passages: float((ranks <= most).mean())


_SCORERS: dict[str, Callable[[NDArray[Any], NDArray[Any]], float]] = {
    "accuracy": _accuracy,
    "macro_f1": _macro_f1,
    "matthews": _matthews,
    "spearman": _spearman,
    "pearson": _pearson,
    "micro_f1": _micro_f1,
    "entity_f1": _entity_f1,
    "token_accuracy": _token_accuracy,
    "likelihood": _likelihood,
    "mrr": _mrr,
    "recall@1": _recall_at(1),
    "recall@10": _recall_at(10),
}
