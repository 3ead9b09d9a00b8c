"""The scores of tasks, each under its own metric and as its kind says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graftwork.kinds.heads import TaskHead
from graftwork.kinds.metrics import score
from graftwork.kinds.registry import KINDS

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["figures_of", "majority_score", "per_task_scores"]


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
        kind = KINDS[head.kind]
        scores[head.name] = score(
            kind.in_training or head.metric, kind.predicted(own), kind.expected(targets[mine])
        )
    return scores


def majority_score(head: TaskHead, train_labels: ArrayLike, test_labels: ArrayLike) -> float:
    """Score the constant guess: the most frequent training class; for scores the mean, which is 0."""
    return KINDS[head.kind].majority(head, np.asarray(train_labels), np.asarray(test_labels))


def figures_of(head: TaskHead, predicted: NDArray[Any], expected: NDArray[Any]) -> dict[str, Any]:
    """Figures beyond the score, as the kind of the task has them.

    Args:
        head: the task.
        predicted: class indices, or scores in their own unit, shape [N].
        expected: the same, shape [N].
    """
    return KINDS[head.kind].figures(head, predicted, expected)
