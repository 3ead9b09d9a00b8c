"""The scores of tasks, each under its own metric and as its kind says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from graftwork.kinds.heads import TaskHead
from graftwork.kinds.registry import KINDS
from graftwork.kinds.scoring.metrics import score

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["figures_of", "majority_score", "of_task", "per_task_scores", "settled_heads"]


def per_task_scores(
    logits: ArrayLike, labels: ArrayLike, rows: ArrayLike, heads: Sequence[TaskHead]
) -> dict[str, float]:
    """Score the rows of several tasks, each under its own metric.

    Args:
        logits: Outputs, shape [N, C], C the largest head; padding beyond a head's size is ignored. If a task
            has targets per token, [N, 1 + positions, C] (`graftwork.kinds.linear_heads.TaskHeads`).
        labels: Class indices or standardised scores, shape [N]; or what `of_task` reads, [N, W].
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
        own, learned = of_task(head, outputs[mine], targets[mine])
        if np.isnan(own).any():
            scores[head.name] = float("nan")
            continue
        kind = KINDS[head.kind]
        scores[head.name] = score(kind.in_training or head.metric, *kind.scored(head, own, learned))
    return scores


def of_task(
    head: TaskHead, outputs: NDArray[Any], targets: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The outputs and learned targets of one task's rows, without what other tasks of a batch add.

    Args:
        head: the task.
        outputs: [N, C], or [N, 1 + positions, C]: the first is of the row, the others are of its tokens.
        targets: [N], or padded to the longest row of a batch, [N, W].

    Returns:
        Outputs [N, size] and targets as the kind has them: [N], [N, labels], or of tokens
        [N, positions, size] and [N, positions]; of texts that are compared [N, 1 + 2 d], the cosine and both
        vectors, and [N, 2].
    """
    per = KINDS[head.kind].per
    if per == "pair":
        flat = outputs.reshape(len(outputs), math.prod(outputs.shape[1:]))
        # No cosine and no part of a vector of length 1 is so low: that is padding.
        return flat[:, ~(flat < -2).any(axis=0)], targets[:, :2]
    if outputs.ndim == 3:
        outputs = outputs[:, 1:] if per == "token" else outputs[:, 0]
    if targets.ndim == 2:
        width = {"row": 0, "label": head.size, "token": outputs.shape[1]}[per]
        targets = targets[:, :width] if width else targets[:, 0]
    return outputs[..., : head.size], targets


def settled_heads(
    heads: Sequence[TaskHead], logits: ArrayLike, labels: ArrayLike, rows: ArrayLike
) -> tuple[TaskHead, ...]:
    """The heads with what kinds leave until the end of training, such as thresholds (`Kind.settled`).

    Args:
        heads: the tasks.
        logits: of validation rows, as for `per_task_scores`; the other two, too.
        labels: as there.
        rows: as there.
    """
    outputs, targets, owner = np.asarray(logits), np.asarray(labels), np.asarray(rows)
    found = []
    for index, head in enumerate(heads):
        mine = owner == index
        chosen = (
            KINDS[head.kind].settled(head, *of_task(head, outputs[mine], targets[mine])) if mine.any() else {}
        )
        found.append(replace(head, **chosen))
    return tuple(found)


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
