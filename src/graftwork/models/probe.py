"""The linear probe: what a task reaches on the frozen backbone's vectors alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from graftwork.data.task_data import Split
from graftwork.kinds.heads import TaskHead

if TYPE_CHECKING:
    from numpy.typing import NDArray
from graftwork.kinds.scores import score
from graftwork.models.pooling import Embedder

__all__ = ["fit_probe", "linear_probe"]

STRENGTHS = (0.0001, 0.0003, 0.001, 0.01, 0.1, 1.0, 10.0)
"""Values of C, the inverse regularisation of logistic regression, that are tried on validation."""

ALPHAS = (1e5, 1e4, 1e3, 100.0, 10.0)
"""Values of the regularisation of ridge regression that are tried on validation: on 1,536 standardised
features of 1,500 pairs (STS-B) 1e4 is best and 10 useless."""


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
    models = _models(head, fitted, train.targets)
    # Of equals the first, that is the most regularised.
    best = max(models, key=lambda model: score(head.metric, model.predict(chosen), validation.targets))

    def test(split: Split, embed_fn: Embedder) -> float:
        tested = scaler.transform(_features(split.texts, embed_fn))
        return score(head.metric, best.predict(tested), split.targets)

    return test


def _models(head: TaskHead, features: NDArray[np.float32], targets: NDArray[np.float64]) -> list[Any]:
    """Fit one model per regularisation, the strongest first."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge

    if head.kind == "regression":
        return [Ridge(alpha=alpha).fit(features.astype(np.float64), targets) for alpha in ALPHAS]
    with warnings.catch_warnings():
        # A fit cut short is one more regularised candidate; validation judges it.
        warnings.simplefilter("ignore", ConvergenceWarning)
        models = [LogisticRegression(C=strength, max_iter=2000) for strength in STRENGTHS]
        return [model.fit(features, targets.astype(np.int64)) for model in models]


def _features(texts: tuple[list[str], ...], embed_fn: Embedder) -> NDArray[np.float32]:
    vectors = embed_fn([text for column in texts for text in column])
    if len(texts) == 1:
        return vectors
    u, v = np.split(vectors, 2)
    return np.concatenate([u, v, np.abs(u - v), u * v], axis=1)
