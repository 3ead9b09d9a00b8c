"""Score predictions, and the two yardsticks beside every result: majority class and linear probe."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from graftwork.data import Split, encode, pad
from graftwork.edges import forward_errors
from graftwork.errors import ConfigError, DataError
from graftwork.tasks import TaskHead

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "Pooling",
    "embed",
    "fit_probe",
    "linear_probe",
    "majority_score",
    "per_task_scores",
    "pool",
    "score",
]

Pooling = Literal["mean", "cls", "last"]
Embedder = Callable[[Sequence[str]], "NDArray[np.float32]"]

STRENGTHS = (0.0001, 0.0003, 0.001, 0.01, 0.1, 1.0, 10.0)
"""Inverse regularisation C of logistic regression; the best on validation is used."""
ALPHAS = (1e5, 1e4, 1e3, 100.0, 10.0)
"""Regularisation of ridge; on 1,536 standardised features of 1,500 pairs (STS-B) 1e4 is best, 10 useless."""


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


def pool(hidden: torch.Tensor, attention_mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Reduce hidden states [B, L, D] to one vector per row [B, D], whatever side the padding is on.

    `mean` is over the row's tokens, `cls` takes its first token, `last` its last.

    Raises:
        ConfigError: The pooling is unknown.
    """
    mask = attention_mask.to(hidden.dtype)
    if pooling == "mean":
        return (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
    if pooling not in ("cls", "last"):
        raise ConfigError(f"pooling is {pooling!r}; allowed: mean, cls, last")
    positions = torch.arange(mask.shape[1], device=mask.device)
    if pooling == "last":
        index = (attention_mask * positions).argmax(1)
    else:
        index = attention_mask.to(torch.int64).argmax(1)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), index]


def embed(
    backbone: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_length: int,
    batch_size: int = 64,
    pooling: Pooling = "mean",
) -> NDArray[np.float32]:
    """Embed texts with a frozen backbone; rows are sorted by length and padded per batch.

    Of an encoder-decoder the encoder is used. Equal texts are embedded once.

    Returns:
        Pooled last hidden states, shape [len(texts), D].
    """
    if not len(texts):
        raise DataError("there are no texts to embed")
    distinct = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    tokens = encode(tokenizer, [list(distinct)], max_length)
    order = np.argsort([-len(ids) for ids in tokens["input_ids"]], kind="stable")
    model = backbone.get_encoder() if backbone.config.is_encoder_decoder else backbone
    device = next(model.parameters()).device
    training = backbone.training
    backbone.train(False)
    parts = []
    try:
        with torch.inference_mode():
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                batch = pad(tokenizer, [{name: tokens[name][i] for name in tokens} for i in rows])
                batch = {name: value.to(device) for name, value in batch.items()}
                with forward_errors(batch):
                    hidden = model(**batch).last_hidden_state
                parts.append(pool(hidden, batch["attention_mask"], pooling).float().cpu().numpy())
    finally:
        backbone.train(training)
    pooled = np.concatenate(parts)
    result = np.empty_like(pooled)
    result[order] = pooled
    return result[[distinct[text] for text in texts]]


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
