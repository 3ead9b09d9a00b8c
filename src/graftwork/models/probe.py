"""The linear probe: what a task reaches on the frozen backbone's vectors alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from graftwork.data.task_data import Split
from graftwork.kinds.heads import TaskHead
from graftwork.kinds.registry import KINDS
from graftwork.kinds.scoring.metrics import score
from graftwork.models.pooling import Embedder

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["fit_probe", "linear_probe"]


def linear_probe(head: TaskHead, train: Split, validation: Split, test: Split, embed_fn: Embedder) -> float:
    """Score a linear model on frozen embeddings: what the backbone knows without any fine-tuning.

    Logistic regression, or ridge for scores, on standardised features; a pair has the features
    `[u, v, |u - v|, u * v]`. The regularisation is chosen on validation, and test is scored once.

    Args:
        head: The task.
        train: Rows to fit.
        validation: Rows to choose the regularisation on.
        test: Rows to score.
        embed_fn: Texts to vectors, e.g. `functools.partial(embed, ...)`.

    Returns:
        The test score under the task's metric.
    """
    return fit_probe(head, train, validation, embed_fn)(test, embed_fn)


def fit_probe(
    head: TaskHead, train: Split, validation: Split, embed_fn: Embedder
) -> Callable[[Split, Embedder], float]:
    """Fit the model of `linear_probe`.

    Returns:
        A function that scores the rows of a split, embedded as its second argument says.
    """
    from sklearn.preprocessing import StandardScaler

    features = [_features(split.texts, embed_fn) for split in (train, validation)]
    scaler = StandardScaler().fit(features[0])
    fitted, chosen = (scaler.transform(block) for block in features)
    kind = KINDS[head.kind]
    models = kind.probes(fitted, train.targets)
    for model in models:
        kind.settle_probe_(model, chosen, validation.targets)
    # Of equals the first, that is the most regularised.
    best = max(models, key=lambda model: score(head.metric, model.predict(chosen), validation.targets))

    def test(split: Split, embed_fn: Embedder) -> float:
        tested = scaler.transform(_features(split.texts, embed_fn))
        return score(head.metric, best.predict(tested), split.targets)

    return test


def _features(texts: tuple[list[str], ...], embed_fn: Embedder) -> NDArray[np.float32]:
    vectors = embed_fn([text for column in texts for text in column])
    if len(texts) == 1:
        return vectors
    u, v = np.split(vectors, 2)
    return np.concatenate([u, v, np.abs(u - v), u * v], axis=1)
